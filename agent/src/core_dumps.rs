//! Keys are in the memory of the agent and of the data-plane process, and a core dump is a file.

use nix::sys::resource::{Resource, setrlimit};

/// Leaves no core dump of this process. One byte is less than any has, and the value by which the
/// kernel knows that a program that dumps are piped into is not to get one either (`do_coredump` in
/// fs/coredump.c).
const LIMIT: u64 = 1;

/// From now on this process and what it starts leave no core dumps.
pub(crate) fn prevent() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, LIMIT, LIMIT) {
        tracing::warn!(%error, "a core dump of this process would have keys in it");
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::getrlimit;

    use super::*;

    #[test]
    fn nothing_is_dumped() {
        prevent();
        let limits = getrlimit(Resource::RLIMIT_CORE).unwrap();
        assert_eq!(limits, (LIMIT, LIMIT));
    }
}
