use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};

/// A terminal, from the side of the one who types.
pub(crate) struct Terminal {
    keyboard: PtyMaster,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let keyboard = posix_openpt(flags).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        Self { keyboard }
    }

    /// `command` as the leader of a session whose terminal this is, which is its standard input.
    pub(crate) fn session(&self, command: &Command) -> Command {
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program());
        session.args(command.get_args()).stdin(self.screen());
        session
    }

    pub(crate) fn write(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    fn screen(&self) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        // It must not become the terminal of the tests' own session.
        options.custom_flags(OFlag::O_NOCTTY.bits());
        options.open(ptsname_r(&self.keyboard).unwrap()).unwrap()
    }
}
