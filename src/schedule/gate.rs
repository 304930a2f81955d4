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
    unrecorded: usize,
    is_shut: bool,
}

impl Gate {
    /// `limit`: recipients, at least 1.
    pub fn new(limit: usize) -> Self {
        assert!(limit > 0);
        Gate {
            limit,
            unrecorded: 0,
            is_shut: false,
        }
    }

    /// Outcomes of so many more recipients wait for the disk, `is_full`: for space there. True if that shuts the gate.
    pub fn handed_over(&mut self, recipients: usize, is_full: impl FnOnce() -> bool) -> bool {
        self.unrecorded += recipients;
        let shuts = !self.is_shut && self.unrecorded >= self.limit && !is_full();
        self.is_shut |= shuts;
        shuts
    }

    /// Outcomes of so many recipients are durable. True if that opens the gate: not before half of the limit is free, so
    /// that connections do not wake up for one transaction each.
    pub fn recorded(&mut self, recipients: usize) -> bool {
        self.unrecorded -= recipients;
        let opens = self.is_shut && self.unrecorded <= self.limit / 2;
        self.is_shut &= !opens;
        opens
    }

    /// Shut, it is asked now and then whether `is_full` has become so since. True if that opens the gate.
    pub fn look(&mut self, is_full: impl FnOnce() -> bool) -> bool {
        let opens = self.is_shut && is_full();
        self.is_shut &= !opens;
        opens
    }

    /// Recipients whose outcomes wait for the disk.
    pub fn unrecorded(&self) -> usize {
        self.unrecorded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn works() -> bool {
        false
    }

    #[test]
    fn it_shuts_at_its_limit_and_opens_at_half_of_it() {
        let mut gate = Gate::new(4);
        assert!(!gate.handed_over(3, works));
        assert!(
            gate.handed_over(100, works),
            "a transaction has many recipients"
        );
        assert!(!gate.handed_over(1, works), "it is shut");
        assert!(!gate.recorded(101));
        assert!(gate.recorded(1));
        assert!(!gate.recorded(2), "it is open");
        assert!(gate.handed_over(4, works));
    }

    #[test]
    fn it_stays_open_as_long_as_the_disk_is_full() {
        let mut gate = Gate::new(4);
        assert!(!gate.handed_over(100, || true));
        assert!(
            gate.handed_over(1, works),
            "that is over, and they still wait"
        );
        assert!(!gate.look(works));
        assert!(gate.look(|| true), "it has become full");
        assert!(!gate.look(|| true), "it is open");
    }

    #[test]
    fn one_recipient_at_a_time_is_a_limit_too() {
        let mut gate = Gate::new(1);
        assert!(gate.handed_over(1, works));
        assert!(gate.recorded(1));
        assert_eq!(gate.unrecorded(), 0);
    }
}
