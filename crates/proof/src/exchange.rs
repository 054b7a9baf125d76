//! The content of a finished session, and the recomputation that decides it.
//!
//! The live verifier and the offline check of a transcript call the same function on the same value, so that they
//! cannot disagree. Nothing in here looks at times.

use serde::{Deserialize, Serialize};

use crate::binding::{
    Binding, DEVICES_MAX, DeviceClaim, DevicePlan, Nonce, check_claims, plans_are_sound,
};
use crate::bounded::at_most;
use crate::derive::{DeviceKeys, Sample, SessionKeys};
use crate::frame::{DeviceOpenings, RowOpening, WalkOpening};
use crate::kernel::{ChainMatrix, Replay};
use crate::legs::{CopyKey, Legs};
use crate::params::{
    PANELS_LEN_MAX, ParamsError, ParamsRecord, ProofParams, SAMPLED_ROWS_LEN_MAX,
    SAMPLED_WALKS_LEN_MAX, WALK_GROUP,
};
use crate::tree::{Digest, TreeError, TreeKeys};
use crate::walk::WalkKey;

/// Everything that both sides said, in the order in which it came to exist.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Exchange {
    /// What the session is bound to.
    pub binding: Binding,
    /// The sizes.
    pub params: ParamsRecord,
    /// What the prover called itself.
    pub software: String,
    /// What the prover said about its devices.
    #[serde(deserialize_with = "at_most::<_, _, DEVICES_MAX>")]
    pub claims: Vec<DeviceClaim>,
    /// N1, drawn at START.
    pub n1: Nonce,
    /// N2, drawn after COMMIT.
    pub n2: Nonce,
    /// What became of the legs.
    pub legs: Legs,
    /// N3, drawn after the last root and the last byte of the legs.
    pub n3: Nonce,
    /// What each planned device committed to and opened.
    #[serde(deserialize_with = "at_most::<_, _, DEVICES_MAX>")]
    pub devices: Vec<DeviceExchange>,
}

/// One device's part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceExchange {
    /// Its share of the work.
    pub plan: DevicePlan,
    /// When each panel was reported, in nanoseconds since START.
    #[serde(deserialize_with = "at_most::<_, _, PANELS_LEN_MAX>")]
    pub panel_ns: Vec<u64>,
    /// The root of each panel.
    #[serde(deserialize_with = "at_most::<_, _, PANELS_LEN_MAX>")]
    pub panel_roots: Vec<Digest>,
    /// The root of the row tree.
    pub row_root: Digest,
    /// The root of the walk tree.
    pub walk_root: Digest,
    /// The root of the link tree, where LINK was answered.
    pub link_root: Option<Digest>,
    /// The root of the copy tree, where COPY was answered.
    pub copy_root: Option<Digest>,
    /// The paths of the sampled rows.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_ROWS_LEN_MAX>")]
    pub rows: Vec<RowOpening>,
    /// The groups and paths of the sampled walks.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_WALKS_LEN_MAX>")]
    pub walks: Vec<WalkOpening>,
    /// The groups and paths of the sampled walks over the next device's plot.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_WALKS_LEN_MAX>")]
    pub links: Vec<WalkOpening>,
    /// The paths of the sampled copied rows.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_ROWS_LEN_MAX>")]
    pub copies: Vec<RowOpening>,
}

/// What the recomputation found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// Every sampled row and walk is what it must be.
    Proven,
    /// A committed row or walk result is not what the keys give.
    Mismatch {
        /// The device, by its place in the claims.
        device: u16,
        /// Where.
        place: Place,
    },
}

/// A place in a device's commitments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Place {
    /// A row of the plot.
    Row(u64),
    /// A walk.
    Walk(u32),
    /// A walk over the next device's plot.
    Link(u32),
    /// A place in the run of copied rows.
    Copy(u64),
}

/// Why a content cannot even be recomputed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// Sizes out of bounds.
    #[error("the parameters are out of bounds")]
    Params(#[from] ParamsError),
    /// Claims or plans that no verifier accepts.
    #[error("the claims or the plans are not such as a verifier accepts")]
    Plans,
    /// More recomputation than a checker takes upon itself.
    #[error("a check of {0} devices of this size is more than 2^39 products")]
    Work(usize),
    /// Legs that the parameters do not ask for, or missing ones, or bytes that no stream has.
    #[error("the legs are not those that the parameters ask for")]
    Legs,
    /// Panel roots that do not make up the committed root.
    #[error("the panel roots of device {0} do not make up its committed root")]
    Panels(u16),
    /// Openings of other rows or walks than the nonces ask for.
    #[error("device {device} opened other places than it was asked to")]
    Asked {
        /// The device.
        device: u16,
    },
    /// An opening of the wrong shape.
    #[error("an opening of device {device} has the wrong shape")]
    Shape {
        /// The device.
        device: u16,
        /// What is wrong with it.
        #[source]
        source: TreeError,
    },
    /// A walk's group that does not hold 64 results.
    #[error("a walk group of device {device} does not hold 64 results")]
    Group {
        /// The device.
        device: u16,
    },
}

impl Exchange {
    /// Recomputes everything that was sampled: what costs nothing first, then the bytes of NET, then the rows and walks.
    ///
    /// # Errors
    /// Where the content contradicts itself before any row is computed.
    pub fn check(&self) -> Result<Verdict, ExchangeError> {
        let params = ProofParams::try_from(self.params)?;
        check_claims(&self.claims).map_err(|_| ExchangeError::Plans)?;
        let plans: Vec<DevicePlan> = self.devices.iter().map(|device| device.plan).collect();
        if !plans_are_sound(&self.claims, &params, &plans) {
            return Err(ExchangeError::Plans);
        }
        if !params.allows_devices(plans.len()) {
            return Err(ExchangeError::Work(plans.len()));
        }
        let keys = SessionKeys::derive(&self.n1, &self.binding, &params);
        self.check_legs(&params)?;
        let answered = self.legs.answered();
        let mut checks = Vec::with_capacity(self.devices.len());
        for device in &self.devices {
            let claim = self.claims.get(usize::from(device.plan.device));
            let claim = claim.ok_or(ExchangeError::Plans)?;
            let device_keys = keys.device(claim, &device.plan);
            device.check_panels(&device_keys, &params)?;
            let sample = device_keys.sample(&self.n3, &params, &device.plan, answered);
            device.check_asked(&sample)?;
            device.check_shape(&device_keys, &params)?;
            checks.push(DeviceCheck { device, keys: device_keys, sample });
        }
        self.check_net(&keys)?;
        Ok(self.verdict(&checks, &ChainMatrix::new(&keys, &params), &params))
    }

    /// The first wrong place, device after device; of a device rows, walks, walks of LINK, copied rows. The walks of all
    /// devices are replayed together, but for those that come after a wrong row.
    fn verdict(
        &self,
        checks: &[DeviceCheck<'_>],
        matrix: &ChainMatrix,
        params: &ProofParams,
    ) -> Verdict {
        let at = |check: &DeviceCheck<'_>, place| (check.device.plan.device, place);
        let mut right = Vec::with_capacity(checks.len());
        let wrong_row = checks.iter().find_map(|check| match check.wrong_row(matrix) {
            Some(place) => Some(at(check, place)),
            None => {
                right.push(check);
                None
            }
        });
        let mut replays: Vec<Replay<'_>> =
            right.iter().map(|check| check.replay(&self.n2, params)).collect();
        if let Some(nonce) = self.legs.link.nonce() {
            let peers = checks.iter().cycle().skip(1);
            replays.extend(
                right.iter().zip(peers).map(|(check, peer)| check.link(nonce, peer, params.n())),
            );
        }
        matrix.replay(&mut replays, params.reads());
        let (walks, links) = replays.split_at_checked(right.len()).unwrap_or_default();
        let wrong_walk = right.iter().enumerate().find_map(|(place, check)| {
            let wrong = check.wrong_walk(walks.get(place)?.states());
            let wrong = wrong.or_else(|| check.wrong_link(links.get(place)?.states(), params));
            let copied = || check.wrong_copy(self.legs.copy.nonce()?, matrix, params);
            Some(at(check, wrong.or_else(copied)?))
        });
        match wrong_walk.or(wrong_row) {
            Some((device, place)) => Verdict::Mismatch { device, place },
            None => Verdict::Proven,
        }
    }
}

impl DeviceExchange {
    /// A device that has said nothing yet.
    pub(crate) const fn new(plan: DevicePlan) -> Self {
        let none = Digest([0; 32]);
        Self {
            plan,
            panel_ns: Vec::new(),
            panel_roots: Vec::new(),
            row_root: none,
            walk_root: none,
            link_root: None,
            copy_root: None,
            rows: Vec::new(),
            walks: Vec::new(),
            links: Vec::new(),
            copies: Vec::new(),
        }
    }

    /// Takes over openings that came in a frame.
    pub(crate) fn set_openings(&mut self, openings: DeviceOpenings) {
        self.rows = openings.rows;
        self.walks = openings.walks;
        self.links = openings.links;
        self.copies = openings.copies;
    }

    /// Whether the panels that were reported on the way are the tree that was committed to.
    pub(crate) fn check_panels(
        &self,
        keys: &DeviceKeys,
        params: &ProofParams,
    ) -> Result<(), ExchangeError> {
        let panels = self.plan.rows.checked_div(u64::from(params.panel_rows())).unwrap_or(0);
        let whole = self.panel_roots.len() as u64 == panels
            && self.panel_ns.len() == self.panel_roots.len()
            && keys.rows().root(&self.panel_roots) == Ok(self.row_root);
        if whole { Ok(()) } else { Err(ExchangeError::Panels(self.plan.device)) }
    }

    /// Whether exactly the sampled places were opened, in order.
    pub(crate) fn check_asked(&self, sample: &Sample) -> Result<(), ExchangeError> {
        let same = self.rows.iter().map(|opening| opening.row).eq(sample.rows.iter().copied())
            && self.walks.iter().map(|opening| opening.walk).eq(sample.walks.iter().copied())
            && self.links.iter().map(|opening| opening.walk).eq(sample.links.iter().copied())
            && self.copies.iter().map(|opening| opening.row).eq(sample.copies.iter().copied());
        if same { Ok(()) } else { Err(ExchangeError::Asked { device: self.plan.device }) }
    }

    /// Whether every group has 64 results and every path the length of its place.
    fn check_shape(&self, keys: &DeviceKeys, params: &ProofParams) -> Result<(), ExchangeError> {
        let device = self.plan.device;
        let shape = |source| ExchangeError::Shape { device, source };
        let copied = params.copied_rows(self.plan.rows);
        let rows = self.rows.iter().map(|opening| (self.plan.rows, opening));
        for (count, opening) in rows.chain(self.copies.iter().map(|opening| (copied, opening))) {
            let zero = Digest([0; 32]);
            keys.rows().root_from_path(count, opening.row, zero, &opening.path).map_err(shape)?;
        }
        let walks = self.walks.iter().map(|opening| (self.plan.walks, opening));
        let links = self.links.iter().map(|opening| (params.link_walks(), opening));
        for (count, opening) in walks.chain(links) {
            if opening.group.len() as u64 != u64::from(WALK_GROUP) {
                return Err(ExchangeError::Group { device });
            }
            walk_group_root(keys.walks(), count, opening).map_err(shape)?;
        }
        Ok(())
    }
}

/// The root that follows from a group of results and its path, among so many walks.
fn walk_group_root(
    keys: &TreeKeys,
    walks: u32,
    opening: &WalkOpening,
) -> Result<Digest, TreeError> {
    let groups = u64::from(walks.div_ceil(WALK_GROUP));
    let group = u64::from(opening.walk.checked_div(WALK_GROUP).unwrap_or(0));
    let leaf = keys.leaf(&walk_leaf(&opening.group));
    keys.root_from_path(groups, group, leaf, &opening.path)
}

/// The content of a walk leaf: each result in 8 bytes, little endian.
#[must_use]
pub fn walk_leaf(group: &[u64]) -> Vec<u8> {
    group.iter().flat_map(|result| result.to_le_bytes()).collect()
}

/// One device, with the keys to compute its rows again.
#[derive(Debug)]
struct DeviceCheck<'a> {
    device: &'a DeviceExchange,
    keys: DeviceKeys,
    sample: Sample,
}

impl DeviceCheck<'_> {
    /// The sampled walks, before their first read.
    fn replay(&self, n2: &Nonce, params: &ProofParams) -> Replay<'_> {
        let rows = self.device.plan.rows;
        let key = WalkKey::new(&self.keys, n2, params.n(), rows);
        Replay::new(&self.keys, key, &self.sample.walks)
    }

    /// The sampled walks over the next device's plot, before their first read.
    fn link<'a>(&'a self, nonce: &Nonce, peer: &'a Self, n: usize) -> Replay<'a> {
        let rows = peer.device.plan.rows;
        let key = WalkKey::link(&self.keys, nonce, n, rows);
        Replay::new(&peer.keys, key, &self.sample.links)
    }

    /// The first sampled row that does not lead to the committed root.
    fn wrong_row(&self, matrix: &ChainMatrix) -> Option<Place> {
        let plot = matrix.plot_rows(&self.keys, &self.sample.rows);
        let openings = self.device.rows.iter().zip(plot.chunks_exact(matrix.n()));
        for (opening, row) in openings {
            let leaf = self.keys.rows().leaf(row);
            let rows = self.device.plan.rows;
            let root = self.keys.rows().root_from_path(rows, opening.row, leaf, &opening.path);
            if root != Ok(self.device.row_root) {
                return Some(Place::Row(opening.row));
            }
        }
        None
    }

    /// The first sampled walk whose result is not the committed one.
    fn wrong_walk(&self, results: &[u64]) -> Option<Place> {
        let DeviceExchange { plan, walks, walk_root, .. } = self.device;
        let right = (self.keys.walks(), plan.walks, *walk_root);
        wrong_result(right, walks, results).map(Place::Walk)
    }

    /// The first sampled walk over the next device's plot whose result is not the committed one.
    fn wrong_link(&self, results: &[u64], params: &ProofParams) -> Option<Place> {
        let DeviceExchange { links, link_root, .. } = self.device;
        let right = (self.keys.links(), params.link_walks(), (*link_root)?);
        wrong_result(right, links, results).map(Place::Link)
    }

    /// The first sampled place in the run of copied rows that does not lead to the committed root.
    fn wrong_copy(
        &self,
        nonce: &Nonce,
        matrix: &ChainMatrix,
        params: &ProofParams,
    ) -> Option<Place> {
        let DeviceExchange { plan, copies, copy_root, .. } = self.device;
        let key = CopyKey::new(&self.keys, nonce, plan.rows);
        let rows: Vec<u64> = self.sample.copies.iter().map(|place| key.row(*place)).collect();
        let plot = matrix.plot_rows(&self.keys, &rows);
        let (root, count) = ((*copy_root)?, params.copied_rows(plan.rows));
        let mut openings = copies.iter().zip(plot.chunks_exact(matrix.n()));
        openings.find_map(|(opening, row)| {
            let leaf = key.tree().leaf(row);
            let found = key.tree().root_from_path(count, opening.row, leaf, &opening.path);
            (found != Ok(root)).then_some(Place::Copy(opening.row))
        })
    }
}

/// The first walk whose committed result is not this one, in the tree with these keys, so many walks and this root.
fn wrong_result(
    (keys, walks, root): (&TreeKeys, u32, Digest),
    openings: &[WalkOpening],
    results: &[u64],
) -> Option<u32> {
    openings.iter().zip(results).find_map(|(opening, result)| {
        let in_group = opening.walk.checked_rem(WALK_GROUP).unwrap_or(0) as usize;
        let same = opening.group.get(in_group) == Some(result)
            && walk_group_root(keys, walks, opening) == Ok(root);
        if same { None } else { Some(opening.walk) }
    })
}
