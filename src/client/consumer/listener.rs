//! Records pushed to a listener, within a credit.

use super::{Consumer, cursors::Upto};
use crate::client::{ConsumeError, Delivery, pool::lock, stats::Counters};
use futures_util::future::{BoxFuture, FutureExt, Shared};
use std::{collections::BTreeMap, future::poll_fn, ops::ControlFlow, sync::Arc};
use tokio::sync::{oneshot, watch};

/// Takes records one after the other. A record is done when the future is.
pub trait Listener: Send + 'static {
    /// Handles a record. The next one of any partition comes when this is done. `Break` = it was not handled, and none will
    /// be any more: the consumer ends without it.
    fn deliver(&mut self, delivery: Delivery) -> BoxFuture<'_, ControlFlow<()>>;
}

impl<F, R> Listener for F
where
    F: FnMut(Delivery) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    fn deliver(&mut self, delivery: Delivery) -> BoxFuture<'_, ControlFlow<()>> {
        Box::pin(self(delivery).map(ControlFlow::Continue))
    }
}

/// How much may be sent to a listener and not be handled yet, over all connections together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Records.
    pub records: u32,
    /// Bytes. Each connection gets at least one batch's worth ([`crate::limits::BATCH_BYTES_MAX`]), else a large batch could
    /// never be sent.
    pub bytes: u32,
}

impl Default for Credit {
    fn default() -> Self {
        Self { records: 1_000, bytes: 8 << 20 }
    }
}

/// A listener at work. Dropping it is [`stop`](Self::stop) that nobody waits for: how it ends is not told.
pub struct Listening {
    stop: watch::Sender<bool>,
    ended: Shared<oneshot::Receiver<Result<(), ConsumeError>>>,
    shared: Arc<super::Shared>,
}

impl Listening {
    /// Lets the listener finish the record that it has, commits where the consumer does that, leaves the group.
    pub async fn stop(self) -> Result<(), ConsumeError> {
        self.stop.send_replace(true);
        self.ended.clone().await.unwrap_or(Err(ConsumeError::Closed))
    }

    /// Waits until it fails: an error that the consumer would get from [`Consumer::poll`].
    pub async fn failed(&mut self) -> ConsumeError {
        match self.ended.clone().await {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => ConsumeError::Closed,
        }
    }

    /// Records that were sent to this listener and are not handled yet.
    pub fn held(&self) -> u32 {
        lock(&self.shared.ledgers).as_ref().map_or(0, |ledgers| ledgers.records.held())
    }

    /// The partitions that it consumes now.
    pub fn assignment(&self) -> Vec<(crate::types::TopicName, u32)> {
        lock(&self.shared.cursors).names()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Consumer {
    /// Has records pushed to `listener` from now on, also after polls: it goes on behind what they gave, which counts as done.
    pub fn listen(self, credit: Credit, listener: impl Listener) -> Listening {
        let shared = self.shared.clone();
        shared.begin_listening(credit);
        let (stop, stopped) = watch::channel(false);
        let (done, ended) = oneshot::channel();
        let host = shared.inner.host.clone();
        host.spawn(Box::pin(async move {
            let outcome = self.drive(listener, stopped).await;
            let _ = done.send(outcome);
        }));
        Listening { stop, ended: ended.shared(), shared }
    }

    async fn drive(
        mut self,
        mut listener: impl Listener,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), ConsumeError> {
        loop {
            let given = tokio::select! {
                biased;
                () = until(&mut stopped) => return self.close().await,
                given = poll_fn(|cx| self.poll_take(cx, 1)) => given?,
            };
            for delivery in given {
                match listener.deliver(delivery).await {
                    ControlFlow::Continue(()) => self.shared.settle(),
                    ControlFlow::Break(()) => return self.end(Upto::Done).await,
                }
            }
        }
    }
}

async fn until(stopped: &mut watch::Receiver<bool>) {
    // A dropped handle stops too.
    drop(stopped.wait_for(|stop| *stop).await);
}

impl super::Shared {
    pub(super) fn open_credit(&self, source: u64) {
        if let Some(ledgers) = &mut *lock(&self.ledgers) {
            ledgers.records.open(source);
            ledgers.bytes.open(source);
        }
    }

    pub(super) fn end_credit(&self, source: u64) {
        if let Some(ledgers) = &mut *lock(&self.ledgers) {
            ledgers.records.end(source);
            ledgers.bytes.end(source);
        }
    }

    pub(super) fn credit_received(&self, source: u64, records: u32, bytes: u32) {
        if let Some(ledgers) = &mut *lock(&self.ledgers) {
            ledgers.records.received(source, records);
            ledgers.bytes.received(source, bytes);
        }
    }

    pub(super) fn credit_handled(&self, source: u64, records: u32, bytes: u32) {
        if let Some(ledgers) = &mut *lock(&self.ledgers) {
            ledgers.records.handled(source, records);
            ledgers.bytes.handled(source, bytes);
        }
        self.work.notify_one();
    }

    pub(super) fn hoarder(&self) -> Option<u64> {
        let ledgers = lock(&self.ledgers);
        let ledgers = ledgers.as_ref()?;
        ledgers.records.hoarder().or_else(|| ledgers.bytes.hoarder())
    }

    /// Gives back what became free.
    pub(super) fn hand_back(&self) {
        let freed = lock(&self.cursors).take_freed();
        for (source, (records, bytes)) in freed {
            self.credit_handled(source, records, bytes);
        }
    }

    pub(super) fn grant(&self, subscriptions: &BTreeMap<u64, super::push::Subscription>) {
        let Some(ledgers) = &mut *lock(&self.ledgers) else { return };
        let mut grants: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        for (source, records) in ledgers.records.grants() {
            grants.entry(source).or_default().0 = records;
        }
        for (source, bytes) in ledgers.bytes.grants() {
            grants.entry(source).or_default().1 = bytes;
        }
        for (source, (records, bytes)) in grants {
            if let Some(subscription) = subscriptions.get(&source) {
                subscription.grant(records, bytes);
            }
        }
    }

    pub(super) fn count_given(&self, given: &[Delivery]) {
        let redelivered = given.iter().filter(|delivery| delivery.redelivered).count();
        Counters::add(&self.inner.counters.records_delivered, u64::try_from(given.len()).unwrap_or(0));
        Counters::add(&self.inner.counters.records_redelivered, u64::try_from(redelivered).unwrap_or(0));
    }
}
