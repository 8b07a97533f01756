//! Expressions as attributes.

use super::{
    CompareOp, Counter, CtDirection, CtKey, Expr, LearnOp, MetaKey, NatFamily, PayloadBase,
    Register, Verdict,
};
use crate::nfnetlink::attr::{Attr, AttrWriter, Attrs, Malformed};

/// `NFTA_LIST_ELEM`.
pub(in crate::nft) const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
/// `NFTA_DATA_VALUE`, inside a nested data attribute.
pub(in crate::nft) const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// `NF_DROP`, `NF_ACCEPT`, `NFT_JUMP`, `NFT_GOTO`.
const VERDICT_DROP: i32 = 0;
const VERDICT_ACCEPT: i32 = 1;
const VERDICT_JUMP: i32 = -3;
const VERDICT_GOTO: i32 = -4;
/// `NFT_RETURN`.
const VERDICT_RETURN: i32 = -5;
/// `NFT_LOOKUP_F_INV`.
const LOOKUP_INVERTED: u32 = 1;
/// `NFT_REG_VERDICT`.
const REGISTER_VERDICT: u32 = 0;
/// `NFT_NG_INCREMENTAL`.
const NUMGEN_INCREMENTAL: u32 = 0;
/// `NFT_NG_RANDOM`.
const NUMGEN_RANDOM: u32 = 1;
/// `NFT_HASH_JENKINS`.
const HASH_JENKINS: u32 = 0;
/// `NFT_FIB_RESULT_ADDRTYPE`.
const FIB_ADDRESS_TYPE: u32 = 3;
/// `NFTA_FIB_F_DADDR`.
const FIB_DESTINATION: u32 = 2;
/// `NFT_BITWISE_MASK_XOR`.
const BITWISE_MASK_XOR: u32 = 0;
/// `NFT_NAT_SNAT`.
const NAT_SOURCE: u32 = 0;
/// `NFT_NAT_DNAT`.
const NAT_DESTINATION: u32 = 1;
/// `NFT_RT_TCPMSS`.
const ROUTE_SEGMENT: u32 = 3;
/// `NFT_RT_XFRM`.
const ROUTE_TRANSFORMED: u32 = 4;
/// `NFT_BYTEORDER_HTON`.
const TO_NETWORK_ORDER: u32 = 1;
/// `NFT_EXTHDR_OP_TCPOPT`.
const OPTION_OF_TCP: u32 = 1;
/// `TCPOPT_MSS`.
const SEGMENT_OPTION: u8 = 2;
/// Where the number is in that option, and how long.
const SEGMENT_AT: u32 = 2;
const SEGMENT_LEN: u32 = 2;
/// `NFT_REJECT_TCP_RST`.
const REJECT_RESET: u32 = 1;
/// `NFT_REJECT_ICMPX_UNREACH`: ICMP or ICMPv6 as the packet needs.
const REJECT_ICMPX: u32 = 2;
/// `NFT_REJECT_ICMPX_PORT_UNREACH`.
const REJECT_PORT: u8 = 1;

impl Expr {
    pub(in crate::nft) fn write(&self, list: &mut AttrWriter) {
        self.write_as(LIST_ELEM, list);
    }

    /// As an attribute of that kind.
    pub(in crate::nft) fn write_as(&self, kind: u16, attrs: &mut AttrWriter) {
        attrs.nested(kind, |elem| {
            elem.string(EXPR_NAME, self.name());
            elem.nested(EXPR_DATA, |data| self.write_data(data));
        });
    }

    pub(in crate::nft) fn read(elem: Attr<'_>) -> Result<Self, Malformed> {
        let name = elem.nested().find(EXPR_NAME)?.ok_or(Malformed)?.string();
        let data = elem.nested().find(EXPR_DATA)?.map(|attr| attr.nested());
        Self::read_data(name, &Fields(data.unwrap_or(Attrs::new(&[]))))
    }

    /// The kernel's name of the expression.
    fn name(&self) -> &str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Lookup { .. } | Self::MapLookup { .. } | Self::VerdictMap { .. } => "lookup",
            Self::Learn { .. } => "dynset",
            Self::SetMeta { .. } => "meta",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Random { .. } | Self::Counted { .. } => "numgen",
            Self::Hash { .. } => "hash",
            Self::RouteType { .. } => "fib",
            Self::Ct { .. } | Self::SetCt { .. } => "ct",
            Self::SetTimeout { .. } => "objref",
            Self::Bitwise { .. } => "bitwise",
            Self::DestinationNat { .. } | Self::SourceNat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::RejectPort | Self::RejectReset => "reject",
            Self::RouteSegment { .. } | Self::RouteTransformed { .. } => "rt",
            Self::NetworkOrder { .. } => "byteorder",
            Self::LowerSegment { .. } => "exthdr",
            Self::Counter(_) => "counter",
            Self::Other(name) => name,
        }
    }

    fn write_data(&self, data: &mut AttrWriter) {
        match self {
            Self::Meta { key, register } => {
                data.u32(1, register.0);
                data.u32(2, key.0);
            }
            Self::SetMeta { key, register } => {
                data.u32(2, key.0);
                data.u32(3, register.0);
            }
            Self::Payload {
                base,
                offset,
                len,
                register,
            } => {
                for (kind, value) in (1..).zip([register.0, base.0, *offset, *len]) {
                    data.u32(kind, value);
                }
            }
            Self::Compare {
                register,
                op,
                value,
            } => {
                data.u32(1, register.0);
                data.u32(2, op.0);
                data.nested(3, |inner| inner.bytes(DATA_VALUE, value));
            }
            Self::Lookup { .. }
            | Self::MapLookup { .. }
            | Self::VerdictMap { .. }
            | Self::Learn { .. } => self.write_lookup(data),
            Self::Immediate { value, register } => {
                data.u32(1, register.0);
                data.nested(2, |inner| inner.bytes(DATA_VALUE, value));
            }
            Self::Verdict(verdict) => {
                data.u32(1, REGISTER_VERDICT);
                data.nested(2, |inner| write_verdict(inner, verdict));
            }
            Self::Counter(counter) => {
                data.u64(1, counter.bytes);
                data.u64(2, counter.packets);
            }
            Self::RejectPort => {
                data.u32(1, REJECT_ICMPX);
                data.bytes(2, &[REJECT_PORT]);
            }
            Self::RejectReset => data.u32(1, REJECT_RESET),
            Self::Ct { .. } | Self::SetCt { .. } => self.write_ct(data),
            Self::SetTimeout { map, register } => {
                data.u32(3, register.0);
                data.string(4, map);
            }
            Self::Bitwise {
                source,
                mask,
                xor,
                register,
            } => {
                data.u32(1, source.0);
                data.u32(2, register.0);
                data.u32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                data.nested(4, |inner| inner.bytes(DATA_VALUE, mask));
                data.nested(5, |inner| inner.bytes(DATA_VALUE, xor));
            }
            Self::Random { .. }
            | Self::Counted { .. }
            | Self::Hash { .. }
            | Self::RouteType { .. }
            | Self::DestinationNat { .. }
            | Self::SourceNat { .. } => self.write_numbers(data),
            Self::RouteSegment { .. } | Self::NetworkOrder { .. } | Self::LowerSegment { .. } => {
                self.write_segment(data);
            }
            Self::RouteTransformed { register } => {
                data.u32(1, register.0);
                data.u32(2, ROUTE_TRANSFORMED);
            }
            Self::Masquerade | Self::Other(_) => {}
        }
    }

    fn write_lookup(&self, data: &mut AttrWriter) {
        match self {
            Self::Lookup {
                set,
                register,
                inverted,
            } => {
                data.string(1, set);
                data.u32(2, register.0);
                if *inverted {
                    data.u32(5, LOOKUP_INVERTED);
                }
            }
            Self::MapLookup {
                map,
                register,
                target,
            } => {
                data.string(1, map);
                data.u32(2, register.0);
                data.u32(3, target.0);
            }
            Self::VerdictMap { map, register } => {
                data.string(1, map);
                data.u32(2, register.0);
                data.u32(3, REGISTER_VERDICT);
            }
            Self::Learn {
                op,
                map,
                register,
                data: value,
                timeout_ms,
            } => {
                data.string(1, map);
                for (kind, value) in (3..).zip([op.0, register.0, value.0]) {
                    data.u32(kind, value);
                }
                data.u64(6, *timeout_ms);
            }
            _ => {}
        }
    }

    fn write_ct(&self, data: &mut AttrWriter) {
        match self {
            Self::Ct {
                key,
                direction,
                register,
            } => {
                data.u32(1, register.0);
                data.u32(2, key.0);
                if let Some(direction) = direction {
                    data.bytes(3, &[direction.0]);
                }
            }
            Self::SetCt {
                key,
                direction,
                register,
            } => {
                data.u32(2, key.0);
                if let Some(direction) = direction {
                    data.bytes(3, &[direction.0]);
                }
                data.u32(4, register.0);
            }
            _ => {}
        }
    }

    /// Expressions whose attributes are all numbers.
    fn write_numbers(&self, data: &mut AttrWriter) {
        match self {
            Self::Random { modulus, register } => {
                data.u32(1, register.0);
                data.u32(2, *modulus);
                data.u32(3, NUMGEN_RANDOM);
            }
            Self::Counted { modulus, register } => {
                data.u32(1, register.0);
                data.u32(2, *modulus);
                data.u32(3, NUMGEN_INCREMENTAL);
            }
            Self::Hash {
                source,
                len,
                modulus,
                seed,
                register,
            } => {
                for (kind, value) in (1..).zip([source.0, register.0, *len, *modulus]) {
                    data.u32(kind, value);
                }
                if let Some(seed) = seed {
                    data.u32(5, *seed);
                }
                data.u32(7, HASH_JENKINS);
            }
            Self::RouteType { register } => {
                data.u32(1, register.0);
                data.u32(2, FIB_ADDRESS_TYPE);
                data.u32(3, FIB_DESTINATION);
            }
            Self::DestinationNat {
                family,
                address,
                port,
            } => {
                data.u32(1, NAT_DESTINATION);
                data.u32(2, family.0);
                data.u32(3, address.0);
                if let Some(port) = port {
                    data.u32(5, port.0);
                }
            }
            Self::SourceNat { family, address } => {
                data.u32(1, NAT_SOURCE);
                data.u32(2, family.0);
                data.u32(3, address.0);
            }
            _ => {}
        }
    }

    /// Expressions about the largest segment of TCP.
    fn write_segment(&self, data: &mut AttrWriter) {
        match self {
            Self::RouteSegment { register } => {
                data.u32(1, register.0);
                data.u32(2, ROUTE_SEGMENT);
            }
            Self::NetworkOrder { register } => {
                let numbers = [register.0, register.0, TO_NETWORK_ORDER, SEGMENT_LEN];
                for (kind, value) in (1..).zip(numbers.into_iter().chain([SEGMENT_LEN])) {
                    data.u32(kind, value);
                }
            }
            Self::LowerSegment { register } => {
                data.bytes(2, &[SEGMENT_OPTION]);
                data.u32(3, SEGMENT_AT);
                data.u32(4, SEGMENT_LEN);
                data.u32(6, OPTION_OF_TCP);
                data.u32(7, register.0);
            }
            _ => {}
        }
    }

    fn read_data(name: String, data: &Fields<'_>) -> Result<Self, Malformed> {
        Ok(match name.as_str() {
            "meta" => match data.register(3)? {
                Some(register) => Self::SetMeta {
                    key: MetaKey(data.u32(2)?),
                    register,
                },
                None => Self::Meta {
                    key: MetaKey(data.u32(2)?),
                    register: Register(data.u32(1)?),
                },
            },
            // With a source register it writes the packet.
            "payload" if data.get(5)?.is_none() => Self::Payload {
                base: PayloadBase(data.u32(2)?),
                offset: data.u32(3)?,
                len: data.u32(4)?,
                register: Register(data.u32(1)?),
            },
            "cmp" => Self::Compare {
                register: Register(data.u32(1)?),
                op: CompareOp(data.u32(2)?),
                value: data.value(3)?,
            },
            "lookup" => Self::read_lookup(data)?,
            // With an expression, or with flags, it does something else.
            "dynset" if data.get(7)?.is_none() && data.u32_or_zero(9)? == 0 => {
                let Some(value) = data.register(5)? else {
                    return Ok(Self::Other(name));
                };
                Self::Learn {
                    op: LearnOp(data.u32(3)?),
                    map: data.get(1)?.ok_or(Malformed)?.string(),
                    register: Register(data.u32(4)?),
                    data: value,
                    timeout_ms: data.get(6)?.map_or(Ok(0), |attr| attr.u64())?,
                }
            }
            "counter" => Self::Counter(Counter {
                bytes: data.u64(1)?,
                packets: data.u64(2)?,
            }),
            "immediate" => Self::read_immediate(name, data)?,
            "numgen" if data.u32_or_zero(4)? == 0 => {
                let (modulus, register) = (data.u32(2)?, Register(data.u32(1)?));
                match data.u32(3)? {
                    NUMGEN_RANDOM => Self::Random { modulus, register },
                    NUMGEN_INCREMENTAL => Self::Counted { modulus, register },
                    _ => Self::Other(name),
                }
            }
            "hash" if data.u32_or_zero(7)? == HASH_JENKINS && data.u32_or_zero(6)? == 0 => {
                Self::Hash {
                    source: Register(data.u32(1)?),
                    len: data.u32(3)?,
                    modulus: data.u32(4)?,
                    seed: data.get(5)?.map(|attr| attr.u32()).transpose()?,
                    register: Register(data.u32(2)?),
                }
            }
            "fib" if data.u32(2)? == FIB_ADDRESS_TYPE && data.u32(3)? == FIB_DESTINATION => {
                Self::RouteType {
                    register: Register(data.u32(1)?),
                }
            }
            "ct" => data.ct()?,
            // Without a map it names the object itself.
            "objref" => match (data.register(3)?, data.get(4)?) {
                (Some(register), Some(map)) => Self::SetTimeout {
                    map: map.string(),
                    register,
                },
                _ => Self::Other(name),
            },
            "bitwise" if data.u32_or_zero(6)? == BITWISE_MASK_XOR => Self::Bitwise {
                source: Register(data.u32(1)?),
                mask: data.value(4)?,
                xor: data.value(5)?,
                register: Register(data.u32(2)?),
            },
            "nat" => data.nat()?.unwrap_or(Self::Other(name)),
            "masq" if data.get(1)?.is_none() && data.get(2)?.is_none() => Self::Masquerade,
            "rt" if data.u32(2)? == ROUTE_SEGMENT => Self::RouteSegment {
                register: Register(data.u32(1)?),
            },
            "rt" if data.u32(2)? == ROUTE_TRANSFORMED => Self::RouteTransformed {
                register: Register(data.u32(1)?),
            },
            "byteorder" if data.is_to_network_order()? => Self::NetworkOrder {
                register: Register(data.u32(1)?),
            },
            "exthdr" if data.is_segment_option()? => Self::LowerSegment {
                register: Register(data.u32(7)?),
            },
            "reject" if data.u32(1)? == REJECT_RESET => Self::RejectReset,
            "reject" if data.u32(1)? == REJECT_ICMPX && data.is_byte(2, REJECT_PORT)? => {
                Self::RejectPort
            }
            _ => Self::Other(name),
        })
    }

    fn read_lookup(data: &Fields<'_>) -> Result<Self, Malformed> {
        let set = data.get(1)?.ok_or(Malformed)?.string();
        let register = Register(data.u32(2)?);
        Ok(match data.register(3)? {
            None => Self::Lookup {
                set,
                register,
                inverted: data.u32_or_zero(5)? & LOOKUP_INVERTED != 0,
            },
            Some(Register(REGISTER_VERDICT)) => Self::VerdictMap { map: set, register },
            Some(target) => Self::MapLookup {
                map: set,
                register,
                target,
            },
        })
    }

    fn read_immediate(name: String, data: &Fields<'_>) -> Result<Self, Malformed> {
        let content = data.get(2)?.ok_or(Malformed)?;
        if let Some(value) = content.nested().find(DATA_VALUE)? {
            return Ok(Self::Immediate {
                value: value.value.to_vec(),
                register: Register(data.u32(1)?),
            });
        }
        Ok(read_verdict(content)?.map_or(Self::Other(name), Self::Verdict))
    }
}

/// Writes a verdict as the content of a data attribute.
pub(in crate::nft) fn write_verdict(data: &mut AttrWriter, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (VERDICT_DROP, None),
        Verdict::Accept => (VERDICT_ACCEPT, None),
        Verdict::Jump(chain) => (VERDICT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (VERDICT_GOTO, Some(chain)),
        Verdict::Return => (VERDICT_RETURN, None),
    };
    data.nested(DATA_VERDICT, |inner| {
        inner.u32(VERDICT_CODE, code.cast_unsigned());
        if let Some(chain) = chain {
            inner.string(VERDICT_CHAIN, chain);
        }
    });
}

/// The verdict in a data attribute; none when there is another or none.
pub(in crate::nft) fn read_verdict(data: Attr<'_>) -> Result<Option<Verdict>, Malformed> {
    let Some(verdict) = data.nested().find(DATA_VERDICT)? else {
        return Ok(None);
    };
    let code = verdict.nested().find(VERDICT_CODE)?.ok_or(Malformed)?;
    let chain = || -> Result<String, Malformed> {
        let name = verdict.nested().find(VERDICT_CHAIN)?.ok_or(Malformed)?;
        Ok(name.string())
    };
    Ok(match code.u32()?.cast_signed() {
        VERDICT_DROP => Some(Verdict::Drop),
        VERDICT_ACCEPT => Some(Verdict::Accept),
        VERDICT_JUMP => Some(Verdict::Jump(chain()?)),
        VERDICT_GOTO => Some(Verdict::Goto(chain()?)),
        VERDICT_RETURN => Some(Verdict::Return),
        _ => None,
    })
}

/// An expression's own attributes.
struct Fields<'a>(Attrs<'a>);

impl<'a> Fields<'a> {
    fn get(&self, kind: u16) -> Result<Option<Attr<'a>>, Malformed> {
        self.0.clone().find(kind)
    }

    fn u32(&self, kind: u16) -> Result<u32, Malformed> {
        self.get(kind)?.ok_or(Malformed)?.u32()
    }

    fn u32_or_zero(&self, kind: u16) -> Result<u32, Malformed> {
        self.get(kind)?.map_or(Ok(0), |attr| attr.u32())
    }

    fn u64(&self, kind: u16) -> Result<u64, Malformed> {
        self.get(kind)?.ok_or(Malformed)?.u64()
    }

    fn register(&self, kind: u16) -> Result<Option<Register>, Malformed> {
        let attr = self.get(kind)?;
        attr.map(|attr| attr.u32().map(Register)).transpose()
    }

    fn is_byte(&self, kind: u16, value: u8) -> Result<bool, Malformed> {
        Ok(self.get(kind)?.is_some_and(|attr| attr.value == [value]))
    }

    /// Two bytes, in place.
    fn is_to_network_order(&self) -> Result<bool, Malformed> {
        let lengths = [self.u32(4)?, self.u32(5)?];
        Ok(self.u32(1)? == self.u32(2)?
            && self.u32(3)? == TO_NETWORK_ORDER
            && lengths == [SEGMENT_LEN; 2])
    }

    /// Written, not read.
    fn is_segment_option(&self) -> Result<bool, Malformed> {
        Ok(self.get(7)?.is_some()
            && self.is_byte(2, SEGMENT_OPTION)?
            && self.u32(3)? == SEGMENT_AT
            && self.u32(4)? == SEGMENT_LEN
            && self.u32_or_zero(6)? == OPTION_OF_TCP)
    }

    /// The bytes inside a nested data attribute.
    fn value(&self, kind: u16) -> Result<Vec<u8>, Malformed> {
        let data = self.get(kind)?.ok_or(Malformed)?;
        let value = data.nested().find(DATA_VALUE)?.ok_or(Malformed)?;
        Ok(value.value.to_vec())
    }

    fn ct(&self) -> Result<Expr, Malformed> {
        let key = CtKey(self.u32(2)?);
        let direction = self.get(3)?.map(|attr| match *attr.value {
            [direction] => Ok(CtDirection(direction)),
            _ => Err(Malformed),
        });
        let direction = direction.transpose()?;
        if let Some(register) = self.register(4)? {
            return Ok(Expr::SetCt {
                key,
                direction,
                register,
            });
        }
        Ok(Expr::Ct {
            key,
            direction,
            register: Register(self.u32(1)?),
        })
    }

    /// None for what is not spoken of: only the port is rewritten, or a source with its port.
    fn nat(&self) -> Result<Option<Expr>, Malformed> {
        let family = NatFamily(self.u32(2)?);
        Ok(match (self.u32(1)?, self.register(3)?, self.register(5)?) {
            (NAT_DESTINATION, Some(address), port) => Some(Expr::DestinationNat {
                family,
                address,
                port,
            }),
            (NAT_SOURCE, Some(address), None) => Some(Expr::SourceNat { family, address }),
            _ => None,
        })
    }
}
