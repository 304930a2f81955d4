//! The disk no longer holds the content of an accepted message, but its envelope: whoever can be told is told,
//! at once, and no next hop is blamed.

use crate::support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use support::client::{CONTENT, Client, send_mail};
use support::next_hop::{Answer, NextHop, Occasion, StartTls};
use support::relay::{Home, Relay};
use support::relay_to;

const FROM: &str = "a@sender.test";
const TO: &str = "b@example.test";

/// Changes one octet behind `mark`, which stands once in the spool, on the disk.
fn damage(home: &Home, mark: &str) {
    let directory = home.path("spool").join("segments");
    let files = fs::read_dir(directory).expect("the spool's segments");
    for file in files {
        let path = file.expect("an entry").path();
        let content = fs::read(&path).expect("our own file");
        let mut places = content.windows(mark.len());
        if let Some(at) = places.position(|it| it == mark.as_bytes()) {
            let file = OpenOptions::new().write(true).open(&path);
            let file = file.expect("our own file");
            let place = (at + mark.len()) as u64;
            file.write_all_at(b"~", place).expect("it is not read-only");
            file.sync_all().expect("a sync");
            return;
        }
    }
    panic!("{mark} is not in the spool");
}

/// Takes mail after so many recipients that it has put off.
fn hop_that_is_full_for(recipients: usize) -> NextHop {
    NextHop::scripted(StartTls::NotOffered, move |occasion: Occasion<'_>| {
        match occasion.command.starts_with("RCPT") && occasion.before < recipients {
            true => Answer::Say("452 4.2.2 mailbox full"),
            false => Answer::Usual,
        }
    })
}

fn assert_is_report_of_damage(hop: &NextHop) {
    let mails = hop.wait_for_mail(1);
    let [report] = &mails[..] else {
        panic!("{mails:?}");
    };
    assert!(report.from.starts_with("MAIL FROM:<>"), "{report:?}");
    assert!(report.to[0].contains(FROM), "{report:?}");
    let content = &report.content;
    assert!(content.contains("Status: 5.3.0"), "{content}");
    assert!(content.contains("damaged on this host's disk"), "{content}");
    assert!(content.contains(TO), "{content}");
}

/// One message whose hop was down is tried, and then the relay ends. It is not killed: the last commit that is not
/// known to be whole was not accepted, and the line `deferred` may be seen before the outcome is on the disk.
fn ended_with_mail_that_waits(home: &Home, from: &[&str], content: &str) {
    let hop = hop_that_is_full_for(usize::MAX);
    let relay = relay_to(home, &hop, &["--retry-min", "1h", "--retry-max", "1h"]);
    for from in from {
        let mut client = Client::connect(relay.address());
        client.expect("EHLO client.test", 250);
        client.accepted(from, &[TO], content);
        client.quit();
    }
    relay.wait_for_count("deferred", from.len(), |_| true);
    relay.stop();
}

fn bounced(relay: &Relay) {
    let bounced = relay.wait_for("bounced", |event| event["to"] == TO);
    assert_eq!(bounced["status"], "5.3.0", "{bounced}");
}

#[test]
fn a_message_that_is_damaged_at_the_start_is_reported_to_its_sender() {
    let home = Home::new();
    ended_with_mail_that_waits(&home, &[FROM], "Subject: x\r\n\r\nprecious text");
    damage(&home, "precious ");
    let listed = home.run(&["spool", "list", &home.spool()]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("DAMAGED content"), "{listed}");
    let hop = NextHop::start();
    let relay = relay_to(&home, &hop, &[]);
    assert_is_report_of_damage(&hop);
    bounced(&relay);
    relay.stop();
    let listed = home.run(&["spool", "list", &home.spool()]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("0 messages with 0 open"), "{listed}");
}

#[test]
fn a_large_message_with_a_damaged_part_is_reported_to_its_sender() {
    let home = Home::new();
    let filling = "0123456789 0123456789 0123456789 0123456789\r\n".repeat(20_000);
    let content = format!("Subject: x\r\n\r\n{filling}precious text\r\n{filling}");
    ended_with_mail_that_waits(&home, &[FROM], &content);
    damage(&home, "precious ");
    let hop = NextHop::start();
    let relay = relay_to(&home, &hop, &[]);
    assert_is_report_of_damage(&hop);
    bounced(&relay);
    relay.stop();
}

#[test]
fn damaged_mail_that_nobody_can_be_told_of_has_a_last_line() {
    let home = Home::new();
    ended_with_mail_that_waits(&home, &[""], "Subject: x\r\n\r\nprecious text");
    damage(&home, "precious ");
    let hop = NextHop::start();
    let relay = relay_to(&home, &hop, &[]);
    let dropped = relay.wait_for("dropped", |event| event["to"] == TO);
    assert_eq!(dropped["status"], "5.3.0", "{dropped}");
    relay.stop();
    assert!(hop.mails().is_empty());
}

/// The damage is noticed as the content goes out. Nothing is delivered, the hop is not to blame, and the other
/// mail to it goes on.
#[test]
fn damage_in_a_running_relay_is_reported_at_once_and_no_hop_is_blamed() {
    let (home, hop) = (Home::new(), hop_that_is_full_for(1));
    let relay = relay_to(&home, &hop, &["--retry-min", "3s", "--retry-max", "3s"]);
    send_mail(
        relay.address(),
        FROM,
        &[TO],
        "Subject: x\r\n\r\nprecious text",
    );
    relay.wait_for("deferred", |_| true);
    damage(&home, "precious ");
    assert_is_report_of_damage(&hop);
    bounced(&relay);
    let unreadable = relay.wait_for("content-unreadable", |_| true);
    assert!(
        unreadable["effect"]
            .as_str()
            .is_some_and(|it| it.contains("given up")),
        "{unreadable}"
    );
    send_mail(relay.address(), "c@sender.test", &[TO], CONTENT);
    assert_eq!(hop.wait_for_mail(2).len(), 2);
    assert_eq!(relay.events("deferred").len(), 1);
    relay.stop();
}
