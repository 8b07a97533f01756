use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Answer, Body, Path, Query, Refused};
use super::{Api, busy, overdue, services};
use crate::api::types::{
    ApiError, Applied, AttachRequest, DetachQuery, Endpoint, EndpointUpdateRequest, ErrorCode,
    Event, InitRequest, JoinRequest, Joined, LeaveRequest, Network, NetworkCreateRequest,
    NetworkUpdateRequest, Node, Role, Status, Token, WaitRequest,
};
use crate::api::{DEFAULT_WAIT, DETACH_TIMEOUT, MAX_WAIT, WaitFor};

/// Whether a request is answered when something happens, with limits of its own.
pub(super) fn is_long(method: &Method, path: &str) -> bool {
    let drains = method == Method::DELETE && path.starts_with("/v1/endpoints/");
    drains || ["/v1/wait", "/v1/events"].contains(&path)
}

/// The backend minds the time that it was given; past it by this much it is stuck.
const WAIT_MARGIN: Duration = Duration::from_secs(5);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "weft local API",
        description = "Served by every agent on a Unix socket. Errors carry an ApiError.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "cluster", description = "This node's place in the cluster"),
        (name = "nodes", description = "Hosts of the cluster"),
        (name = "networks", description = "Isolated layer-2 segments"),
        (name = "endpoints", description = "Attachments of containers"),
        (name = "services", description = "Endpoints that serve the same, and how they are reached"),
        (name = "changes", description = "What happens, and how far it got"),
    )
)]
struct Document;

/// All routes, without limits.
pub fn router(api: Api) -> Router {
    let (router, document) = documented().split_for_parts();
    let document = Json(document);
    router
        .route("/openapi.json", get(move || async move { document }))
        .fallback(|| async { Refused(ApiError::not_found(NO_SUCH_ROUTE)) })
        .method_not_allowed_fallback(|| async {
            let error = Json(ApiError::invalid(NO_SUCH_ROUTE));
            (StatusCode::METHOD_NOT_ALLOWED, error)
        })
        .with_state(api)
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

const NO_SUCH_ROUTE: &str = "the local API has no such operation; /openapi.json lists them";

fn documented() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status))
        .routes(routes!(init))
        .routes(routes!(join))
        .routes(routes!(leave))
        .routes(routes!(token))
        .routes(routes!(rotate_token))
        .routes(routes!(nodes))
        .routes(routes!(node))
        .routes(routes!(networks, network_create))
        .routes(routes!(network, network_update, network_remove))
        .routes(routes!(endpoints, attach))
        .routes(routes!(endpoint, endpoint_update, detach))
        .merge(services::documented())
        .routes(routes!(wait))
        .routes(routes!(events))
        .routes(routes!(applied))
}

/// What this agent knows of itself and its cluster
#[utoipa::path(get, path = "/v1/status", tag = "cluster", responses(
    (status = 200, body = Status),
    (status = "default", description = "refused", body = ApiError)
))]
async fn status(State(api): State<Api>) -> Answer<Status> {
    Ok(Json(api.backend.status().await?))
}

/// Start a cluster with this node as its first manager
#[utoipa::path(post, path = "/v1/init", tag = "cluster", request_body = InitRequest, responses(
    (status = 200, body = Joined),
    (status = "default", description = "refused", body = ApiError)
))]
async fn init(State(api): State<Api>, Body(request): Body<InitRequest>) -> Answer<Joined> {
    Ok(Json(api.backend.init(request).await?))
}

/// Enter a cluster
#[utoipa::path(post, path = "/v1/join", tag = "cluster", request_body = JoinRequest, responses(
    (status = 200, body = Joined),
    (status = "default", description = "refused", body = ApiError)
))]
async fn join(State(api): State<Api>, Body(request): Body<JoinRequest>) -> Answer<Joined> {
    Ok(Json(api.backend.join(request).await?))
}

/// Leave the cluster; answers null
#[utoipa::path(post, path = "/v1/leave", tag = "cluster", request_body = LeaveRequest, responses(
    (status = 200, description = "null"),
    (status = "default", description = "refused", body = ApiError)
))]
async fn leave(State(api): State<Api>, Body(request): Body<LeaveRequest>) -> Answer<()> {
    Ok(Json(api.backend.leave(request).await?))
}

/// What admits a node in a role
#[utoipa::path(get, path = "/v1/tokens/{role}", tag = "cluster",
    params(("role" = Role, Path)),
    responses(
        (status = 200, body = Token),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn token(State(api): State<Api>, Path(role): Path<String>) -> Answer<Token> {
    Ok(Json(api.backend.token(role_of(&role)?, false).await?))
}

/// Replace what admits a node in a role
#[utoipa::path(post, path = "/v1/tokens/{role}/rotate", tag = "cluster",
    params(("role" = Role, Path)),
    responses(
        (status = 200, body = Token),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn rotate_token(State(api): State<Api>, Path(role): Path<String>) -> Answer<Token> {
    Ok(Json(api.backend.token(role_of(&role)?, true).await?))
}

fn role_of(text: &str) -> Result<Role, ApiError> {
    match text {
        "manager" => Ok(Role::Manager),
        "worker" => Ok(Role::Worker),
        _ => Err(ApiError::not_found(
            "no such role; there are manager and worker",
        )),
    }
}

/// All nodes
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", responses(
    (status = 200, body = [Node]),
    (status = "default", description = "refused", body = ApiError)
))]
async fn nodes(State(api): State<Api>) -> Answer<Vec<Node>> {
    Ok(Json(api.backend.nodes().await?))
}

/// One node
#[utoipa::path(get, path = "/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "Name, id, beginning of an id, or `self`")),
    responses(
        (status = 200, body = Node),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn node(State(api): State<Api>, Path(node): Path<String>) -> Answer<Node> {
    Ok(Json(api.backend.node(node).await?))
}

/// All networks
#[utoipa::path(get, path = "/v1/networks", tag = "networks", responses(
    (status = 200, body = [Network]),
    (status = "default", description = "refused", body = ApiError)
))]
async fn networks(State(api): State<Api>) -> Answer<Vec<Network>> {
    Ok(Json(api.backend.networks().await?))
}

/// One network
#[utoipa::path(get, path = "/v1/networks/{network}", tag = "networks",
    params(("network" = String, Path, description = "Name, id or beginning of an id")),
    responses(
        (status = 200, body = Network),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn network(State(api): State<Api>, Path(network): Path<String>) -> Answer<Network> {
    Ok(Json(api.backend.network(network).await?))
}

/// Create a network
#[utoipa::path(post, path = "/v1/networks", tag = "networks",
    request_body = NetworkCreateRequest,
    responses(
        (status = 201, body = Network),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn network_create(
    State(api): State<Api>,
    Body(request): Body<NetworkCreateRequest>,
) -> Result<(StatusCode, Json<Network>), Refused> {
    let network = api.backend.network_create(request).await?;
    Ok((StatusCode::CREATED, Json(network)))
}

/// Change a network
#[utoipa::path(patch, path = "/v1/networks/{network}", tag = "networks",
    params(("network" = String, Path, description = "Name, id or beginning of an id")),
    request_body = NetworkUpdateRequest,
    responses(
        (status = 200, body = Network),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn network_update(
    State(api): State<Api>,
    Path(network): Path<String>,
    Body(request): Body<NetworkUpdateRequest>,
) -> Answer<Network> {
    Ok(Json(api.backend.network_update(network, request).await?))
}

/// Remove a network that no endpoint is attached to
#[utoipa::path(delete, path = "/v1/networks/{network}", tag = "networks",
    params(("network" = String, Path, description = "Name, id or beginning of an id")),
    responses(
        (status = 200, body = Network),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn network_remove(State(api): State<Api>, Path(network): Path<String>) -> Answer<Network> {
    Ok(Json(api.backend.network_remove(network).await?))
}

/// All endpoints
#[utoipa::path(get, path = "/v1/endpoints", tag = "endpoints", responses(
    (status = 200, body = [Endpoint]),
    (status = "default", description = "refused", body = ApiError)
))]
async fn endpoints(State(api): State<Api>) -> Answer<Vec<Endpoint>> {
    Ok(Json(api.backend.endpoints().await?))
}

/// One endpoint
#[utoipa::path(get, path = "/v1/endpoints/{endpoint}", tag = "endpoints",
    params(("endpoint" = String, Path,
            description = "`NAME.NETWORK`, an unambiguous name, id or beginning of an id")),
    responses(
        (status = 200, body = Endpoint),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn endpoint(State(api): State<Api>, Path(endpoint): Path<String>) -> Answer<Endpoint> {
    Ok(Json(api.backend.endpoint(endpoint).await?))
}

/// Attach a network namespace of this node
#[utoipa::path(post, path = "/v1/endpoints", tag = "endpoints",
    request_body = AttachRequest,
    responses(
        (status = 201, body = Endpoint),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn attach(
    State(api): State<Api>,
    Body(request): Body<AttachRequest>,
) -> Result<(StatusCode, Json<Endpoint>), Refused> {
    let endpoint = api.backend.attach(request).await?;
    Ok((StatusCode::CREATED, Json(endpoint)))
}

/// Change an endpoint
#[utoipa::path(patch, path = "/v1/endpoints/{endpoint}", tag = "endpoints",
    params(("endpoint" = String, Path,
            description = "`NAME.NETWORK`, an unambiguous name, id or beginning of an id")),
    request_body = EndpointUpdateRequest,
    responses(
        (status = 200, body = Endpoint),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn endpoint_update(
    State(api): State<Api>,
    Path(endpoint): Path<String>,
    Body(request): Body<EndpointUpdateRequest>,
) -> Answer<Endpoint> {
    Ok(Json(api.backend.endpoint_update(endpoint, request).await?))
}

/// Remove an endpoint; without `force`, a member of a service is drained first
#[utoipa::path(delete, path = "/v1/endpoints/{endpoint}", tag = "endpoints",
    params(
        ("endpoint" = String, Path,
         description = "`NAME.NETWORK`, an unambiguous name, id or beginning of an id"),
        DetachQuery
    ),
    responses(
        (status = 200, body = Endpoint),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn detach(
    State(api): State<Api>,
    Path(endpoint): Path<String>,
    Query(query): Query<DetachQuery>,
) -> Answer<Endpoint> {
    let _permit = api.waiters.try_acquire().map_err(|_| busy())?;
    match timeout(DETACH_TIMEOUT, api.backend.detach(endpoint, query.force)).await {
        Ok(detached) => Ok(Json(detached?)),
        Err(_) => Err(overdue(DETACH_TIMEOUT).into()),
    }
}

/// Wait until every ready node's kernel reflects something; answers with the log index
#[utoipa::path(post, path = "/v1/wait", tag = "changes", request_body = WaitRequest, responses(
    (status = 200, body = u64),
    (status = "default", description = "refused", body = ApiError)
))]
async fn wait(State(api): State<Api>, Body(request): Body<WaitRequest>) -> Answer<u64> {
    let _permit = api.waiters.try_acquire().map_err(|_| busy())?;
    let limit = request
        .timeout_ms
        .map_or(DEFAULT_WAIT, Duration::from_millis);
    if limit > MAX_WAIT {
        return Err(ApiError::invalid("timeout_ms is above 3600000, an hour").into());
    }
    let what = match (request.revision, request.endpoint, request.service) {
        (Some(revision), None, None) => WaitFor::Revision(revision),
        (None, Some(endpoint), None) => WaitFor::Endpoint(endpoint),
        (None, None, Some(service)) => WaitFor::Service(service),
        _ => {
            let message = "give exactly one of revision, endpoint and service";
            return Err(ApiError::invalid(message).into());
        }
    };
    match timeout(limit + WAIT_MARGIN, api.backend.wait(what, limit)).await {
        Ok(revision) => Ok(Json(revision?)),
        Err(_) => Err(ApiError::new(
            ErrorCode::TimedOut,
            format!("not every node reflects it after {} ms", limit.as_millis()),
        )
        .into()),
    }
}

/// Changes from now on, one JSON object per line
#[utoipa::path(get, path = "/v1/events", tag = "changes", responses(
    (status = 200, body = Event, content_type = "application/x-ndjson"),
    (status = "default", description = "refused", body = ApiError)
))]
async fn events(State(api): State<Api>) -> Result<Response, Refused> {
    let permit = api
        .waiters
        .clone()
        .try_acquire_owned()
        .map_err(|_| busy())?;
    let stop = api.stop.clone().cancelled_owned();
    let lines = api.backend.events().await?.map(move |event| {
        let _held = &permit;
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    let body = HttpBody::from_stream(lines.take_until(stop));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// What every ready node's kernel reflects
#[utoipa::path(get, path = "/v1/applied", tag = "changes", responses(
    (status = 200, body = [Applied]),
    (status = "default", description = "refused", body = ApiError)
))]
async fn applied(State(api): State<Api>) -> Answer<Vec<Applied>> {
    Ok(Json(api.backend.applied().await?))
}
