//! What a log's files weigh, for whoever decides what goes. Files go whole: see [`Group::trim`] and the retirer.

use super::{Group, segment::Segment, state::Place};
use std::io;

impl Group {
    /// The start of the oldest segment that is needed to keep at least `bytes` of newest entries: all before it is
    /// above the limit. Never inside a segment, so what goes by it frees its files.
    pub async fn offset_within(&self, bytes: u64) -> io::Result<u64> {
        let (mut segments, mut kept) = {
            let state = self.shared.state();
            let ahead = state.slots.iter().filter(|slot| slot.place != Place::Segment);
            (state.segments.clone(), ahead.map(|slot| u64::from(slot.head.len)).sum::<u64>())
        };
        let Some(open) = segments.pop() else { return Ok(0) };
        kept += open.len;
        let mut start = open.offset;
        while kept < bytes
            && let Some(segment) = segments.pop()
        {
            kept += self.weigh(&segment).await?;
            start = segment.offset;
        }
        Ok(start)
    }

    /// Bytes of a sealed segment; read once after a start.
    async fn weigh(&self, segment: &Segment) -> io::Result<u64> {
        if segment.len > 0 || segment.damaged {
            return Ok(segment.len);
        }
        let (common, path) = (self.core.common.clone(), segment.path(self.shared.owner));
        let read = move || async move { common.disk.open(&path, false).await?.len().await };
        let len = match self.core.readers.run(read).await? {
            // Removed, or set aside, since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        if let Some(known) = self.shared.state().segments.iter_mut().find(|known| known.first == segment.first) {
            known.len = len;
        }
        Ok(len)
    }
}
