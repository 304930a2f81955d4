//! What works but is probably not meant.

use super::flags::{ENVIRONMENT_PREFIX, Flags, variable_of};
use super::{Adjusted, Config, Surroundings};
use crate::domain::pattern::DomainPattern;
use crate::policy::relaying;
use crate::remote::route::RouteTable;
use crate::smtp::data::BareLineEnds;
use crate::tls::TlsLevel;
use clap::CommandFactory;
use std::collections::HashSet;

/// Descriptors that are neither sessions nor deliveries nor look-ups: logs, segments, rings.
const OTHER_DESCRIPTORS: u64 = 256;

/// Hints that differ only in what they name; more are counted.
const ALIKE_MAX: usize = 10;

pub fn hints(config: &Config, surroundings: &Surroundings) -> Vec<String> {
    let mut hints: Vec<String> = config.gave_way.iter().map(Adjusted::to_string).collect();
    let outside = config.listen.is_outside();
    hints.extend(of_relaying(&config.relaying, &config.routes, outside));
    let listen = &config.listen;
    if listen.connections_reserved >= listen.connections_max {
        hints.push(format!(
            "--reserved-connections {} leaves no connection of --max-connections {} to clients outside --relay-from",
            listen.connections_reserved, listen.connections_max
        ));
    }
    if !config.hostname.contains('.') {
        hints.push(format!(
            "this host calls itself '{}', which is not a full name: many receivers refuse such names; \
             set --hostname",
            config.hostname
        ));
    }
    hints.extend(of_open_files(config, surroundings));
    if config.server.bare_line_ends == BareLineEnds::Normalise && config.listen.is_outside() {
        hints.push(
            "--bare-line-ends normalise is for clients inside, but this relay listens outside"
                .to_owned(),
        );
    }
    if config.delivery.levels.of_others() == TlsLevel::None {
        hints.push("--tls-out none sends all mail in plaintext".to_owned());
    }
    hints.extend(
        unknown_variables().map(|name| format!("{name} is set, but no flag has that name")),
    );
    hints
}

fn of_open_files(config: &Config, surroundings: &Surroundings) -> Option<String> {
    let allowed = surroundings.open_files_max?;
    let threads = (config.cores).threads(&surroundings.cpus, surroundings.parallelism);
    let look_ups = threads.saturating_mul(config.resolver.sockets_max()) as u64;
    let wanted = u64::from(config.listen.connections_max)
        + u64::from(config.schedule.connections_max)
        + OTHER_DESCRIPTORS
        + look_ups;
    (allowed < wanted).then(|| {
        format!(
            "--max-connections, --delivery-connections-total and look-ups by silent name servers ({look_ups}) may need \
             {wanted} open files, and this process may open {allowed} (ulimit -Hn, LimitNOFILE=)"
        )
    })
}

/// Of the lists, which may be read again.
pub fn of_relaying(
    relay: &relaying::Settings,
    routes: &RouteTable,
    listens_outside: bool,
) -> Vec<String> {
    let mut hints = Vec::new();
    let inside_only = relay
        .trusted_nets
        .iter()
        .all(|net| net.network().is_loopback());
    if relay.trusted_nets.is_empty() && relay.domains.is_empty() {
        hints.push(
            "nobody may send anything: --relay-from is none, and there is no --relay-domain"
                .to_owned(),
        );
    } else if inside_only && relay.domains.is_empty() && listens_outside {
        hints.push(
            "this relay listens outside but accepts mail from this host only: --relay-from lets \
             networks send, --relay-domain lets anybody send to a domain"
                .to_owned(),
        );
    } else if !routes.is_empty() && relay.domains.is_empty() && inside_only {
        hints.push(
            "there are routes, but nobody outside this host may send to them: a route does not \
             make its domain a relay domain; see --relay-domain"
                .to_owned(),
        );
    }
    for net in &relay.trusted_nets {
        if net.prefix_len() == 0 {
            hints.push(format!(
                "--relay-from {net} lets the whole world relay anywhere: an open relay"
            ));
        }
    }
    if !relay.domains.is_empty() && relay.recipients.is_none() {
        hints.push(
            "the recipients of the relay domains are not known: mail that the next hop refuses \
             becomes a bounce to a sender who may be forged; see --recipients-file"
                .to_owned(),
        );
    }
    if relay.recipients.is_some() && relay.domains.is_empty() {
        hints.push("--recipients-file has no use without --relay-domain".to_owned());
    }
    let recipients = relay.recipients.iter().flatten();
    let known: HashSet<_> = recipients.map(|recipient| &recipient.domain).collect();
    let mut seen = HashSet::new();
    let domains = relay.domains.iter().filter(|pattern| seen.insert(*pattern));
    let unknown = domains.filter_map(|pattern| {
        let is_known = relay.recipients.is_none()
            || match pattern {
                DomainPattern::Exact(name) => known.contains(name),
                DomainPattern::Below(_) => known.iter().any(|known| pattern.matches(known)),
            };
        (!is_known).then(|| {
            format!("no recipient of {pattern} is in --recipients-file: all mail to it is refused")
        })
    });
    hints.extend(first_of(unknown, "relay domains without a known recipient"));
    hints
}

/// The first of hints that differ only in what they name. Lists can have millions of entries.
pub fn first_of(alike: impl Iterator<Item = String>, what: &str) -> Vec<String> {
    let mut alike = alike.fuse();
    let mut hints: Vec<String> = alike.by_ref().take(ALIKE_MAX).collect();
    match alike.count() {
        0 => {}
        more => hints.push(format!("there are {more} more {what}")),
    }
    hints
}

fn unknown_variables() -> impl Iterator<Item = String> {
    let known: Vec<String> = Flags::command()
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(variable_of))
        .collect();
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(move |name| name.starts_with(ENVIRONMENT_PREFIX) && !known.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Command;
    use std::ffi::OsString;

    fn hints_of_open_files(allowed: u64) -> usize {
        let surroundings = Surroundings {
            host_name: "relay.test".into(),
            state_dir: Some("/a".into()),
            cpus: vec![0, 1],
            parallelism: 2,
            open_files_max: Some(allowed),
            ..Surroundings::default()
        };
        let words = ["ringpost", "--max-connections", "1000"];
        let words = [&words[..], &["--delivery-connections-total", "500"]].concat();
        match Config::from_args_on(words.into_iter().map(OsString::from), &surroundings) {
            Ok(Command::Run(config)) => {
                let hints = config.hints.iter();
                hints.filter(|hint| hint.contains("open files")).count()
            }
            _ => panic!("these flags are for a run"),
        }
    }

    #[test]
    fn the_look_ups_of_each_thread_need_open_files_too() {
        // 800 look-ups a thread with two queries each, and 400 for all of them; each query has up to three sockets.
        let needed = 1000 + 500 + 256 + 2 * 3 * (2 * 800 + 400);
        assert_eq!(hints_of_open_files(needed), 0);
        assert_eq!(hints_of_open_files(needed - 1), 1);
    }
}
