//! Which reports the sender of a message gets, and when: few, however many hosts and cores refuse its recipients.
//!
//! Promise: whoever is added comes back exactly once, from [`Gatherer::take`], in a report with others of the same message
//! and [`Form`]. Between two reports of a message and form lies the [window](Windows) of the later one. No window takes more
//! than half of what is left of the lifetime of the message's reports: each is to have tries.
//! Not here: the text (`dsn`), and what becomes of a report once it is on its way.
//!
//! The first report of a message goes one window after its first failure, and speaks of all that failed by then. A message
//! with a thousand recipients may fail in a trickle for days, so later windows are longer.

use super::outcome::{Diagnosis, RecipientState};
use super::settle::{RECIPIENTS_PER_REPORT_MAX, Recipients};
use crate::message::{Envelope, MessageId};
use crate::time::Now;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Default of the first window.
pub const WINDOW: Duration = Duration::from_secs(60);
/// How many times as long the second window is, and each later one.
pub const SECOND_WINDOW: u32 = 10;
pub const LATER_WINDOWS: u32 = 60;

/// What a report has to be able to say. Recipients of one form are reported apart from those of the other: what some host
/// cannot take of them must not keep the word about the others from the sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Ascii,
    Utf8,
}

impl Form {
    /// For this recipient. A reverse-path that needs SMTPUTF8 needs it for every report.
    pub fn of(envelope: &Envelope, index: u32, diagnosis: &Diagnosis) -> Form {
        let recipient = &envelope.recipients[index as usize];
        let reverse_path = envelope.reverse_path.as_ref();
        let names_utf8 = |orcpt: &str| {
            let kind = orcpt.split_once(';').map_or("", |(kind, _)| kind);
            kind.eq_ignore_ascii_case("utf-8")
        };
        let is_utf8 = recipient.forward_path.needs_smtputf8()
            || recipient.orcpt.as_deref().is_some_and(names_utf8)
            || !diagnosis.text.is_ascii()
            || !diagnosis.remote_host.is_ascii()
            || reverse_path.is_some_and(|path| path.in_ascii().is_none());
        match is_utf8 {
            true => Form::Utf8,
            false => Form::Ascii,
        }
    }

    fn of_owed(envelope: &Envelope, (index, state): &(u32, RecipientState)) -> Form {
        match state {
            RecipientState::ReportOwed { diagnosis, .. } => Form::of(envelope, *index, diagnosis),
            // Nobody is told.
            _ => Form::Ascii,
        }
    }
}

/// Recipients that are owed a report, by its form.
pub type ByForm = [Recipients; 2];

/// Parts them by form.
pub fn by_form(envelope: &Envelope, owed: Recipients) -> ByForm {
    let is_utf8 = |it: &_| Form::of_owed(envelope, it) == Form::Utf8;
    if !owed.iter().any(is_utf8) {
        return [owed, Recipients::new()];
    }
    let (utf8, ascii) = owed.into_iter().partition(is_utf8);
    [ascii, utf8]
}

/// How long failures of one message are gathered; the length of the first window. Zero: each goes at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Windows(pub Duration);

/// As much of a window as leaves half of the lifetime for tries. Once nothing is `left` of that, a report has one try whenever
/// it goes, and the window costs it nothing.
pub fn shortened(window: Duration, left: Duration) -> Duration {
    match left.is_zero() {
        true => window,
        false => window.min(left / 2),
    }
}

/// Of recipients that begin to wait for a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    pub now: Now,
    /// When it goes if nothing of the message was reported before.
    pub first_due: Now,
    /// When the lifetime of the message's reports ends.
    pub end: Now,
}

impl Windows {
    /// When the next report goes.
    fn due(self, times: Times, history: History) -> Now {
        let factor = match history.reports {
            0 => 0,
            1 => SECOND_WINDOW,
            _ => LATER_WINDOWS,
        };
        let due = (times.first_due).max(history.last + self.0.saturating_mul(factor));
        times.now + shortened(due.since(times.now), times.end.since(times.now))
    }
}

/// What this run has reported of a message.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct History {
    /// Windows that are over.
    pub reports: u32,
    /// When the last one was.
    pub last: Now,
}

/// Gathers whom reports are owed on. `M` stands for a message.
pub struct Gatherer<M> {
    windows: Windows,
    messages: BTreeMap<MessageId, Gathered<M>>,
    due: BTreeSet<(Now, MessageId)>,
}

struct Gathered<M> {
    message: M,
    history: History,
    due: Now,
    /// See [`Times`].
    end: Now,
    owed: ByForm,
}

/// The window of a message is over.
#[derive(PartialEq, Eq, Debug)]
pub struct Due<M> {
    pub message: M,
    /// From now on.
    pub history: History,
    /// One for each form, by index into the envelope.
    pub reports: Vec<Recipients>,
}

impl<M: Clone> Gatherer<M> {
    pub fn new(windows: Windows) -> Self {
        Gatherer {
            windows,
            messages: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Recipients of a message whose report waits for the end of a window.
    pub fn add(
        &mut self,
        id: MessageId,
        (message, history): (&M, History),
        owed: ByForm,
        times: Times,
    ) {
        let windows = self.windows;
        let due = |history| windows.due(times, history);
        let gathered = self.messages.entry(id).or_insert_with(|| Gathered {
            message: message.clone(),
            history,
            due: due(history),
            end: times.end,
            owed: ByForm::default(),
        });
        for (waiting, more) in gathered.owed.iter_mut().zip(owed) {
            match waiting.is_empty() {
                true => *waiting = more,
                false => waiting.extend(more),
            }
        }
        self.due.remove(&(gathered.due, id));
        gathered.due = gathered.due.min(due(gathered.history));
        self.due.insert((gathered.due, id));
    }

    /// The next message whose window is over. What is more than one report can speak of waits for the next.
    pub fn take(&mut self, now: Now) -> Option<Due<M>> {
        let (due, id) = *self.due.first()?;
        if due > now {
            return None;
        }
        self.due.pop_first();
        let gathered = self.messages.get_mut(&id).expect("whoever is due waits");
        gathered.history = History {
            reports: gathered.history.reports.saturating_add(1),
            last: now,
        };
        let reports = gathered.owed.iter_mut().map(first_of);
        let reports = reports.filter(|it| !it.is_empty()).collect();
        let due = Due {
            message: gathered.message.clone(),
            history: gathered.history,
            reports,
        };
        if gathered.owed.iter().all(Vec::is_empty) {
            self.messages.remove(&id);
        } else {
            let times = Times {
                now,
                first_due: now,
                end: gathered.end,
            };
            gathered.due = self.windows.due(times, gathered.history);
            self.due.insert((gathered.due, id));
        }
        Some(due)
    }

    /// When something is to be taken.
    pub fn deadline(&self) -> Option<Now> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Messages whose reports wait.
    pub fn waiting(&self) -> usize {
        self.messages.len()
    }
}

/// As many as one report can speak of, in their order: unless more are owed after a crash, they are the same again.
fn first_of(owed: &mut Recipients) -> Recipients {
    let most = RECIPIENTS_PER_REPORT_MAX;
    let mut rest = Recipients::new();
    if owed.len() > most {
        owed.select_nth_unstable_by_key(most, |it| it.0);
        rest = owed.split_off(most);
    }
    let mut first = std::mem::replace(owed, rest);
    first.sort_unstable_by_key(|it| it.0);
    first
}

/// Reports of a message that a run before has tried, from how their recipients stand: those of one report were tried, and
/// put off, together.
pub fn tried_together(owed: ByForm) -> Vec<Recipients> {
    let mut reports: BTreeMap<_, Recipients> = BTreeMap::new();
    for (form, owed) in owed.into_iter().enumerate() {
        for (index, state) in owed {
            if let RecipientState::ReportOwed { attempts, due, .. } = state {
                let together = reports.entry((due, attempts, form)).or_default();
                together.push((index, state));
            }
        }
    }
    reports.into_values().collect()
}

#[cfg(test)]
mod tests;
