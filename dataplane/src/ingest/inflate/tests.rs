use std::io::Write;

use flate2::Compression;
use proptest::prelude::*;

use super::*;

const CODINGS: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

fn compress(coding: Coding, plain: &[u8]) -> Vec<u8> {
    match coding {
        Coding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Deflate => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Brotli => {
            let mut compressed = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut compressed, 4096, 5, 22);
            encoder.write_all(plain).unwrap();
            drop(encoder);
            compressed
        }
        Coding::Zstd => zstd::bulk::compress(plain, 3).unwrap(),
    }
}

fn inflate(coding: Coding, body: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateError> {
    Inflater::default().inflate(coding, body, bytes_max)
}

#[test]
fn gives_back_what_was_compressed_in_every_coding() {
    let mut inflater = Inflater::default();
    for size in [0, 1, 1023, 1024, 1025, 100_000, 3 << 20] {
        // Text with few repetitions, so that the large one is no bomb.
        let number = |i: u32| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes());
        let plain: Vec<u8> = (0..size).map(|i| b'a' + (number(i) % 16) as u8).collect();
        for coding in CODINGS {
            let inflated = inflater.inflate(coding, &compress(coding, &plain), plain.len()).unwrap();
            assert!(inflated == plain, "{coding:?} {size}");
        }
    }
}

#[test]
fn deflate_may_be_raw() {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(b"{\"event_type\":\"a\"}").unwrap();
    let raw = encoder.finish().unwrap();
    assert_eq!(inflate(Coding::Deflate, &raw, 100).unwrap(), b"{\"event_type\":\"a\"}");
    assert_eq!(inflate(Coding::Deflate, &raw[..raw.len() - 1], 100), Err(InflateError::Truncated));
}

#[test]
fn stops_at_the_first_byte_over_the_limit() {
    let plain = vec![b'x'; 1000];
    for coding in CODINGS {
        let body = compress(coding, &plain);
        assert_eq!(inflate(coding, &body, 1000), Ok(plain.clone()), "{coding:?}");
        let refused = inflate(coding, &body, 999);
        assert_eq!(refused, Err(InflateError::TooLarge { bytes_max: 999 }), "{coding:?}");
    }
}

#[test]
fn a_bomb_is_given_up_long_before_it_is_large() {
    let plain = vec![0; 64 << 20];
    for coding in CODINGS {
        let body = compress(coding, &plain);
        match inflate(coding, &body, 1 << 30) {
            Err(InflateError::Bomb { produced_bytes }) => {
                let credible = RATIO_FREE_BYTES.max(body.len() * RATIO_MAX);
                assert_eq!(produced_bytes, credible + 1, "{coding:?}");
                assert!(produced_bytes < 8 << 20, "{coding:?}: {produced_bytes}");
            }
            other => panic!("{coding:?}: {:?}", other.map(|output| output.len())),
        }
    }
}

#[test]
fn a_truncated_stream_is_refused_wherever_it_is_cut() {
    let plain: Vec<u8> = (0..600_u32).flat_map(|i| (i * 7919 % 251).to_string().into_bytes()).collect();
    for coding in CODINGS {
        let body = compress(coding, &plain);
        for end in 0..body.len() {
            let refused = inflate(coding, &body[..end], 1 << 20);
            assert!(
                matches!(refused, Err(InflateError::Truncated | InflateError::Corrupt)),
                "{coding:?} cut at {end} of {}: {refused:?}",
                body.len()
            );
        }
    }
}

#[test]
fn bytes_after_the_stream_are_refused() {
    for coding in CODINGS {
        let mut body = compress(coding, b"{}");
        body.extend_from_slice(&compress(coding, b"{}"));
        assert_eq!(inflate(coding, &body, 100), Err(InflateError::TrailingBytes), "{coding:?}");
    }
}

#[test]
fn a_zstd_frame_with_a_window_over_eight_mebibytes_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(24)).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&vec![7; 20 << 20]).unwrap();
    let body = encoder.finish().unwrap();
    assert_eq!(inflate(Coding::Zstd, &body, 64 << 20), Err(InflateError::Corrupt));
}

#[test]
fn a_context_that_met_a_broken_body_serves_the_next_one() {
    let mut inflater = Inflater::default();
    let body = compress(Coding::Zstd, &vec![b'y'; 5000]);
    assert!(inflater.inflate(Coding::Zstd, &body[..body.len() / 2], 1 << 20).is_err());
    assert_eq!(inflater.inflate(Coding::Zstd, &body, 1 << 20), Ok(vec![b'y'; 5000]));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_inflated_within_the_limit_or_refused(
        coding in prop::sample::select(CODINGS.to_vec()),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        if let Ok(output) = inflate(coding, &bytes, 4096) {
            prop_assert!(output.len() <= 4096);
        }
    }

    #[test]
    fn damage_within_a_stream_never_panics(
        coding in prop::sample::select(CODINGS.to_vec()),
        plain in prop::collection::vec(any::<u8>(), 0..2000),
        at in any::<prop::sample::Index>(),
        with in 1..=u8::MAX,
    ) {
        let mut body = compress(coding, &plain);
        let at = at.index(body.len());
        body[at] ^= with;
        let _ = inflate(coding, &body, 4096);
    }
}
