//! A compressed body in, its bytes out, or why not. Pure and bounded: it stops at the first byte over a limit.
//! The stream must be whole and the only thing in the body: a truncated one, or bytes after it, are refused.

use brotli::{BrotliDecompressStream, BrotliResult, BrotliState, HeapAlloc, HuffmanCode};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, Operation};

use super::coding::Coding;

/// Output that is never called a bomb, whatever its ratio: repetitive batches of honest clients reach 100:1.
const RATIO_FREE_BYTES: usize = 1 << 20;
/// Beyond that, most output bytes per input byte. Events compress 15 to 30 times.
const RATIO_MAX: usize = 100;
/// Largest zstd window, 8 MiB: what RFC 9659 allows for this coding. It bounds the decoder's memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Deflate's largest window.
const GZIP_WINDOW_BITS: u8 = 15;
/// First guess at the output, between these; later it doubles.
const FIRST_CHUNK_BYTES: (usize, usize) = (1 << 10, 64 << 10);
/// Usual ratio of small bodies, for the first guess.
const RATIO_GUESS: usize = 4;

/// Inflates, and keeps between bodies what is costly to make.
#[derive(Default)]
pub(super) struct Inflater {
    /// A fresh zstd context costs several times what a small body does.
    zstd: Option<Decoder<'static>>,
}

impl Inflater {
    /// The bytes of a compressed body, at most `bytes_max`.
    pub(super) fn inflate(
        &mut self,
        coding: Coding,
        body: &[u8],
        bytes_max: usize,
    ) -> Result<Vec<u8>, InflateError> {
        match coding {
            Coding::Gzip => deflate(Decompress::new_gzip(GZIP_WINDOW_BITS), body, bytes_max),
            Coding::Deflate => deflate(Decompress::new(has_zlib_header(body)), body, bytes_max),
            Coding::Brotli => brotli(body, bytes_max),
            Coding::Zstd => self.zstd(body, bytes_max),
        }
    }

    fn zstd(&mut self, body: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateError> {
        let corrupt = |_| InflateError::Corrupt;
        let decoder = match &mut self.zstd {
            Some(kept) => kept,
            none => {
                let mut made = Decoder::new().map_err(corrupt)?;
                made.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(corrupt)?;
                none.insert(made)
            }
        };
        decoder.reinit().map_err(corrupt)?;
        drive(body, bytes_max, |input, output| {
            let status = decoder.run_on_buffers(input, output).map_err(corrupt)?;
            Ok(Step {
                read: status.bytes_read,
                written: status.bytes_written,
                finished: status.remaining == 0,
            })
        })
    }
}

/// RFC 1950: method 8 and a check over the first two bytes. A raw deflate stream cannot look so unless it begins
/// with a stored block whose padding is not zero, which no encoder writes.
fn has_zlib_header(body: &[u8]) -> bool {
    match body {
        [first, second, ..] => {
            first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)).is_multiple_of(31)
        }
        _ => false,
    }
}

fn deflate(mut stream: Decompress, body: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateError> {
    drive(body, bytes_max, |input, output| {
        let (read, written) = (stream.total_in(), stream.total_out());
        let status =
            stream.decompress(input, output, FlushDecompress::None).map_err(|_| InflateError::Corrupt)?;
        Ok(Step {
            read: count(stream.total_in() - read),
            written: count(stream.total_out() - written),
            finished: status == Status::StreamEnd,
        })
    })
}

fn brotli(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateError> {
    // Strict: without the large-window extension, whose windows reach a gigabyte.
    let mut state = BrotliState::new_strict(
        HeapAlloc::new(0_u8),
        HeapAlloc::new(0_u32),
        HeapAlloc::new(HuffmanCode::default()),
    );
    let mut total = 0;
    drive(body, bytes_max, |input, output| {
        let (mut unread, mut read) = (input.len(), 0);
        let (mut room, mut written) = (output.len(), 0);
        let result = BrotliDecompressStream(
            &mut unread,
            &mut read,
            input,
            &mut room,
            &mut written,
            output,
            &mut total,
            &mut state,
        );
        match result {
            BrotliResult::ResultFailure => Err(InflateError::Corrupt),
            BrotliResult::ResultSuccess => Ok(Step { read, written, finished: true }),
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {
                Ok(Step { read, written, finished: false })
            }
        }
    })
}

/// What one call of a decoder did.
struct Step {
    read: usize,
    written: usize,
    finished: bool,
}

/// Calls the decoder until its stream ends, giving it room as it fills it, never beyond a limit.
fn drive(
    body: &[u8],
    bytes_max: usize,
    mut decode: impl FnMut(&[u8], &mut [u8]) -> Result<Step, InflateError>,
) -> Result<Vec<u8>, InflateError> {
    let first = body.len().saturating_mul(RATIO_GUESS).clamp(FIRST_CHUNK_BYTES.0, FIRST_CHUNK_BYTES.1);
    let ceiling = bytes_max.min(RATIO_FREE_BYTES.max(body.len().saturating_mul(RATIO_MAX)));
    let mut output: Vec<u8> = Vec::new();
    let (mut read, mut written) = (0, 0);
    loop {
        // One byte over the ceiling shows that there is more.
        let room = written.max(first).min(ceiling + 1 - written);
        output.reserve_exact(written + room - output.len());
        output.resize(written + room, 0);
        let step = decode(&body[read..], &mut output[written..])?;
        read += step.read;
        written += step.written;
        if written > ceiling {
            return Err(over(ceiling, bytes_max));
        }
        if step.finished {
            output.truncate(written);
            return if read == body.len() { Ok(output) } else { Err(InflateError::TrailingBytes) };
        }
        if step.read == 0 && step.written == 0 {
            return Err(if read == body.len() { InflateError::Truncated } else { InflateError::Corrupt });
        }
    }
}

fn over(ceiling: usize, bytes_max: usize) -> InflateError {
    if ceiling == bytes_max {
        InflateError::TooLarge { bytes_max }
    } else {
        InflateError::Bomb { produced_bytes: ceiling + 1 }
    }
}

fn count(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Why a body could not be inflated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InflateError {
    /// Not a stream of its coding, damaged, or in need of more memory than the coding allows.
    #[error("the compressed body is damaged or not of the coding its `Content-Encoding` names")]
    Corrupt,
    /// The stream does not end.
    #[error("the compressed body ends too early; send it whole")]
    Truncated,
    /// Something stands after the stream.
    #[error("there are bytes after the end of the compressed body; send one stream and nothing else")]
    TrailingBytes,
    /// Larger than the App takes.
    #[error("the body is over {bytes_max} bytes once decompressed; send smaller batches")]
    TooLarge {
        /// The App's limit.
        bytes_max: usize,
    },
    /// Larger than its compressed size makes credible.
    #[error("the body grows more than {RATIO_MAX} times when decompressed; send it less compressed")]
    Bomb {
        /// How many bytes were made before it was given up.
        produced_bytes: usize,
    },
}

#[cfg(test)]
mod tests;
