//! Ports whose connections the data-plane process passes on: `source=proxy-v2`.
//!
//! On the node of a backend such a port leads to a listener of that process instead of a container's
//! leg. It is bound to the host's address on the gateway, which every node has while a port is
//! published and nobody outside speaks to; so it is in nobody's way who listens on all others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use weft_lb::relay::{Listener, Member, Scheduler as RelayScheduler};
use weft_lb::spec::{Address, Backend, Family};
use weft_overlay::gateway::LegAddresses;
use weft_raft::model::{
    Protocol, PublishMode, PublishedPort, Scheduler, Service, SourceMode, View,
};

use super::{Backends, mesh_mtu};

/// Bytes of a segment that are headers: IP without options (RFC 791, RFC 8200) and TCP (RFC 9293).
const HEADERS4: u32 = 20 + 20;
const HEADERS6: u32 = 40 + 20;

/// Whether the data-plane process passes its connections on.
pub(super) fn is_relayed(port: &PublishedPort) -> bool {
    port.source == SourceMode::ProxyV2 && port.protocol == Protocol::Tcp
}

impl Backends {
    /// This node's part of a relayed port: its listener stands for all of its containers. While it
    /// has none that takes connections it is there without weight, so that those which there are can
    /// end as they should.
    pub(super) fn by_relay(
        &self,
        service: &Service,
        port: &PublishedPort,
        family: Family,
    ) -> BTreeMap<Backend, u16> {
        let at = self.listens_at(port, family);
        let at = at.filter(|_| port.mode == PublishMode::Ingress || !self.members.is_empty());
        let weights = self.here.iter().map(|(_, weight)| match service.scheduler {
            Scheduler::RoundRobin => (*weight).min(1),
            _ => *weight,
        });
        let weight = weights.fold(0, u16::saturating_add);
        let backend = |at: SocketAddr| Backend {
            address: at.ip(),
            port: NonZeroU16::new(at.port()),
        };
        at.map(|at| (backend(at), weight)).into_iter().collect()
    }

    /// The listener of a relayed port, where this node has containers of its service.
    pub(super) fn listener(
        &self,
        view: &View,
        service: &Service,
        port: &PublishedPort,
        family: Family,
    ) -> Option<(SocketAddr, Listener)> {
        let relayed = is_relayed(port) && port.published != 0 && !self.members.is_empty();
        let at = self.listens_at(port, family).filter(|_| relayed)?;
        let weight = |leg: &LegAddresses| {
            let mut here = self.here.iter();
            here.find(|(other, _)| other == leg)
                .map_or(0, |(_, weight)| *weight)
        };
        let backends = self.members.iter().map(|(place, leg)| {
            let member = Member {
                weight: weight(leg),
                tag: place.inode,
            };
            (SocketAddr::new(of_leg(leg, family), port.target), member)
        });
        let listener = Listener {
            scheduler: scheduler(service.scheduler),
            affinity_s: service.affinity.map(|affinity| affinity.timeout_s),
            mss: (port.mode == PublishMode::Ingress).then(|| mss(view, family)),
            backends: backends.collect(),
        };
        Some((at, listener))
    }

    /// On nodes with several addresses, one for each of these may be published to different services.
    fn listens_at(&self, port: &PublishedPort, family: Family) -> Option<SocketAddr> {
        let gateway = match family {
            Family::V4 => IpAddr::V4(self.gateway.0),
            Family::V6 => IpAddr::V6(self.gateway.1),
        };
        let address = match (port.mode, self.address(port, family)) {
            (PublishMode::Host, None) => return None,
            (PublishMode::Host, Some(Address::Vip(address))) => address,
            _ => gateway,
        };
        Some(SocketAddr::new(address, port.published))
    }
}

/// A program that listens on one family only is reached all the same: the header has the client's.
fn of_leg(leg: &LegAddresses, family: Family) -> IpAddr {
    match (family, leg.v6) {
        (Family::V6, Some(address)) => address.into(),
        _ => leg.v4.into(),
    }
}

/// Segments that fit the mesh, by which clients may have come.
fn mss(view: &View, family: Family) -> u16 {
    let headers = match family {
        Family::V4 => HEADERS4,
        Family::V6 => HEADERS6,
    };
    let most = mesh_mtu(view).saturating_sub(headers);
    // The kernel takes no more (`MAX_TCP_WINDOW`).
    u16::try_from(most).unwrap_or(u16::MAX).min(32_767)
}

fn scheduler(scheduler: Scheduler) -> RelayScheduler {
    match scheduler {
        Scheduler::RoundRobin => RelayScheduler::RoundRobin,
        Scheduler::WeightedRoundRobin => RelayScheduler::WeightedRoundRobin,
        Scheduler::Random => RelayScheduler::Random,
        Scheduler::SourceHash => RelayScheduler::SourceHash,
        Scheduler::Maglev => RelayScheduler::Maglev,
        Scheduler::LeastConnections => RelayScheduler::LeastConnections,
    }
}
