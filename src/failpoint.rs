//! Places where a test can make bookend fail or wait. Compiled to nothing in release builds.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process is a front that does the keeper's work: its sites have names of their own then.
#[cfg(debug_assertions)]
static TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// Acts on what `BOOKEND_FAILPOINT` says for a site, e.g. `keeper.sealing=panic`.
#[cfg(not(debug_assertions))]
#[inline]
pub fn hit(_site: &str) {}

/// Says that this process takes over: from now on it hits `front.sealing` and not `keeper.sealing`.
#[cfg(not(debug_assertions))]
#[inline]
pub fn taken_over() {}

/// Says that this process takes over: from now on it hits `front.sealing` and not `keeper.sealing`.
#[cfg(debug_assertions)]
pub fn taken_over() {
    TAKEN_OVER.store(true, Ordering::Relaxed);
}

/// Acts on what `BOOKEND_FAILPOINT` says for a site, e.g. `keeper.sealing=panic`.
///
/// # Panics
/// When told to.
#[cfg(debug_assertions)]
pub fn hit(site: &str) {
    let Some(plan) = std::env::var_os("BOOKEND_FAILPOINT") else { return };
    let plan = plan.to_string_lossy().into_owned();
    let renamed = site.strip_prefix("keeper.").map(|rest| format!("front.{rest}"));
    let site = renamed.as_deref().filter(|_| TAKEN_OVER.load(Ordering::Relaxed)).unwrap_or(site);
    let action = plan.split(',').filter_map(|entry| entry.split_once('=')).find(|(at, _)| *at == site);
    match action.map(|(_, action)| action) {
        Some("panic") => panic!("failpoint {site}"),
        Some("abort") => std::process::abort(),
        Some("overflow") => {
            std::hint::black_box(overflow(1));
        }
        #[expect(clippy::exit, reason = "a test wants this process to end without a word")]
        Some("exit") => std::process::exit(77),
        Some("pause") => pause(site),
        _ => {}
    }
}

#[cfg(debug_assertions)]
#[expect(unconditional_recursion, reason = "a test wants the stack to run out")]
fn overflow(n: u64) -> u64 {
    let frame = std::hint::black_box([n; 512]);
    overflow(frame[7] + 1) + frame[11]
}

/// Says that the site was reached and waits to be let go, at most half a minute.
#[cfg(debug_assertions)]
fn pause(site: &str) {
    let Some(dir) = std::env::var_os("BOOKEND_FAILPOINT_DIR") else { return };
    let dir = std::path::PathBuf::from(dir);
    let _ = std::fs::write(dir.join(format!("{site}.reached")), std::process::id().to_string());
    for _ in 0..3000 {
        if dir.join(format!("{site}.go")).exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
