use std::collections::BTreeSet;
use std::os::unix::net::UnixStream as BlockingStream;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::api::fake::{Served, a_network, a_node, a_status, an_endpoint, some_events};
use crate::api::types::*;
use crate::exit::CliError;

/// Every operation of the API, with a body where it takes one.
fn operations() -> Vec<(&'static str, &'static str, Option<Value>)> {
    vec![
        ("GET", "/v1/status", None),
        ("POST", "/v1/init", Some(json!({}))),
        (
            "POST",
            "/v1/join",
            Some(json!({"token": "t", "remotes": ["h"]})),
        ),
        ("POST", "/v1/leave", Some(json!({"force": true}))),
        ("GET", "/v1/tokens/worker", None),
        ("POST", "/v1/tokens/manager/rotate", None),
        ("GET", "/v1/nodes", None),
        ("GET", "/v1/nodes/h1", None),
        ("GET", "/v1/networks", None),
        ("POST", "/v1/networks", Some(json!({"name": "web"}))),
        ("GET", "/v1/networks/web", None),
        (
            "PATCH",
            "/v1/networks/web",
            Some(json!({"encrypted": true})),
        ),
        ("DELETE", "/v1/networks/web", None),
        ("GET", "/v1/endpoints", None),
        (
            "POST",
            "/v1/endpoints",
            Some(json!({"network": "web", "pid": 7})),
        ),
        ("GET", "/v1/endpoints/api.web", None),
        ("PATCH", "/v1/endpoints/api.web", Some(json!({"weight": 2}))),
        ("DELETE", "/v1/endpoints/api.web?force=true", None),
        ("GET", "/v1/services", None),
        (
            "POST",
            "/v1/services",
            Some(json!({"name": "front", "networks": ["web"]})),
        ),
        ("GET", "/v1/services/front", None),
        (
            "PATCH",
            "/v1/services/front",
            Some(json!({"scheduler": "rr"})),
        ),
        ("DELETE", "/v1/services/front", None),
        ("POST", "/v1/wait", Some(json!({"revision": 1}))),
        ("GET", "/v1/events", None),
        ("GET", "/v1/applied", None),
    ]
}

/// Status and body of one request as it is on the wire.
async fn raw(served: &Served, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(served.path()).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

async fn asked(served: &Served, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let body = body.map_or_else(String::new, Value::to_string);
    raw(served, method, path, &body).await
}

#[tokio::test]
async fn every_operation_reaches_the_backend() {
    let served = Served::start();
    for (count, (method, path, body)) in operations().into_iter().enumerate() {
        let (status, text) = asked(&served, method, path, body.as_ref()).await;
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {text}"
        );
        assert_eq!(served.fake.asked().len(), count + 1, "{method} {path}");
    }
}

#[tokio::test]
async fn the_document_lists_every_operation_and_every_schema() {
    let served = Served::start();
    let document = served.client.openapi().await.unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let served_here: BTreeSet<(String, String)> = operations()
        .into_iter()
        .map(|(method, path, _)| (method.to_owned(), template(path)))
        .collect();
    assert_eq!(described, served_here);

    let schemas: BTreeSet<&str> = document["components"]["schemas"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    for name in [
        "Affinity",
        "ApiError",
        "Applied",
        "AttachRequest",
        "Availability",
        "BackendState",
        "Certificate",
        "DataplaneStatus",
        "DnsStatus",
        "EncryptionStatus",
        "Endpoint",
        "EndpointMode",
        "EndpointState",
        "EndpointUpdateRequest",
        "ErrorCode",
        "Event",
        "EventAction",
        "EventObject",
        "EventType",
        "Feature",
        "HealthCheck",
        "HealthUpdate",
        "InitRequest",
        "JoinRequest",
        "Joined",
        "Kind",
        "LeaveRequest",
        "Managers",
        "Network",
        "NetworkCreateRequest",
        "Node",
        "NodeStatus",
        "Peer",
        "Port",
        "PortKey",
        "Probe",
        "Problem",
        "Protocol",
        "PublishMode",
        "PublishRequest",
        "Role",
        "Scheduler",
        "Service",
        "ServiceAnswer",
        "ServiceCreateRequest",
        "ServiceEndpoint",
        "ServiceNetwork",
        "ServiceUpdateRequest",
        "SourceMode",
        "Status",
        "Subnet",
        "Token",
        "WaitRequest",
        "Warning",
    ] {
        assert!(schemas.contains(name), "{name} is not in {schemas:?}");
    }
    every_reference_resolves(&document, &document);
}

/// The path with what names an object replaced by its parameter.
fn template(path: &str) -> String {
    let path = path.split('?').next().unwrap();
    let words: Vec<&str> = path.split('/').collect();
    match words.as_slice() {
        ["", "v1", "tokens", _] => "/v1/tokens/{role}".into(),
        ["", "v1", "tokens", _, "rotate"] => "/v1/tokens/{role}/rotate".into(),
        ["", "v1", list, _] => format!("/v1/{list}/{{{}}}", list.trim_end_matches('s')),
        _ => path.into(),
    }
}

fn every_reference_resolves(value: &Value, document: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            map.values()
                .for_each(|v| every_reference_resolves(v, document));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|v| every_reference_resolves(v, document)),
        _ => {}
    }
}

#[tokio::test]
async fn a_refusal_keeps_its_code_from_the_backend_to_the_exit_status() {
    let served = Served::start();
    for (code, http, exit) in [
        (ErrorCode::Invalid, 400, 1),
        (ErrorCode::NotFound, 404, 1),
        (ErrorCode::Conflict, 409, 1),
        (ErrorCode::InUse, 409, 1),
        (ErrorCode::Exhausted, 503, 1),
        (ErrorCode::NotMember, 409, 1),
        (ErrorCode::AlreadyMember, 409, 1),
        (ErrorCode::NoLeader, 503, 4),
        (ErrorCode::TimedOut, 504, 4),
        (ErrorCode::Unsupported, 501, 1),
        (ErrorCode::Failed, 500, 1),
    ] {
        served.fake.refuse(code);
        for (method, path, body) in operations() {
            let (status, text) = asked(&served, method, path, body.as_ref()).await;
            assert_eq!(status, http, "{method} {path}");
            let error: ApiError = serde_json::from_str(&text).unwrap();
            assert_eq!(error, ApiError::new(code, format!("refused: {code:?}")));
        }
        let error = served.client.nodes().await.unwrap_err();
        assert_eq!(error.status(), exit, "{error}");
        let Err(error) = served.client.events().await else {
            panic!("a refused stream of events was begun");
        };
        assert_eq!(error.status(), exit, "{error}");
    }
}

#[tokio::test]
async fn what_the_client_sends_is_what_the_backend_gets_and_back() {
    let served = Served::start();
    let client = &served.client;
    assert_eq!(client.status().await.unwrap(), a_status());
    assert_eq!(client.node("h1").await.unwrap(), a_node());
    assert_eq!(client.networks().await.unwrap(), [a_network()]);
    assert_eq!(client.endpoint("api.web").await.unwrap(), an_endpoint());
    client.node("a/b ?#%").await.unwrap();
    client.detach("api", true).await.unwrap();
    client.token(Role::Manager, true).await.unwrap();
    client.leave(&LeaveRequest { force: true }).await.unwrap();
    let mut request = AttachRequest::new("web");
    request.pid = Some(7);
    request.mac = Some("02:42:0a:00:01:02".parse().unwrap());
    client.attach(&request).await.unwrap();
    let wait = WaitRequest {
        endpoint: Some("api".into()),
        timeout_ms: Some(1500),
        ..WaitRequest::default()
    };
    assert_eq!(client.wait(&wait).await.unwrap(), 42);
    assert_eq!(
        served.fake.asked()[4..],
        [
            "node a/b ?#%".to_owned(),
            "detach api true".to_owned(),
            "token manager true".to_owned(),
            "LeaveRequest { force: true }".to_owned(),
            format!("{request:?}"),
            "wait Endpoint(\"api\") 1.5s".to_owned(),
        ]
    );
    let events: Vec<Event> = client
        .events()
        .await
        .unwrap()
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(events, some_events());
}

#[tokio::test]
async fn a_request_that_is_not_understood_is_refused_in_one_line_and_not_asked() {
    let served = Served::start();
    for (method, path, body) in [
        ("POST", "/v1/networks", "{"),
        ("POST", "/v1/networks", "[]"),
        ("POST", "/v1/networks", r#"{"name":"web","encryptd":true}"#),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"web","subnets":["10.0.0.0/33"]}"#,
        ),
        ("POST", "/v1/endpoints", r#"{"network":"web","mac":"1:2"}"#),
        ("POST", "/v1/endpoints", r#"{"pid":7}"#),
        ("DELETE", "/v1/endpoints/api?force=perhaps", ""),
        ("POST", "/v1/wait", "{}"),
        ("POST", "/v1/wait", r#"{"revision":1,"endpoint":"api"}"#),
        (
            "POST",
            "/v1/wait",
            r#"{"service":"front","endpoint":"api"}"#,
        ),
        (
            "POST",
            "/v1/services",
            r#"{"name":"front","ports":[{"published":80}]}"#,
        ),
        (
            "POST",
            "/v1/services",
            r#"{"name":"front","ports":[{"target":65536}]}"#,
        ),
        (
            "POST",
            "/v1/services",
            r#"{"name":"front","ports":[{"target":80,"protocol":"sctp"}]}"#,
        ),
        (
            "POST",
            "/v1/services",
            r#"{"name":"front","scheduler":"best"}"#,
        ),
        (
            "POST",
            "/v1/services",
            r#"{"name":"front","health":{"probe":{"type":"icmp"}}}"#,
        ),
        ("PATCH", "/v1/services/front", r#"{"endpoint_mode":"vip"}"#),
        ("PATCH", "/v1/endpoints/api", r#"{"weight":65536}"#),
        ("PATCH", "/v1/endpoints/api", r#"{"weight":-1}"#),
        ("POST", "/v1/wait", r#"{"revision":1,"timeout_ms":3600001}"#),
    ] {
        let (status, text) = raw(&served, method, path, body).await;
        assert_eq!(status, 400, "{method} {path} {body}: {text}");
        let error: ApiError = serde_json::from_str(&text).unwrap();
        assert_eq!(error.code, ErrorCode::Invalid);
        assert!(!error.message.contains('\n'), "{error}");
    }
    assert_eq!(raw(&served, "GET", "/v1/stacks", "").await.0, 404);
    assert_eq!(raw(&served, "GET", "/v1/tokens/king", "").await.0, 404);
    assert_eq!(raw(&served, "PUT", "/v1/status", "").await.0, 405);
    assert_eq!(served.fake.asked(), [""; 0]);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let served = Served::start();
    let long = json!({"name": "x".repeat(MAX_BODY_BYTES)}).to_string();
    let (status, text) = raw(&served, "POST", "/v1/networks", &long).await;
    assert_eq!(status, 400, "{text}");
    assert_eq!(served.fake.asked(), [""; 0]);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_and_the_others_answered() {
    let served = Served::start();
    served.fake.hold(true);
    let taken = futures_util::future::join_all((0..MAX_REQUESTS).map(|_| served.client.nodes()));
    let beyond = async {
        while served.fake.asked().len() < MAX_REQUESTS {
            tokio::task::yield_now().await;
        }
        let refused = served.client.nodes().await.unwrap_err();
        served.fake.hold(false);
        refused
    };
    let (taken, refused) = tokio::join!(taken, beyond);
    assert!(taken.iter().all(Result::is_ok));
    assert!(
        matches!(&refused, CliError::Api(error) if error.code == ErrorCode::Exhausted),
        "{refused}"
    );
    assert!(served.client.nodes().await.is_ok());
}

#[tokio::test]
async fn a_stop_ends_event_streams_and_removes_the_socket() {
    let served = Served::start();
    served.fake.never_end_events();
    let mut events = served.client.events().await.unwrap();
    events.next().await.unwrap().unwrap();
    let (_dir, path) = served.stop().await;
    assert!(!path.exists());
    let rest: Vec<_> = events.collect().await;
    assert_eq!(rest.len(), some_events().len() - 1);
}

#[tokio::test]
async fn a_missing_or_dead_or_foreign_agent_is_exit_status_3_with_what_to_do() {
    let served = Served::start();
    let client = served.client.clone();
    let (dir, path) = served.stop().await;
    let error = client.nodes().await.unwrap_err();
    assert_eq!(error.status(), 3);
    assert!(error.to_string().contains("start 'weft agent'"), "{error}");

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = client.nodes().await.unwrap_err();
    assert_eq!(error.status(), 3);
    assert!(error.to_string().contains("gone"), "{error}");

    let other = dir.path().join("other.sock");
    let listener = UnixListener::bind(&other).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
    });
    let error = crate::api::client::Client::new(&other)
        .nodes()
        .await
        .unwrap_err();
    assert_eq!(error.status(), 3);
    assert!(error.to_string().contains("not understood"), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}

#[tokio::test]
async fn a_client_that_sends_nothing_does_not_keep_the_agent_from_stopping() {
    let served = Served::start();
    let idle = BlockingStream::connect(served.path()).unwrap();
    served.client.nodes().await.unwrap();
    served.stop().await;
    drop(idle);
}
