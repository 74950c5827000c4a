//! Nodes in network namespaces, each in one of its own, with a bridge in one more, where the load is.
//!
//! ```text
//!  node 1: eth0 10.77.0.1 ──── n1 ┐
//!  node 2: eth0 10.77.0.2 ──── n2 ├ bridge with nftables ── 10.77.0.254: this thread
//!  node 3: eth0 10.77.0.3 ──── n3 ┘
//! ```
//! The namespaces have no names: open files of this process hold them, so they go with it, however it ends, and runs beside each
//! other do not meet. The machine's own network is never touched. A thread is in one namespace at a time; what it starts or
//! opens is there too.

use super::net::{Rule, Rules};
use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::{
    cell::Cell,
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    process::{Command, Stdio},
};

/// The namespaces of one cluster. This thread is in the bridge's as long as the value lives.
pub(super) struct Spaces {
    home: File,
    hub: File,
    nodes: Vec<File>,
    dropped: Cell<u64>,
}

impl Spaces {
    /// Makes everything, and moves this thread.
    pub(super) fn make(nodes: u16) -> anyhow::Result<Self> {
        let home = current()?;
        let hub = fresh().context("a network namespace could not be made")?;
        let mut spaces = Self { home, hub, nodes: Vec::new(), dropped: Cell::default() };
        ip("link set lo up\nlink add bridge type bridge\naddr add 10.77.0.254/24 dev bridge\nlink set bridge up\n")?;
        for node in 1..=u32::from(nodes) {
            let space = fresh()?;
            ip("link set lo up\n")?;
            enter(&spaces.hub)?;
            let held = format!("/proc/{}/fd/{}", std::process::id(), space.as_raw_fd());
            ip(&format!(
                "link add n{node} type veth peer name eth0 netns {held}\nlink set n{node} master bridge\nlink set n{node} up\n"
            ))?;
            spaces.nodes.push(space);
            // Without segmentation in the kernel each datagram meets the rules by itself.
            let plug = format!(
                "addr add {} dev eth0\nlink set eth0 gso_max_segs 1\nlink set eth0 up\n",
                format_args!("{}/24", address(node))
            );
            spaces.inside(node, || ip(&plug))??;
        }
        spaces.set(&Rules::new())?;
        Ok(spaces)
    }

    /// Does something as if on the node's machine.
    pub(super) fn inside<T>(&self, node: u32, what: impl FnOnce() -> T) -> io::Result<T> {
        enter(&self.nodes[node as usize - 1])?;
        let done = what();
        enter(&self.hub)?;
        Ok(done)
    }

    /// These rules instead of all that were there.
    pub(super) fn set(&self, rules: &Rules) -> anyhow::Result<()> {
        self.dropped.set(self.dropped());
        say("nft", &["-f", "-"], &ruleset(rules))?;
        for node in 1..=u32::try_from(self.nodes.len()).unwrap_or(0) {
            let late =
                rules.iter().find(|((_, to), rule)| *to == node && (!rule.delay.is_zero() || !rule.jitter.is_zero()));
            let _ = say("tc", &["qdisc", "del", "dev", &format!("n{node}"), "root"], "");
            if let Some((_, rule)) = late {
                delay(node, rule)?;
            }
        }
        Ok(())
    }

    /// Packets that rules have dropped.
    pub(super) fn dropped(&self) -> u64 {
        let listed = say("nft", &["list", "tables"], "").and_then(|tables| match tables.contains("bridge chaos") {
            true => say("nft", &["list", "table", "bridge", "chaos"], ""),
            false => Ok(String::new()),
        });
        self.dropped.get() + counted(&listed.unwrap_or_default())
    }

    /// Pulls the node's cable out, or puts it in again.
    pub(super) fn plug(&self, node: u32, is_in: bool) -> anyhow::Result<()> {
        ip(&format!("link set n{node} {}\n", if is_in { "up" } else { "down" }))
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        let _ = enter(&self.home);
    }
}

/// Where a node is reached.
pub(super) fn address(node: u32) -> IpAddr {
    IpAddr::from([10, 77, 0, u8::try_from(node).unwrap_or(u8::MAX)])
}

/// Why packets cannot be late here; `None` when they can.
pub(super) fn no_delay() -> Option<String> {
    let tried = Spaces::make(1)
        .and_then(|_spaces| delay(1, &Rule { delay: std::time::Duration::from_millis(1), ..Rule::default() }));
    tried.err().map(|error| format!("{error:#}"))
}

/// Why all this cannot be had here; `None` when it can.
pub(super) fn refused() -> Option<String> {
    let all = Rule { loss: 1, twice: 1, cut: true, ..Rule::default() };
    let tried = Spaces::make(2).and_then(|spaces| spaces.set(&[((1, 2), all)].into()));
    tried.err().map(|error| format!("{error:#}"))
}

/// Whatever goes to the node is late: `delay`, and up to `jitter` more.
fn delay(node: u32, rule: &Rule) -> anyhow::Result<()> {
    let half = rule.jitter / 2;
    let (mean, half) = (format!("{}us", (rule.delay + half).as_micros()), format!("{}us", half.as_micros()));
    let device = format!("n{node}");
    say("tc", &["qdisc", "add", "dev", &device, "root", "netem", "delay", &mean, &half], "")?;
    Ok(())
}

fn current() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

fn enter(space: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// A new namespace, with this thread in it.
#[allow(unsafe_code, reason = "the only way to a namespace without a name")]
fn fresh() -> io::Result<File> {
    // SAFETY: file descriptors stay shared between threads; only the network is another.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    current()
}

fn ip(lines: &str) -> anyhow::Result<()> {
    say("ip", &["-batch", "-"], lines).map(drop)
}

/// Runs a program with this on stdin, and gives its stdout.
fn say(program: &str, words: &[&str], input: &str) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("could not run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may have ended before it read everything: its status tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {}: {}", words.join(" "), error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What `nft` is told. Only IP is dropped: who lives where stays known, so that one direction can go alone.
fn ruleset(rules: &Rules) -> String {
    let (mut cross, mut copies) = (String::new(), String::new());
    for ((from, to), rule) in rules {
        let way = format!("    iifname \"n{from}\" oifname \"n{to}\" ether type ip");
        let Rule { cut, loss, twice, .. } = *rule;
        if cut {
            let _ = writeln!(cross, "{way} counter drop");
        } else if loss > 0 {
            let _ = writeln!(cross, "{way} {}counter drop", chance(loss));
        }
        if !cut && twice > 0 {
            let chosen = format!("ip daddr {} {}", address(*to), chance(twice));
            let _ = writeln!(copies, "  chain from_{from}_to_{to} {{");
            let _ = writeln!(copies, "    type filter hook ingress device \"n{from}\" priority {to}; policy accept;");
            let _ = writeln!(copies, "    {chosen}dup to \"n{to}\"\n  }}");
        }
    }
    format!(
        "table bridge chaos\ndelete table bridge chaos\ntable netdev chaos\ndelete table netdev chaos\n\
         table bridge chaos {{\n  chain cross {{\n    type filter hook forward priority 0; policy accept;\n{cross}  }}\n}}\n\
         table netdev chaos {{\n{copies}}}\n"
    )
}

/// For so many packets of a hundred.
fn chance(percent: u32) -> String {
    if percent < 100 { format!("numgen random mod 100 < {percent} ") } else { String::new() }
}

/// The sum of `counter packets N`.
fn counted(listed: &str) -> u64 {
    let counts = listed.split("counter packets ").skip(1);
    counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::not_run;
    use std::{net::UdpSocket, time::Duration};

    #[test]
    fn rules_are_said_to_nft() {
        let lossy = Rule { loss: 3, twice: 2, ..Rule::default() };
        let text = ruleset(&[((1, 2), Rule { cut: true, ..lossy }), ((2, 1), lossy)].into());
        assert!(text.contains("iifname \"n1\" oifname \"n2\" ether type ip counter drop\n"));
        assert!(text.contains("iifname \"n2\" oifname \"n1\" ether type ip numgen random mod 100 < 3 counter drop\n"));
        assert_eq!(text.matches("dup to").count(), 1, "what is cut does not come twice");
        assert_eq!(counted("a counter packets 3 bytes 84 drop\nb counter packets 4 bytes 9 drop\n"), 7);
    }

    /// Needs root; says so where it is not.
    #[test]
    fn each_direction_has_its_own_rule() {
        let spaces = match Spaces::make(2) {
            Ok(spaces) => spaces,
            Err(error) => return not_run(&format!("{error:#}")),
        };
        let bind = |node| spaces.inside(node, || UdpSocket::bind((address(node), 9000))).unwrap().unwrap();
        let (one, two, mut buffer) = (bind(1), bind(2), [0; 16]);
        let mut send = |from: &UdpSocket, to: &UdpSocket, times: usize| {
            from.send_to(b"hello", to.local_addr().unwrap()).unwrap();
            for _ in 0..times {
                to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                to.recv_from(&mut buffer).unwrap();
            }
            to.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            assert!(to.recv_from(&mut buffer).is_err(), "more than {times}");
        };
        send(&one, &two, 1);
        send(&two, &one, 1);
        spaces.set(&[((1, 2), Rule { cut: true, ..Rule::default() })].into()).unwrap();
        send(&one, &two, 0);
        send(&two, &one, 1);
        assert_eq!(spaces.dropped(), 1);
        spaces.set(&[((1, 2), Rule { twice: 100, ..Rule::default() })].into()).unwrap();
        send(&one, &two, 2);
        send(&two, &one, 1);
        spaces.set(&Rules::new()).unwrap();
        spaces.plug(2, false).unwrap();
        send(&one, &two, 0);
        spaces.plug(2, true).unwrap();
        // The first ones get lost while nobody knows where the address is.
        two.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let arrives =
            || one.send_to(b"hello", two.local_addr().unwrap()).is_ok() && two.recv_from(&mut [0; 16]).is_ok();
        assert!((0..600).any(|_| arrives()));
        assert_eq!(spaces.dropped(), 1, "what was counted is kept");
    }
}
