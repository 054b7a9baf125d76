//! How strong the wall around a tenant is, where a machine has more than one kind.

use std::fmt;
use std::str::FromStr;

/// What runs a container's processes. A provider offers the classes that are installed; a lease has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum RuntimeClass {
    /// The host's kernel, with namespaces, limits and a system-call filter: `runc`, or the embedded runtime.
    #[default]
    Standard,
    /// A kernel in user space between tenant and host: gVisor's `runsc`.
    Gvisor,
    /// A virtual machine of its own: Kata Containers.
    Kata,
    /// A container that may run containers itself: Sysbox.
    Sysbox,
}

/// A class name that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown runtime class, expected standard, gvisor, kata or sysbox")]
pub struct UnknownClass;

impl RuntimeClass {
    /// Every class, for enumerations in tests and help texts.
    pub const ALL: [Self; 4] = [Self::Standard, Self::Gvisor, Self::Kata, Self::Sysbox];

    /// The stable text of the class.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Gvisor => "gvisor",
            Self::Kata => "kata",
            Self::Sysbox => "sysbox",
        }
    }
}

impl fmt::Display for RuntimeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for RuntimeClass {
    type Err = UnknownClass;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or(UnknownClass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A class that does not survive its own text would be another wall than the one that was rented.
    #[test]
    fn texts_read_back() {
        for class in RuntimeClass::ALL {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        assert_eq!("runc".parse::<RuntimeClass>(), Err(UnknownClass));
    }
}
