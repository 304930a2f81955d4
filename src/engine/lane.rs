//! What travels over the lanes between cores, and between them and the control thread.

use super::questions::{Answer, Asked};
use super::rules::NewRule;
use crate::handoff::job::{Accepted, Job};
use crate::message::MessageId;
use crate::spool::Note;

/// What one core tells another.
pub enum ToCore {
    Deliver(Job),
    /// All recipients of the message are finished, and that is durable. To its home.
    Finished(MessageId),
    Spool(Note),
    /// A connection accepted by a core that has more than its share.
    Connection(Box<Accepted>),
    /// From the control thread: in force from now on.
    Rule(Box<NewRule>),
    /// From the control thread: to be answered at once.
    Ask(Asked),
    /// To the control thread.
    Answer(Box<Answer>),
    /// Accept nothing more, end sessions and deliveries; answer with `Drained`.
    Drain,
    /// To the control thread: nothing is under way any more.
    Drained,
    /// The end has come: clients in the middle of a transaction get 421. Answer with `Dismissed`.
    Dismiss,
    /// To the control thread: no session is open any more.
    Dismissed,
}
