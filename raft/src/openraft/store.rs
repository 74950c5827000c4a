//! openraft's log storage over [`log::Group`].
//!
//! **Invariant:** what openraft reads for apply and at start has no content but memberships: payloads are read once, by
//! the [`Applier`](super::apply::Applier), and by replication.
//! **Invariant:** `tail` holds the content of all entries behind the applied one that are not commands.

use super::{
    codec::{self, from_log, to_log},
    replica::Shared,
    types::{Content, Entry, LogId, Proposal, Types, Vote, log_id, own_id},
};
use crate::{
    group::Event,
    log, observe,
    sabotage::{self, Bug},
};
use ::openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds, RangeInclusive},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// The log of one replica as openraft sees it. Clones share.
#[derive(Clone)]
pub(super) struct Store(pub(super) Arc<Shared>);

/// Content of entries behind the applied one that are no commands, by index.
#[derive(Default)]
pub(super) struct Tail(Mutex<BTreeMap<u64, Content>>);

impl Tail {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Content>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries up to `index` are applied.
    pub(super) fn applied(&self, index: u64) {
        let mut tail = self.lock();
        while tail.first_key_value().is_some_and(|(first, _)| *first <= index) {
            tail.pop_first();
        }
    }

    fn truncate(&self, from: u64) {
        self.lock().split_off(&from);
    }

    fn note(&self, entry: &Entry) {
        if !matches!(entry.payload, Content::Normal(_)) {
            self.lock().insert(entry.log_id.index, entry.payload.clone());
        }
    }

    fn content(&self, index: u64) -> Content {
        self.lock().get(&index).cloned().unwrap_or_else(|| Content::Normal(Proposal::default()))
    }

    /// Learns the entries behind `applied` after a restart.
    pub(super) async fn load(&self, log: &log::Group, applied: Option<u64>) -> io::Result<()> {
        let Some(last) = log.last() else { return Ok(()) };
        let mut from = applied.map_or(0, |index| index + 1).max(log.purged().map_or(0, |purged| purged.index + 1));
        while from <= last.index {
            let entries = log.read(from, last.index + 1, 1 << 20).await?;
            from += u64::try_from(entries.len()).unwrap_or(u64::MAX);
            if entries.is_empty() {
                return Err(io::Error::other(format!("entries {from}..={} are not readable", last.index)));
            }
            for entry in entries {
                self.note(&from_log(entry).map_err(io::Error::other)?);
            }
        }
        Ok(())
    }
}

impl Store {
    /// Entries of `range` that the log has.
    fn clip(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let log = &self.0.log;
        let start = match range.start_bound() {
            Bound::Included(n) => *n,
            Bound::Excluded(n) => *n + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(n) => *n + 1,
            Bound::Excluded(n) => *n,
            Bound::Unbounded => u64::MAX,
        };
        let first = log.purged().map_or(0, |purged| purged.index + 1);
        let behind = log.last().map_or(0, |last| last.index + 1);
        start.max(first)..end.min(behind)
    }

    /// What is reported as flushed is there after a restart, unless it was taken back before.
    fn note_kept(&self, upto: log::LogId) {
        let shared = &self.0;
        if !observe::is_on() || shared.log.last().is_none_or(|last| last.index < upto.index) {
            return;
        }
        let terms = shared.log.terms();
        let at = terms.partition_point(|first| first.index <= upto.index);
        if at.checked_sub(1).is_some_and(|at| terms[at].term == upto.term) {
            observe::kept(shared.group, shared.replica, upto.index + 1);
        }
    }

    /// Entries without the content of commands; no disk is read.
    fn headers(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        let terms = self.0.log.terms();
        let mut headers = Vec::with_capacity(usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0));
        let mut at = terms.partition_point(|first| first.index <= range.start);
        for index in range {
            while terms.get(at).is_some_and(|first| first.index <= index) {
                at += 1;
            }
            let term = match at.checked_sub(1).and_then(|at| terms.get(at)) {
                Some(first) => first.term,
                None => return Err(io::Error::other(format!("the term of entry {index} is not known"))),
            };
            headers.push(Entry { log_id: log_id(log::LogId { term, index }), payload: self.0.tail.content(index) });
        }
        Ok(headers)
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.headers(self.clip(&range))
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl futures_util::Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let items: Vec<io::Result<Entry>> = match self.headers(self.clip(&range)) {
            Ok(headers) => headers.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        futures_util::stream::iter(items)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.0.log.vote().map(codec::decode_vote).transpose().map_err(io::Error::other)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.0.log.read(start, end, self.0.options.append_bytes).await?;
        if entries.is_empty() && start < end {
            // An empty answer would be sent as a heartbeat and tried again at once.
            return Err(io::Error::other(format!("entries {start}..{end} are not readable")));
        }
        entries.into_iter().map(|entry| from_log(entry).map_err(io::Error::other)).collect()
    }

    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> io::Result<Vec<LogId>> {
        Ok(key_log_ids(&self.0.log.terms(), own_id(range.start()), own_id(range.end())))
    }
}

/// The last entry of each term within `first..=last`, from the first entry of each term.
fn key_log_ids(terms: &[log::LogId], first: log::LogId, last: log::LogId) -> Vec<LogId> {
    let mut ids = Vec::new();
    for (i, start) in terms.iter().enumerate() {
        let end = terms.get(i + 1).map_or(last.index, |next| (next.index - 1).min(last.index));
        if start.term <= last.term && end >= first.index && start.index <= last.index {
            ids.push(log_id(log::LogId { term: start.term, index: end }));
        }
    }
    ids
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let log = &self.0.log;
        Ok(LogState { last_purged_log_id: log.purged().map(log_id), last_log_id: log.last().map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Store {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if sabotage::on(Bug::VoteNotSynced) {
            self.0.log.save_vote(codec::encode_vote(vote), Box::new(|_| ()));
            return Ok(());
        }
        let (done, saved) = oneshot::channel();
        self.0.log.save_vote(codec::encode_vote(vote), self.0.way.back(move |result| drop(done.send(result))));
        saved.await.unwrap_or_else(|_| Err(io::Error::other("the log has stopped")))
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let shared = &self.0;
        let mut handed_over = Vec::new();
        let mut batch = Vec::new();
        for entry in entries {
            shared.tail.note(&entry);
            if let Content::Normal(Proposal { id: Some(proposal), .. }) = entry.payload {
                handed_over.push(Event::HandedOver { proposal, index: entry.log_id.index });
            }
            batch.push(to_log(entry));
        }
        let Some(last) = batch.last().map(|entry| log::LogId { term: entry.term, index: entry.index }) else {
            flushed.io_completed(Ok(()));
            return Ok(());
        };
        if sabotage::on(Bug::AckBeforeSync) {
            shared.log.append(batch, Box::new(|_| ()));
            self.note_kept(last);
            flushed.io_completed(Ok(()));
            handed_over.into_iter().for_each(|event| shared.owner.event(event));
            return Ok(());
        }
        let store = self.clone();
        let done = shared.way.back(move |result| {
            let good = result.is_ok();
            // Raft first: a commit may wait for it.
            flushed.io_completed(result);
            if good {
                store.note_kept(last);
                store.0.owner.event(Event::Flushed { index: last.index });
            }
        });
        shared.log.append(batch, done);
        handed_over.into_iter().for_each(|event| shared.owner.event(event));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        // Records of one group are durable in order: what follows the truncation is flushed with or after it.
        let log = &self.0.log;
        observe::cut(self.0.group, self.0.replica, last.as_ref().map_or(0, |last| last.index + 1));
        match last {
            Some(last) => {
                self.0.tail.truncate(last.index + 1);
                log.truncate_after(last.index, Box::new(|_| ()));
            }
            None => {
                self.0.tail.truncate(0);
                log.truncate_all(Box::new(|_| ()));
            }
        }
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let upto = own_id(&upto);
        // An installed checkpoint has moved the start already.
        if self.0.log.purged().is_none_or(|purged| purged.index < upto.index) {
            self.0.log.purge(upto, Box::new(|_| ()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_log_ids_are_the_last_of_each_term() {
        let id = |term, index| log::LogId { term, index };
        let keys = |terms: &[log::LogId], first, last| {
            key_log_ids(terms, first, last).iter().map(|id| (id.leader_id.term, id.index)).collect::<Vec<_>>()
        };
        // Leaders 2: 2–3 and 5: 4–5, as in openraft's own example.
        assert_eq!(keys(&[id(2, 2), id(5, 4)], id(2, 2), id(5, 5)), [(2, 3), (5, 5)]);
        // Purged in the middle of a term, and right before the next.
        assert_eq!(keys(&[id(1, 10), id(2, 20)], id(1, 11), id(2, 25)), [(1, 19), (2, 25)]);
        assert_eq!(keys(&[id(1, 10), id(2, 11)], id(2, 11), id(2, 25)), [(2, 25)]);
        assert_eq!(keys(&[id(0, 0), id(1, 1)], id(0, 0), id(1, 1)), [(0, 0), (1, 1)]);
    }
}
