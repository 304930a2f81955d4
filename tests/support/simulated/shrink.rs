//! Makes a failing world smaller: fewer of its choices, as long as it breaks the same promise.

/// What a world is made of, as numbers that can become smaller.
pub trait Choices: Sized {
    fn count(&self) -> usize;
    fn value(&self, choice: usize) -> usize;
    fn least(&self, choice: usize) -> usize;
    /// The same with this value. `course`: so many courses of chance on, since whatever is left out changes the course of
    /// all the rest.
    fn with(&self, choice: usize, value: usize, course: u64) -> Self;
}

/// A smaller value is tried with so many courses.
const COURSES: u64 = 3;

/// The kind of a complaint: its first words, without whom and how much it names.
pub fn promise_of(complaint: &str) -> String {
    let line = complaint.lines().next().unwrap_or_default();
    let names = |word: &&str| word.contains(|it: char| it.is_ascii_digit() || "@<{[(".contains(it));
    let words = line.split(' ').filter(|word| !names(word));
    words.take(5).collect::<Vec<_>>().join(" ")
}

/// The smallest that still fails, found in at most so many runs, and how many it took. `fails` plays one.
pub fn shrink<C: Choices>(
    first: C,
    runs_max: usize,
    mut fails: impl FnMut(&C) -> bool,
) -> (C, usize) {
    let (mut smallest, mut runs) = (first, 0);
    loop {
        let mut is_smaller = false;
        for choice in 0..smallest.count() {
            while let Some(found) = with_less(&smallest, choice, (&mut runs, runs_max), &mut fails)
            {
                smallest = found;
                is_smaller = true;
            }
        }
        if !is_smaller || runs >= runs_max {
            return (smallest, runs);
        }
    }
}

/// The same with less of one choice: its least at best, else half of the way there.
fn with_less<C: Choices>(
    from: &C,
    choice: usize,
    (runs, runs_max): (&mut usize, usize),
    fails: &mut impl FnMut(&C) -> bool,
) -> Option<C> {
    let (value, least) = (from.value(choice), from.least(choice));
    let mut targets = vec![least, least + (value - least) / 2, value.saturating_sub(1)];
    targets.dedup();
    for target in targets.into_iter().filter(|it| (least..value).contains(it)) {
        for course in 0..COURSES {
            if *runs >= runs_max {
                return None;
            }
            *runs += 1;
            let candidate = from.with(choice, target, course);
            if fails(&candidate) {
                return Some(candidate);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: [usize; 2] = [0, 2];

    /// Two choices and a course.
    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Pair([usize; 2], u64);

    impl Choices for Pair {
        fn count(&self) -> usize {
            2
        }
        fn value(&self, choice: usize) -> usize {
            self.0[choice]
        }
        fn least(&self, choice: usize) -> usize {
            LEAST[choice]
        }
        fn with(&self, choice: usize, value: usize, course: u64) -> Self {
            let mut other = self.clone();
            other.0[choice] = value;
            other.1 += course;
            other
        }
    }

    #[test]
    fn what_a_failure_does_not_need_is_left_out_and_what_it_needs_is_kept() {
        let (found, runs) = shrink(Pair([1000, 40], 0), 200, |it| it.0[0] >= 7);
        assert_eq!(found, Pair([7, 2], 0));
        assert!(runs < 100, "{runs} runs");
    }

    #[test]
    fn a_failure_that_needs_another_course_of_chance_is_found_again() {
        let needs = |it: &Pair| it.0[0] == 40 || it.0[0] == 0 && it.1 == 2;
        assert_eq!(shrink(Pair([40, 2], 0), 200, needs).0, Pair([0, 2], 2));
    }

    #[test]
    fn runs_are_bounded_and_the_smallest_so_far_counts() {
        let mut played = 0;
        let (found, runs) = shrink(Pair([1000, 1000], 0), 5, |it| {
            played += 1;
            it.0[0] >= 7 && it.0[1] >= 7
        });
        assert_eq!((runs, played), (5, 5));
        assert!(found.0[0] < 1000 && found.0[0] >= 7, "{found:?}");
    }

    #[test]
    fn whom_a_complaint_names_and_how_much_is_not_its_kind() {
        let one = promise_of("recipient 2 of letter 11 is reported with Diagnostic-Code: x\nstory");
        let other = promise_of("recipient 0 of letter 4 is reported with Diagnostic-Code: y");
        assert_eq!(one, "recipient of letter is reported");
        assert_eq!(one, other);
        assert_ne!(one, promise_of("recipient 0 of letter 4: a second report"));
    }
}
