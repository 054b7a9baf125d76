//! What a lease of an offer may ask for, as it is shown.

use nicompute_market::{
    Conditions, LEASE_MILLIS_MAX, LEASE_MILLIS_MIN, LeaseNetwork, LimitsHeld, MicroUsd,
    RuntimeClass, RuntimeKind, UnixMillis, VolumesAllowed, Window,
};
use serde::{Deserialize, Serialize};

use super::{TEXT_CHARS_MAX, ViewError, wrong};

/// Patterns of images that are fetched, of one offer.
pub const FETCHES_MAX: usize = 64;
/// Times of maintenance, of one offer.
pub const WINDOWS_MAX: usize = 64;
/// Classes of one offer; there are four.
const CLASSES_MAX: usize = 16;
const MILLIS: u64 = 1000;

/// What a lease of an offer may ask for. What is left out is not given, but for the times, which have the market's limits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConditionsView {
    /// The shortest rental.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds_min: Option<u64>,
    /// The longest rental.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds_max: Option<u64>,
    /// Runtime classes, the first one by default; `standard` where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Patterns of the images that are fetched for a rental, beside those that are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetches: Vec<String>,
    /// Whether it may have volumes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub volumes: bool,
    /// Ports that may be reached through the node.
    #[serde(default)]
    pub ports_max: u16,
    /// `none` or `egress`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// When it is closed: no lease lasts into one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintenance: Vec<WindowView>,
    /// What each of its GPUs costs for an hour, where that is how its price is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_micro_usd_per_gpu_hour: Option<u64>,
}

/// A time in which an offer is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowView {
    /// Its begin.
    pub from_unix_ms: u64,
    /// Its end.
    pub until_unix_ms: u64,
}

impl From<&Conditions> for ConditionsView {
    fn from(conditions: &Conditions) -> Self {
        let window = |window: &Window| WindowView {
            from_unix_ms: window.from.get(),
            until_unix_ms: window.until.get(),
        };
        let (shortest, longest) = (conditions.duration_millis_min, conditions.duration_millis_max);
        Self {
            duration_seconds_min: (shortest != LEASE_MILLIS_MIN).then_some(shortest / MILLIS),
            duration_seconds_max: (longest != LEASE_MILLIS_MAX).then_some(longest / MILLIS),
            classes: conditions.classes.iter().map(ToString::to_string).collect(),
            fetches: conditions.fetches.clone(),
            volumes: conditions.volumes == VolumesAllowed::Yes,
            ports_max: conditions.ports_max,
            network: Some(conditions.network.as_str().to_owned()),
            maintenance: conditions.maintenance.iter().map(window).collect(),
            price_micro_usd_per_gpu_hour: conditions.price_per_gpu_hour.map(MicroUsd::get),
        }
    }
}

impl ConditionsView {
    /// The conditions of an offer whose limits and runtime say so. Classes of a later version are passed over: nobody here
    /// can ask for them.
    pub(super) fn read(self, limits: &str, runtime: RuntimeKind) -> Result<Conditions, ViewError> {
        let texts = self.fetches.iter().chain(&self.classes);
        let is_long = |text: &String| text.chars().count() > TEXT_CHARS_MAX;
        if self.fetches.len() > FETCHES_MAX
            || self.maintenance.len() > WINDOWS_MAX
            || self.classes.len() > CLASSES_MAX
        {
            return Err(wrong("conditions", "has a list that is too long"));
        }
        if texts.clone().any(|text| is_long(text) || text.chars().any(char::is_control)) {
            return Err(wrong("conditions", "has a text that is too long or not printable"));
        }
        let mut classes: Vec<RuntimeClass> =
            self.classes.iter().filter_map(|class| class.parse().ok()).collect();
        if classes.is_empty() {
            classes.push(RuntimeClass::Standard);
        }
        let network = self.network.as_deref().and_then(|network| network.parse().ok());
        let window = |view: &WindowView| Window {
            from: UnixMillis(view.from_unix_ms),
            until: UnixMillis(view.until_unix_ms),
        };
        let millis = |seconds: Option<u64>, otherwise| {
            seconds.map_or(otherwise, |seconds| seconds.saturating_mul(MILLIS))
        };
        Ok(Conditions {
            duration_millis_min: millis(self.duration_seconds_min, LEASE_MILLIS_MIN),
            duration_millis_max: millis(self.duration_seconds_max, LEASE_MILLIS_MAX),
            classes,
            volumes: if self.volumes { VolumesAllowed::Yes } else { VolumesAllowed::No },
            ports_max: self.ports_max,
            network: network.unwrap_or(LeaseNetwork::None),
            maintenance: self.maintenance.iter().map(window).collect(),
            fetches: self.fetches,
            limits: match limits {
                "enforced" if runtime.limits_enforced() => LimitsHeld::All,
                "enforced but disk" if runtime.limits_enforced() => LimitsHeld::AllButDisk,
                _ => LimitsHeld::Nothing,
            },
            price_per_gpu_hour: self.price_micro_usd_per_gpu_hour.map(MicroUsd),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Conditions that change on their way make renters ask for what they are not given.
    #[test]
    fn conditions_survive_their_text() {
        let conditions = Conditions {
            duration_millis_min: 3_600_000,
            duration_millis_max: 7_200_000,
            classes: vec![RuntimeClass::Gvisor, RuntimeClass::Standard],
            fetches: vec!["docker.io/library/*".to_owned()],
            volumes: VolumesAllowed::Yes,
            ports_max: 4,
            network: LeaseNetwork::Egress,
            maintenance: vec![Window { from: UnixMillis(1), until: UnixMillis(2) }],
            limits: LimitsHeld::AllButDisk,
            price_per_gpu_hour: Some(MicroUsd(7)),
        };
        let text = serde_json::to_string(&ConditionsView::from(&conditions)).unwrap();
        let view: ConditionsView = serde_json::from_str(&text).unwrap();
        let read = view.read("enforced but disk", RuntimeKind::Docker);
        assert_eq!(read, Ok(conditions));
        // An offer of a version without conditions.
        let old = ConditionsView::default().read("enforced", RuntimeKind::Docker);
        assert_eq!(old, Ok(Conditions::default()));
        let lie = ConditionsView::default().read("enforced", RuntimeKind::SandboxUser).unwrap();
        assert_eq!(lie.limits, LimitsHeld::Nothing);
    }

    /// A hostile offer must not fill a validator's memory or a renter's terminal.
    #[test]
    fn conditions_are_bounded() {
        let many = ConditionsView {
            fetches: vec![String::new(); FETCHES_MAX + 1],
            ..ConditionsView::default()
        };
        assert!(many.read("enforced", RuntimeKind::Docker).is_err());
        let bell =
            ConditionsView { fetches: vec!["\u{7}".to_owned()], ..ConditionsView::default() };
        assert!(bell.read("enforced", RuntimeKind::Docker).is_err());
    }
}
