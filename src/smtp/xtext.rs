//! Xtext (RFC 3461 section 4): printable ASCII in which `+`, `=` and everything else is written as
//! `+` and two upper-case hex digits.
//!
//! Senders that copy an address into `ORCPT=` or `ENVID=` as it is leave out what its `+` and `=`
//! need, and others write lower-case digits. What they mean is plain, and the next hop need not be
//! as patient: it gets the text as it should have been.

use std::borrow::Cow;

/// `text` as xtext: as it is if it is xtext, else put right. `None`: not printable ASCII, or
/// longer than `bytes_max` then.
pub fn corrected(text: &str, bytes_max: usize) -> Option<Cow<'_, str>> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.len() > bytes_max {
        return None;
    }
    if is_xtext(text.as_bytes()) {
        return Some(Cow::Borrowed(text));
    }
    let encoded = encode(text.as_bytes());
    (encoded.len() <= bytes_max).then_some(Cow::Owned(encoded))
}

/// Of printable ASCII.
fn is_xtext(mut rest: &[u8]) -> bool {
    loop {
        rest = match rest {
            [] => return true,
            [b'+', high, low, rest @ ..] if is_upper_hex(*high) && is_upper_hex(*low) => rest,
            [b'+' | b'=', ..] => return false,
            [_, rest @ ..] => rest,
        }
    }
}

fn is_upper_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'F')
}

fn encode(mut rest: &[u8]) -> String {
    let mut out = String::with_capacity(rest.len() + 8);
    loop {
        rest = match rest {
            [] => return out,
            [b'+', high, low, rest @ ..] if is_escape(*high, *low) => {
                out.push('+');
                out.push(char::from(high.to_ascii_uppercase()));
                out.push(char::from(low.to_ascii_uppercase()));
                rest
            }
            [sign @ (b'+' | b'='), rest @ ..] => {
                out.push_str(if *sign == b'+' { "+2B" } else { "+3D" });
                rest
            }
            [byte, rest @ ..] => {
                out.push(char::from(*byte));
                rest
            }
        }
    }
}

/// True if the sender means an octet by these digits. Lower-case ones are also the letters of a
/// sub-address (`user+bed@`), so they count only where they make ASCII.
fn is_escape(high: u8, low: u8) -> bool {
    let is_ascii = matches!(high, b'2'..=b'7');
    is_upper_hex(high) && is_upper_hex(low) || is_ascii && low.is_ascii_hexdigit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_meant_is_put_right() {
        for (given, expected) in [
            ("user@a.test", "user@a.test"),
            ("user+2Btag@a.test", "user+2Btag@a.test"),
            ("user+2btag@a.test", "user+2Btag@a.test"),
            ("user+tag@a.test", "user+2Btag@a.test"),
            ("user+@a.test", "user+2B@a.test"),
            ("user+bed@a.test", "user+2Bbed@a.test"),
            (
                "SRS0=x=y=b.test=u@a.test",
                "SRS0+3Dx+3Dy+3Db.test+3Du@a.test",
            ),
            ("u+3db+tag@a.test", "u+3Db+2Btag@a.test"),
            ("+", "+2B"),
            ("+2", "+2B2"),
        ] {
            assert_eq!(corrected(given, 100).as_deref(), Some(expected), "{given}");
        }
        for bad in ["é", "a b", "a\tb", "a\u{7f}"] {
            assert_eq!(corrected(bad, 100), None, "{bad}");
        }
        assert_eq!(corrected("====", 11), None);
        assert_eq!(corrected("aaaa", 3), None);
    }

    proptest! {
        #[test]
        fn what_was_corrected_is_xtext(text in "[!-~+=]{0,40}") {
            let right = corrected(&text, 120).unwrap();
            prop_assert!(is_xtext(right.as_bytes()));
            prop_assert_eq!(corrected(&right, 120), Some(right.clone()));
        }
    }
}
