//! Why bytes are not the packet that a view was asked for.

/// Why bytes are not the packet that a view was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than a header, or one of its length fields, calls for.
    #[error(
        "{layer} needs {need} bytes but only {have} are there: the packet was cut short or a length field lies"
    )]
    Truncated {
        /// The protocol.
        layer: &'static str,
        /// Bytes that it needs.
        need: usize,
        /// Bytes that there are.
        have: usize,
    },
    /// A field has a value that the specification forbids or that this crate doesn't speak.
    #[error("{layer} field {field} is {value}, which is not valid: it must be {expected}")]
    Malformed {
        /// The protocol.
        layer: &'static str,
        /// The field, by the name that its specification gives it.
        field: &'static str,
        /// What it holds.
        value: u32,
        /// What it may hold.
        expected: &'static str,
    },
}
