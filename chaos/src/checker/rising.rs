//! A number that only rises, as answers in real-time order show it.

/// Lower bounds, rising in time and height: what was known to be reached, and since when.
#[derive(Default)]
pub(super) struct Rising(Vec<(u64, u64)>);

impl Rising {
    /// It is known from `at` on that `mark` was reached.
    pub(super) fn reached(&mut self, at: u64, mark: u64) {
        if self.0.last().is_none_or(|(_, highest)| mark > *highest) {
            self.0.push((at, mark));
        }
    }

    /// What was known before `asked`: an answer to a question of then is not below.
    pub(super) fn before(&self, asked: u64) -> u64 {
        let known = self.0.partition_point(|(at, _)| *at < asked);
        known.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}
