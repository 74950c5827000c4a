//! Builds a node: what is not given is the real thing.

use super::{
    Failure, Inner, Node, NodeError, facts::NodeFacts, hosting::Hosting, life::Life, mender, seeds::Seeds, solo::Solo,
};
use crate::{
    config::{Config, ListenerKind},
    controller::{Controller, machine::Addresses},
    gateway::{Gateway, ListenError, admin::Admin},
    group::Groups,
    limits,
    metrics::Metrics,
    partition::{Around, Partitions, TailBudget},
    peer::{self, Peers},
    quota::Pools,
    replica::Leaders,
    runtime::{Arbiters, Courier, Env, Phase, Phases},
    session::Ground,
    tls,
};
use highwater_raft::{
    BootId,
    disk::{Disk, RealDisk},
    group::{self, Host, HostOptions, Timing},
    log::{Directory, Options},
    transport::{
        Network,
        quic::{self, QuicNetwork},
        tls::{CLUSTER_NAME_BYTES_MAX, Identity},
    },
};
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

const _: () = assert!(
    limits::CERTIFIED_NAME_BYTES_MAX == CLUSTER_NAME_BYTES_MAX,
    "what config and certificates take, peers take"
);

/// What a node is made of.
#[must_use]
pub struct Builder {
    config: Config,
    env: Option<Env>,
    disk: Option<Arc<dyn Disk>>,
    network: Option<Arc<dyn Network>>,
    native_address: Option<String>,
    certificates: Option<tls::Pem>,
    boot: Option<BootId>,
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Self { config, env: None, disk: None, network: None, native_address: None, certificates: None, boot: None }
    }

    /// Time, randomness and tasks; simulated ones put the whole node on the current thread's `LocalSet`.
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Another disk than the config's directory.
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = Some(disk);
        self
    }

    /// Another network to its peers than QUIC.
    pub fn network(mut self, network: Arc<dyn Network>) -> Self {
        self.network = Some(network);
        self
    }

    /// What clients are told to dial, for clients that dial by something else than the first native listener.
    pub fn native_address(mut self, address: impl Into<String>) -> Self {
        self.native_address = Some(address.into());
        self
    }

    /// Certificates and key instead of the files that the config names.
    pub fn certificates(mut self, pem: tls::Pem) -> Self {
        self.certificates = Some(pem);
        self
    }

    /// This life's id, for a network that was told it before. Default: random.
    pub fn boot(mut self, boot: BootId) -> Self {
        self.boot = Some(boot);
        self
    }

    /// Builds and starts it. The node then finds its cluster by itself: see [`Node::serving`] and [`Node::run`].
    pub async fn start(self) -> Result<Node, NodeError> {
        let env = self.env.clone().unwrap_or_else(Env::real);
        let threads = |error: std::io::Error| NodeError::Threads(error.to_string());
        let arbiters = if env.is_simulated() {
            Arbiters::here()
        } else {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let count =
                if self.config.node.arbiters == 0 { cores.saturating_sub(1) } else { self.config.node.arbiters };
            Arbiters::own(&format!("highwater-{}", self.config.node.id), count).map_err(threads)?
        };
        let (on_it, all) = (env.clone(), arbiters.clone());
        let built = arbiters.run(&env, 0, move || self.build(on_it, all)).await;
        let node = built.unwrap_or_else(|error| Err(NodeError::Threads(error.to_string())));
        if node.is_err() {
            arbiters.stop();
        }
        node
    }

    async fn build(self, env: Env, arbiters: Arbiters) -> Result<Node, NodeError> {
        let Self { config, disk, network, native_address, certificates, boot, .. } = self;
        let certificates = Certificates { config: config.tls.clone(), given: certificates };
        let node = config.node.id;
        let boot = boot.unwrap_or_else(|| BootId(env.random_u64()));
        let disk = match disk {
            Some(disk) => disk,
            None => {
                Arc::new(RealDisk::new(&config.node.data_dir).map_err(|error| NodeError::Directory(error.to_string()))?)
            }
        };
        let directory = Directory::open(disk, log_options(&config), env.clone()).await.map_err(NodeError::Log)?;
        let (network, quic) = match network {
            Some(network) => (network, None),
            None if config.listeners.0.is_empty() && config.cluster.is_only(node) => {
                (Arc::new(Solo) as Arc<dyn Network>, None)
            }
            None => {
                let quic = dial(&config, &certificates, boot, &env).await?;
                (quic.clone() as Arc<dyn Network>, Some(quic))
            }
        };
        let ages: group::Arbiters = Arc::new({
            let arbiters = arbiters.clone();
            move || arbiters.ages()
        });
        let timing = timing(&config);
        let arbiter_age_max = timing.arbiter_age_max();
        let options = HostOptions { timing, arbiters: Some(ages.clone()), ..HostOptions::new(node.into(), boot) };
        let host = Host::start(options, directory.clone(), network, env.clone())
            .map_err(|error| NodeError::Threads(error.to_string()))?;
        let courier: Arc<dyn Courier> = Arc::new(Peers::new(host.clone()));
        let controller = Controller::new(node, Leaders::default(), courier.clone());
        let metrics = Metrics::new(node);
        let flushes = metrics.clone();
        directory.observe_flushes(move |took| flushes.wal_flush_seconds.observe(took.as_secs_f64()));
        let groups = Groups::new(Arc::new(controller.clone()), metrics.clone());
        let partitions = Partitions::default();
        let tails = TailBudget::new(config.log.tail_bytes);
        let around =
            Around { env: env.clone(), directory: directory.clone(), metrics: metrics.clone(), tails: tails.clone() };
        let (hosting, failures) = Hosting::new(
            (env.clone(), arbiters.clone()),
            (host.clone(), directory.clone()),
            controller.clone(),
            groups.clone(),
            (partitions.clone(), around),
        );
        let seeds = Seeds::new(&config, directory.clone(), courier.clone(), env.clone());
        let answer = seeds.clone();
        host.serve(Arc::new(peer::Desk::new(
            controller.clone(),
            Arc::new(move |asked| answer.answer(asked)),
            mender::serve(hosting.clone()),
        )));
        let phases = Phases::default();
        let pools = Pools::new(&config.pools);
        let ground = Ground::new(
            env.clone(),
            &config,
            metrics.clone(),
            (partitions.clone(), controller.clone(), groups.clone()),
            courier.clone(),
            pools.response.clone(),
        );
        let gateway = Gateway::new(env.clone(), arbiters.clone(), phases.clone(), pools, ground);
        let facts = Arc::new(NodeFacts {
            controller: controller.clone(),
            directory: directory.clone(),
            host: host.clone(),
            hosting: hosting.clone(),
            ages,
            arbiter_age_max,
            gateway: gateway.clone(),
            tails,
            cache_bytes: config.log.cache_bytes,
            phases: phases.clone(),
            metrics,
        });
        let listeners = open_listeners(&config, &certificates, &gateway, &facts, &phases, &env).await?;
        let addresses = addresses(&config, &listeners, native_address);
        let failure = Failure::default();
        let inner = Inner {
            config: config.clone(),
            arbiters,
            phases: phases.clone(),
            directory: directory.clone(),
            host: host.clone(),
            quic: quic.clone(),
            controller: controller.clone(),
            groups,
            partitions,
            hosting: hosting.clone(),
            courier: courier.clone(),
            gateway: gateway.clone(),
            facts,
            listeners,
            failure: failure.clone(),
        };
        let life = Life {
            config,
            env,
            directory,
            host,
            quic,
            controller,
            hosting,
            courier,
            seeds,
            addresses,
            phases,
            failure,
        };
        life.begin(failures);
        Ok(Node(Arc::new(inner)))
    }
}

fn log_options(config: &Config) -> Options {
    Options {
        wal_file_bytes: config.log.wal_file_bytes,
        wal_files_max: config.log.wal_files_max as usize,
        segment_bytes: config.log.segment_bytes,
        cache_bytes: usize::try_from(config.log.cache_bytes).unwrap_or(usize::MAX),
        free_bytes_min: config.log.free_bytes_min,
        ..Options::default()
    }
}

fn timing(config: &Config) -> Timing {
    let (ms, raft) = (Duration::from_millis, &config.raft);
    Timing {
        heartbeat: ms(raft.heartbeat_ms),
        heartbeat_min: ms(raft.heartbeat_ms / 2),
        election_min: ms(raft.election_ms_min),
        election_max: ms(raft.election_ms_max),
        suspicion: ms(raft.suspicion_ms),
        rank_step: ms(raft.rank_step_ms),
        transfer: ms(raft.transfer_ms),
        ..Timing::default()
    }
}

/// As texts, or in the files that the config names: those are read when they are needed.
struct Certificates {
    config: crate::config::Tls,
    given: Option<tls::Pem>,
}

impl Certificates {
    fn of_peer(&self, config: &Config) -> Result<Identity, NodeError> {
        let (ca_pem, cert_pem, key_pem) = match self.given.clone() {
            Some(given) => (given.ca.into(), given.certificate.into(), given.key.into()),
            None => (read(&self.config.ca)?, read(&self.config.certificate)?, read(&self.config.key)?),
        };
        let (cluster_name, node) = (config.cluster.name.clone(), config.node.id.into());
        Ok(Identity { cluster_name, node, ca_pem, cert_pem, key_pem })
    }

    fn of_listener(&self) -> Result<(tls::Identity, tls::Roots), tls::TlsError> {
        match &self.given {
            Some(given) => {
                Ok((tls::Identity::from_pem(&given.certificate, &given.key)?, tls::Roots::from_pem(&given.ca)?))
            }
            None => Ok((
                tls::Identity::read(&self.config.certificate, &self.config.key)?,
                tls::Roots::read(&self.config.ca)?,
            )),
        }
    }
}

async fn dial(
    config: &Config,
    certificates: &Certificates,
    boot: BootId,
    env: &Env,
) -> Result<Arc<QuicNetwork>, NodeError> {
    let identity = certificates.of_peer(config)?;
    let (peer, control) = config.advertised_to_peers();
    let mut options = quic::Options::new(identity, boot, config.node.peer_bind, config.node.control_bind);
    options.advertised = Some((peer.to_string(), control.to_string()));
    QuicNetwork::start(options, env.clone()).await.map_err(NodeError::Network)
}

fn read(path: &Path) -> Result<Vec<u8>, NodeError> {
    std::fs::read(path).map_err(|error| NodeError::Identity(format!("cannot read {}: {error}", path.display())))
}

async fn open_listeners(
    config: &Config,
    certificates: &Certificates,
    gateway: &Gateway,
    facts: &Arc<NodeFacts>,
    phases: &Phases,
    env: &Env,
) -> Result<Vec<SocketAddr>, NodeError> {
    let mut opened = Vec::new();
    for listener in &config.listeners.0 {
        let failed = |why: String| NodeError::Listen { what: format!("listener {}", listener.bind), why };
        let listen_failed = |error| match error {
            ListenError::Tls(error) => NodeError::Identity(error.to_string()),
            error => failed(error.to_string()),
        };
        let address = match listener.kind {
            ListenerKind::Native => {
                let tls_failed = |error: tls::TlsError| NodeError::Identity(error.to_string());
                let (identity, roots) = certificates.of_listener().map_err(tls_failed)?;
                let native = gateway.listen(listener, &identity, &roots).map_err(listen_failed)?;
                let address = native.local_addr().map_err(|error| failed(error.to_string()))?;
                let stopping = phases.clone();
                env.spawn(async move {
                    stopping.reached(Phase::Closing).await;
                    native.close().await;
                });
                address
            }
            ListenerKind::Http => {
                let stopping = phases.clone();
                let until = async move { stopping.reached(Phase::Closing).await };
                Admin::listen(listener, facts.clone(), env, until).await.map_err(listen_failed)?.local_addr()
            }
            ListenerKind::Kafka => return Err(failed("Kafka's protocol is not served by this version".into())),
        };
        opened.push(address);
    }
    Ok(opened)
}

/// What other nodes and clients are told.
fn addresses(config: &Config, listeners: &[SocketAddr], native: Option<String>) -> Addresses {
    let (peer, control) = config.advertised_to_peers();
    let of = |kind| {
        let found = config.listeners.0.iter().zip(listeners).find(|(listener, _)| listener.kind == kind);
        found.map(|(listener, bound)| {
            listener.advertised.as_ref().map_or_else(|| bound.to_string(), ToString::to_string)
        })
    };
    Addresses {
        native: native.or_else(|| of(ListenerKind::Native)).unwrap_or_default(),
        peer: peer.to_string(),
        control: control.to_string(),
        http: of(ListenerKind::Http).unwrap_or_default(),
    }
}
