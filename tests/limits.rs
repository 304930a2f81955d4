//! Floods and slow clients against the relay as a process: who is over a limit is told so, and who is
//! not is served meanwhile.

mod support;

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use support::client::{CONTENT, Client, send_mail};
use support::link::Link;
use support::next_hop::{Answer, NextHop, Occasion, StartTls};
use support::relay::{Home, Relay};
use support::relay_to;

const FROM: &str = "a@sender.test";
const TO: &str = "b@example.test";

/// A gateway: nobody is trusted, and everybody may send to one domain.
const GATEWAY: [&str; 4] = ["--relay-from", "none", "--relay-domain", "example.test"];

fn gateway_to(home: &Home, hop: &NextHop, flags: &[&str]) -> Relay {
    relay_to(home, hop, &[&GATEWAY, flags].concat())
}

/// A connection from another address of the loopback network.
fn connect_from(source: &str, relay: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let source: SocketAddr = format!("{source}:0").parse().expect("an address");
    socket.bind(&SockAddr::from(source)).expect("loopback");
    socket
        .connect(&SockAddr::from(relay))
        .expect("the relay listens");
    socket.into()
}

/// The same, as a client that has not read anything.
fn client_from(source: &str, relay: SocketAddr) -> Client {
    Client {
        link: Link::new(connect_from(source, relay)).expect("a link"),
    }
}

fn greeted_from(source: &str, relay: SocketAddr) -> Client {
    let mut client = client_from(source, relay);
    client.expect_reply(220);
    client.expect("EHLO client.test", 250);
    client
}

fn counter(relay: &Relay, name: &str) -> u64 {
    let counters = relay.wait_for("counters", |_| true);
    counters[name].as_u64().expect("a number")
}

/// Ends the relay; the counters are in its log then.
fn end(relay: &mut Relay) {
    relay.signal("TERM");
    assert!(relay.wait().success());
}

// ---- Total times ----

#[test]
fn a_body_that_drips_is_ended_however_steadily_it_does() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--data-timeout", "1s", "--min-data-rate", "1M"];
    let mut relay = relay_to(&home, &hop, &flags);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect("RCPT TO:<b@example.test>", 250);
    client.expect("DATA", 354);
    let ended = AtomicBool::new(false);
    let mut socket = client.link.socket().try_clone().expect("a socket");
    let reply = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) && socket.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let reply = client.expect_reply(421);
        ended.store(true, Ordering::Relaxed);
        reply
    });
    assert!(reply.contains("4.4.2"), "{reply}");
    let session = relay.wait_for("session", |_| true);
    assert!(
        session["end"].as_str().unwrap().contains("--min-data-rate"),
        "{session}"
    );
    end(&mut relay);
    assert_eq!(counter(&relay, "sessions_too_slow"), 1);
}

/// Chunks of one byte, each with its own command, are one body.
#[test]
fn a_body_that_drips_in_chunks_is_ended_too() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--data-timeout", "1s", "--min-data-rate", "1M"];
    let relay = relay_to(&home, &hop, &flags);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect("RCPT TO:<b@example.test>", 250);
    let last = loop {
        client.send("BDAT 1\r\nx");
        let reply = client.reply();
        if reply.code != 250 {
            break reply;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(last.code, 421, "{}", last.text);
    relay.stop();
}

/// Replies that nobody reads: the relay's send ends, and with it the session.
#[test]
fn a_client_that_reads_no_replies_is_ended() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--command-timeout", "1s", "--max-errors", "10000"];
    let relay = relay_to(&home, &hop, &flags);
    let client = Client::connect(relay.address());
    let mut socket = client.link.socket();
    // Each gets a longer reply; the relay stops reading once it cannot send.
    let commands = b"X\r\n".repeat(20_000);
    while socket.write_all(&commands).is_ok() {}
    relay.wait_for("session", |_| true);
    relay.stop();
}

// ---- Places for connections ----

/// Trusted is 127.0.0.1; everybody may send to one domain.
const OPEN_GATEWAY: [&str; 4] = [
    "--relay-from",
    "127.0.0.1/32",
    "--relay-domain",
    "example.test",
];

#[test]
fn two_strangers_do_not_lock_a_trusted_client_out() {
    let (home, hop) = (Home::new(), NextHop::start());
    let limits = ["--max-connections", "20", "--max-connections-per-address"];
    let relay = relay_to(&home, &hop, &[&OPEN_GATEWAY[..], &limits, &["10"]].concat());
    let mut idle: Vec<Client> = ["127.0.0.2", "127.0.0.3"]
        .into_iter()
        .flat_map(|stranger| (0..10).map(move |_| stranger))
        .map(|stranger| client_from(stranger, relay.address()))
        .collect();
    let greeted = idle.iter_mut().map(|client| client.reply().code);
    let refused = greeted.filter(|code| *code == 421).count();
    assert_eq!(refused, 2);
    let mut third = client_from("127.0.0.4", relay.address());
    assert!(third.expect_reply(421).contains("reserved"));
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    relay.wait_for("refused", |event| {
        event["reason"]
            .as_str()
            .is_some_and(|it| it.contains("reserved"))
    });
    drop((idle, third));
    relay.stop();
}

const CROWDED: [&str; 8] = [
    "--max-connections",
    "5",
    "--max-connections-per-address",
    "5",
    "--reserved-connections",
    "1",
    "--crowded-timeout",
    "1s",
];

fn names_crowded_timeout(session: &Value) -> bool {
    let end = session["end"].as_str();
    end.is_some_and(|end| end.contains("--crowded-timeout"))
}

#[test]
fn silent_strangers_give_their_places_up_while_places_run_short() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[&OPEN_GATEWAY[..], &CROWDED].concat());
    let mut trusted = Client::connect(relay.address());
    let mut silent: Vec<Client> = (0..4)
        .map(|_| client_from("127.0.0.2", relay.address()))
        .collect();
    for client in &mut silent {
        client.expect_reply(220);
    }
    for client in &mut silent {
        assert!(client.expect_reply(421).contains("4.3.2 Too busy"));
        client.expect_end();
    }
    relay.wait_for_count("session", 4, names_crowded_timeout);
    trusted.expect("EHLO client.test", 250);
    trusted.quit();
    relay.stop();
}

#[test]
fn strangers_keep_no_place_by_a_word_now_and_then_while_places_run_short() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[&OPEN_GATEWAY[..], &CROWDED].concat());
    let mut chatty: Vec<Client> = (0..4)
        .map(|_| greeted_from("127.0.0.2", relay.address()))
        .collect();
    // Well below the wait for one command, and below the limit for commands that lead nowhere.
    let ended = (0..80).any(|_| {
        std::thread::sleep(Duration::from_millis(300));
        let code = |client: &mut Client| client.command("NOOP").code;
        chatty.iter_mut().any(|client| code(client) == 421)
    });
    assert!(ended);
    drop(chatty);
    relay.stop();
}

/// As many strangers as may be there, and none of them idle: everybody is served.
#[test]
fn strangers_with_mail_are_served_while_places_run_short() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[&OPEN_GATEWAY[..], &CROWDED].concat());
    let mut busy: Vec<Client> = (0..4)
        .map(|_| greeted_from("127.0.0.2", relay.address()))
        .collect();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(300));
        for client in &mut busy {
            client.accepted(FROM, &[TO], CONTENT);
        }
    }
    hop.wait_for_mail(80);
    relay.stop();
}

// ---- Lines ----

#[test]
fn refusals_that_no_line_tells_of_are_counted_by_one_of_their_own() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &OPEN_GATEWAY);
    let mut client = greeted_from("127.0.0.2", relay.address());
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.send(&"RCPT TO:<b@elsewhere.test>\r\n".repeat(6));
    (0..6).for_each(|_| drop(client.expect_reply(554)));
    relay.wait_for("suppressed", |event| {
        event["of"] == "rejected" && event["lines_suppressed"] == 3
    });
    let rejected = relay.events("rejected");
    assert_eq!(rejected.len(), 3);
    assert!(rejected.iter().all(|it| it["lines_suppressed"].is_null()));
    drop(client);
    relay.stop();
}

// ---- Rates ----

#[test]
fn an_address_over_its_connection_rate_gets_421_and_another_is_served() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = gateway_to(&home, &hop, &["--connection-rate", "3"]);
    for _ in 0..3 {
        greeted_from("127.0.0.2", relay.address()).quit();
    }
    let mut fourth = client_from("127.0.0.2", relay.address());
    assert!(fourth.expect_reply(421).contains("4.7.0"));
    fourth.expect_end();
    let mut other = greeted_from("127.0.0.3", relay.address());
    other.accepted(FROM, &[TO], CONTENT);
    other.quit();
    relay.wait_for("refused", |event| {
        event["reason"] == "too many new connections"
    });
    end(&mut relay);
    assert_eq!(counter(&relay, "limited_connections"), 1);
}

#[test]
fn new_connections_of_all_have_a_rate_from_which_the_trusted_are_exempt() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = [
        "--relay-from",
        "127.0.0.1/32",
        "--relay-domain",
        "example.test",
        "--connection-rate-total",
        "1",
    ];
    let relay = relay_to(&home, &hop, &flags);
    // More than one a second, from however many addresses.
    let refused = (2..200).any(|last| {
        let mut client = client_from(&format!("127.0.0.{last}"), relay.address());
        client.reply().code == 421
    });
    assert!(refused);
    for _ in 0..20 {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
    }
    relay.stop();
}

#[test]
fn messages_and_recipients_of_an_address_have_rates() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--message-rate", "2", "--recipient-rate", "3"];
    let mut relay = gateway_to(&home, &hop, &flags);
    let mut client = greeted_from("127.0.0.2", relay.address());
    client.expect("MAIL FROM:<a@sender.test>", 250);
    for _ in 0..3 {
        client.expect("RCPT TO:<b@example.test>", 250);
    }
    assert!(
        client
            .expect("RCPT TO:<c@example.test>", 450)
            .contains("4.7.0")
    );
    client.expect("DATA", 354);
    client.expect(".", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect("RSET", 250);
    // In another session too: it is the address that counts.
    let mut again = greeted_from("127.0.0.2", relay.address());
    assert!(
        again
            .expect("MAIL FROM:<a@sender.test>", 450)
            .contains("4.7.0")
    );
    let mut other = greeted_from("127.0.0.3", relay.address());
    other.accepted(FROM, &[TO], CONTENT);
    let limited = relay.wait_for("limited", |event| event["limit"] == "--message-rate");
    assert_eq!(limited["client"], "127.0.0.2");
    drop((client, again, other));
    end(&mut relay);
    assert_eq!(counter(&relay, "limited_messages"), 1);
    assert_eq!(counter(&relay, "limited_recipients"), 1);
}

/// Never in plaintext because of a flood: the session ends.
#[test]
fn handshakes_over_the_rate_end_the_session_on_both_kinds_of_port() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--handshake-rate", "1", "--listen-tls", "127.0.0.1:0"];
    let mut relay = gateway_to(&home, &hop, &flags);
    let shake = |client: &mut Client| client.link.start_tls_as_client(b"");
    let mut first = greeted_from("127.0.0.2", relay.address());
    first.expect("STARTTLS", 220);
    shake(&mut first).expect("a handshake");
    let mut second = greeted_from("127.0.0.2", relay.address());
    assert!(second.expect("STARTTLS", 421).contains("4.7.0"));
    second.expect_end();
    let mut implicit = client_from("127.0.0.2", relay.implicit_tls_address());
    assert!(shake(&mut implicit).is_err());
    let mut other = client_from("127.0.0.3", relay.implicit_tls_address());
    shake(&mut other).expect("a handshake");
    other.expect_reply(220);
    drop((first, other));
    end(&mut relay);
    assert_eq!(counter(&relay, "limited_handshakes"), 2);
}

#[test]
fn handshakes_of_all_have_a_rate() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = gateway_to(&home, &hop, &["--handshake-rate-total", "1"]);
    let refused = (2..200).any(|last| {
        let mut client = greeted_from(&format!("127.0.0.{last}"), relay.address());
        client.command("STARTTLS").code == 421
    });
    assert!(refused);
    relay.wait_for("limited", |event| {
        event["limit"] == "--handshake-rate-total"
    });
    relay.stop();
}

#[test]
fn an_address_that_errs_too_often_is_shut_out_at_the_door() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = gateway_to(&home, &hop, &["--error-rate", "3"]);
    let mut client = greeted_from("127.0.0.2", relay.address());
    for _ in 0..2 {
        client.expect("WHAT", 500);
    }
    let mut second = greeted_from("127.0.0.2", relay.address());
    second.expect("WHAT", 500);
    second.send("WHAT\r\n");
    second.expect_reply(500);
    second.expect_reply(421);
    second.expect_end();
    client_from("127.0.0.2", relay.address()).expect_reply(421);
    greeted_from("127.0.0.3", relay.address()).quit();
    relay.stop();
}

// ---- Floods beside honest clients ----

#[test]
fn honest_clients_are_served_beside_a_thousand_idle_ones_and_a_flood() {
    const HONEST: usize = 50;
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--connection-rate", "200", "--handshake-rate", "20"];
    let mut relay = gateway_to(&home, &hop, &flags);
    let address = relay.address();
    let idle: Vec<Client> = (0..1000)
        .map(|n| {
            let mut client = client_from(&format!("127.0.1.{}", 1 + n / 100), address);
            client.expect_reply(220);
            client
        })
        .collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for flooder in ["127.0.2.1", "127.0.2.2"] {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut socket = connect_from(flooder, address);
                    let _ = socket.write_all(b"EHLO x\r\nSTARTTLS\r\n\x16\x03\x01garbage");
                    let _ = socket.read(&mut [0; 64]);
                }
            });
        }
        // The flood is over its limits when the honest begin.
        relay.wait_for("refused", |event| {
            event["reason"] == "too many new connections"
        });
        for n in 0..HONEST {
            let mut client = greeted_from(&format!("127.0.3.{n}"), address);
            client.accepted(FROM, &[TO], CONTENT);
            client.quit();
        }
        over.store(true, Ordering::Relaxed);
    });
    hop.wait_for_mail(HONEST);
    drop(idle);
    end(&mut relay);
    assert!(counter(&relay, "limited_connections") > 0);
    assert_eq!(counter(&relay, "messages_accepted"), HONEST as u64);
}

// ---- The ceiling over memory ----

/// What a relay with a ceiling of 16 MiB may take beyond what it takes idle: the ceiling, as much again
/// that the allocator keeps of what was given back, and buffers of a thread.
const GROWTH_BYTES_MAX: u64 = (2 * 16 + 32) << 20;

/// Sends one large message; false if it was put off.
fn sends_large(address: SocketAddr, content: &[u8]) -> bool {
    let mut client = Client::connect_silently(address);
    if client.reply().code != 220 {
        return false;
    }
    client.expect("EHLO client.test", 250);
    if client.command("MAIL FROM:<a@sender.test>").code != 250
        || client.command("RCPT TO:<b@example.test>").code != 250
        || client.command("DATA").code != 354
    {
        return false;
    }
    client.link.send(content).expect("the relay reads");
    client.command("\r\n.").code == 250
}

#[test]
fn a_flood_of_large_bodies_stays_under_the_ceiling_and_all_of_it_is_delivered() {
    const CLIENTS: usize = 150;
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = [
        "--memory-max",
        "16MiB",
        "--max-connections-per-address",
        "0",
    ];
    let relay = relay_to(&home, &hop, &flags);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    let before = relay.peak_memory_bytes();
    let content =
        b"0123456789 0123456789 0123456789 0123456789 0123456789 0123456\r\n".repeat(16_384);
    let accepted = AtomicUsize::new(0);
    let address = relay.address();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                if sends_large(address, &content) {
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let accepted = accepted.into_inner();
    assert!(accepted > 0);
    let mails = hop.wait_for_mail(1 + accepted);
    let whole = mails
        .iter()
        .filter(|mail| mail.content.len() > content.len());
    assert_eq!(whole.count(), accepted);
    let grown = relay.peak_memory_bytes().saturating_sub(before);
    println!("{accepted} of {CLIENTS} accepted; {grown} bytes more than before");
    assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes more");
    relay.stop();
}

/// One transaction with so many recipients, sent in one go; what MAIL and the last RCPT were answered. Each has a
/// sender of its own: none has more than its share.
fn begins(client: &mut Client, recipients: usize) -> (u16, u16) {
    static SENDERS: AtomicUsize = AtomicUsize::new(0);
    let sender = SENDERS.fetch_add(1, Ordering::Relaxed);
    let mail = client.command(&format!("MAIL FROM:<a@sender{sender}.test>"));
    let mail = mail.code;
    if mail != 250 {
        return (mail, mail);
    }
    let rcpt = "RCPT TO:<somebody.with.a.usual.name@example.test>\r\n";
    client.send(&rcpt.repeat(recipients));
    let last = (0..recipients).map(|_| client.reply().code).last();
    (mail, last.expect("there are some"))
}

/// Transactions begun by new clients until one is refused as it connects; those clients, and what it was told.
///
/// Attempts at the hop hold memory and give it back: one refusal does not mean that the next client is refused, too.
fn begins_until_refused(address: SocketAddr) -> (Vec<Client>, String) {
    let mut held = Vec::new();
    loop {
        let mut client = Client::connect_silently(address);
        let greeting = client.reply();
        if greeting.code == 421 {
            return (held, greeting.text);
        }
        client.expect("EHLO client.test", 250);
        begins(&mut client, 500);
        held.push(client);
        assert!(held.len() < 100, "the memory does not fill");
    }
}

/// Clients that have begun large transactions and end none, until one of them was refused; and what that was answered.
fn begin_until_one_is_refused(mut greeted: impl FnMut() -> Client) -> (Vec<Client>, (u16, u16)) {
    let mut clients = Vec::new();
    loop {
        let mut client = greeted();
        let answers = begins(&mut client, 5000);
        clients.push(client);
        if answers != (250, 250) {
            return (clients, answers);
        }
        assert!(clients.len() < 100, "the memory does not fill");
    }
}

/// Mail for a hop that is down fills the memory: mail is put off, and what was taken is in the spool.
#[test]
fn a_queue_that_fills_the_memory_puts_new_mail_off_and_loses_none() {
    let down = |occasion: Occasion<'_>| match occasion.command {
        "CONNECT" => Answer::Close,
        _ => Answer::Usual,
    };
    let hop = NextHop::scripted(StartTls::NotOffered, down);
    let home = Home::new();
    let mut relay = relay_to(&home, &hop, &["--memory-max", "16MiB", "--retry-max", "1h"]);
    let before = relay.peak_memory_bytes();
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    let mut accepted = 0;
    loop {
        let (mail, rcpt) = begins(&mut client, 500);
        if (mail, rcpt) != (250, 250) {
            assert!([mail, rcpt].contains(&452), "{mail} {rcpt}");
            break;
        }
        match client.command("DATA").code {
            354 => client.expect(".", 250),
            452 => break,
            other => panic!("{other} to DATA"),
        };
        accepted += 1;
        assert!(accepted < 500, "the memory does not fill");
    }
    relay.wait_for("memory-full", |_| true);
    let (held, refusal) = begins_until_refused(relay.address());
    assert!(refusal.contains("4.3.2"), "{refusal}");
    let grown = relay.peak_memory_bytes().saturating_sub(before);
    println!("{accepted} messages of 500 recipients; {grown} bytes more than before");
    assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes more");
    drop((client, held));
    end(&mut relay);
    assert!(counter(&relay, "refused_for_memory") >= 2);
    let listed = home.run(&["spool", "list", &home.spool()]);
    let listed = String::from_utf8(listed.stdout).expect("text");
    let total = format!(
        "{accepted} messages with {} open recipients",
        accepted * 500
    );
    assert!(listed.contains(&total), "{total} in {listed}");
}

/// Transactions that never come to their data hold memory as well, and give it back.
#[test]
fn envelopes_that_fill_the_memory_put_new_mail_off_until_they_are_gone() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--memory-max", "16MiB", "--max-recipients", "5000"];
    let relay = relay_to(&home, &hop, &flags);
    let (mut clients, answers) = begin_until_one_is_refused(|| {
        let mut client = Client::connect(relay.address());
        client.expect("EHLO client.test", 250);
        client
    });
    assert_eq!(answers.1, 452, "{answers:?}");
    relay.wait_for("memory-full", |_| true);
    let mut patient = clients.pop().expect("there is one");
    let gone = clients.len();
    drop(clients);
    relay.wait_for_count("session", gone, |_| true);
    patient.expect("RSET", 250);
    patient.accepted(FROM, &[TO], CONTENT);
    relay.wait_for("memory-has-room", |_| true);
    hop.wait_for_mail(1);
    patient.quit();
    relay.stop();
}

#[test]
fn strangers_who_hold_envelopes_are_hurried_when_memory_is_full() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = [
        "--memory-max",
        "16MiB",
        "--max-recipients",
        "5000",
        "--recipient-rate",
        "0",
        "--crowded-timeout",
        "1s",
    ];
    let relay = relay_to(&home, &hop, &[&OPEN_GATEWAY[..], &flags].concat());
    let (holders, _) = begin_until_one_is_refused(|| greeted_from("127.0.0.2", relay.address()));
    relay.wait_for("memory-full", |_| true);
    relay.wait_for("session", names_crowded_timeout);
    relay.wait_for("memory-has-room", |_| true);
    drop(holders);
    relay.stop();
}

#[test]
fn replies_that_nobody_reads_stay_within_memory_max() {
    const CLIENTS: usize = 400;
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = [
        "--memory-max",
        "16MiB",
        "--max-connections-per-address",
        "0",
    ];
    let relay = relay_to(&home, &hop, &flags);
    let before = relay.memory_bytes();
    let mut sockets: Vec<TcpStream> = (0..CLIENTS).map(|_| deaf_client(relay.address())).collect();
    // Each gets a reply twice as long. No event tells what waits.
    let mut commands = b"EHLO x\r\nMAIL FROM:<>\r\n".to_vec();
    commands.extend(b"RCPT TO:a@b\r\n".repeat(9_000));
    let mut sent = vec![0; CLIENTS];
    let mut peak = 0;
    for _ in 0..60 {
        for (socket, sent) in sockets.iter_mut().zip(&mut sent) {
            *sent += socket.write(&commands[*sent..]).unwrap_or(0);
        }
        std::thread::sleep(Duration::from_millis(25));
        peak = peak.max(relay.memory_bytes());
    }
    let grown = peak.saturating_sub(before);
    println!("{CLIENTS} clients sent {}; {grown} bytes more", sent[0]);
    assert!(grown <= 16 << 20, "{grown} bytes more");
    drop(sockets);
    relay.stop();
}

/// One with a small window, whose writes do not wait.
fn deaf_client(relay: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(2304).expect("a small window");
    socket
        .connect(&SockAddr::from(relay))
        .expect("the relay listens");
    socket.set_nonblocking(true).expect("a socket");
    socket.into()
}

// ---- The loop ----

#[test]
fn a_relay_that_was_kept_from_running_says_so() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = relay_to(&home, &hop, &[]);
    relay.signal("STOP");
    // No event tells that it has been stopped for long enough.
    std::thread::sleep(Duration::from_millis(500));
    relay.signal("CONT");
    relay.wait_for("loop-late", |event| {
        event["late_tick_ms"].as_u64() > Some(50)
    });
    end(&mut relay);
    assert!(counter(&relay, "loop_late_ticks") >= 1);
}
