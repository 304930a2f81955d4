//! CPU time of a thread and of a process, to the microsecond.

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Of the kernel's clock in /proc; 100 where it does not say.
pub fn ticks_per_second() -> u64 {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let ticks = ticks.and_then(|ticks| u64::try_from(ticks).ok());
    ticks.filter(|&ticks| ticks > 0).unwrap_or(100)
}

/// CPU time of the calling thread, user and system, in microseconds.
pub fn thread_cpu_us() -> u64 {
    clock_us(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0)
}

/// CPU time of a process and all threads it ever had, without its children, in microseconds.
pub fn process_cpu_us(pid: u32) -> Option<u64> {
    clock_us(clock_getcpuclockid(Pid::from_raw(pid as i32)).ok()?)
}

fn clock_us(clock: ClockId) -> Option<u64> {
    let time = clock_gettime(clock).ok()?;
    Some(time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1000)
}
