//! Median and range of a few measurements, and the order in which they are taken.

use serde::{Deserialize, Serialize};

/// The middle of some values, and how far they lie apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub count: usize,
}

impl Spread {
    /// `None` without values. Of an even number the median is the mean of the two in the middle.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        } else {
            sorted[middle]
        };
        Some(Self {
            median,
            min,
            max,
            count: sorted.len(),
        })
    }

    /// Of the quotients of values that belong together, pair by pair: what disturbed both of a
    /// round does not move its quotient. Pairs without a value or with a base of 0 are left out.
    pub fn of_ratios(pairs: impl IntoIterator<Item = (Option<f64>, Option<f64>)>) -> Option<Self> {
        let known = pairs
            .into_iter()
            .filter_map(|(value, base)| Some((value?, base?)));
        Self::of(
            known
                .filter(|(_, base)| *base != 0.0)
                .map(|(value, base)| value / base),
        )
    }
}

/// Who comes first, second, ... of `count` in this round: each round begins with the next one, so
/// that after `count` rounds everybody was in every place.
pub fn rotation(round: u32, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (place + round as usize) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64, min: f64, max: f64, count: usize) -> Option<Spread> {
        Some(Spread {
            median,
            min,
            max,
            count,
        })
    }

    #[test]
    fn median_of_odd_even_one_and_none() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 9.0]), spread(3.0, 1.0, 9.0, 4));
        assert_eq!(Spread::of([7.0]), spread(7.0, 7.0, 7.0, 1));
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN, 1.0]), spread(1.0, 1.0, 1.0, 1));
    }

    #[test]
    fn ratios_are_paired_before_their_median_is_taken() {
        // The machine was three times slower in round 2; the ratio does not notice.
        let pairs = [(20.0, 10.0), (60.0, 30.0), (22.0, 11.0)];
        let pairs = pairs.map(|(value, base)| (Some(value), Some(base)));
        assert_eq!(Spread::of_ratios(pairs), spread(2.0, 2.0, 2.0, 3));
        let broken = [(Some(1.0), None), (None, Some(1.0)), (Some(1.0), Some(0.0))];
        assert_eq!(Spread::of_ratios(broken), None);
    }

    #[test]
    fn everybody_is_in_every_place_once() {
        let orders: Vec<Vec<usize>> = (0..3).map(|round| rotation(round, 3).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
        assert_eq!(rotation(7, 2).collect::<Vec<_>>(), [1, 0]);
    }
}
