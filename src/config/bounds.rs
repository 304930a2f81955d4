//! What a flag allows, said where it is declared.

use crate::text::units::{Bytes, Span};
use clap::Arg;
use std::fmt;
use std::str::FromStr;

/// Lets a flag declare kind and bounds in one word: `#[arg(long, span = "1s..7d")]`. The bounds,
/// both inclusive, are checked when the value is read and shown in the help as the value's name.
pub trait Bounded {
    fn span(self, bounds: &'static str) -> Self;
    fn size(self, bounds: &'static str) -> Self;
    fn count(self, bounds: &'static str) -> Self;
}

impl Bounded for Arg {
    fn span(self, bounds: &'static str) -> Self {
        self.value_name(bounds)
            .value_parser(move |text: &str| within::<Span>(text, "duration", bounds))
    }

    fn size(self, bounds: &'static str) -> Self {
        self.value_name(bounds)
            .value_parser(move |text: &str| within::<Bytes>(text, "size", bounds))
    }

    fn count(self, bounds: &'static str) -> Self {
        self.value_name(bounds)
            .value_parser(move |text: &str| within::<u32>(text, "number", bounds))
    }
}

fn within<T>(text: &str, kind: &str, bounds: &'static str) -> Result<T, String>
where
    T: FromStr + PartialOrd,
    T::Err: fmt::Display,
{
    let (low, high) = bounds.split_once("..").expect("bounds are LOW..HIGH");
    let bound = |text: &str| {
        T::from_str(text).unwrap_or_else(|error| panic!("the bound {text} of a flag: {error}"))
    };
    let value = T::from_str(text)
        .map_err(|error| format!("{error}; expected a {kind} from {low} to {high}"))?;
    if value < bound(low) || value > bound(high) {
        return Err(format!("expected a {kind} from {low} to {high}"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_named_in_the_refusal() {
        assert!(within::<Span>("1s", "duration", "1s..7d").is_ok());
        assert!(within::<Span>("7d", "duration", "1s..7d").is_ok());
        let refusal = within::<Span>("999ms", "duration", "1s..7d").unwrap_err();
        assert_eq!(refusal, "expected a duration from 1s to 7d");
        let refusal = within::<u32>("ten", "number", "1..9").unwrap_err();
        assert!(refusal.ends_with("from 1 to 9"), "{refusal}");
    }
}
