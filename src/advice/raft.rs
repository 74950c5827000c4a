//! What to do about errors of `highwater-raft`. It stands here and not beside them: what a reader can do is said in the
//! words of config and command line, which that crate does not know.
//!
//! Each `impl` names the error by its path from the top of that crate: several modules have an `OpenError`.

use super::{Advice, Reaction};
use highwater_raft::{NodeId, ReplicaId, group, log, machine, transport};

/// How soon another attempt may find what was missing.
const SOON: Reaction = Reaction::Retry { after_ms: 200 };

fn ask_leader(hint: Option<(ReplicaId, NodeId)>) -> String {
    match hint {
        Some((_, node)) => format!("ask node {node}: it leads"),
        None => "wait until the group has a leader, then ask there".into(),
    }
}

fn check_reachable(node: NodeId) -> String {
    format!("check that node {node} runs and that its peer ports are open to this node")
}

fn try_again(node: NodeId) -> String {
    format!("try again; if it stays so, read the log of node {node}")
}

fn ask_another() -> String {
    "ask another replica of the group, and read this node's log for why this one is gone".into()
}

impl Advice for log::OpenError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Io(_) | Self::Damaged { .. } | Self::Version { .. } => Reaction::Stop,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Io(_) => {
                "check that all of `node.data_dir` can be read and written and that its disk has room, then \
                            start the node again"
                    .into()
            }
            Self::Damaged { .. } => {
                "start the node with an empty `node.data_dir`, so that its replicas come back from \
                                     other nodes, and keep the damaged one until they have"
                    .into()
            }
            Self::Version { .. } => "start the release that wrote `node.data_dir`, or a later one".into(),
        }
    }
}

impl Advice for log::CreateError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Exists { .. } | Self::Dead { .. } => Reaction::Reject,
            Self::Io(_) => Reaction::Stop,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Exists { existing, wanted, .. } => format!("remove replica {existing} before creating {wanted}"),
            Self::Dead { .. } => "give the new replica an id that none had before".into(),
            Self::Io(_) => "check the disk, then start the node again: it keeps all that it acknowledged".into(),
        }
    }
}

impl Advice for log::ReadError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::BelowStart { .. } => Reaction::Reject,
            Self::Damaged { .. } | Self::Io(_) => Reaction::Refresh,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::BelowStart { start } => format!("go on at offset {start}"),
            Self::Damaged { .. } => "read from another replica; this one is repaired from its peers".into(),
            Self::Io(_) => "read from another replica and look at this node's disk".into(),
        }
    }
}

impl Advice for group::OpenError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::AlreadyOpen { .. } => Reaction::Reject,
            Self::Log { source, .. } => source.reaction(),
            Self::Start { .. } => Reaction::Retry { after_ms: 500 },
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::AlreadyOpen { .. } => "use the replica that is open, or close it first".into(),
            Self::Log { source, .. } => source.advice(),
            Self::Start { .. } => {
                "read the node's log: a damaged replica is replaced from its peers, any other can be opened again"
                    .into()
            }
        }
    }
}

impl Advice for group::BarrierError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::NotLeader { .. } | Self::Gone { .. } => Reaction::Refresh,
            Self::NoQuorum { .. } => SOON,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::NotLeader { hint } => ask_leader(*hint),
            Self::NoQuorum { .. } => "try again; if it stays so, start the nodes that are down".into(),
            Self::Gone { .. } => ask_another(),
        }
    }
}

impl Advice for group::ChangeError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::NotLeader { .. } | Self::Gone { .. } => Reaction::Refresh,
            Self::InProgress | Self::TimedOut { .. } => Reaction::Retry { after_ms: 500 },
            Self::Impossible { .. } => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::NotLeader { hint } => ask_leader(*hint),
            Self::InProgress => "wait until the change before is done, then look at the members and ask again".into(),
            Self::Impossible { .. } => "keep one voter at least, and add each new one as a learner first".into(),
            Self::TimedOut { .. } => "look at the members before asking again: it may have happened".into(),
            Self::Gone { .. } => ask_another(),
        }
    }
}

impl Advice for group::TransferError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::NotLeader { .. } | Self::TimedOut { .. } | Self::Gone { .. } => Reaction::Refresh,
            Self::NotVoter { .. } => Reaction::Reject,
            Self::NotReady { .. } => Reaction::Retry { after_ms: 500 },
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::NotLeader { hint } => ask_leader(*hint),
            Self::NotVoter { .. } => "choose one of the group's voters".into(),
            Self::NotReady { .. } => {
                "wait until its node is alive and its log has caught up, or choose another voter".into()
            }
            Self::TimedOut { .. } => "wait until one is elected, and see who it is before trying again".into(),
            Self::Gone { .. } => ask_another(),
        }
    }
}

impl Advice for group::RequestError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Lost { .. } => SOON,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Unreachable { node } => check_reachable(*node),
            Self::TimedOut { node, .. } | Self::Lost { node, .. } => try_again(*node),
        }
    }
}

impl Advice for machine::Damaged {
    fn reaction(&self) -> Reaction {
        Reaction::Stop
    }

    fn advice(&self) -> String {
        "keep the other nodes of the group running: the replica is replaced from them".into()
    }
}

impl Advice for transport::SendError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::UnknownPeer { .. } => Reaction::Refresh,
            Self::NotConnected { .. } => SOON,
            Self::Full { .. } => Reaction::Retry { after_ms: 50 },
            Self::TooLarge { .. } => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::UnknownPeer { node } => format!("check that node {node} is one of the cluster"),
            Self::NotConnected { node } => check_reachable(*node),
            Self::Full { node, .. } => {
                format!("wait until some of it is sent; if it stays so, check node {node} and the network to it")
            }
            Self::TooLarge { limit, .. } => format!("send at most {limit} bytes at once"),
        }
    }
}

impl Advice for transport::rpc::CallError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::NotSent(error) => error.reaction(),
            Self::Down { .. } | Self::TimedOut { .. } | Self::NotServed { .. } => SOON,
            Self::Dropped { .. } => Reaction::Refresh,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::NotSent(error) => error.advice(),
            Self::Down { node, .. } => check_reachable(*node),
            Self::TimedOut { node, .. } => try_again(*node),
            Self::Dropped { .. } => "find out who serves it now, and whether it was done, then ask again".into(),
            Self::NotServed { node, .. } => {
                format!("wait until node {node} has started; if it stays so, bring all nodes to the same version")
            }
        }
    }
}

impl Advice for transport::tls::NotTrusted {
    fn reaction(&self) -> Reaction {
        match self {
            Self::OtherCa { .. }
            | Self::Expired { .. }
            | Self::NotYetValid { .. }
            | Self::OtherCluster { .. }
            | Self::OtherNode { .. }
            | Self::NoNode
            | Self::Other { .. } => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::OtherCa { .. } => {
                "make all nodes' certificates with one CA, and give each node its certificate".into()
            }
            Self::Expired { whose, .. } => format!("make a new certificate for {whose} with `highwater cert node`"),
            Self::NotYetValid { .. } => "set the clocks of both machines right".into(),
            Self::OtherCluster { .. } => {
                "make `cluster.name` the same on all nodes, and their certificates for that name".into()
            }
            Self::OtherNode { .. } => {
                "check `node.id`, the addresses that nodes tell each other, and which certificate each of them has"
                    .into()
            }
            Self::NoNode | Self::Other { .. } => "make the node's certificate with `highwater cert node`".into(),
        }
    }
}

impl Advice for transport::tls::IdentityError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::ClusterName { .. } | Self::Pem { .. } | Self::Key(_) | Self::Own(_) | Self::Tls(_) => Reaction::Stop,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::ClusterName { .. } => {
                "choose a `cluster.name` that certificates can carry, and make them for it with `highwater cert`".into()
            }
            Self::Pem { what, .. } => {
                format!("name a PEM file with the {what} in [tls], or make a new one with `highwater cert`")
            }
            Self::Key(_) => "name the certificate and the key that were made together by `highwater cert`".into(),
            Self::Own(error) => error.advice(),
            Self::Tls(_) => "report it with the node's log".into(),
        }
    }
}

impl Advice for transport::quic::StartError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Identity(error) => error.reaction(),
            Self::Bind { .. } | Self::Mtu { .. } | Self::Tls(_) | Self::Thread(_) => Reaction::Stop,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Identity(error) => error.advice(),
            Self::Bind { address, .. } => format!(
                "stop what uses UDP port {} on this machine (another node?), or choose another `node.peer_bind` or \
                 `node.control_bind`",
                address.port()
            ),
            Self::Mtu { .. } => "choose an MTU from 1200 to 6550".into(),
            Self::Tls(_) => "report it with the node's log".into(),
            Self::Thread(_) => "check the limits of processes and memory for this user".into(),
        }
    }
}
