//! A Debian system for tests to rent: a root file system for the sandbox, and the same as an engine's image.
//!
//! It holds what renters bring clients for (OpenSSH's programs, rsync, Python where the original looks for it, a Jupyter
//! server) and is made once, in a mount namespace of its own, so that a build that is killed leaves no mount behind.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::judges::{self, Judge};
use crate::{run, test};

/// Where tests find the folder.
pub(crate) const VARIABLE: &str = "NICOMPUTE_TEST_ROOTFS";
/// Where tests find the Python with the SSH clients.
pub(crate) const CLIENTS: &str = "NICOMPUTE_TEST_SSH_CLIENTS";
/// The engine's image; its tag is the recipe's version.
const IMAGE: &str = "nicompute-test-rootfs:1";
/// Debian's release, and what Python calls the version of its Python.
const SUITE: &str = "bookworm";
const PYTHON: &str = "3.11";
const PACKAGES: &str = "rsync,python3,openssh-client,openssh-server,openssh-sftp-server,procps,\
                        iproute2,netcat-openbsd,curl,ca-certificates,git";
const JUPYTER: &str = "jupyter_server==2.17.0";
const JUPYTER_PROGRAM: &str =
    "#!/bin/sh\nPYTHONPATH=/opt/jupyter exec python3 -m jupyter_server \"$@\"\n";
/// What a test never reads.
const NEEDLESS: [&str; 8] = [
    "debootstrap",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/lib/apt/lists",
    "etc/resolv.conf",
];
/// More than this is a recipe gone wrong.
const BYTES_MAX: u64 = 600 << 20;
/// How long the engine may be silent while it unpacks.
const ENGINE_LIMIT: Duration = Duration::from_secs(120);
/// The most that is read of the engine's answers.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Makes what the tests of renting need, and prints the environment that names it.
pub(crate) fn run() -> anyhow::Result<()> {
    let target = test::target_folder()?;
    let clients = judges::ssh_clients(&target);
    let made = judge(&target, &clients, &judges::docker(&target)).map_err(anyhow::Error::msg)?;
    let clients = clients.map_err(anyhow::Error::msg)?;
    println!("{VARIABLE}={}\n{CLIENTS}={}", made.display(), clients.display());
    Ok(())
}

/// The folder, made where it is not there, and known to the engine where one answers.
pub(crate) fn judge(target: &Path, python: &Judge, engine: &Judge) -> Judge {
    let folder = target.join("judges");
    let made = ready(&folder, python).map_err(|error| format!("{error:#}"))?;
    if let Ok(engine) = engine {
        import(&made, engine).map_err(|error| format!("the engine's image: {error:#}"))?;
    }
    Ok(made)
}

/// What the folder is made of. Any other text beside it means another recipe.
fn recipe() -> String {
    format!("1 {SUITE} {PACKAGES} {JUPYTER}")
}

fn ready(folder: &Path, python: &Judge) -> anyhow::Result<PathBuf> {
    let (made, stamp) = (folder.join("rootfs"), folder.join("rootfs.txt"));
    if fs::read_to_string(&stamp).is_ok_and(|text| text == recipe()) && made.is_dir() {
        return Ok(made);
    }
    let python = python.as_ref().map_err(|why| anyhow::anyhow!("no Python: {why}"))?;
    let fresh = folder.join("rootfs.new");
    for old in [&made, &fresh] {
        if old.exists() {
            run::must(run::command("rm", &["-rf", "--one-file-system", "--", path(old)?]))?;
        }
    }
    fs::create_dir_all(folder)?;
    bootstrap(&fresh)?;
    furnish(&fresh, python)?;
    let bytes = size(&fresh)?;
    if bytes > BYTES_MAX {
        bail!("the root file system has {bytes} bytes, more than {BYTES_MAX}");
    }
    fs::rename(&fresh, &made).context("finish the root file system")?;
    fs::write(&stamp, recipe())?;
    Ok(made)
}

fn bootstrap(fresh: &Path) -> anyhow::Result<()> {
    let include = format!("--include={PACKAGES}");
    let words = ["--mount", "--pid", "--fork", "--kill-child", "debootstrap", "--variant=minbase"];
    let mut debootstrap = run::command("unshare", &words);
    debootstrap.args([&include, SUITE, path(fresh)?]).stdout(Stdio::null());
    run::must(debootstrap)
}

fn furnish(fresh: &Path, python: &Path) -> anyhow::Result<()> {
    let jupyter = fresh.join("opt/jupyter");
    let mut pip = run::command(python, &["-m", "pip", "install", "--quiet", "--no-compile"]);
    pip.args(["--disable-pip-version-check", "--only-binary=:all:", "--implementation", "cp"]);
    pip.args(["--python-version", PYTHON, "--target", path(&jupyter)?, JUPYTER]);
    run::must(pip)?;
    let program = fresh.join("usr/local/bin/jupyter-server");
    fs::write(&program, JUPYTER_PROGRAM)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    // Where the original's validators look for Python.
    fs::create_dir_all(fresh.join("opt/conda/bin"))?;
    symlink("/usr/bin/python3", fresh.join("opt/conda/bin/python"))?;
    for name in NEEDLESS {
        let needless = fresh.join(name);
        if needless.is_dir() {
            fs::remove_dir_all(&needless)?;
        } else if needless.symlink_metadata().is_ok() {
            fs::remove_file(&needless)?;
        }
    }
    fs::write(fresh.join("etc/resolv.conf"), "")?;
    fs::set_permissions(fresh, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Gives the engine the same files as an image, unless it has them.
fn import(made: &Path, engine: &Path) -> anyhow::Result<()> {
    let there = format!("GET /images/{IMAGE}/json HTTP/1.0\r\nhost: docker\r\n\r\n");
    if ask(engine, &there, None)? == 200 {
        return Ok(());
    }
    let archive = made.with_extension("tar");
    let words = ["--numeric-owner", "--one-file-system", "-C", path(made)?, "-cf", path(&archive)?];
    let mut pack = run::command("tar", &words);
    pack.arg(".");
    run::must(pack)?;
    let length = archive.metadata()?.len();
    let (name, tag) = IMAGE.split_once(':').context("an image has a tag")?;
    let order = format!(
        "POST /images/create?fromSrc=-&repo={name}&tag={tag} HTTP/1.0\r\nhost: docker\r\n\
         content-type: application/x-tar\r\ncontent-length: {length}\r\n\r\n"
    );
    let status = ask(engine, &order, Some(&archive));
    fs::remove_file(&archive)?;
    // The engine says 200 before it has seen everything.
    if status? != 200 || ask(engine, &there, None)? != 200 {
        bail!("the engine did not take it");
    }
    Ok(())
}

/// Sends an order to the engine itself, whose command-line client need not be installed, and gives the status of its answer.
fn ask(engine: &Path, order: &str, body: Option<&Path>) -> anyhow::Result<u16> {
    let mut socket = UnixStream::connect(engine).context("reach the engine")?;
    socket.set_read_timeout(Some(ENGINE_LIMIT))?;
    socket.write_all(order.as_bytes())?;
    if let Some(body) = body {
        std::io::copy(&mut fs::File::open(body)?, &mut socket)?;
    }
    let mut answer = String::new();
    socket.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    answer.split_whitespace().nth(1).and_then(|status| status.parse().ok()).context("no status")
}

fn size(folder: &Path) -> anyhow::Result<u64> {
    let shown = run::output(run::command("du", &["-sxb", path(folder)?]))?;
    shown.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).context("du says no size")
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}
