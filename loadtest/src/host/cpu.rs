//! CPU time of a thread and of a process, to the microsecond.

pub fn ticks_per_second() -> u64 {
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
pub fn process_cpu_us(pid: u32) -> Option<u64> {
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
