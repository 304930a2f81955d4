//! Peers that mean harm, against the relay as a process: what is sent on is one message or none, and
//! others are served as before.

use crate::support;

use ringpost::tls::Versions;
use ringpost::tls::client::ClientTls;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use support::client::{CONTENT, Client, send_mail};
use support::next_hop::{Answer, Mail, NextHop, StartTls};
use support::relay::{Home, Relay};
use support::relay_to;

const FROM: &str = "a@sender.test";
const TO: &str = "b@example.test";

/// Served as before, with a message that marks the end of what went before.
fn assert_others_are_served(relay: &Relay, hop: &NextHop, mails_before: usize) {
    send_mail(relay.address(), "last@sender.test", &[TO], CONTENT);
    let mails = hop.wait_for_mail(mails_before + 1);
    assert!(
        mails
            .iter()
            .any(|mail| mail.from.contains("last@sender.test"))
    );
}

// ---- smuggling ----

/// Ends of data that some servers believe in and others do not.
const FALSE_ENDS: [&str; 20] = [
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\r\n",
    "\r\n.\r",
    "\r.\n",
    "\n.\r",
    "\n\r.\r\n",
    "\r\n.\r\r\n",
    "\r\n\r.\r\n",
    "\r\n.\n\r\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\r\n.\r\0\n",
    "\r\0\n.\r\n",
    "\0\n.\n",
    "\r\n\u{85}.\r\n",
    "\u{2028}.\u{2028}",
    "\r\n .\r\n",
];

const SMUGGLED: &str = "MAIL FROM:<evil@sender.test>\r\nRCPT TO:<victim@example.test>\r\nDATA\r\n\
                        Subject: smuggled\r\n\r\nsmuggled\r\n.\r\nQUIT\r\n";

/// Says all of it at once and hears how many messages were accepted.
fn accepted_of(relay: &Relay, text: &str) -> usize {
    let mut client = Client::connect(relay.address());
    client.send(text);
    client.link.finish_sending();
    let mut accepted = 0;
    while let Some(reply) = client.next_reply() {
        accepted += usize::from(reply.text.contains("queued as"));
    }
    accepted
}

fn opening(from: &str) -> String {
    format!("EHLO client.test\r\nMAIL FROM:<{from}>\r\nRCPT TO:<{TO}>\r\n")
}

/// One that a next hop of any kind takes for one message.
fn assert_unambiguous(mail: &Mail) {
    assert!(!mail.from.contains("evil"), "{mail:?}");
    assert!(!mail.to.iter().any(|to| to.contains("victim")), "{mail:?}");
    let without_ends = mail.content.replace("\r\n", "");
    assert!(!without_ends.contains(['\r', '\n', '\0']), "{mail:?}");
}

/// The false end is followed by the whole of another message.
fn smuggle_by_data(false_end: &str) -> String {
    let opening = opening(FROM);
    format!("{opening}DATA\r\nSubject: x\r\n\r\nbefore{false_end}{SMUGGLED}")
}

/// The same within the count of one chunk, and with the false end divided between two.
fn smuggle_by_chunks(false_end: &str) -> [String; 2] {
    let opening = opening(FROM);
    let text = format!("Subject: x\r\n\r\nbefore{false_end}{SMUGGLED}");
    let bytes = text.len();
    let middle = text.find(false_end).expect("it is there") + 1;
    let last = bytes - middle;
    let (head, tail) = text.split_at(middle);
    [
        format!("{opening}BDAT {bytes} LAST\r\n{text}QUIT\r\n"),
        format!("{opening}BDAT {middle}\r\n{head}BDAT {last} LAST\r\n{tail}QUIT\r\n"),
    ]
}

/// True ones too: what the client itself frames as two messages is two. Here every end is false.
fn no_false_end_smuggles(handling: &str) {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--bare-line-ends", handling];
    let relay = relay_to(&home, &hop, &flags);
    let mut accepted = 0;
    for false_end in FALSE_ENDS {
        let [chunk, chunks] = smuggle_by_chunks_or_whole(false_end);
        for text in [smuggle_by_data(false_end), chunk, chunks] {
            let of_this = accepted_of(&relay, &text);
            assert!(of_this <= 1, "{handling}: {text:?}");
            accepted += of_this;
        }
    }
    assert!(accepted > 0, "some of these are no line ends to anybody");
    assert_others_are_served(&relay, &hop, accepted);
    let mails = hop.wait_for_mail(accepted + 1);
    assert_eq!(mails.len(), accepted + 1);
    mails.iter().for_each(assert_unambiguous);
    relay.stop();
}

/// A character of several octets is not divided.
fn smuggle_by_chunks_or_whole(false_end: &str) -> [String; 2] {
    match false_end.is_char_boundary(1) {
        true => smuggle_by_chunks(false_end),
        false => {
            let [whole, _] = smuggle_by_chunks(&format!("\r\n{false_end}"));
            [whole.clone(), whole]
        }
    }
}

#[test]
fn no_false_end_of_data_smuggles_a_message() {
    no_false_end_smuggles("refuse");
}

#[test]
fn no_false_end_of_data_smuggles_a_message_when_normalised() {
    no_false_end_smuggles("normalise");
}

// ---- injection ----

#[test]
fn addresses_and_names_add_no_header_fields() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO x);Received:(evil", 250);
    for (number, local) in [
        r#""a\"b>\\ X-Evil: y""#,
        r#""\ \	""#,
        r#"a=?utf-8?q?=0D=0A?="#,
    ]
    .into_iter()
    .enumerate()
    {
        let reply = client.command(&format!("MAIL FROM:<{local}@sender.test>"));
        match reply.code {
            250 => {
                client.expect(&format!("RCPT TO:<{local}@example.test>"), 250);
                client.expect("DATA", 354);
                client.expect(&format!("Subject: {number}\r\n\r\nHello.\r\n."), 250);
            }
            _ => assert!(local.contains('\t'), "{local}: {}", reply.text),
        }
    }
    client.quit();
    for mail in hop.wait_for_mail(2) {
        let (head, _) = mail
            .content
            .split_once("\r\n\r\n")
            .expect("a header section");
        let is_folded = |line: &&str| line.starts_with([' ', '\t']);
        let fields: Vec<&str> = head.split("\r\n").filter(|line| !is_folded(line)).collect();
        let [received, subject] = fields[..] else {
            panic!("{fields:?}");
        };
        assert!(received.starts_with("Received: ") && subject.starts_with("Subject: "));
    }
    relay.stop();
}

#[test]
fn plaintext_in_place_of_a_handshake_is_not_read_as_commands() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("STARTTLS", 220);
    client.send(&format!("{}DATA\r\n{CONTENT}\r\n.\r\n", opening(FROM)));
    let mut heard = Vec::new();
    // An alert, and the end; a reset may come if not all was read.
    let _ = client.link.socket().read_to_end(&mut heard);
    assert!(
        !heard.windows(3).any(|it| it == b"250" || it == b"354"),
        "{heard:?}"
    );
    relay.wait_for("session", |_| true);
    assert_others_are_served(&relay, &hop, 0);
    assert_eq!(hop.mails().len(), 1);
    relay.stop();
}

#[test]
fn client_hello_octet_by_octet_is_understood() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("STARTTLS", 220);
    let tls = ClientTls::new(Versions::default()).expect("a configuration");
    let mut session = tls.connect("site", "mx.test", false).expect("a session");
    let mut flight = Vec::new();
    session.start(&mut flight);
    let mut socket = client.link.socket();
    for octet in flight {
        socket.write_all(&[octet]).expect("the relay reads");
    }
    let (mut plain, mut answer) = (Vec::new(), Vec::new());
    while session.summary().is_none() {
        let mut records = [0; 4096];
        let read = socket.read(&mut records).expect("the relay answers");
        assert_ne!(read, 0, "the relay has ended the connection");
        let received = session.receive(&mut records[..read], &mut plain, &mut answer);
        received.expect("a handshake");
    }
    socket.write_all(&answer).expect("the relay reads");
    drop(client);
    relay.wait_for("session", |session| !session["tls"].is_null());
    assert_others_are_served(&relay, &hop, 0);
    relay.stop();
}

// ---- floods of one session, and connections that break ----

#[test]
fn ten_thousand_ehlos_get_421() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect(relay.address());
    // The relay may stop reading at any time.
    let _ = client
        .link
        .send("EHLO client.test\r\n".repeat(10_000).as_bytes());
    let mut last = client.reply();
    let mut replies = 1;
    while last.code == 250 {
        last = client.reply();
        replies += 1;
    }
    assert_eq!(last.code, 421, "{}", last.text);
    assert!(replies <= 101, "{replies}");
    client.expect_end();
    assert_others_are_served(&relay, &hop, 0);
    relay.stop();
}

#[test]
fn clients_that_reset_at_any_stage_cost_nothing() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--listen-tls", "127.0.0.1:0"]);
    let envelope = opening(FROM);
    let large = "x".repeat(200_000);
    let stages = [
        String::new(),
        "EH".to_owned(),
        "EHLO client.test\r\nSTARTTLS\r\n".to_owned(),
        "EHLO client.test\r\nSTARTTLS\r\n\x16\x03\x01\x02\x00".to_owned(),
        envelope.clone(),
        format!("{envelope}DATA\r\n"),
        format!("{envelope}DATA\r\n{CONTENT}\r\n."),
        format!("{envelope}DATA\r\nSubject: x\r\n\r\n{large}"),
        format!("{envelope}BDAT 10000000\r\n{large}"),
        format!("{envelope}BDAT 3\r\nX: BDAT 5"),
        format!("{envelope}DATA\r\na\nb"),
    ];
    for stage in &stages {
        for address in [relay.address(), relay.implicit_tls_address()] {
            let mut client = Client::connect_silently(address);
            let _ = client.link.send(stage.as_bytes());
            client.link.reset();
        }
    }
    relay.wait_for_count("session", 2 * stages.len(), |_| true);
    assert_others_are_served(&relay, &hop, 0);
    assert_eq!(hop.mails().len(), 1);
    relay.stop();
}

#[test]
fn next_hops_that_reset_at_any_stage_get_the_mail_again() {
    for verb in ["CONNECT", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA"] {
        let hop = NextHop::scripted(StartTls::Works, move |occasion| {
            match occasion.command.starts_with(verb) && occasion.before == 0 {
                true => Answer::Reset,
                false => Answer::Usual,
            }
        });
        let home = Home::new();
        let relay = relay_to(&home, &hop, &[]);
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        assert_eq!(hop.wait_for_mail(1).len(), 1, "{verb}");
        relay.stop();
    }
}

// ---- peers that dribble ----

/// The mail waits for a hop that says `piece` again and again to `verb`, the first time only.
fn dribbles_once(verb: &'static str, piece: &'static str, flag: &str) {
    let hop = NextHop::scripted(StartTls::Works, move |occasion| {
        match occasion.command.starts_with(verb) && occasion.before == 0 {
            true => Answer::Dribble(piece),
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[flag, "1s"]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    assert_eq!(hop.wait_for_mail(1).len(), 1, "{verb} {piece:?}");
    relay.stop();
}

#[test]
fn a_greeting_that_dribbles_has_one_deadline() {
    dribbles_once("CONNECT", "2", "--greeting-timeout");
    dribbles_once("CONNECT", "220-wait\r\n", "--greeting-timeout");
}

#[test]
fn a_reply_that_dribbles_has_one_deadline_however_it_comes() {
    for verb in ["EHLO", "STARTTLS", "MAIL", "RCPT", "DATA"] {
        dribbles_once(verb, "250-x\r\n", "--reply-timeout");
    }
    dribbles_once("MAIL", "2", "--reply-timeout");
}

#[test]
fn the_reply_to_the_content_has_one_deadline_too() {
    dribbles_once(".", "250-x\r\n", "--final-reply-timeout");
}

/// A host that answers each of many recipients within the time is slow, and not given up.
#[test]
fn every_reply_has_a_time_of_its_own() {
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| {
        if occasion.command.starts_with("RCPT") {
            std::thread::sleep(Duration::from_millis(400));
        }
        Answer::Usual
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--reply-timeout", "1s"]);
    let to: Vec<String> = (0..6).map(|n| format!("u{n}@example.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    send_mail(relay.address(), FROM, &to, CONTENT);
    assert_eq!(hop.wait_for_mail(1)[0].to.len(), 6);
    assert_eq!(hop.connections(), 1);
    relay.stop();
}

/// Every block is taken in time, and all of them together are not.
#[test]
fn a_next_hop_that_takes_the_content_too_slowly_is_given_up() {
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| {
        match occasion.command.starts_with("DATA") && occasion.before == 0 {
            true => Answer::SipContent,
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let flags = ["--send-timeout", "5s", "--min-send-rate", "1GiB"];
    let relay = relay_to(&home, &hop, &flags);
    // More than the kernels of both sides hold.
    let content = format!("Subject: x\r\n\r\n{}", "0123456789\r\n".repeat(1_500_000));
    send_mail(relay.address(), FROM, &[TO], &content);
    assert_eq!(hop.wait_for_mail(1).len(), 1);
    assert_eq!(hop.connections(), 2);
    relay.stop();
}

/// All connections are with hops that dribble after their greeting, each for its own domain.
#[test]
fn hops_that_dribble_leave_room_for_a_new_destination() {
    const SLOW: usize = 8;
    let good = NextHop::start();
    let home = Home::new();
    let hops: Vec<NextHop> = (0..SLOW)
        .map(|n| {
            let address = ([127, 0, 4, n as u8 + 1], 0).into();
            NextHop::on(
                address,
                StartTls::NotOffered,
                "PIPELINING",
                |occasion| match occasion.command.starts_with("MAIL") {
                    true => Answer::Dribble("250-x\r\n"),
                    false => Answer::Usual,
                },
            )
        })
        .collect();
    let mut routes: Vec<String> = hops
        .iter()
        .enumerate()
        .map(|(n, hop)| hop.route(&format!("slow{n}.test")))
        .collect();
    routes.push(good.route("good.test"));
    let routes = routes.join(";");
    let relay = home.start(&[
        "--route",
        &routes,
        "--delivery-connections-total",
        "8",
        "--delivery-connections",
        "1",
        "--crowded-timeout",
        "2s",
        "--retry-min",
        "30s",
    ]);
    for n in 0..SLOW {
        send_mail(
            relay.address(),
            FROM,
            &[&format!("u@slow{n}.test")],
            CONTENT,
        );
    }
    let busy = hops.iter().take(SLOW - 1);
    for hop in busy {
        hop.wait_for_command(|command| command.starts_with("MAIL"));
    }
    let sent = Instant::now();
    send_mail(relay.address(), FROM, &["u@good.test"], CONTENT);
    good.wait_for_mail(1);
    assert!(
        sent.elapsed() < Duration::from_secs(20),
        "{:?}",
        sent.elapsed()
    );
    drop(relay);
}
