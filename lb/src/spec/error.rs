use std::time::Duration;

use super::{AFFINITY_MAX, BACKENDS_MAX, Backend, IDLE_MAX, SERVICES_MAX, ServiceKey};

/// A wanted content that no table can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Too many services.
    #[error("{count} services refused: one namespace takes at most {SERVICES_MAX}")]
    TooManyServices {
        /// How many.
        count: usize,
    },
    /// Too many backends.
    #[error("service {service} refused: {count} backends, and it takes at most {max}{}",
        if *.max < BACKENDS_MAX { " with a Maglev table of this size" } else { "" })]
    TooManyBackends {
        /// Of which service.
        service: ServiceKey,
        /// How many.
        count: usize,
        /// Most.
        max: usize,
    },
    /// The address is none to balance.
    #[error("service {service} refused: its address must be unicast, and not an IPv4-mapped one")]
    BadAddress {
        /// Which service.
        service: ServiceKey,
    },
    /// The backend is none to send to.
    #[error(
        "service {service} refused: its backend {backend} must be a unicast address of the \
         service's family, and not an IPv4-mapped one"
    )]
    BadBackend {
        /// Which service.
        service: ServiceKey,
        /// Which backend.
        backend: Backend,
    },
    /// A service for all ports of all local addresses.
    #[error(
        "service {service} refused: a service at all local addresses is for one port, and one for \
         all ports has an address of its own"
    )]
    AllPortsOfLocal {
        /// Which service.
        service: ServiceKey,
    },
    /// The backend has a port and the service is for all, or the other way round.
    #[error(
        "service {service} refused: its backend {backend} must have a port if the service is for \
         one port, and none if it is for all"
    )]
    BadPort {
        /// Which service.
        service: ServiceKey,
        /// Which backend.
        backend: Backend,
    },
    /// The affinity is none to keep.
    #[error(
        "service {service} refused: an affinity of {affinity:?}, and it must be whole seconds, at \
         least one and at most {}",
        AFFINITY_MAX.as_secs()
    )]
    BadAffinity {
        /// Which service.
        service: ServiceKey,
        /// How long.
        affinity: Duration,
    },
    /// The idle time is none to keep.
    #[error(
        "service {service} refused: an idle time of {idle:?}, and it must be whole seconds, at \
         least one and at most {}",
        IDLE_MAX.as_secs()
    )]
    BadIdle {
        /// Which service.
        service: ServiceKey,
        /// How long.
        idle: Duration,
    },
}
