//! An order for a lease, from what somebody wants to a lease that may be stored. Everything that a caller can get wrong
//! is found here.

use nicompute_host::runtime::{
    self, ContainerSpec, Options, RootAccess, RuntimeError, Tmpfs, Volume,
};
use nicompute_market::{
    Conditions, Hotkey, KeySlot, LEASE_MILLIS_MAX, LEASE_MILLIS_MIN, Lease, LeaseId, LeaseKeys,
    LeaseNetwork, LeaseOptions, LegacyAccess, OfferId, PROOF_LEASE_MILLIS_MAX, Purpose,
    SSH_KEYS_MAX, Share, Terms, UnixMillis, VolumesAllowed,
};
use nicompute_wire::node::OptionsView;
use nicompute_wire::ssh_key::SshKey;
use sha2::{Digest as _, Sha256};

use super::Denied;
use crate::offers::{ImageChoice, Offers, Sold};
use crate::store::Words;

const MILLIS: u64 = 1000;

/// What somebody wants. The same order with the same id again is the same lease.
#[derive(Debug, Clone)]
pub struct Order {
    /// Drawn by the caller.
    pub id: LeaseId,
    /// What is leased.
    pub offer: OfferId,
    /// What for.
    pub purpose: Purpose,
    /// Who asks, and alone may change the lease.
    pub holder: Hotkey,
    /// As the caller wrote them.
    pub keys: LeaseKeys,
    /// The offer's first image where none is named.
    pub image: Option<String>,
    /// How long.
    pub duration_seconds: u64,
    /// How long in all, where it is to be extended as soon as it runs. The offer's conditions are held against this.
    pub full_seconds: Option<u64>,
    /// What is asked for beyond the offer's share.
    pub options: LeaseOptions,
    /// For an order that came through the v1.9.0 door: it may have no key, for it has a password.
    pub legacy: Option<LegacyAccess>,
}

impl Order {
    /// The keys as they are understood, and the words in which the lease is asked for. Neither depends on what the node
    /// offers by now, so that the same order again is known whatever has changed since.
    pub(super) fn read(&self) -> Result<(LeaseKeys, Words), Denied> {
        let keys = LeaseKeys {
            user: keys(KeySlot::User, &self.keys.user)?,
            terminal: keys(KeySlot::Terminal, self.keys.terminal.as_slice())?.pop(),
        };
        if keys.all().is_empty() && self.legacy.is_none() {
            return Err(Denied::BadKey("field ssh_keys is empty: nobody could enter".to_owned()));
        }
        let words = self.words(&keys);
        Ok((keys, words))
    }

    /// The lease that is asked for.
    pub(super) async fn check(
        self,
        keys: LeaseKeys,
        offers: &Offers,
        now: UnixMillis,
    ) -> Result<Lease, Denied> {
        let sold =
            offers.sold(&self.offer).ok_or_else(|| Denied::NoSuchOffer(self.offer.clone()))?;
        if let Some(uuid) = offers.absent().first_of(sold.share.gpus.iter()) {
            return Err(Denied::GpuMissing(uuid));
        }
        let duration_ms = duration_ms(self.duration_seconds, self.purpose)?;
        let full_ms = match self.full_seconds {
            Some(seconds) => self::duration_ms(seconds, self.purpose)?.max(duration_ms),
            None => duration_ms,
        };
        check_conditions(&self, &sold.conditions, full_ms, now)?;
        check_options(&self, &sold.share)?;
        let image = image(offers, &sold, self.purpose, self.image).await?;
        let terms = Terms {
            id: self.id,
            offer: self.offer,
            purpose: self.purpose,
            holder: self.holder,
            share: sold.share,
            price_per_hour: Some(sold.price_per_hour),
            keys,
            image,
            options: self.options,
            legacy: self.legacy,
        };
        Ok(Lease::requested(terms, now, duration_ms))
    }

    /// One text for everything that was said, with the keys as they are understood. What was not said leaves no trace, so
    /// that a request of before an update is the same after it.
    fn words(&self, keys: &LeaseKeys) -> Words {
        let mut said = vec![
            serde_json::json!(self.holder),
            serde_json::json!(self.offer),
            serde_json::json!(self.purpose.as_str()),
            serde_json::json!(keys.user),
            serde_json::json!(self.image),
            serde_json::json!(self.duration_seconds),
        ];
        let options = OptionsView::from(&self.options);
        if keys.terminal.is_some() || !options.is_empty() || self.legacy.is_some() {
            said.push(serde_json::json!(keys.terminal));
            said.push(serde_json::json!(options));
            said.push(serde_json::json!(
                self.legacy.as_ref().map(|legacy| hex::encode(legacy.owner_key_sha256))
            ));
        }
        Words(Sha256::digest(serde_json::Value::from(said).to_string()).into())
    }
}

/// What is asked again when a lease that waited is to be given its offer: its GPUs are there, and the offer is open until
/// the lease's end. An offer that is there no more has no conditions either: what is sold is what was asked for.
pub(super) fn still_fits(offers: &Offers, lease: &Lease, now: UnixMillis) -> Result<(), Denied> {
    if let Some(uuid) = offers.absent().first_of(lease.terms.share.gpus.iter()) {
        return Err(Denied::GpuMissing(uuid));
    }
    let Some(sold) = offers.sold(&lease.terms.offer) else { return Ok(()) };
    let end = now.saturating_add_millis(lease.duration_millis());
    check_end(&sold.conditions, end, now)
}

/// The new end of a lease whose holder wants so many seconds more from now.
pub(super) fn new_end(
    offers: &Offers,
    lease: &Lease,
    duration_seconds: u64,
    now: UnixMillis,
) -> Result<UnixMillis, Denied> {
    let until = now.saturating_add_millis(duration_seconds.saturating_mul(MILLIS));
    let latest = match lease.terms.purpose {
        Purpose::Proof => lease.requested_at.saturating_add_millis(PROOF_LEASE_MILLIS_MAX),
        Purpose::Rental => now.saturating_add_millis(LEASE_MILLIS_MAX),
    };
    if until > latest {
        return Err(too_long(lease.terms.purpose));
    }
    if let Some(sold) = offers.sold(&lease.terms.offer)
        && until > lease.expires_at
    {
        check_end(&sold.conditions, until, now)?;
        check_longest(&sold.conditions, lease, until)?;
    }
    Ok(until)
}

/// The keys of one slot in their canonical text, each once.
pub(super) fn keys(slot: KeySlot, texts: &[String]) -> Result<Vec<String>, Denied> {
    let (field, max) = match slot {
        KeySlot::User => ("ssh_keys", SSH_KEYS_MAX),
        KeySlot::Terminal => ("terminal_key", 1),
    };
    if texts.len() > max {
        let many = format!("field {field} has {} keys, at most {max} are taken", texts.len());
        return Err(Denied::BadKey(many));
    }
    let mut keys: Vec<String> = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let key: SshKey = text
            .parse()
            .map_err(|error| Denied::BadKey(format!("key {index} of field {field} {error}")))?;
        if !keys.iter().any(|known| known == key.as_str()) {
            keys.push(key.into_string());
        }
    }
    Ok(keys)
}

/// The options as runtimes take them.
pub(crate) fn host_options(options: &LeaseOptions) -> Options {
    let volumes = options.volumes.iter().map(|volume| Volume {
        name: volume.name.clone(),
        target: volume.target.clone(),
        bytes: volume.bytes,
    });
    let tmpfs =
        options.tmpfs.iter().map(|(target, bytes)| Tmpfs { target: target.clone(), bytes: *bytes });
    Options {
        class: options.class,
        shm_bytes: options.shm_bytes,
        root: if options.read_only_root { RootAccess::ReadOnly } else { RootAccess::Writable },
        volumes: volumes.collect(),
        tmpfs: tmpfs.collect(),
        environment: options.environment.clone(),
        network: match options.network {
            LeaseNetwork::None => runtime::Network::None,
            LeaseNetwork::Egress => runtime::Network::Egress,
        },
    }
}

/// Refuses what no runtime may be asked for, before anything is stored. Where things lie is no part of it.
fn check_options(order: &Order, share: &Share) -> Result<(), Denied> {
    let spec = ContainerSpec {
        lease: order.id,
        generation: 0,
        cores_milli: share.cores_milli,
        memory_bytes: share.memory_bytes,
        disk_bytes: share.disk_bytes,
        gpus: share.gpus.clone(),
        image: "image".to_owned(),
        dir: "/".into(),
        agent: "/".into(),
        masked_host_paths: Vec::new(),
        options: host_options(&order.options),
    };
    match spec.check() {
        Ok(()) => Ok(()),
        Err(RuntimeError::InvalidSpec { field, rule, .. }) => {
            Err(Denied::field(format!("options.{field}"), rule))
        }
        Err(error) => Err(error.into()),
    }
}

/// A proof takes an image that is there: it is too short to wait for one.
async fn image(
    offers: &Offers,
    sold: &Sold,
    purpose: Purpose,
    asked: Option<String>,
) -> Result<String, Denied> {
    match (offers.choose_image(sold, asked).await?, purpose) {
        (ImageChoice::Present(image), _) | (ImageChoice::Fetched(image), Purpose::Rental) => {
            Ok(image)
        }
        (ImageChoice::None, _) => Err(Denied::NoImages),
        (ImageChoice::Unknown | ImageChoice::Fetched(_), _) => Err(Denied::NoSuchImage),
    }
}

/// What the offer's owner takes. A proof may be as short as it likes.
fn check_conditions(
    order: &Order,
    conditions: &Conditions,
    duration_ms: u64,
    now: UnixMillis,
) -> Result<(), Denied> {
    let options = &order.options;
    if order.purpose == Purpose::Rental {
        // The v1.9.0 door stores its leases for a moment first, and holds them to the offer itself.
        let shortest = if order.legacy.is_some() { 0 } else { conditions.duration_millis_min };
        let longest = conditions.duration_millis_max;
        if !(shortest..=longest).contains(&duration_ms) {
            let problem = format!(
                "is not between {} and {}, which the offer takes",
                shortest / MILLIS,
                longest / MILLIS
            );
            return Err(Denied::field("duration_seconds", problem));
        }
    }
    check_end(conditions, now.saturating_add_millis(duration_ms), now)?;
    if !conditions.classes.contains(&options.class) {
        let problem = format!("is {}, which the offer does not have", options.class);
        return Err(Denied::field("options.class", problem));
    }
    if conditions.volumes == VolumesAllowed::No && !options.volumes.is_empty() {
        return Err(Denied::field("options.volumes", "are not given with this offer"));
    }
    if options.ports.len() > usize::from(conditions.ports_max) {
        let problem = format!("are more than {}, which the offer gives", conditions.ports_max);
        return Err(Denied::field("options.ports", problem));
    }
    if options.network > conditions.network {
        return Err(Denied::field("options.network", "is not given with this offer"));
    }
    Ok(())
}

/// Where the offer's owner bounds rentals, extending one does not take it over the bound.
fn check_longest(conditions: &Conditions, lease: &Lease, until: UnixMillis) -> Result<(), Denied> {
    let longest = conditions.duration_millis_max;
    let is_bounded = lease.terms.purpose == Purpose::Rental && longest < LEASE_MILLIS_MAX;
    if is_bounded && until.millis_since(lease.requested_at) > longest {
        let problem = format!("is too long: the offer takes {} in all", longest / MILLIS);
        return Err(Denied::field("duration_seconds", problem));
    }
    Ok(())
}

/// No lease lasts into a maintenance.
fn check_end(conditions: &Conditions, end: UnixMillis, now: UnixMillis) -> Result<(), Denied> {
    match conditions.latest_end(now) {
        Some(latest) if latest <= now => {
            Err(Denied::field("offer", "is closed for maintenance now"))
        }
        Some(latest) if end > latest => {
            let left = latest.millis_since(now) / MILLIS;
            let problem = format!("lasts into a maintenance: {left} is the longest now");
            Err(Denied::field("duration_seconds", problem))
        }
        _ => Ok(()),
    }
}

fn duration_ms(seconds: u64, purpose: Purpose) -> Result<u64, Denied> {
    let duration_ms = seconds.saturating_mul(MILLIS);
    if duration_ms < LEASE_MILLIS_MIN {
        return Err(Denied::field("duration_seconds", "is less than 10"));
    }
    let longest = match purpose {
        Purpose::Proof => PROOF_LEASE_MILLIS_MAX,
        Purpose::Rental => LEASE_MILLIS_MAX,
    };
    if duration_ms > longest { Err(too_long(purpose)) } else { Ok(duration_ms) }
}

fn too_long(purpose: Purpose) -> Denied {
    let problem = match purpose {
        Purpose::Proof => "is too long: a proof holds a machine for 600 s at most",
        Purpose::Rental => "is too long: a lease may end in 2678400 s (31 days) at most",
    };
    Denied::field("duration_seconds", problem)
}
