//! Network namespaces: held by a descriptor, and worked in by a thread of their own that ends with the work.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::NetError;

/// One network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
    number: u64,
}

impl Namespace {
    /// The namespace of the calling thread.
    pub(super) fn current() -> Result<Self, NetError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace of a process.
    pub(super) fn of_process(pid: u32) -> Result<Self, NetError> {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        match Self::open(&path) {
            Err(NetError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(libc::ESRCH) =>
            {
                Err(NetError::NoProcess { pid })
            }
            opened => opened,
        }
    }

    /// The namespace with that number, where some process is in it.
    pub(super) fn find(number: u64) -> Option<Self> {
        let processes = std::fs::read_dir("/proc").ok()?;
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // A process may end, or go elsewhere, while it is looked at.
        let opened = pids.filter_map(|pid: u32| {
            let shown = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
            let is_it = shown.to_str() == Some(&*format!("net:[{number}]"));
            is_it.then(|| Self::of_process(pid).ok()).flatten()
        });
        opened.into_iter().find(|namespace| namespace.number == number)
    }

    /// The namespace that a file stands for.
    pub(super) fn open(path: &Path) -> Result<Self, NetError> {
        let failed = |source| NetError::Io { act: "open", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let number = file.metadata().map_err(failed)?.ino();
        Ok(Self { file, number })
    }

    /// The kernel's number of it, unique among those that exist.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// A path under which other programs of this machine find it, while this value lives.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Moves the calling thread into it, for good.
    pub(super) fn enter(&self) -> Result<(), NetError> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
            |source| NetError::Io { act: "enter", path: self.path().into(), source: source.into() },
        )
    }

    /// Does something in it, on a thread that ends afterwards.
    pub(super) fn inside<T: Send>(
        &self,
        act: impl FnOnce() -> Result<T, NetError> + Send,
    ) -> Result<T, NetError> {
        std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                self.enter()?;
                act()
            });
            work.join().unwrap_or(Err(NetError::CutOff))
        })
    }
}
