//! The API: HTTP/1.1 and JSON over a unix socket, versioned by its paths, described by itself.
//!
//! ```text
//!   clearway get …, curl, other programs ──► socket ──► routes ──► Handle ──► control thread
//!                                          0600, root   types of `types`
//! ```
//!
//! Guarantees: every failure is an [`ApiError`](crate::handle::ApiError) as JSON with the HTTP status of its code; every route is in
//! `/openapi.json`, because routes and description are made of the same list. Left to the caller: to start one
//! [`Server`] and to answer what comes through the [`Handle`](crate::handle::Handle).

mod accept;
mod attachments;
mod configuration;
mod counters;
mod describe;
mod routes;
mod server;
mod socket;
#[cfg(test)]
#[allow(clippy::unwrap_used)] // A failed test is what a failed unwrap is for.
mod tests;
pub(crate) mod types;

pub(crate) use accept::{AGAIN as ACCEPT_AGAIN, cannot_accept};
pub(crate) use attachments::Attachments;
pub(crate) use server::Server;
pub(crate) use socket::{Occupant, Socket, SocketError, wait_for_turn};
