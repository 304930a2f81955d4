//! What a listening port is for.

use std::net::SocketAddr;

/// The same on every core, and for as long as the relay runs. Travels with each connection to its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port {
    pub tls: PortTls,
}

/// When TLS begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortTls {
    /// With STARTTLS (RFC 3207), if the relay offers that.
    StartTls,
    /// With the first byte (RFC 8314 section 3.3).
    Implicit,
}

impl Port {
    /// A port for SMTP with STARTTLS.
    pub const SMTP: Port = Port {
        tls: PortTls::StartTls,
    };

    /// A port for SMTP within TLS.
    pub const SMTPS: Port = Port {
        tls: PortTls::Implicit,
    };

    pub fn has_implicit_tls(self) -> bool {
        self.tls == PortTls::Implicit
    }
}

/// A port and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listening {
    pub address: SocketAddr,
    pub port: Port,
}
