//! Source and sink against each other, and against a toy relay that can be told to cheat.

mod toy_relay;

use clap::Parser;

use crate::commands::common::Common;
use crate::commands::run;
use crate::commands::{hold, kill};
use crate::figures::report::Report;
use crate::host::signals::StopFlag;
use crate::options::hold::HoldCommand;
use crate::options::run::{KillCommand, RunCommand};
use crate::options::{Action, Command};

/// Command lines here only need blanks between words; `%` stands for a blank within one.
fn parse(line: &str) -> Action {
    let words = line.split_whitespace().map(|word| word.replace('%', " "));
    Command::try_parse_from(std::iter::once("loadtest".to_string()).chain(words))
        .unwrap()
        .action
}

fn run_command(line: &str) -> RunCommand {
    match parse(&format!(
        "run --quiet --settle 5 --linger-ms 50 --connections 4 --messages 200 {line}"
    )) {
        Action::Run(command) => command,
        other => panic!("{other:?}"),
    }
}

fn run(line: &str) -> Report {
    let (report, mut under_test) = run::measure(&run_command(line), &StopFlag::default()).unwrap();
    under_test.tidy(true);
    report
}

fn direct(flags: &str) -> Report {
    run(&format!("--direct {flags}"))
}

#[test]
fn every_kind_of_tls_and_pipelining() {
    for flags in [
        "--size 10k",
        "--lock-step --recipients 3 --domains 5",
        "--source-tls implicit --sink-implicit-tls --size 600-40k",
        "--source-tls none --sink-tls none --messages-per-connection 7",
        "--source-tls-version 1.2 --source-threads 2 --sink-threads 2",
    ] {
        let report = direct(flags);
        assert!(report.is_clean(), "{flags}:\n{report}");
        assert_eq!(report.source.accepted, 200, "{flags}");
        assert_eq!(report.sink.messages, 200, "{flags}");
        assert_eq!(report.sink.protocol_errors, 0, "{flags}");
        assert_eq!(report.source.bytes, report.sink.bytes, "{flags}");
        let plain = if flags.contains("none") { 200 } else { 0 };
        assert_eq!(report.sink.messages_without_tls, plain, "{flags}");
    }
}

#[test]
fn bdat_in_one_chunk_and_in_many() {
    for flags in [
        "--bdat",
        "--bdat --bdat-chunk 1000",
        "--bdat --bdat-chunk 777 --lock-step",
    ] {
        let report = direct(&format!("--sink-chunking {flags}"));
        assert!(report.is_clean(), "{flags}:\n{report}");
        assert_eq!(report.sink.messages, 200, "{flags}");
        assert_eq!(report.sink.protocol_errors, 0, "{flags}");
    }
}

#[test]
fn bdat_without_chunking_is_said_at_once() {
    let report = direct("--bdat");
    assert!(!report.is_clean());
    assert!(report.to_string().contains("CHUNKING"), "{report}");
}

#[test]
fn handshakes_are_full_or_resumed_as_asked() {
    let full = direct("--messages-per-connection 5");
    assert_eq!(
        (full.sink.handshakes_full, full.sink.handshakes_resumed),
        (full.sink.connections, 0)
    );
    for version in ["1.2", "1.3"] {
        let resumed = direct(&format!(
            "--messages-per-connection 5 --handshakes resumed --source-tls-version {version}"
        ));
        assert!(resumed.is_clean(), "{resumed}");
        assert_eq!(resumed.source.handshakes_full, 4, "TLS {version}");
        assert!(resumed.source.handshakes_resumed >= 36, "TLS {version}");
        assert_eq!(
            resumed.source.handshakes_resumed,
            resumed.sink.handshakes_resumed
        );
    }
    let none = direct("--messages-per-connection 5 --handshakes resumed --sink-no-tickets");
    assert_eq!(none.source.handshakes_resumed, 0);
}

#[test]
fn refusals_of_the_sink_are_refusals_in_the_ledger() {
    for flags in [
        "--fault-4xx 0.3",
        "--fault-5xx 0.3 --lock-step",
        "--fault-4xx 0.2 --fault-5xx 0.2",
    ] {
        let report = direct(&format!("{flags} --seed 5"));
        assert!(report.is_clean(), "{flags}:\n{report}");
        assert!(report.ledger.refused > 20, "{flags}:\n{report}");
        assert_eq!(
            report.ledger.refused + report.ledger.accepted,
            200,
            "{flags}"
        );
        assert_eq!(
            report.sink.faults_4xx + report.sink.faults_5xx,
            report.ledger.refused,
            "{flags}"
        );
    }
}

#[test]
fn a_dropped_connection_leaves_the_message_open() {
    let report = direct("--fault-drop-before-reply 0.2 --seed 5");
    assert!(report.is_clean(), "{report}");
    assert!(report.ledger.open > 10, "{report}");
    assert_eq!(report.ledger.open, report.sink.faults_dropped);
    assert_eq!(report.ledger.open_but_delivered, 0);
    assert_eq!(report.ledger.accepted + report.ledger.open, 200);
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_the_wait() {
    let report = direct("--rate 400 --messages 80 --connections 1 --latency 5");
    assert!(report.is_clean(), "{report}");
    assert!(report.accept_seconds > 0.19, "{report}");
    // Two batches of replies at 5 ms allow one message in 10 ms, and 2.5 ms were asked for: the
    // last one has waited for all before it.
    assert!(report.source.to_250_us.max > 300_000, "{report}");
}

#[test]
fn broken_tls_of_the_sink_is_broken() {
    for tls in ["refuse", "garbage", "close", "alert"] {
        let report = direct(&format!("--sink-tls {tls} --give-up 0.2"));
        assert_eq!(report.sink.messages, 0, "{tls}");
        assert!(!report.is_clean(), "{tls}");
    }
    let report = direct("--sink-tls stall --timeout 0.2 --give-up 0.1");
    assert_eq!(report.sink.messages, 0);
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    let report = direct("--max-connections 2 --source-threads 1");
    assert!(report.is_clean(), "{report}");
    assert!(report.sink.connections_refused > 0, "{report}");
}

#[test]
fn a_share_of_connections_is_not_served() {
    for (flags, closed, refused) in [
        ("--fault-connect 0.3", true, false),
        ("--fault-421 0.3", false, true),
    ] {
        let report = direct(&format!("{flags} --messages-per-connection 5 --seed 7"));
        assert!(report.is_clean(), "{flags}:\n{report}");
        assert_eq!(report.sink.faults_connect > 0, closed, "{flags}");
        assert_eq!(report.sink.faults_421 > 0, refused, "{flags}");
    }
}

#[test]
fn a_share_of_transactions_breaks_off() {
    for flags in ["", "--lock-step", "--bdat --sink-chunking --bdat-chunk 700"] {
        let report = direct(&format!("--fault-drop 0.2 --seed 3 {flags}"));
        assert!(report.is_clean(), "{flags}:\n{report}");
        assert!(report.sink.faults_broken_off > 10, "{flags}:\n{report}");
        assert_eq!(report.ledger.open_but_delivered, 0, "{flags}");
        assert_eq!(report.sink.messages, report.ledger.accepted, "{flags}");
    }
}

#[test]
fn a_slow_sink_is_slow() {
    let handshake = direct("--messages 4 --messages-per-connection 1 --tls-latency 60");
    assert!(handshake.is_clean(), "{handshake}");
    assert!(handshake.source.to_ready_us.p50 >= 60_000, "{handshake}");
    let reader = direct("--messages 4 --size 20k --read-rate 100k");
    assert!(reader.is_clean(), "{reader}");
    assert!(reader.source.to_250_us.p50 >= 150_000, "{reader}");
}

/// Sends the mail of `domains` domains to the one host that is best for the first.
fn to_the_first_host(domains: u64, flags: &str) -> Report {
    let command = run_command(&format!(
        "--direct --domains {domains} --mx-hosts 2 {flags}"
    ));
    let common = Common::new(&command.source).unwrap();
    let sink = common
        .start_sink(&command.sink, command.sink_listen)
        .unwrap();
    let mut to = sink.address;
    to.set_ip("127.1.0.0".parse().unwrap());
    let mut source = common.start_source(&command.source, to).unwrap();
    source.join();
    let mut report = common.report(&source, &sink);
    report.finish();
    report
}

#[test]
fn a_host_takes_the_mail_of_its_own_domains() {
    for (domains, flags) in [(1, ""), (2, "--mx-shared 2")] {
        let report = to_the_first_host(domains, flags);
        assert!(report.is_clean(), "{report}");
        let hosts = &report.sink.hosts;
        assert_eq!((hosts.sites_reached, hosts.hosts_reached), (1, 1));
        assert_eq!(hosts.connections_per_host_max, 4);
        assert!(report.to_string().contains("next hops   1 of 1 reached"));
    }
}

#[test]
fn canary_mail_at_the_host_of_another_domain_is_misdelivered() {
    let report = to_the_first_host(2, "");
    assert_eq!(report.sink.hosts.misrouted, 100, "{report}");
    assert_eq!(report.ledger.misdelivered, 100, "{report}");
    assert!(!report.is_clean());
}

#[test]
fn only_faulty_hosts_have_the_faults() {
    let all = to_the_first_host(2, "--fault-5xx 1");
    assert_eq!(all.sink.messages, 0);
    let none_here = to_the_first_host(2, "--fault-5xx 1 --faulty-domains 0.5");
    assert_eq!(
        (none_here.sink.messages, none_here.sink.faults_5xx),
        (200, 0)
    );
    assert_eq!(none_here.sink.end_to_end_good_us.count, 200);
    assert_eq!(none_here.sink.hosts.sites_faulty, 1);
}

#[test]
fn a_host_has_its_own_limit_of_connections() {
    let report = to_the_first_host(1, "--max-connections-per-host 2 --source-threads 1");
    assert!(report.is_clean(), "{report}");
    assert!(report.sink.connections_refused > 0, "{report}");
    assert_eq!(report.sink.hosts.connections_per_host_max, 2);
}

#[test]
fn other_machines_cannot_reach_the_hosts() {
    let command = run_command("--direct --mx-hosts 1 --sink-listen 0.0.0.0:0");
    let common = Common::new(&command.source).unwrap();
    assert!(
        common
            .start_sink(&command.sink, command.sink_listen)
            .is_err()
    );
    assert!(run::measure(&run_command("--direct --mx-hosts 1"), &StopFlag::default()).is_err());
}

#[test]
fn a_relay_that_wants_a_name_server_needs_hosts() {
    let command = run_command("--relay-cmd true%{listen}%{dns}");
    let error = run::measure(&command, &StopFlag::default()).err().unwrap();
    assert!(error.to_string().contains("--mx-hosts"), "{error}");
}

#[test]
fn two_ledger_files_are_put_together() {
    let directory = std::env::temp_dir().join(format!("loadtest-check-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (source, sink) = (directory.join("source"), directory.join("sink"));
    let check = |came: &str| {
        std::fs::write(&source, "r-0 a@b.test accepted\nr-1 a@b.test open\n").unwrap();
        std::fs::write(&sink, came).unwrap();
        crate::ledger::arrivals::check(&source, &sink).unwrap()
    };
    assert!(check("r-0 A@b.test intact\n").is_clean(false));
    assert!(check("r-0 a@b.test bounced\n").is_clean(false));
    assert_eq!(check("r-1 a@b.test intact\n").lost, 1);
    assert_eq!(
        check("r-0 a@b.test intact\nr-0 a@b.test intact\n").duplicated,
        1
    );
    assert_eq!(check("r-0 a@b.test corrupted\n").corrupted, 1);
    assert_eq!(check("r-7 a@b.test intact\n").unknown, 1);
    std::fs::remove_dir_all(&directory).unwrap();
}

/// The flags that start a toy relay: this test binary, told to be one.
fn toy(honesty: &str) -> String {
    let program = std::env::current_exe().unwrap();
    format!(
        "--source-tls none --relay-cmd \
         env%TOY={honesty}%TOY_LISTEN={{listen}}%TOY_SINK={{sink}}%TOY_SPOOL={{spool}}%{}%--exact%{}%--ignored",
        program.display(),
        "tests::toy_relay::be_a_relay"
    )
}

#[test]
fn a_run_with_a_relay() {
    let report = run(&format!("{} --recipients 2 --fault-4xx 0.1", toy("honest")));
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.ledger.delivered, 400);
    assert!(report.relay.unwrap().peak_rss_bytes > 0);
}

#[test]
fn canary_a_relay_that_loses_repeats_or_alters_is_found_out() {
    let lossy = run(&format!("{} --settle 0.3", toy("lossy")));
    assert!(lossy.ledger.lost > 0 && !lossy.is_clean(), "{lossy}");
    let repeating = run(&toy("repeating"));
    assert!(
        repeating.ledger.duplicated > 0 && !repeating.is_clean(),
        "{repeating}"
    );
    let altering = run(&toy("altering"));
    assert!(
        altering.ledger.corrupted > 0 && !altering.is_clean(),
        "{altering}"
    );
}

#[test]
fn recipients_that_the_sink_does_not_know_are_reported() {
    let flags = "--recipients 3 --unknown-recipients 0.2 --seed 3";
    let report = run(&format!("{} {flags}", toy("honest")));
    assert!(report.is_clean(), "{report}");
    let ledger = &report.ledger;
    assert!(ledger.bounced > 60, "{report}");
    assert_eq!(ledger.bounced + ledger.delivered, 600);
}

#[test]
fn canary_a_relay_that_drops_a_report_is_found_out() {
    let flags = "--recipients 2 --unknown-recipients 0.1 --settle 0.3 --allow-duplicates";
    let report = run(&format!("{} {flags}", toy("silent")));
    assert!(report.ledger.lost > 0 && !report.is_clean(), "{report}");
    assert_eq!(report.ledger.bounced, 0, "{report}");
}

#[test]
fn canary_a_relay_that_reports_on_mail_that_nobody_refused_is_found_out() {
    let report = run(&format!("{} --allow-duplicates", toy("rash")));
    let ledger = &report.ledger;
    assert!(ledger.bounced_without_cause > 0, "{report}");
    assert!(!report.is_clean(), "{report}");
}

fn kill_test(line: &str) -> Report {
    let common =
        "kill-test --quiet --connections 4 --rounds 4 --kill-after-ms 30-150 --linger-ms 50";
    let command: KillCommand = match parse(&format!("{common} {line}")) {
        Action::KillTest(command) => command,
        other => panic!("{other:?}"),
    };
    let (report, mut under_test) = kill::measure(&command, &StopFlag::default()).unwrap();
    under_test.tidy(true);
    report
}

#[test]
fn a_durable_relay_survives_its_kills() {
    let report = kill_test(&format!("{} --settle 10 --latency 1", toy("honest")));
    assert!(report.is_clean(), "{report}");
    let kills = report.kills.unwrap();
    assert_eq!(kills.kills, 4);
    assert!(report.ledger.accepted > 0);
}

#[test]
fn bounces_survive_the_kills_too() {
    let flags = "--settle 10 --latency 1 --recipients 3 --unknown-recipients 0.2";
    let report = kill_test(&format!("{} {flags}", toy("honest")));
    assert!(report.is_clean(), "{report}");
    assert!(report.ledger.bounced > 0, "{report}");
    let silent = kill_test(&format!("{} {flags} --settle 0.5", toy("silent")));
    assert!(silent.ledger.lost > 0 && !silent.is_clean(), "{silent}");
}

#[test]
fn canary_a_relay_that_says_250_too_early_is_found_out() {
    let report = kill_test(&format!("{} --settle 0.5 --latency 1", toy("forgetful")));
    assert!(report.ledger.lost > 0 && !report.is_clean(), "{report}");
}

fn hold_command(line: &str) -> HoldCommand {
    match parse(&format!("hold --quiet --hold 0.2 {line}")) {
        Action::Hold(command) => command,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connections_are_held_counted_and_charged() {
    let command = hold_command(&format!(
        "--connections 7 --messages-first 2 --per-local-address 3 {}",
        toy("honest")
    ));
    let (report, mut under_test) = hold::measure(&command, &StopFlag::default()).unwrap();
    under_test.tidy(true);
    assert_eq!(report.problems(), Vec::<String>::new(), "{report}");
    assert_eq!((report.opened, report.alive), (7, 7));
    let memory = &report.memory;
    assert!(memory.none.anonymous_bytes > 0, "{report}");
    assert!(memory.half.descriptors < memory.all.descriptors, "{report}");
    assert!(
        memory.after.descriptors < memory.all.descriptors,
        "{report}"
    );
    let messages = 14 + report.honest_before.to_250_us.count + report.honest_beside.to_250_us.count;
    assert_eq!(report.ledger.accepted, messages, "{report}");
}

#[test]
fn canary_connections_that_end_early_are_noticed() {
    let command = hold_command(&format!("--connections 4 {}", toy("impatient")));
    let (report, mut under_test) = hold::measure(&command, &StopFlag::default()).unwrap();
    under_test.tidy(true);
    assert!(report.alive < report.opened, "{report}");
    assert!(!report.problems().is_empty());
    assert!(report.to_string().contains("NOT CLEAN"));
}
