//! The tables of one name, written as `[[name]]` or as `name = [{ … }, …]`.

use toml_edit::{Array, ArrayOfTables, Item, Table, TableLike, Value};

/// An array of tables of a document.
pub(super) enum Tables<'d> {
    Headed(&'d mut ArrayOfTables),
    Inline(&'d mut Array),
}

impl<'d> Tables<'d> {
    /// Those that `parent` has under `name`, made if there are none; `None`: there is something else.
    pub(super) fn of(parent: &'d mut dyn TableLike, name: &str) -> Option<Self> {
        if !parent.contains_key(name) {
            // A table without a header of its own makes an inline array of it.
            parent.insert(name, Item::ArrayOfTables(ArrayOfTables::new()));
        }
        match parent.get_mut(name) {
            Some(Item::ArrayOfTables(tables)) => Some(Self::Headed(tables)),
            Some(Item::Value(Value::Array(array))) => Some(Self::Inline(array)),
            _ => None,
        }
    }

    /// The index of the first that `fits`.
    pub(super) fn position(&self, fits: impl Fn(&dyn TableLike) -> bool) -> Option<usize> {
        match self {
            Self::Headed(tables) => tables.iter().position(|table| fits(table)),
            Self::Inline(array) => array.iter().position(|value| value.as_inline_table().is_some_and(|table| fits(table))),
        }
    }

    /// The table at an index.
    pub(super) fn into_at(self, at: usize) -> Option<&'d mut dyn TableLike> {
        match self {
            Self::Headed(tables) => tables.get_mut(at).map(|table| table as &mut dyn TableLike),
            Self::Inline(array) => array.get_mut(at)?.as_inline_table_mut().map(|table| table as &mut dyn TableLike),
        }
    }

    /// Adds one at the end.
    pub(super) fn push(self, table: Table) {
        match self {
            Self::Headed(tables) => tables.push(table),
            Self::Inline(array) => array.push(table.into_inline_table()),
        }
    }

    /// Removes the one at an index that [`position`](Self::position) gave.
    pub(super) fn remove(self, at: usize) {
        match self {
            Self::Headed(tables) => {
                tables.remove(at);
            }
            Self::Inline(array) => {
                array.remove(at);
            }
        }
    }
}
