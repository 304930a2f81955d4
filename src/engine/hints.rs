//! What works but is probably not meant, as far as it is known at the start only.

use super::placement::CoreSpec;
use super::plan;
use super::rules::Rules;
use super::shared::Shared;
use crate::config::{SpoolConfig, first_of};
use crate::io::cpu;
use crate::io::file::{existing_part, free_bytes_blocking, total_bytes_blocking};
use crate::remote::resolve::probe;
use crate::remote::route::{NextHop, RouteTable};
use crate::spool::Settings;
use crate::text::units::Bytes;
use crate::tls::TlsLevel;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// How long a name server may take to be heard of at the start.
const NAME_SERVER_WAIT: Duration = Duration::from_secs(1);

/// Threads for each CPU from which on a message costs clearly more (tuning.md).
const THREADS_PER_CPU_MAX: usize = 2;

/// For the log, and for `--check`.
pub fn hints(shared: &Shared, rules: &Rules) -> Vec<String> {
    let mut hints = routes_to_itself(shared, &rules.lists.routes);
    hints.extend(file_system(&shared.config.spool, &shared.specs));
    let cpus = cpu::allowed().map_or(usize::MAX, |cpus| cpus.len());
    hints.extend(lacks_trust_anchors(shared));
    hints.extend(too_many_threads(shared.specs.len(), cpus));
    hints.extend(silent_name_servers(&shared.config.resolver.name_servers));
    hints
}

pub fn routes_to_itself(shared: &Shared, routes: &RouteTable) -> Vec<String> {
    let own = shared.own_names();
    let leads_here = |next_hop: &NextHop| match next_hop {
        NextHop::Address(address) => own.is_own_address(*address),
        NextHop::Mx { domain, .. } => own.is_own_name(domain.as_str()),
        NextHop::Host { host, .. } => own.is_own_name(host.as_str()),
    };
    let routes = routes.next_hops();
    let mut places: Vec<&str> = routes
        .filter(|(next_hop, _)| leads_here(next_hop))
        .map(|(_, place)| place)
        .collect();
    places.sort_unstable();
    let told = |place| {
        format!("{place}: this route leads back to this relay: its mail is refused or returned")
    };
    first_of(places.into_iter().map(told), "routes that lead back")
}

/// What the file system of the spool is too small for, in whole MiB.
fn file_system(config: &SpoolConfig, specs: &[CoreSpec]) -> Option<String> {
    let (settings, threads) = (&config.settings, plan::number_of(specs));
    let least = settings.spool_bytes_min(threads);
    let wanted = least.saturating_add(settings.keep_free_bytes);
    let wanted = wanted.next_multiple_of(MIB);
    let place = existing_part(&config.dir);
    let total = total_bytes_blocking(place).ok()? / MIB * MIB;
    let free = free_bytes_blocking(place).ok()? / MIB * MIB;
    match total < wanted {
        // A size that is given was compared with what is needed before.
        true => settings.spool_bytes_max.is_none().then(|| {
            format!(
                "the file system of the spool has {}, but {threads} threads need {}: mail may be refused for lack \
                 of space (452); use fewer threads, a smaller --segment-size or a larger file system",
                Bytes(total),
                Bytes(wanted),
            )
        }),
        false => nearly_full(settings, free),
    }
}

fn nearly_full(settings: &Settings, free: u64) -> Option<String> {
    let kept = settings.keep_free_bytes;
    (free < kept.saturating_add(settings.segment_bytes)).then(|| {
        format!(
            "the file system of the spool has {} free, but --spool-keep-free keeps {} free: new mail is refused for \
             lack of space (452) when the existing segments are full",
            Bytes(free),
            Bytes(kept),
        )
    })
}

/// Then a level that demands trust is a level that delivers nothing.
fn lacks_trust_anchors(shared: &Shared) -> Option<String> {
    let demands_trust = shared.config.delivery.levels.demands(TlsLevel::Verify);
    (demands_trust && shared.anchors.is_empty()).then(|| {
        "no certificate is trusted (--tls-ca, --tls-ca-only), but TLS level verify demands one: its mail waits, and \
         bounces in the end"
            .to_owned()
    })
}

fn too_many_threads(threads: usize, cpus: usize) -> Option<String> {
    (threads / THREADS_PER_CPU_MAX > cpus).then(|| {
        format!(
            "{threads} threads for {cpus} CPUs: each message costs more, and each thread has its own ring and logs; \
             name each CPU once in --ingress-cores and --delivery-cores, or omit these flags"
        )
    })
}

/// Those that the flags name. Others are the system's, and may come later than the relay.
fn silent_name_servers(servers: &[SocketAddr]) -> Vec<String> {
    let told = |(server, error): (SocketAddr, io::Error)| {
        let why = match error.kind() {
            io::ErrorKind::TimedOut => {
                format!("no answer within {} s", NAME_SERVER_WAIT.as_secs())
            }
            _ => error.to_string(),
        };
        format!(
            "--dns {server} does not answer ({why}): while no name server does, mail by MX or to a named host waits; \
             try: dig @{} -p {} . NS",
            server.ip(),
            server.port()
        )
    };
    let silent = probe::silent(servers, NAME_SERVER_WAIT);
    silent.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_hundred_threads_on_two_cpus_are_too_many_and_five_are_not() {
        let text = too_many_threads(300, 2).expect("a hint");
        assert!(text.starts_with("300 threads for 2 CPUs"), "{text}");
        assert_eq!(too_many_threads(5, 2), None);
    }
}
