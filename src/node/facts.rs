//! What the HTTP pages of a node say.

use super::hosting::Hosting;
use crate::{
    controller::Controller,
    gateway::{Gateway, admin::Facts},
    metrics::{Metrics, PeerState, Pool},
    partition::{Role, TailBudget},
    runtime::{Phase, Phases},
};
use highwater_raft::{group::Host, log::Directory, transport::detector::State};

pub(super) struct NodeFacts {
    pub(super) controller: Controller,
    pub(super) directory: Directory,
    pub(super) host: Host,
    pub(super) hosting: Hosting,
    pub(super) gateway: Gateway,
    pub(super) tails: TailBudget,
    pub(super) cache_bytes: u64,
    pub(super) phases: Phases,
    pub(super) metrics: Metrics,
}

impl NodeFacts {
    /// Reads what is not counted where it happens.
    fn measure(&self) {
        let metrics = &self.metrics;
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let partitions: Vec<_> = self.hosting.all().into_values().filter_map(|hosted| hosted.handle).collect();
        let led = partitions.iter().filter(|handle| handle.marks().role == Role::Leader).count();
        metrics.partitions_hosted.set(gauge(partitions.len() as u64));
        let unwell = self.controller.ailing().of(self.controller.node()).len();
        metrics.replicas_unwell.set(gauge(unwell as u64));
        metrics.partitions_led.set(gauge(led as u64));
        metrics.connections.set(self.gateway.connections().into());
        let stats = self.directory.stats();
        metrics.wal_files.set(gauge(stats.wal_files as u64));
        metrics.wal_bytes.set(gauge(stats.wal_bytes));
        metrics.disk_free_bytes.set(gauge(stats.free_bytes));
        let pools = self.gateway.pools();
        let three = [("produce", &pools.produce), ("response", &pools.response), ("control", &pools.control)];
        let three = three.map(|(pool, bytes)| (pool, bytes.taken(), bytes.limit()));
        let tail = ("tail", self.tails.used(), self.tails.limit());
        let cache = ("cache", stats.cached_bytes as u64, self.cache_bytes);
        for (pool, used, size) in three.into_iter().chain([tail, cache]) {
            metrics.pool_used_bytes.get_or_create(&Pool { pool }).set(gauge(used));
            metrics.pool_size_bytes.get_or_create(&Pool { pool }).set(gauge(size));
        }
        let lives = self.host.liveness();
        let lives = lives.borrow();
        let word = |state: &State| match state {
            State::Alive => "alive",
            State::Suspected(_) => "suspected",
            State::Unknown => "unknown",
        };
        for state in ["alive", "suspected", "unknown"] {
            let count = lives.values().filter(|life| word(&life.state) == state).count();
            metrics.peers.get_or_create(&PeerState { state }).set(gauge(count as u64));
        }
    }
}

impl Facts for NodeFacts {
    fn live(&self) -> Result<(), String> {
        match self.phases.now() {
            Phase::Stopped => Err("the node has stopped".into()),
            _ => Ok(()),
        }
    }

    fn ready(&self) -> Result<(), String> {
        match self.phases.now() {
            Phase::Serving => {}
            other => return Err(format!("the node is {other:?}")),
        }
        if self.controller.leader().is_none() {
            return Err("no leader of the controller group is known".into());
        }
        if self.directory.is_low() {
            return Err("the data directory is below its low-water mark of free space".into());
        }
        let failed = self.hosting.failed();
        if !failed.is_empty() {
            return Err(format!(
                "{} replicas fail again and again, and stay out for some minutes at a time; read the log",
                failed.len()
            ));
        }
        Ok(())
    }

    fn metrics(&self) -> String {
        self.measure();
        self.metrics.encode()
    }
}
