//! Objects of one kind, in the order in which they were made.

use std::collections::HashMap;

/// What has an id.
pub(crate) trait Row {
    fn id(&self) -> &str;
}

/// A table. Nothing ever leaves it: what Stripe deletes it still knows.
#[derive(Debug)]
pub(crate) struct Table<T> {
    rows: Vec<T>,
    index: HashMap<String, usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), index: HashMap::new() }
    }
}

impl<T: Row> Table<T> {
    /// Adds one; an id that is there already is replaced where it stands.
    pub(crate) fn insert(&mut self, row: T) {
        if let Some(&at) = self.index.get(row.id()) {
            self.rows[at] = row;
        } else {
            self.index.insert(row.id().to_owned(), self.rows.len());
            self.rows.push(row);
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<&T> {
        self.index.get(id).map(|&at| &self.rows[at])
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.index.get(id).map(|&at| &mut self.rows[at])
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.rows.iter()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
}
