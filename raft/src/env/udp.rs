//! UDP sockets of real nodes.
//!
//! **Invariant:** the system is asked for news of room only after it had none. tokio's own sockets ask always: then each
//! packet that a peer on the same host reads is news to its sender, a wake-up that nobody waits for.

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Must be made and used on the runtime that drives it.
#[derive(Debug)]
struct Socket {
    io: AsyncFd<std::net::UdpSocket>,
    state: UdpSocketState,
    /// The last packet found no room.
    full: AtomicBool,
}

pub(super) fn wrap(socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(new(socket)?)
}

fn new(socket: std::net::UdpSocket) -> io::Result<Arc<Socket>> {
    socket.set_nonblocking(true)?;
    let state = UdpSocketState::new((&socket).into())?;
    let io = registered(socket, Interest::READABLE)?;
    Ok(Arc::new(Socket { io, state, full: AtomicBool::new(false) }))
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe because of types that change their descriptor, as a std socket does not"
)]
fn registered(socket: std::net::UdpSocket, interest: Interest) -> io::Result<AsyncFd<std::net::UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}

impl Socket {
    async fn room(self: Arc<Self>) -> io::Result<()> {
        // A descriptor of its own: the other one stays deaf to room.
        let socket = registered(self.io.get_ref().try_clone()?, Interest::WRITABLE)?;
        let _ = socket.writable().await?;
        self.full.store(false, Relaxed);
        Ok(())
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { socket: self, wait: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send(self.io.get_ref().into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.full.store(true, Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            match self.state.recv(self.io.get_ref().into(), bufs, meta) {
                Ok(count) => {
                    // Linux fills all that it can: there is no more, and whatever comes is news again.
                    if cfg!(target_os = "linux") && count < bufs.len() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// How one connection waits for room.
struct Room {
    socket: Arc<Socket>,
    wait: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Room")
    }
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.wait.is_none() {
            if !self.socket.full.load(Relaxed) {
                return Poll::Ready(Ok(()));
            }
            self.wait = Some(Box::pin(self.socket.clone().room()));
        }
        let room = self.wait.as_mut().map_or(Poll::Ready(Ok(())), |wait| wait.as_mut().poll(cx));
        if room.is_ready() {
            self.wait = None;
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, net::UdpSocket, time::Duration};

    /// Far above what it takes.
    const SOON: Duration = Duration::from_secs(60);

    fn socket() -> Arc<Socket> {
        new(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap()
    }

    #[tokio::test]
    async fn nothing_that_came_stays_unread_however_much_comes_at_once() {
        let (from, to) = (socket(), socket());
        let destination = to.local_addr().unwrap();
        let transmit = Transmit { destination, ecn: None, contents: &[7; 1200], segment_size: None, src_ip: None };
        let mut buffers = vec![vec![0; 65_536]; 4];
        for round in 0..200 {
            let (sent, mut came) = (1 + round % 9, 0);
            for _ in 0..sent {
                from.try_send(&transmit).unwrap();
            }
            while came < sent {
                let mut metas = [RecvMeta::default(); 4];
                let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
                let read = poll_fn(|cx| to.poll_recv(cx, &mut slices, &mut metas));
                let count = tokio::time::timeout(SOON, read).await.expect("it was sent").unwrap();
                came += metas[..count].iter().map(|meta| meta.len / meta.stride).sum::<usize>();
            }
        }
    }

    /// A loopback interface always has room: that there was none is pretended.
    #[tokio::test]
    async fn who_found_no_room_waits_until_it_is_told_of_some() {
        let socket = socket();
        let mut rooms = [(); 2].map(|()| socket.clone().create_io_poller());
        poll_fn(|cx| rooms[0].as_mut().poll_writable(cx)).await.unwrap();
        for _ in 0..3 {
            socket.full.store(true, Relaxed);
            for room in &mut rooms {
                assert!(poll_fn(|cx| Poll::Ready(room.as_mut().poll_writable(cx))).await.is_pending());
            }
            for room in &mut rooms {
                let told = tokio::time::timeout(SOON, poll_fn(|cx| room.as_mut().poll_writable(cx)));
                told.await.expect("there is room").unwrap();
            }
        }
    }
}
