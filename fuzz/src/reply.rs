//! Replies of a next hop: bounded, printable, independent of the cuts, and what a plain reading of the
//! whole would find.

use super::{is_printable, option, same_for_all_cuts};
use ringpost::smtp::client::Features;
use ringpost::smtp::reply::{Reply, ReplyError, ReplyParser, printable};

type Found = (Vec<(u16, bool, Vec<Box<str>>)>, Option<ReplyError>);

pub fn run(mut input: &[u8]) {
    let seed = option(&mut input);
    let found = same_for_all_cuts(seed, |cuts| parsed(&cuts.pieces(input)));
    assert_eq!(found, reference(input));
}

fn parsed(pieces: &[&[u8]]) -> Found {
    let mut parser = ReplyParser::new();
    let mut replies = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (consumed, result) = parser.feed(rest);
            rest = &rest[consumed..];
            match result {
                Ok(Some(reply)) => {
                    check(&reply);
                    replies.push((reply.code, reply.mixed_codes, reply.lines));
                }
                Ok(None) => assert!(rest.is_empty()),
                Err(error) => {
                    if let Some(reply) = parser.end() {
                        check(&reply);
                        assert!(reply.code >= 400);
                    }
                    assert!(!parser.is_mid_reply());
                    return (replies, Some(error));
                }
            }
        }
    }
    (replies, None)
}

fn check(reply: &Reply) {
    assert!((200..600).contains(&reply.code));
    assert!(!reply.lines.is_empty() && reply.lines.len() <= ReplyParser::LINES_MAX);
    assert!(reply.lines.iter().all(|line| is_printable(line)));
    let bytes: usize = reply.lines.iter().map(|line| line.len()).sum();
    assert!(bytes <= ReplyParser::TEXT_BYTES_MAX);
    let one_line = reply.one_line();
    assert!(one_line.len() <= Reply::ONE_LINE_BYTES_MAX && is_printable(&one_line));
    assert!(reply.status_or_default().to_string().parse() == Ok(reply.status_or_default()));
    Features::parse(reply);
}

/// Whole lines of the whole input, one after the other.
fn reference(input: &[u8]) -> Found {
    let mut replies = Vec::new();
    let mut texts: Vec<Box<str>> = Vec::new();
    let mut code_so_far = None;
    let (mut has_stray, mut is_mixed) = (false, false);
    let (mut read_bytes, mut text_bytes) = (0, 0);
    let mut lines: Vec<&[u8]> = input.split(|&octet| octet == b'\n').collect();
    let unfinished = lines.pop().unwrap_or_default();
    for line in lines {
        read_bytes += line.len() + 1;
        if read_bytes > ReplyParser::READ_BYTES_MAX {
            return (replies, Some(ReplyError::TooLong));
        }
        let line = line[..line.len().min(ReplyParser::LINE_BYTES_MAX)].trim_ascii_end();
        let (code, is_last, text) = match (code_and_text(line), code_so_far) {
            (Some((code, ..)), Some(other)) if has_stray && code != other => {
                return (replies, Some(ReplyError::Malformed));
            }
            (Some(found), _) => found,
            (None, Some(code)) if code >= 400 || line.is_empty() => {
                has_stray = true;
                (code, false, line)
            }
            (None, _) => return (replies, Some(ReplyError::Malformed)),
        };
        is_mixed |= code_so_far.is_some_and(|other| other != code);
        code_so_far = Some(code);
        let fits = text_bytes + text.len() <= ReplyParser::TEXT_BYTES_MAX;
        if fits && texts.len() < ReplyParser::LINES_MAX {
            text_bytes += text.len();
            texts.push(printable(text));
        }
        if is_last {
            replies.push((code, is_mixed, std::mem::take(&mut texts)));
            (code_so_far, has_stray, is_mixed) = (None, false, false);
            (read_bytes, text_bytes) = (0, 0);
        }
    }
    let is_too_long = read_bytes + unfinished.len() > ReplyParser::READ_BYTES_MAX;
    (replies, is_too_long.then_some(ReplyError::TooLong))
}

fn code_and_text(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let line = line.trim_ascii_end();
    let digits = std::str::from_utf8(line.get(..3)?).ok()?;
    let code: u16 = digits.parse().ok()?;
    if digits.starts_with('+') || !(200..600).contains(&code) {
        return None;
    }
    match line.get(3) {
        None => Some((code, true, b"")),
        Some(b'-') => Some((code, false, &line[4..])),
        Some(b' ') => Some((code, true, &line[4..])),
        Some(b'0'..=b'9') => None,
        Some(_) => Some((code, true, &line[3..])),
    }
}
