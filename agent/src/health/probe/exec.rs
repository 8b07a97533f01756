use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use weft_overlay::NetnsRef;

use super::late;
use crate::container;

/// Longest reason that is read, in bytes.
const MAX_REPORT: u64 = 4 << 10;
/// How long the supervising process may take to end what the command started; it gives up earlier
/// by itself.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Runs a command and waits until all of it has ended.
pub(super) async fn run(
    run_dir: &Path,
    netns: &NetnsRef,
    command: &[String],
    limit: Duration,
) -> Result<(), String> {
    let failed = |error: io::Error| format!("the command cannot be run: {error}");
    let mut supervisor = Command::from(container::check_command(run_dir, netns, command))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    // While it is open the command may go on.
    let leash = supervisor.stdin.take();
    let ended = timeout(limit, report(&mut supervisor)).await;
    drop(leash);
    match ended {
        Ok(ended) => match ended.map_err(failed)? {
            (status, _) if status.success() => Ok(()),
            (status, reason) if reason.is_empty() => Err(format!("the command: {status}")),
            (_, reason) => Err(reason),
        },
        Err(_) => {
            end(supervisor).await;
            Err(late("the command did not end", limit))
        }
    }
}

/// How it ended and what it said.
async fn report(supervisor: &mut Child) -> io::Result<(ExitStatus, String)> {
    let mut text = Vec::new();
    if let Some(output) = supervisor.stdout.take() {
        output.take(MAX_REPORT).read_to_end(&mut text).await?;
    }
    let status = supervisor.wait().await?;
    Ok((status, String::from_utf8_lossy(&text).trim().to_owned()))
}

/// Waits for the supervising process, which has been told to end.
async fn end(mut supervisor: Child) {
    if timeout(END_LIMIT, supervisor.wait()).await.is_err() {
        // The command goes with it by its death signal.
        let _ = supervisor.start_kill();
        let _ = timeout(END_LIMIT, supervisor.wait()).await;
    }
}
