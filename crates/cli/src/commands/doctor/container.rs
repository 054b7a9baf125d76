//! Whether a container sees exactly the GPU that it is given. It is looked at from outside: nothing is run in it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::ErrorChain;
use nicompute_host::runtime::{ContainerSpec, MEMORY_BYTES_MIN, Options, Runtime, RuntimeKind};
use nicompute_host::telemetry::{GpuSample, Gpus};
use nicompute_market::LeaseId;

use super::Patient;
use super::finding::Finding;
use crate::embedded;

const CHECK: &str = "gpu.container";
/// How long the container may take to come and to go.
const LIMIT: Duration = Duration::from_secs(90);
/// Disk of the container.
const DISK_BYTES: u64 = 256 << 20;

pub(super) async fn gpus(
    patient: &Patient<'_>,
    runtime: Option<&Arc<dyn Runtime>>,
    gpus: &Gpus,
) -> Vec<Finding> {
    let skipped = |why: &str| vec![Finding::skipped(CHECK, why)];
    let Some(sample) = gpus.samples.first() else { return skipped("there is no GPU") };
    let Some(runtime) = runtime else { return skipped("no runtime works") };
    if !runtime.gives_gpus() {
        let what = "the runtime cannot give GPUs to containers: none would be offered";
        let remedy = match runtime.kind() {
            RuntimeKind::SandboxRoot | RuntimeKind::SandboxUser => {
                "install the NVIDIA Container Toolkit, then: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml; \
                 it must name every GPU"
            }
            RuntimeKind::Docker | RuntimeKind::Fake => {
                "install the NVIDIA Container Toolkit, then: nvidia-ctk runtime configure --runtime=docker, \
                 systemctl restart docker, nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
            }
        };
        return vec![Finding::error(CHECK, what).remedy(remedy)];
    }
    let image = match tokio::time::timeout(LIMIT, runtime.images()).await {
        Ok(Ok(images)) => images.into_iter().next(),
        Ok(Err(_)) | Err(_) => None,
    };
    let Some(image) = image else { return skipped("there is no image to make a container of") };
    sweep(&**runtime).await;
    vec![look(patient, &**runtime, sample, image).await]
}

/// Removes what a doctor that was killed has left.
async fn sweep(runtime: &dyn Runtime) {
    if let Ok(Ok(left)) = tokio::time::timeout(LIMIT, runtime.list()).await {
        for lease in left {
            drop(tokio::time::timeout(LIMIT, runtime.remove(lease)).await);
        }
    }
}

/// Makes a container with one GPU, looks, and removes it, whatever happened in between.
async fn look(
    patient: &Patient<'_>,
    runtime: &dyn Runtime,
    sample: &GpuSample,
    image: String,
) -> Finding {
    let spec = match spec(patient, sample, image) {
        Ok(spec) => spec,
        Err(error) => return Finding::error(CHECK, format!("{error:#}")),
    };
    let made = tokio::time::timeout(LIMIT, runtime.ensure(&spec)).await;
    let finding = match made {
        Err(_) => Finding::error(CHECK, "no container with a GPU came up in time")
            .remedy(cause(runtime.kind())),
        Ok(Ok(running)) => {
            let root = format!("/proc/{}/root/dev", running.init_pid);
            judge(&nodes(Path::new(&root)), sample)
        }
        Ok(Err(error)) => {
            Finding::error(CHECK, format!("no container with a GPU: {}", ErrorChain(&error)))
                .remedy(error.remedy().unwrap_or_else(|| cause(runtime.kind())))
        }
    };
    match tokio::time::timeout(LIMIT, runtime.remove(spec.lease)).await {
        Ok(Ok(())) => finding,
        Err(_) => Finding::error(CHECK, "a container of the doctor's could not be removed in time")
            .remedy("nicompute doctor once more removes it"),
        Ok(Err(error)) => Finding::error(CHECK, format!("it stays behind: {}", ErrorChain(&error))),
    }
}

/// Where to look for the cause.
const fn cause(kind: RuntimeKind) -> &'static str {
    match kind {
        RuntimeKind::Docker | RuntimeKind::Fake => {
            "the engine's own words are in its log: journalctl -u docker"
        }
        RuntimeKind::SandboxRoot | RuntimeKind::SandboxUser => {
            "nvidia-smi must work first, then: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
        }
    }
}

fn spec(patient: &Patient<'_>, sample: &GpuSample, image: String) -> anyhow::Result<ContainerSpec> {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random)?;
    let lease = LeaseId::from_random_bytes(random);
    let programs = embedded::materialize(&patient.scratch.0.join("programs"))?;
    let dir = patient.scratch.0.join("leases").join(lease.to_string());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join("run"))?;
    Ok(ContainerSpec {
        lease,
        generation: 0,
        cores_milli: 1_000,
        memory_bytes: 4 * MEMORY_BYTES_MIN,
        disk_bytes: DISK_BYTES,
        gpus: vec![sample.gpu.uuid.clone()],
        image,
        dir,
        agent: programs.agent,
        masked_host_paths: vec![patient.wallets.clone()],
        options: Options::default(),
    })
}

/// The names of GPUs' own nodes in a folder.
fn nodes(dev: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(dev) else { return BTreeSet::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_gpu = |name: &String| {
        name.strip_prefix("nvidia")
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
    };
    names.filter(is_gpu).collect()
}

fn judge(seen: &BTreeSet<String>, sample: &GpuSample) -> Finding {
    let shown = seen.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let Some(minor) = sample.minor else {
        return Finding::warning(
            CHECK,
            format!("a container with {} sees {shown}", sample.gpu.uuid),
        )
        .remedy("the driver does not number this GPU's node: compare by hand");
    };
    let wanted = format!("nvidia{minor}");
    if seen.len() == 1 && seen.contains(&wanted) {
        return Finding::ok(
            CHECK,
            format!("a container with {} sees {wanted} alone", sample.gpu.uuid),
        );
    }
    if seen.contains(&wanted) {
        let what = format!("a container with {} sees other GPUs as well: {shown}", sample.gpu.uuid);
        return Finding::error(CHECK, what).remedy(
            "in /etc/nvidia-container-runtime/config.toml: \
             accept-nvidia-visible-devices-envvar-when-unprivileged = false",
        );
    }
    let shown = if shown.is_empty() { "none".to_owned() } else { shown };
    Finding::error(CHECK, format!("a container with {} sees {shown}", sample.gpu.uuid))
        .remedy("nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml, then restart the engine")
}

#[cfg(test)]
mod tests {
    use nicompute_host::inventory::{Gpu, GpuShare};

    use super::*;
    use crate::commands::doctor::finding::Level;

    /// A container that sees its neighbour's GPU reads its neighbour's memory.
    #[test]
    fn a_container_must_see_its_gpu_and_no_other() {
        let sample = GpuSample {
            gpu: Gpu {
                uuid: "GPU-1".to_owned(),
                name: "test".to_owned(),
                memory_bytes: 1,
                compute_capability: None,
                share: GpuShare::Whole,
            },
            index: "0".to_owned(),
            bus_id: None,
            minor: Some(1),
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
        };
        let dev = tempfile::tempdir().unwrap();
        let level = |names: &[&str]| {
            for name in names {
                fs::write(dev.path().join(name), "").unwrap();
            }
            judge(&nodes(dev.path()), &sample).level
        };
        assert_eq!(level(&["nvidiactl", "nvidia-uvm", "null"]), Level::Error, "none");
        assert_eq!(level(&["nvidia1"]), Level::Ok);
        assert_eq!(level(&["nvidia0"]), Level::Error, "another one as well");
        fs::remove_file(dev.path().join("nvidia1")).unwrap();
        assert_eq!(level(&[]), Level::Error, "another one instead");
    }
}
