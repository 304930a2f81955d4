//! Delivery status notifications: the report to the reverse-path (RFC 3464, RFC 6522, RFC 6533).
//!
//! Promise: the output is in wire form (lines end CRLF, dots stuffed, the end included), and no
//! text of a peer or a sender in it can begin a header field, a MIME part or an SMTP command.
//! Pure: time, Message-ID and boundary are handed in, so the same report is rendered twice alike.
//! Not here: when a report is due, and its delivery. A report has a null reverse-path.

use std::borrow::Cow;

use crate::message::{BodyType, Envelope, Mailbox, MessageId, Notify, Recipient, Ret};
use crate::schedule::outcome::{Diagnosis, RecipientState, ReportKind};
use crate::smtp::reply::{printable, printable_str};
use crate::smtp::trace::push_date;
use crate::time::WallTime;

/// Most bytes of an original's header section that a report returns; more is cut at a line.
pub const HEADER_BYTES_MAX: usize = 64 * 1_024;
/// Largest original, in wire form, that a report returns whole; of larger ones the header section.
pub const FULL_BYTES_MAX: usize = 1_024 * 1_024;
/// A boundary is at most 70 bytes (RFC 2046 section 5.1.1); this many of those handed in are used.
const BOUNDARY_BYTES_MAX: usize = 60;
/// How often another boundary is tried if the original has this one.
const BOUNDARIES_MAX: u32 = 16;
const FOLD_BYTES: usize = 76;
/// No word is longer on a line, so that no line exceeds the 998 bytes of RFC 5322 section 2.1.1.
const WORD_BYTES_MAX: usize = 900;

/// What is reported of a recipient: `Action:` of RFC 3464 section 2.3.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Failed,
    /// Passed on to a host that sends no reports of success.
    Relayed,
    /// Still being tried.
    Delayed {
        retry_until: WallTime,
    },
}

impl From<ReportKind> for Action {
    fn from(kind: ReportKind) -> Self {
        match kind {
            ReportKind::Failed => Action::Failed,
            ReportKind::Relayed => Action::Relayed,
        }
    }
}

/// One recipient in the report.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    /// Into the original envelope's recipients.
    pub index: u32,
    pub action: Action,
    pub diagnosis: &'a Diagnosis,
    pub last_attempt: Option<WallTime>,
}

/// What is at hand of the original, in wire form: [`original_bytes_wanted`] from its start, or
/// nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Original<'a> {
    pub wire: &'a [u8],
    /// `wire` is all of it, with its end.
    pub is_whole: bool,
}

/// All that a report is made of.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Our host name.
    pub reporting_mta: &'a str,
    /// Of the report, without angle brackets: `id@host`.
    pub message_id: &'a str,
    /// Letters, digits and `-._=`; what else it has is dropped. A suffix is added if the original
    /// has the same.
    pub boundary: &'a str,
    pub now: WallTime,
    /// When the original was received.
    pub arrived: WallTime,
    /// Of the original.
    pub envelope: &'a Envelope,
    pub recipients: &'a [Reported<'a>],
    pub original: Original<'a>,
}

/// A report that is ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rendered {
    /// Wire form, the final `.` and CRLF included.
    pub wire: Vec<u8>,
    pub body_type: BodyType,
    /// Addresses or returned headers hold UTF-8: only a host with SMTPUTF8 can take it.
    pub smtputf8: bool,
    to: Mailbox,
}

impl Rendered {
    /// The envelope that the report goes out with (RFC 3461 section 6.1): null reverse-path, and
    /// no report about the report.
    pub fn envelope(&self) -> Envelope {
        let mut recipient = Recipient::new(self.to.clone());
        recipient.notify = Some(Notify::NEVER);
        Envelope {
            body_type: self.body_type,
            smtputf8: self.smtputf8,
            recipients: vec![recipient],
            ..Envelope::default()
        }
    }
}

/// A report that recipients of one message are owed, before what is stored of that is at hand.
#[derive(Clone, Copy, Debug)]
pub struct Owed<'a> {
    /// Our host name.
    pub hostname: &'a str,
    pub id: MessageId,
    pub received_at: WallTime,
    pub envelope: &'a Envelope,
    /// Whoever is not owed a report is left out of it.
    pub recipients: &'a [(u32, RecipientState)],
    /// Of the stored original, in wire form.
    pub body_bytes: u64,
}

impl<'a> Owed<'a> {
    fn reported(&self) -> Vec<Reported<'a>> {
        let reported = |(index, state): &'a (u32, RecipientState)| match state {
            RecipientState::ReportOwed {
                kind, diagnosis, ..
            } => Some(Reported {
                index: *index,
                action: (*kind).into(),
                diagnosis,
                last_attempt: None,
            }),
            _ => None,
        };
        self.recipients.iter().filter_map(reported).collect()
    }

    /// How many bytes of the stored original, from its start, [`Self::render`] can use.
    pub fn original_bytes_wanted(&self) -> usize {
        let reported = self.reported();
        let reports_failure = reported.iter().any(|it| it.action == Action::Failed);
        original_bytes_wanted(self.envelope, reports_failure, self.body_bytes)
    }

    /// Renders the report with what could be read of the original, from its start. `None`: nobody
    /// is owed it, or there is nobody to be told.
    pub fn render(&self, wire: &[u8], now: WallTime) -> Option<Rendered> {
        let reported = self.reported();
        let (id, hostname) = (self.id, self.hostname);
        render(&Report {
            reporting_mta: hostname,
            message_id: &format!("{id}.{}@{hostname}", reported.first()?.index),
            boundary: &format!("{id}.report"),
            now,
            arrived: self.received_at,
            envelope: self.envelope,
            recipients: &reported,
            original: Original {
                is_whole: wire.len() as u64 == self.body_bytes,
                wire,
            },
        })
    }
}

/// How many bytes of the stored original [`render`] can use. `body_bytes`: its length in wire form.
pub fn original_bytes_wanted(envelope: &Envelope, reports_failure: bool, body_bytes: u64) -> usize {
    let bytes = usize::try_from(body_bytes).unwrap_or(usize::MAX);
    if returns_full(envelope, reports_failure) && bytes <= FULL_BYTES_MAX {
        bytes
    } else {
        bytes.min(HEADER_BYTES_MAX)
    }
}

/// RFC 3461 section 4.3: RET counts for failures only. Without it the headers are enough.
fn returns_full(envelope: &Envelope, reports_failure: bool) -> bool {
    reports_failure && envelope.ret == Some(Ret::Full)
}

/// Renders a report. `None` if the original has a null reverse-path: nobody is to be told.
pub fn render(report: &Report<'_>) -> Option<Rendered> {
    let to = report.envelope.reverse_path.as_ref()?;
    let returned = Returned::choose(report);
    let form = Form::choose(report, &returned);
    let (boundary, returned) = free_boundary(report.boundary, returned);
    let mut body = Lines::new(form);
    body.human_part(report, &boundary, &returned);
    body.status_part(report, &boundary);
    body.returned_part(&boundary, &returned);
    body.line(&format!("--{boundary}--"));

    let is_8bit = !body.out.is_ascii();
    let mut head = Lines::new(form);
    head.header(report, to, &boundary, is_8bit);
    let mut wire = head.out;
    wire.extend_from_slice(&body.out);
    wire.extend_from_slice(b".\r\n");
    Some(Rendered {
        body_type: match is_8bit {
            true => BodyType::EightBitMime,
            false => BodyType::SevenBit,
        },
        smtputf8: form == Form::Global,
        wire,
        to: to.clone(),
    })
}

/// What of the original goes back, in wire form without its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Returned<'a> {
    Nothing,
    Headers(&'a [u8]),
    Full(&'a [u8]),
}

impl<'a> Returned<'a> {
    fn choose(report: &Report<'a>) -> Self {
        let wire = report.original.wire;
        let failed = |reported: &Reported<'_>| reported.action == Action::Failed;
        let wants_full = returns_full(report.envelope, report.recipients.iter().any(failed));
        if wants_full
            && report.original.is_whole
            && wire.len() <= FULL_BYTES_MAX
            && let Some(content) = wire.strip_suffix(b".\r\n")
            && is_wire_form(content)
        {
            return Returned::Full(content);
        }
        match header_section(wire) {
            [] => Returned::Nothing,
            headers if is_wire_form(headers) => Returned::Headers(headers),
            _ => Returned::Nothing,
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match self {
            Returned::Nothing => &[],
            Returned::Headers(bytes) | Returned::Full(bytes) => bytes,
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

/// Whether addresses and headers are ASCII, or the forms of RFC 6533 are needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Ascii,
    Global,
}

impl Form {
    fn choose(report: &Report<'_>, returned: &Returned<'_>) -> Self {
        let envelope = report.envelope;
        let recipients = || reported_recipients(report);
        let global = envelope
            .reverse_path
            .as_ref()
            .is_some_and(Mailbox::needs_smtputf8)
            || recipients().any(|recipient| recipient.forward_path.needs_smtputf8())
            || (envelope.smtputf8 && !header_section(returned.bytes()).is_ascii());
        if global { Form::Global } else { Form::Ascii }
    }

    /// Printable, and ASCII if that is the form.
    fn text(self, text: &str) -> Cow<'_, str> {
        let text = printable_str(text);
        if self == Form::Global || text.is_ascii() {
            return text;
        }
        let ascii = |c: char| if c.is_ascii() { c } else { '?' };
        Cow::Owned(text.chars().map(ascii).collect())
    }

    /// [`Form::text`] for what must stay on one line: names and addresses. Their sources bound
    /// them far below [`WORD_BYTES_MAX`], where they are cut.
    fn word(self, text: &str) -> String {
        pieces(&self.text(text)).next().unwrap_or("").to_owned()
    }
}

fn reported_recipients<'a>(report: &Report<'a>) -> impl Iterator<Item = &'a Recipient> {
    let all = &report.envelope.recipients;
    report
        .recipients
        .iter()
        .filter_map(|reported| all.get(reported.index as usize))
}

/// A boundary that no line of the original begins with. A sender who knows our boundaries might
/// put them all in: then the original stays out.
fn free_boundary<'a>(wanted: &str, returned: Returned<'a>) -> (String, Returned<'a>) {
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
        if !has_delimiter(returned.bytes(), &boundary) {
            return (boundary, returned);
        }
    }
    (base, Returned::Nothing)
}

fn has_delimiter(content: &[u8], boundary: &str) -> bool {
    content.split(|&byte| byte == b'\n').any(|line| {
        line.strip_prefix(b"--")
            .is_some_and(|rest| rest.starts_with(boundary.as_bytes()))
    })
}

/// Lines in wire form.
struct Lines {
    out: Vec<u8>,
    form: Form,
}

/// The parts of a report.
impl Lines {
    fn header(&mut self, report: &Report<'_>, to: &Mailbox, boundary: &str, is_8bit: bool) {
        let host = self.form.word(report.reporting_mta).replace(' ', "?");
        self.line(&format!("Date: {}", date(report.now)));
        self.line(&format!(
            "From: MAILER-DAEMON (Mail Delivery System) <MAILER-DAEMON@{host}>"
        ));
        self.line(&format!("To: <{}>", self.form.word(to.as_str())));
        self.field("Subject", subject(report));
        let message_id = self.form.word(report.message_id);
        self.line(&format!("Message-ID: <{message_id}>"));
        self.line("Auto-Submitted: auto-replied");
        self.line("MIME-Version: 1.0");
        self.line("Content-Type: multipart/report; report-type=delivery-status;");
        self.line(&format!("\tboundary=\"{boundary}\""));
        if is_8bit {
            self.line("Content-Transfer-Encoding: 8bit");
        }
        self.line("");
    }

    /// For people.
    fn human_part(&mut self, report: &Report<'_>, boundary: &str, returned: &Returned<'_>) {
        let charset = match self.form {
            Form::Ascii => "us-ascii",
            Form::Global => "utf-8",
        };
        self.part(
            boundary,
            &format!("text/plain; charset={charset}"),
            "Notification",
        );
        if self.form == Form::Global {
            self.line("Content-Transfer-Encoding: 8bit");
        }
        self.line("");
        let host = report.reporting_mta;
        self.line(&format!(
            "This is the mail system at {}.",
            self.form.word(host)
        ));
        for (kind, words) in INTRODUCTIONS {
            let of_kind = |reported: &&Reported<'_>| kind_of(reported.action) == *kind;
            if report.recipients.iter().any(|reported| of_kind(&reported)) {
                self.line("");
                self.wrapped("", words);
                for reported in report.recipients.iter().filter(of_kind) {
                    self.told(report, reported);
                }
            }
        }
        self.line("");
        self.wrapped(
            "",
            match returned {
                Returned::Nothing => "What follows is the same for programs.",
                Returned::Headers(_) => {
                    "What follows is the same for programs, and then the header of your message."
                }
                Returned::Full(_) => {
                    "What follows is the same for programs, and then your message."
                }
            },
        );
        self.line("");
    }

    fn told(&mut self, report: &Report<'_>, reported: &Reported<'_>) {
        let Some(recipient) = report.envelope.recipients.get(reported.index as usize) else {
            return;
        };
        let diagnosis = reported.diagnosis;
        let address = self.form.word(recipient.forward_path.as_str());
        self.line("");
        self.line(&format!("<{address}>"));
        let text = self.form.text(&diagnosis.text).into_owned();
        let reason = match (&*diagnosis.remote_host, is_reply(&text)) {
            ("", _) => text,
            (host, true) => format!("The host {} said: {text}", self.form.text(host)),
            (host, false) => format!("{text} (host {})", self.form.text(host)),
        };
        self.wrapped("    ", &reason);
        if let Action::Delayed { retry_until } = reported.action {
            self.wrapped(
                "    ",
                &format!("It will be tried until {}.", date(retry_until)),
            );
        }
    }

    /// For programs: RFC 3464 section 2.
    fn status_part(&mut self, report: &Report<'_>, boundary: &str) {
        let (media_type, is_8bit) = match self.form {
            Form::Ascii => ("message/delivery-status", false),
            Form::Global => ("message/global-delivery-status", true),
        };
        self.part(boundary, media_type, "Delivery report");
        if is_8bit {
            self.line("Content-Transfer-Encoding: 8bit");
        }
        self.line("");
        let host = self.form.word(report.reporting_mta);
        self.line(&format!("Reporting-MTA: dns; {host}"));
        if let Some(envid) = &report.envelope.envid {
            let envid = decode_xtext(envid);
            self.line(&format!("Original-Envelope-Id: {}", self.form.word(&envid)));
        }
        self.line(&format!("Arrival-Date: {}", date(report.arrived)));
        for reported in report.recipients {
            if let Some(recipient) = report.envelope.recipients.get(reported.index as usize) {
                self.line("");
                self.recipient_fields(recipient, reported);
            }
        }
        self.line("");
    }

    fn recipient_fields(&mut self, recipient: &Recipient, reported: &Reported<'_>) {
        if let Some((kind, address)) = recipient.orcpt.as_deref().and_then(|o| o.split_once(';')) {
            let address = decode_xtext(address);
            let address = self.form.word(&format!("{kind};{address}"));
            self.line(&format!("Original-Recipient: {address}"));
        }
        let address = &recipient.forward_path;
        let kind = match address.needs_smtputf8() {
            true => "utf-8",
            false => "rfc822",
        };
        let address = self.form.word(address.as_str());
        self.line(&format!("Final-Recipient: {kind};{address}"));
        self.line(&format!("Action: {}", kind_of(reported.action)));
        let diagnosis = reported.diagnosis;
        self.line(&format!("Status: {}", diagnosis.status));
        if !diagnosis.remote_host.is_empty() {
            let host = self.form.word(&diagnosis.remote_host);
            self.line(&format!("Remote-MTA: dns; {host}"));
        }
        let text = self.form.text(&diagnosis.text);
        let kind = if is_reply(&text) {
            "smtp"
        } else {
            "x-ringpost"
        };
        self.field("Diagnostic-Code", &format!("{kind}; {text}"));
        if let Some(last_attempt) = reported.last_attempt {
            self.line(&format!("Last-Attempt-Date: {}", date(last_attempt)));
        }
        if let Action::Delayed { retry_until } = reported.action {
            self.line(&format!("Will-Retry-Until: {}", date(retry_until)));
        }
    }

    /// Wire form stays wire form: a stuffed line of the original is a stuffed line of the report.
    fn returned_part(&mut self, boundary: &str, returned: &Returned<'_>) {
        let (media_type, description) = match (returned, self.form) {
            (Returned::Nothing, _) => return,
            (Returned::Headers(_), Form::Ascii) => ("text/rfc822-headers", "Message header"),
            (Returned::Headers(_), Form::Global) => ("message/global-headers", "Message header"),
            (Returned::Full(_), Form::Ascii) => ("message/rfc822", "Message"),
            (Returned::Full(_), Form::Global) => ("message/global", "Message"),
        };
        self.part(boundary, media_type, description);
        if !returned.bytes().is_ascii() {
            self.line("Content-Transfer-Encoding: 8bit");
        }
        self.line("");
        self.out.extend_from_slice(returned.bytes());
        // The CRLF before a delimiter is the delimiter's (RFC 2046 section 5.1.1).
        self.line("");
    }

    fn part(&mut self, boundary: &str, media_type: &str, description: &str) {
        self.line(&format!("--{boundary}"));
        self.line(&format!("Content-Type: {media_type}"));
        self.line(&format!("Content-Description: {description}"));
    }
}

/// The lines themselves.
impl Lines {
    fn new(form: Form) -> Self {
        Lines {
            out: Vec::new(),
            form,
        }
    }

    /// `text` holds no control character but a tab that we put there.
    fn line(&mut self, text: &str) {
        if text.starts_with('.') {
            self.out.push(b'.');
        }
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// A header field, folded at spaces.
    fn field(&mut self, name: &str, value: &str) {
        self.words(&format!("{name}:"), " ", value);
    }

    fn wrapped(&mut self, indent: &str, text: &str) {
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
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let mut end = rest.len().min(WORD_BYTES_MAX);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

const INTRODUCTIONS: &[(&str, &str)] = &[
    (
        "failed",
        "Your message could not be delivered to the recipients below, and it will not be tried \
         again. What went wrong stands under each address.",
    ),
    (
        "delayed",
        "Your message could not be delivered yet to the recipients below. It is still being \
         tried, and you need not send it again.",
    ),
    (
        "relayed",
        "Your message was passed on for the recipients below. The host that took it does not \
         report successful delivery, so you will hear no more about it unless it fails.",
    ),
];

fn kind_of(action: Action) -> &'static str {
    match action {
        Action::Failed => "failed",
        Action::Delayed { .. } => "delayed",
        Action::Relayed => "relayed",
    }
}

fn subject(report: &Report<'_>) -> &'static str {
    let has = |kind| {
        report
            .recipients
            .iter()
            .any(|reported| kind_of(reported.action) == kind)
    };
    if has("failed") {
        "Undelivered mail returned to sender"
    } else if has("delayed") {
        "Delayed mail (still being tried)"
    } else {
        "Mail was passed on"
    }
}

/// `550 ...`: a reply as `smtp::reply` puts it in one line.
fn is_reply(text: &str) -> bool {
    let code = text.as_bytes().get(..3);
    code.is_some_and(|code| code.iter().all(u8::is_ascii_digit))
        && matches!(text.as_bytes().get(3), None | Some(b' '))
}

/// xtext of RFC 3461 section 4, made printable. What is no escape stays as it is.
fn decode_xtext(text: &str) -> Box<str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        let escaped = match (byte, after) {
            (b'+', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &after[2..];
            }
            None => bytes.push(*byte),
        }
    }
    printable(&bytes)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// As in trace headers. The calendar's bounds are those of the format: years of four digits.
fn date(time: WallTime) -> String {
    const LAST_MILLISECOND: u64 = 253_402_300_799_999;
    let mut date = Vec::new();
    push_date(WallTime(time.0.min(LAST_MILLISECOND)), &mut date);
    String::from_utf8_lossy(&date).into_owned()
}

#[cfg(test)]
mod tests;
