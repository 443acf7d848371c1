//! Pieces of a response in, the bytes that travel out: ClickHouse frames (`compress=1`), then an HTTP encoding
//! that the client accepts. Every piece can be read by the client as soon as it arrives. Pure.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::engine::frames;

/// Larger pieces are framed in parts: the block size clients expect at most.
const FRAME_CONTENT_BYTES: usize = 1 << 20;
/// Fast settings: the engine runs beside its client or in a test.
const BROTLI_QUALITY: u32 = 3;
const BROTLI_WINDOW: u32 = 20;
const ZSTD_LEVEL: i32 = 1;

/// An HTTP encoding of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Zstd,
    Brotli,
    Lz4,
    Gzip,
    Deflate,
}

impl Encoding {
    /// The best that `Accept-Encoding` names, in the server's order of preference.
    pub(super) fn accepted(header: &str) -> Option<Self> {
        let names = |name: &str| {
            header.split(',').any(|item| {
                let mut parts = item.split(';').map(str::trim);
                let named = parts.next().is_some_and(|found| found.eq_ignore_ascii_case(name));
                named && !parts.any(|weight| matches!(weight, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
            })
        };
        [Self::Zstd, Self::Brotli, Self::Lz4, Self::Gzip, Self::Deflate]
            .into_iter()
            .find(|it| names(it.name()))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Lz4 => "lz4",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }
}

/// How a response is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wrapping {
    pub(super) frames: bool,
    pub(super) encoding: Option<Encoding>,
}

pub(super) struct Encoder {
    frames: bool,
    outer: Outer,
}

enum Outer {
    Plain(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
}

impl Encoder {
    pub(super) fn new(wrapping: Wrapping) -> io::Result<Self> {
        let outer = match wrapping.encoding {
            None => Outer::Plain(Vec::new()),
            Some(Encoding::Gzip) => Outer::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            Some(Encoding::Deflate) => Outer::Deflate(ZlibEncoder::new(Vec::new(), Compression::fast())),
            Some(Encoding::Brotli) => {
                let writer =
                    brotli::CompressorWriter::new(Vec::new(), 1 << 16, BROTLI_QUALITY, BROTLI_WINDOW);
                Outer::Brotli(Box::new(writer))
            }
            Some(Encoding::Zstd) => Outer::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?),
            Some(Encoding::Lz4) => Outer::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(Vec::new()))),
        };
        Ok(Self { frames: wrapping.frames, outer })
    }

    /// Packs a piece and gives what can be sent now.
    pub(super) fn push(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        if self.frames {
            for part in piece.chunks(FRAME_CONTENT_BYTES) {
                let frame = frames::compress(part);
                self.outer.writer().write_all(&frame)?;
            }
        } else {
            self.outer.writer().write_all(piece)?;
        }
        self.outer.writer().flush()?;
        Ok(std::mem::take(self.outer.sent()))
    }

    /// What ends the encoding.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self.outer {
            Outer::Plain(rest) => Ok(rest),
            Outer::Gzip(encoder) => encoder.finish(),
            Outer::Deflate(encoder) => encoder.finish(),
            Outer::Brotli(encoder) => Ok(encoder.into_inner()),
            Outer::Zstd(encoder) => encoder.finish(),
            Outer::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
        }
    }
}

impl Outer {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Gzip(encoder) => encoder,
            Self::Deflate(encoder) => encoder,
            Self::Brotli(encoder) => encoder,
            Self::Zstd(encoder) => encoder,
            Self::Lz4(encoder) => encoder,
        }
    }

    fn sent(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Deflate(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Lz4(encoder) => encoder.get_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn chooses_what_the_client_accepts() {
        let check = |header: &str, expected: Option<Encoding>| {
            assert_eq!(Encoding::accepted(header), expected, "{header}")
        };
        check("gzip, deflate", Some(Encoding::Gzip));
        check("lz4", Some(Encoding::Lz4));
        check("gzip;q=0, deflate;q=0.5", Some(Encoding::Deflate));
        check("identity", None);
        check("", None);
    }

    #[test]
    fn pieces_arrive_whole_under_every_encoding() {
        type Reader = fn(Vec<u8>) -> Box<dyn Read>;
        let cases: [(Encoding, Reader); 5] = [
            (Encoding::Gzip, |bytes| Box::new(flate2::read::GzDecoder::new(io::Cursor::new(bytes)))),
            (Encoding::Deflate, |bytes| Box::new(flate2::read::ZlibDecoder::new(io::Cursor::new(bytes)))),
            (Encoding::Brotli, |bytes| Box::new(brotli::Decompressor::new(io::Cursor::new(bytes), 4096))),
            (Encoding::Zstd, |bytes| {
                Box::new(zstd::stream::read::Decoder::new(io::Cursor::new(bytes)).unwrap())
            }),
            (Encoding::Lz4, |bytes| Box::new(lz4_flex::frame::FrameDecoder::new(io::Cursor::new(bytes)))),
        ];
        for (encoding, reader) in cases {
            let mut encoder = Encoder::new(Wrapping { frames: false, encoding: Some(encoding) }).unwrap();
            let mut sent = encoder.push(b"first ").unwrap();
            assert!(!sent.is_empty(), "{encoding:?} keeps the first piece back");
            sent.extend(encoder.push(b"second").unwrap());
            sent.extend(encoder.finish().unwrap());
            let mut text = String::new();
            reader(sent).read_to_string(&mut text).unwrap();
            assert_eq!(text, "first second", "{encoding:?}");
        }
    }
}
