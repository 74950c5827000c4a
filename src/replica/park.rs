//! Who waits for which mark. **The wake-up rule:**
//!
//! 1. One actor is the only writer of a partition's marks *and* of this table; both change in the same turn.
//! 2. Advance: store the marks, answer acks, then take out every waiter whose mark is reached and fire it.
//! 3. Park: **compare first, insert second.** A session that read an old mark is fired in the same turn.
//! 4. A fire is one-shot, idempotent and carries the waiter's token; it is a hint: the session decides from the marks.
//! 5. Whatever makes waiting pointless fires everybody: role, term, log start, deletion, shutdown.
//! 6. A dropped [`Waiter`] fires from its `Drop`: a `Park` lost in a mailbox is heard of.
//!
//! **Invariant:** at the end of a turn no parked waiter is satisfied by the marks.

use crate::{
    limits,
    sabotage::{self, Bug},
};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Which mark a waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeAt {
    /// `bytes_at_hw` has reached this.
    Bytes(u64),
    /// The high watermark has reached this.
    Offset(u64),
}

/// Why a waiter was fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its mark is reached.
    Ready,
    /// Role or epoch changed.
    Moved,
    /// The log start moved.
    Truncated,
    /// The replica is gone from this node, or the node shuts down.
    Gone,
}

/// A fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fired {
    /// The waiter's token.
    pub token: u64,
    /// Why.
    pub why: Why,
}

/// Takes fires for the sessions of one arbiter. Called in a partition's turn: must only hand over.
pub trait Doorman: Send + Sync + 'static {
    /// At most [`limits::FIRES_PER_MESSAGE_MAX`] at a time.
    fn ring(&self, fires: Vec<Fired>);
}

/// Whom to wake. The token is unique on the node, chosen by the session.
pub struct Waiter(Option<(Arc<dyn Doorman>, u64)>);

impl Waiter {
    /// A waiter behind `doorman`.
    pub fn new(doorman: Arc<dyn Doorman>, token: u64) -> Self {
        Self(Some((doorman, token)))
    }

    /// Its token.
    pub fn token(&self) -> u64 {
        self.0.as_ref().map_or(0, |(_, token)| *token)
    }

    /// Forgets it: its session asked for that.
    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some((doorman, token)) = self.0.take() {
            doorman.ring(vec![Fired { token, why: Why::Gone }]);
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waiter({})", self.token())
    }
}

/// The waiters of one partition.
#[derive(Default)]
pub struct Parked {
    by_bytes: BTreeMap<(u64, u64), Waiter>,
    by_offset: BTreeMap<(u64, u64), Waiter>,
    places: BTreeMap<u64, WakeAt>,
    fires: Fires,
}

impl Parked {
    /// Compares, then inserts. `epoch_differs`: what the session assumed is over.
    pub fn park(&mut self, wake_at: WakeAt, waiter: Waiter, bytes: u64, offset: u64, epoch_differs: bool) {
        let token = waiter.token();
        self.unpark(token);
        if epoch_differs {
            return self.fires.add(waiter, Why::Moved);
        }
        let reached = match wake_at {
            WakeAt::Bytes(at) => bytes >= at,
            WakeAt::Offset(at) => offset >= at,
        };
        if reached && !sabotage::on(Bug::ParkBlind) {
            return self.fires.add(waiter, Why::Ready);
        }
        self.places.insert(token, wake_at);
        match wake_at {
            WakeAt::Bytes(at) => self.by_bytes.insert((at, token), waiter),
            WakeAt::Offset(at) => self.by_offset.insert((at, token), waiter),
        };
    }

    /// Forgets a waiter without firing it.
    pub fn unpark(&mut self, token: u64) {
        let waiter = match self.places.remove(&token) {
            Some(WakeAt::Bytes(at)) => self.by_bytes.remove(&(at, token)),
            Some(WakeAt::Offset(at)) => self.by_offset.remove(&(at, token)),
            None => None,
        };
        if let Some(waiter) = waiter {
            waiter.forget();
        }
    }

    /// The marks have risen to these: takes out all that are satisfied.
    pub fn advance(&mut self, bytes: u64, offset: u64) {
        for (map, mark) in [(&mut self.by_bytes, bytes), (&mut self.by_offset, offset)] {
            while let Some(first) = map.first_entry()
                && first.key().0 <= mark
            {
                let waiter = first.remove();
                self.places.remove(&waiter.token());
                self.fires.add(waiter, Why::Ready);
            }
        }
    }

    /// Waiting is pointless for all.
    pub fn fire_all(&mut self, why: Why) {
        self.places.clear();
        for map in [&mut self.by_bytes, &mut self.by_offset] {
            for waiter in std::mem::take(map).into_values() {
                self.fires.add(waiter, why);
            }
        }
    }

    /// Rings for all that was fired since the last call, and tells `each`. After the acks.
    pub fn ring(&mut self, each: impl FnMut(&Fired)) {
        let fires = std::mem::take(&mut self.fires);
        fires.0.iter().flat_map(|(_, fired)| fired).for_each(each);
        fires.ring();
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether a parked waiter is satisfied: never true at the end of a turn.
    pub fn is_satisfiable(&self, bytes: u64, offset: u64) -> bool {
        self.by_bytes.first_key_value().is_some_and(|(key, _)| key.0 <= bytes)
            || self.by_offset.first_key_value().is_some_and(|(key, _)| key.0 <= offset)
    }
}

/// Fires gathered over a turn, by doorman in order of first use.
#[derive(Default)]
struct Fires(Vec<(Arc<dyn Doorman>, Vec<Fired>)>);

impl Fires {
    fn add(&mut self, mut waiter: Waiter, why: Why) {
        let Some((doorman, token)) = waiter.0.take() else { return };
        let fired = Fired { token, why };
        match self.0.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &doorman)) {
            Some((_, fires)) => fires.push(fired),
            None => self.0.push((doorman, vec![fired])),
        }
    }

    fn ring(self) {
        for (doorman, fires) in self.0 {
            if fires.len() <= limits::FIRES_PER_MESSAGE_MAX {
                doorman.ring(fires);
            } else {
                fires.chunks(limits::FIRES_PER_MESSAGE_MAX).for_each(|some| doorman.ring(some.to_vec()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeSet, sync::Mutex};

    #[derive(Default)]
    struct Bell(Mutex<Vec<Fired>>);
    impl Doorman for Bell {
        fn ring(&self, fires: Vec<Fired>) {
            self.0.lock().unwrap().extend(fires);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Park { bytes: bool, at: u64, stale: bool },
        Unpark(usize),
        Advance { bytes: u64, records: u64 },
        FireAll,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (any::<bool>(), 0..400u64, prop::bool::weighted(0.1)).prop_map(|(bytes, at, stale)| Step::Park { bytes, at, stale }),
            1 => (0..20usize).prop_map(Step::Unpark),
            3 => (0..60u64, 0..40u64).prop_map(|(bytes, records)| Step::Advance { bytes, records }),
            1 => Just(Step::FireAll),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn parked_and_satisfiable_is_impossible_and_each_fires_once(steps in steps()) {
            let bell = Arc::new(Bell::default());
            let (mut parked, mut bytes, mut offset, mut token) = (Parked::default(), 0, 0, 0);
            let mut waiting = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Park { bytes: by_bytes, at, stale } => {
                        token += 1;
                        waiting.insert(token);
                        let at = if by_bytes { WakeAt::Bytes(at) } else { WakeAt::Offset(at) };
                        parked.park(at, Waiter::new(bell.clone(), token), bytes, offset, stale);
                    }
                    Step::Unpark(nth) => {
                        if let Some(token) = waiting.iter().nth(nth).copied() {
                            parked.unpark(token);
                            waiting.remove(&token);
                        }
                    }
                    Step::Advance { bytes: more, records } => {
                        bytes += more;
                        offset += records;
                        parked.advance(bytes, offset);
                    }
                    Step::FireAll => parked.fire_all(Why::Moved),
                }
                parked.ring(|_| ());
                for fired in bell.0.lock().unwrap().drain(..) {
                    prop_assert!(waiting.remove(&fired.token), "{fired:?} fired twice or after it was forgotten");
                }
                prop_assert!(!parked.is_satisfiable(bytes, offset));
                prop_assert_eq!(parked.len(), waiting.len());
            }
            drop(parked);
            for fired in bell.0.lock().unwrap().drain(..) {
                prop_assert_eq!(fired.why, Why::Gone);
                prop_assert!(waiting.remove(&fired.token));
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
