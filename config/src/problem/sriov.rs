//! The table of all that can be wrong with the SR-IOV functions of a host.

use crate::path::Path;

/// One thing that is wrong with a physical function.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SriovProblem {
    /// A range without VFs.
    #[error("the list of VFs is empty; name at least one, such as 0-3")]
    NoVfs,
    /// A VF of two ranges.
    #[error("VF {vf} already belongs to `{other}`; write each VF once")]
    VfTwice {
        /// The VF, or the first of several.
        vf: u16,
        /// The other range.
        other: Path,
    },
    /// A VF that is not made.
    #[error("there is no VF {vf}; `vfs` is {count}, and they are counted from 0")]
    NoSuchVf {
        /// The VF.
        vf: u16,
        /// How many there are.
        count: u16,
    },
    /// One MAC address for several VFs.
    #[error("{count} VFs can't have one MAC address; give each a range of its own")]
    MacOfSeveral {
        /// How many there are.
        count: usize,
    },
    /// The rate in any case above the most.
    #[error("{min} Mbit/s in any case are more than the {max} at most of `max-tx-rate`; swap them")]
    Rates {
        /// `min-tx-rate`.
        min: u32,
        /// `max-tx-rate`.
        max: u32,
    },
}

impl SriovProblem {
    /// As of [`Problem`](super::Problem).
    pub(super) fn stands_alone(&self) -> bool {
        matches!(
            self,
            SriovProblem::MacOfSeveral { .. } | SriovProblem::NoSuchVf { .. } | SriovProblem::Rates { .. }
        )
    }
}
