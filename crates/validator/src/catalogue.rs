//! Catalogues that come in files: signed by somebody whom the operator names, and never older than the last one.
//!
//! The signature stands in a file of its own, three lines of text, and covers BLAKE3 of the catalogue's bytes. Which version
//! was used last is remembered in the store, per signer, so that nobody can put an old file back.

use nicompute_keys::{Keypair, Scheme, verify};
use nicompute_market::{AccountId, Catalogue, CatalogueError};

/// The longest signature file that is read.
pub const CATALOGUE_SIGNATURE_BYTES_MAX: usize = 1024;

/// The first line of a signature file, and of the message that is signed.
const MAGIC: &str = "nicompute-catalogue/1";
const SIGNATURE_LEN: usize = 64;

/// Who vouched for a catalogue, and for which bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogueOrigin {
    /// The key that signed.
    pub signer: AccountId,
    /// BLAKE3 of the file.
    pub digest: [u8; 32],
}

/// Why a catalogue cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueSignError {
    /// Nobody could use it.
    #[error("the catalogue cannot be used")]
    Unusable(#[from] CatalogueError),
    /// Catalogues are signed with sr25519, as everything on the network is.
    #[error("catalogues are signed with sr25519 keys, this one is {0}")]
    Scheme(Scheme),
}

/// Why a signed catalogue is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignedCatalogueError {
    /// The signature file is none.
    #[error("the signature file is not one of a catalogue: {0}")]
    Form(&'static str),
    /// Somebody else signed.
    #[error("the catalogue is signed by {got}, not by {expected}")]
    Signer {
        /// Who was named by the operator.
        expected: AccountId,
        /// Who signed.
        got: AccountId,
    },
    /// The catalogue was changed after it was signed, or the signature is not the signer's.
    #[error("the signature does not belong to this catalogue")]
    Signature,
    /// Rightly signed, and of no use.
    #[error("the signed catalogue cannot be used")]
    Unusable(#[from] CatalogueError),
}

/// Signs a catalogue that holds; gives the text of the signature file.
///
/// # Errors
/// Where the catalogue is none, or the key is of another scheme.
pub fn sign_catalogue(text: &str, key: &Keypair) -> Result<String, CatalogueSignError> {
    Catalogue::parse(text)?;
    if key.scheme() != Scheme::Sr25519 {
        return Err(CatalogueSignError::Scheme(key.scheme()));
    }
    let signature = hex::encode(key.sign(&message(text)));
    Ok(format!("{MAGIC}\n{}\n{signature}\n", key.account()))
}

/// Checks the signature of a catalogue and reads it.
///
/// # Errors
/// Where the signature is not this signer's over these bytes, or the catalogue is none.
pub fn open_catalogue(
    text: &str,
    signature_file: &str,
    expected: &AccountId,
) -> Result<(Catalogue, CatalogueOrigin), SignedCatalogueError> {
    if signature_file.len() > CATALOGUE_SIGNATURE_BYTES_MAX {
        return Err(SignedCatalogueError::Form("it is longer than any"));
    }
    let lines: Vec<&str> = signature_file.lines().collect();
    let [magic, signer, signature] = *lines.as_slice() else {
        return Err(SignedCatalogueError::Form("it does not have three lines"));
    };
    if magic != MAGIC {
        return Err(SignedCatalogueError::Form("its first line is not nicompute-catalogue/1"));
    }
    let form = |_| SignedCatalogueError::Form("its second line is no SS58 address");
    let got: AccountId = signer.parse().map_err(form)?;
    if got != *expected {
        return Err(SignedCatalogueError::Signer { expected: *expected, got });
    }
    let mut bytes = [0_u8; SIGNATURE_LEN];
    hex::decode_to_slice(signature, &mut bytes)
        .map_err(|_| SignedCatalogueError::Form("its third line is not 128 hexadecimal digits"))?;
    if !verify(Scheme::Sr25519, expected, &message(text), &bytes) {
        return Err(SignedCatalogueError::Signature);
    }
    let digest = *blake3::hash(text.as_bytes()).as_bytes();
    Ok((Catalogue::parse(text)?, CatalogueOrigin { signer: got, digest }))
}

fn message(text: &str) -> Vec<u8> {
    let digest = blake3::hash(text.as_bytes());
    [MAGIC.as_bytes(), b"\n", digest.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version = 3\ndevices_max = 8\n[[class]]\nname = 'a'\ndevice = 'gpu'\nbase_score_micro = 1\nbytes_min = 1\n";

    fn key(uri: &str) -> Keypair {
        Keypair::from_uri(uri, Scheme::Sr25519).unwrap()
    }

    /// A catalogue that anybody can change decides who is paid.
    #[test]
    fn only_the_named_signer_is_believed() {
        let (alice, bob) = (key("//Alice"), key("//Bob"));
        let signature = sign_catalogue(TEXT, &alice).unwrap();
        let (catalogue, origin) = open_catalogue(TEXT, &signature, &alice.account()).unwrap();
        assert_eq!((catalogue.version, origin.signer), (3, alice.account()));
        let other = open_catalogue(TEXT, &signature, &bob.account()).unwrap_err();
        assert!(matches!(other, SignedCatalogueError::Signer { .. }), "{other}");
        let dearer = TEXT.replace("micro = 1", "micro = 2");
        let changed = open_catalogue(&dearer, &signature, &alice.account()).unwrap_err();
        assert!(matches!(changed, SignedCatalogueError::Signature), "{changed}");
        // A signer's line that was replaced does not make another's signature one's own.
        let posed = signature.replace(&alice.account().to_string(), &bob.account().to_string());
        let posed = open_catalogue(TEXT, &posed, &bob.account()).unwrap_err();
        assert!(matches!(posed, SignedCatalogueError::Signature), "{posed}");
    }

    /// A damaged signature file must be named as such.
    #[test]
    fn damaged_signature_files_are_refused() {
        let alice = key("//Alice");
        let good = sign_catalogue(TEXT, &alice).unwrap();
        let cut = &good[..good.len() - 10];
        let other = good.replace("/1", "/2");
        let longer = format!("{good}one more line\n");
        let no_key = good.replace(&alice.account().to_string(), "5Nobody");
        for bad in ["", "x", cut, &other, &longer, &no_key, &"x\n".repeat(2_000)] {
            let error = open_catalogue(TEXT, bad, &alice.account()).unwrap_err();
            assert!(matches!(error, SignedCatalogueError::Form(_)), "{bad}: {error}");
        }
    }

    /// What nobody could use must not be signed.
    #[test]
    fn only_usable_catalogues_are_signed() {
        let refused = sign_catalogue("version = 0", &key("//Alice"));
        assert!(matches!(refused, Err(CatalogueSignError::Unusable(_))));
        let ed25519 = Keypair::from_seed([1; 32], Scheme::Ed25519);
        assert!(matches!(sign_catalogue(TEXT, &ed25519), Err(CatalogueSignError::Scheme(_))));
    }
}
