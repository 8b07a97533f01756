//! weft's encrypted network: VXLAN of the kernel, and ESP in user space or in the kernel, as the agent sets
//! them up.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_encrypt::esp::Spi;
use weft_encrypt::host::{Host, HostSpec, Mode};
use weft_encrypt::kernel::Kernel;
use weft_encrypt::keys::{Epoch, SaKey};
use weft_encrypt::mtu::{Family, endpoint_mtu};
use weft_encrypt::path::{Form, PathSpec, PeerSpec, SaName};
use weft_encrypt::rotation::{KeyId, SessionId};
use weft_encrypt::userspace::Userspace;

use tempfile::TempDir;

use crate::subject::Subject;
use crate::vxlan::{self, Network};
use crate::world::{HOSTS, World};

const INNER_PORT: u16 = 4790;
const VNI: u32 = 5000;
/// Not the usual port, which strongSwan has on the same hosts.
const ESP_PORT: u16 = 4510;

/// One end's data path.
enum Path {
    Userspace(Userspace),
    Kernel(Kernel),
}

impl Path {
    fn start(spec: PathSpec, mode: Mode, run_dir: &TempDir) -> Result<Self, String> {
        if mode == Mode::Userspace {
            let path = Userspace::start(spec, None).map_err(|error| error.to_string())?;
            return Ok(Self::Userspace(path));
        }
        let path = Kernel::start(spec, run_dir.path(), None).map_err(|error| error.to_string())?;
        Ok(Self::Kernel(path))
    }

    fn install_inbound(&self, name: SaName, key: SaKey) -> Result<(), String> {
        match self {
            Self::Userspace(path) => path.install_inbound(name, key).map_err(|e| e.to_string()),
            Self::Kernel(path) => path.install_inbound(name, key).map_err(|e| e.to_string()),
        }
    }

    fn switch_outbound(&self, name: SaName, key: SaKey) -> Result<(), String> {
        match self {
            Self::Userspace(path) => path.switch_outbound(name, key).map_err(|e| e.to_string()),
            Self::Kernel(path) => path.switch_outbound(name, key).map_err(|e| e.to_string()),
        }
    }
}

pub(crate) fn userspace(world: &World, name: &'static str) -> Result<Subject, String> {
    connect(world, name, Mode::Userspace)
}

/// Not beside the other: both would have the same ports.
pub(crate) fn kernel(world: &World, name: &'static str) -> Result<Subject, String> {
    connect(world, name, Mode::Kernel)
}

fn connect(world: &World, name: &'static str, mode: Mode) -> Result<Subject, String> {
    let network = Network {
        name: "wf",
        vni: VNI,
        port: INNER_PORT,
        addresses: ["10.5.0.1", "10.5.0.2"],
        mtu: endpoint_mtu(world.mtu, Family::V4).map_err(|error| error.to_string())?,
    };
    let ends = HOSTS.map(|host| host.parse::<IpAddr>().unwrap());
    let mut paths = Vec::new();
    let mut keeps: Vec<Box<dyn Any>> = Vec::new();
    for (index, host) in world.hosts.iter().enumerate() {
        let (local, peer) = (ends[index], ends[1 - index]);
        let networks = [VNI].into();
        let spec = PathSpec {
            local,
            esp_port: ESP_PORT,
            inner_port: INNER_PORT,
            underlay_mtu: world.mtu,
            peers: BTreeMap::from([(peer, PeerSpec { networks })]),
            form: Form::Vxlan,
            ports: BTreeMap::new(),
        };
        let run_dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        paths.push(host.run(|| Path::start(spec, mode, &run_dir))?);
        keeps.push(Box::new(run_dir));
        let wanted = HostSpec {
            mode,
            inner_port: INNER_PORT,
            local,
            tap_mtu: network.mtu + vxlan::OVERHEAD,
            allowed: BTreeMap::from([(peer, [VNI].into())]),
        };
        let prepared = host.run(|| {
            let mut host = Host::open()?;
            host.reconcile(Some(&wanted))?;
            Ok::<_, weft_encrypt::host::HostError>(host)
        });
        keeps.push(Box::new(prepared.map_err(|error| error.to_string())?));
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let name = |peer| SaName {
            peer,
            key: KeyId {
                session: SessionId(1),
                epoch: Epoch(1),
            },
            spi: Spi::new(0x1000 + from as u32).unwrap(),
        };
        // Of this run alone, and each for one direction.
        let key = || SaKey::from_bytes([from as u8 + 1; 36]);
        paths[to].install_inbound(name(ends[from]), key())?;
        paths[from].switch_outbound(name(ends[to]), key())?;
    }
    let containers = network.make(world)?;
    keeps.push(Box::new(paths));
    Ok(Subject {
        name,
        ends: containers,
        server: network.addresses[1].parse().unwrap(),
        _keeps: keeps,
    })
}
