//! The process of the relay: its command, its start and its end.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sink::FarSide;

/// How long the relay may take after SIGTERM before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(15);

const POLL: Duration = Duration::from_millis(10);

/// Of what a command prints; `None` if it fails.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next().filter(|_| output.status.success())?;
    Some(line.trim().to_string()).filter(|line| !line.is_empty())
}

/// How a relay is started: the words of its command and where its output goes.
#[derive(Clone, Debug)]
pub struct RelayCommand {
    words: Vec<String>,
    pub log: PathBuf,
}

impl RelayCommand {
    /// Splits `command` into words and replaces the placeholders.
    pub fn new(
        command: &str,
        listen: SocketAddr,
        sink: FarSide,
        spool: &str,
        log: PathBuf,
    ) -> Result<Self, String> {
        let mut values = vec![
            ("{listen}", listen.to_string()),
            ("{listen_ip}", listen.ip().to_string()),
            ("{listen_port}", listen.port().to_string()),
            ("{sink}", sink.sink.to_string()),
            ("{sink_ip}", sink.sink.ip().to_string()),
            ("{sink_port}", sink.sink.port().to_string()),
            ("{spool}", spool.to_string()),
        ];
        match sink.dns {
            Some(dns) => values.extend([
                ("{dns}", dns.to_string()),
                ("{dns_ip}", dns.ip().to_string()),
                ("{dns_port}", dns.port().to_string()),
            ]),
            None if command.contains("{dns") => {
                return Err("--relay-cmd asks for a name server, which --mx-hosts starts".into());
            }
            None => {}
        }
        let mut words = split_words(command)?;
        for word in &mut words {
            for (name, value) in &values {
                *word = word.replace(name, value);
            }
        }
        if words.is_empty() {
            return Err("--relay-cmd is empty".into());
        }
        Ok(Self { words, log })
    }

    /// What the program says to `--version`, and the commit of the working tree that it lies in. Only
    /// of ringpost: what another program does with that flag is not known.
    pub fn version(&self) -> Option<String> {
        let program = Path::new(self.words.first()?);
        if program.file_name()? != "ringpost" {
            return None;
        }
        let said = first_line(Command::new(program).arg("--version"))?;
        let found = program.canonicalize().ok();
        let commit = found.and_then(|program| {
            let describe = ["describe", "--always", "--dirty", "--exclude=*"];
            first_line(
                Command::new("git")
                    .arg("-C")
                    .arg(program.parent()?)
                    .args(describe),
            )
        });
        Some(match commit {
            Some(commit) => format!("{said}, tree at {commit}"),
            None => said,
        })
    }

    /// Starts the relay; what it writes is appended to the log.
    pub fn start(&self) -> io::Result<Relay> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.words[0])
            .args(&self.words[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Relay { child })
    }

    /// The last lines of what the relay wrote.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(2000)..];
        String::from_utf8_lossy(tail).into_owned()
    }
}

/// Words separated by blanks; single or double quotes keep blanks.
fn split_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("--relay-cmd has a quote that does not end".into());
    }
    words.extend(word);
    Ok(words)
}

/// A running relay; killed when dropped.
pub struct Relay {
    child: Child,
}

impl Relay {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `Some` when it ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// SIGTERM, and waits for it to end in peace; kills it if it does not.
    pub fn stop(&mut self) -> Stopped {
        if let Some(status) = self.ended() {
            return Stopped::EndedBefore(status);
        }
        // It has not been waited for, so the number is still its own.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + STOP_WAIT;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Stopped::Ended(status);
            }
            std::thread::sleep(POLL);
        }
        let _ = self.kill();
        Stopped::Killed
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.kill();
        }
    }
}

/// How the relay ended after a run.
#[derive(Clone, Copy, Debug)]
pub enum Stopped {
    Ended(ExitStatus),
    /// It was gone before it was asked.
    EndedBefore(ExitStatus),
    /// It did not end in time.
    Killed,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended(status) => write!(f, "ended on SIGTERM ({status})"),
            Self::EndedBefore(status) => write!(f, "ended BY ITSELF ({status})"),
            Self::Killed => write!(f, "did NOT END within {STOP_WAIT:?} of SIGTERM; killed"),
        }
    }
}

/// An address with a port that was free a moment ago, if `wanted` has port 0.
pub fn free_address(wanted: SocketAddr) -> io::Result<SocketAddr> {
    if wanted.port() != 0 {
        return Ok(wanted);
    }
    std::net::TcpListener::bind(wanted)?.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_and_filled_in() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let command = RelayCommand::new(
            "relay --listen {listen} --route '*=[{sink_ip}]:{sink_port}' --name \"a b\" ''",
            address("127.0.0.1:25"),
            FarSide {
                sink: address("127.0.0.2:26"),
                dns: None,
            },
            "/s",
            "/dev/null".into(),
        );
        let words = command.unwrap().words;
        let wanted = [
            "relay",
            "--listen",
            "127.0.0.1:25",
            "--route",
            "*=[127.0.0.2]:26",
            "--name",
            "a b",
            "",
        ];
        assert_eq!(words, wanted);
        assert!(split_words("a 'b").is_err());
    }

    #[test]
    fn a_relay_is_told_the_name_server() {
        let far_side = FarSide {
            sink: ([127, 0, 0, 1], 2525).into(),
            dns: Some(([127, 0, 0, 1], 53).into()),
        };
        let words = |command, far_side| {
            let listen = ([127, 0, 0, 1], 25).into();
            RelayCommand::new(command, listen, far_side, "/s", "/dev/null".into())
                .map(|it| it.words)
        };
        let told = words("{dns} {dns_ip} {dns_port} {sink_port}", far_side);
        assert_eq!(told.unwrap(), ["127.0.0.1:53", "127.0.0.1", "53", "2525"]);
        let nobody = FarSide {
            dns: None,
            ..far_side
        };
        assert!(words("relay {dns_port}", nobody).is_err());
    }
}
