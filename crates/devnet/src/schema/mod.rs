//! The chain's interface as a table: pallets, calls, storage, events, errors, types and runtime APIs.
//!
//! The table is text (`schema/*.txt`, one fact a line) that is parsed when the chain starts. From it come both metadata
//! versions, the hashers of storage keys, and the check that an incoming call decodes at all. The table holds names,
//! indices and types; it says nothing about what a call does.

mod metadata;
mod parse;
mod registry;
mod walk;

use std::collections::BTreeMap;
use std::fmt;

use parity_scale_codec::{Decode, Encode};

pub(crate) use metadata::MetadataSet;
pub(crate) use registry::Interface;
pub(crate) use walk::skip;

/// The pallet of subnets, and the type of its calls.
const SUBTENSOR: u8 = 7;
const SUBTENSOR_CALLS: &str = "PalletSubtensorCall";

const TABLES: [(&str, &str); 5] = [
    ("types.txt", include_str!("../../schema/types.txt")),
    ("substrate.txt", include_str!("../../schema/substrate.txt")),
    ("subtensor.txt", include_str!("../../schema/subtensor.txt")),
    ("side_pallets.txt", include_str!("../../schema/side_pallets.txt")),
    ("runtime.txt", include_str!("../../schema/runtime.txt")),
];

/// How the single-field wrappers of today's runtime are shown to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Encode, Decode)]
pub enum Profile {
    /// As their primitives, with the few storage items that clients of other runtime versions ask for. Every known client
    /// works with it.
    #[default]
    Flat,
    /// As composites, the way the newest runtime has them.
    Modern,
}

/// A mistake in the interface table. It is compiled in and loaded by a test, so nobody ever sees this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A line that does not parse.
    #[error("{table} line {line}: expected {expected}")]
    Syntax {
        /// The file of the table.
        table: &'static str,
        /// Its line, from 1.
        line: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// A type that no line defines.
    #[error("type {0} is not defined")]
    UnknownType(String),
    /// A default or constant that is not hex.
    #[error("the value of {0} is not hex")]
    Value(String),
    /// A line that every table needs.
    #[error("the table has no {0} line")]
    Missing(&'static str),
}

/// A reference to a type, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ty {
    Name(String),
    Tuple(Vec<Self>),
    Array(Box<Self>, u32),
    Generic(Generic, Vec<Self>),
}

/// The generic types that the table may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generic {
    Vec,
    Compact,
    Option,
    Result,
    BoundedVec,
    BTreeMap,
    BTreeSet,
}

impl Generic {
    pub(crate) const ALL: [(&'static str, Self); 7] = [
        ("Vec", Self::Vec),
        ("Compact", Self::Compact),
        ("Option", Self::Option),
        ("Result", Self::Result),
        ("BoundedVec", Self::BoundedVec),
        ("BTreeMap", Self::BTreeMap),
        ("BTreeSet", Self::BTreeSet),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, generic)| *generic == self).map_or("", |(name, _)| name)
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Tuple(items) => {
                f.write_str("(")?;
                list(f, items)?;
                f.write_str(")")
            }
            Self::Array(item, len) => write!(f, "[{item}; {len}]"),
            Self::Generic(generic, items) => {
                write!(f, "{}<", generic.name())?;
                list(f, items)?;
                f.write_str(">")
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: &[Ty]) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: Option<String>,
    pub(crate) ty: Ty,
}

#[derive(Debug, Clone)]
pub(crate) struct Variant {
    pub(crate) index: u8,
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Struct(Vec<Field>),
    Enum(Vec<Variant>),
    Newtype(Ty),
    Outer,
}

#[derive(Debug, Clone)]
pub(crate) struct TypeDecl {
    pub(crate) path: Vec<String>,
    pub(crate) params: Vec<(String, Option<Ty>)>,
    pub(crate) shape: Shape,
}

/// How a part of a storage key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hasher {
    Identity,
    Twox64Concat,
    Blake2_128Concat,
}

#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub(crate) name: String,
    pub(crate) keys: Vec<(Hasher, Ty)>,
    pub(crate) value: Ty,
    pub(crate) optional: bool,
    pub(crate) default: Option<Vec<u8>>,
    /// Shown by the flat profile only.
    pub(crate) superset: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Constant {
    pub(crate) name: String,
    pub(crate) ty: Ty,
    pub(crate) value: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Pallet {
    pub(crate) name: String,
    pub(crate) index: u8,
    pub(crate) storage: Vec<Storage>,
    pub(crate) constants: Vec<Constant>,
    pub(crate) calls: Option<String>,
    pub(crate) events: Option<String>,
    pub(crate) errors: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Extension {
    pub(crate) name: String,
    pub(crate) ty: Ty,
    pub(crate) additional: Ty,
}

#[derive(Debug, Clone)]
pub(crate) struct ExtrinsicDecl {
    pub(crate) address: Ty,
    pub(crate) call: Ty,
    pub(crate) signature: Ty,
    pub(crate) extra: Ty,
}

#[derive(Debug, Clone)]
pub(crate) struct ApiMethod {
    pub(crate) api: String,
    pub(crate) name: String,
    pub(crate) inputs: Vec<Field>,
    pub(crate) output: Ty,
}

/// The whole table, parsed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schema {
    pub(crate) types: BTreeMap<String, TypeDecl>,
    pub(crate) pallets: Vec<Pallet>,
    pub(crate) extrinsic: Option<ExtrinsicDecl>,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) runtime: Option<Ty>,
    pub(crate) apis: Vec<ApiMethod>,
}

impl Schema {
    /// Parses the tables that are compiled in.
    pub(crate) fn load() -> Result<Self, SchemaError> {
        let mut schema = Self::default();
        for (table, text) in TABLES {
            parse::table(&mut schema, table, text)?;
        }
        Ok(schema)
    }

    /// Renumbers Subtensor's calls and adds a storage item, as an upgrade of the runtime may.
    pub(crate) fn upgrade(&mut self, calls_moved_by: u8, added: Option<(&str, &str)>) {
        let calls = self.types.get_mut(SUBTENSOR_CALLS).map(|decl| &mut decl.shape);
        if let Some(Shape::Enum(variants)) = calls {
            for variant in variants {
                variant.index = variant.index.wrapping_add(calls_moved_by);
            }
        }
        let Some((name, ty)) = added else { return };
        if let Some(pallet) = self.pallets.iter_mut().find(|pallet| pallet.index == SUBTENSOR) {
            pallet.storage.push(Storage {
                name: name.to_owned(),
                keys: Vec::new(),
                value: Ty::Name(ty.to_owned()),
                optional: false,
                default: None,
                superset: false,
            });
        }
    }

    /// A storage item by its names.
    #[cfg(test)]
    pub(crate) fn storage(&self, pallet: &str, name: &str) -> Option<&Storage> {
        let pallet = self.pallets.iter().find(|candidate| candidate.name == pallet)?;
        pallet.storage.iter().find(|item| item.name == name)
    }
}
