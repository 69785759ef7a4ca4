//! What others want of a run: one file in its directory, to which each appends a line. Whose line stands first was
//! first, whatever becomes of the signals that tell the run's bookend to look.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::run_dir::{INTENTS, json_line};
use crate::disk;
use crate::model::intent::Intent;

/// At most this much is read at a time.
const PIECE: usize = 64 * 1024;
/// Of a file that has become longer than this only the end is read: no number of people asks so much.
const MOST: u64 = 16 << 20;

/// Adds an intent behind those that are there.
///
/// # Errors
/// As openat(2) and write(2).
pub fn append(dir: impl AsFd, intent: &Intent) -> io::Result<()> {
    disk::append_line_at(dir, INTENTS, &json_line(intent))
}

/// Reads the intents from `offset` on that are whole; with where the next look begins.
///
/// # Errors
/// As openat(2) and read(2).
pub fn read_from(dir: impl AsFd, offset: u64) -> io::Result<(Vec<Intent>, u64)> {
    let file = disk::open_at(dir, INTENTS)?;
    let size = file.metadata()?.len();
    let is_much = size.saturating_sub(offset) > MOST;
    let (mut intents, mut offset) = (Vec::new(), if is_much { size - PIECE as u64 } else { offset });
    let mut bytes = vec![0; PIECE];
    loop {
        let read = file.read_at(&mut bytes, offset)?;
        let text = &bytes[..read];
        let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        intents.extend(text[..whole].split(|&b| b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()));
        // What fills a piece without ending is no line of ours.
        let taken = if whole == 0 && read == PIECE { read } else { whole };
        offset += taken as u64;
        if taken == 0 {
            return Ok((intents, offset));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::intent::Wish;
    use crate::model::record::EndedBy;
    use crate::model::time::Timestamp;
    use std::io::Write;

    #[test]
    fn what_is_cut_short_or_foreign_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let dir = disk::open_dir(place.path()).unwrap();
        let intent = |number| Intent {
            schema: 1,
            at: Timestamp::from_unix_ms(0),
            by: EndedBy::default(),
            wish: Wish::Deliver(number),
        };
        assert!(read_from(&dir, 0).is_err(), "absent");
        append(&dir, &intent(10)).unwrap();
        append(&dir, &intent(10)).unwrap();
        let text = String::from_utf8(disk::read_at(&dir, INTENTS).unwrap()).unwrap();
        assert!(text.lines().count() == 2 && text.lines().all(|line| !line.is_empty()), "{text:?}");
        let add = |text: &[u8]| disk::append_at(&dir, INTENTS).unwrap().write_all(text).unwrap();
        add(b"{\"schema\":1,\"at\":");
        append(&dir, &intent(12)).unwrap();
        add(&vec![b'x'; 3 * PIECE]);
        append(&dir, &intent(14)).unwrap();
        let (first, end) = read_from(&dir, 0).unwrap();
        assert_eq!(first, [intent(10), intent(10), intent(12), intent(14)]);
        assert_eq!(read_from(&dir, end).unwrap(), (Vec::new(), end));
        disk::open_own_at(&dir, INTENTS).unwrap().set_len(4 << 30).unwrap();
        append(&dir, &intent(12)).unwrap();
        let (last, end) = read_from(&dir, end).unwrap();
        assert_eq!(last, [intent(12)], "a sparse file");
        add(b"{\"half\"");
        assert_eq!(read_from(&dir, end).unwrap(), (Vec::new(), end), "it may not be written yet");
    }
}
