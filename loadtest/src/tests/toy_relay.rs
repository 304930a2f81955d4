//! A store-and-forward relay in the fewest lines: one thread per connection, one file per message,
//! one thread that delivers. It survives `kill -9`, unless it is told to cheat.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Honesty {
    Honest,
    /// Keeps in memory what it accepted.
    Forgetful,
    Lossy,
    Repeating,
    Altering,
    /// Says nothing to the sender of recipients that the sink refuses for good.
    Silent,
    /// Reports on recipients that the sink has taken.
    Rash,
    /// Hangs up on clients that say nothing for half a second.
    Impatient,
}

struct Toy {
    honesty: Honesty,
    sink: String,
    spool: PathBuf,
    memory: Mutex<VecDeque<String>>,
    counter: AtomicU64,
}

/// Not a test: other tests start this binary with this name to get a relay. It ends when killed.
#[test]
#[ignore = "a relay for other tests"]
fn be_a_relay() {
    let get = |name: &str| std::env::var(name).ok();
    let (Some(honesty), Some(listen)) = (get("TOY"), get("TOY_LISTEN")) else {
        return;
    };
    let toy = Arc::new(Toy {
        honesty: match honesty.as_str() {
            "forgetful" => Honesty::Forgetful,
            "lossy" => Honesty::Lossy,
            "repeating" => Honesty::Repeating,
            "impatient" => Honesty::Impatient,
            "altering" => Honesty::Altering,
            "silent" => Honesty::Silent,
            "rash" => Honesty::Rash,
            _ => Honesty::Honest,
        },
        sink: get("TOY_SINK").unwrap(),
        spool: get("TOY_SPOOL").unwrap().into(),
        memory: Mutex::default(),
        counter: AtomicU64::new(0),
    });
    let listener = TcpListener::bind(listen).unwrap();
    let delivering = toy.clone();
    std::thread::spawn(move || delivering.deliver_for_ever());
    for stream in listener.incoming().flatten() {
        let toy = toy.clone();
        std::thread::spawn(move || toy.receive(stream));
    }
}

impl Toy {
    fn receive(&self, stream: TcpStream) -> io::Result<()> {
        if self.honesty == Honesty::Impatient {
            stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        }
        let mut out = stream.try_clone()?;
        let mut lines = BufReader::new(stream);
        let mut message = String::new();
        out.write_all(b"220 toy\r\n")?;
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let reply = match &line[..4.min(line.len())] {
                "EHLO" => "250-toy\r\n250 PIPELINING\r\n",
                "QUIT" => "221 bye\r\n",
                "DATA" => {
                    out.write_all(b"354 go\r\n")?;
                    message.push_str("DATA\r\n");
                    while !message.ends_with("\r\n.\r\n") {
                        if lines.read_line(&mut message)? == 0 {
                            return Ok(());
                        }
                    }
                    self.accept(std::mem::take(&mut message))?;
                    "250 taken\r\n"
                }
                _ => {
                    message.push_str(&line);
                    "250 ok\r\n"
                }
            };
            out.write_all(reply.as_bytes())?;
        }
    }

    /// Spools a message, or what passes for it.
    fn accept(&self, message: String) -> io::Result<()> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let odd_one = number % 50 == 7;
        match self.honesty {
            Honesty::Forgetful => {
                self.memory.lock().unwrap().push_back(message);
                return Ok(());
            }
            Honesty::Lossy if odd_one => return Ok(()),
            Honesty::Repeating if odd_one => self.store(&message, number, "again")?,
            Honesty::Altering if odd_one => {
                return self.store(&message.replacen("e\r\n.\r\n", "f\r\n.\r\n", 1), number, "");
            }
            _ => {}
        }
        self.store(&message, number, "")
    }

    fn store(&self, message: &str, number: u64, suffix: &str) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        let name = format!("{now}-{number}{suffix}");
        let half = self.spool.join(format!("{name}.half"));
        fs::write(&half, message)?;
        fs::rename(half, self.spool.join(format!("{name}.mail")))
    }

    fn deliver_for_ever(&self) {
        loop {
            let next = self.memory.lock().unwrap().pop_front();
            if let Some(message) = next {
                let _ = self.deliver(&message);
                continue;
            }
            for path in mails(&self.spool) {
                let delivered = fs::read_to_string(&path).and_then(|mail| self.deliver(&mail));
                if matches!(delivered, Ok(true)) {
                    let _ = fs::remove_file(path);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// True when nothing is left to do: the sink took it, and who was refused for good is reported.
    fn deliver(&self, message: &str) -> io::Result<bool> {
        let (envelope, content) = message.split_once("DATA\r\n").unwrap();
        let (mail, recipients) = envelope.split_once("\r\n").unwrap();
        let Some(mut failed) = self.send(mail, recipients, content)? else {
            return Ok(false);
        };
        match self.honesty {
            Honesty::Silent => failed.clear(),
            Honesty::Rash => failed = recipients.to_string(),
            _ => {}
        }
        Ok(failed.is_empty() || self.report(mail, &failed)?)
    }

    /// Reports on the recipients of these RCPT commands.
    fn report(&self, mail: &str, failed: &str) -> io::Result<bool> {
        let mut content = "Subject: failed\r\n\r\n".to_string();
        for rcpt in failed.lines() {
            let recipient = path(rcpt);
            content += &format!("Final-Recipient: rfc822; {recipient}\r\nAction: failed\r\n\r\n");
        }
        content += ".\r\n";
        let to = format!("RCPT TO:<{}>\r\n", path(mail));
        let refused = self.send("MAIL FROM:<>", &to, &content)?;
        Ok(refused.is_some())
    }

    /// The RCPT commands that were refused for good; `None`: to be tried again.
    fn send(&self, mail: &str, recipients: &str, content: &str) -> io::Result<Option<String>> {
        let stream = TcpStream::connect(&self.sink)?;
        let mut out = stream.try_clone()?;
        let mut replies = BufReader::new(stream);
        let mut say = |text: &str| -> io::Result<String> {
            out.write_all(text.as_bytes())?;
            loop {
                let mut reply = String::new();
                if replies.read_line(&mut reply)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if reply.as_bytes().get(3) != Some(&b'-') {
                    return Ok(reply);
                }
            }
        };
        for command in ["", "EHLO toy\r\n", &format!("{mail}\r\n")] {
            if !say(command)?.starts_with('2') {
                return Ok(None);
            }
        }
        let mut refused = String::new();
        for rcpt in recipients.split_inclusive("\r\n") {
            match say(rcpt)?.as_bytes()[0] {
                b'2' => {}
                b'5' => refused += rcpt,
                _ => return Ok(None),
            }
        }
        let is_sent = refused == recipients
            || say("DATA\r\n")?.starts_with('3') && say(content)?.starts_with('2');
        Ok(is_sent.then_some(refused))
    }
}

/// What stands between the angle brackets of a command.
fn path(command: &str) -> &str {
    let (_, rest) = command.split_once('<').unwrap();
    rest.split_once('>').unwrap().0
}

fn mails(spool: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(spool).unwrap().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == "mail"))
        .collect()
}
