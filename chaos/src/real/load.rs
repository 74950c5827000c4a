//! The load on real nodes: producers that pipeline and a group of two, with everything written down.

use super::{ends, gaps::Acks};
use crate::history::{History, Value, What};
use anyhow::Context as _;
use highwater::{
    client::{Client, Delivery, ProduceError, Record},
    types::{GroupName, Position, TopicName},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};
use tokio::time::Instant;

pub(super) struct Load {
    client: Client,
    topic: TopicName,
    partitions: u32,
    begun: Instant,
    history: Rc<RefCell<History>>,
    acks: Acks,
    /// When each was acknowledged, and how long that took.
    latencies: RefCell<Vec<(Duration, Duration)>>,
    /// Offsets that the group got, per partition.
    got: RefCell<BTreeMap<u32, std::collections::BTreeSet<u64>>>,
    ends: RefCell<Option<BTreeMap<u32, u64>>>,
}

/// A record without an outcome.
struct Open {
    partition: u32,
    value: Value,
    sent: Instant,
    receipt: highwater::client::producer::Receipt,
}

/// Records of one producer that may be unacknowledged.
const OPEN_MAX: usize = 2_000;
/// How long the group may need to see everything once the load is over.
const CATCH_UP: Duration = Duration::from_secs(60);

impl Load {
    pub(super) fn new(client: Client, topic: TopicName, partitions: u32) -> Self {
        Self {
            client,
            topic,
            partitions,
            begun: Instant::now(),
            history: Rc::default(),
            acks: Acks::default(),
            latencies: RefCell::default(),
            got: RefCell::default(),
            ends: RefCell::default(),
        }
    }

    pub(super) fn history(&self) -> Rc<RefCell<History>> {
        self.history.clone()
    }

    pub(super) fn acks(&self) -> Acks {
        self.acks.clone()
    }

    pub(super) fn acked(&self) -> usize {
        self.latencies.borrow().len()
    }

    /// Acknowledged within the last second.
    pub(super) fn rate(&self) -> usize {
        let since = self.begun.elapsed().saturating_sub(Duration::from_secs(1));
        self.latencies.borrow().iter().rev().take_while(|(at, _)| *at > since).count()
    }

    /// When each record was acknowledged since the start, and how long that took.
    pub(super) fn acked_at(&self) -> Vec<(Duration, Duration)> {
        self.latencies.borrow().clone()
    }

    pub(super) fn note_fault(&self, text: String) {
        self.note(0, What::Fault { text });
    }

    fn note(&self, process: u32, what: What) {
        let at = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.history.borrow_mut().push(at, process, what);
    }

    /// Who leads which partition now.
    pub(super) async fn leaders(&self) -> anyhow::Result<BTreeMap<u32, u32>> {
        let topic = self.client.admin().describe_topic(&self.topic).await?;
        let leaders = (0u32..).zip(topic.partitions).filter_map(|(p, facts)| facts.leader.map(|leader| (p, leader.0)));
        Ok(leaders.collect())
    }

    /// Sends at the given rate until the end, then waits for every outcome.
    pub(super) async fn produce(self: Rc<Self>, process: u32, rate: u32, end: Instant) -> anyhow::Result<()> {
        let producer =
            self.client.producer().linger(Duration::from_millis(2)).delivery_timeout(Duration::from_secs(60)).build();
        let mut open: VecDeque<Open> = VecDeque::new();
        let mut count = 0u64;
        let begun = Instant::now();
        while Instant::now() < end {
            let due = begun.elapsed().as_secs_f64() * f64::from(rate);
            #[allow(clippy::cast_precision_loss, reason = "a rate")]
            if (count as f64) >= due || open.len() >= OPEN_MAX {
                self.settle(process, &mut open, false).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            count += 1;
            let value = (u64::from(process) << 32) | count;
            let partition = u32::try_from(count % u64::from(self.partitions)).unwrap_or(0);
            let mut bytes = value.to_be_bytes().to_vec();
            bytes.resize(128, b'.');
            let record = Record::new(self.topic.clone(), bytes).partition(partition);
            let receipt = producer.send(record).await?;
            self.note(process, What::Send { partition, value });
            open.push_back(Open { partition, value, sent: Instant::now(), receipt });
        }
        let _ = producer.close().await;
        self.settle(process, &mut open, true).await;
        Ok(())
    }

    /// Writes down outcomes in the order of sends; waits for all of them when `wait`.
    async fn settle(&self, process: u32, open: &mut VecDeque<Open>, wait: bool) {
        // Partitions settle apart from each other: what is not ready yet goes back to its place.
        let mut later = VecDeque::new();
        while let Some(mut one) = open.pop_front() {
            let outcome = match wait {
                true => (&mut one.receipt).await,
                false => match futures_util::FutureExt::now_or_never(&mut one.receipt) {
                    Some(outcome) => outcome,
                    None => {
                        later.push_back(one);
                        continue;
                    }
                },
            };
            let Open { partition, value, sent, .. } = one;
            let what = match outcome {
                Ok(acked) => {
                    self.latencies.borrow_mut().push((self.begun.elapsed(), sent.elapsed()));
                    self.acks.borrow_mut().entry(partition).or_default().push(Instant::now());
                    match acked.offset {
                        Some(offset) => What::SendOk { partition, value, offset, epoch: acked.leader_epoch },
                        None => What::SendInfo { partition, value },
                    }
                }
                Err(ProduceError::Refused { .. } | ProduceError::Batch(_)) => What::SendFail { partition, value },
                Err(ProduceError::TimedOut { maybe_appended: false, .. }) => What::SendFail { partition, value },
                Err(_) => What::SendInfo { partition, value },
            };
            self.note(process, what);
        }
        *open = later;
    }

    /// A member of the group, until it has seen everything that there is at the end.
    pub(super) async fn consume(self: Rc<Self>, process: u32, end: Instant) -> anyhow::Result<()> {
        let group: GroupName = format!("{}-readers", self.topic).parse()?;
        let builder = self.client.consumer().start(Position::Earliest);
        let mut consumer = builder.subscribe(group, [self.topic.clone()]).await?;
        loop {
            match consumer.poll(Duration::from_millis(200)).await {
                Ok(records) => records.iter().for_each(|record| self.given(process, record)),
                Err(error) => tracing::warn!(%error, process, "a poll failed"),
            }
            if Instant::now() > end {
                if self.ends.borrow().is_none() {
                    // Producers may still settle: the ends are asked for once they are known to be quiet.
                    if Instant::now() > end + CATCH_UP {
                        break;
                    }
                    continue;
                }
                if self.has_all() || Instant::now() > end + 2 * CATCH_UP {
                    break;
                }
            }
        }
        Ok(consumer.close().await?)
    }

    fn given(&self, process: u32, record: &Delivery) {
        let (partition, offset, redelivered) = (record.partition, record.offset, record.redelivered);
        self.got.borrow_mut().entry(partition).or_default().insert(offset);
        let (value, epoch) = (decode(record), record.leader_epoch);
        self.note(process, What::Given { group: 1, partition, offset, value, epoch, redelivered });
    }

    fn has_all(&self) -> bool {
        let (ends, got) = (self.ends.borrow(), self.got.borrow());
        let Some(ends) = &*ends else { return false };
        ends.iter().all(|(partition, end)| got.get(partition).map_or(0, |got| got.len() as u64) >= *end)
    }

    /// Lets members of the group know where everything ends.
    pub(super) async fn settle_ends(&self) -> anyhow::Result<()> {
        let ends = ends(&self.client, &self.topic).await?;
        *self.ends.borrow_mut() = Some(ends);
        Ok(())
    }

    /// Reads every partition by a fresh reader.
    pub(super) async fn read_all(&self) -> anyhow::Result<()> {
        let ends = ends(&self.client, &self.topic).await?;
        let all = ends.keys().map(|partition| (self.topic.clone(), *partition, Position::Earliest));
        let mut consumer = self.client.consumer().assign(all).await?;
        let mut logs: BTreeMap<u32, Vec<(u64, Value)>> =
            ends.keys().map(|partition| (*partition, Vec::new())).collect();
        let deadline = Instant::now() + Duration::from_secs(120);
        while !ends.iter().all(|(p, end)| *end == 0 || logs[p].last().is_some_and(|last| last.0 + 1 >= *end)) {
            anyhow::ensure!(Instant::now() < deadline, "the final read did not end within 120 s");
            for record in consumer.poll(Duration::from_millis(500)).await.context("the final read failed")? {
                logs.entry(record.partition).or_default().push((record.offset, decode(&record)));
            }
        }
        consumer.close().await?;
        for (partition, records) in logs {
            self.note(0, What::Final { partition, start: 0, records });
        }
        Ok(())
    }
}

fn decode(record: &Delivery) -> Value {
    let bytes = record.value.as_deref().and_then(|v| v.get(..8)).and_then(|v| v.try_into().ok());
    Value::from_be_bytes(bytes.unwrap_or_default())
}
