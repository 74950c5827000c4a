//! Followers that are far behind: at a pace of their own, beside everything else.

use super::world::{World, sim};
use crate::log;
use tokio::time::Instant;

const MISSED: u64 = 5_000;

#[test]
fn who_is_far_behind_catches_up_over_the_bulk_connection_and_disturbs_nobody() {
    sim(60, async {
        let small = log::Options {
            wal_file_bytes: 64 << 10,
            segment_bytes: 64 << 10,
            cache_bytes: 64 << 10,
            ..log::Options::default()
        };
        let mut world = World::start_with(60, 3, small).await;
        world.catch_up_bytes_per_s = 100 << 10;
        world.restart_all().await;
        world.initialize(&[1, 2, 3]).await;
        let leader = world.leader().await;
        let follower = world.living().map(|(id, _)| id).find(|id| *id != leader).unwrap();
        world.propose(leader, 0..100);
        world.all_applied(100).await;
        let sent = |world: &World| world.node(leader).host.as_ref().unwrap().caught_up_bytes();
        assert_eq!(sent(&world), 0, "who keeps up is served from memory");
        world.crash(follower);
        let mut next = 100;
        while next < MISSED {
            world.propose(leader, next..next + 200);
            next += 200;
            world.all_applied(next).await;
        }
        let before = sent(&world);
        let began = Instant::now();
        world.restart(follower).await;
        while world.node(follower).owner.count() < next {
            assert!(began.elapsed().as_secs() < 60, "{} of {next}", world.node(follower).owner.count());
            world.propose(leader, next..next + 1);
            next += 1;
            world.pass(50).await;
            assert_eq!(world.node(leader).owner.count(), next, "the others commit as ever");
        }
        let (took, bytes) = (began.elapsed(), sent(&world) - before);
        // What is still in memory (a thousand entries) does not count.
        assert!(bytes > (MISSED - 1_500) * 64, "{bytes} bytes over the bulk connection");
        // The first requests, of up to a mebibyte, go at once; then the pace holds.
        assert!(took.as_secs() >= 2, "{took:?}");
        world.propose(leader, next..next + 100);
        world.all_applied(next + 100).await;
        world.check_equal();
    });
}
