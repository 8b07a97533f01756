//! `--publish` as people write it.
//!
//! ```text
//! short:  [PUBLISHED:]TARGET[/tcp|/udp]       a port or a range of ports each: 8080:80, 80, 53:53/udp
//! long:   KEY=VALUE,..                        target=80,published=8080-8081,..
//! ```
//!
//! Without a published port the cluster chooses one. Ranges pair up in order and must be of the
//! same length.

use std::net::IpAddr;

use clap::ValueEnum;
use ipnet::IpNet;

use crate::api::types::{Port, PortKey, Protocol, PublishMode, SourceMode};

/// Ports of one range; a service has no more.
const MAX_RANGE: usize = 1024;

/// Reads a `--publish`: a port for each of a range. The error says what is accepted.
pub fn parse(text: &str) -> Result<Vec<Port>, String> {
    if text.contains('=') {
        Long::parse(text)?.ports()
    } else {
        short(text)
    }
}

/// Reads a `--publish-rm`, `PUBLISHED[/tcp|/udp]`: a port or a range of them.
pub fn parse_key(text: &str) -> Result<Vec<PortKey>, String> {
    if text.contains([':', '=']) {
        return Err("name the published port only, such as 8080 or 53/udp".to_owned());
    }
    let (ports, protocol) = protocol_of(text)?;
    let keys = span(ports)?.into_iter().map(|published| PortKey {
        published,
        protocol,
    });
    Ok(keys.collect())
}

fn short(text: &str) -> Result<Vec<Port>, String> {
    let (ports, protocol) = protocol_of(text)?;
    let parts: Vec<&str> = ports.split(':').collect();
    let (published, target) = match parts.as_slice() {
        [target] => (None, span(target)?),
        [published, target] => (Some(span(published)?), span(target)?),
        _ => {
            return Err(
                "too many ':'; an address goes into the long form: ip=192.0.2.1,published=8080,\
                 target=80"
                    .to_owned(),
            );
        }
    };
    pairs(published, target, |published, target| Port {
        published,
        target,
        protocol,
        mode: PublishMode::default(),
        ip: None,
        source: SourceMode::default(),
        allow_from: Vec::new(),
    })
}

/// What the long form said.
#[derive(Default)]
struct Long {
    published: Option<Vec<u16>>,
    target: Option<Vec<u16>>,
    protocol: Option<Protocol>,
    mode: Option<PublishMode>,
    ip: Option<IpAddr>,
    source: Option<SourceMode>,
    allow_from: Vec<IpNet>,
}

impl Long {
    fn parse(text: &str) -> Result<Self, String> {
        let mut long = Self::default();
        for field in text.split(',') {
            let (key, value) = field.split_once('=').ok_or_else(|| {
                format!("`{field}` is not KEY=VALUE; write it like published=8080,target=80")
            })?;
            long.field(key, value)?;
        }
        Ok(long)
    }

    fn field(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "published" => once(&mut self.published, key, span(value)?),
            "target" => once(&mut self.target, key, span(value)?),
            "protocol" => once(&mut self.protocol, key, choice(key, value)?),
            "mode" => once(&mut self.mode, key, choice(key, value)?),
            "ip" => once(&mut self.ip, key, address(value)?),
            "source" => once(&mut self.source, key, choice(key, value)?),
            "allow-from" => {
                self.allow_from.push(prefix(value)?);
                Ok(())
            }
            _ => Err(format!(
                "there is no key `{key}`; there are published, target, protocol, mode, ip, source \
                 and allow-from"
            )),
        }
    }

    fn ports(self) -> Result<Vec<Port>, String> {
        let protocol = self.protocol.unwrap_or_default();
        let source = self.source.unwrap_or_default();
        if (protocol, source) == (Protocol::Udp, SourceMode::ProxyV2) {
            return Err("source=proxy-v2 is for TCP; use preserve or snat with udp".to_owned());
        }
        let target = self.target.ok_or(
            "target= is missing; give the port that the endpoints listen on, such as target=80",
        )?;
        pairs(self.published, target, |published, target| Port {
            published,
            target,
            protocol,
            mode: self.mode.unwrap_or_default(),
            ip: self.ip,
            source,
            allow_from: self.allow_from.clone(),
        })
    }
}

fn pairs(
    published: Option<Vec<u16>>,
    target: Vec<u16>,
    port: impl Fn(u16, u16) -> Port,
) -> Result<Vec<Port>, String> {
    // The cluster chooses for zero.
    let published = published.unwrap_or_else(|| vec![0; target.len()]);
    if published.len() != target.len() {
        return Err(format!(
            "published ports: {}, target ports: {}; give as many of both",
            published.len(),
            target.len()
        ));
    }
    let pairs = published.into_iter().zip(target);
    Ok(pairs
        .map(|(published, target)| port(published, target))
        .collect())
}

fn protocol_of(text: &str) -> Result<(&str, Protocol), String> {
    match text.split_once('/') {
        None => Ok((text, Protocol::default())),
        Some((ports, protocol)) => Ok((ports, choice("protocol", protocol)?)),
    }
}

/// `80`, or `80-89` with both ends.
fn span(text: &str) -> Result<Vec<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        return Err(format!(
            "range {text} ends before it begins; write {last}-{first}"
        ));
    }
    let ports: Vec<u16> = (first..=last).collect();
    if ports.len() > MAX_RANGE {
        return Err(format!(
            "range {text} has {} ports; a service has {MAX_RANGE} at most",
            ports.len()
        ));
    }
    Ok(ports)
}

fn port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(format!(
            "`{text}` is not a port; use 1 to 65535, and write a port as 8080:80 and a range as \
             8080-8081:80-81"
        )),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => {
            Err("leave ip= out to publish on every address".to_owned())
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!(
            "`{text}` is not an address; write ip=192.0.2.1 or ip=2001:db8::1"
        )),
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(format!(
            "allow-from takes prefixes; write allow-from={}",
            IpNet::from(address)
        ));
    }
    let net: IpNet = text.parse().map_err(|_| {
        format!("`{text}` is not a prefix; write allow-from=10.0.0.0/8 or allow-from=2001:db8::/32")
    })?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(format!(
            "host bits are set in {text}; did you mean {}?",
            net.trunc()
        ))
    }
}

fn once<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("`{key}` is given twice; give it once")),
    }
}

fn choice<T: ValueEnum>(key: &str, text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let known: Vec<String> = T::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value)
            .map(|value| value.get_name().to_owned())
            .collect();
        format!("{key} `{text}` is not known; use {}", known.join(" or "))
    })
}

#[cfg(test)]
mod tests;
