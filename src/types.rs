//! Identities and small values that every layer shares. Parsed at the edge into types that cannot be wrong.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Maps and lists within each other in what others sent: ours are a few.
const NESTED_MAX: usize = 32;

/// Reads MessagePack that others sent. Each level takes stack, also in a field that nobody knows: the 1,024 that rmp-serde
/// allows take up to 128 KiB, and without optimization more than the 2 MiB that a thread has.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, rmp_serde::decode::Error> {
    let mut from = rmp_serde::Deserializer::from_read_ref(bytes);
    from.set_max_depth(NESTED_MAX);
    T::deserialize(&mut from)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A node of the cluster, from 1.
    NodeId(u32)
);
id!(
    /// Who produces, for idempotence: 23 bits of the cluster id above 40 bits of a counter, so positive in Kafka's i64.
    ProducerId(i64)
);
id!(
    /// A group's count of assignments. Rises with each change of members or partitions.
    Generation(u64)
);

#[cfg(feature = "node")]
impl From<NodeId> for highwater_raft::NodeId {
    fn from(node: NodeId) -> Self {
        Self(node.0)
    }
}
#[cfg(feature = "node")]
impl From<highwater_raft::NodeId> for NodeId {
    fn from(node: highwater_raft::NodeId) -> Self {
        Self(node.0)
    }
}

/// A topic's identity: survives everything but deletion; a topic made again under the same name has another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(#[serde(with = "serde_bytes_16")] pub [u8; 16]);

mod serde_bytes_16 {
    use serde::{Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
        struct Sixteen;
        impl<'de> de::Visitor<'de> for Sixteen {
            type Value = [u8; 16];
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("16 bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; 16], E> {
                bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<[u8; 16], A::Error> {
                let mut out = [0; 16];
                for (i, byte) in out.iter_mut().enumerate() {
                    *byte = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(i, &self))?;
                }
                Ok(out)
            }
        }
        deserializer.deserialize_bytes(Sixteen)
    }
}

impl TopicId {
    /// A version 4 UUID of 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes())
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// Which topic.
    #[serde(rename = "t")]
    pub topic: TopicId,
    /// Which of its partitions, from 0.
    #[serde(rename = "p")]
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Longest name of a topic, group, member or client, in bytes (Kafka's limit for topics).
pub const NAME_BYTES_MAX: usize = 249;

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No character.
    #[error("a {what} name needs at least one character")]
    Empty {
        /// What is named.
        what: &'static str,
    },
    /// Over [`NAME_BYTES_MAX`].
    #[error("the {what} name has {len} bytes, at most {NAME_BYTES_MAX} are allowed")]
    TooLong {
        /// What is named.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// A character outside `A-Z a-z 0-9 . _ -`.
    #[error("{found:?} is not allowed in a {what} name; use letters, digits, '.', '_' and '-'")]
    Character {
        /// What is named.
        what: &'static str,
        /// The first such character.
        found: char,
    },
    /// `.` or `..`.
    #[error("{name:?} cannot be a {what} name")]
    Reserved {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
    },
}

fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { what, len: name.len() });
    }
    if let Some(found) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(NameError::Character { what, found });
    }
    if name == "." || name == ".." {
        return Err(NameError::Reserved { what, name: name.into() });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                check_name($what, name)?;
                Ok(Self(name.into()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                name.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().into()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }
    };
}

name!(
    /// A topic's name.
    TopicName, "topic"
);
name!(
    /// A consumer group's name.
    GroupName, "group"
);
name!(
    /// A member of a group, as the home named it.
    MemberId, "member"
);

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AckLevel {
    /// Answered at admission; may be lost.
    #[serde(rename = "n")]
    None,
    /// On the leader's disk; no offset yet, may be lost with the leader.
    #[serde(rename = "l")]
    Leader,
    /// On the disks of a majority, and applied.
    #[default]
    #[serde(rename = "q")]
    Quorum,
}

/// A place in a partition by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Position {
    /// The log start.
    #[serde(rename = "e")]
    Earliest,
    /// The high watermark at the time of asking.
    #[serde(rename = "l")]
    Latest,
    /// This offset.
    #[serde(rename = "o")]
    Offset(u64),
    /// The first record with this timestamp (milliseconds since 1970) or a later one.
    #[serde(rename = "t")]
    Time(i64),
}

impl FromStr for Position {
    type Err = String;
    /// `earliest`, `latest`, an offset, or `@MILLISECONDS`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => match text.strip_prefix('@') {
                Some(ms) => {
                    ms.parse().map(Self::Time).map_err(|_| format!("{ms:?} is not a time in milliseconds since 1970"))
                }
                None => text.parse().map(Self::Offset).map_err(|_| {
                    format!("{text:?} is not a position: use earliest, latest, an offset, or @MILLISECONDS")
                }),
            },
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Offset(offset) => write!(f, "{offset}"),
            Self::Time(ms) => write!(f, "@{ms}"),
        }
    }
}

/// Stands for an offset where nobody knows how far an earlier owner of a partition was given records.
pub const DELIVERED_UNKNOWN: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_the_edge() {
        assert!("orders.eu-1_x".parse::<TopicName>().is_ok());
        for bad in ["", ".", "..", "a/b", "ä", "a b", &"x".repeat(250)] {
            assert!(bad.parse::<TopicName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn topic_ids_survive_encoding() {
        let id = TopicId::from_random(*b"0123456789abcdef");
        let bytes = rmp_serde::to_vec(&id).unwrap();
        assert_eq!(rmp_serde::from_slice::<TopicId>(&bytes).unwrap(), id);
    }

    #[test]
    fn positions_parse_as_they_print() {
        for text in ["earliest", "latest", "17", "@1700000000000"] {
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
        assert!("x".parse::<Position>().is_err());
    }
}
