//! What lies between nodes, and between clients and nodes: frames in memory, or QUIC and TLS over simulated UDP.
//!
//! Faults speak of nodes and mean the same in both modes, but for what only datagrams can do (loss, repetition, disorder), which
//! QUIC hides from frames.

use super::{Options, link::SimDialer, sometimes};
use highwater::{
    client::{Dialer, QuicDialer},
    testing::quic::Certificates,
    tls::Pem,
    types,
};
use highwater_raft::{
    BootId, NodeId,
    env::{Env, TaskSet},
    testing::{
        network::{Hub, SimNetwork, Timing},
        wire::{Weather, Wire},
    },
    transport::Lane,
};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

/// Ports of each node.
pub(super) const NATIVE: u16 = 7420;
pub(super) const PEER: u16 = 7421;
pub(super) const CONTROL: u16 = 7422;

/// The network of a world.
pub(super) enum Net {
    /// Messages between nodes are whole and in order, or lost with their connection.
    Frames(Hub),
    /// Datagrams, with QUIC and TLS above them.
    Full(Lan),
}

/// Hosts on a wire, each with an address.
pub(super) struct Lan {
    wire: Wire,
    certificates: Certificates,
    nodes: u32,
    /// First byte of all addresses: 127 has large packets and no discovery of their size, 10 small ones and discovery.
    net: u8,
}

/// A client's way to the nodes. Clones are the same way.
#[derive(Clone)]
pub(super) enum Way {
    /// Links in memory.
    Frames(SimDialer),
    /// A host of its own.
    Full(Arc<QuicDialer>, IpAddr),
}

/// What the network is like for a while.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rough {
    pub(super) jitter_ms: u64,
    /// Frames: one message in so many breaks its connection.
    pub(super) break_one_in: u64,
    /// Datagrams of a thousand that get lost, come twice, are much later than others.
    pub(super) lost: u16,
    pub(super) twice: u16,
    pub(super) late: u16,
}

impl Rough {
    fn weather(self) -> Weather {
        let calm = Weather::CALM;
        Weather {
            delay: calm.delay,
            jitter: calm.jitter + Duration::from_millis(self.jitter_ms),
            lost: calm.lost + self.lost,
            twice: calm.twice + self.twice,
            late: calm.late + self.late,
        }
    }
}

impl Net {
    pub(super) fn new(options: &Options, seed: u64) -> Net {
        if !options.full {
            return Net::Frames(Hub::new(seed, Timing::default()));
        }
        let net = if options.seed.is_multiple_of(2) { 127 } else { 10 };
        let nodes = (1..=options.nodes).map(|node| (types::NodeId(node), address(net, 0, node)));
        let certificates = Certificates::new("sim", seed, nodes);
        Net::Full(Lan { wire: Wire::new(seed, Weather::CALM), certificates, nodes: options.nodes, net })
    }

    /// How a client's process reaches the nodes, in frames with so much delay; tasks of the way are not in any node's set.
    pub(super) fn way(&self, env: &Env, process: u32, delay: Duration) -> Way {
        match self {
            Net::Frames(_) => Way::Frames(SimDialer::new(delay)),
            Net::Full(lan) => {
                let address = address(lan.net, 1, process);
                let host = lan.wire.join(address);
                let own = Env::simulated(env.random_u64(), env.now_ms(), TaskSet::default());
                Way::Full(lan.certificates.dialer(&own, &*host, address), address)
            }
        }
    }

    /// What clients are told first.
    pub(super) fn bootstrap(&self, node: u32) -> String {
        match self {
            Net::Frames(_) => format!("node-{node}"),
            Net::Full(lan) => format!("{}:{NATIVE}", lan.of(node)),
        }
    }

    /// A node's life is over, or not begun: nothing that it sends from now on arrives.
    pub(super) fn cut(&self, node: u32) {
        match self {
            Net::Frames(hub) => hub.cut(NodeId(node)),
            Net::Full(lan) => lan.wire.cut(lan.of(node)),
        }
    }

    /// Nothing goes from one node to another until healed.
    pub(super) fn block(&self, from: u32, to: u32) {
        match self {
            Net::Frames(hub) => hub.block(NodeId(from), NodeId(to)),
            Net::Full(lan) => lan.wire.block(lan.of(from), lan.of(to)),
        }
    }

    /// Nothing goes between two nodes until healed.
    pub(super) fn partition(&self, a: u32, b: u32) {
        self.block(a, b);
        self.block(b, a);
    }

    /// Removes the blocks between two nodes.
    pub(super) fn heal_between(&self, a: u32, b: u32) {
        match self {
            Net::Frames(hub) => hub.heal_between(NodeId(a), NodeId(b)),
            Net::Full(lan) => {
                lan.wire.unblock(lan.of(a), lan.of(b));
                lan.wire.unblock(lan.of(b), lan.of(a));
            }
        }
    }

    /// Removes all blocks.
    pub(super) fn heal(&self) {
        match self {
            Net::Frames(hub) => hub.heal(),
            Net::Full(lan) => lan.wire.heal(),
        }
    }

    /// What is dialled from one node to another is of no use: in frames its connections break, below QUIC it hears nothing until
    /// healed.
    pub(super) fn break_connection(&self, from: u32, to: u32) {
        match self {
            Net::Frames(hub) => {
                Lane::ALL.into_iter().for_each(|lane| hub.break_connection(NodeId(from), NodeId(to), lane));
            }
            Net::Full(_) => self.partition(from, to),
        }
    }

    /// From now on all links are like this.
    pub(super) fn be(&self, rough: Rough) {
        match self {
            Net::Frames(hub) => {
                let jitter = Timing::default().jitter + Duration::from_millis(rough.jitter_ms);
                hub.set_timing(Timing { jitter, ..Timing::default() });
                hub.break_one_in(rough.break_one_in);
            }
            Net::Full(lan) => lan.wire.set_weather(rough.weather()),
        }
    }

    /// From now on what goes from one node to another is like this; 0: any node.
    pub(super) fn be_between(&self, from: u32, to: u32, rough: Rough) {
        let Net::Full(lan) = self else { return self.be(rough) };
        if (from, to) == (0, 0) {
            return self.be(rough);
        }
        let some = |one: u32| if one == 0 { 1..=lan.nodes } else { one..=one };
        for (from, to) in some(from).flat_map(|from| some(to).map(move |to| (from, to))) {
            lan.wire.set_weather_of(lan.of(from), lan.of(to), rough.weather());
        }
    }

    /// In full mode: what became of datagrams, as interesting states.
    pub(super) fn reached(&self) -> Vec<(&'static str, u64)> {
        let Net::Full(lan) = self else { return Vec::new() };
        let counts = lan.wire.counts();
        vec![
            (sometimes::LOST, counts.lost),
            (sometimes::TWICE, counts.twice),
            (sometimes::LATE, counts.late),
            (sometimes::BLOCKED, counts.blocked),
        ]
    }

    /// Clients and a node hear nothing of each other until healed; in frames their connections just break.
    pub(super) fn cut_clients<'a>(&self, node: u32, ways: impl Iterator<Item = &'a Way>) {
        for way in ways {
            match (way, self) {
                (Way::Frames(dialer), _) => dialer.cut(node),
                (Way::Full(_, client), Net::Full(lan)) => lan.part(*client, node),
                (Way::Full(..), Net::Frames(_)) => {}
            }
        }
    }

    /// A client hears nothing of any node until it is [over](Net::hear).
    pub(super) fn deafen(&self, way: &Way, time: Duration) {
        match (way, self) {
            (Way::Frames(dialer), _) => dialer.deafen(time),
            (Way::Full(_, client), Net::Full(lan)) => (1..=lan.nodes).for_each(|node| lan.part(*client, node)),
            (Way::Full(..), Net::Frames(_)) => {}
        }
    }

    /// A client hears the nodes again.
    pub(super) fn hear(&self, way: &Way) {
        if let (Way::Full(_, client), Net::Full(lan)) = (way, self) {
            for node in 1..=lan.nodes {
                lan.wire.unblock(*client, lan.of(node));
                lan.wire.unblock(lan.of(node), *client);
            }
        }
    }

    /// A node's new life on frames.
    pub(super) fn join(&self, node: u32, boot: BootId, env: &Env) -> Option<Arc<SimNetwork>> {
        match self {
            Net::Frames(hub) => Some(hub.join(NodeId(node), boot, env)),
            Net::Full(lan) => {
                env.take_sockets_from(lan.wire.join(lan.of(node)));
                None
            }
        }
    }

    /// In full mode: a node's address and what it proves itself with.
    pub(super) fn place(&self, node: u32) -> Option<(IpAddr, Pem)> {
        match self {
            Net::Frames(_) => None,
            Net::Full(lan) => Some((lan.of(node), lan.certificates.of(types::NodeId(node)))),
        }
    }

    /// In full mode: where a node is.
    pub(super) fn address_of(&self, node: u32) -> Option<IpAddr> {
        match self {
            Net::Frames(_) => None,
            Net::Full(lan) => Some(lan.of(node)),
        }
    }
}

impl Lan {
    fn of(&self, node: u32) -> IpAddr {
        address(self.net, 0, node)
    }

    fn part(&self, client: IpAddr, node: u32) {
        self.wire.block(client, self.of(node));
        self.wire.block(self.of(node), client);
    }
}

fn address(net: u8, kind: u8, number: u32) -> IpAddr {
    let [.., high, low] = number.to_be_bytes();
    Ipv4Addr::new(net, kind, high, low).into()
}

impl Way {
    pub(super) fn dialer(&self) -> Arc<dyn Dialer> {
        match self {
            Way::Frames(dialer) => Arc::new(dialer.clone()),
            Way::Full(dialer, _) => dialer.clone(),
        }
    }
}
