use super::*;
use crate::message::{Mailbox, Recipient};
use crate::schedule::outcome::ReportKind;
use crate::smtp::reply::EnhancedStatus;
use crate::time::WallTime;
use proptest::prelude::*;

const MESSAGE: MessageId = MessageId {
    run: 1,
    core: 0,
    sequence: 7,
};
const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> Now {
    Now(seconds * 1_000_000)
}

fn diagnosis(text: &str) -> Diagnosis {
    Diagnosis {
        status: EnhancedStatus::new(5, 1, 1),
        text: text.into(),
        remote_host: "mx.b.test".into(),
    }
}

fn owed(attempts: u32, due: u64) -> RecipientState {
    RecipientState::ReportOwed {
        kind: ReportKind::Failed,
        diagnosis: diagnosis("550 5.1.1 no such user"),
        attempts,
        due: WallTime(due),
    }
}

/// A message that is gathered, and what has been reported of it so far.
struct Story {
    gatherer: Gatherer<()>,
    history: History,
    /// Of the lifetime of reports.
    end: Now,
    /// When each report went, and on whom.
    reports: Vec<(Now, Vec<u32>)>,
}

impl Story {
    fn new(window: Duration) -> Story {
        Story {
            gatherer: Gatherer::new(Windows(window)),
            history: History::default(),
            end: Now::NEVER,
            reports: Vec::new(),
        }
    }

    fn fails(&mut self, form: Form, indices: impl IntoIterator<Item = u32>, now: Now) {
        let owed = indices.into_iter().map(|index| (index, owed(0, 0)));
        let owed = match form {
            Form::Ascii => [owed.collect(), vec![]],
            Form::Utf8 => [vec![], owed.collect()],
        };
        let times = Times {
            now,
            first_due: now + self.gatherer.windows.0,
            end: self.end,
        };
        self.gatherer.add(MESSAGE, (&(), self.history), owed, times);
    }

    /// All that goes by then.
    fn until(&mut self, end: Now) {
        while let Some(now) = self.gatherer.deadline().filter(|it| *it <= end) {
            let due = self.gatherer.take(now).expect("it is due");
            self.history = due.history;
            for report in due.reports {
                let indices = report.iter().map(|it| it.0).collect();
                self.reports.push((now, indices));
            }
        }
    }

    fn sizes(&self) -> Vec<usize> {
        self.reports
            .iter()
            .map(|(_, indices)| indices.len())
            .collect()
    }
}

#[test]
fn all_that_fails_within_the_first_window_is_in_one_report() {
    let mut story = Story::new(WINDOW);
    for index in 0..200 {
        // From many hosts and cores, in any order.
        let index = index * 7 % 200;
        story.fails(Form::Ascii, [index], at(u64::from(index) / 4));
    }
    assert_eq!(story.gatherer.waiting(), 1);
    story.until(at(59));
    assert!(story.reports.is_empty());
    story.until(at(60));
    assert_eq!(story.reports, [(at(60), (0..200).collect())]);
    assert_eq!(
        (story.gatherer.waiting(), story.gatherer.deadline()),
        (0, None)
    );
}

#[test]
fn a_message_that_fails_in_a_trickle_has_a_report_an_hour_at_most() {
    let mut story = Story::new(WINDOW);
    let days = 5 * 24 * 60;
    for minute in 0..days {
        let now = at(u64::from(minute) * 60);
        story.until(now);
        story.fails(Form::Ascii, [minute], now);
    }
    story.until(Now::NEVER);
    assert_eq!(story.sizes().iter().sum::<usize>(), days as usize);
    let when: Vec<Now> = story.reports.iter().map(|it| it.0).collect();
    assert_eq!(when[..3], [at(60), at(660), at(660 + 3600)]);
    assert!(when[1..].windows(2).all(|it| it[1] >= it[0] + HOUR));
    assert!(when.len() <= 2 + 5 * 24, "{}", when.len());
}

#[test]
fn a_failure_long_after_the_last_report_waits_for_one_window_only() {
    let mut story = Story::new(WINDOW);
    for (hours, index) in [(0, 0), (1, 1), (50, 2)] {
        let now = at(hours * 3600);
        story.fails(Form::Ascii, [index], now);
        story.until(now + WINDOW);
        assert_eq!(story.reports.last(), Some(&(now + WINDOW, vec![index])));
    }
}

#[test]
fn each_form_has_a_report_of_its_own() {
    let mut story = Story::new(WINDOW);
    story.fails(Form::Utf8, [1], at(0));
    story.fails(Form::Ascii, [0, 2], at(5));
    story.until(at(60));
    assert_eq!(story.reports, [(at(60), vec![0, 2]), (at(60), vec![1])]);
}

#[test]
fn more_than_a_report_can_speak_of_waits_for_the_next() {
    let mut story = Story::new(WINDOW);
    story.fails(Form::Ascii, 0..2_500, at(0));
    story.until(Now::NEVER);
    let expected = [(60, 1_000), (660, 1_000), (660 + 3600, 500)];
    let found = story.reports.iter().map(|(now, it)| (*now, it.len()));
    assert!(found.eq(expected.map(|(seconds, count)| (at(seconds), count))));
}

#[test]
fn half_of_the_lifetime_that_is_left_is_for_tries() {
    let mut story = Story::new(WINDOW);
    story.end = at(1_000);
    story.fails(Form::Ascii, 0..4_500, at(0));
    story.until(at(900));
    // The first window as ever, and then half of 940 s and of 470 s.
    let when: Vec<Now> = story.reports.iter().map(|it| it.0).collect();
    assert_eq!(when[..3], [at(60), at(530), at(765)]);
    let mut late = Story::new(WINDOW);
    late.end = at(1_000);
    late.fails(Form::Ascii, [0], at(990));
    late.until(at(995));
    assert_eq!(late.sizes(), [1]);
}

/// There is one try in any case.
#[test]
fn after_its_lifetime_a_report_waits_for_others_as_ever() {
    let mut story = Story::new(WINDOW);
    story.end = at(10);
    for index in 0..10 {
        story.fails(Form::Ascii, [index], at(10 + u64::from(index)));
    }
    story.until(Now::NEVER);
    assert_eq!(story.reports, [(at(70), (0..10).collect())]);
}

#[test]
fn without_a_window_each_failure_goes_at_once() {
    let mut story = Story::new(Duration::ZERO);
    for index in 0..3 {
        story.fails(Form::Ascii, [index], at(1));
        story.until(at(1));
    }
    assert_eq!(story.sizes(), [1, 1, 1]);
}

#[test]
fn the_earliest_failure_counts_whenever_its_word_comes() {
    let mut story = Story::new(WINDOW);
    story.fails(Form::Ascii, [0], at(30));
    story.fails(Form::Ascii, [1], at(10));
    story.until(at(70));
    assert_eq!(story.reports, [(at(70), vec![0, 1])]);
}

#[test]
fn recipients_that_were_tried_together_are_again() {
    let states = [
        (0, owed(2, 500)),
        (1, owed(1, 900)),
        (2, owed(2, 500)),
        (3, owed(2, 501)),
    ];
    let reports = tried_together([states.into(), vec![]]);
    let indices = reports.iter().map(|it| it.iter().map(|it| it.0).collect());
    let indices: Vec<Vec<u32>> = indices.collect();
    assert_eq!(indices, [vec![0, 2], vec![3], vec![1]]);
}

#[test]
fn whatever_is_not_ascii_makes_the_form() {
    let of = |from: (&str, &str), to: (&str, &str), orcpt: Option<&str>, text: &str| {
        let envelope = Envelope {
            reverse_path: Some(Mailbox::new(from.0, from.1)),
            recipients: vec![Recipient {
                orcpt: orcpt.map(Into::into),
                ..Recipient::new(Mailbox::new(to.0, to.1))
            }],
            ..Envelope::default()
        };
        let form = Form::of(&envelope, 0, &diagnosis(text));
        let state = RecipientState::ReportOwed {
            kind: ReportKind::Failed,
            diagnosis: diagnosis(text),
            attempts: 0,
            due: WallTime(0),
        };
        let [ascii, utf8] = by_form(&envelope, vec![(0, state)]);
        let is_utf8 = ascii.is_empty() && utf8.len() == 1;
        assert_eq!(is_utf8, form == Form::Utf8);
        form
    };
    let (a, b) = (("a", "a.test"), ("b", "b.test"));
    let utf8 = [
        of(a, ("j\u{f6}rg", "b.test"), None, "550 no"),
        of(a, ("b", "b\u{fc}cher.test"), None, "550 no"),
        of(a, b, None, "550 nicht gew\u{fc}nscht"),
        of(a, b, Some("UTF-8;j\\x{F6}rg@c.test"), "550 no"),
        of(("j\u{f6}rg", "a.test"), b, None, "550 no"),
    ];
    assert_eq!(utf8, [Form::Utf8; 5]);
    let ascii = [
        of(a, b, Some("rfc822;utf-8@c.test"), "550 no"),
        of(("a", "b\u{fc}cher.test"), b, None, "550 no"),
    ];
    assert_eq!(ascii, [Form::Ascii; 2]);
}

proptest! {
    /// Whoever fails whenever is reported once, and no sooner than allowed.
    #[test]
    fn everybody_comes_back_once(
        failures in proptest::collection::vec((0_u64..2_000, any::<bool>(), 1_u32..1_500), 1..20),
        window in 0_u64..100,
        lifetime in proptest::option::of(0_u64..40_000),
    ) {
        let mut story = Story::new(Duration::from_secs(window));
        story.end = lifetime.map_or(Now::NEVER, at);
        let began = at(failures[0].0);
        let (mut now, mut next) = (0, 0);
        for (pause, is_utf8, count) in failures {
            now += pause;
            story.until(at(now));
            let form = if is_utf8 { Form::Utf8 } else { Form::Ascii };
            story.fails(form, next..next + count, at(now));
            next += count;
        }
        story.until(Now::NEVER);
        let mut all: Vec<u32> = story.reports.iter().flat_map(|it| it.1.clone()).collect();
        all.sort_unstable();
        prop_assert!(all.into_iter().eq(0..next));
        let mut when: Vec<Now> = story.reports.iter().map(|it| it.0).collect();
        when.dedup();
        for (number, pair) in when.windows(2).enumerate() {
            let factor = if number == 0 { SECOND_WINDOW } else { LATER_WINDOWS };
            let window = Duration::from_secs(window) * factor;
            prop_assert!(pair[1] >= pair[0] + shortened(window, story.end.since(pair[0])));
        }
        let left = story.end.since(began);
        prop_assert!(when[0].since(began) <= shortened(Duration::from_secs(window), left));
    }
}
