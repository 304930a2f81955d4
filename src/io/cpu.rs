//! Which CPUs this process may use, tying a thread to one, and how threads share one.

use std::ffi::c_ulong;
use std::io;
use std::mem;

const WORD_BITS: usize = c_ulong::BITS as usize;

/// A kernel refuses masks shorter than its own; none is built for more CPUs than this.
const CPUS_MAX: usize = 1 << 16;

/// The CPUs that the calling thread may run on, ascending: `sched_getaffinity(2)`, so `taskset`
/// and cpusets are respected.
pub fn allowed() -> io::Result<Vec<usize>> {
    let mut words = 1024 / WORD_BITS;
    loop {
        let mut mask: Vec<c_ulong> = vec![0; words];
        // SAFETY: the kernel writes at most the given number of bytes, which `mask` owns.
        let result = unsafe {
            libc::sched_getaffinity(
                0,
                mem::size_of_val(mask.as_slice()),
                mask.as_mut_ptr().cast(),
            )
        };
        if result == 0 {
            return Ok(numbers(&mask));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) || words * WORD_BITS >= CPUS_MAX {
            return Err(error);
        }
        words *= 2;
    }
}

fn numbers(mask: &[c_ulong]) -> Vec<usize> {
    (0..mask.len() * WORD_BITS)
        .filter(|cpu| mask[cpu / WORD_BITS] >> (cpu % WORD_BITS) & 1 == 1)
        .collect()
}

/// Ties the calling thread to one CPU.
///
/// # Errors
/// `EINVAL` if the CPU does not exist or may not be used.
pub fn pin_this_thread(cpu: usize) -> io::Result<()> {
    if cpu >= CPUS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut mask: Vec<c_ulong> = vec![0; cpu / WORD_BITS + 1];
    mask[cpu / WORD_BITS] = 1 << (cpu % WORD_BITS);
    // SAFETY: the kernel reads at most the given number of bytes, which `mask` owns.
    let result = unsafe {
        libc::sched_setaffinity(0, mem::size_of_val(mask.as_slice()), mask.as_ptr().cast())
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
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
    fn bits_are_cpu_numbers() {
        assert_eq!(numbers(&[0b1011, 1]), [0, 1, 3, WORD_BITS]);
    }

    #[test]
    fn a_thread_stays_where_it_was_tied() {
        std::thread::spawn(|| {
            let cpus = allowed().unwrap();
            let last = *cpus.last().unwrap();
            pin_this_thread(last).unwrap();
            assert_eq!(allowed().unwrap(), [last]);
            assert!(pin_this_thread(CPUS_MAX - 1).is_err());
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
