//! Command lines out of input that is cut anywhere.
//!
//! A line that lies whole in the input is not copied; memory is held only while part of one has
//! come.

use memchr::memchr;

use super::LINE_SWALLOWED_BYTES_MAX;
use crate::smtp::command::{announces_chunk, asks_for_data};

/// The first octet of a TLS record that holds a ClientHello.
const TLS_HANDSHAKE: u8 = 0x16;

#[derive(Debug, Default)]
pub struct LineReader {
    /// The start of a line.
    pending: Vec<u8>,
    /// Set while a line that is too long is swallowed. `pending` is empty then.
    long: Option<LongLine>,
}

#[derive(Debug)]
struct LongLine {
    bytes: usize,
    ends_in_cr: bool,
    /// What is said of it at its end.
    reading: Reading,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// All input was consumed, no line is complete.
    Partial,
    /// The consumed input is a line with its CRLF.
    Whole,
    /// The consumed input completed a line: see [`LineReader::take`].
    Assembled,
    /// A line over the limit came to its end.
    TooLong,
    /// The same, and octets that are no command may follow.
    TooLongChunk,
    /// The same, and the text of a message may follow.
    TooLongData,
    /// A LF without CR: the line has no end that both sides agree on.
    BareLf,
    /// A line so long that it cannot be meant.
    Endless,
    /// A TLS handshake where SMTP was expected.
    NotSmtp,
}

impl LineReader {
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.long.is_none()
    }

    /// The line that is [`Reading::Assembled`], with its CRLF.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    /// Consumes input up to the end of a line. `line_bytes_max` counts the CRLF.
    pub fn read(&mut self, input: &[u8], line_bytes_max: usize) -> (usize, Reading) {
        if self.is_empty() && input.first() == Some(&TLS_HANDSHAKE) {
            return (input.len(), Reading::NotSmtp);
        }
        let (consumed, is_ended) = match memchr(b'\n', input) {
            Some(at) => (at + 1, true),
            None => (input.len(), false),
        };
        let piece = &input[..consumed];
        let line_bytes = self.bytes() + consumed;
        let reading = if is_ended && !self.ends_in_crlf(piece) {
            Reading::BareLf
        } else if line_bytes > line_bytes_max + LINE_SWALLOWED_BYTES_MAX {
            Reading::Endless
        } else if line_bytes > line_bytes_max || self.long.is_some() {
            self.swallow(piece, is_ended)
        } else if is_ended && self.pending.is_empty() {
            Reading::Whole
        } else {
            self.pending.extend_from_slice(piece);
            if is_ended {
                Reading::Assembled
            } else {
                Reading::Partial
            }
        };
        (consumed, reading)
    }

    fn bytes(&self) -> usize {
        self.long
            .as_ref()
            .map_or(self.pending.len(), |long| long.bytes)
    }

    fn ends_in_crlf(&self, piece: &[u8]) -> bool {
        match piece {
            [.., before, b'\n'] => *before == b'\r',
            _ => match &self.long {
                Some(long) => long.ends_in_cr,
                None => self.pending.ends_with(b"\r"),
            },
        }
    }

    fn swallow(&mut self, piece: &[u8], is_ended: bool) -> Reading {
        let reading = match &self.long {
            Some(long) => long.reading,
            None => self.long_line(piece),
        };
        let bytes = self.bytes() + piece.len();
        self.pending = Vec::new();
        if is_ended {
            self.long = None;
            return reading;
        }
        let was_in_cr = self.long.as_ref().is_some_and(|long| long.ends_in_cr);
        self.long = Some(LongLine {
            bytes,
            ends_in_cr: piece.last().map_or(was_in_cr, |&last| last == b'\r'),
            reading,
        });
        Reading::Partial
    }

    /// By its verb and the octet behind that.
    fn long_line(&mut self, piece: &[u8]) -> Reading {
        const TELLING_BYTES: usize = 5;
        let missing = TELLING_BYTES.saturating_sub(self.pending.len());
        self.pending
            .extend_from_slice(&piece[..missing.min(piece.len())]);
        let start = &self.pending[..self.pending.len().min(TELLING_BYTES)];
        if announces_chunk(start) {
            Reading::TooLongChunk
        } else if asks_for_data(start) {
            Reading::TooLongData
        } else {
            Reading::TooLong
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 8;

    fn readings(pieces: &[&[u8]]) -> Vec<(Reading, Vec<u8>)> {
        let mut reader = LineReader::default();
        let mut found = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (consumed, reading) = reader.read(rest, LIMIT);
                match reading {
                    Reading::Partial => {}
                    Reading::Whole => found.push((Reading::Whole, rest[..consumed].to_vec())),
                    Reading::Assembled => found.push((Reading::Whole, reader.take())),
                    Reading::TooLong | Reading::TooLongChunk | Reading::TooLongData => {
                        found.push((reading, Vec::new()))
                    }
                    _ => {
                        found.push((reading, Vec::new()));
                        return found;
                    }
                }
                rest = &rest[consumed..];
            }
        }
        found
    }

    fn everywhere(input: &[u8]) -> Vec<(Reading, Vec<u8>)> {
        let whole = readings(&[input]);
        for at in 0..=input.len() {
            let (head, tail) = input.split_at(at);
            assert_eq!(readings(&[head, tail]), whole, "cut at {at}");
        }
        let octets: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(readings(&octets), whole, "octet by octet");
        whole
    }

    fn kinds(input: &[u8]) -> Vec<Reading> {
        everywhere(input)
            .into_iter()
            .map(|(reading, _)| reading)
            .collect()
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let found = everywhere(b"NOOP\r\n\r\nA\rB\r\nQ");
        let lines: Vec<&[u8]> = found.iter().map(|(_, line)| &line[..]).collect();
        assert_eq!(lines, [&b"NOOP\r\n"[..], b"\r\n", b"A\rB\r\n"]);
    }

    #[test]
    fn bare_lf_ends_no_line() {
        assert_eq!(kinds(b"NOOP\nQUIT\r\n"), [Reading::BareLf]);
        assert_eq!(kinds(b"\nQUIT\r\n"), [Reading::BareLf]);
        assert_eq!(kinds(b"A\r\n\nQUIT\r\n"), [Reading::Whole, Reading::BareLf]);
        assert_eq!(kinds(b"123456789\nQUIT\r\n"), [Reading::BareLf]);
    }

    #[test]
    fn long_lines_are_swallowed_to_their_end() {
        assert_eq!(
            kinds(b"123456\r\n1234567\r\nA\r\n"),
            [Reading::Whole, Reading::TooLong, Reading::Whole]
        );
        assert_eq!(kinds(b"bdat 1234\r\nA"), [Reading::TooLongChunk]);
        assert_eq!(kinds(b"data     \r\nA"), [Reading::TooLongData]);
        assert_eq!(kinds(b"database \r\nA"), [Reading::TooLong]);
    }

    #[test]
    fn endless_line() {
        let mut input = vec![b'a'; LIMIT + LINE_SWALLOWED_BYTES_MAX + 1];
        assert_eq!(readings(&[&input]).len(), 1);
        let (head, tail) = input.split_at(5000);
        assert_eq!(readings(&[head, tail])[0].0, Reading::Endless);
        input.extend_from_slice(b"\r\n");
        assert_eq!(readings(&[&input])[0].0, Reading::Endless);
    }

    #[test]
    fn client_hello_is_not_smtp() {
        assert_eq!(kinds(b"\x16\x03\x01\x02\x00"), [Reading::NotSmtp]);
    }
}
