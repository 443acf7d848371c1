//! Bodies as clients compress them.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Coding {
    None,
    Gzip,
    Zlib,
    Deflate,
    Brotli,
    Zstd,
}

pub(crate) fn compress(coding: Coding, plain: &[u8]) -> Vec<u8> {
    let level = Compression::default();
    match coding {
        Coding::None => plain.to_vec(),
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), level);
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Zlib => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Deflate => {
            let mut encoder = DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Brotli => {
            let mut compressed = Vec::new();
            brotli::CompressorWriter::new(&mut compressed, 4096, 5, 22).write_all(plain).unwrap();
            compressed
        }
        Coding::Zstd => zstd::bulk::compress(plain, 3).unwrap(),
    }
}
