//! Hears what nodes say of themselves ([`Fact`]): of a simulation's for the history of the world that runs on this thread, of
//! this process's own node for a file.

use crate::history::Fact;
use anyhow::Context as _;
use highwater_raft::{env::TaskSet, observe::TARGET};
use serde_json::{Map, Value};
use std::{
    cell::RefCell,
    fmt::{self, Write as _},
    fs::File,
    io::Write as _,
    path::Path,
    rc::Rc,
    sync::{Mutex, PoisonError},
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::filter_fn,
    fmt::{
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// Takes a fact, with the label of the node's life whose task said it.
type Sink = Rc<dyn Fn(u64, Fact)>;

thread_local! {
    static SINK: RefCell<Option<Sink>> = const { RefCell::new(None) };
}

/// Where facts of this thread go from now on.
pub fn listen(sink: Option<Sink>) {
    SINK.replace(sink);
}

/// Sends logs to stderr as `RUST_LOG` says, and facts to whoever [listens](listen). Once per process; later calls do nothing.
pub fn install() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("error,openraft=off,highwater=off,highwater_raft=off"));
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_timer(Clock).with_filter(filter);
    let facts = Facts.with_filter(filter_fn(is_fact));
    // A test may have come before.
    let _ = tracing_subscriber::registry().with(logs).with(facts).try_init();
}

/// Sends logs to stderr as a node does, and the facts of this process's one node into a new file, one line of JSON each:
/// `{"at":81234567,"fact":"leads","group":7,"replica":2,"term":3}`, at microseconds of [`machine_us`].
///
/// Each line is in the kernel's hands before the node goes on: SIGKILL takes at most the end of the last one, and nothing that
/// others saw a node do is missing from its facts.
///
/// # Errors
/// When the file cannot be made, or there is a subscriber already.
pub fn record(path: &Path) -> anyhow::Result<()> {
    let file = File::options()
        .append(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("could not make {}", path.display()))?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(highwater::cli::LOGS));
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_filter(filter);
    let facts = Recorder(Mutex::new((file, String::new()))).with_filter(filter_fn(is_fact));
    Ok(tracing_subscriber::registry().with(logs).with(facts).try_init()?)
}

/// Microseconds of the clock that all processes of this machine share, whatever their wall clocks say.
pub fn machine_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Both are never negative.
    (now.tv_sec * 1_000_000 + now.tv_nsec / 1_000).unsigned_abs()
}

fn is_fact(meta: &Metadata<'_>) -> bool {
    meta.target() == TARGET
}

/// Times of log lines: virtual in a simulation.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        match crate::sim::virtual_time() {
            Some(time) => write!(out, "{:10.6}", time.as_secs_f64()),
            None => SystemTime.format_time(out),
        }
    }
}

struct Facts;

impl<S: Subscriber + for<'l> LookupSpan<'l>> Layer<S> for Facts {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(sink) = SINK.with_borrow(Clone::clone) else { return };
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        match serde_json::from_value(Value::Object(fields.0)) {
            Ok(fact) => sink(TaskSet::current().map_or(0, |tasks| tasks.label()), fact),
            Err(error) => panic!("a fact that the history does not know: {error}: {event:?}"),
        }
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().into(), value.into());
    }
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

/// A file, and the line that is made for it.
struct Recorder(Mutex<(File, String)>);

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Written(String::with_capacity(160));
        event.record(&mut fields);
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, line) = &mut *shared;
        line.clear();
        // Under the lock: lines stand in the order of their times.
        let _ = writeln!(line, "{{\"at\":{}{}}}", machine_us(), fields.0);
        if let Err(error) = file.write_all(line.as_bytes()) {
            // A history that lacks facts accuses the innocent.
            eprintln!("a fact could not be written: {error}");
            std::process::abort();
        }
    }
}

/// Fields as JSON, each behind a comma.
struct Written(String);

impl Written {
    fn put(&mut self, field: &Field, value: impl fmt::Display) {
        let _ = write!(self.0, ",\"{}\":{value}", field.name());
    }
}

impl Visit for Written {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::from(format!("{value:?}")));
    }
}
