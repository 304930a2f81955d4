//! Of whom a refusal speaks. Codes alone do not tell: 450 4.7.1 is said of a recipient that is
//! greylisted, of a sender without SPF, and of a client with too many connections.
//!
//! Promise: what is decided here changes when mail is tried again, and whether other mail waits with it; no
//! mail is returned because of a wording. Bounded: the first [`Reply::ONE_LINE_BYTES_MAX`] octets are read, the
//! letters' case does not count. What others chose is left out (addresses, names, links, quoted strings, header
//! fields), and no word that we sent ourselves ([`Echoes`]) speaks of the host: a sender must not pause a next hop by
//! an address that it echoes.

use super::Scope;
use crate::message::{Envelope, Mailbox, Recipient};
use crate::smtp::reply::{EnhancedStatus, Reply};
use memchr::memmem;

/// What is said of somebody or something else than the host, and counts before all that is said of the host. Each is found at
/// the beginning of a word. Seen at: Gmail (G), Outlook and Exchange (E), Yahoo (Y), GMX and web.de (U), Postfix (P), postgrey
/// and its like (g), rspamd (R).
const OF_OTHERS: &[(&str, Scope)] = &[
    ("this session", Scope::Session),
    ("per session", Scope::Session),
    ("in session", Scope::Session),
    ("same session", Scope::Session),
    ("session limit", Scope::Session),
    ("per connection", Scope::Session),
    ("on this connection", Scope::Session),
    ("in this connection", Scope::Session),
    ("over this connection", Scope::Session),
    ("same connection", Scope::Session),
    ("too many errors", Scope::Session), // P
    ("too many transactions", Scope::Session),
    ("too many commands", Scope::Session),
    ("too many invalid", Scope::Session),
    ("too many unknown", Scope::Session),
    ("too many bad", Scope::Session),
    ("too many failed", Scope::Session),
    ("too many rejected", Scope::Session),
    ("too many syntax", Scope::Session),
    ("too many protocol", Scope::Session),
    ("too many junk", Scope::Session),
    ("too many unrecognized", Scope::Session),
    ("nested mail", Scope::Session), // P
    ("sender already", Scope::Session),
    ("bad sequence", Scope::Session),
    ("out of sequence", Scope::Session),
    ("greylist", Scope::Recipient),                       // g R
    ("graylist", Scope::Recipient),                       // g
    ("grey listed", Scope::Recipient),                    // g
    ("user you are trying to contact", Scope::Recipient), // G
    ("recipient thread limit", Scope::Recipient),         // E
    ("mailbox database thread limit", Scope::Recipient),  // E
    ("recipient address rejected", Scope::Recipient),     // P g
    ("mailbox unavailable", Scope::Recipient),            // U
    ("mailbox full", Scope::Recipient),
    ("mailbox is full", Scope::Recipient),
    ("mailbox busy", Scope::Recipient),
    ("over quota", Scope::Recipient),                   // G
    ("ratelimit to exceeded", Scope::Recipient),        // R
    ("ratelimit bounce to exceeded", Scope::Recipient), // R
    ("ratelimit user exceeded", Scope::Sender),         // R
    ("spf", Scope::Sender),                             // G E P
    ("dkim", Scope::Sender),                            // G
    ("dmarc", Scope::Sender),                           // G
    ("sender address rejected", Scope::Sender),         // P
    ("sender rejected", Scope::Sender),                 // U
    ("sending domain", Scope::Sender),                  // G
    ("sender domain", Scope::Sender),                   // P
    ("from your domain", Scope::Sender),                // G
    ("message is suspicious", Scope::Message),          // G
];

/// What is said of us as a client, whatever else is named. [`LEFT_OUT`] stands for what others chose.
const OF_CLIENT: &[&str] = &[
    "client host",                                 // P
    "helo command rejected",                       // P
    "reverse hostname",                            // P
    "ptr record",                                  // G
    "ip address",                                  // G U
    "your ip",                                     // G Y
    "messages from \u{2026} temporarily deferred", // Y
];

/// What is said of too much or too fast: of the host, or of us as its client, unless somebody or something is named beside it.
const OF_RATE: &[&str] = &[
    "ip reputation",       // E
    "all messages from",   // Y
    "too many connection", // P
    "too many concurrent", // E
    "too many session",
    "connection limit", // E
    "connection rate",  // P
    "connection frequency",
    "concurrent connection",
    "simultaneous connection",
    "concurrency",
    "server busy", // E
    "server is busy",
    "too busy",
    "service currently unavailable", // P
    "too much mail",                 // P
    "too many recipients from",      // P
    "too many messages",
    "too many mails",
    "too many emails",
    "rate limit", // E U
    "ratelimit",  // R
    "rate exceeded",
    "throttle",          // E
    "throttling",        // E
    "unusual rate",      // G
    "unexpected volume", // Y
    "slow down",
    "try again slower",
];

/// Whom or what a rate is of, or a state that may be the host's. Whole words.
const NAMED: &[(&str, Scope)] = &[
    ("sender", Scope::Sender),
    ("sender's", Scope::Sender),
    ("originator", Scope::Sender),
    ("reverse path", Scope::Sender),
    ("return path", Scope::Sender),
    ("envelope from", Scope::Sender),
    ("from address", Scope::Sender),
    ("domain", Scope::Sender),
    ("domains", Scope::Sender),
    ("recipient", Scope::Recipient),
    ("recipient's", Scope::Recipient),
    ("rcpt", Scope::Recipient),
    ("mailbox", Scope::Recipient),
    ("inbox", Scope::Recipient),
    ("user", Scope::Recipient),
    ("user's", Scope::Recipient),
    ("account", Scope::Recipient),
    ("addressee", Scope::Recipient),
    ("this address", Scope::Recipient),
    ("that address", Scope::Recipient),
    ("email address", Scope::Recipient),
    ("mail address", Scope::Recipient),
    ("to address", Scope::Recipient),
    ("this message", Scope::Message),
    ("the message", Scope::Message),
    ("your message", Scope::Message),
    ("message has", Scope::Message),
    ("message contains", Scope::Message),
    ("similar messages", Scope::Message),
    ("identical messages", Scope::Message),
    ("same message", Scope::Message),
    ("this mail", Scope::Message),
    ("this email", Scope::Message),
    ("content", Scope::Message),
    ("contents", Scope::Message),
    ("attachment", Scope::Message),
    ("attachments", Scope::Message),
    ("url", Scope::Message),
    ("urls", Scope::Message),
    ("link", Scope::Message),
    ("links", Scope::Message),
    ("surbl", Scope::Message),
    ("uribl", Scope::Message),
];

/// What a server says that counts the messages of a session.
const OF_MANY: &[&str] = &[
    "too many messages",
    "too many mails",
    "too many emails",
    "max messages",
    "message limit",
    "maximum number of messages",
];

/// Words for the TLS that a session lacks, at the beginning of a word. They do not speak of the host here; see
/// [`demands_tls`](super::demands_tls).
pub(super) const OF_TLS: &[&str] = &["tls", "starttls", "encrypt", "ssl"];

/// Stands for words that are left out, so that those before and behind do not become one wording.
const LEFT_OUT: char = '\u{2026}';

/// What of our own words, which others chose, a reply may repeat in whatever form: which wordings they hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Echoes(u128);

/// Those of [`OF_TLS`] come behind them.
const OF_HOST_COUNT: usize = OF_CLIENT.len() + OF_RATE.len();

const _: () = assert!(OF_HOST_COUNT + OF_TLS.len() < u128::BITS as usize);

impl Echoes {
    /// Nothing of ours is in it.
    pub const NONE: Echoes = Echoes(0);

    /// Of an address that may hold anything, so that no words can be told from its own.
    const ANYTHING: Echoes = Echoes(u128::MAX);

    /// Of what a transaction says of its envelope to some of the recipients.
    pub fn of<'a>(envelope: &Envelope, recipients: impl Iterator<Item = &'a Recipient>) -> Self {
        let mut words = String::new();
        let mut add = |text: &str| {
            words.push(' ');
            words.extend(text.chars().map(|c| match c.is_alphanumeric() {
                true => c.to_ascii_lowercase(),
                false => ' ',
            }));
        };
        let holds_anything = |mailbox: &Mailbox| {
            let local_part = mailbox.local_part();
            local_part.starts_with('"') || local_part.contains(char::is_whitespace)
        };
        if let Some(sender) = &envelope.reverse_path {
            if holds_anything(sender) {
                return Echoes::ANYTHING;
            }
            add(sender.as_str());
        }
        add(envelope.envid.as_deref().unwrap_or(""));
        for recipient in recipients {
            if holds_anything(&recipient.forward_path) {
                return Echoes::ANYTHING;
            }
            add(recipient.forward_path.as_str());
            add(recipient.orcpt.as_deref().unwrap_or(""));
        }
        Echoes::in_words(&words)
    }

    fn in_words(words: &str) -> Self {
        let says = |wording: &&str| {
            let mut found = memmem::find_iter(words.as_bytes(), wording.as_bytes());
            found.any(|at| words[..at].ends_with(' '))
        };
        let wordings = OF_CLIENT.iter().chain(OF_RATE).chain(OF_TLS).enumerate();
        let said = wordings.filter(|(_, wording)| says(wording));
        Echoes(said.fold(0, |all, (number, _)| all | 1 << number))
    }

    fn has(self, number: usize) -> bool {
        self.0 >> number & 1 == 1
    }

    /// A wording of [`OF_TLS`].
    pub(super) fn has_of_tls(self, number: usize) -> bool {
        self.has(OF_HOST_COUNT + number)
    }
}

/// Whom a refusal speaks of; `None`: it does not say.
///
/// * [`Scope::NextHop`]: the host that answers, or us as its client. Whatever else we send fares the same.
/// * [`Scope::Connection`]: it ends, and no more is said (421).
/// * [`Scope::Session`]: what went over this connection before, or the order of commands.
/// * [`Scope::Recipient`]: or the pair of sender and recipient.
pub(super) fn scope_of(reply: &Reply, echoes: Echoes) -> Option<Scope> {
    let text = plain_words(&reply.one_line());
    let others = OF_OTHERS.iter().find(|(wording, _)| says(&text, wording));
    if let Some((_, scope)) = others {
        return Some(*scope);
    }
    let ends = (reply.code == 421).then_some(Scope::Connection);
    let of_address = |status: EnhancedStatus| matches!(status.subject, 1 | 2);
    // An address or a mailbox, whatever the words are; a session that ends is more than that.
    if ends.is_none() && reply.status.is_some_and(of_address) {
        return None;
    }
    let says_for_host =
        |(number, wording): (usize, &&str)| !echoes.has(number) && says(&text, wording);
    let mut of_client = OF_CLIENT.iter().enumerate();
    if of_client.any(says_for_host) {
        return Some(Scope::NextHop);
    }
    let of_rate = OF_RATE.iter().enumerate();
    let mut of_rate = of_rate.map(|(number, wording)| (OF_CLIENT.len() + number, wording));
    let by_status = reply.status.and_then(by_status);
    match by_status {
        Some((scope, Certainty::Sure)) => Some(scope),
        _ if by_status.is_some() || of_rate.any(says_for_host) => {
            Some(named(&text).unwrap_or(Scope::NextHop))
        }
        _ => ends,
    }
}

/// A refusal for good of one message too many: of this session, for who has sent some over it.
pub(super) fn counts_mail(reply: &Reply) -> bool {
    let text = plain_words(&reply.one_line());
    reply.is_permanent() && OF_MANY.iter().any(|wording| says(&text, wording))
}

fn named(text: &str) -> Option<Scope> {
    let is_named = |name: &str| {
        let ends = |at: usize| matches!(text.as_bytes().get(at + name.len()), None | Some(b' '));
        text.match_indices(name)
            .any(|(at, _)| text[..at].ends_with(' ') && ends(at))
    };
    let named = NAMED.iter().find(|(name, _)| is_named(name));
    named.map(|(_, scope)| *scope)
}

/// How far a code tells.
enum Certainty {
    Sure,
    /// The host, unless the words name somebody.
    Likely,
}

/// RFC 3463 section 3.4: 4.3.2, not accepting messages; 3.5: 4.4.5, congestion. RFC 7372: 7.20 to
/// 7.27, DKIM, SPF and a sender domain without mail, but 7.25, our reverse DNS. IANA's registry: 7.28, a flood of mail. Exchange
/// Online: 7.500 to 7.699, its limits for a client.
fn by_status(status: EnhancedStatus) -> Option<(Scope, Certainty)> {
    match (status.subject, status.detail) {
        (3, 2) | (4, 5) | (7, 28) => Some((Scope::NextHop, Certainty::Likely)),
        (7, 25 | 500..=699) => Some((Scope::NextHop, Certainty::Sure)),
        (7, 20..=24 | 26 | 27) => Some((Scope::Sender, Certainty::Sure)),
        _ => None,
    }
}

/// `wording` at the beginning of a word. `text` has a space before each word.
pub(super) fn says(text: &str, wording: &str) -> bool {
    text.match_indices(wording)
        .any(|(at, _)| text[..at].ends_with(' '))
}

/// The words of a reply in lower case, each with a space before it. What somebody else may have chosen is [`LEFT_OUT`]: what
/// stands in angle brackets, addresses, domains, links, quoted strings of more than a word, and all that follows when a header field
/// is quoted.
pub(super) fn plain_words(text: &str) -> String {
    let mut words = String::with_capacity(text.len() + 1);
    for word in without_brackets_and_quotes(text).split_whitespace() {
        let word = word.trim_matches(|it: char| it.is_ascii_punctuation());
        if word.contains(['@', '.', '/', '=', ':']) {
            words.extend([' ', LEFT_OUT]);
            continue;
        }
        for part in word.split(['-', '_']) {
            words.push(' ');
            words.extend(part.chars().map(|it| it.to_ascii_lowercase()));
        }
        if words.ends_with(" subject") || words.ends_with(" header") {
            // Nobody knows whose words follow.
            return words;
        }
    }
    words
}

/// By the grammar of RFC 5321 section 4.1.2: a bracket within a quoted string closes nothing, nor does a quote behind a
/// backslash.
fn without_brackets_and_quotes(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '"']) {
        kept.push_str(&rest[..at]);
        let is_quote = rest[at..].starts_with('"');
        let inside = &rest[at + 1..];
        let end = match is_quote {
            true => end_of_quoted(inside),
            false => end_of_bracketed(inside),
        };
        let Some(end) = end else {
            // Cut off, or not closed: nobody knows whose words follow.
            kept.extend([' ', LEFT_OUT]);
            return kept;
        };
        let (quoted, after) = (&inside[..end], &inside[end + 1..]);
        match is_quote && !quoted.contains(char::is_whitespace) && !after.starts_with('@') {
            true => kept.push_str(quoted),
            false => kept.extend([' ', LEFT_OUT, ' ']),
        }
        rest = after;
    }
    kept.push_str(rest);
    kept
}

/// Where the closing quote of a quoted string stands.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })
}

/// Where the closing bracket stands.
fn end_of_bracketed(text: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find(['>', '"'])?;
        if text[at..].starts_with('>') {
            return Some(at);
        }
        from = at + 1 + end_of_quoted(&text[at + 1..])? + 1;
    }
}

#[cfg(test)]
mod tests;
