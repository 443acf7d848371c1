//! A broker that asks for TLS and an account: what does not fit is refused, with the reason.

use std::fs::read_to_string;
use std::sync::Arc;
use std::time::Duration;

use millrace_dataplane::log::kafka::{KafkaLog, Options};
use millrace_dataplane::log::trouble::Trouble;
use millrace_dataplane::log::watched::{Troubles, Watched};
use millrace_dataplane::log::{Committed, Log, LogError, Transaction};
use millrace_dataplane::metrics::Metrics;
use millrace_dataplane::telemetry;
use millrace_provision::kafka::{Ca, Mechanism, Password, Sasl, Settings};

use crate::bench::{Bench, at, events, own, position, record, take};
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
        let troubles = Arc::new(Troubles::new(Arc::clone(&metrics)));
        let log = KafkaLog::open(&settings, Options::default(), metrics).unwrap();
        let log = Watched::new(log, Arc::clone(&troubles));
        let asked = tokio::time::timeout(Duration::from_secs(30), log.topic(events()));
        let error = asked.await.expect("an answer in bounded time").unwrap_err();
        let ready = troubles.text().expect("who asks for readiness is told");
        assert!(ready.contains(Trouble::Refused.fix()) && ready.to_lowercase().contains(reason), "{ready}");
        assert!(matches!(error, LogError::Refused { .. }), "{error:?}");
        assert_eq!(Trouble::of(&error), Some(Trouble::Refused));
        let text = telemetry::chain(&error);
        assert!(text.to_lowercase().contains(reason), "{text}");
        assert!(text.contains("check credentials, certificates and ACLs"), "{text}");
        assert!(!text.contains("wrong"), "no password in {text}");
    }
}

#[tokio::test]
async fn with_the_right_account_appends_groups_and_transactions_work() {
    let broker = Broker::start_secured();
    let bench = Bench::with(settings(&broker, Mechanism::ScramSha512)).await;
    assert_eq!(bench.append(0, "raw").await, 0);

    let group = own("process");
    let (mut consumer, _) = bench.join(&group).await;
    assert_eq!(take(&mut consumer, 10).await, (0, vec!["raw".to_owned()]));
    consumer.commit(vec![position(0, 1, "by the member")]).await.unwrap();
    let kept = async || bench.log().committed(&group, &[at(0)]).await.unwrap().pop().unwrap();
    assert_eq!(kept().await, Some(Committed { offset: 1, metadata: "by the member".to_owned() }));

    // As process does: records and the position of its group in one.
    assert_eq!(bench.append(0, "more").await, 1);
    assert_eq!(take(&mut consumer, 10).await, (0, vec!["more".to_owned()]));
    let mut transactor = bench.log().transactor(&own("process.worker-0")).await.unwrap();
    let transaction = Transaction {
        records: vec![record(1, "processed")],
        positions: vec![position(0, 2, "in a transaction")],
        group: consumer.group(),
    };
    transactor.commit(transaction).await.unwrap();
    assert_eq!(bench.values(1).await, ["processed"]);
    assert_eq!(kept().await, Some(Committed { offset: 2, metadata: "in a transaction".to_owned() }));
}

#[tokio::test]
async fn every_way_into_the_log_says_that_the_account_is_refused() {
    let broker = Broker::start_secured();
    let good = settings(&broker, Mechanism::ScramSha512);
    // The topic is there, so that nothing else is wrong.
    let _bench = Bench::with(good.clone()).await;
    let sasl = good.sasl.clone().map(|sasl| Sasl { password: Password::new("wrong".to_owned()), ..sasl });
    let metrics = Arc::new(Metrics::new().unwrap());
    let log = KafkaLog::open(&Settings { sasl, ..good }, Options::default(), metrics).unwrap();
    let (group, id) = (own("g"), own("worker-0"));
    let (topics, of) = ([Arc::from(events())], [at(0)]);
    let (appended, joined, committed, opened, read) = tokio::join!(
        log.append(vec![record(0, "no")]),
        log.subscribe(&group, &topics),
        log.committed(&group, &of),
        log.transactor(&id),
        log.watermarks(&of[0]),
    );
    let errors = [
        ("append", appended.err()),
        ("subscribe", joined.err()),
        ("committed", committed.err()),
        ("transactor", opened.err()),
        ("watermarks", read.err()),
    ];
    for (call, error) in errors {
        let error = error.unwrap_or_else(|| panic!("{call} was let in"));
        assert_eq!(Trouble::of(&error), Some(Trouble::Refused), "{call}: {error:?}");
        assert!(error.is_retryable(), "{call}: the account may be mended");
    }
}
