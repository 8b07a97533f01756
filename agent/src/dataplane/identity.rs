//! Which program this process runs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Names the running program: another version of it has another name, and so has another file. The
/// file is the one that was started, whatever lies at its path by now.
///
/// # Errors
/// When `/proc` is not there.
pub(crate) fn build() -> io::Result<String> {
    let file = fs::metadata("/proc/self/exe")?;
    Ok(format!(
        "{}-{:x}-{:x}-{:x}.{:x}",
        env!("CARGO_PKG_VERSION"),
        file.dev(),
        file.ino(),
        file.mtime(),
        file.mtime_nsec()
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_program_is_itself() {
        let build = super::build().unwrap();
        assert_eq!(build, super::build().unwrap());
        assert!(build.starts_with(env!("CARGO_PKG_VERSION")), "{build}");
    }
}
