//! The first words on a connection, and why one is refused.
//!
//! `length u32 │ MessagePack map with one-letter names`: fields that are not known are skipped.

use crate::{BootId, NodeId, transport::Lane};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version of the protocol between nodes.
pub(super) const VERSION: u16 = 1;
const HELLO_BYTES_MAX: usize = 4096;
/// Maps and lists within each other in one.
const NESTED_MAX: usize = 32;

/// The dialler's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    #[serde(rename = "v")]
    pub(super) version: u16,
    #[serde(rename = "c")]
    pub(super) cluster: String,
    /// None while the node has not learned it.
    #[serde(rename = "i", default)]
    pub(super) cluster_id: Option<[u8; 16]>,
    #[serde(rename = "n")]
    pub(super) node: NodeId,
    #[serde(rename = "b")]
    pub(super) boot: BootId,
    /// 0 control, 1 data, 2 bulk.
    #[serde(rename = "l")]
    pub(super) lane: u8,
    /// Where the dialler can be dialled, should it not be known.
    #[serde(rename = "a")]
    pub(super) address: String,
    #[serde(rename = "k")]
    pub(super) control_address: String,
}

/// The acceptor's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Welcome {
    #[serde(rename = "v")]
    pub(super) version: u16,
    #[serde(rename = "i", default)]
    pub(super) cluster_id: Option<[u8; 16]>,
    #[serde(rename = "n")]
    pub(super) node: NodeId,
    #[serde(rename = "b")]
    pub(super) boot: BootId,
}

pub(super) fn lane_number(lane: Lane) -> u8 {
    match lane {
        Lane::Control => 0,
        Lane::Data => 1,
        Lane::Bulk => 2,
    }
}

pub(super) fn lane_of(number: u8) -> Option<Lane> {
    Lane::ALL.into_iter().find(|lane| lane_number(*lane) == number)
}

/// Why a connection is closed. Numbers go over the wire: never reused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Close {
    #[error("the node stops or no longer knows this peer")]
    Bye,
    #[error("this node speaks version {ours} between nodes, the other {theirs}: upgrade one release at a time")]
    Version { ours: u16, theirs: u16 },
    #[error("this is cluster \"{ours}\", HELLO says \"{theirs}\": compare cluster.name")]
    ClusterName { ours: String, theirs: String },
    #[error("both clusters have this name but not the same id: the data directory of one node is from another cluster")]
    ClusterId,
    #[error("HELLO says node {said}, the certificate node {proved}: compare node.id and the node's certificate")]
    Node { said: NodeId, proved: NodeId },
    #[error("this is node {node} itself: two nodes have the same id, or an address in the list of nodes is wrong")]
    Itself { node: NodeId },
    #[error("this port does not serve the {lane} lane: peer and control addresses are mixed up")]
    WrongPort { lane: Lane },
    #[error("a newer connection took its place")]
    Replaced,
    #[error("the peer is suspected")]
    Suspected,
    #[error("what came cannot be read: {what}")]
    Broken { what: &'static str },
}

impl Close {
    fn code(&self) -> VarInt {
        VarInt::from_u32(match self {
            Close::Bye => 0,
            Close::Version { .. } => 1,
            Close::ClusterName { .. } => 2,
            Close::ClusterId => 3,
            Close::Node { .. } => 4,
            Close::Itself { .. } => 5,
            Close::WrongPort { .. } => 6,
            Close::Replaced => 7,
            Close::Suspected => 8,
            Close::Broken { .. } => 9,
        })
    }

    pub(super) fn close(&self, connection: &Connection) {
        connection.close(self.code(), self.to_string().as_bytes());
    }
}

/// The text of a lost connection for a person: the other side's reason where it gave one.
pub(super) fn explain(error: &ConnectionError) -> String {
    use crate::transport::tls::told;
    match error {
        ConnectionError::ApplicationClosed(close) => {
            format!("it refused or ended the connection: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::ConnectionClosed(close) if !close.reason.is_empty() => {
            format!("it refused this node: {}", told(&String::from_utf8_lossy(&close.reason)))
        }
        ConnectionError::TransportError(error) => told(&error.reason).to_owned(),
        ConnectionError::TimedOut => "no answer".into(),
        other => other.to_string(),
    }
}

pub(super) async fn write<T: Serialize>(stream: &mut SendStream, message: &T) -> Result<(), Close> {
    let broken = Close::Broken { what: "HELLO" };
    let bytes = encode(message).ok_or(broken.clone())?;
    stream.write_all(&bytes).await.map_err(|_| broken)
}

fn encode<T: Serialize>(message: &T) -> Option<Vec<u8>> {
    let body = rmp_serde::to_vec_named(message).ok()?;
    let mut bytes = u32::try_from(body.len()).ok()?.to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    Some(bytes)
}

/// A few levels: unknown fields are passed over by recursion.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let mut from = rmp_serde::Deserializer::from_read_ref(body);
    from.set_max_depth(NESTED_MAX);
    T::deserialize(&mut from).ok()
}

/// Reads a message; the stream's or the message's fault is `Broken`.
pub(super) async fn read<T: DeserializeOwned>(stream: &mut RecvStream) -> Result<T, Close> {
    let broken = Close::Broken { what: "HELLO" };
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(|_| broken.clone())?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > HELLO_BYTES_MAX {
        return Err(broken);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(|_| broken.clone())?;
    decode(&body).ok_or(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::golden;

    #[test]
    fn hello_v1() {
        let (cluster_id, node, boot) = (Some([7; 16]), NodeId(2), BootId(0x1234));
        let hello = Hello {
            version: VERSION,
            cluster: "prod".into(),
            cluster_id,
            node,
            boot,
            lane: lane_number(Lane::Bulk),
            address: "host:7421".into(),
            control_address: "host:7422".into(),
        };
        golden("peers/hello-v1.hex", &encode(&hello).unwrap());
        golden("peers/welcome-v1.hex", &encode(&Welcome { version: VERSION, cluster_id, node, boot }).unwrap());
        assert_eq!((VERSION, Lane::ALL.map(lane_number)), (1, [0, 1, 2]));
        assert_eq!((0..=u8::MAX).filter_map(lane_of).collect::<Vec<_>>(), Lane::ALL);
    }
}
