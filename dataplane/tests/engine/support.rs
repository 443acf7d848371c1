//! An engine to test: ours in a temporary folder, or a server that is already there. And a plain HTTP client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A ClickHouse to ask.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The rows of an answer that must be good.
    pub(crate) fn rows(self) -> String {
        assert_eq!(self.status, 200, "{}", self.text());
        self.text()
    }

    /// ClickHouse's code of an answer that must be an error.
    pub(crate) fn code(&self) -> u16 {
        assert_ne!(self.status, 200, "{}", self.text());
        assert!(self.text().starts_with("Code: "), "{}", self.text());
        self.header("x-clickhouse-exception-code").parse().unwrap()
    }
}

/// Name and value of a URL parameter.
pub(crate) type Pair<'a> = (&'a str, &'a str);

impl Target {
    fn new(url: String) -> Self {
        // An error means that another test was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        Self { url, http }
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }

    pub(crate) fn post(&self, pairs: &[Pair<'_>], body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.http.post(&self.url).query(pairs).body(body)
    }

    pub(crate) async fn ask(&self, pairs: &[Pair<'_>], sql: &str) -> Answer {
        self.send(self.post(pairs, sql.to_owned())).await
    }

    /// Runs a statement that must succeed.
    pub(crate) async fn run(&self, sql: &str) -> String {
        self.ask(&[], sql).await.rows().trim_end().to_owned()
    }

    pub(crate) async fn insert(
        &self,
        sql: &str,
        pairs: &[Pair<'_>],
        rows: impl Into<reqwest::Body>,
    ) -> Answer {
        let pairs: Vec<Pair<'_>> = [("query", sql)].iter().chain(pairs).copied().collect();
        self.send(self.post(&pairs, rows)).await
    }

    /// An empty database with the name of a test.
    pub(crate) async fn database(&self, name: &str) -> String {
        let name = format!("contract_{name}");
        self.run(&format!("DROP DATABASE IF EXISTS {name}")).await;
        self.run(&format!("CREATE DATABASE {name}")).await;
        name
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .parse()
            .expect("a test URL has an IP and a port")
    }

    /// Sends bytes as they are, and reads what comes back.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let stream = self.send_raw(request);
        Self::read_raw(stream)
    }

    /// The same, but goes away after the last byte.
    pub(crate) fn raw_cut(&self, request: &[u8]) -> String {
        let stream = self.send_raw(request);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        Self::read_raw(stream)
    }

    fn send_raw(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request).unwrap();
        stream
    }

    fn read_raw(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        // A connection that is reset instead of closed has said what it had to say.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// The server that all tests share.
pub(crate) fn target() -> Target {
    static SHARED: OnceLock<(String, Option<Engine>)> = OnceLock::new();
    let (url, _) = SHARED.get_or_init(|| match server_url() {
        Some(url) => (url, None),
        None => {
            let engine = Engine::start(&[]);
            (engine.target().url, Some(engine))
        }
    });
    Target::new(url.clone())
}

/// The real server to test, if there is one.
#[expect(
    clippy::disallowed_methods,
    reason = "which server to test is a matter of the machine, not of settings"
)]
pub(crate) fn server_url() -> Option<String> {
    std::env::var("MILLRACE_TEST_CLICKHOUSE_URL").ok()
}

/// Our engine in a process and a folder of its own. Ends with the test: its standard input closes.
pub(crate) struct Engine {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) child: Child,
    pub(crate) listen: SocketAddr,
    arguments: Vec<String>,
}

impl Engine {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listen = free_address();
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let child = spawn(&dir.path().join("data"), listen, &arguments);
        let engine = Self { dir, child, listen, arguments };
        engine.wait();
        engine
    }

    pub(crate) fn target(&self) -> Target {
        Target::new(format!("http://{}/", self.listen))
    }

    /// Kills the process (SIGKILL) and starts it again on the same folder.
    pub(crate) fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.dir.path().join("data"), self.listen, &self.arguments);
        self.wait();
    }

    fn wait(&self) {
        wait_until("the engine answers", || answers(self.listen));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_millrace-dataplane"))
}

pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn spawn(data_dir: &Path, listen: SocketAddr, arguments: &[String]) -> Child {
    let mut command = Command::new(program());
    command.arg("engine").arg("--data-dir").arg(data_dir).args(["--listen", &listen.to_string()]);
    command.arg("--exit-with-stdin").args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // Shown with the output of a failing test; read to the end, so that the child never waits for us.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("engine: {line}")));
    child
}

pub(crate) fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /replicas_status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Looks again and again, and gives up after a minute.
pub(crate) fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// As [`wait_until`], for a statement that counts.
pub(crate) async fn wait_until_none(target: &Target, sql: &str) {
    let begun = Instant::now();
    while target.run(sql).await != "0" {
        assert!(begun.elapsed() < PATIENCE, "in vain: {sql}");
    }
}
