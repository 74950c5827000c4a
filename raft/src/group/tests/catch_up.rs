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
        world.host_options.catch_up_bytes_per_s = 100 << 10;
        world.restart_all().await;
        let leader = world.leader().await;
        let follower = world.living().map(|(id, _)| id).find(|id| *id != leader).unwrap();
        let sent = |world: &World| world.node(leader).host.as_ref().unwrap().caught_up_bytes();
        // The first entry is older than this life.
        world.pass(1_000).await;
        let first = sent(&world);
        world.propose(leader, 0..100);
        world.all_applied(100).await;
        assert_eq!(sent(&world), first, "who keeps up is served from memory");
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

#[test]
fn what_a_follower_has_not_applied_is_on_its_disk_and_not_in_its_memory() {
    sim(61, async {
        const CACHE: usize = 64 << 10;
        let small = log::Options {
            wal_file_bytes: 64 << 10,
            segment_bytes: 64 << 10,
            cache_bytes: CACHE,
            ..log::Options::default()
        };
        let world = World::start_with(61, 3, small).await;
        let leader = world.leader().await;
        let follower = world.living().map(|(id, _)| id).find(|id| *id != leader).unwrap();
        world.propose(leader, 0..100);
        world.all_applied(100).await;
        let still = world.node(follower);
        still.owner.hold();
        let mut next = 100;
        while next < MISSED {
            // In a few steps: openraft takes 64 commits beyond those that are applied, and then no appends.
            world.propose(leader, next..next + 500);
            next += 500;
            let began = Instant::now();
            while world.node(leader).owner.count() < next {
                assert!(began.elapsed().as_secs() < 5, "the others commit as ever");
                world.pass(5).await;
            }
        }
        world.pass(1_000).await;
        let last = still.group().log().last().unwrap().index;
        assert!(last >= next && still.owner.count() == 100, "it takes all and applies nothing: {last} of {next}");
        let stats = still.directory.as_ref().unwrap().stats();
        // Of entries that are not applied nothing but their places is kept beside the cache.
        let unapplied = (next - 100) * 64;
        eprintln!("{unapplied} bytes are not applied: {stats:?}");
        assert!(unapplied > 4 * CACHE as u64 && stats.cached_bytes <= CACHE, "{stats:?}");
        assert!(stats.wal_bytes < 4 * unapplied, "what is carried forward is not kept twice: {stats:?}");
        still.owner.release();
        world.all_applied(next).await;
        world.check_equal();
        world.pass(1_000).await;
        let stats = still.directory.as_ref().unwrap().stats();
        assert!(stats.wal_bytes <= 6 * (64 << 10), "applied, it leaves the write-ahead log: {stats:?}");
    });
}
