//! Processes and threads as the kernel sees them: CPU time, memory, signals, and the relay under
//! test. The only file with unsafe code.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sink::FarSide;

/// How long the relay may take after SIGTERM before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(10);

/// CPU time and memory of a process, its threads and all its descendants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub user_us: u64,
    pub system_us: u64,
    /// Sum of the peak resident sizes of the processes that live; shared pages count each time.
    pub peak_rss_bytes: u64,
    pub rss_bytes: u64,
}

impl Usage {
    pub fn cpu_us(&self) -> u64 {
        self.user_us + self.system_us
    }
}

/// What process `root` and its descendants have used so far; `None` when it is gone.
///
/// The CPU time of processes that live, with all threads they ever had, is exact to the
/// microsecond; how it divides into user and system comes from the kernel's ticks (10 ms).
/// Processes that ended count as soon as their parent has waited for them, in ticks (until then
/// they are zombies, and seen as such). Lost are those whose parent ended before them or ignores
/// SIGCHLD, with what they used.
pub fn usage_of_tree(root: u32) -> Option<Usage> {
    let stats = all_stats();
    stats.get(&root)?;
    let mut usage = Usage::default();
    for pid in tree(root, &stats) {
        let (user_us, system_us) = stats[&pid].cpu_us(process_cpu_us(pid));
        usage.user_us += user_us;
        usage.system_us += system_us;
        let (rss, peak) = memory(pid);
        usage.rss_bytes += rss;
        usage.peak_rss_bytes += peak;
    }
    Some(usage)
}

/// CPU time of each thread of a process and its descendants, in nanoseconds: finer than
/// [`usage_of_tree`], for times in which next to nothing is used.
#[derive(Clone, Debug, Default)]
pub struct ThreadTimes(HashMap<u32, u64>);

impl ThreadTimes {
    /// As it is now; empty when the process is gone.
    pub fn of_tree(root: u32) -> Self {
        let pids = tree(root, &all_stats());
        let threads = pids.iter().flat_map(|pid| {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"));
            tasks.into_iter().flatten().flatten()
        });
        let times = threads.filter_map(|thread| {
            let id = thread.file_name().to_str()?.parse().ok()?;
            // Time on a CPU, time in the queue, slices.
            let schedule = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let on_cpu = schedule.split_ascii_whitespace().next()?;
            Some((id, on_cpu.parse().ok()?))
        });
        Self(times.collect())
    }

    /// What was used since `before`, by threads that still live: one that ended takes its count
    /// with it.
    pub fn since(&self, before: &Self) -> Duration {
        let used = self.0.iter().map(|(id, &now)| {
            let then = before.0.get(id).copied().unwrap_or(0);
            now.saturating_sub(then)
        });
        Duration::from_nanos(used.sum())
    }
}

/// Memory and descriptors of a process and its descendants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resident {
    /// Resident, with the pages of files that are mapped; shared pages count each time.
    pub rss_bytes: u64,
    /// Resident and private to the process (clean and dirty).
    pub private_bytes: u64,
    /// Resident and of no file: heap and stacks, what the program itself uses.
    pub anonymous_bytes: u64,
    pub descriptors: u64,
}

/// From /proc/PID/smaps_rollup; `None` when the process is gone.
pub fn resident_of_tree(root: u32) -> Option<Resident> {
    let stats = all_stats();
    stats.get(&root)?;
    let mut sum = Resident::default();
    for pid in tree(root, &stats) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        let (Ok(rollup), Ok(descriptors)) = (rollup, descriptors) else {
            if pid == root {
                return None;
            }
            // It has ended since it was listed, and holds nothing any more.
            continue;
        };
        sum.rss_bytes += kilobytes_field(&rollup, "Rss:");
        sum.private_bytes += kilobytes_field(&rollup, "Private_Clean:");
        sum.private_bytes += kilobytes_field(&rollup, "Private_Dirty:");
        sum.anonymous_bytes += kilobytes_field(&rollup, "Anonymous:");
        sum.descriptors += descriptors.count() as u64;
    }
    Some(sum)
}

/// A line such as `Rss:   1234 kB`, in bytes; 0 if there is none.
fn kilobytes_field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|l| l.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    user_us: u64,
    system_us: u64,
    /// Of the children that it waited for, and of theirs.
    children_user_us: u64,
    children_system_us: u64,
}

impl Stat {
    /// User and system time with that of the children; `exact_us` is what the process itself used
    /// in all, if that is known.
    fn cpu_us(&self, exact_us: Option<u64>) -> (u64, u64) {
        let ticked_us = self.user_us + self.system_us;
        let own_us = exact_us.unwrap_or(ticked_us);
        let user_us = match ticked_us {
            0 => 0,
            _ => (u128::from(own_us) * u128::from(self.user_us) / u128::from(ticked_us)) as u64,
        };
        (
            user_us + self.children_user_us,
            own_us - user_us + self.children_system_us,
        )
    }
}

fn all_stats() -> HashMap<u32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&text, ticks_per_second())
}

/// The fields of proc(5): user and system time of the process and of the children it waited for.
fn parse_stat(text: &str, ticks_per_second: u64) -> Option<Stat> {
    // The command's name is in parentheses and may hold blanks and parentheses.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let us = |ticks: u64| ticks * 1_000_000 / ticks_per_second;
    Some(Stat {
        parent: number(1)? as u32,
        user_us: us(number(11)?),
        system_us: us(number(12)?),
        children_user_us: us(number(13)?),
        children_system_us: us(number(14)?),
    })
}

/// `root` and everything below it.
fn tree(root: u32, stats: &HashMap<u32, Stat>) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        let children = stats.iter().filter(|(_, stat)| stat.parent == parent);
        found.extend(children.map(|(&pid, _)| pid).filter(|&pid| pid != root));
        next += 1;
    }
    found
}

/// Resident bytes now and at most.
fn memory(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    (
        kilobytes_field(&status, "VmRSS:"),
        kilobytes_field(&status, "VmHWM:"),
    )
}

fn ticks_per_second() -> u64 {
    // SAFETY: sysconf reads a constant and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks)
        .ok()
        .filter(|&ticks| ticks > 0)
        .unwrap_or(100)
}

/// CPU time of the calling thread, user and system, in microseconds.
pub fn thread_cpu_us() -> u64 {
    clock_us(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0)
}

/// CPU time of a process and all threads it ever had, without its children, in microseconds.
fn process_cpu_us(pid: u32) -> Option<u64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a live local of the type that the call expects.
    let failed = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) } != 0;
    if failed { None } else { clock_us(clock) }
}

fn clock_us(clock: libc::clockid_t) -> Option<u64> {
    // SAFETY: an all-zero timespec is a valid value for the kernel to overwrite.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local of the type that the call expects.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return None;
    }
    Some(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000)
}

/// Allows as many open files as the hard limit does; thousands of connections need it.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a pointer to a live local of the type that they expect.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

fn terminate(pid: u32) {
    // SAFETY: a plain system call; the pid is that of a child that was not waited for yet.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
}

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
        terminate(self.child.id());
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
    use std::io::Read;

    use super::*;

    #[test]
    fn stat_is_read_past_a_strange_name() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 0 1 2 3 4 150 50 10 20 20 0 1 0 99 0 0";
        let stat = parse_stat(text, 100).unwrap();
        assert_eq!(stat.parent, 7);
        assert_eq!(stat.cpu_us(None), (1_600_000, 700_000));
    }

    #[test]
    fn exact_time_is_divided_as_the_ticks_are() {
        let stat = |user_us, system_us| Stat {
            parent: 1,
            user_us,
            system_us,
            children_user_us: 5,
            children_system_us: 7,
        };
        assert_eq!(stat(30_000, 10_000).cpu_us(Some(48_000)), (36_005, 12_007));
        assert_eq!(stat(0, 0).cpu_us(Some(999)), (5, 1006));
        assert_eq!(stat(30_000, 0).cpu_us(Some(0)), (5, 7));
    }

    #[test]
    fn children_that_ended_are_charged_to_their_parent() {
        // The grandchild works until it has used 50 ms of CPU, and is waited for by the child,
        // which then waits itself until its input ends.
        let work = "import time\nwhile time.process_time() < 0.05: pass";
        let script = format!("python3 -c '{work}'; echo done; read wait");
        let mut shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 4];
        shell.stdout.take().unwrap().read_exact(&mut line).unwrap();
        let usage = usage_of_tree(shell.id()).unwrap();
        drop(shell.stdin.take());
        shell.wait().unwrap();
        // Ended processes are counted in ticks, rounded down for user and system time each.
        assert!(usage.cpu_us() >= 30_000, "{usage:?}");
    }

    #[test]
    fn the_clock_of_a_process_agrees_with_its_ticks() {
        let pid = std::process::id();
        let stat = stat(pid).unwrap();
        let exact_us = process_cpu_us(pid).unwrap();
        assert!(
            exact_us >= stat.user_us + stat.system_us,
            "{exact_us} {stat:?}"
        );
        // More than the kernel ever gives.
        assert_eq!(process_cpu_us((4 << 20) + 1), None);
    }

    #[test]
    fn we_see_ourselves_and_our_children() {
        let before = usage_of_tree(std::process::id()).unwrap();
        assert!(before.rss_bytes > 0 && before.peak_rss_bytes >= before.rss_bytes);
        let resident = resident_of_tree(std::process::id()).unwrap();
        assert!(resident.rss_bytes >= resident.anonymous_bytes && resident.anonymous_bytes > 0);
        assert!(resident.private_bytes > 0 && resident.descriptors >= 3);
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let stats = all_stats();
        assert!(tree(std::process::id(), &stats).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_thread_that_ended_does_not_hide_what_others_used() {
        let times = |pairs: &[(u32, u64)]| ThreadTimes(pairs.iter().copied().collect());
        let (before, after) = (times(&[(1, 1_000), (2, 5)]), times(&[(2, 25), (3, 10)]));
        assert_eq!(after.since(&before), Duration::from_nanos(30));
        assert!(!ThreadTimes::of_tree(std::process::id()).0.is_empty());
    }

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
