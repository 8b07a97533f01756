use weft_netns::nft::{CtDirection, CtKey, MetaKey, PayloadBase, Register};

/// Bytes of all registers of a rule.
const REGISTER_BYTES: usize = 64;
/// Bytes of a register slot.
const SLOT: usize = 4;
/// `IFNAMSIZ`.
const NAME_BYTES: usize = 16;
/// `NFT_META_PROTOCOL`, `NFT_META_IIF`, `NFT_META_OIF` (`enum nft_meta_keys`).
const META_PROTOCOL: MetaKey = MetaKey(1);
const META_INPUT: MetaKey = MetaKey(4);
const META_OUTPUT: MetaKey = MetaKey(5);
/// `IPPROTO_TCP`.
pub(super) const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub(super) const UDP: u8 = 17;

/// A network device that a packet comes in or leaves by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    /// Its name.
    pub(super) name: String,
    /// Its index; zero, which no device has, when there is none of that name yet.
    pub(super) index: u32,
}

/// What is known of a packet. The rest may be anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Where it comes in.
    pub(super) input: Device,
    /// Where it leaves; the empty name if it does not.
    pub(super) output: Device,
    /// Whether it is of IPv6.
    pub(super) v6: bool,
    /// TCP or UDP.
    pub(super) protocol: u8,
    /// Its destination port.
    pub(super) port: Option<u16>,
    /// Whether it answers; it begins a flow otherwise.
    pub(super) reply: bool,
    /// Whether its flow's destination was rewritten.
    pub(super) translated: bool,
}

impl Packet {
    /// `enum ip_conntrack_info` as a bit of nftables: `NF_CT_STATE_BIT`. The same bits are those of
    /// iptables' `conntrack` and `state` (`XT_CONNTRACK_STATE_BIT`).
    pub(super) fn state(&self) -> u32 {
        match self.reply {
            true => 1 << 1,
            false => 1 << 3,
        }
    }

    /// `IPS_SEEN_REPLY`, `IPS_DST_NAT`, and that both kinds of rewriting were decided on
    /// (`IPS_SRC_NAT_DONE`, `IPS_DST_NAT_DONE`).
    pub(super) fn status(&self) -> u32 {
        let reply = if self.reply { 1 << 1 | 1 << 3 } else { 0 };
        let translated = if self.translated { 1 << 5 } else { 0 };
        reply | translated | 1 << 7 | 1 << 8
    }

    pub(super) fn meta(&self, key: MetaKey) -> Option<Vec<u8>> {
        let name = |device: &Device| {
            let mut bytes = device.name.clone().into_bytes();
            bytes.resize(NAME_BYTES, 0);
            Some(bytes)
        };
        match key {
            MetaKey::INPUT_NAME => name(&self.input),
            MetaKey::OUTPUT_NAME => name(&self.output),
            META_INPUT => Some(self.input.index.to_ne_bytes().to_vec()),
            META_OUTPUT => Some(self.output.index.to_ne_bytes().to_vec()),
            // `NFPROTO_IPV4`, `NFPROTO_IPV6`.
            MetaKey::NFPROTO => Some(vec![if self.v6 { 10 } else { 2 }]),
            MetaKey::L4PROTO => Some(vec![self.protocol]),
            // `ETH_P_IP`, `ETH_P_IPV6`.
            META_PROTOCOL => {
                let ether: u16 = if self.v6 { 0x86dd } else { 0x0800 };
                Some(ether.to_be_bytes().to_vec())
            }
            _ => None,
        }
    }

    pub(super) fn ct(&self, key: CtKey) -> Option<Vec<u8>> {
        match key {
            CtKey::STATE => Some(self.state().to_ne_bytes().to_vec()),
            CtKey::STATUS => Some(self.status().to_ne_bytes().to_vec()),
            CtKey::DIRECTION => {
                let direction = match self.reply {
                    true => CtDirection::REPLY,
                    false => CtDirection::ORIGINAL,
                };
                Some(vec![direction.0])
            }
            _ => None,
        }
    }

    /// Bytes of its headers: the transport protocol in that of IP, and the destination port.
    pub(super) fn payload(&self, base: PayloadBase, offset: u32, len: u32) -> Option<Vec<u8>> {
        let protocol_at = if self.v6 { 6 } else { 9 };
        match (base, offset, len) {
            (PayloadBase::NETWORK, at, 1) if at == protocol_at => Some(vec![self.protocol]),
            (PayloadBase::TRANSPORT, 2, 2) => Some(self.port?.to_be_bytes().to_vec()),
            _ => None,
        }
    }
}

/// What a rule works with. A byte that is not known is `None`.
#[derive(Clone, Debug)]
pub(super) struct Registers([Option<u8>; REGISTER_BYTES]);

impl Registers {
    pub(super) fn new() -> Self {
        Self([None; REGISTER_BYTES])
    }

    /// Writes a value, padded to whole slots; one that is not known takes all that follows.
    pub(super) fn load(&mut self, register: Register, value: Option<&[u8]>) {
        let Some(start) = start(register) else {
            return;
        };
        let Some(value) = value else {
            self.0[start..].fill(None);
            return;
        };
        let padded = value.len().next_multiple_of(SLOT);
        let bytes = value.iter().copied().chain(std::iter::repeat(0));
        for (slot, byte) in self.0[start..].iter_mut().zip(bytes.take(padded)) {
            *slot = Some(byte);
        }
    }

    /// `None` when one of the bytes is not known, or there are none such.
    pub(super) fn value(&self, register: Register, len: usize) -> Option<Vec<u8>> {
        let start = start(register)?;
        let bytes = self.0.get(start..start.checked_add(len)?)?;
        bytes.iter().copied().collect()
    }

    /// `(source & mask) ^ xor`: a bit that is not known does not matter where it is masked out.
    pub(super) fn bitwise(&mut self, source: Register, mask: &[u8], xor: &[u8], to: Register) {
        let Some(from) = start(source) else {
            return;
        };
        let bytes = self.0.get(from..).unwrap_or_default().to_vec();
        let Some(to) = start(to) else {
            return;
        };
        for (index, (mask, xor)) in mask.iter().zip(xor).enumerate() {
            let known = bytes.get(index).copied().flatten();
            let known = known.or((*mask == 0).then_some(0));
            if let Some(slot) = self.0.get_mut(to + index) {
                *slot = known.map(|byte| byte & mask ^ xor);
            }
        }
    }
}

/// First byte of a register (`enum nft_registers`): 1 to 4 have 16 bytes, those from 8 on four.
fn start(register: Register) -> Option<usize> {
    let number = usize::try_from(register.0).ok()?;
    let start = match number {
        1..=4 => (number - 1) * 4 * SLOT,
        8..=23 => (number - 8) * SLOT,
        _ => return None,
    };
    Some(start)
}
