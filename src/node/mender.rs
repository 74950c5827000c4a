//! Damage that is found while the node runs: a segment is fetched from a peer, anything else makes the replica faulty.
//!
//! ```text
//!  read ─▶ does not verify ─┬─ sealed segment: set aside; all its entries from a peer ─▶ in its place, served again
//!                           └─ anything else: the replica is faulty ─▶ Hosting::fail ─▶ another replica id
//! ```
//! A replica that cannot be opened without such a segment waits for it, closed; when all other nodes of the group say that
//! they have let go of those entries, it is faulty.
//!
//! **Invariant:** what a peer gave takes a segment's place only as a whole: the index range, offsets and checksums are the
//! log's own to check.

use super::hosting::{Fallen, Hosting};
use crate::{
    controller::{Ailment, Controller},
    runtime::{Courier, Service},
    types::{NodeId, decode},
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use highwater_raft::{
    GroupId,
    log::{self, Applied, Entry, Stamp},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const EVERY: Duration = Duration::from_millis(500);
/// One page of entries from a peer.
const ASK: Duration = Duration::from_secs(5);
/// Payload bytes of a page, but for a larger entry.
const PAGE_BYTES: usize = 1 << 20;

/// Asks for entries `from..to` of a group.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    #[serde(rename = "g")]
    pub(crate) group: u64,
    #[serde(rename = "f")]
    pub(crate) from: u64,
    #[serde(rename = "t")]
    pub(crate) to: u64,
}

/// The first of them; none when this node does not have them.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    #[serde(rename = "e", default)]
    pub(crate) entries: Vec<Piece>,
    /// The first entry that this node keeps, if the group is open here.
    #[serde(rename = "b", default)]
    pub(crate) begin: Option<u64>,
}

impl Page {
    /// Whether it holds what was asked for: entries one behind the other from `from`, at least one, all below `to`.
    pub(crate) fn answers(&self, from: u64, to: u64) -> bool {
        !self.entries.is_empty()
            && (from..to).zip(&self.entries).filter(|(index, piece)| piece.index == *index).count()
                == self.entries.len()
    }
}

/// One applied entry.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Piece {
    #[serde(rename = "i")]
    index: u64,
    #[serde(rename = "t")]
    term: u64,
    #[serde(rename = "k")]
    kind: u8,
    #[serde(rename = "o")]
    offset: u64,
    #[serde(rename = "e")]
    offset_end: u64,
    #[serde(rename = "m")]
    max_timestamp: i64,
    #[serde(rename = "n", with = "raw")]
    pub(crate) note: Bytes,
    #[serde(rename = "p", with = "raw")]
    pub(crate) payload: Bytes,
}

/// Bytes as MessagePack's own kind, not as a list of numbers.
mod raw {
    use bytes::Bytes;
    use serde::{Deserializer, Serializer, de::Visitor};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        struct Raw;
        impl Visitor<'_> for Raw {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes::copy_from_slice(bytes))
            }
        }
        from.deserialize_bytes(Raw)
    }
}

impl From<Applied> for Piece {
    fn from(Applied { entry, stamp }: Applied) -> Self {
        let Entry { index, term, kind, payload } = entry;
        let Stamp { offset, offset_end, max_timestamp, note, .. } = stamp;
        Self { index, term, kind, offset, offset_end, max_timestamp, note, payload: payload.contiguous() }
    }
}

impl From<Piece> for Applied {
    fn from(piece: Piece) -> Self {
        let Piece { index, term, kind, offset, offset_end, max_timestamp, note, payload } = piece;
        let entry = Entry { index, term, kind, payload: payload.into() };
        Self { entry, stamp: Stamp { index, offset, offset_end, max_timestamp, note } }
    }
}

/// Serves [`Service::Entries`].
pub(super) fn serve(hosting: Hosting) -> crate::peer::Entries {
    Arc::new(move |request| -> BoxFuture<'static, Bytes> {
        let hosting = hosting.clone();
        async move {
            let page = page(&hosting, &request).await.unwrap_or_default();
            rmp_serde::to_vec_named(&page).expect("plain values in memory always encode").into()
        }
        .boxed()
    })
}

async fn page(hosting: &Hosting, request: &Bytes) -> Option<Page> {
    let Wanted { group, from, to } = decode(request).ok()?;
    let hosted = hosting.all().remove(&GroupId(group))?;
    let log = hosted.raft.log();
    let entries = log.read_range(from, to, PAGE_BYTES).await.ok()?;
    let begin = log.purged().map_or(0, |purged| purged.index + 1);
    Some(Page { entries: entries.into_iter().map(Piece::from).collect(), begin: Some(begin) })
}

/// Looks after all replicas here, for as long as the node lives.
pub(super) async fn run(hosting: Hosting, controller: Controller, courier: Arc<dyn Courier>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let mut mending = BTreeMap::new();
        for (group, log) in hosting.logs() {
            if let Some(why) = log.fault() {
                hosting.has_failed(Fallen { group, replica: log.replica(), why });
                continue;
            }
            let damaged = log.damaged();
            if !damaged.is_empty() {
                mending.insert(group, (log, damaged));
            }
        }
        say(&hosting, &controller, mending.keys().copied());
        for (group, (log, ranges)) in mending {
            for range in ranges {
                match mend(&controller, &*courier, group, &log, range).await {
                    Outcome::Mended => {}
                    Outcome::NotYet => continue,
                    Outcome::Gone if hosting.waits(group) => {
                        log.condemn(format!(
                            "entries {}..{} are damaged, and no other node has them",
                            range.0, range.1
                        ));
                    }
                    // Retention takes them here too.
                    Outcome::Gone => continue,
                }
                hosting.try_again();
            }
        }
    }
}

fn say(hosting: &Hosting, controller: &Controller, mending: impl Iterator<Item = GroupId>) {
    let mut ailing: BTreeMap<GroupId, Ailment> = mending.map(|group| (group, Ailment::Mending)).collect();
    ailing.extend(hosting.damaged().into_iter().map(|group| (group, Ailment::Damaged)));
    ailing.extend(hosting.failed().into_iter().map(|group| (group, Ailment::Failed)));
    if controller.ailing().note(controller.node(), ailing) {
        controller.leaders().stir();
    }
}

/// What came of asking for a segment.
enum Outcome {
    Mended,
    /// Some node has not answered, or cannot read it either.
    NotYet,
    /// No other node keeps it.
    Gone,
}

async fn mend(
    controller: &Controller,
    courier: &dyn Courier,
    group: GroupId,
    log: &log::Group,
    (first, end): (u64, u64),
) -> Outcome {
    let metadata = controller.metadata();
    let Some(placement) = metadata.groups.get(&group) else { return Outcome::NotYet };
    let mut others = placement.nodes();
    others.retain(|node| *node != controller.node());
    let (alive, mut gone) = (courier.others(), 0);
    for peer in others.iter().filter(|node| alive.contains(node)) {
        let entries = match fetch(courier, *peer, group, (first, end)).await {
            Fetched::All(entries) => entries,
            Fetched::None => continue,
            Fetched::Gone => {
                gone += 1;
                continue;
            }
        };
        match log.replace_segment(entries).await {
            Ok(()) => {
                tracing::info!(group = group.0, first, end, from = peer.0, "a damaged segment was replaced");
                return Outcome::Mended;
            }
            Err(error) => {
                tracing::warn!(group = group.0, first, end, from = peer.0, %error, "a peer's entries do not fit")
            }
        }
    }
    if gone == others.len() { Outcome::Gone } else { Outcome::NotYet }
}

/// What a peer has of a range.
enum Fetched {
    All(Vec<Applied>),
    None,
    Gone,
}

async fn fetch(courier: &dyn Courier, peer: NodeId, group: GroupId, (first, end): (u64, u64)) -> Fetched {
    let mut entries: Vec<Applied> = Vec::new();
    loop {
        let from = entries.last().map_or(first, |last| last.entry.index + 1);
        if from >= end {
            return Fetched::All(entries);
        }
        let wanted = Wanted { group: group.0, from, to: end };
        let request = rmp_serde::to_vec_named(&wanted).expect("plain values in memory always encode");
        let page = match courier.ask(peer, Service::Entries, request.into(), ASK).await {
            Ok(answer) => decode::<Page>(&answer).unwrap_or_default(),
            Err(_) => return Fetched::None,
        };
        if !page.answers(from, end) {
            return if page.begin.is_some_and(|begin| begin > first) { Fetched::Gone } else { Fetched::None };
        }
        entries.extend(page.entries.into_iter().map(Applied::from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::CourierError;
    use highwater_raft::testing::golden;

    /// Another node, which answers all questions with one page.
    struct Always(Bytes);

    impl Courier for Always {
        fn ask(&self, _: NodeId, _: Service, _: Bytes, _: Duration) -> BoxFuture<'static, Result<Bytes, CourierError>> {
            std::future::ready(Ok(self.0.clone())).boxed()
        }

        fn others(&self) -> Vec<NodeId> {
            Vec::new()
        }
    }

    /// Whoever asks again behind the last entry of a page gets further with each.
    #[test]
    fn a_page_that_does_not_answer_is_none() {
        let fetched = |indexes: &[u64]| {
            let piece = |index: &u64| {
                let (note, payload) = (Bytes::new(), Bytes::new());
                Piece { index: *index, term: 2, kind: 1, offset: 0, offset_end: 0, max_timestamp: -1, note, payload }
            };
            let page = Page { entries: indexes.iter().map(piece).collect(), begin: Some(3) };
            let courier = Always(rmp_serde::to_vec_named(&page).unwrap().into());
            match fetch(&courier, NodeId(2), GroupId(1_024), (5, 8)).now_or_never().expect("it answers at once") {
                Fetched::All(entries) => Some(entries.len()),
                Fetched::None => None,
                Fetched::Gone => unreachable!("it keeps them from 3 on"),
            }
        };
        assert_eq!(fetched(&[5, 6, 7]), Some(3));
        for indexes in [&[][..], &[6], &[5, 4], &[5, 5], &[5, 7], &[5, u64::MAX], &[5, 6, 7, 8]] {
            assert_eq!(fetched(indexes), None, "{indexes:?}");
        }
    }

    #[test]
    fn what_is_asked_and_answered_is_what_it_was() {
        let (note, payload) = (Bytes::from_static(b"note"), Bytes::from_static(b"payload"));
        let piece = Piece { index: 5, term: 2, kind: 1, offset: 40, offset_end: 43, max_timestamp: -1, note, payload };
        let wanted = Wanted { group: 1_024, from: 5, to: 9 };
        golden("peers/entries-wanted.hex", &rmp_serde::to_vec_named(&wanted).unwrap());
        golden(
            "peers/entries-page.hex",
            &rmp_serde::to_vec_named(&Page { entries: vec![piece], begin: Some(3) }).unwrap(),
        );
    }
}
