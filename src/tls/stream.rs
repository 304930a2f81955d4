//! A connection that may or may not be encrypted: a socket with a TLS session on it, or not yet.
//!
//! Promise: plaintext goes in and comes out; what arrived before a handshake never comes out after
//! it (RFC 3207 section 4.2), because nothing received is kept here but the TLS session's own
//! incomplete record.

use crate::io::net::Socket;
use crate::io::pool;
use crate::message::TlsSummary;
use crate::time::Now;
use crate::tls::session::{Session, TlsError};
use std::cell::Cell;
use std::fmt;
use std::io;

/// Most bytes that are read and thrown away for the sake of an orderly end.
const LINGER_BYTES_MAX: usize = 16 << 20;

/// Why a stream ended, by who ended it.
#[derive(Debug)]
pub enum StreamError {
    /// The deadline passed.
    TimedOut,
    /// The connection is gone: reset, broken pipe, unreachable.
    Gone(io::Error),
    /// The handshake or a record failed; the alert has been sent.
    Tls(TlsError),
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::TimedOut {
            StreamError::TimedOut
        } else {
            StreamError::Gone(error)
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::TimedOut => f.write_str("timed out"),
            StreamError::Gone(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the peer closed the connection")
            }
            StreamError::Gone(error) => write!(f, "connection lost: {error}"),
            StreamError::Tls(error) => write!(f, "{error}"),
        }
    }
}

/// What a receive brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    Bytes,
    /// The peer will send nothing more. `clean` tells whether TLS said so too (close_notify), and
    /// is always true without TLS.
    End {
        clean: bool,
    },
}

pub struct Stream {
    socket: Socket,
    tls: Option<Box<Session>>,
    /// Set once the end has been seen; bytes that came with it are handed out first.
    ended: Option<Received>,
    /// What TLS has to say and can say along with the next text: the end of a handshake, tickets.
    owed: Vec<u8>,
    failed_hello: u32,
}

impl Stream {
    pub fn new(socket: Socket) -> Self {
        Stream {
            socket,
            tls: None,
            ended: None,
            owed: Vec::new(),
            failed_hello: 0,
        }
    }

    /// [`Session::hello_fingerprint`] of the handshake that failed as a server.
    pub fn failed_hello(&self) -> u32 {
        self.failed_hello
    }

    /// When the next wait of this stream fails with [`StreamError::TimedOut`].
    pub fn set_deadline(&self, deadline: Now) {
        self.socket.set_deadline(deadline);
    }

    /// See [`Socket::set_deadlines`].
    pub fn set_deadlines(&self, deadline: Now, in_crowd: Now) {
        self.socket.set_deadlines(deadline, in_crowd);
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Appends to `plain` what the peer sent. Returns with bytes, or at the end of the stream.
    /// A `plain` without capacity is lent from the pool once there are bytes for it.
    pub async fn receive(&mut self, plain: &mut Vec<u8>) -> Result<Received, StreamError> {
        self.receive_offering(plain, |_| 0).await
    }

    /// The same, but offers what comes to `take` first, where it lies. `take` says how many octets
    /// it took; the rest is appended to `plain`, and from then on it must take none.
    pub async fn receive_offering(
        &mut self,
        plain: &mut Vec<u8>,
        mut take: impl FnMut(&[u8]) -> usize,
    ) -> Result<Received, StreamError> {
        if let Some(end) = self.ended {
            return Ok(end);
        }
        self.send_before_wait().await?;
        let has_come = Cell::new(false);
        let mut each = |text: &[u8]| {
            if !text.is_empty() {
                has_come.set(true);
                keep(&text[take(text)..], plain);
            }
        };
        loop {
            let received = match &mut self.tls {
                None => receive_plain(&self.socket, &mut each).await?,
                Some(tls) => receive_records(&self.socket, tls, &mut each, &mut self.owed).await?,
            };
            if received != Received::Bytes {
                self.ended = Some(received);
            }
            if has_come.get() {
                return Ok(Received::Bytes);
            }
            if let Some(end) = self.ended {
                return Ok(end);
            }
        }
    }

    /// Waits until the peer has sent something or ended the stream, and receives it: no bytes at
    /// all if that was TLS's own business. Dropping the future loses nothing.
    pub async fn receive_unasked(&mut self, plain: &mut Vec<u8>) -> Result<Received, StreamError> {
        self.socket.readable().await?;
        let mut each = |text: &[u8]| keep(text, plain);
        match &mut self.tls {
            None => Ok(receive_plain(&self.socket, &mut each).await?),
            Some(tls) => receive_records(&self.socket, tls, &mut each, &mut self.owed).await,
        }
    }

    /// Before a wait: what the peer needs in order to go on.
    async fn send_before_wait(&mut self) -> Result<(), StreamError> {
        if self.tls.as_ref().is_some_and(|tls| tls.owes_only_tickets()) {
            return Ok(());
        }
        Ok(send_owed(&self.socket, &mut self.owed).await?)
    }

    /// Sends `plain`, encrypted if TLS is on.
    pub async fn send(&mut self, plain: &[u8]) -> Result<(), StreamError> {
        self.send_both(plain, &[]).await
    }

    /// Sends `first` and then `second`, in one write if the socket has room for it.
    pub async fn send_both(&mut self, first: &[u8], second: &[u8]) -> Result<(), StreamError> {
        let Some(tls) = &mut self.tls else {
            return Ok(self.socket.send_both(first, second).await?);
        };
        let mut records = take_or_lend(&mut self.owed);
        let encrypted = tls
            .encrypt(first, &mut records)
            .and_then(|()| tls.encrypt(second, &mut records));
        let result = match encrypted {
            Ok(()) => self.socket.send_all(&records).await.map_err(Into::into),
            Err(error) => Err(StreamError::Tls(error)),
        };
        pool::give(records);
        result
    }

    /// The TLS session, if there is one: for the peer's certificates.
    pub fn session(&self) -> Option<&Session> {
        self.tls.as_deref()
    }

    /// Performs the handshake of `session` on this connection, with the deadline already set, and
    /// encrypts from then on. Application data that came with the peer's last flight is appended
    /// to `plain`. Our own last flight goes out with the next text, or before the next wait.
    pub async fn handshake(
        &mut self,
        session: Session,
        plain: &mut Vec<u8>,
    ) -> Result<TlsSummary, StreamError> {
        let mut tls = Box::new(session);
        if let Err(error) = self.shake_hands(&mut tls, plain).await {
            self.failed_hello = tls.hello_fingerprint();
            return Err(error);
        }
        let summary = tls
            .summary()
            .ok_or(StreamError::Gone(io::ErrorKind::InvalidData.into()))?;
        self.tls = Some(tls);
        Ok(summary)
    }

    async fn shake_hands(
        &mut self,
        tls: &mut Session,
        plain: &mut Vec<u8>,
    ) -> Result<(), StreamError> {
        tls.start(&mut self.owed);
        let mut each = |text: &[u8]| keep(text, plain);
        while tls.is_handshaking() {
            let sent = send_owed(&self.socket, &mut self.owed).await;
            let received = receive_records(&self.socket, tls, &mut each, &mut self.owed).await;
            // Who closes before our flight has come may have said why.
            let received = match (sent, received) {
                (Err(gone), Ok(_) | Err(StreamError::Gone(_))) => return Err(gone.into()),
                (_, received) => received?,
            };
            if received != Received::Bytes {
                return Err(StreamError::Gone(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }

    /// Sends `last_words`, which may be empty, with a close_notify if TLS is on, and closes.
    /// For a peer that has nothing left to say: bytes unread would turn the end into a reset.
    pub async fn close(&mut self, last_words: &[u8]) {
        self.send_close(last_words).await;
    }

    /// The same for a peer that may still be sending: reads on until it stops, the deadline or a
    /// bound. A close with bytes unread would send a reset, which may destroy our last words
    /// before the peer has read them.
    pub async fn linger(&mut self, last_words: &[u8], deadline: Now) {
        self.socket.set_deadline(deadline);
        self.send_close(last_words).await;
        self.socket.finish_sending();
        let mut left = LINGER_BYTES_MAX;
        while let Ok(received @ 1..) = self.socket.receive_with(|bytes| bytes.len()).await {
            left = left.saturating_sub(received);
            if left == 0 {
                return;
            }
        }
    }

    async fn send_close(&mut self, last_words: &[u8]) {
        let Some(tls) = &mut self.tls else {
            let _ = self.socket.send_all(last_words).await;
            return;
        };
        let mut records = take_or_lend(&mut self.owed);
        // A failure has left its alert in `records`, and nothing else to be said.
        let _ = tls.encrypt(last_words, &mut records);
        tls.close(&mut records);
        let _ = self.socket.send_all(&records).await;
        pool::give(records);
    }
}

/// What is in `owed`, or an empty vector with room.
fn take_or_lend(owed: &mut Vec<u8>) -> Vec<u8> {
    match owed.is_empty() {
        true => pool::take(),
        false => std::mem::take(owed),
    }
}

async fn send_owed(socket: &Socket, owed: &mut Vec<u8>) -> io::Result<()> {
    if owed.is_empty() {
        return Ok(());
    }
    let owed = std::mem::take(owed);
    let sent = socket.send_all(&owed).await;
    pool::give(owed);
    sent
}

/// What a receive hands its text to.
type Each<'a> = &'a mut dyn FnMut(&[u8]);

fn keep(text: &[u8], plain: &mut Vec<u8>) {
    if text.is_empty() {
        return;
    }
    if plain.capacity() == 0 {
        *plain = pool::take();
    }
    plain.extend_from_slice(text);
}

async fn receive_plain(socket: &Socket, each: Each<'_>) -> io::Result<Received> {
    socket
        .receive_with(|bytes| {
            each(bytes);
            match bytes.is_empty() {
                true => Received::End { clean: true },
                false => Received::Bytes,
            }
        })
        .await
}

/// Receives once and lets the session answer into `owed`. `Bytes` may have brought no plaintext.
async fn receive_records(
    socket: &Socket,
    tls: &mut Session,
    each: Each<'_>,
    owed: &mut Vec<u8>,
) -> Result<Received, StreamError> {
    let result = socket
        .receive_with(|cipher| {
            if cipher.is_empty() {
                return Ok(Received::End { clean: false });
            }
            let progress = tls.receive_with(cipher, each, owed)?;
            Ok(match progress.peer_closed {
                true => Received::End { clean: true },
                false => Received::Bytes,
            })
        })
        .await?;
    result.map_err(|error| {
        // The alert.
        let _ = socket.send_now(owed);
        owed.clear();
        StreamError::Tls(error)
    })
}
