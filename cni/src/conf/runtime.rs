//! `runtimeConfig` and `args`: what the runtime asks for one container (CNI's CONVENTIONS.md).

use std::net::IpAddr;
use std::time::Duration;

use clearway_config::{Period, Rate, RateLimit};
use clearway_wire::MacAddr;
use serde_json::Value;

use super::{ConfError, Fields, Mode, network};
use crate::args;

/// What the runtime asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Runtime<'a> {
    /// Capability `mac`, else `args.cni.mac`.
    pub(super) mac: Option<MacAddr>,
    /// Capability `ips`, else `args.cni.ips`.
    pub(super) ips: Vec<IpAddr>,
    /// Capability `deviceID`.
    pub(super) device: Option<String>,
    /// Capability `bandwidth`: from the container.
    egress: Option<Rate>,
    /// To the container.
    ingress: Option<Rate>,
    fields: Option<Fields<'a>>,
}

impl<'a> Runtime<'a> {
    pub(super) fn read(top: &Fields<'a>) -> Result<Self, ConfError> {
        let mut runtime = Self::default();
        if let Some(fields) = top.object("runtimeConfig")? {
            runtime.mac = network::mac(&fields, "mac")?;
            runtime.ips = ips(fields.raw("ips")).map_err(|reason| fields.wrong("ips", reason))?;
            runtime.device = fields.get("deviceID", "text")?;
            network::absolute(&fields, "CNIDeviceInfoFile")?;
            if let Some(bandwidth) = fields.object("bandwidth")? {
                runtime.ingress = rate(&bandwidth, "ingressRate", "ingressBurst")?;
                runtime.egress = rate(&bandwidth, "egressRate", "egressBurst")?;
            }
            runtime.fields = Some(fields);
        }
        // `args` is for everybody: what is not ours in it, and all that is not understood, is passed over.
        let args = top.raw("args").and_then(|args| args.get("cni"));
        if let Some(args) = args {
            if runtime.ips.is_empty() {
                runtime.ips =
                    ips(args.get("ips")).map_err(|reason| top.wrong("args", format!("cni.ips: {reason}")))?;
            }
            if let (None, Some(Value::String(mac))) = (runtime.mac, args.get("mac")) {
                let mac = mac
                    .parse()
                    .map_err(|error| top.wrong("args", format!("cni.mac: {error}")))?;
                runtime.mac = Some(mac);
            }
        }
        Ok(runtime)
    }

    /// Every capability that is there has a meaning in this mode.
    pub(super) fn check_mode(&self, mode: Mode) -> Result<(), ConfError> {
        self.fields
            .as_ref()
            .map_or(Ok(()), |fields| fields.check_mode(mode))
    }

    /// The network's limits, with those of this container in place of theirs: `ingress` is what it is sent.
    pub(super) fn limited(&self, mut limit: RateLimit) -> RateLimit {
        for (asked, of) in [
            (&self.egress, &mut limit.receive),
            (&self.ingress, &mut limit.transmit),
        ] {
            if let Some(asked) = asked {
                let packets = of.as_ref().and_then(|of| of.packets);
                *of = Some(Rate {
                    packets,
                    ..asked.clone()
                });
            }
        }
        limit
    }
}

fn ips(value: Option<&Value>) -> Result<Vec<IpAddr>, String> {
    let expected = "write a list of IP addresses such as [\"10.9.0.5/24\"]";
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let items = value.as_array().ok_or(expected)?;
    let texts: Option<Vec<_>> = items.iter().map(Value::as_str).collect();
    args::addresses(texts.ok_or(expected)?.into_iter())
}

/// A rate in bits a second and a burst in bits; the engine wants the burst as the time in which the rate gives as much.
/// Kubernetes sends bursts of 2 Gbit where nobody wrote one: what is out of the engine's range is the nearest in it.
fn rate(fields: &Fields, rate: &str, burst: &str) -> Result<Option<Rate>, ConfError> {
    let burst: Option<u64> = fields.get(burst, "bits")?;
    let bits = match fields.get::<u64>(rate, "bits a second")? {
        // The convention's "no limit".
        None | Some(0) => return Ok(None),
        Some(bits) if Rate::BITS.contains(&bits) => bits,
        Some(_) => {
            return Err(fields.wrong(
                rate,
                "write 1000 to 1000000000000 bits a second, or 0 for no limit".into(),
            ));
        }
    };
    let mut limit = Rate {
        bits: Some(bits),
        ..Rate::default()
    };
    if let Some(burst) = burst.filter(|burst| *burst > 0) {
        let nanos = u128::from(burst) * 1_000_000_000 / u128::from(bits);
        let time = Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX));
        limit.burst = Period::from(time.clamp(*Rate::BURST.start(), *Rate::BURST.end()));
    }
    Ok(Some(limit))
}
