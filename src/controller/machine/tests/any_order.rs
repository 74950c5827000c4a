//! Any order of lost replicas, late reports and topics: ids are unique, quorums never shrink, all heals that can.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Register {
        node: u32,
        directory: u64,
    },
    Create {
        name: u8,
        partitions: u32,
        copies: u32,
    },
    Alter {
        name: u8,
        partitions: u32,
    },
    Delete {
        name: u8,
    },
    Faulty {
        group: usize,
        replica: usize,
    },
    CaughtUp {
        group: usize,
        replica: usize,
    },
    /// The group's leader sets the voters that are wanted, and reports them, or is gone before.
    Swap {
        group: usize,
        told: bool,
    },
    /// A report of voters that Raft had before.
    OldReport {
        which: usize,
    },
    Block,
    Garbage {
        kind: u8,
        body: Vec<u8>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (group, replica) = (0usize..40, 0usize..5);
    prop_oneof![
        2 => (1u32..6, 0u64..3).prop_map(|(node, directory)| Step::Register { node, directory }),
        3 => (0u8..4, 0u32..4, 0u32..5).prop_map(|(name, partitions, copies)| Step::Create { name, partitions, copies }),
        1 => (0u8..4, 0u32..6).prop_map(|(name, partitions)| Step::Alter { name, partitions }),
        1 => (0u8..4).prop_map(|name| Step::Delete { name }),
        2 => (group.clone(), replica.clone()).prop_map(|(group, replica)| Step::Faulty { group, replica }),
        6 => (group.clone(), replica).prop_map(|(group, replica)| Step::CaughtUp { group, replica }),
        8 => (group, prop::bool::weighted(0.7)).prop_map(|(group, told)| Step::Swap { group, told }),
        1 => (0usize..9).prop_map(|which| Step::OldReport { which }),
        1 => Just(Step::Block),
        1 => (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, body)| Step::Garbage { kind, body }),
    ]
}

#[derive(Default)]
struct World {
    machine: ControllerMachine,
    log: Vec<Raw>,
    /// What Raft has.
    voters: BTreeMap<GroupId, BTreeSet<ReplicaId>>,
    reports: Vec<Swapped>,
    /// Every replica ever, and where.
    seen: BTreeMap<ReplicaId, (GroupId, NodeId)>,
    /// Sound replicas that Raft had as voters.
    topics: u8,
    blocks: BTreeSet<i64>,
}

impl World {
    fn apply(&mut self, command: Command) -> Reply {
        self.apply_raw(command.encode())
    }

    fn apply_raw(&mut self, raw: Raw) -> Reply {
        let before = self.machine.metadata();
        let reply = self.machine.apply(AT, &raw, &mut Vec::new());
        let after = self.machine.metadata();
        assert_eq!(before.version == after.version, before == after, "equal versions are equal metadata");
        assert!(before.version <= after.version);
        self.log.push(raw);
        for (group, placement) in &after.groups {
            self.voters.entry(*group).or_insert_with(|| placement.founders.keys().copied().collect());
            let mut alive = BTreeSet::new();
            for replica in &placement.replicas {
                let first = *self.seen.entry(replica.id).or_insert((*group, replica.node));
                assert_eq!(first, (*group, replica.node), "a replica id is one replica of one group");
                let new = before.groups.get(group).is_none_or(|g| g.replica(replica.id).is_none());
                assert!(!new || self.seen.keys().next_back() >= Some(&replica.id));
                if replica.state != ReplicaState::Dying {
                    assert!(alive.insert(replica.node), "two replicas of {group} on node {}", replica.node);
                }
            }
            for replica in before.groups.get(group).into_iter().flat_map(|g| &g.replicas) {
                let now = placement.replica(replica.id).map(|r| r.state);
                let dead = replica.state == ReplicaState::Dying;
                let is_back = || {
                    let directory = after.nodes.get(&replica.node).and_then(|node| node.directory);
                    now == Some(ReplicaState::Voter) && replica.left_in.is_some() && replica.left_in == directory
                };
                let stays = matches!(now, None | Some(ReplicaState::Dying));
                assert!(!dead || stays || is_back(), "the dead stay dead, but for those in a directory that is back");
            }
        }
        reply
    }

    fn group(&self, which: usize) -> Option<(GroupId, Placement)> {
        let metadata = self.machine.metadata();
        let of = which % metadata.groups.len().max(1);
        metadata.groups.iter().nth(of).map(|(id, placement)| (*id, placement.clone()))
    }

    /// One step of a group's leader. `false`: it has no quorum.
    fn swap(&mut self, group: GroupId, placement: &Placement, told: bool) -> bool {
        let actual = self.voters[&group].clone();
        let votes = |id: &&ReplicaId| {
            placement.replica(**id).is_some_and(|r| matches!(r.state, ReplicaState::Voter | ReplicaState::Ready))
        };
        let sound = actual.iter().filter(votes).count();
        if sound * 2 <= actual.len() {
            return false;
        }
        let wanted = placement.voters_wanted(&actual);
        assert_eq!(wanted.len(), placement.founders.len(), "as many voters as ever");
        assert!(
            wanted.iter().filter(votes).count() * 2 > wanted.len(),
            "a change never leads to the loss of the quorum"
        );
        self.voters.insert(group, wanted.clone());
        self.reports.push(Swapped { group, voters: wanted.clone() });
        if told {
            self.apply(Command::Swapped(Swapped { group, voters: wanted }));
        }
        true
    }

    fn step(&mut self, step: &Step) {
        let name = |name: &u8| -> TopicName { format!("topic-{name}").parse().unwrap() };
        match step {
            Step::Register { node, directory } => {
                let (node, directory) = (NodeId(*node), DirectoryId(*directory));
                let reply = self.apply(Command::RegisterNode(RegisterNode {
                    node,
                    directory,
                    addresses: Addresses::default(),
                }));
                let Reply::Registered { controller, .. } = reply else { panic!("{reply:?}") };
                assert_eq!(self.seen[&controller], (GroupId(0), node));
                let placement = &self.machine.metadata().groups[&GroupId(0)];
                assert_ne!(
                    placement.replica(controller).unwrap().state,
                    ReplicaState::Dying,
                    "nobody gets what is lost"
                );
            }
            Step::Create { name: which, partitions, copies } => {
                self.topics += 1;
                let id = TopicId([self.topics; 16]);
                let (partitions, replication_factor) = (*partitions, *copies);
                let (settings, avoid) = (Vec::new(), BTreeSet::from([NodeId(1)]));
                self.apply(Command::CreateTopic(CreateTopic {
                    name: name(which),
                    id,
                    partitions,
                    replication_factor,
                    settings,
                    avoid,
                }));
            }
            Step::Alter { name: which, partitions } => {
                let (partitions, settings, avoid) = (*partitions, Vec::new(), BTreeSet::new());
                self.apply(Command::AlterTopic(AlterTopic { name: name(which), settings, partitions, avoid }));
            }
            Step::Delete { name: which } => {
                self.apply(Command::DeleteTopic(DeleteTopic { name: name(which), id: None }));
            }
            Step::Faulty { group, replica } => {
                if let Some((group, placement)) = self.group(*group) {
                    let replica = placement.replicas[replica % placement.replicas.len()].id;
                    self.apply(Command::ReplicaFaulty(ReplicaFaulty { group, replica }));
                }
            }
            Step::CaughtUp { group, replica } => {
                if let Some((group, placement)) = self.group(*group) {
                    let replica = placement.replicas[replica % placement.replicas.len()].id;
                    self.apply(Command::ReplicaCaughtUp(ReplicaCaughtUp { group, replica }));
                }
            }
            Step::Swap { group, told } => {
                if let Some((group, placement)) = self.group(*group) {
                    self.swap(group, &placement, *told);
                }
            }
            Step::OldReport { which } => {
                if let Some(report) = self.reports.get(which % self.reports.len().max(1)).cloned() {
                    self.apply(Command::Swapped(report));
                }
            }
            Step::Block => match self.apply(Command::TakeProducerBlock(TakeProducerBlock { node: NodeId(1) })) {
                Reply::ProducerBlock { first, .. } => assert!(first.0 >= 0 && self.blocks.insert(first.0)),
                other => panic!("{other:?}"),
            },
            Step::Garbage { kind, body } => {
                self.apply_raw(Raw { kind: *kind, body: body.clone().into() });
            }
        }
    }

    /// Leaders do all that is to be done: what has a quorum is whole again.
    fn heal(&mut self) {
        let groups: Vec<_> = self.machine.metadata().groups.keys().copied().collect();
        for group in groups {
            let mut quorum = true;
            // A report may show that a majority which seemed lost is not: its successors begin then.
            for _ in 0..2 {
                let placement = self.machine.metadata().groups[&group].clone();
                for replica in placement.replicas.iter().filter(|r| r.state == ReplicaState::Learner) {
                    self.apply(Command::ReplicaCaughtUp(ReplicaCaughtUp { group, replica: replica.id }));
                }
                let placement = self.machine.metadata().groups[&group].clone();
                quorum &= self.swap(group, &placement, true);
            }
            let healed = self.machine.metadata().groups[&group].clone();
            let whole = healed.replicas.iter().all(|r| matches!(r.state, ReplicaState::Voter | ReplicaState::Observer));
            assert!(whole || !quorum, "{healed:?}");
            let voters: BTreeSet<_> =
                healed.replicas.iter().filter(|r| r.state == ReplicaState::Voter).map(|r| r.id).collect();
            assert!(!quorum || voters == self.voters[&group]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_lost_is_replaced_and_quorums_stay(steps in prop::collection::vec(step(), 1..80), cut in 0usize..80) {
        let mut world = World::default();
        world.apply(bootstrap(&[1, 2, 3], 2));
        for step in &steps {
            world.step(step);
        }
        world.heal();
        let mut late = ControllerMachine::default();
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
        let mut machine = ControllerMachine::default();
        for first in [None, Some(CHECKPOINT_VERSION)] {
            let bytes: Bytes = first.into_iter().chain(bytes.iter().copied()).collect::<Vec<_>>().into();
            let _ = machine.restore(&bytes);
        }
    }
}
