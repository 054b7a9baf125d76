//! Bytes that no prover or verifier of ours sends.

use nicompute_proof::{
    DeviceClaim, DeviceKind, DeviceOpenings, Digest, ErrorCode, FrameError, OpenDevice,
    PROVER_FRAME_LEN_MAX, ProofParams, ProverFrame, Refusal, Stage, VerifierFrame, decode, encode,
};
use nicompute_prover::{Prover, ProverError, Sink, exchange};

use crate::harness::{boxed, config, honest, prove, session, ticking, tiny};

/// Keeps what a prover sends.
#[derive(Default)]
struct Kept(Vec<ProverFrame>);

impl Sink for Kept {
    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), nicompute_prover::Gone> {
        self.0.push(decode(&bytes[4..]).unwrap());
        Ok(())
    }
}

/// Every frame of an honest session, both ways.
fn recorded() -> (Vec<ProverFrame>, Vec<VerifierFrame>) {
    let mut prover = Prover::new(boxed(honest()));
    let hello = prover.hello();
    let (mut from_prover, mut from_verifier) = (vec![hello.clone()], Vec::new());
    let mut answer = |frame: VerifierFrame, sink: &mut dyn Sink| {
        from_verifier.push(frame.clone());
        let mut kept = Kept::default();
        prover.on_frame(frame, &mut kept).unwrap();
        for frame in kept.0 {
            sink.send(&frame).unwrap();
            from_prover.push(frame);
        }
    };
    exchange(&mut session(config(tiny()), 0), &hello, &mut answer, &mut ticking()).unwrap();
    (from_prover, from_verifier)
}

/// Runs a session in which the prover's `at`-th frame is replaced by these bytes.
fn with_bytes(at: usize, bytes: &[u8], recorded: &[ProverFrame]) -> Refusal {
    let mut session = session(config(tiny()), 0);
    for frame in &recorded[..at] {
        session.on_frame(frame.clone(), 1).unwrap();
    }
    session.on_bytes(bytes, 1).unwrap_err()
}

/// A prover that announces four gigabytes must cost the validator four bytes.
#[test]
fn an_oversized_frame_is_refused() {
    let (frames, _) = recorded();
    for at in 0..frames.len() {
        let refusal = with_bytes(at, &[0xFF; 4], &frames);
        assert_eq!(refusal, Refusal::Oversized { len: 0xFFFF_FFFF, max: PROVER_FRAME_LEN_MAX });
    }
}

/// Noise at any stage must end the session as malformed, not as anything that sounds like a wrong proof.
#[test]
fn malformed_frames_are_refused() {
    let (frames, _) = recorded();
    for at in 0..frames.len() {
        let refusal = with_bytes(at, &[2, 0, 0, 0, 0xFF, 0xFF], &frames);
        assert_eq!(refusal, Refusal::Malformed(FrameError::Malformed));
        let refusal = with_bytes(at, &[3, 0, 0, 0, 2, 0x85, 0x00], &frames);
        assert_eq!(refusal, Refusal::Malformed(FrameError::NotCanonical));
    }
}

/// Any frame that comes before its turn must be refused as such.
#[test]
fn frames_out_of_turn_are_refused() {
    let (frames, _) = recorded();
    // One of each kind, and the first place of each stage, is every case that there is.
    let mut kinds = frames.clone();
    kinds.dedup_by_key(|frame| frame.name());
    let first = |at: &usize| *at == 0 || frames[*at - 1].name() != frames[*at].name();
    for at in (0..frames.len()).filter(first) {
        for other in &kinds {
            let same = std::mem::discriminant(other) == std::mem::discriminant(&frames[at]);
            let in_fill = matches!(frames[at], ProverFrame::Progress { .. })
                && matches!(other, ProverFrame::Commit { .. });
            if same || in_fill {
                continue;
            }
            let refusal = with_bytes(at, &encode(other).unwrap(), &frames);
            let protocol = matches!(refusal, Refusal::Protocol { .. } | Refusal::Openings(_));
            assert!(protocol, "{} at {at}: {refusal}", other.name());
        }
    }
}

/// A commitment that is not the panels that were reported on the way was chosen afterwards.
#[test]
fn a_commitment_must_be_its_panels() {
    let (frames, _) = recorded();
    let commit = frames.iter().position(|f| matches!(f, ProverFrame::Commit { .. })).unwrap();
    let ProverFrame::Commit { mut roots } = frames[commit].clone() else { unreachable!() };
    roots[0].0[0] ^= 1;
    let other = encode(&ProverFrame::Commit { roots: roots.clone() }).unwrap();
    assert!(matches!(with_bytes(commit, &other, &frames), Refusal::Openings(_)));
    roots.push(roots[0]);
    let two = encode(&ProverFrame::Commit { roots }).unwrap();
    assert!(matches!(with_bytes(commit, &two, &frames), Refusal::Protocol { .. }));
    // A commitment before the last panel, and a panel after the last.
    let early = encode(&frames[commit]).unwrap();
    assert!(matches!(with_bytes(commit - 1, &early, &frames), Refusal::Openings(_)));
    let panel = encode(&frames[commit - 1]).unwrap();
    assert!(matches!(with_bytes(commit, &panel, &frames), Refusal::Protocol { .. }));
}

/// Openings of other places, in another order, twice, or of another shape must not reach the recomputation.
#[test]
fn bad_openings_are_refused() {
    let (frames, _) = recorded();
    let at = frames.len() - 1;
    let ProverFrame::Openings(good) = frames[at].clone() else { panic!("openings come last") };
    let refused = |change: &dyn Fn(&mut DeviceOpenings)| {
        let mut bad = good.clone();
        change(&mut bad);
        with_bytes(at, &encode(&ProverFrame::Openings(bad)).unwrap(), &frames)
    };
    let shapes: [&dyn Fn(&mut DeviceOpenings); 8] = [
        &|bad| bad.rows.swap(0, 1),
        &|bad| bad.rows[1] = bad.rows[0].clone(),
        &|bad| bad.rows[0].row = u64::MAX,
        &|bad| drop(bad.rows.pop()),
        &|bad| bad.rows.clear(),
        &|bad| bad.rows[0].path.truncate(3),
        &|bad| bad.walks.swap(0, 1),
        &|bad| bad.walks[0].path.push(bad.rows[0].path[0]),
    ];
    for (number, shape) in shapes.iter().enumerate() {
        let refusal = refused(shape);
        assert!(matches!(refusal, Refusal::Openings(_)), "shape {number}: {refusal}");
    }
    let long = |path: &mut Vec<Digest>| path.resize(33, Digest([0; 32]));
    let too_long: [&dyn Fn(&mut DeviceOpenings); 6] = [
        &|bad| bad.walks[0].group.truncate(63),
        &|bad| bad.walks[0].group.push(0),
        &|bad| bad.rows.resize(257, bad.rows[0].clone()),
        &|bad| bad.walks.resize(65, bad.walks[0].clone()),
        &|bad| long(&mut bad.rows[0].path),
        &|bad| long(&mut bad.walks[0].path),
    ];
    for (number, shape) in too_long.iter().enumerate() {
        let refusal = refused(shape);
        let malformed = Refusal::Malformed(FrameError::Malformed);
        assert_eq!(refusal, malformed, "length {number}");
    }
    let other_device = refused(&|bad| bad.device = 1);
    assert!(matches!(other_device, Refusal::Protocol { .. }));
    let wrong = refused(&|bad| bad.rows[5].path[3].0[0] ^= 1);
    assert!(matches!(wrong, Refusal::Mismatch { .. }));
    let wrong = refused(&|bad| bad.walks[5].group[3] ^= 1);
    assert!(matches!(wrong, Refusal::Mismatch { .. }));
}

/// What a prover says when it gives up reaches operators, so it must be cut and plain.
#[test]
fn a_prover_that_gives_up_is_quoted_cleanly() {
    let mut session = session(config(tiny()), 0);
    let text = format!("\u{1b}[31m{}", "x".repeat(5000));
    let frame = ProverFrame::Error { code: ErrorCode::Memory, text };
    let Err(Refusal::Prover { code, text }) = session.on_frame(frame, 1) else {
        panic!("an ERROR frame ends the session")
    };
    assert_eq!((code, text.len()), (ErrorCode::Memory, 256));
    assert!(!text.contains('\u{1b}'));
}

/// Other versions, too many devices and unreadable names must be refused before anything is planned.
#[test]
fn bad_hellos_are_refused() {
    let hello = |version, software: &str, count: usize| ProverFrame::Hello {
        version,
        software: software.to_owned(),
        devices: (0..count)
            .map(|at| DeviceClaim {
                kind: DeviceKind::Cpu,
                id: format!("cpu-{at}"),
                name: "x".to_owned(),
                memory_bytes: 1 << 40,
            })
            .collect(),
    };
    let refused = |frame| session(config(tiny()), 0).on_frame(frame, 1).unwrap_err();
    assert_eq!(refused(hello(1, "x", 1)), Refusal::Version(1));
    assert!(matches!(refused(hello(2, "x\n", 1)), Refusal::Protocol { stage: Stage::Hello, .. }));
    assert!(matches!(refused(hello(2, "x", 33)), Refusal::Claims(_)));
    assert!(matches!(refused(hello(2, "x", 0)), Refusal::Claims(_)));
}

/// Frame decoders meet whatever a stranger sends: they must answer with an error and never with a panic or much memory.
#[test]
fn decoders_survive_changed_frames() {
    let (from_prover, from_verifier) = recorded();
    let mut random = Random(1);
    let try_both = |bytes: &[u8]| {
        if let Ok(frame) = decode::<ProverFrame>(bytes) {
            assert_eq!(encode(&frame).unwrap()[4..], *bytes);
        }
        if let Ok(frame) = decode::<VerifierFrame>(bytes) {
            assert_eq!(encode(&frame).unwrap()[4..], *bytes);
        }
    };
    let mut seeds: Vec<Vec<u8>> = from_prover.iter().map(|f| encode(f).unwrap()).collect();
    seeds.extend(from_verifier.iter().map(|f| encode(f).unwrap()));
    for seed in seeds {
        for _ in 0..200 {
            let mut bytes = seed[4..].to_vec();
            for _ in 0..=random.below(4) {
                random.change(&mut bytes);
            }
            try_both(&bytes);
        }
    }
}

/// A changed stream must never be proven, and never bring the verifier down.
#[test]
fn sessions_survive_changed_streams() {
    let (frames, _) = recorded();
    let mut random = Random(2);
    let stream: Vec<Vec<u8>> = frames.iter().map(|frame| encode(frame).unwrap()).collect();
    for _ in 0..60 {
        let mut changed = stream.clone();
        let at = random.below(changed.len());
        let before = changed[at].clone();
        random.change(&mut changed[at]);
        if changed[at] == before {
            continue;
        }
        let mut session = session(config(tiny()), 0);
        let mut now = 0;
        let ended = changed.iter().find_map(|bytes| {
            now += 1;
            session.on_bytes(bytes, now).map(|output| output.done.is_some()).err()
        });
        // HELLO's claims about itself are no evidence, so a change there may pass; but then its keys differ.
        assert!(ended.is_some() || at == 0 || session.stage() != Stage::Over);
    }
}

/// A hostile verifier must not make a prover allocate beyond its claim or compute out of turn.
#[test]
fn a_prover_refuses_hostile_verifiers() {
    let (_, frames) = recorded();
    let VerifierFrame::Prepare { params, binding, plans } = frames[0].clone() else {
        panic!("PREPARE comes first")
    };
    let refused = |frame: VerifierFrame| {
        let mut kept = Kept::default();
        let error = Prover::new(boxed(honest())).on_frame(frame, &mut kept).unwrap_err();
        assert!(matches!(kept.0.as_slice(), [ProverFrame::Error { .. }]), "the verifier is told");
        error
    };
    let prepare = |change: &dyn Fn(&mut nicompute_proof::ParamsRecord)| {
        let mut params = params;
        change(&mut params);
        VerifierFrame::Prepare { params, binding, plans: plans.clone() }
    };
    assert!(matches!(refused(prepare(&|p| p.version = 9)), ProverError::Params(_)));
    assert!(matches!(refused(prepare(&|p| p.n = 1 << 20)), ProverError::Params(_)));
    assert!(matches!(refused(prepare(&|p| p.rows = 1024)), ProverError::Protocol(_)));
    let twice = VerifierFrame::Prepare { params, binding, plans: [plans[0], plans[0]].to_vec() };
    assert!(matches!(refused(twice), ProverError::Protocol(_)));
    let other = nicompute_proof::DevicePlan { device: 1, ..plans[0] };
    let other = VerifierFrame::Prepare { params, binding, plans: vec![other] };
    assert!(matches!(refused(other), ProverError::Protocol(_)));
    for early in &frames[1..frames.len() - 1] {
        assert!(matches!(refused(early.clone()), ProverError::Protocol(_)), "{}", early.name());
    }
    let huge = ProofParams::small().record();
    let rows = 1 << 26;
    let params = nicompute_proof::ParamsRecord { rows, n: 4096, ..huge };
    let plan = nicompute_proof::DevicePlan { device: 0, rows, walks: huge.walks };
    let huge = VerifierFrame::Prepare { params, binding, plans: vec![plan] };
    assert!(matches!(refused(huge), ProverError::Device(_)));
}

/// A prover must not be made to open places that do not exist, or the same one without end.
#[test]
fn a_prover_refuses_bad_opens() {
    let (_, frames) = recorded();
    for rows in [vec![4096], vec![3, 3], vec![4, 3]] {
        let mut prover = Prover::new(boxed(honest()));
        let mut kept = Kept::default();
        for frame in &frames {
            if let VerifierFrame::Open { .. } = frame {
                break;
            }
            prover.on_frame(frame.clone(), &mut kept).unwrap();
        }
        let open = OpenDevice {
            device: 0,
            rows: rows.clone(),
            walks: Vec::new(),
            links: Vec::new(),
            copies: Vec::new(),
        };
        let error = prover.on_frame(VerifierFrame::Open { devices: vec![open] }, &mut kept);
        assert!(matches!(error, Err(ProverError::Device(_))), "{rows:?}");
    }
}

/// An honest session after all of this still holds, so that the refusals above are about the changes.
#[test]
fn the_recorded_session_is_honest() {
    assert!(prove(boxed(honest())).is_ok());
}

/// A small generator, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        nicompute_proof::mix64(self.0)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let at = self.below(bytes.len());
        match self.below(5) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = 0xFF,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, bytes[at]),
            _ => drop(bytes.remove(at)),
        }
    }
}
