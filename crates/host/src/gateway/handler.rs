//! What the SSH library hears from a client, answered.

use nicompute_agent::frames::{OpenTarget, TerminalRequest, WindowSize};
use russh::keys::Algorithm;
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty, Sig};

use super::bridge::signal_number;
use super::forward::ForwardKey;
use super::lease::{Credential, Room};
use super::session::{Client, Entry, EntryKind, Outcome, StartTarget};
use super::stall::CREEP_PAUSE;

/// The longest terminal name.
const TERMINAL_NAME_MAX: usize = 64;
/// The longest host name in a forwarding request.
const HOST_LEN_MAX: usize = 255;
/// Where a client may ask for a connection to; SSH carries a number of 32 bits.
const PORTS: std::ops::RangeInclusive<u32> = 1..=65_535;

fn window_size(columns: u32, rows: u32, width: u32, height: u32) -> WindowSize {
    let clamp = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    WindowSize {
        columns: clamp(columns),
        rows: clamp(rows),
        width_px: clamp(width),
        height_px: clamp(height),
    }
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        Ok(self.refused(user))
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        let (address, now) = (self.peer.ip(), self.shared.clock.monotonic());
        match self.shared.leases.authorize_password(user, password, address, now).await {
            Some(admitted) => {
                self.admitted = Some(admitted);
                Ok(Auth::Accept)
            }
            None => {
                self.shared.stats.password_refused();
                Ok(self.refused(user))
            }
        }
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        let sha1 = matches!(offer.algorithm, Algorithm::Rsa { hash: None });
        let known = !sha1 && self.shared.leases.authorize(user, offer.public_key).is_some();
        Ok(if known { Auth::Accept } else { self.refused(user) })
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let Some(lease) = self.shared.leases.authorize(user, key.public_key) else {
            return Ok(self.refused(user));
        };
        self.admitted = Some((lease, Credential::Key(key.public_key.key_data().clone())));
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Outcome {
        let limits = &self.shared.limits;
        let room = Room {
            per_lease: limits.connections_per_lease,
            reserved: limits.connections_reserved_per_lease,
            total: limits.connections,
        };
        let over = self.progress.over.clone();
        if let Some((lease, credential)) = self.admitted.take() {
            self.came_by_password = matches!(credential, Credential::Password(_));
            self.place = lease.enter(credential, over, room);
        }
        if let Some(place) = &self.place {
            self.progress.known.cancel();
            self.shared.stats.login();
            place.lease().remember_password_off().await;
        } else {
            self.shared.stats.login_without_room();
            self.progress.turned_away.cancel();
            let text = "too many connections into this lease, or it has just ended";
            session.disconnect(Disconnect::TooManyConnections, text, "en")?;
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Outcome {
        match self.admit_channel() {
            Ok((lease, place)) => {
                let id = channel.id();
                // The reading half is dropped: data is taken in `data`, where each channel has its own room.
                let (_, writer) = channel.split();
                let idle = Some((writer, place));
                let entry = Entry { idle, ..self.entry(&lease, EntryKind::Session) };
                self.channels.insert(id, entry);
                reply.accept().await;
            }
            Err(why) => reply.reject(why).await,
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Outcome {
        let port = u16::try_from(port).ok().filter(|_| PORTS.contains(&port));
        let (Some(port), true) = (port, host.len() <= HOST_LEN_MAX) else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        let target = OpenTarget::Dial { host: host.to_owned(), port };
        self.connect(channel, target, reply, session.handle()).await
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Outcome {
        if path.len() > HOST_LEN_MAX || path.contains('\0') {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        }
        let target = OpenTarget::DialUnix { path: path.to_owned() };
        self.connect(channel, target, reply, session.handle()).await
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _: u32,
        _: u32,
        session: &mut Session,
    ) -> Outcome {
        if self.confirmed(id) {
            return Ok(());
        }
        session.disconnect(Disconnect::ProtocolError, "too many channels are confirmed late", "en")
    }

    async fn agent_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let path = self.forward_agent(session.handle()).await;
        let entry = self.channels.get_mut(&id).filter(|entry| entry.idle.is_some());
        Ok(path.zip(entry).is_some_and(|(path, entry)| {
            entry.variables.push(("SSH_AUTH_SOCK".to_owned(), path));
            true
        }))
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let bound = self.forward_port(address, *port, session.handle()).await;
        Ok(bound.is_some_and(|bound| {
            *port = bound;
            true
        }))
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.cancel_forward(&ForwardKey::Port(address.to_owned(), port)))
    }

    async fn streamlocal_forward(
        &mut self,
        path: &str,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.forward_socket(path, session.handle()).await)
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        path: &str,
        _: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.cancel_forward(&ForwardKey::Socket(path.to_owned())))
    }

    async fn channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Outcome {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Outcome {
        if let Some(entry) = self.channels.remove(&id) {
            // A session ends with its client; a connection ends when what was sent has arrived.
            if !(entry.upload.abandon() && entry.kind == EntryKind::Connection) {
                entry.over.cancel();
            }
        }
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Outcome {
        if let Some(entry) = self.channels.get(&id) {
            entry.upload.end();
        }
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], _: &mut Session) -> Outcome {
        self.progress.activity.touch();
        let stall = self.stall(id);
        if let Some(entry) = self.channels.get(&id) {
            entry.upload.push(data, &entry.over).await;
        }
        if self.window.is_creeping(stall, data.len()) {
            self.shared.clock.sleep(CREEP_PAUSE).await;
        }
        Ok(())
    }

    fn adjust_window(&mut self, id: ChannelId, _: u32) -> u32 {
        let stall = self.stall(id);
        self.window.after_refill(stall)
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Outcome {
        let plain = term.len() <= TERMINAL_NAME_MAX && !term.contains('\0');
        match self.channels.get_mut(&id).filter(|entry| plain && entry.idle.is_some()) {
            Some(entry) => {
                entry.terminal = Some(TerminalRequest {
                    name: term.to_owned(),
                    size: window_size(columns, rows, width, height),
                    modes: modes.iter().map(|(code, value)| (*code as u8, *value)).collect(),
                });
                session.channel_success(id)
            }
            None => session.channel_failure(id),
        }
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Outcome {
        session.channel_failure(id)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Outcome {
        // A program that a validator measures must not complain about a language that the image does not have.
        let silent = self.came_by_password && (name == "LANG" || name.starts_with("LC_"));
        let fits = |entry: &&mut Entry| !silent && entry.takes_variable(name, value);
        match self.channels.get_mut(&id).filter(fits) {
            Some(entry) => {
                entry.variables.push((name.to_owned(), value.to_owned()));
                session.channel_success(id)
            }
            None => session.channel_failure(id),
        }
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Outcome {
        self.start(id, StartTarget::Shell, session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Outcome {
        self.start(id, StartTarget::Exec(command.to_vec()), session)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Outcome {
        match name {
            "sftp" => self.start(id, StartTarget::Sftp, session),
            _ => session.channel_failure(id),
        }
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        _: &mut Session,
    ) -> Outcome {
        if let Some(entry) = self.channels.get(&id) {
            entry.upload.resize(window_size(columns, rows, width, height));
        }
        Ok(())
    }

    async fn signal(&mut self, id: ChannelId, signal: Sig, _: &mut Session) -> Outcome {
        if let (Some(entry), Some(number)) = (self.channels.get(&id), signal_number(&signal)) {
            entry.upload.signal(number);
        }
        Ok(())
    }
}
