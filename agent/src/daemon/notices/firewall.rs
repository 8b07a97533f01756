//! Others' packet filters, in words.

use std::fs;

use tracing::debug;
use weft_encrypt::host::TAP;
use weft_encrypt::path::ESP_PORT;
use weft_netns::nft::NftSocket;
use weft_overlay::gateway::layout::HOST_END as GATEWAY_IF;
use weft_overlay::host::HostFacts;
use weft_overlay::host::firewall::{Encrypted, Obstacle, Passing, Traffic, obstacles};
use weft_raft::model::Node;

use crate::translate::services::published::MESH_IF;

/// Tables of the older iptables in use, a name a line (net/ipv4/netfilter/ip_tables.c).
const LEGACY: [(&str, &str); 2] = [
    ("/proc/net/ip_tables_names", "iptables-legacy"),
    ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
];

/// The number of the packet filter's last change.
#[derive(Debug, Default)]
pub(super) struct Generation(Option<u32>);

impl Generation {
    /// Whether anybody changed the host's packet filter since this was last asked.
    pub(super) async fn has_changed(&mut self) -> bool {
        let read = || NftSocket::open().and_then(|mut netlink| netlink.generation());
        let read = tokio::task::spawn_blocking(read).await;
        let Ok(Ok(now)) = read else {
            return false;
        };
        self.0.replace(now) != Some(now)
    }
}

/// A line for each of others' chains that drops what weft needs to pass. `tunnels` is the port of
/// those in clear, and `inner` of those in ESP, if there are any.
pub(super) async fn lines(
    facts: HostFacts,
    row: &Node,
    tunnels: u16,
    inner: Option<u16>,
) -> Vec<String> {
    let (data_path, control) = (row.data_path_addr, row.addr.port());
    let read = move || {
        let outside = facts.link_for(data_path);
        let passing = Passing {
            outside: outside.map_or("", |link| link.name.as_str()),
            mesh: MESH_IF,
            gateway: GATEWAY_IF,
            tunnels,
            control,
            encrypted: inner.map(|inner| Encrypted {
                esp: ESP_PORT,
                inner,
                device: TAP,
            }),
            links: &facts.links,
        };
        let found = obstacles(&passing).unwrap_or_else(|error| {
            debug!(%error, "the host's packet filter could not be read");
            Vec::new()
        });
        let lines = found.iter().map(|obstacle| line(obstacle, &passing));
        lines.chain(legacy()).collect()
    };
    // Only a panic of its own could keep it from answering.
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

fn line(obstacle: &Obstacle, passing: &Passing<'_>) -> String {
    let what = |traffic: &Traffic| match traffic {
        Traffic::Published => "connections to published ports".to_owned(),
        Traffic::Tunnels => format!("tunnels ({}/udp)", passing.tunnels),
        Traffic::Control => format!("other agents ({}/udp)", passing.control),
        Traffic::Sealed => format!("encrypted tunnels ({ESP_PORT}/udp)"),
        Traffic::Opened => format!("what these carry ({} of {TAP})", inner(passing)),
    };
    let what: Vec<String> = obstacle.drops.iter().map(what).collect();
    let drops = match obstacle.sure {
        true => "drops",
        false => "drops, unless a rule of it accepts some,",
    };
    format!(
        "this host's firewall {drops} {}: chain {} of nftables table {} {}; let them pass with: {}",
        what.join(" and "),
        obstacle.chain,
        obstacle.family.name(),
        obstacle.table,
        obstacle.remedy(passing)
    )
}

fn inner(passing: &Passing<'_>) -> String {
    let port = passing.encrypted.map(|by| by.inner);
    port.map_or_else(String::new, |port| format!("{port}/udp"))
}

/// Its rules cannot be read without its own interface to the kernel.
fn legacy() -> Vec<String> {
    let in_use = LEGACY.into_iter().filter(|(path, _)| {
        let names = fs::read_to_string(path).unwrap_or_default();
        names.lines().any(|name| name == "filter")
    });
    in_use
        .map(|(_, program)| {
            format!(
                "this host has a firewall of {program}, which cannot be read; check with \
                 '{program} -S FORWARD' that it lets {MESH_IF} and {GATEWAY_IF} pass"
            )
        })
        .collect()
}
