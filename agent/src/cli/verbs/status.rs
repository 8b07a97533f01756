use std::io::{self, Write};

use super::read;
use crate::api::client::Client;
use crate::api::types::{ApiError, Certificate, DnsStatus, EncryptionStatus, Status};
use crate::cli::args::{Format, ReadArgs};
use crate::cli::table::Table;
use crate::exit::CliError;

pub(super) async fn status(
    client: &Client,
    args: ReadArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let status = client.status().await?;
    if args.quiet {
        let node = status.node.ok_or_else(ApiError::not_member)?;
        writeln!(out, "{node}")?;
        return Ok(());
    }
    match args.format {
        Format::Json => read::json(&status, out),
        Format::Table => Ok(page(&status, out)?),
    }
}

fn page(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    own(status, out)?;
    if !status.peers.is_empty() {
        writeln!(out)?;
        peers(status).write(out)?;
    }
    if let Some(encryption) = &status.encryption {
        writeln!(out)?;
        protected(encryption).write(out)?;
    }
    section(
        out,
        "Not programmed on this host, tried again:",
        status
            .problems
            .iter()
            .map(|p| format!("{}: {}", p.object, p.message)),
    )?;
    let blocked = status.encryption.iter().flat_map(|all| &all.peers);
    section(
        out,
        "Blocked, since encrypted networks never send in clear:",
        blocked.filter_map(|peer| Some(format!("{}: {}", peer.name, peer.reason.as_ref()?))),
    )?;
    section(
        out,
        "Of this host, in the way of services:",
        status.warnings.iter().cloned(),
    )?;
    section(
        out,
        "Missing in this kernel:",
        status.features.iter().filter(|f| !f.present).map(|f| {
            let hint = f.hint.as_deref().unwrap_or("no remedy is known");
            format!("{}: {hint}", f.name)
        }),
    )?;
    section(
        out,
        "Dropped or refused:",
        status
            .drops
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(name, count)| format!("{name}: {count}")),
    )
}

fn own(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let mut line = |key: &str, value: &str| writeln!(out, "{key:<12} {value}");
    match (&status.node, &status.name) {
        (Some(id), name) => line(
            "Node",
            &format!("{} ({id})", name.as_deref().unwrap_or("-")),
        )?,
        _ => line(
            "Node",
            "in no cluster; 'weft init' starts one, 'weft join' enters one",
        )?,
    }
    if let Some(cluster) = &status.cluster {
        line("Cluster", cluster)?;
    }
    if let Some(role) = status.role {
        line("Role", &role.to_string())?;
        line("Leader", &leader(status))?;
        let managers = status.managers;
        let verdict = if managers.reachable < managers.needed {
            ": no change can be decided"
        } else {
            ""
        };
        line(
            "Managers",
            &format!(
                "{} of {} reachable, {} needed{verdict}",
                managers.reachable, managers.total, managers.needed
            ),
        )?;
        line(
            "Revision",
            &format!("{}, in the kernel {}", status.revision, status.applied),
        )?;
    }
    if let Some(certificate) = &status.certificate {
        line("Certificate", &validity(certificate))?;
    }
    if let Some(dataplane) = &status.dataplane {
        let (version, pid) = (&dataplane.version, dataplane.pid);
        let connections = dataplane.connections;
        let lost = match dataplane.lost {
            0 => String::new(),
            times => format!(", started again {times} times"),
        };
        line(
            "Data plane",
            &format!("{version}, process {pid}, {connections} connections{lost}"),
        )?;
    }
    if let Some(dns) = &status.dns {
        line("Names", &names(dns))?;
    }
    line(
        "Agent",
        &format!("{}, process {}", status.version, status.pid),
    )
}

/// Where names are answered, and who is asked for others.
fn names(dns: &DnsStatus) -> String {
    let plural = if dns.serving == 1 { "" } else { "s" };
    let failed = match dns.failed {
        0 => String::new(),
        count => format!(", not in {count} (see 'weft endpoint inspect')"),
    };
    let others = match (&dns.error, dns.upstreams.join(", ")) {
        (Some(error), _) => format!("no others: {error}"),
        (None, upstreams) => format!("others by {upstreams}"),
    };
    let serving = dns.serving;
    format!("answered in {serving} container{plural}{failed}; {others}")
}

/// The nodes that traffic of encrypted networks is exchanged with.
fn protected(encryption: &EncryptionStatus) -> Table {
    let mut table = Table::new(&[
        "ENCRYPTED",
        "PATH",
        "STATE",
        "EPOCH",
        "AGE",
        "OUT",
        "IN",
        "DROPPED",
        "HEARD",
    ]);
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let path = match &encryption.form {
        Some(form) => format!("{}-{form}", encryption.path),
        None => encryption.path.clone(),
    };
    for peer in &encryption.peers {
        let heard = peer
            .last_received_ms
            .map(|ms| format!("{} s ago", ms / 1000));
        table.row(vec![
            peer.name.clone(),
            path.clone(),
            peer.state.to_string(),
            format!("{}/{}", number(peer.epoch_out), number(peer.epoch_in)),
            peer.age_s.map_or("-".to_owned(), |age| format!("{age} s")),
            peer.packets_out.to_string(),
            peer.packets_in.to_string(),
            peer.drops.values().sum::<u64>().to_string(),
            heard.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

fn leader(status: &Status) -> String {
    let Some(leader) = &status.leader else {
        return "none known".to_owned();
    };
    if status.node.as_ref() == Some(leader) {
        return "this host".to_owned();
    }
    let name = status.peers.iter().find(|peer| peer.node == *leader);
    name.map_or_else(|| leader.clone(), |peer| peer.name.clone())
}

fn validity(certificate: &Certificate) -> String {
    let seconds = certificate.expires_in_s;
    let ago = seconds.unsigned_abs();
    let span = match ago {
        0..7_200 => format!("{} min", ago / 60),
        7_200..172_800 => format!("{} hours", ago / 3_600),
        _ => format!("{} days", ago / 86_400),
    };
    if seconds < 0 {
        format!("expired {span} ago")
    } else {
        format!("valid for {span}")
    }
}

fn peers(status: &Status) -> Table {
    let mut table = Table::new(&[
        "PEER ID",
        "NAME",
        "ROLE",
        "ADDR",
        "REACHABLE",
        "RTT",
        "APPLIED",
    ]);
    for peer in &status.peers {
        let reachable = match peer.reachable {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        let rtt = peer.rtt_us.map_or_else(
            || "-".to_owned(),
            |us| format!("{}.{:03} ms", us / 1000, us % 1000),
        );
        table.row(vec![
            peer.node.clone(),
            peer.name.clone(),
            peer.role.to_string(),
            peer.addr.to_string(),
            reachable.to_owned(),
            rtt,
            peer.applied
                .map_or_else(|| "-".to_owned(), |r| r.to_string()),
        ]);
    }
    table
}

fn section(
    out: &mut dyn Write,
    title: &str,
    lines: impl Iterator<Item = String>,
) -> io::Result<()> {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        writeln!(out, "\n{title}")?;
    }
    lines.try_for_each(|line| writeln!(out, "  {line}"))
}
