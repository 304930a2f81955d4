//! Upper bounds as promises: how long mail to a host without fault may wait, how many connections mail may cause, and
//! that nobody is put off, returned, or told of, for what was said to somebody else.

use crate::ledger::{Ledger, parse_address, site_of};
use ringpost::message::{MessageId, Recipient};
use ringpost::schedule::judge::Verdict;
use ringpost::schedule::settle::Decision;
use ringpost::time::Now;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest wait at a site whose hosts are without fault, from queue to RCPT, where the core may have a connection for
/// each site: twice the longest of 2,000 seeds.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The same where there are fewer. Others share them, and hold each for a time-out or two, which is 5 s here. The
/// longest with two connections was 12.0 s; from three on it is one time-out.
const WAIT_FOR_ROOM_MAX: Duration = Duration::from_secs(20);

/// Connections that failed within so little time failed together.
const TOGETHER: Duration = Duration::from_millis(100);

/// What is counted since the relay was last started.
#[derive(Default)]
pub struct Bounds {
    /// Recipients that wait at a site without fault, by letter and index.
    queued: BTreeMap<(u32, usize), Waiting>,
    /// By core and site: jobs queued, and connections made.
    jobs: BTreeMap<(usize, usize), u32>,
    connections: BTreeMap<(usize, usize), u32>,
    /// By core and site: connections that open now, and those that were greeted and are still there.
    opening: BTreeMap<(usize, usize), u32>,
    greeted: BTreeMap<(usize, usize), u32>,
    /// Most connections that may open to a site while none has been greeted.
    pub opening_max: u32,
    /// By core and site: since when connections fail together, and how many have.
    failures: BTreeMap<(usize, usize), (Now, usize)>,
    /// The core may have a connection for each site.
    pub has_room_for_all: bool,
    pub longest_wait: Duration,
    /// Time that has passed while nobody came to anything.
    pub stood_still: Duration,
}

struct Waiting {
    since: Now,
    /// Time has passed while nobody came to anything, so its host may seem to be silent.
    is_excused: bool,
}

impl Bounds {
    /// A job waits at a site.
    pub fn queued<'a>(
        &mut self,
        (core, site): (usize, usize),
        recipients: impl Iterator<Item = &'a str>,
        now: Now,
    ) {
        *self.jobs.entry((core, site)).or_default() += 1;
        for address in recipients {
            if let Some((Some(index), letter)) = named(address) {
                let waiting = Waiting {
                    since: now,
                    is_excused: false,
                };
                self.queued.entry((letter, index)).or_insert(waiting);
            }
        }
    }

    /// A recipient waits at a site without fault.
    pub fn waits(&mut self, letter: u32, index: usize, now: Now) {
        let waiting = Waiting {
            since: now,
            is_excused: false,
        };
        self.queued.entry((letter, index)).or_insert(waiting);
    }

    /// A host of a site without fault is asked to take a recipient. A complaint if that took too long.
    pub fn offered(&mut self, address: &str, now: Now) -> Option<String> {
        let (who, letter) = named(address)?;
        let wait = now.since(self.queued.get(&(letter, who?))?.since);
        self.longest_wait = self.longest_wait.max(wait);
        let most = match self.has_room_for_all {
            true => WAIT_MAX,
            false => WAIT_FOR_ROOM_MAX,
        };
        (wait > most).then(|| format!("{address} has waited {wait:?} for a host without fault"))
    }

    /// Nobody has come to anything for so long: nobody's wait is the longer for it.
    pub fn stood_still(&mut self, passed: Duration) {
        self.stood_still += passed;
        for waiting in self.queued.values_mut() {
            waiting.since = waiting.since + passed;
            waiting.is_excused = true;
        }
    }

    /// A connection to a site begins to open. A complaint if as many as may be are opening to a site that has greeted none.
    pub fn opens(&mut self, core: usize, site: usize) -> Option<String> {
        let opening = self.opening.entry((core, site)).or_default();
        *opening += 1;
        let is_greeted = self.greeted.get(&(core, site)).is_some_and(|it| *it > 0);
        let is_too_many = !is_greeted && *opening > self.opening_max;
        is_too_many.then(|| {
            format!(
                "{opening} connections open to site {site}, which has greeted none that is there"
            )
        })
    }

    /// It does not open any more: it was greeted, or failed.
    pub fn has_opened(&mut self, core: usize, site: usize, is_greeted: bool) {
        *self.opening.entry((core, site)).or_default() -= 1;
        *self.greeted.entry((core, site)).or_default() += u32::from(is_greeted);
    }

    /// One that was greeted has ended.
    pub fn ended(&mut self, core: usize, site: usize) {
        *self.greeted.entry((core, site)).or_default() -= 1;
    }

    /// A site is connected to: at most once for each job, or twice where hosts break off.
    pub fn connected(&mut self, core: usize, site: usize, is_spotless: bool) -> Option<String> {
        let jobs = self.jobs.get(&(core, site)).copied().unwrap_or(0);
        let most = if is_spotless { jobs } else { 2 * jobs };
        let connections = self.connections.entry((core, site)).or_default();
        *connections += 1;
        (*connections > most)
            .then(|| format!("site {site} gets {connections} connections for {jobs} jobs"))
    }

    /// A connection that has carried nothing ends for the sake of another site: its job has one opened again.
    pub fn gave_way(&mut self, core: usize, site: usize) {
        *self.connections.entry((core, site)).or_default() -= 1;
    }

    /// No host of a site could be connected to, while so many jobs wait there. As many attempts together, and one whose
    /// job another connection took, are in order.
    pub fn connect_failed(
        &mut self,
        core: usize,
        site: usize,
        waiting: usize,
        now: Now,
    ) -> Option<String> {
        let failures = self.failures.entry((core, site)).or_insert((now, 0));
        if now.since(failures.0) > TOGETHER {
            *failures = (now, 0);
        }
        failures.1 += 1;
        let count = failures.1;
        (count > waiting.max(1) + 1).then(|| {
            format!(
                "{count} connections to site {site} fail together, and {waiting} jobs wait there"
            )
        })
    }
}

fn named(address: &str) -> Option<(Option<usize>, u32)> {
    parse_address(address.split('@').next().unwrap_or_default())
}

/// Whom a text speaks of: hosts name them.
pub fn names_in(text: &str) -> impl Iterator<Item = (Option<usize>, u32)> {
    let words = text.split(|it: char| !it.is_ascii_alphanumeric() && it != '.');
    words.filter_map(|word| parse_address(word.trim_matches('.')))
}

/// A reply about somebody else. `index` and `letter`: whom it is given to.
pub fn is_anothers(text: &str, index: usize, letter: u32) -> bool {
    names_in(text).any(|(who, of)| of != letter || who.is_some_and(|who| who != index))
}

impl Ledger {
    /// The client was told that the letter was accepted: its recipients at hosts without fault are served soon.
    pub fn expect_soon(&mut self, number: u32, now: Now) {
        let letter = &self.letters[&number];
        for recipient in &letter.envelope.recipients {
            let path = &recipient.forward_path;
            let site = site_of(path.domain_as_written());
            if site.is_some_and(|site| self.sites[site].is_spotless)
                && let Some((Some(index), letter)) = parse_address(path.local_part())
            {
                self.bounds.waits(letter, index, now);
            }
        }
    }

    /// What was decided about a recipient. A complaint if it is no affair of its own.
    pub fn decided(
        &mut self,
        id: MessageId,
        recipient: &Recipient,
        decision: &Decision,
    ) -> Option<String> {
        let path = &recipient.forward_path;
        let (Some(index), letter) = parse_address(path.local_part())? else {
            return None;
        };
        let text = &decision.diagnosis.text;
        if is_anothers(text, index, letter) {
            return Some(format!(
                "{id}: {path} is told what another was told: {text}"
            ));
        }
        let waited = self.bounds.queued.remove(&(letter, index));
        let has_no_excuse = waited.is_some_and(|waiting| !waiting.is_excused);
        let is_put_off = matches!(decision.verdict, Verdict::Defer | Verdict::Throttle);
        let mut fates = self.letters.get_mut(&letter)?.fates_of(index);
        let has_reason = fates.any(|fate| fate.put_off || fate.refused);
        (has_no_excuse && is_put_off && !has_reason)
            .then(|| format!("{path} is put off by a host without fault: {text}"))
    }
}
