//! Extrinsics that real clients made.

use serde_json::Value;

use super::hostile::interface;
use crate::call::{Call, SubtensorCall};
use crate::extrinsic::{Era, Signed};

pub(super) fn recorded() -> Vec<Value> {
    let text = include_str!("../../testdata/extrinsics.json");
    let all: Value = serde_json::from_str(text).unwrap();
    all["extrinsics"].as_array().unwrap().clone()
}

pub(super) fn bytes(text: &Value) -> Vec<u8> {
    hex::decode(text.as_str().unwrap().trim_start_matches("0x")).unwrap()
}

/// A real client's transaction that does not verify here could never be sent by that client.
#[test]
fn recorded_extrinsics_decode_and_verify() {
    let all = recorded();
    assert_eq!(all.len(), 11);
    for recorded in &all {
        let raw = bytes(&recorded["extrinsic_hex_with_length_prefix"]);
        let signed = Signed::decode(&raw).unwrap();
        assert_eq!(signed.call, bytes(&recorded["call_hex"]));
        assert_eq!(u64::from(signed.nonce), recorded["nonce"].as_u64().unwrap());
        let spec = u32::try_from(recorded["spec_version"].as_u64().unwrap()).unwrap();
        let genesis = bytes(&recorded["genesis_hash"]).try_into().unwrap();
        let birth = bytes(&recorded["era_block_hash"]).try_into().unwrap();
        assert!(signed.is_signed_for((spec, 1), &genesis, &birth));
        assert!(!signed.is_signed_for((spec + 1, 1), &genesis, &birth));
        assert!(!signed.is_signed_for((spec, 1), &[0; 32], &birth));
        let era = &recorded["era"];
        match signed.era {
            Era::Immortal => assert!(era.is_null()),
            Era::Mortal { period, .. } => {
                assert_eq!(Some(period), era[0].as_u64());
                // The recorder noted the block that the client saw and the era's birth.
                assert_eq!(Some(signed.era.birth(era[1].as_u64().unwrap())), era[2].as_u64());
            }
        }
        let call = Call::decode(interface(), 0, &signed.call).unwrap();
        let name = recorded["call_name"].as_str().unwrap();
        let expected = match call {
            Call::Subtensor(SubtensorCall::BurnedRegister { .. }) => "burned_register",
            Call::Subtensor(SubtensorCall::ServeAxon { .. }) => "serve_axon",
            Call::Subtensor(SubtensorCall::SetWeights { .. }) => "set_weights",
            Call::Subtensor(SubtensorCall::SetMechanismWeights { .. }) => "set_mechanism_weights",
            other => panic!("{other:?}"),
        };
        assert_eq!(name, format!("SubtensorModule.{expected}"));
    }
}
