//! Values of flags: sizes, ranges, shares, positive numbers.

use std::str::FromStr;

use clap::ValueEnum;

use crate::text::grouped;

/// A choice as it is written on the command line.
pub fn name_of(choice: impl ValueEnum) -> String {
    let value = choice.to_possible_value();
    value
        .map(|value| value.get_name().to_string())
        .unwrap_or_default()
}

pub fn positive(name: &str, value: Option<f64>) -> Result<(), String> {
    match value {
        Some(value) if !(value.is_finite() && value > 0.0 && value <= 1e9) => {
            Err(format!("{name} must be a positive number"))
        }
        _ => Ok(()),
    }
}

/// `N` or `MIN-MAX`, each with an optional k, M or G (1024s).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub low: u64,
    pub high: u64,
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.low == self.high {
            write!(f, "{} bytes", grouped(self.low))
        } else {
            write!(
                f,
                "{} to {} bytes, uniform",
                grouped(self.low),
                grouped(self.high)
            )
        }
    }
}

impl FromStr for Range {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (low, high) = (parse_bytes(low)?, parse_bytes(high)?);
        if low > high {
            return Err(format!("{low} is more than {high}"));
        }
        Ok(Self { low, high })
    }
}

pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.chars().last() {
        Some('k' | 'K') => (&text[..text.len() - 1], 10),
        Some('m' | 'M') => (&text[..text.len() - 1], 20),
        Some('g' | 'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a size"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is too large"))
}

pub fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must lie between 0 and 1".into()),
    }
}

/// Threads for one side when none were asked for: a quarter of the CPUs, between 1 and 8, so that
/// the relay keeps at least half of the machine.
pub fn default_threads() -> usize {
    (std::thread::available_parallelism().map_or(1, |cpus| cpus.get()) / 4).clamp(1, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ranges() {
        assert_eq!(
            "10k".parse(),
            Ok(Range {
                low: 10_240,
                high: 10_240
            })
        );
        assert_eq!(
            "1k-2M".parse(),
            Ok(Range {
                low: 1024,
                high: 2 << 20
            })
        );
        assert!("2k-1k".parse::<Range>().is_err());
        assert!("".parse::<Range>().is_err());
        assert!("99999999999G".parse::<Range>().is_err());
    }
}
