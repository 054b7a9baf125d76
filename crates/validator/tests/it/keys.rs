//! API keys.

use nicompute_wire::codes::Code;

use crate::door::{Conduct, ProverDoor};
use crate::world;

/// Whoever reads the store, or keeps a key that was taken back, must not get in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_opens_until_it_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let world = world::start(dir.path(), &[], ProverDoor::new(Conduct::Honest)).await;
    let (me, key) = world.principal("me").await;
    let (other, _) = world.principal("other").await;
    assert_ne!(me, other);
    let key = key.expose();
    let last = key.chars().last().unwrap();
    let wrong = format!("{}{}", &key[..key.len() - 1], if last == '0' { '1' } else { '0' });
    for bad in ["", "nic_", wrong.as_str()] {
        assert_eq!(world.handle.principal_of(bad).await.unwrap(), None, "{bad}");
    }
    let secret = key.rsplit('_').next().unwrap();
    let stored = std::fs::read(dir.path().join("validator.sqlite3")).unwrap();
    let log = std::fs::read(dir.path().join("validator.sqlite3-wal")).unwrap_or_default();
    for bytes in [stored, log] {
        let is_there = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!is_there, "the secret is in the store");
    }
    assert!(world.handle.revoke_api_key(me.id()).await.unwrap());
    assert!(!world.handle.revoke_api_key(me.id()).await.unwrap());
    assert_eq!(world.handle.principal_of(key).await.unwrap(), None);
    assert_eq!(world.handle.api_keys().await.unwrap().len(), 2);
    world.stop().await;
}

/// A key's name is shown to operators.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_plain() {
    let dir = tempfile::tempdir().unwrap();
    let world = world::start(dir.path(), &[], ProverDoor::new(Conduct::Honest)).await;
    for bad in ["", "  ", "a\nb", &"n".repeat(101)] {
        assert_eq!(world.handle.create_api_key(bad).await.unwrap_err().code, Code::BadRequest);
    }
    drop(world.handle.create_api_key(&"n".repeat(100)).await.unwrap());
    world.stop().await;
}
