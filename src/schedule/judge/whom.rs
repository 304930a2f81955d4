//! Of whom a temporary refusal speaks. Codes alone do not tell: 450 4.7.1 is said of a recipient that is
//! greylisted, of a sender without SPF, and of a client with too many connections.
//!
//! Promise: what is decided here changes when mail is tried again, and whether other mail waits with it; no
//! mail is returned because of a wording. Bounded: the first [`Reply::ONE_LINE_BYTES_MAX`] octets are read, the
//! letters' case does not count. What others chose is left out (addresses, names, links, quoted strings): a
//! sender must not pause a next hop by an address that it echoes.

use crate::smtp::reply::{EnhancedStatus, Reply};

/// Of whom a 4yz reply speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Whom {
    Sender,
    /// The recipient, or the pair of sender and recipient.
    Recipient,
    Message,
    /// This connection: 421 without a word of the rest.
    Connection,
    /// The host that answers, or us as its client: whatever else we send fares the same.
    Host,
    /// It does not say.
    Unsaid,
}

use Whom::{Host, Message, Recipient, Sender};

/// What replies say, and of whom. A wording that is not the host's counts before one that is: "rate limited" is said of
/// senders, recipients and clients alike. Each is found at the beginning of a word. Seen at: Gmail (G), Outlook and
/// Exchange (E), Yahoo (Y), GMX and web.de (U), Postfix (P), postgrey and its like (g), rspamd (R).
const WORDINGS: &[(&str, Whom)] = &[
    ("greylist", Recipient),                       // g R
    ("graylist", Recipient),                       // g
    ("grey listed", Recipient),                    // g
    ("user you are trying to contact", Recipient), // G
    ("recipient thread limit", Recipient),         // E
    ("mailbox database thread limit", Recipient),  // E
    ("recipient address rejected", Recipient),     // P g
    ("mailbox unavailable", Recipient),            // U
    ("mailbox full", Recipient),
    ("mailbox is full", Recipient),
    ("mailbox busy", Recipient),
    ("over quota", Recipient),                    // G
    ("ratelimit to exceeded", Recipient),         // R
    ("ratelimit bounce to exceeded", Recipient),  // R
    ("ratelimit user exceeded", Sender),          // R
    ("spf", Sender),                              // G E P
    ("dkim", Sender),                             // G
    ("dmarc", Sender),                            // G
    ("sender address rejected", Sender),          // P
    ("sender rejected", Sender),                  // U
    ("sending domain", Sender),                   // G
    ("sender domain", Sender),                    // P
    ("from your domain", Sender),                 // G
    ("message is suspicious", Message),           // G
    ("client host", Host),                        // P
    ("helo command rejected", Host),              // P
    ("reverse hostname", Host),                   // P
    ("ptr record", Host),                         // G
    ("ip address", Host),                         // G U
    ("your ip", Host),                            // G Y
    ("ip reputation", Host),                      // E
    ("messages from temporarily deferred", Host), // Y, the address left out
    ("all messages from", Host),                  // Y
    ("too many connection", Host),                // P
    ("too many concurrent", Host),                // E
    ("too many session", Host),
    ("connection limit", Host), // E
    ("connection rate", Host),  // P
    ("connection frequency", Host),
    ("concurrent connection", Host),
    ("simultaneous connection", Host),
    ("concurrency", Host),
    ("server busy", Host), // E
    ("server is busy", Host),
    ("too busy", Host),
    ("service currently unavailable", Host), // P
    ("too much mail", Host),                 // P
    ("too many recipients from", Host),      // P
    ("too many messages", Host),
    ("too many emails", Host),
    ("rate limit", Host), // E U
    ("ratelimit", Host),  // R
    ("rate exceeded", Host),
    ("throttle", Host),          // E
    ("throttling", Host),        // E
    ("unusual rate", Host),      // G
    ("unexpected volume", Host), // Y
    ("slow down", Host),
    ("try again slower", Host),
];

/// Whom a reply of 4yz speaks of.
pub(super) fn whom(reply: &Reply) -> Whom {
    let text = plain_words(&reply.one_line());
    if let Some(whom) = said(&text, |whom| whom != Host) {
        return whom;
    }
    let of_address = |status: EnhancedStatus| matches!(status.subject, 1 | 2);
    // An address or a mailbox, whatever the words are; a session that ends is more than that.
    if reply.code != 421 && reply.status.is_some_and(of_address) {
        return Whom::Unsaid;
    }
    said(&text, |whom| whom == Host)
        .or_else(|| reply.status.and_then(by_status))
        .unwrap_or(match reply.code {
            421 => Whom::Connection,
            _ => Whom::Unsaid,
        })
}

fn said(text: &str, wanted: impl Fn(Whom) -> bool) -> Option<Whom> {
    let mut wordings = WORDINGS.iter().filter(|(_, whom)| wanted(*whom));
    let found = wordings.find(|(wording, _)| says(text, wording));
    found.map(|(_, whom)| *whom)
}

/// Codes that leave no doubt. RFC 3463 section 3.4: 4.3.2, not accepting messages; 3.5: 4.4.5, congestion. RFC 7372: 7.20 to
/// 7.27, DKIM, SPF and a sender domain without mail, but 7.25, our reverse DNS. IANA's registry: 7.28, a flood of mail. Exchange
/// Online: 7.500 to 7.699, its limits for a client.
fn by_status(status: EnhancedStatus) -> Option<Whom> {
    match (status.subject, status.detail) {
        (3, 2) | (4, 5) | (7, 25 | 28 | 500..=699) => Some(Host),
        (7, 20..=24 | 26 | 27) => Some(Sender),
        _ => None,
    }
}

/// `wording` at the beginning of a word. `text` has a space before each word.
fn says(text: &str, wording: &str) -> bool {
    text.match_indices(wording)
        .any(|(at, _)| text[..at].ends_with(' '))
}

/// The words of a reply in lower case, each with a space before it, without whatever somebody else may have chosen: what stands
/// in angle brackets, addresses, domains, links, and quoted strings of more than a word.
fn plain_words(text: &str) -> String {
    let mut words = String::with_capacity(text.len() + 1);
    for word in without_brackets_and_quotes(text).split_whitespace() {
        let word = word.trim_matches(|it: char| it.is_ascii_punctuation());
        if word.contains(['@', '.', '/', '=', ':']) {
            continue;
        }
        for part in word.split(['-', '_']) {
            words.push(' ');
            words.extend(part.chars().map(|it| it.to_ascii_lowercase()));
        }
    }
    words
}

fn without_brackets_and_quotes(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '"']) {
        kept.push_str(&rest[..at]);
        let is_quote = rest[at..].starts_with('"');
        let inside = &rest[at + 1..];
        let Some(end) = inside.find(if is_quote { '"' } else { '>' }) else {
            // Cut off, or not closed: nobody knows whose words follow.
            return kept;
        };
        let (quoted, after) = (&inside[..end], &inside[end + 1..]);
        if is_quote && !quoted.contains(char::is_whitespace) && !after.starts_with('@') {
            kept.push_str(quoted);
        }
        rest = after;
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests;
