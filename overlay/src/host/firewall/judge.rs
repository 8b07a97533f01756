use std::sync::Arc;

use weft_netns::nft::{
    BaseChain, CompareOp, Expr, ForeignSet, MapData, NftError, Register, Step, Verdict,
};

use super::packet::{Packet, Registers};

/// Chains that may call one another (`NFT_JUMP_STACK_SIZE`).
const DEPTH_MAX: usize = 16;
/// Rules that a packet is taken through; what comes after is not looked at.
const RULES_MAX: usize = 20_000;
/// Bytes of `struct xt_conntrack_mtinfo3`, and where in it the fields are that matter here
/// (linux/netfilter/xt_conntrack.h).
const CONNTRACK_LEN: usize = 162;
const CONNTRACK_FLAGS: usize = 146;
const CONNTRACK_INVERTED: usize = 148;
const CONNTRACK_STATE: usize = 150;
const CONNTRACK_STATUS: usize = 152;
/// `XT_CONNTRACK_STATE`, `XT_CONNTRACK_STATUS`, `XT_CONNTRACK_STATE_ALIAS`.
const BY_STATE: u16 = 1;
const BY_STATUS: u16 = 1 << 6;
const BY_ALIAS: u16 = 1 << 13;
/// `XT_CONNTRACK_STATE_DNAT`.
const STATE_TRANSLATED: u16 = 1 << 7;

/// The rules of one table.
pub(super) trait Rules {
    /// Those of a chain, in order.
    fn chain(&mut self, name: &str) -> Result<Arc<[Vec<Step>]>, NftError>;
    /// A set or map.
    fn set(&mut self, name: &str) -> Result<Arc<ForeignSet>, NftError>;
}

/// What a chain does to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It lets it pass.
    Passes,
    /// It drops it.
    Drops,
    /// It drops it unless a rule accepts it that asks for more than is known of the packet.
    MayDrop,
}

/// What a base chain does to a packet.
pub(super) fn judge(
    rules: &mut dyn Rules,
    chain: &str,
    base: &BaseChain,
    packet: &Packet,
) -> Result<Judgement, NftError> {
    let mut walk = Walk {
        rules,
        packet,
        budget: RULES_MAX,
        may_accept: false,
    };
    let end = walk.chain(chain, 0, false)?;
    let accepted = match end {
        End::Accepted => true,
        End::Dropped => false,
        End::Through => base.accept,
    };
    Ok(match (accepted, walk.may_accept) {
        (true, _) => Judgement::Passes,
        (false, true) => Judgement::MayDrop,
        (false, false) => Judgement::Drops,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fits {
    Yes,
    No,
    Maybe,
}

impl Fits {
    fn known(fits: bool) -> Self {
        if fits { Self::Yes } else { Self::No }
    }
}

/// How a packet comes out of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Accepted,
    Dropped,
    Through,
}

/// What a step leads to.
enum Effect {
    On(Fits),
    Verdict(Verdict),
    /// A verdict that the packet may get.
    MaybeVerdict(Verdict),
}

struct Walk<'a> {
    rules: &'a mut dyn Rules,
    packet: &'a Packet,
    budget: usize,
    may_accept: bool,
}

impl Walk<'_> {
    /// `maybe`: that the packet comes here at all is not known.
    fn chain(&mut self, name: &str, depth: usize, maybe: bool) -> Result<End, NftError> {
        if depth >= DEPTH_MAX {
            return Ok(End::Through);
        }
        let rules = self.rules.chain(name)?;
        for rule in rules.iter() {
            if self.budget == 0 {
                self.may_accept = true;
                return Ok(End::Through);
            }
            self.budget -= 1;
            let Some((verdict, fits)) = self.rule(rule)? else {
                continue;
            };
            let maybe = maybe || fits == Fits::Maybe;
            let (end, here) = match verdict {
                Verdict::Accept => (End::Accepted, false),
                Verdict::Drop => (End::Dropped, false),
                Verdict::Return => (End::Through, true),
                Verdict::Jump(chain) => (self.chain(&chain, depth + 1, maybe)?, false),
                Verdict::Goto(chain) => (self.chain(&chain, depth + 1, maybe)?, true),
            };
            // Of what is not sure, only that it may accept matters.
            if maybe {
                self.may_accept |= end == End::Accepted;
            } else if end != End::Through || here {
                return Ok(end);
            }
        }
        Ok(End::Through)
    }

    /// The verdict of a rule, and whether it is sure; `None` where it has none for the packet.
    fn rule(&mut self, steps: &[Step]) -> Result<Option<(Verdict, Fits)>, NftError> {
        let mut registers = Registers::new();
        let mut fits = Fits::Yes;
        for step in steps {
            match self.step(step, &mut registers)? {
                Effect::On(Fits::Yes) => {}
                Effect::On(Fits::Maybe) => fits = Fits::Maybe,
                Effect::On(Fits::No) => return Ok(None),
                Effect::Verdict(verdict) => return Ok(Some((verdict, fits))),
                Effect::MaybeVerdict(verdict) => return Ok(Some((verdict, Fits::Maybe))),
            }
        }
        Ok(None)
    }

    fn step(&mut self, step: &Step, registers: &mut Registers) -> Result<Effect, NftError> {
        Ok(match step {
            Step::Native(expr) => return self.native(expr, registers),
            Step::Match { name, info } => Effect::On(self.matches(name, info)),
            Step::Target(name) if name == "REJECT" => Effect::Verdict(Verdict::Drop),
            Step::Target(name) if name == "NFQUEUE" => Effect::MaybeVerdict(Verdict::Accept),
            Step::Target(_) => Effect::On(Fits::Yes),
        })
    }

    fn native(&mut self, expr: &Expr, registers: &mut Registers) -> Result<Effect, NftError> {
        let fits = match expr {
            Expr::Meta { key, register } => {
                registers.load(*register, self.packet.meta(*key).as_deref());
                Fits::Yes
            }
            Expr::Payload {
                base,
                offset,
                len,
                register,
            } => {
                let value = self.packet.payload(*base, *offset, *len);
                registers.load(*register, value.as_deref());
                Fits::Yes
            }
            Expr::Ct { key, register, .. } => {
                registers.load(*register, self.packet.ct(*key).as_deref());
                Fits::Yes
            }
            Expr::Immediate { value, register } => {
                registers.load(*register, Some(value));
                Fits::Yes
            }
            Expr::Bitwise {
                source,
                mask,
                xor,
                register,
            } => {
                registers.bitwise(*source, mask, xor, *register);
                Fits::Yes
            }
            Expr::Compare {
                register,
                op,
                value,
            } => compare(registers.value(*register, value.len()), *op, value),
            Expr::Lookup {
                set,
                register,
                inverted,
            } => match (self.contains(set, *register, registers)?, inverted) {
                (Fits::Yes, true) => Fits::No,
                (Fits::No, true) => Fits::Yes,
                (fits, _) => fits,
            },
            Expr::VerdictMap { map, register } => {
                return self.verdict_of(map, *register, registers);
            }
            Expr::Random { register, .. }
            | Expr::Counted { register, .. }
            | Expr::Hash { register, .. }
            | Expr::RouteType { register }
            | Expr::RouteSegment { register }
            | Expr::RouteTransformed { register }
            | Expr::NetworkOrder { register } => {
                registers.load(*register, None);
                Fits::Yes
            }
            Expr::MapLookup { target, .. } => {
                registers.load(*target, None);
                Fits::Maybe
            }
            Expr::LowerSegment { .. } => Fits::Maybe,
            Expr::SetMeta { .. }
            | Expr::SetCt { .. }
            | Expr::SetTimeout { .. }
            | Expr::Learn { .. }
            | Expr::DestinationNat { .. }
            | Expr::SourceNat { .. }
            | Expr::Masquerade
            | Expr::Counter(_) => Fits::Yes,
            Expr::RejectPort | Expr::RejectReset => return Ok(Effect::Verdict(Verdict::Drop)),
            Expr::Verdict(verdict) => return Ok(Effect::Verdict(verdict.clone())),
            Expr::Other(name) => return Ok(other(name, registers)),
        };
        Ok(Effect::On(fits))
    }

    fn contains(
        &mut self,
        set: &str,
        register: Register,
        registers: &Registers,
    ) -> Result<Fits, NftError> {
        let known = |key: &[u8]| registers.value(register, key.len());
        // Sets of addresses can be long; nothing is known of a packet's.
        if known(&[0]).is_none() {
            return Ok(Fits::Maybe);
        }
        let set = self.rules.set(set)?;
        let keys = set.elements.iter().map(|element| &element.key);
        let mut fits = if set.ranges { Fits::Maybe } else { Fits::No };
        for key in keys {
            match known(key) {
                Some(value) if value == *key && !set.ranges => return Ok(Fits::Yes),
                Some(_) => {}
                None => fits = Fits::Maybe,
            }
        }
        Ok(fits)
    }

    fn verdict_of(
        &mut self,
        map: &str,
        register: Register,
        registers: &Registers,
    ) -> Result<Effect, NftError> {
        if registers.value(register, 1).is_none() {
            return Ok(Effect::On(Fits::Maybe));
        }
        let map = self.rules.set(map)?;
        if map.ranges {
            return Ok(Effect::On(Fits::Maybe));
        }
        for element in &map.elements {
            let value = registers.value(register, element.key.len());
            if value.is_some_and(|value| value == element.key)
                && let MapData::Verdict(verdict) = &element.data
            {
                return Ok(Effect::Verdict(verdict.clone()));
            }
        }
        Ok(Effect::On(Fits::Yes))
    }

    /// A match of iptables.
    fn matches(&self, name: &str, info: &[u8]) -> Fits {
        match name {
            "comment" => Fits::Yes,
            "conntrack" => self.conntrack(info),
            "state" => match info.first_chunk() {
                Some(mask) => Fits::known(u32::from_ne_bytes(*mask) & self.packet.state() != 0),
                None => Fits::Maybe,
            },
            _ => Fits::Maybe,
        }
    }

    fn conntrack(&self, info: &[u8]) -> Fits {
        let field = |at: usize| {
            let bytes = info.get(at..).and_then(<[u8]>::first_chunk)?;
            Some(u16::from_ne_bytes(*bytes))
        };
        let fields = [
            CONNTRACK_FLAGS,
            CONNTRACK_INVERTED,
            CONNTRACK_STATE,
            CONNTRACK_STATUS,
        ];
        let [Some(flags), Some(inverted), Some(state), Some(status)] = fields.map(field) else {
            return Fits::Maybe;
        };
        if info.len() < CONNTRACK_LEN {
            return Fits::Maybe;
        }
        let translated = match self.packet.translated {
            true => STATE_TRANSLATED,
            false => 0,
        };
        let in_state = u32::from(state) & (self.packet.state() | u32::from(translated)) != 0;
        let in_status = u32::from(status) & self.packet.status() != 0;
        let against = |flag: u16, fits: bool| flags & flag != 0 && fits == (inverted & flag != 0);
        if against(BY_STATE, in_state) || against(BY_STATUS, in_status) {
            return Fits::No;
        }
        match flags & !(BY_STATE | BY_STATUS | BY_ALIAS) {
            0 => Fits::Yes,
            _ => Fits::Maybe,
        }
    }
}

/// `enum nft_cmp_ops`: equal, not, less, at most, greater, at least.
fn compare(left: Option<Vec<u8>>, op: CompareOp, right: &[u8]) -> Fits {
    let Some(left) = left else {
        return Fits::Maybe;
    };
    let left = left.as_slice();
    match op.0 {
        0 => Fits::known(left == right),
        1 => Fits::known(left != right),
        2 => Fits::known(left < right),
        3 => Fits::known(left <= right),
        4 => Fits::known(left > right),
        5 => Fits::known(left >= right),
        _ => Fits::Maybe,
    }
}

fn other(name: &str, registers: &mut Registers) -> Effect {
    match name {
        "reject" => Effect::Verdict(Verdict::Drop),
        "queue" => Effect::MaybeVerdict(Verdict::Accept),
        "log" | "last" | "notrack" | "objref" | "dup" | "flow_offload" | "nat" | "masq"
        | "redir" | "synproxy" => Effect::On(Fits::Yes),
        "limit" | "quota" | "connlimit" => Effect::On(Fits::Maybe),
        _ => {
            *registers = Registers::new();
            Effect::On(Fits::Maybe)
        }
    }
}
