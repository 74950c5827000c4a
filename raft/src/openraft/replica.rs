//! One replica: Raft over its log, and the tasks beside it. All of them end with [`Replica::stop`] or with Raft.

use super::{
    apply::Applier,
    completions::Way,
    driver::{self, Command},
    network::Factory,
    node::Net,
    proposer::{self, Proposed},
    runtime,
    serve::{self, Inbound},
    store::{Store, Tail},
    types::{Raft, Types},
};
use crate::{
    BootId, GroupId, NodeId, ReplicaId,
    env::Env,
    group::{Event, HostOptions, Member, Owner, Role},
    log, observe,
    sabotage::{self, Bug},
};
use ::openraft::{
    Config, ServerState, SnapshotPolicy, alias,
    errors::Fatal,
    metrics::RaftServerMetrics,
    raft::{StreamAppendError, StreamAppendResult},
};
use openraft_rt::WatchReceiver;
use std::{
    collections::BTreeMap,
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// What storage, machine, network and tasks of one replica share.
pub(crate) struct Shared {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) log: log::Group,
    pub(super) owner: Arc<dyn Owner>,
    pub(super) options: Arc<HostOptions>,
    pub(super) net: Arc<Net>,
    pub(super) tail: Tail,
    /// How the log tells this replica that something is on disk.
    pub(super) way: Way,
    pub(super) applied: watch::Sender<Option<log::LogId>>,
    contact: Mutex<Option<Contact>>,
    /// What followers have acknowledged to this replica as leader of a term.
    acked: Mutex<BTreeMap<ReplicaId, (u64, u64)>>,
}

/// When the leader was last heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contact {
    pub(super) term: u64,
    pub(super) replica: ReplicaId,
    pub(super) node: NodeId,
    pub(super) boot: Option<BootId>,
    pub(super) at: Instant,
}

impl Shared {
    /// A leader of this term speaks; one of an earlier term than another's is not heard.
    pub(super) fn heard(&self, contact: Contact) {
        let mut last = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.term <= contact.term) {
            *last = Some(contact);
        }
    }

    pub(super) fn contact(&self) -> Option<Contact> {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Takes a follower's answer in our `term`. False when it denies what it acknowledged before: its log went back,
    /// which no living replica's does.
    pub(super) fn plausible(&self, follower: ReplicaId, term: u64, answer: &StreamAppendResult<Types>) -> bool {
        let mut acked = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        let before = acked.get(&follower).filter(|(of, _)| *of == term).map(|(_, index)| *index);
        match answer {
            Ok(Some(matching)) => {
                acked.insert(follower, (term, before.unwrap_or(0).max(matching.index)));
                true
            }
            Err(StreamAppendError::Conflict(at)) => before.is_none_or(|before| at.index > before),
            Ok(None) | Err(StreamAppendError::HigherVote(_)) => true,
        }
    }
}

/// One replica of a group.
pub(crate) struct Replica {
    pub(crate) shared: Arc<Shared>,
    pub(super) raft: Raft,
    pub(crate) role: watch::Sender<Role>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    proposals: mpsc::UnboundedSender<Proposed>,
    /// Time of the last proposal; the driver waits for it when the group is idle.
    pub(super) stirred: watch::Sender<Instant>,
    /// A leader without a quorum says nothing until then, so that the leases of those who hear it run out.
    pub(super) silent_until: Mutex<Option<Instant>>,
    stop: watch::Sender<bool>,
    pub(super) env: Env,
}

impl Replica {
    #[allow(clippy::too_many_arguments, reason = "called once, by its node")]
    pub(super) async fn start(
        group: GroupId,
        replica: ReplicaId,
        log: log::Group,
        owner: Arc<dyn Owner>,
        options: Arc<HostOptions>,
        net: Arc<Net>,
        env: Env,
        messages: mpsc::UnboundedReceiver<Inbound>,
        way: Way,
    ) -> io::Result<Arc<Replica>> {
        runtime::seed(&env);
        let shared = Arc::new(Shared {
            group,
            replica,
            applied: watch::Sender::new(None),
            log,
            owner,
            options,
            net,
            tail: Tail::default(),
            way,
            contact: Mutex::default(),
            acked: Mutex::default(),
        });
        let applier = Applier::start(shared.clone()).await?;
        let end = shared.log.last().map_or(0, |last| last.index + 1);
        observe::opened(group, replica, end, applier.applied().map_or(0, |index| index + 1));
        shared.tail.load(&shared.log, applier.applied()).await?;
        let config = config(&shared.options).validate().map_err(io::Error::other)?;
        let raft = Raft::new(replica, Arc::new(config), Factory(shared.clone()), Store(shared.clone()), applier);
        let raft = raft.await.map_err(io::Error::other)?;

        let (commands, orders) = mpsc::unbounded_channel();
        let (proposals, proposed) = mpsc::unbounded_channel();
        let this = Arc::new(Replica {
            shared,
            raft,
            role: watch::Sender::default(),
            commands,
            proposals,
            stirred: watch::Sender::new(Instant::now()),
            silent_until: Mutex::default(),
            stop: watch::Sender::new(false),
            env,
        });
        this.publish();
        this.spawn(watch_raft(this.clone()));
        this.spawn(checkpoints(this.clone()));
        this.spawn(proposer::propose(this.clone(), proposed));
        this.spawn(serve::serve(this.clone(), messages));
        this.spawn(driver::drive(this.clone(), orders));
        Ok(this)
    }

    /// Runs a task of this replica on the current runtime until it is stopped.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stop.subscribe();
        self.env.spawn(async move {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {}
                () = task => {}
            }
        });
    }

    pub(crate) fn propose(&self, proposed: Proposed) {
        if let Err(mpsc::error::SendError(proposed)) = self.proposals.send(proposed) {
            self.refuse(&proposed);
        }
    }

    /// Whether it leads without a quorum, and leaves the group to others for a while.
    pub(super) fn is_silent(&self) -> bool {
        let until = self.silent_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The term in which it led without a quorum is over.
    pub(super) fn end_silence(&self) {
        *self.silent_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn refuse(&self, proposed: &Proposed) {
        let why = crate::group::Refusal::Fatal;
        self.shared.owner.event(Event::Refused { proposal: proposed.proposal, why });
    }

    /// Leaves Raft. Its leader's followers are told to elect.
    pub(crate) async fn stop(&self) {
        if self.role.borrow().leading {
            driver::ask_until_heard(self);
        }
        self.stop.send_replace(true);
        let _ = self.raft.shutdown().await;
    }

    /// Computes the role anew; tells the owner if it changed.
    fn publish(&self) {
        let role = self.observe();
        let changed = self.role.send_if_modified(|current| {
            let changed = *current != role;
            current.clone_from(&role);
            changed
        });
        if changed {
            self.shared.owner.event(Event::Role(role));
        }
    }

    fn observe(&self) -> Role {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let term = metrics.vote.leader_id.term;
        let leading = metrics.state == ServerState::Leader;
        let membership = metrics.membership_config.membership();
        let voters: Vec<ReplicaId> = membership.voter_ids().collect();
        let member = |(replica, node): (&ReplicaId, &NodeId)| {
            (*replica, Member { node: *node, voter: voters.contains(replica) })
        };
        Role {
            term,
            leader: self.leader(&metrics, leading),
            leading,
            ready: leading && self.shared.applied.borrow().is_some_and(|applied| applied.term == term),
            members: membership.nodes().map(member).collect(),
            members_at: metrics.membership_config.log_id().as_ref().map_or(0, |id| id.index),
        }
    }

    fn leader(&self, metrics: &RaftServerMetrics<Types>, leading: bool) -> Option<(ReplicaId, NodeId)> {
        let leader = metrics.current_leader?;
        if leader == self.shared.replica {
            // After a restart the saved vote may name this replica; it does not lead for that.
            return leading.then_some((leader, self.shared.net.node));
        }
        let known = metrics.membership_config.membership().get_node(&leader).copied();
        let heard = self.shared.contact().filter(|contact| contact.replica == leader).map(|contact| contact.node);
        Some((leader, known.or(heard)?))
    }
}

/// openraft's settings: its ticks are off, since the driver elects, and it builds no checkpoints by a policy of its own.
fn config(options: &HostOptions) -> Config {
    let timing = &options.timing;
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "highwater".into(),
        heartbeat_interval: ms(timing.heartbeat),
        heartbeat_min_interval: Some(ms(timing.heartbeat_min)),
        election_timeout_min: ms(timing.election_min),
        election_timeout_max: ms(timing.election_max),
        install_snapshot_timeout: 60_000,
        max_payload_entries: 1024,
        max_append_entries: Some(4096),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        api_channel_size: Some(1024),
        api_batch_capacity: 256,
        notification_channel_size: Some(1024),
        state_machine_channel_size: Some(64),
        log_stage_capacity: Some(16),
        enable_tick: false,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(sabotage::on(Bug::LeaderRestore)),
        // It would also hold back the read-index that wakes an idle group; the driver keeps a leader without a quorum
        // silent itself.
        quorum_loss_probe_interval: None,
        ..Config::default()
    }
}

/// Tells of role changes, and of Raft's end.
async fn watch_raft(replica: Arc<Replica>) {
    let mut metrics: alias::WatchReceiverOf<Types, RaftServerMetrics<Types>> = replica.raft.server_metrics();
    let mut applied = replica.shared.applied.subscribe();
    let mut term = None;
    loop {
        let changed = tokio::select! {
            biased;
            changed = metrics.changed() => changed.is_ok(),
            // The first entry of a term makes its leader ready.
            _ = applied.wait_for(|last| last.map(|last| last.term) != term) => true,
        };
        if !changed {
            break;
        }
        drop(metrics.borrow_and_update());
        term = applied.borrow_and_update().map(|last| last.term);
        replica.publish();
    }
    let why = match &replica.raft.metrics().borrow_watched().running_state {
        Ok(()) | Err(Fatal::Stopped) => "Raft has stopped".to_owned(),
        Err(fatal) => fatal.to_string(),
    };
    tracing::error!(group = %replica.shared.group, replica = %replica.shared.replica, %why, "replica failed");
    if replica.role.borrow().leading {
        driver::ask_until_heard(&replica);
    }
    replica.role.send_modify(|role| {
        let members = std::mem::take(&mut role.members);
        *role = Role { term: role.term, members, members_at: role.members_at, ..Role::default() }
    });
    replica.shared.owner.event(Event::Failed { why });
}

/// Answers the log's requests for checkpoints, between two applies.
async fn checkpoints(replica: Arc<Replica>) {
    let (ask, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<log::Checkpoint>>();
    replica.shared.log.set_checkpointer(Box::new(move |reply| drop(ask.send(reply))));
    while let Some(reply) = asked.recv().await {
        // A dropped reply says that there is none.
        let taken = replica.raft.external_state_machine_request(move |applier: &mut Applier| {
            Box::pin(async move {
                if let Some(checkpoint) = applier.checkpoint().await {
                    let _ = reply.send(checkpoint);
                }
            })
        });
        if taken.await.is_err() {
            return;
        }
    }
}
