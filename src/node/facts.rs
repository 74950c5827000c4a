//! What the HTTP pages of a node say.

use super::hosting::Hosting;
use crate::{
    controller::Controller,
    gateway::admin::Facts,
    metrics::Metrics,
    runtime::{Phase, Phases},
};
use highwater_raft::log::Directory;

pub(super) struct NodeFacts {
    pub(super) controller: Controller,
    pub(super) directory: Directory,
    pub(super) hosting: Hosting,
    pub(super) phases: Phases,
    pub(super) metrics: Metrics,
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
                "{} replicas have failed since the start; read the log, then restart the node",
                failed.len()
            ));
        }
        Ok(())
    }

    fn metrics(&self) -> String {
        self.metrics.encode()
    }
}
