use super::Planner;
use crate::gateway::layout::HOST_END;
use crate::gateway::observed::Observed;
use crate::gateway::op::Op;

const ON: &str = "1";
const OFF: &str = "0";
const FORWARD4: &str = "ipv4/ip_forward";
/// Absent on a kernel without IPv6.
pub(crate) const FORWARD6: &str = "ipv6/conf/all/forwarding";
/// `accept_ra` of an interface that follows router advertisements although it forwards.
const FOLLOW: &str = "2";

/// Whether IPv6 is forwarded already.
pub(crate) fn forwards6(observed: &Observed) -> bool {
    observed
        .switches
        .get(FORWARD6)
        .is_some_and(|value| value == ON)
}

/// Names of the switches that matter, below `/proc/sys/net`.
pub(crate) fn names(mesh: Option<&str>) -> Vec<String> {
    let mut names: Vec<String> = [FORWARD4, FORWARD6].map(str::to_owned).into();
    for scope in ["all", "default", HOST_END].into_iter().chain(mesh) {
        names.push(format!("ipv4/conf/{scope}/rp_filter"));
    }
    for device in [HOST_END].into_iter().chain(mesh) {
        for name in ["forwarding", "route_localnet"] {
            names.push(format!("ipv4/conf/{device}/{name}"));
        }
        for name in ["forwarding", "accept_ra"] {
            names.push(format!("ipv6/conf/{device}/{name}"));
        }
    }
    names
}

impl Planner<'_> {
    /// Sets the switches of the host's namespace that packets through the gateway need.
    pub(super) fn switches(&mut self) {
        // Packets that come in on one interface and are for a container, or for another node, go out on
        // another one.
        self.switch(FORWARD4, ON);
        self.forward6();
        let mesh = self.spec.mesh.as_ref().filter(|_| self.observed.mesh);
        let devices = [HOST_END]
            .into_iter()
            .chain(mesh.map(|mesh| mesh.ifname.as_str()));
        for device in devices {
            self.device(device);
        }
    }

    fn device(&mut self, device: &str) {
        // Follow the two above unless somebody set them apart.
        self.switch(&format!("ipv4/conf/{device}/forwarding"), ON);
        // A program of the host that speaks to a published port of 127.0.0.1 is sent out by this device,
        // and the answer comes in for 127.0.0.1 again once its translation is undone. Whoever does that
        // translation must drop what is for 127.0.0.0/8 in clear: this opens it to the other side. For
        // ::1 it takes a route, see `Planner::routing`.
        self.switch(&format!("ipv4/conf/{device}/route_localnet"), ON);
        self.source_check(device);
        if self.observed.ipv6 {
            self.switch(&format!("ipv6/conf/{device}/forwarding"), ON);
            // A container, or another node, is no router of this host's.
            self.switch(&format!("ipv6/conf/{device}/accept_ra"), OFF);
        }
    }

    /// What comes in by the mesh is from clients anywhere; the strict check (1) wants the way to them to
    /// lead out by the mesh, and looks it up without the mark. The loose one (2) is content with any. The
    /// greater of the device's value and that of `all` counts. Where nobody checks, nothing is changed:
    /// the loose check would refuse clients that this host has no route to.
    fn source_check(&mut self, device: &str) {
        const STRICT: &str = "1";
        const LOOSE: &str = "2";
        let value = |scope: &str| self.value(&format!("ipv4/conf/{scope}/rp_filter"));
        // What a new device has.
        let own = value(device).or_else(|| value("default"));
        let values = [value("all"), own];
        if values.contains(&Some(STRICT)) && !values.contains(&Some(LOOSE)) {
            let name = format!("ipv4/conf/{device}/rp_filter");
            self.ops.push(Op::SetSwitch { name, value: LOOSE });
        }
    }

    /// An interface that forwards IPv6 ignores router advertisements unless it is told to follow them
    /// all the same, and the moment forwarding is switched on the kernel drops the default routes that
    /// came by them (`rt6_purge_dflt_routers`): the host would lose its router. So it is told first. Where
    /// forwarding is on already, somebody else has decided which interfaces follow.
    fn forward6(&mut self) {
        if !self.observed.ipv6 || forwards6(self.observed) {
            return;
        }
        for interface in &self.observed.listeners {
            self.ops.push(Op::SetSwitch {
                name: format!("ipv6/conf/{interface}/accept_ra"),
                value: FOLLOW,
            });
        }
        self.switch(FORWARD6, ON);
    }

    fn switch(&mut self, name: &str, value: &'static str) {
        if self.value(name) != Some(value) {
            let name = name.to_owned();
            self.ops.push(Op::SetSwitch { name, value });
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.observed.switches.get(name).map(String::as_str)
    }
}
