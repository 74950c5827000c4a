//! Write gaps: how long a partition went without an acknowledgement around the kill of its leader.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};
use tokio::time::Instant;

/// Times of acknowledgements per partition.
pub(super) type Acks = Rc<RefCell<BTreeMap<u32, Vec<Instant>>>>;

/// Kills, and what they did.
pub(super) struct Gaps {
    acks: Acks,
    kills: Vec<(Instant, Vec<u32>)>,
}

impl Gaps {
    pub(super) fn new(acks: Acks) -> Self {
        Self { acks, kills: Vec::new() }
    }

    /// The leader of these partitions is being killed.
    pub(super) fn killed(&mut self, partitions: Vec<u32>) {
        self.kills.push((Instant::now(), partitions));
    }

    /// Kills of nodes that led a partition.
    pub(super) fn count(&self) -> u64 {
        self.kills.iter().filter(|(_, led)| !led.is_empty()).count() as u64
    }

    /// Median and maximum over kills of the longest gap of a partition that the node led, milliseconds.
    pub(super) fn summary(&self) -> (u64, u64) {
        let mut gaps: Vec<u64> = self.kills.iter().filter_map(|(at, led)| self.gap(*at, led)).collect();
        gaps.sort_unstable();
        (gaps.get(gaps.len() / 2).copied().unwrap_or(0), gaps.last().copied().unwrap_or(0))
    }

    /// The longest time between two acknowledgements of one partition with the kill in between or shortly behind.
    fn gap(&self, at: Instant, led: &[u32]) -> Option<u64> {
        let acks = self.acks.borrow();
        let of = |partition: &u32| {
            let times = acks.get(partition)?;
            let behind = times.partition_point(|time| *time <= at);
            let before = *times.get(behind.checked_sub(1)?)?;
            // An acknowledgement may have been under way when the node died.
            let window = &times[behind..times.len().min(behind + 64)];
            let mut longest = 0;
            let mut last = before;
            for time in window {
                longest = longest.max(u64::try_from((*time - last).as_millis()).unwrap_or(u64::MAX));
                last = *time;
            }
            Some(longest)
        };
        led.iter().filter_map(of).max()
    }
}
