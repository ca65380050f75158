//! Ports, UMEMs and rings: the only crate with unsafe code.
