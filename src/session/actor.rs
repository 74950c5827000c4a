//! The actor of a connection: translates, reads, answers. Handlers only enqueue and arm one turn.

use super::{
    Ground,
    fill::{Delivery, Found, dismissal, fill, pull},
    machine::{Effect, FetchId, Input, LinkId, Machine, Pulled, SubscriptionId},
    observe,
};
use crate::{
    metrics::Metrics,
    partition::Park,
    replica::{Doorman, Fired, Waiter, Why},
    runtime::{self, BytePermit, Lost, ReplySlot, Turn, Wake},
    types::TopicPartition,
    wire::{self, Code, Frame, Refused},
};
use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, Recipient, SpawnHandle};
use bytes::Bytes;
use futures_util::FutureExt;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::{sync::mpsc, time::Instant};

/// Inputs of one turn; then other tasks of the arbiter have theirs.
const INPUTS_PER_TURN: usize = 128;

/// An answer to a fetch: `permit` is held until it has left.
#[derive(Debug)]
pub struct Polled {
    /// What was found.
    pub fetched: wire::Fetched,
    /// Its batches.
    pub body: Vec<Bytes>,
    /// Their bytes of the response pool.
    pub permit: Option<BytePermit>,
}

impl Lost for Result<Polled, Refused> {
    fn lost() -> Self {
        Err(ended())
    }
}

impl Lost for Result<wire::Done, Refused> {
    fn lost() -> Self {
        Err(ended())
    }
}

fn ended() -> Refused {
    Refused::new(Code::ShuttingDown, "the session ended before an answer: connect again")
}

/// A frame that nobody asked for by itself. Bounded by credit; `permit` is held until it has left.
#[derive(Debug)]
pub struct Push {
    /// The delivery.
    pub frame: Frame,
    /// Bytes of its body.
    pub bytes: u64,
    /// Its bytes of the response pool.
    pub permit: Option<BytePermit>,
}

/// Where a connection's waits live. Clones share; may be used from any thread.
#[derive(Clone)]
pub struct Session(Addr<ConsumerSession>);

impl Session {
    /// Starts the actor on the current arbiter.
    pub fn start(ground: Ground) -> Self {
        let env = ground.env.clone();
        Self(runtime::start(&env, |_| ConsumerSession::new(ground)))
    }

    /// A long poll; the slot is answered when it fires.
    pub fn fetch(&self, link: u64, fetch: wire::Fetch, slot: ReplySlot<Result<Polled, Refused>>) {
        self.0.do_send(Request::Fetch { link, fetch, slot });
    }

    /// Starts a push subscription; `slot` is answered only if it is refused as a whole.
    pub fn subscribe(
        &self,
        link: u64,
        correlation: u32,
        subscribe: wire::Subscribe,
        pushes: mpsc::UnboundedSender<Push>,
    ) {
        self.0.do_send(Request::Subscribe { link, correlation, subscribe, pushes });
    }

    /// More credit.
    pub fn grant(&self, link: u64, grant: wire::Grant) {
        self.0.do_send(Request::Grant { link, grant });
    }

    /// Ends a subscription or takes partitions out; answered behind the last delivery.
    pub fn unsubscribe(&self, link: u64, unsubscribe: wire::Unsubscribe, slot: ReplySlot<Result<wire::Done, Refused>>) {
        self.0.do_send(Request::Unsubscribe { link, unsubscribe, slot });
    }

    /// A delivery has left.
    pub fn written(&self, link: u64, bytes: u64) {
        self.0.do_send(Request::Written { link, bytes });
    }

    /// No more requests come on the link: what is parked is answered, its subscription ends.
    pub fn link_ended(&self, link: u64) {
        self.0.do_send(Request::LinkEnded { link });
    }

    /// The node drains: parked fetches are told to go elsewhere.
    pub fn drain(&self) {
        self.0.do_send(Request::Drain);
    }

    /// The connection is gone.
    pub fn close(&self) {
        self.0.do_send(Request::Close);
    }
}

enum Request {
    Fetch { link: LinkId, fetch: wire::Fetch, slot: ReplySlot<Result<Polled, Refused>> },
    Subscribe { link: LinkId, correlation: u32, subscribe: wire::Subscribe, pushes: mpsc::UnboundedSender<Push> },
    Grant { link: LinkId, grant: wire::Grant },
    Unsubscribe { link: LinkId, unsubscribe: wire::Unsubscribe, slot: ReplySlot<Result<wire::Done, Refused>> },
    Written { link: LinkId, bytes: u64 },
    LinkEnded { link: LinkId },
    Drain,
    Close,
}

impl Message for Request {
    type Result = ();
}

/// A read came to its end.
enum Came {
    Filled { id: FetchId, found: Result<Found, Refused> },
    Pulled { subscription: SubscriptionId, place: usize, pulled: Pulled, delivery: Option<Delivery> },
}

impl Message for Came {
    type Result = ();
}

struct Fires(Vec<Fired>);

impl Message for Fires {
    type Result = ();
}

struct Bell(Recipient<Fires>);

impl Doorman for Bell {
    fn ring(&self, fires: Vec<Fired>) {
        self.0.do_send(Fires(fires));
    }
}

enum Work {
    Request(Request),
    Came(Came),
    Fired(Fired),
    Deadline,
}

struct Poll {
    slot: ReplySlot<Result<Polled, Refused>>,
    found: Found,
}

struct Listener {
    correlation: u32,
    pushes: mpsc::UnboundedSender<Push>,
}

/// The actor.
pub(super) struct ConsumerSession {
    /// Tells it from others of the node.
    number: u64,
    ground: Ground,
    machine: Machine,
    id_last: u64,
    polls: BTreeMap<FetchId, Poll>,
    listeners: BTreeMap<LinkId, Listener>,
    deliveries: BTreeMap<(SubscriptionId, usize), Delivery>,
    work: VecDeque<Work>,
    wake: Wake,
    timer: Option<(Instant, SpawnHandle)>,
    me: Option<Me>,
    waits: Waits,
}

/// This session's part of the node's gauges; gone with it.
struct Waits {
    metrics: Metrics,
    parked: i64,
    subscriptions: i64,
}

impl Waits {
    fn show(&mut self, parked: usize, subscriptions: usize) {
        let count = |n: usize| i64::try_from(n).expect("limited per session");
        let (parked, subscriptions) = (count(parked), count(subscriptions));
        self.metrics.fetches_parked.inc_by(parked - self.parked);
        self.metrics.subscriptions.inc_by(subscriptions - self.subscriptions);
        (self.parked, self.subscriptions) = (parked, subscriptions);
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.show(0, 0);
    }
}

struct Me {
    bell: Arc<dyn Doorman>,
    came: Recipient<Came>,
}

impl ConsumerSession {
    fn new(ground: Ground) -> Self {
        Self {
            number: ground.tokens.fetch_add(1, Relaxed),
            machine: Machine::new(ground.tokens.clone()),
            waits: Waits { metrics: ground.metrics.clone(), parked: 0, subscriptions: 0 },
            ground,
            id_last: 0,
            polls: BTreeMap::new(),
            listeners: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            work: VecDeque::new(),
            wake: Wake::default(),
            timer: None,
            me: None,
        }
    }

    fn later(&mut self, work: Work) {
        self.work.push_back(work);
        self.wake.arm();
    }

    fn next_id(&mut self) -> u64 {
        self.id_last += 1;
        self.id_last
    }

    fn take(&mut self, work: Work, context: &mut Context<Self>) {
        let input = match work {
            Work::Request(request) => match self.request(request, context) {
                Some(input) => input,
                None => return,
            },
            Work::Came(Came::Filled { id, found: Ok(found) }) => {
                let filled = found.filled.clone();
                match self.polls.get_mut(&id) {
                    Some(poll) => poll.found = found,
                    None => return,
                }
                self.step(Input::Filled { id, filled });
                // Not enough yet: it is read again when the fetch fires, and what waits holds no bytes of the pool.
                if let Some(poll) = self.polls.get_mut(&id) {
                    poll.found = Found::default();
                }
                return;
            }
            Work::Came(Came::Filled { id, found: Err(refused) }) => {
                let mut effects = Vec::new();
                self.machine.refuse(id, refused, &mut effects);
                return self.run(effects);
            }
            Work::Came(Came::Pulled { subscription, place, pulled, delivery }) => {
                if let Some(delivery) = delivery {
                    self.deliveries.insert((subscription, place), delivery);
                }
                self.step(Input::Pulled { subscription, place, pulled });
                // Not sent: subscription or partition left while it was read. It holds no bytes of the pool either.
                self.deliveries.remove(&(subscription, place));
                return;
            }
            Work::Fired(fired) => Input::Fired { token: fired.token, ready: fired.why == Why::Ready },
            Work::Deadline => Input::Deadline,
        };
        self.step(input);
    }

    fn request(&mut self, request: Request, context: &mut Context<Self>) -> Option<Input> {
        Some(match request {
            Request::Fetch { link, fetch, slot } => {
                let id = self.next_id();
                self.polls.insert(id, Poll { slot, found: Found::default() });
                Input::Fetch { link, id, fetch }
            }
            Request::Subscribe { link, correlation, subscribe, pushes } => {
                if self.machine.is_subscribed(link) {
                    let refused = Refused::new(
                        Code::BadRequest,
                        "this link has a subscription: end it first, or open another link",
                    );
                    for want in &subscribe.partitions {
                        let frame = Frame::new(correlation, dismissal(&self.ground, want, refused.clone()));
                        let _ = pushes.send(Push { frame, bytes: 0, permit: None });
                    }
                    return None;
                }
                self.listeners.insert(link, Listener { correlation, pushes });
                observe::granted(self.number, link, true, subscribe.records, subscribe.bytes);
                Input::Subscribe { link, id: self.next_id(), subscribe }
            }
            Request::Grant { link, grant } => {
                observe::granted(self.number, link, false, grant.records, grant.bytes);
                Input::Grant { link, records: grant.records, bytes: grant.bytes }
            }
            Request::Unsubscribe { link, unsubscribe, slot } => {
                let partitions = unsubscribe.partitions.into_iter();
                let partitions =
                    partitions.map(|(topic, partition)| TopicPartition { topic, partition }).collect::<Vec<_>>();
                self.step(Input::Unsubscribe { link, partitions });
                slot.answer(Ok(wire::Done {}));
                return None;
            }
            Request::Written { link, bytes } => Input::Written { link, bytes },
            Request::LinkEnded { link } => {
                self.listeners.remove(&link);
                Input::LinkEnded { link }
            }
            Request::Drain => Input::Drain,
            Request::Close => {
                context.stop();
                return None;
            }
        })
    }

    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.machine.step(Instant::now(), input, &self.ground, &mut effects);
        self.run(effects);
    }

    fn run(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.execute(effect);
        }
    }

    fn execute(&mut self, effect: Effect) {
        let Some(me) = &self.me else { return };
        match effect {
            Effect::Park { token, partition, wake_at, epoch } => {
                let waiter = Waiter::new(me.bell.clone(), token);
                // Without a replica the dropped waiter fires by itself.
                if let Some(handle) = self.ground.partitions.find(partition) {
                    let park = Park { wake_at, epoch, waiter };
                    match self.ground.env.dawdle() {
                        None => handle.park(park),
                        Some(time) => self.ground.env.spawn_local(async move {
                            tokio::time::sleep(time).await;
                            handle.park(park);
                        }),
                    }
                }
            }
            Effect::Unpark { token, partition } => {
                if let Some(handle) = self.ground.partitions.find(partition) {
                    handle.unpark(token);
                }
            }
            Effect::Fill { id, first } => {
                let Some(polling) = self.machine.fetches.get(&id) else { return };
                let reading = fill(self.ground.clone(), polling.fetch.clone(), first);
                let came = reading.map(move |found| Came::Filled { id, found });
                self.read(came);
            }
            Effect::Answer { id } => {
                if let Some(Poll { slot, found }) = self.polls.remove(&id) {
                    self.ground.metrics.fetch_requests.inc();
                    self.ground.metrics.fetch_bytes.inc_by(bytes_of(&found.body));
                    slot.answer(Ok(Polled { fetched: found.fetched, body: found.body, permit: found.permit }));
                }
            }
            Effect::Refuse { id, refused } => {
                if let Some(poll) = self.polls.remove(&id) {
                    poll.slot.answer(Err(refused));
                }
            }
            Effect::Pull { subscription, place, partition, records, bytes } => {
                let reading = pull(self.ground.clone(), partition, records, bytes);
                let came =
                    reading.map(move |(pulled, delivery)| Came::Pulled { subscription, place, pulled, delivery });
                self.read(came);
            }
            Effect::Deliver { link, subscription, place, records } => {
                let Some(found) = self.deliveries.remove(&(subscription, place)) else { return };
                assert_eq!(u64::from(found.delivery.records), records, "what is sent is what was reserved");
                let bytes = found.delivery.partition.bytes.into();
                observe::delivered(self.number, link, records, bytes);
                if let Some(Listener { correlation, pushes }) = self.listeners.get(&link) {
                    self.ground.metrics.fetch_bytes.inc_by(bytes_of(&found.body));
                    let frame = Frame::new(*correlation, found.delivery).with_body(found.body);
                    let _ = pushes.send(Push { frame, bytes, permit: found.permit });
                }
            }
            Effect::Dismiss { link, partition, refused, .. } => {
                if let Some(Listener { correlation, pushes }) = self.listeners.get(&link) {
                    let frame = Frame::new(*correlation, dismissal(&self.ground, &partition, refused));
                    let _ = pushes.send(Push { frame, bytes: 0, permit: None });
                }
            }
        }
    }

    /// Reads what is in memory at once; only what has to wait becomes a task.
    fn read(&mut self, reading: impl Future<Output = Came> + 'static) {
        let Some(me) = &self.me else { return };
        let mut reading = Box::pin(reading);
        match (&mut reading).now_or_never() {
            Some(came) => {
                self.work.push_back(Work::Came(came));
                self.wake.arm();
            }
            None => {
                let to = me.came.clone();
                self.ground.env.spawn_local(async move { to.do_send(reading.await) });
            }
        }
    }

    fn set_timer(&mut self, context: &mut Context<Self>) {
        let due = self.machine.next_deadline();
        if due == self.timer.as_ref().map(|(at, _)| *at) {
            return;
        }
        if let Some((_, handle)) = self.timer.take() {
            context.cancel_future(handle);
        }
        if let Some(at) = due {
            let handle = context.run_later(at.saturating_duration_since(Instant::now()), |session, _| {
                session.timer = None;
                session.later(Work::Deadline);
            });
            self.timer = Some((at, handle));
        }
    }
}

fn bytes_of(body: &[Bytes]) -> u64 {
    body.iter().map(|part| part.len() as u64).sum()
}

impl Actor for ConsumerSession {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let me = context.address();
        self.wake.aim(me.clone().recipient());
        self.me = Some(Me { bell: Arc::new(Bell(me.clone().recipient())), came: me.recipient() });
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.wake.rest();
        let tokens = self.machine.tokens();
        for (token, partition) in tokens {
            self.execute(Effect::Unpark { token, partition });
        }
    }
}

impl Handler<Turn> for ConsumerSession {
    type Result = ();
    fn handle(&mut self, _: Turn, context: &mut Self::Context) {
        self.wake.taken();
        for _ in 0..INPUTS_PER_TURN {
            let Some(work) = self.work.pop_front() else { break };
            self.take(work, context);
        }
        if !self.work.is_empty() {
            self.wake.arm();
        }
        self.set_timer(context);
        self.waits.show(self.machine.parked, self.machine.subscriptions.len());
    }
}

impl Handler<Request> for ConsumerSession {
    type Result = ();
    fn handle(&mut self, request: Request, _: &mut Self::Context) {
        self.later(Work::Request(request));
    }
}

impl Handler<Came> for ConsumerSession {
    type Result = ();
    fn handle(&mut self, came: Came, _: &mut Self::Context) {
        self.later(Work::Came(came));
    }
}

impl Handler<Fires> for ConsumerSession {
    type Result = ();
    fn handle(&mut self, Fires(fires): Fires, _: &mut Self::Context) {
        self.work.extend(fires.into_iter().map(Work::Fired));
        self.wake.arm();
    }
}
