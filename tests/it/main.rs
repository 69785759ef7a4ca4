//! The one integration binary: the program as people and scripts meet it, with real processes, signals and disks.

mod capture;
mod escape;
mod pty;
mod readers;
mod world;

mod detach;
mod disk_full;
mod fault_sweep;
mod kill_sweep;
mod random_kills;
mod tripwire;
