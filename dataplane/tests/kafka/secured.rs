//! A broker that asks for TLS and an account: what does not fit is refused, with the reason.

use std::fs::read_to_string;
use std::sync::Arc;
use std::time::Duration;

use millrace_dataplane::log::kafka::{KafkaLog, Options};
use millrace_dataplane::log::trouble::Trouble;
use millrace_dataplane::log::{Log, LogError};
use millrace_dataplane::metrics::Metrics;
use millrace_dataplane::telemetry;
use millrace_provision::kafka::{Ca, Mechanism, Password, Sasl, Settings};

use crate::bench::events;
use crate::broker::Broker;

/// How the account of the broker gets in.
fn settings(broker: &Broker, mechanism: Mechanism) -> Settings {
    let password = read_to_string(broker.file("password")).unwrap().trim().to_owned();
    Settings {
        tls: Some(Ca::File(broker.file("ca.crt"))),
        sasl: Some(Sasl { mechanism, username: "millrace".to_owned(), password: Password::new(password) }),
        ..Settings::plain(&broker.address)
    }
}

#[tokio::test]
async fn whom_the_broker_or_we_do_not_trust_is_refused_with_the_reason() {
    let broker = Broker::start_secured();
    let good = settings(&broker, Mechanism::ScramSha512);
    let wrong = |mechanism| {
        let password = Password::new("wrong".to_owned());
        let sasl = Sasl { mechanism, username: "millrace".to_owned(), password };
        Settings { sasl: Some(sasl), ..good.clone() }
    };
    let port = broker.address.rsplit(':').next().unwrap();
    for (settings, reason) in [
        (wrong(Mechanism::ScramSha512), "authentication"),
        (wrong(Mechanism::Plain), "authentication"),
        (Settings { tls: Some(Ca::System), ..good.clone() }, "certificate verify failed"),
        // The certificate names the address and no host.
        (Settings { brokers: format!("localhost:{port}"), ..good.clone() }, "certificate verify failed"),
    ] {
        let metrics = Arc::new(Metrics::new().unwrap());
        let log = KafkaLog::open(&settings, Options::default(), metrics).unwrap();
        let asked = tokio::time::timeout(Duration::from_secs(30), log.topic(events()));
        let error = asked.await.expect("an answer in bounded time").unwrap_err();
        assert!(matches!(error, LogError::Refused { .. }), "{error:?}");
        assert_eq!(Trouble::of(&error), Some(Trouble::Refused));
        let text = telemetry::chain(&error);
        assert!(text.to_lowercase().contains(reason), "{text}");
        assert!(text.contains("check credentials, certificates and ACLs"), "{text}");
        assert!(!text.contains("wrong"), "no password in {text}");
    }
}
