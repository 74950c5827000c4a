//! `highwater cluster`.

use super::{
    Context,
    output::{self, Row},
};
use crate::{
    client::{ReplicaState, ReplicaStatus},
    limits,
};
use serde::Serialize;
use std::process::ExitCode;

/// `highwater cluster …`
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Nodes, leaders, what is missing and what is being repaired; exit code 1 when anything is
    Status,
}

#[derive(Serialize)]
struct NodeRow {
    node: u32,
    address: String,
    alive: bool,
    controller: bool,
    leaders: u32,
    replicas: u32,
}

impl Row for NodeRow {
    const COLUMNS: &'static [&'static str] = &["NODE", "CLIENTS", "STATE", "LEADERS", "REPLICAS", ""];
    fn cells(&self) -> Vec<String> {
        vec![
            self.node.to_string(),
            self.address.clone(),
            if self.alive { "alive" } else { "silent" }.into(),
            self.leaders.to_string(),
            self.replicas.to_string(),
            if self.controller { "controller" } else { "" }.into(),
        ]
    }
}

/// A replica that is not, or not yet, a sound member of its group.
#[derive(Serialize)]
struct ReplicaRow {
    of: String,
    group: u64,
    node: u32,
    replica: u64,
    state: &'static str,
    note: &'static str,
}

impl Row for ReplicaRow {
    const COLUMNS: &'static [&'static str] = &["UNDER REPAIR", "NODE", "REPLICA", "STATE", ""];
    fn cells(&self) -> Vec<String> {
        let replica = if self.replica == 0 { String::new() } else { self.replica.to_string() };
        vec![self.of.clone(), self.node.to_string(), replica, self.state.into(), self.note.into()]
    }
}

impl From<ReplicaStatus> for ReplicaRow {
    fn from(status: ReplicaStatus) -> Self {
        let of = match (&status.topic, status.group) {
            (Some(topic), _) => format!("{topic}/{}", status.partition),
            (None, limits::CONTROLLER_GROUP) => "controller".into(),
            (None, group) => format!("consumer groups, home {group}"),
        };
        let (state, note) = match status.state {
            ReplicaState::Learner => ("learner", "copies the log from its peers"),
            ReplicaState::Ready => ("learner", "has the log; is about to vote"),
            ReplicaState::Faulty => ("faulty", "damaged or gone: does not vote or serve any more"),
            ReplicaState::Failed => ("failed", "read the node's log, then restart the node"),
            ReplicaState::Mending => ("voter", "fetches a damaged segment from a peer"),
            ReplicaState::Other => ("other", "a later release knows more"),
        };
        Self { of, group: status.group, node: status.node.0, replica: status.replica, state, note }
    }
}

#[derive(Serialize)]
struct Status {
    name: String,
    cluster_id: String,
    nodes: Vec<NodeRow>,
    topics: u32,
    partitions: u32,
    leaderless: u32,
    offline: u32,
    under_repair: Vec<ReplicaRow>,
}

pub(super) async fn run(context: Context, command: Command) -> anyhow::Result<ExitCode> {
    let Command::Status = command;
    let client = context.client().await?;
    let answer = client.admin().cluster_status().await.map_err(super::advise)?;
    client.close();
    let nodes = answer.nodes.into_iter().map(|node| NodeRow {
        node: node.node.0,
        address: node.address,
        alive: node.alive,
        controller: answer.controller == Some(node.node),
        leaders: node.leaders,
        replicas: node.replicas,
    });
    let status = Status {
        name: answer.name,
        cluster_id: format!("{:016x}", answer.cluster_id),
        nodes: nodes.collect(),
        topics: answer.topics,
        partitions: answer.partitions,
        leaderless: answer.leaderless,
        offline: answer.offline,
        under_repair: answer.replicas.into_iter().map(ReplicaRow::from).collect(),
    };
    context.output.value(&status, || {
        let mut text = format!(
            "cluster {} ({}): {}, {}",
            status.name,
            status.cluster_id,
            output::counted(status.topics.into(), "topic"),
            output::counted(status.partitions.into(), "partition")
        );
        if status.leaderless + status.offline > 0 {
            text += &format!("; {} without a leader, {} offline", status.leaderless, status.offline);
        }
        text += &format!("\n\n{}", output::table(NodeRow::COLUMNS, status.nodes.iter().map(Row::cells)));
        if !status.under_repair.is_empty() {
            let rows = status.under_repair.iter().map(Row::cells);
            text += &format!("\n\n{}", output::table(ReplicaRow::COLUMNS, rows));
        }
        text
    })?;
    for node in status.nodes.iter().filter(|node| !node.alive) {
        context.hint(|| format!("node {} is not heard: start it, or read its log", node.node));
    }
    if status.leaderless > 0 {
        context.hint(|| {
            "partitions without a leader wait for a majority of their nodes: highwater topic describe TOPIC".into()
        });
    }
    if status.offline > 0 {
        context.hint(|| {
            "offline partitions lost a majority of their replicas: `highwater topic describe` says what to do".into()
        });
    }
    let well = status.leaderless + status.offline == 0
        && status.under_repair.is_empty()
        && status.nodes.iter().all(|node| node.alive);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
