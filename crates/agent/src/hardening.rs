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

/// Takes the dangerous system calls away from this thread and its children. The thread must have forbidden itself new
/// privileges.
///
/// # Errors
/// When the kernel does not take the filter.
pub fn filter_calls() -> Result<(), HardenError> {
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
    rules.insert(libc::SYS_socket, vec![other_families()?, other_netlink()?]);
    build(rules, errno(libc::EPERM))
}

/// Sockets of every family but those of programs in a network of their own. A network namespace does not hold the others:
/// by `AF_VSOCK` a container would reach services of the machine and of what the machine itself runs in.
fn other_families() -> Result<SeccompRule, HardenError> {
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    rule(families.map(|family| (0, SeccompCmpOp::Ne, family)))
}

/// Of netlink's protocols programs need the one that lists interfaces and routes.
fn other_netlink() -> Result<SeccompRule, HardenError> {
    let (is, is_not) = (SeccompCmpOp::Eq, SeccompCmpOp::Ne);
    rule([(0, is, libc::AF_NETLINK), (2, is_not, libc::NETLINK_ROUTE)])
}

/// Holds where all conditions on arguments hold.
fn rule<const N: usize>(
    conditions: [(u8, SeccompCmpOp, libc::c_int); N],
) -> Result<SeccompRule, HardenError> {
    let made = conditions.into_iter().map(|(argument, how, value)| {
        let value = u64::try_from(value).unwrap_or_default();
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)
    });
    made.collect::<Result<Vec<_>, _>>()
        .and_then(SeccompRule::new)
        .map_err(|error| HardenError::Filter(Box::new(error)))
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
    use std::io::Read as _;

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

    /// A call that slipped off the list is a way out of the container, and so is a filter that was never installed.
    #[test]
    fn the_filters_refuse_what_the_kernel_would_answer() {
        let probes = probes();
        let said = answers_of_a_child(&probes);
        let (before, after) = said.split_at(probes.len());
        let mut proven = 0;
        for ((probe, before), after) in probes.iter().zip(before).zip(after) {
            assert_ne!(*before, 0, "{}: bad arguments are refused", probe.name);
            assert_eq!(i32::from(*after), probe.filtered, "{}", probe.name);
            proven += usize::from(before != after);
        }
        // Inside a container with a filter of its own the kernel answers some of them as ours does, but never all.
        assert!(proven > 0, "nothing is refused that was not refused before: {said:?}");
        assert_eq!(after.get(probes.len()..), Some(&[0][..]), "harmless calls go on");
    }

    /// A call with arguments that the kernel itself refuses, whoever asks, before it changes anything.
    struct Probe {
        name: &'static str,
        number: libc::c_long,
        args: [libc::c_long; 3],
        filtered: libc::c_int,
    }

    fn probes() -> Vec<Probe> {
        // No file, address, process, length or command has this value.
        const BAD: libc::c_long = -1;
        // Both combinations contradict themselves.
        let new_user = |with| libc::c_long::from(libc::CLONE_NEWUSER | with);
        let refused = |name, number, [first, second]: [_; 2]| {
            let args = [first, second, 0];
            Probe { name, number, args, filtered: libc::EPERM }
        };
        // No socket is of this type.
        let socket = |name, family: libc::c_int, protocol: libc::c_int, filtered| {
            let args = [family.into(), BAD, protocol.into()];
            Probe { name, number: libc::SYS_socket, args, filtered }
        };
        vec![
            socket("vsock", libc::AF_VSOCK, 0, libc::EPERM),
            socket("bluetooth", libc::AF_BLUETOOTH, 0, libc::EPERM),
            socket("alg", libc::AF_ALG, 0, libc::EPERM),
            socket("packet", libc::AF_PACKET, 0, libc::EPERM),
            socket("netlink audit", libc::AF_NETLINK, libc::NETLINK_AUDIT, libc::EPERM),
            socket("unix", libc::AF_UNIX, 0, libc::EINVAL),
            socket("inet", libc::AF_INET, 0, libc::EINVAL),
            socket("inet6", libc::AF_INET6, 0, libc::EINVAL),
            socket("netlink route", libc::AF_NETLINK, libc::NETLINK_ROUTE, libc::EINVAL),
            refused("mount", libc::SYS_mount, [BAD, BAD]),
            refused("umount2", libc::SYS_umount2, [BAD, BAD]),
            refused("open_tree", libc::SYS_open_tree, [BAD, BAD]),
            refused("name_to_handle_at", libc::SYS_name_to_handle_at, [BAD, BAD]),
            refused("setns", libc::SYS_setns, [BAD, 0]),
            refused("unshare", libc::SYS_unshare, [new_user(1), 0]),
            refused("clone", libc::SYS_clone, [new_user(libc::CLONE_FS), 0]),
            refused("keyctl", libc::SYS_keyctl, [BAD, 0]),
            refused("add_key", libc::SYS_add_key, [BAD, BAD]),
            refused("request_key", libc::SYS_request_key, [BAD, BAD]),
            refused("settimeofday", libc::SYS_settimeofday, [BAD, BAD]),
            refused("clock_settime", libc::SYS_clock_settime, [BAD, BAD]),
            refused("move_pages", libc::SYS_move_pages, [BAD, 0]),
            Probe { filtered: libc::ENOSYS, ..refused("clone3", libc::SYS_clone3, [0, 0]) },
        ]
    }

    /// The error numbers that a child gets for each probe before it filters itself, then after, and then for a call that is
    /// allowed.
    fn answers_of_a_child(probes: &[Probe]) -> Vec<u8> {
        let (mut reader, mut writer) = io::pipe().expect("pipe");
        // SAFETY: the child makes system calls and allocates, which the C library allows after a fork, and never returns.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let told = tell_answers(probes, &mut writer);
            // SAFETY: `_exit` takes any number and touches no memory.
            unsafe { libc::_exit(libc::c_int::from(told.is_err())) };
        }
        assert!(child > 0, "{}", io::Error::last_os_error());
        drop(writer);
        let mut said = Vec::new();
        reader.read_to_end(&mut said).expect("answers");
        let mut status = -1;
        // SAFETY: `status` outlives the call and the child is ours.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child could not filter itself");
        assert_eq!(said.len(), 2 * probes.len() + 1);
        said
    }

    fn tell_answers(probes: &[Probe], to: &mut impl io::Write) -> io::Result<()> {
        let answers = || probes.iter().map(answer).collect::<Vec<u8>>();
        to.write_all(&answers())?;
        lower_rights().and_then(|()| filter_calls()).map_err(io::Error::other)?;
        to.write_all(&answers())?;
        let args = [0, 0, 0];
        to.write_all(&[answer(&Probe {
            name: "unshare",
            number: libc::SYS_unshare,
            args,
            filtered: 0,
        })])
    }

    /// The error number that a call gets; 0 when it succeeds.
    fn answer(probe: &Probe) -> u8 {
        let ([first, second, third], none) = (probe.args, libc::c_long::from(0_i32));
        // SAFETY: no argument is a valid address, and the kernel refuses the rest before it changes anything.
        let outcome =
            unsafe { libc::syscall(probe.number, first, second, third, none, none, none) };
        let error = io::Error::last_os_error().raw_os_error().unwrap_or_default();
        if outcome == -1 { u8::try_from(error).unwrap_or(u8::MAX) } else { 0 }
    }
}
