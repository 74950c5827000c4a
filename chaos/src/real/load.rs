//! The load on real nodes: producers that pipeline and a group of two, with everything written down. Who looks on beside them is
//! in `readers`, the end of it all in `replicas`.

mod readers;
mod replicas;

use super::ends;
use crate::{
    history::{Deed, History, Value, What},
    observe,
    workload::{decode, encode, told},
};
use anyhow::Context as _;
use futures_util::FutureExt as _;
use highwater::{
    client::{AdminError, Client, Code, ConsumeError, Delivery, Dialer, NewTopic, ProduceError, Producer, Record},
    types::{GroupName, Position, TopicName},
};
use std::{
    cell::{Cell, Ref, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

pub(super) struct Load {
    client: Client,
    /// Who looks on has connections of its own: what it gives up on does not disturb the load.
    onlooker: Client,
    /// How both reach the nodes.
    dialer: Arc<dyn Dialer>,
    topic: TopicName,
    partitions: u32,
    begun: Instant,
    /// The same, by the clock that nodes tell their facts by.
    begun_us: u64,
    history: RefCell<History>,
    acks: RefCell<Vec<Ack>>,
    /// When producers were told to end.
    over: Cell<Option<Instant>>,
    /// Offsets that the group got, per partition.
    got: RefCell<Got>,
    /// The next offset of the partition that is followed.
    followed: Cell<u64>,
    /// Readers may end.
    caught_up: Cell<bool>,
}

/// A record that was acknowledged.
#[derive(Clone, Copy)]
pub(super) struct Ack {
    pub(super) partition: u32,
    pub(super) sent: Instant,
    pub(super) at: Instant,
}

type Got = BTreeMap<u32, BTreeSet<u64>>;

/// A record without an outcome.
struct Open {
    partition: u32,
    value: Value,
    sent: Instant,
    receipt: highwater::client::producer::Receipt,
}

/// How often producers look for outcomes.
const LOOK: Duration = Duration::from_millis(1);
/// A reader whose poll failed polls again after this.
const AGAIN: Duration = Duration::from_millis(50);
/// Records of one producer that may be unacknowledged.
const OPEN_MAX: usize = 2_000;
/// The group, in the history.
const GROUP: u32 = 1;
/// Who makes the topic and removes it, in the history.
const ADMIN: u32 = 203;
/// How long a node may lag behind in which topics there are, with all healed.
const LISTED_MAX: Duration = Duration::from_secs(20);
/// Longest wait for the removal of what a run made: longer than sessions of members that ended.
const ABANDON_MAX: Duration = Duration::from_secs(15);
/// How long readers may need to see everything once the load is over.
const CATCH_UP: Duration = Duration::from_secs(120);

impl Load {
    pub(super) fn new(
        [client, onlooker]: [Client; 2],
        dialer: Arc<dyn Dialer>,
        topic: TopicName,
        partitions: u32,
    ) -> Self {
        Self {
            client,
            onlooker,
            dialer,
            topic,
            partitions,
            begun: Instant::now(),
            begun_us: observe::machine_us(),
            history: RefCell::default(),
            acks: RefCell::default(),
            over: Cell::default(),
            got: RefCell::default(),
            followed: Cell::default(),
            caught_up: Cell::default(),
        }
    }

    /// Makes the topic. The run's first deed.
    pub(super) async fn create(&self) -> anyhow::Result<()> {
        let deed = Deed::Create { topic: self.topic.to_string(), partitions: self.partitions };
        let topic = NewTopic::new(self.topic.clone()).partitions(self.partitions);
        Ok(self.ask(deed, self.client.admin().create_topic(topic)).await.map(drop)?)
    }

    /// Removes it. The last one: what clients and nodes know of it is written down before and after.
    async fn delete(&self) -> anyhow::Result<()> {
        self.list(|there| there).await?;
        let deed = Deed::Delete { topic: self.topic.to_string() };
        self.ask(deed, self.client.admin().delete_topic(&self.topic)).await?;
        self.list(|there| !there).await
    }

    /// Asks for something, and writes down what came of it.
    async fn ask<T>(&self, deed: Deed, asking: impl Future<Output = Result<T, AdminError>>) -> Result<T, AdminError> {
        self.note(ADMIN, What::Admin { deed: deed.clone() });
        let answer = asking.await;
        self.note(ADMIN, told(deed, &answer));
        answer
    }

    /// Writes down whether the topic is there, and with how many partitions. A node may lag behind: it is asked until it says what is
    /// `expected` or the time is over. Topics of others are not the run's.
    async fn list(&self, expected: impl Fn(bool) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + LISTED_MAX;
        loop {
            let listed = self.client.admin().topics().await;
            let is_last = Instant::now() > deadline;
            match listed {
                Err(error) if is_last => return Err(error).context("no node says which topics there are"),
                Ok(topics) => {
                    let count = |partitions: usize| u32::try_from(partitions).unwrap_or(u32::MAX);
                    let ours = topics.into_iter().filter(|topic| topic.name == self.topic);
                    let topics: BTreeMap<_, _> =
                        ours.map(|topic| (topic.name.to_string(), count(topic.partitions.len()))).collect();
                    let last = is_last || expected(!topics.is_empty());
                    self.note(ADMIN, What::Topics { topics, last });
                    if last {
                        return Ok(());
                    }
                }
                Err(_) => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    pub(super) fn begun_us(&self) -> u64 {
        self.begun_us
    }

    /// What clients did and saw; from then on it begins again.
    pub(super) fn history(&self) -> History {
        self.history.take()
    }

    /// In the order in which they came.
    pub(super) fn acks(&self) -> Ref<'_, Vec<Ack>> {
        self.acks.borrow()
    }

    /// When each record was acknowledged since the start, and how long that took.
    pub(super) fn acked_at(&self) -> Vec<(Duration, Duration)> {
        self.acks().iter().map(|ack| (ack.at - self.begun, ack.at - ack.sent)).collect()
    }

    /// Acknowledged within the last second.
    pub(super) fn rate(&self) -> usize {
        let now = Instant::now();
        self.acks().iter().rev().take_while(|ack| now - ack.at < Duration::from_secs(1)).count()
    }

    /// Tells producers to end.
    pub(super) fn stop(&self) {
        self.over.set(Some(Instant::now()));
    }

    /// When producers were told to end; now, when they were not.
    pub(super) fn end(&self) -> Instant {
        self.over.get().unwrap_or_else(Instant::now)
    }

    pub(super) fn note_fault(&self, text: String) {
        self.note(0, What::Fault { text });
    }

    fn note(&self, process: u32, what: What) {
        let at = self.now_us();
        self.history.borrow_mut().push(at, process, what);
    }

    /// Microseconds since the load began.
    fn now_us(&self) -> u64 {
        observe::machine_us() - self.begun_us
    }

    /// A batch that does not verify is an anomaly, whatever the client does about it.
    fn note_failed(&self, process: u32, error: &ConsumeError) {
        if let ConsumeError::Damaged { partition, .. } = error {
            self.note(process, What::Damaged { partition: *partition, text: error.to_string() });
        }
        tracing::warn!(%error, process, "a poll failed");
    }

    /// Who leads which partition now.
    pub(super) async fn leaders(&self) -> anyhow::Result<BTreeMap<u32, u32>> {
        let topic = self.client.admin().describe_topic(&self.topic).await?;
        let leaders = (0u32..).zip(topic.partitions).filter_map(|(p, facts)| facts.leader.map(|leader| (p, leader.0)));
        Ok(leaders.collect())
    }

    /// Sends at the given rate until the load is over, then one more to each partition, and waits for every outcome.
    pub(super) async fn produce(self: Rc<Self>, process: u32, rate: u32) -> anyhow::Result<()> {
        let producer =
            self.client.producer().linger(Duration::from_millis(2)).delivery_timeout(Duration::from_secs(60)).build();
        let mut open: VecDeque<Open> = VecDeque::new();
        let mut count = 0u64;
        let begun = Instant::now();
        while self.over.get().is_none() {
            let due = begun.elapsed().as_secs_f64() * f64::from(rate);
            #[allow(clippy::cast_precision_loss, reason = "a rate")]
            if (count as f64) >= due || open.len() >= OPEN_MAX {
                self.settle(process, &mut open);
                tokio::time::sleep(LOOK).await;
                continue;
            }
            count += 1;
            open.push_back(self.send(&producer, process, count).await?);
        }
        // Those that were waited for may have been sent before the last fault; these show that each partition is back.
        for _ in 0..self.partitions {
            count += 1;
            open.push_back(self.send(&producer, process, count).await?);
        }
        while !open.is_empty() {
            self.settle(process, &mut open);
            tokio::time::sleep(LOOK).await;
        }
        let _ = producer.close().await;
        Ok(())
    }

    async fn send(&self, producer: &Producer, process: u32, count: u64) -> anyhow::Result<Open> {
        let value = (u64::from(process) << 32) | count;
        let partition = u32::try_from(count % u64::from(self.partitions)).unwrap_or(0);
        let record = Record::new(self.topic.clone(), encode(value)).partition(partition);
        let sent = Instant::now();
        let receipt = producer.send(record).await?;
        self.note(process, What::Send { partition, value });
        Ok(Open { partition, value, sent, receipt })
    }

    /// Writes down the outcomes that are there.
    fn settle(&self, process: u32, open: &mut VecDeque<Open>) {
        // Partitions settle apart from each other: what is not ready yet keeps its place.
        open.retain_mut(|one| {
            let Some(outcome) = (&mut one.receipt).now_or_never() else { return true };
            let Open { partition, value, sent, .. } = *one;
            let what = match outcome {
                Ok(acked) => {
                    self.acks.borrow_mut().push(Ack { partition, sent, at: Instant::now() });
                    match acked.offset {
                        Some(offset) => What::SendOk { partition, value, offset, epoch: acked.leader_epoch },
                        None => What::SendInfo { partition, value },
                    }
                }
                Err(ProduceError::Refused { maybe_appended: false, .. } | ProduceError::Batch(_)) => {
                    What::SendFail { partition, value }
                }
                Err(ProduceError::TimedOut { maybe_appended: false, .. }) => What::SendFail { partition, value },
                Err(_) => What::SendInfo { partition, value },
            };
            self.note(process, what);
            false
        });
    }

    /// A member of the group, until it has caught up.
    pub(super) async fn consume(self: Rc<Self>, process: u32) -> anyhow::Result<()> {
        let builder = self.client.consumer().start(Position::Earliest);
        let mut consumer = builder.subscribe(self.group()?, [self.topic.clone()]).await?;
        self.note(process, What::Joined { group: GROUP });
        while !self.caught_up.get() {
            match consumer.poll(Duration::from_millis(200)).await {
                Ok(records) if records.is_empty() => {}
                Ok(records) => {
                    self.note(process, What::Polled { group: GROUP });
                    records.iter().for_each(|record| self.given(process, record));
                }
                Err(error) => {
                    self.note_failed(process, &error);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        Ok(consumer.close().await?)
    }

    fn group(&self) -> anyhow::Result<GroupName> {
        Ok(format!("{}-readers", self.topic).parse()?)
    }

    fn given(&self, process: u32, record: &Delivery) {
        let (partition, offset, redelivered) = (record.partition, record.offset, record.redelivered);
        self.got.borrow_mut().entry(partition).or_default().insert(offset);
        let (value, epoch) = (decode(record), record.leader_epoch);
        self.note(process, What::Given { group: GROUP, partition, offset, value, epoch, redelivered });
    }

    /// Waits until all readers have everything, producers being quiet, and ends them; gives what they are missing.
    pub(super) async fn catch_up(&self) -> anyhow::Result<Vec<String>> {
        let (group, ends) = (self.group()?, ends(&self.client, &self.topic).await?);
        let deadline = Instant::now() + CATCH_UP;
        loop {
            let mut missing = missing(&group, &ends, &self.got.borrow());
            missing.extend(readers::behind(&ends, self.followed.get()));
            if missing.is_empty() || Instant::now() > deadline {
                self.caught_up.set(true);
                return Ok(missing);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Reads every partition by a fresh reader, then each replica by itself, and leaves nothing behind.
    pub(super) async fn finish(&self) -> anyhow::Result<()> {
        let ends = ends(&self.client, &self.topic).await?;
        let all = ends.keys().map(|partition| (self.topic.clone(), *partition, Position::Earliest));
        let mut consumer = self.client.consumer().assign(all).await?;
        let mut logs: BTreeMap<u32, Vec<(u64, Value)>> =
            ends.keys().map(|partition| (*partition, Vec::new())).collect();
        let deadline = Instant::now() + Duration::from_secs(120);
        while !ends.iter().all(|(p, end)| *end == 0 || logs[p].last().is_some_and(|last| last.0 + 1 >= *end)) {
            anyhow::ensure!(Instant::now() < deadline, "the final read did not end within 120 s");
            let polled =
                consumer.poll(Duration::from_millis(500)).await.inspect_err(|error| self.note_failed(0, error));
            for record in polled.context("the final read failed")? {
                logs.entry(record.partition).or_default().push((record.offset, decode(&record)));
            }
        }
        consumer.close().await?;
        for (partition, records) in logs {
            self.note(0, What::Final { partition, start: 0, records });
        }
        self.compare_replicas(&ends).await?;
        self.delete().await?;
        self.client.admin().delete_group(&self.group()?).await?;
        self.onlooker.close();
        self.client.close();
        Ok(())
    }

    /// Removes what a run that was stopped has made; says what it could not remove.
    pub(super) async fn abandon(&self) {
        if !matches!(tokio::time::timeout(ABANDON_MAX, self.remove()).await, Ok(Ok(()))) {
            eprintln!(
                "topic {0} and group {0}-readers may be left: remove them with `highwater topic delete {0}` and `highwater group delete {0}-readers`",
                self.topic
            );
        }
        self.client.close();
    }

    async fn remove(&self) -> anyhow::Result<()> {
        let (admin, group) = (self.client.admin(), self.group()?);
        admin.delete_topic(&self.topic).await?;
        // Its members ended with the run, and their sessions a little later.
        while let Err(error) = admin.delete_group(&group).await {
            if error.code() == Some(Code::UnknownGroup) {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }
}

fn missing(group: &GroupName, ends: &BTreeMap<u32, u64>, got: &Got) -> Vec<String> {
    let lacks = |(partition, end): (&u32, &u64)| {
        let given = got.get(partition).map_or(0, |got| got.len() as u64);
        let text = || format!("group {group} is missing {} of {end} records of partition {partition}", end - given);
        (given < *end).then(text)
    };
    ends.iter().filter_map(lacks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_group_did_not_get_is_told() {
        let group = "readers".parse().unwrap();
        let ends = BTreeMap::from([(0, 3), (1, 2), (2, 0), (3, 4)]);
        let got = Got::from([(0, BTreeSet::from([0, 1, 2])), (3, BTreeSet::from([1]))]);
        let told = [
            "group readers is missing 2 of 2 records of partition 1",
            "group readers is missing 3 of 4 records of partition 3",
        ];
        assert_eq!(missing(&group, &ends, &got), told);
    }
}
