//! A command that runs in a lease.

use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};

use crate::ssh::SshError;

/// Bytes of output, both streams together, that are collected of one command.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// The number of standard error among a channel's streams.
const STDERR: u32 = 1;

/// The input and the output of a running command. Dropping it closes the channel.
pub struct ExecStream {
    read: ChannelReadHalf,
    write: ChannelWriteHalf<Msg>,
}

/// What a running command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It wrote to standard output.
    Stdout(Vec<u8>),
    /// It wrote to standard error.
    Stderr(Vec<u8>),
    /// It ended with this status.
    Exited(u32),
    /// It was ended by a signal.
    Signalled(String),
}

/// A command that came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ran {
    /// Its exit status; absent when a signal ended it or the connection did.
    pub status: Option<u32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl ExecStream {
    pub(super) fn new(channel: russh::Channel<Msg>) -> Self {
        let (read, write) = channel.split();
        Self { read, write }
    }

    /// What the command does next; nothing once its channel is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<ExecEvent> {
        loop {
            match self.read.wait().await? {
                ChannelMsg::Data { data } => return Some(ExecEvent::Stdout(data.to_vec())),
                ChannelMsg::ExtendedData { data, ext: STDERR } => {
                    return Some(ExecEvent::Stderr(data.to_vec()));
                }
                ChannelMsg::ExitStatus { exit_status } => {
                    return Some(ExecEvent::Exited(exit_status));
                }
                ChannelMsg::ExitSignal { signal_name, .. } => {
                    return Some(ExecEvent::Signalled(format!("{signal_name:?}")));
                }
                _ => {}
            }
        }
    }

    /// Writes to the command's standard input.
    ///
    /// # Errors
    /// When the channel is closed.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), SshError> {
        Ok(self.write.data_bytes(bytes.to_vec()).await?)
    }

    /// Ends the command's standard input.
    ///
    /// # Errors
    /// When the channel is closed.
    pub async fn finish(&self) -> Result<(), SshError> {
        Ok(self.write.eof().await?)
    }

    /// Ends the input and collects everything until the channel is closed.
    pub(super) async fn collect(mut self) -> Result<Ran, SshError> {
        self.finish().await?;
        let mut ran = Ran::default();
        while let Some(event) = self.next().await {
            match event {
                ExecEvent::Stdout(data) => ran.stdout.extend_from_slice(&data),
                ExecEvent::Stderr(data) => ran.stderr.extend_from_slice(&data),
                ExecEvent::Exited(status) => ran.status = Some(status),
                ExecEvent::Signalled(_) => {}
            }
            if ran.stdout.len().saturating_add(ran.stderr.len()) > EXEC_OUTPUT_BYTES_MAX {
                return Err(SshError::TooLong { limit_bytes: EXEC_OUTPUT_BYTES_MAX });
            }
        }
        Ok(ran)
    }
}

impl std::fmt::Debug for ExecStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecStream").finish_non_exhaustive()
    }
}
