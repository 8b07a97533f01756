//! Whether a host's kernel holds exactly what the cluster says that it should: both are written as
//! sorted lines and compared. The kernel is read by iproute2, and what it should hold is worked
//! out here anew from what the lists say, so that weft is not its own judge.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weft_agent::api::types::{Endpoint, Kind, Network, Node};

use crate::api::Api;
use crate::cluster::Cluster;

/// Reads everything of a host in one go: a line per namespace and table. The arguments are paths
/// of containers' namespaces.
const READ: &str = r#"
set -e
say() {
    what=$1; where=$2; shift 2
    out=$("$@") || { echo "$what of $where: $*" >&2; exit 1; }
    printf '%s\t%s\t%s\n' "$what" "$where" "$out"
}
say host . ip -j -d address
for file in /run/weft/netns/*; do
    [ -e "$file" ] || continue
    say links "${file##*/}" nsenter --net="$file" ip -j -d address
    say fdb "${file##*/}" nsenter --net="$file" bridge -j fdb
    say neighbours "${file##*/}" nsenter --net="$file" ip -j neigh show nud all
done
for file in /run/netns/* "$@"; do
    [ -e "$file" ] || continue
    say container "$file" nsenter --net="$file" ip -j -d address
done
for path in "$@"; do
    say inode "$path" stat -L -c %i "$path"
done
for dir in /run/weft/containers/*/; do
    [ -e "$dir" ] || continue
    say directory "$dir" true
done
"#;

/// Characters of an endpoint's id in the name of its port.
const PORT_ID: usize = 13;

/// What the cluster's lists say.
struct Lists {
    nodes: Vec<Node>,
    networks: Vec<Network>,
    endpoints: Vec<Endpoint>,
}

/// Fails unless the kernel of a host holds exactly what its agent's lists imply: sandboxes and
/// what is in them, the interfaces in containers, nothing of weft's in the host's own namespace,
/// and no more files than containers.
pub fn check(cluster: &Cluster, host: usize) -> Result<()> {
    let api = Api::of(cluster, host)?;
    let lists = Lists {
        nodes: api.nodes()?,
        networks: api.networks()?,
        endpoints: api.endpoints()?,
    };
    let here = format!("h{host}");
    let paths: BTreeSet<&str> = lists
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.node == here)
        .map(|endpoint| endpoint.netns.as_str())
        .collect();
    let mut argv = vec!["sh", "-c", READ, "sh"];
    argv.extend(paths);
    let read = cluster.run(host, &argv)?;
    ensure!(
        read.status == 0,
        "{here} cannot be read: {}",
        read.stderr.trim()
    );
    let (found, inodes) = found(&read.stdout)?;
    let wanted = wanted(&lists, &here, &inodes, &found)?;
    compare(&here, wanted, found)
}

fn compare(host: &str, mut wanted: Vec<String>, mut found: Vec<String>) -> Result<()> {
    wanted.sort();
    found.sort();
    let count = |lines: &[String]| {
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for line in lines {
            *counts.entry(line.clone()).or_default() += 1;
        }
        counts
    };
    let (want, have) = (count(&wanted), count(&found));
    let number = |of: &BTreeMap<String, i64>, line: &String| of.get(line).copied().unwrap_or(0);
    let differing: Vec<String> = want
        .keys()
        .chain(have.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|line| number(&want, line) != number(&have, line))
        .map(|line| {
            let (want, have) = (number(&want, line), number(&have, line));
            format!("{want} wanted, {have} found: {line}")
        })
        .collect();
    ensure!(
        differing.is_empty(),
        "{host} is not as wanted:\n  {}",
        differing.join("\n  ")
    );
    Ok(())
}

/// Lines for what the lists imply. A namespace that is listed under `/run/netns` is expected to
/// hold what is attached and nothing else.
fn wanted(
    lists: &Lists,
    here: &str,
    inodes: &BTreeMap<String, String>,
    found: &[String],
) -> Result<Vec<String>> {
    let mut lines = vec!["host lo".to_owned(), "host eth0".to_owned()];
    let vtep_of = |name: &str| -> Result<String> {
        let node = lists.nodes.iter().find(|node| node.name == name);
        Ok(node
            .with_context(|| format!("no node {name}"))?
            .data_path_addr
            .to_string())
    };
    for network in &lists.networks {
        let members: Vec<&Endpoint> = lists
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.network_id == network.id)
            .collect();
        if members.iter().any(|endpoint| endpoint.node == here) {
            sandbox(network, &members, here, &vtep_of, &mut lines)?;
        }
    }
    for endpoint in lists
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.node == here)
    {
        let network = lists.networks.iter().find(|n| n.id == endpoint.network_id);
        let network = network.with_context(|| format!("{} is on no network", endpoint.name))?;
        lines.push(interface(network, endpoint)?);
        if !network.internal {
            lines.push("host weft-gw".to_owned());
            lines.push(format!("container {} link wfgw up", endpoint.netns));
        }
        if matches!(endpoint.kind, Kind::Run { .. }) {
            let inode = inodes.get(&endpoint.netns).context("no inode")?;
            lines.push(format!("directory {inode}"));
        }
    }
    // Every container has its own loopback interface, whichever containers there are.
    lines.extend(found.iter().filter(|line| is_loopback(line)).cloned());
    // One container on several networks has one directory and one leg, and the host one end of all.
    let once: BTreeSet<String> = lines
        .extract_if(.., |line| {
            line.starts_with("directory ")
                || line.ends_with(" link wfgw up")
                || line == "host weft-gw"
        })
        .collect();
    lines.extend(once);
    Ok(lines)
}

fn is_loopback(line: &str) -> bool {
    line.starts_with("container ") && line.ends_with(" lo")
}

fn sandbox(
    network: &Network,
    members: &[&Endpoint],
    here: &str,
    vtep_of: &impl Fn(&str) -> Result<String>,
    lines: &mut Vec<String>,
) -> Result<()> {
    let (id, mtu) = (&network.id, network.mtu);
    lines.push(format!("{id} link lo"));
    lines.push(format!(
        "{id} link br0 bridge alias weft:{id} mtu {mtu} up master -"
    ));
    if let Some(vni) = network.vni {
        lines.push(format!(
            "{id} link vxlan0 vxlan alias weft:{id} mtu {mtu} up master br0"
        ));
        let local = vtep_of(here)?;
        lines.push(format!(
            "{id} vxlan0 id {vni} local {local} port 4789 learning false proxy true ttl 64"
        ));
    }
    for endpoint in members {
        let mac = &endpoint.mac;
        if endpoint.node == here {
            let short: String = endpoint.id.chars().take(PORT_ID).collect();
            let port = format!("wf{short}");
            let alias = format!("weft:{}", endpoint.id);
            lines.push(format!(
                "{id} link {port} veth alias {alias} mtu {mtu} up master br0"
            ));
            lines.push(format!("{id} station {mac} behind {port}"));
        } else if network.vni.is_some() {
            let vtep = vtep_of(&endpoint.node)?;
            lines.push(format!("{id} station {mac} behind vxlan0"));
            lines.push(format!("{id} forward {mac} to {vtep} permanent"));
            lines.extend(
                endpoint.addresses().map(|address| {
                    format!("{id} neighbour {address} is {mac} PERMANENT on vxlan0")
                }),
            );
        }
    }
    Ok(())
}

fn interface(network: &Network, endpoint: &Endpoint) -> Result<String> {
    let mut addresses = Vec::new();
    for address in endpoint.addresses() {
        let subnet = (network.subnets.iter())
            .find(|subnet| subnet.cidr.contains(&address))
            .with_context(|| format!("{address} is in no subnet"))?;
        addresses.push(format!("{address}/{}", subnet.cidr.prefix_len()));
    }
    Ok(format!(
        "container {} link {} veth alias weft:{} mtu {} up mac {} addresses {}",
        endpoint.netns,
        endpoint.ifname,
        endpoint.id,
        network.mtu,
        endpoint.mac,
        addresses.join(" ")
    ))
}

/// Lines for what was read, and the inodes of the containers' namespaces by path.
fn found(read: &str) -> Result<(Vec<String>, BTreeMap<String, String>)> {
    let mut lines = Vec::new();
    let mut inodes = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for line in read.lines() {
        let mut fields = line.splitn(3, '\t');
        let (Some(what), Some(place), Some(text)) = (fields.next(), fields.next(), fields.next())
        else {
            bail!("not understood: {line}");
        };
        // A namespace may be named by a path under /run/netns and by an endpoint.
        if !seen.insert((what, place)) {
            continue;
        }
        let text = text.trim();
        match what {
            "inode" => {
                inodes.insert(place.to_owned(), text.to_owned());
                continue;
            }
            "directory" => {
                let inode = place.trim_end_matches('/').rsplit('/').next();
                lines.push(format!("directory {}", inode.unwrap_or_default()));
                continue;
            }
            _ => {}
        }
        let rows: Value = serde_json::from_str(if text.is_empty() { "[]" } else { text })?;
        for row in rows.as_array().into_iter().flatten() {
            lines.extend(tell(what, place, row));
            if what == "links" && row["linkinfo"]["info_kind"] == "vxlan" {
                lines.push(vxlan(place, row));
            }
        }
    }
    Ok((lines, inodes))
}

fn tell(what: &str, place: &str, row: &Value) -> Option<String> {
    match what {
        "host" => Some(format!("host {}", text(&row["ifname"]))),
        "links" => Some(link(place, row)),
        "container" => Some(container_link(place, row)),
        "neighbours" => Some(format!(
            "{place} neighbour {} is {} {} on {}",
            text(&row["dst"]),
            text(&row["lladdr"]),
            text(&row["state"][0]),
            text(&row["dev"])
        )),
        _ => forward(place, row),
    }
}

fn link(place: &str, row: &Value) -> String {
    let name = text(&row["ifname"]);
    if name == "lo" {
        return format!("{place} link lo");
    }
    format!(
        "{place} link {name} {} master {}",
        shape(row),
        text(&row["master"])
    )
}

fn container_link(place: &str, row: &Value) -> String {
    let name = text(&row["ifname"]);
    if name == "lo" {
        return format!("container {place} lo");
    }
    if name == "wfgw" {
        // Its address is the node's own business.
        let up = row["flags"].to_string().contains("\"UP\"");
        let up = if up { "up" } else { "down" };
        return format!("container {place} link wfgw {up}");
    }
    let addresses: Vec<String> = row["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|info| info["scope"] != "link")
        .map(|info| format!("{}/{}", text(&info["local"]), info["prefixlen"]))
        .collect();
    let (shape, mac) = (shape(row), text(&row["address"]));
    let addresses = addresses.join(" ");
    format!("container {place} link {name} {shape} mac {mac} addresses {addresses}")
}

/// What every link has.
fn shape(row: &Value) -> String {
    let flags = row["flags"].as_array();
    let up = flags.is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
    format!(
        "{} alias {} mtu {} {}",
        text(&row["linkinfo"]["info_kind"]),
        text(&row["ifalias"]),
        row["mtu"],
        if up { "up" } else { "down" }
    )
}

fn vxlan(place: &str, row: &Value) -> String {
    let data = &row["linkinfo"]["info_data"];
    format!(
        "{place} vxlan0 id {} local {} port {} learning {} proxy {} ttl {}",
        data["id"],
        text(&data["local"]),
        data["port"],
        data["learning"],
        data["proxy"],
        data["ttl"]
    )
}

/// Entries that the kernel makes for a device's own addresses are left out.
fn forward(place: &str, row: &Value) -> Option<String> {
    let (mac, port, state) = (text(&row["mac"]), text(&row["ifname"]), text(&row["state"]));
    if row["dst"].is_string() {
        let dst = text(&row["dst"]);
        return Some(format!("{place} forward {mac} to {dst} {state}"));
    }
    let own = state == "permanent";
    (!own).then(|| match state {
        "static" => format!("{place} station {mac} behind {port}"),
        other => format!("{place} learned {mac} behind {port} ({other})"),
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
