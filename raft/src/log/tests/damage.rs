//! Torn is cut; damaged is said.

use super::*;

/// Two groups with one entry each, in frames of their own, sealed or not. Gives the node after its process died.
async fn two_groups(seal: bool) -> Node {
    let mut node = Node::new(11);
    let directory = node.open().await;
    let (g, h) = (create(&directory, G).await, create(&directory, H).await);
    append(&h, vec![entry(0, 2, 900)]).await.unwrap();
    append(&g, vec![entry(0, 1, 700)]).await.unwrap();
    if seal {
        sealed().await;
    }
    drop((directory, g, h));
    node.kill();
    node
}

fn payload_of(term: u64, len: usize) -> Vec<u8> {
    entry(0, term, len).payload.contiguous().to_vec()
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_in_a_synced_record_makes_its_group_faulty_for_ever() {
    local(async {
        let mut node = two_groups(true).await;
        let file = node.wal_files().pop().unwrap();
        let at = node.find(&file, &payload_of(2, 900)).unwrap();
        node.disk.flip_bit(&file, at + 500, 3);
        for _ in 0..3 {
            let directory = node.open().await;
            assert!(matches!(health(&directory, H), Health::Faulty(_)));
            assert!(directory.group(H).is_none());
            let good = directory.group(G).unwrap();
            assert_eq!(good.read(0, 1, 1).await.unwrap(), vec![entry(0, 1, 700)]);
            node.kill();
        }
        let directory = node.open().await;
        assert!(matches!(directory.create(H, ReplicaId(H.0 + 1)).await, Err(CreateError::Dead { .. })));
        let reborn = directory.create(H, ReplicaId(77)).await.unwrap();
        append(&reborn, vec![entry(0, 9, 10)]).await.unwrap();
        node.power_loss();
        let directory = node.open().await;
        assert_eq!(health(&directory, H), Health::Good);
        assert_eq!(directory.group(H).unwrap().read(0, 1, 1).await.unwrap(), vec![entry(0, 9, 10)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_frame_counts_as_synced_once_it_is_sealed() {
    for seal in [true, false] {
        local(async {
            let node = two_groups(seal).await;
            let file = node.wal_files().pop().unwrap();
            let at = node.find(&file, &payload_of(1, 700)).unwrap();
            node.disk.flip_bit(&file, at, 0);
            let directory = node.open().await;
            assert_eq!(health(&directory, H), Health::Good);
            if seal {
                assert!(matches!(health(&directory, G), Health::Faulty(_)));
            } else {
                assert_eq!(directory.group(G).unwrap().last(), None, "cut as torn");
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_in_a_frames_directory_makes_all_groups_faulty() {
    local(async {
        let mut node = two_groups(true).await;
        let file = node.wal_files().pop().unwrap();
        let at = node.find(&file, &payload_of(2, 900)).unwrap();
        node.disk.flip_bit(&file, at / 4096 * 4096 + 20, 1);
        for _ in 0..2 {
            let directory = node.open().await;
            for group in [G, H] {
                assert!(matches!(health(&directory, group), Health::Faulty(_)));
            }
            node.kill();
        }
        let directory = node.open().await;
        directory.create(G, ReplicaId(88)).await.unwrap();
        node.power_loss();
        assert_eq!(health(&node.open().await, G), Health::Good, "old damage is not held against a new replica");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_bit_of_a_sealed_log_is_guarded() {
    local(async {
        let template = two_groups(true).await;
        let file = template.wal_files().pop().unwrap();
        let content = template.disk.content(&file).unwrap();
        let used = content.iter().rposition(|b| *b != 0).unwrap() as u64;
        for byte in (0..used).step_by(131) {
            let node = two_groups(true).await;
            let before = content[usize::try_from(byte).unwrap()];
            node.disk.flip_bit(&file, byte, 2);
            let opened = Directory::open(node.disk.clone(), small(), node.env.clone()).await;
            let Ok(directory) = opened else { continue };
            let seen = directory.groups().len();
            assert!(seen == 2 || directory.damaged().is_some(), "byte {byte}: {seen} groups and no word about it");
            if seen < 2 {
                continue;
            }
            for (group, term, len) in [(G, 1, 700), (H, 2, 900)] {
                if health(&directory, group) == Health::Good {
                    let found = directory.group(group).unwrap().read(0, 9, usize::MAX).await.unwrap();
                    assert_eq!(found, vec![entry(0, term, len)], "byte {byte} (was {before}) silently lost an entry");
                }
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_makes_all_groups_faulty() {
    local(async {
        let mut node = Node::new(5);
        let directory = node.open_with(Options { wal_files_max: 100, ..small() }).await;
        let group = create(&directory, G).await;
        for i in 0..60 {
            append(&group, vec![entry(i, 1, 9000)]).await.unwrap();
        }
        assert!(node.wal_files().len() > 2, "{:?}", node.wal_files());
        sealed().await;
        node.kill();
        let oldest = node.wal_files().remove(0);
        crate::disk::Disk::remove(&*node.disk, &oldest).await.unwrap();
        assert!(matches!(health(&node.open().await, G), Health::Faulty(_)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_newest_file_is_missed_too() {
    local(async {
        let mut node = Node::new(6);
        let directory = node.open().await;
        let group = create(&directory, G).await;
        for i in 0..30 {
            append(&group, vec![entry(i, 1, 9000)]).await.unwrap();
        }
        sealed().await;
        node.kill();
        let before = directory.id();
        let newest = node.wal_files().pop().unwrap();
        crate::disk::Disk::remove(&*node.disk, &newest).await.unwrap();
        let mut since = Vec::new();
        for _ in 0..2 {
            let directory = node.open().await;
            assert!(matches!(health(&directory, G), Health::Faulty(_)));
            since.push(directory.id());
            node.kill();
        }
        // What was made in it may be forgotten, so no id given out for it before may come back.
        assert!(since[0] != before && since[1] == since[0], "{before:?}, then {since:?}");
        let directory = node.open().await;
        directory.create(G, ReplicaId(88)).await.unwrap();
        node.power_loss();
        assert_eq!(health(&node.open().await, G), Health::Good, "it is not missed for ever");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_newer_file_does_not_stand_for_a_missing_one() {
    use super::super::walfiles;
    use crate::disk::Disk;
    local(async {
        for missing in [false, true] {
            let mut node = two_groups(true).await;
            let id = node.open().await.id();
            node.kill();
            // As a crash while files are switched leaves it.
            let newest = node.wal_files().pop().unwrap();
            let next = walfiles::sequence(newest.strip_prefix("wal/").unwrap()).unwrap() + 1;
            node.disk.open(&walfiles::path(next), true).await.unwrap();
            let note = node.disk.open(walfiles::NEWEST, false).await.unwrap();
            note.write_at(0, &[walfiles::encode_newest(id, next)]).await.unwrap();
            if missing {
                node.disk.remove(&newest).await.unwrap();
            }
            let directory = node.open().await;
            for group in [G, H] {
                assert_eq!(matches!(health(&directory, group), Health::Faulty(_)), missing, "{group}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_start_copied_is_sealed_too() {
    local(async {
        let mut node = two_groups(false).await;
        let directory = node.open().await;
        sealed().await;
        drop(directory);
        node.kill();
        let file = node.wal_files().pop().unwrap();
        let at = node.find(&file, &payload_of(1, 700)).expect("copied to the new file");
        node.disk.flip_bit(&file, at, 0);
        assert!(matches!(health(&node.open().await, G), Health::Faulty(_)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn known_damage_of_one_record_hides_no_other_of_its_frame() {
    local(async {
        for header in [false, true] {
            let mut node = Node::new(11);
            let directory = node.open().await;
            let (g, h) = (create(&directory, G).await, create(&directory, H).await);
            h.append(vec![entry(0, 2, 900)], Box::new(|_| ()));
            append(&g, vec![entry(0, 1, 700)]).await.unwrap();
            sealed().await;
            drop((directory, g, h));
            node.kill();
            let file = node.wal_files().pop().unwrap();
            let (of_h, of_g) = (payload_of(2, 900), payload_of(1, 700));
            let at = node.find(&file, &of_h).unwrap();
            let other = node.find(&file, &of_g).unwrap();
            assert_eq!(at / 4096, other / 4096, "one frame");
            node.disk.flip_bit(&file, at, 3);
            let directory = node.open().await;
            assert!(matches!(health(&directory, H), Health::Faulty(_)));
            assert_eq!(health(&directory, G), Health::Good);
            sealed().await;
            node.kill();
            node.disk.flip_bit(&file, if header { at / 4096 * 4096 + 20 } else { other }, 3);
            let directory = node.open().await;
            assert!(matches!(health(&directory, G), Health::Faulty(_)), "header: {header}");
        }
    })
    .await;
}
