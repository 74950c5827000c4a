//! quinn's side: sockets that send at once and receive when it is time.

use super::{LifeNumber, Wire};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};
use tokio::time::{Instant, Sleep};

/// As Linux does: so many packets may leave in one call.
const SEGMENTS_MAX: usize = 10;

struct SimSocket {
    wire: Wire,
    life: LifeNumber,
    address: SocketAddr,
    /// Until the next datagram is there.
    sleep: Mutex<Pin<Box<Sleep>>>,
}

pub(super) fn new(wire: Wire, life: LifeNumber, address: SocketAddr) -> Arc<dyn AsyncUdpSocket> {
    let sleep = Mutex::new(Box::pin(tokio::time::sleep_until(Instant::now())));
    Arc::new(SimSocket { wire, life, address, sleep })
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimSocket({})", self.address)
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let mut state = self.wire.state();
        if state.bound.get(&self.address).is_some_and(|bound| bound.life == self.life) {
            state.bound.remove(&self.address);
        }
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let now = Instant::now();
        let mut state = self.wire.state();
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for piece in transmit.contents.chunks(size) {
            state.send(now, self.life, self.address, transmit.destination, (piece, transmit.ecn));
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let now = Instant::now();
            let mut state = self.wire.state();
            if !state.lives(self.address.ip(), self.life) {
                return Poll::Pending;
            }
            let mut count = 0;
            for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
                let Some(datagram) = state.arrived(now, self.address) else { break };
                let len = datagram.bytes.len().min(buf.len());
                buf[..len].copy_from_slice(&datagram.bytes[..len]);
                *meta = RecvMeta::default();
                (meta.addr, meta.len, meta.stride) = (datagram.from, len, len);
                (meta.ecn, meta.dst_ip) = (datagram.ecn, Some(self.address.ip()));
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            let next = state.next_arrival(self.address);
            if let Some(bound) = state.bound.get_mut(&self.address) {
                bound.waker = Some(cx.waker().clone());
            }
            drop(state);
            let Some(next) = next else { return Poll::Pending };
            let mut sleep = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            sleep.as_mut().reset(next);
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS_MAX
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// There is always room to send.
#[derive(Debug)]
struct Always;

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
