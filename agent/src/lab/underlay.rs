//! The underlay: a bridge in the lab's own network namespace and a cable to every host.

use std::net::Ipv4Addr;

use anyhow::Context;
use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{InfoData, InfoVeth, LinkFlags, LinkMessage},
};

use super::{HOSTS_MAX, OUTSIDE, control::Cable};

/// The bridge's name, in the lab's own network namespace.
const BRIDGE: &str = "underlay";
/// The interface of a host on the underlay.
pub(super) const HOST_IFNAME: &str = "eth0";
/// Prefix of the underlay; hosts are numbered in its last byte.
const PREFIX_LEN: u8 = 24;
/// Number of the host without an agent: the last of the /24.
pub(crate) const OUTSIDE_NUMBER: u8 = 254;

/// Address of the host with that number on the underlay: the benchmarking range of RFC 2544
/// (RFC 6890, table 7), which no real network routes.
pub(crate) const fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, number)
}

/// Name of the host with that number.
pub(crate) fn host_name(number: u8) -> String {
    match number {
        OUTSIDE_NUMBER => OUTSIDE.to_owned(),
        number => format!("h{number}"),
    }
}

/// Every host that a lab may have.
pub(crate) fn numbered_hosts() -> impl Iterator<Item = (u8, String)> {
    (1..=HOSTS_MAX)
        .chain([OUTSIDE_NUMBER])
        .map(|number| (number, host_name(number)))
}

/// The bridge and what hangs on it.
#[derive(Debug)]
pub(crate) struct Underlay {
    handle: Handle,
    bridge: u32,
    mtu: u32,
}

impl Underlay {
    /// Makes the bridge in the calling thread's network namespace.
    pub(crate) async fn create(mtu: u32) -> anyhow::Result<Self> {
        let handle = connect()?;
        lo_up(&handle).await?;
        // Snooping would hold back multicast until a querier is heard.
        let bridge = LinkBridge::new(BRIDGE)
            .mcast_snooping(false)
            .mtu(mtu)
            .up()
            .build();
        handle
            .link()
            .add(bridge)
            .execute()
            .await
            .context("cannot make the underlay's bridge")?;
        let bridge = index(&handle, BRIDGE).await?;
        Ok(Self {
            handle,
            bridge,
            mtu,
        })
    }

    /// MTU of every interface on the underlay, in bytes.
    pub(crate) fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Lays a cable from the bridge to a new interface in the network namespace of `holder`.
    pub(crate) async fn connect_host(
        &self,
        host: &str,
        address: Ipv4Addr,
        holder: u32,
    ) -> anyhow::Result<()> {
        // Locally administered, from the address, so that captures can be read.
        let [a, b, c, d] = address.octets();
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(HOST_IFNAME)
            .mtu(self.mtu)
            .address(vec![0x02, 0x00, a, b, c, d])
            .setns_by_pid(holder)
            .build();
        let cable = LinkVeth::new(host, HOST_IFNAME)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(self.mtu)
            .controller(self.bridge)
            .up()
            .build();
        let added = self.handle.link().add(cable).execute().await;
        added.with_context(|| format!("cannot connect {host}"))
    }

    /// Plugs, pulls or cuts the cable of a host.
    pub(crate) async fn set_cable(&self, host: &str, cable: Cable) -> anyhow::Result<()> {
        let port = LinkUnspec::new_with_index(index(&self.handle, host).await?);
        // A cut cable ends nowhere: an interface that no bridge has taken drops what it gets.
        let port = match cable {
            Cable::In => port.up().controller(self.bridge),
            Cable::Out => port.down().controller(self.bridge),
            Cable::Silent => port.up().nocontroller(),
        };
        self.handle
            .link()
            .set(port.build())
            .execute()
            .await
            .context("cannot set the cable")
    }

    /// Changes the MTU of the bridge and its ports; the hosts' ends are theirs to change.
    pub(crate) async fn set_mtu(&mut self, mtu: u32) -> anyhow::Result<()> {
        let links: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await?;
        // Everything but the loopback interface and the bridge is a cable.
        for link in links {
            let (index, flags) = (link.header.index, link.header.flags);
            if index != self.bridge && !flags.contains(LinkFlags::Loopback) {
                set_mtu_of(&self.handle, index, mtu).await?;
            }
        }
        set_mtu_of(&self.handle, self.bridge, mtu).await?;
        self.mtu = mtu;
        Ok(())
    }
}

/// Brings up the interfaces of a host, in the caller's network namespace.
pub(crate) fn configure_host(address: Ipv4Addr) -> anyhow::Result<()> {
    block_on(async {
        let handle = connect()?;
        lo_up(&handle).await?;
        let eth0 = index(&handle, HOST_IFNAME).await?;
        let added = handle
            .address()
            .add(eth0, address.into(), PREFIX_LEN)
            .execute()
            .await;
        added.context("cannot set the host's address")?;
        up(&handle, eth0).await
    })
}

/// Changes the MTU of a host's interface, in the caller's network namespace.
pub(crate) fn set_host_mtu(mtu: u32) -> anyhow::Result<()> {
    block_on(async {
        let handle = connect()?;
        let eth0 = index(&handle, HOST_IFNAME).await?;
        set_mtu_of(&handle, eth0, mtu).await
    })
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn connect() -> anyhow::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn lo_up(handle: &Handle) -> anyhow::Result<()> {
    let lo = index(handle, "lo").await?;
    up(handle, lo).await
}

async fn up(handle: &Handle, index: u32) -> anyhow::Result<()> {
    let link = LinkUnspec::new_with_index(index).up().build();
    handle
        .link()
        .set(link)
        .execute()
        .await
        .context("cannot bring an interface up")
}

async fn set_mtu_of(handle: &Handle, index: u32, mtu: u32) -> anyhow::Result<()> {
    let link = LinkUnspec::new_with_index(index).mtu(mtu).build();
    handle
        .link()
        .set(link)
        .execute()
        .await
        .context("cannot set an MTU")
}

async fn index(handle: &Handle, name: &str) -> anyhow::Result<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links
        .try_next()
        .await
        .with_context(|| format!("cannot look up {name}"))?;
    Ok(link
        .with_context(|| format!("no interface {name}"))?
        .header
        .index)
}
