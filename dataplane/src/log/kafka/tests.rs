//! What needs no real broker.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::log::trouble::Trouble;
use crate::telemetry;

const TOPIC: &str = "events";

/// A broker of long ago, as far as a client gets that asks it about a topic: it says which requests it knows, and who
/// leads what. Returns its address.
fn old_broker() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Ends with its client.
            std::thread::spawn(move || answer(stream?, i32::from(address.port())));
        }
    });
    address.to_string()
}

/// Answers one client until it is gone. Integers are big endian; texts and lists have their length in front.
fn answer(mut stream: TcpStream, port: i32) -> std::io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request)?;
        let [kind, version] = [0, 2].map(|at| i16::from_be_bytes([request[at], request[at + 1]]));
        let body = match (kind, version) {
            (API_VERSIONS, 0) => api_versions(),
            (API_VERSIONS, _) => UNSUPPORTED_VERSION.to_be_bytes().into_iter().chain([0; 4]).collect(),
            (METADATA, 1) => metadata(port),
            other => panic!("it said that it does not know {other:?}"),
        };
        let correlation = &request[4..8];
        stream.write_all(&u32::try_from(4 + body.len()).unwrap().to_be_bytes())?;
        stream.write_all(correlation)?;
        stream.write_all(&body)?;
    }
}

const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const UNSUPPORTED_VERSION: i16 = 35;

/// No error, and two kinds of requests with their lowest and highest versions: nothing about settings of topics.
fn api_versions() -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(2_i32.to_be_bytes());
    for number in [METADATA, 0, 1, API_VERSIONS, 0, 0] {
        body.extend(number.to_be_bytes());
    }
    body
}

/// One broker, which is the controller and leads the one partition of the one topic.
fn metadata(port: i32) -> Vec<u8> {
    let text = |text: &str| [&i16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let numbers =
        |numbers: &[i32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
    let (no_error, no_rack, not_internal) = ([0_u8; 2], (-1_i16).to_be_bytes(), [0_u8]);
    [
        // Brokers: id, host, port, rack. Then the controller, and the number of topics.
        &numbers(&[1, 1])[..],
        &text("127.0.0.1"),
        &numbers(&[port]),
        &no_rack,
        &numbers(&[1, 1]),
        &no_error,
        &text(TOPIC),
        &not_internal,
        // Partitions: number, leader, copies, copies in sync.
        &numbers(&[1]),
        &no_error,
        &numbers(&[0, 1, 1, 1, 1, 1]),
    ]
    .concat()
}

#[tokio::test]
async fn brokers_that_are_too_old_are_named_with_the_fix() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let log = KafkaLog::open(&Settings::plain(old_broker()), Options::default(), metrics).unwrap();
    let error = log.topic(TOPIC).await.unwrap_err();
    assert_eq!(Trouble::of(&error), Some(Trouble::Unsupported), "{error:?}");
    assert!(error.is_retryable(), "brokers are updated while we run");
    let text = telemetry::chain(&error);
    assert!(text.contains("unsupported broker"), "{text}");
    assert!(text.contains("update the brokers to Kafka 3.1 or newer"), "{text}");
}
