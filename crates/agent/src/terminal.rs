//! Pseudo-terminals: made with the size and the modes that the client's own terminal has.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios,
    Winsize, tcgetattr, tcsetattr, tcsetwinsize,
};

use crate::frames::{TerminalRequest, WindowSize};

/// SSH's way to say that a special character is off.
const CHARACTER_OFF: u32 = 255;

/// Both ends of a new terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
    /// Its path inside the container, for SSH_TTY.
    pub(crate) path: Option<PathBuf>,
}

/// Opens a terminal as the client asked for.
pub(crate) fn open(request: &TerminalRequest) -> io::Result<Terminal> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    let mut modes = tcgetattr(&slave)?;
    for (code, value) in &request.modes {
        set_mode(&mut modes, *code, *value);
    }
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    resize(&master, request.size)?;
    let path = ptsname(&master, Vec::new()).ok().and_then(|path| path.into_string().ok());
    Ok(Terminal { master, slave, path: path.map(PathBuf::from) })
}

/// Changes the size; the foreground programs get SIGWINCH.
pub(crate) fn resize(master: impl AsFd, size: WindowSize) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: size.width_px,
        ws_ypixel: size.height_px,
    };
    Ok(tcsetwinsize(master, size)?)
}

/// Applies one mode by its number in RFC 4254, section 8. Unknown ones are no reason to refuse a terminal.
fn set_mode(modes: &mut Termios, code: u8, value: u32) {
    let on = value != 0;
    if let Some((_, index)) = CHARACTERS.iter().find(|(known, _)| *known == code) {
        let character = if value == CHARACTER_OFF { 0 } else { value };
        modes.special_codes[*index] = u8::try_from(character).unwrap_or_default();
    } else if let Some((_, flag)) = INPUT.iter().find(|(known, _)| *known == code) {
        modes.input_modes.set(*flag, on);
    } else if let Some((_, flag)) = LOCAL.iter().find(|(known, _)| *known == code) {
        modes.local_modes.set(*flag, on);
    } else if let Some((_, flag)) = OUTPUT.iter().find(|(known, _)| *known == code) {
        modes.output_modes.set(*flag, on);
    } else if let Some((_, flag)) = CONTROL.iter().find(|(known, _)| *known == code) {
        // Seven-bit characters are a part of the eight-bit mask: switching CS7 off must not switch CS8 off.
        if on {
            modes.control_modes.insert(*flag);
        }
    }
}

const CHARACTERS: &[(u8, SpecialCodeIndex)] = &[
    (1, SpecialCodeIndex::VINTR),
    (2, SpecialCodeIndex::VQUIT),
    (3, SpecialCodeIndex::VERASE),
    (4, SpecialCodeIndex::VKILL),
    (5, SpecialCodeIndex::VEOF),
    (6, SpecialCodeIndex::VEOL),
    (7, SpecialCodeIndex::VEOL2),
    (8, SpecialCodeIndex::VSTART),
    (9, SpecialCodeIndex::VSTOP),
    (10, SpecialCodeIndex::VSUSP),
    (12, SpecialCodeIndex::VREPRINT),
    (13, SpecialCodeIndex::VWERASE),
    (14, SpecialCodeIndex::VLNEXT),
    (16, SpecialCodeIndex::VSWTC),
    (18, SpecialCodeIndex::VDISCARD),
];

const INPUT: &[(u8, InputModes)] = &[
    (30, InputModes::IGNPAR),
    (31, InputModes::PARMRK),
    (32, InputModes::INPCK),
    (33, InputModes::ISTRIP),
    (34, InputModes::INLCR),
    (35, InputModes::IGNCR),
    (36, InputModes::ICRNL),
    (38, InputModes::IXON),
    (39, InputModes::IXANY),
    (40, InputModes::IXOFF),
    (41, InputModes::IMAXBEL),
    (42, InputModes::IUTF8),
];

const LOCAL: &[(u8, LocalModes)] = &[
    (50, LocalModes::ISIG),
    (51, LocalModes::ICANON),
    (53, LocalModes::ECHO),
    (54, LocalModes::ECHOE),
    (55, LocalModes::ECHOK),
    (56, LocalModes::ECHONL),
    (57, LocalModes::NOFLSH),
    (58, LocalModes::TOSTOP),
    (59, LocalModes::IEXTEN),
    (60, LocalModes::ECHOCTL),
    (61, LocalModes::ECHOKE),
    (62, LocalModes::PENDIN),
];

const OUTPUT: &[(u8, OutputModes)] = &[
    (70, OutputModes::OPOST),
    (72, OutputModes::ONLCR),
    (73, OutputModes::OCRNL),
    (74, OutputModes::ONOCR),
    (75, OutputModes::ONLRET),
];

const CONTROL: &[(u8, ControlModes)] = &[
    (90, ControlModes::CS7),
    (91, ControlModes::CS8),
    (92, ControlModes::PARENB),
    (93, ControlModes::PARODD),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal that ignores the client's modes eats the wrong backspace and prints at the wrong width.
    #[test]
    fn a_terminal_has_the_size_and_modes_asked_for() {
        let size = WindowSize { columns: 132, rows: 43, width_px: 0, height_px: 0 };
        let modes = vec![(3, 8), (1, CHARACTER_OFF), (53, 0), (42, 1), (90, 0), (200, 1)];
        let request = TerminalRequest { name: "xterm".to_owned(), size, modes };
        let terminal = match open(&request) {
            Ok(terminal) => terminal,
            Err(error) => {
                eprintln!("SKIPPED: no pseudo-terminals here: {error}");
                return;
            }
        };
        let set = tcgetattr(&terminal.slave).expect("reads");
        assert_eq!(set.special_codes[SpecialCodeIndex::VERASE], 8);
        assert_eq!(set.special_codes[SpecialCodeIndex::VINTR], 0);
        assert!(!set.local_modes.contains(LocalModes::ECHO));
        assert!(set.input_modes.contains(InputModes::IUTF8));
        assert!(set.control_modes.contains(ControlModes::CS8));
        let window = rustix::termios::tcgetwinsize(&terminal.slave).expect("reads");
        assert_eq!((window.ws_col, window.ws_row), (132, 43));
    }
}
