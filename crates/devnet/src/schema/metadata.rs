//! Writes the interface as metadata V14 (what `state_getMetadata` answers) and V15 (with runtime APIs).

use std::collections::BTreeMap;

use frame_metadata::{RuntimeMetadata, RuntimeMetadataPrefixed, v14, v15};
use parity_scale_codec::Encode as _;
use scale_info::form::PortableForm;

use super::{Hasher, Interface, Pallet, SchemaError, Storage, Ty, walk};

/// `meta`, little endian: the first four bytes of all metadata.
const MAGIC: u32 = 0x6174_656d;

/// Both metadata versions, encoded once.
#[derive(Debug)]
pub(crate) struct MetadataSet {
    pub(crate) v14: Vec<u8>,
    pub(crate) v15: Vec<u8>,
}

/// A constant that the running chain decides, by pallet and name.
pub(crate) type Overrides = BTreeMap<(&'static str, &'static str), Vec<u8>>;

impl MetadataSet {
    /// Encodes the interface. `overrides` replaces or adds constants of pallets.
    pub(crate) fn new(interface: &Interface, overrides: &Overrides) -> Result<Self, SchemaError> {
        let v14 = RuntimeMetadata::V14(Writer { interface, overrides }.v14()?);
        let v15 = RuntimeMetadata::V15(Writer { interface, overrides }.v15()?);
        Ok(Self {
            v14: RuntimeMetadataPrefixed(MAGIC, v14).encode(),
            v15: RuntimeMetadataPrefixed(MAGIC, v15).encode(),
        })
    }
}

struct Writer<'i> {
    interface: &'i Interface,
    overrides: &'i Overrides,
}

impl Writer<'_> {
    fn v14(&self) -> Result<v14::RuntimeMetadataV14, SchemaError> {
        let mut pallets = Vec::new();
        for pallet in &self.interface.schema.pallets {
            let parts = self.parts(pallet)?;
            pallets.push(v14::PalletMetadata {
                name: pallet.name.clone(),
                storage: parts.storage,
                calls: parts.calls,
                event: parts.events,
                constants: parts.constants,
                error: parts.errors,
                index: pallet.index,
            });
        }
        let mut signed_extensions = Vec::new();
        for extension in &self.interface.schema.extensions {
            signed_extensions.push(v14::SignedExtensionMetadata {
                identifier: extension.name.clone(),
                ty: self.interface.id(&extension.ty)?.into(),
                additional_signed: self.interface.id(&extension.additional)?.into(),
            });
        }
        Ok(v14::RuntimeMetadataV14 {
            types: self.interface.registry.clone(),
            pallets,
            extrinsic: v14::ExtrinsicMetadata {
                ty: self.interface.named("UncheckedExtrinsic")?.into(),
                version: 4,
                signed_extensions,
            },
            ty: self.runtime()?.into(),
        })
    }

    fn v15(&self) -> Result<v15::RuntimeMetadataV15, SchemaError> {
        let interface = self.interface;
        let mut pallets = Vec::new();
        for pallet in &interface.schema.pallets {
            let parts = self.parts(pallet)?;
            pallets.push(v15::PalletMetadata {
                name: pallet.name.clone(),
                storage: parts.storage,
                calls: parts.calls,
                event: parts.events,
                constants: parts.constants,
                error: parts.errors,
                index: pallet.index,
                docs: Vec::new(),
            });
        }
        Ok(v15::RuntimeMetadataV15 {
            types: interface.registry.clone(),
            pallets,
            extrinsic: self.extrinsic()?,
            ty: self.runtime()?.into(),
            apis: self.apis()?,
            outer_enums: v15::OuterEnums {
                call_enum_ty: interface.named("RuntimeCall")?.into(),
                event_enum_ty: interface.named("RuntimeEvent")?.into(),
                error_enum_ty: interface.named("RuntimeError")?.into(),
            },
            custom: v15::CustomMetadata { map: BTreeMap::new() },
        })
    }

    fn runtime(&self) -> Result<u32, SchemaError> {
        let ty = self.interface.schema.runtime.as_ref();
        self.interface.id(ty.ok_or(SchemaError::Missing("runtime"))?)
    }

    fn extrinsic(&self) -> Result<v15::ExtrinsicMetadata<PortableForm>, SchemaError> {
        let interface = self.interface;
        let decl = interface.schema.extrinsic.as_ref();
        let decl = decl.ok_or(SchemaError::Missing("extrinsic"))?;
        let mut signed_extensions = Vec::new();
        for extension in &interface.schema.extensions {
            signed_extensions.push(v15::SignedExtensionMetadata {
                identifier: extension.name.clone(),
                ty: interface.id(&extension.ty)?.into(),
                additional_signed: interface.id(&extension.additional)?.into(),
            });
        }
        Ok(v15::ExtrinsicMetadata {
            version: 4,
            address_ty: interface.id(&decl.address)?.into(),
            call_ty: interface.id(&decl.call)?.into(),
            signature_ty: interface.id(&decl.signature)?.into(),
            extra_ty: interface.id(&decl.extra)?.into(),
            signed_extensions,
        })
    }

    fn apis(&self) -> Result<Vec<v15::RuntimeApiMetadata<PortableForm>>, SchemaError> {
        let mut apis: Vec<v15::RuntimeApiMetadata<PortableForm>> = Vec::new();
        for method in &self.interface.schema.apis {
            let mut inputs = Vec::new();
            for input in &method.inputs {
                inputs.push(v15::RuntimeApiMethodParamMetadata {
                    name: input.name.clone().unwrap_or_default(),
                    ty: self.interface.id(&input.ty)?.into(),
                });
            }
            let entry = v15::RuntimeApiMethodMetadata {
                name: method.name.clone(),
                inputs,
                output: self.interface.id(&method.output)?.into(),
                docs: Vec::new(),
            };
            match apis.iter_mut().find(|api| api.name == method.api) {
                Some(api) => api.methods.push(entry),
                None => apis.push(v15::RuntimeApiMetadata {
                    name: method.api.clone(),
                    methods: vec![entry],
                    docs: Vec::new(),
                }),
            }
        }
        Ok(apis)
    }

    fn parts(&self, pallet: &Pallet) -> Result<Parts, SchemaError> {
        let interface = self.interface;
        let named =
            |name: &Option<String>| name.as_ref().map(|name| interface.named(name)).transpose();
        let mut entries = Vec::new();
        for item in pallet.storage.iter().filter(|item| interface.shows(item)) {
            entries.push(self.storage(item)?);
        }
        let storage = v14::PalletStorageMetadata { prefix: pallet.name.clone(), entries };
        Ok(Parts {
            storage: (!storage.entries.is_empty()).then_some(storage),
            calls: named(&pallet.calls)?.map(|id| v14::PalletCallMetadata { ty: id.into() }),
            events: named(&pallet.events)?.map(|id| v14::PalletEventMetadata { ty: id.into() }),
            errors: named(&pallet.errors)?.map(|id| v14::PalletErrorMetadata { ty: id.into() }),
            constants: self.constants(pallet)?,
        })
    }

    fn storage(
        &self,
        item: &Storage,
    ) -> Result<v14::StorageEntryMetadata<PortableForm>, SchemaError> {
        let interface = self.interface;
        let value = interface.id(&item.value)?;
        let ty = match item.keys.as_slice() {
            [] => v14::StorageEntryType::Plain(value.into()),
            keys => {
                let key = match keys {
                    [(_, only)] => only.clone(),
                    many => Ty::Tuple(many.iter().map(|(_, key)| key.clone()).collect()),
                };
                v14::StorageEntryType::Map {
                    hashers: keys.iter().map(|(hasher, _)| shown(*hasher)).collect(),
                    key: interface.id(&key)?.into(),
                    value: value.into(),
                }
            }
        };
        let mut default = item.default.clone().unwrap_or_default();
        if item.optional {
            default = vec![0];
        } else if default.is_empty() {
            walk::zero(&interface.registry, value, &mut default);
        }
        let modifier = if item.optional {
            v14::StorageEntryModifier::Optional
        } else {
            v14::StorageEntryModifier::Default
        };
        Ok(v14::StorageEntryMetadata {
            name: item.name.clone(),
            modifier,
            ty,
            default,
            docs: Vec::new(),
        })
    }

    fn constants(
        &self,
        pallet: &Pallet,
    ) -> Result<Vec<v14::PalletConstantMetadata<PortableForm>>, SchemaError> {
        let mut out = Vec::new();
        for constant in &pallet.constants {
            let decided = self
                .overrides
                .iter()
                .find(|((of, name), _)| *of == pallet.name && *name == constant.name);
            out.push(v14::PalletConstantMetadata {
                name: constant.name.clone(),
                ty: self.interface.id(&constant.ty)?.into(),
                value: decided.map_or_else(|| constant.value.clone(), |(_, value)| value.clone()),
                docs: Vec::new(),
            });
        }
        Ok(out)
    }
}

struct Parts {
    storage: Option<v14::PalletStorageMetadata<PortableForm>>,
    calls: Option<v14::PalletCallMetadata<PortableForm>>,
    events: Option<v14::PalletEventMetadata<PortableForm>>,
    errors: Option<v14::PalletErrorMetadata<PortableForm>>,
    constants: Vec<v14::PalletConstantMetadata<PortableForm>>,
}

const fn shown(hasher: Hasher) -> v14::StorageHasher {
    match hasher {
        Hasher::Identity => v14::StorageHasher::Identity,
        Hasher::Twox64Concat => v14::StorageHasher::Twox64Concat,
        Hasher::Blake2_128Concat => v14::StorageHasher::Blake2_128Concat,
    }
}
