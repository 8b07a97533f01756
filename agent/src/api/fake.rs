//! A backend for tests: answers from constants, notes what it was asked, refuses on demand.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::client::Client;
use super::socket::ApiSocket;
use super::types::*;
use super::{Backend, Events, Reply, WaitFor, server};

/// See the module.
#[derive(Default)]
pub(crate) struct Fake {
    asked: Mutex<Vec<String>>,
    refuse: Mutex<Option<ErrorCode>>,
    held: watch::Sender<bool>,
    endless_events: Mutex<bool>,
}

impl Fake {
    /// The operations so far, with their arguments.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// From here on every operation is refused.
    pub(crate) fn refuse(&self, code: ErrorCode) {
        *self.refuse.lock().unwrap() = Some(code);
    }

    /// Whether operations are kept from ending.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// From here on event streams do not end by themselves.
    pub(crate) fn never_end_events(&self) {
        *self.endless_events.lock().unwrap() = true;
    }

    fn reply<T: Send + 'static>(&self, asked: String, answer: T) -> Reply<'_, T> {
        self.asked.lock().unwrap().push(asked);
        let refuse = *self.refuse.lock().unwrap();
        let mut held = self.held.subscribe();
        async move {
            held.wait_for(|held| !held).await.unwrap();
            match refuse {
                Some(code) => Err(ApiError::new(code, format!("refused: {code:?}"))),
                None => Ok(answer),
            }
        }
        .boxed()
    }
}

impl Backend for Fake {
    fn status(&self) -> Reply<'_, Status> {
        self.reply("status".into(), a_status())
    }
    fn init(&self, request: InitRequest) -> Reply<'_, Joined> {
        self.reply(format!("{request:?}"), a_joined())
    }
    fn join(&self, request: JoinRequest) -> Reply<'_, Joined> {
        self.reply(format!("{request:?} {}", request.token), a_joined())
    }
    fn leave(&self, request: LeaveRequest) -> Reply<'_, ()> {
        self.reply(format!("{request:?}"), ())
    }
    fn token(&self, role: Role, rotate: bool) -> Reply<'_, Token> {
        self.reply(format!("token {role} {rotate}"), a_token(role))
    }
    fn nodes(&self) -> Reply<'_, Vec<Node>> {
        self.reply("nodes".into(), vec![a_node()])
    }
    fn node(&self, node: String) -> Reply<'_, Node> {
        self.reply(format!("node {node}"), a_node())
    }
    fn networks(&self) -> Reply<'_, Vec<Network>> {
        self.reply("networks".into(), vec![a_network()])
    }
    fn network(&self, network: String) -> Reply<'_, Network> {
        self.reply(format!("network {network}"), a_network())
    }
    fn network_create(&self, request: NetworkCreateRequest) -> Reply<'_, Network> {
        self.reply(format!("{request:?}"), a_network())
    }
    fn network_update(&self, network: String, request: NetworkUpdateRequest) -> Reply<'_, Network> {
        self.reply(format!("{network} {request:?}"), a_network())
    }
    fn network_remove(&self, network: String) -> Reply<'_, Network> {
        self.reply(format!("network_remove {network}"), a_network())
    }
    fn endpoints(&self) -> Reply<'_, Vec<Endpoint>> {
        self.reply("endpoints".into(), vec![an_endpoint()])
    }
    fn endpoint(&self, endpoint: String) -> Reply<'_, Endpoint> {
        self.reply(format!("endpoint {endpoint}"), an_endpoint())
    }
    fn attach(&self, request: AttachRequest) -> Reply<'_, Endpoint> {
        self.reply(format!("{request:?}"), an_endpoint())
    }
    fn endpoint_update(
        &self,
        endpoint: String,
        request: EndpointUpdateRequest,
    ) -> Reply<'_, Endpoint> {
        self.reply(format!("{endpoint} {request:?}"), an_endpoint())
    }
    fn detach(&self, endpoint: String, force: bool) -> Reply<'_, Endpoint> {
        self.reply(format!("detach {endpoint} {force}"), an_endpoint())
    }
    fn services(&self) -> Reply<'_, Vec<Service>> {
        self.reply("services".into(), vec![a_service()])
    }
    fn service(&self, service: String) -> Reply<'_, Service> {
        self.reply(format!("service {service}"), a_service())
    }
    fn service_create(&self, request: ServiceCreateRequest) -> Reply<'_, ServiceAnswer> {
        self.reply(format!("{request:?}"), a_service_answer())
    }
    fn service_update(
        &self,
        service: String,
        request: ServiceUpdateRequest,
    ) -> Reply<'_, ServiceAnswer> {
        self.reply(format!("{service} {request:?}"), a_service_answer())
    }
    fn service_remove(&self, service: String) -> Reply<'_, Service> {
        self.reply(format!("service_remove {service}"), a_service())
    }
    fn wait(&self, what: WaitFor, timeout: Duration) -> Reply<'_, u64> {
        self.reply(format!("wait {what:?} {timeout:?}"), 42)
    }
    fn events(&self) -> Reply<'_, Events> {
        let first = stream::iter(some_events());
        let events: Events = if *self.endless_events.lock().unwrap() {
            first.chain(stream::pending()).boxed()
        } else {
            first.boxed()
        };
        self.reply("events".into(), events)
    }
    fn applied(&self) -> Reply<'_, Vec<Applied>> {
        let node = a_node();
        let applied = Applied {
            node: node.id,
            name: node.name,
            revision: 41,
        };
        self.reply("applied".into(), vec![applied])
    }
}

/// A [`Fake`] behind a real socket.
pub(crate) struct Served {
    pub(crate) fake: Arc<Fake>,
    pub(crate) client: Client,
    dir: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Served {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft.sock");
        let socket = ApiSocket::bind(&path).unwrap();
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(server::serve(socket, fake.clone(), shutdown));
        Self {
            fake,
            client: Client::new(path),
            dir,
            stop,
            task,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.client.socket()
    }

    /// Stops serving; the directory stays until the answer is dropped.
    pub(crate) async fn stop(self) -> (tempfile::TempDir, PathBuf) {
        let path = self.path().to_owned();
        drop(self.stop);
        self.task.await.unwrap().unwrap();
        (self.dir, path)
    }
}

pub(crate) fn a_node() -> Node {
    Node {
        id: "aaaaaaaaaaaaaaaa".into(),
        name: "h1".into(),
        is_self: true,
        role: Role::Manager,
        leader: true,
        status: NodeStatus::Ready,
        availability: Availability::Active,
        addr: "192.0.2.1:2377".parse().unwrap(),
        data_path_addr: "192.0.2.1".parse().unwrap(),
        underlay_mtu: 1500,
        narrow_paths: [("9f2c".to_owned(), 1400)].into(),
        version: "0.1.0".into(),
        labels: [("rack".to_owned(), "1".to_owned())].into(),
        revision: 7,
        addresses: vec!["192.0.2.1".parse().unwrap()],
        warnings: vec!["a firewall".into()],
    }
}

pub(crate) fn a_network() -> Network {
    Network {
        id: "bbbbbbbbbbbbbbbb".into(),
        name: "web".into(),
        driver: "overlay".into(),
        vni: Some(4097),
        subnets: vec![Subnet {
            cidr: "10.0.1.0/24".parse().unwrap(),
            gateway: "10.0.1.1".parse().unwrap(),
            ip_range: None,
            used: 1,
            free: 252,
        }],
        routes: vec![Route {
            destination: "172.16.0.0/12".parse().unwrap(),
            via: "10.0.1.9".parse().unwrap(),
        }],
        aux_addresses: Default::default(),
        mtu: 1450,
        encrypted: false,
        internal: false,
        multicast: false,
        ingress: false,
        allow_overlap: false,
        labels: [].into(),
        error: None,
        warnings: vec!["MTU 1450 does not fit".into()],
        revision: 8,
    }
}

pub(crate) fn an_endpoint() -> Endpoint {
    Endpoint {
        id: "cccccccccccccccc".into(),
        name: "api".into(),
        network: "web".into(),
        network_id: "bbbbbbbbbbbbbbbb".into(),
        node: "h1".into(),
        node_id: "aaaaaaaaaaaaaaaa".into(),
        ipv4: Some("10.0.1.2".parse().unwrap()),
        ipv6: None,
        mac: "02:42:0a:00:01:02".into(),
        ifname: "eth0".into(),
        service: Some("front".into()),
        weight: 1,
        backend: Some(BackendState::Ready),
        backend_error: None,
        state: EndpointState::Ready,
        error: None,
        notice: None,
        aliases: vec!["backend".into()],
        labels: [].into(),
        kind: Kind::Run {
            command: vec!["sleep".into(), "9".into()],
            detached: true,
        },
        netns: "/proc/7/ns/net".into(),
        revision: 9,
    }
}

pub(crate) fn a_service() -> Service {
    Service {
        id: "ffffffffffffffff".into(),
        name: "front".into(),
        networks: vec![ServiceNetwork {
            name: "web".into(),
            id: "bbbbbbbbbbbbbbbb".into(),
            vip: Some("10.0.1.3".parse().unwrap()),
        }],
        ports: vec![Port {
            published: 8080,
            target: 80,
            protocol: Protocol::Tcp,
            mode: PublishMode::Ingress,
            ip: None,
            source: SourceMode::Preserve,
            allow_from: vec!["192.0.2.0/24".parse().unwrap()],
        }],
        mode: EndpointMode::Vip,
        scheduler: Scheduler::LeastConn,
        affinity: Affinity::ClientIp { timeout_s: 600 },
        drain_timeout_ms: 10_000,
        idle_timeout_s: None,
        health: Some(HealthCheck {
            probe: Probe::Http {
                port: 80,
                path: "/healthz".into(),
            },
            interval_ms: 1000,
            timeout_ms: 1000,
            retries: 3,
        }),
        endpoints: vec![ServiceEndpoint {
            id: "cccccccccccccccc".into(),
            name: "api".into(),
            network: "web".into(),
            node: "h1".into(),
            ipv4: Some("10.0.1.2".parse().unwrap()),
            ipv6: None,
            weight: 1,
            state: BackendState::Ready,
            connections: Some(7),
            totals: Some(a_total()),
            numbers_error: None,
        }],
        connections: Some(7),
        totals: Some(a_total()),
        labels: [].into(),
        ends_with_endpoints: false,
        revision: 10,
        warnings: vec![a_warning()],
    }
}

fn a_warning() -> Warning {
    Warning {
        node: Some("h1".into()),
        message: "port 8080 is in use".into(),
    }
}

fn a_total() -> Totals {
    Totals {
        connections: 1200,
        packets_in: 10_000,
        bytes_in: 1 << 20,
        packets_out: 11_000,
        bytes_out: 5 << 40,
    }
}

fn a_service_answer() -> ServiceAnswer {
    ServiceAnswer {
        service: a_service(),
        warnings: vec![a_warning()],
    }
}

pub(crate) fn a_status() -> Status {
    Status {
        node: Some("aaaaaaaaaaaaaaaa".into()),
        name: Some("h1".into()),
        cluster: Some("dddddddddddddddd".into()),
        role: Some(Role::Manager),
        leader: Some("eeeeeeeeeeeeeeee".into()),
        pid: 4711,
        version: "0.1.0".into(),
        revision: 42,
        applied: 41,
        managers: Managers {
            total: 3,
            reachable: 2,
            needed: 2,
        },
        peers: vec![Peer {
            node: "eeeeeeeeeeeeeeee".into(),
            name: "h2".into(),
            addr: "192.0.2.2:2377".parse().unwrap(),
            role: Role::Manager,
            reachable: Some(true),
            rtt_us: Some(1234),
            applied: None,
        }],
        features: vec![Feature {
            name: "vxlan".into(),
            present: false,
            hint: Some("load the module: modprobe vxlan".into()),
        }],
        problems: vec![Problem {
            object: "network web".into(),
            message: "no vxlan".into(),
        }],
        warnings: vec!["a firewall".into()],
        drops: [("control.malformed".to_owned(), 3)].into(),
        certificate: Some(Certificate {
            not_after: 2,
            expires_in_s: 7_000_000,
        }),
        dns: Some(DnsStatus {
            serving: 2,
            failed: 1,
            upstreams: vec!["192.0.2.53".into()],
            error: None,
            queries: [("answered".to_owned(), 7)].into(),
        }),
        dataplane: Some(DataplaneStatus {
            pid: 4712,
            version: "0.1.0".into(),
            connections: 5,
            refused: 1,
            unreachable: 2,
            lost: 3,
        }),
        encryption: Some(EncryptionStatus {
            path: "userspace".into(),
            form: Some("port".into()),
            error: None,
            peers: vec![ProtectedPeer {
                node: "eeeeeeeeeeeeeeee".into(),
                name: "h2".into(),
                vtep: "192.0.2.2".parse().unwrap(),
                remote: Some("192.0.2.2:4500".parse().unwrap()),
                state: ProtectionState::Protected,
                reason: None,
                epoch_out: Some(3),
                epoch_in: Some(4),
                age_s: Some(600),
                packets_out: 10,
                bytes_out: 1000,
                packets_in: 20,
                bytes_in: 2000,
                drops: [("replayed".to_owned(), 1)].into(),
                last_received_ms: Some(15),
            }],
            strays: [("unknown_spi".to_owned(), 2)].into(),
            clear_dropped_in: 4,
            clear_dropped_out: 0,
        }),
    }
}

fn a_joined() -> Joined {
    Joined {
        node: "aaaaaaaaaaaaaaaa".into(),
        name: "h1".into(),
        cluster: "dddddddddddddddd".into(),
        role: Role::Worker,
        addr: "192.0.2.1:2377".parse().unwrap(),
    }
}

fn a_token(role: Role) -> Token {
    Token {
        role,
        token: "WFTKN-1-abc-def".into(),
        managers: vec!["192.0.2.1:2377".parse().unwrap()],
    }
}

pub(crate) fn some_events() -> Vec<Event> {
    vec![
        Event {
            revision: 9,
            object_type: EventType::Endpoint,
            action: EventAction::Created,
            id: "cccccccccccccccc".into(),
            name: Some("api".into()),
            object: Some(EventObject::Endpoint(Box::new(an_endpoint()))),
        },
        Event {
            revision: 10,
            object_type: EventType::Network,
            action: EventAction::Removed,
            id: "bbbbbbbbbbbbbbbb".into(),
            name: Some("web".into()),
            object: None,
        },
        Event {
            revision: 11,
            object_type: EventType::Service,
            action: EventAction::Created,
            id: "ffffffffffffffff".into(),
            name: Some("front".into()),
            object: Some(EventObject::Service(Box::new(a_service()))),
        },
    ]
}
