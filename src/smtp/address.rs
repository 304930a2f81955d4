//! Paths and mailboxes (RFC 5321 section 4.1.2, RFC 6531 section 3.3): text from a peer in,
//! `Mailbox` out.
//!
//! Promise: a mailbox that comes from here holds no control character and no space outside of
//! quotes, fits the limits below, and its domain is a host name that has a normal form
//! ([`crate::domain`]), or an address literal.
//!
//! More is taken than the grammar allows where real clients need it and nothing is lost by it:
//! a path without angle brackets (`MAIL FROM:a@b`, as Postfix does), spaces around it, dots
//! anywhere in a local part (mobile carriers handed out `a..b.@`), underscores in domain names, a
//! final dot behind them. Spaces and final dot are no part of the mailbox: a next hop may be stricter.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use memchr::memchr;

use crate::domain::{Domain, DomainError};
use crate::message::{Mailbox, ReversePath};

/// Octets of a local-part as written, quotes included. RFC 5321 section 4.5.3.1.1 asks to take 64 at
/// least; rewritten senders (SRS, VERP) of today's mail are longer.
pub const LOCAL_PART_BYTES_MAX: usize = 128;
/// Octets of a domain (RFC 5321 section 4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;
/// Octets of a label of a domain name (RFC 1035 section 2.3.4). For a label that is not ASCII it
/// bounds the characters: its A-label is at least as long.
pub const LABEL_BYTES_MAX: usize = 63;
/// Octets of a path with its brackets (RFC 5321 section 4.5.3.1.3), without a source route.
pub const PATH_BYTES_MAX: usize = 256;
/// Octets of a source route, which that section counts within a path.
pub const SOURCE_ROUTE_BYTES_MAX: usize = PATH_BYTES_MAX;

const _: () = assert!(LOCAL_PART_BYTES_MAX < PATH_BYTES_MAX);

/// Why a path was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathError {
    /// Not a path by the grammar.
    Syntax,
    /// One of the limits of this module.
    TooLong,
    /// A local-part without a domain (and not `Postmaster`, where that is allowed).
    NoDomain,
    /// A domain that has no normal form, so that nobody could say whose it is.
    InvalidDomain,
}

/// Parses the reverse-path at the start of `text`: `<>`, `<a@b>` or `a@b`. Returns it with the
/// rest of the text, which is empty or starts with a space.
pub fn reverse_path(text: &str) -> Result<(ReversePath, &str), PathError> {
    reverse_path_at(text, None)
}

/// As [`reverse_path`]; a local-part without a domain gets `home`, if there is one.
pub fn reverse_path_at<'a>(
    text: &'a str,
    home: Option<&Domain<'_>>,
) -> Result<(ReversePath, &'a str), PathError> {
    if let Some(rest) = after_null_path(text) {
        return ends_here(rest).map(|rest| (None, rest));
    }
    let (mailbox, rest) = path(text)?;
    Ok((Some(qualified(mailbox, home)?), rest))
}

fn after_null_path(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('<')?;
    inner.trim_start_matches(' ').strip_prefix('>')
}

fn qualified(mailbox: Mailbox, home: Option<&Domain<'_>>) -> Result<Mailbox, PathError> {
    if !mailbox.domain_as_written().is_empty() {
        return Ok(mailbox);
    }
    let home = home.ok_or(PathError::NoDomain)?;
    let whole = Mailbox::new(mailbox.local_part(), home.as_str());
    match whole.as_str().len() + 2 > PATH_BYTES_MAX {
        true => Err(PathError::TooLong),
        false => Ok(whole),
    }
}

/// Parses the forward-path at the start of `text`: `<a@b>`, `a@b` or `<Postmaster>` (RFC 5321
/// section 4.1.1.3). Returns it with the rest of the text, which is empty or starts with a space.
pub fn forward_path(text: &str) -> Result<(Mailbox, &str), PathError> {
    forward_path_at(text, None)
}

/// As [`forward_path`]; another local-part without a domain gets `home`, if there is one.
pub fn forward_path_at<'a>(
    text: &'a str,
    home: Option<&Domain<'_>>,
) -> Result<(Mailbox, &'a str), PathError> {
    let (mailbox, rest) = path(text)?;
    if mailbox.as_str().eq_ignore_ascii_case("postmaster") {
        return Ok((mailbox, rest));
    }
    Ok((qualified(mailbox, home)?, rest))
}

/// Parses a whole mailbox without brackets, as in a list of recipients. Non-ASCII is allowed;
/// see [`Mailbox::needs_smtputf8`].
pub fn mailbox(text: &str) -> Result<Mailbox, PathError> {
    let parsed = split_mailbox(text)?;
    if parsed.domain_as_written().is_empty() {
        return Err(PathError::NoDomain);
    }
    Ok(parsed)
}

/// A mailbox as `utf-8-addr-xtext` (RFC 6533 section 3): ASCII, for what follows `utf-8;`.
pub fn utf8_xtext(mailbox: &str) -> String {
    let is_plain = |c: char| matches!(c, '!'..='~') && !matches!(c, '+' | '=' | '\\');
    embedded(mailbox, is_plain)
}

/// The same for an address that is `utf-8-addr-unitext` already, as ORCPT has it with SMTPUTF8.
pub fn unitext_in_7bit(text: &str) -> Cow<'_, str> {
    match text.is_ascii() {
        true => Cow::Borrowed(text),
        false => Cow::Owned(embedded(text, |c| c.is_ascii())),
    }
}

/// With characters that are not plain as `\x{F6}`.
fn embedded(text: &str, is_plain: impl Fn(char) -> bool) -> String {
    let mut embedded = String::with_capacity(text.len());
    for c in text.chars() {
        match is_plain(c) {
            true => embedded.push(c),
            false => embedded.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
        }
    }
    embedded
}

fn path(text: &str) -> Result<(Mailbox, &str), PathError> {
    let (inner, rest) = match text.strip_prefix('<') {
        Some(inner) => {
            let inner = without_source_route(inner.trim_start_matches(' '))?;
            let end = end_unquoted(inner, b'>').ok_or(PathError::Syntax)?;
            (inner[..end].trim_matches(' '), &inner[end + 1..])
        }
        None => {
            let end = end_unquoted(text, b' ').unwrap_or(text.len());
            text.split_at(end)
        }
    };
    let rest = ends_here(rest)?;
    Ok((split_mailbox(inner)?, rest))
}

fn ends_here(rest: &str) -> Result<&str, PathError> {
    if rest.is_empty() || rest.starts_with(' ') {
        Ok(rest)
    } else {
        Err(PathError::Syntax)
    }
}

/// Drops `@a,@b:` (RFC 5321 appendix C: accept, and ignore). The hops are judged as text only: nobody asks
/// whose they are, and the mapping of one that is not ASCII is dear.
fn without_source_route(inner: &str) -> Result<&str, PathError> {
    if !inner.starts_with('@') {
        return Ok(inner);
    }
    let (route, mailbox) = inner.split_once(':').ok_or(PathError::Syntax)?;
    if route.len() > SOURCE_ROUTE_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    for hop in route.split(',') {
        let hop = hop.trim_matches(' ').strip_prefix('@');
        check_domain_text(without_final_dot(hop.ok_or(PathError::Syntax)?))?;
    }
    Ok(mailbox)
}

/// Where `end` stands first outside of a quoted string.
fn end_unquoted(text: &str, end: u8) -> Option<usize> {
    if memchr(b'"', text.as_bytes()).is_none() {
        return memchr(end, text.as_bytes());
    }
    let mut quoted = false;
    let mut escaped = false;
    for (at, &byte) in text.as_bytes().iter().enumerate() {
        if escaped {
            escaped = false;
        } else if quoted && byte == b'\\' {
            escaped = true;
        } else if byte == b'"' {
            quoted = !quoted;
        } else if byte == end && !quoted {
            return Some(at);
        }
    }
    None
}

fn split_mailbox(text: &str) -> Result<Mailbox, PathError> {
    if text.len() + 2 > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    let (local_part, domain) = match end_unquoted(text, b'@') {
        Some(at) => (&text[..at], Some(without_final_dot(&text[at + 1..]))),
        None => (text, None),
    };
    check_local_part(local_part)?;
    if let Some(domain) = domain {
        check_domain(domain)?;
    }
    Ok(Mailbox::new(local_part, domain.unwrap_or("")))
}

/// The root of the DNS may be written (RFC 1034 section 3.1), and is not in mail.
fn without_final_dot(domain: &str) -> &str {
    domain.strip_suffix('.').unwrap_or(domain)
}

fn check_local_part(text: &str) -> Result<(), PathError> {
    if text.len() > LOCAL_PART_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    let good = match text.strip_prefix('"') {
        Some(quoted) => is_quoted_rest(quoted),
        None => {
            !text.is_empty()
                && text.bytes().all(|byte| is_atext(byte) || byte == b'.')
                && !has_unicode_control(text)
        }
    };
    if good { Ok(()) } else { Err(PathError::Syntax) }
}

/// The rest of a quoted string after its first quote: `qtextSMTP` and quoted pairs (RFC 5321
/// section 4.1.2), then one quote at the very end.
fn is_quoted_rest(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return bytes.next().is_none() && !has_unicode_control(text),
            b'\\' if !bytes.next().is_some_and(|next| matches!(next, 32..=126)) => return false,
            0..=31 | 127 => return false,
            _ => {}
        }
    }
    false
}

/// `atext` of RFC 5322, with RFC 6531's UTF-8 beyond ASCII.
fn is_atext(byte: u8) -> bool {
    ATEXT[usize::from(byte)]
}

const ATEXT: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte >= 0x80 || (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let signs = b"!#$%&'*+-/=?^_`{|}~";
    let mut at = 0;
    while at < signs.len() {
        table[signs[at] as usize] = true;
        at += 1;
    }
    table
};

/// C1 controls are controls too, though UTF-8 hides them in two octets.
fn has_unicode_control(text: &str) -> bool {
    !text.is_ascii() && text.chars().any(char::is_control)
}

/// Accepts a domain name that has a normal form, or an address literal with its brackets.
pub fn check_domain(text: &str) -> Result<(), PathError> {
    check_domain_text(text)?;
    if text.starts_with('[') {
        return Ok(());
    }
    match Domain::parse(text) {
        Ok(_) => Ok(()),
        Err(DomainError::NameTooLong | DomainError::LabelTooLong) => Err(PathError::TooLong),
        Err(_) => Err(PathError::InvalidDomain),
    }
}

/// The grammar and the limits alone.
fn check_domain_text(text: &str) -> Result<(), PathError> {
    if text.len() > DOMAIN_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    match text.starts_with('[') {
        true if is_address_literal(text) => Ok(()),
        true => Err(PathError::Syntax),
        false => text
            .as_bytes()
            .split(|&byte| byte == b'.')
            .try_for_each(check_label),
    }
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3). No other tag was ever standardised.
pub fn is_address_literal(text: &str) -> bool {
    let Some(inner) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    else {
        return false;
    };
    match inner.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("ipv6:") => {
            address.parse::<Ipv6Addr>().is_ok()
        }
        _ => inner.parse::<Ipv4Addr>().is_ok(),
    }
}

/// `label` is part of a text, between two dots.
fn check_label(label: &[u8]) -> Result<(), PathError> {
    let mut is_ascii = true;
    let mut good = !matches!(label, [] | [b'-', ..] | [.., b'-']);
    for &byte in label {
        good &= LABEL[usize::from(byte)];
        is_ascii &= byte < 0x80;
    }
    let text = match is_ascii {
        true => "",
        false => str::from_utf8(label).map_err(|_| PathError::Syntax)?,
    };
    if label.len() > LABEL_BYTES_MAX && (is_ascii || text.chars().count() > LABEL_BYTES_MAX) {
        return Err(PathError::TooLong);
    }
    if good && !text.chars().any(is_unfit_in_label) {
        Ok(())
    } else {
        Err(PathError::Syntax)
    }
}

/// Letters, digits, hyphen, underscore, and UTF-8.
static LABEL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let octet = byte as u8;
        table[byte] = octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | 0x80..);
        byte += 1;
    }
    table
};

/// Controls and white space, and the full stops that IDNA would take for the dot between labels:
/// routing must see the labels that everybody else sees.
fn is_unfit_in_label(character: char) -> bool {
    character.is_control()
        || character.is_whitespace()
        || matches!(character, '\u{3002}' | '\u{ff0e}' | '\u{ff61}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forward(text: &str) -> Result<String, PathError> {
        let (mailbox, rest) = forward_path(text)?;
        Ok(format!(
            "{}|{}|{rest}",
            mailbox.local_part(),
            mailbox.domain_as_written()
        ))
    }

    fn taken(text: &str, expected: &str) {
        assert_eq!(forward(text).as_deref(), Ok(expected), "{text}");
    }

    fn refused(text: &str, expected: PathError) {
        assert_eq!(forward(text), Err(expected), "{text}");
    }

    #[test]
    fn utf8_addresses_have_a_form_of_7_bits() {
        assert_eq!(utf8_xtext("j\u{f6}rg@b.test"), "j\\x{F6}rg@b.test");
        assert_eq!(
            utf8_xtext("a+b=\\@\u{4f8b}"),
            "a\\x{2B}b\\x{3D}\\x{5C}@\\x{4F8B}"
        );
        assert_eq!(utf8_xtext("\"a b\"@c"), "\"a\\x{20}b\"@c");
        assert_eq!(
            unitext_in_7bit("utf-8;\u{f6}\\x{2B}@b"),
            "utf-8;\\x{F6}\\x{2B}@b"
        );
        assert_eq!(unitext_in_7bit("rfc822;a+2Bb@c"), "rfc822;a+2Bb@c");
    }

    #[test]
    fn plain_paths() {
        taken("<a@b.test>", "a|b.test|");
        taken("<a@b.test> SIZE=1", "a|b.test| SIZE=1");
        taken("a@b.test NOTIFY=NEVER", "a|b.test| NOTIFY=NEVER");
        taken("<user+tag=x@b>", "user+tag=x|b|");
        taken("<a..b.@carrier.test>", "a..b.|carrier.test|");
        taken("<a@under_score.test>", "a|under_score.test|");
    }

    #[test]
    fn spaces_and_a_final_dot_are_no_part_of_a_mailbox() {
        taken("< a@b.test >", "a|b.test|");
        taken("<  a@b.test> SIZE=1", "a|b.test| SIZE=1");
        taken("<a@b.test  >", "a|b.test|");
        taken("<a@b.test.>", "a|b.test|");
        taken("< a@b.test. >", "a|b.test|");
        taken("a@b.test. X", "a|b.test| X");
        taken("< @x.test.:a@b.test >", "a|b.test|");
        taken("<@x.test: a@b.test>", "a|b.test|");
        taken("< \" a \"@b.test >", "\" a \"|b.test|");
        taken("< Postmaster >", "Postmaster||");
        assert_eq!(reverse_path("< >"), Ok((None, "")));
        assert_eq!(reverse_path("<  > BODY=7BIT"), Ok((None, " BODY=7BIT")));
        assert_eq!(mailbox("a@b.test."), mailbox("a@b.test"));
    }

    #[test]
    fn quoted_local_parts_are_kept_as_written() {
        taken(r#"<"a b"@c.test>"#, r#""a b"|c.test|"#);
        taken(r#"<"a@b>c\"d"@c.test> X"#, r#""a@b>c\"d"|c.test| X"#);
        taken(r#"<""@c.test>"#, r#"""|c.test|"#);
        taken(r#""a b"@c.test X"#, r#""a b"|c.test| X"#);
        refused(r#"<"a@c.test>"#, PathError::Syntax);
        refused(r#"<"a"b@c.test>"#, PathError::Syntax);
        refused("<\"a\tb\"@c.test>", PathError::Syntax);
        refused("<\"a\\\u{7f}\"@c.test>", PathError::Syntax);
        refused("<\"a\u{85}\"@c.test>", PathError::Syntax);
    }

    #[test]
    fn source_routes_are_stripped() {
        taken("<@a.test,@b.test:u@c.test>", "u|c.test|");
        taken("<@[192.0.2.1]:u@c.test>", "u|c.test|");
        refused("<@a.test,b.test:u@c.test>", PathError::Syntax);
        refused("<@a.test>", PathError::Syntax);
        refused("<@:u@c.test>", PathError::Syntax);
    }

    /// Two KB of hops that are not ASCII would cost ten times what a whole command does.
    #[test]
    fn the_hops_of_a_source_route_are_neither_mapped_nor_many() {
        taken("<@xn--a.test,@\u{5d0}a.test:u@c.test>", "u|c.test|");
        taken("<@b\u{fc}cher.test.:u@c.test>", "u|c.test|");
        refused("<@b\u{85}.test:u@c.test>", PathError::Syntax);
        refused("<@b cher.test:u@c.test>", PathError::Syntax);
        let route = |hops: usize| format!("<{}:u@c.test>", vec!["@\u{fc}.de"; hops].join(","));
        taken(&route(SOURCE_ROUTE_BYTES_MAX / 7), "u|c.test|");
        refused(&route(SOURCE_ROUTE_BYTES_MAX / 7 + 1), PathError::TooLong);
    }

    #[test]
    fn address_literals() {
        taken("<a@[192.0.2.1]>", "a|[192.0.2.1]|");
        taken("<a@[IPv6:2001:db8::1]>", "a|[IPv6:2001:db8::1]|");
        taken("<a@[ipv6:::1]>", "a|[ipv6:::1]|");
        for bad in [
            "[]",
            "[1.2.3]",
            "[::1]",
            "[x:y]",
            "[IPv6:1.2.3.4]",
            "[1.2.3.4",
            "[é]",
        ] {
            refused(&format!("<a@{bad}>"), PathError::Syntax);
        }
    }

    #[test]
    fn only_postmaster_may_lack_a_domain() {
        taken("<Postmaster>", "Postmaster||");
        taken("<POSTMASTER>", "POSTMASTER||");
        refused("<root>", PathError::NoDomain);
        assert_eq!(reverse_path("<postmaster>"), Err(PathError::NoDomain));
    }

    #[test]
    fn null_reverse_path() {
        assert_eq!(reverse_path("<>"), Ok((None, "")));
        assert_eq!(reverse_path("<> BODY=7BIT"), Ok((None, " BODY=7BIT")));
        assert_eq!(reverse_path("<>x"), Err(PathError::Syntax));
        refused("<>", PathError::Syntax);
    }

    #[test]
    fn limits() {
        let long = |bytes: usize| "a".repeat(bytes);
        taken(
            &format!("<{}@b>", long(LOCAL_PART_BYTES_MAX)),
            &format!("{}|b|", long(LOCAL_PART_BYTES_MAX)),
        );
        refused(
            &format!("<{}@b>", long(LOCAL_PART_BYTES_MAX + 1)),
            PathError::TooLong,
        );
        assert!(forward(&format!("<a@{}.test>", long(63))).is_ok());
        refused(&format!("<a@{}.test>", long(64)), PathError::TooLong);
        let domain = format!("{0}.{0}.{0}.{1}", long(63), long(60));
        assert!(forward(&format!("<a@{domain}>")).is_ok());
        refused(&format!("<aa@{domain}>"), PathError::TooLong);
        assert_eq!(
            check_domain(&format!("{domain}{}", long(4))),
            Err(PathError::TooLong)
        );
    }

    #[test]
    fn what_is_no_path() {
        for bad in [
            "",
            "<",
            ">",
            "<a@b",
            "<a@b>x",
            "<a@@b>",
            "<a@b@c>",
            "<@b>",
            "<a@>",
            "<a@.b>",
            "<a@b..>",
            "<a@.>",
            "<a@-b>",
            "<a@b->",
            "<a b@c>",
            "<a@b c>",
            "<a@b,c>",
            "< >",
            "<a @b>",
            "<a@ b>",
            "< a",
            "<a@b.>.",
            "<a@[192.0.2.1]..>",
            "<a\\b@c>",
            "<(x)a@c>",
            "<a@b>>",
            "<<a@b>>",
            "a@b>",
            " <a@b>",
        ] {
            assert!(forward(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn utf8_mailboxes() {
        taken("<用户@例子.test>", "用户|例子.test|");
        refused("<a\u{85}@b>", PathError::Syntax);
        refused("<a@b\u{9b}>", PathError::Syntax);
        refused("<a@b\u{3002}test>", PathError::Syntax);
        for bad in [
            "xn--a.test",
            "a\u{200d}b.test",
            "\u{5d0}a.test",
            "a\u{ff0f}b.test",
        ] {
            refused(&format!("<a@{bad}>"), PathError::InvalidDomain);
        }
        refused(&format!("<a@{}.test>", "ü".repeat(63)), PathError::TooLong);
        taken("<a@\u{ff50}artner.test>", "a|\u{ff50}artner.test|");
        assert!(mailbox("ü@b.test").unwrap().needs_smtputf8());
        assert_eq!(mailbox("a"), Err(PathError::NoDomain));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_clean(text in r#"<?[ -~\u{1}\u{85}äé.@"\\a-c]{0,24}>?"#) {
            if let Ok((mailbox, rest)) = forward_path(&text) {
                prop_assert!(!mailbox.as_str().chars().any(char::is_control));
                prop_assert!(mailbox.as_str().len() <= PATH_BYTES_MAX - 2);
                prop_assert!(rest.is_empty() || rest.starts_with(' '));
            }
        }

        #[test]
        fn a_mailbox_reads_back(text in r#"([a-z.]{1,5}|"[ -!#-\[\]-~]{0,5}")@[a-z]{1,5}(\.[a-z]{1,5}){0,2}"#) {
            let (bracketed, _) = forward_path(&format!("<{text}>")).unwrap();
            prop_assert_eq!(bracketed.as_str(), text.as_str());
            prop_assert_eq!(mailbox(&text).unwrap(), bracketed);
        }
    }
}
