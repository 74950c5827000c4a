//! Producing: records become batches, batches are acknowledged in order, by whichever node leads.
//!
//! Each partition that is produced to has a `window` (the rules) and a worker (the task that sends). Records wait in a
//! buffer that is bounded in bytes; [`Producer::send`] waits for room in it and for nothing else.

mod receipt;
mod window;
mod worker;

pub use receipt::Receipt;

use super::{
    Inner, ProduceError, Record, RequestError, SendError, Topic,
    pool::{lock, unexpected},
};
use crate::{
    batch::{Compression, partition_of_key},
    limits,
    types::{AckLevel, TopicId, TopicPartition},
    wire::{InitProducer, Message},
};
use receipt::Place;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, OnceCell, Semaphore},
    time::Instant,
};
use window::{Identity, Settings, Timed, Window};
use worker::{Lot, Worker};

/// Batches of an idempotent producer under way per partition: as many as a partition remembers.
const IN_FLIGHT_MAX: usize = limits::PRODUCER_BATCHES_REMEMBERED as usize;

/// Settings of a [`Producer`].
pub struct Builder {
    inner: Arc<Inner>,
    settings: Settings,
    ack: AckLevel,
    buffer_bytes: usize,
}

impl Builder {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        let settings = Settings {
            batch_bytes: 256 << 10,
            linger: Duration::ZERO,
            compression: None,
            in_flight_max: IN_FLIGHT_MAX,
            delivery_timeout: Duration::from_secs(120),
            idempotent: true,
        };
        Self { inner, settings, ack: AckLevel::default(), buffer_bytes: 32 << 20 }
    }

    /// How long the first record of a batch waits for company. Default: not at all; while batches are under way, records
    /// gather anyway.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// Bytes at which a batch is closed, before compression. Default: 256 KiB; at most [`limits::BATCH_BYTES_MAX`].
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes = bytes.min(limits::BATCH_BYTES_MAX as usize);
        self
    }

    /// How batches are compressed. Default: as the topic's `compression` says, else not.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.settings.compression = Some(compression);
        self
    }

    /// What an acknowledgement promises. Default: on the disks of a majority.
    pub fn ack(mut self, ack: AckLevel) -> Self {
        self.ack = ack;
        self
    }

    /// Whether the broker numbers the producer's batches, so that none is in the log twice. Default: yes. Without, one batch
    /// per partition is under way at a time, which keeps the order; and a batch that a leader may have appended as it lost its
    /// role is not sent again but fails with [`ProduceError::OutcomeUnknown`].
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.settings.idempotent = idempotent;
        self.settings.in_flight_max = if idempotent { IN_FLIGHT_MAX } else { 1 };
        self
    }

    /// Bytes of records that may wait for their acknowledgement; then [`Producer::send`] waits. Default: 32 MiB.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes.min(Semaphore::MAX_PERMITS);
        self
    }

    /// How long a record may take from [`Producer::send`] to its acknowledgement, repeats included. Default: 2 min.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delivery_timeout = timeout;
        self
    }

    /// The producer. Asks for nothing yet.
    pub fn build(self) -> Producer {
        Producer {
            shared: Arc::new(Shared {
                inner: self.inner,
                settings: self.settings,
                ack: self.ack,
                buffer_bytes: self.buffer_bytes,
                room: Arc::new(Semaphore::new(self.buffer_bytes)),
                idempotence: Arc::default(),
                lots: Mutex::default(),
                sticky: Mutex::default(),
                closed: AtomicBool::new(false),
            }),
        }
    }
}

/// Sends records. Clones share buffer, order and producer id.
///
/// Dropping the last clone still sends what was taken, but nobody learns how it went: call [`close`](Self::close).
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<Inner>,
    settings: Settings,
    ack: AckLevel,
    buffer_bytes: usize,
    room: Arc<Semaphore>,
    idempotence: Arc<Idempotence>,
    lots: Mutex<BTreeMap<TopicPartition, Arc<Lot>>>,
    sticky: Mutex<BTreeMap<TopicId, Sticky>>,
    closed: AtomicBool,
}

/// Where records without a key go until they fill a batch.
struct Sticky {
    partition: u32,
    bytes_left: usize,
}

impl Producer {
    /// Takes a record; waits while the buffer is full. The order of calls is the order of the records of a partition.
    ///
    /// May be dropped while it waits: then the record was not taken.
    pub async fn send(&self, record: Record) -> Result<Receipt, SendError> {
        let shared = &self.shared;
        let bytes = record.cost();
        if bytes > shared.buffer_bytes {
            return Err(SendError::TooLarge { bytes, buffer_bytes: shared.buffer_bytes });
        }
        let partition = record.partition.unwrap_or(0);
        let topic = match shared.inner.cluster.known(&record.topic) {
            Some(topic) if partition < topic.partitions => topic,
            _ => shared.inner.cluster.topic_with(&record.topic, partition).await?,
        };
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = match shared.room.clone().try_acquire_many_owned(permits) {
            Ok(permit) => permit,
            Err(_) => shared.room.clone().acquire_many_owned(permits).await.map_err(|_| SendError::Closed)?,
        };
        let lot = shared.lot(&topic, shared.choose(&topic, &record, bytes)?)?;
        let timed = Timed {
            timestamp: record.timestamp.unwrap_or_else(|| shared.inner.host.now_ms()),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &record.headers,
        };
        let (receipt, wake) = lock(&lot.window).push(&timed, permit, Instant::now())?;
        if wake {
            lot.wake.notify_one();
        }
        Ok(receipt)
    }

    /// Sends all that was taken so far without waiting for more, and waits until each is acknowledged or failed. The error is of
    /// what was open when it was called: of what had failed before, its [`Receipt`] alone tells.
    pub async fn flush(&self) -> Result<(), FlushError> {
        let lots: Vec<_> = lock(&self.shared.lots).values().cloned().collect();
        let mut outcomes = Vec::new();
        for lot in lots {
            outcomes.extend(lock(&lot.window).flush());
            lot.wake.notify_one();
        }
        let mut failures = 0;
        let mut first = None;
        for outcome in outcomes {
            if let Err(error) = outcome.await.unwrap_or(Err(ProduceError::Closed)) {
                failures += 1;
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), |first| Err(FlushError { failures, first }))
    }

    /// Where it runs.
    #[cfg(feature = "actix")]
    pub(crate) fn host(&self) -> Arc<dyn super::Host> {
        self.shared.inner.host.clone()
    }

    /// Flushes, and takes nothing more.
    pub async fn close(&self) -> Result<(), FlushError> {
        self.shared.closed.store(true, Relaxed);
        self.shared.room.close();
        let flushed = self.flush().await;
        self.shared.end_workers();
        flushed
    }
}

impl Shared {
    fn choose(&self, topic: &Topic, record: &Record, bytes: usize) -> Result<u32, SendError> {
        match (record.partition, &record.key) {
            (Some(partition), _) if partition < topic.partitions => Ok(partition),
            (Some(partition), _) => {
                let (topic, partitions) = (topic.name.clone(), topic.partitions);
                Err(SendError::UnknownPartition { topic, partition, partitions })
            }
            (None, Some(key)) => Ok(partition_of_key(key, topic.partitions)),
            (None, None) => Ok(self.stick(topic, bytes)),
        }
    }

    /// The same partition until a batch is full, then another one that has a leader (KIP-794).
    fn stick(&self, topic: &Topic, bytes: usize) -> u32 {
        let mut sticky = lock(&self.sticky);
        match sticky.get_mut(&topic.id) {
            Some(current) if current.bytes_left > 0 => {
                current.bytes_left = current.bytes_left.saturating_sub(bytes);
                current.partition
            }
            _ => {
                let led = self.inner.cluster.led(topic);
                let among = if led.is_empty() { (0..topic.partitions).collect() } else { led };
                let at = self.inner.host.random_u64() % u64::try_from(among.len().max(1)).unwrap_or(1);
                let partition = usize::try_from(at).ok().and_then(|at| among.get(at)).copied().unwrap_or(0);
                let bytes_left = self.settings.batch_bytes.saturating_sub(bytes);
                sticky.insert(topic.id, Sticky { partition, bytes_left });
                partition
            }
        }
    }

    fn lot(&self, topic: &Arc<Topic>, partition: u32) -> Result<Arc<Lot>, SendError> {
        let mut lots = lock(&self.lots);
        if self.closed.load(Relaxed) {
            return Err(SendError::Closed);
        }
        let key = TopicPartition { topic: topic.id, partition };
        let first = TopicPartition { topic: topic.id, partition: 0 };
        if lots.range(first..).next().is_none_or(|(known, _)| known.topic != topic.id) {
            self.end_gone(&mut lots);
        }
        let lot = lots.entry(key).or_insert_with(|| {
            let place = Arc::new(Place { topic: topic.clone(), partition });
            let window = Mutex::new(Window::new(self.settings.clone(), place.clone()));
            let lot = Arc::new(Lot { place, window, wake: Notify::new(), closing: AtomicBool::new(false) });
            let worker = Worker::new(lot.clone(), self.inner.clone(), self.idempotence.clone(), self.ack);
            self.inner.host.spawn(Box::pin(worker.run()));
            lot
        });
        Ok(lot.clone())
    }

    /// Ends the workers of topics that are gone. Lots are handed out under this lock, so that nobody sends to one that ends.
    fn end_gone(&self, lots: &mut BTreeMap<TopicPartition, Arc<Lot>>) {
        lots.retain(|_, lot| {
            let Place { topic, .. } = &*lot.place;
            let is_known = self.inner.cluster.known(&topic.name).is_some_and(|known| known.id == topic.id);
            // The worker's and this one.
            if is_known || Arc::strong_count(lot) > 2 || !lock(&lot.window).is_empty() {
                return true;
            }
            lock(&self.sticky).remove(&topic.id);
            lot.end();
            false
        });
    }

    fn end_workers(&self) {
        lock(&self.lots).values().for_each(|lot| lot.end());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end_workers();
    }
}

/// The producer's id, asked for when it is first needed.
#[derive(Default)]
struct Idempotence {
    first: OnceCell<Identity>,
}

impl Idempotence {
    /// The producer's identity; a new one for a partition that gave up the first.
    async fn identity(&self, inner: &Inner, renewed: bool) -> Result<Identity, RequestError> {
        if renewed {
            return init(inner).await;
        }
        self.first.get_or_try_init(|| init(inner)).await.copied()
    }
}

async fn init(inner: &Inner) -> Result<Identity, RequestError> {
    let (node, answer) = inner.cluster.any(InitProducer {}).await?;
    match answer.message {
        Message::ProducerReady(ready) => {
            Ok(Identity { id: ready.producer, epoch: u16::try_from(ready.epoch).unwrap_or(0) })
        }
        other => Err(unexpected(&format!("node {node}"), "InitProducer", &other)),
    }
}

/// Some batches that were flushed are not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{failures} batches are not acknowledged; the first: {first}")]
pub struct FlushError {
    /// How many.
    pub failures: u64,
    /// Why the first of them is not.
    pub first: ProduceError,
}

impl crate::advice::Advice for FlushError {
    fn reaction(&self) -> crate::advice::Reaction {
        self.first.reaction()
    }

    fn advice(&self) -> String {
        self.first.advice()
    }
}
