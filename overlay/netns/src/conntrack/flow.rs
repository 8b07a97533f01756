//! Flows as values, and their attributes (`enum ctattr_*`).

use std::net::IpAddr;

use crate::nfnetlink::attr::{Attr, AttrWriter, Attrs, Malformed};

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const TIMEOUT: u16 = 7;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// `IPS_DST_NAT`.
const STATUS_DESTINATION_NAT: u32 = 1 << 5;
/// `CTA_FILTER_F_CTA_*`.
const FILTER_SOURCE: u32 = 1;
const FILTER_DESTINATION: u32 = 1 << 1;
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_SOURCE_PORT: u32 = 1 << 4;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;
/// `TCP_CONNTRACK_LAST_ACK`, `TCP_CONNTRACK_TIME_WAIT`, `TCP_CONNTRACK_CLOSE`.
const TCP_ENDING: [u8; 3] = [6, 7, 8];

/// A flow: what its packets look like in each direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Those of the side that began it, as it sent them.
    pub original: Tuple,
    /// Those of the other side, as it sends them. With a rewritten destination their source is
    /// where the first went instead.
    pub reply: Tuple,
    /// Whether the destination was rewritten.
    pub rewritten: bool,
    /// Whether both sides have ended it (TCP); it is remembered for a while.
    pub ended: bool,
    /// In how many seconds it is forgotten unless a packet comes; 0 where the kernel did not say.
    pub left_s: u32,
    /// What the kernel knows it by.
    name: Vec<u8>,
}

/// From where to where packets of a flow go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Transport protocol.
    pub protocol: u8,
    /// From where.
    pub source: End,
    /// Where to.
    pub destination: End,
}

/// One end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The address.
    pub address: IpAddr,
    /// The port; 0 where the protocol has none.
    pub port: u16,
}

/// Which flows are meant: those to which all that is given applies. Ports need the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Transport protocol.
    pub protocol: Option<u8>,
    /// Where the first packet was sent to.
    pub destination: Option<IpAddr>,
    /// To which port.
    pub destination_port: Option<u16>,
    /// Where replies come from.
    pub replier: Option<IpAddr>,
    /// From which port.
    pub replier_port: Option<u16>,
}

impl Flow {
    /// None if it is not one between IP addresses.
    pub(super) fn read(attrs: Attrs<'_>) -> Result<Option<Self>, Malformed> {
        let (mut original, mut reply) = (None, None);
        let (mut status, mut ended, mut left_s) = (0, false, 0);
        let mut name = AttrWriter::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                TUPLE_ORIGINAL => {
                    original = read_tuple(attr)?;
                    name.nested(TUPLE_ORIGINAL, |tuple| tuple.raw(attr.value));
                }
                TUPLE_REPLY => reply = read_tuple(attr)?,
                STATUS => status = attr.u32()?,
                TIMEOUT => left_s = attr.u32()?,
                PROTOCOL_INFO => ended = has_ended(attr)?,
                // An id, so that nothing is meant which came in its place.
                ID | ZONE => name.bytes(attr.kind, attr.value),
                _ => {}
            }
        }
        let (Some(original), Some(reply)) = (original, reply) else {
            return Ok(None);
        };
        Ok(Some(Self {
            original,
            reply,
            rewritten: status & STATUS_DESTINATION_NAT != 0,
            ended,
            left_s,
            name: name.finish().ok_or(Malformed)?,
        }))
    }

    pub(super) fn write_name(&self, attrs: &mut AttrWriter) {
        attrs.raw(&self.name);
    }

    /// As a change of it to be forgotten in so many seconds.
    pub(super) fn write_left(&self, seconds: u32, attrs: &mut AttrWriter) {
        self.write_name(attrs);
        attrs.u32(TIMEOUT, seconds);
    }

    /// `AF_INET`, `AF_INET6`.
    pub(super) fn family(&self) -> u8 {
        match self.original.destination.address {
            IpAddr::V4(_) => 2,
            IpAddr::V6(_) => 10,
        }
    }
}

impl Match {
    /// Whether it is meant.
    pub fn matches(&self, flow: &Flow) -> bool {
        fn is<T: PartialEq>(wanted: Option<T>, found: T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        let (to, from) = (flow.original.destination, flow.reply.source);
        is(self.protocol, flow.original.protocol)
            && is(self.destination, to.address)
            && is(self.destination_port, to.port)
            && is(self.replier, from.address)
            && is(self.replier_port, from.port)
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        self.destination.or(self.replier)
    }

    /// As a filter for the kernel.
    pub(super) fn write(&self, attrs: &mut AttrWriter) {
        let original = Half {
            address: self.destination.map(|address| (address, false)),
            protocol: self.protocol,
            port: self.destination_port.map(|port| (port, false)),
        };
        let reply = Half {
            address: self.replier.map(|address| (address, true)),
            protocol: self.protocol,
            port: self.replier_port.map(|port| (port, true)),
        };
        original.write(TUPLE_ORIGINAL, attrs);
        reply.write(TUPLE_REPLY, attrs);
        attrs.nested(FILTER, |filter| {
            for (kind, half) in [(1, original), (2, reply)] {
                // In host order, as nothing else.
                filter.bytes(kind, &half.flags().to_ne_bytes());
            }
        });
    }
}

/// One direction of a filter; address and port with whether they are the source.
#[derive(Clone, Copy)]
struct Half {
    address: Option<(IpAddr, bool)>,
    protocol: Option<u8>,
    port: Option<(u16, bool)>,
}

impl Half {
    fn flags(self) -> u32 {
        let address = self.address.map(|(_, source)| match source {
            true => FILTER_SOURCE,
            false => FILTER_DESTINATION,
        });
        let protocol = self.protocol.map(|_| FILTER_PROTOCOL);
        let port = self.port.map(|(_, source)| match source {
            true => FILTER_SOURCE_PORT,
            false => FILTER_DESTINATION_PORT,
        });
        let flags = [address, protocol, port].into_iter().flatten();
        flags.fold(0, |all, flag| all | flag)
    }

    fn write(self, kind: u16, attrs: &mut AttrWriter) {
        if self.flags() == 0 {
            return;
        }
        attrs.nested(kind, |tuple| {
            if let Some((address, source)) = self.address {
                let side = if source { 0 } else { 1 };
                tuple.nested(1, |ip| match address {
                    IpAddr::V4(address) => ip.bytes(1 + side, &address.octets()),
                    IpAddr::V6(address) => ip.bytes(3 + side, &address.octets()),
                });
            }
            tuple.nested(2, |proto| {
                if let Some(protocol) = self.protocol {
                    proto.bytes(1, &[protocol]);
                }
                if let Some((port, source)) = self.port {
                    let side = if source { 0 } else { 1 };
                    proto.bytes(2 + side, &port.to_be_bytes());
                }
            });
        });
    }
}

/// `CTA_TUPLE_IP`, `CTA_TUPLE_PROTO`.
fn read_tuple(tuple: Attr<'_>) -> Result<Option<Tuple>, Malformed> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut ports) = (0, [0; 2]);
    for attr in tuple.nested() {
        let attr = attr?;
        // A zone of this direction alone (`CTA_TUPLE_ZONE`) is a number.
        if ![1, 2].contains(&attr.kind) {
            continue;
        }
        for field in attr.nested() {
            let field = field?;
            match (attr.kind, field.kind) {
                (1, 1 | 3) => source = Some(read_address(field)?),
                (1, 2 | 4) => destination = Some(read_address(field)?),
                (2, 1) => protocol = field.u8()?,
                (2, 2) => ports[0] = field.u16()?,
                (2, 3) => ports[1] = field.u16()?,
                _ => {}
            }
        }
    }
    let end = |(address, port)| End { address, port };
    Ok(source.zip(destination).map(|(source, destination)| Tuple {
        protocol,
        source: end((source, ports[0])),
        destination: end((destination, ports[1])),
    }))
}

fn read_address(attr: Attr<'_>) -> Result<IpAddr, Malformed> {
    match *attr.value {
        [a, b, c, d] => Ok(IpAddr::from([a, b, c, d])),
        _ => {
            let octets: [u8; 16] = attr.value.try_into().map_err(|_| Malformed)?;
            Ok(IpAddr::from(octets))
        }
    }
}

/// `CTA_PROTOINFO_TCP`, `CTA_PROTOINFO_TCP_STATE`.
fn has_ended(attr: Attr<'_>) -> Result<bool, Malformed> {
    let Some(tcp) = attr.nested().find(1)? else {
        return Ok(false);
    };
    let state = tcp.nested().find(1)?.map(|state| state.u8()).transpose()?;
    Ok(state.is_some_and(|state| TCP_ENDING.contains(&state)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: [u8; 4] = [10, 1, 0, 1];
    const SERVICE: [u8; 4] = [10, 1, 0, 200];
    const BACKEND: [u8; 4] = [10, 1, 0, 11];

    fn write_tuple(attrs: &mut AttrWriter, kind: u16, ends: [([u8; 4], u16); 2]) {
        attrs.nested(kind, |tuple| {
            tuple.nested(1, |ip| {
                ip.bytes(1, &ends[0].0);
                ip.bytes(2, &ends[1].0);
            });
            tuple.nested(2, |proto| {
                proto.bytes(1, &[6]);
                proto.bytes(2, &ends[0].1.to_be_bytes());
                proto.bytes(3, &ends[1].1.to_be_bytes());
            });
            if kind == TUPLE_ORIGINAL {
                tuple.bytes(3, &7_u16.to_be_bytes());
            }
        });
    }

    /// A connection to a service, as the kernel tells of it.
    fn flow(state: u8) -> Flow {
        let mut attrs = AttrWriter::default();
        write_tuple(&mut attrs, 1, [(CLIENT, 40_000), (SERVICE, 80)]);
        write_tuple(&mut attrs, 2, [(BACKEND, 8080), (CLIENT, 40_000)]);
        attrs.u32(3, 0x2e);
        attrs.nested(4, |info| info.nested(1, |tcp| tcp.bytes(1, &[state])));
        attrs.u32(7, 299);
        attrs.u32(12, 77);
        let bytes = attrs.finish().unwrap();
        Flow::read(Attrs::new(&bytes)).unwrap().unwrap()
    }

    #[test]
    fn a_flow_is_read_and_named_as_it_was_read() {
        let flow = flow(3);
        assert!(flow.rewritten && !flow.ended);
        assert_eq!(flow.left_s, 299);
        assert_eq!(flow.original.destination.address, IpAddr::from(SERVICE));
        let from = flow.reply.source;
        assert_eq!((from.address, from.port), (IpAddr::from(BACKEND), 8080));
        let mut name = AttrWriter::default();
        flow.write_name(&mut name);
        let name = name.finish().unwrap();
        let kinds = Attrs::new(&name).map(|attr| attr.unwrap().kind);
        assert_eq!(kinds.collect::<Vec<_>>(), [1, 12]);
        let tuple = Attrs::new(&name).find(1).unwrap().unwrap();
        assert_eq!(read_tuple(tuple), Ok(Some(flow.original)));
    }

    #[test]
    fn a_connection_that_both_sides_ended_has_ended() {
        for (state, ended) in [(1, false), (5, false), (6, true), (7, true), (8, true)] {
            assert_eq!(flow(state).ended, ended);
        }
    }

    #[test]
    fn what_is_given_has_to_match() {
        let flow = flow(3);
        let good = Match {
            protocol: Some(6),
            destination: Some(SERVICE.into()),
            destination_port: Some(80),
            replier: Some(BACKEND.into()),
            replier_port: Some(8080),
        };
        assert!(good.matches(&flow) && Match::default().matches(&flow));
        for other in [
            Match {
                protocol: Some(17),
                ..good
            },
            Match {
                destination: Some(BACKEND.into()),
                ..good
            },
            Match {
                destination_port: Some(81),
                ..good
            },
            Match {
                replier: Some(SERVICE.into()),
                ..good
            },
            Match {
                replier_port: Some(80),
                ..good
            },
        ] {
            assert!(!other.matches(&flow), "{other:?}");
        }
    }

    #[test]
    fn a_filter_names_what_it_filters_by() {
        let filter = Match {
            protocol: Some(17),
            destination: Some(SERVICE.into()),
            replier: Some(BACKEND.into()),
            replier_port: Some(53),
            ..Match::default()
        };
        let mut attrs = AttrWriter::default();
        filter.write(&mut attrs);
        let bytes = attrs.finish().unwrap();
        let flags = Attrs::new(&bytes).find(FILTER).unwrap().unwrap();
        let flags = |kind| flags.nested().find(kind).unwrap().unwrap().value.to_vec();
        assert_eq!(flags(1), (2u32 | 8).to_ne_bytes());
        assert_eq!(flags(2), (1u32 | 8 | 16).to_ne_bytes());
        let reply = Attrs::new(&bytes).find(TUPLE_REPLY).unwrap().unwrap();
        let ip = reply.nested().find(1).unwrap().unwrap();
        assert_eq!(ip.nested().find(1).unwrap().unwrap().value, BACKEND);
        assert_eq!(Match::default().address(), None);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Flow::read(Attrs::new(&bytes));
        }
    }
}
