//! Numbers as text, appended without the machinery of `format!`: for what is written once a message. And the bounds
//! of text.
//!
//! Promise: no allocation but what the text appended to needs.
//! Not here: escaping (`log`), and the grammar of SMTP.

pub mod units;

/// The longest front of `text`, whole characters only, of at most so many octets.
pub fn front(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Appends `number` in decimal.
pub fn push_decimal(mut number: u64, out: &mut Vec<u8>) {
    const DIGITS_MAX: usize = 20;
    let mut digits = [0u8; DIGITS_MAX];
    let mut first = DIGITS_MAX;
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// Appends `number` in capital hexadecimal digits, as many as it needs.
pub fn push_hex(number: u64, out: &mut Vec<u8>) {
    let digits = 16 - (number.leading_zeros() / 4).min(15);
    for digit in (0..digits).rev() {
        out.push(b"0123456789ABCDEF"[(number >> (4 * digit)) as usize & 15]);
    }
}

/// Appends the four numbers of an IPv4 address.
pub fn push_ipv4(address: std::net::Ipv4Addr, out: &mut Vec<u8>) {
    let [first, others @ ..] = address.octets();
    push_decimal(first.into(), out);
    for octet in others {
        out.push(b'.');
        push_decimal(octet.into(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_look_as_format_makes_them() {
        for shift in 0..64 {
            for number in [1 << shift, (1 << shift) - 1, u64::MAX >> shift] {
                assert_eq!(text(|out| push_decimal(number, out)), number.to_string());
                assert_eq!(text(|out| push_hex(number, out)), format!("{number:X}"));
            }
        }
    }

    #[test]
    fn addresses_look_as_format_makes_them() {
        for address in [[0, 0, 0, 0], [127, 0, 0, 1], [255, 10, 99, 100]] {
            let address = std::net::Ipv4Addr::from(address);
            assert_eq!(text(|out| push_ipv4(address, out)), address.to_string());
        }
    }
}
