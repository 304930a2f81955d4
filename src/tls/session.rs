//! One TLS connection as a machine: bytes in, bytes out, no socket.
//!
//! Built on the unbuffered interface of rustls: the ciphertext stays in a buffer that the whole
//! thread shares, and only an incomplete record is kept here, so an idle session is small.
//! Whether the end of the stream without a close_notify matters is for the caller to judge: SMTP
//! says where a message ends.

use std::fmt;
use std::mem;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedConnectionCommon,
    UnbufferedStatus, WriteTraffic,
};
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};
use rustls_pki_types::CertificateDer;

pub use super::error::TlsError;
use super::hello::{HELLO_KEPT_BYTES_MAX, fingerprint};
use super::tickets::HostTickets;
use crate::io::{PAGE_BYTES, page_offset};
use crate::message::{CertificateVerdict, TlsSummary};

/// The plaintext of one record (RFC 8446 section 5.1).
pub const RECORD_PLAIN_BYTES_MAX: usize = 16 * 1024;

/// Header, explicit nonce (TLS 1.2), content type (TLS 1.3) and tag of one record; rounded up.
pub const RECORD_OVERHEAD_BYTES_MAX: usize = 32;

const RECORD_HEADER_BYTES: usize = 5;

/// A fatal alert in a record of its own (RFC 5246 section 7.2), before anything is encrypted: rustls says none where
/// nothing that our key can sign is taken.
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// A TLS 1.2 record may carry 2,048 bytes more than its plaintext (RFC 5246 section 6.2.3).
const RECORD_WIRE_BYTES_MAX: usize = RECORD_HEADER_BYTES + RECORD_PLAIN_BYTES_MAX + 2048;

/// Unfinished input of a session at rest, and of a client that says hello to us: one record.
/// The largest hello seen in the field is a tenth of that.
pub const UNREAD_BYTES_MAX: usize = RECORD_WIRE_BYTES_MAX + 2048;

/// Unfinished input while a server sends us its certificates: one handshake message of 64 KB
/// (the most that rustls takes) in records of reasonable size.
pub const UNREAD_BYTES_MAX_CONNECTING: usize = 64 * 1024 + RECORD_WIRE_BYTES_MAX + 2048;

/// What one call of [`Session::receive`] brought, besides bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The handshake was finished by this call. Plaintext may have come with it.
    pub handshake_done_now: bool,
    /// The peer sent close_notify: no plaintext will follow. We may still send.
    pub peer_closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Handshaking,
    Open,
    /// The peer sent close_notify; we have not.
    PeerClosed,
    /// We sent close_notify; whatever still comes is dropped.
    Closed,
    Failed,
}

enum Side {
    Client(Box<UnbufferedClientConnection>, Arc<HostTickets>),
    Server(Box<UnbufferedServerConnection>),
}

/// One TLS connection, either side. Costs about 3 KB when idle.
pub struct Session {
    side: Side,
    phase: Phase,
    /// Ciphertext whose record or handshake message is not complete yet; may be decrypted in
    /// part. Starts at the start of a record. Has no allocation when empty.
    unread: Vec<u8>,
    /// On a client the ClientHello until `start`; on a server what came first, until the handshake is done.
    hello: Vec<u8>,
    offers_ticket: bool,
}

impl Session {
    pub(super) fn client(
        connection: UnbufferedClientConnection,
        tickets: Arc<HostTickets>,
        offers_ticket: bool,
    ) -> Result<Self, TlsError> {
        let mut session = Session {
            side: Side::Client(Box::new(connection), tickets),
            phase: Phase::Handshaking,
            unread: Vec::new(),
            hello: Vec::new(),
            offers_ticket,
        };
        let mut hello = Vec::new();
        session.receive(&mut [], &mut Vec::new(), &mut hello)?;
        session.hello = hello;
        Ok(session)
    }

    pub(super) fn server(connection: UnbufferedServerConnection) -> Self {
        Session {
            side: Side::Server(Box::new(connection)),
            phase: Phase::Handshaking,
            unread: Vec::new(),
            hello: Vec::new(),
            offers_ticket: false,
        }
    }

    /// On a server whose handshake is not done: what the client's hello offers, as one number that a
    /// client repeats.
    pub fn hello_fingerprint(&self) -> u32 {
        fingerprint(&self.hello)
    }

    /// True on a client that had a ticket of the server: the handshake is to resume a session, and if it
    /// fails a full one may not.
    pub fn offers_ticket(&self) -> bool {
        self.offers_ticket
    }

    /// The size of the ClientHello that `start` will send, with its record header.
    pub(super) fn hello_bytes(&self) -> usize {
        self.hello.len()
    }

    /// Appends the ClientHello to `out`. Once, before anything is received; a server's session
    /// has nothing to say first.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        out.append(&mut mem::take(&mut self.hello));
    }

    /// Takes ciphertext that has just arrived; `cipher` is scratch and is left in disorder.
    ///
    /// Appends what it decrypts to `plain`, which grows by no more than `cipher.len()` and one record. Else like
    /// [`Session::receive_with`].
    pub fn receive(
        &mut self,
        cipher: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Progress, TlsError> {
        self.receive_with(cipher, &mut |text| plain.extend_from_slice(text), out)
    }

    /// Takes ciphertext that has just arrived; `cipher` is scratch and is left in disorder.
    ///
    /// Hands what it decrypts to `each`, record by record, and appends whatever must be sent to `out`: handshake
    /// flights, tickets. (The answer to a key update goes out with the next text.) All input is consumed; an incomplete record is
    /// kept, within [`UNREAD_BYTES_MAX`] ([`UNREAD_BYTES_MAX_CONNECTING`] for a client during the
    /// handshake).
    ///
    /// On an error the alert that the peer should see is in `out`: send it, then close. What was
    /// decrypted before the error has been handed out. Later calls fail with [`TlsError::NotOpen`].
    ///
    /// After [`Session::close`], and after the peer's close_notify, input is dropped unread
    /// (RFC 8446 section 6.1).
    pub fn receive_with(
        &mut self,
        cipher: &mut [u8],
        each: &mut dyn FnMut(&[u8]),
        out: &mut Vec<u8>,
    ) -> Result<Progress, TlsError> {
        match self.phase {
            Phase::Handshaking | Phase::Open => {}
            Phase::PeerClosed | Phase::Closed => return Ok(self.at_rest()),
            Phase::Failed => return Err(TlsError::NotOpen),
        }
        let mut sink = Sink {
            each,
            out,
            peer_closed: false,
        };
        if self.phase == Phase::Handshaking && matches!(self.side, Side::Server(_)) {
            let room = HELLO_KEPT_BYTES_MAX - self.hello.len();
            self.hello
                .extend_from_slice(&cipher[..cipher.len().min(room)]);
        }
        let unread = &mut self.unread;
        let fed = match &mut self.side {
            Side::Client(connection, _) => feed(&mut ***connection, unread, cipher, &mut sink),
            Side::Server(connection) => feed(&mut ***connection, unread, cipher, &mut sink),
        };
        let peer_closed = sink.peer_closed;
        if let Err(error) = fed {
            return Err(self.fail(error.into(), out));
        }
        if peer_closed {
            self.phase = Phase::PeerClosed;
            self.unread = Vec::new();
            return Ok(self.at_rest());
        }
        let handshake_done_now = self.phase == Phase::Handshaking && !self.is_handshaking();
        if handshake_done_now {
            self.phase = Phase::Open;
            self.hello = Vec::new();
            self.bound_tickets();
        }
        if self.unread.len() > self.unread_bytes_max() {
            return Err(self.fail(TlsError::TooMuchUnfinished, out));
        }
        Ok(Progress {
            handshake_done_now,
            peer_closed: false,
        })
    }

    /// Encrypts all of `plain` into records of 16 KB and appends them to `out`. An answer to a
    /// key update that is due goes first.
    ///
    /// rustls copies each record's plaintext into memory of its own before it encrypts in place.
    /// That copy is slow (the whole call takes 2.4 to 2.8 times as long, on Zen 4 with the
    /// `rep movsb` of glibc) when the text starts on a page boundary, as it does in what was read
    /// from disk: then a shorter first record lets the others start [`PLAIN_OFFSET_BYTES`] past
    /// one. Where `out` lies makes no difference. Few large calls are cheaper than many small
    /// ones: each makes at least one record.
    ///
    /// Errors: [`TlsError::NotOpen`] before the handshake is done, after [`Session::close`] or a
    /// failure; [`TlsError::Ours`] when the keys may not be used any more (TLS 1.2, after 2^24
    /// records).
    pub fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        if !matches!(self.phase, Phase::Open | Phase::PeerClosed) {
            return Err(TlsError::NotOpen);
        }
        if plain.is_empty() {
            return Ok(());
        }
        let (first, others) = plain.split_at(first_record_bytes(plain));
        self.write(out, &Write::Traffic(first))?;
        match others.is_empty() {
            true => Ok(()),
            false => self.write(out, &Write::Traffic(others)),
        }
    }

    /// Appends a close_notify to `out`, once, if the handshake is done. Nothing can be sent or
    /// received afterwards.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if matches!(self.phase, Phase::Open | Phase::PeerClosed) {
            // A failure leaves nothing to be said: the connection ends either way.
            let _ = self.write(out, &Write::CloseNotify);
        }
        if self.phase != Phase::Failed {
            self.phase = Phase::Closed;
        }
        self.unread = Vec::new();
    }

    pub fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// True if no peer waits for what [`Session::receive`] has left to send: a server's tickets
    /// after a handshake of TLS 1.3. In every other case the peer may be waiting for it.
    pub(super) fn owes_only_tickets(&self) -> bool {
        let is_server = matches!(self.side, Side::Server(_));
        let version = self.common().protocol_version();
        is_server && self.phase != Phase::Handshaking && version == Some(ProtocolVersion::TLSv1_3)
    }

    /// What was agreed; `None` until the handshake is done. The verdict is `Unasked`: on the
    /// client's side it is up to [`super::policy::Judge`].
    pub fn summary(&self) -> Option<TlsSummary> {
        let common = self.common();
        if common.is_handshaking() {
            return None;
        }
        Some(TlsSummary {
            version: match common.protocol_version()? {
                ProtocolVersion::TLSv1_3 => "TLSv1.3",
                _ => "TLSv1.2",
            },
            cipher: iana_name(common.negotiated_cipher_suite()?.suite()),
            key_exchange: common
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str())
                .unwrap_or(""),
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            verdict: CertificateVerdict::Unasked,
        })
    }

    /// The peer's chain, its own certificate first; also after a resumed handshake. Empty before
    /// the handshake, and always on a server.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.common().peer_certificates().unwrap_or(&[])
    }

    /// Bytes kept for an incomplete record: to be charged to the session.
    pub fn leftover_bytes(&self) -> usize {
        self.unread.capacity()
    }

    /// Asks for new keys in both directions (RFC 8446 section 4.6.3). rustls does so by itself
    /// when it is due.
    #[cfg(test)]
    pub(super) fn update_keys(&mut self, out: &mut Vec<u8>) {
        let Side::Client(connection, _) = &mut self.side else {
            panic!("only tried from the client");
        };
        match connection.process_tls_records(&mut []).state.unwrap() {
            ConnectionState::WriteTraffic(traffic) => traffic.refresh_traffic_keys().unwrap(),
            other => panic!("{other:?}"),
        }
        flush(&mut ***connection, out);
    }

    fn at_rest(&self) -> Progress {
        Progress {
            handshake_done_now: false,
            peer_closed: self.phase == Phase::PeerClosed,
        }
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(connection, _) => connection,
            Side::Server(connection) => connection,
        }
    }

    fn unread_bytes_max(&self) -> usize {
        match &self.side {
            Side::Client(..) if self.phase == Phase::Handshaking => UNREAD_BYTES_MAX_CONNECTING,
            _ => UNREAD_BYTES_MAX,
        }
    }

    /// A ticket keeps a copy of the peer's chain: none is kept for a chain that is absurd.
    fn bound_tickets(&self) {
        if let Side::Client(_, tickets) = &self.side {
            let chain_bytes = self.peer_certificates().iter().map(|c| c.len()).sum();
            tickets.bound(chain_bytes);
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, what: &Write<'_>) -> Result<(), TlsError> {
        let unread = &mut self.unread;
        let written = match &mut self.side {
            Side::Client(connection, _) => write(&mut ***connection, unread, out, what),
            Side::Server(connection) => write(&mut ***connection, unread, out, what),
        };
        written.map_err(|error| self.fail(error, out))
    }

    /// Appends the alert that is due and ends the session.
    fn fail(&mut self, error: TlsError, out: &mut Vec<u8>) -> TlsError {
        let before = out.len();
        match &mut self.side {
            Side::Client(connection, _) => flush(&mut ***connection, out),
            Side::Server(connection) => flush(&mut ***connection, out),
        }
        let is_mute = out.len() == before && matches!(error, TlsError::Incompatible(_));
        if is_mute && self.phase == Phase::Handshaking {
            out.extend_from_slice(&HANDSHAKE_FAILURE);
        }
        self.phase = Phase::Failed;
        self.unread = Vec::new();
        error
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("phase", &self.phase)
            .field("summary", &self.summary())
            .field("unread_bytes", &self.unread.len())
            .finish_non_exhaustive()
    }
}

/// How far past a page boundary the text for [`Session::encrypt`] should start.
pub const PLAIN_OFFSET_BYTES: usize = 64;

/// Bytes of `plain` to write first, so that what is left starts well: all of it, unless it is more
/// than a record and starts too near to a page boundary.
fn first_record_bytes(plain: &[u8]) -> usize {
    if plain.len() <= RECORD_PLAIN_BYTES_MAX {
        return plain.len();
    }
    let past_page = page_offset(plain);
    if past_page >= PLAIN_OFFSET_BYTES {
        return plain.len();
    }
    RECORD_PLAIN_BYTES_MAX - PAGE_BYTES + PLAIN_OFFSET_BYTES - past_page
}

/// IANA's name. rustls says `TLS13_` where the registry says `TLS_`.
fn iana_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}

/// Either side's connection: the same loop, two types.
trait Machine {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn has_something_to_send(&self) -> bool;
}

impl Machine for UnbufferedConnectionCommon<ClientConnectionData> {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_something_to_send(&self) -> bool {
        self.wants_write()
    }
}

impl Machine for UnbufferedConnectionCommon<ServerConnectionData> {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_something_to_send(&self) -> bool {
        self.wants_write()
    }
}

struct Sink<'a> {
    each: &'a mut dyn FnMut(&[u8]),
    out: &'a mut Vec<u8>,
    peer_closed: bool,
}

/// Runs `unread` followed by `cipher` through the machine; what it cannot use yet stays in
/// `unread`. Only the record that straddles both is copied; the others are decrypted where they
/// are.
fn feed<M: Machine>(
    machine: &mut M,
    unread: &mut Vec<u8>,
    cipher: &mut [u8],
    sink: &mut Sink<'_>,
) -> Result<(), rustls::Error> {
    let mut rest = cipher;
    while !unread.is_empty() && !rest.is_empty() {
        let (head, tail) = rest.split_at_mut(bytes_wanted(unread).min(rest.len()));
        unread.extend_from_slice(head);
        rest = tail;
        if unread.len() >= RECORD_HEADER_BYTES {
            let used = advance(machine, unread, sink)?;
            unread.drain(..used);
        }
    }
    if unread.is_empty() {
        let used = advance(machine, rest, sink)?;
        unread.extend_from_slice(&rest[used..]);
    }
    if unread.is_empty() {
        *unread = Vec::new();
    }
    Ok(())
}

/// How many bytes complete the first record of `unread`. Everything, if that is complete: then it
/// holds part of a handshake message that goes on in later records, and rustls wants them in one
/// piece.
fn bytes_wanted(unread: &[u8]) -> usize {
    let [_, _, _, high, low, ..] = *unread else {
        return RECORD_HEADER_BYTES - unread.len();
    };
    let record_bytes = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    match record_bytes.saturating_sub(unread.len()) {
        0 => usize::MAX,
        missing => missing,
    }
}

/// Runs the machine over `incoming` until it wants more; says how much of it is done with.
fn advance<M: Machine>(
    machine: &mut M,
    incoming: &mut [u8],
    sink: &mut Sink<'_>,
) -> Result<usize, rustls::Error> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { discard, state } = machine.process(&mut incoming[used..]);
        used += discard;
        match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    (sink.each)(record.payload);
                    used += record.discard;
                }
            }
            ConnectionState::EncodeTlsData(mut flight) => encode(&mut flight, sink.out),
            ConnectionState::TransmitTlsData(sent) => sent.done(),
            ConnectionState::PeerClosed => sink.peer_closed = true,
            // WriteTraffic, BlockedHandshake, Closed: nothing more in this input. Early data is
            // never accepted.
            _ => return Ok(used),
        }
    }
}

fn encode<D>(flight: &mut EncodeTlsData<'_, D>, out: &mut Vec<u8>) {
    let start = out.len();
    if let Err(EncodeError::InsufficientSize(size)) = flight.encode(&mut []) {
        out.resize(start + size.required_size, 0);
        let written = flight.encode(&mut out[start..]).unwrap_or(0);
        out.truncate(start + written);
    }
}

/// After an error: whatever is queued, which is the alert. Never reaches the input: rustls hands
/// out what it has to send first.
fn flush<M: Machine>(machine: &mut M, out: &mut Vec<u8>) {
    while machine.has_something_to_send() {
        match machine.process(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(mut flight)) => encode(&mut flight, out),
            _ => return,
        }
    }
}

enum Write<'a> {
    Traffic(&'a [u8]),
    CloseNotify,
}

/// `unread` is what rustls expects to see again on every call.
fn write<M: Machine>(
    machine: &mut M,
    unread: &mut [u8],
    out: &mut Vec<u8>,
    what: &Write<'_>,
) -> Result<(), TlsError> {
    loop {
        match machine.process(unread).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                return write_records(&mut traffic, out, what);
            }
            ConnectionState::EncodeTlsData(mut flight) => encode(&mut flight, out),
            ConnectionState::TransmitTlsData(sent) => sent.done(),
            ConnectionState::PeerClosed => {}
            _ => return Err(TlsError::NotOpen),
        }
    }
}

fn write_records<D>(
    traffic: &mut WriteTraffic<'_, D>,
    out: &mut Vec<u8>,
    what: &Write<'_>,
) -> Result<(), TlsError> {
    let start = out.len();
    let mut room = match what {
        Write::Traffic(plain) => {
            let records = plain.len().div_ceil(RECORD_PLAIN_BYTES_MAX);
            plain.len() + records * RECORD_OVERHEAD_BYTES_MAX
        }
        Write::CloseNotify => 2 + RECORD_OVERHEAD_BYTES_MAX,
    };
    loop {
        out.resize(start + room, 0);
        let written = match what {
            Write::Traffic(plain) => traffic.encrypt(plain, &mut out[start..]),
            Write::CloseNotify => traffic.queue_close_notify(&mut out[start..]),
        };
        match written {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            // More was queued than the records of this call, such as a key update.
            Err(EncryptError::InsufficientSize(size)) if size.required_size > room => {
                room = size.required_size;
            }
            Err(error) => {
                out.truncate(start);
                return Err(TlsError::Ours(error.to_string().into()));
            }
        }
    }
}
