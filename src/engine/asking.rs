//! Asks cores on the control thread, without stopping the message path, and tells them to end.
//!
//! Whoever asks has the control thread's inbox to itself: what cores say unasked is heard here, too.
//! A core that has not answered in time is left out of what is said, and named. What it says later is dropped.

use super::lane::ToCore;
use super::questions::{Answer, Asked, Question, Said};
use crate::handoff::Handoff;
use crate::io::{clock, runtime};
use crate::log::{Log, LogLevel, event};
use std::ops::Range;
use std::time::Duration;

/// What the control thread waits for all answers of all cores together. Its signals and the watchdog wait as long.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// What all cores together may take to end at once: they bound it themselves, and one that stands still is not waited for.
const DISMISSED_WITHIN: Duration = Duration::from_millis(1500);

/// Asks cores, on the control thread.
pub struct Asker<'a> {
    handoff: &'a Handoff<ToCore>,
    cores: Range<usize>,
    conversations: u64,
    /// Cores that have nothing under way any more.
    rested: usize,
    /// ... and nothing left to do, after [`Asker::close`].
    drained: usize,
    /// Cores that have said their last words, after [`Asker::end_at_once`].
    dismissed: usize,
    unrecorded: usize,
}

/// What an end at once leaves to the next start.
pub struct Left {
    /// Recipients whose outcomes are not durable.
    pub unrecorded: usize,
    /// Cores that have not told theirs.
    pub silent: usize,
}

impl Left {
    /// Says it, if it is something.
    pub fn log(&self, log: &Log) {
        if self.unrecorded == 0 && self.silent == 0 {
            return;
        }
        let now = clock::wall_time();
        let mut line = log.line(LogLevel::Warn, event::DELIVERY_UNRECORDED, now);
        line.field("recipients", self.unrecorded as u64);
        if self.silent > 0 {
            line.field("threads_silent", self.silent as u64);
        }
        line.field(
            "effect",
            "outcomes of these recipients are not on disk: they may be delivered again, or reported again after the next \
             start",
        );
    }
}

/// Cores that have not answered in time.
pub type Silent = Vec<usize>;

impl<'a> Asker<'a> {
    pub fn new(handoff: &'a Handoff<ToCore>, cores: Range<usize>) -> Self {
        Asker {
            handoff,
            cores,
            conversations: 0,
            rested: 0,
            drained: 0,
            dismissed: 0,
            unrecorded: 0,
        }
    }

    /// Asks all cores at once. `hear` gets each answer, and says what to ask that core next.
    pub async fn ask(
        &mut self,
        first: Question,
        mut hear: impl FnMut(usize, Said) -> Option<Question>,
    ) -> Silent {
        self.conversations += 1;
        let mut silent: Silent = self.cores.clone().collect();
        for core in self.cores.clone() {
            self.send(core, first);
        }
        let deadline = clock::now() + ANSWERS_WITHIN;
        while !silent.is_empty() {
            for Answer { core, said, .. } in self.hear() {
                match hear(core, said) {
                    Some(next) => self.send(core, next),
                    None => silent.retain(|other| *other != core),
                }
            }
            self.handoff.outbox.flush();
            let left = deadline.since(clock::now());
            if silent.is_empty() || runtime::timeout(left, self.notified()).await.is_err() {
                break;
            }
        }
        silent
    }

    /// Waits until all cores have received all that was sent to them before.
    pub async fn until_received(&mut self) -> Silent {
        self.ask(Question::Counts, |_, _| None).await
    }

    /// Something that nobody has asked for comes; [`Asker::hear`] takes it.
    pub async fn notified(&self) {
        self.handoff.inbox.wait().await;
    }

    /// Takes what has come. Answers to an earlier question are too late.
    pub fn hear(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        self.handoff.inbox.drain(usize::MAX, |item| match item {
            ToCore::Answer(answer) if answer.number == self.conversations => {
                answers.push(*answer);
            }
            ToCore::Rested => self.rested += 1,
            ToCore::Drained => self.drained += 1,
            ToCore::Dismissed(unrecorded) => {
                self.dismissed += 1;
                self.unrecorded += unrecorded;
            }
            _ => {}
        });
        answers
    }

    /// Has every core bring what is under way to its end. They go on answering.
    pub fn begin_drain(&self) {
        self.tell_all(|| ToCore::Drain);
    }

    /// Resolves when all cores have. What was heard is kept if this is given up.
    pub async fn rested(&mut self) {
        self.wait_for_all(|it| it.rested).await;
    }

    /// All cores have rested: what others have settled is durable, so each may end.
    pub fn close(&self) {
        self.tell_all(|| ToCore::Close);
    }

    /// Resolves when all cores have. What was heard is kept if this is given up.
    pub async fn drained(&mut self) {
        self.wait_for_all(|it| it.drained).await;
    }

    /// All of a drain, without a bound.
    pub async fn drain(&mut self) {
        self.begin_drain();
        self.rested().await;
        self.close();
        self.drained().await;
    }

    /// Has every core end what a drain has left, and waits for a moment until they have.
    pub async fn end_at_once(&mut self) -> Left {
        self.tell_all(|| ToCore::Dismiss);
        let all = self.wait_for_all(|it| it.dismissed);
        let _ = runtime::timeout(DISMISSED_WITHIN, all).await;
        Left {
            unrecorded: self.unrecorded,
            silent: self.cores.len() - self.dismissed.min(self.cores.len()),
        }
    }

    fn tell_all(&self, item: impl Fn() -> ToCore) {
        for core in self.cores.clone() {
            self.handoff.outbox.send(core, item());
        }
    }

    async fn wait_for_all(&mut self, count: impl Fn(&Self) -> usize) {
        loop {
            self.hear();
            if count(self) >= self.cores.len() {
                return;
            }
            self.notified().await;
        }
    }

    fn send(&self, core: usize, question: Question) {
        let number = self.conversations;
        let asked = Asked { question, number };
        self.handoff.outbox.send(core, ToCore::Ask(asked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::lanes;

    fn run<T>(work: impl Future<Output = T>) -> T {
        runtime::control().expect("a runtime").run(work)
    }

    /// Two cores and the control thread.
    fn three() -> [Handoff<ToCore>; 3] {
        let mut all = lanes(3).into_iter();
        std::array::from_fn(|_| all.next().expect("three"))
    }

    fn questions(core: &Handoff<ToCore>) -> Vec<Asked> {
        let mut asked = Vec::new();
        core.inbox.drain(usize::MAX, |item| match item {
            ToCore::Ask(question) => asked.push(question),
            _ => panic!("nothing else was sent"),
        });
        asked
    }

    fn answer(core: &Handoff<ToCore>, asked: Asked, next: Option<usize>) {
        let hops = Vec::new();
        let answer = asked.answer(core.outbox.core(), Said::NextHops { hops, next });
        core.outbox.send(2, ToCore::Answer(Box::new(answer)));
    }

    #[test]
    fn a_core_that_answers_in_pieces_is_asked_for_the_next_one_when_one_has_come() {
        let [first, second, control] = three();
        let mut asker = Asker::new(&control, 0..2);
        let mut pieces = [0; 2];
        let cores = async {
            let mut left = 5;
            loop {
                for asked in questions(&first) {
                    left -= 1;
                    answer(&first, asked, (left > 0).then_some(256));
                }
                for asked in questions(&second) {
                    answer(&second, asked, None);
                }
                runtime::sleep(Duration::from_millis(1)).await;
            }
        };
        let ask = asker.ask(Question::NextHops(0), |core, said| {
            pieces[core] += 1;
            let Said::NextHops { next, .. } = said else {
                panic!("that was asked");
            };
            next.map(Question::NextHops)
        });
        let silent = run(async {
            tokio::select! {
                silent = ask => silent,
                () = cores => unreachable!("for ever"),
            }
        });
        assert_eq!(silent, [] as [usize; 0]);
        assert_eq!(pieces, [5, 1]);
    }

    #[test]
    fn a_core_that_does_not_answer_is_named_and_what_it_says_later_is_dropped() {
        let [first, second, control] = three();
        let mut asker = Asker::new(&control, 0..2);
        let ask = async |asker: &mut Asker<'_>| {
            let mut heard = Vec::new();
            let hear = |core, _| {
                heard.push(core);
                None
            };
            let silent = asker.ask(Question::NextHops(0), hear);
            let quick = async {
                loop {
                    questions(&first)
                        .into_iter()
                        .for_each(|asked| answer(&first, asked, None));
                    runtime::sleep(Duration::from_millis(1)).await;
                }
            };
            let silent = tokio::select! {
                silent = silent => silent,
                () = quick => unreachable!("for ever"),
            };
            (heard, silent)
        };
        assert_eq!(run(ask(&mut asker)), (vec![0], vec![1]));
        // Its answer to the first question comes while the second is asked.
        for asked in questions(&second) {
            answer(&second, asked, None);
        }
        assert_eq!(run(ask(&mut asker)), (vec![0], vec![1]));
    }

    #[test]
    fn an_end_at_once_adds_up_what_is_not_recorded_and_counts_who_does_not_say() {
        let [first, _silent, control] = three();
        let mut asker = Asker::new(&control, 0..2);
        first.outbox.send(2, ToCore::Dismissed(3));
        let left = run(asker.end_at_once());
        assert_eq!((left.unrecorded, left.silent), (3, 1));
        first.inbox.drain(usize::MAX, |item| {
            assert!(matches!(item, ToCore::Dismiss));
        });
    }
}
