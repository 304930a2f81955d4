//! What a disk and a network need of their world: its clock, its chance, what is to come, and its story.

use super::executor::{Event, EventKey, Owner};
use crate::time::{Now, WallTime};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

/// The calendar when the world begins.
const BEGINNING: WallTime = WallTime(1_700_000_000_000);

/// One clock, and one source of chance.
pub struct Clockwork {
    random: Cell<u64>,
    pub(super) now: Cell<Now>,
    pub(super) events: RefCell<BTreeMap<EventKey, Event>>,
    events_made: Cell<u64>,
    pub(super) owner: Cell<Owner>,
    pub(super) digest: Cell<u32>,
    story: RefCell<Option<Vec<String>>>,
    log: RefCell<Option<Vec<String>>>,
}

impl Clockwork {
    pub(super) fn new(seed: u64, is_told: bool) -> Self {
        Clockwork {
            random: Cell::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)),
            now: Cell::new(Now(1)),
            events: RefCell::default(),
            events_made: Cell::new(0),
            owner: Cell::new(Owner::Outside),
            digest: Cell::new(0),
            story: RefCell::new(is_told.then(Vec::new)),
            log: RefCell::default(),
        }
    }

    // ---- chance ----

    /// splitmix64
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&self, bound: usize) -> usize {
        (self.random() % bound as u64) as usize
    }

    /// Never, if there are no chances.
    pub fn one_in(&self, chances: usize) -> bool {
        chances > 0 && self.below(chances) == 0
    }

    // ---- time ----

    pub fn now(&self) -> Now {
        self.now.get()
    }

    pub fn wall_time(&self) -> WallTime {
        BEGINNING + Duration::from_micros(self.now.get().0)
    }

    pub(super) fn wake_at(&self, time: Now, waker: Waker) -> EventKey {
        self.event_at(time, Event::Wake(waker))
    }

    pub(super) fn event_in(&self, wait: Duration, event: Event) -> EventKey {
        self.event_at(self.now.get() + wait, event)
    }

    fn event_at(&self, time: Now, event: Event) -> EventKey {
        let number = self.events_made.get();
        self.events_made.set(number + 1);
        self.events.borrow_mut().insert((time, number), event);
        (time, number)
    }

    pub(super) fn cancel(&self, key: EventKey) {
        let event = self.events.borrow_mut().remove(&key);
        drop(event);
    }

    /// Whose turn it is.
    pub fn owner(&self) -> Owner {
        self.owner.get()
    }

    // ---- what is told ----

    /// Into the digest of all that has happened.
    pub fn note(&self, bytes: &[u8]) {
        self.digest
            .set(crc32c::crc32c_append(self.digest.get(), bytes));
    }

    /// A line of the story.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut *self.story.borrow_mut() {
            story.push(format!("{:>10} {}", self.now.get().0, line()));
        }
    }

    /// From now on lines of the relay's log are kept.
    pub fn keep_log(&self) {
        *self.log.borrow_mut() = Some(Vec::new());
    }

    /// A line of the relay's log, which is one of the story.
    pub fn log(&self, line: &str) {
        self.tell(|| line.to_owned());
        if let Some(log) = &mut *self.log.borrow_mut() {
            log.push(line.to_owned());
        }
    }

    /// Lines of the log that were kept since this was last asked for.
    pub fn take_log(&self) -> Vec<String> {
        let mut log = self.log.borrow_mut();
        log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The last lines of the story.
    pub fn story(&self, lines: usize) -> String {
        let story = self.story.borrow();
        let story = story.as_deref().unwrap_or_default();
        story[story.len().saturating_sub(lines)..].join("\n")
    }
}
