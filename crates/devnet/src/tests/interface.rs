//! Every byte that the chain shows must be what its own metadata says.

use nicompute_daemon::ManualClock;
use parity_scale_codec::Encode;

use super::{NETUID, OWNER, OWNER_HOT, first_state};
use crate::api;
use crate::config::DevnetConfig;
use crate::devnet;
use crate::node::Node;
use crate::schema::{Field, Profile, skip};

fn node(profile: Profile) -> (Node, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let config = DevnetConfig { profile, ..DevnetConfig::new(dir.path(), first_state()) };
    let node = devnet::open(&config, ManualClock::at_unix_ms(1_000)).unwrap();
    for _ in 0..12 {
        node.make_block().unwrap();
    }
    (node, dir)
}

/// A stored value of another shape than the metadata says breaks every client that reads it.
#[test]
fn every_stored_value_decodes() {
    let (node, _dir) = node(Profile::Flat);
    let face = node.current();
    let inner = node.read();
    let mut checked = 0;
    for (key, value) in inner.ledger.state() {
        if key.starts_with(b":") {
            continue;
        }
        let item = face
            .interface
            .schema
            .pallets
            .iter()
            .flat_map(|pallet| pallet.storage.iter().map(move |item| (pallet, item)))
            .find(|(pallet, item)| {
                let name = [&pallet.name, &item.name]
                    .map(|name| crate::hash::twox_128(name.as_bytes()))
                    .concat();
                key.starts_with(&name)
            });
        let (pallet, item) = item.unwrap_or_else(|| panic!("{} is not listed", hex::encode(key)));
        let id = face.interface.id(&item.value).unwrap();
        let mut rest = value.as_slice();
        let walked = skip(&face.interface.registry, id, &mut rest);
        assert!(walked.is_ok() && rest.is_empty(), "{}.{}", pallet.name, item.name);
        checked += 1;
    }
    assert!(checked > 100, "{checked}");
}

/// An answer in another field order shows wrong numbers without any error.
#[test]
fn every_runtime_call_answers_as_listed() {
    for profile in [Profile::Flat, Profile::Modern] {
        let (node, _dir) = node(profile);
        let face = node.current();
        let inner = node.read();
        let state = inner.ledger.state_after(&inner.ledger.head().hash).unwrap();
        for method in &face.interface.schema.apis {
            let name = format!("{}_{}", method.api, method.name);
            if method.api == "TransactionPaymentApi" {
                continue;
            }
            let input: Vec<u8> = method.inputs.iter().flat_map(argument).collect();
            let answer = api::call(&node, &state, &name, &input);
            let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
            let id = face.interface.id(&method.output).unwrap();
            let mut rest = answer.as_slice();
            let walked = skip(&face.interface.registry, id, &mut rest);
            assert!(walked.is_ok(), "{name} does not decode");
            assert!(rest.is_empty(), "{name} leaves {} bytes", rest.len());
            let mut more = input.clone();
            more.push(0);
            if !input.is_empty() {
                assert!(api::call(&node, &state, &name, &more).is_err(), "{name}");
            }
        }
    }
}

fn argument(field: &Field) -> Vec<u8> {
    match field.name.as_deref().unwrap_or_default() {
        "netuid" => NETUID.encode(),
        "uid" => 1_u16.encode(),
        "mecid" | "subid" => 0_u8.encode(),
        "metagraph_indexes" => (0_u16..77).collect::<Vec<_>>().encode(),
        "version" => 15_u32.encode(),
        "account" | "coldkey" | "coldkey_account" => OWNER.encode(),
        "hotkey" | "hotkey_account" => OWNER_HOT.encode(),
        "coldkey_accounts" => vec![OWNER].encode(),
        "netuids" => Some(vec![NETUID]).encode(),
        "origin" | "destination" => Some((OWNER_HOT, NETUID)).encode(),
        "origin_coldkey_account" | "destination_coldkey_account" => OWNER.encode(),
        "amount" | "tao" | "alpha" => 5_u64.encode(),
        other => panic!("no argument for {other}"),
    }
}

/// SDK 10 finds how addresses and signatures are written among these parameters; without them it can sign nothing.
#[test]
fn the_extrinsic_names_its_address_and_signature() {
    let (node, _dir) = node(Profile::Flat);
    let path = ["sp_runtime", "generic", "unchecked_extrinsic", "UncheckedExtrinsic"];
    let face = node.current();
    let registry = &face.interface.registry;
    let known = registry.types.iter().find(|known| known.ty.path.segments == path).unwrap();
    for name in ["Address", "Call", "Signature", "Extra"] {
        let parameter = known.ty.type_params.iter().find(|parameter| parameter.name == name);
        assert!(parameter.unwrap().ty.is_some(), "{name} has no type");
    }
}

/// SDK 9.0.0 encodes an account only where its type has the number 0, as in Substrate's runtimes; else it fails on every
/// call and read with a key in it.
#[test]
fn the_account_is_the_first_type() {
    for profile in [Profile::Flat, Profile::Modern] {
        let (node, _dir) = node(profile);
        assert_eq!(node.current().interface.named("AccountId32").unwrap(), 0);
    }
}
