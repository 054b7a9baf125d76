//! The stages that every session has, from HELLO to the verdict.

use crate::binding::{ClaimError, DeviceClaim, DevicePlan, Nonce, TEXT_LEN_MAX, plan_devices};
use crate::derive::SessionKeys;
use crate::exchange::{DeviceExchange, Exchange, ExchangeError, Verdict};
use crate::frame::{DeviceOpenings, OpenDevice, VerifierFrame};
use crate::legs::Legs;
use crate::measured::{Measured, Times};
use crate::params::{PROOF_VERSION, ProofParams};
use crate::session::{
    PINGS, Phase, Pinging, Prepared, Refusal, Running, SessionConfig, Stage, Step, VerifierSession,
};
use crate::transcript::Transcript;
use crate::tree::Digest;

impl VerifierSession {
    pub(super) fn on_hello(
        &mut self,
        version: u16,
        software: String,
        claims: Vec<DeviceClaim>,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        if version != PROOF_VERSION {
            return Err(Refusal::Version(version));
        }
        if software.len() > TEXT_LEN_MAX || software.chars().any(char::is_control) {
            return Err(Refusal::Protocol { stage: Stage::Hello, got: "a bad software name" });
        }
        let SessionConfig { params, kind, binding, .. } = &self.config;
        let plans = plan_devices(&claims, *kind, params).map_err(Refusal::Claims)?;
        let params = if plans.len() > 1 { *params } else { params.without_link() };
        let checkable = params.allows_devices(plans.len());
        let params = if checkable { params } else { params.without_sampled_legs() };
        if !params.allows_devices(plans.len()) {
            return Err(Refusal::Claims(ClaimError::Work(plans.len())));
        }
        let frame = VerifierFrame::Prepare {
            params: params.record(),
            binding: *binding,
            plans: plans.clone(),
        };
        self.config.params = params;
        self.enter(Phase::Ready(Prepared { software, claims, plans }), at_ns);
        Ok(Step::Send(frame))
    }

    pub(super) fn ping(&mut self, pinging: Pinging, at_ns: u64) -> Result<Step, Refusal> {
        let number = pinging.number;
        self.enter(Phase::Pings(pinging), at_ns);
        Ok(Step::Send(VerifierFrame::Ping { number }))
    }

    pub(super) fn on_pong(
        &mut self,
        pinging: Pinging,
        number: u64,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        if number != pinging.number {
            return Err(Refusal::Protocol { stage: Stage::Pings, got: "a PONG to another PING" });
        }
        let rtt_ns = at_ns.saturating_sub(self.stage_began_ns);
        let rtt_min_ns = pinging.rtt_min_ns.min(rtt_ns);
        let number = number.saturating_add(1);
        if number < PINGS {
            return self.ping(Pinging { number, rtt_min_ns, ..pinging }, at_ns);
        }
        self.start(pinging.prepared, rtt_min_ns, at_ns)
    }

    fn start(&mut self, prepared: Prepared, rtt_min_ns: u64, at_ns: u64) -> Result<Step, Refusal> {
        let n1 = self.draw()?;
        let SessionConfig { params, binding, set_up_at, .. } = &self.config;
        let exchange = Exchange {
            binding: *binding,
            params: params.record(),
            software: prepared.software,
            claims: prepared.claims,
            n1,
            n2: Nonce([0; 32]),
            legs: Legs::NONE,
            n3: Nonce([0; 32]),
            devices: prepared.plans.iter().map(|plan| DeviceExchange::new(*plan)).collect(),
        };
        let times = Times {
            set_up_at_unix_ms: set_up_at.get(),
            rtt_min_ns,
            commit_ns: 0,
            wroot_ns: 0,
            lroot_ns: 0,
            croot_ns: 0,
            down_ns: 0,
            up_ns: 0,
            openings_ns: 0,
        };
        let keys = SessionKeys::derive(&n1, binding, params);
        let running = Running { exchange, keys, times, start_ns: at_ns, opened: 0 };
        self.enter(Phase::Fill(Box::new(running)), at_ns);
        Ok(Step::Send(VerifierFrame::Start { nonce: n1 }))
    }

    pub(super) fn on_progress(
        &mut self,
        mut running: Box<Running>,
        (device, panel): (u16, u32),
        root: Digest,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        let since_start = at_ns.saturating_sub(running.start_ns);
        let panel_rows = u64::from(self.config.params.panel_rows());
        let wrong = Refusal::Protocol { stage: Stage::Fill, got: "PROGRESS out of order" };
        let device = running.exchange.devices.iter_mut().find(|one| one.plan.device == device);
        let device = device.ok_or_else(|| wrong.clone())?;
        let done = device.panel_roots.len() as u64;
        let all = device.plan.rows.checked_div(panel_rows).unwrap_or(0);
        if u64::from(panel) != done || done >= all {
            return Err(wrong);
        }
        device.panel_roots.push(root);
        device.panel_ns.push(since_start);
        self.phase = Phase::Fill(running);
        Ok(Step::Wait)
    }

    pub(super) fn on_commit(
        &mut self,
        mut running: Box<Running>,
        roots: &[Digest],
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        if roots.len() != running.exchange.devices.len() {
            return Err(Refusal::Protocol { stage: Stage::Fill, got: "COMMIT of other devices" });
        }
        for (device, root) in running.exchange.devices.iter_mut().zip(roots) {
            device.row_root = *root;
        }
        running.check_panels(&self.config.params).map_err(Refusal::Openings)?;
        let nonce = self.draw()?;
        running.exchange.n2 = nonce;
        running.times.commit_ns = at_ns.saturating_sub(running.start_ns);
        self.enter(Phase::Walk(running), at_ns);
        Ok(Step::Send(VerifierFrame::Walk { nonce }))
    }

    pub(super) fn on_wroot(
        &mut self,
        mut running: Box<Running>,
        roots: &[Digest],
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        if roots.len() != running.exchange.devices.len() {
            return Err(Refusal::Protocol { stage: Stage::Walk, got: "WROOT of other devices" });
        }
        for (device, root) in running.exchange.devices.iter_mut().zip(roots) {
            device.walk_root = *root;
        }
        running.times.wroot_ns = at_ns.saturating_sub(running.start_ns);
        self.after_walk(running, at_ns)
    }

    /// Asks for the openings, once the last leg is over.
    pub(super) fn open(&mut self, mut running: Box<Running>, at_ns: u64) -> Result<Step, Refusal> {
        running.exchange.n3 = self.draw()?;
        let devices = running.samples(&self.config.params);
        self.enter(Phase::Openings(running), at_ns);
        Ok(Step::Send(VerifierFrame::Open { devices }))
    }

    pub(super) fn on_openings(
        &mut self,
        mut running: Box<Running>,
        openings: DeviceOpenings,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        let stage = Stage::Openings;
        let next = running.exchange.devices.get_mut(running.opened);
        let device = next.filter(|next| next.plan.device == openings.device);
        let device =
            device.ok_or(Refusal::Protocol { stage, got: "OPENINGS of another device" })?;
        device.set_openings(openings);
        running.opened = running.opened.saturating_add(1);
        if running.opened < running.exchange.devices.len() {
            self.phase = Phase::Openings(running);
            return Ok(Step::Wait);
        }
        running.times.openings_ns = at_ns.saturating_sub(running.start_ns);
        self.conclude(*running)
    }

    fn conclude(&mut self, running: Running) -> Result<Step, Refusal> {
        let Running { exchange, times, .. } = running;
        let verdict = exchange.check().map_err(Refusal::Openings)?;
        let plans: Vec<DevicePlan> = exchange.devices.iter().map(|device| device.plan).collect();
        let measured = Measured::from_times(&self.config.params, &plans, &exchange.legs, &times);
        let limits = self.config.limits;
        let transcript = Box::new(Transcript { exchange, limits, times, verdict, measured });
        match verdict {
            Verdict::Proven => Ok(Step::Done(transcript)),
            Verdict::Mismatch { device, place } => {
                self.evidence = Some(transcript);
                Err(Refusal::Mismatch { device, place })
            }
        }
    }
}

impl Running {
    fn check_panels(&self, params: &ProofParams) -> Result<(), ExchangeError> {
        for device in &self.exchange.devices {
            let claim = self.exchange.claims.get(usize::from(device.plan.device));
            let claim = claim.ok_or(ExchangeError::Plans)?;
            device.check_panels(&self.keys.device(claim, &device.plan), params)?;
        }
        Ok(())
    }

    fn samples(&self, params: &ProofParams) -> Vec<OpenDevice> {
        let claims = &self.exchange.claims;
        let answered = self.exchange.legs.answered();
        let planned = self.exchange.devices.iter().map(|device| device.plan);
        planned
            .filter_map(|plan| {
                let keys = self.keys.device(claims.get(usize::from(plan.device))?, &plan);
                let sample = keys.sample(&self.exchange.n3, params, &plan, answered);
                Some(OpenDevice {
                    device: plan.device,
                    rows: sample.rows,
                    walks: sample.walks,
                    links: sample.links,
                    copies: sample.copies,
                })
            })
            .collect()
    }
}
