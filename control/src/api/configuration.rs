//! The paths of the configuration: what is wanted, by whom, and putting something else in its place.

use std::path;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderValue, header};
use clearway_config::Spec;
use serde::Deserialize;
use utoipa::IntoParams;

use super::attachments;
use super::routes::{Answer, Api, Path, Query, pick};
use super::types::{ApplyReport, ObjectView};
use crate::handle::{ApiError, Applied, ErrorCode, PATIENCE, Request};
use crate::store::{ObjectKind, Owner};

/// All objects
///
/// What is wanted, by whom (the file, an `apply`, the CNI plugin), and how often it has changed: settings, ports, bridge
/// domains, VTEPs, address pools, pairs of ports, attachments.
#[utoipa::path(get, path = "/v1/objects", tag = "configuration", responses((status = OK, body = Vec<ObjectView>, description = "In the order of kind and name")))]
pub(super) async fn objects(State(api): State<Api>) -> Answer<Vec<ObjectView>> {
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
pub(super) async fn object(
    api: State<Api>,
    Path((kind, name)): Path<(String, String)>,
) -> Answer<ObjectView> {
    let Json(mut all) = objects(api).await?;
    all.retain(|object| object.kind.as_str() == kind);
    pick(all, &kind, &name, |object| object.name.clone())
}

/// The configuration in use
///
/// `ETag` is its generation, for `If-Match` of a PUT.
#[utoipa::path(get, path = "/v1/config", tag = "configuration", responses((status = OK, body = Object, headers(("ETag" = String, description = "Its generation, in quotes")), description = "As /v1/config/schema describes it, defaults written out")))]
pub(super) async fn config(State(api): State<Api>) -> Result<(HeaderMap, Json<Spec>), ApiError> {
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
pub(super) struct How {
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
pub(super) async fn config_apply(
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
fn says(file: &path::Path, spec: &Spec) -> bool {
    let said = std::fs::read_to_string(file).ok();
    said.and_then(|text| Spec::from_yaml(&text, "the file").ok())
        .is_some_and(|said| said == *spec)
}

/// The schema of a configuration
///
/// JSON schema, draft 2020-12.
#[utoipa::path(get, path = "/v1/config/schema", tag = "configuration", responses((status = OK, body = Object, description = "The schema")))]
pub(super) async fn config_schema() -> Json<serde_json::Value> {
    Json(clearway_config::json_schema())
}
