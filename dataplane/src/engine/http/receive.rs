//! A request body in, a spool with its plain bytes out; or a refusal, and then nothing was executed.
//! Every size is bounded, compressed or not.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;

use crate::engine::frames::FrameReader;
use crate::engine::refusal::{Refusal, code};
use crate::engine::spool::Spool;

/// Largest body, as sent and as decompressed: far above any block that a loader sends.
const BODY_BYTES_MAX: u64 = 4 << 30;
/// A client that sends nothing for this long has gone.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
    Lz4,
}

impl Packing {
    /// By the `Content-Encoding` header.
    pub(super) fn of(header: Option<&str>) -> Result<Self, Refusal> {
        match header.map(|text| text.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") => Ok(Self::Plain),
            Some("gzip" | "x-gzip") => Ok(Self::Gzip),
            Some("deflate") => Ok(Self::Deflate),
            Some("br") => Ok(Self::Brotli),
            Some("zstd") => Ok(Self::Zstd),
            Some("lz4") => Ok(Self::Lz4),
            Some(other) => Err(Refusal::unsupported(format!(
                "Unknown compression method '{other}'. Only gzip, deflate, br, zstd, lz4 are supported"
            ))),
        }
    }

    fn reader<'a>(self, packed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Plain => Box::new(packed),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Deflate => Box::new(flate2::read::ZlibDecoder::new(packed)),
            Self::Brotli => Box::new(brotli::Decompressor::new(packed, 1 << 16)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(packed)?),
            Self::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(packed)),
        })
    }
}

/// Takes the whole body. A connection that breaks, or a chunk that is not one, refuses the request.
pub(super) async fn receive(body: Body, dir: &Path) -> Result<Spool, Refusal> {
    let mut spool = Spool::new(dir).map_err(|error| cannot_spool(&error))?;
    let mut pieces = body.into_data_stream();
    loop {
        let Ok(piece) = tokio::time::timeout(IDLE_MAX, pieces.next()).await else {
            return Err(incomplete("nothing came for a minute"));
        };
        let Some(piece) = piece else { return Ok(spool) };
        let piece = piece.map_err(|error| incomplete(&error.to_string()))?;
        check_size(spool.len() + piece.len() as u64)?;
        spool.write_all(&piece).map_err(|error| cannot_spool(&error))?;
    }
}

/// Unpacks a spool; blocking. Without packing it is given back as it is.
pub(super) fn unpack(spool: Spool, packing: Packing, frames: bool, dir: &Path) -> Result<Spool, Refusal> {
    if packing == Packing::Plain && !frames {
        return Ok(spool);
    }
    let packed = io::BufReader::new(spool.reader(0).map_err(|error| cannot_spool(&error))?);
    let mut plain = packing.reader(packed).map_err(|error| cannot_unpack(&error))?;
    let mut unpacked = Spool::new(dir).map_err(|error| cannot_spool(&error))?;
    let copied = if frames {
        copy(&mut FrameReader::new(plain), &mut unpacked)
    } else {
        copy(&mut plain, &mut unpacked)
    };
    copied.map(|()| unpacked)
}

fn copy(from: &mut dyn Read, into: &mut Spool) -> Result<(), Refusal> {
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut piece).map_err(|error| cannot_unpack(&error))?;
        if read == 0 {
            return Ok(());
        }
        check_size(into.len() + read as u64)?;
        into.write_all(&piece[..read]).map_err(|error| cannot_spool(&error))?;
    }
}

fn check_size(bytes: u64) -> Result<(), Refusal> {
    if bytes <= BODY_BYTES_MAX {
        return Ok(());
    }
    Err(Refusal::new(
        code::QUERY_IS_TOO_LARGE,
        format!("the body is over {BODY_BYTES_MAX} bytes; send it in parts"),
    ))
}

fn incomplete(why: &str) -> Refusal {
    Refusal::new(code::CANNOT_READ_ALL_DATA, format!("the body is incomplete ({why}); nothing was executed"))
}

fn cannot_unpack(error: &io::Error) -> Refusal {
    let corrupted = error.to_string().contains("checksum doesn't match");
    let code = if corrupted { code::CHECKSUM_DOESNT_MATCH } else { code::CANNOT_DECOMPRESS };
    Refusal::new(code, format!("the body cannot be decompressed ({error}); nothing was executed"))
}

fn cannot_spool(error: &io::Error) -> Refusal {
    Refusal::new(code::CANNOT_WRITE_TO_FILE, format!("the engine cannot keep the body ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(bytes: &[u8], packing: Packing, frames: bool) -> Result<Vec<u8>, Refusal> {
        let dir = Path::new("/nonexistent");
        let mut spool = Spool::new(dir).unwrap();
        spool.write_all(bytes).unwrap();
        unpack(spool, packing, frames, dir).map(|plain| plain.head(u64::MAX).unwrap())
    }

    #[test]
    fn bodies_are_unpacked_and_broken_ones_refused() {
        let text = b"some text that packs, that packs, that packs".to_vec();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        let packed = [(Packing::Gzip, gzip), (Packing::Zstd, zstd::bulk::compress(&text, 1).unwrap())];
        for (packing, bytes) in packed {
            assert_eq!(unpacked(&bytes, packing, false).unwrap(), text, "{packing:?}");
            assert_eq!(
                unpacked(&bytes[..bytes.len() - 5], packing, false).unwrap_err().code,
                271,
                "{packing:?}"
            );
        }
        let mut frame = crate::engine::frames::compress(&text);
        assert_eq!(unpacked(&frame, Packing::Plain, true).unwrap(), text);
        frame[30] ^= 1;
        assert_eq!(unpacked(&frame, Packing::Plain, true).unwrap_err().code, 40);
    }

    #[test]
    fn an_unknown_packing_is_refused() {
        assert_eq!(Packing::of(Some("GZIP")), Ok(Packing::Gzip));
        assert_eq!(Packing::of(Some("snappy")).unwrap_err().code, 48);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_refused() {
        let pieces = [Ok("abc"), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
        let body = Body::from_stream(futures::stream::iter(pieces));
        assert_eq!(
            receive(body, Path::new("/nonexistent")).await.err().map(|refusal| refusal.code),
            Some(33)
        );
    }
}
