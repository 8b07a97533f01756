//! The agent's side of the data-plane process: sees to it that one of this program runs while there
//! is something for it to do, tells it what, and hears what it does.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};
use weft_lb::relay::RelaySpec;

use crate::config::{Config, LogFormat};
use crate::dataplane::client::Link;
use crate::dataplane::wire::State;
use crate::dataplane::{Place, build};

/// How often it is looked what the processes do although nothing has changed.
const LOOK: Duration = Duration::from_secs(5);
/// How long a process may take to be there. It takes some milliseconds where there is time.
const START: Duration = Duration::from_secs(30);
/// How often it is looked whether it is.
const START_LOOK: Duration = Duration::from_millis(10);
/// First and longest pause between two starts, where the first of them did not last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A process that ran for that long did.
const LASTED: Duration = Duration::from_secs(30);
/// How long the rest of a node waits for the process.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the agent knows of its data-plane process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Up to which [`want`](Dataplane::want) this is.
    number: u64,
    /// Process id and version of the one in charge, if there is one.
    pub(super) process: Option<(u32, String)>,
    /// What it does, and what those do that it has succeeded.
    pub(super) states: Vec<State>,
    /// How often a process ended that was needed.
    pub(super) lost: u64,
    /// Why what is wanted is not done, if so.
    pub(super) error: Option<String>,
}

/// The process as the agent sees it. Dropping this leaves it alone.
#[derive(Debug)]
pub(super) struct Dataplane {
    wanted: watch::Sender<Wanted>,
    report: watch::Receiver<Arc<Report>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Wanted {
    number: u64,
    /// Connections to pass on, once that is known: until then it goes on as an earlier agent said.
    spec: Option<Arc<RelaySpec>>,
    /// Whether it is needed for encrypted networks, once that is known.
    esp: Option<bool>,
    /// Whether it is needed for names inside containers, once that is known.
    dns: Option<bool>,
}

impl Wanted {
    fn relay(&self) -> Option<&RelaySpec> {
        self.spec.as_deref()
    }

    fn is_nothing(&self) -> bool {
        let needed = self.esp == Some(true) || self.dns == Some(true);
        self.relay().is_none_or(RelaySpec::is_empty) && !needed
    }
}

/// Says whether the process is needed for something.
#[derive(Clone, Debug)]
pub(super) struct Need {
    wanted: watch::Sender<Wanted>,
    what: fn(&mut Wanted) -> &mut Option<bool>,
}

impl Need {
    /// From now on.
    pub(super) fn set(&self, needed: bool) {
        self.wanted.send_if_modified(|wanted| {
            let what = (self.what)(wanted);
            what.replace(needed) != Some(needed)
        });
    }
}

impl Dataplane {
    /// Knows nothing of any process yet. To be called inside a tokio runtime.
    pub(super) fn start(config: &Config) -> Self {
        let (wanted, follow) = watch::channel(Wanted::default());
        let (sender, report) = watch::channel(Arc::default());
        let keeper = Keeper {
            place: Place::new(&config.run_dir),
            log: (config.log_format, config.log_level.clone()),
            wanted: follow,
            report: sender,
            link: None,
            lost: 0,
            started: None,
            pause: PAUSE.0,
            retry_at: None,
        };
        let task = tokio::spawn(keeper.keep());
        Self {
            wanted,
            report,
            task,
        }
    }

    /// Where the latest report can be read.
    pub(super) fn reports(&self) -> watch::Receiver<Arc<Report>> {
        self.report.clone()
    }

    /// Where it can be said that it is needed for encrypted networks.
    pub(super) fn esp_need(&self) -> Need {
        self.need(|wanted| &mut wanted.esp)
    }

    /// Where it can be said that it is needed for names inside containers.
    pub(super) fn dns_need(&self) -> Need {
        self.need(|wanted| &mut wanted.dns)
    }

    fn need(&self, what: fn(&mut Wanted) -> &mut Option<bool>) -> Need {
        let wanted = self.wanted.clone();
        Need { wanted, what }
    }

    /// Has the process do exactly this, and waits for that. With nothing to do there need be none.
    ///
    /// # Errors
    /// In one line, when it is not done, or not yet; it is tried again.
    pub(super) async fn want(&mut self, spec: RelaySpec) -> Result<(), String> {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            wanted.number += 1;
            wanted.spec = Some(Arc::new(spec));
            number = wanted.number;
        });
        let answered = self.report.wait_for(|report| report.number >= number);
        match timeout(PATIENCE, answered).await {
            Ok(Ok(report)) => report.error.clone().map_or(Ok(()), Err),
            Ok(Err(_)) => Err("the data-plane process is not looked after".to_owned()),
            Err(_) => Err("the data-plane process is not there yet".to_owned()),
        }
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Looks after the process.
struct Keeper {
    place: Place,
    log: (LogFormat, String),
    wanted: watch::Receiver<Wanted>,
    report: watch::Sender<Arc<Report>>,
    /// To the process in charge.
    link: Option<Link>,
    lost: u64,
    started: Option<Instant>,
    pause: Duration,
    retry_at: Option<Instant>,
}

/// Why a process does not do what is wanted.
#[derive(Debug)]
struct Trouble(String);

impl Keeper {
    async fn keep(mut self) {
        loop {
            let look = Instant::now() + LOOK;
            let next = self.retry_at.map_or(look, |at| at.min(look));
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() {
                    return;
                },
                () = gone(self.link.as_ref()) => self.ended(),
                () = sleep_until(next) => {}
            }
            self.pass().await;
        }
    }

    /// The process in charge has gone. One that had nothing to do was right.
    fn ended(&mut self) {
        let pid = self.link.take().map(|link| link.hello().pid);
        if !self.wanted.borrow().is_nothing() {
            warn!(pid, "the data-plane process has ended; starting another");
            self.lost += 1;
        }
    }

    async fn pass(&mut self) {
        self.retry_at = None;
        let wanted = self.wanted.borrow_and_update().clone();
        let outcome = match wanted.is_nothing() {
            true => Ok(Vec::new()),
            false => self.tell_in_charge(&wanted).await,
        };
        let (mut states, error) = match outcome {
            Ok(states) => (states, None),
            Err(Trouble(error)) => (Vec::new(), Some(error)),
        };
        if error.is_some() && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + PAUSE.1);
        }
        states.extend(self.tell_others(&wanted).await);
        let error = error.or_else(|| failed(&states));
        if let Some(error) = error
            .as_ref()
            .filter(|e| self.report.borrow().error.as_ref() != Some(e))
        {
            warn!(error, "the data-plane process does not do what it should");
        }
        let hello = self.link.as_ref().map(Link::hello);
        self.report.send_replace(Arc::new(Report {
            number: wanted.number,
            process: hello.map(|hello| (hello.pid, hello.version.clone())),
            states,
            lost: self.lost,
            error,
        }));
    }

    /// Sees to it that a process of this program is in charge and does this.
    async fn tell_in_charge(&mut self, wanted: &Wanted) -> Result<Vec<State>, Trouble> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.in_charge().await?,
        };
        let state = link.want(wanted.relay(), wanted.esp, wanted.dns).await?;
        self.link = Some(link);
        Ok(vec![state])
    }

    async fn in_charge(&mut self) -> Result<Link, Trouble> {
        let build = build()?;
        if let Ok(link) = Link::connect(&self.place.current()).await {
            if link.hello().build == build {
                let pid = link.hello().pid;
                info!(pid, "going on with the data-plane process that runs");
                return Ok(link);
            }
            let (version, pid) = (&link.hello().version, link.hello().pid);
            info!(
                version,
                pid, "the data-plane process is another program; replacing it"
            );
        }
        let now = Instant::now();
        if let Some(started) = self.started {
            match now.duration_since(started) >= LASTED {
                true => self.pause = PAUSE.0,
                false if now < started + self.pause => {
                    self.retry_at = Some(started + self.pause);
                    let why = "it ended soon after it was started; trying again in a moment";
                    return Err(Trouble::of(why));
                }
                false => self.pause = (self.pause * 2).min(PAUSE.1),
            }
        }
        self.started = Some(now);
        let mut child = self.spawn()?;
        match timeout(START, self.has_started(&mut child, &build)).await {
            Ok(link) => link,
            Err(_) => Err(Trouble::of("it was started and does not answer")),
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let (format, level) = &self.log;
        let format = match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("weft")
            .arg("dataplane")
            .arg("--run-dir")
            .arg(self.place.run_dir())
            .args(["--log-format", format, "--log-level", level])
            // It is not what a service manager waits for.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.spawn()
    }

    /// Until the process is in charge.
    async fn has_started(&self, child: &mut Child, build: &str) -> Result<Link, Trouble> {
        loop {
            if let Ok(link) = Link::connect(&self.place.current()).await
                && Some(link.hello().pid) == child.id()
                && link.hello().build == build
            {
                return Ok(link);
            }
            if let Some(status) = child.try_wait()? {
                return Err(Trouble::of(&format!(
                    "it was started and ended with {status}"
                )));
            }
            sleep(START_LOOK).await;
        }
    }

    /// Those that have been succeeded still have connections, whose backends may go. With nothing to
    /// do, the one in charge is one of them.
    async fn tell_others(&mut self, wanted: &Wanted) -> Vec<State> {
        let in_charge = self
            .link
            .as_ref()
            .map(|link| self.place.of(link.hello().pid));
        let mut states = Vec::new();
        for path in self.place.all() {
            let is_in_charge = in_charge.as_ref() == Some(&path);
            if is_in_charge && !wanted.is_nothing() {
                continue;
            }
            let told = async {
                let mut link = Link::connect(&path).await?;
                match link.is_understood() {
                    true => {
                        let (esp, dns) = (wanted.esp, wanted.dns);
                        let (esp, dns) = (esp.filter(|n| !n), dns.filter(|n| !n));
                        link.want(wanted.relay(), esp, dns).await
                    }
                    false => Ok(State::default()),
                }
            };
            match told.await {
                Ok(state) => states.push(state),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    Place::forget(&path);
                }
                Err(error) => debug!(path = %path.display(), %error, "a process does not answer"),
            }
        }
        states
    }
}

async fn gone(link: Option<&Link>) {
    match link {
        Some(link) => link.gone().await,
        None => std::future::pending().await,
    }
}

/// What listens nowhere although it should.
fn failed(states: &[State]) -> Option<String> {
    let in_charge = states.iter().filter(|state| !state.succeeded);
    let mut failed = in_charge.flat_map(|state| &state.failed);
    let (at, why) = failed.next()?;
    Some(format!("connections cannot be taken at {at}: {why}"))
}

impl Trouble {
    fn of(why: &str) -> Self {
        Self(format!("the data-plane process: {why}"))
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::of(&error.to_string())
    }
}
