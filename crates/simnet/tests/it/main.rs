//! Worlds from seeds.

#[cfg(test)]
mod cheaters;
