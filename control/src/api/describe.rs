//! The head of the OpenAPI description; its paths come from [`routes`](super::routes).

use utoipa::OpenApi;

/// What `/openapi.json` says of the API as a whole.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Clearway",
        description = "Asks a Clearway daemon and changes what it forwards. Served on a unix socket that only its owner \
                       (root) may open. Counters are totals since the daemon started. Fields and paths may be added to /v1; \
                       none changes its meaning. Every failure is an ApiError with the HTTP status of its code.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "http://localhost", description = "over the unix socket, /run/clearway/clearway.sock by default")),
    tags(
        (name = "state", description = "What the daemon does"),
        (name = "configuration", description = "What it is to do"),
        (name = "stations", description = "The forwarding database"),
        (name = "daemon", description = "The daemon itself")
    )
)]
pub(super) struct Description;
