//! Loop devices: a file as a block device, until its last user lets go of it.

#![expect(unsafe_code, reason = "loop devices have no safe wrapper")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Linux's `LO_FLAGS_AUTOCLEAR`: the device lets go of its file when nobody uses it any more.
const AUTOCLEAR: u32 = 4;
const CTL_GET_FREE: libc::Ioctl = 0x4C82;
const CONFIGURE: libc::Ioctl = 0x4C0A;

/// Linux's `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// Linux's `struct loop_config`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// The number of a loop device that nobody uses at this moment.
pub(super) fn free_number(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: this request takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), CTL_GET_FREE) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
}

/// Binds a file to a loop device that lets go of it by itself after its last use.
pub(super) fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `loop_config`.
    let mut config: Config = unsafe { mem::zeroed() };
    config.fd = u32::try_from(file.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    config.info.flags = AUTOCLEAR;
    // SAFETY: `config` has the kernel's layout and outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
