//! OpenSSH, the renter's own client: keys made by `ssh-keygen`, leases entered by `ssh` with the host key pinned.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use nicompute_client::SshAccess;
use tokio::process::Command;

use crate::daemons::{create_private, write_atomically};
use crate::exit::{Exit, Failure};

/// How long one command in a rental may take.
const COMMAND_MAX: Duration = Duration::from_secs(20);
const MISSING: &str = "install the OpenSSH client: apt-get install openssh-client";

/// A key pair in files, made by OpenSSH's own tool.
#[derive(Debug)]
pub(crate) struct SshKey {
    /// The secret half.
    pub(crate) file: PathBuf,
    /// The public half: one line.
    pub(crate) public: String,
}

/// Makes a fresh ed25519 key, or takes the one that is there.
pub(crate) async fn key(folder: &Path) -> anyhow::Result<SshKey> {
    create_private(folder)?;
    let file = folder.join("id_ed25519");
    if !file.exists() {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "nicompute", "-f"]).arg(&file);
        run(keygen, "ssh-keygen").await?;
    }
    let public =
        fs::read_to_string(file.with_extension("pub")).context("read the public SSH key")?;
    Ok(SshKey { file, public: public.trim().to_owned() })
}

/// The options and the target of an `ssh` command that enters a lease with its host key pinned.
pub(crate) fn arguments(
    folder: &Path,
    key: &Path,
    access: &SshAccess,
) -> anyhow::Result<Vec<String>> {
    let known_hosts = folder.join("known_hosts");
    write_atomically(&known_hosts, &access.known_hosts_line())?;
    let options = [
        "-F".to_owned(),
        "none".to_owned(),
        "-i".to_owned(),
        key.display().to_string(),
        "-p".to_owned(),
        access.port().to_string(),
        "-o".to_owned(),
        format!("UserKnownHostsFile={}", known_hosts.display()),
        "-o".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "-o".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        format!("{}@{}", access.user(), access.host()),
    ];
    Ok(options.into())
}

/// What makes `ssh NAME`, and everything that reads OpenSSH's configuration, enter a lease with its host key pinned.
///
/// # Errors
/// Where a path cannot be written in that file.
pub(crate) fn config_block(
    folder: &Path,
    key: &Path,
    access: &SshAccess,
    name: &str,
) -> anyhow::Result<String> {
    let known_hosts = quoted(&folder.join("known_hosts"))?;
    Ok(format!(
        "Host {name}\n    HostName {}\n    Port {}\n    User {}\n    IdentityFile {}\n    \
         IdentitiesOnly yes\n    StrictHostKeyChecking yes\n    UserKnownHostsFile {known_hosts}\n",
        access.host(),
        access.port(),
        access.user(),
        quoted(key)?,
    ))
}

/// A path as OpenSSH's configuration takes it: in quotes, and without what it would expand.
fn quoted(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().filter(|text| !text.contains(['"', '\\', '%', '$', '\n', '\r']));
    let text =
        text.with_context(|| format!("{} cannot be in ssh's configuration", path.display()))?;
    Ok(format!("\"{text}\""))
}

/// Runs one command in a lease and returns what it printed.
pub(crate) async fn answer(arguments: &[String], command: &str) -> anyhow::Result<String> {
    let mut ssh = Command::new("ssh");
    ssh.args(["-o", "BatchMode=yes"]).args(arguments).arg(command);
    run(ssh, "ssh").await
}

async fn run(mut command: Command, name: &str) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(COMMAND_MAX, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(Exit::Config, format!("{name} is not here"))
                .hint(MISSING)
                .into());
        }
        Ok(Err(error)) => return Err(error).with_context(|| format!("start {name}")),
        Err(_) => {
            let what = format!("{name} did not end within {} s", COMMAND_MAX.as_secs());
            return Err(Failure::new(Exit::Deadline, what).into());
        }
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Failure::new(
            Exit::Failed,
            format!("{name} ended with {}: {said}", output.status),
        )
        .into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use nicompute_wire::node::SshAccessView;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    /// An editor that enters by this block without the pinned host key would trust whoever answers.
    #[test]
    fn the_block_pins_the_host_key() {
        let view = SshAccessView {
            host: "192.0.2.7".to_owned(),
            port: 4444,
            user: "1a2b3c4d".to_owned(),
            host_key: KEY.to_owned(),
        };
        let access = SshAccess::check(&view).unwrap();
        let (folder, key) = (Path::new("/home/a b/lease"), Path::new("/home/a b/id"));
        let block = config_block(folder, key, &access, "nicompute-1").unwrap();
        assert_eq!(
            block,
            "Host nicompute-1\n    HostName 192.0.2.7\n    Port 4444\n    User 1a2b3c4d\n    \
             IdentityFile \"/home/a b/id\"\n    IdentitiesOnly yes\n    StrictHostKeyChecking yes\n    \
             UserKnownHostsFile \"/home/a b/lease/known_hosts\"\n"
        );
        for bad in ["/a\"b", "/a\nHost *", "/%d", "/$HOME"] {
            assert!(config_block(folder, Path::new(bad), &access, "n").is_err(), "{bad}");
        }
    }
}
