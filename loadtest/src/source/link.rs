//! The source's end of one SMTP connection: greeting, EHLO, STARTTLS, replies, transactions.
//! Not here: which message is next, and what its fate means.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, HandshakeKind};
use tokio::net::TcpStream;

use crate::mail::message::{Composer, Form};
use crate::options::source::{SourceOptions, SourceTls};
use crate::wire::Wire;

const INPUT_BYTES: usize = 8 << 10;
/// A longer reply is an error.
const REPLY_BYTES_MAX: usize = 64 << 10;
/// Content starts this far into its buffer: glibc copies page-aligned buffers much slower on some
/// CPUs, and TLS copies all of it.
const CONTENT_AT: usize = 64;

/// How a link is used; the same for all links of a source.
pub struct Manner {
    pub address: SocketAddr,
    pub tls: SourceTls,
    pub lock_step: bool,
    pub bdat: bool,
    /// 0: the whole message in one chunk.
    pub bdat_chunk: usize,
}

impl Manner {
    pub fn new(address: SocketAddr, options: &SourceOptions) -> Self {
        Self {
            address,
            tls: options.source_tls,
            lock_step: options.lock_step,
            bdat: options.bdat,
            bdat_chunk: options.bdat_chunk as usize,
        }
    }
}

/// Why no link came about.
#[derive(Debug)]
pub enum OpenError {
    Io(io::Error),
    /// The relay said no: its reply.
    Refused(String),
    /// The relay lacks what was asked for; trying again is no use.
    Lacks(&'static str),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Refused(reply) => write!(f, "the relay answered: {reply}"),
            Self::Lacks(what) => write!(f, "the relay does not offer {what}"),
        }
    }
}

/// How a transaction broke off. Only after its end of data may the relay have the message.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    BeforeEndOfData,
    AfterEndOfData,
}

/// A transaction that was answered.
#[derive(Debug, Default)]
pub struct Answer {
    /// Which recipients got a 2xx.
    pub recipients: Vec<bool>,
    /// The reply that decided: to the end of data, or to what made it superfluous.
    pub code: u16,
    /// The first refusal of the transaction, in full; empty if there was none.
    pub refusal: String,
    pub content_bytes: usize,
}

impl Answer {
    pub fn is_accepted(&self) -> bool {
        self.code / 100 == 2
    }
}

pub struct Link {
    wire: Wire,
    input: Vec<u8>,
    from: usize,
    filled: usize,
    /// The last reply, with all its lines.
    reply: String,
    /// The first refusal since a transaction began.
    refusal: String,
    out: Vec<u8>,
    /// `CONTENT_AT` bytes of padding, then the message.
    content: Vec<u8>,
    features: Features,
    /// The handshake of this connection, if it had one.
    pub handshake: Option<HandshakeKind>,
}

#[derive(Clone, Copy, Default)]
struct Features {
    pipelining: bool,
    size: bool,
    chunking: bool,
    starttls: bool,
}

impl Link {
    /// Connects, and is ready for the first transaction.
    pub async fn open(manner: &Manner, tls: Arc<ClientConfig>) -> Result<Self, OpenError> {
        let stream = TcpStream::connect(manner.address).await?;
        Self::over(stream, manner, tls).await
    }

    /// The same over a connection that is there.
    pub async fn over(
        stream: TcpStream,
        manner: &Manner,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, OpenError> {
        stream.set_nodelay(true)?;
        let mut link = Self {
            wire: Wire::Plain(stream),
            input: vec![0; INPUT_BYTES],
            from: 0,
            filled: 0,
            reply: String::new(),
            refusal: String::new(),
            out: Vec::new(),
            content: Vec::new(),
            features: Features::default(),
            handshake: None,
        };
        if manner.tls == SourceTls::Implicit {
            link.handshake = Some(link.wire.connect_tls(tls.clone()).await?);
        }
        link.expect(220).await?;
        link.ehlo().await?;
        if manner.tls == SourceTls::Starttls {
            link.starttls(tls).await?;
        }
        if manner.bdat && !link.features.chunking {
            return Err(OpenError::Lacks("CHUNKING"));
        }
        Ok(link)
    }

    async fn ehlo(&mut self) -> Result<(), OpenError> {
        self.wire.write(b"EHLO loadtest.test\r\n").await?;
        self.expect(250).await?;
        self.features = parse_features(&self.reply);
        Ok(())
    }

    async fn starttls(&mut self, tls: Arc<ClientConfig>) -> Result<(), OpenError> {
        if !self.features.starttls {
            return Err(OpenError::Lacks("STARTTLS"));
        }
        self.wire.write(b"STARTTLS\r\n").await?;
        self.expect(220).await?;
        // What came before the handshake is thrown away (RFC 3207 section 4.2).
        (self.from, self.filled) = (0, 0);
        self.handshake = Some(self.wire.connect_tls(tls).await?);
        self.ehlo().await
    }

    async fn expect(&mut self, code: u16) -> Result<(), OpenError> {
        if self.read_reply().await? == code {
            return Ok(());
        }
        Err(OpenError::Refused(self.reply.trim_end().to_string()))
    }

    /// Reads one reply, however many lines it has, and returns its code.
    async fn read_reply(&mut self) -> io::Result<u16> {
        self.reply.clear();
        loop {
            let waiting = &self.input[self.from..self.filled];
            let Some(end) = memchr::memchr(b'\n', waiting) else {
                self.fill().await?;
                continue;
            };
            let line = &waiting[..end + 1];
            let code = parse_code(line)?;
            let is_last = line.get(3) != Some(&b'-');
            self.reply.push_str(&String::from_utf8_lossy(line));
            self.from += end + 1;
            if is_last {
                if code >= 400 && self.refusal.is_empty() {
                    self.refusal.push_str(self.reply.trim_end());
                }
                return Ok(code);
            }
            if self.reply.len() > REPLY_BYTES_MAX {
                return Err(io::Error::other("endless reply"));
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.input.copy_within(self.from..self.filled, 0);
        self.filled -= self.from;
        self.from = 0;
        if self.filled == self.input.len() {
            return Err(io::Error::other("endless line in a reply"));
        }
        match self.wire.read(&mut self.input[self.filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }

    /// Sends message `n` and waits for the answer. A 421 before the end of data counts as broken:
    /// the relay is closing the connection.
    pub async fn send(
        &mut self,
        manner: &Manner,
        composer: &Composer,
        n: u64,
        due_us: u64,
    ) -> Result<Answer, Broken> {
        let form = if manner.bdat {
            Form::Content
        } else {
            Form::Data
        };
        self.refusal.clear();
        self.content.clear();
        self.content.resize(CONTENT_AT, 0);
        let content_bytes = composer.write(n, due_us, form, &mut self.content);
        let mut answer = Answer {
            content_bytes,
            ..Answer::default()
        };
        let pipelining = self.features.pipelining && !manner.lock_step;
        match (manner.bdat, pipelining) {
            (false, true) => self.data_pipelined(composer, n, &mut answer).await?,
            (false, false) => self.data_lock_step(composer, n, &mut answer).await?,
            (true, true) => {
                self.bdat_pipelined(manner, composer, n, &mut answer)
                    .await?
            }
            (true, false) => {
                self.bdat_lock_step(manner, composer, n, &mut answer)
                    .await?
            }
        }
        answer.refusal.push_str(&self.refusal);
        Ok(answer)
    }

    fn write_mail(&mut self, composer: &Composer, n: u64, content_bytes: usize) {
        self.out.extend_from_slice(b"MAIL FROM:<");
        composer.addressing.write_sender(n, &mut self.out);
        self.out.push(b'>');
        if self.features.size {
            self.out
                .extend_from_slice(format!(" SIZE={content_bytes}").as_bytes());
        }
        self.out.extend_from_slice(b"\r\n");
    }

    fn write_rcpt(&mut self, composer: &Composer, n: u64, i: u32) {
        self.out.extend_from_slice(b"RCPT TO:<");
        composer.addressing.write_recipient(n, i, &mut self.out);
        self.out.extend_from_slice(b">\r\n");
    }

    /// MAIL and all RCPT into `out`.
    fn write_envelope(&mut self, composer: &Composer, n: u64, content_bytes: usize) {
        self.out.clear();
        self.write_mail(composer, n, content_bytes);
        for i in 0..composer.addressing.recipients {
            self.write_rcpt(composer, n, i);
        }
    }

    /// The replies to MAIL and all RCPT; returns whether a recipient is left, else the code why not.
    async fn read_envelope_replies(
        &mut self,
        composer: &Composer,
        answer: &mut Answer,
        broken: fn() -> Broken,
    ) -> Result<bool, Broken> {
        let mail = self.early_reply(broken).await?;
        answer.code = mail;
        for _ in 0..composer.addressing.recipients {
            let code = self.early_reply(broken).await?;
            answer.recipients.push(mail == 250 && code / 100 == 2);
            if mail == 250 && code / 100 != 2 {
                answer.code = code;
            }
        }
        Ok(answer.recipients.contains(&true))
    }

    /// A reply that comes before the last one. A 421 is a definite no.
    async fn early_reply(&mut self, broken: fn() -> Broken) -> Result<u16, Broken> {
        match self.read_reply().await {
            Ok(421) => Err(Broken::BeforeEndOfData),
            Err(_) => Err(broken()),
            Ok(code) => Ok(code),
        }
    }

    async fn final_reply(&mut self) -> Result<u16, Broken> {
        self.read_reply().await.map_err(|_| Broken::AfterEndOfData)
    }

    async fn write_out(&mut self) -> Result<(), Broken> {
        self.wire
            .write(&self.out)
            .await
            .map_err(|_| Broken::BeforeEndOfData)
    }

    async fn data_pipelined(
        &mut self,
        composer: &Composer,
        n: u64,
        answer: &mut Answer,
    ) -> Result<(), Broken> {
        self.write_envelope(composer, n, answer.content_bytes);
        self.out.extend_from_slice(b"DATA\r\n");
        self.write_out().await?;
        let go_on = self.read_envelope_replies(composer, answer, before).await?;
        let code = self.early_reply(before).await?;
        self.body_after(code, go_on, answer).await
    }

    async fn data_lock_step(
        &mut self,
        composer: &Composer,
        n: u64,
        answer: &mut Answer,
    ) -> Result<(), Broken> {
        if !self.envelope_lock_step(composer, n, answer).await? {
            return Ok(());
        }
        let code = self.command(b"DATA\r\n").await?;
        self.body_after(code, true, answer).await
    }

    /// Sends the body if the reply to DATA allows it.
    async fn body_after(
        &mut self,
        data_code: u16,
        go_on: bool,
        answer: &mut Answer,
    ) -> Result<(), Broken> {
        if data_code != 354 {
            if go_on {
                answer.code = data_code;
            }
            return Ok(());
        }
        if !go_on {
            // RFC 2920 section 3.1: a 354 without recipients is answered with an empty body.
            self.wire
                .write(b".\r\n")
                .await
                .map_err(|_| Broken::BeforeEndOfData)?;
            return self.early_reply(before).await.map(|_| ());
        }
        // Once this write has begun, nobody knows how much of it arrived.
        self.wire
            .write(&self.content[CONTENT_AT..])
            .await
            .map_err(|_| Broken::AfterEndOfData)?;
        answer.code = self.final_reply().await?;
        Ok(())
    }

    /// MAIL and RCPT one by one; returns whether to go on with the body.
    async fn envelope_lock_step(
        &mut self,
        composer: &Composer,
        n: u64,
        answer: &mut Answer,
    ) -> Result<bool, Broken> {
        self.out.clear();
        self.write_mail(composer, n, answer.content_bytes);
        self.write_out().await?;
        answer.code = self.early_reply(before).await?;
        if answer.code != 250 {
            return Ok(false);
        }
        for i in 0..composer.addressing.recipients {
            self.out.clear();
            self.write_rcpt(composer, n, i);
            self.write_out().await?;
            let code = self.early_reply(before).await?;
            answer.recipients.push(code / 100 == 2);
            if code / 100 != 2 {
                answer.code = code;
            }
        }
        let go_on = answer.recipients.contains(&true);
        if !go_on {
            self.command(b"RSET\r\n").await?;
        }
        Ok(go_on)
    }

    async fn command(&mut self, line: &[u8]) -> Result<u16, Broken> {
        self.wire
            .write(line)
            .await
            .map_err(|_| Broken::BeforeEndOfData)?;
        self.early_reply(before).await
    }

    /// Envelope and content in one write.
    async fn bdat_pipelined(
        &mut self,
        manner: &Manner,
        composer: &Composer,
        n: u64,
        answer: &mut Answer,
    ) -> Result<(), Broken> {
        self.write_envelope(composer, n, answer.content_bytes);
        let chunks = write_chunks(
            &self.content[CONTENT_AT..],
            manner.bdat_chunk,
            &mut self.out,
        );
        self.wire
            .write(&self.out)
            .await
            .map_err(|_| Broken::AfterEndOfData)?;
        let go_on = self.read_envelope_replies(composer, answer, after).await?;
        for _ in 0..chunks {
            let code = self.final_reply().await?;
            if go_on {
                answer.code = code;
            }
        }
        Ok(())
    }

    async fn bdat_lock_step(
        &mut self,
        manner: &Manner,
        composer: &Composer,
        n: u64,
        answer: &mut Answer,
    ) -> Result<(), Broken> {
        if !self.envelope_lock_step(composer, n, answer).await? {
            return Ok(());
        }
        let content_bytes = self.content.len() - CONTENT_AT;
        let chunk_bytes = chunk_bytes(content_bytes, manner.bdat_chunk);
        let mut at = CONTENT_AT;
        while at < self.content.len() {
            let end = (at + chunk_bytes).min(self.content.len());
            let is_last = end == self.content.len();
            self.out.clear();
            write_chunk(&self.content[at..end], is_last, &mut self.out);
            let broken = if is_last { after } else { before };
            self.wire.write(&self.out).await.map_err(|_| broken())?;
            answer.code = if is_last {
                self.final_reply().await?
            } else {
                self.early_reply(before).await?
            };
            if answer.code != 250 {
                // The rest of the transaction is void (RFC 3030 section 2).
                return self.command(b"RSET\r\n").await.map(|_| ());
            }
            at = end;
        }
        Ok(())
    }

    /// NOOP: whether the relay still answers.
    pub async fn is_alive(&mut self) -> bool {
        self.wire.write(b"NOOP\r\n").await.is_ok()
            && self.read_reply().await.is_ok_and(|c| c == 250)
    }

    /// Gives up the memory that only messages need, for a connection that is left alone.
    pub fn rest(&mut self) {
        self.content = Vec::new();
        self.out = Vec::new();
    }

    /// QUIT, and waits for the relay's goodbye.
    pub async fn quit(mut self) {
        if self.wire.write(b"QUIT\r\n").await.is_ok() {
            let _ = self.read_reply().await;
        }
    }
}

fn before() -> Broken {
    Broken::BeforeEndOfData
}

fn after() -> Broken {
    Broken::AfterEndOfData
}

fn chunk_bytes(content_bytes: usize, wanted: usize) -> usize {
    if wanted == 0 { content_bytes } else { wanted }
}

/// Appends the whole content as BDAT commands; returns how many.
fn write_chunks(content: &[u8], wanted: usize, out: &mut Vec<u8>) -> usize {
    let chunks = content.chunks(chunk_bytes(content.len(), wanted));
    let count = chunks.len();
    for (index, chunk) in chunks.enumerate() {
        write_chunk(chunk, index + 1 == count, out);
    }
    count
}

fn write_chunk(chunk: &[u8], is_last: bool, out: &mut Vec<u8>) {
    let last = if is_last { " LAST" } else { "" };
    out.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
    out.extend_from_slice(chunk);
}

fn parse_code(line: &[u8]) -> io::Result<u16> {
    let digits = line
        .get(..3)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    let code = digits.and_then(|digits| digits.parse().ok());
    code.ok_or_else(|| io::Error::other("not an SMTP reply"))
}

fn parse_features(reply: &str) -> Features {
    let mut features = Features::default();
    for line in reply.lines().skip(1) {
        let keyword = line.get(4..).unwrap_or("").split(' ').next().unwrap_or("");
        match keyword.to_ascii_uppercase().as_str() {
            "PIPELINING" => features.pipelining = true,
            "SIZE" => features.size = true,
            "CHUNKING" => features.chunking = true,
            "STARTTLS" => features.starttls = true,
            _ => {}
        }
    }
    features
}
