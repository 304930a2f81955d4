//! Content that nobody wants.

use super::Line;
use memchr::memchr2;

/// Looks for the end of data that was refused, and keeps nothing.
#[derive(Debug)]
pub struct Swallower {
    pub(super) line: Line,
    pub(super) after_crlf: bool,
}

/// How far [`Swallower::feed`] came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swallowed {
    /// All input was consumed.
    More,
    /// `CRLF.CRLF` was consumed: the next octet belongs to a command.
    End,
    /// A dot stood alone on a line, but not between CRLFs. Whoever ends data so now waits for an
    /// answer; for anybody else it is text. Only answering and closing is safe for both.
    FalseEnd,
}

impl Swallower {
    /// Consumes a prefix of `input`.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Swallowed) {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if self.line == Line::Text {
                at += memchr2(b'\r', b'\n', &input[at..]).unwrap_or(input.len() - at);
                let Some(&end) = input.get(at) else { break };
                self.end_text(end);
                at += 1;
                continue;
            }
            match (self.line, byte) {
                (Line::Start, b'.') => self.line = Line::Dot,
                (Line::Dot, b'\r') => self.line = Line::DotCr,
                (Line::Dot, b'\n') => return (at + 1, Swallowed::FalseEnd),
                (Line::DotCr, b'\n') if self.after_crlf => return (at + 1, Swallowed::End),
                (Line::DotCr, b'\n') => return (at + 1, Swallowed::FalseEnd),
                (Line::Cr, b'\n') => self.begin_line(true),
                (Line::Cr | Line::DotCr, b'\r') => self.line = Line::Cr,
                _ => {
                    self.line = Line::Text;
                    continue;
                }
            }
            at += 1;
        }
        (at, Swallowed::More)
    }

    fn end_text(&mut self, end: u8) {
        if end == b'\r' {
            self.line = Line::Cr;
        } else {
            self.begin_line(false);
        }
    }

    fn begin_line(&mut self, after_crlf: bool) {
        self.line = Line::Start;
        self.after_crlf = after_crlf;
    }
}
