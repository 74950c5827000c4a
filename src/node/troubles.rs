//! Replicas of this node that are not well: why, and when each is opened again. It is told the time.
//!
//! | what | what follows |
//! |---|---|
//! | it failed | opened again at once; when it fails again within [`STEADY`], after a pause that doubles from [`PAUSE`] on |
//! | its data are damaged | another replica takes its place |
//! | it needs a segment that is damaged | it waits, closed, for a peer's |
//!
//! **Invariant:** what a replica served before it failed is kept: opened again in the same boot, it serves nothing before it
//! is there again.

use crate::partition::{Handle, Marks};
use highwater_raft::{GroupId, ReplicaId};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// A replica that ran for so long has not failed before.
const STEADY: Duration = Duration::from_secs(600);
/// What fails again at once stays out for so long: what made it fail is in its log, most likely.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Troubles {
    falls: BTreeMap<GroupId, Fall>,
    served: BTreeMap<GroupId, Served>,
    /// Their data are damaged: why.
    pub(super) damaged: BTreeMap<GroupId, (ReplicaId, String)>,
    /// They need a segment that is damaged, and are opened when a peer's is in its place.
    pub(super) waiting: BTreeSet<GroupId>,
}

/// How often one failed in a row, and when it was or is opened again.
struct Fall {
    times: u32,
    back: Instant,
}

/// What a replica served in this boot.
struct Served {
    replica: ReplicaId,
    /// Up to the failure before the last one.
    marks: Option<Marks>,
    /// The one that failed last: until it is closed it may serve more.
    last: Option<Handle>,
}

impl Troubles {
    /// A replica failed; for how long it stays out.
    pub(super) fn fell(&mut self, group: GroupId, now: Instant) -> Duration {
        let fall = self.falls.entry(group).or_insert(Fall { times: 0, back: now });
        if now.saturating_duration_since(fall.back) > STEADY {
            fall.times = 0;
        }
        let pause = match fall.times {
            0 => Duration::ZERO,
            times => PAUSE.saturating_mul(1 << (times - 1).min(16)).min(STEADY),
        };
        *fall = Fall { times: fall.times + 1, back: now + pause };
        pause
    }

    /// Another replica takes its place.
    pub(super) fn lost(&mut self, group: GroupId, replica: ReplicaId, why: String) {
        self.falls.remove(&group);
        self.damaged.insert(group, (replica, why));
    }

    /// Its replica is removed: what was said of it concerns no other.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.falls.remove(&group);
        self.served.remove(&group);
        self.damaged.remove(&group);
        self.waiting.remove(&group);
    }

    /// Which ones stay out.
    pub(super) fn out(&self, now: Instant) -> BTreeSet<GroupId> {
        self.falls.iter().filter(|(_, fall)| fall.back > now).map(|(group, _)| *group).collect()
    }

    /// When the next one of them comes back.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.falls
            .values()
            .filter_map(|fall| fall.back.checked_duration_since(now))
            .filter(|left| !left.is_zero())
            .min()
    }

    /// A replica failed that served something.
    pub(super) fn keep(&mut self, group: GroupId, replica: ReplicaId, handle: Handle) {
        let marks = self.served(group, replica);
        self.served.insert(group, Served { replica, marks, last: Some(handle) });
    }

    /// What a replica served before it failed in this boot. Ask when it is closed.
    pub(super) fn served(&mut self, group: GroupId, replica: ReplicaId) -> Option<Marks> {
        let served = self.served.get_mut(&group).filter(|served| served.replica == replica)?;
        if let Some(last) = served.last.take().map(|handle| handle.marks()) {
            served.marks = Some(served.marks.map_or(last, |before| Marks {
                log_start: before.log_start.max(last.log_start),
                high_watermark: before.high_watermark.max(last.high_watermark),
                ..last
            }));
        }
        served.marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_steadiness_forgives() {
        let (mut troubles, group) = (Troubles::default(), GroupId(7));
        let (begun, secs) = (Instant::now(), Duration::from_secs);
        let mut now = begun;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let pause = troubles.fell(group, now);
            assert_eq!(troubles.out(now).contains(&group), !pause.is_zero());
            assert_eq!(troubles.next(now), (!pause.is_zero()).then_some(pause));
            pauses.push(pause.as_secs());
            // It fails as soon as it is back.
            now += pause;
            assert!(troubles.out(now).is_empty());
        }
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(troubles.fell(group, now + STEADY + secs(1)), Duration::ZERO);
        assert_eq!(troubles.fell(GroupId(8), now), Duration::ZERO, "each for itself");
    }
}
