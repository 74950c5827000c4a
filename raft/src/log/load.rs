//! A group at start: its hard state and entries from the WAL, its segments from their names, its checkpoints.

use super::{
    LogId, checkpoint,
    core::Common,
    entry::Owner,
    record::Moved,
    replay::Replayed,
    retire,
    segment::{self, Segment},
    state::{Place, Shared, Slot, State},
};
use crate::sabotage::{self, Bug};
use std::{io, sync::Arc};

/// Opens a group; the inner error says why it is faulty.
pub(super) async fn load(common: &Common, owner: Owner, known: Replayed) -> io::Result<Result<Arc<Shared>, String>> {
    // Files from before an install may still be there.
    let from = known.installed.as_ref().map_or(0, |checkpoint| checkpoint.last.index + 1);
    let mut segments = match segments(common, owner, known.hard.moved.as_ref(), from).await? {
        Ok(segments) => segments,
        Err(why) => return Ok(Err(why)),
    };
    // Segments below the purge point may be there again: their files went after its record, unsynced.
    let kept = segments.iter().rposition(|segment| segment.base <= known.hard.purged);
    let Some(kept) = kept.or_else(|| segments.first().filter(|segment| segment.first <= from).map(|_| 0)) else {
        let due = known.hard.purged.map_or(0, |purged| purged.index + 1);
        return Ok(Err(format!("the segment with entry {due} is missing")));
    };
    retire::remove_segments(common, owner, segments.drain(..kept)).await?;
    let mut state = state(known, segments);
    if let Err(why) = restart(common, owner, &mut state).await? {
        return Ok(Err(why));
    }
    let pending = state.installed.as_ref().map(|checkpoint| checkpoint.last);
    let shared = Shared::new(owner, state);
    if let Some(last) = pending {
        retire::installed(common, &shared, last).await?;
    }
    Ok(Ok(shared))
}

/// The segments that count, the open one last. Files of moves that were never recorded are removed.
async fn segments(
    common: &Common,
    owner: Owner,
    moved: Option<&Moved>,
    from: u64,
) -> io::Result<Result<Vec<Segment>, String>> {
    let folder = segment::folder(owner);
    let names = common.disk.list(&folder).await?;
    let none = Moved::default();
    let moved_some = moved.is_some();
    let moved = moved.unwrap_or(&none);
    let mut segments = Vec::new();
    let mut open = None;
    for (name, found) in names.iter().filter_map(|name| Some((name, Segment::parse(name)?))) {
        if found.damaged && names.iter().any(|n| Some(n.as_str()) == name.strip_suffix(segment::ASIDE)) {
            // Replaced since.
            common.disk.remove(&format!("{folder}/{name}")).await?;
        } else if found.first < from {
            common.disk.remove(&format!("{folder}/{name}")).await?;
        } else if found.first < moved.segment {
            segments.push(found);
        } else if found.first == moved.segment && moved.segment_len > 0 {
            open = Some(Segment { len: moved.segment_len, ..found });
        } else {
            common.disk.remove(&format!("{folder}/{name}")).await?;
        }
    }
    let open = match open {
        // As a reader left it that found damage when it was sealed, which the WAL was not told any more.
        Some(open) if open.damaged => {
            return Ok(Err(format!("the open segment from entry {} is damaged", open.first)));
        }
        Some(open) => {
            let len = common.disk.open(&open.path(owner), false).await?.len().await?;
            if len < open.len {
                return Ok(Err(format!("{} has {len} bytes, {} were synced", open.path(owner), open.len)));
            }
            open
        }
        None if moved.segment_len > 0 => {
            return Ok(Err(format!("the open segment from entry {} is missing", moved.segment)));
        }
        None => Segment::behind(moved_some.then_some(moved.upto).filter(|_| moved.segment > 0), moved.segment_offset),
    };
    segments.push(open);
    Ok(Ok(segments))
}

fn state(known: Replayed, segments: Vec<Segment>) -> State {
    let Replayed { hard, entries, installed } = known;
    let mut state = State { segments, installed, ..State::default() };
    let reaches = state.segments.iter().find(|segment| segment.base >= hard.purged);
    state.start_offset = reaches.unwrap_or(&state.segments[0]).offset;
    state.vote = hard.vote;
    state.purged = hard.purged;
    state.terms.extend(hard.purged);
    let visible_from = hard.purged.map_or(0, |p| p.index + 1);
    if let Some(moved) = &hard.moved {
        state.moved = Some(moved.upto);
        state.applied = Some(moved.upto);
        state.last = Some(moved.upto);
        state.first = moved.upto.index + 1;
        state.offset = moved.offset;
        state.moved_offset = moved.offset;
        state.recorded = Some(moved.upto);
    }
    let heads = entries.values().map(|known| known.head.id);
    for id in hard.moved.iter().flat_map(|m| m.terms.iter().copied()).chain(heads).filter(|id| id.index >= visible_from)
    {
        note_term(&mut state.terms, id);
    }
    for known in entries.into_values() {
        state.last = Some(known.head.id);
        let place = Place::Wal { file: known.file, position: known.position };
        state.slots.push_back(Slot { head: known.head, epoch: 0, place, payload: None, stamp: None });
    }
    state.last = state.last.max(hard.purged);
    state
}

fn note_term(terms: &mut Vec<LogId>, id: LogId) {
    if terms.last().is_none_or(|t| t.term < id.term) {
        terms.push(id);
    }
}

/// Finds the restart checkpoint, which must fit the log.
async fn restart(common: &Common, owner: Owner, state: &mut State) -> io::Result<Result<(), String>> {
    let found = match read(common, owner, &checkpoint::restart_path(owner)).await? {
        Ok(found) => found,
        Err(why) => return Ok(Err(why)),
    };
    state.restart = found.into_iter().chain(state.installed.clone()).max_by_key(|checkpoint| checkpoint.last);
    let reaches = state.segments.iter().find(|segment| segment.base >= state.purged);
    if state.restart.as_ref().map(|c| c.last) < state.purged
        && let Some(segment) = reaches
    {
        let base = match read(common, owner, &segment.base_path(owner)).await? {
            Ok(base) => base,
            Err(why) => return Ok(Err(why)),
        };
        state.restart = base.or(state.restart.take());
    }
    let restart = state.restart.as_ref().map(|c| c.last);
    if restart < state.purged {
        return Ok(Err(format!("no checkpoint reaches the purge point {:?}", state.purged)));
    }
    if restart > state.last && !sabotage::on(Bug::CheckpointAhead) {
        return Ok(Err(format!("the checkpoint {restart:?} runs ahead of the log, which ends at {:?}", state.last)));
    }
    Ok(Ok(()))
}

async fn read(common: &Common, owner: Owner, path: &str) -> io::Result<Result<Option<super::Checkpoint>, String>> {
    match checkpoint::read(&*common.disk, owner, path).await {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Err(error.to_string())),
        other => other.map(Ok),
    }
}
