//! What a device calls itself, against what was shown of it.
//!
//! A reported name is a claim. It is looked up whole, after spelling is evened out: "NVIDIA RTX A1000" is no A100, and a MIG
//! slice of an H100 is no H100. It never changes what a device is paid; where it disagrees with the proof, the provider is
//! told why.

use crate::{Capability, Catalogue, Class, Shortfall};

/// How a reported name relates to what was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameFinding {
    /// The proof met the class of that name and no better one.
    Agrees,
    /// The proof met the class of that name, and a better paid one too.
    Exceeds {
        /// The class of the name.
        claimed: String,
        /// The class that is paid.
        met: String,
    },
    /// The name stands for a class whose minimums were not met.
    Below {
        /// The class of the name.
        claimed: String,
        /// The class that is paid, if any is.
        met: Option<String>,
        /// What was missing.
        shortfalls: Vec<Shortfall>,
    },
    /// The name is of another kind of device than the one that worked.
    OtherKind {
        /// The class of the name.
        claimed: String,
    },
    /// A model that the catalogue knows and has no class for.
    WithoutClass {
        /// The model.
        model: String,
        /// The class that is paid, if any is.
        met: Option<String>,
    },
    /// A name that the catalogue does not know.
    Unknown {
        /// The class that is paid, if any is.
        met: Option<String>,
    },
}

/// What a catalogue has under a reported name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// A class.
    Class(&'a Class),
    /// A model without a class.
    Model(&'a str),
}

impl Catalogue {
    /// What this reported name stands for.
    #[must_use]
    pub fn named(&self, reported: &str) -> Option<Named<'_>> {
        let wanted = normalised(reported);
        let same = |names: &[String]| names.iter().any(|name| normalised(name) == wanted);
        let class = self.classes.iter().find(|class| same(&class.reported_names));
        let model = || self.known.iter().find(|model| same(&model.reported_names));
        class.map(Named::Class).or_else(|| model().map(|model| Named::Model(&model.name)))
    }

    /// Compares a reported name with what the device has shown.
    #[must_use]
    pub fn judge_name(&self, reported: &str, shown: &Capability) -> NameFinding {
        let met = self.classify(shown).map(|class| class.name.clone());
        let class = match self.named(reported) {
            None => return NameFinding::Unknown { met },
            Some(Named::Model(model)) => {
                return NameFinding::WithoutClass { model: model.to_owned(), met };
            }
            Some(Named::Class(class)) => class,
        };
        let claimed = class.name.clone();
        if class.device != shown.kind {
            return NameFinding::OtherKind { claimed };
        }
        let shortfalls = class.shortfalls(shown);
        match met {
            Some(met) if shortfalls.is_empty() && met == claimed => NameFinding::Agrees,
            Some(met) if shortfalls.is_empty() => NameFinding::Exceeds { claimed, met },
            met => NameFinding::Below { claimed, met, shortfalls },
        }
    }
}

impl NameFinding {
    /// The stable name.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Exceeds { .. } => "exceeds",
            Self::Below { .. } => "below",
            Self::OtherKind { .. } => "other-kind",
            Self::WithoutClass { .. } => "without-class",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Whether name and proof disagree, so that the provider must hear of it.
    #[must_use]
    pub const fn is_mismatch(&self) -> bool {
        !matches!(self, Self::Agrees | Self::Exceeds { .. })
    }
}

impl std::fmt::Display for NameFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let paid = |met: &Option<String>| match met {
            Some(met) => format!("it is paid as {met}"),
            None => "it meets no class".to_owned(),
        };
        match self {
            Self::Agrees => f.write_str("the name agrees with what was shown"),
            Self::Exceeds { claimed, met } => {
                write!(f, "the name stands for {claimed}, what was shown is paid as {met}")
            }
            Self::Below { claimed, met, shortfalls } => {
                write!(f, "the name stands for {claimed}, whose minimums were not met (")?;
                for (number, shortfall) in shortfalls.iter().enumerate() {
                    let comma = if number == 0 { "" } else { "; " };
                    write!(f, "{comma}{shortfall}")?;
                }
                write!(f, "): {}", paid(met))
            }
            Self::OtherKind { claimed } => {
                write!(f, "the name stands for {claimed}, another kind of device did the work")
            }
            Self::WithoutClass { model, met } => {
                write!(f, "the name stands for {model}, which has no class here: {}", paid(met))
            }
            Self::Unknown { met } => {
                write!(f, "the name is not in the catalogue: {}", paid(met))
            }
        }
    }
}

/// A name with its spelling evened out: lower case, words separated by one space whatever stood between them, no leading
/// vendor. Every word counts, so that no name contains another.
pub(crate) fn normalised(name: &str) -> String {
    let lower = name.to_lowercase();
    let is_gap = |c: char| c.is_whitespace() || c == '-' || c == '_';
    let words = lower.split(is_gap).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    let words = match words.as_slice() {
        ["nvidia", rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceKind;

    fn stands_for(reported: &str) -> Option<String> {
        Catalogue::standard().named(reported).map(|named| match named {
            Named::Class(class) => format!("class {}", class.name),
            Named::Model(model) => format!("model {model}"),
        })
    }

    /// The original matched parts of names: a laptop card passed for a data centre's.
    #[test]
    fn names_match_whole() {
        for (reported, expected) in [
            ("NVIDIA RTX A1000", "model RTX A1000"),
            ("NVIDIA A100-SXM4-80GB", "class A100-SXM4-80GB"),
            ("nvidia a100 sxm4 80gb", "class A100-SXM4-80GB"),
            ("NVIDIA A100-SXM4-40GB", "class A100-SXM4-40GB"),
            ("NVIDIA A100 80GB PCIe", "class A100 80GB PCIe"),
            ("NVIDIA A100-PCIE-40GB", "model A100 40GB PCIe"),
            ("NVIDIA H200", "class H200"),
            ("NVIDIA H200 NVL", "model H200 NVL"),
            ("NVIDIA GB200", "model GB200"),
            ("NVIDIA B200", "class B200"),
            ("NVIDIA H100", "class H100"),
            ("NVIDIA H100 PCIe", "class H100"),
            ("NVIDIA H100 NVL", "model H100 NVL"),
            ("NVIDIA H100 80GB HBM3", "class H100 80GB HBM3"),
            ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "model H100 MIG slice"),
            ("NVIDIA L40S", "class L40S"),
            ("NVIDIA L40s", "class L40S"),
            ("NVIDIA L40", "class L40"),
            ("NVIDIA L4", "class L4"),
            ("NVIDIA GeForce RTX 4090", "class RTX 4090"),
            ("NVIDIA GeForce RTX 4090 D", "model RTX 4090 D"),
            ("NVIDIA GeForce RTX 4090 Laptop GPU", "model RTX 4090 Laptop"),
        ] {
            assert_eq!(stands_for(reported).as_deref(), Some(expected), "{reported}");
        }
        for unknown in ["", "NVIDIA", "A100", "NVIDIA H100 80GB", "H 200", "xNVIDIA H200", "other"]
        {
            assert_eq!(stands_for(unknown), None, "{unknown}");
        }
    }

    /// A name must never buy what the proof has not shown, and the provider must hear what is missing.
    #[test]
    fn a_name_is_only_a_claim() {
        let catalogue = Catalogue::standard();
        let shown = |gib: u64, tera: u64, walk_giga: u64| Capability {
            kind: DeviceKind::Gpu,
            devices: 1,
            bytes_per_device: gib << 30,
            ops_per_second: tera * 1_000_000_000_000,
            walk_bytes_per_second: walk_giga * 1_000_000_000,
        };
        let ada = shown(22, 150, 800);
        let finding = catalogue.judge_name("NVIDIA H100 80GB HBM3", &ada);
        let NameFinding::Below { claimed, met, shortfalls } = &finding else { panic!("{finding}") };
        assert_eq!((claimed.as_str(), met.as_deref()), ("H100 80GB HBM3", Some("RTX 4090")));
        assert_eq!(shortfalls.len(), 3);
        assert!(finding.is_mismatch() && finding.to_string().contains("paid as RTX 4090"));
        assert_eq!(catalogue.judge_name("NVIDIA GeForce RTX 4090", &ada), NameFinding::Agrees);
        let exceeds = catalogue.judge_name("NVIDIA L4", &ada);
        assert!(matches!(exceeds, NameFinding::Exceeds { .. }) && !exceeds.is_mismatch());
        let without = catalogue.judge_name("NVIDIA GB200", &shown(170, 1_000, 6_000));
        assert!(
            matches!(&without, NameFinding::WithoutClass { met: Some(met), .. } if met == "B200")
        );
        let unknown = catalogue.judge_name("Matrox G400", &shown(1, 1, 1));
        assert_eq!(unknown, NameFinding::Unknown { met: None });
        let cpu = Capability { kind: DeviceKind::Cpu, ..ada };
        let other = catalogue.judge_name("NVIDIA L4", &cpu);
        assert!(matches!(other, NameFinding::OtherKind { .. }));
    }
}
