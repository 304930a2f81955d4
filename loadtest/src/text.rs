//! Figures as people read them: grouped digits, rates, times, sizes.
//!
//! Promise: a rate that is not known is a dash or left out, never a zero.
//! Not here: where the figures come from.

/// A rate as pages and terminal show it; `None` if it is not known.
pub fn rate(per_second: f64) -> Option<String> {
    (per_second > 0.0).then(|| match per_second {
        slow if slow < 10.0 => format!("{slow:.1}"),
        fast => grouped(fast.round() as u64),
    })
}

/// A rate, or a dash.
pub fn rate_or_dash(per_second: f64) -> String {
    rate(per_second).unwrap_or_else(|| "-".to_string())
}

/// A figure that need not be a whole number, with what counts of it.
pub fn decimal(value: f64) -> String {
    match value < 100.0 {
        true => format!("{value:.1}"),
        false => grouped(value.round() as u64),
    }
}

/// A count, with its rate if that is known.
pub fn with_rate(count: u64, per_second: f64) -> String {
    match rate(per_second) {
        Some(rate) => format!("{} ({rate}/s)", grouped(count)),
        None => grouped(count),
    }
}

/// Bytes in millions.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// So many in so long, and how many bytes that was.
pub fn volume(messages: u64, seconds: f64, bytes_per_second: f64) -> String {
    let bytes = match bytes_per_second > 0.0 {
        true => format!(", {:.1} MB/s", bytes_per_second / 1e6),
        false => String::new(),
    };
    format!("{} in {seconds:.2} s{bytes}", grouped(messages))
}

/// Microseconds as milliseconds, with three digits that count.
pub fn ms(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.2}", us as f64 / 1e3),
        10_000..100_000 => format!("{:.1}", us as f64 / 1e3),
        _ => grouped((us + 500) / 1000),
    }
}

/// CPU time of so many messages: in words, for each of them if there are any.
pub fn cpu_of(messages: u64, cpu_us: u64) -> String {
    match messages {
        0 => format!("{:.2} s CPU", cpu_us as f64 / 1e6),
        messages => format!(
            "{} us CPU per message",
            decimal(cpu_us as f64 / messages as f64)
        ),
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(123), "123");
        assert_eq!(grouped(1234567), "1,234,567");
    }
}
