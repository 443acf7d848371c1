//! The control socket end to end: dead letters listed, shown and replayed; bad clients answered.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use millrace_crds::config::{AppConfig, OnUndeclared};
use millrace_crds::names::TopicKind;
use millrace_dataplane::control::command::{self, CommandError, DeadLettersCommand, Output, Target};
use millrace_dataplane::control::protocol::{
    LetterId, ListDeadLetters, RefusalCode, ReplayCounts, ReplayDeadLetters, ReplayReport, ShowDeadLetter,
    Which,
};
use millrace_dataplane::control::{
    Client, ClientError, ControlError, ControlState, Listener, REQUEST_BYTES_MAX, SOCKET_NAME,
};
use millrace_dataplane::log::LogError;
use millrace_dataplane::record::{DeadLetterReason, RawRecord};
use millrace_dataplane::store::{ClickHouse, Endpoint};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fixture::{DAY_MS, World, app_config, topic};
use crate::memory_log::Fault;

struct Server {
    path: PathBuf,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    fn start(world: &World) -> Self {
        let path = world.dir.path().join(SOCKET_NAME);
        let listener = Listener::bind(&path).unwrap();
        let cancel = CancellationToken::new();
        // Nobody is there: dead letters are a matter of the log alone.
        let nowhere =
            Endpoint { url: "http://127.0.0.1:9".to_owned(), user: "default".to_owned(), password: None };
        let store = ClickHouse::new(nowhere);
        let state = ControlState::new(Arc::clone(&world.config), world.shared_log(), store, Arc::default());
        let task = tokio::spawn(listener.serve(state, cancel.clone()));
        Self { path, cancel, task }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.path).await.unwrap()
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
        assert!(!self.path.exists());
    }

    /// Sends bytes, returns the first line that comes back.
    async fn raw(&self, bytes: &[u8]) -> Value {
        let mut stream = BufReader::new(UnixStream::connect(&self.path).await.unwrap());
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn strict() -> AppConfig {
    let mut config = app_config();
    config.events.on_undeclared = OnUndeclared::DeadLetter;
    config
}

fn list() -> ListDeadLetters {
    ListDeadLetters { app: "shop".to_owned(), reason: None, since: None, limit: 100, cursor: None }
}

fn replay(which: Which) -> ReplayDeadLetters {
    ReplayDeadLetters { app: "shop".to_owned(), which, dry_run: false, cursor: None }
}

fn counts(replayed: u64, already_replayed: u64, failed: u64) -> ReplayCounts {
    ReplayCounts { replayed, already_replayed, failed }
}

#[tokio::test]
async fn a_replay_after_the_declaration_was_patched_stores_exactly_once() {
    let world = World::new(strict());
    let id = Uuid::new_v4();
    world.send(id, "page_view", &json!({"path": "/"}));
    world.process_all().await;
    let server = Server::start(&world);
    let mut client = server.client().await;

    // Replayed too early: it fails again, as a new dead letter, and only that one is open.
    assert_eq!(client.replay(replay(Which::All)).await.unwrap().counts, counts(1, 0, 0));
    world.process_all().await;
    let page = client.list(list()).await.unwrap();
    let states: Vec<_> = page.letters.iter().map(|letter| (letter.replay, letter.replayed)).collect();
    assert_eq!(states, [(0, true), (1, false)]);

    world.set_config(app_config());
    let dry = ReplayDeadLetters { dry_run: true, ..replay(Which::All) };
    assert_eq!(client.replay(dry).await.unwrap().counts, counts(1, 1, 0));
    world.process_all().await;
    assert!(world.processed().is_empty(), "a dry run changes nothing");

    assert_eq!(client.replay(replay(Which::All)).await.unwrap().counts, counts(1, 1, 0));
    world.process_all().await;
    assert_eq!(client.replay(replay(Which::All)).await.unwrap().counts, counts(0, 2, 0));
    world.process_all().await;
    let processed = world.processed();
    assert_eq!(processed.len(), 1);
    assert_eq!((processed[0].event.event_id, processed[0].origin.replay), (id, 2));
    assert_eq!(processed[0].event.event_data.as_ref().unwrap().get(), r#"{"path":"/"}"#);
    server.stop().await;
}

#[tokio::test]
async fn the_second_letter_of_one_event_is_not_replayed_even_behind_the_dedupe_window() {
    let world = World::new(strict());
    let id = Uuid::new_v4();
    world.send(id, "page_view", &json!({}));
    world.send(id, "page_view", &json!({}));
    world.process_all().await;
    world.set_config(app_config());
    let first = LetterId { partition: 0, offset: 0 };
    let second = LetterId { partition: 0, offset: 1 };
    let server = Server::start(&world);
    let report = server.client().await.replay(replay(Which::Ids(vec![first]))).await.unwrap();
    assert_eq!(report.counts, counts(1, 0, 0));
    world.process_all().await;
    server.stop().await;

    // A week later, in a new process.
    world.log.with(|state| state.now += 7 * i64::try_from(DAY_MS).unwrap());
    let server = Server::start(&world);
    let report = server.client().await.replay(replay(Which::Ids(vec![first, second]))).await.unwrap();
    assert_eq!(report.counts, counts(0, 2, 0));
    world.process_all().await;
    assert_eq!(world.processed().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn two_replays_at_once_put_every_event_back_once() {
    let world = World::new(strict());
    for _ in 0..40 {
        world.send(Uuid::new_v4(), "page_view", &json!({}));
    }
    world.process_all().await;
    world.set_config(app_config());
    let server = Server::start(&world);
    let (mut one, mut two) = (server.client().await, server.client().await);
    let (one, two) = tokio::join!(one.replay(replay(Which::All)), two.replay(replay(Which::All)));
    let (one, two) = (one.unwrap().counts, two.unwrap().counts);
    assert_eq!(one.replayed + two.replayed, 40);
    assert_eq!(one.already_replayed + two.already_replayed, 40);
    world.process_all().await;
    assert_eq!(world.outcome_count("duplicate"), 0);
    assert_eq!(world.processed().len(), 40);
    server.stop().await;
}

#[tokio::test]
async fn a_replay_of_unknown_outcome_can_be_repeated() {
    let world = World::new(strict());
    let id = Uuid::new_v4();
    world.send(id, "page_view", &json!({}));
    world.process_all().await;
    world.set_config(app_config());
    let server = Server::start(&world);
    let mut client = server.client().await;
    world.log.with(|state| {
        state.faults.push_back(Fault::Refused(LogError::DiskFull { free_bytes_min: 9 }));
        state.faults.push_back(Fault::UnknownButDone);
    });
    for _ in 0..2 {
        let refused = client.replay(replay(Which::All)).await.unwrap_err();
        assert!(refused.to_string().contains("repeat the command"), "{refused}");
    }
    assert_eq!(client.replay(replay(Which::All)).await.unwrap().counts, counts(0, 1, 0));
    let raw = world.log.records(&topic(TopicKind::EventsRaw));
    let replays =
        raw.iter().map(|(_, r)| serde_json::from_slice::<RawRecord>(&r.value).unwrap().origin.replay);
    assert_eq!(replays.collect::<Vec<_>>(), [0, 1]);
    server.stop().await;
}

#[tokio::test]
async fn unreadable_records_go_back_as_they_were_and_lost_ones_are_named() {
    let world = World::new(app_config());
    world.send_bytes(b"no id", b"\xffgarbage".to_vec());
    let gone = Uuid::new_v4();
    world.log.with(|state| state.record_bytes_max = 700);
    world.send(gone, "page_view", &json!({"x": "y".repeat(400)}));
    world.log.with(|state| state.record_bytes_max = 520);
    world.process_all().await;
    // Retention takes the large record away before it is replayed.
    let name = topic(TopicKind::EventsRaw);
    world.log.with(|state| {
        for records in &mut state.topics.get_mut(name.as_str()).unwrap().1 {
            records.retain(|record| *record.key != *gone.as_bytes());
        }
    });
    let server = Server::start(&world);
    let report = server.client().await.replay(replay(Which::All)).await.unwrap();
    assert_eq!(report.counts, counts(1, 0, 1));
    assert!(report.failed[0].why.contains("has left events-raw"), "{report:?}");
    let raw = world.log.records(&name);
    let garbage = raw.iter().filter(|(_, record)| *record.value == *b"\xffgarbage");
    assert_eq!(garbage.count(), 2);
    let missing = LetterId { partition: 0, offset: 99 };
    let report = server.client().await.replay(replay(Which::Ids(vec![missing, missing]))).await.unwrap();
    assert_eq!(report.counts, counts(0, 0, 1));
    server.stop().await;
}

#[tokio::test]
async fn lists_in_pages_by_reason_and_time_and_shows_one() {
    let world = World::new(strict());
    for number in 0..7 {
        world.send(Uuid::new_v4(), "page_view", &json!({"number": number}));
        world.send(Uuid::new_v4(), "purchase", &json!({}));
    }
    world.process_all().await;
    let server = Server::start(&world);
    let mut client = server.client().await;
    let mut call = ListDeadLetters { reason: Some(DeadLetterReason::UndeclaredEvent), limit: 3, ..list() };
    let mut sizes = Vec::new();
    let mut letters = Vec::new();
    loop {
        let page = client.list(call.clone()).await.unwrap();
        sizes.push(page.letters.len());
        letters.extend(page.letters);
        match page.next {
            Some(next) => call.cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(sizes, [3, 3, 1]);
    assert!(letters.iter().all(|letter| letter.event_type.as_deref() == Some("page_view")));
    let since = ListDeadLetters { since: Some(i64::MAX), ..list() };
    assert!(client.list(since).await.unwrap().letters.is_empty());

    let call = |id| ShowDeadLetter { app: "default.shop".to_owned(), id };
    let shown = client.show(call(letters[0].id)).await.unwrap();
    assert!(shown.letter.record.unwrap().get().contains(&letters[0].event_id.unwrap().to_string()));
    for id in ["0:99", "7:0"] {
        let refused = client.show(call(id.parse().unwrap())).await.unwrap_err();
        assert!(matches!(refused, ClientError::Refused(r) if r.code == RefusalCode::NotFound), "{id}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bad_requests_are_answered_and_harm_nobody_else() {
    let world = World::new(app_config());
    let server = Server::start(&world);
    let mut bystander = server.client().await;
    let oversized = vec![b'x'; REQUEST_BYTES_MAX + 10];
    let unknown_app = br#"{"v":1,"call":{"dead_letters.list":{"app":"blog","limit":1}}}"#;
    for (bytes, code, words) in [
        (&b"hello\n"[..], "invalid_request", "not a request"),
        (b"\xff\xfe\n", "invalid_request", "not a request"),
        (b"{}\n", "invalid_request", "not a request"),
        (b"{\"v\":1,\"call\":\"dance\"}\n", "invalid_request", "unknown variant"),
        (b"{\"v\":2,\"call\":{\"dance\":{}}}\n", "unsupported_version", "version 1"),
        (&[&unknown_app[..], b"\n"].concat(), "unknown_app", "serves: default/shop"),
        (&oversized, "request_too_large", "65536"),
    ] {
        let answer = server.raw(bytes).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer}");
    }
    assert!(bystander.list(list()).await.unwrap().letters.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_socket_is_private_and_a_dead_process_does_not_block_it() {
    let world = World::new(app_config());
    let path = world.dir.path().join(SOCKET_NAME);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(Client::connect(&path).await, Err(ClientError::NotRunning { .. })));
    let server = Server::start(&world);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(Listener::bind(&path), Err(ControlError::InUse { .. })));
    let long = world.dir.path().join("x".repeat(120));
    assert!(matches!(Listener::bind(&long), Err(ControlError::PathTooLong { .. })));
    server.stop().await;
}

#[tokio::test]
async fn the_command_prints_tables_and_json_and_says_how_to_start_a_process() {
    let world = World::new(strict());
    world.send(Uuid::new_v4(), "page_view", &json!({}));
    world.process_all().await;
    let target = |output| Target { app: "shop".to_owned(), data_dir: None, output };
    let list =
        |output| DeadLettersCommand::List { target: target(output), reason: None, since: None, limit: 9 };
    let mut out = Vec::new();
    let none = command::run_command(list(Output::Text), world.dir.path(), &mut out).await.unwrap_err();
    assert!(none.to_string().contains("start one with `millrace-dataplane standalone DIR`"), "{none}");

    let server = Server::start(&world);
    command::run_command(list(Output::Text), world.dir.path(), &mut out).await.unwrap();
    let text = String::from_utf8(std::mem::take(&mut out)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("ID   WHEN") && lines[1].starts_with("0:0  "), "{text}");
    assert!(lines[1].contains("undeclared_event  page_view   no "), "{text}");

    command::run_command(list(Output::Json), world.dir.path(), &mut out).await.unwrap();
    let value: Value = serde_json::from_slice(&std::mem::take(&mut out)).unwrap();
    assert_eq!((&value[0]["id"], &value[0]["reason"]), (&json!("0:0"), &json!("undeclared_event")));

    let show = DeadLettersCommand::Show { target: target(Output::Text), id: "0:0".parse().unwrap() };
    command::run_command(show, world.dir.path(), &mut out).await.unwrap();
    assert!(String::from_utf8(std::mem::take(&mut out)).unwrap().contains("\"event_type\": \"page_view\""));

    let replay = |ids, output| DeadLettersCommand::Replay {
        target: target(output),
        ids,
        reason: None,
        all: false,
        dry_run: false,
    };
    let ids = vec!["0:0".parse().unwrap(), "0:55".parse().unwrap()];
    let error =
        command::run_command(replay(ids, Output::Json), world.dir.path(), &mut out).await.unwrap_err();
    assert!(matches!(error, CommandError::Incomplete { failed: 1 }));
    let report: ReplayReport = serde_json::from_slice(&out).unwrap();
    assert_eq!(report.counts, counts(1, 0, 1));
    server.stop().await;
}
