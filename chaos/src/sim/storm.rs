//! What a storm is made of, as data: which faults, how often, over what kind of world. The ordinary one is the default; a kept run
//! or a control may have one that goes for a single weakness.

use super::{faults::Step, net::Rough};
use highwater_raft::observe::digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A kind of fault that a storm may draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Card {
    /// A node loses power.
    Crash,
    /// A leader does.
    CrashLeader,
    /// All nodes do.
    Blackout,
    /// A node is cut off.
    Alone,
    /// Nothing gets from one node to another.
    OneWay,
    /// Connections break.
    Break,
    /// A disk stalls.
    Stall,
    /// A clock jumps.
    Jump,
    /// One of many that are rarer.
    Rare,
    /// A client is cut off.
    Deaf,
    /// A bit of a file turns.
    Flip,
    /// A disk is lost.
    Wipe,
    /// One of those that only wide storms have.
    Wide,
    /// One of the storm's [scenes](Storm::scenes).
    Scene,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storm {
    /// A deck: it is drawn from until it is empty, and then filled again.
    pub deck: BTreeMap<Card, usize>,
    /// Faults that belong together and are drawn as one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scenes: Vec<Vec<Step>>,
    /// By how many per cent the pauses within a scene may be shorter or longer than it says.
    pub wobble: u64,
    /// Virtual milliseconds between two draws: from, to.
    pub pause_ms: (u64, u64),
    /// Longest usual time of a disk's sync, microseconds: the longer, the more is written and not synced.
    pub sync_us: u64,
    /// Size of a write-ahead log file: the smaller, the more often one is recycled.
    pub wal_file_bytes: u64,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// Random time on top of what each message between nodes takes anyhow, milliseconds.
    pub jitter_ms: u64,
    /// Members of the group.
    pub members: u32,
    /// Polls of a member before it leaves and comes again, at least; at most six times as many.
    pub member_polls: u64,
}

impl Default for Storm {
    fn default() -> Self {
        let deck = [
            (Card::Crash, 3),
            (Card::CrashLeader, 3),
            (Card::Blackout, 1),
            (Card::Alone, 2),
            (Card::OneWay, 2),
            (Card::Break, 1),
            (Card::Stall, 1),
            (Card::Jump, 1),
            (Card::Rare, 4),
        ];
        Self {
            deck: deck.into(),
            scenes: Vec::new(),
            wobble: 50,
            pause_ms: (200, 1_500),
            sync_us: 8_000,
            wal_file_bytes: 256 << 10,
            segment_bytes: 64 << 10,
            jitter_ms: 0,
            members: 2,
            member_polls: 20,
        }
    }
}

impl Storm {
    /// The ordinary one over another kind of world: disks, files, network and members as the seed says.
    pub fn varied(seed: u64) -> Self {
        let mut bits = digest([b"storm", &seed.to_be_bytes()[..]]);
        let mut one_of = |of: &[u64]| {
            let many = of.len() as u64;
            let drawn = of[usize::try_from(bits % many).unwrap_or(0)];
            bits /= many;
            drawn
        };
        Self {
            sync_us: one_of(&[500, 8_000, 8_000, 40_000]),
            wal_file_bytes: one_of(&[64 << 10, 256 << 10]),
            segment_bytes: one_of(&[16 << 10, 64 << 10]),
            jitter_ms: one_of(&[0, 0, 5, 40]),
            members: u32::try_from(one_of(&[1, 2, 2, 4])).unwrap_or(2),
            member_polls: one_of(&[3, 20]),
            ..Self::default()
        }
    }

    /// The cards of a full deck.
    pub(super) fn cards(&self) -> Vec<Card> {
        self.deck.iter().flat_map(|(card, times)| std::iter::repeat_n(*card, *times)).collect()
    }

    /// What the network is like when no fault makes it worse.
    pub(super) fn usual(&self) -> Rough {
        Rough { jitter_ms: self.jitter_ms, ..Rough::default() }
    }

    pub(super) fn is_ordinary(&self) -> bool {
        *self == Self::default()
    }
}
