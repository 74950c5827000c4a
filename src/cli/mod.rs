//! The `highwater` command: what operators and newcomers type. Uses the client for everything that a program could do too;
//! only `serve`, `dev`, `cert` and `config` know nodes, certificates and files.
//!
//! Output is a table or lines for people, or JSON (`-o json`) for machines; what a person should do next goes to stderr.

#![allow(clippy::print_stdout, reason = "the command line speaks on stdout")]

mod bench;
mod cert;
mod cluster;
mod config;
mod consume;
mod dev;
mod find;
mod group;
mod output;
mod produce;
mod serve;
mod signals;
mod topic;

pub use cert::make_certificates;
pub use dev::is_ready;
pub use find::{ClusterFile, ClusterNode, DEV_FILE, find};
pub use serve::{LOGS, serve};

use crate::{
    advice::Advice,
    client::Client,
    tls::{self, Identity, Roots},
    types::Position,
};
use clap::{Parser, Subcommand};
use output::Output;
use std::{os::unix::process::CommandExt as _, path::PathBuf, process::ExitCode};

/// The options that every command takes stand apart from its own.
const EVERY: &str = "Options of every command";

/// A message broker: replicated streams that lose nothing they acknowledged.
#[derive(Parser)]
#[command(name = "highwater", version, propagate_version = true, max_term_width = 110)]
struct Args {
    /// Which cluster: a `dev.toml` or a node's config file [default: $HIGHWATER_CLUSTER, then ./highwater-dev/dev.toml]
    #[arg(long, global = true, help_heading = EVERY, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// A client's certificate, for clusters that ask for one
    #[arg(long, global = true, help_heading = EVERY, value_name = "FILE", env = "HIGHWATER_CERTIFICATE")]
    certificate: Option<PathBuf>,
    /// Its private key
    #[arg(long, global = true, help_heading = EVERY, value_name = "FILE", env = "HIGHWATER_KEY")]
    key: Option<PathBuf>,
    /// How to print results
    #[arg(short, long, global = true, help_heading = EVERY, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster on this machine, ready to use; Ctrl-C stops it
    Dev(dev::Args),
    /// Run one node from its config file
    Serve(serve::Args),
    /// Check config files
    #[command(subcommand)]
    Config(config::Command),
    /// Make a certificate authority, and certificates for nodes and clients
    #[command(subcommand)]
    Cert(cert::Command),
    /// Create, list, describe, alter and delete topics
    #[command(subcommand)]
    Topic(topic::Command),
    /// Send lines from stdin or a file to a topic
    Produce(produce::Args),
    /// Print a topic's records, alone or as a member of a group
    Consume(consume::Args),
    /// List, describe and reset consumer groups
    #[command(subcommand)]
    Group(group::Command),
    /// How the cluster is
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Measure a cluster: produce, consume, latency
    #[command(subcommand)]
    Bench(bench::Command),
    /// Kill nodes under load and count what is lost (runs `highwater-chaos`)
    #[command(disable_help_flag = true)]
    Chaos {
        /// Given to `highwater-chaos run` as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
}

/// What every client command needs to know.
pub(crate) struct Context {
    cluster: Option<PathBuf>,
    /// The files of the client's own certificate and key.
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    output: Output,
}

impl Context {
    /// The cluster that the user means.
    fn cluster(&self) -> anyhow::Result<ClusterFile> {
        find(self.cluster.as_deref())
    }

    /// A client of it.
    async fn client(&self) -> anyhow::Result<Client> {
        let cluster = self.cluster()?;
        let roots = Roots::read(&cluster.ca).map_err(advise)?;
        let identity = self.identity()?;
        let tls = tls::client_config(&roots, identity.as_ref()).map_err(advise)?;
        let client = Client::connect(cluster.addresses(), tls).await;
        client.map_err(|error| match cluster.is_stopped() {
            true => anyhow::anyhow!("{error} (`highwater dev` was stopped here: start it again, its data is kept)"),
            false => anyhow::anyhow!("{error} ({})", error.advice()),
        })
    }

    /// What the client shows to a cluster that asks who it is.
    fn identity(&self) -> anyhow::Result<Option<Identity>> {
        match (&self.certificate, &self.key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Identity::read(certificate, key).map(Some).map_err(advise),
            (Some(_), None) => anyhow::bail!("a certificate is shown with its private key: add --key FILE"),
            (None, Some(_)) => anyhow::bail!("a private key belongs to a certificate: add --certificate FILE"),
        }
    }

    /// Says to a person what may come next.
    fn hint(&self, text: impl FnOnce() -> String) {
        if self.output == Output::Table {
            eprintln!("{}", text());
        }
    }
}

/// Runs the command line; the exit code is 0 when all was done, 1 when something failed, 2 when the words make no sense.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let context = Context { cluster: args.cluster, certificate: args.certificate, key: args.key, output: args.output };
    let result = match args.command {
        Command::Dev(args) => block_on(dev::run(args)),
        Command::Serve(args) => serve::run(&args),
        Command::Config(command) => config::run(context.output, command),
        Command::Cert(command) => cert::run(context.output, command),
        Command::Topic(command) => block_on(topic::run(context, command)),
        Command::Produce(args) => block_on(produce::run(context, args)),
        Command::Consume(args) => block_on(consume::run(context, args)),
        Command::Group(command) => block_on(group::run(context, command)),
        Command::Cluster(command) => block_on(cluster::run(context, command)),
        Command::Bench(command) => block_on(bench::run(context, command)),
        Command::Chaos { args } => chaos(context, &args),
    };
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A position as it is typed; for arguments that take words with a hyphen too, so that `-1` is answered here.
fn position(text: &str) -> Result<Position, String> {
    let parsed = text.parse::<Position>().ok();
    parsed.filter(|position| !matches!(position, Position::Time(ms) if *ms < 0)).ok_or_else(|| {
        "not a position; use earliest, latest, an offset from 0 on, or @MILLISECONDS since 1970, such as @1767225600000"
            .into()
    })
}

/// An error with what to do about it. Refusals of a broker say that themselves, behind a semicolon.
pub(crate) fn advise(error: impl Advice + std::error::Error) -> anyhow::Error {
    match error.to_string() {
        text if text.contains("; ") => anyhow::anyhow!(text),
        text => anyhow::anyhow!("{text} ({})", error.advice()),
    }
}

/// A reader that had enough (`| head`) is no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    start_logging("warn");
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// Logs go to stderr; `RUST_LOG` chooses which.
fn start_logging(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal).try_init();
}

/// `highwater chaos …` is `highwater-chaos run …`: a crate of its own, because it needs the test kit.
fn chaos(context: Context, args: &[std::ffi::OsString]) -> anyhow::Result<ExitCode> {
    let name = "highwater-chaos";
    let beside = std::env::current_exe()?.with_file_name(name);
    let program = if beside.exists() { beside } else { PathBuf::from(name) };
    let mut command = std::process::Command::new(&program);
    command.arg("run").args(args);
    if context.output == Output::Json && !args.iter().any(|arg| arg == "--json") {
        command.arg("--json");
    }
    let files = [("--cluster", context.cluster), ("--certificate", context.certificate), ("--key", context.key)];
    for (name, file) in files.into_iter().filter_map(|(name, file)| Some((name, file?))) {
        command.arg(name).arg(file);
    }
    // It takes this process's place: whoever stops the one stops the other.
    let error = command.exec();
    if error.kind() == std::io::ErrorKind::NotFound {
        anyhow::bail!(
            "{name} is neither beside this program nor on PATH; build it with `cargo build --release -p {name}` (or `cargo install --path chaos`)"
        );
    }
    Err(anyhow::Error::from(error).context(format!("could not start {}", program.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words that are no positions.
    const NONE: [&str; 9] = ["-1", "@-1", "@x", "@", "", "1.5", "first", "-g", "18446744073709551616"];

    fn refused(words: &[&str]) -> String {
        Args::try_parse_from(words).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn positions_are_offsets_times_and_ends() {
        for (text, meant) in [
            ("earliest", Position::Earliest),
            ("latest", Position::Latest),
            ("0", Position::Offset(0)),
            ("17", Position::Offset(17)),
            ("@0", Position::Time(0)),
            ("@1767225600000", Position::Time(1_767_225_600_000)),
        ] {
            assert_eq!(position(text), Ok(meant), "{text:?}");
        }
        for text in NONE {
            let said = position(text).unwrap_err();
            assert!(said.contains("use earliest, latest, an offset from 0 on, or @MILLISECONDS"), "{text:?}: {said}");
        }
    }

    #[test]
    fn arguments_that_are_no_positions_are_answered_with_what_would_do() {
        for text in NONE {
            for words in [
                ["highwater", "consume", "orders", "--from", text].as_slice(),
                ["highwater", "group", "reset", "billing", "--to", text].as_slice(),
            ] {
                let said = refused(words);
                let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(said.contains(&format!("invalid value '{text}' for '--")), "{words:?}: {said}");
                assert!(
                    said.contains("use earliest, latest, an offset from 0 on, or @MILLISECONDS"),
                    "{words:?}: {said}"
                );
            }
        }
    }
}
