//! What of a job fits into one transaction with a peer that has said its limits (RFC 9422).

use std::collections::HashSet;

use super::settle::{Recipients, is_report};
use crate::message::Envelope;
use crate::smtp::client::Limits;

/// The recipients for the next transaction, of which there is at least one, and those that are left
/// for others. A report is one transaction whatever it speaks of.
pub fn split(
    envelope: &Envelope,
    mut recipients: Recipients,
    limits: &Limits,
) -> (Recipients, Recipients) {
    if recipients.len() <= 1 || is_report(&recipients) {
        return (recipients, Recipients::new());
    }
    let mut rest = Recipients::new();
    if let Some(most) = limits.rcpt_domain_max {
        (recipients, rest) = split_by_domain(envelope, recipients, most as usize);
    }
    let most = limits.rcpt_max.map_or(usize::MAX, |most| most as usize);
    if recipients.len() > most {
        rest.splice(..0, recipients.drain(most..));
    }
    (recipients, rest)
}

/// The recipients of the first `most` domains, and the others.
fn split_by_domain(
    envelope: &Envelope,
    recipients: Recipients,
    most: usize,
) -> (Recipients, Recipients) {
    let mut domains = HashSet::new();
    recipients.into_iter().partition(|(index, _)| {
        let forward_path = &envelope.recipients[*index as usize].forward_path;
        let domain = forward_path.domain().ok();
        let fits = domains.contains(&domain) || domains.len() < most;
        if fits {
            domains.insert(domain);
        }
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{BodyType, Mailbox, Recipient};
    use crate::schedule::outcome::RecipientState;

    /// Parts one after the other, as the peers of one hop would get them.
    fn parts(limits: &Limits, domains: &[&str]) -> Vec<Vec<u32>> {
        let envelope = Envelope {
            reverse_path: None,
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            recipients: domains
                .iter()
                .map(|domain| Recipient {
                    forward_path: Mailbox::new("a", domain),
                    notify: None,
                    orcpt: None,
                })
                .collect(),
        };
        let mut left: Recipients = (0..domains.len() as u32)
            .map(|index| (index, RecipientState::fresh()))
            .collect();
        let mut parts = Vec::new();
        while !left.is_empty() {
            let (fit, rest) = split(&envelope, left, limits);
            parts.push(fit.iter().map(|(index, _)| *index).collect());
            left = rest;
        }
        parts
    }

    #[test]
    fn recipients_are_split_as_the_peer_says() {
        let limits = |rcpt_max, rcpt_domain_max| Limits {
            mail_max: None,
            rcpt_max,
            rcpt_domain_max,
        };
        let domains = ["a.test", "b.test", "A.test.", "c.test", "b.test"];
        let split = |limits: &Limits| parts(limits, &domains);
        assert_eq!(split(&limits(None, None)), [[0, 1, 2, 3, 4]]);
        assert_eq!(split(&limits(Some(5), Some(3))), [[0, 1, 2, 3, 4]]);
        let twos = [vec![0, 1], vec![2, 3], vec![4]];
        assert_eq!(split(&limits(Some(2), None)), twos);
        let by_domain = [vec![0, 2], vec![1, 4], vec![3]];
        assert_eq!(split(&limits(None, Some(1))), by_domain);
        assert_eq!(split(&limits(Some(2), Some(1))), by_domain);
        assert_eq!(
            split(&limits(Some(3), Some(2))),
            [vec![0, 1, 2], vec![4, 3]]
        );
        assert_eq!(split(&limits(Some(1), Some(1))).len(), 5);
    }
}
