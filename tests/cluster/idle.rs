//! Many groups that do nothing: what they cost.

use crate::support::{self, Cluster, seconds, topic};
use std::time::{Duration, Instant};

/// Groups per topic: creation is one command of the controller each.
const PER_TOPIC: u64 = 100;
/// A group that took an entry is heartbeaten for five seconds more.
const QUIET: Duration = Duration::from_secs(8);

#[test]
fn a_thousand_idle_groups_cost_next_to_nothing() {
    let _turn = support::turn();
    let groups = support::number("HIGHWATER_GROUPS", 1_000);
    let time = Duration::from_secs(support::number("HIGHWATER_IDLE_SECONDS", 10));
    let cluster = Cluster::three("\n[log]\nwal_file_bytes = 16_777_216\nfree_bytes_min = 134_217_728\n");
    let runtime = support::runtime();
    runtime.block_on(async {
        let client = cluster.client().await;
        support::settled(&client).await;
        let look = || -> Vec<_> {
            let one = |node: &support::Node| (support::used(node.pid()).cpu_ms, support::rss_kib(node.pid()));
            cluster.nodes.iter().map(one).collect()
        };
        let measure = async || {
            tokio::time::sleep(QUIET).await;
            let (before, begun) = (look(), Instant::now());
            tokio::time::sleep(time).await;
            let (after, wall_ms) = (look(), u64::try_from(begun.elapsed().as_millis()).unwrap());
            let of = |(before, after): (&(u64, u64), &(u64, u64))| ((after.0 - before.0) * 1_000 / wall_ms, after.1);
            before.iter().zip(&after).map(of).collect::<Vec<_>>()
        };
        let without = measure().await;
        let begun = Instant::now();
        for n in 0..groups.div_ceil(PER_TOPIC) {
            let partitions = u32::try_from(PER_TOPIC.min(groups - n * PER_TOPIC)).unwrap();
            support::create(&client, &topic(&format!("idle-{n}")), partitions).await;
        }
        support::settled(&client).await;
        let made = begun.elapsed();
        let with = measure().await;
        eprintln!("{groups} groups of three replicas made in {}", seconds(made));
        for (node, (without, with)) in (1..).zip(without.iter().zip(&with)) {
            eprintln!(
                "node {node}: {} ms of CPU a second without, {} with them; RSS {} -> {} KiB ({:.0} KiB a replica)",
                without.0,
                with.0,
                without.1,
                with.1,
                with.1.saturating_sub(without.1) as f64 / groups as f64,
            );
        }
        let status = client.admin().cluster_status().await.unwrap();
        assert_eq!((u64::from(status.partitions), status.leaderless, status.offline), (groups, 0, 0));
    });
}
