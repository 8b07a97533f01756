//! Checks of values that make no sense in any state.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::limits;
use super::refuse::{Quoted, invalid};
use crate::command::Refusal;
use crate::model::{Attachment, EndpointKind, Labels, MacAddr};

/// The name of a network or an endpoint, or an alias: it is looked up in DNS.
pub(super) fn dns_label(what: &str, name: &str) -> Result<(), Refusal> {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = (1..=limits::DNS_LABEL_BYTES).contains(&name.len())
        && name.bytes().all(|c| edge(c) || c == b'-')
        && name.bytes().next().is_some_and(edge)
        && name.bytes().next_back().is_some_and(edge);
    if fits {
        Ok(())
    } else {
        Err(invalid(format_args!(
            "{what} {} is not a DNS label; write 1 to {} characters of a-z, 0-9 and -, the first and \
             last not -",
            Quoted(name),
            limits::DNS_LABEL_BYTES
        )))
    }
}

/// The name of a node, which is usually its host name.
pub(super) fn node_name(name: &str) -> Result<(), Refusal> {
    let fits = (1..=limits::NODE_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'))
        && name
            .bytes()
            .next()
            .is_some_and(|c| c.is_ascii_alphanumeric());
    if fits {
        Ok(())
    } else {
        Err(invalid(format_args!(
            "node name {} is not a host name; use 1 to {} characters of a-z, A-Z, 0-9, dot, - and _, \
             the first a letter or digit",
            Quoted(name),
            limits::NODE_NAME_BYTES
        )))
    }
}

/// The name of an interface inside a container, by what the kernel accepts as a device name
/// (`dev_valid_name`), as a name and not a template (`%`), and as a directory of `net.ipv4.conf`.
pub(super) fn ifname(name: &str) -> Result<(), Refusal> {
    let fits = (1..=limits::IFNAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|c| c.is_ascii_graphic() && !matches!(c, b'/' | b':' | b'%'))
        && !matches!(name, "." | ".." | "all" | "default");
    if !fits {
        return Err(invalid(format_args!(
            "interface name {} cannot be used; write 1 to {} characters without spaces, /, : and %",
            Quoted(name),
            limits::IFNAME_BYTES
        )));
    }
    if name == "lo" {
        return Err(invalid(
            "interface name `lo` is the loopback device's; choose another, such as eth0",
        ));
    }
    Ok(())
}

pub(super) fn mac(mac: MacAddr) -> Result<(), Refusal> {
    if mac.is_unicast() {
        Ok(())
    } else {
        Err(invalid(format_args!(
            "MAC address {mac} cannot name an interface; use a unicast one (first byte even, not all \
             zero), such as 02:42:0a:00:01:02"
        )))
    }
}

pub(super) fn mtu(mtu: u32) -> Result<(), Refusal> {
    in_range("MTU", mtu, &limits::MTUS, " bytes")
}

pub(super) fn underlay_mtu(mtu: u32) -> Result<(), Refusal> {
    in_range("MTU of the underlay", mtu, &limits::UNDERLAY_MTUS, " bytes")
}

pub(super) fn in_range<T: PartialOrd + std::fmt::Display>(
    what: &str,
    value: T,
    range: &RangeInclusive<T>,
    unit: &str,
) -> Result<(), Refusal> {
    if range.contains(&value) {
        Ok(())
    } else {
        Err(invalid(format_args!(
            "{what} {value} is out of range; {} to {}{unit} are accepted",
            range.start(),
            range.end()
        )))
    }
}

/// A data-path port that leaves ESP its own.
pub(super) fn not_esp(port: u16) -> Result<(), Refusal> {
    let which = match limits::ESP_PORT.checked_sub(port) {
        Some(0) => "it",
        Some(1) => "the port after it, which encrypted networks use,",
        _ => return Ok(()),
    };
    Err(invalid(format_args!(
        "data path port {port} is refused: {which} is the port of ESP in UDP; choose another, such \
         as 4789"
    )))
}

/// A control port that is none of the tunnels': what comes to those is dropped or taken for frames.
pub(super) fn apart_from_tunnels(addr: SocketAddr, data_path: u16) -> Result<(), Refusal> {
    let inner = data_path.saturating_add(1);
    if ![data_path, inner, limits::ESP_PORT].contains(&addr.port()) {
        return Ok(());
    }
    Err(invalid(format_args!(
        "control address {addr} is refused: ports {data_path}, {inner} and {} belong to tunnels; \
         listen on another, or choose another data path port at init, such as 4789",
        limits::ESP_PORT
    )))
}

/// Where peers reach a node.
pub(super) fn control_addr(addr: SocketAddr) -> Result<(), Refusal> {
    if addr.port() == 0 {
        return Err(invalid(format_args!(
            "control address {addr} has no port; peers need one to dial, such as 2377"
        )));
    }
    host_addr("control address", addr.ip())
}

pub(super) fn data_path_addr(addr: IpAddr) -> Result<(), Refusal> {
    host_addr("data path address", addr)
}

fn host_addr(what: &str, addr: IpAddr) -> Result<(), Refusal> {
    if !names_a_host(addr) {
        Err(invalid(format_args!(
            "{what} {addr} does not name one host; use an address that the other nodes reach this \
             host by"
        )))
    } else {
        Ok(())
    }
}

fn names_a_host(addr: IpAddr) -> bool {
    let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
    !addr.is_unspecified() && !addr.is_multicast() && !broadcast
}

/// The only address that a port is published on.
pub(super) fn publish_ip(ip: IpAddr) -> Result<(), Refusal> {
    if !names_a_host(ip) {
        return Err(invalid(format_args!(
            "address {ip} to publish on does not name one host; name an address of the nodes, or \
             none for all of them"
        )));
    }
    if ip.to_canonical() != ip {
        return Err(invalid(format_args!(
            "address {ip} to publish on is an IPv4 address; write {}",
            ip.to_canonical()
        )));
    }
    Ok(())
}

pub(super) fn version(version: &str) -> Result<(), Refusal> {
    if version.len() <= limits::VERSION_BYTES && version.bytes().all(|c| c.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(invalid(format_args!(
            "agent version {} is not accepted; it has at most {} printable characters",
            Quoted(version),
            limits::VERSION_BYTES
        )))
    }
}

pub(super) fn labels(labels: &Labels) -> Result<(), Refusal> {
    if labels.len() > limits::LABELS {
        return Err(too_many("labels", labels.len(), limits::LABELS));
    }
    let bytes = labels.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
    if bytes > limits::LABELS_BYTES {
        return Err(invalid(format_args!(
            "labels of {bytes} bytes are too long; keys and values together may have {}",
            limits::LABELS_BYTES
        )));
    }
    for (key, value) in labels {
        if key.is_empty() || !key.bytes().all(|c| c.is_ascii_graphic() && c != b'=') {
            return Err(invalid(format_args!(
                "label key {} is not accepted; use printable characters without spaces and =",
                Quoted(key)
            )));
        }
        if value.chars().any(char::is_control) {
            return Err(invalid(format_args!(
                "value of label {} is not accepted; it must not contain control characters",
                Quoted(key)
            )));
        }
    }
    Ok(())
}

/// Names of reserved addresses, which are for people only.
pub(super) fn aux_addresses(addresses: &BTreeMap<String, IpAddr>) -> Result<(), Refusal> {
    if addresses.len() > limits::AUX_ADDRESSES {
        return Err(too_many(
            "auxiliary addresses",
            addresses.len(),
            limits::AUX_ADDRESSES,
        ));
    }
    let fits = |name: &&String| {
        (1..=limits::DNS_LABEL_BYTES).contains(&name.len())
            && name.bytes().all(|c| c.is_ascii_graphic() && c != b'=')
    };
    match addresses.keys().find(|name| !fits(name)) {
        None => Ok(()),
        Some(name) => Err(invalid(format_args!(
            "name {} of an auxiliary address is not accepted; use 1 to {} printable characters \
             without spaces and =",
            Quoted(name),
            limits::DNS_LABEL_BYTES
        ))),
    }
}

pub(super) fn aliases(aliases: &[String]) -> Result<(), Refusal> {
    if aliases.len() > limits::ALIASES {
        return Err(too_many("aliases", aliases.len(), limits::ALIASES));
    }
    aliases
        .iter()
        .try_for_each(|alias| dns_label("alias", alias))
}

pub(super) fn attachment(attachment: &Attachment) -> Result<(), Refusal> {
    let path = &attachment.path;
    if !path.starts_with('/') || path.len() > limits::PATH_BYTES || path.contains('\0') {
        return Err(invalid(format_args!(
            "namespace path {} is not accepted; it is absolute and has at most {} bytes",
            Quoted(path),
            limits::PATH_BYTES
        )));
    }
    let boot_id = &attachment.boot_id;
    let fits = (1..=limits::BOOT_ID_BYTES).contains(&boot_id.len())
        && boot_id.bytes().all(|c| c.is_ascii_graphic());
    if fits {
        Ok(())
    } else {
        Err(invalid(format_args!(
            "boot id {} is not accepted; it has 1 to {} printable characters",
            Quoted(boot_id),
            limits::BOOT_ID_BYTES
        )))
    }
}

pub(super) fn kind(kind: &EndpointKind) -> Result<(), Refusal> {
    match kind {
        EndpointKind::Attached => Ok(()),
        EndpointKind::Run { command: line, .. } => command(line),
    }
}

/// A program and its arguments.
pub(super) fn command(command: &[String]) -> Result<(), Refusal> {
    if command.is_empty() {
        return Err(invalid("command is empty; name a program to run"));
    }
    if command.len() > limits::COMMAND_ARGUMENTS {
        return Err(too_many(
            "arguments",
            command.len(),
            limits::COMMAND_ARGUMENTS,
        ));
    }
    let bytes = command.iter().map(String::len).sum::<usize>();
    if bytes > limits::COMMAND_BYTES || command.iter().any(|argument| argument.contains('\0')) {
        return Err(invalid(format_args!(
            "command of {bytes} bytes is not accepted; it may have {} and no zero bytes",
            limits::COMMAND_BYTES
        )));
    }
    Ok(())
}

pub(super) fn probe_port(port: u16) -> Result<(), Refusal> {
    if port == 0 {
        Err(invalid(
            "health check of port 0 cannot work; name a port that the service listens on",
        ))
    } else {
        Ok(())
    }
}

/// The target of an HTTP request (RFC 9112 section 3.2.1).
pub(super) fn http_path(path: &str) -> Result<(), Refusal> {
    let fits = path.starts_with('/')
        && path.len() <= limits::PATH_BYTES
        && path.bytes().all(|c| c.is_ascii_graphic());
    if fits {
        Ok(())
    } else {
        Err(invalid(format_args!(
            "health check path {} is not accepted; it begins with / and has at most {} printable \
             characters",
            Quoted(path),
            limits::PATH_BYTES
        )))
    }
}

pub(super) fn too_many(what: &str, count: usize, limit: usize) -> Refusal {
    invalid(format_args!(
        "{count} {what} are too many; at most {limit} are accepted"
    ))
}
