//! Real nodes under `highwater-chaos run`: what they say of themselves is judged, and a cluster that runs from config files is
//! killed and judged as well as one of `highwater dev`.

#![allow(clippy::disallowed_methods, reason = "threads and waiting of a test of real processes")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{free_ports, wait};
use highwater::{
    cli::{find, is_ready, make_certificates},
    client::Client,
    tls::{self, Roots},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{ErrorKind, Write as _},
    net::UdpSocket,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// One cluster at a time: together they would be slow enough to fail.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn chaos(words: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater-chaos"));
    command.args(words).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn told(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Says so where the output of tests is captured too: that is what macros print, not what is written.
fn not_shown(why: &str) {
    let line = format!("NOT SHOWN HERE: {}; {why}\n", std::thread::current().name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// What to type for kills of leaders for a few seconds.
fn kills(dir: &Path) -> String {
    let scenario = "about = \"kills\"\npause_s = 2\npartitions = 2\nproducers = 1\nrate = 200\n\
                    [[fault]]\ndo = \"kill\"\nwho = \"leader\"\ndown_s = 0\n";
    std::fs::write(dir.join("kills.toml"), scenario).unwrap();
    format!("run kills.toml --minutes 0.1 --dir nodes --port {}", free_ports())
}

// ---- progress

/// Counts of acknowledged records that a progress line showed.
fn progress(text: &str) -> BTreeSet<u64> {
    let before = text.match_indices(" acknowledged · ").filter_map(|(at, _)| text[..at].split_whitespace().next_back());
    before.filter_map(|count| count.parse().ok()).collect()
}

#[test]
fn progress_is_shown_on_a_terminal() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let typed = format!("'{}' {}", env!("CARGO_BIN_EXE_highwater-chaos"), kills(dir.path()));
    let mut script = Command::new("script");
    script.args(["-qec", &typed, "/dev/null"]).current_dir(dir.path()).stdin(Stdio::null());
    let output = match script.env("TERM", "xterm").output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return not_shown("`script` of util-linux is not installed, so there is no terminal");
        }
        output => output.unwrap(),
    };
    let (stdout, stderr) = told(&output);
    assert!(output.status.success() && stdout.contains(" · lost 0 · "), "{stdout}{stderr}");
    assert!(progress(&stdout).len() > 3, "{stdout}");
}

// ---- signals

#[test]
fn no_node_outlives_a_run_that_is_stopped() {
    let _alone = alone();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let dir = tempfile::tempdir().unwrap();
        let typed = kills(dir.path());
        let port: u16 = typed.rsplit_once(' ').unwrap().1.parse().unwrap();
        // Of clients, node by node.
        let serving = || [0, 10, 20].map(|node| UdpSocket::bind(("127.0.0.1", port + node)).is_err());
        let run = chaos(&typed.split(' ').collect::<Vec<_>>(), dir.path()).spawn().unwrap();
        wait("all nodes serve", || (serving() == [true; 3]).then_some(()));
        kill_process(Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap(), signal).unwrap();
        let output = run.wait_with_output().unwrap();
        let (stdout, stderr) = told(&output);
        assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
        assert!(stderr.contains("stopped by a signal"), "{stderr}");
        wait("no node serves", || (serving() == [false; 3]).then_some(()));
    }
}

// ---- facts

/// Kills on nodes that say what clients cannot see.
fn with_facts(dir: &Path) -> Child {
    let words = format!("{} --facts --json --history history.jsonl", kills(dir));
    chaos(&words.split(' ').collect::<Vec<_>>(), dir).spawn().unwrap()
}

#[test]
fn what_nodes_say_of_themselves_is_judged() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let output = with_facts(dir.path()).wait_with_output().unwrap();
    let (stdout, stderr) = told(&output);
    assert!(output.status.success(), "{stdout}{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert!(report["facts"].as_u64().unwrap() > report["acked"].as_u64().unwrap(), "{report}");
    assert!(report["faults"]["kill of a leader"].as_u64().unwrap() >= 1, "{report}");
    assert_eq!(progress(&stderr), BTreeSet::new(), "progress is for terminals");

    // What administrators ask for is in the history too, around all else that clients do.
    let history = std::fs::read_to_string(dir.path().join("history.jsonl")).unwrap();
    let events: Vec<Value> = history.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds = ["admin", "admin_ok", "admin_fail", "admin_info", "topics", "send", "final"];
    let kind = |event: &Value| kinds.into_iter().find(|kind| event["e"] == *kind);
    let mut told: Vec<_> =
        events.iter().filter_map(|event| Some((kind(event)?, event["deed"]["do"].as_str()))).collect();
    told.dedup();
    let around = [(0, ("admin", Some("create"))), (1, ("admin_ok", Some("create"))), (2, ("send", None))];
    assert!(around.into_iter().all(|(at, event)| told[at] == event), "{:?}", &told[..3]);
    let end =
        [("final", None), ("topics", None), ("admin", Some("delete")), ("admin_ok", Some("delete")), ("topics", None)];
    assert!(told.ends_with(&end), "{:?}", &told[told.len() - 5..]);
}

#[test]
fn a_node_that_lies_of_itself_fails_the_run() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let child = with_facts(dir.path());
    let at = |life: u32, node: u32| dir.path().join(format!("nodes/facts/life-{life}-of-node-{node}.jsonl"));
    // What node 1 says of an entry, node 2 says with another digest: that their replicas differ.
    let mut fact = wait("an entry is applied", || {
        let text = std::fs::read_to_string(at(0, 1)).ok()?;
        text.lines().find_map(|line| serde_json::from_str(line).ok().filter(|fact: &Value| fact["fact"] == "applied"))
    });
    fact["digest"] = (fact["digest"].as_u64().unwrap() ^ 1).into();
    let mut other = wait("node 2 has a life", || std::fs::File::options().append(true).open(at(1, 2)).ok());
    other.write_all(format!("{fact}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (stdout, stderr) = told(&output);
    assert!(!output.status.success(), "{stdout}{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let kinds: Vec<_> = report["evidence"].as_array().unwrap().iter().map(|anomaly| &anomaly["kind"]).collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == "entries differ"), "{report}");
}

// ---- a cluster from config files

/// Nodes, each started again whenever it ends, as a service supervisor does; killed when they are forgotten, with who kills them.
struct Supervised<'d> {
    dir: &'d Path,
    nodes: Vec<Child>,
    storm: Option<Child>,
}

impl<'d> Supervised<'d> {
    fn start(dir: &'d Path) -> Self {
        Self { dir, nodes: (1..=3).map(|id| Self::serve(dir, id)).collect(), storm: None }
    }

    fn serve(dir: &Path, id: usize) -> Child {
        let (config, log) = (format!("config/node-{id}.toml"), dir.join(format!("node-{id}.log")));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        chaos(&["serve", "--config", &config], dir).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// What they said.
    fn logs(&self) -> String {
        (1..=3).map(|id| std::fs::read_to_string(self.dir.join(format!("node-{id}.log"))).unwrap()).collect()
    }

    /// How many had ended.
    fn look(&mut self) -> usize {
        let mut ended = 0;
        for (node, id) in self.nodes.iter_mut().zip(1..) {
            if node.try_wait().unwrap().is_some() {
                *node = Self::serve(self.dir, id);
                ended += 1;
            }
        }
        ended
    }
}

impl Drop for Supervised<'_> {
    fn drop(&mut self) {
        for node in self.storm.iter_mut().chain(&mut self.nodes) {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// `config/node-1.toml` to `node-3.toml` as they are shipped, but for their ports; gives where HTTP is answered.
fn shipped(dir: &Path) -> Vec<String> {
    let (shipped, first) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../config"), free_ports());
    make_certificates(&dir.join("highwater-certs"), "highwater", 3, |_| None).unwrap();
    std::fs::create_dir(dir.join("config")).unwrap();
    for id in 1..=3 {
        let name = format!("node-{id}.toml");
        let text = std::fs::read_to_string(shipped.join(&name)).unwrap();
        let moved =
            |text: String, port: u16| text.replace(&format!(":{port}\""), &format!(":{}\"", first + port - 7420));
        std::fs::write(dir.join("config").join(name), (7420..7450).fold(text, moved)).unwrap();
    }
    (0..3).map(|node| format!("127.0.0.1:{}", first + 10 * node + 3)).collect()
}

#[test]
fn nodes_of_config_files_are_killed_and_judged() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let http = shipped(dir.path());
    let mut nodes = Supervised::start(dir.path());
    let asks = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for address in &http {
        wait("a node is ready", || asks.block_on(is_ready(address)).then_some(()));
    }
    let load = ["--partitions", "2", "--producers", "1", "--rate", "200"];
    let kills = ["run", "--cluster", "config/node-2.toml", "--kill", "leader", "--every", "2s", "--for", "8s"];
    nodes.storm = Some(chaos(&[&kills[..], &load].concat(), dir.path()).spawn().unwrap());
    let mut ended = 0;
    wait("the run ends", || {
        ended += nodes.look();
        nodes.storm.as_mut().unwrap().try_wait().unwrap()
    });
    let output = nodes.storm.take().unwrap().wait_with_output().unwrap();
    let (stdout, stderr) = told(&output);
    assert!(output.status.success() && ended >= 1, "{ended} ended\n{stdout}{stderr}{}", nodes.logs());
    let line = stdout.lines().last().unwrap();
    let (acked, rest) = line.strip_prefix("acked ").unwrap().split_once(" · ").unwrap();
    assert!(acked.parse::<u64>().unwrap() > 500, "{line}");
    let same = format!("read {acked} · lost 0 · duplicated 0 · reordered 0 · other 0 · failovers ");
    assert!(rest.starts_with(&same) && rest.contains(" · write gap p50 "), "{line}");
    assert!(stdout.contains(&format!("kill of a leader {ended}\n")), "{stdout}");
    assert_eq!(asks.block_on(left(dir.path())), (0, 0), "topics and groups that stay");

    // One that is stopped leaves nothing either.
    let mut storm = chaos(&[&kills[..], &load].concat(), dir.path()).spawn().unwrap();
    wait("a run has its group", || (asks.block_on(left(dir.path())) == (1, 1)).then_some(()));
    kill_process(Pid::from_raw(i32::try_from(storm.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    assert_eq!(wait("the run ends", || storm.try_wait().unwrap()).code(), Some(130));
    let (_, stderr) = told(&storm.wait_with_output().unwrap());
    assert_eq!(asks.block_on(left(dir.path())), (0, 0), "topics and groups that stay: {stderr}");
}

/// Topics and groups of the cluster.
async fn left(dir: &Path) -> (usize, usize) {
    let cluster = find(Some(&dir.join("config/node-2.toml"))).unwrap();
    let roots = Roots::read(&dir.join(&cluster.ca)).unwrap();
    let client = Client::connect(cluster.addresses(), tls::client_config(&roots, None).unwrap()).await.unwrap();
    let (topics, groups) = (client.admin().topics().await.unwrap(), client.admin().groups().await.unwrap());
    client.close();
    (topics.len(), groups.groups.len())
}
