//! A lab, from the outside: start it, use its hosts, end it.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    Host, LabDir, LabError, LabOptions, OUTSIDE, cluster,
    control::{Control, HostStatus, LabStatus, Request, Response},
    helper::{Role, helper, how_it_ended},
    launch::READY,
};

/// How long an agent may take until it answers on its socket.
const AGENT_LIMIT: Duration = Duration::from_secs(30);
/// How long a lab may take to end; the kernel ends hundreds of processes in milliseconds.
const END_LIMIT: Duration = Duration::from_secs(20);
/// How often the end of the launcher is looked for.
const POLL: Duration = Duration::from_millis(2);

/// A running lab.
///
/// One that was started with [`Lab::up`] ends when the value is dropped, and also when the process
/// that owns it dies; one that was found with [`Lab::find`] goes on.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
    owned: Option<Child>,
}

/// What a lab and its hosts know.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dir: LabDir,
    pub(crate) supervisor: i32,
    pub(crate) weft_exe: PathBuf,
    pub(crate) agent_args: Vec<String>,
    pub(crate) host_args: BTreeMap<String, Vec<String>>,
}

impl Shared {
    pub(crate) fn control(&self) -> Result<Control, LabError> {
        Control::connect(&self.dir)
    }
}

impl Lab {
    /// Starts a lab that ends with the returned value, and waits until it is ready for use.
    ///
    /// # Errors
    /// An option is out of range, the name is taken, namespaces cannot be made, an agent or the
    /// cluster does not come up. Nothing is left behind then.
    pub fn up(options: &LabOptions) -> Result<Self, LabError> {
        let (dir, launcher) = launch(options)?;
        let mut lab = Self {
            shared: Arc::new(Shared {
                supervisor: 0,
                dir,
                weft_exe: options.weft_exe.clone(),
                agent_args: options.agent_args.clone(),
                host_args: options.host_args.clone(),
            }),
            owned: Some(launcher),
        };
        let supervisor = lab.shared.control()?.supervisor();
        if let Some(shared) = Arc::get_mut(&mut lab.shared) {
            shared.supervisor = supervisor;
        }
        lab.prepare(options)?;
        Ok(lab)
    }

    /// Starts a lab that outlives the caller, until [`Lab::down`], once it is ready for use.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn start(options: &LabOptions) -> Result<Self, LabError> {
        let mut lab = Self::up(options)?;
        lab.shared.control()?.order(&Request::Keep)?;
        lab.owned = None;
        Ok(lab)
    }

    /// The running lab of that name; agents that are started from here get `agent_args`.
    ///
    /// # Errors
    /// There is none.
    pub fn find(name: &str, weft_exe: &Path, agent_args: &[String]) -> Result<Self, LabError> {
        let dir = LabDir::new(name)?;
        let supervisor = Control::connect(&dir)?.supervisor();
        let shared = Shared {
            dir,
            supervisor,
            weft_exe: weft_exe.to_owned(),
            agent_args: agent_args.to_vec(),
            host_args: BTreeMap::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            owned: None,
        })
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        self.shared.dir.name()
    }

    /// Where the lab's logs are.
    pub fn dir(&self) -> &Path {
        self.shared.dir.path()
    }

    /// Process id of the supervisor, as the caller sees it.
    pub fn supervisor_pid(&self) -> i32 {
        self.shared.supervisor
    }

    /// What there is and what runs.
    ///
    /// # Errors
    /// The lab has ended.
    pub fn status(&self) -> Result<LabStatus, LabError> {
        self.shared.control()?.status()
    }

    /// The host of that name.
    ///
    /// # Errors
    /// The lab has no such host, or has ended.
    pub fn host_named(&self, name: &str) -> Result<Host, LabError> {
        let status = self.shared.control()?.find(name)?;
        Ok(self.host_of(&status))
    }

    /// The host `h<number>`; the first is 1.
    ///
    /// # Errors
    /// As [`Lab::host_named`].
    pub fn host(&self, number: usize) -> Result<Host, LabError> {
        self.host_named(&format!("h{number}"))
    }

    /// The machine on the underlay that has no agent.
    ///
    /// # Errors
    /// The lab has ended.
    pub fn outside(&self) -> Result<Host, LabError> {
        self.host_named(OUTSIDE)
    }

    /// Every host but `outside`, in order.
    ///
    /// # Errors
    /// The lab has ended.
    pub fn hosts(&self) -> Result<Vec<Host>, LabError> {
        let hosts = self.status()?.hosts;
        Ok(hosts
            .iter()
            .filter(|host| host.name != OUTSIDE)
            .map(|host| self.host_of(host))
            .collect())
    }

    /// Adds the next host, without an agent.
    ///
    /// # Errors
    /// The lab is full or has ended.
    pub fn add_host(&self) -> Result<Host, LabError> {
        match self.shared.control()?.ask(&Request::AddHost)? {
            Response::Host(status) => Ok(self.host_of(&status)),
            other => Err(LabError::Refused(format!("unexpected answer {other:?}"))),
        }
    }

    /// Changes the MTU of the underlay and of every host's interface on it.
    ///
    /// # Errors
    /// The MTU cannot be set, or the lab has ended.
    pub fn set_underlay_mtu(&self, mtu: u32) -> Result<(), LabError> {
        self.shared.control()?.order(&Request::SetMtu { mtu })
    }

    /// Ends the lab and waits until nothing of it is left.
    ///
    /// # Errors
    /// Something of it is still there after a while.
    pub fn down(mut self) -> Result<(), LabError> {
        self.end()
    }

    fn prepare(&self, options: &LabOptions) -> Result<(), LabError> {
        if !options.agents {
            return Ok(());
        }
        let hosts = self.hosts()?;
        for host in &hosts {
            host.start_agent()?;
        }
        for host in &hosts {
            host.wait_ready(AGENT_LIMIT)?;
        }
        match options.cluster {
            true => cluster::form(&hosts, options.managers),
            false => Ok(()),
        }
    }

    fn host_of(&self, status: &HostStatus) -> Host {
        Host::new(self.shared.clone(), status)
    }

    fn end(&mut self) -> Result<(), LabError> {
        let mut launcher = self.owned.take();
        if let Some(launcher) = &mut launcher {
            drop(launcher.stdin.take());
        }
        let ended = end(&self.shared.dir);
        if let Some(mut launcher) = launcher {
            wait_or_kill(&mut launcher);
        }
        ended
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owned.is_some()
            && let Err(error) = self.end()
        {
            tracing::warn!(lab = self.name(), %error, "the lab did not end");
        }
    }
}

/// Ends the lab of that name, or removes what is left of it. Whether there was one.
///
/// # Errors
/// Something of it is still there after a while.
pub fn down(name: &str) -> Result<bool, LabError> {
    let dir = LabDir::new(name)?;
    let was_there = dir.path().exists();
    end(&dir)?;
    Ok(was_there)
}

/// Tells a lab to end, as soon as it can be told, until nothing of it is left.
fn end(dir: &LabDir) -> Result<(), LabError> {
    let start = Instant::now();
    // The directory goes a moment before the process that removed it.
    let log = fs::File::open(dir.log());
    let held = || log.as_ref().is_ok_and(|log| log.try_lock().is_err());
    while !dir.remove_if_stale()? || held() {
        if start.elapsed() > END_LIMIT {
            let what = format!("lab {:?} should have ended", dir.name());
            return Err(LabError::TimedOut {
                what,
                seconds: END_LIMIT.as_secs(),
            });
        }
        if let Ok(mut control) = Control::connect(dir) {
            // The answer is the end of the connection.
            let _ = control.ask(&Request::Down);
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Starts the launcher and waits until the hosts are up.
fn launch(options: &LabOptions) -> Result<(LabDir, Child), LabError> {
    options.check()?;
    let dir = LabDir::new(&options.name)?;
    let spec = options.spec(&dir)?;
    let log = dir.create()?;
    let refuse = |reason: String| LabError::Start {
        name: options.name.clone(),
        reason,
    };
    let mut launcher = helper(&options.weft_exe, &Role::Launch(spec))
        .map_err(|error| refuse(error.to_string()))?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| refuse(error.to_string()))?;
    let mut report = String::new();
    if let Some(mut out) = launcher.stdout.take() {
        // Ends at the latest with the launcher, which ends with the supervisor.
        out.read_to_string(&mut report)
            .map_err(LabError::io("cannot hear the launcher"))?;
    }
    if report == READY {
        return Ok((dir, launcher));
    }
    drop(launcher.stdin.take());
    let status = launcher
        .wait()
        .map_err(LabError::io("cannot wait for the launcher"))?;
    let log = fs::read_to_string(dir.log()).unwrap_or_default();
    let reason = match (report.trim(), log.lines().last()) {
        ("", Some(line)) => line.to_owned(),
        ("", None) => format!("its launcher ended with {}", how_it_ended(status)),
        (report, _) => report.replace('\n', "; "),
    };
    end(&dir)?;
    Err(refuse(reason))
}

/// A launcher that is killed takes the supervisor with it.
fn wait_or_kill(launcher: &mut Child) {
    let start = Instant::now();
    while let Ok(None) = launcher.try_wait() {
        if start.elapsed() > END_LIMIT {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(launcher.id().cast_signed()),
                Signal::SIGKILL,
            );
            let _ = launcher.wait();
            return;
        }
        std::thread::sleep(POLL);
    }
}
