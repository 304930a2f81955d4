//! The receiving side: one configuration per core, over keys that all cores share.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::SingleCertAndKey;

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
    versions: Versions,
}

impl ServerTls {
    /// Errors: [`TlsError::Ours`], if rustls refuses the configuration.
    pub fn new(keys: &ServerKeys, versions: Versions) -> Result<Self, TlsError> {
        Ok(ServerTls {
            config: config(keys, versions)?,
            versions,
        })
    }

    /// A session for a connection that is about to start TLS.
    pub fn accept(&self) -> Result<Session, TlsError> {
        let connection = UnbufferedServerConnection::new(self.config.clone())?;
        Ok(Session::server(connection))
    }

    /// Uses other keys from the next [`ServerTls::accept`] on; sessions that exist go on with
    /// theirs. Give keys that went through [`ServerKeys::keeping_tickets_of`], or clients have to
    /// do a full handshake again.
    pub fn replace(&mut self, keys: &ServerKeys) -> Result<(), TlsError> {
        self.config = config(keys, self.versions)?;
        Ok(())
    }
}

fn config(keys: &ServerKeys, versions: Versions) -> Result<Arc<ServerConfig>, TlsError> {
    let resolver = SingleCertAndKey::from(keys.certified_key());
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
