//! What a core can be asked by the control thread, and what it answers.
//!
//! A question and its answer are items of the lanes. A core answers in the turn in which it receives the question, and
//! the answer has a bounded length; what is longer is asked for in pieces, the next when the one before has come. So
//! a core has one answer under way, however slow the asker is.

use crate::delivery::HopReport;
use std::ops::Range;

/// Places of its table of next hops that a core looks at for one answer: some tens of microseconds.
const PLACES_PER_ANSWER: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// Bring your counts up to date. The answer also proves that all that was sent before has arrived.
    Counts,
    /// The next hops in these places of your table.
    NextHops(usize),
}

/// A question on its way to a core.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub question: Question,
    /// Of the conversation; its answers bear it.
    pub(super) number: u64,
}

/// An answer on its way to the control thread.
pub struct Answer {
    pub(super) core: usize,
    pub(super) number: u64,
    pub(super) said: Said,
}

pub enum Said {
    /// To [`Question::Counts`]: they are up to date.
    Counted,
    NextHops {
        hops: Vec<HopReport>,
        /// Where to go on.
        next: Option<usize>,
    },
}

impl Asked {
    pub fn answer(self, core: usize, said: Said) -> Answer {
        let number = self.number;
        Answer { core, number, said }
    }

    /// The places that are asked for.
    pub fn places(from: usize) -> Range<usize> {
        from..from.saturating_add(PLACES_PER_ANSWER)
    }
}
