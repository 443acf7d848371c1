//! Requests with events in, statuses out: one connection, one request at a time.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::process::KEY;

/// Pause of a client that was told to come back: shorter than it was told, so that the pressure does not fall.
const PAUSE: Duration = Duration::from_millis(500);

/// A connection to ingest.
pub(super) struct Client {
    address: String,
    stream: TcpStream,
}

/// What clients were told.
#[derive(Clone, Copy, Default)]
pub(super) struct Answers {
    pub(super) accepted: usize,
    pub(super) refused: usize,
}

impl Answers {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { accepted: self.accepted + other.accepted, refused: self.refused + other.refused }
    }
}

/// A batch of events of this size each.
pub(super) fn body(events: usize, event_bytes: usize) -> Vec<u8> {
    let mut text = String::from(r#"{"batch":["#);
    for n in 0..events {
        let start = format!(
            r#"{{"event_type":"page_view","user_id":"user-{n}","platform":"web","event_data":{{"path":"/products/{n}","note":""#
        );
        let end = r#""}}"#;
        let left = event_bytes.saturating_sub(start.len() + end.len());
        // Text that is not all the same, for what may be compressed on the way.
        let note: String =
            (0..left).map(|at| char::from(b'a' + ((at * 7 + n * 3 + at / 26) % 26) as u8)).collect();
        let comma = if n == 0 { "" } else { "," };
        text.write_fmt(format_args!("{comma}{start}{note}{end}")).expect("writing to a String cannot fail");
    }
    text.push_str("]}");
    text.into_bytes()
}

impl Client {
    pub(super) async fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("connect to ingest")?;
        Ok(Self { address: address.to_owned(), stream })
    }

    /// Sends one request and returns the answer's status.
    pub(super) async fn send(&mut self, body: &[u8]) -> Result<u16> {
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.write_all(body).await?;
        let mut answer = Vec::new();
        loop {
            if let Some((status, length)) = parsed(&answer)
                && answer.len() >= length
            {
                return Ok(status);
            }
            anyhow::ensure!(self.stream.read_buf(&mut answer).await? > 0, "ingest closed the connection");
        }
    }

    /// Sends the same again and again.
    pub(super) async fn press(mut self, body: &[u8], until: Instant) -> Result<Answers> {
        let mut answers = Answers::default();
        while let Ok(sent) = tokio::time::timeout_at(until, self.send(body)).await {
            match sent {
                Ok(200) => answers.accepted += 1,
                Ok(_) => answers.refused += 1,
                Err(_closed) => self.stream = TcpStream::connect(&self.address).await?,
            }
            if tokio::time::timeout_at(until, tokio::time::sleep(PAUSE)).await.is_err() {
                break;
            }
        }
        Ok(answers)
    }
}

/// Status and whole length of an answer, once its head is there.
fn parsed(answer: &[u8]) -> Option<(u16, usize)> {
    let head_bytes = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..head_bytes]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Some((status, head_bytes + length.unwrap_or(0)))
}
