//! Requests with events in, statuses out: one connection, one request at a time.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::process::KEY;

/// Pause between two requests of a client that was not told when to come back.
const PAUSE: Duration = Duration::from_millis(500);

/// After this a request that is not answered has been read, and waits.
const READ: Duration = Duration::from_millis(30);

/// A connection to ingest.
pub(super) struct Client {
    address: String,
    stream: TcpStream,
}

/// What one request was answered.
pub(super) struct Answer {
    pub(super) status: u16,
    /// When to come back.
    retry_after: Option<Duration>,
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

    /// Sends one request.
    pub(super) async fn send(&mut self, body: &[u8]) -> Result<Answer> {
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.write_all(body).await?;
        let mut bytes = Vec::new();
        loop {
            if let Some((answer, length)) = parsed(&bytes)
                && bytes.len() >= length
            {
                return Ok(answer);
            }
            anyhow::ensure!(self.stream.read_buf(&mut bytes).await? > 0, "ingest closed the connection");
        }
    }

    /// Sends one request when it is its turn, and makes way for the next when it is answered or waits for Kafka.
    async fn send_in_turn(&mut self, body: &[u8], under_way: &Semaphore) -> Result<Answer> {
        let turn = under_way.acquire().await?;
        let mut sending = std::pin::pin!(self.send(body));
        if let Ok(answered) = tokio::time::timeout(READ, &mut sending).await {
            return answered;
        }
        drop(turn);
        sending.await
    }

    /// Sends the same again and again, each time when it was told to come back.
    pub(super) async fn press(
        mut self,
        body: &[u8],
        under_way: &Semaphore,
        until: Instant,
    ) -> Result<Answers> {
        let mut answers = Answers::default();
        while let Ok(sent) = tokio::time::timeout_at(until, self.send_in_turn(body, under_way)).await {
            let pause = match sent {
                Ok(Answer { status: 200, .. }) => {
                    answers.accepted += 1;
                    PAUSE
                }
                Ok(Answer { retry_after, .. }) => {
                    answers.refused += 1;
                    retry_after.unwrap_or(PAUSE)
                }
                Err(_closed) => {
                    self.stream = TcpStream::connect(&self.address).await?;
                    PAUSE
                }
            };
            if tokio::time::timeout_at(until, tokio::time::sleep(pause)).await.is_err() {
                break;
            }
        }
        Ok(answers)
    }
}

/// An answer and its whole length, once its head is there.
fn parsed(bytes: &[u8]) -> Option<(Answer, usize)> {
    let head_bytes = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_bytes]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let header = |wanted: &str| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim().parse::<u64>().ok())?
        })
    };
    let length = usize::try_from(header("content-length").unwrap_or(0)).ok()?;
    Some((
        Answer { status, retry_after: header("retry-after").map(Duration::from_secs) },
        head_bytes + length,
    ))
}
