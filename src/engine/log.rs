//! The thread that writes the log: standard error or a file, in large pieces.
//!
//! It may wait for its disk or its reader for any time. Meanwhile the threads that log run out of
//! buffers and drop lines (`crate::log`). Nobody waits for this thread except [`Writer::stop`], for a
//! bounded time.

use super::stderr;
use crate::config::LogConfig;
use crate::io::clock;
use crate::io::file::{WITHOUT_WAITING, check_writable_blocking};
use crate::log::{Chunk, Log, LogFormat, LogLevel};
use crate::privilege::{Identity, give_file};
use crate::time::Now;
use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

/// Another process that shares standard error may have made it non-blocking: how often and how long to
/// wait for its reader before lines are dropped.
const FULL_PIPE_TRIES: u32 = 100;
const FULL_PIPE_WAIT: Duration = Duration::from_millis(10);

/// Minimum time between two complaints on standard error that the log file cannot be written.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

enum Order {
    Write(Chunk),
    Reopen(Sender<io::Result<()>>),
    Stop(Sender<()>),
}

/// The running writer. Dropping it without [`Writer::stop`] leaves the thread to write what the
/// remaining [`Log`]s send.
pub struct Writer {
    orders: Sender<Order>,
    /// What the thread will work with, until there is one.
    pending: Cell<Option<(Output, Receiver<Order>)>>,
    format: LogFormat,
    level: LogLevel,
    has_colours: bool,
}

/// Whether standard error is a terminal whose user has not switched colours off
/// (<https://no-color.org>). `get` reads the environment.
fn wants_colours(is_terminal: bool, get: impl Fn(&str) -> Option<OsString>) -> bool {
    let is_set = |name| get(name).is_some_and(|value| !value.is_empty());
    let is_dumb = get("TERM").is_some_and(|term| term == "dumb");
    is_terminal && !is_set("NO_COLOR") && !is_dumb
}

impl Writer {
    /// Opens the log file, if there is one, and starts the thread.
    ///
    /// # Errors
    /// If the file cannot be opened for appending or the thread not started.
    pub fn start(config: &LogConfig) -> io::Result<Self> {
        let writer = Self::open(config, &Identity::current())?;
        writer.begin()?;
        Ok(writer)
    }

    /// Opens the log file, if there is one. Until [`Writer::begin`] lines are kept, as many as
    /// there are buffers for. A file that is made here is given to `owner`.
    ///
    /// # Errors
    /// If the file cannot be opened for appending.
    pub fn open(config: &LogConfig, owner: &Identity) -> io::Result<Self> {
        let output = match &config.file {
            Some(path) => Output::new(Target::File {
                file: open_for(path, owner).map_err(|error| naming(path, &error))?,
                path: path.clone(),
            }),
            None => Output::new(Target::Stream(Box::new(io::stderr()))),
        };
        let is_terminal = config.file.is_none() && io::stderr().is_terminal();
        Ok(Writer {
            has_colours: wants_colours(is_terminal, |name| std::env::var_os(name)),
            ..Self::on(output, config)
        })
    }

    /// Fails as [`Writer::open`] would. A file that is not there is not made; one that is there is
    /// left as it is.
    ///
    /// # Errors
    /// If the file could not be opened for appending.
    pub fn check(config: &LogConfig) -> io::Result<()> {
        let Some(path) = &config.file else {
            return Ok(());
        };
        let opened = to_append().open(path);
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check_writable_blocking(directory_of(path))
            }
            other => other.map(drop),
        }
        .map_err(|error| naming(path, &error))
    }

    fn on(output: Output, config: &LogConfig) -> Self {
        let (orders, queue) = mpsc::channel();
        Writer {
            orders,
            pending: Cell::new(Some((output, queue))),
            format: config.format,
            level: config.level,
            has_colours: false,
        }
    }

    /// Starts the thread, if it does not run yet.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn begin(&self) -> io::Result<()> {
        let Some((output, queue)) = self.pending.take() else {
            return Ok(());
        };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_until_stopped(output, &queue))
            .map(drop)
    }

    /// A log for one more thread.
    pub fn log(&self) -> Log {
        let orders = self.orders.clone();
        // The queue is as long as there are buffers, so sending never waits. After a stop the
        // chunk comes back at once and its lines count as dropped.
        let deliver = move |chunk| drop(orders.send(Order::Write(chunk)));
        Log::new(self.format, self.level, Box::new(deliver)).with_colours(self.has_colours)
    }

    /// Closes the log file and opens it anew by name, after a rotation. If that fails, the old
    /// one stays in use.
    ///
    /// # Errors
    /// Why the file cannot be opened, or `TimedOut`: the writer waits for its disk, and opens the file anew when it
    /// comes to that.
    pub fn reopen(&self, patience: Duration) -> io::Result<()> {
        let (done, is_done) = mpsc::channel();
        let _ = self.orders.send(Order::Reopen(done));
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        is_done.recv_timeout(patience).unwrap_or_else(late)
    }

    /// Writes all that was handed over until now, then ends the thread. True if that was done
    /// within `patience`.
    pub fn stop(self, patience: Duration) -> bool {
        let (done, is_done) = mpsc::channel();
        if self.begin().is_err() {
            return false;
        }
        let _ = self.orders.send(Order::Stop(done));
        is_done.recv_timeout(patience).is_ok()
    }
}

enum Target {
    Stream(Box<dyn Write + Send>),
    File { file: File, path: PathBuf },
}

struct Output {
    target: Target,
    /// The last write ended within a line.
    is_torn: bool,
    /// When standard error may next be told that the file cannot be written.
    complaint_due: Now,
}

impl Output {
    fn new(target: Target) -> Self {
        Output {
            target,
            is_torn: false,
            complaint_due: Now(0),
        }
    }

    /// Output after half a line begins a new line.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.write_some(b"\n").1?;
            self.is_torn = false;
        }
        let (written, result) = self.write_some(lines);
        self.is_torn = written > 0 && lines[written - 1] != b'\n';
        result
    }

    fn write_some(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        match &mut self.target {
            Target::Stream(stream) => write_until_refused(stream.as_mut(), bytes),
            Target::File { file, .. } => write_until_refused(file, bytes),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Target::File { file, path } = &mut self.target {
            *file = open(path).map_err(|error| naming(path, &error))?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// The file cannot say why it cannot be written, so standard error does.
    fn complain(&mut self, error: &io::Error, now: Now, print: impl FnOnce(&str)) {
        if let Target::File { path, .. } = &self.target
            && now >= self.complaint_due
        {
            self.complaint_due = now + COMPLAINT_INTERVAL;
            let error = naming(path, error);
            // There is nobody else to be told.
            print(&format!(
                "{error}; log lines are lost; the log says later how many"
            ));
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("--log-file {}: {error}", path.display()),
    )
}

fn to_append() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(WITHOUT_WAITING);
    options
}

fn open(path: &Path) -> io::Result<File> {
    to_append().create(true).open(path)
}

fn open_for(path: &Path, owner: &Identity) -> io::Result<File> {
    let made = to_append().create_new(true).open(path);
    match made {
        Ok(file) => {
            if !owner.is_current() {
                give_file(&file, owner)?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(path),
        Err(error) => Err(error),
    }
}

fn write_until_stopped(mut output: Output, queue: &Receiver<Order>) {
    while let Ok(order) = queue.recv() {
        match order {
            // A chunk that is not marked goes home with its lines counted as lost.
            Order::Write(chunk) => match output.write(chunk.bytes()) {
                Ok(()) => chunk.written(),
                Err(error) => {
                    drop(chunk);
                    output.complain(&error, clock::now(), stderr::print);
                }
            },
            Order::Reopen(done) => {
                let _ = done.send(output.reopen());
            }
            Order::Stop(done) => {
                let _ = done.send(());
                return;
            }
        }
    }
}

/// How many octets were written, and why not all.
fn write_until_refused(stream: &mut dyn Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut tries_left = FULL_PIPE_TRIES;
    let mut done = 0;
    while done < bytes.len() {
        match stream.write(&bytes[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                done += written;
                tries_left = FULL_PIPE_TRIES;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries_left > 0 => {
                tries_left -= 1;
                thread::sleep(FULL_PIPE_WAIT);
            }
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::event::Event;
    use crate::time::WallTime;
    use std::fs;
    use std::io::Read;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    const E: &Event = &Event::with_any_fields("e");
    const AT: WallTime = WallTime(0);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn config(file: Option<PathBuf>) -> LogConfig {
        LogConfig {
            format: LogFormat::Text,
            level: LogLevel::Info,
            file,
        }
    }

    fn log_number(log: &Log, number: u64) {
        log.line(LogLevel::Info, E, AT).field("number", number);
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        // terminal, NO_COLOR, TERM, colours
        let table = [
            (true, None, Some("xterm"), true),
            (true, Some(""), None, true),
            (true, Some("1"), Some("xterm"), false),
            (true, None, Some("dumb"), false),
            (false, None, Some("xterm"), false),
        ];
        for (is_terminal, no_color, term, expected) in table {
            let get = |name: &str| match name {
                "NO_COLOR" => no_color.map(OsString::from),
                _ => term.map(OsString::from),
            };
            assert_eq!(
                wants_colours(is_terminal, get),
                expected,
                "{no_color:?} {term:?}"
            );
        }
    }

    #[test]
    fn what_was_flushed_is_written_at_the_stop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let writer = Writer::start(&config(Some(path.clone()))).unwrap();
        let (one, two) = (writer.log(), writer.log());
        thread::spawn(move || {
            log_number(&one, 1);
            one.flush(AT);
        })
        .join()
        .unwrap();
        log_number(&two, 2);
        two.flush(AT);
        assert!(writer.stop(PATIENCE));
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "1970-01-01T00:00:00.000Z info e number=1\n1970-01-01T00:00:00.000Z info e number=2\n"
        );
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let writer = Writer::start(&config(Some(path.clone()))).unwrap();
        let log = writer.log();
        log_number(&log, 1);
        log.flush(AT);
        fs::rename(&path, &old).unwrap();
        writer.reopen(PATIENCE).unwrap();
        log_number(&log, 2);
        log.flush(AT);
        assert!(writer.stop(PATIENCE));
        assert!(fs::read_to_string(&old).unwrap().ends_with("number=1\n"));
        assert!(fs::read_to_string(&path).unwrap().ends_with("number=2\n"));
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_stays_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("logs/log"), dir.path().join("moved"));
        fs::create_dir(dir.path().join("logs")).unwrap();
        let writer = Writer::start(&config(Some(path))).unwrap();
        fs::rename(dir.path().join("logs"), &moved).unwrap();
        assert!(writer.reopen(PATIENCE).is_err());
        let log = writer.log();
        log_number(&log, 1);
        log.flush(AT);
        assert!(writer.stop(PATIENCE));
        let text = fs::read_to_string(moved.join("log")).unwrap();
        assert!(text.ends_with("number=1\n"), "{text}");
    }

    /// Takes so many octets, then none until it is given more room.
    struct SmallDisk {
        room: Arc<AtomicUsize>,
        held: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for SmallDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.room.load(Ordering::SeqCst);
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = room.min(bytes.len());
            self.room.fetch_sub(taken, Ordering::SeqCst);
            self.held.lock().unwrap().extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_that_a_full_disk_took_is_counted_and_the_next_line_is_whole() {
        let (room, held) = (Arc::new(AtomicUsize::new(100)), Arc::default());
        let disk = SmallDisk {
            room: room.clone(),
            held: Arc::clone(&held),
        };
        let output = Output::new(Target::Stream(Box::new(disk)));
        let writer = Writer::on(output, &config(None));
        writer.begin().unwrap();
        let log = writer.log();
        for number in 0..100 {
            log_number(&log, number);
            // What cannot be written is known at once, and reported in vain with the next line.
            log.flush(AT);
            writer.reopen(PATIENCE).unwrap();
        }
        room.store(usize::MAX, Ordering::SeqCst);
        while log.flush(AT) {
            thread::yield_now();
        }
        log_number(&log, 100);
        log.flush(AT);
        assert!(writer.stop(PATIENCE));
        let text = String::from_utf8(held.lock().unwrap().clone()).unwrap();
        let reported: u64 = text
            .lines()
            .filter_map(|line| line.split_once("lines_dropped=")?.1.parse::<u64>().ok())
            .sum();
        assert_eq!(reported, log.dropped_total(), "{text}");
        let half = |line: &&str| !line.contains("number=") && !line.contains("lines_dropped=");
        assert_eq!(text.lines().filter(half).count(), 1, "{text}");
        let whole = text
            .lines()
            .filter(|line| line.contains(" e number="))
            .count() as u64;
        assert_eq!(whole + reported, 101, "{text}");
    }

    #[test]
    fn standard_error_is_told_once_that_the_file_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = open(&path).unwrap();
        let mut output = Output::new(Target::File { file, path });
        let mut told = Vec::new();
        let start = Now(1_000_000);
        for second in 0..60 {
            let error = io::Error::from_raw_os_error(28);
            let now = start + Duration::from_secs(second);
            output.complain(&error, now, |line| told.push(line.to_owned()));
        }
        let [line] = &told[..] else {
            panic!("one line: {told:?}");
        };
        assert!(
            line.contains("--log-file") && line.contains("No space left"),
            "{line}"
        );
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_an_error_at_start() {
        assert!(Writer::start(&config(Some("/nonexistent/log".into()))).is_err());
    }

    #[test]
    fn a_reader_that_stands_still_holds_up_nobody() {
        const LINES: u64 = 100_000;
        let (mut reader, pipe) = io::pipe().unwrap();
        let output = Output::new(Target::Stream(Box::new(pipe)));
        let writer = Writer::on(output, &config(None));
        writer.begin().unwrap();
        let log = writer.log();
        // The pipe holds 64 KiB, so the writer is stuck from early on; this loop must still end.
        for number in 0..LINES {
            log_number(&log, number);
        }
        assert!(log.dropped_total() > 0);

        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        // Flush until all is told: what was dropped is reported once a buffer is free.
        while log.flush(AT) {
            thread::yield_now();
        }
        assert!(writer.stop(PATIENCE));
        let text = reading.join().unwrap().unwrap();
        let written = text
            .lines()
            .filter(|line| line.contains(" number="))
            .count() as u64;
        let reported: u64 = text
            .lines()
            .filter_map(|line| line.split_once("lines_dropped=")?.1.parse::<u64>().ok())
            .sum();
        assert_eq!(reported, log.dropped_total());
        assert_eq!(written + reported, LINES);
    }

    #[test]
    fn a_writer_that_is_stuck_does_not_hold_up_the_stop() {
        let (reader, pipe) = io::pipe().unwrap();
        let output = Output::new(Target::Stream(Box::new(pipe)));
        let writer = Writer::on(output, &config(None));
        writer.begin().unwrap();
        let log = writer.log();
        for number in 0..10_000 {
            log_number(&log, number);
        }
        assert!(!writer.stop(Duration::from_millis(50)));
        drop(reader);
    }
}
