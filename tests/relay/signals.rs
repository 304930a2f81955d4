//! What signals ask for, when something is in the way: a reader that does not read, a file that never ends, a stop
//! that takes its time.

use crate::support;

use serde_json::Value;
use std::fs;
use std::io::{PipeReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};
use support::client::{CONTENT, Client, send_mail};
use support::next_hop::{Answer, NextHop, StartTls};
use support::relay::{Home, PROGRAM, Relay, set_mode};
use support::stopped_thread::StoppedThread;
use support::{PATIENCE, certificate_files, relay_to};

const FROM: &str = "a@sender.test";
const TO: &str = "b@example.test";

/// A relay that logs to a file; nobody reads its standard error unless a test does.
struct Quiet {
    child: Child,
    log: PathBuf,
}

impl Quiet {
    fn start(home: &Home, log: &Path, stderr: Stdio, flags: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.env("HOME", home.path("")).stdin(Stdio::null());
        for (flag, value) in [
            ("--listen", "127.0.0.1:0"),
            ("--hostname", "relay.test"),
            ("--segment-size", "4MiB"),
            ("--log-format", "json"),
            ("--ingress-cores", "0"),
            ("--delivery-cores", "0"),
        ] {
            command.args([flag, value]);
        }
        command.args(["--no-pin", "--strict-seccomp"]);
        command.arg("--spool").arg(home.path("spool"));
        command.arg("--tls-dir").arg(home.path("tls"));
        command.arg("--log-file").arg(log).args(flags);
        let child = command.stderr(stderr).spawn().expect("it starts");
        let log = log.to_owned();
        Quiet { child, log }
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(kill.unwrap().success(), "the relay runs");
    }

    /// The first event of that name in this file, now or soon.
    fn wait_for(&mut self, log: &Path, name: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(log).unwrap_or_default();
            let mut events = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(event) = events.find(|event| event["event"] == name) {
                return event;
            }
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "no {name} in {text}");
            assert!(Instant::now() < deadline, "no {name} in {text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not stop");
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- the relay's log ---\n{log}");
        }
    }
}

fn fifo(path: &Path) {
    let _ = fs::remove_file(path);
    let made = Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(path)
        .status();
    assert!(made.unwrap().success());
}

/// SIGHUP, and the line that ends it.
fn reload(relay: &Relay) -> Value {
    let before = relay.events("reload").len();
    relay.signal("HUP");
    let mut reloads = relay.wait_for_count("reload", before + 1, |_| true);
    reloads.remove(before)
}

fn has(line: &Value, field: &str, text: &str) -> bool {
    line[field].as_str().is_some_and(|it| it.contains(text))
}

#[test]
fn a_collector_that_asks_more_often_than_the_watchdog_looks_does_not_starve_it() {
    let home = Home::new();
    let path = home.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut program = Command::new(PROGRAM);
    program.env("NOTIFY_SOCKET", &path);
    // Told every second.
    program.env("WATCHDOG_USEC", "3000000");
    let relay = home.spawn_by(program, &[]);
    relay.wait_until_ready();
    let end = Instant::now() + Duration::from_secs(5);
    let pause = Duration::from_millis(300);
    manager.set_read_timeout(Some(pause)).unwrap();
    let mut signs_of_life = 0;
    while Instant::now() < end {
        relay.signal("USR1");
        let next = Instant::now() + pause;
        let mut buffer = [0; 1024];
        while Instant::now() < next {
            if let Ok(length) = manager.recv(&mut buffer) {
                let word = String::from_utf8_lossy(&buffer[..length]).into_owned();
                signs_of_life += usize::from(word.contains("WATCHDOG=1"));
            }
        }
    }
    assert!(signs_of_life >= 2, "{signs_of_life} in 5 s");
    relay.stop();
}

#[test]
fn what_the_control_thread_warns_of_is_in_the_log_before_the_next_signal() {
    let home = Home::new();
    let mut program = Command::new(PROGRAM);
    // Nobody is there.
    program.env("NOTIFY_SOCKET", home.path("notify"));
    let relay = home.spawn_by(program, &[]);
    relay.wait_until_ready();
    relay.wait_for("service-manager", |line| line["error"].is_string());
    relay.stop();
}

/// A core that stands still has not what was read again: an operator is to know at once, not at the next signal.
#[test]
fn core_silent_after_sighup_is_in_the_log_within_two_seconds() {
    let home = Home::new();
    let cores = ["--ingress-cores", "0", "--delivery-cores", "1"];
    // Another process may stop its threads.
    let relay = home.start(&[&cores[..], &["--core-dumps"]].concat());
    let silent = StoppedThread::new(relay.pid(), "ringpost-1");
    let begun = Instant::now();
    let said = reload(&relay);
    relay.wait_for("core-silent", |line| has(line, "cores", "[1]"));
    let (least, most) = (Duration::from_millis(900), Duration::from_secs(3));
    let taken = begun.elapsed();
    assert!(taken >= least && taken < most, "{taken:?}");
    let lines = relay.all_events();
    let place = |name| lines.iter().position(|line| line["event"] == name);
    assert!(place("core-silent") < place("reload"), "{said}");
    drop(silent);
    relay.stop();
}

/// A pipe that takes nothing more. Whoever holds the reader keeps it so.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let copy = writer.try_clone().unwrap();
    // Its capacity, unless somebody has changed it.
    writer.write_all(&vec![b'.'; 64 << 10]).unwrap();
    (reader, Stdio::from(copy))
}

#[test]
fn a_log_that_cannot_be_reopened_and_a_deaf_standard_error_change_nothing() {
    for is_full in [true, false] {
        let home = Home::new();
        let hop = NextHop::start();
        fs::create_dir(home.path("log")).unwrap();
        let (reader, stderr) = match is_full {
            true => full_pipe(),
            false => {
                let (reader, writer) = std::io::pipe().unwrap();
                (reader, Stdio::from(writer))
            }
        };
        let log = home.path("log/log");
        let route = hop.route("*");
        let mut relay = Quiet::start(&home, &log, stderr, &["--route", &route]);
        let address = relay.wait_for(&log, "listening")["address"].clone();
        relay.wait_for(&log, "ready");
        if !is_full {
            drop(reader);
        }
        let moved = home.path("moved");
        fs::rename(home.path("log"), &moved).unwrap();
        relay.signal("HUP");
        // The old file is in use.
        let log = moved.join("log");
        let complaint = relay.wait_for(&log, "log");
        assert!(has(&complaint, "error", "--log-file"), "{complaint}");
        let reload = relay.wait_for(&log, "reload");
        assert!(has(&reload, "not_read_again", "the log file"), "{reload}");
        relay.signal("USR1");
        relay.wait_for(&log, "counters");
        let address = address.as_str().unwrap().parse().unwrap();
        send_mail(address, FROM, &[TO], CONTENT);
        hop.wait_for_mail(1);
        assert!(relay.stop().success());
    }
}

#[test]
fn a_key_that_is_a_pipe_is_refused_and_not_waited_for() {
    let home = Home::new();
    let (_, certificate, key) = certificate_files(&home);
    let relay = home.start(&["--tls-cert", &certificate, "--tls-key", &key]);
    for file in [&certificate, &key] {
        let kept = fs::read(file).unwrap();
        fifo(Path::new(file));
        let before = relay.events("certificate").len();
        let said = reload(&relay);
        assert!(!has(&said, "read_again", "certificate"), "{said}");
        let errors = relay.events("certificate").split_off(before);
        assert!(
            errors.iter().any(|line| has(line, "error", file)),
            "{errors:?}"
        );
        fs::remove_file(file).unwrap();
        fs::write(file, kept).unwrap();
        set_mode(Path::new(file), 0o600);
    }
    let said = reload(&relay);
    assert!(has(&said, "read_again", "the certificate"), "{said}");
    relay.stop();
}

#[test]
fn a_generated_key_that_has_become_a_pipe_is_made_anew() {
    let home = Home::new();
    let relay = home.start(&[]);
    fifo(&home.path("tls/generated-key.pem"));
    let said = reload(&relay);
    assert!(has(&said, "read_again", "the certificate"), "{said}");
    assert!(home.path("tls/generated-key.pem").is_file());
    relay.stop();
}

#[test]
fn a_new_certificate_is_taken_although_the_spare_one_cannot_be_read() {
    let home = Home::new();
    let (_, certificate, key) = certificate_files(&home);
    let relay = home.start(&["--tls-cert", &certificate, "--tls-key", &key]);
    let before = relay.events("certificate");
    // Nothing can be made in its place.
    fs::remove_dir_all(home.path("tls")).unwrap();
    home.file("tls", "in the way");
    certificate_files(&home);
    let said = reload(&relay);
    assert!(has(&said, "read_again", "the certificate"), "{said}");
    let after = relay.events("certificate").split_off(before.len());
    let of_kind = |lines: &[Value], is_spare: bool| {
        let wanted =
            |line: &&Value| line["sha256"].is_string() && line["for"].is_string() == is_spare;
        lines.iter().find(wanted).expect("one")["sha256"].clone()
    };
    assert_ne!(of_kind(&before, false), of_kind(&after, false));
    assert_eq!(of_kind(&before, true), of_kind(&after, true));
    assert!(
        after.iter().any(|line| line["error"].is_string()),
        "{after:?}"
    );
    relay.stop();
}

/// A relay for the domains of a file, and the path of that.
fn with_domains(text: &str) -> (Home, String, Relay) {
    let home = Home::new();
    let domains = home.file("domains", text);
    let relay = home.start(&["--relay-from", "none", "--relay-domains-file", &domains]);
    (home, domains, relay)
}

#[test]
fn a_list_without_an_end_is_refused_at_its_bound() {
    let (_home, domains, relay) = with_domains("old.test\n");
    let hole = fs::File::create(&domains).unwrap();
    hole.set_len(1 << 40).unwrap();
    let said = reload(&relay);
    assert!(!has(&said, "read_again", "domains"), "{said}");
    let [line] = &relay.events("list")[..] else {
        panic!("one complaint");
    };
    assert!(has(line, "error", "larger than"), "{line}");
    assert!(has(line, "error", &domains), "{line}");
    relay.stop();
}

#[test]
fn a_list_that_is_no_file_any_more_is_an_error_also_if_it_is_the_only_one() {
    let (_home, domains, relay) = with_domains("old.test\n");
    let path = Path::new(&domains);
    type Change = fn(&Path);
    let changes: [(&str, Change); 3] = [
        ("a pipe", fifo),
        ("a directory", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("a link to nothing", |path| {
            fs::remove_dir(path).unwrap();
            std::os::unix::fs::symlink("nothing", path).unwrap();
        }),
    ];
    for (name, change) in changes {
        change(path);
        let before = relay.events("list").len();
        let said = reload(&relay);
        assert!(!has(&said, "read_again", "domains"), "{name}: {said}");
        assert!(!has(&said, "not_read_again", "domains"), "{name}: {said}");
        let list = relay.events("list").split_off(before);
        let [line] = &list[..] else {
            panic!("{name}: one complaint: {list:?}");
        };
        assert!(has(line, "error", &domains), "{name}: {line}");
        assert_eq!(line["effect"], "all lists stay as they were");
    }
    relay.stop();
}

fn many_domains(count: usize) -> String {
    (0..count).map(|n| format!("d{n}.test\n")).collect()
}

/// Stays as it is on a file system that does not keep it.
fn last_read(path: impl AsRef<Path>) -> SystemTime {
    fs::metadata(path).unwrap().accessed().unwrap()
}

#[test]
fn a_large_list_is_read_beside_signals_and_a_sighup_meanwhile_asks_for_one_more() {
    let (home, domains, relay) = with_domains("old.test\n");
    fs::write(&domains, many_domains(300_000)).unwrap();
    let unread = last_read(&domains);
    relay.signal("HUP");
    relay.signal("USR1");
    relay.wait_for("counters", |_| true);
    assert!(relay.events("list").is_empty(), "it takes longer");
    // A busy host may not have come to open it.
    let deadline = Instant::now() + Duration::from_secs(2);
    while last_read(&domains) == unread && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::write(home.path("new"), "new.test\n").unwrap();
    fs::rename(home.path("new"), &domains).unwrap();
    for _ in 0..3 {
        relay.signal("HUP");
    }
    // Of the three one remains to be done.
    let said = relay.wait_for_count("list", 2, |line| line["entries"].is_u64());
    assert_eq!(said[0]["added"], 300_000, "{said:?}");
    assert_eq!(said[1]["removed"], 300_000, "{said:?}");
    relay.wait_for_count("reload", 2, |line| has(line, "read_again", "domains"));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(relay.events("list").len(), 2);
    relay.stop();
}

/// What the control thread has taken of the CPU, which is the first thread of the process.
fn cpu_of_control_thread(relay: &Relay) -> Duration {
    let pid = relay.pid();
    let counts = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).unwrap();
    let on_cpu = counts.split_whitespace().next().unwrap();
    Duration::from_nanos(on_cpu.parse().unwrap())
}

/// It has been read, and hundreds of thousands of pieces of memory are to be given back.
#[test]
fn a_large_list_that_says_the_same_is_let_go_of_beside_signals() {
    let (_home, _, relay) = with_domains(&many_domains(300_000));
    let before = cpu_of_control_thread(&relay);
    reload(&relay);
    let taken = cpu_of_control_thread(&relay) - before;
    assert_eq!(relay.events("list")[0]["added"], 0);
    assert!(taken < Duration::from_millis(10), "{taken:?}");
    relay.stop();
}

#[test]
fn a_stop_does_not_wait_for_a_large_list() {
    let (_home, domains, mut relay) = with_domains("old.test\n");
    fs::write(&domains, many_domains(300_000)).unwrap();
    relay.signal("HUP");
    std::thread::sleep(Duration::from_millis(100));
    relay.signal("TERM");
    relay.wait_for("stopping", |_| true);
    assert!(relay.events("list").is_empty(), "nobody waited");
    relay.wait_for("reload", |line| has(line, "not_read_again", "stop"));
    assert!(relay.wait().success());
    assert_eq!(relay.events("stop")[0]["how"], "drained");
}

/// A next hop that has the content and says nothing keeps a drain waiting.
fn silent_after_the_content() -> NextHop {
    NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "." => Answer::Stall,
        _ => Answer::Usual,
    })
}

#[test]
fn a_relay_that_drains_says_what_it_waits_for_and_reopens_its_log() {
    let home = Home::new();
    let hop = silent_after_the_content();
    let log = home.path("log");
    let route = hop.route("*");
    let flags = ["--route", &route, "--drain-timeout", "1h"];
    let mut relay = Quiet::start(&home, &log, Stdio::null(), &flags);
    relay.wait_for(&log, "ready");
    let address = relay.wait_for(&log, "listening")["address"].clone();
    send_mail(
        address.as_str().unwrap().parse().unwrap(),
        FROM,
        &[TO],
        CONTENT,
    );
    hop.wait_for_command(|command| command == ".");
    relay.signal("TERM");
    relay.wait_for(&log, "stopping");
    relay.signal("USR1");
    relay.wait_for(&log, "counters");
    let hop = relay.wait_for(&log, "next-hop");
    assert_eq!(hop["connections"], 1, "{hop}");
    let rotated = home.path("log.1");
    fs::rename(&log, &rotated).unwrap();
    relay.signal("HUP");
    let said = relay.wait_for(&log, "reload");
    assert!(has(&said, "read_again", "the log file"), "{said}");
    assert!(has(&said, "not_read_again", "stop"), "{said}");
    let text = fs::read_to_string(&log).unwrap();
    // The second one ends it.
    assert!(relay.stop().success(), "{text}");
    assert!(fs::read_to_string(&log).unwrap().contains("at once"));
}

/// Who waits for a stop asks what it waits for, and each answer takes longer while a core is silent.
#[test]
fn the_end_of_a_drain_does_not_wait_for_who_asks() {
    for pause in [400, 0] {
        let home = Home::new();
        let cores = ["--ingress-cores", "0", "--delivery-cores", "1"];
        let drain = ["--drain-timeout", "3s", "--core-dumps"];
        let mut relay = home.start(&[&cores[..], &drain].concat());
        let silent = StoppedThread::new(relay.pid(), "ringpost-1");
        relay.signal("TERM");
        let begun = Instant::now();
        relay.wait_for("stopping", |_| true);
        while relay.events("stop").is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(15), "it goes on");
            relay.signal("USR1");
            std::thread::sleep(Duration::from_millis(pause));
        }
        let taken = begun.elapsed();
        assert!(taken < Duration::from_secs(5), "{taken:?}");
        drop(silent);
        relay.wait();
    }
}

/// RFC 5321 section 3.8: no client finds its connection closed without a word.
#[test]
fn clients_in_mid_transaction_are_told_when_a_drain_ends() {
    for (patience, signals) in [("1s", 1), ("1h", 2)] {
        let (home, hop) = (Home::new(), NextHop::start());
        let mut relay = relay_to(&home, &hop, &["--drain-timeout", patience]);
        let mut envelope = Client::connect(relay.address());
        envelope.expect("EHLO client.test", 250);
        let mut content = Client::connect(relay.address());
        content.expect("EHLO client.test", 250);
        let mut over_tls = Client::connect_with_starttls(relay.address());
        for client in [&mut envelope, &mut content, &mut over_tls] {
            client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        }
        content.expect(&format!("RCPT TO:<{TO}>"), 250);
        content.expect("DATA", 354);
        content.send("Subject: half of it\r\n");
        // It neither reads nor goes.
        let mut deaf = Client::connect(relay.address());
        deaf.send("EHLO client.test\r\nMAIL FROM:<>\r\n");

        relay.signal("TERM");
        relay.wait_for("stopping", |_| true);
        let begun = Instant::now();
        (1..signals).for_each(|_| relay.signal("TERM"));
        for client in [&mut envelope, &mut content, &mut over_tls] {
            let last = client.reply();
            assert_eq!((last.code, &last.text[4..9]), (421, "4.3.2"), "{last:?}");
        }
        assert!(relay.wait().success());
        let taken = begun.elapsed();
        assert!(taken < Duration::from_secs(5), "{taken:?}");
        assert!(has(&relay.events("stop")[0], "how", "at once"));
    }
}

#[test]
fn a_next_hop_that_does_not_answer_quit_holds_up_no_stop() {
    for answer in [|| Answer::Stall, || Answer::Dribble("221-wait\r\n")] {
        let home = Home::new();
        let hop = NextHop::scripted(StartTls::Works, move |occasion| match occasion.command {
            "QUIT" => answer(),
            _ => Answer::Usual,
        });
        let mut relay = relay_to(&home, &hop, &["--drain-timeout", "1h"]);
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        relay.wait_for("delivered", |_| true);
        relay.signal("TERM");
        hop.wait_for_command(|command| command == "QUIT");
        let begun = Instant::now();
        assert!(relay.wait().success());
        // Any other time it may take five seconds.
        let taken = begun.elapsed();
        assert!(taken < Duration::from_secs(4), "{taken:?}");
        assert_eq!(relay.events("stop")[0]["how"], "drained");
    }
}

#[test]
fn what_an_operator_asks_for_is_answered_whatever_the_level_is() {
    let home = Home::new();
    let path = home.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut program = Command::new(PROGRAM);
    program.env("NOTIFY_SOCKET", &path);
    let domains = home.file("domains", "old.test\n");
    let flags = ["--log-level", "error", "--relay-domains-file", &domains];
    let mut relay = home.spawn_by(program, &flags);
    // The log does not say when it is ready.
    manager.recv(&mut [0; 1024]).unwrap();
    fs::write(&domains, "old.test\nnew.test\n").unwrap();
    relay.signal("HUP");
    relay.wait_for("reload", |line| has(line, "read_again", "domains"));
    relay.wait_for("list", |line| line["added"] == 1);
    relay.wait_for("certificate", |line| line["sha256"].is_string());
    relay.signal("USR1");
    relay.wait_for("metrics", |_| true);
    relay.wait_for("counters", |_| true);
    relay.signal("TERM");
    assert!(relay.wait().success());
    // Nobody has asked for these.
    assert!(relay.events("stopping").is_empty());
    assert_eq!(relay.events("counters").len(), 1);
}

#[test]
fn a_hint_is_said_whenever_a_reload_makes_it_true_again() {
    let home = Home::new();
    let recipients = home.file("recipients", "u@other.test\n");
    let flags = ["--relay-from", "none", "--relay-domain", "a.test"];
    let relay = home.start(&[&flags[..], &["--recipients-file", &recipients]].concat());
    let of_recipients = |line: &Value| has(line, "text", "no recipient of a.test");
    relay.wait_for("hint", of_recipients);
    let said = || {
        relay
            .events("hint")
            .into_iter()
            .filter(of_recipients)
            .count()
    };
    fs::write(&recipients, "u@a.test\n").unwrap();
    reload(&relay);
    assert_eq!(said(), 1);
    fs::write(&recipients, "u@other.test\n").unwrap();
    reload(&relay);
    assert_eq!(said(), 2);
    // It was said of what is in force.
    fs::write(&recipients, "v@other.test\n").unwrap();
    reload(&relay);
    assert_eq!(said(), 2);
    relay.stop();
}

#[test]
fn signals_by_the_dozen_hold_up_neither_mail_nor_each_other() {
    let home = Home::new();
    let hop = NextHop::start();
    let relay = relay_to(&home, &hop, &[]);
    for _ in 0..20 {
        relay.signal("USR1");
        relay.signal("HUP");
    }
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.accepted(FROM, &[TO], CONTENT);
    client.quit();
    hop.wait_for_mail(1);
    reload(&relay);
    relay.stop_with_nothing_left();
}
