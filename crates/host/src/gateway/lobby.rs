//! Connections whose clients are not known yet. A stranger costs a place here and nothing else; where places run out,
//! the oldest of whoever holds most makes room, since a login that is in earnest takes a fraction of a second.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nicompute_daemon::CancellationToken;

use super::attempts::origin;

/// The places.
#[derive(Debug)]
pub(super) struct Lobby {
    max: usize,
    per_address: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// In the order in which they came.
    places: BTreeMap<u64, (IpAddr, CancellationToken)>,
    counts: BTreeMap<IpAddr, usize>,
}

/// One place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct LobbyPlace {
    lobby: Arc<Lobby>,
    number: u64,
}

impl Lobby {
    pub(super) fn new(max: usize, per_address: usize) -> Self {
        Self { max, per_address, waiting: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, which the token ends. `None` only where there are no places at all.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        over: CancellationToken,
    ) -> Option<LobbyPlace> {
        let address = origin(address);
        let mut waiting = self.lock();
        while waiting.counts.get(&address).is_some_and(|count| *count >= self.per_address) {
            waiting.evict_oldest(address);
        }
        while waiting.places.len() >= self.max {
            waiting.evict_of_the_busiest()?;
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.places.insert(number, (address, over));
        *waiting.counts.entry(address).or_default() += 1;
        drop(waiting);
        Some(LobbyPlace { lobby: Arc::clone(self), number })
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lock().places.len()
    }
}

impl Waiting {
    /// Takes away the oldest place of whoever holds most; among equals the oldest of all, whatever the address.
    fn evict_of_the_busiest(&mut self) -> Option<()> {
        let most = *self.counts.values().max()?;
        let held = |from: &IpAddr| self.counts.get(from) == Some(&most);
        let oldest = self.places.iter().find(|(_, (from, _))| held(from));
        let number = oldest.map(|(number, _)| *number)?;
        self.remove(number);
        Some(())
    }

    fn evict_oldest(&mut self, address: IpAddr) {
        let oldest = self.places.iter().find(|(_, (from, _))| *from == address);
        match oldest.map(|(number, _)| *number) {
            Some(number) => self.remove(number),
            None => {
                self.counts.remove(&address);
            }
        }
    }

    /// Takes a place away and ends its connection, if it is not over or known already.
    fn remove(&mut self, number: u64) {
        let Some((address, over)) = self.places.remove(&number) else { return };
        over.cancel();
        if let Some(count) = self.counts.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&address);
            }
        }
    }
}

impl LobbyPlace {
    /// Gives the place back and leaves the connection as it is.
    pub(super) fn leave(self) {
        let mut waiting = self.lobby.lock();
        // A token of its own in the place of the connection's, which goes on.
        if let Some((_, over)) = waiting.places.get_mut(&self.number) {
            *over = CancellationToken::new();
        }
        drop(waiting);
        drop(self);
    }
}

impl Drop for LobbyPlace {
    fn drop(&mut self) {
        self.lobby.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// Strangers with one place each must not always push out the same client, for no reason but its address.
    #[test]
    fn among_equals_the_oldest_goes_whatever_its_address() {
        let lobby = Arc::new(Lobby::new(4, 2));
        let token = CancellationToken::new;
        let strangers: Vec<_> = (1..=3).map(|last| (ip(last), token())).collect();
        let mut places = Vec::new();
        for (address, over) in &strangers {
            places.extend(lobby.enter(*address, over.clone()));
        }
        let honest = token();
        let highest = "2001:db8::1".parse().expect("an address");
        places.extend(lobby.enter(highest, honest.clone()));
        for (number, (_, over)) in strangers.iter().enumerate() {
            let last = 10 + u8::try_from(number).expect("fits");
            places.extend(lobby.enter(ip(last), token()));
            assert!(over.is_cancelled() && !honest.is_cancelled(), "{number}");
        }
        places.extend(lobby.enter(ip(20), token()));
        assert!(honest.is_cancelled(), "its turn comes too");
        assert_eq!((places.len(), lobby.len()), (8, 4));
    }

    /// A flood from one address must end itself, not the logins of others.
    #[test]
    fn whoever_holds_most_makes_room() {
        let lobby = Arc::new(Lobby::new(4, 3));
        let tokens: Vec<_> = (0..10).map(|_| CancellationToken::new()).collect();
        let enter = |last, number: usize| lobby.enter(ip(last), tokens[number].clone());
        let _flood: Vec<_> = (0..4).map(|number| enter(1, number).expect("enters")).collect();
        assert!(tokens[0].is_cancelled() && !tokens[1].is_cancelled(), "three for each address");
        let _one = enter(2, 4);
        assert_eq!(lobby.len(), 4);
        let _two = enter(3, 5);
        assert!(tokens[1].is_cancelled(), "the busiest address makes room");
        assert!(!tokens[4].is_cancelled() && !tokens[5].is_cancelled());
        assert_eq!(lobby.len(), 4);
    }

    /// A client that became known must not be ended by the crowd behind it, and its place is free again.
    #[test]
    fn a_known_client_leaves_unharmed() {
        let lobby = Arc::new(Lobby::new(1, 1));
        let known = CancellationToken::new();
        lobby.enter(ip(1), known.clone()).expect("enters").leave();
        assert_eq!(lobby.len(), 0);
        let next = CancellationToken::new();
        let place = lobby.enter(ip(1), next.clone()).expect("enters");
        drop(place);
        assert!(!known.is_cancelled() && next.is_cancelled());
        assert!(Arc::new(Lobby::new(0, 1)).enter(ip(1), next).is_none());
    }
}
