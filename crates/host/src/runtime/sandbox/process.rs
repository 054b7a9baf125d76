//! Telling one process from another that got its number later, from `/proc` alone.

use std::fs;
use std::io;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// Changes with every start of the machine, so that a stored process id cannot mean a process of another day.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A process, told apart from every other of this start of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) pid: u32,
    /// When it was started, in the kernel's ticks since the machine's start.
    pub(super) start_ticks: u64,
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) state: char,
    pub(super) parent: u32,
    pub(super) start_ticks: u64,
}

/// The id of this start of the machine.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// What the kernel knows of a process, unless it is gone or a zombie. Not to be able to ask says nothing of the process.
pub(super) fn stat(pid: u32) -> io::Result<Option<Stat>> {
    let Some(text) = unless_gone(fs::read_to_string(format!("/proc/{pid}/stat")))? else {
        return Ok(None);
    };
    let stat = parse_stat(&text).ok_or(io::ErrorKind::InvalidData)?;
    Ok((!matches!(stat.state, 'Z' | 'X')).then_some(stat))
}

/// The two errors by which `/proc` says that there is no such process; any other is one.
fn unless_gone(read: io::Result<String>) -> io::Result<Option<String>> {
    match read {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Every process with its parent.
pub(super) fn all() -> io::Result<Vec<(u32, Stat)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid else { continue };
        found.extend(stat(pid)?.map(|stat| (pid, stat)));
    }
    Ok(found)
}

impl ProcessId {
    /// Names a process that is known to live.
    pub(super) fn of(pid: u32) -> io::Result<Option<Self>> {
        Ok(stat(pid)?.map(|stat| Self { pid, start_ticks: stat.start_ticks }))
    }

    /// Whether this very process still lives.
    pub(super) fn stat(self) -> io::Result<Option<Stat>> {
        Ok(stat(self.pid)?.filter(|stat| stat.start_ticks == self.start_ticks))
    }

    /// Whether the order to stop waits for it to leave the kernel.
    pub(super) fn stop_pending(self) -> bool {
        // Signal 19 is bit 18 of the set of the whole process.
        const STOP: u64 = 1 << 18;
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        pending
            .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
            .is_some_and(|set| set & STOP != 0)
    }

    /// Sends a signal to this very process. Returns false when it is gone.
    pub(super) fn signal(self, signal: Signal) -> io::Result<bool> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(false);
        };
        // The descriptor holds the process while its identity is checked; the number alone could be another's by now.
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            process => process?,
        };
        if self.stat()?.is_none() {
            return Ok(false);
        }
        match pidfd_send_signal(&process, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(false),
            sent => Ok(sent.map(|()| true)?),
        }
    }
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The second field is the program's name in parentheses, and a name may contain anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22 of the line is the twentieth after the name; two are taken.
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that names itself like the rest of the line would make us signal a stranger.
    #[test]
    fn names_do_not_confuse() {
        let line = "77 (a) R 1 (b) S 5 77 77 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 9001 1 1";
        assert_eq!(parse_stat(line), Some(Stat { state: 'S', parent: 5, start_ticks: 9001 }));
        assert_eq!(parse_stat("77 (a"), None);
        assert_eq!(parse_stat("77 (a) S 1"), None);
    }

    /// A stored id whose start differs is another process: it must neither count as ours nor be signalled.
    #[test]
    fn a_reused_number_is_another_process() {
        let me = ProcessId::of(std::process::id()).expect("reads").expect("own process");
        assert!(me.stat().expect("reads").is_some());
        let other = ProcessId { start_ticks: me.start_ticks + 1, ..me };
        assert!(other.stat().expect("reads").is_none());
        assert!(!other.signal(Signal::KILL).expect("signal"));
    }

    /// A node without a free descriptor would take every tenant's processes for ended, and leave them running for nobody.
    #[test]
    fn not_to_be_able_to_ask_is_not_an_answer() {
        let read = |error: rustix::io::Errno| unless_gone(Err(error.into()));
        for gone in [rustix::io::Errno::NOENT, rustix::io::Errno::SRCH] {
            assert_eq!(read(gone).expect("an answer"), None);
        }
        for other in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::ACCESS]
        {
            assert!(read(other).is_err(), "{other}");
        }
        assert_eq!(stat(u32::MAX).expect("an answer"), None);
    }
}
