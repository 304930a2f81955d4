//! The hosts that a domain names: which are asked for next, how long they are waited for, and what follows from what
//! was heard. Pure: the time comes in.
//!
//! Promise: that there is no host for a domain's mail is said only where each that counts was answered for
//! ([`AnsweredFor`]), and a host of which nothing is heard keeps no mail from those that are known.
//! Not here: asking (`inquiry`).
//!
//! | known so far | then |
//! |---|---|
//! | no address | all are waited for until the end; further ones are asked for when those were heard, or [`ROUND_WAIT`] is over |
//! | some, and better or equal hosts may have others | these are waited for, for half of the time: the best come first (RFC 5321 section 5.1), and each equal one may be this relay |
//! | some, and only worse hosts may have others | these are waited for, for [`WORSE_WAIT`] |
//! | this relay | it and the hosts that are no better count no more |

use super::error::{ResolveError, mail_loop, no_answer};
use super::site::Host;
use crate::io::{Bug, planted};
use crate::remote::route::NextHop;
use crate::time::Now;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

/// Times that further hosts of a domain are asked for.
const ROUNDS_MAX: usize = 5;

/// Further hosts are asked for as well when none has shown an address for so long.
const ROUND_WAIT: Duration = Duration::from_secs(2);

/// How long hosts are waited for that are worse than one that is known.
const WORSE_WAIT: Duration = Duration::from_secs(1);

/// What was learned about one host.
pub(super) enum Learned {
    /// Not empty.
    Addresses(Vec<SocketAddr>),
    /// One of its addresses is this relay's.
    IsThisRelay,
    NoAddress,
    Failed(ResolveError),
}

/// The hosts that count, all of them: each was answered for, and none has an address. Made by [`Candidates`] alone, and
/// whatever is said for good about a domain's hosts is said with it.
struct AnsweredFor(Vec<Box<str>>);

pub(super) struct Candidates<'n> {
    /// By preference.
    names: &'n [(u16, Box<str>)],
    /// Of the first of them, those that were asked for. `None`: nothing yet.
    learned: Vec<Option<Learned>>,
    /// The preference of this relay, if it is among them.
    own: Option<u16>,
    at_a_time: usize,
    rounds_left: usize,
    last_round: Now,
    /// When the best that is known will do, though a better one may come.
    half: Now,
    end: Now,
    /// Since when only worse hosts than one that is known may have addresses.
    settled: Option<Now>,
}

impl<'n> Candidates<'n> {
    /// `names` come by preference, and are asked for in that order, `at_a_time` of them, until `end` at the latest.
    pub fn new(names: &'n [(u16, Box<str>)], at_a_time: usize, now: Now, end: Now) -> Self {
        Candidates {
            names,
            learned: Vec::new(),
            own: None,
            at_a_time,
            rounds_left: match planted(Bug::PartSpeaksForAll) {
                true => 1,
                false => ROUNDS_MAX,
            },
            last_round: now,
            half: now + end.since(now) / 2,
            end,
            settled: None,
        }
    }

    /// Which are to be asked for now.
    pub fn ask(&mut self, now: Now) -> Range<usize> {
        let from = self.learned.len();
        if self.rounds_left == 0 || !self.wants_more(now) {
            return from..from;
        }
        self.rounds_left -= 1;
        self.last_round = now;
        let to = self.names.len().min(from + self.at_a_time);
        self.learned.resize_with(to, || None);
        from..to
    }

    fn wants_more(&self, now: Now) -> bool {
        let Some(next) = self.next() else {
            return false;
        };
        let is_idle = self.open().next().is_none();
        match self.usable().last() {
            None => is_idle || now >= self.last_round + ROUND_WAIT,
            // Each that is as good may be this relay.
            Some((worst, ..)) => is_idle && next <= worst,
        }
    }

    pub fn learn(&mut self, index: usize, learned: Learned, now: Now) {
        if let Learned::IsThisRelay = learned {
            let preference = self.names[index].0;
            self.own = Some(self.own.map_or(preference, |own| own.min(preference)));
        }
        self.learned[index] = Some(learned);
        if !self.may_improve() {
            self.settled.get_or_insert(now);
        }
    }

    /// Nothing more is waited for. To be asked after [`Candidates::ask`].
    pub fn is_over(&self, now: Now) -> bool {
        self.open().next().is_none() || now >= self.end_of_wait()
    }

    /// When [`Candidates::ask`] or [`Candidates::is_over`] may say something else though nothing was learned.
    pub fn deadline(&self) -> Now {
        let is_more_wanted =
            self.rounds_left > 0 && self.next().is_some() && self.usable().next().is_none();
        match is_more_wanted {
            true => self.end.min(self.last_round + ROUND_WAIT),
            false => self.end_of_wait(),
        }
    }

    fn end_of_wait(&self) -> Now {
        if self.usable().next().is_none() || planted(Bug::SilentHostHoldsOthers) {
            return self.end;
        }
        match self.settled {
            Some(settled) if planted(Bug::FirstHostWins) => settled,
            Some(settled) if !self.may_improve() => self.half.min(settled + WORSE_WAIT),
            _ => self.half,
        }
    }

    /// No host is known, or one may still come that is as good as the best, or better.
    fn may_improve(&self) -> bool {
        let Some((best, ..)) = self.usable().next() else {
            return true;
        };
        let may_be = |(preference, _): (u16, _)| preference <= best;
        self.open().any(may_be) && !planted(Bug::FirstHostWins)
    }

    fn counts(&self, preference: u16) -> bool {
        self.own.is_none_or(|own| preference < own)
    }

    /// The preference of the next that was not asked for, if it counts.
    fn next(&self) -> Option<u16> {
        let (preference, _) = self.names.get(self.learned.len())?;
        self.counts(*preference).then_some(*preference)
    }

    /// Those that were asked for, and count.
    fn asked(&self) -> impl DoubleEndedIterator<Item = (u16, &Box<str>, Option<&Learned>)> {
        let asked = self.names.iter().zip(&self.learned);
        asked
            .filter(|((preference, _), _)| self.counts(*preference))
            .map(|((preference, name), learned)| (*preference, name, learned.as_ref()))
    }

    fn open(&self) -> impl Iterator<Item = (u16, &Box<str>)> {
        let asked = self.asked();
        asked.filter_map(|(preference, name, learned)| match learned {
            None => Some((preference, name)),
            Some(_) => None,
        })
    }

    /// Those that have addresses.
    fn usable(&self) -> impl DoubleEndedIterator<Item = (u16, &Box<str>, &Vec<SocketAddr>)> {
        let asked = self.asked();
        asked.filter_map(|(preference, name, learned)| match learned {
            Some(Learned::Addresses(addresses)) => Some((preference, name, addresses)),
            _ => None,
        })
    }

    /// There are hosts that could not be learned about.
    pub fn has_unanswered(&self) -> bool {
        self.asked()
            .any(|(_, _, learned)| matches!(learned, None | Some(Learned::Failed(_))))
    }

    /// There are more hosts than are used.
    pub fn leaves_out(&self) -> bool {
        self.learned.len() < self.names.len() || self.usable().count() > self.at_a_time
    }

    /// The best hosts that are known, by preference. Not empty, and without this relay.
    pub fn outcome(&self, next_hop: &NextHop, domain: &str) -> Result<Vec<Host>, ResolveError> {
        let usable = self.usable().take(self.at_a_time);
        let mut hosts: Vec<Host> = usable
            .map(|(preference, name, addresses)| Host {
                name: name.clone(),
                preference,
                addresses: addresses.clone(),
            })
            .collect();
        if hosts.is_empty() {
            let answered_for = self.answered_for(domain)?;
            return Err(match self.own {
                Some(_) => loop_error(next_hop, &answered_for),
                None => no_address_of(domain, &answered_for),
            });
        }
        hosts.sort_by(|a, b| (a.preference, &a.name).cmp(&(b.preference, &b.name)));
        Ok(hosts)
    }

    fn answered_for(&self, domain: &str) -> Result<AnsweredFor, ResolveError> {
        let mut without = Vec::new();
        for (_, name, learned) in self.asked() {
            match learned {
                Some(Learned::Failed(error)) => return Err(error.clone()),
                None if !planted(Bug::SilenceSpeaksForHost) => {
                    return Err(no_answer(name, "no answer in time".into()));
                }
                _ => without.push(name.clone()),
            }
        }
        if self.next().is_some() && !planted(Bug::PartSpeaksForAll) {
            let asked = without.len();
            let why = format!("none of its first {asked} mail hosts has an address");
            return Err(no_answer(domain, why));
        }
        Ok(AnsweredFor(without))
    }
}

/// This relay is the best host, since no better one has an address.
fn loop_error(next_hop: &NextHop, _better: &AnsweredFor) -> ResolveError {
    mail_loop(next_hop)
}

fn no_address(domain: &str) -> ResolveError {
    ResolveError::NoAddress {
        domain: domain.into(),
    }
}

/// The hosts are what the domain's owner has to look at.
fn no_address_of(domain: &str, hosts: &AnsweredFor) -> ResolveError {
    match &*hosts.0 {
        [host] if **host == *domain => no_address(domain),
        [] => no_address(domain),
        [host] => no_address(&format!("{host}, the mail host of {domain}")),
        [host, ..] => no_address(&format!("{host}, nor for the other mail hosts of {domain}")),
    }
}

#[cfg(test)]
mod tests {
    use super::Learned::{Failed, IsThisRelay, NoAddress};
    use super::*;

    /// `10 20 20`: hosts of these preferences, named by their place.
    fn names(preferences: &[u16]) -> Vec<(u16, Box<str>)> {
        let names = preferences.iter().enumerate();
        names
            .map(|(at, preference)| (*preference, format!("mx{at}.test").into()))
            .collect()
    }

    fn at(milliseconds: u64) -> Now {
        Now(milliseconds * 1000)
    }

    fn begin(names: &[(u16, Box<str>)], at_a_time: usize) -> Candidates<'_> {
        let mut candidates = Candidates::new(names, at_a_time, at(0), at(20_000));
        assert_eq!(candidates.ask(at(0)), 0..names.len().min(at_a_time));
        candidates
    }

    fn addresses() -> Learned {
        Learned::Addresses(vec!["192.0.2.1:25".parse().unwrap()])
    }

    fn failed() -> Learned {
        Failed(no_answer("x.test", "it failed".into()))
    }

    fn outcome(candidates: &Candidates<'_>) -> String {
        match candidates.outcome(&"a.test".parse().unwrap(), "a.test") {
            Ok(hosts) => {
                let names: Vec<_> = hosts.iter().map(|host| &*host.name).collect();
                names.join(" ")
            }
            Err(error) => error.status().to_string(),
        }
    }

    #[test]
    fn only_hosts_that_were_all_answered_for_are_given_up() {
        type Row<'a> = (&'a [u16], Vec<Option<Learned>>, &'a str);
        let table: [Row; 12] = [
            (&[], vec![], "5.4.4"),
            (&[10], vec![Some(NoAddress)], "5.4.4"),
            (&[10], vec![None], "4.4.3"),
            (&[10], vec![Some(failed())], "4.4.3"),
            (&[10, 20], vec![Some(NoAddress), None], "4.4.3"),
            (&[10, 20], vec![None, Some(NoAddress)], "4.4.3"),
            (&[10, 20], vec![Some(NoAddress), Some(failed())], "4.4.3"),
            (&[10, 20], vec![None, Some(addresses())], "mx1.test"),
            (&[10, 20], vec![Some(NoAddress), Some(IsThisRelay)], "5.4.6"),
            (&[10, 20], vec![None, Some(IsThisRelay)], "4.4.3"),
            (&[10, 20], vec![Some(failed()), Some(IsThisRelay)], "4.4.3"),
            (
                &[10, 20],
                vec![Some(IsThisRelay), Some(addresses())],
                "5.4.6",
            ),
        ];
        for (row, (preferences, learned, expected)) in table.into_iter().enumerate() {
            let names = names(preferences);
            let mut candidates = begin(&names, 20);
            for (index, learned) in learned.into_iter().enumerate() {
                if let Some(learned) = learned {
                    candidates.learn(index, learned, at(1));
                }
            }
            assert_eq!(outcome(&candidates), expected, "row {row}");
        }
    }

    #[test]
    fn hosts_that_were_not_asked_for_are_no_denial() {
        let names = names(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        let mut candidates = begin(&names, 2);
        candidates.learn(0, NoAddress, at(1));
        candidates.learn(1, NoAddress, at(1));
        for round in 1..5 {
            assert_eq!(candidates.ask(at(1)), 2 * round..2 * round + 2);
            candidates.learn(2 * round, NoAddress, at(1));
            candidates.learn(2 * round + 1, NoAddress, at(1));
        }
        assert_eq!(candidates.ask(at(1)), 10..10);
        assert!(candidates.is_over(at(1)));
        assert_eq!(outcome(&candidates), "4.4.3");
    }

    #[test]
    fn better_and_equal_hosts_are_waited_for_and_worse_ones_for_a_moment() {
        let names = names(&[10, 20, 20, 30]);
        let mut candidates = begin(&names, 20);
        assert_eq!(candidates.deadline(), at(20_000));
        candidates.learn(1, addresses(), at(100));
        assert_eq!(candidates.deadline(), at(10_000), "a better one may come");
        candidates.learn(0, failed(), at(3000));
        assert_eq!(candidates.deadline(), at(10_000), "an equal one may come");
        candidates.learn(2, addresses(), at(3500));
        assert_eq!(candidates.deadline(), at(4500), "only a worse one may come");
        assert!(!candidates.is_over(at(4499)) && candidates.is_over(at(4500)));
        assert_eq!(outcome(&candidates), "mx1.test mx2.test");
        assert!(candidates.has_unanswered());
    }

    #[test]
    fn hosts_behind_silent_ones_are_asked_for_as_well() {
        let names = names(&[1, 2, 3]);
        let mut candidates = begin(&names, 2);
        assert_eq!(candidates.deadline(), at(2000));
        assert_eq!(candidates.ask(at(1999)), 2..2);
        assert_eq!(candidates.ask(at(2000)), 2..3);
        candidates.learn(2, addresses(), at(2100));
        assert_eq!(candidates.deadline(), at(10_000));
        assert_eq!(outcome(&candidates), "mx2.test");
    }

    #[test]
    fn hosts_that_are_no_better_than_this_relay_are_not_waited_for() {
        let names = names(&[10, 20, 20, 30]);
        let mut candidates = begin(&names, 2);
        candidates.learn(1, IsThisRelay, at(100));
        assert!(!candidates.is_over(at(101)));
        candidates.learn(0, NoAddress, at(200));
        assert_eq!(candidates.ask(at(200)), 2..2);
        assert!(candidates.is_over(at(200)));
        assert_eq!(outcome(&candidates), "5.4.6");
    }
}
