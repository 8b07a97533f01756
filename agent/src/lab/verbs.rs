//! The verbs of `weft lab`.

use std::io::Write as _;
use std::{path::PathBuf, process::ExitCode};

use super::{Lab, LabDir, LabError, LabOptions, LabStatus, OUTSIDE};
use crate::{
    cli::{
        Context,
        args::{Format, LabCommand, LabExecArgs, LabStatusArgs, LabUpArgs},
    },
    exit::CliError,
};

impl From<LabError> for CliError {
    fn from(error: LabError) -> Self {
        Self::failed(error.to_string())
    }
}

/// `weft lab`.
///
/// # Errors
/// The verb could not be done.
pub fn run(_context: &Context, command: LabCommand) -> Result<ExitCode, CliError> {
    match command {
        LabCommand::Up(args) => up(args),
        LabCommand::Demo(args) => {
            let hosts = usize::from(args.hosts);
            let options = LabOptions::new(current_exe()?)
                .with_hosts(hosts)
                .with_agent_args(args.agent_args);
            Ok(super::demo::run(options, args.encrypted)?)
        }
        LabCommand::Exec(LabExecArgs { lab, host, command }) => {
            Ok(super::exec(&lab.name, &host, &command)?)
        }
        LabCommand::Status(args) => status(&args),
        LabCommand::Down(lab) => down(&lab.name),
    }
}

fn up(args: LabUpArgs) -> Result<ExitCode, CliError> {
    let options = LabOptions {
        hosts: usize::from(args.hosts),
        managers: usize::from(args.managers),
        cluster: !args.no_cluster,
        agents: !args.no_agents,
        state: args.state,
        ..LabOptions::new(current_exe()?).named(args.lab.name)
    }
    .with_agent_args(args.agent_args);
    let lab = Lab::start(&options)?;
    std::io::stdout().write_all(what_next(&options, lab.dir()).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The program that the lab is made of: the one that runs.
fn current_exe() -> Result<PathBuf, CliError> {
    Ok(std::env::current_exe()?)
}

/// What `lab up` says when it is done.
fn what_next(options: &LabOptions, dir: &std::path::Path) -> String {
    let LabOptions { name, hosts, .. } = options;
    let flag = match name.as_str() {
        super::DEFAULT_NAME => String::new(),
        name => format!(" --name {name}"),
    };
    let exec = |host: &str, line: &str| format!("  weft lab exec{flag} {host} -- {line}\n");
    let mut text = format!(
        "lab {name:?} is up: h1..h{hosts} and {OUTSIDE}; logs in {}\n",
        dir.display()
    );
    text.push_str("type next:\n");
    if options.cluster {
        text.push_str(&exec("h1", "weft node ls"));
        text.push_str(&exec("h1", "weft network create demo"));
        text.push_str(&exec(
            "h1",
            "weft run --network demo --name c1 --detach -- sleep infinity",
        ));
        let last = format!("h{hosts}");
        text.push_str(&exec(
            &last,
            "weft run --network demo -- ping -c 3 10.0.1.2",
        ));
    } else if options.agents {
        text.push_str(&exec("h1", "weft init"));
    }
    text.push_str(&exec("h1", "bash"));
    text.push_str(&format!("  weft lab down{flag}\n"));
    text
}

fn status(args: &LabStatusArgs) -> Result<ExitCode, CliError> {
    let dirs = match &args.name {
        Some(name) => vec![LabDir::new(name)?],
        None => LabDir::all()?,
    };
    let mut labs: Vec<LabStatus> = Vec::new();
    for dir in dirs {
        // What a lab that was killed has left is removed by whoever comes by.
        if dir.remove_if_stale()? {
            continue;
        }
        let lab = Lab::find(dir.name(), &current_exe()?, &[]);
        labs.extend(lab.and_then(|lab| lab.status()).ok());
    }
    if let (Some(name), true) = (&args.name, labs.is_empty()) {
        return Err(LabError::NotUp { name: name.clone() }.into());
    }
    let text = match (args.read.format, args.read.quiet) {
        (_, true) => labs.iter().map(|lab| format!("{}\n", lab.name)).collect(),
        (Format::Json, false) => {
            let text = serde_json::to_string_pretty(&labs).map_err(std::io::Error::from)?;
            format!("{text}\n")
        }
        (Format::Table, false) => table(&labs),
    };
    // A reader that went away is an error of its own, not a panic.
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn table(labs: &[LabStatus]) -> String {
    let mut text = format!(
        "{:<16}{:<9}{:<16}{:<9}{}\n",
        "LAB", "HOST", "ADDRESS", "CABLE", "AGENT"
    );
    for lab in labs {
        for host in &lab.hosts {
            let agent = match &host.agent {
                None => "-".to_owned(),
                Some(agent) => match &agent.ended {
                    None => format!("runs, pid {}", agent.pid),
                    Some(how) => format!("ended, {how}"),
                },
            };
            let cable = format!("{:?}", host.cable).to_lowercase();
            let row = (&lab.name, &host.name, host.address.to_string());
            text.push_str(&format!(
                "{:<16}{:<9}{:<16}{cable:<9}{agent}\n",
                row.0, row.1, row.2
            ));
        }
    }
    text
}

fn down(name: &str) -> Result<ExitCode, CliError> {
    match super::down(name)? {
        true => Ok(ExitCode::SUCCESS),
        false => Err(LabError::NotUp {
            name: name.to_owned(),
        }
        .into()),
    }
}
