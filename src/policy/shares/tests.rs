use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

const CAPACITY: u64 = 240_000;
const MESSAGE: Weight = Weight {
    memory: 1_000,
    spool: 1_000,
};

/// A relay whose memory and spool have room for as much: mail that was accepted is in both.
struct Relay {
    views: Vec<View>,
    mail: Vec<ShareCharge>,
}

impl Relay {
    fn new(cores: usize) -> Self {
        let shares = Shares::new(cores);
        let view = |core| View::new(shares.clone(), core);
        Relay {
            views: (0..cores).map(view).collect(),
            mail: Vec::new(),
        }
    }

    fn shares(&self) -> &Arc<Shares> {
        &self.views[0].shares
    }

    fn party(&self, name: &str) -> Party {
        self.shares().party(name)
    }

    fn used(&self) -> u64 {
        self.mail.iter().map(|it| it.weight().memory).sum()
    }

    fn rooms(&self, core: usize) -> Rooms {
        let used = self.used();
        let left = CAPACITY - used;
        self.views[core].rooms(Room { used, left }, (left, false))
    }

    fn ask(&self, core: usize, who: Who, party: Party) -> Result<(), Over> {
        let rooms = self.rooms(core);
        self.views[core].ask(who, party.into(), Mail::Comes(MESSAGE), &rooms)
    }

    /// A message for one destination, as far as shares have to say. True if it is accepted.
    fn send(&mut self, core: usize, origin: &str, destination: &str) -> bool {
        let (origin, way) = (self.party(origin), self.party(destination));
        let asked = [(Who::Origin, origin), (Who::Destination, way)];
        if asked
            .iter()
            .any(|(who, it)| self.ask(core, *who, *it).is_err())
        {
            return false;
        }
        let ways = Ways::of(1, |_| way);
        let mut charge = self.views[core].charge(origin, ways, MESSAGE);
        if charge.ask(&self.rooms(core), |_| true).is_err() {
            return false;
        }
        charge.accepted();
        self.mail.push(charge);
        true
    }

    /// Until no more is taken: how much that destination holds.
    fn flood(&mut self, origins: impl Fn(usize) -> String, destination: &str) -> u64 {
        let mut sent = 0;
        while self.send(sent % self.views.len(), &origins(sent), destination) {
            sent += 1;
        }
        sent as u64 * MESSAGE.memory
    }
}

fn strangers(number: usize) -> String {
    format!("network {number}")
}

#[track_caller]
fn assert_about(is: u64, parts: u64, of: u64) {
    let wanted = CAPACITY * parts / of;
    assert!(
        is.abs_diff(wanted) <= 2 * MESSAGE.memory,
        "{is}, not {wanted}"
    );
}

#[test]
fn one_dead_destination_has_half_and_a_newcomer_finds_room() {
    for cores in [1, 4] {
        let mut relay = Relay::new(cores);
        assert_about(relay.flood(strangers, "dead"), 1, 2);
        assert!(!relay.send(0, "friend", "dead"));
        assert!(relay.send(0, "friend", "live"));
    }
}

#[test]
fn of_two_each_may_have_a_third() {
    let mut relay = Relay::new(2);
    let mut sent = [0; 2];
    loop {
        let takes = [0, 1].map(|it| {
            let taken = relay.send(0, &strangers(sent[it]), ["one", "other"][it]);
            sent[it] += usize::from(taken);
            taken
        });
        if takes == [false, false] {
            break;
        }
    }
    for sent in sent {
        assert_about(sent as u64 * MESSAGE.memory, 1, 3);
    }
}

#[test]
fn an_origin_has_three_quarters_and_others_find_room() {
    let mut relay = Relay::new(1);
    let mut sent = 0;
    while relay.send(0, "flood", &format!("host {sent}")) {
        sent += 1;
    }
    assert_about(sent * MESSAGE.memory, 3, 4);
    assert!(relay.send(0, "friend", "live"));
}

#[test]
fn an_origin_goes_on_beside_its_dead_destination() {
    let mut relay = Relay::new(1);
    assert_about(relay.flood(|_| "company".to_owned(), "dead"), 1, 2);
    assert!(relay.send(0, "company", "live"));
}

#[test]
fn a_recipient_is_refused_before_a_whole_message_is() {
    let mut relay = Relay::new(1);
    relay.flood(strangers, "dead");
    relay.mail.truncate(relay.mail.len() - 3);
    let (rooms, dead) = (relay.rooms(0), relay.party("dead").into());
    let ask = |mail| relay.views[0].ask(Who::Destination, dead, mail, &rooms);
    assert!(ask(Mail::Begins(MESSAGE)).is_err());
    assert_eq!(ask(Mail::Comes(MESSAGE)), Ok(()));
}

#[test]
fn what_a_dead_destination_held_may_be_had_again() {
    let mut relay = Relay::new(2);
    relay.flood(strangers, "dead");
    relay.mail.truncate(70);
    assert_about(relay.flood(strangers, "dead") + 70_000, 1, 2);
    relay.mail.clear();
    assert_eq!(relay.shares().held(), Totals::default());
}

#[test]
fn a_thousand_sessions_past_rcpt_do_not_overshoot_together() {
    let mut relay = Relay::new(1);
    let way = relay.party("dead");
    let share = CAPACITY / 2;
    relay.flood(strangers, "dead");
    relay.mail.truncate((share / MESSAGE.memory) as usize - 50);
    // All were told that there is room, and all have begun.
    let begin = |number: usize| {
        let origin = relay.party(&strangers(number));
        relay.views[0].charge(origin, Ways::of(1, |_| way), MESSAGE)
    };
    let begun: Vec<ShareCharge> = (0..1000).map(begin).collect();
    for mut charge in begun {
        if charge.ask(&relay.rooms(0), |_| true).is_ok() {
            charge.accepted();
            relay.mail.push(charge);
        }
    }
    let held = relay.used();
    assert!(held <= share + MESSAGE.memory, "{held}");
    assert!(held >= share - 10 * MESSAGE.memory, "{held}");
    assert_eq!(relay.shares().held().incoming, Weight::default());
}

#[test]
fn a_message_counts_whole_where_it_still_goes_and_nowhere_else() {
    let relay = Relay::new(2);
    let (live, dead) = (relay.party("live"), relay.party("dead"));
    let ways = Ways::of(3, |index| [live, dead, live][index]);
    let origin = relay.party("origin");
    let mut charge = relay.views[1].charge(origin, ways, MESSAGE);
    charge.accepted();
    let held = |party| relay.shares().held_by_party(Who::Destination, party, None);
    assert_eq!([held(live), held(dead)], [MESSAGE; 2]);
    charge.done(0);
    assert_eq!(held(live), MESSAGE);
    charge.done(2);
    assert_eq!([held(live), held(dead)], [Weight::default(), MESSAGE]);
    let of_origin = relay.shares().held_by_party(Who::Origin, origin, None);
    assert_eq!(of_origin, MESSAGE);
    charge.done(1);
    assert_eq!(held(dead), Weight::default());
    drop(charge);
    assert_eq!(relay.shares().held(), Totals::default());
}

#[test]
fn of_a_part_of_the_spool_only_what_lies_there_counts() {
    let relay = Relay::new(2);
    let way = relay.party("dead");
    let begin = |core: usize| {
        let ways = Ways::of(1, |_| way);
        relay.views[core].charge(relay.party("origin"), ways, MESSAGE)
    };
    let _charges = [begin(0), begin(0), begin(1)];
    let memory = Room {
        used: 0,
        left: CAPACITY,
    };
    let spool = |core: usize, is_own| relay.views[core].rooms(memory, (9_000, is_own)).spool;
    let room = |used, left| Room { used, left };
    assert_eq!(spool(1, true), room(1_000, 8_000));
    assert_eq!(spool(1, false), room(3_000, 6_000));
    let asked = |core: usize, left, is_own| {
        let rooms = relay.views[core].rooms(memory, (left, is_own));
        let asked =
            relay.views[core].ask(Who::Destination, way.into(), Mail::Comes(MESSAGE), &rooms);
        asked.map_err(|over| (over.resource, over.holds))
    };
    assert_eq!(asked(1, 1_500, true), Err((Resource::Spool, 1_000)));
    assert_eq!(asked(0, 3_500, true), Err((Resource::Spool, 2_000)));
    assert_eq!(asked(1, 3_500, false), Err((Resource::Spool, 3_000)));
    assert_eq!(asked(1, 8_000, false), Ok(()));
}

#[test]
fn mail_that_came_before_the_site_was_known_counts_beside_it() {
    let relay = Relay::new(1);
    let shares = relay.shares();
    let before = shares.way_of_domain("a.test");
    assert_eq!(before.before, None);
    shares.learn("a.test", "mx.test:25");
    shares.learn("b.test", "mx.test:25");
    let [a, b] = ["a.test", "b.test"].map(|domain| shares.way_of_domain(domain));
    assert_eq!(a.party, b.party);
    assert_eq!(a.before, Some(before.party));
    let rooms = Rooms {
        memory: Room {
            used: 9,
            left: 2_500,
        },
        spool: Room {
            used: 2_600,
            left: 2_500,
        },
        spool_is_own: false,
    };
    let begin = |way: Way| {
        let ways = Ways::of(1, |_| way.party);
        relay.views[0].charge(relay.party("origin"), ways, MESSAGE)
    };
    let _old = [begin(before), begin(before)];
    let is_taken = |way| {
        let asked = relay.views[0].ask(Who::Destination, way, Mail::Comes(MESSAGE), &rooms);
        asked.is_ok()
    };
    assert_eq!([is_taken(a), is_taken(b)], [false, true]);
    let _new = begin(b);
    assert_eq!([is_taken(a), is_taken(b)], [false, false]);
}

#[test]
fn a_session_has_little_of_it() {
    let bytes = size_of::<ShareCharge>();
    assert!(bytes <= 64, "{bytes} bytes");
}

/// What befalls the mail of a relay.
#[derive(Clone, Debug)]
enum Step {
    /// A message for these, from that origin, to that core.
    Begin(Vec<u8>, u8, usize, u32),
    Grow(usize, u32),
    Accept(usize),
    Done(usize, usize),
    Drop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let recipients = prop::collection::vec(0..6u8, 1..6);
    let which = 0..1_000usize;
    let step = prop_oneof![
        (recipients, 0..4u8, 0..3usize, any::<u32>())
            .prop_map(|(to, from, core, bytes)| Step::Begin(to, from, core, bytes)),
        (which.clone(), any::<u32>()).prop_map(|(at, bytes)| Step::Grow(at, bytes)),
        which.clone().prop_map(Step::Accept),
        (which.clone(), 0..6usize).prop_map(|(at, index)| Step::Done(at, index)),
        which.prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 0..80)
}

/// A message, and what must be true of it.
struct Known {
    charge: ShareCharge,
    /// By recipient: its destination, unless it is done.
    to: Vec<Option<u8>>,
    from: u8,
}

fn holds(relay: &Relay, who: Who, number: u8) -> u64 {
    let party = relay.shares().party((who as u8, number));
    relay.shares().held_by_party(who, party, None).spool
}

proptest! {
    /// In any order of charges and give-backs the counts are those of the mail that is there: never less, and no more
    /// than what falls together with it.
    #[test]
    fn counts_are_those_of_the_mail_that_is_there(steps in steps()) {
        let relay = Relay::new(3);
        let mut mail: Vec<Known> = Vec::new();
        for step in steps {
            match step {
                Step::Begin(to, from, core, bytes) => {
                    let party = |it: u8| relay.shares().party((Who::Destination as u8, it));
                    let ways = Ways::of(to.len(), |index| party(to[index]));
                    let origin = relay.shares().party((Who::Origin as u8, from));
                    let weight = Weight { memory: 7, spool: bytes.into() };
                    let charge = relay.views[core].charge(origin, ways, weight);
                    mail.push(Known { charge, to: to.into_iter().map(Some).collect(), from });
                }
                _ if mail.is_empty() => {}
                Step::Grow(at, bytes) => {
                    let at = at % mail.len();
                    let weight = Weight { memory: 7, spool: bytes.into() };
                    mail[at].charge.set(weight);
                }
                Step::Accept(at) => {
                    let at = at % mail.len();
                    mail[at].charge.accepted();
                }
                Step::Done(at, index) => {
                    let at = at % mail.len();
                    let index = index % mail[at].to.len();
                    if mail[at].to[index].take().is_some() {
                        mail[at].charge.done(index);
                    }
                }
                Step::Drop(at) => drop(mail.swap_remove(at % mail.len())),
            }
            let mut exact: HashMap<(u8, u8), u64> = HashMap::new();
            let mut all = 0;
            for it in &mail {
                let spool = it.charge.weight().spool;
                all += spool;
                *exact.entry((Who::Origin as u8, it.from)).or_default() += spool;
                let mut ways: Vec<u8> = it.to.iter().flatten().copied().collect();
                ways.sort_unstable();
                ways.dedup();
                for way in ways {
                    *exact.entry((Who::Destination as u8, way)).or_default() += spool;
                }
            }
            prop_assert_eq!(relay.shares().held().all.spool, all);
            for who in [Who::Destination, Who::Origin] {
                for number in 0..6 {
                    let exact = exact.get(&(who as u8, number)).copied().unwrap_or(0);
                    // With twenty parties hardly any two fall together in both rows.
                    prop_assert_eq!(holds(&relay, who, number), exact);
                }
            }
        }
        mail.clear();
        prop_assert!(relay.shares().are_given_back());
    }

    /// However many there are and in whatever order they come: none has more than it may, whoever is new finds room, and
    /// one that is alone has half.
    #[test]
    fn shares_hold_in_any_order(
        order in prop::collection::vec((0..5usize, 0..3usize, any::<bool>()), 0..800),
    ) {
        let mut relay = Relay::new(3);
        let mut held = [0u64; 5];
        let mut who = Vec::new();
        for (hog, core, leaves) in order {
            // More comes than goes.
            if leaves && core == 0 && !relay.mail.is_empty() {
                let at = (hog * 7919) % relay.mail.len();
                drop(relay.mail.swap_remove(at));
                held[who.swap_remove(at) as usize] -= MESSAGE.memory;
                continue;
            }
            let left = CAPACITY - relay.used();
            let name = format!("hog {hog}");
            if relay.send(core, &strangers(who.len()), &name) {
                held[hog] += MESSAGE.memory;
                who.push(hog as u8);
                let is_scarce = relay.used() > CAPACITY / 2;
                prop_assert!(!is_scarce || held[hog] <= left, "{held:?} with {left} left");
            } else {
                prop_assert!(held[hog] > 0, "it has nothing and is refused");
                let is_due = held[hog] + 2 * MESSAGE.memory > left;
                prop_assert!(is_due, "{hog} of {held:?} is refused with {left} left");
            }
            prop_assert!(relay.used() < CAPACITY);
        }
        prop_assert!(relay.send(0, "friend", "new"));
    }
}

#[test]
fn mail_that_was_charged_at_its_domain_is_found_by_it_when_the_site_is_known() {
    let relay = Relay::new(1);
    let shares = relay.shares();
    let charged = shares.way_of_domain("a.test").party;
    shares.learn("a.test", "mx.a.test");
    let way = shares.way_of_domain("a.test");
    assert_ne!(way.party, charged);
    assert!(way.counts_at(charged) && way.counts_at(way.party));
    assert!(!shares.way_of_domain("b.test").counts_at(charged));
}
