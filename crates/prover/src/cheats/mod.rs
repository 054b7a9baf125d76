//! Provers that speak the frames and do not do the work: one for each fraud that is known.
//!
//! Every test of the verifier's soundness, here and in whole simulated markets, takes its cheater from this module, and
//! `nicompute cheat` shows each at work. The program that is uploaded into leases uses none of it.

mod devices;
mod frames;
mod odds;
mod ring;
mod rows;
mod table;

pub use devices::{
    InventedWalks, Partial, copy_of, half_of_the_rows, hankel, in_place_of, not_there,
    one_step_short, replayed, skipping, skipping_walks, truncated, width_one,
};
pub use frames::Answer;
pub use odds::fits;
pub use ring::{Bout, Judgement, MAKE_TO_READ, Ring, Seed};
pub use table::{Catch, Cheat, find, honest_bout, table};
