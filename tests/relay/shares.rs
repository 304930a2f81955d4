//! One dead destination, or one flood, and everybody else's mail: against the relay as a process.

use crate::support;

use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use support::Watched;
use support::client::{CONTENT, Client};
use support::next_hop::{Answer, NextHop, StartTls, verb_is};
use support::relay::{Home, Relay};

const RECIPIENTS: usize = 20;

/// Of what mail of trusted clients may take.
const HALF_BYTES: u64 = (16 << 20) / 16 * 15 / 2;

/// Nobody listens at a port that only root may have.
const DEAD: &str = "[127.0.0.1]:9";

/// Mail for `live.test` goes to the hop, for `dead.test` to one that is down.
fn relay_beside_a_dead_host(home: &Home, live: &NextHop) -> Relay {
    let (dead, live) = (format!("dead.test={DEAD}"), live.route("live.test"));
    let flags = ["--route", &dead, "--route", &live, "--memory-max", "16MiB"];
    let more = [
        "--retry-min",
        "1h",
        "--retry-max",
        "1h",
        "--dns",
        "127.0.0.1:9",
    ];
    let flags = [&flags[..], &more].concat();
    home.start(&flags)
}

fn waiting_in(line: &Value) -> u64 {
    line["waiting"].as_u64().expect("octets")
}

fn client_of(relay: &Relay) -> Client {
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client
}

/// One message for so many recipients at a domain; the first refusal, and at which command.
fn sends(client: &mut Client, from: &str, domain: &str) -> Result<(), (&'static str, String)> {
    let mail = client.command(&format!("MAIL FROM:<{from}>"));
    if mail.code != 250 {
        return Err(("MAIL", mail.text));
    }
    client.send(&format!("RCPT TO:<somebody@{domain}>\r\n").repeat(RECIPIENTS));
    let replies: Vec<_> = (0..RECIPIENTS).map(|_| client.reply()).collect();
    if let Some(refused) = replies.into_iter().find(|it| it.code != 250) {
        client.expect("RSET", 250);
        return Err(("RCPT", refused.text));
    }
    let data = client.command("DATA");
    if data.code != 354 {
        return Err(("DATA", data.text));
    }
    let end = client.command(&format!("{CONTENT}\r\n."));
    match end.code {
        250 => Ok(()),
        _ => Err((".", end.text)),
    }
}

/// Until the first refusal: how many messages were taken, and what the refusal is.
fn floods(
    client: &mut Client,
    from: impl Fn(usize) -> String,
    domain: &str,
) -> (usize, (&'static str, String)) {
    for sent in 0..15_000 {
        if let Err(refusal) = sends(client, &from(sent), domain) {
            return (sent, refusal);
        }
    }
    panic!("15,000 messages of {RECIPIENTS} recipients are taken");
}

#[test]
fn mail_for_living_hosts_is_taken_and_delivered_while_a_dead_one_has_its_share() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_beside_a_dead_host(&home, &hop);
    let mut client = client_of(&relay);
    // One sender for all: its own share is larger than that of one destination.
    let (sent, (at, text)) = floods(&mut client, |_| "a@sender.test".to_owned(), "dead.test");
    println!("{sent} messages of {RECIPIENTS} recipients");
    assert_eq!(at, "RCPT", "{text}");
    assert!(
        text.contains("4.3.1 Too much mail is waiting for this recipient's destination"),
        "{text}"
    );
    let line = relay.wait_for("share-refused", |_| true);
    assert!(
        line["destination"]
            .as_str()
            .is_some_and(|it| it.contains(DEAD)),
        "{line}"
    );
    assert_eq!(line["limit"], "--memory-max");
    // Half of what mail of trusted clients may take, less what bodies take that are kept for now.
    assert!((4 << 20..HALF_BYTES).contains(&waiting_in(&line)), "{line}");
    for number in 0..100 {
        let from = format!("a@sender{number}.test");
        sends(&mut client, &from, "live.test").expect("there is room for others");
    }
    hop.wait_for_mail(100);
    assert!(relay.events("memory-full").is_empty());
    // The other recipients of a message go on.
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect("RCPT TO:<b@dead.test>", 452);
    client.expect("RCPT TO:<b@live.test>", 250);
    client.expect("DATA", 354);
    client.expect(&format!("{CONTENT}\r\n."), 250);
    hop.wait_for_mail(101);
    client.quit();
    relay.stop();
}

#[test]
fn a_flood_of_one_sender_leaves_room_for_the_mail_of_others() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_beside_a_dead_host(&home, &hop);
    let mut client = client_of(&relay);
    let mut hosts = Vec::new();
    let refused = loop {
        // Each domain is a destination of its own, and none of them is found.
        let domain = format!("host{}.dead.test", hosts.len());
        match sends(&mut client, "flood@sender.test", &domain) {
            Ok(()) => hosts.push(domain),
            Err(refused) => break refused,
        }
        assert!(hosts.len() < 15_000, "all of it is taken");
    };
    assert_eq!(refused.0, "MAIL", "{}", refused.1);
    assert!(
        refused.1.contains("4.3.1 Too much of your mail is waiting"),
        "{}",
        refused.1
    );
    let line = relay.wait_for("share-refused", |_| true);
    assert_eq!(line["sender"], "flood@sender.test", "{line}");
    sends(&mut client, "friend@sender.test", "live.test").expect("there is room for others");
    hop.wait_for_mail(1);
    assert!(relay.events("memory-full").is_empty());
    drop(relay);
}

#[test]
fn after_a_restart_mail_that_waits_has_its_share_again() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_beside_a_dead_host(&home, &hop);
    let mut client = client_of(&relay);
    let from = |number| format!("a@sender{number}.test");
    let (sent, _) = floods(&mut client, from, "dead.test");
    drop(client);
    relay.stop();
    let relay = relay_beside_a_dead_host(&home, &hop);
    let mut client = client_of(&relay);
    let (more, (at, text)) = floods(&mut client, from, "dead.test");
    println!("{sent} messages, and {more} after the restart");
    assert_eq!(at, "RCPT", "{text}");
    let line = relay.wait_for("share-refused", |_| true);
    assert!(
        (HALF_BYTES / 4 * 3..HALF_BYTES).contains(&waiting_in(&line)),
        "{line}"
    );
    sends(&mut client, "b@sender.test", "live.test").expect("there is room for others");
    hop.wait_for_mail(1);
    drop(relay);
}

#[test]
fn a_relay_with_one_smarthost_may_fill_as_before() {
    let home = Home::new();
    let route = format!("*={DEAD}");
    let flags = [
        "--route",
        &route,
        "--memory-max",
        "16MiB",
        "--retry-min",
        "1h",
    ];
    let relay = home.start(&[&flags[..], &["--retry-max", "1h"]].concat());
    let mut client = client_of(&relay);
    let mut sent = 0;
    while relay.events("memory-full").is_empty() {
        let _ = sends(&mut client, &format!("a@sender{sent}.test"), "any.test");
        sent += 1;
        assert!(sent < 15_000, "all of it is taken");
    }
    let lines = relay.events("share-refused");
    assert!(
        lines.iter().all(|it| it["destination"].is_null()),
        "{lines:?}"
    );
    drop(relay);
}

/// A client may declare what it likes.
#[test]
fn sizes_that_are_declared_and_never_sent_take_no_room_from_others() {
    let (home, hop) = (Home::new(), NextHop::start());
    let (dead, live) = (format!("dead.test={DEAD}"), hop.route("live.test"));
    let flags = "--ingress-cores 0 --delivery-cores 0 --segment-size 4MiB --spool-size 256MiB --max-message-size 50MiB";
    let flags: Vec<&str> = flags.split(' ').collect();
    let relay = home.start(&[&flags[..], &["--route", &dead, "--route", &live]].concat());
    let mut silent = Vec::new();
    for number in 0..20 {
        let mut client = client_of(&relay);
        let from = format!("MAIL FROM:<a@silent{number}.test> SIZE=50000000");
        for (command, code) in [
            (&from[..], 250),
            ("RCPT TO:<b@dead.test>", 250),
            ("RCPT TO:<b@live.test>", 250),
            ("DATA", 354),
        ] {
            client.expect(command, code);
        }
        silent.push(client);
    }
    let mut client = client_of(&relay);
    sends(&mut client, "a@sender.test", "live.test").expect("nothing takes the room");
    hop.wait_for_mail(1);
    assert!(relay.events("share-refused").is_empty());
    client.quit();
    drop(silent);
    relay.stop();
}

/// Each refusal is a record, and most are alone in a block of the disk. What waits takes some kilobytes.
#[test]
fn mail_that_is_put_off_again_and_again_does_not_fill_the_spool() {
    const MAILS: usize = 200;
    const REFUSALS: usize = 6_000;
    const SEGMENT_BYTES: u64 = 4 << 20;
    const SPOOL_BYTES: u64 = 24 << 20;
    let refusals = Arc::new(Watched::new(0));
    let counted = refusals.clone();
    let busy = NextHop::scripted(StartTls::NotOffered, move |occasion| {
        if !verb_is(occasion.command, "RCPT") {
            return Answer::Usual;
        }
        counted.change(|count| *count += 1);
        // A little slower than outcomes are gathered.
        std::thread::sleep(Duration::from_millis(6));
        Answer::Say("450 4.2.1 not now")
    });
    let (home, live) = (Home::new(), NextHop::start());
    let (busy, route) = (busy.route("busy.test"), live.route("live.test"));
    let flags = [
        ["--route", &busy],
        ["--route", &route],
        ["--retry-min", "1s"],
        ["--retry-max", "1s"],
        ["--segment-size", "4MiB"],
        ["--spool-size", "24MiB"],
        ["--max-message-size", "64KiB"],
        ["--delivery-connections", "1"],
        ["--ingress-cores", "0"],
        ["--delivery-cores", "0"],
    ];
    let relay = home.start(&flags.concat());
    let mut client = client_of(&relay);
    for _ in 0..MAILS {
        client.accepted("a@sender.test", &["b@busy.test"], CONTENT);
    }
    let patience = Duration::from_secs(150);
    let many = refusals.wait(patience, |count| (*count >= REFUSALS).then_some(()));
    assert!(many.is_some(), "{} refusals", *refusals.lock());
    client.accepted("a@sender.test", &["b@live.test"], CONTENT);
    live.wait_for_mail(1);
    let segments = std::fs::read_dir(home.path("spool/segments")).expect("it is there");
    let bytes = segments.map(|it| it.expect("a name").metadata().expect("a file").len());
    let bytes: u64 = bytes.sum();
    println!("{bytes} bytes");
    assert!(bytes <= SPOOL_BYTES + 2 * SEGMENT_BYTES, "{bytes}");
    assert!(relay.events("spool-full").is_empty());
    relay.stop();
}
