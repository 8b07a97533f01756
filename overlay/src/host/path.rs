use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteType};
use rtnetlink::RouteMessageBuilder;

use super::facts::HostError;
use super::read::{RouteSocket, io_error};

/// MTU in bytes of the path that this host would use toward `peer`: of the device, or of the route
/// where that is less (a route's own `mtu`, or what path MTU discovery learned, RFC 1191 and 8201).
/// None when there is no route. An address of this host gives the loopback device's. To be called
/// inside a tokio runtime.
///
/// # Errors
/// When the netlink socket cannot be opened or the look-up fails for another reason than a missing
/// route.
pub async fn mtu_to(peer: IpAddr) -> Result<Option<u32>, HostError> {
    let socket = RouteSocket::open()?;
    let Some(route) = look_up(&socket, peer).await? else {
        return Ok(None);
    };
    let Some(device) = device(&route) else {
        return Ok(None);
    };
    let request = socket.handle.link().get().match_index(device);
    let links: Vec<_> = request
        .execute()
        .try_collect()
        .await
        .map_err(|error| HostError::Read {
            what: "links",
            source: io_error(error),
        })?;
    let device_mtu = links
        .iter()
        .flat_map(|link| &link.attributes)
        .find_map(|a| match a {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
    Ok(device_mtu.into_iter().chain(route_mtu(&route)).min())
}

/// The route that the kernel would use, none when it has none or one that refuses.
async fn look_up(socket: &RouteSocket, peer: IpAddr) -> Result<Option<RouteMessage>, HostError> {
    let length = if peer.is_ipv4() { 32 } else { 128 };
    let wanted = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(peer, length)
        .map_err(|error| HostError::Read {
            what: "route",
            source: io::Error::other(error),
        })?
        .build();
    match socket.handle.route().get(wanted).execute().try_next().await {
        Ok(route) => Ok(route
            .filter(|route| matches!(route.header.kind, RouteType::Unicast | RouteType::Local))),
        Err(error) => {
            let source = io_error(error);
            match source.kind() {
                // What routes of type unreachable, prohibit and blackhole answer, and no route at
                // all.
                io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::InvalidInput => Ok(None),
                _ => Err(HostError::Read {
                    what: "route",
                    source,
                }),
            }
        }
    }
}

fn device(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
}

fn route_mtu(route: &RouteMessage) -> Option<u32> {
    let metrics = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => Some(metrics),
            _ => None,
        })?;
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    })
}
