//! Whole directories: what they hold, what they take up, and removing them. Everything goes through directory handles,
//! no link is followed and no mount is entered, so nothing outside of a directory is ever touched.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::UnlinkatFlags;

use super::retry;

/// Directories within directories that are counted; what lies deeper is removed all the same.
const DEEPEST_COUNTED: usize = 64;
/// Bytes of the blocks in which the kernel counts what a file takes up.
const BLOCK_BYTES: u64 = 512;

/// What a name in a directory stands for, a link for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What kind of thing it is.
    pub kind: SFlag,
    /// Its file system and number there.
    pub place: (u64, u64),
    /// The user it belongs to.
    pub uid: u32,
    /// Permission bits.
    pub mode: u32,
    /// How many names it has.
    pub names: u64,
    /// Size in bytes.
    pub size: u64,
    /// Bytes it takes up on the disk.
    pub occupied: u64,
    /// When its content changed last, in milliseconds of Unix time.
    pub changed_ms: i64,
}

impl Entry {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == SFlag::S_IFDIR
    }

    /// Whether anybody but its owner may do anything with it.
    #[must_use]
    pub fn is_open_to_others(&self) -> bool {
        const OTHERS: u32 = 0o077;
        self.mode & OTHERS != 0
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind == SFlag::S_IFREG
    }
}

fn entry(stat: &FileStat) -> Entry {
    Entry {
        kind: SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()),
        place: (stat.st_dev, stat.st_ino),
        uid: stat.st_uid,
        mode: stat.st_mode & 0o7777,
        names: wide(stat.st_nlink),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        occupied: u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES,
        changed_ms: stat.st_mtime.saturating_mul(1000),
    }
}

/// The kernel counts names in types of its own on each kind of machine.
fn wide(number: impl Into<u64>) -> u64 {
    number.into()
}

/// Looks at what a name stands for.
///
/// # Errors
/// As fstatat(2).
pub fn look_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<Entry> {
    let stat = retry(|| nix::sys::stat::fstatat(dir.as_fd(), name.as_ref(), AtFlags::AT_SYMLINK_NOFOLLOW))?;
    Ok(entry(&stat))
}

/// Looks at what is open.
///
/// # Errors
/// As fstat(2).
pub fn look(handle: impl AsFd) -> io::Result<Entry> {
    Ok(entry(&retry(|| nix::sys::stat::fstat(handle.as_fd()))?))
}

/// All names in a directory, whatever bytes they are made of, without `.` and `..`, in no order.
///
/// # Errors
/// As getdents(2).
pub fn names(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut listing = nix::dir::Dir::from_fd(super::open_dir_at(dir, ".")?)?;
    let mut found = Vec::new();
    for name in listing.iter() {
        let name = name?;
        let bytes = name.file_name().to_bytes();
        if bytes != b"." && bytes != b".." {
            found.push(OsStr::from_bytes(bytes).to_owned());
        }
    }
    Ok(found)
}

/// Opens a directory inside another, following no link and entering no mount.
///
/// # Errors
/// `EXDEV` for a mount, `ELOOP` or `ENOTDIR` for what is no directory; else as openat2(2).
pub fn enter_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<OwnedFd> {
    open_beneath(&dir, name.as_ref(), OFlag::O_RDONLY)
}

/// The same, where the kernel itself can tell a mount.
///
/// # Errors
/// As openat2(2).
pub(super) fn enter_strictly(dir: &impl AsFd, name: impl AsRef<OsStr>) -> io::Result<OwnedFd> {
    resolve(dir, name.as_ref(), flags(OFlag::O_RDONLY))
}

fn flags(access: OFlag) -> OFlag {
    access | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW
}

fn resolve(dir: &impl AsFd, name: &OsStr, flags: OFlag) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    retry(|| nix::fcntl::openat2(dir.as_fd(), name, how))
}

fn open_beneath(dir: &impl AsFd, name: &OsStr, access: OFlag) -> io::Result<OwnedFd> {
    let flags = flags(access);
    match resolve(dir, name, flags) {
        // A kernel without openat2, or one that is kept from us.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            let opened = retry(|| nix::fcntl::openat(dir.as_fd(), name, flags, Mode::empty()))?;
            let same = look(&opened)?.place.0 == look(dir)?.place.0;
            if same { Ok(opened) } else { Err(io::Error::from(Errno::EXDEV)) }
        }
        other => other,
    }
}

/// Gives what is open other permission bits; for a handle that was opened for its path alone too.
///
/// # Errors
/// As chmod(2).
pub fn set_mode(handle: impl AsFd, mode: u32) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
    let mode = Mode::from_bits_truncate(mode);
    retry(|| nix::sys::stat::fchmod(handle.as_fd(), mode)).or_else(|_| {
        let follow = nix::sys::stat::FchmodatFlags::FollowSymlink;
        retry(|| nix::sys::stat::fchmodat(nix::fcntl::AT_FDCWD, path.as_str(), mode, follow))
    })
}

/// Bytes that removing a directory gives back: what it takes up, without files that have other names elsewhere.
#[must_use]
pub fn occupied(dir: impl AsFd) -> u64 {
    let mut shared = HashMap::new();
    let own = look(&dir).map_or(0, |found| found.occupied);
    own + count(&dir, &mut shared, DEEPEST_COUNTED)
        + shared.values().filter(|(left, _)| *left == 0).map(|(_, bytes)| bytes).sum::<u64>()
}

/// Adds up what is in a directory; files with several names are noted with how many of them were not seen yet.
fn count(dir: &impl AsFd, shared: &mut HashMap<(u64, u64), (u64, u64)>, deeper: usize) -> u64 {
    let mut sum = 0;
    for name in names(dir).unwrap_or_default() {
        let Ok(found) = look_at(dir, &name) else { continue };
        if found.is_dir() {
            let inside = (deeper > 0).then(|| enter_at(dir, &name).ok()).flatten();
            sum += inside.map_or(0, |inside| found.occupied + count(&inside, shared, deeper - 1));
        } else if found.names > 1 {
            shared.entry(found.place).or_insert((found.names, found.occupied)).0 -= 1;
        } else {
            sum += found.occupied;
        }
    }
    sum
}

/// Removes a directory with all that is in it. What can not be removed (a mount, what belongs to somebody else) stays,
/// and so does the way to it; everything else goes.
///
/// However deep it is, two handles do: directories inside are first moved up to its top.
///
/// # Errors
/// The first thing that stayed, and why. `NotFound` when there is no such directory.
pub fn remove_at(parent: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<()> {
    let name = name.as_ref();
    let top = enter_own_at(&parent, name)?;
    let (mut stayed, mut first, mut lifted) = (HashSet::new(), None, 0);
    loop {
        let mut left = names(&top)?;
        left.retain(|name| !stayed.contains(name));
        if left.is_empty() {
            break;
        }
        for name in left {
            if let Err(e) = remove_part(&top, &name, &mut lifted) {
                first.get_or_insert(e);
                stayed.insert(name);
            }
        }
    }
    match first {
        Some(why) => Err(why),
        None => remove_empty_at(&parent, name),
    }
}

/// Removes one thing at the top; the directories in it are moved up and are not removed yet.
fn remove_part(top: &OwnedFd, name: &OsStr, lifted: &mut u64) -> io::Result<()> {
    if unlink(top, name)? {
        return Ok(());
    }
    let dir = match enter_own_at(top, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut first = None;
    for inner in names(&dir)? {
        let done = match unlink(&dir, &inner) {
            Ok(false) => lift(&dir, &inner, top, lifted),
            other => other.map(drop),
        };
        if let Err(e) = done {
            first.get_or_insert(e);
        }
    }
    first.map_or_else(|| remove_empty_at(top, name), Err)
}

/// Removes a name unless it is a directory's; false for that.
fn unlink(dir: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    match retry(|| nix::unistd::unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EISDIR) => Ok(false),
        Err(e) if e.raw_os_error() == Some(libc::EPERM) && look_at(dir, name)?.is_dir() => Ok(false),
        Err(e) => Err(e),
        Ok(()) => Ok(true),
    }
}

/// Moves a directory to the top, under a name that is free. A mount can not be moved.
fn lift(from: &OwnedFd, name: &OsStr, top: &OwnedFd, lifted: &mut u64) -> io::Result<()> {
    // To move a directory is to write to it: its way up changes.
    match enter_own_at(from, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => drop(other?),
    }
    loop {
        *lifted += 1;
        let to = format!(".up-{lifted}");
        if look_at(top, &to).is_ok() {
            continue;
        }
        match retry(|| nix::fcntl::renameat(from, name, top, to.as_str())) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {}
            other => return other,
        }
    }
}

/// Opens a directory and, where it is ours, makes sure that it can be read and changed.
fn enter_own_at(dir: &impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let own = nix::unistd::geteuid().as_raw();
    let open_up = |handle: &OwnedFd| -> io::Result<()> {
        let found = look(handle)?;
        if found.uid == own && found.mode & 0o700 != 0o700 {
            set_mode(handle, 0o700)?;
        }
        Ok(())
    };
    match open_beneath(dir, name, OFlag::O_RDONLY) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(&open_beneath(dir, name, OFlag::O_PATH)?)?;
            open_beneath(dir, name, OFlag::O_RDONLY)
        }
        Err(e) => Err(e),
        Ok(opened) => {
            let _ = open_up(&opened);
            Ok(opened)
        }
    }
}

fn remove_empty_at(dir: &impl AsFd, name: &OsStr) -> io::Result<()> {
    match retry(|| nix::unistd::unlinkat(dir.as_fd(), name, UnlinkatFlags::RemoveDir)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
