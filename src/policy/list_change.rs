//! How a list differs from an earlier one, for people who have edited it.

/// Counts of entries, each once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ListChange {
    /// In the new list.
    pub entries: usize,
    /// Not in the old one, or there with another meaning.
    pub added: usize,
    /// No longer there, or with another meaning.
    pub removed: usize,
}

impl ListChange {
    /// From the entries of the new list, each with whether the old one has it, and the length of the old one.
    pub fn new(new: impl Iterator<Item = bool>, old_entries: usize) -> Self {
        let (mut entries, mut kept) = (0, 0);
        for is_kept in new {
            entries += 1;
            kept += usize::from(is_kept);
        }
        ListChange {
            entries,
            added: entries - kept,
            removed: old_entries - kept,
        }
    }

    pub fn is_none(&self) -> bool {
        self.added == 0 && self.removed == 0
    }
}
