//! One connection, plaintext or TLS.
//!
//! Promise: what is written is handed to the kernel before `write` returns.
//! Not here: SMTP.

pub mod tls;

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::wire::tls::SERVER_NAME;

/// rustls reads 4 KB at a time; with this in between, a message is one system call instead of three.
const SERVER_READ_BYTES: usize = 32 << 10;
/// The client only reads replies.
const CLIENT_READ_BYTES: usize = 4 << 10;

type Tls = TlsStream<BufReader<TcpStream>>;

pub enum Wire {
    Plain(TcpStream),
    Tls(Box<Tls>),
    /// Where a failed handshake leaves it.
    Broken,
}

impl Wire {
    /// Reads some bytes; 0 at the end of the stream, however it was ended.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
            Self::Broken => return Err(io::ErrorKind::NotConnected.into()),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }

    /// Hands everything to the kernel.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
            Self::Broken => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Says goodbye (close_notify, FIN).
    pub async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
            Self::Broken => Ok(()),
        }
    }

    /// The client's handshake. Afterwards the wire is TLS, or broken.
    pub async fn connect_tls(&mut self, config: Arc<ClientConfig>) -> io::Result<HandshakeKind> {
        let stream = self.take_plain(CLIENT_READ_BYTES)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(self.become_tls(stream.into()))
    }

    /// The server's handshake. Afterwards the wire is TLS, or broken.
    pub async fn accept_tls(&mut self, config: Arc<ServerConfig>) -> io::Result<HandshakeKind> {
        let stream = self.take_plain(SERVER_READ_BYTES)?;
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        Ok(self.become_tls(stream.into()))
    }

    fn take_plain(&mut self, read_bytes: usize) -> io::Result<BufReader<TcpStream>> {
        match std::mem::replace(self, Self::Broken) {
            Self::Plain(stream) => Ok(BufReader::with_capacity(read_bytes, stream)),
            _ => Err(io::Error::other("TLS within TLS")),
        }
    }

    fn become_tls(&mut self, stream: Tls) -> HandshakeKind {
        let kind = stream
            .get_ref()
            .1
            .handshake_kind()
            .unwrap_or(HandshakeKind::Full);
        *self = Self::Tls(Box::new(stream));
        kind
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}
