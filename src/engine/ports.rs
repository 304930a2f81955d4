//! Where the relay listens and connects from: bound at the start, and only judged by `--check`.

use super::placement::CoreSpec;
use super::{ErrorContext, StartError};
use crate::config::Config;
use crate::io::net::Bound;
use crate::io::{clock, handed_over};
use crate::policy::port::{Listening, Port};
use crate::privilege;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

/// How long a port that is taken is waited for, ...
const PREDECESSOR_WAIT: Duration = Duration::from_secs(3);
/// ... and how long between two looks.
const PREDECESSOR_PAUSE: Duration = Duration::from_millis(20);

/// A socket of that name (`FileDescriptorName=`) speaks TLS from the first byte.
const IMPLICIT_TLS_NAME: &str = "smtps";

/// The sockets of one core.
pub type Listeners = Vec<(Bound, Port)>;

/// For each ingress core its sockets. Those that a service manager hands over stand in the place of
/// all that the flags name.
pub fn bind(config: &Config, specs: &[CoreSpec]) -> Result<Vec<Listeners>, StartError> {
    let cores = specs.iter().filter(|spec| spec.ingress).count();
    let handed_over = handed_over::listeners().context("sockets of the service manager")?;
    match handed_over.is_empty() {
        true => bind_own(config, cores),
        false => distribute(&handed_over, cores),
    }
}

/// Fails as [`bind`] would, but binds no port: one that another process has is not noticed. A relay
/// that runs would be in the way of its own check.
pub fn check(config: &Config) -> Result<Vec<Listening>, StartError> {
    let handed_over = handed_over::listeners().context("sockets of the service manager")?;
    if !handed_over.is_empty() {
        let addresses = distribute(&handed_over, 1)?;
        return Ok(addresses_of(&addresses));
    }
    for Listening { address, .. } in config.listen.ports.iter().copied() {
        check_address(address)
            .and_then(|()| check_port(address.port()))
            .map_err(|error| unusable(address, &error))?;
    }
    Ok(config.listen.ports.clone())
}

/// Where the first core listens: all others do so too.
pub fn addresses_of(listeners: &[Listeners]) -> Vec<Listening> {
    let of_core = listeners.first().map(Vec::as_slice).unwrap_or_default();
    of_core
        .iter()
        .map(|(bound, port)| Listening {
            address: bound.address(),
            port: *port,
        })
        .collect()
}

/// Only now, with the spool recovered, somebody will answer soon.
pub fn listen(config: &Config, listeners: &[Listeners]) -> Result<(), StartError> {
    for (bound, _) in listeners.iter().flatten() {
        bound
            .listen(config.listen.backlog as i32)
            .map_err(|error| unusable(bound.address(), &error))?;
    }
    Ok(())
}

/// Connections can come from the addresses that `--source-address` names.
pub fn check_sources(config: &Config) -> Result<(), StartError> {
    for address in &config.connections.source_addresses {
        check_address(SocketAddr::new(*address, 0)).map_err(|error| {
            StartError(format!(
                "--source-address {address}: {}",
                Advice {
                    address: SocketAddr::new(*address, 0),
                    error: &error
                }
            ))
        })?;
    }
    Ok(())
}

/// All cores accept from the same queue: the ports may be out of our reach, so none gets one of
/// its own.
fn distribute(handed_over: &[(Bound, String)], cores: usize) -> Result<Vec<Listeners>, StartError> {
    let share = |(bound, name): &(Bound, String)| {
        let bound = bound
            .share()
            .context(format!("sharing {}", bound.address()))?;
        let port = match name == IMPLICIT_TLS_NAME {
            true => Port::SMTPS,
            false => Port::SMTP,
        };
        Ok((bound, port))
    };
    (0..cores)
        .map(|_| handed_over.iter().map(share).collect())
        .collect()
}

/// Every ingress core gets its own socket on each address.
fn bind_own(config: &Config, cores: usize) -> Result<Vec<Listeners>, StartError> {
    let mut cores: Vec<Listeners> = (0..cores).map(|_| Vec::new()).collect();
    for &Listening { address, port } in &config.listen.ports {
        wait_until_free(address).map_err(|error| unusable(address, &error))?;
        let mut address = address;
        for core in &mut cores {
            let bound = Bound::new(address).map_err(|error| unusable(address, &error))?;
            // With port 0 the kernel chooses once, and the other cores follow.
            address = bound.address();
            core.push((bound, port));
        }
    }
    Ok(cores)
}

/// A listener of a predecessor that was killed lives on until the kernel has taken its ring apart,
/// a moment after the process has gone; longer on a busy host.
fn wait_until_free(address: SocketAddr) -> io::Result<()> {
    let deadline = clock::now() + PREDECESSOR_WAIT;
    loop {
        match Bound::check_free(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && clock::now() < deadline => {
                thread::sleep(PREDECESSOR_PAUSE);
            }
            result => return result,
        }
    }
}

/// The address is one of this host: a port of the kernel's choice can be bound at it.
pub(super) fn check_address(mut address: SocketAddr) -> io::Result<()> {
    address.set_port(0);
    Bound::new(address).map(drop)
}

pub(super) fn check_port(port: u16) -> io::Result<()> {
    match privilege::may_bind(port) {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

pub(super) fn unusable(address: SocketAddr, error: &io::Error) -> StartError {
    StartError(format!(
        "listening on {address}: {}",
        Advice { address, error }
    ))
}

/// Why an address cannot be had, and what to do about it.
struct Advice<'a> {
    address: SocketAddr,
    error: &'a io::Error,
}

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.address.port();
        match self.error.kind() {
            io::ErrorKind::PermissionDenied if !privilege::may_bind(port) => write!(
                f,
                "this user may not use port {port}; give the relay the right to \
                 (AmbientCapabilities=CAP_NET_BIND_SERVICE in its unit, or setcap \
                 cap_net_bind_service=+ep on the program), start it as root with --user, or open \
                 the port to every user (sysctl net.ipv4.ip_unprivileged_port_start={port})"
            ),
            io::ErrorKind::AddrInUse => write!(
                f,
                "another process has this port; this shows which: ss -ltnp 'sport = :{port}'"
            ),
            io::ErrorKind::AddrNotAvailable => {
                let family = match self.address.ip() {
                    IpAddr::V4(_) => "ipv4",
                    IpAddr::V6(_) => "ipv6",
                };
                write!(
                    f,
                    "this host has no such address (ip address shows what it has); for one that \
                     comes later: sysctl net.{family}.ip_nonlocal_bind=1"
                )
            }
            _ => write!(f, "{}", self.error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(address: &str, error: io::ErrorKind) -> String {
        let error = &io::Error::from(error);
        let address = address.parse().unwrap();
        Advice { address, error }.to_string()
    }

    #[test]
    fn a_port_that_another_process_has_comes_with_the_way_to_find_it() {
        let text = advice("0.0.0.0:25", io::ErrorKind::AddrInUse);
        assert!(text.ends_with("ss -ltnp 'sport = :25'"), "{text}");
    }

    #[test]
    fn an_address_of_another_host_comes_with_what_to_look_at() {
        let text = advice("[2001:db8::1]:25", io::ErrorKind::AddrNotAvailable);
        assert!(text.contains("net.ipv6.ip_nonlocal_bind"), "{text}");
    }

    #[test]
    fn other_errors_stay_as_the_system_puts_them() {
        let text = advice("127.0.0.1:2525", io::ErrorKind::OutOfMemory);
        assert_eq!(text, "out of memory");
    }
}
