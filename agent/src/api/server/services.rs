use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::answer::{Answer, Body, Path, Refused};
use crate::api::types::{
    ApiError, Service, ServiceAnswer, ServiceCreateRequest, ServiceUpdateRequest,
};

pub(super) fn documented() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(services, service_create))
        .routes(routes!(service, service_update, service_remove))
}

/// All services
#[utoipa::path(get, path = "/v1/services", tag = "services", responses(
    (status = 200, body = [Service]),
    (status = "default", description = "refused", body = ApiError)
))]
async fn services(State(api): State<Api>) -> Answer<Vec<Service>> {
    Ok(Json(api.backend.services().await?))
}

/// Create a service
#[utoipa::path(post, path = "/v1/services", tag = "services",
    request_body = ServiceCreateRequest,
    responses(
        (status = 201, body = ServiceAnswer),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn service_create(
    State(api): State<Api>,
    Body(request): Body<ServiceCreateRequest>,
) -> Result<(StatusCode, Json<ServiceAnswer>), Refused> {
    let answer = api.backend.service_create(request).await?;
    Ok((StatusCode::CREATED, Json(answer)))
}

/// One service
#[utoipa::path(get, path = "/v1/services/{service}", tag = "services",
    params(("service" = String, Path, description = "Name, id or beginning of an id")),
    responses(
        (status = 200, body = Service),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn service(State(api): State<Api>, Path(service): Path<String>) -> Answer<Service> {
    Ok(Json(api.backend.service(service).await?))
}

/// Change a service
#[utoipa::path(patch, path = "/v1/services/{service}", tag = "services",
    params(("service" = String, Path, description = "Name, id or beginning of an id")),
    request_body = ServiceUpdateRequest,
    responses(
        (status = 200, body = ServiceAnswer),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn service_update(
    State(api): State<Api>,
    Path(service): Path<String>,
    Body(request): Body<ServiceUpdateRequest>,
) -> Answer<ServiceAnswer> {
    Ok(Json(api.backend.service_update(service, request).await?))
}

/// Remove a service; its endpoints stay, in no service
#[utoipa::path(delete, path = "/v1/services/{service}", tag = "services",
    params(("service" = String, Path, description = "Name, id or beginning of an id")),
    responses(
        (status = 200, body = Service),
        (status = "default", description = "refused", body = ApiError)
    )
)]
async fn service_remove(State(api): State<Api>, Path(service): Path<String>) -> Answer<Service> {
    Ok(Json(api.backend.service_remove(service).await?))
}
