//! `highwater topic`.

use super::{
    Context,
    output::{self, Row},
};
use crate::{
    client::{AdminError, NewTopic, Refused, TopicMetadata},
    types::{Position, TopicName},
};
use serde::Serialize;
use std::process::ExitCode;

/// `highwater topic …`
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Make a topic
    Create {
        /// Its name
        topic: TopicName,
        /// Partitions; the cluster's default when 0
        #[arg(long, default_value_t = 0)]
        partitions: u32,
        /// Copies of each partition; the cluster's default when 0
        #[arg(long, default_value_t = 0)]
        replication_factor: u32,
        /// A setting: retention.ms, retention.bytes (-1: no limit), max.batch.bytes, compression; may be given many times
        #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
    },
    /// All topics
    List,
    /// One topic: its partitions, leaders, replicas, offsets
    Describe {
        /// Its name
        topic: TopicName,
    },
    /// Change settings, or add partitions
    Alter {
        /// Its name
        topic: TopicName,
        /// A setting, e.g. retention.ms=86400000; may be given many times
        #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
        /// Back to the default; may be given many times
        #[arg(long = "unset", value_name = "NAME")]
        unset: Vec<String>,
        /// So many partitions in all; there are never fewer than before
        #[arg(long, default_value_t = 0)]
        partitions: u32,
    },
    /// Remove a topic with all its records
    Delete {
        /// Its name
        topic: TopicName,
    },
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.into(), value.into()))
}

#[derive(Serialize)]
struct TopicRow {
    topic: String,
    partitions: usize,
    replication_factor: u32,
    leaderless: usize,
    settings: Vec<(String, String)>,
}

impl Row for TopicRow {
    const COLUMNS: &'static [&'static str] = &["TOPIC", "PARTITIONS", "REPLICAS", "LEADERLESS", "SETTINGS"];
    fn cells(&self) -> Vec<String> {
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        vec![
            self.topic.clone(),
            self.partitions.to_string(),
            self.replication_factor.to_string(),
            self.leaderless.to_string(),
            settings.join(" "),
        ]
    }
}

impl From<TopicMetadata> for TopicRow {
    fn from(topic: TopicMetadata) -> Self {
        Self {
            topic: topic.name.to_string(),
            partitions: topic.partitions.len(),
            replication_factor: topic.replication_factor,
            leaderless: topic.partitions.iter().filter(|p| p.leader.is_none()).count(),
            settings: topic.settings,
        }
    }
}

#[derive(Serialize)]
struct PartitionRow {
    partition: u32,
    leader: Option<u32>,
    leader_epoch: u64,
    replicas: Vec<u32>,
    log_start: Option<u64>,
    high_watermark: Option<u64>,
    state: &'static str,
}

impl Row for PartitionRow {
    const COLUMNS: &'static [&'static str] = &["PARTITION", "LEADER", "EPOCH", "REPLICAS", "START", "END", "STATE"];
    fn cells(&self) -> Vec<String> {
        let or_dash = |n: Option<u64>| n.map_or_else(|| "-".into(), |n| n.to_string());
        vec![
            self.partition.to_string(),
            or_dash(self.leader.map(u64::from)),
            self.leader_epoch.to_string(),
            self.replicas.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
            or_dash(self.log_start),
            or_dash(self.high_watermark),
            self.state.into(),
        ]
    }
}

#[derive(Serialize)]
struct Described {
    topic: String,
    id: String,
    settings: Vec<(String, String)>,
    partitions: Vec<PartitionRow>,
}

/// What is wrong with each offline partition, and what to do about it.
fn offline(topic: &TopicMetadata) -> impl Iterator<Item = String> {
    let offline = topic.partitions.iter().enumerate().filter(|(_, facts)| facts.offline);
    offline.map(|(partition, facts)| {
        let refused = Refused::offline(&facts.damaged, facts.replicas.len());
        let (topic, partition) = (topic.name.to_string(), u32::try_from(partition).unwrap_or(u32::MAX));
        super::advise(AdminError::Partition { topic, partition, refused }).to_string()
    })
}

pub(super) async fn run(context: Context, command: Command) -> anyhow::Result<ExitCode> {
    let client = context.client().await?;
    let admin = client.admin();
    match command {
        Command::Create { topic, partitions, replication_factor, settings } => {
            let new = NewTopic::new(topic.clone()).partitions(partitions).replication_factor(replication_factor);
            let new = settings.into_iter().fold(new, |new, (name, value)| new.setting(name, value));
            let made = admin.create_topic(new).await.map_err(super::advise)?;
            let row = TopicRow::from(admin.describe_topic(&made.name).await.map_err(super::advise)?);
            context.output.value(&row, || {
                let partitions = output::counted(made.partitions.into(), "partition");
                let replicas = output::counted(made.replication_factor.into(), "replica");
                format!("topic {topic}: {partitions}, {replicas} each")
            })?;
            context.hint(|| format!("next: ... | highwater produce {topic}, then highwater consume {topic}"));
        }
        Command::List => {
            let topics = admin.topics().await.map_err(super::advise)?;
            let rows: Vec<_> = topics.into_iter().map(TopicRow::from).collect();
            context.output.rows(&rows, "no topics yet: make one with `highwater topic create NAME`")?;
        }
        Command::Describe { topic } => {
            let described = admin.describe_topic(&topic).await.map_err(super::advise)?;
            let (start, end) = tokio::try_join!(
                admin.list_known_offsets(&topic, Position::Earliest),
                admin.list_known_offsets(&topic, Position::Latest),
            )
            .map_err(super::advise)?;
            let rows: Vec<_> = (0u32..)
                .zip(&described.partitions)
                .map(|(partition, facts)| PartitionRow {
                    partition,
                    leader: facts.leader.map(|node| node.0),
                    leader_epoch: facts.leader_epoch,
                    replicas: facts.replicas.iter().map(|node| node.0).collect(),
                    log_start: start.get(&partition).copied(),
                    high_watermark: end.get(&partition).copied(),
                    state: match (facts.offline, facts.leader) {
                        (true, _) => "offline",
                        (false, None) => "electing",
                        (false, Some(_)) => "ok",
                    },
                })
                .collect();
            let all = Described {
                topic: topic.to_string(),
                id: described.id.to_string(),
                settings: described.settings.clone(),
                partitions: rows,
            };
            context.output.value(&all, || {
                let settings = all.settings.iter().map(|(name, value)| format!("{name} = {value}\n"));
                let table = output::table(PartitionRow::COLUMNS, all.partitions.iter().map(Row::cells));
                format!("topic {topic}, id {}\n{}{table}", all.id, settings.collect::<String>())
            })?;
            offline(&described).for_each(|text| context.hint(|| text));
        }
        Command::Alter { topic, settings, unset, partitions } => {
            let set = settings.into_iter().map(|(name, value)| (name, Some(value)));
            let changes: Vec<_> = set.chain(unset.into_iter().map(|name| (name, None))).collect();
            anyhow::ensure!(
                !changes.is_empty() || partitions > 0,
                "nothing to change: use --set, --unset or --partitions"
            );
            admin.alter_topic(&topic, changes, partitions).await.map_err(super::advise)?;
            let row = TopicRow::from(admin.describe_topic(&topic).await.map_err(super::advise)?);
            context.output.rows(&[row], "")?;
        }
        Command::Delete { topic } => {
            admin.delete_topic(&topic).await.map_err(super::advise)?;
            context
                .output
                .value(&serde_json::json!({ "deleted": topic.as_str() }), || format!("topic {topic} is gone"))?;
        }
    }
    client.close();
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::PartitionMetadata,
        types::{NodeId, TopicId},
    };

    #[test]
    fn offline_partitions_are_explained() {
        let nodes = |nodes: &[u32]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
        let sound = PartitionMetadata { replicas: nodes(&[1, 2, 3]), damaged: nodes(&[2]), ..Default::default() };
        let lost = PartitionMetadata { offline: true, damaged: nodes(&[2, 3]), ..sound.clone() };
        let topic = TopicMetadata {
            name: "orders".parse().unwrap(),
            id: TopicId::default(),
            replication_factor: 3,
            settings: Vec::new(),
            partitions: vec![sound, lost],
        };
        insta::assert_snapshot!(offline(&topic).collect::<Vec<_>>().join("\n"), @"orders/1: the partition is offline, 2 of its 3 replicas are damaged or lost (node 2, node 3) (start one of these nodes with the data directory that it had, if that was only moved or not mounted; otherwise keep copies of what is left, delete the topic and create it again)");
    }
}
