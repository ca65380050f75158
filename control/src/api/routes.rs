//! The paths of the API, and those of the state. Each is described where it is written; router and description are made of one
//! list.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Request as HttpRequest, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use clearway_config::Name;
use clearway_engine::DropReason;
use clearway_wire::MacAddr;
use serde::Deserialize;
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::attachments::{self, Attachments};
use super::configuration;
use super::describe::Description;
use super::types::{
    BridgeDomainView, CounterView, DropView, DropsView, FdbAdd, FdbView, FlushReport, HealthView, PortView,
    TunnelView, WorkerView,
};
use crate::handle::{ApiError, ErrorCode, FdbFilter, Handle, Request};

/// The longest configuration that is taken, in bytes: some 50,000 bridge domains.
const MAX_BODY: usize = 32 << 20;
/// The longest description of a station that is taken, in bytes. Errors may repeat it.
const MAX_STATION: usize = 4096;

/// What every handler can reach.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) handle: Handle,
    pub(super) attachments: Attachments,
    /// Where the configuration is from.
    pub(super) file: Option<PathBuf>,
    description: Arc<str>,
}

pub(super) type Answer<T> = Result<Json<T>, ApiError>;

/// All paths, answered through `handle`.
pub(super) fn router(handle: Handle, attachments: Attachments, file: Option<PathBuf>) -> Router {
    let (router, description) = described().split_for_parts();
    let description = description.to_json().unwrap_or_default().into();
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Api {
            handle,
            attachments,
            file,
            description,
        })
}

fn described() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(ports))
        .routes(routes!(port))
        .routes(routes!(workers))
        .routes(routes!(worker))
        .routes(routes!(bridge_domains))
        .routes(routes!(bridge_domain))
        .routes(routes!(tunnels))
        .routes(routes!(tunnel))
        .routes(routes!(configuration::objects))
        .routes(routes!(configuration::object))
        .routes(routes!(drops))
        .routes(routes!(drop_of))
        .routes(routes!(counters))
        .routes(routes!(counters_of))
        .routes(routes!(fdb, fdb_flush))
        .routes(routes!(fdb_add, fdb_del))
        .routes(routes!(configuration::config, configuration::config_apply))
        .routes(routes!(configuration::config_schema))
        .routes(routes!(attachments::attachments))
        .routes(routes!(
            attachments::attachment,
            attachments::attach,
            attachments::detach
        ))
        .routes(routes!(attachments::give_addresses))
        .routes(routes!(attachments::collect))
        .routes(routes!(attachments::status))
        .routes(routes!(health))
        .routes(routes!(openapi))
}

/// Picks one item of a list by its name.
pub(super) fn pick<T>(list: Vec<T>, kind: &str, name: &str, name_of: impl Fn(&T) -> String) -> Answer<T> {
    let mut names = Vec::new();
    for item in list {
        let found = name_of(&item);
        if found == name {
            return Ok(Json(item));
        }
        names.push(found);
    }
    let there = match names.len() {
        0 => format!("there is no {kind} at all"),
        1..=20 => format!("there are: {}", names.join(", ")),
        n => format!("there are {n} others"),
    };
    Err(ApiError::not_found(format!(
        "no {kind} is named {name:?}; {there}"
    )))
}

/// All ports
///
/// What each is attached to, how, and what passed it.
#[utoipa::path(get, path = "/v1/ports", tag = "state", responses((status = OK, body = Vec<PortView>, description = "In the order of their names")))]
async fn ports(State(api): State<Api>) -> Answer<Vec<PortView>> {
    api.handle.ask(Request::Ports).await.map(Json)
}

/// One port
#[utoipa::path(
    get, path = "/v1/ports/{name}", tag = "state", params(("name" = String, Path, description = "The port's name")),
    responses((status = OK, body = PortView, description = "The port"), (status = NOT_FOUND, body = ApiError, description = "No such port"))
)]
async fn port(State(api): State<Api>, Path(name): Path<String>) -> Answer<PortView> {
    pick(api.handle.ask(Request::Ports).await?, "port", &name, |p| {
        p.name.clone()
    })
}

/// All workers
#[utoipa::path(get, path = "/v1/workers", tag = "state", responses((status = OK, body = Vec<WorkerView>, description = "In the order of their numbers")))]
async fn workers(State(api): State<Api>) -> Answer<Vec<WorkerView>> {
    api.handle.ask(Request::Workers).await.map(Json)
}

/// One worker
#[utoipa::path(
    get, path = "/v1/workers/{id}", tag = "state", params(("id" = String, Path, description = "The worker's number")),
    responses((status = OK, body = WorkerView, description = "The worker"), (status = NOT_FOUND, body = ApiError, description = "No such worker"))
)]
async fn worker(State(api): State<Api>, Path(id): Path<String>) -> Answer<WorkerView> {
    pick(api.handle.ask(Request::Workers).await?, "worker", &id, |w| {
        w.id.to_string()
    })
}

/// All bridge domains
#[utoipa::path(get, path = "/v1/bridge-domains", tag = "state", responses((status = OK, body = Vec<BridgeDomainView>, description = "In the order of their names")))]
async fn bridge_domains(State(api): State<Api>) -> Answer<Vec<BridgeDomainView>> {
    api.handle.ask(Request::BridgeDomains).await.map(Json)
}

/// One bridge domain
#[utoipa::path(
    get, path = "/v1/bridge-domains/{name}", tag = "state", params(("name" = String, Path, description = "The domain's name")),
    responses((status = OK, body = BridgeDomainView, description = "The domain"), (status = NOT_FOUND, body = ApiError, description = "No such domain"))
)]
async fn bridge_domain(State(api): State<Api>, Path(name): Path<String>) -> Answer<BridgeDomainView> {
    let all = api.handle.ask(Request::BridgeDomains).await?;
    pick(all, "bridge domain", &name, |d| d.name.clone())
}

/// All tunnels
///
/// Whether each reaches its remote VTEP, and how.
#[utoipa::path(get, path = "/v1/tunnels", tag = "state", responses((status = OK, body = Vec<TunnelView>, description = "In the order of their names")))]
async fn tunnels(State(api): State<Api>) -> Answer<Vec<TunnelView>> {
    api.handle.ask(Request::Tunnels).await.map(Json)
}

/// One tunnel
#[utoipa::path(
    get, path = "/v1/tunnels/{vtep}/{remote}", tag = "state",
    params(("vtep" = String, Path, description = "The local VTEP's name"), ("remote" = String, Path, description = "The remote VTEP's address")),
    responses((status = OK, body = TunnelView, description = "The tunnel"), (status = NOT_FOUND, body = ApiError, description = "No such tunnel"))
)]
async fn tunnel(State(api): State<Api>, Path((vtep, remote)): Path<(String, String)>) -> Answer<TunnelView> {
    let all = api.handle.ask(Request::Tunnels).await?;
    pick(all, "tunnel", &format!("{vtep}/{remote}"), |t| {
        format!("{}/{}", t.vtep, t.remote)
    })
}

/// Drops and the ledger
///
/// Every reason that has occurred, and what became of all other frames.
#[utoipa::path(get, path = "/v1/drops", tag = "state", responses((status = OK, body = DropsView, description = "Most frequent reason first")))]
async fn drops(State(api): State<Api>) -> Answer<DropsView> {
    api.handle.ask(Request::Drops).await.map(Json)
}

/// Drops for one reason
#[utoipa::path(
    get, path = "/v1/drops/{reason}", tag = "state", params(("reason" = String, Path, description = "The reason's name, as in docs/counters.md")),
    responses((status = OK, body = DropView, description = "The reason"), (status = NOT_FOUND, body = ApiError, description = "No such reason"))
)]
async fn drop_of(State(api): State<Api>, Path(reason): Path<String>) -> Answer<DropView> {
    let known = DropReason::ALL
        .into_iter()
        .find(|known| known.name() == reason)
        .ok_or_else(|| {
            ApiError::not_found(format!(
                "no drop reason is named {reason:?}; docs/counters.md has all of them"
            ))
        })?;
    let occurred = api.handle.ask(Request::Drops).await?.drops;
    let never = || DropView {
        reason,
        packets: 0,
        text: known.text().into(),
        advice: known.advice().into(),
        ports: BTreeMap::new(),
    };
    let drop = occurred.into_iter().find(|drop| drop.reason == known.name());
    Ok(Json(drop.unwrap_or_else(never)))
}

/// All counters of all ports
#[utoipa::path(get, path = "/v1/counters", tag = "state", responses((status = OK, body = Vec<CounterView>, description = "In the order of the ports' names")))]
async fn counters(State(api): State<Api>) -> Answer<Vec<CounterView>> {
    api.handle.ask(Request::Counters).await.map(Json)
}

/// All counters of one port
#[utoipa::path(
    get, path = "/v1/counters/{port}", tag = "state", params(("port" = String, Path, description = "The port's name")),
    responses((status = OK, body = CounterView, description = "Its counters"), (status = NOT_FOUND, body = ApiError, description = "No such port"))
)]
async fn counters_of(State(api): State<Api>, Path(port): Path<String>) -> Answer<CounterView> {
    pick(api.handle.ask(Request::Counters).await?, "port", &port, |c| {
        c.port.clone()
    })
}

/// Which stations are meant; all, where nothing is named.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Stations {
    /// Only of this bridge domain.
    #[param(value_type = Option<String>)]
    bridge_domain: Option<Name>,
    /// Only behind this port.
    #[param(value_type = Option<String>)]
    port: Option<Name>,
}

impl From<Stations> for FdbFilter {
    fn from(stations: Stations) -> Self {
        Self {
            bridge_domain: stations.bridge_domain,
            port: stations.port,
        }
    }
}

/// Stations
///
/// The forwarding database: behind which port or remote VTEP each known MAC address is.
#[utoipa::path(
    get, path = "/v1/fdb", tag = "stations", params(Stations),
    responses((status = OK, body = Vec<FdbView>, description = "In the order of domain and address"), (status = NOT_FOUND, body = ApiError, description = "No such domain or port"))
)]
async fn fdb(State(api): State<Api>, Query(stations): Query<Stations>) -> Answer<Vec<FdbView>> {
    api.handle
        .ask(|reply| Request::Fdb(stations.into(), reply))
        .await
        .map(Json)
}

/// Forget learned stations
///
/// Those of the configuration and those added by hand stay.
#[utoipa::path(
    delete, path = "/v1/fdb", tag = "stations", params(Stations),
    responses((status = OK, body = FlushReport, description = "How many"), (status = NOT_FOUND, body = ApiError, description = "No such domain or port"))
)]
async fn fdb_flush(State(api): State<Api>, Query(stations): Query<Stations>) -> Answer<FlushReport> {
    api.handle
        .ask(|reply| Request::FdbFlush(stations.into(), reply))
        .await
        .map(Json)
}

/// Add a station
///
/// Or replace where it is. It neither ages nor moves, and is lost with the daemon; `static` in the configuration is not.
#[utoipa::path(
    put, path = "/v1/fdb/{bridge_domain}/{mac}", tag = "stations", request_body = FdbAdd,
    params(("bridge_domain" = String, Path, description = "The domain"), ("mac" = String, Path, description = "The station's MAC address")),
    responses(
        (status = OK, body = FdbView, description = "Added"),
        (status = BAD_REQUEST, body = ApiError, description = "Not exactly one of port and remote, or no MAC address of a station"),
        (status = NOT_FOUND, body = ApiError, description = "No such domain, port or remote"),
        (status = CONFLICT, body = ApiError, description = "It is in the configuration, or the table is full")
    )
)]
async fn fdb_add(
    State(api): State<Api>,
    Path((bridge_domain, mac)): Path<(Name, MacAddr)>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<FdbView> {
    let body = body?;
    if body.len() > MAX_STATION {
        return Err(too_large(MAX_STATION));
    }
    let place: FdbAdd = serde_json::from_slice(&body).map_err(|error| {
        let example = r#"{"port": "pod1"}"#;
        ApiError::new(
            ErrorCode::BadRequest,
            format!("the body is no station: {error}; an example: {example}"),
        )
    })?;
    if place.port.is_some() == place.remote.is_some() {
        let message =
            "a station is behind a port or behind a remote VTEP: give exactly one of `port` and `remote`";
        return Err(ApiError::new(ErrorCode::BadRequest, message));
    }
    if !mac.is_unicast() {
        let message = format!("{mac} is no station's address: it is a group address or zero");
        return Err(ApiError::new(ErrorCode::BadRequest, message));
    }
    let request = |reply| Request::FdbAdd {
        bridge_domain,
        mac,
        place,
        reply,
    };
    api.handle.ask(request).await.map(Json)
}

/// Remove a station
///
/// One that was learned or added by hand. A station that still sends is learned again.
#[utoipa::path(
    delete, path = "/v1/fdb/{bridge_domain}/{mac}", tag = "stations",
    params(("bridge_domain" = String, Path, description = "The domain"), ("mac" = String, Path, description = "The station's MAC address")),
    responses(
        (status = NO_CONTENT, description = "Removed"),
        (status = NOT_FOUND, body = ApiError, description = "No such domain or station"),
        (status = CONFLICT, body = ApiError, description = "It is in the configuration")
    )
)]
async fn fdb_del(
    State(api): State<Api>,
    Path((bridge_domain, mac)): Path<(Name, MacAddr)>,
) -> Result<StatusCode, ApiError> {
    let request = |reply| Request::FdbDel {
        bridge_domain,
        mac,
        reply,
    };
    api.handle.ask(request).await.map(|()| StatusCode::NO_CONTENT)
}

/// The daemon's health
///
/// Answers as long as the daemon lives; `ready` says whether every port of the configuration forwards.
#[utoipa::path(get, path = "/healthz", tag = "daemon", responses((status = OK, body = HealthView, description = "It lives")))]
async fn health(State(api): State<Api>) -> Answer<HealthView> {
    api.handle.ask(Request::Health).await.map(Json)
}

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "daemon", responses((status = OK, body = Object, description = "OpenAPI 3.1")))]
async fn openapi(State(api): State<Api>) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, api.description.to_string()).into_response()
}

async fn no_such_path(request: HttpRequest) -> ApiError {
    let path = request.uri().path();
    ApiError::not_found(format!(
        "there is no path {path}; /openapi.json describes those that there are"
    ))
}

async fn no_such_method(request: HttpRequest) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("{path} has no method {method}; /openapi.json describes those that it has");
    ApiError::new(ErrorCode::MethodNotAllowed, message)
}

/// Parameters in a path; what is wrong with them is an [`ApiError`] as everything else.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub(super) struct Path<T>(pub(super) T);

/// Parameters behind a path, likewise.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub(super) struct Query<T>(pub(super) T);

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(ErrorCode::BadRequest, rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(ErrorCode::BadRequest, rejection.body_text())
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(MAX_BODY),
            _ => Self::new(ErrorCode::BadRequest, rejection.body_text()),
        }
    }
}

fn too_large(most: usize) -> ApiError {
    let message = format!("the body has more than {most} bytes, the most that is taken; nothing was changed");
    ApiError::new(ErrorCode::TooLarge, message)
}

impl ErrorCode {
    fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::InvalidConfig => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.code.status(), Json(self)).into_response()
    }
}
