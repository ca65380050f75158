//! vhost-user ports against a driver that was written from the specification: what must work.

mod bed;
mod bounds;
mod inflight;
mod life;
mod log;
mod memory;
mod notify;
mod offload;
mod once;
mod rings;
