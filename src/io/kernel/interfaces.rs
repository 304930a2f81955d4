//! The addresses of this host.

use std::net::{IpAddr, UdpSocket};

/// Whether this host has that address. A socket that is connected to one has that very address itself. Connecting a
/// UDP socket sends nothing. Trying to bind instead would say yes to every address where `ip_nonlocal_bind` is set.
pub fn has(ip: IpAddr) -> bool {
    const ANY_PORT: u16 = 9;
    let unspecified: IpAddr = match ip {
        IpAddr::V4(_) => [0_u8; 4].into(),
        IpAddr::V6(_) => [0_u8; 16].into(),
    };
    let source = UdpSocket::bind((unspecified, 0)).and_then(|socket| {
        socket.connect((ip, ANY_PORT))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}
