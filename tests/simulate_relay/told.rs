//! Upper bounds on what a sender is told: one report a message, form and window, the content once, and no Message-ID with
//! two meanings.

use crate::ledger::{Ledger, Letter, site_of};
use ringpost::message::{Mailbox, Ret};
use ringpost::time::Now;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Two reports do not come together, however short the window has become.
const WINDOW_MIN: Duration = Duration::from_millis(1);

/// What went out before a run ended may be taken so much later.
const ON_THE_WAY_MAX: Duration = Duration::from_millis(100);

/// Whom a report speaks of, by number, and of whom it says that mail has failed.
type Spoken = BTreeSet<(usize, bool)>;

/// A report that a next hop has taken.
pub struct Report<'a> {
    pub letter: u32,
    pub spoken: Spoken,
    pub content: &'a [u8],
}

#[derive(Default)]
pub struct Told {
    /// Of the first report of a letter.
    pub window: Duration,
    /// When each start of the relay was, and how long it ran.
    runs: Vec<(Now, Now)>,
    /// By Message-ID: of whom it spoke, and all that it said but its date.
    meanings: BTreeMap<String, (u32, Spoken, u64)>,
    /// By letter, and whether those of whom they speak are UTF-8.
    reports: BTreeMap<(u32, bool), BTreeSet<Spoken>>,
    /// In this run, with the content.
    bodies: BTreeMap<u32, BTreeSet<Spoken>>,
}

impl Told {
    pub fn begin_run(&mut self, now: Now) {
        if let Some(last) = self.runs.last_mut() {
            last.1 = now;
        }
        self.runs.push((now, Now::NEVER));
        self.bodies.clear();
    }

    /// How many reports of one form may have come of a letter that began then. `end`: of their lifetime, which is to come.
    fn most(&self, (begun, end): (Now, Now), now: Now) -> usize {
        let most_of = |(number, (from, to)): (usize, &(Now, Now))| {
            let from = (*from).max(begun);
            if *to < from {
                return 0;
            }
            // What was tried together before a start may be tried once more with others.
            let mut count = 1 + usize::from(number > 0);
            let mut window = 10 * self.window;
            let mut next = from;
            loop {
                let window_left = window.min(end.since(next) / 2);
                next = next + window_left.max(WINDOW_MIN);
                if next > (*to).min(now) {
                    return count;
                }
                count += 1;
                window = 60 * self.window;
            }
        };
        self.runs.iter().enumerate().map(most_of).sum()
    }
}

impl Ledger {
    /// A next hop has taken a report. Complaints.
    pub fn told_sender(&mut self, now: Now, report: Report<'_>) -> Vec<String> {
        let Report {
            letter: number,
            spoken,
            content,
        } = report;
        let mut complaints = Vec::new();
        let text = String::from_utf8_lossy(content);
        let has_body = text.contains("\r\nContent-Description: Message\r\n");
        let id = text.lines().find_map(|it| it.strip_prefix("Message-ID: "));
        let id = id.unwrap_or_default().to_owned();
        let meaning = (number, spoken.clone(), without_date(&text));
        let known = self.told.meanings.entry(id.clone());
        let known = known.or_insert_with(|| meaning.clone());
        if *known != meaning {
            complaints.push(format!("{id} has said {known:?}, and says {meaning:?}"));
        }
        let Some(letter) = self.letters.get(&number) else {
            return complaints;
        };
        let forms: BTreeSet<bool> = spoken.iter().map(|it| letter.is_utf8(it.0)).collect();
        if forms.len() > 1 {
            complaints.push(format!(
                "a report speaks of recipients of letter {number} in ASCII and in UTF-8"
            ));
        }
        let told = &mut self.told;
        let begun = told.runs.last().map_or(Now(0), |run| run.0);
        let is_of_this_run = now.since(begun) > ON_THE_WAY_MAX;
        if has_body && is_of_this_run && letter.envelope.ret != Some(Ret::Full) {
            let bodies = told.bodies.entry(number).or_default();
            bodies.insert(spoken.clone());
            if letter.envelope.ret.is_some() || bodies.len() > 1 {
                complaints.push(format!("letter {number} comes back again"));
            }
        }
        let is_utf8 = forms.contains(&true);
        let reports = told.reports.entry((number, is_utf8)).or_default();
        reports.insert(spoken);
        let (count, begun) = (reports.len(), letter.begun);
        // The relay counts from when it had the letter, and windows become ever shorter.
        let end = begun + self.report_lifetime;
        let is_excused = now >= end || told.window.is_zero() || self.may_get_smaller_ones(letter);
        if is_excused {
            return complaints;
        }
        let most = self.told.most((begun, end), now);
        if count > most {
            complaints.push(format!(
                "letter {number} has {count} reports of one form, and not {most}"
            ));
        }
        complaints
    }

    /// What is too large comes in parts.
    fn may_get_smaller_ones(&self, letter: &Letter) -> bool {
        let reverse_path = letter.envelope.reverse_path.as_ref();
        let site = reverse_path.and_then(|path| site_of(path.domain_as_written()));
        let site = site.and_then(|site| self.sites.get(site));
        letter.report_refused
            || site.is_none_or(|site| site.refused_report || site.size_max.is_some())
    }
}

fn without_date(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    let lines = text.lines().filter(|line| !line.starts_with("Date: "));
    lines.for_each(|line| line.hash(&mut hasher));
    hasher.finish()
}

impl Letter {
    /// What is said of this recipient; of all, if the sender's address is.
    fn is_utf8(&self, number: usize) -> bool {
        let of_sender = self.envelope.reverse_path.as_ref();
        let mut of_recipient = self
            .of(number)
            .map(|(recipient, _)| &recipient.forward_path);
        of_sender.is_some_and(Mailbox::needs_smtputf8) || of_recipient.any(Mailbox::needs_smtputf8)
    }
}
