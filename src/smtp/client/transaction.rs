//! One mail transaction: its commands (RFC 5321 section 3.3) and what became of its recipients.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use memchr::memmem;

use super::{Failure, Features};
use crate::message::{BodyType, Envelope, Mailbox, Notify, Recipient, Ret};
use crate::smtp::address::unitext_in_7bit;
use crate::smtp::extension::Extension;
use crate::smtp::reply::{EnhancedStatus, Reply, Stage};

/// What is to be sent: some recipients of one message.
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    pub envelope: &'a Envelope,
    /// Indexes into the envelope's recipients; not empty. The caller bounds how many.
    pub recipients: &'a [u32],
    /// The content as RFC 1870 counts it, with up to `uncounted_bytes` more.
    pub body_bytes: u64,
    /// Dots of stuffing that may be counted in `body_bytes`.
    pub uncounted_bytes: u64,
    /// The content has bytes of 128 and above, whatever the envelope says.
    pub body_is_8bit: bool,
}

impl<'a> Transaction<'a> {
    /// With content that has so many bytes in wire form, of which the final dot and its CRLF are
    /// none. How many are dots of stuffing is not known: one in four, at most.
    pub fn of_wire_form(
        envelope: &'a Envelope,
        recipients: &'a [u32],
        wire_bytes: u64,
        body_is_8bit: bool,
    ) -> Self {
        Transaction {
            envelope,
            recipients,
            body_bytes: wire_bytes.saturating_sub(FINAL_DOT_BYTES),
            uncounted_bytes: wire_bytes / STUFFED_LINE_BYTES_MIN,
            body_is_8bit,
        }
    }

    /// The same with the content at hand, in wire form: its dots are counted.
    pub fn counted(self, wire: &[u8]) -> Self {
        let stuffed_lines = memmem::find_iter(wire, b"\n.").count() as u64;
        let first = u64::from(wire.starts_with(b"."));
        let dots_and_end = stuffed_lines + first + FINAL_DOT_BYTES - 1;
        Transaction {
            body_bytes: (wire.len() as u64).saturating_sub(dots_and_end),
            uncounted_bytes: 0,
            ..self
        }
    }

    /// What `SIZE=` says to a peer that offers `limit` (0: none). Of what the content may have it is
    /// the most that the peer takes: the end of the data shows.
    fn declared_bytes(&self, limit: u64) -> u64 {
        match limit {
            0 => self.body_bytes,
            limit => self.body_bytes.min(limit),
        }
    }

    /// Larger than this for certain.
    pub fn exceeds(&self, limit: u64) -> bool {
        self.body_bytes.saturating_sub(self.uncounted_bytes) > limit
    }
}

/// `.CRLF` in wire form.
const FINAL_DOT_BYTES: u64 = 3;
/// A line with a dot of stuffing: that, another octet, CRLF.
const STUFFED_LINE_BYTES_MIN: u64 = 4;

/// This message cannot go over this session; nothing was sent and the session is as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfit {
    pub status: EnhancedStatus,
    pub text: &'static str,
}

/// What became of one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecipientVerdict {
    /// The next hop has taken the responsibility (RFC 5321 section 4.2.5).
    Accepted { reply: Rc<Reply> },
    /// The peer said no at `stage`, to this recipient or to all. 4yz, 5yz, or out of place.
    Refused { stage: Stage, reply: Rc<Reply> },
    /// The connection ended before the content was asked for. Another try cannot duplicate.
    NotAttempted,
    /// The connection ended within the content. Another try cannot duplicate.
    LostInBody,
    /// The connection ended between the last byte of the content and its reply: the outcome is
    /// unknown. Another try may duplicate; giving up may lose.
    LostAfterData,
    /// Nothing was sent, because the peer cannot take this message.
    Unfit(Unfit),
}

/// The end of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionResult {
    /// One for each recipient offered, in the order offered: index into the envelope's recipients,
    /// and verdict.
    pub verdicts: Vec<(u32, RecipientVerdict)>,
    /// Accepted recipients that asked for NOTIFY=SUCCESS, at a hop without DSN: the reverse-path
    /// is owed a "relayed" report (RFC 3461 section 5.2.2).
    pub relayed: Vec<u32>,
    /// Another transaction may follow on this connection. If not, `Failed` or `Closed` is next.
    pub reusable: bool,
    /// How the session ended, if that ended this transaction.
    pub cut_short: Option<Failure>,
    /// How long the peer was waited for in vain, if that was how. The driver knows.
    pub waited: Option<Duration>,
}

impl TransactionResult {
    /// The result of a transaction that [`super::Client::begin`] would not begin.
    pub fn unfit(transaction: &Transaction<'_>, unfit: &Unfit) -> Self {
        Self::of_all(transaction, &RecipientVerdict::Unfit(unfit.clone()), true)
    }

    /// The result of a transaction whose session had ended before it could begin.
    pub fn not_attempted(transaction: &Transaction<'_>) -> Self {
        Self::of_all(transaction, &RecipientVerdict::NotAttempted, false)
    }

    fn of_all(transaction: &Transaction<'_>, verdict: &RecipientVerdict, reusable: bool) -> Self {
        TransactionResult {
            verdicts: transaction
                .recipients
                .iter()
                .map(|&index| (index, verdict.clone()))
                .collect(),
            relayed: Vec::new(),
            reusable,
            cut_short: None,
            waited: None,
        }
    }
}

/// Can this session carry the message, and to whom? The positions of recipients that it cannot be
/// offered, in their order; `Err` if there is none that it can.
///
/// * `SIZE` offered and exceeded for certain: 5.3.4 (RFC 1870 section 6.1). What may be exceeded by the
///   dots of stuffing, which do not count, is tried.
/// * SMTPUTF8 needed and not offered: 5.6.7 (RFC 6531 section 3.5). It is needed by an address whose
///   local-part is not ASCII (a domain goes out in A-labels, section 3.2), and by a header section
///   that holds UTF-8, as the envelope says.
///
/// 8-bit content to a peer without 8BITMIME is sent as it is. RFC 6152 asks for a conversion that
/// would break signatures; Postfix and Exim offer just sending it, and today's peers take it.
pub(super) fn check(
    transaction: &Transaction<'_>,
    features: &Features,
) -> Result<Vec<(usize, Unfit)>, Unfit> {
    let envelope = transaction.envelope;
    if let Some(limit @ 1..) = features.size
        && transaction.exceeds(limit)
    {
        return Err(Unfit {
            status: EnhancedStatus::new(5, 3, 4),
            text: "message size exceeds the fixed maximum of the next hop",
        });
    }
    if envelope.smtputf8 && !features.has(Extension::SmtpUtf8) {
        return Err(NEEDS_SMTPUTF8);
    }
    if let Some(reverse_path) = &envelope.reverse_path {
        check_address(reverse_path, features)?;
    }
    let mut unfit = Vec::new();
    for (position, recipient) in offered(transaction).enumerate() {
        if let Err(why) = check_address(&recipient.forward_path, features) {
            unfit.push((position, why));
        }
    }
    match unfit.len() == transaction.recipients.len() {
        true => Err(unfit.swap_remove(0).1),
        false => Ok(unfit),
    }
}

const NEEDS_SMTPUTF8: Unfit = Unfit {
    status: EnhancedStatus::new(5, 6, 7),
    text: "the next hop does not offer SMTPUTF8, which this message needs",
};

fn check_address(mailbox: &Mailbox, features: &Features) -> Result<(), Unfit> {
    if !features.has(Extension::SmtpUtf8) && mailbox.in_ascii().is_none() {
        Err(NEEDS_SMTPUTF8)
    } else if !is_sendable(mailbox) {
        Err(Unfit {
            status: EnhancedStatus::new(5, 1, 3),
            text: "an address cannot be written in a command",
        })
    } else {
        Ok(())
    }
}

fn offered<'a>(transaction: &Transaction<'a>) -> impl Iterator<Item = &'a Recipient> {
    let all = &transaction.envelope.recipients;
    transaction
        .recipients
        .iter()
        .map(|&index| &all[index as usize])
}

/// Whether the transaction says SMTPUTF8. To a peer without it addresses go out in A-labels.
fn says_smtputf8(transaction: &Transaction<'_>, features: &Features) -> bool {
    let envelope = transaction.envelope;
    let is_utf8 = |mailbox: &Mailbox| mailbox.needs_smtputf8();
    features.has(Extension::SmtpUtf8)
        && (envelope.smtputf8
            || envelope.reverse_path.as_ref().is_some_and(is_utf8)
            || offered(transaction).any(|recipient| is_utf8(&recipient.forward_path)))
}

/// `Mailbox` promises this; a broken promise must not become a second command.
fn is_sendable(mailbox: &Mailbox) -> bool {
    !mailbox
        .as_str()
        .bytes()
        .any(|byte| byte < b' ' || byte == 0x7f)
}

/// xtext of RFC 3461 section 4 and RFC 6533 section 3, as far as it is harmless in a command.
fn is_parameter_value(text: &str, smtputf8: bool) -> bool {
    !text.is_empty()
        && text.chars().all(|c| match c {
            '!'..='~' => true,
            c if c.is_ascii() => false,
            c => smtputf8 && !c.is_control() && !c.is_whitespace(),
        })
}

/// A transaction that has begun.
#[derive(Debug)]
pub(super) struct Open {
    /// Index into the envelope's recipients, and the verdict once there is one.
    recipients: Vec<(u32, Option<RecipientVerdict>)>,
    /// Who is not offered: the place among those that were meant to be, index, and why.
    unfit: Vec<(usize, u32, Unfit)>,
    /// Recipients that asked for a report that the peer will not send.
    unreported: Vec<u32>,
    /// Recipients whose RCPT got 2yz.
    accepted: usize,
    pub mail_refused: bool,
    pub body: Body,
    /// Commands not yet sent, whole lines; empty from the start with PIPELINING.
    script: Vec<u8>,
    script_sent_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Body {
    NotAsked,
    /// 354 came; the driver is sending.
    Asked,
    Sent,
}

impl Open {
    /// Writes all commands to `out` if they may be pipelined, or else keeps them for
    /// [`Open::send_next_command`]. `unfit`: as [`check`] has found.
    pub fn new(
        transaction: &Transaction<'_>,
        unfit: Vec<(usize, Unfit)>,
        features: &Features,
        rset_first: bool,
        out: &mut Vec<u8>,
    ) -> Self {
        let mut script = Vec::new();
        let commands = if features.has(Extension::Pipelining) {
            out
        } else {
            &mut script
        };
        if rset_first {
            commands.extend_from_slice(b"RSET\r\n");
        }
        let of_unfit = |position: usize| unfit.iter().any(|(other, _)| *other == position);
        let recipients: Vec<u32> = transaction
            .recipients
            .iter()
            .enumerate()
            .filter(|(position, _)| unfit.is_empty() || !of_unfit(*position))
            .map(|(_, &index)| index)
            .collect();
        let fit = Transaction {
            recipients: &recipients,
            ..*transaction
        };
        write_commands(&fit, features, commands);
        let owed = |&&index: &&u32| {
            !features.has(Extension::Dsn)
                && transaction.envelope.recipients[index as usize].wants_success_report()
        };
        Open {
            unreported: recipients.iter().filter(owed).copied().collect(),
            recipients: recipients.into_iter().map(|index| (index, None)).collect(),
            unfit: unfit
                .into_iter()
                .map(|(position, why)| (position, transaction.recipients[position], why))
                .collect(),
            accepted: 0,
            mail_refused: false,
            body: Body::NotAsked,
            script,
            script_sent_bytes: 0,
        }
    }

    pub fn send_next_command(&mut self, out: &mut Vec<u8>) {
        let rest = &self.script[self.script_sent_bytes..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = &rest[..end.map_or(rest.len(), |end| end + 1)];
        out.extend_from_slice(line);
        self.script_sent_bytes += line.len();
    }

    pub fn recipient_count(&self) -> usize {
        self.recipients.len()
    }

    pub fn accept_recipient(&mut self, position: usize) {
        if self.recipients[position].1.is_none() {
            self.accepted += 1;
        }
    }

    pub fn refuse_recipient(&mut self, position: usize, reply: Reply) {
        self.recipients[position]
            .1
            .get_or_insert_with(|| RecipientVerdict::Refused {
                stage: Stage::Rcpt,
                reply: Rc::new(reply),
            });
    }

    /// Some recipient was accepted and no refusal has come over it since.
    pub fn has_accepted(&self) -> bool {
        self.accepted > 0
    }

    /// No verdict counts.
    pub fn withdraw(&mut self) {
        for (_, slot) in &mut self.recipients {
            *slot = None;
        }
        self.accepted = 0;
    }

    /// Every recipient without a verdict gets this one.
    pub fn settle(&mut self, verdict: RecipientVerdict) {
        for (_, slot) in &mut self.recipients {
            slot.get_or_insert_with(|| verdict.clone());
        }
        self.accepted = 0;
    }

    pub fn finish(self, reusable: bool) -> TransactionResult {
        let mut verdicts: Vec<(u32, RecipientVerdict)> = self
            .recipients
            .into_iter()
            .map(|(index, verdict)| (index, verdict.unwrap_or(RecipientVerdict::NotAttempted)))
            .collect();
        for (position, index, unfit) in self.unfit {
            verdicts.insert(position, (index, RecipientVerdict::Unfit(unfit)));
        }
        let mut relayed = self.unreported;
        relayed.retain(|&wanted| {
            verdicts.iter().any(|(index, verdict)| {
                *index == wanted && matches!(verdict, RecipientVerdict::Accepted { .. })
            })
        });
        TransactionResult {
            verdicts,
            relayed,
            reusable,
            cut_short: None,
            waited: None,
        }
    }
}

fn write_commands(transaction: &Transaction<'_>, features: &Features, out: &mut Vec<u8>) {
    let smtputf8 = says_smtputf8(transaction, features);
    write_mail(transaction, features, smtputf8, out);
    for recipient in offered(transaction) {
        write_rcpt(recipient, features.has(Extension::Dsn), smtputf8, out);
    }
    out.extend_from_slice(b"DATA\r\n");
}

fn write_mail(
    transaction: &Transaction<'_>,
    features: &Features,
    smtputf8: bool,
    out: &mut Vec<u8>,
) {
    let envelope = transaction.envelope;
    out.extend_from_slice(b"MAIL FROM:<");
    if let Some(reverse_path) = &envelope.reverse_path {
        write_address(reverse_path, smtputf8, out);
    }
    out.push(b'>');
    if let Some(limit) = features.size {
        let declared_bytes = transaction.declared_bytes(limit);
        out.extend_from_slice(format!(" SIZE={declared_bytes}").as_bytes());
    }
    let is_8bit = transaction.body_is_8bit || envelope.body_type == BodyType::EightBitMime;
    if features.has(Extension::EightBitMime) && is_8bit {
        out.extend_from_slice(b" BODY=8BITMIME");
    }
    if smtputf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if features.has(Extension::Dsn) {
        write_mail_dsn(envelope, out);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_address(mailbox: &Mailbox, smtputf8: bool, out: &mut Vec<u8>) {
    let in_ascii = match smtputf8 {
        true => None,
        false => mailbox.in_ascii(),
    };
    let text = in_ascii.as_deref().unwrap_or(mailbox.as_str());
    out.extend_from_slice(text.as_bytes());
}

fn write_mail_dsn(envelope: &Envelope, out: &mut Vec<u8>) {
    match envelope.ret {
        Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
        Some(Ret::Headers) => out.extend_from_slice(b" RET=HDRS"),
        None => {}
    }
    if let Some(envid) = envelope
        .envid
        .as_deref()
        .filter(|id| is_parameter_value(id, false))
    {
        out.extend_from_slice(b" ENVID=");
        out.extend_from_slice(envid.as_bytes());
    }
}

fn write_rcpt(recipient: &Recipient, dsn: bool, smtputf8: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"RCPT TO:<");
    write_address(&recipient.forward_path, smtputf8, out);
    out.push(b'>');
    if dsn {
        if let Some(notify) = recipient.notify {
            write_notify(notify, out);
        }
        let in_7bit = |orcpt| match smtputf8 {
            true => Cow::Borrowed(orcpt),
            false => unitext_in_7bit(orcpt),
        };
        let orcpt = recipient.orcpt.as_deref().map(in_7bit);
        if let Some(orcpt) = orcpt.filter(|orcpt| is_parameter_value(orcpt, smtputf8)) {
            out.extend_from_slice(b" ORCPT=");
            out.extend_from_slice(orcpt.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn write_notify(notify: Notify, out: &mut Vec<u8>) {
    out.extend_from_slice(b" NOTIFY=");
    if notify == Notify::NEVER {
        return out.extend_from_slice(b"NEVER");
    }
    let wanted = [
        (notify.success, "SUCCESS"),
        (notify.failure, "FAILURE"),
        (notify.delay, "DELAY"),
    ];
    let words: Vec<&str> = wanted
        .iter()
        .filter_map(|&(wanted, word)| wanted.then_some(word))
        .collect();
    out.extend_from_slice(words.join(",").as_bytes());
}
