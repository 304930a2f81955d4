//! TLS configurations of both sides. The source believes any certificate: it measures a relay, it
//! does not authenticate one. Not here: sockets.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    version,
};

use crate::options::source::{Cipher, Handshakes, SourceOptions, TlsVersion};

/// The name that the source asks for (SNI).
pub const SERVER_NAME: &str = "relay.test";
/// Tickets that one connection slot of the source remembers.
const TICKETS_MAX: usize = 8;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A server with a fresh self-signed EC P-256 certificate. With `tickets` it gives one stateless
/// ticket per handshake.
pub fn server_config(tickets: bool) -> Result<Arc<ServerConfig>, Failure> {
    let certified = rcgen::generate_simple_self_signed(vec!["sink.test".to_string()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
        certified.signing_key.serialize_der(),
    ));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    if tickets {
        config.ticketer = ring::Ticketer::new()?;
        config.send_tls13_tickets = 1;
    }
    Ok(Arc::new(config))
}

/// The source's side. Each connection slot gets its own copy, hence its own tickets.
pub fn client_config(options: &SourceOptions) -> Result<Arc<ClientConfig>, Failure> {
    const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
    let versions = match options.source_tls_version {
        TlsVersion::V12 => &BOTH[1..],
        TlsVersion::V13 => BOTH,
    };
    let mut config = believing(options.source_cipher, versions, false)?;
    config.resumption = match options.handshakes {
        Handshakes::Full => Resumption::disabled(),
        Handshakes::Resumed => Resumption::in_memory_sessions(TICKETS_MAX),
    };
    Ok(Arc::new(config))
}

/// The proxy's side: TLS 1.3, always a full handshake. Unlike the source's it checks the handshake's
/// signature, as every client does, though not whose the certificate is.
pub fn floor_client_config() -> Result<Arc<ClientConfig>, Failure> {
    let mut config = believing(Cipher::Aes128, &[&version::TLS13], true)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn believing(
    cipher: Cipher,
    versions: &[&'static SupportedProtocolVersion],
    checks_signatures: bool,
) -> Result<ClientConfig, rustls::Error> {
    let provider = provider(cipher);
    let verifier = Believe {
        algorithms: provider.signature_verification_algorithms,
        checks_signatures,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

/// ring, with the ciphers in the order of preference.
fn provider(cipher: Cipher) -> CryptoProvider {
    let mut provider = ring::default_provider();
    // Stable, and the default order has AES-256 first.
    provider.cipher_suites.sort_by_key(|suite| {
        let is_aes128 = format!("{:?}", suite.suite()).contains("AES_128");
        cipher == Cipher::Aes128 && !is_aes128
    });
    provider
}

/// Whosever the certificate is, it is believed.
#[derive(Debug)]
struct Believe {
    algorithms: WebPkiSupportedAlgorithms,
    /// If not, neither chain nor signature is looked at, which keeps a source cheap.
    checks_signatures: bool,
}

impl ServerCertVerifier for Believe {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.checks_signatures {
            true => verify_tls12_signature(message, cert, dss, &self.algorithms),
            false => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.checks_signatures {
            true => verify_tls13_signature(message, cert, dss, &self.algorithms),
            false => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
