//! One command after the other: is it allowed now, and what does it change?

use crate::domain::Domain;
use crate::message::{Envelope, Mailbox, Recipient};
use crate::smtp::command::{self, Command, CommandError, MailCommand, RcptCommand};
use crate::smtp::extension::{Extension, Offer};
use crate::smtp::refusals::*;

use super::answers;
use super::lines::Reading;
use super::{
    COMMAND_LINE_BYTES_MIN, Claim, Hello, Next, Policy, Refusal, Server, Spending, State, Step,
    Waits,
};

/// What a reverse-path may take (RFC 5321 section 4.5.3.1.3).
const LONGEST_PATH_BYTES: usize = 256;

/// Memory of one recipient; a list that grows is up to half empty.
fn recipient_bytes(rcpt: &RcptCommand<'_>) -> usize {
    let path: &Mailbox = &rcpt.forward_path;
    let texts = path.as_str().len() + rcpt.orcpt.as_ref().map_or(0, |orcpt| orcpt.len());
    2 * size_of::<Recipient>() + texts
}

impl Server {
    pub(super) fn handle_line(
        &mut self,
        input: &[u8],
        policy: &dyn Policy,
        out: &mut Vec<u8>,
    ) -> (usize, Next) {
        let limit = self
            .settings
            .max_command_line_bytes
            .max(COMMAND_LINE_BYTES_MIN);
        let (consumed, reading) = self.lines.read(input, limit);
        let next = match reading {
            Reading::Partial => Some(Step::NeedInput),
            Reading::Whole => self.handle_command(&input[..consumed], policy, out),
            Reading::Assembled => {
                let line = self.lines.take();
                self.handle_command(&line, policy, out)
            }
            Reading::TooLong if self.text_may_follow() => self.close(&TEXT_WITHOUT_354, out),
            Reading::TooLong => self.reply_refusal(&LINE_TOO_LONG, out),
            Reading::TooLongData => self.refuse_data(&LINE_TOO_LONG, out),
            Reading::TooLongChunk => self.close(&CHUNK_SIZE, out),
            Reading::BareLf => self.close(&BARE_LF_IN_COMMAND, out),
            Reading::Endless => self.close(&ENDLESS_LINE, out),
            Reading::NotSmtp => self.close(&NOT_SMTP, out),
        };
        if matches!(next, Some(Step::StartTls)) {
            self.summary.input_before_tls = consumed < input.len();
        }
        (consumed, next)
    }

    /// `line` ends in CRLF.
    fn handle_command(&mut self, line: &[u8], policy: &dyn Policy, out: &mut Vec<u8>) -> Next {
        let is_text = self.text_may_follow();
        if is_text {
            self.waits = Waits::Unknown;
        }
        let text = &line[..line.len() - 2];
        match command::parse_for(text, self.home()) {
            Ok(Command::Bdat { .. }) if is_text => self.close(&TEXT_WITHOUT_354, out),
            Ok(command) => {
                self.summary.commands += 1;
                self.run(command, policy, out)
            }
            Err(CommandError::OtherProtocol) => self.close(&NOT_SMTP, out),
            Err(CommandError::ChunkSize) => self.close(&CHUNK_SIZE, out),
            Err(_) if is_text => self.close(&TEXT_WITHOUT_354, out),
            Err(CommandError::Unknown) => self.reply_refusal(&UNKNOWN_COMMAND, out),
            Err(CommandError::Refused(refusal)) => {
                if command::asks_for_data(text) {
                    self.waits = Waits::Refused;
                }
                self.report_refused_line(line, &refusal, policy);
                self.reply_refusal(&refusal, out)
            }
        }
    }

    fn run(&mut self, command: Command<'_>, policy: &dyn Policy, out: &mut Vec<u8>) -> Next {
        if self.needs_tls(&command) {
            return self.refuse_without_tls(&command, policy, out);
        }
        match command {
            Command::Mail(mail) => self.mail(mail, policy, out),
            Command::Rcpt(rcpt) => self.rcpt(rcpt, policy, out),
            Command::Data => self.data(policy, out),
            Command::Bdat { chunk_bytes, last } => self.bdat(chunk_bytes, last, policy, out),
            Command::Ehlo(name) | Command::Helo(name) if !self.takes_hello(&name) => {
                self.reply_refusal(&HELLO, out)
            }
            Command::Ehlo(name) => self.ehlo(&name, policy, out),
            Command::Helo(name) => self.helo(&name, out),
            Command::StartTls => self.starttls(policy, out),
            Command::Rset => self.rset(out),
            Command::Quit => self.quit(out),
            Command::Noop => self.idle(b"250 2.0.0 Ok", out),
            Command::Help => self.idle(b"214 2.0.0 See RFC 5321", out),
            Command::Vrfy => self.idle(b"252 2.0.0 Send some mail, and we shall see", out),
            Command::Expn => self.reply_refusal(&NO_EXPN, out),
            Command::Auth if self.hello.is_none() => self.reply_refusal(&HELLO_FIRST, out),
            Command::Auth => self.reply_refusal(&NO_AUTH, out),
        }
    }

    /// The domain of paths without one.
    fn home(&self) -> Option<&Domain<'static>> {
        let home = self.settings.qualify_domain.as_ref();
        home.filter(|_| self.peer.trusted)
    }

    /// Devices and hosts of our own may call themselves whatever they like.
    fn takes_hello(&self, name: &str) -> bool {
        self.peer.trusted || command::is_name_like(name)
    }

    /// RFC 3207 section 4 names what a server that insists on TLS still answers.
    fn needs_tls(&self, command: &Command<'_>) -> bool {
        let always = matches!(
            command,
            Command::Ehlo(_) | Command::Helo(_) | Command::Noop | Command::StartTls | Command::Quit
        );
        self.settings.require_tls && self.peer.tls.is_none() && !always
    }

    fn refuse_without_tls(
        &mut self,
        command: &Command<'_>,
        policy: &dyn Policy,
        out: &mut Vec<u8>,
    ) -> Next {
        if let Command::Mail(mail) = command {
            self.report_refused_mail(mail, &MUST_STARTTLS, policy);
        }
        match *command {
            Command::Bdat { chunk_bytes, .. } => self.refuse_chunk(chunk_bytes, MUST_STARTTLS, out),
            Command::Data => self.refuse_data(&MUST_STARTTLS, out),
            _ => self.reply_refusal(&MUST_STARTTLS, out),
        }
    }

    pub(super) fn reply_refusal(&mut self, refusal: &Refusal, out: &mut Vec<u8>) -> Next {
        self.refuse(refusal, out);
        None
    }

    fn ehlo(&mut self, name: &str, policy: &dyn Policy, out: &mut Vec<u8>) -> Next {
        let offer = Offer {
            extensions: match self.lists_starttls(name, policy) {
                true => self.offers(),
                false => self.offers().without(Extension::StartTls),
            },
            message_bytes_max: self.settings.max_message_bytes,
        };
        offer.write(&self.settings.hostname, out);
        self.accept_hello(name, true)
    }

    fn lists_starttls(&mut self, name: &str, policy: &dyn Policy) -> bool {
        if !self.offers().has(Extension::StartTls) {
            return false;
        }
        let peer = &self.peer;
        let lists = *self
            .lists_starttls
            .get_or_insert_with(|| policy.lists_starttls(peer, name));
        self.summary.starttls_withdrawn = !lists;
        lists
    }

    fn helo(&mut self, name: &str, out: &mut Vec<u8>) -> Next {
        out.extend_from_slice(b"250 ");
        answers::write_line(self.settings.hostname.as_bytes(), out);
        self.accept_hello(name, false)
    }

    fn accept_hello(&mut self, name: &str, is_esmtp: bool) -> Next {
        self.idle_commands += 1;
        self.summary.hello = name.into();
        self.hello = Some(Hello {
            name: name.into(),
            is_esmtp,
        });
        self.reset()
    }

    fn rset(&mut self, out: &mut Vec<u8>) -> Next {
        self.idle(b"250 2.0.0 Ok", out);
        self.reset()
    }

    fn idle(&mut self, text: &[u8], out: &mut Vec<u8>) -> Next {
        self.idle_commands += 1;
        answers::write_line(text, out);
        None
    }

    fn quit(&mut self, out: &mut Vec<u8>) -> Next {
        answers::write_line(b"221 2.0.0 Bye", out);
        self.has_quit = true;
        self.state = State::Closed;
        Some(Step::Close)
    }

    fn starttls(&mut self, policy: &dyn Policy, out: &mut Vec<u8>) -> Next {
        if self.peer.tls.is_some() {
            return self.reply_refusal(&TLS_ACTIVE, out);
        }
        if !self.offers().has(Extension::StartTls) {
            return self.reply_refusal(&NO_STARTTLS, out);
        }
        if !matches!(self.state, State::Ready) {
            return self.reply_refusal(&IN_TRANSACTION, out);
        }
        if let Err(refusal) = policy.spend(&self.peer, Spending::Handshake) {
            return self.close(&refusal, out);
        }
        answers::write_line(b"220 2.0.0 Ready to start TLS", out);
        self.state = State::Handshake;
        Some(Step::StartTls)
    }

    fn mail(&mut self, mail: MailCommand<'_>, policy: &dyn Policy, out: &mut Vec<u8>) -> Next {
        if let Err(refusal) = self.judge_mail(&mail, policy) {
            self.report_refused_mail(&mail, &refusal, policy);
            return match refusal == TOO_MANY_TRANSACTIONS {
                true => self.close(&refusal, out),
                false => self.reply_refusal(&refusal, out),
            };
        }
        self.summary.transactions += 1;
        let declared_bytes = mail.declared_bytes.unwrap_or(0);
        self.declared_bytes = u32::try_from(declared_bytes).unwrap_or(u32::MAX);
        self.envelope_bytes = size_of::<Envelope>() + LONGEST_PATH_BYTES;
        self.state = State::Mail(Box::new(Envelope {
            reverse_path: mail.reverse_path,
            body_type: mail.body_type.unwrap_or_default(),
            smtputf8: mail.smtputf8,
            ret: mail.ret,
            envid: mail.envid.map(Box::from),
            recipients: Vec::new(),
        }));
        answers::write_line(b"250 2.1.0 Sender ok", out);
        None
    }

    fn judge_mail(&self, mail: &MailCommand<'_>, policy: &dyn Policy) -> Result<(), Refusal> {
        if self.hello.is_none() {
            return Err(HELLO_FIRST);
        }
        if !matches!(self.state, State::Ready) {
            return Err(NESTED_MAIL);
        }
        let limit = u64::from(self.settings.max_transactions);
        if limit > 0 && self.summary.transactions >= limit {
            return Err(TOO_MANY_TRANSACTIONS);
        }
        if mail.declared_bytes > Some(self.settings.max_message_bytes) {
            return Err(TOO_LARGE);
        }
        policy.admit(&self.peer, mail.declared_bytes)?;
        let claim = Claim::Sender(mail.reverse_path.as_ref());
        policy.share(&self.peer, claim, mail.declared_bytes.unwrap_or(0))?;
        policy.spend(&self.peer, Spending::Message)
    }

    fn rcpt(&mut self, rcpt: RcptCommand<'_>, policy: &dyn Policy, out: &mut Vec<u8>) -> Next {
        let State::Mail(envelope) = &self.state else {
            return self.reply_refusal(&self.out_of_sequence(), out);
        };
        if let Err(refusal) = self.judge_rcpt(&rcpt, envelope, policy) {
            self.report_refused_rcpt(rcpt.forward_path.as_str(), &refusal, policy);
            return self.reply_refusal(&refusal, out);
        }
        let mut rcpt = rcpt;
        if rcpt.forward_path.domain_as_written().is_empty()
            && let Some(mailbox) = policy.postmaster()
        {
            rcpt.forward_path = mailbox;
        }
        let State::Mail(envelope) = &mut self.state else {
            unreachable!("it was just looked at");
        };
        self.envelope_bytes += recipient_bytes(&rcpt);
        if envelope.recipients.is_empty() {
            // Most messages have one recipient; growing by itself a Vec makes room for four.
            envelope.recipients.reserve_exact(1);
        }
        envelope.recipients.push(Recipient {
            forward_path: rcpt.forward_path,
            notify: rcpt.notify,
            orcpt: rcpt.orcpt.map(Box::from),
        });
        answers::write_line(b"250 2.1.5 Recipient ok", out);
        None
    }

    fn judge_rcpt(
        &self,
        rcpt: &RcptCommand<'_>,
        envelope: &Envelope,
        policy: &dyn Policy,
    ) -> Result<(), Refusal> {
        if rcpt.is_utf8() && !envelope.smtputf8 {
            return Err(NEEDS_SMTPUTF8);
        }
        if envelope.recipients.len() >= self.settings.max_recipients {
            return Err(TOO_MANY_RECIPIENTS);
        }
        policy.recipient(self.peer.trusted, &rcpt.forward_path)?;
        let claim = Claim::Recipient(&rcpt.forward_path);
        policy.share(&self.peer, claim, self.declared_bytes.into())?;
        policy.spend(&self.peer, Spending::Recipient)
    }

    /// What stands in the way of RCPT, DATA or BDAT outside of `State::Mail`.
    pub(super) fn out_of_sequence(&self) -> Refusal {
        match self.state {
            State::BetweenChunks(_) => AMONG_CHUNKS,
            _ if self.hello.is_none() => HELLO_FIRST,
            _ => MAIL_FIRST,
        }
    }
}
