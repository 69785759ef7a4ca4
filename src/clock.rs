//! The clocks and the one source of randomness.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::model::time::{Moment, Timestamp};

/// The wall clock.
#[must_use]
pub fn now() -> Timestamp {
    let ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    };
    Timestamp::from_unix_ms(ms)
}

/// The monotonic clock, which stands still while the machine sleeps; the same for all processes of a boot.
#[must_use]
pub fn moment() -> Moment {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Moment(0), |t| {
        let ms = t.tv_sec().saturating_mul(1000).saturating_add(t.tv_nsec() / 1_000_000);
        Moment(u64::try_from(ms).unwrap_or(0))
    })
}

/// Seconds that local time is ahead of UTC now; zero where that can not be found out.
#[must_use]
pub fn local_offset_seconds() -> i32 {
    time::UtcOffset::current_local_offset().map_or(0, time::UtcOffset::whole_seconds)
}

/// Thirty-two random bits for an id.
#[must_use]
pub fn random() -> u32 {
    let mut bytes = [0_u8; 4];
    // SAFETY: getrandom writes at most four bytes to `bytes`.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == 4 {
        return u32::from_ne_bytes(bytes);
    }
    // An id must be unique, not secret: the clock and the process tell two runs apart as well.
    let mixed = moment().0 ^ (now().unix_ms().cast_unsigned() << 20) ^ (u64::from(std::process::id()) << 40);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}
