//! What leaders do for their groups: members as the metadata says, replacements swapped in, leaderships brought home.

use super::hosting::{Hosted, Hosting};
use crate::{
    controller::{
        Controller,
        machine::{Command, Placement, Purpose, Replica, ReplicaCaughtUp, ReplicaState, Swapped},
        placement::{self, LeaderMove},
    },
    limits,
    runtime::Courier,
    types::NodeId,
};
use highwater_raft::{
    GroupId, ReplicaId,
    group::{ChangeError, Role},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

const EVERY: Duration = Duration::from_millis(500);
/// Leaderships go home when the same lives of the same nodes have been there for so long.
const SETTLED: Duration = Duration::from_secs(5);
const EXECUTE: Duration = Duration::from_secs(5);
/// A learner this close to the leader's last entry has caught up: the rest fits into one append.
const BEHIND_MAX: u64 = 64;

/// Attends to the groups that this node leads, for as long as it lives.
pub(super) async fn run(hosting: Hosting, controller: Controller, courier: Arc<dyn Courier>) {
    tokio::join!(lead(&hosting, &controller, courier), watch_offline(&hosting, &controller));
}

async fn lead(hosting: &Hosting, controller: &Controller, courier: Arc<dyn Courier>) {
    let (mut lives, mut since) = (BTreeMap::new(), Instant::now());
    loop {
        tokio::time::sleep(EVERY).await;
        let metadata = controller.metadata();
        let hosted = hosting.all();
        for (group, hosted) in &hosted {
            let Some(placement) = metadata.groups.get(group) else { continue };
            let role = hosted.raft.role().borrow().clone();
            if role.leading
                && role.ready
                && let Err(error) = attend(controller, *group, hosted, placement, &role).await
            {
                tracing::debug!(group = group.0, %error, "the members are not as planned yet");
            }
        }
        let now_lives = hosting.lives();
        if now_lives != lives {
            (lives, since) = (now_lives, Instant::now());
        } else if since.elapsed() >= SETTLED {
            bring_home(controller, &hosted, &courier.others()).await;
        }
    }
}

/// Tells leaders of partitions that are damaged on a majority whether one answers nevertheless. A leader without one stays
/// what it is, as nobody is elected in its place, and its clients would wait for it. Asking takes as long as a quorum may be
/// silent: other groups are attended to meanwhile.
async fn watch_offline(hosting: &Hosting, controller: &Controller) {
    let mut asked = BTreeSet::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let (hosted, metadata) = (hosting.all(), controller.metadata());
        let offline: BTreeSet<GroupId> =
            metadata.groups.iter().filter(|(_, placement)| placement.is_offline()).map(|(group, _)| *group).collect();
        let led = |group: &GroupId| {
            let Purpose::Partition(partition) = metadata.groups.get(group)?.purpose else { return None };
            let raft = hosted.get(group)?.raft.clone();
            let handle = hosting.partitions().find(partition).filter(|_| raft.role().borrow().leading)?;
            Some((handle, raft))
        };
        // What was damaged or lost is replaced, or back.
        for (handle, _) in asked.difference(&offline).filter_map(led) {
            handle.strand(false);
        }
        let answers = offline.iter().filter_map(led);
        let answers = answers.map(|(handle, raft)| async move { handle.strand(raft.barrier().await.is_err()) });
        futures_util::future::join_all(answers).await;
        asked = offline;
    }
}

async fn attend(
    controller: &Controller,
    group: GroupId,
    hosted: &Hosted,
    placement: &Placement,
    role: &Role,
) -> Result<(), ChangeError> {
    let actual: BTreeSet<ReplicaId> =
        role.members.iter().filter(|(_, member)| member.voter).map(|(id, _)| *id).collect();
    for replica in placement.members_wanted() {
        if !role.members.contains_key(&replica.id) {
            return hosted.raft.add_learner(replica.id, replica.node.into()).await;
        }
    }
    let last = hosted.raft.log().last().map_or(0, |last| last.index);
    let progress = hosted.raft.progress().unwrap_or_default();
    for replica in placement.replicas.iter().filter(|replica| replica.state == ReplicaState::Learner) {
        let matching = progress.get(&replica.id).copied().flatten();
        if matching.is_some_and(|matching| matching.index + BEHIND_MAX >= last) {
            say(controller, Command::ReplicaCaughtUp(ReplicaCaughtUp { group, replica: replica.id })).await;
        }
    }
    let wanted = placement.voters_wanted(&actual);
    if wanted != actual && wanted.iter().all(|id| role.members.contains_key(id)) {
        return hosted.raft.set_voters(wanted, true).await;
    }
    let is_news = |replica: &Replica| match replica.state {
        ReplicaState::Ready => actual.contains(&replica.id),
        ReplicaState::Dying => !actual.contains(&replica.id),
        ReplicaState::Voter | ReplicaState::Learner | ReplicaState::Observer => false,
    };
    // What is not decided yet may be undone by another leader.
    let is_decided = hosted.raft.log().applied().is_some_and(|applied| applied.index >= role.members_at);
    if is_decided && placement.replicas.iter().any(is_news) {
        highwater_raft::observe::reached("learner swap committed");
        if placement.is_offline() {
            highwater_raft::observe::reached("group that seemed lost has a quorum");
        }
        say(controller, Command::Swapped(Swapped { group, voters: actual })).await;
    }
    Ok(())
}

async fn say(controller: &Controller, command: Command) {
    if let Err(error) = controller.execute(command, EXECUTE).await {
        tracing::debug!(%error, "the controller was not told; it will be again");
    }
}

async fn bring_home(controller: &Controller, hosted: &BTreeMap<GroupId, Hosted>, others: &[NodeId]) {
    let me = controller.node();
    let alive: BTreeSet<NodeId> = others.iter().copied().chain([me]).collect();
    let known = controller.leaders().all();
    let leaders = known.into_iter().filter_map(|(group, leader)| Some((group, leader.node?))).collect();
    let metadata = controller.metadata();
    let moves = placement::leader_moves(&metadata, &leaders, &alive, usize::MAX);
    let may = |one: &LeaderMove| one.from == me && !controller.ailing().is_ending(one.to);
    let mine = moves.into_iter().filter(may).take(limits::TRANSFERS_AT_ONCE);
    for one in mine {
        let Some((hosted, placement)) = hosted.get(&one.group).zip(metadata.groups.get(&one.group)) else { continue };
        let is_voter = |replica: &&Replica| replica.node == one.to && replica.state == ReplicaState::Voter;
        let to = placement.replicas.iter().find(is_voter);
        // Who lags behind could not take over, and the group would be without a leader until it gave up.
        let last = hosted.raft.log().last().map_or(0, |last| last.index);
        let progress = hosted.raft.progress().unwrap_or_default();
        let is_there =
            |to: ReplicaId| progress.get(&to).copied().flatten().is_some_and(|at| at.index + BEHIND_MAX >= last);
        if let Some(to) = to.filter(|to| is_there(to.id))
            && let Err(error) = hosted.raft.transfer(to.id).await
        {
            tracing::debug!(group = one.group.0, %error, "the leadership stays here for now");
        }
    }
}

/// Hands all leaderships of this node to other voters, some at a time, until `deadline`.
pub(super) async fn hand_over_all(hosting: &Hosting, controller: &Controller, others: &[NodeId], deadline: Instant) {
    controller.ailing().note_ending(controller.node(), true);
    controller.leaders().stir();
    let led: Vec<_> = hosting.all().into_values().filter(|hosted| hosted.raft.role().borrow().leading).collect();
    for some in led.chunks(limits::TRANSFERS_AT_ONCE) {
        let transfers = some.iter().filter_map(|hosted| {
            let role = hosted.raft.role().borrow().clone();
            let may = |(id, member): &(&ReplicaId, &highwater_raft::group::Member)| {
                let node = member.node.into();
                let stays = others.contains(&node) && !controller.ailing().is_ending(node);
                member.voter && **id != hosted.replica && stays
            };
            let to = role.members.iter().find(may).map(|(id, _)| *id)?;
            let raft = hosted.raft.clone();
            Some(async move { raft.transfer(to).await })
        });
        // A transfer that fails costs the others an election, not data.
        if tokio::time::timeout_at(deadline, futures_util::future::join_all(transfers)).await.is_err() {
            return;
        }
    }
}
