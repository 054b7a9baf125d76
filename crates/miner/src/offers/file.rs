//! The file that says what a node offers: read whole, checked whole against the machine, or not used at all.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nicompute_host::runtime::{ImagePattern, Limits};
use nicompute_market::{
    Conditions, LEASE_MILLIS_MAX, LEASE_MILLIS_MIN, LeaseNetwork, LimitsHeld, Machine, MicroUsd,
    OfferId, RuntimeClass, Share, VolumesAllowed, Window,
};
use nicompute_wire::node::{FETCHES_MAX, IMAGES_MAX, OFFERS_MAX, PORTS_MAX, WINDOWS_MAX};
use serde::Deserialize;
use toml::{Spanned, Value};

use super::text::{bytes, millis, moment};

/// Bytes of the file.
pub const OFFERS_FILE_BYTES_MAX: u64 = 1 << 20;
const THOUSANDTHS: u32 = 1000;

/// What the offers of a file are held against.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// All that is for rent.
    pub(super) machine: Machine,
    pub(super) classes: Vec<RuntimeClass>,
    pub(super) limits: Limits,
    pub(super) network: LeaseNetwork,
    pub(super) ports_max: u16,
    /// What an offer that names nothing else is fetched for.
    pub(super) fetches: Vec<String>,
    /// Disk of all offers together: what is free, and what leases have written since it was.
    pub(super) disk_bytes: u64,
}

/// One offer as its owner defined it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Defined {
    pub(super) id: OfferId,
    pub(super) machine: Machine,
    pub(super) share: Share,
    pub(super) price_per_hour: MicroUsd,
    pub(super) conditions: Conditions,
    /// Patterns of images; every image that is there where there is none.
    pub(super) images: Option<Vec<String>>,
}

/// Why an offers file is not used.
#[derive(Debug, thiserror::Error)]
pub enum OffersError {
    /// It cannot be read.
    #[error("cannot read the offers file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is wrong, in one place or in several.
    #[error("the offers file {} is wrong: {}", path.display(), shown(problems))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Each with its place.
        problems: Vec<OfferProblem>,
    },
}

/// One thing that is wrong in an offers file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferProblem {
    /// Which line, from one.
    pub line: usize,
    /// Which field, or the whole file.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default, rename = "offer")]
    offers: Vec<Spanned<Section>>,
}

/// One `[[offer]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    id: Spanned<String>,
    /// `"all"`, or a list of UUIDs; none where it is left out.
    gpus: Option<Spanned<Value>>,
    cores: Option<Spanned<u32>>,
    cores_milli: Option<Spanned<u32>>,
    memory: Option<Spanned<Value>>,
    disk: Option<Spanned<Value>>,
    price_micro_usd_per_hour: Option<Spanned<u64>>,
    price_micro_usd_per_gpu_hour: Option<Spanned<u64>>,
    min_duration: Option<Spanned<String>>,
    max_duration: Option<Spanned<String>>,
    images: Option<Spanned<Vec<String>>>,
    fetch: Option<Spanned<Vec<String>>>,
    classes: Option<Spanned<Vec<String>>>,
    volumes: Option<bool>,
    ports: Option<Spanned<u16>>,
    network: Option<Spanned<String>>,
    /// `"all"` refuses an offer whose every limit cannot be held.
    enforce: Option<Spanned<String>>,
    /// Further offers like this one, `id-1`, `id-2` and so on.
    copies: Option<Spanned<u16>>,
    #[serde(default)]
    maintenance: Vec<Spanned<WindowText>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowText {
    from: toml::value::Datetime,
    until: toml::value::Datetime,
}

/// Collects what is wrong, so that it is all said at once.
struct Check<'a> {
    text: &'a str,
    ground: &'a Ground,
    problems: Vec<OfferProblem>,
}

/// Reads and checks a file.
pub(super) fn read(path: &Path, ground: &Ground) -> Result<Vec<Defined>, OffersError> {
    let failed = |source| OffersError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    let wrong = |problems| OffersError::Wrong { path: path.to_owned(), problems };
    if length > OFFERS_FILE_BYTES_MAX {
        return Err(wrong(vec![OfferProblem {
            line: 1,
            field: "file".to_owned(),
            problem: "has more than 1 MiB".to_owned(),
            remedy: "name fewer offers",
        }]));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse(&text, ground).map_err(wrong)
}

/// Every offer of a text, or everything that is wrong with it.
pub(super) fn parse(text: &str, ground: &Ground) -> Result<Vec<Defined>, Vec<OfferProblem>> {
    let mut check = Check { text, ground, problems: Vec::new() };
    let sections = match toml::from_str::<Text>(text) {
        Ok(read) => read.offers,
        Err(error) => {
            let at = error.span().unwrap_or(0..0);
            check.say(&at, "file", error.message(), "see docs/operate/offers.md for the fields");
            return Err(check.problems);
        }
    };
    let mut all: Vec<(Range<usize>, Defined)> = Vec::new();
    for section in sections {
        let at = section.span();
        check.section(section.get_ref(), &at, &mut all);
    }
    check.together(&all);
    if check.problems.is_empty() {
        Ok(all.into_iter().map(|(_, defined)| defined).collect())
    } else {
        Err(check.problems)
    }
}

impl Check<'_> {
    fn say(&mut self, at: &Range<usize>, field: &str, problem: &str, remedy: &'static str) {
        let before = self.text.get(..at.start).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        let problem = problem.replace('\n', " ").trim().to_owned();
        self.problems.push(OfferProblem { line, field: field.to_owned(), problem, remedy });
    }

    /// One section, with its copies.
    fn section(
        &mut self,
        section: &Section,
        at: &Range<usize>,
        all: &mut Vec<(Range<usize>, Defined)>,
    ) {
        let gpus = self.gpus(section.gpus.as_ref());
        let share = self.share(section, gpus, at);
        let conditions = self.conditions(section);
        let price_per_hour = self.price(section, share.gpus.len(), at);
        let images = section.images.as_ref().map(|images| {
            if images.get_ref().len() > IMAGES_MAX {
                self.say(&images.span(), "images", "has more than 64 entries", "name fewer");
            }
            images.get_ref().clone()
        });
        let copies = section.copies.as_ref().map_or(1, |copies| *copies.get_ref());
        if let Some(copies) = &section.copies
            && (!share.gpus.is_empty() || *copies.get_ref() == 0)
        {
            let remedy = "name each offer with GPUs by itself; give at least 1 copy";
            self.say(&copies.span(), "copies", "does not fit this offer", remedy);
            return;
        }
        let machine = Machine {
            cpu_model: self.ground.machine.cpu_model.clone(),
            // Whole ones: half a core is none for whoever asks for one. What is sold says the lease's share.
            cores: share.cores_milli / THOUSANDTHS,
            memory_bytes: share.memory_bytes,
            disk_bytes: share.disk_bytes,
            gpus: self
                .ground
                .machine
                .gpus
                .iter()
                .filter(|gpu| share.gpus.contains(&gpu.uuid))
                .cloned()
                .collect(),
        };
        for copy in 1..=copies {
            let named = match &section.copies {
                Some(_) => format!("{}-{copy}", section.id.get_ref()),
                None => section.id.get_ref().clone(),
            };
            let Ok(id) = named.parse::<OfferId>() else {
                let problem = "is no name of an offer";
                self.say(&section.id.span(), "id", problem, "use 1 to 64 of a-z, 0-9 and '-'");
                return;
            };
            let (machine, share) = (machine.clone(), share.clone());
            let (conditions, images) = (conditions.clone(), images.clone());
            let defined = Defined { id, machine, share, price_per_hour, conditions, images };
            all.push((at.clone(), defined));
            // No more than what is refused anyway.
            if all.len() > OFFERS_MAX {
                return;
            }
        }
    }

    /// The UUIDs that an offer names; each must be on this machine.
    fn gpus(&mut self, gpus: Option<&Spanned<Value>>) -> Vec<String> {
        const REMEDY: &str = "write \"all\" or a list of UUIDs, as nvidia-smi -L shows them";
        let Some(gpus) = gpus else { return Vec::new() };
        let known = &self.ground.machine.gpus;
        let named: Vec<String> = match gpus.get_ref() {
            Value::String(all) if all == "all" => {
                return known.iter().map(|gpu| gpu.uuid.clone()).collect();
            }
            Value::Array(list) if list.iter().all(Value::is_str) => {
                list.iter().filter_map(|uuid| uuid.as_str().map(str::to_owned)).collect()
            }
            _ => {
                self.say(&gpus.span(), "gpus", "is neither \"all\" nor a list of texts", REMEDY);
                return Vec::new();
            }
        };
        for (index, uuid) in named.iter().enumerate() {
            if named[..index].contains(uuid) {
                self.say(&gpus.span(), "gpus", &format!("names {uuid:?} twice"), REMEDY);
            } else if !known.iter().any(|gpu| gpu.uuid == *uuid) {
                let problem = format!("names {uuid:?}, which is not for rent on this machine");
                self.say(&gpus.span(), "gpus", &problem, REMEDY);
            }
        }
        named
    }

    /// What of the machine it is: as much as it says, or as large a part as it has of the GPUs.
    fn share(&mut self, section: &Section, gpus: Vec<String>, at: &Range<usize>) -> Share {
        let whole = &self.ground.machine;
        let (part, parts) = match (gpus.len(), whole.gpus.len()) {
            (_, 0) => (1, 1),
            (part, parts) => (part, parts),
        };
        let part = (u64::try_from(part).unwrap_or(u64::MAX), u64::try_from(parts).unwrap_or(1));
        let of = |amount: u64| amount.saturating_mul(part.0) / part.1;
        let whole_milli = whole.cores.saturating_mul(THOUSANDTHS);
        let (memory_all, disk_all) = (whole.memory_bytes, whole.disk_bytes);
        let cores_milli = match (&section.cores, &section.cores_milli) {
            (Some(_), Some(milli)) => {
                self.say(&milli.span(), "cores_milli", "is named beside cores", "name one of them");
                *milli.get_ref()
            }
            (Some(cores), None) => cores.get_ref().saturating_mul(THOUSANDTHS),
            (None, Some(milli)) => *milli.get_ref(),
            (None, None) => u32::try_from(of(u64::from(whole_milli))).unwrap_or(u32::MAX),
        };
        let memory_bytes = self.amount("memory", section.memory.as_ref(), of(memory_all));
        let disk_bytes = self.amount("disk", section.disk.as_ref(), of(disk_all));
        for (field, is_missing) in [
            ("cores", cores_milli == 0),
            ("memory", memory_bytes < nicompute_host::runtime::MEMORY_BYTES_MIN),
            ("disk", disk_bytes < nicompute_host::runtime::DISK_BYTES_MIN),
        ] {
            if is_missing {
                let remedy = "name an amount: an offer without GPUs has no part of its own, and 32 MiB of memory and \
                              disk are the least";
                self.say(at, field, "is missing or too small", remedy);
            }
        }
        Share { cores_milli, memory_bytes, disk_bytes, gpus }
    }

    fn amount(&mut self, field: &str, given: Option<&Spanned<Value>>, otherwise: u64) -> u64 {
        let Some(given) = given else { return otherwise };
        let amount = match given.get_ref() {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) => bytes(text),
            _ => None,
        };
        amount.unwrap_or_else(|| {
            let remedy = "write bytes as a number, or a text such as \"64 GiB\"";
            self.say(&given.span(), field, "is no amount", remedy);
            otherwise
        })
    }

    fn price(&mut self, section: &Section, gpus: usize, at: &Range<usize>) -> MicroUsd {
        let gpus = u64::try_from(gpus).unwrap_or(u64::MAX);
        // What SQLite can hold.
        let fits = |price: &u64| i64::try_from(*price).is_ok();
        match (&section.price_micro_usd_per_hour, &section.price_micro_usd_per_gpu_hour) {
            (Some(price), None) if fits(price.get_ref()) => MicroUsd(*price.get_ref()),
            (Some(price), None) => {
                let field = "price_micro_usd_per_hour";
                self.say(&price.span(), field, "is too large", "give millionths of a dollar");
                MicroUsd(0)
            }
            (None, Some(price)) if gpus > 0 => {
                let whole = price.get_ref().checked_mul(gpus);
                if !whole.as_ref().is_some_and(fits) {
                    let field = "price_micro_usd_per_gpu_hour";
                    self.say(&price.span(), field, "is too large", "give millionths of a dollar");
                }
                MicroUsd(whole.unwrap_or_default())
            }
            _ => {
                let remedy = "name price_micro_usd_per_gpu_hour for an offer with GPUs, or price_micro_usd_per_hour, as a \
                              whole number of millionths of a dollar";
                self.say(at, "price", "is not named once", remedy);
                MicroUsd(0)
            }
        }
    }

    fn conditions(&mut self, section: &Section) -> Conditions {
        let ground = self.ground;
        let min = self.duration("min_duration", section.min_duration.as_ref(), LEASE_MILLIS_MIN);
        let max = self.duration("max_duration", section.max_duration.as_ref(), LEASE_MILLIS_MAX);
        if let Some(span) = section.max_duration.as_ref().map(Spanned::span)
            && max < min
        {
            self.say(&span, "max_duration", "is less than min_duration", "make it longer");
        }
        let limits = match ground.limits {
            Limits::All => LimitsHeld::All,
            Limits::AllButDisk => LimitsHeld::AllButDisk,
            Limits::Nothing => LimitsHeld::Nothing,
        };
        if let Some(enforce) = &section.enforce {
            match enforce.get_ref().as_str() {
                "what-can-be" => {}
                "all" if limits == LimitsHeld::All => {}
                "all" => {
                    let remedy = "give the engine a storage driver with quotas (overlay2 on XFS with pquota), use the \
                                  sandbox, or leave enforce out";
                    self.say(&enforce.span(), "enforce", "cannot be kept on this machine", remedy);
                }
                _ => self.say(
                    &enforce.span(),
                    "enforce",
                    "is not known",
                    "write \"all\" or \"what-can-be\"",
                ),
            }
        }
        Conditions {
            duration_millis_min: min,
            duration_millis_max: max,
            classes: self.classes(section.classes.as_ref()),
            fetches: self.fetches(section.fetch.as_ref()),
            volumes: match section.volumes {
                Some(false) => VolumesAllowed::No,
                Some(true) | None => VolumesAllowed::Yes,
            },
            ports_max: self.ports(section.ports.as_ref()),
            network: self.network(section.network.as_ref()),
            maintenance: self.maintenance(&section.maintenance),
            limits,
            price_per_gpu_hour: section
                .price_micro_usd_per_gpu_hour
                .as_ref()
                .map(|price| MicroUsd(*price.get_ref())),
        }
    }

    fn duration(&mut self, field: &str, given: Option<&Spanned<String>>, otherwise: u64) -> u64 {
        let Some(given) = given else { return otherwise };
        let range = LEASE_MILLIS_MIN..=LEASE_MILLIS_MAX;
        millis(given.get_ref()).filter(|millis| range.contains(millis)).unwrap_or_else(|| {
            let remedy = "write 10s to 31d, such as \"90m\" or \"12h\"";
            self.say(&given.span(), field, "is no time that a lease can last", remedy);
            otherwise
        })
    }

    fn classes(&mut self, given: Option<&Spanned<Vec<String>>>) -> Vec<RuntimeClass> {
        let Some(given) = given else { return self.ground.classes.clone() };
        let mut classes = Vec::new();
        for name in given.get_ref() {
            let class = name.parse::<RuntimeClass>().ok();
            match class.filter(|class| self.ground.classes.contains(class)) {
                Some(class) if !classes.contains(&class) => classes.push(class),
                Some(_) => {}
                None => {
                    let problem = format!("names {name:?}, which is not installed here");
                    let remedy = "name standard, gvisor, kata or sysbox where the runtime has it";
                    self.say(&given.span(), "classes", &problem, remedy);
                }
            }
        }
        if classes.is_empty() && given.get_ref().is_empty() {
            self.say(&given.span(), "classes", "is empty", "leave it out to allow what there is");
        }
        classes
    }

    fn fetches(&mut self, given: Option<&Spanned<Vec<String>>>) -> Vec<String> {
        let Some(given) = given else { return self.ground.fetches.clone() };
        if given.get_ref().len() > FETCHES_MAX {
            self.say(&given.span(), "fetch", "has more than 64 entries", "use patterns");
        }
        for pattern in given.get_ref() {
            match pattern.parse::<ImagePattern>() {
                Err(error) => {
                    let problem = format!("has {pattern:?}: {error}");
                    let remedy = "such as \"pytorch/*\" or a digest";
                    self.say(&given.span(), "fetch", &problem, remedy);
                }
                Ok(wanted) if !self.is_fetched(&wanted) => {
                    let problem = format!("has {pattern:?}, which this node does not fetch");
                    let remedy = "start the node with --image.allow for it, or leave it out";
                    self.say(&given.span(), "fetch", &problem, remedy);
                }
                Ok(_) => {}
            }
        }
        given.get_ref().clone()
    }

    /// Whether the node fetches whatever a pattern names.
    fn is_fetched(&self, wanted: &ImagePattern) -> bool {
        let allowed = self.ground.fetches.iter().flat_map(|text| text.parse::<ImagePattern>());
        allowed.into_iter().any(|allowed| allowed.includes(wanted))
    }

    fn ports(&mut self, given: Option<&Spanned<u16>>) -> u16 {
        let Some(given) = given else { return self.ground.ports_max };
        if *given.get_ref() > self.ground.ports_max {
            let problem = format!("is more than {}", self.ground.ports_max);
            let remedy = "give each lease at most 16, and none where the node publishes no ports";
            self.say(&given.span(), "ports", &problem, remedy);
        }
        (*given.get_ref()).min(u16::try_from(PORTS_MAX).unwrap_or(u16::MAX))
    }

    fn network(&mut self, given: Option<&Spanned<String>>) -> LeaseNetwork {
        let Some(given) = given else { return self.ground.network };
        match given.get_ref().parse::<LeaseNetwork>() {
            Ok(LeaseNetwork::Egress) if self.ground.network == LeaseNetwork::None => {
                let remedy = "start the node with a tenants' network, or write \"none\"";
                self.say(&given.span(), "network", "cannot be given by this node", remedy);
                LeaseNetwork::None
            }
            Ok(network) => network,
            Err(error) => {
                let remedy = "write \"none\" or \"egress\"";
                self.say(&given.span(), "network", &error.to_string(), remedy);
                LeaseNetwork::None
            }
        }
    }

    fn maintenance(&mut self, given: &[Spanned<WindowText>]) -> Vec<Window> {
        let mut windows = Vec::new();
        for text in given {
            let window = text.get_ref();
            match (moment(&window.from), moment(&window.until)) {
                (Some(from), Some(until)) if from < until => windows.push(Window { from, until }),
                _ => {
                    let remedy = "write { from = 2030-01-31T22:00:00Z, until = … } with time and zone, the later one last";
                    self.say(&text.span(), "maintenance", "has no begin and end", remedy);
                }
            }
        }
        if let Some(text) = given.get(WINDOWS_MAX) {
            let remedy = "remove those that are over";
            self.say(&text.span(), "maintenance", "has more than 64 entries", remedy);
        }
        windows
    }

    /// What no offer does wrong by itself.
    fn together(&mut self, all: &[(Range<usize>, Defined)]) {
        const REMEDY: &str = "give each offer what no other one has";
        let whole = &self.ground.machine;
        let disk_all = self.ground.disk_bytes;
        let cores_all = u64::from(whole.cores).saturating_mul(u64::from(THOUSANDTHS));
        let memory_all = whole.memory_bytes;
        let (mut cores, mut memory, mut disk) = (0_u64, 0_u64, 0_u64);
        let mut owners: BTreeMap<&str, &OfferId> = BTreeMap::new();
        let mut ids: BTreeMap<&OfferId, ()> = BTreeMap::new();
        if all.is_empty() && self.problems.is_empty() {
            self.say(&(0..0), "file", "offers nothing", "write at least one [[offer]]");
        }
        for (at, offer) in all {
            if ids.insert(&offer.id, ()).is_some() {
                self.say(at, "id", &format!("{} is used twice", offer.id), "draw another name");
            }
            for gpu in &offer.share.gpus {
                if let Some(other) = owners.insert(gpu, &offer.id) {
                    let problem = format!("{gpu} is in offer {other} already");
                    self.say(at, "gpus", &problem, REMEDY);
                }
            }
            cores = cores.saturating_add(u64::from(offer.share.cores_milli));
            memory = memory.saturating_add(offer.share.memory_bytes);
            disk = disk.saturating_add(offer.share.disk_bytes);
            for (field, sold, there) in [
                ("cores", cores, cores_all),
                ("memory", memory, memory_all),
                ("disk", disk, disk_all),
            ] {
                if sold > there {
                    let problem = format!(
                        "with offer {} more is sold than there is: {sold} of {there}",
                        offer.id
                    );
                    self.say(at, field, &problem, REMEDY);
                    return;
                }
            }
        }
        if let Some((at, _)) = all.get(OFFERS_MAX) {
            self.say(at, "file", "has more than 128 offers", "name fewer");
        }
    }
}

fn shown(problems: &[OfferProblem]) -> String {
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl fmt::Display for OfferProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, field, problem, remedy } = self;
        write!(f, "line {line}: {field} {problem} ({remedy})")
    }
}

#[cfg(test)]
mod tests;
