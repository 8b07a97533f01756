//! Which subnets a network may have.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::index::{Candidate, Index};
use super::limits;
use super::refuse::{conflict, exhausted, invalid};
use crate::command::{Refusal, SubnetSpec};
use crate::model::{Cluster, Subnet, View};

/// Ranges that mean something else on every host.
const RESERVED: [(Ipv4Net, &str); 5] = [
    (
        Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
        "this host (RFC 1122)",
    ),
    (
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
        "loopback",
    ),
    (
        Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
        "link-local",
    ),
    (
        Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
        "multicast",
    ),
    (
        Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4),
        "class E and broadcast",
    ),
];

/// How many endpoints a subnet has addresses for: all but its network address, its broadcast
/// address and its gateway.
pub fn usable_addresses(subnet: &Subnet) -> u32 {
    let host_bits = 32 - u32::from(subnet.cidr.prefix_len());
    u32::MAX
        .checked_shr(32 - host_bits)
        .unwrap_or(0)
        .saturating_sub(2)
}

/// The addresses of a subnet that an endpoint may ask for, for messages.
pub(super) fn accepted_range(subnet: &Subnet) -> String {
    let first = u32::from(subnet.cidr.network()) + 1;
    let last = u32::from(subnet.cidr.broadcast()) - 1;
    let gateway = u32::from(subnet.gateway);
    let show =
        |first: u32, last: u32| format!("{} to {}", Ipv4Addr::from(first), Ipv4Addr::from(last));
    if gateway == first {
        show(first + 1, last)
    } else if gateway == last {
        show(first, last - 1)
    } else {
        format!("{} except {}", show(first, last), subnet.gateway)
    }
}

/// The range that `prefix` overlaps, and what it is for.
pub(super) fn reserved(prefix: Ipv4Net) -> Option<(Ipv4Net, &'static str)> {
    RESERVED
        .into_iter()
        .find(|(range, _)| range.contains(&prefix) || prefix.contains(range))
}

/// Checks what the operator asked for, in the order given.
pub(super) fn chosen(
    view: &View,
    index: &Index,
    specs: &[SubnetSpec],
    allow_overlap: bool,
) -> Result<Vec<Subnet>, Refusal> {
    let mut subnets: Vec<Subnet> = Vec::with_capacity(specs.len());
    for spec in specs {
        check_form(spec.cidr)?;
        if let Some(other) = subnets
            .iter()
            .find(|other| other.cidr.contains(&spec.cidr) || spec.cidr.contains(&other.cidr))
        {
            return Err(invalid(format_args!(
                "subnet {} overlaps subnet {} of the same network; give each address once",
                spec.cidr, other.cidr
            )));
        }
        check_free(view, index, spec.cidr, allow_overlap)?;
        subnets.push(Subnet {
            cidr: spec.cidr,
            gateway: gateway(spec)?,
        });
    }
    Ok(subnets)
}

fn check_form(cidr: Ipv4Net) -> Result<(), Refusal> {
    let (longest, shortest) = (
        limits::SUBNET_PREFIX_LONGEST,
        limits::SUBNET_PREFIX_SHORTEST,
    );
    if cidr.prefix_len() > longest {
        return Err(invalid(format_args!(
            "subnet {cidr} is too small; a /{longest} is the smallest accepted"
        )));
    }
    if cidr.prefix_len() < shortest {
        return Err(invalid(format_args!(
            "subnet {cidr} is too large; a /{shortest} is the largest accepted"
        )));
    }
    if cidr != cidr.trunc() {
        return Err(invalid(format_args!(
            "subnet {cidr} has host bits set; write {}",
            cidr.trunc()
        )));
    }
    Ok(())
}

fn check_free(
    view: &View,
    index: &Index,
    cidr: Ipv4Net,
    allow_overlap: bool,
) -> Result<(), Refusal> {
    if let Some((range, purpose)) = reserved(cidr) {
        return Err(invalid(format_args!(
            "subnet {cidr} overlaps {range}, which is reserved ({purpose}); choose a private range, \
             such as one in 10.0.0.0/8"
        )));
    }
    if let Some((route, node)) = index.routes.overlap(cidr) {
        let name = view.nodes.get(&node).map_or("?", |node| &node.name);
        return Err(conflict(format_args!(
            "subnet {cidr} overlaps route {route} of node {name}; choose a range that no node routes"
        )));
    }
    if allow_overlap {
        return Ok(());
    }
    if let Some((other, network)) = index.subnets.overlap(cidr) {
        let name = view
            .networks
            .get(&network)
            .map_or("?", |network| &network.name);
        return Err(conflict(format_args!(
            "subnet {cidr} overlaps {other} of network {name}; choose another range, or admit it \
             with --allow-overlap"
        )));
    }
    Ok(())
}

fn gateway(spec: &SubnetSpec) -> Result<Ipv4Addr, Refusal> {
    let cidr = spec.cidr;
    let first = u32::from(cidr.network()) + 1;
    let last = u32::from(cidr.broadcast()) - 1;
    let gateway = spec.gateway.map_or(first, u32::from);
    if (first..=last).contains(&gateway) {
        return Ok(gateway.into());
    }
    let why = if cidr.contains(&Ipv4Addr::from(gateway)) {
        "is the network's or broadcast address of"
    } else {
        "is outside"
    };
    Err(invalid(format_args!(
        "gateway {} {why} subnet {cidr}; {} to {} are accepted",
        Ipv4Addr::from(gateway),
        Ipv4Addr::from(first),
        Ipv4Addr::from(last)
    )))
}

/// The lowest free subnet of the first pool that has one, and where the next search may begin.
pub(super) fn from_pools(
    view: &View,
    cluster: &Cluster,
    index: &Index,
) -> Result<(Subnet, Candidate), Refusal> {
    let floor = index.floors.subnet;
    for (number, pool) in cluster.pools.iter().enumerate().skip(floor.pool) {
        let first = if number == floor.pool { floor.first } else { 0 };
        let Some(cidr) = lowest_free(index, *pool, cluster.pool_mask_length, first) else {
            continue;
        };
        let subnet = Subnet {
            cidr,
            gateway: (u32::from(cidr.network()) + 1).into(),
        };
        let next = Candidate {
            pool: number,
            first: u32::from(cidr.broadcast()).saturating_add(1),
        };
        return Ok((subnet, next));
    }
    Err(pools_used_up(view, cluster, index))
}

/// Says nothing of where the search began: a replica that was restored begins elsewhere and has to
/// answer the same.
fn pools_used_up(view: &View, cluster: &Cluster, index: &Index) -> Refusal {
    let route = (cluster.pools.iter()).find_map(|pool| index.routes.overlap(*pool));
    let why = match route.and_then(|(route, node)| Some((route, view.nodes.get(&node)?))) {
        Some((route, node)) => format!("networks and routes (such as {route} of {})", node.name),
        None => "networks".to_owned(),
    };
    let pools: Vec<String> = cluster.pools.iter().map(Ipv4Net::to_string).collect();
    exhausted(format_args!(
        "no free /{} is left in the address pools ({}): they are covered by {why}; remove a network \
         or give --subnet outside the pools",
        cluster.pool_mask_length,
        pools.join(", ")
    ))
}

/// The lowest free subnet of `pool` at or after `first`.
fn lowest_free(index: &Index, pool: Ipv4Net, mask_length: u8, first: u32) -> Option<Ipv4Net> {
    let last = u32::from(pool.broadcast());
    let mut next = Some(first.max(pool.network().into())).filter(|next| *next <= last);
    while let Some(first) = next {
        let candidate = Ipv4Net::new(first.into(), mask_length).ok()?.trunc();
        let blocker = (reserved(candidate).map(|(range, _)| range))
            .or_else(|| index.routes.overlap(candidate).map(|(route, _)| route))
            .or_else(|| index.subnets.overlap(candidate).map(|(cidr, _)| cidr));
        let Some(blocker) = blocker else {
            return Some(candidate);
        };
        let end = u32::from(blocker.broadcast()).max(candidate.broadcast().into());
        next = end.checked_add(1).filter(|next| *next <= last);
    }
    None
}
