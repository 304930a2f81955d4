//! What happens to one message, or to one connection, does not happen to the other mail for the same next hop: against the relay
//! as a process.

use crate::support;

use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::client::{CONTENT, Client, send_mail};
use support::dns::{DnsServer, Failure};
use support::next_hop::{Answer, Mail, NextHop, Occasion, StartTls, deaf, verb_is};
use support::relay::{Home, Relay};
use support::{PATIENCE, Watched, relay_to};

const FROM: &str = "a@sender.test";
const TO: &str = "b@example.test";

/// Far below any pause of a next hop, and within reach of a machine under load.
const SOON: Duration = Duration::from_secs(4);

/// Answers that wait until the test lets them go.
#[derive(Clone)]
struct Gate(Arc<Watched<Held>>);

#[derive(Default)]
struct Held {
    waiting: usize,
    is_open: bool,
}

impl Gate {
    fn new() -> Self {
        Gate(Arc::new(Watched::new(Held::default())))
    }

    /// In the hop: waits; true if it had to.
    fn pass(&self) -> bool {
        if self.0.lock().is_open {
            return false;
        }
        self.0.change(|held| held.waiting += 1);
        let opened = self.0.wait(PATIENCE, |held| held.is_open.then_some(()));
        opened.expect("the test opens it");
        true
    }

    fn wait_until_held(&self, count: usize) {
        let held = |held: &Held| (held.waiting >= count).then_some(());
        self.0.wait(PATIENCE, held).expect("answers that wait");
    }

    fn open(&self) {
        self.0.change(|held| held.is_open = true);
    }

    fn is_open(&self) -> bool {
        self.0.lock().is_open
    }
}

fn recipients_of(events: &[Value]) -> Vec<String> {
    let to = |event: &Value| event["to"].as_str().expect("text").to_owned();
    events.iter().map(to).collect()
}

fn recipients(count: usize) -> Vec<String> {
    let name = |number| format!("r{number}@example.test");
    (0..count).map(name).collect()
}

fn send_to(relay: &Relay, recipients: &[&str]) {
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    for to in recipients {
        client.accepted(FROM, &[to], CONTENT);
    }
    client.quit();
}

// ---- a verdict stays with whom it concerns ----

#[test]
fn a_restarting_hop_does_not_bounce_its_waiting_mail() {
    let gate = Gate::new();
    let script = {
        let gate = gate.clone();
        move |occasion: Occasion<'_>| match occasion.command {
            command if command.starts_with("RCPT TO:<no@") => {
                Answer::Say("550 5.1.1 no such user here")
            }
            "." if gate.pass() => Answer::Reset,
            _ => Answer::Usual,
        }
    };
    // Without PIPELINING, so that what is said last is said of the message that was under way.
    let hop = NextHop::with_keywords(StartTls::NotOffered, "ENHANCEDSTATUSCODES", script);
    let home = Home::new();
    // Mail counts as waiting for too long after a second here, not after a minute.
    let relay = relay_to(&home, &hop, &["--delivery-connections", "4"]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    for _ in 0..30 {
        client.accepted(FROM, &["no@example.test", TO], CONTENT);
    }
    client.quit();
    gate.wait_until_held(4);
    // Nothing happens meanwhile, which is the point: the mail behind those four waits.
    std::thread::sleep(Duration::from_millis(1500));
    gate.open();
    hop.wait_for_mail(30);
    relay.wait_for_count("delivered", 30, |event| event["to"] == TO);
    let bounced = recipients_of(&relay.events("bounced"));
    let wrongly: Vec<_> = bounced.iter().filter(|to| *to == TO).collect();
    assert!(wrongly.is_empty(), "{bounced:?}");
    relay.stop();
}

#[test]
fn waiting_mail_is_not_said_to_be_delivered_perhaps_after_cuts_of_other_mail() {
    let gate = Gate::new();
    let script = {
        let gate = gate.clone();
        move |occasion: Occasion<'_>| match occasion.command {
            "CONNECT" if occasion.before >= 3 => Answer::Stall,
            "CONNECT" => {
                gate.pass();
                Answer::Usual
            }
            "." => Answer::Close,
            _ => Answer::Usual,
        }
    };
    let hop = NextHop::scripted(StartTls::NotOffered, script);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--delivery-connections", "1"]);
    let all = recipients(12);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    send_to(&relay, &all);
    gate.open();
    relay.wait_for_count("deferred", 6, |event| event["address"].is_null());
    for event in relay.events("deferred") {
        let reply = event["reply"].as_str().expect("text");
        if event["address"].is_null() {
            assert!(!reply.contains("delivered"), "{reply}");
            assert!(!reply.contains("cannot connect"), "{reply}");
        }
    }
    assert_eq!(relay.events("bounced").len(), 0);
    relay.stop();
}

#[test]
fn a_host_that_refuses_all_mail_for_a_moment_returns_none() {
    let refusals: [(&str, &str); 3] = [
        ("CONNECT", "521 5.3.2 no mail here"),
        ("CONNECT", "220 relay.test ESMTP"),
        ("HELO", "550 5.7.1 who are you"),
    ];
    for (verb, text) in refusals {
        let script = move |occasion: Occasion<'_>| match occasion.command {
            // So that HELO follows.
            command if verb == "HELO" && verb_is(command, "EHLO") && occasion.before == 0 => {
                Answer::Say("502 5.5.1 what?")
            }
            command if verb_is(command, verb) && occasion.before == 0 => Answer::SayAndClose(text),
            _ => Answer::Usual,
        };
        let hop = NextHop::scripted(StartTls::NotOffered, script);
        let home = Home::new();
        let relay = relay_to(&home, &hop, &[]);
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        hop.wait_for_mail(1);
        relay.wait_for("delivered", |event| event["to"] == TO);
        assert_eq!(relay.events("bounced").len(), 0, "{text}");
        relay.stop();
    }
}

// ---- one party's refusal is nobody else's ----

/// What the hop says to spam@ at which command.
const REFUSALS: [(&str, &str); 9] = [
    ("MAIL", "451 4.7.24 SPF validation failed"),
    (
        "MAIL",
        "450 4.1.8 <spam@sender.test>: Sender address rejected: Domain not found",
    ),
    (
        "MAIL",
        "451 4.7.1 <too-many-connections@sender.test>: not now",
    ),
    (
        "RCPT",
        "450 4.2.0 <b@example.test>: Recipient address rejected: Greylisted",
    ),
    ("RCPT", "451 4.7.1 Greylisting in action"),
    (".", "451 4.7.1 Try again later"),
    ("MAIL", "450 4.7.1 Sender rate limit exceeded"),
    ("MAIL", "421 4.7.0 bye"),
    (".", "421 4.7.0 Try again later, closing connection"),
];

#[test]
fn a_sender_that_is_refused_does_not_hold_up_others() {
    for (verb, text) in REFUSALS {
        // The connection that carries spam@ is known by its MAIL.
        let script = move |occasion: Occasion<'_>| {
            let is_next = match verb {
                "MAIL" => occasion.command.contains("spam@"),
                _ => verb_is(occasion.command, verb) && occasion.before < 3,
            };
            match is_next {
                true => Answer::Say(text),
                false => Answer::Usual,
            }
        };
        let hop = NextHop::scripted(StartTls::NotOffered, script);
        let (home, route) = (Home::new(), hop.route("*"));
        let relay = home.start(&["--route", &route, "--delivery-connections", "1"]);
        for _ in 0..3 {
            send_mail(relay.address(), "spam@sender.test", &[TO], CONTENT);
        }
        relay.wait_for_count("deferred", 3, |event| event["from"] == "spam@sender.test");
        let started = Instant::now();
        for number in 1..=10 {
            send_mail(relay.address(), FROM, &[TO], CONTENT);
            hop.wait_for_mail(number);
        }
        assert!(started.elapsed() < SOON, "{text}: {:?}", started.elapsed());
        let deferred = relay.events("deferred");
        assert!(
            deferred
                .iter()
                .all(|event| event["from"] == "spam@sender.test"),
            "{text}: {deferred:?}"
        );
        relay.stop();
    }
}

#[test]
fn a_strangers_quoted_address_that_the_hop_echoes_does_not_hold_up_others() {
    let script = |occasion: Occasion<'_>| match occasion.command.contains("@stranger.test") {
        true => Answer::Say(
            "451 4.3.0 <\"x> too many connections <\"@stranger.test>: Temporary lookup failure",
        ),
        false => Answer::Usual,
    };
    let hop = NextHop::scripted(StartTls::NotOffered, script);
    let (home, route) = (Home::new(), hop.route("*"));
    let relay = home.start(&["--route", &route, "--delivery-connections", "1"]);
    let stranger = "\"x> too many connections <\"@stranger.test";
    send_mail(relay.address(), stranger, &[TO], CONTENT);
    relay.wait_for("deferred", |_| true);
    let started = Instant::now();
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    relay.stop();
}

#[test]
fn a_reused_session_that_refuses_to_go_on_returns_no_mail() {
    for text in [
        "503 5.5.1 nested MAIL command",
        "550 5.7.0 Too many messages in this session",
        "452 4.5.3 Too many messages in this session",
    ] {
        // The second message finds the connection of the first.
        let script = move |occasion: Occasion<'_>| {
            let is_second = verb_is(occasion.command, "MAIL") && occasion.taken > 0;
            match is_second && occasion.connection == 1 {
                true => Answer::Say(text),
                false => Answer::Usual,
            }
        };
        let hop = NextHop::scripted(StartTls::NotOffered, script);
        let (home, route) = (Home::new(), hop.route("*"));
        let relay = home.start(&["--route", &route, "--delivery-connections", "1"]);
        for number in 1..=2 {
            send_mail(relay.address(), FROM, &[TO], CONTENT);
            hop.wait_for_mail(number);
            relay.wait_for_count("delivered", number, |_| true);
        }
        assert_eq!(hop.connections(), 2, "{text}");
        assert_eq!(relay.events("deferred").len(), 0, "{text}");
        relay.stop();
    }
}

#[test]
fn mail_taken_ahead_is_not_forgotten_when_the_one_before_it_takes_another_on_its_new_connection() {
    let gate = Gate::new();
    let script = {
        let gate = gate.clone();
        // Of a list one recipient goes on over a new connection, if the session has carried mail before.
        move |occasion: Occasion<'_>| match occasion.command {
            "." if occasion.taken == 0 => {
                gate.pass();
                Answer::Usual
            }
            rcpt if rcpt.starts_with("RCPT TO:<one-too-many@") && occasion.connection == 1 => {
                Answer::Say("452 4.5.3 Too many recipients in this session")
            }
            _ => Answer::Usual,
        }
    };
    let hop = NextHop::scripted(StartTls::NotOffered, script);
    let (home, route) = (Home::new(), hop.route("*"));
    let relay = home.start(&["--route", &route, "--delivery-connections", "1"]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.accepted(FROM, &[TO], CONTENT);
    gate.wait_until_held(1);
    client.accepted(FROM, &[TO, "one-too-many@example.test"], CONTENT);
    for _ in 0..3 {
        client.accepted(FROM, &[TO], CONTENT);
    }
    client.quit();
    gate.open();
    relay.wait_for_count("delivered", 6, |_| true);
    assert_eq!(hop.connections(), 2);
    relay.stop();
}

#[test]
fn a_refused_rset_does_not_return_the_next_message() {
    let script = |occasion: Occasion<'_>| match occasion.command {
        "RSET" => Answer::Say("550 5.7.1 too many errors"),
        rcpt if rcpt.starts_with("RCPT TO:<bad@") => Answer::Say("550 5.1.1 no such user"),
        _ => Answer::Usual,
    };
    let hop = NextHop::scripted(StartTls::NotOffered, script);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--delivery-connections", "1"]);
    // Its report goes over the same session as well.
    send_mail(relay.address(), FROM, &["bad@example.test"], CONTENT);
    let reports = |event: &Value| event["report"] == "yes";
    relay.wait_for_count("delivered", 1, reports);
    send_mail(relay.address(), FROM, &["bad@example.test"], CONTENT);
    send_mail(relay.address(), "c@sender.test", &[TO], CONTENT);
    relay.wait_for("delivered", |event| event["to"] == TO);
    relay.wait_for_count("delivered", 2, reports);
    assert_eq!(
        recipients_of(&relay.events("bounced")),
        ["bad@example.test"; 2]
    );
    assert_eq!(relay.events("deferred"), [] as [Value; 0]);
    relay.wait_for("out-of-step", |event| {
        event["reply"] == "550 5.7.1 too many errors"
    });
    relay.stop();
}

#[test]
fn two_replies_to_one_dot_return_nobodys_mail() {
    for keywords in ["PIPELINING", "8BITMIME"] {
        let gate = Gate::new();
        let hop = NextHop::with_keywords(StartTls::NotOffered, keywords, {
            let gate = gate.clone();
            move |occasion| match occasion.command {
                "CONNECT" => {
                    gate.pass();
                    Answer::Usual
                }
                "." => Answer::Say("250 2.0.0 taken\r\n250 2.0.0 taken twice"),
                rcpt if rcpt.starts_with("RCPT TO:<bad") => Answer::Say("550 5.1.1 no such user"),
                _ => Answer::Usual,
            }
        });
        let home = Home::new();
        let relay = relay_to(&home, &hop, &["--delivery-connections", "1"]);
        let mut client = Client::connect(relay.address());
        client.expect("EHLO client.test", 250);
        for number in 0..8 {
            let to = ["g", "bad", "h"].map(|name| format!("{name}{number}@example.test"));
            // Nobody is told of the refusals: their reports would only be more mail.
            let mut to: Vec<&str> = to.iter().map(String::as_str).collect();
            to.rotate_left(number % 3);
            client.accepted("", &to, CONTENT);
        }
        client.quit();
        gate.open();
        let delivered = relay.wait_for_count("delivered", 16, |_| true);
        assert!(
            recipients_of(&delivered)
                .iter()
                .all(|to| !to.starts_with("bad"))
        );
        let refused = relay.wait_for_count("dropped", 8, |_| true);
        assert!(
            recipients_of(&refused)
                .iter()
                .all(|to| to.starts_with("bad"))
        );
        relay.stop();
    }
}

#[test]
fn a_timeout_says_what_was_waited_for() {
    let script = |occasion: Occasion<'_>| match verb_is(occasion.command, "RCPT") {
        true => Answer::Stall,
        false => Answer::Usual,
    };
    let hop = NextHop::scripted(StartTls::NotOffered, script);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--reply-timeout", "1s"]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let deferred = relay.wait_for("deferred", |_| true);
    assert_eq!(deferred["reply"], "no reply to RCPT within 1 s");
    relay.stop();
}

#[test]
fn mail_that_waits_for_a_paused_hop_is_deferred_by_what_the_hop_said() {
    let script = |occasion: Occasion<'_>| match verb_is(occasion.command, "MAIL") {
        true => Answer::Say("450 4.7.1 Error: too many connections from 192.0.2.1"),
        false => Answer::Usual,
    };
    let hop = NextHop::scripted(StartTls::NotOffered, script);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--delivery-connections", "1"]);
    let all = recipients(10);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    send_to(&relay, &all);
    let waited = relay.wait_for_count("deferred", 5, |event| event["address"].is_null());
    for event in waited {
        let reply = event["reply"].as_str().expect("text");
        assert!(reply.contains("too many connections"), "{reply}");
    }
    relay.stop();
}

// ---- slow is not failing ----

#[test]
fn mail_does_not_wait_behind_recipients_that_hang() {
    let gate = Gate::new();
    let script = {
        let gate = gate.clone();
        move |occasion: Occasion<'_>| {
            if occasion.command.starts_with("RCPT TO:<slow") {
                gate.pass();
            }
            Answer::Usual
        }
    };
    let hop = NextHop::scripted(StartTls::NotOffered, script);
    let (home, route) = (Home::new(), hop.route("*"));
    let relay = home.start(&["--route", &route]);
    // Three, as many as the first window has, and more than that.
    let mut hanging = 0;
    for (more, taken) in [(3, 1), (2, 2), (4, 3)] {
        for _ in 0..more {
            send_mail(relay.address(), FROM, &["slow@example.test"], CONTENT);
        }
        hanging += more;
        let started = Instant::now();
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        hop.wait_for_mail(taken);
        let took = started.elapsed();
        assert!(took < SOON, "behind {hanging}: {took:?}");
    }
    gate.wait_until_held(hanging);
    gate.open();
    hop.wait_for_mail(hanging + 3);
    relay.stop();
}

/// A hop that was quick, and keeps the final reply to `slow@` until the gate opens. `next@` is there before the content of `slow@`
/// goes out, so that it is begun behind it.
fn begun_behind_a_slow_dot(more: &[&str]) -> (NextHop, Relay, Home, Gate) {
    let (asked, dot) = (Gate::new(), Gate::new());
    let is_slow = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let script = {
        let (asked, dot) = (asked.clone(), dot.clone());
        move |occasion: Occasion<'_>| {
            use std::sync::atomic::Ordering;
            match occasion.command {
                command if command.starts_with("RCPT TO:<slow") => {
                    is_slow.store(occasion.connection, Ordering::Release);
                    asked.pass();
                }
                "." if is_slow.load(Ordering::Acquire) == occasion.connection => {
                    is_slow.store(0, Ordering::Release);
                    dot.pass();
                }
                _ => {}
            }
            Answer::Usual
        }
    };
    let hop = NextHop::scripted(StartTls::NotOffered, script);
    let home = Home::new();
    let relay = relay_to(&home, &hop, more);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.accepted(FROM, &["slow@example.test"], CONTENT);
    asked.wait_until_held(1);
    client.accepted(FROM, &["next@example.test"], CONTENT);
    asked.open();
    dot.wait_until_held(1);
    (hop, relay, home, dot)
}

fn assert_delivered_once(hop: &NextHop, relay: &Relay) {
    hop.wait_for_mail(3);
    relay.wait_for_count("delivered", 3, |_| true);
    let mut recipients: Vec<_> = hop.mails().into_iter().map(|mail| mail.to).collect();
    recipients.sort();
    let to = |name: &str| vec![format!("RCPT TO:<{name}@example.test>")];
    assert_eq!(recipients, [to("b"), to("next"), to("slow")]);
    assert_eq!(relay.events("deferred"), [] as [Value; 0]);
}

#[test]
fn mail_begun_behind_a_slow_dot_goes_over_another_connection_once() {
    let (hop, relay, _home, dot) = begun_behind_a_slow_dot(&[]);
    let started = Instant::now();
    hop.wait_for_mail(2);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    dot.open();
    assert_delivered_once(&hop, &relay);
    relay.stop();
}

#[test]
fn mail_begun_behind_a_slow_dot_goes_over_a_new_connection_if_there_may_be_one_only() {
    let (hop, relay, _home, dot) = begun_behind_a_slow_dot(&["--delivery-connections", "1"]);
    // Nothing happens meanwhile but that the mail goes back.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((hop.mails().len(), hop.connections()), (1, 1));
    dot.open();
    assert_delivered_once(&hop, &relay);
    assert_eq!(hop.connections(), 2);
    relay.stop();
}

#[test]
fn mail_begun_behind_a_dot_that_is_answered_soon_stays_on_its_connection() {
    let (hop, relay, _home, dot) = begun_behind_a_slow_dot(&["--delivery-connections", "1"]);
    dot.open();
    assert_delivered_once(&hop, &relay);
    assert_eq!(hop.connections(), 1);
    relay.stop();
}

#[test]
fn mail_does_not_wait_behind_connections_that_hang_as_they_open() {
    let gate = Gate::new();
    let script = {
        let gate = gate.clone();
        move |occasion: Occasion<'_>| {
            if occasion.command == "CONNECT" && occasion.connection <= 2 {
                gate.pass();
            }
            Answer::Usual
        }
    };
    let hop = NextHop::scripted(StartTls::NotOffered, script);
    let (home, route) = (Home::new(), hop.route("*"));
    let relay = home.start(&["--route", &route]);
    let started = Instant::now();
    send_to(&relay, &[TO, TO, TO]);
    hop.wait_for_mail(3);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    gate.open();
    relay.stop();
}

// ---- a hop that cannot be reached ----

#[test]
fn one_mail_for_a_refused_port_is_one_attempt_at_a_time() {
    let ip = std::net::Ipv4Addr::LOCALHOST;
    let socket = deaf(ip.into(), 0);
    let address = socket.local_addr().expect("bound").as_socket().expect("IP");
    let home = Home::new();
    let relay = home.start(&["--route", &format!("*=[{ip}]:{}", address.port())]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    relay.wait_for("connect-failed", |_| true);
    let first = Instant::now();
    relay.wait_for_count("connect-failed", 2, |_| true);
    assert!(
        first.elapsed() > Duration::from_millis(800),
        "{:?}",
        first.elapsed()
    );
    relay.wait_for_count("connect-failed", 3, |_| true);
    assert!(
        first.elapsed() > Duration::from_millis(2700),
        "{:?}",
        first.elapsed()
    );
    relay.stop();
}

// ---- a dead destination costs the others nothing ----

const WAITING: usize = 20;

/// Mail for that destination waits through many tries, and a start finds all of it as it was accepted.
fn assert_waits_without_a_record(flags: &[&str], tries: impl Fn(&Relay) -> usize) {
    let home = Home::new();
    let flags = [flags, &["--retry-min", "1s", "--retry-max", "1s"]].concat();
    let relay = home.start(&flags);
    for _ in 0..WAITING {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
    }
    relay.wait_for_count("accepted", WAITING, |_| true);
    let begun = Instant::now();
    while tries(&relay) < 6 {
        assert!(begun.elapsed() < PATIENCE, "it is not tried");
        std::thread::sleep(Duration::from_millis(100));
    }
    let deferred = relay.events("deferred");
    assert!(deferred.len() >= WAITING, "{}", deferred.len());
    for event in &deferred {
        assert!(
            event["attempt"].is_null() && event["next_try"].is_string(),
            "{event}"
        );
    }
    relay.kill();
    let relay = home.start(&flags);
    let recovery = relay.wait_for("recovery", |_| true);
    assert_eq!(recovery["messages"], WAITING, "{recovery}");
    assert_eq!(recovery["outcomes"], 0, "{recovery}");
    relay.stop();
}

#[test]
fn mail_for_a_dead_host_takes_no_more_of_the_spool_however_long_it_waits() {
    let flags = ["--route", "*=[127.0.0.1]:1"];
    assert_waits_without_a_record(&flags, |relay| relay.events("connect-failed").len());
}

#[test]
fn mail_for_a_domain_without_name_servers_takes_no_more_of_the_spool_however_long_it_waits() {
    use hickory_resolver::proto::rr::RecordType;
    let dns = DnsServer::start();
    dns.fail("example.test", RecordType::MX, Failure::ServFail);
    let server = dns.address().to_string();
    let tries = |relay: &Relay| relay.events("deferred").len() / WAITING;
    assert_waits_without_a_record(&["--dns", &server], tries);
}

/// The log names each message once while it waits.
#[test]
fn mail_for_a_dead_host_expires_with_what_is_wrong_there() {
    let home = Home::new();
    let relay = home.start(&[
        "--route",
        "*=[127.0.0.1]:1",
        "--retry-min",
        "1s",
        "--retry-max",
        "1s",
        "--queue-lifetime",
        "5s",
    ]);
    for _ in 0..2 {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
    }
    for event in relay.wait_for_count("expired", 2, |_| true) {
        let reply = event["reply"].as_str().expect("text");
        assert!(reply.contains("refused"), "{reply}");
    }
    let of_mail = relay.events("deferred");
    let of_mail = of_mail.iter().filter(|event| event["report"].is_null());
    assert_eq!(of_mail.count(), 2, "one line each");
    relay.stop();
}

/// Of mail that was put off before.
const BACKLOG: usize = 40;

#[test]
fn new_mail_does_not_wait_behind_the_backlog_of_a_hop_that_was_not_well() {
    let (puts_off, slow) = (Gate::new(), Gate::new());
    let script = {
        let (puts_off, slow) = (puts_off.clone(), slow.clone());
        move |occasion: Occasion<'_>| match occasion.command {
            command if verb_is(command, "RCPT") && !puts_off.is_open() => {
                Answer::Say("450 4.2.1 later")
            }
            "." => {
                slow.pass();
                Answer::Usual
            }
            _ => Answer::Usual,
        }
    };
    let hop = NextHop::scripted(StartTls::NotOffered, script);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--delivery-connections", "1"]);
    for _ in 0..BACKLOG {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
    }
    relay.wait_for_count("deferred", BACKLOG, |_| true);
    puts_off.open();
    slow.wait_until_held(1);
    let begun = Instant::now();
    let mut asked = 0;
    let all_wait = |event: &Value| event["waiting"].as_u64() >= Some(BACKLOG as u64 - 2);
    while !relay.events("next-hop").iter().any(all_wait) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", relay.events("next-hop"));
        relay.signal("USR1");
        asked += 1;
        relay.wait_for_count("next-hop", asked, |_| true);
    }
    send_mail(relay.address(), "new@sender.test", &[TO], CONTENT);
    relay.wait_for("accepted", |event| event["from"] == "new@sender.test");
    slow.open();
    let mails = hop.wait_for_mail(BACKLOG + 1);
    let is_new = |mail: &Mail| mail.from.contains("new@sender.test");
    let place = mails.iter().position(is_new).expect("it is there");
    assert!(place <= 4, "{place} old ones went first");
    relay.stop();
}
