//! Clusters of real agents: one binary, one line per case.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use weft_cluster_tests::weft::act_by_name;

mod secret;
mod site;
mod t10_overlay;
mod t12_paths;
mod t15_failures;
mod t20_control;
mod t30_refusals;
mod t40_run;
mod t45_api;
mod t50_crash;
mod t60_services;
mod t60_services_cli;
mod t61_health;
mod t62_ingress;
mod t63_proxy;
mod t64_egress;
mod t65_idle;
mod t65_least;
mod t66_numbers;
mod t67_control_services;
mod t68_notices;
mod t70_quickstart;
mod t70_spread;
mod t71_rolling;
mod t72_published;
mod t80_encrypted;
mod t81_wire;
mod t82_keys;
mod t83_upsets;
mod t84_ports;
mod t85_drivers;
mod t86_addresses;
mod t90_dns;

/// A name and what it claims.
type Case = (&'static str, fn() -> anyhow::Result<()>);

fn main() -> ExitCode {
    if let Some(ended) = act_by_name() {
        return ended;
    }
    let arguments = Arguments::from_args();
    let cases = [
        t10_overlay::CASES,
        t12_paths::CASES,
        t15_failures::CASES,
        t20_control::CASES,
        t30_refusals::CASES,
        t40_run::CASES,
        t45_api::CASES,
        t50_crash::CASES,
        t60_services::CASES,
        t60_services_cli::CASES,
        t61_health::CASES,
        t62_ingress::CASES,
        t63_proxy::CASES,
        t64_egress::CASES,
        t65_idle::CASES,
        t65_least::CASES,
        t66_numbers::CASES,
        t67_control_services::CASES,
        t68_notices::CASES,
        t70_quickstart::CASES,
        t70_spread::CASES,
        t71_rolling::CASES,
        t72_published::CASES,
        t80_encrypted::CASES,
        t81_wire::CASES,
        t82_keys::CASES,
        t83_upsets::CASES,
        t84_ports::CASES,
        t85_drivers::CASES,
        t90_dns::CASES,
        t86_addresses::CASES,
    ];
    let trials = cases.into_iter().flatten().map(|(name, case)| {
        Trial::test(*name, move || {
            case().map_err(|error| format!("{error:#}").into())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
