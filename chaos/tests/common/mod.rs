//! What tests of real processes share: ports for their nodes, and patience.

use std::{
    net::{TcpListener, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(180);

/// Tests of one process do not meet.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// The first of thirty, below those that the system gives away.
pub(crate) fn free_ports() -> u16 {
    let is_free =
        |port: u16| UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = 21_000 + u16::try_from(std::process::id() % 100).unwrap() * 30;
    let mut runs = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 200 * 30).take(200);
    runs.find(|port| (0..30).all(|offset| is_free(port + offset))).unwrap()
}

/// Until something is there.
pub(crate) fn wait<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(done) = done() {
            return done;
        }
        assert!(begun.elapsed() < SOON, "{what}: not within {} s", SOON.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
