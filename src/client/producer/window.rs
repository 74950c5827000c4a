//! What one producer has under way to one partition: a machine without a clock or a runtime.
//!
//! ```text
//!  acknowledged │ in flight (≤ 5, in sequence) │ waiting, sealed or not │ open: takes records
//!               └ front                                                 back ┘
//! ```
//! **Invariants**
//! - batches are sent in the order of their records, and numbered in that order when they are first sent;
//! - after an answer that is no acknowledgement nothing is sent (a [`Hold`]) until all that is in flight is answered or given
//!   up; then all that is not acknowledged is sent again, from the front;
//! - a batch with an unknown outcome is only ever sent again under its own number. Whoever takes a new producer id gives such
//!   batches up first ([`ProduceError::OutcomeUnknown`]), so nothing is in the log twice;
//! - each record's outcome is given exactly once.

use super::receipt::{Outcome, Place, Receipt};
use crate::{
    batch::{Batch, BuildError, Builder, Compression, Producer, RecordHeader},
    client::{ProduceError, cluster::Route},
    types::ProducerId,
    wire::{Code, Produced, Refused},
};
use bytes::Bytes;
use futures_util::future::{FutureExt, Shared};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

/// Times in a row that the first batch may be out of order before its producer id is given up.
const MISORDERED_MAX: u32 = 4;

/// How batches are made and sent.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) batch_bytes: usize,
    pub(super) linger: Duration,
    /// `None`: as the topic says.
    pub(super) compression: Option<Compression>,
    pub(super) in_flight_max: usize,
    pub(super) delivery_timeout: Duration,
    pub(super) idempotent: bool,
}

/// Who produces, for idempotence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: ProducerId,
    pub(super) epoch: u16,
}

/// Why nothing is sent. The later ones outweigh the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hold {
    /// The same node may take it in a moment.
    Pause,
    /// The connection is gone.
    Reconnect,
    /// Another node leads.
    Reroute,
    /// The partition does not know the producer, or its numbers have a hole.
    Renew,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Acked(Produced),
    Refused(Refused),
    Lost(String),
}

/// A batch to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shipment {
    pub(super) id: u64,
    pub(super) batch: Bytes,
    pub(super) repeated: bool,
}

/// A record with its time.
pub(super) struct Timed<'a> {
    pub(super) timestamp: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: &'a [RecordHeader],
}

struct Entry {
    id: u64,
    content: Content,
    sequence: Option<u32>,
    closed: bool,
    in_flight: bool,
    sent_at: Instant,
    sends: u32,
    unknown: bool,
    refused_by: Option<Route>,
    born: Instant,
    last: String,
    permit: Option<OwnedSemaphorePermit>,
    outcome: oneshot::Sender<Outcome>,
    shared: Shared<oneshot::Receiver<Outcome>>,
}

enum Content {
    Open(Box<Builder>),
    Sealed(Batch),
}

impl Entry {
    fn count(&self) -> u32 {
        match &self.content {
            Content::Open(builder) => builder.count(),
            Content::Sealed(batch) => batch.count(),
        }
    }
}

pub(super) struct Window {
    settings: Settings,
    place: Arc<Place>,
    entries: VecDeque<Entry>,
    next_id: u64,
    identity: Option<Identity>,
    next_sequence: u32,
    /// The identity it had was given up: only a new one will do.
    renewed: bool,
    hold: Option<Hold>,
    misordered: u32,
    /// Answers in a row that were no acknowledgement: the pause grows with it.
    setbacks: u32,
}

impl Window {
    /// A window with the topic's settings where the producer has none, and within its limits.
    pub(super) fn new(mut settings: Settings, place: Arc<Place>) -> Self {
        let of_topic = |name| place.topic.settings.iter().find(|(set, _)| set == name).map(|(_, value)| value);
        settings.compression = settings.compression.or_else(|| of_topic("compression")?.parse().ok());
        if let Some(most) = of_topic("max.batch.bytes").and_then(|most| most.parse().ok()) {
            settings.batch_bytes = settings.batch_bytes.min(most);
        }
        Self {
            settings,
            place,
            entries: VecDeque::new(),
            next_id: 0,
            identity: None,
            next_sequence: 0,
            renewed: false,
            hold: None,
            misordered: 0,
            setbacks: 0,
        }
    }

    /// Takes a record; gives its receipt, and whether there may be something to send now.
    pub(super) fn push(
        &mut self,
        record: &Timed<'_>,
        permit: OwnedSemaphorePermit,
        now: Instant,
    ) -> Result<(Receipt, bool), BuildError> {
        let mut begun = false;
        let fits = self.entries.back().is_some_and(|entry| match &entry.content {
            Content::Open(builder) if !entry.closed => {
                builder.bytes_with(record.key, record.value) <= self.settings.batch_bytes
            }
            _ => false,
        });
        if !fits {
            let mut builder = Builder::new(self.settings.compression.unwrap_or_default());
            push(&mut builder, record)?;
            if let Some(entry) = self.entries.back_mut() {
                entry.closed = true;
            }
            self.begin(builder, now);
            begun = true;
        } else if let Some(Entry { content: Content::Open(builder), .. }) = self.entries.back_mut() {
            push(builder, record)?;
        }
        let entry = self.entries.back_mut().expect("an entry was begun if there was none");
        match &mut entry.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        if let Content::Open(builder) = &entry.content {
            entry.closed |= builder.bytes_len() >= self.settings.batch_bytes;
        }
        let receipt = Receipt { outcome: entry.shared.clone(), index: entry.count() - 1, place: self.place.clone() };
        Ok((receipt, begun || entry.closed))
    }

    fn begin(&mut self, builder: Builder, now: Instant) {
        let (outcome, receiver) = oneshot::channel();
        self.entries.push_back(Entry {
            id: self.next_id,
            content: Content::Open(Box::new(builder)),
            sequence: None,
            closed: false,
            in_flight: false,
            sent_at: now,
            sends: 0,
            unknown: false,
            refused_by: None,
            born: now,
            last: "it was not sent yet".into(),
            permit: None,
            outcome,
            shared: receiver.shared(),
        });
        self.next_id += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Nothing waits for more records any longer; gives the outcomes of all that is under way.
    pub(super) fn flush(&mut self) -> Vec<Shared<oneshot::Receiver<Outcome>>> {
        if let Some(entry) = self.entries.back_mut() {
            entry.closed = true;
        }
        self.entries.iter().map(|entry| entry.shared.clone()).collect()
    }

    pub(super) fn needs_identity(&self) -> bool {
        self.settings.idempotent && self.identity.is_none()
    }

    /// Whether the identity that is needed must be a new one.
    pub(super) fn renewed(&self) -> bool {
        self.renewed
    }

    pub(super) fn identify(&mut self, identity: Identity) {
        debug_assert!(self.entries.iter().all(|entry| entry.sequence.is_none()), "numbers belong to one identity");
        self.identity = Some(identity);
    }

    /// When the next batch may go: now, later, or not before something else happens.
    pub(super) fn due(&self, now: Instant) -> Due {
        let in_flight = self.entries.iter().filter(|entry| entry.in_flight).count();
        if self.hold.is_some() || in_flight >= self.settings.in_flight_max {
            return Due::Never;
        }
        let span_max = u64::try_from(self.settings.in_flight_max).unwrap_or(u64::MAX);
        let front = self.entries.front().map_or(0, |entry| entry.id);
        match self.entries.iter().find(|entry| !entry.in_flight) {
            None => Due::Never,
            // The partition remembers so many batches: the first one must stay among them until it is acknowledged.
            Some(entry) if entry.id - front >= span_max => Due::Never,
            Some(entry) if entry.closed || entry.sends > 0 => Due::Now,
            Some(entry) => match entry.born + self.settings.linger {
                at if at <= now => Due::Now,
                at => Due::At(at),
            },
        }
    }

    /// The next batch to be sent, numbered, if one is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<Shipment> {
        while self.due(now) == Due::Now && !self.needs_identity() {
            let at = self.entries.iter().position(|entry| !entry.in_flight)?;
            if let Err(error) = self.seal(at) {
                // It never had a number, so there is no hole.
                self.fail(at, error.into());
                continue;
            }
            let entry = &mut self.entries[at];
            entry.in_flight = true;
            entry.sent_at = now;
            entry.sends += 1;
            let Content::Sealed(batch) = &entry.content else { unreachable!("it was sealed above") };
            return Some(Shipment { id: entry.id, batch: batch.bytes().clone(), repeated: entry.sends > 1 });
        }
        None
    }

    fn seal(&mut self, at: usize) -> Result<(), BuildError> {
        let sequence = self.next_sequence;
        let producer = self.identity.map(|Identity { id, epoch }| Producer { id, epoch, sequence });
        let entry = &mut self.entries[at];
        entry.closed = true;
        match &mut entry.content {
            Content::Open(builder) => {
                let mut builder = std::mem::take(&mut **builder);
                builder.producer(producer);
                entry.content = Content::Sealed(builder.build()?);
            }
            Content::Sealed(batch) => {
                if let Some(producer) = producer.filter(|_| entry.sequence.is_none()) {
                    *batch = batch.with_producer(producer);
                }
            }
        }
        if producer.is_some() && entry.sequence.is_none() {
            entry.sequence = Some(sequence);
            // Kafka's numbers wrap from i32::MAX to 0.
            self.next_sequence = sequence.wrapping_add(entry.count()) & 0x7fff_ffff;
        }
        Ok(())
    }

    /// An answer to what was taken. Answers for what was given up meanwhile are ignored.
    pub(super) fn answered(&mut self, id: u64, from: Route, answer: Answer) -> Option<Noted> {
        let at = self.entries.iter().position(|entry| entry.id == id && entry.in_flight)?;
        let first = at == 0;
        let entry = &mut self.entries[at];
        entry.in_flight = false;
        match answer {
            Answer::Acked(produced) => {
                (self.misordered, self.setbacks) = (0, 0);
                let duplicate = produced.duplicate;
                if let Some(entry) = self.entries.remove(at) {
                    let _ = entry.outcome.send(Ok(produced));
                }
                Some(Noted::Acked { duplicate })
            }
            Answer::Lost(why) => {
                self.lose(at, why);
                self.hold(Hold::Reconnect);
                None
            }
            Answer::Refused(refused) => {
                entry.last.clone_from(&refused.message);
                match refused.code {
                    Code::NotLeader | Code::UnknownPartition | Code::OutcomeUnknown => {
                        let again = entry.refused_by.replace(from) == Some(from);
                        if refused.code == Code::OutcomeUnknown {
                            self.lose(at, refused.message);
                        }
                        self.hold(Hold::Reroute);
                        return Some(Noted::NotLeader { again });
                    }
                    // A node that lags behind does not know it yet; of one that is gone the next metadata tell.
                    Code::NotReady | Code::Overloaded | Code::DiskFull | Code::UnknownTopic => self.hold(Hold::Pause),
                    Code::NoQuorum | Code::TimedOut | Code::Internal => {
                        self.lose(at, refused.message);
                        self.hold(Hold::Pause);
                    }
                    Code::ShuttingDown => {
                        self.lose(at, refused.message);
                        self.hold(Hold::Reroute);
                        return Some(Noted::NotLeader { again: false });
                    }
                    Code::OutOfOrderSequence => {
                        self.misordered += u32::from(first);
                        let lasting = self.misordered >= MISORDERED_MAX;
                        self.hold(if lasting { Hold::Renew } else { Hold::Pause });
                    }
                    Code::Offline => self.unserved(&refused),
                    // Behind one that is not in the log yet it only says that: the first one tells.
                    Code::UnknownProducer => self.hold(if first { Hold::Renew } else { Hold::Pause }),
                    _ => {
                        let maybe_appended = entry.unknown;
                        let (topic, partition) = (self.place.topic.name.clone(), self.place.partition);
                        self.fail(at, ProduceError::Refused { topic, partition, refused, maybe_appended });
                        if self.settings.idempotent {
                            self.hold(Hold::Renew);
                        }
                    }
                }
                None
            }
        }
    }

    /// What came of a batch is not known. It may be sent again only under a number of its own.
    fn lose(&mut self, at: usize, why: String) {
        if self.settings.idempotent {
            let entry = &mut self.entries[at];
            (entry.unknown, entry.last) = (true, why);
        } else {
            let (topic, partition) = (self.place.topic.name.clone(), self.place.partition);
            self.fail(at, ProduceError::OutcomeUnknown { topic, partition, last: why });
        }
    }

    /// The partition is offline or gone, so nothing waits for it but answers that are on their way.
    pub(super) fn unserved(&mut self, refused: &Refused) {
        let mut hole = false;
        for at in (0..self.entries.len()).rev().filter(|at| !self.entries[*at].in_flight).collect::<Vec<_>>() {
            let entry = &self.entries[at];
            hole |= entry.sequence.is_some();
            let (topic, partition) = (self.place.topic.name.clone(), self.place.partition);
            let (refused, maybe_appended) = (refused.clone(), entry.unknown);
            let error = match refused.code {
                Code::Offline => ProduceError::Offline { topic, partition, refused, maybe_appended },
                _ => ProduceError::Refused { topic, partition, refused, maybe_appended },
            };
            self.fail(at, error);
        }
        if hole {
            self.hold(Hold::Renew);
        }
    }

    fn hold(&mut self, hold: Hold) {
        if self.hold.is_none() {
            self.setbacks += 1;
        }
        self.hold = self.hold.max(Some(hold));
    }

    /// What was held up goes on, once nothing is in flight; gives why it was held and how often in a row.
    pub(super) fn release(&mut self) -> Option<(Hold, u32)> {
        if self.in_flight() > 0 {
            return None;
        }
        let hold = self.hold.take()?;
        if hold == Hold::Renew {
            self.forget_identity();
        }
        Some((hold, self.setbacks))
    }

    fn forget_identity(&mut self) {
        self.identity = None;
        self.renewed = true;
        self.next_sequence = 0;
        self.misordered = 0;
        for at in (0..self.entries.len()).rev() {
            if self.entries[at].unknown {
                let (topic, partition) = (self.place.topic.name.clone(), self.place.partition);
                let last = self.entries[at].last.clone();
                self.fail(at, ProduceError::OutcomeUnknown { topic, partition, last });
            } else {
                self.entries[at].sequence = None;
            }
        }
    }

    /// Waits for no answer any more: their outcome is unknown. What is not acknowledged may be sent again at once.
    pub(super) fn give_up(&mut self, why: &str) {
        for at in (0..self.entries.len()).rev() {
            if std::mem::take(&mut self.entries[at].in_flight) {
                self.lose(at, why.to_owned());
            }
        }
    }

    /// Notes why a batch that could not even be sent waits.
    pub(super) fn note(&mut self, why: &str) {
        if let Some(entry) = self.entries.front_mut() {
            why.clone_into(&mut entry.last);
        }
    }

    /// Gives up what is over its time. With a numbered batch go all others of unknown outcome: sent under new numbers they
    /// could be in the log twice.
    pub(super) fn expire(&mut self, now: Instant) {
        let over = |entry: &Entry| now >= entry.born + self.settings.delivery_timeout;
        let expired = self.entries.iter().take_while(|entry| over(entry)).count();
        let hole = self.entries.iter().take(expired).any(|entry| entry.sequence.is_some());
        if expired == 0 {
            return;
        }
        for at in (0..self.entries.len()).rev() {
            let entry = &self.entries[at];
            if at < expired || hole && (entry.unknown || entry.in_flight) {
                let error = ProduceError::TimedOut {
                    topic: self.place.topic.name.clone(),
                    partition: self.place.partition,
                    waited: now.duration_since(entry.born),
                    sends: entry.sends,
                    last: entry.last.clone(),
                    maybe_appended: entry.unknown || entry.in_flight,
                };
                self.fail(at, error);
            }
        }
        if hole {
            self.hold = self.hold.filter(|hold| *hold != Hold::Renew);
            self.forget_identity();
        }
    }

    fn fail(&mut self, at: usize, error: ProduceError) {
        if let Some(entry) = self.entries.remove(at) {
            let _ = entry.outcome.send(Err(error));
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.entries.iter().filter(|entry| entry.in_flight).count()
    }

    /// Whether nothing is sent because of an answer.
    pub(super) fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// When the oldest request that waits for an answer was sent.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.entries.iter().find(|entry| entry.in_flight).map(|entry| entry.sent_at)
    }

    /// When the oldest record's time is up.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.born + self.settings.delivery_timeout)
    }
}

/// When a batch may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Instant),
    Never,
}

/// What an answer was, for the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    Acked { duplicate: bool },
    NotLeader { again: bool },
}

fn push(builder: &mut Builder, record: &Timed<'_>) -> Result<(), BuildError> {
    builder.push(record.timestamp, record.key, record.value, record.headers)
}

#[cfg(test)]
mod tests;
