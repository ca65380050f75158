//! GC: everything of this network that is not named is removed; a failure does not keep the rest from being done.

use clearway_config::attach::Collect;

use super::Context;
use crate::environment::Verb;
use crate::error::CniError;

pub(super) fn gc(context: &Context) -> Result<(), CniError> {
    let Context { conf, .. } = context;
    let collect = Collect {
        network: conf.name.clone(),
        valid: conf.valid_attachments()?,
    };
    let collected = context
        .daemon
        .collect(&collect)
        .map_err(|error| error.told(&format!("remove stale attachments of the network {}", conf.name)));
    if let Ok(collected) = &collected {
        let removed: Vec<_> = collected.removed.iter().map(ToString::to_string).collect();
        context.log.info(&format!("stale: {}", removed.join(", ")));
    }
    let forwarded = context.ask_delegate(Verb::Gc);
    match (collected, forwarded) {
        (Err(one), Err(other)) => Err(one.and(other)),
        (collected, forwarded) => collected.map(|_| ()).and(forwarded),
    }
}
