//! Golden vectors: the byte formats of version 2, which never change again.
//!
//! `testdata/proof-v2.txt` holds one `name = value` a line; `docs/proof.md` says how each is made. A second
//! implementation that gives the same lines speaks the same proof. Where this test fails, the format was changed, and
//! the change needs a new version.

use std::fmt::Write as _;

use expect_test::expect_file;
use nicompute_market::{Hotkey, LeaseId};
use nicompute_proof::{
    Answered, Binding, ChainMatrix, CopyKey, DeviceClaim, DeviceKeys, DeviceKind, DeviceOpenings,
    DevicePlan, Digest, ErrorCode, Kernel, NetStream, Nonce, OpenDevice, ParamsRecord, ProofParams,
    ProverFrame, RowOpening, SessionKeys, SignedTranscript, TRANSCRIPT_MAGIC, TreeKeys, Verdict,
    VerifierFrame, WalkKey, WalkOpening, context, encode, key_stream, mix_tweak, mix32, mix64,
    next_operand, operand_row, plot_byte, scale, verify_transcript, walk_leaf,
};

/// A signed transcript of the vectors' session with both devices, made once; its signature cannot be made again. The
/// prover's tests play that session again and compare.
const TRANSCRIPT: &str = include_str!("../../testdata/transcript-v2.hex");

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn hex(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        self.text(name, &hex::encode(bytes));
    }

    fn text(&mut self, name: &str, value: &str) {
        writeln!(self.0, "{name} = {value}").unwrap();
    }

    fn list<T: ToString>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
        self.text(name, &values.join(" "));
    }
}

fn params() -> ProofParams {
    ProofParams::try_from(ParamsRecord {
        version: 2,
        n: 128,
        steps: 2,
        rows: 192,
        panel_rows: 64,
        sampled_rows: 4,
        walks: 192,
        reads: 4,
        sampled_walks: 2,
        link_walks: 128,
        copy_rows: 100,
        net_down_bytes: 1 << 17,
        net_up_bytes: 1 << 18,
    })
    .unwrap()
}

fn binding() -> Binding {
    let hotkey = |text: &str| text.parse::<Hotkey>().unwrap();
    Binding::new(
        &hotkey("5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"),
        &hotkey("5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"),
        &LeaseId::from_random_bytes([7; 16]),
        (1234, [0xB1; 32]),
    )
}

fn claim() -> DeviceClaim {
    DeviceClaim {
        kind: DeviceKind::Cpu,
        id: "cpu".to_owned(),
        name: "golden processor".to_owned(),
        memory_bytes: 1 << 20,
    }
}

fn plan() -> DevicePlan {
    DevicePlan { device: 0, rows: 192, walks: 192 }
}

fn keys() -> (SessionKeys, DeviceKeys) {
    let session = SessionKeys::derive(&Nonce([1; 32]), &binding(), &params());
    let device = session.device(&claim(), &plan());
    (session, device)
}

/// A silent change of the format would split the market into validators that disagree.
#[test]
fn the_formats_of_version_2_are_frozen() {
    let mut lines = Lines::default();
    arithmetic(&mut lines);
    derivations(&mut lines);
    plot_and_walks(&mut lines, &ChainMatrix::new(&keys().0, &params()));
    legs(&mut lines);
    trees(&mut lines);
    prover_frames(&mut lines);
    verifier_frames(&mut lines);
    expect_file!["../../testdata/proof-v2.txt"].assert_eq(&lines.0);
}

fn arithmetic(lines: &mut Lines) {
    let mut stream = [0; 32];
    key_stream(&[3; 32], 0, &mut stream);
    lines.hex("key_stream(03*32, 0, 32)", stream);
    key_stream(&[3; 32], 0x0102_0304_0506_0708, &mut stream);
    lines.hex("key_stream(03*32, 0x0102030405060708, 32)", stream);
    let mut operands = [0; 16];
    operand_row(&[3; 32], 0, &mut [0; 32], &mut operands);
    lines.list("operands(03*32, 0, 16)", operands);
    for (step, column) in [(0, 0), (1, 0), (0, 1), (2, 4095)] {
        let tweak = mix_tweak(step, column);
        lines.list(&format!("mix_tweak({step}, {column})"), [tweak]);
    }
    for sum in [0, 1, -1, 16_777_215, -16_777_216] {
        let mixed = mix32(sum, mix_tweak(1, 5));
        lines.list(
            &format!("mix32({sum}, mix_tweak(1, 5)), operand, byte"),
            [i64::from(mixed), i64::from(next_operand(mixed)), i64::from(plot_byte(mixed))],
        );
    }
    for state in [0, 1, u64::MAX] {
        lines.list(
            &format!("mix64({state}), scale to 1000"),
            [mix64(state), scale(mix64(state), 1000)],
        );
    }
}

fn derivations(lines: &mut Lines) {
    let contexts = [
        context::SESSION,
        context::MATRIX,
        context::DEVICE,
        context::OPERANDS,
        context::ROW_LEAF,
        context::ROW_NODE,
        context::WALK_LEAF,
        context::WALK_NODE,
        context::WALK,
        context::LINK,
        context::LINK_LEAF,
        context::LINK_NODE,
        context::COPY,
        context::COPY_LEAF,
        context::COPY_NODE,
        context::NET_DOWN,
        context::NET_UP,
        context::SAMPLE,
    ];
    for (number, context) in contexts.iter().enumerate() {
        lines.text(&format!("context {number}"), context);
    }
    let (session, device) = keys();
    lines.hex("params key material", params().key_material());
    lines.hex("session key", session.session());
    lines.hex("matrix key", session.matrix());
    lines.hex("device key", device.device());
    lines.hex("operands key", device.operands());
    lines.hex("row leaf key", device.rows().leaf);
    lines.hex("row node key", device.rows().node);
    lines.hex("walk leaf key", device.walks().leaf);
    lines.hex("walk node key", device.walks().node);
    lines.hex("walk key of N2 02*32", device.walk_key(&Nonce([2; 32])));
    lines.hex("link leaf key", device.links().leaf);
    lines.hex("link node key", device.links().node);
    lines.hex("link key of NL 03*32", device.link_key(&Nonce([3; 32])));
    lines.hex("copy key of NC 04*32", device.copy_key(&Nonce([4; 32])));
    let copy = CopyKey::new(&device, &Nonce([4; 32]), 192);
    lines.hex("copy leaf key of NC 04*32", copy.tree().leaf);
    lines.hex("copy node key of NC 04*32", copy.tree().node);
    lines.hex("net down key of ND 05*32", session.net_down(&Nonce([5; 32])));
    lines.hex("net up key of NU 06*32", session.net_up(&Nonce([6; 32])));
    for (name, answered) in [
        ("without legs", Answered { link: false, copy: false }),
        ("with LINK and COPY", Answered { link: true, copy: true }),
    ] {
        let sample = device.sample(&Nonce([7; 32]), &params(), &plan(), answered);
        lines.list(&format!("sampled rows of N3 07*32, {name}"), sample.rows);
        lines.list(&format!("sampled walks of N3 07*32, {name}"), sample.walks);
        lines.list(&format!("sampled links of N3 07*32, {name}"), sample.links);
        lines.list(&format!("sampled copies of N3 07*32, {name}"), sample.copies);
    }
}

/// The second device, over whose plot the first one walks in LINK.
fn legs(lines: &mut Lines) {
    let (session, device) = keys();
    let matrix = ChainMatrix::new(&session, &params());
    let all: Vec<u64> = (0..192).collect();
    let peer = DeviceClaim { id: "cpu-1".to_owned(), ..claim() };
    let peer = session.device(&peer, &DevicePlan { device: 1, ..plan() });
    let peer_plot = matrix.plot_rows(&peer, &all);
    lines.hex("plot row 0 of the next device", &peer_plot[..128]);
    let key = WalkKey::link(&device, &Nonce([3; 32]), 128, 192);
    let results = &walks(matrix.kernel(), &key, &peer_plot)[..128];
    lines.list("link results 0, 1, 127", [results[0], results[1], results[127]]);
    let leaves: Vec<Digest> =
        results.chunks(64).map(|group| device.links().leaf(&walk_leaf(group))).collect();
    lines.hex("link root", device.links().root(&leaves).unwrap().0);
    let plot = matrix.plot_rows(&device, &all);
    let copy = CopyKey::new(&device, &Nonce([4; 32]), 192);
    lines.list("copied rows 0, 1, 99", [copy.row(0), copy.row(1), copy.row(99)]);
    let leaf = |place: u64| {
        let row = usize::try_from(copy.row(place)).unwrap();
        copy.tree().leaf(&plot[row * 128..][..128])
    };
    let leaves: Vec<Digest> = (0..100).map(leaf).collect();
    lines.hex("copy leaf 0", leaves[0].0);
    lines.hex("copy root", copy.tree().root(&leaves).unwrap().0);
    for (name, key, bytes) in [
        ("net down", session.net_down(&Nonce([5; 32])), 1 << 17),
        ("net up", session.net_up(&Nonce([6; 32])), 1 << 18),
    ] {
        let chunk = NetStream::new(key).next_chunk();
        lines.hex(&format!("{name} chunk 0, first 16"), &chunk.as_bytes()[..16]);
        lines.hex(&format!("{name} digest of {bytes}"), NetStream::digest_of(key, bytes).0);
    }
}

fn walks(kernel: Kernel, key: &WalkKey, plot: &[u8]) -> Vec<u64> {
    let walk = |walk: u32| {
        let mut state = key.start(walk);
        for _ in 0..4 {
            let (mixed, row) = key.step(state);
            let row = usize::try_from(row).unwrap();
            state = kernel.absorb(key, mixed, &plot[row * 128..][..128]);
        }
        state
    };
    (0..192).map(walk).collect()
}

/// A kernel that gives other vectors than the portable one speaks another proof.
#[test]
fn the_vectors_hold_on_every_kernel() {
    let frozen = include_str!("../../testdata/proof-v2.txt");
    let (session, _) = keys();
    for kernel in Kernel::ALL {
        if !kernel.is_available() {
            println!("SKIPPED: this processor has no {}", kernel.name());
            continue;
        }
        let mut lines = Lines::default();
        let matrix = ChainMatrix::on(kernel, &session.matrix_rows(128), 128, params().steps());
        plot_and_walks(&mut lines, &matrix);
        assert!(frozen.contains(&lines.0), "{}:\n{}", kernel.name(), lines.0);
    }
}

fn plot_and_walks(lines: &mut Lines, matrix: &ChainMatrix) {
    let (session, device) = keys();
    let rows = session.matrix_rows(128);
    lines.list("matrix row 0, first 8", &rows[..8]);
    lines.list("matrix row 127, last 8", &rows[128 * 128 - 8..]);
    let all: Vec<u64> = (0..192).collect();
    let plot = matrix.plot_rows(&device, &all);
    lines.hex("plot row 0", &plot[..128]);
    lines.hex("plot row 191", &plot[191 * 128..]);
    let leaves: Vec<Digest> = plot.chunks(128).map(|row| device.rows().leaf(row)).collect();
    lines.hex("row leaf 0", leaves[0].0);
    for (panel, leaves) in leaves.chunks(64).enumerate() {
        lines.hex(&format!("panel root {panel}"), device.rows().root(leaves).unwrap().0);
    }
    lines.hex("row root", device.rows().root(&leaves).unwrap().0);
    let key = WalkKey::new(&device, &Nonce([2; 32]), 128, 192);
    let results = walks(matrix.kernel(), &key, &plot);
    lines.list(
        "walk 0: start, first mixed state, first row",
        [key.start(0), key.step(key.start(0)).0, key.step(key.start(0)).1],
    );
    lines.list("walk results 0, 1, 191", [results[0], results[1], results[191]]);
    let leaves: Vec<Digest> =
        results.chunks(64).map(|group| device.walks().leaf(&walk_leaf(group))).collect();
    lines.hex("walk leaf 0", leaves[0].0);
    lines.hex("walk root", device.walks().root(&leaves).unwrap().0);
}

fn trees(lines: &mut Lines) {
    let keys = TreeKeys { leaf: [1; 32], node: [2; 32] };
    let leaves: Vec<Digest> = (0..7_u64).map(|at| keys.leaf(&at.to_le_bytes())).collect();
    lines.hex("tree leaf of 00*8", leaves[0].0);
    lines.hex("tree node of leaves 0 and 1", keys.node(&leaves[0], &leaves[1]).0);
    for count in 1..=7 {
        lines.hex(&format!("tree root of {count}"), keys.root(&leaves[..count]).unwrap().0);
    }
}

fn prover_frames(lines: &mut Lines) {
    let frames = [
        ProverFrame::Hello {
            version: 2,
            software: "golden 1".to_owned(),
            devices: vec![claim(), DeviceClaim { kind: DeviceKind::Cuda, ..claim() }],
        },
        ProverFrame::Ready,
        ProverFrame::Pong { number: 300 },
        ProverFrame::Progress { device: 1, panel: 500, root: Digest([4; 32]) },
        ProverFrame::Commit { roots: vec![Digest([5; 32])] },
        ProverFrame::Wroot { roots: vec![Digest([6; 32]), Digest([7; 32])] },
        ProverFrame::Lroot { roots: vec![Digest([10; 32])] },
        ProverFrame::Croot { roots: vec![Digest([11; 32])] },
        ProverFrame::Decline { code: ErrorCode::Device, text: "no way".to_owned() },
        ProverFrame::Got { bytes: 1 << 17 },
        ProverFrame::Digest { digest: Digest([12; 32]) },
        ProverFrame::Openings(DeviceOpenings {
            device: 0,
            rows: vec![RowOpening { row: 70_000, path: vec![Digest([8; 32])] }],
            walks: vec![WalkOpening {
                walk: 9,
                group: vec![1, u64::MAX],
                path: vec![Digest([9; 32])],
            }],
            links: vec![WalkOpening { walk: 1, group: vec![2], path: Vec::new() }],
            copies: vec![RowOpening { row: 99, path: Vec::new() }],
        }),
        ProverFrame::Error { code: ErrorCode::Memory, text: "no memory".to_owned() },
    ];
    for frame in frames {
        lines.hex(&format!("frame {}", frame.name()), encode(&frame).unwrap());
    }
    let up = encode(&ProverFrame::Up { chunk: NetStream::new([3; 32]).next_chunk() }).unwrap();
    lines.hex("frame UP of stream 03*32, first 16", &up[..16]);
}

fn verifier_frames(lines: &mut Lines) {
    let frames = [
        VerifierFrame::Prepare {
            params: params().record(),
            binding: binding(),
            plans: vec![plan()],
        },
        VerifierFrame::Ping { number: 7 },
        VerifierFrame::Start { nonce: Nonce([1; 32]) },
        VerifierFrame::Walk { nonce: Nonce([2; 32]) },
        VerifierFrame::Link { nonce: Nonce([3; 32]) },
        VerifierFrame::Copy { nonce: Nonce([4; 32]) },
        VerifierFrame::DownEnd,
        VerifierFrame::Up { nonce: Nonce([6; 32]) },
        VerifierFrame::More { bytes: 1 << 22 },
        VerifierFrame::Open {
            devices: vec![OpenDevice {
                device: 0,
                rows: vec![1, 191],
                walks: vec![3],
                links: vec![4],
                copies: vec![99],
            }],
        },
        VerifierFrame::Bye,
        VerifierFrame::Error { code: ErrorCode::Refused, text: "row 1".to_owned() },
    ];
    for frame in frames {
        lines.hex(&format!("frame {} (verifier)", frame.name()), encode(&frame).unwrap());
    }
    let down = encode(&VerifierFrame::Down { chunk: NetStream::new([3; 32]).next_chunk() });
    lines.hex("frame DOWN of stream 03*32, first 16", &down.unwrap()[..16]);
}

/// A transcript that was accepted once must be accepted for ever, or stored evidence loses its worth.
#[test]
fn a_transcript_of_version_2_still_holds() {
    let bytes = hex::decode(TRANSCRIPT.trim()).unwrap();
    let report = verify_transcript(&bytes).unwrap();
    assert_eq!(report.verdict, Verdict::Proven);
    assert_eq!(report.params, params().record());
    let second = DeviceClaim { id: "cpu-1".to_owned(), ..claim() };
    assert_eq!(report.claims, [claim(), second]);
    let legs = report.legs.answered();
    assert!(legs.link && legs.copy && report.legs.down.is_some() && report.legs.up.is_some());
    assert_eq!((report.signer.as_bytes(), report.lease), (&binding().validator, binding().lease));
    let signed = SignedTranscript::decode(&bytes).unwrap();
    let encoded = signed.transcript().encode().unwrap();
    assert!(bytes.starts_with(&encoded) && encoded.starts_with(TRANSCRIPT_MAGIC));
    assert_eq!(bytes.len(), encoded.len() + 64);
}
