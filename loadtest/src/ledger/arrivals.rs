//! What a sink alone remembers, and the comparison with a source's ledger file afterwards.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use crate::host::files;
use crate::ledger::delivery::Delivery;
use crate::ledger::{Fate, Verdict, condemned, is_bounced, with_arrival, with_bounce, with_fate};
use crate::mail::address::parse_sender;
use crate::mail::message::failed_recipients;

/// Knows what arrived, but not what was sent.
pub struct ArrivalLog {
    file: Option<BufWriter<File>>,
    seen: HashSet<u64>,
    hasher: RandomState,
    pub sums: ArrivalSums,
}

/// Recipients, except `unknown`.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub struct ArrivalSums {
    pub delivered: u64,
    pub duplicated: u64,
    pub corrupted: u64,
    /// Messages without the ledger's marks that are no bounces of ours.
    pub unknown: u64,
    /// Lines that could not be written to the ledger file.
    pub unwritten: u64,
}

impl ArrivalLog {
    pub fn new(file: Option<&Path>) -> io::Result<Self> {
        Ok(Self {
            file: file.map(files::create).transpose()?.map(BufWriter::new),
            seen: HashSet::new(),
            hasher: RandomState::new(),
            sums: ArrivalSums::default(),
        })
    }

    pub fn add(&mut self, delivery: &Delivery<'_>) {
        if let Some(mark) = &delivery.found.mark {
            for recipient in delivery.recipients {
                self.add_recipient(&mark.run, mark.n, recipient, delivery.found.intact);
            }
            return;
        }
        let sender = delivery.recipients.first().and_then(|r| parse_sender(r));
        match sender.filter(|_| delivery.is_bounce) {
            Some((run, n)) => {
                for failed in failed_recipients(&delivery.found.body) {
                    self.write(run, n, &failed, "bounced");
                }
            }
            None => self.sums.unknown += 1,
        }
    }

    fn add_recipient(&mut self, run: &str, n: u64, recipient: &str, intact: bool) {
        let fresh = self.seen.insert(self.hasher.hash_one((run, n, recipient)));
        self.sums.delivered += u64::from(fresh);
        self.sums.duplicated += u64::from(!fresh);
        self.sums.corrupted += u64::from(!intact);
        self.write(
            run,
            n,
            recipient,
            if intact { "intact" } else { "corrupted" },
        );
    }

    fn write(&mut self, run: &str, n: u64, recipient: &str, fate: &str) {
        let Some(file) = &mut self.file else {
            return;
        };
        if writeln!(file, "{run}-{n} {recipient} {fate}").is_err() {
            self.sums.unwritten += 1;
        }
    }

    /// Writes out what is still buffered.
    pub fn finish(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.flush())
    }
}

/// Puts the ledger files of a source and of a sink together.
pub fn check(source: &Path, sink: &Path) -> io::Result<Verdict> {
    let mut cells: BTreeMap<String, u8> = BTreeMap::new();
    let mut verdict = Verdict::default();
    for_each_line(source, |key, word| {
        let fate = match word {
            "accepted" => Fate::Accepted,
            "refused" => Fate::Refused,
            "open" => Fate::Open,
            _ => return false,
        };
        let cell = cells.entry(key).or_default();
        *cell = with_fate(*cell, fate);
        true
    })?;
    for_each_line(sink, |key, word| {
        let change = match word {
            "intact" => |cell| with_arrival(cell, true),
            "corrupted" => |cell| with_arrival(cell, false),
            // Whom the sink has refused is not in its file.
            "bounced" => |cell| with_bounce(condemned(cell)),
            _ => return false,
        };
        match cells.get_mut(&key) {
            Some(cell) => {
                verdict.reported_again += u64::from(word == "bounced" && is_bounced(*cell));
                *cell = change(*cell);
            }
            None => verdict.unknown += 1,
        }
        true
    })?;
    for (key, cell) in &cells {
        let flaw = verdict.add(*cell);
        if let Some(flaw) = flaw {
            verdict.give_example(|| format!("{flaw}: {key}"));
        }
    }
    Ok(verdict)
}

/// Calls `take` with id and address (in lower case) as the key, and the word behind them.
fn for_each_line(path: &Path, mut take: impl FnMut(String, &str) -> bool) -> io::Result<()> {
    for line in BufReader::new(files::open(path)?).lines() {
        let line = line?;
        let taken = line.rsplit_once(' ').is_some_and(|(key, word)| {
            let key = key.to_ascii_lowercase();
            take(key, word)
        });
        if !taken {
            return Err(io::Error::other(format!(
                "{}: not a ledger line: {line}",
                path.display()
            )));
        }
    }
    Ok(())
}
