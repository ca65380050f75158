//! Asks the daemon: one HTTP request over its unix socket, and waits for the answer.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use super::error::CliError;
use crate::handle::{ApiError, PATIENCE};

/// Longer than the daemon waits for its control thread, so that its answer is the one that is told.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(PATIENCE.as_secs() + 5);

/// A daemon's socket.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// Does nothing yet: each request is a connection of its own.
    pub(crate) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// `GET path`.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.parsed(Method::GET, path, String::new(), None)
    }

    /// `PUT path` with a JSON body.
    pub(crate) fn put<T: DeserializeOwned>(&self, path: &str, body: String) -> Result<T, CliError> {
        self.parsed(Method::PUT, path, body, None)
    }

    /// `PUT path` with a JSON body, only if what is there is of a generation.
    pub(crate) fn put_if<T: DeserializeOwned>(
        &self,
        path: &str,
        body: String,
        generation: Option<u64>,
    ) -> Result<T, CliError> {
        self.parsed(Method::PUT, path, body, generation)
    }

    /// `DELETE path` with an answer.
    pub(crate) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.parsed(Method::DELETE, path, String::new(), None)
    }

    /// `DELETE path` without one.
    pub(crate) fn remove(&self, path: &str) -> Result<(), CliError> {
        self.request(Method::DELETE, path, String::new(), None)
            .map(|_| ())
    }

    fn parsed<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: String,
        only_if: Option<u64>,
    ) -> Result<T, CliError> {
        let answer = self.request(method, path, body, only_if)?;
        serde_json::from_slice(&answer)
            .map_err(|error| self.broken(format!("its answer to {path} is not understood ({error})")))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: String,
        only_if: Option<u64>,
    ) -> Result<Bytes, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.broken(format!("no event loop could be made ({error})")))?;
        let (status, answer) = runtime
            // Inside the runtime, whose clock the timeout needs.
            .block_on(async { tokio::time::timeout(LIMIT, self.exchange(method, path, body, only_if)).await })
            .map_err(|_elapsed| self.broken(format!("no answer within {} s", LIMIT.as_secs())))??;
        if status.is_success() {
            return Ok(answer);
        }
        match serde_json::from_slice::<ApiError>(&answer) {
            Ok(error) => Err(CliError::Api { error }),
            Err(_) => Err(self.broken(format!("it answered {path} with {status}"))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: String,
        only_if: Option<u64>,
    ) -> Result<(StatusCode, Bytes), CliError> {
        let stream = tokio::net::UnixStream::connect(&self.socket)
            .await
            .map_err(|source| self.not_connected(source))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error.to_string()))?;
        let connection = tokio::spawn(connection);
        let mut request = hyper::Request::builder();
        if let Some(generation) = only_if {
            request = request.header("if-match", format!("\"{generation}\""));
        }
        let request = request
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(error.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(error.to_string()))?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| self.broken(error.to_string()))?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }

    fn not_connected(&self, source: io::Error) -> CliError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => CliError::NotAllowed { socket, source },
            _ => CliError::NoDaemon { socket, source },
        }
    }

    fn broken(&self, reason: String) -> CliError {
        CliError::Broken {
            socket: self.socket.clone(),
            reason,
        }
    }
}
