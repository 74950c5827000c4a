//! Who leads what, which replicas are not well, and who is about to end: each node tells all others when its part changes, and asks them the same.

use crate::{
    controller::{Ailment, Controller},
    runtime::{Courier, Env, Service},
    types::{NodeId, decode},
};
use bytes::Bytes;
use highwater_raft::GroupId;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Changes within this time are told at once.
const GATHER: Duration = Duration::from_millis(10);
/// All is told again after this time: what was lost on the way is healed.
const AGAIN: Duration = Duration::from_secs(5);
/// An answer that takes longer is not waited for.
const DEADLINE: Duration = Duration::from_secs(1);

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Led {
    /// Groups and epochs that the sender leads.
    #[serde(rename = "g", default)]
    pub(crate) groups: Vec<(u64, u64)>,
    /// Groups whose replica at the sender is not well, and how.
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ailing: Vec<(u64, u8)>,
    /// The sender is about to end: nobody hands it a lead.
    #[serde(rename = "e", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ending: bool,
}

fn led(controller: &Controller) -> Bytes {
    let groups =
        controller.leaders().led_by(controller.node()).into_iter().map(|(group, epoch)| (group.0, epoch)).collect();
    let ailing =
        controller.ailing().of(controller.node()).into_iter().map(|(group, how)| (group.0, how as u8)).collect();
    let ending = controller.ailing().is_ending(controller.node());
    rmp_serde::to_vec_named(&Led { groups, ailing, ending }).expect("plain values in memory always encode").into()
}

fn note(controller: &Controller, from: NodeId, told: &Bytes) {
    let Ok(Led { groups, ailing, ending }) = decode(told) else { return };
    let known = |(group, how): (u64, u8)| Some((GroupId(group), Ailment::from_u8(how)?));
    controller.ailing().note(from, ailing.into_iter().filter_map(known).collect());
    controller.ailing().note_ending(from, ending);
    for (group, epoch) in groups {
        controller.leaders().note(GroupId(group), Some(from), epoch);
    }
}

/// Serves [`Service::Leaders`]: takes what `from` leads, gives what this node leads.
pub fn exchange(controller: &Controller, from: NodeId, told: &Bytes) -> Bytes {
    note(controller, from, told);
    led(controller)
}

/// Tells all others, for as long as the node lives.
pub async fn run(controller: Controller, courier: Arc<dyn Courier>, env: Env) {
    let mut changed = controller.leaders().changed();
    let mut told = Bytes::new();
    let mut told_to = Vec::new();
    loop {
        let others = courier.others();
        let mine = led(&controller);
        if mine != told || others != told_to {
            for to in &others {
                let (controller, courier, mine, to) = (controller.clone(), courier.clone(), mine.clone(), *to);
                env.spawn(async move {
                    if let Ok(answer) = courier.ask(to, Service::Leaders, mine, DEADLINE).await {
                        note(&controller, to, &answer);
                    }
                });
            }
            (told, told_to) = (mine, others);
        }
        tokio::time::sleep(GATHER).await;
        tokio::select! {
            biased;
            gone = changed.changed() => if gone.is_err() { return },
            () = tokio::time::sleep(AGAIN) => told = Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_it_was() {
        let ailing = vec![(1_026, Ailment::Mending as u8)];
        let told = Led { groups: vec![(1_024, 7), (1_025, 3)], ailing, ending: false };
        highwater_raft::testing::golden("peers/gossip.hex", &rmp_serde::to_vec_named(&told).unwrap());
        let ailments = (0..=u8::MAX).filter_map(|n| Some((n, Ailment::from_u8(n)?)));
        let told = [(1, Ailment::Failed), (2, Ailment::Mending), (3, Ailment::Damaged)];
        assert_eq!(ailments.collect::<Vec<_>>(), told);
    }
}
