//! Values and files that bittensor-wallet 3.0.4 and 4.1.1 and bittensor 11.3.0 made.

use nicompute_keys::{
    EncryptionKey, Keypair, Password, Refused, Scheme, encode, is_encrypted, parse, parse_public,
    verify,
};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../testdata/wallet.json")).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn scheme(value: &Value) -> Scheme {
    text(value, "scheme").parse().unwrap()
}

/// A wrong derivation would give every user of a mnemonic another account than btcli does.
#[test]
fn derivations_agree() {
    for case in vectors()["derivation"].as_array().unwrap() {
        let scheme = scheme(case);
        let pair = if let Some(phrase) = case["mnemonic"].as_str() {
            Keypair::from_mnemonic(phrase, scheme).unwrap()
        } else if let Some(uri) = case["uri"].as_str() {
            Keypair::from_uri(uri, scheme).unwrap()
        } else {
            let mut seed = [0; 32];
            hex::decode_to_slice(text(case, "seed"), &mut seed).unwrap();
            Keypair::from_seed(seed, scheme)
        };
        assert_eq!(pair.account().to_string(), text(case, "ss58"), "{case}");
        assert_eq!(hex::encode(pair.account().as_bytes()), text(case, "public_key"));
        assert_eq!(
            scheme.crypto_type(),
            u8::try_from(case["crypto_type"].as_u64().unwrap()).unwrap()
        );
    }
}

/// Substrate's well-known ed25519 development key; a wrong domain text of the hard derivation would show here.
#[test]
fn ed25519_hard_derivation_agrees() {
    let alice = Keypair::from_uri("//Alice", Scheme::Ed25519).unwrap();
    assert_eq!(alice.account().to_string(), "5FA9nQDVg267DEd8m1ZypXLBnvN7SFxYwV7ndqSYGiN9TTpu");
    assert!(Keypair::from_uri("//Alice/soft", Scheme::Ed25519).is_err());
}

/// A signature that Python's wallet made must hold here.
#[test]
fn signatures_agree() {
    for case in vectors()["sr25519_signatures"].as_array().unwrap() {
        let message = hex::decode(text(case, "message_hex")).unwrap();
        let mut signature = [0; 64];
        hex::decode_to_slice(text(case, "signature_hex"), &mut signature).unwrap();
        let signer = text(case, "signer").parse().unwrap();
        assert!(verify(Scheme::Sr25519, &signer, &message, &signature), "{case}");
        assert!(!verify(Scheme::Ed25519, &signer, &message, &signature));
    }
}

/// A keyfile that btcli wrote must give its key, its mnemonic and the same private key bytes when we write it.
#[test]
fn plain_keyfiles_of_every_writer_are_read() {
    for case in vectors()["keyfiles_plain"].as_array().unwrap() {
        let content = text(case, "content");
        let fields: Value = serde_json::from_str(content).unwrap();
        let public = parse_public(content.as_bytes()).unwrap();
        assert_eq!(public.account.to_string(), text(&fields, "ss58Address"));
        if fields["privateKey"].is_null() {
            assert_eq!(parse(content.as_bytes()).unwrap_err(), Refused::PublicOnly);
            continue;
        }
        let pair = parse(content.as_bytes()).unwrap();
        assert_eq!(pair.account(), public.account, "{case}");
        assert_eq!(pair.scheme(), public.scheme);
        assert_eq!(pair.mnemonic(), fields["secretPhrase"].as_str());
        let ours: Value = serde_json::from_slice(&encode(&pair)).unwrap();
        for (name, value) in fields.as_object().unwrap() {
            let raw_seed = name == "secretSeed" && !value.as_str().unwrap().starts_with("0x");
            let control = value.as_str().is_some_and(|text| text.contains('\u{11}'));
            // For sr25519 it is left out: the original's wallet package takes no file with a number.
            let usual = name == "cryptoType" && *value == 1;
            assert!(raw_seed || control || usual || ours[name] == *value, "{name} of {case}");
        }
    }
}

/// Encrypted keyfiles of three writers, two passwords: the key derivation and the cipher must be theirs.
///
/// The derivation takes seconds, so it is done once a password and checked against the recorded key.
#[test]
fn encrypted_keyfiles_are_opened() {
    let vectors = vectors();
    let cases = vectors["keyfiles_encrypted_nacl"].as_array().unwrap();
    let mut keys: Vec<(&str, EncryptionKey)> = Vec::new();
    for case in cases {
        let (password, file) =
            (text(case, "password"), hex::decode(text(case, "content_hex")).unwrap());
        assert!(is_encrypted(&file));
        assert_eq!(parse(&file).unwrap_err(), Refused::PasswordNeeded);
        if !keys.iter().any(|(known, _)| *known == password) {
            keys.push((password, EncryptionKey::derive(&Password::new(password.to_owned()))));
        }
        for (known, key) in &keys {
            let opened = key.open(&file);
            if *known == password {
                let pair = parse(&opened.unwrap()).unwrap();
                assert!(pair.mnemonic().is_some(), "{case}");
            } else {
                assert_eq!(opened, Err(Refused::WrongPassword));
            }
        }
    }
    assert_eq!((cases.len(), keys.len()), (6, 2));
}
