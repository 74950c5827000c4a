//! A run that a signal ends.

use tokio::signal::unix::{SignalKind, signal};

/// A signal ended the run: what it had started is gone, and there is no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// As a shell ends with after this signal.
    pub code: u8,
}

/// Until Ctrl-C or SIGTERM, which from then on end nothing by themselves: nodes have process groups of their own, and would
/// go on without this process.
pub(super) async fn stopped() -> Stopped {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return std::future::pending().await };
    let code = tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    };
    Stopped { code }
}
