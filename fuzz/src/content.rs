//! Message content, by DATA and by BDAT, against a reading of the whole that is as plain as the table
//! in `smtp/data.rs`; and independent of the cuts.

use ringpost::smtp::data::{BareLineEnds, Content, Progress, Rules, Scanner, Swallowed, Violation};

use super::{Cuts, assert_wire_form, option, same_for_all_cuts};

/// How content ends. `None`: it goes on.
type End = Option<Result<Whole, Violation>>;

#[derive(PartialEq, Eq, Debug)]
struct Whole {
    body: Vec<u8>,
    content: Content,
    /// Octets of the input that belong to it.
    consumed: usize,
}

pub fn run(mut input: &[u8]) {
    let options = option(&mut input);
    let seed = option(&mut input);
    let rules = Rules {
        bare_line_ends: match options & 1 {
            0 => BareLineEnds::Refuse,
            _ => BareLineEnds::Normalise,
        },
        message_bytes_max: [u64::MAX >> 1, 200][usize::from(options >> 1 & 1)],
        line_bytes_max: [1 << 20, 40][usize::from(options >> 2 & 1)],
        hops_max: [100, 2][usize::from(options >> 3 & 1)],
    };
    let is_chunked = options >> 4 & 1 == 1;
    let is_behind_field = options >> 5 & 1 == 1;
    let new = || {
        let scanner = match is_chunked {
            true => Scanner::for_chunks(rules),
            false => Scanner::for_data(rules),
        };
        match is_behind_field {
            true => scanner.behind_field(),
            false => scanner,
        }
    };
    let found = same_for_all_cuts(seed, |cuts| scan(new(), is_chunked, cuts, input));
    let is_separated = is_behind_field && needs_separation(input);
    let expected = reference(rules, is_chunked, is_separated, input);
    assert_eq!(found, expected, "{rules:?}");
    if let Some(Ok(whole)) = &found {
        assert_wire_form(&whole.body);
    }
}

fn scan(mut scanner: Scanner, is_chunked: bool, cuts: Cuts, input: &[u8]) -> End {
    let mut body = Vec::new();
    let mut consumed = 0;
    for piece in cuts.pieces(input) {
        let (octets, progress) = scanner.feed(piece, &mut body);
        consumed += octets;
        match progress {
            Progress::More => assert_eq!(octets, piece.len()),
            Progress::End => return Some(Ok(whole(&scanner, body, consumed))),
            Progress::Refused(violation) => {
                swallow(scanner, cuts, &input[consumed..]);
                return Some(Err(violation));
            }
        }
        assert!(body.len() <= 2 * consumed + 4);
    }
    if !is_chunked {
        return None;
    }
    Some(match scanner.finish_chunks(&mut body) {
        Ok(()) => Ok(whole(&scanner, body, consumed)),
        Err(violation) => Err(violation),
    })
}

fn whole(scanner: &Scanner, body: Vec<u8>, consumed: usize) -> Whole {
    Whole {
        body,
        content: scanner.content(),
        consumed,
    }
}

/// What is refused goes to an end that the sender means, or to a sign that it means another.
fn swallow(scanner: Scanner, cuts: Cuts, rest: &[u8]) {
    let mut swallower = scanner.into_swallower();
    let mut at = 0;
    for piece in cuts.pieces(rest) {
        let (consumed, swallowed) = swallower.feed(piece);
        at += consumed;
        match swallowed {
            Swallowed::More => assert_eq!(consumed, piece.len()),
            Swallowed::End => return assert!(b"\r\n.\r\n".ends_with(tail(&rest[..at], 5))),
            Swallowed::FalseEnd => return,
        }
    }
}

fn tail(text: &[u8], octets: usize) -> &[u8] {
    &text[text.len().saturating_sub(octets)..]
}

/// A line of the input: its text without the line end, and what ended it.
struct Line {
    text: Vec<u8>,
    end: LineEnd,
    /// The last of the text is a space that was a CR.
    ends_in_cr: bool,
    /// Octets of the input up to the end of the line.
    until: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LineEnd {
    Crlf,
    /// More than one CR, and LF. Ends in CRLF too.
    CrsLf,
    Lf,
    /// The line stops here: input is over (with or without CRs held back), or something is wrong.
    Over {
        held_crs: usize,
    },
    Wrong(Violation),
}

/// The line ends here, however it is written.
fn is_taken(end: LineEnd) -> bool {
    matches!(end, LineEnd::Crlf | LineEnd::CrsLf | LineEnd::Lf)
}

/// Content that would continue a field in front of it, or be taken for one.
fn needs_separation(input: &[u8]) -> bool {
    let crs = input.iter().take_while(|&&octet| octet == b'\r').count();
    let rest = &input[crs..];
    if rest.first() == Some(&b'\n') || crs > 0 {
        return rest.first().is_some_and(|&octet| octet != b'\n');
    }
    let is_mailbox_line = rest.starts_with(b"From ") || rest.starts_with(b">From ");
    let name = rest.split(|&octet| octet == b':').next().unwrap_or(rest);
    let has_colon = name.len() < rest.len() && name.len() <= 256;
    let is_name = name.trim_ascii_end().iter().all(u8::is_ascii_graphic)
        && name
            .iter()
            .all(|octet| octet.is_ascii_graphic() || b" \t".contains(octet))
        && name.first().is_some_and(|octet| !b". \t".contains(octet));
    !(is_mailbox_line || has_colon && is_name)
}

/// One line after the other, each looked at whole, with the first rule that it breaks.
fn reference(rules: Rules, is_chunked: bool, is_separated: bool, input: &[u8]) -> End {
    let separator: &[u8] = if is_separated { b"\r\n" } else { b"" };
    let mut whole = Whole {
        body: separator.to_vec(),
        content: Content::default(),
        consumed: 0,
    };
    let mut in_header = !is_separated;
    let mut after_crlf = true;
    loop {
        let line = next_line(rules, &input[whole.consumed..]);
        whole.content.is_8bit |= !line.text.is_ascii();
        let is_lone_dot = !is_chunked && line.text == b".";
        if is_lone_dot && after_crlf && line.end == LineEnd::Crlf {
            whole.consumed += line.until;
            whole.body.extend_from_slice(b".\r\n");
            return Some(Ok(whole));
        }
        let is_ended = is_taken(line.end);
        let text = match line.text.strip_prefix(b".") {
            Some(_) if is_lone_dot && is_ended => &line.text[..],
            Some(rest) if !is_chunked => rest,
            _ => &line.text,
        };
        whole.content.header_is_8bit |= in_header && !line.text.is_ascii();
        if in_header && is_received_field(&line.text) {
            whole.content.hops += 1;
        }
        if let Some(violation) = broken(rules, &whole.content, text, &line, is_lone_dot) {
            return Some(Err(violation));
        }
        in_header &= !text.is_empty();
        after_crlf = matches!(line.end, LineEnd::Crlf | LineEnd::CrsLf);
        whole.consumed += line.until;
        if is_ended {
            // A dot that was needless is kept: the next hop takes it off.
            take(&mut whole, text, !is_chunked && line.text.starts_with(b"."));
            continue;
        }
        return is_chunked.then(|| finish(rules, whole, text, line.end));
    }
}

fn is_received_field(text: &[u8]) -> bool {
    text.get(..9)
        .is_some_and(|name| name.eq_ignore_ascii_case(b"received:"))
}

/// In wire form.
fn take(whole: &mut Whole, text: &[u8], has_dot: bool) {
    if has_dot || text.starts_with(b".") {
        whole.body.push(b'.');
    }
    whole.body.extend_from_slice(text);
    whole.body.extend_from_slice(b"\r\n");
    whole.content.message_bytes += text.len() as u64 + 2;
}

fn finish(rules: Rules, mut whole: Whole, text: &[u8], end: LineEnd) -> Result<Whole, Violation> {
    let is_held = matches!(end, LineEnd::Over { held_crs: 1.. });
    if is_held && rules.bare_line_ends == BareLineEnds::Refuse {
        return Err(Violation::BareCr);
    }
    if is_held || !text.is_empty() {
        take(&mut whole, text, false);
    }
    whole.body.extend_from_slice(b".\r\n");
    Ok(whole)
}

fn broken(
    rules: Rules,
    before: &Content,
    text: &[u8],
    line: &Line,
    is_lone_dot: bool,
) -> Option<Violation> {
    let end_bytes = match line.end {
        LineEnd::Crlf | LineEnd::CrsLf | LineEnd::Lf => 2,
        // It may belong to the end of data, which is no content.
        LineEnd::Over { .. } | LineEnd::Wrong(_) if is_lone_dot => 0,
        LineEnd::Over { held_crs } => held_crs.min(1),
        LineEnd::Wrong(Violation::BareCr) => 1,
        LineEnd::Wrong(_) => 0,
    };
    let seen = text.len().min(rules.line_bytes_max);
    // What a CR became is kept although the line is full: the octet behind it is at fault.
    let fits_but_for_cr = line.ends_in_cr && text.len() == rules.line_bytes_max + 1;
    let is_too_long = text.len() > rules.line_bytes_max && !fits_but_for_cr;
    let has_too_many_hops = before.hops > rules.hops_max;
    let seen = match (has_too_many_hops, is_too_long) {
        (true, _) => b"received:".len(),
        (_, true) => seen,
        _ => seen + end_bytes,
    };
    if before.message_bytes + seen as u64 > rules.message_bytes_max {
        Some(Violation::TooLarge)
    } else if has_too_many_hops {
        Some(Violation::TooManyHops)
    } else if is_too_long {
        Some(Violation::LineTooLong)
    } else {
        match line.end {
            LineEnd::Wrong(violation) => Some(violation),
            _ => None,
        }
    }
}

fn next_line(rules: Rules, input: &[u8]) -> Line {
    let refuses = rules.bare_line_ends == BareLineEnds::Refuse;
    let mut text = Vec::new();
    let mut ends_in_cr = false;
    let mut at = 0;
    loop {
        let rest = &input[at..];
        let crs = rest.iter().take_while(|&&octet| octet == b'\r').count();
        let end = match (crs, rest.get(crs)) {
            (1, Some(b'\n')) => LineEnd::Crlf,
            (0, Some(0)) => LineEnd::Wrong(Violation::Nul),
            (0, Some(b'\n')) if refuses => LineEnd::Wrong(Violation::BareLf),
            (0..=1, None) => LineEnd::Over { held_crs: crs },
            (2.., None) | (1.., Some(_)) if refuses => LineEnd::Wrong(Violation::BareCr),
            (_, None) => LineEnd::Over { held_crs: crs },
            (0, Some(b'\n')) => LineEnd::Lf,
            (_, Some(b'\n')) => LineEnd::CrsLf,
            (0, Some(&octet)) => {
                text.push(octet);
                ends_in_cr = false;
                at += 1;
                continue;
            }
            (_, Some(_)) => {
                text.push(b' ');
                ends_in_cr = true;
                at += crs;
                continue;
            }
        };
        let ended = usize::from(is_taken(end));
        return Line {
            text,
            end,
            ends_in_cr,
            until: at + crs + ended,
        };
    }
}
