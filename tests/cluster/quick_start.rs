//! The README, typed by somebody who has only the README.

use crate::support::{self, BINARY, Program, seconds};
use rustix::process::Signal;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{TcpListener, UdpSocket},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The lines of the shell blocks under a heading.
fn commands(heading: &str) -> Vec<String> {
    let text = readme();
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split("\n```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// A folder with the binary on the path, where a shell can be told what a person types.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        symlink(BINARY, dir.path().join("bin/highwater")).unwrap();
        Self { dir }
    }

    fn shell(&self, line: &str) -> Command {
        let path = format!("{}:{}", self.dir.path().join("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.arg("-c").arg(line).current_dir(self.dir.path()).env("PATH", path).env_remove("HIGHWATER_CLUSTER");
        command
    }

    fn types(&self, line: &str) -> (String, String) {
        let output = self.shell(line).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (out, error) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "$ {line}\n{out}{error}");
        eprintln!("$ {line}");
        (out, error)
    }

    fn json(&self, line: &str) -> serde_json::Value {
        let (out, _) = self.types(&format!("highwater -o json {line}"));
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}\n{out}"))
    }
}

#[test]
fn the_start_of_the_readme_works() {
    let _turn = support::turn();
    let desk = Desk::new();
    let typed = commands("Start");
    assert_eq!(typed[0], "cargo run --release -- dev");
    let begun = Instant::now();
    let port = support::free_ports(3).into_iter().min().unwrap();
    // `dev` takes ports that follow each other.
    let mut command = desk.shell(&format!("exec highwater dev --port {port}"));
    let mut dev = Program(command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap());
    let mut said = String::new();
    let mut out = BufReader::new(dev.0.stdout.take().unwrap());
    while !said.contains("Ctrl-C stops it") {
        assert_ne!(out.read_line(&mut said).unwrap(), 0, "dev ended: {said}");
    }
    eprintln!("dev is ready after {}", seconds(begun.elapsed()));
    for line in &typed[1..] {
        if line.starts_with("alias ") {
            continue;
        }
        assert!(said.contains(line.trim()), "dev does not say {line:?}:\n{said}");
        let (out, error) = desk.types(line);
        match line {
            line if line.contains("produce") => assert!(error.contains("1,000 records acknowledged"), "{error}"),
            line if line.contains("consume") => {
                let mut numbers: Vec<u32> = out.lines().map(|n| n.parse().unwrap()).collect();
                numbers.sort_unstable();
                assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
                assert!(error.contains("starts at earliest"), "{error}");
            }
            line if line.contains("cluster status") => assert!(out.contains("controller"), "{out}"),
            _ => {}
        }
    }
    // What a group has had does not come again.
    let (out, error) = desk.types("highwater consume orders -g billing");
    assert_eq!(out, "", "{error}");
    everything_in_json(&desk);
    places_and_levels(&desk);
    let file = desk.dir.path().join("highwater-dev/dev.toml");
    let before = support::pids(&file);
    support::kill(before[1]);
    let pids = support::wait("dev starts the node again", || {
        let pids = support::pids(&file);
        (pids.len() == 3 && pids[1] != before[1]).then_some(pids)
    });
    assert_eq!((pids[0], pids[2]), (before[0], before[2]), "the others went on");
    // It fails for as long as a node is missing.
    let is_whole = || desk.shell("highwater cluster status").output().unwrap().status.success();
    support::wait("all three live", || is_whole().then_some(()));
    let begun = Instant::now();
    dev.signal(Signal::INT);
    let status = dev.ended("dev stops");
    assert!(status.success(), "{status}");
    eprintln!("Ctrl-C: all stopped after {}", seconds(begun.elapsed()));
    for pid in pids {
        let alive = rustix::process::test_kill_process(rustix::process::Pid::from_raw(pid).unwrap()).is_ok();
        assert!(!alive, "node process {pid} is left");
    }
    // Without the cluster, commands say what to do.
    let output = desk.shell("cd bin && highwater cluster status").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("highwater dev"), "{error}");
}

#[test]
fn no_node_outlives_a_dev_that_is_killed() {
    let _turn = support::turn();
    let desk = Desk::new();
    let port = support::free_ports(3).into_iter().min().unwrap();
    let file = desk.dir.path().join("highwater-dev/dev.toml");
    // By their ports: whoever reaps the processes may take its time.
    let is_free =
        |port: u16| UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok();
    let free =
        || (0..3).flat_map(|node| (0..4).map(move |n| port + 10 * node + n)).filter(|port| is_free(*port)).count();
    // The second life finds all ports free.
    for _ in 0..2 {
        let mut command = desk.shell(&format!("exec highwater dev --port {port}"));
        let mut dev = Program(command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap());
        support::wait("all nodes serve", || (free() == 0).then_some(()));
        let pids = support::pids(&file);
        let begun = Instant::now();
        dev.signal(Signal::KILL);
        assert!(!dev.ended("SIGKILL").success());
        support::wait("no node serves", || (free() == 12).then_some(()));
        eprintln!("dev was killed: nodes {pids:?} ended after {}", seconds(begun.elapsed()));
    }
    let log = fs::read_to_string(desk.dir.path().join("highwater-dev/node-1.log")).unwrap();
    assert_eq!(log.matches("the supervisor is gone").count(), 2, "{log}");
}

/// Figures of another broker.
const PEER: &str = r#"{"peer":"another","inflight":8,"size":1024,"partitions":1,"replicas":3,"acks_per_s":1.0,"mb_per_s":1.0,"p50_ms":1.0,"p99_ms":1.0,"p999_ms":1.0,"max_ms":1.0,"errors":0,"gap_ms":1.0}"#;

/// Each command that prints results prints JSON when it is asked to.
fn everything_in_json(desk: &Desk) {
    let made = desk.json("topic create paid --partitions 2 --set retention.ms=86400000");
    assert_eq!((made["topic"].as_str(), made["partitions"].as_u64()), (Some("paid"), Some(2)), "{made}");
    let topics = desk.json("topic list");
    assert_eq!(topics.as_array().unwrap().len(), 2, "{topics}");
    // All that is said to people.
    let described = desk.json("topic describe orders");
    let ends = described["partitions"].as_array().unwrap().iter().map(|p| p["high_watermark"].as_u64().unwrap());
    assert_eq!(ends.sum::<u64>(), 1000, "{described}");
    let (table, _) = desk.types("highwater topic describe orders");
    assert!(table.starts_with(&format!("topic orders, id {}\n", described["id"].as_str().unwrap())), "{table}");
    let kept = &desk.json("topic describe paid")["settings"];
    assert_eq!(*kept, serde_json::json!([["retention.ms", "86400000"]]));
    assert!(desk.json("topic alter paid --partitions 3").is_array());
    assert!(desk.json("group list").as_array().unwrap().iter().any(|group| group["group"] == "billing"));
    let group = desk.json("group describe billing");
    let lags = group["partitions"].as_array().unwrap().iter().map(|p| p["lag"].as_u64().unwrap());
    assert_eq!((lags.sum::<u64>(), group["lag"].as_u64()), (0, Some(0)), "{group}");
    assert_eq!((&group["start"], &group["members"]), (&"earliest".into(), &serde_json::json!([])), "{group}");
    let (table, _) = desk.types("highwater group describe billing");
    let said = format!("group billing: 0 members, generation {}, starts at earliest, lag 0\n", group["generation"]);
    assert!(table.starts_with(&said), "{table}");
    assert_eq!(desk.json("group reset billing --to earliest").as_array().unwrap().len(), 3);
    assert!(desk.json("group delete billing").is_object());
    let status = desk.json("cluster status");
    assert_eq!((status["nodes"].as_array().unwrap().len(), status["leaderless"].as_u64()), (3, Some(0)), "{status}");
    let (lines, _) = desk.types("highwater -o json consume orders --count 3");
    assert_eq!(
        lines.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count(),
        3,
        "{lines}"
    );
    fs::write(desk.dir.path().join("config-of-nobody.txt"), "a:1\nb:2\n").unwrap();
    let sent = desk.json("produce paid --file config-of-nobody.txt --key-separator :");
    assert_eq!((sent["acknowledged"].as_u64(), sent["failed"].as_u64()), (Some(2), Some(0)), "{sent}");
    assert!(desk.json("topic delete paid").is_object());
    let made = desk.json("cert ca --out certs-of-nobody");
    assert!(made[0]["certificate"].as_str().is_some_and(|file| file.ends_with("ca.pem")), "{made}");
    let checked = desk.json("config check highwater-dev/node-1.toml");
    assert_eq!((checked[0]["node"].as_u64(), checked[0]["problems"].as_array().map(Vec::len)), (Some(1), Some(0)));
    let figures = desk.json("bench latency --records 20");
    assert!(figures["disk"]["p50_ms"].is_number() && figures["to_hand"]["p50_ms"].is_number(), "{figures}");
    assert!(figures["before_ack"].as_u64() <= Some(20) && figures["wake_up"]["p50_ms"].is_number(), "{figures}");
    let probed = figures["disk"]["directory"].as_str().unwrap();
    assert!(probed.ends_with("highwater-dev/node-1"), "probed where the nodes' data are: {probed}");
    let figures = desk.json("bench consume --megabytes 1");
    assert!(figures["disk"]["p50_ms"].is_number() && figures["write_mb_per_s"].is_number(), "{figures}");
    let figures = desk.json("bench consume --topic orders");
    assert!(figures["megabytes"].as_f64() > Some(0.0) && figures["write_mb_per_s"].is_null(), "{figures}");
    fs::write(desk.dir.path().join("peers"), PEER).unwrap();
    let (lines, _) = desk.types(
        "highwater -o json bench produce --inflight 8 --batch-bytes 4096 --partitions 2 --seconds 1 --warm 0 --beside peers",
    );
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), lines[1]["peer"].as_str()), (2, Some("another")), "{lines:?}");
    assert!(lines[0]["disk"]["p50_ms"].is_number() && lines[0]["inflight"] == 16, "{lines:?}");
    assert!(lines[0]["batch_bytes"].as_f64() > Some(2_000.0), "{lines:?}");
}

/// Where reading begins, and what counts as sent.
fn places_and_levels(desk: &Desk) {
    desk.types("highwater topic create steps");
    let (_, error) = desk.types("seq 0 9 | highwater produce steps");
    assert!(error.contains("10 records acknowledged"), "{error}");
    assert_eq!(desk.types("highwater consume steps --from 5").0, "5\n6\n7\n8\n9\n");
    let (out, error) = desk.types("highwater consume steps -g late --from latest");
    assert_eq!(out, "", "{error}");
    assert!(error.contains("group late is new and starts at latest"), "{error}");
    for (level, said) in
        [("leader", "1 record acknowledged by their leaders alone"), ("none", "1 record sent, acknowledged by nobody")]
    {
        let (_, error) = desk.types(&format!("echo {level} | highwater produce steps --ack {level}"));
        assert!(error.contains(said), "{error}");
        // Neither says that it is there for others yet.
        support::wait(level, || desk.types("highwater consume steps --from 10").0.contains(level).then_some(()));
    }
    assert_eq!(desk.types("highwater consume steps -g late").0, "leader\nnone\n");
    let out = desk.dir.path().join("followed");
    let mut follow = desk.shell("exec highwater consume steps --from latest --follow");
    let mut follow = Program(follow.stdout(fs::File::create(&out).unwrap()).spawn().unwrap());
    let followed = || fs::read_to_string(&out).unwrap();
    // It does not say where it stands: something new comes until it has seen some of it.
    support::wait("what is new is printed", || {
        desk.types("echo new | highwater produce steps");
        (!followed().is_empty()).then_some(())
    });
    assert!(followed().lines().all(|line| line == "new"), "nothing from before: {}", followed());
    follow.signal(Signal::INT);
    assert!(follow.ended("Ctrl-C").success());

    fs::write(desk.dir.path().join("bad.toml"), "[node]\nid = 1\ncolour = \"red\"\n").unwrap();
    let checked = desk.shell("highwater config check bad.toml").output().unwrap();
    let error = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(1), "{error}");
    assert!(error.contains("bad.toml:3: unknown key `colour` in [node]"), "{error}");
    let checked = desk.shell("highwater -o json config check bad.toml highwater-dev/node-1.toml").output().unwrap();
    assert_eq!(checked.status.code(), Some(1));
    let checked: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let said = |n: usize| checked[n]["problems"].as_array().unwrap().iter().map(|p| p.as_str().unwrap());
    assert!(said(0).any(|problem| problem.contains("bad.toml:3: unknown key `colour`")), "{checked}");
    assert_eq!(said(1).count(), 0, "{checked}");
}

#[test]
fn a_cluster_from_the_config_files_of_the_readme_works() {
    let _turn = support::turn();
    let desk = Desk::new();
    let ports = support::free_ports(3);
    fs::create_dir(desk.dir.path().join("config")).unwrap();
    for id in 1..=3 {
        fs::write(desk.dir.path().join(format!("config/node-{id}.toml")), support::config(id, &ports, 3)).unwrap();
    }
    let (checked, _) = desk.types("highwater config check config/node-1.toml config/node-2.toml config/node-3.toml");
    assert_eq!(checked.matches("no problems").count(), 3, "{checked}");
    let mut nodes = Vec::new();
    for line in commands("A cluster from config files") {
        match line.strip_suffix(" &") {
            Some(serve) => {
                nodes.push(Program(desk.shell(&format!("exec {serve} 2>{}.log", nodes.len())).spawn().unwrap()))
            }
            None if line.contains("cluster status") => {
                let http = ports.iter().map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], port + 3)));
                for address in http {
                    support::wait("ready", || support::http(address, "/health/ready").filter(|answer| answer.0 == 200));
                }
                let (status, _) = desk.types(&line);
                assert_eq!(status.matches("alive").count(), 3, "{status}");
            }
            None => drop(desk.types(&line)),
        }
    }
    assert_eq!(nodes.len(), 3);
    let page = support::http(std::net::SocketAddr::from(([127, 0, 0, 1], ports[0] + 3)), "/metrics").unwrap();
    assert!(page.0 == 200 && page.1.trim_end().ends_with("# EOF"), "{page:?}");
    for node in &nodes {
        node.signal(Signal::INT);
    }
    for node in &mut nodes {
        assert!(node.ended("a node stops").success());
    }
}
