//! A ClickHouse that takes everything: requests in, an empty answer out. On threads of its own, so that what it uses of a
//! processor is not counted as the loader's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::Result;

/// Where it listens, until the process ends.
pub(super) struct Sink {
    address: SocketAddr,
}

impl Sink {
    pub(super) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection that breaks is one that the client closed.
                std::thread::spawn(move || serve(&stream));
            }
        });
        Ok(Self { address })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn serve(stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 20, stream);
    let mut answer = stream;
    let mut body = Vec::new();
    while let Some(framing) = head(&mut reader)? {
        match framing {
            Framing::Length(length) => {
                body.resize(length, 0);
                reader.read_exact(&mut body)?;
            }
            Framing::Chunks => while chunk(&mut reader, &mut body)? > 0 {},
        }
        answer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
    Ok(())
}

/// How the body of a request ends.
enum Framing {
    Length(usize),
    Chunks,
}

fn head(reader: &mut impl BufRead) -> std::io::Result<Option<Framing>> {
    let mut framing = Framing::Length(0);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let lower = line.trim_end().to_ascii_lowercase();
        match lower.split_once(": ") {
            None if lower.is_empty() => return Ok(Some(framing)),
            Some(("transfer-encoding", "chunked")) => framing = Framing::Chunks,
            Some(("content-length", length)) => framing = Framing::Length(length.parse().unwrap_or(0)),
            None | Some(_) => {}
        }
    }
}

/// Reads one chunk; its length.
fn chunk(reader: &mut impl BufRead, body: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let length = usize::from_str_radix(line.trim_end(), 16).map_err(std::io::Error::other)?;
    body.resize(length + 2, 0);
    reader.read_exact(body)?;
    Ok(length)
}
