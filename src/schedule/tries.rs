//! In which order the addresses of a hop are tried for one connection.
//!
//! TLS at any host comes before plaintext at a host whose TLS is broken; then plaintext in the order given. A host
//! without STARTTLS keeps its place, unless one before it is to be asked in plaintext: then it is the next in plaintext.
//! Pure: what is known of the addresses comes in.

use std::collections::VecDeque;

/// What is known of an address beforehand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// Its TLS has failed, and the policy allows to do without.
    pub broken_tls: bool,
    /// It did not answer in time a while ago: not to be waited for again before plaintext
    /// elsewhere.
    pub mute: bool,
}

/// How an address is to be tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// As the policy says, with TLS if it is offered.
    Usual,
    Plaintext,
}

/// The addresses not yet tried. Each is handed out once, and once more if its TLS fails.
pub struct Tries<T> {
    usual: VecDeque<Candidate<T>>,
    /// In the order given at first.
    plaintext: Vec<Candidate<T>>,
    /// After plaintext.
    late: VecDeque<Candidate<T>>,
}

struct Candidate<T> {
    rank: usize,
    what: T,
    mute: bool,
}

/// One address to try.
#[derive(PartialEq, Eq, Debug)]
pub struct Try<T> {
    rank: usize,
    pub what: T,
    pub way: Way,
}

impl<T> Tries<T> {
    pub fn new(candidates: impl IntoIterator<Item = (T, Known)>) -> Self {
        let mut tries = Tries {
            usual: VecDeque::new(),
            plaintext: Vec::new(),
            late: VecDeque::new(),
        };
        for (rank, (what, known)) in candidates.into_iter().enumerate() {
            let mute = known.mute;
            let candidate = Candidate { rank, what, mute };
            match known.broken_tls {
                true => tries.plaintext.push(candidate),
                false => tries.usual.push_back(candidate),
            }
        }
        tries
    }

    /// The next address to try.
    pub fn take(&mut self) -> Option<Try<T>> {
        let mut way = Way::Usual;
        let candidate = self.next_usual().or_else(|| {
            if self.plaintext.is_empty() {
                return self.late.pop_front();
            }
            way = Way::Plaintext;
            Some(self.plaintext.remove(0))
        })?;
        Some(Try {
            rank: candidate.rank,
            what: candidate.what,
            way,
        })
    }

    fn next_usual(&mut self) -> Option<Candidate<T>> {
        while let Some(candidate) = self.usual.pop_front() {
            if !candidate.mute || self.plaintext.is_empty() {
                return Some(candidate);
            }
            self.late.push_back(candidate);
        }
        None
    }

    /// Time is up: what is left is to try plaintext where TLS is known to be broken.
    pub fn keep_only_plaintext(&mut self) {
        self.usual.clear();
        self.late.clear();
    }

    /// Whether [`Tries::take`] has anything.
    pub fn has_more(&self) -> bool {
        self.may_have_tls() || !self.plaintext.is_empty() || !self.late.is_empty()
    }

    /// Whether an address comes before plaintext is tried anywhere.
    pub fn may_have_tls(&self) -> bool {
        let waits = |candidate: &Candidate<T>| !candidate.mute || self.plaintext.is_empty();
        self.usual.iter().any(waits)
    }

    /// Those that were before this one in the order given, and are still to be asked in plaintext.
    pub fn plaintext_before(&self, tried: &Try<T>) -> impl Iterator<Item = &T> {
        let before = |candidate: &&Candidate<T>| candidate.rank < tried.rank;
        self.plaintext
            .iter()
            .take_while(before)
            .map(|candidate| &candidate.what)
    }

    /// Its TLS does not work, or it has none: it is tried again in plaintext, in its turn, when no other has TLS.
    pub fn put_aside(&mut self, tried: Try<T>) {
        let Try { rank, what, .. } = tried;
        let at = self.plaintext.partition_point(|other| other.rank < rank);
        let candidate = Candidate {
            rank,
            what,
            mute: false,
        };
        self.plaintext.insert(at, candidate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Way::{Plaintext, Usual};

    const SOUND: Known = Known {
        broken_tls: false,
        mute: false,
    };
    const BROKEN: Known = Known {
        broken_tls: true,
        mute: false,
    };
    const MUTE: Known = Known {
        broken_tls: false,
        mute: true,
    };

    /// All tries, when TLS fails at those named.
    fn all(known: &[Known], fails: &[usize]) -> Vec<(usize, Way)> {
        let mut tries = Tries::new(known.iter().copied().enumerate());
        let mut all = Vec::new();
        while let Some(tried) = tries.take() {
            all.push((tried.what, tried.way));
            if tried.way == Usual && fails.contains(&tried.what) {
                tries.put_aside(tried);
            }
        }
        assert!(!tries.has_more());
        all
    }

    #[test]
    fn tls_anywhere_comes_before_plaintext_anywhere() {
        assert_eq!(all(&[SOUND, SOUND], &[]), [(0, Usual), (1, Usual)]);
        assert_eq!(
            all(&[SOUND, SOUND, SOUND], &[1, 0]),
            [
                (0, Usual),
                (1, Usual),
                (2, Usual),
                (0, Plaintext),
                (1, Plaintext)
            ]
        );
        assert_eq!(all(&[BROKEN, SOUND], &[]), [(1, Usual), (0, Plaintext)]);
        assert_eq!(
            all(&[SOUND, BROKEN], &[0]),
            [(0, Usual), (0, Plaintext), (1, Plaintext)]
        );
    }

    #[test]
    fn who_was_better_and_waits_for_plaintext_is_known() {
        let mut tries = Tries::new([(0, SOUND), (1, BROKEN), (2, SOUND), (3, BROKEN)]);
        let first = tries.take().expect("the first");
        assert_eq!(tries.plaintext_before(&first).count(), 0);
        tries.put_aside(first);
        let third = tries.take().expect("the third");
        let better: Vec<_> = tries.plaintext_before(&third).copied().collect();
        assert_eq!((third.what, better), (2, vec![0, 1]));
    }

    #[test]
    fn who_was_mute_is_not_waited_for_before_plaintext() {
        assert_eq!(all(&[MUTE, SOUND], &[]), [(0, Usual), (1, Usual)]);
        assert_eq!(all(&[BROKEN, MUTE], &[]), [(0, Plaintext), (1, Usual)]);
        assert_eq!(
            all(&[SOUND, MUTE, SOUND], &[0, 1]),
            [
                (0, Usual),
                (2, Usual),
                (0, Plaintext),
                (1, Usual),
                (1, Plaintext)
            ]
        );
    }

    #[test]
    fn plaintext_is_left_when_time_is_up() {
        let mut tries = Tries::new([(0, SOUND), (1, SOUND), (2, BROKEN), (3, MUTE)]);
        let first = tries.take().expect("the first");
        tries.put_aside(first);
        tries.keep_only_plaintext();
        let left: Vec<_> = std::iter::from_fn(|| tries.take())
            .map(|tried| (tried.what, tried.way))
            .collect();
        assert_eq!(left, [(0, Plaintext), (2, Plaintext)]);
    }

    #[test]
    fn says_whether_tls_may_still_be_had() {
        let mut tries = Tries::new([(0, SOUND), (1, MUTE)]);
        let first = tries.take().expect("the first");
        assert!(tries.may_have_tls() && tries.has_more());
        tries.put_aside(first);
        assert!(!tries.may_have_tls() && tries.has_more());
    }
}
