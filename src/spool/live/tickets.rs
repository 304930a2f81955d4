//! What waits for a record until it is durable.

use crate::message::MessageId;
use crate::spool::SpoolError;
use crate::spool::location::message_location::{LocationPin, Movable};
use crate::spool::location::place::{Extent, Place, Receipt, SegmentRef};
use crate::spool::log::commit::Stored;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};

/// What waits for a record of the message log.
pub(super) enum MessageTicket {
    /// A message's own or final record.
    Message {
        id: MessageId,
        recipients: u32,
        chunks: Vec<Extent>,
        answer: oneshot::Sender<Result<Receipt, SpoolError>>,
    },
    Chunk(Rc<Chunks>),
    /// The same of a copy.
    Copy {
        copy: Copy,
        answer: oneshot::Sender<Result<(), SpoolError>>,
    },
}

/// What an outcome is needed for, and pins.
pub(super) enum LeansOn {
    /// All that may ever be found of a message that is unfinished here.
    Message(LocationPin),
    /// What there is of a finished message in this segment, and of copies that were made of it there.
    Segment(SegmentRef),
}

/// What waits for a record of the outcome log.
pub(super) struct OutcomeTicket {
    pub leans_on: Rc<LeansOn>,
    /// Called when the record is durable; with the last record of an outcome.
    pub then: Option<Box<dyn FnOnce()>>,
}

/// The chunks of one large message.
#[derive(Default)]
pub(super) struct Chunks {
    /// Durable ones, in their order.
    pub extents: RefCell<Vec<Extent>>,
    pub waiting: Cell<usize>,
    pub failed: Cell<bool>,
    pub changed: Notify,
}

impl Chunks {
    pub fn released(&self, stored: Option<&Stored<SegmentRef>>) {
        self.waiting.set(self.waiting.get() - 1);
        match stored {
            Some(stored) => self.extents.borrow_mut().push(Extent::of(stored)),
            None => self.failed.set(true),
        }
        self.changed.notify_one();
    }
}

/// What waits for the record that makes a copy count.
pub(super) struct Copy {
    pub message: Arc<dyn Movable>,
    /// Where the message lies; pins it there until the books know of the copy.
    pub from: Arc<Place>,
    pub snapshot: u32,
    pub chunks: Vec<Extent>,
}
