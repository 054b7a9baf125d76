//! `device_requirement`: what a renter of 1.9.0 asks of a machine.

use nicompute_market::Machine;
use serde_json::{Map, Value};

/// Bytes of the unit in which GPU memory is asked for.
const MIB: u64 = 1 << 20;

/// What a machine must have at least. What is not asked for is nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Requirement {
    /// Processor cores.
    pub cores: u64,
    /// Memory.
    pub memory_bytes: u64,
    /// Disk.
    pub disk_bytes: u64,
    /// GPUs; `None` where none is asked for.
    pub gpu: Option<GpuRequirement>,
    /// A validator's test, which lasts minutes.
    pub testing: bool,
}

/// What the GPUs must be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GpuRequirement {
    /// How many.
    pub count: u64,
    /// The memory of all together must be more than this.
    pub memory_mib: u64,
    /// A part of the name, in lower case.
    pub name_part: String,
}

/// A field that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("device_requirement.{0} is not of its kind")]
pub struct RequirementError(pub &'static str);

impl Requirement {
    /// Reads the dictionary of a request.
    pub(super) fn parse(fields: &Map<String, Value>) -> Result<Self, RequirementError> {
        let gpu = section(fields, "gpu")?;
        Ok(Self {
            cores: whole(section(fields, "cpu")?, "count", "cpu.count", f64::ceil)?,
            memory_bytes: whole(section(fields, "ram")?, "capacity", "ram.capacity", f64::ceil)?,
            disk_bytes: whole(
                section(fields, "hard_disk")?,
                "capacity",
                "hard_disk.capacity",
                f64::ceil,
            )?,
            gpu: gpu.filter(|gpu| !gpu.is_empty()).map(GpuRequirement::parse).transpose()?,
            testing: match fields.get("testing") {
                None | Some(Value::Null) => false,
                Some(Value::Bool(testing)) => *testing,
                Some(_) => return Err(RequirementError("testing")),
            },
        })
    }

    /// The first thing that the machine has not enough of.
    #[must_use]
    pub fn missing(&self, machine: &Machine) -> Option<&'static str> {
        if u64::from(machine.cores) < self.cores {
            return Some("cpu.count");
        }
        if machine.memory_bytes < self.memory_bytes {
            return Some("ram.capacity");
        }
        if machine.disk_bytes < self.disk_bytes {
            return Some("hard_disk.capacity");
        }
        self.gpu.as_ref().and_then(|gpu| gpu.missing(machine))
    }
}

impl GpuRequirement {
    fn parse(fields: &Map<String, Value>) -> Result<Self, RequirementError> {
        let name_part = match fields.get("type") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(name)) => name.to_lowercase(),
            Some(_) => return Err(RequirementError("gpu.type")),
        };
        Ok(Self {
            count: whole(Some(fields), "count", "gpu.count", f64::ceil)?,
            memory_mib: whole(Some(fields), "capacity", "gpu.capacity", f64::floor)?,
            name_part,
        })
    }

    fn missing(&self, machine: &Machine) -> Option<&'static str> {
        let count = u64::try_from(machine.gpus.len()).unwrap_or(u64::MAX);
        if count < self.count {
            return Some("gpu.count");
        }
        let memory = machine.gpus.iter().map(|gpu| gpu.memory_bytes / MIB);
        let memory = memory.fold(0_u64, u64::saturating_add);
        // None is enough for nothing: the comparison of 1.9.0 is strict, and a machine without GPU has no memory on them.
        if memory <= self.memory_mib && (self.count > 0 || self.memory_mib > 0) {
            return Some("gpu.capacity");
        }
        let fits = |name: &str| name.to_lowercase().contains(&self.name_part);
        let named = machine.gpus.iter().all(|gpu| fits(&gpu.name));
        (!self.name_part.is_empty() && (machine.gpus.is_empty() || !named)).then_some("gpu.type")
    }
}

fn section<'f>(
    fields: &'f Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'f Map<String, Value>>, RequirementError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(section)) => Ok(Some(section)),
        Some(_) => Err(RequirementError(name)),
    }
}

/// A number that may be written with a point, rounded so that the comparison with whole numbers stays the same.
fn whole(
    section: Option<&Map<String, Value>>,
    name: &str,
    shown: &'static str,
    round: fn(f64) -> f64,
) -> Result<u64, RequirementError> {
    let number = match section.and_then(|section| section.get(name)) {
        None | Some(Value::Null) => return Ok(0),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(RequirementError(shown)),
    };
    if let Some(whole) = number.as_u64() {
        return Ok(whole);
    }
    // From a float to an integer by way of its decimal text, which has no exponent.
    let rounded = number.as_f64().filter(|number| *number >= 0.0).map(round);
    let text = rounded.map(|rounded| format!("{rounded:.0}")).ok_or(RequirementError(shown))?;
    text.parse().map_err(|_| RequirementError(shown))
}

#[cfg(test)]
mod tests {
    use nicompute_market::Gpu;
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<Requirement, RequirementError> {
        Requirement::parse(value.as_object().unwrap())
    }

    fn machine(gpus: usize) -> Machine {
        let gpu = |index| Gpu {
            uuid: format!("GPU-{index}"),
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            memory_bytes: 81_559 * MIB,
        };
        Machine {
            cpu_model: "test".to_owned(),
            cores: 8,
            memory_bytes: 64 << 30,
            disk_bytes: 500 << 30,
            gpus: (0..gpus).map(gpu).collect(),
        }
    }

    /// A machine that says yes to what it has not is rented and then found useless.
    #[test]
    fn a_machine_meets_what_it_has_and_nothing_more() {
        let proof = json!({
            "cpu": {"count": 1}, "gpu": {"count": 1, "capacity": 0, "type": ""},
            "hard_disk": {"capacity": 1_073_741_824_u64}, "ram": {"capacity": 1_073_741_824_u64},
            "testing": true,
        });
        assert_eq!(parse(&proof).unwrap().missing(&machine(1)), None);
        assert_eq!(parse(&proof).unwrap().missing(&machine(0)), Some("gpu.count"));
        let cases = [
            (json!({}), None),
            (json!({"gpu": {}}), None),
            (json!({"cpu": {"count": 8}}), None),
            (json!({"cpu": {"count": 9}}), Some("cpu.count")),
            (json!({"ram": {"capacity": (64_u64 << 30) + 1}}), Some("ram.capacity")),
            (json!({"hard_disk": {"capacity": 1e15}}), Some("hard_disk.capacity")),
            (json!({"gpu": {"count": 2}}), None),
            (json!({"gpu": {"count": 3}}), Some("gpu.count")),
            (json!({"gpu": {"count": 1, "capacity": 163_118}}), Some("gpu.capacity")),
            (json!({"gpu": {"count": 1, "capacity": 163_117.5}}), None),
            (json!({"gpu": {"count": 1, "type": "h100"}}), None),
            (json!({"gpu": {"count": 1, "type": "A100"}}), Some("gpu.type")),
        ];
        for (asked, missing) in cases {
            assert_eq!(parse(&asked).unwrap().missing(&machine(2)), missing, "{asked}");
        }
    }

    /// A requirement that cannot be read is not met.
    #[test]
    fn other_kinds_are_refused_by_name() {
        let cases = [
            (json!({"cpu": 4}), "cpu"),
            (json!({"cpu": {"count": "4"}}), "cpu.count"),
            (json!({"cpu": {"count": -1}}), "cpu.count"),
            (json!({"ram": {"capacity": 1e300}}), "ram.capacity"),
            (json!({"gpu": {"count": 1, "type": 4}}), "gpu.type"),
            (json!({"gpu": []}), "gpu"),
        ];
        for (asked, field) in cases {
            assert_eq!(parse(&asked), Err(RequirementError(field)));
        }
    }
}
