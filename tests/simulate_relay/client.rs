//! A client: none of the relay's code. Sends letters in every way there is, changes its mind, and goes away
//! at any moment.

use crate::ledger::Answer;
use crate::link::{End, Received};
use crate::network::Network;
use crate::plan::Choice;
use crate::relay::RECIPIENTS_MAX;
use crate::world::World;
use ringpost::message::{BodyType, Envelope, Mailbox, Notify, Recipient, Ret};
use std::rc::Rc;
use std::time::Duration;

/// Longer than the relay takes for anything.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What of a letter is UTF-8, beyond its text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Utf8 {
    No,
    /// SMTPUTF8 is asked for, and nothing needs it.
    Nothing,
    Sender,
    /// The first one.
    Recipient,
    Subject,
}

const UTF8S: [Utf8; 5] = [
    Utf8::Nothing,
    Utf8::Sender,
    Utf8::Recipient,
    Utf8::Recipient,
    Utf8::Subject,
];

/// The session is over, whoever ended it.
struct Over;

pub struct Client {
    world: Rc<World>,
    network: Rc<Network>,
    end: Option<End>,
    input: Vec<u8>,
    /// It goes away at one in so many steps; 0: never.
    restless: usize,
    pipelines: bool,
}

/// One letter as it is to be sent.
struct Draft {
    number: u32,
    mail: String,
    /// With their commands.
    recipients: Vec<(Recipient, String)>,
    /// Lines end CRLF; no dot is stuffed.
    content: Vec<u8>,
}

pub async fn visit(world: Rc<World>, network: Rc<Network>, end: End) {
    let restless = *world.pick(&[0, 0, 0, 40, 15]);
    let restless = restless * world.plan.most(Choice::Restless);
    let pipelines = world.one_in(2);
    let mut client = Client {
        world,
        network,
        end: Some(end),
        input: Vec::new(),
        restless,
        pipelines,
    };
    let _: Result<(), Over> = client.talk().await;
}

impl Client {
    async fn talk(&mut self) -> Result<(), Over> {
        self.reply().await?;
        let hello = match self.world.one_in(10) {
            true => "HELO client.test",
            false => "EHLO client.test",
        };
        self.say(&format!("{hello}\r\n"))?;
        self.reply().await?;
        let letters = 1 + self.world.below(4);
        for _ in 0..letters.min(self.world.plan.most(Choice::Letters)) {
            let draft = self.draft();
            match self.world.one_in(3) && hello.starts_with('E') {
                true => self.send_by_bdat(draft).await?,
                false => self.send_by_data(draft).await?,
            }
        }
        self.say("QUIT\r\n")?;
        self.reply().await?;
        Ok(())
    }

    // ---- what is sent ----

    fn draft(&mut self) -> Draft {
        let world = &self.world;
        let mut ledger = world.ledger.borrow_mut();
        let number = ledger.begin(Envelope::default(), world.now());
        let mut envelope = Envelope::default();
        let mut mail = String::from("MAIL FROM:<");
        let utf8 = match world.may(Choice::Smtputf8, 5) {
            true => *world.pick(&UTF8S),
            false => Utf8::No,
        };
        envelope.smtputf8 = utf8 != Utf8::No;
        world.seen.borrow_mut().smtputf8_letters += u64::from(envelope.smtputf8);
        let tail = |is_utf8| if is_utf8 { "-\u{fc}" } else { "" };
        if !world.one_in(7) {
            let local_part = format!("s.l{number}{}", tail(utf8 == Utf8::Sender));
            let sender = Mailbox::new(&local_part, &self.network.sites.any_domain(world));
            mail.push_str(sender.as_str());
            envelope.reverse_path = Some(sender);
        }
        mail.push('>');
        let content = self.content(number, utf8 == Utf8::Subject);
        if envelope.smtputf8 {
            mail.push_str(" SMTPUTF8");
        }
        if world.one_in(3) {
            mail.push_str(&format!(" SIZE={}", content.len()));
        }
        if world.one_in(6) {
            mail.push_str(" RET=FULL");
            envelope.ret = Some(Ret::Full);
        }
        if world.one_in(6) {
            mail.push_str(&format!(" ENVID=e{number}"));
            envelope.envid = Some(format!("e{number}").into());
        }
        if !content.is_ascii() && world.one_in(2) {
            mail.push_str(" BODY=8BITMIME");
            envelope.body_type = BodyType::EightBitMime;
        }
        mail.push_str("\r\n");
        ledger.letter(number).envelope = envelope;
        drop(ledger);
        let count = match world.one_in(12) {
            true => RECIPIENTS_MAX + 1,
            // Of two in a row one lives at the site that restarts, and one does not.
            false if self.network.sites.has_spell.get() => 2 + world.below(2),
            false => 1 + world.below(3),
        };
        let count = count.min(world.plan.most(Choice::Recipients));
        let is_utf8 = |index| utf8 == Utf8::Recipient && index == 0;
        let recipients = (0..count)
            .map(|it| self.recipient(number, it, tail(is_utf8(it))))
            .collect();
        Draft {
            number,
            mail,
            recipients,
            content,
        }
    }

    fn recipient(&self, number: u32, index: usize, tail: &str) -> (Recipient, String) {
        let world = &self.world;
        let domain = match world.one_in(20) {
            true => "refused.test".to_owned(),
            false => self.network.sites.domain_of_recipient(world),
        };
        let path = Mailbox::new(&format!("r{index}.l{number}{tail}"), &domain);
        let mut command = format!("RCPT TO:<{path}>");
        let mut recipient = Recipient::new(path);
        let (success, failure) = (world.one_in(2), world.one_in(2));
        if world.one_in(2) {
            let words = match (success, failure) {
                (false, false) => "NEVER",
                (true, false) => "SUCCESS",
                (false, true) => "FAILURE",
                (true, true) => "SUCCESS,FAILURE",
            };
            command.push_str(&format!(" NOTIFY={words}"));
            recipient.notify = Some(Notify {
                success,
                failure,
                delay: false,
            });
        }
        if world.one_in(6) {
            command.push_str(&format!(" ORCPT=rfc822;o{index}@{domain}"));
            recipient.orcpt = Some(format!("rfc822;o{index}@{domain}").into());
        }
        command.push_str("\r\n");
        (recipient, command)
    }

    fn content(&self, number: u32, is_utf8: bool) -> Vec<u8> {
        let world = &self.world;
        let subject = if is_utf8 { "gr\u{fc}n" } else { "green" };
        let header = format!("X-Letter: {number}\r\nSubject: {subject} {number}\r\n\r\n");
        let mut content = header.into_bytes();
        let lines = match world.below(12) {
            0 => 300 + world.below(900),
            1 | 2 => 20 + world.below(200),
            _ => world.below(12),
        };
        for _ in 0..lines.min(world.plan.most(Choice::Lines)) {
            content.extend_from_slice(match world.below(12) {
                0 => b"." as &[u8],
                1 => b"..",
                2 => b".dotted",
                3 => b"",
                4 => "gr\u{fc}n".as_bytes(),
                5 => b"RSET",
                _ => b"And so it goes, from line to line.",
            });
            content.extend_from_slice(b"\r\n");
        }
        content
    }

    // ---- the two ways ----

    async fn send_by_data(&mut self, draft: Draft) -> Result<(), Over> {
        let Some(last) = self.envelope(&draft, "DATA\r\n").await? else {
            return Ok(());
        };
        if last != 354 {
            return Ok(());
        }
        let mut content = draft.content.clone();
        let is_broken = self.world.one_in(15);
        if is_broken {
            content.extend_from_slice(b"a line with a bare\nend\r\n");
        }
        let stuffed = stuffed(&content);
        let ends = self.say_in_pieces(&stuffed).await?;
        // Whoever reads this has it all.
        self.before_the_end(draft.number, &content);
        self.say_last(draft.number, &stuffed[ends..]).await
    }

    async fn send_by_bdat(&mut self, draft: Draft) -> Result<(), Over> {
        if self.envelope(&draft, "").await?.is_none() {
            return Ok(());
        }
        let mut content = draft.content.clone();
        let mut arrives = content.clone();
        if self.world.one_in(4) {
            // The last line may have no end; the relay makes one.
            content.truncate(content.len() - 2);
            arrives.clone_from(&content);
            if !content.ends_with(b"\r\n") {
                arrives.extend_from_slice(b"\r\n");
            }
        }
        let mut rest = &content[..];
        while rest.len() > 1 && !self.world.one_in(3) {
            let (chunk, others) = rest.split_at(1 + self.world.below(rest.len() - 1));
            rest = others;
            self.say(&format!("BDAT {}\r\n", chunk.len()))?;
            self.send(chunk)?;
            if self.reply().await? != 250 {
                return self.say_and_hear("RSET\r\n").await.map(drop);
            }
            if self.world.one_in(25) {
                return self.give_up(draft.number).await;
            }
        }
        self.say(&format!("BDAT {} LAST\r\n", rest.len()))?;
        self.before_the_end(draft.number, &arrives);
        self.say_last(draft.number, rest).await
    }

    /// Up to DATA; its reply. `None`: there will be no content.
    async fn envelope(&mut self, draft: &Draft, data: &str) -> Result<Option<u16>, Over> {
        let mut accepted = 0;
        if self.pipelines {
            let rcpts: String = draft.recipients.iter().map(|it| it.1.as_str()).collect();
            self.say(&format!("{}{rcpts}{data}", draft.mail))?;
            let mail = self.reply().await?;
            for (recipient, _) in &draft.recipients {
                let reply = self.reply().await?;
                accepted += u32::from(mail == 250 && self.note(draft.number, recipient, reply));
            }
        } else {
            if self.say_and_hear(&draft.mail).await? != 250 {
                self.world.seen.borrow_mut().mail_refused += 1;
                return Ok(None);
            }
            for (recipient, command) in &draft.recipients {
                let reply = self.say_and_hear(command).await?;
                accepted += u32::from(self.note(draft.number, recipient, reply));
            }
            if self.world.one_in(20) {
                self.give_up(draft.number).await?;
                return Ok(None);
            }
            self.say(data)?;
        }
        let last = match data.is_empty() {
            true => 0,
            false => self.reply().await?,
        };
        if accepted == 0 {
            self.say_and_hear("RSET\r\n").await?;
            return Ok(None);
        }
        Ok(Some(last))
    }

    fn note(&self, number: u32, recipient: &Recipient, reply: u16) -> bool {
        let is_accepted = reply == 250;
        let mut ledger = self.world.ledger.borrow_mut();
        match is_accepted {
            true => ledger.recipient_accepted(number, recipient.clone()),
            false => self.world.seen.borrow_mut().rcpt_refused += 1,
        }
        is_accepted
    }

    async fn give_up(&mut self, number: u32) -> Result<(), Over> {
        self.world.seen.borrow_mut().given_up += 1;
        self.world.ledger.borrow_mut().forget(number);
        self.say_and_hear("RSET\r\n").await.map(drop)
    }

    fn before_the_end(&self, number: u32, content: &[u8]) {
        let mut ledger = self.world.ledger.borrow_mut();
        ledger.ended(number, content.to_vec());
    }

    /// Sends the last of the content, and hears what becomes of it, or not.
    async fn say_last(&mut self, number: u32, last: &[u8]) -> Result<(), Over> {
        let answer = match self.send(last) {
            Ok(()) if self.restless > 0 && self.world.one_in(4) => {
                self.world.seen.borrow_mut().left_before_250 += 1;
                self.leave();
                Answer::Unclear
            }
            Ok(()) => match self.reply().await {
                Ok(250) => Answer::Accepted,
                Ok(code) => Answer::Refused(code),
                Err(Over) => Answer::Unclear,
            },
            Err(Over) => Answer::Unclear,
        };
        let seen = &self.world.seen;
        match answer {
            Answer::Accepted => seen.borrow_mut().accepted += 1,
            Answer::Refused(_) => seen.borrow_mut().refused += 1,
            _ => seen.borrow_mut().unclear_to_client += 1,
        }
        tell!(self.world, "letter {number} is {answer:?}");
        if matches!(answer, Answer::Refused(400..500)) && self.world.has_disk_trouble() {
            self.world.ledger.borrow_mut().letter(number).may_surface = true;
        }
        let now = self.world.wall_time();
        let mut ledger = self.world.ledger.borrow_mut();
        if answer == Answer::Accepted && !self.world.has_disk_trouble() {
            ledger.expect_soon(number, self.world.now());
        }
        let complaint = ledger.answered(now, number, answer);
        drop(ledger);
        complaint.into_iter().for_each(|it| self.world.accuse(it));
        match answer {
            Answer::Unclear => Err(Over),
            _ => Ok(()),
        }
    }

    // ---- octets ----

    fn leave(&mut self) {
        if let Some(end) = self.end.take()
            && self.world.one_in(2)
        {
            end.reset();
        }
    }

    /// Sends all but the last octets, in pieces; how many that were.
    async fn say_in_pieces(&mut self, content: &[u8]) -> Result<usize, Over> {
        let mut sent = 0;
        let most = content.len() - 1;
        while sent < most && !self.world.one_in(3) {
            let piece = 1 + self.world.below((most - sent).min(5000));
            self.send(&content[sent..sent + piece])?;
            sent += piece;
            crate::world::yield_now(&self.world).await;
            self.think()?;
        }
        Ok(sent)
    }

    /// Whether to go on.
    fn think(&mut self) -> Result<(), Over> {
        if self.restless > 0 && self.world.one_in(self.restless) {
            self.world.seen.borrow_mut().left_early += 1;
            self.leave();
            return Err(Over);
        }
        Ok(())
    }

    fn say(&mut self, text: &str) -> Result<(), Over> {
        self.think()?;
        self.send(text.as_bytes())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let end = self.end.as_ref().ok_or(Over)?;
        end.send(bytes).map_err(|_| Over)
    }

    async fn say_and_hear(&mut self, text: &str) -> Result<u16, Over> {
        self.say(text)?;
        self.reply().await
    }

    /// The code of the next whole reply.
    async fn reply(&mut self) -> Result<u16, Over> {
        loop {
            while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                if line.get(3) != Some(&b'-') {
                    let code = std::str::from_utf8(&line[..3]).expect("digits");
                    return Ok(code.parse().expect("digits"));
                }
            }
            let deadline = self.world.now() + PATIENCE;
            let end = self.end.as_ref().ok_or(Over)?;
            if end.receive(&mut self.input, deadline).await != Received::Bytes {
                return Err(Over);
            }
        }
    }
}

fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + 10);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}
