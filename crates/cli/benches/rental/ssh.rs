//! A door that OpenSSH's client goes through, ours or that of its own server.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::figures::timed;
use crate::world::program;

/// Bytes that are written at once.
const CHUNK: usize = 1 << 20;

/// Where and how a client enters.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) key: PathBuf,
    /// `None` believes any host key, as the original does.
    pub(crate) known_hosts: Option<PathBuf>,
}

/// A direction, as the client sees it.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    Down,
    Up,
}

impl Way {
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
        }
    }
}

impl Door {
    /// A client that runs one command.
    pub(crate) fn ssh(&self, command: &str) -> Command {
        let mut ssh = program("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "LogLevel=ERROR",
        ]);
        ssh.args(["-o", "Ciphers=chacha20-poly1305@openssh.com"]);
        match &self.known_hosts {
            Some(file) => {
                ssh.arg("-o").arg(format!("UserKnownHostsFile={}", file.display()));
                ssh.args(["-o", "StrictHostKeyChecking=yes"]);
            }
            None => {
                ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no"]);
            }
        }
        ssh.arg("-i").arg(&self.key).args(["-p", &self.port.to_string()]);
        ssh.arg(format!("{}@{}", self.user, self.host)).arg(command);
        ssh.stdout(Stdio::piped()).stderr(Stdio::inherit());
        ssh
    }

    /// Whether a command came to a good end.
    pub(crate) fn answers(&self) -> bool {
        let mut ssh = self.ssh("true");
        ssh.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Runs until the first byte of output.
    pub(crate) fn first_output(&self) {
        let mut ssh = self.ssh("echo ready");
        // What it says when the lease ends behind it is nobody's news.
        first_output(ssh.stderr(Stdio::null()).spawn().unwrap());
    }

    pub(crate) fn true_once(&self) -> f64 {
        let (took, status) = timed(|| self.ssh("true").status().unwrap());
        assert!(status.success(), "{status}");
        took
    }

    /// So many at once, until the last has ended.
    pub(crate) fn parallel(&self, count: usize) -> f64 {
        let (took, ended) = timed(|| {
            let all: Vec<Child> = (0..count).map(|_| self.ssh("true").spawn().unwrap()).collect();
            all.into_iter().map(|mut one| one.wait().unwrap()).filter(|end| end.success()).count()
        });
        assert_eq!(ended, count, "every connection came to a good end");
        took
    }

    /// Bytes in a second.
    pub(crate) fn bulk(&self, way: Way, bytes: u64) -> f64 {
        let (took, ()) = timed(|| match way {
            Way::Down => self.down(bytes),
            Way::Up => self.up(bytes),
        });
        let mebibytes = u32::try_from(bytes >> 20).unwrap();
        f64::from(mebibytes) * f64::from(1 << 20) / took
    }

    fn down(&self, bytes: u64) {
        let mut ssh = self.ssh(&format!("head -c {bytes} /dev/zero")).spawn().unwrap();
        let got = std::io::copy(&mut ssh.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
        assert!(ssh.wait().unwrap().success());
        assert_eq!(got, bytes);
    }

    fn up(&self, bytes: u64) {
        let mut ssh = self.ssh("wc -c");
        let mut ssh = ssh.stdin(Stdio::piped()).spawn().unwrap();
        let mut to = ssh.stdin.take().unwrap();
        let chunk = vec![0; CHUNK];
        for _ in 0..bytes / u64::try_from(CHUNK).unwrap() {
            to.write_all(&chunk).unwrap();
        }
        drop(to);
        let mut told = String::new();
        ssh.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        assert!(ssh.wait().unwrap().success());
        assert_eq!(told.trim(), bytes.to_string());
    }
}

/// Waits for a program's first byte; what comes after is not waited for.
pub(crate) fn first_output(mut child: Child) {
    let mut byte = [0];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut byte).unwrap();
    // The rest of it is nobody's time: a thread of its own sees to the end.
    std::thread::spawn(move || {
        drop(out);
        child.wait()
    });
}
