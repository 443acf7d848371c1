//! A Kafka of its own for one test program: started at first use, ended when the program ends. `MILLRACE_TEST_KAFKA`
//! names one that is there already.

#![allow(dead_code, reason = "shared by test programs, and not every one kills brokers")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// One broker that tests may also kill.
pub(crate) struct Broker {
    /// `host:port`.
    pub(crate) address: String,
    folder: tempfile::TempDir,
}

impl Broker {
    /// Starts it on a free port and returns when it serves.
    pub(crate) fn start() -> Self {
        Self::started(&[])
    }

    /// One that asks for TLS and for the account `millrace`; [`Self::file`] has `ca.crt` and `password`.
    pub(crate) fn start_secured() -> Self {
        Self::started(&[("KAFKA_SECURED", "1")])
    }

    fn started(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let start = ["start", &folder.path().display().to_string(), "0"];
        let output = Command::new(script_path()).args(start).envs(settings.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let address = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        Self { address, folder }
    }

    /// A file beside its data.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&self) {
        script(&["kill", &self.folder.path().display().to_string()]);
    }

    /// Starts it again with the data it has. While it was away another program's test may have had its port.
    pub(crate) fn restart(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let folder = self.folder.path().display().to_string();
        loop {
            let output = Command::new(script_path()).args(["start", &folder, "0"]).output().unwrap();
            if output.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stderr));
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        script(&["kill", &self.folder.path().display().to_string()]);
    }
}

fn script(arguments: &[&str]) -> Output {
    let output = Command::new(script_path()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn script_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/cluster/kafka")
}

/// The address of the broker all tests of this program share.
pub(crate) fn shared() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        #[expect(
            clippy::disallowed_methods,
            reason = "tests are told by the environment what is there already"
        )]
        let given = std::env::var("MILLRACE_TEST_KAFKA");
        given.unwrap_or_else(|_| started_for_this_program())
    })
}

/// Statics are not dropped, so a watcher ends the broker when this program has ended, however it ended.
#[expect(clippy::zombie_processes, reason = "the watcher outlives this program on purpose")]
fn started_for_this_program() -> String {
    let folder = tempfile::tempdir().unwrap().keep();
    let output = script(&["start", &folder.display().to_string(), "0"]);
    let address = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let watch =
        r#"while kill -0 "$1" 2>/dev/null; do sleep 0.2; done; "$2" kill "$3" >/dev/null 2>&1; rm -rf "$3""#;
    let own = std::process::id().to_string();
    let folder = folder.display().to_string();
    let program = script_path().display().to_string();
    let mut watcher = Command::new("setsid");
    watcher.args(["bash", "-c", watch, "watcher", &own, &program, &folder]);
    watcher.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    watcher.stderr(std::process::Stdio::null()).spawn().unwrap();
    address
}
