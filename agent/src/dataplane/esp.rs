//! Encrypted networks in this process: the user-space data path, from the first specification of an
//! agent until none is needed any more.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};
use weft_encrypt::esp::Spi;
use weft_encrypt::keys::SaKey;
use weft_encrypt::path::{PathSpec, PathState, SaName};
use weft_encrypt::userspace::{HandedOver, Userspace};
use zeroize::Zeroizing;

use super::wire::Sealed;

/// The data path of one process, if it carries one.
#[derive(Default)]
pub(super) struct Esp {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    needed: bool,
    /// What it was told to carry, last.
    spec: Option<PathSpec>,
    running: Option<Userspace>,
    error: Option<String>,
}

impl Esp {
    /// Whether the process is needed for it.
    pub(super) fn is_needed(&self) -> bool {
        self.inner().needed
    }

    /// Whether it is needed from now on. If not, keys are erased and nothing is carried.
    pub(super) fn need(&self, needed: bool) {
        let mut inner = self.inner();
        inner.needed = needed;
        if !needed && inner.running.take().is_some() {
            info!("no encrypted network is carried any more");
        }
        if !needed {
            inner.spec = None;
            inner.error = None;
        }
    }

    /// Carries this from now on; what it is then. What cannot be done is said in there. Blocks
    /// for some milliseconds when it starts.
    pub(super) fn want(&self, spec: PathSpec) -> PathState {
        let mut inner = self.inner();
        inner.needed = true;
        let kept = inner
            .spec
            .as_ref()
            .is_some_and(|old| is_same_place(old, &spec));
        if !kept {
            inner.running = None;
        }
        let outcome = match &inner.running {
            Some(running) => running.want(&spec).map_err(|error| error.to_string()),
            None => Userspace::start(spec.clone(), None)
                .map(|running| inner.running = Some(running))
                .map_err(|error| error.to_string()),
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
        state(&inner)
    }

    /// Accepts a key's packets.
    pub(super) fn install_inbound(&self, name: SaName, key: SaKey) -> Result<PathState, String> {
        self.change(|running| {
            let installed = running.install_inbound(name, key);
            installed.map_err(|error| error.to_string())
        })
    }

    /// Seals with a key.
    pub(super) fn switch_outbound(&self, name: SaName, key: SaKey) -> Result<PathState, String> {
        self.change(|running| {
            let switched = running.switch_outbound(name, key);
            switched.map_err(|error| error.to_string())
        })
    }

    /// Erases a key.
    pub(super) fn remove_inbound(&self, spi: Spi) -> Result<PathState, String> {
        self.change(|running| {
            running.remove_inbound(spi);
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
        let (state, descriptors) = running.hand_over();
        let text = Zeroizing::new(serde_json::to_string(&(&spec, &state))?);
        Ok(Some((Sealed(text), descriptors)))
    }

    /// Goes on with what another process has handed over.
    pub(super) fn adopt(&self, state: &Sealed, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        let (spec, state): (PathSpec, _) =
            serde_json::from_str(&state.0).map_err(|error| error.to_string())?;
        let from = HandedOver::new(state, descriptors);
        let running = Userspace::start(spec.clone(), Some(from));
        let mut inner = self.inner();
        inner.running = Some(running.map_err(|error| error.to_string())?);
        inner.needed = true;
        inner.spec = Some(spec);
        Ok(())
    }

    fn change(
        &self,
        change: impl FnOnce(&Userspace) -> Result<(), String>,
    ) -> Result<PathState, String> {
        let inner = self.inner();
        match &inner.running {
            Some(running) => change(running)?,
            None => return Err("no encrypted network is carried".to_owned()),
        }
        Ok(state(&inner))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change leaves it consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn state(inner: &Inner) -> PathState {
    let mut state = inner
        .running
        .as_ref()
        .map(Userspace::state)
        .unwrap_or_default();
    state.error = inner.error.clone().or(state.error);
    state
}

/// Whether one can become the other with its sockets and keys.
fn is_same_place(one: &PathSpec, other: &PathSpec) -> bool {
    let place = |spec: &PathSpec| (spec.local, spec.esp_port, spec.inner_port);
    place(one) == place(other)
}
