//! What a statement gives in, the HTTP response out: headers, whole answers, streamed rows, and errors before
//! and after the first byte.

use std::io;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use rand::RngExt;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::encode::{Encoder, Wrapping};
use crate::engine::ffi::Stats;
use crate::engine::pool::Running;
use crate::engine::refusal::{Refusal, code};
use crate::engine::spool::Spool;

/// Rows are held back up to this size, so that an error meanwhile still gets its status: the engine writes in
/// buffers of this size anyway, as a server does.
pub(super) const HOLD_BYTES: usize = 1 << 20;
/// A read from the pipe: its usual capacity.
const PIECE_BYTES: usize = 1 << 16;
/// A connection broken at once would lose the error that was just written to it.
const BREAK_PAUSE: Duration = Duration::from_millis(50);

/// What every response says.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) version: String,
    pub(super) timezone: String,
    pub(super) host: String,
}

/// The head of a response to a statement.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) facts: Facts,
    pub(super) query_id: String,
    pub(super) format: String,
    pub(super) wrapping: Wrapping,
    /// Marks an error after the first byte; unknown to whoever made the rows.
    tag: String,
    begun: Instant,
}

impl Head {
    pub(super) fn new(facts: Facts, query_id: String, wrapping: Wrapping) -> Self {
        let mut random = rand::rng();
        let tag = (0..16).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
        Self { facts, query_id, format: "TabSeparated".to_owned(), wrapping, tag, begun: Instant::now() }
    }

    /// The same without packing: for errors before it is known who asks.
    pub(super) fn plain(self) -> Self {
        Self { wrapping: Wrapping::default(), ..self }
    }

    /// A whole answer.
    pub(super) fn whole(self, rows: &[u8], stats: Stats) -> Response {
        let mut headers = self.headers();
        set(&mut headers, "x-clickhouse-summary", &self.summary(stats));
        match self.pack(rows) {
            Ok(body) => (StatusCode::OK, headers, body).into_response(),
            Err(error) => self.refused(&cannot_pack(&error)),
        }
    }

    /// A whole answer that is too large for memory.
    pub(super) fn spooled(self, spool: Spool, stats: Stats) -> io::Result<Response> {
        let mut headers = self.headers();
        set(&mut headers, "x-clickhouse-summary", &self.summary(stats));
        let rows = tokio::fs::File::from_std(spool.reader(0)?);
        let flow = SpoolFlow { rows, encoder: Some(Encoder::new(self.wrapping)?) };
        Ok((StatusCode::OK, headers, Body::from_stream(stream::unfold(flow, SpoolFlow::step)))
            .into_response())
    }

    /// A refusal or an error before the first byte.
    pub(super) fn refused(self, refusal: &Refusal) -> Response {
        let mut headers = self.headers();
        set(&mut headers, "x-clickhouse-exception-code", &refusal.code.to_string());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
        let line = refusal.line(&self.facts.version).into_bytes();
        let body = self.pack(&line).unwrap_or_else(|_| {
            headers.remove(header::CONTENT_ENCODING);
            line
        });
        (refusal.status(), headers, body).into_response()
    }

    /// Rows as they come. Dropping the body stops the statement.
    pub(super) fn streamed(self, held: Vec<u8>, rows: pipe::Receiver, running: Running) -> Response {
        let mut headers = self.headers();
        set(&mut headers, "x-clickhouse-summary", &self.summary(Stats::default()));
        let encoder = match Encoder::new(self.wrapping) {
            Ok(encoder) => encoder,
            Err(error) => return self.refused(&cannot_pack(&error)),
        };
        let flow = Flow { head: self, rows, running, encoder: Some(encoder), stage: Stage::Held(held) };
        (StatusCode::OK, headers, Body::from_stream(stream::unfold(flow, Flow::step))).into_response()
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        set(&mut headers, "x-clickhouse-query-id", &self.query_id);
        set(&mut headers, "x-clickhouse-format", &self.format);
        set(&mut headers, "x-clickhouse-timezone", &self.facts.timezone);
        set(&mut headers, "x-clickhouse-server-display-name", &self.facts.host);
        set(&mut headers, "x-clickhouse-exception-tag", &self.tag);
        set(&mut headers, "content-type", content_type(&self.format));
        if let Some(encoding) = self.wrapping.encoding {
            set(&mut headers, "content-encoding", encoding.name());
        }
        headers
    }

    fn summary(&self, stats: Stats) -> String {
        format!(
            "{{\"read_rows\":\"{}\",\"read_bytes\":\"{}\",\"written_rows\":\"{}\",\"written_bytes\":\"{}\",\
             \"total_rows_to_read\":\"0\",\"result_rows\":\"0\",\"result_bytes\":\"0\",\"elapsed_ns\":\"{}\"}}",
            stats.read_rows,
            stats.read_bytes,
            stats.written_rows,
            stats.written_bytes,
            self.begun.elapsed().as_nanos()
        )
    }

    fn pack(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut encoder = Encoder::new(self.wrapping)?;
        let mut packed = encoder.push(bytes)?;
        packed.extend(encoder.finish()?);
        Ok(packed)
    }

    /// The block that ends a response whose statement failed midway: marker, tag, text, its length, and the
    /// same backwards, so that a reader finds it from the end.
    fn exception_block(&self, refusal: &Refusal) -> String {
        let line = refusal.line(&self.facts.version);
        let (tag, length) = (&self.tag, line.len());
        format!("\r\n__exception__\r\n{tag}\r\n{line}{length} {tag}\r\n__exception__\r\n")
    }
}

/// A spooled body on its way.
struct SpoolFlow {
    rows: tokio::fs::File,
    encoder: Option<Encoder>,
}

impl SpoolFlow {
    async fn step(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let mut encoder = self.encoder.take()?;
        let mut piece = vec![0; PIECE_BYTES];
        let packed = match self.rows.read(&mut piece).await {
            Ok(0) => encoder.finish(),
            Ok(read) => {
                let packed = encoder.push(&piece[..read]);
                self.encoder = Some(encoder);
                packed
            }
            Err(error) => Err(error),
        };
        Some((packed.map(Bytes::from), self))
    }
}

/// A response body on its way.
struct Flow {
    head: Head,
    rows: pipe::Receiver,
    running: Running,
    encoder: Option<Encoder>,
    stage: Stage,
}

enum Stage {
    Held(Vec<u8>),
    Rows,
    /// The error is written; the connection breaks, so that nobody takes the rows for all.
    Failed,
    End,
}

impl Flow {
    async fn step(mut self) -> Option<(io::Result<Bytes>, Self)> {
        loop {
            let packed = match std::mem::replace(&mut self.stage, Stage::Rows) {
                Stage::Held(bytes) => self.push(&bytes),
                Stage::Rows => self.next_piece().await,
                Stage::Failed => {
                    tokio::time::sleep(BREAK_PAUSE).await;
                    self.stage = Stage::End;
                    Err(io::Error::other("the statement failed after its first rows were sent"))
                }
                Stage::End => return None,
            };
            match packed {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some((Ok(bytes.into()), self)),
                Err(error) => {
                    self.stage = Stage::End;
                    return Some((Err(error), self));
                }
            }
        }
    }

    async fn next_piece(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; PIECE_BYTES];
        let read = self.rows.read(&mut piece).await?;
        if read > 0 {
            return self.push(&piece[..read]);
        }
        let tail = match self.running.outcome().await {
            Ok(_) => {
                self.stage = Stage::End;
                Vec::new()
            }
            Err(refusal) => {
                self.stage = Stage::Failed;
                let block = self.head.exception_block(&refusal);
                self.push(block.as_bytes())?
            }
        };
        let end = self.encoder.take().map_or_else(|| Ok(Vec::new()), Encoder::finish)?;
        Ok([tail, end].concat())
    }

    fn push(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        match self.encoder.as_mut() {
            Some(encoder) => encoder.push(piece),
            None => Ok(Vec::new()),
        }
    }
}

fn cannot_pack(error: &io::Error) -> Refusal {
    Refusal::new(code::UNKNOWN_EXCEPTION, format!("the response cannot be compressed ({error})"))
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // A query id with control characters has no place in a header; all other values are ours.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn content_type(format: &str) -> &'static str {
    let lower = format.to_ascii_lowercase();
    if lower.starts_with("jsoneachrow")
        || lower.starts_with("jsonstringseachrow")
        || lower.starts_with("jsoncompacteachrow")
    {
        return "application/x-ndjson; charset=UTF-8";
    }
    match lower.as_str() {
        json if json.starts_with("json") => "application/json; charset=UTF-8",
        tabs if tabs.starts_with("tabseparated") || tabs.starts_with("tsv") => {
            "text/tab-separated-values; charset=UTF-8"
        }
        "csvwithnames" | "csvwithnamesandtypes" => "text/csv; charset=UTF-8; header=present",
        "csv" => "text/csv; charset=UTF-8; header=absent",
        "xml" => "application/xml; charset=UTF-8",
        "rowbinary"
        | "rowbinarywithnames"
        | "rowbinarywithnamesandtypes"
        | "native"
        | "parquet"
        | "arrow"
        | "arrowstream"
        | "orc" => "application/octet-stream",
        _ => "text/plain; charset=UTF-8",
    }
}
