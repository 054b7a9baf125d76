//! Inventory and telemetry against a stand-in of NVIDIA's library, which a file steers.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use expect_test::expect;
use nicompute_daemon::{ManualClock, SharedClock};
use nicompute_host::cdi;
use nicompute_host::inventory::{self, Inventory};
use nicompute_host::telemetry::{
    Answer, GpuSource as _, Look, NvmlLibrary, Telemetry, Voice, XIDS_MAX,
};

use crate::support::LIMIT;

const FIRST: &str = "GPU-8c3a2c5e-0001-4f7e-9a41-1c3d5e7f9a0b";
const SECOND: &str = "GPU-8c3a2c5e-0002-4f7e-9a41-1c3d5e7f9a0b";
/// How often telemetry looks in these tests.
const EVERY: Duration = Duration::from_millis(20);

/// A machine of GPUs that are not there. Each has a copy of the library of its own, and so a state of its own.
struct Mock {
    dir: tempfile::TempDir,
}

impl Mock {
    fn new(gpus: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("dir");
        fs::copy(folder()?.join("libnvidia-ml.so.1"), dir.path().join("libnvidia-ml.so.1"))
            .expect("copy");
        let mock = Self { dir };
        mock.set(gpus);
        Some(mock)
    }

    fn set(&self, gpus: &str) {
        let next = self.dir.path().join("gpus.next");
        let text = format!("driver\tversion=550.54.15\tcuda=12040\n{gpus}");
        fs::write(&next, text).expect("write");
        fs::rename(next, self.dir.path().join("gpus.txt")).expect("rename");
    }

    fn library(&self) -> NvmlLibrary {
        NvmlLibrary::at(self.dir.path().join("libnvidia-ml.so.1"))
    }

    fn inventory(&self) -> Inventory {
        inventory::read_with(self.dir.path(), &self.library()).expect("inventory")
    }
}

#[expect(clippy::disallowed_methods, reason = "the gate names the judges in the environment")]
fn folder() -> Option<PathBuf> {
    let folder = std::env::var("NICOMPUTE_TEST_MOCK_NVML").ok().map(PathBuf::from);
    if folder.is_none() {
        let why = "NICOMPUTE_TEST_MOCK_NVML names no folder with a stand-in of NVIDIA's library";
        let is_strict = std::env::var("NICOMPUTE_TEST_STRICT").is_ok_and(|value| value == "1");
        assert!(!is_strict, "{why}");
        skip(why);
    }
    folder
}

#[expect(clippy::print_stderr, reason = "a test that could not judge says so")]
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// A whole GPU.
fn gpu(uuid: &str, bus: u32, more: &str) -> String {
    format!(
        "gpu\tuuid={uuid}\tname=NVIDIA H100 80GB HBM3\tbus=00000000:{bus:02X}:00.0\tminor={bus}\tmemory=85520809984\t\
         used=1048576\tcc=9.0\tsm=1980\tmem=2619\tpower=120500\tlimit=700000\ttemp=41\tthrottle=0\tecc=3,0\tpids=\t{more}\n"
    )
}

fn wait_for(
    telemetry: &Telemetry,
    what: &str,
    is_there: impl Fn(&Look) -> bool,
) -> std::sync::Arc<Look> {
    let start = now();
    loop {
        let look = telemetry.latest();
        if is_there(&look) {
            return look;
        }
        assert!(start.elapsed() < LIMIT, "{what}: {look:?}");
        std::thread::yield_now();
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "a limit of the test itself")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "polling with a limit")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// A GPU that is offered wrongly, or not at all, is a lease that fails or a machine that earns nothing.
#[test]
fn each_kind_of_gpu_is_told_apart() {
    let slices = "mig\tuuid=MIG-1\tname=NVIDIA H100 MIG 3g.40gb\tmemory=42000000000\tused=7\n\
                  mig\tuuid=MIG-2\tname=NVIDIA H100 MIG 4g.40gb\tmemory=43000000000\tused=0\tpids=17\n";
    let gpus = [
        gpu(FIRST, 1, ""),
        gpu(SECOND, 2, "mig=1") + slices,
        gpu("GPU-lost", 3, "error=15"),
        gpu("GPU-shared", 4, "vgpu=1"),
        "gpu\tuuid=GPU-old\tname=evil\u{1b}[2Jname\tmemory=1\n".to_owned(),
    ];
    let Some(mock) = Mock::new(&gpus.concat()) else { return };
    let inventory = mock.inventory();
    let mut told: String = inventory
        .gpus
        .iter()
        .map(|gpu| {
            let (uuid, name, share) = (&gpu.uuid, &gpu.name, &gpu.share);
            format!("{uuid} {name:?} {} {:?} {share:?}\n", gpu.memory_bytes, gpu.compute_capability)
        })
        .collect();
    told.extend([format!("{:?}\n{:#?}\n", inventory.gpu_driver, inventory.notes)]);
    expect![[r#"
        GPU-8c3a2c5e-0001-4f7e-9a41-1c3d5e7f9a0b "NVIDIA H100 80GB HBM3" 85520809984 Some((9, 0)) Whole
        MIG-1 "NVIDIA H100 MIG 3g.40gb" 42000000000 Some((9, 0)) Mig { parent: "GPU-8c3a2c5e-0002-4f7e-9a41-1c3d5e7f9a0b" }
        MIG-2 "NVIDIA H100 MIG 4g.40gb" 43000000000 Some((9, 0)) Mig { parent: "GPU-8c3a2c5e-0002-4f7e-9a41-1c3d5e7f9a0b" }
        GPU-shared "NVIDIA H100 80GB HBM3" 85520809984 Some((9, 0)) Vgpu
        GPU-old "evil[2Jname" 1 None Whole
        Some("550.54.15")
        [
            "GPU 2 cannot be read: device fell off the bus or has otherwise become inacessible",
        ]
    "#]].assert_eq(&told);
}

/// A driver that is broken must be told from a machine without GPUs, and neither may keep the node from starting.
#[test]
fn a_driver_that_does_not_work_is_a_note() {
    let Some(mock) = Mock::new("init\terror=9\n") else { return };
    let inventory = mock.inventory();
    assert!(inventory.gpus.is_empty());
    assert_eq!(inventory.notes.len(), 1, "{:?}", inventory.notes);
    assert!(inventory.notes[0].contains("does not work"), "{:?}", inventory.notes);
    mock.set("");
    let inventory = mock.inventory();
    assert!(inventory.gpus.is_empty() && inventory.notes.is_empty());
    let none = NvmlLibrary::at(mock.dir.path().join("none.so"));
    assert_eq!(none.ask(), Answer::NoLibrary);
    mock.set("hang\n");
    assert_eq!(inventory::ask_in_time(mock.library(), Duration::from_millis(50)), None);
    // The thread that hangs is let go, so that the test leaves none behind.
    mock.set("");
}

/// What a slice's holder sees of heat and errors is the GPU's; what nobody told is not made up.
#[test]
fn samples_have_what_the_driver_tells() {
    let slice = "mig\tuuid=MIG-1\tname=slice\tmemory=40\tused=7\tpids=17,18\n";
    let gpus = gpu(FIRST, 1, "mig=1\tthrottle=100").replace("\tthrottle=0", "")
        + slice
        + "gpu\tuuid=GPU-mute\tname=mute\tmemory=1\n";
    let Some(mock) = Mock::new(&gpus) else { return };
    let Answer::Gpus(gpus) = mock.library().ask() else { panic!("the driver answers") };
    let told: String = gpus.samples.iter().map(|sample| format!("{sample:?}\n")).collect();
    expect![[r#"
        GpuSample { gpu: Gpu { uuid: "MIG-1", name: "slice", memory_bytes: 40, compute_capability: Some((9, 0)), share: Mig { parent: "GPU-8c3a2c5e-0001-4f7e-9a41-1c3d5e7f9a0b" } }, index: "0:0", bus_id: Some("00000000:01:00.0"), minor: Some(1), memory_used_bytes: Some(7), temperature_celsius: Some(41), power_milliwatts: Some(120500), power_limit_milliwatts: Some(700000), clock_mhz: Some(1980), memory_clock_mhz: Some(2619), throttled: ["power cap", "software thermal slowdown", "hardware thermal slowdown"], ecc_corrected: Some(3), ecc_uncorrected: Some(0), pids: [17, 18] }
        GpuSample { gpu: Gpu { uuid: "GPU-mute", name: "mute", memory_bytes: 1, compute_capability: None, share: Whole }, index: "1", bus_id: None, minor: None, memory_used_bytes: Some(0), temperature_celsius: None, power_milliwatts: None, power_limit_milliwatts: None, clock_mhz: None, memory_clock_mhz: None, throttled: [], ecc_corrected: None, ecc_uncorrected: None, pids: [] }
    "#]].assert_eq(&told);
}

/// The specs name GPUs by index, the market by UUID: a wrong pair gives a tenant another one's GPU.
#[test]
fn indexes_of_specs_are_the_drivers() {
    let Some(mock) = Mock::new(&(gpu(FIRST, 3, "") + &gpu(SECOND, 1, ""))) else { return };
    let Answer::Gpus(gpus) = mock.library().ask() else { panic!("the driver answers") };
    let spec = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n\
                - name: \"0\"\n  containerEdits: {deviceNodes: [{path: /dev/nvidia3}]}\n\
                - name: \"1\"\n  containerEdits: {deviceNodes: [{path: /dev/nvidia0}]}\n";
    fs::write(mock.dir.path().join("nvidia.yaml"), spec).expect("write");
    let registry = cdi::Registry::load(&[mock.dir.path()]).knowing(gpus.known());
    let first = registry.injection(&[FIRST]).expect("the first GPU is node 3");
    assert_eq!(first.devices[0].gpu_minor(), Some(3));
    let second = registry.injection(&[SECOND]).unwrap_err();
    assert!(matches!(second, cdi::CdiError::OtherGpu { minor: 1, .. }), "{second}");
}

/// A GPU that is gone, changed or in error must be seen while the node runs, not at its next start.
#[test]
fn the_watch_sees_what_becomes_of_the_gpus() {
    let Some(mock) = Mock::new(&(gpu(FIRST, 1, "") + &gpu(SECOND, 2, ""))) else { return };
    let clock: SharedClock = ManualClock::at_unix_ms(1_000);
    let telemetry = Telemetry::start(mock.library(), EVERY, clock).expect("thread");
    wait_for(&telemetry, "both", |look| {
        look.sample(FIRST).is_some() && look.sample(SECOND).is_some()
    });
    mock.set(&(gpu(FIRST, 1, "error=15") + &gpu(SECOND, 2, "xid=31")));
    let look = wait_for(&telemetry, "the first is lost", |look| look.sample(FIRST).is_none());
    let Answer::Gpus(gpus) = &look.answer else { panic!("{look:?}") };
    assert_eq!(gpus.failures.len(), 1, "{look:?}");
    mock.set(&(gpu("GPU-another", 1, "") + &gpu(SECOND, 2, "xid=31")));
    let look = wait_for(&telemetry, "another", |look| look.sample("GPU-another").is_some());
    assert_eq!(
        look.sample("GPU-another").and_then(|sample| sample.bus_id.clone()).as_deref(),
        Some("00000000:01:00.0")
    );
    for code in 0..XIDS_MAX + 5 {
        mock.set(&gpu(SECOND, 2, &format!("xid={}", 100 + code)));
        let code = u64::try_from(100 + code).expect("small");
        wait_for(&telemetry, "the error", |_| {
            telemetry.history(SECOND).xids.back().is_some_and(|xid| xid.code == code)
        });
    }
    assert_eq!(telemetry.history(SECOND).xids.len(), XIDS_MAX);
    assert!(!telemetry.history(FIRST).readings.is_empty(), "what is gone is remembered");
    mock.set("init\terror=9\n");
    let is_broken = |look: &Look| matches!(look.answer, Answer::Broken(_) | Answer::Gpus(_));
    wait_for(&telemetry, "an answer without GPUs", |look| {
        is_broken(look) && look.sample(SECOND).is_none()
    });
}

/// A driver that hangs must not hang the node, and must be told from one that says that a GPU is gone.
#[test]
fn a_driver_that_hangs_is_silent() {
    let Some(mock) = Mock::new(&gpu(FIRST, 1, "")) else { return };
    let clock = ManualClock::at_unix_ms(1_000);
    let telemetry = Telemetry::start(mock.library(), EVERY, clock.clone()).expect("thread");
    wait_for(&telemetry, "the GPU", |look| look.sample(FIRST).is_some());
    assert_eq!(telemetry.voice(), Voice::Answers);
    mock.set(&gpu(FIRST, 1, "hang=1"));
    // A look that had begun before may still come; then there are no more.
    let start = now();
    let mut last = telemetry.latest().number;
    let mut still_since = now();
    while still_since.elapsed() < Duration::from_millis(400) {
        assert!(start.elapsed() < LIMIT, "the looks never stop");
        pause();
        let number = telemetry.latest().number;
        if number != last {
            (last, still_since) = (number, now());
        }
    }
    clock.advance(Duration::from_secs(61));
    assert!(matches!(telemetry.voice(), Voice::Silent(_)), "{:?}", telemetry.voice());
    assert!(telemetry.latest().sample(FIRST).is_some(), "the last answer stands");
    mock.set(&gpu(FIRST, 1, ""));
    wait_for(&telemetry, "a new look", |look| look.number > last);
    assert_eq!(telemetry.voice(), Voice::Answers);
}

/// A watch whose owner is gone would keep the driver busy for ever.
#[test]
fn the_watch_ends_with_its_owner() {
    let Some(mock) = Mock::new(&gpu(FIRST, 1, "")) else { return };
    let clock: SharedClock = ManualClock::at_unix_ms(1_000);
    let telemetry = Telemetry::start(mock.library(), EVERY, clock).expect("thread");
    let mut looks = telemetry.looks();
    drop(telemetry);
    let start = now();
    // The sender lives in the thread: the channel closes when the thread is over.
    while looks.has_changed().is_ok() {
        drop(looks.borrow_and_update());
        assert!(start.elapsed() < LIMIT, "the thread goes on");
        pause();
    }
}
