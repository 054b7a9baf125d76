//! Runs the machine's network programs: by their path, with arguments and input of our own words, without a shell, for a
//! limited time.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::NetError;

/// Where the programs lie; nothing is taken from a path that others set.
const PLACES: [&str; 6] =
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
/// Longest run of a program. The kernel's own lock may be held for seconds while hundreds of links go away.
const SECONDS_MAX: u64 = 20;
/// Most output that is read: links of thousands of leases.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// Most of a complaint that is kept.
const COMPLAINT_BYTES_MAX: u64 = 512;

/// One of the machine's programs.
#[derive(Debug, Clone)]
pub(super) struct Program {
    name: &'static str,
    path: PathBuf,
}

/// How a run ended.
#[derive(Debug)]
pub(super) struct Ran {
    /// Whether the program says that it did what was asked.
    pub(super) is_ok: bool,
    /// What it printed.
    pub(super) output: String,
    /// What it complained about.
    pub(super) complaint: String,
}

impl Program {
    /// Finds the program on this machine.
    pub(super) fn find(name: &'static str) -> Result<Self, NetError> {
        let paths = PLACES.iter().map(|place| Path::new(place).join(name));
        let path = paths.into_iter().find(|path| path.is_file());
        path.map(|path| Self { name, path }).ok_or(NetError::ProgramMissing { program: name })
    }

    /// Runs it, and takes a complaint for a failure.
    pub(super) fn must(
        &self,
        act: &'static str,
        args: &[&str],
        input: &str,
    ) -> Result<String, NetError> {
        let ran = self.run(act, args, input)?;
        if ran.is_ok {
            return Ok(ran.output);
        }
        Err(NetError::Program { program: self.name, act, detail: ran.complaint })
    }

    /// Runs it in the network namespace of the calling thread.
    pub(super) fn run(
        &self,
        act: &'static str,
        args: &[&str],
        input: &str,
    ) -> Result<Ran, NetError> {
        let failed = |source| NetError::Io { act: "run", path: self.path.clone(), source };
        self.try_run(args, input).map_err(failed)?.ok_or(NetError::Timeout {
            program: self.name,
            act,
            limit_s: SECONDS_MAX,
        })
    }

    /// Files in memory instead of pipes: nobody waits for a reader, whatever the program prints.
    fn try_run(&self, args: &[&str], input: &str) -> io::Result<Option<Ran>> {
        let (mut stdin, mut stdout, mut stderr) = (memory()?, memory()?, memory()?);
        stdin.write_all(input.as_bytes())?;
        stdin.rewind()?;
        #[expect(clippy::disallowed_methods, reason = "the host runs the machine's programs")]
        let mut command = Command::new(&self.path);
        command
            .args(args)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir("/").stdin(stdin);
        command.stdout(Stdio::from(stdout.try_clone()?)).stderr(Stdio::from(stderr.try_clone()?));
        let mut child = command.spawn()?;
        let Some(is_ok) = ended(&mut child)? else { return Ok(None) };
        let output = read(&mut stdout, OUTPUT_BYTES_MAX)?;
        let complaint = one_line(&read(&mut stderr, COMPLAINT_BYTES_MAX)?);
        Ok(Some(Ran { is_ok, output, complaint }))
    }
}

/// Waits for the end, and forces it at the limit. Gives whether the program succeeded.
fn ended(child: &mut Child) -> io::Result<Option<bool>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let handle = pidfd_open(pid.ok_or(io::ErrorKind::InvalidInput)?, PidfdFlags::empty())?;
    let limit = Timespec { tv_sec: SECONDS_MAX.cast_signed(), tv_nsec: 0 };
    let in_time = loop {
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => break ready? > 0,
        }
    };
    if !in_time {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(in_time.then(|| status.success()))
}

fn memory() -> io::Result<File> {
    Ok(File::from(memfd_create("nicompute-net", MemfdFlags::CLOEXEC)?))
}

fn read(file: &mut File, bytes_max: u64) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A complaint as part of one line of a log, without what would drive a terminal.
fn one_line(text: &str) -> String {
    let plain = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that fills its output, says nothing or fails must neither hang the node nor count as success.
    #[test]
    fn runs_end_and_say_how() {
        let sh = Program { name: "sh", path: "/bin/sh".into() };
        let ran = sh.run("try", &["-c", "cat; echo bad >&2; exit 3"], "input").unwrap();
        assert!(!ran.is_ok);
        assert_eq!((&*ran.output, &*ran.complaint), ("input", "bad"));
        let text = sh.must("try", &["-c", "head -c 300000 /dev/zero | tr '\\0' x"], "").unwrap();
        assert_eq!(text.len(), 300_000);
        let error = sh.must("try", &["-c", "printf 'a\\033[2Jb\\nc' >&2; false"], "").unwrap_err();
        assert_eq!(error.to_string(), "sh could not try: a [2Jb c");
        assert!(matches!(Program::find("no-such-program"), Err(NetError::ProgramMissing { .. })));
    }
}
