//! The way to the control thread: a [`Request`] for each thing that can be asked of it, and the [`Handle`] that asks.
//!
//! ```text
//!   API threads ── Handle::ask ── Request{…, Reply} ──► control thread's channel
//!               ◄─────────────── Result<T, ApiError> ── Reply::send
//! ```
//!
//! Guarantees: whoever asks gets an answer: the control thread's, or an [`ApiError`] when it ended or took longer
//! than [`PATIENCE`]. Left to the control thread: to answer each request with its own `Reply`, in any order.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clearway_config::attach::Segment;
use clearway_config::{ConfigErrors, Name, SemanticError, Spec};
use clearway_wire::MacAddr;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use crate::api::types::{
    ApplyReport, BridgeDomainView, CounterView, DropsView, FdbAdd, FdbView, FlushReport, HealthView,
    ObjectView, PortView, TunnelView, WorkerView,
};
use crate::daemon::{AttachedPort, Standing};
use crate::objects::{Objects, Version};
use crate::store::Owner;

/// How long the control thread may take for an answer. Opening many ports takes the longest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What can be asked of the control thread. Lists come whole: the API picks single items out of them.
#[derive(Debug)]
pub(crate) enum Request {
    /// All ports, in the order of their names.
    Ports(Reply<Vec<PortView>>),
    /// All workers, in the order of their numbers.
    Workers(Reply<Vec<WorkerView>>),
    /// All bridge domains, in the order of their names.
    BridgeDomains(Reply<Vec<BridgeDomainView>>),
    /// Entries of the forwarding database, in the order of domain and address.
    Fdb(FdbFilter, Reply<Vec<FdbView>>),
    /// All tunnels, in the order of their names.
    Tunnels(Reply<Vec<TunnelView>>),
    /// Drops by reason and the ledger.
    Drops(Reply<DropsView>),
    /// All counters of all ports, in the order of their names.
    Counters(Reply<Vec<CounterView>>),
    /// The configuration in use, and its version.
    Config(Reply<(Spec, Version)>),
    /// All objects of the configuration, and the ports of attachments, in the order of kind and name.
    Objects(Reply<Vec<ObjectView>>),
    /// Make it so, or only say what would be done. The spec is valid by itself; what only the host knows is not
    /// checked yet.
    Apply {
        /// What is wanted.
        spec: Box<Spec>,
        /// Change nothing.
        dry_run: bool,
        /// Who wants it: the file, if it is what that says, or whoever applies it.
        by: Owner,
        /// Only if the configuration in use is of one of these generations; else it is a
        /// [`ErrorCode::PreconditionFailed`].
        only_if: Option<Vec<u64>>,
        /// What was done.
        reply: Reply<Applied>,
    },
    /// Add a station by hand, or replace where it is.
    FdbAdd {
        /// The bridge domain.
        bridge_domain: Name,
        /// The station.
        mac: MacAddr,
        /// Where it is: exactly one of `port` and `remote` is there.
        place: FdbAdd,
        /// Done.
        reply: Reply<FdbView>,
    },
    /// Remove a station that was learned or added by hand; one of the configuration is a conflict.
    FdbDel {
        /// The bridge domain.
        bridge_domain: Name,
        /// The station.
        mac: MacAddr,
        /// Done.
        reply: Reply<()>,
    },
    /// What the configuration has for an attachment.
    Standing {
        /// The layer 2 segment; if it does not exist, that is a [`ErrorCode::NotFound`].
        segment: Segment,
        /// Its bridge domain, and all address pools.
        reply: Reply<Standing>,
    },
    /// Open the port of an attachment.
    Attach {
        /// What it is called.
        name: Name,
        /// What it is.
        wanted: Box<AttachedPort>,
        /// It forwards, or nothing was changed.
        reply: Reply<()>,
    },
    /// Close the port of an attachment; that there is none is fine.
    Detach {
        /// Which.
        name: Name,
        /// Its vhost-user socket, which an earlier daemon may have served.
        socket: Option<PathBuf>,
        /// Done.
        reply: Reply<()>,
    },
    /// Why the port of an attachment does not forward; nothing: it does.
    WhyDown {
        /// Which.
        name: Name,
        /// Why.
        reply: Reply<Option<String>>,
    },
    /// Forget learned addresses.
    FdbFlush(FdbFilter, Reply<FlushReport>),
    /// How the daemon is.
    Health(Reply<HealthView>),
}

/// What came of an `apply`.
#[derive(Debug)]
pub(crate) struct Applied {
    /// For whoever asked.
    pub(crate) report: ApplyReport,
    /// The versions of what is in use now: for the store.
    pub(crate) objects: Arc<Objects>,
}

/// Which entries of the forwarding database are meant; all, where nothing is named. A domain or port that does not
/// exist is an [`ErrorCode::NotFound`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FdbFilter {
    /// Only of this bridge domain.
    pub(crate) bridge_domain: Option<Name>,
    /// Only behind this port.
    pub(crate) port: Option<Name>,
}

/// Where the answer to one request goes.
pub(crate) struct Reply<T>(oneshot::Sender<Result<T, ApiError>>);

impl<T> Reply<T> {
    /// Answers. Nobody may be waiting any more; that is fine.
    pub(crate) fn send(self, answer: Result<T, ApiError>) {
        let _ = self.0.send(answer);
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Asks the control thread. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handle {
    send: Arc<dyn Fn(Request) -> bool + Send + Sync>,
}

impl Handle {
    /// A handle on a control thread to which `send` brings requests; `false`: it has ended.
    pub(crate) fn new(send: impl Fn(Request) -> bool + Send + Sync + 'static) -> Self {
        Self { send: Arc::new(send) }
    }

    /// Asks and waits for the answer: `handle.ask(Request::Ports).await`.
    pub(crate) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        if !(self.send)(request(Reply(reply))) {
            return Err(ApiError::shutting_down());
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_dropped)) => Err(ApiError::shutting_down()),
            Err(_elapsed) => Err(ApiError::too_slow()),
        }
    }
}

impl Handle {
    /// Asks from a thread that may wait: no thread of the API's.
    pub(crate) fn ask_blocking<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        if !(self.send)(request(Reply(reply))) {
            return Err(ApiError::shutting_down());
        }
        answer
            .blocking_recv()
            .unwrap_or_else(|_dropped| Err(ApiError::shutting_down()))
    }
}

/// What kind of failure it is; each has an HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorCode {
    /// 400: the request itself makes no sense.
    BadRequest,
    /// 404: there is no such thing, or no such path.
    NotFound,
    /// 405: the path does not have this method.
    MethodNotAllowed,
    /// 409: it cannot be done in the present state.
    Conflict,
    /// 412: what was to be changed is not any more what the request says (`If-Match`).
    PreconditionFailed,
    /// 413: the request's body is too long.
    TooLarge,
    /// 422: the configuration is wrong; `details` has every error.
    InvalidConfig,
    /// 500: it was tried and failed.
    Failed,
    /// 503: the daemon is on its way out.
    ShuttingDown,
    /// 504: no answer in time.
    Timeout,
}

/// A failure, as the API and the command line tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    /// What kind of failure.
    pub(crate) code: ErrorCode,
    /// What was tried, on what, why it failed, what to do.
    pub(crate) message: String,
    /// Each single fault, where there may be several.
    #[serde(default)]
    pub(crate) details: Vec<Detail>,
}

/// One fault of several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Detail {
    /// The path of the value in the configuration, as in `ports.up0.trunk[2]`; empty for the whole document.
    pub(crate) path: String,
    /// The line in the request's body, from 1, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u32>,
    /// The column, in characters, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) column: Option<u32>,
    /// What is wrong, and what to do.
    pub(crate) message: String,
}

impl ApiError {
    /// A failure without details.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
        }
    }

    /// There is no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// It cannot be done in the present state.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    /// It was tried and failed.
    pub(crate) fn failed(error: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Failed, error.to_string())
    }

    /// No answer in time.
    pub(crate) fn too_slow() -> Self {
        let message = format!(
            "the daemon's control thread did not answer within {} s; its log says what it is doing",
            PATIENCE.as_secs()
        );
        Self::new(ErrorCode::Timeout, message)
    }

    fn shutting_down() -> Self {
        Self::new(
            ErrorCode::ShuttingDown,
            "the daemon is shutting down; start it again with `clearway run`",
        )
    }

    fn invalid(details: Vec<Detail>) -> Self {
        let message = match details.len() {
            1 => "the configuration is wrong and was not applied; nothing changed".into(),
            n => format!("the configuration is wrong in {n} places and was not applied; nothing changed"),
        };
        Self {
            code: ErrorCode::InvalidConfig,
            message,
            details,
        }
    }

    /// Findings of checks that need to know the host.
    pub(crate) fn invalid_on_host(findings: Vec<SemanticError>) -> Self {
        Self::invalid(
            findings
                .into_iter()
                .map(|finding| Detail {
                    path: finding.path.to_string(),
                    line: None,
                    column: None,
                    message: finding.problem.to_string(),
                })
                .collect(),
        )
    }
}

impl From<ConfigErrors> for ApiError {
    fn from(errors: ConfigErrors) -> Self {
        Self::invalid(
            errors
                .errors
                .into_iter()
                .map(|error| Detail {
                    line: error.place.map(|place| place.line),
                    column: error.place.map(|place| place.column),
                    message: error.fault.to_string(),
                    path: error.path,
                })
                .collect(),
        )
    }
}
