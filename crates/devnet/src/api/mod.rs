//! The runtime APIs: computed answers, encoded in the field order of the interface table.

mod metagraph;
mod neurons;
mod stakes;
mod subnet;

use parity_scale_codec::{Compact, Decode, Encode};

use crate::events::CALL_REF_TIME;
use crate::items::{self, Account};
use crate::node::Node;
use crate::runtime::stake::PRICE_RAO;
use crate::runtime::{self, balances, fees};
use crate::state::Past;
use crate::version;
use subnet::Subnet;

/// Why a runtime call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("Exported method {0} is not found")]
    Unknown(String),
    #[error("Bad input data provided to {0}: Codec error")]
    Input(String),
}

/// Answers a runtime call against a state.
pub(crate) fn call(
    node: &Node,
    state: &Past<'_>,
    method: &str,
    data: &[u8],
) -> Result<Vec<u8>, ApiError> {
    let (api, name) = split(method).ok_or_else(|| ApiError::Unknown(method.to_owned()))?;
    let question = Question { node, state, method, data };
    match api {
        "Core" | "Metadata" | "AuraApi" | "AccountNonceApi" | "TransactionPaymentApi" => {
            question.substrate(api, name)
        }
        "NeuronInfoRuntimeApi" => question.neurons(name),
        "SubnetInfoRuntimeApi" => question.subnets(name),
        "StakeInfoRuntimeApi" => question.stakes(name),
        "SwapRuntimeApi" => question.swap(name),
        "BetaBasketRuntimeApi" => question.baskets(name),
        _ => Err(question.unknown()),
    }
}

/// `Api_method`; no API's own name has an underscore.
fn split(method: &str) -> Option<(&str, &str)> {
    method.split_once('_')
}

/// A sequence of values that are encoded already.
fn sequence(items: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Compact(u32::try_from(items.len()).unwrap_or(u32::MAX)).encode();
    items.iter().for_each(|item| out.extend_from_slice(item));
    out
}

/// `Some` of a value that is encoded already, or `None`.
fn option(value: Option<Vec<u8>>) -> Vec<u8> {
    match value {
        None => vec![0],
        Some(value) => [vec![1], value].concat(),
    }
}

struct Question<'q> {
    node: &'q Node,
    state: &'q Past<'q>,
    method: &'q str,
    data: &'q [u8],
}

impl<'q> Question<'q> {
    fn unknown(&self) -> ApiError {
        ApiError::Unknown(self.method.to_owned())
    }

    /// The arguments; nothing may follow them.
    fn input<T: Decode>(&self) -> Result<T, ApiError> {
        let mut data = self.data;
        match T::decode(&mut data) {
            Ok(input) if data.is_empty() => Ok(input),
            _ => Err(ApiError::Input(self.method.to_owned())),
        }
    }

    fn block(&self) -> u64 {
        items::NUMBER.get(self.state).map_or(0, u64::from)
    }

    fn substrate(&self, api: &str, name: &str) -> Result<Vec<u8>, ApiError> {
        let face = self.node.face_of(self.state);
        let metadata = &face.metadata;
        match (api, name) {
            ("Core", "version") => Ok(version::encoded(face.runtime.spec_version)),
            ("Metadata", "metadata") => Ok(metadata.v14.encode()),
            ("Metadata", "metadata_versions") => Ok(vec![14_u32, 15].encode()),
            ("Metadata", "metadata_at_version") => Ok(match self.input::<u32>()? {
                14 => Some(&metadata.v14),
                15 => Some(&metadata.v15),
                _ => None,
            }
            .encode()),
            ("AuraApi", "slot_duration") => {
                Ok(u64::try_from(self.node.block_time().as_millis()).unwrap_or(u64::MAX).encode())
            }
            ("AccountNonceApi", "account_nonce") => {
                Ok(balances::account(self.state, &self.input()?).nonce.encode())
            }
            ("TransactionPaymentApi", "query_info") => {
                let (base, len) = self.fee_parts()?;
                let fee = base.saturating_add(len);
                Ok((Compact(CALL_REF_TIME), Compact(0_u64), 0_u8, fee).encode())
            }
            ("TransactionPaymentApi", "query_fee_details") => {
                let (base, len) = self.fee_parts()?;
                Ok((Some((base, len, 0_u64)), 0_u64).encode())
            }
            _ => Err(self.unknown()),
        }
    }

    /// The input is an extrinsic with its length prefix, then its length as a number.
    fn fee_parts(&self) -> Result<(u64, u64), ApiError> {
        let bad = || ApiError::Input(self.method.to_owned());
        let at = self.data.len().checked_sub(4).ok_or_else(bad)?;
        let (extrinsic, _) = self.data.split_at(at);
        let (_, call) = self.node.decode(extrinsic).map_err(|_| bad())?;
        Ok(fees::parts(fees::pays(&call), extrinsic.len()))
    }

    fn neurons(&self, name: &str) -> Result<Vec<u8>, ApiError> {
        let state = self.state;
        match name {
            "get_neurons" => Ok(neurons::all(state, self.input()?, neurons::full)),
            "get_neurons_lite" => Ok(neurons::all(state, self.input()?, neurons::lite)),
            "get_neuron" => {
                let (netuid, uid) = self.input()?;
                Ok(option(neurons::full(state, netuid, uid)))
            }
            "get_neuron_lite" => {
                let (netuid, uid) = self.input()?;
                Ok(option(neurons::lite(state, netuid, uid)))
            }
            _ => Err(self.unknown()),
        }
    }

    fn subnets(&self, name: &str) -> Result<Vec<u8>, ApiError> {
        let block = self.block();
        match name {
            "get_subnet_hyperparams" => self.of_subnet(Subnet::hyperparams),
            "get_subnet_hyperparams_v2" => self.of_subnet(Subnet::hyperparams_v2),
            "get_subnet_hyperparams_v3" => self.of_subnet(Subnet::hyperparams_v3),
            "get_dynamic_info" => self.of_subnet(Subnet::dynamic_info),
            "get_all_dynamic_info" => Ok(self.of_all(Subnet::dynamic_info)),
            "get_metagraph" => self.of_subnet(|subnet| metagraph::whole(subnet, block)),
            "get_all_metagraphs" => Ok(self.of_all(|subnet| metagraph::whole(subnet, block))),
            "get_subnet_state" => self.of_subnet(metagraph::state),
            "get_mechagraph" => {
                let (netuid, mecid): (u16, u8) = self.input()?;
                Ok(self.of_mechanism(netuid, mecid, |subnet| metagraph::whole(subnet, block)))
            }
            "get_selective_metagraph" => {
                let (netuid, wanted): (u16, Vec<u16>) = self.input()?;
                Ok(self
                    .of_mechanism(netuid, 0, |subnet| metagraph::selective(subnet, block, &wanted)))
            }
            "get_selective_mechagraph" => {
                let (netuid, mecid, wanted): (u16, u8, Vec<u16>) = self.input()?;
                Ok(self.of_mechanism(netuid, mecid, |subnet| {
                    metagraph::selective(subnet, block, &wanted)
                }))
            }
            "get_next_epoch_start_block" => {
                let netuid: u16 = self.input()?;
                let last = items::LAST_EPOCH_BLOCK.get(self.state, &netuid);
                let tempo = items::TEMPO.get(self.state, &netuid).map_or(0, u64::from);
                Ok(last.map(|last| last.saturating_add(tempo)).encode())
            }
            // No coins are minted here after the genesis.
            "get_block_emission" => Ok(0_u64.encode()),
            _ => Err(self.unknown()),
        }
    }

    fn of_subnet(
        &self,
        answer: impl Fn(&Subnet<'q, Past<'q>>) -> Vec<u8>,
    ) -> Result<Vec<u8>, ApiError> {
        Ok(self.of_mechanism(self.input()?, 0, answer))
    }

    /// The answer for one mechanism of a subnet; none for one that it does not have.
    fn of_mechanism(
        &self,
        netuid: u16,
        mecid: u8,
        answer: impl Fn(&Subnet<'q, Past<'q>>) -> Vec<u8>,
    ) -> Vec<u8> {
        let known = mecid < runtime::neurons::mechanisms(self.state, netuid);
        let found = subnet::exists(self.state, netuid) && known;
        option(found.then(|| answer(&Subnet { state: self.state, netuid, mecid })))
    }

    fn of_all(&self, answer: impl Fn(&Subnet<'q, Past<'q>>) -> Vec<u8>) -> Vec<u8> {
        let netuids = runtime::neurons::netuids(self.state);
        let all: Vec<Vec<u8>> = netuids
            .into_iter()
            .map(|netuid| option(Some(answer(&Subnet { state: self.state, netuid, mecid: 0 }))))
            .collect();
        sequence(&all)
    }

    fn stakes(&self, name: &str) -> Result<Vec<u8>, ApiError> {
        match name {
            "get_stake_info_for_coldkey" => Ok(stakes::of_coldkey(self.state, &self.input()?)),
            "get_stake_info_for_coldkeys" => {
                Ok(stakes::of_coldkeys(self.state, &self.input::<Vec<Account>>()?))
            }
            "get_stake_info_for_hotkey_coldkey_netuid" => {
                let (hotkey, coldkey, netuid) = self.input()?;
                Ok(stakes::of_pair(self.state, &hotkey, &coldkey, netuid))
            }
            "get_stake_availability_for_coldkeys" => {
                let (coldkeys, netuids): (Vec<Account>, Option<Vec<u16>>) = self.input()?;
                Ok(stakes::availability(self.state, &coldkeys, netuids.as_deref()))
            }
            // No stake is locked here, so nobody has conviction either.
            "get_coldkey_lock" => {
                self.input::<(Account, u16)>()?;
                Ok(option(None))
            }
            "get_hotkey_conviction" => {
                self.input::<(Account, u16)>()?;
                Ok(0_u128.encode())
            }
            "get_most_convicted_hotkey_on_subnet" => {
                self.input::<u16>()?;
                Ok(option(None))
            }
            // The stable mechanism takes no fee.
            "get_stake_fee" => {
                type End = Option<(Account, u16)>;
                self.input::<(End, Account, End, Account, u64)>()?;
                Ok(0_u64.encode())
            }
            _ => Err(self.unknown()),
        }
    }

    fn swap(&self, name: &str) -> Result<Vec<u8>, ApiError> {
        match name {
            "current_alpha_price" => {
                self.input::<u16>()?;
                Ok(PRICE_RAO.encode())
            }
            "current_alpha_price_all" => {
                let netuids = runtime::neurons::netuids(self.state);
                let all: Vec<(u16, u64)> =
                    netuids.into_iter().map(|netuid| (netuid, PRICE_RAO)).collect();
                Ok(all.encode())
            }
            // One for one, no fee, no slippage: coins, alpha, two fees, two slippages.
            "sim_swap_tao_for_alpha" | "sim_swap_alpha_for_tao" => {
                let (_, amount): (u16, u64) = self.input()?;
                Ok((amount, amount, [0_u64; 4]).encode())
            }
            _ => Err(self.unknown()),
        }
    }

    /// Nobody has a basket here: the calls that make one are refused.
    fn baskets(&self, name: &str) -> Result<Vec<u8>, ApiError> {
        self.input::<Account>()?;
        match name {
            "get_root_basket_owed" => Ok(0_u64.encode()),
            "get_root_basket_positions" => Ok(Vec::<(Account, u64, u64)>::new().encode()),
            _ => Err(self.unknown()),
        }
    }
}
