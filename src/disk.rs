//! The disk: the only module that renames, links, flushes and locks. Everything goes through directory handles,
//! follows no link, is closed on exec, and starts again when a signal interrupts it.
//!
//! Every name is one component, so that `O_NOFOLLOW` alone keeps a call in its directory: what openat2(2) with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` would add, on every kernel and for no further call.

pub mod probe;
pub mod tree;

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::UnlinkatFlags;

/// Mode of every file bookend makes.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o600);
/// Mode of every directory bookend makes.
const DIR_MODE: Mode = Mode::from_bits_truncate(0o700);
/// Interrupted calls are begun again this often.
const RETRIES: u32 = 64;
/// Records and other small files are read up to this size. The kernel takes at most 6 MiB of arguments; six bytes for
/// each of them where it is escaped, and all of it once more in base64, are 44 MiB.
pub const READ_LIMIT: u64 = 64 << 20;

/// Begins a call again while it is interrupted.
///
/// # Errors
/// The call's own error; `EINTR` after 64 interruptions.
pub fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    for _ in 0..RETRIES {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
    Err(io::Error::from(Errno::EINTR))
}

/// Reads the beginning of a file, such as the kernel makes in /proc, with one read.
///
/// # Errors
/// As openat(2) and read(2).
pub fn read_start(path: &str, buffer: &mut [u8]) -> io::Result<usize> {
    let file = open_path(Path::new(path), OFlag::O_RDONLY)?;
    retry(|| nix::unistd::read(&file, buffer))
}

fn open_path(path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    retry(|| nix::fcntl::openat(nix::fcntl::AT_FDCWD, path, flags | OFlag::O_CLOEXEC, Mode::empty()))
}

/// Opens a regular file by path, following links; anything else (a FIFO) is refused and can not make the caller wait.
///
/// # Errors
/// As openat(2); `InvalidData` for what is no regular file.
pub fn open_file(path: &Path) -> io::Result<File> {
    regular(open_path(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?)
}

/// Opens the null device for reading.
///
/// # Errors
/// As openat(2).
pub fn open_null() -> io::Result<OwnedFd> {
    open_path(Path::new("/dev/null"), OFlag::O_RDONLY)
}

/// Opens a directory by path, following links as whoever names it would; whose it is must be asked afterwards.
///
/// # Errors
/// As openat(2).
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    open_path(path, OFlag::O_DIRECTORY | OFlag::O_RDONLY)
}

/// Whether a name stands for something in a directory itself and nowhere else.
fn is_one_component(name: &str) -> bool {
    !name.contains('/') && name != ".."
}

/// Opens a directory inside another, following no link.
///
/// # Errors
/// As openat(2).
pub fn open_dir_at(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    debug_assert!(is_one_component(name), "{name}");
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    retry(|| nix::fcntl::openat(dir.as_fd(), name, flags, Mode::empty()))
}

/// Makes a directory that only its owner may enter.
///
/// # Errors
/// As mkdirat(2).
pub fn make_dir_at(dir: impl AsFd, name: &str) -> io::Result<()> {
    debug_assert!(is_one_component(name), "{name}");
    retry(|| nix::sys::stat::mkdirat(dir.as_fd(), name, DIR_MODE))
}

/// How a new file will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Written from its beginning, by handle position.
    Write,
    /// Every write goes to the end.
    Append,
}

/// Creates a file that must not exist yet, open for reading and writing.
///
/// # Errors
/// As openat(2).
pub fn create_at(dir: impl AsFd, name: &str, access: Access) -> io::Result<File> {
    let append = if access == Access::Append { OFlag::O_APPEND } else { OFlag::empty() };
    debug_assert!(is_one_component(name), "{name}");
    let flags =
        OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | append;
    retry(|| nix::fcntl::openat(dir.as_fd(), name, flags, FILE_MODE)).map(File::from)
}

/// Opens a file for appending, creating it when it is absent.
///
/// # Errors
/// As openat(2); `InvalidData` for what is no regular file, or has a second name, which may be anybody's.
pub fn append_at(dir: impl AsFd, name: &str) -> io::Result<File> {
    open_for_writing(dir, name, OFlag::O_WRONLY | OFlag::O_APPEND)
}

/// Adds a line, which ends with its newline, to a file that several may add to, in one write. What was cut short before
/// it, by a full disk, does not take it along: a newline goes between.
///
/// # Errors
/// As [`append_at`] and write(2); `StorageFull` when not all of it was written.
pub fn append_line_at(dir: impl AsFd, name: &str, line: &[u8]) -> io::Result<()> {
    let mut file = open_for_writing(dir, name, OFlag::O_RDWR | OFlag::O_APPEND)?;
    let is_torn_at = |file: &File, end: u64| -> io::Result<bool> {
        let mut last = [b'\n'];
        Ok(end > 0 && file.read_at(&mut last, end - 1)? == 1 && last != [b'\n'])
    };
    let add = |file: &mut File, bytes: &[u8]| match file.write(bytes)? {
        n if n == bytes.len() => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::StorageFull)),
    };
    let apart = [b"\n", line].concat();
    if is_torn_at(&file, file.metadata()?.len())? {
        return add(&mut file, &apart);
    }
    add(&mut file, line)?;
    // Somebody else's may have been cut short in between; then ours is part of a line that nobody can read.
    let begun = file.stream_position()? - line.len() as u64;
    if is_torn_at(&file, begun)? { add(&mut file, &apart) } else { Ok(()) }
}

/// Opens a file for writing from its beginning, creating it when it is absent and keeping what is in it.
///
/// # Errors
/// As [`append_at`].
pub fn open_own_at(dir: impl AsFd, name: &str) -> io::Result<File> {
    open_for_writing(dir, name, OFlag::O_RDWR)
}

fn open_for_writing(dir: impl AsFd, name: &str, how: OFlag) -> io::Result<File> {
    debug_assert!(is_one_component(name), "{name}");
    let flags = how | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = retry(|| nix::fcntl::openat(dir.as_fd(), name, flags | OFlag::O_NOCTTY, FILE_MODE));
    let file = file.map(File::from)?;
    let found = file.metadata()?;
    match (found.is_file(), found.nlink()) {
        (false, _) => Err(invalid("not a regular file")),
        (true, 0 | 1) => Ok(file),
        (true, _) => Err(invalid("it is a second name of another file")),
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Opens a regular file for reading; anything else (a FIFO, a link) is refused and can not make the caller wait.
///
/// # Errors
/// As openat(2); `InvalidData` for what is no regular file.
pub fn open_at(dir: impl AsFd, name: &str) -> io::Result<File> {
    debug_assert!(is_one_component(name), "{name}");
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    regular(retry(|| nix::fcntl::openat(dir.as_fd(), name, flags, Mode::empty()))?)
}

fn regular(opened: OwnedFd) -> io::Result<File> {
    let file = File::from(opened);
    if file.metadata()?.is_file() { Ok(file) } else { Err(invalid("not a regular file")) }
}

/// Reads a small regular file whole.
///
/// # Errors
/// As [`open_at`]; `InvalidData` when it is larger than [`READ_LIMIT`].
pub fn read_at(dir: impl AsFd, name: &str) -> io::Result<Vec<u8>> {
    read_whole(&open_at(dir, name)?)
}

/// Reads a small open file whole.
///
/// # Errors
/// As pread(2); `InvalidData` when it is larger than [`READ_LIMIT`].
pub fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    if size > READ_LIMIT {
        return Err(invalid(&format!("larger than {READ_LIMIT} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Writes all bytes at an offset.
///
/// # Errors
/// As pwrite(2); a file system that is full is an error, not a short write.
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Sets aside disk space for `bytes` at the beginning of a file, so that writing there can not fail for want of it.
///
/// # Errors
/// As fallocate(2); file systems that can not do it report `Unsupported`.
pub fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let length = i64::try_from(bytes).unwrap_or(i64::MAX);
    match retry(|| nix::fcntl::fallocate(file, FallocateFlags::empty(), 0, length)) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            file.write_all_at(&vec![0; usize::try_from(bytes).unwrap_or(0)], 0)
        }
        other => other,
    }
}

/// Sets aside disk space for `bytes` at the beginning of a file that stays as long as it is, where the file system can.
///
/// # Errors
/// As fallocate(2).
pub fn reserve_ahead(file: &File, bytes: u64) -> io::Result<()> {
    let length = i64::try_from(bytes).unwrap_or(i64::MAX);
    retry(|| nix::fcntl::fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length))
}

/// Gives a stretch of a file back to the file system; it reads as zeros from then on.
///
/// # Errors
/// As fallocate(2).
pub fn punch_hole(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let (offset, bytes) = (i64::try_from(offset).unwrap_or(i64::MAX), i64::try_from(bytes).unwrap_or(0));
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    retry(|| nix::fcntl::fallocate(file, flags, offset, bytes))
}

/// Where the next byte of a file lies that is not in a hole; its end where only a hole follows, and the given offset
/// where the file system knows no holes.
#[must_use]
pub fn next_data(file: &File, offset: u64) -> u64 {
    let from = i64::try_from(offset).unwrap_or(i64::MAX);
    match retry(|| nix::unistd::lseek(file, from, nix::unistd::Whence::SeekData)) {
        Ok(at) => u64::try_from(at).unwrap_or(offset),
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => {
            file.metadata().map_or(offset, |found| found.len().max(offset))
        }
        Err(_) => offset,
    }
}

/// Cuts a file to `bytes`.
///
/// # Errors
/// As ftruncate(2).
pub fn set_len(file: &File, bytes: u64) -> io::Result<()> {
    let length = i64::try_from(bytes).unwrap_or(i64::MAX);
    retry(|| nix::unistd::ftruncate(file, length))
}

/// Flushes a file or directory, its metadata included.
///
/// # Errors
/// As fsync(2). After an error the kernel may forget what was not written: write a new file, never try again.
pub fn sync(handle: impl AsFd) -> io::Result<()> {
    retry(|| nix::unistd::fsync(handle.as_fd()))
}

/// Flushes a file's data.
///
/// # Errors
/// As fdatasync(2).
pub fn sync_data(handle: impl AsFd) -> io::Result<()> {
    retry(|| nix::unistd::fdatasync(handle.as_fd()))
}

/// Renames within or between directories, in place of whatever has the new name.
///
/// # Errors
/// As renameat(2).
pub fn replace_at(from: impl AsFd, old: &str, to: impl AsFd, new: &str) -> io::Result<()> {
    debug_assert!(is_one_component(old) && is_one_component(new), "{old} {new}");
    retry(|| nix::fcntl::renameat(from.as_fd(), old, to.as_fd(), new))
}

/// Renames unless the new name is taken: the first one wins, through the file system.
///
/// # Errors
/// `AlreadyExists` when the name is taken; else as renameat2(2).
pub fn rename_new_at(from: impl AsFd, old: &str, to: impl AsFd, new: &str) -> io::Result<()> {
    debug_assert!(is_one_component(old) && is_one_component(new), "{old} {new}");
    let (from, to) = (from.as_fd(), to.as_fd());
    match retry(|| rename_noreplace(from, old, to, new)) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            match link_at(from, old, to, new) {
                // A directory has one name only; another one can only be replaced by it while it is empty.
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => replace_at(from, old, to, new),
                other => other.and_then(|()| remove_at(from, old)),
            }
        }
        other => other,
    }
}

/// renameat2(2) by its number: not every C library has it.
fn rename_noreplace(from: BorrowedFd<'_>, old: &str, to: BorrowedFd<'_>, new: &str) -> nix::Result<()> {
    use nix::NixPath;
    let call = |old: *const libc::c_char, new: *const libc::c_char| {
        let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
        // SAFETY: both paths are NUL-terminated for the time of the call, and both handles are open.
        unsafe { libc::syscall(libc::SYS_renameat2, from, old, to, new, libc::RENAME_NOREPLACE) }
    };
    let done = old.with_nix_path(|old| new.with_nix_path(|new| call(old.as_ptr(), new.as_ptr())))??;
    Errno::result(done).map(drop)
}

/// Gives a file a second name, which must be free.
///
/// # Errors
/// As linkat(2).
pub fn link_at(from: impl AsFd, old: &str, to: impl AsFd, new: &str) -> io::Result<()> {
    debug_assert!(is_one_component(old) && is_one_component(new), "{old} {new}");
    retry(|| nix::unistd::linkat(from.as_fd(), old, to.as_fd(), new, AtFlags::empty()))
}

/// Removes a file's name.
///
/// # Errors
/// As unlinkat(2).
pub fn remove_at(dir: impl AsFd, name: &str) -> io::Result<()> {
    debug_assert!(is_one_component(name), "{name}");
    retry(|| nix::unistd::unlinkat(dir.as_fd(), name, UnlinkatFlags::NoRemoveDir))
}

/// Removes a directory that has no sub-directories, with its files.
///
/// # Errors
/// As unlinkat(2).
pub fn remove_flat_dir_at(parent: impl AsFd, name: &str) -> io::Result<()> {
    let dir = open_dir_at(&parent, name)?;
    for entry in names(&dir)? {
        remove_at(&dir, &entry)?;
    }
    retry(|| nix::unistd::unlinkat(parent.as_fd(), name, UnlinkatFlags::RemoveDir))
}

/// Names in a directory that are UTF-8, without `.` and `..`, in no order.
///
/// # Errors
/// As getdents(2).
pub fn names(dir: impl AsFd) -> io::Result<Vec<String>> {
    entries(dir, |_| true)
}

/// Names of the directories in a directory, as [`names`] gives them; links to directories are none.
///
/// # Errors
/// As getdents(2).
pub fn dir_names(dir: impl AsFd) -> io::Result<Vec<String>> {
    // A file system that does not tell the kind of an entry leaves it to whoever opens it.
    entries(dir, |kind| kind.is_none_or(|kind| kind == Type::Directory))
}

fn entries(dir: impl AsFd, wanted: impl Fn(Option<Type>) -> bool) -> io::Result<Vec<String>> {
    let own = open_dir_at(dir, ".")?;
    let mut listing = nix::dir::Dir::from_fd(own)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
            && wanted(entry.file_type())
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Takes the exclusive lock on a file without waiting; false when another process holds a lock on it.
///
/// The lock belongs to the open file: every process that inherits the handle holds it, and it ends when the last
/// of them closes it or dies. It must never be handed to a command.
///
/// # Errors
/// As flock(2).
pub fn try_lock(file: &File) -> io::Result<bool> {
    not_busy(|| fs2::FileExt::try_lock_exclusive(file))
}

/// Takes a shared lock without waiting; false when another process holds the exclusive one.
///
/// # Errors
/// As flock(2).
pub fn try_lock_shared(file: &File) -> io::Result<bool> {
    not_busy(|| fs2::FileExt::try_lock_shared(file))
}

fn not_busy(mut lock: impl FnMut() -> io::Result<()>) -> io::Result<bool> {
    for _ in 0..RETRIES {
        match lock() {
            Ok(()) => return Ok(true),
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::from(Errno::EINTR))
}

/// Bytes that an ordinary user may still write to the file system of a directory.
///
/// # Errors
/// As statvfs(3).
pub fn free_space(dir: impl AsFd) -> io::Result<u64> {
    let found = retry(|| nix::sys::statvfs::fstatvfs(dir.as_fd()))?;
    Ok(found.blocks_available() as u64 * found.fragment_size() as u64)
}

/// Who owns a directory and who may write to it.
#[derive(Clone, Copy, Debug)]
pub struct Ownership {
    /// User id of the owner.
    pub uid: u32,
    /// Whether group or others may write.
    pub shared: bool,
}

/// Looks up who owns a directory.
///
/// # Errors
/// As fstat(2).
pub fn ownership(dir: impl AsFd) -> io::Result<Ownership> {
    let stat = retry(|| nix::sys::stat::fstat(dir.as_fd()))?;
    Ok(Ownership { uid: stat.st_uid, shared: stat.st_mode & 0o022 != 0 })
}

/// Looks up who owns a directory inside another, following no link.
///
/// # Errors
/// As fstatat(2); `NotADirectory` for what is none, a link to one included.
pub fn ownership_at(dir: impl AsFd, name: &str) -> io::Result<Ownership> {
    debug_assert!(is_one_component(name), "{name}");
    let stat = retry(|| nix::sys::stat::fstatat(dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW))?;
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFDIR.bits() {
        return Err(io::Error::from(Errno::ENOTDIR));
    }
    Ok(Ownership { uid: stat.st_uid, shared: stat.st_mode & 0o022 != 0 })
}

/// Whether two open handles are the same file, terminal or pipe.
#[must_use]
pub fn same_place(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    match (nix::sys::stat::fstat(a), nix::sys::stat::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev),
        _ => false,
    }
}

/// What kind of thing an open handle is.
#[must_use]
pub fn kind_of(handle: BorrowedFd<'_>) -> SFlag {
    nix::sys::stat::fstat(handle)
        .map_or(SFlag::empty(), |s| SFlag::from_bits_truncate(s.st_mode & SFlag::S_IFMT.bits()))
}

/// Opens what a handle stands for once more, without waiting on reads or writes, leaving the original as it is.
///
/// # Errors
/// As open(2) on `/proc/self/fd/N`.
pub fn reopen_nonblocking(handle: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    retry(|| nix::fcntl::open(path.as_str(), flags, Mode::empty()))
}

/// Makes a directory handle of a raw one that was kept open.
///
/// # Safety
/// `raw` must be an open descriptor that nothing else owns.
pub unsafe fn adopt(raw: i32) -> OwnedFd {
    // SAFETY: the caller promises that the descriptor is open and not owned elsewhere.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
