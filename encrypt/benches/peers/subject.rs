//! The paths that are compared.

use std::any::Any;
use std::net::IpAddr;
use std::rc::Rc;

use weft_test_netns::Ns;

use crate::options::Options;
use crate::world::{HOSTS, World};
use crate::{load, nebula, shell, strongswan, vxlan, weft, wireguard};

/// A path from one end to another.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    /// Where the client and the server are.
    pub(crate) ends: [Rc<Ns>; 2],
    /// The server's address.
    pub(crate) server: IpAddr,
    /// What makes the path, while it lives.
    pub(crate) _keeps: Vec<Box<dyn Any>>,
}

type Make = fn(&World, &'static str) -> Result<Subject, String>;

const SUBJECTS: &[(&str, Make)] = &[
    ("host", host),
    (vxlan::PLAIN, vxlan::plain),
    ("weft", weft::userspace),
    ("weft-kernel", weft::kernel),
    ("wireguard", wireguard::kernel),
    ("gotatun", wireguard::gotatun),
    ("boringtun", wireguard::boringtun),
    ("wireguard-go", wireguard::wireguard_go),
    ("nebula", nebula::nebula),
    ("libipsec", strongswan::libipsec),
];

/// Those that are wanted and come up, and why others do not.
pub(crate) fn all(world: &World, options: &Options) -> (Vec<Subject>, Vec<(&'static str, String)>) {
    let (mut there, mut absent) = (Vec::new(), Vec::new());
    for (name, make) in SUBJECTS.iter().filter(|(name, _)| options.wants(name)) {
        // Where user space has the ports the kernel cannot have them.
        if *name == "weft-kernel" && there.iter().any(|subject: &Subject| subject.name == "weft") {
            continue;
        }
        let made = make(world, name).and_then(|subject| {
            shell::eventually(|| load::works(&subject))?;
            Ok(subject)
        });
        match made {
            Ok(subject) => there.push(subject),
            Err(why) => absent.push((*name, why)),
        }
    }
    (there, absent)
}

/// The hosts themselves.
fn host(world: &World, name: &'static str) -> Result<Subject, String> {
    Ok(Subject {
        name,
        ends: [Rc::clone(&world.hosts[0]), Rc::clone(&world.hosts[1])],
        server: HOSTS[1].parse().unwrap(),
        _keeps: Vec::new(),
    })
}
