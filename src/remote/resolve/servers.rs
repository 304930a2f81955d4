//! Which name server is asked next, and what its words are worth. Pure: the time comes in.
//!
//! Promise: an error, or silence, of one server is no answer while another has not been asked; a question
//! ends after a bounded number of asks.
//! Not here: sockets. `pool` sends what this asks for, and tells what came of it.
//!
//! | a server says | then |
//! |---|---|
//! | records, or a denial with SOA (NXDOMAIN, NODATA; RFC 2308) | that is the answer |
//! | a denial without SOA, as small forwarders do | the next is asked; see below |
//! | SERVFAIL, REFUSED, a referral, nonsense, an error of the connection | the next is asked at once |
//! | FORMERR, NOTIMP, BADVERS to EDNS | the same one is asked again without (RFC 6891 section 6.2.2) |
//! | any error, or nothing for half its time, and it is not known to speak EDNS | likewise |
//! | nothing for [`Limits::hedge_after`] | the next is asked as well, and both may answer |
//! | nothing in its time | the next; when all have been asked, the silent ones once more |
//!
//! **Health.** A server that failed where another answered is *given up* for a while that doubles: others
//! are asked first, and it comes last. One whose while is over is tried by one question, not by all. A domain
//! that no server can resolve says nothing about the servers.
//!
//! **A denial without SOA** is what forwarders make of a denial that they remember, and also what a box says that has lost
//! its way, of every name. Mail is returned for it, or goes to a domain's own address instead of its MX hosts. So it counts if
//! all servers say the same, but for those that have done nothing but fail for [`GONE_AFTER`].

use crate::time::Now;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a server is given up for, the first time and at most.
const GIVEN_UP_MIN: Duration = Duration::from_secs(10);
const GIVEN_UP_MAX: Duration = Duration::from_secs(300);

/// So often in a row may another server be quicker by [`Limits::hedge_after`] before one counts as dead.
const OVERTAKEN_MAX: u32 = 3;

/// How long a server is asked without EDNS once only that was answered.
const PLAIN_SPAN: Duration = Duration::from_secs(3600);

/// An answer to EDNS shows for so long that silence has another reason.
const EDNS_PROVEN_SPAN: Duration = Duration::from_secs(60);

/// A server of which only failures were heard for so long is not waited for to confirm what another says.
const GONE_AFTER: Duration = Duration::from_secs(3600);

/// The bounds of one question.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Time that one server has for an answer.
    pub query_timeout: Duration,
    /// Times that silent servers are asked again.
    pub rounds_more: usize,
    /// A server that has said nothing for so long is not waited for alone.
    pub hedge_after: Duration,
}

/// One way to ask: a server, by its place in the configuration, with EDNS or without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ask {
    pub server: usize,
    pub edns: bool,
}

/// What an ask came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Said {
    Answer,
    /// No such name or record, without the SOA that would make it sure.
    UnprovenDenial,
    /// FORMERR, NOTIMP or BADVERS: what servers say that do not know EDNS.
    NotUnderstood,
    Error,
    Silence,
}

/// A server was given up for another. Told once for each time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GivenUp {
    pub server: usize,
    /// `None`: it was overtaken, again and again.
    pub said: Option<Said>,
    /// Who answered.
    pub other: usize,
    pub span: Duration,
}

#[derive(Clone, Debug, Default)]
struct Server {
    /// Times given up since it last answered.
    given_up: u32,
    given_up_until: Option<Now>,
    /// Its first failure since it last answered, of those beside which another server had something to say: a domain that
    /// no server can resolve says nothing about the servers.
    failing_since: Option<Now>,
    /// That time was over, and one question tries it; set aside for the others meanwhile.
    is_tried: bool,
    overtaken: u32,
    edns_proven_until: Option<Now>,
    plain_until: Option<Now>,
}

/// What is known of the configured servers.
pub(super) struct Servers {
    limits: Limits,
    servers: Vec<Server>,
}

/// One question on its way through the servers.
pub(super) struct Course {
    queue: VecDeque<Ask>,
    /// Asked and not heard, with when.
    under_way: Vec<(Ask, Now)>,
    /// Servers that failed in this question, and how last.
    failed: Vec<(usize, Said)>,
    /// Asked with EDNS in vain, so that success without it means something.
    edns_in_vain: Vec<usize>,
    rounds_left: usize,
    last_asked: Now,
    /// What came calls for the next server at once.
    is_urgent: bool,
    /// Servers that denied it without SOA.
    denied_by: Vec<usize>,
    /// Servers that were given up, and that this question tries.
    on_trial: Vec<usize>,
}

fn is_future(until: Option<Now>, now: Now) -> bool {
    until.is_some_and(|until| until > now)
}

impl Servers {
    pub fn new(count: usize, limits: Limits) -> Self {
        Servers {
            limits,
            servers: vec![Server::default(); count],
        }
    }

    /// Begins a question.
    pub fn begin(&mut self, now: Now) -> Course {
        let (order, on_trial) = self.order(now);
        let queue = order.into_iter().map(|server| self.first_ask(server, now));
        Course {
            queue: queue.collect(),
            under_way: Vec::new(),
            failed: Vec::new(),
            edns_in_vain: Vec::new(),
            rounds_left: self.limits.rounds_more,
            last_asked: now,
            is_urgent: true,
            denied_by: Vec::new(),
            on_trial,
        }
    }

    /// As configured, those that are given up last; and which of them this question tries.
    fn order(&mut self, now: Now) -> (Vec<usize>, Vec<usize>) {
        let mut on_trial = Vec::new();
        let mut order: Vec<usize> = (0..self.servers.len()).collect();
        order.sort_by_key(|server| is_future(self.servers[*server].given_up_until, now));
        for (at, server) in self.servers.iter_mut().enumerate() {
            if server.given_up > 0 && !is_future(server.given_up_until, now) {
                on_trial.push(at);
                server.is_tried = true;
                server.given_up_until = Some(now + self.limits.query_timeout);
            }
        }
        (order, on_trial)
    }

    fn first_ask(&self, server: usize, now: Now) -> Ask {
        let edns = !is_future(self.servers[server].plain_until, now);
        Ask { server, edns }
    }

    /// What is to be asked now. `None`: nothing yet, or, if nothing is under way, the question is over.
    pub fn next(&mut self, course: &mut Course, now: Now) -> Option<Ask> {
        if let Some(ask) = self.without_edns_if_silent(course, now) {
            return Some(course.ask(ask, now));
        }
        let is_alone = course.under_way.is_empty();
        if is_alone && course.queue.is_empty() {
            self.begin_round(course, now);
        }
        if course.is_urgent || is_alone || now >= course.last_asked + self.limits.hedge_after {
            course.is_urgent = false;
            let ask = course.queue.pop_front()?;
            return Some(course.ask(ask, now));
        }
        None
    }

    /// A server that drops what it does not know is silent to EDNS alone.
    fn without_edns_if_silent(&self, course: &mut Course, now: Now) -> Option<Ask> {
        let is_late = |it: &&(Ask, Now)| self.plain_at(course, it).is_some_and(|at| at <= now);
        let server = course.under_way.iter().find(is_late)?.0.server;
        course.edns_in_vain.push(server);
        Some(Ask {
            server,
            edns: false,
        })
    }

    /// When a silent server is asked without EDNS as well.
    fn plain_at(&self, course: &Course, (ask, since): &(Ask, Now)) -> Option<Now> {
        let at = *since + self.limits.query_timeout / 2;
        let is_proven = is_future(self.servers[ask.server].edns_proven_until, at);
        let was_tried = course.edns_in_vain.contains(&ask.server);
        (ask.edns && !is_proven && !was_tried).then_some(at)
    }

    fn begin_round(&self, course: &mut Course, now: Now) {
        if course.rounds_left == 0 || self.is_denied(course, now) {
            return;
        }
        course.rounds_left -= 1;
        let silent = course.failed.iter().filter(|it| it.1 == Said::Silence);
        course.queue = silent.map(|it| self.first_ask(it.0, now)).collect();
        course.edns_in_vain.clear();
    }

    /// When [`Servers::next`] may have something though nothing was heard.
    pub fn deadline(&self, course: &Course) -> Now {
        let hedge = match course.queue.is_empty() {
            true => Now::NEVER,
            false => course.last_asked + self.limits.hedge_after,
        };
        let plain = course.under_way.iter();
        let plain = plain.filter_map(|it| self.plain_at(course, it));
        plain.fold(hedge, Now::min)
    }

    /// Takes what an ask came to. True: that is the answer, and the question is over.
    pub fn heard(
        &mut self,
        course: &mut Course,
        ask: Ask,
        said: Said,
        now: Now,
        given_up: &mut Vec<GivenUp>,
    ) -> bool {
        course.under_way.retain(|(other, _)| *other != ask);
        course.is_urgent = true;
        let proven = is_future(self.servers[ask.server].edns_proven_until, now);
        match said {
            Said::Answer | Said::UnprovenDenial => {
                self.answered(course, ask, now);
                self.judge_others(course, ask.server, now, given_up);
                if said == Said::Answer {
                    return true;
                }
                if !course.denied_by.contains(&ask.server) {
                    course.denied_by.push(ask.server);
                }
                if self.is_denied(course, now) {
                    // Better is hoped for, but not from who was silent lately.
                    let is_given_up =
                        |it: &Ask| is_future(self.servers[it.server].given_up_until, now);
                    let on_trial = &course.on_trial;
                    let may_be_back = |it: &Ask| on_trial.contains(&it.server);
                    (course.queue).retain(|it| !is_given_up(it) || may_be_back(it));
                }
            }
            Said::NotUnderstood | Said::Error | Said::Silence => {
                let plain_may_help = said == Said::NotUnderstood || said == Said::Error && !proven;
                course.note_failure(ask.server, said);
                if ask.edns && plain_may_help && !course.edns_in_vain.contains(&ask.server) {
                    course.edns_in_vain.push(ask.server);
                    course.queue.push_front(Ask { edns: false, ..ask });
                }
                if let Some(&denied_by) = course.denied_by.first() {
                    self.judge_others(course, denied_by, now, given_up);
                }
            }
        }
        false
    }

    /// Whether what was heard without SOA is a denial, should nobody say better.
    pub fn is_denied(&self, course: &Course, now: Now) -> bool {
        let is_gone = |server: &Server| {
            let since = server.failing_since;
            since.is_some_and(|since| now.since(since) >= GONE_AFTER)
        };
        let denied = |server: &usize| course.denied_by.contains(server);
        let mut others = (0..self.servers.len()).filter(|it| !denied(it));
        !course.denied_by.is_empty() && others.all(|it| is_gone(&self.servers[it]))
    }

    fn answered(&mut self, course: &mut Course, ask: Ask, now: Now) {
        course.failed.retain(|(failed, _)| *failed != ask.server);
        let server = &mut self.servers[ask.server];
        server.given_up = 0;
        server.given_up_until = None;
        server.failing_since = None;
        server.is_tried = false;
        server.overtaken = 0;
        if ask.edns {
            server.edns_proven_until = Some(now + EDNS_PROVEN_SPAN);
            server.plain_until = None;
        } else if course.edns_in_vain.contains(&ask.server) {
            server.plain_until = Some(now + PLAIN_SPAN);
            server.edns_proven_until = None;
        }
    }

    /// What it means for the others that this one answered.
    fn judge_others(
        &mut self,
        course: &mut Course,
        other: usize,
        now: Now,
        told: &mut Vec<GivenUp>,
    ) {
        let hedged = self.limits.hedge_after;
        let late = |(ask, since): &(Ask, Now)| {
            (ask.server != other && now >= *since + hedged).then_some(ask.server)
        };
        let mut overtaken: Vec<usize> = course.under_way.iter().filter_map(late).collect();
        overtaken.dedup();
        for server in overtaken {
            self.servers[server].overtaken += 1;
            if self.servers[server].overtaken >= OVERTAKEN_MAX {
                told.extend(self.give_up(server, None, other, now));
            }
        }
        // Those who were silent are kept: they may be asked once more.
        for (server, said) in course.failed.clone() {
            if server != other {
                self.servers[server].failing_since.get_or_insert(now);
                told.extend(self.give_up(server, Some(said), other, now));
            }
        }
    }

    /// `None`: it is given up already.
    fn give_up(
        &mut self,
        server: usize,
        said: Option<Said>,
        other: usize,
        now: Now,
    ) -> Option<GivenUp> {
        let span = GIVEN_UP_MIN * (1 << self.servers[server].given_up.min(10));
        let span = span.min(GIVEN_UP_MAX);
        let it = &mut self.servers[server];
        if is_future(it.given_up_until, now) && !it.is_tried {
            return None;
        }
        it.is_tried = false;
        it.given_up += 1;
        it.given_up_until = Some(now + span);
        it.overtaken = 0;
        Some(GivenUp {
            server,
            said,
            other,
            span,
        })
    }
}

impl Course {
    fn ask(&mut self, ask: Ask, now: Now) -> Ask {
        self.under_way.push((ask, now));
        self.last_asked = now;
        ask
    }

    fn note_failure(&mut self, server: usize, said: Said) {
        self.failed.retain(|(failed, _)| *failed != server);
        self.failed.push((server, said));
    }
}

#[cfg(test)]
mod tests {
    use super::Said::{Answer, Error, NotUnderstood, Silence, UnprovenDenial};
    use super::*;

    fn servers(count: usize) -> Servers {
        let limits = Limits {
            query_timeout: Duration::from_secs(4),
            rounds_more: 1,
            hedge_after: Duration::from_millis(300),
        };
        Servers::new(count, limits)
    }

    fn ms(milliseconds: u64) -> Now {
        Now(1_000_000_000 + milliseconds * 1000)
    }

    /// `0`: the first server with EDNS, `1p`: the second without.
    fn show(ask: Ask) -> String {
        format!("{}{}", ask.server, if ask.edns { "" } else { "p" })
    }

    /// Asks one question of which each server says, at once, what the table has for it. The asks, and whether
    /// there was an answer.
    fn ask_all(servers: &mut Servers, says: &[(&str, Said)], now: Now) -> (String, bool) {
        let (asks, is_answered, _) = ask_and_tell(servers, says, now);
        (asks, is_answered)
    }

    fn ask_and_tell(
        servers: &mut Servers,
        says: &[(&str, Said)],
        now: Now,
    ) -> (String, bool, Vec<GivenUp>) {
        let mut course = servers.begin(now);
        let (mut asks, mut given_up) = (Vec::new(), Vec::new());
        while let Some(ask) = servers.next(&mut course, now) {
            assert!(asks.len() < 20, "{asks:?}");
            asks.push(show(ask));
            let said = says.iter().find(|it| it.0 == show(ask));
            let said = said.expect("the table has it").1;
            if servers.heard(&mut course, ask, said, now, &mut given_up) {
                return (asks.join(" "), true, given_up);
            }
        }
        (asks.join(" "), false, given_up)
    }

    /// Only broken domains are asked for at the second server as long as the first one answers.
    #[test]
    fn a_domain_that_nobody_can_resolve_makes_no_server_count_as_gone() {
        let mut servers = servers(2);
        let broken = [("0", Error), ("0p", Error), ("1", Error), ("1p", Error)];
        ask_all(&mut servers, &broken, ms(0));
        ask_all(&mut servers, &[("0", Answer)], ms(1_000));
        // An hour later the first one denies everything, and the domain is still broken.
        let later = |seconds| ms(0) + GONE_AFTER + Duration::from_secs(seconds);
        let says = [("0", UnprovenDenial), ("1", Error), ("1p", Error)];
        for seconds in [1, 20] {
            let mut course = servers.begin(later(seconds));
            let mut given_up = Vec::new();
            while let Some(ask) = servers.next(&mut course, later(seconds)) {
                let said = says.iter().find(|it| it.0 == show(ask));
                let said = said.expect("the table has it").1;
                servers.heard(&mut course, ask, said, later(seconds), &mut given_up);
            }
            assert!(!servers.is_denied(&course, later(seconds)));
        }
    }

    #[test]
    fn who_is_asked_after_what() {
        // What each says; the asks; whether there was an answer.
        type Row<'a> = (&'a [(&'a str, Said)], &'a str, bool);
        let table: [Row; 13] = [
            (&[("0", Answer)], "0", true),
            (
                &[("0", Error), ("0p", Error), ("1", Answer)],
                "0 0p 1",
                true,
            ),
            (&[("0", NotUnderstood), ("0p", Answer)], "0 0p", true),
            (
                &[("0", NotUnderstood), ("0p", Error), ("1", Answer)],
                "0 0p 1",
                true,
            ),
            (
                &[("0", NotUnderstood), ("0p", NotUnderstood), ("1", Answer)],
                "0 0p 1",
                true,
            ),
            (&[("0", Error), ("0p", Answer)], "0 0p", true),
            (&[("0", Silence), ("1", Answer)], "0 1", true),
            (&[("0", UnprovenDenial), ("1", Answer)], "0 1", true),
            (
                &[("0", UnprovenDenial), ("1", UnprovenDenial)],
                "0 1",
                false,
            ),
            (&[("0", UnprovenDenial), ("1", Silence)], "0 1 1", false),
            (
                &[("0", UnprovenDenial), ("1", Error), ("1p", Error)],
                "0 1 1p",
                false,
            ),
            (&[("0", Silence), ("1", Silence)], "0 1 0 1", false),
            (
                &[("0", Silence), ("1", Error), ("1p", Error)],
                "0 1 1p 0",
                false,
            ),
        ];
        for (says, asks, is_answered) in table {
            let heard = ask_all(&mut servers(2), says, ms(0));
            assert_eq!(heard, (asks.to_owned(), is_answered), "{says:?}");
        }
    }

    #[test]
    fn edns_that_is_not_understood_is_left_out_for_an_hour() {
        let mut servers = servers(1);
        let says = [("0", NotUnderstood), ("0p", Answer)];
        assert_eq!(ask_all(&mut servers, &says, ms(0)).0, "0 0p");
        assert_eq!(ask_all(&mut servers, &says, ms(3_599_000)).0, "0p");
        assert_eq!(ask_all(&mut servers, &says, ms(3_601_000)).0, "0 0p");
    }

    /// A name that it cannot parse is no reason.
    #[test]
    fn an_error_with_and_without_edns_is_not_remembered() {
        let mut servers = servers(1);
        let says = [("0", NotUnderstood), ("0p", NotUnderstood)];
        assert_eq!(ask_all(&mut servers, &says, ms(0)), ("0 0p".into(), false));
        assert_eq!(ask_all(&mut servers, &[("0", Answer)], ms(1)).0, "0");
    }

    #[test]
    fn an_error_of_a_server_that_speaks_edns_is_believed() {
        let mut servers = servers(1);
        ask_all(&mut servers, &[("0", Answer)], ms(0));
        assert_eq!(ask_all(&mut servers, &[("0", Error)], ms(1)).0, "0");
    }

    #[test]
    fn a_server_that_drops_edns_is_asked_without_in_half_its_time() {
        let mut servers = servers(1);
        let mut course = servers.begin(ms(0));
        assert_eq!(servers.next(&mut course, ms(0)).map(show), Some("0".into()));
        assert_eq!(servers.next(&mut course, ms(1999)), None);
        assert_eq!(servers.deadline(&course), ms(2000));
        let plain = servers.next(&mut course, ms(2000)).unwrap();
        assert_eq!(show(plain), "0p");
        assert_eq!(servers.deadline(&course), Now::NEVER);
        assert!(servers.heard(&mut course, plain, Answer, ms(2001), &mut Vec::new()));
        assert_eq!(ask_all(&mut servers, &[("0p", Answer)], ms(2002)).0, "0p");
    }

    #[test]
    fn a_slow_server_is_not_waited_for_alone() {
        let mut servers = servers(2);
        let mut course = servers.begin(ms(0));
        let first = servers.next(&mut course, ms(0)).unwrap();
        assert_eq!(servers.next(&mut course, ms(299)), None);
        assert_eq!(servers.deadline(&course), ms(300));
        assert_eq!(
            servers.next(&mut course, ms(300)).map(show),
            Some("1".into())
        );
        assert_eq!(servers.next(&mut course, ms(900)), None);
        assert!(servers.heard(&mut course, first, Answer, ms(901), &mut Vec::new()));
    }

    #[test]
    fn a_denial_without_soa_counts_if_all_others_say_the_same() {
        let is_denied = |servers: &mut Servers, says: &[(&str, Said)], now| {
            let mut course = servers.begin(now);
            while let Some(ask) = servers.next(&mut course, now) {
                let said = says.iter().find(|it| it.0 == show(ask)).unwrap().1;
                if servers.heard(&mut course, ask, said, now, &mut Vec::new()) {
                    return false;
                }
            }
            servers.is_denied(&course, now)
        };
        let denial = |server| (server, UnprovenDenial);
        assert!(is_denied(&mut servers(1), &[denial("0")], ms(0)));
        assert!(is_denied(
            &mut servers(2),
            &[denial("0"), denial("1")],
            ms(0)
        ));
        let third_is_silent = [denial("0"), denial("1"), ("2", Silence)];
        assert!(!is_denied(&mut servers(3), &third_is_silent, ms(0)));
        let errs = [denial("0"), ("1", Error), ("1p", Error)];
        assert!(!is_denied(&mut servers(2), &errs, ms(0)));
        // One that is dead for good does not keep typing errors waiting for days.
        let mut servers = servers(2);
        let silent = [denial("0"), ("1", Silence)];
        assert!(!is_denied(&mut servers, &silent, ms(0)));
        assert!(!is_denied(&mut servers, &silent, ms(3_599_999)));
        assert!(is_denied(&mut servers, &silent, ms(3_600_000)));
        let back = [denial("0"), ("1", Answer)];
        is_denied(&mut servers, &back, ms(3_900_000));
        assert!(!is_denied(&mut servers, &silent, ms(3_900_001)));
    }

    #[test]
    fn a_failing_server_is_given_up_for_another_and_tried_again_by_one() {
        let mut servers = servers(2);
        let says = [("0", Error), ("0p", Error), ("1", Answer)];
        let (asks, _, given_up) = ask_and_tell(&mut servers, &says, ms(0));
        assert_eq!(asks, "0 0p 1");
        let expected = GivenUp {
            server: 0,
            said: Some(Error),
            other: 1,
            span: Duration::from_secs(10),
        };
        assert_eq!(given_up, [expected]);
        assert_eq!(ask_all(&mut servers, &says, ms(9_999)).0, "1");
        // Its time is over: one question tries it, and the others go on elsewhere.
        let mut trial = servers.begin(ms(10_000));
        assert_eq!(
            servers.next(&mut trial, ms(10_000)).map(show),
            Some("0".into())
        );
        assert_eq!(ask_all(&mut servers, &says, ms(10_001)).0, "1");
        // In vain: twice as long.
        let (asks, _, given_up) = ask_and_tell(&mut servers, &says, ms(14_001));
        assert_eq!((asks.as_str(), given_up[0].span.as_secs()), ("0 0p 1", 20));
        // It is well again.
        let well = [("0", Answer), ("1", Answer)];
        assert_eq!(ask_all(&mut servers, &well, ms(34_002)).0, "0");
        assert_eq!(ask_all(&mut servers, &well, ms(34_003)).0, "0");
    }

    #[test]
    fn a_name_that_nobody_can_resolve_says_nothing_about_the_servers() {
        let mut servers = servers(2);
        let says = [("0", Error), ("0p", Error), ("1", Error), ("1p", Error)];
        let (asks, _, given_up) = ask_and_tell(&mut servers, &says, ms(0));
        assert_eq!((asks.as_str(), given_up), ("0 0p 1 1p", Vec::new()));
        assert_eq!(ask_all(&mut servers, &[("0", Answer)], ms(1)).0, "0");
    }

    #[test]
    fn a_dead_server_costs_three_questions_a_moment() {
        let mut servers = servers(2);
        for number in 0..3 {
            let now = |after: u64| ms(number * 1000 + after);
            let mut course = servers.begin(now(0));
            assert_eq!(
                servers.next(&mut course, now(0)).map(show),
                Some("0".into())
            );
            let other = servers.next(&mut course, now(300)).unwrap();
            let mut given_up = Vec::new();
            assert!(servers.heard(&mut course, other, Answer, now(301), &mut given_up));
            assert_eq!(given_up.len(), usize::from(number == 2));
        }
        assert_eq!(ask_all(&mut servers, &[("1", Answer)], ms(3000)).0, "1");
    }

    #[test]
    fn every_server_is_asked_though_all_are_given_up() {
        let mut servers = servers(2);
        let first = [("0", Error), ("0p", Error), ("1", Answer)];
        ask_all(&mut servers, &first, ms(0));
        let second = [("0", Answer), ("1", Error), ("1p", Error)];
        assert_eq!(ask_all(&mut servers, &second, ms(1)), ("1 0".into(), true));
        ask_all(&mut servers, &first, ms(2));
        assert!(ask_all(&mut servers, &second, ms(3)).1);
    }
}
