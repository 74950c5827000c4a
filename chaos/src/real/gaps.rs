//! Write gaps: how long a partition went without an acknowledgement around the fall of its leader, and which partitions never
//! came back.

use super::load::Ack;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// A gap that begins so long behind a fall is still its own: acknowledgements may be under way when a node falls, and its return
/// may cost another election.
const WINDOW: Duration = Duration::from_secs(5);
/// A gap that begins so shortly before a fault is that fault's.
const SHORTLY: Duration = Duration::from_millis(100);

/// Faults, and the nodes that fell with them.
pub(super) struct Gaps {
    begun: Instant,
    faults: Vec<Instant>,
    /// When a node fell, and the partitions that it led.
    falls: Vec<(Instant, Vec<u32>)>,
}

impl Gaps {
    pub(super) fn new(begun: Instant) -> Self {
        Self { begun, faults: Vec::new(), falls: Vec::new() }
    }

    /// A fault begins.
    pub(super) fn fault(&mut self, at: Instant) {
        self.faults.push(at);
    }

    /// The leader of these partitions stops serving.
    pub(super) fn fell(&mut self, at: Instant, led: Vec<u32>) {
        self.falls.push((at, led));
    }

    /// Falls of nodes that led a partition.
    pub(super) fn count(&self) -> u64 {
        self.falls.iter().filter(|(_, led)| !led.is_empty()).count() as u64
    }

    /// Median and maximum over falls of the longest gap of a partition that the node led, milliseconds. The load ended at `end`.
    pub(super) fn summary(&self, acks: &[Ack], end: Instant) -> (u64, u64) {
        let mut times: BTreeMap<u32, Vec<Instant>> = BTreeMap::new();
        for partition in self.falls.iter().flat_map(|(_, led)| led) {
            times.entry(*partition).or_insert_with(|| vec![self.begun]);
        }
        for ack in acks {
            if let Some(times) = times.get_mut(&ack.partition) {
                times.push(ack.at);
            }
        }
        // Where no acknowledgement follows, the gap lasts until the end of the load.
        times.values_mut().for_each(|times| times.push(times.last().map_or(end, |last| end.max(*last))));
        let worst =
            |(at, led): &(Instant, Vec<u32>)| led.iter().map(|partition| self.gap(*at, &times[partition])).max();
        let mut gaps: Vec<u64> = self.falls.iter().filter_map(worst).collect();
        gaps.sort_unstable();
        (gaps.get(gaps.len() / 2).copied().unwrap_or(0), gaps.last().copied().unwrap_or(0))
    }

    /// The longest time between two neighbours that overlaps the window behind a fall; the next fault ends it.
    fn gap(&self, at: Instant, times: &[Instant]) -> u64 {
        let next = self.faults.iter().copied().find(|fault| *fault > at);
        let until = next.map_or(at + WINDOW, |next| (at + WINDOW).min(next - SHORTLY).max(at));
        let before = times.partition_point(|time| *time <= at).saturating_sub(1);
        let overlapping = times[before..].windows(2).take_while(|pair| pair[0] <= until);
        let longest = overlapping.map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Partitions that acknowledged nothing of what was sent since.
pub(super) fn silent(acks: &[Ack], partitions: u32, since: Instant) -> Vec<u32> {
    let spoke = |partition: &u32| acks.iter().rev().any(|ack| ack.partition == *partition && ack.sent > since);
    (0..partitions).filter(|partition| !spoke(partition)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Every 10 ms.
    fn acks(partition: u32, begun: Instant, times: std::ops::Range<u64>) -> impl Iterator<Item = Ack> {
        times.step_by(10).map(move |at| Ack { partition, sent: begun + ms(at), at: begun + ms(at + 5) })
    }

    #[test]
    fn a_partition_that_never_acknowledges_again_has_a_gap_to_the_end() {
        let begun = Instant::now();
        let mut gaps = Gaps::new(begun);
        gaps.fell(begun + ms(1_000), vec![0, 1]);
        let other: Vec<Ack> = acks(0, begun, 0..30_000).collect();
        let some: Vec<Ack> = acks(1, begun, 0..1_000).chain(other.iter().copied()).collect();
        assert_eq!(gaps.summary(&some, begun + ms(30_000)).1, 29_005);
        assert_eq!(gaps.summary(&other, begun + ms(30_000)).1, 30_000, "it never acknowledged anything");
    }

    #[test]
    fn what_was_under_way_does_not_hide_a_gap() {
        let begun = Instant::now();
        let mut gaps = Gaps::new(begun);
        gaps.fell(begun + ms(1_000), vec![0]);
        // A hundred of one batch are noticed behind the kill.
        let late = (0..100).map(|_| Ack { partition: 0, sent: begun + ms(990), at: begun + ms(1_001) });
        let all: Vec<Ack> = acks(0, begun, 0..990).chain(late).chain(acks(0, begun, 3_000..20_000)).collect();
        assert_eq!(gaps.summary(&all, begun + ms(20_000)), (2_004, 2_004));
    }

    #[test]
    fn a_gap_belongs_to_the_fault_before_it() {
        let begun = Instant::now();
        let mut gaps = Gaps::new(begun);
        for at in [1_000, 3_000, 10_000] {
            gaps.fault(begun + ms(at));
            gaps.fell(begun + ms(at + 1), vec![0]);
        }
        gaps.fell(begun + ms(10_002), vec![]);
        let parts = [0..1_000, 1_500..3_000, 5_000..16_000, 19_000..20_000];
        let all: Vec<Ack> = parts.into_iter().flat_map(|part| acks(0, begun, part)).collect();
        // 510 ms, 2,010 ms, and the stillness at 16 s is nobody's.
        assert_eq!((gaps.count(), gaps.summary(&all, begun + ms(20_000))), (3, (510, 2_010)));
    }

    #[test]
    fn a_partition_is_back_when_it_acknowledges_what_was_sent_since() {
        let begun = Instant::now();
        let late = Ack { partition: 1, sent: begun + ms(999), at: begun + ms(1_005) };
        let all: Vec<Ack> = acks(0, begun, 0..2_000).chain([late]).collect();
        assert_eq!(silent(&all, 3, begun + ms(1_000)), [1, 2]);
        assert!(silent(&all, 2, begun + ms(998)).is_empty());
    }
}
