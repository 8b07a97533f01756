use std::net::IpAddr;

use clap::{ArgAction, Args, Subcommand};
use ipnet::IpNet;

use super::{InspectArgs, ReadArgs, value};
use crate::api::types::Route;

/// `weft network`.
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true)]
pub enum NetworkCommand {
    /// Create a network; prints its ID
    Create(NetworkCreateArgs),
    /// List the networks
    #[command(visible_alias = "list")]
    Ls(ReadArgs),
    /// Show one network as JSON
    Inspect {
        /// NAME, ID or beginning of an ID
        #[arg(value_parser = value::wanted)]
        network: String,
        /// How to print.
        #[command(flatten)]
        read: InspectArgs,
    },
    /// Change a network; prints its name
    Update(NetworkUpdateArgs),
    /// Remove networks that nothing is attached to
    #[command(visible_alias = "remove")]
    Rm {
        /// NAME, ID or beginning of an ID
        #[arg(required = true, value_name = "NETWORK", value_parser = value::wanted)]
        networks: Vec<String>,
    },
}

/// `weft network create`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weft network create web
  weft network create db --subnet 10.20.0.0/24 --internal --encrypted
  weft network create lan --subnet 10.7.0.0/16 --ip-range 10.7.8.0/24 --aux-address nas=10.7.8.2
  weft network create dual --ipv6
  weft network create six --subnet fd00:0:0:6::/64
  weft network rm ingress && weft network create ingress --ingress --subnet 10.99.0.0/24")]
pub struct NetworkCreateArgs {
    /// 1 to 63 of a-z, 0-9 and -
    #[arg(value_parser = value::network_name)]
    pub name: String,
    /// overlay: across hosts; bridge: each host by itself
    #[arg(short, long, value_name = "DRIVER", default_value = "overlay",
          value_parser = value::driver)]
    pub driver: String,
    /// Range of addresses; may be repeated [default: from the pools]
    #[arg(long, value_name = "CIDR", value_parser = value::subnet)]
    pub subnet: Vec<IpNet>,
    /// Address of the way out, in a --subnet [default: its first]
    #[arg(long, value_name = "ADDRESS", value_parser = value::ip, requires = "subnet")]
    pub gateway: Vec<IpAddr>,
    /// Part of a --subnet that addresses are assigned from
    #[arg(long, value_name = "CIDR", value_parser = value::subnet, requires = "subnet")]
    pub ip_range: Vec<IpNet>,
    /// Address that no endpoint is given; may be repeated
    #[arg(long, value_name = "NAME=IP", value_parser = value::aux_address,
          requires = "subnet")]
    pub aux_address: Vec<(String, IpAddr)>,
    /// IPv6 beside IPv4 [a --subnet, or a /64 of the cluster's own]
    #[arg(long)]
    pub ipv6: bool,
    /// Way to other ranges by an address of it; may be repeated
    #[arg(long, value_name = "CIDR=VIA", value_parser = value::route)]
    pub route: Vec<Route>,
    /// No route out and no foreign names
    #[arg(long)]
    pub internal: bool,
    /// MTU of the endpoints, 576-65485 [default: what the underlay carries]
    #[arg(long, value_name = "BYTES", value_parser = value::mtu)]
    pub mtu: Option<u32>,
    /// VXLAN network identifier, 1-16777215 [default: the next from 4097 up]
    #[arg(long, value_name = "N", value_parser = value::vni)]
    pub vni: Option<u32>,
    /// Encrypt what its hosts send one another (ESP); never in clear
    #[arg(long)]
    pub encrypted: bool,
    /// Make it the network of published ports; one at most [VNI: 4096]
    #[arg(long, conflicts_with_all = ["internal", "multicast", "allow_overlap"])]
    pub ingress: bool,
    /// Replicate broadcast and multicast to the member hosts
    #[arg(long)]
    pub multicast: bool,
    /// Admit a subnet that another network has; the two stay isolated
    #[arg(long)]
    pub allow_overlap: bool,
    /// Annotation; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = value::label)]
    pub label: Vec<(String, String)>,
}

/// `weft network update`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weft network update db --encrypted true
  weft network update db --route-add 172.16.0.0/12=10.20.0.9
  weft network update web --subnet-add 10.21.0.0/24 --mtu 1400
  weft network update db --label-add tier=back --label-rm owner")]
pub struct NetworkUpdateArgs {
    /// NAME, ID or beginning of an ID
    #[arg(value_parser = value::wanted)]
    pub network: String,
    /// Encrypt what its hosts send one another, or no more
    #[arg(
        long,
        value_name = "true|false",
        action = ArgAction::Set,
        hide_possible_values = true
    )]
    pub encrypted: Option<bool>,
    /// Way to other ranges by an address of it; may be repeated
    #[arg(long, value_name = "CIDR=VIA", value_parser = value::route)]
    pub route_add: Vec<Route>,
    /// Way to take from its endpoints; may be repeated
    #[arg(long, value_name = "CIDR", value_parser = value::range)]
    pub route_rm: Vec<IpNet>,
    /// Replicate broadcast and multicast to the member hosts, or no more
    #[arg(
        long,
        value_name = "true|false",
        action = ArgAction::Set,
        hide_possible_values = true
    )]
    pub multicast: Option<bool>,
    /// MTU of the endpoints, 576-65485; auto: what the underlay carries
    #[arg(long, value_name = "BYTES|auto", value_parser = value::mtu_or_auto)]
    pub mtu: Option<u32>,
    /// Further range of addresses; may be repeated. Endpoints keep theirs
    #[arg(long, value_name = "CIDR", value_parser = value::subnet)]
    pub subnet_add: Vec<IpNet>,
    /// Annotation to set; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = value::label)]
    pub label_add: Vec<(String, String)>,
    /// Annotation to remove; may be repeated
    #[arg(long, value_name = "KEY", value_parser = value::wanted)]
    pub label_rm: Vec<String>,
}
