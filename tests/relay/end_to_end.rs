//! The relay as a process between a client and a next hop, over loopback with real TLS.

use crate::support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};
use support::client::{CONTENT, Client, send_mail};
use support::dns::{self, DnsServer};
use support::mx_hosts::{MxHosts, Script};
use support::next_hop::{Answer, KEYWORDS, NextHop, Occasion, StartTls, deaf, usual, verb_is};
use support::relay::{Home, PROGRAM, Relay, of_threads};
use support::{certificate_files, certificate_shown_by, relay_by, relay_to};

const FROM: &str = "a@sender.test";
const TO: &str = "b@example.test";

// ---- TLS in and out ----

#[test]
fn starttls_in_and_out() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect_with_starttls(relay.address());
    client.accepted(FROM, &[TO], "Subject: x\r\n\r\n..dots\r\n....");
    client.quit();
    let mail = &hop.wait_for_mail(1)[0];
    assert!(mail.over_tls);
    assert!(mail.from.starts_with("MAIL FROM:<a@sender.test>"));
    assert!(mail.to[0].starts_with("RCPT TO:<b@example.test>"));
    assert!(
        mail.content.starts_with("Received: from client.test"),
        "{}",
        mail.content
    );
    assert!(mail.content.contains("with ESMTPS"), "{}", mail.content);
    assert!(
        mail.content.ends_with("\r\n\r\n.dots\r\n...\r\n"),
        "{}",
        mail.content
    );
    let delivered = relay.wait_for("delivered", |_| true);
    assert_eq!(delivered["tls"], "TLSv1.3");
    relay.stop();
}

#[test]
fn implicit_tls() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--listen-tls", "127.0.0.1:0"]);
    let mut client = Client::connect_silently(relay.implicit_tls_address());
    client.link.start_tls_as_client(b"").expect("a handshake");
    client.expect_reply(220);
    let offers = client.expect("EHLO client.test", 250);
    assert!(!offers.contains("STARTTLS"), "{offers}");
    client.accepted(FROM, &[TO], CONTENT);
    client.quit();
    assert!(hop.wait_for_mail(1)[0].content.contains("with ESMTPS"));
    relay.stop();
}

#[test]
fn ehlo_that_comes_before_the_greeting_of_implicit_tls_is_answered() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--listen-tls", "127.0.0.1:0"]);
    let mut client = Client::connect_silently(relay.implicit_tls_address());
    let early = b"EHLO early.test\r\n";
    client.link.start_tls_as_client(early).expect("a handshake");
    client.expect_reply(220);
    client.expect_reply(250);
    client.quit();
    relay.stop();
}

#[test]
fn plaintext_behind_starttls_is_discarded() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.send("STARTTLS\r\nMAIL FROM:<injected@sender.test>\r\n");
    client.expect_reply(220);
    client.link.start_tls_as_client(b"").expect("a handshake");
    // Nothing is answered but what came encrypted, and EHLO is forgotten.
    client.expect("MAIL FROM:<a@sender.test>", 503);
    client.expect("EHLO client.test", 250);
    client.expect("RCPT TO:<b@example.test>", 503);
    client.quit();
    let session = relay.wait_for("session", |_| true);
    assert!(session["violation"].as_str().is_some(), "{session}");
    relay.stop();
}

#[test]
fn ehlo_in_one_segment_with_the_clients_finished_is_answered() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("STARTTLS", 220);
    let early = b"EHLO early.test\r\n";
    client.link.start_tls_as_client(early).expect("a handshake");
    client.expect_reply(250);
    client.accepted(FROM, &[TO], CONTENT);
    client.quit();
    hop.wait_for_mail(1);
    relay.stop();
}

#[test]
fn new_certificate_on_sighup() {
    let (home, hop) = (Home::new(), NextHop::start());
    let (first, certificate, key) = certificate_files(&home);
    let relay = relay_to(
        &home,
        &hop,
        &["--tls-cert", &certificate, "--tls-key", &key],
    );
    let shown = || certificate_shown_by(&relay);
    assert_eq!(shown(), first);
    let (second, _, _) = certificate_files(&home);
    let before = relay.events("certificate").len();
    relay.signal("HUP");
    relay.wait_for_count("certificate", before + 1, |_| true);
    // The cores get it through their lanes, a moment after the control thread has said so.
    let deadline = Instant::now() + support::PATIENCE;
    while shown() != second {
        assert!(
            Instant::now() < deadline,
            "the new certificate is never shown"
        );
    }
    relay.stop();
}

#[test]
fn log_file_is_opened_anew_on_sighup() {
    let (home, hop) = (Home::new(), NextHop::start());
    let log = home.path("relay.log");
    let route = hop.route("*");
    let relay = home.spawn(&["--route", &route, "--log-file", log.to_str().unwrap()]);
    wait_for_file(&log, "\"ready\"");
    std::fs::rename(&log, home.path("relay.log.1")).unwrap();
    relay.signal("HUP");
    wait_for_file(&log, "certificate");
}

/// Polls: a file gives no word when it grows.
fn wait_for_file(path: &std::path::Path, text: &str) {
    let deadline = Instant::now() + support::PATIENCE;
    while !std::fs::read_to_string(path).is_ok_and(|found| found.contains(text)) {
        assert!(
            Instant::now() < deadline,
            "{text} never came in {}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

// ---- Receiving ----

#[test]
fn several_messages_in_one_write() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    for starttls in [false, true] {
        let mut client = match starttls {
            true => Client::connect_with_starttls(relay.address()),
            false => Client::connect(relay.address()),
        };
        client.expect("EHLO client.test", 250);
        let mut all = String::new();
        for number in 0..5 {
            all += &format!(
                "MAIL FROM:<a{number}@sender.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n\
                 Subject: {number}\r\n\r\nHello.\r\n.\r\n"
            );
        }
        client.send(&(all + "QUIT\r\n"));
        for _ in 0..5 {
            for code in [250, 250, 354, 250] {
                client.expect_reply(code);
            }
        }
        client.expect_reply(221);
        client.expect_end();
    }
    assert_eq!(hop.wait_for_mail(10).len(), 10);
    relay.stop();
}

#[test]
fn chunks() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect_with_starttls(relay.address());
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect("RCPT TO:<b@example.test>", 250);
    let chunk = "Subject: chunks\r\n\r\n.one\r\n";
    client.send(&format!("BDAT {}\r\n{chunk}", chunk.len()));
    client.expect_reply(250);
    client.send("BDAT 8 LAST\r\n.\r\ntwo\r\n");
    client.expect_reply(250);
    client.quit();
    let mail = &hop.wait_for_mail(1)[0];
    assert!(
        mail.content.ends_with("\r\n\r\n.one\r\n.\r\ntwo\r\n"),
        "{}",
        mail.content
    );
    relay.stop();
}

/// Lines of 76 characters, each different.
fn large_content(bytes: usize) -> String {
    let mut content = String::from("Subject: large\r\n\r\n");
    for number in 0.. {
        if content.len() >= bytes {
            break;
        }
        let filler = "0123456789abcdefghijklmnopqrstuvwxyz./+";
        content += &format!("{number:09}.{filler}{filler:.20}\r\n");
    }
    content.truncate(content.trim_end_matches("\r\n").len());
    content
}

#[test]
fn large_messages_pass_in_bounded_memory() {
    const BYTES: usize = 20 << 20;
    const MESSAGES: usize = 5;
    const GROWTH_BYTES_MAX: u64 = 40 << 20;
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--max-message-size", "32MiB"]);
    let before = relay.peak_memory_bytes();
    let content = large_content(BYTES);
    std::thread::scope(|scope| {
        for _ in 0..MESSAGES {
            scope.spawn(|| {
                let mut client = Client::connect_with_starttls(relay.address());
                client.accepted(FROM, &[TO], &content);
                client.quit();
            });
        }
    });
    for mail in hop.wait_for_mail(MESSAGES) {
        let (_, arrived) = mail
            .content
            .split_once("Subject: large")
            .expect("the subject");
        let (_, sent) = content.split_once("Subject: large").expect("the subject");
        assert_eq!(arrived.len(), sent.len() + 2);
        assert!(
            arrived.trim_end_matches("\r\n") == sent,
            "the content has changed"
        );
    }
    let grown = relay.peak_memory_bytes() - before;
    assert!(
        grown < GROWTH_BYTES_MAX,
        "memory has grown by {grown} bytes"
    );
    relay.stop();
}

#[test]
fn mail_that_is_not_kept_in_memory_is_read_back() {
    let content = large_content(100_000);
    let read_back = read_back_of(
        &["--in-memory-size", "0", "--chunk-size", "16KiB"],
        &content,
    );
    assert_eq!(read_back, 2);
}

/// Pieces of it are in the log long before it is whole.
#[test]
fn mail_of_many_chunks_is_delivered_from_memory() {
    let content = large_content(1 << 20);
    assert_eq!(read_back_of(&["--chunk-size", "16KiB"], &content), 0);
}

#[test]
fn mail_that_outgrows_its_room_in_memory_is_read_back() {
    let content = large_content(300_000);
    let flags = ["--in-memory-size", "256KiB", "--chunk-size", "16KiB"];
    assert_eq!(read_back_of(&flags, &content), 1);
}

/// Relays a small mail and `content`; says how often a body was read back from the spool.
fn read_back_of(flags: &[&str], content: &str) -> i64 {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = relay_to(&home, &hop, flags);
    for sent in [CONTENT, content] {
        send_mail(relay.address(), FROM, &[TO], sent);
    }
    let mails = hop.wait_for_mail(2);
    for sent in [CONTENT, content] {
        let end = format!("{sent}\r\n");
        assert!(mails.iter().any(|mail| mail.content.ends_with(&end)));
    }
    relay.signal("TERM");
    relay.wait();
    let counters = relay.wait_for("counters", |_| true);
    counters["bodies_read_back"].as_i64().expect("a number")
}

#[test]
fn message_over_the_limit_is_refused_and_the_session_goes_on() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = relay_to(&home, &hop, &["--max-message-size", "64KiB"]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    let reply = client.mail(FROM, &[TO], &large_content(2 << 20));
    assert_eq!(reply.code, 552, "{reply:?}");
    client.accepted(FROM, &[TO], CONTENT);
    client.quit();
    hop.wait_for_mail(1);
    relay.signal("TERM");
    assert!(relay.wait().success());
    let counters = relay.wait_for("counters", |_| true);
    assert_eq!(counters["messages_refused"], 1, "refused at its end");
}

#[test]
fn two_listeners() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    let relay = relay_to(&home, &hop, &flags);
    let addresses = relay.addresses("offered by STARTTLS");
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        send_mail(address, FROM, &[TO], CONTENT);
    }
    hop.wait_for_mail(2);
    relay.stop();
}

#[test]
fn one_connection_too_many_gets_421() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(
        &home,
        &hop,
        &[
            "--max-connections",
            "2",
            "--max-connections-per-address",
            "2",
        ],
    );
    let first = Client::connect(relay.address());
    let second = Client::connect(relay.address());
    let mut third = Client::connect_silently(relay.address());
    assert!(third.expect_reply(421).contains("4.3.2"));
    third.expect_end();
    first.quit();
    relay.wait_for("session", |_| true);
    Client::connect(relay.address()).quit();
    second.quit();
    relay.stop();
}

// ---- Whom it relays for ----

#[test]
fn greeting_says_the_banner() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--banner", "ESMTP at your service"]);
    let mut client = Client::connect_silently(relay.address());
    assert_eq!(
        client.expect_reply(220),
        "220 relay.test ESMTP at your service"
    );
    relay.stop();
}

#[test]
fn strangers_may_not_relay() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--relay-from", "none"]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    let refusal = client.expect("RCPT TO:<b@example.test>", 554);
    assert!(refusal.contains("5.7.1"), "{refusal}");
    client.quit();
    assert_eq!(hop.connections(), 0);
    relay.stop();
}

#[test]
fn strangers_may_send_to_known_recipients_of_relay_domains() {
    let (home, hop) = (Home::new(), NextHop::start());
    let recipients = home.file("recipients", "known@example.test\n@all.test\n");
    let relay = relay_to(
        &home,
        &hop,
        &[
            "--relay-from",
            "none",
            "--relay-domain",
            "example.test,.all.test,all.test",
            "--recipients-file",
            &recipients,
        ],
    );
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect("RCPT TO:<known@example.test>", 250);
    client.expect("RCPT TO:<anybody@all.test>", 250);
    let unknown = client.expect("RCPT TO:<unknown@example.test>", 550);
    assert!(unknown.contains("5.1.1"), "{unknown}");
    client.expect("RCPT TO:<b@elsewhere.test>", 554);
    client.expect("DATA", 354);
    client.expect(&format!("{CONTENT}\r\n."), 250);
    client.quit();
    let mails = hop.wait_for_mail(1);
    assert_eq!(mails.iter().map(|mail| mail.to.len()).sum::<usize>(), 2);
    relay.stop();
}

/// Every spelling of one domain, the first as an A-label.
const SPELLINGS: [&str; 6] = [
    "xn--bcher-kva.test",
    "XN--Bcher-KVA.Test",
    "bücher.test",
    "BÜCHER.TEST",
    "bu\u{308}cher.test",
    "b\u{fc}\u{ad}cher.test",
];

/// Sends one message with SMTPUTF8 to `to`, and returns the reply to RCPT.
fn send_internationalised(client: &mut Client, to: &str) -> u16 {
    client.expect("MAIL FROM:<a@sender.test> SMTPUTF8", 250);
    let reply = client.command(&format!("RCPT TO:<{to}>"));
    match reply.code {
        250 => {
            client.expect("DATA", 354);
            client.expect(&format!("{CONTENT}\r\n."), 250);
        }
        _ => drop(client.expect("RSET", 250)),
    }
    reply.code
}

#[test]
fn an_idn_in_another_spelling_gets_no_plaintext_past_verify() {
    let keywords = "SMTPUTF8\r\n8BITMIME";
    for policy in [
        "bücher.test=verify,partner.test=verify",
        "xn--bcher-kva.test=verify,.Partner.test.=verify,partner.test=encrypt",
    ] {
        let hop = NextHop::with_keywords(StartTls::NotOffered, keywords, usual);
        let home = Home::new();
        let relay = relay_to(&home, &hop, &["--tls-out-for", policy]);
        let mut client = Client::connect(relay.address());
        client.expect("EHLO client.test", 250);
        let full_width = "\u{ff50}artner.test";
        for domain in SPELLINGS.into_iter().chain(["partner.test", full_width]) {
            assert_eq!(
                send_internationalised(&mut client, &format!("u@{domain}")),
                250
            );
        }
        // What nobody can name is not taken, so that no policy can be wrong about it.
        for domain in ["xn--a.test", "bu\u{200d}cher.test", "partner\u{3002}test"] {
            let code = send_internationalised(&mut client, &format!("u@{domain}"));
            assert!(matches!(code, 501 | 553), "{domain}: {code}");
        }
        // Others are not meant, and still get their mail.
        assert_eq!(send_internationalised(&mut client, "u@bucher.test"), 250);
        hop.wait_for_mail(1);
        relay.wait_for_count("deferred", SPELLINGS.len() + 2, |_| true);
        let taken: Vec<String> = hop.mails().iter().map(|mail| mail.to[0].clone()).collect();
        assert!(
            taken.iter().all(|to| to.contains("bucher.test")),
            "{policy}: {taken:?}"
        );
        assert_eq!(relay.events("delivered").len(), 1, "{policy}");
        relay.stop();
    }
}

#[test]
fn a_relay_domain_is_taken_in_every_spelling() {
    for given in [SPELLINGS[0], SPELLINGS[2]] {
        let hop = NextHop::with_keywords(StartTls::Works, "SMTPUTF8\r\n8BITMIME", usual);
        let home = Home::new();
        let recipients = home.file(
            "recipients",
            "\"us er\"@BÜCHER.test\nplain@xn--bcher-kva.test\n",
        );
        let flags = [
            "--relay-from",
            "none",
            "--relay-domain",
            given,
            "--recipients-file",
            &recipients,
        ];
        let relay = relay_to(&home, &hop, &flags);
        let mut client = Client::connect(relay.address());
        client.expect("EHLO client.test", 250);
        for domain in SPELLINGS {
            for (local_part, code) in [
                ("plain", 250),
                ("\"Plain\"", 250),
                ("\"us\\ er\"", 250),
                ("\"plain \"", 550),
            ] {
                let to = format!("{local_part}@{domain}");
                assert_eq!(
                    send_internationalised(&mut client, &to),
                    code,
                    "{given} {to}"
                );
            }
        }
        assert_eq!(
            send_internationalised(&mut client, "plain@bucher.test"),
            554
        );
        hop.wait_for_mail(3 * SPELLINGS.len());
        relay.stop();
    }
}

#[test]
fn what_a_hop_says_of_its_limits_is_obeyed() {
    for keywords in [
        "LIMITS MAILMAX=2 RCPTMAX=3 RCPTDOMAINMAX=1",
        "PIPELINING\r\nLIMITS MAILMAX=2 RCPTMAX=3 RCPTDOMAINMAX=1",
    ] {
        let hop = NextHop::with_keywords(StartTls::Works, keywords, usual);
        let home = Home::new();
        let relay = relay_to(&home, &hop, &["--delivery-connections", "1"]);
        let to = [
            "a@one.test",
            "b@two.test",
            "c@one.test",
            "d@ONE.test",
            "e@one.test",
            "f@two.test",
            "g@one.test",
        ];
        for _ in 0..4 {
            send_mail(relay.address(), FROM, &to, CONTENT);
        }
        // Five at one domain are two transactions, two at the other are one.
        let mails = hop.wait_for_mail(4 * 3);
        let recipients: usize = mails.iter().map(|mail| mail.to.len()).sum();
        assert_eq!((mails.len(), recipients), (12, 28), "{keywords}");
        for mail in &mails {
            let in_one = |to: &&String| to.to_lowercase().contains("@one.test");
            let of_one = mail.to.iter().filter(in_one).count();
            assert!(mail.to.len() <= 3, "{:?}", mail.to);
            assert!(of_one == 0 || of_one == mail.to.len(), "{:?}", mail.to);
        }
        for connection in 1..=hop.connections() {
            let of_it = mails.iter().filter(|mail| mail.connection == connection);
            assert!(of_it.count() <= 2, "{keywords}");
        }
        relay.wait_for_count("delivered", 28, |_| true);
        assert_eq!(relay.events("deferred").len(), 0, "{keywords}");
        relay.stop();
    }
}

#[test]
fn a_keyword_behind_hundreds_of_others_is_heard() {
    let many: String = (0..300)
        .map(|n| format!("X-KEYWORD-{n} and more\n"))
        .collect();
    let odd = format!(
        "X-LONG {}\n \n\nX-ÜÖÄ ß\n=\nLIMITS RCPTMAX=1\n",
        "x".repeat(900)
    );
    // STARTTLS comes last, and its loss would be a downgrade.
    let keywords = format!("{many}{odd}X-LAST").leak();
    let hop = NextHop::with_keywords(StartTls::Works, keywords, usual);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO, "c@example.test"], CONTENT);
    let mails = hop.wait_for_mail(2);
    assert!(mails.iter().all(|mail| mail.over_tls && mail.to.len() == 1));
    relay.stop();
}

#[test]
fn a_device_with_odd_manners_gets_its_mail_through() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--qualify-domain", "House.Test.", "--no-chunking"];
    let relay = relay_to(&home, &hop, &flags);
    let mut client = Client::connect(relay.address());
    let offered = client.expect("EHLO 3rd floor's (Müller) <scanner>; x", 250);
    assert!(!offered.contains("CHUNKING"), "{offered}");
    client.expect("MAIL FROM:<root>", 250);
    client.expect(
        "RCPT TO:< b@example.test. > ORCPT=rfc822;b+c@example.test",
        250,
    );
    client.expect("DATA", 354);
    client.expect(&format!("{CONTENT}\r\n."), 250);
    client.expect("BDAT 0 LAST", 502);
    client.quit();
    let mail = &hop.wait_for_mail(1)[0];
    assert!(
        mail.from.starts_with("MAIL FROM:<root@house.test>"),
        "{}",
        mail.from
    );
    assert!(
        mail.to[0].starts_with("RCPT TO:<b@example.test>"),
        "{}",
        mail.to[0]
    );
    let first = mail.content.lines().next().unwrap();
    assert!(
        first.starts_with("Received: from 3rd?floor?s??M??ller???scanner???x ([127.0.0.1])"),
        "{first}"
    );
    let session = relay.wait_for("session", |_| true);
    assert_eq!(session["hello"], "3rd floor's (Müller) <scanner>; x");
    relay.stop();
}

// ---- Reports ----

/// The single mail for the sender, once it has come: a report.
fn the_report(hop: &NextHop) -> String {
    let mails = hop.wait_for_mail(1);
    assert_eq!(mails.len(), 1);
    let mail = &mails[0];
    assert!(mail.from.starts_with("MAIL FROM:<>"), "{}", mail.from);
    assert!(
        mail.to[0].starts_with("RCPT TO:<a@sender.test>"),
        "{:?}",
        mail.to
    );
    let content = &mail.content;
    assert!(content.contains("multipart/report"), "{content}");
    assert!(content.contains("message/delivery-status"), "{content}");
    content.clone()
}

/// A relay with one hop for the mail and another for the reports on it.
fn relay_with_reports(home: &Home, hop: &NextHop, reports: &NextHop, flags: &[&str]) -> Relay {
    let (route, back) = (hop.route("example.test"), reports.route("sender.test"));
    let mut all = vec!["--route", &route, "--route", &back];
    all.extend(["--retry-min", "1s", "--retry-max", "1s"]);
    all.extend(flags);
    home.start(&all)
}

fn refuse_no(occasion: Occasion<'_>) -> Answer {
    match occasion.command.starts_with("RCPT TO:<no") {
        true => Answer::Say("550 5.1.1 no such user here"),
        false => Answer::Usual,
    }
}

#[test]
fn one_of_several_recipients_is_refused() {
    let hop = NextHop::scripted(StartTls::Works, refuse_no);
    let (home, reports) = (Home::new(), NextHop::start());
    let relay = relay_with_reports(&home, &hop, &reports, &[]);
    let to = ["one@example.test", "no@example.test", "two@example.test"];
    send_mail(relay.address(), FROM, &to, CONTENT);
    let mail = &hop.wait_for_mail(1)[0];
    assert_eq!(mail.to.len(), 2, "one transaction for both");
    let report = the_report(&reports);
    assert!(
        report.contains("Final-Recipient: rfc822;no@example.test"),
        "{report}"
    );
    assert!(report.contains("Action: failed"), "{report}");
    assert!(report.contains("Status: 5.1.1"), "{report}");
    assert!(
        report.contains("Reporting-MTA: dns; relay.test"),
        "{report}"
    );
    assert!(report.contains("no such user here"), "{report}");
    assert!(!report.contains("one@example.test"), "{report}");
    relay.stop();
    assert_nothing_is_left(&home);
}

fn assert_nothing_is_left(home: &Home) {
    let output = home.run(&["spool", "list", &home.spool()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("0 messages with 0 open recipients"), "{text}");
}

#[test]
fn report_goes_to_the_mx_of_the_sender() {
    let hop = NextHop::scripted(StartTls::Works, refuse_no);
    let (home, reports, dns) = (Home::new(), NextHop::start(), DnsServer::start());
    dns.mx("sender.test", 10, "mx.sender.test.");
    dns.host("mx.sender.test", "127.0.0.1");
    let (route, server) = (hop.route("example.test"), dns.address().to_string());
    let port = reports.address().port().to_string();
    let relay = home.start(&["--route", &route, "--dns", &server, "--mx-port", &port]);
    send_mail(relay.address(), FROM, &["no@example.test"], CONTENT);
    the_report(&reports);
    relay.stop();
}

#[test]
fn mail_that_expires_is_returned() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "DATA" => Answer::Say("451 4.3.0 not now"),
        _ => Answer::Usual,
    });
    let (home, reports) = (Home::new(), NextHop::start());
    let relay = relay_with_reports(&home, &hop, &reports, &["--queue-lifetime", "2s"]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let report = the_report(&reports);
    assert!(
        report.contains("Status: 4.4.7") || report.contains("Status: 5.4.7"),
        "{report}"
    );
    assert!(report.contains("not now"), "{report}");
    let attempts = hop
        .commands()
        .iter()
        .filter(|command| *command == "DATA")
        .count();
    assert!(attempts >= 2, "{attempts}");
    relay.stop();
    assert_nothing_is_left(&home);
}

#[test]
fn report_on_expired_mail_is_tried_more_than_once() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "DATA" => Answer::Say("451 4.3.0 not now"),
        _ => Answer::Usual,
    });
    let reports = NextHop::scripted(StartTls::Works, |occasion| {
        match verb_is(occasion.command, "RCPT") && occasion.before < 2 {
            true => Answer::Say("450 4.2.1 try again"),
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let flags = ["--queue-lifetime", "2s", "--bounce-lifetime", "30s"];
    let relay = relay_with_reports(&home, &hop, &reports, &flags);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    the_report(&reports);
    relay.stop();
}

#[test]
fn report_has_a_lifetime_of_its_own() {
    // As long as the mail itself: at its end the report is still young.
    let hop = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "DATA" => Answer::Say("451 4.3.0 not now"),
        _ => Answer::Usual,
    });
    let reports = NextHop::scripted(StartTls::Works, |occasion| {
        match verb_is(occasion.command, "RCPT") && occasion.before < 1 {
            true => Answer::Say("450 4.2.1 try again"),
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let flags = ["--queue-lifetime", "3s", "--bounce-lifetime", "3s"];
    let relay = relay_with_reports(&home, &hop, &reports, &flags);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    the_report(&reports);
    relay.stop();
}

fn mail_with_notify(address: SocketAddr, from: &str, notify: &str, to: &str) {
    let mut client = Client::connect(address);
    client.expect("EHLO client.test", 250);
    client.expect(&format!("MAIL FROM:<{from}>"), 250);
    client.expect(&format!("RCPT TO:<{to}> NOTIFY={notify}"), 250);
    client.expect("DATA", 354);
    client.expect(&format!("{CONTENT}\r\n."), 250);
    client.quit();
}

#[test]
fn notify_never_yields_no_report() {
    let hop = NextHop::scripted(StartTls::Works, refuse_no);
    let (home, reports) = (Home::new(), NextHop::start());
    let relay = relay_with_reports(&home, &hop, &reports, &[]);
    mail_with_notify(relay.address(), FROM, "NEVER", "no@example.test");
    let dropped = relay.wait_for("dropped", |_| true);
    assert_eq!(
        dropped["reason"],
        "undeliverable, and NOTIFY asks for no report"
    );
    relay.stop_with_nothing_left();
    assert_eq!(reports.connections(), 0);
    assert_nothing_is_left(&home);
}

#[test]
fn null_reverse_path_yields_no_report() {
    let hop = NextHop::scripted(StartTls::Works, refuse_no);
    let (home, reports) = (Home::new(), NextHop::start());
    let relay = relay_with_reports(&home, &hop, &reports, &[]);
    send_mail(relay.address(), "", &["no@example.test"], CONTENT);
    let dropped = relay.wait_for("dropped", |_| true);
    assert_eq!(
        dropped["reason"],
        "undeliverable, and the reverse-path is null"
    );
    relay.stop_with_nothing_left();
    assert_eq!(reports.connections(), 0);
    assert_nothing_is_left(&home);
}

#[test]
fn notify_success_to_a_hop_without_dsn_is_reported_as_relayed() {
    let hop = NextHop::with_keywords(StartTls::Works, "PIPELINING", usual);
    let (home, reports) = (Home::new(), NextHop::start());
    let relay = relay_with_reports(&home, &hop, &reports, &[]);
    mail_with_notify(relay.address(), FROM, "SUCCESS", TO);
    hop.wait_for_mail(1);
    let report = the_report(&reports);
    assert!(report.contains("Action: relayed"), "{report}");
    relay.stop();
    assert_nothing_is_left(&home);
}

#[test]
fn notify_success_is_passed_on_to_a_hop_with_dsn() {
    let (home, hop, reports) = (Home::new(), NextHop::start(), NextHop::start());
    let relay = relay_with_reports(&home, &hop, &reports, &[]);
    mail_with_notify(relay.address(), FROM, "SUCCESS,FAILURE", TO);
    let mail = &hop.wait_for_mail(1)[0];
    assert!(
        mail.to[0].contains("NOTIFY=SUCCESS,FAILURE"),
        "{:?}",
        mail.to
    );
    relay.stop();
    assert_eq!(reports.connections(), 0);
}

#[test]
fn report_that_is_refused_is_dropped() {
    let hop = NextHop::scripted(StartTls::Works, refuse_no);
    let reports = NextHop::scripted(StartTls::Works, |occasion| {
        match verb_is(occasion.command, "RCPT") {
            true => Answer::Say("550 5.1.1 never heard of"),
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let relay = relay_with_reports(&home, &hop, &reports, &[]);
    send_mail(relay.address(), FROM, &["no@example.test"], CONTENT);
    let dropped = relay.wait_for("dropped", |event| event["report"] == "yes");
    assert_eq!(dropped["reason"], "the report is undeliverable");
    relay.stop_with_nothing_left();
    assert_nothing_is_left(&home);
}

#[test]
fn recipients_of_several_domains_go_their_own_ways() {
    let home = Home::new();
    let hops = [NextHop::start(), NextHop::start()];
    let routes = [hops[0].route("one.test"), hops[1].route("two.test")];
    let relay = home.start(&["--route", &routes[0], "--route", &routes[1]]);
    let to = ["a@one.test", "a@two.test", "b@one.test", "b@two.test"];
    send_mail(relay.address(), FROM, &to, CONTENT);
    for hop in &hops {
        assert_eq!(hop.wait_for_mail(1)[0].to.len(), 2);
    }
    relay.stop();
    assert_nothing_is_left(&home);
}

// ---- Last words ----

/// Each of these has an end of its own: taken, refused, never taken; and with nobody to tell.
#[test]
fn every_recipient_has_one_last_word_in_the_log() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| {
        let (command, is_rcpt) = (occasion.command, verb_is(occasion.command, "RCPT"));
        match is_rcpt && command.contains("later") {
            true => Answer::Say("450 4.2.1 not now"),
            false => refuse_no(occasion),
        }
    });
    let (home, reports) = (Home::new(), NextHop::start());
    let relay = relay_with_reports(&home, &hop, &reports, &["--queue-lifetime", "2s"]);
    let to = ["yes@example.test", "no@example.test", "later@example.test"];
    send_mail(relay.address(), FROM, &to, CONTENT);
    send_mail(relay.address(), "", &to, CONTENT);
    for recipient in to {
        mail_with_notify(relay.address(), FROM, "NEVER", recipient);
    }
    relay.wait_for_count("delivered", 3, |event| event["report"] != "yes");
    relay.wait_for("bounced", |_| true);
    let expired = relay.wait_for("expired", |_| true);
    assert_eq!(expired["to"], "later@example.test");
    assert_eq!(expired["reply"], "450 4.2.1 not now");
    let dropped = relay.wait_for_count("dropped", 4, |_| true);
    let of = |words: &str| {
        let is_it = |event: &&serde_json::Value| event["reason"] == words;
        dropped.iter().filter(is_it).count()
    };
    assert_eq!(of("undeliverable, and the reverse-path is null"), 1);
    assert_eq!(of("expired, and the reverse-path is null"), 1);
    assert_eq!(of("undeliverable, and NOTIFY asks for no report"), 1);
    assert_eq!(of("expired, and NOTIFY asks for no report"), 1);
    relay.wait_for_count("delivered", 2, |event| event["report"] == "yes");
    relay.stop_with_nothing_left();
    assert_nothing_is_left(&home);
}

#[test]
fn a_report_that_expires_has_a_last_word() {
    let hop = NextHop::scripted(StartTls::Works, refuse_no);
    let (home, reports) = (Home::new(), NextHop::scripted(StartTls::Works, not_now));
    let flags = ["--queue-lifetime", "1s", "--bounce-lifetime", "1s"];
    let relay = relay_with_reports(&home, &hop, &reports, &flags);
    send_mail(relay.address(), FROM, &["no@example.test"], CONTENT);
    let dropped = relay.wait_for("dropped", |_| true);
    assert_eq!(dropped["reason"], "the report expired");
    assert_eq!(
        (&dropped["to"], &dropped["report"]),
        (&FROM.into(), &"yes".into())
    );
    relay.stop_with_nothing_left();
    assert_nothing_is_left(&home);
}

// ---- Trying again ----

#[test]
fn deferred_and_then_delivered() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| {
        match verb_is(occasion.command, "RCPT") && occasion.before == 0 {
            true => Answer::Say("450 4.2.1 not now"),
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    relay.wait_for("delivered", |_| true);
    assert_eq!(relay.events("deferred").len(), 1);
    relay.stop();
    assert_nothing_is_left(&home);
}

#[test]
fn greylisting_with_a_policy_status_keeps_to_the_retry_interval() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| {
        match verb_is(occasion.command, "MAIL") && occasion.before < 2 {
            true => Answer::Say("451 4.7.1 slow down"),
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    let started = Instant::now();
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    relay.stop();
}

#[test]
fn connection_lost_before_the_final_reply_is_tried_again() {
    for end in [Answer::Close, Answer::Reset] {
        let hop = NextHop::scripted(StartTls::Works, move |occasion| {
            match occasion.command == "." && occasion.before == 0 {
                true => end.clone(),
                false => Answer::Usual,
            }
        });
        let home = Home::new();
        let relay = relay_to(&home, &hop, &[]);
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        hop.wait_for_mail(1);
        relay.wait_for("delivered", |_| true);
        relay.stop();
        assert_nothing_is_left(&home);
    }
}

#[test]
fn connection_lost_at_any_command_is_tried_again() {
    for verb in ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"] {
        for end in [Answer::Close, Answer::SayAndClose("421 4.3.2 going down")] {
            let hop = NextHop::scripted(StartTls::NotOffered, move |occasion| {
                match verb_is(occasion.command, verb) && occasion.before == 0 {
                    true => end.clone(),
                    false => Answer::Usual,
                }
            });
            let home = Home::new();
            let relay = relay_to(&home, &hop, &[]);
            send_mail(relay.address(), FROM, &[TO], CONTENT);
            hop.wait_for_mail(1);
            relay.stop();
        }
    }
}

#[test]
fn session_ended_between_messages_is_opened_anew_at_once() {
    // 421 behind the reply to the first message, and the end.
    let hop = NextHop::scripted(StartTls::Works, |occasion| {
        match occasion.command == "." && occasion.before == 0 {
            true => Answer::UsualThenSayAndClose("421 4.4.2 enough"),
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let flags = [
        "--retry-min",
        "1h",
        "--retry-max",
        "1h",
        "--delivery-connections",
        "1",
    ];
    let route = hop.route("*");
    let mut all = vec!["--route", &route];
    all.extend(flags);
    let relay = home.start(&all);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    for _ in 0..5 {
        client.accepted(FROM, &[TO], CONTENT);
    }
    client.quit();
    hop.wait_for_mail(5);
    relay.stop();
}

#[test]
fn hop_that_ends_every_session_at_its_second_message() {
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| {
        // The commands of this connection are not told apart, so by parity.
        match verb_is(occasion.command, "MAIL") && occasion.before % 2 == 1 {
            true => Answer::Close,
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let flags = ["--delivery-connections", "1"];
    let relay = relay_to(&home, &hop, &flags);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    for _ in 0..6 {
        client.accepted(FROM, &[TO], CONTENT);
    }
    client.quit();
    hop.wait_for_mail(6);
    relay.stop();
}

#[test]
fn hop_that_drops_every_connection_is_soon_left_alone() {
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| match occasion.command {
        "." => Answer::Close,
        _ => Answer::Usual,
    });
    let (home, route) = (Home::new(), hop.route("*"));
    let relay = home.start(&["--route", &route, "--delivery-connections", "1"]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    for _ in 0..40 {
        client.accepted(FROM, &[TO], CONTENT);
    }
    client.quit();
    relay.wait_for_count("deferred", 3, |_| true);
    // Little more is to happen; a hop that is hammered sees ten connections in no time. Those
    // that came while the client was still sending do not count: a slow host probes meanwhile.
    let before = hop.connections();
    assert!(
        hop.seen()
            .wait(Duration::from_secs(2), |seen| (seen.connections
                > before + 9)
                .then_some(()))
            .is_none()
    );
    relay.stop();
}

#[test]
fn hop_that_says_421_is_not_asked_again_at_once() {
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| match occasion.command {
        "." => Answer::SayAndClose("421 4.3.2 overloaded"),
        _ => Answer::Usual,
    });
    let (home, route) = (Home::new(), hop.route("*"));
    let relay = home.start(&["--route", &route, "--delivery-connections", "1"]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    for _ in 0..40 {
        client.accepted(FROM, &[TO], CONTENT);
    }
    client.quit();
    relay.wait_for("deferred", |_| true);
    let before = hop.connections();
    assert!(
        hop.seen()
            .wait(Duration::from_secs(2), |seen| (seen.connections
                > before + 3)
                .then_some(()))
            .is_none()
    );
    relay.stop();
}

#[test]
fn acceptance_that_comes_before_the_content_is_none() {
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| match occasion.command {
        "DATA" if occasion.before == 0 => Answer::SayAndClose("354 Go on\r\n250 2.0.0 taken"),
        _ => Answer::Usual,
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    relay.stop();
    assert_nothing_is_left(&home);
}

#[test]
fn early_refusal_of_the_content_is_heard() {
    // As hosts do that find a message too large half way: they answer and close.
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| match occasion.command {
        "DATA" => Answer::SayAndClose("354 Go on\r\n552 5.3.4 too large for me"),
        _ => Answer::Usual,
    });
    let (home, reports) = (Home::new(), NextHop::start());
    let relay = relay_with_reports(&home, &hop, &reports, &["--max-message-size", "32MiB"]);
    send_mail(relay.address(), FROM, &[TO], &large_content(8 << 20));
    let report = the_report(&reports);
    assert!(report.contains("too large for me"), "{report}");
    relay.stop();
}

#[test]
fn many_messages_over_one_connection() {
    const MESSAGES: usize = 200;
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--delivery-connections", "1"]);
    let mut client = Client::connect_with_starttls(relay.address());
    for number in 0..MESSAGES {
        client.accepted(FROM, &[TO], &format!("Subject: {number}\r\n\r\nHello."));
    }
    client.quit();
    let mails = hop.wait_for_mail(MESSAGES);
    assert_eq!(hop.connections(), 1);
    let mut subjects: Vec<&str> = mails
        .iter()
        .filter_map(|mail| {
            mail.content
                .lines()
                .find(|line| line.starts_with("Subject:"))
        })
        .collect();
    subjects.sort_unstable();
    subjects.dedup();
    assert_eq!(subjects.len(), MESSAGES);
    relay.stop();
    assert_nothing_is_left(&home);
}

#[test]
fn connection_is_closed_after_its_share_of_messages() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = [
        "--delivery-connections",
        "1",
        "--max-deliveries-per-connection",
        "4",
    ];
    let relay = relay_to(&home, &hop, &flags);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    for _ in 0..10 {
        client.accepted(FROM, &[TO], CONTENT);
    }
    client.quit();
    hop.wait_for_mail(10);
    assert!(hop.connections() >= 3, "{}", hop.connections());
    relay.stop();
}

#[test]
fn idle_connection_that_the_hop_closed_costs_the_next_message_nothing() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "." => Answer::UsualThenSayAndClose("421 4.4.2 idle too long"),
        _ => Answer::Usual,
    });
    let home = Home::new();
    let route = hop.route("*");
    let relay = home.start(&["--route", &route, "--retry-min", "1h", "--retry-max", "1h"]);
    for number in 1..=5 {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        hop.wait_for_mail(number);
        relay.wait_for_count("delivered", number, |_| true);
    }
    assert_eq!(relay.events("deferred").len(), 0);
    relay.stop();
}

#[test]
fn idle_connections_are_closed_with_quit() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--idle-timeout", "1s"]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    hop.wait_for_command(|command| command == "QUIT");
    relay.stop();
}

// ---- Broken TLS at the next hop ----

const BROKEN: [StartTls; 6] = [
    StartTls::Refused,
    StartTls::Garbage,
    StartTls::Stalls,
    StartTls::Closes,
    StartTls::DemandsCertificate,
    StartTls::ClosesAfterHandshake,
];

#[test]
fn broken_starttls_falls_back_to_plaintext() {
    for starttls in BROKEN {
        let (home, hop) = (Home::new(), NextHop::scripted(starttls, usual));
        let flags = [&["--handshake-timeout", "1s"], PATIENT].concat();
        let relay = relay_to(&home, &hop, &flags);
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        assert!(!hop.wait_for_mail(1)[0].over_tls);
        relay.wait_for("delivered", |_| true);
        assert_eq!(relay.events("deferred").len(), 0, "{starttls:?}: at once");
        // The next connection does not try again.
        let before = hop
            .commands()
            .iter()
            .filter(|text| *text == "STARTTLS")
            .count();
        assert_eq!(before, 1, "{starttls:?}");
        relay.stop();
    }
}

/// Mail is not handed back while a connection to its hop is opened for a second.
const PATIENT: &[&str] = &["--retry-min", "30s", "--retry-max", "30s"];

/// The answer to the first EHLO inside TLS.
type Inside = fn() -> Answer;

/// What a host may do with its first word inside TLS, and what the log says of it.
const BROKEN_INSIDE: [(Inside, &str); 4] = [
    (|| Answer::Close, "closed the connection"),
    (|| Answer::Reset, "connection lost"),
    (|| Answer::CorruptRecord, "TLS"),
    (|| Answer::Stall, "timed out"),
];

fn breaks_inside(inside: Inside) -> impl Fn(Occasion<'_>) -> Answer + Send + Sync + 'static {
    move |occasion| match occasion.over_tls && verb_is(occasion.command, "EHLO") {
        true => inside(),
        false => Answer::Usual,
    }
}

#[test]
fn tls_that_breaks_before_the_first_reply_inside_it_falls_back_to_plaintext() {
    for (inside, reason) in BROKEN_INSIDE {
        let hop = NextHop::scripted(StartTls::Works, breaks_inside(inside));
        let home = Home::new();
        let flags = [&["--handshake-timeout", "1s"], PATIENT].concat();
        let relay = relay_to(&home, &hop, &flags);
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        assert!(!hop.wait_for_mail(1)[0].over_tls, "{reason}");
        relay.wait_for("delivered", |_| true);
        assert_eq!(relay.events("deferred").len(), 0, "{reason}: at once");
        let fallback = relay.wait_for("plaintext-fallback", |_| true);
        let told = fallback["reason"].as_str().expect("a text");
        assert!(told.contains(reason), "{told}");
        relay.stop();
    }
}

/// There is nothing to fall back to, so the reply has its whole time.
#[test]
fn silence_inside_tls_is_waited_for_where_plaintext_is_not_allowed() {
    let hop = NextHop::scripted(StartTls::Works, breaks_inside(|| Answer::Stall));
    let home = Home::new();
    let times = ["--handshake-timeout", "1s", "--reply-timeout", "3s"];
    let flags = [&times[..], &["--tls-out", "encrypt"], PATIENT].concat();
    let relay = relay_to(&home, &hop, &flags);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_commands(2, |command| verb_is(command, "EHLO"));
    let asked = Instant::now();
    relay.wait_for("connect-failed", |_| true);
    let waited = asked.elapsed();
    assert!(waited > Duration::from_millis(2500), "{waited:?}");
    assert_eq!(hop.mails().len(), 0);
    relay.stop();
}

/// As a server with TLS 1.3 does that wants a certificate of its clients: its alert comes after our
/// Finished, when the handshake is done on our side.
#[test]
fn an_alert_after_the_handshake_is_told_and_falls_back_to_plaintext() {
    let hop = NextHop::scripted(StartTls::DemandsCertificate, usual);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    assert!(!hop.wait_for_mail(1)[0].over_tls);
    let fallback = relay.wait_for("plaintext-fallback", |_| true);
    let told = fallback["reason"].as_str().expect("a text");
    assert!(told.contains("alert CertificateRequired"), "{told}");
    relay.stop();
}

/// A full handshake comes before plaintext, and where TLS is demanded before the wait.
#[test]
fn a_resumption_that_breaks_is_followed_by_a_full_handshake() {
    for level in ["may", "encrypt"] {
        let hop = NextHop::scripted(StartTls::BreaksWhenResumed, usual);
        let home = Home::new();
        let flags = ["--tls-out", level, "--max-deliveries-per-connection", "1"];
        let relay = relay_to(&home, &hop, &flags);
        for number in 1..=2 {
            send_mail(relay.address(), FROM, &[TO], CONTENT);
            let mails = hop.wait_for_mail(number);
            assert!(mails.iter().all(|mail| mail.over_tls), "{level}");
        }
        assert_eq!(hop.connections(), 3, "one was resumed, and broke");
        assert_eq!(relay.events("tls-failed").len(), 0, "{level}");
        assert_eq!(relay.events("deferred").len(), 0, "{level}");
        relay.stop();
    }
}

#[test]
fn a_421_to_starttls_falls_back_to_plaintext() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "STARTTLS" => Answer::SayAndClose("421 4.7.0 TLS is out of order"),
        _ => Answer::Usual,
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    assert!(!hop.wait_for_mail(1)[0].over_tls);
    let fallback = relay.wait_for("plaintext-fallback", |_| true);
    let told = fallback["reason"].as_str().expect("a text");
    assert!(told.contains("421 4.7.0 TLS is out of order"), "{told}");
    assert_eq!(relay.events("deferred").len(), 0, "at once");
    relay.stop();
}

#[test]
fn tls_that_breaks_inside_defers_where_encryption_is_demanded_and_says_what_tls_said() {
    let demands = NextHop::scripted(StartTls::DemandsCertificate, usual);
    let corrupts = breaks_inside(|| Answer::CorruptRecord);
    let corrupts = NextHop::scripted(StartTls::Works, corrupts);
    let busy = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "STARTTLS" => Answer::SayAndClose("421 4.7.0 TLS is out of order"),
        _ => Answer::Usual,
    });
    let hops = [
        (demands, "CertificateRequired"),
        (corrupts, "TLS broken by peer"),
        (busy, "TLS is out of order"),
    ];
    for (hop, reason) in hops {
        let home = Home::new();
        let relay = relay_to(&home, &hop, &["--tls-out", "encrypt"]);
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        let deferred = relay.wait_for("deferred", |_| true);
        let told = deferred["reply"].as_str().expect("a text");
        assert!(told.contains(reason), "{told}");
        let commands = hop.commands();
        assert!(
            !commands.iter().any(|text| verb_is(text, "MAIL")),
            "{commands:?}"
        );
        relay.stop();
    }
}

/// A reply was read inside TLS: what breaks afterwards is no reason to do without it.
#[test]
fn a_session_that_breaks_after_the_first_reply_inside_tls_does_not_fall_back() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| {
        match occasion.over_tls && verb_is(occasion.command, "MAIL") {
            true => Answer::Close,
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    relay.wait_for("deferred", |_| true);
    assert_eq!(relay.events("plaintext-fallback").len(), 0);
    assert_eq!(hop.mails().len(), 0);
    relay.stop();
}

#[test]
fn replies_behind_the_220_to_starttls_are_discarded() {
    let (home, hop) = (Home::new(), NextHop::scripted(StartTls::Injected, usual));
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    assert!(hop.wait_for_mail(1)[0].over_tls);
    let hellos = hop
        .commands()
        .iter()
        .filter(|text| verb_is(text, "EHLO"))
        .count();
    assert_eq!(hellos, 2);
    relay.stop();
}

#[test]
fn broken_starttls_is_tried_again_after_a_while() {
    let hop = NextHop::scripted(StartTls::Garbage, |occasion| match occasion.command {
        "." => Answer::UsualThenSayAndClose("421 4.4.2 enough"),
        _ => Answer::Usual,
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--tls-broken-for", "0s"]);
    for number in 1..=2 {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        hop.wait_for_mail(number);
    }
    hop.wait_for_commands(2, |command| command == "STARTTLS");
    relay.stop();
}

#[test]
fn broken_starttls_defers_where_encryption_is_demanded() {
    for starttls in BROKEN.into_iter().chain([StartTls::NotOffered]) {
        let (home, hop) = (Home::new(), NextHop::scripted(starttls, usual));
        let flags = ["--handshake-timeout", "1s", "--tls-out", "encrypt"];
        let relay = relay_to(&home, &hop, &flags);
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        relay.wait_for("deferred", |_| true);
        relay.wait_for_count("connect-failed", 2, |_| true);
        let commands = hop.commands();
        assert!(
            !commands.iter().any(|text| verb_is(text, "MAIL")),
            "{starttls:?} {commands:?}"
        );
        relay.stop();
    }
}

#[test]
fn untrusted_certificate_defers_where_verification_is_demanded() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--tls-out", "verify"]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let deferred = relay.wait_for("deferred", |_| true);
    assert!(
        deferred["status"]
            .as_str()
            .is_some_and(|text| text.starts_with("4.7")),
        "{deferred}"
    );
    let commands = hop.commands();
    assert!(
        !commands.iter().any(|text| verb_is(text, "MAIL")),
        "{commands:?}"
    );
    relay.stop();
}

// ---- MX ----

/// All with STARTTLS that works.
fn mx_hosts(scripts: Vec<Script>) -> MxHosts {
    let hosts: Vec<_> = (scripts.into_iter())
        .map(|script| (StartTls::Works, script))
        .collect();
    MxHosts::start(&hosts)
}

#[test]
fn nobody_waits_for_a_reply_to_quit_before_the_next_host_is_tried() {
    let hosts = mx_hosts(vec![
        |occasion| match occasion.command {
            "QUIT" => Answer::Stall,
            mail if verb_is(mail, "MAIL") => Answer::Say("451 4.3.0 try another host"),
            _ => Answer::Usual,
        },
        usual,
    ]);
    let home = Home::new();
    let relay = hosts.relay(&home, &[]);
    let started = Instant::now();
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hosts.hops[1].wait_for_mail(1);
    // The time for QUIT is five seconds.
    assert!(started.elapsed() < Duration::from_secs(4));
    hosts.hops[0].wait_for_command(|command| command == "QUIT");
    relay.kill();
}

/// One host for each kind of STARTTLS.
fn mx_hosts_with_tls(kinds: &[StartTls]) -> MxHosts {
    let hosts: Vec<_> = (kinds.iter())
        .map(|kind| (*kind, usual as Script))
        .collect();
    MxHosts::start(&hosts)
}

#[test]
fn tls_at_the_second_mx_host_comes_before_plaintext_at_the_first() {
    for broken in BROKEN {
        let hosts = mx_hosts_with_tls(&[broken, StartTls::Works]);
        let home = Home::new();
        let flags = [&["--handshake-timeout", "1s"], PATIENT].concat();
        let relay = hosts.relay(&home, &flags);
        for number in 1..=2 {
            send_mail(relay.address(), FROM, &[TO], CONTENT);
            let mails = hosts.hops[1].wait_for_mail(number);
            assert!(mails.iter().all(|mail| mail.over_tls), "{broken:?}");
        }
        assert_eq!(hosts.hops[0].mails().len(), 0, "{broken:?}");
        assert_eq!(relay.events("deferred").len(), 0, "{broken:?}: at once");
        relay.stop();
    }
}

#[test]
fn plaintext_at_the_first_mx_host_when_tls_is_broken_at_all() {
    let kinds = [StartTls::Garbage, StartTls::DemandsCertificate];
    let hosts = mx_hosts_with_tls(&kinds);
    let home = Home::new();
    let relay = hosts.relay(&home, PATIENT);
    for number in 1..=2 {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        assert!(!hosts.hops[0].wait_for_mail(number)[0].over_tls);
    }
    assert_eq!(hosts.hops[1].mails().len(), 0);
    assert_eq!(relay.events("deferred").len(), 0, "within the same attempt");
    relay.stop();
}

/// Nothing has failed there: a host without STARTTLS keeps its place in the order of preference.
#[test]
fn a_first_mx_host_that_offers_no_tls_gets_the_mail() {
    let kinds = [StartTls::NotOffered, StartTls::Works];
    let hosts = mx_hosts_with_tls(&kinds);
    let home = Home::new();
    let relay = hosts.relay(&home, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    assert!(!hosts.hops[0].wait_for_mail(1)[0].over_tls);
    assert_eq!(hosts.hops[1].connections(), 0);
    relay.stop();
}

/// The other host says nothing at all: asking it in vain is not repeated before each plaintext.
#[test]
fn a_mute_second_mx_host_holds_up_plaintext_at_the_first_only_once() {
    let dns = DnsServer::start();
    let broken = NextHop::scripted(StartTls::Garbage, |occasion| match occasion.command {
        "." => Answer::UsualThenSayAndClose("421 4.4.2 enough"),
        _ => Answer::Usual,
    });
    let ip = Ipv4Addr::new(127, 0, 0, 2);
    let mute = NextHop::on(
        (ip, broken.address().port()).into(),
        StartTls::Works,
        KEYWORDS,
        says_nothing,
    );
    for (number, hop) in [(1, &broken), (2, &mute)] {
        let name = format!("mx{number}.example.test");
        dns.mx("example.test", number * 10, &format!("{name}."));
        dns.host(&name, &hop.address().ip().to_string());
    }
    let hosts = MxHosts {
        dns,
        hops: vec![broken, mute],
    };
    let home = Home::new();
    let relay = hosts.relay(&home, &["--greeting-timeout", "1s"]);
    for number in 1..=4 {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        hosts.hops[0].wait_for_mail(number);
    }
    assert_eq!(hosts.hops[1].connections(), 1);
    relay.stop();
}

#[test]
fn best_mx_host_gets_the_mail() {
    let (home, hosts) = (Home::new(), mx_hosts(vec![usual, usual]));
    let relay = hosts.relay(&home, &[]);
    for number in 1..=3 {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        hosts.hops[0].wait_for_mail(number);
    }
    assert_eq!(hosts.hops[1].connections(), 0);
    let delivered = relay.wait_for("delivered", |_| true);
    assert_eq!(delivered["host"], "mx1.example.test");
    relay.stop();
}

#[test]
fn second_mx_host_gets_the_mail_when_the_first_refuses() {
    let closes = |occasion: Occasion<'_>| match occasion.command {
        "CONNECT" => Answer::Close,
        _ => Answer::Usual,
    };
    let no_greeting = |occasion: Occasion<'_>| match occasion.command {
        "CONNECT" => Answer::SayAndClose("554 5.3.2 no service here"),
        _ => Answer::Usual,
    };
    let busy = |occasion: Occasion<'_>| match occasion.command {
        "CONNECT" => Answer::SayAndClose("421 4.3.2 too busy"),
        _ => Answer::Usual,
    };
    let (home, hosts) = (
        Home::new(),
        mx_hosts(vec![closes, no_greeting, busy, usual]),
    );
    // And one that does not even listen.
    let unreachable = Ipv4Addr::new(127, 0, 0, 9);
    let _deaf = deaf(unreachable.into(), hosts.hops[0].address().port());
    hosts.dns.mx("example.test", 5, "mx9.example.test.");
    hosts.dns.host("mx9.example.test", &unreachable.to_string());
    let relay = hosts.relay(&home, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hosts.hops[3].wait_for_mail(1);
    relay.wait_for("delivered", |event| event["host"] == "mx4.example.test");
    assert_eq!(relay.events("deferred").len(), 0);
    relay.stop();
}

/// The names sort the dead ones first.
#[test]
fn the_other_four_of_fourteen_equal_mx_hosts_are_tried_when_ten_are_dead() {
    let (home, hosts) = (Home::new(), mx_hosts(vec![usual]));
    let address = hosts.hops[0].address();
    let _dead: Vec<_> = (20..30)
        .map(|last| {
            let ip = Ipv4Addr::new(127, 0, 0, last);
            let name = format!("dead{last}.equal.test");
            hosts.dns.mx("equal.test", 10, &format!("{name}."));
            hosts.dns.host(&name, &ip.to_string());
            deaf(ip.into(), address.port())
        })
        .collect();
    for number in 1..=4 {
        let name = format!("good{number}.equal.test");
        hosts.dns.mx("equal.test", 10, &format!("{name}."));
        hosts.dns.host(&name, "127.0.0.1");
    }
    let relay = hosts.relay(&home, &["--retry-min", "1h", "--retry-max", "1h"]);
    send_mail(relay.address(), FROM, &["b@equal.test"], CONTENT);
    hosts.hops[0].wait_for_mail(1);
    assert_eq!(relay.events("deferred").len(), 0);
    relay.stop();
}

#[test]
fn a_name_server_that_refuses_leaves_the_mail_to_the_other_and_the_log_says_so() {
    let (home, hosts) = (Home::new(), mx_hosts(vec![usual]));
    let failing = DnsServer::start();
    failing.fail_all(dns::Failure::Refused);
    hosts.dns.delay(Duration::from_millis(20));
    let servers = format!("{},{}", failing.address(), hosts.dns.address());
    let port = hosts.hops[0].address().port().to_string();
    let relay = home.start(&["--dns", &servers, "--mx-port", &port]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hosts.hops[0].wait_for_mail(1);
    let event = relay.wait_for("name-server-failed", |_| true);
    assert_eq!(event["server"], failing.address().to_string());
    assert_eq!(event["reason"], "Query Refused");
    assert_eq!(event["answered_by"], hosts.dns.address().to_string());
    assert_eq!(relay.events("deferred").len(), 0);
    relay.stop();
}

#[test]
fn mail_waits_for_a_host_that_is_down_while_another_refuses_it_for_good() {
    let no_mail = |occasion: Occasion<'_>| match occasion.command {
        "CONNECT" => Answer::SayAndClose("521 5.3.2 no mail here"),
        _ => Answer::Usual,
    };
    let (home, hosts) = (Home::new(), mx_hosts(vec![no_mail]));
    let down = Ipv4Addr::new(127, 0, 0, 9);
    let _deaf = deaf(down.into(), hosts.hops[0].address().port());
    hosts.dns.mx("example.test", 5, "mx9.example.test.");
    hosts.dns.host("mx9.example.test", &down.to_string());
    let relay = hosts.relay(&home, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    relay.wait_for("deferred", |_| true);
    relay.wait_for_count("connect-failed", 4, |_| true);
    assert_eq!(relay.events("bounced").len(), 0);
    relay.stop();
}

fn disk_is_full(occasion: Occasion<'_>) -> Answer {
    match verb_is(occasion.command, "MAIL") {
        true => Answer::Say("452 4.3.1 Insufficient system storage"),
        false => Answer::Usual,
    }
}

#[test]
fn second_mx_host_gets_the_mail_when_the_first_has_no_room() {
    let (home, hosts) = (Home::new(), mx_hosts(vec![disk_is_full, usual]));
    let relay = hosts.relay(&home, &["--retry-min", "1h", "--retry-max", "1h"]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hosts.hops[1].wait_for_mail(1);
    relay.wait_for("delivered", |_| true);
    relay.stop();
    assert!(hosts.hops[0].mails().is_empty());
    assert_nothing_is_left(&home);
}

#[test]
fn mail_is_deferred_when_no_mx_host_has_room() {
    let (home, hosts) = (Home::new(), mx_hosts(vec![disk_is_full, disk_is_full]));
    let relay = hosts.relay(&home, &["--retry-min", "1h", "--retry-max", "1h"]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    relay.wait_for("deferred", |_| true);
    relay.stop();
    for hop in &hosts.hops {
        let commands = hop.commands();
        let mails = commands.iter().filter(|it| verb_is(it, "MAIL"));
        assert_eq!(mails.count(), 1, "each host is asked once");
    }
}

fn says_nothing(occasion: Occasion<'_>) -> Answer {
    match occasion.command {
        "CONNECT" => Answer::Stall,
        _ => Answer::Usual,
    }
}

/// Forty hops accept connections and say nothing; they may not have all of the sixteen.
#[test]
fn hops_that_hang_leave_connections_to_those_that_answer() {
    let (home, hosts) = (Home::new(), mx_hosts(vec![usual, says_nothing]));
    hosts.dns.remove("example.test");
    hosts.dns.mx("example.test", 10, "mx1.example.test.");
    for number in 0..40 {
        let (domain, host) = (format!("d{number}.test"), format!("mx.d{number}.test"));
        hosts.dns.mx(&domain, 10, &format!("{host}."));
        hosts.dns.host(&host, "127.0.0.2");
    }
    let relay = hosts.relay(
        &home,
        &[
            "--delivery-connections-total",
            "16",
            "--delivery-connections",
            "5",
            "--idle-timeout",
            "0s",
        ],
    );
    let (good, hanging) = (&hosts.hops[0], &hosts.hops[1]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    good.wait_for_mail(1);
    assert!(good.wait_until_no_connection(support::PATIENCE), "it rests");
    for number in 0..40 {
        let to = format!("b@d{number}.test");
        send_mail(relay.address(), FROM, &[&to], CONTENT);
    }
    let open = |count| {
        let seen = hanging.seen();
        seen.wait(support::PATIENCE, |seen| (seen.open >= count).then_some(()))
    };
    open(14).expect("all that they may have");
    for number in 2..=4 {
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        good.wait_for_mail(number);
    }
    assert_eq!(hanging.connections(), 14, "and no more");
    relay.stop();
}

#[test]
fn null_mx_is_returned_at_once() {
    let (home, reports, dns) = (Home::new(), NextHop::start(), DnsServer::start());
    dns.mx("example.test", 0, ".");
    let (server, back) = (dns.address().to_string(), reports.route("sender.test"));
    let relay = home.start(&["--dns", &server, "--route", &back]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let report = the_report(&reports);
    assert!(report.contains("Status: 5.1.10"), "{report}");
    relay.stop();
}

#[test]
fn own_host_as_mx_is_a_loop() {
    let (home, reports, dns) = (Home::new(), NextHop::start(), DnsServer::start());
    dns.mx("example.test", 10, "relay.test.");
    dns.mx("example.test", 20, "backup.example.test.");
    dns.host("relay.test", "127.0.0.1");
    dns.host("backup.example.test", "127.0.0.1");
    let (server, back) = (dns.address().to_string(), reports.route("sender.test"));
    let relay = home.start(&["--dns", &server, "--route", &back]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let report = the_report(&reports);
    assert!(report.contains("Status: 5.4.6"), "{report}");
    relay.stop();
}

#[test]
fn hop_that_greets_with_our_name_is_a_loop() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "CONNECT" => Answer::Say("220 relay.test ESMTP"),
        _ => Answer::Usual,
    });
    let (home, reports) = (Home::new(), NextHop::start());
    let relay = relay_with_reports(&home, &hop, &reports, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let report = the_report(&reports);
    assert!(report.contains("Status: 5.4.6"), "{report}");
    relay.stop();
}

#[test]
fn dns_failure_defers() {
    use hickory_resolver::proto::rr::RecordType;
    use support::dns::Failure;
    let (home, dns) = (Home::new(), DnsServer::start());
    dns.fail("example.test", RecordType::MX, Failure::ServFail);
    let server = dns.address().to_string();
    let relay = home.start(&["--dns", &server]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    let deferred = relay.wait_for("deferred", |_| true);
    assert_eq!(deferred["status"], "4.4.3");
    relay.stop();
}

// ---- Stopping ----

#[test]
fn idle_session_is_told_of_the_stop() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = relay_to(&home, &hop, &[]);
    let mut plain = Client::connect(relay.address());
    plain.expect("EHLO client.test", 250);
    let mut encrypted = Client::connect_with_starttls(relay.address());
    let started = Instant::now();
    relay.signal("TERM");
    for client in [&mut plain, &mut encrypted] {
        assert!(client.expect_reply(421).contains("4.3.2"));
        client.expect_end();
    }
    assert!(relay.wait().success());
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn session_within_its_data_may_finish() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect("RCPT TO:<b@example.test>", 250);
    client.expect("DATA", 354);
    client.send("Subject: slow\r\n\r\n");
    relay.signal("TERM");
    relay.wait_for("stopping", |_| true);
    client.send("Hello.\r\n.\r\n");
    client.expect_reply(250);
    client.expect_reply(421);
    client.expect_end();
    assert!(relay.wait().success());
    assert_eq!(relay.events("stop")[0]["how"], "drained");
    // Delivered, or kept for the next run.
    let relay = relay_to(&home, &hop, &[]);
    hop.wait_for_mail(1);
    relay.stop();
}

#[test]
fn delivery_under_way_may_finish() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| {
        if occasion.command == "." {
            // Long enough for the signal to come in between.
            std::thread::sleep(Duration::from_secs(2));
        }
        Answer::Usual
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_command(|command| command == "DATA");
    relay.stop();
    assert_eq!(hop.mails().len(), 1);
    assert_nothing_is_left(&home);
}

#[test]
fn stop_says_quit_on_idle_connections() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--idle-timeout", "5m"]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    relay.wait_for("delivered", |_| true);
    relay.stop();
    hop.wait_for_command(|command| command == "QUIT");
}

#[test]
fn stop_does_not_wait_for_a_hop_that_does_not_greet() {
    let hop = NextHop::scripted(StartTls::Works, |_| Answer::Stall);
    let home = Home::new();
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_command(|command| command == "CONNECT");
    let started = Instant::now();
    relay.stop();
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn connections_in_the_queue_of_a_stopping_relay_are_answered() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = relay_to(&home, &hop, &[]);
    // Keeps the relay from ending.
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    relay.signal("TERM");
    relay.wait_for("stopping", |_| true);
    let mut told = 0;
    for _ in 0..40 {
        let Ok(mut link) = support::link::Link::connect(relay.address()) else {
            break; // The listener is closed: that is an answer too.
        };
        let mut line = link.line().expect("no reset").expect("an answer");
        if line.starts_with("220") {
            // The core had not heard of the stop yet.
            line = link.line().expect("no reset").expect("an answer");
        }
        assert!(line.starts_with("421 4.3.2"), "{line}");
        told += 1;
    }
    assert!(told > 0);
    relay.signal("TERM");
    assert!(relay.wait().success());
}

#[test]
fn second_signal_ends_at_once() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect("RCPT TO:<b@example.test>", 250);
    client.expect("DATA", 354);
    relay.signal("TERM");
    relay.wait_for("stopping", |_| true);
    let started = Instant::now();
    relay.signal("TERM");
    relay.wait();
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn drain_ends_when_its_time_is_up() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = relay_to(&home, &hop, &["--drain-timeout", "1s"]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    relay.signal("TERM");
    assert!(relay.wait().success());
}

// ---- The spool ----

fn not_now(occasion: Occasion<'_>) -> Answer {
    match verb_is(occasion.command, "RCPT") {
        true => Answer::Say("450 4.2.1 not now"),
        false => Answer::Usual,
    }
}

#[test]
fn retry_state_survives_a_restart() {
    let (home, hop) = (Home::new(), NextHop::scripted(StartTls::Works, not_now));
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    relay.wait_for_count("deferred", 2, |_| true);
    relay.stop();

    let list = home.run(&["spool", "list", &home.spool()]);
    let text = String::from_utf8_lossy(&list.stdout);
    assert!(
        text.contains("<a@sender.test>") && text.contains("b@example.test"),
        "{text}"
    );
    assert!(text.contains("not now"), "{text}");
    let verify = home.run(&["spool", "verify", &home.spool()]);
    assert_eq!(verify.status.code(), Some(0), "{verify:?}");

    let hop = NextHop::start();
    let relay = relay_to(&home, &hop, &[]);
    assert_eq!(relay.events("spool")[0]["recovered_messages"], 1);
    let mail = &hop.wait_for_mail(1)[0];
    assert!(
        mail.content.ends_with("Subject: test\r\n\r\nHello.\r\n"),
        "{}",
        mail.content
    );
    relay.stop();
    assert_nothing_is_left(&home);
}

#[test]
fn deferred_mail_waits_for_its_time_after_a_restart() {
    let (home, hop) = (Home::new(), NextHop::scripted(StartTls::Works, not_now));
    let route = hop.route("*");
    let flags = ["--route", &route, "--retry-min", "1h", "--retry-max", "1h"];
    let relay = home.start(&flags);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    relay.wait_for("deferred", |_| true);
    // The line may be seen before the outcome is on the disk; mail that is accepted later is there after it.
    send_mail(relay.address(), FROM, &["d@example.test"], CONTENT);
    relay.kill();
    let relay = home.start(&flags);
    send_mail(relay.address(), FROM, &["c@example.test"], CONTENT);
    relay.wait_for("deferred", |event| event["to"] == "c@example.test");
    let early = relay.events("deferred");
    assert!(early.iter().all(|event| event["to"] != TO), "{early:?}");
    relay.stop();
}

#[test]
fn mail_survives_kill_9() {
    let (home, hop) = (Home::new(), NextHop::scripted(StartTls::Works, not_now));
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO, "c@example.test"], CONTENT);
    relay.kill();
    let hop = NextHop::start();
    let relay = relay_to(&home, &hop, &[]);
    let mails = hop.wait_for_mail(1);
    assert_eq!(mails[0].to.len(), 2);
    relay.stop();
    assert_nothing_is_left(&home);
}

#[test]
fn who_has_got_the_mail_does_not_get_it_again_after_kill_9() {
    let one_later = |occasion: Occasion<'_>| match occasion.command.contains("later@") {
        true => Answer::Say("450 4.2.1 not now"),
        false => Answer::Usual,
    };
    let home = Home::new();
    let hop = NextHop::scripted(StartTls::Works, one_later);
    let relay = relay_to(&home, &hop, &[]);
    send_mail(
        relay.address(),
        FROM,
        &["now@example.test", "later@example.test"],
        CONTENT,
    );
    hop.wait_for_mail(1);
    // By the second try the outcome of the first has long been recorded.
    relay.wait_for_count("deferred", 2, |_| true);
    relay.kill();
    let hop = NextHop::start();
    let relay = relay_to(&home, &hop, &[]);
    let mail = &hop.wait_for_mail(1)[0];
    assert_eq!(mail.to.len(), 1);
    assert!(mail.to[0].contains("later@"), "{:?}", mail.to);
    relay.stop();
    assert_nothing_is_left(&home);
}

#[test]
fn report_that_is_owed_survives_kill_9() {
    let hop = NextHop::scripted(StartTls::Works, refuse_no);
    let (home, reports) = (Home::new(), NextHop::scripted(StartTls::Works, not_now));
    let relay = relay_with_reports(&home, &hop, &reports, &[]);
    send_mail(relay.address(), FROM, &["no@example.test"], CONTENT);
    relay.wait_for_count("deferred", 2, |event| event["report"] == "yes");
    relay.kill();
    let reports = NextHop::start();
    let relay = relay_with_reports(&home, &hop, &reports, &[]);
    let report = the_report(&reports);
    assert!(report.contains("no such user here"), "{report}");
    relay.stop();
    assert_nothing_is_left(&home);
}

#[test]
fn spool_of_more_threads_is_drained_by_fewer() {
    let (home, hop) = (Home::new(), NextHop::scripted(StartTls::Works, not_now));
    let many = ["--ingress-cores", "0,0", "--delivery-cores", "0,0,1"];
    let relay = relay_to(&home, &hop, &many);
    for _ in 0..20 {
        send_mail(relay.address(), FROM, &[TO, "c@other.test"], CONTENT);
    }
    relay.stop();
    let hop = NextHop::start();
    let relay = relay_to(&home, &hop, &[]);
    let recipients = hop.seen().wait(support::PATIENCE, |seen| {
        let count: usize = seen.mails.iter().map(|mail| mail.to.len()).sum();
        (count >= 40).then_some(count)
    });
    assert_eq!(recipients, Some(40));
    relay.stop();
    assert_nothing_is_left(&home);
}

#[test]
fn two_relays_cannot_open_one_spool() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let mut second = home.spawn(&[]);
    assert!(!second.wait().success());
    let complaint = second.log_text();
    assert!(complaint.contains(&relay.pid().to_string()), "{complaint}");
    assert!(complaint.contains(&home.spool()), "{complaint}");
    let list = home.run(&["spool", "list", &home.spool()]);
    assert!(!list.status.success());
    relay.stop();
}

#[test]
fn full_spool_says_452_and_recovers() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let accepts = Arc::new(AtomicBool::new(false));
    let hop = NextHop::scripted(StartTls::NotOffered, {
        let accepts = Arc::clone(&accepts);
        move |occasion| match verb_is(occasion.command, "RCPT") && !accepts.load(Ordering::SeqCst) {
            true => Answer::Say("450 4.2.1 not now"),
            false => Answer::Usual,
        }
    });
    let home = Home::new();
    let flags = ["--spool-size", "40MiB", "--max-message-size", "1MiB"];
    let relay = relay_to(&home, &hop, &flags);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    let content = large_content(200_000);
    let mut accepted = 0;
    let refusal = loop {
        let reply = client.command("MAIL FROM:<a@sender.test>");
        if reply.code != 250 {
            break reply;
        }
        client.expect("RCPT TO:<b@example.test>", 250);
        let reply = client.command("DATA");
        if reply.code != 354 {
            break reply;
        }
        let reply = client.command(&format!("{content}\r\n."));
        if reply.code != 250 {
            break reply;
        }
        accepted += 1;
        assert!(accepted < 400, "the spool is never full");
    };
    assert_eq!(refusal.code, 452, "{refusal:?}");
    assert!(refusal.text.contains("4.3.1"), "{refusal:?}");
    assert!(accepted > 10, "{accepted}");
    accepts.store(true, Ordering::SeqCst);
    hop.wait_for_mail(accepted);
    client.quit();
    // Room comes back segment by segment.
    let deadline = Instant::now() + support::PATIENCE;
    loop {
        let mut client = Client::connect(relay.address());
        client.expect("EHLO client.test", 250);
        let reply = client.command("MAIL FROM:<a@sender.test>");
        if reply.code == 250 {
            client.expect("RCPT TO:<b@example.test>", 250);
            client.expect("DATA", 354);
            client.expect(&format!("{content}\r\n."), 250);
            break;
        }
        assert!(Instant::now() < deadline, "{reply:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    hop.wait_for_mail(accepted + 1);
    relay.stop();
    assert_nothing_is_left(&home);
}

// ---- Threads ----

#[test]
fn roles_on_threads_of_their_own() {
    let placements = [("0", "1"), ("0,0", "0,0,1"), ("0,1", "0,1"), ("0", "0")];
    for (ingress, delivery) in placements {
        let (home, hop) = (Home::new(), NextHop::start());
        let flags = ["--ingress-cores", ingress, "--delivery-cores", delivery];
        let relay = relay_to(&home, &hop, &flags);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        send_mail(relay.address(), FROM, &[TO], CONTENT);
                    }
                });
            }
        });
        assert_eq!(hop.wait_for_mail(80).len(), 80, "{ingress} {delivery}");
        relay.stop();
        assert_nothing_is_left(&home);
    }
}

#[test]
fn burst_over_a_full_lane_is_not_forgotten() {
    // More jobs at once than a lane holds, to a core that never sends anything back.
    const MESSAGES: usize = 1000;
    let hop = NextHop::scripted(StartTls::NotOffered, not_now);
    let home = Home::new();
    let flags = [
        "--ingress-cores",
        "0",
        "--delivery-cores",
        "1",
        "--retry-max",
        "1h",
    ];
    let route = hop.route("*");
    let mut all = vec!["--route", &route, "--retry-min", "1h"];
    all.extend(flags);
    let relay = home.start(&all);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    let one = format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\nDATA\r\n{CONTENT}\r\n.\r\n");
    client.send(&one.repeat(MESSAGES));
    for _ in 0..MESSAGES {
        for code in [250, 250, 354, 250] {
            client.expect_reply(code);
        }
    }
    client.quit();
    relay.wait_for_count("deferred", MESSAGES, |_| true);
    relay.stop();
}

#[test]
fn threads_that_are_tied_do_not_push_others_off_their_cpu() {
    let cpu = ringpost::io::cpu::allowed().unwrap()[0].to_string();
    let own = scheduling_policies(std::process::id()).remove(0);
    let patient = match own.as_str() {
        SCHED_OTHER => SCHED_BATCH,
        chosen => chosen,
    };
    for (no_pin, policy) in [("off", patient), ("on", &own)] {
        let (home, hop) = (Home::new(), NextHop::start());
        let mut command = Command::new(PROGRAM);
        command.env("RINGPOST_NO_PIN", no_pin);
        let flags = ["--ingress-cores", &cpu, "--delivery-cores", &cpu];
        let relay = relay_by(&home, command, &hop, &flags);
        let policies = scheduling_policies(relay.pid());
        assert!(policies.len() >= 3, "{policies:?}");
        assert!(policies.iter().all(|it| it == policy), "{policies:?}");
        send_mail(relay.address(), FROM, &[TO], CONTENT);
        hop.wait_for_mail(1);
        relay.stop();
    }
}

const SCHED_OTHER: &str = "0";
const SCHED_BATCH: &str = "3";

/// Of all threads of a process (proc_pid_stat(5), field 41).
fn scheduling_policies(pid: u32) -> Vec<String> {
    of_threads(pid, "stat")
        .iter()
        .map(|stat| {
            let (_, from_third) = stat.rsplit_once(") ").unwrap();
            from_third.split(' ').nth(38).unwrap().to_owned()
        })
        .collect()
}

// ---- The log ----

#[test]
fn every_line_of_a_json_log_is_json() {
    let (home, hop) = (Home::new(), NextHop::scripted(StartTls::Works, refuse_no));
    let mut relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect_with_starttls(relay.address());
    client.command("EHLO \"quo\\ted\u{7f}\u{202e}");
    client.command("MAIL FROM:<\"a\\\"b\\\\c\"@sender.test>");
    client.command("RCPT TO:<no@example.test>");
    client.command("DATA");
    client.command(&format!("{CONTENT}\r\n."));
    drop(client);
    relay.wait_for("session", |_| true);
    relay.signal("TERM");
    relay.wait();
    for line in relay.log_lines() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&line);
        assert!(
            parsed.is_ok_and(|event| event["event"].is_string()),
            "{line}"
        );
    }
}

#[test]
fn metrics_on_sigusr1() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    relay.wait_for("delivered", |_| true);
    relay.signal("USR1");
    relay.wait_for("metrics", |_| true);
    relay.wait_for("counters", |_| true);
    relay.stop();
}

#[test]
fn counters_in_one_line_at_the_end() {
    let (home, hop) = (Home::new(), NextHop::start());
    let mut relay = relay_to(&home, &hop, &[]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    relay.wait_for("delivered", |_| true);
    relay.signal("TERM");
    relay.wait();
    let counters = relay.wait_for("counters", |_| true);
    for (name, count) in [
        ("messages_accepted", 1),
        ("commits", 1),
        ("commit_messages", 1),
        ("delivered", 1),
        ("connections_out", 1),
        ("sessions_open", 0),
    ] {
        assert_eq!(counters[name], count, "{name}");
    }
}

// ---- Peers that misbehave ----

#[test]
fn client_that_has_closed_its_side_gets_all_its_replies() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let mut client = Client::connect(relay.address());
    let message = format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\nDATA\r\n{CONTENT}\r\n.\r\n");
    client.send(&format!("EHLO client.test\r\n{message}"));
    client.link.finish_sending();
    for code in [250, 250, 250, 354, 250] {
        client.expect_reply(code);
    }
    client.expect_end();
    hop.wait_for_mail(1);
    relay.stop();
}

#[test]
fn message_that_is_cut_off_is_not_delivered() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    let content = large_content(3 << 20);
    for starttls in [false, true] {
        for sent in [CONTENT, &content] {
            let mut client = match starttls {
                true => Client::connect_with_starttls(relay.address()),
                false => Client::connect(relay.address()),
            };
            client.expect("EHLO client.test", 250);
            client.expect("MAIL FROM:<a@sender.test>", 250);
            client.expect("RCPT TO:<b@example.test>", 250);
            client.expect("DATA", 354);
            client.send(sent);
            drop(client);
        }
    }
    relay.wait_for_count("session", 4, |_| true);
    relay.stop();
    assert_eq!(hop.connections(), 0);
    assert_nothing_is_left(&home);
}

#[test]
fn client_that_stops_within_its_data_is_told_so() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--data-timeout", "1s"]);
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect("RCPT TO:<b@example.test>", 250);
    client.expect("DATA", 354);
    client.send("Subject: x\r\n\r\nHel");
    assert!(client.expect_reply(421).contains("4.4.2"));
    client.expect_end();
    relay.stop();
    assert_nothing_is_left(&home);
}

#[test]
fn garbage_from_clients_ends_their_sessions_only() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--listen-tls", "127.0.0.1:0", "--handshake-timeout", "1s"];
    let relay = relay_to(&home, &hop, &flags);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut garbage = |bytes: usize| -> Vec<u8> {
        (0..bytes)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect()
    };
    let openings: [&[u8]; 8] = [
        b"",
        b"EHLO x\r\n",
        b"STARTTLS\r\n",
        b"EHLO x\r\nSTARTTLS\r\n",
        b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n",
        b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 1000\r\n",
        b"EHLO x\r\nBDAT 18446744073709551615 LAST\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for round in 0..20 {
        for opening in openings {
            for address in [relay.address(), relay.implicit_tls_address()] {
                let mut client = Client::connect_silently(address);
                // The relay may end the session at any time.
                let _ = client.link.send(opening);
                let _ = client.link.send(&garbage(1 << (round % 16)));
            }
        }
    }
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    relay.stop();
}

#[test]
fn last_reply_arrives_although_the_client_is_still_sending() {
    // An endless line is refused long before its end.
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    for _ in 0..10 {
        let mut client = Client::connect(relay.address());
        let flood = vec![b'x'; 1 << 20];
        // The relay may stop reading at any time.
        let _ = client.link.send(&flood);
        let line = client.link.line().expect("no reset").expect("a reply");
        assert!(line.starts_with('5') || line.starts_with("421"), "{line}");
        // A reset would destroy the reply with clients that are less lucky than this one.
        while client.link.receive().expect("an end, not a reset") {}
    }
    relay.stop();
}

#[test]
fn refusal_arrives_although_the_client_spoke_first() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = [
        "--max-connections",
        "1",
        "--max-connections-per-address",
        "1",
    ];
    let relay = relay_to(&home, &hop, &flags);
    let first = Client::connect(relay.address());
    for _ in 0..20 {
        let mut client = Client::connect_silently(relay.address());
        client.send(&"NOOP\r\n".repeat(1000));
        assert!(client.expect_reply(421).contains("4.3.2"));
        while client.link.receive().expect("an end, not a reset") {}
    }
    first.quit();
    relay.stop();
}

#[test]
fn bytes_one_by_one_do_not_lengthen_the_command_timeout() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--command-timeout", "2s"]);
    let mut client = Client::connect(relay.address());
    let started = Instant::now();
    while client.link.send(b"N").is_ok() && started.elapsed() < Duration::from_secs(4) {
        std::thread::sleep(Duration::from_millis(200));
    }
    let line = client.link.line().expect("no reset").expect("a reply");
    assert!(line.starts_with("421 4.4.2"), "{line}");
    relay.stop();
}

#[test]
fn handshake_that_stalls_is_ended() {
    let (home, hop) = (Home::new(), NextHop::start());
    let flags = ["--handshake-timeout", "1s", "--listen-tls", "127.0.0.1:0"];
    let relay = relay_to(&home, &hop, &flags);
    let mut implicit = Client::connect_silently(relay.implicit_tls_address());
    let mut starttls = Client::connect(relay.address());
    starttls.expect("EHLO client.test", 250);
    starttls.expect("STARTTLS", 220);
    // The start of a record, and nothing more.
    starttls.link.send(b"\x16\x03\x01").unwrap();
    for client in [&mut implicit, &mut starttls] {
        while client.link.receive().unwrap_or(false) {}
    }
    relay.wait_for_count("session", 2, |_| true);
    relay.stop();
}

#[test]
fn next_hop_that_floods_or_babbles_is_survived() {
    static LONG: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| format!("250-{}", "x".repeat(1 << 20)));
    static MANY: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| "250-x\r\n".repeat(100_000) + "250 x");
    for verb in ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."] {
        let words: [&'static str; 6] = [
            "garbage",
            "999 what",
            "250",
            "354 go on",
            LONG.as_str(),
            MANY.as_str(),
        ];
        for (number, word) in words.into_iter().enumerate() {
            let hop = NextHop::scripted(StartTls::NotOffered, move |occasion| {
                match verb_is(occasion.command, verb) && occasion.before == 0 {
                    true => Answer::SayAndClose(word),
                    false => Answer::Usual,
                }
            });
            let home = Home::new();
            let relay = relay_to(&home, &hop, &[]);
            send_mail(relay.address(), FROM, &[TO], CONTENT);
            // Delivered later, unless the babble was taken for the acceptance.
            match (verb, number) {
                (".", 2 | 5) => {
                    relay.wait_for("delivered", |_| true);
                }
                _ => {
                    hop.wait_for_mail(1);
                }
            }
            relay.stop();
        }
    }
}

#[test]
fn descriptors_do_not_leak() {
    let hop = NextHop::scripted(StartTls::Works, |occasion| match occasion.command {
        "." if occasion.before % 2 == 0 => Answer::UsualThenSayAndClose("421 4.4.2 enough"),
        _ => Answer::Usual,
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--idle-timeout", "1s"]);
    let before = relay.open_descriptors();
    for number in 1..=60 {
        match number % 3 {
            0 => drop(Client::connect(relay.address())),
            1 => drop(Client::connect_with_starttls(relay.address())),
            _ => send_mail(relay.address(), FROM, &[TO], CONTENT),
        }
    }
    relay.wait_for_count("session", 60, |_| true);
    relay.wait_for_count("delivered", 20, |_| true);
    assert!(hop.wait_until_no_connection(support::PATIENCE));
    let deadline = Instant::now() + support::PATIENCE;
    while relay.open_descriptors() > before + 2 {
        assert!(
            Instant::now() < deadline,
            "{} {before}",
            relay.open_descriptors()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    relay.stop();
}

/// They accept connections and say nothing, and have every connection that the relay may open.
#[test]
fn a_new_next_hop_gets_its_mail_beside_mute_ones() {
    const MUTE: usize = 12;
    let (home, hop) = (Home::new(), NextHop::start());
    let mute: Vec<TcpListener> = (0..MUTE)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("there are ports"))
        .collect();
    let routes: Vec<String> = mute
        .iter()
        .enumerate()
        .map(|(n, mute)| {
            let port = mute.local_addr().expect("bound").port();
            format!("mute{n}.test=[127.0.0.1]:{port}")
        })
        .collect();
    let mut flags: Vec<&str> = "--ingress-cores 0 --delivery-cores 0 --crowded-timeout 1s \
                                --delivery-connections 4 --delivery-connections-total 4"
        .split_whitespace()
        .collect();
    flags.extend(routes.iter().flat_map(|route| ["--route", route]));
    let relay = relay_to(&home, &hop, &flags);
    for n in 0..MUTE {
        send_mail(
            relay.address(),
            FROM,
            &[&format!("r@mute{n}.test")],
            CONTENT,
        );
    }
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    relay.stop();
}

#[test]
fn next_hop_that_never_reads_is_given_up() {
    let hop = NextHop::scripted(StartTls::NotOffered, |occasion| match occasion.command {
        "CONNECT" if occasion.before == 0 => Answer::Stall,
        _ => Answer::Usual,
    });
    let home = Home::new();
    let relay = relay_to(&home, &hop, &["--greeting-timeout", "1s"]);
    send_mail(relay.address(), FROM, &[TO], CONTENT);
    hop.wait_for_mail(1);
    relay.stop();
}

// ---- clients without TLS in common ----

/// A hello of TLS 1.0 that offers nothing but RSA key exchange.
const ANCIENT_HELLO: &[u8] = &[
    22, 3, 1, 0, 47, 1, 0, 0, 43, 3, 1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 4, 0, 47, 0, 53, 1, 0,
];

/// As a client does that uses STARTTLS if it is offered, and cannot go on without if that fails. True if its
/// mail came in.
fn ancient_client_gets_in(address: SocketAddr, hello: &str) -> bool {
    let mut client = Client::connect(address);
    let offers = client.expect(&format!("EHLO {hello}"), 250);
    if !offers.contains("STARTTLS") {
        client.accepted(FROM, &[TO], CONTENT);
        client.quit();
        return true;
    }
    client.expect("STARTTLS", 220);
    client
        .link
        .socket()
        .write_all(ANCIENT_HELLO)
        .expect("it is read");
    let mut alert = Vec::new();
    let _ = client.link.socket().read_to_end(&mut alert);
    assert_eq!(
        alert,
        [21, 3, 3, 0, 2, 2, 40],
        "an alert: handshake_failure"
    );
    false
}

fn is_offered_starttls(address: SocketAddr, hello: &str) -> bool {
    let mut client = Client::connect(address);
    let offers = client.expect(&format!("EHLO {hello}"), 250);
    client.quit();
    offers.contains("STARTTLS")
}

/// Three threads take mail in, and each session may land on any of them.
#[test]
fn a_client_without_tls_in_common_gets_its_mail_in_at_its_third_attempt() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--ingress-cores", "0,0,0"]);
    let fares: Vec<bool> = (0..6)
        .map(|_| ancient_client_gets_in(relay.address(), "old.test"))
        .collect();
    assert_eq!(fares, [false, false, true, false, true, false]);
    assert_eq!(hop.wait_for_mail(2).len(), 2);
    let failed = relay.wait_for("session", |event| {
        let end = event["end"].as_str();
        end.is_some_and(|end| end.starts_with("handshake failed"))
    });
    assert_eq!(
        failed["end"],
        "handshake failed: the peer names no signature scheme, as before TLS 1.2; 1.2 and 1.3 are spoken here"
    );
    relay.wait_for("session", |event| {
        event["starttls"] == "not listed: the last handshakes failed"
    });
    relay.stop();
}

#[test]
fn a_client_whose_handshakes_fail_takes_tls_from_nobody_else() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    for _ in 0..2 {
        assert!(!ancient_client_gets_in(relay.address(), "old.test"));
    }
    for hello in ["new.test", "newer.test"] {
        assert!(is_offered_starttls(relay.address(), hello), "{hello}");
    }
    // Somebody else at the address gives the name of a client that has TLS.
    Client::connect_with_starttls(relay.address()).quit();
    for _ in 0..5 {
        assert!(!ancient_client_gets_in(relay.address(), "client.test"));
    }
    assert!(is_offered_starttls(relay.address(), "client.test"));
    relay.stop();
}

#[test]
fn starttls_is_always_offered_where_it_is_required() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &["--tls-require"]);
    for _ in 0..6 {
        assert!(!ancient_client_gets_in(relay.address(), "old.test"));
    }
    relay.stop();
}

/// A client that looks before it leaps may use STARTTLS where it was not listed.
#[test]
fn starttls_that_was_not_listed_is_accepted() {
    let (home, hop) = (Home::new(), NextHop::start());
    let relay = relay_to(&home, &hop, &[]);
    for _ in 0..2 {
        assert!(!ancient_client_gets_in(relay.address(), "old.test"));
    }
    let mut client = Client::connect(relay.address());
    let offers = client.expect("EHLO old.test", 250);
    assert!(!offers.contains("STARTTLS"));
    client.expect("STARTTLS", 220);
    client.link.start_tls_as_client(b"").expect("a handshake");
    client.expect("EHLO old.test", 250);
    client.quit();
    relay.stop();
}
