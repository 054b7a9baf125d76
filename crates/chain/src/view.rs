//! The chain at one block: everything that is read through one view is of that block.
//!
//! Reads by name, in as few requests as the node allows: a runtime API where there is one, and many storage items in one
//! question otherwise. Never one request per neuron.

use nicompute_market::BlockNumber;
use scale_value::Value;
use subxt::config::Header as _;

use crate::chain::{At, Chain, Shared, no_head};
use crate::error::{ReadError, ShapeError};
use crate::link::{Hash, Rpc};
use crate::plain::Plain;
use crate::reads::Head;
use crate::runtime::Entry;

/// The most storage items of one request; a node answers no more in one frame of reasonable size.
const ITEMS_MAX: usize = 1_024;

/// The chain at one block. Cheap to clone.
#[derive(Debug, Clone)]
pub struct View {
    pub(crate) chain: Chain,
    pub(crate) at: At,
}

/// A storage item to be read.
pub(crate) type Item<'a> = ((&'a str, &'a str), Vec<Value>);

// === impl Chain ===

impl Chain {
    /// The chain as it is now.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn now(&self) -> Result<View, ReadError> {
        Ok(View { chain: self.clone(), at: self.at().await? })
    }

    /// The chain as it was at a block. Nodes forget the state of old blocks after some minutes unless they are archives.
    ///
    /// # Errors
    /// [`ReadError::NoBlock`] when the chain is not that high; what is read through the view later fails with
    /// [`ReadError::Pruned`] where the node has forgotten it.
    pub async fn at_block(&self, number: BlockNumber) -> Result<View, ReadError> {
        let hash = self.block_hash(number).await?.ok_or(ReadError::NoBlock(number))?;
        let limit = self.shared.limits.read;
        let runtime = self.shared.runtime_at(Hash::from(hash), limit).await?;
        Ok(View { chain: self.clone(), at: At { head: Head { number, hash }, runtime } })
    }

    pub(crate) async fn at(&self) -> Result<At, ReadError> {
        self.shared.at_best(self.shared.limits.read).await
    }

    /// The best block.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn head(&self) -> Result<Head, ReadError> {
        let ask = |rpc: Rpc| async move {
            let Some(hash) = rpc.chain_get_block_hash(None).await? else { return Ok(None) };
            Ok(rpc.chain_get_header(Some(hash)).await?.map(|header| (hash, header.number())))
        };
        self.head_by("chain_getBlockHash", ask).await
    }

    /// The newest block that will never be undone.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn finalized(&self) -> Result<Head, ReadError> {
        let ask = |rpc: Rpc| async move {
            let hash = rpc.chain_get_finalized_head().await?;
            Ok(rpc.chain_get_header(Some(hash)).await?.map(|header| (hash, header.number())))
        };
        self.head_by("chain_getFinalizedHead", ask).await
    }

    async fn head_by<F, Fut>(&self, request: &'static str, ask: F) -> Result<Head, ReadError>
    where
        F: Fn(Rpc) -> Fut,
        Fut: Future<Output = Result<Option<(Hash, u64)>, subxt::rpcs::Error>>,
    {
        let found = self.shared.link.ask(self.shared.limits.read, request, ask).await?;
        let (hash, number) = found.ok_or_else(no_head)?;
        Ok(Head { number: BlockNumber(number), hash: hash.0 })
    }

    /// The hash of a block by its height; none if the chain is not that high.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn block_hash(&self, number: BlockNumber) -> Result<Option<[u8; 32]>, ReadError> {
        let ask = |rpc: Rpc| async move { rpc.chain_get_block_hash(Some(number.0.into())).await };
        let limit = self.shared.limits.read;
        let hash = self.shared.link.ask(limit, "chain_getBlockHash", ask).await?;
        Ok(hash.map(|hash| hash.0))
    }
}

// === impl View ===

impl View {
    /// The block.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.at.head
    }

    /// The version of the runtime at that block.
    #[must_use]
    pub fn spec_version(&self) -> u32 {
        self.at.runtime.spec_version
    }

    /// One storage item, or its default; none if it has neither.
    pub(crate) async fn item(
        &self,
        about: &'static str,
        of: (&str, &str),
        keys: Vec<Value>,
    ) -> Result<Option<Plain>, ReadError> {
        self.shared().item(&self.at, about, of, keys).await
    }

    /// Several storage items, in few requests, in their order. One that the runtime does not have reads as none.
    pub(crate) async fn items(
        &self,
        about: &'static str,
        items: Vec<Item<'_>>,
    ) -> Result<Vec<Option<Plain>>, ReadError> {
        let runtime = &self.at.runtime;
        let entry = |((pallet, name), keys): Item<'_>| {
            runtime.has_storage(pallet, name).then(|| runtime.entry(pallet, name, keys)).transpose()
        };
        let entries: Vec<Option<Entry>> = items.into_iter().map(entry).collect::<Result<_, _>>()?;
        let mut values = Vec::with_capacity(entries.len());
        for some in entries.chunks(ITEMS_MAX) {
            values.extend(self.chunk(about, some).await?);
        }
        Ok(values)
    }

    async fn chunk(
        &self,
        about: &'static str,
        entries: &[Option<Entry>],
    ) -> Result<Vec<Option<Plain>>, ReadError> {
        let hash = self.at.hash();
        let ask = |rpc: Rpc| async move {
            let keys = entries.iter().flatten().map(|entry| &*entry.key);
            rpc.state_query_storage_at(keys, Some(hash)).await
        };
        let shared = self.shared();
        let asked = shared.link.ask(shared.limits.read, "state_queryStorageAt", ask).await;
        let sets = asked.map_err(|error| error.at_block(self.at.head.hash))?;
        let stored: std::collections::HashMap<&[u8], &[u8]> = sets
            .iter()
            .flat_map(|set| &set.changes)
            .filter_map(|(key, value)| Some((&*key.0, &*value.as_ref()?.0)))
            .collect();
        let value = |entry: &Option<Entry>| match entry {
            Some(entry) => self.at.runtime.value(about, entry, stored.get(&*entry.key).copied()),
            None => Ok(None),
        };
        entries.iter().map(value).collect()
    }

    /// A runtime API's answer.
    pub(crate) async fn api(
        &self,
        api: &str,
        method: &'static str,
        arguments: Vec<Value>,
    ) -> Result<Plain, ReadError> {
        let arguments = self.at.runtime.api_arguments(api, method, arguments)?;
        let (arguments, hash) = (&arguments, self.at.hash());
        let function = &format!("{api}_{method}");
        let ask =
            |rpc: Rpc| async move { rpc.state_call(function, Some(arguments), Some(hash)).await };
        let shared = self.shared();
        let asked = shared.link.ask(shared.limits.read, method, ask).await;
        let bytes = asked.map_err(|error| error.at_block(self.at.head.hash))?;
        self.at.runtime.api_answer(api, method, &bytes)
    }

    pub(crate) fn has_api(&self, api: &str, method: &str) -> bool {
        self.at.runtime.has_api(api, method)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.chain.shared
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) async fn item(
        &self,
        at: &At,
        about: &'static str,
        (pallet, name): (&str, &str),
        keys: Vec<Value>,
    ) -> Result<Option<Plain>, ReadError> {
        let entry = at.runtime.entry(pallet, name, keys)?;
        let (key, hash) = (&*entry.key, at.hash());
        let ask = |rpc: Rpc| async move { rpc.state_get_storage(key, Some(hash)).await };
        let asked = self.link.ask(self.limits.read, "state_getStorage", ask).await;
        let stored = asked.map_err(|error| error.at_block(at.head.hash))?;
        at.runtime.value(about, &entry, stored.as_deref())
    }
}

/// Names what could not be understood.
pub(crate) fn shape(about: &'static str) -> impl Fn(ShapeError) -> ReadError + Copy {
    move |source| ReadError::Shape { about, source }
}
