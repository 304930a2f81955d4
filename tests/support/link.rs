//! One TCP connection, with or without TLS on it: lines in, bytes out.

use super::PATIENCE;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, HandshakeKind,
    RootCertStore, ServerConfig, ServerConnection, SignatureScheme, SupportedProtocolVersion,
};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};

static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    server(&[&TLS13, &TLS12], |_| {
        WebPkiClientVerifier::no_client_auth()
    })
});

static SERVER_OF_TLS12: LazyLock<Arc<ServerConfig>> =
    LazyLock::new(|| server(&[&TLS12], |_| WebPkiClientVerifier::no_client_auth()));

/// Wants a certificate that no client has.
static SERVER_FOR_KNOWN_CLIENTS: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    server(&[&TLS13, &TLS12], |own| {
        let mut roots = RootCertStore::empty();
        roots.add(own.clone()).expect("a certificate");
        let provider = Arc::new(default_provider());
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .expect("there is a root")
    })
});

/// With a certificate that nobody trusts.
fn server(
    versions: &[&'static SupportedProtocolVersion],
    clients: impl Fn(&CertificateDer<'static>) -> Arc<dyn ClientCertVerifier>,
) -> Arc<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["hop.test".to_owned()]).expect("a key");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let own = made.cert.der().clone();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .expect("known versions")
        .with_client_cert_verifier(clients(&own))
        .with_single_cert(vec![own], key)
        .expect("a good certificate");
    Arc::new(config)
}

static CLIENT: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    // A session that resumes shows the certificate of the first one.
    config.resumption = Resumption::disabled();
    Arc::new(config)
});

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

pub struct Link {
    socket: TcpStream,
    tls: Option<Connection>,
    /// Received and not yet read.
    plain: Vec<u8>,
    ended: bool,
}

impl Link {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect_timeout(&address, PATIENCE)?)
    }

    pub fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        Ok(Link {
            socket,
            tls: None,
            plain: Vec::new(),
            ended: false,
        })
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub fn is_resumed(&self) -> bool {
        let kind = self.tls.as_ref().and_then(|tls| tls.handshake_kind());
        kind == Some(HandshakeKind::Resumed)
    }

    /// The certificate that the server has shown.
    pub fn peer_certificate(&self) -> Vec<u8> {
        let tls = self.tls.as_ref().expect("TLS is on");
        tls.peer_certificates().expect("a certificate")[0].to_vec()
    }

    /// The handshake as client. `early` goes into the same segment as our Finished.
    pub fn start_tls_as_client(&mut self, early: &[u8]) -> io::Result<()> {
        let name = ServerName::try_from("relay.test").expect("a name");
        let client = ClientConnection::new(CLIENT.clone(), name).map_err(io::Error::other)?;
        self.handshake(client.into(), early)
    }

    pub fn start_tls_as_server(&mut self) -> io::Result<()> {
        self.serve_tls(&SERVER)
    }

    pub fn start_tls12_as_server(&mut self) -> io::Result<()> {
        self.serve_tls(&SERVER_OF_TLS12)
    }

    /// Fails, with an alert to the client, after the client's last flight.
    pub fn start_tls_for_known_clients(&mut self) -> io::Result<()> {
        self.serve_tls(&SERVER_FOR_KNOWN_CLIENTS)
    }

    fn serve_tls(&mut self, config: &Arc<ServerConfig>) -> io::Result<()> {
        let server = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        self.handshake(server.into(), b"")
    }

    fn handshake(&mut self, mut tls: Connection, early: &[u8]) -> io::Result<()> {
        // What was there before belongs to nobody.
        self.plain.clear();
        tls.writer().write_all(early)?;
        while tls.is_handshaking() || tls.wants_write() {
            while tls.wants_write() {
                let mut flight = Vec::new();
                while tls.wants_write() {
                    tls.write_tls(&mut flight)?;
                }
                self.socket.write_all(&flight)?;
            }
            if tls.is_handshaking() {
                if tls.read_tls(&mut self.socket)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if let Err(error) = tls.process_new_packets() {
                    let mut alert = Vec::new();
                    while tls.wants_write() {
                        tls.write_tls(&mut alert)?;
                    }
                    self.socket.write_all(&alert)?;
                    return Err(io::Error::other(error));
                }
            }
        }
        self.tls = Some(tls);
        self.take_plain()
    }

    /// Sends all of it in as few segments as possible.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return self.socket.write_all(bytes);
        };
        for piece in bytes.chunks(16 * 1024) {
            tls.writer().write_all(piece)?;
            let mut records = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut records)?;
            }
            self.socket.write_all(&records)?;
        }
        Ok(())
    }

    fn take_plain(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        let mut piece = [0; 16 * 1024];
        loop {
            match tls.reader().read(&mut piece) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(());
                }
                Ok(read) => self.plain.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives something more; false at the end of the stream.
    pub fn receive(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        match &mut self.tls {
            None => {
                let mut piece = [0; 16 * 1024];
                let read = self.socket.read(&mut piece)?;
                self.plain.extend_from_slice(&piece[..read]);
                self.ended = read == 0;
            }
            Some(tls) => {
                if tls.read_tls(&mut self.socket)? == 0 {
                    self.ended = true;
                }
                tls.process_new_packets().map_err(io::Error::other)?;
                self.take_plain()?;
            }
        }
        Ok(!self.ended)
    }

    /// The next line without its CRLF; `None` at the end of the stream.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.plain.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.plain.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line);
                return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
            }
            if self.ended || (!self.receive()? && self.plain.is_empty()) {
                return Ok(None);
            }
        }
    }

    /// Everything up to and including `end`.
    pub fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            let from = searched.min(self.plain.len());
            if let Some(at) = memchr::memmem::find(&self.plain[from..], end) {
                return Ok(self.plain.drain(..from + at + end.len()).collect());
            }
            searched = self.plain.len().saturating_sub(end.len());
            if !self.receive()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub fn exactly(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.plain.len() < bytes {
            if !self.receive()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.plain.drain(..bytes).collect())
    }

    pub fn finish_sending(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO));
    }
}
