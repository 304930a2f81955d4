//! Parts a job after a transaction: some recipients go on elsewhere within the same attempt, the others are settled.

use super::{Recipients, is_report};
use crate::smtp::client::{RecipientVerdict, TransactionResult};

/// Recipients of a job, and what a transaction decided of each, in the same order. Of a report there is one verdict for all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    pub recipients: Recipients,
    pub result: TransactionResult,
}

/// Those that stay, and those that go on. Every recipient is in one of the parts, with its verdict; one without recipients is left out.
pub fn part(
    recipients: Recipients,
    result: TransactionResult,
    goes_on: impl Fn(&RecipientVerdict) -> bool,
) -> (Option<Part>, Option<Part>) {
    let going = result.verdicts.iter().filter(|(_, it)| goes_on(it)).count();
    let whole = |recipients, result| Some(Part { recipients, result });
    if going == 0 {
        return (whole(recipients, result), None);
    }
    if going == result.verdicts.len() {
        return (None, whole(recipients, result));
    }
    assert!(!is_report(&recipients) && recipients.len() == result.verdicts.len());
    let empty = || Part {
        recipients: Vec::new(),
        result: TransactionResult {
            verdicts: Vec::new(),
            relayed: Vec::new(),
            reusable: result.reusable,
            cut_short: result.cut_short.clone(),
            waited: result.waited,
        },
    };
    let (mut stays, mut goes) = (empty(), empty());
    for (recipient, (index, verdict)) in recipients.into_iter().zip(result.verdicts) {
        let part = if goes_on(&verdict) {
            &mut goes
        } else {
            &mut stays
        };
        part.recipients.push(recipient);
        part.result.verdicts.push((index, verdict));
        if result.relayed.contains(&index) {
            part.result.relayed.push(index);
        }
    }
    (Some(stays), Some(goes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::outcome::RecipientState;
    use crate::smtp::reply::Reply;
    use std::rc::Rc;

    fn accepted() -> RecipientVerdict {
        let reply = Rc::new(Reply::new(250, "2.0.0 taken"));
        RecipientVerdict::Accepted { reply }
    }

    fn parted(verdicts: &[RecipientVerdict]) -> [Vec<u32>; 2] {
        let recipients = (0..)
            .zip(verdicts)
            .map(|(it, _)| (it, RecipientState::fresh()));
        let result = TransactionResult {
            verdicts: (0..).zip(verdicts.iter().cloned()).collect(),
            relayed: vec![0],
            reusable: true,
            cut_short: None,
            waited: None,
        };
        let lost = |verdict: &RecipientVerdict| *verdict == RecipientVerdict::NotAttempted;
        let (stays, goes) = part(recipients.collect(), result, lost);
        [stays, goes].map(|part| {
            let Some(Part { recipients, result }) = part else {
                return Vec::new();
            };
            let of_verdicts: Vec<u32> = result.verdicts.iter().map(|it| it.0).collect();
            let of_recipients: Vec<u32> = recipients.iter().map(|it| it.0).collect();
            assert_eq!(of_verdicts, of_recipients);
            assert!(result.reusable && result.relayed.iter().all(|it| of_verdicts.contains(it)));
            of_recipients
        })
    }

    #[test]
    fn every_recipient_is_in_one_part_with_its_verdict() {
        let lost = || RecipientVerdict::NotAttempted;
        assert_eq!(parted(&[accepted(), accepted()]), [vec![0, 1], vec![]]);
        assert_eq!(parted(&[lost(), lost()]), [vec![], vec![0, 1]]);
        assert_eq!(
            parted(&[accepted(), lost(), accepted(), lost()]),
            [vec![0, 2], vec![1, 3]]
        );
    }
}
