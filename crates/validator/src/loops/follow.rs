//! Reads the subnet from the chain, so that every other loop decides on one and the same picture.

use std::sync::Arc;

use crate::chain_view::ChainView;
use crate::context::Context;
use crate::loops::{Outcome, submission};

/// One reading. While the chain is away the last picture stays.
pub(crate) async fn run(ctx: &Arc<Context>) -> Outcome {
    let Some(chain) = &ctx.chain else { return Ok("no chain to follow".to_owned()) };
    let netuid = ctx.config.netuid;
    let finalized = chain.finalized().await?;
    let metagraph = chain.metagraph(netuid).await?;
    let rules = chain.hyperparameters(netuid).await?;
    let owner = chain.owner_hotkey(netuid).await?;
    let me = ctx.config.hotkey.hotkey();
    let epoch = if rules.commit_reveal {
        Some(submission::next_epoch(&chain.now().await?, netuid).await?)
    } else {
        None
    };
    let view = ChainView::new(&metagraph, finalized, rules, owner, &me);
    let view = ChainView { epoch, ..view };
    let text = format!("block {}, {} neurons", view.block, metagraph.neurons.len());
    let knew = ctx.view();
    let is_news = knew.is_none_or(|knew| knew.peers != view.peers || knew.own != view.own);
    ctx.view.send_replace(Some(Arc::new(view)));
    if is_news {
        ctx.nudges.discover.notify_one();
    }
    Ok(text)
}
