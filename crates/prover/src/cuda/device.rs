//! A GPU as a device of the prover.

use std::sync::Arc;
use std::thread;

use nicompute_proof::{
    CopyKey, DeviceClaim, DeviceKind, DeviceOpenings, DevicePlan, Digest, Nonce, OpenDevice,
    ProofParams, RowOpening, Tree, check_indices,
};

use super::driver;
use super::error::{CudaCode, CudaError};
use super::gpu::{Gpu, Identity, Neighbour};
use super::layout::{Layout, claimable};
use super::walks::{Extent, Ground, Walked};
use super::work::Work;
use crate::cpu::{none, open_rows, open_walks};
use crate::device::{Device, DeviceError, FillTask, Peer, PlotView, ReportPanel};
use crate::machine::plain;

const UNNAMED: &str = "unnamed GPU";
/// GPUs whose contexts are made at the same time.
const OPENED_AT_ONCE: usize = 32;

/// One NVIDIA GPU.
pub struct CudaDevice {
    claim: DeviceClaim,
    gpu: Arc<Gpu>,
    /// All GPUs that the driver shows.
    gpus: u32,
    /// Threads that hash for this GPU what it brings to the host.
    threads: usize,
    /// The GPUs whose memory this one can read.
    neighbours: Vec<(u32, Neighbour)>,
    session: Option<Session>,
}

/// What the driver shows, GPU by GPU.
#[derive(Debug)]
pub struct Found {
    /// Those that can prove.
    pub devices: Vec<CudaDevice>,
    /// Those that cannot.
    pub not_usable: Vec<NotUsable>,
}

/// A GPU that cannot prove, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("GPU {ordinal} ({name}) cannot be used")]
pub struct NotUsable {
    /// Its place in the driver's list.
    pub ordinal: u32,
    /// What the driver calls it.
    pub name: String,
    /// Why.
    #[source]
    pub why: CudaError,
}

struct Session {
    params: ProofParams,
    plan: DevicePlan,
    work: Work,
    filled: Option<Filled>,
}

struct Filled {
    task: FillTask,
    panels: Tree,
    walks: Option<Walked>,
    links: Option<Walked>,
    copies: Option<Tree>,
}

impl CudaDevice {
    /// All GPUs that the driver shows to this process, with a context in each.
    ///
    /// # Errors
    /// Where there is no driver, or it shows none.
    pub fn find() -> Result<Found, CudaError> {
        driver::load()?;
        let mut found = Found { devices: Vec::new(), not_usable: Vec::new() };
        let gpus = driver::count()?;
        let identities: Vec<_> = (0..gpus)
            .map(|ordinal| Ok((ordinal, Gpu::identify(ordinal)?)))
            .collect::<Result<_, _>>()?;
        for some in identities.chunks(OPENED_AT_ONCE) {
            for ((ordinal, identity), opened) in some.iter().zip(Self::open_all(some, gpus)) {
                match opened {
                    Ok(device) => found.devices.push(device),
                    Err(why) => {
                        let (ordinal, name) = (*ordinal, plain(&identity.name, UNNAMED));
                        found.not_usable.push(NotUsable { ordinal, name, why });
                    }
                }
            }
        }
        Ok(found)
    }

    /// Opens some GPUs, each on a thread of its own, for a context takes a good part of a second.
    fn open_all(some: &[(u32, Identity)], gpus: u32) -> Vec<Result<Self, CudaError>> {
        thread::scope(|scope| {
            let workers: Vec<_> = some
                .iter()
                .map(|(ordinal, identity)| scope.spawn(|| Self::open((*ordinal, gpus), identity)))
                .collect();
            let joined = workers.into_iter().map(|worker| worker.join());
            joined.map(|opened| opened.expect("a GPU that cannot be opened says so")).collect()
        })
    }

    fn open((ordinal, gpus): (u32, u32), identity: &Identity) -> Result<Self, CudaError> {
        let gpu = Gpu::open(ordinal)?;
        let claim = DeviceClaim {
            kind: DeviceKind::Cuda,
            id: uuid_text(identity),
            name: plain(&identity.name, UNNAMED),
            memory_bytes: claimable(gpu.free_bytes()?),
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.checked_div(gpus as usize).unwrap_or(1).max(1);
        Ok(Self { claim, gpu, gpus, threads, neighbours: Vec::new(), session: None })
    }

    fn session(&mut self) -> Result<&mut Session, DeviceError> {
        self.session.as_mut().ok_or(DeviceError::Order)
    }
}

impl Device for CudaDevice {
    fn claim(&self) -> DeviceClaim {
        self.claim.clone()
    }

    fn prepare(&mut self, params: &ProofParams, plan: &DevicePlan) -> Result<(), DeviceError> {
        // What a session before held is given back first.
        self.session = None;
        self.neighbours.clear();
        let layout = Layout::new(params, plan)?;
        let copied = params.copied_rows(plan.rows);
        let work = Work::new(&self.gpu, layout, copied).map_err(|error| match error.number() {
            Some(CudaCode::OUT_OF_MEMORY) => DeviceError::Memory(layout.bytes()),
            _ => error.into(),
        })?;
        if params.link() {
            // A way into the neighbours' memory takes time, so it is opened before any clock runs. Where there is none, LINK
            // says so.
            self.neighbours = (0..self.gpus)
                .filter(|other| *other != self.gpu.ordinal())
                .filter_map(|other| Some((other, self.gpu.reach(other).ok()?)))
                .collect();
        }
        self.session = Some(Session { params: *params, plan: *plan, work, filled: None });
        Ok(())
    }

    fn needs_matrix(&self) -> bool {
        false
    }

    fn fill(
        &mut self,
        task: &FillTask,
        report: &mut ReportPanel<'_>,
    ) -> Result<Digest, DeviceError> {
        let session = self.session()?;
        if session.plan != task.plan || session.filled.is_some() {
            return Err(DeviceError::Order);
        }
        let panels = session.work.fill(task, report)?;
        let panels = Tree::new(task.keys.rows(), panels)?;
        let root = panels.root();
        session.filled =
            Some(Filled { task: task.clone(), panels, walks: None, links: None, copies: None });
        Ok(root)
    }

    fn walk(&mut self, n2: &Nonce) -> Result<Digest, DeviceError> {
        let Session { params, plan, work, filled } = self.session()?;
        let filled = filled.as_mut().ok_or(DeviceError::Order)?;
        let keys = &filled.task.keys;
        let ground = Ground { plot: work.plot.address(), rows: plan.rows };
        let extent = Extent { walks: plan.walks, reads: params.reads() };
        let walked = work.walk(ground, &keys.walk_key(n2), keys.walks(), extent)?;
        let root = walked.tree.root();
        filled.walks = Some(walked);
        Ok(root)
    }

    fn plot(&self) -> Option<PlotView> {
        let session = self.session.as_ref()?;
        session.filled.as_ref()?;
        let plot = &session.work.plot;
        let (address, bytes) = (plot.address(), plot.bytes());
        Some(PlotView::Cuda { ordinal: self.gpu.ordinal(), address, bytes })
    }

    fn link(&mut self, nonce: &Nonce, peer: &Peer) -> Result<Digest, DeviceError> {
        let PlotView::Cuda { ordinal, address, bytes } = peer.view else {
            return Err(DeviceError::Unsupported("way to walk over main memory"));
        };
        let from = self.gpu.ordinal();
        if !self.neighbours.iter().any(|(other, _)| *other == ordinal) {
            return Err(CudaError::Peer { from, to: ordinal }.into());
        }
        let Session { params, work, filled, .. } = self.session()?;
        let filled = filled.as_mut().ok_or(DeviceError::Order)?;
        if peer.rows.saturating_mul(params.n() as u64) > bytes {
            return Err(DeviceError::Order);
        }
        let keys = &filled.task.keys;
        let ground = Ground { plot: address, rows: peer.rows };
        let extent = Extent { walks: params.link_walks(), reads: params.reads() };
        let walked = work.walk(ground, &keys.link_key(nonce), keys.links(), extent)?;
        let root = walked.tree.root();
        filled.links = Some(walked);
        Ok(root)
    }

    fn copy(&mut self, nonce: &Nonce) -> Result<Digest, DeviceError> {
        let threads = self.threads;
        let Session { params, plan, work, filled } = self.session()?;
        let filled = filled.as_mut().ok_or(DeviceError::Order)?;
        let key = CopyKey::new(&filled.task.keys, nonce, plan.rows);
        let tree = work.copy(&key, (params.copied_rows(plan.rows), plan.rows), threads)?;
        let root = tree.root();
        filled.copies = Some(tree);
        Ok(root)
    }

    fn open(&mut self, ask: &OpenDevice) -> Result<DeviceOpenings, DeviceError> {
        let Session { params, plan, work, filled } = self.session()?;
        let filled = filled.as_ref().ok_or(DeviceError::Order)?;
        let walked = filled.walks.as_ref().ok_or(DeviceError::Order)?;
        let links = match &filled.links {
            Some(linked) => {
                open_walks(params.link_walks(), &linked.tree, &linked.results, &ask.links)?
            }
            None => none(&ask.links)?,
        };
        let copies = match &filled.copies {
            Some(tree) => open_rows(params.copied_rows(plan.rows), tree, &ask.copies)?,
            None => none(&ask.copies)?,
        };
        Ok(DeviceOpenings {
            device: plan.device,
            rows: open_plot(plan, work, filled, &ask.rows)?,
            walks: open_walks(plan.walks, &walked.tree, &walked.results, &ask.walks)?,
            links,
            copies,
        })
    }
}

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDevice").field("claim", &self.claim).finish_non_exhaustive()
    }
}

/// The paths of the rows that are asked for: within the panel, then from the panel's root. A panel is a power of two, so
/// its root is a node of the row tree.
fn open_plot(
    plan: &DevicePlan,
    work: &mut Work,
    filled: &Filled,
    asked: &[u64],
) -> Result<Vec<RowOpening>, DeviceError> {
    check_indices(plan.rows, asked.iter().copied())?;
    let panel_rows = u64::from(filled.task.params.panel_rows());
    let mut opened: Option<(u64, Tree)> = None;
    let mut openings = Vec::with_capacity(asked.len());
    for row in asked {
        let panel = row / panel_rows;
        let tree = match opened.take() {
            Some((same, tree)) if same == panel => tree,
            Some(_) | None => work.panel_tree(filled.task.keys.rows(), panel)?,
        };
        let mut path = tree.path(row % panel_rows)?;
        path.extend(filled.panels.path(panel)?);
        openings.push(RowOpening { row: *row, path });
        opened = Some((panel, tree));
    }
    Ok(openings)
}

/// The id in the form of the driver's tools: `GPU-` and a UUID, or `MIG-` for a part of a GPU.
fn uuid_text(identity: &Identity) -> String {
    let kind = if identity.name.contains(" MIG ") { "MIG" } else { "GPU" };
    let hex: String = identity.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    format!("{kind}-{}", parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An id in another form than the driver's tools give would not be found in the provider's inventory.
    #[test]
    fn ids_have_the_form_of_the_drivers_tools() {
        let uuid = std::array::from_fn(|at| u8::try_from(at * 17).unwrap());
        let text = |name: &str| uuid_text(&Identity { uuid, name: name.to_owned() });
        assert_eq!(text("NVIDIA H200"), "GPU-00112233-4455-6677-8899-aabbccddeeff");
        let part = text("NVIDIA H100 80GB HBM3 MIG 1g.10gb");
        assert_eq!(part, "MIG-00112233-4455-6677-8899-aabbccddeeff");
    }
}
