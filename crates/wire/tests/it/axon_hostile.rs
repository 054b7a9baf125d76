//! Everything a hostile or broken peer may do to a request of the v1.9.0 axon.

use std::sync::LazyLock;

use nicompute_market::AccountId;
use nicompute_wire::axon::{
    Allocate, Challenge, HEADER_VALUE_BYTES_MAX, Head, HeadError, NotVerified, Ping, Received,
    Specs, Synapse, UUID_BYTES_MAX, Verified, error_body, message_of, shown_name, sign_answer,
    verify_call,
};
use proptest::prelude::*;

use crate::axon::{axon_key, lines, parse, vectors};

const SIGNED: [&str; 5] = [
    "bt_header_dendrite_nonce",
    "bt_header_dendrite_uuid",
    "bt_header_dendrite_hotkey",
    "bt_header_dendrite_signature",
    "computed_body_hash",
];

type Lines = Vec<(String, String)>;

fn request() -> Lines {
    static RECORDED: LazyLock<Lines> =
        LazyLock::new(|| lines(&vectors()["exchanges"][1]["request"]));
    RECORDED.clone()
}

fn request_body() -> Vec<u8> {
    static RECORDED: LazyLock<Vec<u8>> = LazyLock::new(|| {
        vectors()["exchanges"][1]["request"]["body"].as_str().unwrap().as_bytes().to_vec()
    });
    RECORDED.clone()
}

fn read(lines: &[(String, String)]) -> Result<Head, HeadError> {
    Head::parse(lines.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

fn with(lines: &Lines, name: &str, value: Option<&str>) -> Lines {
    let mut changed: Lines = lines.iter().filter(|(known, _)| known != name).cloned().collect();
    changed.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    changed
}

fn verdict(lines: &Lines) -> Result<Verified, NotVerified> {
    let now = parse(&request()).dendrite.nonce.unwrap() + 1;
    verify_call(&parse(lines), &axon_key().hotkey(), now)
}

/// The holes of the original that let anybody send an old request again, or one that nobody signed like this.
#[test]
fn what_the_original_lets_through_is_refused() {
    let good = request();
    assert!(verdict(&good).is_ok());
    let changed = |name: &str, value| verdict(&with(&good, name, value)).unwrap_err();
    assert_eq!(changed("bt_header_dendrite_version", None), NotVerified::OldVersion);
    assert_eq!(changed("bt_header_dendrite_version", Some("7001999")), NotVerified::OldVersion);
    assert!(verdict(&with(&good, "bt_header_dendrite_version", Some("7002000"))).is_ok());
    assert_eq!(changed("bt_header_dendrite_uuid", None), NotVerified::Missing("UUID"));
    assert_eq!(changed("bt_header_dendrite_uuid", Some("")), NotVerified::Malformed("UUID"));
    let long = "u".repeat(UUID_BYTES_MAX + 1);
    assert_eq!(changed("bt_header_dendrite_uuid", Some(&long)), NotVerified::Malformed("UUID"));
    assert_eq!(changed("bt_header_dendrite_nonce", None), NotVerified::Missing("Nonce"));
    assert_eq!(changed("bt_header_dendrite_hotkey", None), NotVerified::Missing("Hotkey"));
    assert_eq!(changed("bt_header_dendrite_signature", None), NotVerified::Missing("Signature"));
    assert_eq!(changed("computed_body_hash", None), NotVerified::Missing("Body Hash"));
    let nonce = parse(&good).dendrite.nonce.unwrap();
    let late = nonce + 500_000_000_000;
    let patient = with(&good, "timeout", Some("9999"));
    let late = verify_call(&parse(&patient), &axon_key().hotkey(), late);
    assert!(matches!(late, Err(NotVerified::TooOld { .. })), "the timeout is not signed");
    let early = verify_call(&parse(&good), &axon_key().hotkey(), nonce - 2_000_000_001);
    assert_eq!(early, Err(NotVerified::Ahead));
    for unsigned in ["name", "bt_header_axon_ip", "bt_header_axon_hotkey", "bt_header_dendrite_ip"]
    {
        assert!(verdict(&with(&good, unsigned, None)).is_ok(), "as the original: {unsigned}");
    }
}

/// A header that can be read in two ways, or that would be repeated into our own headers, is read in none.
#[test]
fn headers_that_can_be_read_in_two_ways_are_refused() {
    let good = request();
    for name in SIGNED.iter().chain(&["timeout", "bt_header_axon_port", "header_size"]) {
        let value = good.iter().find(|(known, _)| known == name).unwrap().1.clone();
        let mut twice = good.clone();
        twice.push((name.to_uppercase(), value));
        assert_eq!(read(&twice), Err(HeadError(name)), "{name} twice");
        assert_eq!(read(&with(&good, name, Some("a\tb"))), Err(HeadError(name)));
        assert_eq!(read(&with(&good, name, Some("é"))), Err(HeadError(name)));
    }
    for (name, value) in [
        ("bt_header_dendrite_nonce", "01"),
        ("bt_header_dendrite_nonce", "+1"),
        ("bt_header_dendrite_nonce", "18446744073709551616"),
        ("bt_header_dendrite_version", "9.0"),
        ("bt_header_axon_port", "65536"),
        ("timeout", "nan"),
        ("timeout", "inf"),
        ("timeout", "-1"),
        ("timeout", ""),
        ("timeout", "1e400"),
        ("total_size", "-1"),
    ] {
        assert_eq!(read(&with(&good, name, Some(value))), Err(HeadError(name)), "{name}: {value}");
    }
    let fits = "i".repeat(HEADER_VALUE_BYTES_MAX);
    assert!(read(&with(&good, "bt_header_dendrite_ip", Some(&fits))).is_ok());
    let over = format!("{fits}i");
    assert!(read(&with(&good, "bt_header_dendrite_ip", Some(&over))).is_err());
}

/// Whoever has us sign a refusal must not get a signature over a text of its own.
#[test]
fn nothing_is_signed_for_what_is_no_address() {
    for (name, text) in
        [("bt_header_axon_hotkey", "1.5Foreign.uuid"), ("bt_header_dendrite_hotkey", "none")]
    {
        let mut head = parse(&with(&request(), name, Some(text)));
        sign_answer(&axon_key(), &mut head, 7, "u");
        assert_eq!((head.axon.signature, head.axon.nonce), (None, None));
        assert_eq!(head.axon.hotkey, None, "nor is it repeated");
    }
}

/// Names of paths go into a header and a body of ours.
#[test]
fn a_hostile_name_is_shown_harmless() {
    assert_eq!(shown_name("Alloc\r\nx: y"), "Alloc??x??y");
    assert_eq!(shown_name(&"n".repeat(1000)).len(), 64);
}

proptest! {
    /// No change of a signed header may leave a request acceptable, whatever the change.
    #[test]
    fn a_changed_signed_header_is_refused(which in 0..SIGNED.len(), at in any::<prop::sample::Index>(), to in b' '..=b'~') {
        let good = request();
        let name = SIGNED[which];
        let value = &good.iter().find(|(known, _)| known == name).unwrap().1;
        let mut bytes = value.clone().into_bytes();
        let index = at.index(bytes.len());
        prop_assume!(!bytes[index].eq_ignore_ascii_case(&to));
        bytes[index] = to;
        let changed = with(&good, name, Some(std::str::from_utf8(&bytes).unwrap()));
        if let Ok(head) = read(&changed) {
            let now = parse(&good).dendrite.nonce.unwrap() + 1;
            prop_assert!(verify_call(&head, &axon_key().hotkey(), now).is_err());
        }
    }

    /// A decoder that a stranger can make panic takes the node down.
    #[test]
    fn no_bytes_break_the_decoders(bytes in prop::collection::vec(any::<u8>(), 0..600), name in "[a-z_]{0,40}") {
        drop(Synapse::<Allocate>::parse(&bytes));
        drop(Received::<Allocate>::parse(&bytes));
        drop(Synapse::<Challenge>::parse(&bytes));
        drop(Synapse::<Specs>::parse(&bytes));
        drop(Synapse::<Ping>::parse(&bytes));
        drop(message_of(&bytes));
        drop(Head::parse([(name.as_str(), bytes.as_slice()), ("timeout", &bytes)]));
    }

    /// A damaged body is read to something that is written and read again, or refused.
    #[test]
    fn a_damaged_body_is_read_once_and_for_all(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = request_body();
        let index = at.index(bytes.len());
        bytes[index] = to;
        if let Ok(synapse) = Synapse::<Allocate>::parse(&bytes) {
            prop_assert_eq!(&Synapse::<Allocate>::parse(&synapse.to_bytes()).unwrap(), &synapse);
            drop((synapse.body.requirement(), synapse.body.docker(), synapse.body.action()));
        }
    }

    /// Whatever is refused, its words fit into a header.
    #[test]
    fn refusals_are_plain(nonce in any::<u64>(), sender in any::<[u8; 32]>()) {
        let mut head = parse(&request());
        head.dendrite.nonce = Some(nonce);
        head.dendrite.hotkey = Some(AccountId::from_bytes(sender).to_string());
        let error = verify_call(&head, &axon_key().hotkey(), nonce).unwrap_err();
        let text = message_of(&error_body(&error.into())).unwrap();
        prop_assert!(text.len() <= HEADER_VALUE_BYTES_MAX && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
}
