//! What a partition's refusal means for whoever consumes it.

use super::{Shared, cursors::Want, driver::PAUSE};
use crate::{
    client::{ConsumeError, LookupError, cluster::Route, pool::lock, stats::Counters},
    types::TopicPartition,
    wire::{Code, FetchedPartition, Refused},
};
use std::time::Duration;
use tokio::time::Instant;

/// What comes with a refusal.
#[derive(Clone, Copy, Default)]
pub(super) struct Said {
    /// The offset that is nearest to the one asked for, if that is out of range.
    pub(super) nearest: u64,
    /// Up to where the leader knows its log, if it said so.
    pub(super) end: Option<u64>,
}

impl From<&FetchedPartition> for Said {
    fn from(said: &FetchedPartition) -> Self {
        Self { nearest: said.log_start, end: Some(said.high_watermark) }
    }
}

/// How long an offline partition is left alone.
const OFFLINE_PAUSE: Duration = Duration::from_secs(1);
/// How long a partition whose next records are gone is left alone while earlier ones are still to be given.
const TRIMMED_PAUSE: Duration = Duration::from_millis(250);

impl Shared {
    /// A request for a partition leaves.
    pub(super) fn sends(&self, partition: TopicPartition, to: Route) {
        let after_refusal = lock(&self.refusers).get(&partition).is_some_and(|(by, _)| *by == to);
        Counters::add(&self.inner.counters.sent_after_refusal, u64::from(after_refusal));
    }

    /// A partition was not refused.
    pub(super) fn served(&self, partition: TopicPartition) {
        lock(&self.refusers).remove(&partition);
    }

    /// A partition was refused: what comes next is the code's matter.
    pub(super) fn refused(&self, want: Want, by: Route, said: Said, refused: &Refused) {
        let now = Instant::now();
        let mut cursors = lock(&self.cursors);
        match refused.code {
            Code::NotLeader | Code::UnknownPartition | Code::ShuttingDown => {
                drop(cursors);
                Counters::one(&self.inner.counters.fetch_refused_not_leader);
                if refused.code == Code::NotLeader {
                    let refusal = (by, want.version);
                    let again = lock(&self.refusers).insert(want.partition, refusal) == Some(refusal);
                    Counters::add(&self.inner.counters.refused_twice, u64::from(again));
                }
                self.inner.cluster.refused(want.partition, by, refused);
            }
            Code::OffsetOutOfRange => {
                let outcome = cursors.out_of_range(want, said.nearest, now + TRIMMED_PAUSE);
                drop(cursors);
                if let Err(error) = outcome {
                    self.report(error);
                }
            }
            // A node that lags behind the metadata by which the topic is known does not know it yet.
            Code::UnknownTopic if self.is_homes_matter() || self.inner.cluster.has(want.partition.topic) => {
                cursors.postpone(want.partition, want.version, now + PAUSE);
                drop(cursors);
                self.inner.cluster.ask();
            }
            Code::NotReady | Code::Overloaded | Code::NoQuorum | Code::TimedOut | Code::DiskFull | Code::Internal => {
                match said.end {
                    // A new leader may come to know of it; who only polls would ask on and on for what is not there.
                    Some(end) if refused.code == Code::NotReady && end < want.offset => {
                        cursors.doubt(want, now + PAUSE);
                    }
                    _ => cursors.postpone(want.partition, want.version, now + PAUSE),
                }
                drop(cursors);
                self.inner.cluster.ask();
            }
            Code::Offline => {
                drop(cursors);
                self.offline(want, refused);
            }
            _ => {
                drop(cursors);
                self.give_up(want, refused);
            }
        }
    }

    /// Whoever is in a group consumes what the home says: it may know of a topic before this client does, and takes away one
    /// that is gone.
    fn is_homes_matter(&self) -> bool {
        self.membership.is_some()
    }

    /// Nobody serves a partition, and waiting for it does not help.
    pub(super) fn unserved(&self, want: Want, refused: &Refused) {
        match refused.code {
            Code::UnknownTopic if self.is_homes_matter() => {}
            Code::UnknownTopic => self.give_up(want, refused),
            _ => self.offline(want, refused),
        }
    }

    /// The partition stands still from now on, and whoever consumes it is told.
    fn give_up(&self, want: Want, refused: &Refused) {
        let failed = lock(&self.cursors).fail(want.partition, want.version);
        if let Some(topic) = failed {
            let (partition, refused) = (want.partition.partition, refused.clone());
            self.report(match refused.code {
                Code::UnknownTopic => LookupError::UnknownTopic { topic }.into(),
                _ => ConsumeError::Refused { topic, partition, refused },
            });
        }
    }

    /// Whoever consumes an offline partition is told once, and goes on by itself should it come back.
    fn offline(&self, want: Want, refused: &Refused) {
        let told = lock(&self.cursors).offline(want.partition, want.version, Instant::now() + OFFLINE_PAUSE);
        if let Some(topic) = told {
            let (partition, refused) = (want.partition.partition, refused.clone());
            self.report(ConsumeError::Refused { topic, partition, refused });
        }
    }
}
