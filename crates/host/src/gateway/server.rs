//! Accepts SSH connections and watches over each from its first byte to its end.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::OnError;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::server::{Config, Handle};
use russh::{Disconnect, MethodKind, MethodSet, Preferred, SshId, cipher, compression};
use tokio::net::{TcpListener, TcpStream};

use super::lobby::LobbyPlace;
use super::session::{Client, Progress};
use super::socket::ClientSocket;
use super::stall::WINDOW_FULL;
use super::{HostKey, Limits, Shared, within};

/// What clients are greeted with; it says no version.
const SERVER_ID: &str = "SSH-2.0-nicompute";
/// A refused key is answered after this time, whoever asks for whatever. Keys cannot be guessed, so it need not be long,
/// and a client with five keys waits for it four times.
const REFUSAL_TIME: Duration = Duration::from_millis(50);
/// A client that is sent away has this long to read why.
const FAREWELL: Duration = Duration::from_secs(2);
/// Questions without an answer before a client counts as gone.
const KEEPALIVE_MAX: usize = 3;
/// After a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts accepting.
pub(super) fn start(shared: Arc<Shared>, listener: TcpListener, host_key: HostKey) {
    let config = Arc::new(config(&shared.limits, host_key));
    let tasks = shared.tasks.clone();
    tasks.spawn("ssh listener", OnError::Stop, async move {
        loop {
            let accepted = tokio::select! {
                () = shared.tasks.token().cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    shared.stats.connection();
                    let over = shared.tasks.token().child_token();
                    if let Some(place) = shared.lobby.enter(peer.ip(), over.clone()) {
                        let progress = Progress::new(over, shared.clock.clone());
                        spawn_connection(&shared, &config, (socket, peer), (progress, place));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "ssh connection not accepted");
                    shared.clock.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

fn spawn_connection(
    shared: &Arc<Shared>,
    config: &Arc<Config>,
    (socket, peer): (TcpStream, SocketAddr),
    (progress, place): (Progress, LobbyPlace),
) {
    let (shared, config) = (Arc::clone(shared), Arc::clone(config));
    let tasks = shared.tasks.clone();
    let connection = Connection { shared, peer, progress: Arc::new(progress) };
    tasks.spawn("ssh connection", OnError::Log, async move {
        if let Err(error) = connection.serve(config, socket, place).await {
            // Scanners end here all day; it is no news.
            tracing::debug!(%peer, %error, "ssh connection ended");
        }
        Ok(())
    });
}

struct Connection {
    shared: Arc<Shared>,
    peer: SocketAddr,
    progress: Arc<Progress>,
}

impl Connection {
    async fn serve(
        self,
        config: Arc<Config>,
        socket: TcpStream,
        place: LobbyPlace,
    ) -> Result<(), russh::Error> {
        let local = socket.local_addr()?;
        socket.set_nodelay(true)?;
        // A client whose machine went away is noticed by the kernel too, even while its channel is full and nobody reads.
        rustix::net::sockopt::set_socket_keepalive(&socket, true).map_err(std::io::Error::from)?;
        let progress = Arc::clone(&self.progress);
        let client = Client::new(Arc::clone(&self.shared), progress, self.peer, local);
        let socket = ClientSocket::new(socket, &self.progress.over);
        let mut login = std::pin::pin!(self.shared.clock.sleep(self.shared.limits.login));
        let running = tokio::select! {
            running = russh::server::run_stream(config, socket, client) => running?,
            () = &mut login => return Ok(()),
        };
        let handle = running.handle();
        tokio::select! {
            ended = running => ended,
            () = self.watch(&handle, place, login) => Ok(()),
        }
    }

    /// Ends the session when its time is over; else waits for ever.
    async fn watch(&self, handle: &Handle, place: LobbyPlace, login: impl Future<Output = ()>) {
        let (shared, progress) = (&self.shared, &self.progress);
        let inside = tokio::select! {
            biased;
            () = progress.known.cancelled() => true,
            () = progress.turned_away.cancelled() => {
                // The library waits for the client to close, which he need not do. His place in the lobby counts him.
                shared.clock.sleep(FAREWELL).await;
                false
            }
            () = login => false,
        };
        if !inside {
            progress.over.cancel();
            return std::future::pending::<()>().await;
        }
        place.leave();
        let end_of = async |limit: Option<Duration>| match limit {
            Some(limit) => shared.clock.sleep(limit).await,
            None => std::future::pending().await,
        };
        let idle = async {
            match shared.limits.idle {
                Some(limit) => progress.activity.idle_for(limit).await,
                None => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            () = end_of(shared.limits.total) => "the longest time of one connection is over",
            () = idle => "nothing was sent or received for too long",
        };
        let told = handle.disconnect(Disconnect::ByApplication, why.to_owned(), "en".to_owned());
        // A client that does not read is not told.
        drop(within(&shared.clock, FAREWELL, told).await);
        shared.clock.sleep(FAREWELL).await;
        progress.over.cancel();
        std::future::pending::<()>().await;
    }
}

fn config(limits: &Limits, host_key: HostKey) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed(SERVER_ID)),
        methods: MethodSet::from([MethodKind::PublicKey].as_slice()),
        auth_rejection_time: REFUSAL_TIME,
        // Every client begins with an attempt without a key, to learn what is possible; that is no guess.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key.into_private()],
        preferred: preferred(),
        max_auth_attempts: limits.auth_attempts,
        // A shell in which nobody types is not a dead one.
        inactivity_timeout: None,
        keepalive_interval: Some(limits.keepalive),
        keepalive_max: KEEPALIVE_MAX,
        nodelay: true,
        window_size: WINDOW_FULL,
        ..Config::default()
    }
}

fn preferred() -> Preferred {
    Preferred {
        key: Cow::Borrowed(&[
            Algorithm::Ed25519,
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
            Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
            Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
            // No host key is of these kinds; the list also says which kinds of clients' keys are taken.
            Algorithm::SkEd25519,
            Algorithm::SkEcdsaSha2NistP256,
        ]),
        cipher: Cow::Borrowed(&[
            cipher::CHACHA20_POLY1305,
            cipher::AES_128_GCM,
            cipher::AES_256_GCM,
            cipher::AES_256_CTR,
            cipher::AES_192_CTR,
            cipher::AES_128_CTR,
        ]),
        // A few kilobytes that unpack to gigabytes are not worth what they save.
        compression: Cow::Borrowed(&[compression::NONE]),
        ..Preferred::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standard() -> Config {
        let dir = tempfile::tempdir().expect("dir");
        let key = HostKey::load_or_create(&dir.path().join("key")).expect("a key");
        config(&Limits::standard(), key)
    }

    /// The library ends sessions after ten quiet minutes unless it is told not to; what it is told here has no such end,
    /// whatever the time, and asks often enough to notice a client that is gone.
    #[test]
    fn a_quiet_shell_is_asked_and_never_ended() {
        let config = standard();
        assert_eq!(config.inactivity_timeout, None);
        assert_eq!(config.keepalive_interval, Some(Duration::from_secs(30)));
        assert_eq!(config.keepalive_max, KEEPALIVE_MAX);
        assert_eq!(Limits::standard().idle, None);
        assert!(config.nodelay);
    }

    /// The library's own answers make every login wait for a second, and a password client for half a minute.
    #[test]
    fn refusals_are_quick_and_the_first_is_instant() {
        let config = standard();
        assert_eq!(config.auth_rejection_time_initial, Some(Duration::ZERO));
        assert!(config.auth_rejection_time <= Duration::from_millis(100));
    }
}
