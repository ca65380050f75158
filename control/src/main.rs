//! The `clearway` program.
#![forbid(unsafe_code)]

// The daemon that will use it is being written.
#[allow(dead_code)]
mod host;

fn main() {}
