//! The command line, where it is refused, where it ends, and what it says of what it did before.

use crate::support::{self, BINARY, Cluster, Program, topic};
use highwater::types::Position;
use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// A command whose output goes to files.
struct Run {
    program: Program,
    out: std::path::PathBuf,
    error: std::path::PathBuf,
}

impl Run {
    fn begin(cluster: &Cluster, words: &[&str], input: &[u8]) -> Self {
        let path = |name: &str| cluster.dir.path().join(name);
        let (out, error) = (path("out"), path("error"));
        let mut command = cluster.command(words);
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&error).unwrap()).stdin(Stdio::piped());
        let mut program = Program(command.spawn().unwrap());
        // Whoever has ended reads no more.
        let _ = program.0.stdin.take().unwrap().write_all(input);
        Self { program, out, error }
    }

    /// What it printed so far.
    fn out(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    /// Its exit code and what it said, once it ended.
    fn ended(&mut self, what: &str) -> (Option<i32>, String) {
        let status = self.program.ended(what);
        let said = fs::read_to_string(&self.error).unwrap();
        eprintln!("{what}: {}", said.trim());
        (status.code(), said)
    }
}

#[test]
fn consume_does_not_wait_for_a_topic_that_is_not_there() {
    let _turn = support::turn();
    let cluster = Cluster::one("");
    for words in
        [&["-g", "billing", "--follow"][..], &["-g", "billing", "--count", "3"], &["-g", "billing"], &["--follow"]]
    {
        let words = [&["consume", "nowhere"], words].concat();
        let (code, said) = Run::begin(&cluster, &words, b"").ended("a topic that is not there");
        assert_eq!(code, Some(1), "{words:?}: {said}");
        assert!(
            said.contains("there is no topic nowhere") && said.contains("topic create nowhere"),
            "{words:?}: {said}"
        );
    }
    assert_eq!(cluster.run(&["-o", "json", "group", "list"]).trim(), "[]", "no group was made for it");
}

#[test]
fn produce_accounts_for_what_it_took_before_a_line_that_it_refuses() {
    let _turn = support::turn();
    let cluster = Cluster::one("");
    cluster.run(&["topic", "create", "orders"]);
    let long = "x".repeat(2 << 20);
    // A batch that waits for more is sent all the same.
    let words = ["produce", "orders", "--linger-ms", "60000"];
    let (code, said) =
        Run::begin(&cluster, &words, format!("one\ntwo\n{long}\nfour\n").as_bytes()).ended("a long line");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("2 records acknowledged"), "{said}");
    assert!(said.lines().last().unwrap().starts_with("error: "), "{said}");
    assert_eq!(cluster.run(&["consume", "orders"]), "one\ntwo\n");
    let (code, said) = Run::begin(&cluster, &["produce", "orders", "--partition", "7"], b"one\n").ended("no partition");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("0 records acknowledged") && said.contains("partitions 0 to 0, not 7"), "{said}");
}

#[test]
fn a_member_ends_where_the_topic_ended_whoever_read_the_rest() {
    let _turn = support::turn();
    let cluster = Cluster::one("");
    cluster.run(&["topic", "create", "orders", "--partitions", "2"]);
    for partition in ["0", "1"] {
        let (code, said) =
            Run::begin(&cluster, &["produce", "orders", "--partition", partition], b"a\nb\nc\n").ended("lines");
        assert_eq!(code, Some(0), "{said}");
    }
    support::runtime().block_on(async {
        let client = cluster.client().await;
        let (name, group) = (topic("orders"), "billing".parse().unwrap());
        let mut other = client.consumer().start(Position::Earliest).subscribe(group, [name]).await.unwrap();
        let mut command = Run::begin(&cluster, &["consume", "orders", "-g", "billing"], b"");
        support::wait("the command reads its partition", || (command.out() == "a\nb\nc\n").then_some(()));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(command.program.0.try_wait().unwrap().is_none(), "three records are still to be read");
        let mut given = 0;
        while given < 3 {
            given += other.poll(Duration::from_secs(1)).await.unwrap().len();
        }
        other.commit().await.unwrap();
        let (code, said) = command.ended("a member that has read its own");
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("3 records"), "{said}");
        other.close().await.unwrap();
        client.close();
    });
}

/// Programs that were started in this folder.
fn processes_in(folder: &Path) -> Vec<String> {
    let is_there = |name: &String| fs::read_link(format!("/proc/{name}/cwd")).is_ok_and(|cwd| cwd == folder);
    let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    all.filter(|name| name.parse::<u32>().is_ok()).filter(is_there).collect()
}

#[test]
fn dev_leaves_no_node_behind_when_another_cannot_start() {
    let _turn = support::turn();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap().join("dev");
    // Where the second node's log would be.
    fs::create_dir_all(folder.join("node-2.log")).unwrap();
    let port = support::free_ports(2).into_iter().min().unwrap().to_string();
    let mut command = Command::new(BINARY);
    command.args(["dev", "--nodes", "2", "--port", &port, "--data-dir"]).arg(&folder);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    eprintln!("no log: {}", said.trim());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("could not write") && said.contains("node-2.log"), "{said}");
    assert_eq!(processes_in(&folder), Vec::<String>::new());
    assert!(!fs::read_to_string(folder.join("dev.toml")).unwrap().contains("pid"), "nothing runs");
}
