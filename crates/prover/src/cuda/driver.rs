//! The driver's library: found, checked for every call that is used, and asked what it shows.
//!
//! `cudarc` ends the process where the library or a call is missing. Everything that this folder calls is therefore looked
//! up once, before the first call; a machine without a driver is an ordinary machine and gets an ordinary error.

use std::ffi::{CStr, c_int};
use std::sync::OnceLock;

use cudarc::driver::sys;

use super::error::{CudaCode, CudaError};

/// Every call of this folder.
const CALLS: [&str; 33] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetUuid_v2",
    "cuDeviceGetAttribute",
    "cuDeviceCanAccessPeer",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxEnablePeerAccess",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
];
/// Looked up besides, to name what failed.
const NAMES: &str = "cuGetErrorName";

/// Makes the library ready. Later calls return what the first one found.
pub(super) fn load() -> Result<(), CudaError> {
    static LOADED: OnceLock<Result<(), CudaError>> = OnceLock::new();
    LOADED.get_or_init(find).clone()
}

fn find() -> Result<(), CudaError> {
    // SAFETY: loading runs the initialisers of the library that the machine's owner installed under this name, as in any
    // program that uses CUDA.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::DriverAbsent);
    }
    // SAFETY: as above; the library is present, so this does not end the process.
    let library = unsafe { sys::culib() };
    for name in CALLS.into_iter().chain([NAMES]) {
        // SAFETY: the symbol is only looked for; it is not called through this type.
        let found = unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) };
        if found.is_err() {
            return Err(CudaError::DriverTooOld(name));
        }
    }
    // SAFETY: the call has no arguments that must outlive it.
    check("cuInit", unsafe { sys::cuInit(0) }).map_err(|error| match error.number() {
        Some(CudaCode::NO_DEVICE) => CudaError::NoDevice,
        _ => error,
    })
}

/// How many GPUs the driver shows to this process.
pub(super) fn count() -> Result<u32, CudaError> {
    let mut count: c_int = 0;
    // SAFETY: the driver is initialised, and the pointer is to a live integer.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    match u32::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(CudaError::NoDevice),
    }
}

/// The newest CUDA version that the driver supports.
pub(super) fn version() -> Result<(i32, i32), CudaError> {
    let mut version: c_int = 0;
    // SAFETY: the pointer is to a live integer.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
    Ok((version / 1000, version % 1000 / 10))
}

/// The result of a call as an error with the driver's own name for it.
pub(super) fn check(call: &'static str, result: sys::CUresult) -> Result<(), CudaError> {
    match result {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        failed => Err(CudaError::Call { call, code: code(failed) }),
    }
}

fn code(failed: sys::CUresult) -> CudaCode {
    let mut name = std::ptr::null();
    // SAFETY: the pointer is to a live pointer, which the driver leaves alone or sets to a text that it keeps for ever.
    let known = unsafe { sys::cuGetErrorName(failed, &raw mut name) };
    let name = if known == sys::CUresult::CUDA_SUCCESS && !name.is_null() {
        // SAFETY: the driver's texts end with a zero byte and are never freed.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    } else {
        format!("{failed:?}")
    };
    CudaCode { number: failed as u32, name }
}
