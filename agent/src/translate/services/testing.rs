//! Views with services, for tests.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use weft_raft::model::*;

use super::*;
use crate::translate::tests::{endpoint, network, node};

const BOOT: &str = "this boot";
pub(crate) const HERE: Here<'static> = Here {
    node: NodeId::new([1; 10]),
    boot_id: BOOT,
    host: Identity {
        device: 4,
        inode: 999,
    },
};

/// A service on networks, with the address `.200` of each.
pub(crate) fn service(number: u8, networks: &[u8]) -> Service {
    Service {
        id: ServiceId::new([number; 10]),
        name: format!("s{number}"),
        networks: networks.iter().map(|n| on(*n, number)).collect(),
        ports: Vec::new(),
        mode: EndpointMode::Vip,
        scheduler: Scheduler::RoundRobin,
        affinity: None,
        drain_timeout_ms: 0,
        idle_timeout_s: None,
        health: None,
        labels: Labels::new(),
        revision: 1,
        ends_with_endpoints: false,
    }
}

pub(crate) fn on(network: u8, service: u8) -> ServiceNetwork {
    ServiceNetwork {
        network: NetworkId::new([network; 10]),
        vip: Some(vip(network, service).1),
    }
}

pub(crate) fn vip(network: u8, service: u8) -> Vip {
    let address = Ipv4Addr::new(10, 0, network, 200 + service);
    (NetworkId::new([network; 10]), address)
}

/// A container's endpoint; `number` is the namespace, too.
pub(crate) fn client(number: u8, network: u8, on: u8) -> Endpoint {
    let mut row = endpoint(number, network, on);
    row.attachment.boot_id = BOOT.to_owned();
    row
}

pub(crate) fn member(number: u8, network: u8, on: u8, service: u8) -> Endpoint {
    Endpoint {
        service: Some(ServiceId::new([service; 10])),
        backend: BackendState::Ready,
        ..client(number, network, on)
    }
}

pub(crate) fn place(number: u8) -> Identity {
    Identity {
        device: 4,
        inode: number.into(),
    }
}

/// A view and what it is kept in step with.
pub(crate) struct Known {
    pub(crate) view: View,
    pub(crate) index: ServiceIndex,
}

impl Known {
    /// Three nodes, networks 1 and 2, and what is given.
    pub(crate) fn of(services: &[Service], endpoints: &[Endpoint]) -> Self {
        let mut known = Self {
            view: View::default(),
            index: ServiceIndex::default(),
        };
        let rows = [1, 2].map(|n| Change::Network(Arc::new(network(n))));
        known.apply(&rows);
        let rows = [1, 2, 3].map(|n| Change::Node(Arc::new(node(n, 1500))));
        known.apply(&rows);
        for service in services {
            known.apply(&[Change::Service(Arc::new(service.clone()))]);
        }
        for endpoint in endpoints {
            known.put(endpoint.clone());
        }
        known
    }

    pub(crate) fn put(&mut self, endpoint: Endpoint) -> ServicesDirty {
        self.apply(&[Change::Endpoint(Arc::new(endpoint))])
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) -> ServicesDirty {
        let dirty = self.index.apply(&self.view, changes);
        self.view.apply(self.view.revision + 1, changes);
        dirty
    }

    pub(crate) fn spec(&self, number: u8) -> Spec {
        let container = container(&self.view, &self.index, HERE, place(number)).unwrap();
        container_services(&self.view, &self.index, &container)
    }

    /// Last byte of each backend's address, and its weight.
    pub(crate) fn backends(&self, number: u8, vip: Vip) -> Vec<(u8, u16)> {
        let backends = &self.spec(number)[&key(vip)].backends;
        let last = |address: IpAddr| match address {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        };
        backends
            .iter()
            .map(|(backend, weight)| (last(backend.address), *weight))
            .collect()
    }
}

pub(crate) fn dirty(vips: &[Vip], places: &[(u8, u8)]) -> ServicesDirty {
    ServicesDirty {
        all: false,
        departed: BTreeSet::new(),
        loads: BTreeSet::new(),
        vips: vips.iter().copied().collect(),
        places: places
            .iter()
            .map(|(on, number)| (NodeId::new([*on; 10]), place(*number)))
            .collect(),
    }
}
