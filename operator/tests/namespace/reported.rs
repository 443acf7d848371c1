//! Integrations: what people read about them.

use std::time::Duration;

use millrace_operator::context::Next;
use millrace_operator::kind::Kind;
use serde_json::{Value, json};

use crate::world::World;

fn webhook(more: Value) -> Value {
    let mut spec = json!({
        "webhook": {"url": "https://hooks.example/x", "signingSecretRef": {"name": "hook", "key": "signing"}},
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"spec": spec})
}

#[tokio::test]
async fn an_integration_waits_for_its_secret_and_never_claims_to_deliver() {
    let world = World::new();
    world.put(Kind::Integration, "hook", &webhook(json!({})));
    world.settle().await;
    let (status, reason, message) = world.condition(Kind::Integration, "hook", "Accepted");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "SecretUnusable"));
    assert_eq!(
        message,
        "spec.webhook.signingSecretRef: there is no Secret `hook` in this namespace; add it, with the label \
         millrace.dev/app-use: \"true\""
    );
    assert_eq!(world.reconcile().await, Next::After(Duration::from_secs(60)));

    let value = format!("whsec_{}", "QUFB".repeat(8));
    world.secret("hook", &[("signing", &value)], &json!({"millrace.dev/app-use": "true"}));
    world.settle().await;
    assert_eq!(world.condition(Kind::Integration, "hook", "Accepted").0, "True");
    let (status, reason, message) = world.condition(Kind::Integration, "hook", "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NotSupported"));
    assert!(message.ends_with("makes no deliveries yet"), "{message}");
    let told: Vec<String> = world.cluster.told().into_iter().map(|(_, told)| told.note).collect();
    assert_eq!(told.len(), 2, "one warning, one all-clear: {told:?}");
}

#[tokio::test]
async fn problems_of_an_integration_are_listed_with_field_and_fix() {
    let world = World::new();
    world.put(Kind::Integration, "odd", &webhook(json!({"retry": {"maxAttempts": 1, "expireAfter": "1s"}})));
    world.put(Kind::Integration, "odder", &json!({"spec": {"webhook": {"url": 7}}}));
    world.settle().await;
    let (_, reason, message) = world.condition(Kind::Integration, "odd", "Accepted");
    assert_eq!(reason, "Invalid");
    assert!(message.contains("spec.retry.expireAfter: `1s` is not between"), "{message}");
    assert!(message.contains("there is no Secret `hook`"), "{message}");
    let (_, _, message) = world.condition(Kind::Integration, "odder", "Accepted");
    assert!(message.contains("spec.webhook.url"), "{message}");
}
