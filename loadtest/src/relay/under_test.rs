//! The relay under test: where it is, when it greets, and what is known of its process.

use std::fs;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::figures::relay::RelayCounters;
use crate::host::process::{Usage, usage_of_tree};
use crate::host::scratch::Scratch;
use crate::options::shared::RelayOptions;
use crate::relay::log;
use crate::relay::process::{Relay, RelayCommand, free_address};
use crate::sink::FarSide;

/// Between two looks whether it greets.
const TICK: Duration = Duration::from_millis(20);

/// How long a connection, and then a greeting, may take.
const GREETING_WAIT: Duration = Duration::from_secs(1);

/// The relay under test: where it is, and what is known of its process.
pub struct UnderTest {
    pub address: SocketAddr,
    pub command: Option<RelayCommand>,
    pub process: Option<Relay>,
    pub pid: Option<u32>,
    scratch: Scratch,
}

impl UnderTest {
    /// Source straight into sink, or a relay that runs anyway.
    pub fn elsewhere(address: SocketAddr, pid: Option<u32>) -> Self {
        Self {
            address,
            command: None,
            process: None,
            pid,
            scratch: Scratch::default(),
        }
    }

    /// Prepares a spool and a log; `start` starts it.
    pub fn prepare(options: &RelayOptions, sink: FarSide) -> Result<Self, Failure> {
        let Some(command) = &options.relay_cmd else {
            return Err(
                "what is to be tested? --relay-cmd, or in a run --relay or --direct".into(),
            );
        };
        if options.relay_listen.port() == 0 && !command.contains("{listen") {
            return Err(
                "--relay-cmd says nowhere that the relay is to listen on {listen} (or \
                        {listen_ip} and {listen_port}); for a fixed address give --relay-listen"
                    .into(),
            );
        }
        let address = free_address(options.relay_listen)?;
        let mut scratch = Scratch::default();
        let spool = match &options.spool {
            Some(spool) => spool.clone(),
            None => scratch.directory()?.join("spool"),
        };
        fs::create_dir_all(&spool)?;
        let log = match &options.relay_log {
            Some(log) => log.clone(),
            None => scratch.directory()?.join("relay.log"),
        };
        let spool = spool.to_str().ok_or("the spool's path is not UTF-8")?;
        let command = RelayCommand::new(command, address, sink, spool, log)?;
        Ok(Self {
            address,
            command: Some(command),
            process: None,
            pid: None,
            scratch,
        })
    }

    pub fn start(&mut self) -> Result<(), Failure> {
        let Some(command) = &self.command else {
            return Ok(());
        };
        let relay = command
            .start()
            .map_err(|error| format!("cannot start the relay: {error}"))?;
        self.pid = Some(relay.pid());
        self.process = Some(relay);
        Ok(())
    }

    /// What the relay under test is, if it says so.
    pub fn version(&self) -> Option<String> {
        self.command.as_ref().and_then(RelayCommand::version)
    }

    /// Waits until the relay greets.
    pub fn await_greeting(&mut self, seconds: f64) -> Result<(), Failure> {
        self.await_greeting_and(seconds, |_| std::thread::sleep(TICK))
    }

    /// The same, and does something else (which takes a moment) between its attempts.
    pub fn await_greeting_and(
        &mut self,
        seconds: f64,
        mut meanwhile: impl FnMut(&Self),
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs_f64(seconds);
        let mut why = String::new();
        while Instant::now() < deadline {
            if self.ended_by_itself() {
                return Err(format!("the relay ended at once:\n{}", self.log_tail()).into());
            }
            match greets(self.address) {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
            meanwhile(self);
        }
        let log = self.log_tail();
        Err(format!("{} does not greet: {why}\n{log}", self.address)
            .trim_end()
            .into())
    }

    pub fn ended_by_itself(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| process.ended().is_some())
    }

    /// The last lines of what the relay wrote.
    pub fn log_tail(&self) -> String {
        self.command
            .as_ref()
            .map(RelayCommand::log_tail)
            .unwrap_or_default()
    }

    /// What the relay said of itself when it ended.
    pub fn counters(&self) -> Option<RelayCounters> {
        let command = self.command.as_ref()?;
        log::last_counters(&command.log).ok().flatten()
    }

    pub fn usage(&self) -> Option<Usage> {
        self.pid.and_then(usage_of_tree)
    }

    /// Stops the relay, if it was started here; says how it went.
    pub fn stop(&mut self) -> Option<String> {
        let stopped = self.process.as_mut()?.stop();
        self.process = None;
        Some(stopped.to_string())
    }

    /// See [`Scratch::tidy`].
    pub fn tidy(&mut self, clean: bool) {
        self.scratch.tidy(clean);
    }
}

/// A connection, or what to do about none.
pub fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect_timeout(&address, GREETING_WAIT).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "the connection was refused: nobody listens there (ss -ltn shows who listens where)"
                .to_string()
        }
        _ => format!("no connection: {error}"),
    })
}

fn greets(address: SocketAddr) -> Result<(), String> {
    let mut stream = connect(address)?;
    // With implicit TLS nothing is said before the handshake; that counts as ready, too.
    let mut greeting = [0; 3];
    let _ = stream.set_read_timeout(Some(GREETING_WAIT));
    match stream.read(&mut greeting) {
        Ok(0) => Err("the connection is closed without a greeting".to_string()),
        Ok(read) if greeting[..read] == b"220"[..read] => Ok(()),
        Ok(read) => {
            let code = String::from_utf8_lossy(&greeting[..read]);
            Err(format!("its greeting begins with {code:?}"))
        }
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(()),
            _ => Err(error.to_string()),
        },
    }
}
