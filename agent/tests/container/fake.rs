//! An agent that knows endpoints only: it answers on a Unix socket and gives a namespace an
//! interface, and no cluster or overlay stands behind it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use axum::extract::{Path as Segment, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use nix::sched::{CloneFlags, setns};
use rtnetlink::LinkBridge;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use weft_agent::api::types::{ApiError, AttachRequest, Endpoint, EndpointState, ErrorCode, Status};

/// The node that the fake says it is.
pub(crate) const NODE: &str = "aaaaaaaaaaaaaaaa";

/// What the fake was asked and has.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) attached: Vec<AttachRequest>,
    pub(crate) detached: Vec<String>,
}

/// A fake agent; stops when dropped. Its book outlives it.
pub(crate) struct Fake {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    socket: PathBuf,
}

pub(crate) type Shared = Arc<Mutex<Book>>;

impl Fake {
    pub(crate) fn start(socket: &Path, book: &Shared) -> Self {
        let router = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/endpoints", get(list).post(attach))
            .route("/v1/endpoints/{id}", get(inspect).delete(detach))
            .with_state(book.clone());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let path = socket.to_owned();
        let thread = thread::spawn(move || {
            runtime().block_on(async {
                let listener = UnixListener::bind(&path).unwrap();
                ready.send(()).unwrap();
                tokio::select! {
                    result = axum::serve(listener, router) => result.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Self {
            stop: Some(stop),
            thread: Some(thread),
            socket: socket.to_owned(),
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn status() -> Json<Status> {
    Json(Status {
        node: Some(NODE.to_owned()),
        ..Status::default()
    })
}

async fn list(State(book): State<Shared>) -> Json<Vec<Endpoint>> {
    Json(book.lock().unwrap().endpoints.clone())
}

async fn inspect(State(book): State<Shared>, Segment(id): Segment<String>) -> Response {
    let book = book.lock().unwrap();
    let found = book.endpoints.iter().find(|e| e.id == id || e.name == id);
    match found {
        Some(endpoint) => Json(endpoint.clone()).into_response(),
        None => refuse(ApiError::not_found(format!("no endpoint `{id}`"))),
    }
}

async fn attach(State(book): State<Shared>, Json(request): Json<AttachRequest>) -> Response {
    let endpoint = {
        let mut book = book.lock().unwrap();
        book.attached.push(request.clone());
        if request.network == "missing" {
            return refuse(ApiError::not_found("no network `missing`"));
        }
        if request.network == "taken" {
            return refuse(ApiError::new(ErrorCode::Conflict, "the name is taken"));
        }
        endpoint_for(&request, &book)
    };
    let netns = request.netns.unwrap();
    let (ifname, mac) = (endpoint.ifname.clone(), endpoint.mac.clone());
    thread::spawn(move || add_interface(&netns, &ifname, &mac))
        .join()
        .unwrap();
    book.lock().unwrap().endpoints.push(endpoint.clone());
    Json(endpoint).into_response()
}

async fn detach(State(book): State<Shared>, Segment(id): Segment<String>) -> Response {
    let endpoint = {
        let mut book = book.lock().unwrap();
        let Some(place) = book.endpoints.iter().position(|e| e.id == id) else {
            return refuse(ApiError::not_found(format!("no endpoint `{id}`")));
        };
        book.detached.push(id);
        book.endpoints.remove(place)
    };
    let (netns, ifname) = (PathBuf::from(&endpoint.netns), endpoint.ifname.clone());
    thread::spawn(move || remove_interface(&netns, &ifname))
        .join()
        .unwrap();
    Json(endpoint).into_response()
}

fn refuse(error: ApiError) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap();
    (status, Json(error)).into_response()
}

fn endpoint_for(request: &AttachRequest, book: &Book) -> Endpoint {
    let number = book.attached.len() as u8;
    let netns = request.netns.clone().unwrap().to_str().unwrap().to_owned();
    let here = book.endpoints.iter().filter(|e| e.netns == netns).count();
    let ipv4 = request.ip.unwrap_or([10, 0, 1, number + 1].into());
    let [a, b, c, d] = ipv4.octets();
    Endpoint {
        id: format!("endpoint{number}"),
        name: request
            .name
            .clone()
            .unwrap_or_else(|| format!("name{number}")),
        network: request.network.clone(),
        network_id: "network".to_owned(),
        node: "here".to_owned(),
        node_id: NODE.to_owned(),
        ipv4: Some(ipv4),
        ipv6: None,
        mac: request.mac.map_or_else(
            || format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
            |mac| mac.to_string(),
        ),
        ifname: format!("eth{here}"),
        service: None,
        weight: 1,
        backend: None,
        backend_error: None,
        state: EndpointState::Ready,
        error: None,
        notice: None,
        aliases: request.aliases.clone(),
        labels: request.labels.clone(),
        kind: request.kind.clone(),
        netns,
        revision: u64::from(number),
    }
}

/// On a thread of its own, which is lost to the namespace.
fn add_interface(netns: &Path, ifname: &str, mac: &str) {
    let mac: weft_raft::model::MacAddr = mac.parse().unwrap();
    setns(
        std::fs::File::open(netns).unwrap(),
        CloneFlags::CLONE_NEWNET,
    )
    .unwrap();
    runtime().block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let link = LinkBridge::new(ifname).address(mac.0.to_vec()).up().build();
        handle.link().add(link).execute().await.unwrap();
    });
}

fn remove_interface(netns: &Path, ifname: &str) {
    let Ok(namespace) = std::fs::File::open(netns) else {
        return;
    };
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
    runtime().block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        if let Ok(index) = nix::net::if_::if_nametoindex(ifname) {
            let _ = handle.link().del(index).execute().await;
        }
    });
}
