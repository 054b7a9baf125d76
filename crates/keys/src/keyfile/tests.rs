//! Unit tests of the reader's tolerance; golden files of real writers are in `tests/it`.

use super::*;

const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

fn pair() -> Keypair {
    Keypair::from_mnemonic(PHRASE, Scheme::Sr25519).unwrap()
}

fn text(pair: &Keypair) -> String {
    String::from_utf8(encode(pair).to_vec()).unwrap()
}

/// A keyfile that we write and cannot read again is a lost key.
#[test]
fn what_is_written_is_read() {
    for scheme in Scheme::ALL {
        let pairs = [
            Keypair::generate(scheme),
            Keypair::from_seed([9; 32], scheme),
            Keypair::from_uri("//Alice", scheme).unwrap(),
        ];
        for pair in pairs {
            let again = parse(text(&pair).as_bytes()).unwrap();
            assert_eq!((again.account(), again.scheme()), (pair.account(), scheme));
            assert_eq!(again.mnemonic(), pair.mnemonic());
            let public = Public { account: pair.account(), scheme };
            assert_eq!(parse_public(&encode_public(&public)), Ok(public));
            assert_eq!(parse_public(&encode(&pair)), Ok(public));
        }
    }
}

/// Sealing under a key and opening it again must give the same text, and any changed byte must be noticed.
#[test]
fn sealing_round_trips_and_notices_changes() {
    let key = EncryptionKey::from_bytes([3; 32]);
    let sealed = key.seal(b"secret");
    assert_ne!(sealed, key.seal(b"secret"), "the nonce must be fresh");
    assert_eq!(key.open(&sealed).unwrap().as_slice(), b"secret");
    for at in nacl::MAGIC.len()..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert_eq!(key.open(&changed), Err(Refused::WrongPassword), "byte {at}");
    }
    assert_eq!(key.open(&sealed[..44]), Err(Refused::Damaged));
    assert_eq!(key.open(b"x"), Err(Refused::NotAKeyfile));
    assert_eq!(EncryptionKey::from_bytes([4; 32]).open(&sealed), Err(Refused::WrongPassword));
    assert_eq!(format!("{key:?}"), "EncryptionKey(…)");
}

/// Quirk (b): very old files have a space before `ss58Address`.
#[test]
fn a_space_before_the_address_is_read() {
    let old = text(&pair()).replace("\"ss58Address\"", "\" ss58Address\"");
    assert_eq!(parse(old.as_bytes()).unwrap().account(), pair().account());
}

/// Quirk (c): files from before the JSON form hold a bare secret.
#[test]
fn bare_secrets_are_read() {
    let seed = hex::encode(pair().seed().unwrap());
    let key = hex::encode(pair().private_key());
    let bare = [format!("0x{seed}"), seed, format!("0x{key}\n"), key, format!("{PHRASE}\n")];
    for file in &bare {
        assert_eq!(parse(file.as_bytes()).unwrap().account(), pair().account());
    }
}

/// The original's wallet package, 3.0.4, fails on a number in a keyfile: it could use no wallet that we made.
#[test]
fn only_the_unusual_scheme_is_stated() {
    let ed = Keypair::from_mnemonic(PHRASE, Scheme::Ed25519).unwrap();
    assert!(text(&ed).contains("\"cryptoType\":0"));
    assert!(!text(&pair()).contains("cryptoType"));
    let public = Public { account: pair().account(), scheme: Scheme::Sr25519 };
    let file = encode_public(&public);
    assert!(!String::from_utf8_lossy(&file).contains("cryptoType"));
    assert_eq!(parse_public(&file).unwrap(), public);
}

/// A file that says the wrong scheme still gives the key whose address it states, and no other.
#[test]
fn the_other_scheme_is_tried() {
    let ed = Keypair::from_mnemonic(PHRASE, Scheme::Ed25519).unwrap();
    let wrong = text(&ed).replace("\"cryptoType\":0", "\"cryptoType\":1");
    let read = parse(wrong.as_bytes()).unwrap();
    assert_eq!((read.account(), read.scheme()), (ed.account(), Scheme::Ed25519));
}

/// A file that contradicts itself must give no key: coins would go to an address that nobody can spend from.
#[test]
fn contradictions_are_refused() {
    let other = Keypair::from_seed([1; 32], Scheme::Sr25519).account();
    let (own_hex, other_hex) =
        (hex::encode(pair().account().as_bytes()), hex::encode(other.as_bytes()));
    let (own, text) = (pair().account().to_string(), text(&pair()));
    let swapped = text.replace(&own, &other.to_string());
    assert_eq!(parse(swapped.as_bytes()).unwrap_err(), Refused::AddressMismatch(other));
    let all = swapped.replace(&own_hex, &other_hex);
    assert_eq!(parse(all.as_bytes()).unwrap_err(), Refused::AddressMismatch(other));
    let scheme = text.replacen('{', "{\"cryptoType\":7,", 1);
    assert_eq!(parse(scheme.as_bytes()).unwrap_err(), Refused::Scheme(7));
    let short = text.replace(&own_hex, "00");
    assert_eq!(parse(short.as_bytes()).unwrap_err(), Refused::PublicKey("publicKey"));
    let no_address = text.replace(&own, "5abc");
    assert!(matches!(parse(no_address.as_bytes()), Err(Refused::Address(_))));
}

/// Files of other programs and of other times must be named for what they are.
#[test]
fn foreign_files_are_named() {
    let polkadot = br#"{"encoded":"AAAA","encoding":{"content":["pkcs8","sr25519"],"version":"3"},"address":"5abc"}"#;
    assert_eq!(parse(polkadot).unwrap_err(), Refused::PolkadotJs);
    assert_eq!(parse_public(polkadot).unwrap_err(), Refused::PolkadotJs);
    let vault = b"$ANSIBLE_VAULT;1.1;AES256\n3061";
    assert_eq!(parse(vault).unwrap_err(), Refused::OldEncryption("$ANSIBLE_VAULT"));
    assert_eq!(parse(b"gAAAAABl").unwrap_err(), Refused::OldEncryption("Fernet"));
    assert_eq!(parse(b"$NACL....").unwrap_err(), Refused::PasswordNeeded);
    let public = Public { account: pair().account(), scheme: Scheme::Sr25519 };
    assert_eq!(parse(&encode_public(&public)).unwrap_err(), Refused::PublicOnly);
    for junk in [&b""[..], b"{", b"{}", b"[]", b"\xff\xfe", b"hello", b"{\"a\":1}", b"null"] {
        assert_eq!(parse(junk).unwrap_err(), Refused::NotAKeyfile, "{junk:?}");
        assert_eq!(parse_public(junk).unwrap_err(), Refused::NotAKeyfile, "{junk:?}");
    }
    for reason in [Refused::PasswordNeeded, Refused::PolkadotJs, Refused::NotAKeyfile] {
        assert!(reason.hint().is_some());
    }
}

/// An error message must never repeat what the file holds.
#[test]
fn errors_hold_no_secrets() {
    let file = text(&pair()).replace(&pair().account().to_string(), "5abc");
    let error = KeyfileError::Refused {
        path: PathBuf::from("/w/hot"),
        reason: parse(file.as_bytes()).unwrap_err(),
    };
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("bottom") && !shown.contains("05d65584"), "{shown}");
}

/// Whatever a hostile file holds, the reader gives a key or an error and never ends the process.
#[test]
fn mutated_files_never_panic() {
    let good = encode(&pair());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    for _ in 0..400 {
        let mut bytes = good.to_vec();
        for _ in 0..=draw(4) {
            let at = draw(bytes.len());
            match draw(3) {
                0 => bytes[at] = u8::try_from(draw(256)).unwrap(),
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, b'"'),
            }
        }
        if let Ok(read) = parse(&bytes) {
            assert_eq!(read.account(), pair().account());
        }
        drop(parse_public(&bytes));
    }
}
