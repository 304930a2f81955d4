//! Lines of a report in wire form, and text that is encoded.

use super::Form;
use crate::text;

/// RFC 2045 section 6.7.
pub(super) const QUOTED_PRINTABLE: &str = "quoted-printable";
const FOLD_BYTES: usize = 76;
/// No word is longer on a line, so that no line exceeds the 998 bytes of RFC 5322 section 2.1.1.
pub(super) const WORD_BYTES_MAX: usize = 900;

/// Lines in wire form.
pub(super) struct Lines {
    pub out: Vec<u8>,
    pub form: Form,
    /// False for text that is not yet in wire form.
    stuffs: bool,
}

impl Lines {
    pub fn new(form: Form) -> Self {
        Lines {
            out: Vec::new(),
            form,
            stuffs: true,
        }
    }

    /// Text in any script, which goes into [`Lines::stuffed`] or [`quoted_printable`].
    pub fn text() -> Self {
        Lines {
            stuffs: false,
            ..Lines::new(Form::Global)
        }
    }

    /// `text` holds no control character but a tab that we put there.
    pub fn line(&mut self, text: &str) {
        if self.stuffs && text.starts_with('.') {
            self.out.push(b'.');
        }
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// Whole lines that are not in wire form.
    pub fn stuffed(&mut self, text: &[u8]) {
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            if line.starts_with(b".") {
                self.out.push(b'.');
            }
            self.out.extend_from_slice(line);
        }
    }

    /// A header field, folded at spaces.
    pub fn field(&mut self, name: &str, value: &str) {
        self.words(&format!("{name}:"), " ", value);
    }

    pub fn wrapped(&mut self, indent: &str, text: &str) {
        let mut words = text.splitn(2, ' ');
        let first = format!("{indent}{}", words.next().unwrap_or(""));
        if first.len() > WORD_BYTES_MAX {
            return self.words(indent, indent, text);
        }
        self.words(&first, indent, words.next().unwrap_or(""));
    }

    /// `start`, then `text` with further lines indented.
    fn words(&mut self, start: &str, indent: &str, text: &str) {
        let mut line = start.to_owned();
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            for piece in pieces(word) {
                let is_started = line.len() > indent.len();
                if is_started && line.len() + 1 + piece.len() > FOLD_BYTES {
                    self.line(&line);
                    line = format!("{indent}{piece}");
                } else {
                    if is_started {
                        line.push(' ');
                    }
                    line.push_str(piece);
                }
            }
        }
        self.line(&line);
    }
}

/// Cuts at characters into pieces of [`WORD_BYTES_MAX`].
pub(super) fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let piece = text::front(rest, WORD_BYTES_MAX);
        rest = &rest[piece.len()..];
        (!piece.is_empty()).then_some(piece)
    })
}

/// Appends whole lines of `text`, which is not in wire form, in quoted-printable. No line of it begins with a
/// dot or a hyphen: it needs no stuffing, and holds no delimiter of a MIME part.
pub(super) fn quoted_printable(text: &[u8], out: &mut Vec<u8>) {
    // With room for the sign that the line goes on.
    const LINE_BYTES_MAX: usize = 76 - 1;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        let mut line_bytes = 0;
        for (at, &byte) in line.iter().enumerate() {
            let is_last = at + 1 == line.len();
            let bytes_at = |line_bytes: usize| match byte {
                b'.' | b'-' if line_bytes > 0 => 1,
                b' ' | b'\t' if !is_last => 1,
                b'=' | b'.' | b'-' => 3,
                b'!'..=b'~' => 1,
                _ => 3,
            };
            if line_bytes + bytes_at(line_bytes) > LINE_BYTES_MAX {
                out.extend_from_slice(b"=\r\n");
                line_bytes = 0;
            }
            let bytes = bytes_at(line_bytes);
            match bytes {
                1 => out.push(byte),
                _ => out.extend_from_slice(format!("={byte:02X}").as_bytes()),
            }
            line_bytes += bytes;
        }
        out.extend_from_slice(b"\r\n");
    }
}
