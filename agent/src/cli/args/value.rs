//! Values that can be judged without asking the agent. Each error says what is accepted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use weft_raft::model::{Driver, MacAddr};
use weft_raft::state::limits;

use super::service::{Publish, Unpublish};
use crate::api::MAX_WAIT;
use crate::api::types::{Affinity, Route};
use crate::{duration, name, publish};

/// Drivers that later versions have.
const LATER_DRIVERS: [&str; 4] = ["macvlan", "ipvlan", "vlan", "host-gw"];
const MIN_CERT_EXPIRY: Duration = Duration::from_secs(3600);
/// How long a client is remembered unless told otherwise; what Kubernetes' users know.
const AFFINITY_TIMEOUT: Duration = Duration::from_secs(3 * 3600);

pub(super) fn node_name(text: &str) -> Result<String, String> {
    name::check_node(text).map(|()| text.to_owned())
}

pub(super) fn network_name(text: &str) -> Result<String, String> {
    name::check_network(text).map(|()| text.to_owned())
}

pub(super) fn endpoint_name(text: &str) -> Result<String, String> {
    name::check_endpoint(text).map(|()| text.to_owned())
}

pub(super) fn service_name(text: &str) -> Result<String, String> {
    name::check_service(text).map(|()| text.to_owned())
}

pub(super) fn lab_name(text: &str) -> Result<String, String> {
    name::check_lab(text).map(|()| text.to_owned())
}

/// What names an object that exists; the agent looks for it.
pub(super) fn wanted(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("it is empty; give a NAME or an ID".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

pub(super) fn ifname(text: &str) -> Result<String, String> {
    name::check_ifname(text).map(|()| text.to_owned())
}

pub(super) fn mac(text: &str) -> Result<MacAddr, String> {
    let mac: MacAddr = text.parse()?;
    if mac.is_unicast() {
        Ok(mac)
    } else {
        Err("it names no single interface; the first byte must be even, and not all zero".into())
    }
}

pub(super) fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    text.parse()
        .map_err(|_| "not an IPv4 address; write it like 10.0.1.5".to_owned())
}

pub(super) fn ipv6(text: &str) -> Result<Ipv6Addr, String> {
    text.parse()
        .map_err(|_| "not an IPv6 address; write it like fd00::5".to_owned())
}

pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| "not an IP address; write it like 10.0.1.5 or fd00::5".to_owned())
}

pub(super) fn aux_address(text: &str) -> Result<(String, IpAddr), String> {
    let refused = "not an auxiliary address; write it NAME=ADDRESS, like router=10.0.1.5";
    match text.split_once('=') {
        Some((name, address)) if !name.is_empty() => {
            let address = address.parse().map_err(|_| refused.to_owned())?;
            Ok((name.to_owned(), address))
        }
        _ => Err(refused.to_owned()),
    }
}

/// Of either version of IP.
pub(super) fn subnet(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text
        .parse()
        .map_err(|_| "not a subnet; write it like 10.0.1.0/24 or fd00:0:0:1::/64".to_owned())?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(format!("host bits are set; did you mean {}?", net.trunc()))
    }
}

pub(super) fn pool(text: &str) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = text
        .parse()
        .map_err(|_| "not an IPv4 subnet; write it like 10.0.1.0/24".to_owned())?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(format!("host bits are set; did you mean {}?", net.trunc()))
    }
}

pub(super) fn driver(text: &str) -> Result<String, String> {
    if LATER_DRIVERS.contains(&text) {
        return Err(format!(
            "this version of weft does not have that driver yet; it has {}",
            Driver::NAMES
        ));
    }
    text.parse::<Driver>().map(|driver| driver.to_string())
}

pub(super) fn pid(text: &str) -> Result<u32, String> {
    match text.parse::<i32>() {
        Ok(pid) if pid > 0 => Ok(pid.unsigned_abs()),
        _ => Err("not a process id; give a number above 0".to_owned()),
    }
}

pub(super) fn vni(text: &str) -> Result<u32, String> {
    number(text, 1, (1 << 24) - 1)
}

pub(super) fn mtu(text: &str) -> Result<u32, String> {
    number(text, 576, 65_485)
}

/// 0 stands for `auto`.
pub(super) fn mtu_or_auto(text: &str) -> Result<u32, String> {
    match text {
        "auto" => Ok(0),
        _ => mtu(text).map_err(|error| format!("{error}, nor auto")),
    }
}

pub(super) fn data_path_port(text: &str) -> Result<u16, String> {
    number(text, 1024, 49_151)
}

pub(super) fn pool_mask_length(text: &str) -> Result<u8, String> {
    number(text, 1, 29)
}

pub(super) fn cert_expiry(text: &str) -> Result<Duration, String> {
    let expiry = duration::parse(text)?;
    if expiry < MIN_CERT_EXPIRY {
        Err("too short; 1h at least".to_owned())
    } else {
        Ok(expiry)
    }
}

pub(super) fn wait(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text)?;
    if timeout > MAX_WAIT {
        Err("too long; 1h at most".to_owned())
    } else {
        Ok(timeout)
    }
}

pub(super) fn publish(text: &str) -> Result<Publish, String> {
    publish::parse(text).map(Publish)
}

pub(super) fn unpublish(text: &str) -> Result<Unpublish, String> {
    publish::parse_key(text).map(Unpublish)
}

pub(super) fn weight(text: &str) -> Result<u16, String> {
    number(text, 0, u16::MAX)
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    number(text, 1, u16::MAX)
}

pub(super) fn affinity(text: &str) -> Result<Affinity, String> {
    let timeout = match (text, text.split_once('=')) {
        ("none", _) => return Ok(Affinity::None),
        ("client-ip", _) => AFFINITY_TIMEOUT,
        (_, Some(("client-ip", timeout))) => seconds(timeout, &limits::AFFINITY_TIMEOUTS_S)?,
        _ => return Err("not an affinity; write none, client-ip or client-ip=10m".to_owned()),
    };
    // The range is of 32 bits.
    let timeout_s = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
    Ok(Affinity::ClientIp { timeout_s })
}

pub(super) fn drain_timeout(text: &str) -> Result<Duration, String> {
    millis(text, &limits::DRAIN_TIMEOUTS_MS)
}

pub(super) fn idle_timeout(text: &str) -> Result<Duration, String> {
    seconds(text, &limits::IDLE_TIMEOUTS_S)
}

pub(super) fn idle_timeout_or_none(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Ok(Duration::ZERO),
        _ => idle_timeout(text),
    }
}

pub(super) fn millis(text: &str, range: &RangeInclusive<u32>) -> Result<Duration, String> {
    let bound = |millis: u32| Duration::from_millis(millis.into());
    between(text, bound(*range.start()), bound(*range.end()))
}

fn seconds(text: &str, range: &RangeInclusive<u32>) -> Result<Duration, String> {
    let bound = |seconds: u32| Duration::from_secs(seconds.into());
    let duration = between(text, bound(*range.start()), bound(*range.end()))?;
    match duration.subsec_millis() {
        0 => Ok(duration),
        _ => Err("not a whole number of seconds".to_owned()),
    }
}

fn between(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = duration::parse(text)?;
    if (least..=most).contains(&duration) {
        Ok(duration)
    } else {
        let (least, most) = (duration::text(least), duration::text(most));
        Err(format!("out of range; {least} to {most} are accepted"))
    }
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not a label; write it KEY=VALUE".to_owned()),
    }
}

/// What a route leads to.
pub(super) fn range(text: &str) -> Result<IpNet, String> {
    text.parse()
        .map_err(|_| "not a range of addresses; write one such as 172.16.0.0/12".to_owned())
}

pub(super) fn route(text: &str) -> Result<Route, String> {
    let parsed = text.split_once('=').and_then(|(destination, via)| {
        let (destination, via) = (destination.parse().ok()?, via.parse().ok()?);
        Some(Route { destination, via })
    });
    parsed.ok_or_else(|| "not a route; write CIDR=VIA, such as 172.16.0.0/12=10.0.1.9".to_owned())
}

/// Only the shape: the agent knows the rest.
pub(super) fn token(text: &str) -> Result<String, String> {
    let fields: Vec<&str> = text.split('-').collect();
    let base32 =
        |t: &str| !t.is_empty() && t.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
    match fields.as_slice() {
        ["WFTKN", "1", digest, secret] if base32(digest) && base32(secret) => Ok(text.to_owned()),
        _ => Err("not a join token; it looks like WFTKN-1-<digest>-<secret>".to_owned()),
    }
}

pub(super) fn log_level(text: &str) -> Result<String, String> {
    text.parse::<tracing_subscriber::EnvFilter>()
        .map(|_| text.to_owned())
        .map_err(|_| "write error, warn, info, debug, trace, or TARGET=LEVEL,..".to_owned())
}

pub(super) fn addr_or_iface(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() || name::check_ifname(text).is_ok() {
        Ok(text.to_owned())
    } else {
        Err("neither an address nor an interface name; no port here".to_owned())
    }
}

pub(super) fn addr_or_iface_port(text: &str) -> Result<String, String> {
    let refused = || "neither IP[:PORT] nor INTERFACE[:PORT]".to_owned();
    if addr_or_iface(text).is_ok() || text.parse::<SocketAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
    name::check_ifname(host).map_err(|_| refused())?;
    number::<u16>(port, 1, u16::MAX).map_err(|_| refused())?;
    Ok(text.to_owned())
}

pub(super) fn remote(text: &str) -> Result<String, String> {
    let refused = || "not HOST[:PORT]; write 192.0.2.1, 192.0.2.1:2377 or [2001:db8::1]:2377";
    if text.parse::<SocketAddr>().is_ok() || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let (host, port) = text.split_once(':').unwrap_or((text, "2377"));
    let host_like = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(host_like) {
        return Err(refused().to_owned());
    }
    number::<u16>(port, 1, u16::MAX).map_err(|_| refused().to_owned())?;
    Ok(text.to_owned())
}

pub(super) fn number<T>(text: &str, min: T, max: T) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    match text.parse::<T>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("not a number from {min} to {max}")),
    }
}
