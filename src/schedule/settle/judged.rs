//! What a transaction decided: for each recipient, for its connection, and for its hop.

use super::{Decision, content_lost, content_unreadable};
use crate::message::Envelope;
use crate::schedule::judge::{
    self, Echoes, Fallback, Finding, HopDiagnosis, LastWord, Scope, Situation, Verdict,
};
use crate::schedule::next_hop::{HopId, Queued, Refusal, Schedule};
use crate::schedule::outcome::{Diagnosis, RecipientState};
use crate::smtp::client::{RecipientVerdict, TransactionResult};
use crate::smtp::reply::{Reply, Stage};
use crate::time::Now;
use std::hash::Hash;
use std::rc::Rc;
use std::time::Duration;

/// What a transaction decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// In the order in which the recipients were offered.
    pub decisions: Vec<(u32, Decision)>,
    pub accepted_any: bool,
    /// The hop took part to the end.
    pub answered: bool,
    /// The connection was lost in a way that speaks against the hop; one that ended between two
    /// transactions does not.
    pub broke: bool,
    /// The session is of no more use: what it refuses, another may take.
    is_spoilt: bool,
    /// The hop asks for less.
    pub throttle: Option<Refusal>,
    /// The session is in plaintext because TLS did not work, and this demands it.
    pub tls_demanded: Option<Rc<Reply>>,
    /// What is to be said of the hop to others that wait for it.
    of_hop: Option<HopDiagnosis>,
}

/// What becomes of a connection after a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    GoOn,
    Close,
    Broke,
}

/// Judges a transaction that ended because the content could not be read: that speaks of no hop. `is_lost`: it
/// never will be read. Recipients that were refused before stay refused.
pub fn judge_without_content(
    envelope: &Envelope,
    result: &TransactionResult,
    is_lost: bool,
    over: &Over<'_>,
) -> Vec<(u32, Decision)> {
    let (verdict, diagnosis) = match is_lost {
        true => (Verdict::Bounce, content_lost()),
        false => (Verdict::Defer, content_unreadable()),
    };
    let mut decisions = judge_transaction(envelope, result, over).decisions;
    for ((_, decision), (_, recipient)) in decisions.iter_mut().zip(&result.verdicts) {
        if is_silence(recipient) {
            decision.verdict = verdict;
            decision.diagnosis = diagnosis.clone();
        }
    }
    decisions
}

/// Gives all recipients the same verdict, without a transaction.
pub fn decide_all(
    recipients: &[(u32, RecipientState)],
    verdict: Verdict,
    diagnosis: &Diagnosis,
) -> Vec<(u32, Decision)> {
    let decision = || Decision {
        verdict,
        diagnosis: diagnosis.clone(),
        relayed: false,
        may_be_for_another: false,
    };
    recipients
        .iter()
        .map(|(index, _)| (*index, decision()))
        .collect()
}

/// What a transaction went over.
#[derive(Clone, Copy, Debug)]
pub struct Over<'a> {
    /// Whom the session was with.
    pub host: &'a str,
    /// See [`Situation::session_worked`].
    pub session_worked: bool,
    /// See [`Situation::knows_no_extensions`].
    pub knows_no_extensions: bool,
    /// See [`Situation::fallback`].
    pub fallback: Option<Fallback>,
    /// See [`Situation::is_substitute`].
    pub is_substitute: bool,
}

impl<'a> Over<'a> {
    /// A session of which nothing is known.
    pub fn new(host: &'a str) -> Self {
        Over {
            host,
            session_worked: false,
            knows_no_extensions: false,
            fallback: None,
            is_substitute: false,
        }
    }

    /// Of a transaction, without regard to other hosts.
    pub fn situation(&self, envelope: &Envelope, result: &TransactionResult) -> Situation {
        let echoes = echoes_of(envelope, result);
        let verdicts = || result.verdicts.iter().map(|(_, it)| it);
        Situation {
            session_worked: self.session_worked,
            has_refused: verdicts().any(|it| is_own_refusal(it, echoes)),
            has_accepted: verdicts().any(was_accepted_at_rcpt),
            knows_no_extensions: self.knows_no_extensions,
            echoes,
            fallback: self.fallback,
            is_substitute: self.is_substitute,
            ..Situation::default()
        }
    }
}

/// Judges a transaction. `envelope`: of the message that it was for, or was a report on.
pub fn judge_transaction(
    envelope: &Envelope,
    result: &TransactionResult,
    over: &Over<'_>,
) -> Judged {
    let host = over.host;
    let situation = over.situation(envelope, result);
    let accepted_any = result
        .verdicts
        .iter()
        .any(|(_, verdict)| matches!(verdict, RecipientVerdict::Accepted { .. }));
    let unanswered = result.verdicts.iter().filter(|(_, it)| has_no_answer(it));
    let are_many_unanswered = unanswered.count() > 1;
    let mut judged = Judged {
        decisions: Vec::with_capacity(result.verdicts.len()),
        accepted_any,
        answered: true,
        broke: false,
        is_spoilt: false,
        throttle: None,
        tls_demanded: tls_demanded(result, situation),
        of_hop: None,
    };
    for (index, recipient) in &result.verdicts {
        let mut finding = judge::find_of_recipient(recipient, situation, host);
        if let Some(why) = judge::session_end_cause(result, recipient) {
            finding = finding.told(&why);
        }
        let verdict = match finding.verdict() {
            Verdict::NextTransaction if !accepted_any => Verdict::Defer,
            verdict => verdict,
        };
        let scope = finding.scope();
        judged.answered &= !is_silence(recipient);
        judged.broke |= is_silence(recipient) && verdict != Verdict::Reconnect;
        // The next attempt is to ask for extensions, and not to find this session.
        judged.is_spoilt |= scope == Scope::Session || verdict == Verdict::DeferOnce;
        judged.note_hop(&finding);
        let is_unexplained = has_no_answer(recipient) && !finding.throttles();
        judged.decisions.push((
            *index,
            Decision {
                verdict,
                diagnosis: finding.into_diagnosis(),
                relayed: result.relayed.contains(index),
                may_be_for_another: are_many_unanswered && is_unexplained,
            },
        ));
    }
    if judged.broke && judged.of_hop.is_none() {
        judged.of_hop = Some(HopDiagnosis::sessions_break(host));
    }
    judged
}

/// What demands TLS of a session that has none because TLS did not work.
pub fn tls_demanded(result: &TransactionResult, situation: Situation) -> Option<Rc<Reply>> {
    situation.fallback?;
    let demand = |(_, verdict): &(u32, RecipientVerdict)| match verdict {
        RecipientVerdict::Refused { stage, reply } => {
            judge::demands_tls(*stage, reply, situation.echoes).then(|| reply.clone())
        }
        _ => None,
    };
    result.verdicts.iter().find_map(demand)
}

impl Judged {
    /// Keeps what a finding says of the hop: the most that it asks for, and why.
    fn note_hop(&mut self, finding: &Finding) {
        let asks = match finding.scope() {
            Scope::NextHop if finding.throttles() => Some(Refusal::Mail),
            Scope::Connection => Some(Refusal::Session),
            _ => None,
        };
        let asks_for_more = asks == Some(Refusal::Mail) && self.throttle != asks;
        if self.of_hop.is_none() || asks_for_more {
            self.of_hop = finding.of_hop();
        }
        if asks_for_more || self.throttle.is_none() {
            self.throttle = asks;
        }
    }

    /// Tells the schedule how its hop did, in `took`. `last` finds the hop's last word in what is kept with it.
    pub fn update_schedule<K: Clone + Hash + Eq, J: Queued, C: Default>(
        &self,
        schedule: &mut Schedule<K, J, C>,
        hop: HopId,
        (took, now): (Duration, Now),
        last: impl Fn(&mut C) -> &mut LastWord,
    ) {
        // A refusal is an answer, but no progress: pauses would begin anew with each.
        if self.answered && (self.throttle.is_none() || self.accepted_any) {
            schedule.delivered(hop, took);
            last(schedule.context(hop)).forget();
        }
        if let Some(refusal) = self.throttle {
            schedule.refused(hop, refusal, now);
        }
        if let Some(word) = &self.of_hop {
            last(schedule.context(hop)).heard(word.clone(), now);
        }
    }

    /// `reusable`: the session stands, and another transaction may follow.
    pub fn after(&self, reusable: bool) -> After {
        let is_spoilt = self.is_spoilt || self.tls_demanded.is_some();
        match (reusable && !is_spoilt, self.broke) {
            (true, _) => After::GoOn,
            (false, false) => After::Close,
            (false, true) => After::Broke,
        }
    }
}

/// What the refusals of a transaction may repeat of what it said. Sought only where it matters.
fn echoes_of(envelope: &Envelope, result: &TransactionResult) -> Echoes {
    let may_pause = |verdict: &RecipientVerdict| matches!(verdict, RecipientVerdict::Refused { reply, .. } if reply.is_transient());
    if !result.verdicts.iter().any(|(_, it)| may_pause(it)) {
        return Echoes::default();
    }
    let of_index = |&(index, _): &(u32, _)| envelope.recipients.get(index as usize);
    Echoes::of(envelope, result.verdicts.iter().filter_map(of_index))
}

/// Of this recipient alone, in a session that went on.
fn is_own_refusal(verdict: &RecipientVerdict, echoes: Echoes) -> bool {
    let is_own = |stage: Stage, reply: &Reply| {
        stage == Stage::Rcpt && reply.code != 421 && !judge::speaks_of_session(reply, echoes)
    };
    matches!(verdict, RecipientVerdict::Refused { stage, reply } if is_own(*stage, reply))
}

/// Whatever became of it later.
fn was_accepted_at_rcpt(verdict: &RecipientVerdict) -> bool {
    match verdict {
        RecipientVerdict::Accepted { .. }
        | RecipientVerdict::LostInBody
        | RecipientVerdict::LostAfterData => true,
        RecipientVerdict::Refused { stage, .. } => {
            matches!(stage, Stage::Data | Stage::Body | Stage::FinalDot)
        }
        RecipientVerdict::NotAttempted | RecipientVerdict::Unfit(_) => false,
    }
}

/// The session ended before the content was asked for, at this recipient or at another one.
fn has_no_answer(verdict: &RecipientVerdict) -> bool {
    match verdict {
        RecipientVerdict::NotAttempted => true,
        RecipientVerdict::Refused { stage, reply } => {
            matches!(stage, Stage::Rcpt | Stage::Data) && reply.code == 421
        }
        _ => false,
    }
}

/// The connection ended without the answer that was due.
fn is_silence(verdict: &RecipientVerdict) -> bool {
    matches!(
        verdict,
        RecipientVerdict::NotAttempted
            | RecipientVerdict::LostInBody
            | RecipientVerdict::LostAfterData
    )
}
