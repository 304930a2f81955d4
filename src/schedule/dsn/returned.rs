//! What of an original goes back with a report, and in which form.

use super::lines::{QUOTED_PRINTABLE, quoted_printable};
use super::{
    Extent, FULL_BYTES_MAX, Form, HEADER_BYTES_MAX, Report, Reported, ReportedAction, returns_full,
};
use crate::smtp::data::unstuffed;
use std::borrow::Cow;

/// A boundary is at most 70 bytes (RFC 2046 section 5.1.1); this many of those handed in are used.
const BOUNDARY_BYTES_MAX: usize = 60;
/// How often another boundary is tried if the original has this one.
pub(super) const BOUNDARIES_MAX: u32 = 16;

/// The third part of a report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Returned<'a> {
    pub extent: Extent,
    pub media_type: &'static str,
    pub encoding: Option<&'static str>,
    /// Wire form without its end.
    pub wire: Cow<'a, [u8]>,
}

const NOTHING: Returned<'static> = Returned {
    extent: Extent::Nothing,
    media_type: "",
    encoding: None,
    wire: Cow::Borrowed(&[]),
};

impl<'a> Returned<'a> {
    /// As much as is due and at hand, up to `most`.
    pub fn choose(report: &Report<'a>, form: Form, most: Extent) -> Self {
        let whole = match most {
            Extent::Whole => Self::whole(report, form),
            _ => None,
        };
        whole.unwrap_or_else(|| match most {
            Extent::Nothing => NOTHING,
            _ => Self::headers(report, form),
        })
    }

    /// `None`: not due, not at hand, or in no form that the taker can take.
    fn whole(report: &Report<'a>, form: Form) -> Option<Self> {
        let wire = report.original.wire;
        let failed = |reported: &Reported<'_>| reported.action == ReportedAction::Failed;
        let is_due = returns_full(report.envelope, report.recipients.iter().any(failed));
        if !is_due || !report.original.is_whole || wire.len() > FULL_BYTES_MAX {
            return None;
        }
        let content = wire.strip_suffix(b".\r\n")?;
        if !is_wire_form(content) {
            return None;
        }
        let has_utf8_header = report.envelope.smtputf8 && !header_section(content).is_ascii();
        let as_it_is = |media_type, encoding| Returned {
            extent: Extent::Whole,
            media_type,
            encoding,
            wire: Cow::Borrowed(content),
        };
        match form {
            Form::Global if !content.is_ascii() => Some(as_it_is("message/global", Some("8bit"))),
            _ if content.is_ascii() => Some(as_it_is("message/rfc822", None)),
            _ if report.taker.eight_bit_mime && !has_utf8_header => {
                Some(as_it_is("message/rfc822", Some("8bit")))
            }
            // RFC 2046 lets message/rfc822 have no encoding; RFC 6532 section 3.7 lets this.
            _ if str::from_utf8(content).is_ok() => {
                Some(Self::encoded(Extent::Whole, "message/global", content))
            }
            _ => None,
        }
    }

    fn headers(report: &Report<'a>, form: Form) -> Self {
        let headers = header_section(report.original.wire);
        if headers.is_empty() || !is_wire_form(headers) {
            return NOTHING;
        }
        let is_utf8 = report.envelope.smtputf8 && str::from_utf8(headers).is_ok();
        let media_type = match !headers.is_ascii() && is_utf8 {
            true => "message/global-headers",
            false => "text/rfc822-headers",
        };
        if !headers.is_ascii() && form == Form::Ascii {
            return Self::encoded(Extent::Headers, media_type, headers);
        }
        Returned {
            extent: Extent::Headers,
            media_type,
            encoding: (!headers.is_ascii()).then_some("8bit"),
            wire: Cow::Borrowed(headers),
        }
    }

    fn encoded(extent: Extent, media_type: &'static str, wire: &[u8]) -> Self {
        let mut encoded = Vec::with_capacity(wire.len() + wire.len() / 4);
        quoted_printable(&unstuffed(wire), &mut encoded);
        Returned {
            extent,
            media_type,
            encoding: Some(QUOTED_PRINTABLE),
            wire: Cow::Owned(encoded),
        }
    }
}

/// Up to the empty line, the end of the data, or the bound; whole lines.
fn header_section(wire: &[u8]) -> &[u8] {
    let wire = &wire[..wire.len().min(HEADER_BYTES_MAX)];
    let mut end = 0;
    for line in wire.split_inclusive(|&byte| byte == b'\n') {
        if !line.ends_with(b"\r\n") || line == b"\r\n" || line == b".\r\n" {
            break;
        }
        end += line.len();
    }
    &wire[..end]
}

/// The spool promises it. Returned content that breaks the promise is left out rather than sent.
fn is_wire_form(content: &[u8]) -> bool {
    content
        .split_inclusive(|&byte| byte == b'\n')
        .all(|line| match line.strip_suffix(b"\r\n") {
            Some(text) => text != b"." && !text.contains(&b'\r'),
            None => false,
        })
}

/// A boundary that no line of the original begins with. A sender who knows our boundaries might
/// put them all in: then the original stays out.
pub(super) fn free_boundary<'a>(wanted: &str, returned: Returned<'a>) -> (String, Returned<'a>) {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-._=".contains(*c);
    let mut base: String = wanted
        .chars()
        .filter(is_plain)
        .take(BOUNDARY_BYTES_MAX)
        .collect();
    if base.is_empty() {
        base.push_str("report");
    }
    for attempt in 0..BOUNDARIES_MAX {
        let boundary = match attempt {
            0 => base.clone(),
            _ => format!("{base}={attempt}"),
        };
        if !has_delimiter(&returned.wire, &boundary) {
            return (boundary, returned);
        }
    }
    (base, NOTHING)
}

fn has_delimiter(content: &[u8], boundary: &str) -> bool {
    content.split(|&byte| byte == b'\n').any(|line| {
        line.strip_prefix(b"--")
            .is_some_and(|rest| rest.starts_with(boundary.as_bytes()))
    })
}
