//! Flags that are valid one by one but not together.

use super::flags::Flags;
use super::values::ClientNet;
use crate::io::buffer::BLOCK_BYTES;
use crate::remote::resolve::Families;
use crate::spool;
use crate::text::units::Bytes;
use std::net::SocketAddr;

/// Every host accepts lines of this many octets (RFC 5321 section 4.5.3.1.6).
const LINE_BYTES_LEAST: u64 = 1000;

/// A segment holds at least this many chunks, so that commits fill it well.
pub const CHUNKS_PER_SEGMENT_MIN: u64 = 16;

pub fn contradictions(flags: &Flags) -> Vec<String> {
    let mut found = Vec::new();
    tls_contradictions(flags, &mut found);
    listen_contradictions(flags, &mut found);
    spool_contradictions(flags, &mut found);
    delivery_contradictions(flags, &mut found);

    if flags.privileges.no_landlock && flags.privileges.require_landlock {
        found.push("--require-landlock and --no-landlock exclude each other".to_owned());
    }
    if flags.privileges.no_seccomp && flags.privileges.strict_seccomp {
        found.push("--strict-seccomp and --no-seccomp exclude each other".to_owned());
    }
    let relay_from = &flags.relaying.relay_from;
    if relay_from.len() > 1 && relay_from.contains(&ClientNet::None) {
        found.push("--relay-from: none cannot be combined with networks".to_owned());
    }
    let (data, session) = (flags.timeouts.data_timeout, flags.timeouts.session_timeout);
    if !session.0.is_zero() {
        at_most(
            &mut found,
            ("--data-timeout", data),
            ("--session-timeout", session),
        );
    }
    let limits = &flags.limits;
    if (1..LINE_BYTES_LEAST).contains(&limits.max_line_length.0) {
        found.push(format!(
            "--max-line-length {}: at least {LINE_BYTES_LEAST} (RFC 5321 section 4.5.3.1.6), or 0",
            limits.max_line_length
        ));
    }
    at_most(
        &mut found,
        (
            "--max-connections-per-address",
            limits.max_connections_per_address,
        ),
        ("--max-connections", limits.max_connections),
    );
    at_most(
        &mut found,
        (
            "--reserved-connections",
            limits.reserved_connections.unwrap_or(0),
        ),
        ("--max-connections", limits.max_connections),
    );
    found
}

fn at_most<T: PartialOrd + std::fmt::Display>(
    found: &mut Vec<String>,
    (small_flag, small): (&str, T),
    (large_flag, large): (&str, T),
) {
    if small > large {
        found.push(format!(
            "{small_flag} {small} is more than {large_flag} {large}"
        ));
    }
}

fn tls_contradictions(flags: &Flags, found: &mut Vec<String>) {
    let tls = &flags.tls;
    match (tls.tls_cert.len(), tls.tls_key.len()) {
        (_, 0) if !tls.tls_cert.is_empty() => {
            found.push("--tls-cert needs --tls-key".to_owned());
        }
        (0, _) if !tls.tls_key.is_empty() => {
            found.push("--tls-key needs --tls-cert".to_owned());
        }
        (certificates, keys) if certificates != keys => found.push(format!(
            "--tls-cert is given {certificates} times and --tls-key {keys} times: give each certificate \
             its key, in the same order"
        )),
        _ => {}
    }
    if tls.tls_ca_only && tls.tls_ca.is_none() {
        found.push("--tls-ca-only needs --tls-ca".to_owned());
    }
    if tls.no_starttls && tls.tls_require && flags.listening.listen_tls.is_empty() {
        found.push(
            "--tls-require and --no-starttls need --listen-tls: clients have no other way to use TLS"
                .to_owned(),
        );
    }
    for (index, entry) in tls.tls_out_for.iter().enumerate() {
        let earlier = &tls.tls_out_for[..index];
        if earlier
            .iter()
            .any(|other| other.domain == entry.domain && other.level != entry.level)
        {
            found.push(format!(
                "--tls-out-for: two different levels for {}",
                entry.domain
            ));
        }
    }
}

fn listen_contradictions(flags: &Flags, found: &mut Vec<String>) {
    let listening = &flags.listening;
    let all: Vec<&SocketAddr> = listening
        .listen
        .iter()
        .chain(&listening.listen_tls)
        .collect();
    for (index, address) in all.iter().enumerate() {
        if address.port() != 0 && all[..index].contains(address) {
            found.push(format!(
                "--listen and --listen-tls: {address} is given twice"
            ));
        }
    }
}

fn spool_contradictions(flags: &Flags, found: &mut Vec<String>) {
    let spool = &flags.spool;
    let (segment, chunk) = (spool.segment_size.0, spool.chunk_size.0);
    let block = BLOCK_BYTES as u64;
    if !segment.is_multiple_of(block) {
        found.push(format!(
            "--segment-size {segment}: must be a multiple of {block} bytes, such as {}",
            Bytes(segment - segment % block)
        ));
    }
    let settings = spool::Settings {
        segment_bytes: segment,
        message_bytes_max: flags.limits.max_message_size.0,
        ..spool::Settings::default()
    };
    let least = Bytes(settings.spool_bytes_min(1));
    // The number of threads is known only when they have been placed.
    if (1..least.0).contains(&spool.spool_size.0) {
        found.push(format!(
            "--spool-size {}: at least {least}, even for one thread, with --segment-size {} and \
             --max-message-size {}; or 0",
            spool.spool_size, spool.segment_size, flags.limits.max_message_size
        ));
    }
    let segment_share = Bytes(segment / CHUNKS_PER_SEGMENT_MIN);
    if chunk > segment_share.0 {
        found.push(format!(
            "--chunk-size {}: at most a {CHUNKS_PER_SEGMENT_MIN}th of --segment-size, {segment_share}",
            Bytes(chunk)
        ));
    }
}

fn delivery_contradictions(flags: &Flags, found: &mut Vec<String>) {
    let delivery = &flags.delivery;
    at_most(
        found,
        ("--retry-min", delivery.retry_min),
        ("--retry-max", delivery.retry_max),
    );
    at_most(
        found,
        ("--delivery-connections", delivery.delivery_connections),
        (
            "--delivery-connections-total",
            delivery.delivery_connections_total,
        ),
    );
    for (version, is_that, unused) in [
        ("IPv4", true, Families::Ipv6Only),
        ("IPv6", false, Families::Ipv4Only),
    ] {
        let of_version = delivery
            .source_address
            .iter()
            .filter(|address| address.is_ipv4() == is_that)
            .count();
        if of_version > 1 {
            found.push(format!("--source-address: at most one for {version}"));
        }
        if of_version > 0 && delivery.ip_version == unused {
            found.push(format!(
                "--source-address: {version} is not used with this --ip-version"
            ));
        }
    }
}
