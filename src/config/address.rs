//! `host:port` as other machines dial it.

use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv6Addr, net::SocketAddr, str::FromStr};

/// A host name or IP address, and a port that is not 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is this machine's own, as far as the text shows.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| format!("{text:?} is not an address ({why}); write it as \"host:port\"");
        let (host, port) = text.rsplit_once(':').ok_or_else(|| refuse("it has no port"))?;
        let port = port.parse().map_err(|_| refuse("its port is not a number below 65536"))?;
        if port == 0 {
            return Err(refuse("nobody can connect to port 0"));
        }
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(ip) => ip.parse::<Ipv6Addr>().map_err(|_| refuse("brackets are for IPv6 addresses"))?.to_string(),
            None if host.is_empty() => return Err(refuse("it has no host")),
            None if host.contains(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_')) => {
                return Err(refuse("its host has a character that no name or IP address has; IPv6 goes into brackets"));
            }
            None => host.to_owned(),
        };
        Ok(Self { host, port })
    }
}

impl TryFrom<String> for Address {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
