//! Everything heals: whoever comes is served soon, all mail goes, and neither a disk that dies nor a dead host with much
//! mail keeps others from that.

use super::{PLENTY, Play, quiet_links};
use crate::hog::{Hog, LETTER_BYTES};
use crate::logged::Logged;
use crate::neighbours::{Ailment, Neighbour};
use crate::plan::Choice;
use crate::probe;
use crate::relay::SPOOL;
use ringpost::io::simulated::Faults;
use ringpost::spool;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Once all hosts are well, all mail has gone within this: the longest wait of a recipient, then that of a hop (five
/// minutes), and the same for a report, which has also waited for its window.
const EMPTY_MAX: Duration = Duration::from_secs(2 * (100 + 300));
/// A letter has so few recipients that all are reported within this many of its first window.
const WINDOWS_MAX: u32 = 1 + 10 + 4 * 60;
/// A spool that a hog can fill, in segments a core.
const SEGMENTS_FOR_HOG: u64 = 24;
/// All letters of a hog have begun, or all have been answered, within this.
const RUSH_MAX: Duration = Duration::from_secs(60);
/// The disk gives nothing but errors for so long.
const DISK_DEAD_FOR: Duration = Duration::from_secs(15);
/// Mail that was held for the disk has gone within this. A delivery core may have one connection to the host.
const DISK_BACK_MAX: Duration = Duration::from_secs(60);

impl Play {
    /// Nothing goes wrong any more: whoever comes is served soon, and all mail goes.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.world.is_healed.set(true);
        self.host.set_links(quiet_links());
        self.start()?;
        // Those of before have gone, or are let go of.
        self.pass(Duration::from_secs(2), || false)?;
        let window = self.setting.config.schedule.window_initial as usize;
        let open_max = window * usize::from(self.cores);
        let neighbours = self.network.neighbours.iter();
        let is_one = |it: &&Rc<Neighbour>| it.ailment() != Ailment::Well;
        let has_some = self.world.plan.allows(Choice::Neighbours);
        for neighbour in neighbours.filter(|it| has_some && is_one(it)) {
            let neighbour = neighbour.clone();
            self.connect(move |_, end| neighbour.send_letters(end, open_max));
        }
        let probes = 2 + self.host.below(4);
        for _ in 0..probes.min(self.world.plan.most(Choice::Probes)) {
            self.connect(probe::send);
            let pause = Duration::from_micros(self.host.below(3_000_000) as u64);
            self.pass(pause, || false)?;
        }
        self.empty()?;
        if self.world.plan.allows(Choice::BadDisk) {
            self.outlive_disk()?;
        }
        self.empty()?;
        self.note_counted();
        self.drain()?;
        self.read_log()?;
        if let Some(complaint) = self.logged.as_ref().and_then(Logged::end) {
            return Err(complaint);
        }
        self.host.kill();
        if self.world.plan.allows(Choice::Hog) {
            self.outlive_hog()?;
            self.drain()?;
            self.host.kill();
        }
        self.check_nothing_is_left()
    }

    /// With a small spool: more mail comes at once for a dead host than half of it holds, and then some more. Others are
    /// served as if nothing were.
    fn outlive_hog(&mut self) -> Result<(), String> {
        let settings = &mut self.setting.config.spool.settings;
        let bytes = SEGMENTS_FOR_HOG * settings.segment_bytes;
        settings.spool_bytes_max = Some(bytes);
        self.start_with(1)?;
        let leaves = Ailment::Leaves;
        let mut neighbours = self.network.neighbours.iter();
        if let Some(neighbour) = neighbours.find(|it| it.ailment() == leaves) {
            neighbour.gets_busy();
        }
        let hog = Hog::new(&self.world, leaves.domain());
        let rush = bytes as usize / LETTER_BYTES;
        for _ in 0..rush {
            let hog = hog.clone();
            self.connect(move |world, end| hog.send(world, end));
        }
        if !self.pass(RUSH_MAX, || hog.begun() == rush)? {
            return Err(format!("of {rush} letters of a hog {} begin", hog.begun()));
        }
        hog.go_on();
        if !self.pass(RUSH_MAX, || hog.ended() == rush)? {
            return Err(format!("of {rush} letters of a hog {} end", hog.ended()));
        }
        let most = bytes as usize / 2 / LETTER_BYTES + 1;
        let accepted = hog.accepted.get();
        tell!(self.world, "[a hog has {accepted} of {rush} letters in]");
        if accepted == 0 || accepted > most {
            return Err(format!(
                "of {rush} letters of a hog {accepted} are taken, not up to {most}"
            ));
        }
        // Until it has its share, one by one.
        while hog.refused.get() <= rush - accepted {
            let (sender, before) = (hog.clone(), hog.ended());
            self.connect(move |world, end| sender.send(world, end));
            if !self.pass(RUSH_MAX, || hog.ended() > before)? {
                return Err("a letter of a hog does not end".to_owned());
            }
        }
        let accepted = hog.accepted.get();
        if accepted > most {
            return Err(format!(
                "{accepted} letters of a hog are taken, not up to {most}"
            ));
        }
        self.world.seen.borrow_mut().hogs += 1;
        (0..2).for_each(|_| self.connect(probe::send));
        self.pass(Duration::from_secs(10), || false)?;
        self.note_counted();
        self.empty()
    }

    /// Mail waits for a host, and the disk dies or is full. With a dead one little of it goes out, since none of that can be
    /// recorded, and all once the disk is there again.
    fn outlive_disk(&self) -> Result<(), String> {
        let mut neighbours = self.network.neighbours.iter();
        let well = neighbours.find(|it| it.ailment() == Ailment::Well);
        let well = well.expect("there is one").clone();
        let sender = well.clone();
        self.connect(move |_, end| sender.send_letters(end, usize::MAX));
        self.pass(Duration::from_secs(20), || well.letters_sent().is_some())?;
        let Some(sent) = well.letters_sent() else {
            return Err(format!("letters to {:?} are not accepted", well.ailment()));
        };
        match self.host.one_in(2) {
            true => self.outlive_dead_disk(&well, sent),
            false => self.outlive_full_disk(&well, sent),
        }
    }

    fn outlive_dead_disk(&self, well: &Neighbour, sent: usize) -> Result<(), String> {
        let before = well.letters_taken();
        tell!(
            self.world,
            "[the disk dies, {before} of {sent} letters have gone]"
        );
        self.host.set_faults(Faults {
            is_dead: true,
            ..self.lacks
        });
        self.pass(DISK_DEAD_FOR, || false)?;
        let gone = well.letters_taken() - before;
        let gate = self.setting.config.delivery.unrecorded_max;
        let most = gate * usize::from(self.cores) + 2 * well.connections();
        if gone > most {
            return Err(format!(
                "{gone} letters have gone out with a dead disk, which takes no outcomes: more than {most}"
            ));
        }
        self.world.seen.borrow_mut().held_for_disk += u64::from(sent - before > most);
        self.host.set_faults(self.lacks);
        self.await_letters(well, sent)
    }

    /// Room comes of mail that goes, so none is held.
    fn outlive_full_disk(&self, well: &Neighbour, sent: usize) -> Result<(), String> {
        let before = well.letters_taken();
        tell!(
            self.world,
            "[the disk is full, {before} of {sent} letters have gone]"
        );
        self.world.seen.borrow_mut().sent_on_full_disk += u64::from(before < sent);
        self.host.set_space(PLENTY, PLENTY);
        let all_gone = self.await_letters(well, sent);
        self.host.set_space(PLENTY, 0);
        all_gone
    }

    fn await_letters(&self, well: &Neighbour, sent: usize) -> Result<(), String> {
        match self.pass(DISK_BACK_MAX, || well.letters_taken() == sent)? {
            true => Ok(()),
            false => Err(format!(
                "the disk works, and {} letters are held",
                sent - well.letters_taken()
            )),
        }
    }

    fn empty(&self) -> Result<(), String> {
        let relay = self.relay.as_ref().expect("it runs");
        let windows = self.setting.config.delivery.report_window * WINDOWS_MAX;
        let until = self.host.now() + EMPTY_MAX + windows;
        // What nobody has a 250 for, and reports that no host will take, go with their lifetime.
        let ledger = self.world.ledger.borrow();
        let idle_until = until + ledger.lifetime + ledger.report_lifetime;
        drop(ledger);
        loop {
            self.pass(Duration::from_secs(1), || false)?;
            let left = self.world.ledger.borrow().at_the_end(self.world.now());
            let is_given_back = relay.memory_held() == 0 && relay.shares_are_given_back();
            let is_idle = Rc::strong_count(&self.clients) == 1 && is_given_back;
            if left.is_empty() && is_idle {
                return Ok(());
            }
            let now = self.host.now();
            if let Some(complaint) = left.first().filter(|_| now > until) {
                return Err(complaint.clone());
            }
            if now > idle_until {
                let held = relay.memory_held();
                return Err(match held {
                    0 => "the relay is idle, and some share is not given back".to_owned(),
                    _ => format!("the relay is idle and holds {held} bytes"),
                });
            }
        }
    }

    fn check_nothing_is_left(&self) -> Result<(), String> {
        let left = spool::recovery::inspect::verify(Path::new(SPOOL))
            .map_err(|error| error.to_string())?;
        if left.exit_status() != 0 {
            return Err(format!("it is damaged: {left}"));
        }
        let opened = self.open(1)?;
        self.check(&opened.messages)?;
        match &opened.messages[..] {
            [] => Ok(()),
            [left, ..] => Err(format!("{} is left: {:?}", left.id, left.states)),
        }
    }
}
