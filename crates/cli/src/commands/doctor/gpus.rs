//! The GPU driver, each GPU, and the specs by which containers get them.

use std::path::Path;
use std::time::Duration;

use nicompute_daemon::ErrorChain;
use nicompute_host::cdi::{DIRS, Registry};
use nicompute_host::inventory::{GpuShare, ask_in_time};
use nicompute_host::telemetry::{Answer, GpuSample, Gpus, NvmlLibrary};

use super::finding::Finding;
use super::has_gpus;

/// How long the driver may take.
const DRIVER_LIMIT: Duration = Duration::from_secs(30);
/// Nodes that every container with a GPU needs.
const NODES: [&str; 2] = ["/dev/nvidiactl", "/dev/nvidia-uvm"];

pub(super) async fn driver() -> (Vec<Finding>, Gpus) {
    const CHECK: &str = "gpu.driver";
    let asked =
        tokio::task::spawn_blocking(|| ask_in_time(NvmlLibrary::default(), DRIVER_LIMIT)).await;
    let finding = match asked.unwrap_or(None) {
        Some(Answer::Gpus(gpus)) => return (of_gpus(&gpus), gpus),
        Some(Answer::NoLibrary) => Finding::warning(
            CHECK,
            "no NVIDIA driver is installed: only the processor can be offered",
        )
        .remedy("on a machine with a GPU: install the driver (535 or newer), then restart"),
        Some(Answer::Broken(problem)) => {
            Finding::error(CHECK, format!("the NVIDIA driver's library does not work: {problem}"))
                .remedy(
                    "nvidia-smi must work first; after an update of the driver restart the machine",
                )
        }
        None => {
            let seconds = DRIVER_LIMIT.as_secs();
            Finding::error(CHECK, format!("the NVIDIA driver did not answer within {seconds} s"))
                .remedy("look at dmesg for `NVRM: Xid`, then restart the machine")
        }
    };
    (vec![finding], Gpus::default())
}

fn of_gpus(gpus: &Gpus) -> Vec<Finding> {
    let version = gpus.driver.as_deref().unwrap_or("of an unknown version");
    let what = format!("NVIDIA {version} with {} GPUs or slices", gpus.samples.len());
    let mut findings = vec![if has_gpus(gpus) {
        Finding::ok("gpu.driver", what)
    } else {
        Finding::warning("gpu.driver", format!("{what}: only the processor can be offered"))
            .remedy("if the machine has GPUs: nvidia-smi -L, and dmesg for `NVRM`")
    }];
    findings.extend(gpus.samples.iter().map(of_gpu));
    findings.extend(gpus.failures.iter().map(|failure| {
        let what = format!("GPU {} does not answer: {}", failure.index, failure.problem);
        Finding::error("gpu.device", what)
            .remedy("look at dmesg for `NVRM: Xid`; reseat the card or restart the machine")
    }));
    for node in NODES {
        if has_gpus(gpus) && !Path::new(node).exists() {
            findings.push(
                Finding::error("gpu.nodes", format!("{node} does not exist"))
                    .remedy("nvidia-modprobe -u -c 0, and at each start of the machine"),
            );
        }
    }
    findings
}

fn of_gpu(sample: &GpuSample) -> Finding {
    const CHECK: &str = "gpu.device";
    let gpu = &sample.gpu;
    let mut what = format!("{} {} {} MiB", gpu.uuid, gpu.name, gpu.memory_bytes >> 20);
    if let GpuShare::Vgpu = gpu.share {
        what.push_str(" is a hypervisor's share");
        return Finding::warning(CHECK, what)
            .remedy("validators measure what it can do at that moment; offer whole GPUs");
    }
    if let GpuShare::Mig { parent } = &gpu.share {
        what.extend([format!(", a MIG slice of {parent}")]);
    }
    if let Some(errors) = sample.ecc_uncorrected.filter(|errors| *errors > 0) {
        what.extend([format!(": {errors} memory errors that were not corrected")]);
        return Finding::error(CHECK, what).remedy(
            "nvidia-smi -q -d ECC,PAGE_RETIREMENT; reset the GPU, replace it if they come again",
        );
    }
    if !sample.throttled.is_empty() {
        what.extend([format!(", held back by {}", sample.throttled.join(", "))]);
        return Finding::warning(CHECK, what)
            .remedy("look at cooling and power: nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE");
    }
    if !sample.pids.is_empty() {
        what.extend([format!(", used by {} processes now", sample.pids.len())]);
        return Finding::warning(CHECK, what)
            .remedy("a GPU that is for rent must be idle: end what computes on it (nvidia-smi)");
    }
    Finding::ok(CHECK, what)
}

/// Whether the specs name every GPU and are as new as the driver.
pub(super) fn specs(gpus: &Gpus) -> Vec<Finding> {
    specs_in(&DIRS, gpus)
}

fn specs_in<P: AsRef<Path>>(dirs: &[P], gpus: &Gpus) -> Vec<Finding> {
    const CHECK: &str = "gpu.cdi";
    if !has_gpus(gpus) {
        return vec![Finding::skipped(CHECK, "there is no GPU to look for in CDI specs")];
    }
    let registry = Registry::load(dirs).knowing(gpus.known());
    let mut findings: Vec<Finding> = registry
        .unread()
        .iter()
        .map(|unread| {
            let (file, problem) = (unread.file.display(), ErrorChain(&unread.problem));
            Finding::warning(CHECK, format!("{file} is not used: {problem}"))
                .remedy("remove it, then: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
        })
        .collect();
    for sample in &gpus.samples {
        let injection = registry.injection(&[&sample.gpu.uuid]);
        let checked = injection.and_then(|injection| {
            injection.check_on_host()?;
            Ok(injection)
        });
        findings.push(match checked {
            Ok(injection) => {
                let (nodes, files) = (injection.devices.len(), injection.mounts.len());
                let what = format!("{}: {nodes} nodes and {files} files", sample.gpu.uuid);
                Finding::ok(CHECK, what)
            }
            // An engine with the NVIDIA runtime does without specs; the sandbox does not.
            Err(error) => {
                Finding::warning(CHECK, ErrorChain(&error).to_string()).remedy(error.remedy())
            }
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use nicompute_host::inventory::Gpu;

    use super::*;
    use crate::commands::doctor::finding::Level;

    fn sample() -> GpuSample {
        GpuSample {
            gpu: Gpu {
                uuid: "GPU-1".to_owned(),
                name: "test".to_owned(),
                memory_bytes: 1 << 30,
                compute_capability: None,
                share: GpuShare::Whole,
            },
            index: "0".to_owned(),
            bus_id: None,
            minor: Some(0),
            memory_used_bytes: None,
            temperature_celsius: None,
            power_milliwatts: None,
            power_limit_milliwatts: None,
            clock_mhz: None,
            memory_clock_mhz: None,
            throttled: Vec::new(),
            ecc_corrected: None,
            ecc_uncorrected: None,
            pids: Vec::new(),
        }
    }

    /// A GPU in bad health that is called well is found out by the first validator.
    #[test]
    fn each_trouble_of_a_gpu_is_named() {
        let level = |change: fn(&mut GpuSample)| {
            let mut sample = sample();
            change(&mut sample);
            let finding = of_gpu(&sample);
            assert_eq!(finding.remedy.is_some(), finding.level != Level::Ok);
            finding.level
        };
        assert_eq!(level(|_| {}), Level::Ok);
        assert_eq!(level(|sample| sample.gpu.share = GpuShare::Vgpu), Level::Warning);
        assert_eq!(level(|sample| sample.ecc_uncorrected = Some(1)), Level::Error);
        assert_eq!(level(|sample| sample.ecc_uncorrected = Some(0)), Level::Ok);
        assert_eq!(level(|sample| sample.throttled = vec!["power cap"]), Level::Warning);
        assert_eq!(level(|sample| sample.pids = vec![7]), Level::Warning);
        let parent = "GPU-0".to_owned();
        let mut slice = sample();
        slice.gpu.share = GpuShare::Mig { parent };
        assert_eq!(of_gpu(&slice).level, Level::Ok);
        assert!(of_gpu(&slice).what.contains("a MIG slice of GPU-0"));
    }

    /// Specs of a driver that was replaced start containers without a working GPU.
    #[test]
    fn specs_must_fit_the_driver() {
        let dir = tempfile::tempdir().unwrap();
        let gpus = Gpus { samples: vec![sample()], ..Gpus::default() };
        let found = specs_in(&[dir.path()], &gpus);
        assert_eq!(found[0].level, Level::Warning);
        assert!(found[0].what.contains("no CDI spec"), "{found:?}");
        let spec = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    \
                    deviceNodes:\n    - path: /dev/nvidia0\n    mounts:\n    - hostPath: /usr/lib/gone.so.1\n      \
                    containerPath: /usr/lib/gone.so.1\n";
        std::fs::write(dir.path().join("nvidia.yaml"), spec).unwrap();
        let found = specs_in(&[dir.path()], &gpus);
        assert!(found[0].what.contains("gone.so.1"), "{found:?}");
        assert!(specs_in(&[dir.path()], &Gpus::default())[0].level == Level::Skipped);
    }
}
