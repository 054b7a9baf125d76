//! The verifier's side of a session over a channel that misbehaves.

use async_trait::async_trait;
use nicompute_daemon::SystemClock;
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::LeaseId;
use nicompute_validator::{ChannelError, ProofChannel, Proven, SessionPlan, prove};

use crate::world::{profile, validator_key};

/// Says what cannot be a frame, each time something else.
struct Noise(u64);

#[async_trait]
impl ProofChannel for Noise {
    async fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Ok(Some(self.0.to_be_bytes().to_vec()))
    }

    async fn send(&mut self, _: &[u8]) -> Result<(), ChannelError> {
        Ok(())
    }
}

/// Is gone before it has said a word.
struct Gone;

#[async_trait]
impl ProofChannel for Gone {
    async fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        Ok(None)
    }

    async fn send(&mut self, _: &[u8]) -> Result<(), ChannelError> {
        Err(ChannelError::Broken)
    }
}

async fn session(channel: &mut dyn ProofChannel) -> Proven {
    let plan = SessionPlan {
        provider: Keypair::from_uri("//Bob", Scheme::Sr25519).unwrap().hotkey(),
        lease: LeaseId::from_random_bytes([3; 16]),
        block: (7, [9; 32]),
        profile: profile(),
    };
    prove(&plan, &validator_key(), &SystemClock::shared(), channel).await
}

/// Bytes that are no frames must be refused, not crash the validator.
#[tokio::test]
async fn noise_is_refused() {
    for seed in 0..64 {
        let outcome = session(&mut Noise(seed)).await;
        assert!(matches!(outcome, Proven::Refused { transcript: None, .. }), "{outcome:?}");
    }
}

/// Who is gone before the clock runs has shown nothing, good or bad.
#[tokio::test]
async fn a_prover_that_is_gone_at_once_is_no_refusal() {
    let outcome = session(&mut Gone).await;
    assert!(matches!(outcome, Proven::Lost(_)), "{outcome:?}");
}
