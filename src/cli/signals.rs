//! Ctrl-C and SIGTERM, of commands that end in order.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// As a shell ends with after Ctrl-C.
const INTERRUPTED: u8 = 130;
/// As a shell ends with after SIGTERM.
const TERMINATED: u8 = 143;

/// What ends a command early.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From here on they end nothing by themselves.
    pub(super) fn heard() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The exit code of a command that the next one ends.
    pub(super) async fn next(&mut self) -> u8 {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
        }
    }
}
