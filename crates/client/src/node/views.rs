//! Received views become values, or errors: nothing below this point checks them again.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use nicompute_market::{
    Hotkey, LeaseId, LeaseState, Machine, Offer, OfferId, Purpose, RuntimeKind, UnixMillis,
};
use nicompute_wire::hostkey;
use nicompute_wire::node::{
    LeaseView, NodeView, OFFERS_MAX, OffersView, PORTS_MAX, PublishedPortView, SshAccessView,
    SshDoorView, TEXT_CHARS_MAX, ViewError,
};

use crate::access::{AccessError, SshAccess, parse_host_key};
use crate::node::NodeError;

/// A node that said who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The provider.
    pub hotkey: Hotkey,
    /// The program's version, as it says.
    pub version: String,
    /// The runtime that tenants get.
    pub runtime: RuntimeKind,
    /// The whole machine: claims.
    pub machine: Machine,
    ip: IpAddr,
    ssh_port: u16,
    host_key: String,
}

/// A lease that this validator holds, as its provider sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// The lease.
    pub id: LeaseId,
    /// What is leased.
    pub offer: OfferId,
    /// What for.
    pub purpose: Purpose,
    /// Where it stands.
    pub state: LeaseState,
    /// Counts the changes.
    pub generation: u64,
    /// When it ends by itself, on the provider's clock.
    pub expires_at: UnixMillis,
    /// The image that runs.
    pub image: String,
    /// What is known about how it came to stand where it stands, as its provider says.
    pub detail: Option<String>,
    /// Whether a restart was asked for and is not done yet.
    pub restart_pending: bool,
    /// Where its ports are reached.
    pub ports: Vec<ReachedPort>,
    ssh: Option<SshAccessView>,
}

/// A port of a lease and where it is reached, as its provider says; always at the provider's own address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachedPort {
    /// The port inside.
    pub container_port: u16,
    /// Where it is reached.
    pub at: SocketAddr,
    /// Why nobody gets through now.
    pub problem: Option<String>,
}

// === impl Node ===

impl Node {
    pub(super) fn check(view: NodeView, provider: &Hotkey, ip: IpAddr) -> Result<Self, NodeError> {
        if view.hotkey != *provider {
            return Err(NodeError::Other("provider"));
        }
        if view.ssh.port == 0 {
            return Err(NodeError::Access(AccessError::Port));
        }
        let SshDoorView { host_key, host_key_signature, .. } = &view.ssh;
        let host_key =
            hostkey::verify(provider, host_key, host_key_signature).map_err(NodeError::HostKey)?;
        // The type that the text and its blob name is one that SSH clients know.
        parse_host_key(&host_key).map(drop)?;
        let unknown = ViewError { field: "runtime", problem: "is none that this version knows" };
        Ok(Self {
            hotkey: *provider,
            version: text("version", view.version)?,
            runtime: view.runtime.parse().map_err(|_| unknown)?,
            machine: view.machine.try_into()?,
            ip,
            ssh_port: view.ssh.port,
            host_key,
        })
    }

    /// How to enter a lease of this node, if it can be entered now: at the node's own address, with the host key that its
    /// hotkey vouches for. Only the user name is the lease's; whatever else the lease says must agree.
    ///
    /// # Errors
    /// When the lease names another gateway or a user name that no gateway gives out.
    pub fn access(&self, held: &HeldLease) -> Result<Option<SshAccess>, NodeError> {
        let Some(ssh) = &held.ssh else { return Ok(None) };
        if ssh.port != self.ssh_port || ssh.host_key.trim() != self.host_key {
            return Err(NodeError::Other("SSH gateway"));
        }
        let view = SshAccessView {
            host: self.ip.to_string(),
            port: self.ssh_port,
            user: ssh.user.clone(),
            host_key: self.host_key.clone(),
        };
        Ok(Some(SshAccess::check(&view)?))
    }
}

// === impl HeldLease ===

impl HeldLease {
    pub(super) fn check(
        view: LeaseView,
        asked: LeaseId,
        me: &Hotkey,
        ip: IpAddr,
    ) -> Result<Self, NodeError> {
        if view.id != asked {
            return Err(NodeError::Other("lease"));
        }
        if view.holder != *me {
            return Err(NodeError::Other("holder"));
        }
        Ok(Self {
            id: view.id,
            state: view.lease_state()?,
            purpose: view.lease_purpose()?,
            expires_at: view.expires_at(),
            generation: view.generation,
            offer: view.offer,
            image: text("image", view.image)?,
            detail: view.detail.map(|detail| text("detail", detail)).transpose()?,
            restart_pending: view.restart_pending,
            ports: ports(view.ports, ip)?,
            ssh: view.ssh,
        })
    }
}

// === impl ReachedPort ===

impl ReachedPort {
    /// The view of this, for an answer of our own.
    #[must_use]
    pub fn view(&self) -> PublishedPortView {
        PublishedPortView {
            container_port: self.container_port,
            host: self.at.ip().to_string(),
            port: self.at.port(),
            problem: self.problem.clone(),
        }
    }
}

/// Whatever address the provider writes: a renter is sent to the machine that the validator speaks to, and nowhere else.
fn ports(views: Vec<PublishedPortView>, ip: IpAddr) -> Result<Vec<ReachedPort>, ViewError> {
    let wrong = |problem| ViewError { field: "ports", problem };
    if views.len() > PORTS_MAX {
        return Err(wrong("lists more than 16"));
    }
    let inside: BTreeSet<u16> = views.iter().map(|view| view.container_port).collect();
    let outside: BTreeSet<u16> = views.iter().map(|view| view.port).collect();
    if inside.len() != views.len() || outside.len() != views.len() {
        return Err(wrong("lists a port twice"));
    }
    if inside.contains(&0) || outside.contains(&0) {
        return Err(wrong("lists port 0"));
    }
    let port = |view: PublishedPortView| {
        Ok(ReachedPort {
            container_port: view.container_port,
            at: SocketAddr::new(ip, view.port),
            problem: view.problem.map(|problem| text("problem", problem)).transpose()?,
        })
    };
    views.into_iter().map(port).collect()
}

pub(super) fn offers(view: OffersView) -> Result<Vec<Offer>, NodeError> {
    if view.offers.len() > OFFERS_MAX {
        return Err(NodeError::View(ViewError { field: "offers", problem: "lists more than 64" }));
    }
    let offers: Vec<Offer> =
        view.offers.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    let names: BTreeSet<&OfferId> = offers.iter().map(|offer| &offer.id).collect();
    if names.len() != offers.len() {
        return Err(NodeError::View(ViewError { field: "offers", problem: "lists an id twice" }));
    }
    Ok(offers)
}

fn text(field: &'static str, text: String) -> Result<String, ViewError> {
    let short = text.chars().count() <= TEXT_CHARS_MAX;
    if short && !text.chars().any(char::is_control) {
        Ok(text)
    } else {
        Err(ViewError { field, problem: "is too long or not printable" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEEDS: [&str; 3] = [
        r#"{"offers":[{"id":"a","machine":{"cpu_model":"c","cores":4,"memory_bytes":8,"disk_bytes":9,"gpus":[{"uuid":"GPU-1","name":"n","memory_bytes":5}]},"price_micro_usd_per_hour":1,"images":["i"],"runtime":"docker","limits":"enforced","available":true}]}"#,
        r#"{"hotkey":"5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY","version":"1","runtime":"sandbox","limits_enforced":true,"machine":{"cpu_model":"c","cores":4,"memory_bytes":8,"disk_bytes":9,"gpus":[]},"ssh":{"port":4444,"host_key":"ssh-ed25519 AAAA","host_key_signature":"0x00"}}"#,
        r#"{"id":"6f9619ff-8b86-4011-b42d-00c04fc964ff","offer":"a","purpose":"proof","holder":"5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY","state":"ended","reason":"lost","generation":1,"requested_at_unix_ms":1,"expires_at_unix_ms":2,"image":"i","ssh":{"host":"h","port":1,"user":"u","host_key":"k"},"ports":[{"container_port":80,"host":"203.0.113.7","port":20001,"problem":"p"},{"container_port":81,"host":"h","port":20002}]}"#,
    ];
    const PIECES: [&str; 12] = [
        "\"",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "-1",
        "1e999",
        "18446744073709551616",
        "null",
        "\\u0000",
    ];

    fn read_all(text: &str) {
        let me = Hotkey::from_bytes([1; 32]);
        let id = LeaseId::from_random_bytes([2; 16]);
        let ip = IpAddr::from([127, 0, 0, 1]);
        if let Ok(view) = serde_json::from_str::<OffersView>(text)
            && let Ok(offers) = offers(view)
        {
            assert!(offers.len() <= OFFERS_MAX);
            assert!(!format!("{offers:?}").contains("\\u{0}"), "control characters got through");
        }
        if let Ok(view) = serde_json::from_str::<NodeView>(text) {
            assert!(Node::check(view, &me, ip).is_err(), "nobody signed this host key");
        }
        if let Ok(view) = serde_json::from_str::<LeaseView>(text) {
            let (me, id) = (view.holder, if view.generation == 1 { view.id } else { id });
            if let Ok(held) = HeldLease::check(view, id, &me, ip) {
                assert!(held.ports.len() <= PORTS_MAX);
                assert!(held.ports.iter().all(|port| port.at.ip() == ip && port.at.port() != 0));
            }
        }
    }

    proptest! {
        /// A provider chooses every byte of its answers: no answer may bring a validator down.
        #[test]
        fn damaged_answers_never_panic(
            seed in 0..SEEDS.len(),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..PIECES.len(), 0..8_usize), 1..8),
        ) {
            let mut text = SEEDS[seed].to_owned();
            for (at, piece, cut) in edits {
                let start = at.index(text.len());
                let end = start.saturating_add(cut).min(text.len());
                if text.is_char_boundary(start) && text.is_char_boundary(end) {
                    text.replace_range(start..end, PIECES[piece]);
                }
            }
            read_all(&text);
        }

        /// The same for bytes that were never an answer.
        #[test]
        fn noise_never_panics(text in ".{0,400}") {
            read_all(&text);
        }
    }

    /// The seeds must be answers, or the mutations test nothing.
    #[test]
    fn the_seeds_are_answers() {
        let [offers_text, node, lease] = SEEDS;
        assert_eq!(offers(serde_json::from_str(offers_text).unwrap()).unwrap().len(), 1);
        serde_json::from_str::<NodeView>(node).unwrap();
        let view: LeaseView = serde_json::from_str(lease).unwrap();
        let (id, holder) = (view.id, view.holder);
        let ip = IpAddr::from([198, 51, 100, 7]);
        let held = HeldLease::check(view, id, &holder, ip).unwrap();
        assert_eq!(held.ports[0].view().host, "198.51.100.7", "not where the lease says");
    }

    /// A provider that lists ports without end, or one twice, would fill the market's store or confuse its renters.
    #[test]
    fn wrong_ports_are_refused() {
        let port = |container_port, port| PublishedPortView {
            container_port,
            host: "h".to_owned(),
            port,
            problem: None,
        };
        let ip = IpAddr::from([198, 51, 100, 7]);
        let many = (1..=17).map(|number| port(number, number)).collect::<Vec<_>>();
        assert!(ports(many[..16].to_vec(), ip).is_ok());
        let said =
            |problem: &str| PublishedPortView { problem: Some(problem.to_owned()), ..port(1, 1) };
        let long = "x".repeat(TEXT_CHARS_MAX + 1);
        for wrong in [
            many,
            vec![port(1, 0)],
            vec![port(0, 1)],
            vec![port(1, 1), port(1, 2)],
            vec![port(1, 1), port(2, 1)],
            vec![said("\u{1b}[2J")],
            vec![said(&long)],
        ] {
            assert!(ports(wrong.clone(), ip).is_err(), "{wrong:?}");
        }
    }
}
