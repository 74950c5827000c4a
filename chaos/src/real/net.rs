//! What lies between the nodes of a scenario: proxies, which need no rights, or namespaces.

use super::{proxy::Proxies, spaces, spaces::Spaces};
use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

/// What happens to datagrams of one direction between two nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) cut: bool,
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    /// Percent.
    pub(super) loss: u32,
    /// Percent.
    pub(super) twice: u32,
}

/// By `(from, to)`; no rule lets everything through.
pub(super) type Rules = BTreeMap<(u32, u32), Rule>;

/// All that is no node, in rules of proxies.
pub(super) const CLIENTS: u32 = 0;

/// One cluster's network.
pub(super) enum Net {
    Proxies(Proxies),
    Spaces(Spaces),
}

/// Nothing goes from any of `from` to any of `to`.
pub(super) fn cut(from: &[u32], to: &[u32]) -> Rules {
    let ways = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
    ways.filter(|(from, to)| from != to).map(|way| (way, Rule { cut: true, ..Rule::default() })).collect()
}

impl Net {
    /// Where a node binds this port.
    pub(super) fn at(&self, node: u16, port: u16) -> SocketAddr {
        match self {
            Self::Proxies(_) => SocketAddr::from(([127, 0, 0, 1], port)),
            Self::Spaces(_) => SocketAddr::new(spaces::address(node.into()), port),
        }
    }

    /// Rights or not, all rules can be had.
    pub(super) fn is_proxied(&self) -> bool {
        matches!(self, Self::Proxies(_))
    }

    /// Starts something on the node's machine.
    pub(super) fn inside<T>(&self, node: u32, what: impl FnOnce() -> T) -> io::Result<T> {
        match self {
            Self::Proxies(_) => Ok(what()),
            Self::Spaces(spaces) => spaces.inside(node, what),
        }
    }

    /// These rules instead of all that were there.
    pub(super) fn set(&self, rules: Rules) -> anyhow::Result<()> {
        match self {
            Self::Proxies(proxies) => proxies.set(rules),
            Self::Spaces(spaces) => spaces.set(&rules)?,
        }
        Ok(())
    }

    /// Datagrams that went nowhere.
    pub(super) fn dropped(&self) -> u64 {
        match self {
            Self::Proxies(proxies) => proxies.dropped(),
            Self::Spaces(spaces) => spaces.dropped(),
        }
    }

    /// Pulls a node's cable out, or puts it in again.
    pub(super) fn plug(&self, node: u32, is_in: bool) -> anyhow::Result<()> {
        match self {
            Self::Proxies(_) => anyhow::bail!("cables can only be pulled in namespaces"),
            Self::Spaces(spaces) => spaces.plug(node, is_in),
        }
    }
}
