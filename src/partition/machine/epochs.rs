//! Where each leader epoch began: answers "up to which offset was this epoch the newest?" (KIP-101, KIP-320).

/// Epochs that wrote, ascending in both numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Epochs(Vec<(u64, u64)>);

impl Epochs {
    /// `None` when the list is not ascending.
    pub(super) fn from_list(list: Vec<(u64, u64)>) -> Option<Self> {
        let ascending = list.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        ascending.then_some(Self(list))
    }

    pub(super) fn list(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// A batch of `epoch` begins at `offset`, the next offset.
    pub(super) fn note(&mut self, epoch: u64, offset: u64) {
        if self.0.last().is_none_or(|last| last.0 < epoch) {
            self.0.push((epoch, offset));
        }
    }

    /// Drops what ended at or before `log_start`.
    pub(super) fn trim(&mut self, log_start: u64, next_offset: u64) {
        let ended = self.0.windows(2).take_while(|pair| pair[1].1 <= log_start).count();
        self.0.drain(..ended);
        if let Some(first) = self.0.first_mut() {
            first.1 = first.1.max(log_start);
        }
        if log_start == next_offset {
            self.0.clear();
        }
    }

    /// The newest epoch at or below `epoch`, and the offset at which it ended. Below all: the first offset there is.
    pub(super) fn end_of(&self, epoch: u64, next_offset: u64) -> Option<(u64, u64)> {
        let later = self.0.partition_point(|entry| entry.0 <= epoch);
        let end = self.0.get(later).map_or(next_offset, |entry| entry.1);
        match later.checked_sub(1) {
            Some(found) => Some((self.0[found].0, end)),
            None => (!self.0.is_empty()).then_some((epoch, end)),
        }
    }
}
