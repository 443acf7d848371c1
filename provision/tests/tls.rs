//! Certificates are verified: a ClickHouse that nobody vouches for hears nothing from us, credentials least of all.

use std::sync::Arc;

use clickhouse::Client;
use millrace_provision::clickhouse::{ProvisionError, check_version};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[tokio::test]
async fn a_server_that_nobody_vouches_for_gets_no_password() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![cert.der().clone()], key.into()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config)).accept(stream).await.map(drop)
    });

    let client = Client::default()
        .with_url(format!("https://localhost:{port}"))
        .with_user("operator")
        .with_password("s3cret");
    let error = check_version(&client).await.unwrap_err();
    let ProvisionError::Observe { source, .. } = &error else { panic!("{error}") };
    let said = format!("{source:?}");
    assert!(said.contains("UnknownIssuer") || said.contains("certificate"), "{said}");
    assert!(server.await.unwrap().is_err(), "the handshake was completed");
}
