//! The paths of the API. Each is described where it is written; router and description are made of one list.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use clearway_config::{Name, Spec};
use clearway_engine::DropReason;
use clearway_wire::MacAddr;
use serde::Deserialize;
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::attachments::{self, Attachments};
use super::describe::Description;
use super::types::{
    ApplyReport, BridgeDomainView, CounterView, DropView, DropsView, FdbAdd, FdbView, FlushReport,
    HealthView, ObjectView, PortView, TunnelView, WorkerView,
};
use crate::handle::{ApiError, Applied, ErrorCode, FdbFilter, Handle, PATIENCE, Request};
use crate::store::{ObjectKind, Owner};

/// The longest configuration that is taken, in bytes: some 50,000 bridge domains.
const MAX_BODY: usize = 32 << 20;
/// The longest description of a station that is taken, in bytes. Errors may repeat it.
const MAX_STATION: usize = 4096;

/// What every handler can reach.
#[derive(Clone)]
pub(super) struct Api {
    handle: Handle,
    pub(super) attachments: Attachments,
    /// Where the configuration is from.
    file: Option<PathBuf>,
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
        .routes(routes!(objects))
        .routes(routes!(object))
        .routes(routes!(drops))
        .routes(routes!(drop_of))
        .routes(routes!(counters))
        .routes(routes!(counters_of))
        .routes(routes!(fdb, fdb_flush))
        .routes(routes!(fdb_add, fdb_del))
        .routes(routes!(config, config_apply))
        .routes(routes!(config_schema))
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
fn pick<T>(list: Vec<T>, kind: &str, name: &str, name_of: impl Fn(&T) -> String) -> Answer<T> {
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

/// All objects
///
/// What is wanted, by whom (the file, an `apply`, the CNI plugin), and how often it has changed: settings, ports, bridge
/// domains, VTEPs, address pools, pairs of ports, attachments.
#[utoipa::path(get, path = "/v1/objects", tag = "configuration", responses((status = OK, body = Vec<ObjectView>, description = "In the order of kind and name")))]
async fn objects(State(api): State<Api>) -> Answer<Vec<ObjectView>> {
    let mut all = api.handle.ask(Request::Objects).await?;
    // A daemon without a store keeps none.
    if let Ok(Json(list)) = attachments::attachments(State(api)).await {
        all.extend(list.into_iter().map(|attachment| ObjectView {
            kind: ObjectKind::Attachment,
            name: attachment.id.to_string(),
            owner: Owner::Cni,
            generation: attachment.generation,
            changed_s: None,
            spec: serde_json::to_value(attachment.wanted).unwrap_or_default(),
        }));
    }
    Ok(Json(all))
}

/// One object
#[utoipa::path(
    get, path = "/v1/objects/{kind}/{name}", tag = "configuration",
    params(("kind" = String, Path, description = "What it is, as in `port`"), ("name" = String, Path, description = "Its name; a `/` in it is written %2F")),
    responses((status = OK, body = ObjectView, description = "The object"), (status = NOT_FOUND, body = ApiError, description = "No such object"))
)]
async fn object(api: State<Api>, Path((kind, name)): Path<(String, String)>) -> Answer<ObjectView> {
    let Json(mut all) = objects(api).await?;
    all.retain(|object| object.kind.as_str() == kind);
    pick(all, &kind, &name, |object| object.name.clone())
}

/// The configuration in use
///
/// `ETag` is its generation, for `If-Match` of a PUT.
#[utoipa::path(get, path = "/v1/config", tag = "configuration", responses((status = OK, body = Object, headers(("ETag" = String, description = "Its generation, in quotes")), description = "As /v1/config/schema describes it, defaults written out")))]
async fn config(State(api): State<Api>) -> Result<(HeaderMap, Json<Spec>), ApiError> {
    let (spec, version) = api.handle.ask(Request::Config).await?;
    Ok((tag(version.generation), Json(spec)))
}

/// A generation as an entity tag (RFC 9110 §8.8.3).
fn tag(generation: u64) -> HeaderMap {
    let value = HeaderValue::try_from(format!("\"{generation}\""));
    value.map(|value| (header::ETAG, value)).into_iter().collect()
}

/// The generations that `If-Match` names; none: any will do (RFC 9110 §13.1.1).
fn only_if(headers: &HeaderMap) -> Result<Option<Vec<u64>>, ApiError> {
    let mut generations = None;
    for value in headers.get_all(header::IF_MATCH) {
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(None);
        }
        let generations = generations.get_or_insert_with(Vec::new);
        for tag in text.split(',').map(str::trim) {
            let (weak, strong) = (tag.strip_prefix("W/").is_some(), tag.trim_start_matches("W/"));
            let inner = strong.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let inner = inner.ok_or_else(|| {
                let message = format!(
                    "If-Match: {text} is no list of entity tags: write \"7\", in quotes, as ETag has it"
                );
                ApiError::new(ErrorCode::BadRequest, message)
            })?;
            // Weak tags never match here, nor do those that are not ours.
            generations.extend(inner.parse::<u64>().ok().filter(|_| !weak));
        }
    }
    Ok(generations)
}

/// How a configuration is to be applied.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct How {
    /// Only say what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// Replace the configuration
///
/// The body is a whole configuration, as JSON or YAML. What it does not change goes on undisturbed; a configuration
/// that is wrong changes nothing. Ports of attachments are not in it, and stay.
#[utoipa::path(
    put, path = "/v1/config", tag = "configuration",
    params(How, ("If-Match" = Option<String>, Header, description = "Only if the configuration in use is of this generation, as in `\"7\"`")),
    request_body(content((Object = "application/json"), (String = "application/yaml")), description = "As /v1/config/schema describes it"),
    responses(
        (status = OK, body = ApplyReport, headers(("ETag" = String, description = "The generation in use now, in quotes")), description = "What was done, or would be"),
        (status = BAD_REQUEST, body = ApiError, description = "The request itself makes no sense"),
        (status = CONFLICT, body = ApiError, description = "It cannot be changed while the daemon runs, or an attachment needs what it is without"),
        (status = PRECONDITION_FAILED, body = ApiError, description = "If-Match names another generation than that in use"),
        (status = PAYLOAD_TOO_LARGE, body = ApiError, description = "More than 32 MiB"),
        (status = UNPROCESSABLE_ENTITY, body = ApiError, description = "It is wrong; details has every error"),
        (status = INTERNAL_SERVER_ERROR, body = ApiError, description = "It was tried and failed")
    )
)]
async fn config_apply(
    State(api): State<Api>,
    Query(How { dry_run }): Query<How>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(HeaderMap, Json<ApplyReport>), ApiError> {
    let only_if = only_if(&headers)?;
    let body = body?;
    // On a thread that may wait, and to its end: nobody who hangs up leaves the engine with one configuration and the
    // store with another.
    let work = tokio::task::spawn_blocking(move || apply(&api, &body, dry_run, only_if));
    let report = match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(report)) => report?,
        Ok(Err(panic)) => return Err(ApiError::failed(format!("a bug of the daemon's: {panic}"))),
        Err(_elapsed) => return Err(ApiError::too_slow()),
    };
    Ok((tag(report.generation), Json(report)))
}

fn apply(api: &Api, body: &[u8], dry_run: bool, only_if: Option<Vec<u64>>) -> Result<ApplyReport, ApiError> {
    let text = std::str::from_utf8(body)
        .map_err(|error| ApiError::new(ErrorCode::BadRequest, format!("the body is not UTF-8: {error}")))?;
    // JSON is YAML: one reader, one set of messages, all with their places.
    let spec = Box::new(Spec::from_yaml(text, "the request")?);
    if let Ok(manager) = &api.attachments {
        manager
            .check_pools(&spec.address_pools)
            .map_err(|error| ApiError::conflict(format!("{error}; nothing was changed")))?;
    }
    let by = match api.file.as_deref().is_some_and(|file| says(file, &spec)) {
        true => Owner::File,
        false => Owner::Apply,
    };
    let used = spec.clone();
    let request = |reply| Request::Apply {
        spec,
        dry_run,
        by,
        only_if,
        reply,
    };
    let Applied { mut report, objects } = api.handle.ask_blocking(request)?;
    if let (false, Ok(manager)) = (dry_run, &api.attachments)
        && let Err(error) = manager.applied(&used, &objects, by)
    {
        report.warnings.push(format!(
            "it is in use, but a restart of the daemon goes back to what it was before: {error}"
        ));
    }
    Ok(report)
}

/// Whether a configuration is what the file says now: then applying it is reading the file again.
fn says(file: &std::path::Path, spec: &Spec) -> bool {
    let said = std::fs::read_to_string(file).ok();
    said.and_then(|text| Spec::from_yaml(&text, "the file").ok())
        .is_some_and(|said| said == *spec)
}

/// The schema of a configuration
///
/// JSON schema, draft 2020-12.
#[utoipa::path(get, path = "/v1/config/schema", tag = "configuration", responses((status = OK, body = Object, description = "The schema")))]
async fn config_schema() -> Json<serde_json::Value> {
    Json(clearway_config::json_schema())
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
struct Query<T>(T);

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
