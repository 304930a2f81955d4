//! From flags to settings, and defaults that depend on the host.

use super::adjust::Adjusted;
use super::contradictions::contradictions;
use super::flags::{Delivery, Flags, Limits, Listening, Timeouts, Tls};
use super::hints::hints;
use super::lists::{ListFlags, unreadable_files};
use super::surroundings::SERVICE_STATE_DIR;
use super::values::ClientNet;
use super::{Config, CoreConfig, HttpConfig, LogConfig, SpoolConfig, Surroundings};
use crate::io::file::existing_part;
use crate::io::whole::Kinds;
use crate::policy::port::{self, Port};
use crate::policy::rates;
use crate::remote::connection;
use crate::remote::resolve;
use crate::schedule::next_hop;
use crate::schedule::retry::RetryPolicy;
use crate::schedule::{gate, hand_over};
use crate::smtp::extension::{Extension, Extensions};
use crate::smtp::server;
use crate::text::units::Bytes;
use crate::time::pace::MinRate;
use crate::tls::{self, CertificateFiles, Certificates, LevelTable};
use crate::{delivery, listener, privilege, session, spool};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// All settings, or everything that is wrong with them.
pub fn config(
    flags: Flags,
    gave_way: Vec<Adjusted>,
    surroundings: &Surroundings,
) -> Result<Config, Vec<String>> {
    let mut complaints = contradictions(&flags);
    complaints.extend(unreadable_files(&flags));
    let spool = spool_dir(&flags, surroundings);
    let certificates = certificates(&flags, surroundings);
    complaints.extend(spool.clone().err());
    complaints.extend(certificates.clone().err());
    let lists = ListFlags::new(&flags);
    let relaying = lists.relaying(Kinds::Any, &mut complaints);
    let routes = lists.routes(Kinds::Any, &mut complaints);
    let read_once = read_once(&flags, &lists);
    let (Ok(spool), Ok(certificates), true) = (spool, certificates, complaints.is_empty()) else {
        return Err(complaints);
    };
    let hostname = flags.listening.hostname.clone();
    let hostname = hostname.unwrap_or_else(|| surroundings.host_name.clone());
    let mut config = Config {
        listen: listen(&flags),
        server: server(&flags, &hostname),
        session: session(&flags),
        rates: rates(&flags.limits),
        relaying,
        routes,
        lists,
        tls: tls::Settings {
            certificates,
            roots: flags.tls.tls_ca.clone(),
            only_roots: flags.tls.tls_ca_only,
        },
        spool: spool_part(&flags, spool),
        delivery: delivery(&flags.delivery, &flags.tls),
        schedule: schedule(&flags),
        connections: connections(&flags),
        cores: cores(&flags),
        http: HttpConfig {
            address: flags.listening.http.0,
            is_default: false,
        },
        resolver: resolve::Settings {
            name_servers: flags.dns.dns,
            families: flags.delivery.ip_version,
            ..resolve::Settings::of(flags.dns.dns_timeout.0)
        },
        log: LogConfig {
            format: flags.logging.log_format,
            level: flags.logging.log_level,
            file: flags.logging.log_file,
        },
        privileges: privilege::Settings {
            user: flags.privileges.user,
            landlock: !flags.privileges.no_landlock,
            require_landlock: flags.privileges.require_landlock,
            seccomp: !flags.privileges.no_seccomp,
            strict_seccomp: flags.privileges.strict_seccomp,
            core_dumps: flags.privileges.core_dumps,
        },
        hints: Vec::new(),
        gave_way,
        places: Default::default(),
        read_once,
        hostname,
    };
    config.hints = hints(&config, surroundings);
    Ok(config)
}

/// What stays as it is until the relay is started again.
fn read_once(flags: &Flags, lists: &ListFlags) -> Vec<String> {
    let mut read_once = vec!["flags".to_owned()];
    read_once.extend(lists.read_once().map(|list| list.to_string()));
    read_once.push(match &flags.tls.tls_ca {
        Some(path) => format!("--tls-ca {}", path.display()),
        None => "the system's trusted roots".to_owned(),
    });
    if flags.dns.dns.is_empty() {
        read_once.push("/etc/resolv.conf".to_owned());
    }
    read_once
}

/// `--spool`, or its place in the state directory.
pub fn spool_dir(flags: &Flags, surroundings: &Surroundings) -> Result<PathBuf, String> {
    let flag = flags.spool.spool.clone();
    flag.or_else(|| Some(state_dir(flags, surroundings)?.join("spool")))
        .ok_or_else(|| no_state_dir("--spool"))
}

/// The spool of `ringpost spool list` if none is named: that of a relay with these flags, or of the
/// service on this host.
pub fn spool_to_look_into(flags: &Flags, surroundings: &Surroundings) -> Result<PathBuf, String> {
    let own = spool_dir(flags, surroundings);
    if flags.spool.spool.is_some()
        || !surroundings.state_is_at_home
        || !surroundings.has_service_state
    {
        return own;
    }
    let of_service = Path::new(SERVICE_STATE_DIR).join("spool");
    match own {
        Ok(own) if own != of_service && surroundings.has_own_spool => Err(format!(
            "there are two spools on this host: name {} or {}",
            own.display(),
            of_service.display()
        )),
        _ => Ok(of_service),
    }
}

/// Another user's home, such as root's, is not to be entered by `--user`.
fn state_dir(flags: &Flags, surroundings: &Surroundings) -> Option<PathBuf> {
    match flags.privileges.user.is_some() && surroundings.state_is_at_home {
        true => Some(PathBuf::from(SERVICE_STATE_DIR)),
        false => surroundings.state_dir.clone(),
    }
}

fn certificates(flags: &Flags, surroundings: &Surroundings) -> Result<Certificates, String> {
    let tls = &flags.tls;
    let pairs = tls
        .tls_cert
        .iter()
        .cloned()
        .zip(tls.tls_key.iter().cloned());
    let given: Vec<_> = pairs
        .map(|(chain, key)| CertificateFiles { chain, key })
        .collect();
    let kept_in = tls
        .tls_dir
        .clone()
        .or_else(|| Some(state_dir(flags, surroundings)?.join("tls")));
    if given.is_empty() && kept_in.is_none() {
        return Err(no_state_dir("--tls-dir"));
    }
    Ok(Certificates { given, kept_in })
}

fn no_state_dir(flag: &str) -> String {
    format!(
        "{flag} is needed: neither $STATE_DIRECTORY nor $XDG_STATE_HOME nor a home directory \
         says where state is kept"
    )
}

pub fn cores(flags: &Flags) -> CoreConfig {
    let cores = &flags.cores;
    CoreConfig {
        ingress: cores.ingress_cores.as_ref().map(|list| list.0.clone()),
        delivery: cores.delivery_cores.as_ref().map(|list| list.0.clone()),
        pin: !cores.no_pin,
    }
}

fn none_if_zero(value: u64) -> Option<u64> {
    (value > 0).then_some(value)
}

fn listen(flags: &Flags) -> listener::Settings {
    let limits = &flags.limits;
    listener::Settings {
        ports: ports(&flags.listening),
        backlog: flags.listening.backlog,
        connections_max: limits.max_connections,
        connections_reserved: connections_reserved(flags),
        connections_per_address_max: Some(limits.max_connections_per_address)
            .filter(|&limit| limit > 0),
        drain_timeout: flags.timeouts.drain_timeout.0,
    }
}

fn ports(flags: &Listening) -> Vec<port::Listening> {
    let on = |addresses: &[SocketAddr], port| {
        let at = move |address: &SocketAddr| port::Listening {
            address: *address,
            port,
        };
        addresses.iter().map(at).collect::<Vec<_>>()
    };
    let mut ports = on(&flags.listen, Port::SMTP);
    ports.extend(on(&flags.listen_tls, Port::SMTPS));
    ports
}

/// Nobody is trusted: nobody needs places of its own.
fn connections_reserved(flags: &Flags) -> u32 {
    let is_net = |net: &ClientNet| matches!(net, ClientNet::Net(_));
    let limits = &flags.limits;
    match flags.relaying.relay_from.iter().any(is_net) {
        true => limits
            .reserved_connections
            .unwrap_or(limits.max_connections / listener::RESERVED_SHARE),
        false => 0,
    }
}

fn rates(limits: &Limits) -> rates::Limits {
    let limit = |count: u32| (count > 0).then_some(count);
    rates::Limits {
        connections: limit(limits.connection_rate),
        handshakes: limit(limits.handshake_rate),
        messages: limit(limits.message_rate),
        recipients: limit(limits.recipient_rate),
        errors: limit(limits.error_rate),
        connections_total: limit(limits.connection_rate_total),
        handshakes_total: limit(limits.handshake_rate_total),
    }
}

fn server(flags: &Flags, hostname: &str) -> server::Settings {
    let limits = &flags.limits;
    let line_bytes_max = none_if_zero(limits.max_line_length.0);
    server::Settings {
        banner: flags.listening.banner.clone(),
        max_message_bytes: limits.max_message_size.0,
        max_recipients: limits.max_recipients as usize,
        max_transactions: limits.max_messages_per_session,
        max_errors: limits.max_errors,
        max_hops: limits.max_hops,
        max_text_line_bytes: line_bytes_max.map_or(usize::MAX, |most| {
            usize::try_from(most).unwrap_or(usize::MAX)
        }),
        bare_line_ends: limits.bare_line_ends,
        offers: offers(flags),
        qualify_domain: flags.relaying.qualify_domain.clone(),
        require_tls: flags.tls.tls_require,
        ..server::Settings::new(hostname)
    }
}

fn offers(flags: &Flags) -> Extensions {
    let withheld = [
        (flags.limits.no_chunking, Extension::Chunking),
        (flags.tls.no_starttls, Extension::StartTls),
    ];
    let withheld = withheld.iter().filter(|(is_withheld, _)| *is_withheld);
    withheld.fold(Extensions::OURS, |offers, (_, extension)| {
        offers.without(*extension)
    })
}

fn session(flags: &Flags) -> session::Settings {
    let (spool, timeouts) = (&flags.spool, &flags.timeouts);
    session::Settings {
        timeouts: session::Timeouts {
            command: timeouts.command_timeout.0,
            data: timeouts.data_timeout.0,
            min_rate: min_rate(timeouts.min_data_rate, timeouts.data_timeout.0),
            handshake: timeouts.handshake_timeout.0,
            session: Some(timeouts.session_timeout.0).filter(|limit| !limit.is_zero()),
            crowded: timeouts.crowded_timeout.0,
        },
        body_room: session::Room {
            chunk_bytes: spool.chunk_size.0 as usize,
            whole_bytes: spool.in_memory_size.0 as usize,
        },
    }
}

fn min_rate(bytes_per_s: Bytes, grace: Duration) -> Option<MinRate> {
    let bytes_per_s = none_if_zero(bytes_per_s.0)?;
    Some(MinRate { grace, bytes_per_s })
}

fn spool_part(flags: &Flags, dir: PathBuf) -> SpoolConfig {
    SpoolConfig {
        settings: spool_settings(flags, &dir),
        dir,
        memory_bytes_max: flags.spool.memory_max.0,
    }
}

/// Of the spool in `dir`.
pub fn spool_settings(flags: &Flags, dir: &Path) -> spool::Settings {
    let spool = &flags.spool;
    spool::Settings {
        segment_bytes: spool.segment_size.0,
        spool_bytes_max: none_if_zero(spool.spool_size.0),
        message_bytes_max: flags.limits.max_message_size.0,
        keep_free_bytes: match spool.spool_keep_free {
            Some(bytes) => bytes.0,
            None => spool::keep_free_bytes(existing_part(dir)),
        },
        durability: spool.spool_durability.0,
    }
}

fn delivery(flags: &Delivery, tls: &Tls) -> delivery::Settings {
    let retry = |lifetime| RetryPolicy {
        min: flags.retry_min.0,
        max: flags.retry_max.0,
        lifetime,
        ..RetryPolicy::default()
    };
    let (lifetime, of_reports) = (flags.queue_lifetime.0, flags.bounce_lifetime.0);
    let levels = tls.tls_out_for.iter();
    let levels = levels.map(|entry| (entry.domain.clone(), entry.level));
    delivery::Settings {
        retry: retry(lifetime),
        // It is counted from the arrival of the mail, whose own lifetime may be over by the
        // time that a report is owed.
        report_retry: retry(lifetime.saturating_add(of_reports)),
        report_window: flags.report_window.0,
        recipients_per_transaction: flags.recipients_per_transaction as usize,
        transactions_per_connection: flags.max_deliveries_per_connection,
        unrecorded_max: gate::UNRECORDED_MAX,
        hand_over_delay: hand_over::HAND_OVER_DELAY,
        broken_tls_remembered: tls.tls_broken_for.0,
        levels: LevelTable::new(tls.tls_out, levels.collect()),
    }
}

fn schedule(flags: &Flags) -> next_hop::Settings {
    let delivery = &flags.delivery;
    next_hop::Settings {
        window_max: delivery.delivery_connections,
        connections_max: delivery.delivery_connections_total,
        idle_wait: delivery.idle_timeout.0,
        crowded_wait_max: flags.timeouts.crowded_timeout.0,
        ..next_hop::Settings::default()
    }
}

fn connections(flags: &Flags) -> connection::Settings {
    connection::Settings {
        timeouts: timeouts_out(&flags.timeouts),
        sends_sni: !flags.tls.no_sni,
        source_addresses: flags.delivery.source_address.clone(),
    }
}

fn timeouts_out(timeouts: &Timeouts) -> connection::Timeouts {
    connection::Timeouts {
        connect: timeouts.connect_timeout.0,
        greeting: timeouts.greeting_timeout.0,
        command: timeouts.reply_timeout.0,
        handshake: timeouts.handshake_timeout.0,
        data: timeouts.reply_timeout.0,
        block: timeouts.send_timeout.0,
        min_rate: min_rate(timeouts.min_send_rate, timeouts.send_timeout.0),
        final_dot: timeouts.final_reply_timeout.0,
        quit: connection::QUIT_TIMEOUT,
        crowded: timeouts.crowded_timeout.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches};

    fn looked_into(words: &[&str], surroundings: &Surroundings) -> Result<PathBuf, String> {
        let words = ["ringpost"].iter().chain(words);
        let matches = Flags::command().get_matches_from(words);
        spool_to_look_into(&Flags::from_arg_matches(&matches).unwrap(), surroundings)
    }

    #[test]
    fn the_spool_of_the_hosts_service_is_found_without_being_named() {
        let host = |own: bool, service: bool| Surroundings {
            state_dir: Some("/home/a/state".into()),
            state_is_at_home: true,
            has_own_spool: own,
            has_service_state: service,
            ..Surroundings::default()
        };
        let (own, service) = ("/home/a/state/spool", "/var/lib/ringpost/spool");
        let found = |host: &Surroundings| looked_into(&[], host);
        assert_eq!(found(&host(false, true)), Ok(service.into()));
        assert_eq!(found(&host(true, false)), Ok(own.into()));
        assert_eq!(found(&host(false, false)), Ok(own.into()));
        let both = found(&host(true, true)).unwrap_err();
        assert!(both.contains(own) && both.contains(service), "{both}");
        let named = looked_into(&["--spool", "/a"], &host(true, true));
        assert_eq!(named, Ok("/a".into()));
        let user = looked_into(&["--user", "mail"], &host(true, true));
        assert_eq!(user, Ok(service.into()));
        let by_systemd = Surroundings {
            state_is_at_home: false,
            ..host(true, true)
        };
        assert_eq!(found(&by_systemd), Ok(own.into()));
    }
}
