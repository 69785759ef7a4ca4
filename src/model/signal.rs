//! Names and numbers of signals.

use libc::c_int;

/// Name of a signal as people write it, e.g. `SIGTERM`; real-time signals are `SIGRTMIN+n`.
#[must_use]
pub fn name(signal: c_int) -> String {
    match signal_hook::low_level::signal_name(signal) {
        Some(name) => name.to_owned(),
        None if signal == libc::SIGSTKFLT => "SIGSTKFLT".to_owned(),
        None if signal == libc::SIGPWR => "SIGPWR".to_owned(),
        None if (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal) => match signal - libc::SIGRTMIN() {
            0 => "SIGRTMIN".to_owned(),
            n => format!("SIGRTMIN+{n}"),
        },
        None => format!("SIG{signal}"),
    }
}

/// Number of a signal given as `TERM`, `SIGTERM`, `sigterm` or `15`; none when there is no such signal.
#[must_use]
pub fn number(text: &str) -> Option<c_int> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<c_int>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let wanted = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    (1..=libc::SIGRTMAX()).find(|&signal| name(signal) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for signal in (1..=31).chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
            assert_eq!(number(&name(signal)), Some(signal), "{signal}");
        }
        assert_eq!(number("int"), Some(libc::SIGINT));
        assert_eq!(number("9"), Some(libc::SIGKILL));
        assert_eq!(number("0"), None);
        assert_eq!(number("SIGNOPE"), None);
    }
}
