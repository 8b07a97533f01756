//! `weft lab demo`: the main job of weft end to end, each step checked.

mod interrupt;
mod page;
mod service;
mod steps;
mod wire;

use std::{path::PathBuf, process::ExitCode};

use self::{interrupt::Interrupt, page::Page, steps::Steps};
use super::{Lab, LabOptions};

/// Lines of each agent's log that are shown when a step fails.
const LOG_LINES: usize = 8;

/// Runs the demo, prints it and leaves nothing behind; fails if a check does.
pub(crate) fn run(exe: PathBuf, hosts: usize, encrypted: bool) -> ExitCode {
    let name = format!("demo-{}", std::process::id());
    let mut options = LabOptions::new(exe)
        .named(name)
        .with_hosts(hosts)
        .without_cluster();
    if encrypted {
        options.agent_args = ["--rekey", wire::REKEY].map(str::to_owned).into();
    }
    let mut page = Page::new(Interrupt::watch(&options.name));
    page.title(&format!(
        "weft on {hosts} hosts of this machine, nothing installed or left behind"
    ));
    let passed = match page.step("hosts", || start(&options)) {
        None => false,
        Some(lab) => {
            let passed = Steps::new(&lab, &mut page, encrypted).run();
            if !passed {
                show_logs(&lab, &mut page);
            }
            let ended = page.step("clean", || {
                lab.down()?;
                Ok((
                    (),
                    "processes, namespaces, links and files are gone".to_owned(),
                ))
            });
            passed && ended.is_some()
        }
    };
    page.end(passed);
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn start(options: &LabOptions) -> steps::Checked<Lab> {
    let lab = Lab::up(options)?;
    let names: Vec<String> = lab
        .hosts()?
        .iter()
        .map(|host| host.name().to_owned())
        .collect();
    let text = format!("{} on one wire, an agent on each", page::listed(&names));
    Ok((lab, text))
}

/// Shows what the agents complained of: their logs go with the lab.
fn show_logs(lab: &Lab, page: &mut Page) {
    for host in lab.hosts().unwrap_or_default() {
        let lines = host.log_tail(usize::MAX);
        let grave = |line: &&String| !line.contains(" INFO ") && !line.contains(" DEBUG ");
        let complaints: Vec<&String> = lines.iter().filter(grave).collect();
        let first = complaints.len().saturating_sub(LOG_LINES);
        for line in complaints.into_iter().skip(first) {
            page.note(&format!("{}: {line}", host.name()));
        }
    }
}
