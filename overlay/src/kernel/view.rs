//! The kernel's objects as far as we look at them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::observed::{Link, VxlanFixed};
use crate::op::{ROUTE_METRIC, ROUTE_PROTOCOL};
use crate::spec::{Mac, StaticRoute};

/// A link.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkView {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: Option<InfoKind>,
    data: Option<InfoData>,
    pub(crate) link: Link,
    pub(crate) mac: Mac,
    pub(crate) controller: Option<u32>,
    pub(crate) learning: bool,
    pub(crate) isolated: bool,
    pub(crate) gso_max_segs: u32,
    pub(crate) gso_max_size: u32,
    /// IPv6 is turned off on it.
    pub(crate) ipv6_off: bool,
    /// Index of a veth's other end, in its namespace.
    pub(crate) peer: Option<u32>,
    /// Number of the namespace that the other end, or a tunnel's socket, is in; `None` for the
    /// link's own.
    pub(crate) other_namespace: Option<i32>,
}

/// Asks for links; without a name or an index for all.
pub(crate) fn link_query(name: Option<&str>, index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let name = name.map(|name| LinkAttribute::IfName(name.to_owned()));
    message.attributes.extend(name);
    RouteNetlinkMessage::GetLink(message)
}

impl LinkView {
    pub(crate) fn new(message: LinkMessage) -> Self {
        let mut view = Self {
            index: message.header.index,
            link: Link {
                up: message.header.flags.contains(LinkFlags::Up),
                // A link without IPv6 has nothing to say by it.
                quiet: true,
                ..Link::default()
            },
            ..Self::default()
        };
        for attribute in message.attributes {
            view.attribute(attribute);
        }
        view
    }

    fn attribute(&mut self, attribute: LinkAttribute) {
        match attribute {
            LinkAttribute::IfName(name) => self.name = name,
            LinkAttribute::Mtu(mtu) => self.link.mtu = mtu,
            LinkAttribute::IfAlias(alias) => self.link.alias = Some(alias),
            LinkAttribute::Address(bytes) => {
                if let Ok(bytes) = bytes.try_into() {
                    self.mac = Mac(bytes);
                }
            }
            LinkAttribute::Controller(index) => self.controller = Some(index),
            LinkAttribute::GsoMaxSegs(segments) => self.gso_max_segs = segments,
            LinkAttribute::GsoMaxSize(bytes) => self.gso_max_size = bytes,
            LinkAttribute::Link(index) => self.peer = Some(index),
            LinkAttribute::LinkNetNsId(id) => self.other_namespace = Some(id),
            LinkAttribute::AfSpecUnspec(families) => {
                for family in &families {
                    if let AfSpecUnspec::Inet6(attributes) = family {
                        attributes
                            .iter()
                            .for_each(|attribute| self.inet6(attribute));
                    }
                }
            }
            LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|info| self.info(info)),
            _ => {}
        }
    }

    fn inet6(&mut self, attribute: &AfSpecInet6) {
        match attribute {
            AfSpecInet6::AddrGenMode(mode) => self.link.quiet = *mode == In6AddrGenMode::None,
            AfSpecInet6::DevConf(switches) => self.ipv6_off = switches.disable_ipv6 != 0,
            _ => {}
        }
    }

    fn info(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind),
            LinkInfo::Data(data) => self.data = Some(data),
            LinkInfo::PortData(InfoPortData::BridgePort(settings)) => {
                self.learning = settings.contains(&InfoBridgePort::Learning(true));
                self.isolated = settings.contains(&InfoBridgePort::Isolated(true));
            }
            _ => {}
        }
    }

    /// Whether a bridge has no multicast snooping, VLANs and spanning tree.
    pub(crate) fn is_plain_bridge(&self) -> bool {
        let Some(InfoData::Bridge(settings)) = &self.data else {
            return false;
        };
        !settings.iter().any(|setting| match setting {
            InfoBridge::MulticastSnooping(on) | InfoBridge::VlanFiltering(on) => *on,
            InfoBridge::VlanDefaultPvid(vlan) => *vlan != 0,
            InfoBridge::StpState(state) => *state != BridgeStpState::Disabled,
            _ => false,
        })
    }

    pub(crate) fn vxlan_settings(&self) -> VxlanSettings {
        let mut settings = VxlanSettings::default();
        if let Some(InfoData::Vxlan(infos)) = &self.data {
            infos.iter().for_each(|info| settings.read(info));
        }
        settings
    }
}

/// A VXLAN device's own attributes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VxlanSettings {
    pub(crate) local: Option<IpAddr>,
    pub(crate) learning: bool,
    pub(crate) ttl: u8,
    vni: u32,
    port: u16,
    proxy: bool,
    odd: bool,
    checksum4: bool,
    no_checksum6: [bool; 2],
}

impl VxlanSettings {
    fn read(&mut self, info: &InfoVxlan) {
        match info {
            InfoVxlan::Id(vni) => self.vni = *vni,
            InfoVxlan::Port(port) => self.port = *port,
            InfoVxlan::Local(address) => self.local = Some(IpAddr::V4(*address)),
            InfoVxlan::Local6(address) => self.local = Some(IpAddr::V6(*address)),
            InfoVxlan::Learning(on) => self.learning = *on,
            InfoVxlan::Ttl(ttl) => self.ttl = *ttl,
            InfoVxlan::Proxy(on) => self.proxy = *on,
            InfoVxlan::UDPCsum(on) => self.checksum4 = *on,
            InfoVxlan::UDPZeroCsumTX(on) => self.no_checksum6[0] = *on,
            InfoVxlan::UDPZeroCsumRX(on) => self.no_checksum6[1] = *on,
            InfoVxlan::Rsc(on)
            | InfoVxlan::L2Miss(on)
            | InfoVxlan::L3Miss(on)
            | InfoVxlan::CollectMetadata(on)
            | InfoVxlan::RemCsumTX(on)
            | InfoVxlan::RemCsumRX(on)
            | InfoVxlan::Vnifilter(on) => self.odd |= *on,
            InfoVxlan::Group(address) => self.odd |= !address.is_unspecified(),
            InfoVxlan::Group6(address) => self.odd |= !address.is_unspecified(),
            InfoVxlan::Link(index) => self.odd |= *index != 0,
            InfoVxlan::Gbp | InfoVxlan::Gpe => self.odd = true,
            _ => {}
        }
    }

    pub(crate) fn fixed(&self, host_underlay: bool) -> VxlanFixed {
        let checksums = match self.local {
            Some(IpAddr::V6(_)) => self.no_checksum6 == [true, true],
            _ => !self.checksum4 && self.no_checksum6 == [false, false],
        };
        VxlanFixed {
            vni: self.vni,
            port: self.port,
            host_underlay,
            usual: self.proxy && !self.odd && checksums,
        }
    }
}

/// An entry of a neighbour table or a forwarding table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EntryView {
    pub(crate) mac: Option<Mac>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: Option<u16>,
    pub(crate) vni: Option<u32>,
    pub(crate) vlan: Option<u16>,
    /// It is the bridge's and not the port's own.
    pub(crate) of_bridge: bool,
}

impl EntryView {
    pub(crate) fn new(message: &NeighbourMessage) -> Self {
        let mut view = Self::default();
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    view.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
                }
                NeighbourAttribute::Destination(address) => view.address = to_ip(address),
                NeighbourAttribute::Port(port) => view.port = Some(*port),
                NeighbourAttribute::Vni(vni) => view.vni = Some(*vni),
                NeighbourAttribute::Vlan(vlan) => view.vlan = Some(*vlan),
                NeighbourAttribute::Controller(_) => view.of_bridge = true,
                _ => {}
            }
        }
        view
    }
}

/// In a forwarding table the family says nothing of the destination's, but the length does.
fn to_ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some(IpAddr::V4(*address)),
        NeighbourAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        NeighbourAddress::Other(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or_else(|_| v6()).ok()
        }
        _ => None,
    }
}

/// An interface's address with its prefix length.
pub(crate) fn address(message: &AddressMessage) -> Option<IpNet> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link the other attribute is the other side's.
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    IpNet::new(found?, message.header.prefix_len).ok()
}

/// One of our routes by the interface of an index; `None` for any other.
pub(crate) fn static_route(message: &RouteMessage, index: u32) -> Option<StaticRoute> {
    let header = &message.header;
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut destination, mut via, mut device, mut metric) = (any, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = route_address(address)?,
            RouteAttribute::Gateway(address) => via = route_address(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Priority(number) => metric = *number,
            _ => {}
        }
    }
    let ours = header.protocol == ROUTE_PROTOCOL.into()
        && header.table == RouteHeader::RT_TABLE_MAIN
        && metric == ROUTE_METRIC
        && device == Some(index);
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    ours.then_some(StaticRoute { destination, via })
}

fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
