//! In quiet times: one destination is dead, and more mail comes for it than there is room for. It has its share, however
//! many send at once, and mail for others is taken.

use crate::link::{End, Received};
use crate::world::{World, until};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Each command is answered within this.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Content of a letter.
pub const LETTER_BYTES: usize = 40_000;

/// Mail for a destination, from nobody: none of it is returned.
pub struct Hog {
    domain: &'static str,
    /// It says in advance how much it sends.
    declares: bool,
    /// Letters whose content may come, or were refused.
    begun: Cell<usize>,
    /// Letters that were accepted, and of those whose content has come the others.
    pub accepted: Cell<usize>,
    pub refused: Cell<usize>,
    goes_on: Cell<bool>,
}

impl Hog {
    pub fn new(world: &World, domain: &'static str) -> Rc<Hog> {
        Rc::new(Hog {
            domain,
            declares: world.one_in(2),
            begun: Cell::default(),
            accepted: Cell::default(),
            refused: Cell::default(),
            goes_on: Cell::new(false),
        })
    }

    pub fn begun(&self) -> usize {
        self.begun.get()
    }

    pub fn ended(&self) -> usize {
        self.accepted.get() + self.refused.get()
    }

    /// Content of letters that have begun, and of those to come, comes.
    pub fn go_on(&self) {
        self.goes_on.set(true);
    }

    /// Sends one letter in a session of its own, with many others.
    pub async fn send(self: Rc<Self>, world: Rc<World>, end: End) {
        match self.talk(&world, &end).await {
            Ok(true) => self.accepted.set(self.accepted.get() + 1),
            Ok(false) => self.refused.set(self.refused.get() + 1),
            Err(complaint) => world.accuse(complaint),
        }
    }

    /// True if it is accepted.
    async fn talk(&self, world: &World, end: &End) -> Result<bool, String> {
        let mut input = Vec::new();
        answer(world, end, &mut input).await?;
        let size = match self.declares {
            true => format!(" SIZE={LETTER_BYTES}"),
            false => String::new(),
        };
        for command in [
            "EHLO hog.test".to_owned(),
            format!("MAIL FROM:<>{size}"),
            format!("RCPT TO:<hog@{}>", self.domain),
            "DATA".to_owned(),
        ] {
            if !is_yes(&self.say(world, end, &mut input, &command).await?)? {
                self.begun.set(self.begun.get() + 1);
                return Ok(false);
            }
        }
        self.begun.set(self.begun.get() + 1);
        until(world, || self.goes_on.get().then_some(())).await;
        let line = format!("{}\r\n", "x".repeat(70));
        let content = format!(
            "Subject: hog\r\n\r\n{}.",
            line.repeat(LETTER_BYTES / line.len())
        );
        is_yes(&self.say(world, end, &mut input, &content).await?)
    }

    async fn say(
        &self,
        world: &World,
        end: &End,
        input: &mut Vec<u8>,
        text: &str,
    ) -> Result<String, String> {
        let sent = end.send(format!("{text}\r\n").as_bytes());
        sent.map_err(|_| "the relay has gone from a hog".to_owned())?;
        answer(world, end, input).await
    }
}

/// The last line of the next reply.
async fn answer(world: &World, end: &End, input: &mut Vec<u8>) -> Result<String, String> {
    let since = world.now();
    loop {
        while let Some(at) = input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = input.drain(..=at).collect();
            if line.get(3) != Some(&b'-') {
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
        }
        if end.receive(input, since + ANSWER_MAX).await != Received::Bytes {
            return Err(format!("a hog is not answered in {ANSWER_MAX:?}"));
        }
    }
}

/// Anything but a yes and "no room" is wrong.
fn is_yes(reply: &str) -> Result<bool, String> {
    match &reply[..3] {
        "220" | "250" | "354" => Ok(true),
        "452" => Ok(false),
        _ => Err(format!("a hog is answered {reply}")),
    }
}
