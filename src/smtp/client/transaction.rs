//! One mail transaction: its commands (RFC 5321 section 3.3) and what became of its recipients.

use std::rc::Rc;

use super::Features;
use crate::message::{BodyType, Envelope, Mailbox, Notify, Recipient, Ret};
use crate::smtp::reply::{EnhancedStatus, Reply, Stage};

/// What is to be sent: some recipients of one message.
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    pub envelope: &'a Envelope,
    /// Indexes into the envelope's recipients; not empty. The caller bounds how many.
    pub recipients: &'a [u32],
    /// The content as RFC 1870 counts it. What dot-stuffing adds may be counted.
    pub body_bytes: u64,
    /// The content has bytes of 128 and above, whatever the envelope says.
    pub body_is_8bit: bool,
}

impl<'a> Transaction<'a> {
    /// With content that has so many bytes in wire form, of which the final dot and its CRLF are none.
    pub fn of_wire_form(
        envelope: &'a Envelope,
        recipients: &'a [u32],
        wire_bytes: u64,
        body_is_8bit: bool,
    ) -> Self {
        Transaction {
            envelope,
            recipients,
            body_bytes: wire_bytes.saturating_sub(3),
            body_is_8bit,
        }
    }
}

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
}

impl TransactionResult {
    /// The result of a transaction that [`super::Client::begin`] would not begin.
    pub fn unfit(transaction: &Transaction<'_>, unfit: &Unfit) -> Self {
        let verdict = RecipientVerdict::Unfit(unfit.clone());
        TransactionResult {
            verdicts: transaction
                .recipients
                .iter()
                .map(|&index| (index, verdict.clone()))
                .collect(),
            relayed: Vec::new(),
            reusable: true,
        }
    }
}

/// Can this session carry the message at all?
///
/// * `SIZE` offered and exceeded: 5.3.4 (RFC 1870 section 6.1).
/// * SMTPUTF8 needed and not offered: 5.6.7 (RFC 6531 section 3.5). It is needed if an address is
///   not ASCII, and if the envelope says so, as the header section may then hold UTF-8.
///
/// 8-bit content to a peer without 8BITMIME is sent as it is. RFC 6152 asks for a conversion that
/// would break signatures; Postfix and Exim offer just sending it, and today's peers take it.
pub(super) fn check(transaction: &Transaction<'_>, features: &Features) -> Result<(), Unfit> {
    if let Some(limit @ 1..) = features.size
        && transaction.body_bytes > limit
    {
        return Err(Unfit {
            status: EnhancedStatus::new(5, 3, 4),
            text: "message size exceeds the fixed maximum of the next hop",
        });
    }
    if needs_smtputf8(transaction) && !features.smtputf8 {
        return Err(Unfit {
            status: EnhancedStatus::new(5, 6, 7),
            text: "the next hop does not offer SMTPUTF8, which this message needs",
        });
    }
    if !addresses(transaction).all(is_sendable) {
        return Err(Unfit {
            status: EnhancedStatus::new(5, 1, 3),
            text: "an address cannot be written in a command",
        });
    }
    Ok(())
}

fn addresses<'a>(transaction: &Transaction<'a>) -> impl Iterator<Item = &'a Mailbox> {
    let forward_paths = offered(transaction).map(|recipient| &recipient.forward_path);
    transaction
        .envelope
        .reverse_path
        .iter()
        .chain(forward_paths)
}

fn offered<'a>(transaction: &Transaction<'a>) -> impl Iterator<Item = &'a Recipient> {
    let all = &transaction.envelope.recipients;
    transaction
        .recipients
        .iter()
        .map(|&index| &all[index as usize])
}

fn needs_smtputf8(transaction: &Transaction<'_>) -> bool {
    transaction.envelope.smtputf8 || addresses(transaction).any(Mailbox::needs_smtputf8)
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
    /// [`Open::send_next_command`].
    pub fn new(
        transaction: &Transaction<'_>,
        features: &Features,
        rset_first: bool,
        out: &mut Vec<u8>,
    ) -> Self {
        let mut script = Vec::new();
        let commands = if features.pipelining {
            out
        } else {
            &mut script
        };
        if rset_first {
            commands.extend_from_slice(b"RSET\r\n");
        }
        write_commands(transaction, features, commands);
        let owed = |&&index: &&u32| {
            !features.dsn && transaction.envelope.recipients[index as usize].wants_success_report()
        };
        Open {
            recipients: transaction
                .recipients
                .iter()
                .map(|&index| (index, None))
                .collect(),
            unreported: transaction
                .recipients
                .iter()
                .filter(owed)
                .copied()
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

    /// Every recipient without a verdict gets this one.
    pub fn settle(&mut self, verdict: RecipientVerdict) {
        for (_, slot) in &mut self.recipients {
            slot.get_or_insert_with(|| verdict.clone());
        }
        self.accepted = 0;
    }

    pub fn finish(self, reusable: bool) -> TransactionResult {
        let verdicts: Vec<(u32, RecipientVerdict)> = self
            .recipients
            .into_iter()
            .map(|(index, verdict)| (index, verdict.unwrap_or(RecipientVerdict::NotAttempted)))
            .collect();
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
        }
    }
}

fn write_commands(transaction: &Transaction<'_>, features: &Features, out: &mut Vec<u8>) {
    write_mail(transaction, features, out);
    let smtputf8 = needs_smtputf8(transaction);
    for recipient in offered(transaction) {
        write_rcpt(recipient, features.dsn, smtputf8, out);
    }
    out.extend_from_slice(b"DATA\r\n");
}

fn write_mail(transaction: &Transaction<'_>, features: &Features, out: &mut Vec<u8>) {
    let envelope = transaction.envelope;
    out.extend_from_slice(b"MAIL FROM:<");
    if let Some(reverse_path) = &envelope.reverse_path {
        out.extend_from_slice(reverse_path.as_str().as_bytes());
    }
    out.push(b'>');
    if features.size.is_some() {
        out.extend_from_slice(format!(" SIZE={}", transaction.body_bytes).as_bytes());
    }
    let is_8bit = transaction.body_is_8bit || envelope.body_type == BodyType::EightBitMime;
    if features.eight_bit_mime && is_8bit {
        out.extend_from_slice(b" BODY=8BITMIME");
    }
    if needs_smtputf8(transaction) {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if features.dsn {
        write_mail_dsn(envelope, out);
    }
    out.extend_from_slice(b"\r\n");
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
    out.extend_from_slice(recipient.forward_path.as_str().as_bytes());
    out.push(b'>');
    if dsn {
        if let Some(notify) = recipient.notify {
            write_notify(notify, out);
        }
        let orcpt = recipient.orcpt.as_deref();
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
