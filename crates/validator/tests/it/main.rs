//! The validator's judgement of provers, honest and not.

#[cfg(test)]
mod sessions;
