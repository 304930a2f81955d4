//! Real programs against the real binary: Postfix, Sendmail, swaks, `openssl s_client`, testssl.sh, and hosts that behave as
//! Exchange and MDaemon do. The cases themselves are in `tests/interop/cases.py`; this file gives each its name.
//!
//! What is missing is downloaded on the first run (see `tests/interop/README.md`).
//! `RINGPOST_SKIP_INTEROP=1` skips all of it.

use std::process::{Command, Output};

const RUNNER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/run.py");

fn runner(arguments: &[&str]) -> Output {
    Command::new("python3")
        .arg(RUNNER)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "python3 cannot be run ({error}). The interop tests need Python 3.11 or later: \
                 apt-get install python3. RINGPOST_SKIP_INTEROP=1 skips them."
            )
        })
}

fn skipped() -> bool {
    let skip = std::env::var_os("RINGPOST_SKIP_INTEROP").is_some_and(|value| value == "1");
    if skip {
        eprintln!("skipped: RINGPOST_SKIP_INTEROP=1");
    }
    skip
}

/// Runs one case; its story, the peers' logs and ours are the panic's text if it fails.
fn run(case: &str) {
    if skipped() {
        return;
    }
    let done = runner(&[case, "--ringpost", env!("CARGO_BIN_EXE_ringpost")]);
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}

macro_rules! cases {
    ($($name:ident)*) => {
        const CASES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*
    };
}

cases! {
    postfix_hop_with_tls
    postfix_hop_that_demands_tls12
    postfix_hop_without_tls
    postfix_hop_whose_key_is_not_the_certificates_gets_plaintext
    postfix_hop_with_only_ancient_tls_gets_plaintext
    sendmail_hop_with_tls
    sendmail_hop_without_tls
    sendmail_hop_with_only_old_ciphers_gets_plaintext
    postfix_client_uses_starttls_by_itself
    postfix_client_that_demands_tls12
    postfix_client_in_plaintext
    postfix_client_is_not_offered_starttls
    postfix_client_with_tls_from_the_first_byte
    postfix_on_both_sides_many_messages
    sendmail_client_uses_starttls_by_itself
    sendmail_client_in_plaintext
    sendmail_to_postfix
    postfix_to_sendmail
    swaks_in_plaintext
    swaks_with_starttls
    swaks_with_tls_on_connect
    swaks_with_pipelining
    swaks_may_not_relay_from_elsewhere
    openssl_s_client_with_starttls
    openssl_s_client_with_tls_on_connect
    testssl_finds_over_starttls_what_it_finds_on_the_tls_port
    openssl_s_client_resumes_tls13
    openssl_s_client_resumes_tls12
    commands_injected_before_the_handshake_are_not_obeyed
    exchange_client_sends_by_bdat
    clients_that_put_a_space_before_the_path
    promtool_has_nothing_to_say_of_the_metrics
    a_host_that_is_away_gets_its_mail_when_it_is_back
    accepted_mail_survives_kill_9_and_a_restart
    mx_hosts_are_tried_in_order_of_preference
    a_domain_without_mx_is_its_own_host
    a_null_mx_bounces_at_once
    a_domain_that_does_not_exist_bounces_at_once
    a_name_server_that_fails_does_not_bounce
    exchange
    exchange_with_tls12
    exchange_requires_tls
    exchange_with_old_ciphers_gets_plaintext
    mdaemon
    mdaemon_tarpit
    host_that_sends_close_notify
    host_without_starttls
    host_that_drips_octets
    ehlo_refused_then_helo
    starttls_answered_454_gets_plaintext
    starttls_answered_501_gets_plaintext
    garbage_instead_of_server_hello_gets_plaintext
    stalled_handshake_gets_plaintext
    close_instead_of_handshake_gets_plaintext
    reset_instead_of_handshake_gets_plaintext
    exchange_busy_421_at_greeting
    exchange_back_pressure_452_at_mail
    exchange_421_at_recipient
    greylisting_451_at_recipient
    connection_dropped_before_the_final_reply
    plaintext_injected_before_the_handshake_is_ignored
    certificates_that_prove_nothing_are_good_enough_for_opportunistic_tls
    exchange_that_times_out_an_idle_connection
    encrypt_never_falls_back_to_plaintext
    one_unknown_recipient_of_three_bounces_alone
    content_rejected_after_the_data_bounces
    mail_larger_than_the_hops_size_bounces_without_being_sent
    a_connection_is_reused_for_the_next_message
    a_large_message_passes_whole
}

#[test]
fn every_case_has_its_name_here() {
    if skipped() {
        return;
    }
    let listed = String::from_utf8(runner(&["--list"]).stdout).unwrap();
    let listed: Vec<&str> = listed.lines().collect();
    assert_eq!(listed, CASES, "left: cases.py, right: this file");
}

#[test]
fn the_harness_notices_spoilt_mail() {
    if skipped() {
        return;
    }
    let done = runner(&["--self-test"]);
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}
