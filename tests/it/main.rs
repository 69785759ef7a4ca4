//! The one integration binary: the program as people and scripts meet it, with real processes, signals and disks.

mod bad_input;
mod capture;
mod detach;
mod disk_full;
mod escape;
mod exit_codes;
mod exit_paths;
mod expect;
mod fault_sweep;
mod golden;
mod hostile;
mod kill_sweep;
mod layers;
mod listing;
mod logs;
mod machine_traces;
mod pty;
mod random;
mod random_kills;
mod reader_sweep;
mod readers;
mod readme;
mod signals_grid;
mod tripwire;
mod views;
mod world;
