//! `bookend kill`.

use std::io;

use clap::Args;

use super::error::{FAILED, Failure};
use super::pick;
use super::{Done, say};
use crate::clock;
use crate::disk::{self, Access};
use crate::guard::reconcile::{self, Reading};
use crate::model::id::RunId;
use crate::model::record::{Actor, EndedBy, Record, SCHEMA};
use crate::process::identity::{self, Place};
use crate::process::tree;
use crate::store::Store;
use crate::store::run_dir::INTENT;
use crate::view::words;

/// Arguments of `kill`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bookend kill --reason 'wrong branch' latest
  bookend kill --force 4k7")]
pub struct KillArgs {
    /// The run
    pub run: String,
    /// Why; it goes into the record
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Kill at once, without a grace period
    #[arg(long)]
    pub force: bool,
}

/// Stops a run: the intent first, so that who and why are in its record, then the signal.
///
/// # Errors
/// No such run, or one that can not be reached from here.
pub fn run(args: &KillArgs) -> Result<Done, Failure> {
    let (store, id) = pick::one(&args.run)?;
    match pick::read(&store, &id)? {
        Reading::Final(record) => {
            say(&format!("run {id} is over already: {}", words::end(&record)));
            Ok(Done::with(0))
        }
        Reading::Living(record) => {
            leave_intent(&store, &id, args).map_err(|e| {
                Failure::new(
                    FAILED,
                    format!("noting who stops run {id}, and why: {e}"),
                    "check the store's disk",
                )
            })?;
            signal_owner(&store, &record, &id)
        }
        Reading::Orphaned(..) => {
            reconcile::kill_orphan(&store, &id, by(args), args.force)?;
            say(&format!("run {id} had lost its bookends; what was left of it is ended"));
            Ok(Done::with(0))
        }
        Reading::Unclear(_, why) => {
            Err(Failure::new(FAILED, format!("stopping run {id}: {why}"), format!("bookend show {id}")))
        }
    }
}

fn by(args: &KillArgs) -> EndedBy {
    let parent = nix::unistd::getppid().as_raw();
    EndedBy {
        actor: Actor::User,
        signal: None,
        pid: Some(parent),
        uid: Some(nix::unistd::getuid().as_raw()),
        user: identity::login_name(),
        command: identity::command_name(parent),
        reason: args.reason.clone(),
    }
}

/// Writes who wants the run to stop where its keeper will look. A second wish forces the end.
fn leave_intent(store: &Store, id: &RunId, args: &KillArgs) -> io::Result<()> {
    let dir = store.open_run(id)?;
    let again = disk::open_at(&dir, INTENT).is_ok();
    let intent = serde_json::json!({
        "schema": SCHEMA, "at": clock::now(), "by": by(args), "force": args.force || again
    });
    let name = format!(".{INTENT}.{}", identity::own_pid());
    let file = disk::create_at(&dir, &name, Access::Write)?;
    disk::write_all_at(&file, intent.to_string().as_bytes(), 0)?;
    disk::replace_at(&dir, &name, &dir, INTENT)
}

/// Signals the keeper, or the front where the keeper is gone; nobody else, whoever has their ids by now.
fn signal_owner(store: &Store, record: &Record, id: &RunId) -> Result<Done, Failure> {
    let (owner, here) = (&record.owner, Place::here());
    if (&owner.boot_id, owner.pid_namespace) != (&here.boot_id, here.pid_namespace) {
        return Err(Failure::new(
            FAILED,
            format!("stopping run {id}: it runs on {} in another pid namespace or boot", record.host),
            "run bookend kill where it runs",
        ));
    }
    let bookends = reconcile::bookends(store, id, record)?;
    let signalled = bookends.iter().any(|bookend| tree::signal(bookend, libc::SIGTERM));
    if !signalled {
        return Err(Failure::new(
            FAILED,
            format!("stopping run {id}: neither of its bookends could be signalled"),
            format!("bookend show {} says whether it is over", id.short()),
        ));
    }
    say(&format!("stopping run {id}; bookend wait {} waits for its end", id.short()));
    Ok(Done::with(0))
}
