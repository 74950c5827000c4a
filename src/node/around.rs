//! The cluster as homes of consumer groups see it: the controller's snapshot.

use crate::{
    controller::Controller,
    group::{Surroundings, machine::TopicFacts},
    replica::Leaders,
    types::{NodeId, TopicId},
};
use std::collections::BTreeMap;
use tokio::sync::watch;

pub(super) struct Around(pub(super) Controller);

impl Surroundings for Around {
    fn node(&self) -> NodeId {
        self.0.node()
    }

    fn homes(&self) -> u64 {
        self.0.metadata().homes
    }

    fn leaders(&self) -> &Leaders {
        self.0.leaders()
    }

    fn version(&self) -> u64 {
        self.0.metadata().version
    }

    fn topics(&self) -> (u64, BTreeMap<TopicId, TopicFacts>) {
        let metadata = self.0.metadata();
        let facts = metadata.topics.iter().map(|(name, topic)| {
            let partitions = u32::try_from(topic.partitions.len()).expect("limited per topic");
            (topic.id, TopicFacts { name: name.clone(), partitions })
        });
        (metadata.version, facts.collect())
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed()
    }
}
