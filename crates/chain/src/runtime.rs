//! The runtime that the node speaks: its metadata, decoded once per version, and what is encoded and decoded with it.

use nicompute_market::AccountId;
use scale_value::Value;
use subxt::ext::codec::{Decode, Encode};
use subxt::metadata::Metadata;
use subxt::{ArcMetadata, OfflineClient, OfflineClientAtBlock, SubstrateConfig};

use crate::dispatch::ModuleError;
use crate::error::{ReadError, ShapeError};
use crate::link::Hash;
use crate::plain::Plain;

/// The newest metadata version that this client reads.
const METADATA_VERSION_MAX: u32 = 16;
/// The pallet of nearly everything that Subtensor is.
pub(crate) const SUBTENSOR: &str = "SubtensorModule";
/// The pallet of what hotkeys publish.
pub(crate) const COMMITMENTS: &str = "Commitments";

/// One version of the node's runtime.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) spec_version: u32,
    pub(crate) transaction_version: u32,
    pub(crate) offline: OfflineClientAtBlock<SubstrateConfig>,
    /// The connection that had no metadata but the old fourteenth, if this is that.
    pub(crate) makeshift_of: Option<u64>,
    metadata: ArcMetadata,
}

/// A storage item to be read: its key, and how to read its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    value_type: u32,
    default: Option<Vec<u8>>,
}

impl Runtime {
    pub(crate) fn new(
        (spec_version, transaction_version): (u32, u32),
        genesis: Hash,
        (metadata, makeshift_of): (&[u8], Option<u64>),
    ) -> Result<Self, ReadError> {
        let metadata = Metadata::decode_from(metadata)
            .map_err(|error| metadata_error(ShapeError::Decode(error.to_string())))?
            .arc();
        let any_block = subxt::config::substrate::SpecVersionForRange {
            block_range: 0..u64::MAX,
            spec_version,
            transaction_version,
        };
        let config = SubstrateConfig::builder()
            .set_genesis_hash(genesis)
            .set_metadata_for_spec_versions([(spec_version, metadata.clone())])
            .set_spec_version_for_block_ranges([any_block])
            .build();
        let offline = OfflineClient::new_with_config(config)
            .at_block(0_u64)
            .map_err(|error| metadata_error(ShapeError::Decode(error.to_string())))?;
        Ok(Self { spec_version, transaction_version, offline, makeshift_of, metadata })
    }

    /// The version to ask the node for, of those that it has.
    pub(crate) fn metadata_version(answer: &[u8]) -> Result<u32, ReadError> {
        let versions = Vec::<u32>::decode(&mut &*answer)
            .map_err(|error| metadata_error(ShapeError::Decode(error.to_string())))?;
        let readable = versions.into_iter().filter(|version| *version <= METADATA_VERSION_MAX);
        readable.max().ok_or_else(|| ReadError::Missing("metadata version 14, 15 or 16".to_owned()))
    }

    /// The metadata inside the node's answer to `Metadata_metadata_at_version`.
    pub(crate) fn unwrap_metadata(answer: &[u8]) -> Result<Vec<u8>, ReadError> {
        Option::<Vec<u8>>::decode(&mut &*answer)
            .map_err(|error| metadata_error(ShapeError::Decode(error.to_string())))?
            .ok_or_else(|| ReadError::Missing("metadata of the version that it lists".to_owned()))
    }

    /// A storage item under its keys.
    pub(crate) fn entry(
        &self,
        pallet: &str,
        name: &str,
        keys: Vec<Value>,
    ) -> Result<Entry, ReadError> {
        let missing = || ReadError::Missing(format!("storage {pallet}.{name}"));
        let known = self
            .metadata
            .pallet_by_name(pallet)
            .and_then(|pallet| pallet.storage()?.entry_by_name(name))
            .ok_or_else(missing)?;
        let address = subxt::storage::dynamic::<Vec<Value>, Value>(pallet, name);
        let key = self
            .offline
            .storage()
            .entry(address)
            .and_then(|entry| entry.fetch_key(keys))
            .map_err(|_| missing())?;
        let default = known.default_value().map(<[u8]>::to_vec);
        Ok(Entry { key, value_type: known.value_ty(), default })
    }

    /// The beginning of the keys of all values of a storage item under its first keys.
    pub(crate) fn prefix(
        &self,
        pallet: &str,
        name: &str,
        keys: Vec<Value>,
    ) -> Result<Vec<u8>, ReadError> {
        let address = subxt::storage::dynamic::<Vec<Value>, Value>(pallet, name);
        self.offline
            .storage()
            .entry(address)
            .and_then(|entry| entry.iter_key(keys))
            .map_err(|_| ReadError::Missing(format!("storage {pallet}.{name}")))
    }

    /// A constant of a pallet.
    pub(crate) fn constant(
        &self,
        about: &'static str,
        pallet: &str,
        name: &str,
    ) -> Result<Plain, ReadError> {
        let constant = self
            .metadata
            .pallet_by_name(pallet)
            .and_then(|pallet| pallet.constant_by_name(name))
            .ok_or_else(|| ReadError::Missing(format!("constant {pallet}.{name}")))?;
        Plain::decode(constant.value(), constant.ty(), self.metadata.types())
            .map_err(|source| ReadError::Shape { about, source })
    }

    /// The value of a storage item, or its default; none if it has neither.
    pub(crate) fn value(
        &self,
        about: &'static str,
        entry: &Entry,
        stored: Option<&[u8]>,
    ) -> Result<Option<Plain>, ReadError> {
        let Some(bytes) = stored.or(entry.default.as_deref()) else { return Ok(None) };
        Plain::decode(bytes, entry.value_type, self.metadata.types())
            .map(Some)
            .map_err(|source| ReadError::Shape { about, source })
    }

    /// The bytes of a runtime API's arguments.
    pub(crate) fn api_arguments(
        &self,
        api: &str,
        method: &str,
        arguments: Vec<Value>,
    ) -> Result<Vec<u8>, ReadError> {
        let payload = subxt::runtime_apis::dynamic::<Vec<Value>, Value>(api, method, arguments);
        let encoded = self.offline.runtime_apis().encode_args(payload);
        encoded.map_err(|_| ReadError::Missing(format!("runtime API {api}.{method}")))
    }

    /// A runtime API's answer.
    pub(crate) fn api_answer(
        &self,
        api: &str,
        method: &'static str,
        bytes: &[u8],
    ) -> Result<Plain, ReadError> {
        let output = self
            .metadata
            .runtime_api_trait_by_name(api)
            .and_then(|api| Some(api.method_by_name(method)?.output_ty()))
            .ok_or_else(|| ReadError::Missing(format!("runtime API {api}.{method}")))?;
        Plain::decode(bytes, output, self.metadata.types())
            .map_err(|source| ReadError::Shape { about: method, source })
    }

    pub(crate) fn has_api(&self, api: &str, method: &str) -> bool {
        let api = self.metadata.runtime_api_trait_by_name(api);
        api.is_some_and(|api| api.method_by_name(method).is_some())
    }

    pub(crate) fn has_storage(&self, pallet: &str, name: &str) -> bool {
        let pallet = self.metadata.pallet_by_name(pallet);
        pallet.and_then(|pallet| pallet.storage()?.entry_by_name(name)).is_some()
    }

    pub(crate) fn has_call(&self, pallet: &str, name: &str) -> bool {
        let pallet = self.metadata.pallet_by_name(pallet);
        pallet.is_some_and(|pallet| pallet.call_variant_by_name(name).is_some())
    }

    /// The name of what undid an extrinsic.
    pub(crate) fn dispatch_error(&self, error: &Plain) -> Result<ModuleError, ShapeError> {
        let (kind, contents) = error.variant()?;
        if kind == "Module" {
            let index = contents.field("index")?.u8()?;
            let code = contents.field("error")?;
            // Older runtimes have one byte here, newer ones four, of which the first is the code.
            let code = code.u8().ok().or_else(|| code.bytes().ok()?.first().copied());
            return Ok(self.module_error(index, code.unwrap_or_default()));
        }
        let inner = contents.variant().map_or(kind, |(name, _)| name);
        Ok(ModuleError { pallet: "Runtime".to_owned(), name: inner.to_owned() })
    }

    fn module_error(&self, index: u8, code: u8) -> ModuleError {
        let pallet = self.metadata.pallet_by_error_index(index);
        let name = pallet.as_ref().and_then(|pallet| pallet.error_variant_by_index(code));
        ModuleError {
            pallet: pallet.as_ref().map_or_else(|| index.to_string(), |p| p.name().to_owned()),
            name: name.map_or_else(|| code.to_string(), |variant| variant.name.clone()),
        }
    }
}

/// The argument of `Metadata_metadata_at_version`.
pub(crate) fn encode_u32(value: u32) -> Vec<u8> {
    value.encode()
}

/// An account as an argument or a key.
pub(crate) fn account_value(account: &AccountId) -> Value {
    Value::from_bytes(account.as_bytes())
}

/// A number as an argument or a key.
pub(crate) fn number_value(number: impl Into<u128>) -> Value {
    Value::u128(number.into())
}

const fn metadata_error(source: ShapeError) -> ReadError {
    ReadError::Shape { about: "its metadata", source }
}
