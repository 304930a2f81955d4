//! Upper bounds as promises: how long mail to a host without fault may wait, whatever happens to other hosts. What mail
//! to hosts that are not well may cause is with the `neighbours`.

use crate::ledger::{Ledger, parse_address, site_of};
use ringpost::time::Now;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest wait at a site whose hosts are without fault, from 250 to RCPT.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// What is awaited since the relay was last started.
#[derive(Default)]
pub struct Bounds {
    /// Since when recipients wait at a site without fault, by letter and index. `None`: they need not be served soon any
    /// more, which may be so before the client hears its 250.
    waiting: BTreeMap<(u32, usize), Option<Now>>,
    /// Letters whose sender was put off.
    put_off: BTreeSet<u32>,
    /// Until then a core stands still, or nothing new is begun: what waits for that is excused.
    pub held_until: Now,
}

impl Bounds {
    /// A host of a site without fault is asked to take a recipient. A complaint if that took too long.
    pub fn offered(&mut self, address: &str, now: Now) -> Option<String> {
        let (who, letter) = parse_address(address)?;
        let since = self.waiting.insert((letter, who?), None)??;
        let wait = now.since(since.max(self.held_until));
        let is_late = wait > WAIT_MAX && !self.put_off.contains(&letter);
        is_late.then(|| format!("{address} has waited {wait:?} for a host without fault"))
    }

    /// A host without fault has put off a recipient, or all of a sender.
    pub fn put_off(&mut self, address: &str) {
        match parse_address(address) {
            Some((Some(index), letter)) => _ = self.waiting.insert((letter, index), None),
            Some((None, letter)) => _ = self.put_off.insert(letter),
            None => {}
        }
    }
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
                let waiting = self.bounds.waiting.entry((letter, index));
                waiting.or_insert(Some(now));
            }
        }
    }
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
