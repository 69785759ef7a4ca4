//! bookend: every run gets a beginning and an end.
//!
//! A **run** is a directory; it begins when the directory is locked and ends when `run.json` is created, which can
//! happen once. What should happen next is decided by one pure state machine ([`machine`]); what has to be done in
//! the world is done by one loop ([`engine`]). Every command is either a way to make a plan for that loop, or a way
//! to read the directories it leaves.
//!
//! # Modules in reading order
//!
//! Imports go downward only; `tests/it/layers.rs` holds that.
//!
//! 1. **Words** ([`model`]): ids, times, plans, ends, records. Values only.
//! 2. **Decisions**, pure: [`machine`] (event in, effects out), [`harness`] (how agents are called and what they say),
//!    [`query`] (which runs are meant), [`retention`] (which of them go), [`redact`] (what must not be kept) and [`view`]
//!    (records into words).
//! 3. **Hands**, the only modules that touch the world: [`clock`], [`disk`], [`ledger`] (memory that both bookends
//!    share), [`signals`], [`terminal`], [`process`] (spawn, wait, signal, pump), [`store`] (run directories),
//!    [`config`], [`guard`] (sealing, the two bookends' link, reconciling). `failpoint` lets tests make them fail.
//! 4. **The loop**: [`engine`] with its hands, its inbox, the front's vigil and the takeover. Beside it what looks after
//!    a whole store: [`sweep`] (removing runs) and [`doctor`] (what is wrong, and putting it right).
//! 5. **Fronts**: [`cli`], one file for each command.
//!
//! # A run's way through it
//!
//! ```text
//! argv -> cli::args (as typed) -> cli::plan (as meant) -> Plan -> engine::begin: RunDir, fork
//!   front:  engine::front  (signals, terminal, echo, exit code; takes over when the keeper dies)
//!   keeper: engine::run    Effect <- RunMachine <- Event ... until Seal(Ending) -> guard -> run.json
//! ```
//!
//! # Invariants, as absences
//!
//! - Nothing in layers 1 and 2 reads a clock, a file, the environment or randomness.
//! - Nobody but [`disk`] renames, links, flushes or locks, the sealer's spool file excepted.
//! - Nobody but [`guard`] has run.json created.
//! - Nobody but [`process`] starts, signals or waits for processes, the fork of the bookends excepted.
//! - Nobody but [`signals`] touches signal masks and dispositions, a starting command's own excepted.
//! - Nothing ends the process but `main`, the keeper once it has sealed, and a partner that was forked to watch
//!   (and, in test builds, a failpoint that is told to).
//! - No reader repairs a run whose lock is held. No signal goes to an id of 1 or less.
//! - There are no threads in `run`, and no timer but the two bookends' poll time-outs; the keeper's is
//!   [`machine::RunMachine::deadline`]. While nothing happens neither wakes.

pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod doctor;
pub mod engine;
pub mod failpoint;
pub mod guard;
pub mod harness;
pub mod ledger;
pub mod machine;
pub mod model;
pub mod process;
pub mod query;
pub mod redact;
pub mod retention;
pub mod signals;
pub mod store;
pub mod sweep;
pub mod terminal;
pub mod view;
