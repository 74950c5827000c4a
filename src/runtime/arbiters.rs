//! Threads for actors. A real node owns some; in simulation everything runs on the thread that is there. Placement goes through [`Arbiters::run`] only.

use crate::advice::{Advice, Reaction};
use actix::{Actor, Addr, AsyncContext, Context};
use highwater_raft::env::Env;
use std::{
    future::Future,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// The arbiters of one node. Clones share.
#[derive(Clone)]
pub struct Arbiters(Arc<Kind>);

enum Kind {
    Here,
    Own { arbiters: Vec<Arbiter>, beats: Beats },
}

/// A thread of actors.
struct Arbiter(Mutex<Option<mpsc::UnboundedSender<Begin>>>);

/// Starts something on the thread it is sent to.
type Begin = Box<dyn FnOnce() + Send>;

/// When each arbiter last ran a task, microseconds since the start.
#[derive(Clone)]
struct Beats(Arc<(Instant, Vec<AtomicU64>)>);

/// From beat to beat of an arbiter.
const BEAT: Duration = Duration::from_millis(250);

impl Beats {
    fn new(count: usize) -> Self {
        Self(Arc::new((Instant::now(), (0..count).map(|_| AtomicU64::new(0)).collect())))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Runs on arbiter `n` until its thread ends.
    async fn run(self, n: usize) {
        loop {
            self.0.1[n].store(self.now(), Relaxed);
            tokio::time::sleep(BEAT).await;
        }
    }

    fn ages(&self) -> Vec<Duration> {
        let now = self.now();
        self.0.1.iter().map(|beat| Duration::from_micros(now.saturating_sub(beat.load(Relaxed)))).collect()
    }
}

/// An arbiter does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArbitersError {
    /// Its thread has ended.
    #[error("arbiter {arbiter} has stopped")]
    Stopped {
        /// Which one.
        arbiter: usize,
    },
}

impl Advice for ArbitersError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Stopped { .. } => Reaction::Stop,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Stopped { .. } => {
                "restart the node; if it was not stopping, report the lines of its log before this".into()
            }
        }
    }
}

impl Arbiters {
    /// Everything on the current thread, which must be in a `LocalSet`: the simulation, and tests.
    pub fn here() -> Self {
        Self(Arc::new(Kind::Here))
    }

    /// `count` threads `name`-0, `name`-1, …
    pub fn own(name: &str, count: usize) -> io::Result<Self> {
        let count = count.max(1);
        let arbiters = (0..count).map(|n| Arbiter::start(&format!("{name}-{n}"))).collect::<io::Result<Vec<_>>>()?;
        let beats = Beats::new(count);
        for (n, arbiter) in arbiters.iter().enumerate() {
            let beats = beats.clone();
            arbiter.begin(move || drop(tokio::task::spawn_local(beats.run(n))));
        }
        Ok(Self(Arc::new(Kind::Own { arbiters, beats })))
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        match &*self.0 {
            Kind::Here => 1,
            Kind::Own { arbiters, .. } => arbiters.len(),
        }
    }

    /// How long ago each arbiter last ran a task, for what vouches for them on another thread. In simulation one thread runs
    /// everything: nothing to say.
    pub fn ages(&self) -> Vec<Duration> {
        match &*self.0 {
            Kind::Here => Vec::new(),
            Kind::Own { beats, .. } => beats.ages(),
        }
    }

    /// Which arbiter `key` belongs to, for life.
    pub fn of(&self, key: u64) -> usize {
        let len = u64::try_from(self.len()).expect("a count of threads");
        // Fibonacci hashing: neighbouring groups of a topic land on different arbiters whatever their stride.
        usize::try_from((key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % len).expect("below len")
    }

    /// Runs `start` on the arbiter and gives its result. The future stays on that thread.
    pub async fn run<T, F, S>(&self, env: &Env, arbiter: usize, start: S) -> Result<T, ArbitersError>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        S: FnOnce() -> F + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let on_it = env.clone();
        let begin = move || {
            on_it.spawn_local(async move {
                let _ = answer.send(start().await);
            });
        };
        match &*self.0 {
            Kind::Here => begin(),
            Kind::Own { arbiters, .. } => {
                if !arbiters[arbiter].begin(begin) {
                    return Err(ArbitersError::Stopped { arbiter });
                }
            }
        }
        answered.await.map_err(|_| ArbitersError::Stopped { arbiter })
    }

    /// Stops the threads. What still runs on them is dropped.
    pub fn stop(&self) {
        if let Kind::Own { arbiters, .. } = &*self.0 {
            arbiters.iter().for_each(Arbiter::stop);
        }
    }
}

impl Arbiter {
    fn start(name: &str) -> io::Result<Self> {
        let (queue, mut begins) = mpsc::unbounded_channel::<Begin>();
        Env::real().spawn_socket_thread(name, || {
            Box::pin(async move {
                while let Some(begin) = begins.recv().await {
                    begin();
                }
            })
        })?;
        Ok(Self(Mutex::new(Some(queue))))
    }

    fn queue(&self) -> MutexGuard<'_, Option<mpsc::UnboundedSender<Begin>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it still runs, and will call this.
    fn begin(&self, begin: impl FnOnce() + Send + 'static) -> bool {
        self.queue().as_ref().is_some_and(|queue| queue.send(Box::new(begin)).is_ok())
    }

    fn stop(&self) {
        self.queue().take();
    }
}

/// Starts an actor on the current arbiter, as a task of the node (so that a simulated crash drops it).
pub fn start<A: Actor<Context = Context<A>>>(env: &Env, create: impl FnOnce(&mut Context<A>) -> A) -> Addr<A> {
    let mut context = Context::new();
    let actor = create(&mut context);
    let address = context.address();
    env.spawn_local(async move {
        context.into_future(actor).await;
    });
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_over_arbiters_that_live_on_their_own_threads() {
        let arbiters = Arbiters::own("test-actors", 3).unwrap();
        let mut counts = [0; 3];
        for group in 1024..1024 + 300 {
            counts[arbiters.of(group)] += 1;
        }
        assert!(counts.iter().all(|n| (70..=130).contains(n)), "{counts:?}");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ids: Vec<_> = (0..3)
            .map(|i| runtime.block_on(arbiters.run(&Env::real(), i, || async { std::thread::current().id() })).unwrap())
            .collect();
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
        arbiters.stop();
    }

    #[test]
    fn an_arbiter_that_is_stuck_is_not_vouched_for() {
        let arbiters = Arbiters::own("test-stuck", 2).unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let Kind::Own { arbiters: threads, .. } = &*arbiters.0 else { unreachable!("made above") };
        threads[1].begin(move || {
            let _ = held.recv();
        });
        // Until the stuck one is older than any that runs ever gets; the other one goes on meanwhile.
        let stuck = loop {
            let ages = arbiters.ages();
            if ages[1] > 4 * BEAT {
                break ages;
            }
            std::thread::yield_now();
        };
        assert!(stuck[0] < stuck[1], "{stuck:?}");
        drop(release);
        while arbiters.ages()[1] > 2 * BEAT {
            std::thread::yield_now();
        }
        arbiters.stop();
    }
}
