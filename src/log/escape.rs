//! Makes any text safe to stand in one line of a log.

use crate::text;
use std::fmt;

/// Escapes what passes through it, up to a number of bytes; then `...` and no more.
pub struct Escaper<'a> {
    out: &'a mut Vec<u8>,
    bytes_left: usize,
    full: bool,
    needs_quotes: bool,
}

impl<'a> Escaper<'a> {
    pub fn new(out: &'a mut Vec<u8>, is_quoted: bool, bytes_max: usize) -> Self {
        Escaper {
            out,
            bytes_left: bytes_max,
            full: false,
            needs_quotes: is_quoted,
        }
    }

    /// True if it was said so, or if a reader could not tell where the value ends.
    pub fn needs_quotes(&self) -> bool {
        self.needs_quotes
    }

    /// Bytes at the front of `text` that stand for themselves.
    fn plain_bytes(&self, text: &str) -> usize {
        let first_kind = match self.needs_quotes {
            true => SPECIAL,
            false => SPACING,
        };
        text.bytes()
            .position(|byte| KINDS[usize::from(byte)] >= first_kind)
            .unwrap_or(text.len())
    }

    fn special(&mut self, c: char) {
        self.needs_quotes = true;
        match c {
            '"' => self.out.extend_from_slice(b"\\\""),
            '\\' => self.out.extend_from_slice(b"\\\\"),
            '\n' => self.out.extend_from_slice(b"\\n"),
            '\r' => self.out.extend_from_slice(b"\\r"),
            '\t' => self.out.extend_from_slice(b"\\t"),
            c if is_deceptive(c) => self.escape_as_units(c),
            c => self
                .out
                .extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }

    /// `\u` and four digits for each UTF-16 unit, as JSON has it; text lines use the same.
    fn escape_as_units(&mut self, c: char) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for unit in c.encode_utf16(&mut [0; 2]) {
            self.out.extend_from_slice(b"\\u");
            for shift in [12, 8, 4, 0] {
                self.out.push(DIGITS[usize::from(*unit >> shift & 15)]);
            }
        }
    }

    /// The longest front of `text` that the bound still allows, whole characters only.
    fn allowed<'t>(&mut self, text: &'t str) -> &'t str {
        if text.len() <= self.bytes_left {
            self.bytes_left -= text.len();
            return text;
        }
        let front = text::front(text, self.bytes_left);
        self.bytes_left = 0;
        front
    }
}

impl fmt::Write for Escaper<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.full {
            return Ok(());
        }
        let allowed = self.allowed(text);
        let mut rest = allowed;
        if self.needs_quotes && is_plain(allowed.as_bytes()) {
            self.out.extend_from_slice(allowed.as_bytes());
            rest = "";
        }
        while let Some(c) = rest.chars().next() {
            let plain = self.plain_bytes(rest);
            if plain > 0 {
                self.out.extend_from_slice(&rest.as_bytes()[..plain]);
                rest = &rest[plain..];
            } else {
                self.special(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        if allowed.len() < text.len() {
            self.full = true;
            self.out.extend_from_slice(b"...");
        }
        Ok(())
    }
}

/// True if all of `text` stands for itself between quotes. Without branches, so that it is checked
/// many bytes at a time: most values are such.
fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, &byte| {
        plain & (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\')
    })
}

/// Stands for itself.
const PLAIN: u8 = 0;
/// Stands for itself between quotes.
const SPACING: u8 = 1;
/// Has to be looked at as a character.
const SPECIAL: u8 = 2;

static KINDS: [u8; 256] = {
    let mut kinds = [SPECIAL; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        kinds[byte as usize] = PLAIN;
        byte += 1;
    }
    kinds[b'"' as usize] = SPECIAL;
    kinds[b'\\' as usize] = SPECIAL;
    kinds[b' ' as usize] = SPACING;
    kinds[b'=' as usize] = SPACING;
    kinds
};

/// Control characters, and what makes text look like other text: invisible characters, marks
/// that turn the direction of writing, line and paragraph separators, tags.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}
