//! Whose home and shell a session gets: the image's `/etc/passwd`, read by hand because a static program has no NSS.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// More of `/etc/passwd` than this is not read.
const PASSWD_LEN_MAX: u64 = 1 << 20;
/// The shell that the host mounts for images that have none.
const OWN_SHELL: &str = "/.nicompute/sh";

/// The account that sessions run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    shell: PathBuf,
}

impl Account {
    /// The account of this process's user.
    pub(crate) fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let mut passwd = Vec::new();
        if let Ok(file) = fs::File::open("/etc/passwd") {
            // A file that cannot be read to its end is used as far as it goes.
            drop(file.take(PASSWD_LEN_MAX).read_to_end(&mut passwd));
        }
        Self::find(&String::from_utf8_lossy(&passwd), uid)
    }

    fn find(passwd: &str, uid: u32) -> Self {
        passwd.lines().find_map(|line| Self::parse(line, uid)).unwrap_or_else(|| Self {
            name: if uid == 0 { "root".to_owned() } else { uid.to_string() },
            home: PathBuf::from(if uid == 0 { "/root" } else { "/" }),
            shell: PathBuf::new(),
        })
    }

    fn parse(line: &str, uid: u32) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?.parse::<u32>().ok()?;
        let home = fields.nth(2)?;
        let shell = fields.next().unwrap_or_default();
        (id == uid && !name.is_empty()).then(|| Self {
            name: name.to_owned(),
            home: PathBuf::from(home),
            shell: PathBuf::from(shell),
        })
    }

    /// Where sessions start: the home, or the root where there is none.
    pub(crate) fn start_dir(&self) -> &Path {
        if self.home.is_absolute() && self.home.is_dir() { &self.home } else { Path::new("/") }
    }

    /// The first shell that exists. None is an image without a shell on a host that mounts none either.
    pub(crate) fn shell(&self) -> Option<PathBuf> {
        let refuses = |path: &Path| {
            path.file_name()
                .is_some_and(|name| name == OsStr::new("nologin") || name == OsStr::new("false"))
        };
        [self.shell.as_path(), Path::new("/bin/bash"), Path::new("/bin/sh"), Path::new(OWN_SHELL)]
            .into_iter()
            .filter(|path| path.is_absolute() && !refuses(path))
            .find(|path| is_program(path))
            .map(Path::to_path_buf)
    }
}

pub(crate) fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session in the wrong home or with a refused shell is what "ssh does not work" looks like.
    #[test]
    fn accounts_come_from_the_image() {
        let passwd =
            "broken\nroot:x:0:0:root:/root:/bin/zsh\nni:x:1000:1000::/home/ni:/usr/sbin/nologin\n";
        let root = Account::find(passwd, 0);
        assert_eq!((root.name.as_str(), root.home.as_path()), ("root", Path::new("/root")));
        let user = Account::find(passwd, 1000);
        assert_eq!(user.name, "ni");
        assert_ne!(user.shell(), Some(PathBuf::from("/usr/sbin/nologin")));
        assert_eq!(Account::find("", 0).home, Path::new("/root"));
        assert_eq!(Account::find("", 7).name, "7");
    }
}
