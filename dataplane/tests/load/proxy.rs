//! Stands between the loader and ClickHouse and breaks inserts: before they arrive whole, or after they happened.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to one insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// ClickHouse carries it out; the answer never arrives.
    LoseAnswer,
    /// The connection ends in the middle of the body.
    CutBody,
    /// The answer is an exception that tells nothing, though the insert happened.
    FailAnswer,
    /// Nothing is carried out; the answer is that there is too little memory.
    OutOfMemory,
    /// ClickHouse carries it out; the answer is that there is too little memory.
    StoredButOutOfMemory,
    /// ClickHouse may use so many bytes for it.
    Memory(u32),
    /// Nothing is carried out, the connection ends at once.
    Refuse,
}

/// A proxy in front of a ClickHouse.
pub(crate) struct Proxy {
    /// Its own address as a URL.
    pub(crate) url: String,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    inserts: watch::Receiver<u64>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// Starts one; the next inserts meet the given faults, later ones none.
    pub(crate) async fn start(upstream: &str, faults: impl IntoIterator<Item = Fault>) -> Self {
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let faults = Arc::new(Mutex::new(faults.into_iter().collect::<VecDeque<_>>()));
        let (seen, inserts) = watch::channel(0);
        let queue = Arc::clone(&faults);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, upstream.clone(), Arc::clone(&queue), seen.clone()));
            }
        });
        Self { url, faults, inserts, accepting }
    }

    /// Whether every fault has happened.
    pub(crate) fn is_used_up(&self) -> bool {
        self.faults.lock().unwrap().is_empty()
    }

    /// How many inserts have begun.
    pub(crate) fn begun(&self) -> u64 {
        *self.inserts.borrow()
    }

    /// Waits until that many inserts have begun.
    pub(crate) async fn inserts(&mut self, count: u64) {
        self.inserts.wait_for(|seen| *seen >= count).await.unwrap();
    }
}

const NETWORK_ERROR: &str = "Code: 210. DB::NetException: I/O error (NETWORK_ERROR)";
const OUT_OF_MEMORY: &str = "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)";

fn answer(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 500 Error\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

/// The request with one more setting in its address.
fn with_setting(request: &[u8], setting: &str) -> Vec<u8> {
    let at = request.iter().position(|byte| *byte == b'?').unwrap() + 1;
    [&request[..at], setting.as_bytes(), b"&", &request[at..]].concat()
}

async fn connection(
    mut client: TcpStream,
    upstream: String,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    seen: watch::Sender<u64>,
) {
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let mut fault = None;
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(count @ 1..) = read else { return };
                let chunk = &from_client[..count];
                let mut limited = None;
                if String::from_utf8_lossy(chunk).contains("query=INSERT") {
                    fault = faults.lock().unwrap().pop_front();
                    seen.send_modify(|seen| *seen += 1);
                    if let Some(Fault::Memory(bytes)) = fault {
                        limited = Some(with_setting(chunk, &format!("max_memory_usage={bytes}")));
                    }
                }
                match fault {
                    Some(Fault::Refuse) => return,
                    Some(Fault::CutBody) => {
                        let _cut = server.write_all(&chunk[..count * 3 / 4]).await;
                        return;
                    }
                    Some(Fault::OutOfMemory) if chunk.ends_with(b"0\r\n\r\n") => {
                        let _lost = client.write_all(&answer(OUT_OF_MEMORY)).await;
                        return;
                    }
                    Some(Fault::OutOfMemory) => continue,
                    _ => {}
                }
                if server.write_all(limited.as_deref().unwrap_or(chunk)).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(count @ 1..) = read else { return };
                match fault {
                    Some(Fault::LoseAnswer) => return,
                    Some(Fault::FailAnswer) => {
                        let _lost = client.write_all(&answer(NETWORK_ERROR)).await;
                        return;
                    }
                    Some(Fault::StoredButOutOfMemory) => {
                        let _lost = client.write_all(&answer(OUT_OF_MEMORY)).await;
                        return;
                    }
                    _ => {}
                }
                if client.write_all(&from_server[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
