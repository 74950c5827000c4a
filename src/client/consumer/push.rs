//! One push subscription: a link on which one node delivers within the credit that it is granted.

use super::{Shared, cursors::Want, driver::fetch_partition, refusals::Said};
use crate::{
    client::{
        RequestError,
        cluster::Route,
        pool::{lock, unexpected},
    },
    types::{NodeId, TopicPartition},
    wire::{Delivery, Frame, Grant, Link, LinkClosed, Message, Subscribe, Unsubscribe},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::mpsc;

/// What a subscription's task tells the driver.
pub(super) enum Ended {
    /// The broker took a partition out of it.
    Partition { id: u64, partition: TopicPartition },
    /// The link is gone.
    All { id: u64, error: RequestError },
}

/// The driver's end of a subscription. Dropping it ends the task.
pub(super) struct Subscription {
    pub(super) node: NodeId,
    /// With the version of each.
    pub(super) partitions: BTreeMap<TopicPartition, u64>,
    // Unbounded: grants are bounded by the credit, the rest by the driver's plans.
    commands: mpsc::UnboundedSender<Message>,
}

impl Subscription {
    pub(super) fn leave(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.partitions.remove(partition);
        }
        let partitions = partitions.iter().map(|at| (at.topic, at.partition)).collect();
        let _ = self.commands.send(Unsubscribe { partitions }.into());
    }

    pub(super) fn grant(&self, records: u32, bytes: u32) {
        let _ = self.commands.send(Grant { records, bytes }.into());
    }
}

/// Starts one, without credit.
pub(super) fn subscribe(
    id: u64,
    node: NodeId,
    wants: Vec<(Want, Route)>,
    shared: Arc<Shared>,
    ended: mpsc::UnboundedSender<Ended>,
) -> Subscription {
    let (commands, inbox) = mpsc::unbounded_channel();
    let partitions = wants.iter().map(|(want, _)| (want.partition, want.version)).collect();
    let host = shared.inner.host.clone();
    host.spawn(Box::pin(async move {
        if let Err(error) = run(id, node, wants, &shared, inbox, &ended).await {
            let _ = ended.send(Ended::All { id, error });
        }
    }));
    Subscription { node, partitions, commands }
}

async fn run(
    id: u64,
    node: NodeId,
    wants: Vec<(Want, Route)>,
    shared: &Shared,
    mut inbox: mpsc::UnboundedReceiver<Message>,
    ended: &mpsc::UnboundedSender<Ended>,
) -> Result<(), RequestError> {
    let live = shared.inner.cluster.connection(node).await?;
    let Link { mut sender, mut receiver } = live.open().await?;
    let partitions = wants.iter().map(|(want, _)| fetch_partition(want)).collect();
    let subscribe = Subscribe { partitions, records: 0, bytes: 0 };
    let mut wants: BTreeMap<_, _> = wants.into_iter().map(|(want, route)| (want.partition, (want, route))).collect();
    let lost = |LinkClosed(why)| {
        live.break_off(&why);
        RequestError::Unreachable { node: format!("node {node}"), why }
    };
    wants.values().for_each(|(want, route)| shared.sends(want.partition, *route));
    sender.send(vec![Frame::new(0, subscribe)]).await.map_err(lost)?;
    loop {
        // Both arms may be dropped while they wait: nothing is lost.
        tokio::select! {
            biased;
            command = inbox.recv() => {
                let Some(command) = command else { return Ok(()) };
                sender.send(vec![Frame::new(0, command)]).await.map_err(lost)?;
            }
            frame = receiver.receive() => {
                let frame = frame.map_err(lost)?;
                let body = frame.body();
                match frame.message {
                    Message::Delivery(delivery) => {
                        take(id, node, &mut wants, shared, delivery, body, ended);
                    }
                    Message::Done(_) => {}
                    Message::Refused(refused) => return Err(RequestError::Refused { refused }),
                    other => return Err(unexpected(&format!("node {node}"), "Subscribe", &other)),
                }
            }
        }
    }
}

fn take(
    id: u64,
    node: NodeId,
    wants: &mut BTreeMap<TopicPartition, (Want, Route)>,
    shared: &Shared,
    delivery: Delivery,
    body: bytes::Bytes,
    ended: &mpsc::UnboundedSender<Ended>,
) {
    let said = delivery.partition;
    shared.credit_received(id, delivery.records, said.bytes);
    let partition = TopicPartition { topic: said.topic, partition: said.partition };
    let Some((want, route)) = wants.get_mut(&partition) else {
        return shared.credit_handled(id, delivery.records, said.bytes);
    };
    if let Some(refused) = &said.refused {
        let (want, route) = (*want, Route { node, epoch: route.epoch });
        wants.remove(&partition);
        shared.refused(want, route, Said::from(&said), refused);
        let _ = ended.send(Ended::Partition { id, partition });
        return;
    }
    shared.served(partition);
    let taken = lock(&shared.cursors).fetched(*want, &said, body, id, Some(delivery.records));
    want.offset += u64::from(delivery.records);
    shared.hand_back();
    match taken {
        Ok(()) => shared.waker.wake(),
        Err(error) => shared.report(error),
    }
}
