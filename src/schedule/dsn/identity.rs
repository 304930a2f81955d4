//! The Message-ID of a report.

use super::Report;
use super::returned::Returned;
use std::fmt::Write;

/// Without angle brackets: names the original, the first recipient that the report speaks of, and all that it says. `said`: the
/// parts before the one that is returned of the original.
pub(super) fn message_id(report: &Report<'_>, said: &[u8], returned: &Returned<'_>) -> String {
    let mut form = String::new();
    // What is returned follows from the original and these.
    let _ = write!(
        form,
        "{:?} {} {:?}",
        returned.extent, returned.media_type, returned.encoding
    );
    let checksum = [said, form.as_bytes()]
        .into_iter()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325, checksum_with);
    let first = report.recipients.first().map_or(0, |it| it.index);
    format!(
        "{}.{first}.{checksum:016x}@{}",
        report.id, report.reporting_mta
    )
}

/// FNV-1a, which no library changes.
fn checksum_with(checksum: u64, byte: &u8) -> u64 {
    (checksum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
}
