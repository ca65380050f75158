//! Versions of what is in the store's files.
//!
//! A version is that of the rows' meaning, not of redb's own format. Version 1 is the first. A change that an older
//! release would misread, or that this one needs made to old rows, is a new version: a [`Step`] more in [`STEPS`].

use super::table::Row;

/// From the rows of one version to those of the next. An error is about rows that no release wrote.
pub(super) type Step = fn(Vec<Row>) -> Result<Vec<Row>, String>;

/// From version 1 to 2, from 2 to 3, and so on.
pub(super) const STEPS: &[Step] = &[];

/// The version that this release writes, and the latest that it reads.
pub(super) const VERSION: u64 = STEPS.len() as u64 + 1;

/// The rows of version `from` as those of the version that the last of the steps leads to.
pub(super) fn migrated(mut rows: Vec<Row>, from: u64, steps: &[Step]) -> Result<Vec<Row>, String> {
    let done = usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX);
    for (step, from) in steps.iter().zip(1..).skip(done) {
        rows = step(rows)
            .map_err(|reason| format!("its format {from} cannot be brought to {}: {reason}", from + 1))?;
    }
    Ok(rows)
}
