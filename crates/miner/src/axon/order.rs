//! What an `/Allocate` asks for: its fields told apart as 1.9.0 tells them apart, and read once. Whatever comes out of here
//! is bounded and well formed; what is left of the request is data and reaches no shell, no build and no file.

use nicompute_market::{KeySlot, Purpose};
use nicompute_wire::axon::{Allocate, CallerKey, CallerKeyError, Requirement, RequirementError};
use nicompute_wire::ssh_key::{SshKey, SshKeyError};

/// The images that callers of 1.9.0 name without choosing them: its default, and the family that its programs write into
/// every request. 1.9.0 passes over the field and starts an image of its own.
const USUAL_IMAGES: [&str; 2] = ["ubuntu", "ubuntu:latest"];
const USUAL_IMAGE_FAMILY: &str = "pytorch/pytorch:";
/// Characters of an image's name.
const IMAGE_CHARS_MAX: usize = 255;
/// What 1.9.0 writes for `volume_path` where its caller says nothing.
const USUAL_VOLUME: &str = "/tmp";
/// A build line that builds nothing: the word, and text in which no shell finds anything to do.
const ECHO: &str = "echo";

/// One request, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Is something free that has this?
    Check(Requirement),
    /// Is the lease of this key here, and does it run?
    Mine(CallerKey),
    /// Give me a lease.
    Create(Box<Wish>),
    /// Take the lease of this key back.
    Destroy(CallerKey),
    /// Change the lease of this key.
    Change(CallerKey, Change),
}

/// What is to be done to a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Let this key in, instead of the one in its place.
    Key(KeySlot, String),
    /// End its processes and start it again.
    Restart,
    /// Freeze it.
    Pause,
    /// Let it go on.
    Resume,
}

/// A lease that is wished for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Whose it will be, and whom the answer is for.
    pub(super) key: CallerKey,
    /// For how many days, at least one.
    pub(super) days: u64,
    /// A test of a validator lasts minutes, whatever its days are.
    pub(super) purpose: Purpose,
    /// What the machine must have.
    pub(super) requirement: Requirement,
    /// What it is to start.
    pub(super) image: ImageWish,
    /// A key that may enter beside the password.
    pub(super) ssh_key: Option<String>,
}

/// An image, and how much it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ImageWish {
    /// Chosen by somebody.
    Named(String),
    /// Written by the original's programs, or nothing: another one serves as well.
    Hinted(String),
}

/// Why a request comes to nothing, in the words that its caller reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OrderError {
    #[error("{0}")]
    CallerKey(#[from] CallerKeyError),
    #[error("{0}")]
    Requirement(#[from] RequirementError),
    #[error("docker_requirement has a field that is not of its kind")]
    DockerRequirement,
    #[error("docker_action has a field that is not of its kind")]
    DockerAction,
    #[error(
        "docker_requirement.dockerfile: this node builds no images; leave it empty, and name an image of the node's offer \
         in docker_requirement.base_image or install what is missing over SSH"
    )]
    Dockerfile,
    #[error("docker_requirement.base_image is no image's name")]
    Image,
    #[error(
        "docker_requirement.volume_path: this door makes no volumes; leave it empty, what is written lies on the lease's disk"
    )]
    Volume,
    #[error("docker_requirement.ssh_key {0}")]
    SshKey(#[source] SshKeyError),
    #[error("docker_action.ssh_key {0}")]
    NewKey(#[source] SshKeyError),
    #[error("docker_action.key_type is neither user nor terminal")]
    KeyType,
    #[error("docker_action.action is none of exchange_key, restart, pause, unpause and resume")]
    Action,
}

/// Reads a request.
pub(super) fn read(asked: &Allocate) -> Result<Order, OrderError> {
    match (asked.checking, asked.docker_change, asked.timeline) {
        (true, _, 1..) => Ok(Order::Check(asked.requirement()?)),
        (true, _, _) => Ok(Order::Mine(CallerKey::parse(&asked.public_key)?)),
        (false, true, _) => {
            let change = change(asked)?;
            Ok(Order::Change(CallerKey::parse(&asked.public_key)?, change))
        }
        (false, false, 1..) => wish(asked).map(|wish| Order::Create(Box::new(wish))),
        (false, false, _) => Ok(Order::Destroy(CallerKey::parse(&asked.public_key)?)),
    }
}

fn wish(asked: &Allocate) -> Result<Wish, OrderError> {
    let key = CallerKey::parse(&asked.public_key)?;
    let requirement = asked.requirement()?;
    let docker = asked.docker().map_err(|_| OrderError::DockerRequirement)?;
    builds_nothing(docker.dockerfile.as_deref().unwrap_or_default())?;
    makes_no_volume(docker.volume_path.as_deref().unwrap_or_default())?;
    let ssh_key = docker.ssh_key.as_deref().filter(|key| !key.trim().is_empty());
    let ssh_key = ssh_key.map(canonical).transpose().map_err(OrderError::SshKey)?;
    Ok(Wish {
        key,
        days: u64::try_from(asked.timeline).unwrap_or_default(),
        purpose: if requirement.testing { Purpose::Proof } else { Purpose::Rental },
        requirement,
        image: image(docker.base_image.as_deref().unwrap_or_default())?,
        ssh_key,
    })
}

fn change(asked: &Allocate) -> Result<Change, OrderError> {
    let action = asked.action().map_err(|_| OrderError::DockerAction)?;
    match action.action.as_deref().unwrap_or_default() {
        "exchange_key" => {
            let slot = action.key_type.as_deref().unwrap_or_default().parse();
            let slot = slot.map_err(|_| OrderError::KeyType)?;
            let key = canonical(action.ssh_key.as_deref().unwrap_or_default());
            Ok(Change::Key(slot, key.map_err(OrderError::NewKey)?))
        }
        "restart" => Ok(Change::Restart),
        "pause" => Ok(Change::Pause),
        "unpause" | "resume" => Ok(Change::Resume),
        _ => Err(OrderError::Action),
    }
}

fn canonical(key: &str) -> Result<String, SshKeyError> {
    key.trim().parse().map(SshKey::into_string)
}

/// Extra build lines are a program that the node would run on its own behalf. Only those that do nothing are passed over:
/// none, and the one line that 1.9.0 puts there itself where there is none.
fn builds_nothing(lines: &str) -> Result<(), OrderError> {
    let line = lines.trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " '\",.!-_".contains(c);
    let is_echo =
        |said: &str| (said.is_empty() || said.starts_with(' ')) && said.chars().all(is_plain);
    if line.is_empty() || line.strip_prefix(ECHO).is_some_and(is_echo) {
        Ok(())
    } else {
        Err(OrderError::Dockerfile)
    }
}

fn makes_no_volume(path: &str) -> Result<(), OrderError> {
    if path.is_empty() || path == USUAL_VOLUME { Ok(()) } else { Err(OrderError::Volume) }
}

/// The image, and whether it was chosen: 1.9.0's own programs name one that they do not get either.
fn image(name: &str) -> Result<ImageWish, OrderError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if name.len() > IMAGE_CHARS_MAX || !name.chars().all(plain) {
        return Err(OrderError::Image);
    }
    let is_usual = USUAL_IMAGES.contains(&name) || name.starts_with(USUAL_IMAGE_FAMILY);
    let name = name.to_owned();
    Ok(if name.is_empty() || is_usual { ImageWish::Hinted(name) } else { ImageWish::Named(name) })
}

#[cfg(test)]
mod tests {
    use nicompute_wire::axon::{Body as _, Received};
    use serde_json::{Value, json};

    use super::*;

    const PEM: &str = include_str!("../../../wire/testdata/caller2048.pub.pem");
    const SSH: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    fn asked(fields: &Value) -> Allocate {
        Received::<Allocate>::parse(fields.to_string().as_bytes()).unwrap().body
    }

    #[expect(clippy::needless_pass_by_value, reason = "cases are written in place")]
    fn order(fields: Value) -> Result<Order, OrderError> {
        read(&asked(&fields))
    }

    fn create(docker: &Value) -> Result<Wish, OrderError> {
        let fields = json!({
            "timeline": 30, "checking": false, "public_key": PEM, "docker_requirement": docker,
        });
        match order(fields)? {
            Order::Create(wish) => Ok(*wish),
            other => panic!("{other:?}"),
        }
    }

    fn key() -> CallerKey {
        CallerKey::parse(PEM).unwrap()
    }

    /// The table of 1.9.0: a hole in it is a lease that is destroyed where its owner only asked for it.
    #[test]
    fn the_table() {
        let all = [true, false].into_iter().flat_map(|checking| {
            [true, false]
                .into_iter()
                .flat_map(move |change| [-1, 0, 1].map(|timeline| (checking, change, timeline)))
        });
        let named = all.map(|(checking, change, timeline)| {
            let order = order(json!({
                "checking": checking, "docker_change": change, "timeline": timeline,
                "public_key": PEM, "docker_action": {"action": "pause"},
            }));
            match order.unwrap() {
                Order::Check(_) => "check",
                Order::Mine(_) => "mine",
                Order::Create(_) => "create",
                Order::Destroy(_) => "destroy",
                Order::Change(_, Change::Pause) => "pause",
                Order::Change(..) => "other",
            }
        });
        let expected = [
            "mine", "mine", "check", "mine", "mine", "check", //
            "pause", "pause", "pause", "destroy", "destroy", "create",
        ];
        assert_eq!(named.collect::<Vec<_>>(), expected);
        assert_eq!(Allocate::NAME, "Allocate");
    }

    /// What 1.9.0's own programs send must be understood: its validator, its API by hotkey, its API by specification.
    #[test]
    fn the_orders_of_the_originals_programs() {
        let proof = json!({
            "timeline": 1, "checking": false, "public_key": PEM,
            "device_requirement": {
                "cpu": {"count": 1}, "gpu": {"count": 1, "capacity": 0, "type": ""},
                "hard_disk": {"capacity": 1_073_741_824}, "ram": {"capacity": 1_073_741_824},
                "testing": true,
            },
            "docker_requirement": {"base_image": "pytorch/pytorch:2.7.0-cuda12.6-cudnn9-runtime"},
        });
        let Ok(Order::Create(wish)) = order(proof) else { panic!("no order") };
        assert_eq!((wish.purpose, wish.days), (Purpose::Proof, 1));
        assert!(matches!(wish.image, ImageWish::Hinted(_)), "{wish:?}");
        assert_eq!((wish.ssh_key, wish.requirement.gpu.unwrap().count), (None, 1));
        let by_hotkey = create(&json!({
            "base_image": "pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime", "ssh_key": SSH,
            "volume_path": "/tmp", "dockerfile": "", "ssh_port": 4444,
        }))
        .unwrap();
        assert_eq!((by_hotkey.purpose, by_hotkey.days), (Purpose::Rental, 30));
        assert_eq!(by_hotkey.ssh_key.as_deref(), Some(SSH));
        assert!(matches!(by_hotkey.image, ImageWish::Hinted(_)), "{by_hotkey:?}");
        let by_specification = json!({
            "timeline": 90, "checking": true,
            "device_requirement": {
                "cpu": {"count": 1}, "gpu": {"count": 1, "capacity": 3000, "type": "gpu"},
                "hard_disk": {"capacity": 1_073_741_824.0}, "ram": {"capacity": 1_073_741_824.0},
            },
        });
        let Ok(Order::Check(requirement)) = order(by_specification) else { panic!("no order") };
        assert_eq!((requirement.memory_bytes, requirement.testing), (1 << 30, false));
        assert_eq!(order(json!({"timeline": 1})), Ok(Order::Check(Requirement::default())));
        let destroy = json!({"timeline": 0, "checking": false, "public_key": PEM});
        assert_eq!(order(destroy), Ok(Order::Destroy(key())));
    }

    /// A changed lease needs its key; what is to change is told apart by exact words.
    #[test]
    fn changes() {
        let change = |action: Value| {
            order(json!({
                "checking": false, "docker_change": true, "public_key": PEM, "docker_action": action,
            }))
        };
        let line = format!("  {SSH} someone@somewhere\n");
        for (kind, slot) in [("user", KeySlot::User), ("terminal", KeySlot::Terminal)] {
            let action = json!({"action": "exchange_key", "ssh_key": line, "key_type": kind});
            let key = Change::Key(slot, SSH.to_owned());
            assert_eq!(change(action), Ok(Order::Change(super::tests::key(), key)));
        }
        for (word, expected) in [
            ("restart", Change::Restart),
            ("pause", Change::Pause),
            ("unpause", Change::Resume),
            ("resume", Change::Resume),
        ] {
            let action = json!({"action": word, "ssh_key": ""});
            assert_eq!(change(action), Ok(Order::Change(key(), expected)));
        }
        let exchange = |key: &str, kind: &str| {
            change(json!({"action": "exchange_key", "ssh_key": key, "key_type": kind})).unwrap_err()
        };
        assert_eq!(exchange(SSH, "root"), OrderError::KeyType);
        assert_eq!(exchange(SSH, ""), OrderError::KeyType);
        assert_eq!(exchange("", "user"), OrderError::NewKey(SshKeyError::Kind));
        assert_eq!(exchange("x'; touch /tmp/x; '", "user"), OrderError::NewKey(SshKeyError::Kind));
        let options = format!("command=\"id\" {SSH}");
        assert_eq!(exchange(&options, "user"), OrderError::NewKey(SshKeyError::Options));
        let two = format!("{SSH}\n{SSH}");
        assert_eq!(exchange(&two, "user"), OrderError::NewKey(SshKeyError::NotOneLine));
        let long = format!("{SSH} {}", "x".repeat(16 * 1024));
        assert_eq!(exchange(&long, "user"), OrderError::NewKey(SshKeyError::TooLong));
        assert_eq!(change(json!({"action": "Restart"})), Err(OrderError::Action));
        assert_eq!(change(json!({})), Err(OrderError::Action));
        assert_eq!(change(json!({"action": ["pause"]})), Err(OrderError::DockerAction));
        let keyless = json!({
            "checking": false, "docker_change": true, "docker_action": {"action": "pause"},
        });
        assert_eq!(order(keyless), Err(OrderError::CallerKey(CallerKeyError::Empty)));
    }

    /// A build line is a program of a stranger on the provider's machine: one that slips through is run there.
    #[test]
    fn nothing_is_built() {
        let refused = [
            "pip install torch",
            "RUN true",
            "echo $(id)",
            "echo `id`",
            "echo hi; id",
            "echo hi && id",
            "echo hi | sh",
            "echo hi > /x",
            "echo hi\nRUN id",
            "echo \\",
            "echo \u{0}",
            "# comment",
            "\u{a0}x",
        ];
        for lines in refused {
            let refused = create(&json!({"dockerfile": lines}));
            assert_eq!(refused.unwrap_err(), OrderError::Dockerfile, "{lines}");
        }
        for lines in ["", " \n", "echo", "echo 'Hello World!'", "echo \"hello, world\"\n"] {
            assert!(create(&json!({"dockerfile": lines})).is_ok(), "{lines}");
        }
        assert!(create(&json!({"dockerfile": null})).is_ok());
        let kind = create(&json!({"dockerfile": ["id"]})).unwrap_err();
        assert_eq!(kind, OrderError::DockerRequirement);
    }

    /// A field that is passed over in silence is one that its caller believes in.
    #[test]
    fn images_and_volumes_are_taken_or_refused() {
        for usual in ["", "ubuntu", "ubuntu:latest", "pytorch/pytorch:9"] {
            let image = create(&json!({"base_image": usual})).unwrap().image;
            assert_eq!(image, ImageWish::Hinted(usual.to_owned()));
        }
        let named = "example.org/a/b@sha256:00";
        let image = create(&json!({"base_image": named})).unwrap().image;
        assert_eq!(image, ImageWish::Named(named.to_owned()));
        for bad in ["a b", "a\nb", "$(id)", "ä", &"x".repeat(256)] {
            let refused = create(&json!({"base_image": bad})).unwrap_err();
            assert_eq!(refused, OrderError::Image, "{bad}");
        }
        for bad in ["/", "/root", "../x", "/tmp/", "/var/run/docker.sock"] {
            let refused = create(&json!({"volume_path": bad})).unwrap_err();
            assert_eq!(refused, OrderError::Volume, "{bad}");
        }
        let key = create(&json!({"ssh_key": "' >> /etc/passwd; '"})).unwrap_err();
        assert_eq!(key, OrderError::SshKey(SshKeyError::Kind));
    }

    /// Numbers beyond all measure must be refused or bounded, never wrapped.
    #[test]
    fn huge_numbers() {
        let fields = json!({
            "timeline": i64::MAX, "checking": false, "public_key": PEM,
            "device_requirement": {"cpu": {"count": u64::MAX}, "ram": {"capacity": 1e19}},
        });
        let Ok(Order::Create(wish)) = order(fields) else { panic!("no order") };
        assert_eq!(
            (wish.days, wish.requirement.cores),
            (u64::try_from(i64::MAX).unwrap(), u64::MAX)
        );
        let fields = json!({"timeline": 1, "device_requirement": {"gpu": {"count": 1e300}}});
        assert_eq!(order(fields), Err(OrderError::Requirement(RequirementError("gpu.count"))));
        let fields = json!({"timeline": 1, "device_requirement": {"testing": "yes"}});
        assert_eq!(order(fields), Err(OrderError::Requirement(RequirementError("testing"))));
    }
}
