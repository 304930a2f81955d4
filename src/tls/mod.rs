//! TLS on both sides: sessions without sockets, certificates, and what to think of a peer's.
//!
//! Promise: opportunistic TLS never ends in plaintext because of a certificate. Whether a
//! certificate is good is judged after every handshake, by [`policy`]; that the peer holds its
//! key is checked within every full handshake, whatever the certificate looks like.
//! Not here: sockets, timeouts, the decision to fall back to plaintext.
//!
//! This is the only room that names rustls, webpki and rcgen, and the only one that uses ring for more than the nonces of
//! the spool.

mod cache;
pub mod certificate;
pub mod client;
mod der;
mod error;
pub mod failures;
mod hello;
pub mod levels;
pub mod policy;
pub mod server;
mod server_name;
pub mod session;
pub mod stream;
pub mod terms;
#[cfg(test)]
mod tests;
pub mod tickets;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
use rustls::version::{TLS12, TLS13};

pub use certificate::{CertificateError, Origin, ServerKeys};
pub use client::ClientTls;
pub use levels::LevelTable;
pub use policy::{Judge, TlsLevel, TrustAnchors};
pub use server::ServerTls;
pub use session::{Progress, Session, TlsError};

/// Which certificates clients are shown, and which those of next hops lead to.
#[derive(Clone, Debug)]
pub struct Settings {
    pub certificates: Certificates,
    /// PEM. `None`: the roots of the system.
    pub roots: Option<PathBuf>,
    /// The roots of the system are not trusted.
    pub only_roots: bool,
}

/// Where the certificates for clients come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificates {
    /// In the order of preference; none: the generated one is for all clients.
    pub given: Vec<CertificateFiles>,
    /// Where one is kept that is generated once, for clients that can use none of those given. `None`, beside
    /// given ones only: no state directory is known.
    pub kept_in: Option<PathBuf>,
}

/// PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// The protocol versions that one side is willing to speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Versions {
    #[default]
    Tls12AndTls13,
    Tls12Only,
    Tls13Only,
}

impl Versions {
    fn of_rustls(self) -> &'static [&'static SupportedProtocolVersion] {
        const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
        match self {
            Versions::Tls12AndTls13 => BOTH,
            Versions::Tls12Only => &BOTH[1..],
            Versions::Tls13Only => &BOTH[..1],
        }
    }
}

/// ring with AES-128-GCM first: the fastest suite wherever the CPU has AES instructions. No
/// post-quantum group: ring has none, and the ClientHello has to fit one segment.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = default_provider();
    provider.cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    provider.kx_groups = vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    Arc::new(provider)
}
