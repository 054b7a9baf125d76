//! Reads one table: a line is one fact, an indented line continues the variants of the enum above it.

use super::{
    ApiMethod, Constant, Extension, ExtrinsicDecl, Field, Generic, Hasher, Pallet, Schema,
    SchemaError, Shape, Storage, Ty, TypeDecl, Variant,
};

/// Adds every fact of a table to the schema.
pub(super) fn table(
    schema: &mut Schema,
    table: &'static str,
    text: &str,
) -> Result<(), SchemaError> {
    let mut open_enum: Option<String> = None;
    for (at, line) in text.lines().enumerate() {
        let mut cursor = Cursor { rest: line, table, line: at.saturating_add(1) };
        if line.trim().is_empty() || line.starts_with("//") {
            continue;
        }
        if line.starts_with("  ") {
            let name = open_enum.as_ref().ok_or_else(|| cursor.fail("an enum above"))?;
            let variants = variants(&mut cursor)?;
            if let Some(TypeDecl { shape: Shape::Enum(all), .. }) = schema.types.get_mut(name) {
                all.extend(variants);
            }
            continue;
        }
        open_enum = fact(schema, &mut cursor)?;
        cursor.end()?;
    }
    Ok(())
}

/// One unindented line. Returns the enum that it opens.
fn fact(schema: &mut Schema, cursor: &mut Cursor<'_>) -> Result<Option<String>, SchemaError> {
    match cursor.word()? {
        "struct" => {
            let (name, mut decl) = declaration(cursor)?;
            decl.shape = Shape::Struct(cursor.fields()?);
            schema.types.insert(name, decl);
        }
        "enum" => {
            let (name, decl) = declaration(cursor)?;
            schema.types.insert(name.clone(), decl);
            return Ok(Some(name));
        }
        "newtype" => {
            let (name, mut decl) = declaration(cursor)?;
            decl.shape = Shape::Newtype(cursor.ty()?);
            schema.types.insert(name, decl);
        }
        "outer" => {
            let (name, mut decl) = declaration(cursor)?;
            decl.shape = Shape::Outer;
            schema.types.insert(name, decl);
        }
        "pallet" => {
            let name = cursor.word()?.to_owned();
            let index = cursor.number()?;
            schema.pallets.push(Pallet { name, index, ..Pallet::default() });
        }
        "extrinsic" => schema.extrinsic = Some(extrinsic(cursor)?),
        "extension" => {
            let name = cursor.word()?.to_owned();
            let ty = cursor.ty()?;
            cursor.expect("/")?;
            schema.extensions.push(Extension { name, ty, additional: cursor.ty()? });
        }
        "runtime" => schema.runtime = Some(cursor.ty()?),
        "api" => schema.apis.push(api(cursor)?),
        word => pallet_fact(schema, word, cursor)?,
    }
    Ok(None)
}

/// A line that belongs to the pallet above it.
fn pallet_fact(
    schema: &mut Schema,
    word: &str,
    cursor: &mut Cursor<'_>,
) -> Result<(), SchemaError> {
    let pallet = schema.pallets.last_mut().ok_or_else(|| cursor.fail("a pallet above"))?;
    match word {
        "storage" => pallet.storage.push(storage(cursor)?),
        "superset" => {
            pallet.storage.push(Storage { superset: true, ..storage(cursor)? });
        }
        "calls" => pallet.calls = Some(cursor.word()?.to_owned()),
        "events" => pallet.events = Some(cursor.word()?.to_owned()),
        "errors" => pallet.errors = Some(cursor.word()?.to_owned()),
        "const" => {
            let name = cursor.word()?.to_owned();
            cursor.expect(":")?;
            let ty = cursor.ty()?;
            cursor.expect("=")?;
            let value = cursor.hex(&name)?;
            pallet.constants.push(Constant { name, ty, value });
        }
        _ => return Err(cursor.fail("a known first word")),
    }
    Ok(())
}

fn declaration(cursor: &mut Cursor<'_>) -> Result<(String, TypeDecl), SchemaError> {
    let name = cursor.word()?.to_owned();
    let mut path = vec![cursor.word()?.to_owned()];
    while cursor.take("::") {
        path.push(cursor.word()?.to_owned());
    }
    let mut params = Vec::new();
    if cursor.take("<") {
        loop {
            let param = cursor.word()?.to_owned();
            let ty = if cursor.take("=") { Some(cursor.ty()?) } else { None };
            params.push((param, ty));
            if !cursor.take(",") {
                break;
            }
        }
        cursor.expect(">")?;
    }
    Ok((name, TypeDecl { path, params, shape: Shape::Enum(Vec::new()) }))
}

/// `0 Name{field: ty} | 1 Other(ty) | 2..=9 Many([u8;N])`, the last one spelling a row of numbered variants.
fn variants(cursor: &mut Cursor<'_>) -> Result<Vec<Variant>, SchemaError> {
    let mut out = Vec::new();
    loop {
        let first: u8 = cursor.number()?;
        if cursor.take("..=") {
            let last: u8 = cursor.number()?;
            let name = cursor.word()?;
            if cursor.take("([u8;N])") {
                out.extend((first..=last).map(|index| array_row(name, index, first)));
            } else {
                let fields = cursor.fields()?;
                out.extend((first..=last).map(|index| Variant {
                    index,
                    name: format!("{name}{index}"),
                    fields: fields.clone(),
                }));
            }
        } else {
            let name = cursor.word()?.to_owned();
            let fields = if cursor.at_fields() { cursor.fields()? } else { Vec::new() };
            out.push(Variant { index: first, name, fields });
        }
        if !cursor.take("|") {
            cursor.end()?;
            return Ok(out);
        }
    }
}

/// Variant `Raw7([u8; 7])` of a row: arrays count from zero, the others by their index.
fn array_row(name: &str, index: u8, first: u8) -> Variant {
    let len = u32::from(index.saturating_sub(first));
    let ty = Ty::Array(Box::new(Ty::Name("u8".to_owned())), len);
    Variant { index, name: format!("{name}{len}"), fields: vec![Field { name: None, ty }] }
}

fn extrinsic(cursor: &mut Cursor<'_>) -> Result<ExtrinsicDecl, SchemaError> {
    cursor.expect("4 address")?;
    let address = cursor.ty()?;
    cursor.expect("call")?;
    let call = cursor.ty()?;
    cursor.expect("signature")?;
    let signature = cursor.ty()?;
    cursor.expect("extra")?;
    Ok(ExtrinsicDecl { address, call, signature, extra: cursor.ty()? })
}

fn api(cursor: &mut Cursor<'_>) -> Result<ApiMethod, SchemaError> {
    let api = cursor.word()?.to_owned();
    cursor.expect(".")?;
    let name = cursor.word()?.to_owned();
    cursor.expect("(")?;
    let inputs = cursor.field_list(")")?;
    cursor.expect("->")?;
    Ok(ApiMethod { api, name, inputs, output: cursor.ty()? })
}

fn storage(cursor: &mut Cursor<'_>) -> Result<Storage, SchemaError> {
    let name = cursor.word()?.to_owned();
    cursor.expect("[")?;
    let mut keys = Vec::new();
    while !cursor.take("]") {
        let hasher = match cursor.word()? {
            "Identity" => Hasher::Identity,
            "Twox64Concat" => Hasher::Twox64Concat,
            "Blake2_128Concat" => Hasher::Blake2_128Concat,
            _ => return Err(cursor.fail("a hasher")),
        };
        cursor.expect(":")?;
        keys.push((hasher, cursor.ty()?));
        cursor.take(",");
    }
    cursor.expect("->")?;
    let value = cursor.ty()?;
    let optional = cursor.take("?");
    let default = if cursor.take("=") { Some(cursor.hex(&name)?) } else { None };
    Ok(Storage { name, keys, value, optional, default, superset: false })
}

struct Cursor<'t> {
    rest: &'t str,
    table: &'static str,
    line: usize,
}

impl<'t> Cursor<'t> {
    fn fail(&self, expected: &'static str) -> SchemaError {
        SchemaError::Syntax { table: self.table, line: self.line, expected }
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.blanks();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &'static str) -> Result<(), SchemaError> {
        if self.take(token) { Ok(()) } else { Err(self.fail(token)) }
    }

    fn end(&mut self) -> Result<(), SchemaError> {
        self.blanks();
        if self.rest.is_empty() { Ok(()) } else { Err(self.fail("the end of the line")) }
    }

    fn word(&mut self) -> Result<&'t str, SchemaError> {
        self.blanks();
        let len = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        if len == 0 {
            return Err(self.fail("a word"));
        }
        let (word, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(word)
    }

    fn number<N: std::str::FromStr>(&mut self) -> Result<N, SchemaError> {
        let word = self.word()?;
        word.parse().map_err(|_| self.fail("a number"))
    }

    fn hex(&mut self, name: &str) -> Result<Vec<u8>, SchemaError> {
        self.blanks();
        let text = self.rest.strip_prefix("0x").ok_or_else(|| self.fail("0x"))?;
        self.rest = "";
        hex::decode(text.trim_end()).map_err(|_| SchemaError::Value(name.to_owned()))
    }

    fn at_fields(&mut self) -> bool {
        self.blanks();
        self.rest.starts_with(['{', '('])
    }

    fn fields(&mut self) -> Result<Vec<Field>, SchemaError> {
        if self.take("{") {
            return self.field_list("}");
        }
        self.expect("(")?;
        let mut out = Vec::new();
        while !self.take(")") {
            out.push(Field { name: None, ty: self.ty()? });
            self.take(",");
        }
        Ok(out)
    }

    fn field_list(&mut self, end: &str) -> Result<Vec<Field>, SchemaError> {
        let mut out = Vec::new();
        while !self.take(end) {
            let name = self.word()?.to_owned();
            self.expect(":")?;
            out.push(Field { name: Some(name), ty: self.ty()? });
            self.take(",");
        }
        Ok(out)
    }

    fn ty(&mut self) -> Result<Ty, SchemaError> {
        if self.take("(") {
            return Ok(Ty::Tuple(self.types(")")?));
        }
        if self.take("[") {
            let item = self.ty()?;
            self.expect(";")?;
            let len = self.number()?;
            self.expect("]")?;
            return Ok(Ty::Array(Box::new(item), len));
        }
        let word = self.word()?;
        match Generic::ALL.iter().find(|(name, _)| *name == word) {
            None => Ok(Ty::Name(word.to_owned())),
            Some((_, generic)) => {
                self.expect("<")?;
                Ok(Ty::Generic(*generic, self.types(">")?))
            }
        }
    }

    fn types(&mut self, end: &str) -> Result<Vec<Ty>, SchemaError> {
        let mut out = Vec::new();
        while !self.take(end) {
            out.push(self.ty()?);
            self.take(",");
        }
        Ok(out)
    }
}
