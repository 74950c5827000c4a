//! A short life of a directory, and what it should hold after each of its operations.

use super::super::*;
use crate::testing::disk::Step;
use std::{cell::RefCell, collections::BTreeMap, sync::Mutex};

/// A boundary behind every such index.
const BOUNDARY: u64 = 8;
pub(super) const K: GroupId = GroupId(1026);

/// Files of four pages: they are full after a few flushes.
pub(super) fn tiny() -> Options {
    Options { wal_file_bytes: 16 << 10, cache_bytes: 3 << 10, free_bytes_min: 0, ..Options::default() }
}

/// What an owner can see of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Logical {
    pub(super) replica: u64,
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<LogId>,
    /// Behind the purge point.
    pub(super) entries: Vec<LogId>,
}

impl Logical {
    fn next(&self) -> u64 {
        self.entries.last().copied().max(self.purged).map_or(0, |last| last.index + 1)
    }
}

/// What an owner can see of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) groups: BTreeMap<GroupId, Logical>,
    pub(super) notes: BTreeMap<String, Bytes>,
}

/// Everything about an entry follows from where it stands.
fn content(group: GroupId, id: LogId) -> Entry {
    let len = usize::try_from((id.index * 379 + group.0 * 97) % 900).unwrap();
    entry(id.index, id.term, len)
}

thread_local! {
    /// Contents that were made, to be compared often.
    static MADE: RefCell<BTreeMap<(GroupId, LogId), Entry>> = RefCell::default();
}

pub(super) fn is_content(group: GroupId, id: LogId, found: &Entry) -> bool {
    MADE.with_borrow_mut(|made| made.entry((group, id)).or_insert_with(|| content(group, id)) == found)
}

pub(super) fn offset_at(index: u64) -> u64 {
    (0..index).map(|i| i % 3).sum()
}

pub(super) fn stamp(index: u64) -> Stamp {
    let max_timestamp = i64::try_from(index).unwrap() * 10;
    let note = Bytes::from(vec![7; usize::try_from(index % 5).unwrap()]);
    Stamp { index, offset: offset_at(index), offset_end: offset_at(index + 1), max_timestamp, note }
}

pub(super) fn checkpoint(last: LogId) -> Checkpoint {
    let machine = Bytes::from(format!("machine at {}", last.index));
    Checkpoint { last, offset: offset_at(last.index + 1), membership: Bytes::from_static(b"members"), machine }
}

/// What happened in it.
pub(super) struct Life {
    pub(super) steps: Vec<Step>,
    /// What it should hold after each operation; the first is an unused directory.
    pub(super) seen: Vec<Seen>,
    /// (length of the journal, operations) when operations were asked for, and when they were acknowledged.
    pub(super) asked: Vec<(usize, usize)>,
    pub(super) acked: Vec<(usize, usize)>,
}

impl Life {
    /// How many operations had been acknowledged, and how many asked for, when so many steps had been taken.
    pub(super) fn bounds(&self, steps: usize) -> (usize, usize) {
        let upto = |log: &[(usize, usize)]| log.iter().filter(|(at, _)| *at <= steps).map(|(_, n)| *n).max();
        (upto(&self.acked).unwrap_or(0), upto(&self.asked).unwrap_or(0))
    }
}

/// Ends when an operation is acknowledged; may be dropped.
struct Wait(tokio::sync::oneshot::Receiver<()>);

impl IntoFuture for Wait {
    type Output = ();
    type IntoFuture = futures_util::future::BoxFuture<'static, ()>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.0.await.unwrap() })
    }
}

struct Run {
    node: Node,
    directory: Directory,
    groups: BTreeMap<GroupId, Group>,
    newest: BTreeMap<GroupId, Arc<Mutex<Option<Checkpoint>>>>,
    seen: Vec<Seen>,
    asked: Vec<(usize, usize)>,
    acked: Arc<Mutex<Vec<(usize, usize)>>>,
}

/// Runs it.
pub(super) async fn live() -> Life {
    let node = Node::new(3);
    node.disk.keep_journal();
    let directory = node.open_with(tiny()).await;
    let mut run = Run {
        node,
        directory,
        groups: BTreeMap::new(),
        newest: BTreeMap::new(),
        seen: vec![Seen::default()],
        asked: Vec::new(),
        acked: Arc::default(),
    };
    run.script().await;
    let acked = run.acked.lock().unwrap().clone();
    Life { steps: run.node.disk.journal(), seen: run.seen, asked: run.asked, acked }
}

impl Run {
    async fn script(&mut self) {
        self.create(G).await;
        self.create(H).await;
        self.note("cluster", b"id").await;
        self.vote(G, b"one");
        self.append(G, 1, 2);
        self.append(H, 1, 1).await;
        sealed().await;
        self.vote(G, b"two");
        // Asked for together: one frame.
        self.append(G, 1, 2);
        self.append(H, 1, 2);
        self.truncate(G, 2);
        self.append(G, 2, 2).await;
        self.create(K).await;
        self.append(K, 1, 1);
        for round in 0..9 {
            self.append(G, 2 + round / 4, 3).await;
            self.apply(G, 3);
            if round % 3 == 1 {
                self.append(H, 3, 1);
                self.vote(H, b"three").await;
            }
            if round == 4 {
                sealed().await;
                self.remove(K).await;
            }
        }
        sealed().await;
        self.trim(G).await;
        self.append(G, 5, 2);
        self.append(H, 4, 1).await;
        self.install(H, 5).await;
        self.append(H, 5, 2).await;
        self.note("cluster", b"another").await;
        for _ in 0..4 {
            self.append(G, 6, 3).await;
            self.append(H, 6, 2).await;
            self.apply(G, 2);
        }
        self.truncate(H, 1);
        self.append(H, 7, 1);
        self.vote(G, b"four").await;
        sealed().await;
        self.directory.close().await;
    }

    /// Notes what the next operation leads to; gives its callback and what waits for it.
    fn asks(&mut self, change: impl FnOnce(&mut Seen)) -> (Done, Wait) {
        let mut seen = self.seen.last().unwrap().clone();
        change(&mut seen);
        self.seen.push(seen);
        let n = self.seen.len() - 1;
        self.asked.push((self.node.disk.journal_len(), n));
        let (acked, disk) = (self.acked.clone(), self.node.disk.clone());
        let (tx, rx) = tokio::sync::oneshot::channel();
        let done = move |result: io::Result<()>| {
            result.unwrap();
            acked.lock().unwrap().push((disk.journal_len(), n));
            let _ = tx.send(());
        };
        (Box::new(done), Wait(rx))
    }

    fn logical(&self, group: GroupId) -> &Logical {
        &self.seen.last().unwrap().groups[&group]
    }

    async fn create(&mut self, group: GroupId) {
        let (done, _) = self.asks(|seen| {
            seen.groups.insert(group, Logical { replica: group.0 + 1, ..Logical::default() });
        });
        let made = super::super::create(&self.directory, group).await;
        done(Ok(()));
        let newest: Arc<Mutex<Option<Checkpoint>>> = Arc::default();
        self.newest.insert(group, newest.clone());
        made.set_checkpointer(Box::new(move |reply| {
            if let Some(checkpoint) = newest.lock().unwrap().clone() {
                let _ = reply.send(checkpoint);
            }
        }));
        self.groups.insert(group, made);
    }

    async fn remove(&mut self, group: GroupId) {
        let (done, _) = self.asks(|seen| drop(seen.groups.remove(&group)));
        self.groups.remove(&group);
        self.directory.remove(group).await.unwrap();
        done(Ok(()));
    }

    async fn note(&mut self, key: &str, value: &'static [u8]) {
        let value = Bytes::from_static(value);
        let (done, _) = self.asks(|seen| drop(seen.notes.insert(key.into(), value.clone())));
        self.directory.note(key, value).await.unwrap();
        done(Ok(()));
    }

    fn vote(&mut self, group: GroupId, vote: &'static [u8]) -> Wait {
        let vote = Bytes::from_static(vote);
        let (done, wait) = self.asks(|seen| seen.groups.get_mut(&group).unwrap().vote = Some(vote.clone()));
        self.groups[&group].save_vote(vote, done);
        wait
    }

    fn append(&mut self, group: GroupId, term: u64, count: u64) -> Wait {
        let first = self.logical(group).next();
        let ids: Vec<LogId> = (first..first + count).map(|index| LogId { term, index }).collect();
        let (done, wait) = self.asks(|seen| seen.groups.get_mut(&group).unwrap().entries.extend(&ids));
        self.groups[&group].append(ids.into_iter().map(|id| content(group, id)).collect(), done);
        wait
    }

    fn truncate(&mut self, group: GroupId, back: usize) {
        let mut next = 0;
        let (done, _) = self.asks(|seen| {
            let logical = seen.groups.get_mut(&group).unwrap();
            logical.entries.truncate(logical.entries.len() - back);
            next = logical.next();
        });
        self.groups[&group].truncate_after(next - 1, done);
    }

    fn apply(&mut self, group: GroupId, count: usize) {
        let handle = &self.groups[&group];
        let from = handle.applied().map_or(0, |applied| applied.index + 1);
        let ids = self.logical(group).entries.iter().filter(|id| id.index >= from).take(count);
        for id in ids {
            handle.note_applied(vec![stamp(id.index)]);
            if id.index % BOUNDARY == BOUNDARY - 1 {
                handle.seal(checkpoint(*id));
            }
            *self.newest[&group].lock().unwrap() = Some(checkpoint(*id));
        }
    }

    async fn trim(&mut self, group: GroupId) {
        let applied = self.groups[&group].applied().unwrap();
        let upto = self.groups[&group].trim(offset_at(applied.index)).expect("a segment ends there");
        let (done, wait) = self.asks(|seen| {
            let logical = seen.groups.get_mut(&group).unwrap();
            logical.purged = Some(upto);
            logical.entries.retain(|id| id.index > upto.index);
        });
        self.groups[&group].purge(upto, done);
        wait.await;
    }

    async fn install(&mut self, group: GroupId, term: u64) {
        let last = LogId { term, index: self.logical(group).next() + 4 };
        let (done, wait) = self.asks(|seen| {
            let logical = seen.groups.get_mut(&group).unwrap();
            logical.purged = Some(last);
            logical.entries.clear();
        });
        *self.newest[&group].lock().unwrap() = Some(checkpoint(last));
        self.groups[&group].install(checkpoint(last), done);
        wait.await;
    }
}
