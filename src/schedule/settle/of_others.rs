//! What one transaction means for other mail that waits for the same next hop.

use super::*;
use crate::message::Recipient;
use crate::schedule::judge::{self, Event, Finding, GoesOn, HopDiagnosis, Situation};
use crate::schedule::next_hop::{Action, HopId, Schedule, Settings, Take};
use crate::schedule::reports::WINDOW;
use crate::schedule::retry::RetryPolicy;
use crate::smtp::client::RecipientVerdict;
use crate::smtp::reply::{Reply, Stage};
use std::rc::Rc;

type Hops = Schedule<&'static str, u32, LastWord>;

fn hop_at_work(schedule: &mut Hops) -> HopId {
    let hop = schedule.push(&"b", 1, Now(0));
    assert_eq!(schedule.poll(Now(0)), Some(Action::Open { hop }));
    schedule.connected(hop, Duration::ZERO);
    assert_eq!(schedule.take(hop, Now(0)), Take::Job(1));
    hop
}

fn refused(stage: Stage, code: u16, text: &str) -> RecipientVerdict {
    RecipientVerdict::Refused {
        stage,
        reply: Rc::new(Reply::new(code, text)),
    }
}

fn judged(verdicts: Vec<RecipientVerdict>) -> Judged {
    let verdicts = (0..).zip(verdicts).collect();
    let result = TransactionResult {
        verdicts,
        relayed: Vec::new(),
        reusable: false,
        cut_short: None,
        waited: None,
    };
    judge_transaction(&Envelope::default(), &result, &Over::new("mx.b.test"))
}

/// What is said to others after a transaction that ended so.
fn said_to_others(verdicts: Vec<RecipientVerdict>) -> Option<String> {
    let mut schedule = Hops::new(Settings::default());
    let hop = hop_at_work(&mut schedule);
    let judged = judged(verdicts);
    judged.update_schedule(&mut schedule, hop, (Duration::ZERO, Now(1)), |last| last);
    let tried = RecipientState::Waiting {
        attempts: 7,
        due: WallTime(0),
        last: None,
    };
    let last = schedule.context(hop);
    last.diagnosis()?;
    let day = Now(24 * 3600 * 1_000_000);
    let others = postponed(&[(0, tried)], last, false, day, Duration::from_secs(60));
    let Postponed::Returned(diagnosis) = others else {
        panic!("{others:?}");
    };
    assert_eq!(diagnosis.status.class, 4);
    Some(diagnosis.text.into())
}

#[test]
fn a_recipients_refusal_is_not_said_to_others_that_wait_for_the_hop() {
    let breaks = "the next hop ends its sessions without an answer";
    let no_user = || refused(Stage::Rcpt, 550, "5.1.1 no such user");
    let table = [
        (vec![no_user(), RecipientVerdict::LostAfterData], breaks),
        (vec![no_user(), RecipientVerdict::LostInBody], breaks),
        (
            vec![no_user(), RecipientVerdict::NotAttempted],
            "the connection was lost before the message was sent",
        ),
        (
            vec![
                refused(Stage::Mail, 550, "5.7.1 not this sender"),
                RecipientVerdict::LostAfterData,
            ],
            breaks,
        ),
        (vec![RecipientVerdict::LostAfterData], breaks),
        (
            vec![refused(Stage::Mail, 451, "4.7.650 slow down"), no_user()],
            "451 4.7.650 slow down",
        ),
        (
            vec![refused(Stage::Rcpt, 421, "4.4.2 bye")],
            "421 4.4.2 bye",
        ),
    ];
    for (verdicts, text) in table {
        let said = said_to_others(verdicts.clone());
        assert_eq!(said, Some(text.into()), "{verdicts:?}");
    }
    let nothing = [
        no_user(),
        refused(Stage::Mail, 451, "4.7.24 SPF"),
        refused(Stage::Rcpt, 451, "4.7.1 greylisted"),
        refused(Stage::FinalDot, 554, "5.7.1 spam"),
        refused(Stage::FinalDot, 521, "5.7.1 never"),
        refused(Stage::FinalDot, 421, "4.7.0 not this content"),
    ];
    for verdict in nothing {
        assert_eq!(said_to_others(vec![verdict.clone()]), None, "{verdict:?}");
    }
    let of_errors = vec![
        no_user(),
        refused(Stage::Rcpt, 421, "4.7.0 too many errors"),
    ];
    assert_eq!(said_to_others(of_errors), None);
}

fn no_mail_here() -> HopDiagnosis {
    let reply = Reply::new(521, "5.3.2 no mail here");
    let event = Event::Reply(&reply);
    let finding = Finding::of(Stage::Greeting, event, Situation::default(), "mx.b.test");
    finding.of_hop().expect("it speaks of itself")
}

#[test]
fn a_hop_that_refuses_for_good_returns_mail_that_was_tried_before_if_it_says_nothing_else() {
    let second = |count: u64| Now(count * 1_000_000);
    let minute = Duration::from_secs(60);
    let tried = RecipientState::Waiting {
        attempts: 1,
        due: WallTime(0),
        last: None,
    };
    let recipients = [(3, RecipientState::fresh()), (4, tried)];
    let of_age = |is_too_old, last: &LastWord, now| match postponed(
        &recipients,
        last,
        is_too_old,
        now,
        minute,
    ) {
        Postponed::Returned(diagnosis) => Err(diagnosis.status.to_string()),
        Postponed::Decided(decisions) => {
            let decided =
                |(index, it): (u32, Decision)| (index, it.verdict, it.diagnosis.status.to_string());
            Ok(decisions.into_iter().map(decided).collect::<Vec<_>>())
        }
    };
    let verdicts = |last: &LastWord, now| of_age(false, last, now);
    let waits_on = |status: &str| Err(status.to_owned());
    let deferred = |status: &str| {
        Ok(vec![
            (3, Verdict::Defer, status.to_owned()),
            (4, Verdict::Defer, status.to_owned()),
        ])
    };
    let mut last = LastWord::default();
    assert_eq!(verdicts(&last, second(60)), waits_on("4.4.5"));
    assert_eq!(of_age(true, &last, second(60)), deferred("4.4.5"));
    last.heard(no_mail_here(), second(1));
    assert_eq!(verdicts(&last, second(2)), waits_on("4.3.2"), "only now");
    assert_eq!(of_age(true, &last, second(2)), deferred("4.3.2"));
    last.heard(no_mail_here(), second(20));
    let returned = Ok(vec![
        (3, Verdict::Defer, "4.3.2".to_owned()),
        (4, Verdict::Bounce, "5.3.2".to_owned()),
    ]);
    assert_eq!(verdicts(&last, second(60)), returned);
    last.heard(HopDiagnosis::sessions_break("mx.b.test"), second(70));
    last.heard(no_mail_here(), second(71));
    assert_eq!(verdicts(&last, second(80)), waits_on("4.3.2"), "again");
    last.forget();
    assert_eq!(verdicts(&last, second(200)), waits_on("4.4.5"));
}

#[test]
fn pauses_of_a_hop_that_goes_on_refusing_double() {
    let mut schedule = Hops::new(Settings::default());
    let hop = hop_at_work(&mut schedule);
    let mut now = Now(0);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let busy = judged(vec![refused(Stage::Mail, 450, "4.3.2 not now")]);
        busy.update_schedule(&mut schedule, hop, (Duration::ZERO, now), |last| last);
        let until = schedule.status(hop).expect("at work").paused_until;
        pauses.push(until.since(now).as_secs());
        now = until;
    }
    assert_eq!(pauses, [5, 10, 20, 40]);
}

/// Postfix ends a session after twenty errors, by default.
#[test]
fn a_stranger_who_writes_to_unknown_recipients_costs_the_hop_nothing() {
    let mut schedule = Hops::new(Settings::default());
    let hop = hop_at_work(&mut schedule);
    let window = schedule.status(hop).expect("at work").window;
    let no_user = || refused(Stage::Rcpt, 550, "5.1.1 no such user");
    let mut verdicts: Vec<_> = std::iter::repeat_with(no_user).take(20).collect();
    verdicts.resize(
        25,
        refused(Stage::Rcpt, 421, "4.7.0 Error: too many errors"),
    );
    let judged = judged(verdicts);
    judged.update_schedule(&mut schedule, hop, (Duration::ZERO, Now(1)), |last| last);
    assert_eq!(judged.after(false), After::Close);
    let status = schedule.status(hop).expect("at work");
    assert_eq!((status.paused_until, status.window), (Now(0), window));
}

#[test]
fn a_session_that_ends_without_a_reason_pauses_nobody_and_is_no_success() {
    let mut schedule = Hops::new(Settings::default());
    let hop = hop_at_work(&mut schedule);
    let window = schedule.status(hop).expect("at work").window;
    let judged = judged(vec![refused(Stage::Rcpt, 421, "4.7.0 bye")]);
    judged.update_schedule(&mut schedule, hop, (Duration::ZERO, Now(1)), |last| last);
    assert_eq!(judged.after(false), After::Close);
    let status = schedule.status(hop).expect("at work");
    assert_eq!((status.paused_until, status.window), (Now(0), window / 2));
}

#[test]
fn a_session_that_refuses_for_what_it_carried_before_is_left() {
    let result = TransactionResult {
        verdicts: vec![(0, refused(Stage::Mail, 503, "5.5.1 nested MAIL command"))],
        relayed: Vec::new(),
        reusable: true,
        cut_short: None,
        waited: None,
    };
    let used = Over {
        session_worked: true,
        ..Over::new("mx.b.test")
    };
    let judged = judge_transaction(&Envelope::default(), &result, &used);
    assert_eq!(judged.decisions[0].1.verdict, Verdict::Defer);
    assert_eq!(judged.after(true), After::Close);
    let goes_on = |over: &Over<'_>| {
        let situation = over.situation(&Envelope::default(), &result);
        judge::goes_on(&result.verdicts[0].1, situation)
    };
    assert_eq!(goes_on(&used), Some(GoesOn::Session));
    assert_eq!(goes_on(&Over::new("mx.b.test")), None);
}

#[test]
fn a_session_without_ehlo_that_lacks_what_mail_needs_is_left() {
    let over = Over {
        knows_no_extensions: true,
        ..Over::new("mx.b.test")
    };
    let demand = refused(
        Stage::Mail,
        530,
        "5.7.0 Must issue a STARTTLS command first",
    );
    let needs_utf8 = RecipientVerdict::Unfit(crate::smtp::client::Unfit {
        status: EnhancedStatus::new(5, 6, 7),
        text: "",
    });
    for verdict in [demand, needs_utf8] {
        let result = TransactionResult {
            verdicts: vec![(0, verdict)],
            relayed: Vec::new(),
            reusable: true,
            cut_short: None,
            waited: None,
        };
        let judged = judge_transaction(&Envelope::default(), &result, &over);
        assert_eq!(judged.decisions[0].1.verdict, Verdict::DeferOnce);
        assert_eq!(judged.after(true), After::Close);
    }
}

/// Exim, and what is made of it: from some refused recipients on, it refuses all.
#[test]
fn recipients_that_are_refused_for_others_of_their_list_go_over_a_new_session() {
    let too_many = || refused(Stage::Rcpt, 550, "Too many failed recipients");
    let no_user = || refused(Stage::Rcpt, 550, "5.1.1 no such user");
    let ways = |verdicts: Vec<RecipientVerdict>| {
        let result = TransactionResult {
            verdicts: (0..).zip(verdicts).collect(),
            relayed: Vec::new(),
            reusable: true,
            cut_short: None,
            waited: None,
        };
        let over = Over::new("mx.b.test");
        let situation = over.situation(&Envelope::default(), &result);
        let judged = judge_transaction(&Envelope::default(), &result, &over);
        let verdicts = result.verdicts.iter().zip(judged.decisions);
        let way = |((_, verdict), (_, it)): (&(u32, RecipientVerdict), (u32, Decision))| {
            (it.verdict, judge::goes_on(verdict, situation))
        };
        verdicts.map(way).collect::<Vec<_>>()
    };
    let returned = (Verdict::Bounce, None);
    let goes_on = (Verdict::Defer, Some(GoesOn::Session));
    assert_eq!(
        ways(vec![no_user(), too_many(), too_many()]),
        [returned, goes_on, goes_on]
    );
    assert_eq!(ways(vec![too_many(), too_many()]), [returned, returned]);
    let data = || refused(Stage::Data, 554, "5.7.1 Too many errors in this session");
    assert_eq!(ways(vec![no_user(), data()]), [returned, goes_on]);
    assert_eq!(ways(vec![data(), data()]), [returned, returned]);
}

#[test]
fn a_refused_sender_does_not_pause_the_hop() {
    let mut schedule = Hops::new(Settings::default());
    let hop = hop_at_work(&mut schedule);
    let window = schedule.status(hop).expect("at work").window;
    let spf = judged(vec![refused(Stage::Mail, 451, "4.7.24 SPF")]);
    spf.update_schedule(&mut schedule, hop, (Duration::ZERO, Now(1)), |last| last);
    let status = schedule.status(hop).expect("at work");
    assert_eq!((status.paused_until, status.window), (Now(0), window));
    schedule.push(&"b", 2, Now(2));
    assert_eq!(schedule.take(hop, Now(2)), Take::Job(2));
}

/// Attempts until every recipient of so many is delivered but the one that the hop hangs up on.
fn attempts_beside_poison(count: u32, poison: u32, hang_up: &RecipientVerdict) -> u32 {
    let envelope = Envelope {
        reverse_path: Some(Mailbox::new("s", "a.test")),
        recipients: (0..count)
            .map(|number| Recipient::new(Mailbox::new(&format!("r{number}"), "b.test")))
            .collect(),
        ..Envelope::default()
    };
    let retry = RetryPolicy::default();
    let facts = Facts {
        envelope: &envelope,
        age: Duration::ZERO,
        now: WallTime(1000),
        random: 0,
        retry: &retry,
        report_retry: &retry,
        report_window: WINDOW,
    };
    let taken = RecipientVerdict::Accepted {
        reply: Rc::new(Reply::new(250, "2.0.0 ok")),
    };
    let fresh = (0..count).map(|index| (index, RecipientState::fresh()));
    let mut jobs: Vec<Recipients> = vec![fresh.collect()];
    for attempt in 1..20 {
        let mut later = Vec::new();
        for recipients in jobs {
            let is_poisoned = recipients.iter().any(|(index, _)| *index == poison);
            let verdict = if is_poisoned { hang_up } else { &taken };
            let verdicts = indices(&recipients).into_iter();
            let result = TransactionResult {
                verdicts: verdicts.map(|index| (index, verdict.clone())).collect(),
                relayed: Vec::new(),
                reusable: !is_poisoned,
                cut_short: None,
                waited: None,
            };
            let judged = judge_transaction(&envelope, &result, &Over::new("mx.b.test"));
            let mut consequences = Consequences::of(&facts, recipients, &judged.decisions);
            later.append(&mut consequences.take_deferred());
        }
        later.retain(|part| !part.is_empty());
        let left: Vec<u32> = later.iter().flat_map(|part| indices(part)).collect();
        if left == [poison] {
            return attempt;
        }
        jobs = later;
    }
    panic!("{count} recipients beside {poison}");
}

#[test]
fn a_recipient_at_whom_the_hop_hangs_up_does_not_return_the_whole_list() {
    let hang_ups = [
        refused(Stage::Rcpt, 421, "4.7.0 bye"),
        RecipientVerdict::NotAttempted,
    ];
    for hang_up in &hang_ups {
        assert_eq!(attempts_beside_poison(3, 1, hang_up), 3);
        assert_eq!(attempts_beside_poison(100, 0, hang_up), 5);
        assert_eq!(attempts_beside_poison(1000, 0, hang_up), 6);
    }
}
