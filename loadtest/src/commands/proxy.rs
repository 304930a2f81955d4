//! The floor: a proxy that copies bytes between two connections, with TLS on both, on one, or
//! on none. It has no SMTP, no spool, no queue and no second thought; what it costs is what the
//! kernel and TLS cost on this machine. One connection out for each connection in.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::failure::Failure;
use crate::host::signals::StopFlag;
use crate::host::workers;
use crate::options::ProxyCommand;
use crate::options::compare::ProxyTls;
use crate::wire::tls::{self, SERVER_NAME};

const BACKLOG: u32 = 1024;
/// What one read takes at most, an incomplete record from before included.
const INPUT_BYTES: usize = 64 << 10;
/// Room for what one read can become: its text, and what TLS adds to each record of 16 KB.
const OUTPUT_BYTES: usize = INPUT_BYTES + (2 << 10);
/// Text starts this far into its buffer: the copy before encrypting is slow from a page's start.
const TEXT_AT: usize = 64;
/// How often the main thread looks whether it should stop.
const STOP_POLL: Duration = Duration::from_millis(200);
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Serves until a signal comes.
pub fn proxy(command: &ProxyCommand, stop: &StopFlag) -> Result<bool, Failure> {
    let threads = command.threads.map_or_else(
        || std::thread::available_parallelism().map_or(1, |cpus| cpus.get()),
        usize::from,
    );
    let threads = start(command, threads)?;
    while !stop.is_set() {
        std::thread::sleep(STOP_POLL);
        if threads.iter().any(JoinHandle::is_finished) {
            return Err("a thread of the proxy ended".into());
        }
    }
    Ok(true)
}

/// Listens on all threads; returns when everybody does.
fn start(command: &ProxyCommand, threads: usize) -> Result<Vec<JoinHandle<()>>, Failure> {
    let route = Arc::new(Route::new(command)?);
    let mut running = Vec::new();
    for index in 0..threads {
        let runtime = workers::new_runtime()?;
        let listener = {
            let _context = runtime.enter();
            listen(command.listen)?
        };
        let route = route.clone();
        let thread = std::thread::Builder::new().name(format!("proxy-{index}"));
        running.push(thread.spawn(move || runtime.block_on(accept(listener, route)))?);
    }
    Ok(running)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    // What is accepted inherits it.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, route: Arc<Route>) {
    loop {
        match listener.accept().await {
            // A connection that fails is the peers' to notice: their ledger says so.
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, route.clone()))),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve(stream: TcpStream, route: Arc<Route>) -> io::Result<()> {
    let mut pair = route.pair(stream).await?;
    poll_fn(|cx| SCRATCH.with_borrow_mut(|scratch| pair.poll(scratch, cx))).await
}

/// Where to, and with which TLS.
struct Route {
    to: SocketAddr,
    server: Option<Arc<ServerConfig>>,
    client: Option<Arc<ClientConfig>>,
    name: ServerName<'static>,
}

impl Route {
    fn new(command: &ProxyCommand) -> Result<Self, Failure> {
        let is_in = command.tls != ProxyTls::None;
        let is_out = command.tls == ProxyTls::Both;
        Ok(Self {
            to: command.to,
            server: is_in
                .then(|| tls::server_config(false))
                .transpose()
                .map_err(|error| error.to_string())?,
            client: is_out
                .then(tls::floor_client_config)
                .transpose()
                .map_err(|error| error.to_string())?,
            name: ServerName::try_from(SERVER_NAME)?,
        })
    }

    async fn pair(&self, inward: TcpStream) -> io::Result<Pair> {
        let outward = TcpStream::connect(self.to).await?;
        outward.set_nodelay(true)?;
        let server = self.server.clone().map(UnbufferedServerConnection::new);
        let client = self.client.clone();
        let client =
            client.map(|client| UnbufferedClientConnection::new(client, self.name.clone()));
        let server = server.transpose().map_err(io::Error::other)?;
        let client = client.transpose().map_err(io::Error::other)?;
        let mut outward = End::new(outward, client.map(|client| Tls::Client(client.into())));
        // The ClientHello.
        outward.open(&mut [], false, &mut Vec::new())?;
        Ok(Pair {
            inward: End::new(inward, server.map(|server| Tls::Server(server.into()))),
            outward,
        })
    }
}

thread_local! {
    /// Connections hold nothing but what could not be handled at once.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; INPUT_BYTES],
        text: Vec::with_capacity(TEXT_AT + INPUT_BYTES),
        output: vec![0; OUTPUT_BYTES],
    });
}

struct Scratch {
    input: Vec<u8>,
    /// `TEXT_AT` bytes of padding, then text.
    text: Vec<u8>,
    output: Vec<u8>,
}

struct Pair {
    inward: End,
    outward: End,
}

impl Pair {
    fn poll(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let there = transfer(&mut self.inward, &mut self.outward, scratch, cx)?;
            let back = transfer(&mut self.outward, &mut self.inward, scratch, cx)?;
            if self.inward.ended && self.outward.ended {
                return Poll::Ready(Ok(()));
            }
            if there.is_pending() && back.is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// Moves what one read of `from` brings. `Pending`: not now, or never again; the waker is told.
fn transfer(
    from: &mut End,
    to: &mut End,
    scratch: &mut Scratch,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    ready!(from.flush(cx))?;
    ready!(to.flush(cx))?;
    // Woken again when `to` is ready, for both belong to one task.
    if from.ended || (from.is_ready && !to.is_ready) {
        return Poll::Pending;
    }
    let filled = if from.holds_text {
        from.recall(&mut scratch.input)
    } else {
        ready!(from.read(&mut scratch.input, cx))?
    };
    scratch.text.clear();
    scratch.text.resize(TEXT_AT, 0);
    from.open(&mut scratch.input[..filled], to.is_ready, &mut scratch.text)?;
    let text = &scratch.text[TEXT_AT..];
    if !text.is_empty() {
        let sealed = to.seal(text, &mut scratch.output)?;
        to.write(&scratch.output[..sealed], cx)?;
    }
    if from.ended && !to.ended {
        to.close()?;
    }
    Poll::Ready(Ok(()))
}

/// One of the two connections.
struct End {
    stream: TcpStream,
    tls: Option<Tls>,
    /// The handshake is done, if there is one.
    is_ready: bool,
    /// Text came before the other end was ready for it; it waits within `tls` and `rest`.
    holds_text: bool,
    /// Nothing more comes.
    ended: bool,
    /// Our own end was said; to be followed by a FIN, and then done.
    closing: bool,
    /// An incomplete record.
    rest: Vec<u8>,
    /// What the kernel did not take yet.
    unsent: Vec<u8>,
}

impl End {
    fn new(stream: TcpStream, tls: Option<Tls>) -> Self {
        Self {
            stream,
            is_ready: tls.is_none(),
            tls,
            holds_text: false,
            ended: false,
            closing: false,
            rest: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// Puts the incomplete record back to the front of `input`; returns its length.
    fn recall(&mut self, input: &mut [u8]) -> usize {
        let filled = self.rest.len();
        input[..filled].copy_from_slice(&self.rest);
        filled
    }

    /// Reads behind the incomplete record; returns how much of `input` is filled.
    fn read(&mut self, input: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let kept = self.rest.len();
        if kept == input.len() {
            return Poll::Ready(Err(io::Error::other("an endless record")));
        }
        let mut buffer = ReadBuf::new(&mut input[kept..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        self.ended = read == 0;
        self.recall(input);
        Poll::Ready(Ok(kept + read))
    }

    /// Decrypts `input`, which starts with `rest`. What TLS has to answer is left in `unsent`.
    fn open(&mut self, input: &mut [u8], takes_text: bool, text: &mut Vec<u8>) -> io::Result<()> {
        let mut opening = Opening {
            takes_text,
            text,
            answer: &mut self.unsent,
            progress: Progress::default(),
        };
        let consumed = match &mut self.tls {
            None => {
                opening.text.extend_from_slice(input);
                input.len()
            }
            Some(Tls::Client(connection)) => opening.feed(&mut **connection, input)?,
            Some(Tls::Server(connection)) => opening.feed(&mut **connection, input)?,
        };
        let progress = opening.progress;
        self.is_ready |= progress.handshake_is_done;
        self.ended |= progress.peer_closed;
        self.holds_text = progress.holds_text;
        self.rest.clear();
        self.rest.extend_from_slice(&input[consumed..]);
        Ok(())
    }

    /// Encrypts `text`; returns how much of `output` is filled.
    fn seal(&mut self, text: &[u8], output: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => {
                output[..text.len()].copy_from_slice(text);
                Ok(text.len())
            }
            Some(Tls::Client(connection)) => encrypt(&mut **connection, text, output),
            Some(Tls::Server(connection)) => encrypt(&mut **connection, text, output),
        }
    }

    /// Hands `bytes` to the kernel, and keeps what it does not take.
    fn write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> io::Result<()> {
        let written = if self.unsent.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, bytes)? {
                Poll::Ready(written) => written,
                Poll::Pending => 0,
            }
        } else {
            0
        };
        self.unsent.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    /// Until the kernel has everything, and our FIN if we are closing.
    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.unsent[sent..])? {
                Poll::Ready(written) => sent += written,
                Poll::Pending => {
                    self.unsent.drain(..sent);
                    return Poll::Pending;
                }
            }
        }
        self.unsent.clear();
        if self.closing {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.closing = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will be sent.
    fn close(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => {}
            Some(Tls::Client(connection)) => say_close(&mut **connection, &mut self.unsent)?,
            Some(Tls::Server(connection)) => say_close(&mut **connection, &mut self.unsent)?,
        }
        self.closing = true;
        Ok(())
    }
}

enum Tls {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// Both kinds of connection have this method, but not in common.
trait Records {
    type Data;
    fn process<'a, 'i>(&'a mut self, input: &'i mut [u8]) -> UnbufferedStatus<'a, 'i, Self::Data>;
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'a, 'i>(&'a mut self, input: &'i mut [u8]) -> UnbufferedStatus<'a, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'a, 'i>(&'a mut self, input: &'i mut [u8]) -> UnbufferedStatus<'a, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

/// What became of some input.
#[derive(Clone, Copy, Default)]
struct Progress {
    handshake_is_done: bool,
    holds_text: bool,
    peer_closed: bool,
}

struct Opening<'a> {
    takes_text: bool,
    text: &'a mut Vec<u8>,
    answer: &'a mut Vec<u8>,
    progress: Progress,
}

impl Opening<'_> {
    /// Goes through the records; returns how many bytes of them are done with.
    fn feed<R: Records>(&mut self, connection: &mut R, input: &mut [u8]) -> io::Result<usize> {
        let mut consumed = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } =
                connection.process(&mut input[consumed..]);
            consumed += discard;
            match state.map_err(io::Error::other)? {
                ConnectionState::EncodeTlsData(data) => encode(data, self.answer)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::ReadTraffic(_) if !self.takes_text => {
                    self.progress.holds_text = true;
                    self.progress.handshake_is_done = true;
                    return Ok(consumed);
                }
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        consumed += record.discard;
                        self.text.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::WriteTraffic(_) => {
                    self.progress.handshake_is_done = true;
                    return Ok(consumed);
                }
                ConnectionState::BlockedHandshake => return Ok(consumed),
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    self.progress.peer_closed = true;
                    return Ok(input.len());
                }
                _ => return Err(io::Error::other("early data that nobody allowed")),
            }
        }
    }
}

/// Appends a handshake message.
fn encode<Data>(mut data: EncodeTlsData<'_, Data>, answer: &mut Vec<u8>) -> io::Result<()> {
    let start = answer.len();
    if let Err(EncodeError::InsufficientSize(error)) = data.encode(&mut []) {
        answer.resize(start + error.required_size, 0);
        data.encode(&mut answer[start..])
            .map_err(io::Error::other)?;
    }
    Ok(())
}

/// The state in which text can be sent; only to be asked for when the handshake is done.
fn traffic<R: Records>(connection: &mut R) -> io::Result<WriteTraffic<'_, R::Data>> {
    match connection
        .process(&mut [])
        .state
        .map_err(io::Error::other)?
    {
        ConnectionState::WriteTraffic(traffic) => Ok(traffic),
        _ => Err(io::Error::other("TLS is not ready for text")),
    }
}

fn encrypt<R: Records>(connection: &mut R, text: &[u8], output: &mut [u8]) -> io::Result<usize> {
    traffic(connection)?
        .encrypt(text, output)
        .map_err(io::Error::other)
}

/// A close_notify, if the handshake ever came to its end.
fn say_close<R: Records>(connection: &mut R, unsent: &mut Vec<u8>) -> io::Result<()> {
    const CLOSE_NOTIFY_BYTES_MAX: usize = 64;
    let mut bytes = [0; CLOSE_NOTIFY_BYTES_MAX];
    if let Ok(mut traffic) = traffic(connection) {
        let length = traffic
            .queue_close_notify(&mut bytes)
            .map_err(io::Error::other)?;
        unsent.extend_from_slice(&bytes[..length]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::run;
    use crate::figures::report::Report;
    use crate::options::{Action, Command};
    use crate::relay::process::free_address;
    use clap::Parser;

    /// A run through a proxy within this process.
    fn through(tls: ProxyTls, flags: &str) -> Report {
        let (listen, to) = (free_loopback(), free_loopback());
        let command = ProxyCommand {
            listen,
            to,
            tls,
            threads: None,
        };
        start(&command, 2).unwrap();
        let words = format!(
            "loadtest run --quiet --settle 5 --linger-ms 50 --connections 4 --messages 200 \
             --relay {listen} --sink-listen {to} {flags}"
        );
        let Action::Run(run) = Command::try_parse_from(words.split_whitespace())
            .unwrap()
            .action
        else {
            panic!("not a run");
        };
        run::measure(&run, &StopFlag::default()).unwrap().0
    }

    fn free_loopback() -> SocketAddr {
        free_address("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    #[test]
    fn everything_arrives_through_every_kind_of_tls() {
        let both = "--source-tls implicit --sink-implicit-tls";
        let cases = [
            (ProxyTls::Both, both, 1.0),
            (ProxyTls::In, "--source-tls implicit --sink-tls none", 0.0),
            (ProxyTls::None, "--source-tls none --sink-tls none", 0.0),
        ];
        for (tls, flags, handshakes_out) in cases {
            let flags = format!("{flags} --messages-per-connection 1 --size 600-100k");
            let report = through(tls, &flags);
            assert!(report.is_clean(), "{tls:?}:\n{report}");
            assert_eq!(report.rates.handshakes_out_per_message, handshakes_out);
        }
    }

    #[test]
    fn large_messages_arrive_too() {
        let report = through(
            ProxyTls::Both,
            "--source-tls implicit --sink-implicit-tls --size 2M --messages 20",
        );
        assert!(report.is_clean(), "{report}");
    }

    #[test]
    fn starttls_passes_through_a_proxy_without_tls() {
        let report = through(ProxyTls::None, "--messages-per-connection 10");
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.sink.messages_without_tls, 0);
    }
}
