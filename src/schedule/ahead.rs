//! The one job that a connection has taken ahead of its turn.
//!
//! Promise: a place holds one job at most, and none is lost here. A second one is refused and stays with whoever brought it; the
//! first leaves by [`Place::take`] or [`Place::take_overdue`] alone.

use crate::time::Now;
use std::time::Duration;

/// A job that was taken while the one before was under way.
#[derive(PartialEq, Eq, Debug)]
pub struct Ahead<J> {
    pub job: J,
    /// Its commands have been sent; else it is begun in its turn.
    pub begun: bool,
    pub started: Now,
}

/// Where a connection keeps the job that it has taken ahead, until it begins it or the job goes back.
pub struct Place<J> {
    ahead: Option<Ahead<J>>,
    is_void: bool,
}

impl<J> Default for Place<J> {
    fn default() -> Self {
        Place {
            ahead: None,
            is_void: false,
        }
    }
}

impl<J> Place<J> {
    /// Whether a job may be taken ahead now. One that waits for its turn already stays the next: it waits also over a further
    /// connection, where the message before it may have gone on.
    pub fn is_free(&self) -> bool {
        self.ahead.is_none() && !self.is_void
    }

    /// Refuses the job if the place is not free.
    #[must_use = "a refused job is nowhere else"]
    pub fn put(&mut self, ahead: Ahead<J>) -> Result<(), Ahead<J>> {
        match self.is_free() {
            true => self.ahead = Some(ahead),
            false => return Err(ahead),
        }
        Ok(())
    }

    pub fn take(&mut self) -> Option<Ahead<J>> {
        self.ahead.take()
    }

    /// The job, if it has waited for so long. If it was begun, the connection is void.
    pub fn take_overdue(&mut self, patience: Duration, now: Now) -> Option<Ahead<J>> {
        let is_late = |ahead: &mut Ahead<J>| now.since(ahead.started) >= patience;
        let late = self.ahead.take_if(is_late)?;
        self.is_void |= late.begun;
        Some(late)
    }

    /// When its job was taken, if it still waits.
    pub fn waits_since(&self) -> Option<Now> {
        self.ahead.as_ref().map(|ahead| ahead.started)
    }

    /// Another job has been begun over the connection, and has gone back: the connection must end.
    pub fn is_void(&self) -> bool {
        self.is_void
    }

    /// What was begun over the connection before ends with it, and is begun again.
    pub fn moves(&mut self) {
        self.is_void = false;
        if let Some(ahead) = &mut self.ahead {
            ahead.begun = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(job: u32, started: u64) -> Ahead<u32> {
        Ahead {
            job,
            begun: true,
            started: Now(started),
        }
    }

    #[test]
    fn a_job_that_waits_is_not_overwritten_by_another() {
        let mut place = Place::default();
        assert_eq!(place.put(begun(1, 0)), Ok(()));
        assert!(!place.is_free());
        assert_eq!(place.put(begun(2, 1)), Err(begun(2, 1)));
        place.moves();
        assert!(!place.is_free(), "it waits for its turn there");
        assert_eq!(place.put(begun(3, 2)), Err(begun(3, 2)));
        let first = place.take().expect("it waits");
        assert_eq!((first.job, first.begun), (1, false), "begun again");
        assert!(place.is_free() && place.take().is_none());
    }

    #[test]
    fn a_job_that_was_begun_and_goes_back_leaves_a_connection_that_carries_nothing_more() {
        let patience = Duration::from_micros(10);
        let mut place = Place::default();
        assert_eq!(place.put(begun(1, 5)), Ok(()));
        assert_eq!(place.take_overdue(patience, Now(14)), None);
        assert_eq!(place.waits_since(), Some(Now(5)));
        assert_eq!(place.take_overdue(patience, Now(15)), Some(begun(1, 5)));
        assert!(place.is_void() && !place.is_free());
        assert_eq!(place.put(begun(2, 16)), Err(begun(2, 16)));
        place.moves();
        assert!(place.is_free());
    }

    #[test]
    fn a_job_that_was_not_begun_goes_back_and_leaves_no_trace() {
        let mut place = Place::default();
        let waits = Ahead {
            begun: false,
            ..begun(1, 5)
        };
        assert_eq!(place.put(waits), Ok(()));
        assert!(place.take_overdue(Duration::ZERO, Now(5)).is_some());
        assert!(!place.is_void() && place.is_free());
    }
}
