use super::*;
use crate::message::{Notify, Recipient};
use crate::schedule::ending::{Ending, Failure, Unreported};
use crate::schedule::outcome::ReportKind;
use crate::schedule::reports::WINDOW;
use crate::schedule::retry::RetryPolicy;
use crate::smtp::client::RecipientVerdict;
use crate::smtp::reply::Stage;

fn diagnosis() -> Diagnosis {
    Diagnosis {
        status: EnhancedStatus::new(5, 1, 1),
        text: "550 5.1.1 no such user".into(),
        remote_host: "mx.b.test".into(),
    }
}

/// Recipients with no NOTIFY, NEVER, and SUCCESS.
fn envelope(reverse_path: Option<Mailbox>) -> Envelope {
    let notify = [
        None,
        Some(Notify::NEVER),
        Some(Notify {
            success: true,
            ..Notify::NEVER
        }),
    ];
    let recipient = |notify| Recipient {
        notify,
        ..Recipient::new(Mailbox::new("r", "b.test"))
    };
    Envelope {
        reverse_path,
        recipients: notify.into_iter().map(recipient).collect(),
        ..Envelope::default()
    }
}

fn settle(
    envelope: &Envelope,
    state: &RecipientState,
    verdict: Verdict,
    relayed: bool,
) -> Consequences {
    settle_at(envelope, state, verdict, relayed, Duration::from_secs(1))
}

fn settle_at(
    envelope: &Envelope,
    state: &RecipientState,
    verdict: Verdict,
    relayed: bool,
    age: Duration,
) -> Consequences {
    let retry = RetryPolicy::default();
    let facts = Facts {
        envelope,
        age,
        now: WallTime(1000),
        random: 0,
        retry: &retry,
        report_retry: &retry,
        report_window: WINDOW,
    };
    let recipients: Recipients = (0..3).map(|index| (index, state.clone())).collect();
    let mut decisions = decide_all(&recipients, verdict, &diagnosis());
    for (_, decision) in &mut decisions {
        decision.relayed = relayed;
    }
    Consequences::of(&facts, recipients, &decisions)
}

#[test]
fn who_is_owed_a_report() {
    let told = envelope(Some(Mailbox::new("s", "a.test")));
    let fresh = RecipientState::fresh();
    let failed = settle(&told, &fresh, Verdict::Bounce, false);
    assert_eq!((indices(&failed.reports), failed.finished), (vec![0], 2));
    let relayed = settle(&told, &fresh, Verdict::Delivered, true);
    assert_eq!((indices(&relayed.reports), relayed.finished), (vec![2], 2));
    let delivered = settle(&told, &fresh, Verdict::Delivered, false);
    assert_eq!(delivered.finished, 3);
    let nobody = settle(&envelope(None), &fresh, Verdict::Bounce, false);
    assert_eq!(nobody.finished, 3);
}

#[test]
fn a_report_is_delivered_deferred_or_dropped() {
    let told = envelope(Some(Mailbox::new("s", "a.test")));
    let owed = RecipientState::ReportOwed {
        kind: ReportKind::Failed,
        diagnosis: diagnosis(),
        attempts: 0,
        due: WallTime(0),
    };
    for verdict in [Verdict::Delivered, Verdict::Bounce] {
        assert_eq!(settle(&told, &owed, verdict, false).finished, 3);
    }
    let later = settle(&told, &owed, Verdict::Defer, false);
    assert_eq!(indices(&later.deferred), [0, 1, 2]);
    assert_eq!(later.due, Some(WallTime(301_000)));
    let again = settle(&told, &owed, Verdict::Reconnect, false);
    assert_eq!(
        (indices(&again.again), again.recorded.len()),
        (vec![0, 1, 2], 0)
    );
}

#[test]
fn a_report_waits_for_others_for_half_of_its_lifetime_at_most() {
    let told = envelope(Some(Mailbox::new("s", "a.test")));
    let lifetime = RetryPolicy::default().lifetime;
    let due_at = |age| {
        let fresh = RecipientState::fresh();
        let failed = settle_at(&told, &fresh, Verdict::Bounce, false, age);
        due_of(&failed.reports[0].1).since(WallTime(1000))
    };
    let left = |seconds| lifetime - Duration::from_secs(seconds);
    assert_eq!(due_at(Duration::ZERO), WINDOW);
    assert_eq!(due_at(left(120)), WINDOW);
    assert_eq!(due_at(left(10)), Duration::from_secs(5));
    // It has one try whenever it goes.
    assert_eq!(due_at(lifetime), WINDOW);
}

/// A host that did not know EHLO a moment ago offered no SMTPUTF8 either.
#[test]
fn mail_that_needs_what_a_host_lacks_with_ehlo_is_returned_at_the_second_time() {
    let told = envelope(Some(Mailbox::new("s", "a.test")));
    let fresh = RecipientState::fresh();
    let first = settle(&told, &fresh, Verdict::DeferOnce, false);
    assert_eq!(indices(&first.deferred), [0, 1, 2]);
    let (_, state) = &first.deferred[0];
    let again = settle(&told, state, Verdict::DeferOnce, false);
    assert_eq!(again.endings[0], Ending::Bounced);
    let RecipientState::Waiting { attempts, due, .. } = state.clone() else {
        panic!("{state:?}");
    };
    let otherwise = RecipientState::Waiting {
        attempts,
        due,
        last: Some(no_connection_available()),
    };
    let later = settle(&told, &otherwise, Verdict::DeferOnce, false);
    assert_eq!(indices(&later.deferred), [0, 1, 2]);
}

#[test]
fn content_that_cannot_be_read_speaks_of_the_message_and_leaves_refusals_alone() {
    let told = envelope(None);
    let refused = RecipientVerdict::Refused {
        stage: Stage::Rcpt,
        reply: std::rc::Rc::new(crate::smtp::reply::Reply::new(550, "5.1.1 nobody")),
    };
    let result = TransactionResult {
        verdicts: vec![(0, refused), (2, RecipientVerdict::LostInBody)],
        relayed: Vec::new(),
        reusable: false,
        cut_short: None,
        waited: None,
    };
    let verdicts = |is_lost| {
        let decisions = judge_without_content(&told, &result, is_lost, &Over::new("h"));
        let told = decisions.into_iter().map(|(index, decision)| {
            let Decision {
                verdict, diagnosis, ..
            } = decision;
            (index, verdict, diagnosis.status)
        });
        told.collect::<Vec<_>>()
    };
    let nobody = (0, Verdict::Bounce, EnhancedStatus::new(5, 1, 1));
    let lost = (2, Verdict::Bounce, EnhancedStatus::new(5, 3, 0));
    let later = (2, Verdict::Defer, EnhancedStatus::new(4, 3, 0));
    assert_eq!(verdicts(true), [nobody, lost]);
    assert_eq!(verdicts(false), [nobody, later]);
}

/// One recipient of each kind, and what is said of it when its lifetime ends or it is refused.
#[test]
fn whoever_is_gone_without_a_report_is_said_to_be_dropped() {
    use Ending::{Bounced, Delivered, Dropped, Expired};
    use Unreported::{NotWanted, NullReversePath};
    let (told, null) = (envelope(Some(Mailbox::new("s", "a.test"))), envelope(None));
    let fresh = RecipientState::fresh();
    let endings = |envelope, verdict, age| settle_at(envelope, &fresh, verdict, false, age).endings;
    let (young, old) = (Duration::from_secs(1), Duration::from_secs(6 * 24 * 3600));
    let undeliverable = |unreported| Dropped(Failure::Undeliverable, unreported);
    let expired = |unreported| Dropped(Failure::Expired, unreported);
    assert_eq!(
        endings(&told, Verdict::Bounce, young),
        [Bounced, undeliverable(NotWanted), undeliverable(NotWanted)]
    );
    assert_eq!(
        endings(&told, Verdict::Defer, old),
        [Expired, expired(NotWanted), expired(NotWanted)]
    );
    assert_eq!(
        endings(&null, Verdict::Bounce, young),
        [undeliverable(NullReversePath); 3]
    );
    assert_eq!(
        endings(&null, Verdict::Defer, old),
        [expired(NullReversePath); 3]
    );
    assert_eq!(endings(&null, Verdict::Delivered, old), [Delivered; 3]);
    assert_eq!(
        endings(&told, Verdict::Defer, young),
        [Ending::Deferred { attempt: 1 }; 3]
    );
    assert_eq!(
        endings(&told, Verdict::Reconnect, old),
        [Ending::Requeued; 3]
    );
}

#[test]
fn a_report_has_one_ending_for_all_that_it_speaks_of() {
    let told = envelope(Some(Mailbox::new("s", "a.test")));
    let owed = RecipientState::ReportOwed {
        kind: ReportKind::Failed,
        diagnosis: diagnosis(),
        attempts: 2,
        due: WallTime(0),
    };
    let old = Duration::from_secs(6 * 24 * 3600);
    let dropped = |failure| vec![Ending::Dropped(failure, Unreported::IsReport)];
    let table = [
        (Verdict::Delivered, Duration::ZERO, vec![Ending::Delivered]),
        (
            Verdict::Bounce,
            Duration::ZERO,
            dropped(Failure::Undeliverable),
        ),
        (Verdict::Defer, old, dropped(Failure::Expired)),
        (
            Verdict::Defer,
            Duration::ZERO,
            vec![Ending::Deferred { attempt: 3 }],
        ),
        (Verdict::Reconnect, old, vec![Ending::Requeued]),
    ];
    for (verdict, age, endings) in table {
        assert_eq!(
            settle_at(&told, &owed, verdict, false, age).endings,
            endings
        );
    }
}

/// A final ending and the end of delivery are the same: nothing ends without a last word.
#[test]
fn who_is_finished_or_owed_a_report_had_a_final_ending() {
    let verdicts = [
        Verdict::Delivered,
        Verdict::Reconnect,
        Verdict::TryPlaintext,
        Verdict::TryNextHost,
        Verdict::NextTransaction,
        Verdict::Defer,
        Verdict::DeferOnce,
        Verdict::Throttle,
        Verdict::Bounce,
    ];
    for reverse_path in [None, Some(Mailbox::new("s", "a.test"))] {
        let envelope = envelope(reverse_path);
        for (verdict, days) in verdicts.iter().flat_map(|v| [(*v, 0), (*v, 6)]) {
            let age = Duration::from_secs(days * 24 * 3600);
            let settled = settle_at(&envelope, &RecipientState::fresh(), verdict, true, age);
            let is_final = settled.endings.iter().filter(|ending| ending.is_final());
            assert_eq!(
                is_final.count(),
                settled.finished as usize + settled.reports.len(),
                "{verdict:?}"
            );
        }
    }
}

#[test]
fn what_goes_again_at_once_without_progress_is_deferred_in_the_end() {
    let mut course = Course::default();
    let decisions = |verdict| decide_all(&[(0, RecipientState::fresh())], verdict, &diagnosis());
    let mut verdicts = |verdict, times: u32| {
        let once = |_| {
            let mut decisions = decisions(verdict);
            course = course.after(&mut decisions);
            decisions[0].1.verdict
        };
        (0..times).map(once).collect::<Vec<_>>()
    };
    let most = REQUEUED_MAX as usize;
    let mut expected = vec![Verdict::Reconnect; most];
    expected.push(Verdict::Defer);
    assert_eq!(verdicts(Verdict::Reconnect, REQUEUED_MAX + 1), expected);
    assert_eq!(
        verdicts(Verdict::Reconnect, 1),
        [Verdict::Reconnect],
        "anew"
    );
    // Others of the job are delivered each time.
    let full = verdicts(Verdict::NextTransaction, 2 * REQUEUED_MAX);
    assert_eq!(full, vec![Verdict::NextTransaction; 2 * most]);
    expected.pop();
    assert_eq!(verdicts(Verdict::Reconnect, REQUEUED_MAX), expected);
}

#[test]
fn a_report_that_is_too_large_becomes_smaller_until_it_speaks_of_one_recipient() {
    let refused = |code, text: &str| TransactionResult {
        verdicts: vec![(
            0,
            RecipientVerdict::Refused {
                stage: crate::smtp::reply::Stage::FinalDot,
                reply: std::rc::Rc::new(crate::smtp::reply::Reply::new(code, text)),
            },
        )],
        relayed: Vec::new(),
        reusable: true,
        cut_short: None,
        waited: None,
    };
    let smaller = |result: &TransactionResult| {
        let (mut course, mut count, mut seen) = (Course::default(), 70, Vec::new());
        while let Some(next) = course.smaller(result, course.original, count) {
            course = next;
            count = count.min(course.recipients_max);
            seen.push((course.original, count));
        }
        seen
    };
    let mut expected = vec![(Extent::Headers, 70), (Extent::Nothing, 70)];
    assert_eq!(smaller(&refused(554, "5.7.1 spam")), expected);
    let halves = [35, 17, 8, 4, 2, 1];
    expected.extend(halves.map(|count| (Extent::Nothing, count)));
    assert_eq!(smaller(&refused(552, "5.3.4 too large")), expected);
    assert_eq!(smaller(&refused(451, "4.3.0 not now")), []);
}

#[test]
fn recipients_and_reports_are_split_by_count() {
    let fresh: Recipients = (0..5)
        .map(|index| (index, RecipientState::fresh()))
        .collect();
    let parts = split_by_count(fresh, 2);
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    let owed = RecipientState::ReportOwed {
        kind: ReportKind::Failed,
        diagnosis: diagnosis(),
        attempts: 0,
        due: WallTime(0),
    };
    let owed: Recipients = (0..5).map(|index| (index, owed.clone())).collect();
    assert_eq!(split_by_count(owed, 2).len(), 3);
}

/// Hosts and name servers of a domain may be dead together, the ones for longer than the others.
#[test]
fn what_a_job_waited_for_at_its_hop_does_not_delay_the_questions_about_it() {
    let mut course = Course::default();
    assert!(course.returns() && !course.returns());
    assert_eq!([course.is_unresolved(), course.is_unresolved()], [1, 2]);
    course.is_resolved();
    assert!(!course.returns() && course.has_returned());
    assert_eq!(course.is_unresolved(), 1);
    let course = course.after(&mut []);
    assert!(!course.has_returned());
}
