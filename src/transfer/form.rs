//! A message as a file: a line of JSON, and behind it the content as it is.
//!
//! ```text
//! ringpost_export   1: the version of this form
//! id                what the relay called it: for people
//! received          when it was accepted, RFC 3339
//! from              reverse-path, null for <>
//! 8bitmime, smtputf8, ret, envid    as the client said them
//! to                by recipient: address, notify, orcpt, and how it stands
//! bytes, crc32c     of the content
//! ```
//!
//! Recipients that need nothing more are not in it.

use crate::message::{BodyType, Envelope, Mailbox, MessageId, Notify, Recipient, Ret};
use crate::schedule::outcome::{Diagnosis, RecipientState, ReportKind};
use crate::smtp::address;
use crate::time::WallTime;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const VERSION_KEY: &str = "ringpost_export";
const VERSION: u64 = 1;

/// What a file says of a message besides its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    pub id: MessageId,
    pub received_at: WallTime,
    pub envelope: Envelope,
    /// One for each recipient of the envelope.
    pub states: Vec<RecipientState>,
    pub content_bytes: u64,
    /// CRC-32C.
    pub content_checksum: u32,
}

impl Head {
    /// One line, its end left out. Recipients that are finished are left out.
    pub fn to_line(&self) -> String {
        let envelope = &self.envelope;
        let recipients = envelope.recipients.iter().zip(&self.states);
        let open = recipients.filter(|(_, state)| !state.is_finished());
        let to: Vec<Value> = open
            .map(|(it, state)| recipient_to_json(it, state))
            .collect();
        let ret = envelope.ret.map(|ret| match ret {
            Ret::Full => "FULL",
            Ret::Headers => "HDRS",
        });
        json!({
            VERSION_KEY: VERSION,
            "id": self.id.to_string(),
            "received": calendar(self.received_at),
            "from": envelope.reverse_path.as_ref().map(Mailbox::as_str),
            "8bitmime": envelope.body_type == BodyType::EightBitMime,
            "smtputf8": envelope.smtputf8,
            "ret": ret,
            "envid": envelope.envid,
            "to": to,
            "bytes": self.content_bytes,
            "crc32c": format!("{:08x}", self.content_checksum),
        })
        .to_string()
    }

    /// # Errors
    /// In words: what is wrong with the line.
    pub fn from_line(line: &str) -> Result<Head, String> {
        let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let fields = Fields(value.as_object().ok_or("it is no JSON object")?);
        match fields.0.get(VERSION_KEY).and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(other) => {
                return Err(format!(
                    "it has version {other} of the form, and this ringpost knows {VERSION}"
                ));
            }
            None => return Err(format!("it has no {VERSION_KEY:?}")),
        }
        let mut recipients = Vec::new();
        let mut states = Vec::new();
        for value in fields.list("to")? {
            let fields = Fields(value.as_object().ok_or("a recipient is no JSON object")?);
            recipients.push(fields.recipient()?);
            states.push(fields.state()?);
        }
        if recipients.is_empty() {
            return Err("it has no recipients".to_owned());
        }
        let id = fields.text("id")?;
        let checksum = u32::from_str_radix(fields.text("crc32c")?, 16);
        Ok(Head {
            id: id
                .parse()
                .map_err(|()| format!("{id:?} is no message id"))?,
            received_at: fields.time("received")?,
            envelope: Envelope {
                reverse_path: fields.optional("from")?.map(mailbox).transpose()?,
                body_type: match fields.flag("8bitmime")? {
                    true => BodyType::EightBitMime,
                    false => BodyType::SevenBit,
                },
                smtputf8: fields.flag("smtputf8")?,
                ret: match fields.optional("ret")? {
                    None => None,
                    Some("FULL") => Some(Ret::Full),
                    Some("HDRS") => Some(Ret::Headers),
                    Some(other) => return Err(format!("\"ret\" is {other:?}")),
                },
                envid: fields.optional("envid")?.map(Box::from),
                recipients,
            },
            states,
            content_bytes: fields.number("bytes")?,
            content_checksum: checksum.map_err(|_| "\"crc32c\" is no checksum")?,
        })
    }
}

fn recipient_to_json(recipient: &Recipient, state: &RecipientState) -> Value {
    let notify = recipient.notify.map(|notify| {
        let names = [
            (notify.success, "SUCCESS"),
            (notify.failure, "FAILURE"),
            (notify.delay, "DELAY"),
        ];
        let asked = names.into_iter().filter(|(is_asked, _)| *is_asked);
        asked.map(|(_, name)| name).collect::<Vec<_>>()
    });
    let (kind, attempts, due, diagnosis) = match state {
        RecipientState::Waiting {
            attempts,
            due,
            last,
        } => ("waiting", *attempts, *due, last.as_ref()),
        RecipientState::ReportOwed {
            kind,
            diagnosis,
            attempts,
            due,
        } => (state_name(*kind), *attempts, *due, Some(diagnosis)),
        RecipientState::Finished => unreachable!("it was left out"),
    };
    json!({
        "address": recipient.forward_path.as_str(),
        "notify": notify,
        "orcpt": recipient.orcpt,
        "state": kind,
        "attempts": attempts,
        "due": (due != WallTime(0)).then(|| calendar(due)),
        "status": diagnosis.map(|it| it.status.to_string()),
        "reply": diagnosis.map(|it| &*it.text),
        "host": diagnosis.map(|it| &*it.remote_host),
    })
}

fn state_name(kind: ReportKind) -> &'static str {
    match kind {
        ReportKind::Failed => "failure-report-owed",
        ReportKind::Relayed => "success-report-owed",
    }
}

/// RFC 3339 in UTC, to the millisecond.
fn calendar(time: WallTime) -> String {
    let ms = i128::from(time.min(WallTime::LAST).0);
    let at = OffsetDateTime::from_unix_timestamp_nanos(ms * 1_000_000);
    let text = at.ok().and_then(|at| at.format(&Rfc3339).ok());
    text.expect("RFC 3339 can say all times up to WallTime::LAST")
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    if text.eq_ignore_ascii_case("postmaster") {
        return Ok(Mailbox::new(text, ""));
    }
    address::mailbox(text).map_err(|_| format!("{text:?} is no address"))
}

/// Fields of an object, each with an error in words.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// # Errors
    /// The field is there, and neither null nor text.
    fn optional(&self, name: &str) -> Result<Option<&'a str>, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{name:?} is no text")),
        }
    }

    fn text(&self, name: &str) -> Result<&'a str, String> {
        self.optional(name)?
            .ok_or_else(|| format!("it has no {name:?}"))
    }

    fn number(&self, name: &str) -> Result<u64, String> {
        let number = self.0.get(name).and_then(Value::as_u64);
        number.ok_or_else(|| format!("{name:?} is no number"))
    }

    fn flag(&self, name: &str) -> Result<bool, String> {
        let flag = self.0.get(name).and_then(Value::as_bool);
        flag.ok_or_else(|| format!("{name:?} is neither true nor false"))
    }

    fn list(&self, name: &str) -> Result<&'a [Value], String> {
        let list = self.0.get(name).and_then(Value::as_array);
        list.map(Vec::as_slice)
            .ok_or_else(|| format!("{name:?} is no list"))
    }

    fn time(&self, name: &str) -> Result<WallTime, String> {
        let text = self.text(name)?;
        let ms = OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
        ms.map(WallTime)
            .ok_or_else(|| format!("{text:?} is no time of RFC 3339 since 1970"))
    }

    fn recipient(&self) -> Result<Recipient, String> {
        let notify = match self.0.get("notify") {
            None | Some(Value::Null) => None,
            Some(_) => Some(self.notify()?),
        };
        Ok(Recipient {
            forward_path: mailbox(self.text("address")?)?,
            notify,
            orcpt: self.optional("orcpt")?.map(Box::from),
        })
    }

    fn notify(&self) -> Result<Notify, String> {
        let mut notify = Notify::NEVER;
        for name in self.list("notify")? {
            let asked = match name.as_str() {
                Some("SUCCESS") => &mut notify.success,
                Some("FAILURE") => &mut notify.failure,
                Some("DELAY") => &mut notify.delay,
                _ => return Err(format!("\"notify\" has {name}")),
            };
            *asked = true;
        }
        Ok(notify)
    }

    fn state(&self) -> Result<RecipientState, String> {
        let attempts = u32::try_from(self.number("attempts")?);
        let attempts = attempts.map_err(|_| "\"attempts\" is too large")?;
        let due = match self.optional("due")? {
            None => WallTime(0),
            Some(_) => self.time("due")?,
        };
        let diagnosis = self.diagnosis()?;
        let kind = match self.text("state")? {
            "waiting" => {
                return Ok(RecipientState::Waiting {
                    attempts,
                    due,
                    last: diagnosis,
                });
            }
            "failure-report-owed" => ReportKind::Failed,
            "success-report-owed" => ReportKind::Relayed,
            other => return Err(format!("\"state\" is {other:?}")),
        };
        Ok(RecipientState::ReportOwed {
            kind,
            diagnosis: diagnosis.ok_or("a report is owed, and there is no \"status\"")?,
            attempts,
            due,
        })
    }

    fn diagnosis(&self) -> Result<Option<Diagnosis>, String> {
        let Some(status) = self.optional("status")? else {
            return Ok(None);
        };
        let text = |name| -> Result<Box<str>, String> {
            let text = self.optional(name)?.unwrap_or("");
            let is_printable = !text.chars().any(char::is_control);
            match is_printable && text.len() <= Diagnosis::TEXT_BYTES_MAX {
                true => Ok(text.into()),
                false => Err(format!("{name:?} is too long, or has control characters")),
            }
        };
        Ok(Some(Diagnosis {
            status: (status.parse())
                .map_err(|_| format!("{status:?} is no enhanced status code"))?,
            text: text("reply")?,
            remote_host: text("host")?,
        }))
    }
}

#[cfg(test)]
mod tests;
