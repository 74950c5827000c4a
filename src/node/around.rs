//! The cluster as homes of consumer groups see it: the controller's snapshot.

use crate::{
    controller::Controller,
    group::{Surroundings, machine::TopicFacts},
    replica::Leaders,
    types::{NodeId, TopicId},
};
use std::collections::BTreeMap;
use tokio::sync::watch;

impl Surroundings for Controller {
    fn node(&self) -> NodeId {
        Controller::node(self)
    }

    fn homes(&self) -> u64 {
        self.metadata().homes
    }

    fn leaders(&self) -> &Leaders {
        Controller::leaders(self)
    }

    fn version(&self) -> u64 {
        self.metadata().version
    }

    fn topics(&self) -> (u64, BTreeMap<TopicId, TopicFacts>) {
        let metadata = self.metadata();
        let facts = metadata.topics.iter().map(|(name, topic)| {
            let partitions = u32::try_from(topic.partitions.len()).expect("limited per topic");
            (topic.id, TopicFacts { name: name.clone(), partitions })
        });
        (metadata.version, facts.collect())
    }

    fn changed(&self) -> watch::Receiver<u64> {
        Controller::changed(self)
    }
}
