//! The search for the highest rate that holds: doubling until one fails, then halving the gap
//! between the two. No load and no clock in here.

/// Rates below this are not tried.
const RATE_MIN: f64 = 1.0;

/// What is known so far, and how far to go.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    first: f64,
    highest: f64,
    /// The search ends when `failed / held` is at most this; above 1.
    gap: f64,
    steps_left: u32,
    /// The highest rate that held. Invariant: held < failed.
    pub held: Option<f64>,
    /// The lowest rate that failed.
    pub failed: Option<f64>,
}

impl Search {
    /// Rates in messages per second; `precision` is the share by which the rate that failed may
    /// lie above the one that held (0.05: 5 %).
    pub fn new(first: f64, highest: f64, precision: f64, steps_max: u32) -> Self {
        Self {
            first: first.clamp(RATE_MIN, highest.max(RATE_MIN)),
            highest: highest.max(RATE_MIN),
            gap: 1.0 + precision.max(1e-6),
            steps_left: steps_max,
            held: None,
            failed: None,
        }
    }

    /// The rate to try next; `None` when the search is over.
    pub fn next(&self) -> Option<f64> {
        if self.steps_left == 0 {
            return None;
        }
        match (self.held, self.failed) {
            (None, None) => Some(self.first),
            (Some(held), None) => (held < self.highest).then(|| (held * 2.0).min(self.highest)),
            (None, Some(failed)) => (failed > RATE_MIN).then(|| (failed / 2.0).max(RATE_MIN)),
            (Some(held), Some(failed)) => {
                (failed / held > self.gap).then(|| (held * failed).sqrt())
            }
        }
    }

    /// What came of the rate that `next` gave.
    pub fn note(&mut self, rate: f64, holds: bool) {
        self.steps_left = self.steps_left.saturating_sub(1);
        if holds {
            self.held = Some(rate);
        } else {
            self.failed = Some(rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a relay that holds every rate up to `limit`; returns all rates that were tried.
    fn tried(mut search: Search, limit: f64) -> (Vec<f64>, Search) {
        let mut rates = Vec::new();
        while let Some(rate) = search.next() {
            rates.push(rate);
            search.note(rate, rate <= limit);
        }
        (rates, search)
    }

    #[test]
    fn it_doubles_and_then_closes_in() {
        let (rates, end) = tried(Search::new(500.0, 1e6, 0.05, 20), 3_000.0);
        assert_eq!(rates[..4], [500.0, 1_000.0, 2_000.0, 4_000.0]);
        let (held, failed) = (end.held.unwrap(), end.failed.unwrap());
        assert!(held <= 3_000.0 && failed > 3_000.0, "{held} {failed}");
        assert!(failed / held <= 1.05, "{held} {failed}");
        assert!(rates.len() < 10, "{rates:?}");
    }

    #[test]
    fn it_goes_down_when_the_first_rate_is_too_much() {
        let (rates, end) = tried(Search::new(1_000.0, 1e6, 0.1, 20), 90.0);
        assert_eq!(rates[..4], [1_000.0, 500.0, 250.0, 125.0]);
        assert!((81.0..=90.0).contains(&end.held.unwrap()), "{end:?}");
    }

    #[test]
    fn it_ends_at_its_bounds() {
        let (rates, end) = tried(Search::new(500.0, 1_500.0, 0.05, 20), f64::INFINITY);
        assert_eq!(rates, [500.0, 1_000.0, 1_500.0]);
        assert_eq!(end.held, Some(1_500.0));
        let (rates, end) = tried(Search::new(4.0, 1e6, 0.05, 20), 0.0);
        assert_eq!(rates, [4.0, 2.0, 1.0]);
        assert_eq!(end.held, None);
        let (rates, _) = tried(Search::new(500.0, 1e6, 0.0, 6), 700.0);
        assert_eq!(rates.len(), 6);
    }
}
