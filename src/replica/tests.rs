//! A replica over a planted Raft: which refuses, skips and delays as openraft was seen to do.

use super::*;
use crate::runtime::Env;
use bytes::Bytes;
use highwater_raft::{
    GroupId, NodeId, ReplicaId,
    group::{AppliedAnswer, Committed, Event, Member, Owner, Refusal, Role},
    machine::{At, Command, Damaged, Machine},
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::Mutex,
};
use tokio::{sync::oneshot, task::LocalSet, time::Instant};

/// Remembers every command body in order; panics when told to.
#[derive(Default)]
struct Journal(Vec<Bytes>);

impl Machine for Journal {
    type Reply = usize;
    type Effect = ();

    fn apply(&mut self, _: At, command: &Command, _: &mut Vec<()>) -> usize {
        assert!(&command.body[..] != b"panic", "told to panic");
        self.0.push(command.body.clone());
        self.0.len() - 1
    }
    fn checkpoint(&self) -> Bytes {
        self.0.iter().flat_map(|body| [body.clone(), Bytes::from_static(b" ")]).collect::<Vec<_>>().concat().into()
    }
    fn restore(&mut self, checkpoint: &Bytes) -> Result<(), Damaged> {
        let words = std::str::from_utf8(checkpoint).expect("text").split_whitespace();
        self.0 = words.map(|word| Bytes::from(word.to_owned())).collect();
        Ok(())
    }
    fn on_promoted(&self) -> Vec<()> {
        Vec::new()
    }
}

type Log = Rc<RefCell<Vec<String>>>;

/// What was done, and how many turns it took.
struct Diary(Log, Rc<Cell<usize>>);

impl Domain for Diary {
    type Machine = Journal;
    type Request = &'static str;
    type Slot = &'static str;
    type Term = ();

    fn offset(machine: &Journal) -> u64 {
        machine.0.len() as u64
    }
    fn promoted(&mut self, _: &Journal, status: &Status, _: &mut Outbox<Self>) {
        self.0.borrow_mut().push(format!("leads {}", status.term));
    }
    fn lead(&mut self, (): &mut (), _: &Journal, _: &Status, request: &'static str, out: &mut Outbox<Self>) {
        match request.strip_prefix("barrier") {
            Some(_) => out.barrier(request),
            None => out.propose(Command { kind: 1, body: Bytes::from_static(request.as_bytes()) }, request),
        }
    }
    fn follow(&mut self, _: &Journal, _: &Status, request: &'static str) {
        self.0.borrow_mut().push(format!("{request}: not leading"));
    }
    fn applied(&mut self, _: &Journal, entry: &Entry<'_, Self>) -> Noted {
        for (command, at) in entry.commands.iter().zip(entry.positions) {
            let at = *at as usize;
            assert_eq!(entry.payload.slice(at..at + command.body.len()), Some(command.body.clone()));
        }
        Noted::default()
    }
    fn restored(&mut self, _: &Journal) {}
    fn publish(&mut self, _: &Journal, _: &Status) {
        self.1.set(self.1.get() + 1);
    }
    fn answer(&mut self, slot: &'static str, outcome: Outcome<Self>, _: &Journal, _: &Status) {
        let text = match outcome {
            Outcome::Applied(at, reply) => format!("{slot}={reply} in {}", at.term),
            other => format!("{slot}: {other:?}"),
        };
        self.0.borrow_mut().push(text);
    }
    fn wants_flush(slot: &&'static str) -> bool {
        slot.starts_with("flush")
    }
    fn flushed(&mut self, slot: &mut &'static str, _: &Status) {
        self.0.borrow_mut().push(format!("{slot} flushed"));
    }
    fn settle(
        &mut self,
        _: Option<&mut ()>,
        _: &Journal,
        _: &Status,
        _: Instant,
        _: &mut Outbox<Self>,
    ) -> Option<Instant> {
        None
    }
    fn gone(&mut self) {
        self.0.borrow_mut().push("gone".into());
    }
}

/// Takes proposals and waits for the test to say what becomes of them.
#[derive(Default)]
struct Planted {
    proposed: Mutex<Vec<(u64, u64, Payload)>>,
    barriers: Mutex<Vec<oneshot::Sender<Result<u64, BarrierError>>>>,
}

impl Consensus for Planted {
    fn propose(&self, proposal: u64, term: u64, payload: Payload) {
        self.proposed.lock().unwrap().push((proposal, term, payload));
    }
    fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<u64, BarrierError>> + Send>> {
        let (sender, receiver) = oneshot::channel();
        self.barriers.lock().unwrap().push(sender);
        Box::pin(async move { receiver.await.unwrap() })
    }
}

struct World {
    log: Log,
    turns: Rc<Cell<usize>>,
    keeper: Keeper,
    raft: Arc<Planted>,
    post: Post<&'static str>,
    failures: Log,
    next_index: u64,
}

impl World {
    async fn new() -> Self {
        let (log, failures, turns) = (Log::default(), Log::default(), Rc::<Cell<usize>>::default());
        let post = Post::default();
        let failed = failures.clone();
        let on_failed: OnFailed = Rc::new(move |why| failed.borrow_mut().push(why));
        let identity = Identity { group: GroupId(1), replica: ReplicaId(1), leaders: Leaders::default(), on_failed };
        let keeper = start(&Env::real(), post.clone(), Diary(log.clone(), turns.clone()), identity);
        let raft = Arc::new(Planted::default());
        keeper.opened(raft.clone());
        let mut world = Self { log, turns, keeper, raft, post, failures, next_index: 1 };
        let (done, restored) = oneshot::channel();
        world.event(Event::Restore { machine: Bytes::new(), offset: 0, last: Default::default(), done });
        restored.await.unwrap().unwrap();
        world.settle().await;
        world
    }
    fn event(&mut self, event: Event) {
        self.keeper.owner().event(event);
    }
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    async fn lead(&mut self, term: u64, leading: bool) {
        let me = (ReplicaId(1), NodeId(1));
        let members = BTreeMap::from([(ReplicaId(1), Member { node: NodeId(1), voter: true })]);
        self.event(Event::Role(Role {
            term,
            leader: leading.then_some(me),
            leading,
            ready: leading,
            members,
            members_at: 0,
        }));
        self.settle().await;
    }
    async fn ask(&self, requests: &[&'static str]) {
        requests.iter().for_each(|request| self.post.send(request));
        self.settle().await;
    }
    fn proposed(&self) -> Vec<(u64, u64, Payload)> {
        std::mem::take(&mut *self.raft.proposed.lock().unwrap())
    }
    async fn hand_over(&mut self, proposal: u64) -> u64 {
        let index = self.next_index;
        self.next_index += 1;
        self.event(Event::HandedOver { proposal, index });
        self.settle().await;
        index
    }
    async fn commit(&mut self, term: u64, index: u64, payload: Payload) -> Option<AppliedAnswer> {
        let (done, answer) = oneshot::channel();
        self.event(Event::Committed {
            entries: vec![Committed { index, term, payload }],
            checkpoint_after: true,
            done,
        });
        self.settle().await;
        answer.await.ok()
    }
    fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.borrow_mut())
    }
}

async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_joins_the_next_entry() {
    local(async {
        let mut world = World::new().await;
        world.ask(&["early"]).await;
        world.lead(3, true).await;
        world.ask(&["flush a"]).await;
        world.ask(&["b", "c"]).await;
        let [(id, 3, first)] = &world.proposed()[..] else { panic!("one proposal at a time") };
        let index = world.hand_over(*id).await;
        let [(_, 3, _)] = &world.proposed()[..] else { panic!("the gate is open again") };
        world.event(Event::Flushed { index });
        let answer = world.commit(3, index, first.clone()).await.unwrap();
        assert_eq!((answer.stamps[0].offset, answer.stamps[0].offset_end), (0, 1));
        let (fence, machine) = Fence::unwrap(answer.machine.unwrap().machine).unwrap();
        assert_eq!((fence.term, fence.n, &machine[..]), (3, 1, &b"flush a "[..]));
        assert_eq!(world.said(), ["early: not leading", "leads 3", "flush a flushed", "flush a=0 in 3"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn news_that_nobody_waits_for_makes_no_turn() {
    local(async {
        let mut world = World::new().await;
        world.lead(3, true).await;
        world.ask(&["a"]).await;
        let (id, _, first) = world.proposed().remove(0);
        let turns = world.turns.get();
        let index = world.hand_over(id).await;
        world.event(Event::Flushed { index });
        world.settle().await;
        assert_eq!(world.turns.get(), turns, "the gate is open, and nothing waits in front of it");
        world.ask(&["b"]).await;
        let (id, _, second) = world.proposed().remove(0);
        assert_eq!(world.turns.get(), turns + 1, "one turn takes the news and what came");
        world.ask(&["c"]).await;
        assert!(world.proposed().is_empty(), "the log does not have b yet");
        let turns = world.turns.get();
        let index = world.hand_over(id).await;
        assert_eq!((world.turns.get(), world.proposed().len()), (turns + 1, 1), "c waited for it");
        world.commit(3, index - 1, first).await;
        world.commit(3, index, second).await;
        assert_eq!(world.said(), ["leads 3", "a flushed", "a=0 in 3", "b=1 in 3"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_run_refused_in_the_middle_is_proposed_again_in_order() {
    local(async {
        let mut world = World::new().await;
        world.lead(3, true).await;
        let mut payloads = Vec::new();
        for body in ["a", "b", "c"] {
            world.ask(&[body]).await;
            let (id, _, payload) = world.proposed().remove(0);
            if body == "b" {
                world.event(Event::Refused { proposal: id, why: Refusal::NotNow });
                world.settle().await;
                // Raft takes the next one, which this leader had under way: nothing new is proposed meanwhile.
                assert!(world.raft.barriers.lock().unwrap().is_empty(), "the outcome of a is open");
                continue_after_refusal(&mut world, &payloads).await;
                break;
            }
            let index = world.hand_over(id).await;
            payloads.push((index, payload));
        }
        assert_eq!(world.said(), ["leads 3", "a=0 in 3", "b=1 in 3", "d=2 in 3"]);
    })
    .await;
}

async fn continue_after_refusal(world: &mut World, payloads: &[(u64, Payload)]) {
    world.ask(&["d"]).await;
    assert!(world.proposed().is_empty());
    world.commit(3, payloads[0].0, payloads[0].1.clone()).await.unwrap();
    let barrier = world.raft.barriers.lock().unwrap().pop().expect("all outcomes are known");
    barrier.send(Ok(1)).unwrap();
    world.settle().await;
    let (id, _, again) = world.proposed().remove(0);
    let index = world.hand_over(id).await;
    world.commit(3, index, again).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_entry_behind_a_refused_one_is_skipped_and_takes_no_offset() {
    local(async {
        let mut world = World::new().await;
        world.lead(3, true).await;
        world.ask(&["a"]).await;
        let (a, _, _) = world.proposed().remove(0);
        world.hand_over(a).await;
        world.ask(&["b"]).await;
        let (b, _, second) = world.proposed().remove(0);
        let index = world.hand_over(b).await;
        world.event(Event::Refused { proposal: a, why: Refusal::NotNow });
        let skipped = world.commit(3, index, second).await.unwrap();
        assert_eq!((skipped.stamps[0].offset, skipped.stamps[0].offset_end), (0, 0));
        world.raft.barriers.lock().unwrap().pop().unwrap().send(Ok(1)).unwrap();
        world.settle().await;
        let (id, _, again) = world.proposed().remove(0);
        let index = world.hand_over(id).await;
        world.commit(3, index, again).await.unwrap();
        assert_eq!(world.said(), ["leads 3", "a=0 in 3", "b=1 in 3"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_term_answers_everything() {
    local(async {
        let mut world = World::new().await;
        world.lead(3, true).await;
        world.ask(&["a"]).await;
        let (id, _, payload) = world.proposed().remove(0);
        let index = world.hand_over(id).await;
        world.ask(&["b"]).await;
        world.ask(&["c", "barrier"]).await;
        world.proposed();
        world.lead(4, false).await;
        assert_eq!(world.said(), ["leads 3", "a: Unknown", "b: Unknown", "c: NotLeader", "barrier: NotLeader"]);
        // The next leader kept the first entry; followers apply it without anybody being answered.
        world.commit(3, index, payload).await.unwrap();
        world.lead(5, true).await;
        world.lead(6, true).await;
        world.ask(&["d"]).await;
        assert_eq!(world.proposed()[0].1, 6);
        assert_eq!(world.said(), ["leads 5", "leads 6"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_nothing_is_proposed_again() {
    local(async {
        let mut world = World::new().await;
        world.lead(3, true).await;
        world.ask(&["a"]).await;
        world.ask(&["b"]).await;
        let (id, ..) = world.proposed().remove(0);
        world.event(Event::Refused { proposal: id, why: Refusal::NotNow });
        world.settle().await;
        let after = std::time::Duration::from_secs(1);
        world.raft.barriers.lock().unwrap().pop().unwrap().send(Err(BarrierError::NoQuorum { after })).unwrap();
        world.settle().await;
        assert_eq!(world.said(), ["leads 3", "a: NoQuorum", "b: NoQuorum"]);
        world.ask(&["c"]).await;
        assert_eq!(world.proposed().len(), 1, "the gate is open for new ones");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_barrier_that_began_before_the_question_does_not_answer_it() {
    local(async {
        let mut world = World::new().await;
        world.lead(3, true).await;
        world.ask(&["barrier 1", "barrier 2"]).await;
        world.ask(&["barrier 3"]).await;
        let first = world.raft.barriers.lock().unwrap().pop().unwrap();
        assert!(world.raft.barriers.lock().unwrap().is_empty(), "one round at a time");
        first.send(Ok(0)).unwrap();
        world.settle().await;
        assert_eq!(world.said(), ["leads 3", "barrier 1: Shown", "barrier 2: Shown"]);
        world.raft.barriers.lock().unwrap().pop().unwrap().send(Ok(0)).unwrap();
        world.settle().await;
        assert_eq!(world.said(), ["barrier 3: Shown"]);
        world.keeper.close();
        world.settle().await;
        assert_eq!(world.said(), ["gone"]);
        assert!(world.failures.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_this_replica_and_says_so() {
    local(async {
        let mut world = World::new().await;
        world.lead(3, true).await;
        world.ask(&["panic"]).await;
        let (id, _, payload) = world.proposed().remove(0);
        let index = world.hand_over(id).await;
        assert!(world.commit(3, index, payload).await.is_none(), "a dropped answer fails the replica in Raft");
        assert_eq!(world.said(), ["leads 3", "gone"]);
        assert_eq!(*world.failures.borrow(), ["its turn panicked: told to panic"]);
        world.ask(&["nobody"]).await;
        assert!(world.said().is_empty());
    })
    .await;
}
