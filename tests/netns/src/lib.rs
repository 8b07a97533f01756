//! Network namespaces for the length of a case, and links between them.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::AddressHeaderFlags;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use weft_netns::Netns;
use weft_netns::nft::NftSocket;

/// Nothing here takes longer, even on a machine with much else to do.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Leaves the caller's namespaces. Only while the process has one thread.
pub fn isolate() {
    let (user, group) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    if !user.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).expect("namespaces for the test; may this user make user namespaces?");
    if !user.is_root() {
        std::fs::write("/proc/self/setgroups", "deny").expect("setgroups");
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1")).expect("uid map");
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1")).expect("gid map");
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
}

/// A network namespace for the length of a case.
pub struct Ns(pub Netns);

/// As [`Ns::new`].
impl Default for Ns {
    fn default() -> Self {
        Self::new()
    }
}

/// What goes wrong fails the case, by a panic.
impl Ns {
    /// An empty namespace with its loopback device up.
    pub fn new() -> Self {
        let ns = Self(Netns::anonymous().expect("a network namespace"));
        // Links have the addresses they are given and none that comes later by itself.
        ns.0.set_sysctl("ipv6/conf/default/addr_gen_mode", "1")
            .expect("no link-local addresses");
        ns.link(|handle| async move { set_up(&handle, "lo").await });
        ns
    }

    /// Runs `work` in the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.run(work).expect("the namespace entered")
    }

    /// Runs a future in the namespace, in a runtime of its own.
    pub fn wait_for<F, T>(&self, work: impl FnOnce() -> F + Send) -> T
    where
        F: Future<Output = T>,
        T: Send,
    {
        self.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async { work().await })
        })
    }

    /// Runs link commands in the namespace.
    pub fn link<F, T>(&self, work: impl FnOnce(Handle) -> F + Send) -> T
    where
        F: Future<Output = T>,
        T: Send,
    {
        self.wait_for(|| async {
            let (connection, handle, _) = rtnetlink::new_connection().expect("a route socket");
            let driver = tokio::spawn(connection);
            let value = work(handle).await;
            driver.abort();
            value
        })
    }
}

/// Waits until nobody owns the table any more. Its socket outlives the owner by as long as a child,
/// that another case just forked, has not become another program.
pub fn await_release(ns: &Ns, table: &str) {
    let mut socket = NftSocket::open_in(&ns.0).expect("a socket");
    let start = Instant::now();
    while let Some(owner) = socket.table(table).expect("a table").and_then(|t| t.owner) {
        assert!(start.elapsed() < DEADLINE, "{table} belongs to {owner}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Joins two namespaces by a veth pair named `ifname` on both sides, with those addresses, up.
pub fn join(ifname: &'static str, left: (&Ns, &[&str]), right: (&Ns, &[&str])) {
    let other = right.0.0.as_fd().as_raw_fd();
    left.0.link(|handle| async move {
        let veth = LinkVeth::new(ifname, "moving").build();
        handle
            .link()
            .add(veth)
            .execute()
            .await
            .expect("a veth pair");
        let index = index_of(&handle, "moving").await;
        let moving = LinkUnspec::new_with_index(index)
            .name(ifname)
            .setns_by_fd(other)
            .build();
        handle
            .link()
            .change(moving)
            .execute()
            .await
            .expect("a veth moved");
    });
    for (ns, addresses) in [left, right] {
        let addresses: Vec<IpNet> = addresses.iter().map(|a| a.parse().expect(a)).collect();
        let given = addresses.clone();
        ns.link(move |handle| async move {
            for address in given {
                add_address(&handle, ifname, address).await;
            }
            set_up(&handle, ifname).await;
        });
        ns.run(move || addresses.iter().for_each(|net| await_own_route(net.addr())));
    }
}

/// Waits until what is sent to an address of its own stays in the namespace: a work queue of the
/// kernel makes the local route some time after an IPv6 address (addrconf_dad_start).
fn await_own_route(address: IpAddr) {
    /// `RTF_LOCAL` (linux/ipv6_route.h).
    const LOCAL: u32 = 0x8000_0000;
    let IpAddr::V6(address) = address else {
        return;
    };
    let host = format!("{:032x} 80 ", u128::from(address));
    let is_local = |line: &str| {
        let flags = line.split_whitespace().nth(8);
        let flags = flags.and_then(|flags| u32::from_str_radix(flags, 16).ok());
        line.starts_with(&host) && flags.is_some_and(|flags| flags & LOCAL != 0)
    };
    let start = Instant::now();
    loop {
        let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route");
        let routes = routes.expect("the routes");
        if routes.lines().any(is_local) {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "no {address} in {routes}");
        std::thread::yield_now();
    }
}

/// A switch of which that namespace is the case: every link of it is a port.
pub fn switch(ns: &Ns, ports: &'static [&'static str]) {
    ns.link(move |handle| async move {
        let bridge = LinkBridge::new("br0").up().build();
        handle.link().add(bridge).execute().await.expect("a bridge");
        let bridge = index_of(&handle, "br0").await;
        for port in ports {
            let port = LinkUnspec::new_with_name(port).controller(bridge).build();
            handle.link().change(port).execute().await.expect("a port");
        }
    });
}

/// A route of the namespace.
pub fn route(ns: &Ns, to: (Ipv4Addr, u8), via: Ipv4Addr) {
    ns.link(move |handle| async move {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.0, to.1)
            .gateway(via)
            .build();
        handle.route().add(route).execute().await.expect("a route");
    });
}

/// Lets a link carry packets.
pub async fn set_up(handle: &Handle, ifname: &str) {
    let up = LinkUnspec::new_with_name(ifname).up().build();
    handle.link().change(up).execute().await.expect("a link up");
}

/// Gives a link an address, without duplicate address detection, which would take seconds.
pub async fn add_address(handle: &Handle, ifname: &str, address: IpNet) {
    let index = index_of(handle, ifname).await;
    let mut request = handle
        .address()
        .add(index, address.addr(), address.prefix_len());
    request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    request.execute().await.expect("an address");
}

/// The number of a link.
pub async fn index_of(handle: &Handle, ifname: &str) -> u32 {
    let mut found = Box::pin(handle.link().get().match_name(ifname.to_owned()).execute());
    found
        .try_next()
        .await
        .expect("a link")
        .expect("a link")
        .header
        .index
}

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}
