//! Asks the daemon: one HTTP/1.1 request over its unix socket, and waits for the answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clearway_config::attach::{Addresses, Attach, Attachment, AttachmentId, Collect, Need, Removed};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{CniError, Code};

/// Longer than the daemon waits for itself (60 s), so that its answer is the one that is told.
const LIMIT: Duration = Duration::from_secs(65);

/// The part of a request that is `CNI_NETNS`.
const NETNS: &str = "netns";

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Nobody listens at its socket.
    #[error("no Clearway daemon answers at {socket:?} ({source})")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket is somebody else's.
    #[error("the Clearway daemon's socket {socket:?} may not be used ({source})")]
    NotAllowed {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke, or what came was no answer. What was asked may have been done.
    #[error("the Clearway daemon at {socket:?} gave no answer that is understood: {reason}")]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What was wrong.
        reason: String,
    },
    /// It said no.
    #[error("{error}")]
    Refused {
        /// What it said.
        error: Refusal,
    },
}

/// The daemon's error object (docs/api.md, "Errors").
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// What kind of failure.
    pub code: String,
    /// What was tried, on what, why it failed, what to do.
    pub message: String,
    /// Single faults.
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Detail {
    #[serde(default)]
    path: String,
    message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        // What is wrong with the namespace the message has said.
        let more = self.details.iter().filter(|detail| detail.path != NETNS);
        for Detail { path, message } in more {
            match path.as_str() {
                "" => write!(f, "; {message}")?,
                path => write!(f, "; {path}: {message}")?,
            }
        }
        Ok(())
    }
}

impl DaemonError {
    /// The daemon said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { error } if error.code == "not_found")
    }

    /// What was asked may have been done all the same.
    pub fn is_unclear(&self) -> bool {
        match self {
            Self::Broken { .. } => true,
            Self::Refused { error } => error.code == "timeout",
            Self::Unreachable { .. } | Self::NotAllowed { .. } => false,
        }
    }

    /// As the runtime is told, which tried `what`.
    pub fn told(&self, what: &str) -> CniError {
        let (code, advice) = match self {
            Self::Unreachable { .. } => (
                Code::TryAgainLater,
                "start the daemon (`clearway run`), or correct `daemonSocket` in the network's configuration; then the \
                 runtime may try again",
            ),
            Self::NotAllowed { .. } => (Code::Io, "run the container runtime as the daemon's user (root)"),
            Self::Broken { .. } => (
                Code::TryAgainLater,
                "the daemon's log says what it was doing; the runtime may try again",
            ),
            Self::Refused { error } => (error.cni_code(), "the daemon's log says more"),
        };
        let wrong = match code {
            // The specification wants its name in the message.
            Code::Environment => ": CNI_NETNS is wrong",
            _ => "",
        };
        CniError::new(
            code,
            format!("clearway-cni could not {what}{wrong}"),
            format!("{self}; {advice}"),
        )
    }
}

impl Refusal {
    /// The code of the protocol that says the same.
    fn cni_code(&self) -> Code {
        match self.code.as_str() {
            // Its one part that the environment says.
            "bad_request" if self.details.iter().any(|detail| detail.path == NETNS) => Code::Environment,
            // A segment or a pool that the network's configuration names and the daemon has not.
            "bad_request" | "invalid_config" | "not_found" | "too_large" => Code::InvalidConfig,
            "conflict" => Code::Conflict,
            "shutting_down" | "timeout" => Code::TryAgainLater,
            _ => Code::DaemonFailed,
        }
    }
}

/// A daemon's socket.
#[derive(Debug, Clone)]
pub struct Daemon {
    socket: PathBuf,
}

impl Daemon {
    /// Does nothing yet: each request is a connection of its own.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Makes an attachment.
    pub fn attach(&self, id: &AttachmentId, wanted: &Attach) -> Result<Attachment, DaemonError> {
        self.json(Method::PUT, &id.api_path(), Some(wanted))
    }

    /// Gives an attachment the addresses that an IPAM plugin found out through its interface.
    pub fn set_addresses(&self, id: &AttachmentId, addresses: &Addresses) -> Result<Attachment, DaemonError> {
        self.json(
            Method::PUT,
            &format!("{}/addresses", id.api_path()),
            Some(addresses),
        )
    }

    /// Looks an attachment up; the daemon compares it with what is there.
    pub fn attachment(&self, id: &AttachmentId) -> Result<Attachment, DaemonError> {
        self.json(Method::GET, &id.api_path(), None::<&()>)
    }

    /// Removes an attachment; one that is not there is no error.
    pub fn detach(&self, id: &AttachmentId) -> Result<Removed, DaemonError> {
        self.json(Method::DELETE, &id.api_path(), None::<&()>)
    }

    /// Removes all attachments of a network but these.
    pub fn collect(&self, collect: &Collect) -> Result<Removed, DaemonError> {
        self.json(Method::POST, "/v1/attachments/gc", Some(collect))
    }

    /// Whether it answers, and has attachments.
    pub fn keeps_attachments(&self) -> Result<(), DaemonError> {
        self.json(Method::GET, "/v1/attachments", None::<&()>)
            .map(|_: serde_json::Value| ())
    }

    /// Whether such an attachment could be made.
    pub fn status(&self, need: &Need) -> Result<(), DaemonError> {
        self.json(Method::POST, "/v1/attachments/status", Some(need))
            .map(|_: serde_json::Value| ())
    }

    fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl serde::Serialize>,
    ) -> Result<T, DaemonError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body)
                .map_err(|error| self.broken(format!("the request could not be written ({error})")))?,
            None => Vec::new(),
        };
        let (status, answer) = self.request(method, path, body)?;
        if status.is_success() {
            return serde_json::from_slice(&answer)
                .map_err(|error| self.broken(format!("its answer to {path} does not fit ({error})")));
        }
        match serde_json::from_slice(&answer) {
            Ok(error) => Err(DaemonError::Refused { error }),
            Err(_) => Err(self.broken(format!("it answered {path} with {status}"))),
        }
    }

    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes), DaemonError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.broken(format!("no event loop could be made ({error})")))?;
        runtime
            // Inside the runtime, whose clock the timeout needs.
            .block_on(async { tokio::time::timeout(LIMIT, self.exchange(method, path, body)).await })
            .map_err(|_elapsed| self.broken(format!("none came within {} s", LIMIT.as_secs())))?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), DaemonError> {
        let stream = tokio::net::UnixStream::connect(&self.socket)
            .await
            .map_err(|source| self.not_connected(source))?;
        let broken = |error: hyper::Error| self.broken(error.to_string());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let connection = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }

    fn not_connected(&self, source: io::Error) -> DaemonError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => DaemonError::NotAllowed { socket, source },
            _ => DaemonError::Unreachable { socket, source },
        }
    }

    fn broken(&self, reason: String) -> DaemonError {
        DaemonError::Broken {
            socket: self.socket.clone(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str) -> DaemonError {
        let error = serde_json::from_value(serde_json::json!({
            "code": code, "message": "it is so", "details": [{"path": "mtu", "message": "too big"}]
        }));
        DaemonError::Refused {
            error: error.unwrap(),
        }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_a_wrong_variable() {
        let error = serde_json::from_value(serde_json::json!({
            "code": "bad_request", "message": "there is no such namespace",
            "details": [{"path": "netns", "message": "it must be there"}]
        }));
        let told = DaemonError::Refused {
            error: error.unwrap(),
        };
        let told = told.told("attach c/net1");
        assert_eq!(told.code, 4);
        // "The error message must contain the names of invalid variables" (SPEC.md, "Error").
        assert!(told.msg.contains("CNI_NETNS"), "{told}");
        // And the reason once.
        let told = told.to_string();
        assert!(
            told.contains("there is no such namespace") && !told.contains("it must be there"),
            "{told}"
        );
    }

    #[test]
    fn refusals_have_codes() {
        for (code, number) in [
            ("bad_request", 7),
            ("invalid_config", 7),
            ("not_found", 7),
            ("conflict", 102),
            ("failed", 100),
            ("shutting_down", 11),
            ("timeout", 11),
            ("a new one", 100),
        ] {
            let told = refused(code).told("attach c/net1");
            assert_eq!(told.code, number, "{code}");
            assert!(told.details.contains("it is so; mtu: too big"), "{told}");
        }
    }
}
