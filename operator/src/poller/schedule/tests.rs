use std::collections::BTreeSet;

use millrace_crds::state::{RefusedRevision, RunningRevision, ScopeState};
use serde_json::{Value, json};

use super::*;
use crate::reports::Report;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_000_000_000_000 + ms).unwrap()
}

fn object(value: Value) -> Arc<DynamicObject> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn revision(scope: &str, plane: Option<&str>, sequence: i64, percent: u8) -> Arc<DynamicObject> {
    let mut labels = json!({labels::SCOPE: scope});
    if let Some(plane) = plane {
        labels[labels::DATA_PLANE] = plane.into();
    }
    object(json!({
        "metadata": {"namespace": "default", "name": format!("{scope}-{sequence}"), "labels": labels},
        "spec": {"sequence": sequence, "rollout": {"percent": percent}},
    }))
}

fn target(pod: &str) -> Target {
    Target {
        namespace: "default".to_owned(),
        pod: pod.to_owned(),
        uid: format!("uid-of-{pod}"),
        ip: "10.0.0.1".to_owned(),
        data_plane: "shared".to_owned(),
    }
}

fn running(sequence: i64) -> ScopeState {
    ScopeState { running: Some(RunningRevision { sequence, hash: String::new() }), refused: None }
}

fn state(scopes: &[(&str, ScopeState)]) -> PodState {
    let scopes = scopes.iter().map(|(scope, state)| ((*scope).to_owned(), state.clone())).collect();
    let base = json!({"pod": "a", "role": "ingest", "version": "0", "formatMax": "v1", "ready": true});
    PodState { scopes, ..serde_json::from_value(base).unwrap() }
}

fn say(reports: &Reports, pod: &str, said: Result<PodState, String>) {
    reports.keep("default", pod, Report { uid: format!("uid-of-{pod}"), at: at(0), said });
}

/// The moments, in milliseconds, at which a pod that always answers so is asked within the first while.
fn asked(said: Result<PodState, String>, revisions: &[Arc<DynamicObject>], until_ms: i64) -> Vec<i64> {
    asked_every(500, said, revisions, until_ms)
}

/// The same, looked at in steps of so many milliseconds.
fn asked_every(
    step_ms: usize,
    said: Result<PodState, String>,
    revisions: &[Arc<DynamicObject>],
    until_ms: i64,
) -> Vec<i64> {
    let (mut schedule, reports) = (Schedule::default(), Reports::default());
    let mut moments = Vec::new();
    for ms in (0..=until_ms).step_by(step_ms) {
        schedule.look(vec![target("a")], revisions);
        for due in schedule.due(&reports, at(ms), 10) {
            moments.push(ms);
            schedule.heard(&due, said.is_ok(), at(ms));
            say(&reports, "a", said.clone());
        }
    }
    moments
}

#[test]
fn a_pod_is_asked_often_while_something_is_on_its_way_and_seldom_otherwise() {
    let revisions = [revision("shop", Some("shared"), 3, 100), revision("access", None, 2, 100)];
    let current = state(&[("shop", running(3)), ("access", running(2))]);
    assert_eq!(asked(Ok(current.clone()), &revisions, 61_000), [0, 30_000, 60_000]);
    for behind in [
        state(&[("shop", running(2)), ("access", running(2))]),
        state(&[("shop", running(3)), ("access", running(1))]),
        state(&[("shop", running(3))]),
        state(&[("shop", running(3)), ("access", running(2)), ("withdrawn", running(9))]),
    ] {
        let moments = asked(Ok(behind), &revisions, 100_000);
        assert_eq!(moments[..4], [0, 500, 1_000, 1_500]);
        assert!(
            moments.contains(&59_500) && moments.iter().filter(|ms| **ms > 60_000).count() <= 8,
            "{moments:?}"
        );
    }
    let mut refuses = running(2);
    refuses.refused = Some(RefusedRevision { sequence: 3, reason: "no".to_owned() });
    let refuses = state(&[("shop", refuses), ("access", running(2))]);
    assert_eq!(asked(Ok(refuses), &revisions, 29_000), [0], "what it refused it will not run");
}

#[test]
fn a_pod_is_asked_quickly_after_a_change_and_no_longer_than_its_credit_lasts() {
    let revisions = [revision("shop", Some("shared"), 3, 100)];
    let behind = || Ok(state(&[("shop", running(2))]));
    let moments = asked_every(50, behind(), &revisions, 10_000);
    assert_eq!(moments[..4], [0, 100, 200, 300]);
    let within = |from, to| moments.iter().filter(|ms| (from..to).contains(*ms)).count();
    assert!((20..=24).contains(&within(0, 2_500)), "{moments:?}");
    assert!((6..=12).contains(&within(6_000, 9_000)), "one a second beside the usual two: {moments:?}");
    let current = Ok(state(&[("shop", running(3))]));
    assert_eq!(asked_every(50, current, &revisions, 29_000), [0], "nothing is on its way");
    assert_eq!(asked_every(50, Err("gone".to_owned()), &revisions, 3_000), [0, 500, 1_500]);
}

#[test]
fn credit_comes_back_with_time_and_only_a_pod_that_has_some_asks_for_a_quick_look() {
    let (mut schedule, reports) = (Schedule::default(), Reports::default());
    let mut ask = |from: i64, to: i64| {
        let mut count = 0;
        for ms in (from..to).step_by(100) {
            schedule.look(vec![target("a")], &[revision("shop", Some("shared"), 3, 100)]);
            for due in schedule.due(&reports, at(ms), 10) {
                count += 1;
                schedule.heard(&due, true, at(ms));
                say(&reports, "a", Ok(state(&[("shop", running(2))])));
            }
        }
        (count, schedule.pace(at(to)))
    };
    assert_eq!(ask(0, 1_000), (10, Pace::Quick));
    ask(1_000, 20_000);
    // What came back in the meantime was spent at once; after a rest it is there again.
    assert!(ask(40_000, 42_000).0 >= 19);
}

#[test]
fn a_revision_of_another_data_plane_or_for_other_pods_is_not_waited_for() {
    for elsewhere in [Some("shop"), None] {
        let revisions = [revision("shop", elsewhere, 3, 100)];
        assert_eq!(asked(Ok(state(&[])), &revisions, 5_000), [0], "{elsewhere:?}");
    }
    let partial: Vec<_> = (2..=60).map(|sequence| revision("shop", Some("shared"), sequence, 1)).collect();
    let newest =
        (2..=60).rev().find(|sequence| takes("a", &labels::revision("shop", *sequence), 1)).unwrap_or(0);
    assert!(newest < 60, "choose another pod name: this one takes the newest");
    let state = state(&[("shop", running(newest.max(1)))]);
    assert_eq!(asked(Ok(state), &partial, 5_000), [0]);
}

#[test]
fn a_pod_that_does_not_answer_is_asked_less_and_less() {
    let moments = asked(Err("gone".to_owned()), &[], 100_000);
    assert_eq!(moments, [0, 500, 1_500, 3_500, 7_500, 15_500, 31_500, 61_500, 91_500]);
}

#[test]
fn a_new_revision_ends_the_wait_of_a_current_pod_and_of_a_stuck_one() {
    let (mut schedule, reports) = (Schedule::default(), Reports::default());
    let first = [revision("shop", Some("shared"), 1, 100)];
    schedule.look(vec![target("a")], &first);
    let due = schedule.due(&reports, at(0), 10);
    schedule.heard(&due[0], true, at(0));
    say(&reports, "a", Ok(state(&[("shop", running(1))])));
    assert!(schedule.due(&reports, at(1_000), 10).is_empty());
    let second = [revision("shop", Some("shared"), 1, 100), revision("shop", Some("shared"), 2, 100)];
    schedule.look(vec![target("a")], &second);
    assert_eq!(schedule.due(&reports, at(1_500), 10).len(), 1);
}

#[test]
fn those_that_wait_longest_come_first_and_nobody_is_asked_twice_at_once() {
    let (mut schedule, reports) = (Schedule::default(), Reports::default());
    let pods = || ["a", "b", "c"].map(target).to_vec();
    schedule.look(pods(), &[]);
    let first: BTreeSet<String> = schedule.due(&reports, at(0), 2).into_iter().map(|due| due.pod).collect();
    schedule.look(pods(), &[]);
    let second: Vec<String> = schedule.due(&reports, at(500), 2).into_iter().map(|due| due.pod).collect();
    assert_eq!((first.len(), second.len()), (2, 1));
    assert!(!first.contains(&second[0]));
}

#[test]
fn a_pod_of_the_same_name_is_a_new_one_and_one_that_is_gone_is_named() {
    let mut schedule = Schedule::default();
    schedule.look(vec![target("a"), target("b")], &[]);
    let again = Target { uid: "other".to_owned(), ..target("a") };
    let gone = schedule.look(vec![again], &[]);
    assert_eq!(gone, [target("b")]);
    assert!(!schedule.heard(&target("a"), true, at(0)), "an answer of the old one counts no more");
    assert!(schedule.knows("default", "a") && !schedule.knows("default", "b"));
}
