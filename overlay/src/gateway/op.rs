use std::fmt;

use ipnet::IpNet;

use super::layout::{self, HOST_END, LEG, UPLINK};
use super::observed::{Action, Route, Rule, Select};
use crate::op::{InnerChange, LinkChange};
use crate::spec::{Mac, NetnsRef};

/// One change of the gateway's state in the kernel. Carries everything that it takes; performing it
/// decides nothing. Where no place is named it is the host's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Removes a link from the host's namespace.
    DeleteHostLink {
        /// Its name there.
        name: String,
    },
    /// Makes the hub's namespace and its file.
    CreateNamespace,
    /// Removes the hub's file; the namespace ends with it.
    DeleteNamespace,
    /// Sets [`SWITCHES`](crate::op::SWITCHES) of the hub's namespace.
    Tune,
    /// Removes a link from the hub.
    DeleteLink {
        /// Its name.
        name: String,
    },
    /// Removes our rules from a container that loses its leg. The routes go with the leg.
    ClearContainer {
        /// The container.
        netns: NetnsRef,
    },
    /// Makes the hub's bridge without snooping, VLANs and spanning tree. Down.
    CreateBridge {
        /// In bytes.
        mtu: u32,
    },
    /// Turns the bridge's snooping, VLANs and spanning tree off.
    SimplifyBridge,
    /// Sets the bridge as a link.
    SetBridge {
        /// What to set.
        change: LinkChange,
    },
    /// Makes a veth pair: one end a port of the bridge, the other at its place under its final name. Both
    /// down. Either the whole pair is there or nothing.
    CreatePair {
        /// Where the other end is.
        place: Place,
        /// Name of the hub's end.
        port: String,
        /// Of both ends, in bytes.
        mtu: u32,
        /// Of the other end.
        mac: Mac,
    },
    /// Sets the hub's end of a pair.
    SetPort {
        /// Where the other end is.
        place: Place,
        /// Its name.
        port: String,
        /// Exchange no frames with other such ports.
        isolate: bool,
        /// The rest.
        link: LinkChange,
    },
    /// Sets the other end.
    SetInner {
        /// Where it is.
        place: Place,
        /// What to set.
        change: InnerChange,
    },
    /// Gives it an address.
    AddAddress {
        /// Where it is.
        place: Place,
        /// With its prefix length.
        address: IpNet,
    },
    /// Takes an address from it.
    RemoveAddress {
        /// Where it is.
        place: Place,
        /// With its prefix length.
        address: IpNet,
    },
    /// Makes a route, or changes ours to the same destination.
    SetRoute {
        /// Where.
        place: Place,
        /// What.
        route: Route,
        /// There is one of ours.
        replace: bool,
    },
    /// Removes a route.
    RemoveRoute {
        /// Where.
        place: Place,
        /// Which.
        route: Route,
    },
    /// Makes a rule.
    AddRule {
        /// Where.
        place: Place,
        /// What.
        rule: Rule,
    },
    /// Removes a rule.
    RemoveRule {
        /// Where.
        place: Place,
        /// Which.
        rule: Rule,
    },
    /// Sets a switch of the host's namespace.
    SetSwitch {
        /// Its name below `/proc/sys/net`.
        name: String,
        /// What to.
        value: &'static str,
    },
}

/// A namespace beside the hub that the gateway works in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host's.
    Host,
    /// That of a leg's container.
    Leg(String),
}

impl Place {
    /// The protocol number of our routes and rules there.
    pub const fn protocol(&self) -> u8 {
        match self {
            Self::Host => layout::PROTOCOL,
            Self::Leg(_) => layout::LEG_PROTOCOL,
        }
    }

    /// The name of our interface there.
    pub const fn ifname(&self) -> &'static str {
        match self {
            Self::Host => HOST_END,
            Self::Leg(_) => LEG,
        }
    }

    /// The name of its other end in the hub.
    pub fn port(&self) -> String {
        match self {
            Self::Host => UPLINK.to_owned(),
            Self::Leg(key) => layout::port(key),
        }
    }
}

impl Op {
    /// Which place's interface, routes or rules it changes.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::CreatePair { place, .. }
            | Self::SetPort { place, .. }
            | Self::SetInner { place, .. }
            | Self::AddAddress { place, .. }
            | Self::RemoveAddress { place, .. }
            | Self::SetRoute { place, .. }
            | Self::RemoveRoute { place, .. }
            | Self::AddRule { place, .. }
            | Self::RemoveRule { place, .. } => Some(place),
            _ => None,
        }
    }

    /// The leg that alone suffers when this fails.
    pub fn leg(&self) -> Option<&str> {
        match self.place() {
            Some(Place::Leg(key)) => Some(key),
            _ => None,
        }
    }

    /// Whether it changes one of the host's routes or rules, of which there may be thousands in a row.
    pub fn is_entry(&self) -> bool {
        match self {
            Self::SetRoute { place, .. }
            | Self::RemoveRoute { place, .. }
            | Self::AddRule { place, .. } => *place == Place::Host,
            Self::RemoveRule { place, rule } => *place == Place::Host && !rule.odd,
            _ => false,
        }
    }

    /// Whether what comes behind it can be done without it.
    pub fn is_apart(&self) -> bool {
        let apart = matches!(
            self,
            Self::SetSwitch { .. } | Self::ClearContainer { .. } | Self::RemoveRule { .. }
        );
        apart || self.is_entry()
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteHostLink { name } => write!(f, "delete {name} from the host"),
            Self::CreateNamespace => write!(f, "create the hub's namespace"),
            Self::DeleteNamespace => write!(f, "delete the hub's namespace"),
            Self::Tune => write!(f, "set the hub's switches"),
            Self::DeleteLink { name } => write!(f, "delete {name}"),
            Self::ClearContainer { netns } => {
                write!(f, "remove the rules from {}", netns.path.display())
            }
            Self::CreateBridge { .. } => write!(f, "create the hub's bridge"),
            Self::SimplifyBridge | Self::SetBridge { .. } => write!(f, "set the hub's bridge"),
            Self::CreatePair { place, port, .. } => {
                write!(f, "create veth pair {port} with {place}")
            }
            Self::SetPort { port, .. } => write!(f, "set {port}"),
            Self::SetInner { place, .. } => write!(f, "set {place}"),
            Self::AddAddress { place, address } => write!(f, "add {address} to {place}"),
            Self::RemoveAddress { place, address } => write!(f, "remove {address} from {place}"),
            Self::SetRoute { place, route, .. } => write!(f, "set {route}{}", within(place)),
            Self::RemoveRoute { place, route } => write!(f, "remove {route}{}", within(place)),
            Self::AddRule { place, rule } => write!(f, "add {rule}{}", within(place)),
            Self::RemoveRule { place, rule } => write!(f, "remove {rule}{}", within(place)),
            Self::SetSwitch { name, value } => write!(f, "set net/{name} to {value}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.ifname(), within(self))
    }
}

fn within(place: &Place) -> &'static str {
    match place {
        Place::Host => "",
        Place::Leg(_) => " in the container",
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route to {}", self.destination)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(device) = &self.device {
            write!(f, " dev {device}")?;
        }
        write!(f, " in table {}", self.table)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", self.priority)?;
        match self.select {
            Select::All => {}
            Select::Mark { value, mask } => write!(f, " for mark {value:#x}/{mask:#x}")?,
            Select::From(address) => write!(f, " from {address}")?,
            Select::Answers { first, last } => write!(f, " from UDP ports {first}-{last}")?,
        }
        match self.action {
            Action::Table(table) | Action::Near(table) => write!(f, " to table {table}"),
            Action::Goto(priority) => write!(f, " to rule {priority}"),
            Action::Nop => Ok(()),
            Action::Other(action) => write!(f, " of action {action}"),
        }
    }
}
