//! Resources in, what `millrace-operator plan` says of them out: asked in the operator's own pod, as a person would.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// What a person is about to do with the resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    Apply,
    Delete,
}

/// What `plan --output json` prints, as far as it is compared.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Report {
    /// What is wrong with the resources themselves; then nothing else is told.
    pub(crate) problems: Vec<String>,
    pub(crate) resources: Vec<ObjectChange>,
    pub(crate) objects: Vec<ObjectChange>,
    pub(crate) topics: Vec<TopicChange>,
    pub(crate) statements: Vec<Statement>,
    pub(crate) refused: Vec<Value>,
}

/// An object that is to change.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ObjectChange {
    pub(crate) action: Action,
    pub(crate) kind: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) fields: Vec<Value>,
    pub(crate) object: Option<Value>,
}

/// What happens to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Create,
    Change,
    Delete,
}

/// A topic that is to change, or the record of who owns an App's topics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct TopicChange {
    pub(crate) action: String,
    pub(crate) topic: String,
    pub(crate) what: String,
}

/// A statement that is to be carried out.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Statement {
    pub(crate) sql: String,
}

impl Report {
    /// Whether something cannot be done.
    pub(crate) fn is_refusal(&self) -> bool {
        !self.problems.is_empty() || !self.refused.is_empty()
    }
}

/// Asks. The text has one YAML document per resource; they go to `namespace`.
pub(crate) fn ask(operator: &str, namespace: &str, text: &str, intent: Intent) -> Result<(String, Report)> {
    let mut command = Command::new("kubectl");
    command.args(["-n", operator, "exec", "-i", "deployment/millrace-operator", "--", "millrace-operator"]);
    command.args(["plan", "-f", "-", "--output", "json", "-n", namespace]);
    if intent == Intent::Delete {
        command.arg("--delete");
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start `kubectl`")?;
    child.stdin.take().context("its input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report: Report = serde_json::from_str(&printed)
        .with_context(|| format!("`plan` printed no plan: {printed}{said}, for:\n{text}"))?;
    // What it printed and how it ended say the same.
    let something =
        [report.resources.len(), report.objects.len(), report.topics.len(), report.statements.len()];
    let is_known = |refused: &Value| refused["known"] == true;
    let expected = if !report.problems.is_empty() || !report.refused.iter().all(is_known) {
        1
    } else if something.iter().any(|&count| count > 0) {
        2
    } else {
        0
    };
    ensure!(output.status.code() == Some(expected), "`plan` ended with {}: {printed}", output.status);
    Ok((printed.into_owned(), report))
}
