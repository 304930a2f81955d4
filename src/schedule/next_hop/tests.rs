use super::hop::Hop;
use super::*;
use crate::schedule::retry::RetryPolicy;

impl<K: Clone + Hash + Eq, J: Queued, C: Default> Schedule<K, J, C> {
    /// The sums and the links between the tables.
    fn check(&self) {
        let hops = || self.slots.iter().filter_map(|slot| slot.hop.as_deref());
        let sum = |count: fn(&Hop<K, J, C>) -> u32| hops().map(count).sum::<u32>();
        assert_eq!(self.connections, sum(|hop| hop.connections()));
        assert_eq!(self.closing, sum(|hop| hop.closing));
        assert_eq!(
            self.connected_hops,
            sum(|hop| u32::from(hop.connections() > 0))
        );
        let unproven = sum(|hop| if hop.proven { 0 } else { hop.connections() });
        assert_eq!(self.unproven_connections, unproven);
        assert_eq!(self.ring.len(), hops().filter(|hop| hop.listed).count());
        let starved = self.starved.iter().map(VecDeque::len).sum::<usize>();
        assert_eq!(starved, hops().filter(|hop| hop.starved).count());
        let unfailed = sum(|hop| u32::from(hop.starved && !hop.health.has_failed()));
        assert_eq!(self.starved_unfailed, unfailed);
        assert_eq!(
            self.timers.len(),
            hops().filter(|hop| hop.timer != Now::NEVER).count()
        );
        assert_eq!(self.idle.len(), hops().filter(|hop| hop.idle > 0).count());
        assert_eq!(self.by_key.len(), hops().count());
        assert_eq!(self.slots.len(), hops().count() + self.free.len());
        assert!(self.slots.last().is_none_or(|slot| slot.hop.is_some()));
        for hop in hops() {
            assert!(hop.closing <= hop.busy && hop.woken <= hop.busy);
        }
    }
}

const MILLISECOND: u64 = 1000;
const SECOND: u64 = 1_000_000;

/// Of one origin, and new.
macro_rules! all_equal {
    ($($job:ty),*) => {
        $(impl Queued for $job {
            fn rank(&self, _: Now) -> Rank {
                Rank {
                    recipients: 1,
                    ..Rank::default()
                }
            }
        })*
    };
}
all_equal!(u32, u64, Now);

type TestSchedule = Schedule<&'static str, u32>;

fn schedule(settings: Settings) -> TestSchedule {
    Schedule::new(settings)
}

fn open_all(schedule: &mut TestSchedule, now: Now) -> Vec<HopId> {
    let mut opened = Vec::new();
    while let Some(action) = schedule.poll(now) {
        let Action::Open { hop } = action else {
            panic!("expected only Open, got {action:?}");
        };
        opened.push(hop);
    }
    opened
}

/// Opens the one connection that the schedule asks for and makes it ask for work.
fn connect(schedule: &mut TestSchedule, now: Now) -> (HopId, Take<u32>) {
    let opened = open_all(schedule, now);
    assert_eq!(opened.len(), 1);
    schedule.connected(opened[0], Duration::ZERO);
    (opened[0], schedule.take(opened[0], now))
}

/// Three tries to open a connection, each of which fails at once; the pauses between them pass.
fn fail_until_dead(schedule: &mut TestSchedule, now: &mut Now) {
    for pause in [1, 2, 0] {
        for hop in open_all(schedule, *now) {
            schedule.connect_failed(hop, *now, *now);
        }
        *now = *now + Duration::from_secs(pause);
    }
}

/// Lets time pass until `at`: nothing happens before, whatever wakes the driver.
fn quiet_until(schedule: &mut TestSchedule, at: Option<Now>) {
    while let Some(now) = schedule.deadline()
        && at.is_none_or(|at| now < at)
    {
        assert_eq!(schedule.poll(now), None);
    }
    assert_eq!(schedule.deadline(), at);
}

#[test]
fn one_job_and_no_connection_opens_at_once() {
    let mut schedule = schedule(Settings::default());
    schedule.push(&"a", 1, Now(0));
    let (hop, take) = connect(&mut schedule, Now(0));
    assert_eq!(take, Take::Job(1));
    assert_eq!(schedule.len(), 0);
    schedule.delivered(hop, Duration::ZERO);
    let until = Now(10 * SECOND);
    assert_eq!(schedule.take(hop, Now(0)), Take::Wait { until });
    quiet_until(&mut schedule, None);
}

#[test]
fn idle_connection_is_woken_rather_than_another_opened() {
    let mut schedule = schedule(Settings::default());
    schedule.push(&"a", 1, Now(0));
    let (hop, _) = connect(&mut schedule, Now(0));
    schedule.take(hop, Now(0));
    schedule.push(&"a", 2, Now(5));
    assert_eq!(schedule.poll(Now(5)), Some(Action::Wake { hop }));
    assert_eq!(schedule.poll(Now(5)), None);
    assert_eq!(schedule.take(hop, Now(5)), Take::Job(2));
}

#[test]
fn second_job_waits_briefly_for_a_busy_connection() {
    let mut schedule = schedule(Settings::default());
    schedule.push(&"a", 1, Now(0));
    let (hop, _) = connect(&mut schedule, Now(0));
    schedule.push(&"a", 2, Now(0));
    assert_eq!(schedule.poll(Now(0)), None);
    assert_eq!(schedule.deadline(), Some(Now(100 * MILLISECOND)));
    assert_eq!(schedule.take(hop, Now(MILLISECOND)), Take::Job(2));
}

#[test]
fn slow_connection_is_joined_by_another() {
    let mut schedule = schedule(Settings::default());
    schedule.push(&"a", 1, Now(0));
    let (hop, _) = connect(&mut schedule, Now(0));
    schedule.push(&"a", 2, Now(0));
    assert_eq!(schedule.poll(Now(0)), None);
    let slow = schedule.deadline().unwrap();
    assert_eq!(schedule.poll(slow), Some(Action::Open { hop }));
    assert_eq!(schedule.poll(slow), None, "one at a time");
}

#[test]
fn burst_opens_one_connection_for_ten_jobs_up_to_the_window() {
    let mut schedule = schedule(Settings::default());
    for job in 0..35 {
        schedule.push(&"a", job, Now(0));
    }
    assert_eq!(open_all(&mut schedule, Now(0)).len(), 1);
    assert_eq!(open_all(&mut schedule, Now(5 * MILLISECOND)).len(), 2);
    for job in 0..1000 {
        schedule.push(&"a", job, Now(6 * MILLISECOND));
    }
    assert_eq!(open_all(&mut schedule, Now(11 * MILLISECOND)).len(), 2);
    assert_eq!(schedule.connections(), 5);
}

/// When each connection is opened while jobs wait, by seconds.
fn opened_at(
    schedule: &mut TestSchedule,
    until: Now,
    mut on_open: impl FnMut(&mut TestSchedule, HopId),
) -> Vec<f64> {
    let mut opened = Vec::new();
    let mut now = Now(0);
    loop {
        while let Some(action) = schedule.poll(now) {
            let Action::Open { hop } = action else {
                panic!("{action:?}");
            };
            opened.push(now.0 as f64 / SECOND as f64);
            on_open(schedule, hop);
        }
        match schedule.deadline() {
            Some(at) if at <= until => now = now.max(at),
            _ => return opened,
        }
    }
}

#[test]
fn connections_that_hang_in_a_transaction_are_joined_by_others_beyond_the_window() {
    let mut schedule = schedule(Settings::default());
    for job in 0..100 {
        schedule.push(&"a", job, Now(0));
    }
    let opened = opened_at(&mut schedule, Now(30 * SECOND), |schedule, hop| {
        schedule.connected(hop, Duration::ZERO);
        assert!(matches!(schedule.take(hop, Now(0)), Take::Job(_)));
    });
    assert_eq!(opened.len(), 20, "{opened:?}");
    let pauses = opened.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(pauses.clone().all(|pause| pause <= 1.0), "{opened:?}");
}

/// Those that were opened beyond the first window would be missing elsewhere: as many connections hang at each mute hop.
#[test]
fn mute_hops_do_not_use_up_the_connections_of_a_new_destination() {
    let mut schedule = schedule(Settings::default());
    for job in 0..30 {
        schedule.push(&"a", job, Now(0));
    }
    let opened = opened_at(&mut schedule, Now(30 * SECOND), |_, _| {});
    assert_eq!(
        opened.len(),
        5,
        "as many as the first window has: {opened:?}"
    );
    let pauses = opened.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(pauses.clone().all(|pause| pause <= 1.0), "{opened:?}");
}

#[test]
fn connections_that_hang_while_they_open_are_joined_by_others_once_one_was_greeted() {
    let mut schedule = schedule(Settings::default());
    for job in 0..8 {
        schedule.push(&"a", job, Now(0));
    }
    let mut opened = 0;
    opened_at(&mut schedule, Now(30 * SECOND), |schedule, hop| {
        opened += 1;
        if opened == 2 {
            schedule.connected(hop, Duration::ZERO);
            assert!(matches!(schedule.take(hop, Now(0)), Take::Job(_)));
        }
    });
    assert_eq!(opened, 8, "one for each job");
}

/// Connections are given up four seconds after they were opened, and the pauses pass.
#[test]
fn a_mute_hop_gets_one_connection_at_a_time_after_the_first_failure() {
    let mut schedule = schedule(Settings::default());
    for job in 0..30 {
        schedule.push(&"a", job, Now(0));
    }
    let mut opening: VecDeque<(Now, HopId)> = VecDeque::new();
    let (mut now, mut has_failed, mut opened) = (Now(0), false, 0);
    while now < Now(45 * SECOND) {
        while let Some((began, hop)) = opening.front().copied()
            && now.since(began) >= Duration::from_secs(4)
        {
            opening.pop_front();
            schedule.connect_failed(hop, began, now);
            has_failed = true;
        }
        while let Some(action) = schedule.poll(now) {
            let Action::Open { hop } = action else {
                panic!("{action:?}");
            };
            opening.push_back((now, hop));
            opened += 1;
            assert!(!has_failed || opening.len() == 1, "{opening:?}");
        }
        now = now + Duration::from_millis(100);
    }
    assert_eq!(opened, 5 + 3, "at 6, 12 and 26 seconds or so");
}

#[test]
fn window_of_a_hop_that_refuses_or_fails_grows_by_successes_only() {
    let troubles: [fn(&mut TestSchedule, HopId); 2] = [
        |schedule, hop| schedule.refused(hop, Refusal::Connection, Now(0)),
        |schedule, hop| {
            schedule.broke(hop, Now(0), Now(0));
        },
    ];
    for trouble in troubles {
        let mut schedule = schedule(Settings::default());
        for job in 0..10 {
            schedule.push(&"a", job, Now(0));
        }
        let (hop, _) = connect(&mut schedule, Now(0));
        trouble(&mut schedule, hop);
        opened_at(&mut schedule, Now(50 * SECOND), |schedule, hop| {
            schedule.connected(hop, Duration::ZERO);
            assert!(matches!(
                schedule.take(hop, Now(0)),
                Take::Job(_) | Take::Close
            ));
        });
        assert_eq!(schedule.connections(), 2, "half of five");
    }
}

#[test]
fn only_a_hop_that_was_quick_gets_a_job_ahead_of_its_turn() {
    let mut schedule = schedule(Settings::default());
    for job in 0..4 {
        schedule.push(&"a", job, Now(0));
    }
    let (hop, _) = connect(&mut schedule, Now(0));
    assert_eq!(schedule.take_ahead(hop, Now(0)), None, "nobody knows yet");
    schedule.delivered(hop, Duration::from_millis(20));
    assert_eq!(schedule.take_ahead(hop, Now(0)), Some(1));
    schedule.delivered(hop, Duration::from_secs(20));
    assert_eq!(schedule.take_ahead(hop, Now(0)), None);
    schedule.delivered(hop, Duration::from_millis(20));
    assert_eq!(schedule.take_ahead(hop, Now(0)), Some(2));
}

/// A hop that was quick, and has taken job 2 ahead behind job 1; job 3 waits.
fn taken_ahead(settings: Settings) -> (TestSchedule, HopId) {
    let mut schedule = schedule(settings);
    for job in 0..4 {
        schedule.push(&"a", job, Now(0));
    }
    let (hop, _) = connect(&mut schedule, Now(0));
    schedule.delivered(hop, Duration::ZERO);
    assert_eq!(schedule.take(hop, Now(0)), Take::Job(1));
    assert_eq!(schedule.take_ahead(hop, Now(0)), Some(2));
    (schedule, hop)
}

#[test]
fn a_job_behind_a_slow_dot_is_the_next_of_another_connection() {
    let (mut schedule, hop) = taken_ahead(Settings::default());
    let now = Now(SECOND);
    // One that job 3 has had opened, and that has nothing more to do.
    assert_eq!(open_all(&mut schedule, Now(100 * MILLISECOND)), [hop]);
    schedule.connected(hop, Duration::ZERO);
    assert_eq!(schedule.take(hop, now), Take::Job(3));
    assert!(matches!(schedule.take(hop, now), Take::Wait { .. }));
    schedule.push(&"a", 4, now);
    schedule.give_back(hop, 2, Now(0));
    assert_eq!(schedule.len(), 2);
    assert_eq!(schedule.take_ahead(hop, now), None, "not behind this dot");
    assert_eq!(schedule.poll(now), Some(Action::Wake { hop }));
    assert_eq!(schedule.take(hop, now), Take::Job(2));
    assert_eq!(schedule.take_ahead(hop, now), None);
    schedule.delivered(hop, Duration::ZERO);
    assert_eq!(schedule.take_ahead(hop, now), Some(4), "it is quick again");
}

#[test]
fn a_job_behind_a_slow_dot_has_a_connection_opened_at_once() {
    let (mut schedule, hop) = taken_ahead(Settings::default());
    assert_eq!(schedule.take_ahead(hop, Now(0)), Some(3));
    assert_eq!(open_all(&mut schedule, Now(SECOND)), []);
    schedule.give_back(hop, 3, Now(0));
    assert_eq!(open_all(&mut schedule, Now(SECOND)), [hop]);
}

#[test]
fn a_job_behind_a_slow_dot_waits_for_the_only_connection_that_may_be() {
    let one = Settings {
        window_initial: 1,
        window_max: 1,
        ..Settings::default()
    };
    let (mut schedule, hop) = taken_ahead(one);
    schedule.give_back(hop, 2, Now(0));
    assert_eq!(open_all(&mut schedule, Now(20 * SECOND)), []);
    // What was begun of it there is undone by the end of that connection.
    schedule.delivered(hop, Duration::from_secs(20));
    schedule.closed(hop);
    let (_, take) = connect(&mut schedule, Now(20 * SECOND));
    assert_eq!(take, Take::Job(2));
}

#[test]
fn one_job_for_a_refused_port_is_one_attempt_and_then_a_pause() {
    let mut schedule = schedule(Settings::default());
    schedule.push(&"a", 1, Now(0));
    let mut attempts = Vec::new();
    let mut now = Now(0);
    loop {
        match schedule.poll(now) {
            Some(Action::Open { hop }) => {
                attempts.push(now.0 / SECOND);
                schedule.connect_failed(hop, now, now);
            }
            Some(Action::Postpone { .. }) => break,
            Some(action) => panic!("{action:?}"),
            None => now = schedule.deadline().expect("the job waits"),
        }
    }
    assert_eq!(attempts, [0, 1, 3, 13, 33]);
    assert_eq!(now, Now(60 * SECOND));
}

/// Twenty connections, a long queue, and a host that is restarted and accepts connections again at once.
#[test]
fn a_restarting_hop_gets_its_waiting_mail_at_once() {
    let mut schedule = schedule(Settings {
        window_initial: 20,
        ..Settings::default()
    });
    for job in 0..500 {
        schedule.push(&"a", job, Now(0));
    }
    let mut now = Now(0);
    while schedule.connections() < 20 {
        now = now + Duration::from_millis(100);
        while let Some(Action::Open { hop }) = schedule.poll(now) {
            schedule.connected(hop, Duration::ZERO);
            assert!(matches!(schedule.take(hop, now), Take::Job(_)));
        }
    }
    let hop = schedule.hop(&"a").expect("it has jobs");
    let reset = Now(75 * SECOND);
    for _ in 0..20 {
        schedule.broke(hop, now, reset);
    }
    assert!(!schedule.status(hop).expect("it has jobs").is_dead);
    let mut taken = 0;
    let mut now = reset;
    while schedule.status(hop).is_some_and(|status| status.todo > 0) {
        match schedule.poll(now) {
            Some(Action::Open { hop }) => {
                schedule.connected(hop, Duration::ZERO);
                while let Take::Job(_) = schedule.take(hop, now) {
                    taken += 1;
                    schedule.delivered(hop, Duration::ZERO);
                }
            }
            Some(action) => panic!("{action:?}"),
            None => now = schedule.deadline().expect("jobs wait"),
        }
    }
    assert_eq!((taken, now), (480, reset), "at once, and by nobody's word");
}

#[test]
fn unreachable_hop_is_probed_by_one_connection_and_keeps_its_jobs() {
    let mut schedule = schedule(Settings::default());
    for job in 0..100 {
        schedule.push(&"a", job, Now(0));
    }
    let mut now = Now(0);
    fail_until_dead(&mut schedule, &mut now);
    assert_eq!(schedule.len(), 100);
    let hop = schedule.hop(&"a").unwrap();
    assert!(schedule.status(hop).unwrap().is_dead);

    for wait in [10, 20] {
        assert_eq!(schedule.poll(now), None);
        now = schedule.status(hop).unwrap().paused_until;
        quiet_until(&mut schedule, Some(now));
        assert_eq!(open_all(&mut schedule, now), [hop], "a single probe");
        schedule.connect_failed(hop, now, now);
        let paused = schedule.status(hop).unwrap().paused_until;
        assert_eq!(paused, now + Duration::from_secs(2 * wait));
    }
}

#[test]
fn all_jobs_flow_when_a_short_outage_ends() {
    let mut schedule = schedule(Settings::default());
    for job in 0..100 {
        schedule.push(&"a", job, Now(0));
    }
    let mut now = Now(0);
    fail_until_dead(&mut schedule, &mut now);
    let up = Now(13 * SECOND);
    quiet_until(&mut schedule, Some(up));
    let (hop, take) = connect(&mut schedule, up);
    assert_eq!(take, Take::Job(0));
    schedule.delivered(hop, Duration::ZERO);
    for job in 1..100 {
        let now = Now(up.0 + u64::from(job) * MILLISECOND);
        while schedule.poll(now).is_some() {}
        assert_eq!(schedule.take(hop, now), Take::Job(job));
        schedule.delivered(hop, Duration::ZERO);
    }
    assert!(schedule.status(hop).unwrap().window > 5);
}

#[test]
fn job_of_a_dead_hop_comes_back_to_be_counted_and_deferred() {
    let mut schedule = schedule(Settings {
        failures_until_dead: 1,
        ..Settings::default()
    });
    for job in 0..3 {
        schedule.push(&"a", job, Now(u64::from(job)));
    }
    let hop = open_all(&mut schedule, Now(2))[0];
    schedule.connect_failed(hop, Now(2), Now(2));
    let mut postponed = Vec::new();
    let mut now = Now(2);
    while postponed.len() < 3 {
        match schedule.poll(now) {
            Some(Action::Postpone { job, .. }) => postponed.push((job, now)),
            Some(Action::Open { hop }) => schedule.connect_failed(hop, now, now),
            Some(action) => panic!("{action:?}"),
            None => now = schedule.deadline().unwrap(),
        }
    }
    let minute = 60 * SECOND;
    assert_eq!(postponed, [0, 1, 2].map(|job| (job, Now(minute + 2))));
    schedule.defer(0, Now(100 * SECOND));
    assert_eq!(
        schedule.poll(Now(100 * SECOND)),
        Some(Action::Retry { job: 0 })
    );
}

#[test]
fn short_retry_interval_shortens_the_pauses() {
    let second = Duration::from_secs(1);
    let retry = RetryPolicy {
        min: second,
        max: second,
        ..RetryPolicy::default()
    };
    let settings = Settings::default().within(&retry);
    assert_eq!(settings.probe_wait_max, second);
    assert_eq!(settings.blocked_wait_max, second);
    let mut schedule = schedule(settings);
    schedule.push(&"a", 1, Now(0));
    let hop = open_all(&mut schedule, Now(0))[0];
    schedule.connect_failed(hop, Now(0), Now(0));
    quiet_until(&mut schedule, Some(Now(SECOND)));
    assert_eq!(
        open_all(&mut schedule, Now(SECOND)),
        [hop],
        "a try a second"
    );
    schedule.connect_failed(hop, Now(SECOND), Now(SECOND));
    let action = schedule.poll(Now(SECOND));
    assert_eq!(action, Some(Action::Postpone { hop, job: 1 }));
}

#[test]
fn rate_refusal_pauses_the_hop_and_halves_its_window() {
    let mut schedule = schedule(Settings::default());
    for job in 0..100 {
        schedule.push(&"a", job, Now(0));
    }
    let (hop, _) = connect(&mut schedule, Now(0));
    schedule.refused(hop, Refusal::Mail, Now(0));
    assert_eq!(schedule.status(hop).unwrap().window, 2);
    assert_eq!(schedule.take(hop, Now(0)), Take::Close);
    schedule.closed(hop);
    quiet_until(&mut schedule, Some(Now(5 * SECOND)));
    let action = schedule.poll(Now(5 * SECOND));
    assert_eq!(action, Some(Action::Open { hop }));
}

#[test]
fn empty_hop_is_forgotten_and_its_name_dies_with_it() {
    let mut schedule = schedule(Settings::default());
    schedule.push(&"a", 1, Now(0));
    let (hop, _) = connect(&mut schedule, Now(0));
    schedule.take(hop, Now(0));
    schedule.idle_closed(hop);
    assert_eq!(schedule.poll(Now(0)), None);
    assert_eq!(schedule.hops(), 0);
    assert_eq!(schedule.status(hop), None);
    let again = schedule.push(&"a", 1, Now(0));
    assert_ne!(again, hop);
}

#[test]
fn empty_dead_hop_is_remembered_for_its_pause_only() {
    let mut schedule = schedule(Settings {
        failures_until_dead: 1,
        blocked_wait_max: Duration::from_secs(1),
        ..Settings::default()
    });
    schedule.push(&"a", 1, Now(0));
    let hop = open_all(&mut schedule, Now(0))[0];
    schedule.connect_failed(hop, Now(0), Now(0));
    assert_eq!(schedule.poll(Now(0)), None);
    let action = schedule.poll(Now(SECOND));
    assert_eq!(action, Some(Action::Postpone { hop, job: 1 }));
    assert_eq!(schedule.poll(Now(SECOND)), None);
    assert_eq!(schedule.hops(), 1);
    assert_eq!(schedule.poll(Now(10 * SECOND)), None);
    assert_eq!(schedule.hops(), 0);
    assert_eq!(schedule.deadline(), None);
}

#[test]
fn slow_hops_do_not_hold_all_connections() {
    let mut schedule: Schedule<u32, u32> = Schedule::new(Settings {
        connections_max: 100,
        ..Settings::default()
    });
    let mut opened = HashMap::<HopId, u32>::new();
    for slow in 0..50 {
        for job in 0..100 {
            schedule.push(&slow, job, Now(0));
        }
    }
    for at in 0..100 {
        while let Some(Action::Open { hop }) = schedule.poll(Now(at * 50 * MILLISECOND)) {
            *opened.entry(hop).or_default() += 1;
        }
    }
    assert_eq!(opened.len(), 50);
    assert!(
        schedule.connections() <= 88,
        "unproven hops leave a reserve"
    );
    let fast = schedule.push(&1000, 1, Now(5 * SECOND));
    assert_eq!(schedule.poll(Now(5 * SECOND)), None, "the reserve is full");
    let some = *opened.keys().next().unwrap();
    schedule.connect_failed(some, Now(0), Now(5 * SECOND));
    let action = schedule.poll(Now(5 * SECOND));
    assert_eq!(action, Some(Action::Open { hop: fast }));
}

#[test]
fn connections_that_never_open_give_way_to_hops_that_have_not_failed() {
    let mut schedule: Schedule<u32, u32> = Schedule::new(Settings {
        connections_max: 8,
        ..Settings::default()
    });
    for mute in 0..7 {
        schedule.push(&mute, 1, Now(0));
    }
    let opened: Vec<HopId> = std::iter::from_fn(|| match schedule.poll(Now(0))? {
        Action::Open { hop } => Some(hop),
        other => panic!("{other:?}"),
    })
    .collect();
    assert_eq!(opened.len(), 7);
    let late = Now(100 * SECOND);
    assert!(
        !schedule.is_crowded_out(opened[0], Now(0), late),
        "by nobody"
    );
    let good = schedule.push(&100, 1, Now(SECOND));
    assert_eq!(schedule.poll(Now(SECOND)), None);
    assert!(!schedule.is_crowded_out(opened[0], Now(0), Now(29 * SECOND)));
    assert!(schedule.is_crowded_out(opened[0], Now(0), Now(30 * SECOND)));
    schedule.connect_failed(opened[0], Now(0), late);
    assert!(
        !schedule.is_crowded_out(opened[1], Now(0), late),
        "one is enough"
    );
    assert_eq!(schedule.poll(late), Some(Action::Open { hop: good }));
    assert_eq!(schedule.poll(late), None);
    schedule.check();
    assert!(
        !schedule.is_crowded_out(opened[1], Now(0), late),
        "only one waits that has failed itself"
    );
}

#[test]
fn idle_connection_makes_room_for_a_starved_hop() {
    let mut schedule = schedule(Settings {
        connections_max: 1,
        ..Settings::default()
    });
    schedule.push(&"a", 1, Now(0));
    let (a, _) = connect(&mut schedule, Now(0));
    schedule.take(a, Now(0));
    let b = schedule.push(&"b", 2, Now(1));
    assert_eq!(schedule.poll(Now(1)), Some(Action::Close { hop: a }));
    assert_eq!(schedule.poll(Now(1)), None);
    schedule.closed(a);
    assert_eq!(schedule.poll(Now(1)), Some(Action::Open { hop: b }));
}

#[test]
fn busy_hop_yields_to_a_starved_one_after_its_turn() {
    let mut schedule = schedule(Settings {
        connections_max: 1,
        jobs_per_turn: 3,
        ..Settings::default()
    });
    for job in 0..10 {
        schedule.push(&"a", job, Now(0));
    }
    let (a, _) = connect(&mut schedule, Now(0));
    let b = schedule.push(&"b", 100, Now(0));
    assert_eq!(schedule.poll(Now(0)), None);
    assert_eq!(schedule.take(a, Now(0)), Take::Job(1));
    assert_eq!(schedule.take(a, Now(0)), Take::Job(2));
    assert_eq!(schedule.take(a, Now(0)), Take::Close);
    schedule.closed(a);
    assert_eq!(schedule.poll(Now(0)), Some(Action::Open { hop: b }));
}

#[test]
fn tarpit_hop_hands_jobs_back_so_that_they_can_expire() {
    let mut schedule = schedule(Settings {
        window_initial: 1,
        window_max: 1,
        ..Settings::default()
    });
    schedule.push(&"a", 1, Now(0));
    schedule.push(&"a", 2, Now(0));
    let (hop, _) = connect(&mut schedule, Now(0));
    assert_eq!(schedule.poll(Now(0)), None);
    let hour = schedule.deadline().unwrap();
    assert_eq!(hour, Now(3600 * SECOND));
    let action = schedule.poll(hour);
    assert_eq!(action, Some(Action::Postpone { hop, job: 2 }));
}

#[test]
fn a_shard_gets_its_share_of_the_window() {
    let mut schedule = schedule(Settings::default());
    let hop = schedule.push(&"a", 0, Now(0));
    schedule.set_window_max(hop, 2);
    for job in 1..1000 {
        schedule.push(&"a", job, Now(0));
    }
    open_all(&mut schedule, Now(0));
    open_all(&mut schedule, Now(SECOND));
    assert_eq!(schedule.connections(), 2);
}

#[test]
fn context_lives_as_long_as_the_hop() {
    let mut schedule: Schedule<&str, u32, Option<&str>> = Schedule::new(Settings::default());
    let hop = schedule.push(&"a", 1, Now(0));
    *schedule.context(hop) = Some("connection refused");
    assert_eq!(schedule.push(&"a", 2, Now(0)), hop);
    assert_eq!(*schedule.context(hop), Some("connection refused"));
    assert_eq!(*schedule.key(hop), "a");
}

#[test]
fn a_million_jobs_pass_quickly() {
    const JOBS: u32 = 1_000_000;
    let started = cpu_time();
    let mut schedule: Schedule<u32, u32> = Schedule::new(Settings::default());
    for job in 0..JOBS / 2 {
        schedule.push(&(job % 1000), job, Now(0));
        schedule.defer(
            job,
            Now(u64::from(job.wrapping_mul(2_654_435_761) % 1_000_000)),
        );
    }
    let mut taken = 0;
    let mut now = Now(0);
    while taken < JOBS {
        match schedule.poll(now) {
            Some(Action::Open { hop }) => {
                schedule.connected(hop, Duration::ZERO);
                while let Take::Job(_) = schedule.take(hop, now) {
                    taken += 1;
                }
            }
            Some(Action::Wake { hop }) => {
                while let Take::Job(_) = schedule.take(hop, now) {
                    taken += 1;
                }
            }
            Some(Action::Close { hop }) => schedule.closed(hop),
            Some(Action::Retry { job }) => {
                schedule.push(&(job % 1000), job, now);
            }
            Some(Action::Postpone { .. }) => taken += 1,
            None => now = now.max(schedule.deadline().expect("work is left")),
        }
    }
    assert!(schedule.is_empty());
    // 0.7 s on an idle machine, 8 s in a build without any optimisation; whatever is not linear takes minutes.
    let took = cpu_time().saturating_sub(started);
    assert!(took < Duration::from_secs(20), "took {took:?}");
}

/// Of this thread: a busy machine must not fail the test.
fn cpu_time() -> Duration {
    let figures = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = figures
        .split(' ')
        .next()
        .and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

mod simulation;
mod slow_beside_quick;
