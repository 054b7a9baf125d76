//! Integration tests of the keys: golden values of real wallets, and wallet folders on a real disk.

#[cfg(test)]
mod golden;
#[cfg(test)]
mod wallets;
