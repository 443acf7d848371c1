//! The contract between standalone and cluster: the same resources come to the same configuration on both ways.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use millrace_crds::compile::{canonical, revision_hash};
use millrace_crds::labels;
use millrace_crds::resolved::Role;
use millrace_dataplane::cluster::choose::{Choice, InForce, Offers, choose};
use millrace_dataplane::cluster::offer::{Place, read};
use millrace_dataplane::cluster::secrets::Secrets;
use millrace_dataplane::config::Config;
use millrace_dataplane::standalone::build::Built;
use serde_json::Value;

use crate::pod::{Operator, example, revision};

/// As standalone brings it into force.
fn standalone(built: &Built, operator: &mut Operator) -> Config {
    let apps = built.apps.iter().map(|app| (app.clone(), operator.ring.privacy_keys(&app.app).unwrap()));
    Config::build(apps.collect(), built.access.clone(), operator.ring.pepper()).unwrap()
}

/// As a pod of the namespace brings it into force.
fn cluster(built: &Built, operator: &mut Operator, namespace: &str) -> Choice {
    let mut objects: Vec<Value> = Vec::new();
    for app in built.apps.iter().filter(|app| app.app.namespace() == namespace) {
        let hash = Some(app.storage.schema_hash.clone());
        objects.push(revision(app.app.name(), 1, canonical(app), hash));
    }
    for access in built.access.iter().filter(|access| access.namespace == namespace) {
        objects.push(revision(labels::SCOPE_ACCESS, 1, canonical(access), None));
    }
    let place = Place { namespace: namespace.to_owned(), data_plane: labels::SHARED.to_owned() };
    let offers: Offers = objects
        .into_iter()
        .map(|object| read(&serde_json::from_value(object).unwrap(), &place).unwrap().unwrap())
        .map(|offer| (offer.name.clone(), Arc::new(offer)))
        .collect();
    let resolved = operator.resolved(built, "");
    let secrets = Secrets::parse(resolved.to_string().as_bytes(), Role::Ingest).unwrap();
    choose("pod", &offers, &secrets, &InForce::new(), &mut |_| ())
}

#[test]
fn every_example_comes_to_the_same_configuration_in_standalone_and_in_a_cluster() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
    let mut count = 0;
    for folder in std::fs::read_dir(examples).unwrap() {
        let folder = folder.unwrap().path();
        let mut operator = Operator::new();
        let built = operator.build(&example(&folder));
        let alone = standalone(&built, &mut operator);
        let namespaces: BTreeSet<&str> = alone.access_rules().keys().map(String::as_str).collect();
        for namespace in namespaces {
            let chosen = cluster(&built, &mut operator, namespace);
            let refused = chosen.scopes.values().filter_map(|state| state.refused.as_ref());
            assert_eq!(refused.collect::<Vec<_>>(), [] as [&_; 0], "{folder:?}");
            assert_eq!(chosen.config.access(namespace), alone.access(namespace));
            let expected = alone.apps().iter().filter(|(id, _)| id.namespace() == namespace);
            let expected: Vec<_> = expected.collect();
            assert_eq!(chosen.config.apps().len(), expected.len());
            for (id, app) in expected {
                let found = chosen.config.app(id).unwrap();
                assert_eq!(found.config, app.config, "{id}");
                assert_eq!(found.privacy_keys.hash.expose(), app.privacy_keys.hash.expose());
                assert_eq!(found.privacy_keys.encrypt.expose(), app.privacy_keys.encrypt.expose());
                let running = chosen.scopes[id.name()].running.as_ref().unwrap();
                assert_eq!(running.hash, revision_hash(&app.config));
                let key = operator.ring.write_key(id).unwrap();
                let opens = |config: &Config| {
                    config.write_key(key.expose().as_bytes()).map(|key| key.app.config.app.clone())
                };
                assert_eq!(opens(&chosen.config), opens(&alone));
                count += 1;
            }
        }
    }
    assert!(count >= 2, "{count} Apps");
}
