//! Where secrets come from: a file, standard input, or the terminal with its echo off.
//!
//! Arguments are the worst place, since every user of the machine can read them; they are taken for compatibility, with
//! a warning. No secret is ever put into an error, and every buffer here is wiped.

use std::convert::Infallible;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::str::FromStr;

use clap::Args;
use nicompute_keys::Password;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};

/// Longest secret that is read: far more than 24 words or any password.
const SECRET_BYTES_MAX: usize = 4096;
/// Shortest new password. Bittensor's encryption has one salt for all the world, so that short ones are in a table.
const PASSWORD_CHARS_MIN: usize = 8;
const TERMINAL: &str = "/dev/tty";

/// A secret from the command line; `Debug` hides it, and it is parsed later so that no parser repeats it.
#[derive(Clone)]
pub(crate) struct SecretArg(pub(crate) Zeroizing<String>);

impl FromStr for SecretArg {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for SecretArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretArg(…)")
    }
}

/// How a new coldkey is locked.
#[derive(Debug, Clone, Args)]
pub(crate) struct LockArgs {
    /// Store the key unencrypted: whoever reads the file owns the coins. For test networks.
    #[arg(long, visible_alias = "no-use-password", conflicts_with = "password_file")]
    no_password: bool,
    /// Take the password from the first line of this file instead of asking on the terminal.
    #[arg(long, value_name = "FILE")]
    password_file: Option<std::path::PathBuf>,
}

/// How a new hotkey is locked. Daemons start without anybody to ask, so that the default is not at all.
#[derive(Debug, Clone, Args)]
pub(crate) struct OptionalLockArgs {
    /// Encrypt the hotkey too and ask for a password on the terminal. Daemons cannot use such a hotkey.
    #[arg(long)]
    use_password: bool,
    /// Encrypt the hotkey with the first line of this file.
    #[arg(long, value_name = "FILE")]
    password_file: Option<std::path::PathBuf>,
}

impl LockArgs {
    /// The new password, or `None` where none is wanted.
    pub(crate) fn password(&self) -> anyhow::Result<Option<Password>> {
        match &self.password_file {
            _ if self.no_password => Ok(None),
            Some(path) => new_password_from(path).map(Some),
            None => ask_new_password().map(Some),
        }
    }
}

impl OptionalLockArgs {
    /// The new password, or `None` where none is wanted.
    pub(crate) fn password(&self) -> anyhow::Result<Option<Password>> {
        match &self.password_file {
            Some(path) => new_password_from(path).map(Some),
            None if self.use_password => ask_new_password().map(Some),
            None => Ok(None),
        }
    }
}

/// Reads a whole secret from a file, or from standard input where the path is `-`.
pub(crate) fn read_secret(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let read = if path == Path::new("-") { bounded(io::stdin().lock()) } else { read_file(path) };
    let shown = path.display();
    let bytes = read.map_err(|error| {
        Failure::new(Exit::Config, format!("cannot read the secret from {shown}")).because(error)
    })?;
    if bytes.len() > SECRET_BYTES_MAX {
        let what = format!("{shown} is longer than {SECRET_BYTES_MAX} bytes and no secret of ours");
        return Err(Failure::new(Exit::Usage, what).hint("is this the right file?").into());
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::new(Exit::Usage, format!("{shown} does not hold text")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Asks on the terminal without echo; `None` where there is no terminal.
pub(crate) fn ask(question: &str) -> anyhow::Result<Option<Zeroizing<String>>> {
    let Ok(terminal) = OpenOptions::new().read(true).write(true).open(TERMINAL) else {
        return Ok(None);
    };
    let failed = |error| Failure::new(Exit::Failed, "cannot ask on the terminal").because(error);
    // The echo is off before anybody is asked: who answers at once is neither shown nor lost.
    let quiet = Quiet::new(&terminal).map_err(failed)?;
    let mut screen = quiet.terminal;
    write!(screen, "{question}: ").map_err(failed)?;
    let line = read_quietly(screen);
    writeln!(screen).map_err(failed)?;
    drop(quiet);
    match line.map_err(failed)? {
        Some(line) => Ok(Some(line)),
        None => Err(Failure::new(Exit::Failed, "given up on the terminal").into()),
    }
}

/// Says on standard error that a secret stood on the command line.
pub(crate) fn warn_about_argument(option: &str) {
    // A standard error that is closed is no reason to stop.
    drop(writeln!(
        io::stderr(),
        "warning: {option} can be read by every user of this machine and stays in the shell's history; \
         use a file or standard input instead"
    ));
}

// === private ===

fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    if fs::metadata(path)?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a folder"));
    }
    bounded(File::open(path)?)
}

/// Reads at most one byte more than the limit, into a buffer that never moves.
fn bounded(source: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let limit = SECRET_BYTES_MAX.saturating_add(1);
    let mut bytes = Zeroizing::new(vec![0; limit]);
    let mut filled = 0;
    let mut source = source.take(u64::try_from(limit).unwrap_or(u64::MAX));
    loop {
        match source.read(bytes.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(more) => filled = filled.saturating_add(more),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn new_password_from(path: &Path) -> anyhow::Result<Password> {
    let text = read_secret(path)?;
    checked(text.lines().next().unwrap_or_default())
}

fn ask_new_password() -> anyhow::Result<Password> {
    let none = || {
        Failure::new(Exit::Usage, "a password is needed and there is no terminal to ask on")
            .hint("give --password-file FILE, or --no-password for a test network")
    };
    let first = ask("password for the new key")?.ok_or_else(none)?;
    let password = checked(&first)?;
    let second = ask("the same password again")?.ok_or_else(none)?;
    if second != first {
        return Err(Failure::new(Exit::Usage, "the two passwords differ")
            .hint("nothing was written; start again")
            .into());
    }
    Ok(password)
}

fn checked(password: &str) -> anyhow::Result<Password> {
    let chars = password.chars().count();
    if chars < PASSWORD_CHARS_MIN {
        let what = format!("a password of {chars} characters is too short");
        let hint = format!("take {PASSWORD_CHARS_MIN} or more; several words are better still");
        return Err(Failure::new(Exit::Usage, what).hint(hint).into());
    }
    Ok(Password::new(password.to_owned()))
}

/// The terminal without echo, line editing and signals; as it was when dropped.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(terminal, OptionalActions::Flush, &modes)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // Nothing can be done where the terminal has gone.
        let _gone = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Reads a line byte by byte; `None` where the person gave up with Ctrl-C or Ctrl-D, or the terminal ended.
fn read_quietly(mut keys: impl Read) -> io::Result<Option<Zeroizing<String>>> {
    const CTRL_C: u8 = 0x03;
    const CTRL_D: u8 = 0x04;
    const BACKSPACE: [u8; 2] = [0x08, 0x7f];
    let mut line = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX));
    loop {
        let mut key = [0u8];
        if keys.read(&mut key)? == 0 {
            return Ok(None);
        }
        match key[0] {
            b'\n' | b'\r' => break,
            CTRL_C | CTRL_D => return Ok(None),
            key if BACKSPACE.contains(&key) => {
                // The continuation bytes of a character go with its first byte.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            _ if line.len() == SECRET_BYTES_MAX => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the line is too long"));
            }
            key => line.push(key),
        }
    }
    let text = std::str::from_utf8(&line)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the line is not UTF-8"))?;
    Ok(Some(Zeroizing::new(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Option<String> {
        read_quietly(keys).unwrap().map(|line| line.to_string())
    }

    /// A password that was corrected while typing must be the corrected one.
    #[test]
    fn keys_become_a_line() {
        assert_eq!(typed(b"abc\n"), Some("abc".to_owned()));
        assert_eq!(typed(b"ab\x7fc\r"), Some("ac".to_owned()));
        assert_eq!(typed("a\u{fc}\u{7f}\u{7f}\u{7f}b\n".as_bytes()), Some("b".to_owned()));
        assert_eq!(typed(b"abc\x03"), None);
        assert_eq!(typed(b"abc"), None);
        assert!(read_quietly(&b"\xff\n"[..]).is_err());
        assert!(read_quietly(&vec![b'a'; SECRET_BYTES_MAX + 1][..]).is_err());
        let longest = [&vec![b'a'; SECRET_BYTES_MAX][..], b"\n"].concat();
        assert_eq!(typed(&longest).map(|line| line.len()), Some(SECRET_BYTES_MAX));
    }

    /// A huge file given by mistake must be refused and not read into memory.
    #[test]
    fn secrets_are_bounded() {
        assert_eq!(bounded(io::repeat(b'a')).unwrap().len(), SECRET_BYTES_MAX + 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, vec![b'a'; SECRET_BYTES_MAX]).unwrap();
        assert_eq!(read_secret(&path).unwrap().len(), SECRET_BYTES_MAX);
        fs::write(&path, vec![b'a'; SECRET_BYTES_MAX + 1]).unwrap();
        assert!(read_secret(&path).is_err());
        assert!(read_secret(folder.path()).is_err());
    }

    /// A short password would protect nothing.
    #[test]
    fn short_passwords_are_refused() {
        assert!(checked("1234567").is_err());
        assert!(checked("").is_err());
        assert_eq!(checked("pässwörd").unwrap().expose(), "pässwörd");
    }
}
