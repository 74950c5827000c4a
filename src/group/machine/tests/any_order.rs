//! Any order of joins, leaves, expiries, late reports, commits and topic changes: the invariants hold.
//!
//! Members are modelled as clients are: a client consumes what the newest answer lists, and reports what it consumes.
//! Reports and answers are delayed and overtake each other.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TOPICS: [&str; 2] = ["orders", "logs"];

#[derive(Clone, Debug)]
enum Step {
    Join { who: usize, orders: bool, logs: bool },
    Leave { who: usize },
    Expire { who: usize },
    Report { who: usize },
    DeliverReport { which: usize },
    DeliverAnswer { which: usize },
    Commit { who: usize, partition: u32, offset: u64, generation_back: u64 },
    Topics { orders: u32, logs: u32 },
    Drop { topic: usize },
    Garbage { kind: u8, body: Vec<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0usize..NAMES.len();
    prop_oneof![
        4 => (who.clone(), any::<bool>(), any::<bool>()).prop_map(|(who, orders, logs)| Step::Join { who, orders, logs }),
        1 => who.clone().prop_map(|who| Step::Leave { who }),
        1 => who.clone().prop_map(|who| Step::Expire { who }),
        6 => who.clone().prop_map(|who| Step::Report { who }),
        6 => (0usize..9).prop_map(|which| Step::DeliverReport { which }),
        6 => (0usize..9).prop_map(|which| Step::DeliverAnswer { which }),
        3 => (who, 0u32..4, 0u64..50, 0u64..3)
            .prop_map(|(who, partition, offset, generation_back)| Step::Commit { who, partition, offset, generation_back }),
        2 => (0u32..6, 0u32..4).prop_map(|(orders, logs)| Step::Topics { orders, logs }),
        1 => (0usize..2).prop_map(|topic| Step::Drop { topic }),
        1 => (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, body)| Step::Garbage { kind, body }),
    ]
}

#[derive(Clone, Debug, Default)]
struct Client {
    generation: Generation,
    consumes: BTreeSet<TopicPartition>,
    /// Joins of this name: answers to an earlier life are dropped with its connection.
    life: u64,
}

struct World {
    machine: HomeMachine,
    log: Vec<Raw>,
    clients: BTreeMap<MemberId, Client>,
    reports: Vec<(Reconciled, u64)>,
    answers: Vec<(MemberId, u64, Generation, BTreeSet<TopicPartition>)>,
    lives: u64,
    version: u64,
    /// The present ids: a topic that is made again has another.
    ids: [TopicId; 2],
}

fn name(who: usize) -> MemberId {
    NAMES[who].parse().unwrap()
}

fn g() -> GroupName {
    "g".parse().unwrap()
}

impl World {
    fn apply(&mut self, raw: Raw) -> Reply {
        let before = self.machine.clone();
        let reply = self.machine.apply(AT, &raw, &mut Vec::new());
        self.check(&before, &raw);
        self.log.push(raw);
        reply
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Join { who, orders, logs } => {
                let wanted = [*orders, *logs].into_iter().zip(TOPICS).filter(|(wants, _)| *wants);
                let topics = wanted.map(|(_, name)| name.parse().unwrap()).collect();
                let join = Join {
                    group: g(),
                    member: Some(name(*who)),
                    topics,
                    session_ms: 0,
                    kind: Kind::Offset,
                    start: None,
                };
                assert!(matches!(self.apply(Command::Join(join).encode()), Reply::Joined { .. }));
                self.lives += 1;
                let life = self.lives;
                self.clients.entry(name(*who)).or_insert(Client { life, ..Client::default() });
            }
            Step::Leave { who } => {
                self.apply(Command::Leave(Leave { group: g(), member: name(*who) }).encode());
                self.clients.remove(&name(*who));
            }
            Step::Expire { who } => {
                let member = self.machine.group(&g()).and_then(|group| group.members().get(&name(*who)).cloned());
                let session = member.map_or(0, |member| member.session);
                self.apply(Command::Expire(Expire { group: g(), member: name(*who), session }).encode());
                self.clients.remove(&name(*who));
            }
            Step::Report { who } => {
                if let Some(client) = self.clients.get(&name(*who)) {
                    let owned = client.consumes.iter().map(|partition| (*partition, self.lives)).collect();
                    let generation = client.generation;
                    self.reports.push((Reconciled { group: g(), member: name(*who), generation, owned }, client.life));
                }
            }
            Step::DeliverReport { which } if !self.reports.is_empty() => {
                let (report, life) = self.reports.remove(which % self.reports.len());
                let would_change = self.machine.would_change(&report);
                let before = self.machine.clone();
                let reply = self.apply(Command::Reconciled(report.clone()).encode());
                let refused = matches!(reply, Reply::Refused(_));
                assert_eq!(would_change, !refused && self.machine != before);
                let group = self.machine.group(&g());
                if let Some(assigned) = group.and_then(|group| group.assigned(&report.member)) {
                    let generation = group.unwrap().generation();
                    let partitions = assigned.into_iter().map(|a| a.partition).collect();
                    self.answers.push((report.member, life, generation, partitions));
                }
            }
            Step::DeliverAnswer { which } if !self.answers.is_empty() => {
                let (member, life, generation, partitions) = self.answers.remove(which % self.answers.len());
                let client = self.clients.get_mut(&member).filter(|client| client.life == life);
                if let Some(client) = client.filter(|client| generation >= client.generation) {
                    client.generation = generation;
                    client.consumes = partitions;
                }
            }
            Step::Commit { who, partition, offset, generation_back } => {
                let client = self.clients.get(&name(*who)).cloned().unwrap_or_default();
                let partition = TopicPartition { topic: self.ids[0], partition: *partition };
                let offset = CommitOffset { partition, offset: *offset, leader_epoch: 1, metadata: "m".into() };
                let generation = Generation(client.generation.0.saturating_sub(*generation_back));
                let commit = Commit { group: g(), member: Some(name(*who)), generation, n: 0, offsets: vec![offset] };
                let owned = self.machine.group(&g()).and_then(|group| group.owner(partition)) == Some(&name(*who));
                let taken = self.apply(Command::Commit(commit).encode()) == Reply::Committed { refused: Vec::new() };
                assert!(owned || !taken, "only owners commit");
                let consumes = client.consumes.contains(&partition) && *generation_back == 0;
                let known = self.machine.topics().contains_key(&partition.topic);
                assert!(taken || !consumes || !known, "who consumes can commit");
            }
            Step::Topics { orders, logs } => {
                let facts =
                    |name: &str, partitions| (topic(name), TopicFacts { name: name.parse().unwrap(), partitions });
                let set = vec![facts(TOPICS[0], *orders), facts(TOPICS[1], *logs)];
                self.version += 1;
                self.apply(
                    Command::TopicsChanged(TopicsChanged { version: self.version, set, gone: Vec::new() }).encode(),
                );
            }
            Step::Drop { topic: which } => {
                self.version += 1;
                let gone = vec![self.ids[*which]];
                self.ids[*which].0[15] += 1;
                self.apply(
                    Command::TopicsChanged(TopicsChanged { version: self.version, set: Vec::new(), gone }).encode(),
                );
            }
            Step::Garbage { kind, body } => {
                self.apply(Raw { kind: *kind, body: body.clone().into() });
            }
            Step::DeliverReport { .. } | Step::DeliverAnswer { .. } => {}
        }
        let mut consumed = BTreeSet::new();
        for (member, client) in &self.clients {
            for partition in client.consumes.iter().filter(|partition| self.ids.contains(&partition.topic)) {
                assert!(consumed.insert(*partition), "{member} and another consume {partition}");
            }
        }
    }

    /// What holds between any state and the next.
    fn check(&self, before: &HomeMachine, raw: &Raw) {
        let Some(group) = self.machine.group(&g()) else { return };
        let wants = |member: &Member, topic: TopicId| {
            self.machine.topics().get(&topic).is_some_and(|facts| member.topics.contains(&facts.name))
        };
        for (topic, facts) in self.machine.topics() {
            let wanted = group.members().values().any(|member| wants(member, *topic));
            for partition in (0..facts.partitions).map(|partition| TopicPartition { topic: *topic, partition }) {
                match group.target(partition) {
                    Some(member) => assert!(wants(&group.members()[member], *topic)),
                    None => assert!(!wanted, "{partition} is wanted and has no target"),
                }
                assert!(
                    group.target(partition).is_none() || group.owner(partition).is_some(),
                    "nobody waits for nothing"
                );
            }
        }
        let Some(earlier) = before.group(&g()) else { return };
        assert!(group.generation() >= earlier.generation());
        for (partition, owner) in &earlier.owners {
            let now = group.owners.get(partition);
            let stayed = group.members().contains_key(&owner.member);
            let topic_there = self.machine.topics().contains_key(&partition.topic);
            if stayed && topic_there && now.is_none_or(|now| now.member != owner.member) {
                assert!(
                    owner.revoked.is_some() && raw.kind == RECONCILED,
                    "{partition} was taken from {}",
                    owner.member
                );
            }
            if let Some(now) = now.filter(|now| now.member == owner.member) {
                let rejoined = [LEAVE, EXPIRE].contains(&raw.kind);
                assert!(now.granted == owner.granted || rejoined, "kept, and never paused");
            }
        }
        if ![COMMIT, START, RESET, TOPICS_CHANGED].contains(&raw.kind) {
            for partition in earlier.partitions() {
                assert_eq!(earlier.committed(partition), group.committed(partition));
            }
        }
    }

    /// Everybody reports and listens until nothing changes: then everybody has what is meant for it.
    fn settle(&mut self) {
        (self.reports, self.answers) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            for who in 0..NAMES.len() {
                self.step(&Step::Report { who });
                self.step(&Step::DeliverReport { which: 0 });
                self.step(&Step::DeliverAnswer { which: 0 });
            }
        }
        let Some(group) = self.machine.group(&g()) else { return };
        assert!(group.owners.values().all(|owner| owner.revoked.is_none()));
        let consumed =
            self.clients.iter().flat_map(|(id, client)| client.consumes.iter().map(move |p| (*p, id.clone())));
        assert_eq!(consumed.collect::<BTreeMap<_, _>>(), group.target);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn members_never_share_a_partition(steps in prop::collection::vec(step(), 1..120), cut in 0usize..200) {
        let mut world = World {
            machine: HomeMachine::default(),
            log: Vec::new(),
            clients: BTreeMap::new(),
            reports: Vec::new(),
            answers: Vec::new(),
            lives: 0,
            version: 0,
            ids: TOPICS.map(topic),
        };
        for step in &steps {
            world.step(step);
        }
        world.settle();

        let mut late = HomeMachine::default();
        for (i, raw) in world.log.iter().enumerate() {
            late.apply(AT, raw, &mut Vec::new());
            if i == cut {
                late = restored(&late);
            }
        }
        prop_assert_eq!(late.checkpoint(), world.machine.checkpoint());
        restored(&world.machine);
    }

    #[test]
    fn any_bytes_restore_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut machine = HomeMachine::default();
        for first in [None, Some(CHECKPOINT_VERSION)] {
            let bytes: Bytes = first.into_iter().chain(bytes.iter().copied()).collect::<Vec<_>>().into();
            let _ = machine.restore(&bytes);
        }
    }
}

mod shares {
    use super::*;

    type Wants = BTreeMap<MemberId, BTreeSet<TopicId>>;

    fn loads(wants: &Wants, assignment: &BTreeMap<TopicPartition, MemberId>) -> BTreeMap<MemberId, usize> {
        let load = |member: &MemberId| assignment.values().filter(|owner| *owner == member).count();
        wants.keys().map(|member| (member.clone(), load(member))).collect()
    }

    fn members(count: usize) -> impl Iterator<Item = MemberId> {
        (0..count).map(|i| format!("m{i}").parse().unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn equal_wants_are_balanced_with_the_fewest_moves(
            counts in prop::collection::vec(0u32..14, 1..4),
            before in 1usize..8,
            after in 1usize..8,
            left in 0usize..3,
        ) {
            let partitions: BTreeMap<_, _> = (1u8..).zip(&counts).map(|(i, count)| (TopicId([i; 16]), *count)).collect();
            let all: BTreeSet<_> = partitions.keys().copied().collect();
            let wants = |skip: usize, count: usize| -> Wants { members(count).skip(skip).map(|m| (m, all.clone())).collect() };
            let previous = assign(&wants(0, before), &partitions, &BTreeMap::new());
            let wanted = wants(left, left + after);
            let next = assign(&wanted, &partitions, &previous);

            let total = counts.iter().sum::<u32>() as usize;
            prop_assert_eq!(next.len(), total, "each partition exactly once");
            let loads_now = loads(&wanted, &next);
            let (least, most) = (total / wanted.len(), total.div_ceil(wanted.len()));
            prop_assert!(loads_now.values().all(|load| (least..=most).contains(load)), "{:?}", loads_now);

            let mut had: Vec<_> = loads(&wanted, &previous).into_values().collect();
            had.sort_unstable_by(|a, b| b.cmp(a));
            let fuller = total % wanted.len();
            let ceiling = |i: usize| if i < fuller { most } else { least };
            let must_move: usize = had.iter().enumerate().map(|(i, had)| had.saturating_sub(ceiling(i))).sum();
            let free = previous.values().filter(|member| !wanted.contains_key(*member)).count();
            let moved = next.iter().filter(|(partition, member)| previous.get(partition) != Some(member)).count();
            prop_assert_eq!(moved, must_move + free);
            prop_assert_eq!(&assign(&wanted, &partitions, &next), &next, "again changes nothing");
        }

        #[test]
        fn unequal_wants_leave_nothing_to_gain(
            counts in prop::collection::vec(0u32..10, 1..5),
            masks in prop::collection::vec(0u8..32, 1..7),
            masks_before in prop::collection::vec(0u8..32, 1..7),
        ) {
            let partitions: BTreeMap<_, _> = (0u8..).zip(&counts).map(|(i, count)| (TopicId([i; 16]), *count)).collect();
            let wants = |masks: &[u8]| -> Wants {
                let wanted = |mask: u8| partitions.keys().filter(move |topic| mask & (1 << topic.0[0]) != 0).copied().collect();
                members(masks.len()).zip(masks).map(|(m, mask)| (m, wanted(*mask))).collect()
            };
            let previous = assign(&wants(&masks_before), &partitions, &BTreeMap::new());
            let wanted = wants(&masks);
            let next = assign(&wanted, &partitions, &previous);
            for (topic, count) in &partitions {
                let has_takers = wanted.values().any(|topics| topics.contains(topic));
                for partition in (0..*count).map(|partition| TopicPartition { topic: *topic, partition }) {
                    prop_assert_eq!(next.contains_key(&partition), has_takers);
                }
            }
            let loads_now = loads(&wanted, &next);
            for (partition, owner) in &next {
                prop_assert!(wanted[owner].contains(&partition.topic));
                for (other, _) in wanted.iter().filter(|(_, topics)| topics.contains(&partition.topic)) {
                    prop_assert!(loads_now[other] + 2 > loads_now[owner], "{} should give {} to {}", owner, partition, other);
                }
            }
            prop_assert_eq!(&assign(&wanted, &partitions, &next), &next, "again changes nothing");
        }
    }
}
