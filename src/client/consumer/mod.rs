//! Consuming: by assignment or as a member of a group; as [`Consumer::poll`], as a [`Stream`], or pushed to a listener.
//!
//! `cursors` holds the rules; the driver keeps them fed; `member` keeps the group informed. What was given counts as done
//! when the program asks for more (or commits, or its listener returns): only then it is committed, and only then a partition
//! that the group wants back is let go.

mod credit;
mod cursors;
mod driver;
mod listener;
pub(super) mod member;
mod push;

pub use cursors::OutOfRange;
pub use listener::{Credit, Listener, Listening};

use super::{ConsumeError, Delivery, Inner, pool::lock};
use crate::{
    limits,
    types::{Generation, GroupName, MemberId, Position, TopicName, TopicPartition},
};
use credit::Ledger;
use cursors::{Cursors, Upto};
use driver::Driver;
use futures_util::{Stream, task::AtomicWaker};
use member::Membership;
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock},
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

/// Settings of a [`Consumer`].
pub struct Builder {
    inner: Arc<Inner>,
    options: Options,
    auto_commit: Option<Duration>,
    session: Duration,
    start: Option<Position>,
    process_time_max: Duration,
}

impl Builder {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            options: Options {
                prefetch_bytes: 16 << 20,
                fetch_bytes_max: 4 << 20,
                fetch_bytes_min: 1,
                fetch_wait: Duration::from_secs(1),
                poll_records_max: 1_000,
                out_of_range: OutOfRange::default(),
            },
            auto_commit: Some(Duration::from_secs(1)),
            session: Duration::from_millis(limits::SESSION_GRACE_MS_DEFAULT),
            start: None,
            process_time_max: Duration::from_secs(300),
        }
    }

    /// Bytes fetched ahead at most. Default: 16 MiB. One batch more may come.
    pub fn prefetch_bytes(mut self, bytes: usize) -> Self {
        self.options.prefetch_bytes = bytes.max(1);
        self
    }

    /// Bytes of one answer at most. Default: 4 MiB.
    pub fn fetch_bytes_max(mut self, bytes: usize) -> Self {
        self.options.fetch_bytes_max = bytes.clamp(1, limits::FETCH_BYTES_MAX as usize);
        self
    }

    /// The broker answers when so many bytes are there, or the wait is over. Default: 1.
    pub fn fetch_bytes_min(mut self, bytes: u32) -> Self {
        self.options.fetch_bytes_min = bytes;
        self
    }

    /// How long the broker parks a fetch. Default: 1 s: so long a consumer with nothing to read may need to notice that a
    /// node died without a word.
    pub fn fetch_wait(mut self, wait: Duration) -> Self {
        self.options.fetch_wait = wait.min(Duration::from_millis(limits::FETCH_WAIT_MS_MAX.into()));
        self
    }

    /// Records that one [`Consumer::poll`] gives at most. Default: 1,000.
    pub fn poll_records_max(mut self, records: usize) -> Self {
        self.options.poll_records_max = records.max(1);
        self
    }

    /// What happens when the position is no longer in the log. Default: go on at the log start.
    pub fn out_of_range(mut self, policy: OutOfRange) -> Self {
        self.options.out_of_range = policy;
        self
    }

    /// How often what is done is committed by itself; `None`: only by [`Consumer::commit`]. Default: every second.
    pub fn auto_commit(mut self, every: Option<Duration>) -> Self {
        self.auto_commit = every;
        self
    }

    /// How long the group waits for this member when it does not hear of it. Default: 10 s.
    pub fn session(mut self, session: Duration) -> Self {
        self.session = session;
        self
    }

    /// Where the group starts in partitions without a committed offset, if this consumer makes the group. Default: latest.
    pub fn start(mut self, start: Position) -> Self {
        self.start = Some(start);
        self
    }

    /// How long the program may take for what it was given before partitions that the group wants back leave without waiting
    /// for it. Default: 5 min.
    pub fn process_time_max(mut self, time: Duration) -> Self {
        self.process_time_max = time;
        self
    }

    /// A consumer of these partitions, alone.
    pub async fn assign(
        self,
        partitions: impl IntoIterator<Item = (TopicName, u32, Position)>,
    ) -> Result<Consumer, ConsumeError> {
        let shared = Arc::new(Shared::new(self.inner, self.options, None));
        for (name, partition, from) in partitions {
            let topic = shared.inner.cluster.topic(&name).await?;
            if partition >= topic.partitions {
                return Err(ConsumeError::UnknownPartition { topic: name, partition });
            }
            lock(&shared.cursors).add(TopicPartition { topic: topic.id, partition }, name, from);
        }
        shared.inner.host.spawn(Box::pin(Driver::new(shared.clone()).run()));
        Ok(Consumer { shared })
    }

    /// A member of a group: partitions of these topics are shared out among its members. Returns when the group took it.
    pub async fn subscribe(
        self,
        group: GroupName,
        topics: impl IntoIterator<Item = TopicName>,
    ) -> Result<Consumer, ConsumeError> {
        let membership = Arc::new(Membership::new(
            group,
            topics.into_iter().collect(),
            self.session,
            self.start,
            self.auto_commit.is_some(),
            self.process_time_max,
        ));
        let shared = Arc::new(Shared::new(self.inner, self.options, Some(membership.clone())));
        membership.join(&shared).await?;
        let host = shared.inner.host.clone();
        host.spawn(Box::pin(Driver::new(shared.clone()).run()));
        host.spawn(Box::pin(membership.run(shared.clone())));
        if let Some(every) = self.auto_commit {
            host.spawn(Box::pin(auto_commit(shared.clone(), every)));
        }
        Ok(Consumer { shared })
    }
}

async fn auto_commit(shared: Arc<Shared>, every: Duration) {
    let mut closed = shared.closed.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return,
            () = tokio::time::sleep(every) => {}
        }
        if let Err(error) = shared.commit_upto(Upto::Done).await {
            tracing::debug!(%error, "auto-commit failed; it comes again");
        }
    }
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
    mode: OnceLock<Mode>,
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
            mode: OnceLock::new(),
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
        self.mode.get().copied()
    }

    /// The first use decides how records come.
    fn set_mode(&self, mode: Mode, credit: Option<Credit>) {
        if self.mode.get().is_some() {
            return;
        }
        if let Some(credit) = credit {
            let (records, bytes) = (Ledger::new(credit.records, 1), Ledger::new(credit.bytes, limits::BATCH_BYTES_MAX));
            *lock(&self.ledgers) = Some(Ledgers { records, bytes });
        }
        let _ = self.mode.set(mode);
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

    /// All partitions are gone: others may have them.
    fn lose_all(&self) {
        lock(&self.cursors).clear();
        self.hand_back();
        self.work.notify_one();
    }

    /// Positions were found: those of a group are fixed, so that who comes after starts there and not at a later end.
    fn positions_known(self: &Arc<Self>) {
        if self.membership.is_some() {
            let shared = self.clone();
            self.inner.host.spawn(Box::pin(async move {
                if let Err(error) = shared.commit_upto(Upto::Done).await {
                    tracing::debug!(%error, "the group's start was not committed; the next commit does it");
                }
            }));
        }
    }

    async fn commit_upto(&self, upto: Upto) -> Result<(), ConsumeError> {
        let membership = self.membership.as_ref().ok_or(ConsumeError::NoGroup)?;
        let offsets = lock(&self.cursors).uncommitted(upto);
        membership.commit(self, offsets).await
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
        self.shared.set_mode(Mode::Poll, None);
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
            shared.lose_all();
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
        self.shared.membership.as_ref().ok_or(ConsumeError::NoGroup)?;
        // Not settle(): a partition that leaves is let go only when its commit is through.
        lock(&self.shared.cursors).settle();
        let committed = self.shared.commit_upto(Upto::Done).await;
        self.shared.settle();
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
        if !lock(&shared.cursors).uncommitted(Upto::Given).is_empty() {
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
        self.shared.set_mode(Mode::Poll, None);
        self.shared.settle();
        match std::task::ready!(self.poll_take(cx, 1)) {
            Ok(given) => Poll::Ready(given.into_iter().next().map(Ok)),
            Err(ConsumeError::Closed) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}
