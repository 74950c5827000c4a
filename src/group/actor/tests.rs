//! What a home says of topics, and when.

use super::*;
use crate::{
    client::NewTopic,
    group::machine::TopicFacts,
    replica::Leaders,
    testing::TestCluster,
    types::{NodeId, Position, TopicId},
};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::watch;

/// A cluster that does not change.
#[derive(Default)]
struct Around {
    leaders: Leaders,
    version: u64,
    topics: BTreeMap<TopicId, TopicFacts>,
    /// How often it was asked for topics: once for each proposal.
    asked: AtomicUsize,
}

impl Surroundings for Around {
    fn node(&self) -> NodeId {
        NodeId(1)
    }

    fn homes(&self) -> u64 {
        1
    }

    fn leaders(&self) -> &Leaders {
        &self.leaders
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn topics(&self) -> (u64, BTreeMap<TopicId, TopicFacts>) {
        self.asked.fetch_add(1, Relaxed);
        (self.version, self.topics.clone())
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::channel(self.version).1
    }
}

/// A home that has applied nothing, and leads.
struct World {
    around: Arc<Around>,
    home: HomeDomain,
    machine: HomeMachine,
    status: Status,
    term: Term,
}

impl World {
    fn new(around: Around) -> Self {
        let around = Arc::new(around);
        let mut home = HomeDomain::new(around.clone(), Metrics::new(NodeId(1)));
        let machine = HomeMachine::default();
        let status = Status { leading: true, ready: true, ..Status::default() };
        let term = home.promoted(&machine, &status, &mut Outbox::default());
        Self { around, home, machine, status, term }
    }

    fn settle(&mut self, after: Duration) {
        let Self { home, machine, status, term, .. } = self;
        home.settle(Some(term), machine, status, Instant::now() + after, &mut Outbox::default());
    }

    fn proposals(&self) -> usize {
        self.around.asked.load(Relaxed)
    }
}

fn orders() -> BTreeMap<TopicId, TopicFacts> {
    [(TopicId([1; 16]), TopicFacts { name: "orders".parse().unwrap(), partitions: 4 })].into()
}

#[test]
fn topics_are_proposed_again_when_a_proposal_came_to_nothing() {
    for outcome in [Outcome::NoQuorum, Outcome::Unknown] {
        let mut world = World::new(Around { version: 3, topics: orders(), ..Around::default() });
        assert_eq!(world.proposals(), 1);
        world.settle(PROPOSE_AGAIN);
        assert_eq!(world.proposals(), 1, "it is under way");
        world.home.answer(Slot::Topics, outcome, &world.machine, &world.status);
        world.settle(Duration::ZERO);
        assert_eq!(world.proposals(), 1, "who can decide nothing now would be asked without end");
        world.settle(PROPOSE_AGAIN);
        assert_eq!(world.proposals(), 2);
        world.settle(PROPOSE_AGAIN);
        assert_eq!(world.proposals(), 2, "it is under way again");
    }
}

#[test]
fn a_home_is_told_of_a_cluster_without_topics_and_not_before_there_is_a_cluster() {
    let proposed = |version| World::new(Around { version, ..Around::default() }).term.topics_proposed;
    assert_eq!((proposed(0), proposed(5)), (0, 5));
}

/// Its members find nothing yet, and want all that comes.
#[test]
fn a_group_that_was_there_before_the_first_topic_starts_at_its_beginning() {
    TestCluster::builder().nodes(1).seed(3).run(|cluster| async move {
        let node = cluster.node(NodeId(1)).unwrap();
        let group: GroupName = "readers".parse().unwrap();
        let join = wire::Join {
            group: group.clone(),
            member: None,
            topics: vec!["orders".parse().unwrap()],
            session_ms: 6_000,
            kind: wire::GroupKind::Offset,
            start: Some(Position::Latest),
        };
        let joined = loop {
            match node.groups().join(join.clone()).await {
                Ok(joined) => break joined,
                Err(refused) => assert!(refused.code.is_retriable(), "{refused:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let client = cluster.client().await;
        client.admin().create_topic(NewTopic::new("orders".parse().unwrap())).await.unwrap();
        let mut told = wire::HeartbeatAnswer::default();
        while told.assigned.is_empty() {
            let beat = wire::Heartbeat {
                group: group.clone(),
                member: joined.member.clone(),
                generation: told.generation,
                owned: Vec::new(),
                wait_ms: 1_000,
            };
            told = node.groups().heartbeat(beat).await.unwrap();
        }
        assert_eq!(told.assigned[0].committed, Some(0));
    });
}
