//! What the tests judge with: Debian's packages, Python's packages and a Docker engine. Each is installed where that is
//! allowed, and named loudly where it is missing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;

use crate::run;

/// A judge that the tests can use, or why not.
pub(crate) type Judge = Result<PathBuf, String>;

/// Debian packages: the OpenSSH client, the Docker engine, a static shell for images, file systems for quotas, `setpriv`
/// and `unshare`, user accounts, virtual environments for Python, a C++ compiler for the emulated GPUs, links and packet
/// filters for the tenants' network, and what makes a Debian system to rent.
const DEBIAN: [(&str, &str); 13] = [
    ("ssh", "openssh-client"),
    ("sftp", "openssh-client"),
    ("rsync", "rsync"),
    ("dockerd", "docker.io"),
    ("busybox", "busybox-static"),
    ("mkfs.ext4", "e2fsprogs"),
    ("setpriv", "util-linux"),
    ("python3", "python3-venv"),
    ("g++", "g++"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("debootstrap", "debootstrap"),
];
/// The SDK of the original with everything that it pins. Its own requirements are ranges, and what they give today does not
/// start.
const PYTHON_9: [&str; 6] = [
    "bittensor==9.0.0",
    "bittensor-wallet==3.0.4",
    "async-substrate-interface==1.0.3",
    "bt-decode==0.5.0a2",
    "bittensor-commit-reveal==0.2.0",
    "fastapi==0.110.3",
];
/// The older living SDK with the btcli of its time.
const PYTHON_10: [&str; 3] =
    ["bittensor==10.5.0", "bittensor-wallet==4.1.0", "bittensor-cli==9.23.2"];
/// The newer SDK, which brings its own btcli.
const PYTHON_11: [&str; 1] = ["bittensor==11.3.0"];
/// SSH clients that renters drive from Python.
const SSH_CLIENTS: [&str; 3] = ["ansible-core==2.19.14", "paramiko==5.1.0", "asyncssh==2.24.1"];
/// How long a Docker engine may take to answer.
const ENGINE_SECONDS_MAX: u64 = 60;

fn is_root() -> bool {
    run::output(run::command("id", &["-u"])).is_ok_and(|text| text.trim() == "0")
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).any(|folder| folder.join(program).is_file())
}

/// Installs the Debian packages whose programs are missing. Returns what is still missing.
pub(crate) fn debian() -> Vec<String> {
    let is_there = |program: &str| match program {
        "python3" => run::succeeds(run::command("python3", &["-c", "import ensurepip, venv"])),
        _ => on_path(program),
    };
    let missing = || DEBIAN.iter().filter(|(program, _)| !is_there(program));
    if missing().next().is_some() && is_root() && on_path("apt-get") {
        let packages: Vec<&str> = missing().map(|(_, package)| *package).collect();
        install(&packages);
    }
    missing().map(|(program, package)| format!("{program} (Debian package {package})")).collect()
}

fn install(packages: &[&str]) {
    let mut update = run::command("apt-get", &["update", "-q"]);
    update.stdout(Stdio::null());
    let mut install = run::command("apt-get", &["install", "-q", "-y", "--no-install-recommends"]);
    install.args(packages).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
    // What could not be installed is named by the caller.
    if let Err(error) = run::must(update).and_then(|()| run::must(install)) {
        eprintln!("xtask: {error:#}");
    }
}

/// A virtual environment with the given packages, made once and kept under the target folder.
pub(crate) fn environment(folder: &Path, packages: &[&str]) -> Judge {
    let python = folder.join("bin/python");
    let stamp = folder.join("packages.txt");
    let wanted = packages.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) && python.exists() {
        return Ok(python);
    }
    make_environment(folder, &python, packages)
        .and_then(|()| Ok(fs::write(&stamp, &wanted)?))
        .map_err(|error| format!("{error:#}"))?;
    Ok(python)
}

fn make_environment(folder: &Path, python: &Path, packages: &[&str]) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).context("remove the half-made environment")?;
    }
    let shown = folder.display().to_string();
    run::must(run::command("python3", &["-m", "venv", &shown]))?;
    let mut pip =
        run::command(python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(packages);
    run::must(pip)
}

/// The Python interpreters with SDK 9, SDK 10 and SDK 11.
pub(crate) fn python(target: &Path) -> [(&'static str, Judge); 3] {
    let folder = target.join("judges");
    [
        ("NICOMPUTE_TEST_PY9", environment(&folder.join("sdk9"), &PYTHON_9)),
        ("NICOMPUTE_TEST_PY10", environment(&folder.join("sdk10"), &PYTHON_10)),
        ("NICOMPUTE_TEST_PY11", environment(&folder.join("sdk11"), &PYTHON_11)),
    ]
}

/// The Python interpreter with Ansible, paramiko and asyncssh.
pub(crate) fn ssh_clients(target: &Path) -> Judge {
    environment(&target.join("judges/ssh"), &SSH_CLIENTS)
}

/// The main network's metadata of spec 461 with recorded calls, from the sources of SDK 11.
pub(crate) fn metadata(target: &Path) -> (&'static str, Judge) {
    let folder = target.join("judges/sources11");
    let fetched = || fetch_metadata(target, &folder).map_err(|error| format!("{error:#}"));
    let file = folder.join("golden.json");
    ("NICOMPUTE_TEST_METADATA461", if file.exists() { Ok(file) } else { fetched() })
}

fn fetch_metadata(target: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let python = environment(&target.join("judges/sdk11"), &PYTHON_11);
    let python = python.map_err(anyhow::Error::msg)?;
    fs::create_dir_all(folder)?;
    let shown = folder.display().to_string();
    let flags = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check"];
    let mut pip = run::command(&python, &flags);
    pip.args(["--no-deps", "--no-binary", ":all:", "--dest", &shown, "bittensor==11.3.0"]);
    run::must(pip)?;
    let archive = folder.join("bittensor-11.3.0.tar.gz").display().to_string();
    let inner = "bittensor-11.3.0/tests/fixtures/golden.json";
    let unpack = ["-xzf", &archive, "-C", &shown, "--strip-components=3", inner];
    run::must(run::command("tar", &unpack))?;
    Ok(folder.join("golden.json"))
}

/// The Python interpreter of an environment with the CUDA compiler.
pub(crate) fn cuda_compiler(target: &Path, packages: &[&str]) -> Judge {
    environment(&target.join("judges/cuda"), packages)
}

/// A Docker engine: the one that answers, or one that is started here and left running for the next time.
pub(crate) fn docker(target: &Path) -> Judge {
    let socket = PathBuf::from("/var/run/docker.sock");
    let answers = || pings(&socket).unwrap_or(false);
    if answers() {
        return Ok(socket);
    }
    if !is_root() {
        return Err("no Docker engine answers, and only root can start one".to_owned());
    }
    start_engine(target).map_err(|error| format!("{error:#}"))?;
    for _ in 0..ENGINE_SECONDS_MAX {
        if answers() {
            return Ok(socket);
        }
        #[expect(clippy::disallowed_methods, reason = "a task has no executor to block")]
        std::thread::sleep(Duration::from_secs(1));
    }
    Err(format!(
        "dockerd did not answer within {ENGINE_SECONDS_MAX} s; see judges/dockerd.log in the target folder"
    ))
}

/// Asks the engine itself; its command-line client need not be installed.
fn pings(socket: &Path) -> std::io::Result<bool> {
    let mut engine = UnixStream::connect(socket)?;
    engine.set_read_timeout(Some(Duration::from_secs(5)))?;
    engine.write_all(b"GET /_ping HTTP/1.0\r\nhost: docker\r\n\r\n")?;
    let mut answer = String::new();
    engine.take(1024).read_to_string(&mut answer)?;
    Ok(answer.split_whitespace().nth(1) == Some("200"))
}

fn start_engine(target: &Path) -> anyhow::Result<()> {
    let folder = target.join("judges");
    fs::create_dir_all(&folder)?;
    let log = fs::File::create(folder.join("dockerd.log"))?;
    let mut engine = run::command("setsid", &["dockerd"]);
    engine.stdout(log.try_clone()?).stderr(log);
    let child = engine.spawn().context("start dockerd")?;
    eprintln!("xtask: started dockerd as process {}", child.id());
    Ok(())
}
