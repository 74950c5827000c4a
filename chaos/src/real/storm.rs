//! Does a scenario's faults to a cluster, one after the other, until the time is up.

use super::{
    cluster::{Ended, Target},
    gaps::Gaps,
    load::Load,
    net::{self, CLIENTS, Rule, Rules},
    scenario::{Ability, Fault, Scenario, Who},
};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::Signal;
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};
use tokio::time::Instant;

/// How often the storm looks around while it waits.
const LOOK: Duration = Duration::from_millis(100);

/// What was done.
pub(super) struct Done {
    pub(super) gaps: Gaps,
    /// How often each kind of fault was done.
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// What went wrong beside the records.
    pub(super) failures: Vec<String>,
    /// When the last fault ended.
    pub(super) healed: Instant,
}

pub(super) struct Storm<'a> {
    scenario: &'a Scenario,
    target: &'a Target,
    load: &'a Rc<Load>,
    /// What the machine does not allow.
    without: BTreeSet<Ability>,
    pub(super) done: Done,
    round: u32,
    clock_s: BTreeMap<u32, i64>,
    bar: ProgressBar,
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

impl<'a> Storm<'a> {
    pub(super) fn new(
        scenario: &'a Scenario,
        target: &'a Target,
        load: &'a Rc<Load>,
        without: BTreeSet<Ability>,
    ) -> Self {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
        let bar = ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let begun = load.begun();
        let done = Done { gaps: Gaps::new(begun), faults: BTreeMap::new(), failures: Vec::new(), healed: begun };
        Self { scenario, target, load, without, done, round: 0, clock_s: BTreeMap::new(), bar }
    }

    /// Until `end`; the last fault leaves time to see what it does.
    pub(super) async fn run(&mut self, end: Instant) -> anyhow::Result<()> {
        let faults: Vec<&Fault> = {
            let possible = |fault: &&Fault| fault.needs().is_none_or(|needed| !self.without.contains(&needed));
            self.scenario.faults.iter().filter(possible).collect()
        };
        let mut next = faults.iter().cycle();
        loop {
            let until = Instant::now() + self.scenario.pause();
            let fault = next.next().filter(|fault| until + self.scenario.pause() / 2 + takes(fault) < end);
            let Some(fault) = fault else { break };
            self.wait(until - Instant::now()).await?;
            self.done.gaps.fault(Instant::now());
            self.apply(fault).await?;
            self.done.healed = Instant::now();
            self.round += 1;
        }
        self.wait(end.saturating_duration_since(Instant::now())).await?;
        self.bar.finish_and_clear();
        Ok(())
    }

    /// Lets time go by; shows what happens, and starts nodes that ended.
    async fn wait(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        loop {
            let faults: u64 = self.done.faults.values().sum();
            let (acked, rate) = (self.load.acks().len(), self.load.rate());
            self.bar.set_message(format!("{acked} acknowledged · {rate}/s · {faults} faults"));
            self.bar.tick();
            self.look()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    /// Starts nodes that ended.
    pub(super) fn look(&mut self) -> anyhow::Result<()> {
        let Target::Own(own) = self.target else { return Ok(()) };
        own.revive()?.into_iter().for_each(|ended| self.ended(&ended));
        Ok(())
    }

    fn ended(&mut self, Ended { node, status, is_explained }: &Ended) {
        self.note(*node, &format!("ended by itself ({status}) and is started again"));
        let text = format!("node {node} ended by itself ({status}), and no fault explains it");
        // It may go on like that.
        if !is_explained && !self.done.failures.contains(&text) {
            self.done.failures.push(text);
        }
    }

    async fn victims(&self, who: Who) -> anyhow::Result<(Vec<u32>, BTreeMap<u32, u32>)> {
        let led = self.load.leaders().await.unwrap_or_default();
        let nodes = self.target.nodes()?;
        let nth = nodes.get(self.round as usize % nodes.len().max(1)).copied();
        let chosen = match who {
            Who::All => nodes,
            Who::Any => nth.into_iter().collect(),
            Who::Leader => led.get(&(self.round % self.scenario.partitions)).copied().or(nth).into_iter().collect(),
        };
        Ok((chosen, led))
    }

    fn count(&mut self, kind: &'static str) {
        *self.done.faults.entry(kind).or_default() += 1;
    }

    fn note(&mut self, node: u32, text: &str) {
        self.load.note_fault(format!("node {node} {text}"));
    }

    /// The node stops serving now: the gaps of what it leads are measured.
    fn falls(&mut self, node: u32, led: &BTreeMap<u32, u32>) {
        let of_node = led.iter().filter(|(_, leader)| **leader == node).map(|(partition, _)| *partition);
        self.done.gaps.fell(Instant::now(), of_node.collect());
    }

    async fn apply(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match *fault {
            Fault::Kill { who, down_s } => {
                let (victims, led) = self.victims(who).await?;
                let mut killed = Vec::new();
                for node in &victims {
                    if self.target.signal(*node, Signal::KILL)? {
                        self.falls(*node, &led);
                        self.note(*node, "is killed");
                        killed.push(*node);
                    }
                }
                let ended = self.bury(&victims).await?;
                killed.retain(|node| !ended.contains(node));
                if let Some(kind) = kill_of(who, &victims, &killed, &led) {
                    self.count(kind);
                }
                self.again(&victims, down_s).await
            }
            Fault::Pause { who, for_s } => {
                let mut stopped = Vec::new();
                for node in self.victims(who).await?.0 {
                    if self.target.signal(node, Signal::STOP)? {
                        self.note(node, "stands still");
                        stopped.push(node);
                    }
                }
                if !stopped.is_empty() {
                    self.count("pause");
                }
                tokio::time::sleep(secs(for_s)).await;
                for node in &stopped {
                    self.target.signal(*node, Signal::CONT)?;
                    self.load.note_fault(format!("node {node} goes on"));
                }
                Ok(())
            }
            Fault::Alone { .. }
            | Fault::Mute { .. }
            | Fault::Middle { .. }
            | Fault::CutClients { .. }
            | Fault::Unplug { .. }
            | Fault::Rough { .. } => self.of_network(fault).await,
            Fault::Clock { who, by_s } => {
                let (own, (victims, _)) = (self.target.own()?, self.victims(who).await?);
                for node in victims {
                    let now = self.clock_s.entry(node).or_default();
                    *now += by_s;
                    own.set_clock(node, *now)?;
                    self.note(node, &format!("has a clock that jumps by {by_s:+} s"));
                }
                self.count("clock jump");
                Ok(())
            }
            Fault::PowerLoss { .. } | Fault::SyncError { .. } | Fault::DiskFull { .. } => self.of_disk(fault).await,
        }
    }

    async fn of_network(&mut self, fault: &Fault) -> anyhow::Result<()> {
        let own = self.target.own()?;
        let all = self.target.nodes()?;
        let mut unplugged = Vec::new();
        match *fault {
            Fault::Alone { who, .. } | Fault::Mute { who, .. } => {
                let both = matches!(fault, Fault::Alone { .. });
                let (victims, _) = self.victims(who).await?;
                let mut rules = net::cut(&victims, &all);
                if both {
                    rules.extend(net::cut(&all, &victims));
                }
                own.net.set(rules)?;
                let (kind, text) = if both { ("alone", "is cut off") } else { ("mute", "hears, and is not heard") };
                self.count(kind);
                victims.iter().for_each(|node| self.note(*node, text));
            }
            Fault::Middle { who, .. } => {
                let (victims, _) = self.victims(who).await?;
                let others: Vec<u32> = all.into_iter().filter(|node| !victims.contains(node)).collect();
                let (one, two) = others.split_at(others.len() / 2);
                own.net.set(net::cut(one, two).into_iter().chain(net::cut(two, one)).collect())?;
                self.count("middle");
                victims.iter().for_each(|node| self.note(*node, "alone hears both halves of the others"));
            }
            Fault::CutClients { who, .. } => {
                let (victims, _) = self.victims(who).await?;
                let (there, back) = (net::cut(&[CLIENTS], &victims), net::cut(&victims, &[CLIENTS]));
                own.net.set(there.into_iter().chain(back).collect())?;
                self.count("cut clients");
                victims.iter().for_each(|node| self.note(*node, "is cut off from clients"));
            }
            Fault::Unplug { who, .. } => {
                let (victims, led) = self.victims(who).await?;
                for node in victims {
                    own.net.plug(node, false)?;
                    unplugged.push(node);
                    self.falls(node, &led);
                    self.note(node, "is unplugged");
                }
                self.count("unplug");
            }
            Fault::Rough { delay_ms, jitter_ms, loss, twice, .. } => {
                let can_be_late = !self.without.contains(&Ability::Delay) || own.net.is_proxied();
                let ms = |ms: u64| Duration::from_millis(if can_be_late { ms } else { 0 });
                let rule = Rule { cut: false, delay: ms(delay_ms), jitter: ms(jitter_ms), loss, twice };
                own.net.set(net::cut(&all, &all).into_keys().map(|way| (way, rule)).collect())?;
                self.count("rough");
                let late = format!("{} ms + {}", rule.delay.as_millis(), rule.jitter.as_millis());
                self.load.note_fault(format!("the network is rough: {late}, {loss} % lost"));
            }
            _ => {}
        }
        self.wait(takes(fault)).await?;
        own.net.set(Rules::new())?;
        for node in unplugged {
            own.net.plug(node, true)?;
        }
        self.load.note_fault("the network is whole".into());
        Ok(())
    }

    async fn of_disk(&mut self, fault: &Fault) -> anyhow::Result<()> {
        let own = self.target.own()?;
        let disks = own.disks.as_ref().ok_or_else(|| anyhow::anyhow!("this cluster has no disks of its own"))?;
        match *fault {
            Fault::PowerLoss { who, down_s } => {
                let (victims, led) = self.victims(who).await?;
                let mut up = Vec::new();
                for node in &victims {
                    if own.is_up(*node)? {
                        up.push(*node);
                    }
                }
                // A sync that is under way as the file system ends may say that it has succeeded: nobody is to hear that.
                for node in &up {
                    own.freeze(*node).await?;
                }
                // The disks first: from here on nothing is written anywhere.
                victims.iter().try_for_each(|node| disks.cut(*node))?;
                for node in &victims {
                    let was_up = up.contains(node);
                    if was_up {
                        self.falls(*node, &led);
                    }
                    self.note(*node, "loses power");
                    // One that was up may end because of its disk before it is killed.
                    if let Some(ended) = own.kill(*node).await?.filter(|_| !was_up) {
                        self.ended(&ended);
                    }
                }
                if let Some(kind) = loss_of(who, &victims, &up) {
                    self.count(kind);
                }
                for node in &victims {
                    disks.restore(*node).await?;
                }
                self.again(&victims, down_s).await
            }
            Fault::SyncError { who } => {
                for node in self.victims(who).await?.0 {
                    disks.fail(node)?;
                    self.count("sync error");
                    self.note(node, "has a disk whose syncs fail");
                    if !own.ends(node).await? {
                        self.done.failures.push(format!("node {node} did not end when its disk failed"));
                        own.kill(node).await?;
                    }
                    disks.restore(node).await?;
                    own.spawn(node)?;
                    self.load.note_fault(format!("node {node} is started again"));
                }
                Ok(())
            }
            Fault::DiskFull { who, for_s } => {
                let (victims, _) = self.victims(who).await?;
                for node in &victims {
                    own.excuse(*node, secs(for_s));
                    disks.fill(*node)?;
                    self.note(*node, "has a full disk");
                }
                self.count("disk full");
                self.wait(secs(for_s)).await?;
                for node in &victims {
                    disks.empty(*node)?;
                    self.load.note_fault(format!("node {node} has room again"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Waits until nothing is left of nodes that were killed; gives those that had ended by themselves before.
    async fn bury(&mut self, nodes: &[u32]) -> anyhow::Result<Vec<u32>> {
        let Target::Own(own) = self.target else { return Ok(Vec::new()) };
        let mut before = Vec::new();
        for node in nodes {
            if let Some(ended) = own.kill(*node).await? {
                self.ended(&ended);
                before.push(*node);
            }
        }
        Ok(before)
    }

    /// Starts nodes again that are down; others' are started by whoever runs them.
    async fn again(&self, nodes: &[u32], down_s: f64) -> anyhow::Result<()> {
        let Target::Own(own) = self.target else { return self.target.returned(nodes).await };
        tokio::time::sleep(secs(down_s)).await;
        for node in nodes {
            own.spawn(*node)?;
            self.load.note_fault(format!("node {node} is started again"));
        }
        Ok(())
    }
}

/// What a kill counts as: all are killed when all were alive.
fn kill_of(who: Who, victims: &[u32], killed: &[u32], led: &BTreeMap<u32, u32>) -> Option<&'static str> {
    let leads = |node: &u32| led.values().any(|leader| leader == node);
    match killed {
        [] => None,
        _ if who == Who::All && killed.len() == victims.len() => Some("kill of all"),
        _ if killed.iter().any(leads) => Some("kill of a leader"),
        _ => Some("kill"),
    }
}

/// What a loss of power counts as: all lose it when all were up.
fn loss_of(who: Who, victims: &[u32], up: &[u32]) -> Option<&'static str> {
    match up {
        [] => None,
        _ if who == Who::All && up.len() == victims.len() => Some("power loss of all"),
        _ => Some("power loss"),
    }
}

/// How long a fault lasts.
fn takes(fault: &Fault) -> Duration {
    secs(match *fault {
        Fault::Kill { down_s, .. } | Fault::PowerLoss { down_s, .. } => down_s,
        Fault::Pause { for_s, .. }
        | Fault::Alone { for_s, .. }
        | Fault::Mute { for_s, .. }
        | Fault::Middle { for_s, .. }
        | Fault::CutClients { for_s, .. }
        | Fault::Unplug { for_s, .. }
        | Fault::Rough { for_s, .. }
        | Fault::DiskFull { for_s, .. } => for_s,
        Fault::SyncError { .. } | Fault::Clock { .. } => 1.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_all_counts_when_all_were_alive() {
        let (all, led) = ([1, 2, 3], BTreeMap::from([(0, 2), (1, 2)]));
        let kill = |who, killed: &[u32]| kill_of(who, &all, killed, &led);
        assert_eq!(
            [&[1, 2, 3][..], &[1, 2], &[1, 3], &[]].map(|killed| kill(Who::All, killed)),
            [Some("kill of all"), Some("kill of a leader"), Some("kill"), None]
        );
        assert_eq!(kill_of(Who::Leader, &[2], &[2], &led), Some("kill of a leader"));
        assert_eq!(kill_of(Who::Any, &[1], &[1], &led), Some("kill"));

        let loss = |up: &[u32]| loss_of(Who::All, &all, up);
        assert_eq!([loss(&all), loss(&[3]), loss(&[])], [Some("power loss of all"), Some("power loss"), None]);
        assert_eq!((loss_of(Who::Any, &[1], &[1]), loss_of(Who::Any, &[1], &[])), (Some("power loss"), None));
    }
}
