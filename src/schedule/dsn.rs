//! Delivery status notifications: the report to the reverse-path (RFC 3464, RFC 6522, RFC 6533).
//!
//! Promise: the output is in wire form (lines end CRLF, dots stuffed, the end included), and no
//! text of a peer or a sender in it can begin a header field, a MIME part or an SMTP command.
//!
//! A report must get through where its mail did not. To a reverse-path that can be written in ASCII it
//! is all ASCII, and needs no extension of the host that takes it: addresses in the form of RFC 6533
//! that has 7 bits, text and returned headers in quoted-printable. Only an original that is asked for
//! whole goes back in 8 bits, where the host takes them; and no more of it than the host has room for.
//! Pure: time and boundary are handed in, so the same report is rendered twice alike. Its Message-ID follows from what it
//! says: a report that says the same after a crash has it again, and no other ever does.
//! Not here: when a report is due, and its delivery. A report has a null reverse-path.

use std::borrow::Cow;

use crate::message::{BodyType, Envelope, Mailbox, MessageId, Notify, Recipient, Ret};
use crate::schedule::outcome::{Diagnosis, RecipientState, ReportKind};
use crate::smtp::address::{unitext_in_7bit, utf8_xtext};
use crate::smtp::client::{RecipientVerdict, TransactionResult};
use crate::smtp::reply::{EnhancedStatus, Stage, printable, printable_str};
use crate::smtp::trace::push_date;
use crate::time::WallTime;

mod identity;
mod lines;
mod returned;

use identity::message_id;
use lines::{Lines, QUOTED_PRINTABLE, pieces, quoted_printable};
use returned::{Returned, free_boundary};

/// Most bytes of an original's header section that a report returns; more is cut at a line.
pub const HEADER_BYTES_MAX: usize = 64 * 1_024;
/// Largest original, in wire form, that a report returns whole; of larger ones the header section.
pub const FULL_BYTES_MAX: usize = 1_024 * 1_024;

/// What is reported of a recipient: `Action:` of RFC 3464 section 2.3.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportedAction {
    Failed,
    /// Passed on to a host that sends no reports of success.
    Relayed,
    /// Still being tried.
    Delayed {
        retry_until: WallTime,
    },
}

impl From<ReportKind> for ReportedAction {
    fn from(kind: ReportKind) -> Self {
        match kind {
            ReportKind::Failed => ReportedAction::Failed,
            ReportKind::Relayed => ReportedAction::Relayed,
        }
    }
}

/// One recipient in the report.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    /// Into the original envelope's recipients.
    pub index: u32,
    pub action: ReportedAction,
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

/// How much of an original goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Extent {
    Nothing,
    Headers,
    #[default]
    Whole,
}

impl Extent {
    /// The next smaller one.
    pub fn less(self) -> Option<Extent> {
        match self {
            Extent::Whole => Some(Extent::Headers),
            Extent::Headers => Some(Extent::Nothing),
            Extent::Nothing => None,
        }
    }
}

/// What the host that gets the report can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taker {
    pub eight_bit_mime: bool,
    /// `SIZE` (RFC 1870); 0: no limit is known.
    pub bytes_max: u64,
    /// No more of the original.
    pub original: Extent,
}

/// All that a report is made of.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Our host name.
    pub reporting_mta: &'a str,
    /// Of the original.
    pub id: MessageId,
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
    pub taker: Taker,
}

/// A report that is ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rendered {
    /// Wire form, the final `.` and CRLF included.
    pub wire: Vec<u8>,
    pub body_type: BodyType,
    /// The reverse-path cannot be written in ASCII: only a host with SMTPUTF8 can take it.
    pub smtputf8: bool,
    /// What of the original is in it.
    pub original: Extent,
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

    /// How many bytes of the stored original, from its start, [`Self::render`] can use to return at most this.
    pub fn original_bytes_wanted(&self, most: Extent) -> usize {
        let reported = self.reported();
        let reports_failure = reported
            .iter()
            .any(|it| it.action == ReportedAction::Failed);
        original_bytes_wanted(self.envelope, reports_failure, most, self.body_bytes)
    }

    /// Renders the report with what could be read of the original, from its start. `None`: nobody
    /// is owed it, or there is nobody to be told.
    pub fn render(&self, wire: &[u8], now: WallTime, taker: Taker) -> Option<Rendered> {
        let reported = self.reported();
        let (id, hostname) = (self.id, self.hostname);
        if reported.is_empty() {
            return None;
        }
        render(&Report {
            reporting_mta: hostname,
            id,
            boundary: &format!("{id}.report"),
            now,
            arrived: self.received_at,
            envelope: self.envelope,
            recipients: &reported,
            original: Original {
                is_whole: wire.len() as u64 == self.body_bytes,
                wire,
            },
            taker,
        })
    }
}

/// How many bytes of the stored original [`render`] can use. `body_bytes`: its length in wire form.
fn original_bytes_wanted(
    envelope: &Envelope,
    reports_failure: bool,
    most: Extent,
    body_bytes: u64,
) -> usize {
    let bytes = usize::try_from(body_bytes).unwrap_or(usize::MAX);
    match most {
        Extent::Nothing => 0,
        Extent::Whole if returns_full(envelope, reports_failure) && bytes <= FULL_BYTES_MAX => {
            bytes
        }
        _ => bytes.min(HEADER_BYTES_MAX),
    }
}

/// RFC 3461 section 4.3: RET counts for failures only. Without it the choice is ours: whoever asks for a report says
/// how often a message goes back ([`Taker::original`]).
fn returns_full(envelope: &Envelope, reports_failure: bool) -> bool {
    reports_failure && envelope.ret != Some(Ret::Headers)
}

/// Renders a report. `None` if the original has a null reverse-path: nobody is to be told.
pub fn render(report: &Report<'_>) -> Option<Rendered> {
    let reverse_path = report.envelope.reverse_path.as_ref()?;
    let to = match reverse_path.in_ascii() {
        Some(_) if !reverse_path.needs_smtputf8() => reverse_path.clone(),
        Some(text) => Mailbox::new(reverse_path.local_part(), domain_of(&text)),
        None => reverse_path.clone(),
    };
    let form = match to.needs_smtputf8() {
        true => Form::Global,
        false => Form::Ascii,
    };
    let mut extent = report.taker.original;
    loop {
        let returned = Returned::choose(report, form, extent);
        let rendered = compose(report, &to, form, returned);
        let bytes = rendered.wire.len() as u64;
        let fits = report.taker.bytes_max == 0 || bytes <= report.taker.bytes_max;
        match rendered.original.less() {
            Some(less) if !fits => extent = less,
            _ => return Some(rendered),
        }
    }
}

fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

fn compose(report: &Report<'_>, to: &Mailbox, form: Form, returned: Returned) -> Rendered {
    let (boundary, returned) = free_boundary(report.boundary, returned);
    let mut body = Lines::new(form);
    body.human_part(report, &boundary, returned.extent);
    body.status_part(report, &boundary);
    let message_id = message_id(report, &body.out, &returned);
    body.returned_part(&boundary, &returned);
    body.line(&format!("--{boundary}--"));

    let is_8bit = !body.out.is_ascii();
    let mut head = Lines::new(form);
    head.header(report, (to, &message_id), &boundary, is_8bit);
    let mut wire = head.out;
    wire.extend_from_slice(&body.out);
    wire.extend_from_slice(b".\r\n");
    Rendered {
        body_type: match is_8bit {
            true => BodyType::EightBitMime,
            false => BodyType::SevenBit,
        },
        smtputf8: form == Form::Global,
        original: returned.extent,
        wire,
        to: to.clone(),
    }
}

/// Whether a refusal of a report may be for what it returns: the same with less may be taken.
pub fn may_be_for_the_original(result: &TransactionResult) -> bool {
    let is_for_content = |verdict: &RecipientVerdict| match verdict {
        RecipientVerdict::Refused { stage, reply } if reply.is_permanent() => {
            let speaks_of_content = |status: EnhancedStatus| {
                (status.subject, status.detail) == (3, 4) || status.subject == 6
            };
            matches!(stage, Stage::Body | Stage::FinalDot)
                || *stage == Stage::Mail
                    && (reply.code == 552 || reply.status.is_some_and(speaks_of_content))
        }
        RecipientVerdict::Unfit(unfit) => unfit.status == EnhancedStatus::new(5, 3, 4),
        _ => false,
    };
    result.verdicts.iter().all(|(_, it)| is_for_content(it))
}

/// Whether a report was refused for its size.
pub fn is_too_large(result: &TransactionResult) -> bool {
    let is_for_size = |verdict: &RecipientVerdict| match verdict {
        RecipientVerdict::Refused { stage, reply } => {
            let speaks_of_size =
                |status: EnhancedStatus| (status.class, status.subject, status.detail) == (5, 3, 4);
            let is_of_content = matches!(stage, Stage::Mail | Stage::Body | Stage::FinalDot);
            is_of_content && (reply.code == 552 || reply.status.is_some_and(speaks_of_size))
        }
        RecipientVerdict::Unfit(unfit) => unfit.status == EnhancedStatus::new(5, 3, 4),
        _ => false,
    };
    result.verdicts.iter().all(|(_, it)| is_for_size(it))
}

/// Whether addresses and headers are ASCII, or the forms of RFC 6533 are needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Ascii,
    Global,
}

impl Form {
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
    /// them far below [`lines::WORD_BYTES_MAX`], where they are cut.
    fn word(self, text: &str) -> String {
        pieces(&self.text(text)).next().unwrap_or("").to_owned()
    }
}

/// The parts of a report.
impl Lines {
    fn header(
        &mut self,
        report: &Report<'_>,
        (to, message_id): (&Mailbox, &str),
        boundary: &str,
        is_8bit: bool,
    ) {
        let host = self.form.word(report.reporting_mta).replace(' ', "?");
        self.line(&format!("Date: {}", date(report.now)));
        self.line(&format!(
            "From: MAILER-DAEMON (Mail Delivery System) <MAILER-DAEMON@{host}>"
        ));
        self.line(&format!("To: <{}>", self.form.word(to.as_str())));
        self.field("Subject", subject(report));
        let message_id = self.form.word(message_id);
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

    /// For people, who read every script.
    fn human_part(&mut self, report: &Report<'_>, boundary: &str, extent: Extent) {
        let mut text = Lines::text();
        text.explanation_part(report, extent);
        let (charset, encoding) = match (self.form, text.out.is_ascii()) {
            (Form::Ascii, true) => ("us-ascii", None),
            (Form::Ascii, false) => ("utf-8", Some(QUOTED_PRINTABLE)),
            (Form::Global, _) => ("utf-8", Some("8bit")),
        };
        let media_type = format!("text/plain; charset={charset}");
        self.part(boundary, &media_type, "Notification", encoding);
        match encoding {
            Some(QUOTED_PRINTABLE) => quoted_printable(&text.out, &mut self.out),
            _ => self.stuffed(&text.out),
        }
    }

    fn explanation_part(&mut self, report: &Report<'_>, extent: Extent) {
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
            match extent {
                Extent::Nothing => "What follows is the same for programs.",
                Extent::Headers => {
                    "What follows is the same for programs, and then the header of your message."
                }
                Extent::Whole => "What follows is the same for programs, and then your message.",
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
        if let ReportedAction::Delayed { retry_until } = reported.action {
            self.wrapped(
                "    ",
                &format!("It will be tried until {}.", date(retry_until)),
            );
        }
    }

    /// For programs: RFC 3464 section 2.
    fn status_part(&mut self, report: &Report<'_>, boundary: &str) {
        let (media_type, encoding) = match self.form {
            Form::Ascii => ("message/delivery-status", None),
            Form::Global => ("message/global-delivery-status", Some("8bit")),
        };
        self.part(boundary, media_type, "Delivery report", encoding);
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
            let address = self.original_address(kind, address);
            let address = self.form.word(&format!("{kind};{address}"));
            self.line(&format!("Original-Recipient: {address}"));
        }
        let address = &recipient.forward_path;
        let (kind, address) = match (self.form, address.in_ascii()) {
            (Form::Global, _) if address.needs_smtputf8() => ("utf-8", address.as_str().into()),
            (_, Some(address)) => ("rfc822", address),
            (_, None) => ("utf-8", Cow::Owned(utf8_xtext(address.as_str()))),
        };
        let address = self.form.word(&address);
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
        if let ReportedAction::Delayed { retry_until } = reported.action {
            self.line(&format!("Will-Retry-Until: {}", date(retry_until)));
        }
    }

    /// The address of ORCPT. One of type `utf-8` has escapes of its own (RFC 6533 section 3), which
    /// stay.
    fn original_address<'a>(&self, kind: &str, address: &'a str) -> Cow<'a, str> {
        match self.form {
            Form::Ascii if kind.eq_ignore_ascii_case("utf-8") => unitext_in_7bit(address),
            _ => Cow::Owned(decode_xtext(address).into()),
        }
    }

    /// Wire form stays wire form: a stuffed line of the original is a stuffed line of the report.
    fn returned_part(&mut self, boundary: &str, returned: &Returned<'_>) {
        let description = match returned.extent {
            Extent::Nothing => return,
            Extent::Headers => "Message header",
            Extent::Whole => "Message",
        };
        self.part(
            boundary,
            returned.media_type,
            description,
            returned.encoding,
        );
        self.out.extend_from_slice(&returned.wire);
        // The CRLF before a delimiter is the delimiter's (RFC 2046 section 5.1.1).
        self.line("");
    }

    /// The header of a part, with the empty line behind it.
    fn part(
        &mut self,
        boundary: &str,
        media_type: &str,
        description: &str,
        encoding: Option<&str>,
    ) {
        self.line(&format!("--{boundary}"));
        self.line(&format!("Content-Type: {media_type}"));
        self.line(&format!("Content-Description: {description}"));
        if let Some(encoding) = encoding {
            self.line(&format!("Content-Transfer-Encoding: {encoding}"));
        }
        self.line("");
    }
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

fn kind_of(action: ReportedAction) -> &'static str {
    match action {
        ReportedAction::Failed => "failed",
        ReportedAction::Delayed { .. } => "delayed",
        ReportedAction::Relayed => "relayed",
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
