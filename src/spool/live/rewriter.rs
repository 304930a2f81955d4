//! Writes again what is needed of outcomes, so that their segments may go: one task per core.
//!
//! `liveness::outcomes` says when, and why that loses nothing. A message segment is passed from its first message to its last.
//! Its outcomes elsewhere are let go when all of that is durable, and when no copy has come there meanwhile: a copy may lack
//! what outcomes about its original say.
//!
//! A round goes on in small steps, each of which waits for its writes, so outcomes of deliveries find the log nearly as
//! without it. A step that finds no room waits for a moment, and then the round is given up: what it wrote says nothing new, and
//! what it has not come to stays where it is.

use crate::io::runtime::{sleep, yield_now};
use crate::io::{Bug, planted};
use crate::message::MessageId;
use crate::schedule::outcome::{Outcome, RecipientState};
use crate::spool::format::{Generation, States};
use crate::spool::live::liveness::{Extent, Round, Stored};
use crate::spool::live::shared::Shared;
use crate::spool::live::tickets::LeansOn;
use crate::spool::location::place::SegmentRef;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// Messages that are looked at in one turn.
const LOOK_MAX: usize = 1000;

/// Bytes that are under way at once, about, ...
const STEP_BYTES: u64 = 64 * 1024;
/// ... and at most this part of a segment.
const STEP_PARTS: u64 = 8;

/// How long after a look that found nothing worthwhile to look again, and how long a step without room waits.
const PAUSE: Duration = Duration::from_millis(50);

/// So many pauses, and a round without room is given up.
const PAUSES_MAX: usize = 20;

/// The rewriter's task: runs until the spool has closed.
pub(super) async fn run(shared: Rc<Shared>) {
    while !shared.is_closed() {
        shared.rewriter.notified().await;
        if shared.rests() || planted(Bug::OutcomesNotRewritten) {
            continue;
        }
        match shared.begin_round() {
            Some((round, generations)) => rewrite(&shared, &round, generations).await,
            None => sleep(PAUSE).await,
        }
    }
}

/// Writes that are under way.
#[derive(Default)]
struct UnderWay {
    records: Cell<usize>,
    durable: Notify,
}

/// Why outcomes still lean on a segment.
enum NotDone {
    /// Outcomes name a message there that nobody has shown.
    Unknown,
    /// There is no room, or no time.
    GivenUp,
}

async fn rewrite(shared: &Rc<Shared>, round: &Round, generations: Vec<Generation>) {
    let mut bytes = 0;
    for generation in generations {
        // It stays as long as it is gone through. What outcomes say of one that has gone is passed on, or not needed.
        let segment = shared.books.borrow().files.get(&generation).cloned();
        let Some(segment) = segment else {
            continue;
        };
        if planted(Bug::RewrittenEarly) {
            shared.restated(round, &segment);
        }
        match restate(shared, &segment).await {
            Ok(of_segment) => bytes += of_segment,
            Err(NotDone::Unknown) => continue,
            Err(NotDone::GivenUp) => return shared.books.borrow_mut().outcomes.give_up_round(),
        }
        shared.restated(round, &segment);
        drop(segment);
        shared.allocator.notify_one();
        yield_now().await;
    }
    shared.books.borrow_mut().outcomes.end_round(round, bytes);
}

/// All messages of the segment, and those of which copies come meanwhile. How many bytes that took.
async fn restate(shared: &Rc<Shared>, segment: &SegmentRef) -> Result<u64, NotDone> {
    let generation = segment.generation;
    let (mut cursor, mut bytes) = (0, 0);
    loop {
        let (end, copies) = {
            let messages = &shared.books.borrow().messages;
            let end = messages.stored_in(generation).len();
            (end, messages.copies_in(generation))
        };
        while cursor < end {
            has_room(shared).await?;
            let under_way = Rc::new(UnderWay::default());
            let some = shared.restate_some(segment, &mut cursor, end, &under_way);
            while under_way.records.get() > 0 && !planted(Bug::RewritesBelieved) {
                under_way.durable.notified().await;
            }
            bytes += some?;
            yield_now().await;
        }
        if shared.books.borrow().messages.copies_in(generation) == copies {
            return Ok(bytes);
        }
    }
}

async fn has_room(shared: &Shared) -> Result<(), NotDone> {
    for _ in 0..PAUSES_MAX {
        if shared.rests() {
            break;
        }
        if shared.has_room_for_a_step() {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    Err(NotDone::GivenUp)
}

impl Shared {
    fn step_bytes(&self) -> u64 {
        STEP_BYTES.min(self.pool.borrow().segment_bytes() / STEP_PARTS)
    }

    /// No step takes the reserve without which mail is refused; where that is gone already, it may use the rest.
    fn has_room_for_a_step(&self) -> bool {
        let room = self.outcomes.machine.borrow().room_bytes();
        let step = 2 * self.step_bytes();
        let reserve = self.outcome_reserve_bytes();
        room >= reserve + step || (step..reserve).contains(&room)
    }

    /// What is to be rewritten, and the message segments that outcomes may lean on.
    fn begin_round(&self) -> Option<(Round, Vec<Generation>)> {
        let books = &mut *self.books.borrow_mut();
        let (generations, messages, recipients) = books.messages.all_stored();
        let pool = self.pool.borrow();
        let round = books.outcomes.begin_round(Extent {
            messages,
            recipients,
            segment_bytes: pool.segment_bytes(),
            room_bytes: self.outcomes.machine.borrow().room_bytes(),
            is_short: pool.is_exhausted(),
        })?;
        Some((round, generations))
    }

    fn restated(&self, round: &Round, segment: &SegmentRef) {
        let outcomes = &mut self.books.borrow_mut().outcomes;
        outcomes.restated(round, segment.generation);
    }

    /// In one turn. How many bytes that takes.
    fn restate_some(
        self: &Rc<Self>,
        segment: &SegmentRef,
        cursor: &mut usize,
        end: usize,
        under_way: &Rc<UnderWay>,
    ) -> Result<u64, NotDone> {
        let first = *cursor;
        let (mut bytes, step) = (0, self.step_bytes());
        while *cursor < end && *cursor - first < LOOK_MAX && bytes < step {
            let stored = self.books.borrow().messages.stored_in(segment.generation)[*cursor];
            *cursor += 1;
            let Some((recipients, leans_on)) = self.stands(stored, segment)? else {
                continue;
            };
            let outcome = Outcome {
                message: stored.id,
                recipients,
            };
            under_way.records.set(under_way.records.get() + 1);
            let then = {
                let under_way = under_way.clone();
                move || {
                    under_way.records.set(under_way.records.get() - 1);
                    under_way.durable.notify_one();
                }
            };
            bytes += self.put_outcome(&outcome, leans_on, then) as u64;
            self.rewritten.set(self.rewritten.get() + 1);
        }
        Ok(bytes)
    }

    /// How the recipients of a message stand, if outcomes of this run say anything of them.
    fn stands(
        &self,
        stored: Stored,
        segment: &SegmentRef,
    ) -> Result<Option<(States, LeansOn)>, NotDone> {
        let Stored { id, recipients } = stored;
        let message = self.kept(id);
        if let Some(message) = message {
            let Some((mut states, pin)) = message.location().named() else {
                return Ok(None);
            };
            if planted(Bug::RewritesForgetFinished) {
                states.retain(|(_, state)| !state.is_finished());
            }
            return Ok(Some((states, LeansOn::Message(pin))));
        }
        let is_live = self.is_live(id);
        if is_live && self.books.borrow().unshown.contains(&id) {
            return Err(NotDone::Unknown);
        }
        if is_live || planted(Bug::FinishedNotRewritten) {
            return Ok(None);
        }
        let finished = (0..recipients).map(|index| (index, RecipientState::Finished));
        let leans_on = LeansOn::Segment(segment.clone());
        Ok(Some((finished.collect(), leans_on)))
    }

    fn is_live(&self, id: MessageId) -> bool {
        self.books.borrow().messages.is_live(id)
    }
}
