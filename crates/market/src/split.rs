//! Whether prices reward showing one device as several.
//!
//! Two programs on one GPU, each with half of its memory and half of its time, look to every test of a single machine like two
//! smaller GPUs. So several devices that one device could pretend to be must not be paid more than that one. This module
//! compares prices of classes at their minimums; it never looks at a machine.

use crate::{Catalogue, Class};

/// A device that would earn more if it were shown as several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The class of the one device.
    pub whole: String,
    /// What one device with its minimums is paid, in millionths.
    pub whole_micro: u64,
    /// The class that it would be shown as.
    pub part: String,
    /// How many times.
    pub count: u32,
    /// What they are paid together, in millionths.
    pub parts_micro: u64,
}

/// The split that gains most, where there is one.
pub(crate) fn best_split(catalogue: &Catalogue) -> Option<Split> {
    let wholes = catalogue.classes.iter();
    let pairs = wholes.flat_map(|whole| catalogue.classes.iter().map(move |part| (whole, part)));
    let splits = pairs.filter_map(|(whole, part)| split(catalogue, whole, part));
    splits.max_by_key(|split| split.parts_micro.saturating_sub(split.whole_micro))
}

/// What is gained by showing a `whole` as several times a `part`, if anything.
fn split(catalogue: &Catalogue, whole: &Class, part: &Class) -> Option<Split> {
    if whole.device != part.device {
        return None;
    }
    let limit = u64::from(catalogue.counted_max(whole.device));
    let count =
        minimums(whole).into_iter().zip(minimums(part)).fold(limit, |count, (has, asks)| {
            // A minimum of nothing is met by any number.
            count.min(has.checked_div(asks).unwrap_or(limit))
        });
    let parts_micro = part.base_score_micro.saturating_mul(count);
    // A device is paid as the best class that it meets, which need not be the one that is named after it.
    let met = catalogue.classes.iter().filter(|class| {
        class.device == whole.device
            && minimums(whole).into_iter().zip(minimums(class)).all(|(has, asks)| has >= asks)
    });
    let whole_micro = met.map(|class| class.base_score_micro).max().unwrap_or(0);
    (parts_micro > whole_micro).then(|| Split {
        whole: whole.name.clone(),
        whole_micro,
        part: part.name.clone(),
        count: u32::try_from(count).unwrap_or(u32::MAX),
        parts_micro,
    })
}

const fn minimums(class: &Class) -> [u64; 3] {
    [class.bytes_min, class.ops_per_second_min, class.walk_bytes_per_second_min]
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { whole, whole_micro, part, count, parts_micro } = self;
        write!(
            f,
            "one {whole:?} is paid {whole_micro} and meets {count} times every minimum of {part:?}, which is paid \
             {parts_micro} together; raise the base score of {whole:?} to {parts_micro}, lower that of {part:?}, or \
             raise a minimum of {part:?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Capability, CatalogueError, DeviceKind, Evidence, ScorePolicy, Track, UnixMillis, Verdict,
        score,
    };

    fn class(name: &str, base: u64, minimums: [u64; 3]) -> String {
        let [bytes, ops, walk] = minimums;
        format!(
            "[[class]]\nname = '{name}'\ndevice = 'gpu'\nbase_score_micro = {base}\nbytes_min = {bytes}\n\
             ops_per_second_min = {ops}\nwalk_bytes_per_second_min = {walk}\n"
        )
    }

    fn parse(devices_max: u32, classes: &[String]) -> Result<Catalogue, CatalogueError> {
        let classes = classes.concat();
        Catalogue::parse(&format!("version = 1\ndevices_max = {devices_max}\n{classes}"))
    }

    fn refused(devices_max: u32, classes: &[String]) -> Split {
        match parse(devices_max, classes) {
            Err(CatalogueError::Splittable(split)) => split,
            other => panic!("{other:?}"),
        }
    }

    /// An operator's file that pays for a trick must stop the validator at its start, and say which rows and what to do.
    #[test]
    fn a_file_that_rewards_splitting_is_refused() {
        let (large, small) = ([20, 20, 20], [10, 8, 5]);
        let split = refused(8, &[class("large", 50, large), class("small", 33, small)]);
        let expected = Split {
            whole: "large".to_owned(),
            whole_micro: 50,
            part: "small".to_owned(),
            count: 2,
            parts_micro: 66,
        };
        assert_eq!(split, expected);
        let text = CatalogueError::Splittable(split).to_string();
        for part in ["\"large\"", "\"small\"", "2 times", "to 66"] {
            assert!(text.contains(part), "{text}");
        }
        // At the least price that satisfies the rule it is accepted, and a unit below it is not.
        assert!(parse(8, &[class("large", 66, large), class("small", 33, small)]).is_ok());
        assert_eq!(refused(8, &[class("large", 65, large), class("small", 33, small)]).count, 2);
        // Each of the three minimums alone keeps a device from being two.
        for short in [[11, 8, 5], [10, 11, 5], [10, 8, 11]] {
            assert!(parse(8, &[class("large", 50, large), class("small", 33, short)]).is_ok());
        }
        // Where only one device counts, nothing is gained by showing more.
        assert!(parse(1, &[class("large", 50, large), class("small", 33, small)]).is_ok());
    }

    /// A class without any minimum is met by every part of a device, so that one would be paid eight times.
    #[test]
    fn a_paid_class_of_gpus_has_a_minimum() {
        let split = refused(8, &[class("any", 10, [0, 0, 0])]);
        assert_eq!((split.count, split.parts_micro), (8, 80));
        assert!(parse(8, &[class("any", 10, [1, 0, 0])]).is_ok());
        assert!(parse(8, &[class("any", 0, [0, 0, 0])]).is_ok());
        // All processors of a machine count as one.
        let cpu = class("any", 10, [0, 0, 0]).replace("gpu", "cpu");
        assert!(parse(8, &[cpu]).is_ok());
    }

    /// One GPU of any class, shown as any number of devices that share what it has, must earn no more than shown as what it is.
    #[test]
    fn one_gpu_shown_as_several_earns_no_more() {
        let catalogue = Catalogue::standard();
        let policy = ScorePolicy { age_millis_max: 1, rented_multiplier_milli: 1_000 };
        let earned = |class: &Class, devices: u32| {
            let [bytes, ops, walk] = minimums(class).map(|figure| figure / u64::from(devices));
            let shown = Capability {
                kind: DeviceKind::Gpu,
                devices,
                bytes_per_device: bytes,
                ops_per_second: ops,
                walk_bytes_per_second: walk,
            };
            let evidence = [Evidence { at: UnixMillis(1), verdict: Verdict::Passed(shown) }];
            score(
                Track { evidence: &evidence, is_rented: false },
                &catalogue,
                policy,
                UnixMillis(1),
            )
            .micro
        };
        for class in &catalogue.classes {
            let honest = earned(class, 1);
            for devices in 2..=catalogue.devices_max {
                let split = earned(class, devices);
                assert!(split <= honest, "{} as {devices}: {split} > {honest}", class.name);
            }
        }
        let blackwell = catalogue.classes.iter().find(|class| class.name == "B200").unwrap();
        assert_eq!(earned(blackwell, 2), earned(blackwell, 1), "B200 is the least price");
    }
}
