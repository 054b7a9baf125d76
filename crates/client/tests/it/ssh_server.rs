//! A small SSH server on loopback: `exec` that echoes or fails, and SFTP into memory.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use nicompute_client::LeaseKey;
use nicompute_daemon::{OnError, Tasks};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::server::{Auth, Config, Handler, Msg, Session};
use russh::{Channel, ChannelId};
use russh_sftp::protocol::{Attrs, FileAttributes, Handle, Name, OpenFlags, Status, StatusCode};

/// Path, bytes and permissions of what was uploaded.
pub(crate) type Files = Arc<Mutex<HashMap<String, (Vec<u8>, Option<u32>)>>>;

pub(crate) struct SshServer {
    pub(crate) address: SocketAddr,
    pub(crate) host_key: String,
    pub(crate) files: Files,
    _tasks: Tasks,
}

impl SshServer {
    /// A server that lets this key in.
    pub(crate) async fn start(key: &LeaseKey) -> Self {
        let host_key = PrivateKey::from(Ed25519Keypair::from_seed(&[9; 32]));
        let public = host_key.public_key().to_openssh().unwrap();
        let config = Arc::new(Config { keys: vec![host_key], ..Config::default() });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (files, allowed) = (Files::default(), key.public_openssh().unwrap());
        let tasks = Tasks::new();
        let kept = Arc::clone(&files);
        tasks.spawn("ssh server", OnError::Log, async move {
            loop {
                let (stream, _) = listener.accept().await?;
                let peer = Peer {
                    allowed: allowed.clone(),
                    files: Arc::clone(&kept),
                    channels: HashMap::new(),
                };
                drop(russh::server::run_stream(Arc::clone(&config), stream, peer).await);
            }
        });
        Self { address, host_key: public.trim_end().to_owned(), files, _tasks: tasks }
    }
}

struct Peer {
    allowed: String,
    files: Files,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Handler for Peer {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: russh::server::VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let shown = key.public_key.to_openssh().unwrap_or_default();
        Ok(if shown.trim_end() == self.allowed { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: russh::server::ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match data {
            b"refuse" => session.channel_failure(id)?,
            b"fail" => {
                session.channel_success(id)?;
                session.extended_data(id, 1, b"no".to_vec())?;
                session.exit_status_request(id, 7)?;
                session.close(id)?;
            }
            b"flood" => {
                session.channel_success(id)?;
                session.data(id, vec![0; 2 << 20])?;
                session.close(id)?;
            }
            // Echoes what comes in.
            _ => session.channel_success(id)?,
        }
        Ok(())
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        // The bytes of an SFTP channel go to its stream.
        if self.channels.contains_key(&id) {
            session.data(id, data.to_vec())?;
        }
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.channels.remove(&id).filter(|_| name == "sftp") {
            Some(channel) => {
                session.channel_success(id)?;
                let memory = Memory { files: Arc::clone(&self.files) };
                russh_sftp::server::run(channel.into_stream(), memory).await;
            }
            None => session.channel_failure(id)?,
        }
        Ok(())
    }
}

/// Files in memory; a handle is a path. No directory exists until it is made.
struct Memory {
    files: Files,
}

const fn done(id: u32) -> Status {
    Status {
        id,
        status_code: StatusCode::Ok,
        error_message: String::new(),
        language_tag: String::new(),
    }
}

impl russh_sftp::server::Handler for Memory {
    type Error = StatusCode;

    fn unimplemented(&self) -> Self::Error {
        StatusCode::OpUnsupported
    }

    async fn open(
        &mut self,
        id: u32,
        path: String,
        _flags: OpenFlags,
        attributes: FileAttributes,
    ) -> Result<Handle, Self::Error> {
        if path.starts_with("/readonly") {
            return Err(StatusCode::PermissionDenied);
        }
        let file = (Vec::new(), attributes.permissions);
        self.files.lock().unwrap().insert(path.clone(), file);
        Ok(Handle { id, handle: path })
    }

    async fn write(
        &mut self,
        id: u32,
        handle: String,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<Status, Self::Error> {
        let mut files = self.files.lock().unwrap();
        let (bytes, _) = files.get_mut(&handle).ok_or(StatusCode::NoSuchFile)?;
        let offset = usize::try_from(offset).unwrap();
        bytes.resize(bytes.len().max(offset + data.len()), 0);
        bytes[offset..offset + data.len()].copy_from_slice(&data);
        Ok(done(id))
    }

    async fn close(&mut self, id: u32, _handle: String) -> Result<Status, Self::Error> {
        Ok(done(id))
    }

    async fn setstat(
        &mut self,
        id: u32,
        path: String,
        attributes: FileAttributes,
    ) -> Result<Status, Self::Error> {
        let mut files = self.files.lock().unwrap();
        files.get_mut(&path).ok_or(StatusCode::NoSuchFile)?.1 = attributes.permissions;
        Ok(done(id))
    }

    async fn mkdir(
        &mut self,
        id: u32,
        path: String,
        _attributes: FileAttributes,
    ) -> Result<Status, Self::Error> {
        self.files.lock().unwrap().insert(path, (Vec::new(), None));
        Ok(done(id))
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, Self::Error> {
        let files = self.files.lock().unwrap();
        files
            .get(&path)
            .map(|_| Attrs { id, attrs: FileAttributes::empty() })
            .ok_or(StatusCode::NoSuchFile)
    }

    async fn realpath(&mut self, id: u32, path: String) -> Result<Name, Self::Error> {
        Ok(Name { id, files: vec![russh_sftp::protocol::File::dummy(path)] })
    }
}
