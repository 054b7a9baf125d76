//! Every kind of key, made and used by OpenSSH's own programs, and what is refused in its place.

use std::borrow::Cow;
use std::sync::Arc;

use nicompute_host::gateway::{Limits, Route, RouteError};
use nicompute_market::ssh_key::SshKeyError;
use russh::client::{self, AuthResult};
use russh::keys::agent::AgentIdentity;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_key::public::{KeyData, SkEcdsaSha2NistP256, SkEd25519};
use russh::keys::ssh_key::sha2::{Digest as _, Sha256};
use russh::keys::{HashAlg, PrivateKey, PublicKey, PublicKeyOrCertificate};
use russh::{Preferred, kex};
use tokio::process::Command;

use crate::gateway_world::{World, eventually, key_pair, run, stderr, stdout, write_private};

/// Makes a key pair with ssh-keygen; the private key's file has the name, the public one's text is given.
async fn keygen(world: &World, name: &str, args: &[&str]) -> String {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-N", "", "-C", "me@home", "-f", &world.path(name)]).args(args);
    let output = keygen.output().await.expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(world.path(&format!("{name}.pub"))).expect("reads")
}

fn route_with(world: &World, keys: Vec<String>) -> Route {
    Route { keys, ..world.route.clone() }
}

/// A renter whose key is of another kind than ours would have rented a machine that he cannot enter.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_opens_its_lease() {
    let Some(world) = World::new().await else { return };
    let kinds: [(&str, &[&str]); 6] = [
        ("ed25519", &["-t", "ed25519"]),
        ("ecdsa256", &["-t", "ecdsa", "-b", "256"]),
        ("ecdsa384", &["-t", "ecdsa", "-b", "384"]),
        ("ecdsa521", &["-t", "ecdsa", "-b", "521"]),
        ("rsa2048", &["-t", "rsa", "-b", "2048"]),
        ("rsa3072", &["-t", "rsa", "-b", "3072"]),
    ];
    let mut keys = Vec::new();
    for (name, args) in kinds {
        let public = keygen(&world, name, args).await;
        keys.push(format!("{}\r\n", public.trim_end()));
    }
    world.gateway.open(&route_with(&world, keys)).expect("all of them are taken");
    for (name, _) in kinds {
        let output = run(world.ssh_as(&world.user(), name)).await;
        assert!(output.status.success(), "{name}: {}", stderr(&output));
    }
    for algorithm in ["rsa-sha2-256", "rsa-sha2-512"] {
        let mut ssh = world.ssh();
        ssh.args(["-i", &world.path("rsa2048"), "-o", "IdentitiesOnly=yes"]);
        ssh.args(["-o", &format!("PubkeyAcceptedAlgorithms={algorithm}")]);
        ssh.arg(world.target()).arg("echo in");
        assert_eq!(stdout(&run(ssh).await), "in\n", "{algorithm}");
    }
    let mut sha1 = world.ssh();
    sha1.args(["-i", &world.path("rsa2048"), "-o", "PubkeyAcceptedAlgorithms=ssh-rsa"]);
    sha1.arg(world.target()).arg("true");
    assert_eq!(run(sha1).await.status.code(), Some(255), "SHA-1 is forgeable");
}

/// A weak key, a certificate or an option that is silently dropped opens more than its owner knows.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_plain_strong_key_is_refused_with_its_reason() {
    let world = World::without_agent(Limits::standard()).await;
    let weak = keygen(&world, "weak", &["-t", "rsa", "-b", "1024"]).await;
    let good = world.route.keys[0].clone();
    keygen(&world, "authority", &["-t", "ed25519"]).await;
    let mut sign = Command::new("ssh-keygen");
    std::fs::write(world.path("id.pub"), &good).expect("writes");
    sign.args(["-q", "-s", &world.path("authority"), "-I", "me", "-n", "root"]);
    assert!(sign.arg(world.path("id.pub")).status().await.expect("runs").success());
    let certificate = std::fs::read_to_string(world.path("id-cert.pub")).expect("reads");
    let cases = [
        (weak, SshKeyError::RsaBits(1024)),
        (certificate.clone(), SshKeyError::Certificate),
        (format!("no-pty,command=\"id\" {good}"), SshKeyError::Options),
        (format!("{good}\n{good}"), SshKeyError::NotOneLine),
        ("ssh-dss AAAAB3NzaC1kc3MAAACBAP".to_owned(), SshKeyError::Dsa),
        (format!("{good} {}", "$(touch /tmp/x)'\"`".repeat(1000)), SshKeyError::TooLong),
    ];
    for (key, expected) in cases {
        let refused = world.gateway.open(&route_with(&world, vec![good.clone(), key]));
        match refused {
            Err(RouteError::Key { index: 1, source }) => assert_eq!(source, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    // The right form with a point that is on no curve.
    let bent = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let refused = world.gateway.open(&route_with(&world, vec![bent.to_owned()]));
    assert!(refused.is_err() || run(world.ssh_to("true")).await.status.code() == Some(255));
    world.gateway.open(&world.route).expect("opens");
    // A client that has a certificate for a key of its own, which no lease lists.
    let (private, public) = key_pair();
    write_private(world.path("other").as_ref(), &private);
    std::fs::write(world.path("other.pub"), public).expect("writes");
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-q", "-s", &world.path("authority"), "-I", "me", "-n", "root"]);
    assert!(sign.arg(world.path("other.pub")).status().await.expect("runs").success());
    let output = run(world.ssh_as(&world.user(), "other")).await;
    assert!(stderr(&output).contains("Permission denied (publickey)"), "{}", stderr(&output));
}

/// Taking one key away must not hurt whoever came in by another.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_ends_the_sessions_of_removed_keys_alone() {
    let Some(world) = World::new().await else { return };
    let (private, public) = key_pair();
    write_private(world.path("second").as_ref(), &private);
    let first = world.route.keys[0].clone();
    world.gateway.open(&route_with(&world, vec![first.clone(), public])).expect("opens");
    let (began, go_on) = (world.path("began"), world.path("go-on"));
    let wait = format!("touch {began}; while ! [ -e {go_on} ]; do sleep 0.05; done; echo whole");
    let stays = world.ssh_to(wait).spawn().expect("starts");
    let went = world.path("went");
    let mut goes = run_key(&world, "second", &format!("touch {went}; sleep 1000"));
    eventually("both are in", || {
        [&began, &went].iter().all(|path| std::path::Path::new(path).exists())
    })
    .await;
    world.gateway.open(&route_with(&world, vec![first])).expect("opens");
    let ended = tokio::time::timeout(crate::gateway_world::PATIENCE, goes.wait()).await;
    assert_eq!(ended.expect("in time").expect("ends").code(), Some(255));
    std::fs::write(&go_on, "").expect("writes");
    let output = stays.wait_with_output().await.expect("ends");
    assert_eq!(stdout(&output), "whole\n");
}

fn run_key(world: &World, key: &str, command: &str) -> tokio::process::Child {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
    ssh.args(["-o", "IdentityAgent=none", "-i", &world.path(key)]);
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", world.path("known_hosts")));
    ssh.args(["-p", &world.gateway.local_addr().port().to_string()]);
    ssh.arg(world.target()).arg(command).kill_on_drop(true);
    ssh.stdin(std::process::Stdio::null()).spawn().expect("starts")
}

/// A security token: signs what a real one would, over the application, a flag of presence and a counter.
struct Token {
    inner: PrivateKey,
    kind: &'static str,
}

const APPLICATION: &str = "ssh:";

impl russh::Signer for Token {
    type Error = russh::SendError;

    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        _: Option<HashAlg>,
        mut to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        let trailer = [1, 0, 0, 0, 7];
        let mut signed = Sha256::digest(APPLICATION).to_vec();
        signed.extend_from_slice(&trailer);
        signed.extend_from_slice(&Sha256::digest(&to_sign));
        let signature = self.inner.try_sign(&signed).expect("signs");
        let mut blob = Vec::new();
        for part in [self.kind.as_bytes(), signature.as_bytes()] {
            blob.extend_from_slice(&u32::try_from(part.len()).expect("fits").to_be_bytes());
            blob.extend_from_slice(part);
        }
        blob.extend_from_slice(&trailer);
        to_sign.extend_from_slice(&u32::try_from(blob.len()).expect("fits").to_be_bytes());
        to_sign.extend_from_slice(&blob);
        Ok(to_sign)
    }
}

struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// A client that insists on one cipher must find it, and one that fears quantum computers its key exchange.
#[tokio::test(flavor = "multi_thread")]
async fn ciphers_and_key_exchanges_that_clients_insist_on() {
    let Some(world) = World::new().await else { return };
    for cipher in [
        "chacha20-poly1305@openssh.com",
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "aes128-ctr",
        "aes256-ctr",
    ] {
        let mut ssh = world.ssh();
        ssh.args(["-c", cipher]).arg(world.target()).arg("head -c 300000 /dev/zero | cksum");
        assert_eq!(stdout(&run(ssh).await), "2913298395 300000\n", "{cipher}");
    }
    for weak in ["aes128-cbc", "3des-cbc"] {
        let mut ssh = world.ssh();
        ssh.args(["-c", weak]).arg(world.target()).arg("true");
        let output = run(ssh).await;
        assert!(stderr(&output).contains("no matching cipher"), "{}", stderr(&output));
    }
    for exchange in [kex::MLKEM768X25519_SHA256, kex::CURVE25519] {
        let preferred = Preferred { kex: Cow::Owned(vec![exchange]), ..Preferred::default() };
        let config = Arc::new(client::Config { preferred, ..client::Config::default() });
        let mut client = client::connect(config, world.gateway.local_addr(), Trusting)
            .await
            .unwrap_or_else(|error| panic!("{exchange:?}: {error}"));
        assert!(!client.authenticate_none("root").await.expect("answers").success());
    }
}

/// Keys in security tokens are what careful renters have; a token's signature must open the lease, another's must not.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_security_tokens_open_their_lease() {
    let world = World::without_agent(Limits::standard()).await;
    for (name, args, kind) in [
        ("token1", ["-t", "ed25519"], "sk-ssh-ed25519@openssh.com"),
        ("token2", ["-t", "ecdsa"], "sk-ecdsa-sha2-nistp256@openssh.com"),
    ] {
        keygen(&world, name, &args).await;
        let inner = std::fs::read_to_string(world.path(name)).expect("reads");
        let inner = PrivateKey::from_openssh(inner).expect("parses");
        let data = match inner.public_key().key_data() {
            KeyData::Ed25519(key) => KeyData::SkEd25519(SkEd25519::new(*key, APPLICATION)),
            KeyData::Ecdsa(russh::keys::ssh_key::public::EcdsaPublicKey::NistP256(point)) => {
                KeyData::SkEcdsaSha2NistP256(SkEcdsaSha2NistP256::new(*point, APPLICATION))
            }
            other => panic!("{other:?}"),
        };
        let public = PublicKey::from(data);
        let text = public.to_openssh().expect("encodes");
        assert!(text.starts_with(kind), "{text}");
        world.gateway.open(&route_with(&world, vec![text])).expect("it is taken");
        let (stranger, _) = key_pair();
        let stranger = PrivateKey::from_openssh(stranger).expect("parses");
        let log_in = async |inner: PrivateKey| {
            let config = Arc::new(client::Config::default());
            let connected = client::connect(config, world.gateway.local_addr(), Trusting).await;
            let mut client = connected.expect("connects");
            let mut token = Token { inner, kind };
            let signed =
                client.authenticate_publickey_with("root", public.clone(), None, &mut token);
            matches!(signed.await, Ok(AuthResult::Success))
        };
        assert!(log_in(inner).await, "{kind}");
        if kind.starts_with("sk-ssh") {
            assert!(!log_in(stranger).await, "another token's signature");
        }
    }
}
