//! A member of a group: joins at the group's home, says what it consumes, takes what it is given.
//!
//! ```text
//!  Join ─▶ Heartbeat(owned, generation) ──parked at the home──▶ assignment ─▶ cursors
//!             ▲                                                    │ kept: untouched · new: begin · not in it: leave
//!             └── what left is done and committed, then not in `owned` any more ◀──┘
//! ```
//! **Invariants**
//! - a partition is named as owned until all that was given of it is done, and committed where that is the consumer's task;
//! - while there was no word from the home for a session nothing is given: others may have the partitions. They are kept, and
//!   when the home still knows the member it goes on where it was: a home that was away is no reason to give anything again;
//! - nothing is given of a partition before the home knows where the group starts in it;
//! - one commit is under way at a time, and each says its number: a repeat that comes late moves nothing back;
//! - before partitions are given up, or the group is left, the home knows how far they were given.

use super::{
    Shared,
    cursors::Upto,
    home::{Home, PAUSE_MAX, PAUSE_MIN, passes},
};
use crate::{
    client::{
        ConsumeError, RequestError,
        pool::{lock, unexpected},
        stats::Counters,
    },
    limits,
    types::{Generation, GroupName, MemberId, Position, TopicName, TopicPartition},
    wire::{
        Code, Commit, GroupKind, Heartbeat, HeartbeatAnswer, Join, Joined, Leave, Message, Start, StartOffset, Started,
    },
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Heartbeats in a session. A home that dies is noticed when an answer is late, and the next one is found and spoken to while
/// the session lasts.
const HEARTBEATS_PER_SESSION: u32 = 5;
/// Longest time that a heartbeat is parked, whatever the session.
const PARK_MAX: Duration = Duration::from_secs(5);
/// What an answer may take beyond that.
const ANSWER_SLACK: Duration = Duration::from_secs(1);

/// A consumer's part in a group.
pub(super) struct Membership {
    group: GroupName,
    home: Home,
    topics: Vec<TopicName>,
    /// What the program asks for; else the home says.
    session: Option<Duration>,
    start: Option<Position>,
    auto_commit: bool,
    process_time_max: Duration,
    /// Chosen here, so that a join that is sent twice makes one member.
    member: MemberId,
    state: Mutex<State>,
    /// How many commits were made; held while one is under way.
    commits: tokio::sync::Mutex<u64>,
    /// Something may leave now.
    pub(super) wake: Notify,
    /// Starts may have been found.
    pub(super) starts: Notify,
}

struct State {
    joined: bool,
    generation: Generation,
    /// As the home has it.
    session: Duration,
    start: Position,
    heard_at: Instant,
}

impl Membership {
    pub(super) fn new(
        group: GroupName,
        topics: Vec<TopicName>,
        session: Option<Duration>,
        start: Option<Position>,
        auto_commit: bool,
        process_time_max: Duration,
        random: u64,
    ) -> Self {
        let state = State {
            joined: false,
            generation: Generation::default(),
            session: session.unwrap_or(Duration::from_millis(limits::SESSION_GRACE_MS_DEFAULT)),
            start: start.unwrap_or(Position::Latest),
            heard_at: Instant::now(),
        };
        let member = format!("member-{random:016x}").parse().expect("letters, digits and '-'");
        let (state, commits) = (Mutex::new(state), tokio::sync::Mutex::new(0));
        let (wake, starts) = (Notify::new(), Notify::new());
        let home = Home::new(group.clone());
        Self {
            group,
            home,
            topics,
            session,
            start,
            auto_commit,
            process_time_max,
            member,
            state,
            commits,
            wake,
            starts,
        }
    }

    /// Its name, once it is a member.
    pub(super) fn member(&self) -> Option<MemberId> {
        lock(&self.state).joined.then(|| self.member.clone())
    }

    /// Whether commits are the consumer's own task.
    pub(super) fn commits_itself(&self) -> bool {
        self.auto_commit
    }

    pub(super) fn generation(&self) -> Generation {
        lock(&self.state).generation
    }

    /// A word from a home that was the home after `sent_at`.
    fn heard(&self, sent_at: Instant) {
        let mut state = lock(&self.state);
        state.heard_at = state.heard_at.max(sent_at);
    }

    /// Becomes a member, or one again.
    pub(super) async fn join(&self, shared: &Shared) -> Result<(), ConsumeError> {
        let join = Join {
            group: self.group.clone(),
            member: Some(self.member.clone()),
            topics: self.topics.clone(),
            session_ms: self.session.map_or(0, |session| u32::try_from(session.as_millis()).unwrap_or(u32::MAX)),
            kind: GroupKind::Offset,
            start: self.start,
        };
        let (frame, sent_at) = self.home.ask(&shared.inner, join).await.map_err(|e| self.refused(e))?;
        let Message::Joined(Joined { start, session_ms, .. }) = frame.message else {
            return Err(unexpected("the group's home", "Join", &frame.message).into());
        };
        Counters::one(&shared.inner.counters.joins);
        let mut state = lock(&self.state);
        (state.joined, state.start, state.generation) = (true, start, Generation::default());
        if session_ms > 0 {
            state.session = Duration::from_millis(session_ms.into());
        }
        state.heard_at = state.heard_at.max(sent_at);
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
            () = self.fix_starts(&shared) => {}
        }
    }

    async fn live(&self, shared: &Shared) {
        let mut pause = PAUSE_MIN;
        let mut wait = None;
        loop {
            // A home in another life may have another session for it.
            let park = (lock(&self.state).session / HEARTBEATS_PER_SESSION).min(PARK_MAX);
            self.release(shared).await;
            match self.heartbeat(shared, wait.unwrap_or(park)).await {
                Ok(Some(answer)) => {
                    (pause, wait) = (PAUSE_MIN, None);
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
                    match self.join(shared).await {
                        Ok(()) => {}
                        Err(ConsumeError::Request(error)) if passes(&error) => {
                            tracing::debug!(group = %self.group, %error, "the group cannot be joined yet");
                        }
                        Err(ConsumeError::Group { refused, .. }) if refused.code.is_retriable() => {
                            tracing::debug!(group = %self.group, error = refused.message, "the group cannot be joined yet");
                        }
                        Err(error) => shared.report(error),
                    }
                }
                Err(error) => {
                    tracing::debug!(group = %self.group, %error, "heartbeat failed");
                    // The next home is to hear of the member at once: a parked heartbeat shows nothing before its answer.
                    wait = Some(Duration::ZERO);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Tells the home where partitions start, as soon as that is found.
    async fn fix_starts(&self, shared: &Shared) {
        loop {
            self.starts.notified().await;
            let mut pause = PAUSE_MIN;
            loop {
                let offsets = lock(&shared.cursors).starts();
                if offsets.is_empty() {
                    break;
                }
                if let Err(error) = self.fix(shared, offsets).await {
                    tracing::debug!(group = %self.group, %error, "the home does not know yet where partitions start");
                }
                if lock(&shared.cursors).starts().is_empty() {
                    break;
                }
                // Those that are left are not this member's any more, which it will be told, or the home cannot say.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    async fn fix(&self, shared: &Shared, offsets: Vec<StartOffset>) -> Result<(), RequestError> {
        let (group, member, generation) = (self.group.clone(), self.member.clone(), self.generation());
        let (frame, sent_at) = self.home.ask(&shared.inner, Start { group, member, generation, offsets }).await?;
        let Message::Started(Started { offsets }) = frame.message else {
            return Err(unexpected("the group's home", "Start", &frame.message));
        };
        self.heard(sent_at);
        let mut cursors = lock(&shared.cursors);
        offsets.iter().for_each(|start| cursors.started(start));
        drop(cursors);
        shared.work.notify_one();
        Ok(())
    }

    /// Whether others may have the partitions by now.
    pub(super) fn is_silent(&self) -> bool {
        let state = lock(&self.state);
        state.heard_at.elapsed() >= state.session
    }

    /// Tells the home how far each partition was given.
    pub(super) async fn report(&self, shared: &Shared) -> Result<(), ConsumeError> {
        let heartbeat = self.news(shared, Duration::ZERO);
        let (_, sent_at) = self.home.ask(&shared.inner, heartbeat).await.map_err(|e| self.refused(e))?;
        self.heard(sent_at);
        Ok(())
    }

    fn news(&self, shared: &Shared, park: Duration) -> Heartbeat {
        Heartbeat {
            group: self.group.clone(),
            member: self.member.clone(),
            generation: self.generation(),
            owned: lock(&shared.cursors).owned(),
            wait_ms: u32::try_from(park.as_millis()).unwrap_or(u32::MAX),
        }
    }

    /// One heartbeat; `None` when it was cut short because something may leave.
    async fn heartbeat(&self, shared: &Shared, park: Duration) -> Result<Option<HeartbeatAnswer>, RequestError> {
        let heartbeat = self.news(shared, park);
        let sent_at = Instant::now();
        let patience = lock(&shared.cursors).is_leaving().then_some(sent_at + self.process_time_max);
        let answer = tokio::select! {
            biased;
            answer = self.home.ask_once(&shared.inner, heartbeat, park, ANSWER_SLACK) => answer?,
            () = self.wake.notified() => return Ok(None),
            () = tokio::time::sleep_until(patience.unwrap_or(sent_at)), if patience.is_some() => return Ok(None),
        };
        self.heard(sent_at);
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
        self.starts.notify_one();
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
        let among = |partition: &TopicPartition| leaving.binary_search(partition).is_ok();
        if self.auto_commit
            && let Err(error) = self.commit(shared, Upto::Done, among).await
        {
            if matches!(&error, ConsumeError::Request(error) if passes(error)) {
                tracing::debug!(group = %self.group, %error, "partitions that leave are kept until they are committed");
                return;
            }
            tracing::warn!(group = %self.group, %error, "the last commit of partitions that leave failed: their next owner starts earlier");
        }
        if lock(&shared.cursors).is_untold(among)
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

    /// Commits, at the home, what is not committed yet of some partitions.
    pub(super) async fn commit(
        &self,
        shared: &Shared,
        upto: Upto,
        among: impl Fn(&TopicPartition) -> bool,
    ) -> Result<(), ConsumeError> {
        let mut n = self.commits.lock().await;
        let mut offsets = lock(&shared.cursors).uncommitted(upto);
        offsets.retain(|o| among(&TopicPartition { topic: o.topic, partition: o.partition }));
        if offsets.is_empty() {
            return Ok(());
        }
        *n += 1;
        let commit = Commit {
            group: self.group.clone(),
            member: Some(self.member.clone()),
            generation: self.generation(),
            n: *n,
            offsets: offsets.clone(),
        };
        let (frame, sent_at) = self.home.ask(&shared.inner, commit).await.map_err(|e| self.refused(e))?;
        let Message::Committed(committed) = frame.message else {
            return Err(unexpected("the group's home", "Commit", &frame.message).into());
        };
        self.heard(sent_at);
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
        let leave = Leave { group: self.group.clone(), member: self.member.clone() };
        match self.home.ask(&shared.inner, leave).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.code(), Some(Code::UnknownMember | Code::UnknownGroup)) => Ok(()),
            Err(error) => Err(self.refused(error)),
        }
    }
}
