//! The door of a run with a terminal of its own: a socket in its directory, through which its owner types from outside.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt,
    listen, recv, send, socket,
};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat};

use crate::disk::{self, retry};

/// The socket's name in the run's directory.
pub const DOOR: &str = "attach";
/// The longest word that a guest says, in bytes.
pub const LONGEST: usize = 4096;
/// Guests that may wait to be let in.
const WAITING: i32 = 8;

/// What a guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Keys, as they are.
    Keys(Vec<u8>),
    /// Rows and columns of its window, then its width and height in pixels.
    Size([u16; 4]),
}

impl Word {
    /// The word as it is sent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Keys(keys) => [b"k", keys.as_slice()].concat(),
            Self::Size(size) => [b"w".to_vec(), size.iter().flat_map(|n| n.to_be_bytes()).collect()].concat(),
        }
    }

    /// Reads a word; none where it is not one that this version knows.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (b'k', keys) => Some(Self::Keys(keys.to_vec())),
            (b'w', size) if size.len() == 8 => {
                let number = |at: usize| u16::from_be_bytes([size[2 * at], size[2 * at + 1]]);
                Some(Self::Size([0, 1, 2, 3].map(number)))
            }
            _ => None,
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process; 0 where it can not be seen from this pid namespace.
    pub pid: i32,
    /// User.
    pub uid: u32,
}

/// Makes the door of a run; only its owner can knock.
///
/// # Errors
/// As socket(2), bind(2) and listen(2), e.g. on a file system without sockets.
pub fn open(dir: &OwnedFd) -> io::Result<OwnedFd> {
    let listener = new_socket()?;
    // The mode of the file is that of the socket when it is bound.
    retry(|| fchmod(&listener, Mode::S_IRUSR | Mode::S_IWUSR))?;
    retry(|| bind(listener.as_raw_fd(), &address(dir)?))?;
    retry(|| listen(&listener, Backlog::new(WAITING).unwrap_or(Backlog::MAXCONN)))?;
    Ok(listener)
}

/// Takes the door away.
pub fn close(dir: &OwnedFd) {
    let _ = disk::remove_at(dir, DOOR);
}

/// Lets the next guest in; none when nobody waits.
///
/// # Errors
/// As accept4(2), e.g. out of descriptors.
pub fn let_in(listener: &OwnedFd) -> io::Result<Option<(OwnedFd, Peer)>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let raw = match retry(|| accept4(listener.as_raw_fd(), flags)) {
        Err(e) if is_not_now(&e) => return Ok(None),
        other => other?,
    };
    // SAFETY: the kernel has just given us this descriptor.
    let guest = unsafe { disk::adopt(raw) };
    let peer = peer(guest.as_fd())?;
    Ok(Some((guest, peer)))
}

/// Knocks at the door of a run.
///
/// # Errors
/// `NotFound` where there is no door, `ConnectionRefused` when nobody is behind it, `WouldBlock` when too many wait;
/// `PermissionDenied` when somebody else is.
pub fn knock(dir: &OwnedFd) -> io::Result<OwnedFd> {
    let kind = retry(|| fstatat(dir, DOOR, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW))?;
    if SFlag::from_bits_truncate(kind.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFSOCK {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no socket"));
    }
    let door = new_socket()?;
    retry(|| connect(door.as_raw_fd(), &address(dir)?))?;
    if peer(door.as_fd())?.uid != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    Ok(door)
}

/// Says something without waiting; `WouldBlock` when the other side does not take it now.
///
/// # Errors
/// As send(2).
pub fn say(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    retry(|| send(socket.as_raw_fd(), bytes, flags)).map(drop)
}

/// What the other side says now; none when it says nothing, and no bytes when it is gone.
#[must_use]
pub fn hear(socket: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut bytes = [0; LONGEST];
    match retry(|| recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT)) {
        Ok(n) => Some(bytes[..n].to_vec()),
        Err(e) if is_not_now(&e) => None,
        Err(_) => Some(Vec::new()),
    }
}

fn is_not_now(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::WouldBlock || e.raw_os_error() == Some(Errno::ECONNABORTED as i32)
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    retry(|| socket(AddressFamily::Unix, SockType::SeqPacket, flags, None))
}

/// The way to the door through the open directory: its real path may be longer than an address can be.
fn address(dir: &OwnedFd) -> nix::Result<UnixAddr> {
    UnixAddr::new(format!("/proc/self/fd/{}/{DOOR}", dir.as_raw_fd()).as_str())
}

fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let found = retry(|| getsockopt(&socket, PeerCredentials))?;
    Ok(Peer { pid: found.pid(), uid: found.uid() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    #[test]
    fn words_arrive_whole_and_in_order() {
        let place = tempfile::tempdir().unwrap();
        let deep = place.path().join("x".repeat(150));
        std::fs::create_dir(&deep).unwrap();
        let dir = disk::open_dir(&deep).unwrap();
        assert_eq!(knock(&dir).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = open(&dir).unwrap();
        let made = std::fs::symlink_metadata(deep.join(DOOR)).unwrap();
        assert!(made.file_type().is_socket() && made.permissions().mode() & 0o777 == 0o600, "{made:?}");
        assert!(let_in(&listener).unwrap().is_none());
        let mine = knock(&dir).unwrap();
        let (theirs, peer) = let_in(&listener).unwrap().unwrap();
        assert_eq!(peer.pid, std::process::id().cast_signed());
        let words = [Word::Keys(b"\x03\0k".to_vec()), Word::Size([50, 132, 0, 65_535])];
        for word in &words {
            say(mine.as_fd(), &word.to_bytes()).unwrap();
        }
        for word in words {
            assert_eq!(Word::of_bytes(&hear(theirs.as_fd()).unwrap()), Some(word));
        }
        assert_eq!(hear(theirs.as_fd()), None);
        drop(mine);
        assert_eq!(hear(theirs.as_fd()), Some(Vec::new()));
        assert_eq!((Word::of_bytes(b""), Word::of_bytes(b"w12"), Word::of_bytes(b"?")), (None, None, None));
        drop(listener);
        assert_eq!(knock(&dir).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        close(&dir);
        std::fs::write(deep.join(DOOR), "").unwrap();
        assert_eq!(knock(&dir).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
