//! What an operator reads: the log of the relay as a process, about single events.

use crate::support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::client::{CONTENT, Client, send_mail};
use support::next_hop::{Answer, NextHop, Occasion, StartTls};
use support::relay::{Home, Relay};
use support::{PATIENCE, relay_to};

const FROM: &str = "a@sender.test";
const TO: &str = "b@example.test";

fn not_now(occasion: Occasion<'_>) -> Answer {
    match occasion.command.starts_with("RCPT") {
        true => Answer::Say("450 4.2.1 not now"),
        false => Answer::Usual,
    }
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {event}"))
}

/// Takes mail for example.test from anybody, and for nobody else.
fn closed_relay(home: &Home, more: &[&str]) -> Relay {
    let mut flags = vec!["--relay-from", "none", "--relay-domain", "example.test"];
    flags.extend(more);
    home.start(&flags)
}

#[test]
fn why_was_my_customers_mail_refused() {
    let home = Home::new();
    let relay = closed_relay(&home, &["--max-message-size", "64KiB"]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO customer.test", 250);
    client.expect("MAIL FROM:<a@sender.test> SIZE=1000000", 552);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect("RCPT TO:<x@elsewhere.test>", 554);
    client.expect("RCPT TO:<b@example.test>", 250);
    client.expect("DATA", 354);
    client.expect("bare\nline end\r\n.", 550);
    client.quit();
    let session = relay.wait_for("session", |_| true);
    assert_eq!(session["client"], "127.0.0.1");
    assert!(session["client_port"].is_u64());
    let rejected = relay.events("rejected");
    let at: Vec<_> = rejected.iter().map(|event| text(event, "at")).collect();
    assert_eq!(at, ["MAIL", "RCPT", "content"]);
    for event in &rejected {
        assert_eq!(event["session"], session["session"]);
        assert_eq!(event["client"], "127.0.0.1");
        assert_eq!(event["hello"], "customer.test");
        assert_eq!(event["from"], "a@sender.test");
    }
    assert!(text(&rejected[0], "reply").starts_with("552 5.3.4 "));
    assert_eq!(rejected[1]["to"], serde_json::json!(["x@elsewhere.test"]));
    assert!(text(&rejected[1], "reply").starts_with("554 5.7.1 "));
    assert_eq!(rejected[2]["to"], serde_json::json!(["b@example.test"]));
    assert!(text(&rejected[2], "reply").starts_with("550 5.6.0 "));
    relay.stop();
}

#[test]
fn a_flood_of_refusals_is_not_a_flood_of_lines() {
    let home = Home::new();
    let relay = closed_relay(&home, &["--max-errors", "10000", "--error-rate", "0"]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    let begun = Instant::now();
    for number in 0..200 {
        client.expect(&format!("RCPT TO:<n{number}@elsewhere.test>"), 554);
    }
    let seconds = begun.elapsed().as_secs() as usize + 1;
    client.quit();
    relay.wait_for("session", |_| true);
    let lines = relay.events("rejected").len();
    assert!(
        (3..=3 + 2 * seconds).contains(&lines),
        "{lines} in {seconds} s"
    );
    relay.stop();
}

#[test]
fn an_accepted_message_is_found_by_its_message_id_its_recipients_and_its_session() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let to: Vec<String> = (0..12).map(|n| format!("r{n}@example.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let content = "Subject: x\r\nMessage-ID:\r\n <2026.x@sender.test>\r\n\r\nhello";
    send_mail(relay.address(), FROM, &to, content);
    // Its start has left memory when it is whole.
    let large = "x\r\n".repeat(2 << 20);
    let large = format!("Message-ID: <large@sender.test>\r\n\r\n{large}");
    send_mail(relay.address(), FROM, &[TO], &large);
    let accepted = relay.wait_for_count("accepted", 2, |_| true);
    let sessions = relay.wait_for_count("session", 2, |_| true);
    assert_eq!(accepted[0]["message_id"], "<2026.x@sender.test>");
    assert_eq!(accepted[0]["to"], serde_json::json!(to[..10]));
    assert_eq!(accepted[0]["to_left_out"], 2);
    assert_eq!(accepted[1]["message_id"], "<large@sender.test>");
    assert_eq!(accepted[1]["to"], serde_json::json!([TO]));
    for (accepted, session) in accepted.iter().zip(&sessions) {
        assert_eq!(accepted["session"], session["session"]);
    }
    assert_ne!(sessions[0]["session"], sessions[1]["session"]);
    relay.stop();
}

#[test]
fn a_deferral_says_where_how_often_and_when_next() {
    let (home, hop) = (Home::new(), NextHop::scripted(StartTls::Works, not_now));
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let deferred = relay.wait_for_count("deferred", 2, |_| true);
    for (event, attempt) in deferred.iter().zip(1..) {
        assert_eq!(event["attempt"], attempt);
        assert_eq!(event["host"], "[127.0.0.1]");
        assert!(text(event, "time") < text(event, "next_try"), "{event}");
    }
    assert!(text(&deferred[0], "next_try") <= text(&deferred[1], "time"));
    relay.stop();
}

#[test]
fn where_is_my_message_is_answered_of_each_that_waits_for_a_dead_host() {
    const MESSAGES: usize = 30;
    let home = Home::new();
    let flags = ["--route", "*=[127.0.0.1]:1", "--retry-min", "1s"];
    let relay = home.start(&flags);
    for _ in 0..MESSAGES {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
    }
    let ids = |event: &str| -> BTreeSet<String> {
        let events = relay.events(event);
        events.iter().map(|it| text(it, "id").to_owned()).collect()
    };
    relay.wait_for_count("accepted", MESSAGES, |_| true);
    let accepted = ids("accepted");
    assert_eq!(accepted.len(), MESSAGES);
    let begun = Instant::now();
    while ids("deferred") != accepted {
        assert!(begun.elapsed() < PATIENCE, "{:?}", relay.events("deferred"));
        let seen = relay.events("deferred").len();
        relay.wait_for_count("deferred", seen + 1, |_| true);
    }
    for event in relay.events("deferred") {
        assert!(text(&event, "reply").contains("refused"), "{event}");
        text(&event, "next_try");
    }
    relay.stop();
}

#[test]
fn a_delivery_in_plaintext_says_why() {
    let table = [
        (StartTls::NotOffered, "may", "not offered"),
        (StartTls::Works, "none", "not wanted"),
        (StartTls::Refused, "may", "STARTTLS was refused: 454 "),
        (StartTls::Garbage, "may", "TLS failed in the handshake: "),
    ];
    for (starttls, level, why) in table {
        let (home, hop) = (Home::new(), NextHop::scripted(starttls, |_| Answer::Usual));
        let relay = relay_to(&home, &hop, &["--tls-out", level]);
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        let delivered = relay.wait_for("delivered", |_| true);
        assert_eq!(delivered["tls"], "none");
        assert!(
            text(&delivered, "plaintext").starts_with(why),
            "{delivered}"
        );
        relay.stop();
    }
}

#[test]
fn a_host_whose_tls_failed_before_is_said_to_be_one() {
    let (home, hop) = (
        Home::new(),
        NextHop::scripted(StartTls::Garbage, |_| Answer::Usual),
    );
    let relay = relay_to(&home, &hop, &["--max-deliveries-per-connection", "1"]);
    for number in 1..=2 {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        relay.wait_for_count("delivered", number, |_| true);
    }
    let delivered = relay.events("delivered");
    let why = text(&delivered[1], "plaintext");
    assert!(
        why.starts_with("TLS failed before, in the handshake: "),
        "{why}"
    );
    relay.stop();
}

#[test]
fn with_tls_nothing_is_said_of_plaintext() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let delivered = relay.wait_for("delivered", |_| true);
    assert_eq!(delivered["tls"], "TLSv1.3");
    assert!(delivered["plaintext"].is_null());
    relay.stop();
}

#[test]
fn listening_says_whether_there_is_tls() {
    let table = [
        (&[][..], "offered by STARTTLS", true),
        (&["--tls-require"], "demanded, by STARTTLS", true),
        (&["--no-starttls"], "not offered", false),
    ];
    for (flags, tls, is_tried) in table {
        let home = Home::new();
        let relay = home.start(flags);
        assert_eq!(relay.events("listening")[0]["tls"], tls);
        let hint = text(&relay.events("ready")[0], "try").to_owned();
        assert_eq!(hint.contains(" --tls "), is_tried, "{hint}");
        relay.stop();
    }
}

#[test]
fn a_reload_says_what_was_not_read_again() {
    let home = Home::new();
    let routes = home.file("routes", "example.test=[127.0.0.1]:1\n");
    let log = home.path("log");
    let relay = home.spawn(&[
        "--routes-file",
        &routes,
        "--log-file",
        log.to_str().unwrap(),
    ]);
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until(|| lines().contains("\"ready\""));
    relay.signal("HUP");
    wait_until(|| lines().contains("\"reload\""));
    let line = lines()
        .lines()
        .find(|line| line.contains("\"reload\""))
        .unwrap()
        .to_owned();
    let reload: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        reload["read_again"],
        format!("the certificate, --routes-file {routes}, the log file, opened anew")
    );
    let not_again = text(&reload, "not_read_again");
    assert!(
        not_again.starts_with("flags, the system's trusted roots"),
        "{not_again}"
    );
    assert!(not_again.ends_with("/etc/resolv.conf"), "{not_again}");
    drop(relay);
}

#[test]
fn which_hosts_does_my_mail_wait_for() {
    let (home, hop) = (Home::new(), NextHop::start());
    // The kernel accepts there, and nobody greets.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_name = format!("[127.0.0.1]:{}", mute.local_addr().unwrap().port());
    let routes = format!(
        "{};dead.test=[127.0.0.1]:1;mute.test={mute_name}",
        hop.route("example.test")
    );
    let relay = home.start(&[
        "--route",
        &routes,
        "--ingress-cores",
        "0,0",
        "--delivery-cores",
        "0,0",
    ]);
    for to in ["dead.test", "dead.test", "mute.test", "example.test"] {
        send_mail(relay.address(), FROM, &[&format!("u@{to}")], CONTENT);
    }
    relay.wait_for("delivered", |_| true);
    relay.wait_for("connect-failed", |_| true);
    relay.signal("USR1");
    let dead = relay.wait_for("next-hop", |line| line["hop"] == "[127.0.0.1]:1");
    assert!(
        ["paused", "failing"].contains(&text(&dead, "state")),
        "{dead}"
    );
    assert_eq!(dead["waiting"], 2, "{dead}");
    assert!(text(&dead, "next_try") > text(&dead, "time"), "{dead}");
    assert!(text(&dead, "reply").contains("refused"), "{dead}");
    let mute = relay.wait_for("next-hop", |line| line["hop"] == mute_name);
    assert_eq!(mute["state"], "connected", "{mute}");
    assert_eq!(mute["connections"], 1, "{mute}");
    // Counts are those of this moment.
    let counters = relay.wait_for("counters", |_| true);
    assert_eq!(counters["messages_accepted"], 4, "{counters}");
    assert_eq!(counters["delivered"], 1, "{counters}");
    assert!(relay.events("core-silent").is_empty());
    drop(relay);
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came to that");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_was_recovered_is_said_in_numbers() {
    let (home, hop) = (Home::new(), NextHop::scripted(StartTls::Works, not_now));
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO, "c@example.test"], CONTENT);
    relay.wait_for_count("deferred", 4, |_| true);
    relay.kill();
    let relay = relay_to(&home, &hop, &[]);
    let recovery = relay.events("recovery").remove(0);
    assert_eq!(recovery["messages"], 1);
    assert_eq!(recovery["open_recipients"], 2);
    relay.stop();
}

/// One core thread, one control thread; the lines of the former come in the order of their times.
#[test]
fn lines_of_a_thread_are_in_the_order_of_their_times() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    for _ in 0..50 {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
    }
    relay.wait_for_count("delivered", 50, |_| true);
    relay.wait_for_count("session", 50, |_| true);
    let of_the_core = ["accepted", "session", "delivered", "rejected"];
    let lines = relay.all_events();
    let times: Vec<&str> = lines
        .iter()
        .filter(|event| of_the_core.contains(&text(event, "event")))
        .map(|event| text(event, "time"))
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    relay.stop();
}
