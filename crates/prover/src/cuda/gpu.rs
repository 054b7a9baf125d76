//! One GPU as the driver shows it: its context, the loaded kernels, and the things that live in it. Each is given back
//! when it is dropped, before the GPU itself is.

use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use cudarc::driver::sys;

use super::driver::{check, version};
use super::error::{CudaCode, CudaError};
use super::kernels::Kernels;

/// The prover's kernels for every architecture that they were compiled for; the driver picks.
#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);
static FATBIN: &Aligned<[u8]> = &Aligned(*include_bytes!("../../cuda/kernels.fatbin"));

/// Events that take no time stamps, and for which a waiting thread sleeps instead of turning on its processor.
const EVENT_FLAGS: u32 = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32
    | sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
/// Streams that do not wait for the default stream. No call here uses that stream: what it does would come at any time.
const STREAM_FLAGS: u32 = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
/// Longest name that a driver gives.
const NAME_LEN: c_int = 256;

/// One GPU with its primary context and the kernels in it.
pub(super) struct Gpu {
    ordinal: u32,
    device: sys::CUdevice,
    context: sys::CUcontext,
    module: sys::CUmodule,
    kernels: Kernels,
}

/// A part of the GPU's memory.
pub(super) struct Buffer {
    gpu: Arc<Gpu>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

/// Memory of the host that the GPU copies from and into by itself.
pub(super) struct Pinned {
    gpu: Arc<Gpu>,
    at: *mut u8,
    bytes: usize,
}

/// A queue of the GPU: what is put into it happens in order.
pub(super) struct Stream {
    gpu: Arc<Gpu>,
    stream: sys::CUstream,
}

/// A place in a queue that can be waited for.
pub(super) struct Event {
    gpu: Arc<Gpu>,
    event: sys::CUevent,
}

// SAFETY: the driver's handles belong to the process, not to a thread, and its calls may come from any thread; everything
// here is immutable after it was made.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}
// SAFETY: the memory belongs to this value alone, and the driver frees it from any thread.
unsafe impl Send for Pinned {}
// SAFETY: a queue may be used from any thread; this value is never shared, only moved.
unsafe impl Send for Stream {}
// SAFETY: as a queue.
unsafe impl Send for Event {}

/// What the driver says of a GPU before any context exists.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) uuid: [u8; 16],
    pub(super) name: String,
}

impl Gpu {
    /// Which GPU stands at this place of the driver's list.
    pub(super) fn identify(ordinal: u32) -> Result<Identity, CudaError> {
        let device = device(ordinal)?;
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        // SAFETY: the pointer is to a live structure of the type that the call fills.
        check("cuDeviceGetUuid_v2", unsafe { sys::cuDeviceGetUuid_v2(&raw mut uuid, device) })?;
        let mut name = [0_u8; NAME_LEN as usize];
        // SAFETY: the call writes at most the length that it is told, and a zero byte within it.
        let named = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), NAME_LEN, device) };
        check("cuDeviceGetName", named)?;
        let name = CStr::from_bytes_until_nul(&name).unwrap_or(c"").to_string_lossy().into_owned();
        Ok(Identity { uuid: uuid.bytes.map(i8::cast_unsigned), name })
    }

    /// Makes the GPU's context and loads the kernels into it.
    pub(super) fn open(ordinal: u32) -> Result<Arc<Self>, CudaError> {
        let device = device(ordinal)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: the device is the driver's own, and the pointer is to a live pointer.
        let retained = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) };
        check("cuDevicePrimaryCtxRetain", retained)?;
        let module = std::ptr::null_mut();
        let mut gpu = Self { ordinal, device, context, module, kernels: Kernels::none() };
        gpu.enter()?;
        gpu.load()?;
        Ok(Arc::new(gpu))
    }

    fn load(&mut self) -> Result<(), CudaError> {
        let image: *const c_void = FATBIN.0.as_ptr().cast();
        // SAFETY: the image is a whole fat binary that was compiled with this program; a driver that does not know its
        // format says so.
        let loaded = unsafe { sys::cuModuleLoadData(&raw mut self.module, image) };
        check("cuModuleLoadData", loaded).map_err(|error| self.no_kernel(error))?;
        self.kernels = Kernels::of(self.module)?;
        Ok(())
    }

    /// Tells an image that does not fit the GPU from other failures.
    fn no_kernel(&self, error: CudaError) -> CudaError {
        let CudaError::Call { code, .. } = error else { return error };
        if !CudaCode::IMAGE.contains(&code.number) {
            return CudaError::Call { call: "cuModuleLoadData", code };
        }
        CudaError::NoKernel {
            capability: self.capability().unwrap_or((0, 0)),
            driver: version().unwrap_or((0, 0)),
            code,
        }
    }

    fn capability(&self) -> Result<(i32, i32), CudaError> {
        use sys::CUdevice_attribute as Attribute;
        let ask = |attribute| {
            let mut value: c_int = 0;
            // SAFETY: the pointer is to a live integer.
            let asked =
                unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, self.device) };
            check("cuDeviceGetAttribute", asked).map(|()| value)
        };
        Ok((
            ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ))
    }

    /// The GPU's place in the driver's list.
    pub(super) const fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The loaded kernels.
    pub(super) const fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Makes this GPU the one that the calling thread works on.
    pub(super) fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained as long as this value lives.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// Bytes of this GPU's memory that nobody uses.
    pub(super) fn free_bytes(&self) -> Result<u64, CudaError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both pointers are to live integers.
        let asked = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        check("cuMemGetInfo", asked)?;
        Ok(free as u64)
    }

    /// Lets this GPU read the memory of another. Returns the other, which must live as long as it is read.
    pub(super) fn reach(&self, ordinal: u32) -> Result<Neighbour, CudaError> {
        let no = CudaError::Peer { from: self.ordinal, to: ordinal };
        let peer = device(ordinal)?;
        let mut can: c_int = 0;
        // SAFETY: the pointer is to a live integer.
        let asked = unsafe { sys::cuDeviceCanAccessPeer(&raw mut can, self.device, peer) };
        check("cuDeviceCanAccessPeer", asked)?;
        if can == 0 {
            return Err(no);
        }
        let neighbour = Neighbour::retain(peer)?;
        self.enter()?;
        // SAFETY: both contexts are live, and this thread works on the one that will read.
        let enabled = unsafe { sys::cuCtxEnablePeerAccess(neighbour.context, 0) };
        match check("cuCtxEnablePeerAccess", enabled) {
            Err(error) if error.number() != Some(CudaCode::PEER_ALREADY) => Err(error),
            Ok(()) | Err(_) => Ok(neighbour),
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.enter().is_ok() && !self.module.is_null() {
            // SAFETY: nothing of the module is used any more. Where the driver has failed, there is nobody to tell.
            unsafe { sys::cuModuleUnload(self.module) };
        }
        // SAFETY: retained once, released once.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Another GPU's context, kept while its memory is read.
#[derive(Debug)]
pub(super) struct Neighbour {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: the handle belongs to the process, and it is released from any thread.
unsafe impl Send for Neighbour {}

impl Neighbour {
    fn retain(device: sys::CUdevice) -> Result<Self, CudaError> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the device is the driver's own, and the pointer is to a live pointer.
        let retained = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) };
        check("cuDevicePrimaryCtxRetain", retained)?;
        Ok(Self { device, context })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // SAFETY: retained once, released once.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

fn device(ordinal: u32) -> Result<sys::CUdevice, CudaError> {
    let mut device = 0;
    let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
    // SAFETY: the pointer is to a live handle; a place that does not exist is an error.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut device, ordinal) })?;
    Ok(device)
}

impl Buffer {
    /// Memory of the GPU, every byte of it written once before this returns.
    pub(super) fn new(gpu: &Arc<Gpu>, bytes: u64, stream: &Stream) -> Result<Self, CudaError> {
        gpu.enter()?;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut address = 0;
        // SAFETY: the pointer is to a live address, and this thread works on the GPU.
        check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) })?;
        let buffer = Self { gpu: Arc::clone(gpu), address, bytes };
        // SAFETY: the range is the buffer just made.
        let set = unsafe { sys::cuMemsetD8Async(address, 0, bytes, stream.stream) };
        check("cuMemsetD8Async", set)?;
        stream.finish()?;
        Ok(buffer)
    }

    /// Where it begins, in the address space that all GPUs share.
    pub(super) const fn address(&self) -> u64 {
        self.address
    }

    /// Its length.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: nothing uses the memory any more: freeing waits for the GPU's queues.
            unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}

impl Pinned {
    /// Memory of the host that stays where it is.
    pub(super) fn new(gpu: &Arc<Gpu>, bytes: u64) -> Result<Self, CudaError> {
        gpu.enter()?;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut at = std::ptr::null_mut();
        // SAFETY: the pointer is to a live pointer.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&raw mut at, bytes, 0) })?;
        let at: *mut u8 = at.cast();
        // SAFETY: the driver gave so many bytes, and nobody else knows of them.
        unsafe { at.write_bytes(0, bytes) };
        Ok(Self { gpu: Arc::clone(gpu), at, bytes })
    }

    /// Copies memory of the GPU to its beginning, in the order of the queue.
    ///
    /// # Safety
    /// `from..from + bytes` must be the GPU's memory, and [`Self::bytes`] must not be read before the queue has come past
    /// this.
    pub(super) unsafe fn fetch(
        &mut self,
        from: u64,
        bytes: u64,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let len = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.bytes);
        // SAFETY: the target has so many bytes and stays in place; the caller vouches for the source.
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(self.at.cast(), from, len, stream.stream) };
        check("cuMemcpyDtoHAsync", copied)
    }

    /// Copies bytes to the beginning of a buffer of the same GPU, in the order of the queue, behind everything in it.
    ///
    /// # Safety
    /// Everything that is sent from here must go through the same queue, and nothing may be fetched to here.
    pub(super) unsafe fn send(
        &mut self,
        bytes: &[u8],
        to: &Buffer,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        // What was sent before may still be on its way from here.
        stream.finish()?;
        let len = bytes.len().min(self.bytes).min(to.bytes);
        // SAFETY: so many bytes belong to this value, and the one queue that reads them is empty.
        unsafe { self.at.copy_from_nonoverlapping(bytes.as_ptr(), len) };
        // SAFETY: the copy stays within both ranges. This memory stays in place, and is written only when the queue is empty.
        let copied = unsafe {
            sys::cuMemcpyHtoDAsync_v2(to.address, self.at.cast_const().cast(), len, stream.stream)
        };
        check("cuMemcpyHtoDAsync", copied)
    }

    /// What lies there, after the event that was recorded behind the copy.
    pub(super) fn after(&self, event: &Event) -> Result<&[u8], CudaError> {
        event.wait()?;
        // SAFETY: so many bytes were given and written, and no copy into them is under way.
        Ok(unsafe { std::slice::from_raw_parts(self.at, self.bytes) })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: the driver gave it; freeing waits for copies under way.
            unsafe { sys::cuMemFreeHost(self.at.cast()) };
        }
    }
}

impl Stream {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        gpu.enter()?;
        let mut stream = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut stream, STREAM_FLAGS) })?;
        Ok(Self { gpu: Arc::clone(gpu), stream })
    }

    /// The driver's handle.
    pub(super) const fn raw(&self) -> sys::CUstream {
        self.stream
    }

    /// Lets what follows here wait for the event as it is now.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both handles are live.
        let put = unsafe { sys::cuStreamWaitEvent(self.stream, event.event, 0) };
        check("cuStreamWaitEvent", put)
    }

    /// Waits until everything in the queue is done.
    pub(super) fn finish(&self) -> Result<(), CudaError> {
        // SAFETY: the handle is live.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: made once, destroyed once; the driver finishes what is in it.
            unsafe { sys::cuStreamDestroy_v2(self.stream) };
        }
    }
}

impl Event {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        gpu.enter()?;
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut event, EVENT_FLAGS) })?;
        Ok(Self { gpu: Arc::clone(gpu), event })
    }

    /// Marks the queue's present end.
    pub(super) fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both handles are live.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.event, stream.stream) })
    }

    /// Waits until the queue has come past the mark.
    pub(super) fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: the handle is live.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.event) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: made once, destroyed once.
            unsafe { sys::cuEventDestroy_v2(self.event) };
        }
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("ordinal", &self.ordinal).finish_non_exhaustive()
    }
}
