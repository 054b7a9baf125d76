//! The processor and main memory as a device.

use std::sync::Arc;

use nicompute_proof::{
    CopyKey, DeviceClaim, DeviceKind, DeviceOpenings, DevicePlan, Digest, Kernel, Nonce,
    OpenDevice, ProofParams, RowOpening, Tree, TreeKeys, WALK_GROUP, WalkKey, WalkOpening,
    check_indices,
};

use crate::device::{Device, DeviceError, FillTask, Peer, PlotView, ReportPanel};
use crate::plot::{Chain, InMemory, MakeRows, copy_tree, fill, walk, walk_tree};

/// Bytes that a row needs besides itself: its hash and its share of the tree.
const TREE_BYTES_PER_ROW: u64 = 64;
const PAGE: usize = 4096;

/// How rows are made; a cheat puts its own way here.
pub(crate) type RowMaker = Arc<dyn Fn(Kernel, &FillTask) -> Box<dyn MakeRows> + Send + Sync>;

/// A device that computes on threads and keeps its plot in main memory.
pub struct CpuDevice {
    claim: DeviceClaim,
    threads: usize,
    kernel: Kernel,
    rows: RowMaker,
    session: Option<Session>,
}

/// What a device holds between PREPARE and the end.
struct Session {
    params: ProofParams,
    plan: DevicePlan,
    plot: Vec<u8>,
    filled: Option<Filled>,
}

struct Filled {
    task: FillTask,
    plot: Arc<Vec<u8>>,
    rows: Tree,
    walks: Option<Walked>,
    links: Option<Walked>,
    copies: Option<Tree>,
}

struct Walked {
    results: Vec<u64>,
    tree: Tree,
}

impl CpuDevice {
    /// A device with this id, using so many threads, on the fastest kernel of the processor.
    #[must_use]
    pub fn new(id: &str, name: &str, memory_bytes: u64, threads: usize) -> Self {
        Self::with_rows(
            DeviceClaim {
                kind: DeviceKind::Cpu,
                id: id.to_owned(),
                name: name.to_owned(),
                memory_bytes,
            },
            threads,
            Arc::new(|kernel, task| Box::new(Chain::new(kernel, task))),
        )
    }

    /// The same device on another kernel.
    #[must_use]
    pub fn on_kernel(self, kernel: Kernel) -> Self {
        Self { kernel, ..self }
    }

    pub(crate) fn with_rows(claim: DeviceClaim, threads: usize, rows: RowMaker) -> Self {
        Self { claim, threads: threads.max(1), kernel: Kernel::detect(), rows, session: None }
    }

    fn session(&mut self) -> Result<&mut Session, DeviceError> {
        self.session.as_mut().ok_or(DeviceError::Order)
    }
}

impl Device for CpuDevice {
    fn claim(&self) -> DeviceClaim {
        self.claim.clone()
    }

    fn prepare(&mut self, params: &ProofParams, plan: &DevicePlan) -> Result<(), DeviceError> {
        let plot_bytes = plan.rows.saturating_mul(params.n() as u64);
        let all = plot_bytes.saturating_add(plan.rows.saturating_mul(TREE_BYTES_PER_ROW));
        if all > self.claim.memory_bytes {
            return Err(DeviceError::Memory(all));
        }
        let plot = touched(plot_bytes).ok_or(DeviceError::Memory(all))?;
        self.session = Some(Session { params: *params, plan: *plan, plot, filled: None });
        Ok(())
    }

    fn fill(
        &mut self,
        task: &FillTask,
        report: &mut ReportPanel<'_>,
    ) -> Result<Digest, DeviceError> {
        let (threads, make) = (self.threads, (self.rows)(self.kernel, task));
        let session = self.session()?;
        if session.plan != task.plan || session.filled.is_some() {
            return Err(DeviceError::Order);
        }
        let rows = fill(task, threads, make.as_ref(), &mut session.plot, report)?;
        let root = rows.root();
        session.filled = Some(Filled {
            task: task.clone(),
            plot: Arc::new(std::mem::take(&mut session.plot)),
            rows,
            walks: None,
            links: None,
            copies: None,
        });
        Ok(root)
    }

    fn walk(&mut self, n2: &Nonce) -> Result<Digest, DeviceError> {
        let (threads, kernel) = (self.threads, self.kernel);
        let Session { params, plan, filled, .. } = self.session()?;
        let filled = filled.as_mut().ok_or(DeviceError::Order)?;
        let key = WalkKey::new(&filled.task.keys, n2, params.n(), plan.rows);
        let read = InMemory { kernel, n: params.n(), plot: &filled.plot };
        let results = walk(params, &key, plan.walks, threads, &read);
        let walked = Walked::new(filled.task.keys.walks(), results)?;
        let root = walked.tree.root();
        filled.walks = Some(walked);
        Ok(root)
    }

    fn plot(&self) -> Option<PlotView> {
        let filled = self.session.as_ref()?.filled.as_ref()?;
        Some(PlotView::Memory(Arc::clone(&filled.plot)))
    }

    fn link(&mut self, nonce: &Nonce, peer: &Peer) -> Result<Digest, DeviceError> {
        let (threads, kernel) = (self.threads, self.kernel);
        let Session { params, filled, .. } = self.session()?;
        let filled = filled.as_mut().ok_or(DeviceError::Order)?;
        let PlotView::Memory(plot) = &peer.view else {
            return Err(DeviceError::Unsupported("way into a GPU's memory"));
        };
        let key = WalkKey::link(&filled.task.keys, nonce, params.n(), peer.rows);
        let read = InMemory { kernel, n: params.n(), plot };
        let results = walk(params, &key, params.link_walks(), threads, &read);
        let walked = Walked::new(filled.task.keys.links(), results)?;
        let root = walked.tree.root();
        filled.links = Some(walked);
        Ok(root)
    }

    fn copy(&mut self, nonce: &Nonce) -> Result<Digest, DeviceError> {
        let threads = self.threads;
        let Session { params, plan, filled, .. } = self.session()?;
        let filled = filled.as_mut().ok_or(DeviceError::Order)?;
        let key = CopyKey::new(&filled.task.keys, nonce, plan.rows);
        let tree = copy_tree(params, &key, plan, threads, &filled.plot)?;
        let root = tree.root();
        filled.copies = Some(tree);
        Ok(root)
    }

    fn open(&mut self, ask: &OpenDevice) -> Result<DeviceOpenings, DeviceError> {
        let Session { params, plan, filled, .. } = self.session()?;
        let filled = filled.as_ref().ok_or(DeviceError::Order)?;
        let walked = filled.walks.as_ref().ok_or(DeviceError::Order)?;
        let copied = params.copied_rows(plan.rows);
        let links = match &filled.links {
            Some(linked) => {
                open_walks(params.link_walks(), &linked.tree, &linked.results, &ask.links)?
            }
            None => none(&ask.links)?,
        };
        let copies = match &filled.copies {
            Some(tree) => open_rows(copied, tree, &ask.copies)?,
            None => none(&ask.copies)?,
        };
        Ok(DeviceOpenings {
            device: plan.device,
            rows: open_rows(plan.rows, &filled.rows, &ask.rows)?,
            walks: open_walks(plan.walks, &walked.tree, &walked.results, &ask.walks)?,
            links,
            copies,
        })
    }
}

impl Walked {
    fn new(keys: &TreeKeys, results: Vec<u64>) -> Result<Self, DeviceError> {
        let tree = walk_tree(keys, &results)?;
        Ok(Self { results, tree })
    }
}

/// Openings of a leg that was not played: there must be none.
pub(crate) fn none<A, T>(asked: &[A]) -> Result<Vec<T>, DeviceError> {
    if asked.is_empty() { Ok(Vec::new()) } else { Err(DeviceError::Order) }
}

impl std::fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuDevice")
            .field("claim", &self.claim)
            .field("threads", &self.threads)
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

/// The paths of the rows that are asked for, of so many.
pub(crate) fn open_rows(
    count: u64,
    tree: &Tree,
    asked: &[u64],
) -> Result<Vec<RowOpening>, DeviceError> {
    check_indices(count, asked.iter().copied())?;
    let open = |row: &u64| Ok(RowOpening { row: *row, path: tree.path(*row)? });
    asked.iter().map(open).collect()
}

/// The groups and paths of the walks that are asked for, of so many.
pub(crate) fn open_walks(
    count: u32,
    tree: &Tree,
    results: &[u64],
    asked: &[u32],
) -> Result<Vec<WalkOpening>, DeviceError> {
    check_indices(u64::from(count), asked.iter().map(|walk| u64::from(*walk)))?;
    let open = |walk: &u32| {
        let group = *walk / WALK_GROUP;
        let first = (group * WALK_GROUP) as usize;
        let results = results.get(first..first + WALK_GROUP as usize).ok_or(DeviceError::Order)?;
        let path = tree.path(u64::from(group))?;
        Ok(WalkOpening { walk: *walk, group: results.to_vec(), path })
    };
    asked.iter().map(open).collect()
}

/// Memory of which every page is really there, so that no page is fetched while a clock runs.
pub(crate) fn touched(bytes: u64) -> Option<Vec<u8>> {
    let len = usize::try_from(bytes).ok()?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(len).ok()?;
    memory.resize(len, 0);
    for page in memory.chunks_mut(PAGE) {
        page[0] = 1;
    }
    Some(memory)
}
