//! What the HTTP pages of a node say.

use super::{NodeError, hosting::Hosting};
use crate::{
    advice::Advice as _,
    controller::Controller,
    gateway::{Gateway, admin::Facts},
    metrics::{Metrics, PeerState, Pool},
    partition::{Role, TailBudget},
    runtime::{Phase, Phases},
};
use futures_util::FutureExt as _;
use highwater_raft::{
    group::{self, Host},
    log::Directory,
    transport::detector::State,
};
use std::time::Duration;

pub(super) struct NodeFacts {
    pub(super) controller: Controller,
    pub(super) directory: Directory,
    pub(super) host: Host,
    pub(super) hosting: Hosting,
    /// Since when each arbiter has not turned, and how long it may.
    pub(super) ages: group::Arbiters,
    pub(super) arbiter_age_max: Duration,
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
        if self.phases.now() == Phase::Stopped {
            return Err("the node has stopped".into());
        }
        // One poll: it has failed, or not yet.
        if let Some(error) = self.directory.failed().now_or_never().map(NodeError::Storage) {
            return Err(format!("{error} ({})", error.advice()));
        }
        // The other nodes take it for dead then, for the same reason.
        match (self.ages)().into_iter().enumerate().find(|(_, age)| *age > self.arbiter_age_max) {
            Some((arbiter, age)) => Err(format!(
                "arbiter {arbiter} has not turned for {} ms: restart the node if it stays so, and report a stack trace of its threads",
                age.as_millis()
            )),
            None => Ok(()),
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.live()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        node::Node,
        runtime::{Env, TaskSet},
    };
    use bytes::Bytes;
    use highwater_raft::testing::disk::{SimDisk, SimLimits};
    use tokio::{task::LocalSet, time::timeout};

    const EPOCH_MS: u64 = 1_700_000_000_000;
    const SOON: Duration = Duration::from_secs(30);

    async fn one_node() -> (Node, std::sync::Arc<SimDisk>) {
        let mut config = Config::local(1, 1);
        config.listeners.0.clear();
        config.log.wal_file_bytes = 1 << 20;
        config.log.segment_bytes = 1 << 20;
        config.log.free_bytes_min = 1 << 20;
        let disk = SimDisk::new(Env::simulated(1, EPOCH_MS, TaskSet::default()), SimLimits::default());
        let tasks = TaskSet::default();
        let env = Env::simulated(2, EPOCH_MS, tasks.clone());
        let node = tasks.tag(Node::builder(config).env(env).disk(disk.clone()).start()).await.unwrap();
        timeout(SOON, node.serving()).await.unwrap();
        (node, disk)
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_with_a_stuck_arbiter_is_neither_live_nor_ready() {
        let test = async {
            let (node, _disk) = one_node().await;
            let of = &node.0.facts;
            let turned = std::sync::Arc::new(std::sync::Mutex::new(Duration::ZERO));
            let age = turned.clone();
            let facts = NodeFacts {
                controller: of.controller.clone(),
                directory: of.directory.clone(),
                host: of.host.clone(),
                hosting: of.hosting.clone(),
                ages: std::sync::Arc::new(move || vec![Duration::ZERO, *age.lock().unwrap()]),
                arbiter_age_max: of.arbiter_age_max,
                gateway: of.gateway.clone(),
                tails: of.tails.clone(),
                cache_bytes: of.cache_bytes,
                phases: of.phases.clone(),
                metrics: of.metrics.clone(),
            };
            *turned.lock().unwrap() = facts.arbiter_age_max;
            assert_eq!((facts.live(), facts.ready()), (Ok(()), Ok(())));
            *turned.lock().unwrap() = facts.arbiter_age_max + Duration::from_millis(1);
            let why = facts.live().unwrap_err();
            assert!(why.starts_with("arbiter 1 has not turned for 2001 ms"), "{why}");
            assert_eq!(facts.ready(), Err(why));
            node.stop().await.unwrap();
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_disk_failed_is_neither_live_nor_ready() {
        let test = async {
            let (node, disk) = one_node().await;
            let facts = node.0.facts.clone();
            assert_eq!(facts.live(), Ok(()));
            // Nobody waits for the node's end: what it says of itself must not depend on that.
            disk.fail_next_sync();
            let _ = facts.directory.note("a-note", Bytes::from_static(b"x")).await;
            timeout(SOON, facts.directory.failed()).await.unwrap();
            let why = facts.live().unwrap_err();
            assert!(why.starts_with("storage failed: ") && why.contains("check the disk"), "{why}");
            assert_eq!(facts.ready(), Err(why));
            node.stop().await.unwrap_err();
            assert_eq!(facts.live(), Err("the node has stopped".into()));
        };
        LocalSet::new().run_until(test).await;
    }
}
