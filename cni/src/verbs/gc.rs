//! GC: everything of this network that is not named is removed, the interfaces before their addresses: one that stays keeps
//! its address. With an IPAM plugin that gives addresses back through the interface (`dhcp`) it is the other way round, and
//! a failure of the plugin does not keep the interfaces from going.

use clearway_config::attach::Collect;

use super::Context;
use crate::daemon::DaemonError;
use crate::environment::Verb;
use crate::error::CniError;

pub(super) fn gc(context: &Context) -> Result<(), CniError> {
    let Context { conf, .. } = context;
    let collect = Collect {
        network: conf.name.clone(),
        valid: conf.valid_attachments()?,
    };
    let failed =
        |error: &DaemonError| error.told(&format!("remove stale attachments of the network {}", conf.name));
    let told = |error: DaemonError| {
        let mut told = failed(&error);
        if context.delegate.is_some() {
            told.details += "; the IPAM plugin was not asked: what is still attached keeps its addresses";
        }
        told
    };
    let remove = || {
        let removed = context.daemon.collect(&collect)?.removed;
        let removed: Vec<_> = removed.iter().map(ToString::to_string).collect();
        context.log.info(&format!("stale: {}", removed.join(", ")));
        Ok(())
    };
    if !context.needs_interface() {
        remove().map_err(told)?;
        return context.ask_delegate(Verb::Gc);
    }
    // One that does not answer forwards nothing either, and could not remove what has given its address back.
    context.daemon.keeps_attachments().map_err(told)?;
    let forwarded = context.ask_delegate(Verb::Gc);
    let removed = remove().map_err(|error| failed(&error));
    match (removed, forwarded) {
        (Err(one), Err(other)) => Err(one.and(other)),
        (removed, forwarded) => removed.and(forwarded),
    }
}
