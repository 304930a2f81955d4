//! A next hop on a loopback port that does what the test tells it.

use super::link::Link;
use super::{PATIENCE, Watched};
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What becomes of STARTTLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartTls {
    Works,
    NotOffered,
    /// 454.
    Refused,
    /// 220 and more replies in one segment, and then TLS.
    Injected,
    /// 220, and then no TLS.
    Garbage,
    /// 220, and then nothing.
    Stalls,
    /// 220, and then the end.
    Closes,
    /// TLS, but only for clients with a certificate.
    DemandsCertificate,
    /// TLS 1.2, and then the end before a command is read.
    ClosesAfterHandshake,
    /// TLS, but a session that was resumed ends at once.
    BreaksWhenResumed,
}

/// What is said to a command instead of the usual.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Usual,
    Say(&'static str),
    SayAndClose(&'static str),
    Close,
    Reset,
    /// Say nothing until the client gives up.
    Stall,
    /// What is no TLS record, and then nothing.
    CorruptRecord,
    /// This again and again, twice a second, until the client gives up.
    Dribble(&'static str),
    /// 354, and then the content is read, 64 KiB ten times a second, and nothing is said.
    SipContent,
    /// The usual, and then this and the end: nobody asked.
    UsualThenSayAndClose(&'static str),
}

const BETWEEN_DRIBBLES: Duration = Duration::from_millis(500);
const BETWEEN_SIPS: Duration = Duration::from_millis(100);
const SIP_BYTES: usize = 64 << 10;

/// When an answer is due.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    /// 1 for the first connection.
    pub connection: usize,
    /// `CONNECT`, the command line, or `.` for the end of the content.
    pub command: &'a str,
    /// Messages that were taken before, over all connections.
    pub taken: usize,
    /// How often this verb has come before, over all connections.
    pub before: usize,
    pub over_tls: bool,
}

/// A script of nothing.
pub fn usual(_: Occasion<'_>) -> Answer {
    Answer::Usual
}

pub fn verb_is(command: &str, verb: &str) -> bool {
    command
        .get(..verb.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(verb))
}

pub type Script = Box<dyn Fn(Occasion<'_>) -> Answer + Send + Sync>;

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Mail {
    pub connection: usize,
    pub over_tls: bool,
    /// The whole MAIL and RCPT commands.
    pub from: String,
    pub to: Vec<String>,
    /// Dots undone, without the final one.
    pub content: String,
}

#[derive(Default)]
pub struct Seen {
    pub connections: usize,
    /// Of those, how many are still open.
    pub open: usize,
    /// `(connection, command)`.
    pub commands: Vec<(usize, String)>,
    /// How often each verb has come.
    verbs: HashMap<String, usize>,
    pub mails: Vec<Mail>,
}

pub struct NextHop {
    address: SocketAddr,
    seen: Arc<Watched<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Settings {
    starttls: StartTls,
    keywords: &'static str,
    script: Script,
}

pub const KEYWORDS: &str =
    "PIPELINING\n8BITMIME\nSIZE 100000000\nENHANCEDSTATUSCODES\nDSN\nSMTPUTF8";

impl NextHop {
    /// Takes everything, over TLS.
    pub fn start() -> Self {
        Self::scripted(StartTls::Works, usual)
    }

    pub fn scripted(
        starttls: StartTls,
        script: impl Fn(Occasion<'_>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::with_keywords(starttls, KEYWORDS, script)
    }

    /// `keywords`: what EHLO offers besides STARTTLS, one a line.
    pub fn with_keywords(
        starttls: StartTls,
        keywords: &'static str,
        script: impl Fn(Occasion<'_>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::on((Ipv4Addr::LOCALHOST, 0).into(), starttls, keywords, script)
    }

    pub fn on(
        address: SocketAddr,
        starttls: StartTls,
        keywords: &'static str,
        script: impl Fn(Occasion<'_>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket");
        let seen = Arc::new(Watched::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let settings = Arc::new(Settings {
            starttls,
            keywords,
            script: Box::new(script),
        });
        let thread = std::thread::spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || accept(&listener, &seen, &stop, &settings)
        });
        NextHop {
            address,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A route for `domain` to this hop, without MX.
    pub fn route(&self, domain: &str) -> String {
        format!("{domain}=[{}]:{}", self.address.ip(), self.address.port())
    }

    pub fn seen(&self) -> &Watched<Seen> {
        &self.seen
    }

    /// The messages, once there are so many.
    pub fn wait_for_mail(&self, count: usize) -> Vec<Mail> {
        let mails = self.seen.wait(PATIENCE, |seen| {
            (seen.mails.len() >= count).then(|| seen.mails.clone())
        });
        mails.unwrap_or_else(|| {
            let seen = self.seen.lock();
            panic!(
                "{} of {count} messages; {:?}",
                seen.mails.len(),
                seen.commands
            )
        })
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.seen.lock().mails.clone()
    }

    pub fn connections(&self) -> usize {
        self.seen.lock().connections
    }

    /// Waits until a command that is wanted has come.
    pub fn wait_for_command(&self, wanted: impl Fn(&str) -> bool) {
        self.wait_for_commands(1, wanted);
    }

    pub fn wait_for_commands(&self, count: usize, wanted: impl Fn(&str) -> bool) {
        let found = self.seen.wait(PATIENCE, |seen| {
            let commands = seen.commands.iter();
            (commands.filter(|(_, command)| wanted(command)).count() >= count).then_some(())
        });
        assert!(found.is_some(), "{:?}", self.seen.lock().commands);
    }

    pub fn commands(&self) -> Vec<String> {
        let seen = self.seen.lock();
        seen.commands
            .iter()
            .map(|(_, command)| command.clone())
            .collect()
    }

    pub fn wait_until_no_connection(&self, patience: Duration) -> bool {
        self.seen
            .wait(patience, |seen| (seen.open == 0).then_some(()))
            .is_some()
    }
}

impl Drop for NextHop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Connections end with their peers; only the accepting thread must be woken.
        if TcpStream::connect_timeout(&self.address, PATIENCE).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// A port of this address where nobody listens. Bound, so that nobody else gets it.
pub fn deaf(ip: IpAddr, port: u16) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    let address: SocketAddr = (ip, port).into();
    socket.bind(&address.into()).expect("a loopback port");
    socket
}

fn accept(
    listener: &TcpListener,
    seen: &Arc<Watched<Seen>>,
    stop: &AtomicBool,
    settings: &Arc<Settings>,
) {
    for (number, socket) in listener.incoming().enumerate() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok(link) = socket.and_then(Link::new) else {
            continue;
        };
        seen.change(|seen| {
            seen.connections += 1;
            seen.open += 1;
        });
        let (seen, settings) = (Arc::clone(seen), Arc::clone(settings));
        std::thread::spawn(move || {
            let mut session = Session {
                number: number + 1,
                link,
                seen: Arc::clone(&seen),
                settings,
                mail: None,
            };
            // The relay may go away at any time.
            let ending = session.serve();
            if matches!(ending, Ok(Ending::Reset)) {
                session.link.reset();
            } else {
                drop(session);
            }
            seen.change(|seen| seen.open -= 1);
        });
    }
}

enum Ending {
    Close,
    Reset,
}

struct Session {
    number: usize,
    link: Link,
    seen: Arc<Watched<Seen>>,
    settings: Arc<Settings>,
    mail: Option<Mail>,
}

impl Session {
    fn serve(&mut self) -> io::Result<Ending> {
        if let Some(ending) = self.answer("CONNECT")? {
            return Ok(ending);
        }
        while let Some(line) = self.link.line()? {
            let is_quit = line.eq_ignore_ascii_case("QUIT");
            if let Some(ending) = self.answer(&line)? {
                return Ok(ending);
            }
            if is_quit {
                break;
            }
        }
        Ok(Ending::Close)
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        self.link.send(format!("{text}\r\n").as_bytes())
    }

    fn answer(&mut self, command: &str) -> io::Result<Option<Ending>> {
        let verb = |command: &str| {
            command
                .split([' ', ':'])
                .next()
                .map(str::to_ascii_uppercase)
        };
        let verb = verb(command).unwrap_or_default();
        let (taken, before) = {
            let seen = self.seen.lock();
            let before = seen.verbs.get(&verb).copied();
            (seen.mails.len(), before.unwrap_or(0))
        };
        let number = self.number;
        let answer = (self.settings.script)(Occasion {
            connection: number,
            command,
            taken,
            before,
            over_tls: self.link.is_tls(),
        });
        // Who is answered by nothing has had its command seen all the same.
        self.seen.change(|seen| {
            seen.commands.push((number, command.to_owned()));
            *seen.verbs.entry(verb.clone()).or_default() += 1;
        });
        match answer {
            Answer::Usual => self.usual(command)?,
            Answer::Say(text) => {
                self.say(text)?;
                if command != "." && verb == "MAIL" {
                    self.mail = None;
                }
            }
            Answer::SayAndClose(text) => {
                self.say(text)?;
                return Ok(Some(Ending::Close));
            }
            Answer::UsualThenSayAndClose(text) => {
                self.usual(command)?;
                self.say(text)?;
                return Ok(Some(Ending::Close));
            }
            Answer::CorruptRecord => {
                let record = [&[23, 3, 3, 0, 64][..], &[0xa5; 64]].concat();
                self.link.socket().write_all(&record)?;
                while self.link.receive()? {}
                return Ok(Some(Ending::Close));
            }
            Answer::Close => return Ok(Some(Ending::Close)),
            Answer::Reset => return Ok(Some(Ending::Reset)),
            Answer::Dribble(piece) => loop {
                self.link.send(piece.as_bytes())?;
                std::thread::sleep(BETWEEN_DRIBBLES);
            },
            Answer::SipContent => {
                // The kernel would else take all of it at once.
                let socket = socket2::SockRef::from(self.link.socket());
                socket.set_recv_buffer_size(SIP_BYTES)?;
                self.say("354 Go on")?;
                loop {
                    io::Read::read_exact(&mut self.link.socket(), &mut vec![0; SIP_BYTES])?;
                    std::thread::sleep(BETWEEN_SIPS);
                }
            }
            Answer::Stall => {
                while self.link.receive()? {}
                return Ok(Some(Ending::Close));
            }
        }
        Ok(None)
    }

    fn usual(&mut self, command: &str) -> io::Result<()> {
        let upper = command.to_ascii_uppercase();
        match upper.split([' ', ':']).next().unwrap_or("") {
            "CONNECT" => self.say("220 hop.test ESMTP"),
            "EHLO" => self.greet(),
            "HELO" => self.say("250 hop.test"),
            "STARTTLS" => self.start_tls(),
            "MAIL" => {
                self.mail = Some(Mail {
                    connection: self.number,
                    over_tls: self.link.is_tls(),
                    from: command.to_owned(),
                    to: Vec::new(),
                    content: String::new(),
                });
                self.say("250 2.1.0 Ok")
            }
            "RCPT" => match &mut self.mail {
                Some(mail) => {
                    mail.to.push(command.to_owned());
                    self.say("250 2.1.5 Ok")
                }
                None => self.say("503 5.5.1 MAIL first"),
            },
            "DATA" => match &self.mail {
                Some(mail) if !mail.to.is_empty() => self.data(),
                _ => self.say("503 5.5.1 RCPT first"),
            },
            "." => self.take(),
            "RSET" => {
                self.mail = None;
                self.say("250 2.0.0 Ok")
            }
            "QUIT" => self.say("221 2.0.0 Bye"),
            _ => self.say("500 5.5.1 What?"),
        }
    }

    fn greet(&mut self) -> io::Result<()> {
        let mut lines = vec!["hop.test"];
        lines.extend(self.settings.keywords.lines());
        if self.settings.starttls != StartTls::NotOffered && !self.link.is_tls() {
            lines.push("STARTTLS");
        }
        let last = lines.len() - 1;
        let reply: String = lines
            .iter()
            .enumerate()
            .map(|(number, line)| match number == last {
                true => format!("250 {line}\r\n"),
                false => format!("250-{line}\r\n"),
            })
            .collect();
        self.link.send(reply.as_bytes())
    }

    fn start_tls(&mut self) -> io::Result<()> {
        match self.settings.starttls {
            StartTls::NotOffered => self.say("502 5.5.1 No"),
            StartTls::Refused => self.say("454 4.7.0 TLS not available"),
            StartTls::Works => {
                self.say("220 2.0.0 Go ahead")?;
                self.link.start_tls_as_server()
            }
            StartTls::DemandsCertificate => {
                self.say("220 2.0.0 Go ahead")?;
                self.link.start_tls_for_known_clients()
            }
            StartTls::BreaksWhenResumed => {
                self.say("220 2.0.0 Go ahead")?;
                self.link.start_tls_as_server()?;
                match self.link.is_resumed() {
                    true => Err(io::ErrorKind::UnexpectedEof.into()),
                    false => Ok(()),
                }
            }
            StartTls::ClosesAfterHandshake => {
                self.say("220 2.0.0 Go ahead")?;
                self.link.start_tls12_as_server()?;
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            StartTls::Injected => {
                self.say("220 2.0.0 Go ahead\r\n250-evil.test\r\n250 SIZE 1")?;
                self.link.start_tls_as_server()
            }
            StartTls::Garbage => {
                self.say("220 2.0.0 Go ahead")?;
                self.say("this is no TLS record, and it is long enough to be taken for none")?;
                while self.link.receive()? {}
                Ok(())
            }
            StartTls::Stalls => {
                self.say("220 2.0.0 Go ahead")?;
                while self.link.receive()? {}
                Ok(())
            }
            StartTls::Closes => {
                self.say("220 2.0.0 Go ahead")?;
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
    }

    fn data(&mut self) -> io::Result<()> {
        self.say("354 Go on")?;
        // The relay's trace header is always there, so the dot is never the first line.
        let content = self.link.until(b"\r\n.\r\n")?;
        let content = String::from_utf8_lossy(&content);
        let content = content.strip_suffix(".\r\n").unwrap_or(&content);
        if let Some(mail) = &mut self.mail {
            mail.content = undo_dots(content);
        }
        match self.answer(".")? {
            None => Ok(()),
            Some(Ending::Close) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(Ending::Reset) => {
                // The end of the session is the caller's; a reset must come from here.
                let _ = socket2::SockRef::from(self.link.socket())
                    .set_linger(Some(std::time::Duration::ZERO));
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
    }

    fn take(&mut self) -> io::Result<()> {
        if let Some(mail) = self.mail.take() {
            self.seen.change(|seen| seen.mails.push(mail));
        }
        self.say("250 2.0.0 Ok: taken")
    }
}

fn undo_dots(content: &str) -> String {
    let lines = content.split_inclusive("\r\n");
    lines
        .map(|line| line.strip_prefix('.').unwrap_or(line))
        .collect()
}
