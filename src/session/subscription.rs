//! One push subscription: credit, places, and whose turn it is.
//!
//! ```text
//!   granted ───────────────────────────────────────────────►
//!   ├─ delivered (outstanding at the client) ─┼─ reserved ─┼─ free
//! ```
//! Records are read only for credit that was reserved first. Partitions only ring; one is read at a time, in turn. What
//! was handed to the link and has not left is bounded too, so that a client that grants much and reads nothing holds
//! little of the broker's memory.

use super::machine::{
    Effect, LinkId, Machine, Owner, Pulled, Standing, SubscriptionId, Token, View, partition_of, standing,
};
use crate::{
    limits,
    replica::WakeAt,
    sabotage::{self, Bug},
    types::TopicPartition,
    wire::{self, FetchPartition},
};
use std::collections::{BTreeSet, VecDeque};

/// Bytes of deliveries of one subscription that may wait for its link.
const UNWRITTEN_BYTES_MAX: u64 = 2 * limits::FETCH_PARTITION_BYTES_MAX as u64;

/// A subscription.
pub(super) struct Subscription {
    link: LinkId,
    credit: Credit,
    /// By number; an empty place has left.
    places: Vec<Option<Place>>,
    /// Places with something to read, as far as known; the first is next.
    waiting: VecDeque<usize>,
    /// The place that is read for now.
    pulling: Option<usize>,
    unwritten: u64,
}

struct Place {
    /// With the next offset wanted.
    want: FetchPartition,
    token: Option<Token>,
    /// Credit in bytes that its first batch needs, once known.
    needs: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    records: u64,
    bytes: u64,
}

/// Counts since the subscription began: they only rise, `reserved` apart.
#[derive(Debug, Default)]
struct Credit {
    granted: Amount,
    delivered: Amount,
    reserved: Amount,
}

impl Credit {
    fn free(&self) -> Amount {
        if sabotage::on(Bug::CreditOvershot) {
            return self.granted;
        }
        self.check();
        Amount {
            records: self.granted.records - self.delivered.records - self.reserved.records,
            bytes: self.granted.bytes - self.delivered.bytes - self.reserved.bytes,
        }
    }

    fn grant(&mut self, records: u32, bytes: u32) {
        self.granted.records = self.granted.records.saturating_add(records.into());
        self.granted.bytes = self.granted.bytes.saturating_add(bytes.into());
    }

    fn reserve(&mut self, amount: Amount) {
        assert_eq!(self.reserved, Amount::default(), "one read at a time");
        self.reserved = amount;
        self.check();
    }

    /// Turns what was used of the reservation into deliveries and frees the rest.
    fn settle(&mut self, used: Amount) {
        assert!(
            used.records <= self.reserved.records && used.bytes <= self.reserved.bytes,
            "{used:?} read for a reservation of {:?}",
            self.reserved
        );
        self.reserved = Amount::default();
        self.delivered.records += used.records;
        self.delivered.bytes += used.bytes;
        self.check();
    }

    fn check(&self) {
        if sabotage::on(Bug::CreditOvershot) {
            return;
        }
        assert!(self.delivered.records + self.reserved.records <= self.granted.records, "credit overdrawn: {self:?}");
        assert!(self.delivered.bytes + self.reserved.bytes <= self.granted.bytes, "credit overdrawn: {self:?}");
    }
}

impl Machine {
    /// Whether the link has a subscription.
    pub(super) fn is_subscribed(&self, link: LinkId) -> bool {
        self.by_link.contains_key(&link)
    }

    pub(super) fn subscribe(
        &mut self,
        link: LinkId,
        id: SubscriptionId,
        subscribe: wire::Subscribe,
        view: &impl View,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(refused) = self.admit(subscribe.partitions.len()) {
            for partition in subscribe.partitions {
                effects.push(Effect::Dismiss { link, subscription: id, partition, refused: refused.clone() });
            }
            return;
        }
        self.partitions += subscribe.partitions.len();
        let mut credit = Credit::default();
        credit.grant(subscribe.records, subscribe.bytes);
        let places: Vec<_> =
            subscribe.partitions.into_iter().map(|want| Some(Place { want, token: None, needs: 1 })).collect();
        let waiting = (0..places.len()).collect();
        let before = self.by_link.insert(link, id);
        assert!(before.is_none(), "the shell refuses a second subscription on a link");
        self.subscriptions.insert(id, Subscription { link, credit, places, waiting, pulling: None, unwritten: 0 });
        self.advance(id, view, effects);
    }

    pub(super) fn grant(
        &mut self,
        link: LinkId,
        records: u32,
        bytes: u32,
        view: &impl View,
        effects: &mut Vec<Effect>,
    ) {
        let Some(&id) = self.by_link.get(&link) else { return };
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.credit.grant(records, bytes);
            self.advance(id, view, effects);
        }
    }

    pub(super) fn written(&mut self, link: LinkId, bytes: u64, view: &impl View, effects: &mut Vec<Effect>) {
        let Some(&id) = self.by_link.get(&link) else { return };
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.unwritten = subscription.unwritten.saturating_sub(bytes);
            self.advance(id, view, effects);
        }
    }

    pub(super) fn unsubscribe(&mut self, link: LinkId, partitions: &[TopicPartition], effects: &mut Vec<Effect>) {
        let Some(&id) = self.by_link.get(&link) else { return };
        let Some(subscription) = self.subscriptions.get(&id) else { return };
        let named: BTreeSet<_> = partitions.iter().copied().collect();
        let leaving: Vec<usize> = (0..subscription.places.len())
            .filter(|i| match &subscription.places[*i] {
                Some(place) => named.is_empty() || named.contains(&partition_of(&place.want)),
                None => false,
            })
            .collect();
        for place in leaving {
            self.leave(id, place, effects);
        }
        if partitions.is_empty() {
            self.by_link.remove(&link);
            self.subscriptions.remove(&id);
        }
    }

    /// Takes a place out of its subscription. Where it waits it is passed over when its turn comes.
    fn leave(&mut self, id: SubscriptionId, place: usize, effects: &mut Vec<Effect>) -> Option<FetchPartition> {
        let subscription = self.subscriptions.get_mut(&id)?;
        let left = subscription.places[place].take()?;
        self.partitions -= 1;
        if let Some(token) = left.token {
            self.unpark(token, effects);
        }
        Some(left.want)
    }

    pub(super) fn subscription_fired(
        &mut self,
        id: SubscriptionId,
        place: usize,
        view: &impl View,
        effects: &mut Vec<Effect>,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        let Some(here) = &mut subscription.places[place] else { return };
        here.token = None;
        subscription.waiting.push_back(place);
        self.advance(id, view, effects);
    }

    pub(super) fn pulled(
        &mut self,
        id: SubscriptionId,
        place: usize,
        pulled: Pulled,
        view: &impl View,
        effects: &mut Vec<Effect>,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        assert_eq!(subscription.pulling.take(), Some(place), "one read at a time");
        let Some(here) = &mut subscription.places[place] else {
            // It left meanwhile: what was read goes nowhere.
            subscription.credit.settle(Amount::default());
            return self.advance(id, view, effects);
        };
        here.needs = 1;
        match pulled {
            Pulled::Batches { records, bytes } => {
                assert!(records > 0, "batches that were asked for hold at least one record");
                subscription.credit.settle(Amount { records, bytes });
                here.want.offset += records;
                subscription.unwritten += bytes;
                subscription.waiting.push_back(place);
                let link = subscription.link;
                effects.push(Effect::Deliver { link, subscription: id, place, records });
            }
            Pulled::TooLarge { bytes } => {
                here.needs = bytes;
                subscription.credit.settle(Amount::default());
                subscription.waiting.push_back(place);
            }
            Pulled::Nothing => {
                subscription.credit.settle(Amount::default());
                subscription.waiting.push_back(place);
            }
            Pulled::Refused(refused) => {
                subscription.credit.settle(Amount::default());
                let link = subscription.link;
                if let Some(partition) = self.leave(id, place, effects) {
                    effects.push(Effect::Dismiss { link, subscription: id, partition, refused });
                }
            }
        }
        self.advance(id, view, effects);
    }

    /// Reads for the next place that has something, if credit is there; parks those that have nothing.
    fn advance(&mut self, id: SubscriptionId, view: &impl View, effects: &mut Vec<Effect>) {
        let Some(subscription) = self.subscriptions.get(&id) else { return };
        for _ in 0..subscription.waiting.len() {
            let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
            let Some(place) = subscription.waiting.pop_front() else { return };
            let Some(here) = &subscription.places[place] else { continue };
            let partition = partition_of(&here.want);
            let (wake_at, epoch) = match standing(&here.want, view.see(&here.want)) {
                Standing::Behind(_) => {
                    let free = subscription.credit.free();
                    let bytes = free.bytes.min(limits::FETCH_PARTITION_BYTES_MAX.into());
                    let busy = subscription.pulling.is_some() || subscription.unwritten >= UNWRITTEN_BYTES_MAX;
                    if busy || free.records == 0 || bytes < here.needs {
                        subscription.waiting.push_back(place);
                        continue;
                    }
                    subscription.credit.reserve(Amount { records: free.records, bytes });
                    subscription.pulling = Some(place);
                    effects.push(Effect::Pull {
                        subscription: id,
                        place,
                        partition: here.want.clone(),
                        records: free.records,
                        bytes,
                    });
                    continue;
                }
                Standing::AtEnd(seen) | Standing::Ahead(seen) => {
                    (WakeAt::Offset(here.want.offset.saturating_add(1)), seen.epoch)
                }
                Standing::Refused(refused) => {
                    let link = subscription.link;
                    if let Some(partition) = self.leave(id, place, effects) {
                        effects.push(Effect::Dismiss { link, subscription: id, partition, refused });
                    }
                    continue;
                }
            };
            let token = self.park(Owner::Subscription(id, place), partition, wake_at, epoch, effects);
            if let Some(here) = self.subscriptions.get_mut(&id).and_then(|s| s.places[place].as_mut()) {
                here.token = Some(token);
            }
        }
    }
}
