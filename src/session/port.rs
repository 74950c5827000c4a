//! Straight to partitions: produce and offsets. Not an actor: a request goes to the partition's own, its answer comes back.

use super::Ground;
use crate::{
    batch::Batch,
    metrics::{Metrics, Reason},
    partition::{FetchError, Marks, Produce, ProduceError, Role},
    runtime::{BytePermit, ReplySlot},
    types::{AckLevel, TopicPartition},
    wire::{self, Code, Refused},
};
use futures_util::{FutureExt, future::BoxFuture, future::join_all};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A produce that names no time.
const PRODUCE_WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// Longest time a produce may name.
const PRODUCE_WAIT_MAX: Duration = Duration::from_secs(300);
/// A produce without an answer looks so often whether one can come at all.
const STRANDED_LOOK: Duration = Duration::from_secs(1);

/// What a produce asks to append, for the counts.
struct Load {
    begun: Instant,
    batches: u64,
    records: u64,
    bytes: u64,
}

impl Load {
    fn of(batches: &[Batch]) -> Self {
        let sum = |of: fn(&Batch) -> u64| batches.iter().map(of).sum();
        Self {
            begun: Instant::now(),
            batches: batches.len() as u64,
            records: sum(|batch| u64::from(batch.count())),
            bytes: sum(|batch| batch.bytes().len() as u64),
        }
    }

    fn count(&self, metrics: &Metrics, produced: &Result<wire::Produced, Refused>) {
        metrics.produce_seconds.observe(self.begun.elapsed().as_secs_f64());
        match produced {
            // Nobody was told that these are in the log.
            Ok(produced) if produced.duplicate || produced.level == AckLevel::None => {}
            Ok(_) => {
                metrics.produce_batches.inc_by(self.batches);
                metrics.produce_records.inc_by(self.records);
                metrics.produce_bytes.inc_by(self.bytes);
            }
            Err(refused) => {
                metrics.produce_refused.get_or_create(&Reason { reason: refused.code.name() }).inc();
            }
        }
    }
}

impl Ground {
    /// Hands batches to the partition's leader before it returns, so that calls keep their order; the future is the
    /// answer. The permit is held to it.
    pub fn produce(
        &self,
        produce: &wire::Produce,
        batches: Vec<Batch>,
        permit: BytePermit,
    ) -> BoxFuture<'static, Result<wire::Produced, Refused>> {
        let load = Load::of(&batches);
        let produced = match self.fits(produce, &batches) {
            Ok(()) => self.hand_over(produce, batches, permit),
            Err(refused) => std::future::ready(Err(refused)).boxed(),
        };
        let (ground, partition) = (self.clone(), TopicPartition { topic: produce.topic, partition: produce.partition });
        async move {
            let produced = produced.await.map_err(|refused| ground.or_offline(partition, refused));
            load.count(&ground.metrics, &produced);
            produced
        }
        .boxed()
    }

    /// Whether a leader is one in vain: most of its replicas are damaged, and no majority of them can answer. One that was
    /// just elected is not sure of its log either, but will be.
    fn is_stranded(&self, partition: TopicPartition, marks: &Marks) -> bool {
        marks.role == Role::Leader && !marks.ready && self.offline(partition, marks.leader).is_some()
    }

    /// Counts a produce that did not get as far as its partition.
    pub fn produce_refused(&self, refused: &Refused) {
        self.metrics.produce_refused.get_or_create(&Reason { reason: refused.code.name() }).inc();
    }

    /// The topic's limit.
    fn fits(&self, produce: &wire::Produce, batches: &[Batch]) -> Result<(), Refused> {
        let metadata = self.controller.metadata();
        let Some(topic) = metadata.topic(produce.topic) else { return Ok(()) };
        let most = topic.settings.batch_bytes_max() as usize;
        match batches.iter().map(|batch| batch.bytes().len()).max() {
            Some(len) if len > most => Err(Refused::new(
                Code::BatchTooLarge,
                format!(
                    "a batch of {len} bytes is over the topic's max.batch.bytes of {most}: \
                     send smaller batches, or raise it (highwater topic alter)"
                ),
            )),
            _ => Ok(()),
        }
    }

    fn hand_over(
        &self,
        produce: &wire::Produce,
        batches: Vec<Batch>,
        permit: BytePermit,
    ) -> BoxFuture<'static, Result<wire::Produced, Refused>> {
        let partition = TopicPartition { topic: produce.topic, partition: produce.partition };
        let handle = match self.find(partition) {
            Ok(handle) => handle,
            Err(refused) => return std::future::ready(Err(refused)).boxed(),
        };
        let ack = produce.ack;
        if ack == AckLevel::None {
            // What becomes of it nobody is told: who leads is all that can be answered.
            let marks = handle.marks();
            let answer = match marks.role {
                Role::Leader if marks.ready => {
                    handle.produce(Produce { ack, batches, permit, slot: ReplySlot::ignored() });
                    Ok(wire::Produced { leader_epoch: marks.epoch, level: ack, ..wire::Produced::default() })
                }
                Role::Leader | Role::Follower | Role::Gone => Err(self.elsewhere(partition)),
            };
            return std::future::ready(answer).boxed();
        }
        let (slot, answer) = ReplySlot::channel();
        handle.produce(Produce { ack, batches, permit, slot });
        let wait = match produce.timeout_ms {
            0 => PRODUCE_WAIT_DEFAULT,
            ms => Duration::from_millis(ms.into()).min(PRODUCE_WAIT_MAX),
        };
        let deadline = Instant::now() + wait;
        let ground = self.clone();
        async move {
            tokio::pin!(answer);
            let answered = loop {
                let look = deadline.min(Instant::now() + STRANDED_LOOK);
                match timeout_at(look, &mut answer).await {
                    Ok(answer) => break Ok(answer),
                    Err(_) if ground.is_stranded(partition, &handle.marks()) => {
                        break Ok(Err(ProduceError::Unknown { leader: None, epoch: 0 }));
                    }
                    Err(elapsed) if look == deadline => break Err(elapsed),
                    Err(_) => {}
                }
            };
            match answered {
                Ok(Ok(produced)) => Ok(wire::Produced {
                    base_offset: produced.base_offset,
                    leader_epoch: produced.leader_epoch,
                    level: produced.level,
                    quorum: produced.quorum,
                    voters: produced.voters,
                    duplicate: produced.duplicate,
                }),
                Ok(Err(error)) => Err(error.refused()),
                Err(_) => Err(Refused::new(
                    Code::TimedOut,
                    format!(
                        "not acknowledged within {} ms, and it may be yet: send the same batches with the same sequence again",
                        wait.as_millis()
                    ),
                )),
            }
        }
        .boxed()
    }

    /// Offsets by meaning, each after a read-index of its partition's leader that began after the question.
    pub fn list_offsets(&self, list: wire::ListOffsets) -> impl Future<Output = wire::ListedOffsets> + Send + 'static {
        let queries = list.partitions.into_iter().map(|query| {
            let partition = TopicPartition { topic: query.topic, partition: query.partition };
            let (handle, ground) = (self.find(partition), self.clone());
            async move {
                let handle = handle?;
                let shown = handle.barrier().await;
                shown.map_err(|unavailable| ground.or_offline(partition, unavailable.refused()))?;
                Ok(match handle.offset_at(query.at).await {
                    Ok(found) => {
                        wire::OffsetAnswer { refused: None, offset: found.offset, leader_epoch: found.leader_epoch }
                    }
                    // Behind the round it is not only unknown here: it is not there.
                    Err(error @ FetchError::NotYet { high_watermark, .. }) => {
                        let refused = Refused::new(Code::OffsetOutOfRange, error.to_string());
                        wire::OffsetAnswer { refused: Some(refused), offset: high_watermark, leader_epoch: 0 }
                    }
                    Err(error @ FetchError::OutOfRange { log_start, .. }) => {
                        wire::OffsetAnswer { refused: Some(error.refused()), offset: log_start, leader_epoch: 0 }
                    }
                    Err(error) => return Err(error.refused()),
                })
            }
            .map(|found: Result<_, Refused>| {
                found.unwrap_or_else(|refused| wire::OffsetAnswer { refused: Some(refused), ..Default::default() })
            })
        });
        let all = join_all(queries.collect::<Vec<_>>());
        async move { wire::ListedOffsets { partitions: all.await } }
    }
}
