//! Everything that one session holds on one GPU.

use std::sync::Arc;

use super::error::CudaError;
use super::gpu::{Buffer, Event, Gpu, Pinned, Stream};
use super::layout::{DIGEST_BYTES, Layout, PANELS_IN_FLIGHT};

/// The memory and the queues of a session.
pub(super) struct Work {
    pub(super) gpu: Arc<Gpu>,
    pub(super) layout: Layout,
    /// Computes operands, rows and walks.
    pub(super) compute: Stream,
    /// Hashes rows and fetches what the host needs, behind the first queue.
    pub(super) hash: Stream,
    /// Marks in the first queue what the second one waits for.
    pub(super) computed: Event,
    pub(super) plot: Buffer,
    pub(super) operands: [Buffer; 2],
    pub(super) matrix: Buffer,
    pub(super) leaves: Buffer,
    pub(super) nodes: [Buffer; 2],
    pub(super) words: Buffer,
    /// Where key words leave from, always in the first queue.
    pub(super) sent: Pinned,
    pub(super) results: [Buffer; 2],
    /// Where panel roots arrive, in turn.
    pub(super) roots: Vec<Arrival>,
    /// Where results of walks arrive, in turn.
    pub(super) walked: [Arrival; 2],
    /// Where the leaves of a panel arrive that is opened.
    pub(super) opened: Arrival,
    /// Where copied rows arrive, in turn; none where no rows are copied.
    pub(super) copied: Vec<Arrival>,
}

/// A place of the host that a copy goes to, and the mark behind the copy.
pub(super) struct Arrival {
    host: Pinned,
    here: Event,
    bytes: usize,
}

impl Work {
    /// Allocates and touches everything.
    pub(super) fn new(gpu: &Arc<Gpu>, layout: Layout, copied_rows: u64) -> Result<Self, CudaError> {
        let compute = Stream::new(gpu)?;
        let buffer = |bytes| Buffer::new(gpu, bytes, &compute);
        let two = |bytes| Ok::<_, CudaError>([buffer(bytes)?, buffer(bytes)?]);
        let sizes = layout.buffers;
        let copied = copied_rows.min(layout.copied_at_once()) * u64::from(layout.n);
        let places = if copied == 0 { 0 } else { 2 };
        // The plot last: where memory is short, it is the plot that does not fit.
        Ok(Self {
            operands: two(sizes.operands)?,
            matrix: buffer(sizes.matrix)?,
            leaves: buffer(sizes.leaves)?,
            nodes: two(sizes.nodes)?,
            words: buffer(sizes.words)?,
            sent: Pinned::new(gpu, sizes.words)?,
            results: two(sizes.results)?,
            roots: (0..PANELS_IN_FLIGHT)
                .map(|_| Arrival::new(gpu, DIGEST_BYTES))
                .collect::<Result<_, _>>()?,
            walked: [Arrival::new(gpu, sizes.results)?, Arrival::new(gpu, sizes.results)?],
            opened: Arrival::new(gpu, sizes.leaves)?,
            copied: (0..places).map(|_| Arrival::new(gpu, copied)).collect::<Result<_, _>>()?,
            plot: buffer(layout.plot)?,
            hash: Stream::new(gpu)?,
            computed: Event::new(gpu)?,
            gpu: Arc::clone(gpu),
            layout,
            compute,
        })
    }

    /// Lets what follows in the second queue wait for what is in the first.
    pub(super) fn hand_over(&self) -> Result<(), CudaError> {
        self.computed.record(&self.compute)?;
        self.hash.wait_for(&self.computed)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Nothing may be given back while a queue still uses it. Where the driver has failed, nothing runs any more.
        drop(self.gpu.enter().and_then(|()| self.compute.finish()));
        drop(self.gpu.enter().and_then(|()| self.hash.finish()));
    }
}

impl Arrival {
    fn new(gpu: &Arc<Gpu>, bytes: u64) -> Result<Self, CudaError> {
        Ok(Self { host: Pinned::new(gpu, bytes)?, here: Event::new(gpu)?, bytes: 0 })
    }

    /// Lets some of a buffer, from an offset on, come here in the order of the queue.
    pub(super) fn call(
        &mut self,
        (from, offset): (&Buffer, u64),
        bytes: u64,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let bytes = bytes.min(from.bytes().saturating_sub(offset));
        let address = from.address() + offset;
        self.bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: the range lies in the buffer, and the memory is read only in `take`, after the mark behind the copy.
        unsafe { self.host.fetch(address, bytes, stream)? };
        self.here.record(stream)
    }

    /// Waits for what was called and returns it.
    pub(super) fn take(&self) -> Result<&[u8], CudaError> {
        let bytes = self.host.after(&self.here)?;
        Ok(bytes.get(..self.bytes).unwrap_or(bytes))
    }
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("gpu", &self.gpu)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}
