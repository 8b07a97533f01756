//! Short forms for tests.

use std::num::NonZeroU16;

use crate::spec::{Address, Backend, Protocol, Scheduler, Service, ServiceKey};

pub(crate) fn port(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

pub(crate) fn key(vip: &str, number: u16) -> ServiceKey {
    ServiceKey {
        address: Address::Vip(vip.parse().unwrap()),
        protocol: Protocol::Tcp,
        port: port(number),
    }
}

pub(crate) fn backend(address: &str, number: u16) -> Backend {
    Backend {
        address: address.parse().unwrap(),
        port: port(number),
    }
}

pub(crate) fn service(scheduler: Scheduler, backends: &[(&str, u16, u16)]) -> Service {
    let backends = backends.iter();
    Service {
        scheduler,
        backends: backends
            .map(|(address, port, weight)| (backend(address, *port), *weight))
            .collect(),
    }
}
