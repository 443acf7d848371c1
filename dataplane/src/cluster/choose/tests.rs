//! Choosing: what runs, what is refused, and that one scope's trouble stays its own.

use std::collections::BTreeSet;

use millrace_crds::labels;
use millrace_crds::resolved::Role;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::offer::{Place, read};
use super::*;

const POD: &str = "mr-shared-ingest-0";

fn place() -> Place {
    Place { namespace: "team".to_owned(), data_plane: "shared".to_owned() }
}

/// A Revision of the App `scope` whose one write key has the digest `key` repeated.
fn revision(scope: &str, sequence: i64, key: &str) -> Value {
    let config = json!({
        "format": "v1", "app": format!("team/{scope}"),
        "ingest": {
            "dialects": ["native"],
            "writeKeys": { "web": { "digest": key.repeat(64), "allowedOrigins": [], "dialect": null } },
            "rateLimit": null, "maxBodyBytes": 1, "maxEventBytes": 1, "maxBatchEvents": sequence,
            "trustForwardedClient": false,
        },
        "events": {
            "onUndeclared": "Keep", "declared": {}, "revenue": null, "conversions": [], "dedupeWindowMs": 1,
        },
        "privacy": {
            "userIds": "Hash", "deviceIds": "Hash", "ip": "Drop", "fields": [], "requiredConsent": [],
        },
        "storage": { "database": "d", "retentionSeconds": 1, "schemaHash": "5c" },
        "topics": [], "integrations": {},
    });
    object(scope, sequence, &config.to_string())
}

fn object(scope: &str, sequence: i64, config: &str) -> Value {
    json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "Revision",
        "metadata": {
            "name": labels::revision(scope, sequence),
            "labels": { labels::SCOPE: scope, labels::DATA_PLANE: "shared" },
        },
        "spec": {
            "sequence": sequence, "format": "v1", "rollout": { "percent": 100 }, "schemaHash": "5c",
            "config": config,
        },
    })
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    *object.pointer_mut(pointer).unwrap() = value;
    object
}

fn offers(objects: &[Value]) -> Offers {
    let read = |object: &Value| {
        let object = serde_json::from_value(object.clone()).unwrap();
        let offer = read(&object, &place()).unwrap()?;
        Some((offer.name.clone(), Arc::new(offer)))
    };
    objects.iter().filter_map(read).collect()
}

fn secrets(apps: &[&str]) -> Secrets {
    let keys = json!({ "epoch": 1, "hash": "11".repeat(32), "encrypt": "22".repeat(64) });
    let privacy: BTreeMap<String, Value> =
        apps.iter().map(|app| (format!("team/{app}"), keys.clone())).collect();
    let json = json!({ "pepper": "00", "privacy": privacy }).to_string();
    Secrets::parse(json.as_bytes(), Role::Ingest).unwrap()
}

fn decide(objects: &[Value], before: &InForce) -> Choice {
    choose(POD, &offers(objects), &secrets(&["shop", "game", "a", "b"]), before, &mut |_| ())
}

fn running(choice: &Choice, scope: &str) -> Option<i64> {
    choice.scopes.get(scope)?.running.as_ref().map(|running| running.sequence)
}

fn refused<'c>(choice: &'c Choice, scope: &str) -> Option<(i64, &'c str)> {
    choice.scopes.get(scope)?.refused.as_ref().map(|refused| (refused.sequence, refused.reason.as_str()))
}

#[test]
fn the_highest_that_is_good_runs_and_the_refused_one_above_it_is_told() {
    let good = revision("shop", 7, "a");
    let unknown_format = with(revision("shop", 8, "b"), "/spec/format", json!("v9"));
    for (bad, says) in [
        (unknown_format, "upgrade the data plane"),
        (object("shop", 8, "{\"format\":"), "cannot be read"),
        (object("shop", 8, "{\"newer\": 1}"), "cannot be read: unknown field `newer`"),
        (with(revision("shop", 8, "b"), "/spec/schemaHash", json!("5d")), "schemaHash"),
        (with(revision("game", 8, "b"), "/metadata/labels/millrace.dev~1scope", json!("shop")), "`shop-8`"),
        (
            with(
                revision("shop", 8, "b"),
                "/spec/config",
                revision("game", 8, "b")["spec"]["config"].clone(),
            ),
            "`team/game`",
        ),
    ] {
        let choice = decide(&[good.clone(), bad], &InForce::new());
        assert_eq!(running(&choice, "shop"), Some(7), "{says}");
        let (sequence, reason) = refused(&choice, "shop").unwrap();
        assert!(sequence == 8 && reason.contains(says), "{reason}");
    }
}

#[test]
fn only_what_is_for_this_data_plane_is_looked_at() {
    let of = |value: &str| {
        with(revision("shop", 1, "a"), "/metadata/labels/millrace.dev~1data-plane", json!(value))
    };
    assert_eq!(running(&decide(&[of("shared")], &InForce::new()), "shop"), Some(1));
    assert!(decide(&[of("shop")], &InForce::new()).scopes.is_empty());
    let rules = json!({
        "format": "v1", "namespace": "team", "issuers": {}, "roles": {}, "bindings": [], "maskedFields": {},
        "rateLimits": {},
    });
    let mut access = object("access", 3, &rules.to_string());
    access["metadata"]["labels"].as_object_mut().unwrap().remove(labels::DATA_PLANE);
    access["spec"].as_object_mut().unwrap().remove("schemaHash");
    let choice = decide(&[access], &InForce::new());
    assert_eq!(running(&choice, "access"), Some(3));
    assert!(choice.config.access("team").is_some());
}

#[test]
fn without_its_privacy_keys_an_app_is_refused_and_one_that_runs_goes_on() {
    let objects = [revision("shop", 1, "a"), revision("game", 1, "b")];
    let both = decide(&objects, &InForce::new());
    let without = secrets(&["game"]);
    let choice = choose(POD, &offers(&objects), &without, &InForce::new(), &mut |_| ());
    assert_eq!((running(&choice, "shop"), running(&choice, "game")), (None, Some(1)));
    assert!(refused(&choice, "shop").unwrap().1.contains("privacy keys"));
    let choice = choose(POD, &offers(&objects), &without, &both.in_force, &mut |_| ());
    assert_eq!((running(&choice, "shop"), running(&choice, "game")), (Some(1), Some(1)));
}

#[test]
fn a_key_of_another_app_is_refused_there_and_nobody_else_notices() {
    let before = decide(&[revision("shop", 1, "a"), revision("game", 1, "b")], &InForce::new());
    let objects = [
        revision("shop", 1, "a"),
        revision("shop", 2, "b"),
        revision("game", 1, "b"),
        revision("game", 2, "c"),
        revision("a", 1, "a"),
    ];
    // `game` gives its key up in the same moment, so `shop` may have it, and then `a` may have that of `shop`.
    let choice = decide(&objects, &before.in_force);
    let all = ["shop", "game", "a"].map(|scope| running(&choice, scope));
    assert_eq!(all, [Some(2), Some(2), Some(1)]);
    // While `game` keeps it, `shop` may not, and `a` neither.
    let objects: Vec<Value> = objects.into_iter().filter(|o| o["metadata"]["name"] != "game-2").collect();
    let choice = decide(&objects, &before.in_force);
    assert_eq!(["shop", "game", "a"].map(|scope| running(&choice, scope)), [Some(1), Some(1), None]);
    assert_eq!(refused(&choice, "shop").unwrap().0, 2);
    assert!(refused(&choice, "a").unwrap().1.contains("already used by App `team/shop`"));
}

#[test]
fn what_did_not_change_is_the_same_value_and_new_keys_make_a_new_one() {
    let first = decide(&[revision("shop", 1, "a")], &InForce::new());
    let app = |choice: &Choice| Arc::clone(choice.config.apps().values().next().unwrap());
    let again = decide(&[revision("shop", 1, "a"), revision("game", 1, "b")], &first.in_force);
    let shop = millrace_crds::names::AppId::new("team", "shop").unwrap();
    assert!(Arc::ptr_eq(&app(&first), again.config.app(&shop).unwrap()));
    // A rollback is a new sequence with the old bytes.
    let config = revision("shop", 1, "a")["spec"]["config"].as_str().unwrap().to_owned();
    let rolled_back = decide(&[object("shop", 3, &config)], &first.in_force);
    assert_eq!(running(&rolled_back, "shop"), Some(3));
    assert!(Arc::ptr_eq(&app(&first), &app(&rolled_back)));
    let json = json!({ "pepper": "00", "privacy": { "team/shop": {
        "epoch": 2, "hash": "33".repeat(32), "encrypt": "22".repeat(64) } } });
    let rotated = Secrets::parse(json.to_string().as_bytes(), Role::Ingest).unwrap();
    let choice = choose(POD, &offers(&[revision("shop", 1, "a")]), &rotated, &first.in_force, &mut |_| ());
    assert_eq!(app(&choice).privacy_keys.epoch, 2);
}

#[test]
fn a_deleted_revision_is_given_up_for_a_lower_one_and_the_last_ends_the_scope() {
    let seven = decide(&[revision("shop", 7, "a")], &InForce::new());
    // The App was deleted and made again: its sequence starts anew.
    let anew = decide(&[revision("shop", 1, "b")], &seven.in_force);
    assert_eq!(running(&anew, "shop"), Some(1));
    // Only one that cannot be used is left: the last good one stays.
    let bad = object("shop", 8, "{}");
    let stays = decide(&[bad], &seven.in_force);
    assert_eq!(running(&stays, "shop"), Some(7));
    assert_eq!(refused(&stays, "shop").map(|(sequence, _)| sequence), Some(8));
    let gone = decide(&[], &seven.in_force);
    assert!(gone.scopes.is_empty() && gone.config.apps().is_empty());
}

#[test]
fn a_share_of_the_pods_takes_a_new_one_and_the_others_stay() {
    let canary = with(revision("shop", 2, "b"), "/spec/rollout/percent", json!(30));
    let objects = offers(&[revision("shop", 1, "a"), canary]);
    let run_by = |pod: &str| {
        let choice = choose(pod, &objects, &secrets(&["shop"]), &InForce::new(), &mut |_| ());
        running(&choice, "shop").unwrap()
    };
    let pods: Vec<String> = (0..200).map(|n| format!("pod-{n}")).collect();
    assert!(pods.iter().all(|pod| (run_by(pod) == 2) == takes(pod, "shop-2", 30)));
    assert_eq!(pods.iter().map(|pod| run_by(pod)).collect::<BTreeSet<_>>(), BTreeSet::from([1, 2]));
}

proptest! {
    /// Worlds that change at will: Revisions of two Apps come and go, good, unreadable, or with the other App's key.
    #[test]
    fn whatever_comes_and_goes_nothing_refused_runs_and_nothing_goes_back(
        worlds in prop::collection::vec(
            prop::collection::btree_map((0..2_usize, 1..6_i64), 0..4_usize, 0..6), 1..8)
    ) {
        let scopes = ["a", "b"];
        let mut before = InForce::new();
        for world in worlds {
            // A Revision never changes: what it is follows from its place.
            let made = |scope: usize, sequence: i64, kind: usize| match (kind + scope) % 4 {
                0 => object(scopes[scope], sequence, "{}"),
                1 => revision(scopes[scope], sequence, "f"),
                _ => revision(scopes[scope], sequence, ["a", "b"][scope]),
            };
            let objects: Vec<Value> =
                world.iter().map(|((scope, sequence), kind)| made(*scope, *sequence, *kind)).collect();
            let offers = offers(&objects);
            let choice = choose(POD, &offers, &secrets(&scopes), &before, &mut |_| ());
            for scope in scopes {
                let state = choice.scopes.get(scope);
                prop_assert_eq!(state.is_some(), offers.values().any(|offer| offer.scope == scope));
                let Some(running) = state.and_then(|state| state.running.as_ref()) else { continue };
                let offer = offers.get(&labels::revision(scope, running.sequence));
                let is_offered = offer.is_some_and(|offer| offer.hash == running.hash && offer.body.is_ok());
                let ran = before.get(scope).is_some_and(|before| before.hash == running.hash);
                prop_assert!(is_offered || ran);
                if let Some(before) = before.get(scope) {
                    let is_still_there = offers.values().any(|offer| before.is(offer));
                    prop_assert!(!is_still_there || running.sequence >= before.sequence);
                }
            }
            // Where something ran and anything is left of it, something runs.
            for scope in before.keys().filter(|scope| choice.scopes.contains_key(*scope)) {
                prop_assert!(choice.in_force.contains_key(scope));
            }
            before = choice.in_force;
        }
    }
}
