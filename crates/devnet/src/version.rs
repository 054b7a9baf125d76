//! The runtime version, which clients read in three places and which must be the same in all of them. It rises with a
//! runtime upgrade.

use std::borrow::Cow;

use blake2::Digest as _;
use blake2::digest::consts::U8;
use parity_scale_codec::Encode;
use serde_json::{Value, json};

use crate::runtime::TRANSACTION_VERSION;

pub(crate) const SPEC_NAME: &str = "node-subtensor";

/// The runtime APIs and their versions.
const APIS: [(&str, u32); 10] = [
    ("Core", 5),
    ("Metadata", 2),
    ("AuraApi", 1),
    ("AccountNonceApi", 1),
    ("TransactionPaymentApi", 4),
    ("NeuronInfoRuntimeApi", 1),
    ("SubnetInfoRuntimeApi", 1),
    ("StakeInfoRuntimeApi", 1),
    ("SwapRuntimeApi", 1),
    ("BetaBasketRuntimeApi", 1),
];

#[derive(Encode)]
struct RuntimeVersion {
    spec_name: Cow<'static, str>,
    impl_name: Cow<'static, str>,
    authoring_version: u32,
    spec_version: u32,
    impl_version: u32,
    apis: Vec<([u8; 8], u32)>,
    transaction_version: u32,
    system_version: u8,
}

fn apis() -> impl Iterator<Item = ([u8; 8], u32)> {
    APIS.iter()
        .map(|(name, version)| (blake2::Blake2b::<U8>::digest(name.as_bytes()).into(), *version))
}

/// As `Core_version` and the constant `System.Version` have it.
pub(crate) fn encoded(spec_version: u32) -> Vec<u8> {
    let version = RuntimeVersion {
        spec_name: SPEC_NAME.into(),
        impl_name: SPEC_NAME.into(),
        authoring_version: 1,
        spec_version,
        impl_version: 1,
        apis: apis().collect(),
        transaction_version: TRANSACTION_VERSION,
        system_version: 1,
    };
    version.encode()
}

/// As `state_getRuntimeVersion` has it.
pub(crate) fn json(spec_version: u32) -> Value {
    let apis: Vec<_> =
        apis().map(|(id, version)| (format!("0x{}", hex::encode(id)), version)).collect();
    json!({
        "specName": SPEC_NAME,
        "implName": SPEC_NAME,
        "authoringVersion": 1,
        "specVersion": spec_version,
        "implVersion": 1,
        "apis": apis,
        "transactionVersion": TRANSACTION_VERSION,
        "systemVersion": 1,
        "stateVersion": 1,
    })
}
