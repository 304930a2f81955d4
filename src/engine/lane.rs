//! What travels over the lanes between cores, and between them and the control thread.

use super::questions::{Answer, Asked};
use super::rules::NewRule;
use crate::handoff::job::{Accepted, Job};
use crate::handoff::settled::{Recorded, Settled};
use crate::spool::Note;

/// What one core tells another.
pub enum ToCore {
    Deliver(Job),
    /// What the core `from` has settled. To the home of the messages.
    Settled {
        from: usize,
        settled: Vec<Settled>,
    },
    /// From a home: that is durable.
    Recorded(Recorded),
    Spool(Note),
    /// A connection accepted by a core that has more than its share.
    Connection(Box<Accepted>),
    /// From the control thread: in force from now on.
    Rule(Box<NewRule>),
    /// From the control thread: to be answered at once.
    Ask(Asked),
    /// To the control thread.
    Answer(Box<Answer>),
    /// Accept nothing more, end sessions and deliveries; answer with `Rested`.
    Drain,
    /// To the control thread: no session and no transaction is under way, and what was settled is durable.
    Rested,
    /// All cores have rested: write the last, and say the last words. Answer with `Drained`.
    Close,
    /// To the control thread: nothing is left to do.
    Drained,
    /// The end has come: clients in the middle of a transaction get 421. Answer with `Dismissed`.
    Dismiss,
    /// To the control thread: the last words are said, and outcomes of so many recipients are not durable.
    Dismissed(usize),
}
