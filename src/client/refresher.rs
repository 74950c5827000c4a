//! When metadata are asked for, whom, and how long the answer may wait.
//!
//! Invariants:
//! - a node that had no news is asked to answer when it has some: nobody who waits for a leader looks again and again;
//! - who waits for an answer rather than for news gets one that waits for nothing.

use super::{
    cluster::{Cluster, PACE_MAX, PACE_MIN, Target},
    error::RequestError,
    pool::{lock, unexpected},
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
use tokio::{sync::mpsc, time::Instant};

/// So long a node may wait for news before it answers: shorter than an answer about offline partitions is good for.
pub(super) const NEWS_WAIT: Duration = Duration::from_millis(750);
/// Metadata that nothing made the client ask for are asked for after this time: partitions may have been added.
const AGE_MAX: Duration = Duration::from_secs(60);

/// What a refresh is answered with.
#[derive(Clone, Copy)]
enum First {
    /// With what there is.
    Answer,
    /// With what this node has not told yet, or another one if this one is slow.
    News { of: NodeId },
}

impl Cluster {
    /// Gives who answered, and whether that was news.
    async fn fetch_metadata(&self, first: First) -> Result<(NodeId, bool), RequestError> {
        let (topics, heard) = self.heard();
        let mut targets = self.targets();
        let wait_ms = match first {
            First::Answer => 0,
            First::News { of } => {
                // The sort is stable.
                targets.sort_by_key(|target| !matches!(target, Target::Node(node) if *node == of));
                u32::try_from(NEWS_WAIT.as_millis()).unwrap_or(u32::MAX)
            }
        };
        let message = |to: &Target| {
            let after = if let Target::Node(node) = to { heard.get(node) } else { None };
            Metadata { topics: Some(topics.clone()), wait_ms, after: after.copied().unwrap_or(0) }.into()
        };
        let (node, answer) = self.hedged(targets, message).await?;
        let Message::MetadataAnswer(answer) = answer.message else {
            return Err(unexpected(&format!("node {node}"), "Metadata", &answer.message));
        };
        Ok((node, self.hear(node, answer, &topics)))
    }
}

/// Refreshes what the client knows, for as long as there is a client.
pub(super) async fn refresher(cluster: Weak<Cluster>, mut asked: mpsc::Receiver<()>) {
    let (mut pace, mut first) = (PACE_MIN, First::Answer);
    let (mut rested, mut wanted) = (Instant::now(), false);
    while wanted || !matches!(tokio::time::timeout(AGE_MAX, asked.recv()).await, Ok(None)) {
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
        let waited = matches!(first, First::News { .. });
        let fetched = tokio::select! {
            biased;
            fetched = cluster.fetch_metadata(first) => fetched,
            () = cluster.hurried.notified(), if waited => {
                ticket = cluster.asked.load(Relaxed);
                cluster.fetch_metadata(First::Answer).await
            }
        };
        let failed = match fetched {
            Ok((of, news)) => {
                pace = if news || waited { PACE_MIN } else { (pace * 2).min(PACE_MAX) };
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
