//! Answers by name, until their time is up. Bounded: two generations, the older one is dropped when the
//! younger is full or has had its time.

use crate::time::Now;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// What nobody asks for is let go after one to two of these, though it may be good for longer: a
/// question more in ten minutes is nothing beside the mail that it is asked for.
const GENERATION_SPAN: Duration = Duration::from_secs(600);

pub(super) struct Cache<K, V> {
    young: HashMap<K, (Now, V)>,
    old: HashMap<K, (Now, V)>,
    /// Entries of one generation. At least 1.
    generation_max: usize,
    young_since: Now,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// Holds `entries_max` at most, and half of that at least before something current is dropped.
    pub fn new(entries_max: usize) -> Self {
        Cache {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_max: (entries_max / 2).max(1),
            young_since: Now(0),
        }
    }

    /// What is asked for again outlives the next change of generations.
    pub fn get<Q>(&mut self, key: &Q, now: Now) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some((until, value)) = self.young.get(key) {
            return (*until > now).then(|| value.clone());
        }
        if self.old.get(key)?.0 <= now {
            return None;
        }
        let (key, (until, value)) = self.old.remove_entry(key)?;
        self.insert(key, value.clone(), until);
        Some(value)
    }

    /// What was last known, whether its time is up or not.
    pub fn last(&self, key: &K) -> Option<&V> {
        let entry = self.young.get(key).or_else(|| self.old.get(key))?;
        Some(&entry.1)
    }

    pub fn insert(&mut self, key: K, value: V, until: Now) {
        if self.young.len() >= self.generation_max && !self.young.contains_key(&key) {
            self.age();
        }
        self.old.remove(&key);
        self.young.insert(key, (until, value));
    }

    fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
    }

    /// Lets go of what has not been asked for in [`GENERATION_SPAN`], if it is called as often.
    pub fn tidy(&mut self, now: Now) {
        if now.since(self.young_since) >= GENERATION_SPAN {
            self.age();
            self.young_since = now;
        }
    }

    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_lives_until_its_time() {
        let mut cache = Cache::new(10);
        cache.insert("a", 1, Now(10));
        assert_eq!(cache.get(&"a", Now(9)), Some(1));
        assert_eq!(cache.get(&"a", Now(10)), None);
        cache.insert("a", 2, Now(20));
        assert_eq!(cache.get(&"a", Now(10)), Some(2));
    }

    #[test]
    fn idle_entry_is_let_go_after_a_while() {
        let minutes = |count: u64| Now(count * 60_000_000);
        let mut cache = Cache::new(10);
        cache.insert("used", 1, minutes(1000));
        cache.insert("idle", 2, minutes(1000));
        for minute in 10..40 {
            cache.tidy(minutes(minute));
            assert_eq!(cache.get(&"used", minutes(minute)), Some(1));
        }
        assert_eq!((cache.len(), cache.last(&"idle")), (1, None));
    }

    #[test]
    fn full_cache_forgets_what_nobody_asks_for() {
        let mut cache = Cache::new(10);
        cache.insert(0, 0, Now(10));
        for key in 1..100 {
            cache.insert(key, key, Now(10));
            assert_eq!(cache.get(&0, Now(1)), Some(0));
            assert!(cache.len() <= 11);
        }
        assert_eq!(cache.get(&1, Now(1)), None);
        assert_eq!(cache.get(&98, Now(1)), Some(98));
    }
}
