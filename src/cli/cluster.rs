//! `highwater cluster`.

use super::{
    Context,
    output::{self, Row},
};
use serde::Serialize;
use std::process::ExitCode;

/// `highwater cluster …`
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Nodes, leaders, and what is missing; exit code 1 when a partition has no leader or a node is silent
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

#[derive(Serialize)]
struct Status {
    name: String,
    cluster_id: String,
    nodes: Vec<NodeRow>,
    topics: u32,
    partitions: u32,
    leaderless: u32,
    offline: u32,
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
    };
    context.output.value(&status, || {
        let mut text = format!(
            "cluster {} ({}): {} topics, {} partitions",
            status.name, status.cluster_id, status.topics, status.partitions
        );
        if status.leaderless + status.offline > 0 {
            text += &format!("; {} without a leader, {} offline", status.leaderless, status.offline);
        }
        format!("{text}\n\n{}", output::table(NodeRow::COLUMNS, status.nodes.iter().map(Row::cells)))
    })?;
    let well = status.leaderless + status.offline == 0 && status.nodes.iter().all(|node| node.alive);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
