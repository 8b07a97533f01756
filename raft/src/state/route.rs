//! The static routes of a network.

use ipnet::IpNet;

use super::refuse::{conflict, invalid, not_found};
use super::{check, limits};
use crate::command::Refusal;
use crate::model::{Network, Route};

/// Takes routes off a network and adds others.
pub(super) fn change(
    network: &mut Network,
    remove: &[IpNet],
    add: &[Route],
) -> Result<(), Refusal> {
    for destination in remove {
        let before = network.routes.len();
        network
            .routes
            .retain(|route| route.destination != *destination);
        if network.routes.len() == before {
            return Err(not_found(format_args!(
                "network {} has no route to {destination}; `weft network inspect {0}` lists all",
                network.name
            )));
        }
    }
    for route in add {
        check(network, route)?;
        network.routes.push(*route);
    }
    if network.routes.len() > limits::ROUTES_PER_NETWORK {
        return Err(check::too_many(
            "routes of one network",
            network.routes.len(),
            limits::ROUTES_PER_NETWORK,
        ));
    }
    network.routes.sort_unstable();
    Ok(())
}

fn check(network: &Network, route: &Route) -> Result<(), Refusal> {
    let Route { destination, via } = *route;
    if network.ingress {
        return Err(invalid(format_args!(
            "network {} carries published ports and takes no routes; leave out --route",
            network.name
        )));
    }
    if destination != destination.trunc() {
        return Err(invalid(format_args!(
            "route {route} has host bits set; write {}={via}",
            destination.trunc()
        )));
    }
    if destination.addr().is_ipv4() != via.is_ipv4() {
        return Err(invalid(format_args!(
            "route {route} has two versions of IP; give a next hop of the destination's"
        )));
    }
    let subnets = || network.subnets.iter().map(|subnet| subnet.cidr);
    let listed = || {
        let subnets: Vec<String> = subnets().map(|subnet| subnet.to_string()).collect();
        subnets.join(", ")
    };
    if let Some(subnet) = subnets().find(|subnet| subnet.contains(&destination)) {
        return Err(invalid(format_args!(
            "route {route} leads into subnet {subnet}, where endpoints are reached without; leave it \
             out"
        )));
    }
    let inside = |subnet: IpNet| {
        subnet.contains(&via) && via != subnet.network() && via != subnet.broadcast()
    };
    if !subnets().any(inside) {
        return Err(invalid(format_args!(
            "route {route} leads outside network {}: the next hop has to be an address of {}",
            network.name,
            listed()
        )));
    }
    match (network.routes.iter()).find(|other| other.destination == destination) {
        None => Ok(()),
        Some(other) => Err(conflict(format_args!(
            "network {} has a route to {destination} already (via {}); give one, or remove that with \
             --route-rm {destination}",
            network.name, other.via
        ))),
    }
}
