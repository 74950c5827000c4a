//! Topics are there from their creation to their deletion, and at no other time.
//!
//! For each topic the states are followed in which it can be. An answer leaves one of them, or two when something else was asked
//! at the same time; what was asked and never answered may be done at any later time. Clients ask again by themselves when an
//! answer gets lost: a creation that is told that the topic exists, and a deletion that is told that it does not, may have done
//! so, and say only what is true now.

use super::{Anomaly, anomaly};
use crate::history::{Because, Deed, Event, What};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(events: &[Event], found: &mut Vec<Anomaly>) {
    let mut topics: BTreeMap<&str, Topic> = BTreeMap::new();
    for event in events {
        match &event.what {
            What::Admin { deed } | What::AdminOk { deed } | What::AdminFail { deed, .. } | What::AdminInfo { deed } => {
                let Some((name, wish)) = wish(deed) else { continue };
                let kind = topics.entry(name).or_default().take(event.process, wish, &event.what);
                found.extend(kind.map(|kind| tell(kind, name, event)));
            }
            What::Topics { topics: named, last } => {
                for name in named.keys().filter(|name| !topics.contains_key(name.as_str())) {
                    found.push(anomaly("topic of nobody", 0, format!("{name} is there at {} µs", event.at)));
                }
                if *last {
                    for (name, topic) in &topics {
                        let kind = topic.listed(named.get(*name).copied());
                        found.extend(kind.map(|kind| tell(kind, name, event)));
                    }
                }
            }
            _ => {}
        }
    }
}

/// What is asked of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// With so many partitions.
    Create(u32),
    /// At least so many partitions.
    Alter(u32),
    Delete,
}

fn wish(deed: &Deed) -> Option<(&str, Wish)> {
    match deed {
        Deed::Create { topic, partitions } => Some((topic, Wish::Create(*partitions))),
        Deed::Alter { topic, partitions } => Some((topic, Wish::Alter(*partitions))),
        Deed::Delete { topic } => Some((topic, Wish::Delete)),
        Deed::Reset { .. } => None,
    }
}

/// What is known of a topic.
struct Topic {
    /// It can be there, it can be absent.
    present: bool,
    absent: bool,
    /// What is asked and not answered, by process, with the count of answers then.
    open: BTreeMap<u32, (Wish, u64)>,
    /// Creations and deletions that may yet be done: asked and not answered, or with an unknown outcome.
    creations: u64,
    deletions: u64,
    answers: u64,
    /// Partitions that it has at least when it is there.
    least: u32,
    /// Numbers of partitions that anybody asked for.
    asked: BTreeSet<u32>,
}

impl Default for Topic {
    fn default() -> Self {
        Self {
            present: false,
            absent: true,
            open: BTreeMap::new(),
            creations: 0,
            deletions: 0,
            answers: 0,
            least: 0,
            asked: BTreeSet::new(),
        }
    }
}

impl Topic {
    /// What is wrong with this, if anything.
    fn take(&mut self, process: u32, wish: Wish, what: &What) -> Option<&'static str> {
        match what {
            What::Admin { .. } => self.asked(process, wish),
            What::AdminOk { .. } => return self.done(process, wish),
            What::AdminFail { because, .. } => return self.refused(process, *because),
            _ => self.unknown(process, wish),
        }
        None
    }

    fn asked(&mut self, process: u32, wish: Wish) {
        if let Wish::Create(partitions) | Wish::Alter(partitions) = wish {
            self.asked.insert(partitions);
        }
        if let Some((before, _)) = self.open.insert(process, (wish, self.answers)) {
            self.count(before, |wishes| wishes - 1);
        }
        self.count(wish, |wishes| wishes + 1);
        self.may();
    }

    /// One more or one less wish of this kind may yet be done.
    fn count(&mut self, wish: Wish, change: impl FnOnce(u64) -> u64) {
        match wish {
            Wish::Create(_) => self.creations = change(self.creations),
            Wish::Delete => self.deletions = change(self.deletions),
            // Whether the topic is there stays as it is.
            Wish::Alter(_) => {}
        }
    }

    /// What may yet be done may be done from now on.
    fn may(&mut self) {
        self.present |= self.absent && self.creations > 0;
        self.absent |= self.present && self.deletions > 0;
    }

    /// What a process asked is over. Whether nothing else was answered since it asked.
    fn answered(&mut self, process: u32) -> bool {
        let Some((wish, since)) = self.open.remove(&process) else { return false };
        self.count(wish, |wishes| wishes - 1);
        self.answers += 1;
        since + 1 == self.answers
    }

    /// It surely is there, or surely is not, at a moment since `process` asked: gives what is wrong with that.
    fn is(&mut self, process: u32, there: bool) -> Option<&'static str> {
        let alone = self.answered(process);
        let wrong = match there {
            true if !self.present => Some("topic came back"),
            false if !self.absent => Some("topic lost"),
            _ => None,
        };
        (self.present, self.absent) = (there || !alone, !there || !alone);
        self.may();
        wrong.filter(|_| alone)
    }

    fn done(&mut self, process: u32, wish: Wish) -> Option<&'static str> {
        match wish {
            Wish::Create(partitions) => {
                let twice = !self.absent;
                self.least = partitions;
                self.is(process, true).or(twice.then_some("topic made twice"))
            }
            Wish::Alter(partitions) => {
                self.least = self.least.max(partitions);
                self.is(process, true)
            }
            Wish::Delete => self.is(process, false),
        }
    }

    fn refused(&mut self, process: u32, because: Because) -> Option<&'static str> {
        match because {
            Because::Exists => self.is(process, true),
            Because::Unknown => self.is(process, false),
            Because::NotSent => {
                self.answered(process);
                None
            }
        }
    }

    fn unknown(&mut self, process: u32, wish: Wish) {
        self.answered(process);
        self.count(wish, |wishes| wishes + 1);
    }

    /// At the end it has so many partitions, or is not there.
    fn listed(&self, partitions: Option<u32>) -> Option<&'static str> {
        match partitions {
            None if !self.absent => Some("topic lost"),
            Some(_) if !self.present => Some("topic came back"),
            Some(partitions) if partitions < self.least || !self.asked.contains(&partitions) => {
                Some("partitions differ")
            }
            _ => None,
        }
    }
}

fn tell(kind: &'static str, name: &str, event: &Event) -> Anomaly {
    let said = serde_json::to_string(&event.what).unwrap_or_default();
    anomaly(kind, 0, format!("{name} at {} µs: {said}", event.at))
}
