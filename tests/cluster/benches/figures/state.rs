use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weft_agent::lab::LabOptions;
use weft_cluster_tests::cluster::{Cluster, options};

/// A directory next to this program, so on a disk and not in memory; removed when dropped.
pub(crate) struct State {
    path: PathBuf,
}

impl State {
    pub(crate) fn new() -> Result<Self> {
        let exe = std::env::current_exe()?;
        let name = format!("figures-state-{}", std::process::id());
        let path = exe.parent().context("no directory")?.join(name);
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Hosts whose agents keep their state here and form a cluster.
    pub(crate) fn cluster(&self, hosts: usize) -> Result<Cluster> {
        let options: LabOptions = options(hosts)?;
        Cluster::with(&LabOptions {
            state: Some(self.path.clone()),
            ..options
        })
    }

    /// What this disk takes to keep 4 KiB for good.
    pub(crate) fn syncs(&self, count: usize) -> Result<Vec<Duration>> {
        let path = self.path.join("sync");
        let mut file = fs::File::create(&path)?;
        let times = (0..count).map(|_| {
            let started = Instant::now();
            file.write_all(&[0x5a; 4096])?;
            file.sync_data()?;
            Ok(started.elapsed())
        });
        let times = times.collect();
        fs::remove_file(path)?;
        times
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
