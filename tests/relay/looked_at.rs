//! What whoever looks at a relay is answered by HTTP.

use crate::support;

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use support::client::{CONTENT, Client, send_mail};
use support::next_hop::NextHop;
use support::relay::{Home, Relay};
use support::relay_to;

const ANY: [&str; 2] = ["--http", "127.0.0.1:0"];

fn address(relay: &Relay) -> SocketAddr {
    let said = relay.wait_for("http", |_| true);
    let address = said["address"].as_str().expect("an address");
    address.parse().expect("an address")
}

/// Status, header section and body.
fn ask(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text, and the end");
    let (head, body) = text.split_once("\r\n\r\n").expect("a header section");
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    (
        status.expect("a status line"),
        head.to_owned(),
        body.to_owned(),
    )
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let (status, _, body) = ask(address, &request);
    (status, body)
}

fn number(metrics: &str, name: &str) -> f64 {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}"))
        .parse()
        .expect("a number")
}

#[test]
fn what_is_counted_can_be_scraped() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &ANY);
    send_mail(
        relay.address(),
        "a@sender.test",
        &["b@example.test"],
        CONTENT,
    );
    relay.wait_for("delivered", |_| true);
    let address = address(&relay);
    let (status, metrics) = get(address, "/metrics");
    assert_eq!(status, 200);
    assert!((number(&metrics, "ringpost_messages_accepted_total") - 1.0).abs() < f64::EPSILON);
    assert!((number(&metrics, "ringpost_delivered_total") - 1.0).abs() < f64::EPSILON);
    assert!(number(&metrics, "ringpost_delivery_seconds_sum") < 60.0);
    assert!(!metrics.contains("sender.test"), "{metrics}");
    let (status, text) = get(address, "/v1/status?x=y");
    let said: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (status, &said["ready"], &said["counts"]["delivered"]),
        (200, &Value::Bool(true), &1.into())
    );
    assert_eq!(get(address, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(address, "/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(get(address, "/etc/passwd").0, 404);
    relay.stop();
}

#[test]
fn a_relay_that_stops_is_alive_and_not_ready() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = relay_to(&home, &hop, &ANY);
    let address = address(&relay);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    relay.signal("TERM");
    relay.wait_for("stopping", |_| true);
    assert_eq!(
        get(address, "/readyz"),
        (503, "the relay stops\n".to_owned())
    );
    assert_eq!(get(address, "/healthz").0, 200);
    client.expect("RSET", 250);
    client.expect_reply(421);
    assert!(relay.wait().success());
}

#[test]
fn what_is_no_request_is_answered_and_holds_up_nobody() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &ANY);
    let address = address(&relay);
    let (status, head, _) = ask(
        address,
        "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(status, 405);
    assert!(
        head.to_ascii_lowercase().contains("allow: get, head"),
        "{head}"
    );
    let (status, _, body) = ask(
        address,
        "HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert_eq!((status, &*body), (200, ""));
    assert_eq!(ask(address, "EHLO x\r\n\r\n").0, 400);
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    assert_eq!(ask(address, &long).0, 431);
    // Silent ones have all places, and more come: those are closed.
    let silent: Vec<_> = (0..64)
        .map(|_| TcpStream::connect(address).expect("a place"))
        .collect();
    let mut beyond = TcpStream::connect(address).expect("the kernel takes it");
    beyond
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a time");
    assert_eq!(beyond.read(&mut [0; 1]).ok(), Some(0));
    drop(silent);
    send_mail(
        relay.address(),
        "a@sender.test",
        &["b@example.test"],
        CONTENT,
    );
    relay.stop();
}

#[test]
fn a_port_that_another_process_has_is_an_error_if_somebody_wants_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let home = Home::new();
    let mut relay = home.spawn(&["--http", &address]);
    assert_eq!(relay.wait().code(), Some(1));
    let log = relay.log_text();
    assert!(
        log.contains("--http listening on") && log.contains("ss -ltnp"),
        "{log}"
    );
}
