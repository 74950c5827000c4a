//! `highwater produce`: lines in, records out. What is said of them is what `--ack` lets be said: by default that a majority has them on disk.

use super::{Context, output, signals::Signals};
use crate::{
    advice::Advice,
    batch::Compression,
    client::{Producer, Record, producer::Receipt},
    limits,
    types::{AckLevel, TopicName},
};
use anyhow::Context as _;
use bytes::Bytes;
use highwater_raft::env::Env;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// What to send, and how.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The topic
    topic: TopicName,
    /// Read lines from here instead of stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What stands in front of the first separator is the record's key
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// To this partition, whatever the key
    #[arg(long)]
    partition: Option<u32>,
    /// When a record counts as sent
    #[arg(long, value_enum, default_value_t = Ack::Quorum)]
    ack: Ack,
    /// How batches are compressed; default: as the topic's setting says, else not
    #[arg(long, value_enum)]
    compression: Option<Codec>,
    /// How long a batch waits for more records, milliseconds
    #[arg(long, default_value_t = 5, value_name = "MS")]
    linger_ms: u64,
}

/// Acknowledgement levels by name.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Ack {
    /// On the disks of a majority
    Quorum,
    /// On the leader's disk; may be lost with it
    Leader,
    /// At once; may be lost
    None,
}

impl Ack {
    /// What may be said of records that count as sent.
    fn said(self) -> &'static str {
        match self {
            Self::Quorum => "acknowledged",
            Self::Leader => "acknowledged by their leaders alone",
            Self::None => "sent, acknowledged by nobody",
        }
    }
}

/// Compressions by name.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Codec {
    None,
    Lz4,
    Zstd,
}

impl From<Ack> for AckLevel {
    fn from(ack: Ack) -> Self {
        match ack {
            Ack::Quorum => Self::Quorum,
            Ack::Leader => Self::Leader,
            Ack::None => Self::None,
        }
    }
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

/// Records whose receipts may be open; the producer's buffer bounds their bytes.
const OPEN_MAX: usize = 100_000;
/// Lines handed over at once by the reading thread.
const LINES_AT_ONCE: usize = 1_000;
/// One read of the input, at most.
const READ_BYTES: usize = 1 << 20;
/// Longest line that is read: far longer than any record may be, and a bound on what is held of input without lines.
const LINE_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(LINE_BYTES_MAX > limits::BATCH_BYTES_MAX as usize && LINE_BYTES_MAX > READ_BYTES);

pub(super) async fn run(context: Context, args: Args) -> anyhow::Result<ExitCode> {
    let client = context.client().await?;
    // Before the first line is typed.
    client.topic(&args.topic).await.map_err(super::advise)?;
    let total = match &args.file {
        Some(path) => {
            Some(std::fs::metadata(path).with_context(|| format!("could not read {}", path.display()))?.len())
        }
        None => None,
    };
    let mut producer = client.producer().ack(args.ack.into()).linger(Duration::from_millis(args.linger_ms));
    if let Some(codec) = args.compression {
        producer = producer.compression(codec.into());
    }
    let producer = producer.build();
    let mut lines = read_lines(args.file.clone())?;
    // Drawn only on a terminal.
    let progress = progress(total, ProgressDrawTarget::stderr());
    let start = Instant::now();
    let mut load = Load { open: VecDeque::new(), acked: 0, failed: 0, first_failure: None };
    let mut signals = Signals::heard()?;
    let mut stopped = None;
    let taken: anyhow::Result<()> = 'input: loop {
        let chunk = tokio::select! {
            biased;
            code = signals.next() => {
                stopped = Some(code);
                break Ok(());
            }
            chunk = lines.recv() => chunk,
        };
        let chunk = match chunk {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => break Err(error),
            None => break Ok(()),
        };
        for line in chunk {
            progress.inc(line.len() as u64 + 1);
            match send(&producer, &args, line).await {
                Ok(receipt) => load.open.push_back(receipt),
                // What was taken before it is on its way, and is waited for as ever.
                Err(error) => break 'input Err(error),
            }
            if load.open.len() >= OPEN_MAX {
                load.settle_one().await;
            }
        }
    };
    let settled = async {
        // What lingers goes out now; each failure shows in its receipt.
        let _ = producer.close().await;
        while !load.open.is_empty() {
            load.settle_one().await;
        }
    };
    let given_up = tokio::select! {
        biased;
        () = settled => None,
        code = signals.next() => Some(code),
    };
    progress.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{} {} in {seconds:.2} s", output::counted(load.acked, "record"), args.ack.said());
    if context.output == output::Output::Json {
        let Load { acked, failed, .. } = load;
        let result = Sent { topic: &args.topic, acknowledged: acked, failed, unknown: load.open.len(), seconds };
        context.output.value(&result, String::new)?;
    }
    client.close();
    if given_up.is_some() {
        eprintln!(
            "error: {} not waited for: they may be in the log",
            output::counted(load.open.len() as u64, "record")
        );
    }
    if let Some(first) = &load.first_failure {
        eprintln!("error: {} failed, the first with: {first}", output::counted(load.failed, "record"));
    }
    taken?;
    Ok(match (stopped.or(given_up), load.failed) {
        (Some(code), _) => ExitCode::from(code),
        (None, 0) => ExitCode::SUCCESS,
        (None, _) => ExitCode::FAILURE,
    })
}

/// The result as JSON.
#[derive(Serialize)]
struct Sent<'a> {
    topic: &'a TopicName,
    acknowledged: u64,
    failed: u64,
    /// Not waited for: they may be in the log.
    unknown: usize,
    seconds: f64,
}

struct Load {
    open: VecDeque<Receipt>,
    acked: u64,
    failed: u64,
    first_failure: Option<String>,
}

impl Load {
    async fn settle_one(&mut self) {
        let Some(receipt) = self.open.pop_front() else { return };
        match receipt.await {
            Ok(_) => self.acked += 1,
            Err(error) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| format!("{error} ({})", error.advice()));
            }
        }
    }
}

async fn send(producer: &Producer, args: &Args, line: Bytes) -> anyhow::Result<Receipt> {
    let (key, value) = split(line, args.key_separator.as_deref());
    let mut record = Record::new(args.topic.clone(), value);
    record.key = key;
    record.partition = args.partition;
    producer.send(record).await.map_err(super::advise)
}

/// Key and value of a line; a line without the separator has no key.
fn split(line: Bytes, separator: Option<&str>) -> (Option<Bytes>, Bytes) {
    let place = separator
        .filter(|separator| !separator.is_empty())
        .and_then(|s| line.windows(s.len()).position(|w| w == s.as_bytes()).map(|at| (at, s.len())));
    match place {
        Some((at, len)) => (Some(line.slice(..at)), line.slice(at + len..)),
        None => (None, line),
    }
}

/// Lines without their ends, read on a thread of their own: stdin blocks.
fn read_lines(file: Option<PathBuf>) -> anyhow::Result<mpsc::Receiver<anyhow::Result<Vec<Bytes>>>> {
    let (sender, receiver) = mpsc::channel(4);
    let name = file.as_ref().map_or_else(|| "stdin".into(), |path| path.display().to_string());
    let input: Box<dyn Read + Send> = match file {
        Some(path) => {
            let open = std::fs::File::open(&path).with_context(|| format!("could not read {}", path.display()))?;
            Box::new(open)
        }
        None => Box::new(std::io::stdin()),
    };
    let mut input = BufReader::with_capacity(READ_BYTES, input);
    Env::real().spawn_thread("input", move || {
        Box::pin(async move {
            loop {
                let chunk = next_lines(&mut input).with_context(|| format!("could not read {name}"));
                let last = !matches!(&chunk, Ok(lines) if !lines.is_empty());
                if (!last || chunk.is_err()) && sender.send(chunk).await.is_err() {
                    return;
                }
                if last {
                    return;
                }
            }
        })
    })?;
    Ok(receiver)
}

/// What can be had without waiting for more, at least one line; empty at the end.
fn next_lines(input: &mut BufReader<impl Read>) -> anyhow::Result<Vec<Bytes>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    while lines.len() < LINES_AT_ONCE && (&mut *input).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)? > 0
    {
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        anyhow::ensure!(line.len() <= LINE_BYTES_MAX, "a line is longer than {LINE_BYTES_MAX} bytes, no record can be");
        lines.push(Bytes::copy_from_slice(&line));
        line.clear();
        // The next read may wait for somebody to type: what is here goes out before it.
        if !input.buffer().contains(&b'\n') {
            break;
        }
    }
    Ok(lines)
}

fn progress(total: Option<u64>, target: ProgressDrawTarget) -> ProgressBar {
    let template = match total {
        Some(_) => "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{spinner} {bytes} {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(total, target).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::TermLike;
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    #[test]
    fn keys_stand_before_the_first_separator() {
        let of = |line: &'static str, separator| split(Bytes::from_static(line.as_bytes()), separator);
        assert_eq!(of("a:b:c", Some(":")), (Some("a".into()), "b:c".into()));
        assert_eq!(of("abc", Some(":")), (None, "abc".into()));
        assert_eq!(of("a:b", None), (None, "a:b".into()));
        assert_eq!(of(":b", Some(":")), (Some("".into()), "b".into()));
        assert_eq!(of("a:b", Some("")), (None, "a:b".into()));
    }

    #[test]
    fn lines_come_without_their_ends() {
        let mut input = BufReader::new("one\n\ntwo\r\nlast".as_bytes());
        let mut all = Vec::new();
        loop {
            let lines = next_lines(&mut input).unwrap();
            if lines.is_empty() {
                break;
            }
            all.extend(lines);
        }
        assert_eq!(all, ["one", "", "two\r", "last"]);
    }

    #[test]
    fn input_without_lines_is_not_taken_in_whole() {
        let most = LINE_BYTES_MAX as u64;
        let mut line = BufReader::with_capacity(READ_BYTES, io::repeat(b'x').take(most).chain(&b"\nend"[..]));
        assert_eq!(next_lines(&mut line).unwrap()[0].len(), LINE_BYTES_MAX);
        let mut zeros = BufReader::with_capacity(READ_BYTES, io::repeat(0).take(4 * most));
        let said = next_lines(&mut zeros).map(|lines| lines.len()).unwrap_err().to_string();
        assert!(said.contains("longer than 67108864 bytes"), "{said}");
    }

    /// Gives what was typed so far, one piece a read. A read more would wait.
    struct Typed(VecDeque<&'static str>);

    impl Read for Typed {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let piece = self.0.pop_front().ok_or_else(|| io::Error::other("nothing more is typed yet"))?;
            into[..piece.len()].copy_from_slice(piece.as_bytes());
            Ok(piece.len())
        }
    }

    #[test]
    fn lines_that_are_typed_do_not_wait_for_the_next_one() {
        let mut input = BufReader::new(Typed(["one\n", "two\nthree\nfo", "ur\n"].into()));
        assert_eq!(next_lines(&mut input).unwrap(), ["one"]);
        assert_eq!(next_lines(&mut input).unwrap(), ["two", "three"]);
        assert_eq!(next_lines(&mut input).unwrap(), ["four"]);
        assert!(next_lines(&mut input).is_err(), "only now it waits");
    }

    #[test]
    fn many_lines_are_handed_over_in_parts() {
        let text = "x\n".repeat(LINES_AT_ONCE + 1);
        let mut input = BufReader::with_capacity(READ_BYTES, text.as_bytes());
        let counts: Vec<_> = (0..3).map(|_| next_lines(&mut input).unwrap().len()).collect();
        assert_eq!(counts, [LINES_AT_ONCE, 1, 0]);
    }

    /// A terminal of one line.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl Screen {
        fn text(&self) -> String {
            self.0.lock().unwrap().clone()
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_terminal_shows_how_far_it_is_and_is_clean_behind() {
        for (total, shown) in [(Some(2_048), " 1.00 KiB/2.00 KiB "), (None, " 1.00 KiB ")] {
            let screen = Screen::default();
            let bar = progress(total, ProgressDrawTarget::term_like(Box::new(screen.clone())));
            bar.inc(1_024);
            assert!(screen.text().contains(shown), "{:?}", screen.text());
            bar.finish_and_clear();
            assert_eq!(screen.text(), "");
        }
    }
}
