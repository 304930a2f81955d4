//! What really happened to each message, as those know it who gave it to the spool and who took it on, and what
//! the spool may say of it after a power cut. Shares no rule with the relay.

use std::collections::{BTreeMap, BTreeSet};

/// Run, core, and number there: what the relay calls a message.
pub type Id = (u32, u16, u64);

/// How far a recipient has come. Further is greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// So many attempts, and when the next is due.
    Waiting(u32, u64),
    /// Told so often that it is owed a report.
    Owed(u32, u64),
    Finished,
}

pub const FRESH: Stage = Stage::Waiting(0, 0);

impl Stage {
    /// Without the time: of two that are as far as each other either may stand.
    fn how_far(self) -> (u8, u32) {
        match self {
            Stage::Waiting(attempts, _) => (0, attempts),
            Stage::Owed(attempts, _) => (1, attempts),
            Stage::Finished => (2, 0),
        }
    }
}

struct Recipient {
    /// Known to be durable.
    durable: Stage,
    /// All that anybody ever wrote.
    tried: Vec<Stage>,
}

struct Letter {
    /// Whatever must come back as it was: the envelope in words, and the body.
    envelope: String,
    body: Vec<u8>,
    /// Its sender has the receipt.
    is_accepted: bool,
    recipients: Vec<Recipient>,
}

impl Letter {
    fn may_be_finished(&self) -> bool {
        let mut recipients = self.recipients.iter();
        recipients.all(|it| it.tried.contains(&Stage::Finished))
    }

    fn is_finished(&self) -> bool {
        let mut recipients = self.recipients.iter();
        recipients.all(|it| it.durable == Stage::Finished)
    }
}

/// How often what the promises speak of has happened.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    pub accepted: u64,
    pub finished: u64,
    pub recovered: u64,
    pub read_back: u64,
}

#[derive(Default)]
pub struct Ledger {
    letters: BTreeMap<Id, Letter>,
    pub stats: Stats,
}

impl Ledger {
    /// Somebody is about to hand a message to the spool. A complaint if there was one of that name.
    pub fn begun(
        &mut self,
        id: Id,
        envelope: String,
        body: Vec<u8>,
        recipients: usize,
    ) -> Result<(), String> {
        let recipient = || Recipient {
            durable: FRESH,
            tried: Vec::new(),
        };
        let letter = Letter {
            envelope,
            body,
            is_accepted: false,
            recipients: (0..recipients).map(|_| recipient()).collect(),
        };
        match self.letters.insert(id, letter) {
            None => Ok(()),
            Some(_) => Err(format!("{id:?} is the name of two messages")),
        }
    }

    /// The receipt is there.
    pub fn accepted(&mut self, id: Id) {
        self.letters.get_mut(&id).expect("begun").is_accepted = true;
        self.stats.accepted += 1;
    }

    /// The sender went away: the spool may let the message go.
    pub fn given_up(&mut self, id: Id) {
        let letter = self.letters.get_mut(&id).expect("begun");
        for recipient in &mut letter.recipients {
            recipient.tried.push(Stage::Finished);
        }
    }

    /// A new stage is about to be recorded.
    pub fn recording(&mut self, id: Id, index: u32, stage: Stage) {
        let letter = self.letters.get_mut(&id).expect("begun");
        letter.recipients[index as usize].tried.push(stage);
    }

    /// The stage is durable. True if the last recipient of the message is finished with it.
    pub fn recorded(&mut self, id: Id, index: u32, stage: Stage) -> bool {
        let letter = self.letters.get_mut(&id).expect("begun");
        let was_finished = letter.is_finished();
        let durable = &mut letter.recipients[index as usize].durable;
        *durable = (*durable).max(stage);
        let is_last = !was_finished && letter.is_finished();
        self.stats.finished += u64::from(is_last);
        is_last
    }

    /// A body was read from the spool.
    pub fn read_back(&mut self, id: Id, body: &[u8]) -> Result<(), String> {
        self.stats.read_back += 1;
        match self.letters[&id].body == body {
            true => Ok(()),
            false => Err(format!("the body of {id:?} is another one")),
        }
    }

    /// Mail that somebody has a receipt for, and that is not durably finished.
    pub fn open(&self) -> usize {
        let letters = self.letters.values();
        letters
            .filter(|it| it.is_accepted && !it.is_finished())
            .count()
    }

    /// Holds what was found after a power cut against what was promised, and makes it the new truth.
    pub fn check_recovered(&mut self, found: &[(Id, String, Vec<Stage>)]) -> Result<(), String> {
        let mut present = BTreeSet::new();
        for (id, envelope, stages) in found {
            if !present.insert(*id) {
                return Err(format!("{id:?} was found twice"));
            }
            let Some(letter) = self.letters.get_mut(id) else {
                return Err(format!("{id:?} was never sent, or had gone"));
            };
            letter.check_recovered(*id, envelope, stages)?;
        }
        for (id, letter) in &self.letters {
            if letter.is_accepted && !present.contains(id) && !letter.may_be_finished() {
                return Err(format!("{id:?} was accepted and is lost"));
            }
        }
        self.letters.retain(|id, _| present.contains(id));
        self.stats.recovered += found.len() as u64;
        Ok(())
    }
}

impl Letter {
    fn check_recovered(&mut self, id: Id, envelope: &str, stages: &[Stage]) -> Result<(), String> {
        if self.is_finished() {
            return Err(format!("{id:?} was finished and came back"));
        }
        if self.envelope != envelope || self.recipients.len() != stages.len() {
            return Err(format!("{id:?} is not what was sent"));
        }
        for (index, (recipient, stage)) in self.recipients.iter_mut().zip(stages).enumerate() {
            if stage.how_far() < recipient.durable.how_far() {
                return Err(format!("{id:?}: recipient {index} went back to {stage:?}"));
            }
            if *stage != FRESH && !recipient.tried.contains(stage) {
                return Err(format!("{id:?}: nobody wrote {stage:?}"));
            }
            recipient.durable = *stage;
        }
        // Its sender may not know: it is ours all the same.
        self.is_accepted = true;
        Ok(())
    }
}
