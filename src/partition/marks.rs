//! Marks of a partition as atomics: one writer (the partition's actor), any number of readers.

use crate::{limits, types::NodeId};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads the epoch of the marks.
    Leader,
    /// It follows, or nobody leads that it knows of.
    Follower,
    /// It has failed, was removed, or has not opened its log yet: nothing is served.
    Gone,
}

/// Marks at one instant. `log_start ≤ stable ≤ high_watermark`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// First offset that is still there.
    pub log_start: u64,
    /// Consumers that read committed transactions only see what is below it.
    pub stable: u64,
    /// The next offset that is not yet there.
    pub high_watermark: u64,
    /// Bytes of batches ever appended below the watermark, as this replica counted them since it started.
    pub bytes_at_hw: u64,
    /// The leader's epoch: Raft's term.
    pub epoch: u64,
    /// What this replica is.
    pub role: Role,
    /// Leader: the first entry of its epoch is applied. Follower: it is open, and where it was before it
    /// failed in this boot. Else nothing is served.
    pub ready: bool,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
}

/// The atomics.
///
/// Rising marks are stored from the highest to the lowest and read from the lowest to the highest, so that a reader
/// never sees them out of order. Epoch and role are one word: a session that saw the new epoch with the old role would park
/// at a replica that leads no more, and nobody would tell it.
#[derive(Default)]
pub(super) struct MarkCells {
    log_start: AtomicU64,
    stable: AtomicU64,
    high_watermark: AtomicU64,
    bytes_at_hw: AtomicU64,
    /// 0 is nobody.
    leader: AtomicU32,
    /// Bit 0 ready, bits 1–2 role, 0 while never written; the epoch above them.
    standing: AtomicU64,
}

/// Below the epoch in the word that it shares with role and readiness.
const STANDING_BITS: u32 = 3;

const _: () = assert!(limits::TERM_MAX < u64::MAX >> STANDING_BITS);

impl MarkCells {
    pub(super) fn read(&self) -> Marks {
        let standing = self.standing.load(Ordering::Acquire);
        let leader = self.leader.load(Ordering::Acquire);
        let log_start = self.log_start.load(Ordering::Acquire);
        let stable = self.stable.load(Ordering::Acquire);
        // Bytes first: a session may see a watermark that is newer than the bytes, and then waits for fewer bytes too many.
        let bytes_at_hw = self.bytes_at_hw.load(Ordering::Acquire);
        let high_watermark = self.high_watermark.load(Ordering::Acquire);
        Marks {
            log_start,
            stable,
            high_watermark,
            bytes_at_hw,
            epoch: standing >> STANDING_BITS,
            role: match (standing >> 1) & 3 {
                1 => Role::Leader,
                2 => Role::Follower,
                _ => Role::Gone,
            },
            ready: standing & 1 == 1,
            leader: (leader != 0).then_some(NodeId(leader)),
        }
    }

    pub(super) fn write(&self, marks: &Marks) {
        assert!(
            marks.log_start <= marks.stable && marks.stable <= marks.high_watermark,
            "marks out of order: {marks:?}"
        );
        let before = self.high_watermark.load(Ordering::Relaxed);
        assert!(before <= marks.high_watermark, "the watermark went back from {before} to {}", marks.high_watermark);
        self.high_watermark.store(marks.high_watermark, Ordering::Release);
        self.bytes_at_hw.store(marks.bytes_at_hw, Ordering::Release);
        self.stable.store(marks.stable, Ordering::Release);
        self.log_start.store(marks.log_start, Ordering::Release);
        self.leader.store(marks.leader.map_or(0, |node| node.0), Ordering::Release);
        let role = match marks.role {
            Role::Leader => 1,
            Role::Follower => 2,
            Role::Gone => 3,
        };
        let standing = (marks.epoch << STANDING_BITS) | (role << 1) | u64::from(marks.ready);
        self.standing.store(standing, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks {
        log_start: 1,
        stable: 3,
        high_watermark: 3,
        bytes_at_hw: 70,
        epoch: 0,
        role: Role::Gone,
        ready: false,
        leader: None,
    };

    #[test]
    fn what_is_written_is_read() {
        let cells = MarkCells::default();
        assert_eq!(cells.read().role, Role::Gone, "nothing is served before the first write");
        for role in [Role::Leader, Role::Follower, Role::Gone] {
            for (epoch, ready) in [(0, true), (7, false), (limits::TERM_MAX, true)] {
                let marks = Marks { epoch, role, ready, leader: Some(NodeId(2)), ..MARKS };
                cells.write(&marks);
                assert_eq!(cells.read(), marks);
            }
        }
    }

    /// A replica leads in odd epochs and follows in even ones: nobody sees it otherwise while it is written.
    #[test]
    fn an_epoch_is_never_seen_with_the_role_of_another() {
        const EPOCHS: u64 = 300_000;
        let cells = MarkCells::default();
        let at = |epoch: u64| {
            let role = if epoch % 2 == 1 { Role::Leader } else { Role::Follower };
            Marks { epoch, role, ready: true, ..MARKS }
        };
        cells.write(&at(1));
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=EPOCHS).for_each(|epoch| cells.write(&at(epoch))));
            loop {
                let seen = cells.read();
                assert_eq!(seen.role, at(seen.epoch).role, "in epoch {}", seen.epoch);
                if seen.epoch == EPOCHS {
                    break;
                }
            }
        });
    }
}
