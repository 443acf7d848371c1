//! Lines as a reader of the log sees them.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// Keeps what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails every write, like a closed pipe.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

fn with_lines<W: for<'a> MakeWriter<'a> + Send + Sync + 'static>(writer: W, work: impl FnOnce()) {
    let subscriber = Registry::default().with(json::Lines::new(writer));
    tracing::subscriber::with_default(subscriber, work);
}

fn lines(work: impl FnOnce()) -> Vec<Value> {
    let kept = Kept::default();
    let writer = kept.clone();
    with_lines(move || writer.clone(), work);
    let bytes = kept.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[derive(Debug, thiserror::Error)]
#[error("the store did not answer")]
struct Outer {
    source: io::Error,
}

#[test]
fn span_and_event_fields_stand_side_by_side() {
    let lines = lines(|| {
        let span = tracing::info_span!("request", request.id = "r-1", http.status = tracing::field::Empty);
        let _entered = span.enter();
        span.record("http.status", 200u64);
        let _inner = tracing::info_span!("query", store.rows = 3u64).entered();
        tracing::warn!(app.id = "default/shop", retried = true, "a query was slow");
    });
    let [line] = <[Value; 1]>::try_from(lines).unwrap();
    let mut line = line.as_object().unwrap().clone();
    let timestamp = line.remove("timestamp").unwrap();
    assert!(
        timestamp.as_str().unwrap().parse::<Timestamp>().is_ok()
            && timestamp.as_str().unwrap().ends_with('Z')
    );
    assert_eq!(
        Value::Object(line),
        json!({
            "level": "warn", "target": "millrace_telemetry::tests", "message": "a query was slow",
            "request.id": "r-1", "http.status": 200, "store.rows": 3,
            "app.id": "default/shop", "retried": true,
        })
    );
}

#[test]
fn a_line_break_in_a_value_stays_within_its_line() {
    let lines = lines(|| tracing::info!(path = "/a\n{\"level\":\"error\"}", "asked"));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["path"], "/a\n{\"level\":\"error\"}");
}

#[test]
fn an_error_is_written_with_all_its_causes() {
    let error = Outer { source: io::Error::other("connection refused") };
    let error: &(dyn std::error::Error + 'static) = &error;
    let lines = lines(|| tracing::error!(error, "a query failed"));
    assert_eq!(lines[0]["error"], "the store did not answer: connection refused");
}

#[test]
fn a_closed_writer_loses_lines_and_nothing_else() {
    let mut reached = false;
    with_lines(
        || Closed,
        || {
            tracing::error!("nobody reads this");
            reached = true;
        },
    );
    assert!(reached);
}

#[test]
fn a_filter_that_cannot_be_read_is_named() {
    let error = init(Format::Json, "millrace=loud").unwrap_err();
    assert!(error.to_string().contains("`millrace=loud`"), "{error}");
}
