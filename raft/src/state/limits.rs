//! How much of everything the replicated state admits. Every manager holds all of it in memory
//! and in each snapshot; a limit is far above what a cluster of some hundreds of hosts needs and
//! low enough that no client can exhaust a manager.

use std::ops::RangeInclusive;

/// Nodes of a cluster.
pub const NODES: usize = 4096;
/// Managers: seven that vote, and room to replace some before the old ones are removed.
pub const MANAGERS: usize = 9;
/// Networks of a cluster.
pub const NETWORKS: usize = 16_384;
/// Endpoints of a cluster.
pub const ENDPOINTS: usize = 262_144;
/// Endpoints of one network: a sandbox holds a forwarding entry for each.
pub const ENDPOINTS_PER_NETWORK: usize = 131_072;
/// Networks that one namespace takes part in.
pub const ENDPOINTS_PER_NAMESPACE: usize = 64;
/// Services of a cluster.
pub const SERVICES: usize = 65_536;
/// Endpoints of one service: every node balances over all of them.
pub const ENDPOINTS_PER_SERVICE: usize = 512;
/// Networks of one service.
pub const NETWORKS_PER_SERVICE: usize = 16;
/// Published ports of one service.
pub const PORTS_PER_SERVICE: usize = 1024;
/// Ranges of clients that one published port admits.
pub const ALLOW_FROM: usize = 64;
/// Endpoints that one command speaks of: their rows fit a frame of the watch together.
pub const BACKENDS_PER_COMMAND: usize = 512;
/// Approximate memory of all rows in bytes; keeps a snapshot below [`crate::codec::MAX_LEN`].
pub const STATE_BYTES: usize = 192 << 20;

/// Address pools of a cluster.
pub const POOLS: usize = 16;
/// Longest prefix of a subnet: a /29 is the smallest that holds a gateway and some endpoints.
pub const SUBNET_PREFIX_LONGEST: u8 = 29;
/// Shortest prefix of a subnet.
pub const SUBNET_PREFIX_SHORTEST: u8 = 8;
/// Longest prefix of a subnet of IPv6, with as many addresses as the smallest of IPv4.
pub const SUBNET6_PREFIX_LONGEST: u8 = 125;
/// Shortest prefix of a subnet of IPv6.
pub const SUBNET6_PREFIX_SHORTEST: u8 = 32;
/// Number of the last /64 of a /48.
pub const ULA_SUBNETS: u32 = 0xffff;
/// Reserved addresses of one network.
pub const AUX_ADDRESSES: usize = 64;
/// Subnets of one network.
pub const SUBNETS_PER_NETWORK: usize = 16;
/// Static routes of one network.
pub const ROUTES_PER_NETWORK: usize = 64;
/// Routes that one node reports.
pub const HOST_ROUTES: usize = 1024;
/// Addresses that one node reports.
pub const NODE_ADDRESSES: usize = 64;
/// Notices that one node gives.
pub const NODE_NOTICES: usize = 32;
/// Longest notice.
pub const NOTICE_BYTES: usize = 1024;

/// Longest DNS label (RFC 1035 section 2.3.4).
pub const DNS_LABEL_BYTES: usize = 63;
/// Longest host name that Linux holds (`HOST_NAME_MAX`).
pub const NODE_NAME_BYTES: usize = 64;
/// Longest interface name: `IFNAMSIZ` without its terminator.
pub const IFNAME_BYTES: usize = 15;
/// Longest version string.
pub const VERSION_BYTES: usize = 64;
/// Further names of one endpoint.
pub const ALIASES: usize = 32;
/// Labels of one row.
pub const LABELS: usize = 64;
/// Keys and values of one row's labels together.
pub const LABELS_BYTES: usize = 8192;
/// Arguments of a command that `weft run` records.
pub const COMMAND_ARGUMENTS: usize = 1024;
/// Those arguments together.
pub const COMMAND_BYTES: usize = 16_384;
/// Longest path of a namespace, or of a health check.
pub const PATH_BYTES: usize = 1024;
/// Longest boot id; the kernel's has 36 characters.
pub const BOOT_ID_BYTES: usize = 64;
/// Longest certificate or key, DER.
pub const DER_BYTES: usize = 16_384;

/// Ports that VXLAN may use.
pub const DATA_PATH_PORTS: RangeInclusive<u16> = 1024..=49_151;
/// UDP port of ESP (RFC 3948 section 2). Neither the data-path port nor the one after it, which what
/// ESP carries has, may be it.
pub const ESP_PORT: u16 = 4500;
/// MTU of endpoints in bytes: from the least that IPv4 hosts must accept (RFC 791) to the largest
/// datagram without VXLAN's 50 bytes.
pub const MTUS: RangeInclusive<u32> = 576..=65_485;
/// Least MTU in bytes of a network that carries IPv6 (RFC 8200 section 5), as the one of published ports
/// does.
pub const IPV6_MTU: u32 = 1280;
/// MTU in bytes of the device that carries a VTEP; loopback devices have the largest.
pub const UNDERLAY_MTUS: RangeInclusive<u32> = 576..=65_536;
/// Lifetime of node certificates in seconds: one hour to twenty years, the CA's own.
pub const CERT_EXPIRIES_S: RangeInclusive<u64> = 3600..=20 * 365 * 86_400;

/// Published ports that are assigned to who leaves them open, as Docker's users know them.
pub const DYNAMIC_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// Affinity in seconds, up to a week.
pub const AFFINITY_TIMEOUTS_S: RangeInclusive<u32> = 1..=7 * 86_400;
/// Drain timeout in milliseconds, up to an hour.
pub const DRAIN_TIMEOUTS_MS: RangeInclusive<u32> = 0..=3_600_000;
/// Idle timeout in seconds, up to thirty days.
pub const IDLE_TIMEOUTS_S: RangeInclusive<u32> = 1..=24 * 86_400;
/// From one health check to the next, in milliseconds.
pub const HEALTH_INTERVALS_MS: RangeInclusive<u32> = 100..=3_600_000;
/// Longest that a health check may take, in milliseconds.
pub const HEALTH_TIMEOUTS_MS: RangeInclusive<u32> = 10..=600_000;
/// Failed health checks that make an endpoint unhealthy.
pub const HEALTH_RETRIES: RangeInclusive<u16> = 1..=1000;

/// Requests whose outcome is remembered for a client that asks again.
pub const REQUESTS: usize = 8192;
/// Approximate memory of remembered outcomes in bytes.
pub const REQUESTS_BYTES: usize = 8 << 20;
/// Freed addresses of a network that wait although others were never used: as many as a /16
/// has, so that only larger networks use an address again before they have used all.
pub const FREED_ADDRESSES: usize = 65_536;
