//! When metadata are asked for, whom, and how long the answer may wait.
//!
//! Invariants:
//! - a node that had no news is asked to answer when it has some: who waits for a leader does not look again and again;
//! - who waits for an answer rather than for news gets one that waits for nothing;
//! - what is answered at once and is no news makes pauses longer, as if nobody waited.

use super::{
    cluster::{Cluster, HEDGE_AFTER, PACE_MAX, PACE_MIN, Target},
    error::RequestError,
    pool::{lock, unexpected, unreachable},
};
use crate::{
    types::NodeId,
    wire::{Message, Metadata},
};
use futures_util::future::FutureExt as _;
use std::{
    sync::{Weak, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

/// So long a node may wait for news before it answers: shorter than an answer about offline partitions is good for.
pub(super) const NEWS_WAIT: Duration = Duration::from_millis(750);
/// Metadata that nothing made the client ask for are asked for after this time: partitions may have been added.
const AGE_MAX: Duration = Duration::from_secs(60);

/// What a refresh is answered with.
#[derive(Clone, Copy)]
enum First {
    /// With what there is.
    Answer,
    /// With what this node has not told yet, or another one: it is asked too, as this one may lag behind or be gone by now.
    News { of: NodeId },
}

impl Cluster {
    /// Gives who answered, and whether that was news.
    async fn fetch_metadata(&self, first: First) -> Result<(NodeId, bool), RequestError> {
        let (topics, heard) = self.heard();
        let mut targets = self.targets();
        let (mut wait, mut pause) = (Duration::ZERO, HEDGE_AFTER);
        if let First::News { of } = first {
            // Addresses are for who knows no node that answers. The sort is stable.
            targets.retain(|target| matches!(target, Target::Node(_)));
            targets.sort_by_key(|target| !matches!(target, Target::Node(node) if *node == of));
            targets.truncate(2);
            (wait, pause) = (NEWS_WAIT.min(self.request_timeout / 2), Duration::ZERO);
        }
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let message = |to: &Target| {
            let after = if let Target::Node(node) = to { heard.get(node) } else { None };
            Metadata { topics: Some(topics.clone()), wait_ms, after: after.copied().unwrap_or(0) }.into()
        };
        let asked = self.hedged(targets, pause, message);
        let (node, answer) = match first {
            // Calls that nobody answers end by themselves: that is how a connection is found to be broken.
            First::Answer => asked.await?,
            First::News { of } => {
                let asked = timeout(wait + HEDGE_AFTER, asked).await;
                asked.map_err(|_| unreachable(&of, "neither it nor another node answers"))??
            }
        };
        let Message::MetadataAnswer(answer) = answer.message else {
            return Err(unexpected(&format!("node {node}"), "Metadata", &answer.message));
        };
        Ok((node, self.merge(node, answer, &topics)))
    }
}

/// Refreshes what the client knows, for as long as there is a client.
pub(super) async fn refresher(cluster: Weak<Cluster>, mut asked: mpsc::Receiver<()>) {
    let (mut pace, mut first) = (PACE_MIN, First::Answer);
    let (mut rested, mut wanted) = (Instant::now(), false);
    while wanted || !matches!(timeout(AGE_MAX, asked.recv()).await, Ok(None)) {
        let Some(cluster) = cluster.upgrade() else { return };
        let _ = asked.try_recv();
        if rested.elapsed() > PACE_MAX {
            (pace, first) = (PACE_MIN, First::Answer);
        }
        // Before the ticket is read: whoever is in a hurry by now is answered by this one.
        if cluster.hurried.notified().now_or_never().is_some() {
            first = First::Answer;
        }
        let mut ticket = cluster.asked.load(Relaxed);
        let begun = Instant::now();
        let fetched = tokio::select! {
            biased;
            fetched = cluster.fetch_metadata(first) => fetched,
            () = cluster.hurried.notified(), if matches!(first, First::News { .. }) => {
                ticket = cluster.asked.load(Relaxed);
                cluster.fetch_metadata(First::Answer).await
            }
        };
        // An answer at once that is no news comes again and again, from a node that has much to tell or does not wait.
        let is_quick = begun.elapsed() < PACE_MAX;
        let failed = match fetched {
            Ok((of, news)) => {
                pace = if is_quick && !news { (pace * 2).min(PACE_MAX) } else { PACE_MIN };
                first = First::News { of };
                None
            }
            Err(error) => {
                (pace, first) = ((pace * 2).min(PACE_MAX), First::Answer);
                Some(error)
            }
        };
        cluster.answered.send_replace((ticket, failed));
        wanted = lock(&cluster.wanted_until).is_some_and(|until| Instant::now() < until);
        drop(cluster);
        tokio::time::sleep(pace).await;
        rested = Instant::now();
    }
}
