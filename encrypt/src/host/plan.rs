//! What there is, and what makes it what is wanted.

use std::fmt;

use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;

use super::spec::{HostSpec, LEAST_MTU6, Mode};
use super::{HostError, TAP};

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A rule that leads what the host sends to a UDP port to our table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Steer {
    pub(super) family: Family,
    pub(super) port: u16,
}

/// A default route of our table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) family: Family,
    /// Through the device, or nowhere.
    pub(super) device: bool,
}

/// Something as the kernel tells it, and what it is to us; none for what we would not have made.
pub(super) type Told<T, M> = (Option<T>, M);

/// What the kernel has, as far as it matters.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    /// The kernel has IPv6, and it is on.
    pub(super) ipv6: bool,
    /// Rules with our protocol number.
    pub(super) rules: Vec<Told<Steer, RuleMessage>>,
    /// Routes in our table, whoever made them.
    pub(super) routes: Vec<Told<Way, RouteMessage>>,
    /// The device.
    pub(super) tap: Option<Tap>,
}

/// The device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tap {
    pub(super) index: u32,
    /// It is a TAP, and no other link of that name.
    pub(super) is_tap: bool,
    pub(super) up: bool,
    pub(super) mtu: u32,
    /// All settings but the MTU are as they have to be.
    pub(super) tuned: bool,
    /// It has our IPv4 address.
    pub(super) address: bool,
    /// It takes packets from addresses that are routed elsewhere (`rp_filter` 2).
    pub(super) loose: bool,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Make our table lead nowhere.
    Block(Family),
    /// Lead what goes to the port to our table.
    Steer(Steer),
    /// Take a rule away.
    RemoveRule(RuleMessage),
    /// Take a route away.
    RemoveRoute(RouteMessage),
    /// Set the device's MTU and all else.
    Tune {
        index: u32,
        mtu: u32,
        /// Take it down first, for settings that count from when it comes up.
        anew: bool,
    },
    /// Set `rp_filter` of the device.
    Loosen,
    /// Give the device its IPv4 address.
    Address { index: u32 },
    /// Make our table lead to the device.
    Open { family: Family, index: u32 },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(family) => write!(f, "add the blackhole route of {family}"),
            Self::Steer(Steer { family, port }) => {
                write!(f, "add the rule for {family} udp port {port}")
            }
            Self::RemoveRule(_) => f.write_str("remove a rule for an inner port"),
            Self::RemoveRoute(_) => f.write_str("remove a route of the inner port's table"),
            Self::Tune { mtu, .. } => write!(f, "set up device {TAP} with mtu {mtu}"),
            Self::Loosen => write!(f, "set rp_filter of device {TAP} to 2"),
            Self::Address { .. } => write!(f, "give device {TAP} its address"),
            Self::Open { family, .. } => write!(f, "add the {family} route to device {TAP}"),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Whether the device is there, and wanted.
pub(super) fn uses_tap(spec: &HostSpec, observed: &Observed) -> bool {
    spec.mode == Mode::Userspace && observed.tap.is_some()
}

/// Changes in their order: what leads nowhere comes first and goes last.
pub(super) fn plan(spec: Option<&HostSpec>, observed: &Observed) -> Result<Vec<Op>, HostError> {
    match spec.filter(|spec| spec.mode == Mode::Userspace) {
        Some(spec) => install(spec, observed),
        None => Ok(remove(observed)),
    }
}

fn install(spec: &HostSpec, observed: &Observed) -> Result<Vec<Op>, HostError> {
    let own = match spec.local.to_canonical() {
        std::net::IpAddr::V4(_) => Family::V4,
        std::net::IpAddr::V6(_) => Family::V6,
    };
    let mut families = vec![Family::V4];
    if observed.ipv6 {
        families.push(Family::V6);
    } else if own == Family::V6 {
        let reason = "the tunnel end is of IPv6, which is off on this host".to_owned();
        return Err(HostError::Spec(reason));
    }
    let steer = |family| Steer {
        family,
        port: spec.inner_port,
    };
    let mut wanted_ways = Vec::new();
    let mut ops = Vec::new();
    for family in &families {
        let (family, device) = (*family, false);
        wanted_ways.push(Way { family, device });
        if !has(&observed.routes, &Way { family, device }) {
            ops.push(Op::Block(family));
        }
    }
    for family in &families {
        if !has(&observed.rules, &steer(*family)) {
            ops.push(Op::Steer(steer(*family)));
        }
    }
    let open = Way {
        family: own,
        device: true,
    };
    wanted_ways.push(open);
    let wanted: Vec<Steer> = families.iter().map(|family| steer(*family)).collect();
    ops.extend(others(&observed.rules, &wanted).map(Op::RemoveRule));
    ops.extend(others(&observed.routes, &wanted_ways).map(Op::RemoveRoute));
    if let Some(tap) = &observed.tap {
        let tuning = tune(spec, own, tap)?;
        // When it goes down it loses its route.
        let loses = tuning
            .iter()
            .any(|op| matches!(op, Op::Tune { anew: true, .. }));
        ops.extend(tuning);
        if loses || !has(&observed.routes, &open) {
            ops.push(Op::Open {
                family: own,
                index: tap.index,
            });
        }
    }
    Ok(ops)
}

fn tune(spec: &HostSpec, own: Family, tap: &Tap) -> Result<Vec<Op>, HostError> {
    if !tap.is_tap {
        return Err(HostError::Step {
            doing: format!("have the device {TAP}"),
            reason: "the link of that name is no TAP; remove it".to_owned(),
        });
    }
    let mut ops = Vec::new();
    let index = tap.index;
    if own == Family::V4 && !tap.loose {
        ops.push(Op::Loosen);
    }
    if !(tap.up && tap.tuned && tap.mtu == spec.tap_mtu) {
        ops.push(Op::Tune {
            index,
            mtu: spec.tap_mtu,
            // Below that it has lost IPv6 and all that was set for it.
            anew: !tap.tuned || tap.mtu < LEAST_MTU6,
        });
    }
    if own == Family::V4 && !tap.address {
        ops.push(Op::Address { index });
    }
    Ok(ops)
}

fn remove(observed: &Observed) -> Vec<Op> {
    let blocks = |way: &Option<Way>| matches!(way, Some(Way { device: false, .. }));
    let (last, first): (Vec<_>, Vec<_>) = observed
        .routes
        .iter()
        .cloned()
        .partition(|(way, _)| blocks(way));
    let route = |(_, told)| Op::RemoveRoute(told);
    let rules = observed.rules.iter().cloned();
    let rules = rules.map(|(_, told)| Op::RemoveRule(told));
    let first = first.into_iter().map(route);
    first
        .chain(rules)
        .chain(last.into_iter().map(route))
        .collect()
}

fn has<T: PartialEq, M>(observed: &[Told<T, M>], wanted: &T) -> bool {
    observed
        .iter()
        .any(|(found, _)| found.as_ref() == Some(wanted))
}

/// Those that are not wanted, and what is there twice.
fn others<'a, T: PartialEq, M: Clone>(
    observed: &'a [Told<T, M>],
    wanted: &'a [T],
) -> impl Iterator<Item = M> + 'a {
    let is_wanted = |at: usize, found: &Option<T>| {
        let Some(found) = found else {
            return false;
        };
        let first = observed
            .iter()
            .position(|(other, _)| other.as_ref() == Some(found));
        wanted.contains(found) && first == Some(at)
    };
    let all = observed.iter().enumerate();
    all.filter(move |(at, (found, _))| !is_wanted(*at, found))
        .map(|(_, (_, told))| told.clone())
}

#[cfg(test)]
mod tests;
