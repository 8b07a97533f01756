//! Ctrl-C during the demo: end the lab first, then the program.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

use super::super::lab;

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// A watch for the signals that ask the demo to end.
pub(super) struct Interrupt {
    seen: Arc<AtomicBool>,
}

impl Interrupt {
    /// Ends the lab of that name and then the process when a signal comes.
    pub(super) fn watch(name: &str) -> Self {
        let seen = Arc::new(AtomicBool::new(false));
        let (name, flag) = (name.to_owned(), Arc::clone(&seen));
        // If this thread cannot be had, the kernel and the launcher still clean up, a moment later.
        let _ = thread::Builder::new()
            .name("interrupt".to_owned())
            .spawn(move || {
                if wait_for_signal().is_ok() {
                    flag.store(true, Ordering::SeqCst);
                    let ended = lab::down(&name);
                    eprintln!("weft: interrupted");
                    if let Err(error) = ended {
                        eprintln!("weft: {error}");
                    }
                    std::process::exit(INTERRUPTED);
                }
            });
        Self { seen }
    }

    /// After a signal, steps fail because the lab is ending; the end is the watch's to report.
    pub(super) fn wait_if_interrupted(&self) {
        while self.seen.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}

fn wait_for_signal() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        Ok(())
    })
}
