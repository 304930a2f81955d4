//! Which host gets the mail, and with or without TLS, when the first way does not work: against the relay as a process.

use crate::support;

use serde_json::Value;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};
use support::client::{CONTENT, send_mail};
use support::dns::DnsServer;
use support::mx_hosts::{MxHosts, Script};
use support::next_hop::{Answer, KEYWORDS, NextHop, Occasion, StartTls, usual, verb_is};
use support::relay::Home;
use support::relay_to;

const FROM: &str = "a@sender.test";
const TO: &str = "b@example.test";

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_default()
}

// ---- a host that demands TLS ----

const DEMAND: &str = "530 5.7.0 Must issue a STARTTLS command first";

/// What the host does to the first STARTTLS; TLS works from then on.
const BAD_MOMENTS: [Answer; 4] = [
    Answer::Close,
    Answer::Reset,
    Answer::SayAndClose("421 4.7.0 Too many TLS handshakes from your address, try later"),
    Answer::Say("454 4.7.0 TLS not available due to temporary reason"),
];

#[test]
fn one_bad_moment_of_a_host_that_demands_tls_returns_no_mail() {
    for bad in BAD_MOMENTS {
        let moment = bad.clone();
        let script = move |occasion: Occasion<'_>| match occasion.command {
            "STARTTLS" if occasion.before == 0 => moment.clone(),
            command if verb_is(command, "MAIL") && !occasion.over_tls => Answer::Say(DEMAND),
            _ => Answer::Usual,
        };
        let (home, hop) = (Home::new(), NextHop::scripted(StartTls::Works, script));
        let relay = relay_to(&home, &hop, &[]);
        for number in 1..=2 {
            send_mail(relay.address(), FROM, &[TO], CONTENT);
            let mails = hop.wait_for_mail(number);
            assert!(mails.iter().all(|mail| mail.over_tls), "{bad:?}");
        }
        relay.wait_for_count("delivered", 2, |_| true);
        assert_eq!(relay.events("bounced").len(), 0, "{bad:?}");
        let demanded = relay.wait_for("tls-demanded", |_| true);
        assert_eq!(demanded["reply"], DEMAND);
        assert!(!text(&demanded, "reason").is_empty(), "{demanded}");
        relay.stop();
    }
}

/// TLS was not tried, since it had failed before: it is tried at once, and not after a wait.
#[test]
fn tls_that_was_not_tried_is_tried_at_once_where_it_is_demanded() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "STARTTLS" if occasion.before == 0 => Answer::Close,
        "." if occasion.taken == 0 => Answer::UsualThenSayAndClose("421 4.4.2 enough"),
        command if verb_is(command, "MAIL") && occasion.taken > 0 && !occasion.over_tls => {
            Answer::Say(DEMAND)
        }
        _ => Answer::Usual,
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    for number in 1..=2 {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        let mails = hop.wait_for_mail(number);
        assert_eq!(mails[number - 1].over_tls, number == 2);
    }
    relay.wait_for_count("delivered", 2, |_| true);
    assert_eq!(relay.events("deferred").len(), 0);
    relay.stop();
}

#[test]
fn mail_for_a_host_that_demands_tls_which_never_works_waits_and_says_why() {
    let hop = NextHop::scripted(StartTls::Closes, |occasion| {
        match verb_is(occasion.command, "MAIL") {
            true => Answer::Say(DEMAND),
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--queue-lifetime", "3s"]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let deferred = relay.wait_for("deferred", |event| event["to"] == TO);
    assert_eq!(deferred["reply"], DEMAND);
    assert!(text(&deferred, "plaintext").starts_with("TLS failed in"));
    let expired = relay.wait_for("expired", |event| event["to"] == TO);
    assert!(text(&expired, "reply").contains(DEMAND), "{expired}");
    assert_eq!(relay.events("bounced").len(), 0);
    let starttls = hop.commands().iter().filter(|it| *it == "STARTTLS").count();
    let mail = hop
        .commands()
        .iter()
        .filter(|it| verb_is(it, "MAIL"))
        .count();
    assert!(starttls >= mail, "TLS comes first at each attempt");
    drop(relay);
}

#[test]
fn a_plaintext_connection_ends_when_the_failure_is_forgotten() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "STARTTLS" if occasion.before == 0 => Answer::Close,
        _ => Answer::Usual,
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--tls-broken-for", "1s"]);
    let started = Instant::now();
    // Always at work, so that it is not its idle time that ends it.
    for number in 1.. {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        if hop.wait_for_mail(number)[number - 1].over_tls {
            break;
        }
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{number} mails"
        );
    }
    relay.stop();
}

#[test]
fn a_neighbours_tls_is_not_switched_off_by_a_name_that_points_at_its_host() {
    let dns = DnsServer::start();
    let hop = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "STARTTLS" if occasion.before == 0 => Answer::Close,
        _ => Answer::Usual,
    });
    let ip = hop.address().ip().to_string();
    for domain in ["attacker.test", "bank.test"] {
        dns.mx(domain, 10, &format!("mx.{domain}."));
        dns.host(&format!("mx.{domain}"), &ip);
    }
    let (server, port) = (dns.address().to_string(), hop.address().port().to_string());
    let home = Home::new();
    let relay = home.start(&["--dns", &server, "--mx-port", &port]);
    for (number, to) in [(1, "x@attacker.test"), (2, "b@bank.test")] {
        send_mail(relay.address(), FROM, &[to], CONTENT);
        let mails = hop.wait_for_mail(number);
        assert_eq!(mails[number - 1].over_tls, number == 2, "{to}");
    }
    relay.stop();
}

// ---- several hosts ----

/// As a fake MX, or one that only watches, says to everything.
const FAKES: [(StartTls, Script); 4] = [
    (StartTls::NotOffered, |occasion| {
        refuses(occasion, "RCPT", "451 4.7.1 try the other one")
    }),
    (StartTls::Works, |occasion| {
        refuses(occasion, "RCPT", "451 4.7.1 try the other one")
    }),
    (StartTls::Works, |occasion| {
        refuses(occasion, "RCPT", "554 5.7.1 use the primary")
    }),
    (StartTls::Works, |occasion| {
        refuses(occasion, ".", "554 5.7.1 use the primary")
    }),
];

fn refuses(occasion: Occasion<'_>, verb: &str, text: &'static str) -> Answer {
    match verb_is(occasion.command, verb) {
        true => Answer::Say(text),
        false => Answer::Usual,
    }
}

#[test]
fn a_secondary_that_refuses_all_keeps_no_mail_from_a_primary_that_takes_plaintext() {
    for broken in [StartTls::Garbage, StartTls::Refused] {
        for (number, fake) in FAKES.into_iter().enumerate() {
            let hosts = MxHosts::start(&[(broken, usual), fake]);
            let home = Home::new();
            // What garbage begins as a record is waited for until then.
            let relay = hosts.relay(&home, &["--handshake-timeout", "2s"]);
            for count in 1..=2 {
                send_mail(relay.address(), FROM, &[TO], CONTENT);
                hosts.hops[0].wait_for_mail(count);
            }
            relay.wait_for_count("delivered", 2, |event| event["host"] == "mx1.example.test");
            for word in ["deferred", "bounced"] {
                assert_eq!(
                    relay.events(word).len(),
                    0,
                    "{word}: {broken:?}, fake {number}"
                );
            }
            relay.stop();
        }
    }
}

/// Its commands went out behind the content of the mail before, over a session that is left with that mail.
#[test]
fn mail_that_was_begun_behind_one_that_goes_to_another_host_goes_there_as_well() {
    let refuses_content: Script = |occasion| match occasion.command {
        "." => Answer::Say("554 5.7.1 not from you"),
        _ => Answer::Usual,
    };
    let hosts = MxHosts::start(&[
        (StartTls::Refused, usual),
        (StartTls::Works, refuses_content),
    ]);
    let home = Home::new();
    let relay = hosts.relay(&home, &["--delivery-connections", "1"]);
    let count = 4;
    for _ in 0..count {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
    }
    hosts.hops[0].wait_for_mail(count);
    relay.wait_for_count("delivered", count, |event| {
        event["host"] == "mx1.example.test"
    });
    assert_eq!(relay.events("bounced").len(), 0);
    relay.stop();
}

#[test]
fn a_secondary_that_has_no_tls_does_not_come_before_a_primary_whose_tls_is_broken() {
    let hosts = MxHosts::start(&[(StartTls::Refused, usual), (StartTls::NotOffered, usual)]);
    let home = Home::new();
    let relay = hosts.relay(&home, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    assert!(!hosts.hops[0].wait_for_mail(1)[0].over_tls);
    assert_eq!(hosts.hops[1].mails().len(), 0);
    relay.stop();
}

/// What a host does that has greeted, and only then breaks.
const BREAKS: [Script; 7] = [
    |occasion| ends(occasion, "MAIL", Answer::Close),
    |occasion| ends(occasion, "RCPT", Answer::Close),
    |occasion| ends(occasion, "DATA", Answer::Close),
    |occasion| ends(occasion, "MAIL", Answer::SayAndClose("421 4.3.0 dead")),
    |occasion| ends(occasion, "RCPT", Answer::Stall),
    |occasion| {
        ends(
            occasion,
            "RCPT",
            Answer::Say("452 4.3.1 insufficient system storage"),
        )
    },
    |occasion| ends(occasion, "DATA", Answer::Say("451 4.3.0 disk trouble")),
];

fn ends(occasion: Occasion<'_>, verb: &str, answer: Answer) -> Answer {
    match verb_is(occasion.command, verb) {
        true => answer,
        false => Answer::Usual,
    }
}

#[test]
fn a_host_that_breaks_within_the_session_keeps_no_mail_from_the_second() {
    for (number, breaks) in BREAKS.into_iter().enumerate() {
        let hosts = MxHosts::start(&[(StartTls::Works, breaks), (StartTls::Works, usual)]);
        let home = Home::new();
        let relay = hosts.relay(&home, &["--reply-timeout", "1s"]);
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        hosts.hops[1].wait_for_mail(1);
        relay.wait_for("delivered", |event| event["host"] == "mx2.example.test");
        let failed = relay.wait_for("host-failed", |_| true);
        assert_eq!(failed["host"], "mx1.example.test");
        assert_eq!(relay.events("deferred").len(), 0, "{number}: at once");
        relay.stop();
    }
}

/// `primary` takes the mail at last, and the backup, which refuses all, has returned nothing.
fn mail_goes_to_the_primary_beside_a_fake_backup(primary: Script) {
    let hosts = MxHosts::start(&[(StartTls::Works, primary), FAKES[2]]);
    let home = Home::new();
    let relay = hosts.relay(&home, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hosts.hops[0].wait_for_mail(1);
    relay.wait_for("delivered", |event| event["host"] == "mx1.example.test");
    assert_eq!(relay.events("bounced").len(), 0);
    relay.stop();
}

/// A primary whose session broke is there: a secondary that takes nothing does not speak for it.
#[test]
fn a_secondary_that_refuses_all_returns_no_mail_of_a_primary_whose_session_broke() {
    let breaks_once: Script = |occasion| match verb_is(occasion.command, "MAIL") {
        true if occasion.before == 0 => Answer::Close,
        _ => Answer::Usual,
    };
    mail_goes_to_the_primary_beside_a_fake_backup(breaks_once);
}

#[test]
fn a_primary_that_is_busy_at_its_greeting_is_not_spoken_for_by_its_backup() {
    let busy_once: Script = |occasion| match occasion.command {
        "CONNECT" if occasion.before == 0 => Answer::SayAndClose("421 4.3.2 busy"),
        _ => Answer::Usual,
    };
    mail_goes_to_the_primary_beside_a_fake_backup(busy_once);
}

#[test]
fn a_host_that_demands_tls_we_cannot_have_leaves_the_mail_to_the_next_one() {
    let demands: Script = |occasion| refuses(occasion, "MAIL", DEMAND);
    let hosts = MxHosts::start(&[(StartTls::Closes, demands), (StartTls::NotOffered, usual)]);
    let home = Home::new();
    let relay = hosts.relay(&home, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hosts.hops[1].wait_for_mail(1);
    relay.wait_for("tls-demanded", |event| event["reply"] == DEMAND);
    relay.wait_for("delivered", |event| event["host"] == "mx2.example.test");
    for word in ["deferred", "bounced"] {
        assert_eq!(relay.events(word).len(), 0, "{word}");
    }
    relay.stop();
}

#[test]
fn a_host_whose_ipv6_side_breaks_after_ehlo_is_asked_over_ipv4() {
    for (number, breaks) in BREAKS.into_iter().enumerate() {
        let (starttls, any) = (StartTls::NotOffered, (Ipv4Addr::LOCALHOST, 0));
        let over_ipv4 = NextHop::on(any.into(), starttls, KEYWORDS, usual);
        let port = over_ipv4.address().port();
        let ipv6 = (Ipv6Addr::LOCALHOST, port);
        let over_ipv6 = NextHop::on(ipv6.into(), starttls, KEYWORDS, breaks);
        let dns = DnsServer::start();
        dns.mx("example.test", 10, "mx.example.test.");
        dns.host("mx.example.test", "::1");
        dns.host("mx.example.test", "127.0.0.1");
        let hosts = MxHosts {
            dns,
            hops: vec![over_ipv4, over_ipv6],
        };
        let home = Home::new();
        let relay = hosts.relay(&home, &["--reply-timeout", "1s"]);
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        hosts.hops[0].wait_for_mail(1);
        relay.wait_for("delivered", |_| true);
        assert_eq!(relay.events("deferred").len(), 0, "{number}: at once");
        assert!(hosts.hops[1].connections() > 0, "IPv6 comes first");
        relay.stop();
    }
}

#[test]
fn each_host_that_failed_is_told_and_the_mail_says_what_the_preferred_one_did() {
    let hosts = MxHosts::start(&[(StartTls::Refused, usual), (StartTls::NotOffered, usual)]);
    let home = Home::new();
    let relay = hosts.relay(&home, &["--tls-out", "encrypt"]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let deferred = relay.wait_for("deferred", |_| true);
    let told = text(&deferred, "reply");
    assert!(told.contains("454 4.7.0 TLS not available"), "{deferred}");
    for number in 1..=2 {
        let host = format!("mx{number}.example.test");
        relay.wait_for("host-failed", |event| event["host"] == *host);
    }
    relay.stop();
}

// ---- a host that does not answer ----

/// The next one takes its time, too: until it has said something, nobody is to believe that the first is still waited for.
#[test]
fn a_host_that_did_not_answer_in_time_is_left_before_the_next_one_is_there() {
    let no_answer: Script = |occasion| match verb_is(occasion.command, "MAIL") {
        true => Answer::Stall,
        false => Answer::Usual,
    };
    let no_greeting: Script = |occasion| match occasion.command {
        "CONNECT" => Answer::Stall,
        _ => Answer::Usual,
    };
    let scripts = [no_answer, no_greeting];
    let hosts = MxHosts::start(&scripts.map(|script| (StartTls::Works, script)));
    let home = Home::new();
    let flags = ["--reply-timeout", "1s", "--greeting-timeout", "10m"];
    let relay = hosts.relay(&home, &flags);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let (first, second) = (&hosts.hops[0], &hosts.hops[1]);
    first.wait_for_command(|command| verb_is(command, "MAIL"));
    second.wait_for_command(|command| command == "CONNECT");
    // The second one gives up by itself after all of it.
    assert!(first.wait_until_no_connection(support::PATIENCE / 3));
    relay.kill();
}
