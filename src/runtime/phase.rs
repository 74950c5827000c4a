//! The phases of a node's life, in order; nobody goes back.

use std::sync::Arc;
use tokio::sync::watch;

/// What a node does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Recovering its log, meeting its peers.
    Starting,
    /// Serving.
    Serving,
    /// No new connection; parked fetches are told to move; leaderships go to others; what is in flight is answered.
    Draining,
    /// Sessions close; the log is flushed and sealed.
    Closing,
    /// Over.
    Stopped,
}

/// The phase of one node. Clones share.
#[derive(Clone)]
pub struct Phases(Arc<watch::Sender<Phase>>);

impl Default for Phases {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Starting)))
    }
}

impl Phases {
    /// The phase now.
    pub fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// Goes on to `phase`; earlier ones are ignored.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }

    /// Waits until `phase` or a later one.
    pub async fn reached(&self, phase: Phase) {
        // The sender is in `self`: it cannot be gone while this waits.
        let _ = self.0.subscribe().wait_for(|now| *now >= phase).await;
    }
}
