//! Into the namespaces of a host.

use std::{
    fs::File,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::Context;
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

/// Where `weft` is in every host, first on its PATH.
pub(crate) const BIN_DIR: &str = "/run/weft-bin";
/// What a host's PATH ends with when the caller has none.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables that would point `weft` away from the host's own agent.
const WEFT_VARIABLES: [&str; 5] = [
    "WEFT_SOCKET",
    "WEFT_CONFIG",
    "WEFT_DATA_DIR",
    "WEFT_RUN_DIR",
    "WEFT_NODE_NAME",
];

/// A program to become inside a host, seen from inside the lab.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EnterSpec {
    /// The process that holds the host's namespaces.
    pub(crate) holder: i32,
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
}

/// Enters the host and becomes the program.
pub(crate) fn run(spec: &EnterSpec) -> anyhow::Result<ExitCode> {
    Namespaces::open(&PathBuf::from(format!("/proc/{}/ns", spec.holder)))?.enter()?;
    let (program, args) = spec.argv.split_first().context("no program given")?;
    let mut command = Command::new(program);
    command.args(args);
    prepare(&mut command);
    Err(command.exec()).with_context(|| format!("cannot run {program}"))
}

/// Points a command that will run in a host at that host's `weft`.
pub(crate) fn prepare(command: &mut Command) {
    let path = std::env::var("PATH").unwrap_or_else(|_| PATH_DEFAULT.to_owned());
    command.env("PATH", format!("{BIN_DIR}:{path}"));
    for name in WEFT_VARIABLES {
        command.env_remove(name);
    }
}

/// Namespaces of a process, opened but not yet entered.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// In the order in which they are entered: the user namespace gives the right to the others,
    /// and the mount namespace goes last because the paths change with it.
    files: Vec<(File, CloneFlags)>,
}

impl Namespaces {
    /// Opens those namespaces in a `/proc/PID/ns` directory that differ from the caller's.
    pub(crate) fn open(ns: &Path) -> anyhow::Result<Self> {
        const ORDER: [(&str, CloneFlags); 6] = [
            ("user", CloneFlags::CLONE_NEWUSER),
            ("pid", CloneFlags::CLONE_NEWPID),
            ("ipc", CloneFlags::CLONE_NEWIPC),
            ("uts", CloneFlags::CLONE_NEWUTS),
            ("net", CloneFlags::CLONE_NEWNET),
            ("mnt", CloneFlags::CLONE_NEWNS),
        ];
        let mut files = Vec::with_capacity(ORDER.len());
        for (name, flag) in ORDER {
            let path = ns.join(name);
            let theirs =
                File::open(&path).with_context(|| format!("cannot open {name} namespace"))?;
            let own = std::fs::metadata(Path::new("/proc/self/ns").join(name));
            let id = |meta: &std::fs::Metadata| (meta.dev(), meta.ino());
            // Entering one's own user namespace again is an error (setns(2), EINVAL).
            if !own.is_ok_and(|own| theirs.metadata().is_ok_and(|meta| id(&meta) == id(&own))) {
                files.push((theirs, flag));
            }
        }
        Ok(Self { files })
    }

    /// Enters them. The pid namespace takes effect for children only (setns(2)).
    pub(crate) fn enter(self) -> anyhow::Result<()> {
        for (file, flag) in self.files {
            setns(&file, flag).with_context(|| format!("cannot enter {flag:?}"))?;
        }
        Ok(())
    }
}
