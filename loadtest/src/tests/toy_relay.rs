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
                let _ = self.send(&message);
                continue;
            }
            for path in mails(&self.spool) {
                let delivered = fs::read_to_string(&path).and_then(|mail| self.send(&mail));
                if matches!(delivered, Ok(true)) {
                    let _ = fs::remove_file(path);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// True when the sink took it for all recipients.
    fn send(&self, message: &str) -> io::Result<bool> {
        let stream = TcpStream::connect(&self.sink)?;
        let mut out = stream.try_clone()?;
        let mut replies = BufReader::new(stream);
        let mut say = |text: &str, code: &str| -> io::Result<bool> {
            out.write_all(text.as_bytes())?;
            loop {
                let mut reply = String::new();
                replies.read_line(&mut reply)?;
                if reply.as_bytes().get(3) != Some(&b'-') {
                    return Ok(reply.starts_with(code));
                }
            }
        };
        let (envelope, body) = message.split_once("DATA\r\n").unwrap();
        let mut ok = say("", "220")? && say("EHLO toy\r\n", "250")?;
        for line in envelope.split_inclusive("\r\n") {
            ok = ok && say(line, "250")?;
        }
        Ok(ok && say("DATA\r\n", "354")? && say(body, "250")?)
    }
}

fn mails(spool: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(spool).unwrap().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == "mail"))
        .collect()
}
