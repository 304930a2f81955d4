//! Which CPUs this process may use, tying a thread to one, and how threads share one.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::fs;
use std::io;

/// The calling thread, for the kernel.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// A thread can be tied to CPUs with lower numbers than this.
pub const TIED_BELOW: usize = CpuSet::count();

/// The CPUs that the calling thread may run on, ascending: `sched_getaffinity(2)`, so `taskset`
/// and cpusets are respected.
pub fn allowed() -> io::Result<Vec<usize>> {
    match sched_getaffinity(THIS_THREAD) {
        Ok(set) => {
            let is_in = |cpu: &usize| set.is_set(*cpu).unwrap_or(false);
            Ok((0..TIED_BELOW).filter(is_in).collect())
        }
        // The kernel has more CPUs than the set has places.
        Err(Errno::EINVAL) => allowed_by_status(),
        Err(error) => Err(error.into()),
    }
}

/// The same in the words of proc(5), which has room for any number of CPUs.
fn allowed_by_status() -> io::Result<Vec<usize>> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Ok(list.map(kernel_list).unwrap_or_default())
}

/// `0-3,8` as the kernel writes it; what cannot be read is left out.
pub fn kernel_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().ok()?;
        let last: usize = last.parse().ok()?;
        Some(first..=last)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// Ties the calling thread to one CPU.
///
/// # Errors
/// `EINVAL` if the CPU does not exist, may not be used, or is not below [`TIED_BELOW`].
pub fn pin_this_thread(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(THIS_THREAD, &set)?)
}

/// The calling thread and those that it starts later never push another thread off a CPU by waking
/// up (`SCHED_BATCH`, sched(7)): they wait until it sleeps or its turn is over, and meanwhile more
/// comes to do. Any other policy than the default was somebody's decision, and stays.
pub fn use_batch_scheduling() -> io::Result<()> {
    // SAFETY: asks about the calling thread.
    if unsafe { libc::sched_getscheduler(0) } != libc::SCHED_OTHER {
        return Ok(());
    }
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the parameters, which are ours.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_was_tied() {
        std::thread::spawn(|| {
            let cpus = allowed().unwrap();
            let last = *cpus.last().unwrap();
            pin_this_thread(last).unwrap();
            assert_eq!(allowed().unwrap(), [last]);
            for beyond in [TIED_BELOW - 1, TIED_BELOW] {
                assert!(pin_this_thread(beyond).is_err());
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_status_of_a_thread_lists_the_same_cpus() {
        std::thread::spawn(|| {
            assert_eq!(allowed_by_status().unwrap(), allowed().unwrap());
            let last = *allowed().unwrap().last().unwrap();
            pin_this_thread(last).unwrap();
            assert_eq!(allowed_by_status().unwrap(), [last]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn lists_of_the_kernel() {
        assert_eq!(kernel_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(kernel_list("\t0-1,1500-1501"), [0, 1, 1500, 1501]);
        assert_eq!(kernel_list("\n"), [] as [usize; 0]);
    }

    #[test]
    fn threads_inherit_batch_scheduling() {
        // SAFETY: asks about the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let before = policy();
        let policies = std::thread::spawn(move || {
            use_batch_scheduling().unwrap();
            (policy(), std::thread::spawn(policy).join().unwrap())
        });
        let patient = match before {
            libc::SCHED_OTHER => libc::SCHED_BATCH,
            chosen => chosen,
        };
        assert_eq!(policies.join().unwrap(), (patient, patient));
        assert_eq!(policy(), before);
    }
}
