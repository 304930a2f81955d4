//! What the log says of the end of each recipient, against what happened: one last word in a run, none too many, and none
//! that is not so; and what is said of one was not said of another. Once all mail has gone, each that was open has had its own.

use crate::bounds::is_anothers;
use crate::ledger::{Ledger, parse_address};
use ringpost::message::Recipient;
use ringpost::schedule::outcome::RecipientState;
use ringpost::spool::RecoveredMessage;
use std::collections::BTreeMap;

/// Events that say that a recipient is over.
const LAST_WORDS: [&str; 4] = ["delivered", "bounced", "expired", "dropped"];

/// Of one run of the relay.
#[derive(Default)]
pub struct Logged {
    /// Recipients that were open at the start or were accepted since, by message.
    open: BTreeMap<String, usize>,
    /// Last words, by message and recipient.
    over: BTreeMap<(String, String), usize>,
}

/// The value of a field, as it stands there. Quoted ones up to their first blank.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut words = line.split(' ');
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

impl Logged {
    /// A run begins with these.
    pub fn begin(&mut self, recovered: &[RecoveredMessage]) {
        *self = Logged::default();
        let is_open = |state: &&RecipientState| matches!(state, RecipientState::Waiting { .. });
        for message in recovered {
            let open = message.states.iter().filter(is_open).count();
            self.open.insert(message.id.to_string(), open);
        }
    }

    /// Lines that were written since. A complaint about one.
    pub fn read(&mut self, lines: &[String], ledger: &Ledger) -> Option<String> {
        lines.iter().find_map(|line| self.read_line(line, ledger))
    }

    fn read_line(&mut self, line: &str, ledger: &Ledger) -> Option<String> {
        let event = line.split(' ').nth(2)?;
        let id = field(line, "id")?.to_owned();
        if event == "accepted" {
            let recipients = field(line, "recipients")?.parse().ok()?;
            self.open.insert(id, recipients);
            return None;
        }
        let is_last = LAST_WORDS.contains(&event);
        if !is_last && event != "deferred" || field(line, "report") == Some("yes") {
            return None;
        }
        let to = field(line, "to")?.trim_matches('"');
        if let Some((Some(number), letter)) = parse_address(to)
            && let Some((_, reply)) = line.split_once(" reply=")
            && is_anothers(reply, number, letter)
        {
            return Some(format!("said of somebody else: {line}"));
        }
        if !is_last {
            return None;
        }
        let said = self.over.entry((id, to.to_owned())).or_default();
        *said += 1;
        let (named, taken) = match parse_address(to) {
            Some((Some(number), letter)) => what_happened(ledger, letter, number),
            _ => (0, 0),
        };
        // Who is no recipient of a letter is named once.
        if *said > named.max(1) {
            return Some(format!("a last word too many: {line}"));
        }
        let is_false = event == "delivered" && named > 0 && taken == 0;
        is_false.then(|| format!("nobody has taken it: {line}"))
    }

    /// All mail has gone. A complaint about a message that lacks a last word.
    pub fn end(&self) -> Option<String> {
        let of = |id: &String| {
            let all = self.over.iter().filter(move |((of, _), _)| of == id);
            all.map(|((_, to), said)| (to, *said)).collect::<Vec<_>>()
        };
        let count = |id: &String| of(id).iter().map(|it| it.1).sum::<usize>();
        let (id, open) = self.open.iter().find(|(id, open)| count(id) != **open)?;
        let over = of(id);
        Some(format!(
            "{id} had {open} open recipients, and last words of {over:?}"
        ))
    }
}

/// How often a letter names this recipient, and how many of those somebody has taken.
fn what_happened(ledger: &Ledger, letter: u32, number: usize) -> (usize, usize) {
    let Some(letter) = ledger.letters.get(&letter) else {
        return (0, 0);
    };
    let all = letter.envelope.recipients.iter().zip(&letter.fates);
    let is_it = |(recipient, _): &(&Recipient, _)| {
        let address = parse_address(recipient.forward_path.local_part());
        address.is_some_and(|(who, _)| who == Some(number))
    };
    let fates: Vec<_> = all.filter(is_it).map(|(_, fate)| fate).collect();
    let taken = fates.iter().filter(|fate| fate.deliveries > 0);
    (fates.len(), taken.count())
}
