//! Flows of services, as connection tracking has them.
//!
//! A flow keeps its backend for as long as it is tracked, whatever the table says since. So flows of
//! a backend that vanished have to be forgotten. Then the next datagram of a UDP flow goes to
//! another backend, and the next segment of a TCP connection to one that knows nothing of it and
//! answers with a reset, or to none, where the table does. (The latter needs
//! `net.netfilter.nf_conntrack_tcp_loose`, which is on by default.) A backend that is drained keeps
//! its flows; nothing is forgotten then.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use weft_netns::Netns;
use weft_netns::conntrack::{Conntrack, Flow, Match};
use weft_netns::nft::{Cause, NftError};

use crate::layout::protocol_number;
use crate::spec::{Address, Backend, Family, Ports, Protocol, ServiceKey};

/// How many flows each backend of each service has.
pub type Counts = BTreeMap<ServiceKey, BTreeMap<Backend, u64>>;

/// Connection tracking of one network namespace.
///
/// Its calls block, for some milliseconds: the kernel goes through the flows of all namespaces for
/// each.
#[derive(Debug)]
pub struct Flows {
    conntrack: Conntrack,
}

/// Flows could not be read or forgotten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlowsError {
    /// The kernel cannot do it.
    #[error(
        "flows need connection tracking over netlink: use a kernel with CONFIG_NF_CT_NETLINK, or \
         load the module nf_conntrack_netlink ({0})"
    )]
    Unsupported(#[source] NftError),
    /// The process may not do it.
    #[error("flows need CAP_NET_ADMIN in their network namespace ({0})")]
    NotPermitted(#[source] NftError),
    /// A request failed for another reason.
    #[error("flows could not be {what}: {source}")]
    Failed {
        /// `counted` or `forgotten`.
        what: &'static str,
        /// What failed.
        source: NftError,
    },
}

impl Flows {
    /// Opens the connection tracking of a namespace; changes nothing.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the kernel has no netfilter netlink.
    pub fn open(netns: &Netns) -> Result<Self, FlowsError> {
        let conntrack = Conntrack::open_in(netns).map_err(failed("read"))?;
        Ok(Self { conntrack })
    }

    /// Forgets the flows of a backend that is gone, of all protocols if it has no port: those to
    /// one service, or all. To be called after the table has changed, or they may choose it again.
    ///
    /// # Errors
    /// [`FlowsError`].
    pub fn forget(
        &mut self,
        backend: &Backend,
        service: Option<&ServiceKey>,
    ) -> Result<(), FlowsError> {
        for wanted in matches(backend, service) {
            let outcome = self.conntrack.forget(&wanted);
            outcome.map_err(failed("forgotten"))?;
        }
        Ok(())
    }

    /// Counts the flows of these services that are not over, by the backends that they have, be
    /// these in the table still or not. A connection (TCP) is over when both sides have ended it;
    /// flows of other protocols are when they are not tracked any more, some time after their last
    /// packet.
    ///
    /// # Errors
    /// [`FlowsError`].
    pub fn count(&mut self, services: &BTreeSet<ServiceKey>) -> Result<Counts, FlowsError> {
        let mut counts = Counts::new();
        // Reading takes time that depends on the flows of all namespaces.
        if self.conntrack.count().map_err(failed("counted"))? == 0 {
            return Ok(counts);
        }
        let outcome = self.conntrack.flows(|flow| {
            if let Some((service, backend)) = place(&flow, services) {
                let backends = counts.entry(service).or_default();
                *backends.entry(backend).or_default() += 1;
            }
        });
        outcome.map_err(failed("counted"))?;
        Ok(counts)
    }
}

/// What a backend's flows look like.
fn matches(backend: &Backend, service: Option<&ServiceKey>) -> Vec<Match> {
    let mut all = Match {
        replier: Some(backend.address),
        ..Match::default()
    };
    if let Some(Address::Vip(address)) = service.map(|service| service.address) {
        all.destination = Some(address);
    }
    let protocols = match service.map(|service| service.ports) {
        Some(Ports::One(protocol, port)) => {
            all.destination_port = Some(port.get());
            vec![protocol]
        }
        // A port is one of a protocol.
        _ if backend.port.is_some() => vec![Protocol::Tcp, Protocol::Udp],
        _ => return vec![all],
    };
    let of = |protocol| Match {
        protocol: Some(protocol_number(protocol)),
        replier_port: backend.port.map(NonZeroU16::get),
        ..all
    };
    protocols.into_iter().map(of).collect()
}

/// The service that a flow is of, as packets are looked up in the table, and its backend.
fn place(flow: &Flow, services: &BTreeSet<ServiceKey>) -> Option<(ServiceKey, Backend)> {
    if !flow.rewritten || flow.ended {
        return None;
    }
    let (to, from) = (flow.original.destination, flow.reply.source);
    let vip = Address::Vip(to.address);
    let local = Address::Local(Family::of(to.address));
    let protocols = [Protocol::Tcp, Protocol::Udp].into_iter();
    let port = protocols
        .filter(|protocol| protocol_number(*protocol) == flow.original.protocol)
        .find_map(|protocol| Some(Ports::One(protocol, NonZeroU16::new(to.port)?)));
    let key = |address, ports| ServiceKey { address, ports };
    let keys = [
        port.map(|port| key(vip, port)),
        Some(key(vip, Ports::All)),
        port.map(|port| key(local, port)),
    ];
    let service = keys
        .into_iter()
        .flatten()
        .find(|key| services.contains(key))?;
    let port = match service.ports {
        Ports::All => None,
        Ports::One(..) => Some(NonZeroU16::new(from.port)?),
    };
    let address = from.address;
    Some((service, Backend { address, port }))
}

fn failed(what: &'static str) -> impl Fn(NftError) -> FlowsError {
    move |source| match source.first_cause() {
        Cause::NotPermitted => FlowsError::NotPermitted(source),
        Cause::Unsupported => FlowsError::Unsupported(source),
        Cause::Owned | Cause::Other => FlowsError::Failed { what, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{all_ports, backend, key, local};

    #[test]
    fn a_backend_without_a_port_is_meant_with_all_of_them() {
        let whole = backend("10.0.0.2", 0);
        let any = Match {
            replier: Some(whole.address),
            ..Match::default()
        };
        assert_eq!(matches(&whole, None), [any]);
        let service = all_ports("10.0.9.9");
        let destination = Some("10.0.9.9".parse().unwrap());
        assert_eq!(
            matches(&whole, Some(&service)),
            [Match { destination, ..any }]
        );
    }

    #[test]
    fn a_port_is_one_of_a_protocol() {
        let one = backend("10.0.0.2", 8080);
        let found = matches(&one, None);
        let protocols: Vec<_> = found.iter().map(|m| m.protocol).collect();
        assert_eq!(protocols, [Some(6), Some(17)]);
        assert!(found.iter().all(|m| m.replier_port == Some(8080)));
        let [found] = matches(&one, Some(&key("10.0.9.9", 80)))[..] else {
            panic!("of one protocol");
        };
        assert_eq!(
            (found.protocol, found.destination_port),
            (Some(6), Some(80))
        );
        // Any address of the namespace may have been the destination.
        let [found] = matches(&one, Some(&local("10.0.9.9", 80)))[..] else {
            panic!("of one protocol");
        };
        assert_eq!(
            (found.destination, found.destination_port),
            (None, Some(80))
        );
    }
}
