//! What a node answered, decoded by its own metadata into plain values that are read by name.
//!
//! A composite of one field is nothing but that field, so that a runtime which writes `u16` and one which writes
//! `NetUid(u16)` read the same; a struct that has grown is read by the names that we know. Bounded in depth and number,
//! since both the metadata and the bytes come from outside.

use nicompute_market::AccountId;
use scale_info::form::PortableForm;
use scale_info::{Field, PortableRegistry, TypeDef, TypeDefPrimitive};
use subxt::ext::codec::{Compact, Decode};

use crate::error::ShapeError;

/// The deepest nesting of one value.
const DEPTH_MAX: u32 = 48;
/// The most values that one answer may hold: about five times a subnet of 4096 neurons.
const VALUES_MAX: u32 = 1_000_000;

/// A decoded value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plain {
    Bool(bool),
    Number(u128),
    /// A signed number, or any other primitive that this client has no use for.
    Other,
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Self>),
    Fields(Vec<(String, Self)>),
    Variant(String, Box<Self>),
}

impl Plain {
    /// Decodes a value of the given type. Bytes after it are left alone.
    pub(crate) fn decode(
        bytes: &[u8],
        type_id: u32,
        types: &PortableRegistry,
    ) -> Result<Self, ShapeError> {
        Decoder { bytes, types, values: 0 }.value(type_id, 0)
    }

    pub(crate) fn field(&self, name: &'static str) -> Result<&Self, ShapeError> {
        self.optional_field(name).ok_or(ShapeError::Field(name))
    }

    pub(crate) fn optional_field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Fields(fields) => {
                fields.iter().find(|(known, _)| known == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    pub(crate) fn number(&self) -> Result<u128, ShapeError> {
        match self {
            Self::Number(value) => Ok(*value),
            _ => Err(ShapeError::Kind("a number")),
        }
    }

    pub(crate) fn u64(&self) -> Result<u64, ShapeError> {
        u64::try_from(self.number()?).map_err(|_| ShapeError::Kind("a number below 2^64"))
    }

    pub(crate) fn u32(&self) -> Result<u32, ShapeError> {
        u32::try_from(self.number()?).map_err(|_| ShapeError::Kind("a number below 2^32"))
    }

    pub(crate) fn u16(&self) -> Result<u16, ShapeError> {
        u16::try_from(self.number()?).map_err(|_| ShapeError::Kind("a number below 2^16"))
    }

    pub(crate) fn u8(&self) -> Result<u8, ShapeError> {
        u8::try_from(self.number()?).map_err(|_| ShapeError::Kind("a number below 2^8"))
    }

    pub(crate) fn bool(&self) -> Result<bool, ShapeError> {
        match self {
            Self::Bool(value) => Ok(*value),
            _ => Err(ShapeError::Kind("true or false")),
        }
    }

    pub(crate) fn list(&self) -> Result<&[Self], ShapeError> {
        match self {
            Self::List(items) => Ok(items),
            _ => Err(ShapeError::Kind("a list")),
        }
    }

    pub(crate) fn bytes(&self) -> Result<&[u8], ShapeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::List(items) if items.is_empty() => Ok(&[]),
            _ => Err(ShapeError::Kind("bytes")),
        }
    }

    /// Text as owners write it: bytes that are UTF-8, or nearly.
    pub(crate) fn text(&self) -> Result<String, ShapeError> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::List(items) => {
                let bytes: Result<Vec<u8>, ShapeError> = items.iter().map(Self::u8).collect();
                Ok(String::from_utf8_lossy(&bytes?).into_owned())
            }
            other => Ok(String::from_utf8_lossy(other.bytes()?).into_owned()),
        }
    }

    pub(crate) fn account(&self) -> Result<AccountId, ShapeError> {
        let bytes = self.bytes()?.try_into().map_err(|_| ShapeError::Kind("32 bytes"))?;
        Ok(AccountId::from_bytes(bytes))
    }

    /// The pair of a list of two.
    pub(crate) fn pair(&self) -> Result<(&Self, &Self), ShapeError> {
        match self.list()? {
            [first, second] => Ok((first, second)),
            _ => Err(ShapeError::Kind("a pair")),
        }
    }

    /// What an `Option` holds.
    pub(crate) fn option(&self) -> Result<Option<&Self>, ShapeError> {
        match self {
            Self::Variant(name, value) if name == "Some" => Ok(Some(value)),
            Self::Variant(name, _) if name == "None" => Ok(None),
            _ => Err(ShapeError::Kind("an option")),
        }
    }

    /// The name and the contents of an enum's value.
    pub(crate) fn variant(&self) -> Result<(&str, &Self), ShapeError> {
        match self {
            Self::Variant(name, value) => Ok((name, value)),
            _ => Err(ShapeError::Kind("a variant")),
        }
    }
}

/// Reads one value after the other from the bytes, within the bounds.
struct Decoder<'a> {
    bytes: &'a [u8],
    types: &'a PortableRegistry,
    values: u32,
}

impl Decoder<'_> {
    fn value(&mut self, type_id: u32, depth: u32) -> Result<Plain, ShapeError> {
        self.values = self.values.saturating_add(1);
        if depth > DEPTH_MAX || self.values > VALUES_MAX {
            return Err(ShapeError::Size);
        }
        let unknown = || ShapeError::Decode(format!("there is no type {type_id}"));
        let known = self.types.resolve(type_id).ok_or_else(unknown)?;
        let inner = depth.saturating_add(1);
        match &known.type_def {
            TypeDef::Composite(composite) => self.fields(&composite.fields, inner),
            TypeDef::Variant(variants) => {
                let index: u8 = self.read()?;
                let unknown = || ShapeError::Decode(format!("there is no variant {index}"));
                let variant = variants.variants.iter().find(|variant| variant.index == index);
                let variant = variant.ok_or_else(unknown)?;
                let contents = self.fields(&variant.fields, inner)?;
                Ok(Plain::Variant(variant.name.clone(), Box::new(contents)))
            }
            TypeDef::Sequence(sequence) => {
                let Compact(length) = self.read::<Compact<u32>>()?;
                self.items(sequence.type_param.id, length, inner)
            }
            TypeDef::Array(array) => self.items(array.type_param.id, array.len, inner),
            TypeDef::Tuple(tuple) => match tuple.fields.as_slice() {
                [only] => self.value(only.id, inner),
                fields => {
                    let items = fields.iter().map(|field| self.value(field.id, inner));
                    items.collect::<Result<_, _>>().map(Plain::List)
                }
            },
            TypeDef::Primitive(primitive) => self.primitive(primitive),
            TypeDef::Compact(compact) if self.is_unit(compact.type_param.id) => {
                Ok(Plain::List(Vec::new()))
            }
            TypeDef::Compact(_) => Ok(Plain::Number(self.read::<Compact<u128>>()?.0)),
            TypeDef::BitSequence(bits) => {
                let Compact(length) = self.read::<Compact<u32>>()?;
                let width = self.store_bytes(bits.bit_store_type.id)?;
                let stores = u64::from(length).div_ceil(width * 8);
                self.take(stores * width).map(|_| Plain::Other)
            }
        }
    }

    /// The fields of a struct or variant: one alone stands for itself.
    fn fields(&mut self, fields: &[Field<PortableForm>], depth: u32) -> Result<Plain, ShapeError> {
        if let [only] = fields {
            return self.value(only.ty.id, depth);
        }
        let mut values = Vec::with_capacity(fields.len());
        for field in fields {
            values.push(self.value(field.ty.id, depth)?);
        }
        let names: Option<Vec<String>> = fields.iter().map(|field| field.name.clone()).collect();
        Ok(match names {
            Some(names) if !names.is_empty() => {
                Plain::Fields(names.into_iter().zip(values).collect())
            }
            _ => Plain::List(values),
        })
    }

    fn items(&mut self, type_id: u32, length: u32, depth: u32) -> Result<Plain, ShapeError> {
        let item = self.types.resolve(type_id).map(|known| &known.type_def);
        if matches!(item, Some(TypeDef::Primitive(TypeDefPrimitive::U8))) {
            return self.take(u64::from(length)).map(|bytes| Plain::Bytes(bytes.to_vec()));
        }
        // No room is made for what is only claimed to follow.
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(self.value(type_id, depth)?);
        }
        Ok(Plain::List(items))
    }

    fn primitive(&mut self, primitive: &TypeDefPrimitive) -> Result<Plain, ShapeError> {
        let skipped = match primitive {
            TypeDefPrimitive::Bool => return self.read().map(Plain::Bool),
            TypeDefPrimitive::Str => return self.read().map(Plain::Text),
            TypeDefPrimitive::U8 => return Ok(Plain::Number(self.read::<u8>()?.into())),
            TypeDefPrimitive::U16 => return Ok(Plain::Number(self.read::<u16>()?.into())),
            TypeDefPrimitive::U32 => return Ok(Plain::Number(self.read::<u32>()?.into())),
            TypeDefPrimitive::U64 => return Ok(Plain::Number(self.read::<u64>()?.into())),
            TypeDefPrimitive::U128 => return self.read().map(Plain::Number),
            TypeDefPrimitive::I8 => 1,
            TypeDefPrimitive::I16 => 2,
            TypeDefPrimitive::Char | TypeDefPrimitive::I32 => 4,
            TypeDefPrimitive::I64 => 8,
            TypeDefPrimitive::I128 => 16,
            TypeDefPrimitive::U256 | TypeDefPrimitive::I256 => 32,
        };
        self.take(skipped).map(|_| Plain::Other)
    }

    fn read<T: Decode>(&mut self) -> Result<T, ShapeError> {
        T::decode(&mut self.bytes).map_err(|error| ShapeError::Decode(error.to_string()))
    }

    fn take(&mut self, length: u64) -> Result<&[u8], ShapeError> {
        let length = usize::try_from(length).map_err(|_| ShapeError::Size)?;
        let missing = || ShapeError::Decode("the bytes end too early".to_owned());
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or_else(missing)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// Whether a type has no value but one, and no bytes.
    fn is_unit(&self, type_id: u32) -> bool {
        let known = self.types.resolve(type_id).map(|known| &known.type_def);
        match known {
            Some(TypeDef::Tuple(tuple)) => tuple.fields.is_empty(),
            Some(TypeDef::Composite(composite)) => composite.fields.is_empty(),
            _ => false,
        }
    }

    /// The bytes of one store of a bit sequence.
    fn store_bytes(&self, type_id: u32) -> Result<u64, ShapeError> {
        match self.types.resolve(type_id).map(|known| &known.type_def) {
            Some(TypeDef::Primitive(TypeDefPrimitive::U8)) => Ok(1),
            Some(TypeDef::Primitive(TypeDefPrimitive::U16)) => Ok(2),
            Some(TypeDef::Primitive(TypeDefPrimitive::U32)) => Ok(4),
            Some(TypeDef::Primitive(TypeDefPrimitive::U64)) => Ok(8),
            _ => Err(ShapeError::Kind("a bit sequence of whole bytes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use parity_scale_codec::Encode;
    use scale_info::{MetaType, Registry, TypeInfo};

    use super::*;

    #[derive(Encode, TypeInfo)]
    struct NetUid(u16);
    #[derive(Encode, TypeInfo)]
    struct Alpha {
        rao: u64,
    }
    #[derive(Encode, TypeInfo)]
    struct Account([u8; 32]);
    #[derive(Encode, TypeInfo)]
    struct Old {
        netuid: u16,
        stake: Vec<(Account, u64)>,
        name: Vec<u8>,
    }
    #[derive(Encode, TypeInfo)]
    struct New {
        netuid: NetUid,
        stake: Vec<(Account, Alpha)>,
        name: Vec<u8>,
        grown: Option<i64>,
    }
    #[derive(TypeInfo)]
    #[expect(dead_code, reason = "only its description is used")]
    enum Nested {
        End,
        More(Box<Self>),
    }

    fn decode<T: Encode + TypeInfo + 'static>(value: &T) -> Result<Plain, ShapeError> {
        decode_bytes::<T>(&value.encode())
    }

    fn decode_bytes<T: TypeInfo + 'static>(bytes: &[u8]) -> Result<Plain, ShapeError> {
        let mut registry = Registry::new();
        let id = registry.register_type(&MetaType::new::<T>()).id;
        Plain::decode(bytes, id, &PortableRegistry::from(registry))
    }

    /// A client that trips over `NetUid(u16)` can talk to one runtime version only.
    #[test]
    fn newtypes_read_like_what_they_hold() {
        let stake = |account, rao| vec![(Account([account; 32]), rao)];
        let old = Old { netuid: 27, stake: stake(1, 5), name: b"ni".to_vec() };
        let new = New {
            netuid: NetUid(27),
            stake: vec![(Account([1; 32]), Alpha { rao: 5 })],
            name: b"ni".to_vec(),
            grown: Some(-1),
        };
        for value in [decode(&old).unwrap(), decode(&new).unwrap()] {
            assert_eq!(value.field("netuid").unwrap().u16(), Ok(27));
            let stake = value.field("stake").unwrap().list().unwrap();
            let (account, rao) = stake[0].pair().unwrap();
            assert_eq!(account.account(), Ok(AccountId::from_bytes([1; 32])));
            assert_eq!(rao.u64(), Ok(5));
            assert_eq!(value.field("name").unwrap().bytes(), Ok(&b"ni"[..]));
            assert_eq!(value.field("missing"), Err(ShapeError::Field("missing")));
        }
    }

    /// A list of one element must stay a list, or a subnet with one neuron could not be read.
    #[test]
    fn a_list_of_one_stays_a_list() {
        assert_eq!(decode(&vec![7_u16]).unwrap(), Plain::List(vec![Plain::Number(7)]));
        assert_eq!(decode(&vec![Compact(7_u64)]).unwrap().list().unwrap().len(), 1);
        assert_eq!(decode(&Vec::<u8>::new()).unwrap().bytes(), Ok(&[][..]));
        assert_eq!(decode(&Some(3_u16)).unwrap().option(), Ok(Some(&Plain::Number(3))));
        assert_eq!(decode(&None::<u16>).unwrap().option(), Ok(None));
    }

    /// A hostile node must not overflow our stack with a value of a thousand levels.
    #[test]
    fn depth_is_bounded() {
        let nested = |levels| [vec![1; levels], vec![0]].concat();
        assert!(decode_bytes::<Nested>(&nested(48)).is_ok());
        assert_eq!(decode_bytes::<Nested>(&nested(49)), Err(ShapeError::Size));
        assert_eq!(decode_bytes::<Nested>(&nested(1 << 20)), Err(ShapeError::Size));
        let many = [Compact(100_u32).encode(), nested(1 << 20)].concat();
        assert_eq!(decode_bytes::<Vec<Nested>>(&many), Err(ShapeError::Size));
    }

    /// Nor fill our memory with a list of nothing that claims a billion elements.
    #[test]
    fn number_is_bounded() {
        let billion = Compact(1_u32 << 30).encode();
        assert_eq!(decode_bytes::<Vec<()>>(&billion), Err(ShapeError::Size));
        assert!(matches!(decode_bytes::<Vec<u64>>(&billion), Err(ShapeError::Decode(_))));
    }

    proptest::proptest! {
        /// Bytes that panic the decoder would let a node kill every daemon.
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let outcome = decode_bytes::<New>(&bytes).is_ok();
            proptest::prop_assert!(!outcome || bytes.len() > 3);
            drop(decode_bytes::<Nested>(&bytes));
            drop(decode_bytes::<Vec<Old>>(&bytes));
        }
    }
}
