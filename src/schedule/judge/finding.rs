//! What went wrong, judged, and what of it may be said of a next hop.
//!
//! Promise: a [`HopDiagnosis`] is made from a finding about the next hop or its connections, and from nothing else. A
//! recipient's, sender's or message's refusal therefore never becomes the reason given for other mail.

use super::{Event, Scope, Situation, Trouble, Verdict, diagnose, judge};
use crate::schedule::outcome::Diagnosis;
use crate::smtp::reply::Stage;
use crate::text;
use crate::time::Now;
use std::time::Duration;

/// An event, judged: whom it concerns, what is to be done, and what to say of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    scope: Scope,
    verdict: Verdict,
    diagnosis: Diagnosis,
    /// The host refuses mail for good, whatever other hosts of the hop do.
    host_refuses: bool,
}

/// What a next hop itself has said or shown: what may be said of any mail that waits for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HopDiagnosis {
    diagnosis: Diagnosis,
    is_permanent: bool,
}

impl Finding {
    /// `remote_host`: the host that the session was with, or empty.
    pub fn of(stage: Stage, event: Event<'_>, situation: Situation, remote_host: &str) -> Self {
        let (scope, verdict) = judge(stage, event, situation);
        let alone = Situation {
            more_hosts: false,
            may_recover: false,
            ..situation
        };
        Finding {
            scope,
            verdict,
            diagnosis: diagnose(stage, event, verdict, remote_host),
            host_refuses: judge(stage, event, alone) == (Scope::NextHop, Verdict::Bounce),
        }
    }

    /// No host of the hop could be reached, and none has said why.
    pub fn nobody_answered() -> Self {
        Self::of_trouble(Trouble::Unreachable, "")
    }

    /// The hop was given up while it opened a connection, for the sake of others.
    pub fn crowded_out() -> Self {
        Self::of_trouble(Trouble::CrowdedOut, "")
    }

    fn of_trouble(trouble: Trouble, remote_host: &str) -> Self {
        let event = Event::Trouble(trouble);
        Self::of(Stage::Connect, event, Situation::default(), remote_host)
    }

    /// With a remark behind the text: what the system or TLS said.
    pub fn with_remark(mut self, remark: &str) -> Self {
        self.diagnosis.text = bounded(format!("{} ({remark})", self.diagnosis.text));
        self
    }

    /// With another text: what TLS said.
    pub fn told(mut self, text: &str) -> Self {
        self.diagnosis.text = bounded(text.to_owned());
        self
    }

    /// There was another host, but it is not tried any more in this round: what was the host's is the hop's.
    pub fn of_last_host(mut self) -> Self {
        if self.verdict == Verdict::TryNextHost {
            self.scope = Scope::NextHop;
            self.verdict = Verdict::Defer;
        }
        self
    }

    pub fn scope(&self) -> Scope {
        self.scope
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    pub fn diagnosis(&self) -> &Diagnosis {
        &self.diagnosis
    }

    pub fn into_diagnosis(self) -> Diagnosis {
        self.diagnosis
    }

    /// The hop asks for less.
    pub fn throttles(&self) -> bool {
        self.verdict == Verdict::Throttle
    }

    /// Whether this host refuses mail for good: what other hosts of the hop said is then decisive.
    pub fn host_refuses(&self) -> bool {
        self.host_refuses
    }

    /// What this says of the hop; `None`: it speaks of the mail.
    pub fn of_hop(&self) -> Option<HopDiagnosis> {
        let is_of_hop = matches!(self.scope, Scope::NextHop | Scope::Connection);
        is_of_hop.then(|| HopDiagnosis {
            diagnosis: self.diagnosis.clone(),
            is_permanent: self.scope == Scope::NextHop && self.verdict == Verdict::Bounce,
        })
    }
}

fn bounded(mut text: String) -> Box<str> {
    text.truncate(text::front(&text, Diagnosis::TEXT_BYTES_MAX).len());
    text.into_boxed_str()
}

impl HopDiagnosis {
    /// The hop ends its sessions without an answer. What was on the way then has a diagnosis of its own.
    pub fn sessions_break(remote_host: &str) -> Self {
        let finding = Finding::of_trouble(Trouble::SessionsBreak, remote_host);
        finding.of_hop().expect("silence is the hop's")
    }

    /// For mail that is tried again: class 4.
    pub fn for_now(&self) -> Diagnosis {
        Diagnosis {
            status: self.diagnosis.status.with_class(4),
            ..self.diagnosis.clone()
        }
    }

    /// As the hop said it.
    pub fn diagnosis(&self) -> &Diagnosis {
        &self.diagnosis
    }

    /// The hop refuses mail for good.
    pub fn is_permanent(&self) -> bool {
        self.is_permanent
    }
}

/// What a hop last said or showed against itself. Nothing after a success.
#[derive(Clone, Default, Debug)]
pub struct LastWord(Option<Word>);

#[derive(Clone, Debug)]
struct Word {
    diagnosis: HopDiagnosis,
    /// Since when nothing else was heard, if it is for good.
    since: Now,
}

impl LastWord {
    pub fn heard(&mut self, diagnosis: HopDiagnosis, now: Now) {
        let before = self.0.take().filter(|before| before.diagnosis.is_permanent);
        let since = before.map_or(now, |before| before.since);
        self.0 = Some(Word { diagnosis, since });
    }

    /// The hop has done its work. What went wrong before says nothing about mail that waits from now on.
    pub fn forget(&mut self) {
        self.0 = None;
    }

    pub fn diagnosis(&self) -> Option<&HopDiagnosis> {
        self.0.as_ref().map(|word| &word.diagnosis)
    }

    /// The hop has refused mail for good, at every try of this long.
    pub fn refuses_since(&self, at_least: Duration, now: Now) -> bool {
        let refuses =
            |word: &Word| word.diagnosis.is_permanent && now.since(word.since) >= at_least;
        self.0.as_ref().is_some_and(refuses)
    }
}
