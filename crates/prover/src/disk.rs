//! A disk as a device: the plot lies in a file without a name, read and written past the system's cache.
//!
//! The file is unlinked as soon as it is open, so that nothing is left behind however the prover ends. Every access is
//! `O_DIRECT` and aligned. Memory that calls itself a file system is refused, for it would prove memory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use nicompute_proof::{
    BLOCK_ROWS, CopyKey, DeviceClaim, DeviceKind, DeviceOpenings, DevicePlan, Digest, Kernel,
    Nonce, OpenDevice, ProofParams, Tree, WalkKey,
};
use rustix::fs::{FallocateFlags, OFlags, fallocate, fstatfs, statvfs};

use crate::cpu::{open_rows, open_walks};
use crate::device::{Device, DeviceError, FillTask, ReportPanel};
use crate::plot::{Chain, MakeRows as _, ReadRows, fill_panels, walk, walk_tree};

/// What every offset, length and address is a multiple of: the largest block of common disks.
const ALIGN: usize = 4096;
/// Bytes that are written or read at a time where they follow each other.
const RUN_BYTES: usize = 1 << 20;
/// Walks that wait for the disk at the same time.
const READERS: usize = 32;
/// Threads that read a run of rows.
const COPIERS: usize = 4;
/// Names that are tried for the file.
const NAMES_MAX: u32 = 100;
/// What `statfs` says of file systems that keep their files in memory: tmpfs and ramfs.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58F6];

/// A file on a disk of the machine.
#[derive(Debug)]
pub struct DiskDevice {
    claim: DeviceClaim,
    dir: PathBuf,
    threads: usize,
    session: Option<Session>,
}

/// Why a disk cannot be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The folder lies in memory.
    #[error("the folder lies in memory, not on a disk")]
    InMemory,
    /// The file system cannot be read past the system's cache.
    #[error("the file system has no direct access (O_DIRECT): {0}")]
    Direct(io::ErrorKind),
    /// There is not enough room.
    #[error("no {0} bytes of room for the plot")]
    Space(u64),
    /// Reading or writing failed.
    #[error("the disk failed: {0}")]
    Failed(io::ErrorKind),
}

#[derive(Debug)]
struct Session {
    params: ProofParams,
    plan: DevicePlan,
    file: File,
    filled: Option<Filled>,
}

#[derive(Debug)]
struct Filled {
    task: FillTask,
    rows: Tree,
    walks: Option<(Vec<u64>, Tree)>,
    copies: Option<Tree>,
}

impl DiskDevice {
    /// A device in the first of these folders that a plot can be kept in, else in the first of them: whoever asks for it
    /// then is told why it cannot be.
    #[must_use]
    pub fn at_first_of(dirs: &[PathBuf], threads: usize) -> Self {
        let usable = dirs.iter().find(|dir| open_nameless(dir).is_ok());
        let dir = usable.or_else(|| dirs.first()).cloned().unwrap_or_else(|| PathBuf::from("/"));
        let free = statvfs(&dir).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        let claim = DeviceClaim {
            kind: DeviceKind::Disk,
            id: "disk".to_owned(),
            name: "file system of the lease".to_owned(),
            memory_bytes: free,
        };
        Self { claim, dir, threads: threads.max(1), session: None }
    }

    fn session(&mut self) -> Result<&mut Session, DeviceError> {
        self.session.as_mut().ok_or(DeviceError::Order)
    }
}

impl Device for DiskDevice {
    fn claim(&self) -> DeviceClaim {
        self.claim.clone()
    }

    fn prepare(&mut self, params: &ProofParams, plan: &DevicePlan) -> Result<(), DeviceError> {
        let bytes = plan.rows.saturating_mul(params.n() as u64);
        if bytes > self.claim.memory_bytes {
            return Err(DiskError::Space(bytes).into());
        }
        let file = open_nameless(&self.dir)?;
        match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // A file system that cannot set room aside says so when it is full.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(_) => return Err(DiskError::Space(bytes).into()),
        }
        self.session = Some(Session { params: *params, plan: *plan, file, filled: None });
        Ok(())
    }

    fn fill(
        &mut self,
        task: &FillTask,
        report: &mut ReportPanel<'_>,
    ) -> Result<Digest, DeviceError> {
        let threads = self.threads;
        let Session { params, plan, file, filled } = self.session()?;
        if *plan != task.plan || filled.is_some() {
            return Err(DeviceError::Order);
        }
        let chain = Chain::new(Kernel::detect(), task);
        let (n, panel_rows) = (params.n(), params.panel_rows() as usize);
        let panels = usize::try_from(plan.rows).unwrap_or(usize::MAX) / panel_rows;
        let write = |panel: usize, (): ()| {
            let mut leaves = Vec::with_capacity(panel_rows);
            let run = (RUN_BYTES / n).next_multiple_of(BLOCK_ROWS).min(panel_rows);
            let mut buffer = Aligned::new(run * n);
            let first = panel * panel_rows;
            for at in (first..first + panel_rows).step_by(run) {
                let rows = buffer.bytes();
                for (block, rows) in (at..).step_by(BLOCK_ROWS).zip(rows.chunks_mut(BLOCK_ROWS * n))
                {
                    chain.make(block as u64, rows);
                }
                leaves.extend(rows.chunks_exact(n).map(|row| task.keys.rows().leaf(row)));
                file.write_all_at(rows, (at * n) as u64).map_err(|error| failed(&error))?;
            }
            Ok(leaves)
        };
        let rows = fill_panels(task, threads, std::iter::repeat_n((), panels), report, &write)?;
        file.sync_data().map_err(|error| failed(&error))?;
        let root = rows.root();
        *filled = Some(Filled { task: task.clone(), rows, walks: None, copies: None });
        Ok(root)
    }

    fn walk(&mut self, n2: &Nonce) -> Result<Digest, DeviceError> {
        let Session { params, plan, file, filled } = self.session()?;
        let filled = filled.as_mut().ok_or(DeviceError::Order)?;
        let key = WalkKey::new(&filled.task.keys, n2, params.n(), plan.rows);
        let read = OnDisk { kernel: Kernel::detect(), file, failed: Mutex::new(None) };
        let results = walk(params, &key, plan.walks, READERS, &read);
        if let Some(kind) = *read.failed.lock().expect("no thread panics while it holds this") {
            return Err(DiskError::Failed(kind).into());
        }
        let tree = walk_tree(filled.task.keys.walks(), &results)?;
        let root = tree.root();
        filled.walks = Some((results, tree));
        Ok(root)
    }

    fn copy(&mut self, nonce: &Nonce) -> Result<Digest, DeviceError> {
        let Session { params, plan, file, filled } = self.session()?;
        let filled = filled.as_mut().ok_or(DeviceError::Order)?;
        let key = CopyKey::new(&filled.task.keys, nonce, plan.rows);
        let count = usize::try_from(params.copied_rows(plan.rows)).unwrap_or(usize::MAX);
        let mut leaves = vec![Digest([0; 32]); count];
        let share = count.div_ceil(COPIERS).max(1);
        let (file, n) = (&*file, params.n());
        thread::scope(|scope| {
            let workers: Vec<_> = (0_usize..)
                .step_by(share)
                .zip(leaves.chunks_mut(share))
                .map(|(first, leaves)| {
                    scope.spawn(move || copy_run(file, n, key, first as u64, leaves))
                })
                .collect();
            let mut joined = workers.into_iter().map(|worker| worker.join());
            joined.try_for_each(|done| done.expect("a reader reports its failures"))
        })?;
        let tree = Tree::new(key.tree(), leaves)?;
        let root = tree.root();
        filled.copies = Some(tree);
        Ok(root)
    }

    fn open(&mut self, ask: &OpenDevice) -> Result<DeviceOpenings, DeviceError> {
        let Session { params, plan, filled, .. } = self.session()?;
        let filled = filled.as_ref().ok_or(DeviceError::Order)?;
        let (results, walks) = filled.walks.as_ref().ok_or(DeviceError::Order)?;
        let copies = match &filled.copies {
            Some(tree) => open_rows(params.copied_rows(plan.rows), tree, &ask.copies)?,
            None if ask.copies.is_empty() => Vec::new(),
            None => return Err(DeviceError::Order),
        };
        if !ask.links.is_empty() {
            return Err(DeviceError::Order);
        }
        Ok(DeviceOpenings {
            device: plan.device,
            rows: open_rows(plan.rows, &filled.rows, &ask.rows)?,
            walks: open_walks(plan.walks, walks, results, &ask.walks)?,
            links: Vec::new(),
            copies,
        })
    }
}

/// Reads rows from the file, one at a time.
struct OnDisk<'a> {
    kernel: Kernel,
    file: &'a File,
    failed: Mutex<Option<io::ErrorKind>>,
}

impl ReadRows for OnDisk<'_> {
    fn read(&self, key: &WalkKey, mixed: u64, row: u64, scratch: &mut [u8]) -> u64 {
        let offset = row * scratch.len() as u64;
        match read_rows(self.file, offset, scratch) {
            Ok(()) => self.kernel.absorb(key, mixed, scratch),
            Err(error) => {
                let mut failed = self.failed.lock().expect("no thread panics while it holds this");
                *failed = Some(error.kind());
                mixed
            }
        }
    }
}

/// Hashes the rows of a run from a place on, as many as there are leaves.
fn copy_run(
    file: &File,
    n: usize,
    key: CopyKey,
    first: u64,
    leaves: &mut [Digest],
) -> Result<(), DiskError> {
    let mut buffer = vec![0_u8; RUN_BYTES.next_multiple_of(n)];
    let (mut place, mut rest) = (first, leaves);
    while !rest.is_empty() {
        // Rows follow each other up to the end of the plot, where the run goes on at row 0.
        let start = key.row(place);
        let in_buffer = (buffer.len() / n).min(rest.len());
        let together = (1..in_buffer as u64)
            .find(|at| key.row(place + at) == 0)
            .map_or(in_buffer, |at| usize::try_from(at).unwrap_or(in_buffer));
        let (now, later) = rest.split_at_mut(together);
        let rows = &mut buffer[..together * n];
        read_rows(file, start * n as u64, rows).map_err(|error| failed(&error))?;
        for (leaf, row) in now.iter_mut().zip(rows.chunks_exact(n)) {
            *leaf = key.tree().leaf(row);
        }
        place += together as u64;
        rest = later;
    }
    Ok(())
}

/// Reads bytes from anywhere, by the whole blocks around them.
fn read_rows(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let before = usize::try_from(offset % ALIGN as u64).unwrap_or(0);
    let mut blocks = Aligned::new((before + out.len()).next_multiple_of(ALIGN));
    let bytes = blocks.bytes();
    file.read_exact_at(bytes, offset - before as u64)?;
    out.copy_from_slice(&bytes[before..][..out.len()]);
    Ok(())
}

/// A file without a name, readable past the cache.
fn open_nameless(dir: &Path) -> Result<File, DiskError> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600).custom_flags(direct);
    for number in 0..NAMES_MAX {
        let path = dir.join(format!(".nicompute-plot-{}-{number}", std::process::id()));
        let file = match options.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => {
                // Some file systems create the file and refuse the access.
                drop(fs::remove_file(&path));
                return Err(DiskError::Direct(error.kind()));
            }
        };
        fs::remove_file(&path).map_err(|error| failed(&error))?;
        let kind = fstatfs(&file).map_err(|error| DiskError::Failed(error.kind()))?.f_type;
        return if IN_MEMORY.contains(&kind) { Err(DiskError::InMemory) } else { Ok(file) };
    }
    Err(DiskError::Failed(io::ErrorKind::AlreadyExists))
}

fn failed(error: &io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::InvalidInput => DiskError::Direct(io::ErrorKind::InvalidInput),
        kind => DiskError::Failed(kind),
    }
}

/// Memory at an address that direct access takes.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGN];
        let from = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { memory, from, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..][..self.len]
    }
}
