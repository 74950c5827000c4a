//! The command line, where it is refused, where it ends, and what it says of what it did before.

use crate::support::{self, BINARY, Cluster, Program, topic};
use highwater::types::Position;
use rustix::process::Signal;
use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{ChildStdin, Command, Stdio},
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
        let (run, mut stdin) = Self::open(cluster, words);
        // Whoever has ended reads no more.
        let _ = stdin.write_all(input);
        run
    }

    /// Its input goes on for as long as the pipe is kept.
    fn open(cluster: &Cluster, words: &[&str]) -> (Self, ChildStdin) {
        let path = |name: &str| cluster.dir.path().join(name);
        let (out, error) = (path("out"), path("error"));
        let mut command = cluster.command(words);
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&error).unwrap()).stdin(Stdio::piped());
        let mut program = Program(command.spawn().unwrap());
        let stdin = program.0.stdin.take().unwrap();
        (Self { program, out, error }, stdin)
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
fn a_line_is_sent_before_the_next_one_is_typed() {
    let _turn = support::turn();
    let cluster = Cluster::one("");
    cluster.run(&["topic", "create", "orders"]);
    let mut command = cluster.command(&["produce", "orders"]);
    let mut producer = Program(command.stdin(Stdio::piped()).spawn().unwrap());
    let mut typed = producer.0.stdin.take().unwrap();
    let mut sent = String::new();
    for line in ["one\n", "two\n"] {
        typed.write_all(line.as_bytes()).unwrap();
        sent += line;
        support::wait("what was typed is there", || (cluster.run(&["consume", "orders"]) == sent).then_some(()));
    }
    drop(typed);
    assert!(producer.ended("nobody types more").success());
}

#[test]
fn produce_shows_on_a_terminal_how_far_it_is() {
    if Command::new("script").arg("--version").output().is_err() {
        // Where the output of tests is captured too: that is what macros print, not what is written.
        let line = "NOT SHOWN HERE: produce on a terminal; `script` of util-linux is not installed\n";
        return std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    let _turn = support::turn();
    let cluster = Cluster::one("");
    cluster.run(&["topic", "create", "orders"]);
    fs::write(cluster.dir.path().join("lines"), "x\n".repeat(1_000)).unwrap();
    let mut command = Command::new("script");
    command.args(["-qec", &format!("'{BINARY}' produce orders --file lines"), "/dev/null"]);
    command.current_dir(cluster.dir.path()).env("HIGHWATER_CLUSTER", "node-1.toml").env("TERM", "xterm");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {shown:?}", output.status);
    assert!(shown.contains("/1.95 KiB") && shown.contains("1,000 records acknowledged"), "{shown:?}");
    // Whoever reads a file later wants no bar in it.
    let said = String::from_utf8(cluster.try_run(&["produce", "orders", "--file", "lines"]).stderr).unwrap();
    assert!(!said.contains("KiB") && said.contains("1,000 records acknowledged"), "{said:?}");
}

#[test]
fn bench_leaves_no_topic_behind_however_it_ends() {
    let _turn = support::turn();
    let cluster = Cluster::one("");
    let topics = || cluster.run(&["-o", "json", "topic", "list"]);
    let none_is_left = || support::wait("no topic is left", || (topics().trim() == "[]").then_some(()));
    for (words, why) in [
        // Found out when the topic is made, when it is filled, and by every record.
        (&["latency", "--replicas", "3"][..], "error: "),
        (&["consume", "--megabytes", "1", "--cold"][..], "--cold is for a cluster of `highwater dev`"),
        (
            &["produce", "--size", "1100000", "--inflight", "4", "--warm", "0", "--seconds", "1"][..],
            "records failed, the first with: ",
        ),
    ] {
        let (code, said) = Run::begin(&cluster, &[&["bench"], words].concat(), b"").ended("a bench that fails");
        assert_eq!(code, Some(1), "{words:?}: {said}");
        assert!(said.contains(why), "{words:?}: {said}");
        none_is_left();
    }
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let words = ["bench", "produce", "--inflight", "8", "--seconds", "600"];
        let mut bench = Run::begin(&cluster, &words, b"");
        support::wait("a bench has its topic", || topics().contains("bench-").then_some(()));
        bench.program.signal(signal);
        let (ended, said) = bench.ended("a bench that is stopped");
        assert_eq!(ended, Some(code), "{said}");
        none_is_left();
    }
    let words = ["bench", "produce", "--inflight", "8", "--warm", "0", "--seconds", "1"];
    let (code, said) = Run::begin(&cluster, &words, b"").ended("a bench");
    assert_eq!(code, Some(0), "{said}");
    none_is_left();
}

#[test]
fn a_cluster_is_looked_for_in_an_order() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("highwater-dev")).unwrap();
    for file in ["option.toml", "variable.toml", "highwater-dev/dev.toml"] {
        fs::write(dir.path().join(file), "neither of the two").unwrap();
    }
    for (option, variable, found) in [
        (Some("option.toml"), Some("variable.toml"), "option.toml"),
        (Some("option.toml"), None, "option.toml"),
        (None, Some("variable.toml"), "variable.toml"),
        (None, None, "highwater-dev/dev.toml"),
    ] {
        let mut command = Command::new(BINARY);
        command.current_dir(dir.path()).env_remove("HIGHWATER_CLUSTER").stdin(Stdio::null());
        command.envs(variable.map(|file| ("HIGHWATER_CLUSTER", file)));
        command.args(["cluster", "status"]).args(option.into_iter().flat_map(|file| ["--cluster", file]));
        let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(said.starts_with(&format!("error: {found} is not TOML")), "{option:?} {variable:?}: {said}");
    }
}

#[test]
fn dev_leaves_a_node_dead_when_it_is_told_to() {
    let _turn = support::turn();
    let dir = tempfile::tempdir().unwrap();
    let port = support::free_ports(1)[0].to_string();
    let (out, error) = (dir.path().join("out"), dir.path().join("error"));
    let mut command = Command::new(BINARY);
    command.args(["dev", "--nodes", "1", "--no-restart", "--port", &port]).current_dir(dir.path());
    command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&error).unwrap()).stdin(Stdio::null());
    let mut dev = Program(command.spawn().unwrap());
    let said = |path: &Path| fs::read_to_string(path).unwrap();
    support::wait("dev is ready", || said(&out).contains("Ctrl-C stops it").then_some(()));
    let file = dir.path().join("highwater-dev/dev.toml");
    support::kill(support::pids(&file)[0]);
    support::wait("dev notices", || said(&error).contains("node 1 died (signal: 9 (SIGKILL))").then_some(()));
    support::wait("dev.toml names no process", || support::pids(&file).is_empty().then_some(()));
    // Longer than it takes `dev` to start one again.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!said(&error).contains("started again") && support::pids(&file).is_empty(), "{}", said(&error));
    dev.signal(Signal::INT);
    assert!(dev.ended("dev stops").success());
}

#[test]
fn what_is_no_position_is_answered_with_what_is() {
    for words in [&["consume", "orders", "--from"][..], &["group", "reset", "billing", "--to"]] {
        for text in ["-1", "@-1", "@x", ""] {
            let output = Command::new(BINARY).args(words).arg(text).stdin(Stdio::null()).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{words:?} {text:?}: {said}");
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                said.contains("use earliest, latest, an offset from 0 on, or @MILLISECONDS since 1970"),
                "{words:?} {text:?}: {said}"
            );
        }
    }
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

#[test]
fn an_offset_that_is_not_there_is_answered_with_where_the_topic_ends() {
    let _turn = support::turn();
    let cluster = Cluster::one("");
    cluster.run(&["topic", "create", "orders"]);
    assert_eq!(Run::begin(&cluster, &["produce", "orders"], b"a\nb\n").ended("lines").0, Some(0));
    for words in [
        &[][..],
        &["--count", "1"],
        &["--follow"],
        &["--partition", "0"],
        &["-g", "billing"],
        &["-g", "billing", "--follow"],
    ] {
        let words = [&["consume", "orders", "--from", "999999"], words].concat();
        let (code, said) = Run::begin(&cluster, &words, b"").ended("an offset above the end");
        assert_eq!(code, Some(1), "{words:?}: {said}");
        assert!(said.contains("orders/0 ends at offset 2, offset 999999 is not there yet"), "{words:?}: {said}");
        assert!(said.contains("earliest, latest or an offset"), "{words:?}: {said}");
    }
    assert_eq!(cluster.run(&["-o", "json", "group", "list"]).trim(), "[]", "no group was made for it");
    // The end itself is a place to wait at.
    assert_eq!(cluster.run(&["consume", "orders", "--from", "2"]), "");
    assert_eq!(cluster.run(&["consume", "orders", "--from", "1"]), "b\n");
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

#[test]
fn a_reader_that_is_stopped_says_that_it_did_not_end() {
    let _turn = support::turn();
    let cluster = Cluster::one("");
    cluster.run(&["topic", "create", "orders"]);
    assert_eq!(Run::begin(&cluster, &["produce", "orders"], b"a\nb\n").ended("lines").0, Some(0));
    for (words, signal, code) in [
        (&["--count", "3"][..], Signal::INT, 130),
        (&["--count", "3"], Signal::TERM, 143),
        // Nothing else ends it.
        (&["--follow"], Signal::INT, 0),
    ] {
        let mut run = Run::begin(&cluster, &[&["consume", "orders"], words].concat(), b"");
        support::wait("two records are printed", || (run.out() == "a\nb\n").then_some(()));
        run.program.signal(signal);
        let (ended, said) = run.ended("a reader that is stopped");
        assert_eq!(ended, Some(code), "{words:?}: {said}");
        assert!(said.contains("2 records"), "{words:?}: {said}");
    }
}

#[test]
fn a_writer_that_is_stopped_waits_for_what_it_took() {
    let _turn = support::turn();
    let cluster = Cluster::one("");
    let taken = |said: &str| said.split_once(" record").and_then(|(count, _)| count.parse::<usize>().ok());
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let topic = format!("orders-{code}");
        cluster.run(&["topic", "create", &topic]);
        // Nothing is sent before the end, which does not come by itself.
        let (mut run, mut stdin) = Run::open(&cluster, &["produce", &topic, "--linger-ms", "600000"]);
        stdin.write_all(b"one\ntwo\n").unwrap();
        support::wait("both lines are read", || (rustix::io::ioctl_fionread(&stdin).unwrap() == 0).then_some(()));
        run.program.signal(signal);
        let (ended, said) = run.ended("a writer that is stopped");
        assert_eq!(ended, Some(code), "{said}");
        let found = cluster.run(&["consume", &topic]).lines().count();
        assert_eq!(taken(&said), Some(found), "{said}");
    }
}

#[test]
fn chaos_is_the_program_beside_it_and_ends_with_it() {
    // Nobody forks while the script is written.
    let _turn = support::turn();
    let dir = tempfile::tempdir_in(Path::new(BINARY).parent().unwrap()).unwrap();
    let (program, chaos) = (dir.path().join("highwater"), dir.path().join("highwater-chaos"));
    fs::hard_link(BINARY, &program).unwrap();
    fs::write(&chaos, "#!/bin/sh\necho \"$$ $*\"\nexit 3\n").unwrap();
    fs::set_permissions(&chaos, fs::Permissions::from_mode(0o755)).unwrap();
    for (words, passed) in [
        (&["chaos", "--kill", "any"][..], "run --kill any"),
        (&["-o", "json", "chaos", "--kill", "any"], "run --kill any --json"),
        (&["-o", "json", "chaos", "--json"], "run --json"),
    ] {
        let mut command = Command::new(&program);
        command.args(["--cluster", "dev.toml"]).args(words).stdout(Stdio::piped());
        let run = command.spawn().unwrap();
        let id = run.id();
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        // A signal to this process is one to the other.
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{id} {passed} --cluster dev.toml\n"));
    }
}
