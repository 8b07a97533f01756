//! How long flows without packets are tracked.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use weft_netns::nft::{FlowState, Timeout};

use crate::layout::protocol_number;
use crate::spec::{Ports, Protocol, Service, ServiceKey};

/// A connection through a service that says no time is tracked for at least so long, five days: what
/// the kernel has unless somebody lowered it (`nf_conntrack_tcp_timeout_established`). To a
/// connection without services a lower one does not matter, for nobody has to know where its
/// packets go.
pub(crate) const USUAL_ESTABLISHED: NonZeroU32 = NonZeroU32::new(432_000).unwrap();
/// The sysctl, below `/proc/sys/net`.
pub(crate) const SYSCTL_ESTABLISHED: &str = "netfilter/nf_conntrack_tcp_timeout_established";

/// The time-out of each protocol's flows, in seconds.
pub(crate) type Times = BTreeMap<Protocol, NonZeroU32>;

/// A time-out that services have in common: an object of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Idle {
    pub(crate) protocol: Protocol,
    pub(crate) seconds: NonZeroU32,
}

/// What the namespace's kernel does with idle flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tracking {
    /// Flows can be given time-outs of their own.
    pub(crate) possible: bool,
    /// Established connections have less than is usual.
    pub(crate) lowered: bool,
}

impl Tracking {
    /// The time-outs that the flows of a service are given.
    pub(crate) fn times(self, key: &ServiceKey, service: &Service) -> Times {
        if !self.possible {
            return Times::new();
        }
        let protocols = [Protocol::Tcp, Protocol::Udp].into_iter();
        let protocols = protocols.filter(|protocol| match key.ports {
            Ports::All => true,
            Ports::One(of, _) => of == *protocol,
        });
        let time = |protocol| match (service.idle_seconds(), protocol) {
            (None, Protocol::Tcp) if self.lowered => Some(USUAL_ESTABLISHED),
            (asked, _) => asked,
        };
        protocols
            .filter_map(|protocol| Some((protocol, time(protocol)?)))
            .collect()
    }
}

impl Idle {
    /// For a connection the time counts once it is open: one that opens or ends goes by the kernel's
    /// times. For datagrams it counts with and without answers.
    pub(crate) fn object(self, table: &str) -> Timeout {
        let states: &[FlowState] = match self.protocol {
            Protocol::Tcp => &[FlowState::TCP_ESTABLISHED],
            Protocol::Udp => &[FlowState::UDP_UNREPLIED, FlowState::UDP_REPLIED],
        };
        let seconds = self.seconds.get();
        Timeout {
            table: table.to_owned(),
            name: self.to_string(),
            protocol: protocol_number(self.protocol),
            states: states.iter().map(|state| (*state, seconds)).collect(),
        }
    }

    /// None when the object is not as this crate makes it.
    pub(crate) fn read(timeout: &Timeout) -> Option<Self> {
        let idle: Self = timeout.name.parse().ok()?;
        let made = idle.object(&timeout.table);
        let mut states = made.states.iter();
        let good =
            made.protocol == timeout.protocol && states.all(|state| timeout.states.contains(state));
        good.then_some(idle)
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}s", self.protocol, self.seconds)
    }
}

/// No name of a time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoIdle;

impl FromStr for Idle {
    type Err = NoIdle;

    fn from_str(name: &str) -> Result<Self, NoIdle> {
        let (protocol, rest) = name.split_once('-').ok_or(NoIdle)?;
        let mut protocols = [Protocol::Tcp, Protocol::Udp].into_iter();
        let is_it = |known: &Protocol| known.to_string() == protocol;
        let protocol = protocols.find(is_it).ok_or(NoIdle)?;
        let seconds = rest.strip_suffix('s').ok_or(NoIdle)?;
        let seconds = seconds.parse().map_err(|_| NoIdle)?;
        let idle = Self { protocol, seconds };
        // No other spelling of the number.
        (idle.to_string() == name).then_some(idle).ok_or(NoIdle)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::spec::Scheduler;
    use crate::testing::{all_ports, key, service};

    const USUAL: Tracking = Tracking {
        possible: true,
        lowered: false,
    };

    fn times(tracking: Tracking, key: &ServiceKey, idle: Option<u64>) -> Vec<(Protocol, u32)> {
        let mut service = service(Scheduler::Random, &[]);
        service.idle = idle.map(Duration::from_secs);
        let times = tracking.times(key, &service).into_iter();
        times.map(|(p, seconds)| (p, seconds.get())).collect()
    }

    #[test]
    fn flows_of_the_protocols_of_a_service_have_its_time() {
        let (all, one) = (all_ports("10.0.9.9"), key("10.0.9.9", 80));
        let both = [(Protocol::Tcp, 300), (Protocol::Udp, 300)];
        assert_eq!(times(USUAL, &all, Some(300)), both);
        assert_eq!(times(USUAL, &one, Some(300)), both[..1]);
        assert_eq!(times(USUAL, &all, None), []);
    }

    #[test]
    fn a_connection_never_has_less_than_is_usual_unless_asked_for() {
        let all = all_ports("10.0.9.9");
        let lowered = Tracking {
            lowered: true,
            ..USUAL
        };
        assert_eq!(times(lowered, &all, None), [(Protocol::Tcp, 432_000)]);
        let asked = [(Protocol::Tcp, 5), (Protocol::Udp, 5)];
        assert_eq!(times(lowered, &all, Some(5)), asked);
        let impossible = Tracking {
            possible: false,
            ..lowered
        };
        assert_eq!(times(impossible, &all, Some(5)), []);
    }

    #[test]
    fn objects_are_read_as_they_are_made_among_the_kernels_other_states() {
        for name in ["tcp-300s", "udp-1s"] {
            let idle: Idle = name.parse().unwrap();
            let mut object = idle.object("weft-lb");
            object.states.push((FlowState(9), 120));
            assert_eq!(Idle::read(&object), Some(idle));
            object.states.remove(0);
            assert_eq!(Idle::read(&object), None);
        }
        for name in ["tcp-0s", "tcp-05s", "icmp-5s", "tcp-5", "tcp5s", ""] {
            assert_eq!(name.parse::<Idle>(), Err(NoIdle), "{name}");
        }
    }
}
