//! Joins one SSH channel with one channel of the agent, in both directions at once, until either side ends.
//!
//! Every wait here is inside a `select` with the channel's end: the SSH library's writers never return once their
//! session is dead.

use std::sync::Arc;
use std::time::Duration;

use nicompute_agent::frames::{DATA_LEN_MAX, Exit, Frame, OpenRequest, to_vec};
use nicompute_daemon::CancellationToken;
use russh::server::{Handle, Msg};
use russh::{ChannelWriteHalf, Sig};
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use super::activity::Activity;
use super::lease::Lease;
use super::link::{Lost, OpenStream};
use super::stream::{End, Piece, printable};
use super::upload::Upload;
use super::{Shared, within};

/// What ssh itself exits with when the connection is at fault.
const EXIT_UNREACHABLE: u32 = 255;
/// How long what a client has sent may take to arrive after it has closed the connection.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// SSH's number for standard error.
const STDERR: u32 = 1;

/// Both ends of one channel.
#[derive(Debug)]
pub(super) struct Bridge {
    pub(super) shared: Arc<Shared>,
    pub(super) lease: Arc<Lease>,
    pub(super) upload: Arc<Upload>,
    pub(super) writer: ChannelWriteHalf<Msg>,
    pub(super) handle: Handle,
    /// Cancelled when the channel or its session is over; the bridge cancels it at its own end.
    pub(super) over: CancellationToken,
    pub(super) activity: Arc<Activity>,
    /// The channel's place among the lease's channels.
    pub(super) _place: OwnedSemaphorePermit,
}

/// Why nothing was started, in words for the renter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotOpened {
    #[error("the machine is not connected yet, or no longer; try again in a moment")]
    NoAgent,
    #[error("the machine does not answer; the lease may be paused")]
    Silent,
    #[error("the connection to the machine was lost")]
    Lost,
    #[error("the lease's agent is older than this node and cannot do that; restart the lease")]
    OldAgent,
    #[error("{0}")]
    Refused(String),
}

impl From<Lost> for NotOpened {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

/// What kind of channel the client has.
#[derive(Debug)]
enum Joined {
    Session,
    /// A session that shows notices as they come.
    Terminal(broadcast::Receiver<Arc<str>>),
    Connection,
}

impl Joined {
    /// The next notice; never, where none are shown.
    async fn notice(&mut self) -> Arc<str> {
        if let Self::Terminal(notices) = self {
            loop {
                match notices.recv().await {
                    Ok(text) => return text,
                    // What was missed is older than what is still there.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                }
            }
        }
        std::future::pending().await
    }
}

/// What a session shows on its terminal beside what its program says.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) greeting: Option<Arc<str>>,
    pub(super) notices: broadcast::Receiver<Arc<str>>,
}

/// The client is gone; there is nobody to tell.
struct ClientGone;

impl From<russh::Error> for ClientGone {
    fn from(_: russh::Error) -> Self {
        Self
    }
}

impl Bridge {
    /// Runs what a session channel asked for. The client has been told that it begins.
    pub(super) async fn run(self, request: OpenRequest, screen: Option<Screen>) {
        let over = self.over.clone();
        let work = async {
            let told = match open(&self.shared, &self.lease, request).await {
                Ok(stream) => match self.session(&stream, screen).await {
                    Ok(End::Closed(exit)) => self.end(exit).await,
                    Ok(End::Lost) => self.fail(&NotOpened::Lost).await,
                    Err(gone) => Err(gone),
                },
                Err(why) => self.fail(&why).await,
            };
            drop(told);
        };
        tokio::select! {
            () = over.cancelled() => {}
            () = work => {}
        }
        over.cancel();
    }

    /// Joins a channel that is a connection, once it is known that the connection stands.
    pub(super) async fn run_connection(self, stream: OpenStream) {
        let over = self.over.clone();
        let work = async {
            let pumped = tokio::select! {
                pumped = self.pump(&stream, Joined::Connection) => pumped,
                () = self.drained(&stream) => Err(ClientGone),
            };
            if pumped.is_ok() {
                // Closing says all that is left to say.
                drop(self.writer.close().await);
            }
        };
        tokio::select! {
            () = over.cancelled() => {}
            () = work => {}
        }
        over.cancel();
    }

    /// Waits until the client has closed a connection and what it sent has gone where it was sent to.
    async fn drained(&self, open: &OpenStream) {
        self.upload.until_abandoned().await;
        let sent = open.stream.settled(|| self.upload.waiting() == 0);
        let _ = within(&self.shared.clock, DRAIN_LIMIT, sent).await;
    }

    async fn session(&self, open: &OpenStream, screen: Option<Screen>) -> Result<End, ClientGone> {
        let Some(screen) = screen else { return self.pump(open, Joined::Session).await };
        if let Some(greeting) = &screen.greeting {
            self.writer.data_bytes(on_terminal(greeting)).await?;
        }
        self.pump(open, Joined::Terminal(screen.notices)).await
    }

    async fn pump(&self, open: &OpenStream, joined: Joined) -> Result<End, ClientGone> {
        tokio::select! {
            end = self.download(open, joined) => end,
            never = self.upload(open) => match never {},
        }
    }

    async fn download(&self, open: &OpenStream, mut joined: Joined) -> Result<End, ClientGone> {
        loop {
            let Piece { output, error, eof, end } = tokio::select! {
                biased;
                piece = open.stream.next() => piece,
                notice = joined.notice() => {
                    self.writer.data_bytes(notice_line(&notice)).await?;
                    continue;
                }
            };
            self.activity.touch();
            let count = u32::try_from(output.len() + error.len()).unwrap_or(u32::MAX);
            if !output.is_empty() {
                self.writer.data_bytes(output).await?;
            }
            if !error.is_empty() {
                self.writer.extended_data_bytes(STDERR, error).await?;
            }
            // A session's output ends with the session: an exit code or words may follow, and data after its end would
            // make the client drop the whole connection.
            if eof && matches!(joined, Joined::Connection) {
                self.writer.eof().await?;
            }
            if let Some(end) = end {
                return Ok(end);
            }
            if count > 0 {
                open.stream.reopen(count);
                // A lost agent shows at the next piece.
                let _ = open.link.send(to_vec(open.channel, &Frame::Credit(count))).await;
            }
        }
    }

    async fn upload(&self, open: &OpenStream) -> std::convert::Infallible {
        let most = u32::try_from(DATA_LEN_MAX).unwrap_or(u32::MAX);
        loop {
            let want = u32::try_from(self.upload.waiting()).unwrap_or(u32::MAX).min(most);
            let credit = open.stream.take_credit(want);
            let mut frames = Vec::new();
            self.upload.take(open.channel, usize::try_from(credit).unwrap_or(0), &mut frames);
            if frames.is_empty() {
                tokio::select! {
                    () = self.upload.changed() => {}
                    () = open.stream.granted(), if want > 0 => {}
                }
            } else if open.link.send(frames).await.is_err() {
                // The download notices the same and ends both.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn end(&self, exit: Option<Exit>) -> Result<(), ClientGone> {
        match exit {
            Some(Exit::Code(code)) => self.writer.exit_status(u32::from(code)).await?,
            Some(Exit::Signal { number, core_dumped }) => {
                let (id, name) = (self.writer.id(), signal_name(number));
                let sent = self.handle.exit_signal_request(
                    id,
                    name,
                    core_dumped,
                    String::new(),
                    "en".to_owned(),
                );
                sent.await.map_err(|()| ClientGone)?;
            }
            None => {}
        }
        self.writer.eof().await?;
        self.writer.close().await?;
        Ok(())
    }

    async fn fail(&self, why: &NotOpened) -> Result<(), ClientGone> {
        let text = format!("nicompute: {why}\r\n").into_bytes();
        self.writer.extended_data_bytes(STDERR, text).await?;
        self.writer.exit_status(EXIT_UNREACHABLE).await?;
        self.writer.eof().await?;
        self.writer.close().await?;
        Ok(())
    }
}

/// Waits for the agent and for its answer, each within the limit.
pub(super) async fn open(
    shared: &Shared,
    lease: &Lease,
    request: OpenRequest,
) -> Result<OpenStream, NotOpened> {
    Ok(open_with_port(shared, lease, request).await?.0)
}

/// The same, with the port of what listens.
pub(super) async fn open_with_port(
    shared: &Shared,
    lease: &Lease,
    request: OpenRequest,
) -> Result<(OpenStream, u16), NotOpened> {
    let (clock, limit) = (&shared.clock, shared.limits.agent);
    let agent = within(clock, limit, lease.wait_agent()).await.flatten();
    let agent = agent.ok_or(NotOpened::NoAgent)?;
    if !agent.knows(&request.target) {
        return Err(NotOpened::OldAgent);
    }
    let ask = async {
        let open = agent.open(request).await?;
        match open.stream.opened().await {
            Some(Ok(port)) => Ok((open, port)),
            Some(Err(reason)) => Err(NotOpened::Refused(reason)),
            None => Err(NotOpened::Lost),
        }
    };
    within(clock, limit, ask).await.unwrap_or(Err(NotOpened::Silent))
}

/// Lines as a terminal in raw mode shows them below each other, without what it would obey.
fn on_terminal(text: &str) -> Vec<u8> {
    text.lines().flat_map(|line| [printable(line), "\r\n".to_owned()]).collect::<String>().into()
}

fn notice_line(text: &str) -> Vec<u8> {
    format!("\r\n[nicompute] {}\r\n", printable(text)).into()
}

/// SSH names signals, Linux numbers them.
fn signal_name(number: u8) -> Sig {
    match number {
        1 => Sig::HUP,
        2 => Sig::INT,
        3 => Sig::QUIT,
        4 => Sig::ILL,
        6 => Sig::ABRT,
        8 => Sig::FPE,
        9 => Sig::KILL,
        10 => Sig::USR1,
        11 => Sig::SEGV,
        12 => Sig::Custom("USR2".to_owned()),
        13 => Sig::PIPE,
        14 => Sig::ALRM,
        15 => Sig::TERM,
        other => Sig::Custom(format!("{other}@nicompute")),
    }
}

/// The number of a signal that a client named; `None` for one that SSH does not know.
pub(super) fn signal_number(name: &Sig) -> Option<u8> {
    Some(match name {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(name) if name == "USR2" => 12,
        Sig::Custom(_) => return None,
    })
}
