//! UDP ports of the hosts that carry the cluster's own packets: those must not be led to an endpoint.

use std::net::IpAddr;

use weft_encrypt::path::ESP_PORT;
use weft_raft::model::{self, PublishedPort, View};

use crate::api::types::{ApiError, ErrorCode, Port, Protocol};
use crate::translate;

/// Refuses to publish a port that the cluster needs.
pub(super) fn check_published(view: &View, port: &Port) -> Result<(), ApiError> {
    let number = port.published;
    if port.protocol != Protocol::Udp || number == 0 {
        return Ok(());
    }
    let tunnels = view.cluster.as_ref().map(|cluster| cluster.data_path_port);
    let encrypted = { view.networks.values() }.any(|network| network.encrypted);
    let used_for = if tunnels == Some(number) {
        "tunnels"
    } else if is_control(view, number, port.ip) {
        "control plane"
    } else if encrypted && encryption_ports(view).contains(&number) && is_vtep(view, port.ip) {
        "encrypted tunnels"
    } else {
        return Ok(());
    };
    Err(ApiError::new(
        ErrorCode::Conflict,
        format!("port {number}/udp carries weft's own {used_for}; publish another one"),
    ))
}

/// Refuses to encrypt a network while a port that this needs is published.
pub(super) fn check_encryption(view: &View) -> Result<(), ApiError> {
    let ports = encryption_ports(view);
    let is_in_the_way = |port: &&PublishedPort| {
        port.protocol == model::Protocol::Udp
            && ports.contains(&port.published)
            && is_vtep(view, port.ip)
    };
    let found = { view.services.values() }
        .find_map(|service| Some((service, service.ports.iter().find(is_in_the_way)?)));
    let Some((service, port)) = found else {
        return Ok(());
    };
    let (number, name) = (port.published, &service.name);
    Err(ApiError::new(
        ErrorCode::Conflict,
        format!(
            "port {number}/udp, which encrypted networks need, is published by service {name}; take \
             it off with 'weft service update --publish-rm {number}/udp {name}' first"
        ),
    ))
}

/// Of ESP, and of what is in it.
fn encryption_ports(view: &View) -> Vec<u16> {
    let inner = view.cluster.as_ref().map(translate::inner_port);
    inner.into_iter().chain([ESP_PORT]).collect()
}

fn is_control(view: &View, number: u16, ip: Option<IpAddr>) -> bool {
    { view.nodes.values() }
        .any(|node| node.addr.port() == number && ip.is_none_or(|ip| ip == node.addr.ip()))
}

/// Whether a port that is published on `ip`, or everywhere, is at a tunnel end.
fn is_vtep(view: &View, ip: Option<IpAddr>) -> bool {
    ip.is_none_or(|ip| { view.nodes.values() }.any(|node| node.data_path_addr == ip))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_raft::model::{Change, Network, PublishMode, Service, SourceMode};

    use super::*;
    use crate::translate::services::testing::service;
    use crate::translate::tests::{network, view};

    fn port(published: u16, ip: Option<&str>) -> PublishedPort {
        PublishedPort {
            published,
            target: 80,
            protocol: model::Protocol::Udp,
            mode: PublishMode::Ingress,
            ip: ip.map(|ip| ip.parse().unwrap()),
            source: SourceMode::Preserve,
            allow_from: Vec::new(),
        }
    }

    fn refusal(view: &View, published: &PublishedPort) -> Option<String> {
        let refused = check_published(view, &Port::from(published));
        refused.err().map(|error| error.message)
    }

    #[test]
    fn ports_of_encryption_are_taken_while_there_is_any() {
        let mut view = view();
        let said = |view: &View, number, ip| refusal(view, &port(number, ip));
        assert!(said(&view, 4789, None).unwrap().contains("tunnels"));
        assert!(said(&view, 2377, None).unwrap().contains("control plane"));
        assert_eq!(said(&view, 4500, None), None);
        let encrypted = Network {
            encrypted: true,
            ..network(1)
        };
        view.apply(6, &[Change::Network(Arc::new(encrypted))]);
        for number in [4500, 4790] {
            let refused = said(&view, number, None).unwrap();
            assert!(refused.contains("encrypted tunnels"), "{refused}");
        }
        assert!(said(&view, 4500, Some("198.18.0.3")).is_some());
        assert_eq!(said(&view, 4500, Some("192.0.2.1")), None);
    }

    #[test]
    fn encryption_waits_until_its_ports_are_free() {
        let mut view = view();
        assert!(check_encryption(&view).is_ok());
        let with = |published| {
            let row = Service {
                ports: vec![port(published, None)],
                ..service(1, &[1])
            };
            Change::Service(Arc::new(row))
        };
        view.apply(6, &[with(4500)]);
        let refused = check_encryption(&view).unwrap_err().message;
        assert!(refused.contains("--publish-rm 4500/udp s1"), "{refused}");
        view.apply(7, &[with(4501)]);
        assert!(check_encryption(&view).is_ok());
    }
}
