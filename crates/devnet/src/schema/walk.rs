//! Walks SCALE bytes by their type: does a value decode, and what is the all-zero value of a type.
//!
//! The bytes may come from outside, so depth and lengths are bounded before anything is followed.

use parity_scale_codec::{Compact, Decode as _};
use scale_info::form::PortableForm;
use scale_info::{Field, PortableRegistry, TypeDef, TypeDefPrimitive};

/// How deep a value may nest. Subtensor's own limit for nested calls is lower.
const DEPTH_MAX: u32 = 64;

/// Bytes that are not a value of the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a value of this type")]
pub(crate) struct NotThisType;

/// Moves `input` past one value of the type.
pub(crate) fn skip(
    registry: &PortableRegistry,
    id: u32,
    input: &mut &[u8],
) -> Result<(), NotThisType> {
    value(registry, id, input, 0)
}

fn value(
    registry: &PortableRegistry,
    id: u32,
    input: &mut &[u8],
    depth: u32,
) -> Result<(), NotThisType> {
    if depth > DEPTH_MAX {
        return Err(NotThisType);
    }
    let deeper = depth.saturating_add(1);
    match &registry.resolve(id).ok_or(NotThisType)?.type_def {
        TypeDef::Composite(composite) => fields(registry, &composite.fields, input, deeper),
        TypeDef::Variant(variants) => {
            let index = *take(input, 1)?.first().ok_or(NotThisType)?;
            let variant = variants.variants.iter().find(|variant| variant.index == index);
            fields(registry, &variant.ok_or(NotThisType)?.fields, input, deeper)
        }
        TypeDef::Sequence(sequence) => {
            let len = Compact::<u32>::decode(input).map_err(|_| NotThisType)?.0;
            // Every item of every sequence in the table takes at least one byte.
            if usize::try_from(len).map_err(|_| NotThisType)? > input.len() {
                return Err(NotThisType);
            }
            repeat(registry, sequence.type_param.id, len, input, deeper)
        }
        TypeDef::Array(array) => repeat(registry, array.type_param.id, array.len, input, deeper),
        TypeDef::Tuple(tuple) => {
            tuple.fields.iter().try_for_each(|item| value(registry, item.id, input, deeper))
        }
        TypeDef::Primitive(primitive) => primitive_value(primitive, input),
        TypeDef::Compact(compact) => {
            let inner = registry.resolve(compact.type_param.id).ok_or(NotThisType)?;
            match &inner.type_def {
                TypeDef::Tuple(tuple) if tuple.fields.is_empty() => Ok(()),
                _ => Compact::<u128>::decode(input).map(|_| ()).map_err(|_| NotThisType),
            }
        }
        TypeDef::BitSequence(_) => Err(NotThisType),
    }
}

fn fields(
    registry: &PortableRegistry,
    fields: &[Field<PortableForm>],
    input: &mut &[u8],
    depth: u32,
) -> Result<(), NotThisType> {
    fields.iter().try_for_each(|field| value(registry, field.ty.id, input, depth))
}

fn repeat(
    registry: &PortableRegistry,
    id: u32,
    count: u32,
    input: &mut &[u8],
    depth: u32,
) -> Result<(), NotThisType> {
    (0..count).try_for_each(|_| value(registry, id, input, depth))
}

fn take<'i>(input: &mut &'i [u8], len: usize) -> Result<&'i [u8], NotThisType> {
    let (head, rest) = input.split_at_checked(len).ok_or(NotThisType)?;
    *input = rest;
    Ok(head)
}

fn primitive_value(primitive: &TypeDefPrimitive, input: &mut &[u8]) -> Result<(), NotThisType> {
    if *primitive == TypeDefPrimitive::Bool {
        return match take(input, 1)? {
            [0 | 1] => Ok(()),
            _ => Err(NotThisType),
        };
    }
    if *primitive == TypeDefPrimitive::Str {
        let len = Compact::<u32>::decode(input).map_err(|_| NotThisType)?.0;
        let bytes = take(input, usize::try_from(len).map_err(|_| NotThisType)?)?;
        return std::str::from_utf8(bytes).map(|_| ()).map_err(|_| NotThisType);
    }
    take(input, width(primitive)).map(|_| ())
}

const fn width(primitive: &TypeDefPrimitive) -> usize {
    match primitive {
        TypeDefPrimitive::Bool
        | TypeDefPrimitive::Str
        | TypeDefPrimitive::U8
        | TypeDefPrimitive::I8 => 1,
        TypeDefPrimitive::U16 | TypeDefPrimitive::I16 => 2,
        TypeDefPrimitive::Char | TypeDefPrimitive::U32 | TypeDefPrimitive::I32 => 4,
        TypeDefPrimitive::U64 | TypeDefPrimitive::I64 => 8,
        TypeDefPrimitive::U128 | TypeDefPrimitive::I128 => 16,
        TypeDefPrimitive::U256 | TypeDefPrimitive::I256 => 32,
    }
}

/// The value of a type whose every part is zero, empty or the first variant: the default of most storage items.
pub(super) fn zero(registry: &PortableRegistry, id: u32, out: &mut Vec<u8>) {
    let Some(ty) = registry.resolve(id) else { return };
    match &ty.type_def {
        TypeDef::Composite(composite) => {
            composite.fields.iter().for_each(|field| zero(registry, field.ty.id, out));
        }
        TypeDef::Variant(variants) => {
            if let Some(first) = variants.variants.iter().min_by_key(|variant| variant.index) {
                out.push(first.index);
                first.fields.iter().for_each(|field| zero(registry, field.ty.id, out));
            }
        }
        TypeDef::Array(array) => {
            (0..array.len).for_each(|_| zero(registry, array.type_param.id, out));
        }
        TypeDef::Tuple(tuple) => tuple.fields.iter().for_each(|item| zero(registry, item.id, out)),
        TypeDef::Primitive(primitive) => out.extend(std::iter::repeat_n(0, width(primitive))),
        TypeDef::Sequence(_) | TypeDef::Compact(_) | TypeDef::BitSequence(_) => out.push(0),
    }
}
