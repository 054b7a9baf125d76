//! A provider's node in a process of its own, and a holder that rents from it and enters by OpenSSH's client.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nicompute_client::{HeldLease, Node, NodeClient, NodeDialer};
use nicompute_daemon::SystemClock;
use nicompute_market::{LeaseId, LeaseState};
use nicompute_wire::node::LeaseRequest;
use serde_json::json;

use crate::figures::timed;
use crate::ssh::Door;
use crate::world::{Daemon, World, program, wait_for};

const BUDGET: Duration = Duration::from_secs(60);
/// The offer of a node whose provider names none.
const MACHINE: &str = "machine";
/// What a node logs when it begins its work.
const READY: &str = "nicompute::daemons: ready";

/// How tenants are run.
pub(crate) enum Kind<'k> {
    Docker { image: &'k str },
    Sandbox { rootfs: &'k Path },
}

/// A node, and the one who rents from it.
pub(crate) struct Provider {
    daemon: Daemon,
    node: NodeClient,
    /// Who the node is, asked once: a holder knows that before it rents.
    known: Node,
    runtime: tokio::runtime::Runtime,
    key: PathBuf,
    public: String,
    folder: tempfile::TempDir,
}

/// A running lease, given back when it is dropped.
pub(crate) struct Leased<'p> {
    provider: &'p Provider,
    id: LeaseId,
    door: Door,
}

// === impl Kind ===

impl Kind<'_> {
    fn options(&self) -> Vec<String> {
        let options = match self {
            Self::Docker { image } => ["--runtime", "docker", "--image", image].map(str::to_owned),
            Self::Sandbox { rootfs } => {
                ["--runtime", "sandbox", "--rootfs", &rootfs.display().to_string()]
                    .map(str::to_owned)
            }
        };
        options.into()
    }
}

// === impl Provider ===

impl Provider {
    pub(crate) fn start(world: &World, kind: &Kind<'_>) -> Self {
        Self::start_with(world, kind, &[])
    }

    pub(crate) fn start_with(world: &World, kind: &Kind<'_>, more: &[&str]) -> Self {
        let options = kind.options();
        let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
        words.extend(more);
        let mut daemon = world.start_provider(&words);
        let ready = daemon.ready();
        let address: SocketAddr = ready["axon"].as_str().unwrap().parse().unwrap();
        let dialer = NodeDialer::new(world.validator.clone(), SystemClock::shared()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("id");
        let mut keygen = program("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f"]).arg(&key);
        assert!(keygen.status().unwrap().success());
        let public = fs::read_to_string(key.with_extension("pub")).unwrap().trim().to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let node = dialer.node(address, world.miner.hotkey());
        let known = runtime.block_on(node.node(BUDGET)).unwrap();
        Self { daemon, node, known, runtime, key, public, folder }
    }

    /// From the request to the first output of a command, in seconds. The lease is given back afterwards, and its end is
    /// waited for, so that rounds do not meet.
    pub(crate) fn to_first_output(&self) -> f64 {
        let (took, lease) = timed(|| {
            let lease = self.lease();
            lease.door.first_output();
            lease
        });
        drop(lease);
        took
    }

    /// How long the leases so far took from their preparation to a container whose agent has reported, by the node's log,
    /// in seconds: the median.
    pub(crate) fn bring_up(&self) -> Option<f64> {
        let log = self.daemon.log();
        // The log goes on where the provider before this one ended.
        let log = log.rsplit_once(READY).map_or(&*log, |(_, own)| own);
        let (mut began, mut took) = (BTreeMap::new(), Vec::new());
        for line in log.lines() {
            let (Some(at), Some(lease)) = (second_of_day(line), word(line, "lease=")) else {
                continue;
            };
            match word(line, "state=") {
                Some("preparing") => drop(began.insert(lease, at)),
                Some("running") => took.extend(began.remove(lease).map(|before| at - before)),
                _ => {}
            }
        }
        took.sort_by(f64::total_cmp);
        took.get(took.len() / 2).copied()
    }

    /// A lease that runs, of the node's only offer.
    pub(crate) fn lease(&self) -> Leased<'_> {
        self.lease_of(MACHINE)
    }

    /// A lease of one offer.
    pub(crate) fn lease_of(&self, offer: &str) -> Leased<'_> {
        let id = LeaseId::from_random_bytes(uuid::Uuid::new_v4().into_bytes());
        // From its JSON: what a request leaves out has the node's defaults.
        let request: LeaseRequest = serde_json::from_value(json!({
            "id": id, "offer": offer, "purpose": "rental", "ssh_keys": [self.public],
            "duration_seconds": 3600,
        }))
        .unwrap();
        let held = self.runtime.block_on(async {
            let held = self.node.create_lease(&request, BUDGET).await.unwrap();
            if held.state == LeaseState::Running {
                held
            } else {
                self.node.settled(id, BUDGET).await.unwrap()
            }
        });
        assert_eq!(held.state, LeaseState::Running, "{offer}: {}", self.daemon.log());
        Leased { provider: self, id, door: self.door(&held) }
    }

    fn door(&self, held: &HeldLease) -> Door {
        let access = self.known.access(held).unwrap().expect("a running lease is entered");
        let known_hosts = self.folder.path().join("known_hosts");
        fs::write(&known_hosts, access.known_hosts_line()).unwrap();
        Door {
            host: access.host().to_owned(),
            port: access.port(),
            user: access.user().to_owned(),
            key: self.key.clone(),
            known_hosts: Some(known_hosts),
        }
    }

    /// What the node's own process holds in memory, in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        f64::from(u32::try_from(self.daemon.resident_kib()).unwrap()) / 1024.0
    }
}

/// The time at which a log line begins.
fn second_of_day(line: &str) -> Option<f64> {
    let time = line.split('T').nth(1)?.split('Z').next()?;
    time.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
}

/// What stands behind a word in a line.
fn word<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    line.split(' ').find_map(|part| part.strip_prefix(name))
}

// === impl Leased ===

impl Leased<'_> {
    pub(crate) const fn door(&self) -> &Door {
        &self.door
    }
}

impl Drop for Leased<'_> {
    fn drop(&mut self) {
        let Provider { runtime, node, .. } = self.provider;
        drop(runtime.block_on(node.release(self.id, BUDGET)));
        wait_for("the end of a lease", || {
            runtime.block_on(node.lease(self.id, BUDGET)).ok().filter(|held| held.state.is_final())
        });
    }
}
