//! The `clearway` program.
#![forbid(unsafe_code)]

// The daemon and the command line that will use them are being written.
#[allow(dead_code)]
mod api;
#[allow(dead_code)]
mod handle;
#[allow(dead_code)]
mod host;

fn main() {}
