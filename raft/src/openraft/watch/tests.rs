use super::*;
use crate::openraft::runtime::Runtime;
use openraft_rt::{AsyncRuntime, testing::Suite};
use openraft_rt_tokio::TokioRuntime;
use proptest::prelude::*;
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, AtomicU32},
    task::Wake,
    thread,
    time::Duration,
};

type Tokios = <TokioRuntime as AsyncRuntime>::Watch;

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[derive(Debug, Clone)]
enum Op {
    Send(usize, u32),
    Modify(usize, u32, bool),
    Panic(usize, u32),
    BorrowSent(usize),
    CloneSender(usize),
    DropSender(usize),
    Subscribe(usize),
    /// Begins to wait or polls again, then perhaps with another waker.
    Poll(usize, bool),
    Cancel(usize),
    Borrow(usize),
    Update(usize),
    Clone(usize),
    Drop(usize),
}

/// A receiver that waits can only be had back from its future.
enum Place<R> {
    Idle(R),
    Waits(Wait<R>),
}

type Outcome<R> = (R, Option<Result<(), RecvError>>);

struct Wait<R> {
    changed: Pin<Box<dyn Future<Output = Outcome<R>>>>,
    cancel: Arc<AtomicBool>,
    wakers: Vec<Arc<Woken>>,
}

struct World<W: Watches> {
    senders: Vec<W::Sender<u32>>,
    receivers: VecDeque<Place<W::Receiver<u32>>>,
}

impl<W: Watches + 'static> World<W>
where
    W::Receiver<u32>: 'static,
{
    fn new() -> Self {
        let (sender, receiver) = W::channel(0);
        Self { senders: vec![sender], receivers: [Place::Idle(receiver)].into() }
    }

    /// What the step gives, and how often each waker was called by now.
    fn step(&mut self, op: &Op) -> (String, Vec<Vec<u32>>) {
        let outcome = self.sender_step(op).or_else(|| self.receiver_step(op)).unwrap_or_default();
        let woken = self.receivers.iter().filter_map(|place| match place {
            Place::Idle(_) => None,
            Place::Waits(wait) => Some(wait.wakers.iter().map(|waker| waker.0.load(SeqCst)).collect()),
        });
        (outcome, woken.collect())
    }

    fn sender_step(&mut self, op: &Op) -> Option<String> {
        let (Op::Send(at, _) | Op::Modify(at, ..) | Op::Panic(at, _) | Op::BorrowSent(at)) = op else {
            return self.sender_life(op);
        };
        let sender = self.senders.get(at % self.senders.len().max(1))?;
        Some(match *op {
            Op::Send(_, value) => format!("{:?}", sender.send(value).map_err(|refused| refused.0)),
            Op::Modify(_, new, says) => {
                let modify = |value: &mut u32| (mem::replace(value, new), says).1;
                sender.send_if_modified(modify).to_string()
            }
            Op::Panic(_, new) => {
                let modify = |value: &mut u32| {
                    *value = new;
                    resume_unwind(Box::new("planned"))
                };
                let panicked = catch_unwind(AssertUnwindSafe(|| sender.send_if_modified(modify)));
                panicked.is_err().to_string()
            }
            _ => sender.borrow_watched().to_string(),
        })
    }

    fn sender_life(&mut self, op: &Op) -> Option<String> {
        let (Op::CloneSender(at) | Op::DropSender(at) | Op::Subscribe(at)) = op else { return None };
        let at = at % self.senders.len().max(1);
        let sender = self.senders.get(at)?;
        match op {
            Op::CloneSender(_) => self.senders.push(sender.clone()),
            Op::DropSender(_) => drop(self.senders.remove(at)),
            _ => self.receivers.push_back(Place::Idle(sender.subscribe())),
        }
        Some(String::new())
    }

    fn receiver_step(&mut self, op: &Op) -> Option<String> {
        let (Op::Poll(at, _) | Op::Cancel(at) | Op::Borrow(at) | Op::Update(at) | Op::Clone(at) | Op::Drop(at)) = op
        else {
            return None;
        };
        let place = self.receivers.remove(at % self.receivers.len().max(1))?;
        let mut outcome = String::new();
        let place = match (op, place) {
            (Op::Drop(_), _) => return Some(outcome),
            (Op::Poll(_, other), place) => {
                let (place, polled) = place.poll(*other);
                outcome = format!("{polled:?}");
                place
            }
            (_, place) => {
                let mut receiver = place.idle();
                match op {
                    Op::Borrow(_) => outcome = receiver.borrow_watched().to_string(),
                    Op::Update(_) => outcome = receiver.borrow_and_update().to_string(),
                    Op::Clone(_) => self.receivers.push_back(Place::Idle(receiver.clone())),
                    _ => {}
                }
                Place::Idle(receiver)
            }
        };
        self.receivers.push_back(place);
        Some(outcome)
    }
}

impl<R> Place<R> {
    /// Drops what it waits with.
    fn idle(self) -> R {
        match self {
            Place::Idle(receiver) => receiver,
            Place::Waits(mut wait) => {
                wait.cancel.store(true, SeqCst);
                let Poll::Ready((receiver, None)) = wait.changed.as_mut().poll(&mut Context::from_waker(Waker::noop()))
                else {
                    panic!("it was cancelled");
                };
                receiver
            }
        }
    }

    fn poll<W: Watches<Receiver<u32> = R> + 'static>(self, other: bool) -> (Self, Poll<Result<(), RecvError>>)
    where
        R: WatchReceiver<W, u32> + 'static,
    {
        let mut wait = match self {
            Place::Waits(wait) => wait,
            Place::Idle(receiver) => {
                let cancel = Arc::new(AtomicBool::default());
                Wait { changed: Box::pin(changed::<W>(receiver, cancel.clone())), cancel, wakers: Vec::new() }
            }
        };
        if other || wait.wakers.is_empty() {
            wait.wakers.push(Arc::default());
        }
        let waker = wait.wakers.last().unwrap().clone().into();
        match wait.changed.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready((receiver, Some(changed))) => (Place::Idle(receiver), Poll::Ready(changed)),
            Poll::Ready(_) => panic!("nobody cancelled it"),
            Poll::Pending => (Place::Waits(wait), Poll::Pending),
        }
    }
}

async fn changed<W: Watches>(mut receiver: W::Receiver<u32>, cancel: Arc<AtomicBool>) -> Outcome<W::Receiver<u32>> {
    let outcome = {
        let mut changed = pin!(receiver.changed());
        poll_fn(|cx| match cancel.load(SeqCst) {
            true => Poll::Ready(None),
            false => changed.as_mut().poll(cx).map(Some),
        })
        .await
    };
    (receiver, outcome)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (at, value) = (0usize..4, 0u32..100);
    let op = prop_oneof![
        4 => (at.clone(), value.clone()).prop_map(|(at, value)| Op::Send(at, value)),
        3 => (at.clone(), value.clone(), any::<bool>()).prop_map(|(at, value, says)| Op::Modify(at, value, says)),
        1 => (at.clone(), value).prop_map(|(at, value)| Op::Panic(at, value)),
        1 => at.clone().prop_map(Op::BorrowSent),
        1 => at.clone().prop_map(Op::CloneSender),
        1 => at.clone().prop_map(Op::DropSender),
        1 => at.clone().prop_map(Op::Subscribe),
        8 => (at.clone(), any::<bool>()).prop_map(|(at, other)| Op::Poll(at, other)),
        1 => at.clone().prop_map(Op::Cancel),
        2 => at.clone().prop_map(Op::Borrow),
        2 => at.clone().prop_map(Op::Update),
        1 => at.clone().prop_map(Op::Clone),
        1 => at.prop_map(Op::Drop),
    ];
    prop::collection::vec(op, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..Default::default() })]

    #[test]
    fn it_does_what_tokios_does(ops in ops()) {
        let (mut ours, mut tokios) = (World::<Watch>::new(), World::<Tokios>::new());
        for op in &ops {
            prop_assert_eq!(ours.step(op), tokios.step(op), "{:?}", op);
        }
        // What each has seen by now.
        for _ in 0..ours.receivers.len() {
            for op in [Op::Borrow(0), Op::Poll(ours.receivers.len() - 1, false)] {
                prop_assert_eq!(ours.step(&op), tokios.step(&op), "in the end, {:?}", op);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_does_what_openraft_expects() {
    let all = async {
        Suite::<Runtime>::test_watch_init_value().await;
        Suite::<Runtime>::test_watch_overwrite_init_value().await;
        Suite::<Runtime>::test_watch_send_error_no_receiver().await;
        Suite::<Runtime>::test_watch_send_if_modified().await;
        Suite::<Runtime>::test_watch_wait_until_ge().await;
        Suite::<Runtime>::test_watch_wait_until().await;
        Suite::<Runtime>::test_watch_changed_marks_as_seen().await;
        Suite::<Runtime>::test_watch_borrow_and_update_marks_seen().await;
        Suite::<Runtime>::test_watch_changed_returns_immediately_when_unseen().await;
        Suite::<Runtime>::test_watch_multiple_borrow_then_changed().await;
        Suite::<Runtime>::test_watch_wait_loop_pattern().await;
        Suite::<Runtime>::test_watch_multiple_receivers().await;
        Suite::<Runtime>::test_watch_subscribe().await;
        Suite::<Runtime>::test_watch_send_if_different().await;
        Suite::<Runtime>::test_watch_send_if_greater().await;
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("it is over in virtual time");
}

fn poll_once(receiver: &mut Receiver<u32>, waker: &Waker) -> Poll<Result<(), RecvError>> {
    pin!(receiver.changed()).poll(&mut Context::from_waker(waker))
}

#[test]
fn a_receiver_has_at_most_one_waker_in_the_list() {
    let (sender, mut receiver) = Watch::channel(0);
    let waiting = |sender: &Sender<u32>| {
        let list = sender.0.waiting.lock();
        assert_eq!(list.wakers.len(), sender.0.waiting.count.load(SeqCst));
        list.wakers.len()
    };
    let [first, second] = [Arc::new(Woken::default()), Arc::default()];
    let mut other = receiver.clone();
    for woken in [&first, &first, &second] {
        assert!(poll_once(&mut receiver, &woken.clone().into()).is_pending());
        assert_eq!(waiting(&sender), 1);
    }
    assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 2), "the newest is kept");
    assert!(poll_once(&mut other, &first.clone().into()).is_pending());
    drop(receiver);
    assert_eq!((waiting(&sender), Arc::strong_count(&second)), (1, 1), "it goes with the receiver");
    sender.send(1).unwrap();
    assert_eq!((waiting(&sender), Arc::strong_count(&first)), (0, 1));
    assert_eq!((first.0.load(SeqCst), second.0.load(SeqCst)), (1, 0));
}

/// Notes whether the locks are free when it is woken and when it is dropped, and the version that of the value.
struct Outside {
    sender: Sender<u32>,
    free: Arc<Mutex<Vec<bool>>>,
}

impl Outside {
    fn note(&self) {
        let shared = &self.sender.0;
        let value = shared.value.try_write().is_ok_and(|value| u64::from(*value) == shared.version.load(SeqCst));
        let free = value && shared.waiting.list.try_lock().is_ok();
        self.free.lock().unwrap().push(free);
    }
}

impl Wake for Outside {
    fn wake(self: Arc<Self>) {
        self.note();
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.note();
    }
}

#[test]
fn wakers_are_called_and_dropped_outside_of_all_locks() {
    let (sender, mut receiver) = Watch::channel(0);
    let free = Arc::new(Mutex::new(Vec::new()));
    let waker = || Waker::from(Arc::new(Outside { sender: sender.clone(), free: free.clone() }));
    let noted = || mem::take(&mut *free.lock().unwrap());
    let _ = poll_once(&mut receiver, &waker());
    let _ = poll_once(&mut receiver, &waker());
    assert_eq!(noted(), [true], "one was replaced");
    sender.send(1).unwrap();
    assert_eq!(noted(), [true, true], "one was woken, then dropped");
    assert!(poll_once(&mut receiver, &waker()).is_ready());
    let _ = poll_once(&mut receiver, &waker());
    noted();
    drop(receiver);
    assert_eq!(noted(), [true], "one went with its receiver");
}

#[test]
fn who_enters_while_the_value_changes_is_woken() {
    let (sender, mut receiver) = Watch::channel(0);
    let woken = Arc::new(Woken::default());
    sender.send_if_modified(|_| poll_once(&mut receiver, &woken.clone().into()).is_pending());
    assert_eq!(woken.0.load(SeqCst), 1);
}

#[tokio::test]
async fn who_always_finds_something_new_lets_others_have_their_turn() {
    let (sender, mut receiver) = Watch::channel(0);
    let other = tokio::spawn(async {});
    for n in 0..1000 {
        sender.send(n).unwrap();
        receiver.changed().await.unwrap();
    }
    assert!(other.is_finished());
}

/// Follows one sender to its end. A send that has returned, as its end, must have woken who waited for it.
fn follow(mut receiver: Receiver<u32>, returned: &AtomicU32, ended: &AtomicBool) -> u32 {
    let woken = Arc::new(Woken::default());
    let waker = woken.clone().into();
    loop {
        let seen = *receiver.borrow_and_update();
        let mut changed = pin!(receiver.changed());
        loop {
            woken.0.store(0, SeqCst);
            match changed.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(Ok(())) => break,
                Poll::Ready(Err(_)) => return seen,
                Poll::Pending => {}
            }
            loop {
                let due = returned.load(SeqCst) > seen || ended.load(SeqCst);
                if woken.0.load(SeqCst) > 0 {
                    break;
                }
                assert!(!due, "nobody woke it after {seen}");
                thread::yield_now();
            }
        }
    }
}

#[test]
fn no_wake_up_is_lost_between_threads() {
    const SENDS: u32 = 20_000;
    let (sender, receiver) = Watch::channel(0);
    let (returned, ended) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let followers =
            [receiver.clone(), receiver].map(|receiver| scope.spawn(|| follow(receiver, &returned, &ended)));
        for n in 1..=SENDS {
            // Who is about to wait stops at the list: between its first look and its second. While nobody waits, a send
            // needs no list; else it would stand here for ever.
            let list = (n % 2 == 0).then(|| sender.0.waiting.lock());
            let list = list.filter(|list| list.wakers.is_empty());
            thread::yield_now();
            let sent = sender.send(n);
            drop(list);
            // An error is a follower's panic.
            if sent.is_err() {
                break;
            }
            returned.store(n, SeqCst);
        }
        drop(sender);
        ended.store(true, SeqCst);
        assert_eq!(followers.map(|follower| follower.join().unwrap()), [SENDS; 2]);
    });
}
