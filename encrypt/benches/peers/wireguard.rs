//! WireGuard, in user space and in the kernel, from host to host.

use std::any::Any;
use std::fs;
use std::process::Command;
use std::rc::Rc;

use crate::shell::{Running, eventually, found, pipe, run};
use crate::subject::Subject;
use crate::world::{HOSTS, World};

/// Bytes that WireGuard adds over IPv4 and IPv6, as `wg-quick` reckons.
const OVERHEAD: u32 = 80;

/// One implementation.
struct Implementation {
    /// None: the kernel.
    program: Option<&'static str>,
    arguments: &'static [&'static str],
    /// Of links, which are in `/run/wireguard` for both hosts.
    prefix: &'static str,
    /// Third byte of its addresses, and the end of its port.
    number: u16,
}

pub(crate) fn gotatun(world: &World, name: &'static str) -> Result<Subject, String> {
    Implementation {
        program: Some("gotatun"),
        arguments: &["--disable-drop-privileges", "-f"],
        prefix: "gota",
        number: 1,
    }
    .start(world, name)
}

pub(crate) fn boringtun(world: &World, name: &'static str) -> Result<Subject, String> {
    Implementation {
        program: Some("boringtun-cli"),
        arguments: &["--disable-drop-privileges", "-f"],
        prefix: "boring",
        number: 2,
    }
    .start(world, name)
}

pub(crate) fn wireguard_go(world: &World, name: &'static str) -> Result<Subject, String> {
    Implementation {
        program: Some("wireguard-go"),
        arguments: &["-f"],
        prefix: "wggo",
        number: 3,
    }
    .start(world, name)
}

pub(crate) fn kernel(world: &World, name: &'static str) -> Result<Subject, String> {
    Implementation {
        program: None,
        arguments: &[],
        prefix: "wgk",
        number: 4,
    }
    .start(world, name)
}

impl Implementation {
    fn start(&self, world: &World, name: &'static str) -> Result<Subject, String> {
        let program = self.program.map(found).transpose()?;
        found("wg")?;
        let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut keeps: Vec<Box<dyn Any>> = Vec::new();
        let mut public = Vec::new();
        for (index, host) in world.hosts.iter().enumerate() {
            let key = run(host, "wg genkey")?;
            let file = scratch.path().join(format!("key{index}"));
            fs::write(&file, key).map_err(|error| error.to_string())?;
            let file = fs::File::open(file).map_err(|error| error.to_string())?;
            public.push(pipe(host, file.into(), "wg pubkey")?.trim().to_owned());
            let Some(program) = &program else {
                run(
                    host,
                    &format!("ip link add {} type wireguard", self.link(index)),
                )?;
                continue;
            };
            let mut command = Command::new(program);
            command.args(self.arguments).arg(self.link(index));
            command
                .env("WG_PROCESS_FOREGROUND", "1")
                .env("WG_SUDO", "1");
            keeps.push(Box::new(Running::start(host, command)?));
        }
        for (index, host) in world.hosts.iter().enumerate() {
            let (link, port) = (self.link(index), 51_820 + self.number);
            let key = scratch.path().join(format!("key{index}"));
            let set = format!(
                "wg set {link} listen-port {port} private-key {} peer {} allowed-ips 0.0.0.0/0 \
                 endpoint {}:{port}",
                key.display(),
                public[1 - index],
                HOSTS[1 - index]
            );
            eventually(|| run(host, &set))?;
            run(
                host,
                &format!("ip link set {link} mtu {} up", world.mtu - OVERHEAD),
            )?;
            run(
                host,
                &format!("ip address add {}/24 dev {link}", self.address(index)),
            )?;
        }
        keeps.push(Box::new(scratch));
        Ok(Subject {
            name,
            ends: [Rc::clone(&world.hosts[0]), Rc::clone(&world.hosts[1])],
            server: self.address(1).parse().unwrap(),
            _keeps: keeps,
        })
    }

    fn link(&self, index: usize) -> String {
        format!("{}{index}", self.prefix)
    }

    fn address(&self, index: usize) -> String {
        format!("10.2.{}.{}", self.number, index + 1)
    }
}
