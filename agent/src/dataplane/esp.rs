//! Encrypted networks in this process: a data path, from the first specification of an agent until none
//! is needed any more. That is the user-space one, or the kernel's, whose socket has to be somebody's who
//! outlives the agent.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use weft_encrypt::esp::Spi;
use weft_encrypt::kernel::{self, Kernel};
use weft_encrypt::keys::SaKey;
use weft_encrypt::path::{PathSpec, PathState, SaName};
use weft_encrypt::userspace::{HandedOver, HandedOverState, Userspace};
use zeroize::Zeroizing;

use super::wire::{self, EspPath, Sealed};

/// How long a process that was given everything may take to be in charge. Whoever asks until then is
/// to ask that one: nothing is begun anew beside it.
const HANDING_OVER: Duration = Duration::from_secs(10);

/// The data path of one process, if it carries one.
pub(super) struct Esp {
    run_dir: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    needed: bool,
    /// When another process was given everything.
    handed_over: Option<Instant>,
    /// That process is in charge.
    succeeded: bool,
    /// What it was told to carry, last.
    spec: Option<PathSpec>,
    running: Option<Running>,
    error: Option<String>,
}

/// A data path.
enum Running {
    Userspace(Userspace),
    Kernel(Kernel),
}

/// What a data path leaves to another process, beside descriptors.
#[derive(Serialize, Deserialize)]
enum Left {
    Userspace(Box<HandedOverState>),
    /// All of it is in the kernel.
    Kernel,
}

impl Esp {
    /// Carries nothing. In `run_dir` is kept which keys the kernel has.
    pub(super) fn new(run_dir: PathBuf) -> Self {
        Self {
            run_dir,
            inner: Mutex::default(),
        }
    }

    /// Whether the process is needed for it.
    pub(super) fn is_needed(&self) -> bool {
        self.inner().needed
    }

    /// Whether it is needed from now on. If not, keys are erased and nothing is carried.
    pub(super) fn need(&self, needed: bool) {
        let mut inner = self.inner();
        inner.needed = needed;
        if needed {
            return;
        }
        if let Some(running) = inner.running.take() {
            running.end();
            info!("no encrypted network is carried any more");
        }
        inner.spec = None;
        inner.error = None;
    }

    /// Another process is in charge from now on: nothing is carried here any more.
    pub(super) fn succeeded(&self) {
        let mut inner = self.inner();
        *inner = Inner {
            succeeded: true,
            ..Inner::default()
        };
    }

    /// Carries this from now on; what it is then. What cannot be done is said in there. Blocks
    /// for some milliseconds when it starts.
    ///
    /// # Errors
    /// When another process is in charge, which is to be told.
    pub(super) fn want(&self, spec: PathSpec, path: EspPath) -> Result<PathState, String> {
        let mut inner = self.inner();
        let handing_over = inner.handed_over.map(|at| at.elapsed() < HANDING_OVER);
        if inner.succeeded || handing_over == Some(true) {
            return Err("another process carries encrypted networks".to_owned());
        }
        inner.needed = true;
        let kept = inner
            .spec
            .as_ref()
            .is_some_and(|old| is_same_place(old, &spec));
        if let Some(running) = inner
            .running
            .take_if(|running| !kept || running.path() != path)
        {
            running.end();
        }
        let outcome = match &inner.running {
            Some(running) => running.want(&spec),
            None => self
                .start(&spec, path)
                .map(|running| inner.running = Some(running)),
        };
        if let Err(error) = &outcome
            && inner.error.as_ref() != Some(error)
        {
            warn!(
                error,
                "encrypted networks are not carried as they should be"
            );
        }
        inner.error = outcome.err();
        inner.spec = Some(spec);
        Ok(state(&inner))
    }

    fn start(&self, spec: &PathSpec, path: EspPath) -> Result<Running, String> {
        match path {
            EspPath::Userspace => {
                // Of a process that was ended before it was told to carry them otherwise.
                if let Err(error) = kernel::remove_left(&self.run_dir) {
                    warn!(%error, "the kernel may have associations of an earlier process");
                }
                Userspace::start(spec.clone(), None)
                    .map(Running::Userspace)
                    .map_err(|error| error.to_string())
            }
            EspPath::Kernel => Kernel::start(spec.clone(), &self.run_dir, None)
                .map(Running::Kernel)
                .map_err(|error| error.to_string()),
        }
    }

    /// Accepts a key's packets.
    pub(super) fn install_inbound(&self, name: SaName, key: SaKey) -> Result<(), String> {
        self.change(|running| match running {
            Running::Userspace(path) => path.install_inbound(name, key).map_err(text),
            Running::Kernel(path) => path.install_inbound(name, key).map_err(text),
        })
    }

    /// Seals with a key.
    pub(super) fn switch_outbound(&self, name: SaName, key: SaKey) -> Result<(), String> {
        self.change(|running| match running {
            Running::Userspace(path) => path.switch_outbound(name, key).map_err(text),
            Running::Kernel(path) => path.switch_outbound(name, key).map_err(text),
        })
    }

    /// Erases a key.
    pub(super) fn remove_inbound(&self, spi: Spi) -> Result<(), String> {
        self.change(|running| {
            match running {
                Running::Userspace(path) => path.remove_inbound(spi),
                Running::Kernel(path) => path.remove_inbound(spi),
            }
            Ok(())
        })
    }

    /// Ends here, with all that another process needs to go on.
    pub(super) fn hand_over(&self) -> io::Result<Option<(Sealed, Vec<OwnedFd>)>> {
        let mut inner = self.inner();
        let (Some(running), Some(spec)) = (inner.running.take(), inner.spec.take()) else {
            return Ok(None);
        };
        inner.needed = false;
        inner.handed_over = Some(Instant::now());
        let (left, descriptors) = match running {
            Running::Userspace(path) => {
                let (state, descriptors) = path.hand_over();
                (Left::Userspace(Box::new(state)), descriptors)
            }
            Running::Kernel(path) => (Left::Kernel, vec![path.hand_over()]),
        };
        let mut text = wire::encode(&(&spec, &left))?;
        let text = String::from_utf8(std::mem::take(&mut *text)).map_err(io::Error::other)?;
        Ok(Some((Sealed(Zeroizing::new(text)), descriptors)))
    }

    /// Goes on with what another process has handed over.
    pub(super) fn adopt(&self, state: &Sealed, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        let (spec, left): (PathSpec, Left) = serde_json::from_str(&state.0).map_err(text)?;
        let running = match left {
            Left::Userspace(state) => {
                let from = HandedOver::new(*state, descriptors);
                Running::Userspace(Userspace::start(spec.clone(), Some(from)).map_err(text)?)
            }
            Left::Kernel => {
                let socket = descriptors.into_iter().next();
                Running::Kernel(Kernel::start(spec.clone(), &self.run_dir, socket).map_err(text)?)
            }
        };
        let mut inner = self.inner();
        inner.running = Some(running);
        inner.needed = true;
        inner.spec = Some(spec);
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&Running) -> Result<(), String>) -> Result<(), String> {
        match &self.inner().running {
            Some(running) => change(running),
            None => Err("no encrypted network is carried".to_owned()),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change leaves it consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn path(&self) -> EspPath {
        match self {
            Self::Userspace(_) => EspPath::Userspace,
            Self::Kernel(_) => EspPath::Kernel,
        }
    }

    fn want(&self, spec: &PathSpec) -> Result<(), String> {
        match self {
            Self::Userspace(path) => path.want(spec).map_err(text),
            Self::Kernel(path) => path.want(spec).map_err(text),
        }
    }

    fn state(&self) -> PathState {
        match self {
            Self::Userspace(path) => path.state(),
            Self::Kernel(path) => path.state(),
        }
    }

    /// Takes keys and all else away.
    fn end(self) {
        match self {
            Self::Userspace(path) => drop(path),
            Self::Kernel(path) => {
                if let Err(error) = path.remove() {
                    warn!(%error, "the kernel's associations could not be removed");
                }
            }
        }
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn state(inner: &Inner) -> PathState {
    let mut state = inner
        .running
        .as_ref()
        .map(Running::state)
        .unwrap_or_default();
    state.error = inner.error.clone().or(state.error);
    state
}

/// Whether one can become the other with its sockets and keys.
fn is_same_place(one: &PathSpec, other: &PathSpec) -> bool {
    let place = |spec: &PathSpec| (spec.local, spec.esp_port, spec.inner_port, spec.form);
    place(one) == place(other)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weft_encrypt::path::Form;

    use super::*;

    #[test]
    fn a_process_that_is_succeeded_begins_nothing_anew() {
        let esp = Esp::new(PathBuf::from("/nonexistent"));
        esp.succeeded();
        let spec = PathSpec {
            local: [192, 0, 2, 1].into(),
            esp_port: 4500,
            inner_port: 4790,
            underlay_mtu: 1500,
            peers: BTreeMap::new(),
            form: Form::Vxlan,
            ports: BTreeMap::new(),
        };
        let why = esp.want(spec, EspPath::Userspace).unwrap_err();
        assert!(why.contains("another process"), "{why}");
        assert!(!esp.is_needed());
        esp.need(false);
        assert!(esp.hand_over().unwrap().is_none());
    }
}
