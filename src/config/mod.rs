//! What a node is told by its file.
//!
//! ```toml
//! [cluster]      # the same on all nodes: name, seeds
//! [raft]         # the same on all nodes: timings
//! [node]         # this node: id, data directory, where its peers reach it
//! [[listener]]   # where clients reach it
//! [tls] [log] [pools] [topics] [retention] [groups]
//! ```
//!
//! **Invariants**
//! - A [`Config`] that [`Config::parse`] returned holds what `check` asks: no port twice, no listener open to the
//!   network by accident, timings that can work.
//! - Every key has a default ([`Config::default`], for listeners [`Listeners::of_a_file`]) and stands in `config/highwater.toml`; a test holds both together.
//! - All problems of a file are found at once, each with its line; an unknown key is a problem, never ignored.
//!
//! Relative paths are relative to the directory in which the node is started.

mod address;
mod check;
mod load;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use load::{Problem, Problems};

use crate::{limits, types::NodeId};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// A node's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What all nodes of the cluster agree on.
    pub cluster: Cluster,
    /// This node.
    pub node: Node,
    /// Where clients reach it.
    #[serde(rename = "listener", default = "Listeners::of_a_file")]
    pub listeners: Listeners,
    /// Who it is, and whom it believes.
    pub tls: Tls,
    /// Sizes on disk and in memory.
    pub log: Log,
    /// How much may be in flight.
    pub pools: Pools,
    /// Timings of failure detection and elections.
    pub raft: Raft,
    /// What a topic is given when its creator says nothing.
    pub topics: Topics,
    /// How long records are kept when their topic says nothing.
    pub retention: Retention,
    /// Consumer groups.
    pub groups: Groups,
}

/// `[cluster]`: identical on all nodes; compared by [`digest`](Self::digest) before the cluster is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// The cluster's name; certificates carry it.
    pub name: String,
    /// The nodes that make the cluster; the first controllers. Others join later and name the same seeds.
    pub seeds: Vec<Seed>,
    /// How many Raft groups share the consumer groups between them.
    pub home_groups: u64,
}

/// One of the nodes that make the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Its id.
    pub id: NodeId,
    /// Where other nodes reach its replication port (UDP).
    pub peer: Address,
    /// Where other nodes reach its control port (UDP).
    pub control: Address,
}

/// `[node]`: what differs from node to node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its id, from 1, never used twice in the cluster.
    pub id: NodeId,
    /// Where it keeps everything; one node only.
    pub data_dir: PathBuf,
    /// Threads that run partitions and connections; 0 = one less than there are cores, at least one.
    pub arbiters: usize,
    /// Where it listens for replication from other nodes (UDP).
    pub peer_bind: SocketAddr,
    /// Where it listens for heartbeats and votes (UDP).
    pub control_bind: SocketAddr,
    /// Where other nodes reach `peer_bind`; a seed's is in `[cluster]`. Default: `peer_bind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_advertised: Option<Address>,
    /// Where other nodes reach `control_bind`; a seed's is in `[cluster]`. Default: `control_bind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_advertised: Option<Address>,
    /// How long a stopping node waits for its clients, in milliseconds.
    pub drain_ms: u64,
}

/// All `[[listener]]` tables. None by default: a node that a program embeds opens no port unless it is told to. A file that
/// names none gets [`Listeners::of_a_file`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Listeners(pub Vec<Listener>);

/// `[[listener]]`: one way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Which protocol.
    pub kind: ListenerKind,
    /// Where it listens.
    pub bind: SocketAddr,
    /// What clients are told to connect to. Default: `bind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised: Option<Address>,
    /// Lets anybody in who can reach it. Loopback listeners do so anyway.
    #[serde(default)]
    pub anonymous: bool,
    /// Lets in only who shows a certificate of the cluster's CA (native).
    #[serde(default)]
    pub client_certificates: bool,
}

/// A listener's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerKind {
    /// Highwater's own, over QUIC (UDP).
    Native,
    /// Health and metrics (TCP, without TLS).
    Http,
    /// Apache Kafka's; not served by this version.
    Kafka,
}

/// `[tls]`: files as `highwater cert` writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// Certificate of the cluster's CA.
    pub ca: PathBuf,
    /// This node's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[log]`: the replicated log on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// Bytes of a write-ahead log file.
    pub wal_file_bytes: u64,
    /// Write-ahead log files before appends are slowed.
    pub wal_files_max: u32,
    /// Bytes of a segment: retention removes whole ones.
    pub segment_bytes: u64,
    /// Bytes of newest records kept in memory, for replication and for consumers a little behind.
    pub cache_bytes: u64,
    /// Bytes of newest batches kept ready for consumers at the end of their partitions.
    pub tail_bytes: u64,
    /// Free bytes of the file system below which produce is refused until there is room again.
    pub free_bytes_min: u64,
}

/// `[pools]`: bytes in flight; above, requests are told to come again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pools {
    /// Produce requests, until they are answered.
    pub produce_bytes: u64,
    /// Fetch responses, until they are sent.
    pub response_bytes: u64,
    /// Commits, joins and heartbeats.
    pub control_bytes: u64,
}

/// `[raft]`: the same on all nodes, as a leader's lease rests on how long the others wait; part of [`Config::digest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Raft {
    /// From heartbeat to heartbeat of two nodes, in milliseconds.
    pub heartbeat_ms: u64,
    /// Silence after which a node is taken for dead, in milliseconds.
    pub suspicion_ms: u64,
    /// Shortest election timeout, in milliseconds.
    pub election_ms_min: u64,
    /// Longest election timeout, in milliseconds: nobody else is elected for so long after a leader's last sign.
    pub election_ms_max: u64,
    /// How long the second, third … voter waits for those before it to be elected, in milliseconds each.
    pub rank_step_ms: u64,
    /// A transfer of leadership that takes longer has failed, in milliseconds.
    pub transfer_ms: u64,
}

/// `[topics]`: a new topic's shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Topics {
    /// Partitions.
    pub partitions: u32,
    /// Replicas of each partition; fewer when there are fewer nodes.
    pub replication_factor: u32,
}

/// `[retention]`: what is removed, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// Records older than this are removed, in milliseconds; -1 = never.
    pub ms: Keep,
    /// Oldest segments above so many bytes per partition are removed; -1 = no limit.
    pub bytes: Keep,
    /// How often a node looks, in milliseconds.
    pub check_ms: u64,
}

/// How much is kept: in a file a number, or -1 for everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Keep(pub Option<u64>);

impl TryFrom<i64> for Keep {
    type Error = String;
    fn try_from(n: i64) -> Result<Self, String> {
        match (n, u64::try_from(n)) {
            (-1, _) => Ok(Self(None)),
            (_, Ok(n)) => Ok(Self(Some(n))),
            (n, Err(_)) => Err(format!("{n} is neither a number from 0 nor -1 (for no limit)")),
        }
    }
}

impl From<Keep> for i64 {
    fn from(keep: Keep) -> i64 {
        keep.0.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX))
    }
}

/// `[groups]`: consumer groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Groups {
    /// How long a group waits for a member that lost its connection, in milliseconds.
    pub session_grace_ms: u64,
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Default for Cluster {
    fn default() -> Self {
        let seed = Seed {
            id: NodeId(1),
            peer: loopback(limits::PORT_PEER).into(),
            control: loopback(limits::PORT_CONTROL).into(),
        };
        Self { name: "highwater".into(), seeds: vec![seed], home_groups: limits::HOME_GROUPS }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            id: NodeId(1),
            data_dir: "highwater-data/node-1".into(),
            arbiters: 0,
            peer_bind: loopback(limits::PORT_PEER),
            control_bind: loopback(limits::PORT_CONTROL),
            peer_advertised: None,
            control_advertised: None,
            drain_ms: limits::DRAIN_MS_DEFAULT,
        }
    }
}

impl Listeners {
    /// What a node is served with whose file says nothing of listeners: native and HTTP, on loopback.
    pub fn of_a_file() -> Self {
        Self(vec![
            Listener::new(ListenerKind::Native, loopback(limits::PORT_NATIVE)),
            Listener::new(ListenerKind::Http, loopback(limits::PORT_HTTP)),
        ])
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ca: "highwater-certs/ca.pem".into(),
            certificate: "highwater-certs/node-1.pem".into(),
            key: "highwater-certs/node-1.key".into(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            wal_file_bytes: limits::WAL_FILE_BYTES_DEFAULT,
            wal_files_max: limits::WAL_FILES_MAX_DEFAULT,
            segment_bytes: limits::SEGMENT_BYTES_DEFAULT,
            cache_bytes: limits::CACHE_BYTES_DEFAULT,
            tail_bytes: limits::TAIL_BYTES_DEFAULT,
            free_bytes_min: limits::FREE_BYTES_MIN_DEFAULT,
        }
    }
}

impl Default for Pools {
    fn default() -> Self {
        Self {
            produce_bytes: limits::PRODUCE_POOL_BYTES_DEFAULT,
            response_bytes: limits::RESPONSE_POOL_BYTES_DEFAULT,
            control_bytes: limits::CONTROL_POOL_BYTES_DEFAULT,
        }
    }
}

impl Default for Raft {
    fn default() -> Self {
        Self {
            heartbeat_ms: limits::HEARTBEAT_MS_DEFAULT,
            suspicion_ms: limits::SUSPICION_MS_DEFAULT,
            election_ms_min: limits::ELECTION_MS_MIN_DEFAULT,
            election_ms_max: limits::ELECTION_MS_MAX_DEFAULT,
            rank_step_ms: limits::RANK_STEP_MS_DEFAULT,
            transfer_ms: limits::TRANSFER_MS_DEFAULT,
        }
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self { partitions: limits::PARTITIONS_DEFAULT, replication_factor: limits::REPLICATION_FACTOR_DEFAULT }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            ms: Keep(Some(limits::RETENTION_MS_DEFAULT)),
            bytes: Keep(None),
            check_ms: limits::RETENTION_CHECK_MS_DEFAULT,
        }
    }
}

impl Default for Groups {
    fn default() -> Self {
        Self { session_grace_ms: limits::SESSION_GRACE_MS_DEFAULT }
    }
}

impl Config {
    /// Node `id` (from 1) of a cluster of `nodes` nodes on this machine, as in `config/node-N.toml` and as `dev`
    /// starts them: ports 7420 and up, ten apart.
    ///
    /// # Panics
    /// When `id` is not in `1..=nodes`, or there are more nodes than ports for them.
    pub fn local(id: u16, nodes: u16) -> Self {
        assert!((1..=nodes).contains(&id), "node {id} is not one of {nodes}");
        let port = |id: u16, base: u16| base + (id - 1) * limits::PORT_STEP;
        let seed = |id: u16| Seed {
            id: NodeId(id.into()),
            peer: loopback(port(id, limits::PORT_PEER)).into(),
            control: loopback(port(id, limits::PORT_CONTROL)).into(),
        };
        let mut config = Self::default();
        config.cluster.seeds = (1..=nodes).map(seed).collect();
        config.listeners = Listeners::of_a_file();
        config.node.id = NodeId(id.into());
        config.node.data_dir = format!("highwater-data/node-{id}").into();
        config.node.peer_bind.set_port(port(id, limits::PORT_PEER));
        config.node.control_bind.set_port(port(id, limits::PORT_CONTROL));
        for listener in &mut config.listeners.0 {
            listener.bind.set_port(port(id, listener.bind.port()));
        }
        config.tls.certificate = format!("highwater-certs/node-{id}.pem").into();
        config.tls.key = format!("highwater-certs/node-{id}.key").into();
        config
    }

    /// The config as a file that [`Config::parse`] reads back to the same.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every key is a string, number, list or table")
    }

    /// Where other nodes reach this one: its replication and its control address.
    pub fn advertised_to_peers(&self) -> (Address, Address) {
        let seed = self.cluster.seeds.iter().find(|seed| seed.id == self.node.id);
        let choose = |said: &Option<Address>, seed: Option<&Address>, bind: SocketAddr| {
            said.as_ref().or(seed).cloned().unwrap_or_else(|| bind.into())
        };
        (
            choose(&self.node.peer_advertised, seed.map(|s| &s.peer), self.node.peer_bind),
            choose(&self.node.control_advertised, seed.map(|s| &s.control), self.node.control_bind),
        )
    }

    /// Of all that must be the same on all nodes: `[cluster]` in the upper half, `[raft]` in the lower.
    pub fn digest(&self) -> u64 {
        (self.cluster.digest() & !LOWER_HALF) | (self.raft.digest() & LOWER_HALF)
    }

    /// Which sections differ, by the digests of two nodes; `None` when they are the same.
    pub fn sections_that_differ(one: u64, other: u64) -> Option<&'static str> {
        let differing = one ^ other;
        match (differing & !LOWER_HALF != 0, differing & LOWER_HALF != 0) {
            (false, false) => None,
            (true, false) => Some("[cluster]"),
            (false, true) => Some("[raft]"),
            (true, true) => Some("[cluster] and [raft]"),
        }
    }
}

/// The half of a digest that is of `[raft]`.
const LOWER_HALF: u64 = u32::MAX as u64;

/// FNV-1a.
fn hash(canonical: &str) -> u64 {
    canonical.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

impl Cluster {
    /// Whether the node is its only seed.
    pub fn is_only(&self, node: NodeId) -> bool {
        self.seeds.len() == 1 && self.seeds[0].id == node
    }

    /// Two nodes with the same digest mean the same cluster; the order of the seeds does not count. It finds
    /// mistakes, not attacks: nodes prove who they are by certificate.
    pub fn digest(&self) -> u64 {
        let mut seeds: Vec<_> = self.seeds.iter().collect();
        seeds.sort_by_key(|seed| seed.id);
        let mut canonical = format!("1\n{}\n{}\n", self.name, self.home_groups);
        for seed in seeds {
            canonical += &format!("{} {} {}\n", seed.id, seed.peer, seed.control);
        }
        hash(&canonical)
    }
}

impl Raft {
    /// Two nodes with the same digest have the same timings.
    pub fn digest(&self) -> u64 {
        let Self { heartbeat_ms, suspicion_ms, election_ms_min, election_ms_max, rank_step_ms, transfer_ms } = self;
        hash(&format!(
            "1\n{heartbeat_ms}\n{suspicion_ms}\n{election_ms_min}\n{election_ms_max}\n{rank_step_ms}\n{transfer_ms}\n"
        ))
    }
}

impl Listener {
    /// A listener on `bind`, all else by default.
    pub const fn new(kind: ListenerKind, bind: SocketAddr) -> Self {
        Self { kind, bind, advertised: None, anonymous: false, client_certificates: false }
    }

    /// What clients are told to connect to.
    pub fn advertised(&self) -> Address {
        self.advertised.clone().unwrap_or_else(|| self.bind.into())
    }
}

#[cfg(test)]
mod digests {
    use super::*;

    fn differing(change: impl Fn(&mut Config)) -> Option<&'static str> {
        let (one, mut other) = (Config::local(1, 3), Config::local(2, 3));
        change(&mut other);
        Config::sections_that_differ(one.digest(), other.digest())
    }

    #[test]
    fn what_must_be_the_same_on_all_nodes_is_compared_by_section() {
        assert_eq!(differing(|_| ()), None, "nodes differ in what is their own");
        assert_eq!(differing(|c| c.log.cache_bytes += 1), None);
        assert_eq!(differing(|c| c.cluster.home_groups = 4), Some("[cluster]"));
        let raft: [fn(&mut Raft) -> &mut u64; 6] = [
            |raft| &mut raft.heartbeat_ms,
            |raft| &mut raft.suspicion_ms,
            |raft| &mut raft.election_ms_min,
            |raft| &mut raft.election_ms_max,
            |raft| &mut raft.rank_step_ms,
            |raft| &mut raft.transfer_ms,
        ];
        for timing in raft {
            assert_eq!(differing(|c| *timing(&mut c.raft) += 1), Some("[raft]"));
        }
        assert_eq!(
            differing(|c| {
                c.cluster.name.push('x');
                c.raft.election_ms_max += 1;
            }),
            Some("[cluster] and [raft]")
        );
        // Sent between versions: it may only change together with a leading version number.
        assert_eq!(format!("{:016x}", Config::local(1, 3).digest()), "fb289f62ae30d267");
    }
}
