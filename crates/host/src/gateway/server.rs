//! Accepts SSH connections and watches over each from its first byte to its end.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::OnError;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::session::{Client, Progress};
use super::socket::ClientSocket;
use super::{HostKey, Limits, Shared, within};

/// What clients are greeted with; it says no version.
const SERVER_ID: &str = "SSH-2.0-nicompute";
/// A refused key is answered after this time, whoever asks for whatever. Keys cannot be guessed, so it need not be long,
/// and a client with five keys waits for it four times.
const REFUSAL_TIME: Duration = Duration::from_millis(50);
/// Clients that say nothing are asked whether they are there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Questions without an answer before a client counts as gone.
const KEEPALIVE_MAX: usize = 3;
/// After a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts accepting.
pub(super) fn start(shared: Arc<Shared>, listener: TcpListener, host_key: HostKey) {
    let config = Arc::new(config(&shared.limits, host_key));
    let places = Arc::new(Semaphore::new(shared.limits.connections));
    let tasks = shared.tasks.clone();
    tasks.spawn("ssh listener", OnError::Stop, async move {
        loop {
            let accepted = tokio::select! {
                () = shared.tasks.token().cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    // Over the limit the connection is dropped at once: that costs the least and says the most.
                    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                        spawn_connection(&shared, &config, socket, peer, place);
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
    socket: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
) {
    let (shared, config) = (Arc::clone(shared), Arc::clone(config));
    let tasks = shared.tasks.clone();
    tasks.spawn("ssh connection", OnError::Log, async move {
        if let Err(error) = serve(shared, config, socket, peer).await {
            // Scanners end here all day; it is no news.
            tracing::debug!(%peer, %error, "ssh connection ended");
        }
        drop(place);
        Ok(())
    });
}

async fn serve(
    shared: Arc<Shared>,
    config: Arc<Config>,
    socket: TcpStream,
    peer: SocketAddr,
) -> Result<(), russh::Error> {
    let local = socket.local_addr()?;
    socket.set_nodelay(true)?;
    // A client whose machine went away is noticed by the kernel too, even while its channel is full and nobody reads.
    rustix::net::sockopt::set_socket_keepalive(&socket, true).map_err(std::io::Error::from)?;
    let progress = Arc::new(Progress {
        over: shared.tasks.token().child_token(),
        known: nicompute_daemon::CancellationToken::new(),
    });
    let client = Client::new(Arc::clone(&shared), Arc::clone(&progress), peer, local);
    let socket = ClientSocket::new(socket, &progress.over);
    let watch = async {
        if within(&shared.clock, shared.limits.login, progress.known.cancelled()).await.is_none() {
            progress.over.cancel();
        }
        std::future::pending::<()>().await;
    };
    let session = async { russh::server::run_stream(config, socket, client).await?.await };
    tokio::select! {
        ended = session => ended,
        () = watch => Ok(()),
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
        keepalive_interval: Some(KEEPALIVE_INTERVAL),
        keepalive_max: KEEPALIVE_MAX,
        nodelay: true,
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
