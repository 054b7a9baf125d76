//! Classes of machines: what a proof must have shown for a class, and what the class is worth.
//!
//! A class is the best one whose every minimum is met by proven numbers. Names that a machine gives itself play no part.

use serde::Deserialize;

use crate::{Capability, DeviceKind};

/// Scores are integers of this unit: one million is the base score 1.0.
pub const MICRO: u64 = 1_000_000;
/// Classes in one file.
const CLASSES_MAX: usize = 256;
/// The longest catalogue file that is read.
pub const CATALOGUE_BYTES_MAX: usize = 256 * 1024;

/// One class of devices.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Its name, as people know it.
    pub name: String,
    /// What its devices are.
    pub device: DeviceKind,
    /// Score of one device in millionths.
    pub base_score_micro: u64,
    /// Bytes that must be held at once.
    #[serde(default)]
    pub bytes_min: u64,
    /// Operations per second that must be shown.
    #[serde(default)]
    pub ops_per_second_min: u64,
    /// Bytes per second that dependent reads must fetch.
    #[serde(default)]
    pub walk_bytes_per_second_min: u64,
}

/// The classes that a validator pays for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Devices of one machine that count, at most.
    pub devices_max: u32,
    /// The classes, in no particular order.
    #[serde(rename = "class")]
    pub classes: Vec<Class>,
}

/// Why a catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file is longer than any catalogue.
    #[error("a catalogue of {0} bytes, at most {CATALOGUE_BYTES_MAX} are read")]
    TooLong(usize),
    /// Not TOML, or not of this shape.
    #[error("the catalogue does not parse")]
    Parse(#[source] toml::de::Error),
    /// No class, or more than any catalogue has.
    #[error("a catalogue has 1 to {CLASSES_MAX} classes, this one has {0}")]
    Count(usize),
    /// The same name twice.
    #[error("class {0:?} is listed twice")]
    Duplicate(String),
}

impl Catalogue {
    /// The classes of the real network: GPUs only. A CPU earns nothing there.
    ///
    /// # Panics
    /// Never: a test parses the embedded text.
    #[must_use]
    pub fn standard() -> Self {
        Self::parse(include_str!("../data/catalogue.toml")).expect("the embedded catalogue parses")
    }

    /// Reads a catalogue from TOML text.
    ///
    /// # Errors
    /// When the text is too long, is not TOML of this shape, or lists no class, too many or one twice.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        if text.len() > CATALOGUE_BYTES_MAX {
            return Err(CatalogueError::TooLong(text.len()));
        }
        let catalogue: Self = toml::from_str(text).map_err(CatalogueError::Parse)?;
        if catalogue.classes.is_empty() || catalogue.classes.len() > CLASSES_MAX {
            return Err(CatalogueError::Count(catalogue.classes.len()));
        }
        let mut names: Vec<&str> = catalogue.classes.iter().map(|class| &*class.name).collect();
        names.sort_unstable();
        let twice = names.windows(2).find_map(|pair| match pair {
            [a, b] if a == b => Some((*a).to_owned()),
            _ => None,
        });
        match twice {
            Some(name) => Err(CatalogueError::Duplicate(name)),
            None => Ok(catalogue),
        }
    }

    /// The best class whose every minimum is met; of equal scores, the first by name.
    #[must_use]
    pub fn classify(&self, shown: &Capability) -> Option<&Class> {
        let met = |class: &&Class| {
            class.device == shown.kind
                && shown.bytes_per_device >= class.bytes_min
                && shown.ops_per_second >= class.ops_per_second_min
                && shown.walk_bytes_per_second >= class.walk_bytes_per_second_min
        };
        let rank = |a: &&Class, b: &&Class| {
            a.base_score_micro.cmp(&b.base_score_micro).then_with(|| b.name.cmp(&a.name))
        };
        self.classes.iter().filter(met).max_by(rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(kind: DeviceKind, gib: u64, tera: u64, walk_giga: u64) -> Capability {
        Capability {
            kind,
            devices: 1,
            bytes_per_device: gib << 30,
            ops_per_second: tera * 1_000_000_000_000,
            walk_bytes_per_second: walk_giga * 1_000_000_000,
        }
    }

    /// A wrong class pays a cheap card like a dear one.
    #[test]
    fn the_best_met_class_wins() {
        let catalogue = Catalogue::standard();
        let name = |shown: &Capability| catalogue.classify(shown).map(|class| class.name.clone());
        assert_eq!(name(&shown(DeviceKind::Gpu, 135, 600, 3_600)).as_deref(), Some("H200"));
        assert_eq!(name(&shown(DeviceKind::Gpu, 76, 600, 2_500)).as_deref(), Some("H100 SXM"));
        assert_eq!(name(&shown(DeviceKind::Gpu, 76, 600, 1_500)).as_deref(), Some("H100 PCIe"));
        assert_eq!(name(&shown(DeviceKind::Gpu, 1, 1, 1)), None);
    }

    /// On any network but the devnet a processor must earn nothing, however fast it is.
    #[test]
    fn the_standard_catalogue_has_no_cpu() {
        let fast = shown(DeviceKind::Cpu, 4096, 10_000, 100_000);
        assert_eq!(Catalogue::standard().classify(&fast), None);
    }

    /// A damaged file must stop the validator at its start, not change scores.
    #[test]
    fn damage_is_refused() {
        assert!(matches!(
            Catalogue::parse("devices_max = 8\nclass = []"),
            Err(CatalogueError::Count(0))
        ));
        assert!(matches!(Catalogue::parse("x"), Err(CatalogueError::Parse(_))));
        let class = "[[class]]\nname = 'a'\ndevice = 'cpu'\nbase_score_micro = 1\n";
        let twice = format!("devices_max = 8\n{class}{class}");
        assert!(matches!(Catalogue::parse(&twice), Err(CatalogueError::Duplicate(_))));
        let long = " ".repeat(CATALOGUE_BYTES_MAX + 1);
        assert!(matches!(Catalogue::parse(&long), Err(CatalogueError::TooLong(_))));
    }
}
