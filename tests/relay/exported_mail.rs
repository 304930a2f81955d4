//! The mail of one relay goes to another by files: `ringpost spool export` and `import`.

use crate::support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use support::client::{CONTENT, Client, send_mail};
use support::next_hop::{Answer, Mail, NextHop, Occasion, StartTls};
use support::relay::{Home, Relay};

const FROM: &str = "a@sender.test";

/// Takes the first recipient of mail, refuses the second for good, and puts all others off.
fn first_host(occasion: Occasion<'_>) -> Answer {
    match occasion.command {
        "RCPT TO:<no@example.test>" => Answer::Say("550 5.1.1 no such user"),
        command if command.starts_with("RCPT TO:<yes@") => Answer::Usual,
        command if command.starts_with("RCPT") => Answer::Say("450 4.2.1 not \"now\""),
        _ => Answer::Usual,
    }
}

fn relay(home: &Home, hop: &NextHop) -> Relay {
    let route = hop.route("*");
    let retries = ["--retry-min", "1s", "--retry-max", "1s"];
    let report = ["--report-window", "1h", "--route", &route];
    home.start(&[&retries[..], &report[..]].concat())
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn done(home: &Home, arguments: &[&str]) -> String {
    let output = home.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text(&output)
}

fn refused(home: &Home, arguments: &[&str]) -> String {
    let output = home.run(arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    text(&output)
}

fn in_home(home: &Home, name: &str) -> String {
    home.path(name)
        .to_str()
        .expect("an ordinary path")
        .to_owned()
}

/// Large enough for several pieces, with lines that begin with dots.
fn large_content() -> String {
    let lines = (0..12_000).map(|number| {
        format!(
            "{}line {number} {}\r\n",
            &"..."[..number % 4],
            "x".repeat(60)
        )
    });
    format!("Subject: large\r\n\r\n{}end", lines.collect::<String>())
}

/// Three messages, of which none is done: one of two recipients is, one owes a report, one is large.
fn send_all(relay: &Relay) {
    send_mail(
        relay.address(),
        FROM,
        &["yes@example.test", "later@example.test"],
        CONTENT,
    );
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    let parameters = "SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=QQ31";
    client.expect(
        &format!("MAIL FROM:<j\u{f6}rg@sender.test> {parameters}"),
        250,
    );
    client.expect("RCPT TO:<no@example.test>", 250);
    let orcpt = "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Other@example.test";
    client.expect(&format!("RCPT TO:<u@example.test> {orcpt}"), 250);
    client.expect("DATA", 354);
    client.send("Subject: gr\u{fc}n\r\n\r\n..\r\n...\r\nend\r\n.\r\n");
    client.expect_reply(250);
    client.accepted(
        "",
        &["v@example.test"],
        &large_content().replace("\r\n.", "\r\n.."),
    );
    relay.wait_for_count("deferred", 3, |_| true);
    relay.wait_for("bounced", |_| true);
}

/// Of the first relay, as files.
fn exported() -> (Home, PathBuf) {
    let (home, hop) = (Home::new(), NextHop::scripted(StartTls::Works, first_host));
    let first = relay(&home, &hop);
    send_all(&first);
    first.stop();
    let to = in_home(&home, "out");
    let said = done(&home, &["spool", "export", &to, &home.spool(), "--take"]);
    assert!(said.contains("3 messages, 4 recipients"), "{said}");
    (home, PathBuf::from(to))
}

fn mails_in(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .filter(|name| name.to_string_lossy().ends_with(".msg"))
        .count()
}

fn to(mails: &[Mail], recipient: &str) -> Mail {
    let start = format!("RCPT TO:<{recipient}>");
    let found = mails
        .iter()
        .find(|mail| mail.to.iter().any(|to| to.starts_with(&start)));
    found
        .unwrap_or_else(|| panic!("nothing for {recipient} in {mails:?}"))
        .clone()
}

#[test]
fn mail_that_was_exported_is_delivered_by_another_relay_as_it_was() {
    let (old, files) = exported();
    let left = done(&old, &["spool", "list", &old.spool()]);
    assert!(left.contains("0 messages with 0 open recipients"), "{left}");

    let (home, hop) = (Home::new(), NextHop::start());
    let from = files.to_str().expect("an ordinary path");
    let said = done(&home, &["spool", "import", from, &home.spool()]);
    assert!(said.contains("3 messages, 4 recipients"), "{said}");
    assert_eq!(
        (mails_in(&files), mails_in(&files.join("imported"))),
        (0, 3)
    );
    let list = done(&home, &["spool", "list", &home.spool()]);
    assert!(
        list.contains("attempts: 1") && list.contains("450 4.2.1 not \"now\""),
        "{list}"
    );
    assert!(list.contains("a report of failure is owed"), "{list}");
    assert!(!list.contains("yes@example.test"), "{list}");

    let second = relay(&home, &hop);
    let mails = hop.wait_for_mail(3);
    let first = to(&mails, "later@example.test");
    assert_eq!(first.to.len(), 1, "{first:?}");
    assert!(
        first.content.ends_with("Subject: test\r\n\r\nHello.\r\n"),
        "{first:?}"
    );
    let second_mail = to(&mails, "u@example.test");
    let expected = "MAIL FROM:<j\u{f6}rg@sender.test>";
    assert!(second_mail.from.starts_with(expected), "{second_mail:?}");
    for parameter in ["SMTPUTF8", "BODY=8BITMIME", "RET=HDRS", "ENVID=QQ31"] {
        assert!(second_mail.from.contains(parameter), "{second_mail:?}");
    }
    let recipient = &second_mail.to[0];
    assert!(recipient.contains("NOTIFY=SUCCESS,DELAY"), "{recipient}");
    assert!(
        recipient.contains("ORCPT=rfc822;Other@example.test"),
        "{recipient}"
    );
    assert!(
        second_mail
            .content
            .ends_with("Subject: gr\u{fc}n\r\n\r\n.\r\n..\r\nend\r\n"),
        "{second_mail:?}"
    );
    let large = to(&mails, "v@example.test").content;
    let (_, body) = large
        .split_once("Subject: large")
        .expect("a header section");
    let expected = large_content().replace("Subject: large", "") + "\r\n";
    let differ = body
        .lines()
        .zip(expected.lines())
        .find(|(is, wanted)| is != wanted);
    assert_eq!((differ, body.len()), (None, expected.len()));
    second.stop();
}

#[test]
fn an_import_goes_on_where_it_was_ended_and_takes_nothing_twice() {
    let (_old, files) = exported();
    let home = Home::new();
    let from = files.to_str().expect("an ordinary path");
    let broken = fs::read_dir(&files).expect("a directory").next();
    let broken = broken.expect("a message").expect("an entry").path();
    let whole = fs::read(&broken).expect("our own file");
    fs::write(&broken, &whole[..whole.len() - 1]).expect("our own file");
    let said = refused(&home, &["spool", "import", from, &home.spool()]);
    assert!(
        said.contains("left where it is") && said.contains("length or checksum"),
        "{said}"
    );
    assert_eq!(mails_in(&files), 1);
    fs::write(&broken, &whole).expect("our own file");
    done(&home, &["spool", "import", from, &home.spool()]);
    let said = done(&home, &["spool", "import", from, &home.spool()]);
    assert!(said.contains("0 messages, 0 recipients"), "{said}");
    let list = done(&home, &["spool", "list", &home.spool()]);
    assert!(list.contains("3 messages with 4 open recipients"), "{list}");
}

#[test]
fn an_export_changes_nothing_unless_it_is_asked_to() {
    let (home, hop) = (Home::new(), NextHop::scripted(StartTls::Works, first_host));
    let first = relay(&home, &hop);
    send_all(&first);
    let to = in_home(&home, "out");
    let said = refused(&home, &["spool", "export", &to, &home.spool()]);
    assert!(said.contains("in use by process"), "{said}");
    first.stop();
    let said = done(&home, &["spool", "export", &to, &home.spool()]);
    assert!(said.contains("still has this mail"), "{said}");
    let list = done(&home, &["spool", "list", &home.spool()]);
    assert!(list.contains("3 messages with 4 open recipients"), "{list}");
    let said = refused(&home, &["spool", "export", &to, &home.spool()]);
    assert!(said.contains("is there already"), "{said}");
}
