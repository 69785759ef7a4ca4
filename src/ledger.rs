//! The ledger: one shared page of memory in which both bookends keep what the other would need to take over.
//!
//! It is mapped before the keeper is forked, so it outlives the death of either. Everything in it is written with
//! plain stores: no call can fail, no lock can be left held by the dead.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;

const EMPTY: u8 = 0;
const WRITING: u8 = 1;
const SET: u8 = 2;

/// Size of the buffer in which bytes wait between a read and a write.
pub const TRANSFER_BYTES: usize = 64 * 1024;

/// A value that is written once, by whichever process comes first.
#[repr(C)]
pub struct Once<const N: usize> {
    state: AtomicU8,
    length: AtomicU32,
    bytes: [AtomicU8; N],
}

impl<const N: usize> Once<N> {
    /// Writes the value unless one is there; whether this call wrote it. What is too long is not written.
    pub fn set(&self, value: &impl Serialize) -> bool {
        let Ok(text) = serde_json::to_vec(value) else { return false };
        if text.len() > N
            || self.state.compare_exchange(EMPTY, WRITING, Ordering::SeqCst, Ordering::SeqCst).is_err()
        {
            return false;
        }
        for (cell, byte) in self.bytes.iter().zip(&text) {
            cell.store(*byte, Ordering::Relaxed);
        }
        self.length.store(u32::try_from(text.len()).unwrap_or(0), Ordering::SeqCst);
        self.state.store(SET, Ordering::SeqCst);
        true
    }

    /// The value, once it is whole.
    pub fn get<T: DeserializeOwned>(&self) -> Option<T> {
        if self.state.load(Ordering::SeqCst) != SET {
            return None;
        }
        let length = (self.length.load(Ordering::SeqCst) as usize).min(N);
        let text: Vec<u8> = self.bytes[..length].iter().map(|b| b.load(Ordering::Relaxed)).collect();
        serde_json::from_slice(&text).ok()
    }
}

/// What both bookends know.
#[repr(C)]
pub struct Ledger {
    /// Whether the run directory has its final name.
    pub published: AtomicBool,
    /// Exit code of the sealed record plus 1; 0 while there is none.
    pub sealed: AtomicU32,
    /// Whether the end is being forced.
    pub forced: AtomicBool,
    /// Whether the stop for `cause` was begun; a cause alone may have come after the command's own end.
    pub stopping: AtomicBool,
    /// Whether the front has changed the modes of the caller's terminal.
    pub raw: AtomicBool,
    /// Process id of the command, written by itself before it is executed.
    pub command_pid: AtomicI32,
    /// Start time of the command.
    pub command_start: AtomicU64,
    /// Monotonic milliseconds at which the command was started.
    pub started: AtomicU64,
    /// Bytes of the intents that were acted on.
    pub intents: AtomicU64,
    /// Why everything is to stop; the first cause wins. There is room for the longest reason, escaped.
    pub cause: Once<8192>,
    /// How the command ended.
    pub exit: Once<256>,
    /// What the front returns with, once the run is sealed.
    pub finished: Once<4096>,
    /// A panic's message and place.
    pub panic: Once<1024>,
    /// Bytes in the log.
    pub log_bytes: AtomicU64,
    /// Bytes the command wrote that are not in the log.
    pub dropped: AtomicU64,
    /// Offset and length of the hole in the log.
    pub gap: [AtomicU64; 2],
    /// Where the log's open segment begins, times 4, plus its stream.
    pub segment: AtomicU64,
    /// Whether the mark of the open segment is missing in the index.
    pub unmarked: AtomicBool,
    /// Monotonic milliseconds of the last output that went through a pipe.
    pub last_output: AtomicU64,
    /// Bytes in `transfer` that were read and not yet written to the log, times 4, plus their stream.
    pub in_flight: AtomicU32,
    /// Those bytes.
    pub transfer: [AtomicU8; TRANSFER_BYTES],
}

impl Ledger {
    /// Maps a new ledger, all zero, for this process and all it forks. It is never unmapped.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map() -> io::Result<&'static Self> {
        let length = NonZeroUsize::new(size_of::<Self>()).unwrap_or(NonZeroUsize::MIN);
        let (access, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other memory.
        let memory = unsafe { nix::sys::mman::mmap_anonymous(None, length, access, flags) }?;
        // SAFETY: the mapping is page-aligned, large enough, never unmapped, and all zeros is a value of every
        // field; all fields are atomic, so sharing it between processes is sharing it between threads.
        Ok(unsafe { memory.cast::<Self>().as_ref() })
    }

    /// The transfer buffer as plain bytes, for a read or write call.
    ///
    /// # Safety
    /// Only the one process that moves the output may use it, and one call at a time.
    #[expect(
        clippy::mut_from_ref,
        reason = "the memory is shared by design; the caller promises to be alone"
    )]
    pub unsafe fn transfer_buffer(&self) -> &mut [u8] {
        let start = self.transfer.as_ptr().cast_mut().cast::<u8>();
        // SAFETY: AtomicU8 has the layout of u8, and the caller promises that nobody else uses the buffer.
        unsafe { std::slice::from_raw_parts_mut(start, TRANSFER_BYTES) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_wins() {
        let ledger = Ledger::map().unwrap();
        assert_eq!(ledger.exit.get::<String>(), None);
        assert!(ledger.exit.set(&"first"));
        assert!(!ledger.exit.set(&"second"));
        assert_eq!(ledger.exit.get::<String>().as_deref(), Some("first"));
        assert!(!ledger.cause.set(&"x".repeat(9000)), "too long");
        assert_eq!(ledger.cause.get::<String>(), None);
    }
}
