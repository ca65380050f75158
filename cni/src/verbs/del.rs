//! DEL: the interface first, then its addresses, then the device information file.

use super::{Context, about};
use crate::devinfo;
use crate::environment::{Target, Verb};
use crate::error::{CniError, Code};

/// Succeeds when nothing is there. Without the daemon it does not: the attachment would stay, and with its address given
/// back another pod could get that. The runtime tries again.
pub(super) fn del(context: &Context, target: &Target) -> Result<(), CniError> {
    let removed = context.daemon.detach(&target.id).map_err(|error| {
        let mut told = error.told(&about("detach", target));
        told.details += "; the attachment is still there, and so are its addresses, until a DEL succeeds";
        told
    })?;
    if removed.removed.is_empty() {
        context.log.info("the daemon had no such attachment");
    }
    let addresses = context
        .delegate
        .as_ref()
        .map_or(Ok(()), |delegate| delegate.ask(Verb::Del));
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
