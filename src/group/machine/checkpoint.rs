//! A home's state as bytes: a version byte, then an rmp-serde map. Ordered, so equal states are equal bytes.

use super::{Group, HomeMachine, TopicFacts};
use crate::{
    limits,
    types::{Generation, GroupName, TopicId},
};
use bytes::Bytes;
use highwater_raft::machine::Damaged;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeMap};

/// Version of the layout; changes with it.
pub const CHECKPOINT_VERSION: u8 = 2;

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    #[serde(rename = "g", default)]
    groups: Cow<'a, BTreeMap<GroupName, Group>>,
    #[serde(rename = "t", default)]
    topics: Cow<'a, BTreeMap<TopicId, TopicFacts>>,
    #[serde(rename = "v", default)]
    topics_version: u64,
    #[serde(rename = "a", default)]
    next_group: u64,
    #[serde(rename = "b", default)]
    next_member: u64,
    #[serde(rename = "c", default)]
    next_session: u64,
    #[serde(rename = "f", default)]
    generation_floor: Generation,
}

pub(super) fn write(machine: &HomeMachine) -> Bytes {
    let stored = Stored {
        groups: Cow::Borrowed(&machine.groups),
        topics: Cow::Borrowed(&machine.topics),
        topics_version: machine.topics_version,
        next_group: machine.next_group,
        next_member: machine.next_member,
        next_session: machine.next_session,
        generation_floor: machine.generation_floor,
    };
    let mut out = vec![CHECKPOINT_VERSION];
    rmp_serde::encode::write_named(&mut out, &stored).expect("plain values in memory always encode");
    out.into()
}

pub(super) fn read(bytes: &[u8]) -> Result<HomeMachine, Damaged> {
    let damaged = |why: String| Damaged { what: "group home checkpoint", why };
    let (version, body) = bytes.split_first().ok_or_else(|| damaged("it is empty".into()))?;
    if *version != CHECKPOINT_VERSION {
        return Err(damaged(format!(
            "format {version} is of another release, this one reads {CHECKPOINT_VERSION}: run the release that wrote it"
        )));
    }
    let stored: Stored<'_> = crate::types::decode(body).map_err(|e| damaged(e.to_string()))?;
    let topics = stored.topics.into_owned();
    let groups = stored.groups.into_owned();
    let generations = groups.values().map(|group| group.generation.0).chain([stored.generation_floor.0]);
    let counters = generations.chain([stored.next_group, stored.next_member, stored.next_session]);
    if counters.into_iter().any(|n| n >= limits::COUNTER_END) {
        return Err(damaged("a counter is beyond all that can have been counted".into()));
    }
    if let Some(facts) = topics.values().find(|facts| facts.partitions > limits::PARTITIONS_PER_TOPIC_MAX) {
        return Err(damaged(format!("topic {} has {} partitions", facts.name, facts.partitions)));
    }
    let names: BTreeMap<_, _> = topics.iter().map(|(id, facts)| (facts.name.clone(), *id)).collect();
    if names.len() != topics.len() {
        return Err(damaged("two topics have the same name".into()));
    }
    for (name, group) in &groups {
        let consuming = group.target.values().chain(group.owners.values().map(|owner| &owner.member));
        if let Some(stranger) = consuming.into_iter().find(|member| !group.members.contains_key(*member)) {
            return Err(damaged(format!("in group {name}, {stranger} consumes and is no member")));
        }
    }
    let Stored { topics_version, next_group, next_member, next_session, generation_floor, .. } = stored;
    Ok(HomeMachine { groups, topics, names, topics_version, next_group, next_member, next_session, generation_floor })
}
