//! STATUS: could a container be attached now?

use clearway_config::attach::{Addresses, Need};

use super::{Context, no_vf};
use crate::conf::Network;
use crate::environment::{Target, Verb};
use crate::error::{CniError, Code};

pub(super) fn status(context: &Context) -> Result<(), CniError> {
    let network = context.conf.network()?;
    let need = need(&network)?;
    context.daemon.status(&need).map_err(|error| CniError {
        code: Code::NotAvailable.number(),
        ..error.told(&format!(
            "serve the network {}: no container can be attached",
            context.conf.name
        ))
    })?;
    context.ask_delegate(Verb::Status)
}

fn need(network: &Network) -> Result<Need, CniError> {
    let no_vf = || CniError {
        code: Code::NotAvailable.number(),
        ..no_vf(network.device.as_deref())
    };
    // Nobody in particular: what one pod asks for is not the network's need.
    let nobody = Target::nobody();
    Ok(Need {
        segment: network
            .segment
            .clone()
            .filter(|_| network.mode.kind().is_some())
            .ok_or_else(no_vf)?,
        ipam: network.addresses(&nobody, Addresses::default()),
    })
}
