//! Announcing where a neuron listens.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::call::Axon;
use crate::events::{self, DispatchError, Event, SubtensorEvent};
use crate::items::{self, Account, AxonInfo, NeuronCertificate, PrometheusInfo};
use crate::runtime::{Exec, neurons};
use crate::state::Read;

/// A certificate is one algorithm byte and a key of at most this many bytes.
const CERTIFICATE_KEY_BYTES_MAX: usize = 64;

/// `serve_axon`, and with a certificate `serve_axon_tls`.
pub(crate) fn axon(
    exec: &mut Exec<'_>,
    hotkey: &Account,
    axon: &Axon,
    certificate: Option<&Vec<u8>>,
) -> Result<(), DispatchError> {
    check_axon(&exec.state, exec.block, hotkey, axon)?;
    // An ill-formed certificate is dropped and the axon is served all the same, as on the real chain.
    if let Some(certificate) = certificate.and_then(|bytes| parse_certificate(bytes)) {
        items::NEURON_CERTIFICATES.put(&mut exec.state, &axon.netuid, hotkey, &certificate);
    }
    let info = AxonInfo {
        block: exec.block,
        version: axon.version,
        ip: axon.ip,
        port: axon.port,
        ip_type: axon.ip_type,
        protocol: axon.protocol,
        placeholder1: axon.placeholder1,
        placeholder2: axon.placeholder2,
    };
    items::AXONS.put(&mut exec.state, &axon.netuid, hotkey, &info);
    exec.emit(Event::Subtensor(SubtensorEvent::AxonServed(axon.netuid, *hotkey)));
    Ok(())
}

/// What must hold before an axon is announced. The pool asks the same before it takes the extrinsic.
pub(crate) fn check_axon(
    state: &impl Read,
    block: u64,
    hotkey: &Account,
    axon: &Axon,
) -> Result<(), DispatchError> {
    let last = items::AXONS.get(state, &axon.netuid, hotkey).map(|info| info.block);
    check_registered(state, hotkey)?;
    check_address(axon.ip_type, axon.ip)?;
    check_rate(state, axon.netuid, block, last)?;
    check_port(axon.port)
}

/// `serve_prometheus`.
pub(crate) fn prometheus(
    exec: &mut Exec<'_>,
    hotkey: &Account,
    netuid: u16,
    info: &PrometheusInfo,
) -> Result<(), DispatchError> {
    let state = &exec.state;
    let last = items::PROMETHEUS.get(state, &netuid, hotkey).map(|info| info.block);
    check_registered(state, hotkey)?;
    check_address(info.ip_type, info.ip)?;
    check_rate(state, netuid, exec.block, last)?;
    check_port(info.port)?;
    items::PROMETHEUS.put(&mut exec.state, &netuid, hotkey, info);
    exec.emit(Event::Subtensor(SubtensorEvent::PrometheusServed(netuid, *hotkey)));
    Ok(())
}

fn check_registered(state: &impl Read, hotkey: &Account) -> Result<(), DispatchError> {
    if neurons::is_registered_somewhere(state, hotkey) {
        Ok(())
    } else {
        Err(events::NOT_REGISTERED_IN_NETWORK)
    }
}

fn check_address(ip_type: u8, ip: u128) -> Result<(), DispatchError> {
    let usable = match ip_type {
        4 => u32::try_from(ip).is_ok_and(|bits| {
            let address = Ipv4Addr::from_bits(bits);
            !matches!(address, Ipv4Addr::UNSPECIFIED | Ipv4Addr::BROADCAST | Ipv4Addr::LOCALHOST)
        }),
        6 => {
            let address = Ipv6Addr::from_bits(ip);
            ip != u128::MAX && !address.is_unspecified() && !address.is_loopback()
        }
        _ => return Err(events::INVALID_IP_TYPE),
    };
    if usable { Ok(()) } else { Err(events::INVALID_IP_ADDRESS) }
}

fn check_rate(
    state: &impl Read,
    netuid: u16,
    block: u64,
    last: Option<u64>,
) -> Result<(), DispatchError> {
    let limit = items::SERVING_RATE_LIMIT.get(state, &netuid).unwrap_or_default();
    match last {
        Some(last) if limit > 0 && block.saturating_sub(last) < limit => {
            Err(events::SERVING_RATE_LIMIT_EXCEEDED)
        }
        _ => Ok(()),
    }
}

const fn check_port(port: u16) -> Result<(), DispatchError> {
    if port == 0 { Err(events::INVALID_PORT) } else { Ok(()) }
}

fn parse_certificate(bytes: &[u8]) -> Option<NeuronCertificate> {
    let (algorithm, key) = bytes.split_first()?;
    let fits = !key.is_empty() && key.len() <= CERTIFICATE_KEY_BYTES_MAX;
    fits.then(|| NeuronCertificate { public_key: key.to_vec(), algorithm: *algorithm })
}
