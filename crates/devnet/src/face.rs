//! What clients see of a runtime: its interface table and metadata, built once for each runtime that is asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::upgrade::{ADDED_ITEM, Runtime};
use crate::runtime::{balances, hooks};
use crate::schema::{Interface, MetadataSet, Schema, SchemaError};
use crate::version;

/// How many runtimes are held ready. An older one is built again when somebody asks at its blocks.
const FACES_MAX: usize = 8;

/// A runtime as clients see it.
#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) runtime: Runtime,
    pub(crate) interface: Interface,
    pub(crate) metadata: MetadataSet,
}

impl Face {
    /// The interface table as the runtime shows it, and the metadata with the constants of this chain.
    pub(crate) fn new(runtime: Runtime, block_time: Duration) -> Result<Self, SchemaError> {
        let mut schema = Schema::load()?;
        schema.upgrade(runtime.calls_moved_by, runtime.item_added.then_some(ADDED_ITEM));
        let interface = Interface::new(schema, runtime.profile)?;
        let slot_ms = u64::try_from(block_time.as_millis()).unwrap_or(u64::MAX);
        let constants = [
            (("System", "Version"), version::encoded(runtime.spec_version)),
            (("System", "BlockHashCount"), hooks::BLOCK_HASH_COUNT.to_le_bytes().to_vec()),
            (("Aura", "SlotDuration"), slot_ms.to_le_bytes().to_vec()),
            (("Timestamp", "MinimumPeriod"), (slot_ms / 2).to_le_bytes().to_vec()),
            (
                ("Balances", "ExistentialDeposit"),
                balances::EXISTENTIAL_DEPOSIT_RAO.to_le_bytes().to_vec(),
            ),
        ];
        let metadata = MetadataSet::new(&interface, &constants.into())?;
        Ok(Self { runtime, interface, metadata })
    }
}

/// The runtimes that somebody asked for.
#[derive(Debug)]
pub(crate) struct Faces {
    block_time: Duration,
    first: Arc<Face>,
    built: Mutex<BTreeMap<Runtime, Arc<Face>>>,
}

impl Faces {
    /// Begins with the runtime of the first block.
    pub(crate) fn new(first: Face, block_time: Duration) -> Self {
        Self { block_time, first: Arc::new(first), built: Mutex::default() }
    }

    /// The runtime of the first block.
    pub(crate) fn first(&self) -> Runtime {
        self.first.runtime
    }

    /// A runtime's face.
    pub(crate) fn get(&self, runtime: Runtime) -> Arc<Face> {
        if runtime == self.first.runtime {
            return Arc::clone(&self.first);
        }
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(face) = built.get(&runtime) {
            return Arc::clone(face);
        }
        match Face::new(runtime, self.block_time) {
            Ok(face) => {
                let face = Arc::new(face);
                built.insert(runtime, Arc::clone(&face));
                if built.len() > FACES_MAX {
                    built.pop_first();
                }
                face
            }
            // The table is compiled in and every change of it is tested: a mistake here is a bug.
            Err(error) => {
                tracing::error!(error = %error, "a runtime's interface could not be built");
                Arc::clone(&self.first)
            }
        }
    }
}
