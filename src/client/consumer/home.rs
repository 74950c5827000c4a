//! Where a group lives, and how it is asked there: a home may die, move, or not know yet that it moved.

use crate::{
    client::{
        Inner, RequestError,
        pool::{lock, unexpected},
    },
    types::{GroupName, NodeId},
    wire::{Code, FindGroup, Frame, Message},
};
use std::{collections::BTreeMap, sync::Mutex, time::Duration};
use tokio::time::Instant;

/// How long one node may take for what is not parked. Beyond that the next try may find another one.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// When an answer is so late, other nodes are asked whether the home is another one by now.
const LATE: Duration = Duration::from_millis(250);
/// While it does not come they are asked again so often.
const HOME_CHECK: Duration = Duration::from_secs(1);
/// First and longest pause before the home is looked for again.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(20);
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The home of a group, as far as this client knows.
pub(in crate::client) struct Home {
    group: GroupName,
    node: Mutex<Option<NodeId>>,
}

impl Home {
    pub(in crate::client) fn new(group: GroupName) -> Self {
        Self { group, node: Mutex::default() }
    }

    /// Asks the home, wherever it is now, until an answer comes that another one would give too: only for what may be done
    /// twice. Also gives when the question left that was answered.
    pub(in crate::client) async fn ask(
        &self,
        inner: &Inner,
        message: impl Into<Message>,
    ) -> Result<(Frame, Instant), RequestError> {
        let message = message.into();
        let begun = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let sent_at = Instant::now();
            let error = match self.ask_once(inner, message.clone(), Duration::ZERO, ANSWER_WAIT).await {
                Ok(frame) => return Ok((frame, sent_at)),
                Err(error) => error,
            };
            if !passes(&error) || begun.elapsed() >= inner.request_timeout {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks it once, for an answer that is `parked` there so long at most and takes `slack` beyond that. Gives up when the
    /// home is found to be another one before the answer is there.
    pub(super) async fn ask_once(
        &self,
        inner: &Inner,
        message: impl Into<Message>,
        parked: Duration,
        slack: Duration,
    ) -> Result<Frame, RequestError> {
        let known = *lock(&self.node);
        let home = match known {
            Some(home) => home,
            None => self.find(inner).await?,
        };
        *lock(&self.node) = Some(home);
        let call = async {
            let live = inner.cluster.connection(home).await?;
            live.call(message, parked + slack).await
        };
        let answer = tokio::select! {
            biased;
            answer = call => answer,
            now = self.another(inner, home, parked + LATE) => Err(RequestError::Unreachable {
                node: format!("node {home} as the home of group {}", self.group),
                why: format!("node {now} is the home now"),
            }),
        };
        if answer.as_ref().is_err_and(passes) {
            *lock(&self.node) = None;
        }
        answer
    }

    /// Until other nodes say that the home is another one. They are asked only when the answer is late: each member of each
    /// group has a question parked nearly all the time.
    async fn another(&self, inner: &Inner, home: NodeId, late: Duration) -> NodeId {
        tokio::time::sleep(late).await;
        loop {
            let found = tokio::time::timeout(HOME_CHECK, self.find(inner)).await;
            if let Ok(Ok(now)) = found
                && now != home
            {
                return now;
            }
            tokio::time::sleep(HOME_CHECK).await;
        }
    }

    async fn find(&self, inner: &Inner) -> Result<NodeId, RequestError> {
        let group = &self.group;
        let (node, frame) = inner.cluster.any(FindGroup { group: group.clone() }).await?;
        let Message::GroupFound(found) = frame.message else {
            return Err(unexpected(&format!("node {node}"), "FindGroup", &frame.message));
        };
        let Some(home) = found.node else {
            let node = format!("the home of group {group}");
            return Err(RequestError::Unreachable { node, why: "it elects".into() });
        };
        inner.cluster.pool.set_addresses(&BTreeMap::from([(home, found.address)]));
        Ok(home)
    }
}

/// Whether another try may have another answer.
pub(super) fn passes(error: &RequestError) -> bool {
    match error {
        RequestError::Refused { refused } => refused.code.is_retriable() || matches!(refused.code, Code::Internal),
        RequestError::Unreachable { .. } | RequestError::TimedOut { .. } => true,
        RequestError::Unexpected { .. } | RequestError::Closed => false,
    }
}
