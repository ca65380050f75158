//! The API: HTTP and JSON over a unix socket.

pub(crate) mod types;
