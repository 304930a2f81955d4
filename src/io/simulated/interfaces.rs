//! The addresses of the relay's host.

use std::net::IpAddr;

/// Whether the host has that address: the loopback alone. All others are of the hosts around it.
pub fn has(ip: IpAddr) -> bool {
    ip.is_loopback()
}
