//! UDP in virtual time: one [`Wire`] per world, one [`Host`] per life of a node or client, sockets for quinn.
//!
//! What a real network does to datagrams happens here: they are late, unevenly, so that they overtake each other, get lost,
//! come twice, or stay away in one direction. Each directed link has its own [`Weather`] while one is set for it.
//!
//! **Invariant:** same seed and same calls, same history ([`Wire::fingerprint`]).
//! **Invariant:** nothing that a host sends after it was cut is delivered (asserted). What it sent before is, also to the next
//! life at the same address.
//! Not here: what the datagrams say.

mod socket;

use crate::env::{Datagrams, Env, TaskSet};
use quinn::{AsyncUdpSocket, udp::EcnCodepoint};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};
use tokio::time::Instant;

/// Datagrams that wait at an address; what comes on top is lost, as from a socket's buffer that is full.
const WAITING_MAX: usize = 16 << 10;
/// The first port that is given to who asks for any.
const PORT_ANY: u16 = 40_000;

/// What becomes of datagrams. Virtual time moves in steps of 1 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Least time from one end to the other.
    pub delay: Duration,
    /// Random time on top, for each datagram its own: they overtake each other.
    pub jitter: Duration,
    /// So many of a thousand get lost.
    pub lost: u16,
    /// So many of a thousand come twice.
    pub twice: u16,
    /// So many of a thousand take [`Weather::LATE`] longer.
    pub late: u16,
}

impl Weather {
    /// How late the late ones are at most: longer than any timer of loss detection waits.
    pub const LATE: Duration = Duration::from_millis(300);

    /// A network on a good day.
    pub const CALM: Weather =
        Weather { delay: Duration::from_micros(300), jitter: Duration::from_millis(2), lost: 1, twice: 1, late: 0 };
}

/// The network of a simulated world. Clones share.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<State>>);

/// Number of a host's life: never used twice.
type LifeNumber = u64;

struct State {
    rng: Env,
    weather: Weather,
    links: BTreeMap<(IpAddr, IpAddr), Weather>,
    blocked: BTreeSet<(IpAddr, IpAddr)>,
    hosts: BTreeMap<IpAddr, LifeNumber>,
    bound: BTreeMap<SocketAddr, Bound>,
    /// What is under way, by where it goes and when it arrives.
    mail: BTreeMap<SocketAddr, BTreeMap<(Instant, u64), Datagram>>,
    /// At which number a life was cut.
    cuts: BTreeMap<LifeNumber, u64>,
    counts: Counts,
    fingerprint: u64,
    next: u64,
}

/// What became of datagrams so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Given to a socket.
    pub delivered: u64,
    /// Lost by weather.
    pub lost: u64,
    /// Came twice.
    pub twice: u64,
    /// Were much later than others that were sent after them.
    pub late: u64,
    /// Stayed away since the way was blocked.
    pub blocked: u64,
}

struct Bound {
    life: LifeNumber,
    waker: Option<Waker>,
}

struct Datagram {
    from: SocketAddr,
    life: LifeNumber,
    sent: u64,
    ecn: Option<EcnCodepoint>,
    bytes: Vec<u8>,
}

impl Wire {
    /// A network without hosts; what becomes of datagrams is drawn from `seed`.
    pub fn new(seed: u64, weather: Weather) -> Wire {
        Wire(Arc::new(Mutex::new(State {
            rng: Env::simulated(seed, 0, TaskSet::default()),
            weather,
            links: BTreeMap::new(),
            blocked: BTreeSet::new(),
            hosts: BTreeMap::new(),
            bound: BTreeMap::new(),
            mail: BTreeMap::new(),
            cuts: BTreeMap::new(),
            counts: Counts::default(),
            fingerprint: 0xcbf2_9ce4_8422_2325,
            next: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new life of a host; the one before is cut. Its sockets work until it is cut or the last of them is dropped.
    pub fn join(&self, host: IpAddr) -> Arc<Host> {
        let mut state = self.state();
        state.cut(host);
        let life = state.number();
        state.hosts.insert(host, life);
        Arc::new(Host { wire: self.clone(), address: host, life })
    }

    /// Ends a host's life: nothing that it sends from now on is delivered, and its sockets are gone.
    pub fn cut(&self, host: IpAddr) {
        self.state().cut(host);
    }

    /// Nothing from `from` reaches `to` until healed.
    pub fn block(&self, from: IpAddr, to: IpAddr) {
        self.state().blocked.insert((from, to));
    }

    /// Removes the block from `from` to `to`.
    pub fn unblock(&self, from: IpAddr, to: IpAddr) {
        self.state().blocked.remove(&(from, to));
    }

    /// Removes all blocks, and the weather of single links.
    pub fn heal(&self) {
        let mut state = self.state();
        state.blocked.clear();
        state.links.clear();
    }

    /// From now on all links have this weather, but for those that have their own.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// From now on the link has weather of its own, until healed.
    pub fn set_weather_of(&self, from: IpAddr, to: IpAddr, weather: Weather) {
        self.state().links.insert((from, to), weather);
    }

    /// What became of datagrams so far.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// A digest of times, ends and lengths of all that was sent, and what became of it: equal for equal histories.
    pub fn fingerprint(&self) -> u64 {
        self.state().fingerprint
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn cut(&mut self, host: IpAddr) {
        let Some(life) = self.hosts.remove(&host) else { return };
        let number = self.number();
        self.cuts.insert(life, number);
        self.bound.retain(|_, bound| bound.life != life);
    }

    fn lives(&self, host: IpAddr, life: LifeNumber) -> bool {
        self.hosts.get(&host) == Some(&life)
    }

    fn print(&mut self, from: SocketAddr, to: SocketAddr, bytes: usize, at: Option<Instant>, now: Instant) {
        let late = at.map_or(u64::MAX, |at| u64::try_from((at - now).as_micros()).unwrap_or(u64::MAX));
        let mut put = |value: u64| {
            self.fingerprint = (self.fingerprint ^ value).wrapping_mul(0x100_0000_01b3);
        };
        put(u64::from(from.port()) << 32 | u64::from(to.port()));
        put(bytes as u64);
        put(late);
    }

    /// One datagram leaves.
    fn send(
        &mut self,
        now: Instant,
        life: LifeNumber,
        from: SocketAddr,
        to: SocketAddr,
        piece: (&[u8], Option<EcnCodepoint>),
    ) {
        let (bytes, ecn) = piece;
        if !self.lives(from.ip(), life) {
            return;
        }
        if self.blocked.contains(&(from.ip(), to.ip())) {
            self.counts.blocked += 1;
            return self.print(from, to, bytes.len(), None, now);
        }
        let weather = self.links.get(&(from.ip(), to.ip())).copied().unwrap_or(self.weather);
        let draw = |of_thousand: u16| of_thousand > 0 && self.rng.random_below(1_000) < u64::from(of_thousand);
        let (lost, twice) = (draw(weather.lost), draw(weather.twice));
        self.counts.lost += u64::from(lost);
        self.counts.twice += u64::from(twice);
        if lost {
            return self.print(from, to, bytes.len(), None, now);
        }
        for _ in 0..1 + usize::from(twice) {
            let at = now + self.time(&weather);
            self.print(from, to, bytes.len(), Some(at), now);
            let sent = self.number();
            let datagram = Datagram { from, life, sent, ecn, bytes: bytes.to_vec() };
            let waiting = self.mail.entry(to).or_default();
            if waiting.len() < WAITING_MAX {
                waiting.insert((at, sent), datagram);
            }
        }
        // Its task looks when the first of them is due.
        if let Some(waker) = self.bound.get_mut(&to).and_then(|bound| bound.waker.take()) {
            waker.wake();
        }
    }

    fn time(&mut self, weather: &Weather) -> Duration {
        let below = |time: Duration| {
            let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            Duration::from_micros(self.rng.random_below(us.saturating_add(1)))
        };
        let jitter = below(weather.jitter);
        if weather.late > 0 && self.rng.random_below(1_000) < u64::from(weather.late) {
            self.counts.late += 1;
            return weather.delay + jitter + below(Weather::LATE);
        }
        weather.delay + jitter
    }

    /// What has arrived at an address by now, oldest first.
    fn arrived(&mut self, now: Instant, at: SocketAddr) -> Option<Datagram> {
        let waiting = self.mail.get_mut(&at)?;
        let first = waiting.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let datagram = first.remove();
        let cut = self.cuts.get(&datagram.life);
        assert!(cut.is_none_or(|cut| datagram.sent < *cut), "a host that was cut has sent something");
        self.counts.delivered += 1;
        Some(datagram)
    }

    fn next_arrival(&self, at: SocketAddr) -> Option<Instant> {
        self.mail.get(&at)?.first_key_value().map(|((at, _), _)| *at)
    }
}

/// One life of a host.
pub struct Host {
    wire: Wire,
    address: IpAddr,
    life: LifeNumber,
}

impl Datagrams for Host {
    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut state = self.wire.state();
        if address.ip() != self.address || !state.lives(self.address, self.life) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let mut address = address;
        if address.port() == 0 {
            let taken = |port| state.bound.contains_key(&SocketAddr::new(address.ip(), port));
            let free = (PORT_ANY..u16::MAX).find(|port| !taken(*port));
            address.set_port(free.ok_or(io::ErrorKind::AddrInUse)?);
        }
        if state.bound.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.bound.insert(address, Bound { life: self.life, waker: None });
        // Nobody read what came while nobody listened.
        let now = Instant::now();
        if let Some(mail) = state.mail.get_mut(&address) {
            mail.retain(|(at, _), _| *at >= now);
        }
        drop(state);
        Ok(socket::new(self.wire.clone(), self.life, address))
    }
}

#[cfg(test)]
mod tests;
