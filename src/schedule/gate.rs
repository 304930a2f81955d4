//! Holds mail back while outcomes are not durable.
//!
//! A recipient that was delivered, and is not recorded yet, is delivered again after a crash. With a disk that works that
//! is a matter of milliseconds. With one that takes no more writes, all of the queue would be delivered, and all of it
//! again after the restart. So no transaction begins while the outcomes of too many recipients wait for the disk. Those
//! that have begun end.
//!
//! What was put off does not count: a crash loses an attempt, and nobody gets anything twice. Nor do transactions under
//! way. Their number is bounded by the connections, and a few hosts that take minutes to answer would otherwise keep the
//! mail from all others. Nor does it shut on a full disk: no room comes of mail that is held.

/// Recipients whose outcomes may wait for the disk, for each delivery core. At ten milliseconds a write that is a hundred
/// thousand recipients a second.
pub const UNRECORDED_MAX: usize = 1024;

/// Of one delivery core.
#[derive(Debug)]
pub struct Gate {
    limit: usize,
    /// By the home that is to record them.
    unrecorded: Vec<usize>,
    total: usize,
    is_shut: bool,
}

impl Gate {
    /// `limit`: recipients, at least 1.
    pub fn new(limit: usize) -> Self {
        assert!(limit > 0);
        Gate {
            limit,
            unrecorded: Vec::new(),
            total: 0,
            is_shut: false,
        }
    }

    /// Outcomes of so many more recipients wait for the disk at this home. `lacks_space`: what waits at a home waits for
    /// space there. True if that shuts the gate.
    pub fn handed_over(
        &mut self,
        home: usize,
        recipients: usize,
        lacks_space: impl Fn(usize) -> bool,
    ) -> bool {
        if self.unrecorded.len() <= home {
            self.unrecorded.resize(home + 1, 0);
        }
        self.unrecorded[home] += recipients;
        self.total += recipients;
        let is_over = |it: &Self| it.total >= it.limit && it.counted(lacks_space) >= it.limit;
        let shuts = !self.is_shut && is_over(self);
        self.is_shut |= shuts;
        shuts
    }

    /// Outcomes of so many recipients are durable there. True if that opens the gate: not before half of the limit is free,
    /// so that connections do not wake up for one transaction each.
    pub fn recorded(
        &mut self,
        home: usize,
        recipients: usize,
        lacks_space: impl Fn(usize) -> bool,
    ) -> bool {
        self.unrecorded[home] -= recipients;
        self.total -= recipients;
        self.look(lacks_space)
    }

    /// Shut, it is asked now and then whether some home `lacks_space` by now. True if that opens the gate.
    pub fn look(&mut self, lacks_space: impl Fn(usize) -> bool) -> bool {
        let opens = self.is_shut && self.counted(lacks_space) <= self.limit / 2;
        self.is_shut &= !opens;
        opens
    }

    fn counted(&self, lacks_space: impl Fn(usize) -> bool) -> usize {
        let homes = self.unrecorded.iter().enumerate();
        let waits = homes.filter(|(home, recipients)| **recipients > 0 && !lacks_space(*home));
        waits.map(|(_, recipients)| recipients).sum()
    }

    /// Recipients whose outcomes wait for the disk.
    pub fn unrecorded(&self) -> usize {
        self.total
    }

    /// The home at which most of them wait.
    pub fn slowest(&self) -> usize {
        let homes = self.unrecorded.iter().enumerate();
        homes.max_by_key(|(_, it)| **it).map_or(0, |(home, _)| home)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn works(_: usize) -> bool {
        false
    }

    fn full(_: usize) -> bool {
        true
    }

    #[test]
    fn it_shuts_at_its_limit_and_opens_at_half_of_it() {
        let mut gate = Gate::new(4);
        assert!(!gate.handed_over(0, 3, works));
        assert!(
            gate.handed_over(1, 100, works),
            "a transaction has many recipients"
        );
        assert!(!gate.handed_over(0, 1, works), "it is shut");
        assert_eq!(gate.slowest(), 1);
        assert!(!gate.recorded(1, 100, works));
        assert!(!gate.recorded(0, 1, works));
        assert!(gate.recorded(0, 1, works));
        assert!(!gate.recorded(0, 2, works), "it is open");
        assert!(gate.handed_over(0, 4, works));
    }

    #[test]
    fn it_stays_open_as_long_as_the_disk_is_full() {
        let mut gate = Gate::new(4);
        assert!(!gate.handed_over(0, 100, full));
        assert!(
            gate.handed_over(0, 1, works),
            "that is over, and they still wait"
        );
        assert!(!gate.look(works));
        assert!(gate.look(full), "it has become full");
        assert!(!gate.look(full), "it is open");
    }

    #[test]
    fn a_home_without_space_does_not_count_and_the_others_do() {
        let mut gate = Gate::new(4);
        let first = |home| home == 0;
        assert!(!gate.handed_over(0, 100, first));
        assert!(!gate.handed_over(1, 3, first));
        assert!(gate.handed_over(1, 1, first));
        assert!(!gate.recorded(1, 1, first));
        assert!(gate.recorded(1, 1, first));
        assert_eq!(gate.unrecorded(), 102);
    }

    #[test]
    fn one_recipient_at_a_time_is_a_limit_too() {
        let mut gate = Gate::new(1);
        assert!(gate.handed_over(0, 1, works));
        assert!(gate.recorded(0, 1, works));
        assert_eq!(gate.unrecorded(), 0);
    }
}
