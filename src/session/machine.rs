//! What waits on one connection, and for what: a local machine without clock, actors or data.
//!
//! **Invariants**
//! - A parked fetch that could be answered does not exist at the end of a step: it was counted up to marks that it then
//!   parks behind, and a fire makes it count again.
//! - A token has one owner while it is parked, and none after it fired or was taken back: late fires are ignored.
//! - One heap of deadlines; a fetch is in it from its arrival to its answer.
//! - A subscription's outstanding and reserved credit never exceed what was granted (asserted at each change).

use super::{observe, polling::Polling, subscription::Subscription};
use crate::{
    limits,
    replica::WakeAt,
    types::{NodeId, TopicPartition},
    wire::{self, Code, FetchPartition, Refused},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::time::Instant;

/// A fetch of this session.
pub(super) type FetchId = u64;
/// A subscription of this session; never used again, unlike its link.
pub(super) type SubscriptionId = u64;
/// Names a wait at a partition.
pub(super) type Token = u64;
/// A link of this connection.
pub(super) type LinkId = u64;

/// A partition's marks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) log_start: u64,
    pub(super) high_watermark: u64,
    /// Bytes of all batches below the watermark, counted from anywhere: only differences matter.
    pub(super) bytes: u64,
    pub(super) epoch: u64,
    pub(super) leading: bool,
    /// A leader that has applied an entry of its own term.
    pub(super) ready: bool,
    pub(super) leader: Option<NodeId>,
}

/// Where the marks are read.
pub(super) trait View {
    /// The partition's marks, or why it cannot be read here at all.
    fn see(&self, want: &FetchPartition) -> Result<Seen, Refused>;
}

/// What came.
#[derive(Debug)]
pub(super) enum Input {
    Fetch {
        link: LinkId,
        id: FetchId,
        fetch: wire::Fetch,
    },
    /// What [`Effect::Fill`] found.
    Filled {
        id: FetchId,
        filled: Filled,
    },
    Fired {
        token: Token,
        ready: bool,
    },
    /// Time passed.
    Deadline,
    Subscribe {
        link: LinkId,
        id: SubscriptionId,
        subscribe: wire::Subscribe,
    },
    Grant {
        link: LinkId,
        records: u32,
        bytes: u32,
    },
    /// All partitions when empty.
    Unsubscribe {
        link: LinkId,
        partitions: Vec<TopicPartition>,
    },
    /// What [`Effect::Pull`] found.
    Pulled {
        subscription: SubscriptionId,
        place: usize,
        pulled: Pulled,
    },
    /// A delivery has left.
    Written {
        link: LinkId,
        bytes: u64,
    },
    /// No more requests come on the link.
    LinkEnded {
        link: LinkId,
    },
    /// The node shuts down: nobody waits here any more.
    Drain,
}

/// What a fetch found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) bytes: u64,
    /// From the offsets asked on.
    pub(super) records: u64,
    /// A partition was refused: the asker must know at once.
    pub(super) refused: bool,
    /// There is more below the watermark than the answer may hold.
    pub(super) more: bool,
    /// Marks up to which was counted, in the order of the request. Complete unless `refused`.
    pub(super) seen: Vec<Seen>,
}

/// What a subscription's read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pulled {
    /// Whole batches; the last one may be taken in part.
    Batches { records: u64, bytes: u64 },
    /// The first batch needs more credit in bytes.
    TooLarge { bytes: u64 },
    /// It is not there any more, or not yet.
    Nothing,
    /// The partition cannot be read here.
    Refused(Refused),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Park {
        token: Token,
        partition: TopicPartition,
        wake_at: WakeAt,
        epoch: u64,
    },
    Unpark {
        token: Token,
        partition: TopicPartition,
    },
    /// Read for this fetch, beginning with its partition `first`.
    Fill {
        id: FetchId,
        first: usize,
    },
    /// Send what was filled last (nothing, if nothing was).
    Answer {
        id: FetchId,
    },
    Refuse {
        id: FetchId,
        refused: Refused,
    },
    /// Read at most this for a subscription; its credit is reserved.
    Pull {
        subscription: SubscriptionId,
        place: usize,
        partition: FetchPartition,
        records: u64,
        bytes: u64,
    },
    /// Send what was pulled last.
    Deliver {
        link: LinkId,
        subscription: SubscriptionId,
        place: usize,
        records: u64,
    },
    /// Tell that a partition left the subscription.
    Dismiss {
        link: LinkId,
        subscription: SubscriptionId,
        partition: FetchPartition,
        refused: Refused,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Owner {
    Fetch(FetchId, usize),
    Subscription(SubscriptionId, usize),
}

/// All that waits on one connection.
pub(super) struct Machine {
    pub(super) fetches: BTreeMap<FetchId, Polling>,
    pub(super) subscriptions: BTreeMap<SubscriptionId, Subscription>,
    pub(super) by_link: BTreeMap<LinkId, SubscriptionId>,
    tokens: BTreeMap<Token, (Owner, TopicPartition)>,
    deadlines: BTreeSet<(Instant, FetchId)>,
    /// Shared by all sessions of the node: partitions know waiters by token alone.
    token_last: Arc<AtomicU64>,
    /// Partitions of all fetches and subscriptions.
    pub(super) partitions: usize,
    /// Fetches that wait for records.
    pub(super) parked: usize,
    /// Per link: which partition its next fetch begins with.
    pub(super) turns: BTreeMap<LinkId, usize>,
    /// Nobody waits here any more.
    pub(super) draining: bool,
}

impl Machine {
    /// A connection's machine that takes its tokens from the node's counter.
    pub(super) fn new(token_last: Arc<AtomicU64>) -> Self {
        Self {
            fetches: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            by_link: BTreeMap::new(),
            tokens: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            token_last,
            partitions: 0,
            parked: 0,
            turns: BTreeMap::new(),
            draining: false,
        }
    }

    /// Takes one input.
    pub(super) fn step(&mut self, now: Instant, input: Input, view: &impl View, effects: &mut Vec<Effect>) {
        match input {
            Input::Fetch { link, id, fetch } => self.fetch(now, link, id, fetch, view, effects),
            Input::Filled { id, filled } => self.filled(now, id, filled, effects),
            Input::Fired { token, ready } => match self.tokens.remove(&token) {
                Some((Owner::Fetch(id, place), _)) => self.fetch_fired(id, place, ready, view, effects),
                Some((Owner::Subscription(id, place), _)) => self.subscription_fired(id, place, view, effects),
                None => {}
            },
            Input::Deadline => self.expire(now, effects),
            Input::Subscribe { link, id, subscribe } => self.subscribe(link, id, subscribe, view, effects),
            Input::Grant { link, records, bytes } => self.grant(link, records, bytes, view, effects),
            Input::Unsubscribe { link, partitions } => self.unsubscribe(link, &partitions, effects),
            Input::Pulled { subscription, place, pulled } => self.pulled(subscription, place, pulled, view, effects),
            Input::Written { link, bytes } => self.written(link, bytes, view, effects),
            Input::LinkEnded { link } => {
                self.turns.remove(&link);
                self.unsubscribe(link, &[], effects);
                let of_link: Vec<_> = self.fetches.iter().filter(|(_, p)| p.link == link).map(|(id, _)| *id).collect();
                for id in of_link {
                    self.hurry(id, effects);
                }
            }
            Input::Drain => self.drain(effects),
        }
    }

    /// When [`Input::Deadline`] is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Waits at partitions now.
    pub(super) fn tokens(&self) -> Vec<(Token, TopicPartition)> {
        self.tokens.iter().map(|(token, (_, partition))| (*token, *partition)).collect()
    }

    fn expire(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            self.hurry(id, effects);
        }
    }

    fn drain(&mut self, effects: &mut Vec<Effect>) {
        self.draining = true;
        let all: Vec<_> = self.fetches.iter().filter(|(_, p)| p.is_parked()).map(|(id, _)| *id).collect();
        for id in all {
            self.refuse(id, shutting_down(), effects);
        }
    }

    /// Whether `more` partitions can be taken on.
    pub(super) fn admit(&self, more: usize) -> Result<(), Refused> {
        if self.draining {
            return Err(shutting_down());
        }
        let max = limits::PARTITIONS_PER_SESSION_MAX as usize;
        if self.partitions + more > max {
            return Err(Refused::new(
                Code::Overloaded,
                format!(
                    "this connection waits for {} partitions, {more} more are over the limit of {max}: \
                     wait for answers first, or use more connections",
                    self.partitions
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn park(
        &mut self,
        owner: Owner,
        partition: TopicPartition,
        wake_at: WakeAt,
        epoch: u64,
        effects: &mut Vec<Effect>,
    ) -> Token {
        let token = self.token_last.fetch_add(1, Ordering::Relaxed) + 1;
        self.tokens.insert(token, (owner, partition));
        effects.push(Effect::Park { token, partition, wake_at, epoch });
        token
    }

    pub(super) fn unpark(&mut self, token: Token, effects: &mut Vec<Effect>) {
        if let Some((_, partition)) = self.tokens.remove(&token) {
            effects.push(Effect::Unpark { token, partition });
        }
    }

    pub(super) fn watch_deadline(&mut self, at: Instant, id: FetchId) {
        self.deadlines.insert((at, id));
    }

    pub(super) fn drop_deadline(&mut self, at: Instant, id: FetchId) {
        self.deadlines.remove(&(at, id));
    }
}

fn shutting_down() -> Refused {
    Refused::new(Code::ShuttingDown, "this node is shutting down: ask for metadata at another one")
}

/// Where a reader stands in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Refused(Refused),
    /// Below the watermark: there is something to read.
    Behind(Seen),
    /// At the watermark.
    AtEnd(Seen),
    /// Above a follower's watermark, which will come to it.
    Ahead(Seen),
}

/// Judges a reader's offset by the partition's marks. Out of range is said only below the log start: what a leader does
/// not know (yet) is for the client to ask again.
pub(super) fn standing(want: &FetchPartition, seen: Result<Seen, Refused>) -> Standing {
    let seen = match seen {
        Ok(seen) => seen,
        Err(refused) => return Standing::Refused(refused),
    };
    let refused = |code, message: String| {
        Standing::Refused(Refused { leader: seen.leader, leader_epoch: seen.epoch, ..Refused::new(code, message) })
    };
    if !seen.leading && !want.from_follower {
        return refused(Code::NotLeader, "this node follows in this partition: ask the leader".into());
    }
    if !seen.ready {
        let why = match seen.leading {
            true => "this leader was just elected and is not sure of its log yet: ask again",
            false => "this replica was opened again and is not where it was yet: ask again, or ask the leader",
        };
        return refused(Code::NotReady, why.into());
    }
    if want.offset < seen.log_start {
        return refused(
            Code::OffsetOutOfRange,
            format!("offset {} is below the log start {}: its records are gone", want.offset, seen.log_start),
        );
    }
    match want.offset.cmp(&seen.high_watermark) {
        std::cmp::Ordering::Less => Standing::Behind(seen),
        std::cmp::Ordering::Equal => Standing::AtEnd(seen),
        std::cmp::Ordering::Greater => {
            observe::reached("watermark below a client's position");
            if !seen.leading {
                return Standing::Ahead(seen);
            }
            refused(
                Code::NotReady,
                format!(
                    "offset {} is above the high watermark {}: ask again later, or list offsets to find a valid one",
                    want.offset, seen.high_watermark
                ),
            )
        }
    }
}

pub(super) fn partition_of(want: &FetchPartition) -> TopicPartition {
    TopicPartition { topic: want.topic, partition: want.partition }
}
