//! What a producer gives for a record.

use crate::{
    client::{Acked, ProduceError, Topic},
    wire::Produced,
};
use futures_util::future::Shared;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::sync::oneshot;

/// What came of a batch.
pub(super) type Outcome = Result<Produced, ProduceError>;

/// Where a window's records go.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: u32,
}

/// Resolves when the record is acknowledged, or surely will not be. Dropping it changes nothing about the record.
#[derive(Clone)]
#[must_use = "an error of the record shows only here (or in Producer::flush)"]
pub struct Receipt {
    pub(super) outcome: Shared<oneshot::Receiver<Outcome>>,
    pub(super) index: u32,
    pub(super) place: Arc<Place>,
}

impl Receipt {
    /// The partition that the record goes to.
    pub fn partition(&self) -> u32 {
        self.place.partition
    }
}

impl Future for Receipt {
    type Output = Result<Acked, ProduceError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(Pin::new(&mut self.outcome).poll(cx));
        let produced = outcome.unwrap_or(Err(ProduceError::Closed))?;
        Poll::Ready(Ok(Acked {
            topic: self.place.topic.name.clone(),
            partition: self.place.partition,
            offset: produced.base_offset.map(|base| base + u64::from(self.index)),
            leader_epoch: produced.leader_epoch,
            level: produced.level,
            quorum: produced.quorum,
            voters: produced.voters,
            duplicate: produced.duplicate,
        }))
    }
}
