//! What a node counts, in Prometheus' text format (`/metrics`).
//!
//! Owned by the node and handed down; each field is written by the one place that its doc names. Counters and gauges
//! without labels are single atomics: hot paths touch no lock. Labels have few values by construction (never a
//! topic, a client or an address), so a scrape stays small whatever users do.

use crate::types::NodeId;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use std::sync::Arc;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a node. Clones share.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    families: Families,
}

/// The metrics by name, without their prefix `highwater_`.
#[derive(Debug)]
pub struct Families {
    /// Batches that were acknowledged. Written by sessions.
    pub produce_batches: Counter,
    /// Records that were acknowledged. Written by sessions.
    pub produce_records: Counter,
    /// Bytes of the batches that were acknowledged. Written by sessions.
    pub produce_bytes: Counter,
    /// Produce requests that were refused, by reason. Written by sessions.
    pub produce_refused: Family<Reason, Counter>,
    /// From admission of a produce request to its answer. Written by sessions.
    pub produce_seconds: Histogram,
    /// Fetches that were answered. Written by sessions.
    pub fetch_requests: Counter,
    /// Bytes of batches that were sent to consumers. Written by sessions.
    pub fetch_bytes: Counter,
    /// Fetches that wait for records. Written by sessions.
    pub fetches_parked: Gauge,
    /// Subscriptions that records are pushed to. Written by sessions.
    pub subscriptions: Gauge,
    /// Connections of clients. Written by the node at each scrape.
    pub connections: Gauge,
    /// Partitions that this node leads. Written by the node at each scrape.
    pub partitions_led: Gauge,
    /// Partitions of which this node has a replica. Written by the node at each scrape.
    pub partitions_hosted: Gauge,
    /// Replicas of this node that are damaged, being mended, or failed. Written by the node at each scrape.
    pub replicas_unwell: Gauge,
    /// Leaderships of partitions that this node won. Written by its leaders.
    pub leaderships_won: Counter,
    /// Consumer groups whose home this node leads. Written by homes.
    pub groups: Gauge,
    /// Members of these groups. Written by homes.
    pub group_members: Gauge,
    /// Bytes taken from a pool. Written by the node at each scrape.
    pub pool_used_bytes: Family<Pool, Gauge>,
    /// Bytes that a pool has. Written by the node at each scrape.
    pub pool_size_bytes: Family<Pool, Gauge>,
    /// Nodes by how they look from here. Written by the node at each scrape.
    pub peers: Family<PeerState, Gauge>,
    /// How long a flush of the write-ahead log took, `fdatasync` included. Written by the log.
    pub wal_flush_seconds: Histogram,
    /// Bytes in the write-ahead log. Written by the node at each scrape.
    pub wal_bytes: Gauge,
    /// Files of the write-ahead log. Written by the node at each scrape.
    pub wal_files: Gauge,
    /// Free bytes on the data directory's file system. Written by the node at each scrape.
    pub disk_free_bytes: Gauge,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// A refusal's code ([`Code::name`](crate::wire::Code::name)).
    pub reason: &'static str,
}

/// One of the byte pools.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Pool {
    /// `produce`, `response` and `control` refuse when they are full; `tail` and `cache` drop what is oldest.
    pub pool: &'static str,
}

/// How a node looks from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerState {
    /// `alive`, `suspected` or `unknown`.
    pub state: &'static str,
}

impl Metrics {
    /// The metrics of a node, all zero.
    pub fn new(node: NodeId) -> Self {
        let mut registry = Registry::with_prefix("highwater");
        let labels = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("node", node.to_string())];
        registry.register("build", "Version and id of the node", Info::new(labels));
        let families = Families::default();
        families.register(&mut registry);
        Self(Arc::new(Inner { registry, families }))
    }

    /// The text that Prometheus scrapes.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.0.registry).expect("writing to a string does not fail");
        out
    }
}

impl std::ops::Deref for Metrics {
    type Target = Families;
    fn deref(&self) -> &Families {
        &self.0.families
    }
}

impl Default for Families {
    fn default() -> Self {
        // 0.1 ms to 6.5 s: a flush of a fast disk is at the lower end, an election at the upper.
        let seconds = || Histogram::new(exponential_buckets(0.000_1, 2.0, 17));
        Self {
            produce_batches: Counter::default(),
            produce_records: Counter::default(),
            produce_bytes: Counter::default(),
            produce_refused: Family::default(),
            produce_seconds: seconds(),
            fetch_requests: Counter::default(),
            fetch_bytes: Counter::default(),
            fetches_parked: Gauge::default(),
            subscriptions: Gauge::default(),
            connections: Gauge::default(),
            partitions_led: Gauge::default(),
            partitions_hosted: Gauge::default(),
            replicas_unwell: Gauge::default(),
            leaderships_won: Counter::default(),
            groups: Gauge::default(),
            group_members: Gauge::default(),
            pool_used_bytes: Family::default(),
            pool_size_bytes: Family::default(),
            peers: Family::default(),
            wal_flush_seconds: seconds(),
            wal_bytes: Gauge::default(),
            wal_files: Gauge::default(),
            disk_free_bytes: Gauge::default(),
        }
    }
}

impl Families {
    fn register(&self, to: &mut Registry) {
        to.register("produce_batches", "Batches acknowledged", self.produce_batches.clone());
        to.register("produce_records", "Records acknowledged", self.produce_records.clone());
        to.register_with_unit("produce", "Bytes of batches acknowledged", Unit::Bytes, self.produce_bytes.clone());
        to.register("produce_refused", "Produce requests refused", self.produce_refused.clone());
        to.register_with_unit("produce", "Admission to answer", Unit::Seconds, self.produce_seconds.clone());
        to.register("fetch_requests", "Fetches answered", self.fetch_requests.clone());
        to.register_with_unit("fetch", "Bytes of batches sent to consumers", Unit::Bytes, self.fetch_bytes.clone());
        to.register("fetches_parked", "Fetches that wait for records", self.fetches_parked.clone());
        to.register("subscriptions", "Subscriptions that records are pushed to", self.subscriptions.clone());
        to.register("connections", "Connections of clients", self.connections.clone());
        to.register("partitions_led", "Partitions that this node leads", self.partitions_led.clone());
        to.register("partitions_hosted", "Partitions with a replica here", self.partitions_hosted.clone());
        to.register(
            "replicas_unwell",
            "Replicas here that are damaged, mended or failed",
            self.replicas_unwell.clone(),
        );
        to.register("leaderships_won", "Leaderships that this node won", self.leaderships_won.clone());
        to.register("groups", "Consumer groups whose home this node leads", self.groups.clone());
        to.register("group_members", "Members of these groups", self.group_members.clone());
        to.register_with_unit("pool_used", "Bytes taken from a pool", Unit::Bytes, self.pool_used_bytes.clone());
        to.register_with_unit("pool_size", "Bytes that a pool has", Unit::Bytes, self.pool_size_bytes.clone());
        to.register("peers", "Other nodes by how they look from here", self.peers.clone());
        to.register_with_unit("wal_flush", "Flushes of the log", Unit::Seconds, self.wal_flush_seconds.clone());
        to.register_with_unit("wal", "Bytes in the write-ahead log", Unit::Bytes, self.wal_bytes.clone());
        to.register("wal_files", "Files of the write-ahead log", self.wal_files.clone());
        to.register_with_unit("disk_free", "Free bytes on the file system", Unit::Bytes, self.disk_free_bytes.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new(NodeId(3));
        metrics.clone().produce_bytes.inc_by(1_234);
        metrics.fetches_parked.set(7);
        metrics.produce_refused.get_or_create(&Reason { reason: "full" }).inc();
        metrics.pool_used_bytes.get_or_create(&Pool { pool: "produce" }).set(99);
        metrics.wal_flush_seconds.observe(0.001);
        let text = metrics.encode();
        for line in [
            "highwater_produce_bytes_total 1234",
            "highwater_fetches_parked 7",
            "highwater_produce_refused_total{reason=\"full\"} 1",
            "highwater_pool_used_bytes{pool=\"produce\"} 99",
            "highwater_wal_flush_seconds_count 1",
            &format!("highwater_build_info{{version=\"{}\",node=\"3\"}} 1", env!("CARGO_PKG_VERSION")),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_family_has_a_name_of_its_own() {
        let text = Metrics::new(NodeId(1)).encode();
        let mut names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let registered = names.len();
        names.sort_unstable();
        names.dedup();
        // Families without a value yet are not shown: four have labels.
        assert_eq!((names.len(), registered), (20, 20), "{names:#?}");
    }
}
