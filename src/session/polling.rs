//! One long poll: counting, parking by the wake-up rule, answering.
//!
//! With `missing` bytes over n partitions each is parked `max(1, missing / 2n)` behind the marks that were counted. A
//! partition that rings is counted and parked again at the same distance; when half of what was missing has come, a new
//! round begins with a shorter one. What the partitions together hold back is always below half of what is missing, so
//! the last byte is never slept through, and a wait costs about 2n·log₂(missing / n) messages.

use super::machine::{
    Effect, FetchId, Filled, LinkId, Machine, Owner, Seen, Standing, Token, View, partition_of, standing,
};
use crate::{
    limits,
    replica::WakeAt,
    wire::{self, Refused},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// A fetch that is not answered yet.
pub(super) struct Polling {
    pub(super) link: LinkId,
    pub(super) fetch: Arc<wire::Fetch>,
    deadline: Instant,
    /// It is answered with what is there.
    hurry: bool,
    state: State,
}

enum State {
    Filling,
    Parked(Parked),
}

/// A wait, in bytes or in records.
struct Parked {
    unit: Unit,
    /// What is still missing, as far as counted.
    missing: u64,
    /// A new round begins when no more than this is missing.
    round_until: u64,
    distance: u64,
    places: Vec<Place>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Records,
}

impl Unit {
    fn of(self, seen: &Seen) -> u64 {
        match self {
            Self::Bytes => seen.bytes,
            Self::Records => seen.high_watermark,
        }
    }

    fn at(self, position: u64) -> WakeAt {
        match self {
            Self::Bytes => WakeAt::Bytes(position),
            Self::Records => WakeAt::Offset(position),
        }
    }
}

struct Place {
    token: Token,
    epoch: u64,
    /// Counted up to here; `None` for a follower that has yet to come to the offset asked.
    counted: Option<u64>,
}

impl Polling {
    pub(super) fn is_parked(&self) -> bool {
        matches!(self.state, State::Parked(_))
    }

    fn bytes_min(&self) -> u64 {
        u64::from(self.fetch.bytes_min.max(1)).min(bytes_max(&self.fetch))
    }

    fn records_min(&self) -> u64 {
        u64::from(self.fetch.records_min.max(1))
    }
}

/// Bytes that the answer may have.
pub(super) fn bytes_max(fetch: &wire::Fetch) -> u64 {
    match fetch.bytes_max {
        0 => u64::from(limits::FETCH_BYTES_MAX),
        some => u64::from(some.min(limits::FETCH_BYTES_MAX)),
    }
}

impl Machine {
    pub(super) fn fetch(
        &mut self,
        now: Instant,
        link: LinkId,
        id: FetchId,
        fetch: wire::Fetch,
        view: &impl View,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(refused) = self.admit(fetch.partitions.len()) {
            effects.push(Effect::Refuse { id, refused });
            return;
        }
        self.partitions += fetch.partitions.len();
        self.turns.entry(link).or_default();
        let wait = Duration::from_millis(fetch.wait_ms_max.min(limits::FETCH_WAIT_MS_MAX).into());
        let deadline = now + wait;
        self.watch_deadline(deadline, id);
        let hurry = wait.is_zero();
        let seen: Option<Vec<Seen>> = fetch
            .partitions
            .iter()
            .map(|want| match standing(want, view.see(want)) {
                Standing::AtEnd(seen) | Standing::Ahead(seen) => Some(seen),
                Standing::Behind(_) | Standing::Refused(_) => None,
            })
            .collect();
        let before =
            self.fetches.insert(id, Polling { link, fetch: Arc::new(fetch), deadline, hurry, state: State::Filling });
        assert!(before.is_none(), "fetch ids are never used again");
        match seen {
            // Nothing to read anywhere: the usual case of a consumer at the end.
            Some(seen) => self.filled(now, id, Filled { seen, ..Filled::default() }, effects),
            None => self.fill(id, effects),
        }
    }

    fn fill(&mut self, id: FetchId, effects: &mut Vec<Effect>) {
        let Some(polling) = self.fetches.get_mut(&id) else { return };
        if let State::Parked(parked) = std::mem::replace(&mut polling.state, State::Filling) {
            self.parked -= 1;
            for place in parked.places {
                self.unpark(place.token, effects);
            }
        }
        let Polling { link, fetch, .. } = &self.fetches[&id];
        let turn = self.turns.get(link).copied().unwrap_or_default();
        effects.push(Effect::Fill { id, first: turn % fetch.partitions.len().max(1) });
    }

    /// Answers with what is there, now or as soon as it is read.
    pub(super) fn hurry(&mut self, id: FetchId, effects: &mut Vec<Effect>) {
        let Some(polling) = self.fetches.get_mut(&id) else { return };
        polling.hurry = true;
        if polling.is_parked() {
            self.fill(id, effects);
        }
    }

    pub(super) fn filled(&mut self, now: Instant, id: FetchId, filled: Filled, effects: &mut Vec<Effect>) {
        let Some(polling) = self.fetches.get(&id) else { return };
        assert!(!polling.is_parked(), "only what fills is filled");
        let bytes_missing = polling.bytes_min().saturating_sub(filled.bytes);
        let records_missing = polling.records_min().saturating_sub(filled.records);
        let enough = bytes_missing == 0 && records_missing == 0;
        if filled.more {
            // Counted where something had to wait: of all fetches of a connection, every second one might be this partition's.
            self.turns.entry(polling.link).and_modify(|turn| *turn = turn.wrapping_add(1));
        }
        if enough || polling.hurry || filled.refused || filled.more || now >= polling.deadline || self.draining {
            self.forget(id, effects);
            effects.push(Effect::Answer { id });
            return;
        }
        // Both must come: whichever is waited for first, the other is looked at when it has.
        let (unit, missing) =
            if bytes_missing > 0 { (Unit::Bytes, bytes_missing) } else { (Unit::Records, records_missing) };
        self.begin_round(id, unit, missing, &filled.seen, effects);
    }

    fn begin_round(&mut self, id: FetchId, unit: Unit, missing: u64, seen: &[Seen], effects: &mut Vec<Effect>) {
        assert!(missing > 0, "nothing missing is an answer, not a wait");
        let fetch = self.fetches[&id].fetch.clone();
        assert_eq!(seen.len(), fetch.partitions.len(), "what was not refused was seen");
        let n = u64::try_from(seen.len()).expect("far below 2^64").max(1);
        let distance = (missing / (2 * n)).max(1);
        let mut places = Vec::with_capacity(seen.len());
        for (i, (want, seen)) in fetch.partitions.iter().zip(seen).enumerate() {
            let (counted, wake_at) = if want.offset > seen.high_watermark {
                (None, WakeAt::Offset(want.offset.saturating_add(1)))
            } else {
                (Some(unit.of(seen)), unit.at(unit.of(seen) + distance))
            };
            let token = self.park(Owner::Fetch(id, i), partition_of(want), wake_at, seen.epoch, effects);
            places.push(Place { token, epoch: seen.epoch, counted });
        }
        let parked = Parked { unit, missing, round_until: missing / 2, distance, places };
        let state = &mut self.fetches.get_mut(&id).expect("looked up above").state;
        self.parked += usize::from(matches!(state, State::Filling));
        *state = State::Parked(parked);
    }

    pub(super) fn fetch_fired(
        &mut self,
        id: FetchId,
        place: usize,
        ready: bool,
        view: &impl View,
        effects: &mut Vec<Effect>,
    ) {
        let Some(polling) = self.fetches.get_mut(&id) else { return };
        let State::Parked(parked) = &mut polling.state else { return };
        let want = &polling.fetch.partitions[place];
        let here = &mut parked.places[place];
        let seen = match standing(want, view.see(want)) {
            Standing::Behind(seen) | Standing::AtEnd(seen) if ready && seen.epoch == here.epoch => seen,
            Standing::Ahead(seen) if ready && seen.epoch == here.epoch => seen,
            // Whatever changed, the client must see it.
            _ => return self.hurry(id, effects),
        };
        let Some(counted) = here.counted else {
            // A follower came to the offset: from here on its bytes can be counted.
            return self.fill(id, effects);
        };
        let now = parked.unit.of(&seen);
        parked.missing = parked.missing.saturating_sub(now.saturating_sub(counted));
        here.counted = Some(now);
        if parked.missing == 0 {
            return self.fill(id, effects);
        }
        let (unit, missing, distance) = (parked.unit, parked.missing, parked.distance);
        if missing > parked.round_until {
            let partition = partition_of(want);
            let token = self.park(Owner::Fetch(id, place), partition, unit.at(now + distance), seen.epoch, effects);
            if let Some(Polling { state: State::Parked(parked), .. }) = self.fetches.get_mut(&id) {
                parked.places[place].token = token;
            }
            return;
        }
        self.next_round(id, view, effects);
    }

    /// Counts all partitions and parks them at a shorter distance.
    fn next_round(&mut self, id: FetchId, view: &impl View, effects: &mut Vec<Effect>) {
        let Some(polling) = self.fetches.get_mut(&id) else { return };
        let fetch = polling.fetch.clone();
        let State::Parked(parked) = &mut polling.state else { return };
        let mut all = Vec::with_capacity(parked.places.len());
        for (place, want) in parked.places.iter().zip(&fetch.partitions) {
            let seen = match standing(want, view.see(want)) {
                Standing::Behind(seen) | Standing::AtEnd(seen) | Standing::Ahead(seen) if seen.epoch == place.epoch => {
                    seen
                }
                _ => return self.hurry(id, effects),
            };
            match place.counted {
                Some(counted) => {
                    parked.missing = parked.missing.saturating_sub(parked.unit.of(&seen).saturating_sub(counted));
                }
                None if want.offset <= seen.high_watermark => return self.fill(id, effects),
                None => {}
            }
            all.push(seen);
        }
        let (unit, missing) = (parked.unit, parked.missing);
        if missing == 0 {
            return self.fill(id, effects);
        }
        let tokens: Vec<_> = parked.places.iter().map(|place| place.token).collect();
        for token in tokens {
            self.unpark(token, effects);
        }
        self.begin_round(id, unit, missing, &all, effects);
    }

    pub(super) fn refuse(&mut self, id: FetchId, refused: Refused, effects: &mut Vec<Effect>) {
        self.forget(id, effects);
        effects.push(Effect::Refuse { id, refused });
    }

    fn forget(&mut self, id: FetchId, effects: &mut Vec<Effect>) {
        let Some(polling) = self.fetches.remove(&id) else { return };
        self.partitions -= polling.fetch.partitions.len();
        self.drop_deadline(polling.deadline, id);
        if let State::Parked(parked) = polling.state {
            self.parked -= 1;
            for place in parked.places {
                self.unpark(place.token, effects);
            }
        }
    }
}
