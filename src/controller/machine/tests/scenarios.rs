//! What a reader should know of the rules, one scenario each.

use super::*;

#[test]
fn a_cluster_begins_with_its_seeds() {
    check!("
        register 1 7
        bootstrap 1,2,3 0
        bootstrap 0,2 2
        bootstrap 3,1,2 2
        bootstrap 1,2,3 2
        nodes
        group 0
        group 1
        group 2
        register 2 99
        register 4 44
        register 4 44
        nodes
        group 0
        hosted 4
        version
    ", @r#"
        register 1 7: refused: the cluster is not bootstrapped yet
        bootstrap 1,2,3 0: refused: the bootstrap makes no sense: there are 1 to 16 homes of consumer groups
        bootstrap 0,2 2: refused: 0 is not a node id: they are 1 to 65535
        bootstrap 3,1,2 2: Bootstrapped { cluster_id: 20015998343868 }
        bootstrap 1,2,3 2: Bootstrapped { cluster_id: 20015998343868 }
          node 1 directory unknown native ""
          node 2 directory unknown native ""
          node 3 directory unknown native ""
          0: 1 Voter on 1, 2 Voter on 2, 3 Voter on 3
          1: 65536 Voter on 1, 65537 Voter on 2, 65538 Voter on 3
          2: 65539 Voter on 2, 65540 Voter on 1, 65541 Voter on 3
        register 2 99: Registered { cluster_id: 20015998343868, controller: ReplicaId(2), lost: 0 }
        register 4 44: Registered { cluster_id: 20015998343868, controller: ReplicaId(65542), lost: 0 }
        register 4 44: Registered { cluster_id: 20015998343868, controller: ReplicaId(65542), lost: 0 }
          node 1 directory unknown native ""
          node 2 directory 0000000000000063 native "n2:7420"
          node 3 directory unknown native ""
          node 4 directory 000000000000002c native "n4:7420"
          0: 1 Voter on 1, 2 Voter on 2, 3 Voter on 3, 65542 Observer on 4
          4 hosts 0/65542
          version 4
        "#);
}

#[test]
fn topics_are_placed_evenly_and_have_ids_of_their_own() {
    check!("
        quiet bootstrap 1,2,3 3
        create orders id=1 p=3
        group 1024
        group 1025
        group 1026
        create orders id=1 p=3
        create orders id=2
        create other id=1
        create logs id=3 p=2 r=2 avoid=2
        group 1027
        group 1028
        topics
        delete orders
        delete orders
        group 1024
        create orders id=4 r=1
        delete orders id=1
        topics
    ", @"
        create orders id=1 p=3: 3 partitions of 3
          1024: 65545 Voter on 1, 65546 Voter on 2, 65547 Voter on 3
          1025: 65548 Voter on 2, 65549 Voter on 1, 65550 Voter on 3
          1026: 65551 Voter on 3, 65552 Voter on 1, 65553 Voter on 2
        create orders id=1 p=3: 3 partitions of 3
        create orders id=2: refused: topic orders exists
        create other id=1: refused: a topic with id 01010101-0101-0101-0101-010101010101 exists
        create logs id=3 p=2 r=2 avoid=2: 2 partitions of 2
          1027: 65554 Voter on 1, 65555 Voter on 3
          1028: 65556 Voter on 3, 65557 Voter on 1
          logs groups 1027 1028
          orders groups 1024 1025 1026
        delete orders: TopicDeleted { id: 01010101-0101-0101-0101-010101010101 }
        delete orders: refused: topic orders does not exist
          1024: gone
        create orders id=4 r=1: 1 partitions of 1
        delete orders id=1: refused: topic orders does not exist
          logs groups 1027 1028
          orders groups 1029
        ");
}

#[test]
fn what_cannot_be_served_is_refused() {
    check!("
        quiet bootstrap 1,2,3 1
        create a id=1 r=4
        create a id=1 r=9
        create a id=1 p=1001
        create a id=1 retention.msec=5
        create a id=1 nonsense=5
        create a id=1 retention.ms=soon
        create a id=1 retention.bytes=0
        create a id=1 max.batch.bytes=99999999
        create a id=1 compression=gzip
        topics
        create a id=1 p=4
        alter a p=3
        alter b p=3
        alter a p=5 compression=never
        topics
        block 9
        faulty 7 7
        faulty 1024 7
    ", @r#"
        create a id=1 r=4: refused: replication factor 4 needs as many nodes, there are 3
        create a id=1 r=9: refused: replication factor 9 is above the limit of 7
        create a id=1 p=1001: refused: 1001 partitions are above the limit of 1000 per topic
        create a id=1 retention.msec=5: refused: there is no setting "retention.msec": did you mean "retention.ms"?
        create a id=1 nonsense=5: refused: there is no setting "nonsense"
        create a id=1 retention.ms=soon: refused: retention.ms cannot be "soon": it is a number above 0, or unlimited
        create a id=1 retention.bytes=0: refused: retention.bytes cannot be "0": it is a number above 0, or unlimited
        create a id=1 max.batch.bytes=99999999: refused: max.batch.bytes cannot be "99999999": it is a number of bytes from 1024 to 1048576
        create a id=1 compression=gzip: refused: compression cannot be "gzip": it is none, lz4, zstd
        create a id=1 p=4: 4 partitions of 3
        alter a p=3: refused: topic a has 4 partitions and cannot have 3
        alter b p=3: refused: topic b does not exist
        alter a p=5 compression=never: refused: compression cannot be "never": it is none, lz4, zstd
          a groups 1024 1025 1026 1027
        block 9: refused: node 9 is not known
        faulty 7 7: refused: group 7 does not exist (any more)
        faulty 1024 7: refused: group 1024 has no replica 7 (any more)
        "#);
}

#[test]
fn settings_are_altered_as_a_whole() {
    check!("
        quiet bootstrap 1,2,3 1
        create a id=1 retention.ms=0005 compression=zstd
        topics
        alter a p=2 retention.ms=unlimited compression=default max.batch.bytes=65536
        topics
        version
        alter a p=2 retention.ms=unlimited
        version
    ", @"
        create a id=1 retention.ms=0005 compression=zstd: 1 partitions of 3
          a groups 1024 compression=zstd retention.ms=5
        alter a p=2 retention.ms=unlimited compression=default max.batch.bytes=65536: TopicAltered
          a groups 1024 1025 max.batch.bytes=65536 retention.ms=unlimited
          version 3
        alter a p=2 retention.ms=unlimited: TopicAltered
          version 3
        ");
}

#[test]
fn a_wiped_node_gets_new_replicas_that_are_swapped_in() {
    check!("
        quiet bootstrap 1,2,3 1
        quiet register 1 11
        quiet register 2 22
        quiet register 3 33
        create a id=1
        group 1024
        register 2 23
        group 0
        group 1024
        hosted 2
        register 2 23
        swapped 1024 65539,65540,65541
        caught-up 1024 65544
        caught-up 1024 65544
        group 1024
        swapped 1024 65540,65541,65544
        swapped 1024 65539,65540,65541
        caught-up 1024 65544
        group 1024
        hosted 2
    ", @"
        create a id=1: 1 partitions of 3
          1024: 65539 Voter on 2, 65540 Voter on 1, 65541 Voter on 3
        register 2 23: Registered { cluster_id: 20015998343868, controller: ReplicaId(65542), lost: 3 }
          0: 1 Voter on 1, 2 Dying on 2, 65542 Learner on 2, 3 Voter on 3
          1024: 65539 Dying on 2, 65544 Learner on 2, 65540 Voter on 1, 65541 Voter on 3
          2 hosts 0/65542 1/65543 1024/65544
        register 2 23: Registered { cluster_id: 20015998343868, controller: ReplicaId(65542), lost: 0 }
        swapped 1024 65539,65540,65541: Noted
        caught-up 1024 65544: Noted
        caught-up 1024 65544: Noted
          1024: 65539 Dying on 2, 65544 Ready on 2, 65540 Voter on 1, 65541 Voter on 3
        swapped 1024 65540,65541,65544: Noted
        swapped 1024 65539,65540,65541: Noted
        caught-up 1024 65544: Noted
          1024: 65544 Voter on 2, 65540 Voter on 1, 65541 Voter on 3
          2 hosts 0/65542 1/65543 1024/65544
        ");
}

#[test]
fn a_successor_that_is_lost_too_is_replaced_too() {
    check!("
        quiet bootstrap 1,2,3 1
        create a id=1
        faulty 1024 65539
        group 1024
        faulty 1024 65542
        group 1024
        caught-up 1024 65543
        faulty 1024 65543
        group 1024
        caught-up 1024 65544
        swapped 1024 65540,65541,65544
        group 1024
    ", @"
        create a id=1: 1 partitions of 3
        faulty 1024 65539: Noted
          1024: 65539 Dying on 2, 65542 Learner on 2, 65540 Voter on 1, 65541 Voter on 3
        faulty 1024 65542: Noted
          1024: 65539 Dying on 2, 65543 Learner on 2, 65540 Voter on 1, 65541 Voter on 3
        caught-up 1024 65543: Noted
        faulty 1024 65543: Noted
          1024: 65539 Dying on 2, 65543 Dying on 2, 65544 Learner on 2, 65540 Voter on 1, 65541 Voter on 3
        caught-up 1024 65544: Noted
        swapped 1024 65540,65541,65544: Noted
          1024: 65544 Voter on 2, 65540 Voter on 1, 65541 Voter on 3
        ");
}

#[test]
fn a_lost_majority_is_offline_and_keeps_what_is_left() {
    check!("
        quiet bootstrap 1,2,3 1
        quiet register 3 33
        create a id=1
        create single id=2 r=1
        group 1025
        faulty 1024 65539
        faulty 1024 65540
        group 1024
        faulty 1024 65540
        hosted 1
        register 3 34
        group 1024
        group 1025
        hosted 3
    ", @"
        create a id=1: 1 partitions of 3
        create single id=2 r=1: 1 partitions of 1
          1025: 65542 Voter on 3
        faulty 1024 65539: Noted
        faulty 1024 65540: Noted
          1024: 65539 Dying on 2, 65543 Learner on 2, 65540 Dying on 1, 65541 Voter on 3 OFFLINE
        faulty 1024 65540: Noted
          1 hosts 0/1 1/65536 1024/65540
        register 3 34: Registered { cluster_id: 20015998343868, controller: ReplicaId(65544), lost: 4 }
          1024: 65539 Dying on 2, 65543 Learner on 2, 65540 Dying on 1, 65541 Dying on 3 OFFLINE
          1025: 65542 Dying on 3 OFFLINE
          3 hosts 0/65544 1/65545 1024/65541 1025/65542
        ");
}

/// It ends what is offline, with the successor that had begun or without; what is damaged in it stays lost.
#[test]
fn a_directory_that_is_back_brings_back_what_is_offline() {
    check!("
        quiet bootstrap 1,2,3 1
        quiet register 2 22
        quiet register 3 33
        create a id=1
        create b id=2
        create c id=3
        register 3 34
        caught-up 1026 65552
        faulty 1024 65539
        register 2 23
        group 1024
        group 1025
        group 1026
        quiet register 3 35
        register 3 33
        group 1024
        group 1025
        group 1026
        register 2 22
        group 1024
        group 1026
    ", @"
        create a id=1: 1 partitions of 3
        create b id=2: 1 partitions of 3
        create c id=3: 1 partitions of 3
        register 3 34: Registered { cluster_id: 20015998343868, controller: ReplicaId(65548), lost: 5 }
        caught-up 1026 65552: Noted
        faulty 1024 65539: Noted
        register 2 23: Registered { cluster_id: 20015998343868, controller: ReplicaId(65553), lost: 4 }
          1024: 65539 Dying on 2, 65540 Voter on 1, 65541 Dying on 3, 65550 Learner on 3 OFFLINE
          1025: 65542 Dying on 3, 65551 Learner on 3, 65543 Voter on 1, 65544 Dying on 2 OFFLINE
          1026: 65545 Voter on 1, 65546 Dying on 2, 65547 Dying on 3, 65552 Ready on 3 OFFLINE
        register 3 33: Registered { cluster_id: 20015998343868, controller: ReplicaId(65558), lost: 4 }
          1024: 65539 Dying on 2, 65563 Learner on 2, 65540 Voter on 1, 65541 Voter on 3
          1025: 65542 Voter on 3, 65543 Voter on 1, 65544 Dying on 2, 65564 Learner on 2
          1026: 65545 Voter on 1, 65546 Dying on 2, 65547 Dying on 3, 65552 Dying on 3 OFFLINE
        register 2 22: Registered { cluster_id: 20015998343868, controller: ReplicaId(65565), lost: 4 }
          1024: 65539 Dying on 2, 65567 Learner on 2, 65540 Voter on 1, 65541 Voter on 3
          1026: 65545 Voter on 1, 65546 Voter on 2, 65547 Dying on 3, 65552 Dying on 3, 65569 Learner on 3
        ");
}

#[test]
fn a_majority_that_only_seems_lost_gets_its_successors_with_the_report_of_a_swap() {
    check!("
        quiet bootstrap 1,2,3 1
        create a id=1
        faulty 1024 65539
        caught-up 1024 65542
        faulty 1024 65540
        group 1024
        swapped 1024 65540,65541,65542
        group 1024
    ", @"
        create a id=1: 1 partitions of 3
        faulty 1024 65539: Noted
        caught-up 1024 65542: Noted
        faulty 1024 65540: Noted
          1024: 65539 Dying on 2, 65542 Ready on 2, 65540 Dying on 1, 65541 Voter on 3 OFFLINE
        swapped 1024 65540,65541,65542: Noted
          1024: 65542 Voter on 2, 65540 Dying on 1, 65543 Learner on 1, 65541 Voter on 3
        ");
}

/// With three nodes wiped one after the other, faster than swaps are reported.
#[test]
fn a_node_never_gets_back_the_id_of_a_replica_of_the_controller_that_is_lost() {
    check!("
        quiet bootstrap 1,2,3 1
        quiet register 1 11
        quiet register 2 22
        quiet register 3 33
        register 3 34
        caught-up 0 65539
        register 1 12
        group 0
        caught-up 0 65541
        register 2 23
        group 0
    ", @"
        register 3 34: Registered { cluster_id: 20015998343868, controller: ReplicaId(65539), lost: 2 }
        caught-up 0 65539: Noted
        register 1 12: Registered { cluster_id: 20015998343868, controller: ReplicaId(65541), lost: 2 }
          0: 1 Dying on 1, 65541 Learner on 1, 2 Voter on 2, 3 Dying on 3, 65539 Ready on 3 OFFLINE
        caught-up 0 65541: Noted
        register 2 23: Registered { cluster_id: 20015998343868, controller: ReplicaId(65542), lost: 2 }
          0: 1 Dying on 1, 65541 Ready on 1, 2 Dying on 2, 65542 Learner on 2, 3 Dying on 3, 65539 Ready on 3 OFFLINE
        ");
}

#[test]
fn producer_ids_are_of_the_cluster_and_given_once() {
    check!("
        block 1
        quiet bootstrap 1 1
        block 1
        block 1
    ", @"
        block 1: refused: the cluster is not bootstrapped yet
        block 1: ProducerBlock { first: ProducerId(8690465139150815232), count: 1000 }
        block 1: ProducerBlock { first: ProducerId(8690465139150816232), count: 1000 }
        ");
    let mut machine = ControllerMachine::default();
    machine.apply(AT, &bootstrap(&[1], 1).encode(), &mut Vec::new());
    machine.next_producer_block = (1 << limits::PRODUCER_COUNTER_BITS) / limits::PRODUCER_ID_BLOCK - 1;
    let take = command("block 1").encode();
    match machine.apply(AT, &take, &mut Vec::new()) {
        Reply::ProducerBlock { first, count } => {
            let last = first.0 + i64::try_from(count).unwrap() - 1;
            assert_eq!((first.0 >> 40, last >> 40), (0x34_56_78_9a_bc & 0x7f_ffff, 0x34_56_78_9a_bc & 0x7f_ffff));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(machine.apply(AT, &take, &mut Vec::new()), Reply::Refused(Refusal::NoProducerIds));
}

#[test]
fn a_full_node_takes_no_more_replicas() {
    let mut machine = ControllerMachine::default();
    machine.apply(AT, &bootstrap(&[1], 1).encode(), &mut Vec::new());
    let mut last = String::new();
    for i in 1..=4 {
        last = told(machine.apply(AT, &command(&format!("create t{i} id={i} p=1000")).encode(), &mut Vec::new()));
    }
    insta::assert_snapshot!(last, @"refused: node 1 would host more than 4000 replicas");
}

#[test]
fn settings_have_defaults() {
    let mut settings = Settings::default();
    let all = |s: &Settings| (s.retention_ms(Some(5)), s.retention_bytes(None), s.batch_bytes_max(), s.compression());
    assert_eq!(all(&settings), (Some(5), None, limits::BATCH_BYTES_MAX, None));
    for (name, value) in [(RETENTION_MS, "-1"), (RETENTION_BYTES, "7"), (MAX_BATCH_BYTES, "2048"), (COMPRESSION, "lz4")]
    {
        settings.set(name, Some(value)).unwrap();
    }
    assert_eq!(all(&settings), (None, Some(7), 2_048, Some(crate::batch::Compression::Lz4)));
}

#[test]
fn leaderships_go_home_to_nodes_that_are_back() {
    use crate::controller::placement::leader_moves;
    let mut machine = ControllerMachine::default();
    for line in ["create a id=1 p=6", "faulty 1024 65539"] {
        if machine.metadata().version == 0 {
            machine.apply(AT, &bootstrap(&[1, 2, 3], 1).encode(), &mut Vec::new());
        }
        machine.apply(AT, &command(line).encode(), &mut Vec::new());
    }
    let metadata = machine.metadata();
    let leaders = (1_024..1_030).map(|group| (GroupId(group), NodeId(if group == 1_029 { 2 } else { 3 }))).collect();
    let moves = |alive: &[u32], most: usize| -> Vec<_> {
        let alive = alive.iter().map(|node| NodeId(*node)).collect();
        let moves = leader_moves(&metadata, &leaders, &alive, most);
        moves.into_iter().map(|m| format!("{}: {} to {}", m.group, m.from, m.to)).collect()
    };
    let preferred: Vec<_> = (1_024..1_030).map(|g| metadata.groups[&GroupId(g)].preferred().unwrap().0).collect();
    insta::assert_snapshot!(format!("{preferred:?}\n{:?}\n{:?}\n{:?}", moves(&[1, 2, 3], 9), moves(&[2, 3], 9), moves(&[1, 2, 3], 1)), @r#"
        [2, 3, 1, 2, 3, 1]
        ["1026: 3 to 1", "1027: 3 to 2", "1029: 2 to 1"]
        ["1027: 3 to 2"]
        ["1026: 3 to 1"]
        "#);
}
