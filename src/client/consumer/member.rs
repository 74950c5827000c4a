//! A member of a group: joins at the group's home, says what it consumes, takes what it is given.
//!
//! ```text
//!  Join ─▶ Heartbeat(owned, generation) ──parked at the home──▶ assignment ─▶ cursors
//!             ▲                                                    │ kept: untouched · new: begin · not in it: leave
//!             └── what left is done and committed, then not in `owned` any more ◀──┘
//! ```
//! **Invariants**
//! - a partition is named as owned until all that was given of it is done, and committed where that is the consumer's task;
//! - after a session time without a word from the home nothing is given any more: others may have the partitions;
//! - before partitions are given up, or the group is left, the home knows how far they were given.

use super::{Shared, cursors::Upto};
use crate::{
    client::{
        ConsumeError, RequestError,
        pool::{lock, unexpected},
        stats::Counters,
    },
    types::{Generation, GroupName, MemberId, NodeId, Position, TopicName},
    wire::{
        Code, Commit, CommitOffset, FindGroup, Frame, GroupKind, Heartbeat, HeartbeatAnswer, Join, Joined, Leave,
        Message,
    },
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Longest time that a heartbeat is parked, whatever the session.
const PARK_MAX: Duration = Duration::from_secs(5);
/// What an answer may take beyond that.
const ANSWER_SLACK: Duration = Duration::from_secs(1);
/// First and longest pause before the home is looked for again.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A consumer's part in a group.
pub(super) struct Membership {
    pub(super) group: GroupName,
    topics: Vec<TopicName>,
    session: Duration,
    start: Option<Position>,
    auto_commit: bool,
    process_time_max: Duration,
    state: Mutex<State>,
    /// Something may leave now.
    pub(super) wake: Notify,
}

struct State {
    member: Option<MemberId>,
    generation: Generation,
    home: Option<NodeId>,
    start: Position,
    heard_at: Instant,
}

impl Membership {
    pub(super) fn new(
        group: GroupName,
        topics: Vec<TopicName>,
        session: Duration,
        start: Option<Position>,
        auto_commit: bool,
        process_time_max: Duration,
    ) -> Self {
        let state = State {
            member: None,
            generation: Generation::default(),
            home: None,
            start: start.unwrap_or(Position::Latest),
            heard_at: Instant::now(),
        };
        let (state, wake) = (Mutex::new(state), Notify::new());
        Self { group, topics, session, start, auto_commit, process_time_max, state, wake }
    }

    pub(super) fn member(&self) -> Option<MemberId> {
        lock(&self.state).member.clone()
    }

    /// Whether commits are the consumer's own task.
    pub(super) fn commits_itself(&self) -> bool {
        self.auto_commit
    }

    pub(super) fn generation(&self) -> Generation {
        lock(&self.state).generation
    }

    /// Asks the group's home, wherever it is now, until an answer comes that another home would give too.
    async fn ask(&self, shared: &Shared, message: impl Into<Message>, wait: Duration) -> Result<Frame, RequestError> {
        let message = message.into();
        let begun = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let answer = self.ask_once(shared, message.clone(), wait).await;
            let error = match answer {
                Ok(frame) => return Ok(frame),
                Err(error) => error,
            };
            let passes = match &error {
                RequestError::Refused { refused } => {
                    refused.code.is_retriable() || matches!(refused.code, Code::Internal)
                }
                RequestError::Unreachable { .. } | RequestError::TimedOut { .. } => true,
                RequestError::Unexpected { .. } | RequestError::Closed => false,
            };
            if !passes || begun.elapsed() >= shared.inner.request_timeout {
                return Err(error);
            }
            lock(&self.state).home = None;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn ask_once(&self, shared: &Shared, message: Message, wait: Duration) -> Result<Frame, RequestError> {
        let known = lock(&self.state).home;
        let home = match known {
            Some(home) => home,
            None => find_home(&shared.inner, &self.group).await?,
        };
        lock(&self.state).home = Some(home);
        let live = shared.inner.cluster.connection(home).await?;
        live.call(message, wait).await
    }

    /// Becomes a member, or one again.
    pub(super) async fn join(&self, shared: &Shared) -> Result<(), ConsumeError> {
        let join = Join {
            group: self.group.clone(),
            member: self.member(),
            topics: self.topics.clone(),
            session_ms: u32::try_from(self.session.as_millis()).unwrap_or(u32::MAX),
            kind: GroupKind::Offset,
            start: self.start,
        };
        let frame = self.ask(shared, join, shared.inner.request_timeout).await.map_err(|e| self.refused(e))?;
        let Message::Joined(Joined { member, start, .. }) = frame.message else {
            return Err(unexpected("the group's home", "Join", &frame.message).into());
        };
        Counters::one(&shared.inner.counters.joins);
        let mut state = lock(&self.state);
        state.member = Some(member);
        state.start = start;
        state.generation = Generation::default();
        state.heard_at = Instant::now();
        Ok(())
    }

    fn refused(&self, error: RequestError) -> ConsumeError {
        match error {
            RequestError::Refused { refused } => ConsumeError::Group { group: self.group.clone(), refused },
            other => other.into(),
        }
    }

    /// Until the consumer is closed.
    pub(super) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut closed = shared.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => {}
            () = self.live(&shared) => {}
        }
    }

    async fn live(&self, shared: &Shared) {
        let mut pause = PAUSE_MIN;
        loop {
            self.release(shared).await;
            match self.heartbeat(shared).await {
                Ok(Some(answer)) => {
                    pause = PAUSE_MIN;
                    self.assigned(shared, &answer);
                    continue;
                }
                // Something may leave.
                Ok(None) => continue,
                Err(RequestError::Refused { refused })
                    if matches!(refused.code, Code::UnknownMember | Code::UnknownGroup) =>
                {
                    // The grace ran out: all of it may be with others by now.
                    shared.lose_all();
                    if let Err(error) = self.join(shared).await {
                        shared.report(error);
                    }
                }
                Err(error) => {
                    tracing::debug!(group = %self.group, %error, "heartbeat failed");
                    lock(&self.state).home = None;
                }
            }
            if self.is_silent() && !lock(&shared.cursors).partitions().is_empty() {
                tracing::warn!(group = %self.group, "no word from the group's home for a session: its partitions are given up");
                shared.lose_all();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether others may have the partitions by now.
    pub(super) fn is_silent(&self) -> bool {
        lock(&self.state).heard_at.elapsed() >= self.session
    }

    /// Tells the home how far each partition was given.
    pub(super) async fn report(&self, shared: &Shared) -> Result<(), ConsumeError> {
        let Some(heartbeat) = self.news(shared, Duration::ZERO) else { return Ok(()) };
        let sent_at = Instant::now();
        self.ask(shared, heartbeat, shared.inner.request_timeout).await.map_err(|e| self.refused(e))?;
        lock(&self.state).heard_at = sent_at;
        Ok(())
    }

    fn news(&self, shared: &Shared, park: Duration) -> Option<Heartbeat> {
        Some(Heartbeat {
            group: self.group.clone(),
            member: self.member()?,
            generation: self.generation(),
            owned: lock(&shared.cursors).owned(),
            wait_ms: u32::try_from(park.as_millis()).unwrap_or(u32::MAX),
        })
    }

    /// One heartbeat; `None` when it was cut short because something may leave.
    async fn heartbeat(&self, shared: &Shared) -> Result<Option<HeartbeatAnswer>, RequestError> {
        let park = (self.session / 3).min(PARK_MAX);
        let Some(heartbeat) = self.news(shared, park) else { return Err(RequestError::Closed) };
        let sent_at = Instant::now();
        let patience = lock(&shared.cursors).is_leaving().then_some(sent_at + self.process_time_max);
        let answer = tokio::select! {
            biased;
            answer = self.ask_once(shared, heartbeat.into(), park + ANSWER_SLACK) => answer?,
            () = self.wake.notified() => return Ok(None),
            () = tokio::time::sleep_until(patience.unwrap_or(sent_at)), if patience.is_some() => return Ok(None),
        };
        lock(&self.state).heard_at = sent_at;
        match answer.message {
            Message::HeartbeatAnswer(answer) => Ok(Some(answer)),
            other => Err(unexpected("the group's home", "Heartbeat", &other)),
        }
    }

    fn assigned(&self, shared: &Shared, answer: &HeartbeatAnswer) {
        let start = {
            let mut state = lock(&self.state);
            if answer.generation < state.generation {
                return;
            }
            state.generation = answer.generation;
            state.start
        };
        lock(&shared.cursors).assign(&answer.assigned, start, Instant::now());
        for assigned in &answer.assigned {
            shared.inner.cluster.interested(&assigned.name);
        }
        shared.hand_back();
        shared.work.notify_one();
        // A poll that waits has done with all it was given before.
        shared.waker.wake();
    }

    /// Lets go of what may leave, committed first.
    async fn release(&self, shared: &Shared) {
        let late = Instant::now().checked_sub(self.process_time_max);
        let leaving = lock(&shared.cursors).releasable(late);
        if leaving.is_empty() {
            return;
        }
        if self.auto_commit {
            let mut offsets = lock(&shared.cursors).uncommitted(Upto::Done);
            offsets.retain(|o| leaving.iter().any(|at| at.topic == o.topic && at.partition == o.partition));
            if let Err(error) = self.commit(shared, offsets).await {
                tracing::warn!(group = %self.group, %error, "the last commit of partitions that leave failed: their next owner starts earlier");
            }
        }
        let uncommitted = lock(&shared.cursors).uncommitted(Upto::Given);
        if uncommitted.iter().any(|o| leaving.iter().any(|at| at.topic == o.topic && at.partition == o.partition))
            && let Err(error) = self.report(shared).await
        {
            tracing::debug!(group = %self.group, %error, "partitions that leave are kept until the home knows how far they were given");
            return;
        }
        for partition in leaving {
            lock(&shared.cursors).remove(partition);
        }
        shared.hand_back();
    }

    /// Commits, at the home.
    pub(super) async fn commit(&self, shared: &Shared, offsets: Vec<CommitOffset>) -> Result<(), ConsumeError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let commit = Commit {
            group: self.group.clone(),
            member: self.member(),
            generation: self.generation(),
            offsets: offsets.clone(),
        };
        let frame = self.ask(shared, commit, shared.inner.request_timeout).await.map_err(|e| self.refused(e))?;
        let Message::Committed(committed) = frame.message else {
            return Err(unexpected("the group's home", "Commit", &frame.message).into());
        };
        let refused: BTreeMap<_, _> = committed.refused.into_iter().collect();
        let mut first = None;
        for (i, offset) in offsets.iter().enumerate() {
            match u32::try_from(i).ok().and_then(|i| refused.get(&i)) {
                None => {
                    Counters::one(&shared.inner.counters.commits);
                    lock(&shared.cursors).committed(offset);
                }
                Some(refused) => drop(first.get_or_insert_with(|| refused.clone())),
            }
        }
        match first {
            None => Ok(()),
            Some(refused) => Err(ConsumeError::Group { group: self.group.clone(), refused }),
        }
    }

    /// Ends the membership: its partitions go to others at once.
    pub(super) async fn leave(&self, shared: &Shared) -> Result<(), ConsumeError> {
        let Some(member) = self.member() else { return Ok(()) };
        let leave = Leave { group: self.group.clone(), member };
        match self.ask(shared, leave, shared.inner.request_timeout).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.code(), Some(Code::UnknownMember | Code::UnknownGroup)) => Ok(()),
            Err(error) => Err(self.refused(error)),
        }
    }
}

/// Where a group lives now.
pub(in crate::client) async fn find_home(
    inner: &crate::client::Inner,
    group: &GroupName,
) -> Result<NodeId, RequestError> {
    let (node, frame) = inner.cluster.any(FindGroup { group: group.clone() }).await?;
    let Message::GroupFound(found) = frame.message else {
        return Err(unexpected(&format!("node {node}"), "FindGroup", &frame.message));
    };
    let Some(home) = found.node else {
        return Err(RequestError::Unreachable { node: format!("the home of group {group}"), why: "it elects".into() });
    };
    inner.cluster.pool.set_addresses(&BTreeMap::from([(home, found.address)]));
    Ok(home)
}
