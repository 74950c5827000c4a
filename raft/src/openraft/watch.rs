//! Watch channels for openraft, which sends on several of them for each entry, often while nobody waits: such a send
//! takes the value's lock and no other. What they do is what tokio's do.
//!
//! **Invariant:** the version counts the values; it changes only under the value's write lock, so that whoever holds
//! the value's lock knows the version of what it reads.
//! **Invariant:** no wake-up is lost. A receiver enters its waker, *then* reads senders and version once more; a sender
//! raises the version (the last one: takes itself out), *then* reads how many wait. All four are `SeqCst`, so at least
//! one of the two sees the other. A sender that sees anyone takes the whole list; who enters after that reads a newer
//! version, since both hold the list's lock.
//! **Invariant:** wakers are called and dropped outside of all locks: either may run a task, or drop one with its
//! receivers.
//! **Invariant:** a receiver has at most one waker in the list. It stays when `changed` is dropped, for most are called
//! again at once by the same task (`select`); a send may then wake that task in vain. It goes with the receiver.
//!
//! A closure or holder of a guard that panics leaves the value as it then is; the locks' poison is ignored.

use openraft_rt::{
    OptionalSend, OptionalSync, RecvError,
    watch::{SendError, Watch as Watches, WatchReceiver, WatchSender},
};
use smallvec::SmallVec;
use std::{
    future::poll_fn,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Waker},
};
use tokio::task::coop;

/// See the module.
pub(crate) struct Watch;

/// Sends values. With the last clone `changed` ends.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// Sees the newest value. A clone has seen what the original has.
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The version that it saw last.
    seen: u64,
    /// What its waker is known by, once it has waited.
    waiter: Option<u64>,
}

struct Shared<T> {
    value: RwLock<T>,
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    waiting: Waiting,
}

/// Who waits.
#[derive(Default)]
struct Waiting {
    /// As many as are in the list; written under its lock.
    count: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    waiters: u64,
    /// In the order in which they came.
    wakers: SmallVec<[(u64, Waker); 4]>,
}

impl Watches for Watch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let sender = Sender(Arc::new(Shared {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            waiting: Waiting::default(),
        }));
        let receiver = sender.subscribe();
        (sender, receiver)
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<Watch, T> for Sender<T> {
    fn send(&self, mut value: T) -> Result<(), SendError<T>> {
        // Only a hint, as others may come and go meanwhile.
        if self.0.receivers.load(Relaxed) == 0 {
            return Err(SendError(value));
        }
        // The old value is dropped when all locks are free.
        self.send_if_modified(|old| {
            mem::swap(old, &mut value);
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        if !modify(&mut value) {
            return false;
        }
        self.0.version.fetch_add(1, SeqCst);
        drop(value);
        self.0.waiting.wake_all();
        true
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver::new(&self.0, self.0.version.load(SeqCst))
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Relaxed);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, SeqCst) == 1 {
            self.0.waiting.wake_all();
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        coop::cooperative(poll_fn(|cx| self.poll_changed(cx))).await
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.shared.read()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.version.load(SeqCst);
        value
    }
}

impl<T> Receiver<T> {
    fn new(shared: &Arc<Shared<T>>, seen: u64) -> Self {
        shared.receivers.fetch_add(1, Relaxed);
        Self { shared: shared.clone(), seen, waiter: None }
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RecvError>> {
        if let Some(changed) = self.news() {
            return Poll::Ready(changed);
        }
        self.shared.waiting.enter(&mut self.waiter, cx.waker());
        // A sender that came before the waker did not see it.
        self.news().map_or(Poll::Pending, Poll::Ready)
    }

    fn news(&mut self) -> Option<Result<(), RecvError>> {
        // Senders first: what the last one sent comes before its end.
        let closed = self.shared.senders.load(SeqCst) == 0;
        let version = self.shared.version.load(SeqCst);
        if mem::replace(&mut self.seen, version) != version {
            return Some(Ok(()));
        }
        closed.then_some(Err(RecvError(())))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self::new(&self.shared, self.seen)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Relaxed);
        if let Some(waiter) = self.waiter {
            self.shared.waiting.leave(waiter);
        }
    }
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a waker, in the place of the waiter's former one.
    fn enter(&self, waiter: &mut Option<u64>, waker: &Waker) {
        let mut list = self.lock();
        let waiter = *waiter.get_or_insert_with(|| {
            list.waiters += 1;
            list.waiters
        });
        let former = match list.wakers.iter_mut().find(|(of, _)| *of == waiter) {
            Some((_, former)) if former.will_wake(waker) => None,
            Some((_, former)) => Some(mem::replace(former, waker.clone())),
            None => {
                list.wakers.push((waiter, waker.clone()));
                None
            }
        };
        self.count.store(list.wakers.len(), SeqCst);
        drop(list);
        drop(former);
    }

    fn leave(&self, waiter: u64) {
        if self.count.load(SeqCst) == 0 {
            return;
        }
        let mut list = self.lock();
        let place = list.wakers.iter().position(|(of, _)| *of == waiter);
        let former = place.map(|place| list.wakers.remove(place));
        self.count.store(list.wakers.len(), SeqCst);
        drop(list);
        drop(former);
    }

    fn wake_all(&self) {
        if self.count.load(SeqCst) == 0 {
            return;
        }
        let mut list = self.lock();
        let wakers = mem::take(&mut list.wakers);
        self.count.store(0, SeqCst);
        drop(list);
        for (_, waker) in wakers {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;
