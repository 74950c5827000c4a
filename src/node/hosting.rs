//! The replicas of this node: opened, made and removed as the metadata says.
//!
//! **Invariant:** a snapshot older than one that this node has acted on is not acted on: the newest version that was is
//! durable before its first step. (After a restart the snapshot is at first as old as the last checkpoint.) Nor is one that
//! knows this node by another directory: the replicas that it names were made in that one, and are lost.
//! **Invariant:** the controller's own replica is made by who removed its predecessor, and opened whatever the snapshot says.

use super::{error::NodeError, troubles::Troubles};
use crate::{
    controller::{
        self, Controller,
        machine::{Command, Purpose, ReplicaFaulty},
        reconcile::{self, InitialMembership, Step},
    },
    group::Groups,
    partition::{Around, Handle, Partitions},
    replica::{Identity, Keeper},
    runtime::{Arbiters, Env},
    types::NodeId,
};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use highwater_raft::{
    GroupId, ReplicaId,
    group::{Group, Host},
    log::{self, Directory, Health},
    transport::detector::Life,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

const SEEN: &str = "metadata-seen";
const EXECUTE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(500);
/// Replicas that are opened or made side by side: what each writes shares its flushes with the others.
const OPENED_AT_ONCE: usize = 32;
/// Replicas that are removed side by side before the metadata is looked at again: new ones do not wait for old ones.
const REMOVED_AT_ONCE: usize = 32;

/// A replica that runs here.
#[derive(Clone)]
pub(super) struct Hosted {
    pub(super) replica: ReplicaId,
    pub(super) raft: Group,
    pub(super) handle: Option<Handle>,
    purpose: Purpose,
    keeper: Keeper,
}

/// A replica that cannot go on.
pub(super) struct Fallen {
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
    pub(super) why: String,
}

/// All of them, and what it takes to start one. Clones share.
#[derive(Clone)]
pub(super) struct Hosting(Arc<Shared>);

struct Shared {
    env: Env,
    arbiters: Arbiters,
    host: Host,
    directory: Directory,
    controller: Controller,
    groups: Groups,
    partitions: Partitions,
    around: Around,
    hosted: Mutex<BTreeMap<GroupId, Hosted>>,
    /// Replicas that are being opened, and what fell before it was hosted. Locked before `hosted`.
    opening: Mutex<BTreeMap<GroupId, Option<Fallen>>>,
    failures: mpsc::UnboundedSender<Fallen>,
    troubles: Mutex<Troubles>,
    /// There is something to open that no change of the metadata tells of.
    again: Notify,
    /// Held by who makes replicas or removes them: what is on disk stays as it was compared.
    changing: tokio::sync::Mutex<()>,
}

impl Shared {
    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hosting {
    /// Nothing is hosted yet. Failures of single replicas come out of the receiver: at most one per replica.
    pub(super) fn new(
        (env, arbiters): (Env, Arbiters),
        (host, directory): (Host, Directory),
        controller: Controller,
        groups: Groups,
        (partitions, around): (Partitions, Around),
    ) -> (Self, mpsc::UnboundedReceiver<Fallen>) {
        let (failures, failed) = mpsc::unbounded_channel();
        let shared = Shared {
            env,
            arbiters,
            host,
            directory,
            controller,
            groups,
            partitions,
            around,
            hosted: Mutex::default(),
            opening: Mutex::default(),
            failures,
            troubles: Mutex::default(),
            again: Notify::new(),
            changing: tokio::sync::Mutex::default(),
        };
        (Self(Arc::new(shared)), failed)
    }

    /// What is known of the other nodes: a changed life is another one, also when nobody missed the former.
    pub(super) fn lives(&self) -> BTreeMap<NodeId, Life> {
        let lives = self.0.host.liveness().borrow().clone();
        lives.into_iter().map(|(node, life)| (node.into(), life)).collect()
    }

    /// Handles of the partitions' replicas.
    pub(super) fn partitions(&self) -> &Partitions {
        &self.0.partitions
    }

    /// What runs here now.
    pub(super) fn all(&self) -> BTreeMap<GroupId, Hosted> {
        self.0.hosted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.0.troubles()
    }

    fn opening(&self) -> MutexGuard<'_, BTreeMap<GroupId, Option<Fallen>>> {
        self.0.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups whose replica here failed more than once, and stays out for now.
    pub(super) fn failed(&self) -> BTreeSet<GroupId> {
        self.troubles().out(Instant::now())
    }

    /// The groups whose replica here is damaged and not replaced yet.
    pub(super) fn damaged(&self) -> BTreeSet<GroupId> {
        self.troubles().damaged.keys().copied().collect()
    }

    /// The logs of what runs here, and of what waits for a segment.
    pub(super) fn logs(&self) -> BTreeMap<GroupId, log::Group> {
        let waiting = self.troubles().waiting.clone();
        let closed = waiting.into_iter().filter_map(|group| Some((group, self.0.directory.group(group)?)));
        let open = self.all().into_iter().map(|(group, hosted)| (group, hosted.raft.log()));
        closed.chain(open).collect()
    }

    /// Whether a replica cannot be opened before its segment is mended.
    pub(super) fn waits(&self, group: GroupId) -> bool {
        self.troubles().waiting.contains(&group)
    }

    /// A log that was waited for is whole again, or given up.
    pub(super) fn try_again(&self) {
        self.0.again.notify_one();
    }

    fn lacks_segments(&self, group: GroupId) -> bool {
        self.0.directory.group(group).is_some_and(|log| !log.damaged().is_empty())
    }

    /// Says that a replica cannot go on; what follows is [`Hosting::fail`].
    pub(super) fn has_failed(&self, fallen: Fallen) {
        let _ = self.0.failures.send(fallen);
    }

    /// Why the replica of a group that is or was open here cannot be trusted.
    pub(super) fn fault(&self, group: GroupId) -> Option<String> {
        self.0.directory.group(group).and_then(|log| log.fault())
    }

    /// Opens a replica, or makes it.
    pub(super) async fn open(&self, group: GroupId, replica: ReplicaId, purpose: Purpose) -> Result<Group, NodeError> {
        let shared = self.0.clone();
        let open = move || async move {
            let failures = shared.failures.clone();
            let on_failed = Rc::new(move |why| drop(failures.send(Fallen { group, replica, why })));
            let identity = Identity { group, replica, leaders: shared.controller.leaders().clone(), on_failed };
            let (keeper, handle) = match purpose {
                Purpose::Controller => (shared.controller.host(&shared.env, identity), None),
                Purpose::Home => (shared.groups.host(&shared.env, identity), None),
                Purpose::Partition(partition) => {
                    let served = shared.troubles().served(group, replica);
                    let (handle, keeper) = Handle::host(&shared.around, partition, replica, identity, served);
                    (keeper, Some(handle))
                }
            };
            match shared.host.open(group, replica, keeper.owner()).await {
                Ok(raft) => {
                    if let Some(handle) = &handle {
                        handle.opened(raft.clone());
                        shared.partitions.insert(handle.clone());
                    }
                    keeper.opened(Arc::new(raft.clone()));
                    Ok(Hosted { replica, raft, handle, purpose, keeper })
                }
                Err(error) => {
                    keeper.close();
                    Err(error)
                }
            }
        };
        let arbiter = self.0.arbiters.of(group.0);
        self.opening().insert(group, None);
        let opened = self.0.arbiters.run(&self.0.env, arbiter, open).await;
        let mut opening = self.opening();
        let fallen = opening.remove(&group).flatten();
        let opened = opened.map_err(|e| NodeError::Threads(e.to_string()))?;
        let hosted = opened.map_err(NodeError::Replica)?;
        let raft = hosted.raft.clone();
        self.0.hosted.lock().unwrap_or_else(PoisonError::into_inner).insert(group, hosted);
        fallen.into_iter().for_each(|fallen| self.has_failed(fallen));
        Ok(raft)
    }

    /// Stops the replica's actor and its Raft; the data stay.
    pub(super) async fn close(&self, group: GroupId) {
        let hosted = self.0.hosted.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
        let Some(hosted) = hosted else { return };
        match (hosted.purpose, &hosted.handle) {
            (Purpose::Partition(partition), _) => self.0.partitions.remove(partition),
            (Purpose::Home, _) => self.0.groups.remove(group),
            (Purpose::Controller, _) => {}
        }
        hosted.keeper.close();
        hosted.raft.close().await;
    }

    /// A replica has failed: it leaves Raft, so that others elect; the node goes on. A damaged one is replaced, one that
    /// needs a damaged segment waits for it, another one is opened again, behind a pause when it failed before.
    pub(super) async fn fail(&self, Fallen { group, replica, why }: Fallen) {
        let hosted = {
            let mut opening = self.opening();
            if let Some(fallen) = opening.get_mut(&group) {
                fallen.get_or_insert(Fallen { group, replica, why });
                return;
            }
            // What was said of one that is gone concerns no other.
            let Some(hosted) = self.all().remove(&group).filter(|hosted| hosted.replica == replica) else { return };
            hosted
        };
        {
            let mut troubles = self.troubles();
            if let Some(why) = self.fault(group) {
                troubles.damaged.insert(group, (replica, why));
            } else {
                if let Some(handle) = hosted.handle {
                    troubles.keep(group, replica, handle);
                }
                if self.lacks_segments(group) {
                    troubles.waiting.insert(group);
                    tracing::warn!(group = group.0, why, "a replica needs a damaged segment: it waits for a peer's");
                } else {
                    let pause = troubles.fell(group, Instant::now());
                    tracing::error!(
                        group = group.0,
                        why,
                        ?pause,
                        "a replica has failed: it is opened again after a pause"
                    );
                }
            }
        }
        self.close(group).await;
        self.0.again.notify_one();
    }

    /// The controller's replica is opened again whatever the metadata say: they come from it.
    async fn reopen_controller(&self) -> Result<(), NodeError> {
        let group = controller::GROUP;
        let stays_out = self.failed().contains(&group) || self.waits(group) && self.lacks_segments(group);
        if stays_out || self.all().contains_key(&group) {
            return Ok(());
        }
        let Some(log) = self.0.directory.group(group).filter(|log| log.fault().is_none()) else { return Ok(()) };
        let replica = log.replica();
        let Err(error) = self.open(group, replica, Purpose::Controller).await else { return Ok(()) };
        match self.fault(group) {
            Some(why) => self.has_failed(Fallen { group, replica, why }),
            None if self.lacks_segments(group) => drop(self.troubles().waiting.insert(group)),
            None => return Err(error),
        }
        Ok(())
    }

    /// Another replica takes the place of an older one that is here, whose data go.
    pub(super) async fn replace(&self, group: GroupId, by: ReplicaId, purpose: Purpose) -> Result<Group, NodeError> {
        let _one = self.0.changing.lock().await;
        if let Some(hosted) = self.all().remove(&group).filter(|hosted| hosted.replica >= by) {
            return Ok(hosted.raft);
        }
        self.close(group).await;
        if self.0.directory.group(group).is_none_or(|log| log.replica() != by) {
            self.0.host.remove(group).await.map_err(NodeError::Storage)?;
        }
        self.open(group, by, purpose).await
    }

    /// Follows the metadata for as long as the node lives.
    pub(super) async fn follow(self) -> Result<(), NodeError> {
        let mut changed = self.0.controller.changed();
        loop {
            changed.mark_unchanged();
            let again = match self.step().await {
                // The damage is told until it is heard.
                Ok(()) if !self.troubles().damaged.is_empty() => EXECUTE,
                Ok(()) => self.troubles().next(Instant::now()).unwrap_or(Duration::MAX),
                Err(NodeError::Storage(error)) => return Err(NodeError::Storage(error)),
                Err(error) => {
                    tracing::warn!(%error, "cannot host what the metadata says yet");
                    AGAIN
                }
            };
            tokio::select! {
                biased;
                gone = changed.changed() => if gone.is_err() { return Ok(()) },
                () = self.0.again.notified() => {}
                () = tokio::time::sleep(again.min(Duration::from_secs(3_600))) => {}
            }
        }
    }

    async fn step(&self) -> Result<(), NodeError> {
        let _one = self.0.changing.lock().await;
        self.reopen_controller().await?;
        let metadata = self.0.controller.metadata();
        let seen = self.0.directory.noted(SEEN).and_then(|bytes| Some(u64::from_be_bytes(bytes[..].try_into().ok()?)));
        let knows = |node: &controller::machine::Node| node.directory == Some(self.0.directory.id());
        if seen.is_some_and(|seen| metadata.version < seen)
            || !metadata.nodes.get(&self.0.controller.node()).is_some_and(knows)
        {
            return Ok(());
        }
        let mut here: BTreeMap<_, _> = self.all().into_iter().map(|(group, hosted)| (group, hosted.replica)).collect();
        let on_disk: Vec<_> = self.0.directory.groups();
        // What lies on disk of a group that is not open is compared too, so that it is removed when nobody wants it.
        for (group, replica, _) in &on_disk {
            here.entry(*group).or_insert(*replica);
        }
        let open = self.all();
        let to_open =
            here.iter().filter(|(group, _)| !open.contains_key(group)).map(|(group, replica)| (*group, *replica));
        let closed: BTreeMap<_, _> = to_open.collect();
        let steps = reconcile::plan(&metadata, self.0.controller.node(), &here);
        let reopen =
            reconcile::plan(&metadata, self.0.controller.node(), &open.iter().map(|(g, h)| (*g, h.replica)).collect());
        if steps.is_empty() && reopen.is_empty() {
            self.troubles().waiting.clear();
            return Ok(());
        }
        if seen != Some(metadata.version) {
            let version = Bytes::copy_from_slice(&metadata.version.to_be_bytes());
            self.0.directory.note(SEEN, version).await.map_err(NodeError::Storage)?;
        }
        // Nobody waits for what goes; only a replica that another one replaces must be gone before.
        let hosts = |group| reopen.iter().any(|step| matches!(step, Step::Host { group: it, .. } if *it == group));
        let gone = steps.iter().filter_map(|step| match step {
            Step::Remove { group } => Some(*group),
            Step::Host { .. } => None,
        });
        let (replaced, deleted): (Vec<_>, Vec<_>) = gone.partition(|group| hosts(*group));
        self.remove(&replaced).await?;
        let known = std::mem::take(&mut self.troubles().damaged);
        let (out, mut waiting) = (self.failed(), BTreeSet::new());
        let mut begins = Vec::new();
        for step in reopen {
            let Step::Host { group, replica, purpose, initial } = step else { continue };
            // The metadata may be those of a replica that is gone: it would come back empty under the id that it has voted with.
            if group == controller::GROUP && !replaced.contains(&group) {
                waiting.extend(self.waits(group).then_some(group));
                continue;
            }
            if let Some((_, why)) = known.get(&group).filter(|(lost, _)| *lost == replica) {
                self.lose(group, replica, why);
                continue;
            }
            let health = on_disk.iter().find(|(id, on, _)| *id == group && *on == replica).map(|(.., health)| health);
            if let Some(Health::Faulty(why)) = health
                && closed.contains_key(&group)
            {
                self.lose(group, replica, why);
                continue;
            }
            if out.contains(&group) {
                continue;
            }
            if self.waits(group) && self.fault(group).is_none() && self.lacks_segments(group) {
                waiting.insert(group);
                continue;
            }
            begins.push(async move {
                let Err(error) = self.begin(group, replica, purpose, initial).await else { return Ok(None) };
                match self.fault(group) {
                    Some(why) => self.lose(group, replica, &why),
                    None if self.lacks_segments(group) => {
                        tracing::warn!(group = group.0, %error, "a replica waits for a segment from a peer");
                        return Ok(Some(group));
                    }
                    None => return Err(error),
                }
                Ok(None)
            });
        }
        // One replica that cannot be opened keeps no other from it.
        let begun: Vec<_> = stream::iter(begins).buffered(OPENED_AT_ONCE).collect().await;
        let mut result = Ok(());
        for begun in begun {
            match begun {
                Ok(waits) => waiting.extend(waits),
                Err(error) => result = Err(error),
            }
        }
        self.troubles().waiting = waiting;
        self.remove(&deleted[..deleted.len().min(REMOVED_AT_ONCE)]).await?;
        if deleted.len() > REMOVED_AT_ONCE {
            self.0.again.notify_one();
        }
        result
    }

    async fn begin(
        &self,
        group: GroupId,
        replica: ReplicaId,
        purpose: Purpose,
        initial: Option<InitialMembership>,
    ) -> Result<(), NodeError> {
        let initial = initial.filter(|_| group != controller::GROUP);
        let founded = match &initial {
            Some(initial) => self.found(group, replica, &initial.voters).await?,
            None => false,
        };
        let raft = self.open(group, replica, purpose).await?;
        if founded && initial.is_some_and(|initial| initial.is_first) {
            raft.stand_first();
        }
        Ok(())
    }

    /// Writes the group's first membership into the log of a replica that is not open yet, if that is empty.
    pub(super) async fn found(
        &self,
        group: GroupId,
        replica: ReplicaId,
        voters: &BTreeMap<ReplicaId, NodeId>,
    ) -> Result<bool, NodeError> {
        let voters = voters.iter().map(|(replica, node)| (*replica, (*node).into())).collect();
        self.0.host.found(group, replica, &voters).await.map_err(NodeError::Replica)
    }

    async fn remove(&self, groups: &[GroupId]) -> Result<(), NodeError> {
        let one = |group: &GroupId| {
            let group = *group;
            async move {
                tracing::info!(group = group.0, "removing a replica");
                self.close(group).await;
                self.0.controller.leaders().forget(group);
                self.0.host.remove(group).await.map_err(NodeError::Storage)?;
                self.troubles().forget(group);
                Ok(())
            }
        };
        futures_util::future::try_join_all(groups.iter().map(one)).await.map(drop)
    }

    /// A replica is damaged and not open: tells the controller, which plans another one.
    fn lose(&self, group: GroupId, replica: ReplicaId, why: &str) {
        self.troubles().lost(group, replica, why.to_owned());
        tracing::error!(
            group = group.0,
            replica = replica.0,
            why,
            "a replica is damaged: asking for another one in its place"
        );
        let controller = self.0.controller.clone();
        self.0.env.spawn(async move {
            let faulty = Command::ReplicaFaulty(ReplicaFaulty { group, replica });
            if let Err(error) = controller.execute(faulty, EXECUTE).await {
                tracing::warn!(%error, group = group.0, "the damage could not be reported");
            }
        });
    }
}
