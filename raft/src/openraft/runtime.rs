//! tokio as openraft's runtime, with three changes: tasks that openraft spawns join the task set of the task that spawns
//! them, so that a simulated crash takes them too; random numbers come from a seed of ours; and watch channels are ours,
//! which cost less (`watch`).

use crate::env::{Env, TaskSet};
use futures_util::FutureExt;
use openraft_rt::{AsyncRuntime, OptionalSend, deterministic_rng::DeterministicRng};
use openraft_rt_tokio::TokioRuntime;
use std::{cell::Cell, future::Future, time::Duration};

type Rng = <DeterministicRng<TokioRuntime> as AsyncRuntime>::ThreadLocalRng;

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Seeds what openraft draws on this thread (election time-outs).
pub(super) fn seed(env: &Env) {
    SEED.set(env.random_u64());
}

/// See the module.
pub(crate) struct Runtime(TokioRuntime);

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Rng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = super::watch::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match TaskSet::current() {
            Some(set) => {
                let handle = TokioRuntime::spawn(set.tag(future));
                set.keep(handle.abort_handle());
                handle
            }
            None => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        let seed = SEED.replace(SEED.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let draw =
            DeterministicRng::<TokioRuntime>::scope(seed, async { DeterministicRng::<TokioRuntime>::thread_rng() });
        draw.now_or_never().expect("it waits for nothing")
    }

    fn new(threads: usize) -> Self {
        Runtime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
