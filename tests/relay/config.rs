//! The command line as people meet it: the binary is run, its output is read.

use std::fs;
use std::process::{Command, Output};

/// A root that was over in 2021.
const EXPIRED_ROOT: &str = "\
-----BEGIN CERTIFICATE-----
MIIBRjCB7aADAgECAgEBMAoGCCqGSM49BAMCMBMxETAPBgNVBAMMCG9sZC50ZXN0
MB4XDTIwMDEwMTAwMDAwMFoXDTIxMDEwMTAwMDAwMFowEzERMA8GA1UEAwwIb2xk
LnRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASengjbG/66IYFbFeoIx0I/
3gkc/yvn4w7roxn0H0+LNdDS4d9I3k8KNjCaXAiIPwLRTSeUPcznirS9r8+RtZHj
ozIwMDAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBTL9LxpF5kW0uePlQfziIE9
fQrEETAKBggqhkjOPQQDAgNIADBFAiBnhDZYpPeI2BJ0aHvbR1OEMeOnkON5la/M
vATRJa+JAAIhAIqs8hueR1tyteP0LJ6EPAaX/jzfwRcYYi0h+WVdMTf/
-----END CERTIFICATE-----
";

fn ringpost(words: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .args(words)
        .env_clear()
        .env("HOME", "/home/tester")
        .env("COLUMNS", "80")
        .envs(variables.iter().copied())
        .output()
        .expect("the binary starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// The line of a flag in what `--check` prints, in single spaces.
fn effective(flag: &str, words: &[&str], variables: &[(&str, &str)]) -> String {
    let words: Vec<&str> = ["--check"].iter().chain(words).copied().collect();
    let output = ringpost(&words, variables);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let line = text
        .lines()
        .find(|line| line.split_whitespace().next() == Some(flag))
        .unwrap_or_else(|| panic!("{flag} in {text}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn refused(words: &[&str], variables: &[(&str, &str)], complaint: &[&str]) {
    let words: Vec<&str> = ["--check"].iter().chain(words).copied().collect();
    let output = ringpost(&words, variables);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
    for part in complaint {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn help_fits_80_columns_and_is_grouped() {
    let output = ringpost(&["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for heading in [
        "Listening",
        "TLS",
        "Relaying",
        "Spool",
        "Delivery",
        "DNS",
        "Limits",
        "Timeouts",
        "Cores",
        "Logging",
    ] {
        assert!(text.contains(&format!("\n{heading}:\n")), "{heading}");
    }
}

#[test]
fn help_is_the_same_whatever_the_environment() {
    let quiet = ringpost(&["--help"], &[]);
    let loud = ringpost(&["--help"], &[("RINGPOST_MAX_HOPS", "50")]);
    assert_eq!(stdout(&quiet), stdout(&loud));
    assert_eq!(ringpost(&["spool", "--help"], &[]).status.code(), Some(0));
}

#[test]
fn no_flag_is_a_good_configuration() {
    assert_eq!(
        effective("--listen", &[], &[]),
        "--listen 127.0.0.1:2525 (default)"
    );
    assert_eq!(
        effective("--spool", &[], &[]),
        "--spool /home/tester/.local/state/ringpost/spool (default)"
    );
    assert_eq!(
        effective("--spool", &[], &[("STATE_DIRECTORY", "/var/lib/ringpost")]),
        "--spool /var/lib/ringpost/spool (default)"
    );
}

#[test]
fn flags_stand_before_the_environment() {
    let variable = [("RINGPOST_MAX_HOPS", "40")];
    assert_eq!(
        effective("--max-hops", &[], &variable),
        "--max-hops 40 (RINGPOST_MAX_HOPS)"
    );
    assert_eq!(
        effective("--max-hops", &["--max-hops", "50"], &variable),
        "--max-hops 50 (flag)"
    );
    assert_eq!(
        effective("--max-hops", &[], &[("RINGPOST_MAX_HOPS", "")]),
        "--max-hops 100 (default)"
    );
    assert_eq!(
        effective("--no-pin", &[], &[("RINGPOST_NO_PIN", "on")]),
        "--no-pin yes (RINGPOST_NO_PIN)"
    );
    assert_eq!(
        effective("--no-pin", &[], &[("RINGPOST_NO_PIN", "0")]),
        "--no-pin no (RINGPOST_NO_PIN)"
    );
}

#[test]
fn a_link_local_address_is_told_what_it_lacks() {
    refused(&["--listen", "[fe80::1]:25"], &[], &["[fe80::1%2]:25"]);
    refused(
        &["--listen", "[fe80::1%eth0]:25"],
        &[],
        &["number of its interface"],
    );
    for (flag, value) in [
        ("--dns", "fe80::1"),
        ("--dns", "[fe80::1%2]:53"),
        ("--source-address", "fe80::1"),
        ("--source-address", "fe80::1%eth0"),
        ("--route", "a.test=[fe80::1]"),
    ] {
        refused(&[flag, value], &[], &["link-local"]);
    }
    refused(
        &["--dns", "dns.example"],
        &[],
        &["of a name server, not its name"],
    );
    refused(
        &["--listen", "[fe80::1%1]:2525"],
        &[],
        &["listening on [fe80::1%1]:2525"],
    );
}

#[test]
fn a_file_of_flags_counts_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ringpost.flags");
    fs::write(
        &path,
        "# A gateway\n\n--listen 127.0.0.1:2526,[::1]:2526\n--route '*=[192.0.2.1]' # all\n--max-hops=50\n",
    )
    .unwrap();
    let file = format!("@{}", path.display());
    let words = [file.as_str()];
    let from_file = format!("(file {})", path.display());
    assert_eq!(
        effective("--listen", &words, &[]),
        format!("--listen 127.0.0.1:2526,[::1]:2526 {from_file}")
    );
    assert_eq!(
        effective("--route", &words, &[]),
        format!("--route *=[192.0.2.1] {from_file}")
    );
    assert_eq!(
        effective("--max-hops", &[&file, "--max-hops", "60"], &[]),
        "--max-hops 60 (flag)"
    );
    assert_eq!(
        effective("--max-hops", &["--max-hops", "60", &file], &[]),
        format!("--max-hops 50 {from_file}")
    );
}

#[test]
fn a_bad_value_names_flag_value_and_what_is_allowed() {
    refused(
        &["--retry-min", "500ms"],
        &[],
        &["--retry-min", "500ms", "from 1s to 7d"],
    );
    refused(
        &[],
        &[("RINGPOST_MAX_ERRORS", "0")],
        &["--max-errors", "'0'", "from 1 to 10000"],
    );
    refused(
        &["--listen", ":25"],
        &[],
        &["--listen", ":25", "0.0.0.0:25"],
    );
    refused(
        &["--tls-out", "dane"],
        &[],
        &["--tls-out", "dane", "encrypt"],
    );
    refused(
        &["--relay-from", "lan"],
        &[],
        &["--relay-from", "lan", "10.0.0.0/8"],
    );
    refused(
        &["--hostname", "mx 1"],
        &[],
        &["--hostname", "mx 1", "mx1.example.com"],
    );
    refused(
        &["--ingress-cores", "65000"],
        &[],
        &["--ingress-cores", "CPU 65000", "allowed are"],
    );
    refused(&["@/nonexistent"], &[], &["@/nonexistent", "No such file"]);
}

#[test]
fn contradictions_are_all_named_at_once() {
    refused(
        &[
            "--tls-cert",
            "/nonexistent/cert.pem",
            "--retry-min",
            "2h",
            "--retry-max",
            "1h",
            "--chunk-size",
            "4MiB",
            "--segment-size",
            "4MiB",
            "--delivery-connections",
            "50",
            "--delivery-connections-total",
            "10",
            "--listen",
            "127.0.0.1:25",
            "--listen-tls",
            "127.0.0.1:25",
            "--source-address",
            "192.0.2.1",
            "--ip-version",
            "6",
            "--max-line-length",
            "80",
            "--spool-size",
            "1MiB",
        ],
        &[],
        &[
            "--tls-cert needs --tls-key",
            "--tls-cert /nonexistent/cert.pem: No such file",
            "--retry-min 2h is more than --retry-max 1h",
            "--chunk-size 4MiB: at most",
            "--delivery-connections 50 is more than",
            "127.0.0.1:25 is given twice",
            "--source-address: IPv4 is not used",
            "--max-line-length 80: at least 1000",
            "--spool-size 1MiB: at least",
        ],
    );
}

#[test]
fn a_default_gives_way_to_a_flag_that_was_given() {
    for (given, flag, value) in [
        (
            "--max-connections 50",
            "--max-connections-per-address",
            "50 (default 100",
        ),
        (
            "--max-connections-per-address 20000",
            "--max-connections",
            "20000 (default 10000",
        ),
        ("--session-timeout 1m", "--data-timeout", "1m (default 5m"),
        ("--retry-max 1m", "--retry-min", "1m (default 5m"),
        ("--retry-min 2h", "--retry-max", "2h (default 1h"),
        (
            "--delivery-connections-total 10",
            "--delivery-connections",
            "10 (default 20",
        ),
        (
            "--delivery-connections 5000",
            "--delivery-connections-total",
            "5000 (default 2000",
        ),
        (
            "--listen-tls 127.0.0.1:2525",
            "--listen",
            "none (default 127.0.0.1:2525",
        ),
    ] {
        let words: Vec<&str> = given.split(' ').collect();
        let wanted = format!("{flag} {value}, which gives way to {given})");
        assert_eq!(effective(flag, &words, &[]), wanted);
        let hint = format!("that would contradict {given}");
        let text = stdout(&ringpost(&[&["--check"][..], &words].concat(), &[]));
        assert!(text.contains(&hint) && text.contains(flag), "{text}");
    }
    let by_variable = [("RINGPOST_MAX_CONNECTIONS", "50")];
    let per_address = effective("--max-connections-per-address", &[], &by_variable);
    assert!(per_address.contains(" 50 (default 100"), "{per_address}");
    // What does not contradict stays, and what both were given is refused.
    let limits = ["--max-connections", "200"];
    let per_address = effective("--max-connections-per-address", &limits, &[]);
    assert_eq!(per_address, "--max-connections-per-address 100 (default)");
    refused(
        &[
            "--max-connections",
            "50",
            "--max-connections-per-address",
            "100",
        ],
        &[],
        &["--max-connections-per-address 100 is more than --max-connections 50"],
    );
}

#[test]
fn a_default_that_gives_way_leaves_places_for_strangers() {
    let reserved = ["--reserved-connections", "12000"];
    let why = "--reserved-connections 12000 is more than --max-connections 10000";
    refused(&reserved, &[], &[why]);
    let room = ["--max-connections-per-address", "20000"];
    let total = effective("--max-connections", &[reserved, room].concat(), &[]);
    assert!(total.starts_with("--max-connections 20000 "), "{total}");
    // Whoever gives both may mean it.
    let all = ["--check", "--reserved-connections", "10000"];
    let output = ringpost(&all, &[]);
    let hint = "--reserved-connections 10000 leaves no connection of --max-connections 10000";
    assert!(stdout(&output).contains(hint), "{}", stdout(&output));
    let nobody = [&all[..], &["--relay-from", "none"]].concat();
    let output = ringpost(&nobody, &[]);
    assert!(
        !stdout(&output).contains("leaves no"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn a_domain_in_three_spellings_has_one_hint_and_a_million_domains_have_few() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let recipients = path("recipients", "u@other.test\n");
    let hints = |domains: &str| {
        let domains = path("domains", domains);
        let flags = ["--check", "--relay-domains-file", &domains];
        let flags = [&flags[..], &["--recipients-file", &recipients]].concat();
        stdout(&ringpost(&flags, &[]))
    };
    let text = hints("bücher.test\nxn--bcher-kva.test\nBÜCHER.test\n");
    assert_eq!(text.matches("no recipient of").count(), 1, "{text}");
    let many: String = (0..1000).map(|n| format!("d{n}.test\n")).collect();
    let text = hints(&many);
    assert_eq!(text.matches("no recipient of").count(), 10, "{text}");
    assert!(text.contains("990 more relay domains"), "{text}");
}

#[test]
fn a_small_spool_has_smaller_segments_and_then_smaller_messages() {
    let one_thread = ["--ingress-cores", "0", "--delivery-cores", "0"];
    let of = |flag: &str, more: &[&str]| effective(flag, &[&one_thread, more].concat(), &[]);
    let (segment, message) = ("--segment-size", "--max-message-size");
    let roomy = ["--spool-size", "200MiB"];
    assert!(of(segment, &roomy).starts_with("--segment-size 32MiB (default 64MiB, "));
    assert_eq!(of(message, &roomy), "--max-message-size 50MiB (default)");
    let narrow = ["--spool-size", "32MiB"];
    assert!(
        of(segment, &narrow).contains("(default 64MiB, which gives way to --spool-size 32MiB)")
    );
    assert!(
        of(message, &narrow).contains("(default 50MiB, which gives way to --spool-size 32MiB)")
    );
    let given = ["--spool-size", "32MiB", message, "50MiB"];
    refused(
        &[&one_thread[..], &given].concat(),
        &[],
        &["--spool-size 32MiB: at least", "--max-message-size 50MiB"],
    );
}

#[test]
fn tls_is_demanded_only_where_clients_have_a_way_to_it() {
    let none = ["--tls-require", "--no-starttls"];
    refused(
        &none,
        &[],
        &["--tls-require and --no-starttls need --listen-tls"],
    );
    let port = [
        "--check",
        "--tls-require",
        "--no-starttls",
        "--listen-tls",
        "127.0.0.1:0",
    ];
    let output = ringpost(&port, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn files_of_domains_and_recipients_name_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let domains = write("domains", "# ours\nexample.com\nnot a domain\n");
    let recipients = write("recipients", "a@example.com\n\nnobody\n");
    refused(
        &[
            "--relay-domains-file",
            &domains,
            "--recipients-file",
            &recipients,
        ],
        &[],
        &["domains:3: 'not a domain'", "recipients:3: 'nobody'"],
    );
}

#[test]
fn a_domain_is_one_domain_in_all_its_spellings() {
    refused(
        &["--tls-out-for", "bücher.test=verify,xn--bcher-kva.test=may"],
        &[],
        &["two different levels for xn--bcher-kva.test"],
    );
    for invalid in ["xn--a.test", "a\u{200d}b.test"] {
        refused(
            &["--relay-domain", invalid],
            &[],
            &["not a valid internationalised name"],
        );
        refused(
            &["--route", &format!("{invalid}=[192.0.2.1]")],
            &[],
            &["not a valid internationalised name"],
        );
    }
}

#[test]
fn what_is_probably_not_meant_is_hinted_at() {
    let hints = |words: &[&str], variables: &[(&str, &str)]| {
        let words: Vec<&str> = ["--check"].iter().chain(words).copied().collect();
        let output = ringpost(&words, variables);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let text = hints(&["--route", "a.test=[192.0.2.1]"], &[]);
    assert!(
        text.contains("a route does not make its domain a relay domain"),
        "{text}"
    );
    let text = hints(&["--relay-from", "0.0.0.0/0"], &[]);
    assert!(text.contains("an open relay"), "{text}");
    let back_here = [
        "--listen",
        "127.0.0.1:2525",
        "--route",
        "*=[127.0.0.1]:2525",
    ];
    let text = hints(&back_here, &[]);
    assert!(
        text.contains("*=[127.0.0.1]:2525: this route leads back"),
        "{text}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "someone@b.test\n@below.c.test\n").unwrap();
    let domains = ["--relay-domain", "a.test,b.test,.c.test,.d.test"];
    let recipients = ["--recipients-file", file.path().to_str().unwrap()];
    let text = hints(&[domains, recipients].concat(), &[]);
    for (domain, is_told) in [
        ("a.test", true),
        ("b.test", false),
        (".c.test", false),
        (".d.test", true),
    ] {
        let told = text.contains(&format!("no recipient of {domain} is in"));
        assert_eq!(told, is_told, "{domain}: {text}");
    }
    let text = hints(&["--relay-from", "none"], &[]);
    assert!(text.contains("nobody may send anything"), "{text}");
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), EXPIRED_ROOT).unwrap();
    let ca = ["--tls-ca-only", "--tls-ca", ca.path().to_str().unwrap()];
    let text = hints(&[&ca[..], &["--tls-out", "verify"]].concat(), &[]);
    assert!(text.contains("no certificate is trusted"), "{text}");
    let text = hints(&ca, &[]);
    assert!(!text.contains("no certificate is trusted"), "{text}");
    let text = hints(&["--dns", "127.0.0.1:1"], &[]);
    assert!(text.contains("--dns 127.0.0.1:1 does not answer"), "{text}");
    let text = hints(&["--hostname", "mx"], &[]);
    assert!(text.contains("not a full name"), "{text}");
    let text = hints(&[], &[("RINGPOST_LISEN", "x")]);
    assert!(text.contains("RINGPOST_LISEN is set"), "{text}");
}

#[test]
fn every_limit_has_its_default_and_its_bounds() {
    for (flag, default, given, beyond) in [
        ("--connection-rate", "6000", "0", "1000000001"),
        ("--connection-rate-total", "0", "50", "1000000001"),
        ("--handshake-rate", "3000", "0", "1000000001"),
        ("--handshake-rate-total", "2000", "0", "1000000001"),
        ("--message-rate", "6000", "0", "1000000001"),
        ("--recipient-rate", "30000", "0", "1000000001"),
        ("--error-rate", "600", "0", "1000000001"),
        ("--min-data-rate", "500", "0", "2GiB"),
        ("--memory-max", "512MiB", "16MiB", "15MiB"),
    ] {
        assert_eq!(
            effective(flag, &[], &[]),
            format!("{flag} {default} (default)")
        );
        assert_eq!(
            effective(flag, &[flag, given], &[]),
            format!("{flag} {given} (flag)")
        );
        refused(&[flag, beyond], &[], &[flag, beyond]);
    }
}

#[test]
fn what_is_wrong_in_a_file_of_flags_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ringpost.flags");
    let path_text = path.display().to_string();
    for (text, line, complaint) in [
        ("\n--max-hop 50\n", 2, "--max-hop"),
        ("--no-pin\n# all\n--max-hops 5\n", 3, "from 10 to 1000"),
        ("--max-hops\n", 1, "a value is required"),
        ("--no-pin\nmax-hops 50\n", 2, "max-hops"),
        ("--listen 127.0.0.1:0\n--listen :25\n", 2, "0.0.0.0:25"),
        ("--tls-out dane\n", 1, "dane"),
        (
            "--route a.test=b\n--route c.test=192.0.2.1\n",
            2,
            "in brackets",
        ),
        (
            "--retry-max 1h\n--retry-min 2h\n",
            2,
            "--retry-min 2h is more",
        ),
        ("--no-pin\n--banner 'ESMTP\n", 2, "a quote is opened"),
        ("\n@other\n", 2, "other: No such file"),
        ("--routes-file /nonexistent/routes\n", 1, "No such file"),
    ] {
        fs::write(&path, text).unwrap();
        let place = format!("{path_text}:{line}");
        refused(&[&format!("@{path_text}")], &[], &[&place, complaint]);
    }
    fs::write(&path, "--max-hops 50\n").unwrap();
    let file = format!("@{path_text}");
    let words = ["--check", &*file, "--max-hops", "5"];
    let text = stderr(&ringpost(&words, &[]));
    assert!(
        !text.contains(&path_text),
        "the command line is at fault: {text}"
    );
    let variable = [("RINGPOST_MAX_ERRORS", "0")];
    refused(&[&file], &variable, &["RINGPOST_MAX_ERRORS: error:"]);
}

#[test]
fn who_gave_what_contradicts_is_named_file_or_variable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ringpost.flags");
    let file = format!("@{}", path.display());
    let place = format!("{}:1", path.display());
    let retry_min = ("RINGPOST_RETRY_MIN", "2h");
    let complaint = "--retry-min 2h is more than --retry-max 1h";
    let named = |places: &str| format!("{complaint} ({places})");
    refused(
        &["--retry-max", "1h"],
        &[retry_min],
        &[&named("RINGPOST_RETRY_MIN")],
    );
    // However it was written.
    fs::write(&path, "--retry-max 60m\n").unwrap();
    let both = named(&format!("{place}, RINGPOST_RETRY_MIN"));
    refused(&[&file], &[retry_min], &[&both]);
    // The last one counts.
    let overruled = [&*file, "--retry-max", "1h", "--retry-min", "2h"];
    let text = stderr(&ringpost(&overruled, &[]));
    assert!(text.contains(complaint), "{text}");
    assert!(!text.contains(&place), "{text}");

    fs::write(&path, "--no-landlock\n").unwrap();
    let places = format!("exclude each other ({place}, RINGPOST_REQUIRE_LANDLOCK)");
    refused(
        &[&file],
        &[("RINGPOST_REQUIRE_LANDLOCK", "true")],
        &[&places],
    );
}

#[test]
fn spool_commands_find_the_spool_by_the_relays_flags() {
    let dir = tempfile::tempdir().unwrap();
    let (flags, spool) = (dir.path().join("flags"), dir.path().join("mail"));
    let text = format!("--listen 127.0.0.1:0\n--spool {}\n", spool.display());
    fs::write(&flags, text).unwrap();
    let absent = format!("there is no spool at {}", spool.display());
    let (file, spool) = (format!("@{}", flags.display()), spool.display().to_string());
    for words in [
        &["spool", "list", &*file][..],
        &["spool", "verify", &*file],
        &["spool", &*file, "list"],
        &[&*file, "spool", "list"],
        &["spool", "list", &*spool],
        &["spool", "list", "--spool", &*spool],
        &["--spool", &*spool, "spool", "verify"],
        &[&*file, "spool", "list", &*spool],
    ] {
        let output = ringpost(words, &[]);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{words:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(&absent),
            "{words:?}: {}",
            stderr(&output)
        );
    }
    let variables = [("RINGPOST_SPOOL", &*spool)];
    let output = ringpost(&["spool", "list"], &variables);
    assert!(stderr(&output).contains(&absent), "{}", stderr(&output));
}
