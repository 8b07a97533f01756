//! Asks an agent over its Unix socket; one connection per request.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::types::{
    ApiError, Applied, AttachRequest, Endpoint, EndpointUpdateRequest, ErrorCode, Event,
    InitRequest, JoinRequest, Joined, LeaveRequest, Network, NetworkCreateRequest,
    NetworkUpdateRequest, Node, Role, Service, ServiceAnswer, ServiceCreateRequest,
    ServiceUpdateRequest, Status, Token, WaitRequest,
};
use super::{DETACH_TIMEOUT, MAX_WAIT, REQUEST_TIMEOUT};
use crate::exit::CliError;

/// A connection takes no longer than this on one machine, unless the agent is stuck.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The agent's own limits strike first; past them by this much it is stuck.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(10);
/// Enough for the list of 100,000 endpoints.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// One event is one object.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// An agent's socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Connects to nothing yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Where the agent is asked.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// See [`super::Backend::status`].
    pub async fn status(&self) -> Result<Status, CliError> {
        self.get("/v1/status").await
    }

    /// See [`super::Backend::init`].
    pub async fn init(&self, request: &InitRequest) -> Result<Joined, CliError> {
        self.post("/v1/init", request).await
    }

    /// See [`super::Backend::join`].
    pub async fn join(&self, request: &JoinRequest) -> Result<Joined, CliError> {
        self.post("/v1/join", request).await
    }

    /// See [`super::Backend::leave`].
    pub async fn leave(&self, request: &LeaveRequest) -> Result<(), CliError> {
        self.post("/v1/leave", request).await
    }

    /// See [`super::Backend::token`].
    pub async fn token(&self, role: Role, rotate: bool) -> Result<Token, CliError> {
        if rotate {
            self.post(&format!("/v1/tokens/{role}/rotate"), &()).await
        } else {
            self.get(&format!("/v1/tokens/{role}")).await
        }
    }

    /// See [`super::Backend::nodes`].
    pub async fn nodes(&self) -> Result<Vec<Node>, CliError> {
        self.get("/v1/nodes").await
    }

    /// See [`super::Backend::node`].
    pub async fn node(&self, node: &str) -> Result<Node, CliError> {
        self.get(&format!("/v1/nodes/{}", segment(node))).await
    }

    /// See [`super::Backend::networks`].
    pub async fn networks(&self) -> Result<Vec<Network>, CliError> {
        self.get("/v1/networks").await
    }

    /// See [`super::Backend::network`].
    pub async fn network(&self, network: &str) -> Result<Network, CliError> {
        self.get(&format!("/v1/networks/{}", segment(network)))
            .await
    }

    /// See [`super::Backend::network_create`].
    pub async fn network_create(
        &self,
        request: &NetworkCreateRequest,
    ) -> Result<Network, CliError> {
        self.post("/v1/networks", request).await
    }

    /// See [`super::Backend::network_update`].
    pub async fn network_update(
        &self,
        network: &str,
        request: &NetworkUpdateRequest,
    ) -> Result<Network, CliError> {
        let path = format!("/v1/networks/{}", segment(network));
        self.patch(&path, request).await
    }

    /// See [`super::Backend::network_remove`].
    pub async fn network_remove(&self, network: &str) -> Result<Network, CliError> {
        self.delete(&format!("/v1/networks/{}", segment(network)))
            .await
    }

    /// See [`super::Backend::endpoints`].
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>, CliError> {
        self.get("/v1/endpoints").await
    }

    /// See [`super::Backend::endpoint`].
    pub async fn endpoint(&self, endpoint: &str) -> Result<Endpoint, CliError> {
        self.get(&format!("/v1/endpoints/{}", segment(endpoint)))
            .await
    }

    /// See [`super::Backend::attach`].
    pub async fn attach(&self, request: &AttachRequest) -> Result<Endpoint, CliError> {
        self.post("/v1/endpoints", request).await
    }

    /// See [`super::Backend::endpoint_update`].
    pub async fn endpoint_update(
        &self,
        endpoint: &str,
        request: &EndpointUpdateRequest,
    ) -> Result<Endpoint, CliError> {
        let path = format!("/v1/endpoints/{}", segment(endpoint));
        self.patch(&path, request).await
    }

    /// See [`super::Backend::detach`].
    pub async fn detach(&self, endpoint: &str, force: bool) -> Result<Endpoint, CliError> {
        let path = format!("/v1/endpoints/{}?force={force}", segment(endpoint));
        let limit = DETACH_TIMEOUT + TIMEOUT_MARGIN;
        let answer = self.ask(Method::DELETE, &path, Bytes::new(), limit).await?;
        self.decode(&answer)
    }

    /// See [`super::Backend::services`].
    pub async fn services(&self) -> Result<Vec<Service>, CliError> {
        self.get("/v1/services").await
    }

    /// See [`super::Backend::service`].
    pub async fn service(&self, service: &str) -> Result<Service, CliError> {
        self.get(&format!("/v1/services/{}", segment(service)))
            .await
    }

    /// See [`super::Backend::service_create`].
    pub async fn service_create(
        &self,
        request: &ServiceCreateRequest,
    ) -> Result<ServiceAnswer, CliError> {
        self.post("/v1/services", request).await
    }

    /// See [`super::Backend::service_update`].
    pub async fn service_update(
        &self,
        service: &str,
        request: &ServiceUpdateRequest,
    ) -> Result<ServiceAnswer, CliError> {
        let path = format!("/v1/services/{}", segment(service));
        self.patch(&path, request).await
    }

    /// See [`super::Backend::service_remove`].
    pub async fn service_remove(&self, service: &str) -> Result<Service, CliError> {
        self.delete(&format!("/v1/services/{}", segment(service)))
            .await
    }

    /// See [`super::Backend::wait`].
    pub async fn wait(&self, request: &WaitRequest) -> Result<u64, CliError> {
        let limit = request
            .timeout_ms
            .map_or(MAX_WAIT, Duration::from_millis)
            .saturating_add(TIMEOUT_MARGIN);
        let body = self.encode(request)?;
        let answer = self.ask(Method::POST, "/v1/wait", body, limit).await?;
        self.decode(&answer)
    }

    /// See [`super::Backend::applied`].
    pub async fn applied(&self) -> Result<Vec<Applied>, CliError> {
        self.get("/v1/applied").await
    }

    /// The OpenAPI document.
    pub async fn openapi(&self) -> Result<serde_json::Value, CliError> {
        self.get("/openapi.json").await
    }

    /// See [`super::Backend::events`]. Each item is one event; the stream ends when the agent does.
    pub async fn events(&self) -> Result<BoxStream<'static, Result<Event, CliError>>, CliError> {
        let response = self
            .send(Method::GET, "/v1/events", Bytes::new(), REQUEST_TIMEOUT)
            .await?;
        if !response.status().is_success() {
            let body = self.body(response).await?;
            return Err(self.refusal(&body));
        }
        let lines = Lines {
            client: self.clone(),
            body: response.into_body(),
            buffer: Vec::new(),
            ended: false,
        };
        Ok(Box::pin(stream::unfold(lines, |mut lines| async move {
            lines.next().await.map(|item| (item, lines))
        })))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, CliError> {
        self.call(Method::POST, path, self.encode(body)?).await
    }

    async fn patch<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, CliError> {
        self.call(Method::PATCH, path, self.encode(body)?).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, CliError> {
        let answer = self
            .ask(method, path, body, REQUEST_TIMEOUT + TIMEOUT_MARGIN)
            .await?;
        self.decode(&answer)
    }

    /// The body of a successful answer.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, CliError> {
        let exchange = async {
            let response = self.send(method, path, body, limit).await?;
            let success = response.status().is_success();
            let body = self.body(response).await?;
            if success {
                Ok(body)
            } else {
                Err(self.refusal(&body))
            }
        };
        timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(self.stuck(limit)))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Response<Incoming>, CliError> {
        let stream = timeout(CONNECT_TIMEOUT, UnixStream::connect(&self.socket))
            .await
            .map_err(|_| self.stuck(CONNECT_TIMEOUT))?
            .map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.foreign(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "weft")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| CliError::failed(format!("this cannot be asked: {error}")))?;
        timeout(limit, sender.send_request(request))
            .await
            .map_err(|_| self.stuck(limit))?
            .map_err(|error| self.foreign(&error))
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, CliError> {
        http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .map_err(|error| self.foreign(&error))
    }

    fn encode<B: Serialize>(&self, body: &B) -> Result<Bytes, CliError> {
        serde_json::to_vec(body)
            .map(Bytes::from)
            .map_err(|error| CliError::failed(format!("this cannot be asked: {error}")))
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, CliError> {
        serde_json::from_slice(body).map_err(|error| self.foreign(&error))
    }

    fn refusal(&self, body: &[u8]) -> CliError {
        match serde_json::from_slice::<ApiError>(body) {
            Ok(error) => CliError::Api(error),
            Err(error) => self.foreign(&error),
        }
    }

    fn unreachable(&self, error: &io::Error) -> CliError {
        let (reason, hint) = match error.kind() {
            io::ErrorKind::NotFound => (
                "there is no such socket".to_owned(),
                "start 'weft agent', or name its socket with --socket or WEFT_SOCKET",
            ),
            // The kernel's answer for a file of any other kind too (unix(7)).
            io::ErrorKind::ConnectionRefused if !is_socket(&self.socket) => (
                "that is not a socket".to_owned(),
                "start 'weft agent', or name its socket with --socket or WEFT_SOCKET",
            ),
            io::ErrorKind::ConnectionRefused => (
                "the agent that made it is gone".to_owned(),
                "start 'weft agent'",
            ),
            io::ErrorKind::PermissionDenied => (
                "permission denied".to_owned(),
                "use sudo, or become a member of the socket's group",
            ),
            _ => (error.to_string(), "see whether 'weft agent' runs"),
        };
        CliError::Unreachable {
            socket: self.socket.clone(),
            reason,
            hint,
        }
    }

    fn stuck(&self, limit: Duration) -> CliError {
        CliError::Api(ApiError::new(
            ErrorCode::TimedOut,
            format!(
                "the agent on {} did not answer within {} s; see its log",
                self.socket.display(),
                limit.as_secs()
            ),
        ))
    }

    /// The answer is none of an agent's, or broke off.
    fn foreign(&self, error: &dyn std::fmt::Display) -> CliError {
        CliError::Unreachable {
            socket: self.socket.clone(),
            reason: format!("what answered is not understood ({error})"),
            hint: "see whether it is weft's socket and whether the agent still runs",
        }
    }
}

/// Splits a body into lines of JSON.
struct Lines {
    client: Client,
    body: Incoming,
    buffer: Vec<u8>,
    ended: bool,
}

impl Lines {
    async fn next(&mut self) -> Option<Result<Event, CliError>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(self.client.decode(&line));
            }
            if self.ended {
                return None;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(_)) | None => {
                    self.ended = true;
                    self.buffer.clear();
                }
            }
            if self.buffer.len() > MAX_EVENT_BYTES && !self.buffer.contains(&b'\n') {
                self.ended = true;
                return Some(Err(self.client.foreign(&"a line without an end")));
            }
        }
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// A path segment: everything but RFC 3986's unreserved characters percent-encoded (section 2.1).
fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
