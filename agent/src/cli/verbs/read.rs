use std::io::Write;
use std::net::IpAddr;

use serde::Serialize;

use crate::api::types::{Endpoint, Network, Node, Port, PublishMode, Service};
use crate::cli::args::{Format, InspectArgs, ReadArgs};
use crate::cli::table::Table;
use crate::exit::CliError;

/// An object that reads print.
pub(super) trait Listed: Serialize {
    /// Column headers.
    const HEADER: &'static [&'static str];
    /// What `-q` prints.
    fn id(&self) -> &str;
    /// One cell per column.
    fn cells(&self) -> Vec<String>;
}

/// `ls`.
pub(super) fn many<T: Listed>(
    rows: &[T],
    args: ReadArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    if args.quiet {
        for row in rows {
            writeln!(out, "{}", row.id())?;
        }
        return Ok(());
    }
    match args.format {
        Format::Json => json(&rows, out),
        Format::Table => {
            let mut table = Table::new(T::HEADER);
            for row in rows {
                table.row(row.cells());
            }
            Ok(table.write(out)?)
        }
    }
}

/// `inspect`.
pub(super) fn one<T: Listed>(
    row: &T,
    args: InspectArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    if args.format == Format::Json && !args.quiet {
        return json(row, out);
    }
    let mut table = Table::new(T::HEADER);
    if args.quiet {
        writeln!(out, "{}", row.id())?;
        return Ok(());
    }
    table.row(row.cells());
    Ok(table.write(out)?)
}

/// Indented JSON and a line break.
pub(super) fn json<T: Serialize + ?Sized>(value: &T, out: &mut dyn Write) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::failed(format!("cannot be written as JSON: {error}")))?;
    Ok(writeln!(out, "{text}")?)
}

impl Listed for Node {
    const HEADER: &'static [&'static str] = &[
        "NODE ID", "NAME", "STATUS", "ROLE", "LEADER", "AVAIL", "ADDR", "VERSION",
    ];

    fn id(&self) -> &str {
        &self.id
    }

    fn cells(&self) -> Vec<String> {
        let mark = if self.is_self { " *" } else { "" };
        vec![
            format!("{}{mark}", self.id),
            self.name.clone(),
            self.status.to_string(),
            self.role.to_string(),
            (if self.leader { "leader" } else { "" }).to_owned(),
            self.availability.to_string(),
            self.addr.to_string(),
            self.version.clone(),
        ]
    }
}

impl Listed for Network {
    const HEADER: &'static [&'static str] = &[
        "NETWORK ID",
        "NAME",
        "DRIVER",
        "VNI",
        "SUBNETS",
        "MTU",
        "USED",
        "OPTIONS",
    ];

    fn id(&self) -> &str {
        &self.id
    }

    fn cells(&self) -> Vec<String> {
        let subnets: Vec<String> = self.subnets.iter().map(|s| s.cidr.to_string()).collect();
        let options: Vec<&str> = [
            (self.ingress, "ingress"),
            (self.internal, "internal"),
            (self.encrypted, "encrypted"),
            (self.multicast, "multicast"),
        ]
        .into_iter()
        .filter_map(|(is_set, name)| is_set.then_some(name))
        .collect();
        vec![
            self.id.clone(),
            self.name.clone(),
            self.driver.clone(),
            self.vni.map_or_else(String::new, |vni| vni.to_string()),
            subnets.join(","),
            self.mtu.to_string(),
            self.subnets.iter().map(|s| s.used).sum::<u64>().to_string(),
            options.join(","),
        ]
    }
}

impl Listed for Endpoint {
    const HEADER: &'static [&'static str] = &[
        "ENDPOINT ID",
        "NAME",
        "NETWORK",
        "SERVICE",
        "NODE",
        "ADDRESS",
        "IFNAME",
        "STATE",
    ];

    fn id(&self) -> &str {
        &self.id
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.name.clone(),
            self.network.clone(),
            self.service.clone().unwrap_or_default(),
            self.node.clone(),
            self.address_text(),
            self.ifname.clone(),
            self.state.to_string(),
        ]
    }
}

impl Listed for Service {
    const HEADER: &'static [&'static str] = &[
        "SERVICE ID",
        "NAME",
        "MODE",
        "SCHEDULER",
        "READY",
        "NETWORKS",
        "PORTS",
    ];

    fn id(&self) -> &str {
        &self.id
    }

    fn cells(&self) -> Vec<String> {
        let networks = self.networks.iter().map(|network| match network.vip {
            Some(vip) => format!("{}:{vip}", network.name),
            None => network.name.clone(),
        });
        vec![
            self.id.clone(),
            self.name.clone(),
            self.mode.to_string(),
            self.scheduler.to_string(),
            format!("{}/{}", self.ready(), self.endpoints.len()),
            networks.collect::<Vec<_>>().join(","),
            self.ports.iter().map(port).collect::<Vec<_>>().join(","),
        ]
    }
}

/// `8080->80/tcp`, as Docker's users know it; `host` where not every host answers.
fn port(port: &Port) -> String {
    let host = match port.mode {
        PublishMode::Ingress => "",
        PublishMode::Host => " (host)",
    };
    let arrow = format!(
        "{}->{}/{}{host}",
        port.published, port.target, port.protocol
    );
    match port.ip {
        None => arrow,
        Some(IpAddr::V4(ip)) => format!("{ip}:{arrow}"),
        Some(IpAddr::V6(ip)) => format!("[{ip}]:{arrow}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::{a_network, a_node, a_service, an_endpoint};
    use crate::cli::table::MAX_WIDTH;

    fn table<T: Listed>(row: &T) -> String {
        let mut out = Vec::new();
        many(std::slice::from_ref(row), ReadArgs::default(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn tables_fit_with_the_longest_names_and_keep_ids_whole() {
        let long = "x".repeat(63);
        let mut node = a_node();
        node.name = long.clone();
        node.addr = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
            .parse()
            .unwrap();
        let mut network = a_network();
        network.name = long.clone();
        network.subnets = vec![network.subnets[0].clone(); 5];
        (network.internal, network.ingress, network.multicast) = (true, true, true);
        let mut endpoint = an_endpoint();
        endpoint.name = long.clone();
        endpoint.network = long.clone();
        endpoint.service = Some(long.clone());
        endpoint.node = long.clone();
        let mut service = a_service();
        service.name = long.clone();
        service.networks[0].name = long;
        service.ports = vec![service.ports[0].clone(); 30];
        for (text, id) in [
            (table(&node), node.id),
            (table(&network), network.id),
            (table(&endpoint), endpoint.id),
            (table(&service), service.id),
        ] {
            assert!(text.contains(&id), "{text}");
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(MAX_WIDTH), "{text}");
        }
    }
}
