//! What an `Open` frame asks for, and its bytes.

/// The longest command line.
const COMMAND_LEN_MAX: usize = 256 * 1024;
/// The longest name or value of a variable, terminal name, host name.
const TEXT_LEN_MAX: usize = 32 * 1024;
/// The most variables.
const VARIABLES_MAX: usize = 128;
/// The most terminal modes; SSH knows fewer.
const MODES_MAX: usize = 128;

/// Something to start on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRequest {
    /// What to start.
    pub target: OpenTarget,
    /// Variables for the process, already chosen by the gateway and chosen again by the agent.
    pub variables: Vec<(String, String)>,
}

/// The kinds of things to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenTarget {
    /// The login shell.
    Shell {
        /// On a terminal, as nearly always.
        terminal: Option<TerminalRequest>,
    },
    /// A command, run by the login shell's `-c`.
    Exec {
        /// The command line; any bytes.
        command: Vec<u8>,
        /// On a terminal.
        terminal: Option<TerminalRequest>,
    },
    /// The file transfer subsystem.
    Sftp,
    /// A TCP connection from inside the container.
    Dial {
        /// An address, or `localhost`.
        host: String,
        /// The port.
        port: u16,
    },
    /// A connection to a socket of the container's file system.
    DialUnix {
        /// Its path.
        path: String,
    },
    /// Listening on the container's own address 127.0.0.1.
    Listen {
        /// The port; 0 for a free one.
        port: u16,
    },
    /// Listening on a socket of the container's file system.
    ListenUnix {
        /// Its path.
        path: String,
        /// What is made with it.
        place: SocketPlace,
    },
    /// A connection that a listener accepted.
    Accept {
        /// What the agent called it.
        token: u32,
    },
}

/// What is made with a listening socket of the file system, and removed with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketPlace {
    /// The socket alone.
    Given,
    /// Its folder too, which must not exist and is open to the session's user alone.
    FreshFolder,
}

impl OpenTarget {
    /// The first version of the protocol that has it.
    #[must_use]
    pub const fn since_version(&self) -> u16 {
        match self {
            Self::Shell { .. } | Self::Exec { .. } | Self::Sftp | Self::Dial { .. } => 1,
            Self::DialUnix { .. }
            | Self::Listen { .. }
            | Self::ListenUnix { .. }
            | Self::Accept { .. } => 2,
        }
    }
}

/// The terminal that a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminalRequest {
    /// The value of TERM.
    pub name: String,
    /// Its size.
    pub size: WindowSize,
    /// Modes as SSH encodes them: opcode and value.
    pub modes: Vec<(u8, u32)>,
}

/// A terminal's size, in characters and in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
    /// Width in pixels.
    pub width_px: u16,
    /// Height in pixels.
    pub height_px: u16,
}

impl WindowSize {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        for value in [self.columns, self.rows, self.width_px, self.height_px] {
            out.extend_from_slice(&value.to_be_bytes());
        }
    }

    pub(super) fn decode_all(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let size = Self::decode(&mut reader)?;
        reader.0.is_empty().then_some(size)
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            columns: reader.u16()?,
            rows: reader.u16()?,
            width_px: reader.u16()?,
            height_px: reader.u16()?,
        })
    }
}

impl OpenRequest {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_len(self.variables.len(), out);
        for (name, value) in &self.variables {
            put_bytes(name.as_bytes(), out);
            put_bytes(value.as_bytes(), out);
        }
        match &self.target {
            OpenTarget::Shell { terminal } => {
                out.push(1);
                put_terminal(terminal.as_ref(), out);
            }
            OpenTarget::Exec { command, terminal } => {
                out.push(2);
                put_bytes(command, out);
                put_terminal(terminal.as_ref(), out);
            }
            OpenTarget::Sftp => out.push(3),
            OpenTarget::Dial { host, port } => {
                out.push(4);
                put_bytes(host.as_bytes(), out);
                out.extend_from_slice(&port.to_be_bytes());
            }
            OpenTarget::DialUnix { path } => {
                out.push(5);
                put_bytes(path.as_bytes(), out);
            }
            OpenTarget::Listen { port } => {
                out.push(6);
                out.extend_from_slice(&port.to_be_bytes());
            }
            OpenTarget::ListenUnix { path, place } => {
                out.push(match place {
                    SocketPlace::Given => 7,
                    SocketPlace::FreshFolder => 8,
                });
                put_bytes(path.as_bytes(), out);
            }
            OpenTarget::Accept { token } => {
                out.push(9);
                out.extend_from_slice(&token.to_be_bytes());
            }
        }
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let count = reader.len(VARIABLES_MAX)?;
        let mut variables = Vec::with_capacity(count);
        for _ in 0..count {
            variables.push((reader.text()?, reader.text()?));
        }
        let target = match reader.u8()? {
            1 => OpenTarget::Shell { terminal: reader.terminal()? },
            2 => OpenTarget::Exec {
                command: reader.bytes(COMMAND_LEN_MAX)?.to_vec(),
                terminal: reader.terminal()?,
            },
            3 => OpenTarget::Sftp,
            4 => OpenTarget::Dial { host: reader.text()?, port: reader.u16()? },
            5 => OpenTarget::DialUnix { path: reader.text()? },
            6 => OpenTarget::Listen { port: reader.u16()? },
            7 => OpenTarget::ListenUnix { path: reader.text()?, place: SocketPlace::Given },
            8 => OpenTarget::ListenUnix { path: reader.text()?, place: SocketPlace::FreshFolder },
            9 => OpenTarget::Accept { token: reader.u32()? },
            _ => return None,
        };
        reader.0.is_empty().then_some(Self { target, variables })
    }

    /// Whether every part of it is within what the other side accepts.
    #[must_use]
    pub fn fits(&self) -> bool {
        let text = |text: &str| text.len() <= TEXT_LEN_MAX;
        let terminal = |terminal: &Option<TerminalRequest>| {
            terminal.as_ref().is_none_or(|t| text(&t.name) && t.modes.len() <= MODES_MAX)
        };
        let target = match &self.target {
            OpenTarget::Shell { terminal: t } => terminal(t),
            OpenTarget::Exec { command, terminal: t } => {
                command.len() <= COMMAND_LEN_MAX && terminal(t)
            }
            OpenTarget::Sftp | OpenTarget::Listen { .. } | OpenTarget::Accept { .. } => true,
            OpenTarget::Dial { host, .. } => text(host),
            OpenTarget::DialUnix { path } | OpenTarget::ListenUnix { path, .. } => text(path),
        };
        let total: usize =
            self.variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        target && self.variables.len() <= VARIABLES_MAX && total <= TEXT_LEN_MAX
    }
}

fn put_len(len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_len(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn put_terminal(terminal: Option<&TerminalRequest>, out: &mut Vec<u8>) {
    let Some(terminal) = terminal else {
        out.push(0);
        return;
    };
    out.push(1);
    put_bytes(terminal.name.as_bytes(), out);
    terminal.size.encode(out);
    put_len(terminal.modes.len(), out);
    for (code, value) in &terminal.modes {
        out.push(*code);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn len(&mut self, max: usize) -> Option<usize> {
        usize::try_from(self.u32()?).ok().filter(|len| *len <= max)
    }

    fn bytes(&mut self, max: usize) -> Option<&'a [u8]> {
        let len = self.len(max)?;
        self.take(len)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes(TEXT_LEN_MAX)?.to_vec()).ok()
    }

    fn terminal(&mut self) -> Option<Option<TerminalRequest>> {
        match self.u8()? {
            0 => Some(None),
            1 => {
                let name = self.text()?;
                let size = WindowSize::decode(self)?;
                let count = self.len(MODES_MAX)?;
                let mut modes = Vec::with_capacity(count);
                for _ in 0..count {
                    modes.push((self.u8()?, self.u32()?));
                }
                Some(Some(TerminalRequest { name, size, modes }))
            }
            _ => None,
        }
    }
}
