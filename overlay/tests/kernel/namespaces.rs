//! Namespaces themselves.

use std::fs;
use std::net::SocketAddr;

use weft_netns::{EntryState, Netns, NetnsError};

use crate::lab::*;

pub(crate) const CASES: &[(&str, fn())] = &[
    ("a_namespace_lives_by_its_file", by_its_file),
    ("half_made_namespaces_are_made_and_removed", half_states),
    ("the_callers_namespace_never_changes", callers_namespace),
    ("switches_are_those_of_the_namespace", switches),
    ("sockets_stay_in_their_namespace", sockets),
    ("what_is_no_namespace_is_refused", refused),
];

fn by_its_file() {
    let lab = Lab::new();
    let path = lab.path().join("one");
    let made = weft_netns::create(&path).unwrap();
    assert_ne!(made.identity(), Netns::current().unwrap().identity());
    assert_eq!(Netns::open(&path).unwrap().identity(), made.identity());
    assert!(matches!(
        weft_netns::create(&path),
        Err(NetnsError::Exists { .. })
    ));
    let listed = weft_netns::list(lab.path()).unwrap();
    assert_eq!((listed.len(), listed[0].state), (1, EntryState::Namespace));
    assert_eq!(link_names(&path), ["lo".to_owned()].into());
    weft_netns::delete(&path).unwrap();
    assert!(!path.exists());
}

fn half_states() {
    let lab = Lab::new();
    let path = lab.path().join("half");
    weft_netns::delete(&path).unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(weft_netns::entry_state(&path).unwrap(), EntryState::Stale);
    weft_netns::create(&path).unwrap();
    // Mounted twice over.
    let file = Some(path.as_path());
    let bind = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(file, &path, None::<&str>, bind, None::<&str>).unwrap();
    weft_netns::delete(&path).unwrap();
    assert_eq!(weft_netns::entry_state(&path).unwrap(), EntryState::Absent);
    fs::write(&path, "").unwrap();
    weft_netns::delete(&path).unwrap();
    assert!(!path.exists());
    assert_eq!(
        weft_netns::list(&lab.path().join("nowhere")).unwrap(),
        vec![]
    );
}

fn callers_namespace() {
    let lab = Lab::new();
    let before = Netns::current().unwrap().identity();
    let path = lab.namespace("one");
    let netns = Netns::open(&path).unwrap();
    let inside = netns.run(|| Netns::current().unwrap().identity()).unwrap();
    assert_eq!(inside, netns.identity());
    assert_eq!(Netns::current().unwrap().identity(), before);
    assert_ne!(Netns::anonymous().unwrap().identity(), before);
    assert_eq!(Netns::current().unwrap().identity(), before);
}

fn switches() {
    const SWITCH: &str = "ipv4/conf/all/rp_filter";
    let lab = Lab::new();
    let [one, two] = ["one", "two"].map(|name| Netns::open(&lab.namespace(name)).unwrap());
    one.set_sysctls(&[(SWITCH, "2"), ("no/such/switch", "1")])
        .unwrap();
    two.set_sysctls(&[(SWITCH, "1")]).unwrap();
    let read = |netns: &Netns| netns.sysctls(&[SWITCH, "no/such/switch"]).unwrap();
    assert_eq!(read(&one), [Some("2".to_owned()), None]);
    assert_eq!(read(&two), [Some("1".to_owned()), None]);
    assert!(one.set_sysctls(&[(SWITCH, "nonsense")]).is_err());
}

fn sockets() {
    run(async {
        let lab = Lab::new();
        let [one, two] = ["one", "two"].map(|name| Netns::open(&lab.namespace(name)).unwrap());
        let any: SocketAddr = "127.0.0.1:7000".parse().unwrap();
        // The same port in both, so they are apart.
        let [a, b] = [one.udp(any).unwrap(), two.udp(any).unwrap()];
        a.send_to(b"to myself", any).unwrap();
        let mut buffer = [0; 32];
        assert_eq!(a.recv(&mut buffer).unwrap(), 9);
        b.set_nonblocking(true).unwrap();
        assert!(b.recv(&mut buffer).is_err());
        let socket = one
            .async_netlink(netlink_sys::protocols::NETLINK_ROUTE)
            .unwrap();
        let (connection, handle, _) = rtnetlink::from_socket(socket);
        let task = tokio::spawn(connection);
        let add = rtnetlink::LinkBridge::new("seen-here").build();
        handle.link().add(add).execute().await.unwrap();
        task.abort();
        assert!(link_names(&lab.path().join("one")).contains("seen-here"));
        assert!(!link_names(&lab.path().join("two")).contains("seen-here"));
    });
}

fn refused() {
    let lab = Lab::new();
    let path = lab.path().join("file");
    fs::write(&path, "").unwrap();
    assert!(matches!(
        Netns::open(&path),
        Err(NetnsError::NotANamespace { .. })
    ));
    fs::remove_file(&path).unwrap();
    let missing = Netns::open(&path).unwrap_err().to_string();
    assert!(
        missing.contains("cannot open network namespace"),
        "{missing}"
    );
    let other_kind = Netns::open("/proc/self/ns/mnt".as_ref()).unwrap();
    assert!(matches!(
        other_kind.run(|| ()),
        Err(NetnsError::Enter { .. })
    ));
}
