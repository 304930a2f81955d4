//! How much TLS each recipient domain demands.

use super::policy::Level;
use crate::domain::Domain;
use crate::domain::pattern::DomainPattern;

/// A level for each domain that is named, and one for all others.
#[derive(Clone, Default, Debug)]
pub struct LevelTable {
    others: Level,
    /// The first that matches counts.
    named: Vec<(DomainPattern, Level)>,
}

impl LevelTable {
    /// A name counts before patterns, a longer pattern before a shorter: the closest word.
    pub fn new(others: Level, mut named: Vec<(DomainPattern, Level)>) -> Self {
        named.sort_by_key(|(pattern, _)| match pattern {
            DomainPattern::Exact(_) => (0, 0),
            DomainPattern::Below(domain) => (1, usize::MAX - domain.as_str().len()),
        });
        LevelTable { others, named }
    }

    /// What domains demand that are not named.
    pub fn of_others(&self) -> Level {
        self.others
    }

    /// Whether any domain has this level.
    pub fn demands(&self, level: Level) -> bool {
        self.others == level || self.named.iter().any(|(_, it)| *it == level)
    }

    pub fn level(&self, domain: &Domain<'_>) -> Level {
        self.named
            .iter()
            .find(|(pattern, _)| pattern.matches(domain))
            .map_or(self.others, |(_, level)| *level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_word_counts() {
        let named = [
            (".test", Level::Encrypt),
            (".b.test", Level::None),
            ("a.b.test", Level::Verify),
        ];
        let named = named.map(|(pattern, level)| (pattern.parse().unwrap(), level));
        let table = LevelTable::new(Level::May, named.to_vec());
        for (domain, level) in [
            ("example", Level::May),
            ("test", Level::May),
            ("b.test", Level::Encrypt),
            ("a.b.test", Level::Verify),
            ("c.b.test", Level::None),
            ("d.a.b.test", Level::None),
        ] {
            assert_eq!(table.level(&domain.parse().unwrap()), level, "{domain}");
        }
    }
}
