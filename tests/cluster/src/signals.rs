//! A command that says which signal it got: what a shell's traps do depends on the shell, on what
//! it is about when a signal comes, and on what it was started with.

use anyhow::Result;
use nix::sys::signal::SigSet;

/// Makes the file `ready`, waits for a signal, prints its name, and ends with status 40.
pub fn main(ready: &str) -> Result<()> {
    let all = SigSet::all();
    all.thread_block()?;
    std::fs::write(ready, "")?;
    println!("{}", all.wait()?);
    std::process::exit(40)
}
