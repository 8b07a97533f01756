//! What is done to files and sockets so that an agent finds them wrong, without a program that a
//! machine may lack.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::Result;

/// Inverts one byte of a file.
pub fn flip(path: &str, offset: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    Ok(file.write_all_at(&[!byte[0]], offset)?)
}

/// Makes a socket that nobody listens on any more.
pub fn dead_socket(path: &str) -> Result<()> {
    drop(UnixListener::bind(path)?);
    Ok(())
}

/// A server that is not weft's: says `greeting` to whoever connects, and hangs up.
pub fn foreign_server(path: &str, greeting: &str) -> Result<()> {
    let new = format!("{path}.new");
    let listener = UnixListener::bind(&new)?;
    // Who sees it can connect.
    std::fs::rename(&new, Path::new(path))?;
    for peer in listener.incoming() {
        // The peer may have gone first.
        let _ = peer?.write_all(greeting.as_bytes());
    }
    Ok(())
}
