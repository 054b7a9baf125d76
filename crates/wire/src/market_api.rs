//! What a validator's market API and its callers say to each other: the renter's side of the trade.

use nicompute_market::{Hotkey, LeaseId, OfferId};
use serde::{Deserialize, Serialize};

use crate::node::{ConditionsView, MachineView, OptionsView, PublishedPortView, SshAccessView};

/// `GET /v1/offers` of the market.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarketOffersView {
    /// Every offer that the validator knows, cheapest first.
    pub offers: Vec<MarketOfferView>,
}

/// An offer with its provider and what the validator has proven of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarketOfferView {
    /// The provider.
    pub provider: Hotkey,
    /// The provider's slot on the subnet.
    pub uid: u16,
    /// The offer's name with its provider.
    pub offer: OfferId,
    /// The machine as claimed.
    pub machine: MachineView,
    /// The asking price.
    pub price_micro_usd_per_hour: u64,
    /// Images that start without a download.
    pub images: Vec<String>,
    /// `docker`, `sandbox` or `sandbox-user`.
    pub runtime: String,
    /// `enforced`, `enforced but disk` or `not enforced`.
    pub limits: String,
    /// Whether nobody holds it now.
    pub available: bool,
    /// What a lease of it may ask for.
    #[serde(default)]
    pub conditions: ConditionsView,
    /// What was proven last; absent when nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<ProofView>,
}

/// The last proof of a provider, as its validator saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofView {
    /// `passed`, `refused` or `unreachable`.
    pub verdict: String,
    /// The class that was met, when one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Score in millionths.
    pub score_micro: u64,
    /// Score in millionths of a point, on the catalogue's scale.
    #[serde(default)]
    pub points_micro: u64,
    /// Why the score is what it is.
    pub reason: String,
    /// What the session came to, for the provider: why it was refused, or where a device's name disagrees with what it has
    /// shown.
    #[serde(default)]
    pub detail: String,
    /// When the session ended, on the validator's clock.
    pub at_unix_ms: u64,
    /// Devices that worked at the same time.
    pub devices: u32,
    /// Bytes held at once by the device that held least.
    pub bytes_per_device: u64,
    /// Operations per second of the slowest device.
    pub ops_per_second: u64,
    /// Bytes per second fetched by dependent reads on the slowest device.
    pub walk_bytes_per_second: u64,
    /// What was measured besides the plot and its walks, and what could not be and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<LegView>,
    /// BLAKE3 of the signed transcript, hexadecimal; empty when there is none.
    pub transcript: String,
    /// The lease that the session ran on, when one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
}

/// One thing that was measured besides the plot and its walks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegView {
    /// `link`, `copy`, `net-down`, `net-up`, `ram`, `disk` or `disk-random`.
    pub leg: String,
    /// Bytes that were moved; of main memory and disks, bytes of the plot that was answered for, which may have lain in
    /// other memory of the machine.
    pub bytes: u64,
    /// Bytes in a second, at least.
    pub bytes_per_second: u64,
    /// Why nothing was shown; absent where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// BLAKE3 of the transcript of a session of its own, hexadecimal; empty where the proof's transcript shows it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub transcript: String,
}

/// `POST /v1/leases` of the market. The same id asked for again with the same words is the same lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RentRequest {
    /// Drawn by the caller.
    pub id: LeaseId,
    /// Whose offer.
    pub provider: Hotkey,
    /// Which offer.
    pub offer: OfferId,
    /// OpenSSH public keys that may enter.
    pub ssh_keys: Vec<String>,
    /// The image; the offer's first one when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How long.
    pub duration_seconds: u64,
    /// Refuse when the price has risen above this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_micro_usd_per_hour_max: Option<u64>,
    /// The key of the second slot: a terminal beside the renter's own keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_key: Option<String>,
    /// What is asked for beyond the offer's share.
    #[serde(default, skip_serializing_if = "OptionsView::is_empty")]
    pub options: OptionsView,
}

/// `GET /v1/leases` of the market: the caller's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RentalsView {
    /// Newest first.
    pub leases: Vec<RentalView>,
}

/// A lease as the market sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RentalView {
    /// The lease.
    pub id: LeaseId,
    /// The provider.
    pub provider: Hotkey,
    /// What is leased.
    pub offer: OfferId,
    /// The provider's state of it, or `unknown` while the provider cannot be asked.
    pub state: String,
    /// Why it is ending, has ended or has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was asked for.
    pub requested_at_unix_ms: u64,
    /// When it ends by itself.
    pub expires_at_unix_ms: u64,
    /// The agreed price.
    pub price_micro_usd_per_hour: u64,
    /// What its provider says about how it came to stand where it stands, such as how far an image is or why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How to enter, while that is possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshAccessView>,
    /// Where the ports that it asked for are reached, while it can be entered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishedPortView>,
}

/// `GET /v1/status` of the market.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarketStatusView {
    /// The validator.
    pub hotkey: Hotkey,
    /// Its slot, once it is registered.
    pub uid: Option<u16>,
    /// The subnet.
    pub netuid: u16,
    /// The newest block that it has seen.
    pub block: u64,
    /// The program's version.
    pub version: String,
    /// Every provider on the subnet with its score.
    pub providers: Vec<ProviderView>,
    /// The weights that were set last, or opened: never those of a commit that nobody can read yet. Empty before the first
    /// time.
    pub weights: Vec<WeightView>,
    /// The block in which they were set or revealed; of sealed ones, the block in which they were first seen open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_block: Option<u64>,
    /// The weights that are on their way to the chain, or waited for there; none when everything is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_pending: Option<PendingWeightsView>,
}

/// Weights on their way to the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingWeightsView {
    /// How the subnet takes them: `plain`, `hash` (this validator reveals them) or `timelocked` (the chain opens them).
    pub way: String,
    /// `sending`, `committed` or `revealing`; `failed` until new ones are signed.
    pub step: String,
    /// When they were decided, on the validator's clock.
    pub decided_at_unix_ms: u64,
    /// The block with the commit, once it is final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// The block at which sealed weights are opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reveal_block: Option<u64>,
    /// The beacon's round that opens them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reveal_round: Option<u64>,
    /// What holds them up, or why they failed; empty otherwise.
    pub note: String,
}

/// One provider as the validator scores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderView {
    /// The provider.
    pub hotkey: Hotkey,
    /// Its slot.
    pub uid: u16,
    /// Its endpoint, when it announced one: `ip:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Whether its offers could be read the last time.
    pub reachable: bool,
    /// The session that runs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionView>,
    /// The last proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<ProofView>,
}

/// A proof session under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// The lease that it runs on.
    pub lease: LeaseId,
    /// `leasing`, `connecting`, `proving`, `verifying` or `releasing`.
    pub phase: String,
    /// When it began, on the validator's clock.
    pub started_at_unix_ms: u64,
}

/// One weight on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightView {
    /// The slot.
    pub uid: u16,
    /// The weight, the largest is 65535.
    pub weight: u16,
}
