//! Why mail finds no room, and what was said of it. Pure.
//!
//! The state is the spool's, not that of the last question: it begins when mail is refused or a segment cannot be
//! had, and is over when there is room for all sorts of mail and nothing was refused for a while. So a
//! client that asks for more than is left, and one that asks for less, do not switch it on and off.

use crate::spool::SpoolError;
use crate::text::units::Bytes;
use crate::time::Now;
use std::fmt;
use std::io;
use std::time::Duration;

/// So long nothing must have been refused before a trouble counts as over: bounds how often one is told.
const QUIET: Duration = Duration::from_secs(3);

/// Room for mail that ends a shortage, as a part of a segment.
pub(in crate::spool) const ENOUGH_PART: u64 = 4;

/// Why there is no segment to be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::spool) enum Lack {
    /// The spool has as many bytes as it may, of all cores.
    Size(u64),
    /// The file system has no more than is to be left alone.
    KeepFree(u64),
    /// The file system says that it is full.
    Space(String),
    /// The disk, or whoever guards it, refuses.
    Disk(String),
    /// A next start would not find what is written now.
    Gone(String),
}

/// What is told of, each once while it lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::spool) enum Trouble {
    Space,
    Disk,
    Gone,
}

impl Trouble {
    const ALL: [Trouble; 3] = [Trouble::Space, Trouble::Disk, Trouble::Gone];
}

impl Lack {
    /// `what` could not be done.
    pub fn of(what: impl fmt::Display, error: &io::Error) -> Self {
        let text = format!("{what}: {error}");
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Lack::Space(text),
            _ => Lack::Disk(text),
        }
    }

    pub fn trouble(&self) -> Trouble {
        match self {
            Lack::Size(_) | Lack::KeepFree(_) | Lack::Space(_) => Trouble::Space,
            Lack::Disk(_) => Trouble::Disk,
            Lack::Gone(_) => Trouble::Gone,
        }
    }

    /// What a sender is told.
    pub fn error(&self) -> SpoolError {
        match self.trouble() {
            Trouble::Space => SpoolError::Full,
            Trouble::Disk | Trouble::Gone => SpoolError::WriteFailed,
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Size(most) => write!(f, "--spool-size {} is used up", Bytes(*most)),
            Lack::KeepFree(kept) => write!(
                f,
                "the file system has no more than --spool-keep-free {} leaves alone",
                Bytes(*kept)
            ),
            Lack::Space(text) | Lack::Disk(text) | Lack::Gone(text) => f.write_str(text),
        }
    }
}

/// What was said and is not over.
#[derive(Default, Debug)]
pub(in crate::spool) struct Shortage {
    said: [bool; Trouble::ALL.len()],
    met_at: Now,
}

impl Shortage {
    /// The trouble was met. True if it is to be said.
    pub fn begin(&mut self, trouble: Trouble, now: Now) -> bool {
        self.met_at = now;
        !std::mem::replace(&mut self.said[trouble as usize], true)
    }

    pub fn is_said(&self) -> bool {
        self.said.contains(&true)
    }

    /// There is room, and nothing is in the way: which troubles are over, once.
    pub fn passed(&mut self, now: Now) -> Vec<Trouble> {
        if now < self.met_at + QUIET {
            return Vec::new();
        }
        let said = std::mem::take(&mut self.said);
        let is_over = |trouble: &Trouble| said[*trouble as usize];
        Trouble::ALL.into_iter().filter(is_over).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Now = Now(1_000_000);

    #[test]
    fn only_want_of_space_is_a_full_disk() {
        let lack = |code: i32| Lack::of("it", &io::Error::from_raw_os_error(code)).trouble();
        // ENOSPC, EDQUOT, EFBIG; EIO, EACCES, EROFS, EMFILE, ENODEV, ENOENT.
        for code in [28, 122, 27] {
            assert_eq!(lack(code), Trouble::Space, "{code}");
        }
        for code in [5, 13, 30, 24, 19, 2] {
            assert_eq!(lack(code), Trouble::Disk, "{code}");
        }
    }

    #[test]
    fn who_asks_for_more_and_less_in_turns_does_not_switch_it() {
        let mut shortage = Shortage::default();
        let (mut said, mut over) = (0, 0);
        for second in 0..1000 {
            let now = START + Duration::from_secs(second);
            said += u32::from(shortage.begin(Trouble::Space, now));
            over += shortage.passed(now + Duration::from_millis(900)).len();
        }
        assert_eq!((said, over), (1, 0));
        let end = START + Duration::from_secs(1002);
        assert_eq!(shortage.passed(end), [Trouble::Space]);
        assert_eq!(shortage.passed(end), []);
        assert!(shortage.begin(Trouble::Space, end));
    }

    #[test]
    fn each_trouble_is_said_once_and_taken_back_once() {
        let mut shortage = Shortage::default();
        assert!(shortage.begin(Trouble::Space, START));
        assert!(shortage.begin(Trouble::Disk, START));
        assert!(!shortage.begin(Trouble::Space, START));
        assert!(!shortage.begin(Trouble::Disk, START));
        assert!(shortage.is_said());
        let end = START + QUIET;
        assert_eq!(shortage.passed(end), [Trouble::Space, Trouble::Disk]);
        assert!(!shortage.is_said());
    }
}
