//! What a node does not know is never taken for an outcome: an extrinsic that is given up wrongly is signed twice.

use jsonrpsee::types::ErrorObjectOwned;
use nicompute_chain::{Call, Chain, Depth, Fate, Head, Included, Prepared, ReadError};
use nicompute_devnet::Profile;
use nicompute_market::{BlockNumber, Rao};
use serde_json::{Value, json};

use crate::fakes::Liar;
use crate::world::{COIN, LIMITS, Local, PATIENCE, World, fresh};

const LAG: u32 = 3;
/// Blocks in which the extrinsics of these tests live.
const LIFE: u16 = 32;

/// A payment that is final, and a client of a node that will lie about it.
struct Scene {
    world: World,
    liar: Liar,
    chain: Chain,
    prepared: Prepared,
    included: Included,
}

impl Scene {
    async fn start() -> Self {
        let world = World::around(Local::lagging(Profile::Flat, LAG).await).await;
        let liar = Liar::before(&world.local.as_ref().unwrap().url()).await;
        let tasks = &world.tasks;
        let chain = Chain::connect_with(&liar.url(), LIMITS, world.clock.clone(), tasks).await;
        let call = Call::transfer_keep_alive(&fresh().account(), Rao(COIN)).within_blocks(LIFE);
        let prepared = world.chain.prepare(&call, &world.rich).await.unwrap();
        let included = world.chain.carry_out(&prepared, Depth::Finalized).await.unwrap();
        let chain = chain.unwrap();
        Self { world, liar, chain, prepared, included }
    }

    async fn wait_until_final(&self, number: u64) -> Head {
        let mut heads = self.world.chain.subscribe_heads();
        let reached = async {
            loop {
                let finalized = self.world.chain.finalized().await.unwrap();
                if finalized.number.0 >= number {
                    return finalized;
                }
                heads.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the chain goes on")
    }

    async fn end(self) {
        self.liar.stop().await;
        self.world.end().await;
    }
}

fn hex(hash: [u8; 32]) -> String {
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}

/// A finalized head of one node and a best head of another that lags must not make weights that are set seem expired.
#[tokio::test]
async fn a_best_head_of_a_node_that_lags() {
    let scene = Scene::start().await;
    let birth = hex(scene.prepared.birth().hash);
    let last = scene.prepared.last_block().0;
    // Near the end of its life it is looked for block by block, later by number.
    for finalized in [last + 1, last + 40] {
        scene.wait_until_final(finalized).await;
        let lagging = birth.clone();
        scene.liar.answers(move |method, params| {
            let is_best = params.first().is_none_or(Value::is_null);
            (method == "chain_getBlockHash" && is_best).then(|| Ok(json!(lagging)))
        });
        let fate = scene.chain.fate(&scene.prepared).await.unwrap();
        assert_eq!(fate, Fate::Finalized(scene.included));
    }
    // A node that does not know the finalized block cannot say what was below it.
    scene.liar.answers(move |method, params| {
        let number = params.first().and_then(Value::as_u64);
        (method == "chain_getBlockHash" && number.is_some()).then_some(Ok(json!(null)))
    });
    assert_eq!(scene.chain.fate(&scene.prepared).await.unwrap(), Fate::Pending);
    // Nor does one that has not got so far have forgotten it.
    let wanted = hex(scene.included.block.hash);
    scene.liar.answers(move |method, params| {
        let asked = params.first().and_then(Value::as_str).unwrap_or_default();
        match method {
            "chain_getBlock" if asked == wanted => Some(Ok(json!(null))),
            "chain_getBlockHash" if params.first().is_none_or(Value::is_null) => {
                Some(Ok(json!(birth)))
            }
            _ => None,
        }
    });
    let error = scene.chain.fate(&scene.prepared).await.unwrap_err();
    assert!(matches!(error, ReadError::NoBlock(number) if number == scene.included.block.number));
    scene.end().await;
}

/// A node that keeps the blocks and has forgotten their states, as all but archives do after an hour, must say so: a
/// validator that only hears "refused" would ask it for ever and set no weights again.
#[tokio::test]
async fn a_node_that_keeps_blocks_and_not_states() {
    let scene = Scene::start().await;
    let parent = BlockNumber(scene.included.block.number.0 - 1);
    let parent = scene.chain.block_hash(parent).await.unwrap().unwrap();
    for forgotten in [hex(parent), hex(scene.included.block.hash)] {
        scene.liar.answers(move |method, params| {
            let is_of_it = params.iter().any(|value| value.as_str() == Some(&forgotten));
            let words =
                format!("Client error: UnknownBlock: State already discarded for {forgotten}");
            (method.starts_with("state_") && is_of_it)
                .then(|| Err(ErrorObjectOwned::owned(4003, words, None::<()>)))
        });
        let error = scene.chain.fate(&scene.prepared).await.unwrap_err();
        assert!(matches!(error, ReadError::Pruned { .. }), "{error:?}");
    }
    let error = scene.chain.at_block(scene.included.block.number).await.map(drop).unwrap_err();
    assert!(matches!(error, ReadError::Pruned { .. }), "{error:?}");
    scene.end().await;
}

/// A node that answers nothing where the events should be must not turn what the chain undid into a success.
#[tokio::test]
async fn no_events_are_no_success() {
    let scene = Scene::start().await;
    let block = hex(scene.included.block.hash);
    // No value, and an empty list.
    for events in [json!(null), json!("0x00")] {
        let block = block.clone();
        scene.liar.answers(move |method, params| {
            let is_of_it = params.get(1).and_then(Value::as_str) == Some(&block);
            (method == "state_getStorage" && is_of_it).then(|| Ok(events.clone()))
        });
        let error = scene.chain.fate(&scene.prepared).await.unwrap_err();
        assert!(matches!(error, ReadError::Pruned { .. }), "{error:?}");
    }
    scene.liar.answers(|_, _| None);
    let fate = scene.chain.fate(&scene.prepared).await.unwrap();
    assert_eq!(fate, Fate::Finalized(scene.included));
    scene.end().await;
}
