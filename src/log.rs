//! Log lines, made on the core that has something to say and written elsewhere.
//!
//! Promise: making a line never waits and never allocates. A thread formats into a buffer of its
//! own; full buffers, and at a [`Log::flush`] partly filled ones, go to whoever writes them, and
//! come back empty. While none comes back, lines are dropped and counted, and the count is
//! reported by the next line that finds room.
//! Promise: one line stays one line. Control characters and characters that hide or reorder text
//! are escaped, whoever sent them.
//!
//! Not here: writing (`engine::log`) and the clock.

mod addressees;
mod escape;
pub mod event;
mod throttle;
mod timestamp;

use crate::message::{CertificateVerdict, Mailbox, MessageId, SessionId, TlsSummary};
use crate::text::{push_decimal, push_ipv4};
use crate::time::WallTime;
pub use addressees::Addressee;
use escape::Escaper;
use event::Event;
use std::cell::{RefCell, RefMut};
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;
pub use throttle::Throttle;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Text,
    Json,
}

/// Which log lines are written: those of this level and of the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// One buffer. Large enough that a write costs little per line.
const CHUNK_BYTES: usize = 64 * 1024;

/// Buffers of one thread besides the one being filled: what a writer that stumbles may hold up
/// before lines are dropped.
const SPARE_CHUNKS: usize = 8;

/// The longest line. A field that might not fit any more is left out, and the line says `cut`.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// The longest line that says how many were dropped.
const REPORT_BYTES_MAX: usize = 256;

/// Room that is left to warnings and errors: a flood of lines about mail must not drop the line that says why.
const URGENT_BYTES: usize = LINE_BYTES_MAX;

/// The longest value before escaping; the rest is replaced by `...`.
const VALUE_BYTES_MAX: usize = 1024;

/// The longest name of a field or event. Names are ours.
const NAME_BYTES_MAX: usize = 40;

/// A field at its worst: every byte escaped to six, quotes, separators.
const FIELD_BYTES_MAX: usize = 6 * VALUE_BYTES_MAX + NAME_BYTES_MAX + 16;

/// Escape sequences of terminals (ECMA-48, SGR).
const BOLD: &[u8] = b"\x1b[1m";
const PLAIN: &[u8] = b"\x1b[0m";

/// What the end of a line may need: the `cut` mark, a brace, a line end.
const END_BYTES_MAX: usize = 16;

const _: () = assert!(LINE_BYTES_MAX <= CHUNK_BYTES);
const _: () = assert!(2 * FIELD_BYTES_MAX + END_BYTES_MAX <= LINE_BYTES_MAX);

/// The log of one thread.
pub struct Log {
    look: Look,
    level: LogLevel,
    lane: RefCell<Lane>,
}

/// What lines look like.
#[derive(Clone, Copy)]
struct Look {
    format: LogFormat,
    /// Of text: level and event are set off, for a terminal.
    has_colours: bool,
}

struct Lane {
    /// Invariant: capacity is `CHUNK_BYTES`, and no line outgrows it.
    current: Vec<u8>,
    current_lines: u64,
    /// What the lines in `current` that tell of dropped ones say in all.
    current_reported: u64,
    spare: Receiver<Returned>,
    home: Sender<Returned>,
    deliver: Box<dyn Fn(Chunk) + Send>,
    /// Not yet reported.
    dropped: u64,
    dropped_total: u64,
}

/// A buffer on its way back, and what of it was never written: lines, and lines that others of its lines were to
/// report as dropped.
struct Returned {
    bytes: Vec<u8>,
    lost: u64,
    unreported: u64,
}

/// Whole lines on their way to the writer. Dropping it sends the buffer home; lines that were not
/// marked [`Chunk::written`] count as dropped.
pub struct Chunk {
    bytes: Vec<u8>,
    unwritten: u64,
    unreported: u64,
    home: Sender<Returned>,
}

impl Chunk {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The lines are where they belong.
    pub fn written(mut self) {
        self.unwritten = 0;
        self.unreported = 0;
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // The thread may have ended: then the memory is simply freed.
        let _ = self.home.send(Returned {
            bytes: std::mem::take(&mut self.bytes),
            lost: self.unwritten,
            unreported: self.unreported,
        });
    }
}

impl Log {
    /// A log whose full buffers go to `deliver`, which must not wait.
    pub fn new(format: LogFormat, level: LogLevel, deliver: Box<dyn Fn(Chunk) + Send>) -> Self {
        let (home, spare) = mpsc::channel();
        for _ in 0..SPARE_CHUNKS {
            // The receiver is here, so this cannot fail.
            let _ = home.send(Returned {
                bytes: Vec::with_capacity(CHUNK_BYTES),
                lost: 0,
                unreported: 0,
            });
        }
        Log {
            look: Look {
                format,
                has_colours: false,
            },
            level,
            lane: RefCell::new(Lane {
                current: Vec::with_capacity(CHUNK_BYTES),
                current_lines: 0,
                current_reported: 0,
                spare,
                home,
                deliver,
                dropped: 0,
                dropped_total: 0,
            }),
        }
    }

    /// Text is for a terminal, if `has_colours`.
    pub fn with_colours(mut self, has_colours: bool) -> Self {
        self.look.has_colours = has_colours;
        self
    }

    /// Whether lines of this level are written: for what is dear to find out.
    pub fn wants(&self, level: LogLevel) -> bool {
        level <= self.level
    }

    /// Begins a line; it ends when the returned value is dropped. Nothing happens if the level is
    /// not wanted or no buffer is free.
    pub fn line(&self, level: LogLevel, event: &'static Event, at: WallTime) -> Line<'_> {
        match self.wants(level) {
            true => self.answer(level, event, at),
            false => Line { open: None },
        }
    }

    /// As [`Log::line`], whatever the level that is wanted: somebody has asked for it and waits.
    pub fn answer(&self, level: LogLevel, event: &'static Event, at: WallTime) -> Line<'_> {
        // Held only by a line that is being made: a value that logs while it is shown gets nothing.
        let Ok(mut lane) = self.lane.try_borrow_mut() else {
            return Line { open: None };
        };
        let kept = match level {
            LogLevel::Error | LogLevel::Warn => 0,
            _ => URGENT_BYTES,
        };
        if !lane.make_room(kept, self.look, at) {
            lane.drop_lines(1);
            return Line { open: None };
        }
        Line {
            open: Some(Open::begin(lane, self.look, level, event, at)),
        }
    }

    /// Hands over what there is, so that a quiet thread's lines are seen too. To be called about
    /// every 100 ms and before the thread ends. True if lines or the count of
    /// dropped ones had to stay because no buffer was free.
    pub fn flush(&self, at: WallTime) -> bool {
        let Ok(mut lane) = self.lane.try_borrow_mut() else {
            return false;
        };
        lane.count_lost();
        let reported = lane.dropped == 0 || lane.make_room(0, self.look, at);
        let handed_over = lane.hand_over();
        !(reported && handed_over)
    }

    /// Lines dropped since the start, those included that the writer could not write.
    pub fn dropped_total(&self) -> u64 {
        self.lane.borrow().dropped_total
    }
}

impl Lane {
    /// True if a line fits, and `kept` bytes are free behind it. Reports what was dropped before.
    fn make_room(&mut self, kept: usize, look: Look, at: WallTime) -> bool {
        let report = if self.dropped > 0 {
            REPORT_BYTES_MAX
        } else {
            0
        };
        let wanted = LINE_BYTES_MAX + report + kept;
        if self.current.len() + wanted > CHUNK_BYTES && !self.hand_over() {
            return false;
        }
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            self.report(dropped, look, at);
        }
        true
    }

    /// Sends the current buffer away if it holds anything and another is free.
    fn hand_over(&mut self) -> bool {
        if self.current.is_empty() {
            return true;
        }
        let Some(fresh) = self.fresh() else {
            return false;
        };
        let chunk = Chunk {
            bytes: std::mem::replace(&mut self.current, fresh),
            unwritten: std::mem::take(&mut self.current_lines),
            unreported: std::mem::take(&mut self.current_reported),
            home: self.home.clone(),
        };
        (self.deliver)(chunk);
        true
    }

    fn fresh(&mut self) -> Option<Vec<u8>> {
        let Returned {
            mut bytes,
            lost,
            unreported,
        } = self.spare.try_recv().ok()?;
        self.drop_lines(lost);
        self.dropped += unreported;
        bytes.clear();
        Some(bytes)
    }

    /// Learns what the writer could not write, without taking a buffer away.
    fn count_lost(&mut self) {
        for _ in 0..SPARE_CHUNKS {
            let Some(bytes) = self.fresh() else {
                return;
            };
            // Both ends are here.
            let _ = self.home.send(Returned {
                bytes,
                lost: 0,
                unreported: 0,
            });
        }
    }

    fn drop_lines(&mut self, count: u64) {
        self.dropped += count;
        self.dropped_total += count;
    }

    fn report(&mut self, dropped: u64, look: Look, at: WallTime) {
        let mut line = Pen {
            out: &mut self.current,
            look,
        };
        line.begin(LogLevel::Warn, event::LOG, at);
        line.field("lines_dropped", &dropped);
        line.end(false);
        // The line itself is no loss: what it says is said again.
        self.current_reported += dropped;
    }
}

/// How a line is begun: [`Log::line`], or [`Log::answer`].
pub type Begin = for<'a> fn(&'a Log, LogLevel, &'static Event, WallTime) -> Line<'a>;

/// A line being made.
pub struct Line<'a> {
    open: Option<Open<'a>>,
}

struct Open<'a> {
    lane: RefMut<'a, Lane>,
    look: Look,
    level: LogLevel,
    event: &'static Event,
    start: usize,
    cut: bool,
}

impl<'a> Open<'a> {
    fn begin(
        lane: RefMut<'a, Lane>,
        look: Look,
        level: LogLevel,
        event: &'static Event,
        at: WallTime,
    ) -> Self {
        let mut open = Open {
            start: lane.current.len(),
            lane,
            look,
            level,
            event,
            cut: false,
        };
        open.pen().begin(level, event, at);
        open
    }

    fn pen(&mut self) -> Pen<'_> {
        Pen {
            out: &mut self.lane.current,
            look: self.look,
        }
    }
}

impl Line<'_> {
    /// Adds `name` with `value`; nothing for `None`. Text from strangers is welcome: it is
    /// bounded and escaped.
    pub fn field(&mut self, name: &'static str, value: impl Value) -> &mut Self {
        self.add(name, name, value)
    }

    /// `declared`: the name under which the event has it.
    fn add(&mut self, declared: &str, name: &'static str, value: impl Value) -> &mut Self {
        if let Some(open) = &mut self.open
            && !value.is_absent()
        {
            debug_assert!(open.event.has(declared), "{:?} {declared}", open.event);
            let used = open.lane.current.len() - open.start;
            if used + FIELD_BYTES_MAX + END_BYTES_MAX > LINE_BYTES_MAX {
                open.cut = true;
            } else {
                open.pen().field(name, &value);
            }
        }
        self
    }
}

impl Line<'_> {
    /// What TLS the line is about: `none`, or version, cipher, verdict and whether it was resumed.
    pub fn tls(&mut self, tls: Option<&TlsSummary>) -> &mut Self {
        let Some(tls) = tls else {
            return self.add(event::TLS, "tls", "none");
        };
        self.add(event::TLS, "tls", tls.version)
            .add(event::TLS, "cipher", tls.cipher)
            .add(event::TLS, "key_exchange", tls.key_exchange)
            .add(event::TLS, "resumed", tls.resumed.then_some("yes"))
            .add(event::TLS, "verdict", tls.verdict)
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if let Some(mut open) = self.open.take() {
            let cut = open.cut;
            open.pen().end(cut);
            open.lane.current_lines += 1;
            if open.level == LogLevel::Error {
                open.lane.hand_over();
            }
        }
    }
}

/// Writes the parts of a line.
pub struct Pen<'a> {
    out: &'a mut Vec<u8>,
    look: Look,
}

impl Pen<'_> {
    fn begin(&mut self, level: LogLevel, event: &'static Event, at: WallTime) {
        let (level, colour): (_, &[u8]) = match level {
            LogLevel::Error => ("error", b"\x1b[31m"),
            LogLevel::Warn => ("warn", b"\x1b[33m"),
            LogLevel::Info => ("info", b"\x1b[32m"),
            LogLevel::Debug => ("debug", b"\x1b[2m"),
        };
        let time = timestamp::rfc3339(at);
        let event = event.name();
        match self.look.format {
            LogFormat::Text if self.look.has_colours => {
                let (level, event) = (level.as_bytes(), event.as_bytes());
                self.parts(&[&time, b" ", colour, level, PLAIN, b" ", BOLD, event, PLAIN]);
            }
            LogFormat::Text => {
                self.parts(&[&time, b" ", level.as_bytes(), b" ", event.as_bytes()]);
            }
            LogFormat::Json => self.parts(&[
                b"{\"time\":\"",
                &time,
                b"\",\"level\":\"",
                level.as_bytes(),
                b"\",\"event\":\"",
                event.as_bytes(),
                b"\"",
            ]),
        }
    }

    fn field(&mut self, name: &'static str, value: &impl Value) {
        debug_assert!(name.len() <= NAME_BYTES_MAX && !name.contains(['"', ' ', '=']));
        match self.look.format {
            LogFormat::Text => self.parts(&[b" ", name.as_bytes(), b"="]),
            LogFormat::Json => self.parts(&[b",\"", name.as_bytes(), b"\":"]),
        }
        value.write(self);
    }

    fn end(&mut self, cut: bool) {
        match (self.look.format, cut) {
            (LogFormat::Text, false) => self.parts(&[b"\n"]),
            (LogFormat::Text, true) => self.parts(&[b" cut=true\n"]),
            (LogFormat::Json, false) => self.parts(&[b"}\n"]),
            (LogFormat::Json, true) => self.parts(&[b",\"cut\":true}\n"]),
        }
    }

    fn parts(&mut self, parts: &[&[u8]]) {
        parts
            .iter()
            .for_each(|part| self.out.extend_from_slice(part));
    }

    fn number(&mut self, number: u64) {
        push_decimal(number, self.out);
    }

    /// Text that is known to need no escaping.
    fn plain(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let quote: &[u8] = match self.look.format {
            LogFormat::Text => b"",
            LogFormat::Json => b"\"",
        };
        self.out.extend_from_slice(quote);
        write(self.out);
        self.out.extend_from_slice(quote);
    }

    fn text(&mut self, value: &str) {
        self.quoted(|escaper| {
            let _ = escaper.write_str(value);
        });
    }

    /// An array for programs, between commas for people.
    fn list<'t>(&mut self, items: impl Iterator<Item = &'t str>) {
        if self.look.format == LogFormat::Text {
            return self.quoted(|escaper| {
                for (number, item) in items.enumerate() {
                    let comma = if number > 0 { "," } else { "" };
                    let _ = escaper.write_str(comma);
                    let _ = escaper.write_str(item);
                }
            });
        }
        self.out.push(b'[');
        for (number, item) in items.enumerate() {
            let comma: &[u8] = if number > 0 { b"," } else { b"" };
            self.parts(&[comma]);
            self.text(item);
        }
        self.out.push(b']');
    }

    fn quoted(&mut self, write: impl FnOnce(&mut Escaper<'_>)) {
        if self.look.format == LogFormat::Json {
            self.out.push(b'"');
            write(&mut Escaper::new(self.out, true, VALUE_BYTES_MAX));
            self.out.push(b'"');
            return;
        }
        let start = self.out.len();
        let mut escaper = Escaper::new(self.out, false, VALUE_BYTES_MAX);
        write(&mut escaper);
        if escaper.needs_quotes() || self.out.len() == start {
            self.out.insert(start, b'"');
            self.out.push(b'"');
        }
    }
}

/// What a field can hold.
pub trait Value {
    fn write(&self, pen: &mut Pen<'_>);

    /// True if the field is to be left out.
    fn is_absent(&self) -> bool {
        false
    }
}

/// Any value that can be shown.
pub struct Shown<T>(pub T);

impl<T: fmt::Display> Value for Shown<T> {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.quoted(|escaper| {
            let _ = write!(escaper, "{}", self.0);
        });
    }
}

impl<T: Value + ?Sized> Value for &T {
    fn write(&self, pen: &mut Pen<'_>) {
        (**self).write(pen);
    }

    fn is_absent(&self) -> bool {
        (**self).is_absent()
    }
}

impl<T: Value> Value for Option<T> {
    fn write(&self, pen: &mut Pen<'_>) {
        if let Some(value) = self {
            value.write(pen);
        }
    }

    fn is_absent(&self) -> bool {
        self.as_ref().is_none_or(Value::is_absent)
    }
}

impl Value for str {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.text(self);
    }
}

impl Value for String {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.text(self);
    }
}

impl Value for Box<str> {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.text(self);
    }
}

impl Value for Mailbox {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.text(self.as_str());
    }
}

impl Value for bool {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.parts(&[if *self { b"true" } else { b"false" }]);
    }
}

/// Seconds with three decimals.
impl Value for Duration {
    fn write(&self, pen: &mut Pen<'_>) {
        let ms = self.subsec_millis();
        pen.number(self.as_secs());
        pen.parts(&[
            b".",
            &[100, 10, 1].map(|unit| b'0' + (ms / unit % 10) as u8),
        ]);
    }
}

macro_rules! numbers {
    ($($kind:ty),*) => {$(
        impl Value for $kind {
            fn write(&self, pen: &mut Pen<'_>) {
                pen.number(*self as u64);
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, usize);

macro_rules! shown {
    ($($kind:ty),*) => {$(
        impl Value for $kind {
            fn write(&self, pen: &mut Pen<'_>) {
                Shown(self).write(pen);
            }
        }
    )*};
}

shown!(Ipv6Addr, SocketAddrV6);

impl Value for MessageId {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.plain(|out| self.push_to(out));
    }
}

impl Value for SessionId {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.plain(|out| self.push_to(out));
    }
}

/// Octets that should be text.
impl Value for [u8] {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.text(&String::from_utf8_lossy(
            &self[..self.len().min(VALUE_BYTES_MAX + 1)],
        ));
    }
}

impl Value for WallTime {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.plain(|out| out.extend_from_slice(&timestamp::rfc3339(*self)));
    }
}

impl Value for CertificateVerdict {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.plain(|out| out.extend_from_slice(self.name().as_bytes()));
    }
}

impl Value for IpAddr {
    fn write(&self, pen: &mut Pen<'_>) {
        match self {
            IpAddr::V4(address) => pen.plain(|out| push_ipv4(*address, out)),
            IpAddr::V6(address) => address.write(pen),
        }
    }
}

impl Value for SocketAddr {
    fn write(&self, pen: &mut Pen<'_>) {
        match self {
            SocketAddr::V4(address) => pen.plain(|out| {
                push_ipv4(*address.ip(), out);
                out.push(b':');
                push_decimal(address.port().into(), out);
            }),
            SocketAddr::V6(address) => address.write(pen),
        }
    }
}

#[cfg(test)]
mod tests;
