//! What a person sees while a run goes on: on a terminal a block that is drawn anew, otherwise a
//! line a second.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::figures::timeline::Sample;
use crate::text::grouped;

const BLOCK_PERIOD: Duration = Duration::from_millis(250);
const LINE_PERIOD: Duration = Duration::from_secs(1);
/// Rates are over about this long.
const RATE_SECONDS: f64 = 1.0;
const BAR_CELLS: usize = 24;
/// Columns when the terminal does not say.
const COLUMNS_DEFAULT: usize = 80;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Quiet,
    Lines,
    Block,
}

/// How far a run is meant to go.
#[derive(Clone, Copy, Default)]
pub struct Goal {
    pub messages: Option<u64>,
    pub seconds: Option<f64>,
}

impl Goal {
    /// The share that is done, 0 to 1: by messages accepted or time, whichever is further.
    fn done(&self, now: &Sample) -> Option<f64> {
        let share = |done: f64, of: f64| (done / of.max(1e-9)).clamp(0.0, 1.0);
        let messages = self
            .messages
            .map(|of| share(now.messages_accepted as f64, of as f64));
        let time = self.seconds.map(|of| share(now.seconds, of));
        match (messages, time) {
            (Some(messages), Some(time)) => Some(messages.max(time)),
            (one, other) => one.or(other),
        }
    }
}

/// What is shown beside a sample.
#[derive(Clone, Copy, Default)]
pub struct Beside<'a> {
    pub goal: Goal,
    /// 99th percentiles so far, in microseconds.
    pub to_250_p99_us: u64,
    pub end_to_end_p99_us: u64,
    /// Where the run is, in a few words; may be empty.
    pub note: &'a str,
}

/// Writes to stderr; takes its block away when dropped.
pub struct Progress {
    manner: Manner,
    shown: Instant,
    recent: VecDeque<Sample>,
    /// Lines of the block that is on the terminal now.
    lines: usize,
    rich: bool,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let manner = match (quiet, io::stderr().is_terminal() && !dumb) {
            (true, _) => Manner::Quiet,
            (false, true) => Manner::Block,
            (false, false) => Manner::Lines,
        };
        Self {
            manner,
            shown: Instant::now(),
            recent: VecDeque::new(),
            lines: 0,
            rich: std::env::var_os("NO_COLOR").is_none(),
        }
    }

    pub fn is_due(&self) -> bool {
        match self.manner {
            Manner::Quiet => false,
            Manner::Lines => self.shown.elapsed() >= LINE_PERIOD,
            Manner::Block => self.shown.elapsed() >= BLOCK_PERIOD,
        }
    }

    pub fn show(&mut self, now: &Sample, beside: &Beside<'_>) {
        self.shown = Instant::now();
        let before = self.before(now);
        let text = match self.manner {
            Manner::Quiet => return,
            Manner::Lines => format!("{}\n", line(now, &before, beside)),
            Manner::Block => {
                let block = block(now, &before, beside, self.rich);
                let up = self.lines;
                self.lines = block.len();
                redraw(up, &block, columns())
            }
        };
        // A closed stderr must not end a run.
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// The newest sample that is at least `RATE_SECONDS` old, or the oldest there is.
    fn before(&mut self, now: &Sample) -> Sample {
        let is_old = |sample: &Sample| now.seconds - sample.seconds >= RATE_SECONDS;
        while self.recent.len() > 1 && is_old(&self.recent[1]) {
            self.recent.pop_front();
        }
        let before = self.recent.front().copied().unwrap_or_default();
        self.recent.push_back(*now);
        before
    }

    /// Takes the block away, so that something else can be written.
    pub fn clear(&mut self) {
        if self.lines > 0 {
            let _ = io::stderr().write_all(redraw(self.lines, &[], 0).as_bytes());
            self.lines = 0;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn columns() -> usize {
    let size = terminal_size::terminal_size_of(io::stderr());
    size.map_or(COLUMNS_DEFAULT, |(width, _)| usize::from(width.0))
}

/// Goes up over the old block and writes the new one, no line longer than the terminal: a line
/// that wraps would count as two on the way up.
fn redraw(up: usize, block: &[String], columns: usize) -> String {
    let mut text = String::new();
    if up > 0 {
        text.push_str(&format!("\x1b[{up}A\r\x1b[J"));
    }
    for line in block {
        text.push_str(&cut(line, columns.saturating_sub(1)));
        text.push('\n');
    }
    text
}

/// The first `columns` characters that are seen; escape sequences take no room.
fn cut(line: &str, columns: usize) -> String {
    let (mut text, mut seen, mut escape) = (String::new(), 0, false);
    for c in line.chars() {
        if c == '\x1b' {
            escape = true;
        }
        if escape {
            text.push(c);
            escape = c != 'm';
        } else if seen < columns {
            text.push(c);
            seen += 1;
        }
    }
    text
}

/// Per second, and cores.
struct Rates {
    accepted: f64,
    arrived: f64,
    relay: f64,
    source: f64,
    sink: f64,
}

impl Rates {
    fn between(before: &Sample, now: &Sample) -> Self {
        let seconds = (now.seconds - before.seconds).max(0.001);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        Self {
            accepted: rate(now.accepted, before.accepted),
            arrived: rate(now.arrived, before.arrived),
            relay: rate(now.relay_cpu_us, before.relay_cpu_us) / 1e6,
            source: rate(now.source_cpu_us, before.source_cpu_us) / 1e6,
            sink: rate(now.sink_cpu_us, before.sink_cpu_us) / 1e6,
        }
    }
}

/// 0 is the time of none.
fn p99_ms(us: u64) -> String {
    match us {
        0 => "-".to_string(),
        us => format!("{:.1}", us as f64 / 1e3),
    }
}

fn line(now: &Sample, before: &Sample, beside: &Beside<'_>) -> String {
    let rates = Rates::between(before, now);
    let note = if beside.note.is_empty() {
        String::new()
    } else {
        format!("  {}", beside.note)
    };
    format!(
        "{:6.1}s  accepted {:>10} ({:.0}/s)  arrived {:>10} ({:.0}/s)  outstanding {}  \
         p99 ms: to 250 {}, end to end {}  cores: relay {:.2}, source {:.2}, sink {:.2}{note}",
        now.seconds,
        grouped(now.accepted),
        rates.accepted,
        grouped(now.arrived),
        rates.arrived,
        grouped(now.outstanding),
        p99_ms(beside.to_250_p99_us),
        p99_ms(beside.end_to_end_p99_us),
        rates.relay,
        rates.source,
        rates.sink,
    )
}

fn block(now: &Sample, before: &Sample, beside: &Beside<'_>, rich: bool) -> Vec<String> {
    let rates = Rates::between(before, now);
    let (dim, plain) = if rich {
        ("\x1b[2m", "\x1b[0m")
    } else {
        ("", "")
    };
    let label = |text: &str| format!("{dim}{text:<10}{plain} ");
    vec![
        format!("{}{}", label("elapsed"), elapsed(now, beside)),
        format!(
            "{}accepted {} ({}/s)   arrived {} ({}/s)   queue {}",
            label("recipients"),
            grouped(now.accepted),
            grouped(rates.accepted as u64),
            grouped(now.arrived),
            grouped(rates.arrived as u64),
            grouped(now.outstanding),
        ),
        format!(
            "{}to 250 {}   end to end {}",
            label("p99 ms"),
            p99_ms(beside.to_250_p99_us),
            p99_ms(beside.end_to_end_p99_us),
        ),
        format!(
            "{}relay {:.2}   source {:.2}   sink {:.2}   {dim}memory{plain} {:.0} MB   {dim}errors{plain} {}",
            label("cores"),
            rates.relay,
            rates.source,
            rates.sink,
            now.relay_rss_bytes as f64 / 1e6,
            grouped(now.errors),
        ),
    ]
}

fn elapsed(now: &Sample, beside: &Beside<'_>) -> String {
    let mut text = format!("{:.1} s", now.seconds);
    if let Some(done) = beside.goal.done(now) {
        let full = (done * BAR_CELLS as f64).round() as usize;
        let bar = "█".repeat(full) + &"░".repeat(BAR_CELLS - full);
        text += &format!("   {bar} {:.0} %", done * 100.0);
        if done > 0.0 && done < 1.0 {
            let left = now.seconds * (1.0 - done) / done;
            text += &format!("   about {left:.0} s left");
        } else if done >= 1.0 {
            text += &match now.outstanding {
                0 => "   all is settled".to_string(),
                left => format!("   waiting for {} to arrive", grouped(left)),
            };
        }
    }
    if !beside.note.is_empty() {
        text += &format!("   {}", beside.note);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: f64, messages: u64) -> Sample {
        Sample {
            seconds,
            accepted: messages,
            messages_accepted: messages,
            relay_cpu_us: messages * 100,
            ..Sample::default()
        }
    }

    #[test]
    fn a_block_says_how_far_it_is_and_how_fast() {
        let beside = Beside {
            goal: Goal {
                messages: Some(4000),
                seconds: None,
            },
            to_250_p99_us: 1234,
            ..Beside::default()
        };
        let block = block(&sample(2.0, 3000), &sample(1.0, 1000), &beside, false);
        let text = block.join("\n");
        assert!(text.contains("75 %   about 1 s left"), "{text}");
        assert!(text.contains("accepted 3,000 (2,000/s)"), "{text}");
        assert!(text.contains("relay 0.20"), "{text}");
        assert!(text.contains("to 250 1.2"), "{text}");
    }

    #[test]
    fn lines_never_wrap_and_the_block_is_drawn_over() {
        assert_eq!(cut("\x1b[2mabc\x1b[0mdef", 4), "\x1b[2mabc\x1b[0md");
        let lines = ["abcdef".to_string(), "x".to_string()];
        assert_eq!(redraw(0, &lines, 4), "abc\nx\n");
        assert_eq!(redraw(2, &lines[1..], 4), "\x1b[2A\r\x1b[Jx\n");
    }

    #[test]
    fn rates_are_over_about_a_second() {
        let mut progress = Progress::new(true);
        for tenth in 0..50 {
            let now = sample(f64::from(tenth) / 10.0, 0);
            let before = progress.before(&now);
            if tenth >= 11 {
                let age = now.seconds - before.seconds;
                assert!((1.0..1.2).contains(&age), "{age}");
            }
        }
        assert!(progress.recent.len() < 15);
    }
}
