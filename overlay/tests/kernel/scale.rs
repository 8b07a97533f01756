//! How long things take. Figures are printed; only what no machine should miss is asserted.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use weft_overlay::{Mac, Remote, Scope};

use crate::lab::*;

pub(crate) const CASES: &[(&str, fn())] = &[
    ("two_thousand_remotes_take_little_time", many_remotes),
    ("attaching_an_endpoint_is_quick", attach_time),
];

const REMOTES: u16 = 2_000;
/// So long takes no machine, however busy.
pub(crate) const NO_MACHINE: Duration = Duration::from_secs(20);

fn many_remotes() {
    run(async {
        let lab = Lab::new();
        let [host, _] = lab.two_hosts();
        let mut spec = sandbox_spec(1);
        let remotes = (0..REMOTES).map(|n| {
            let [high, low] = n.to_be_bytes();
            let addresses = vec![IpAddr::V4(Ipv4Addr::new(10, 1, high, low))];
            let vtep = vtep(2 + low % 100);
            (Mac([2, 0x42, 10, 1, high, low]), Remote { addresses, vtep })
        });
        spec.remotes = remotes.collect();
        let mut spec = [(NETWORK.to_owned(), spec)].into();
        let mut overlay = host.overlay().await;
        let start = Instant::now();
        let report = overlay.reconcile(&spec, Scope::All).await;
        let made = start.elapsed();
        assert!(report.is_clean(), "{report:?}");
        let start = Instant::now();
        let again = overlay.reconcile(&spec, Scope::All).await;
        let looked = start.elapsed();
        assert_eq!(again.ops, 0);
        let remotes = &mut spec.get_mut(NETWORK).unwrap().remotes;
        remotes.values_mut().next().unwrap().vtep = vtep(200);
        let start = Instant::now();
        let one = overlay.reconcile(&spec, Scope::All).await;
        let changed = start.elapsed();
        assert_eq!(one.ops, 1);
        println!(
            "{REMOTES} remotes: {} ops in {made:?}; nothing to do {looked:?}; one change {changed:?}",
            report.ops
        );
        assert!(made < NO_MACHINE, "{made:?}");
        let entries = sh(
            &host.sandbox(),
            "bridge fdb show dev vxlan0 | grep -c 'self permanent'",
        );
        assert_eq!(entries.trim(), REMOTES.to_string());
    });
}

fn attach_time() {
    run(async {
        let mut pair = Pair::new();
        pair.settle().await;
        let mut overlay = pair.hosts[0].overlay().await;
        let scope = || Scope::Networks([NETWORK.to_owned()].into());
        let mut times = Vec::new();
        for n in 10..40 {
            let container = pair.lab.namespace(&format!("c{n}"));
            let id = format!("attach{n}aaaaaaaa");
            pair.specs[0].locals.insert(id, local(&container, n));
            let spec = pair.spec(0);
            let start = Instant::now();
            let report = overlay.reconcile(&spec, scope()).await;
            times.push(start.elapsed());
            assert!(report.is_clean(), "{report:?}");
            assert_eq!(report.ops, 6, "only what belongs to the endpoint");
        }
        times.sort();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "attach of one endpoint: median {median:?}, worst of {} {worst:?}",
            times.len()
        );
        assert!(median < NO_MACHINE, "{median:?}");
    });
}
