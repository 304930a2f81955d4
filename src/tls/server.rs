//! The receiving side: one configuration per core, over keys that all cores share.

use std::sync::Arc;

use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection,
};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig, SignatureScheme};

use super::certificate::ServerKeys;
use super::session::{Session, TlsError};
use super::{Versions, provider};

/// Each costs 3.2 us to make; a mail client opens one connection after the other.
const TICKETS_PER_HANDSHAKE: usize = 1;

/// The server configuration of one core.
///
/// TLS 1.3 and 1.2, our order of cipher suites, no client certificate asked for, no early data,
/// no ALPN. Resumption is by ticket only, for either version, so nothing is stored per client.
/// The ticket keys are behind a read-write lock that every core shares: reading it cost less than
/// 1 % of a handshake with two cores, and it is written twice a day.
pub struct ServerTls {
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Sessions that exist keep the keys that they began with. In the place of an older one, give keys that went through
    /// [`ServerKeys::keeping_tickets_of`], or clients have to do a full handshake again.
    ///
    /// Errors: [`TlsError::Ours`], if rustls refuses the configuration.
    pub fn new(keys: &ServerKeys, versions: Versions) -> Result<Self, TlsError> {
        Ok(ServerTls {
            config: config(keys, versions)?,
        })
    }

    /// A session for a connection that is about to start TLS.
    pub fn accept(&self) -> Result<Session, TlsError> {
        let connection = UnbufferedServerConnection::new(self.config.clone())?;
        Ok(Session::server(connection))
    }
}

/// The certificates, in the order of preference; at least one.
#[derive(Debug)]
struct Choice(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Choice {
    /// The first that the client can use; the first of all if it can use none, so that the failure says why.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Only those that fit a cipher suite in common.
        let offered = hello.signature_schemes();
        if self.0.len() > 1 && hello.cipher_suites().iter().any(is_of_tls13) {
            let usable: Vec<_> = offered.iter().copied().filter(is_of_tls13_too).collect();
            if let Some(key) = self.first_for(&usable) {
                return Some(key);
            }
        }
        self.first_for(offered).or_else(|| self.0.first().cloned())
    }
}

impl Choice {
    fn first_for(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut keys = self.0.iter();
        keys.find(|own| own.key.choose_scheme(schemes).is_some())
            .cloned()
    }
}

fn is_of_tls13(suite: &CipherSuite) -> bool {
    u16::from(*suite) >> 8 == 0x13
}

/// RFC 8446 section 4.2.3: PKCS #1 signs certificates only.
fn is_of_tls13_too(scheme: &SignatureScheme) -> bool {
    !matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}

fn config(keys: &ServerKeys, versions: Versions) -> Result<Arc<ServerConfig>, TlsError> {
    let resolver = Choice(keys.certified_keys());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions.of_rustls())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.ignore_client_order = true;
    config.ticketer = keys.ticketer();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}
