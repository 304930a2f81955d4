//! Whether there is room for mail, what is done where there is none, and what is said of it.

use crate::io::clock;
use crate::io::runtime::{sleep, spawn};
use crate::io::{Bug, planted};
use crate::spool::live::pool::MOVE_RESERVE_SEGMENTS;
use crate::spool::live::shared::Shared;
use crate::spool::location::place::SegmentRef;
use crate::spool::shortage::{ENOUGH_PART, Lack, Trouble};
use crate::spool::{Note, Settings, SpoolError};
use crate::time::Now;
use std::rc::Rc;
use std::time::Duration;

/// Other cores are asked for space no more often than this.
const ASK_PAUSE: Duration = Duration::from_secs(1);

impl Shared {
    /// Half a segment: the spare has just been begun, and the next one is being prepared.
    pub(super) fn outcomes_have_reserve(&self) -> bool {
        self.outcomes.machine.borrow().room_bytes() >= self.outcome_reserve_bytes()
    }

    /// Without so much room for outcomes no mail is taken.
    pub(super) fn outcome_reserve_bytes(&self) -> u64 {
        self.pool.borrow().segment_bytes() / 2
    }

    /// Records and commits cost some bytes besides the body.
    pub(super) fn least_room_bytes(&self) -> u64 {
        Settings::bytes_beside_body(self.pool.borrow().segment_bytes())
    }

    /// Is there room for all sorts of mail?
    pub(super) fn has_enough_room(&self) -> bool {
        let segment_bytes = self.pool.borrow().segment_bytes();
        self.has_room_for_mail((segment_bytes / ENOUGH_PART).max(self.least_room_bytes()))
    }

    /// Is there room for a record of mail? The rest is for moves.
    pub(super) fn has_room_for_mail(&self, bytes: u64) -> bool {
        if self.pool.borrow().is_gone() {
            return false;
        }
        let reserve = MOVE_RESERVE_SEGMENTS * self.pool.borrow().segment_bytes();
        self.room() >= bytes.saturating_add(reserve)
    }

    /// Bytes that the log of messages may still take, as far as we know.
    pub(super) fn room(&self) -> u64 {
        let pool = self.pool.borrow();
        let machine = self.messages.machine.borrow();
        machine.room_bytes() + pool.available().saturating_mul(pool.segment_bytes())
    }

    /// No segment can be prepared now: the one at work is left for its space if that helps, and
    /// whoever waits for one is told.
    pub fn no_segment_available(self: &Rc<Self>) {
        self.leave_for_space();
        if self.messages.machine.borrow().is_starved() && !self.pool.borrow().may_come() {
            let mut releases = Vec::new();
            self.messages
                .machine
                .borrow_mut()
                .fail_waiting(&mut releases);
            if !releases.is_empty() {
                self.report_trouble();
            }
            let error = self.pool.borrow().lack().error();
            self.release_messages(releases, error);
            self.turn_over(&self.messages);
        }
        self.messages.room.notify_one();
    }

    /// Why mail is refused. Whatever can make space is set going: the allocator may have all the segments
    /// that it wants, and would do nothing, while these are less room than the mail needs.
    pub(super) fn refusal(self: &Rc<Self>) -> SpoolError {
        self.make_room();
        self.report_trouble();
        self.pool.borrow().lack().error()
    }

    pub(super) fn make_room(self: &Rc<Self>) {
        self.leave_for_space();
        self.compactor.notify_one();
        self.rewriter.notify_one();
        self.ask_others_for_space();
    }

    /// Why mail that asks for more than is left is refused. Somebody who asks for much is no trouble while there
    /// is room for others.
    pub(super) fn refusal_of_size(self: &Rc<Self>) -> SpoolError {
        if !self.has_enough_room() {
            return self.refusal();
        }
        self.make_room();
        self.pool.borrow().lack().error()
    }

    /// Says what keeps mail from being taken, once while that lasts.
    pub fn report_trouble(&self) {
        let lack = self.pool.borrow().lack();
        let is_new = self
            .shortage
            .borrow_mut()
            .begin(lack.trouble(), clock::now());
        if is_new {
            (self.sink)(self.note_of(&lack));
        }
    }

    fn note_of(&self, lack: &Lack) -> Note {
        let error = lack.to_string();
        let pool = self.pool.borrow();
        match lack.trouble() {
            Trouble::Space => Note::NoSpace {
                reason: error,
                used_bytes: pool.used_bytes(),
                free_bytes: pool.free_bytes(),
            },
            Trouble::Disk => Note::DiskFails { error },
            Trouble::Gone => Note::Gone {
                error,
                messages: self.books.borrow().messages.live_messages() as u64,
                is_last: false,
            },
        }
    }

    /// What a look at the spool's names has found.
    pub fn seen(&self, lack: Option<Lack>) {
        let is_something = lack.is_some();
        self.pool.borrow_mut().seen(lack);
        if is_something {
            self.report_trouble();
        }
    }

    /// Takes back what was said, if it is over. What can make room is set going, since perhaps no client asks any more.
    pub fn check_recovered(self: &Rc<Self>, now: Now) {
        if !self.shortage.borrow().is_said() {
            return;
        }
        self.make_room();
        self.allocator.notify_one();
        let is_hindered = self.pool.borrow().missing().is_some();
        if is_hindered || !self.has_enough_room() || !self.outcomes_have_reserve() {
            return;
        }
        let passed = self.shortage.borrow_mut().passed(now);
        for trouble in passed {
            (self.sink)(match trouble {
                Trouble::Space => Note::SpaceAgain,
                Trouble::Disk => Note::DiskWorks,
                Trouble::Gone => Note::ThereAgain,
            });
        }
    }

    /// Outcomes of ours may lean on segments at work of other cores, whose mail is long gone as well.
    pub(super) fn ask_others_for_space(self: &Rc<Self>) {
        if self.has_asked.replace(true) {
            return;
        }
        (self.sink)(Note::SpaceWanted);
        let shared = self.clone();
        spawn(async move {
            sleep(ASK_PAUSE).await;
            shared.has_asked.set(false);
        });
    }

    /// Else a segment would stay the one at work for ever whose mail is long gone, but which has too
    /// little room for new mail, or which outcomes lean on. One that is all dead costs two headers, whatever
    /// is used of it; one with live mail must be worth the copies.
    pub(super) fn leave_for_space(&self) {
        if planted(Bug::SpaceNotLeft) {
            return;
        }
        let mut machine = self.messages.machine.borrow_mut();
        let helps = {
            let books = &self.books.borrow().messages;
            let segment_bytes = self.pool.borrow().segment_bytes();
            let is_dead = |segment: &SegmentRef| books.is_dead(segment.generation);
            let is_worth_it = |(segment, used): (&SegmentRef, u64)| {
                books.is_worth_leaving(segment.generation, used, segment_bytes)
            };
            machine.at_rest().is_some_and(is_dead) || machine.leavable().is_some_and(is_worth_it)
        };
        if !helps {
            return;
        }
        machine.leave();
        let sealed = machine.take_sealed();
        drop(machine);
        self.messages_sealed(sealed);
        self.compactor.notify_one();
    }
}
