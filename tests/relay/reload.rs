//! What an operator changes while the relay runs: lists, and SIGHUP.

use crate::support;

use serde_json::Value;
use std::fs;
use support::client::{CONTENT, Client};
use support::next_hop::NextHop;
use support::relay::{Home, Relay};
use support::stopped_thread::StoppedThread;

const FROM: &str = "a@sender.test";

/// A relay of strangers whose lists are files, one entry in each.
struct Lists {
    home: Home,
    relay: Relay,
    hop: NextHop,
}

impl Lists {
    fn new(more: &[&str]) -> Self {
        let (home, hop) = (Home::new(), NextHop::start());
        let domains = home.file("domains", "old.test\n");
        let recipients = home.file("recipients", "u@old.test\n");
        let routes = home.file("routes", &format!("{}\n", hop.route("old.test")));
        let mut flags = vec!["--relay-from", "none"];
        flags.extend(["--relay-domains-file", &domains]);
        flags.extend(["--recipients-file", &recipients]);
        flags.extend(["--routes-file", &routes]);
        flags.extend(more);
        let relay = home.start(&flags);
        Lists { home, relay, hop }
    }

    /// As editors and scripts do it: a new file in the place of the old one.
    fn rewrite(&self, name: &str, text: &str) {
        let new = self.home.file("new", text);
        fs::rename(new, self.home.path(name)).unwrap();
    }

    /// SIGHUP, and the lines about lists that come of it.
    fn reload(&self) -> Vec<Value> {
        let before = self.relay.events("list").len();
        let reloads = self.relay.events("reload").len();
        self.relay.signal("HUP");
        self.relay.wait_for_count("reload", reloads + 1, |_| true);
        self.relay.events("list").split_off(before)
    }
}

fn greeted(relay: &Relay) -> Client {
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", 250);
    client
}

#[test]
fn a_domain_that_is_added_with_its_recipients_and_its_route_is_served_after_sighup() {
    for cores in ["0", "0,0,0"] {
        let lists = Lists::new(&["--ingress-cores", cores, "--delivery-cores", cores]);
        // Sessions that exist go by the new lists, too.
        let mut client = greeted(&lists.relay);
        client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        client.expect("RCPT TO:<v@new.test>", 554);
        client.expect("RSET", 250);

        lists.rewrite("domains", "old.test\nnew.test\n");
        lists.rewrite("recipients", "u@old.test\nv@new.test\n");
        let routes = format!(
            "{}\n{}\n",
            lists.hop.route("old.test"),
            lists.hop.route("new.test")
        );
        lists.rewrite("routes", &routes);
        let said = lists.reload();
        let files = ["--relay-domains-file", "--recipients-file", "--routes-file"];
        assert_eq!(said.len(), files.len(), "{said:?}");
        for (line, flag) in said.iter().zip(files) {
            assert!(line["file"].as_str().unwrap().starts_with(flag), "{line}");
            let counts = ["entries", "added", "removed"].map(|name| line[name].as_u64().unwrap());
            assert_eq!(counts, [2, 1, 0], "{line}");
        }
        let reload = lists.relay.events("reload").pop().unwrap();
        let again = reload["read_again"].as_str().unwrap();
        assert!(files.iter().all(|flag| again.contains(flag)), "{again}");

        client.accepted(FROM, &["v@new.test", "u@old.test"], CONTENT);
        client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        client.expect("RCPT TO:<u@new.test>", 550);
        client.quit();
        lists.relay.wait_for_count("delivered", 2, |_| true);
        lists.relay.stop();
    }
}

/// As soon as the relay takes mail for it.
fn client_of_new_domain(relay: &Relay) -> Client {
    loop {
        let mut client = greeted(relay);
        client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        let is_taken = client.command("RCPT TO:<v@new.test>").code == 250;
        client.expect("RSET", 250);
        match is_taken {
            true => return client,
            false => client.quit(),
        }
    }
}

/// The thread that delivers comes to nothing while another one goes by the new lists already.
#[test]
fn mail_for_a_new_relay_domain_never_takes_the_route_of_before() {
    let (home, old, new) = (Home::new(), NextHop::start(), NextHop::start());
    let domains = home.file("domains", "old.test\n");
    let routes = home.file("routes", &format!("{}\n", old.route("*")));
    let relay = home.start(&[
        "--relay-from",
        "none",
        "--relay-domains-file",
        &domains,
        "--routes-file",
        &routes,
        "--ingress-cores",
        "0",
        "--delivery-cores",
        "1",
        // Another process may stop its threads.
        "--core-dumps",
    ]);
    let delivery = StoppedThread::new(relay.pid(), "ringpost-1");
    home.file("domains", "old.test\nnew.test\n");
    let both = format!("{}\n{}\n", old.route("*"), new.route("new.test"));
    home.file("routes", &both);
    relay.signal("HUP");
    relay.wait_for_count("list", 2, |_| true);
    let mut client = client_of_new_domain(&relay);
    client.accepted(FROM, &["v@new.test"], CONTENT);
    client.accepted(FROM, &["u@old.test"], CONTENT);
    drop(delivery);
    relay.wait_for_count("delivered", 2, |_| true);
    assert_eq!((old.mails().len(), new.mails().len()), (1, 1));
    client.quit();
    relay.stop();
}

#[test]
fn what_is_taken_from_the_lists_is_refused_after_sighup() {
    let lists = Lists::new(&[]);
    lists.rewrite("recipients", "# nobody is left\n");
    let said = lists.reload();
    assert_eq!(said[1]["removed"], 1, "{said:?}");
    // All mail to the domain is refused now: probably not meant.
    let hint = lists.relay.wait_for("hint", |line| {
        line["text"].as_str().unwrap().contains("old.test")
    });
    assert!(
        hint["text"].as_str().unwrap().contains("--recipients-file"),
        "{hint}"
    );
    let mut client = greeted(&lists.relay);
    client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
    client.expect("RCPT TO:<u@old.test>", 550);
    client.quit();
    lists.relay.stop();
}

#[test]
fn one_bad_line_leaves_all_lists_as_they_were() {
    let lists = Lists::new(&[]);
    lists.rewrite("domains", "old.test\nnew.test\n");
    lists.rewrite("routes", "new.test=[127.0.0.1]:none\n");
    let said = lists.reload();
    let [line] = &said[..] else {
        panic!("one complaint: {said:?}");
    };
    let error = line["error"].as_str().unwrap();
    assert!(
        error.contains("--routes-file") && error.contains("routes:1"),
        "{error}"
    );
    assert_eq!(line["effect"], "all lists stay as they were");
    let reload = lists.relay.events("reload").pop().unwrap();
    let again = reload["read_again"].as_str().unwrap();
    assert!(!again.contains("file"), "{again}");

    let mut client = greeted(&lists.relay);
    client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
    client.expect("RCPT TO:<v@new.test>", 554);
    client.expect("RSET", 250);
    client.accepted(FROM, &["u@old.test"], CONTENT);
    client.quit();
    lists.hop.wait_for_mail(1);

    // A file that is gone is no empty list.
    fs::remove_file(lists.home.path("recipients")).unwrap();
    let said = lists.reload();
    assert!(
        said.iter().any(|line| line["error"].is_string()),
        "{said:?}"
    );
    let mut client = greeted(&lists.relay);
    client.accepted(FROM, &["u@old.test"], CONTENT);
    client.quit();
    lists.relay.stop();
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_entry() {
    let lists = Lists::new(&[]);
    lists.rewrite("domains", "\u{feff}old.test\n");
    lists.rewrite("recipients", "\u{feff}u@old.test\nv@old.test\n");
    let said = lists.reload();
    let of_recipients = |line: &&Value| line["file"].as_str().unwrap().contains("recipients");
    let changed = said.iter().find(of_recipients).unwrap();
    assert_eq!(
        (&changed["added"], &changed["removed"]),
        (&1.into(), &0.into())
    );
    let mut client = greeted(&lists.relay);
    client.accepted(FROM, &["u@old.test", "v@old.test"], CONTENT);
    client.quit();
    lists.hop.wait_for_mail(1);

    lists.rewrite("recipients", "u\u{200b}@old.test\n");
    let said = lists.reload();
    let error = said[0]["error"].as_str().unwrap();
    assert!(
        error.contains("recipients:1") && error.contains("\\u{200b} in"),
        "{error}"
    );
    lists.relay.stop();
}

#[test]
fn however_many_entries_are_wrong_it_is_said_that_a_list_is_not_read_further() {
    let lists = Lists::new(&[]);
    let wrong = "no domain\n".repeat(200);
    lists.rewrite("domains", &wrong);
    lists.rewrite("recipients", &wrong);
    let said = lists.reload();
    let errors = said.iter().map(|line| line["error"].as_str().unwrap());
    for name in ["domains", "recipients"] {
        let says = format!("{name}: 100 entries are wrong; it is not read further");
        assert!(
            errors.clone().any(|error| error.ends_with(&says)),
            "{said:?}"
        );
    }
    assert!(
        errors.clone().any(|error| error.contains("more")),
        "{said:?}"
    );
    lists.relay.stop();
}

#[test]
fn the_only_list_that_is_gone_is_missed_at_sighup() {
    let home = Home::new();
    let domains = home.file("domains", "old.test\n");
    let relay = home.start(&["--relay-from", "none", "--relay-domains-file", &domains]);
    fs::remove_file(&domains).unwrap();
    relay.signal("HUP");
    let reload = relay.wait_for("reload", |_| true);
    let said = relay.events("list");
    let [line] = &said[..] else {
        panic!("one complaint: {said:?}, {reload}");
    };
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("--relay-domains-file"), "{error}");
    assert_eq!(line["effect"], "all lists stay as they were");
    relay.stop();
}

#[test]
fn mail_that_waits_goes_by_the_new_route() {
    let lists = Lists::new(&["--retry-min", "1s", "--retry-max", "1s"]);
    // Nobody listens there.
    lists.rewrite("routes", "old.test=[127.0.0.1]:1\n");
    lists.reload();
    let mut client = greeted(&lists.relay);
    client.accepted(FROM, &["u@old.test"], CONTENT);
    client.quit();
    lists.relay.wait_for("connect-failed", |_| true);
    lists.rewrite("routes", &format!("{}\n", lists.hop.route("old.test")));
    lists.reload();
    lists.hop.wait_for_mail(1);
    lists.relay.stop_with_nothing_left();
}

/// A second look would find nothing there, and an empty list refuses everybody.
#[test]
fn a_list_that_came_through_a_pipe_is_not_read_again() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let home = Home::new();
    let (list, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"u@old.test\n").unwrap();
    drop(writer);
    let flags = [
        "--relay-from",
        "none",
        "--relay-domain",
        "old.test",
        "--recipients-file",
        "/dev/stdin",
    ];
    let command = Command::new(support::relay::PROGRAM);
    let relay = home.spawn_with_input(command, Stdio::from(list), &flags);
    relay.wait_until_ready();
    relay.signal("HUP");
    let reload = relay.wait_for("reload", |_| true);
    let not_again = reload["not_read_again"].as_str().unwrap();
    assert!(
        not_again.contains("--recipients-file /dev/stdin"),
        "{reload}"
    );
    let mut client = greeted(&relay);
    client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
    client.expect("RCPT TO:<u@old.test>", 250);
    client.quit();
    relay.stop();
}
