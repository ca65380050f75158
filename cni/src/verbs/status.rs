//! STATUS: could a container be attached now?

use clearway_config::attach::{Addresses, Ipam, Need, Segment};

use super::Context;
use crate::conf::ConfError;
use crate::environment::{Target, Verb};
use crate::error::{CniError, Code};

pub(super) fn status(context: &Context) -> Result<(), CniError> {
    let need = match context.conf.network() {
        // Which VF it is differs from pod to pod.
        Err(ConfError::Missing {
            field: "deviceID", ..
        }) => Need {
            segment: Segment::Pf,
            ipam: Ipam::None,
        },
        network => {
            let network = network?;
            // Nobody in particular: what one pod asks for is not the network's need.
            let ipam = network.addresses(&Target::nobody(), Addresses::default());
            Need {
                segment: network.segment,
                ipam,
            }
        }
    };
    context.daemon.status(&need).map_err(|error| CniError {
        code: Code::NotAvailable.number(),
        ..error.told(&format!(
            "serve the network {}: no container can be attached",
            context.conf.name
        ))
    })?;
    context.ask_delegate(Verb::Status)
}
