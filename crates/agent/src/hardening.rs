//! What the agent gives up before it does anything for a tenant; every process it starts inherits it.
//!
//! The list denies in the spirit of Docker's default profile: calls that reach the kernel's dangerous corners, and the
//! creation of user namespaces, from which most kernel exploits start. Everything else stays as the runtime left it.
#![expect(unsafe_code, reason = "prctl has no safe wrapper for these options")]

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

/// Why the agent could not lower its rights. It does not run with more than it should have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HardenError {
    /// A `prctl` failed.
    #[error("could not lower the rights of the process")]
    Prctl(#[source] io::Error),
    /// The filter was not built or not accepted.
    #[error("could not install the system call filter")]
    Filter(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No list for this processor.
    #[error("no system call filter for this processor")]
    Architecture,
}

/// Makes the process unreadable for others, and gives up any way to gain rights by starting a program.
pub(crate) fn lower_rights() -> Result<(), HardenError> {
    prctl(libc::PR_SET_DUMPABLE, 0)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Takes the dangerous system calls away from this thread and its children. Needs lowered rights.
pub(crate) fn filter_calls() -> Result<(), HardenError> {
    for filter in [deny_filter()?, clone3_filter()?, foreign_numbers_filter()] {
        apply_filter(&filter).map_err(|error| HardenError::Filter(Box::new(error)))?;
    }
    Ok(())
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> Result<(), HardenError> {
    let zero: libc::c_ulong = 0;
    // SAFETY: both options take plain numbers; no memory is passed.
    let outcome = unsafe { libc::prctl(option, value, zero, zero, zero) };
    if outcome == 0 { Ok(()) } else { Err(HardenError::Prctl(io::Error::last_os_error())) }
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(u32::try_from(number).unwrap_or_default())
}

fn architecture() -> Result<TargetArch, HardenError> {
    std::env::consts::ARCH.try_into().map_err(|_| HardenError::Architecture)
}

fn build(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    action: SeccompAction,
) -> Result<BpfProgram, HardenError> {
    let failed = |error: seccompiler::BackendError| HardenError::Filter(Box::new(error));
    SeccompFilter::new(rules, SeccompAction::Allow, action, architecture()?)
        .map_err(failed)?
        .try_into()
        .map_err(failed)
}

fn deny_filter() -> Result<BpfProgram, HardenError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().chain(DENIED_X86).map(|number| (*number, Vec::new())).collect();
    for number in [libc::SYS_clone, libc::SYS_unshare] {
        rules.insert(number, vec![with_flag(libc::CLONE_NEWUSER)?]);
    }
    build(rules, errno(libc::EPERM))
}

/// `clone3` hides its flags behind a pointer. "Not implemented" makes every C library fall back to `clone`.
fn clone3_filter() -> Result<BpfProgram, HardenError> {
    build(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), errno(libc::ENOSYS))
}

fn with_flag(flag: libc::c_int) -> Result<SeccompRule, HardenError> {
    let flag = u64::try_from(flag).unwrap_or_default();
    let condition =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag);
    condition
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| HardenError::Filter(Box::new(error)))
}

/// The numbers of the x32 interface are the same calls under other names: a list by number would not see them.
fn foreign_numbers_filter() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_GREATER_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let not_implemented = u32::from(errno(libc::ENOSYS));
    let allow = u32::from(SeccompAction::Allow);
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_GREATER_EQUAL, 0, 1, X32_BIT),
        step(RETURN, 0, 0, not_implemented),
        step(RETURN, 0, 0, allow),
    ]
}

const DENIED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const DENIED_X86: &[i64] = &[
    libc::SYS__sysctl,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_sysfs,
    libc::SYS_uselib,
    libc::SYS_ustat,
];

#[cfg(not(target_arch = "x86_64"))]
const DENIED_X86: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    /// A filter that the kernel's checker refuses would keep every container from starting.
    #[test]
    fn the_filters_build_and_fit_the_kernel() {
        const INSTRUCTIONS_MAX: usize = 4096;
        let deny = deny_filter().expect("builds");
        assert!(deny.len() > DENIED.len() && deny.len() < INSTRUCTIONS_MAX);
        assert!(clone3_filter().expect("builds").len() < INSTRUCTIONS_MAX);
        assert_eq!(foreign_numbers_filter().len(), 4);
    }

    /// A call that slipped off the list is a way out of the container.
    #[test]
    fn a_filtered_thread_is_refused_what_the_list_says() {
        let refused = std::thread::spawn(|| {
            lower_rights().expect("lowers");
            filter_calls().expect("filters");
            let null: *const libc::c_char = std::ptr::null();
            // SAFETY: the calls are refused before the kernel looks at their arguments.
            let calls = unsafe {
                [
                    libc::mount(null, null, null, 0, std::ptr::null()),
                    libc::unshare(libc::CLONE_NEWUSER),
                    libc::setns(0, 0),
                ]
            };
            // SAFETY: no flags, which changes nothing.
            let allowed = unsafe { libc::unshare(0) };
            (calls, allowed, io::Error::last_os_error().raw_os_error())
        });
        let (calls, allowed, _) = refused.join().expect("joins");
        assert_eq!(calls, [-1, -1, -1]);
        assert_eq!(allowed, 0);
    }
}
