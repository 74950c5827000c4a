//! Ownership, generations and offsets against a model that knows nothing of how partitions are shared out: it sees who
//! owns what, as members do, and from that alone says what each commit, start, reset and delete must do.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const NAMES: [&str; 3] = ["a", "b", "c"];
const PARTITIONS: u32 = 4;

#[derive(Clone, Debug)]
enum Step {
    Join {
        who: usize,
    },
    Leave {
        who: usize,
    },
    Expire {
        who: usize,
    },
    /// Gives up what it was told to, if it `knows` of it.
    Report {
        who: usize,
        knows: bool,
    },
    Commit {
        who: Option<usize>,
        partition: u32,
        offset: u64,
        back: u64,
        n: u64,
    },
    Start {
        who: usize,
        partition: u32,
        offset: u64,
        back: u64,
    },
    Reset {
        partition: u32,
        offset: u64,
    },
    Delete,
    /// The topic goes; one of the same name comes.
    Again,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let (who, partition, offset) = (0..NAMES.len(), 0..PARTITIONS + 1, 0u64..40);
    let back = prop_oneof![4 => Just(0u64), 1 => 1u64..4];
    let n = prop_oneof![1 => Just(0u64), 3 => 1u64..9];
    let member = prop_oneof![9 => who.clone().prop_map(Some), 1 => Just(None)];
    prop_oneof![
        4 => who.clone().prop_map(|who| Step::Join { who }),
        1 => who.clone().prop_map(|who| Step::Leave { who }),
        1 => who.clone().prop_map(|who| Step::Expire { who }),
        6 => (who.clone(), prop::bool::weighted(0.8)).prop_map(|(who, knows)| Step::Report { who, knows }),
        8 => (member, partition.clone(), offset.clone(), back.clone(), n)
            .prop_map(|(who, partition, offset, back, n)| Step::Commit { who, partition, offset, back, n }),
        3 => (who, partition.clone(), offset.clone(), back)
            .prop_map(|(who, partition, offset, back)| Step::Start { who, partition, offset, back }),
        1 => (partition, offset).prop_map(|(partition, offset)| Step::Reset { partition, offset }),
        1 => Just(Step::Delete),
        1 => Just(Step::Again),
        1 => Just(Step::Restart),
    ]
}

#[derive(Default)]
struct Model {
    /// Owner of each partition, and the generation of the group when it became that.
    owners: BTreeMap<u32, (MemberId, Generation)>,
    committed: BTreeMap<u32, u64>,
    /// The last commit of each member, by its count.
    counted: BTreeMap<MemberId, u64>,
    generation: Generation,
}

struct World {
    machine: HomeMachine,
    model: Model,
    topic: TopicId,
    version: u64,
}

fn g() -> GroupName {
    "g".parse().unwrap()
}

fn name(who: usize) -> MemberId {
    NAMES[who].parse().unwrap()
}

impl World {
    fn new() -> Self {
        let mut world =
            Self { machine: HomeMachine::default(), model: Model::default(), topic: topic("orders"), version: 0 };
        world.announce(Vec::new());
        world
    }

    fn announce(&mut self, gone: Vec<TopicId>) {
        self.version += 1;
        let facts = TopicFacts { name: "orders".parse().unwrap(), partitions: PARTITIONS };
        let set = vec![(self.topic, facts)];
        self.apply(Command::TopicsChanged(TopicsChanged { version: self.version, set, gone }));
    }

    fn at(&self, partition: u32) -> TopicPartition {
        TopicPartition { topic: self.topic, partition }
    }

    fn apply(&mut self, command: Command) -> Reply {
        let held = |machine: &HomeMachine| {
            let group = machine.group(&g());
            let of = |who: &usize| Some((name(*who), group?.assigned(&name(*who))?));
            (0..NAMES.len())
                .filter_map(|who| of(&who))
                .map(|(who, all)| {
                    let all: Vec<_> = all.into_iter().map(|a| (a.partition, a.granted)).collect();
                    (who, all)
                })
                .collect::<BTreeMap<_, _>>()
        };
        let (before, known) = (held(&self.machine), self.model.generation);
        let reply = self.machine.apply(AT, &command.encode(), &mut Vec::new());
        let after = held(&self.machine);
        let Some(group) = self.machine.group(&g()) else { return reply };
        assert!(group.generation() >= known, "generations rise, also over a group's end");
        self.model.generation = group.generation();
        for (who, now) in &after {
            // Whose assignment is another one is told, whatever generation it knew; and generations tell them apart.
            if before.get(who) != Some(now) {
                assert_eq!(group.is_news(who, known), Some(true), "{who} is not told: {before:?} to {after:?}");
            }
        }
        for partition in 0..PARTITIONS {
            let place = TopicPartition { topic: self.topic, partition };
            let owner = group.owner(place).cloned();
            let was = self.model.owners.get(&partition);
            match owner {
                None => drop(self.model.owners.remove(&partition)),
                Some(owner) if was.is_none_or(|was| was.0 != owner) => {
                    assert!(group.generation() > known, "a new owner is a new generation");
                    self.model.owners.insert(partition, (owner, group.generation()));
                }
                // Left and joined again in one step: a new ownership of the same member.
                Some(owner) => {
                    let granted = after[&owner].iter().find(|(at, _)| *at == place).map(|(_, granted)| *granted);
                    if let (Some(granted), Some(was)) = (granted, self.model.owners.get_mut(&partition)) {
                        assert!(granted >= was.1);
                        was.1 = granted;
                    }
                }
            }
        }
        reply
    }

    fn generation(&self, back: u64) -> Generation {
        Generation(self.model.generation.0.saturating_sub(back))
    }

    fn may_commit(&self, who: &MemberId, partition: u32, generation: Generation) -> bool {
        self.model.owners.get(&partition).is_some_and(|(owner, granted)| owner == who && generation >= *granted)
    }

    fn has_members(&self) -> bool {
        self.machine.group(&g()).is_some_and(|group| !group.members().is_empty())
    }

    fn is_member(&self, who: &MemberId) -> bool {
        self.machine.group(&g()).is_some_and(|group| group.members().contains_key(who))
    }

    fn gone(&mut self, who: &MemberId) {
        self.model.owners.retain(|_, (owner, _)| owner != who);
        self.model.counted.remove(who);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Join { who } => {
                let join = Join {
                    group: g(),
                    member: Some(name(who)),
                    topics: vec!["orders".parse().unwrap()],
                    session_ms: 0,
                    kind: Kind::Offset,
                    start: Some(Position::Earliest),
                };
                assert!(matches!(self.apply(Command::Join(join)), Reply::Joined { .. }));
            }
            Step::Leave { who } => {
                if self.is_member(&name(who)) {
                    self.gone(&name(who));
                }
                self.apply(Command::Leave(Leave { group: g(), member: name(who) }));
            }
            Step::Expire { who } => {
                let session =
                    self.machine.group(&g()).and_then(|group| group.members().get(&name(who))).map(|m| m.session);
                if let Some(session) = session {
                    self.gone(&name(who));
                    self.apply(Command::Expire(Expire { group: g(), member: name(who), session }));
                }
            }
            Step::Report { who, knows } => {
                let generation = self.generation(u64::from(!knows));
                let assigned = self.machine.group(&g()).and_then(|group| group.assigned(&name(who)));
                let owned = assigned.into_iter().flatten().map(|a| (a.partition, 0)).collect();
                self.apply(Command::Reconciled(Reconciled { group: g(), member: name(who), generation, owned }));
            }
            Step::Commit { who, partition, offset, back, n } => self.commit(who.map(name), partition, offset, back, n),
            Step::Start { who, partition, offset, back } => {
                let (member, generation) = (name(who), self.generation(back));
                let may = self.is_member(&member) && self.may_commit(&member, partition, generation);
                let offsets = vec![(self.at(partition), offset)];
                let reply = self.apply(Command::Start(Start { group: g(), member, generation, offsets }));
                if may {
                    let starts = *self.model.committed.entry(partition).or_insert(offset);
                    assert_eq!(reply, Reply::Started { offsets: vec![(self.at(partition), starts)] });
                } else {
                    let nothing = Reply::Started { offsets: Vec::new() };
                    assert!(reply == nothing || matches!(reply, Reply::Refused(_)), "{reply:?}");
                }
            }
            Step::Reset { partition, offset } => {
                let free = self.machine.group(&g()).is_some() && !self.has_members() && partition < PARTITIONS;
                let offsets = vec![CommitOffset {
                    partition: self.at(partition),
                    offset,
                    leader_epoch: 1,
                    metadata: String::new(),
                }];
                let reply = self.apply(Command::Reset(Reset { group: g(), offsets }));
                assert_eq!(reply == Reply::Reset, free, "{reply:?}");
                if free {
                    self.model.committed.insert(partition, offset);
                }
            }
            Step::Delete => {
                let free = self.machine.group(&g()).is_some() && !self.has_members();
                assert_eq!(self.apply(Command::Delete(Delete { group: g() })) == Reply::Deleted, free);
                if free {
                    self.model.committed.clear();
                }
            }
            Step::Again => {
                let gone = self.topic;
                self.topic.0[15] += 1;
                self.model.owners.clear();
                self.model.committed.clear();
                // What appears while somebody wants it starts at 0.
                let wanted = self.has_members();
                self.announce(vec![gone]);
                if wanted {
                    self.model.committed = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
                }
            }
            Step::Restart => self.machine = restored(&self.machine),
        }
        let committed = |partition: &u32| {
            let group = self.machine.group(&g())?;
            group.committed(self.at(*partition)).map(|committed| (*partition, committed.offset))
        };
        let committed: BTreeMap<u32, u64> = (0..PARTITIONS).filter_map(|partition| committed(&partition)).collect();
        assert_eq!(committed, self.model.committed);
    }

    fn commit(&mut self, member: Option<MemberId>, partition: u32, offset: u64, back: u64, n: u64) {
        let generation = self.generation(back);
        let last = member.as_ref().and_then(|who| self.model.counted.get(who)).copied().unwrap_or(0);
        let heard = match &member {
            Some(who) => self.is_member(who) && !(n > 0 && n < last),
            None => !self.has_members(),
        };
        let known = partition < PARTITIONS;
        let may = heard && known && member.as_ref().is_none_or(|who| self.may_commit(who, partition, generation));
        let offsets =
            vec![CommitOffset { partition: self.at(partition), offset, leader_epoch: 1, metadata: String::new() }];
        let commit = Commit { group: g(), member: member.clone(), generation, n, offsets };
        let reply = self.apply(Command::Commit(commit));
        match reply {
            Reply::Committed { refused } => assert_eq!((heard, may), (true, refused.is_empty()), "{refused:?}"),
            Reply::Refused(refusal) => assert!(!heard, "{refusal}"),
            other => panic!("{other:?}"),
        }
        if let Some(who) = member.filter(|_| heard) {
            self.model.counted.insert(who, n.max(last));
        }
        if may {
            self.model.committed.insert(partition, offset);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..Default::default() })]

    #[test]
    fn offsets_change_by_their_owner_alone(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
    }
}
