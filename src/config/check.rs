//! What a config must hold beyond its types.

use super::{Address, Config, Listener, ListenerKind, load::Report};
use crate::{limits, tls, types};
use std::{collections::BTreeMap, net::SocketAddr};

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    cluster(config, report);
    node(config, report);
    for (i, listener) in config.listeners.0.iter().enumerate() {
        check_listener(&format!("listener.{i}"), listener, report);
    }
    ports(config, report);
    sizes(config, report);
    timings(config, report);
}

fn cluster(config: &Config, report: &mut Report<'_>) {
    let cluster = &config.cluster;
    if !tls::is_cluster_name(&cluster.name) {
        let said = format!(
            "{:?} cannot name a cluster; use 1 to {} of a-z, 0-9 and '-' (not at its ends): certificates carry it",
            cluster.name,
            limits::CERTIFIED_NAME_BYTES_MAX
        );
        report.about("cluster.name", &said);
    }
    if cluster.seeds.is_empty() {
        report.about(
            "cluster.seeds",
            "a cluster needs at least one seed: { id = 1, peer = \"host:7421\", control = \"host:7422\" }",
        );
    }
    if cluster.seeds.len() > limits::SEEDS_MAX {
        let said = format!(
            "{} seeds are too many, at most {} make a cluster; let the others join it later",
            cluster.seeds.len(),
            limits::SEEDS_MAX
        );
        report.about("cluster.seeds", &said);
    }
    if !(1..=limits::HOME_GROUPS).contains(&cluster.home_groups) {
        report.about("cluster.home_groups", &format!("home_groups is between 1 and {}", limits::HOME_GROUPS));
    }
    let mut ids = BTreeMap::new();
    let mut addresses: BTreeMap<&Address, usize> = BTreeMap::new();
    for (i, seed) in cluster.seeds.iter().enumerate() {
        let path = format!("cluster.seeds.{i}");
        check_id(&format!("{path}.id"), seed.id, report);
        if ids.insert(seed.id, i).is_some() {
            report.about(&format!("{path}.id"), &format!("seed {} is there twice; each node has its own id", seed.id));
        }
        for (key, address) in [("peer", &seed.peer), ("control", &seed.control)] {
            if addresses.insert(address, i).is_some() {
                report.about(
                    &format!("{path}.{key}"),
                    &format!("{address} is there twice; each seed has its own two addresses"),
                );
            }
        }
    }
}

fn check_id(path: &str, id: types::NodeId, report: &mut Report<'_>) {
    if id.0 == 0 || id.0 >= limits::NODE_ID_END {
        report.about(path, &format!("{id} cannot be a node's id; ids are from 1 to {}", limits::NODE_ID_END - 1));
    }
}

fn node(config: &Config, report: &mut Report<'_>) {
    let node = &config.node;
    check_id("node.id", node.id, report);
    if node.data_dir.as_os_str().is_empty() {
        report.about("node.data_dir", "data_dir is empty; name a directory that belongs to this node alone");
    }
    if node.arbiters > 1_024 {
        report.about("node.arbiters", "more than 1024 arbiters help nobody; 0 chooses by the number of cores");
    }
    let seed = config.cluster.seeds.iter().find(|seed| seed.id == node.id);
    for (name, bind, said, seed) in [
        ("peer", node.peer_bind, &node.peer_advertised, seed.map(|seed| &seed.peer)),
        ("control", node.control_bind, &node.control_advertised, seed.map(|seed| &seed.control)),
    ] {
        let (bind_path, said_path) = (format!("node.{name}_bind"), format!("node.{name}_advertised"));
        if let (Some(said), Some(seed)) = (said, seed)
            && said != seed
        {
            let message = format!(
                "this node is seed {}, whose {name} address in [cluster] is {seed}, not {said}; remove this key",
                node.id
            );
            report.about(&said_path, &message);
        }
        match said.as_ref().or(seed) {
            None if bind.ip().is_unspecified() => {
                let message = format!(
                    "{bind} listens everywhere and this node is no seed: say in {name}_advertised where others reach it"
                );
                report.about(&bind_path, &message);
            }
            Some(address) if bind.ip().is_loopback() && !address.is_loopback() => {
                let message = format!(
                    "{bind} is reachable from this machine only, but others are told {address}; bind 0.0.0.0:{}",
                    bind.port()
                );
                report.about(&bind_path, &message);
            }
            _ => {}
        }
    }
}

fn check_listener(path: &str, listener: &Listener, report: &mut Report<'_>) {
    let key = |name: &str| format!("{path}.{name}");
    let bind = listener.bind;
    if listener.kind == ListenerKind::Kafka {
        report.about(&key("kind"), "this version does not serve Kafka's protocol; use kind = \"native\" or \"http\"");
        return;
    }
    let open = !bind.ip().is_loopback();
    if listener.client_certificates && listener.anonymous {
        report.about(&key("anonymous"), "anonymous and client_certificates exclude each other; choose one");
    }
    if listener.client_certificates && listener.kind == ListenerKind::Http {
        report.about(
            &key("client_certificates"),
            "an http listener has no TLS; bind it to loopback, or allow anonymous = true",
        );
    } else if open && !listener.anonymous && !listener.client_certificates {
        let certificates = match listener.kind {
            ListenerKind::Native => ", ask for client_certificates = true",
            ListenerKind::Http | ListenerKind::Kafka => "",
        };
        let message = format!(
            "{bind} is open to the network: bind 127.0.0.1{certificates}, or let everybody in by anonymous = true"
        );
        report.about(&key("bind"), &message);
    }
    match &listener.advertised {
        None if bind.ip().is_unspecified() && listener.kind == ListenerKind::Native => {
            let message = format!("{bind} listens everywhere: say in advertised which address clients connect to");
            report.about(&key("bind"), &message);
        }
        Some(address) if !open && !address.is_loopback() => {
            let message = format!("clients are told {address}, but {bind} is reachable from this machine only");
            report.about(&key("advertised"), &message);
        }
        _ => {}
    }
}

fn ports(config: &Config, report: &mut Report<'_>) {
    let mut udp = vec![
        ("node.peer_bind".to_owned(), config.node.peer_bind),
        ("node.control_bind".to_owned(), config.node.control_bind),
    ];
    let mut tcp = Vec::new();
    for (i, listener) in config.listeners.0.iter().enumerate() {
        let bound = (format!("listener.{i}.bind"), listener.bind);
        match listener.kind {
            ListenerKind::Native => udp.push(bound),
            ListenerKind::Http | ListenerKind::Kafka => tcp.push(bound),
        }
    }
    for (transport, bound) in [("UDP", udp), ("TCP", tcp)] {
        for (i, (path, bind)) in bound.iter().enumerate() {
            if let Some((other, _)) = bound[..i].iter().find(|(_, other)| clash(*bind, *other)) {
                report.about(path, &format!("{transport} port {} is already taken by {other}", bind.port()));
            }
        }
    }
}

/// Port 0 takes any free one.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn sizes(config: &Config, report: &mut Report<'_>) {
    let batch = u64::from(limits::BATCH_BYTES_MAX);
    let (log, pools, topics) = (&config.log, &config.pools, &config.topics);
    let mut range = |path: &str, value: u64, min: u64, max: u64, why: &str| {
        if !(min..=max).contains(&value) {
            report.about(path, &format!("{value} is not between {min} and {max}: {why}"));
        }
    };
    const GIB: u64 = 1 << 30;
    range("log.wal_file_bytes", log.wal_file_bytes, 4 * batch, 4 * GIB, "a file holds some of the largest batches");
    range("log.wal_files_max", log.wal_files_max.into(), 2, 1_024, "one file is written while another retires");
    range("log.segment_bytes", log.segment_bytes, batch, 16 * GIB, "a segment holds the largest batch");
    range("log.cache_bytes", log.cache_bytes, 4 * batch, u64::MAX, "the newest records are served from it");
    range("log.tail_bytes", log.tail_bytes, 4 * batch, u64::MAX, "consumers at the end are served from it");
    let why = "the largest batch must fit several times";
    range("pools.produce_bytes", pools.produce_bytes, 4 * batch, u64::MAX, why);
    range("pools.response_bytes", pools.response_bytes, 4 * batch, u64::MAX, why);
    range("pools.control_bytes", pools.control_bytes, batch, u64::MAX, "the largest request without records must fit");
    let why = "each partition is a Raft group of its own";
    range("topics.partitions", topics.partitions.into(), 1, limits::PARTITIONS_PER_TOPIC_MAX.into(), why);
    let why = "five replicas survive two failures, more only add latency";
    range("topics.replication_factor", topics.replication_factor.into(), 1, limits::REPLICATION_FACTOR_MAX.into(), why);
    let forever = i64::MAX.unsigned_abs();
    let ms = config.retention.ms.0.unwrap_or(forever);
    range("retention.ms", ms, 1_000, forever, "records live at least a second, or -1: for ever");
    if let Some(bytes) = config.retention.bytes.0 {
        range(
            "retention.bytes",
            bytes,
            log.segment_bytes,
            u64::MAX,
            "retention removes whole segments (log.segment_bytes)",
        );
    }
    range(
        "retention.check_ms",
        config.retention.check_ms,
        100,
        24 * 3_600_000,
        "between ten times a second and once a day",
    );
}

fn timings(config: &Config, report: &mut Report<'_>) {
    let raft = &config.raft;
    let mut hold = |good: bool, path: &str, why: String| {
        if !good {
            report.about(path, &why);
        }
    };
    hold(
        (10..=60_000).contains(&raft.heartbeat_ms),
        "raft.heartbeat_ms",
        "heartbeat_ms is between 10 and 60000".into(),
    );
    hold(
        raft.suspicion_ms >= raft.heartbeat_ms.saturating_mul(2),
        "raft.suspicion_ms",
        format!(
            "suspicion_ms must be at least twice heartbeat_ms ({}), else one lost packet is a death",
            raft.heartbeat_ms
        ),
    );
    hold(
        raft.election_ms_min > raft.heartbeat_ms,
        "raft.election_ms_min",
        format!("election_ms_min must be above heartbeat_ms ({})", raft.heartbeat_ms),
    );
    hold(
        raft.election_ms_max > raft.election_ms_min,
        "raft.election_ms_max",
        format!("election_ms_max must be above election_ms_min ({})", raft.election_ms_min),
    );
    hold(
        raft.election_ms_max <= 600_000,
        "raft.election_ms_max",
        "ten minutes without a leader are the most that is accepted".into(),
    );
    hold((1..=10_000).contains(&raft.rank_step_ms), "raft.rank_step_ms", "rank_step_ms is between 1 and 10000".into());
    hold((50..=60_000).contains(&raft.transfer_ms), "raft.transfer_ms", "transfer_ms is between 50 and 60000".into());
    hold(config.node.drain_ms <= 600_000, "node.drain_ms", "a stopping node waits ten minutes at most".into());
    hold(
        (limits::SESSION_GRACE_MS_MIN..=limits::SESSION_GRACE_MS_MAX).contains(&config.groups.session_grace_ms),
        "groups.session_grace_ms",
        format!(
            "session_grace_ms is between {} and {}: partitions stand still meanwhile",
            limits::SESSION_GRACE_MS_MIN,
            limits::SESSION_GRACE_MS_MAX
        ),
    );
}
