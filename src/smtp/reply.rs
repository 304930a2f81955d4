//! Replies (RFC 5321 section 4.2) and enhanced status codes (RFC 3463).
//!
//! A reply that comes in is text from a stranger. Promise: a [`Reply`] that [`ReplyParser`] built is
//! bounded, holds no control characters, and has a code of 200 to 599.
//! Not here: what a reply means for the mail. `schedule::judge` says that.

use crate::text;
use memchr::memchr;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// `class.subject.detail` of RFC 3463, such as `5.1.1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EnhancedStatus {
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl EnhancedStatus {
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        EnhancedStatus {
            class,
            subject,
            detail,
        }
    }

    /// The same subject and detail with another class, for a failure that is judged otherwise than
    /// the peer named it.
    pub const fn with_class(self, class: u8) -> Self {
        EnhancedStatus { class, ..self }
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// The text is no enhanced status code of RFC 3463 section 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAStatus;

impl FromStr for EnhancedStatus {
    type Err = NotAStatus;

    /// Exactly `class.subject.detail`: class 2, 4 or 5, the others one to three digits.
    fn from_str(text: &str) -> Result<Self, NotAStatus> {
        let [class @ (b'2' | b'4' | b'5'), b'.', rest @ ..] = text.as_bytes() else {
            return Err(NotAStatus);
        };
        let dot = rest.iter().position(|&byte| byte == b'.');
        let (subject, detail) = rest.split_at(dot.ok_or(NotAStatus)?);
        Ok(EnhancedStatus {
            class: class - b'0',
            subject: up_to_three_digits(subject)?,
            detail: up_to_three_digits(&detail[1..])?,
        })
    }
}

fn up_to_three_digits(text: &[u8]) -> Result<u16, NotAStatus> {
    if !(1..=3).contains(&text.len()) || !text.iter().all(u8::is_ascii_digit) {
        return Err(NotAStatus);
    }
    Ok(text
        .iter()
        .fold(0, |number, digit| 10 * number + u16::from(digit - b'0')))
}

/// What a reply answers, or how far a session had come when it failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    Connect,
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    StartTls,
    Handshake,
    Mail,
    Rcpt,
    Data,
    /// Between 354 and the last byte of the content.
    Body,
    /// After the last byte of the content.
    FinalDot,
    /// Between transactions: nothing is owed by the peer.
    Idle,
    Quit,
}

impl Stage {
    /// For log lines and reports.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Connect => "connect",
            Stage::Greeting => "greeting",
            Stage::Ehlo => "EHLO",
            Stage::StartTls => "STARTTLS",
            Stage::Handshake => "TLS handshake",
            Stage::Mail => "MAIL",
            Stage::Rcpt => "RCPT",
            Stage::Data => "DATA",
            Stage::Body => "message content",
            Stage::FinalDot => "end of data",
            Stage::Idle => "idle",
            Stage::Quit => "QUIT",
        }
    }
}

/// One reply of a peer, whole, bounded and made printable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// 200 to 599. Of a multi-line reply the last line's.
    pub code: u16,
    /// The enhanced status that the text begins with, if its class fits the code.
    pub status: Option<EnhancedStatus>,
    /// The text of each line after code and separator, status included. Never empty.
    pub lines: Vec<Box<str>>,
    /// The lines of this reply did not agree on the code (RFC 5321 section 4.2.1 says they must).
    pub mixed_codes: bool,
}

impl Reply {
    /// Bytes of [`Reply::one_line`] at most.
    pub const ONE_LINE_BYTES_MAX: usize = 1000;

    /// A reply as a peer might have given it, for tests and for failures told in a reply's form.
    pub fn new(code: u16, text: &str) -> Self {
        let lines: Vec<Box<str>> = text
            .split('\n')
            .map(|line| printable(line.as_bytes()))
            .collect();
        Reply {
            code,
            status: status_of(code, &lines),
            lines,
            mixed_codes: false,
        }
    }

    /// 2yz: done.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 3yz: go on.
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 4yz: not now.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5yz: not ever.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// The status given, or `2.0.0`, `4.0.0`, `5.0.0` for a reply without one.
    pub fn status_or_default(&self) -> EnhancedStatus {
        let class = match self.code / 100 {
            class @ (4 | 5) => class as u8,
            _ => 2,
        };
        self.status.unwrap_or(EnhancedStatus::new(class, 0, 0))
    }

    /// First word of the first line: the peer's name in a greeting or an EHLO reply.
    pub fn first_word(&self) -> &str {
        self.lines
            .first()
            .and_then(|line| line.split_whitespace().next())
            .unwrap_or("")
    }

    /// `550 5.1.1 no such user`: all lines in one, the status said once, at most
    /// [`Reply::ONE_LINE_BYTES_MAX`] bytes.
    pub fn one_line(&self) -> String {
        let mut text = self.code.to_string();
        for (number, line) in self.lines.iter().enumerate() {
            let line = match self.status {
                Some(status) if number > 0 => without_status(line, status),
                _ => line,
            };
            if !line.is_empty() {
                text.push(' ');
                text.push_str(line);
            }
            if text.len() > Self::ONE_LINE_BYTES_MAX {
                break;
            }
        }
        truncate_at_char(&mut text, Self::ONE_LINE_BYTES_MAX);
        text
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.one_line())
    }
}

fn without_status(line: &str, status: EnhancedStatus) -> &str {
    match line.split_once(' ') {
        Some((word, rest)) if word.parse() == Ok(status) => rest.trim_start(),
        _ => line,
    }
}

/// The last line's status, as its code counts too; else the first line's.
fn status_of(code: u16, lines: &[Box<str>]) -> Option<EnhancedStatus> {
    // `#5.1.1`, `[5.1.1]`, `(5.1.1)` and `5.1.1:` are common.
    let is_mark = |c| matches!(c, '#' | '[' | ']' | '(' | ')' | ':' | ',' | ';');
    let of_line = |line: &str| {
        let word = line.split_whitespace().next()?;
        let status = word.parse().or_else(|_| word.trim_matches(is_mark).parse());
        let status: EnhancedStatus = status.ok()?;
        (u16::from(status.class) == code / 100).then_some(status)
    };
    lines
        .last()
        .and_then(|line| of_line(line))
        .or_else(|| lines.first().and_then(|line| of_line(line)))
}

fn truncate_at_char(text: &mut String, bytes_max: usize) {
    text.truncate(text::front(text, bytes_max).len());
}

/// Text that is safe in a log line, a report or a reply: a tab becomes a space; every other control
/// character, line or paragraph separator, directional override and invalid UTF-8 sequence a `?`.
/// Never longer than `bytes`.
pub fn printable(bytes: &[u8]) -> Box<str> {
    if let Ok(text) = str::from_utf8(bytes)
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    {
        return text.into();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().chars().map(printable_char));
        if !chunk.invalid().is_empty() {
            text.push('?');
        }
    }
    text.into_boxed_str()
}

/// [`printable`] for text that is already UTF-8.
pub fn printable_str(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| printable_char(c) == c) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().map(printable_char).collect())
    }
}

fn printable_char(c: char) -> char {
    match c {
        '\t' => ' ',
        '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}' => '?',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '?',
        c if c.is_control() => '?',
        c => c,
    }
}

/// Why the bytes of a peer are no reply. The connection is of no more use; what the reply had said
/// until then may be, see [`ReplyParser::end`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyError {
    /// A line does not begin with a code of 200 to 599 and a separator.
    Malformed,
    /// A reply that has not ended within [`ReplyParser::READ_BYTES_MAX`].
    TooLong,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReplyError::Malformed => "malformed reply",
            ReplyError::TooLong => "reply without an end",
        })
    }
}

/// Cuts the bytes of a peer into replies, as they come.
///
/// Tolerated, because it is seen in the wild and printable_char here: a bare LF as a line's end (as
/// Postfix does; a reply has no content that a line end could smuggle), no text, no space before
/// the text, codes that differ within a reply, empty lines within one. Within a refusal also lines
/// without a code: their text is the refusal's, as long as the lines that have a code agree on it.
///
/// What a reply says by its code is heard whatever its length: text beyond the bounds on a line, on
/// lines and on text is read and dropped, up to [`ReplyParser::READ_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct ReplyParser {
    /// Start of a line whose end has not come, as far as it is kept.
    partial: Vec<u8>,
    lines: Vec<Box<str>>,
    /// Of the lines so far; 0 before the first.
    code: u16,
    mixed_codes: bool,
    /// A line of this reply had no code.
    has_stray_text: bool,
    /// Text of `lines`.
    text_bytes: usize,
    /// Of this reply so far, codes and line ends included, kept or not.
    read_bytes: usize,
}

impl ReplyParser {
    /// Of a line, more is dropped. RFC 5321 section 4.5.3.1.5 says 512; chatty peers get eight times that.
    pub const LINE_BYTES_MAX: usize = 4_096;
    /// Lines whose text is kept. EHLO replies with hundreds of keywords exist.
    pub const LINES_MAX: usize = 1_024;
    /// Text that is kept.
    pub const TEXT_BYTES_MAX: usize = 32 * 1_024;
    /// Octets of a reply that are read at all.
    pub const READ_BYTES_MAX: usize = 256 * 1_024;

    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a prefix of `input`: up to the end of a reply, or all of it when the reply is not yet
    /// whole (`Ok(None)`). After an error only [`ReplyParser::end`] is of use.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Result<Option<Reply>, ReplyError>) {
        let mut consumed = 0;
        while consumed < input.len() {
            let rest = &input[consumed..];
            let end = memchr(b'\n', rest);
            let piece = &rest[..end.unwrap_or(rest.len())];
            let taken = piece.len() + usize::from(end.is_some());
            consumed += taken;
            self.read_bytes += taken;
            if self.read_bytes > Self::READ_BYTES_MAX {
                return (consumed, Err(ReplyError::TooLong));
            }
            if end.is_none() {
                self.keep_partial(piece);
                break;
            }
            match self.end_of_line(piece) {
                Ok(false) => {}
                Ok(true) => return (consumed, Ok(Some(self.take_reply()))),
                Err(error) => return (consumed, Err(error)),
            }
        }
        (consumed, Ok(None))
    }

    /// No more will come, or nothing of use. A refusal that was not said to its end is one all the
    /// same; whatever else is not whole is nothing. Forgets everything.
    pub fn end(&mut self) -> Option<Reply> {
        const CODE_AND_SEPARATOR_BYTES: usize = 4;
        let rest = std::mem::take(&mut self.partial);
        if rest.len() >= CODE_AND_SEPARATOR_BYTES {
            // What the lines before have said stands, whatever this one is.
            let _ = self.line(&rest);
        }
        let refusal = (self.code >= 400).then(|| self.take_reply());
        *self = Self::default();
        refusal
    }

    /// True if the start of a reply has come but not its end.
    pub fn is_mid_reply(&self) -> bool {
        self.read_bytes > 0
    }

    fn keep_partial(&mut self, piece: &[u8]) {
        let room = Self::LINE_BYTES_MAX - self.partial.len();
        self.partial
            .extend_from_slice(&piece[..piece.len().min(room)]);
    }

    /// `rest`: what follows `partial` up to the LF. True if this line ends the reply.
    fn end_of_line(&mut self, rest: &[u8]) -> Result<bool, ReplyError> {
        if self.partial.is_empty() {
            return self.line(&rest[..rest.len().min(Self::LINE_BYTES_MAX)]);
        }
        self.keep_partial(rest);
        let whole = std::mem::take(&mut self.partial);
        let result = self.line(&whole);
        self.partial = whole;
        self.partial.clear();
        result
    }

    fn line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let line = line.trim_ascii_end();
        let Some((code, is_last, text)) = split_line(line) else {
            return self.line_without_code(line);
        };
        // Such a line may be the next reply: the end of this one would then be missing.
        if self.has_stray_text && code != self.code {
            return Err(ReplyError::Malformed);
        }
        self.mixed_codes |= self.code != 0 && self.code != code;
        self.code = code;
        self.keep_text(text);
        Ok(is_last)
    }

    fn line_without_code(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let is_refusal = self.code >= 400;
        if self.code == 0 || !(is_refusal || line.is_empty()) {
            return Err(ReplyError::Malformed);
        }
        self.has_stray_text = true;
        self.keep_text(line);
        Ok(false)
    }

    /// The first line always fits.
    fn keep_text(&mut self, text: &[u8]) {
        let fits = self.text_bytes + text.len() <= Self::TEXT_BYTES_MAX;
        if fits && self.lines.len() < Self::LINES_MAX {
            self.text_bytes += text.len();
            self.lines.push(printable(text));
        }
    }

    fn take_reply(&mut self) -> Reply {
        let lines = std::mem::take(&mut self.lines);
        let reply = Reply {
            code: self.code,
            status: status_of(self.code, &lines),
            lines,
            mixed_codes: self.mixed_codes,
        };
        let partial = std::mem::take(&mut self.partial);
        *self = ReplyParser {
            partial,
            ..Self::default()
        };
        reply
    }
}

const _: () = assert!(ReplyParser::LINE_BYTES_MAX <= ReplyParser::TEXT_BYTES_MAX);

/// Code, whether the line ends the reply, and text. `line` is without its end. `None`: it has no code.
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let &[
        first @ b'2'..=b'5',
        second @ b'0'..=b'9',
        third @ b'0'..=b'9',
        ref rest @ ..,
    ] = line
    else {
        return None;
    };
    let digit = |byte: u8| u16::from(byte - b'0');
    let code = digit(first) * 100 + digit(second) * 10 + digit(third);
    match rest {
        [b'-', text @ ..] => Some((code, false, text)),
        [b' ', text @ ..] => Some((code, true, text)),
        [b'0'..=b'9', ..] => None,
        text => Some((code, true, text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_all(mut input: &[u8]) -> Result<Vec<Reply>, ReplyError> {
        let mut parser = ReplyParser::new();
        let mut replies = Vec::new();
        loop {
            let (consumed, result) = parser.feed(input);
            input = &input[consumed..];
            match result? {
                Some(reply) => replies.push(reply),
                None => return Ok(replies),
            }
        }
    }

    fn parse_one(input: &str) -> Reply {
        let mut replies = parse_all(input.as_bytes()).expect("a reply");
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0)
    }

    #[test]
    fn multi_line_reply_with_status() {
        let reply = parse_one("550-5.1.1 no such\r\n550 5.1.1 user here\r\n");
        assert_eq!(reply.code, 550);
        assert_eq!(reply.status, Some(EnhancedStatus::new(5, 1, 1)));
        assert_eq!(reply.one_line(), "550 5.1.1 no such user here");
        assert!(reply.is_permanent() && !reply.mixed_codes);
    }

    #[test]
    fn sloppy_peers_are_understood() {
        for (input, code, text) in [
            ("250\r\n", 250, ""),
            ("250 \r\n", 250, ""),
            ("250 ok\n", 250, "ok"),
            ("250ok\r\n", 250, "ok"),
            ("250\tok\r\n", 250, " ok"),
            ("250-a\n250 b\r\n", 250, "a"),
            ("250-\r\n250\r\n", 250, ""),
        ] {
            let reply = parse_one(input);
            assert_eq!((reply.code, &*reply.lines[0]), (code, text), "{input:?}");
        }
    }

    #[test]
    fn last_line_decides_between_codes() {
        let reply = parse_one("250-fine\r\n550 5.7.1 or not\r\n");
        assert_eq!(reply.code, 550);
        assert!(reply.mixed_codes);
        assert_eq!(reply.status, Some(EnhancedStatus::new(5, 7, 1)));
    }

    #[test]
    fn what_is_no_reply() {
        for input in [
            "\r\n",
            "25\r\n",
            "150 x\r\n",
            "600 x\r\n",
            "999-x\r\n",
            "2500 x\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
            " 250 x\r\n",
            "250-a\r\nb\r\n",
        ] {
            assert_eq!(
                parse_all(input.as_bytes()),
                Err(ReplyError::Malformed),
                "{input:?}"
            );
        }
    }

    #[test]
    fn bounds_hold() {
        let longest = "x".repeat(ReplyParser::LINE_BYTES_MAX - 6);
        parse_one(&format!("250 {longest}\r\n"));
        let endless = vec![b'2'; ReplyParser::READ_BYTES_MAX + 1];
        assert_eq!(parse_all(&endless), Err(ReplyError::TooLong));
        let endless = "250-x\r\n".repeat(ReplyParser::READ_BYTES_MAX / 7 + 1);
        assert_eq!(parse_all(endless.as_bytes()), Err(ReplyError::TooLong));
    }

    #[test]
    fn a_refusal_is_heard_however_long_its_text_is() {
        let long_line = parse_one(&format!("550 5.1.1 {}\r\n", "x".repeat(5000)));
        let status = Some(EnhancedStatus::new(5, 1, 1));
        assert_eq!((long_line.code, long_line.status), (550, status));
        assert_eq!(long_line.lines[0].len(), ReplyParser::LINE_BYTES_MAX - 4);
        let many = "550-5.1.1 x\r\n".repeat(ReplyParser::LINES_MAX + 9);
        let many = parse_one(&format!("{many}550 5.1.1 end\r\n"));
        assert_eq!((many.code, many.status), (550, status));
        assert_eq!(many.lines.len(), ReplyParser::LINES_MAX);
        let much = format!("550-{}\r\n", "x".repeat(2000)).repeat(40);
        let much = parse_one(&format!("{much}550 end\r\n"));
        let kept: usize = much.lines.iter().map(|line| line.len()).sum();
        assert!(much.code == 550 && kept <= ReplyParser::TEXT_BYTES_MAX);
    }

    #[test]
    fn an_ehlo_reply_of_hundreds_of_keywords_is_read_to_its_last() {
        let keywords: String = (0..300).map(|n| format!("250-X-{n}\r\n")).collect();
        let long = format!("250-X-LONG {}\r\n", "x".repeat(900));
        let odd = "250-\r\n\r\n250-X-\u{f6}\r\n";
        let reply = format!("250-mx.test\r\n{keywords}{long}{odd}250 STARTTLS\r\n");
        let reply = parse_one(&reply);
        assert_eq!(reply.lines.last().map(|line| &**line), Some("STARTTLS"));
    }

    #[test]
    fn lines_without_a_code_belong_to_the_refusal_around_them() {
        let reply = parse_one("550-5.1.1 no such\r\nuser here\r\n\r\n550 5.1.1 sorry\r\n");
        assert_eq!(reply.one_line(), "550 5.1.1 no such user here sorry");
        // Whose reply the second code is, nobody can say.
        let merged = "550-5.1.1 no such\r\nuser here\r\n250 2.1.5 ok\r\n";
        assert_eq!(parse_all(merged.as_bytes()), Err(ReplyError::Malformed));
        // What is no refusal may be the answer to anything.
        let positive = "250-fine\r\nand so on\r\n250 ok\r\n";
        assert_eq!(parse_all(positive.as_bytes()), Err(ReplyError::Malformed));
    }

    #[test]
    fn a_refusal_that_is_cut_off_is_heard_and_nothing_else_is() {
        let endless = "550-x\r\n".repeat(ReplyParser::READ_BYTES_MAX / 7 + 1);
        for (input, heard) in [
            ("550-5.1.1 no such user\r\n", Some("550 5.1.1 no such user")),
            ("550 5.1.1 no such user", Some("550 5.1.1 no such user")),
            ("550-no\r\nuser\r\n250 ok\r\n", Some("550 no user")),
            ("450-wait\r\n45", Some("450 wait")),
            ("550", None),
            ("55", None),
            ("250-ok\r\n", None),
            ("250 ok", None),
            ("what", None),
        ] {
            let mut parser = ReplyParser::new();
            let _ = parser.feed(input.as_bytes());
            let found = parser.end().map(|reply| reply.one_line());
            assert_eq!(found.as_deref(), heard, "{input:?}");
            assert!(!parser.is_mid_reply());
        }
        let mut parser = ReplyParser::new();
        let (_, result) = parser.feed(endless.as_bytes());
        assert_eq!(result, Err(ReplyError::TooLong));
        assert_eq!(parser.end().map(|reply| reply.code), Some(550));
    }

    #[test]
    fn a_status_in_brackets_is_a_status() {
        for text in ["#5.1.1 x", "[5.1.1] x", "(5.1.1) x", "5.1.1: x", "5.1.1, x"] {
            let status = Reply::new(550, text).status;
            assert_eq!(status, Some(EnhancedStatus::new(5, 1, 1)), "{text:?}");
        }
    }

    #[test]
    fn text_is_made_printable() {
        let mut parser = ReplyParser::new();
        let (_, reply) = parser.feed(b"550 a\x1b[31m\x00\rb\xff\xc3\xb6\xe2\x80\xae\r\n");
        let reply = reply.expect("parses").expect("whole");
        assert_eq!(&*reply.lines[0], "a?[31m??b?\u{f6}?");
    }

    #[test]
    fn status_must_fit_the_code() {
        assert_eq!(parse_one("550 4.1.1 what\r\n").status, None);
        assert_eq!(parse_one("354 2.0.0 go\r\n").status, None);
        assert_eq!(parse_one("550 5.1.1.1 what\r\n").status, None);
        assert_eq!(
            parse_one("451 4.7.651 busy\r\n").status,
            Some(EnhancedStatus::new(4, 7, 651))
        );
        assert_eq!(
            parse_one("550 bad\r\n").status_or_default().to_string(),
            "5.0.0"
        );
        assert_eq!(
            parse_one("451 bad\r\n").status_or_default().to_string(),
            "4.0.0"
        );
    }

    #[test]
    fn status_reads_back() {
        assert_eq!("5.1.1".parse(), Ok(EnhancedStatus::new(5, 1, 1)));
        for text in [
            "", "5", "5.1", "3.1.1", "5.1.1000", "5..1", "5.+1.1", "5.1.1 ",
        ] {
            assert_eq!(text.parse::<EnhancedStatus>(), Err(NotAStatus), "{text:?}");
        }
    }

    #[test]
    fn one_line_is_bounded_at_a_character() {
        let reply = Reply::new(550, &"\u{f6}".repeat(900));
        let line = reply.one_line();
        assert!(line.len() <= Reply::ONE_LINE_BYTES_MAX && line.len() > 990);
    }

    fn arbitrary_stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<Vec<u8>>(),
            Just(b"250-".to_vec()),
            Just(b"250 ok\r\n".to_vec()),
            Just(b"421".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(vec![b'x'; 3000]),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_any_split(input in arbitrary_stream(), split in 1usize..200) {
            let whole = parse_all(&input);
            let mut parser = ReplyParser::new();
            let mut pieces = Vec::new();
            let mut error = None;
            'all: for chunk in input.chunks(split) {
                let mut rest = chunk;
                loop {
                    let (consumed, result) = parser.feed(rest);
                    prop_assert!(consumed <= rest.len());
                    prop_assert!(parser.partial.len() <= ReplyParser::LINE_BYTES_MAX);
                    prop_assert!(parser.text_bytes <= ReplyParser::TEXT_BYTES_MAX);
                    rest = &rest[consumed..];
                    match result {
                        Ok(Some(reply)) => {
                            prop_assert!((200..600).contains(&reply.code));
                            prop_assert!(!reply.lines.is_empty());
                            prop_assert!(!reply.one_line().contains(char::is_control));
                            pieces.push(reply);
                        }
                        Ok(None) => break,
                        Err(e) => { error = Some(e); break 'all; }
                    }
                }
            }
            match whole {
                Ok(replies) => { prop_assert_eq!(error, None); prop_assert_eq!(pieces, replies); }
                Err(e) => prop_assert_eq!(error, Some(e)),
            }
        }
    }
}
