//! Short forms for tests.

use std::num::NonZeroU16;

use crate::spec::{Address, Backend, Ports, Protocol, Scheduler, Service, ServiceKey};

pub(crate) fn port(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

pub(crate) fn key(vip: &str, number: u16) -> ServiceKey {
    ServiceKey {
        address: Address::Vip(vip.parse().unwrap()),
        ports: Ports::One(Protocol::Tcp, port(number)),
    }
}

pub(crate) fn all_ports(vip: &str) -> ServiceKey {
    ServiceKey {
        ports: Ports::All,
        ..key(vip, 1)
    }
}

pub(crate) fn local(like: &str, number: u16) -> ServiceKey {
    let key = key(like, number);
    ServiceKey {
        address: Address::Local(key.family()),
        ..key
    }
}

/// With port 0 it has none.
pub(crate) fn backend(address: &str, number: u16) -> Backend {
    Backend {
        address: address.parse().unwrap(),
        port: NonZeroU16::new(number),
    }
}

pub(crate) fn service(scheduler: Scheduler, backends: &[(&str, u16, u16)]) -> Service {
    let backends = backends.iter();
    Service {
        scheduler,
        affinity: None,
        idle: None,
        backends: backends
            .map(|(address, port, weight)| (backend(address, *port), *weight))
            .collect(),
    }
}
