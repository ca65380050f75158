//! DEL: the interface first, then its addresses, then the device information file. Addresses that are given back through
//! the interface (`dhcp`) go before it.

use clearway_config::attach::Removed;

use super::{Context, about};
use crate::daemon::DaemonError;
use crate::devinfo;
use crate::environment::{Target, Verb};
use crate::error::{CniError, Code};

/// Succeeds when nothing is there. Without the daemon it does not: the attachment would stay, and with its address given
/// back another pod could get that. The runtime tries again.
pub(super) fn del(context: &Context, target: &Target) -> Result<(), CniError> {
    let addresses = if context.needs_interface() {
        give_back_first(context, target)?
    } else {
        detach(context, target)?;
        context.ask_delegate(Verb::Del)
    };
    let informed = context.conf.device_info_file().map_or(Ok(()), |path| {
        devinfo::remove(&path).map_err(|error| {
            CniError::new(
                Code::Io,
                error.to_string(),
                "remove it, or let the runtime try again",
            )
        })
    });
    match (addresses, informed) {
        (Err(one), Err(other)) => Err(one.and(other)),
        (Err(error), Ok(())) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(())) => Ok(()),
    }
}

/// With a daemon that does not answer nothing is done: it forwards nothing either, and what gives a lease back would get
/// nowhere. Where the IPAM plugin fails the interface goes all the same: nothing would be gained by keeping it, and the
/// runtime, which is told, asks again.
fn give_back_first(context: &Context, target: &Target) -> Result<Result<(), CniError>, CniError> {
    match context.daemon.attachment(&target.id) {
        Err(error) if !error.is_not_found() => return Err(not_detached(&error, target)),
        _ => {}
    }
    let addresses = context.ask_delegate(Verb::Del);
    match (detach(context, target), addresses) {
        (Err(one), Err(other)) => Err(one.and(other)),
        (Err(error), Ok(())) => Err(error),
        (Ok(()), addresses) => Ok(addresses),
    }
}

fn detach(context: &Context, target: &Target) -> Result<(), CniError> {
    let Removed { removed } = context
        .daemon
        .detach(&target.id)
        .map_err(|error| not_detached(&error, target))?;
    if removed.is_empty() {
        context.log.info("the daemon had no such attachment");
    }
    Ok(())
}

fn not_detached(error: &DaemonError, target: &Target) -> CniError {
    let mut told = error.told(&about("detach", target));
    told.details += "; the attachment is still there, and so are its addresses, until a DEL succeeds";
    told
}
