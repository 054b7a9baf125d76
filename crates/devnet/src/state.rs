//! The chain's key-value state, layered writes over it, and looking back at recent blocks.
//!
//! The newest state is one map. Each block keeps what it overwrote, so a read at an older block lays those old values over
//! the newest map. A call writes into a layer of its own that is dropped when the call fails.

use std::collections::BTreeMap;
use std::ops::Bound;

use parity_scale_codec::Decode;

/// Keys and values of one state.
pub(crate) type Map = BTreeMap<Vec<u8>, Vec<u8>>;
/// Changed keys: the new value, or none for a removed key.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Something that storage can be read from.
pub(crate) trait Read {
    /// The value under a key.
    fn raw(&self, key: &[u8]) -> Option<&[u8]>;
    /// Up to `limit` keys that begin with `prefix` and come after `after`, in order.
    fn keys(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Vec<u8>>;

    /// The decoded value under a key. Bytes of another type count as absent: only this program writes the state.
    fn decoded<V: Decode>(&self, key: &[u8]) -> Option<V>
    where
        Self: Sized,
    {
        V::decode(&mut self.raw(key)?).ok()
    }
}

/// The newest state with some recent blocks taken back.
#[derive(Debug)]
pub(crate) struct Past<'s> {
    map: &'s Map,
    old: BTreeMap<&'s [u8], Option<&'s [u8]>>,
}

impl<'s> Past<'s> {
    /// Takes back the blocks whose overwritten values are given, the newest block first; behind them may follow changes of
    /// another branch, the oldest first.
    pub(crate) fn new(map: &'s Map, changes: impl Iterator<Item = &'s Changes>) -> Self {
        let mut old = BTreeMap::new();
        for block in changes {
            for (key, value) in block {
                old.insert(key.as_slice(), value.as_deref());
            }
        }
        Self { map, old }
    }
}

impl Read for Past<'_> {
    fn raw(&self, key: &[u8]) -> Option<&[u8]> {
        match self.old.get(key) {
            Some(value) => *value,
            None => self.map.get(key).map(Vec::as_slice),
        }
    }

    fn keys(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Vec<u8>> {
        let start = after.map_or(Bound::Included(prefix), |key| after_bound(prefix, key));
        let mut merged: BTreeMap<&[u8], bool> = BTreeMap::new();
        // The limit counts live keys; every overlaid key may hide one.
        let wanted = limit.saturating_add(self.old.len());
        let base = self.map.range::<[u8], _>((start, Bound::Unbounded));
        for (key, _) in base.take_while(|(key, _)| key.starts_with(prefix)).take(wanted) {
            merged.insert(key, true);
        }
        let over = self.old.range::<[u8], _>((start, Bound::Unbounded));
        for (key, value) in over.take_while(|(key, _)| key.starts_with(prefix)) {
            merged.insert(key, value.is_some());
        }
        let live = merged.into_iter().filter(|(_, live)| *live);
        live.take(limit).map(|(key, _)| key.to_vec()).collect()
    }
}

fn after_bound<'k>(prefix: &'k [u8], key: &'k [u8]) -> Bound<&'k [u8]> {
    if key < prefix { Bound::Included(prefix) } else { Bound::Excluded(key) }
}

/// Writes of one block over the state before it, in layers.
#[derive(Debug)]
pub(crate) struct Overlay<'s> {
    base: &'s Map,
    block: Changes,
    call: Option<Changes>,
}

impl<'s> Overlay<'s> {
    /// No writes yet.
    pub(crate) const fn new(base: &'s Map) -> Self {
        Self { base, block: BTreeMap::new(), call: None }
    }

    /// Starts a layer that can be dropped.
    pub(crate) fn open(&mut self) {
        self.call = Some(Changes::new());
    }

    /// Keeps what was written since `open`.
    pub(crate) fn keep(&mut self) {
        if let Some(changes) = self.call.take() {
            self.block.extend(changes);
        }
    }

    /// Drops what was written since `open`.
    pub(crate) fn drop_call(&mut self) {
        self.call = None;
    }

    /// Writes or removes a value.
    pub(crate) fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.call.as_mut().unwrap_or(&mut self.block).insert(key, value);
    }

    /// What the block changed.
    pub(crate) fn into_changes(mut self) -> Changes {
        self.keep();
        self.block
    }
}

impl Read for Overlay<'_> {
    fn raw(&self, key: &[u8]) -> Option<&[u8]> {
        let layered = self.call.as_ref().and_then(|call| call.get(key));
        match layered.or_else(|| self.block.get(key)) {
            Some(value) => value.as_deref(),
            None => self.base.get(key).map(Vec::as_slice),
        }
    }

    fn keys(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Vec<u8>> {
        let layers = [Some(&self.block), self.call.as_ref()].into_iter().flatten();
        Past::new(self.base, layers).keys(prefix, after, limit)
    }
}

/// Applies changes to a map and returns what they overwrote.
pub(crate) fn apply(map: &mut Map, changes: Changes) -> Changes {
    let mut overwritten = Changes::new();
    for (key, value) in changes {
        let old = match value {
            Some(value) => map.insert(key.clone(), value),
            None => map.remove(&key),
        };
        overwritten.insert(key, old);
    }
    overwritten
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    /// A client that asks at an older block must not see a newer value, nor a key that did not exist then.
    #[test]
    fn the_past_hides_what_came_later() {
        let mut map = Map::from([(key("a1"), vec![1]), (key("a2"), vec![2])]);
        let first = apply(&mut map, Changes::from([(key("a1"), Some(vec![9]))]));
        let second =
            apply(&mut map, Changes::from([(key("a3"), Some(vec![3])), (key("a2"), None)]));
        let past = Past::new(&map, [&second, &first].into_iter());
        assert_eq!(past.raw(b"a1"), Some(&[1][..]));
        assert_eq!(past.raw(b"a3"), None);
        assert_eq!(past.keys(b"a", None, 10), vec![key("a1"), key("a2")]);
        assert_eq!(past.keys(b"a", Some(b"a1"), 1), vec![key("a2")]);
        let between = Past::new(&map, [&second].into_iter());
        assert_eq!(between.raw(b"a1"), Some(&[9][..]));
        assert_eq!(
            Past::new(&map, std::iter::empty()).keys(b"a", None, 10),
            [key("a1"), key("a3")]
        );
    }

    /// A failed call that leaves writes behind would mint or burn coins.
    #[test]
    fn a_dropped_layer_leaves_nothing() {
        let map = Map::from([(key("a"), vec![1])]);
        let mut overlay = Overlay::new(&map);
        overlay.write(key("b"), Some(vec![2]));
        overlay.open();
        overlay.write(key("a"), None);
        assert_eq!(overlay.keys(b"", None, 9), [key("b")]);
        overlay.drop_call();
        assert_eq!(overlay.raw(b"a"), Some(&[1][..]));
        assert_eq!(overlay.into_changes(), Changes::from([(key("b"), Some(vec![2]))]));
    }
}
