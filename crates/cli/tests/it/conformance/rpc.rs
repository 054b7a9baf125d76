//! Blocks as the node gives them, and extrinsics taken apart without the client under test.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nicompute_market::AccountId;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);
/// A signed extrinsic of version 4.
const SIGNED_V4: u8 = 0x84;
/// `MevShield.submit_encrypted`: what is inside stands in the block by itself.
const SHIELD: [u8; 2] = [30, 1];

/// A signed extrinsic, field by field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extrinsic {
    /// Who signed it.
    pub(super) signer: AccountId,
    /// Blocks for which it lives; 0 is for ever.
    pub(super) era_blocks: u64,
    /// What is paid for being preferred.
    pub(super) tip: u64,
    /// Whether the metadata's hash was signed too.
    pub(super) mode: u8,
    /// The call.
    pub(super) call: Vec<u8>,
}

/// One question over HTTP.
pub(super) fn ask(node: SocketAddr, method: &str, params: &Value) -> Value {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
    let mut stream = TcpStream::connect_timeout(&node, LIMIT).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let length = body.len();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {node}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let answer: Value =
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    assert!(answer["error"].is_null(), "{method}: {answer}");
    answer["result"].clone()
}

/// The height of the best block.
pub(super) fn height(node: SocketAddr) -> u64 {
    let header = ask(node, "chain_getHeader", &json!([]));
    let number = header["number"].as_str().unwrap();
    u64::from_str_radix(number.trim_start_matches("0x"), 16).unwrap()
}

/// The signed extrinsics of a block, without the wrappers of the shield.
pub(super) fn extrinsics(node: SocketAddr, block: u64) -> Vec<Extrinsic> {
    let hash = ask(node, "chain_getBlockHash", &json!([block]));
    let found = ask(node, "chain_getBlock", &json!([hash]));
    let list = found["block"]["extrinsics"].as_array().unwrap();
    let bytes =
        |text: &Value| hex::decode(text.as_str().unwrap().trim_start_matches("0x")).unwrap();
    let signed = list.iter().filter_map(|text| parse(&bytes(text)));
    signed.filter(|extrinsic| !extrinsic.call.starts_with(&SHIELD)).collect()
}

/// A signed extrinsic from its bytes; `None` for what blocks carry unsigned.
pub(super) fn parse(bytes: &[u8]) -> Option<Extrinsic> {
    let mut rest = bytes;
    let length = compact(&mut rest);
    assert_eq!(
        length,
        u64::try_from(rest.len()).unwrap(),
        "the length in front is that of the rest"
    );
    if take(&mut rest, 1)[0] != SIGNED_V4 {
        return None;
    }
    assert_eq!(take(&mut rest, 1)[0], 0, "the address is an account");
    let signer = AccountId::from_bytes(take(&mut rest, 32).try_into().unwrap());
    assert!(take(&mut rest, 1)[0] <= 1, "the signature is of sr25519 or ed25519");
    drop(take(&mut rest, 64).to_vec());
    let era_blocks = match take(&mut rest, 1)[0] {
        0 => 0,
        low => {
            let encoded = u16::from_le_bytes([low, take(&mut rest, 1)[0]]);
            2_u64.pow(u32::from(encoded % 16) + 1)
        }
    };
    compact(&mut rest);
    let tip = compact(&mut rest);
    let mode = take(&mut rest, 1)[0];
    Some(Extrinsic { signer, era_blocks, tip, mode, call: rest.to_vec() })
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(len);
    *rest = left;
    taken
}

fn compact(rest: &mut &[u8]) -> u64 {
    let first = rest[0];
    match first % 4 {
        0 => u64::from(take(rest, 1)[0] >> 2),
        1 => u64::from(u16::from_le_bytes(take(rest, 2).try_into().unwrap()) >> 2),
        2 => u64::from(u32::from_le_bytes(take(rest, 4).try_into().unwrap()) >> 2),
        _ => {
            let len = usize::from(first >> 2) + 4;
            let digits = &take(rest, len + 1)[1..];
            digits.iter().rev().fold(0, |number, digit| (number << 8) | u64::from(*digit))
        }
    }
}
