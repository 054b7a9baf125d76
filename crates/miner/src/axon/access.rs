//! Who may ask for what: the rule that 1.9.0 meant. (As it is coded, whoever is not on the list of the trusted passes.)

use std::collections::{BTreeMap, BTreeSet};

use nicompute_market::{AccountId, Hotkey, Rao};
use nicompute_wire::axon::AxonError;

use crate::subnet::Known;

/// The stake that a caller needs where the provider says nothing else: 1.9.0's 10,000.
pub const MIN_STAKE: Rao = Rao(10_000_000_000_000);
/// Accounts that may be kept out.
pub const BLOCKED_MAX: usize = 10_000;
/// Characters of a reason that is shown to whom it is about.
const REASON_CHARS_MAX: usize = 100;

/// Whom the v1.9.0 door lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessList {
    /// The stake that a caller needs.
    min_stake: Rao,
    /// Hotkeys and coldkeys that need no stake and no registration.
    trusted: BTreeSet<AccountId>,
    /// Hotkeys and coldkeys that are kept out, each with the reason that they are told.
    blocked: BTreeMap<AccountId, String>,
}

/// A list that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessListError {
    /// Above [`BLOCKED_MAX`].
    #[error("more than {BLOCKED_MAX} accounts are kept out")]
    TooMany,
    /// A line that is no account.
    #[error("line {line} begins with no SS58 address")]
    Line {
        /// Which, from one.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: nicompute_market::ParseAccountError,
    },
}

// === impl AccessList ===

impl AccessList {
    /// Lets in everybody who is registered with this stake.
    #[must_use]
    pub const fn new(min_stake: Rao) -> Self {
        Self { min_stake, trusted: BTreeSet::new(), blocked: BTreeMap::new() }
    }

    /// Lets a hotkey, or every hotkey of a coldkey, in without stake; one that is kept out stays out. Who owns a hotkey is
    /// known only while it is registered: one that is not is kept out by its own entry alone, and while the chain cannot say
    /// who is registered nobody is let in beside a list of who is kept out.
    pub fn trust(&mut self, account: AccountId) {
        self.trusted.insert(account);
    }

    /// Keeps a hotkey, or every hotkey of a coldkey, out.
    ///
    /// # Errors
    /// When there are too many.
    pub fn block(&mut self, account: AccountId, reason: &str) -> Result<(), AccessListError> {
        if self.blocked.len() >= BLOCKED_MAX && !self.blocked.contains_key(&account) {
            return Err(AccessListError::TooMany);
        }
        let shown = reason.chars().filter(|c| c.is_ascii_graphic() || *c == ' ');
        self.blocked.insert(account, shown.take(REASON_CHARS_MAX).collect());
        Ok(())
    }

    /// Keeps out everybody in a list: an address a line, its reason behind it, `#` before a remark.
    ///
    /// # Errors
    /// At the first line that is no address, and when there are too many.
    pub fn block_lines(&mut self, text: &str, reason: &str) -> Result<(), AccessListError> {
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (address, why) = line.split_once(char::is_whitespace).unwrap_or((line, reason));
            let at = index.saturating_add(1);
            let account =
                address.parse().map_err(|source| AccessListError::Line { line: at, source })?;
            self.block(account, why.trim())?;
        }
        Ok(())
    }
}

/// What the lists say about a caller, whatever its stake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listed {
    /// Kept out, and why.
    Blocked(String),
    /// Let in without stake or permit.
    Trusted,
    /// On no list.
    No,
}

impl AccessList {
    /// Looks for a hotkey and its owner. Both doors ask this.
    pub(crate) fn listed(&self, hotkey: &Hotkey, known: Known) -> Listed {
        let member = match known {
            Known::Member(member) => Some(member),
            Known::Stranger | Known::Unknown => None,
        };
        let accounts = [Some(hotkey.0), member.map(|member| member.coldkey.0)];
        let mut accounts = accounts.into_iter().flatten();
        if let Some(reason) = accounts.clone().find_map(|account| self.blocked.get(&account)) {
            return Listed::Blocked(reason.clone());
        }
        // Whether its owner is kept out cannot be told now.
        let unsure = known == Known::Unknown && !self.blocked.is_empty();
        if !unsure && accounts.any(|account| self.trusted.contains(&account)) {
            return Listed::Trusted;
        }
        Listed::No
    }
}

/// Whether this caller is let in, and with which stake.
pub(super) fn decide(list: &AccessList, hotkey: &Hotkey, known: Known) -> Result<Rao, AxonError> {
    let stake = match known {
        Known::Member(member) => member.stake,
        Known::Stranger | Known::Unknown => Rao(0),
    };
    match (list.listed(hotkey, known), known) {
        (Listed::Blocked(reason), _) => Err(AxonError::Blacklisted(reason)),
        (Listed::Trusted, _) => Ok(stake),
        (Listed::No, Known::Member(_)) if stake >= list.min_stake => Ok(stake),
        (Listed::No, Known::Member(_)) => {
            Err(AxonError::Blacklisted("Not enough stake!".to_owned()))
        }
        (Listed::No, Known::Stranger) => {
            Err(AxonError::Blacklisted("Unrecognized hotkey".to_owned()))
        }
        (Listed::No, Known::Unknown) => Err(AxonError::Unavailable(
            "the chain cannot be reached and it is not known who is registered",
        )),
    }
}

#[cfg(test)]
mod tests {
    use nicompute_market::Coldkey;

    use super::*;
    use crate::subnet::KnownMember;

    fn account(byte: u8) -> AccountId {
        AccountId::from_bytes([byte; 32])
    }

    fn member(coldkey: u8, stake: Rao) -> Known {
        Known::Member(KnownMember { coldkey: Coldkey(account(coldkey)), stake, permit: true })
    }

    fn words(list: &AccessList, hotkey: u8, known: Known) -> Result<Rao, String> {
        decide(list, &Hotkey(account(hotkey)), known).map_err(|error| error.to_string())
    }

    /// The original's rule is upside down: whoever nobody trusts passes every check.
    #[test]
    fn callers_need_registration_and_stake_and_no_entry_on_the_list() {
        let mut list = AccessList::new(MIN_STAKE);
        let refused = |reason: &str| Err(format!("Forbidden. Key is blacklisted: {reason}."));
        assert_eq!(words(&list, 1, member(9, MIN_STAKE)), Ok(MIN_STAKE));
        let less = Rao(MIN_STAKE.get() - 1);
        assert_eq!(words(&list, 1, member(9, less)), refused("Not enough stake!"));
        assert_eq!(words(&list, 1, Known::Stranger), refused("Unrecognized hotkey"));
        assert!(words(&list, 1, Known::Unknown).unwrap_err().contains("Service unavailable"));
        list.trust(account(1));
        list.trust(account(9));
        assert_eq!(words(&list, 1, Known::Stranger), Ok(Rao(0)));
        assert_eq!(words(&list, 1, Known::Unknown), Ok(Rao(0)));
        assert_eq!(words(&list, 2, member(9, Rao(5))), Ok(Rao(5)), "by its coldkey");
        list.block(account(9), "Blacklisted coldkey").unwrap();
        assert_eq!(words(&list, 2, member(9, MIN_STAKE)), refused("Blacklisted coldkey"));
        // The owner of a trusted hotkey may be the one who is kept out.
        assert!(words(&list, 1, Known::Unknown).unwrap_err().contains("Service unavailable"));
        list.block(account(1), "ex\nploiter\u{e9}").unwrap();
        assert_eq!(words(&list, 1, Known::Stranger), refused("exploiter"), "also the trusted");
    }

    /// A list with a line that was not understood would let somebody in.
    #[test]
    fn lists_are_read_whole_or_not_at_all() {
        let mut list = AccessList::new(Rao(0));
        let text = format!("# known\n\n{} resold GPUs # 2025\n  {}\n", account(1), account(2));
        list.block_lines(&text, "Suspected exploiter").unwrap();
        assert_eq!(list.blocked[&account(1)], "resold GPUs");
        assert_eq!(list.blocked[&account(2)], "Suspected exploiter");
        let bad = list.block_lines(&format!("{}\n5nonsense", account(3)), "x");
        assert!(matches!(bad, Err(AccessListError::Line { line: 2, .. })), "{bad:?}");
        let number = |index: usize| {
            let mut bytes = [7; 32];
            bytes[..8].copy_from_slice(&index.to_le_bytes());
            AccountId::from_bytes(bytes)
        };
        let mut list = AccessList::new(Rao(0));
        for index in 0..BLOCKED_MAX {
            list.block(number(index), "").unwrap();
        }
        assert_eq!(list.block(number(0), "again"), Ok(()));
        assert_eq!(list.block(account(1), ""), Err(AccessListError::TooMany));
    }
}
