//! `weft lab demo`: the main job of weft end to end, each step checked.

mod interrupt;
mod page;
mod service;
mod steps;
mod wire;

use std::process::ExitCode;

use self::{interrupt::Interrupt, page::Page, steps::Steps};
use super::{Lab, LabError, LabOptions};

/// Lines of each agent's log that are shown when a step fails.
const LOG_LINES: usize = 8;

/// Runs the demo on such hosts, prints it and leaves nothing behind; the exit status says whether every
/// check passed.
///
/// # Errors
/// An option is out of range.
pub(crate) fn run(options: LabOptions, encrypted: bool) -> Result<ExitCode, LabError> {
    let name = format!("demo-{}", std::process::id());
    let mut options = options.named(name).without_cluster();
    options.check()?;
    if encrypted {
        let rekey = format!("--rekey={}", wire::REKEY);
        options.agent_args.insert(0, rekey);
    }
    let hosts = options.hosts;
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
    Ok(match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
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
