//! Retention and expiry: leaders propose, every replica removes files behind what was trimmed.

use super::hosting::{Hosted, Hosting};
use crate::{
    config,
    controller::{Controller, machine::Metadata},
    limits,
    partition::{
        Handle, Role,
        machine::{ExpireProducers, Trim},
    },
    runtime::Env,
};
use highwater_raft::GroupId;
use std::{collections::BTreeMap, time::Duration};

/// Looks at every hosted partition, for as long as the node lives.
pub(super) async fn run(hosting: Hosting, controller: Controller, env: Env, retention: config::Retention) {
    let mut compacted: BTreeMap<GroupId, u64> = BTreeMap::new();
    loop {
        tokio::time::sleep(Duration::from_millis(retention.check_ms)).await;
        let metadata = controller.metadata();
        let hosted = hosting.all();
        compacted.retain(|group, _| hosted.contains_key(group));
        for (group, hosted) in &hosted {
            let Some(handle) = &hosted.handle else { continue };
            let marks = handle.marks();
            if marks.role == Role::Leader && marks.ready {
                let now_ms = env.now_ms();
                handle.tidy(ExpireProducers { before_ms: now_ms.saturating_sub(limits::PRODUCER_EXPIRY_MS) });
                if let Some(offset) = trim_to(hosted, handle, &metadata, &retention, now_ms).await {
                    handle.propose(Trim { offset }.command());
                }
            }
            if compacted.get(group).is_none_or(|before| *before < marks.log_start) && marks.log_start > 0 {
                match hosted.raft.compact(marks.log_start).await {
                    Ok(()) => drop(compacted.insert(*group, marks.log_start)),
                    Err(error) => tracing::warn!(group = group.0, %error, "old segments could not be removed"),
                }
            }
        }
    }
}

/// The offset below which the topic keeps nothing.
async fn trim_to(
    hosted: &Hosted,
    handle: &Handle,
    metadata: &Metadata,
    retention: &config::Retention,
    now_ms: u64,
) -> Option<u64> {
    let topic = metadata.topic(handle.partition().topic)?;
    let is_set = |name| topic.settings.iter().any(|(set, _)| set == name);
    let ms = match topic.settings.retention_ms() {
        Some(_) if !is_set(crate::controller::machine::RETENTION_MS) => retention.ms,
        Some(ms) => ms,
        None => return None,
    };
    let marks = handle.marks();
    let before = i64::try_from(now_ms.saturating_sub(ms)).ok()?;
    let first_kept = match hosted.raft.log().find_time(before).await {
        Ok(found) => found.unwrap_or(marks.high_watermark),
        Err(error) => {
            tracing::warn!(partition = %handle.partition(), %error, "retention cannot read the log");
            return None;
        }
    };
    (first_kept > marks.log_start).then_some(first_kept)
}
