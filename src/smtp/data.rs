//! The content of a message on its way in (RFC 5321 sections 4.1.1.4 and 4.5.2, RFC 3030): found
//! whole, checked, and turned into wire form.
//!
//! Wire form is what goes out after a 354: dot-stuffed lines that all end in CRLF, and `.CRLF` as
//! the last three octets. DATA arrives in it and is copied once, in large pieces. What BDAT brings is
//! stuffed and ended as it passes.
//!
//! Promise: what [`Scanner`] lets through has no CR without LF, no LF without CR and no NUL, and
//! `CRLF.CRLF` stands in it once, at its end. So no next hop, however lenient, finds two messages in
//! it. The result does not depend on how the network cut the input.
//!
//! ```text
//! on the wire            Refuse                       Normalise
//! CR LF . CR LF          end of data                  end of data
//! LF   (anything else)   refused                      CRLF
//! CR..CR LF              refused                      one CRLF
//! CR   (anything else)   refused                      a run of them is one space
//! . alone on a line,     refused                      a line with one dot, stuffed: never the end
//!   ended otherwise
//! NUL                    refused                      refused: some next hops drop it, and then
//!                                                     CR LF NUL . CR LF is an end of data
//! ```
//!
//! Content that is put behind a header field ([`Scanner::behind_field`]) cannot continue that field:
//! unless it begins with a field of its own or with an empty line, an empty line comes first.

mod copier;
mod plain;
mod swallow;

use copier::Copier;
use memchr::{memchr3, memrchr};
use plain::{BLOCK_BYTES, plain_prefix};
pub use swallow::{Swallowed, Swallower};

/// What becomes of a CR or LF that stands alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BareLineEnds {
    /// The message is refused.
    #[default]
    Refuse,
    /// LF is taken as a line end, CR as a space. Only for clients that are known: it changes what
    /// a signature (DKIM) may have covered.
    Normalise,
}

/// What content must keep to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    pub bare_line_ends: BareLineEnds,
    /// Octets of content as RFC 1870 counts them: with CRLFs, without stuffing and the final dot.
    pub message_bytes_max: u64,
    /// Octets of a line without its CRLF. Longer lines are refused: nothing is ever folded.
    pub line_bytes_max: usize,
    /// `Received:` fields in the header section (RFC 5321 section 6.3).
    pub hops_max: u32,
}

/// Why content is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    BareCr,
    BareLf,
    Nul,
    LineTooLong,
    TooLarge,
    TooManyHops,
}

/// How far [`Scanner::feed`] came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// All input was consumed, the content goes on.
    More,
    /// The end of data was consumed. Never for chunks, whose end is counted.
    End,
    /// The octet that is at fault is not consumed, but for [`Violation::TooLarge`]. The scanner is of
    /// no more use: see [`Scanner::into_swallower`].
    Refused(Violation),
}

/// What is known of content once it is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Content {
    /// As [`Rules::message_bytes_max`] counts.
    pub message_bytes: u64,
    /// Octets above 127 occurred, whatever `BODY=` said.
    pub is_8bit: bool,
    /// They occurred in the header section. Those of MIME parts within are not looked at.
    pub header_is_8bit: bool,
    /// `Received:` fields in the header section.
    pub hops: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Framing {
    /// DATA: stuffed, ended by a dot.
    Dot,
    /// BDAT: as it is, ended by a count.
    Chunks,
}

/// Where in a line the next octet stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    /// Nothing is decided of the first line, which must not continue the field before it.
    First,
    Start,
    /// After the dot at the start of a line (`Framing::Dot` only).
    Dot,
    /// After `.CR`.
    DotCr,
    Text,
    /// After a CR that is not part of `DotCr`.
    Cr,
}

/// An octet on the wire counts as so many of content at most: `LF` behind a dot, with a CR made up and
/// the dot made text again.
const CONTENT_PER_OCTET_MAX: u64 = 3;

/// Octets that the name of a header field has at most, for a first line to be taken for one.
const FIRST_NAME_BYTES_MAX: usize = 256;

const RECEIVED: &[u8] = b"received:";
/// No longer a prefix of [`RECEIVED`].
const NAME_DIFFERS: u8 = u8::MAX;

/// Boxed, because there is one only if the name of the first field comes in pieces.
#[derive(Debug)]
struct FirstLine {
    /// What has come: at most [`FIRST_NAME_BYTES_MAX`].
    start: Vec<u8>,
}

/// Reads content from slices that are cut anywhere, and appends it to a body in wire form.
#[derive(Debug)]
pub struct Scanner {
    rules: Rules,
    framing: Framing,
    line: Line,
    /// The last line end was CRLF on the wire too. Always true under `Refuse`.
    after_crlf: bool,
    /// The last line was a dot that did not end the data.
    after_lone_dot: bool,
    line_bytes: usize,
    /// Of a first line that is not yet decided.
    first_line: Option<Box<FirstLine>>,
    /// Content stands behind a field, and its first line has not ended.
    in_first_line: bool,
    in_header: bool,
    /// Octets of [`RECEIVED`] that this line has matched so far, or [`NAME_DIFFERS`].
    name_bytes: u8,
    hops: u32,
    is_8bit: bool,
    header_is_8bit: bool,
    /// Octets consumed by earlier calls.
    wire_bytes: u64,
    /// Content is `wire_bytes` and this: less for stuffing, more for added line ends.
    adjust_bytes: i64,
}

impl Scanner {
    /// For DATA: the first octet after the 354.
    pub fn for_data(rules: Rules) -> Self {
        Scanner::new(rules, Framing::Dot)
    }

    /// For BDAT: the first octet of the first chunk.
    pub fn for_chunks(rules: Rules) -> Self {
        Scanner::new(rules, Framing::Chunks)
    }

    fn new(rules: Rules, framing: Framing) -> Self {
        Scanner {
            rules,
            framing,
            line: Line::Start,
            after_crlf: true,
            after_lone_dot: false,
            line_bytes: 0,
            first_line: None,
            in_first_line: false,
            in_header: true,
            name_bytes: 0,
            hops: 0,
            is_8bit: false,
            header_is_8bit: false,
            wire_bytes: 0,
            adjust_bytes: 0,
        }
    }

    /// Content comes behind a header field that is not its own, such as our trace field.
    pub fn behind_field(self) -> Self {
        Scanner {
            line: Line::First,
            in_first_line: true,
            ..self
        }
    }

    /// Consumes a prefix of `input` and appends what it means to `body`. After `Refused` the body
    /// is worthless.
    pub fn feed(&mut self, input: &[u8], body: &mut Vec<u8>) -> (usize, Progress) {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            let piece = &rest[..rest.len().min(self.octets_that_fit())];
            let (taken, progress) = self.feed_piece(piece, body);
            consumed += taken;
            if progress != Progress::More || consumed == input.len() {
                return (consumed, progress);
            }
        }
    }

    /// So many octets can be consumed without missing the one that makes the content too large: what
    /// follows a refusal is read with other eyes, so where that begins must not depend on the cuts.
    fn octets_that_fit(&self) -> usize {
        let left = self
            .rules
            .message_bytes_max
            .saturating_sub(self.content_bytes(0));
        let fit = usize::try_from(left / CONTENT_PER_OCTET_MAX).unwrap_or(usize::MAX);
        fit.max(1)
    }

    fn feed_piece(&mut self, input: &[u8], body: &mut Vec<u8>) -> (usize, Progress) {
        let mut copier = Copier::new(input, body);
        let mut progress = self.scan(&mut copier);
        if self.content_bytes(copier.at) > self.rules.message_bytes_max {
            progress = Progress::Refused(Violation::TooLarge);
        }
        if progress == Progress::End {
            self.consume_end(&mut copier);
        }
        copier.flush();
        let consumed = copier.at;
        self.wire_bytes += consumed as u64;
        self.is_8bit = self.is_8bit || !input[..consumed].is_ascii();
        (consumed, progress)
    }

    /// Ends chunked content: adds the CRLF that may be missing, and the final dot.
    pub fn finish_chunks(&mut self, body: &mut Vec<u8>) -> Result<(), Violation> {
        assert_eq!(self.framing, Framing::Chunks);
        if self.line == Line::First {
            self.begin_first_line(false, body);
        }
        match (self.line, self.rules.bare_line_ends) {
            (Line::Start, _) => {}
            (Line::Cr, BareLineEnds::Refuse) => return Err(Violation::BareCr),
            (Line::Cr, BareLineEnds::Normalise) => self.add_line_end(1, body),
            _ => self.add_line_end(2, body),
        }
        body.extend_from_slice(b".\r\n");
        Ok(())
    }

    fn add_line_end(&mut self, adjust_bytes: i64, body: &mut Vec<u8>) {
        self.adjust_bytes += adjust_bytes;
        self.line = Line::Start;
        body.extend_from_slice(b"\r\n");
    }

    /// What was found; final after `Progress::End` or [`Scanner::finish_chunks`].
    pub fn content(&self) -> Content {
        Content {
            message_bytes: self.content_bytes(0),
            is_8bit: self.is_8bit,
            header_is_8bit: self.header_is_8bit,
            hops: self.hops,
        }
    }

    /// True if the sender may believe that it is done: a dot stood alone on the last line, but
    /// not between CRLFs. What follows decides; a time-out should be short.
    pub fn may_be_over(&self) -> bool {
        self.after_lone_dot && self.line == Line::Start
    }

    /// Goes on without keeping anything, to find the end of refused data.
    pub fn into_swallower(self) -> Swallower {
        let line = match self.line {
            Line::First if self.first_line.is_none() => Line::Start,
            Line::First => Line::Text,
            line => line,
        };
        Swallower {
            line,
            after_crlf: self.after_crlf,
        }
    }

    /// Content octets when `at` octets of the current input are consumed.
    fn content_bytes(&self, at: usize) -> u64 {
        // The CR may belong to the end of data, which is no content.
        let pending = i64::from(self.line == Line::DotCr);
        (self.wire_bytes + at as u64).saturating_add_signed(self.adjust_bytes - pending)
    }

    fn scan(&mut self, copier: &mut Copier<'_>) -> Progress {
        let mut careful_until = 0;
        loop {
            if copier.at >= careful_until {
                self.take_plain_text(copier);
                careful_until = copier.at + BLOCK_BYTES;
            }
            let Some(&byte) = copier.rest().first() else {
                return Progress::More;
            };
            let stopped = match self.line {
                Line::Text => self.in_text(copier),
                Line::First => self.at_first_line(copier),
                Line::Start => self.at_start(byte, copier),
                Line::Cr => self.after_cr(byte, copier),
                Line::Dot => self.after_dot(byte, copier),
                Line::DotCr => self.after_dot_cr(byte, copier),
            };
            if let Some(progress) = stopped {
                return progress;
            }
        }
    }

    /// The hot path: keeps body text, in whole blocks, in which every line end is good, no line is a
    /// lone dot and none can be too long.
    fn take_plain_text(&mut self, copier: &mut Copier<'_>) {
        let can_begin = match (self.line, copier.rest().first()) {
            (_, None | Some(b'\n')) | (Line::Start, Some(b'.')) => false,
            (Line::Start | Line::Text, _) => !self.in_header,
            _ => false,
        };
        if !can_begin {
            return;
        }
        let room = self.rules.line_bytes_max - self.line_bytes;
        let plain = plain_prefix(copier.rest(), room, self.framing == Framing::Dot);
        let Some(&last) = copier.rest()[..plain.bytes].last() else {
            return;
        };
        // The LF was looked at.
        let kept_bytes = plain.bytes + usize::from(last == b'\r');
        let kept = &copier.rest()[..kept_bytes];
        copier.keep(kept_bytes);
        self.adjust_bytes -= plain.stuffed_lines;
        match memrchr(b'\n', kept) {
            Some(at) => {
                self.end_line(true);
                let is_stuffed = kept.get(at + 1) == Some(&b'.');
                self.line_bytes = kept_bytes - 1 - at - usize::from(is_stuffed);
                if kept_bytes > at + 1 {
                    self.line = Line::Text;
                }
            }
            None => {
                self.line_bytes += kept_bytes;
                self.line = Line::Text;
            }
        }
    }

    /// Decides, as soon as it can, whether the first line may follow a field.
    fn at_first_line(&mut self, copier: &mut Copier<'_>) -> Option<Progress> {
        let rest = copier.rest();
        let bytes_max = FIRST_NAME_BYTES_MAX.min(self.rules.line_bytes_max);
        let begins_with_field = match &mut self.first_line {
            None => begins_with_field(rest, bytes_max),
            Some(line) => {
                let known_bytes = line.start.len();
                let wanted = rest.len().min(bytes_max + 1 - known_bytes);
                line.start.extend_from_slice(&rest[..wanted]);
                let begins_with_field = begins_with_field(&line.start, bytes_max);
                line.start.truncate(known_bytes);
                begins_with_field
            }
        };
        match begins_with_field {
            Some(begins_with_field) => {
                copier.flush();
                self.begin_first_line(begins_with_field, copier.body);
            }
            None => {
                let line = self
                    .first_line
                    .get_or_insert_with(|| Box::new(FirstLine { start: Vec::new() }));
                line.start.extend_from_slice(rest);
                copier.replace(rest.len(), b"");
            }
        }
        None
    }

    fn begin_first_line(&mut self, begins_with_field: bool, body: &mut Vec<u8>) {
        if !begins_with_field {
            self.end_foreign_header(body);
        }
        self.line = Line::Start;
        if let Some(FirstLine { start }) = self.first_line.take().map(|line| *line) {
            self.line = Line::Text;
            self.line_bytes = start.len();
            if self.in_header {
                self.hop_name_end(&start);
            }
            body.extend_from_slice(&start);
        }
    }

    /// The empty line is ours: no octet of the content is counted for it.
    fn end_foreign_header(&mut self, body: &mut Vec<u8>) {
        body.extend_from_slice(b"\r\n");
        self.in_header = false;
    }

    fn at_start(&mut self, byte: u8, copier: &mut Copier<'_>) -> Option<Progress> {
        self.line = Line::Text;
        if byte == b'.' {
            self.name_bytes = NAME_DIFFERS;
            match self.framing {
                Framing::Dot => {
                    self.line = Line::Dot;
                    self.adjust_bytes -= 1;
                }
                Framing::Chunks => {
                    copier.insert(b".");
                    self.line_bytes = 1;
                }
            }
            copier.keep(1);
        }
        None
    }

    /// From one line end to the next.
    fn in_text(&mut self, copier: &mut Copier<'_>) -> Option<Progress> {
        let rest = copier.rest();
        let text_bytes = memchr3(b'\r', b'\n', 0, rest).unwrap_or(rest.len());
        let room = self.rules.line_bytes_max - self.line_bytes;
        let text = &rest[..text_bytes.min(room)];
        if self.in_header {
            self.header_is_8bit = self.header_is_8bit || !text.is_ascii();
            if let Some(name_bytes) = self.hop_name_end(text) {
                self.hops += 1;
                if self.hops > self.rules.hops_max {
                    copier.keep(name_bytes);
                    return Some(Progress::Refused(Violation::TooManyHops));
                }
            }
        }
        copier.keep(text.len());
        if text_bytes > room {
            return Some(Progress::Refused(Violation::LineTooLong));
        }
        self.line_bytes += text_bytes;
        match rest[text_bytes..] {
            [b'\r', b'\n', ..] => {
                copier.keep(2);
                self.end_line(true);
                None
            }
            [b'\r', ..] => {
                self.line = Line::Cr;
                self.hold_cr(copier);
                None
            }
            [b'\n', ..] => self.bare_lf(copier),
            [_, ..] => Some(Progress::Refused(Violation::Nul)),
            [] => None,
        }
    }

    fn bare_lf(&mut self, copier: &mut Copier<'_>) -> Option<Progress> {
        if self.refuses() {
            return Some(Progress::Refused(Violation::BareLf));
        }
        copier.replace(1, b"\r\n");
        self.adjust_bytes += 1;
        self.end_line(false);
        None
    }

    fn after_cr(&mut self, byte: u8, copier: &mut Copier<'_>) -> Option<Progress> {
        match byte {
            b'\n' => {
                self.release_crlf(copier);
                self.end_line(true);
            }
            _ if self.refuses() => return Some(Progress::Refused(Violation::BareCr)),
            b'\r' => self.drop_cr(copier),
            _ => {
                if self.in_first_line && self.line_bytes == 0 {
                    // The space that the CR becomes would continue the field before it.
                    copier.flush();
                    self.end_foreign_header(copier.body);
                }
                copier.insert(b" ");
                self.line = Line::Text;
                self.name_bytes = NAME_DIFFERS;
                // A line that is full refuses the next octet, whatever it is.
                self.line_bytes = (self.line_bytes + 1).min(self.rules.line_bytes_max);
            }
        }
        None
    }

    fn after_dot(&mut self, byte: u8, copier: &mut Copier<'_>) -> Option<Progress> {
        match byte {
            b'\r' => {
                self.line = Line::DotCr;
                self.hold_cr(copier);
            }
            b'\n' if self.refuses() => return Some(Progress::Refused(Violation::BareLf)),
            b'\n' => {
                copier.replace(1, b".\r\n");
                self.adjust_bytes += 2;
                self.end_lone_dot(false);
            }
            _ => self.line = Line::Text,
        }
        None
    }

    fn after_dot_cr(&mut self, byte: u8, copier: &mut Copier<'_>) -> Option<Progress> {
        match byte {
            b'\n' if self.after_crlf => return Some(Progress::End),
            b'\n' => {
                copier.replace(1, b".\r\n");
                self.adjust_bytes += 1;
                self.end_lone_dot(true);
            }
            _ if self.refuses() => return Some(Progress::Refused(Violation::BareCr)),
            b'\r' => {
                // `.CR CR LF` is not the end either.
                self.after_crlf = false;
                self.drop_cr(copier);
            }
            _ => {
                copier.insert(b" ");
                self.line = Line::Text;
                self.line_bytes = 1;
            }
        }
        None
    }

    fn consume_end(&mut self, copier: &mut Copier<'_>) {
        self.release_crlf(copier);
        self.line = Line::Start;
        self.adjust_bytes -= 2;
    }

    fn refuses(&self) -> bool {
        self.rules.bare_line_ends == BareLineEnds::Refuse
    }

    /// Under `Refuse` a CR is good or the message is lost, so it is copied with what precedes it.
    /// Otherwise the next octet decides what it becomes.
    fn hold_cr(&self, copier: &mut Copier<'_>) {
        if self.refuses() {
            copier.keep(1);
        } else {
            copier.replace(1, b"");
        }
    }

    fn release_crlf(&self, copier: &mut Copier<'_>) {
        if self.refuses() {
            copier.keep(1);
        } else {
            copier.replace(1, b"\r\n");
        }
    }

    fn drop_cr(&mut self, copier: &mut Copier<'_>) {
        copier.replace(1, b"");
        self.adjust_bytes -= 1;
    }

    fn end_lone_dot(&mut self, after_crlf: bool) {
        self.line_bytes = 1;
        self.end_line(after_crlf);
        self.after_lone_dot = true;
    }

    fn end_line(&mut self, after_crlf: bool) {
        if self.line_bytes == 0 {
            self.in_header = false;
        }
        self.line = Line::Start;
        self.line_bytes = 0;
        self.in_first_line = false;
        self.name_bytes = 0;
        self.after_crlf = after_crlf;
        self.after_lone_dot = false;
    }

    /// Once in a line, when its name turns out to be `Received:`: where in `text` that is.
    fn hop_name_end(&mut self, text: &[u8]) -> Option<usize> {
        let wanted = RECEIVED.get(usize::from(self.name_bytes)..)?;
        let compared = wanted.len().min(text.len());
        if !wanted[..compared].eq_ignore_ascii_case(&text[..compared]) {
            self.name_bytes = NAME_DIFFERS;
            return None;
        }
        self.name_bytes += compared as u8;
        if usize::from(self.name_bytes) < RECEIVED.len() {
            return None;
        }
        self.name_bytes = NAME_DIFFERS;
        Some(compared)
    }
}

/// Whether content that begins so begins with a header field (RFC 5322 section 2.2, with blanks
/// before the colon) or an empty line. `None`: it is too short to say, which is never so beyond
/// `bytes_max`. The `From ` line of a mailbox file counts as a field: the header section goes on
/// behind it.
fn begins_with_field(text: &[u8], bytes_max: usize) -> Option<bool> {
    let is_of_name = |&byte: &u8| matches!(byte, b'!'..=b'~') && byte != b':';
    let text = &text[..text.len().min(bytes_max + 1)];
    let name_bytes = text.iter().take_while(|byte| is_of_name(byte)).count();
    match text {
        [b'\r' | b'\n', ..] => return Some(true),
        // A dot may be stuffed, or the end.
        [b'.', ..] => return Some(false),
        _ if text.is_empty() => return None,
        _ if name_bytes == 0 => return Some(false),
        _ => {}
    }
    let (name, rest) = text.split_at(name_bytes);
    if matches!(name, b"From" | b">From") && rest.starts_with(b" ") {
        return Some(true);
    }
    match rest.iter().find(|&&byte| !matches!(byte, b' ' | b'\t')) {
        Some(&byte) => Some(byte == b':'),
        None if text.len() > bytes_max => Some(false),
        None => None,
    }
}

/// Content (our own: a report, a test message) in wire form. Bare line ends are normalised; a
/// missing last CRLF is added.
pub fn to_wire_form(content: &[u8]) -> Vec<u8> {
    const ANYTHING: Rules = Rules {
        bare_line_ends: BareLineEnds::Normalise,
        message_bytes_max: u64::MAX,
        line_bytes_max: usize::MAX,
        hops_max: u32::MAX,
    };
    let without_nul: Vec<u8> = content.iter().copied().filter(|&byte| byte != 0).collect();
    let mut body = Vec::with_capacity(content.len() + content.len() / 32 + 8);
    let mut scanner = Scanner::for_chunks(ANYTHING);
    let (_, progress) = scanner.feed(&without_nul, &mut body);
    assert_eq!(progress, Progress::More);
    // Normalising refuses nothing that is left.
    let _ = scanner.finish_chunks(&mut body);
    body
}

/// The content of a body in wire form: unstuffed, without the final dot.
pub fn from_wire_form(body: &[u8]) -> Vec<u8> {
    unstuffed(body.strip_suffix(b".\r\n").unwrap_or(body))
}

/// Whole lines in wire form, without the end of the data, as content.
pub fn unstuffed(lines: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(lines.len());
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    content
}

#[cfg(test)]
mod tests;
