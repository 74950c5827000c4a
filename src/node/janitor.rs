//! Retention and expiry: leaders propose, every replica removes the files behind what was trimmed.
//!
//! - By time: records older than the topic's `retention.ms` are out of the log at the next look, entry by entry.
//! - By bytes: the oldest segments go, as long as those behind them hold `retention.bytes`.
//! - Files go whole, on each replica by itself: a segment goes when all of it lies below the log start.
//! - The logs of the controller and of group homes keep nothing below their newest checkpoint at a segment's boundary.

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
use std::{io, time::Duration};

/// Looks at every hosted replica, for as long as the node lives.
pub(super) async fn run(hosting: Hosting, controller: Controller, env: Env, retention: config::Retention) {
    loop {
        tokio::time::sleep(Duration::from_millis(retention.check_ms)).await;
        let metadata = controller.metadata();
        for (group, hosted) in hosting.all() {
            if let Err(error) = look(&hosted, &metadata, &retention, env.now_ms()).await {
                tracing::warn!(group = group.0, %error, "retention cannot be kept; old records stay for now");
            }
        }
    }
}

async fn look(hosted: &Hosted, metadata: &Metadata, retention: &config::Retention, now_ms: u64) -> io::Result<()> {
    let Some(handle) = &hosted.handle else { return hosted.raft.compact(0).await };
    let marks = handle.marks();
    if marks.role == Role::Leader && marks.ready {
        handle.tidy(ExpireProducers { before_ms: now_ms.saturating_sub(limits::PRODUCER_EXPIRY_MS) });
        let offset = trim_to(hosted, handle, metadata, retention, now_ms).await?;
        if offset > marks.log_start {
            tracing::debug!(partition = %handle.partition(), offset, "retention moves the log start");
            handle.propose(Trim { offset }.command());
        }
    }
    // Also when the start did not move: what lay in the write-ahead log then may be in a segment by now.
    if marks.log_start > 0 { hosted.raft.compact(marks.log_start).await } else { Ok(()) }
}

/// The offset below which the topic keeps nothing; 0 when it keeps all.
async fn trim_to(
    hosted: &Hosted,
    handle: &Handle,
    metadata: &Metadata,
    retention: &config::Retention,
    now_ms: u64,
) -> io::Result<u64> {
    let Some(topic) = metadata.topic(handle.partition().topic) else { return Ok(0) };
    // Taken before the search: what it does not find is below.
    let end = handle.marks().high_watermark;
    let log = hosted.raft.log();
    let mut offset = 0;
    if let Some(ms) = topic.settings.retention_ms(retention.ms.0) {
        let before = i64::try_from(now_ms.saturating_sub(ms)).unwrap_or(i64::MAX);
        offset = log.find_time(before).await?.unwrap_or(end);
    }
    if let Some(bytes) = topic.settings.retention_bytes(retention.bytes.0) {
        offset = offset.max(log.offset_within(bytes).await?);
    }
    Ok(offset)
}
