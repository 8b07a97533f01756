use std::fmt;

use ipnet::IpNet;

use super::layout::{self, BRIDGE, LEG};
use super::observed::{Action, Route, Rule, Select};
use crate::op::{InnerChange, LinkChange};
use crate::spec::{Mac, NetnsRef};

/// One change of the gateway's state in the kernel. Carries everything that it takes; performing it
/// decides nothing. Where no place is named it is the host's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Removes a link.
    DeleteLink {
        /// Its name.
        name: String,
    },
    /// Removes our rules from a container that loses its leg. The routes go with the leg.
    ClearContainer {
        /// The container.
        netns: NetnsRef,
    },
    /// Makes the bridge without snooping, VLANs and spanning tree. Down.
    CreateBridge {
        /// In bytes.
        mtu: u32,
        /// Its MAC address.
        mac: Mac,
    },
    /// Turns the bridge's snooping, VLANs and spanning tree off.
    SimplifyBridge,
    /// Sets the bridge as a link.
    SetBridge {
        /// MAC address.
        mac: Option<Mac>,
        /// The rest.
        link: LinkChange,
    },
    /// Makes a leg: one end a port of the bridge, the other in the container under its final name. Both
    /// down. Either the whole pair is there or nothing.
    CreateLeg {
        /// Whose.
        leg: String,
        /// Name of the host's end.
        port: String,
        /// Of both ends, in bytes.
        mtu: u32,
        /// Of the container's end.
        mac: Mac,
    },
    /// Sets the host's end of a leg.
    SetPort {
        /// Whose.
        leg: String,
        /// Its name.
        port: String,
        /// Exchange frames with the bridge only.
        isolate: bool,
        /// The rest.
        link: LinkChange,
    },
    /// Sets the container's end of a leg.
    SetInner {
        /// Whose.
        leg: String,
        /// What to set.
        change: InnerChange,
    },
    /// Gives the bridge, or a leg, an address.
    AddAddress {
        /// Which.
        place: Place,
        /// With its prefix length.
        address: IpNet,
    },
    /// Takes an address from the bridge, or from a leg.
    RemoveAddress {
        /// Which.
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

/// A namespace that the gateway works in.
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

    fn leg(&self) -> Option<&str> {
        match self {
            Self::Host => None,
            Self::Leg(key) => Some(key),
        }
    }
}

impl Op {
    /// The leg that alone suffers when this fails.
    pub fn leg(&self) -> Option<&str> {
        match self {
            Self::CreateLeg { leg, .. }
            | Self::SetPort { leg, .. }
            | Self::SetInner { leg, .. } => Some(leg),
            Self::AddAddress { place, .. }
            | Self::RemoveAddress { place, .. }
            | Self::SetRoute { place, .. }
            | Self::RemoveRoute { place, .. }
            | Self::AddRule { place, .. }
            | Self::RemoveRule { place, .. } => place.leg(),
            Self::DeleteLink { .. }
            | Self::ClearContainer { .. }
            | Self::CreateBridge { .. }
            | Self::SimplifyBridge
            | Self::SetBridge { .. }
            | Self::SetSwitch { .. } => None,
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
            Self::DeleteLink { name } => write!(f, "delete {name}"),
            Self::ClearContainer { netns } => {
                write!(f, "remove the rules from {}", netns.path.display())
            }
            Self::CreateBridge { .. } => write!(f, "create bridge {BRIDGE}"),
            Self::SimplifyBridge | Self::SetBridge { .. } => write!(f, "set bridge {BRIDGE}"),
            Self::CreateLeg { port, .. } => {
                write!(f, "create veth pair {port} with {LEG} in the container")
            }
            Self::SetPort { port, .. } => write!(f, "set {port}"),
            Self::SetInner { .. } => write!(f, "set {LEG} in the container"),
            Self::AddAddress { place, address } => {
                write!(f, "add {address} to {}", interface(place))
            }
            Self::RemoveAddress { place, address } => {
                write!(f, "remove {address} from {}", interface(place))
            }
            Self::SetRoute { place, route, .. } => write!(f, "set {route}{}", within(place)),
            Self::RemoveRoute { place, route } => write!(f, "remove {route}{}", within(place)),
            Self::AddRule { place, rule } => write!(f, "add {rule}{}", within(place)),
            Self::RemoveRule { place, rule } => write!(f, "remove {rule}{}", within(place)),
            Self::SetSwitch { name, value } => write!(f, "set net/{name} to {value}"),
        }
    }
}

fn interface(place: &Place) -> String {
    match place {
        Place::Host => BRIDGE.to_owned(),
        Place::Leg(_) => format!("{LEG} in the container"),
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
        }
        match self.action {
            Action::Table(table) => write!(f, " to table {table}"),
            Action::Goto(priority) => write!(f, " to rule {priority}"),
            Action::Nop => Ok(()),
            Action::Other(action) => write!(f, " of action {action}"),
        }
    }
}
