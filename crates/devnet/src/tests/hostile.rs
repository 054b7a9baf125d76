//! Bytes from outside that mean harm.

use std::time::Duration;

use proptest::prelude::*;

use super::vectors::{bytes, recorded};
use crate::call::Call;
use crate::extrinsic::{EXTRINSIC_BYTES_MAX, ExtrinsicError, Signed};
use crate::face::Face;
use crate::runtime::upgrade::Runtime;
use crate::schema::{Interface, Profile};

pub(super) fn interface() -> &'static Interface {
    static INTERFACE: std::sync::OnceLock<Interface> = std::sync::OnceLock::new();
    INTERFACE.get_or_init(|| {
        Face::new(Runtime::first(Profile::Flat), Duration::from_secs(1)).unwrap().interface
    })
}

fn take_apart(raw: &[u8]) {
    if let Ok(signed) = Signed::decode(raw) {
        let verified = signed.is_signed_for((461, 1), &[0; 32], &[0; 32]);
        assert!(!verified, "random bytes carry no signature for this chain");
        drop(Call::decode(interface(), 0, &signed.call));
    }
    drop(Call::decode(interface(), 0, raw));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A chain that random bytes can stop is stopped by its first curious visitor.
    #[test]
    fn random_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..400)) {
        take_apart(&raw);
    }

    /// Nearly valid bytes reach deeper than random ones.
    #[test]
    fn mutated_extrinsics_never_panic(
        which in 0_usize..11,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let all = recorded();
        let mut raw = bytes(&all[which]["extrinsic_hex_with_length_prefix"]);
        for (at, value) in edits {
            let at = at.index(raw.len());
            raw[at] = value;
        }
        take_apart(&raw);
        take_apart(&raw[..cut.index(raw.len())]);
    }

    /// A call of a known pallet with any body must decode whole or be refused.
    #[test]
    fn any_body_of_a_known_pallet(
        pallet in prop::sample::select(vec![0_u8, 2, 5, 7, 12, 18, 26, 30]),
        call in any::<u8>(),
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut raw = vec![pallet, call];
        raw.extend(body);
        drop(Call::decode(interface(), 0, &raw));
    }
}

/// Calls inside calls without end would overflow the stack.
#[test]
fn deeply_nested_calls_are_refused() {
    let mut raw = [12, 0].repeat(20_000);
    raw.extend([0, 0, 0]);
    assert!(Call::decode(interface(), 0, &raw).is_err());
}

/// A length that promises more than there is must not reserve memory for it.
#[test]
fn promised_lengths_are_not_believed() {
    let raw = [7, 0, 27, 0, 0xfe, 0xff, 0xff, 0xff, 1, 0];
    assert!(Call::decode(interface(), 0, &raw).is_err());
    let long = vec![0; EXTRINSIC_BYTES_MAX + 1];
    assert_eq!(Signed::decode(&long), Err(ExtrinsicError::TooLong));
    assert_eq!(Signed::decode(&long[..EXTRINSIC_BYTES_MAX]), Err(ExtrinsicError::Length));
}
