//! The chain: whether it is reached, whether the hotkey is registered, and whether this machine's clock agrees with it.

use std::time::Duration;

use nicompute_chain::{Chain, Metagraph};
use nicompute_market::{Hotkey, Netuid};

use super::Patient;
use super::finding::Finding;

/// How long the chain may take to be reached and read.
const LIMIT: Duration = Duration::from_secs(30);
/// How far a block's time may be behind, beyond the block time itself: three blocks on the way.
const LATE_BLOCKS: u32 = 3;
/// How far the clock may be behind the chain's: requests from that far ahead are refused by everybody.
const AHEAD_MS_MAX: u64 = 2_000;

/// What the chain told.
pub(super) struct Asked {
    pub(super) metagraph: Metagraph,
    pub(super) me: Option<Hotkey>,
}

pub(super) async fn findings(patient: &Patient<'_>) -> (Vec<Finding>, Option<Asked>) {
    const CHECK: &str = "chain";
    let asked = tokio::time::timeout(LIMIT, ask(patient)).await;
    match asked {
        Ok(Ok((findings, asked))) => (findings, Some(asked)),
        Ok(Err(error)) => {
            let what = format!("the chain cannot be asked: {error:#}");
            let remedy = "check --subtensor.network and the way out; --offline leaves it out";
            (vec![Finding::error(CHECK, what).remedy(remedy)], None)
        }
        Err(_) => {
            let what = format!("the chain did not answer within {} s", LIMIT.as_secs());
            let remedy =
                "name another node with --subtensor.chain_endpoint; --offline leaves it out";
            (vec![Finding::error(CHECK, what).remedy(remedy)], None)
        }
    }
}

async fn ask(patient: &Patient<'_>) -> anyhow::Result<(Vec<Finding>, Asked)> {
    let args = patient.args;
    let chain: Chain = args.subtensor.connect(&patient.clock, &patient.tasks).await?;
    let netuid = Netuid(args.subtensor.netuid);
    let head = chain.head().await?;
    let view = chain.at_block(head.number).await?;
    let (block_ms, chain_ms) = (chain.block_time().await?, view.timestamp_ms().await?);
    let mut findings = vec![
        Finding::ok("chain", format!("{} is at block {}", chain.endpoint(), head.number)),
        clock(patient.clock.unix_ms(), chain_ms, block_ms),
    ];
    let metagraph = chain.metagraph(netuid).await?;
    let me = args.keys.hotkey_address().ok();
    findings.push(registration(&metagraph, me.as_ref(), netuid));
    Ok((findings, Asked { metagraph, me }))
}

fn clock(now_ms: u64, chain_ms: u64, block: Duration) -> Finding {
    const CHECK: &str = "clock";
    let block_ms = u64::try_from(block.as_millis()).unwrap_or(u64::MAX);
    let late_max = block_ms.saturating_mul(u64::from(LATE_BLOCKS)).saturating_add(AHEAD_MS_MAX);
    let remedy = "apt-get install chrony, or timedatectl set-ntp true";
    if chain_ms > now_ms.saturating_add(AHEAD_MS_MAX) {
        let behind = chain_ms - now_ms;
        let what = format!("this clock is {behind} ms behind the chain's last block");
        return Finding::error(CHECK, what).remedy(remedy);
    }
    let age = now_ms.saturating_sub(chain_ms);
    if age > late_max {
        let what = format!(
            "the chain's last block is {age} ms old: this clock is ahead, or the chain stands still"
        );
        return Finding::warning(CHECK, what).remedy(remedy);
    }
    Finding::ok(CHECK, format!("within a block of the chain's ({age} ms after the last one)"))
}

fn registration(metagraph: &Metagraph, me: Option<&Hotkey>, netuid: Netuid) -> Finding {
    const CHECK: &str = "chain.hotkey";
    let Some(me) = me else {
        return Finding::error(CHECK, "the hotkey's address is not known")
            .remedy("nicompute wallet new-hotkey");
    };
    match metagraph.neuron(me) {
        Some(neuron) => {
            let axon = neuron.axon.as_ref();
            let reached = axon.map_or_else(
                || "it has not announced an address yet".to_owned(),
                |axon| format!("it is announced at {}:{}", axon.ip, axon.port),
            );
            Finding::ok(CHECK, format!("{me} is registered on subnet {netuid}; {reached}"))
        }
        None => Finding::error(CHECK, format!("{me} is not registered on subnet {netuid}"))
            .remedy(format!("nicompute register --netuid {netuid}, with the coldkey's wallet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    /// A clock that is off by seconds has every signed request refused, without a word about the clock.
    #[test]
    fn the_clock_is_held_against_the_chains() {
        let block = Duration::from_secs(12);
        let level = |now, chain| clock(now, chain, block).level;
        assert_eq!(level(100_000, 100_000), Level::Ok);
        assert_eq!(level(130_000, 100_000), Level::Ok);
        assert_eq!(level(100_000, 101_900), Level::Ok);
        assert_eq!(level(100_000, 103_000), Level::Error);
        assert_eq!(level(200_000, 100_000), Level::Warning);
    }
}
