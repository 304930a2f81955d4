//! What really happened to each letter, as clients and next hops know it, and what may be said of it.
//!
//! A letter is told by the number in its addresses and in its content, so that neither a client nor a
//! next hop needs to know what the relay calls it.

use crate::bounds::Bounds;
use crate::told::Told;
use ringpost::message::{BodyType, Envelope, MessageId, Recipient};
use ringpost::time::{Now, WallTime};
use std::collections::BTreeMap;
use std::time::Duration;

/// The letter that an address names, or its local part: `r0.l17@...` is recipient 0 of letter 17, `s.l17@...` its
/// sender. What follows a hyphen is there to be encoded: `r0.l17-\u{fc}@...`.
pub fn parse_address(address: &str) -> Option<(Option<usize>, u32)> {
    let (who, letter) = address.split_once(".l")?;
    let letter = letter.split(['-', '@']).next()?.parse().ok()?;
    match who {
        "s" => Some((None, letter)),
        _ => Some((Some(who.strip_prefix('r')?.parse().ok()?), letter)),
    }
}

/// The header section of a content.
pub fn header_of(content: &[u8]) -> &[u8] {
    let end = content.windows(4).position(|it| it == b"\r\n\r\n");
    &content[..end.unwrap_or(content.len())]
}

/// The number in a content's own header.
pub fn letter_of(content: &[u8]) -> Option<u32> {
    let marker = b"X-Letter: ";
    let at = content.windows(marker.len()).position(|it| it == marker)?;
    let rest = &content[at + marker.len()..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    String::from_utf8(digits.copied().collect())
        .ok()?
        .parse()
        .ok()
}

/// What the client was told of its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The end of the data is not sent.
    Sending,
    /// It is, and there is no answer yet.
    Awaited,
    Accepted,
    Refused(u16),
    /// The connection ended first.
    Unclear,
}

/// What became of one recipient.
#[derive(Default, Debug)]
pub struct Fate {
    /// A next hop has it, so often.
    pub deliveries: u32,
    /// Another delivery would be a repetition that the promise allows.
    pub is_excused: bool,
    /// Some next hop said 5yz, and this was part of what it spoke of.
    pub refused: bool,
    /// A host without fault said 4yz to it, or to its sender.
    pub put_off: bool,
    /// A hop without DSN took it, and said so.
    pub relayed: bool,
    /// A hop took it that reports success by itself.
    pub passed_on: bool,
    /// A start has found that it is done.
    pub finished: bool,
    /// Reports that arrived: of failure, and that it was relayed.
    pub reports: [u32; 2],
    pub report_is_excused: bool,
}

pub struct Letter {
    pub envelope: Envelope,
    /// Without dots stuffed, ending in CRLF.
    pub content: Vec<u8>,
    pub answer: Answer,
    /// When the client heard so.
    pub accepted_at: Option<WallTime>,
    /// The relay received it, after this.
    pub begun: Now,
    /// Its write failed: it may be on the disk all the same.
    pub may_surface: bool,
    /// The sender's host said 5yz to a report.
    pub report_refused: bool,
    pub fates: Vec<Fate>,
    /// Found by the check that is going on.
    pub is_present: bool,
}

/// What is known of a site for good.
#[derive(Clone, Copy, Default, Debug)]
pub struct SiteFacts {
    /// A host of it has said that it takes no mail, or not from us.
    pub refused_us: bool,
    /// The smallest limit of its hosts.
    pub size_max: Option<u64>,
    /// Some host of it does not offer SMTPUTF8.
    pub lacks_smtputf8: bool,
    /// A host of it has said 5yz to MAIL of a report.
    pub refused_report: bool,
    /// All its hosts are without fault.
    pub is_spotless: bool,
}

#[derive(Default)]
pub struct Ledger {
    pub letters: BTreeMap<u32, Letter>,
    pub by_id: BTreeMap<MessageId, u32>,
    pub sites: Vec<SiteFacts>,
    pub lifetime: Duration,
    pub report_lifetime: Duration,
    pub stats: Stats,
    pub bounds: Bounds,
    pub told: Told,
}

/// How often what the promise speaks of has happened.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    pub deliveries: u64,
    pub repetitions: u64,
    pub reports: u64,
    /// That speak of more than one recipient.
    pub reports_of_many: u64,
}

impl Ledger {
    /// A client begins a letter; its recipients are added as the relay takes them.
    pub fn begin(&mut self, envelope: Envelope, now: Now) -> u32 {
        let number = self.letters.len() as u32;
        self.letters.insert(
            number,
            Letter {
                envelope,
                content: Vec::new(),
                answer: Answer::Sending,
                accepted_at: None,
                begun: now,
                may_surface: false,
                report_refused: false,
                fates: Vec::new(),
                is_present: false,
            },
        );
        number
    }

    pub fn letter(&mut self, number: u32) -> &mut Letter {
        self.letters.get_mut(&number).expect("it was begun")
    }

    pub fn recipient_accepted(&mut self, number: u32, recipient: Recipient) {
        let letter = self.letter(number);
        letter.envelope.recipients.push(recipient);
        letter.fates.push(Fate::default());
    }

    /// The transaction was given up: what it was is nothing.
    pub fn forget(&mut self, number: u32) {
        let letter = self.letter(number);
        assert_eq!(letter.answer, Answer::Sending);
        letter.envelope.recipients.clear();
        letter.fates.clear();
    }

    /// The end of the data is about to be sent.
    pub fn ended(&mut self, number: u32, content: Vec<u8>) {
        let letter = self.letter(number);
        if !content.is_ascii() {
            letter.envelope.body_type = BodyType::EightBitMime;
        }
        // Whoever asks for SMTPUTF8 and has a header in ASCII does not need it.
        letter.envelope.smtputf8 &= !header_of(&content).is_ascii();
        letter.content = content;
        letter.answer = Answer::Awaited;
    }

    /// What the client was told in the end; a complaint if that was not true.
    pub fn answered(&mut self, now: WallTime, number: u32, answer: Answer) -> Option<String> {
        let letter = self.letter(number);
        letter.answer = answer;
        letter.accepted_at = (answer == Answer::Accepted).then_some(now);
        let delivered = letter.fates.iter().any(|fate| fate.deliveries > 0);
        (matches!(answer, Answer::Refused(_)) && delivered && !letter.may_surface)
            .then(|| format!("letter {number} was refused, and delivered"))
    }

    /// The power goes: what is not durably done may be done again.
    pub fn power_cut(&mut self) {
        for fate in self.letters.values_mut().flat_map(|it| &mut it.fates) {
            if !fate.finished {
                fate.is_excused = true;
                fate.report_is_excused = true;
            }
        }
    }

    // ---- what next hops say ----

    /// A host said 5yz to a recipient, or to all that it was part of.
    pub fn refused(&mut self, address: &str) {
        let Some((who, letter)) = self.addressed(address) else {
            return;
        };
        match who {
            Some(index) => letter.fates_of(index).for_each(|fate| fate.refused = true),
            None => letter.report_refused = true,
        }
    }

    /// A host of the site said 5yz to MAIL of this sender.
    pub fn refused_sender(&mut self, reverse_path: &str, site: usize) {
        let Some((None, letter)) = self.addressed(reverse_path) else {
            return;
        };
        for (recipient, fate) in letter.envelope.recipients.iter().zip(&mut letter.fates) {
            if site_of(recipient.forward_path.domain_as_written()) == Some(site) {
                fate.refused = true;
            }
        }
    }

    /// A host without fault said 4yz to a recipient, or to MAIL of a sender.
    pub fn put_off(&mut self, address: &str) {
        self.bounds.put_off(address);
        let Some((who, letter)) = self.addressed(address) else {
            return;
        };
        match who {
            Some(index) => letter.fates_of(index).for_each(|fate| fate.put_off = true),
            None => letter.fates.iter_mut().for_each(|fate| fate.put_off = true),
        }
    }

    /// The letter that an address is of, and which recipient it is there; `None`: its sender.
    fn addressed(&mut self, address: &str) -> Option<(Option<usize>, &mut Letter)> {
        let (who, number) = parse_address(address)?;
        Some((who, self.letters.get_mut(&number)?))
    }
}

impl Letter {
    /// By the number in the address: recipients that were refused leave gaps.
    pub fn fates_of(&mut self, number: usize) -> impl Iterator<Item = &mut Fate> {
        let recipients = self.envelope.recipients.iter().zip(&mut self.fates);
        recipients
            .filter(move |(recipient, _)| {
                let local_part = recipient.forward_path.local_part();
                parse_address(local_part).is_some_and(|(who, _)| who == Some(number))
            })
            .map(|(_, fate)| fate)
    }
}

/// `d3.test` is site 3, and so is `d3-new0.test`, which only a route leads to; other domains do not exist.
pub fn site_of(domain: &str) -> Option<usize> {
    let label = domain.strip_prefix('d')?.strip_suffix(".test")?;
    label.split('-').next()?.parse().ok()
}
