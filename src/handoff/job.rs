//! What travels between cores: accepted messages on their way, and news about them.

use crate::handoff::memory::{Budget, Charge, MemoryLevel};
use crate::io::{self, net::Descriptor};
use crate::message::{Envelope, MessageId, Recipient};
use crate::policy::port::Port;
use crate::policy::shares::{ShareCharge, Weight};
use crate::schedule::next_hop::Origin;
use crate::schedule::outcome::{Diagnosis, RecipientState};
use crate::schedule::reports::History;
use crate::schedule::settle::{Course, Recipients};
use crate::spool::{MessageLocation, Movable, Place, RecoveredMessage};
use crate::time::{Birth, Now, WallTime};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// An accepted message, shared by the cores that deliver it.
pub struct Message {
    pub id: MessageId,
    /// For people, and for the age after a restart.
    pub received_at: WallTime,
    /// What its lifetime in the queue is counted from.
    pub born: Birth,
    pub envelope: Envelope,
    /// Where in the spool it lies, and how its recipients stand.
    pub location: MessageLocation,
    /// The core whose spool holds it and counts its open recipients.
    pub home: usize,
    /// Whose mail it is, where that of several parties takes turns; nobody's after a restart.
    pub origin: Origin,
    open_recipients: AtomicU32,
    /// How often the disk would not give the content; [`CONTENT_TRIES_MAX`]: it is given up.
    content_failures: AtomicU32,
    pub reported: Reported,
    charged: Charged,
}

/// What a message counts against, until nothing is left to do for it.
pub struct Charged {
    pub memory: Charge,
    pub share: ShareCharge,
}

/// What this run has told the sender of a message. Only the core that gathers its reports reads and writes it.
#[derive(Default)]
pub struct Reported {
    reports: AtomicU32,
    last: AtomicU64,
    has_returned_body: AtomicBool,
}

impl Reported {
    pub fn history(&self) -> History {
        History {
            reports: self.reports.load(Ordering::Relaxed),
            last: Now(self.last.load(Ordering::Relaxed)),
        }
    }

    pub fn set(&self, history: History) {
        self.reports.store(history.reports, Ordering::Relaxed);
        self.last.store(history.last.0, Ordering::Relaxed);
    }

    /// A report returns the content. True if one has before.
    pub fn returns_body(&self) -> bool {
        self.has_returned_body.swap(true, Ordering::Relaxed)
    }
}

/// How often a disk that gives an error is asked for a message's content before that counts as lost. A
/// cable or a controller may recover; that the content is not what was written needs no second look.
pub const CONTENT_TRIES_MAX: u32 = 3;

/// Memory of a message in the queue beside its recipients: counts, places, tickets, maps. Measured
/// with mail that waits for its next attempt.
const QUEUED_MESSAGE_BYTES: usize = 768;
/// Of a recipient: its state and its jobs.
const QUEUED_RECIPIENT_BYTES: usize = 256;

/// What no message in the queue holds less than.
pub const LEAST_QUEUED_BYTES: u64 = (QUEUED_MESSAGE_BYTES + QUEUED_RECIPIENT_BYTES) as u64;

/// About what a message holds while it is in the queue, its body and what next hops say of it apart.
pub fn queued_bytes(envelope: &Envelope) -> u64 {
    let length = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
    let of_recipient = |recipient: &Recipient| {
        let texts = recipient.forward_path.as_str().len() + length(&recipient.orcpt);
        QUEUED_RECIPIENT_BYTES + size_of::<Recipient>() + texts
    };
    let recipients: usize = envelope.recipients.iter().map(of_recipient).sum();
    let reverse_path = envelope.reverse_path.as_ref();
    let reverse_path = reverse_path.map_or(0, |path| path.as_str().len());
    (QUEUED_MESSAGE_BYTES + recipients + reverse_path + length(&envelope.envid)) as u64
}

/// What is kept of a recipient's last refusal: it stands with the job, and once more for outcomes that are written again.
fn words_bytes(state: &RecipientState) -> u64 {
    let diagnosis = match state {
        RecipientState::Waiting { last, .. } => last.as_ref(),
        RecipientState::ReportOwed { diagnosis, .. } => Some(diagnosis),
        RecipientState::Finished => None,
    };
    let bytes = |it: &Diagnosis| it.text.len() + it.remote_host.len();
    2 * diagnosis.map_or(0, bytes) as u64
}

/// The same of all these recipients.
pub fn diagnosis_bytes_of(recipients: &[(u32, RecipientState)]) -> u64 {
    recipients.iter().map(|(_, state)| words_bytes(state)).sum()
}

impl Message {
    /// One that was just accepted: all recipients are open.
    pub fn new(
        id: MessageId,
        (received_at, now): (WallTime, Now),
        envelope: Envelope,
        place: Place,
        home: usize,
        origin: Origin,
        charged: Charged,
    ) -> Arc<Self> {
        let recipients = envelope.recipients.len();
        Arc::new(Message {
            id,
            received_at,
            born: Birth::of_age(Duration::ZERO, now),
            envelope,
            location: MessageLocation::fresh(place, recipients),
            home,
            origin,
            open_recipients: AtomicU32::new(recipients as u32),
            content_failures: AtomicU32::new(0),
            reported: Reported::default(),
            charged,
        })
    }

    /// One that an earlier run accepted, and how its recipients stand. By the calendar it has an age,
    /// unless that stands before its arrival: then it is new.
    pub fn recovered(
        found: RecoveredMessage,
        charge: impl FnOnce(&Envelope, usize, Weight) -> Charged,
        (calendar, now): (WallTime, Now),
    ) -> (Arc<Self>, Vec<RecipientState>) {
        let words: u64 = found.states.iter().map(words_bytes).sum();
        let home = usize::from(found.home);
        let weight = Weight {
            memory: queued_bytes(&found.envelope) + words,
            spool: found.place.body_bytes(),
        };
        let charged = charge(&found.envelope, home, weight);
        let open = found.states.iter().filter(|s| !s.is_finished()).count();
        let message = Arc::new(Message {
            id: found.id,
            received_at: found.received_at,
            born: Birth::of_age(calendar.since(found.received_at), now),
            envelope: found.envelope,
            location: MessageLocation::recovered(found.place, &found.states),
            home,
            origin: Origin::default(),
            open_recipients: AtomicU32::new(open as u32),
            content_failures: AtomicU32::new(match found.is_damaged {
                true => CONTENT_TRIES_MAX,
                false => 0,
            }),
            reported: Reported::default(),
            charged,
        });
        message.ended(found.states.iter().enumerate());
        (message, found.states)
    }

    /// The content could not be read. True if it is given up: it `is_damaged`, or that was the last try.
    pub fn content_failed(&self, is_damaged: bool) -> bool {
        let failures = match is_damaged {
            true => CONTENT_TRIES_MAX,
            false => 1,
        };
        self.content_failures.fetch_add(failures, Ordering::Relaxed);
        self.is_content_lost()
    }

    /// There is nothing left to deliver.
    pub fn is_content_lost(&self) -> bool {
        self.content_failures.load(Ordering::Relaxed) >= CONTENT_TRIES_MAX
    }

    /// What is kept of refusals is part of what a message holds: [`diagnosis_bytes_of`] a job, and of what becomes of it.
    pub fn charge_diagnoses(&self, before: u64, after: u64) {
        if before != after {
            self.charged.memory.replace(before, after);
        }
    }

    /// Recipients have these states now, and waited for delivery before. Those who do so no more count at no destination.
    pub fn ended<'a>(&self, states: impl Iterator<Item = (usize, &'a RecipientState)>) {
        let is_over = |(_, state): &(usize, &RecipientState)| {
            !matches!(state, RecipientState::Waiting { .. })
        };
        let over = states.filter(is_over);
        over.for_each(|(index, _)| self.charged.share.done(index));
    }

    /// Counts recipients as finished, which must be durable; true if these were the last. The home does.
    pub fn finish(&self, recipients: u32) -> bool {
        let before = self
            .open_recipients
            .fetch_sub(recipients, Ordering::Relaxed);
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

    fn location(&self) -> &MessageLocation {
        &self.location
    }
}

/// Bodies in memory start this far into their buffer. Large buffers start on a page, and text that
/// does is encrypted 2.4 to 2.8 times slower than text a cache line further.
pub const BODY_OFFSET_BYTES: usize = crate::tls::session::PLAIN_OFFSET_BYTES;

/// A body in memory, in wire form, behind [`BODY_OFFSET_BYTES`] of padding. A cache: a body that
/// is not kept is read back from the spool when it is due.
pub struct Body {
    bytes: Vec<u8>,
    _memory: Charge,
}

impl Body {
    /// Keeps a body in memory if there is plenty.
    pub fn keep(bytes: Vec<u8>, budget: &Budget) -> Option<Arc<Body>> {
        let size = bytes.capacity() as u64;
        (budget.level_with(size) == MemoryLevel::Plenty).then(|| {
            Arc::new(Body {
                bytes,
                _memory: budget.charge(size),
            })
        })
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[BODY_OFFSET_BYTES..]
    }
}

/// Recipients of one message that are to be delivered together, or reported on together.
///
/// None may be forgotten: its recipients are settled, or go on in other jobs. Debug builds complain of one that is dropped with
/// recipients.
pub struct Job {
    pub message: Arc<Message>,
    /// `None`: to be read back from the spool.
    pub body: Option<Arc<Body>>,
    /// Index into the envelope's recipients, and where each stands; none is finished.
    pub recipients: Recipients,
    pub course: Course,
}

impl Job {
    /// So many of its recipients, without more of it.
    pub fn part(&self, recipients: Recipients) -> Job {
        Job {
            message: self.message.clone(),
            body: self.body.clone(),
            recipients,
            course: self.course,
        }
    }

    /// The job ends, and its recipients are the caller's.
    pub fn take_recipients(mut self) -> (Job, Recipients) {
        let recipients = std::mem::take(&mut self.recipients);
        (self, recipients)
    }

    /// This run does nothing more for it. The next one finds it in the spool.
    pub fn leave_in_spool(mut self) {
        self.recipients.clear();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let is_over = std::thread::panicking() || io::has_ended();
        let is_forgotten = !self.recipients.is_empty() && !is_over;
        debug_assert!(!is_forgotten, "a job of {} is forgotten", self.message.id);
    }
}

/// A freshly accepted connection.
pub struct Accepted {
    pub descriptor: Descriptor,
    pub peer: std::net::SocketAddr,
    pub port: Port,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::memory::Memory;

    #[test]
    fn what_the_queue_keeps_of_a_recipient_is_weighed_whole() {
        let mailbox = |local: &str| crate::message::Mailbox::new(local, "b.test");
        let short = Envelope {
            recipients: vec![Recipient::new(mailbox("u"))],
            ..Envelope::default()
        };
        let mut long = short.clone();
        long.recipients[0].forward_path = mailbox(&"u".repeat(61));
        long.recipients[0].orcpt = Some("o".repeat(500).into());
        long.envid = Some("e".repeat(100).into());
        assert_eq!(queued_bytes(&long), queued_bytes(&short) + 60 + 500 + 100);
        let refused = RecipientState::Waiting {
            attempts: 1,
            due: WallTime(0),
            last: Some(Diagnosis {
                status: crate::smtp::reply::EnhancedStatus::new(4, 2, 0),
                text: "x".repeat(900).into(),
                remote_host: "mx.b.test".into(),
            }),
        };
        assert_eq!(words_bytes(&RecipientState::fresh()), 0);
        assert_eq!(words_bytes(&refused), 2 * 909);
        assert_eq!(words_bytes(&RecipientState::Finished), 0);
    }

    #[test]
    fn a_dropped_body_gives_its_bytes_back() {
        let memory = Memory::new(1, 200);
        let budget = Budget::new(memory.clone(), 0);
        let held = Body::keep(vec![0; 80], &budget).expect("fits");
        assert!(Body::keep(vec![0; 30], &budget).is_none());
        drop(held);
        assert_eq!(memory.held_bytes(), 0);
        assert!(Body::keep(vec![0; 30], &budget).is_some());
    }
}
