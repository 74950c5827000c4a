//! What is done to a cluster of real nodes, as a file.
//!
//! ```toml
//! about = "leaders die, then everybody"
//! pause_s = 5                       # between faults
//! [[fault]]
//! do = "kill"
//! who = "leader"
//! ```
//! The faults come one after the other, and again from the first, until the time is up.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, path::Path, time::Duration};

/// A cluster, a load, and faults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// What it shows.
    pub about: String,
    /// Nodes of the cluster.
    pub nodes: u16,
    /// Partitions of the load's topic.
    pub partitions: u32,
    /// Producers.
    pub producers: u32,
    /// Records per second and producer at most.
    pub rate: u32,
    /// How long, when the command line does not say.
    pub minutes: f64,
    /// Seconds between the end of one fault and the next one.
    pub pause_s: f64,
    /// What lies between the nodes.
    pub network: Network,
    /// The faults, in their order.
    #[serde(rename = "fault")]
    pub faults: Vec<Fault>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            about: String::new(),
            nodes: 3,
            partitions: 6,
            producers: 4,
            rate: 2_000,
            minutes: 1.0,
            pause_s: 5.0,
            network: Network::Proxies,
            faults: Vec::new(),
        }
    }
}

/// What lies between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A UDP proxy per port.
    Proxies,
    /// A network namespace per node; proxies where that is not allowed.
    Namespaces,
}

/// Whom a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The leader of a partition of the load, each time of another one
    Leader,
    /// One node after the other
    Any,
    /// All nodes at once
    All,
}

/// One fault on real nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// SIGKILL.
    Kill {
        /// Whom.
        who: Who,
        /// Seconds until it is started again.
        #[serde(default = "second")]
        down_s: f64,
    },
    /// SIGSTOP, then SIGCONT.
    Pause {
        /// Whom.
        who: Who,
        /// Seconds in between.
        for_s: f64,
    },
    /// No datagram goes from the node to the others, or from them to it.
    Alone {
        /// Whom.
        who: Who,
        /// For how many seconds.
        for_s: f64,
    },
    /// No datagram goes between clients and the node; the other nodes reach it.
    CutClients {
        /// From whom.
        who: Who,
        /// For how many seconds.
        for_s: f64,
    },
    /// No datagram goes from the node to the others; it still hears them.
    Mute {
        /// Whom.
        who: Who,
        /// For how many seconds.
        for_s: f64,
    },
    /// The others are halved, and only this node hears both halves.
    Middle {
        /// Which.
        who: Who,
        /// For how many seconds.
        for_s: f64,
    },
    /// The node's cable is pulled: nobody reaches it, no client either.
    Unplug {
        /// Whose.
        who: Who,
        /// For how many seconds.
        for_s: f64,
    },
    /// Datagrams between all nodes are late, uneven, lost and doubled.
    Rough {
        /// Milliseconds that each takes.
        #[serde(default)]
        delay_ms: u64,
        /// And up to so many more.
        #[serde(default)]
        jitter_ms: u64,
        /// Percent that are lost.
        #[serde(default)]
        loss: u32,
        /// Percent that come twice.
        #[serde(default)]
        twice: u32,
        /// For how many seconds.
        for_s: f64,
    },
    /// The node's file system loses everything that was not synced.
    PowerLoss {
        /// Whose.
        who: Who,
        /// Seconds until it is started again.
        #[serde(default = "second")]
        down_s: f64,
    },
    /// The node's device fails: writes succeed in memory, `fdatasync` fails with `EIO` (and reads of what is not in memory). The
    /// node ends by itself, and is started again without what could not be written.
    SyncError {
        /// Whose.
        who: Who,
    },
    /// The node's file system is full.
    DiskFull {
        /// Whose.
        who: Who,
        /// For how many seconds.
        for_s: f64,
    },
    /// The node's wall clock jumps.
    Clock {
        /// Whose.
        who: Who,
        /// By how many seconds.
        by_s: i64,
    },
}

fn second() -> f64 {
    1.0
}

/// What a machine may or may not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Ability {
    /// A file system per node that can lose what was not synced (root, loop devices, ext4)
    PowerLoss,
    /// Syncs that fail while writes succeed (the same)
    FsyncError,
    /// A file system per node that can be full (the same)
    DiskFull,
    /// A wall clock per node (libfaketime)
    Clock,
    /// A network namespace per node (root, iproute2, nftables)
    Netns,
    /// Packets between namespaces that are late (a kernel with netem)
    Delay,
}

impl Ability {
    /// It takes a file system per node.
    pub fn is_of_disks(self) -> bool {
        matches!(self, Self::PowerLoss | Self::FsyncError | Self::DiskFull)
    }

    /// Faults of a report that are not done without it.
    pub fn faults(self) -> &'static [&'static str] {
        match self {
            Self::PowerLoss => &["power loss", "power loss of all"],
            Self::FsyncError => &["sync error"],
            Self::DiskFull => &["disk full"],
            Self::Clock => &["clock jump"],
            // Where namespaces are required there are no proxies.
            Self::Netns => &["alone", "mute", "middle", "unplug", "rough"],
            Self::Delay => &["rough"],
        }
    }
}

impl Fault {
    /// What the machine must allow.
    pub fn needs(&self) -> Option<Ability> {
        match self {
            Self::PowerLoss { .. } => Some(Ability::PowerLoss),
            Self::SyncError { .. } => Some(Ability::FsyncError),
            Self::DiskFull { .. } => Some(Ability::DiskFull),
            Self::Clock { .. } => Some(Ability::Clock),
            Self::Unplug { .. } => Some(Ability::Netns),
            _ => None,
        }
    }

    /// Only processes are needed, not what lies between them.
    pub fn is_for_any_cluster(&self) -> bool {
        matches!(self, Self::Kill { .. } | Self::Pause { .. })
    }
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or says what no scenario can.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no scenario", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        anyhow::ensure!(!scenario.faults.is_empty(), "it has no [[fault]]");
        let most = highwater::limits::SEEDS_MAX;
        anyhow::ensure!(
            (1..=most).contains(&usize::from(scenario.nodes)),
            "nodes = {}: a cluster is made of 1 to {most}",
            scenario.nodes
        );
        let pulled = scenario.faults.iter().any(|fault| matches!(fault, Fault::Unplug { .. }));
        anyhow::ensure!(
            !pulled || scenario.network == Network::Namespaces,
            "cables can be pulled with network = \"namespaces\" alone"
        );
        anyhow::ensure!(
            !scenario.cuts_clients() || scenario.network == Network::Proxies,
            "clients can be cut off with network = \"proxies\" alone"
        );
        anyhow::ensure!(scenario.pause_s > 0.0, "pause_s = {}: faults need time in between", scenario.pause_s);
        Ok(scenario)
    }

    /// What it needs beyond processes and datagrams.
    pub fn needs(&self) -> BTreeSet<Ability> {
        let mut needs: BTreeSet<_> = self.faults.iter().filter_map(Fault::needs).collect();
        if self.network == Network::Namespaces {
            needs.insert(Ability::Netns);
            let is_late =
                |fault: &Fault| matches!(fault, Fault::Rough { delay_ms, jitter_ms, .. } if delay_ms + jitter_ms > 0);
            needs.extend(self.faults.iter().any(is_late).then_some(Ability::Delay));
        }
        needs
    }

    /// Something must lie between clients and nodes.
    pub(super) fn cuts_clients(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault, Fault::CutClients { .. }))
    }

    /// Between faults.
    pub fn pause(&self) -> Duration {
        Duration::from_secs_f64(self.pause_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kept_scenario_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let all: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(!all.is_empty());
        for path in all {
            let scenario = Scenario::read(&path).unwrap();
            assert!(!scenario.about.is_empty(), "{} does not say what it shows", path.display());
            let again = Scenario::parse(&toml::to_string(&scenario).unwrap()).unwrap();
            assert_eq!(again, scenario);
        }
    }

    #[test]
    fn nonsense_is_said() {
        for (text, said) in [
            ("", "no [[fault]]"),
            ("[[fault]]\ndo = \"kil\"\nwho = \"any\"", "unknown variant `kil`"),
            ("[[fault]]\ndo = \"kill\"\nwho = \"nobody\"", "unknown variant `nobody`"),
            ("nodez = 3", "unknown field `nodez`"),
            ("[[fault]]\ndo = \"unplug\"\nwho = \"any\"\nfor_s = 1", "cables can be pulled"),
            (
                "network = \"namespaces\"\n[[fault]]\ndo = \"cut_clients\"\nwho = \"any\"\nfor_s = 1",
                "clients can be cut off with network = \"proxies\" alone",
            ),
            ("nodes = 30\n[[fault]]\ndo = \"kill\"\nwho = \"any\"", "made of 1 to 7"),
        ] {
            let error = Scenario::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }
}
