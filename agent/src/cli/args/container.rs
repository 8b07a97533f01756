use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use weft_raft::model::MacAddr;

use super::{Format, InspectArgs, Publish, ReadArgs, value};

/// `weft attach`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weft attach web --pid $(docker inspect -f '{{.State.Pid}}' api) --name api
  weft attach web --netns /run/netns/blue --ip 10.0.1.10
  weft attach web --pid 4242 --service api --weight 2")]
pub struct AttachArgs {
    /// NAME, ID or beginning of an ID
    #[arg(value_parser = value::wanted)]
    pub network: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Name of the endpoint [default: from its ID]
    #[arg(long, value_name = "NAME", value_parser = value::endpoint_name)]
    pub name: Option<String>,
    /// Wanted address [default: the next free one]
    #[arg(long, value_name = "ADDRESS", value_parser = value::ipv4)]
    pub ip: Option<Ipv4Addr>,
    /// Wanted address of IPv6 [default: the next free one]
    #[arg(long, value_name = "ADDRESS", value_parser = value::ipv6)]
    pub ip6: Option<Ipv6Addr>,
    /// Wanted MAC address [default: 02:42: and the IPv4 address]
    #[arg(long, value_name = "MAC", value_parser = value::mac)]
    pub mac: Option<MacAddr>,
    /// Wanted interface name [default: the first free of eth0, eth1, ..]
    #[arg(long, value_name = "NAME", value_parser = value::ifname)]
    pub ifname: Option<String>,
    /// Further name; may be repeated
    #[arg(long, value_name = "NAME", value_parser = value::endpoint_name)]
    pub alias: Vec<String>,
    /// Service to join
    #[arg(long, value_name = "SERVICE", value_parser = value::wanted)]
    pub service: Option<String>,
    /// Share of the service's new flows, 0-65535; 0 takes none [default: 1]
    #[arg(long, value_name = "N", requires = "service", value_parser = value::weight)]
    pub weight: Option<u16>,
    /// Annotation; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = value::label)]
    pub label: Vec<(String, String)>,
    /// How to print: `ID NAME ADDRESS`, or the endpoint as JSON.
    #[command(flatten)]
    pub read: ReadArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct NamespaceArgs {
    /// Process in the namespace
    #[arg(long, value_name = "PID", value_parser = value::pid)]
    pid: Option<u32>,
    /// Path of the namespace, such as /run/netns/blue
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
}

impl AttachArgs {
    /// `--pid`.
    pub fn pid(&self) -> Option<u32> {
        self.namespace.pid
    }

    /// `--netns`.
    pub fn netns(&self) -> Option<&PathBuf> {
        self.namespace.netns.as_ref()
    }
}

/// `weft detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// ID, beginning of an ID, NAME.NETWORK, or a NAME that one network only has
    #[arg(value_parser = value::wanted)]
    pub endpoint: String,
    /// Also if it is on another host or its namespace is gone; a backend at once
    #[arg(short, long)]
    pub force: bool,
}

/// `weft endpoint`.
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true)]
pub enum EndpointCommand {
    /// List the endpoints
    #[command(visible_alias = "list")]
    Ls(ReadArgs),
    /// Show one endpoint as JSON
    Inspect {
        /// ID, beginning of an ID, NAME.NETWORK, or a NAME that one network only has
        #[arg(value_parser = value::wanted)]
        endpoint: String,
        /// How to print.
        #[command(flatten)]
        read: InspectArgs,
    },
    /// Change an endpoint on any host; prints its ID
    Update(EndpointUpdateArgs),
}

/// `weft endpoint update`.
#[derive(Debug, Args)]
pub struct EndpointUpdateArgs {
    /// ID, beginning of an ID, NAME.NETWORK, or a NAME that one network only has
    #[arg(value_parser = value::wanted)]
    pub endpoint: String,
    /// Share of its service's new flows, 0-65535; 0 takes none
    #[arg(long, value_name = "N", required = true, value_parser = value::weight)]
    pub weight: Option<u16>,
}

/// `weft run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weft run --network web --name api -- ./server --port 80
  weft run --network web --detach -- sleep infinity
  weft run --network web --service api -- ./server
  weft run --network web --name api --publish 8080:80 -- ./server --port 80

--publish makes a service for it, with the name of --service or else its own, that goes when its
last endpoint does; SPEC is that of 'weft service create'.

In the foreground, signals and the exit status are the command's. 'weft endpoint ls' lists it,
'weft detach' ends one that was detached.")]
pub struct RunArgs {
    /// Network to attach to; may be repeated
    #[arg(long, value_name = "NETWORK", required = true, value_parser = value::wanted)]
    pub network: Vec<String>,
    /// Name of the endpoint in each network [default: from its ID]
    #[arg(long, value_name = "NAME", value_parser = value::endpoint_name)]
    pub name: Option<String>,
    /// Wanted address in the first network [default: the next free one]
    #[arg(long, value_name = "ADDRESS", value_parser = value::ipv4)]
    pub ip: Option<Ipv4Addr>,
    /// Wanted address of IPv6 in the first network [default: a free one]
    #[arg(long, value_name = "ADDRESS", value_parser = value::ipv6)]
    pub ip6: Option<Ipv6Addr>,
    /// Wanted MAC address in the first network [default: from the address]
    #[arg(long, value_name = "MAC", value_parser = value::mac)]
    pub mac: Option<MacAddr>,
    /// Further name; may be repeated
    #[arg(long, value_name = "NAME", value_parser = value::endpoint_name)]
    pub alias: Vec<String>,
    /// Service to join on those of the networks that it is on
    #[arg(long, value_name = "SERVICE", value_parser = value::wanted)]
    pub service: Option<String>,
    /// Share of the service's new flows, 0-65535; 0 takes none [default: 1]
    #[arg(long, value_name = "N", requires = "service", value_parser = value::weight)]
    pub weight: Option<u16>,
    /// Port of the hosts, such as 8080:80, of a new service; may be repeated
    #[arg(short, long, value_name = "SPEC", value_parser = value::publish)]
    pub publish: Vec<Publish>,
    /// Annotation; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = value::label)]
    pub label: Vec<(String, String)>,
    /// Go on in the background, supervised; prints the endpoint
    #[arg(short, long)]
    pub detach: bool,
    /// How to print a detached endpoint
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "table|json",
        hide_possible_values = true
    )]
    pub format: Format,
    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `weft exec`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weft exec api.web -- ping -c 3 10.0.1.2
  weft exec api.web -- ss -tln")]
pub struct ExecArgs {
    /// Endpoint on this host: ID, beginning of an ID, NAME.NETWORK, or an unambiguous NAME
    #[arg(value_parser = value::wanted)]
    pub endpoint: String,
    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
