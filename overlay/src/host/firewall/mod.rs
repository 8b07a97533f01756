//! Others' packet filters on this host, and whether they drop what weft needs to pass.
//!
//! Somebody else's chain of the hooks `forward` and `input` is read and followed for the few kinds
//! of packets that matter, as far as those are known: their devices, their protocol, and what they
//! are to connection tracking. Nothing of it is ever changed. A packet has to pass every base chain
//! of its hook: an accept of weft's own tables cannot overrule another's drop.

mod judge;
mod packet;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use weft_netns::nft::{Chain, Hook, NftError, NftSocket, TableFamily};

use self::judge::{Judgement, judge};
use self::packet::{Device, Packet, TCP, UDP};
use self::rules::TableRules;
use super::{HostLink, is_own_link};

/// Base chains that are looked at.
const CHAINS_MAX: usize = 64;

/// What is to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passing<'a> {
    /// The device that clients' packets come in by.
    pub outside: &'a str,
    /// The device of the network between the nodes that carries published ports.
    pub mesh: &'a str,
    /// The device that leads to containers.
    pub gateway: &'a str,
    /// UDP port of tunnels.
    pub tunnels: u16,
    /// UDP port of the control plane.
    pub control: u16,
    /// How tunnels come in that are encrypted, if there are any.
    pub encrypted: Option<Encrypted<'a>>,
    /// The host's links.
    pub links: &'a [HostLink],
}

/// How encrypted tunnels come in: twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encrypted<'a> {
    /// UDP port of ESP.
    pub esp: u16,
    /// UDP port of what was in it.
    pub inner: u16,
    /// The device that this comes in by.
    pub device: &'a str,
}

/// A kind of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Traffic {
    /// Connections to published ports, which the host forwards.
    Published,
    /// VXLAN datagrams of other nodes.
    Tunnels,
    /// QUIC datagrams of other agents.
    Control,
    /// ESP of other nodes.
    Sealed,
    /// What was in it, on its way to the tunnels.
    Opened,
}

/// Who keeps a chain, as far as its table tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// Docker, which leaves a chain to the host's administrator.
    Docker,
    /// ufw.
    Ufw,
    /// firewalld.
    Firewalld,
    /// Somebody.
    Unknown,
}

/// A base chain that drops something that weft needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What its table sees.
    pub family: TableFamily,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Who keeps it.
    pub keeper: Keeper,
    /// What it drops.
    pub drops: BTreeSet<Traffic>,
    /// Whether that is known. Otherwise a rule may accept some of it that asks for more than is
    /// known of it, such as the client's address.
    pub sure: bool,
}

impl Obstacle {
    /// A command that lets it pass, for a shell.
    pub fn remedy(&self, passing: &Passing<'_>) -> String {
        let devices = format!("{} {}", passing.mesh, passing.gateway);
        let (family, table) = (self.family.name(), &self.table);
        if !self.drops.contains(&Traffic::Published) {
            let ports = self.ports(passing);
            return match self.keeper {
                Keeper::Firewalld => format!(
                    "for p in {ports}; do firewall-cmd --permanent --add-port=$p/udp; done; \
                     firewall-cmd --reload"
                ),
                Keeper::Ufw => format!("for p in {ports}; do ufw allow $p/udp; done"),
                Keeper::Docker | Keeper::Unknown => format!(
                    "for p in {ports}; do nft insert rule {family} {table} {} udp dport $p accept; \
                     done",
                    self.chain
                ),
            };
        }
        let chain = match self.keeper {
            Keeper::Firewalld => {
                return format!(
                    "for d in {devices}; do firewall-cmd --permanent --zone=trusted \
                     --add-interface=$d; done; firewall-cmd --reload"
                );
            }
            Keeper::Ufw => {
                return format!(
                    "for d in {devices}; do ufw route allow in on $d; ufw route allow out on $d; \
                     done"
                );
            }
            Keeper::Docker => DOCKER_USER,
            Keeper::Unknown => &self.chain,
        };
        format!(
            "for d in {devices}; do nft insert rule {family} {table} {chain} iifname $d accept; \
             nft insert rule {family} {table} {chain} oifname $d accept; done"
        )
    }

    fn ports(&self, passing: &Passing<'_>) -> String {
        let port = |traffic| match traffic {
            Traffic::Tunnels => Some(passing.tunnels.to_string()),
            Traffic::Control => Some(passing.control.to_string()),
            Traffic::Sealed => passing.encrypted.map(|by| by.esp.to_string()),
            Traffic::Opened => passing.encrypted.map(|by| by.inner.to_string()),
            Traffic::Published => None,
        };
        let ports: Vec<String> = self.drops.iter().filter_map(|t| port(*t)).collect();
        ports.join(" ")
    }
}

/// The chain that Docker leaves to the administrator.
const DOCKER_USER: &str = "DOCKER-USER";

/// The chains of others that drop something of `passing`, in the calling thread's network
/// namespace. Blocks for as long as the kernel takes to tell of them.
///
/// # Errors
/// [`NftError`], when the kernel cannot be asked.
pub fn obstacles(passing: &Passing<'_>) -> Result<Vec<Obstacle>, NftError> {
    let mut netlink = NftSocket::open()?;
    let mut found = Vec::new();
    let mut looked_at = 0;
    for family in TableFamily::ALL {
        let chains = netlink.chains_of(family)?;
        let mut tables: BTreeMap<&str, Vec<&Chain>> = BTreeMap::new();
        for chain in chains.iter().filter(|chain| !is_ours(family, chain)) {
            tables.entry(&chain.table).or_default().push(chain);
        }
        for (table, chains) in tables {
            let mut rules = TableRules::new(&mut netlink, family, table);
            for chain in &chains {
                if looked_at == CHAINS_MAX {
                    return Ok(found);
                }
                let Some(packets) = packets(chain, passing) else {
                    continue;
                };
                looked_at += 1;
                let verdicts = verdicts(&mut rules, family, chain, &packets)?;
                found.extend(obstacle(family, chain, &chains, &verdicts));
            }
        }
    }
    Ok(found)
}

fn is_ours(family: TableFamily, chain: &Chain) -> bool {
    family == TableFamily::Inet && is_own_link(&chain.table)
}

type Verdicts = BTreeMap<Traffic, Judgement>;

fn obstacle(
    family: TableFamily,
    chain: &Chain,
    chains: &[&Chain],
    verdicts: &Verdicts,
) -> Option<Obstacle> {
    let forwards = verdicts.contains_key(&Traffic::Published);
    let drops = verdicts.iter().filter(|(_, verdict)| match verdict {
        Judgement::Passes => false,
        Judgement::Drops => true,
        // Peers' addresses are often what such a rule asks for.
        Judgement::MayDrop => forwards,
    });
    let drops: BTreeSet<Traffic> = drops.map(|(traffic, _)| *traffic).collect();
    let sure = drops
        .iter()
        .all(|traffic| verdicts.get(traffic) == Some(&Judgement::Drops));
    (!drops.is_empty()).then(|| Obstacle {
        family,
        table: chain.table.clone(),
        chain: chain.name.clone(),
        keeper: keeper(&chain.table, chains),
        drops,
        sure,
    })
}

fn keeper(table: &str, chains: &[&Chain]) -> Keeper {
    let has = |name: &str| chains.iter().any(|chain| chain.name == name);
    if table == "firewalld" {
        Keeper::Firewalld
    } else if has("ufw-user-forward") || has("ufw6-user-forward") {
        Keeper::Ufw
    } else if has(DOCKER_USER) {
        Keeper::Docker
    } else {
        Keeper::Unknown
    }
}

/// The worst that a chain does to packets of each kind.
fn verdicts(
    rules: &mut TableRules<'_>,
    family: TableFamily,
    chain: &Chain,
    packets: &[(Traffic, Packet)],
) -> Result<Verdicts, NftError> {
    let mut verdicts = Verdicts::new();
    let Some(base) = &chain.base else {
        return Ok(verdicts);
    };
    for (traffic, packet) in packets {
        for v6 in [false, true] {
            let seen = match family {
                TableFamily::Inet => true,
                TableFamily::Ip => !v6,
                TableFamily::Ip6 => v6,
            };
            if !seen {
                continue;
            }
            let packet = Packet {
                v6,
                ..packet.clone()
            };
            let verdict = judge(rules, &chain.name, base, &packet)?;
            let worst = verdicts.entry(*traffic).or_insert(verdict);
            if verdict != Judgement::Passes && *worst != Judgement::Drops {
                *worst = verdict;
            }
        }
    }
    Ok(verdicts)
}

/// What comes to a chain; `None` when it sees nothing of interest.
fn packets(chain: &Chain, passing: &Passing<'_>) -> Option<Vec<(Traffic, Packet)>> {
    let base = chain.base.as_ref().filter(|base| base.kind == "filter")?;
    let device = |name: &str| {
        let link = passing.links.iter().find(|link| link.name == name);
        Device {
            name: name.to_owned(),
            index: link.map_or(0, |link| link.index),
        }
    };
    let [outside, mesh, gateway] = [passing.outside, passing.mesh, passing.gateway].map(device);
    match base.hook {
        Hook::FORWARD => {
            let ways = [(&outside, &mesh), (&mesh, &gateway), (&outside, &gateway)];
            let packets = ways.into_iter().flat_map(|(input, output)| {
                let first = Packet {
                    input: input.clone(),
                    output: output.clone(),
                    v6: false,
                    protocol: TCP,
                    port: None,
                    reply: false,
                    translated: true,
                };
                let answer = Packet {
                    input: output.clone(),
                    output: input.clone(),
                    reply: true,
                    ..first.clone()
                };
                [first, answer].map(|packet| (Traffic::Published, packet))
            });
            Some(packets.collect())
        }
        Hook::INPUT => {
            let arriving = |input: &Device, port| Packet {
                input: input.clone(),
                output: Device::default(),
                v6: false,
                protocol: UDP,
                port: Some(port),
                reply: false,
                translated: false,
            };
            let mut packets = vec![
                (Traffic::Tunnels, arriving(&outside, passing.tunnels)),
                (Traffic::Control, arriving(&outside, passing.control)),
            ];
            if let Some(by) = passing.encrypted {
                packets.push((Traffic::Sealed, arriving(&outside, by.esp)));
                packets.push((Traffic::Opened, arriving(&device(by.device), by.inner)));
            }
            Some(packets)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
