//! The session's machine against a model of partitions: never asleep too long, never early, never over its credit.

mod elected;
mod follower;

use super::machine::{Effect, Filled, Input, Machine, Pulled, Seen, Standing, View, standing};
use crate::{
    replica::WakeAt,
    types::{NodeId, TopicId},
    wire::{self, Code, FetchPartition, Refused},
};
use proptest::prelude::*;
use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

const TOPIC: TopicId = TopicId([7; 16]);

fn want(partition: u32, offset: u64) -> FetchPartition {
    FetchPartition { topic: TOPIC, partition, offset, bytes_max: 0, from_follower: false }
}

/// A partition: batches as (first offset, bytes before), and who waits.
#[derive(Default)]
struct Part {
    /// Where each batch ends, and its bytes.
    batches: Vec<(u64, u64)>,
    bytes: u64,
    epoch: u64,
    moved: bool,
    waiters: BTreeMap<u64, (WakeAt, u64)>,
}

impl Part {
    fn high_watermark(&self) -> u64 {
        self.batches.last().map_or(0, |(end, _)| *end)
    }

    fn from(&self, offset: u64) -> impl Iterator<Item = (u64, u64, u64)> {
        let starts = std::iter::once(0).chain(self.batches.iter().map(|(end, _)| *end));
        starts
            .zip(&self.batches)
            .filter(move |(_, (end, _))| *end > offset)
            .map(move |(start, (end, bytes))| (start.max(offset), *end, *bytes))
    }
}

struct World {
    parts: Vec<Part>,
    machine: Machine,
    now: Instant,
    fires: VecDeque<(u64, bool)>,
    inputs: VecDeque<Input>,
    answers: BTreeMap<u64, Result<Filled, Code>>,
    last_filled: BTreeMap<u64, Filled>,
    fetches: BTreeMap<u64, (wire::Fetch, Instant)>,
    delivered: Vec<(u64, u64, u64)>,
    dismissed: Vec<(u32, Code)>,
    parks: usize,
    looked: Cell<usize>,
    /// Cold reads: pulls that are answered later.
    pulls: VecDeque<Effect>,
}

struct Eyes<'a>(&'a [Part], &'a Cell<usize>);

impl View for Eyes<'_> {
    fn see(&self, want: &FetchPartition) -> Result<Seen, Refused> {
        self.1.set(self.1.get() + 1);
        let part = self.0.get(want.partition as usize);
        let part = part.ok_or_else(|| Refused::new(Code::UnknownPartition, "no such partition"))?;
        Ok(Seen {
            log_start: 0,
            high_watermark: part.high_watermark(),
            bytes: part.bytes,
            epoch: part.epoch,
            leading: !part.moved,
            ready: true,
            leader: Some(NodeId(2)),
        })
    }
}

impl World {
    fn new(partitions: usize) -> Self {
        Self {
            parts: (0..partitions).map(|_| Part::default()).collect(),
            machine: Machine::new(Arc::default()),
            now: Instant::now(),
            fires: VecDeque::new(),
            inputs: VecDeque::new(),
            answers: BTreeMap::new(),
            last_filled: BTreeMap::new(),
            fetches: BTreeMap::new(),
            delivered: Vec::new(),
            dismissed: Vec::new(),
            parks: 0,
            looked: Cell::new(0),
            pulls: VecDeque::new(),
        }
    }

    fn append(&mut self, partition: usize, records: u64, bytes: u64) {
        let part = &mut self.parts[partition];
        let end = part.high_watermark() + records;
        part.batches.push((end, bytes));
        part.bytes += bytes;
        self.ring(partition);
    }

    fn ring(&mut self, partition: usize) {
        let part = &mut self.parts[partition];
        let (bytes, offset) = (part.bytes, part.high_watermark());
        let reached = part.waiters.iter().filter(|(_, (wake_at, _))| match wake_at {
            WakeAt::Bytes(at) => bytes >= *at,
            WakeAt::Offset(at) => offset >= *at,
        });
        let reached: Vec<u64> = reached.map(|(token, _)| *token).collect();
        for token in reached {
            part.waiters.remove(&token);
            self.fires.push_back((token, true));
        }
    }

    fn move_leader(&mut self, partition: usize) {
        let part = &mut self.parts[partition];
        part.epoch += 1;
        part.moved = true;
        for token in std::mem::take(&mut part.waiters).into_keys() {
            self.fires.push_back((token, false));
        }
    }

    fn fetch(&mut self, id: u64, fetch: wire::Fetch) {
        let deadline = self.now + Duration::from_millis(fetch.wait_ms_max.into());
        self.fetches.insert(id, (fetch.clone(), deadline));
        self.put(Input::Fetch { link: 1, id, fetch });
    }

    fn put(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.settle();
    }

    /// Runs until nothing is left to do.
    fn settle(&mut self) {
        loop {
            let input = match self.inputs.pop_front() {
                Some(input) => input,
                None => match self.fires.pop_front() {
                    Some((token, ready)) => Input::Fired { token, ready },
                    None => return,
                },
            };
            let mut effects = Vec::new();
            self.machine.step(self.now, input, &Eyes(&self.parts, &self.looked), &mut effects);
            effects.into_iter().for_each(|effect| self.run(effect));
        }
    }

    fn run(&mut self, effect: Effect) {
        match effect {
            Effect::Park { token, partition, wake_at, epoch } => {
                self.parks += 1;
                let part = &mut self.parts[partition.partition as usize];
                if part.epoch != epoch {
                    self.fires.push_back((token, false));
                    return;
                }
                part.waiters.insert(token, (wake_at, epoch));
                self.ring(partition.partition as usize);
            }
            Effect::Unpark { token, partition } => {
                self.parts[partition.partition as usize].waiters.remove(&token);
            }
            Effect::Fill { id, .. } => {
                let filled = self.count(&self.machine.fetches[&id].fetch.clone());
                self.last_filled.insert(id, filled.clone());
                self.inputs.push_back(Input::Filled { id, filled });
            }
            Effect::Answer { id } => {
                let filled = self.last_filled.remove(&id).unwrap_or_default();
                assert!(self.answers.insert(id, Ok(filled)).is_none(), "answered once");
            }
            Effect::Refuse { id, refused } => {
                assert!(self.answers.insert(id, Err(refused.code)).is_none(), "answered once");
            }
            Effect::Pull { .. } => self.pulls.push_back(effect),
            Effect::Deliver { records, place, .. } => {
                let bytes = self.delivered.last().map_or(0, |(_, _, total)| *total);
                self.delivered.push((place as u64, records, bytes));
            }
            Effect::Dismiss { partition, refused, .. } => self.dismissed.push((partition.partition, refused.code)),
        }
    }

    fn count(&self, fetch: &wire::Fetch) -> Filled {
        let mut filled = Filled::default();
        for want in &fetch.partitions {
            match standing(want, Eyes(&self.parts, &self.looked).see(want)) {
                Standing::Refused(_) => filled.refused = true,
                Standing::AtEnd(seen) | Standing::Ahead(seen) => filled.seen.push(seen),
                Standing::Behind(seen) => {
                    filled.seen.push(seen);
                    for (start, end, bytes) in self.parts[want.partition as usize].from(want.offset) {
                        filled.records += end - start;
                        filled.bytes += bytes;
                    }
                }
            }
        }
        filled
    }

    /// Reads for the oldest pull.
    fn pull(&mut self) {
        let Some(Effect::Pull { subscription, place, partition, records, bytes }) = self.pulls.pop_front() else {
            return;
        };
        let part = &self.parts[partition.partition as usize];
        let pulled = if part.moved {
            Pulled::Refused(Refused::new(Code::NotLeader, "moved"))
        } else {
            let (mut taken, mut size) = (0, 0);
            let mut too_large = None;
            for (start, end, len) in part.from(partition.offset) {
                if taken == records {
                    break;
                }
                if size + len > bytes {
                    too_large = (size == 0).then_some(len);
                    break;
                }
                size += len;
                taken = (taken + end - start).min(records);
            }
            match too_large {
                Some(bytes) => Pulled::TooLarge { bytes },
                None if taken == 0 => Pulled::Nothing,
                None => Pulled::Batches { records: taken, bytes: size },
            }
        };
        self.put(Input::Pulled { subscription, place, pulled });
    }

    fn sleep(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        while self.machine.next_deadline().is_some_and(|at| at <= self.now) {
            self.put(Input::Deadline);
        }
    }

    /// What the rule forbids at the end of a step.
    fn check(&self) {
        let mut waiters = 0;
        for (id, (fetch, deadline)) in &self.fetches {
            let filled = self.count(fetch);
            let enough = filled.bytes >= u64::from(fetch.bytes_min.max(1))
                && filled.records >= u64::from(fetch.records_min.max(1));
            match self.answers.get(id) {
                Some(_) => assert!(!self.machine.fetches.contains_key(id)),
                None => {
                    assert!(!enough, "fetch {id} sleeps over {filled:?}");
                    assert!(self.now < *deadline, "fetch {id} sleeps over its deadline");
                    assert!(!filled.refused, "fetch {id} sleeps over a refusal");
                    waiters += fetch.partitions.len();
                }
            }
        }
        let parked: usize = self.parts.iter().map(|part| part.waiters.len()).sum();
        assert_eq!(parked, self.machine.tokens().len(), "partitions and session know the same waiters");
        assert!(self.machine.subscriptions.is_empty() && parked == waiters || !self.machine.subscriptions.is_empty());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append { partition: usize, records: u64, bytes: u64 },
    Fetch { wait: u32, bytes_min: u32, records_min: u32, partitions: u32, behind: u64 },
    Sleep(u64),
    Move(usize),
    LinkEnded,
}

const PARTITIONS: usize = 5;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..PARTITIONS, 1..20_u64, 1..400_u64)
            .prop_map(|(partition, records, bytes)| Step::Append { partition, records, bytes }),
        3 => (0..200_u32, 0..2000_u32, 0..60_u32, 1..=u32::try_from(PARTITIONS).unwrap(), 0..30_u64).prop_map(
            |(wait, bytes_min, records_min, partitions, behind)| Step::Fetch { wait, bytes_min, records_min, partitions, behind }
        ),
        2 => (1..60_u64).prop_map(Step::Sleep),
        1 => (0..PARTITIONS).prop_map(Step::Move),
        1 => Just(Step::LinkEnded),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..Default::default() })]

    #[test]
    fn a_fetch_is_answered_in_the_step_in_which_it_can_be_and_never_early(steps in steps()) {
        let mut world = World::new(PARTITIONS);
        let mut id = 0;
        for step in steps {
            let mut excused = false;
            match step {
                Step::Append { partition, records, bytes } => {
                    world.append(partition, records, bytes);
                    world.settle();
                }
                Step::Fetch { wait, bytes_min, records_min, partitions, behind } => {
                    id += 1;
                    excused = wait == 0;
                    let partitions = (0..partitions)
                        .map(|p| want(p, world.parts[p as usize].high_watermark().saturating_sub(behind)))
                        .collect();
                    world.fetch(id, wire::Fetch { wait_ms_max: wait, bytes_min, records_min, bytes_max: 0, partitions });
                }
                Step::Sleep(ms) => {
                    world.sleep(ms);
                    excused = true;
                }
                Step::Move(partition) => {
                    world.move_leader(partition);
                    world.settle();
                    excused = true;
                }
                Step::LinkEnded => {
                    world.put(Input::LinkEnded { link: 1 });
                    excused = true;
                }
            }
            world.check();
            let answered: Vec<u64> = world.fetches.keys().filter(|id| world.answers.contains_key(id)).copied().collect();
            for id in answered {
                let (fetch, _) = world.fetches.remove(&id).unwrap();
                let filled = world.answers[&id].as_ref().unwrap();
                let enough = filled.bytes >= u64::from(fetch.bytes_min.max(1))
                    && filled.records >= u64::from(fetch.records_min.max(1));
                prop_assert!(enough || excused || filled.refused, "fetch {} answered early with {:?}", id, filled);
            }
        }
        world.sleep(60_000);
        prop_assert!(world.machine.fetches.is_empty() && world.machine.tokens().is_empty());
        prop_assert_eq!(world.machine.partitions, 0);
        prop_assert_eq!(world.machine.next_deadline(), None);
    }

    #[test]
    fn a_subscription_gets_each_record_once_in_order_within_its_credit(
        appends in prop::collection::vec((0..3_usize, 1..30_u64, 1..500_u64), 1..40),
        grants in prop::collection::vec((1..40_u32, 400..3000_u32), 1..60),
        cold: bool,
    ) {
        let mut world = World::new(3);
        let partitions = (0..3).map(|p| want(p, 0)).collect();
        world.put(Input::Subscribe { link: 4, id: 1, subscribe: wire::Subscribe { partitions, records: 0, bytes: 0 } });
        prop_assert!(world.pulls.is_empty(), "nothing is read without credit");
        let (mut granted, mut taken) = (0_u64, 0_u64);
        let total: u64 = appends.iter().map(|(_, records, _)| records).sum();
        let rounds = appends.len().max(grants.len());
        for i in 0..rounds {
            if let Some((partition, records, bytes)) = appends.get(i) {
                world.append(*partition, *records, *bytes);
                world.settle();
            }
            if let Some((records, bytes)) = grants.get(i) {
                granted += u64::from(*records);
                world.put(Input::Grant { link: 4, records: *records, bytes: *bytes });
            }
            while !world.pulls.is_empty() {
                world.pull();
                if cold {
                    break;
                }
            }
            taken += world.delivered.drain(..).map(|(_, records, _)| records).sum::<u64>();
            prop_assert!(taken <= granted);
        }
        // With all the credit in the world the rest comes too.
        world.put(Input::Grant { link: 4, records: u32::MAX, bytes: u32::MAX });
        while !world.pulls.is_empty() {
            world.pull();
            world.put(Input::Written { link: 4, bytes: u64::MAX });
        }
        taken += world.delivered.drain(..).map(|(_, records, _)| records).sum::<u64>();
        prop_assert_eq!(taken, total);
        world.put(Input::Unsubscribe { link: 4, partitions: Vec::new() });
        prop_assert!(world.machine.subscriptions.is_empty() && world.machine.tokens().is_empty());
        prop_assert_eq!(world.machine.partitions, 0);
    }
}

fn long_poll(bytes_min: u32, partitions: u32) -> wire::Fetch {
    let partitions = (0..partitions).map(|p| want(p, 0)).collect();
    wire::Fetch { wait_ms_max: 30_000, bytes_min, partitions, ..wire::Fetch::default() }
}

#[test]
fn one_record_wakes_who_waits_for_any() {
    let mut world = World::new(12);
    for id in 0..100 {
        world.fetch(id, long_poll(1, 12));
    }
    assert_eq!(world.machine.tokens().len(), 1200);
    world.append(3, 1, 70);
    world.settle();
    assert_eq!(world.answers.len(), 100);
    assert!(world.machine.tokens().is_empty(), "the other eleven forget it");
}

#[test]
fn a_wait_for_many_bytes_costs_few_messages() {
    let mut world = World::new(100);
    world.fetch(1, long_poll(1_000_000, 100));
    let mut appends = 0;
    while world.answers.is_empty() {
        world.append(appends % 100, 1, 100);
        world.settle();
        appends += 1;
    }
    assert_eq!(appends, 10_000, "neither early nor late");
    // 2n·log2(R/n) = 200 · 13.3; the first parks and the small rounds at the end on top.
    assert!(world.parks < 4_000, "{} parks", world.parks);
}

#[test]
fn a_deadline_answers_with_what_is_there() {
    let mut world = World::new(2);
    world.fetch(1, long_poll(1000, 2));
    world.append(1, 2, 300);
    world.settle();
    world.sleep(29_999);
    assert!(world.answers.is_empty());
    world.sleep(1);
    let filled = world.answers[&1].as_ref().unwrap();
    assert_eq!((filled.records, filled.bytes), (2, 300));
}

#[test]
fn what_a_reader_is_told_by_where_it_stands() {
    let marks = Seen {
        log_start: 10,
        high_watermark: 20,
        bytes: 0,
        epoch: 3,
        leading: true,
        ready: true,
        leader: Some(NodeId(1)),
    };
    let told = |offset, seen: Seen, from_follower| {
        let want = FetchPartition { from_follower, ..want(0, offset) };
        match standing(&want, Ok(seen)) {
            Standing::Refused(refused) => format!("{:?}", refused.code),
            Standing::Behind(_) => "behind".into(),
            Standing::AtEnd(_) => "at end".into(),
            Standing::Ahead(_) => "ahead".into(),
        }
    };
    let follower = Seen { leading: false, ..marks };
    let elected = Seen { ready: false, ..marks };
    let opened_again = Seen { ready: false, ..follower };
    let table: Vec<_> = [9, 10, 19, 20, 21]
        .into_iter()
        .map(|offset| {
            [
                told(offset, marks, false),
                told(offset, follower, false),
                told(offset, follower, true),
                told(offset, elected, false),
                told(offset, opened_again, true),
            ]
        })
        .collect();
    assert_eq!(
        table,
        [
            ["OffsetOutOfRange", "NotLeader", "OffsetOutOfRange", "NotReady", "NotReady"],
            ["behind", "NotLeader", "behind", "NotReady", "NotReady"],
            ["behind", "NotLeader", "behind", "NotReady", "NotReady"],
            ["at end", "NotLeader", "at end", "NotReady", "NotReady"],
            ["NotReady", "NotLeader", "ahead", "NotReady", "NotReady"],
        ]
    );
}

#[test]
fn a_partition_that_moves_leaves_its_subscription_and_the_others_go_on() {
    let mut world = World::new(2);
    let subscribe = wire::Subscribe { partitions: vec![want(0, 0), want(1, 0)], records: 100, bytes: 10_000 };
    world.put(Input::Subscribe { link: 9, id: 1, subscribe });
    world.move_leader(0);
    world.settle();
    assert_eq!(world.dismissed, [(0, Code::NotLeader)]);
    world.append(1, 3, 30);
    world.settle();
    world.pull();
    assert_eq!(world.delivered.len(), 1);
}

#[test]
fn too_many_partitions_are_refused_and_the_session_lives() {
    let mut world = World::new(1);
    let many = wire::Fetch { partitions: vec![want(0, 0); 10_001], wait_ms_max: 1000, ..wire::Fetch::default() };
    world.fetch(1, many);
    assert_eq!(world.answers[&1], Err(Code::Overloaded));
    world.fetches.remove(&1);
    world.fetch(2, long_poll(1, 1));
    world.append(0, 1, 10);
    world.settle();
    assert!(world.answers[&2].is_ok());
}

#[test]
fn a_draining_node_sends_who_waits_away() {
    let mut world = World::new(1);
    world.fetch(1, long_poll(1, 1));
    world.put(Input::Drain);
    world.fetch(2, long_poll(1, 1));
    assert_eq!(world.answers[&1], Err(Code::ShuttingDown));
    assert_eq!(world.answers[&2], Err(Code::ShuttingDown));
    assert!(world.machine.tokens().is_empty() && world.machine.next_deadline().is_none());
}

#[test]
fn a_fetch_that_reads_while_the_node_begins_to_drain_does_not_wait_afterwards() {
    let mut world = World::new(1);
    world.append(0, 1, 10);
    let fetch = long_poll(1_000, 1);
    world.fetches.insert(1, (fetch.clone(), world.now));
    // What it reads is there only behind the drain.
    world.inputs.extend([Input::Fetch { link: 1, id: 1, fetch }, Input::Drain]);
    world.settle();
    assert!(matches!(world.answers[&1], Ok(Filled { bytes: 10, .. })), "{:?}", world.answers);
    assert!(world.machine.tokens().is_empty() && world.machine.next_deadline().is_none());
}
