//! A bounded map that forgets what has not been used for long.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// Two generations: what is used moves to the young one; when that is full it becomes the old
/// one, and whatever was still in the old one is forgotten. Close to least-recently-used, at the
/// price of a hash map.
///
/// Invariant: young.len() <= half and old.len() <= half.
pub(super) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash, V> Generations<K, V> {
    /// Keeps at most `entries_max` entries, and at least the `entries_max / 2` used last.
    pub fn new(entries_max: usize) -> Self {
        Generations {
            young: HashMap::new(),
            old: HashMap::new(),
            half: (entries_max / 2).max(1),
        }
    }

    pub fn get<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.insert(key, value);
        }
        self.young.get_mut(key)
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_used_and_stays_bounded() {
        let mut cache = Generations::new(8);
        cache.insert("kept".to_owned(), 0);
        for i in 0..1000 {
            cache.insert(format!("{i}"), i);
            assert_eq!(cache.get("kept"), Some(&mut 0), "after {i}");
            assert!(cache.len() <= 8);
        }
        assert_eq!(cache.get("1"), None);
        assert_eq!(cache.get("999"), Some(&mut 999));
    }

    #[test]
    fn insert_replaces_in_both_generations() {
        let mut cache = Generations::new(4);
        cache.insert(1, "a");
        cache.insert(2, "b");
        cache.insert(3, "c");
        cache.insert(1, "A");
        assert_eq!(cache.get(&1), Some(&mut "A"));
        assert_eq!(cache.len(), 3);
    }
}
