//! The paths of attachments: what the CNI plugin asks for. They wait for the kernel, so each has a thread of its own.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use clearway_config::attach::{Addresses, Attach, Attachment, AttachmentId, Collect, Need, Removed};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::routes::{Answer, Api, Path};
use crate::attach::{AttachError, Manager};
use crate::handle::{ApiError, ErrorCode};

/// All attachments; or why there can be none.
pub(crate) type Attachments = Result<Arc<Manager>, String>;

/// Runs `work` on a thread that may wait.
async fn on_manager<T: Send + 'static>(
    api: Api,
    work: impl FnOnce(&Manager) -> Result<T, AttachError> + Send + 'static,
) -> Answer<T> {
    let manager = match &api.attachments {
        Ok(manager) => manager.clone(),
        Err(why) => {
            return Err(ApiError::conflict(format!(
                "this daemon keeps no attachments: {why}"
            )));
        }
    };
    let done = tokio::task::spawn_blocking(move || work(&manager)).await;
    match done {
        Ok(result) => Ok(Json(result?)),
        Err(panic) => Err(ApiError::failed(format!("a bug of the daemon's: {panic}"))),
    }
}

fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>, what: &str) -> Result<T, ApiError> {
    serde_json::from_slice(&body?)
        .map_err(|error| ApiError::new(ErrorCode::BadRequest, format!("the body is no {what}: {error}")))
}

/// The attachment that a path names.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Which {
    /// The container's ID
    container: String,
    /// The interface's name in it
    interface: String,
}

impl From<Which> for AttachmentId {
    fn from(Which { container, interface }: Which) -> Self {
        Self { container, interface }
    }
}

/// All attachments
///
/// As they were seen last: each is looked at every ten seconds.
#[utoipa::path(get, path = "/v1/attachments", tag = "attachments", responses((status = OK, body = Vec<Object>, description = "In the order of containers and interfaces"), (status = CONFLICT, body = ApiError, description = "This daemon keeps no attachments")))]
pub(super) async fn attachments(State(api): State<Api>) -> Answer<Vec<Attachment>> {
    on_manager(api, |manager| Ok(manager.list())).await
}

/// One attachment
///
/// Looked at anew: `problems` says what is not as it should be.
#[utoipa::path(
    get, path = "/v1/attachments/{container}/{interface}", tag = "attachments",
    params(Which),
    responses((status = OK, body = Object, description = "The attachment"), (status = NOT_FOUND, body = ApiError, description = "No such attachment"), (status = CONFLICT, body = ApiError, description = "This daemon keeps no attachments"))
)]
pub(super) async fn attachment(State(api): State<Api>, Path(id): Path<Which>) -> Answer<Attachment> {
    on_manager(api, |manager| manager.look(&id.into())).await
}

/// Attach a pod
///
/// Makes its interface, its addresses and its port, all of it or nothing.
#[utoipa::path(
    put, path = "/v1/attachments/{container}/{interface}", tag = "attachments", request_body = Object,
    params(Which),
    responses(
        (status = OK, body = Object, description = "It forwards"),
        (status = BAD_REQUEST, body = ApiError, description = "The request makes no sense"),
        (status = NOT_FOUND, body = ApiError, description = "No such bridge domain or address pool"),
        (status = CONFLICT, body = ApiError, description = "It is there already, an address is taken, a pool is exhausted"),
        (status = INTERNAL_SERVER_ERROR, body = ApiError, description = "It was tried and failed; nothing is left of it"))
)]
pub(super) async fn attach(
    State(api): State<Api>,
    Path(id): Path<Which>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Attachment> {
    let wanted: Attach = read(body, "request for an attachment")?;
    on_manager(api, move |manager| manager.add(&id.into(), wanted)).await
}

/// Give a pod the addresses that it awaits
///
/// And routes: those of another IPAM plugin (it was attached with `ipam: delegated`), or a DHCP server's, which is asked through
/// the pod's interface (`ipam: awaited`). It is complete with this. A route that the pod has through another interface is an
/// error; with `awaited` it is left out.
#[utoipa::path(
    put, path = "/v1/attachments/{container}/{interface}/addresses", tag = "attachments", request_body = Object,
    params(Which),
    responses(
        (status = OK, body = Object, description = "It has them, and forwards"),
        (status = BAD_REQUEST, body = ApiError, description = "The body is not what it should be"),
        (status = NOT_FOUND, body = ApiError, description = "No such attachment; one that awaited addresses was taken back when the daemon ended"),
        (status = CONFLICT, body = ApiError, description = "It awaits none, an address or a route cannot be had, or this daemon keeps no attachments"),
        (status = INTERNAL_SERVER_ERROR, body = ApiError, description = "It was tried and failed; remove the attachment"))
)]
pub(super) async fn give_addresses(
    State(api): State<Api>,
    Path(id): Path<Which>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Attachment> {
    let addresses: Addresses = read(body, "list of addresses and routes")?;
    on_manager(api, move |manager| manager.give_addresses(&id.into(), addresses)).await
}

/// Detach a pod
///
/// Fine when there is no such attachment.
#[utoipa::path(
    delete, path = "/v1/attachments/{container}/{interface}", tag = "attachments",
    params(Which),
    responses((status = OK, body = Object, description = "Nothing of it is left"), (status = INTERNAL_SERVER_ERROR, body = ApiError, description = "It was tried and failed; it is tried again"), (status = CONFLICT, body = ApiError, description = "This daemon keeps no attachments"))
)]
pub(super) async fn detach(State(api): State<Api>, Path(id): Path<Which>) -> Answer<Removed> {
    on_manager(api, |manager| {
        let removed = manager.remove(&id.into())?;
        Ok(Removed {
            removed: removed.into_iter().map(|attachment| attachment.id).collect(),
        })
    })
    .await
}

/// Remove what has no container any more
///
/// All attachments of a network but those that are named.
#[utoipa::path(
    post, path = "/v1/attachments/gc", tag = "attachments", request_body = Object,
    responses((status = OK, body = Object, description = "What was removed"), (status = CONFLICT, body = ApiError, description = "This daemon keeps no attachments"), (status = BAD_REQUEST, body = ApiError, description = "The body is not what it should be"))
)]
pub(super) async fn collect(State(api): State<Api>, body: Result<Bytes, BytesRejection>) -> Answer<Removed> {
    let valid: Collect = read(body, "list of valid attachments")?;
    on_manager(api, move |manager| {
        Ok(Removed {
            removed: manager.collect(&valid)?,
        })
    })
    .await
}

/// Whether a pod could be attached
#[utoipa::path(
    post, path = "/v1/attachments/status", tag = "attachments", request_body = Object,
    responses(
        (status = OK, body = Object, description = "It could"),
        (status = NOT_FOUND, body = ApiError, description = "No such bridge domain or address pool"),
        (status = CONFLICT, body = ApiError, description = "The address pool is exhausted, or this daemon keeps no attachments"), (status = BAD_REQUEST, body = ApiError, description = "The body is not what it should be"))
)]
pub(super) async fn status(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<serde_json::Value> {
    let need: Need = read(body, "need of an attachment")?;
    on_manager(api, move |manager| {
        manager.status(&need)?;
        Ok(serde_json::json!({}))
    })
    .await
}

impl From<AttachError> for ApiError {
    fn from(error: AttachError) -> Self {
        let code = match &error {
            AttachError::Invalid(_) => ErrorCode::BadRequest,
            AttachError::Exists(_) | AttachError::Taken { .. } | AttachError::NotAwaited(_) => {
                ErrorCode::Conflict
            }
            AttachError::None(_) => ErrorCode::NotFound,
            AttachError::Ipam(error) if error.is_missing() => ErrorCode::NotFound,
            AttachError::Ipam(_) => ErrorCode::Conflict,
            AttachError::Store { .. } => ErrorCode::Failed,
            AttachError::Step { fault, .. } | AttachError::Need(fault) => fault.code(),
        };
        let details = match &error {
            AttachError::Step { fault, .. } => fault.details(),
            _ => Vec::new(),
        };
        Self {
            details,
            ..Self::new(code, error.to_string())
        }
    }
}
