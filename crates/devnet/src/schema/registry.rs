//! Turns the table's types into a `scale-info` registry, in one of the two profiles.

use std::collections::BTreeMap;

use scale_info::form::PortableForm;
use scale_info::{
    Field as RegistryField, Path, PortableRegistry, PortableType, Type, TypeDef, TypeDefArray,
    TypeDefCompact, TypeDefComposite, TypeDefPrimitive, TypeDefSequence, TypeDefTuple,
    TypeDefVariant, TypeParameter, Variant as RegistryVariant,
};

use super::{Field, Generic, Profile, Schema, SchemaError, Shape, Ty, TypeDecl, Variant};

/// The table with a number for every type that it uses.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) schema: Schema,
    pub(crate) profile: Profile,
    pub(crate) registry: PortableRegistry,
    ids: BTreeMap<String, u32>,
}

impl Interface {
    /// Numbers every type that the schema mentions.
    pub(crate) fn new(schema: Schema, profile: Profile) -> Result<Self, SchemaError> {
        let mut builder =
            Builder { schema: &schema, profile, ids: BTreeMap::new(), types: Vec::new() };
        builder.everything()?;
        let registry = PortableRegistry { types: builder.types };
        let ids = builder.ids;
        Ok(Self { schema, profile, registry, ids })
    }

    /// The number of a type that the schema mentions.
    pub(crate) fn id(&self, ty: &Ty) -> Result<u32, SchemaError> {
        let text = ty.to_string();
        self.ids.get(&text).copied().ok_or(SchemaError::UnknownType(text))
    }

    /// The number of a type by its name in the table.
    pub(crate) fn named(&self, name: &str) -> Result<u32, SchemaError> {
        self.id(&Ty::Name(name.to_owned()))
    }

    /// Whether a storage item is shown in this profile.
    pub(crate) fn shows(&self, item: &super::Storage) -> bool {
        !item.superset || self.profile == Profile::Flat
    }
}

type Portable = Type<PortableForm>;

struct Builder<'s> {
    schema: &'s Schema,
    profile: Profile,
    ids: BTreeMap<String, u32>,
    types: Vec<PortableType>,
}

impl Builder<'_> {
    fn everything(&mut self) -> Result<(), SchemaError> {
        let schema = self.schema;
        // Substrate's runtimes number the account first, and SDK 9.0.0 knows accounts by the number 0.
        self.id(&Ty::Name("AccountId32".to_owned()))?;
        for pallet in &schema.pallets {
            for item in &pallet.storage {
                self.id(&item.value)?;
                for (_, key) in &item.keys {
                    self.id(key)?;
                }
                if item.keys.len() > 1 {
                    let keys = item.keys.iter().map(|(_, key)| key.clone()).collect();
                    self.id(&Ty::Tuple(keys))?;
                }
            }
            for constant in &pallet.constants {
                self.id(&constant.ty)?;
            }
            for name in [&pallet.calls, &pallet.events, &pallet.errors].into_iter().flatten() {
                self.id(&Ty::Name(name.clone()))?;
            }
        }
        for extension in &schema.extensions {
            self.id(&extension.ty)?;
            self.id(&extension.additional)?;
        }
        let extrinsic = schema.extrinsic.as_ref().ok_or(SchemaError::Missing("extrinsic"))?;
        for ty in [&extrinsic.address, &extrinsic.call, &extrinsic.signature, &extrinsic.extra] {
            self.id(ty)?;
        }
        for method in &schema.apis {
            self.id(&method.output)?;
            for input in &method.inputs {
                self.id(&input.ty)?;
            }
        }
        for name in ["RuntimeCall", "RuntimeEvent", "RuntimeError", "UncheckedExtrinsic"] {
            self.id(&Ty::Name(name.to_owned()))?;
        }
        self.id(schema.runtime.as_ref().ok_or(SchemaError::Missing("runtime"))?)?;
        Ok(())
    }

    fn id(&mut self, ty: &Ty) -> Result<u32, SchemaError> {
        let text = ty.to_string();
        if let Some(id) = self.ids.get(&text) {
            return Ok(*id);
        }
        if let Some(inner) = self.flattened(ty) {
            let id = self.id(&inner)?;
            self.ids.insert(text, id);
            return Ok(id);
        }
        // The number is taken before the definition is built: calls contain calls.
        let id = u32::try_from(self.types.len())
            .map_err(|_| SchemaError::Missing("end: too many types"))?;
        self.ids.insert(text, id);
        self.types.push(PortableType { id, ty: bare(TypeDefTuple::new_portable([])) });
        let definition = self.definition(ty)?;
        if let Some(slot) = self.types.iter_mut().find(|slot| slot.id == id) {
            slot.ty = definition;
        }
        Ok(id)
    }

    /// What a newtype stands for in the flat profile.
    fn flattened(&self, ty: &Ty) -> Option<Ty> {
        let Ty::Name(name) = ty else { return None };
        match (self.profile, &self.schema.types.get(name)?.shape) {
            (Profile::Flat, Shape::Newtype(inner)) => Some(inner.clone()),
            _ => None,
        }
    }

    fn definition(&mut self, ty: &Ty) -> Result<Portable, SchemaError> {
        match ty {
            Ty::Tuple(items) => {
                let ids = items.iter().map(|item| Ok(self.id(item)?.into()));
                let ids: Vec<_> = ids.collect::<Result<_, SchemaError>>()?;
                Ok(bare(TypeDefTuple::new_portable(ids)))
            }
            Ty::Array(item, len) => Ok(bare(TypeDefArray::new(*len, self.id(item)?.into()))),
            Ty::Generic(generic, items) => self.generic(*generic, items),
            Ty::Name(name) => match primitive(name) {
                Some(primitive) => Ok(bare(primitive)),
                None => self.declared(name),
            },
        }
    }

    fn generic(&mut self, generic: Generic, items: &[Ty]) -> Result<Portable, SchemaError> {
        let mut ids = Vec::with_capacity(items.len());
        for item in items {
            ids.push(self.id(item)?);
        }
        let (Some(first), first_ty) = (ids.first().copied(), items.first()) else {
            return Err(SchemaError::UnknownType(generic.name().to_owned()));
        };
        let first_ty = first_ty.cloned().unwrap_or(Ty::Tuple(Vec::new()));
        let wrapped = |item: Ty| Ty::Generic(Generic::Vec, vec![item]);
        let params = |names: &[&str]| {
            let ids = ids.iter().map(|id| Some((*id).into())).chain(std::iter::repeat(None));
            names
                .iter()
                .zip(ids)
                .map(|(name, id)| TypeParameter::new_portable((*name).to_owned(), id))
                .collect::<Vec<_>>()
        };
        match generic {
            Generic::Vec => Ok(bare(TypeDefSequence::new(first.into()))),
            Generic::Compact => Ok(bare(TypeDefCompact::new(first.into()))),
            Generic::Option => {
                let some = self.unnamed(&first_ty)?;
                let variants = [variant("None", 0, Vec::new()), variant("Some", 1, vec![some])];
                Ok(typed(&["Option"], params(&["T"]), TypeDefVariant::new(variants)))
            }
            Generic::Result => {
                let err = items.get(1).cloned().unwrap_or(Ty::Tuple(Vec::new()));
                let (ok, err) = (self.unnamed(&first_ty)?, self.unnamed(&err)?);
                let variants = [variant("Ok", 0, vec![ok]), variant("Err", 1, vec![err])];
                Ok(typed(&["Result"], params(&["T", "E"]), TypeDefVariant::new(variants)))
            }
            Generic::BoundedVec => {
                let field = self.unnamed(&wrapped(first_ty))?;
                let path = ["bounded_collections", "bounded_vec", "BoundedVec"];
                Ok(typed(&path, params(&["T", "S"]), TypeDefComposite::new([field])))
            }
            Generic::BTreeSet => {
                let field = self.unnamed(&wrapped(first_ty))?;
                Ok(typed(&["BTreeSet"], params(&["T"]), TypeDefComposite::new([field])))
            }
            Generic::BTreeMap => {
                let field = self.unnamed(&wrapped(Ty::Tuple(items.to_vec())))?;
                Ok(typed(&["BTreeMap"], params(&["K", "V"]), TypeDefComposite::new([field])))
            }
        }
    }

    fn declared(&mut self, name: &str) -> Result<Portable, SchemaError> {
        let schema = self.schema;
        let decl =
            schema.types.get(name).ok_or_else(|| SchemaError::UnknownType(name.to_owned()))?;
        let params = self.params(decl)?;
        let path: Vec<&str> = decl.path.iter().map(String::as_str).collect();
        let definition: TypeDef<PortableForm> = match &decl.shape {
            Shape::Struct(fields) => TypeDefComposite::new(self.fields(fields)?).into(),
            Shape::Newtype(inner) => TypeDefComposite::new([self.unnamed(inner)?]).into(),
            Shape::Enum(variants) => self.variants(variants)?.into(),
            Shape::Outer => self.outer(name)?.into(),
        };
        Ok(typed(&path, params, definition))
    }

    fn params(&mut self, decl: &TypeDecl) -> Result<Vec<TypeParameter<PortableForm>>, SchemaError> {
        let mut out = Vec::with_capacity(decl.params.len());
        for (name, ty) in &decl.params {
            let id = ty.as_ref().map(|ty| self.id(ty)).transpose()?;
            out.push(TypeParameter::new_portable(name.clone(), id.map(Into::into)));
        }
        Ok(out)
    }

    fn variants(
        &mut self,
        variants: &[Variant],
    ) -> Result<TypeDefVariant<PortableForm>, SchemaError> {
        let mut out = Vec::with_capacity(variants.len());
        for item in variants {
            out.push(variant(&item.name, item.index, self.fields(&item.fields)?));
        }
        Ok(TypeDefVariant::new(out))
    }

    /// One of the enums over pallets.
    fn outer(&mut self, name: &str) -> Result<TypeDefVariant<PortableForm>, SchemaError> {
        let schema = self.schema;
        let mut out = Vec::new();
        for pallet in &schema.pallets {
            let inner = match name {
                "RuntimeCall" => &pallet.calls,
                "RuntimeEvent" => &pallet.events,
                _ => &pallet.errors,
            };
            let Some(inner) = inner else { continue };
            let field = self.unnamed(&Ty::Name(inner.clone()))?;
            out.push(variant(&pallet.name, pallet.index, vec![field]));
        }
        Ok(TypeDefVariant::new(out))
    }

    fn fields(
        &mut self,
        fields: &[Field],
    ) -> Result<Vec<RegistryField<PortableForm>>, SchemaError> {
        let mut out = Vec::with_capacity(fields.len());
        for field in fields {
            let id = self.id(&field.ty)?;
            let text = Some(field.ty.to_string());
            out.push(RegistryField::new(field.name.clone(), id.into(), text, Vec::new()));
        }
        Ok(out)
    }

    fn unnamed(&mut self, ty: &Ty) -> Result<RegistryField<PortableForm>, SchemaError> {
        let id = self.id(ty)?;
        Ok(RegistryField::new(None, id.into(), Some(ty.to_string()), Vec::new()))
    }
}

fn primitive(name: &str) -> Option<TypeDefPrimitive> {
    Some(match name {
        "bool" => TypeDefPrimitive::Bool,
        "char" => TypeDefPrimitive::Char,
        "str" => TypeDefPrimitive::Str,
        "u8" => TypeDefPrimitive::U8,
        "u16" => TypeDefPrimitive::U16,
        "u32" => TypeDefPrimitive::U32,
        "u64" => TypeDefPrimitive::U64,
        "u128" => TypeDefPrimitive::U128,
        "i8" => TypeDefPrimitive::I8,
        "i16" => TypeDefPrimitive::I16,
        "i32" => TypeDefPrimitive::I32,
        "i64" => TypeDefPrimitive::I64,
        "i128" => TypeDefPrimitive::I128,
        _ => return None,
    })
}

fn variant(
    name: &str,
    index: u8,
    fields: Vec<RegistryField<PortableForm>>,
) -> RegistryVariant<PortableForm> {
    RegistryVariant { name: name.to_owned(), fields, index, docs: Vec::new() }
}

fn bare(definition: impl Into<TypeDef<PortableForm>>) -> Portable {
    Type::new(Path::default(), [], definition, Vec::new())
}

fn typed(
    path: &[&str],
    params: Vec<TypeParameter<PortableForm>>,
    definition: impl Into<TypeDef<PortableForm>>,
) -> Portable {
    let path = Path::from_segments_unchecked(path.iter().map(|segment| (*segment).to_owned()));
    Type::new(path, params, definition, Vec::new())
}
