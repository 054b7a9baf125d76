//! Numbers with their units. Money is an integer of the smallest unit, never a float.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $suffix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $suffix), self.0)
            }
        }
    };
}

number!(
    /// A subnet's number on the chain.
    Netuid(u16), ""
);
number!(
    /// A neuron's slot in a subnet.
    Uid(u16), ""
);
number!(
    /// A block's height.
    BlockNumber(u64), ""
);
number!(
    /// 10^-9 of a coin: TAO on the root, alpha on a subnet.
    Rao(u64), " rao"
);
number!(
    /// 10^-6 of a US dollar, the unit of prices.
    MicroUsd(u64), " µ$"
);
number!(
    /// Milliseconds since 1970-01-01 UTC on the clock of whoever wrote the value down.
    UnixMillis(u64), " ms"
);

impl UnixMillis {
    /// This moment plus a span; stays at the end of time rather than wrapping.
    #[must_use]
    pub const fn saturating_add_millis(self, span_ms: u64) -> Self {
        Self(self.0.saturating_add(span_ms))
    }

    /// How many milliseconds lie between an earlier moment and this one; zero if it is not earlier.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
