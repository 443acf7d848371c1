//! No acknowledgement leaves the embedded log before an fsync that covers its record has returned.
//! A child process appends under a preloaded library that holds, fails and records its fsyncs.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(10);
/// Many times what an append takes when nothing holds it (under a millisecond).
const LONG_ENOUGH_FOR_AN_ACK: Duration = Duration::from_millis(300);

/// The data folder and the control folder of one test.
struct Bench {
    folder: tempfile::TempDir,
}

/// A running child: what we tell it, what it says, and what its disk did.
struct Appender {
    child: Child,
    input: ChildStdin,
    said: Receiver<String>,
    synced: Receiver<String>,
}

/// An acknowledgement: offset, and when it was asked for and given.
#[derive(Debug)]
struct Ack {
    offset: u64,
    asked: i128,
    answered: i128,
}

/// A line of the shim.
#[derive(Debug)]
struct Synced {
    what: String,
    started: i128,
    ended: i128,
    path: String,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(bench.control()).unwrap();
        fs::write(bench.control().join("prefix"), bench.data().to_str().unwrap()).unwrap();
        bench
    }

    fn data(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("data")
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    fn set(&self, file: &str) {
        File::create(self.control().join(file)).unwrap();
    }

    fn clear(&self, file: &str) {
        fs::remove_file(self.control().join(file)).unwrap();
    }

    /// Starts a child; it says how many records it found.
    fn start(&self) -> (Appender, u64) {
        let calls = self.control().join("calls");
        let _from_before = fs::remove_file(&calls);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &calls, mode).unwrap();
        // Open for both, so that neither side waits for the other to come, and none sees an end.
        let calls = File::options().read(true).write(true).open(calls).unwrap();
        let shim = std::env::current_exe().unwrap().with_file_name("libmillrace_fsync_shim.so");
        assert!(shim.exists(), "{} was not built", shim.display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_append-records"))
            .arg(self.data())
            .env("LD_PRELOAD", shim)
            .env("MILLRACE_FSYNC_CONTROL", self.control())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let said = lines(child.stdout.take().unwrap());
        let appender = Appender { child, input, said, synced: lines(calls) };
        let ready = appender.hear();
        (appender, ready.strip_prefix("ready ").unwrap().parse().unwrap())
    }
}

impl Appender {
    fn append(&mut self, count: usize) {
        writeln!(self.input, "{count}").unwrap();
    }

    fn hear(&self) -> String {
        self.said.recv_timeout(LONG).expect("the child says something")
    }

    /// Everything said until the appends asked for are all answered.
    fn answers(&self) -> Vec<String> {
        std::iter::from_fn(|| Some(self.hear())).take_while(|line| line != "done").collect()
    }

    /// Waits until the disk did `what`.
    fn until_disk(&self, what: &str) -> Synced {
        loop {
            let sync = sync(&self.synced.recv_timeout(LONG).expect("the disk does something"));
            if sync.what == what {
                return sync;
            }
        }
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn lines(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn sync(line: &str) -> Synced {
    let fields: Vec<_> = line.splitn(5, ' ').collect();
    let [what, started, ended, _call, path] = fields[..] else { panic!("not a line of the shim: {line}") };
    Synced {
        what: what.to_owned(),
        started: started.parse().unwrap(),
        ended: ended.parse().unwrap(),
        path: path.to_owned(),
    }
}

fn ack(line: &str) -> Ack {
    let fields: Vec<_> = line.split(' ').collect();
    let ["ack", offset, asked, answered] = fields[..] else { panic!("not an acknowledgement: {line}") };
    Ack {
        offset: offset.parse().unwrap(),
        asked: asked.parse().unwrap(),
        answered: answered.parse().unwrap(),
    }
}

#[test]
fn nothing_is_acknowledged_while_the_fsync_is_held() {
    let bench = Bench::new();
    let (mut appender, _) = bench.start();
    bench.set("hold");
    appender.append(3);
    let held = appender.until_disk("held");
    assert!(held.path.ends_with(".jnl"), "{held:?}");
    assert_eq!(appender.said.recv_timeout(LONG_ENOUGH_FOR_AN_ACK), Err(RecvTimeoutError::Timeout));
    bench.clear("hold");
    let acks: Vec<_> = appender.answers().iter().map(|line| ack(line)).collect();
    assert_eq!(acks.iter().map(|ack| ack.offset).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn every_acknowledgement_has_an_fsync_between_question_and_answer() {
    let bench = Bench::new();
    fs::write(bench.control().join("delay_ms"), "2").unwrap();
    let (mut appender, _) = bench.start();
    let mut synced = Vec::new();
    for count in [1, 1, 1, 20, 1, 50, 2] {
        appender.append(count);
        let acks: Vec<_> = appender.answers().iter().map(|line| ack(line)).collect();
        assert_eq!(acks.len(), count);
        for ack in acks {
            // The line was written before the call returned, so it is here or on its way.
            while !synced.iter().any(|sync| covers(sync, &ack)) {
                match appender.synced.recv_timeout(LONG) {
                    Ok(line) => synced.push(sync(&line)),
                    Err(_) => panic!("{ack:?} has no fsync of its own: {synced:?}"),
                }
            }
        }
    }
}

fn covers(sync: &Synced, ack: &Ack) -> bool {
    sync.what == "ok" && sync.path.ends_with(".jnl") && ack.asked < sync.started && sync.ended < ack.answered
}

#[test]
fn after_a_failed_fsync_nothing_is_acknowledged_until_restart() {
    let bench = Bench::new();
    let (mut appender, _) = bench.start();
    appender.append(5);
    assert_eq!(appender.answers().len(), 5);
    bench.set("fail");
    appender.append(4);
    let failed = appender.answers();
    assert!(failed.len() == 4 && failed.iter().all(|line| line.starts_with("error ")), "{failed:?}");
    bench.clear("fail");
    // The disk would say yes again: what was lost in between it would not say.
    appender.append(2);
    let refused = appender.answers();
    assert!(refused.len() == 2 && refused.iter().all(|line| line.starts_with("error ")), "{refused:?}");
    drop(appender);
    let (mut appender, found) = bench.start();
    assert!((5..=9).contains(&found), "{found}: all that was acknowledged, and perhaps what was not");
    appender.append(1);
    assert_eq!(ack(&appender.answers()[0]).offset, found);
}

#[test]
fn what_was_acknowledged_before_a_kill_is_there_afterwards() {
    let bench = Bench::new();
    let mut acknowledged = 0;
    for round in 0..10 {
        let (mut appender, found) = bench.start();
        assert!(found >= acknowledged, "round {round}: {found} found of {acknowledged}");
        appender.append(200);
        for _ in 0..20 * round {
            acknowledged = acknowledged.max(ack(&appender.hear()).offset + 1);
        }
        appender.child.kill().unwrap();
        for line in appender.said.iter().filter(|line| line.starts_with("ack ")) {
            acknowledged = acknowledged.max(ack(&line).offset + 1);
        }
    }
    assert!(acknowledged > 0);
}
