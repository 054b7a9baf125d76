//! The CUDA kernels, run by the emulator, against the processor's own arithmetic.

#![expect(unsafe_code, reason = "calls into the emulated kernels, a C library")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::ptr::null_mut;

use libloading::{Library, Symbol};
use nicompute_proof::{
    Binding, ChainMatrix, DeviceClaim, DeviceKind, DevicePlan, Digest, Nonce, ProofParams,
    SessionKeys, Tree, TreeKeys, WalkKey, key_stream, mix_to_operands, mix_to_plot, operand_row,
    walk_leaf,
};

type Operands = unsafe extern "C" fn(u32, *mut u16, *const u32, u64, u32, u32);
type Step =
    unsafe extern "C" fn(u32, *const u16, *const u16, *mut u16, *mut u8, u32, u32, u32, u32) -> u64;
type Leaves = unsafe extern "C" fn(*const u8, *mut u32, *const u32, u32, u32);
type Nodes = unsafe extern "C" fn(*const u32, *mut u32, *const u32, u32);
type Walks = unsafe extern "C" fn(*const u8, *const u32, u64, u64, u32, u32, u32, u32, *mut u64);

/// The tensor cores whose programs differ.
const KINDS: [Kind; 2] = [Kind::Turing, Kind::Ampere];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// fp16 operands, copies through registers.
    Turing,
    /// bf16 operands, asynchronous copies.
    Ampere,
}

/// What a step writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Out {
    Next,
    Plot,
}

/// The folder of the emulated kernels, where the tests may use them.
pub(crate) fn folder() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "the gate names the judges in the environment")]
    let variable = |name: &str| std::env::var(name).ok();
    let folder = variable("NICOMPUTE_TEST_MOCK_CUDA").map(PathBuf::from);
    if folder.is_none() {
        let is_strict = variable("NICOMPUTE_TEST_STRICT").is_some_and(|value| value == "1");
        assert!(!is_strict, "NICOMPUTE_TEST_MOCK_CUDA names no folder with emulated kernels");
        skip("NICOMPUTE_TEST_MOCK_CUDA names no folder with emulated kernels");
    }
    folder
}

#[expect(clippy::print_stderr, reason = "a test that could not judge says so")]
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// The emulated kernels.
struct Emulated {
    library: Library,
}

impl Emulated {
    fn load() -> Option<Self> {
        let path = folder()?.join("libnicompute_emulated.so");
        // SAFETY: the library was built from this crate's own source and runs nothing when it is loaded.
        let library = unsafe { Library::new(path) }.unwrap();
        Some(Self { library })
    }

    fn symbol<T>(&self, name: &str) -> Symbol<'_, T> {
        // SAFETY: the types above repeat the declarations of `emulated.cpp`.
        unsafe { self.library.get(name.as_bytes()) }.unwrap()
    }

    fn operands(
        &self,
        kind: Kind,
        key: &[u8; 32],
        first: u64,
        (rows, n): (usize, usize),
    ) -> Vec<u16> {
        let mut out = vec![0xFFFF; rows * n];
        let run = self.symbol::<Operands>("emu_operands");
        // SAFETY: `out` has rows · n cells.
        unsafe {
            run(flag(kind), out.as_mut_ptr(), words(key).as_ptr(), first, small(rows), small(n));
        }
        out
    }

    /// The bits that a step writes, which are bytes of the plot where it is the last.
    fn step(
        &self,
        kind: Kind,
        x: &[u16],
        b: &[u16],
        (n, step, out): (usize, u32, Out),
    ) -> Vec<u16> {
        let mut next = vec![0xFFFF; x.len()];
        let mut plot = vec![0xFF; x.len()];
        let (rows, last) = (small(x.len() / n), u32::from(out == Out::Plot));
        let run = self.symbol::<Step>("emu_step");
        assert_eq!(b.len(), n * n);
        // SAFETY: all buffers have the sizes that follow from `rows` and `n`.
        let conflicts = unsafe {
            let (next, plot) = (next.as_mut_ptr(), plot.as_mut_ptr());
            run(flag(kind), x.as_ptr(), b.as_ptr(), next, plot, rows, small(n), step, last)
        };
        assert_eq!(conflicts, 0, "matrix loads that wait for a bank of shared memory");
        if out == Out::Plot { plot.into_iter().map(u16::from).collect() } else { next }
    }

    fn leaves(&self, plot: &[u8], key: &[u8; 32], n: usize) -> Vec<Digest> {
        let rows = plot.len() / n;
        let mut leaves = vec![0; rows * 8];
        let run = self.symbol::<Leaves>("emu_leaves");
        // SAFETY: `leaves` has eight words for each row.
        unsafe {
            run(plot.as_ptr(), leaves.as_mut_ptr(), words(key).as_ptr(), small(rows), small(n));
        }
        digests(&leaves)
    }

    fn nodes(&self, children: &[Digest], key: &[u8; 32]) -> Vec<Digest> {
        let children: Vec<u32> = children.iter().flat_map(|child| words(&child.0)).collect();
        let count = children.len() / 16;
        let mut parents = vec![0; count * 8];
        let run = self.symbol::<Nodes>("emu_nodes");
        // SAFETY: two children and one parent of eight words each for every count.
        unsafe {
            run(children.as_ptr(), parents.as_mut_ptr(), words(key).as_ptr(), small(count));
        }
        digests(&parents)
    }

    fn walks(
        &self,
        plot: &[u8],
        key: &[u8; 32],
        n: usize,
        walks: std::ops::Range<u32>,
        reads: u32,
    ) -> Vec<u64> {
        let mut seed = [0; 8];
        key_stream(key, 0, &mut seed);
        let mut bytes = vec![0; n];
        key_stream(key, 1, &mut bytes);
        let words: Vec<u32> =
            bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let (rows, first, count) = ((plot.len() / n) as u64, walks.start, walks.len());
        let mut results = vec![0; count];
        let run = self.symbol::<Walks>("emu_walks");
        // SAFETY: rows of `n` bytes, key words of `n` bytes, and a result for every walk.
        unsafe {
            let (plot, words, results) = (plot.as_ptr(), words.as_ptr(), results.as_mut_ptr());
            let (seed, count) = (u64::from_le_bytes(seed), small(count));
            run(plot, words, seed, rows, small(n), first, count, reads, results);
        }
        results
    }
}

fn small(size: usize) -> u32 {
    u32::try_from(size).unwrap()
}

fn flag(kind: Kind) -> u32 {
    u32::from(kind == Kind::Turing)
}

fn words(bytes: &[u8; 32]) -> [u32; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

fn digests(words: &[u32]) -> Vec<Digest> {
    let digest = |words: &[u32; 8]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Digest(bytes.try_into().unwrap())
    };
    words.as_chunks::<8>().0.iter().map(digest).collect()
}

/// The bits of an operand: bf16 is the upper half of a float, fp16 has ten bits of fraction.
fn encoded(kind: Kind, operand: i16) -> u16 {
    let bits = f32::from(operand).to_bits();
    let upper = u16::try_from(bits >> 16).unwrap();
    if kind == Kind::Ampere || operand == 0 {
        return upper;
    }
    let exponent = u16::try_from((bits >> 23) & 0xFF).unwrap() - 127 + 15;
    let fraction = u16::try_from((bits >> 13) & 0x3FF).unwrap();
    (upper & 0x8000) | (exponent << 10) | fraction
}

fn decoder(kind: Kind) -> HashMap<u16, i16> {
    (-255..=255).map(|operand| (encoded(kind, operand), operand)).collect()
}

/// Bytes that repeat from run to run.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    key_stream(&[seed; 32], 77, &mut bytes);
    bytes
}

fn operand_rows(key: &[u8; 32], first: u64, rows: usize, n: usize) -> Vec<i16> {
    let mut out = vec![0; rows * n];
    for (index, row) in (first..).zip(out.chunks_exact_mut(n)) {
        operand_row(key, index, &mut vec![0; 2 * n], row);
    }
    out
}

/// Operands that differ from the verifier's would make every row of every honest GPU wrong.
#[test]
fn operands_equal_the_processors() {
    let Some(emulated) = Emulated::load() else { return };
    for kind in KINDS {
        let decode = decoder(kind);
        for (seed, first, rows, n) in
            [(1, 0, 128, 128), (2, 5, 256, 256), (3, (7 << 32) + 9, 128, 384), (4, 1, 128, 4096)]
        {
            let key: [u8; 32] = noise(seed, 32).try_into().unwrap();
            let made = emulated.operands(kind, &key, first, (rows, n));
            let decoded: Vec<i16> = made.iter().map(|bits| decode[bits]).collect();
            assert!(decoded == operand_rows(&key, first, rows, n), "{kind:?} n {n}");
        }
    }
}

/// A step that differs in one bit anywhere would refuse honest GPUs; the widths cover one tile, several, a band of
/// column tiles and the beginning of the next.
#[test]
fn steps_equal_the_processors() {
    let Some(emulated) = Emulated::load() else { return };
    for kind in KINDS {
        for (seed, rows, n, steps) in [(1, 128, 128, 3), (2, 384, 256, 2), (3, 128, 2176, 1)] {
            let key: [u8; 32] = noise(seed, 32).try_into().unwrap();
            let matrix = operand_rows(&key, 0, n, n);
            let mut operands = operand_rows(&key, 1 << 20, rows, n);
            let encode = |operands: &[i16]| -> Vec<u16> {
                operands.iter().map(|operand| encoded(kind, *operand)).collect()
            };
            let b = encode(&matrix);
            let chain = ChainMatrix::from_rows(&matrix, n, steps);
            for step in 0..u32::from(steps) {
                let x = encode(&operands);
                let mut sums = vec![0; operands.len()];
                chain.multiply(&operands, &mut sums);
                let mut plot = vec![0; operands.len()];
                for (row, sums) in sums.chunks_exact(n).enumerate() {
                    mix_to_plot(step, sums, &mut plot[row * n..][..n]);
                    mix_to_operands(step, sums, &mut operands[row * n..][..n]);
                }
                let plot: Vec<u16> = plot.into_iter().map(u16::from).collect();
                let next = emulated.step(kind, &x, &b, (n, step, Out::Next));
                assert!(next == encode(&operands), "{kind:?} n {n} step {step}");
                let last = emulated.step(kind, &x, &b, (n, step, Out::Plot));
                assert!(last == plot, "{kind:?} n {n} last step {step}");
            }
        }
    }
}

/// Leaves of rows of every width that a session may have: one to four chunks, and a number of rows that fills no block.
#[test]
fn leaves_equal_the_processors() {
    let Some(emulated) = Emulated::load() else { return };
    for n in (128..=4096).step_by(128) {
        let key: [u8; 32] = noise(5, 32).try_into().unwrap();
        let plot = noise(6, 33 * n);
        let keys = TreeKeys { leaf: key, node: [0; 32] };
        let expected: Vec<Digest> = plot.chunks_exact(n).map(|row| keys.leaf(row)).collect();
        assert_eq!(emulated.leaves(&plot, &key, n), expected, "n {n}");
    }
}

/// A parent that differs would make every commitment of a GPU wrong.
#[test]
fn nodes_equal_the_processors() {
    let Some(emulated) = Emulated::load() else { return };
    let keys = TreeKeys { leaf: [1; 32], node: noise(7, 32).try_into().unwrap() };
    let children: Vec<Digest> = (0..600_u32).map(|at| keys.leaf(&at.to_le_bytes())).collect();
    for count in [1, 2, 127, 128, 129, 300] {
        let children = &children[..2 * count];
        assert_eq!(emulated.nodes(children, &keys.node), keys.parents(children), "{count} nodes");
    }
}

/// A walk that differs in one read would refuse honest GPUs; the widths cover part of a warp, odd units and the wide path.
#[test]
fn walks_equal_the_processors() {
    let Some(emulated) = Emulated::load() else { return };
    let world = World::golden();
    for (seed, n, rows, reads, walks) in [
        (1, 128, 1000_u32, 9, 0..20),
        (2, 256, 384, 3, 5..70),
        (3, 640, 100, 2, 1_000_000..1_000_003),
        (4, 4096, 130, 5, 0..9),
    ] {
        let n2 = Nonce([seed; 32]);
        let key = world.keys.walk_key(&n2);
        let plot = noise(seed, rows as usize * n);
        let walk_key = WalkKey::new(&world.keys, &n2, n, u64::from(rows));
        let expected: Vec<u64> =
            walks.clone().map(|walk| replay(&walk_key, &plot, n, walk, reads)).collect();
        assert_eq!(emulated.walks(&plot, &key, n, walks, reads), expected, "n {n}");
    }
}

fn replay(key: &WalkKey, plot: &[u8], n: usize, walk: u32, reads: u32) -> u64 {
    let mut state = key.start(walk);
    for _ in 0..reads {
        let (mixed, row) = key.step(state);
        state = key.absorb(mixed, &plot[usize::try_from(row).unwrap() * n..][..n]);
    }
    state
}

/// One device's keys, sizes and matrix.
struct World {
    session: SessionKeys,
    keys: nicompute_proof::DeviceKeys,
    params: ProofParams,
}

impl World {
    /// Fixed nonces and a claim of a GPU, at the width of one tile.
    fn golden() -> Self {
        let params = crate::harness::tiny();
        let binding = Binding {
            validator: [1; 32],
            provider: [2; 32],
            lease: [3; 16],
            block_number: 4,
            block_hash: [5; 32],
        };
        let session = SessionKeys::derive(&Nonce([1; 32]), &binding, &params);
        let claim = DeviceClaim {
            kind: DeviceKind::Cuda,
            id: "GPU-0".to_owned(),
            name: "emulated".to_owned(),
            memory_bytes: 1 << 30,
        };
        let plan = DevicePlan { device: 0, rows: 256, walks: 64 };
        let keys = session.device(&claim, &plan);
        Self { session, keys, params }
    }
}

/// The whole of a device's work, kernel after kernel on what the one before wrote, must end in the roots that a processor
/// commits to under the same keys.
#[test]
fn a_whole_device_commits_to_the_processors_roots() {
    let Some(emulated) = Emulated::load() else { return };
    let world = World::golden();
    let (n, rows, steps) = (world.params.n(), 256, u32::from(world.params.steps()));
    let chain = ChainMatrix::new(&world.session, &world.params);
    let indices: Vec<u64> = (0..rows as u64).collect();
    let expected = chain.plot_rows(&world.keys, &indices);
    let n2 = Nonce([2; 32]);
    let walk_key = WalkKey::new(&world.keys, &n2, n, rows as u64);
    for kind in KINDS {
        let b = emulated.operands(kind, world.session.matrix(), 0, (n, n));
        let mut x = emulated.operands(kind, world.keys.operands(), 0, (rows, n));
        for step in 0..steps - 1 {
            x = emulated.step(kind, &x, &b, (n, step, Out::Next));
        }
        let plot = emulated.step(kind, &x, &b, (n, steps - 1, Out::Plot));
        let plot: Vec<u8> = plot.into_iter().map(|byte| u8::try_from(byte).unwrap()).collect();
        assert!(plot == expected, "{kind:?}: the plot");
        let tree_keys = world.keys.rows();
        let mut level = emulated.leaves(&plot, &tree_keys.leaf, n);
        let leaves = plot.chunks_exact(n).map(|row| tree_keys.leaf(row)).collect();
        while level.len() > 1 {
            level = emulated.nodes(&level, &tree_keys.node);
        }
        assert_eq!(level[0], Tree::new(tree_keys, leaves).unwrap().root(), "{kind:?}");
        let results = emulated.walks(&plot, &world.keys.walk_key(&n2), n, 0..64, 8);
        let expected: Vec<u64> = (0..64).map(|walk| replay(&walk_key, &plot, n, walk, 8)).collect();
        assert_eq!(results, expected, "{kind:?}: the walks");
        let group: Vec<u8> = results.iter().flat_map(|result| result.to_le_bytes()).collect();
        let leaf = emulated.leaves(&group, &world.keys.walks().leaf, group.len());
        assert_eq!(leaf, [world.keys.walks().leaf(&walk_leaf(&expected))], "{kind:?}");
    }
}

/// An emulator that lets a wrong kernel pass proves nothing about the right ones.
#[test]
fn the_emulator_refuses_wrong_kernels() {
    const SIGABRT: i32 = 6;
    let Some(folder) = folder() else { return };
    let program = folder.join("emulator_faults");
    let names = String::from_utf8(run(&mut command(&program)).stdout).unwrap();
    assert!(names.lines().count() > 10, "{names}");
    for name in names.lines() {
        let output = run(command(&program).arg(name));
        let said = String::from_utf8(output.stderr).unwrap();
        if name == "sound" {
            assert!(output.status.success() && said.is_empty(), "{said}");
        } else {
            assert_eq!(output.status.signal(), Some(SIGABRT), "{name}: {said}");
            assert!(said.starts_with(&format!("emulator: {name}, block (0, 0)")), "{said}");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the judge is a program")]
fn command(program: &Path) -> Command {
    Command::new(program)
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// A mock driver that forgives what a real one refuses, or fails where it should not, makes every test on it worthless. The
/// program that measures real devices goes through it here, with the committed binary.
#[test]
fn the_mock_driver_works_and_fails_as_asked() {
    let Some(folder) = folder() else { return };
    let fatbin = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/kernels.fatbin");
    let measure = |name: &str, value: &str| {
        let mut program = command(&folder.join("measure"));
        program.arg(&fatbin).args(["128", "128", "65536"]).env("LD_LIBRARY_PATH", &folder);
        let output = run(program.env(format!("NICOMPUTE_MOCK_CUDA_{name}"), value));
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.success(), said.concat())
    };
    for (name, value) in [("CAPABILITY", "75"), ("CAPABILITY", "90"), ("CAPABILITY", "130")] {
        let (is_success, said) = measure(name, value);
        assert!(is_success, "{value}: {said}");
        for what in ["rows", "leaves", "walks"] {
            assert!(
                said.contains(&format!("{what:<20}equal to the emulator's")),
                "{value}: {said}"
            );
        }
    }
    for (name, value, why) in [
        ("DEVICES", "0", "cuInit gives error 100"),
        ("FAIL", "init", "cuInit gives error 100"),
        ("CAPABILITY", "70", "cuModuleLoadData gives error 209"),
        ("FAIL", "image", "cuModuleLoadData gives error 209"),
        ("FAIL", "alloc:0@3", "cuMemAlloc_v2 gives error 2"),
        ("MEMORY_BYTES", "65536", "cuMemAlloc_v2 gives error 2"),
        ("FAIL", "launch@2", "cuLaunchKernel gives error 701"),
        ("FAIL", "fault@4", "gives error 719"),
        ("FAIL", "wrong", "the device's rows differ from the emulator's"),
    ] {
        let (is_success, said) = measure(name, value);
        assert!(!is_success && said.contains(why), "{name} {value}: {said}");
    }
    let (is_success, said) = measure("FAIL", "alloc:1");
    assert!(is_success, "a fault of another device: {said}");
}

type Handle = *mut c_void;

/// A context of the mock driver with a place on the device and one of the host that it knows, four bytes each.
struct MockMemory {
    driver: &'static Library,
    device: u64,
    host: *mut u32,
}

impl MockMemory {
    fn new() -> Option<Self> {
        let path = folder()?.join("libcuda.so.1");
        // SAFETY: the mock driver was built from this crate's own source and runs nothing when it is loaded.
        let driver = unsafe { Library::new(path) }.unwrap();
        // Its devices have threads that never end, so it stays loaded.
        let driver = Box::leak(Box::new(driver));
        let (mut device, mut context, mut host) = (0, null_mut(), null_mut());
        // SAFETY: the types are those of the driver's documentation, and the pointers are to live values.
        unsafe {
            let retain = driver
                .get::<unsafe extern "C" fn(*mut Handle, i32) -> i32>(b"cuDevicePrimaryCtxRetain");
            let enter = driver.get::<unsafe extern "C" fn(Handle) -> i32>(b"cuCtxSetCurrent");
            let allocate =
                driver.get::<unsafe extern "C" fn(*mut u64, usize) -> i32>(b"cuMemAlloc_v2");
            let pin = driver
                .get::<unsafe extern "C" fn(*mut Handle, usize, u32) -> i32>(b"cuMemHostAlloc");
            let start = driver.get::<unsafe extern "C" fn(u32) -> i32>(b"cuInit");
            assert_eq!(start.unwrap()(0), 0);
            assert_eq!(retain.unwrap()(&raw mut context, 0), 0);
            assert_eq!(enter.unwrap()(context), 0);
            assert_eq!(allocate.unwrap()(&raw mut device, 4), 0);
            assert_eq!(pin.unwrap()(&raw mut host, 4, 0), 0);
        }
        Some(Self { driver, device, host: host.cast() })
    }

    fn stream(&self, flags: u32) -> Handle {
        let mut stream = null_mut();
        // SAFETY: as above.
        unsafe {
            let create = self
                .driver
                .get::<unsafe extern "C" fn(*mut Handle, u32) -> i32>(b"cuStreamCreate")
                .unwrap();
            assert_eq!(create(&raw mut stream, flags), 0);
        }
        stream
    }

    /// Writes from memory that the driver does not know, by the call that is said to be synchronous.
    fn write(&self, value: u32) {
        self.write_from(&raw const value);
    }

    fn write_from(&self, value: *const u32) {
        // SAFETY: as above.
        unsafe {
            let copy = self
                .driver
                .get::<unsafe extern "C" fn(u64, *const u32, usize) -> i32>(b"cuMemcpyHtoD_v2")
                .unwrap();
            assert_eq!(copy(self.device, value, 4), 0);
        }
    }

    /// What a stream finds on the device.
    fn read(&self, stream: Handle) -> u32 {
        // SAFETY: as above; the stream is waited for before the host's place is read.
        unsafe {
            let copy = self
                .driver
                .get::<unsafe extern "C" fn(*mut u32, u64, usize, Handle) -> i32>(
                    b"cuMemcpyDtoHAsync_v2",
                )
                .unwrap();
            assert_eq!(copy(self.host, self.device, 4, stream), 0);
        }
        self.finish(stream);
        // SAFETY: four bytes that the driver gave.
        unsafe { self.host.read() }
    }

    fn finish(&self, stream: Handle) {
        // SAFETY: as above.
        unsafe {
            let finish = self
                .driver
                .get::<unsafe extern "C" fn(Handle) -> i32>(b"cuStreamSynchronize")
                .unwrap();
            assert_eq!(finish(stream), 0);
        }
    }
}

/// A mock driver whose synchronous copies are done when they return hides races that refuse honest GPUs: from memory that is
/// not pinned they may be done later, and streams that do not wait for the default stream run ahead of them.
#[test]
fn the_mock_driver_is_as_late_as_a_real_one_may_be() {
    const FRESH: u32 = 0xA5A5_A5A5;
    let Some(memory) = MockMemory::new() else { return };
    let (waiting, running_ahead) = (memory.stream(0), memory.stream(1));
    memory.write(7);
    assert_eq!(memory.read(running_ahead), FRESH);
    assert_eq!(memory.read(waiting), 7);
    assert_eq!(memory.read(running_ahead), 7);
    memory.write(8);
    assert_eq!(memory.read(running_ahead), 7);
    memory.finish(null_mut());
    assert_eq!(memory.read(running_ahead), 8);
    // SAFETY: four bytes that the driver gave, which no copy reads or writes now.
    unsafe { memory.host.write(9) };
    memory.write_from(memory.host);
    assert_eq!(memory.read(running_ahead), 9);
}

/// The frozen values of the specification's own file, by the emulated kernels: keys in, rows and walks out.
#[test]
fn the_specifications_vectors_hold() {
    let Some(emulated) = Emulated::load() else { return };
    let vectors = Vectors::read();
    let (n, rows) = (128, 256);
    let matrix_key = vectors.key("matrix key");
    let operands_key = vectors.key("operands key");
    let leaf_key = vectors.key("row leaf key");
    for kind in KINDS {
        let b = emulated.operands(kind, &matrix_key, 0, (n, n));
        let decode = decoder(kind);
        let first: Vec<String> = b[..8].iter().map(|bits| decode[bits].to_string()).collect();
        assert_eq!(first.join(" "), vectors.text("matrix row 0, first 8"));
        let x = emulated.operands(kind, &operands_key, 0, (rows, n));
        let x = emulated.step(kind, &x, &b, (n, 0, Out::Next));
        let plot = emulated.step(kind, &x, &b, (n, 1, Out::Plot));
        let plot: Vec<u8> = plot.into_iter().map(|byte| u8::try_from(byte).unwrap()).collect();
        for row in [0, 191] {
            let shown: String = plot[row * n..][..n].iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(shown, vectors.text(&format!("plot row {row}")), "{kind:?}");
        }
        let leaf = emulated.leaves(&plot[..n], &leaf_key, n);
        assert_eq!(format!("{:?}", leaf[0]), vectors.text("row leaf 0"));
    }
}

/// The newest file of golden values.
struct Vectors(HashMap<String, String>);

impl Vectors {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proof/testdata");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let is_ours = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("proof-v") && path.extension().is_some_and(|end| end == "txt")
        };
        let newest = files.filter(is_ours).max().unwrap();
        let text = std::fs::read_to_string(newest).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once(" = "));
        Self(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn text(&self, name: &str) -> &str {
        &self.0[name]
    }

    fn key(&self, name: &str) -> [u8; 32] {
        let hex = self.text(name);
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..64).step_by(2).map(byte).collect();
        bytes.try_into().unwrap()
    }
}
