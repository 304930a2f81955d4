//! What travels between cores: accepted messages on their way, and news about them.

use crate::message::{Envelope, MessageId};
use crate::schedule::outcome::RecipientState;
use crate::spool::{Movable, Note, Place, RecoveredMessage, Residence};
use crate::time::WallTime;
use crate::tls::ServerKeys;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// An accepted message, shared by the cores that deliver it.
pub struct Message {
    pub id: MessageId,
    pub received_at: WallTime,
    pub envelope: Envelope,
    /// Where in the spool it lies, and how its recipients stand.
    pub residence: Residence,
    /// The core whose spool holds it and counts its open recipients.
    pub home: usize,
    open_recipients: AtomicU32,
}

impl Message {
    /// One that was just accepted: all recipients are open.
    pub fn new(
        id: MessageId,
        received_at: WallTime,
        envelope: Envelope,
        place: Place,
        home: usize,
    ) -> Arc<Self> {
        let recipients = envelope.recipients.len();
        Arc::new(Message {
            id,
            received_at,
            envelope,
            residence: Residence::fresh(place, recipients),
            home,
            open_recipients: AtomicU32::new(recipients as u32),
        })
    }

    /// One that an earlier run accepted, and how its recipients stand.
    pub fn recovered(found: RecoveredMessage) -> (Arc<Self>, Vec<RecipientState>) {
        let open = found.states.iter().filter(|s| !s.is_finished()).count();
        let message = Arc::new(Message {
            id: found.id,
            received_at: found.received_at,
            envelope: found.envelope,
            residence: Residence::recovered(found.place, &found.states),
            home: usize::from(found.home),
            open_recipients: AtomicU32::new(open as u32),
        });
        (message, found.states)
    }

    /// Counts recipients as finished, which must be durable; true if these were the last.
    pub fn finish(&self, recipients: u32) -> bool {
        let before = self.open_recipients.fetch_sub(recipients, Ordering::AcqRel);
        assert!(before >= recipients, "a recipient was finished twice");
        before == recipients
    }
}

impl Movable for Message {
    fn id(&self) -> MessageId {
        self.id
    }

    fn received_at(&self) -> WallTime {
        self.received_at
    }

    fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    fn residence(&self) -> &Residence {
        &self.residence
    }
}

/// Bodies in memory start this far into their buffer. Large buffers start on a page, and text that
/// does is encrypted 2.4 to 2.8 times slower than text a cache line further.
pub const BODY_OFFSET_BYTES: usize = crate::tls::session::PLAIN_OFFSET_BYTES;

/// How many bytes of message bodies the messages accepted by one core may hold in memory.
/// A cache: a body that does not fit is read back from the spool when it is due.
pub struct BodyBudget {
    held_bytes: AtomicU64,
    max_bytes: u64,
}

impl BodyBudget {
    pub fn new(max_bytes: u64) -> Arc<Self> {
        Arc::new(BodyBudget {
            held_bytes: AtomicU64::new(0),
            max_bytes,
        })
    }

    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Keeps a body (behind [`BODY_OFFSET_BYTES`] of padding) in memory if the budget has room. Called by the owning core only;
    /// any core may drop the body.
    pub fn hold(self: &Arc<Self>, bytes: Vec<u8>) -> Option<Arc<Body>> {
        let size = bytes.capacity() as u64;
        if self.held_bytes() + size > self.max_bytes {
            return None;
        }
        self.held_bytes.fetch_add(size, Ordering::Relaxed);
        Some(Arc::new(Body {
            bytes,
            budget: self.clone(),
        }))
    }
}

/// A body in memory, in wire form; gives its bytes back to the budget when dropped.
pub struct Body {
    bytes: Vec<u8>,
    budget: Arc<BodyBudget>,
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[BODY_OFFSET_BYTES..]
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.budget
            .held_bytes
            .fetch_sub(self.bytes.capacity() as u64, Ordering::Relaxed);
    }
}

/// Recipients of one message that are to be delivered together, or reported on together.
pub struct Job {
    pub message: Arc<Message>,
    /// `None`: to be read back from the spool.
    pub body: Option<Arc<Body>>,
    /// Index into the envelope's recipients, and where each stands; none is finished.
    pub recipients: Vec<(u32, RecipientState)>,
}

/// What one core tells another.
pub enum ToCore {
    Deliver(Job),
    /// All recipients of the message are finished, and that is durable. To its home.
    Finished(MessageId),
    Spool(Note),
    /// A connection accepted by a core that has more than its share.
    Connection(Box<Accepted>),
    /// A new certificate for clients.
    Keys(Box<ServerKeys>),
    /// Accept nothing more, end sessions and deliveries; answer with `Drained`.
    Drain,
    /// To the control thread: nothing is under way any more.
    Drained,
}

/// A freshly accepted connection.
pub struct Accepted {
    pub descriptor: OwnedFd,
    pub peer: std::net::SocketAddr,
    pub implicit_tls: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_body_gives_its_bytes_back() {
        let budget = BodyBudget::new(100);
        let held = budget.hold(vec![0; 80]).expect("fits");
        assert!(budget.hold(vec![0; 30]).is_none());
        drop(held);
        assert_eq!(budget.held_bytes(), 0);
        assert!(budget.hold(vec![0; 30]).is_some());
    }
}
