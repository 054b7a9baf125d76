//! One SSH connection to a lease.

use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, AuthResult, Handle};
use russh::keys::{PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, Disconnect};
use russh_sftp::client::SftpSession;
use russh_sftp::protocol::{FileAttributes, OpenFlags};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::access::SshAccess;
use crate::ssh::exec::{ExecStream, Ran};
use crate::ssh::key::LeaseKey;
use crate::ssh::{SshError, within};

/// Asked of the gateway while nothing else is said.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Unanswered keepalives after which the connection is given up.
const KEEPALIVES_MAX: usize = 4;
/// Bytes of one write while a file is uploaded.
const UPLOAD_CHUNK_BYTES: usize = 64 * 1024;
/// What one SFTP request has in seconds before it fails by itself; the caller's budget is the real limit.
const SFTP_REQUEST_SECONDS: u64 = 60;

/// A lease that was entered. Dropping it ends the connection.
pub struct LeaseSession {
    handle: Handle<Pinned>,
}

/// Accepts one host key.
#[derive(Debug)]
struct Pinned {
    host_key: PublicKey,
}

/// What the handler can fail with: the library's errors, and a host key that is not the one.
#[derive(Debug, thiserror::Error)]
enum HandlerError {
    #[error("another host key")]
    HostKey,
    #[error("the SSH library failed")]
    Library(#[from] russh::Error),
}

impl client::Handler for Pinned {
    type Error = HandlerError;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        match shown {
            PublicKeyOrCertificate::PublicKey { key, .. }
                if key.key_data() == self.host_key.key_data() =>
            {
                Ok(true)
            }
            PublicKeyOrCertificate::PublicKey { .. } | PublicKeyOrCertificate::Certificate(_) => {
                Err(HandlerError::HostKey)
            }
        }
    }
}

impl From<HandlerError> for SshError {
    fn from(error: HandlerError) -> Self {
        match error {
            HandlerError::HostKey => Self::HostKey,
            HandlerError::Library(error) => Self::Protocol(error),
        }
    }
}

// === impl LeaseSession ===

impl LeaseSession {
    /// Enters a lease with its key.
    ///
    /// # Errors
    /// When the gateway cannot be reached, shows another host key, or does not take the key.
    pub async fn connect(
        access: &SshAccess,
        key: &LeaseKey,
        budget: Duration,
    ) -> Result<Self, SshError> {
        within(budget, enter(access, key)).await
    }

    /// Writes a file with these permissions, and makes its directory when that is missing.
    ///
    /// # Errors
    /// When the lease has no SFTP or the file cannot be written.
    pub async fn upload(
        &self,
        path: &str,
        bytes: &[u8],
        mode: u32,
        budget: Duration,
    ) -> Result<(), SshError> {
        within(budget, self.write_file(path, bytes, mode)).await
    }

    /// Starts a command. Its output is read through the stream.
    ///
    /// # Errors
    /// When the lease refuses to start it.
    pub async fn exec(&self, command: &str, budget: Duration) -> Result<ExecStream, SshError> {
        within(budget, self.start(command)).await
    }

    /// Runs a command to its end without input and collects what it wrote, up to a limit.
    ///
    /// # Errors
    /// When it cannot be started, writes too much, or the connection ends first.
    pub async fn run(&self, command: &str, budget: Duration) -> Result<Ran, SshError> {
        within(budget, async {
            let stream = self.start(command).await?;
            stream.collect().await
        })
        .await
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// When the connection was gone already.
    pub async fn close(self) -> Result<(), SshError> {
        Ok(self.handle.disconnect(Disconnect::ByApplication, "done", "en").await?)
    }

    async fn start(&self, command: &str) -> Result<ExecStream, SshError> {
        let mut channel = self.handle.channel_open_session().await?;
        channel.exec(true, command).await?;
        wait_for_success(&mut channel, "the command").await?;
        Ok(ExecStream::new(channel))
    }

    async fn write_file(&self, path: &str, bytes: &[u8], mode: u32) -> Result<(), SshError> {
        let failed = |source| SshError::Sftp { path: path.to_owned(), source };
        let mut channel = self.handle.channel_open_session().await?;
        channel.request_subsystem(true, "sftp").await?;
        wait_for_success(&mut channel, "SFTP").await?;
        let sftp = SftpSession::new(channel.into_stream()).await.map_err(failed)?;
        sftp.set_timeout(SFTP_REQUEST_SECONDS);
        if let Some((directory, _)) = path.rsplit_once('/').filter(|(dir, _)| !dir.is_empty())
            && !sftp.try_exists(directory).await.map_err(failed)?
        {
            sftp.create_dir(directory).await.map_err(failed)?;
        }
        let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
        let mut attributes = FileAttributes::empty();
        attributes.permissions = Some(mode);
        let opened = sftp.open_with_flags_and_attributes(path, flags, attributes.clone()).await;
        let mut file = opened.map_err(failed)?;
        for chunk in bytes.chunks(UPLOAD_CHUNK_BYTES) {
            file.write_all(chunk).await.map_err(|error| failed(error.into()))?;
        }
        file.flush().await.map_err(|error| failed(error.into()))?;
        file.close().await.map_err(|error| failed(error.into()))?;
        // The file may have existed with other permissions, and a umask may have taken some away.
        sftp.set_metadata(path, attributes).await.map_err(failed)?;
        sftp.close().await.map_err(failed)
    }
}

impl std::fmt::Debug for LeaseSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseSession").field("closed", &self.handle.is_closed()).finish()
    }
}

async fn enter(access: &SshAccess, key: &LeaseKey) -> Result<LeaseSession, SshError> {
    let config = client::Config {
        nodelay: true,
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES_MAX,
        ..client::Config::default()
    };
    let stream =
        TcpStream::connect((access.host(), access.port())).await.map_err(SshError::Connect)?;
    stream.set_nodelay(true).map_err(SshError::Connect)?;
    let pinned = Pinned { host_key: access.host_key().clone() };
    let mut handle = client::connect_stream(Arc::new(config), stream, pinned).await?;
    let key = PrivateKeyWithHashAlg::new(key.private(), None);
    match handle.authenticate_publickey(access.user(), key).await? {
        AuthResult::Success => Ok(LeaseSession { handle }),
        AuthResult::Failure { .. } => Err(SshError::Denied),
    }
}

/// Waits for the answer to a channel request. Window changes may come before it; data may not.
async fn wait_for_success(
    channel: &mut russh::Channel<client::Msg>,
    what: &'static str,
) -> Result<(), SshError> {
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(()),
            Some(ChannelMsg::WindowAdjusted { .. }) => {}
            Some(_) => return Err(SshError::NotStarted(what)),
            None => return Err(SshError::Ended),
        }
    }
}
