//! strongSwan with kernel-libipsec: ESP in user space, from host to host. Its MTU is 1400 on every
//! underlay: it reads no more from its device.

use std::any::Any;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use crate::shell::{Running, eventually, found, run};
use crate::subject::Subject;
use crate::world::{HOSTS, World};

const ADDRESSES: [&str; 2] = ["10.4.0.1", "10.4.0.2"];
const PLUGINS: &str = "random nonce openssl aes sha1 sha2 hmac kdf gmp gcm pem pkcs1 pubkey x509 \
                       kernel-libipsec kernel-netlink socket-default vici";

pub(crate) fn libipsec(world: &World, name: &'static str) -> Result<Subject, String> {
    let (charon, swanctl) = (found("charon")?, found("swanctl")?);
    let plugin = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so";
    if !Path::new(plugin).exists() {
        return Err("its plugin kernel-libipsec is not installed".to_owned());
    }
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut keeps: Vec<Box<dyn Any>> = Vec::new();
    let mut load = Vec::new();
    for (index, host) in world.hosts.iter().enumerate() {
        let place = scratch.path().join(index.to_string());
        fs::create_dir(&place).map_err(|error| error.to_string())?;
        let (settings, connections) = (place.join("strongswan.conf"), place.join("swanctl.conf"));
        fs::write(&settings, daemon(&place)).map_err(|error| error.to_string())?;
        fs::write(&connections, connection(index)).map_err(|error| error.to_string())?;
        run(
            host,
            &format!("ip address add {}/32 dev lo", ADDRESSES[index]),
        )?;
        // Its process id file is always in /run, of which each has its own.
        let script = format!("mount -t tmpfs tmpfs /run && exec {}", charon.display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        command.env("STRONGSWAN_CONF", &settings);
        keeps.push(Box::new(Running::start(host, command)?));
        let socket = place.join("vici");
        let all = format!(
            "{} --load-all --uri unix://{}",
            swanctl.display(),
            socket.display()
        );
        load.push(format!("{all} --file {}", connections.display()));
    }
    for (host, load) in world.hosts.iter().zip(&load) {
        eventually(|| run(host, load))?;
    }
    let up = load[0].split(" --load-all ").collect::<Vec<_>>();
    let uri = up[1].split(" --file ").next().unwrap_or_default();
    eventually(|| {
        run(
            &world.hosts[0],
            &format!("{} --initiate --child b --timeout 10 {uri}", up[0]),
        )
    })?;
    keeps.push(Box::new(scratch));
    Ok(Subject {
        name,
        ends: [Rc::clone(&world.hosts[0]), Rc::clone(&world.hosts[1])],
        server: ADDRESSES[1].parse().unwrap(),
        _keeps: keeps,
    })
}

fn daemon(place: &Path) -> String {
    let place = place.display();
    format!(
        "charon {{\n load_modular = no\n load = {PLUGINS}\n \
         plugins {{\n vici {{\n socket = unix://{place}/vici\n }}\n }}\n \
         filelog {{\n stderr {{\n default = 1\n }}\n }}\n}}\n\
         swanctl {{\n load = random openssl pem pkcs1 x509\n}}\n"
    )
}

fn connection(index: usize) -> String {
    let (local, remote) = (HOSTS[index], HOSTS[1 - index]);
    let (local_ts, remote_ts) = (ADDRESSES[index], ADDRESSES[1 - index]);
    let end = |index| format!("auth = psk\n id = h{index}");
    format!(
        "connections {{\n b {{\n version = 2\n local_addrs = {local}\n remote_addrs = {remote}\n \
         encap = yes\n local {{\n {}\n }}\n remote {{\n {}\n }}\n children {{\n b {{\n \
         local_ts = {local_ts}/32\n remote_ts = {remote_ts}/32\n esp_proposals = aes256gcm16\n \
         }}\n }}\n proposals = aes256-sha256-modp2048\n }}\n}}\n\
         secrets {{\n ike-b {{\n id-a = h0\n id-b = h1\n secret = \"bench\"\n }}\n}}\n",
        end(index),
        end(1 - index)
    )
}
