//! ClickHouse's own compressed frames: bytes to frames for `compress=1`, frames to bytes for `decompress=1`.
//! Checksums are verified and sizes bounded before anything is decompressed. Pure.
//!
//! A frame is CityHash128 (version 1.0.2) of the rest, one byte of method, the compressed size with this
//! 9-byte header, the size of the content, both little-endian, and the compressed content.

use std::io::{self, Read};

const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
/// Larger frames are refused: clients write up to 1 MiB, the server's own limit is 1 GiB.
const FRAME_BYTES_MAX: usize = 128 << 20;

const METHOD_NONE: u8 = 0x02;
const METHOD_LZ4: u8 = 0x82;
const METHOD_ZSTD: u8 = 0x90;

/// Why frames cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("checksum doesn't match: the frame is corrupted")]
    Checksum,
    #[error("a frame of {bytes} bytes is over the limit of {FRAME_BYTES_MAX}")]
    Size { bytes: usize },
    #[error("unknown compression method {method:#04x}; use LZ4, ZSTD or none")]
    Method { method: u8 },
    #[error("the frame does not decompress to the size that it announces")]
    Content,
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// One LZ4 frame around `content`.
pub(super) fn compress(content: &[u8]) -> Vec<u8> {
    let compressed = lz4_flex::block::compress(content);
    let mut frame = vec![0; CHECKSUM_BYTES];
    frame.push(METHOD_LZ4);
    frame.extend_from_slice(&size(compressed.len() + HEADER_BYTES));
    frame.extend_from_slice(&size(content.len()));
    frame.extend_from_slice(&compressed);
    let checksum = checksum(&frame[CHECKSUM_BYTES..]);
    frame[..CHECKSUM_BYTES].copy_from_slice(&checksum);
    frame
}

fn size(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("responses are framed in pieces far below 4 GiB").to_le_bytes()
}

/// The hash as the server writes it: low half first.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    cityhash_rs::cityhash_102_128(bytes).rotate_left(64).to_le_bytes()
}

/// Reads frames and gives their content.
pub(super) struct FrameReader<R> {
    frames: R,
    content: Vec<u8>,
    at: usize,
}

impl<R: Read> FrameReader<R> {
    pub(super) fn new(frames: R) -> Self {
        Self { frames, content: Vec::new(), at: 0 }
    }

    /// Reads the next frame; false at the end of the frames. An end inside a frame is an error.
    fn next_frame(&mut self) -> io::Result<bool> {
        let mut head = [0; CHECKSUM_BYTES + HEADER_BYTES];
        if self.frames.read(&mut head[..1])? == 0 {
            return Ok(false);
        }
        self.frames.read_exact(&mut head[1..])?;
        let method = head[CHECKSUM_BYTES];
        let compressed = read_size(&head[CHECKSUM_BYTES + 1..]);
        let content = read_size(&head[CHECKSUM_BYTES + 5..]);
        if compressed > FRAME_BYTES_MAX || content > FRAME_BYTES_MAX {
            return Err(FrameError::Size { bytes: compressed.max(content) }.into());
        }
        let Some(rest) = compressed.checked_sub(HEADER_BYTES) else { return Err(FrameError::Content.into()) };
        let mut frame = head[CHECKSUM_BYTES..].to_vec();
        let read = self.frames.by_ref().take(rest as u64).read_to_end(&mut frame)?;
        if read < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if checksum(&frame) != head[..CHECKSUM_BYTES] {
            return Err(FrameError::Checksum.into());
        }
        self.content = decompress(method, &frame[HEADER_BYTES..], content)?;
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for FrameReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.content.len() {
            if !self.next_frame()? {
                return Ok(0);
            }
        }
        let read = (&self.content[self.at..]).read(into)?;
        self.at += read;
        Ok(read)
    }
}

fn read_size(bytes: &[u8]) -> usize {
    let bytes = bytes[..4].try_into().expect("four bytes were cut");
    u32::from_le_bytes(bytes) as usize
}

fn decompress(method: u8, compressed: &[u8], size: usize) -> Result<Vec<u8>, FrameError> {
    let content = match method {
        METHOD_NONE => compressed.to_vec(),
        METHOD_LZ4 => lz4_flex::block::decompress(compressed, size).map_err(|_| FrameError::Content)?,
        METHOD_ZSTD => zstd::bulk::decompress(compressed, size).map_err(|_| FrameError::Content)?,
        method => return Err(FrameError::Method { method }),
    };
    if content.len() == size { Ok(content) } else { Err(FrameError::Content) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(frames: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        FrameReader::new(frames).read_to_end(&mut content)?;
        Ok(content)
    }

    proptest! {
        #[test]
        fn frames_give_back_what_was_put_in(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5)) {
            let frames: Vec<u8> = pieces.iter().flat_map(|piece| compress(piece)).collect();
            prop_assert_eq!(read_all(&frames).unwrap(), pieces.concat());
        }

        #[test]
        fn a_changed_or_shortened_frame_is_an_error(at in 0..57_usize, flip in 1..=255_u8) {
            let mut frame = compress(b"a text that is long enough, is long enough, is long enough");
            let at = at.min(frame.len() - 1);
            prop_assert!(read_all(&frame[..at.max(1)]).is_err());
            frame[at] ^= flip;
            prop_assert!(read_all(&frame).is_err());
        }

        #[test]
        fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(&bytes);
        }
    }

    #[test]
    fn a_frame_that_announces_too_much_is_refused_before_memory_is_taken() {
        let mut frame = compress(b"x");
        frame[CHECKSUM_BYTES + 5..CHECKSUM_BYTES + 9].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read_all(&frame).unwrap_err().to_string().contains("over the limit"));
    }
}
