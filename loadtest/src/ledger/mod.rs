//! The ledger: for every recipient of every message, what the source was told and what arrived.
//!
//! Promise: whatever was accepted and did not arrive once, intact, at its recipient is named, unless
//! the sink refused the recipient for good and one report to the sender says so.
//! Not here: sockets, clocks, percentages.
//!
//! Source and sink write in any order; a message may well arrive before its 250 is read.

pub mod arrivals;
pub mod book;
pub mod delivery;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::mail::address::Addressing;

/// Recipients that one run can keep account of.
pub const CELLS_MAX: u64 = (CHUNK_CELLS * CHUNKS) as u64;
const CHUNK_CELLS: usize = 1 << 16;
const CHUNKS: usize = 1 << 14;
/// Lost, duplicated or corrupted recipients that are named; more are only counted.
const EXAMPLES_MAX: usize = 20;

/// What the source knows of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The connection broke after the end of data was sent: the relay may have it or not.
    Open = 1,
    /// A reply said no.
    Refused = 2,
    /// 250 for the recipient and for the data.
    Accepted = 3,
}

// One byte per recipient, a cell.
const FATE: u8 = 0b0000_0011;
const ARRIVED_ONE: u8 = 0b0000_0100;
const ARRIVED: u8 = 0b0001_1100;
const BOUNCED: u8 = 0b0010_0000;
const CORRUPTED: u8 = 0b0100_0000;
const CONDEMNED: u8 = 0b1000_0000;

/// A cell with what the source says.
pub fn with_fate(cell: u8, fate: Fate) -> u8 {
    (cell & !FATE) | fate as u8
}

/// A cell with one arrival more; the count stops at its bound.
pub fn with_arrival(cell: u8, intact: bool) -> u8 {
    let more = if cell & ARRIVED == ARRIVED {
        0
    } else {
        ARRIVED_ONE
    };
    (cell + more) | if intact { 0 } else { CORRUPTED }
}

/// A cell with a report to the sender.
pub fn with_bounce(cell: u8) -> u8 {
    cell | BOUNCED
}

/// A cell whose recipient the sink has refused for good: reason enough for a report.
pub fn condemned(cell: u8) -> u8 {
    cell | CONDEMNED
}

/// Somebody has reported on this recipient.
pub fn is_bounced(cell: u8) -> bool {
    cell & BOUNCED != 0
}

fn arrivals(cell: u8) -> u8 {
    (cell & ARRIVED) / ARRIVED_ONE
}

fn is_accepted(cell: u8) -> bool {
    cell & FATE == Fate::Accepted as u8
}

/// Accepted, and either delivered or reported back to the sender.
fn is_settled(cell: u8) -> bool {
    is_accepted(cell) && (arrivals(cell) > 0 || is_bounced(cell))
}

/// A message at the sink's end of data.
pub struct Arrival<'a> {
    pub run: &'a str,
    pub n: u64,
    pub recipients: &'a [String],
    pub intact: bool,
}

pub struct Ledger {
    pub addressing: Addressing,
    chunks: Box<[OnceLock<Box<[AtomicU8]>>]>,
    accepted: AtomicU64,
    settled: AtomicU64,
    arrived: AtomicU64,
    unknown: AtomicU64,
    misdelivered: AtomicU64,
    reported_again: AtomicU64,
}

impl Ledger {
    pub fn new(addressing: Addressing) -> Self {
        Self {
            addressing,
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            accepted: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            misdelivered: AtomicU64::new(0),
            reported_again: AtomicU64::new(0),
        }
    }

    /// Messages that fit: `n` must be less.
    pub fn messages_max(&self) -> u64 {
        CELLS_MAX / u64::from(self.addressing.recipients)
    }

    fn cell(&self, n: u64, i: u32) -> &AtomicU8 {
        let index = (n * u64::from(self.addressing.recipients) + u64::from(i)) as usize;
        let chunk = self.chunks[index / CHUNK_CELLS]
            .get_or_init(|| (0..CHUNK_CELLS).map(|_| AtomicU8::new(0)).collect());
        &chunk[index % CHUNK_CELLS]
    }

    /// Says what the cell was before.
    fn change(&self, n: u64, i: u32, change: impl Fn(u8) -> u8) -> u8 {
        let update = |cell| Some(change(cell));
        let cell = self.cell(n, i);
        let (Ok(before) | Err(before)) =
            cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        let after = change(before);
        if is_accepted(after) && !is_accepted(before) {
            self.accepted.fetch_add(1, Ordering::Relaxed);
        }
        if is_settled(after) && !is_settled(before) {
            self.settled.fetch_add(1, Ordering::Relaxed);
        }
        before
    }

    /// The source learned what became of recipient `i` of message `n`. Said once per recipient.
    pub fn source_says(&self, n: u64, i: u32, fate: Fate) {
        self.change(n, i, |cell| with_fate(cell, fate));
    }

    /// The sink has a message and is about to say 250.
    pub fn arrived(&self, arrival: &Arrival<'_>) {
        if !self.is_ours(arrival.run, arrival.n) {
            self.unknown.fetch_add(1, Ordering::Relaxed);
            return;
        }
        for (hint, address) in arrival.recipients.iter().enumerate() {
            match self
                .addressing
                .recipient_index(arrival.n, address, hint as u32)
            {
                Some(i) => self.arrived_at(arrival.n, i, arrival.intact),
                None => _ = self.misdelivered.fetch_add(1, Ordering::Relaxed),
            }
        }
    }

    fn is_ours(&self, run: &str, n: u64) -> bool {
        run == self.addressing.run && n < self.messages_max()
    }

    fn arrived_at(&self, n: u64, i: u32, intact: bool) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        self.change(n, i, |cell| with_arrival(cell, intact));
    }

    /// So many recipients' mail came to a host that is none of their domain's.
    pub fn misdelivered(&self, recipients: u64) {
        self.misdelivered.fetch_add(recipients, Ordering::Relaxed);
    }

    /// A message without the ledger's marks arrived.
    pub fn unknown_arrived(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// The sink is about to refuse message `n` for good, to these recipients or (`None`) to all.
    pub fn refused_for_good(&self, run: &str, n: u64, recipients: Option<&[String]>) {
        if !self.is_ours(run, n) {
            return;
        }
        let Some(recipients) = recipients else {
            for i in 0..self.addressing.recipients {
                self.change(n, i, condemned);
            }
            return;
        };
        for (hint, address) in recipients.iter().enumerate() {
            if let Some(i) = self.addressing.recipient_index(n, address, hint as u32) {
                self.change(n, i, condemned);
            }
        }
    }

    /// A report arrived that says message `n` could not be delivered to `failed`. A report that
    /// names nobody counts for the only recipient, if there is only one.
    pub fn bounced(&self, run: &str, n: u64, failed: &[String]) {
        if !self.is_ours(run, n) {
            return self.unknown_arrived();
        }
        let bounce = |i| {
            if is_bounced(self.change(n, i, with_bounce)) {
                self.reported_again.fetch_add(1, Ordering::Relaxed);
            }
        };
        if failed.is_empty() && self.addressing.recipients == 1 {
            return bounce(0);
        }
        if failed.is_empty() {
            return self.unknown_arrived();
        }
        for (hint, address) in failed.iter().enumerate() {
            match self.addressing.recipient_index(n, address, hint as u32) {
                Some(i) => bounce(i),
                None => self.unknown_arrived(),
            }
        }
    }

    /// Recipients accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Recipients that got something so far, duplicates included.
    pub fn arrivals(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Recipients accepted, but neither delivered nor bounced yet.
    pub fn outstanding(&self) -> u64 {
        let settled = self.settled.load(Ordering::Relaxed);
        self.accepted().saturating_sub(settled)
    }

    /// Recipients delivered or bounced so far, of those accepted.
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Adds up the first `messages` messages.
    pub fn verdict(&self, messages: u64) -> Verdict {
        let mut verdict = Verdict {
            unknown: self.unknown.load(Ordering::Relaxed),
            misdelivered: self.misdelivered.load(Ordering::Relaxed),
            reported_again: self.reported_again.load(Ordering::Relaxed),
            ..Verdict::default()
        };
        for n in 0..messages.min(self.messages_max()) {
            for i in 0..self.addressing.recipients {
                let cell = self.cell(n, i).load(Ordering::Relaxed);
                let flaw = verdict.add(cell);
                if let Some(flaw) = flaw {
                    verdict.give_example(|| self.example(flaw, n, i));
                }
            }
        }
        verdict
    }

    fn example(&self, flaw: &str, n: u64, i: u32) -> String {
        format!(
            "{flaw}: {}-{n} to {}",
            self.addressing.run,
            self.address(n, i)
        )
    }

    fn address(&self, n: u64, i: u32) -> String {
        let mut address = Vec::new();
        self.addressing.write_recipient(n, i, &mut address);
        String::from_utf8_lossy(&address).into_owned()
    }

    /// One line per recipient of the first `messages` messages: id, address, fate.
    pub fn write_fates(&self, messages: u64, out: &mut impl std::io::Write) -> std::io::Result<()> {
        for n in 0..messages.min(self.messages_max()) {
            for i in 0..self.addressing.recipients {
                let fate = match self.cell(n, i).load(Ordering::Relaxed) & FATE {
                    1 => "open",
                    2 => "refused",
                    3 => "accepted",
                    _ => continue,
                };
                writeln!(
                    out,
                    "{}-{n} {} {fate}",
                    self.addressing.run,
                    self.address(n, i)
                )?;
            }
        }
        Ok(())
    }
}

/// The ledger's sums. Everything but `unknown` counts recipients.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Verdict {
    pub accepted: u64,
    pub refused: u64,
    /// The connection broke before the answer: not accepted, though it may arrive.
    pub open: u64,
    /// Accepted and arrived.
    pub delivered: u64,
    /// Accepted, did not arrive, and the sender was told.
    pub bounced: u64,
    /// Accepted, did not arrive, and nobody was told.
    pub lost: u64,
    /// Arrived more than once.
    pub duplicated: u64,
    /// Arrivals beyond the first one (at most 6 per recipient are counted).
    pub extra_copies: u64,
    /// Arrived with another body, or with other header lines, than were sent.
    pub corrupted: u64,
    /// Arrived at an address that the message was not sent to, or at another domain's host.
    pub misdelivered: u64,
    /// Refused by a reply, and delivered or reported on all the same.
    pub refused_but_delivered: u64,
    /// Arrived although the source never read a 250: harmless, the connection broke in between.
    pub open_but_delivered: u64,
    /// Both delivered and bounced.
    pub delivered_and_bounced: u64,
    /// Bounced, although the sink has never refused this recipient for good.
    pub bounced_without_cause: u64,
    /// Times that a recipient was reported on beyond the first.
    pub reported_again: u64,
    /// Messages or reports that belong to no message of this run.
    pub unknown: u64,
    /// The first few of what went wrong.
    pub examples: Vec<String>,
    /// What else went wrong.
    pub examples_left_out: u64,
}

impl Verdict {
    pub fn give_example(&mut self, example: impl FnOnce() -> String) {
        match self.examples.len() < EXAMPLES_MAX {
            true => self.examples.push(example()),
            false => self.examples_left_out += 1,
        }
    }

    /// With a word on those that are not shown.
    pub fn shown_examples(&self) -> impl Iterator<Item = String> {
        let left_out =
            (self.examples_left_out > 0).then(|| format!("and {} more", self.examples_left_out));
        self.examples.iter().cloned().chain(left_out)
    }

    /// What is usually zero.
    pub fn seldom(&self) -> [(&'static str, u64); 9] {
        [
            ("refused", self.refused),
            ("open when the connection broke", self.open),
            ("of these delivered", self.open_but_delivered),
            ("refused but delivered", self.refused_but_delivered),
            ("delivered and bounced", self.delivered_and_bounced),
            ("bounced without cause", self.bounced_without_cause),
            ("reported again", self.reported_again),
            ("misdelivered", self.misdelivered),
            ("unknown messages", self.unknown),
        ]
    }

    /// Counts one recipient and names what is wrong with it, the worst first.
    pub fn add(&mut self, cell: u8) -> Option<&'static str> {
        let copies = u64::from(arrivals(cell));
        let came = copies > 0;
        let bounced = is_bounced(cell);
        let mut flaw = None;
        match cell & FATE {
            fate if fate == Fate::Open as u8 => {
                self.open += 1;
                self.open_but_delivered += u64::from(came);
            }
            fate if fate == Fate::Refused as u8 => {
                self.refused += 1;
                self.refused_but_delivered += u64::from(came || bounced);
                flaw = (came || bounced).then_some("refused but delivered");
            }
            fate if fate == Fate::Accepted as u8 => {
                self.accepted += 1;
                self.delivered += u64::from(came);
                self.bounced += u64::from(bounced && !came);
                self.delivered_and_bounced += u64::from(bounced && came);
                self.lost += u64::from(!bounced && !came);
                flaw = (!bounced && !came).then_some("lost");
            }
            _ => self.open_but_delivered += u64::from(came),
        }
        if bounced && cell & CONDEMNED == 0 {
            self.bounced_without_cause += 1;
            flaw = Some("bounced without cause");
        }
        if copies > 1 {
            self.duplicated += 1;
            self.extra_copies += copies - 1;
            flaw = Some("duplicated");
        }
        if cell & CORRUPTED != 0 {
            self.corrupted += 1;
            flaw = Some("corrupted");
        }
        flaw
    }

    /// Nothing went wrong. Duplicates (and what was refused in a crash and yet delivered) may be
    /// forgiven; lost and corrupted messages and false reports never.
    pub fn is_clean(&self, allow_duplicates: bool) -> bool {
        let twice = self.duplicated
            + self.reported_again
            + self.refused_but_delivered
            + self.delivered_and_bounced;
        let wrong = self.lost + self.corrupted + self.misdelivered + self.bounced_without_cause;
        wrong == 0 && (allow_duplicates || twice == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::tests::source_options;

    fn ledger(flags: &str) -> Ledger {
        Ledger::new(Addressing::new("r1", &source_options(flags)).unwrap())
    }

    fn arrive(ledger: &Ledger, n: u64, recipients: &[&str], intact: bool) {
        let recipients: Vec<String> = recipients.iter().map(|r| r.to_string()).collect();
        ledger.arrived(&Arrival {
            run: "r1",
            n,
            recipients: &recipients,
            intact,
        });
    }

    const USER: &str = "user0@d0000.test";

    /// Ten accepted and delivered messages.
    fn ten() -> Ledger {
        let ledger = ledger("");
        for n in 0..10 {
            arrive(&ledger, n, &[USER], true);
            ledger.source_says(n, 0, Fate::Accepted);
        }
        ledger
    }

    #[test]
    fn ten_good_messages_are_clean() {
        let verdict = ten().verdict(10);
        assert!(verdict.is_clean(false));
        assert_eq!((verdict.accepted, verdict.delivered), (10, 10));
        assert!(verdict.examples.is_empty());
    }

    #[test]
    fn what_is_not_shown_of_many_losses_is_counted() {
        let ledger = ten();
        for n in 10..12 {
            ledger.source_says(n, 0, Fate::Accepted);
        }
        let mut verdict = ledger.verdict(12);
        assert_eq!(verdict.shown_examples().count(), 2);
        for _ in 0..EXAMPLES_MAX {
            verdict.give_example(|| "lost: another".to_owned());
        }
        assert_eq!(
            verdict.shown_examples().last().as_deref(),
            Some("and 2 more")
        );
    }

    #[test]
    fn canary_a_lost_message_is_noticed() {
        let ledger = ten();
        ledger.source_says(10, 0, Fate::Accepted);
        assert_eq!(ledger.outstanding(), 1);
        let verdict = ledger.verdict(11);
        assert_eq!(verdict.lost, 1);
        assert!(!verdict.is_clean(true));
        assert_eq!(verdict.examples, ["lost: r1-10 to user0@d0000.test"]);
    }

    #[test]
    fn canary_a_duplicated_message_is_noticed() {
        let ledger = ten();
        arrive(&ledger, 4, &[USER], true);
        let verdict = ledger.verdict(10);
        assert_eq!((verdict.duplicated, verdict.extra_copies), (1, 1));
        assert!(!verdict.is_clean(false));
        assert!(verdict.is_clean(true));
    }

    #[test]
    fn canary_a_corrupted_message_is_noticed() {
        let ledger = ten();
        ledger.source_says(10, 0, Fate::Accepted);
        arrive(&ledger, 10, &[USER], false);
        let verdict = ledger.verdict(11);
        assert_eq!((verdict.corrupted, verdict.lost), (1, 0));
        assert!(!verdict.is_clean(true));
    }

    #[test]
    fn canary_a_message_at_the_wrong_address_is_noticed() {
        let ledger = ten();
        arrive(&ledger, 3, &["user0@d0001.test"], true);
        assert!(!ledger.verdict(10).is_clean(true));
    }

    #[test]
    fn every_recipient_counts_alone() {
        let ledger = ledger("--recipients 3");
        for i in 0..3 {
            ledger.source_says(
                0,
                i,
                if i == 1 {
                    Fate::Refused
                } else {
                    Fate::Accepted
                },
            );
        }
        arrive(&ledger, 0, &["user2@d0000.test"], true);
        let verdict = ledger.verdict(1);
        assert_eq!((verdict.accepted, verdict.refused), (2, 1));
        assert_eq!((verdict.delivered, verdict.lost), (1, 1));
    }

    #[test]
    fn a_bounce_settles_an_accepted_recipient() {
        let ledger = ledger("--recipients 2");
        ledger.source_says(0, 0, Fate::Accepted);
        ledger.source_says(0, 1, Fate::Accepted);
        arrive(&ledger, 0, &["user0@d0000.test"], true);
        let second = ["user1@d0000.test".to_string()];
        ledger.refused_for_good("r1", 0, Some(&second));
        ledger.bounced("r1", 0, &second);
        assert_eq!(ledger.outstanding(), 0);
        let verdict = ledger.verdict(1);
        assert_eq!(
            (verdict.delivered, verdict.bounced, verdict.lost),
            (1, 1, 0)
        );
        assert!(verdict.is_clean(false));
    }

    #[test]
    fn canary_a_recipient_that_was_refused_for_good_needs_a_report() {
        let ledger = ten();
        ledger.source_says(10, 0, Fate::Accepted);
        ledger.refused_for_good("r1", 10, None);
        let verdict = ledger.verdict(11);
        assert_eq!((verdict.lost, verdict.bounced), (1, 0));
        assert!(!verdict.is_clean(true));
    }

    #[test]
    fn canary_a_report_on_a_recipient_that_nobody_refused_is_noticed() {
        let ledger = ten();
        ledger.source_says(10, 0, Fate::Accepted);
        ledger.bounced("r1", 10, &[USER.into()]);
        let verdict = ledger.verdict(11);
        assert_eq!((verdict.lost, verdict.bounced_without_cause), (0, 1));
        assert!(!verdict.is_clean(true));
        let example = "bounced without cause: r1-10 to user0@d0000.test";
        assert_eq!(verdict.examples, [example]);
    }

    #[test]
    fn canary_a_second_report_is_noticed() {
        let ledger = ten();
        ledger.source_says(10, 0, Fate::Accepted);
        ledger.refused_for_good("r1", 10, Some(&[USER.into()]));
        ledger.bounced("r1", 10, &[USER.into()]);
        assert!(ledger.verdict(11).is_clean(false));
        ledger.bounced("r1", 10, &[USER.into()]);
        let verdict = ledger.verdict(11);
        assert_eq!((verdict.bounced, verdict.reported_again), (1, 1));
        assert!(!verdict.is_clean(false));
        assert!(verdict.is_clean(true));
    }

    #[test]
    fn an_open_message_that_arrives_is_no_failure_but_a_refused_one_is() {
        let ledger = ledger("");
        ledger.source_says(0, 0, Fate::Open);
        arrive(&ledger, 0, &[USER], true);
        assert!(ledger.verdict(1).is_clean(false));
        ledger.source_says(1, 0, Fate::Refused);
        arrive(&ledger, 1, &[USER], true);
        let verdict = ledger.verdict(2);
        assert_eq!(
            (verdict.open_but_delivered, verdict.refused_but_delivered),
            (1, 1)
        );
        assert!(!verdict.is_clean(false));
    }

    #[test]
    fn strangers_are_counted_apart() {
        let ledger = ten();
        ledger.arrived(&Arrival {
            run: "other",
            n: 0,
            recipients: &[],
            intact: true,
        });
        ledger.unknown_arrived();
        let verdict = ledger.verdict(10);
        assert_eq!(verdict.unknown, 2);
        assert!(verdict.is_clean(false));
    }

    #[test]
    fn many_copies_do_not_overflow() {
        let ledger = ten();
        for _ in 0..20 {
            arrive(&ledger, 0, &[USER], true);
        }
        let verdict = ledger.verdict(10);
        assert_eq!(verdict.duplicated, 1);
        assert_eq!(verdict.delivered, 10);
    }
}
