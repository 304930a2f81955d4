//! What the relay gives up, seen from outside: `/proc`, files that it can no longer reach, and mail that
//! passes all the same. Also what a service manager hands over and is told.
//!
//! Becoming another user needs root; without it those tests say so and end.

use crate::support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::client::{CONTENT, Client, send_mail};
use support::next_hop::{Answer, NextHop, Occasion, StartTls};
use support::relay::{Home, PROGRAM, Relay, input_from, of_threads, set_mode, with_socket};
use support::{certificate_files, certificate_shown_by, relay_to};

const FROM: &str = "a@sender.test";
const TO: &str = "b@example.test";
const NOBODY: &str = "nobody";

/// A place that a user without rights may enter, and where the relay's own place can be made.
fn home_for_others() -> Option<Home> {
    if !is_root() {
        eprintln!("skipped: only root can become another user");
        return None;
    }
    let home = Home::new();
    set_mode(&home.path("."), 0o711);
    Some(home)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("our own process").uid() == 0
}

fn nobody_id() -> u32 {
    let users = fs::read_to_string("/etc/passwd").expect("the list of users");
    let line = users.lines().find(|line| line.starts_with("nobody:"));
    let fields: Vec<&str> = line.expect("every host has nobody").split(':').collect();
    fields[2].parse().expect("a number")
}

/// What `/proc` says of each thread.
fn thread_states(pid: u32) -> Vec<BTreeMap<String, String>> {
    of_threads(pid, "status")
        .iter()
        .map(|status| {
            let lines = status.lines().filter_map(|line| line.split_once(":\t"));
            lines
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect()
        })
        .collect()
}

/// Every thread has given up everything.
fn assert_sealed(relay: &Relay) {
    let threads = thread_states(relay.pid());
    assert!(threads.len() >= 3, "{threads:?}");
    for thread in &threads {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(thread[set], "0000000000000000", "{set} of {thread:?}");
        }
        assert_eq!(thread["NoNewPrivs"], "1", "{thread:?}");
        assert_eq!(thread["Seccomp"], "2", "{thread:?}");
        assert_eq!(thread["Seccomp_filters"], "3", "{thread:?}");
        if is_root() {
            assert_eq!(thread["CapBnd"], "0000000000000000", "{thread:?}");
        }
    }
}

fn assert_runs_as_nobody(relay: &Relay) {
    let id = nobody_id();
    for thread in thread_states(relay.pid()) {
        assert_eq!(thread["Uid"], vec![id.to_string(); 4].join("\t"));
        assert!(!thread["Groups"].split(' ').any(|group| group == "0"));
        assert!(!thread["Gid"].split('\t').any(|group| group == "0"));
    }
}

fn relay_as_nobody(home: &Home, hop: &NextHop, flags: &[&str]) -> Relay {
    relay_to(home, hop, &[&["--user", NOBODY], flags].concat())
}

/// The end of a relay that does not start: what it says.
#[track_caller]
fn refused(home: &Home, flags: &[&str]) -> String {
    let mut relay = home.spawn(flags);
    let status = relay.wait();
    assert_eq!(status.code(), Some(1), "{}", relay.log_text());
    relay.log_text()
}

// ---- Another user ----

#[test]
fn root_becomes_somebody_else_and_delivers() {
    let Some(home) = home_for_others() else {
        return;
    };
    let hop = NextHop::start();
    let relay = relay_as_nobody(&home, &hop, &["--listen-tls", "127.0.0.1:0"]);
    assert_sealed(&relay);
    assert_runs_as_nobody(&relay);
    let start = &relay.events("start")[0];
    assert!(
        start["user"].as_str().unwrap().starts_with("nobody:"),
        "{start}"
    );
    assert_eq!(start["capabilities"], "none");
    assert_eq!(start["seccomp"], "strict");

    let mut client = Client::connect_with_starttls(relay.address());
    client.accepted(FROM, &[TO], CONTENT);
    client.quit();
    let mail = &hop.wait_for_mail(1)[0];
    assert!(mail.over_tls);
    // Threads that came later have given up as much.
    assert_sealed(&relay);

    let owner = |name: &str| fs::metadata(home.path(name)).unwrap();
    for name in [
        "spool",
        "spool/segments",
        "spool/lock",
        "tls",
        "tls/generated-key.pem",
    ] {
        assert_eq!(owner(name).uid(), nobody_id(), "{name}");
        assert_eq!(owner(name).mode() & 0o077, 0, "{name}");
    }
    relay.stop();
}

#[test]
fn deferred_mail_reports_and_restart_as_somebody_else() {
    fn first_refuse(occasion: Occasion<'_>) -> Answer {
        match occasion.command {
            command if command.starts_with("RCPT TO:<no@") => Answer::Say("550 5.1.1 No"),
            command if command.starts_with("RCPT TO:<later@") => Answer::Say("450 4.2.0 Later"),
            _ => Answer::Usual,
        }
    }
    let Some(home) = home_for_others() else {
        return;
    };
    let hop = NextHop::scripted(StartTls::Works, first_refuse);
    let relay = relay_as_nobody(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &["no@example.test"], CONTENT);
    let report = hop.wait_for_mail(1);
    assert!(
        report[0].content.contains("multipart/report"),
        "{}",
        report[0].content
    );
    send_mail(relay.address(), FROM, &["later@example.test"], CONTENT);
    relay.wait_for_count("deferred", 2, |_| true);
    relay.stop();

    let willing = NextHop::start();
    let relay = relay_as_nobody(&home, &willing, &[]);
    let mail = &willing.wait_for_mail(1)[0];
    assert_eq!(mail.to[0], "RCPT TO:<later@example.test>");
    relay.stop();
}

#[test]
fn key_that_root_alone_may_read_is_read_once_and_that_is_said() {
    let Some(home) = home_for_others() else {
        return;
    };
    let hop = NextHop::start();
    let (first, certificate, key) = certificate_files(&home);
    let relay = relay_as_nobody(
        &home,
        &hop,
        &["--tls-cert", &certificate, "--tls-key", &key],
    );
    let shown = || certificate_shown_by(&relay);
    assert_eq!(shown(), first);
    let hint = relay.wait_for("hint", |event| {
        event["text"].as_str().unwrap().contains(&key)
    });
    assert!(
        hint["text"].as_str().unwrap().contains("chmod 640"),
        "{hint}"
    );

    relay.signal("HUP");
    let error = relay.wait_for("certificate", |event| event["error"].is_string());
    assert_eq!(error["effect"], "the old one stays in use");
    assert_eq!(shown(), first);
    relay.stop();
}

#[test]
fn key_that_the_group_may_read_is_read_again() {
    let Some(home) = home_for_others() else {
        return;
    };
    let hop = NextHop::start();
    let (_, certificate, key) = certificate_files(&home);
    let give = || {
        set_mode(Path::new(&certificate), 0o644);
        std::os::unix::fs::chown(&key, Some(0), Some(nobody_group())).unwrap();
        set_mode(Path::new(&key), 0o640);
    };
    give();
    let relay = relay_as_nobody(
        &home,
        &hop,
        &["--tls-cert", &certificate, "--tls-key", &key],
    );
    // A new file in the place of the old one, as those who renew certificates do it.
    fs::remove_file(&key).unwrap();
    fs::remove_file(&certificate).unwrap();
    let (second, _, _) = certificate_files(&home);
    give();
    relay.signal("HUP");
    relay.wait_for_count("certificate", 2, is_given);
    let shown = || certificate_shown_by(&relay);
    let deadline = std::time::Instant::now() + support::PATIENCE;
    while shown() != second {
        assert!(std::time::Instant::now() < deadline, "never shown");
    }
    relay.stop();
}

#[test]
fn list_that_is_replaced_is_read_again_from_behind_the_walls() {
    let Some(home) = home_for_others() else {
        return;
    };
    let hop = NextHop::start();
    let write = |text: &str| {
        let new = home.file("new", text);
        set_mode(Path::new(&new), 0o644);
        fs::rename(new, home.path("recipients")).unwrap();
        home.path("recipients").to_str().unwrap().to_owned()
    };
    let list = write("u@example.test\n");
    let flags = ["--relay-domain", "example.test", "--recipients-file", &list];
    let relay = relay_as_nobody(&home, &hop, &flags);
    write("u@example.test\nb@example.test\n");
    relay.signal("HUP");
    let line = relay.wait_for("list", |_| true);
    assert_eq!(line["added"], 1, "{line}");
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    relay.stop();
}

fn nobody_group() -> u32 {
    let users = fs::read_to_string("/etc/passwd").expect("the list of users");
    let line = users.lines().find(|line| line.starts_with("nobody:"));
    let fields: Vec<&str> = line.expect("every host has nobody").split(':').collect();
    fields[3].parse().expect("a number")
}

#[test]
fn log_file_is_the_users_and_is_opened_anew() {
    let Some(home) = home_for_others() else {
        return;
    };
    let hop = NextHop::start();
    fs::create_dir(home.path("log")).unwrap();
    let (log, route) = (home.path("log/relay.log"), hop.route("*"));
    std::os::unix::fs::chown(home.path("log"), Some(nobody_id()), None).unwrap();
    let flags = [
        "--user",
        NOBODY,
        "--route",
        &route,
        "--log-file",
        log.to_str().unwrap(),
    ];
    let relay = home.spawn(&flags);
    wait_for_text(&log, "\"ready\"");
    assert_eq!(fs::metadata(&log).unwrap().uid(), nobody_id());
    fs::rename(&log, home.path("log/relay.log.1")).unwrap();
    relay.signal("HUP");
    wait_for_text(&log, "certificate");
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
}

/// Polls: a file gives no word when it grows.
fn wait_for_text(path: &Path, text: &str) {
    let deadline = std::time::Instant::now() + support::PATIENCE;
    while !fs::read_to_string(path).is_ok_and(|found| found.contains(text)) {
        assert!(std::time::Instant::now() < deadline, "{text} never came");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn users_that_cannot_be_become_are_refused() {
    let Some(home) = home_for_others() else {
        return;
    };
    assert!(refused(&home, &["--user", "no-such-user"]).contains("useradd --system"));
    assert!(refused(&home, &["--user", "root"]).contains("without privileges"));
    assert!(refused(&home, &["--user", "nobody:no-such-group"]).contains("groupadd"));
}

#[test]
fn root_that_stays_root_is_told_so() {
    let Some(home) = home_for_others() else {
        return;
    };
    let relay = home.start(&[]);
    relay.wait_for("hint", |event| {
        event["text"].as_str().unwrap().contains("--user ringpost")
    });
    assert_sealed(&relay);
    relay.stop();
}

#[test]
fn spool_of_another_user_is_refused_with_the_command_that_helps() {
    let Some(home) = home_for_others() else {
        return;
    };
    home.start(&[]).stop();
    let complaint = refused(&home, &["--user", NOBODY]);
    let command = complaint
        .split_once("to put that right: ")
        .unwrap_or_else(|| panic!("{complaint}"))
        .1;
    assert!(command.starts_with("chown -R nobody:"), "{complaint}");
    run(command);
    run(&command.replace(&home.spool(), home.path("tls").to_str().unwrap()));
    home.start(&["--user", NOBODY]).stop();
    assert!(refused(&home, &[]).contains("chown -R root:"));
}

/// Does what a message says.
fn run(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status();
    assert!(status.expect("a shell").success(), "{command}");
}

// ---- Modes ----

#[test]
fn loose_modes_are_refused_with_the_command_that_helps() {
    let home = Home::new();
    home.start(&[]).stop();
    let key = home.path("tls/generated-key.pem");
    for (path, mode) in [(home.path("spool"), 0o750), (key, 0o640)] {
        set_mode(&path, mode);
        let complaint = refused(&home, &[]);
        let command = complaint.split_once("to put that right: ");
        run(command.unwrap_or_else(|| panic!("{complaint}")).1);
        home.start(&[]).stop();
    }
    let (_, certificate, key) = certificate_files(&home);
    set_mode(Path::new(&key), 0o644);
    let flags = ["--tls-cert", &certificate, "--tls-key", &key];
    assert!(refused(&home, &flags).contains("chmod 6"));
}

#[test]
fn key_that_became_loose_is_not_taken_at_a_reload() {
    let home = Home::new();
    let (_, certificate, key) = certificate_files(&home);
    let relay = home.start(&["--tls-cert", &certificate, "--tls-key", &key]);
    set_mode(Path::new(&key), 0o666);
    relay.signal("HUP");
    let error = relay.wait_for("certificate", |event| event["error"].is_string());
    assert!(
        error["error"].as_str().unwrap().contains("chmod"),
        "{error}"
    );
    relay.stop();
}

// ---- Landlock and seccomp ----

/// A certificate that is reached by a link. After the start the link leads out of all that was granted then.
fn certificate_moves_out(home: &Home, flags: &[&str]) -> Value {
    let (inside, outside) = (home.path("inside"), home.path("outside"));
    for directory in [&inside, &outside] {
        fs::create_dir(directory).unwrap();
    }
    let (_, certificate, key) = certificate_files(home);
    for directory in [&inside, &outside] {
        fs::copy(&key, directory.join("key.pem")).unwrap();
        fs::copy(&certificate, directory.join("cert.pem")).unwrap();
    }
    let links = home.path("links");
    fs::create_dir(&links).unwrap();
    let lead = |to: &PathBuf| {
        for name in ["key.pem", "cert.pem"] {
            let _ = fs::remove_file(links.join(name));
            std::os::unix::fs::symlink(to.join(name), links.join(name)).unwrap();
        }
    };
    lead(&inside);
    let (certificate, key) = (links.join("cert.pem"), links.join("key.pem"));
    let mut all = vec!["--tls-cert", certificate.to_str().unwrap()];
    all.extend(["--tls-key", key.to_str().unwrap()]);
    all.extend(flags);
    let relay = home.start(&all);
    lead(&outside);
    relay.signal("HUP");
    let event = relay.wait_for_count("certificate", 3, |_| true).remove(2);
    relay.stop();
    event
}

/// About a certificate that was read, and is not the generated one beside those given.
fn is_given(event: &Value) -> bool {
    event["sha256"].is_string() && event["for"].is_null()
}

fn has_landlock(start: &Value) -> bool {
    start["landlock"].as_str().unwrap().starts_with("version")
}

#[test]
fn files_that_are_none_of_its_business_cannot_be_opened() {
    let home = Home::new();
    let relay = home.start(&[]);
    let landlock = has_landlock(&relay.events("start")[0]);
    relay.stop();
    if !landlock {
        eprintln!("skipped: the kernel has no complete Landlock");
        return;
    }
    let event = certificate_moves_out(&Home::new(), &[]);
    let error = event["error"].as_str().unwrap_or_else(|| panic!("{event}"));
    assert!(error.contains("may not be accessed"), "{error}");
    // The same without the wall: it was the wall.
    let event = certificate_moves_out(&Home::new(), &["--no-landlock"]);
    assert!(event["sha256"].is_string(), "{event}");
}

#[test]
fn each_wall_can_be_left_away() {
    let home = Home::new();
    let relay = home.start(&["--no-seccomp", "--no-landlock", "--core-dumps"]);
    let start = &relay.events("start")[0];
    for (field, value) in [
        ("landlock", "off"),
        ("seccomp", "off"),
        ("core_dumps", "on"),
    ] {
        assert_eq!(start[field], value, "{start}");
    }
    for thread in thread_states(relay.pid()) {
        assert_eq!(thread["Seccomp"], "0");
        assert_eq!(thread["NoNewPrivs"], "1");
    }
    relay.stop();
    let complaint = refused_by_check(&["--no-landlock", "--require-landlock"]);
    assert!(complaint.contains("exclude each other"), "{complaint}");
}

fn refused_by_check(flags: &[&str]) -> String {
    let output = Home::new().run(&[&["--check"], flags].concat());
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

// ---- Secrets ----

/// Ends a relay as a failed assertion would. Whether it left a core, and its log.
fn crash(home: &Home, flags: &[&str]) -> (bool, String) {
    let mut shell = Command::new("sh");
    let script = "ulimit -c unlimited 2>/dev/null; exec \"$0\" \"$@\"";
    shell.args(["-c", script, PROGRAM]);
    shell.current_dir(home.path("."));
    let mut relay = home.spawn_by(shell, flags);
    relay.wait_until_ready();
    let mut client = Client::connect_with_starttls(relay.address());
    client.expect("EHLO client.test", 250);
    relay.signal("HUP");
    relay.wait_for_count("certificate", 2, is_given);
    relay.signal("ABRT");
    let status = relay.wait();
    assert_eq!(status.signal(), Some(6));
    (status.core_dumped(), relay.log_text())
}

#[test]
fn crash_leaves_no_core_and_the_log_holds_no_key() {
    let home = Home::new();
    let (_, certificate, key) = certificate_files(&home);
    let flags = ["--tls-cert", &certificate, "--tls-key", &key];
    let (dumped, log) = crash(&home, &flags);
    assert!(!dumped);
    let secret = fs::read_to_string(&key).unwrap();
    for line in secret.lines().filter(|line| !line.starts_with("-----")) {
        assert!(!log.contains(line));
    }
    assert!(!log.contains("PRIVATE KEY"));
    // The same with the flag for it, where a core goes into the directory of the process.
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if !pattern.trim().is_empty() && !pattern.starts_with(['|', '/', '@']) {
        let (dumped, _) = crash(
            &home,
            &[&flags[..], &["--core-dumps", "--no-landlock"]].concat(),
        );
        assert!(dumped, "{pattern}");
    }
}

// ---- Service managers ----

fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("dist")
        .join(name)
}

#[test]
fn flags_and_units_that_are_installed_are_good() {
    let flags = format!("@{}", dist("flags").display());
    let output = Home::new().run(&["--check", &flags]);
    assert!(output.status.success(), "{output:?}");

    let home = Home::new();
    let installed = "/usr/local/bin/ringpost";
    for unit in ["ringpost.service", "ringpost.socket"] {
        let text = fs::read_to_string(dist(unit)).unwrap();
        home.file(unit, &text.replace(installed, PROGRAM));
    }
    let verified = Command::new("systemd-analyze")
        .arg("verify")
        .args([home.path("ringpost.service"), home.path("ringpost.socket")])
        .output();
    match verified {
        Err(_) => eprintln!("skipped: there is no systemd here"),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && words.is_empty(), "{words}");
        }
    }
}

#[test]
fn sockets_are_taken_over() {
    let (home, hop) = (Home::new(), NextHop::start());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let route = hop.route("*");
    let flags = [
        "--route",
        &route,
        "--ingress-cores",
        "0,0",
        "--delivery-cores",
        "0,0",
    ];
    let start = || {
        let shell = with_socket("smtp");
        let relay = home.spawn_with_input(shell, input_from(&listener), &flags);
        relay.wait_until_ready();
        assert_eq!(relay.addresses("offered by STARTTLS"), [address]);
        relay
    };
    let relay = start();
    for _ in 0..10 {
        send_mail(address, FROM, &[TO], CONTENT);
    }
    hop.wait_for_mail(10);
    relay.stop();
    // The queue has outlived the relay: who comes in between waits for the next one.
    let waiting = std::net::TcpStream::connect(address).unwrap();
    let relay = start();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(waiting), &mut line).unwrap();
    assert!(line.starts_with("220 "), "{line}");
    relay.stop();
}

#[test]
fn a_socket_named_smtps_begins_with_tls() {
    let home = Home::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let shell = with_socket("smtps");
    let relay = home.spawn_with_input(shell, input_from(&listener), &[]);
    relay.wait_until_ready();
    let mut client = Client::connect_silently(relay.implicit_tls_address());
    client.link.start_tls_as_client(b"").expect("a handshake");
    client.expect_reply(220);
    client.quit();
    relay.stop();
}

#[test]
fn what_is_no_listening_socket_is_refused() {
    let home = Home::new();
    let file = fs::File::open("/dev/null").unwrap();
    let shell = with_socket("smtp");
    let mut relay = home.spawn_with_input(shell, file.into(), &[]);
    assert_eq!(relay.wait().code(), Some(1));
    assert!(relay.log_text().contains("sockets of the service manager"));
}

fn next_word(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let length = manager
        .recv(&mut buffer)
        .expect("the manager is told something");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// The first message that holds this line.
fn wait_for_word(manager: &UnixDatagram, wanted: &str) -> String {
    loop {
        let word = next_word(manager);
        if word.lines().any(|line| line == wanted) {
            return word;
        }
    }
}

#[test]
fn service_manager_hears_of_ready_reload_watchdog_and_stop() {
    let home = Home::new();
    let path = home.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let mut program = Command::new(PROGRAM);
    program.env("NOTIFY_SOCKET", &path);
    program.env("WATCHDOG_USEC", "3000000");
    let mut relay = home.spawn_by(program, &[]);
    assert!(next_word(&manager).starts_with("READY=1\n"));
    relay.wait_until_ready();
    // Whoever is told that it is ready can connect.
    Client::connect(relay.address()).quit();
    wait_for_word(&manager, "WATCHDOG=1");
    wait_for_word(&manager, "WATCHDOG=1");
    relay.signal("HUP");
    let word = wait_for_word(&manager, "RELOADING=1");
    let since = word
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(
        since
            .expect("the time of the reload")
            .parse::<u64>()
            .unwrap()
            > 0
    );
    wait_for_word(&manager, "READY=1");
    relay.signal("TERM");
    wait_for_word(&manager, "STOPPING=1");
    assert!(relay.wait().success());
    assert_eq!(relay.events("stop")[0]["how"], "drained");
}

#[test]
fn a_disk_that_refuses_is_not_called_full() {
    let Some(home) = home_for_others() else {
        return;
    };
    let hop = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        command if command.starts_with("RCPT TO:") => Answer::Say("450 4.2.0 Later"),
        _ => Answer::Usual,
    });
    let relay = relay_as_nobody(&home, &hop, &["--in-memory-size", "0"]);
    let segments = home.path("spool/segments");
    let owner = fs::metadata(&segments).unwrap().uid();
    std::os::unix::fs::chown(&segments, Some(0), None).unwrap();
    set_mode(&segments, 0o755);

    let content = format!(
        "Subject: large\r\n\r\n{}.",
        "0123456789abcdef\r\n".repeat(50_000)
    );
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    let mut refused = false;
    // What was prepared is used up first.
    for _ in 0..64 {
        let (mail, to) = (format!("MAIL FROM:<{FROM}>"), format!("RCPT TO:<{TO}>"));
        let mut lines = [&*mail, &*to, "DATA", &*content].into_iter();
        let refusal = lines.find_map(|line| {
            let reply = client.command(line);
            (reply.code >= 400).then_some(reply.text)
        });
        if let Some(refusal) = refusal {
            assert!(refusal.starts_with("451 4.3.0"), "{refusal:?}");
            refused = true;
            break;
        }
    }
    assert!(refused, "{}", relay.log_text());
    relay.wait_for("spool-disk-fails", |event| {
        event["error"].as_str().unwrap().contains("denied")
    });
    assert!(
        relay.events("spool-full").is_empty(),
        "{}",
        relay.log_text()
    );

    std::os::unix::fs::chown(&segments, Some(owner), None).unwrap();
    set_mode(&segments, 0o700);
    relay.wait_for("spool-disk-works", |_| true);
    relay.kill();
}
