//! What an operator reads: the log of the relay as a process, about single events.

mod support;

use serde_json::Value;
use std::time::Instant;
use support::client::{CONTENT, Client, send_mail};
use support::next_hop::{Answer, NextHop, Occasion, StartTls};
use support::relay::{Home, Relay};
use support::relay_to;

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
    let rejected = relay.events("rejected");
    let at: Vec<_> = rejected.iter().map(|event| text(event, "at")).collect();
    assert_eq!(at, ["MAIL", "RCPT", "content"]);
    for event in &rejected {
        assert_eq!(event["session"], session["session"]);
        assert_eq!(event["client"], session["client"]);
        assert_eq!(event["hello"], "customer.test");
        assert_eq!(event["from"], "a@sender.test");
    }
    assert!(text(&rejected[0], "reply").starts_with("552 5.3.4 "));
    assert_eq!(rejected[1]["to"], "x@elsewhere.test");
    assert!(text(&rejected[1], "reply").starts_with("554 5.7.1 "));
    assert_eq!(rejected[2]["to"], "b@example.test");
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
        (10..=10 * (seconds + 1)).contains(&lines),
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
    let names = text(&accepted[0], "to");
    assert!(
        names.starts_with("r0@example.test,r1@example.test,"),
        "{names}"
    );
    assert!(names.ends_with(",r9@example.test,...and 2 more"), "{names}");
    assert_eq!(accepted[1]["message_id"], "<large@sender.test>");
    assert_eq!(accepted[1]["to"], TO);
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
