//! The relay as a process: started with flags, watched by its log, stopped by signals.

use super::{PATIENCE, Watched};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ringpost");

/// Where a relay keeps its spool and certificate; goes with the test.
pub struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Home {
            dir: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file here that only its owner may read; gives its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file in the temporary directory");
        set_mode(&path, 0o600);
        path.to_str().expect("an ordinary path").to_owned()
    }

    fn command(&self) -> Command {
        self.prepared(Command::new(PROGRAM))
    }

    fn prepared(&self, mut command: Command) -> Command {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RINGPOST_") {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.dir.path());
        command.env_remove("STATE_DIRECTORY");
        command.env_remove("XDG_STATE_HOME");
        command.stdin(Stdio::null());
        command
    }

    /// Runs the program to its end, as `ringpost spool list`.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command()
            .args(arguments)
            .output()
            .expect("the program runs")
    }

    pub fn spool(&self) -> String {
        self.path("spool").to_str().expect("a path").to_owned()
    }

    /// Starts a relay and waits until it listens.
    pub fn start(&self, flags: &[&str]) -> Relay {
        let relay = self.spawn(flags);
        relay.wait_until_ready();
        relay
    }

    pub fn spawn(&self, flags: &[&str]) -> Relay {
        self.spawn_by(Command::new(PROGRAM), flags)
    }

    /// By a command that ends in the program, such as a shell that hands it something over.
    pub fn spawn_by(&self, command: Command, flags: &[&str]) -> Relay {
        self.spawn_with_input(command, Stdio::null(), flags)
    }

    pub fn spawn_with_input(&self, command: Command, input: Stdio, flags: &[&str]) -> Relay {
        let mut command = self.prepared(command);
        command.stdin(input);
        let defaults = [
            ("--listen", "127.0.0.1:0"),
            ("--hostname", "relay.test"),
            // Many relays run at a time.
            ("--http", "none"),
            ("--segment-size", "4MiB"),
            ("--log-format", "json"),
            ("--log-level", "debug"),
            ("--ingress-cores", "0"),
            ("--delivery-cores", "0"),
            ("--drain-timeout", "20s"),
            // Few tests wait for a minute.
            ("--report-window", "50ms"),
        ];
        for (flag, value) in defaults {
            if !flags.contains(&flag) {
                command.args([flag, value]);
            }
        }
        // A test that ties threads names CPUs that it may use; the default above need not be one.
        if !command
            .get_envs()
            .any(|(name, _)| name == "RINGPOST_NO_PIN")
        {
            command.arg("--no-pin");
        }
        // A system call that was forgotten is noticed.
        if !flags.contains(&"--no-seccomp") {
            command.arg("--strict-seccomp");
        }
        command.arg("--spool").arg(self.path("spool"));
        command.arg("--tls-dir").arg(self.path("tls"));
        command.args(flags).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("it was asked for");
        let log = Arc::new(Watched::new(LogLines::default()));
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || read_log(stderr, &log)
        });
        Relay {
            child,
            log,
            reader: Some(reader),
        }
    }
}

/// Hands its input over as a service manager does a socket, as descriptor 3 with this name.
pub fn with_socket(name: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&0 0</dev/null; exec \"$0\" \"$@\"",
        PROGRAM,
    ]);
    shell.env("LISTEN_FDNAMES", name);
    shell
}

pub fn input_from(listener: &TcpListener) -> Stdio {
    OwnedFd::from(listener.try_clone().expect("our own")).into()
}

pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own file");
}

#[derive(Default)]
pub struct LogLines {
    pub lines: Vec<String>,
    pub events: Vec<Value>,
    pub ended: bool,
}

fn read_log(stderr: impl Read, log: &Watched<LogLines>) {
    for line in BufReader::new(stderr).lines() {
        let Ok(line) = line else { break };
        log.change(|log| {
            if let Ok(event) = serde_json::from_str(&line) {
                log.events.push(event);
            }
            log.lines.push(line);
        });
    }
    log.change(|log| log.ended = true);
}

/// The events of which every recipient has one, at its end.
const LAST_WORDS: [&str; 4] = ["delivered", "bounced", "expired", "dropped"];

fn id_of(event: &Value) -> String {
    event["id"].as_str().expect("an id").to_owned()
}

/// A running relay; killed by its process id when dropped.
pub struct Relay {
    child: Child,
    log: Arc<Watched<LogLines>>,
    reader: Option<JoinHandle<()>>,
}

pub fn is(event: &Value, name: &str) -> bool {
    event["event"] == name
}

impl Relay {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn wait_until_ready(&self) {
        self.wait_for("ready", |_| true);
    }

    /// The address of the first listener without TLS from the first byte.
    pub fn address(&self) -> SocketAddr {
        self.addresses_with(|tls| tls != "from the first byte")[0]
    }

    pub fn implicit_tls_address(&self) -> SocketAddr {
        self.addresses("from the first byte")[0]
    }

    pub fn addresses(&self, wanted: &str) -> Vec<SocketAddr> {
        self.addresses_with(|tls| tls == wanted)
    }

    fn addresses_with(&self, wanted: impl Fn(&str) -> bool) -> Vec<SocketAddr> {
        let listening = self.events("listening");
        listening
            .iter()
            .filter(|event| wanted(event["tls"].as_str().expect("text")))
            .map(|event| {
                event["address"]
                    .as_str()
                    .expect("text")
                    .parse()
                    .expect("an address")
            })
            .collect()
    }

    /// The first event of that name that is wanted, past or to come.
    pub fn wait_for(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_count(name, 1, wanted).remove(0)
    }

    pub fn wait_for_count(
        &self,
        name: &str,
        count: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> Vec<Value> {
        let found = self.log.wait(PATIENCE, |log| {
            let events: Vec<Value> = log
                .events
                .iter()
                .filter(|event| is(event, name) && wanted(event))
                .cloned()
                .collect();
            (events.len() >= count || log.ended).then_some(events)
        });
        match found {
            Some(events) if events.len() >= count => events,
            _ => panic!("no {count} events {name} in the log:\n{}", self.log_text()),
        }
    }

    /// All events of that name until now.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let log = self.log.lock();
        log.events
            .iter()
            .filter(|event| is(event, name))
            .cloned()
            .collect()
    }

    pub fn all_events(&self) -> Vec<Value> {
        self.log.lock().events.clone()
    }

    pub fn log_text(&self) -> String {
        self.log.lock().lines.join("\n")
    }

    pub fn log_lines(&self) -> Vec<String> {
        self.log.lock().lines.clone()
    }

    /// Sends a signal by its name, such as TERM.
    pub fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args(["-s", name, &self.pid().to_string()]);
        assert!(
            kill.status().expect("kill runs").success(),
            "the relay runs"
        );
    }

    /// Waits for the end of the process; gives its status. The log is complete then.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                if let Some(reader) = self.reader.take() {
                    reader.join().expect("the reader does not panic");
                }
                return status;
            }
            if Instant::now() > deadline {
                panic!("the relay does not end:\n{}", self.log_text());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and the end that follows: everything drained, exit code 0.
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log_text());
        assert_eq!(
            self.events("stop")[0]["how"],
            "drained",
            "{}",
            self.log_text()
        );
        self.assert_log_agrees_with_counters();
    }

    /// As [`Relay::stop`]; and every recipient that was accepted here has had its one last word.
    pub fn stop_with_nothing_left(mut self) {
        self.signal("TERM");
        self.wait();
        self.assert_log_agrees_with_counters();
        let (accepted, last_words) = (self.recipients_accepted(), self.last_words());
        for (id, recipients) in &accepted {
            let told = last_words.get(id).copied().unwrap_or(0);
            assert_eq!(
                told,
                *recipients,
                "last words of {id}:\n{}",
                self.log_text()
            );
        }
    }

    /// Recipients of each message that was accepted.
    fn recipients_accepted(&self) -> BTreeMap<String, u64> {
        let counted = |event: &Value| event["recipients"].as_u64().expect("a number");
        let accepted = self.events("accepted");
        accepted
            .iter()
            .map(|event| (id_of(event), counted(event)))
            .collect()
    }

    /// How many recipients of each message have ended, by the log.
    fn last_words(&self) -> BTreeMap<String, u64> {
        let mut ended = BTreeMap::new();
        for event in LAST_WORDS.iter().flat_map(|name| self.events(name)) {
            if event["report"] != "yes" {
                *ended.entry(id_of(&event)).or_default() += 1;
            }
        }
        ended
    }

    /// No recipient has ended twice, and the counters at the end say what the lines say.
    fn assert_log_agrees_with_counters(&self) {
        let Some(counters) = self.events("counters").pop() else {
            return;
        };
        if counters["log_lines_dropped"] != 0 {
            return;
        }
        let (accepted, last_words) = (self.recipients_accepted(), self.last_words());
        for (id, recipients) in &accepted {
            let told = last_words.get(id).copied().unwrap_or(0);
            assert!(
                told <= *recipients,
                "{id} ended too often:\n{}",
                self.log_text()
            );
        }
        let said = |name: &str, is_report: bool| {
            let is_wanted = |event: &&Value| (event["report"] == "yes") == is_report;
            self.events(name).iter().filter(is_wanted).count() as u64
        };
        let mut pairs = vec![("deferred", said("deferred", false))];
        pairs.extend(LAST_WORDS.map(|name| (name, said(name, false))));
        pairs.extend([
            ("reports_delivered", said("delivered", true)),
            ("reports_dropped", said("dropped", true)),
            ("reports_deferred", said("deferred", true)),
        ]);
        for (counter, lines) in pairs {
            assert_eq!(counters[counter], lines, "{counter}:\n{}", self.log_text());
        }
        let recipients: u64 = accepted.values().sum();
        assert_eq!(counters["recipients_accepted"], recipients);
    }

    pub fn kill(mut self) {
        self.signal("KILL");
        self.wait();
    }

    /// Resident memory at its highest, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// Resident memory, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the relay runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib: u64 = line
            .and_then(|text| text.trim().trim_end_matches("kB").trim().parse().ok())
            .expect("a number");
        kib * 1024
    }

    pub fn open_descriptors(&self) -> usize {
        let dir = Path::new("/proc").join(self.pid().to_string()).join("fd");
        std::fs::read_dir(dir).expect("the relay runs").count()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the relay's log ---\n{}", self.log_text());
        }
    }
}

/// What `/proc` has of each thread of a process in this file of theirs.
pub fn of_threads(pid: u32, file: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join(file)).ok())
        .collect()
}
