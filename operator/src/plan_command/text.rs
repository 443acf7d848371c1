//! A report in, lines for people out.

use std::fmt::Write as _;

use millrace_crds::problem::Problem;

use super::report::{Action, ObjectChange, Report, Verdict, counted};
use crate::diff_text::FieldChange;

/// Most fields shown of one object; the rest is counted.
const FIELDS_MAX: usize = 40;

/// Whether lines carry colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// None.
    Plain,
    /// ANSI colours.
    Colours,
}

struct Page {
    paint: Paint,
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn title(&mut self, title: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let line = self.painted("1", title);
        self.line(&line);
    }

    fn painted(&self, code: &str, text: &str) -> String {
        match self.paint {
            Paint::Plain => text.to_owned(),
            Paint::Colours => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }

    /// An item under a title, with its sign.
    fn item(&mut self, action: Action, text: &str) {
        let (sign, code) = match action {
            Action::Create => ("+", "32"),
            Action::Change => ("~", "33"),
            Action::Delete => ("-", "31"),
        };
        let line = format!("  {} {text}", self.painted(code, sign));
        self.line(&line);
    }

    fn fields(&mut self, fields: &[FieldChange]) {
        for FieldChange { path, before, after } in fields.iter().take(FIELDS_MAX) {
            let said = match (before, after) {
                (Some(before), Some(after)) => format!("{before} → {after}"),
                (None, Some(after)) => after.clone(),
                (Some(before), None) => format!("{before} → (removed)"),
                (None, None) => "(other)".to_owned(),
            };
            self.line(&format!("      {path}: {said}"));
        }
        if fields.len() > FIELDS_MAX {
            self.line(&format!("      … and {} more", fields.len() - FIELDS_MAX));
        }
    }

    fn objects(&mut self, title: &str, objects: &[ObjectChange]) {
        if objects.is_empty() {
            return;
        }
        self.title(title);
        for ObjectChange { action, kind, namespace, name, runs, fields, object: _ } in objects {
            let runs = runs.as_ref().map(|runs| format!(": {runs}")).unwrap_or_default();
            self.item(*action, &format!("{kind} {namespace}/{name}{runs}"));
            if fields.is_empty() && *action == Action::Change {
                self.line("      (only the record of what was applied)");
            }
            self.fields(fields);
        }
    }
}

/// The whole report.
pub fn of_report(report: &Report, paint: Paint) -> String {
    let mut page = Page { paint, text: String::new() };
    page.objects("Your resources", &report.resources);
    page.objects("What the operator does with Kubernetes objects", &report.objects);
    backends(&mut page, report);
    pods(&mut page, report);
    if !report.refused.is_empty() {
        page.title("Cannot be done");
        for refused in &report.refused {
            let sign = page.painted("31", "!");
            let since = if refused.known { " (as before; not in these files)" } else { "" };
            let (condition, reason) = (&refused.condition, &refused.reason);
            let object = format!("{} {}/{}", refused.kind, refused.namespace, refused.name);
            page.line(&format!("  {sign} {object}: {condition} does not hold, {reason}{since}"));
            for line in refused.message.lines() {
                page.line(&format!("      {line}"));
            }
        }
    }
    if !report.notes.is_empty() {
        page.title("To know");
        for note in &report.notes {
            page.line(&format!("  {note}"));
        }
    }
    summary(&mut page, report);
    page.text
}

fn backends(page: &mut Page, report: &Report) {
    let at =
        |endpoint: &Option<String>| endpoint.as_ref().map(|at| format!(" (at {at})")).unwrap_or_default();
    if !report.topics.is_empty() {
        page.title("Kafka topics");
        let width = report.topics.iter().map(|topic| topic.topic.len()).max().unwrap_or_default();
        for topic in &report.topics {
            let (name, what, at) = (&topic.topic, &topic.what, at(&topic.endpoint));
            page.item(topic.action, &format!("{name:width$}  {what}{at}"));
        }
    }
    if !report.statements.is_empty() {
        page.title("ClickHouse statements");
        for statement in &report.statements {
            page.item(statement.action, &format!("{}{}", statement.object, at(&statement.endpoint)));
            for line in statement.sql.lines() {
                page.line(&format!("      {line}"));
            }
        }
    }
}

fn pods(page: &mut Page, report: &Report) {
    if !report.restarts.is_empty() {
        page.title("Pods that restart, one after the other");
        for restart in &report.restarts {
            let pods = restart.pods.map(|pods| format!(", {}", counted(pods, "pod"))).unwrap_or_default();
            page.item(
                Action::Change,
                &format!("{} {}/{}{pods}", restart.kind, restart.namespace, restart.name),
            );
        }
    }
    if !report.reloads.is_empty() {
        page.title("Configuration that running pods take live");
        for reload in &report.reloads {
            let (namespace, scope) = (&reload.namespace, &reload.scope);
            let steps = format!("Revision {scope}-{} → {scope}-{}", reload.from, reload.to);
            page.item(Action::Change, &format!("{namespace}/{scope}: {steps}"));
            page.fields(&reload.fields);
        }
    }
}

fn summary(page: &mut Page, report: &Report) {
    if !page.text.is_empty() {
        page.text.push('\n');
    }
    let all = || report.resources.iter().chain(&report.objects);
    let count = |action| all().filter(|object| object.action == action).count();
    let (create, change, delete) = (count(Action::Create), count(Action::Change), count(Action::Delete));
    let counts = format!(
        "{create} to create, {change} to change, {delete} to delete; {}, {}; {}, {}",
        counted(report.topics.len() as u64, "step") + " on topics",
        counted(report.statements.len() as u64, "statement"),
        counted(report.restarts.len() as u64, "workload") + " to restart",
        counted(report.reloads.len() as u64, "configuration") + " to reload",
    );
    let line = match report.verdict() {
        Verdict::Unchanged => "No change: everything is as it should be.".to_owned(),
        Verdict::Changes => format!("Plan: {counts}. Nothing was written."),
        Verdict::Refused => format!(
            "{} cannot be done. The rest: {counts}. Nothing was written.",
            counted(report.refused.iter().filter(|refused| !refused.known).count() as u64, "thing")
        ),
    };
    page.line(&line);
}

/// Problems of files, one a line.
pub fn of_problems(problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        writeln!(text, "{problem}").expect("writing to a String cannot fail");
    }
    let count = counted(problems.len() as u64, "problem");
    text + &format!("\n{count}: nothing was planned, and nothing was written.\n")
}
