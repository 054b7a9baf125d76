//! Signed extrinsics of format 4: taking them apart, and what their signature covers.
//!
//! Every byte comes from outside. The length is bounded first, each part is decoded once, and nothing may be left over.

use parity_scale_codec::{Compact, Decode, Encode};

use nicompute_keys::{Scheme, verify};
use nicompute_market::AccountId;

use crate::hash::{H256, blake2_256};
use crate::items::Account;

/// The longest extrinsic. The largest real one, a full weight vector with 4,096 uids, is under 20 KiB.
pub(crate) const EXTRINSIC_BYTES_MAX: usize = 64 * 1024;

/// Longer payloads are hashed before they are signed.
const PAYLOAD_PLAIN_MAX: usize = 256;
const SIGNED_V4: u8 = 0x84;
const BARE_V4: u8 = 0x04;

/// A signed extrinsic taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) signer: Account,
    pub(crate) signature: Signature,
    pub(crate) era: Era,
    pub(crate) nonce: u32,
    pub(crate) tip: u64,
    pub(crate) call: Vec<u8>,
    extra: Vec<u8>,
}

/// A signature and its scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signature {
    Known(Scheme, [u8; 64]),
    /// secp256k1, which no Bittensor wallet uses.
    Ecdsa,
}

/// For how long an extrinsic may be included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    Immortal,
    Mortal { period: u64, phase: u64 },
}

/// Why bytes are not a signed extrinsic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExtrinsicError {
    #[error("an extrinsic of more than {EXTRINSIC_BYTES_MAX} bytes")]
    TooLong,
    #[error("the length prefix does not match")]
    Length,
    #[error("not a signed extrinsic of format 4")]
    Version,
    #[error("the signer is not an account id")]
    Signer,
    #[error("the bytes end early or a part does not decode")]
    Format,
    #[error("the metadata hash check is not offered by this chain")]
    MetadataHash,
}

impl Signed {
    /// Takes apart an extrinsic with its length prefix.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ExtrinsicError> {
        if bytes.len() > EXTRINSIC_BYTES_MAX {
            return Err(ExtrinsicError::TooLong);
        }
        let mut input = bytes;
        let len = Compact::<u32>::decode(&mut input).map_err(|_| ExtrinsicError::Length)?.0;
        if usize::try_from(len) != Ok(input.len()) {
            return Err(ExtrinsicError::Length);
        }
        match part::<u8>(&mut input)? {
            SIGNED_V4 => {}
            _ => return Err(ExtrinsicError::Version),
        }
        if part::<u8>(&mut input)? != 0 {
            return Err(ExtrinsicError::Signer);
        }
        let signer = part(&mut input)?;
        let signature = signature(&mut input)?;
        let before = input;
        let era = Era::decode_from(&mut input)?;
        let nonce = part::<Compact<u32>>(&mut input)?.0;
        let tip = part::<Compact<u64>>(&mut input)?.0;
        match part::<u8>(&mut input)? {
            0 => {}
            1 => return Err(ExtrinsicError::MetadataHash),
            _ => return Err(ExtrinsicError::Format),
        }
        let used = before.len().saturating_sub(input.len());
        let extra = before.get(..used).unwrap_or_default().to_vec();
        Ok(Self { signer, signature, era, nonce, tip, call: input.to_vec(), extra })
    }

    /// Whether the signature covers this extrinsic on the chain with these versions and hashes.
    pub(crate) fn is_signed_for(&self, versions: (u32, u32), genesis: &H256, birth: &H256) -> bool {
        let Signature::Known(scheme, signature) = &self.signature else { return false };
        let mut payload = self.call.clone();
        payload.extend_from_slice(&self.extra);
        (versions, genesis, birth, 0_u8).encode_to(&mut payload);
        let account = AccountId::from_bytes(self.signer);
        if payload.len() > PAYLOAD_PLAIN_MAX {
            return verify(*scheme, &account, &blake2_256(&payload), signature);
        }
        verify(*scheme, &account, &payload, signature)
    }
}

fn part<T: Decode>(input: &mut &[u8]) -> Result<T, ExtrinsicError> {
    T::decode(input).map_err(|_| ExtrinsicError::Format)
}

fn signature(input: &mut &[u8]) -> Result<Signature, ExtrinsicError> {
    match part::<u8>(input)? {
        0 => Ok(Signature::Known(Scheme::Ed25519, part(input)?)),
        1 => Ok(Signature::Known(Scheme::Sr25519, part(input)?)),
        2 => part::<[u8; 65]>(input).map(|_| Signature::Ecdsa),
        _ => Err(ExtrinsicError::Format),
    }
}

impl Era {
    fn decode_from(input: &mut &[u8]) -> Result<Self, ExtrinsicError> {
        let first = part::<u8>(input)?;
        if first == 0 {
            return Ok(Self::Immortal);
        }
        let encoded = u64::from(u16::from_le_bytes([first, part::<u8>(input)?]));
        let period = 2_u64 << (encoded % 16);
        let quantize = (period >> 12).max(1);
        let phase = (encoded >> 4).saturating_mul(quantize);
        if period < 4 || phase >= period {
            return Err(ExtrinsicError::Format);
        }
        Ok(Self::Mortal { period, phase })
    }

    /// The block whose hash the signature covers, seen from `current`; 0 is the genesis.
    pub(crate) fn birth(self, current: u64) -> u64 {
        match self {
            Self::Immortal => 0,
            Self::Mortal { period, phase } => {
                let since = current.max(phase).saturating_sub(phase);
                since.checked_div(period).unwrap_or(0).saturating_mul(period).saturating_add(phase)
            }
        }
    }
}

/// The inherent that every block begins with.
pub(crate) fn timestamp_inherent(now_ms: u64) -> Vec<u8> {
    let mut body = vec![BARE_V4, 2, 0];
    Compact(now_ms).encode_to(&mut body);
    body.encode()
}
