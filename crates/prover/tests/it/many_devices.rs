//! Machines with so many devices that a check of all of them is limited.

use nicompute_proof::{
    ClaimError, DeviceClaim, DeviceKind, DevicePlan, ExchangeError, ParamsRecord, ProofParams,
    ProverFrame, Refusal, Step, VerifierFrame,
};

use crate::harness::{boxed, config, honest, prove, session, tiny};

/// The profile of GPUs with every leg, but for the rows and walks, which cost a checker nothing.
fn gpu_params() -> ParamsRecord {
    ParamsRecord {
        n: 4096,
        steps: 4,
        rows: 65_536,
        panel_rows: 65_536,
        walks: 65_536,
        reads: 16,
        link_walks: 4096,
        copy_rows: 4096,
        ..ProofParams::small().record()
    }
}

fn claims(count: u16) -> Vec<DeviceClaim> {
    let claim = |device| DeviceClaim {
        kind: DeviceKind::Cpu,
        id: format!("cpu-{device}"),
        name: "processor".to_owned(),
        memory_bytes: 1 << 40,
    };
    (0..count).map(claim).collect()
}

fn asked(count: u16) -> Result<(u32, u64, u64), Refusal> {
    let record = ParamsRecord { net_up_bytes: 1 << 17, ..gpu_params() };
    let params = ProofParams::try_from(record).unwrap();
    let hello = ProverFrame::Hello { version: 2, software: "x".to_owned(), devices: claims(count) };
    let step = session(config(params), 0).on_frame(hello, 1)?;
    let Step::Send(VerifierFrame::Prepare { params, plans, .. }) = step else {
        panic!("HELLO is answered with PREPARE")
    };
    assert_eq!(plans.len(), usize::from(count));
    Ok((params.link_walks, params.copy_rows, params.net_up_bytes))
}

/// A machine of sixteen GPUs must be proven, without the legs that would make its check too long, and one of more must be
/// told before it works for nothing.
#[test]
fn many_devices_are_asked_for_less() {
    assert_eq!(asked(8), Ok((4096, 4096, 1 << 17)));
    assert_eq!(asked(16), Ok((0, 0, 1 << 17)));
    assert_eq!(asked(19), Err(Refusal::Claims(ClaimError::Work(19))));
}

/// A stranger's transcript must not cost a checker the products of thirty-two devices.
#[test]
fn a_transcript_of_many_devices_is_not_checked() {
    let mut exchange = prove(boxed(honest())).unwrap().exchange;
    assert!(exchange.check().is_ok());
    exchange.params = ParamsRecord { link_walks: 0, copy_rows: 0, ..gpu_params() };
    exchange.claims = claims(32);
    let device = exchange.devices[0].clone();
    let with_plan = |place| {
        let plan = DevicePlan { device: place, rows: 65_536, walks: 65_536 };
        nicompute_proof::DeviceExchange { plan, ..device.clone() }
    };
    exchange.devices = (0..32).map(with_plan).collect();
    assert_eq!(exchange.check(), Err(ExchangeError::Work(32)));
    exchange.devices.truncate(16);
    assert_eq!(exchange.check(), Err(ExchangeError::Panels(0)));
    exchange.params = tiny().record();
    assert_eq!(exchange.check(), Err(ExchangeError::Plans));
}
