//! nebula, from host to host.

use std::any::Any;
use std::fs;
use std::process::Command;
use std::rc::Rc;

use crate::shell::{Running, found, run};
use crate::subject::Subject;
use crate::world::{HOSTS, World};

/// Bytes that nebula adds: IPv4, UDP, its header and the tag.
const OVERHEAD: u32 = 20 + 8 + 16 + 16;
const ADDRESSES: [&str; 2] = ["10.3.0.1", "10.3.0.2"];

pub(crate) fn nebula(world: &World, name: &'static str) -> Result<Subject, String> {
    let (program, cert) = (found("nebula")?, found("nebula-cert")?);
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (place, cert) = (scratch.path().display(), cert.display());
    let any = &world.hosts[0];
    let authority = format!("-out-crt {place}/ca.crt -out-key {place}/ca.key");
    run(any, &format!("{cert} ca -name bench {authority}"))?;
    let mut keeps: Vec<Box<dyn Any>> = Vec::new();
    for (index, host) in world.hosts.iter().enumerate() {
        let address = ADDRESSES[index];
        let of_authority = format!("-ca-crt {place}/ca.crt -ca-key {place}/ca.key");
        let out = format!("-out-crt {place}/{index}.crt -out-key {place}/{index}.key");
        run(
            any,
            &format!("{cert} sign -name h{index} -ip {address}/24 {of_authority} {out}"),
        )?;
        let peer = format!(
            "\"{}\": [\"{}:4242\"]",
            ADDRESSES[1 - index],
            HOSTS[1 - index]
        );
        let config = format!(
            "pki: {{ca: {place}/ca.crt, cert: {place}/{index}.crt, key: {place}/{index}.key}}\n\
             static_host_map: {{{peer}}}\n\
             lighthouse: {{am_lighthouse: false}}\n\
             listen: {{host: 0.0.0.0, port: 4242}}\n\
             tun: {{dev: nebula{index}, mtu: {}, tx_queue: 500}}\n\
             firewall: {{outbound: [{{port: any, proto: any, host: any}}], \
             inbound: [{{port: any, proto: any, host: any}}]}}\n",
            world.mtu - OVERHEAD
        );
        let path = scratch.path().join(format!("{index}.yml"));
        fs::write(&path, config).map_err(|error| error.to_string())?;
        let mut command = Command::new(&program);
        command.arg("-config").arg(path);
        keeps.push(Box::new(Running::start(host, command)?));
    }
    keeps.push(Box::new(scratch));
    Ok(Subject {
        name,
        ends: [Rc::clone(&world.hosts[0]), Rc::clone(&world.hosts[1])],
        server: ADDRESSES[1].parse().unwrap(),
        _keeps: keeps,
    })
}
