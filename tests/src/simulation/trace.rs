//! The trace of a run: every log event of the brokers and of the clients, with virtual time. Two
//! runs of one seed must give the same one.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::{LookupSpan, Scope};

/// Shared by the layer that fills it and the run that reads it.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    hash: Hash,
    events: u64,
    /// The time for those who are on no host.
    now: Duration,
    /// Kept only when someone is to read it.
    lines: Option<Vec<String>>,
}

impl Trace {
    pub fn new(keep_lines: bool) -> Self {
        let lines = keep_lines.then(Vec::new);
        Self(Arc::new(Mutex::new(State { lines, ..State::default() })))
    }

    /// What time it is for those who note something from outside.
    pub fn set_time(&self, now: Duration) {
        self.0.lock().now = now;
    }

    pub fn note(&self, line: &str) {
        let mut state = self.0.lock();
        let passed = turmoil::sim_elapsed().unwrap_or(state.now);
        let line = format!("{:>6} {line}", passed.as_millis());
        state.hash.add(line.as_bytes());
        state.events += 1;
        if let Some(lines) = &mut state.lines {
            lines.push(line);
        }
    }

    pub fn hash(&self) -> u64 {
        self.0.lock().hash.0
    }

    pub fn events(&self) -> u64 {
        self.0.lock().events
    }

    pub fn take_lines(&self) -> Vec<String> {
        self.0.lock().lines.take().unwrap_or_default()
    }
}

/// FNV-1a: the same on every machine and with every compiler.
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Puts the broker's log events into the trace; spans carry the node.
impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Trace {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::span::Id,
        context: Context<'_, S>,
    ) {
        if let Some(span) = context.span(id) {
            let mut words = Words::default();
            attributes.record(&mut words);
            span.extensions_mut().insert(words);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::DEBUG || !metadata.target().starts_with("ottla") {
            return;
        }
        let mut line = metadata.level().to_string();
        for span in context.event_scope(event).into_iter().flat_map(Scope::from_root) {
            let _ = write!(line, " {}", span.name());
            if let Some(words) = span.extensions().get::<Words>() {
                let _ = write!(line, "{{{}}}", words.0.trim_start());
            }
        }
        let mut words = Words::default();
        event.record(&mut words);
        let _ = write!(line, ":{}", words.0);
        self.note(&line);
    }
}

#[derive(Default)]
struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, " {value:?}");
        } else {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}
