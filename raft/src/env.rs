//! The seam for time, randomness, tasks, threads and UDP sockets.
//!
//! Monotonic time is `tokio::time` everywhere (virtual in simulation). All else that a program takes from its
//! surroundings comes from an [`Env`]. In simulation every task belongs to a node's [`TaskSet`]: whatever a task
//! spawns, by whichever library, joins the same set, so that a crash drops all that ran on the node.

mod quic;
mod udp;

pub use quic::{AnyId, Datagrams, Socket};

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};
use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    task::AbortHandle,
};

/// A future that stays on its thread.
pub type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Where a node takes its surroundings from. Clones share.
#[derive(Clone)]
pub struct Env(Arc<Kind>);

enum Kind {
    Real(Mutex<u64>),
    Simulated {
        rng: Mutex<u64>,
        epoch_ms: u64,
        start: tokio::time::Instant,
        skew_ms: std::sync::atomic::AtomicI64,
        dawdles: AtomicBool,
        datagrams: std::sync::OnceLock<Arc<dyn Datagrams>>,
        tasks: TaskSet,
    },
}

impl Env {
    /// The operating system's clock, threads and entropy.
    pub fn real() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let entropy = std::collections::hash_map::RandomState::new().build_hasher().finish();
        Self(Arc::new(Kind::Real(Mutex::new(entropy ^ (u64::from(std::process::id()) << 32) ^ wall_ms()))))
    }

    /// Virtual time and seeded randomness; tasks belong to `tasks`. Wall-clock time starts at `epoch_ms`.
    pub fn simulated(seed: u64, epoch_ms: u64, tasks: TaskSet) -> Self {
        Self(Arc::new(Kind::Simulated {
            rng: Mutex::new(seed),
            epoch_ms,
            start: tokio::time::Instant::now(),
            skew_ms: Default::default(),
            dawdles: Default::default(),
            datagrams: Default::default(),
            tasks,
        }))
    }

    /// Whether time is virtual.
    pub fn is_simulated(&self) -> bool {
        matches!(*self.0, Kind::Simulated { .. })
    }

    /// Milliseconds since 1970 by the wall clock; may jump.
    pub fn now_ms(&self) -> u64 {
        match &*self.0 {
            Kind::Real(_) => wall_ms(),
            Kind::Simulated { epoch_ms, start, skew_ms, .. } => {
                let elapsed = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                (epoch_ms + elapsed).saturating_add_signed(skew_ms.load(Relaxed))
            }
        }
    }

    /// Simulation: moves the wall clock by `ms` from now on.
    pub fn jump_clock(&self, ms: i64) {
        if let Kind::Simulated { skew_ms, .. } = &*self.0 {
            skew_ms.fetch_add(ms, Relaxed);
        }
    }

    /// A random number (splitmix64 over the seed; not for secrets).
    pub fn random_u64(&self) -> u64 {
        let (Kind::Real(rng) | Kind::Simulated { rng, .. }) = &*self.0;
        let mut state = rng.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A random number below `limit` (0 when `limit` is 0).
    pub fn random_below(&self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.random_u64() % limit }
    }

    /// Simulation: from now on [`Env::dawdle`] gives a little time now and then.
    pub fn let_dawdle(&self) {
        if let Kind::Simulated { dawdles, .. } = &*self.0 {
            dawdles.store(true, Relaxed);
        }
    }

    /// A little time for others to come in between, at a place where on a real node another thread could; else none.
    pub fn dawdle(&self) -> Option<std::time::Duration> {
        match &*self.0 {
            Kind::Simulated { dawdles, .. } if dawdles.load(Relaxed) => {
                let late = self.random_below(16) == 0;
                late.then(|| std::time::Duration::from_millis(1 + self.random_below(4)))
            }
            Kind::Simulated { .. } | Kind::Real(_) => None,
        }
    }

    /// 16 random bytes, as for a UUID.
    pub fn random_bytes(&self) -> [u8; 16] {
        ((u128::from(self.random_u64()) << 64) | u128::from(self.random_u64())).to_be_bytes()
    }

    /// Runs a task on the current runtime.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        match &*self.0 {
            Kind::Real(_) => drop(tokio::spawn(future)),
            Kind::Simulated { tasks, .. } => tasks.spawn(future),
        }
    }

    /// Runs a task on the current thread (an arbiter's, or one with a `LocalSet`).
    pub fn spawn_local(&self, future: impl Future<Output = ()> + 'static) {
        match &*self.0 {
            Kind::Real(_) => drop(tokio::task::spawn_local(future)),
            Kind::Simulated { tasks, .. } => tasks.spawn_local(future),
        }
    }

    /// Runs `start` on a thread of its own with a current-thread runtime; in simulation as a task. It waits for messages and
    /// timers only: without sockets a wake-up costs half.
    pub fn spawn_thread(
        &self,
        name: &str,
        start: impl FnOnce() -> LocalFuture + Send + 'static,
    ) -> std::io::Result<()> {
        self.spawn_on(name, Builder::enable_time, start)
    }

    /// As [`spawn_thread`](Self::spawn_thread), with sockets.
    pub fn spawn_socket_thread(
        &self,
        name: &str,
        start: impl FnOnce() -> LocalFuture + Send + 'static,
    ) -> std::io::Result<()> {
        self.spawn_on(name, Builder::enable_all, start)
    }

    fn spawn_on(
        &self,
        name: &str,
        enable: fn(&mut Builder) -> &mut Builder,
        start: impl FnOnce() -> LocalFuture + Send + 'static,
    ) -> std::io::Result<()> {
        match &*self.0 {
            Kind::Real(_) => {
                // A local runtime stays on the thread that made it: whether it can be made is heard from there.
                let (made, make) = std::sync::mpsc::channel();
                std::thread::Builder::new().name(name.into()).spawn(move || match local_runtime(enable) {
                    Ok(runtime) => {
                        let _ = made.send(Ok(()));
                        runtime.block_on(start());
                    }
                    Err(error) => drop(made.send(Err(error))),
                })?;
                make.recv().map_err(|_| std::io::Error::other("the thread ended while it started"))??;
            }
            Kind::Simulated { tasks, .. } => tasks.spawn_local(async move { start().await }),
        }
        Ok(())
    }
}

/// Tasks that run before sockets are looked at again, while there are any: each look is a system call, and what came
/// meanwhile is taken together.
const POLLS_PER_LOOK: u32 = 128;

/// A runtime of the current thread on which tasks may be local. All tasks stand in one queue: in a `LocalSet` beside a runtime
/// each wake-up from one to the other is a system call.
fn local_runtime(enable: fn(&mut Builder) -> &mut Builder) -> std::io::Result<LocalRuntime> {
    enable(Builder::new_current_thread().event_interval(POLLS_PER_LOOK)).build_local(LocalOptions::default())
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

thread_local! {
    static CURRENT: RefCell<Option<TaskSet>> = const { RefCell::new(None) };
}

/// All tasks of one simulated node's life.
#[derive(Clone, Default)]
pub struct TaskSet(Arc<Shared>);

#[derive(Default)]
struct Shared {
    label: u64,
    paused: AtomicBool,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    dead: bool,
    handles: Vec<AbortHandle>,
    /// Of tasks that were to run while the set was paused.
    waiting: Vec<Waker>,
}

impl TaskSet {
    /// An empty set that a simulation knows by this label.
    pub fn labelled(label: u64) -> TaskSet {
        TaskSet(Arc::new(Shared { label, ..Shared::default() }))
    }

    /// Its label; 0 without one.
    pub fn label(&self) -> u64 {
        self.0.label
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on no task of the set runs, as in a process that was stopped: what comes in waits, and time goes on.
    pub fn pause(&self) {
        self.0.paused.store(true, Relaxed);
    }

    /// The tasks run again, those first that waited longest.
    pub fn resume(&self) {
        self.0.paused.store(false, Relaxed);
        let waiting = std::mem::take(&mut self.tasks().waiting);
        waiting.iter().for_each(Waker::wake_by_ref);
    }

    /// The set of the task that is being polled on this thread.
    pub fn current() -> Option<TaskSet> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Spawns into this set.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.keep(tokio::spawn(Tagged { set: self.clone(), future: Box::pin(future) }).abort_handle());
    }

    /// Spawns into this set, on the thread's `LocalSet`.
    pub fn spawn_local(&self, future: impl Future<Output = ()> + 'static) {
        self.keep(tokio::task::spawn_local(Tagged { set: self.clone(), future: Box::pin(future) }).abort_handle());
    }

    /// Tags a future as belonging to this set without spawning it.
    pub fn tag<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        Tagged { set: self.clone(), future: Box::pin(future) }
    }

    /// Registers a task that was spawned elsewhere.
    pub fn keep(&self, handle: AbortHandle) {
        let mut tasks = self.tasks();
        if tasks.dead {
            handle.abort();
        } else {
            if tasks.handles.len() >= 64 && tasks.handles.len().is_power_of_two() {
                tasks.handles.retain(|h| !h.is_finished());
            }
            tasks.handles.push(handle);
        }
    }

    /// Drops all tasks of the set, and whatever they would still spawn.
    pub fn crash(&self) {
        let (handles, waiting) = {
            let mut tasks = self.tasks();
            tasks.dead = true;
            (std::mem::take(&mut tasks.handles), std::mem::take(&mut tasks.waiting))
        };
        drop(waiting);
        handles.iter().for_each(AbortHandle::abort);
    }
}

/// A future during whose polls its set is the current one.
struct Tagged<F> {
    set: TaskSet,
    future: Pin<Box<F>>,
}

/// Polls of tasks of this thread within a virtual second.
#[derive(Clone, Copy)]
struct Budget {
    most: u64,
    left: u64,
    until: tokio::time::Instant,
    spent: bool,
}

thread_local! {
    static BUDGET: std::cell::Cell<Option<Budget>> = const { std::cell::Cell::new(None) };
}

/// Simulation: how many polls the tasks of all [`TaskSet`]s of this thread may have per virtual second. When that is spent they
/// stand still for good, so that a livelock ends. Gives whether the bound before this one was spent.
pub fn limit_polls(per_second: Option<u64>) -> bool {
    let budget = per_second.map(|most| {
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(1);
        Budget { most, left: most, until, spent: false }
    });
    BUDGET.replace(budget).is_some_and(|before| before.spent)
}

/// Whether a task may be polled.
fn spend() -> bool {
    let Some(mut budget) = BUDGET.get() else { return true };
    if budget.left == 0 {
        let now = tokio::time::Instant::now();
        budget.spent |= now < budget.until;
        budget.left = budget.most;
        budget.until = now + std::time::Duration::from_secs(1);
    }
    budget.left -= 1;
    BUDGET.set(Some(budget));
    !budget.spent
}

impl<F: Future> Future for Tagged<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.set.0.paused.load(Relaxed) {
            self.set.tasks().waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        if !spend() {
            return Poll::Pending;
        }
        let before = CURRENT.replace(Some(self.set.clone()));
        let poll = self.future.as_mut().poll(cx);
        CURRENT.replace(before);
        poll
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, rc::Rc, time::Duration};

    #[tokio::test(start_paused = true)]
    async fn a_paused_set_stands_still_and_goes_on_where_it_was() {
        let local = tokio::task::LocalSet::new();
        let (tasks, ticks) = (TaskSet::default(), Rc::new(Cell::new(0)));
        let counts = ticks.clone();
        local
            .run_until(async {
                tasks.spawn_local(async move {
                    loop {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        counts.set(counts.get() + 1);
                    }
                });
                tokio::time::sleep(Duration::from_millis(55)).await;
                assert_eq!(ticks.get(), 5);
                tasks.pause();
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(ticks.get(), 5, "nothing runs");
                tasks.resume();
                tokio::time::sleep(Duration::from_millis(25)).await;
                assert_eq!(ticks.get(), 8, "the one that was due, and two more");
                tasks.pause();
                tasks.crash();
                tasks.resume();
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!((ticks.get(), Rc::strong_count(&ticks)), (8, 1), "a crash ends what is paused");
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_that_spins_stands_still_and_time_goes_on() {
        let local = tokio::task::LocalSet::new();
        let tasks = TaskSet::default();
        local
            .run_until(async {
                limit_polls(Some(1_000));
                tasks.spawn_local(async {
                    for _ in 0..2_000 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                });
                tokio::time::sleep(Duration::from_secs(5)).await;
                assert!(!limit_polls(Some(1_000)), "many polls, over time");
                tasks.spawn_local(async {
                    loop {
                        tokio::task::yield_now().await;
                    }
                });
                tokio::time::sleep(Duration::from_secs(5)).await;
                assert!(limit_polls(None));
            })
            .await;
    }
}
