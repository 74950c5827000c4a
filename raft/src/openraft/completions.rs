//! The way back from the log's threads to the runtimes that groups run on.
//!
//! **Invariant:** what one thread of the log sends is taken in that order. All that a flush completes is one wake-up of a
//! runtime, not one for each task that waits for it.

use crate::{env::Env, log::Done};
use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError},
    thread::{self, ThreadId},
};
use tokio::sync::mpsc;

/// What one wake-up takes at most before others have their turn.
const AT_ONCE: usize = 1024;

type Completed = (Done, io::Result<()>);

/// One way per runtime of a node.
#[derive(Default)]
pub(super) struct Completions(Mutex<HashMap<ThreadId, mpsc::WeakUnboundedSender<Completed>>>);

/// Leads to the runtime of the thread that asked for it. Clones share; with the last one it ends.
#[derive(Clone)]
pub(super) struct Way(mpsc::UnboundedSender<Completed>);

impl Completions {
    /// To the current runtime, which has one thread.
    pub(super) fn here(&self, env: &Env) -> Way {
        let mut ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let way = ways.entry(thread::current().id());
        if let std::collections::hash_map::Entry::Occupied(way) = &way
            && let Some(sender) = way.get().upgrade()
        {
            return Way(sender);
        }
        let (sender, mut completed) = mpsc::unbounded_channel::<Completed>();
        env.spawn(async move {
            let mut taken = Vec::new();
            while completed.recv_many(&mut taken, AT_ONCE).await > 0 {
                for (done, result) in taken.drain(..) {
                    done(result);
                }
            }
        });
        way.insert_entry(sender.downgrade());
        Way(sender)
    }
}

impl Way {
    /// Calls `done` there.
    pub(super) fn back(&self, done: impl FnOnce(io::Result<()>) + Send + 'static) -> Done {
        let way = self.clone();
        Box::new(move |result| {
            // Nobody is there any more: then nobody waits.
            let _ = way.0.send((Box::new(done), result));
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_another_thread_completes_is_taken_here_and_in_its_order() {
        let completions = Completions::default();
        let way = completions.here(&Env::real());
        let other = completions.here(&Env::real());
        assert!(way.0.same_channel(&other.0), "one way per runtime");
        let (here, taken) = (thread::current().id(), Arc::new(Mutex::new(Vec::new())));
        let (all, done) = oneshot::channel();
        let mut waiting: Vec<Done> = Vec::new();
        for n in 0..3 * AT_ONCE {
            let taken = taken.clone();
            let way = if n % 2 == 0 { &way } else { &other };
            waiting
                .push(way.back(move |result| taken.lock().unwrap().push((thread::current().id(), n, result.is_ok()))));
        }
        waiting.push(way.back(move |_| all.send(()).unwrap()));
        let complete = move || {
            for (n, done) in waiting.into_iter().enumerate() {
                done(if n % 5 == 0 { Err(io::ErrorKind::Other.into()) } else { Ok(()) });
            }
        };
        Env::real().spawn_thread("test-log", move || Box::pin(async move { complete() })).unwrap();
        done.await.unwrap();
        let expected: Vec<_> = (0..3 * AT_ONCE).map(|n| (here, n, n % 5 != 0)).collect();
        assert!(*taken.lock().unwrap() == expected);
    }

    #[test]
    fn a_runtime_that_is_gone_is_told_nothing_and_the_next_one_has_its_own_way() {
        let completions = Completions::default();
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let late = runtime().block_on(async { completions.here(&Env::real()).back(|_| panic!("nobody is there")) });
        late(Ok(()));
        runtime().block_on(async {
            let (told, heard) = oneshot::channel();
            completions.here(&Env::real()).back(move |_| told.send(()).unwrap())(Ok(()));
            heard.await.unwrap();
        });
    }
}
