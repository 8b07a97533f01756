//! What one namespace's table should do, in kernel words.

mod error;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

pub use error::SpecError;

/// Most services of a table: their map then takes about 6 MB of kernel memory.
pub const SERVICES_MAX: usize = 65_536;
/// Most backends of a service, drained ones included: half of the most slots, so that every one
/// gets a slot whatever the weights.
pub const BACKENDS_MAX: usize = 512;
/// A Maglev table has at least so many slots for each backend: at equal weights no backend then
/// gets a tenth more than another.
pub const MAGLEV_SLOTS_PER_BACKEND: usize = 10;

/// Longest affinity, as with IPVS.
pub const AFFINITY_MAX: Duration = Duration::from_hours(31 * 24);
/// Longest idle time: the kernel counts it in clock ticks, of which there may be a thousand in a
/// second, in 31 bits.
pub const IDLE_MAX: Duration = Duration::from_hours(24 * 24);
/// Most clients of each address family that a table remembers the backend of at a time, over all
/// services with affinity: they take about 10 MB of kernel memory then. Those that come when it is
/// full are balanced as without affinity.
pub const CLIENTS_MAX: u32 = 65_536;

/// The wanted content of a table.
pub type Spec = BTreeMap<ServiceKey, Service>;
/// Services that are new or different, and (none) those that go.
pub type Changes = BTreeMap<ServiceKey, Option<Service>>;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The destination of the packets that a service is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A service address. The namespace needs a route to it, or its own packets have no way.
    Vip(IpAddr),
    /// Every address of the namespace that no [`Vip`](Self::Vip) with the same port or with all
    /// ports is: a published port.
    Local(Family),
}

/// Which packets to its address a service is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// Those of all protocols and ports that no service with [`One`](Self::One) at the same address
    /// is for; echo requests (ICMP) among them. Only with [`Address::Vip`].
    All,
    /// Those of a transport protocol to a port.
    One(Protocol, NonZeroU16),
}

/// What names a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Destination address.
    pub address: Address,
    /// Destination port and protocol.
    pub ports: Ports,
}

/// Where a flow may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address, of the service's family.
    pub address: IpAddr,
    /// Its port. None in a service for [`Ports::All`], where the packet's port stays as it is.
    pub port: Option<NonZeroU16>,
}

/// How a backend is chosen for a new flow. Packets of a flow follow its first one, by connection
/// tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheduler {
    /// In turns, whatever the weights.
    RoundRobin,
    /// In turns, each as often as its weight says.
    WeightedRoundRobin,
    /// At random, in proportion to the weights.
    Random,
    /// At random, in proportion to weights that somebody changes after the flows that each backend
    /// has ([`least_conn`](crate::least_conn)).
    LeastConnections,
    /// By a hash of the source address: a client's flows go to one backend, until the number of
    /// backends or a weight changes.
    SourceHash,
    /// By a hash of source address and port into a Maglev table: every node chooses the same
    /// backend for a flow, and a backend that goes or comes moves few of the others' flows.
    Maglev(MaglevSize),
}

/// Slots of a Maglev table, a prime number. It costs about 100 bytes of kernel memory and two
/// microseconds of loading for each. Changing the size moves most flows, so it is chosen for the
/// most backends that a service will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MaglevSize {
    /// 251 slots, at most 25 backends.
    Small,
    /// 2,039 slots, at most 203 backends.
    Medium,
    /// 16,381 slots, any number of backends.
    Large,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// With it a client, known by its address, gets a backend by the scheduler once. Its new flows
    /// go there until there was none for that long, or the backend takes no new flow any more. In
    /// whole seconds, at most [`AFFINITY_MAX`].
    pub affinity: Option<Duration>,
    /// How long a flow without packets keeps its backend: an open connection (TCP), or datagrams
    /// (UDP). Without it as long as the kernel does, and a connection for five days at least. In
    /// whole seconds, at most [`IDLE_MAX`]. It holds for flows that begin from now on.
    pub idle: Option<Duration>,
    /// The backends with their weights. With weight 0 a backend takes no new flow and keeps those
    /// it has. A service without a backend that takes flows refuses them (ICMP port unreachable).
    pub backends: BTreeMap<Backend, u16>,
}

impl Family {
    /// The address that no packet goes to; in the maps it stands for every local one.
    pub(crate) const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    pub(crate) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl ServiceKey {
    /// The address family of the service and its backends.
    pub const fn family(&self) -> Family {
        match self.address {
            Address::Vip(address) => Family::of(address),
            Address::Local(family) => family,
        }
    }
}

impl MaglevSize {
    /// How many slots.
    pub const fn slots(self) -> u16 {
        match self {
            Self::Small => 251,
            Self::Medium => 2_039,
            Self::Large => 16_381,
        }
    }
}

impl Service {
    /// Whether a table can have it under that name.
    ///
    /// # Errors
    /// [`SpecError`], for the first thing that is wrong.
    pub fn check(&self, service: &ServiceKey) -> Result<(), SpecError> {
        let service = *service;
        if matches!(service.address, Address::Vip(address) if !is_unicast(address)) {
            return Err(SpecError::BadAddress { service });
        }
        if matches!(
            (service.address, service.ports),
            (Address::Local(_), Ports::All)
        ) {
            return Err(SpecError::AllPortsOfLocal { service });
        }
        let bad = |time: &Duration, max| time.subsec_nanos() != 0 || time.is_zero() || *time > max;
        if let Some(affinity) = self.affinity.filter(|time| bad(time, AFFINITY_MAX)) {
            return Err(SpecError::BadAffinity { service, affinity });
        }
        if let Some(idle) = self.idle.filter(|time| bad(time, IDLE_MAX)) {
            return Err(SpecError::BadIdle { service, idle });
        }
        let max = match self.scheduler {
            Scheduler::Maglev(size) => {
                BACKENDS_MAX.min(usize::from(size.slots()) / MAGLEV_SLOTS_PER_BACKEND)
            }
            _ => BACKENDS_MAX,
        };
        let count = self.backends.len();
        if count > max {
            return Err(SpecError::TooManyBackends {
                service,
                count,
                max,
            });
        }
        let good = |backend: &Backend| {
            is_unicast(backend.address) && Family::of(backend.address) == service.family()
        };
        if let Some(&backend) = self.backends.keys().find(|backend| !good(backend)) {
            return Err(SpecError::BadBackend { service, backend });
        }
        let kept = service.ports == Ports::All;
        let wrong = |backend: &&Backend| backend.port.is_none() != kept;
        match self.backends.keys().find(wrong) {
            Some(&backend) => Err(SpecError::BadPort { service, backend }),
            None => Ok(()),
        }
    }

    /// In seconds.
    pub(crate) fn affinity_seconds(&self) -> Option<NonZeroU32> {
        let seconds = u32::try_from(self.affinity?.as_secs()).ok()?;
        NonZeroU32::new(seconds)
    }

    /// In seconds.
    pub(crate) fn idle_seconds(&self) -> Option<NonZeroU32> {
        let seconds = u32::try_from(self.idle?.as_secs()).ok()?;
        NonZeroU32::new(seconds)
    }

    /// The backends that take new flows.
    pub(crate) fn active(&self) -> impl Iterator<Item = (Backend, u16)> {
        let backends = self
            .backends
            .iter()
            .map(|(backend, weight)| (*backend, *weight));
        backends.filter(|(_, weight)| *weight > 0)
    }
}

/// Whether a table can have this content.
///
/// # Errors
/// [`SpecError`], for the first thing that is wrong.
pub fn check(spec: &Spec) -> Result<(), SpecError> {
    check_count(spec.len())?;
    spec.iter()
        .try_for_each(|(key, service)| service.check(key))
}

pub(crate) fn check_count(count: usize) -> Result<(), SpecError> {
    if count > SERVICES_MAX {
        return Err(SpecError::TooManyServices { count });
    }
    Ok(())
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(ip) if ip.is_broadcast());
    let mapped = matches!(address, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    !(address.is_unspecified() || address.is_multicast() || broadcast || mapped)
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Address::Vip(IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
            Address::Vip(ip) => write!(f, "{ip}")?,
            Address::Local(Family::V4) => f.write_str("local4")?,
            Address::Local(Family::V6) => f.write_str("local6")?,
        }
        match self.ports {
            Ports::All => f.write_str(":*"),
            Ports::One(protocol, port) => write!(f, ":{port}/{protocol}"),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port.get()).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{all_ports, backend, key, service};

    #[test]
    fn what_no_table_can_have_is_refused_by_name() {
        let good = service(Scheduler::Random, &[("10.0.0.2", 80, 1)]);
        assert_eq!(good.check(&key("10.0.9.9", 80)), Ok(()));
        for address in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"] {
            let key = key(address, 80);
            assert_eq!(
                good.check(&key),
                Err(SpecError::BadAddress { service: key })
            );
        }
        let service = key("2001:db8::9", 80);
        let error = good.check(&service).unwrap_err();
        let backend = backend("10.0.0.2", 80);
        assert_eq!(error, SpecError::BadBackend { service, backend });
        assert!(
            error
                .to_string()
                .starts_with("service [2001:db8::9]:80/tcp refused")
        );
    }

    #[test]
    fn ports_of_services_and_backends_belong_together() {
        let one = service(Scheduler::Random, &[("10.0.0.2", 80, 1)]);
        let all = service(Scheduler::Random, &[("10.0.0.2", 0, 1)]);
        let vip = all_ports("10.0.9.9");
        assert_eq!(all.check(&vip), Ok(()));
        let error = one.check(&vip).unwrap_err().to_string();
        assert!(error.starts_with("service 10.0.9.9:* refused: its backend 10.0.0.2:80"));
        let error = all.check(&key("10.0.9.9", 80)).unwrap_err();
        assert!(matches!(error, SpecError::BadPort { .. }), "{error}");
        let local = ServiceKey {
            address: Address::Local(Family::V4),
            ..vip
        };
        let error = all.check(&local).unwrap_err();
        assert_eq!(error, SpecError::AllPortsOfLocal { service: local });
    }

    #[test]
    fn affinity_is_in_whole_seconds_and_has_an_end() {
        let mut service = service(Scheduler::Random, &[("10.0.0.2", 80, 1)]);
        for (affinity, good) in [
            (Duration::from_secs(1), true),
            (AFFINITY_MAX, true),
            (Duration::ZERO, false),
            (Duration::from_millis(1500), false),
            (AFFINITY_MAX + Duration::from_secs(1), false),
        ] {
            service.affinity = Some(affinity);
            assert_eq!(service.check(&key("10.0.9.9", 80)).is_ok(), good);
        }
        let error = service.check(&key("10.0.9.9", 80)).unwrap_err();
        assert!(error.to_string().contains("2678401s"), "{error}");
    }

    #[test]
    fn idle_times_are_whole_seconds_that_the_kernel_can_count() {
        let mut service = service(Scheduler::Random, &[("10.0.0.2", 80, 1)]);
        for (idle, good) in [
            (Duration::from_secs(1), true),
            (IDLE_MAX, true),
            (Duration::ZERO, false),
            (Duration::from_millis(1500), false),
            (IDLE_MAX + Duration::from_secs(1), false),
        ] {
            service.idle = Some(idle);
            assert_eq!(service.check(&key("10.0.9.9", 80)).is_ok(), good);
        }
        let error = service.check(&key("10.0.9.9", 80)).unwrap_err();
        assert!(error.to_string().contains("2073601s"), "{error}");
        // In ticks of a millisecond.
        assert!(IDLE_MAX.as_millis() < 1 << 31);
    }

    #[test]
    fn a_maglev_table_bounds_the_number_of_backends() {
        let backends: Vec<_> = (1..=26).map(|port| ("10.0.0.2", port, 1)).collect();
        let mut many = service(Scheduler::Maglev(MaglevSize::Small), &backends);
        let error = many.check(&key("10.0.9.9", 80)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("26 backends, and it takes at most 25 with")
        );
        many.scheduler = Scheduler::Maglev(MaglevSize::Medium);
        assert_eq!(many.check(&key("10.0.9.9", 80)), Ok(()));
    }
}
