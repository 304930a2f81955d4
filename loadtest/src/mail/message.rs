//! The messages: how the source makes them, and how the sink checks them.
//!
//! Every message begins with `X-Ledger-Id: <run>-<n>`, so that a relay's lines in front can be told
//! apart. It carries `X-Ledger-Due` (when it should have been sent, microseconds since 1970), and its
//! header ends with `X-Ledger-Sum`: CRC-32 and number of bytes of the body, before dot-stuffing, and
//! CRC-32 of the header up to these three. The body begins with the id, so that a body under a wrong header is noticed, and
//! many of its lines begin with dots, so that a relay's dot-stuffing is put to work.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use crc32fast::Hasher;
use memchr::memmem;

use crate::host::random::Random;
use crate::mail::address::Addressing;
use crate::options::values::Range;

/// Filler that bodies are cut from. Small enough to stay in a core's second-level cache.
const POOL_BYTES: usize = 256 << 10;
/// The longest filler line, with its CRLF.
const LINE_BYTES_MAX: usize = 80;
/// The sink looks for its header lines in this many bytes and no further.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Bytes of a bounce's body that the sink keeps to read its report.
const REPORT_BYTES_MAX: usize = 256 << 10;

/// Lines of filler, once as content and once as they look on the wire after DATA.
pub struct Pool {
    content: Vec<u8>,
    wire: Vec<u8>,
    /// Where line k begins in `content` and in `wire`; one more entry marks the end.
    starts: Vec<(usize, usize)>,
}

impl Pool {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::stream(seed, 1);
        let mut pool = Self {
            content: Vec::new(),
            wire: Vec::new(),
            starts: vec![(0, 0)],
        };
        while pool.content.len() < POOL_BYTES {
            let line = random_line(&mut random);
            pool.content.extend_from_slice(&line);
            if line[0] == b'.' {
                pool.wire.push(b'.');
            }
            pool.wire.extend_from_slice(&line);
            pool.starts.push((pool.content.len(), pool.wire.len()));
        }
        pool
    }

    /// The longest run of whole lines from line `first` that fits into `bytes` of content.
    fn lines_that_fit(&self, first: usize, bytes: usize) -> usize {
        let limit = self.starts[first].0 + bytes;
        self.starts[first..].partition_point(|start| start.0 <= limit) - 1 + first
    }
}

fn random_line(random: &mut Random) -> Vec<u8> {
    const TEXT: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,.-=";
    let mut line = match random.between(0, 31) {
        0 => b".".to_vec(),
        1 => b"..".to_vec(),
        2 => b". ".to_vec(),
        3 | 4 => b".x".to_vec(),
        _ => Vec::new(),
    };
    if line.is_empty() || line == b".x" {
        for _ in 0..random.between(1, LINE_BYTES_MAX as u64 - 4) {
            line.push(TEXT[random.between(0, TEXT.len() as u64 - 1) as usize]);
        }
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// Which form of a message is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Dot-stuffed, with the terminating `.` line: what follows a 354.
    Data,
    /// The content as it is: what follows BDAT.
    Content,
}

/// Makes message `n` of a run, always the same one.
#[derive(Clone)]
pub struct Composer {
    pub addressing: Addressing,
    pool: Arc<Pool>,
    size: Range,
    seed: u64,
    date: String,
}

impl Composer {
    /// `date` is the value of the `Date:` header; `size` is that of the content in bytes.
    pub fn new(addressing: Addressing, size: Range, seed: u64, date: String) -> Self {
        Self {
            addressing,
            pool: Arc::new(Pool::new(seed)),
            size,
            seed,
            date,
        }
    }

    /// Appends message `n` to `out` and returns the bytes of its content.
    pub fn write(&self, n: u64, due_us: u64, form: Form, out: &mut Vec<u8>) -> usize {
        let mut random = Random::stream(self.seed, n.wrapping_add(2));
        let size = random.between(self.size.low, self.size.high) as usize;
        let first_line = random.between(0, self.pool.starts.len() as u64 - 2) as usize;
        let header_at = out.len();
        self.write_header(n, due_us, out);
        // The sum is only known when the body is there; its digits are put in afterwards.
        let sum_at = out.len() - SUM_BLANK.len();
        let header_bytes = out.len() - header_at;
        let id_line = format!("ledger {}-{n}\r\n", self.addressing.run);
        out.extend_from_slice(id_line.as_bytes());
        let mut hasher = Hasher::new();
        hasher.update(id_line.as_bytes());
        let filler = size.saturating_sub(header_bytes + id_line.len()).max(2);
        self.write_filler(first_line, filler, form, &mut hasher, out);
        let body_bytes = id_line.len() + filler;
        let header_sum = crc32fast::hash(&out[header_at..sum_at]);
        let body_sum = hasher.finalize();
        let sum = format!("{body_sum:08x} {body_bytes:010} {header_sum:08x}\r\n\r\n");
        out[sum_at..sum_at + SUM_BLANK.len()].copy_from_slice(sum.as_bytes());
        if form == Form::Data {
            out.extend_from_slice(b".\r\n");
        }
        header_bytes + body_bytes
    }

    fn write_header(&self, n: u64, due_us: u64, out: &mut Vec<u8>) {
        let run = &self.addressing.run;
        let _ = write!(out, "X-Ledger-Id: {run}-{n}\r\nFrom: <");
        self.addressing.write_sender(n, out);
        out.extend_from_slice(b">\r\nTo: <");
        self.addressing.write_recipient(n, 0, out);
        let _ = write!(
            out,
            ">\r\nSubject: ledger {run}-{n}\r\nDate: {}\r\nMessage-ID: <{n}.{run}@loadtest.test>\r\n\
             X-Ledger-Due: {due_us}\r\nX-Ledger-Sum: {SUM_BLANK}",
            self.date
        );
    }

    /// Appends exactly `bytes` (at least 2) of content: whole lines, then one of the length left.
    fn write_filler(
        &self,
        mut line: usize,
        bytes: usize,
        form: Form,
        hasher: &mut Hasher,
        out: &mut Vec<u8>,
    ) {
        let pool = &*self.pool;
        let mut left = bytes - 2;
        loop {
            let end = pool.lines_that_fit(line, left);
            let content = &pool.content[pool.starts[line].0..pool.starts[end].0];
            hasher.update(content);
            out.extend_from_slice(match form {
                Form::Content => content,
                Form::Data => &pool.wire[pool.starts[line].1..pool.starts[end].1],
            });
            left -= content.len();
            if end + 1 < pool.starts.len() {
                break;
            }
            line = 0;
        }
        let last_line_at = out.len();
        out.resize(last_line_at + left, b'e');
        out.extend_from_slice(b"\r\n");
        hasher.update(&out[last_line_at..]);
    }
}

/// Place of `X-Ledger-Sum`'s value and the empty line after the header.
const SUM_BLANK: &str = "00000000 0000000000 00000000\r\n\r\n";

/// What the sink found in a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub mark: Option<Mark>,
    /// The body is as long as the header says and has its checksum, and so have the header lines that
    /// were sent; others may only stand before them.
    pub intact: bool,
    /// Bytes of the content.
    pub bytes: u64,
    /// The body, if it was to be kept.
    pub body: Vec<u8>,
}

/// The ledger's lines in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub run: String,
    pub n: u64,
    pub due_us: u64,
    sum: u32,
    body_bytes: u64,
    header_intact: bool,
}

/// A line that begins with a dot. Built once: building it costs as much as a search.
static STUFFED: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\r\n."));

/// Reads what follows a 354, up to and including `<CRLF>.<CRLF>`; or, by `take`, the content of BDAT.
#[derive(Default)]
pub struct DataReader {
    /// Invariant: what was consumed so far does not end within a line.
    within_line: bool,
    in_body: bool,
    header: Vec<u8>,
    hasher: Hasher,
    body_bytes: u64,
    bytes: u64,
    /// Bytes of body that are still to be kept.
    keep: usize,
    body: Vec<u8>,
}

impl DataReader {
    /// `keep_body`: the body is wanted afterwards (bounces), up to a bound.
    pub fn new(keep_body: bool) -> Self {
        Self {
            keep: if keep_body { REPORT_BYTES_MAX } else { 0 },
            ..Self::default()
        }
    }

    /// Takes a prefix of `input` and says how long it was and whether the data ended with it.
    /// What is left must be offered again, with more behind it.
    pub fn consume(&mut self, input: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            if !self.within_line && rest[0] == b'.' {
                if rest.starts_with(b".\r\n") {
                    return (at + 3, true);
                }
                if b".\r\n".starts_with(rest) {
                    return (at, false);
                }
                self.within_line = true;
                at += 1;
                continue;
            }
            let found = STUFFED.find(rest).map(|position| position + 2);
            let upto = found.unwrap_or_else(|| without_trailing_cr(rest));
            self.take(&rest[..upto]);
            at += upto;
            if upto > 0 {
                self.within_line = !rest[..upto].ends_with(b"\r\n");
            }
            if found.is_none() {
                return (at, false);
            }
        }
        (at, false)
    }

    /// More of the content, without dot-stuffing.
    pub fn take(&mut self, content: &[u8]) {
        self.bytes += content.len() as u64;
        if self.in_body {
            return self.take_body(content);
        }
        let search_from = self.header.len().saturating_sub(3);
        self.header.extend_from_slice(content);
        if let Some(position) = memmem::find(&self.header[search_from..], b"\r\n\r\n") {
            let body = self.header.split_off(search_from + position + 4);
            self.in_body = true;
            self.take_body(&body);
        } else if self.header.len() > HEADER_BYTES_MAX {
            self.in_body = true;
        }
    }

    fn take_body(&mut self, content: &[u8]) {
        self.hasher.update(content);
        self.body_bytes += content.len() as u64;
        if self.keep > 0 {
            let kept = content.len().min(self.keep);
            self.body.extend_from_slice(&content[..kept]);
            self.keep -= kept;
        }
    }

    /// The verdict, after `consume` said that the data ended.
    pub fn finish(self) -> Found {
        let mark = parse_mark(&self.header);
        let sum = self.hasher.finalize();
        let intact = mark
            .as_ref()
            .is_some_and(|m| m.header_intact && m.sum == sum && m.body_bytes == self.body_bytes);
        Found {
            mark,
            intact,
            bytes: self.bytes,
            body: self.body,
        }
    }
}

/// A CR at the end may be the beginning of an end of data; it waits for what follows.
fn without_trailing_cr(input: &[u8]) -> usize {
    input.len() - usize::from(input.ends_with(b"\r"))
}

fn parse_mark(header: &[u8]) -> Option<Mark> {
    const FIRST: &[u8] = b"X-Ledger-Id: ";
    let own_at = match header.starts_with(FIRST) {
        true => 0,
        false => memmem::find(header, b"\nX-Ledger-Id: ")? + 1,
    };
    let own = &header[own_at..];
    let value_at = |name: &[u8]| Some(memmem::find(own, name)? + name.len());
    let value = |start: usize| {
        let length = memchr::memchr(b'\r', &own[start..])?;
        std::str::from_utf8(&own[start..start + length]).ok()
    };
    let (run, n) = value(FIRST.len())?.split_once('-')?;
    let sum_at = value_at(b"\nX-Ledger-Sum: ")?;
    let sums = value(sum_at)?;
    let (sum, rest) = sums.split_once(' ')?;
    let (body_bytes, header_sum) = rest.split_once(' ')?;
    let hash = crc32fast::hash(&own[..sum_at]);
    // Nothing may follow the sums but the empty line.
    let is_last = own.len() == sum_at + sums.len() + 4 && own.ends_with(b"\r\n\r\n");
    Some(Mark {
        run: run.to_string(),
        n: n.parse().ok()?,
        due_us: value(value_at(b"\nX-Ledger-Due: ")?)?.parse().ok()?,
        sum: u32::from_str_radix(sum, 16).ok()?,
        body_bytes: body_bytes.parse().ok()?,
        header_intact: is_last && u32::from_str_radix(header_sum, 16) == Ok(hash),
    })
}

/// The recipients that a delivery report (RFC 3464) says have failed for good.
pub fn failed_recipients(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    let mut failed = Vec::new();
    let mut recipient = None;
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("Final-Recipient") {
            recipient = value
                .split_once(';')
                .map(|(_, address)| address.trim().to_string());
        } else if name.eq_ignore_ascii_case("Action") && value.trim() == "failed" {
            failed.extend(recipient.take());
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::tests::source_options;

    fn composer(size: &str) -> Composer {
        let options = source_options(&format!("--size {size}"));
        let addressing = Addressing::new("r1", &options).unwrap();
        Composer::new(
            addressing,
            options.size,
            7,
            "Thu, 01 Jan 1970 00:00:00 +0000".into(),
        )
    }

    /// Feeds `wire` in pieces of the given length, as a socket would.
    fn read_in_pieces(wire: &[u8], piece: usize) -> Found {
        let mut reader = DataReader::new(false);
        let mut waiting = Vec::new();
        for part in wire.chunks(piece) {
            waiting.extend_from_slice(part);
            let (consumed, ended) = reader.consume(&waiting);
            waiting.drain(..consumed);
            if ended {
                assert!(waiting.is_empty());
                return reader.finish();
            }
        }
        panic!("the data did not end");
    }

    #[test]
    fn a_message_is_read_back_however_it_is_split() {
        let composer = composer("4000-6000");
        for n in 0..20 {
            let mut wire = Vec::new();
            let bytes = composer.write(n, 5, Form::Data, &mut wire);
            for piece in [1, 2, 3, 7, 64, 1000, wire.len()] {
                let found = read_in_pieces(&wire, piece);
                assert!(found.intact, "message {n} in pieces of {piece}");
                assert_eq!(found.bytes, bytes as u64);
                let mark = found.mark.unwrap();
                assert_eq!((mark.run.as_str(), mark.n, mark.due_us), ("r1", n, 5));
            }
        }
    }

    #[test]
    fn the_size_is_exact_and_both_forms_have_the_same_sum() {
        for size in ["512", "513", "10k", "600000"] {
            let composer = composer(size);
            let (mut data, mut content) = (Vec::new(), Vec::new());
            let bytes = composer.write(3, 5, Form::Data, &mut data);
            composer.write(3, 5, Form::Content, &mut content);
            assert_eq!(bytes, composer.size.low as usize);
            assert_eq!(content.len(), bytes);
            let stuffed = stuff(&content);
            assert_eq!(stuffed, data);
            assert!(read_in_pieces(&data, 4096).intact);
        }
    }

    /// Dot-stuffing written a second time, line by line.
    fn stuff(content: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        for line in content.split_inclusive(|&b| b == b'\n') {
            wire.extend_from_slice(if line[0] == b'.' { b"." } else { b"" });
            wire.extend_from_slice(line);
        }
        wire.extend_from_slice(b".\r\n");
        wire
    }

    #[test]
    fn one_changed_byte_or_a_lost_dot_is_noticed() {
        let mut wire = Vec::new();
        composer("10k").write(1, 5, Form::Data, &mut wire);
        let body_at = memmem::find(&wire, b"\r\n\r\n").unwrap() + 4;
        let mut changed = wire.clone();
        changed[body_at + 3000] ^= 1;
        assert!(!read_in_pieces(&changed, 512).intact);
        let dots = memmem::find(&wire[body_at..], b"\r\n..x").unwrap() + body_at + 2;
        let mut lost_dot = wire.clone();
        lost_dot.remove(dots);
        assert!(!read_in_pieces(&lost_dot, 512).intact);
        let mut more_dots = wire.clone();
        more_dots.insert(dots, b'.');
        assert!(!read_in_pieces(&more_dots, 512).intact);
    }

    #[test]
    fn a_header_added_in_front_changes_nothing() {
        let mut wire = b"Received: from a.test\r\n by b.test; now\r\n".to_vec();
        composer("1k").write(9, 5, Form::Data, &mut wire);
        let found = read_in_pieces(&wire, 100);
        assert!(found.intact);
        assert_eq!(found.mark.unwrap().n, 9);
    }

    #[test]
    fn canary_a_header_line_changed_added_behind_or_taken_away_is_noticed() {
        let mut wire = Vec::new();
        composer("1k").write(9, 5, Form::Data, &mut wire);
        let text = String::from_utf8(wire).unwrap();
        let changes = [
            ("Subject: ledger", "Subject: Ledger"),
            ("Subject: ", "Subject:\t"),
            ("\r\nDate: ", "\r\nX-New: a\r\nDate: "),
            ("\r\n\r\n", "\r\nX-New: a\r\n\r\n"),
            ("X-Ledger-Due: 5", "X-Ledger-Due: 6"),
            ("X-Ledger-Id: r1-9", "X-Ledger-Id: r1-8"),
        ];
        for (from, to) in changes {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            let found = read_in_pieces(changed.as_bytes(), 64);
            assert!(found.mark.is_some() && !found.intact, "{from:?}");
        }
        let message_id_at = text.find("Message-ID:").unwrap();
        let end = message_id_at + text[message_id_at..].find('\n').unwrap() + 1;
        let without = format!("{}{}", &text[..message_id_at], &text[end..]);
        assert!(!read_in_pieces(without.as_bytes(), 64).intact);
    }

    #[test]
    fn a_report_names_only_what_failed() {
        let report = b"text\r\n\r\nFinal-Recipient: rfc822; a@b.test\r\nAction: failed\r\n\r\n\
            Final-Recipient: rfc822;c@d.test\r\nAction: delayed\r\n";
        assert_eq!(failed_recipients(report), ["a@b.test"]);
    }
}
