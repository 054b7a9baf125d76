//! A lease entered by SSH.

use std::time::Duration;

use nicompute_client::{ExecEvent, LeaseKey, LeaseSession, SshAccess, SshError};
use nicompute_wire::node::SshAccessView;

use crate::ssh_server::SshServer;

const BUDGET: Duration = Duration::from_secs(20);

fn access(server: &SshServer, host_key: &str) -> SshAccess {
    SshAccess::check(&SshAccessView {
        host: server.address.ip().to_string(),
        port: server.address.port(),
        user: "lease".to_owned(),
        host_key: host_key.to_owned(),
    })
    .unwrap()
}

/// Prover and proof travel over exactly this: a file, a command, both directions, an exit status.
#[tokio::test]
async fn upload_and_exec() {
    let key = LeaseKey::generate().unwrap();
    let server = SshServer::start(&key).await;
    let session =
        LeaseSession::connect(&access(&server, &server.host_key), &key, BUDGET).await.unwrap();
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    session.upload("/run/nicompute/prover", &bytes, 0o755, BUDGET).await.unwrap();
    {
        let files = server.files.lock().unwrap();
        let (stored, mode) = &files["/run/nicompute/prover"];
        assert!(*stored == bytes, "the file arrived as it was sent");
        assert_eq!(mode.unwrap() & 0o777, 0o755);
    }
    let refused = session.upload("/readonly/prover", &bytes, 0o755, BUDGET).await.unwrap_err();
    assert!(matches!(refused, SshError::Sftp { .. }), "{refused:?}");

    let mut echo = session.exec("echo", BUDGET).await.unwrap();
    echo.write(b"frame").await.unwrap();
    assert_eq!(echo.next().await, Some(ExecEvent::Stdout(b"frame".to_vec())));
    drop(echo);

    let ran = session.run("fail", BUDGET).await.unwrap();
    assert_eq!((ran.status, ran.stderr.as_slice()), (Some(7), b"no".as_slice()));
    assert!(matches!(session.exec("refuse", BUDGET).await, Err(SshError::NotStarted(_))));
    assert!(matches!(session.run("flood", BUDGET).await, Err(SshError::TooLong { .. })));
    session.close().await.unwrap();
}

/// Whoever took over the port must not get the prover, nor a renter's work.
#[tokio::test]
async fn another_host_key_is_refused() {
    let key = LeaseKey::generate().unwrap();
    let server = SshServer::start(&key).await;
    let other = LeaseKey::generate().unwrap().public_openssh().unwrap();
    let error = LeaseSession::connect(&access(&server, &other), &key, BUDGET).await.unwrap_err();
    assert!(matches!(error, SshError::HostKey), "{error:?}");
}

/// A key of another lease must not enter, and the error must say so.
#[tokio::test]
async fn another_key_is_denied() {
    let key = LeaseKey::generate().unwrap();
    let server = SshServer::start(&key).await;
    let other = LeaseKey::generate().unwrap();
    let access = access(&server, &server.host_key);
    let error = LeaseSession::connect(&access, &other, BUDGET).await.unwrap_err();
    assert!(matches!(error, SshError::Denied), "{error:?}");
}
