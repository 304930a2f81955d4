//! Which CPUs this process may use, tying a thread to one, and how threads share one.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::io;

/// The calling thread, for the kernel.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// The CPUs that the calling thread may run on, ascending: `sched_getaffinity(2)`, so `taskset`
/// and cpusets are respected.
///
/// # Errors
/// `EINVAL` on a host with more than 1,024 CPUs.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(THIS_THREAD)?;
    let is_in = |cpu: &usize| set.is_set(*cpu).unwrap_or(false);
    Ok((0..CpuSet::count()).filter(is_in).collect())
}

/// Ties the calling thread to one CPU.
///
/// # Errors
/// `EINVAL` if the CPU does not exist or may not be used.
pub fn pin_this_thread(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(THIS_THREAD, &set)?)
}

/// The calling thread and those that it starts later never push another thread off a CPU by waking
/// up (`SCHED_BATCH`, sched(7)): they wait until it sleeps or its turn is over, and meanwhile more
/// comes to do. Any other policy than the default was somebody's decision, and stays.
pub fn wake_patiently() -> io::Result<()> {
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
            for beyond in [CpuSet::count() - 1, CpuSet::count()] {
                assert!(pin_this_thread(beyond).is_err());
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn who_wakes_patiently_starts_threads_that_do() {
        // SAFETY: asks about the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let before = policy();
        let policies = std::thread::spawn(move || {
            wake_patiently().unwrap();
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
