//! What a reader should know of the rules, one scenario each.

use super::*;

#[test]
fn partitions_move_only_after_their_owner_gave_them_up() {
    check!("
        topics 1 orders:4
        join g a orders start=earliest
        join g b orders
        show g
        report g a 2 orders/0=5 orders/1=5
        show g
        report g a 4 orders/0=5 orders/1=5 orders/2=9
        report g a 4 orders/0=5 orders/1=5
        show g
    ", @r#"
        topics 1 orders:4: TopicsKnown { version: 1 }
        join g a orders start=earliest: a joined in 2, made it from earliest
          watch a #1 10000 ms
          tell ["a"] generation 2
        join g b orders: b joined in 4
          watch b #2 10000 ms
          tell ["a"] generation 4
          generation 4
          a: orders/0, orders/1, orders/2 to be given up, orders/3 to be given up
          b: nothing
        report g a 2 orders/0=5 orders/1=5: generation 4
          generation 4
          a: orders/0, orders/1, orders/2 to be given up, orders/3 to be given up
          b: nothing
        report g a 4 orders/0=5 orders/1=5 orders/2=9: generation 5
          tell ["b"] generation 5
        report g a 4 orders/0=5 orders/1=5: generation 6
          tell ["b"] generation 6
          generation 6
          a: orders/0, orders/1
          b: orders/2 (to 9 x1), orders/3
        "#);
}

#[test]
fn how_far_a_member_that_expired_was_given_records_is_unknown_until_its_successor_found_the_end() {
    check!("
        topics 1 orders:1
        join g a orders
        report g a 2 orders/0=10
        expire g a 1
        join g b orders
        show g
        commit g b 4 orders/0=20
        report g b 4 orders/0=0
        show g
        report g b 4 orders/0=30
        show g
        commit g b 4 orders/0=30
        show g
    ", @r#"
        topics 1 orders:1: TopicsKnown { version: 1 }
        join g a orders: a joined in 2, made it from latest
          watch a #1 10000 ms
          tell ["a"] generation 2
        report g a 2 orders/0=10: generation 2
        expire g a 1: Expired
          gone a
        join g b orders: b joined in 4
          watch b #2 10000 ms
          tell ["b"] generation 4
          generation 4
          b: orders/0 (to nobody knows where x1)
        commit g b 4 orders/0=20: committed
        report g b 4 orders/0=0: generation 4
          generation 4
          b: orders/0@20 (to nobody knows where x1)
        report g b 4 orders/0=30: generation 4
          generation 4
          b: orders/0@20 (to 30 x1)
        commit g b 4 orders/0=30: committed
          generation 4
          b: orders/0@30
        "#);
}

#[test]
fn what_was_given_and_not_committed_is_given_again_and_says_so() {
    check!("
        topics 1 orders:1
        join g a orders
        join g b orders
        commit g a 2 orders/0=10
        report g a 2 orders/0=30
        leave g a
        show g
        report g b 4 orders/0=25
        leave g b
        join g c orders
        show g
        commit g c 6 orders/0=29
        show g
        commit g c 6 orders/0=30
        show g
        leave g c
        join g d orders
        show g
    ", @r#"
        topics 1 orders:1: TopicsKnown { version: 1 }
        join g a orders: a joined in 2, made it from latest
          watch a #1 10000 ms
          tell ["a"] generation 2
        join g b orders: b joined in 3
          watch b #2 10000 ms
        commit g a 2 orders/0=10: committed
        report g a 2 orders/0=30: generation 3
        leave g a: Left
          gone a
          tell ["b"] generation 4
          generation 4
          b: orders/0@10 (to 30 x1)
        report g b 4 orders/0=25: generation 4
        leave g b: Left
          gone b
        join g c orders: c joined in 6
          watch c #3 10000 ms
          tell ["c"] generation 6
          generation 6
          c: orders/0@10 (to 30 x2)
        commit g c 6 orders/0=29: committed
          generation 6
          c: orders/0@29 (to 30 x2)
        commit g c 6 orders/0=30: committed
          generation 6
          c: orders/0@30
        leave g c: Left
          gone c
        join g d orders: d joined in 8
          watch d #4 10000 ms
          tell ["d"] generation 8
          generation 8
          d: orders/0@30
        "#);
}

#[test]
fn only_the_owner_commits_and_only_from_when_it_owned() {
    check!("
        commit g a 1 orders/0=1
        topics 1 orders:1 logs:1
        join g a orders
        join g b logs
        commit g a 2 orders/0=7 logs/0=7 orders/1=1 orders/0=9
        commit g a 2 orders/0=3
        commit g b 1 logs/0=1
        commit g c 9 orders/0=1
        commit g - 9 orders/0=1
        commit h - 0 orders/0=1
        leave g a
        join g a orders
        commit g a 2 orders/0=9
        commit g a 6 orders/0=4
        show g
    ", @r#"
        commit g a 1 orders/0=1: refused: group g does not exist
        topics 1 orders:1 logs:1: TopicsKnown { version: 1 }
        join g a orders: a joined in 2, made it from latest
          watch a #1 10000 ms
          tell ["a"] generation 2
        join g b logs: b joined in 4
          watch b #2 10000 ms
          tell ["b"] generation 4
        commit g a 2 orders/0=7 logs/0=7 orders/1=1 orders/0=9: [1] partition logs/0 is not assigned to the member; [2] partition orders/1 is not known
        commit g a 2 orders/0=3: committed
        commit g b 1 logs/0=1: [0] generation 1 is older than 4, in which partition logs/0 was assigned to the member
        commit g c 9 orders/0=1: refused: c is not a member of group g (any more)
        commit g - 9 orders/0=1: refused: group g has 2 members
        commit h - 0 orders/0=1: committed
        leave g a: Left
          gone a
        join g a orders: a joined in 6
          watch a #3 10000 ms
          tell ["a"] generation 6
        commit g a 2 orders/0=9: [0] generation 2 is older than 6, in which partition orders/0 was assigned to the member
        commit g a 6 orders/0=4: committed
          generation 6
          a: orders/0@4
          b: logs/0
        "#);
}

#[test]
fn commits_of_a_member_count_in_the_order_in_which_it_made_them() {
    check!("
        topics 1 orders:1
        join g a orders
        commit g a 2 #1 orders/0=10
        commit g a 2 #3 orders/0=30
        commit g a 2 #2 orders/0=20
        commit g a 2 #3 orders/0=30
        show g
        commit g a 2 #4 orders/0=5
        join g a orders
        commit g a 3 #3 orders/0=30
        show g
        leave g a
        join g a orders
        commit g a 5 #1 orders/0=6
    ", @r#"
        topics 1 orders:1: TopicsKnown { version: 1 }
        join g a orders: a joined in 2, made it from latest
          watch a #1 10000 ms
          tell ["a"] generation 2
        commit g a 2 #1 orders/0=10: committed
        commit g a 2 #3 orders/0=30: committed
        commit g a 2 #2 orders/0=20: refused: commit 2 of the member came behind its commit 3
        commit g a 2 #3 orders/0=30: committed
          generation 2
          a: orders/0@30
        commit g a 2 #4 orders/0=5: committed
        join g a orders: a joined in 3
          watch a #2 10000 ms
        commit g a 3 #3 orders/0=30: refused: commit 3 of the member came behind its commit 4
          generation 3
          a: orders/0@5
        leave g a: Left
          gone a
        join g a orders: a joined in 5
          watch a #3 10000 ms
          tell ["a"] generation 5
        commit g a 5 #1 orders/0=6: committed
        "#);
}

#[test]
fn a_member_that_joined_again_does_not_expire_for_its_old_session() {
    check!("
        topics 1 orders:1
        join g - orders
        join g member-1 orders logs
        expire g member-1 1
        expire g member-1 2
        expire g member-1 2
    ", @r#"
        topics 1 orders:1: TopicsKnown { version: 1 }
        join g - orders: member-1 joined in 2, made it from latest
          watch member-1 #1 10000 ms
          tell ["member-1"] generation 2
        join g member-1 orders logs: member-1 joined in 3
          watch member-1 #2 10000 ms
        expire g member-1 1: Kept
        expire g member-1 2: Expired
          gone member-1
        expire g member-1 2: refused: member-1 is not a member of group g (any more)
        "#);
}

#[test]
fn offsets_of_a_group_without_members_can_be_moved() {
    check!("
        topics 1 orders:2
        join g a orders
        reset g orders/0=5
        delete g
        leave g a
        reset g orders/0=5 orders/1=9
        reset g orders/0=1 orders/7=1
        show g
        delete g
        reset g orders/0=5
    ", @r#"
        topics 1 orders:2: TopicsKnown { version: 1 }
        join g a orders: a joined in 2, made it from latest
          watch a #1 10000 ms
          tell ["a"] generation 2
        reset g orders/0=5: refused: group g has 1 members
        delete g: refused: group g has 1 members
        leave g a: Left
          gone a
        reset g orders/0=5 orders/1=9: Reset
        reset g orders/0=1 orders/7=1: refused: partition orders/7 is not known
          generation 2
          orders/0 Some(5)
          orders/1 Some(9)
        delete g: Deleted
        reset g orders/0=5: refused: group g does not exist
        "#);
}

#[test]
fn a_start_is_fixed_once() {
    check!("
        topics 1 orders:2
        join g a orders
        commit g a 2 orders/1=3
        start g a 1 orders/0=90
        start g a 2 orders/0=100 orders/1=100 orders/7=1
        start g a 2 orders/0=200
        start g b 2 orders/0=200
        leave g a
        join g b orders
        start g a 4 orders/0=300
        start g b 4 orders/0=300
        show g
    ", @r#"
        topics 1 orders:2: TopicsKnown { version: 1 }
        join g a orders: a joined in 2, made it from latest
          watch a #1 10000 ms
          tell ["a"] generation 2
        commit g a 2 orders/1=3: committed
        start g a 1 orders/0=90: starts nothing
        start g a 2 orders/0=100 orders/1=100 orders/7=1: starts orders/0 at 100, orders/1 at 3
        start g a 2 orders/0=200: starts orders/0 at 100
        start g b 2 orders/0=200: refused: b is not a member of group g (any more)
        leave g a: Left
          gone a
        join g b orders: b joined in 4
          watch b #2 10000 ms
          tell ["b"] generation 4
        start g a 4 orders/0=300: refused: a is not a member of group g (any more)
        start g b 4 orders/0=300: starts orders/0 at 100
          generation 4
          b: orders/0@100, orders/1@3
        "#);
}

#[test]
fn partitions_that_appear_later_start_at_zero() {
    check!("
        topics 1 orders:1
        join g a orders logs
        show g
        topics 2 orders:2 logs:1
        show g
        topics 2 orders:3
        topics 3 -orders
        show g
        topics 4 orders:1
        show g
    ", @r#"
        topics 1 orders:1: TopicsKnown { version: 1 }
        join g a orders logs: a joined in 2, made it from latest
          watch a #1 10000 ms
          tell ["a"] generation 2
          generation 2
          a: orders/0
        topics 2 orders:2 logs:1: TopicsKnown { version: 2 }
          tell ["a"] generation 3
          generation 3
          a: logs/0@0, orders/0, orders/1@0
        topics 2 orders:3: TopicsKnown { version: 2 }
        topics 3 -orders: TopicsKnown { version: 3 }
          tell ["a"] generation 4
          generation 4
          a: logs/0@0
        topics 4 orders:1: TopicsKnown { version: 4 }
          tell ["a"] generation 5
          generation 5
          a: logs/0@0, orders/0@0
        "#);
}

/// A home that was told that there are no topics knows that the first one is new.
#[test]
fn partitions_of_the_first_topic_start_at_zero_for_who_came_before_it() {
    check!("
        topics 1
        join g a orders
        topics 2 orders:1
        show g
    ", @r#"
        topics 1: TopicsKnown { version: 1 }
        join g a orders: a joined in 1, made it from latest
          watch a #1 10000 ms
        topics 2 orders:1: TopicsKnown { version: 2 }
          tell ["a"] generation 2
          generation 2
          a: orders/0@0
        "#);
}

#[test]
fn a_session_is_within_its_limits() {
    let session = |asked: u32| {
        let mut machine = HomeMachine::default();
        let join = Join {
            group: "g".parse().unwrap(),
            member: None,
            topics: Vec::new(),
            session_ms: asked,
            kind: Kind::Offset,
            start: None,
        };
        match machine.apply(AT, &Command::Join(join).encode(), &mut Vec::new()) {
            Reply::Joined { session_ms, .. } => session_ms,
            other => panic!("{other:?}"),
        }
    };
    let asked = [0, 1, 999, 1_000, 60_000, u32::MAX];
    assert_eq!(asked.map(session), [10_000, 1_000, 1_000, 1_000, 60_000, 1_800_000]);
}

#[test]
fn a_partition_given_back_before_it_was_given_up_stays() {
    check!("
        topics 1 orders:2
        join g a orders
        join g b orders
        show g
        leave g b
        show g
        join g b orders
        report g a 3 orders/0=1
        report g a 7 orders/0=1
        show g
    ", @r#"
        topics 1 orders:2: TopicsKnown { version: 1 }
        join g a orders: a joined in 2, made it from latest
          watch a #1 10000 ms
          tell ["a"] generation 2
        join g b orders: b joined in 4
          watch b #2 10000 ms
          tell ["a"] generation 4
          generation 4
          a: orders/0, orders/1 to be given up
          b: nothing
        leave g b: Left
          gone b
          tell ["a"] generation 5
          generation 5
          a: orders/0, orders/1
        join g b orders: b joined in 7
          watch b #3 10000 ms
          tell ["a"] generation 7
        report g a 3 orders/0=1: generation 7
        report g a 7 orders/0=1: generation 8
          tell ["b"] generation 8
          generation 8
          a: orders/0
          b: orders/1
        "#);
}

#[test]
fn leases_and_limits_are_refused_with_reasons() {
    let mut machine = HomeMachine::default();
    let join = |name: &str| Join {
        group: name.parse().unwrap(),
        member: None,
        topics: Vec::new(),
        session_ms: u32::MAX,
        kind: Kind::Offset,
        start: Some(Position::Time(5)),
    };
    let mut say = |command: Command| told(machine.apply(AT, &command.encode(), &mut Vec::new()));
    let mut out = vec![say(Command::Join(Join { kind: Kind::Lease, ..join("queue") }))];
    let many = (0..=crate::limits::TOPICS_PER_MEMBER_MAX).map(|i| format!("t{i}").parse().unwrap()).collect();
    out.push(say(Command::Join(Join { topics: many, ..join("g") })));
    for _ in 0..crate::limits::MEMBERS_PER_GROUP_MAX {
        say(Command::Join(join("g")));
    }
    out.push(say(Command::Join(join("g"))));
    insta::assert_snapshot!(out.join("\n"), @"
        refused: group queue asks for leases: this version has offset cursors only
        refused: the member subscribes to 1001 topics, at most 1000 are accepted
        refused: group g has 1000 members, no more are accepted
        ");
    let members = machine.group(&"g".parse().unwrap()).unwrap().members();
    let ceiling = u32::try_from(crate::limits::SESSION_GRACE_MS_MAX).unwrap();
    assert!(members.values().all(|member| member.session_ms == ceiling));
    assert!(machine.group(&"queue".parse().unwrap()).is_none(), "a refused join makes no group");
}

#[test]
fn a_new_leader_watches_all_members() {
    let mut machine = HomeMachine::default();
    for line in ["join g a orders", "join h b orders"] {
        machine.apply(AT, &command(line).encode(), &mut Vec::new());
    }
    let watched = machine.on_promoted().into_iter().map(|effect| match effect {
        Effect::Watch { group, member, session, .. } => format!("{group} {member} #{session}"),
        other => panic!("{other:?}"),
    });
    assert_eq!(watched.collect::<Vec<_>>(), ["g a #1", "h b #2"]);
}

#[test]
fn homes_of_groups_never_change() {
    let homes = ["orders", "a", "billing-eu"].map(|name| home_of(&name.parse().unwrap(), 16));
    insta::assert_snapshot!(format!("{homes:?}"), @"[10, 0, 1]");
}
