//! Settings of a consumer, and how it begins.

use super::{Consumer, Options, OutOfRange, Shared, cursors::Upto, driver::Driver, member::Membership};
use crate::{
    client::{ConsumeError, Inner, pool::lock},
    limits,
    types::{GroupName, Position, TopicName, TopicPartition},
};
use std::{sync::Arc, time::Duration};

/// Settings of a [`Consumer`].
pub struct Builder {
    inner: Arc<Inner>,
    options: Options,
    auto_commit: Option<Duration>,
    session: Option<Duration>,
    start: Option<Position>,
    process_time_max: Duration,
}

impl Builder {
    pub(in crate::client) fn new(inner: Arc<Inner>) -> Self {
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
            session: None,
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

    /// What happens when the position is not in the log: below what retention left, or above the end. Default: go on at the log start.
    pub fn out_of_range(mut self, policy: OutOfRange) -> Self {
        self.options.out_of_range = policy;
        self
    }

    /// How often what is done is committed by itself; `None`: only by [`Consumer::commit`]. Default: every second.
    pub fn auto_commit(mut self, every: Option<Duration>) -> Self {
        self.auto_commit = every;
        self
    }

    /// How long the group waits for this member when it does not hear of it, and how long this member goes on when it does not
    /// hear of the group; from 1 s to 30 min. Default: what the nodes' config says (`[groups] session_grace_ms`, 10 s).
    pub fn session(mut self, session: Duration) -> Self {
        let longest = Duration::from_millis(limits::SESSION_GRACE_MS_MAX);
        self.session = Some(session.clamp(Duration::from_millis(limits::SESSION_GRACE_MS_MIN), longest));
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
            let topic = shared.inner.cluster.topic_with(&name, partition).await?;
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
            self.inner.host.random_u64(),
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
