//! What a lease may ask for beyond its share of the machine. All of it is data: nothing here is ever read by a shell, and
//! what does not keep to the rules is refused before anything is made.

use nicompute_market::{LeaseId, RuntimeClass};

use super::RuntimeError;

/// Volumes of one lease.
pub const VOLUMES_MAX: usize = 8;
/// Memory file systems of one lease.
pub const TMPFS_MAX: usize = 8;
/// Variables that a lease may set.
pub const ENVIRONMENT_MAX: usize = 128;
/// Bytes of all names and values of a lease's environment.
pub const ENVIRONMENT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a volume's name.
pub const VOLUME_NAME_LEN_MAX: usize = 32;
/// Bytes of a path inside a container.
pub const TARGET_LEN_MAX: usize = 255;

/// Where nothing of a lease may be mounted: the agent's own places, the kernel's, and the root itself.
/// The last two are where the NVIDIA toolkit takes the name of a mount for the name of a GPU to be given.
const KEPT: [&str; 8] = [
    "/.nicompute",
    "/run/nicompute",
    "/proc",
    "/sys",
    "/dev",
    "/etc",
    "/run/nvidia-container-devices",
    "/var/run/nvidia-container-devices",
];

/// What a lease asked for beyond its share; the default asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// What runs its processes.
    pub class: RuntimeClass,
    /// Bytes of `/dev/shm`; half of the memory where it is left out. They count as memory.
    pub shm_bytes: Option<u64>,
    /// Whether the image's own files can be changed.
    pub root: RootAccess,
    /// Directories that outlive a restart of the container and are wiped at the lease's end.
    pub volumes: Vec<Volume>,
    /// Memory file systems. They count as memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Names and values for every process of the container.
    pub environment: Vec<(String, String)>,
    /// Whether the container is given a network, so that its names are resolved by `resolv.conf` in the lease's directory.
    /// The wire itself is laid by `net::Fabric` once the first process is there.
    pub network: Network,
}

/// Whether the image's own files can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootAccess {
    /// Changes go to the lease's disk.
    #[default]
    Writable,
    /// Only volumes and memory file systems can be written.
    ReadOnly,
}

/// Whether a container has a network of its own besides its loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// Loopback only; the way in is the gateway.
    #[default]
    None,
    /// A wire to the outside under the node's rules.
    Egress,
}

/// A directory of a lease under the node's volume root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Letters, digits, `-` and `_`; unique in its lease.
    pub name: String,
    /// Where it is seen in the container: absolute, without `.` and `..`.
    pub target: String,
    /// Its size, where the runtime can hold it to one.
    pub bytes: Option<u64>,
}

/// A memory file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where it is seen in the container: absolute, without `.` and `..`.
    pub target: String,
    /// Its size.
    pub bytes: u64,
}

impl Options {
    /// Refuses what no runtime may be asked for.
    ///
    /// # Errors
    /// The field and its rule.
    pub fn check(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        let bad = |field, rule| Err(RuntimeError::InvalidSpec { lease, field, rule });
        if self.volumes.len() > VOLUMES_MAX {
            return bad("volumes", "must be at most 8");
        }
        if self.tmpfs.len() > TMPFS_MAX {
            return bad("tmpfs", "must be at most 8");
        }
        if !self.volumes.iter().all(|volume| is_volume_name(&volume.name)) {
            return bad("volumes.name", "must have 1 to 32 letters, digits, - and _");
        }
        let targets = || {
            let volumes = self.volumes.iter().map(|volume| volume.target.as_str());
            volumes.chain(self.tmpfs.iter().map(|tmpfs| tmpfs.target.as_str()))
        };
        if !targets().all(is_target) {
            return bad(
                "target",
                "must be an absolute path of at most 255 bytes without . and .., outside of / itself, /proc, /sys, /dev, \
                 /etc, /.nicompute, /run/nicompute and the NVIDIA toolkit's /run/nvidia-container-devices",
            );
        }
        if has_twice(targets()) {
            return bad("target", "must be named once");
        }
        if has_twice(self.volumes.iter().map(|volume| volume.name.as_str())) {
            return bad("volumes.name", "must be named once");
        }
        if self.environment.len() > ENVIRONMENT_MAX {
            return bad("environment", "must have at most 128 variables");
        }
        let bytes: usize =
            self.environment.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > ENVIRONMENT_BYTES_MAX {
            return bad("environment", "must have at most 65,536 bytes");
        }
        if !self.environment.iter().all(|(name, value)| is_variable(name) && !value.contains('\0'))
        {
            return bad(
                "environment",
                "must have names of letters, digits and _ that do not begin with a digit nor with NICOMPUTE_ or LD_, and \
                 values without NUL",
            );
        }
        if has_twice(self.environment.iter().map(|(name, _)| name.as_str())) {
            return bad("environment", "must name a variable once");
        }
        Ok(())
    }
}

fn is_volume_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !name.is_empty() && name.len() <= VOLUME_NAME_LEN_MAX && name.bytes().all(legal)
}

pub(super) fn is_target(target: &str) -> bool {
    let parts_fit = |path: &str| {
        path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
            && !path.chars().any(|c| c.is_control() || matches!(c, ',' | ':'))
    };
    let within = |kept: &str| {
        let rest = target.strip_prefix(kept);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    target.len() <= TARGET_LEN_MAX
        && target.strip_prefix('/').is_some_and(parts_fit)
        && !KEPT.iter().any(|kept| within(kept))
        && target != "/run"
}

fn is_variable(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty()
        && name.bytes().all(legal)
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.starts_with("NICOMPUTE_")
        && !name.starts_with("LD_")
}

fn has_twice<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let mut seen: Vec<&str> = names.collect();
    seen.sort_unstable();
    seen.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(options: &Options) -> Option<&'static str> {
        match options.check(LeaseId::from_random_bytes([1; 16])) {
            Err(RuntimeError::InvalidSpec { field, .. }) => Some(field),
            Err(other) => panic!("{other}"),
            Ok(()) => None,
        }
    }

    fn volume(name: &str, target: &str) -> Options {
        let volume = Volume { name: name.to_owned(), target: target.to_owned(), bytes: None };
        Options { volumes: vec![volume], ..Options::default() }
    }

    /// A volume over the agent's places, the kernel's files or through `..` would be a way out of the container.
    #[test]
    fn volumes_keep_to_their_places() {
        assert_eq!(refused(&volume("data", "/data")), None);
        assert_eq!(refused(&volume("data", "/procedures/x")), None);
        for target in [
            "",
            "/",
            "data",
            "/a/../b",
            "/./a",
            "/a//b",
            "/a/",
            "/proc",
            "/proc/1",
            "/sys/x",
            "/dev/shm",
            "/etc/passwd",
            "/.nicompute/run",
            "/run",
            "/run/nicompute",
            "/a\0b",
            "/a\nb",
            "/a:ro",
            "/a,b",
            "/var/run/nvidia-container-devices/all",
            "/run/nvidia-container-devices/GPU-1",
        ] {
            assert_eq!(refused(&volume("data", target)), Some("target"), "{target:?}");
        }
        assert_eq!(
            refused(&volume("data", &format!("/{}", "a".repeat(TARGET_LEN_MAX)))),
            Some("target")
        );
        for name in ["", "..", "a/b", "a b", "$(id)", &"a".repeat(VOLUME_NAME_LEN_MAX + 1)] {
            assert_eq!(refused(&volume(name, "/data")), Some("volumes.name"), "{name:?}");
        }
        let mut twice = volume("a", "/data");
        twice.volumes.push(Volume {
            name: "b".to_owned(),
            target: "/data".to_owned(),
            bytes: None,
        });
        assert_eq!(refused(&twice), Some("target"));
    }

    /// A variable is data; one that steers the agent or the loader would run in our name.
    #[test]
    fn environment_is_data() {
        let with = |name: &str, value: &str| Options {
            environment: vec![(name.to_owned(), value.to_owned())],
            ..Options::default()
        };
        assert_eq!(refused(&with("X", "'; touch /tmp/x; $(id) `id`\n\"")), None);
        for name in ["", "1X", "A B", "A=B", "A\0", "LD_PRELOAD", "NICOMPUTE_LEASE", "ä"] {
            assert_eq!(refused(&with(name, "x")), Some("environment"), "{name:?}");
        }
        assert_eq!(refused(&with("X", "a\0b")), Some("environment"));
        assert_eq!(refused(&with("X", &"a".repeat(ENVIRONMENT_BYTES_MAX))), Some("environment"));
        let many = (0..=ENVIRONMENT_MAX).map(|n| (format!("X{n}"), String::new())).collect();
        assert_eq!(
            refused(&Options { environment: many, ..Options::default() }),
            Some("environment")
        );
    }
}
