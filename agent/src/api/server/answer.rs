use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::MAX_BODY_BYTES;
use crate::api::types::ApiError;

/// What a handler answers with.
pub(super) type Answer<T> = Result<Json<T>, Refused>;

/// An [`ApiError`] as an HTTP response.
pub(super) struct Refused(pub(super) ApiError);

/// A request body of JSON, whatever its content type is said to be.
pub(super) struct Body<T>(pub(super) T);

/// A query string.
pub(super) struct Query<T>(pub(super) T);

/// What the path holds.
pub(super) struct Path<T>(pub(super) T);

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let refused = |reason: String| {
            Refused(ApiError::invalid(format!(
                "the request body is refused: {reason}"
            )))
        };
        let body = Bytes::from_request(request, state).await.map_err(|error| {
            refused(match error.status() {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    format!("it is too large; at most {MAX_BODY_BYTES} bytes are accepted")
                }
                _ => error.body_text(),
            })
        })?;
        // serde would also take an array for the fields in their order, which no client may rely on.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(refused("it is not a JSON object".to_owned()));
        }
        serde_json::from_slice(&body)
            .map(Body)
            .map_err(|error| refused(error.to_string()))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(path)| Path(path))
            .map_err(|error| Refused(ApiError::invalid(error.body_text())))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(query)| Query(query))
            .map_err(|error| Refused(ApiError::invalid(error.body_text())))
    }
}
