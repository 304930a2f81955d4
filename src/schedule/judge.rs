//! The one place that decides what a failure means: for whom, and what is to be done.
//!
//! Pure and small, and tested as a table. What it weighs is what the peer said or failed to say,
//! where, and which ways are still open. Not here: how long to wait (`retry`), and how far a window
//! shrinks (`next_hop`).

mod fallback;
mod finding;
mod wording;

use crate::schedule::outcome::Diagnosis;
use crate::smtp::client::{Cause, RecipientVerdict, TransactionResult};
use crate::smtp::reply::{EnhancedStatus, Reply, Stage, printable_str};
use crate::text;
pub use fallback::{Fallback, demands_tls};
pub use finding::{Finding, HopDiagnosis, LastWord};
pub use wording::Echoes;
use wording::{counts_mail, scope_of};

const _: () = assert!(Reply::ONE_LINE_BYTES_MAX <= Diagnosis::TEXT_BYTES_MAX);

/// Whom a verdict concerns. Behind each a reply that means it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    /// This session, or this host among others: the mail goes another way, and nobody is told anything. `503 5.5.1 nested
    /// MAIL command`.
    Session,
    /// This reverse-path: all recipients of the transaction, and nobody else's mail. `451 4.7.24 SPF`.
    Sender,
    /// All recipients of the transaction that have no verdict of their own. `554 5.6.0 not this content`.
    Message,
    /// This recipient. `450 4.2.0 greylisted`.
    Recipient,
    /// The connection has ended for no reason that is known: fewer of them at a time, and no pause. `421 4.4.2 bye`, to a
    /// transaction that was the first one and had given no cause.
    Connection,
    /// Everything that waits for this next hop. `450 4.7.1 too many connections from 192.0.2.1`.
    NextHop,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    Delivered,
    /// At once, the same host: a session that had worked ended between transactions.
    Reconnect,
    /// At once, the same host without STARTTLS. Only if the policy allows it.
    TryPlaintext,
    /// At once, the next host in order of preference.
    TryNextHost,
    /// At once, in a further transaction: this one was full. If no recipient was accepted beside
    /// it, there is no progress: defer.
    NextTransaction,
    /// Later.
    Defer,
    /// Later; but never, if it was just so at the attempt before.
    DeferOnce,
    /// Later, and less at a time: the peer says that it is too much. Of the next hop only.
    Throttle,
    /// Never: a report is due.
    Bounce,
}

/// What happened at a stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    Reply(&'a Reply),
    Trouble(Trouble),
}

/// What happened when it was no reply, or none that answers the question.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Trouble {
    /// The connection was refused, reset or unroutable before it stood.
    Unreachable,
    TimedOut,
    /// It was given up, not yet open, so that others could have its place.
    CrowdedOut,
    PeerClosed,
    /// Bytes that are no reply, or a reply that this command cannot have.
    ProtocolBroken,
    /// The peer is ourselves.
    Loop,
    /// TLS is required and was not offered, or refused.
    TlsUnavailable,
    /// The TLS handshake failed.
    HandshakeFailed,
    /// The certificate does not satisfy the policy of this destination.
    TlsUntrusted,
    /// The session ended before the content was asked for.
    NotAttempted,
    /// The session ended within the content, or after it without a reply.
    ContentLost,
    /// Sessions end without an answer, for reasons that are not those of the mail that waits.
    SessionsBreak,
    /// The message needs what the peer does not offer, or is too large for it.
    Unfit(EnhancedStatus),
}

/// Which ways are still open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Situation {
    /// There is another host that has not been tried in this round.
    pub more_hosts: bool,
    /// A host of the hop that was tried before, or is left out of this round, has failed in a way that may pass.
    pub may_recover: bool,
    /// TLS is only opportunistic here: level `may`, and nothing stricter.
    pub plaintext_allowed: bool,
    /// This session has ended a transaction, or rested, before.
    pub session_worked: bool,
    /// The peer has refused recipients of this transaction for themselves already.
    pub has_refused: bool,
    /// The peer has accepted recipients of this transaction at RCPT.
    pub has_accepted: bool,
    /// The peer has named no extension at all: it does not know EHLO, or does not want to just now.
    pub knows_no_extensions: bool,
    /// What a reply may repeat of what we said.
    pub echoes: Echoes,
    /// The session is in plaintext although its host offers TLS.
    pub fallback: Option<Fallback>,
    /// The session is with a less preferred host, because one before it that was there was left out.
    pub is_substitute: bool,
}

/// What the event at this stage means.
///
/// Decisions that are not plain from RFC 5321 section 4.2.1:
/// * A greeting of 5yz is about that host, today: next host, else defer (as Postfix does by
///   `smtp_skip_5xx_greeting`). But 521 says "no mail here, ever" (RFC 7504): bounce if no host is left.
/// * 5yz to HELO is a refusal of us; with no host left it bounces.
/// * Those two are the next hop's refusal for good. They count only if every host of the hop refuses: one that
///   cannot be reached today may take the mail tomorrow.
/// * So is our own name in the greeting. The hosts that are left are not asked then: we are one of the destination's, and
///   those of the same preference and behind would send the mail back to us (RFC 5321 section 5.1).
/// * 4yz says little by its code, so [`scope_of()`] reads further: the host's (4.3.2, a rate, connections, us as a client)
///   pauses the next hop; the sender's, the recipient's (greylisting, a full mailbox) and the message's are
///   nobody else's.
/// * 421 from MAIL on ends this connection, and says no more unless its words do: how the host fares, the next
///   connection shows. After refused recipients it is their doing, at the end of the data the content's; in a first
///   transaction that gave no cause it asks for fewer connections, and nobody waits: one message that always draws it must
///   not hold up others.
/// * In a session that has carried a transaction before, a refusal may be for what went before: 421, 503 and words of the
///   session. It is not believed, nobody is the worse for it, and the mail goes again over a new connection ([`goes_on`]).
/// * So may words of the session ("too many failed recipients") in a first transaction, if other recipients had another answer: those
///   are settled, and the new session is asked for less. To DATA they count so only after refused recipients. One recipient too many
///   without an accepted one is the session's as well if that has worked.
/// * 4yz to MAIL with 4.3.z, or without anything that tells more, is the host's own trouble (disk, load): next host. With an
///   enhanced status of x.1.z (its address) or x.7.z (policy), and with 450 without one ("mailbox unavailable"), it is the
///   sender's, and another host would say the same: defer.
/// * 4yz to RCPT, DATA and the final dot is about the mail: defer. Not so 4.3.z before the content that speaks of nobody: next host,
///   and so it is where the connection ends within the content.
/// * 5yz from MAIL on is about the mail, whatever it says: nobody else's mail is returned for it.
/// * In a session in plaintext whose host offers TLS, a demand for TLS is an answer to our fallback, not to the mail: TLS again
///   ([`demands_tls`]).
/// * A less preferred host that was asked because a better one, which was there, was left out, or would not talk today, may be one that
///   takes no mail by itself: its refusals for good are for now. Not so if the better ones cannot be reached, or refuse mail for
///   good: then it speaks for them.
/// * 552 to RCPT counts as 452 (RFC 5321 section 4.5.3.1.10). Either with x.5.3, or without an enhanced
///   status and a word of whom it speaks, is one recipient too many.
/// * SMTPUTF8 that is missing where EHLO was refused may be back tomorrow, and so may STARTTLS, which is demanded there: the mail
///   is returned if it is missing again.
pub fn judge(stage: Stage, event: Event<'_>, situation: Situation) -> (Scope, Verdict) {
    let judged = match event {
        Event::Reply(reply) => judge_reply(stage, reply, situation),
        Event::Trouble(trouble) => judge_trouble(stage, trouble, situation),
    };
    match judged {
        (scope, Verdict::Bounce | Verdict::DeferOnce) if situation.is_substitute => {
            (scope, Verdict::Defer)
        }
        judged => judged,
    }
}

fn judge_reply(stage: Stage, reply: &Reply, situation: Situation) -> (Scope, Verdict) {
    let is_session = matches!(
        stage,
        Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Body | Stage::FinalDot
    );
    if is_session && demands_tls(stage, reply, situation.echoes) {
        match situation.fallback {
            Some(fallback) => {
                return fallback::judge_demand(stage, fallback, situation.more_hosts);
            }
            None if situation.knows_no_extensions && reply.is_permanent() => {
                return (Scope::Message, Verdict::DeferOnce);
            }
            None => {}
        }
    }
    match stage {
        Stage::Connect | Stage::Greeting | Stage::Ehlo | Stage::StartTls | Stage::Handshake => {
            judge_opening(stage, reply, situation)
        }
        Stage::Mail | Stage::Rcpt | Stage::Data
            if situation.session_worked && is_about_session(reply, situation.echoes) =>
        {
            (Scope::Session, Verdict::Defer)
        }
        Stage::Rcpt | Stage::Data if is_about_others(stage, reply, situation) => {
            (Scope::Session, Verdict::Defer)
        }
        Stage::Mail => judge_mail(reply, situation),
        Stage::Rcpt => judge_rcpt(reply, situation),
        Stage::FinalDot if reply.is_positive() => (Scope::Message, Verdict::Delivered),
        Stage::Data | Stage::Body | Stage::FinalDot => judge_content(stage, reply, situation),
        Stage::Idle | Stage::Quit => (Scope::Session, Verdict::Reconnect),
    }
}

fn judge_opening(stage: Stage, reply: &Reply, situation: Situation) -> (Scope, Verdict) {
    // Only 421 comes here: after any other refusal of STARTTLS the session goes on.
    if stage == Stage::StartTls && situation.plaintext_allowed {
        return (Scope::Session, Verdict::TryPlaintext);
    }
    if situation.more_hosts {
        return (Scope::Session, Verdict::TryNextHost);
    }
    if asks_for_less(reply) {
        return (Scope::NextHop, Verdict::Throttle);
    }
    if situation.fallback.is_some() && demands_tls(stage, reply, Echoes::NONE) {
        return (Scope::NextHop, Verdict::Defer);
    }
    match (stage, reply.code) {
        (Stage::Greeting, 521) | (Stage::Ehlo, 500..=599) => refused_by_hop(situation),
        _ => (Scope::NextHop, Verdict::Defer),
    }
}

/// A host refuses mail for good, and it is the last one.
fn refused_by_hop(situation: Situation) -> (Scope, Verdict) {
    match situation.may_recover {
        true => (Scope::NextHop, Verdict::Defer),
        false => (Scope::NextHop, Verdict::Bounce),
    }
}

/// Before there is a transaction: 421, or 450 and 451 with 4.7.z, is about us.
fn asks_for_less(reply: &Reply) -> bool {
    let policy = |status: EnhancedStatus| (status.class, status.subject) == (4, 7);
    let is_policy = matches!(reply.code, 450 | 451) && reply.status.is_some_and(policy);
    let of_us = [Scope::Session, Scope::Connection, Scope::NextHop];
    let is_of_us = |scope: Scope| of_us.contains(&scope);
    is_policy || (reply.is_transient() && scope_of(reply, Echoes::default()).is_some_and(is_of_us))
}

/// A refusal that may be for what this session has carried before.
fn is_about_session(reply: &Reply, echoes: Echoes) -> bool {
    // Commands that were known and in order a moment ago.
    let is_of_sequence = matches!(reply.code, 500 | 502 | 503);
    is_of_sequence
        || matches!(
            scope_of(reply, echoes),
            Some(Scope::Session | Scope::Connection)
        )
        || counts_mail(reply)
}

/// The reply speaks of the session. Of 421, which ends it, nobody knows.
pub fn speaks_of_session(reply: &Reply, echoes: Echoes) -> bool {
    reply.code != 421 && scope_of(reply, echoes) == Some(Scope::Session)
}

/// A refusal for other recipients of the same transaction. They have had their answer, and do not come again, so a new session has
/// less to complain of, and that the mail goes over further ones has an end.
fn is_about_others(stage: Stage, reply: &Reply, situation: Situation) -> bool {
    let are_there = match stage {
        Stage::Rcpt => situation.has_accepted || situation.has_refused,
        _ => situation.has_refused,
    };
    are_there && speaks_of_session(reply, situation.echoes)
}

fn judge_mail(reply: &Reply, situation: Situation) -> (Scope, Verdict) {
    if reply.is_permanent() {
        return (of_refused_mail(reply), Verdict::Bounce);
    }
    if !reply.is_transient() {
        return (Scope::Message, Verdict::Defer);
    }
    let next_host = situation.more_hosts && reply.code != 421;
    match scope_of(reply, situation.echoes) {
        Some(Scope::NextHop) if next_host && is_of_system(reply) => {
            (Scope::Message, Verdict::TryNextHost)
        }
        Some(Scope::NextHop) => (Scope::NextHop, Verdict::Throttle),
        Some(Scope::Sender | Scope::Recipient) => (Scope::Sender, Verdict::Defer),
        Some(Scope::Message) => (Scope::Message, Verdict::Defer),
        _ if reply.code == 421 => (Scope::Connection, Verdict::Defer),
        _ if is_about_sender(reply) => (Scope::Sender, Verdict::Defer),
        _ if next_host => (Scope::Message, Verdict::TryNextHost),
        _ => (Scope::Message, Verdict::Defer),
    }
}

/// 5yz to MAIL is about the sender, but for what RFC 3463 has of messages: its size (3.4) and content (6.z).
fn of_refused_mail(reply: &Reply) -> Scope {
    match reply.status {
        Some(status) if (status.subject, status.detail) == (3, 4) || status.subject == 6 => {
            Scope::Message
        }
        None if reply.code == 552 => Scope::Message,
        _ => Scope::Sender,
    }
}

/// RFC 3463 section 3.4: the status is about the host's own system.
fn is_of_system(reply: &Reply) -> bool {
    reply.status.is_some_and(|status| status.subject == 3)
}

/// A temporary reply to MAIL that does not say of whom it speaks: by its code, is it the sender rather than the host?
fn is_about_sender(reply: &Reply) -> bool {
    match reply.status {
        Some(status) => matches!(status.subject, 1 | 7),
        None => reply.code == 450,
    }
}

fn judge_rcpt(reply: &Reply, situation: Situation) -> (Scope, Verdict) {
    let is_too_many = match reply.status {
        Some(status) => (status.subject, status.detail) == (5, 3),
        // Too many recipients, or a full mailbox: the next transaction shows.
        None => matches!(
            scope_of(reply, situation.echoes),
            None | Some(Scope::Session)
        ),
    };
    match reply.code {
        // No transaction over this session is small enough.
        452 | 552 if is_too_many && situation.session_worked && !situation.has_accepted => {
            (Scope::Session, Verdict::Defer)
        }
        452 | 552 if is_too_many => (Scope::Recipient, Verdict::NextTransaction),
        552 => (Scope::Recipient, Verdict::Defer),
        500..=599 => (Scope::Recipient, Verdict::Bounce),
        400..=499 => judge_transient(Stage::Rcpt, reply, situation),
        _ => (Scope::Recipient, Verdict::Defer),
    }
}

fn judge_content(stage: Stage, reply: &Reply, situation: Situation) -> (Scope, Verdict) {
    if reply.is_permanent() {
        (Scope::Message, Verdict::Bounce)
    } else if reply.is_transient() {
        judge_transient(stage, reply, situation)
    } else {
        (Scope::Message, Verdict::Defer)
    }
}

/// 4yz after MAIL.
fn judge_transient(stage: Stage, reply: &Reply, situation: Situation) -> (Scope, Verdict) {
    let usual = match stage {
        Stage::Rcpt => Scope::Recipient,
        _ => Scope::Message,
    };
    let is_of_content = matches!(stage, Stage::Body | Stage::FinalDot);
    let is_of_host = is_of_system(reply) && reply.code != 421 && !is_of_content;
    let next_host = situation.more_hosts && is_of_host;
    match scope_of(reply, situation.echoes) {
        Some(Scope::NextHop) if next_host => (usual, Verdict::TryNextHost),
        Some(Scope::NextHop) => (Scope::NextHop, Verdict::Throttle),
        Some(Scope::Sender) => (Scope::Sender, Verdict::Defer),
        Some(Scope::Recipient | Scope::Message) => (usual, Verdict::Defer),
        _ if next_host => (usual, Verdict::TryNextHost),
        _ if reply.code != 421 || is_of_content => (usual, Verdict::Defer),
        _ if situation.has_refused => (Scope::Sender, Verdict::Defer),
        _ => (Scope::Connection, Verdict::Defer),
    }
}

fn judge_trouble(stage: Stage, trouble: Trouble, situation: Situation) -> (Scope, Verdict) {
    let in_tls = matches!(stage, Stage::StartTls | Stage::Handshake);
    let of_tls = matches!(
        trouble,
        Trouble::TimedOut
            | Trouble::PeerClosed
            | Trouble::ProtocolBroken
            | Trouble::HandshakeFailed
    );
    match trouble {
        Trouble::Unfit(NEEDS_SMTPUTF8) if situation.knows_no_extensions => {
            (Scope::Message, Verdict::DeferOnce)
        }
        Trouble::Unfit(_) => (Scope::Message, Verdict::Bounce),
        Trouble::Loop => refused_by_hop(situation),
        _ if in_tls && of_tls && situation.plaintext_allowed => {
            (Scope::Session, Verdict::TryPlaintext)
        }
        // Without its final dot nobody has it.
        Trouble::ContentLost if stage == Stage::Body && situation.more_hosts => {
            (Scope::Message, Verdict::TryNextHost)
        }
        Trouble::ContentLost => (Scope::Message, Verdict::Defer),
        _ if matches!(stage, Stage::Body | Stage::FinalDot) => (Scope::Message, Verdict::Defer),
        _ if situation.session_worked => (Scope::Session, Verdict::Reconnect),
        _ if situation.more_hosts => (Scope::Session, Verdict::TryNextHost),
        _ => (Scope::NextHop, Verdict::Defer),
    }
}

/// RFC 6531 section 3.5: non-ASCII addresses not permitted for that sender or recipient.
const NEEDS_SMTPUTF8: EnhancedStatus = EnhancedStatus::new(5, 6, 7);

/// [`Finding::of`] for what the client says of a recipient.
pub fn find_of_recipient(
    verdict: &RecipientVerdict,
    situation: Situation,
    remote_host: &str,
) -> Finding {
    let (stage, event) = event_of(verdict);
    Finding::of(stage, event, situation, remote_host)
}

/// Why a recipient goes on over another connection within the same attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GoesOn {
    /// The refusal may be for what the session has carried before: the same host, in a new one.
    Session,
    /// The host would not take it, for reasons of its own, before the content: another host.
    Refused,
    /// The host ended the session, or said nothing, before the end of the content: another host (RFC 5321 section 5.1).
    Broke,
    /// The host is a substitute, and a better one is asked before it is believed.
    Substitute,
}

/// Whether, and why, a recipient goes on over another connection, given that there is one to the host that it takes. The host's own
/// trouble, and sessions that end without an answer, are no verdict on the mail; a session that had worked is opened again
/// first.
pub fn goes_on(verdict: &RecipientVerdict, situation: Situation) -> Option<GoesOn> {
    if let RecipientVerdict::Accepted { .. } = verdict {
        return None;
    }
    let more_hosts = Situation {
        more_hosts: true,
        ..situation
    };
    let (stage, event) = event_of(verdict);
    let (scope, judged) = judge(stage, event, more_hosts);
    match verdict {
        RecipientVerdict::NotAttempted | RecipientVerdict::LostInBody
            if judged == Verdict::TryNextHost =>
        {
            Some(GoesOn::Broke)
        }
        RecipientVerdict::Refused { .. } if (scope, judged) == (Scope::Session, Verdict::Defer) => {
            Some(GoesOn::Session)
        }
        RecipientVerdict::Refused { stage, reply } if ends_session(*stage, reply, situation) => {
            Some(GoesOn::Broke)
        }
        RecipientVerdict::Refused { .. } if judged == Verdict::TryNextHost => Some(GoesOn::Refused),
        RecipientVerdict::Refused { .. } | RecipientVerdict::Unfit(_)
            if situation.is_substitute =>
        {
            Some(GoesOn::Substitute)
        }
        _ => None,
    }
}

/// 421 before the content that does not ask for less, and that no refused recipient is the reason of: another host may have time.
fn ends_session(stage: Stage, reply: &Reply, situation: Situation) -> bool {
    let says_no_more = match scope_of(reply, situation.echoes) {
        Some(Scope::Session | Scope::Connection) => true,
        Some(Scope::NextHop) => is_of_system(reply),
        _ => false,
    };
    let is_first = !situation.session_worked && !situation.has_refused;
    let before_content = matches!(stage, Stage::Mail | Stage::Rcpt | Stage::Data);
    reply.code == 421 && before_content && is_first && says_no_more
}

/// The same fact in the judge's terms.
pub fn event_of(verdict: &RecipientVerdict) -> (Stage, Event<'_>) {
    match verdict {
        RecipientVerdict::Accepted { reply } => (Stage::FinalDot, Event::Reply(reply)),
        RecipientVerdict::Refused { stage, reply } => (*stage, Event::Reply(reply)),
        RecipientVerdict::NotAttempted => (Stage::Mail, Event::Trouble(Trouble::NotAttempted)),
        RecipientVerdict::LostInBody => (Stage::Body, Event::Trouble(Trouble::ContentLost)),
        RecipientVerdict::LostAfterData => (Stage::FinalDot, Event::Trouble(Trouble::ContentLost)),
        RecipientVerdict::Unfit(unfit) => {
            (Stage::Mail, Event::Trouble(Trouble::Unfit(unfit.status)))
        }
    }
}

/// The same fact in the judge's terms.
pub fn event_of_cause(cause: &Cause) -> Event<'_> {
    match cause {
        Cause::Refused(reply) => Event::Reply(reply),
        Cause::Unexpected(_) | Cause::Malformed(_) => Event::Trouble(Trouble::ProtocolBroken),
        Cause::Loop(_) => Event::Trouble(Trouble::Loop),
        Cause::TlsUnavailable(_) => Event::Trouble(Trouble::TlsUnavailable),
        Cause::PeerClosed => Event::Trouble(Trouble::PeerClosed),
        Cause::TimedOut => Event::Trouble(Trouble::TimedOut),
    }
}

/// The facts for reports and logs. The status has class 5 for a bounce, 2 for a delivery, else 4,
/// whatever class the peer gave. `remote_host`: the host that the session was with, or empty.
pub fn diagnose(stage: Stage, event: Event<'_>, verdict: Verdict, remote_host: &str) -> Diagnosis {
    let class = match verdict {
        Verdict::Delivered => 2,
        Verdict::Bounce => 5,
        _ => 4,
    };
    let (status, text) = match event {
        // A good reply is no reason: it was not to what was asked.
        Event::Reply(reply) if class != 2 && !reply.is_transient() && !reply.is_permanent() => (
            status_of(Trouble::ProtocolBroken),
            describe_out_of_step(reply),
        ),
        Event::Reply(reply) => (reply.status_or_default(), reply.one_line()),
        Event::Trouble(trouble) => (status_of(trouble), describe(stage, trouble)),
    };
    Diagnosis {
        status: status.with_class(class),
        text: text.into_boxed_str(),
        remote_host: printable_str(remote_host).into(),
    }
}

/// RFC 3463: 4.1 no answer, 4.2 bad connection, 4.6 loop, 5.0 protocol, 7.x security.
fn status_of(trouble: Trouble) -> EnhancedStatus {
    let (subject, detail) = match trouble {
        Trouble::Unreachable => (4, 1),
        Trouble::TimedOut | Trouble::CrowdedOut | Trouble::PeerClosed => (4, 2),
        Trouble::NotAttempted | Trouble::ContentLost | Trouble::SessionsBreak => (4, 2),
        Trouble::ProtocolBroken => (5, 0),
        Trouble::Loop => (4, 6),
        Trouble::TlsUnavailable => (7, 4),
        Trouble::HandshakeFailed | Trouble::TlsUntrusted => (7, 5),
        Trouble::Unfit(status) => (status.subject, status.detail),
    };
    EnhancedStatus::new(4, subject, detail)
}

fn describe(stage: Stage, trouble: Trouble) -> String {
    let what = match trouble {
        Trouble::Unreachable => "cannot connect",
        Trouble::TimedOut => "timed out",
        Trouble::PeerClosed => "the peer closed the connection",
        Trouble::ProtocolBroken => "the peer broke the protocol",
        Trouble::CrowdedOut => {
            return "the connection took too long to open while other next hops waited for one (--crowded-timeout)"
                .into();
        }
        Trouble::SessionsBreak => return "the next hop ends its sessions without an answer".into(),
        Trouble::Loop => return "mail loops back to this host".into(),
        Trouble::TlsUnavailable => "TLS is required but not available",
        Trouble::HandshakeFailed => "the TLS handshake failed",
        Trouble::TlsUntrusted => "the certificate does not satisfy the policy",
        Trouble::NotAttempted => {
            return "the connection was lost before the message was sent".into();
        }
        Trouble::ContentLost if stage == Stage::FinalDot => {
            return "the connection was lost after the end of data; the message may have been delivered"
                .into();
        }
        Trouble::ContentLost => "the connection was lost",
        Trouble::Unfit(status) => return unfit_text(status).into(),
    };
    format!("{what} (at {})", stage.name())
}

/// What ended a session before it had an answer for a recipient, where that is known better than from its verdict.
pub fn session_end_cause(result: &TransactionResult, verdict: &RecipientVerdict) -> Option<String> {
    let failure = result.cut_short.as_ref()?;
    let what = match (&failure.cause, failure.stage) {
        (Cause::TimedOut, Stage::Body) => "the next hop accepted no more of the content".into(),
        (Cause::TimedOut, stage) => format!("no reply to {}", stage.name()),
        (Cause::Unexpected(reply), _) => describe_out_of_step(reply),
        (Cause::Malformed(_), stage) => {
            format!("the answer to {} is not an SMTP reply", stage.name())
        }
        _ => return None,
    };
    let waited = match result.waited {
        Some(waited) => format!(" within {} s", waited.as_secs().max(1)),
        None => String::new(),
    };
    let doubt = match verdict {
        RecipientVerdict::NotAttempted | RecipientVerdict::LostInBody => "",
        RecipientVerdict::LostAfterData => "; the message may have been delivered",
        _ => return None,
    };
    Some(format!("{what}{waited}{doubt}"))
}

fn describe_out_of_step(reply: &Reply) -> String {
    let mut text = format!(
        "the next hop's replies are out of step with the commands ({})",
        reply.one_line()
    );
    text.truncate(text::front(&text, Diagnosis::TEXT_BYTES_MAX).len());
    text
}

fn unfit_text(status: EnhancedStatus) -> &'static str {
    match (status.subject, status.detail) {
        (3, 4) => "the message is larger than the next hop takes",
        (6, 7) => "the message needs SMTPUTF8, which the next hop does not offer",
        _ => "the next hop cannot take this message",
    }
}

#[cfg(test)]
mod tests;
