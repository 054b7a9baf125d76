//! The storage items that this chain's rules read and write, with their real keys.

use std::marker::PhantomData;

use parity_scale_codec::{Codec, Compact, Decode, Encode};

use crate::hash::{H256, blake2_128, twox_64, twox_128};
use crate::runtime::beacon::{BeaconConfiguration, Pulse};
use crate::schema::Hasher;
use crate::state::{Overlay, Read};

/// A raw account key; the chain's own types know nothing of SS58.
pub(crate) type Account = [u8; 32];

const IDENTITY: Hasher = Hasher::Identity;
const TWOX: Hasher = Hasher::Twox64Concat;
const BLAKE: Hasher = Hasher::Blake2_128Concat;

/// A storage item by name, with the hashers of its keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) pallet: &'static str,
    pub(crate) name: &'static str,
    pub(crate) hashers: &'static [Hasher],
}

impl Item {
    /// The 32 bytes that all keys of the item begin with.
    pub(crate) fn prefix(&self) -> Vec<u8> {
        let mut key = twox_128(self.pallet.as_bytes()).to_vec();
        key.extend_from_slice(&twox_128(self.name.as_bytes()));
        key
    }

    fn key(&self, parts: &[Vec<u8>]) -> Vec<u8> {
        let mut key = self.prefix();
        for (hasher, part) in self.hashers.iter().zip(parts) {
            match hasher {
                Hasher::Identity => {}
                Hasher::Twox64Concat => key.extend_from_slice(&twox_64(part)),
                Hasher::Blake2_128Concat => key.extend_from_slice(&blake2_128(part)),
            }
            key.extend_from_slice(part);
        }
        key
    }
}

/// A value with no key.
#[derive(Debug)]
pub(crate) struct Value<V>(pub(crate) Item, PhantomData<fn() -> V>);
/// A map with one key.
#[derive(Debug)]
pub(crate) struct Map1<K, V>(pub(crate) Item, PhantomData<fn(K) -> V>);
/// A map with two keys.
#[derive(Debug)]
pub(crate) struct Map2<A, B, V>(pub(crate) Item, PhantomData<fn(A, B) -> V>);
/// A map with three keys.
#[derive(Debug)]
pub(crate) struct Map3<A, B, C, V>(pub(crate) Item, PhantomData<fn(A, B, C) -> V>);

impl<V: Codec> Value<V> {
    pub(crate) fn get(&self, from: &impl Read) -> Option<V> {
        from.decoded(&self.0.prefix())
    }

    pub(crate) fn put(&self, to: &mut Overlay<'_>, value: &V) {
        to.write(self.0.prefix(), Some(value.encode()));
    }
}

impl<K: Encode, V: Codec> Map1<K, V> {
    pub(crate) fn key(&self, key: &K) -> Vec<u8> {
        self.0.key(&[key.encode()])
    }

    pub(crate) fn get(&self, from: &impl Read, key: &K) -> Option<V> {
        from.decoded(&self.key(key))
    }

    pub(crate) fn put(&self, to: &mut Overlay<'_>, key: &K, value: &V) {
        to.write(self.key(key), Some(value.encode()));
    }

    pub(crate) fn remove(&self, to: &mut Overlay<'_>, key: &K) {
        to.write(self.key(key), None);
    }
}

impl<A: Encode, B: Encode, V: Codec> Map2<A, B, V> {
    /// What the keys of all entries under one first key begin with.
    pub(crate) fn first_prefix(&self, a: &A) -> Vec<u8> {
        self.0.key(&[a.encode()])
    }

    pub(crate) fn key(&self, a: &A, b: &B) -> Vec<u8> {
        self.0.key(&[a.encode(), b.encode()])
    }

    pub(crate) fn get(&self, from: &impl Read, a: &A, b: &B) -> Option<V> {
        from.decoded(&self.key(a, b))
    }

    pub(crate) fn put(&self, to: &mut Overlay<'_>, a: &A, b: &B, value: &V) {
        to.write(self.key(a, b), Some(value.encode()));
    }

    pub(crate) fn remove(&self, to: &mut Overlay<'_>, a: &A, b: &B) {
        to.write(self.key(a, b), None);
    }
}

impl<A: Encode, B: Encode, C: Encode, V: Codec> Map3<A, B, C, V> {
    pub(crate) fn get(&self, from: &impl Read, a: &A, b: &B, c: &C) -> Option<V> {
        from.decoded(&self.0.key(&[a.encode(), b.encode(), c.encode()]))
    }

    pub(crate) fn put(&self, to: &mut Overlay<'_>, (a, b, c): (&A, &B, &C), value: &V) {
        to.write(self.0.key(&[a.encode(), b.encode(), c.encode()]), Some(value.encode()));
    }
}

/// `System.Account`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct AccountInfo {
    pub(crate) nonce: u32,
    pub(crate) consumers: u32,
    pub(crate) providers: u32,
    pub(crate) sufficients: u32,
    pub(crate) free: u64,
    pub(crate) reserved: u64,
    pub(crate) frozen: u64,
    pub(crate) flags: u128,
}

/// The flag that marks an account of the current balances layout.
const NEW_LOGIC: u128 = 1 << 127;

impl Default for AccountInfo {
    fn default() -> Self {
        Self {
            nonce: 0,
            consumers: 0,
            providers: 0,
            sufficients: 0,
            free: 0,
            reserved: 0,
            frozen: 0,
            flags: NEW_LOGIC,
        }
    }
}

/// Where a neuron's axon listens, as announced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct AxonInfo {
    pub(crate) block: u64,
    pub(crate) version: u32,
    pub(crate) ip: u128,
    pub(crate) port: u16,
    pub(crate) ip_type: u8,
    pub(crate) protocol: u8,
    pub(crate) placeholder1: u8,
    pub(crate) placeholder2: u8,
}

/// Where a neuron's metrics are, as announced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct PrometheusInfo {
    pub(crate) block: u64,
    pub(crate) version: u32,
    pub(crate) ip: u128,
    pub(crate) port: u16,
    pub(crate) ip_type: u8,
}

/// A key and its certificate algorithm, as announced by `serve_axon_tls`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct NeuronCertificate {
    pub(crate) public_key: Vec<u8>,
    pub(crate) algorithm: u8,
}

/// What a subnet says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SubnetIdentity {
    pub(crate) subnet_name: Vec<u8>,
    pub(crate) github_repo: Vec<u8>,
    pub(crate) subnet_contact: Vec<u8>,
    pub(crate) subnet_url: Vec<u8>,
    pub(crate) discord: Vec<u8>,
    pub(crate) description: Vec<u8>,
    pub(crate) logo_url: Vec<u8>,
    pub(crate) additional: Vec<u8>,
}

/// A hash that promises weights: the hash, its epoch, its block, and a number that is no longer used.
pub(crate) type WeightCommit = (H256, u64, u64, u64);
/// Sealed weights: who, in which block, the commit, and the round that opens it.
pub(crate) type TimelockedCommit = (Account, u64, Vec<u8>, u64);

macro_rules! items {
    ($($pallet:ident { $($name:ident : $kind:ident<$($ty:ty),+> = $text:literal [$($hasher:ident),*];)* })*) => {
        $($(pub(crate) const $name: $kind<$($ty),+> = $kind(
            Item { pallet: stringify!($pallet), name: $text, hashers: &[$($hasher),*] },
            PhantomData,
        );)*)*

        /// Every item above, for the test that holds them against the interface table.
        #[cfg(test)]
        pub(crate) const ALL: &[Item] = &[$($($name.0),*),*];
    };
}

items! {
    System {
        ACCOUNT: Map1<Account, AccountInfo> = "Account" [BLAKE];
        EXTRINSIC_COUNT: Value<u32> = "ExtrinsicCount" [];
        BLOCK_HASH: Map1<u32, H256> = "BlockHash" [TWOX];
        NUMBER: Value<u32> = "Number" [];
        PARENT_HASH: Value<H256> = "ParentHash" [];
        EVENTS: Value<Vec<u8>> = "Events" [];
        EVENT_COUNT: Value<u32> = "EventCount" [];
        LAST_RUNTIME_UPGRADE: Value<(Compact<u32>, Vec<u8>)> = "LastRuntimeUpgrade" [];
    }
    Timestamp {
        NOW: Value<u64> = "Now" [];
    }
    Aura {
        CURRENT_SLOT: Value<u64> = "CurrentSlot" [];
    }
    Balances {
        BALANCES_ISSUANCE: Value<u64> = "TotalIssuance" [];
    }
    Commitments {
        COMMITMENT_OF: Map2<u16, Account, Vec<u8>> = "CommitmentOf" [IDENTITY, TWOX];
        LAST_COMMITMENT: Map2<u16, Account, u32> = "LastCommitment" [IDENTITY, TWOX];
        USED_SPACE_OF: Map2<u16, Account, (u64, u64)> = "UsedSpaceOf" [IDENTITY, TWOX];
        MAX_SPACE: Value<u32> = "MaxSpace" [];
    }
    Drand {
        BEACON_CONFIG: Value<BeaconConfiguration> = "BeaconConfig" [];
        PULSES: Map1<u64, Pulse> = "Pulses" [BLAKE];
        LAST_STORED_ROUND: Value<u64> = "LastStoredRound" [];
        OLDEST_STORED_ROUND: Value<u64> = "OldestStoredRound" [];
    }
    MevShield {
        CURRENT_KEY: Value<Vec<u8>> = "CurrentKey" [];
        NEXT_KEY: Value<Vec<u8>> = "NextKey" [];
    }
    SubtensorModule {
        TOTAL_ISSUANCE: Value<u64> = "TotalIssuance" [];
        TOTAL_STAKE: Value<u64> = "TotalStake" [];
        TOTAL_NETWORKS: Value<u16> = "TotalNetworks" [];
        TAO_WEIGHT: Value<u64> = "TaoWeight" [];
        STAKE_THRESHOLD: Value<u64> = "StakeThreshold" [];
        OWNER: Map1<Account, Account> = "Owner" [BLAKE];
        DELEGATES: Map1<Account, u16> = "Delegates" [BLAKE];
        OWNED_HOTKEYS: Map1<Account, Vec<Account>> = "OwnedHotkeys" [BLAKE];
        STAKING_HOTKEYS: Map1<Account, Vec<Account>> = "StakingHotkeys" [BLAKE];
        TOTAL_HOTKEY_ALPHA: Map2<Account, u16, u64> = "TotalHotkeyAlpha" [BLAKE, IDENTITY];
        TOTAL_HOTKEY_SHARES: Map2<Account, u16, u128> = "TotalHotkeyShares" [BLAKE, IDENTITY];
        ALPHA: Map3<Account, Account, u16, u128> = "Alpha" [BLAKE, BLAKE, IDENTITY];
        ALPHA_DIVIDENDS: Map2<u16, Account, u64> = "AlphaDividendsPerSubnet" [IDENTITY, BLAKE];
        SUBNET_TAO: Map1<u16, u64> = "SubnetTAO" [IDENTITY];
        SUBNET_ALPHA_IN: Map1<u16, u64> = "SubnetAlphaIn" [IDENTITY];
        SUBNET_ALPHA_OUT: Map1<u16, u64> = "SubnetAlphaOut" [IDENTITY];
        ALPHA_OUT_EMISSION: Map1<u16, u64> = "SubnetAlphaOutEmission" [IDENTITY];
        TOKEN_SYMBOL: Map1<u16, Vec<u8>> = "TokenSymbol" [IDENTITY];
        SUBNET_OWNER_CUT: Value<u16> = "SubnetOwnerCut" [];
        SUBNET_MECHANISM: Map1<u16, u16> = "SubnetMechanism" [IDENTITY];
        SUBNETWORK_N: Map1<u16, u16> = "SubnetworkN" [IDENTITY];
        NETWORKS_ADDED: Map1<u16, bool> = "NetworksAdded" [IDENTITY];
        NETWORK_REGISTERED_AT: Map1<u16, u64> = "NetworkRegisteredAt" [IDENTITY];
        FIRST_EMISSION_BLOCK: Map1<u16, u64> = "FirstEmissionBlockNumber" [IDENTITY];
        SUBTOKEN_ENABLED: Map1<u16, bool> = "SubtokenEnabled" [IDENTITY];
        IS_NETWORK_MEMBER: Map2<Account, u16, bool> = "IsNetworkMember" [BLAKE, IDENTITY];
        REGISTRATION_ALLOWED: Map1<u16, bool> = "NetworkRegistrationAllowed" [IDENTITY];
        POW_REGISTRATION_ALLOWED: Map1<u16, bool> = "NetworkPowRegistrationAllowed" [IDENTITY];
        TEMPO: Map1<u16, u16> = "Tempo" [IDENTITY];
        LAST_EPOCH_BLOCK: Map1<u16, u64> = "LastEpochBlock" [IDENTITY];
        SUBNET_EPOCH_INDEX: Map1<u16, u64> = "SubnetEpochIndex" [IDENTITY];
        ACTIVITY_CUTOFF_FACTOR: Map1<u16, u32> = "ActivityCutoffFactorMilli" [IDENTITY];
        BLOCKS_SINCE_LAST_STEP: Map1<u16, u64> = "BlocksSinceLastStep" [IDENTITY];
        LAST_STEP_BLOCK: Map1<u16, u64> = "LastMechansimStepBlock" [IDENTITY];
        PENDING_SERVER: Map1<u16, u64> = "PendingServerEmission" [IDENTITY];
        PENDING_VALIDATOR: Map1<u16, u64> = "PendingValidatorEmission" [IDENTITY];
        PENDING_OWNER_CUT: Map1<u16, u64> = "PendingOwnerCut" [IDENTITY];
        SUBNET_OWNER: Map1<u16, Account> = "SubnetOwner" [IDENTITY];
        SUBNET_OWNER_HOTKEY: Map1<u16, Account> = "SubnetOwnerHotkey" [IDENTITY];
        SERVING_RATE_LIMIT: Map1<u16, u64> = "ServingRateLimit" [IDENTITY];
        RHO: Map1<u16, u16> = "Rho" [IDENTITY];
        KAPPA: Map1<u16, u16> = "Kappa" [IDENTITY];
        ALPHA_SIGMOID_STEEPNESS: Map1<u16, i16> = "AlphaSigmoidSteepness" [IDENTITY];
        MIN_ALLOWED_UIDS: Map1<u16, u16> = "MinAllowedUids" [IDENTITY];
        MAX_ALLOWED_UIDS: Map1<u16, u16> = "MaxAllowedUids" [IDENTITY];
        IMMUNITY_PERIOD: Map1<u16, u16> = "ImmunityPeriod" [IDENTITY];
        MIN_NON_IMMUNE_UIDS: Map1<u16, u16> = "MinNonImmuneUids" [IDENTITY];
        ACTIVITY_CUTOFF: Map1<u16, u16> = "ActivityCutoff" [IDENTITY];
        MAX_WEIGHTS_LIMIT: Map1<u16, u16> = "MaxWeightsLimit" [IDENTITY];
        WEIGHTS_VERSION_KEY: Map1<u16, u64> = "WeightsVersionKey" [IDENTITY];
        MIN_ALLOWED_WEIGHTS: Map1<u16, u16> = "MinAllowedWeights" [IDENTITY];
        MAX_ALLOWED_VALIDATORS: Map1<u16, u16> = "MaxAllowedValidators" [IDENTITY];
        ADJUSTMENT_INTERVAL: Map1<u16, u16> = "AdjustmentInterval" [IDENTITY];
        ADJUSTMENT_ALPHA: Map1<u16, u64> = "AdjustmentAlpha" [IDENTITY];
        BONDS_MOVING_AVERAGE: Map1<u16, u64> = "BondsMovingAverage" [IDENTITY];
        BONDS_PENALTY: Map1<u16, u16> = "BondsPenalty" [IDENTITY];
        BONDS_RESET_ON: Map1<u16, bool> = "BondsResetOn" [IDENTITY];
        WEIGHTS_RATE_LIMIT: Map1<u16, u64> = "WeightsSetRateLimit" [IDENTITY];
        TARGET_REGISTRATIONS: Map1<u16, u16> = "TargetRegistrationsPerInterval" [IDENTITY];
        MAX_REGISTRATIONS_PER_BLOCK: Map1<u16, u16> = "MaxRegistrationsPerBlock" [IDENTITY];
        COMMIT_REVEAL_ENABLED: Map1<u16, bool> = "CommitRevealWeightsEnabled" [IDENTITY];
        REVEAL_PERIOD_EPOCHS: Map1<u16, u64> = "RevealPeriodEpochs" [TWOX];
        COMMIT_REVEAL_VERSION: Value<u16> = "CommitRevealWeightsVersion" [];
        WEIGHT_COMMITS: Map2<u16, Account, Vec<WeightCommit>> = "WeightCommits" [TWOX, TWOX];
        TIMELOCKED_COMMITS: Map2<u16, u64, Vec<TimelockedCommit>> = "TimelockedWeightCommits" [TWOX, TWOX];
        BURN: Map1<u16, u64> = "Burn" [IDENTITY];
        MIN_BURN: Map1<u16, u64> = "MinBurn" [IDENTITY];
        MAX_BURN: Map1<u16, u64> = "MaxBurn" [IDENTITY];
        BURN_HALF_LIFE: Map1<u16, u16> = "BurnHalfLife" [IDENTITY];
        BURN_INCREASE_MULT: Map1<u16, u128> = "BurnIncreaseMult" [IDENTITY];
        DIFFICULTY: Map1<u16, u64> = "Difficulty" [IDENTITY];
        MIN_DIFFICULTY: Map1<u16, u64> = "MinDifficulty" [IDENTITY];
        MAX_DIFFICULTY: Map1<u16, u64> = "MaxDifficulty" [IDENTITY];
        RAO_RECYCLED: Map1<u16, u64> = "RAORecycledForRegistration" [IDENTITY];
        LIQUID_ALPHA_ON: Map1<u16, bool> = "LiquidAlphaOn" [BLAKE];
        YUMA3_ON: Map1<u16, bool> = "Yuma3On" [BLAKE];
        ALPHA_VALUES: Map1<u16, (u16, u16)> = "AlphaValues" [IDENTITY];
        MECHANISM_COUNT: Map1<u16, u8> = "MechanismCountCurrent" [TWOX];
        TRANSFER_TOGGLE: Map1<u16, bool> = "TransferToggle" [IDENTITY];
        UIDS: Map2<u16, Account, u16> = "Uids" [IDENTITY, BLAKE];
        KEYS: Map2<u16, u16, Account> = "Keys" [IDENTITY, IDENTITY];
        ACTIVE: Map1<u16, Vec<bool>> = "Active" [IDENTITY];
        CONSENSUS: Map1<u16, Vec<u16>> = "Consensus" [IDENTITY];
        INCENTIVE: Map1<u16, Vec<u16>> = "Incentive" [IDENTITY];
        DIVIDENDS: Map1<u16, Vec<u16>> = "Dividends" [IDENTITY];
        EMISSION: Map1<u16, Vec<u64>> = "Emission" [IDENTITY];
        LAST_UPDATE: Map1<u16, Vec<u64>> = "LastUpdate" [IDENTITY];
        VALIDATOR_TRUST: Map1<u16, Vec<u16>> = "ValidatorTrust" [IDENTITY];
        VALIDATOR_PERMIT: Map1<u16, Vec<bool>> = "ValidatorPermit" [IDENTITY];
        STAKE_WEIGHT: Map1<u16, Vec<u16>> = "StakeWeight" [IDENTITY];
        WEIGHTS: Map2<u16, u16, Vec<(u16, u16)>> = "Weights" [IDENTITY, IDENTITY];
        BONDS: Map2<u16, u16, Vec<(u16, u16)>> = "Bonds" [IDENTITY, IDENTITY];
        BLOCK_AT_REGISTRATION: Map2<u16, u16, u64> = "BlockAtRegistration" [IDENTITY, IDENTITY];
        AXONS: Map2<u16, Account, AxonInfo> = "Axons" [IDENTITY, BLAKE];
        NEURON_CERTIFICATES: Map2<u16, Account, NeuronCertificate> = "NeuronCertificates" [IDENTITY, BLAKE];
        PROMETHEUS: Map2<u16, Account, PrometheusInfo> = "Prometheus" [IDENTITY, BLAKE];
        SUBNET_IDENTITIES: Map1<u16, SubnetIdentity> = "SubnetIdentitiesV3" [BLAKE];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;

    /// An item whose key is built with another hasher than the metadata says is invisible to every client.
    #[test]
    fn items_agree_with_the_interface_table() {
        let schema = Schema::load().unwrap();
        for item in ALL {
            let listed = schema.storage(item.pallet, item.name);
            let listed =
                listed.unwrap_or_else(|| panic!("{}.{} is not listed", item.pallet, item.name));
            let hashers: Vec<Hasher> = listed.keys.iter().map(|(hasher, _)| *hasher).collect();
            assert_eq!(hashers, item.hashers, "{}.{}", item.pallet, item.name);
        }
    }

    /// A wrong account key makes every balance read zero.
    #[test]
    fn the_account_key_of_alice() {
        let alice: Account =
            hex::decode("d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d")
                .unwrap()
                .try_into()
                .unwrap();
        assert_eq!(
            hex::encode(ACCOUNT.key(&alice)),
            "26aa394eea5630e07c48ae0c9558cef7b99d880ec681799c0cf30e8886371da9\
             de1e86a9a8c739864cf3cc5ec2bea59fd43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"
        );
    }
}
