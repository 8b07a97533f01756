//! Which data path carries encrypted networks on this node.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::info;
use weft_encrypt::path::Form;
use weft_encrypt::{kernel, userspace};

use crate::config::EncryptionPath;
use crate::dataplane::wire::EspPath;

/// For how long a choice stands that was made although nothing can carry: what lacks may come.
const PROVISIONAL: Duration = Duration::from_secs(10);

/// A data path. On the wire there is no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The kernel's.
    Kernel,
    /// That of the data-plane process.
    Userspace(Form),
}

impl Choice {
    /// Who has it.
    pub(crate) fn path(self) -> EspPath {
        match self {
            Self::Kernel => EspPath::Kernel,
            Self::Userspace(_) => EspPath::Userspace,
        }
    }

    /// `kernel` or `userspace`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Userspace(_) => "userspace",
        }
    }

    /// Of the path in user space.
    pub(crate) fn form(self) -> Option<Form> {
        match self {
            Self::Kernel => None,
            Self::Userspace(form) => Some(form),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.pad("kernel"),
            Self::Userspace(form) => f.pad(&format!("userspace-{form}")),
        }
    }
}

/// Chooses as configured and as far as the kernel goes. What was chosen stays.
#[derive(Debug)]
pub(super) struct Chooser {
    configured: EncryptionPath,
    chosen: Option<Choice>,
    /// Until when it is not tried again.
    until: Option<Instant>,
}

impl Chooser {
    pub(super) fn new(configured: EncryptionPath) -> Self {
        Self {
            configured,
            chosen: None,
            until: None,
        }
    }

    /// What carries encrypted networks from that tunnel end. The first time it is tried out what can,
    /// for some milliseconds or seconds, on a thread that may block.
    ///
    /// # Errors
    /// When the kernel's was asked for and it has none.
    pub(super) async fn choose(&mut self, local: IpAddr) -> Result<Choice, String> {
        let now = Instant::now();
        if let Some(chosen) = self.chosen
            && self.until.is_none_or(|until| now < until)
        {
            return Ok(chosen);
        }
        let configured = self.configured;
        let probes = move || {
            let kernel = || kernel::probe(local).map_err(|error| error.to_string());
            choose(configured, kernel, userspace::probe_form)
        };
        let tried = tokio::task::spawn_blocking(probes).await;
        let chosen = tried.map_err(|error| error.to_string())??;
        if self.chosen != Some(chosen.path) {
            let path = chosen.path;
            info!(%path, why = chosen.why, "encrypted networks have a data path");
        }
        self.chosen = Some(chosen.path);
        self.until = chosen.provisional.then(|| Instant::now() + PROVISIONAL);
        Ok(chosen.path)
    }
}

/// A choice that was made.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    path: Choice,
    /// What speaks against others, or against this one.
    why: Option<String>,
    /// Nothing can carry; the one that was chosen says so in its own words.
    provisional: bool,
}

impl Chosen {
    fn for_good(path: Choice) -> Self {
        Self {
            path,
            why: None,
            provisional: false,
        }
    }
}

fn choose(
    configured: EncryptionPath,
    kernel: impl FnOnce() -> Result<(), String>,
    form: impl FnOnce() -> Result<Form, String>,
) -> Result<Chosen, String> {
    let in_user_space = |against: Option<String>| match form() {
        Ok(form) => Chosen {
            why: against,
            ..Chosen::for_good(Choice::Userspace(form))
        },
        Err(error) => Chosen {
            path: Choice::Userspace(Form::Vxlan),
            why: Some(error),
            provisional: true,
        },
    };
    match configured {
        EncryptionPath::UserspaceVxlan => Ok(Chosen::for_good(Choice::Userspace(Form::Vxlan))),
        EncryptionPath::UserspacePort => Ok(Chosen::for_good(Choice::Userspace(Form::Port))),
        EncryptionPath::Userspace => Ok(in_user_space(None)),
        EncryptionPath::Kernel => match kernel() {
            Ok(()) => Ok(Chosen::for_good(Choice::Kernel)),
            Err(error) => Err(format!("{error}; or use --encryption userspace")),
        },
        EncryptionPath::Auto => match kernel() {
            Ok(()) => Ok(Chosen::for_good(Choice::Kernel)),
            Err(error) => Ok(in_user_space(Some(error))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VXLAN: Choice = Choice::Userspace(Form::Vxlan);
    const PORT: Choice = Choice::Userspace(Form::Port);

    fn chosen(configured: EncryptionPath, kernel: bool, form: Option<Form>) -> Option<Choice> {
        let kernel = || kernel.then_some(()).ok_or("no esp".to_owned());
        let form = || form.ok_or("no tap".to_owned());
        choose(configured, kernel, form)
            .ok()
            .map(|chosen| chosen.path)
    }

    #[test]
    fn the_kernel_comes_first_then_what_user_space_can() {
        use EncryptionPath::*;
        let (port, vxlan) = (Some(Form::Port), Some(Form::Vxlan));
        assert_eq!(chosen(Auto, true, port), Some(Choice::Kernel));
        assert_eq!(chosen(Auto, false, port), Some(PORT));
        assert_eq!(chosen(Auto, false, vxlan), Some(VXLAN));
        assert_eq!(chosen(Userspace, true, port), Some(PORT));
        assert_eq!(chosen(Userspace, true, vxlan), Some(VXLAN));
        assert_eq!(chosen(Kernel, true, None), Some(Choice::Kernel));
        assert_eq!(chosen(Kernel, false, vxlan), None);
        assert_eq!(chosen(UserspacePort, true, vxlan), Some(PORT));
        assert_eq!(chosen(UserspaceVxlan, true, port), Some(VXLAN));
    }

    #[test]
    fn where_nothing_can_it_is_tried_again_and_said() {
        let refused = choose(
            EncryptionPath::Auto,
            || Err("no esp".to_owned()),
            || Err("no tap".to_owned()),
        )
        .unwrap();
        assert!(refused.provisional && refused.why.unwrap().contains("no tap"));
        let refused = choose(
            EncryptionPath::Kernel,
            || Err("no esp".to_owned()),
            || unreachable!("nobody asked for it"),
        )
        .unwrap_err();
        assert!(refused.contains("no esp") && refused.contains("userspace"));
    }

    #[test]
    fn it_is_named_as_it_is_asked_for() {
        assert_eq!(Choice::Kernel.to_string(), "kernel");
        assert_eq!(PORT.to_string(), "userspace-port");
        assert_eq!(VXLAN.to_string(), "userspace-vxlan");
    }
}
