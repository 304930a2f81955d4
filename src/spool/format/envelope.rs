//! An envelope as bytes.

use super::bytes::{Cursor, Malformed, put_option_str, put_str, put_u32};
use crate::message::{BodyType, Envelope, Mailbox, Notify, Recipient, Ret};

fn put_mailbox(out: &mut Vec<u8>, mailbox: &Mailbox) {
    put_str(out, mailbox.local_part());
    put_str(out, mailbox.domain_as_written());
}

pub(super) fn put_envelope(out: &mut Vec<u8>, envelope: &Envelope) {
    out.push(envelope.reverse_path.is_some().into());
    if let Some(reverse_path) = &envelope.reverse_path {
        put_mailbox(out, reverse_path);
    }
    out.push(matches!(envelope.body_type, BodyType::EightBitMime).into());
    out.push(envelope.smtputf8.into());
    out.push(match envelope.ret {
        None => 0,
        Some(Ret::Full) => 1,
        Some(Ret::Headers) => 2,
    });
    put_option_str(out, envelope.envid.as_deref());
    put_u32(out, envelope.recipients.len() as u32);
    for recipient in &envelope.recipients {
        put_mailbox(out, &recipient.forward_path);
        out.push(match recipient.notify {
            None => 0,
            Some(notify) => {
                1 | u8::from(notify.success) << 1
                    | u8::from(notify.failure) << 2
                    | u8::from(notify.delay) << 3
            }
        });
        put_option_str(out, recipient.orcpt.as_deref());
    }
}

impl Cursor<'_> {
    fn mailbox(&mut self) -> Result<Mailbox, Malformed> {
        let local_part = self.str()?;
        Ok(Mailbox::new(local_part, self.str()?))
    }

    pub(super) fn envelope(&mut self) -> Result<Envelope, Malformed> {
        let reverse_path = match self.bool()? {
            true => Some(self.mailbox()?),
            false => None,
        };
        let body_type = match self.bool()? {
            true => BodyType::EightBitMime,
            false => BodyType::SevenBit,
        };
        let smtputf8 = self.bool()?;
        let ret = match self.u8()? {
            0 => None,
            1 => Some(Ret::Full),
            2 => Some(Ret::Headers),
            _ => return Err(Malformed),
        };
        let envid = self.option_str()?;
        let count = self.u32()?;
        let mut recipients = Vec::new();
        for _ in 0..count {
            recipients.push(self.recipient()?);
        }
        Ok(Envelope {
            reverse_path,
            body_type,
            smtputf8,
            ret,
            envid,
            recipients,
        })
    }

    fn recipient(&mut self) -> Result<Recipient, Malformed> {
        let forward_path = self.mailbox()?;
        let flags = self.u8()?;
        let notify = match flags {
            0 => None,
            1..16 if flags & 1 == 1 => Some(Notify {
                success: flags & 2 != 0,
                failure: flags & 4 != 0,
                delay: flags & 8 != 0,
            }),
            _ => return Err(Malformed),
        };
        Ok(Recipient {
            forward_path,
            notify,
            orcpt: self.option_str()?,
        })
    }
}
