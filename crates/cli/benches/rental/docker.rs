//! What is compared with: the engine alone, the original's way to a login, and OpenSSH's server in a container.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::figures::timed;
use crate::ssh::{Door, first_output};
use crate::world::{program, wait_for};

/// Containers and images of this run are called after its process.
fn name(what: &str) -> String {
    format!("nicompute-bench-{}-{what}", std::process::id())
}

/// The engine, with an image of the root file system and one that OpenSSH's server can start from.
pub(crate) struct Reference {
    image: String,
    with_sshd: String,
    key: PathBuf,
    public: String,
    _folder: tempfile::TempDir,
}

impl Reference {
    pub(crate) fn new(rootfs: &Path) -> Result<Self, String> {
        let engine = quiet(program("docker").args(["version"]));
        if !engine {
            return Err("`docker version` does not succeed".to_owned());
        }
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("id");
        let mut keygen = program("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
        if !quiet(&mut keygen) {
            return Err("ssh-keygen is not here".to_owned());
        }
        let public = fs::read_to_string(key.with_extension("pub")).unwrap().trim().to_owned();
        // A tag of its own: the lease's image must be named, and what is removed afterwards is this name alone.
        let image = format!("{}:1", name("image"));
        import(rootfs, &image)?;
        let with_sshd = format!("{}:1", name("sshd-base"));
        let lines = format!("FROM {image}\nRUN mkdir -p /run/sshd /root/.ssh && ssh-keygen -A\n");
        let made = Self { image, with_sshd, key, public, _folder: folder };
        if !build(&made.with_sshd, &lines) {
            return Err("the image with OpenSSH's server cannot be built".to_owned());
        }
        Ok(made)
    }

    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    /// `docker run` to its first output, in seconds.
    pub(crate) fn run_alone(&self) -> f64 {
        let mut run = program("docker");
        run.args(["run", "--rm", "--network", "none", &self.image, "echo", "ready"]);
        let (took, ()) = timed(|| first_output(run.stdout(Stdio::piped()).spawn().unwrap()));
        took
    }

    /// OpenSSH's server in a container of the same image.
    pub(crate) fn sshd(&self) -> Sshd {
        let lines = format!(
            "FROM {}\nRUN echo '{}' > /root/.ssh/authorized_keys && chmod 600 /root/.ssh/authorized_keys\n",
            self.with_sshd, self.public
        );
        let image = format!("{}:1", name("sshd"));
        assert!(build(&image, &lines));
        let container = Container::run(
            &name("sshd"),
            &image,
            &["/usr/sbin/sshd", "-D", "-e", "-o", "MaxStartups=200", "-o", "UseDNS=no"],
        );
        let door = container.door(&self.key);
        wait_for("OpenSSH's server", || door.answers().then_some(()));
        Sshd { door, _container: container, _image: Image(image) }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        remove_image(&self.with_sshd);
        remove_image(&self.image);
    }
}

/// A server that is there until it is dropped.
pub(crate) struct Sshd {
    door: Door,
    _container: Container,
    _image: Image,
}

impl Sshd {
    pub(crate) const fn door(&self) -> &Door {
        &self.door
    }
}

/// The original's way: an image for each allocation, with key and password in its layers, and a server inside.
pub(crate) struct Original<'r> {
    reference: &'r Reference,
    round: AtomicUsize,
}

impl<'r> Original<'r> {
    pub(crate) const fn new(reference: &'r Reference) -> Self {
        Self { reference, round: AtomicUsize::new(0) }
    }

    /// From the request to the first output over SSH, in seconds.
    pub(crate) fn build_run_login(&self) -> f64 {
        let round = self.round.fetch_add(1, Ordering::Relaxed);
        let image = format!("{}:{round}", name("original"));
        // The password is new each time, so that its layer is built each time.
        let lines = format!(
            "FROM {}\nRUN echo 'Hello World!'\n\
             RUN mkdir -p /root/.ssh/ && echo '{}' > /root/.ssh/authorized_keys && chmod 600 /root/.ssh/authorized_keys\n\
             RUN echo 'root:password{round}{}' | chpasswd\nCMD [\"/usr/sbin/sshd\", \"-D\"]\n",
            self.reference.with_sshd,
            self.reference.public,
            std::process::id(),
        );
        let (took, _kept) = timed(|| {
            assert!(build(&image, &lines));
            let container = Container::run(&name("original"), &image, &[]);
            let door = container.door(&self.reference.key);
            wait_for("a login", || door.answers().then_some(()));
            (container, Image(image))
        });
        took
    }
}

/// A container that is removed when it is dropped.
struct Container(String);

impl Container {
    fn run(name: &str, image: &str, command: &[&str]) -> Self {
        let mut run = program("docker");
        run.args(["run", "--detach", "--init", "--name", name, image]).args(command);
        assert!(quiet(&mut run), "docker run {image}");
        Self(name.to_owned())
    }

    /// Straight to the container's own address: no proxy of the engine is in the way.
    fn door(&self, key: &Path) -> Door {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let mut inspect = program("docker");
        let output = inspect.args(["inspect", "--format", format, &self.0]).output().unwrap();
        let host = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        assert!(!host.is_empty(), "the container has an address");
        Door { host, port: 22, user: "root".to_owned(), key: key.to_owned(), known_hosts: None }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        quiet(program("docker").args(["rm", "--force", "--volumes", &self.0]));
    }
}

/// An image that is removed when it is dropped.
struct Image(String);

impl Drop for Image {
    fn drop(&mut self) {
        remove_image(&self.0);
    }
}

fn remove_image(name: &str) {
    quiet(program("docker").args(["rmi", "--force", name]));
}

fn import(rootfs: &Path, image: &str) -> Result<(), String> {
    let mut tar = program("tar");
    tar.args(["--one-file-system", "-cf", "-", "-C"]).arg(rootfs).arg(".");
    let mut tar = tar.stdout(Stdio::piped()).spawn().unwrap();
    let mut import = program("docker");
    import.args(["import", "-", image]).stdin(tar.stdout.take().unwrap());
    let imported = quiet(&mut import);
    let packed = tar.wait().is_ok_and(|status| status.success());
    if imported && packed {
        Ok(())
    } else {
        Err("the root file system cannot be imported".to_owned())
    }
}

/// Builds an image from lines alone, without a network.
fn build(image: &str, lines: &str) -> bool {
    let mut build = program("docker");
    build.args(["build", "--quiet", "--network", "none", "--tag", image, "-"]);
    build.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut build = build.spawn().unwrap();
    build.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    build.wait().unwrap().success()
}

fn quiet(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
