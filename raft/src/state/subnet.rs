//! Which subnets a network may have.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::index::{Candidate, Index};
use super::limits;
use super::pool::{address, bits};
use super::refuse::{conflict, exhausted, invalid};
use crate::command::{Refusal, SubnetSpec};
use crate::model::{Cluster, IpFamily, Network, Subnet, View};

/// Ranges that mean something else on every host.
const RESERVED: [(IpNet, &str); 10] = [
    (v4([0, 0, 0, 0], 8), "this host (RFC 1122)"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([169, 254, 0, 0], 16), "link-local"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "class E and broadcast"),
    (v6([0, 0, 0], 8), "loopback and mapped IPv4 addresses"),
    (v6([0xfe80, 0, 0], 10), "link-local"),
    (v6([0xff00, 0, 0], 8), "multicast"),
    // As the overlay's gateway has it on every node.
    (v6([0xfd77, 0x6566, 0x7400], 64), "weft's way out"),
    (v6([0x64, 0xff9b, 0], 96), "translated IPv4 addresses"),
];

const fn v4(octets: [u8; 4], prefix: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6(first: [u16; 3], prefix: u8) -> IpNet {
    let [a, b, c] = first;
    let address = Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0);
    IpNet::V6(Ipv6Net::new_assert(address, prefix))
}

/// A run of addresses as numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u128,
    pub(super) last: u128,
}

impl Span {
    /// The addresses of a subnet that name an interface: not the network's and the broadcast address, nor
    /// that of any router (RFC 4291 section 2.6.1).
    fn usable(cidr: IpNet) -> Self {
        let (network, last) = (bits(cidr.network()), bits(cidr.broadcast()));
        Self {
            first: network.saturating_add(1),
            last: match cidr {
                IpNet::V4(_) => last.saturating_sub(1),
                IpNet::V6(_) => last,
            },
        }
    }

    /// Those that are assigned.
    pub(super) fn assigned(subnet: &Subnet) -> Self {
        let usable = Self::usable(subnet.cidr);
        match subnet.range {
            None => usable,
            Some(range) => Self {
                first: usable.first.max(bits(range.network())),
                last: usable.last.min(bits(range.broadcast())),
            },
        }
    }

    fn contains(self, address: IpAddr) -> bool {
        (self.first..=self.last).contains(&bits(address))
    }
}

/// How many addresses a subnet has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Held by endpoints, services and nodes.
    pub used: u64,
    /// That may still be assigned; at most [`Room::MOST`].
    pub free: u64,
    /// Of those that may be assigned, used ones included; at most [`Room::MOST`].
    pub total: u64,
}

impl Room {
    /// More than this is this: the largest number that JSON's readers know exactly (RFC 8259
    /// section 6).
    pub const MOST: u64 = (1 << 53) - 1;

    /// Of a subnet of `network` while `held` are held there.
    pub fn of(network: &Network, subnet: &Subnet, held: impl Iterator<Item = IpAddr>) -> Self {
        let span = Span::assigned(subnet);
        let reserved = network.aux_addresses.values().chain([&subnet.gateway]);
        let reserved: BTreeSet<&IpAddr> = reserved
            .filter(|address| subnet.cidr.contains(*address) && span.contains(**address))
            .collect();
        let total = (span.last.saturating_sub(span.first).saturating_add(1))
            .saturating_sub(reserved.len() as u128);
        let (mut used, mut assigned) = (0, 0u128);
        for address in held.filter(|address| subnet.cidr.contains(address)) {
            used += 1;
            assigned += u128::from(span.contains(address));
        }
        let capped = |count: u128| u64::try_from(count).unwrap_or(u64::MAX).min(Self::MOST);
        Self {
            used,
            free: capped(total.saturating_sub(assigned)),
            total: capped(total),
        }
    }
}

/// The addresses of a subnet that an endpoint may ask for, for messages.
pub(super) fn accepted_range(subnet: &Subnet) -> String {
    let Span { first, last } = Span::usable(subnet.cidr);
    let gateway = bits(subnet.gateway);
    let v6 = subnet.family() == IpFamily::V6;
    let show = |first, last| format!("{} to {}", address(v6, first), address(v6, last));
    if gateway == first {
        show(first + 1, last)
    } else if gateway == last {
        show(first, last - 1)
    } else {
        format!("{} except {}", show(first, last), subnet.gateway)
    }
}

/// What an address of a subnet is that names no interface.
pub(super) fn odd_purpose(subnet: &Subnet, address: IpAddr) -> Option<&'static str> {
    if address == subnet.cidr.network() {
        Some(match subnet.family() {
            IpFamily::V4 => "network address",
            IpFamily::V6 => "subnet-router anycast address",
        })
    } else if address == subnet.cidr.broadcast() && subnet.family() == IpFamily::V4 {
        Some("broadcast address")
    } else {
        None
    }
}

/// The range that `prefix` overlaps, and what it is for.
pub(super) fn reserved(prefix: IpNet) -> Option<(IpNet, &'static str)> {
    RESERVED
        .into_iter()
        .find(|(range, _)| overlap(*range, prefix))
}

pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Checks what the operator asked for, in the order given; `there` are those that the network has.
pub(super) fn chosen(
    view: &View,
    index: &Index,
    there: &[Subnet],
    specs: &[SubnetSpec],
    allow_overlap: bool,
) -> Result<Vec<Subnet>, Refusal> {
    let mut subnets: Vec<Subnet> = Vec::with_capacity(specs.len());
    for spec in specs {
        check_form(spec.cidr)?;
        let mut others = there.iter().chain(&subnets);
        if let Some(other) = others.find(|other| overlap(other.cidr, spec.cidr)) {
            return Err(invalid(format_args!(
                "subnet {} overlaps subnet {} of the same network; give each address once",
                spec.cidr, other.cidr
            )));
        }
        check_free(view, index, spec.cidr, allow_overlap)?;
        subnets.push(Subnet {
            cidr: spec.cidr,
            gateway: gateway(spec)?,
            range: range(spec)?,
        });
    }
    Ok(subnets)
}

fn check_form(cidr: IpNet) -> Result<(), Refusal> {
    let (longest, shortest) = match cidr {
        IpNet::V4(_) => (
            limits::SUBNET_PREFIX_LONGEST,
            limits::SUBNET_PREFIX_SHORTEST,
        ),
        IpNet::V6(_) => (
            limits::SUBNET6_PREFIX_LONGEST,
            limits::SUBNET6_PREFIX_SHORTEST,
        ),
    };
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

fn check_free(view: &View, index: &Index, cidr: IpNet, allow_overlap: bool) -> Result<(), Refusal> {
    if let Some((range, purpose)) = reserved(cidr) {
        let example = match cidr {
            IpNet::V4(_) => "10.0.0.0/8",
            IpNet::V6(_) => "fd00::/8",
        };
        return Err(invalid(format_args!(
            "subnet {cidr} overlaps {range}, which is reserved ({purpose}); choose a private range, \
             such as one in {example}"
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

fn gateway(spec: &SubnetSpec) -> Result<IpAddr, Refusal> {
    let cidr = spec.cidr;
    let v6 = cidr.network().is_ipv6();
    let span = Span::usable(cidr);
    let Some(wanted) = spec.gateway else {
        return Ok(address(v6, span.first));
    };
    if wanted.is_ipv6() == v6 && span.contains(wanted) {
        return Ok(wanted);
    }
    let why = match cidr.contains(&wanted) {
        true if v6 => "is the subnet-router anycast address of",
        true => "is the network's or broadcast address of",
        false => "is outside",
    };
    Err(invalid(format_args!(
        "gateway {wanted} {why} subnet {cidr}; {} to {} are accepted",
        address(v6, span.first),
        address(v6, span.last)
    )))
}

/// The part of a subnet that addresses are assigned from.
fn range(spec: &SubnetSpec) -> Result<Option<IpNet>, Refusal> {
    let Some(range) = spec.range else {
        return Ok(None);
    };
    if range != range.trunc() {
        return Err(invalid(format_args!(
            "IP range {range} has host bits set; write {}",
            range.trunc()
        )));
    }
    if !spec.cidr.contains(&range) {
        return Err(invalid(format_args!(
            "IP range {range} is outside subnet {}; give a part of it",
            spec.cidr
        )));
    }
    let subnet = Subnet {
        cidr: spec.cidr,
        gateway: gateway(spec)?,
        range: Some(range),
    };
    let Span { first, last } = Span::assigned(&subnet);
    let of_gateway = u128::from((first..=last).contains(&bits(subnet.gateway)));
    if first > last || last - first < of_gateway {
        return Err(invalid(format_args!(
            "IP range {range} leaves no address for an endpoint; give a larger part of subnet {}",
            spec.cidr
        )));
    }
    Ok(Some(range))
}

/// Checks that what is reserved by name is in the network and reserved once.
pub(super) fn check_aux(network: &Network) -> Result<(), Refusal> {
    let mut seen: Vec<(&String, IpAddr)> = Vec::new();
    for (name, address) in &network.aux_addresses {
        let Some(subnet) = network.subnet_of(*address) else {
            let subnets = network.subnets.iter().map(|subnet| subnet.cidr.to_string());
            return Err(invalid(format_args!(
                "auxiliary address {name}={address} is outside the network's subnets; give one of {}",
                subnets.collect::<Vec<_>>().join(", ")
            )));
        };
        let purpose = match *address == subnet.gateway {
            true => Some("gateway"),
            false => odd_purpose(subnet, *address),
        };
        if let Some(purpose) = purpose {
            return Err(invalid(format_args!(
                "auxiliary address {name}={address} is the {purpose} of subnet {}, which is reserved \
                 already; choose another, or leave it out",
                subnet.cidr
            )));
        }
        if let Some((other, _)) = seen.iter().find(|(_, seen)| seen == address) {
            return Err(invalid(format_args!(
                "auxiliary address {name}={address} is reserved twice (as {other}, too); name each \
                 address once"
            )));
        }
        seen.push((name, *address));
    }
    Ok(())
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
        let subnet = assigned(cidr.into());
        let next = Candidate {
            pool: number,
            first: u32::from(cidr.broadcast()).saturating_add(1),
        };
        return Ok((subnet, next));
    }
    Err(pools_used_up(view, cluster, index))
}

/// The lowest free /64 of the cluster's prefix for IPv6, and where the next search may begin.
pub(super) fn from_ula(cluster: &Cluster, index: &Index) -> Result<(Subnet, u32), Refusal> {
    let prefix = cluster.ula_prefix();
    for number in index.floors.subnet6..=limits::ULA_SUBNETS {
        let network = prefix.network().to_bits() | u128::from(number) << 64;
        let candidate = v6_64(network);
        let blocked = reserved(candidate).is_some()
            || index.routes.overlap(candidate).is_some()
            || index.subnets.overlap(candidate).is_some();
        if !blocked {
            return Ok((assigned(candidate), number + 1));
        }
    }
    Err(exhausted(format_args!(
        "no free /64 is left in the cluster's IPv6 prefix {prefix}: it is covered by networks and \
         routes; remove a network or give --subnet outside it"
    )))
}

/// The number of the first /64 of the cluster's prefix that `released` is in, if any.
pub(super) fn ula_number(cluster: &Cluster, released: IpNet) -> Option<u32> {
    let prefix = IpNet::V6(cluster.ula_prefix());
    if released.contains(&prefix) {
        return Some(0);
    }
    let number = (bits(released.network()) >> 64) & u128::from(limits::ULA_SUBNETS);
    let number = u32::try_from(number).ok();
    number.filter(|_| prefix.contains(&released))
}

fn v6_64(network: u128) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(network), 64))
}

/// A subnet with nothing chosen by the operator.
fn assigned(cidr: IpNet) -> Subnet {
    Subnet {
        cidr,
        gateway: address(cidr.network().is_ipv6(), Span::usable(cidr).first),
        range: None,
    }
}

/// Says nothing of where the search began: a replica that was restored begins elsewhere and has to
/// answer the same.
fn pools_used_up(view: &View, cluster: &Cluster, index: &Index) -> Refusal {
    let route = (cluster.pools.iter()).find_map(|pool| index.routes.overlap(IpNet::V4(*pool)));
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
        let wanted = IpNet::V4(candidate);
        let blocker = (reserved(wanted).map(|(range, _)| range))
            .or_else(|| index.routes.overlap(wanted).map(|(route, _)| route))
            .or_else(|| index.subnets.overlap(wanted).map(|(cidr, _)| cidr));
        let Some(IpNet::V4(blocker)) = blocker else {
            return Some(candidate);
        };
        let end = u32::from(blocker.broadcast()).max(candidate.broadcast().into());
        next = end.checked_add(1).filter(|next| *next <= last);
    }
    None
}
