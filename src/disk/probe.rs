//! What the kernel and a file system can do, asked without changing anything.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;

use super::{retry, tree};

/// File systems whose disk is on another machine, by the number that the kernel gives them.
const NETWORKS: [(i64, &str); 11] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
];

/// The name of the network file system that a directory is on; none for a local one.
#[must_use]
pub fn network_file_system(dir: impl AsFd) -> Option<&'static str> {
    let found = retry(|| nix::sys::statfs::fstatfs(dir.as_fd())).ok()?;
    // The type of the number differs between C libraries; its lower half does not.
    let number = found.filesystem_type().0 as i64 & 0xffff_ffff;
    NETWORKS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

/// Whether the kernel can rename without replacing.
#[must_use]
pub fn can_rename_new() -> bool {
    let Ok(root) = super::open_dir(std::path::Path::new("/")) else { return false };
    let name = "/nowhere/at/all";
    matches!(super::rename_noreplace(root.as_fd(), name, root.as_fd(), name), Err(Errno::ENOENT))
}

/// Whether the kernel can open a path without leaving a mount.
#[must_use]
pub fn can_open_beneath() -> bool {
    let Ok(root) = super::open_dir(std::path::Path::new("/")) else { return false };
    let refused = tree::enter_strictly(&root, "proc").err().and_then(|e: io::Error| e.raw_os_error());
    !matches!(refused, Some(libc::ENOSYS | libc::EPERM))
}

/// Whether signals can be read from a descriptor.
#[must_use]
pub fn can_read_signals() -> bool {
    let none = nix::sys::signal::SigSet::empty();
    nix::sys::signalfd::SignalFd::with_flags(&none, nix::sys::signalfd::SfdFlags::SFD_CLOEXEC).is_ok()
}

/// Whether a process can be given the orphans of its descendants.
#[must_use]
pub fn can_be_subreaper() -> bool {
    nix::sys::prctl::get_child_subreaper().is_ok()
}
