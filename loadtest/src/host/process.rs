//! Processes and their threads as the kernel sees them: CPU time, memory, descriptors.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::host::cpu::{process_cpu_us, ticks_per_second};

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

/// Allows as many open files as the hard limit does; thousands of connections need it.
pub fn raise_file_limit() {
    // Whoever needs more than there is hears of it when it opens them.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

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
}
