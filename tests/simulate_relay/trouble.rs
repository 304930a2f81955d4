//! What next hops do instead of answering properly.

use crate::host::{Manner, Over, Session};
use crate::promises::split_path;
use crate::world::until;

/// What happens instead of a proper answer.
pub enum Trouble {
    None,
    Say(String),
    BreakOff,
    Reset,
    Silence,
}

/// Where in a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    Greeting,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Content,
    FinalDot,
}

const NONSENSE: [&str; 8] = [
    "nonsense",
    "2",
    "250-more\r\n999 less",
    "100 go on",
    "354 go on",
    "250_ok",
    "999 beyond",
    "220-\r\n220-\r\n250 changed",
];

/// Of this session, and not of the recipient.
pub const SESSION_IS_FULL: &str = "452 4.5.3 too many recipients in this session";

/// Nonsense that is an acceptance all the same: in too many lines, or with the code on the last one alone.
pub fn is_positive(said: &str) -> bool {
    said.lines().last().is_some_and(|it| it.starts_with("250"))
}

impl Session {
    pub fn trouble(&self, at: At) -> Trouble {
        let world = &self.world;
        if world.is_healed.get() || self.host.manner == Manner::Spotless {
            return Trouble::None;
        }
        let refuse = |class: u8| Trouble::Say(self.refusal(at, class));
        match self.host.manner {
            Manner::Busy if world.one_in(6) => refuse(4),
            Manner::Strict if world.one_in(14) => refuse(5),
            Manner::Strict if world.one_in(12) => refuse(4),
            Manner::Flaky if world.one_in(8) => Trouble::BreakOff,
            Manner::Flaky if world.one_in(16) => Trouble::Reset,
            Manner::Silent if world.one_in(8) => Trouble::Silence,
            Manner::Restarting if world.one_in(30) => refuse(4),
            Manner::Liar if world.one_in(8) => Trouble::Say(self.nonsense(at)),
            Manner::Liar if at == At::Data && world.one_in(8) => Trouble::Say("250 ok".into()),
            _ if world.one_in(150) => Trouble::BreakOff,
            _ if world.one_in(300) => Trouble::Silence,
            _ => Trouble::None,
        }
    }

    fn nonsense(&self, at: At) -> String {
        let said = match self.world.one_in(6) {
            true => "250-and so on\r\n".repeat(300) + "250 at last",
            false => (*self.world.pick(&NONSENSE)).to_owned(),
        };
        // Who accepts a message has it.
        match matches!(at, At::Content | At::FinalDot) && is_positive(&said) {
            true => "nonsense".to_owned(),
            false => said,
        }
    }

    fn refusal(&self, at: At, class: u8) -> String {
        let world = &self.world;
        let temporary = match at {
            At::Greeting | At::Ehlo => ["421 too busy", "450 not now", "451 4.7.1 less"],
            At::Mail => ["452 4.3.1 full", "450 4.1.8 who?", "451 4.7.1 less"],
            At::Rcpt => ["450 4.2.1 later", "452 4.5.3 too many", "421 4.3.2 bye"],
            _ => ["451 4.3.0 error", "452 4.3.1 full", "421 4.3.2 bye"],
        };
        match class {
            // The mail goes on over another session, if this one has worked; for the others it goes on here.
            4 if at == At::Rcpt && world.one_in(4) => SESSION_IS_FULL.to_owned(),
            4 => (*world.pick(&temporary)).to_owned(),
            _ => match at {
                At::Greeting => "554 5.7.1 no service".to_owned(),
                // Whom a reply speaks of, it names.
                At::Rcpt => {
                    let path = split_path(&self.rcpts.last().expect("one").0).0;
                    let said = world.pick(&["550 5.1.1 no such user", "552 5.2.2 full"]);
                    format!("{said} {path}")
                }
                At::Mail => {
                    let path = self.mail.as_deref().map_or("", |mail| split_path(mail).0);
                    format!("550 5.7.1 no {path}")
                }
                _ => "550 5.7.1 no".to_owned(),
            },
        }
    }

    /// What comes instead of the proper answer, carried out. `None`: nothing does.
    pub async fn instead(&mut self, at: At) -> Result<Option<String>, Over> {
        let said = match self.trouble(at) {
            Trouble::None => return Ok(None),
            Trouble::Say(said) => said,
            trouble => {
                self.end_with(trouble).await;
                return Err(Over);
            }
        };
        self.count(&said);
        let is_last = said.starts_with("421") || matches!(at, At::Greeting | At::Content);
        if said.starts_with('5') {
            self.note_refusal(at);
        }
        self.say(&said).await?;
        match is_last {
            true => Err(Over),
            false => Ok(Some(said)),
        }
    }

    pub fn count(&self, said: &str) {
        let seen = &mut self.world.seen.borrow_mut();
        match (self.host.manner, said.as_bytes()[0]) {
            (Manner::Liar, _) => seen.nonsense += 1,
            (_, b'4') => seen.refused_for_now += 1,
            _ => seen.refused_for_good += 1,
        }
    }

    pub async fn end_with(&mut self, trouble: Trouble) {
        let end = self.end.take().expect("it ends once");
        match trouble {
            Trouble::BreakOff => self.world.seen.borrow_mut().broken_off += 1,
            Trouble::Reset => {
                self.world.seen.borrow_mut().broken_off += 1;
                if end.reset()
                    && let Some(taken) = &*self.last_taken.borrow()
                {
                    // Perhaps it was the word about this that got lost.
                    self.world.ledger.borrow_mut().told(taken, false);
                }
            }
            _ => {
                self.world.seen.borrow_mut().silences += 1;
                until(&self.world, || end.is_alone().then_some(())).await;
            }
        }
    }

    /// 5yz: everybody whom that concerns may be returned.
    pub fn note_refusal(&mut self, at: At) {
        let mut ledger = self.world.ledger.borrow_mut();
        match at {
            // 5yz to EHLO leads to HELO.
            At::Greeting | At::Ehlo => {}
            At::Mail => {
                if let Some(mail) = &self.mail {
                    ledger.refused_sender(split_path(mail).0, self.host.site);
                }
            }
            At::Rcpt => ledger.refused(split_path(&self.rcpts.last().expect("one").0).0),
            At::Data | At::Content | At::FinalDot => {
                for (rcpt, _) in &self.rcpts {
                    ledger.refused(split_path(rcpt).0);
                }
            }
        }
    }

    /// From now on mail for this site may come back.
    pub fn refuse_us(&self) {
        let site = self.host.site;
        self.world.ledger.borrow_mut().sites[site].refused_us = true;
        self.world.seen.borrow_mut().refused_for_good += 1;
    }
}
