//! The ClickHouse under test: the server named in the environment, or one engine for all tests of this process.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use millrace_dataplane::store::{ClickHouse, Endpoint};

/// How long the engine may take to answer for the first time.
const START_MAX: Duration = Duration::from_secs(60);

struct Engine {
    url: String,
    _own: Option<OwnEngine>,
}

/// Where it listens.
pub(crate) fn url() -> &'static str {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    &ENGINE.get_or_init(start).url
}

/// A store that speaks to it.
pub(crate) fn store() -> ClickHouse {
    store_at(url())
}

/// A store that speaks to an address, e.g. a proxy's.
pub(crate) fn store_at(url: &str) -> ClickHouse {
    ClickHouse::new(Endpoint { url: url.to_owned(), user: "default".to_owned(), password: None })
}

fn start() -> Engine {
    #[expect(clippy::disallowed_methods, reason = "tests read their own switches")]
    let external = std::env::var("MILLRACE_TEST_CLICKHOUSE_URL").ok();
    if let Some(url) = external {
        return Engine { url, _own: None };
    }
    let own = OwnEngine::start();
    Engine { url: own.url(), _own: Some(own) }
}

/// An engine that a test may kill. It also exits when its standard input closes, which is when this process ends.
pub(crate) struct OwnEngine {
    child: Child,
    listen: String,
    data: tempfile::TempDir,
}

impl OwnEngine {
    pub(crate) fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let listen = format!("127.0.0.1:{}", free_port());
        Self { child: spawn(&listen, data.path()), listen, data }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// SIGKILL, then another one over the same data at the same address.
    pub(crate) fn kill_and_start_again(&mut self) {
        self.child.kill().expect("the engine can be killed");
        self.child.wait().expect("the engine ends");
        self.child = spawn(&self.listen, self.data.path());
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        let _killed = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn spawn(listen: &str, data: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_millrace-dataplane"))
        .args(["engine", "--listen", listen, "--exit-with-stdin", "--data-dir"])
        .arg(data)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the engine starts");
    wait_until_it_listens(&mut child, listen);
    child
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

fn wait_until_it_listens(child: &mut Child, listen: &str) {
    let started = Instant::now();
    while std::net::TcpStream::connect(listen).is_err() {
        let ended = child.try_wait().expect("the state of the engine");
        if ended.is_some() || started.elapsed() > START_MAX {
            let stderr = child.stderr.take().map(BufReader::new);
            let lines = stderr.into_iter().flat_map(|stderr| stderr.lines().map_while(Result::ok));
            panic!("the engine does not listen: {}", lines.collect::<Vec<_>>().join("\n"));
        }
        std::thread::yield_now();
    }
    // Nobody reads it from here on; the pipe must not fill up.
    if let Some(mut stderr) = child.stderr.take() {
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    }
}
