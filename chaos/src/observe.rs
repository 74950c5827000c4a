//! Hears what nodes say of themselves ([`Fact`]) and gives it to the history of the world that runs on this thread.

use crate::history::Fact;
use highwater_raft::{env::TaskSet, observe::TARGET};
use serde_json::{Map, Value};
use std::{cell::RefCell, fmt, rc::Rc};
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
    let facts = Facts.with_filter(filter_fn(|meta: &Metadata<'_>| meta.target() == TARGET));
    // A test may have come before.
    let _ = tracing_subscriber::registry().with(logs).with(facts).try_init();
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
