//! What the fuzz targets do with their input. The same functions run over the corpora as an ordinary
//! test (`tests/machines/fuzz_corpus.rs` of the relay), on a stable toolchain.
//!
//! A target returns if all is well and panics if not. Where the network decides how octets are cut,
//! the first of the input's octets choose cuts and settings, the rest is what the peer sends.

mod address;
mod certificate;
mod command;
mod config;
mod content;
mod mx;
mod relayed;
mod reply;
mod smtp_client;
mod smtp_server;
mod spool;
mod spool_record;
mod tls;

/// One target: its name, which is also its corpus's, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All there are. `fuzz_targets` has a program for each.
pub const TARGETS: [Target; 12] = [
    ("address", address::run),
    ("certificate", certificate::run),
    ("command", command::run),
    ("config", config::run),
    ("content", content::run),
    ("mx", mx::run),
    ("reply", reply::run),
    ("smtp_client", smtp_client::run),
    ("smtp_server", smtp_server::run),
    ("spool", spool::run),
    ("spool_record", spool_record::run),
    ("tls", tls::run),
];

/// Runs the target of this name.
pub fn run(name: &str, input: &[u8]) {
    let (_, target) = TARGETS
        .iter()
        .find(|(target, _)| *target == name)
        .unwrap_or_else(|| panic!("no target is called {name}"));
    target(input);
}

/// Stands between what a peer sends before and after something that it waits for, such as the 220
/// to STARTTLS. Neither UTF-8 nor anything that SMTP knows.
const FLIGHT_END: &[u8] = b"\xfe\xfe";

/// Splits off what is sent in one flight. The mark is left out.
fn flights(input: &[u8]) -> Vec<&[u8]> {
    let mut flights = Vec::new();
    let mut rest = input;
    while let Some(at) = rest
        .windows(FLIGHT_END.len())
        .position(|it| it == FLIGHT_END)
    {
        flights.push(&rest[..at]);
        rest = &rest[at + FLIGHT_END.len()..];
    }
    flights.push(rest);
    flights
}

/// Options at the start of an input; zero when it is too short.
fn option(input: &mut &[u8]) -> u8 {
    match input.split_first() {
        Some((&first, rest)) => {
            *input = rest;
            first
        }
        None => 0,
    }
}

/// How the network cuts a flight into pieces.
#[derive(Clone, Copy, Debug)]
enum Cuts {
    None,
    Octets,
    /// Pieces of 1 to 32 octets, drawn from this seed.
    Random(u8),
}

impl Cuts {
    /// Whole, octet by octet, and in pieces that the input chose.
    fn all(seed: u8) -> [Cuts; 3] {
        [Cuts::None, Cuts::Octets, Cuts::Random(seed)]
    }

    fn pieces(self, flight: &[u8]) -> Vec<&[u8]> {
        let mut state = match self {
            Cuts::None => return vec![flight],
            Cuts::Octets => return flight.chunks(1).collect(),
            Cuts::Random(seed) => u32::from(seed) * 2 + 1,
        };
        let mut pieces = Vec::new();
        let mut rest = flight;
        while !rest.is_empty() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let octets = 1 + (state >> 27) as usize;
            let (piece, after) = rest.split_at(octets.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}

/// Runs `with` for each way of cutting; all must come to the same.
fn same_for_all_cuts<T: PartialEq + std::fmt::Debug>(seed: u8, with: impl Fn(Cuts) -> T) -> T {
    let [whole, others @ ..] = Cuts::all(seed);
    let expected = with(whole);
    for cuts in others {
        assert_eq!(with(cuts), expected, "{cuts:?}");
    }
    expected
}

/// Printable ASCII or beyond ASCII, and nothing that a terminal or a log would obey.
fn is_printable(text: &str) -> bool {
    text.chars().all(|c| !c.is_control())
}

/// What may go to a next hop as a message: CRLF at the end of each line, no other CR or LF, no NUL,
/// and a dot alone on the last line only. Written as plainly as it can be.
fn assert_wire_form(body: &[u8]) {
    assert!(!body.contains(&0), "NUL");
    let text = body.strip_suffix(b"\r\n").expect("ends with CRLF");
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut octets = text.iter().copied();
    while let Some(octet) = octets.next() {
        match octet {
            b'\n' => panic!("bare LF"),
            b'\r' => {
                assert_eq!(octets.next(), Some(b'\n'), "bare CR");
                lines.push(std::mem::take(&mut line));
            }
            _ => line.push(octet),
        }
    }
    assert_eq!(line, b".", "the last line is the dot");
    assert!(
        lines.iter().all(|line| line != b"."),
        "a dot before the end"
    );
}

/// Each line a reply of RFC 5321 section 4.2: digits, separator, printable ASCII, CRLF, 512 octets.
fn assert_replies(out: &[u8]) -> usize {
    let text = std::str::from_utf8(out).expect("replies are ASCII");
    assert!(text.is_empty() || text.ends_with("\r\n"));
    let mut replies = 0;
    let mut open: Option<&str> = None;
    for line in text.split_terminator("\r\n") {
        assert!(line.len() <= 510, "{line}");
        assert!(
            line.bytes().all(|octet| matches!(octet, b' '..=b'~')),
            "{line:?}"
        );
        let (code, rest) = line.split_at(3);
        assert!(
            matches!(code.as_bytes(), [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9']),
            "{line}"
        );
        assert!(open.is_none_or(|open| open == code), "{line}");
        open = rest.starts_with('-').then_some(code);
        assert!(open.is_some() || rest.starts_with(' '), "{line}");
        replies += usize::from(open.is_none());
    }
    assert_eq!(open, None, "the last reply is whole");
    replies
}
