//! Messages about states and policies as they travel (linux/xfrm.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zeroize::Zeroizing;

use crate::keys::{KEY, SALT, SaKey};

/// `enum xfrm_msg` of linux/xfrm.h.
pub(super) mod kind {
    pub(in super::super) const NEW_STATE: u16 = 0x10;
    pub(in super::super) const DELETE_STATE: u16 = 0x11;
    pub(in super::super) const GET_STATE: u16 = 0x12;
    pub(in super::super) const DELETE_POLICY: u16 = 0x14;
    pub(in super::super) const GET_POLICY: u16 = 0x15;
    pub(in super::super) const UPDATE_POLICY: u16 = 0x19;
}

/// The transformation (RFC 4106), and its ICV in bits.
pub(super) const ALGORITHM: &str = "rfc4106(gcm(aes))";
const ICV_BITS: u32 = 128;
/// Sequence numbers that the replay window spans: the most that the kernel takes.
const REPLAY_WINDOW: u32 = 4096;

const PROTO_ESP: u8 = 50;
const PROTO_UDP: u8 = 17;
const MODE_TRANSPORT: u8 = 0;
/// `XFRM_STATE_ESN`.
const FLAG_ESN: u8 = 128;
/// `UDP_ENCAP_ESPINUDP`.
const ESP_IN_UDP: u16 = 2;
const ATTRIBUTE_ENCAP: u16 = 4;
const ATTRIBUTE_TEMPLATE: u16 = 5;
const ATTRIBUTE_AEAD: u16 = 18;
const ATTRIBUTE_REPLAY: u16 = 23;
/// Room that no message outgrows, so that no copy of a key is left behind by a buffer that moved.
const ROOM: usize = 2048;

/// `struct xfrm_selector`, `xfrm_usersa_info`, `xfrm_userpolicy_info`, `xfrm_user_tmpl`: sizes.
const SELECTOR: usize = 56;
const STATE: usize = 224;
const POLICY: usize = 168;
const TEMPLATE: usize = 64;

/// What packets something is for: UDP to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Selector {
    pub(super) from: (IpAddr, u8),
    pub(super) to: (IpAddr, u8),
    pub(super) port: u16,
}

impl Selector {
    /// From one address to another.
    pub(super) fn between(from: IpAddr, to: IpAddr, port: u16) -> Self {
        let length = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        Self {
            from: (from, length(from)),
            to: (to, length(to)),
            port,
        }
    }

    /// From anywhere to anywhere, in the family of an address.
    pub(super) fn everything(family: IpAddr, port: u16) -> Self {
        let any = match family {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self {
            from: (any, 0),
            to: (any, 0),
            port,
        }
    }
}

/// A security association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) spi: u32,
    pub(super) reqid: u32,
    /// Of ESP in UDP, on both sides.
    pub(super) esp_port: u16,
    /// What may be inside.
    pub(super) inner_port: u16,
    /// After so many packets and bytes the kernel removes it.
    pub(super) limits: (u64, u64),
}

/// `enum xfrm_policy_dir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    In,
    Out,
}

impl Direction {
    fn number(self) -> u8 {
        match self {
            Self::In => 0,
            Self::Out => 1,
        }
    }
}

/// A policy: without a template it blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Policy {
    pub(super) direction: Direction,
    pub(super) selector: Selector,
    pub(super) priority: u32,
    pub(super) template: Option<Template>,
}

/// The association that a policy demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Template {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// Zero for any.
    pub(super) spi: u32,
    pub(super) reqid: u32,
}

/// A message being written, erased when dropped.
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Message {
    fn new(kind: u16) -> Self {
        Self {
            kind,
            body: Zeroizing::new(Vec::with_capacity(ROOM)),
        }
    }

    /// Adds a state.
    pub(super) fn add_state(state: &State, key: &SaKey) -> Self {
        let mut message = Self::new(kind::NEW_STATE);
        message.selector(&Selector::between(state.from, state.to, state.inner_port));
        message.address(state.to);
        message.be32(state.spi);
        message.bytes(&[PROTO_ESP, 0, 0, 0]);
        message.address(state.from);
        message.limits(state.limits);
        message.zeros(32 + 12);
        message.u32(0);
        message.u32(state.reqid);
        message.u16(family(state.to));
        message.bytes(&[MODE_TRANSPORT, 0, FLAG_ESN]);
        message.zeros(7);
        message.aead(key);
        message.encapsulation(state.esp_port);
        message.replay();
        message
    }

    /// Deletes, or reads, the state to that address with that SPI.
    pub(super) fn about_state(kind: u16, to: IpAddr, spi: u32) -> Self {
        let mut message = Self::new(kind);
        message.address(to);
        message.be32(spi);
        message.u16(family(to));
        message.bytes(&[PROTO_ESP, 0]);
        message
    }

    /// Adds a policy, or replaces the one with the same direction and selector.
    pub(super) fn set_policy(policy: &Policy) -> Self {
        let mut message = Self::new(kind::UPDATE_POLICY);
        message.selector(&policy.selector);
        message.limits((u64::MAX, u64::MAX));
        message.zeros(32);
        message.u32(policy.priority);
        message.u32(0);
        // `XFRM_POLICY_ALLOW`, `XFRM_POLICY_BLOCK`.
        let action = u8::from(policy.template.is_none());
        message.bytes(&[policy.direction.number(), action, 0, 0]);
        message.zeros(4);
        if let Some(template) = &policy.template {
            message.header(ATTRIBUTE_TEMPLATE, TEMPLATE);
            message.address(template.to);
            message.be32(template.spi);
            message.bytes(&[PROTO_ESP, 0, 0, 0]);
            message.u16(family(template.to));
            message.zeros(2);
            message.address(template.from);
            message.u32(template.reqid);
            message.bytes(&[MODE_TRANSPORT, 0, 0, 0]);
            // Every algorithm: the association has one only.
            (0..3).for_each(|_| message.u32(u32::MAX));
        }
        message
    }

    /// Deletes a policy.
    pub(super) fn delete_policy(policy: &Policy) -> Self {
        let mut message = Self::new(kind::DELETE_POLICY);
        message.selector(&policy.selector);
        message.u32(0);
        message.bytes(&[policy.direction.number(), 0, 0, 0]);
        message
    }

    /// Asks for all states or policies.
    pub(super) fn dump(kind: u16) -> Self {
        Self::new(kind)
    }

    fn selector(&mut self, selector: &Selector) {
        self.address(selector.to.0);
        self.address(selector.from.0);
        self.be16(selector.port);
        self.be16(u16::MAX);
        self.zeros(4);
        self.u16(family(selector.to.0));
        self.bytes(&[selector.to.1, selector.from.1, PROTO_UDP]);
        self.zeros(3 + 4 + 4);
    }

    /// `struct xfrm_lifetime_cfg`: the hard ones only; of the soft ones the kernel would but tell.
    fn limits(&mut self, (packets, bytes): (u64, u64)) {
        for number in [u64::MAX, bytes, u64::MAX, packets, 0, 0, 0, 0] {
            self.bytes(&number.to_ne_bytes());
        }
    }

    fn aead(&mut self, key: &SaKey) {
        let mut name = [0; 64];
        name[..ALGORITHM.len()].copy_from_slice(ALGORITHM.as_bytes());
        let length = KEY + SALT;
        self.header(ATTRIBUTE_AEAD, name.len() + 8 + length);
        self.bytes(&name);
        self.u32(length as u32 * 8);
        self.u32(ICV_BITS);
        self.bytes(key.expose());
    }

    fn encapsulation(&mut self, port: u16) {
        self.header(ATTRIBUTE_ENCAP, 24);
        self.u16(ESP_IN_UDP);
        self.be16(port);
        self.be16(port);
        self.zeros(2 + 16);
    }

    fn replay(&mut self) {
        let words = REPLAY_WINDOW / u32::BITS;
        self.header(ATTRIBUTE_REPLAY, 24 + words as usize * 4);
        for number in [words, 0, 0, 0, 0, REPLAY_WINDOW] {
            self.u32(number);
        }
        self.zeros(words as usize * 4);
    }

    /// Of an attribute whose length is a multiple of four.
    fn header(&mut self, kind: u16, length: usize) {
        self.u16(length as u16 + 4);
        self.u16(kind);
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                self.bytes(&v4.octets());
                self.zeros(12);
            }
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }

    fn u16(&mut self, number: u16) {
        self.bytes(&number.to_ne_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_ne_bytes());
    }

    fn be16(&mut self, number: u16) {
        self.bytes(&number.to_be_bytes());
    }

    fn be32(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    fn zeros(&mut self, count: usize) {
        let length = self.body.len() + count;
        self.body.resize(length, 0);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }
}

fn family(address: IpAddr) -> u16 {
    let family = match address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    family as u16
}

/// A state as the kernel tells it; the key is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeenState {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) spi: u32,
    pub(super) reqid: u32,
    /// Of all that it has done.
    pub(super) bytes: u64,
    pub(super) packets: u64,
    /// Packets refused: left of the window, seen before, wrong ICV.
    pub(super) too_old: u32,
    pub(super) replayed: u32,
    pub(super) auth_failed: u32,
}

/// Where fields are in `struct xfrm_usersa_info`.
mod offset {
    pub(super) const STATE_TO: usize = 56;
    pub(super) const STATE_SPI: usize = 72;
    pub(super) const STATE_PROTO: usize = 76;
    pub(super) const STATE_FROM: usize = 80;
    pub(super) const STATE_DONE: usize = 160;
    pub(super) const STATE_STATS: usize = 192;
    pub(super) const STATE_REQID: usize = 208;
    pub(super) const STATE_FAMILY: usize = 212;
    /// In `struct xfrm_userpolicy_info`.
    pub(super) const POLICY_PRIORITY: usize = 152;
    pub(super) const POLICY_DIRECTION: usize = 160;
    pub(super) const POLICY_ACTION: usize = 161;
}

/// Reads an ESP state; none for another protocol's and for what is cut short.
pub(super) fn read_state(body: &[u8]) -> Option<SeenState> {
    let family = ne16(body.get(..STATE)?, offset::STATE_FAMILY)?;
    if body[offset::STATE_PROTO] != PROTO_ESP {
        return None;
    }
    Some(SeenState {
        from: address(body, offset::STATE_FROM, family)?,
        to: address(body, offset::STATE_TO, family)?,
        spi: be32(body, offset::STATE_SPI)?,
        reqid: ne32(body, offset::STATE_REQID)?,
        bytes: ne64(body, offset::STATE_DONE)?,
        packets: ne64(body, offset::STATE_DONE + 8)?,
        too_old: ne32(body, offset::STATE_STATS)?,
        replayed: ne32(body, offset::STATE_STATS + 4)?,
        auth_failed: ne32(body, offset::STATE_STATS + 8)?,
    })
}

/// Reads a policy for UDP to one port; none for any other and for what is cut short.
pub(super) fn read_policy(body: &[u8]) -> Option<Policy> {
    let selector = read_selector(body)?;
    let direction = match *body.get(offset::POLICY_DIRECTION)? {
        0 => Direction::In,
        1 => Direction::Out,
        _ => return None,
    };
    let mut template = None;
    for (kind, value) in attributes(body.get(POLICY..)?) {
        if kind == ATTRIBUTE_TEMPLATE && value.len() == TEMPLATE {
            let family = ne16(value, 24)?;
            template = Some(Template {
                to: address(value, 0, family)?,
                spi: be32(value, 16)?,
                from: address(value, 28, family)?,
                reqid: ne32(value, 44)?,
            });
        }
    }
    let blocks = *body.get(offset::POLICY_ACTION)? == 1;
    (blocks == template.is_none()).then_some(Policy {
        direction,
        selector,
        priority: ne32(body, offset::POLICY_PRIORITY)?,
        template,
    })
}

fn read_selector(body: &[u8]) -> Option<Selector> {
    let selector = body.get(..SELECTOR)?;
    let family = ne16(selector, 40)?;
    let one_port = selector[34..36] == [0xff; 2] && selector[44] == PROTO_UDP;
    let (to, from) = (
        address(selector, 0, family)?,
        address(selector, 16, family)?,
    );
    one_port.then_some(Selector {
        from: (from, selector[43]),
        to: (to, selector[42]),
        port: u16::from_be_bytes([selector[32], selector[33]]),
    })
}

/// The attributes behind a message's structure.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(ne16(rest, 0)?);
        let kind = ne16(rest, 2)?;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn address(bytes: &[u8], at: usize, family: u16) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(IpAddr::from(chunk::<4>(bytes, at)?)),
        libc::AF_INET6 => Some(IpAddr::from(chunk::<16>(bytes, at)?)),
        _ => None,
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn ne16(bytes: &[u8], at: usize) -> Option<u16> {
    chunk(bytes, at).map(u16::from_ne_bytes)
}

fn ne32(bytes: &[u8], at: usize) -> Option<u32> {
    chunk(bytes, at).map(u32::from_ne_bytes)
}

fn ne64(bytes: &[u8], at: usize) -> Option<u64> {
    chunk(bytes, at).map(u64::from_ne_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    chunk(bytes, at).map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const TO: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn state() -> State {
        State {
            from: FROM,
            to: TO,
            spi: 0x0102_0304,
            reqid: 7,
            esp_port: 4500,
            inner_port: 4790,
            limits: (1 << 32, 1 << 38),
        }
    }

    #[test]
    fn a_state_has_the_kernels_layout_and_fits_without_moving() {
        let message = Message::add_state(&state(), &SaKey::from_bytes([9; KEY + SALT]));
        assert_eq!(message.body.capacity(), ROOM);
        let (aead, encap, replay) = (4 + 72 + 36, 4 + 24, 4 + 24 + 512);
        assert_eq!(message.body.len(), STATE + aead + encap + replay);
        assert_eq!(message.body[offset::STATE_SPI..][..4], [1, 2, 3, 4]);
        let seen = read_state(&message.body).unwrap();
        assert_eq!(
            (seen.from, seen.to, seen.spi, seen.reqid),
            (FROM, TO, 0x0102_0304, 7)
        );
        assert_eq!((seen.bytes, seen.packets), (0, 0));
        assert_eq!(
            read_selector(&message.body),
            Some(Selector::between(FROM, TO, 4790))
        );
    }

    #[test]
    fn policies_read_as_they_were_written() {
        let template = Template {
            from: FROM,
            to: TO,
            spi: 500,
            reqid: 8,
        };
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        for (selector, template) in [
            (Selector::between(FROM, TO, 4790), Some(template)),
            (Selector::everything(FROM, 4790), None),
            (Selector::everything(v6, 4790), None),
        ] {
            for direction in [Direction::In, Direction::Out] {
                let policy = Policy {
                    direction,
                    selector,
                    priority: 3,
                    template,
                };
                let message = Message::set_policy(&policy);
                let attribute = template.map_or(0, |_| 4 + TEMPLATE);
                assert_eq!(message.body.len(), POLICY + attribute);
                assert_eq!(read_policy(&message.body), Some(policy));
            }
        }
    }

    #[test]
    fn what_is_cut_short_is_nothing() {
        let message = Message::add_state(&state(), &SaKey::from_bytes([9; KEY + SALT]));
        for length in 0..STATE {
            assert_eq!(read_state(&message.body[..length]), None);
            assert_eq!(read_policy(&message.body[..length.min(POLICY - 1)]), None);
        }
    }
}
