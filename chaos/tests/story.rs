//! What a new user would do: a cluster by `highwater dev`, lines piped in, two groups out, nodes killed by `highwater chaos`
//! meanwhile, everything stopped and started again.
//!
//! Needs the `highwater` program beside `highwater-chaos`, so it runs by name:
//! `cargo build --release && cargo test --release -p highwater-chaos --test story`.

#![allow(clippy::disallowed_methods, reason = "wall-clock time and threads of a test of real processes")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{free_ports, wait};
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::sleep,
    time::Duration,
};

const LINES: usize = 20_000;

struct Desk {
    dir: tempfile::TempDir,
    highwater: PathBuf,
    port: u16,
}

/// Killed when it is forgotten.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn interrupt(mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

/// `(partition, offset)` to what was given there, and how often anything came again without saying so.
#[derive(Default)]
struct Seen {
    values: BTreeMap<(u64, u64), String>,
    again: usize,
    unsaid: usize,
}

impl Desk {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.highwater);
        command.args(words).current_dir(self.dir.path());
        command
    }

    fn types(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "highwater {words:?}: {}\n{error}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    fn dev(&self) -> Running {
        let mut command = self.command(&["dev", "--port", &self.port.to_string()]);
        let dev = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait("the cluster answers", || {
            self.command(&["cluster", "status"]).output().unwrap().status.success().then_some(())
        });
        dev
    }

    /// A member that prints for as long as it runs.
    fn member(&self, group: &str, seen: &Arc<Mutex<Seen>>) -> Running {
        let mut command = self.command(&["-o", "json", "consume", "lines", "-g", group, "--follow"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (stdout, seen) = (child.stdout.take().unwrap(), seen.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let said: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
                let at = (said["partition"].as_u64().unwrap(), said["offset"].as_u64().unwrap());
                let mut seen = seen.lock().unwrap();
                if seen.values.insert(at, said["value"].as_str().unwrap().to_owned()).is_some() {
                    seen.again += 1;
                    seen.unsaid += usize::from(!said["redelivered"].as_bool().unwrap());
                }
            }
        });
        Running(child)
    }

    /// As through a pipe: `… | highwater produce lines`.
    fn produce(&self, lines: std::ops::Range<usize>) {
        let text: String = lines.map(|n| format!("key-{:04}|line {n:06}\n", n % 1_000)).collect();
        let mut command = self.command(&["produce", "lines", "--key-separator", "|"]);
        let mut child = Running(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
        // Dropped at the end: the program reads to the end of what comes.
        child.0.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let status = child.0.wait().unwrap();
        assert!(status.success(), "produce: {status}");
    }
}

#[test]
fn groups_see_everything_over_kills_and_a_restart_of_all() {
    let chaos = Path::new(env!("CARGO_BIN_EXE_highwater-chaos"));
    let highwater = chaos.with_file_name("highwater");
    assert!(highwater.exists(), "build it first: `cargo build --release` makes {}", highwater.display());
    let desk = Desk { dir: tempfile::tempdir().unwrap(), highwater, port: free_ports() };
    let dev = desk.dev();
    desk.types(&["topic", "create", "lines", "--partitions", "12"]);
    let (a, b) = (Arc::<Mutex<Seen>>::default(), Arc::<Mutex<Seen>>::default());
    let members = [desk.member("a", &a), desk.member("a", &a), desk.member("b", &b)];
    desk.produce(0..LINES);
    // Kills under a load of its own, while these groups go on.
    let args = ["chaos", "--kill", "leader", "--every", "5s", "--for", "25s", "--json"];
    let told = std::thread::scope(|scope| {
        let storm = scope.spawn(|| desk.types(&args));
        for part in 1..5 {
            desk.produce(part * LINES..(part + 1) * LINES);
            sleep(Duration::from_secs(4));
        }
        storm.join().unwrap()
    });
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    eprintln!("{told}");
    let kills: u64 = told["faults"].as_object().unwrap().values().filter_map(serde_json::Value::as_u64).sum();
    assert!(kills >= 3, "{told}");
    assert!(told["failovers"].as_u64().unwrap() > 0 && told["acked"].as_u64() == told["read"].as_u64(), "{told}");
    assert!(desk.dir.path().join("highwater-chaos.html").exists());
    let has = |seen: &Mutex<Seen>, count| (seen.lock().unwrap().values.len() >= count).then_some(());
    for seen in [&a, &b] {
        wait("the group has everything", || has(seen, 5 * LINES));
    }
    members.into_iter().for_each(Running::interrupt);

    // Everything stops, and starts: each group goes on from where it was, and is given nothing twice.
    let again = [&a, &b].map(|seen| seen.lock().unwrap().again);
    dev.interrupt();
    let dev = desk.dev();
    desk.produce(5 * LINES..6 * LINES);
    let members = [desk.member("a", &a), desk.member("a", &a), desk.member("b", &b)];
    for ((name, seen), again) in [("a", &a), ("b", &b)].into_iter().zip(again) {
        wait("the group has the rest", || has(seen, 6 * LINES));
        let seen = seen.lock().unwrap();
        let mut found: Vec<&String> = seen.values.values().collect();
        found.sort_unstable();
        let sent: Vec<String> = (0..6 * LINES).map(|n| format!("line {n:06}")).collect();
        assert!(found.into_iter().eq(&sent), "group {name}: not what was sent");
        eprintln!(
            "group {name}: {} records, {} of them again, {} without saying so",
            seen.values.len(),
            seen.again,
            seen.unsaid
        );
        assert_eq!(seen.unsaid, 0, "group {name}");
        assert_eq!(seen.again, again, "group {name}: records came again after a clean stop");
    }
    members.into_iter().for_each(Running::interrupt);
    dev.interrupt();
}
