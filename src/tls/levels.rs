//! How much TLS each recipient domain demands.

use super::policy::TlsLevel;
use crate::domain::Domain;
use crate::domain::pattern::DomainPattern;

/// A level for each domain that is named, and one for all others.
#[derive(Clone, Default, Debug)]
pub struct LevelTable {
    others: TlsLevel,
    /// The first that matches counts.
    named: Vec<(DomainPattern, TlsLevel)>,
}

impl LevelTable {
    /// A name counts before patterns, a longer pattern before a shorter: the closest word.
    pub fn new(others: TlsLevel, mut named: Vec<(DomainPattern, TlsLevel)>) -> Self {
        named.sort_by_key(|(pattern, _)| match pattern {
            DomainPattern::Exact(_) => (0, 0),
            DomainPattern::Below(domain) => (1, usize::MAX - domain.as_str().len()),
        });
        LevelTable { others, named }
    }

    /// What domains demand that are not named.
    pub fn of_others(&self) -> TlsLevel {
        self.others
    }

    /// Whether any domain has this level.
    pub fn demands(&self, level: TlsLevel) -> bool {
        self.others == level || self.named.iter().any(|(_, it)| *it == level)
    }

    pub fn level(&self, domain: &Domain<'_>) -> TlsLevel {
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
            (".test", TlsLevel::Encrypt),
            (".b.test", TlsLevel::None),
            ("a.b.test", TlsLevel::Verify),
        ];
        let named = named.map(|(pattern, level)| (pattern.parse().unwrap(), level));
        let table = LevelTable::new(TlsLevel::May, named.to_vec());
        for (domain, level) in [
            ("example", TlsLevel::May),
            ("test", TlsLevel::May),
            ("b.test", TlsLevel::Encrypt),
            ("a.b.test", TlsLevel::Verify),
            ("c.b.test", TlsLevel::None),
            ("d.a.b.test", TlsLevel::None),
        ] {
            assert_eq!(table.level(&domain.parse().unwrap()), level, "{domain}");
        }
    }
}
