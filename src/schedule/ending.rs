//! How an attempt ended for a recipient, or for the report that is owed on it: what is to be counted
//! and said of it.
//!
//! Promise: of the endings of a recipient, over all its attempts, exactly one is
//! [final](Ending::is_final), and it comes with the state in which delivery is over. Of those of its
//! report, if one is owed, exactly one as well. A crash may repeat an attempt and its ending.

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ending {
    /// It goes on at once.
    Requeued,
    /// The attempt of this number failed, and there will be another.
    Deferred {
        attempt: u32,
    },
    /// Nobody could be asked about it: no attempt is counted, and it waits on.
    Returned,
    Delivered,
    /// Undeliverable; the reverse-path is owed a report.
    Bounced,
    /// Not delivered within its lifetime; the reverse-path is owed a report.
    Expired,
    /// Not delivered, and nobody will be told.
    Dropped(Failure, Unreported),
}

/// Why no further attempt is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Failure {
    Undeliverable,
    Expired,
}

/// Why nobody is told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unreported {
    /// There is nobody to tell (RFC 5321 section 4.5.5).
    NullReversePath,
    /// `NOTIFY` does not ask for it (RFC 3461 section 4.1).
    NotWanted,
    /// It was a report, and there are none on reports (RFC 5321 section 6.1).
    IsReport,
}

impl Ending {
    /// Nothing more will be tried.
    pub fn is_final(self) -> bool {
        !matches!(
            self,
            Ending::Requeued | Ending::Deferred { .. } | Ending::Returned
        )
    }

    /// Why mail is gone without a word to its sender; `None` if it is not.
    pub fn drop_reason(self) -> Option<&'static str> {
        use Failure::{Expired, Undeliverable};
        let Ending::Dropped(failure, unreported) = self else {
            return None;
        };
        Some(match (unreported, failure) {
            (Unreported::NullReversePath, Undeliverable) => {
                "undeliverable, and the reverse-path is null"
            }
            (Unreported::NullReversePath, Expired) => "expired, and the reverse-path is null",
            (Unreported::NotWanted, Undeliverable) => {
                "undeliverable, and NOTIFY asks for no report"
            }
            (Unreported::NotWanted, Expired) => "expired, and NOTIFY asks for no report",
            (Unreported::IsReport, Undeliverable) => "the report is undeliverable",
            (Unreported::IsReport, Expired) => "the report expired",
        })
    }
}
