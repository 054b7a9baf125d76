//! One node with much to do: a hundred leases at once, and a thousand that nobody knows any more.

use std::fs;
use std::path::{Path, PathBuf};

use nicompute_market::LeaseId;
use serde_json::json;

use crate::figures::{Figures, Target, line, timed, title};
use crate::provider::{Kind, Provider};
use crate::world::{World, wait_for};

const LEASES: u32 = 100;
/// A hundredth of a small machine.
const SMALL: &str = "[[offer]]\nid = \"small\"\ncores_milli = 20\nmemory = \"64MiB\"\ndisk = \"64MiB\"\n\
     price_micro_usd_per_hour = 1\n";
const ORPHANS: u32 = 1_000;
/// What a lease's disk is called, and how large it looks; the file is sparse.
const DISK: &str = "disk.img";
const DISK_BYTES: u64 = 64 << 20;

/// So many small leases at once.
pub(crate) fn leases(figures: &mut Figures, world: &World, rootfs: &Path) {
    title(&format!("{LEASES} leases on one node, small sandboxes"));
    let offers = world.dir.path().join("offers.toml");
    fs::write(&offers, format!("{SMALL}copies = {LEASES}\n")).unwrap();
    let more = ["--offers", &offers.display().to_string()];
    let provider = Provider::start_with(world, &Kind::Sandbox { rootfs }, &more);
    line("the node's memory with none", provider.resident_mib(), "MiB", "");
    let (took, held) = timed(|| {
        let names = (1..=LEASES).map(|number| format!("small-{number}"));
        names.map(|name| provider.lease_of(&name)).collect::<Vec<_>>()
    });
    line("until all can be entered, one after the other", took, "s", "");
    let entered = held.iter().filter(|lease| lease.door().answers()).count();
    let entered = f64::from(u32::try_from(entered).unwrap());
    figures.target("entered over SSH", entered, Target::AtLeast(f64::from(LEASES)), "leases");
    let memory = provider.resident_mib();
    figures.target("the node's memory with all of them", memory, Target::AtMost(150.0), "MiB");
    let (took, ()) = timed(|| drop(held));
    line("until all are gone, one after the other", took, "s", "");
}

/// A node that starts among what a thousand leases of a lost store have left: folders, disks, records, control groups.
pub(crate) fn orphans(figures: &mut Figures, world: &World, rootfs: &Path) {
    title(&format!(
        "Sweep of {ORPHANS} orphans in the sandbox: folder, disk, record, control groups"
    ));
    let kind = Kind::Sandbox { rootfs };
    // It makes the places in which the groups lie.
    drop(Provider::start(world, &kind));
    let node = world.miner.hotkey().to_string();
    let leases = world.dir.path().join("m/leases");
    let hierarchies = hierarchies(&node);
    for number in 0..ORPHANS {
        let id = LeaseId::from_random_bytes(u128::from(number).to_be_bytes());
        orphan(&leases.join(id.to_string()), &node, id);
        for groups in &hierarchies {
            fs::create_dir(groups.join(id.to_string())).unwrap();
        }
    }
    let left = || {
        let groups = hierarchies.iter().map(|groups| folders(groups)).sum::<usize>();
        folders(&leases) + groups
    };
    let (took, _provider) = timed(|| {
        let provider = Provider::start(world, &kind);
        wait_for("a swept machine", || (left() == 0).then_some(()));
        provider
    });
    line("from the node's start to the last one gone", took, "s", "");
    line("orphans a second", f64::from(ORPHANS) / took, "/s", "");
    figures.target(
        "nothing is left",
        f64::from(u32::try_from(left()).unwrap()),
        Target::AtMost(0.0),
        "",
    );
}

fn orphan(folder: &Path, node: &str, id: LeaseId) {
    fs::create_dir_all(folder.join("run")).unwrap();
    fs::File::create(folder.join(DISK)).unwrap().set_len(DISK_BYTES).unwrap();
    let record = json!({
        "node_id": node, "lease": id, "generation": 3, "boot_id": "another",
        "init": { "pid": 1, "start_ticks": 1 },
    });
    fs::write(folder.join("sandbox.json"), record.to_string()).unwrap();
}

/// The groups of this node in each hierarchy of the machine.
fn hierarchies(node: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let roots = places.filter_map(|line| line.split(' ').nth(4));
    let mut groups: Vec<PathBuf> = roots
        .map(|root| Path::new(root).join("nicompute").join(node))
        .filter(|groups| groups.is_dir())
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn folders(inside: &Path) -> usize {
    let Ok(entries) = fs::read_dir(inside) else { return 0 };
    entries.flatten().filter(|entry| entry.path().is_dir()).count()
}
