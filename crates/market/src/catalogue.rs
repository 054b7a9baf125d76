//! Classes of machines: what a proof must have shown for a class, and what the class is worth.
//!
//! A class is the best one whose every minimum is met by proven numbers. Names that a machine gives itself play no part in
//! that; `crate::naming` compares them with what was shown.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::naming::normalised;
use crate::split::{Split, best_split};
use crate::{Capability, DeviceKind};

/// Scores are integers of this unit: one million is the base score 1.0.
pub const MICRO: u64 = 1_000_000;
/// The longest catalogue file that is read.
pub const CATALOGUE_BYTES_MAX: usize = 256 * 1024;

/// Classes in one file.
const CLASSES_MAX: usize = 256;
/// Models without a class in one file.
const KNOWN_MAX: usize = 1024;
/// Reported names of one class or model.
const REPORTED_NAMES_MAX: usize = 32;
/// Bytes of one name.
const NAME_BYTES_MAX: usize = 96;
/// The highest base score: far above any device, and far below an overflow of a sum of scores.
const BASE_SCORE_MICRO_MAX: u64 = 1_000 * MICRO;
/// Devices of one machine that can count: a proof has at most 32.
const DEVICES_MAX: u32 = 32;
/// The top of the scale where a catalogue does not name one.
const POINTS_TOP_DEFAULT: u32 = 50;
/// The highest top of the scale.
const POINTS_TOP_MAX: u32 = 1_000_000;

/// One class of devices.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Its name, as people know it.
    pub name: String,
    /// What its devices are.
    pub device: DeviceKind,
    /// What drivers call such a device. Only whole names count.
    #[serde(default)]
    pub reported_names: Vec<String>,
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

/// A model that is known by name and has no class of its own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownModel {
    /// Its name, as people know it.
    pub name: String,
    /// What drivers call such a device.
    pub reported_names: Vec<String>,
}

/// The classes that a validator pays for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Its number: a later edition has a higher one.
    pub version: u64,
    /// Devices of one machine that count, at most.
    pub devices_max: u32,
    /// The top of the scale in points: what `devices_max` devices of the best paid class come to.
    #[serde(default = "points_top_default")]
    pub points_top: u32,
    /// The classes, in no particular order.
    #[serde(rename = "class")]
    pub classes: Vec<Class>,
    /// Models without a class.
    #[serde(rename = "known", default)]
    pub known: Vec<KnownModel>,
}

/// A number that a proof shows and a class asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Figure {
    /// Bytes held at once.
    Bytes,
    /// Operations per second.
    OpsPerSecond,
    /// Bytes per second of dependent reads.
    WalkBytesPerSecond,
}

/// A minimum that was not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// Which number.
    pub figure: Figure,
    /// What was shown.
    pub shown: u64,
    /// What the class asks for.
    pub minimum: u64,
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
    /// More models without a class than any catalogue has.
    #[error("a catalogue has at most {KNOWN_MAX} models without a class, this one has {0}")]
    KnownCount(usize),
    /// A number outside its bounds.
    #[error("{field} is {value}, expected {expected}")]
    Bound {
        /// The field.
        field: &'static str,
        /// What stood there.
        value: u64,
        /// What may stand there.
        expected: &'static str,
    },
    /// A name that is empty, too long, or holds control characters, or too many names.
    #[error("{0:?} has a name that is not 1 to 96 bytes of plain text, or more than 32 of them")]
    Name(String),
    /// The same name twice.
    #[error("class {0:?} is listed twice")]
    Duplicate(String),
    /// The same reported name in two places: it would stand for two models.
    #[error("the reported name {0:?} stands for two models")]
    Ambiguous(String),
    /// One device would earn more if it were shown as several.
    #[error("the prices are not superadditive: {0}")]
    Splittable(Split),
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
    /// When the text is too long, is not TOML of this shape, has a number or a name out of bounds, lists no class or too many,
    /// or one name twice, or pays more for a device that is shown as several.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        if text.len() > CATALOGUE_BYTES_MAX {
            return Err(CatalogueError::TooLong(text.len()));
        }
        let catalogue: Self = toml::from_str(text).map_err(CatalogueError::Parse)?;
        catalogue.check_numbers()?;
        catalogue.check_names()?;
        best_split(&catalogue).map_or(Ok(catalogue), |split| Err(CatalogueError::Splittable(split)))
    }

    /// The best class whose every minimum is met: the highest base score; of equal ones the one that asks for more.
    #[must_use]
    pub fn classify(&self, shown: &Capability) -> Option<&Class> {
        let met = |class: &&Class| class.device == shown.kind && class.shortfalls(shown).is_empty();
        self.classes.iter().filter(met).max_by_key(|class| class.rank())
    }

    /// The better paid class that is nearest, and what is missing for it.
    #[must_use]
    pub fn next_above(&self, shown: &Capability) -> Option<(&Class, Vec<Shortfall>)> {
        let met = self.classify(shown).map_or(0, |class| class.base_score_micro);
        let better = |class: &&Class| class.device == shown.kind && class.base_score_micro > met;
        let missing = self.classes.iter().filter(better).map(|class| {
            let shortfalls = class.shortfalls(shown);
            let worst = shortfalls.iter().map(Shortfall::below_ppm).max().unwrap_or(0);
            (worst, class, shortfalls)
        });
        let nearest = missing.min_by_key(|(worst, class, _)| (*worst, class.base_score_micro));
        nearest.map(|(_, class, shortfalls)| (class, shortfalls))
    }

    /// The highest base score in it.
    #[must_use]
    pub fn base_score_micro_max(&self) -> u64 {
        self.classes.iter().map(|class| class.base_score_micro).max().unwrap_or(0)
    }

    /// How many devices of one machine count: of GPUs `devices_max`; all processors are one device, whatever a prover calls them.
    #[must_use]
    pub const fn counted_max(&self, kind: DeviceKind) -> u32 {
        match kind {
            DeviceKind::Cpu => 1,
            DeviceKind::Gpu => self.devices_max,
        }
    }

    fn check_numbers(&self) -> Result<(), CatalogueError> {
        let bound = |field, value, expected| CatalogueError::Bound { field, value, expected };
        if self.version == 0 {
            return Err(bound("version", 0, "1 or more"));
        }
        if !(1..=DEVICES_MAX).contains(&self.devices_max) {
            return Err(bound("devices_max", self.devices_max.into(), "1 to 32"));
        }
        if !(1..=POINTS_TOP_MAX).contains(&self.points_top) {
            return Err(bound("points_top", self.points_top.into(), "1 to 1000000"));
        }
        if self.classes.is_empty() || self.classes.len() > CLASSES_MAX {
            return Err(CatalogueError::Count(self.classes.len()));
        }
        if self.known.len() > KNOWN_MAX {
            return Err(CatalogueError::KnownCount(self.known.len()));
        }
        let highest = self.base_score_micro_max();
        if highest > BASE_SCORE_MICRO_MAX {
            return Err(bound("base_score_micro", highest, "at most 1000000000"));
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), CatalogueError> {
        let classes = self.classes.iter().map(|class| (&class.name, &class.reported_names));
        let known = self.known.iter().map(|model| (&model.name, &model.reported_names));
        let mut names = BTreeSet::new();
        let mut reported = BTreeSet::new();
        for (name, aliases) in classes.chain(known) {
            let plain = is_plain(name) && aliases.iter().all(|alias| is_plain(alias));
            if !plain || aliases.len() > REPORTED_NAMES_MAX {
                return Err(CatalogueError::Name(name.clone()));
            }
            if !names.insert(name) {
                return Err(CatalogueError::Duplicate(name.clone()));
            }
            let own: BTreeSet<String> = aliases.iter().map(|alias| normalised(alias)).collect();
            for alias in own {
                if !reported.insert(alias.clone()) {
                    return Err(CatalogueError::Ambiguous(alias));
                }
            }
        }
        Ok(())
    }
}

impl Class {
    /// Every minimum that is not met.
    #[must_use]
    pub fn shortfalls(&self, shown: &Capability) -> Vec<Shortfall> {
        [
            (Figure::Bytes, shown.bytes_per_device, self.bytes_min),
            (Figure::OpsPerSecond, shown.ops_per_second, self.ops_per_second_min),
            (
                Figure::WalkBytesPerSecond,
                shown.walk_bytes_per_second,
                self.walk_bytes_per_second_min,
            ),
        ]
        .into_iter()
        .filter(|(_, shown, minimum)| shown < minimum)
        .map(|(figure, shown, minimum)| Shortfall { figure, shown, minimum })
        .collect()
    }

    /// Orders classes from the worst paid to the best; the name only makes the order total.
    fn rank(&self) -> (u64, u64, u64, std::cmp::Reverse<&str>) {
        let name = std::cmp::Reverse(self.name.as_str());
        (self.base_score_micro, self.ops_per_second_min, self.bytes_min, name)
    }
}

impl Figure {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::OpsPerSecond => "ops_per_second",
            Self::WalkBytesPerSecond => "walk_bytes_per_second",
        }
    }
}

impl Shortfall {
    /// How far below the minimum, in millionths of it.
    #[must_use]
    pub fn below_ppm(&self) -> u64 {
        let missing = u128::from(self.minimum.saturating_sub(self.shown)).saturating_mul(1_000_000);
        let ppm = missing.checked_div(u128::from(self.minimum)).unwrap_or(0);
        u64::try_from(ppm).unwrap_or(u64::MAX)
    }
}

impl std::fmt::Display for Shortfall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let figure = match self.figure {
            Figure::Bytes => "bytes held at once",
            Figure::OpsPerSecond => "operations per second",
            Figure::WalkBytesPerSecond => "bytes per second of dependent reads",
        };
        // Rounded up, so that what is just below its minimum is not shown as 0 % below.
        let percent = self.below_ppm().div_ceil(10_000);
        write!(f, "{} {figure}, {percent} % below the minimum of {}", self.shown, self.minimum)
    }
}

const fn points_top_default() -> u32 {
    POINTS_TOP_DEFAULT
}

fn is_plain(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.chars().any(char::is_control)
        && !normalised(name).is_empty()
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

    fn class_of(gib: u64, tera: u64, walk_giga: u64) -> Option<String> {
        let shown = shown(DeviceKind::Gpu, gib, tera, walk_giga);
        Catalogue::standard().classify(&shown).map(|class| class.name.clone())
    }

    /// A wrong class pays a cheap card like a dear one.
    #[test]
    fn the_best_met_class_wins() {
        let cases: [(&str, u64, u64, u64); 12] = [
            ("B300", 260, 1_200, 6_000),
            ("B200", 170, 1_000, 6_000),
            ("H200", 135, 600, 3_600),
            ("H100 80GB HBM3", 76, 600, 2_500),
            ("H100", 76, 600, 1_500),
            ("A100-SXM4-80GB", 76, 230, 1_500),
            ("A100 80GB PCIe", 76, 190, 1_400),
            ("A100-SXM4-40GB", 38, 230, 1_200),
            ("RTX 5090", 30, 200, 1_300),
            ("RTX 4090", 22, 150, 800),
            ("RTX A6000", 44, 45, 600),
            ("L4", 21, 45, 250),
        ];
        for (class, gib, tera, walk_giga) in cases {
            assert_eq!(class_of(gib, tera, walk_giga).as_deref(), Some(class));
        }
        assert_eq!(class_of(1, 1, 1), None);
        // The memory of an H200 at the speed of an L4 is an L4.
        assert_eq!(class_of(135, 45, 250).as_deref(), Some("L4"));
    }

    /// Each row just met is met, and with any one number a unit lower it is not.
    #[test]
    fn every_minimum_counts() {
        for class in Catalogue::standard().classes {
            let met = Capability {
                kind: class.device,
                devices: 1,
                bytes_per_device: class.bytes_min,
                ops_per_second: class.ops_per_second_min,
                walk_bytes_per_second: class.walk_bytes_per_second_min,
            };
            assert_eq!(class.shortfalls(&met), []);
            let (mut bytes, mut ops, mut walk) = (met, met, met);
            bytes.bytes_per_device -= 1;
            ops.ops_per_second -= 1;
            walk.walk_bytes_per_second -= 1;
            for lower in [bytes, ops, walk] {
                assert_eq!(class.shortfalls(&lower).len(), 1, "{}", class.name);
            }
        }
    }

    /// The table that the network's participants know must hold to the digit, but for the two models that are dearer, so
    /// that showing one as several H100 gains nothing.
    #[test]
    fn base_scores_are_the_original_ones() {
        let catalogue = Catalogue::standard();
        let expected: [(&str, u64); 20] = [
            ("B300", 3 * 2_800_000),
            ("B200", 2 * 3_300_000),
            ("H200", 4_000_000),
            ("H100 80GB HBM3", 3_300_000),
            ("H100", 2_800_000),
            ("A100-SXM4-80GB", 1_900_000),
            ("A100 80GB PCIe", 1_700_000),
            ("A100-SXM4-40GB", 1_300_000),
            ("L40", 1_000_000),
            ("RTX 5090", 920_000),
            ("L40S", 900_000),
            ("RTX 6000 Ada Generation", 830_000),
            ("RTX A6000", 750_000),
            ("RTX 4090", 680_000),
            ("RTX A5000", 260_000),
            ("A40", 0),
            ("RTX 3090", 0),
            ("L4", 0),
            ("RTX A4500", 0),
            ("RTX 4000 Ada Generation", 0),
        ];
        for (name, base) in expected {
            let class = catalogue.classes.iter().find(|class| class.name == name);
            assert_eq!(class.map(|class| class.base_score_micro), Some(base), "{name}");
        }
        assert_eq!((catalogue.devices_max, catalogue.points_top), (8, 50));
    }

    /// A provider must be told the nearest goal, not one out of reach.
    #[test]
    fn the_next_class_is_the_nearest() {
        let catalogue = Catalogue::standard();
        let hopper = shown(DeviceKind::Gpu, 76, 400, 2_500);
        let (next, missing) = catalogue.next_above(&hopper).unwrap();
        assert_eq!(next.name, "H100 80GB HBM3");
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].figure, Figure::OpsPerSecond);
        assert_eq!(missing[0].below_ppm(), 111_111);
        assert!(missing[0].to_string().contains("12 % below"), "{}", missing[0]);
        assert!(catalogue.next_above(&shown(DeviceKind::Gpu, 300, 2_000, 8_000)).is_none());
        assert!(catalogue.next_above(&shown(DeviceKind::Cpu, 300, 2_000, 8_000)).is_none());
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
        let parse = |text: &str| Catalogue::parse(text).unwrap_err();
        let head = "version = 1\ndevices_max = 8\n";
        assert!(matches!(parse(&format!("{head}class = []")), CatalogueError::Count(0)));
        assert!(matches!(parse("x"), CatalogueError::Parse(_)));
        assert!(matches!(parse("devices_max = 8\nclass = []"), CatalogueError::Parse(_)));
        let class = "[[class]]\nname = 'a'\ndevice = 'cpu'\nbase_score_micro = 1\n";
        assert!(Catalogue::parse(&format!("{head}{class}")).is_ok());
        let twice = format!("{head}{class}{class}");
        assert!(matches!(parse(&twice), CatalogueError::Duplicate(_)));
        let long = " ".repeat(CATALOGUE_BYTES_MAX + 1);
        assert!(matches!(parse(&long), CatalogueError::TooLong(_)));
        for (field, text) in [
            ("version", format!("version = 0\ndevices_max = 8\n{class}")),
            ("devices_max", format!("version = 1\ndevices_max = 0\n{class}")),
            ("devices_max", format!("version = 1\ndevices_max = 33\n{class}")),
            ("points_top", format!("{head}points_top = 0\n{class}")),
            ("base_score_micro", format!("{head}{}", class.replace("= 1", "= 1000000001"))),
        ] {
            assert!(matches!(parse(&text), CatalogueError::Bound { field: f, .. } if f == field));
        }
        let named = |name: &str, alias: &str| {
            format!("{class}reported_names = ['{alias}']\n").replace("'a'", &format!("'{name}'"))
        };
        let ambiguous = format!("{head}{}{}", named("a", "NVIDIA X-1"), named("b", "nvidia x 1"));
        assert!(matches!(parse(&ambiguous), CatalogueError::Ambiguous(_)));
        let unnamed = format!("{head}{}", named("a", " - "));
        assert!(matches!(parse(&unnamed), CatalogueError::Name(_)));
    }
}
