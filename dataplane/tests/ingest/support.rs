//! An ingest on a free port, a log that does as it is told, and a client that can misbehave.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use millrace_crds::config as compiled;
use millrace_crds::names::{AppId, TopicKind};
use millrace_dataplane::config::{Config, PrivacyKeys, key_digest};
use millrace_dataplane::freshness::Freshness;
use millrace_dataplane::ingest::{self, Ingest, IngestError, Limits, Serving};
use millrace_dataplane::log::{
    Committed, Consumer, Log, LogError, LogRecord, NewRecord, ReadLimits, TopicInfo, TopicPartition,
    Transactor, Watermarks,
};
use millrace_dataplane::metrics::Metrics;
use millrace_dataplane::secret::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for something that must happen; a test that waits so long fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The key of [`app`].
pub(crate) const KEY: &str = "mrw_shop_web";
/// Its header.
pub(crate) const BEARER: (&str, &str) = ("Authorization", "Bearer mrw_shop_web");
/// Topic of [`app`].
pub(crate) const TOPIC: &str = "millrace.default.shop.events-raw";
/// Partitions of [`TOPIC`].
pub(crate) const PARTITIONS: u32 = 4;
/// Body limit of [`app`].
pub(crate) const BODY_BYTES_MAX: u64 = 1 << 20;

const PEPPER: &[u8] = b"pepper";

/// An App `default/shop` with the key [`KEY`].
pub(crate) fn app() -> compiled::AppConfig {
    let id = AppId::new("default", "shop").unwrap();
    compiled::AppConfig {
        format: compiled::Format::V1,
        ingest: compiled::Ingest {
            dialects: [compiled::Dialect::Native].into(),
            write_keys: BTreeMap::from([("web".to_owned(), write_key(KEY, &[]))]),
            rate_limit: None,
            max_body_bytes: BODY_BYTES_MAX,
            max_event_bytes: 65_536,
            max_batch_events: 1000,
            trust_forwarded_client: false,
        },
        events: compiled::Events {
            on_undeclared: compiled::OnUndeclared::Keep,
            declared: BTreeMap::new(),
            revenue: None,
            conversions: [].into(),
            dedupe_window_ms: 86_400_000,
        },
        privacy: compiled::Privacy {
            user_ids: compiled::UserIds::Hash,
            device_ids: compiled::DeviceIds::Encrypt,
            ip: compiled::Ip::Truncate,
            fields: Vec::new(),
            required_consent: [].into(),
        },
        storage: compiled::Storage {
            database: id.database("millrace"),
            retention_seconds: 86_400,
            schema_hash: String::new(),
        },
        topics: vec![compiled::Topic {
            kind: TopicKind::EventsRaw,
            name: TOPIC.to_owned(),
            partitions: PARTITIONS,
            retention_ms: 86_400_000,
            retention_bytes: None,
        }],
        integrations: BTreeMap::new(),
        app: id,
    }
}

/// A key that only these origins may use.
pub(crate) fn write_key(key: &str, allowed_origins: &[&str]) -> compiled::WriteKey {
    compiled::WriteKey {
        digest: hex::encode(key_digest(PEPPER, key.as_bytes())),
        allowed_origins: allowed_origins.iter().map(|origin| (*origin).to_owned()).collect(),
        dialect: None,
    }
}

/// A configuration with this App.
pub(crate) fn config(app: compiled::AppConfig) -> Arc<Config> {
    let keys = PrivacyKeys { epoch: 1, hash: Secret::new([1; 32]), encrypt: Secret::new([2; 64]) };
    Arc::new(Config::build(vec![(app, keys)], Vec::new(), Secret::new(PEPPER.to_vec())).unwrap())
}

/// A log that keeps what it is given, waits at a gate, or fails as scripted.
pub(crate) struct ScriptedLog {
    pub(crate) stored: Mutex<Vec<NewRecord>>,
    failures: Mutex<VecDeque<LogError>>,
    record_bytes_max: usize,
    gate: Semaphore,
    arrived: Notify,
}

impl ScriptedLog {
    fn with(passes: usize, record_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            stored: Mutex::default(),
            failures: Mutex::default(),
            record_bytes_max,
            gate: Semaphore::new(passes),
            arrived: Notify::new(),
        })
    }

    /// Takes everything at once.
    pub(crate) fn open() -> Arc<Self> {
        Self::with(Semaphore::MAX_PERMITS, usize::MAX)
    }

    /// Takes records up to a size.
    pub(crate) fn narrow(record_bytes_max: usize) -> Arc<Self> {
        Self::with(Semaphore::MAX_PERMITS, record_bytes_max)
    }

    /// Holds every append until it is let through.
    pub(crate) fn closed() -> Arc<Self> {
        Self::with(0, usize::MAX)
    }

    /// Lets one append through.
    pub(crate) fn let_one_through(&self) {
        self.gate.add_permits(1);
    }

    /// Waits until an append stands at the gate.
    pub(crate) async fn arrival(&self) {
        soon(self.arrived.notified()).await;
    }

    /// The next appends fail so.
    pub(crate) fn fail_with(&self, failures: impl IntoIterator<Item = LogError>) {
        self.failures.lock().unwrap().extend(failures);
    }

    /// How many records are durable.
    pub(crate) fn count(&self) -> usize {
        self.stored.lock().unwrap().len()
    }
}

#[async_trait]
impl Log for ScriptedLog {
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<u64>, LogError> {
        self.arrived.notify_one();
        self.gate.acquire().await.map_err(|_| LogError::Closed)?.forget();
        if let Some(failure) = self.failures.lock().unwrap().pop_front() {
            return Err(failure);
        }
        let largest = records.iter().map(|record| record.key.len() + record.value.len()).max().unwrap_or(0);
        if largest > self.record_bytes_max {
            return Err(LogError::TooLarge { bytes: largest, bytes_max: self.record_bytes_max });
        }
        let mut stored = self.stored.lock().unwrap();
        let first = stored.len() as u64;
        let offsets = (first..first + records.len() as u64).collect();
        stored.extend(records);
        Ok(offsets)
    }

    async fn subscribe(&self, _: &str, _: &[Arc<str>]) -> Result<Box<dyn Consumer>, LogError> {
        Err(LogError::Closed)
    }

    async fn transactor(&self, _: &str) -> Result<Box<dyn Transactor>, LogError> {
        Err(LogError::Closed)
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, LogError> {
        Err(LogError::UnknownTopic { topic: name.to_owned() })
    }

    async fn watermarks(&self, _: &TopicPartition) -> Result<Watermarks, LogError> {
        Err(LogError::Closed)
    }

    async fn committed(&self, _: &str, _: &[TopicPartition]) -> Result<Vec<Option<Committed>>, LogError> {
        Err(LogError::Closed)
    }

    async fn read(&self, _: &TopicPartition, _: u64, _: ReadLimits) -> Result<Vec<LogRecord>, LogError> {
        Err(LogError::Closed)
    }
}

/// A running ingest.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) log: Arc<ScriptedLog>,
    pub(crate) metrics: Arc<Metrics>,
    config: Arc<ArcSwap<Config>>,
    leaving: CancellationToken,
    shutdown: CancellationToken,
    served: JoinHandle<Result<(), IngestError>>,
}

impl Running {
    /// With the usual bounds.
    pub(crate) fn start(app: compiled::AppConfig, log: Arc<ScriptedLog>) -> Self {
        Self::start_within(app, log, Limits::default())
    }

    /// With these bounds.
    pub(crate) fn start_within(app: compiled::AppConfig, log: Arc<ScriptedLog>, limits: Limits) -> Self {
        Self::start_knowing(app, log, limits, Freshness::always())
    }

    /// With a configuration that may be out of date.
    pub(crate) fn start_knowing(
        app: compiled::AppConfig,
        log: Arc<ScriptedLog>,
        limits: Limits,
        freshness: Freshness,
    ) -> Self {
        let listener = ingest::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        let config = Arc::new(ArcSwap::new(config(app)));
        let metrics = Arc::new(Metrics::new().unwrap());
        let ingest = Ingest {
            config: Arc::clone(&config),
            freshness,
            log: Arc::<ScriptedLog>::clone(&log),
            metrics: Arc::clone(&metrics),
            instance: "ingest-0".to_owned(),
            leaving: CancellationToken::new(),
        };
        let (leaving, shutdown) = (ingest.leaving.clone(), CancellationToken::new());
        let serving = Serving { cores: 2, limits };
        let served =
            tokio::spawn(ingest::serve_within(listener, Arc::new(ingest), serving, shutdown.clone()));
        Self { addr, log, metrics, config, leaving, shutdown, served }
    }

    /// Puts another configuration in force.
    pub(crate) fn apply(&self, app: compiled::AppConfig) {
        self.config.store(config(app));
    }

    /// Tells it that it will be told to stop.
    pub(crate) fn leave(&self) {
        self.leaving.cancel();
    }

    /// Tells it to stop.
    pub(crate) fn stop(&self) {
        self.shutdown.cancel();
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Result<(), IngestError> {
        soon(self.served).await.unwrap()
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> Client {
        Client { stream: soon(TcpStream::connect(self.addr)).await.unwrap(), unread: Vec::new() }
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, request: &Ask<'_>) -> Reply {
        let mut client = self.connect().await;
        client.send(&request.bytes()).await;
        client.reply().await
    }

    /// Posts this body with the key.
    pub(crate) async fn post(&self, body: impl AsRef<[u8]>) -> Reply {
        self.ask(&Ask::post(body.as_ref())).await
    }
}

/// A request as it will be sent.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    pub(crate) body: &'a [u8],
}

impl<'a> Ask<'a> {
    /// Events with the key.
    pub(crate) fn post(body: &'a [u8]) -> Self {
        Self { method: "POST", path: "/v1/events", headers: vec![BEARER], body }
    }

    /// With one header more.
    pub(crate) fn with(mut self, name: &'a str, value: &'a str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// With these headers instead.
    pub(crate) fn only(mut self, headers: &[(&'a str, &'a str)]) -> Self {
        self.headers = headers.to_vec();
        self
    }

    /// As HTTP/1.1.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: ingest\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        [head.as_bytes(), self.body].concat()
    }
}

/// One HTTP/1.1 connection, byte by byte.
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.unwrap();
    }

    /// Sends what the other side still takes.
    pub(crate) async fn send_until_refused(&mut self, chunk: &[u8]) {
        while soon(self.stream.write_all(chunk)).await.is_ok() {}
    }

    /// No more will be sent.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The next answer; panics if the connection ends before.
    pub(crate) async fn reply(&mut self) -> Reply {
        soon(self.try_reply()).await.expect("an answer")
    }

    /// The next answer, or `None` if the connection ends without one.
    pub(crate) async fn try_reply(&mut self) -> Option<Reply> {
        loop {
            if let Some((reply, length)) = Reply::parse(&self.unread) {
                self.unread.drain(..length);
                return Some(reply);
            }
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Reads whatever comes until the connection ends.
    pub(crate) async fn end(&mut self) {
        let mut ignored = Vec::new();
        let _ = self.stream.read_to_end(&mut ignored).await;
    }

    /// Waits for the other side to close.
    pub(crate) async fn closed(&mut self) {
        assert!(soon(self.try_reply()).await.is_none(), "an answer instead of the end");
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let head_bytes = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&bytes[..head_bytes]).unwrap();
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = headers
            .iter()
            .find(|(name, _)| name == "content-length")
            .map_or(0, |(_, value)| value.parse().unwrap());
        let body = bytes.get(head_bytes..head_bytes + length)?.to_vec();
        Some((Self { status, body, headers }, head_bytes + length))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// `code` of a problem.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Waits, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it did not happen in time")
}

/// An event that every App takes.
pub(crate) fn event(user: &str) -> String {
    format!(r#"{{"event_type":"page_view","user_id":"{user}"}}"#)
}

/// A batch of these.
pub(crate) fn batch(events: &[String]) -> String {
    format!(r#"{{"batch":[{}]}}"#, events.join(","))
}
