//! Consuming: by assignment or as a member of a group; as [`Consumer::poll`], as a [`Stream`], or pushed to a listener.
//!
//! `cursors` holds the rules; the driver keeps them fed; `member` keeps the group informed. What was given counts as done
//! when the program asks for more (or commits, or its listener returns): only then it is committed, and only then a partition
//! that the group wants back is let go.

mod builder;
mod credit;
mod cursors;
mod driver;
pub(super) mod home;
mod listener;
mod member;
mod push;
mod refusals;

pub use builder::Builder;
pub use cursors::OutOfRange;
pub use listener::{Credit, Listener, Listening};

use super::{ConsumeError, Delivery, Inner, cluster::Route, pool::lock};
use crate::{
    limits,
    types::{Generation, MemberId, Position, TopicName, TopicPartition},
};
use credit::Ledger;
use cursors::{Cursors, Upto};
use futures_util::{Stream, task::AtomicWaker};
use member::Membership;
use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// How a consumer fetches.
#[derive(Clone, Debug)]
struct Options {
    prefetch_bytes: usize,
    fetch_bytes_max: usize,
    fetch_bytes_min: u32,
    fetch_wait: Duration,
    poll_records_max: usize,
    out_of_range: OutOfRange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Poll,
    Push,
}

struct Ledgers {
    records: Ledger,
    bytes: Ledger,
}

/// What the consumer's handle and its tasks share.
struct Shared {
    inner: Arc<Inner>,
    options: Options,
    cursors: Mutex<Cursors>,
    errors: Mutex<VecDeque<ConsumeError>>,
    ledgers: Mutex<Option<Ledgers>>,
    /// How records come; a listener takes over from polls. Locked within `cursors` where it changes.
    mode: Mutex<Option<Mode>>,
    /// Who refused a partition last, and which version of it, until somebody serves it: for the counts.
    refusers: Mutex<BTreeMap<TopicPartition, (Route, u64)>>,
    /// The driver looks again.
    work: Notify,
    /// Whoever waits for records.
    waker: AtomicWaker,
    closed: watch::Sender<bool>,
    membership: Option<Arc<Membership>>,
}

/// Errors that wait to be reported; later ones of a program that does not look are dropped.
const ERRORS_MAX: usize = 64;

impl Shared {
    fn new(inner: Arc<Inner>, options: Options, membership: Option<Arc<Membership>>) -> Self {
        Self {
            cursors: Mutex::new(Cursors::new(options.out_of_range)),
            inner,
            options,
            errors: Mutex::default(),
            ledgers: Mutex::default(),
            mode: Mutex::default(),
            refusers: Mutex::default(),
            work: Notify::new(),
            waker: AtomicWaker::new(),
            closed: watch::Sender::new(false),
            membership,
        }
    }

    fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    fn mode(&self) -> Option<Mode> {
        *lock(&self.mode)
    }

    /// Records are asked for, from the first poll on.
    fn begin_polling(&self) {
        let mut mode = lock(&self.mode);
        if mode.is_none() {
            *mode = Some(Mode::Poll);
            self.work.notify_one();
        }
    }

    /// Records are pushed within the credit from now on. What polls fetched ahead has none: it comes again.
    fn begin_listening(&self, credit: Credit) {
        let (records, bytes) = (Ledger::new(credit.records, 1), Ledger::new(credit.bytes, limits::BATCH_BYTES_MAX));
        *lock(&self.ledgers) = Some(Ledgers { records, bytes });
        let mut cursors = lock(&self.cursors);
        let polled = lock(&self.mode).replace(Mode::Push).is_some();
        if polled {
            cursors.fetch_again();
        }
        drop(cursors);
        // Whoever begins to listen has done with all that polls gave.
        self.settle();
        self.work.notify_one();
    }

    fn report(&self, error: ConsumeError) {
        let mut errors = lock(&self.errors);
        if errors.len() < ERRORS_MAX {
            errors.push_back(error);
        }
        drop(errors);
        self.waker.wake();
    }

    /// All that was given is done.
    fn settle(&self) {
        let leaves = lock(&self.cursors).settle();
        self.hand_back();
        if let Some(membership) = self.membership.as_ref().filter(|_| leaves) {
            membership.wake.notify_one();
        }
    }

    /// All partitions are gone: the group did without this member, and others may have them.
    fn lose_all(&self) {
        lock(&self.cursors).clear();
        self.hand_back();
        self.work.notify_one();
    }

    /// Positions were found: those of a group are fixed before anything is given.
    fn positions_known(&self) {
        if let Some(membership) = &self.membership {
            membership.starts.notify_one();
        }
    }

    async fn commit_upto(&self, upto: Upto) -> Result<(), ConsumeError> {
        let membership = self.membership.as_ref().ok_or(ConsumeError::NoGroup)?;
        membership.commit(self, upto, |_| true).await
    }

    fn close(&self) {
        self.closed.send_replace(true);
        self.work.notify_one();
        self.waker.wake();
    }
}

/// Consumes. Made by [`Builder::assign`] or [`Builder::subscribe`].
///
/// Dropping it without [`close`](Self::close) commits nothing more, and its group waits a session for it.
pub struct Consumer {
    shared: Arc<Shared>,
}

impl Consumer {
    /// Records as soon as there are any, at most the builder's `poll_records_max`; none when `max_wait` is over.
    /// What earlier calls gave counts as done. May be dropped while it waits: nothing is lost.
    pub async fn poll(&mut self, max_wait: Duration) -> Result<Vec<Delivery>, ConsumeError> {
        self.shared.begin_polling();
        self.shared.settle();
        let max = self.shared.options.poll_records_max;
        match tokio::time::timeout(max_wait, poll_fn(|cx| self.poll_take(cx, max))).await {
            Ok(given) => given,
            Err(_) => Ok(Vec::new()),
        }
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Result<Vec<Delivery>, ConsumeError>> {
        let shared = &self.shared;
        shared.waker.register(cx.waker());
        if let Some(error) = lock(&shared.errors).pop_front() {
            return Poll::Ready(Err(error));
        }
        if shared.is_closed() {
            return Poll::Ready(Err(ConsumeError::Closed));
        }
        if shared.membership.as_ref().is_some_and(|membership| membership.is_silent()) {
            // Others may have the partitions. What was given before is done as ever.
            shared.settle();
            return Poll::Pending;
        }
        let (given, failed, before, after) = {
            let mut cursors = lock(&shared.cursors);
            let before = cursors.buffered();
            let (given, failed) = cursors.take(max);
            (given, failed, before, cursors.buffered())
        };
        // The driver looks when it may have room again: at each eighth of the buffer.
        let step = (shared.options.prefetch_bytes / 8).max(1);
        if before / step != after / step || (before > 0 && after == 0) {
            shared.work.notify_one();
        }
        match (given.is_empty(), failed) {
            (false, failed) => {
                failed.into_iter().for_each(|error| shared.report(error));
                shared.count_given(&given);
                Poll::Ready(Ok(given))
            }
            (true, Some(error)) => Poll::Ready(Err(error)),
            (true, None) => {
                // Whoever waits has done with all it was given.
                shared.settle();
                Poll::Pending
            }
        }
    }

    /// The partitions that it consumes now.
    pub fn assignment(&self) -> Vec<(TopicName, u32)> {
        lock(&self.shared.cursors).names()
    }

    /// The member's name, when it is in a group.
    pub fn member(&self) -> Option<MemberId> {
        self.shared.membership.as_ref()?.member()
    }

    /// The newest generation of the group that it knows.
    pub fn generation(&self) -> Option<Generation> {
        self.shared.membership.as_ref().map(|membership| membership.generation())
    }

    /// The next offset that will be given; absent while the broker is asked for it.
    pub fn position(&self, topic: &TopicName, partition: u32) -> Option<u64> {
        let cursors = lock(&self.shared.cursors);
        cursors.position(cursors.find(topic, partition)?)
    }

    /// The highest watermark that answers showed.
    pub fn high_watermark(&self, topic: &TopicName, partition: u32) -> Option<u64> {
        let cursors = lock(&self.shared.cursors);
        cursors.high_watermark(cursors.find(topic, partition)?)
    }

    /// Gives nothing of this partition until [`resume`](Self::resume). What was fetched ahead is fetched again then.
    pub fn pause(&self, topic: &TopicName, partition: u32) -> Result<(), ConsumeError> {
        self.with(topic, partition, |cursors, at| cursors.pause(at, true))
    }

    /// Goes on with a paused partition.
    pub fn resume(&self, topic: &TopicName, partition: u32) -> Result<(), ConsumeError> {
        self.with(topic, partition, |cursors, at| cursors.pause(at, false))
    }

    /// Goes on at another position.
    pub fn seek(&self, topic: &TopicName, partition: u32, to: Position) -> Result<(), ConsumeError> {
        self.with(topic, partition, |cursors, at| cursors.seek(at, to))
    }

    fn with(
        &self,
        topic: &TopicName,
        partition: u32,
        change: impl FnOnce(&mut Cursors, TopicPartition),
    ) -> Result<(), ConsumeError> {
        let mut cursors = lock(&self.shared.cursors);
        let at = cursors.find(topic, partition);
        let at = at.ok_or_else(|| ConsumeError::NotAssigned { topic: topic.clone(), partition })?;
        change(&mut cursors, at);
        drop(cursors);
        self.shared.hand_back();
        self.shared.work.notify_one();
        Ok(())
    }

    /// Commits all that was given so far, and waits until the group's home has it.
    pub async fn commit(&self) -> Result<(), ConsumeError> {
        let membership = self.shared.membership.as_ref().ok_or(ConsumeError::NoGroup)?;
        // Not settle(): a partition that leaves is let go only when its commit is through.
        let leaves = lock(&self.shared.cursors).settle();
        let committed = self.shared.commit_upto(Upto::Done).await;
        self.shared.hand_back();
        if leaves {
            membership.wake.notify_one();
        }
        committed
    }

    /// Commits all that was given so far in the background; a failure shows as an error of [`poll`](Self::poll).
    pub fn commit_async(&self) {
        let shared = self.shared.clone();
        self.shared.inner.host.spawn(Box::pin(async move {
            if let Err(error) = shared.commit_upto(Upto::Given).await {
                shared.report(error);
            }
        }));
    }

    /// Ends: commits what was given where the consumer commits by itself, and leaves the group, so that its partitions go to
    /// others at once.
    pub async fn close(self) -> Result<(), ConsumeError> {
        self.end(Upto::Given).await
    }

    async fn end(self, upto: Upto) -> Result<(), ConsumeError> {
        let shared = &self.shared;
        shared.close();
        let Some(membership) = &shared.membership else { return Ok(()) };
        let committed = match membership.commits_itself() {
            true => shared.commit_upto(upto).await,
            false => Ok(()),
        };
        if lock(&shared.cursors).is_untold(|_| true) {
            // Else the next owner could not say which records come again.
            membership.report(shared).await?;
        }
        membership.leave(shared).await?;
        committed
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Record by record. A record counts as done when the next one is asked for.
impl Stream for Consumer {
    type Item = Result<Delivery, ConsumeError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.shared.begin_polling();
        self.shared.settle();
        match std::task::ready!(self.poll_take(cx, 1)) {
            Ok(given) => Poll::Ready(given.into_iter().next().map(Ok)),
            Err(ConsumeError::Closed) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}
