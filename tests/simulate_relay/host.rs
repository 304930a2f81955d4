//! A next hop: none of the relay's code. Takes mail, refuses it, falls silent, breaks off, or talks nonsense.

use crate::ledger::parse_address;
use crate::link::{Breaker, End, Received};
use crate::plan::Choice;
use crate::promises::{Taken, split_path, unstuffed};
use crate::relay::HOSTNAME;
use crate::sites::{RESTARTING_SITE, SPOTLESS_SITE};
use crate::trouble::{At, SESSION_IS_FULL, Trouble, is_positive};
use crate::world::{World, sleep};
use ringpost::time::Now;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// How a host mostly behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    Good,
    Down,
    /// 4yz, now here, now there.
    Busy,
    /// 5yz, too.
    Strict,
    /// Breaks off.
    Flaky,
    /// Does not answer.
    Silent,
    /// Says what no host should.
    Liar,
    /// Wants no mail from us, ever.
    Hostile,
    /// Says what it has to say octet by octet.
    Dribbling,
    /// Takes its time, knows who lives there, and restarts now and then.
    Restarting,
    /// Without fault; it knows who lives there, and which senders it does not like.
    Spotless,
}

const MANNERS: [Manner; 13] = [
    Manner::Good,
    Manner::Good,
    Manner::Good,
    Manner::Down,
    Manner::Busy,
    Manner::Busy,
    Manner::Strict,
    Manner::Strict,
    Manner::Flaky,
    Manner::Silent,
    Manner::Liar,
    Manner::Hostile,
    Manner::Dribbling,
];

/// No reply may take longer, however it comes.
const REPLY_MAX: Duration = Duration::from_secs(15);

pub struct Host {
    pub number: usize,
    pub site: usize,
    pub manner: Manner,
    pipelining: bool,
    dsn: bool,
    eight_bit: bool,
    pub size_max: Option<u64>,
    smtputf8: bool,
    knows_ehlo: bool,
    /// For [`Manner::Restarting`].
    pub down_until: Cell<Now>,
    connections: RefCell<Vec<Open>>,
    /// Sessions that wait for content, or have it and have not said so: all, and those that have refused a recipient.
    receiving: RefCell<[Rc<()>; 2]>,
}

/// A connection that a restart breaks.
struct Open {
    breaker: Breaker,
    last_taken: Rc<RefCell<Option<Taken>>>,
}

impl Host {
    pub fn new(world: &World, number: usize, site: usize) -> Host {
        Host {
            number,
            site,
            manner: match site {
                SPOTLESS_SITE => Manner::Spotless,
                RESTARTING_SITE => Manner::Restarting,
                _ => match *world.pick(&MANNERS) {
                    _ if !world.plan.allows(Choice::Manners) => Manner::Good,
                    manner => manner,
                },
            },
            pipelining: !world.one_in(4),
            dsn: world.one_in(2),
            eight_bit: !world.one_in(5),
            size_max: *world.pick(&[None, None, None, Some(9000)]),
            smtputf8: world.one_in(2),
            knows_ehlo: !world.one_in(10),
            down_until: Cell::new(Now(0)),
            connections: RefCell::default(),
            receiving: Default::default(),
        }
    }

    /// How many messages are under way to it: of all, or of those that somebody was refused for.
    pub fn receiving(&self, of_all: bool) -> usize {
        let [all, mixed] = &*self.receiving.borrow();
        Rc::strong_count(if of_all { all } else { mixed }) - 1
    }

    pub fn takes_smtputf8(&self) -> bool {
        self.smtputf8 && self.knows_ehlo
    }

    /// Breaks all connections, and refuses new ones for so long.
    pub fn restart(&self, world: &World, away: Duration) {
        tell!(world, "mx{} restarts", self.number);
        // What was under way is lost, although its session may not know it yet.
        self.receiving.take();
        for open in self.connections.take() {
            if open.breaker.reset()
                && let Some(taken) = &*open.last_taken.borrow()
            {
                // Perhaps it was the word about this that got lost.
                world.ledger.borrow_mut().told(taken, false);
            }
        }
        self.down_until.set(world.now() + away);
    }

    /// This recipient does not live here.
    fn is_unknown(&self, address: &str) -> bool {
        match (self.manner, parse_address(address)) {
            (Manner::Restarting, Some((Some(index), number))) => {
                (number + index as u32).is_multiple_of(2)
            }
            (Manner::Spotless, Some((Some(index), number))) => {
                (number + index as u32).is_multiple_of(7)
            }
            _ => false,
        }
    }

    /// It wants no mail of this sender.
    fn refuses(&self, reverse_path: &str) -> bool {
        self.manner == Manner::Restarting && is_one_in(8, reverse_path)
    }

    /// It does not like this sender, today.
    fn dislikes(&self, world: &World, reverse_path: &str) -> bool {
        let is_disliked = is_one_in(4, reverse_path);
        self.manner == Manner::Spotless && is_disliked && !world.is_healed.get()
    }
}

/// One sender in so many, always the same ones.
fn is_one_in(chances: u32, reverse_path: &str) -> bool {
    let who = parse_address(reverse_path);
    matches!(who, Some((None, number)) if number.is_multiple_of(chances))
}

const DISLIKES: [&str; 3] = [
    "451 4.7.24 SPF validation failed for",
    "450 4.7.1 sender address rejected:",
    "451 4.7.26 mail must be authenticated:",
];

/// The session is over.
pub struct Over;

pub struct Session {
    pub world: Rc<World>,
    pub host: Rc<Host>,
    pub end: Option<End>,
    pub input: Vec<u8>,
    pub mail: Option<String>,
    /// What RCPTs of this transaction named, and whether each was accepted.
    pub rcpts: Vec<(String, bool)>,
    /// With this digit.
    pub mail_was_refused: Option<u8>,
    pub is_esmtp: bool,
    pub last_taken: Rc<RefCell<Option<Taken>>>,
    has_said_goodbye: bool,
}

pub async fn serve(world: Rc<World>, host: Rc<Host>, end: End) {
    let last_taken = Rc::default();
    host.connections.borrow_mut().push(Open {
        breaker: end.breaker(),
        last_taken: Rc::clone(&last_taken),
    });
    let mut session = Session {
        world,
        host,
        end: Some(end),
        input: Vec::new(),
        mail: None,
        rcpts: Vec::new(),
        mail_was_refused: None,
        is_esmtp: false,
        last_taken,
        has_said_goodbye: false,
    };
    let _: Result<(), Over> = session.converse().await;
    if session.world.hears_late()
        && !session.has_said_goodbye
        && let Some(taken) = &*session.last_taken.borrow()
    {
        // Nothing shows that it has heard of this.
        session.world.ledger.borrow_mut().told(taken, false);
    }
}

impl Session {
    async fn converse(&mut self) -> Result<(), Over> {
        self.greet().await?;
        loop {
            let line = self.line().await?;
            let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
            match verb {
                "EHLO" | "HELO" => self.hello(verb).await?,
                "MAIL" => self.mail(argument).await?,
                "RCPT" => self.rcpt(argument).await?,
                "DATA" => self.data().await?,
                "RSET" => {
                    self.reset();
                    self.say("250 2.0.0 forgotten").await?;
                }
                "STARTTLS" => self.start_tls().await?,
                "QUIT" => {
                    self.has_said_goodbye = true;
                    self.say("221 2.0.0 bye").await?;
                    return Err(Over);
                }
                _ => {
                    self.world
                        .accuse(format!("host {} is told {line:?}", self.host.number));
                    return Err(Over);
                }
            }
        }
    }

    // ---- the conversation ----

    pub async fn say(&mut self, text: &str) -> Result<(), Over> {
        self.say_of(None, text).await
    }

    /// The same of what was taken, if this is the reply to its final dot.
    async fn say_of(&mut self, taken: Option<&Taken>, text: &str) -> Result<(), Over> {
        let longest_ms = match self.host.manner {
            Manner::Restarting => 900,
            Manner::Spotless => 1,
            _ => 60,
        };
        if self.world.one_in(3) {
            let wait = Duration::from_millis(self.world.below(longest_ms) as u64);
            sleep(&self.world, wait).await;
        }
        let is_healed = self.world.is_healed.get();
        if self.host.manner == Manner::Dribbling && !is_healed && self.world.one_in(6) {
            // Nobody hears such a reply out, and a relay that has given up may come again before this session ends.
            if let Some(taken) = taken {
                self.world.ledger.borrow_mut().told(taken, false);
            }
            return self.dribble(text).await;
        }
        self.send(text)
    }

    /// One octet now and then, each sooner than a time-out.
    async fn dribble(&mut self, text: &str) -> Result<(), Over> {
        self.world.seen.borrow_mut().dribbles += 1;
        let since = self.world.now();
        let slow = format!("{}-{}", &text[..3], "and so on ".repeat(10));
        for octet in slow.bytes() {
            let wait = Duration::from_millis(1000 + self.world.below(3000) as u64);
            sleep(&self.world, wait).await;
            let end = self.end.as_ref().ok_or(Over)?;
            end.send(&[octet]).map_err(|_| Over)?;
            let took = self.world.now().since(since);
            if took > REPLY_MAX && self.world.one_in(2) {
                let name = self.host.number;
                self.world
                    .accuse(format!("the relay hears mx{name} out for {took:?}"));
                return Err(Over);
            }
        }
        Err(Over)
    }

    pub fn send(&mut self, text: &str) -> Result<(), Over> {
        let end = self.end.as_ref().ok_or(Over)?;
        end.send(format!("{text}\r\n").as_bytes()).map_err(|_| Over)
    }

    /// The next command. A host does not wait for ever.
    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(at) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=at).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), Over> {
        let wait = match self.host.manner {
            Manner::Spotless => Duration::from_secs(3600),
            _ => Duration::from_millis(500 + self.world.below(20_000) as u64),
        };
        let deadline = self.world.now() + wait;
        let end = self.end.as_ref().ok_or(Over)?;
        match end.receive(&mut self.input, deadline).await {
            Received::Bytes => Ok(()),
            Received::End => Err(Over),
            Received::TimedOut => {
                self.world.seen.borrow_mut().hosts_tired += 1;
                if self.world.one_in(2) {
                    self.send("421 4.4.2 timed out")?;
                }
                Err(Over)
            }
        }
    }

    async fn greet(&mut self) -> Result<(), Over> {
        if self.instead(At::Greeting).await?.is_some() {
            return Err(Over);
        }
        if self.host.manner == Manner::Hostile && !self.world.is_healed.get() {
            match self.world.below(4) {
                0 => {
                    self.refuse_us();
                    return self.say("521 5.3.2 no mail here").await.and(Err(Over));
                }
                1 => {
                    self.refuse_us();
                    return self.say(&format!("220 {HOSTNAME} ESMTP")).await;
                }
                _ => {}
            }
        }
        let name = self.host.number;
        self.say(&format!("220 mx{name}.test ESMTP")).await
    }

    async fn hello(&mut self, verb: &str) -> Result<(), Over> {
        self.reset();
        if let Some(said) = self.instead(At::Ehlo).await? {
            if verb == "HELO" && said.starts_with('5') {
                self.refuse_us();
            }
            if is_positive(&said) {
                self.shows_no_extensions();
            }
            return Ok(());
        }
        let is_hostile = self.host.manner == Manner::Hostile && !self.world.is_healed.get();
        if verb == "HELO" && is_hostile && self.world.one_in(2) {
            self.refuse_us();
            return self.say("550 5.7.1 go away").await;
        }
        let host = self.host.clone();
        let name = format!("mx{}.test", host.number);
        if verb == "HELO" {
            self.is_esmtp = false;
            self.shows_no_extensions();
            return self.say(&format!("250 {name}")).await;
        }
        if !host.knows_ehlo || is_hostile && self.world.one_in(3) {
            return self.say("502 5.5.1 what?").await;
        }
        self.is_esmtp = true;
        let mut lines = vec![name];
        let mut offer = |offered: bool, keyword: String| {
            if offered {
                lines.push(keyword);
            }
        };
        offer(host.pipelining, "PIPELINING".into());
        offer(host.dsn, "DSN".into());
        offer(host.eight_bit, "8BITMIME".into());
        offer(
            self.end.as_ref().is_some_and(End::offers_tls),
            "STARTTLS".into(),
        );
        offer(true, "ENHANCEDSTATUSCODES".into());
        offer(host.smtputf8, "SMTPUTF8".into());
        if let Some(most) = host.size_max {
            offer(true, format!("SIZE {most}"));
        }
        let last = lines.pop().expect("one at least");
        let mut reply: String = lines.iter().map(|it| format!("250-{it}\r\n")).collect();
        reply.push_str(&format!("250 {last}"));
        self.say(&reply).await
    }

    async fn start_tls(&mut self) -> Result<(), Over> {
        self.say("220 2.0.0 go on").await?;
        self.input.clear();
        self.is_esmtp = false;
        self.end.as_ref().ok_or(Over)?.start_tls();
        Ok(())
    }

    /// For one session, which is enough for mail that needs them to come back.
    fn shows_no_extensions(&self) {
        self.world.ledger.borrow_mut().sites[self.host.site].lacks_smtputf8 = true;
    }

    fn reset(&mut self) {
        self.mail = None;
        self.mail_was_refused = None;
        self.rcpts.clear();
    }

    async fn mail(&mut self, argument: &str) -> Result<(), Over> {
        self.reset();
        let mail = argument.strip_prefix("FROM:").unwrap_or(argument);
        self.mail = Some(mail.to_owned());
        let takes_utf8 = self.is_esmtp && self.host.smtputf8;
        if !takes_utf8 && (!mail.is_ascii() || mail.contains(" SMTPUTF8")) {
            let name = self.host.number;
            self.world
                .accuse(format!("mx{name} has no SMTPUTF8, and hears MAIL {mail}"));
        }
        let path = split_path(mail).0;
        if self.host.dislikes(&self.world, path) {
            self.world.seen.borrow_mut().senders_refused += 1;
            self.world.ledger.borrow_mut().put_off(path);
            let said = format!("{} {path}", self.world.pick(&DISLIKES));
            self.mail_was_refused = Some(b'4');
            self.mail = None;
            return self.say(&said).await;
        }
        if self.host.refuses(path) {
            self.world.seen.borrow_mut().senders_refused += 1;
            self.note_refusal(At::Mail);
            let said = format!("550 5.7.1 <{path}> sender rejected");
            self.mail_was_refused = Some(b'5');
            self.mail = None;
            return self.say(&said).await;
        }
        // Whose mail without a sender is can only be told by its recipients, and they may not follow.
        let is_nobodys = mail.starts_with("<>") && self.host.manner == Manner::Strict;
        if !is_nobodys && let Some(said) = self.instead(At::Mail).await? {
            if !is_positive(&said) {
                self.mail_was_refused = Some(said.as_bytes()[0]);
                self.mail = None;
                let is_report = mail.starts_with("<>") && said.starts_with('5');
                let sites = &mut self.world.ledger.borrow_mut().sites;
                sites[self.host.site].refused_report |= is_report;
            }
            return Ok(());
        }
        self.say("250 2.1.0 ok").await
    }

    async fn rcpt(&mut self, argument: &str) -> Result<(), Over> {
        let rcpt = argument.strip_prefix("TO:").unwrap_or(argument);
        if self.mail.is_none() {
            // After 4yz to MAIL it means nothing.
            if self.mail_was_refused != Some(b'4') {
                self.world.ledger.borrow_mut().refused(split_path(rcpt).0);
            }
            return self.say("503 5.5.1 MAIL first").await;
        }
        self.rcpts.push((rcpt.to_owned(), false));
        let path = split_path(rcpt).0.to_owned();
        if !path.is_ascii()
            && !self
                .mail
                .as_ref()
                .is_some_and(|it| it.contains(" SMTPUTF8"))
        {
            self.world.accuse(format!("RCPT {path} without SMTPUTF8"));
        }
        if self.host.manner == Manner::Spotless {
            let now = self.world.now();
            let complaint = self.world.ledger.borrow_mut().bounds.offered(&path, now);
            complaint.into_iter().for_each(|it| self.world.accuse(it));
        }
        if self.host.is_unknown(&path) {
            self.world.seen.borrow_mut().strangers_refused += 1;
            self.note_refusal(At::Rcpt);
            return self.say(&format!("550 5.1.1 <{path}> no such user")).await;
        }
        if self.has_enough() {
            self.world.seen.borrow_mut().sessions_full += 1;
            return self.say(SESSION_IS_FULL).await;
        }
        if let Some(said) = self.instead(At::Rcpt).await? {
            self.rcpts.last_mut().expect("just pushed").1 = is_positive(&said);
            return Ok(());
        }
        self.rcpts.last_mut().expect("just pushed").1 = true;
        self.say("250 2.1.5 ok").await
    }

    /// A quick host has limits, too: one recipient more of a list is too many for a session that has carried mail.
    fn has_enough(&self) -> bool {
        let is_used = self.last_taken.borrow().is_some();
        let is_quick = matches!(self.host.manner, Manner::Good | Manner::Spotless);
        let has_accepted = self.rcpts.iter().any(|it| it.1);
        is_quick && is_used && has_accepted && !self.world.is_healed.get() && self.world.one_in(3)
    }

    async fn data(&mut self) -> Result<(), Over> {
        if self.mail.is_none() || !self.rcpts.iter().any(|it| it.1) {
            if self.host.manner == Manner::Liar {
                // What it said to RCPT may have been taken for a yes.
                self.note_refusal(At::Data);
            }
            // Some hosts say 354 all the same (RFC 2920 section 3.1).
            if self.mail.is_some() && self.world.one_in(3) {
                self.say("354 go on, for nobody").await?;
                self.content(false).await?;
                return self.say("554 5.5.1 no recipients").await;
            }
            return self.say("503 5.5.1 RCPT first").await;
        }
        match self.instead(At::Data).await? {
            None => self.say("354 go on").await?,
            Some(said) if said.starts_with("354") => {}
            Some(_) => {
                self.reset();
                return Ok(());
            }
        }
        let is_mixed = self.rcpts.iter().any(|it| !it.1);
        let [all, mixed] = self.host.receiving.borrow().clone();
        let receiving = (all, is_mixed.then_some(mixed));
        let content = self.content(true).await?;
        if self.host.manner == Manner::Restarting {
            // Time for it to restart.
            let wait = Duration::from_millis(self.world.below(4000) as u64);
            sleep(&self.world, wait).await;
            if self.end.as_ref().is_none_or(End::is_over) {
                return Err(Over);
            }
        }
        let ended = self.end_of_data(content).await;
        drop(receiving);
        ended
    }

    /// Reads to the lone dot. With `may_stop` the host may have enough half way.
    async fn content(&mut self, may_stop: bool) -> Result<Vec<u8>, Over> {
        let mut stops = may_stop && self.world.one_in(3);
        loop {
            let end = match self.input.starts_with(b".\r\n") {
                true => Some(3),
                false => {
                    let mark = b"\r\n.\r\n";
                    let found = self.input.windows(mark.len()).position(|it| it == mark);
                    found.map(|at| at + mark.len())
                }
            };
            if let Some(end) = end {
                return Ok(self.input.drain(..end).collect());
            }
            if !self.input.is_empty() && std::mem::take(&mut stops) {
                self.instead(At::Content).await?;
            }
            self.more().await?;
        }
    }

    /// A content takes long now and then, also where all else is quick.
    async fn ponder(&self) -> Result<(), Over> {
        let is_quick = matches!(self.host.manner, Manner::Spotless | Manner::Restarting);
        if !is_quick && !self.world.is_healed.get() && self.world.one_in(10) {
            let wait = Duration::from_millis(500 + self.world.below(6000) as u64);
            sleep(&self.world, wait).await;
            // Who has gone meanwhile would not hear that it was taken, and is not to wonder.
            if self.end.as_ref().is_none_or(End::is_over) {
                return Err(Over);
            }
        }
        Ok(())
    }

    async fn end_of_data(&mut self, content: Vec<u8>) -> Result<(), Over> {
        let taken = Taken {
            mail: self.mail.clone().expect("checked"),
            rcpts: self
                .rcpts
                .iter()
                .filter(|it| it.1)
                .map(|it| it.0.clone())
                .collect(),
            content: unstuffed(&content),
            has_dsn: self.is_esmtp && self.host.dsn,
            has_8bitmime: self.is_esmtp && self.host.eight_bit,
        };
        self.ponder().await?;
        let trouble = self.trouble(At::FinalDot);
        let is_trouble = !matches!(trouble, Trouble::None);
        // In trouble the message may be there all the same.
        if is_trouble && self.world.one_in(2) {
            if let Trouble::Say(said) = trouble {
                self.count(&said);
                if said.starts_with('5') {
                    self.note_refusal(At::FinalDot);
                }
                self.reset();
                let ends = said.starts_with("421");
                self.say(&said).await?;
                return if ends { Err(Over) } else { Ok(()) };
            }
            self.end_with(trouble).await;
            return Err(Over);
        }
        self.take(&taken);
        if is_trouble {
            self.world.seen.borrow_mut().unclear_to_relay += 1;
            self.world.ledger.borrow_mut().told(&taken, false);
            if let Trouble::Say(said) = trouble {
                if said.starts_with('5') {
                    self.note_refusal(At::FinalDot);
                }
                self.reset();
                self.say(&said).await?;
                return match said.starts_with("421") {
                    true => Err(Over),
                    false => Ok(()),
                };
            }
            self.end_with(trouble).await;
            return Err(Over);
        }
        self.reset();
        let told = self.say_of(Some(&taken), "250 2.0.0 taken").await;
        self.world.ledger.borrow_mut().told(&taken, told.is_ok());
        *self.last_taken.borrow_mut() = Some(taken);
        told
    }

    fn take(&self, taken: &Taken) {
        let (from, count) = (split_path(&taken.mail).0, taken.rcpts.len());
        tell!(
            self.world,
            "mx{} takes <{from}> for {count}: {}",
            self.host.number,
            taken.rcpts.join(" ")
        );
        let now: Now = self.world.now();
        // The relay has gone meanwhile, and will not hear of it; or it has, and has sent it again already.
        let is_alone = self.end.as_ref().is_none_or(End::is_alone);
        let ledger = &mut self.world.ledger.borrow_mut();
        if is_alone {
            ledger.told(taken, false);
        }
        let complaints = ledger.took(now, taken);
        if is_alone {
            ledger.told(taken, false);
        }
        complaints.into_iter().for_each(|it| self.world.accuse(it));
    }
}
