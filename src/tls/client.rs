//! The sending side: TLS with whoever answers, and tickets for the next time.
//!
//! One [`ClientTls`] per core. Its tickets are kept per site, server name and use of SNI: two
//! sites may share a name, and a ticket must not say to one what was said to the other.

use std::cell::RefCell;
use std::sync::Arc;

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::cache::Generations;
use super::der::{self, KeyKind};
use super::error::SHORT_RSA_KEY;
use super::server_name::parse_server_name;
use super::session::{Session, TlsError};
use super::tickets::HostTickets;
use super::{Versions, provider};

/// Servers whose tickets are remembered, per core. Beyond it the least recently used are
/// forgotten, which costs them a full handshake. Typically 8 KB each.
pub const HOSTS_MAX: usize = 1024;

/// Some servers refuse a ClientHello that does not come in one segment: 1,460 bytes of TCP
/// payload, less the room for options. A ticket that makes the hello larger is not used.
pub const CLIENT_HELLO_BYTES_MAX: usize = 1380;

/// Stands in for names that cannot be a server name; never sent.
const NAMELESS: &str = "nameless.invalid";

/// The client configuration of one core.
pub struct ClientTls {
    base: ClientConfig,
    hosts: RefCell<Generations<HostKey, Host>>,
}

#[derive(PartialEq, Eq, Hash)]
struct HostKey {
    site: Box<str>,
    server_name: Box<str>,
    sni: bool,
}

#[derive(Clone)]
struct Host {
    config: Arc<ClientConfig>,
    tickets: Arc<HostTickets>,
    name: ServerName<'static>,
}

impl ClientTls {
    /// Errors: [`TlsError::Ours`], if rustls refuses the configuration.
    pub fn new(versions: Versions) -> Result<Self, TlsError> {
        let provider = provider();
        let verifier = Arc::new(AnyCertificate {
            algorithms: provider.signature_verification_algorithms,
        });
        // Before it resumes, rustls compares verifiers (and client certificates) by pointer: all
        // hosts share these.
        let base = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions.of_rustls())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(ClientTls {
            base,
            hosts: RefCell::new(Generations::new(HOSTS_MAX)),
        })
    }

    /// A session with `server_name`, an MX host's name or an address (brackets allowed), as
    /// reached for `site`. Send what [`Session::start`] says first.
    ///
    /// With `sni` the name is told to the server, unless it is an address or nothing that could
    /// be a host name. The certificate is not judged here, and no certificate makes the handshake
    /// fail; see [`super::policy::Judge`].
    pub fn connect(&self, site: &str, server_name: &str, sni: bool) -> Result<Session, TlsError> {
        let host = self.host(site, server_name, sni);
        let session = host.session()?;
        if session.hello_bytes() <= CLIENT_HELLO_BYTES_MAX {
            return Ok(session);
        }
        host.tickets.forget();
        host.session()
    }

    /// Forgets the tickets of a server: the next handshake with it is a full one.
    pub fn forget_tickets(&self, site: &str, server_name: &str, sni: bool) {
        self.host(site, server_name, sni).tickets.forget();
    }

    fn host(&self, site: &str, server_name: &str, sni: bool) -> Host {
        let key = HostKey {
            site: site.into(),
            server_name: server_name.into(),
            sni,
        };
        let mut hosts = self.hosts.borrow_mut();
        if let Some(host) = hosts.get(&key) {
            return host.clone();
        }
        let host = self.new_host(server_name, sni);
        hosts.insert(key, host.clone());
        host
    }

    fn new_host(&self, server_name: &str, sni: bool) -> Host {
        let name = parse_server_name(server_name);
        let tickets = Arc::new(HostTickets::default());
        let mut config = self.base.clone();
        config.enable_sni = sni && name.is_some();
        config.resumption = Resumption::store(tickets.clone());
        Host {
            config: Arc::new(config),
            tickets,
            name: name.unwrap_or_else(|| {
                ServerName::try_from(NAMELESS).expect("a constant that is a name")
            }),
        }
    }
}

impl Host {
    fn session(&self) -> Result<Session, TlsError> {
        let offers_ticket = self.tickets.is_any();
        let connection = UnbufferedClientConnection::new(self.config.clone(), self.name.clone())?;
        Session::client(connection, self.tickets.clone(), offers_ticket)
    }
}

/// Takes any certificate, but only from whoever holds its key.
///
/// webpki checks the signature wherever it can parse the certificate. Where it cannot (X.509 v1,
/// unknown critical extensions), and for RSA keys under 2,048 bits with TLS 1.2, the key comes
/// from [`der`]. Such certificates are never judged `Verified`, so a difference between the
/// two parsers cannot lend a good name to a wrong key.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyCertificate {
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
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms).or_else(|error| {
            verify_beyond_webpki(message, certificate, signed, tls12_algorithm)
                .ok_or_else(|| signature_error(certificate, signed, error))
        })
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms).or_else(|error| {
            verify_beyond_webpki(message, certificate, signed, tls13_algorithm)
                .ok_or_else(|| signature_error(certificate, signed, error))
        })
    }

    /// EC first: those handshakes cost the server a tenth of RSA. PKCS #1 (which TLS 1.3 ignores)
    /// before PSS, which ring refuses with keys under 2,048 bits.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
        ]
    }
}

/// A signature that ring cannot check is not a wrong one.
fn signature_error(
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    error: rustls::Error,
) -> rustls::Error {
    let is_pss = matches!(
        signed.scheme,
        SignatureScheme::RSA_PSS_SHA256
            | SignatureScheme::RSA_PSS_SHA384
            | SignatureScheme::RSA_PSS_SHA512
    );
    match der::fields(certificate).is_some_and(|fields| fields.key_kind.is_weak_rsa()) && is_pss {
        true => rustls::Error::General(SHORT_RSA_KEY.to_owned()),
        false => error,
    }
}

type Algorithm = &'static dyn VerificationAlgorithm;

/// For what webpki cannot do; `None` if it could, or if the signature is wrong.
fn verify_beyond_webpki(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithm: fn(SignatureScheme, KeyKind) -> Option<Algorithm>,
) -> Option<HandshakeSignatureValid> {
    let fields = der::fields(certificate)?;
    let parses = webpki::EndEntityCert::try_from(certificate).is_ok();
    if parses && !fields.key_kind.is_weak_rsa() {
        return None;
    }
    UnparsedPublicKey::new(algorithm(signed.scheme, fields.key_kind)?, fields.key)
        .verify(message, signed.signature())
        .ok()
        .map(|()| HandshakeSignatureValid::assertion())
}

/// RFC 8446 section 4.2.3: the scheme fixes the curve; PKCS #1 is not for handshakes.
fn tls13_algorithm(scheme: SignatureScheme, key: KeyKind) -> Option<Algorithm> {
    use KeyKind::{Ed25519, P256, P384, Rsa};
    use SignatureScheme as Scheme;
    Some(match (scheme, key) {
        (Scheme::ECDSA_NISTP256_SHA256, P256) => &signature::ECDSA_P256_SHA256_ASN1,
        (Scheme::ECDSA_NISTP384_SHA384, P384) => &signature::ECDSA_P384_SHA384_ASN1,
        (Scheme::ED25519, Ed25519) => &signature::ED25519,
        (Scheme::RSA_PSS_SHA256, Rsa { .. }) => &signature::RSA_PSS_2048_8192_SHA256,
        (Scheme::RSA_PSS_SHA384, Rsa { .. }) => &signature::RSA_PSS_2048_8192_SHA384,
        (Scheme::RSA_PSS_SHA512, Rsa { .. }) => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// RFC 5246 section 7.4.1.4.1: the scheme names a hash, the key its own curve.
fn tls12_algorithm(scheme: SignatureScheme, key: KeyKind) -> Option<Algorithm> {
    use KeyKind::{P256, P384, Rsa};
    use SignatureScheme as Scheme;
    Some(match (scheme, key) {
        (Scheme::ECDSA_NISTP256_SHA256, P384) => &signature::ECDSA_P384_SHA256_ASN1,
        (Scheme::ECDSA_NISTP384_SHA384, P256) => &signature::ECDSA_P256_SHA384_ASN1,
        (Scheme::RSA_PKCS1_SHA256, Rsa { .. }) => {
            &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY
        }
        (Scheme::RSA_PKCS1_SHA384, Rsa { .. }) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (Scheme::RSA_PKCS1_SHA512, Rsa { .. }) => {
            &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY
        }
        _ => return tls13_algorithm(scheme, key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_names_or_addresses() {
        let name = |text| parse_server_name(text).map(|name| name.to_str().into_owned());
        assert_eq!(name("Mx.Example.").as_deref(), Some("mx.example"));
        assert_eq!(
            name("under_score.example").as_deref(),
            Some("under_score.example")
        );
        assert_eq!(name("192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(name("[192.0.2.1]").as_deref(), Some("192.0.2.1"));
        assert_eq!(name("[IPv6:2001:db8::1]").as_deref(), Some("2001:db8::1"));
        for odd in ["", ".", "-", "a b", "mx..example", "täst.example", "[x]"] {
            assert_eq!(name(odd), None, "{odd}");
        }
    }

    #[test]
    fn odd_names_do_not_make_tls_impossible() {
        let client = ClientTls::new(Versions::default()).unwrap();
        for odd in [
            "",
            "a b",
            "mx..example",
            "täst.example",
            "192.0.2.1",
            "_x.example",
        ] {
            let mut hello = Vec::new();
            client.connect("site", odd, true).unwrap().start(&mut hello);
            assert!(!hello.is_empty());
            assert!(!hello.windows(7).any(|w| w == b"invalid"), "{odd}");
            assert!(!hello.windows(9).any(|w| w == b"192.0.2.1"), "{odd}");
        }
    }

    #[test]
    fn hello_fits_one_segment() {
        let client = ClientTls::new(Versions::default()).unwrap();
        let name = format!("{0}.{0}.{0}.example", "m".repeat(63));
        let mut hello = Vec::new();
        client
            .connect("site", &name, true)
            .unwrap()
            .start(&mut hello);
        assert!(hello.windows(name.len()).any(|w| w == name.as_bytes()));
        assert!(hello.len() < 600, "{} bytes", hello.len());
    }

    #[test]
    fn sni_can_be_switched_off() {
        let client = ClientTls::new(Versions::default()).unwrap();
        for sni in [false, true] {
            let mut hello = Vec::new();
            client
                .connect("site", "mx.example", sni)
                .unwrap()
                .start(&mut hello);
            assert_eq!(hello.windows(10).any(|w| w == b"mx.example"), sni);
        }
    }
}
