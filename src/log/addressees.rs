//! The recipients of a message in a line.

use super::{Line, Pen, Value};
use crate::message::Recipient;

/// Names beyond so many octets are counted.
const NAMES_BYTES_MAX: usize = 600;
/// And beyond this number: a line should stay one that is read.
const NAMES_MAX: usize = 10;

/// Of no recipient, or of the one that a command names, as it came.
pub struct Addressee<'a>(pub Option<&'a str>);

impl Value for Addressee<'_> {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.list(self.0.iter().copied());
    }

    fn is_absent(&self) -> bool {
        self.0.is_none()
    }
}

/// Those that are named.
struct Addressees<'a>(&'a [Recipient]);

impl Value for Addressees<'_> {
    fn write(&self, pen: &mut Pen<'_>) {
        pen.list(self.0.iter().map(name));
    }

    fn is_absent(&self) -> bool {
        self.0.is_empty()
    }
}

impl Line<'_> {
    /// How many recipients there are, the first of them by name, and how many are not named.
    pub fn recipients(&mut self, recipients: &[Recipient]) -> &mut Self {
        let (named, others) = recipients.split_at(named_of(recipients));
        self.field("recipients", recipients.len())
            .field("to", Addressees(named))
            .field("to_left_out", Some(others.len()).filter(|left| *left > 0))
    }
}

/// How many are named: the first always, others as they fit.
fn named_of(recipients: &[Recipient]) -> usize {
    let mut left = NAMES_BYTES_MAX;
    let fits = |(number, recipient): (usize, &Recipient)| {
        let bytes = name(recipient).len();
        let fits = number == 0 || bytes <= left;
        left = left.saturating_sub(bytes);
        fits
    };
    let named = recipients.iter().take(NAMES_MAX).enumerate();
    named.map(fits).take_while(|fits| *fits).count()
}

fn name(recipient: &Recipient) -> &str {
    recipient.forward_path.as_str()
}
