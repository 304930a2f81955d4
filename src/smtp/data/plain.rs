//! Content without anything odd, found many octets at a time.

use multiversion::multiversion;

/// Body text is looked at in blocks of so many octets; those that are plain need no further look, the
/// lines of others do. With fewer the loop over blocks costs more than what it spares.
pub const BLOCK_BYTES: usize = 128;

/// What [`plain_prefix`] found.
pub struct Plain {
    pub bytes: usize,
    /// Lines that begin with a stuffed dot.
    pub stuffed_lines: i64,
}

/// The longest prefix, of whole blocks and no longer than `bytes_max`, without NUL, bare CR, bare
/// LF (but perhaps as its first octet) and line that begins with a dot, unless dots are stuffed and
/// the line goes on behind it. The octet behind the prefix was looked at too: it is LF if and only
/// if the prefix ends with CR, and is not counted if it is a dot behind LF.
///
/// Compiled twice, because content on its way in spends most of the scan here: the compiler makes
/// vectors of it, and those of AVX2 are twice as wide as what every x86-64 has.
#[multiversion(targets("x86_64+avx2"))]
pub fn plain_prefix(text: &[u8], bytes_max: usize, dots_are_stuffed: bool) -> Plain {
    let mut plain = Plain {
        bytes: 0,
        stuffed_lines: 0,
    };
    let (Some(next), Some(after_next)) = (text.get(1..), text.get(2..)) else {
        return plain;
    };
    let (octets, _) = text[..bytes_max.min(after_next.len())].as_chunks::<BLOCK_BYTES>();
    let (nexts, _) = next.as_chunks::<BLOCK_BYTES>();
    let (thirds, _) = after_next.as_chunks::<BLOCK_BYTES>();
    for ((octets, nexts), thirds) in octets.iter().zip(nexts).zip(thirds) {
        let Some(dotted_lines) = dotted_lines_if_plain(octets, nexts, thirds) else {
            break;
        };
        if dotted_lines > 0 && !dots_are_stuffed {
            break;
        }
        plain.bytes += BLOCK_BYTES;
        plain.stuffed_lines += i64::from(dotted_lines);
    }
    let ends_before_dot = plain.bytes > 0 && text[plain.bytes - 1..].starts_with(b"\n.");
    plain.stuffed_lines -= i64::from(ends_before_dot);
    plain
}

/// How many octets are an LF before a dot, if nothing is odd. `nexts` has each octet's successor,
/// `thirds` the one after, which matters only where there is such a line.
#[inline(always)]
fn dotted_lines_if_plain(
    octets: &[u8; BLOCK_BYTES],
    nexts: &[u8; BLOCK_BYTES],
    thirds: &[u8; BLOCK_BYTES],
) -> Option<u8> {
    match has_dotted_lines_if_plain(octets, nexts)? {
        true => dotted_lines_if_text(octets, nexts, thirds),
        false => Some(0),
    }
}

/// Whether some octet is an LF before a dot, if line ends are CRLF and there is no NUL. Without a branch, so that the compiler makes vector instructions of it.
#[inline(always)]
fn has_dotted_lines_if_plain(
    octets: &[u8; BLOCK_BYTES],
    nexts: &[u8; BLOCK_BYTES],
) -> Option<bool> {
    let mut odd = 0;
    let mut dotted = 0;
    for (&octet, &next) in octets.iter().zip(nexts) {
        odd |= u8::from(octet == b'\r') ^ u8::from(next == b'\n');
        odd |= u8::from(octet == 0);
        dotted |= u8::from(octet == b'\n') & u8::from(next == b'.');
    }
    (odd == 0).then_some(dotted != 0)
}

/// How many octets are an LF before a dot, if none of those dots ends its line. Without a branch,
/// like the other.
#[inline(always)]
fn dotted_lines_if_text(
    octets: &[u8; BLOCK_BYTES],
    nexts: &[u8; BLOCK_BYTES],
    thirds: &[u8; BLOCK_BYTES],
) -> Option<u8> {
    let mut odd = 0;
    let mut lines = 0;
    for ((&octet, &next), &third) in octets.iter().zip(nexts).zip(thirds) {
        let is_dotted = u8::from(octet == b'\n') & u8::from(next == b'.');
        odd |= is_dotted & (u8::from(third == b'\r') | u8::from(third == b'\n'));
        lines += is_dotted;
    }
    (odd == 0).then_some(lines)
}
