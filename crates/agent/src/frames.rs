//! The frames between the agent and the gateway: `u8 kind, u32 channel, u32 length, payload`, big-endian.
//!
//! Pure: bytes in, frames out, nothing is read or written here. Decoding never allocates more than the frame holds and
//! never trusts a length before it is checked. Each channel has a credit window in each direction, so that a reader who
//! stalls on one channel holds back that channel alone.

use std::fmt;

mod open;

pub use open::{OpenRequest, OpenTarget, SocketPlace, TerminalRequest, WindowSize};

/// What the agent says in its first frame. The gateway answers with the same number where it knows it.
///
/// An agent lives as long as its container, so a newer gateway meets older agents: it speaks every version from
/// [`PROTOCOL_VERSION_MIN`] on and asks an older agent for nothing that its version lacks. A gateway older than the agent
/// turns it away. Version 2 added [`Frame::Listening`], [`Frame::Incoming`] and the requests from
/// [`OpenTarget::DialUnix`] on.
pub const PROTOCOL_VERSION: u16 = 2;
/// The oldest version that is still spoken.
pub const PROTOCOL_VERSION_MIN: u16 = 1;
/// The longest payload of any frame.
pub const FRAME_LEN_MAX: usize = 1 << 20;
/// The longest piece of channel data that our own side sends in one frame.
pub const DATA_LEN_MAX: usize = 64 * 1024;
/// Bytes of data that may be on their way in one direction of one channel.
pub const WINDOW: u32 = 512 * 1024;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 9;
/// The longest text in a refusal.
pub const REFUSAL_LEN_MAX: usize = 512;
/// The longest text that says where an accepted connection comes from.
pub const PEER_LEN_MAX: usize = 64;
/// Accepted connections of one listener that the gateway has been told of and has not fetched.
pub const INCOMING_MAX: usize = 16;
/// The channel number of frames that belong to no channel.
pub const CONTROL: u32 = 0;

/// One frame on one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// Which stream it belongs to; `CONTROL` for none.
    pub channel: u32,
    /// What it says.
    pub frame: Frame<'a>,
}

/// What a frame says. The payload of data is borrowed from the bytes it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// First frame of either side.
    Hello {
        /// The version that the sender speaks.
        version: u16,
    },
    /// Gateway: start something on a fresh channel.
    Open(OpenRequest),
    /// Agent: it runs.
    Opened,
    /// Agent: it could not be started; the channel is gone.
    Refused(&'a str),
    /// Standard input, or output and bytes of a connection.
    Data(&'a [u8]),
    /// Agent: standard error.
    ErrorData(&'a [u8]),
    /// No more data follows in this direction.
    Eof,
    /// The receiver of data has room for so many bytes more.
    Credit(u32),
    /// Gateway: the terminal's size changed.
    Resize(WindowSize),
    /// Gateway: send this signal to the channel's process group.
    Signal(u8),
    /// Agent: the process ended.
    Exit(Exit),
    /// Agent: it listens, on this port where it has one. The answer to a request to listen, in place of `Opened`.
    Listening {
        /// The port; 0 for a socket of a path.
        port: u16,
    },
    /// Agent: a connection came to a listener. It waits to be fetched by [`OpenTarget::Accept`].
    Incoming(Incoming<'a>),
    /// The channel is over. From the gateway: end what runs there. From the agent: nothing more follows.
    Close,
}

/// A connection that a listener accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// By what it is fetched; used once on one connection with the gateway.
    pub token: u32,
    /// The port that it comes from; 0 where there is none.
    pub port: u16,
    /// The address that it comes from, or nothing.
    pub peer: &'a str,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with a code.
    Code(u8),
    /// By a signal.
    Signal {
        /// The signal's number on Linux.
        number: u8,
        /// Whether a core was written.
        core_dumped: bool,
    },
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length over the limit.
    #[error("a frame of {0} bytes is over the limit of {FRAME_LEN_MAX}")]
    TooLong(usize),
    /// A kind that no version has.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// A payload that does not fit its kind.
    #[error("malformed payload of frame kind {0}")]
    Malformed(u8),
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const OPEN: u8 = 2;
    pub(super) const OPENED: u8 = 3;
    pub(super) const REFUSED: u8 = 4;
    pub(super) const DATA: u8 = 5;
    pub(super) const ERROR_DATA: u8 = 6;
    pub(super) const EOF: u8 = 7;
    pub(super) const CREDIT: u8 = 8;
    pub(super) const RESIZE: u8 = 9;
    pub(super) const SIGNAL: u8 = 10;
    pub(super) const EXIT: u8 = 11;
    pub(super) const CLOSE: u8 = 12;
    pub(super) const LISTENING: u8 = 13;
    pub(super) const INCOMING: u8 = 14;
}

/// The kind of a data frame whose payload the caller reads in place, see `data_header`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKind {
    /// Standard input, output, or a connection's bytes.
    Plain,
    /// Standard error.
    Error,
}

/// Reads the first frame of `bytes` and says how many bytes it took; `None` while it is incomplete.
///
/// # Errors
/// When the bytes cannot become a frame. The stream has lost its framing then and must be dropped.
pub fn parse(bytes: &[u8]) -> Result<Option<(Message<'_>, usize)>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let [kind, c0, c1, c2, c3, l0, l1, l2, l3] = *header;
    let channel = u32::from_be_bytes([c0, c1, c2, c3]);
    let len = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if len > FRAME_LEN_MAX {
        return Err(FrameError::TooLong(len));
    }
    let Some(payload) = rest.get(..len) else {
        return Ok(None);
    };
    let frame = parse_payload(kind, payload)?;
    Ok(Some((Message { channel, frame }, HEADER_LEN + len)))
}

/// Appends a frame to `out`.
pub fn encode(channel: u32, frame: &Frame<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    let kind = encode_payload(frame, out);
    patch_header(start, kind, channel, out);
}

/// A frame as bytes of its own.
#[must_use]
pub fn to_vec(channel: u32, frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(channel, frame, &mut out);
    out
}

/// Appends the place of a data frame's header; the caller appends the payload and then calls [`finish_data`].
pub fn begin_data(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    start
}

/// Writes the header of a data frame whose payload is everything after its place.
pub fn finish_data(start: usize, channel: u32, data: DataKind, out: &mut [u8]) {
    let kind = match data {
        DataKind::Plain => kind::DATA,
        DataKind::Error => kind::ERROR_DATA,
    };
    patch_header(start, kind, channel, out);
}

fn patch_header(start: usize, kind: u8, channel: u32, out: &mut [u8]) {
    let len = out.len().saturating_sub(start + HEADER_LEN);
    debug_assert!(len <= FRAME_LEN_MAX, "our own frames fit");
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    if let Some(header) = out.get_mut(start..start + HEADER_LEN) {
        header[0] = kind;
        header[1..5].copy_from_slice(&channel.to_be_bytes());
        header[5..9].copy_from_slice(&len.to_be_bytes());
    }
}

fn encode_payload(frame: &Frame<'_>, out: &mut Vec<u8>) -> u8 {
    match frame {
        Frame::Hello { version } => {
            out.extend_from_slice(&version.to_be_bytes());
            kind::HELLO
        }
        Frame::Open(request) => {
            request.encode(out);
            kind::OPEN
        }
        Frame::Opened => kind::OPENED,
        Frame::Refused(reason) => {
            let end = reason.floor_char_boundary(REFUSAL_LEN_MAX);
            out.extend_from_slice(&reason.as_bytes()[..end]);
            kind::REFUSED
        }
        Frame::Data(bytes) => {
            out.extend_from_slice(bytes);
            kind::DATA
        }
        Frame::ErrorData(bytes) => {
            out.extend_from_slice(bytes);
            kind::ERROR_DATA
        }
        Frame::Eof => kind::EOF,
        Frame::Credit(bytes) => {
            out.extend_from_slice(&bytes.to_be_bytes());
            kind::CREDIT
        }
        Frame::Resize(size) => {
            size.encode(out);
            kind::RESIZE
        }
        Frame::Signal(number) => {
            out.push(*number);
            kind::SIGNAL
        }
        Frame::Exit(exit) => {
            out.extend_from_slice(&match exit {
                Exit::Code(code) => [0, *code],
                Exit::Signal { number, core_dumped: false } => [1, *number],
                Exit::Signal { number, core_dumped: true } => [2, *number],
            });
            kind::EXIT
        }
        Frame::Listening { port } => {
            out.extend_from_slice(&port.to_be_bytes());
            kind::LISTENING
        }
        Frame::Incoming(incoming) => {
            out.extend_from_slice(&incoming.token.to_be_bytes());
            out.extend_from_slice(&incoming.port.to_be_bytes());
            let end = incoming.peer.floor_char_boundary(PEER_LEN_MAX);
            out.extend_from_slice(&incoming.peer.as_bytes()[..end]);
            kind::INCOMING
        }
        Frame::Close => kind::CLOSE,
    }
}

fn parse_payload(kind: u8, payload: &[u8]) -> Result<Frame<'_>, FrameError> {
    let malformed = FrameError::Malformed(kind);
    let empty = |frame| if payload.is_empty() { Ok(frame) } else { Err(malformed) };
    match kind {
        kind::HELLO => {
            let version = payload.try_into().map(u16::from_be_bytes).map_err(|_| malformed)?;
            Ok(Frame::Hello { version })
        }
        kind::OPEN => OpenRequest::decode(payload).map(Frame::Open).ok_or(malformed),
        kind::OPENED => empty(Frame::Opened),
        kind::REFUSED if payload.len() <= REFUSAL_LEN_MAX => {
            std::str::from_utf8(payload).map(Frame::Refused).map_err(|_| malformed)
        }
        // A data frame without data costs no credit: a flood of them would be free.
        kind::DATA if !payload.is_empty() => Ok(Frame::Data(payload)),
        kind::ERROR_DATA if !payload.is_empty() => Ok(Frame::ErrorData(payload)),
        kind::EOF => empty(Frame::Eof),
        kind::CREDIT => {
            let bytes = payload.try_into().map(u32::from_be_bytes).map_err(|_| malformed)?;
            if bytes == 0 { Err(malformed) } else { Ok(Frame::Credit(bytes)) }
        }
        kind::RESIZE => WindowSize::decode_all(payload).map(Frame::Resize).ok_or(malformed),
        kind::SIGNAL => match payload {
            [number @ 1..=64] => Ok(Frame::Signal(*number)),
            _ => Err(malformed),
        },
        kind::EXIT => match payload {
            [0, code] => Ok(Frame::Exit(Exit::Code(*code))),
            [core @ 1..=2, number @ 1..=64] => {
                Ok(Frame::Exit(Exit::Signal { number: *number, core_dumped: *core == 2 }))
            }
            _ => Err(malformed),
        },
        kind::CLOSE => empty(Frame::Close),
        kind::LISTENING => {
            let port = payload.try_into().map(u16::from_be_bytes).map_err(|_| malformed)?;
            Ok(Frame::Listening { port })
        }
        kind::INCOMING => parse_incoming(payload).map(Frame::Incoming).ok_or(malformed),
        kind::REFUSED | kind::DATA | kind::ERROR_DATA => Err(malformed),
        unknown => Err(FrameError::UnknownKind(unknown)),
    }
}

fn parse_incoming(payload: &[u8]) -> Option<Incoming<'_>> {
    let (token, rest) = payload.split_first_chunk()?;
    let (port, peer) = rest.split_first_chunk()?;
    let peer = std::str::from_utf8(peer).ok().filter(|peer| peer.len() <= PEER_LEN_MAX)?;
    Some(Incoming { token: u32::from_be_bytes(*token), port: u16::from_be_bytes(*port), peer })
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { number, .. } => write!(f, "signal {number}"),
        }
    }
}

#[cfg(test)]
mod tests;
