//! `highwater cert`: the cluster's authority, and certificates for its nodes and clients.

use super::output::{self, Output};
use crate::{
    limits,
    tls::{Authority, FOR_DAYS_DEFAULT, TlsError},
    types::NodeId,
};
use highwater_raft::env::Env;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// `highwater cert …`
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Make the authority that signs everything else; keep its key off the nodes
    Ca {
        #[command(flatten)]
        place: Place,
    },
    /// Make certificates for nodes
    Node {
        #[command(flatten)]
        place: Place,
        /// For which node; may be given many times
        #[arg(long = "node", value_name = "ID", required = true, value_parser = clap::value_parser!(u32).range(1..NODE_ID_END))]
        nodes: Vec<u32>,
        /// A host name or IP address by which clients reach the node (localhost and 127.0.0.1 always work); may be given many times
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// Make a certificate for a client
    Client {
        #[command(flatten)]
        place: Place,
        /// The client's name
        #[arg(long, value_name = "NAME")]
        name: String,
    },
}

/// The name in the config files that come with the program.
const CLUSTER_NAME: &str = "highwater";

/// Where certificates are, and for which cluster.
#[derive(clap::Args)]
pub(super) struct Place {
    /// The cluster's name, as in [cluster] of its config files
    #[arg(long, default_value = CLUSTER_NAME, value_name = "NAME")]
    cluster_name: String,
    /// The folder of the certificates
    #[arg(long, default_value = "highwater-certs", value_name = "DIR")]
    out: PathBuf,
    /// How long they are good for
    #[arg(long, default_value_t = FOR_DAYS_DEFAULT, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    days: u32,
}

/// For which nodes there are certificates.
const NODE_ID_END: i64 = limits::NODE_ID_END as i64;

impl Place {
    /// What comes next, with the options that say where this was made and for whom.
    fn next(&self) -> String {
        let mut words = format!("highwater cert node --out {}", output::quoted(&self.out.display().to_string()));
        if self.cluster_name != CLUSTER_NAME {
            words += &format!(" --cluster-name {}", self.cluster_name);
        }
        words + " --node 1 --node 2 --node 3"
    }
}

pub(super) fn run(output: Output, command: Command) -> anyhow::Result<ExitCode> {
    let made = make(command).map_err(super::advise)?;
    output.value(&made, || {
        let lines = made.iter().map(|made| format!("{}\n{}", made.certificate.display(), made.key.display()));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn make(command: Command) -> Result<Vec<Made>, TlsError> {
    let mut made = Vec::new();
    let now_ms = Env::real().now_ms();
    match command {
        Command::Ca { place } => {
            let written = Authority::create(&place.cluster_name, place.days, now_ms)?.write(&place.out)?;
            made.push(Made::from(written));
            eprintln!("next: {}", place.next());
        }
        Command::Node { place, nodes, hosts } => {
            let authority = Authority::read(&place.out, &place.cluster_name, now_ms)?;
            for node in nodes {
                let issued = authority.issue_node(NodeId(node), &hosts, place.days)?;
                made.push(Made::from(issued.write(&place.out, &format!("node-{node}"))?));
            }
        }
        Command::Client { place, name } => {
            let authority = Authority::read(&place.out, &place.cluster_name, now_ms)?;
            let issued = authority.issue_client(&name, place.days)?;
            made.push(Made::from(issued.write(&place.out, &format!("client-{name}"))?));
        }
    }
    Ok(made)
}

/// Everything that a cluster of nodes 1 to `nodes` on this machine needs; an authority that is there signs it. `host` is where
/// clients find a node, beside this machine's own names.
///
/// # Errors
/// When the folder cannot be written, or what is there is of another cluster.
pub fn make_certificates(
    directory: &Path,
    cluster: &str,
    nodes: u16,
    host: impl Fn(u32) -> Option<String>,
) -> anyhow::Result<()> {
    let now_ms = Env::real().now_ms();
    let authority = if directory.join("ca.pem").exists() {
        Authority::read(directory, cluster, now_ms).map_err(super::advise)?
    } else {
        let made = Authority::create(cluster, FOR_DAYS_DEFAULT, now_ms).map_err(super::advise)?;
        made.write(directory).map_err(super::advise)?;
        made
    };
    for node in 1..=u32::from(nodes) {
        let hosts: Vec<String> = host(node).into_iter().collect();
        let issued = authority.issue_node(NodeId(node), &hosts, FOR_DAYS_DEFAULT).map_err(super::advise)?;
        issued.write(directory, &format!("node-{node}")).map_err(super::advise)?;
    }
    Ok(())
}

/// Two files that were written.
#[derive(serde::Serialize)]
struct Made {
    certificate: PathBuf,
    key: PathBuf,
}

impl From<(PathBuf, PathBuf)> for Made {
    fn from((certificate, key): (PathBuf, PathBuf)) -> Self {
        Self { certificate, key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn place(out: &Path, cluster_name: &str) -> Place {
        Place { cluster_name: cluster_name.into(), out: out.into(), days: 1 }
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn what_comes_next_finds_what_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("of prod");
        let place = Place { cluster_name: "prod".into(), out, days: 1 };
        let next = place.next();
        let end = next.strip_prefix("highwater cert node --out ").unwrap();
        let end = end.strip_prefix(&format!("'{}'", place.out.display())).unwrap();
        make(Command::Ca { place }).unwrap();
        let out = folder.path().join("of prod");
        let words = ["cert", "node", "--out"].into_iter().chain([out.to_str().unwrap()]).chain(end.split_whitespace());
        assert_eq!(make(Line::try_parse_from(words).unwrap().command).unwrap().len(), 3);
        assert!(
            Place { cluster_name: CLUSTER_NAME.into(), out: "certs".into(), days: 1 }
                .next()
                .contains("--out certs --node 1")
        );
    }

    #[test]
    fn certificates_are_for_nodes_that_can_be_and_for_a_time() {
        for words in [["--node", "0"], ["--node", "65536"], ["--days", "0"]] {
            let words = ["cert", "node", "--node", "1"].into_iter().chain(words);
            assert!(Line::try_parse_from(words.clone()).is_err(), "{words:?}");
        }
        let out = tempfile::tempdir().unwrap();
        make(Command::Ca { place: Place { days: u32::MAX, ..place(out.path(), "a") } }).unwrap();
        let place = Place { days: u32::MAX, ..place(out.path(), "a") };
        make(Command::Node { place, nodes: vec![65_535], hosts: Vec::new() }).unwrap();
    }

    #[test]
    fn refusals_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("certs");
        let ca = |cluster| Command::Ca { place: place(&out, cluster) };
        let node = |cluster, host: &str| Command::Node {
            place: place(&out, cluster),
            nodes: vec![1],
            hosts: vec![host.into()],
        };
        let refused = |command| run(Output::Json, command).unwrap_err().to_string();
        let said = |command, what: &str, advice: &str| {
            let said = refused(command);
            assert!(said.contains(what) && said.contains(advice), "{said}");
        };
        said(node("a", "b"), "certs/ca.pem", "`highwater cert` makes it");
        said(ca("A"), "\"A\"", "1 to 40 of a-z");
        run(Output::Json, ca("a")).unwrap();
        said(ca("a"), "certs/ca.pem is there already", "use the CA that is there");
        said(node("b", "b"), "named \"b\"", "give the cluster's name");
        said(node("a", "b c"), "\"b c\"", "give a host name");
        said(Command::Client { place: place(&out, "a"), name: "B".into() }, "\"B\"", "choose a client name");
        // A folder that cannot be one.
        let below = place(&out.join("ca.pem/below"), "a");
        said(Command::Ca { place: below }, "ca.pem/below", "may be written");
        let said = make_certificates(&out, "b", 1, |_| None).unwrap_err().to_string();
        assert!(said.contains("give the cluster's name"), "{said}");
        let said = make_certificates(&out, "a", 1, |_| Some("b c".into())).unwrap_err().to_string();
        assert!(said.contains("give a host name"), "{said}");
    }
}
