//! The recipients of a message in one field.

use super::{Pen, Value};
use crate::message::Recipient;
use std::fmt::Write;

/// Recipients by name, separated by commas, as many as fit; then `...and 7 more`.
pub struct Addressees<'a>(pub &'a [Recipient]);

/// Names beyond so many octets are counted.
const NAMES_BYTES_MAX: usize = 600;
/// And beyond this number: a line should stay one that is read.
const NAMES_MAX: usize = 10;

impl Value for Addressees<'_> {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.quoted(|escaper| {
            let mut left = NAMES_BYTES_MAX;
            for (number, recipient) in self.0.iter().enumerate() {
                let name = recipient.forward_path.as_str();
                if number > 0 && (number >= NAMES_MAX || name.len() > left) {
                    let _ = write!(escaper, ",...and {} more", self.0.len() - number);
                    return;
                }
                if number > 0 {
                    let _ = escaper.write_str(",");
                }
                let _ = escaper.write_str(name);
                left = left.saturating_sub(name.len());
            }
        });
    }

    fn is_absent(&self) -> bool {
        self.0.is_empty()
    }
}
