//! Clients side by side that send numbered messages, and what each was told.

use crate::support::link::Link;
use crate::support::next_hop::{Mail, NextHop};
use crate::support::{PATIENCE, Watched};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Between a failed connection or a refusal and the next try of a client.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Told {
    /// The reply that decided.
    Reply(u16),
    /// The connection broke between the end of the data and its reply.
    Open,
}

pub struct Load {
    relay: SocketAddr,
    /// Of a message's content, about.
    bytes: usize,
    with_tls: bool,
    next: AtomicUsize,
    over: AtomicBool,
    told: Watched<BTreeMap<usize, Told>>,
}

impl Load {
    pub fn new(relay: SocketAddr, bytes: usize) -> Self {
        Load {
            relay,
            bytes,
            with_tls: false,
            next: AtomicUsize::new(1),
            over: AtomicBool::new(false),
            told: Watched::new(BTreeMap::new()),
        }
    }

    pub fn with_tls(self) -> Self {
        Load {
            with_tls: true,
            ..self
        }
    }

    /// Runs `story` while so many clients send.
    pub fn during<R>(&self, clients: usize, story: impl FnOnce() -> R) -> R {
        std::thread::scope(|scope| {
            for _ in 0..clients {
                scope.spawn(|| self.send_on());
            }
            let end = End(&self.over);
            let result = story();
            drop(end);
            result
        })
    }

    /// The number of the next message that is begun; all earlier ones have been.
    pub fn next(&self) -> usize {
        self.next.load(Ordering::SeqCst)
    }

    /// Waits until so many messages from number `from` on have been told this.
    pub fn wait(&self, count: usize, from: usize, wanted: impl Fn(Told) -> bool) {
        let found = self.told.wait(PATIENCE, |told| {
            let which = told.range(from..).filter(|(_, told)| wanted(**told));
            (which.count() >= count).then_some(())
        });
        assert!(
            found.is_some(),
            "{count} from {from}: {:?}",
            self.told.lock()
        );
    }

    pub fn wait_for_accepted(&self, count: usize, from: usize) {
        self.wait(count, from, |told| told == Told::Reply(250));
    }

    /// What the messages from number `from` on were told.
    pub fn told(&self, from: usize) -> BTreeSet<Told> {
        self.told
            .lock()
            .range(from..)
            .map(|(_, &told)| told)
            .collect()
    }

    pub fn accepted(&self) -> BTreeSet<usize> {
        let told = self.told.lock();
        let accepted = told.iter().filter(|(_, told)| **told == Told::Reply(250));
        accepted.map(|(&number, _)| number).collect()
    }

    /// Waits until the hop has everything that was accepted, whole; gives how many came more than once.
    pub fn wait_until_delivered(&self, hop: &NextHop) -> usize {
        let accepted = self.accepted();
        let mails = hop.seen().wait(PATIENCE, |seen| {
            let came: BTreeSet<usize> = seen.mails.iter().filter_map(number_of).collect();
            accepted.is_subset(&came).then(|| seen.mails.clone())
        });
        let Some(mails) = mails else {
            let came: BTreeSet<usize> = hop.mails().iter().filter_map(number_of).collect();
            panic!("lost: {:?}", accepted.difference(&came));
        };
        let numbers: Vec<usize> = mails.iter().filter_map(number_of).collect();
        let is_whole = |mail: &Mail| mail.content.ends_with(&self.body());
        assert!(
            mails
                .iter()
                .filter(|m| number_of(m).is_some())
                .all(is_whole)
        );
        numbers.len() - numbers.iter().collect::<BTreeSet<_>>().len()
    }

    fn body(&self) -> String {
        "0123456789 0123456789 0123456789 0123456789 0123456789 0123456\r\n"
            .repeat(self.bytes.div_ceil(64))
    }

    fn send_on(&self) {
        let mut link = None;
        while !self.over.load(Ordering::SeqCst) {
            let Some(open) = link.take().or_else(|| self.open().ok()) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            link = self.send(open);
        }
    }

    fn open(&self) -> io::Result<Link> {
        let mut link = Link::connect(self.relay)?;
        expect(&mut link, 220)?;
        command(&mut link, "EHLO client.test", 250)?;
        if self.with_tls {
            command(&mut link, "STARTTLS", 220)?;
            link.start_tls_as_client(b"")?;
            command(&mut link, "EHLO client.test", 250)?;
        }
        Ok(link)
    }

    /// Sends one message; the connection, if it is still good.
    fn send(&self, mut link: Link) -> Option<Link> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let code = match self.transact(&mut link, number) {
            Ok(code) => code,
            Err(Broken::BeforeItsEnd) => return None,
            Err(Broken::AfterItsEnd) => {
                self.told.change(|told| _ = told.insert(number, Told::Open));
                return None;
            }
        };
        self.told
            .change(|told| _ = told.insert(number, Told::Reply(code)));
        if code == 250 {
            return Some(link);
        }
        std::thread::sleep(PAUSE);
        None
    }

    fn transact(&self, link: &mut Link, number: usize) -> Result<u16, Broken> {
        for (line, wanted) in [
            ("MAIL FROM:<a@sender.test>", 250),
            ("RCPT TO:<b@example.test>", 250),
            ("DATA", 354),
        ] {
            let code = say(link, line).map_err(|_| Broken::BeforeItsEnd)?;
            if code != wanted {
                return Ok(code);
            }
        }
        let content = format!("Subject: number {number}\r\n\r\n{}", self.body());
        let sent = link.send(content.as_bytes());
        sent.map_err(|_| Broken::BeforeItsEnd)?;
        say(link, ".").map_err(|_| Broken::AfterItsEnd)
    }
}

enum Broken {
    BeforeItsEnd,
    AfterItsEnd,
}

/// Ends the clients, also when the story panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn say(link: &mut Link, line: &str) -> io::Result<u16> {
    link.send(format!("{line}\r\n").as_bytes())?;
    reply(link)
}

fn reply(link: &mut Link) -> io::Result<u16> {
    loop {
        let line = link.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.as_bytes().get(3) != Some(&b'-') {
            let code = line.get(..3).and_then(|code| code.parse().ok());
            return code.ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }
}

fn expect(link: &mut Link, wanted: u16) -> io::Result<()> {
    match reply(link)? == wanted {
        true => Ok(()),
        false => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}

fn command(link: &mut Link, line: &str, wanted: u16) -> io::Result<()> {
    link.send(format!("{line}\r\n").as_bytes())?;
    expect(link, wanted)
}

/// Which of the load's messages this is.
pub fn number_of(mail: &Mail) -> Option<usize> {
    let (_, rest) = mail.content.split_once("\r\nSubject: number ")?;
    rest.split_once("\r\n")?.0.parse().ok()
}
