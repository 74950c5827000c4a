//! `highwater group`.

use super::{
    Context,
    output::{self, Output, Row},
};
use crate::{
    client::GroupKind,
    types::{GroupName, Position, TopicName},
};
use serde::Serialize;
use std::process::ExitCode;

/// `highwater group …`
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// All groups
    List,
    /// One group: members, committed offsets, lag
    Describe {
        /// Its name
        group: GroupName,
    },
    /// Move the committed offsets of a group that has no members now
    Reset {
        /// Its name
        group: GroupName,
        /// Where to: earliest, latest, an offset, or @MILLISECONDS since 1970
        #[arg(long, value_name = "POSITION", value_parser = super::position, allow_hyphen_values = true)]
        to: Position,
        /// Only this topic; may be given many times [default: all topics of the group]
        #[arg(long = "topic", value_name = "TOPIC")]
        topics: Vec<TopicName>,
        /// Only this partition of the topics; may be given many times [default: all]
        #[arg(long = "partition", value_name = "N", requires = "topics")]
        partitions: Vec<u32>,
    },
    /// Remove a group that has no members now, with its offsets
    Delete {
        /// Its name
        group: GroupName,
    },
}

fn kind(kind: GroupKind) -> &'static str {
    match kind {
        GroupKind::Offset => "offset",
        GroupKind::Lease => "lease",
    }
}

#[derive(Serialize)]
struct GroupRow {
    group: String,
    kind: &'static str,
    members: u32,
    generation: u64,
}

impl Row for GroupRow {
    const COLUMNS: &'static [&'static str] = &["GROUP", "KIND", "MEMBERS", "GENERATION"];
    fn cells(&self) -> Vec<String> {
        vec![self.group.clone(), self.kind.into(), self.members.to_string(), self.generation.to_string()]
    }
}

#[derive(Serialize)]
struct LagRow {
    topic: String,
    partition: u32,
    committed: Option<u64>,
    high_watermark: Option<u64>,
    lag: Option<u64>,
    member: Option<String>,
}

impl Row for LagRow {
    const COLUMNS: &'static [&'static str] = &["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"];
    fn cells(&self) -> Vec<String> {
        let or_dash = |n: Option<u64>| n.map_or_else(|| "-".into(), |n| n.to_string());
        vec![
            self.topic.clone(),
            self.partition.to_string(),
            or_dash(self.committed),
            or_dash(self.high_watermark),
            or_dash(self.lag),
            self.member.clone().unwrap_or_else(|| "-".into()),
        ]
    }
}

#[derive(Serialize)]
struct Described {
    group: String,
    kind: &'static str,
    generation: u64,
    start: String,
    /// Absent when that of one partition is not known.
    lag: Option<u64>,
    members: Vec<String>,
    partitions: Vec<LagRow>,
}

#[derive(Serialize)]
struct MovedRow {
    topic: String,
    partition: u32,
    offset: u64,
}

impl Row for MovedRow {
    const COLUMNS: &'static [&'static str] = &["TOPIC", "PARTITION", "OFFSET"];
    fn cells(&self) -> Vec<String> {
        vec![self.topic.clone(), self.partition.to_string(), self.offset.to_string()]
    }
}

pub(super) async fn run(context: Context, command: Command) -> anyhow::Result<ExitCode> {
    let client = context.client().await?;
    let admin = client.admin();
    match command {
        Command::List => {
            let found = admin.groups().await.map_err(super::advise)?;
            for (node, why) in &found.missing {
                eprintln!("groups that live on node {node} are missing: {why}");
            }
            if !found.homes_missing.is_empty() {
                let homes: Vec<_> = found.homes_missing.iter().map(u64::to_string).collect();
                eprintln!(
                    "groups of these homes are missing, as no leader of them answers: {}; start the nodes that are down",
                    homes.join(", ")
                );
            }
            let rows: Vec<_> = found
                .groups
                .into_iter()
                .map(|group| GroupRow {
                    group: group.group.to_string(),
                    kind: kind(group.kind),
                    members: group.members,
                    generation: group.generation.0,
                })
                .collect();
            context.output.rows(&rows, "no groups yet: `highwater consume TOPIC -g NAME` makes one")?;
        }
        Command::Describe { group } => {
            let details = admin.describe_group(&group).await.map_err(super::advise)?;
            let lag = details.lag();
            let rows = details.partitions.into_iter().map(|p| LagRow {
                topic: if p.topic.is_empty() { format!("({} is gone)", p.topic_id) } else { p.topic },
                partition: p.partition,
                committed: p.committed,
                high_watermark: p.high_watermark,
                lag: p.lag,
                member: p.member.map(|member| member.to_string()),
            });
            let all = Described {
                group: group.to_string(),
                kind: kind(details.kind),
                generation: details.generation.0,
                start: details.start.to_string(),
                lag,
                members: details.members.iter().map(|(member, _)| member.to_string()).collect(),
                partitions: rows.collect(),
            };
            match context.output {
                Output::Json => context.output.value(&all, String::new)?,
                Output::Table => {
                    output::say(format!(
                        "group {group}: {}, generation {}, starts at {}, lag {}",
                        output::counted(all.members.len() as u64, "member"),
                        all.generation,
                        all.start,
                        lag.map_or_else(|| "unknown".into(), output::count)
                    ))?;
                    context.output.rows(&all.partitions, "it has consumed nothing yet")?;
                }
            }
        }
        Command::Reset { group, to, topics, partitions } => {
            let places = topics.iter().flat_map(|topic| partitions.iter().map(|partition| (topic.clone(), *partition)));
            let moved = match partitions.is_empty() {
                true => admin.reset_group(&group, &topics, to).await,
                false => admin.reset_partitions(&group, &places.collect::<Vec<_>>(), to).await,
            };
            let moved = moved.map_err(super::advise)?;
            let rows: Vec<_> = moved
                .into_iter()
                .map(|(topic, partition, offset)| MovedRow { topic: topic.to_string(), partition, offset })
                .collect();
            context.output.rows(&rows, "nothing to move: name topics with --topic")?;
        }
        Command::Delete { group } => {
            admin.delete_group(&group).await.map_err(super::advise)?;
            context
                .output
                .value(&serde_json::json!({ "deleted": group.as_str() }), || format!("group {group} is gone"))?;
        }
    }
    client.close();
    Ok(ExitCode::SUCCESS)
}
