//! One credit over many subscriptions.
//!
//! **Invariant:** what is out (granted and not handled) never exceeds the whole, over all subscriptions together, ended ones
//! included. Records and bytes are two such ledgers.
//! **Invariant:** when all that came is handled, nobody waits with less than the smallest share: the next batch may need it.

use std::collections::BTreeMap;

/// What is granted to whom.
#[derive(Debug)]
pub(super) struct Ledger {
    total: u32,
    /// Nobody's share is below this, even when the whole is smaller: a share below one batch would never get it.
    share_min: u32,
    shares: BTreeMap<u64, Share>,
}

#[derive(Debug, Default)]
struct Share {
    /// Granted and not handled.
    out: u32,
    /// The part of it that came and is not handled.
    held: u32,
    ended: bool,
}

impl Ledger {
    pub(super) fn new(total: u32, share_min: u32) -> Self {
        Self { total, share_min: share_min.max(1), shares: BTreeMap::new() }
    }

    /// A subscription begins, with nothing.
    pub(super) fn open(&mut self, source: u64) {
        self.shares.insert(source, Share::default());
    }

    /// Something came by the subscription.
    pub(super) fn received(&mut self, source: u64, amount: u32) {
        if let Some(share) = self.shares.get_mut(&source) {
            share.held = share.held.saturating_add(amount);
            // A broker that sends more than it was granted is its own fault, but it counts.
            share.out = share.out.max(share.held);
        }
    }

    /// What came was handled.
    pub(super) fn handled(&mut self, source: u64, amount: u32) {
        if let Some(share) = self.shares.get_mut(&source) {
            share.held = share.held.saturating_sub(amount);
            share.out = share.out.saturating_sub(amount);
            if share.ended && share.held == 0 {
                self.shares.remove(&source);
            }
        }
    }

    /// A subscription ended: what did not come is free again.
    pub(super) fn end(&mut self, source: u64) {
        if let Some(share) = self.shares.get_mut(&source) {
            share.ended = true;
            share.out = share.held;
            if share.held == 0 {
                self.shares.remove(&source);
            }
        }
    }

    /// What came and is not handled.
    pub(super) fn held(&self) -> u32 {
        self.shares.values().fold(0, |sum, share| sum.saturating_add(share.held))
    }

    /// Who sits on more than its share while another has too little for a batch and would not get enough. Credit cannot be
    /// called back, so such a subscription has to begin anew.
    pub(super) fn hoarder(&self) -> Option<u64> {
        let (share_max, left) = self.split();
        let live = || self.shares.iter().filter(|(_, share)| !share.ended);
        if live().all(|(_, share)| share.out.saturating_add(left) >= self.share_min) {
            return None;
        }
        let idle = live().filter(|(_, share)| share.held == 0 && share.out > share_max);
        idle.max_by_key(|(_, share)| share.out).map(|(source, _)| *source)
    }

    /// The largest share, and what nobody has.
    fn split(&self) -> (u32, u32) {
        let parties = self.shares.values().filter(|share| !share.ended).count();
        let parties = u32::try_from(parties).unwrap_or(u32::MAX).max(1);
        let share_max = (self.total / parties).max(self.share_min);
        let whole = self.total.max(self.share_min.saturating_mul(parties));
        let out = self.shares.values().fold(0u32, |sum, share| sum.saturating_add(share.out));
        (share_max, whole.saturating_sub(out))
    }

    /// What to grant now. Small amounts wait, so that not each record costs a frame, but not when all that came is handled
    /// and what is out may be too little for the next batch: then nothing else would ever come.
    pub(super) fn grants(&mut self) -> Vec<(u64, u32)> {
        let (share_max, mut left) = self.split();
        let mut grants = Vec::new();
        for (source, share) in self.shares.iter_mut().filter(|(_, share)| !share.ended) {
            let more = share_max.saturating_sub(share.out).min(left);
            let may_be_stuck = share.held == 0 && share.out < self.share_min;
            if more > 0 && (more >= share_max / 4 || may_be_stuck) {
                share.out += more;
                left -= more;
                grants.push((*source, more));
            }
        }
        grants
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_split_and_never_exceeded() {
        let mut ledger = Ledger::new(10, 1);
        ledger.open(1);
        assert_eq!(ledger.grants(), [(1, 10)]);
        ledger.open(2);
        assert_eq!(ledger.grants(), [], "the first holds all of it");
        ledger.received(1, 10);
        ledger.handled(1, 6);
        assert_eq!(ledger.grants(), [(1, 1), (2, 5)]);
        ledger.end(1);
        assert_eq!(ledger.held(), 4);
        assert_eq!(ledger.grants(), [], "4 are held of the ended one, 5 are out, 1 is too little for a frame");
        ledger.handled(1, 4);
        assert_eq!(ledger.grants(), [(2, 5)]);
    }

    #[test]
    fn who_came_first_and_has_nothing_to_deliver_does_not_starve_the_others() {
        let mut ledger = Ledger::new(40, 1);
        ledger.open(1);
        assert_eq!((ledger.grants(), ledger.hoarder()), (vec![(1, 40)], None));
        ledger.open(2);
        assert_eq!((ledger.hoarder(), ledger.grants()), (Some(1), vec![]));
        ledger.received(1, 40);
        assert_eq!(ledger.hoarder(), None, "it delivers");
        ledger.handled(1, 40);
        assert_eq!(ledger.grants(), [(1, 20), (2, 20)]);
        ledger.open(3);
        assert_eq!(ledger.hoarder(), Some(2), "its share is 13 from now on");
        ledger.end(2);
        ledger.open(4);
        assert_eq!((ledger.hoarder(), ledger.grants()), (None, vec![(3, 13), (4, 7)]));
    }

    #[test]
    fn whoever_has_handled_all_can_be_sent_the_largest_batch() {
        let mut ledger = Ledger::new(1_000, 1_000);
        ledger.open(1);
        assert_eq!(ledger.grants(), [(1, 1_000)]);
        ledger.received(1, 300);
        ledger.handled(1, 100);
        assert_eq!(ledger.grants(), [], "it has something to do");
        ledger.handled(1, 100);
        ledger.handled(1, 100);
        assert_eq!(ledger.grants(), [(1, 300)]);
        ledger.received(1, 200);
        ledger.handled(1, 200);
        assert_eq!(ledger.grants(), [(1, 200)], "less than a quarter, and the next batch may need it");
    }

    #[test]
    fn who_has_too_little_for_a_batch_is_not_starved_by_one_that_sits_on_more() {
        let mut ledger = Ledger::new(2_000, 1_000);
        ledger.open(1);
        assert_eq!(ledger.grants(), [(1, 2_000)]);
        ledger.received(1, 600);
        ledger.handled(1, 600);
        ledger.open(2);
        assert_eq!(ledger.hoarder(), Some(1), "600 are left for the second");
        assert_eq!(ledger.grants(), [(2, 600)]);
        assert_eq!(ledger.hoarder(), Some(1));
        ledger.end(1);
        ledger.open(3);
        assert_eq!((ledger.hoarder(), ledger.grants()), (None, vec![(2, 400), (3, 1_000)]));
        assert_eq!(ledger.hoarder(), None);
    }

    #[test]
    fn nobody_gets_less_than_a_batch() {
        let mut ledger = Ledger::new(100, 1_000);
        ledger.open(1);
        ledger.open(2);
        assert_eq!(ledger.grants(), [(1, 1_000), (2, 1_000)]);
    }
}
