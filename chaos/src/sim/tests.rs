use super::*;

#[test]
fn the_same_seed_gives_the_same_history() {
    let options = Options { seconds: 10, ..Options::new(7) };
    let first = run(&options).unwrap();
    let second = run(&options).unwrap();
    assert_eq!(first.stuck, None);
    assert_eq!(first.history.hash(), second.history.hash());
}
