//! The part of YAML that specs are written in, as JSON values: mappings, sequences, scalars, one document.
//!
//! Anchors, aliases and tags are refused: no tool writes them into specs, and they are how a short file becomes a large
//! value. Depth and number of nodes are bounded.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

use super::SpecProblem;

/// How deep a spec nests. Specs have seven levels.
const DEPTH_MAX: usize = 24;
/// Nodes of one spec, keys included.
const NODES_MAX: usize = 200_000;

/// What is open while a document is read.
enum Open {
    Sequence(Vec<Value>),
    Mapping(Map<String, Value>, Option<String>),
}

pub(super) fn parse(text: &str) -> Result<Value, SpecProblem> {
    let mut open: Vec<Open> = Vec::new();
    let mut document = None;
    let mut nodes = 0_usize;
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| refused(error.to_string()))?;
        nodes += 1;
        if nodes > NODES_MAX {
            return Err(refused(format!("more than {NODES_MAX} nodes")));
        }
        let value = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
            Event::DocumentStart(_) if document.is_none() => continue,
            Event::DocumentStart(_) => return Err(refused("more than one document")),
            Event::Alias(_) => return Err(refused("an alias")),
            Event::Scalar(_, _, anchor, ref tag) if anchor != 0 || tag.is_some() => {
                return Err(refused("an anchor or a tag"));
            }
            Event::SequenceStart(anchor, ref tag) | Event::MappingStart(anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                return Err(refused("an anchor or a tag"));
            }
            Event::Scalar(text, style, _, _) => scalar(&text, style),
            Event::SequenceStart(..) => {
                start(&mut open, Open::Sequence(Vec::new()))?;
                continue;
            }
            Event::MappingStart(..) => {
                start(&mut open, Open::Mapping(Map::new(), None))?;
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::Sequence(items)) => Value::Array(items),
                Some(Open::Mapping(entries, None)) => Value::Object(entries),
                Some(Open::Mapping(_, Some(_))) | None => return Err(refused("an end too many")),
            },
        };
        put(&mut open, &mut document, value)?;
    }
    document.ok_or_else(|| refused("no document"))
}

fn refused(problem: impl Into<String>) -> SpecProblem {
    SpecProblem::Yaml(problem.into())
}

fn start(open: &mut Vec<Open>, what: Open) -> Result<(), SpecProblem> {
    // A key that is not a scalar has no place in JSON.
    if open.len() >= DEPTH_MAX {
        return Err(refused(format!("deeper than {DEPTH_MAX} levels")));
    }
    if matches!(open.last(), Some(Open::Mapping(_, None))) {
        return Err(refused("a key that is no text"));
    }
    open.push(what);
    Ok(())
}

fn put(open: &mut [Open], document: &mut Option<Value>, value: Value) -> Result<(), SpecProblem> {
    match open.last_mut() {
        None => *document = Some(value),
        Some(Open::Sequence(items)) => items.push(value),
        Some(Open::Mapping(entries, key)) => match key.take() {
            None => *key = Some(key_text(value)?),
            Some(key) => {
                if entries.insert(key.clone(), value).is_some() {
                    return Err(refused(format!("the key {key:?} twice")));
                }
            }
        },
    }
    Ok(())
}

fn key_text(value: Value) -> Result<String, SpecProblem> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            Err(refused("a key that is no text"))
        }
    }
}

/// A plain scalar is null, a truth value or a whole number where YAML 1.2 says so; everything else is text.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
    }
}
