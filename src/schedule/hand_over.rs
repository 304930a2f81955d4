//! Gathers what a delivery core has settled, until it goes to the homes of the messages.
//!
//! An item of a lane and a write for each recipient would cost as much as half a delivery. So what is settled waits a little
//! for more. The home writes what comes at once: this wait is the only one.

use std::time::Duration;

/// How long what was settled waits for more. A crash meanwhile costs a second delivery, never a lost one.
pub const HAND_OVER_DELAY: Duration = Duration::from_millis(5);

/// Recipients that do not wait any longer, for each home.
pub const HAND_OVER_RECIPIENTS: usize = 64;

/// What waits, by home.
#[derive(Debug)]
pub struct HandOver<T> {
    homes: Vec<Batch<T>>,
    recipients_max: usize,
}

#[derive(Debug)]
struct Batch<T> {
    items: Vec<T>,
    recipients: usize,
}

impl<T> HandOver<T> {
    /// `unrecorded_max`: the limit of the [`Gate`](super::gate::Gate), of which no batch takes more than half.
    pub fn new(unrecorded_max: usize) -> Self {
        HandOver {
            homes: Vec::new(),
            recipients_max: HAND_OVER_RECIPIENTS.min(unrecorded_max / 2).max(1),
        }
    }

    /// This, about so many recipients, is for the home with that number. `Some`: what is handed over to it now.
    pub fn add(&mut self, home: usize, item: T, recipients: usize) -> Option<Vec<T>> {
        if self.homes.len() <= home {
            self.homes.resize_with(home + 1, Batch::empty);
        }
        let batch = &mut self.homes[home];
        batch.items.push(item);
        batch.recipients += recipients;
        (batch.recipients >= self.recipients_max).then(|| batch.take())
    }

    /// What waits for one of the homes, which is handed over now.
    pub fn take(&mut self) -> Option<(usize, Vec<T>)> {
        let mut homes = self.homes.iter_mut().enumerate();
        let (home, batch) = homes.find(|(_, batch)| !batch.items.is_empty())?;
        Some((home, batch.take()))
    }
}

impl<T> Batch<T> {
    fn empty() -> Self {
        Batch {
            items: Vec::new(),
            recipients: 0,
        }
    }

    fn take(&mut self) -> Vec<T> {
        std::mem::replace(self, Batch::empty()).items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_settled_waits_until_there_is_enough_for_its_home() {
        let mut hand_over = HandOver::new(8);
        assert_eq!(hand_over.add(2, "a", 1), None);
        assert_eq!(hand_over.add(0, "b", 3), None);
        assert_eq!(hand_over.add(2, "c", 3), Some(vec!["a", "c"]));
        assert_eq!(hand_over.take(), Some((0, vec!["b"])));
        assert_eq!(hand_over.take(), None);
        assert_eq!(hand_over.add(0, "d", 100), Some(vec!["d"]));
    }

    #[test]
    fn nothing_waits_where_one_recipient_shuts_the_gate() {
        let mut hand_over = HandOver::new(1);
        assert_eq!(hand_over.add(1, 'a', 1), Some(vec!['a']));
    }
}
