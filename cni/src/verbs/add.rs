//! ADD.
//!
//! ```text
//!   every field looked at ─┬─► delegate ADD ──────────────────────┬─► daemon: addresses ─► device information file ─► result
//!                          └─► daemon: attach, addresses to come ─┘
//!                            ◄─ daemon: detach ◄─ delegate DEL ◄──────── a step fails ────────
//! ```
//!
//! A vhost-user socket has no interface to be made meanwhile:
//!
//! ```text
//!   every field looked at ─► delegate ADD ─► daemon: attach ─► device information file ─► result
//! ```
//!
//! The `dhcp` plugin speaks through the interface, which must be there first, and until the lease is given back:
//!
//! ```text
//!   every field looked at ─► daemon: attach, addresses awaited ─► delegate ADD ─► daemon: addresses ─► … as above
//!                            ◄─ daemon: detach ◄─ delegate DEL ◄──────── a step fails ────────
//! ```

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{panic, thread};

use clearway_config::attach::{Addresses, Attach, Attachment, Ipam};
use clearway_wire::MacAddr;
use serde_json::Value;

use super::{Context, about};
use crate::conf::Conf;
use crate::daemon::DaemonError;
use crate::delegate::Delegate;
use crate::devinfo;
use crate::environment::{Target, Verb};
use crate::error::{CniError, Code};
use crate::result::{CniResult, Dns, Interface};

pub(super) fn add(context: &Context, target: &Target) -> Result<Value, CniError> {
    let conf = context.conf;
    refuse_own_namespace(target)?;
    let network = conf.network()?;
    let mut result = conf.prev_result()?.unwrap_or_default();
    let netns = target.netns.display().to_string();
    if result
        .interfaces
        .iter()
        .any(|interface| interface.name == target.id.interface && interface.sandbox == netns)
    {
        return Err(exists(
            target,
            "prevResult already has it: an earlier plugin of the chain made it",
        ));
    }
    let wanted = |given| network.attach(&conf.name, target, given);
    let first = wanted(Addresses::default());
    let (attachment, dns) = match &context.delegate {
        None => (attach(context, target, &first)?, Dns::default()),
        Some(delegate) => {
            refuse_existing(context, target)?;
            delegate.find()?;
            match first.ipam {
                Ipam::Awaited => interface_first(context, target, delegate, &first)?,
                Ipam::Delegated => both_at_once(context, target, delegate, &first)?,
                _ => addresses_first(context, target, delegate, wanted)?,
            }
        }
    };
    inform(conf, &attachment).inspect_err(|_| take_back(context, target))?;
    let dns = if dns.is_empty() { &network.dns } else { &dns };
    result.extend(interfaces(&attachment, &netns), &attachment.addresses, dns);
    Ok(result.in_version(conf.version))
}

fn addresses_first(
    context: &Context,
    target: &Target,
    delegate: &Delegate,
    wanted: impl Fn(Addresses) -> Attach,
) -> Result<(Attachment, Dns), CniError> {
    let made = delegate.add().and_then(|chosen| {
        let attachment = attach(context, target, &wanted(chosen.addresses()))?;
        Ok((attachment, chosen.dns))
    });
    // The specification asks for a DEL of the delegate after any failure of its ADD too.
    made.inspect_err(|_| take_back_addresses(context, delegate))
}

fn interface_first(
    context: &Context,
    target: &Target,
    delegate: &Delegate,
    wanted: &Attach,
) -> Result<(Attachment, Dns), CniError> {
    attach(context, target, wanted)?;
    let addressed = delegate
        .add()
        .and_then(|chosen| set_addresses(context, target, chosen));
    addressed.inspect_err(|_| take_back(context, target))
}

/// Neither needs the other until both are done, and each takes milliseconds.
fn both_at_once(
    context: &Context,
    target: &Target,
    delegate: &Delegate,
    wanted: &Attach,
) -> Result<(Attachment, Dns), CniError> {
    let (chosen, made) = thread::scope(|scope| {
        let choosing = scope.spawn(|| delegate.add());
        let made = attach(context, target, wanted);
        let chosen = choosing.join();
        (chosen.unwrap_or_else(|panic| panic::resume_unwind(panic)), made)
    });
    // What the daemon has of this name now, if anything, is not of this call.
    made.inspect_err(|_| take_back_addresses(context, delegate))?;
    let addressed = chosen.and_then(|chosen| set_addresses(context, target, chosen));
    addressed.inspect_err(|_| take_back(context, target))
}

fn set_addresses(
    context: &Context,
    target: &Target,
    chosen: CniResult,
) -> Result<(Attachment, Dns), CniError> {
    let set = context.daemon.set_addresses(&target.id, &chosen.addresses());
    Ok((set.map_err(|error| unaddressed(&error, target))?, chosen.dns))
}

/// Why the addresses that an IPAM plugin has found are not the interface's.
fn unaddressed(error: &DaemonError, target: &Target) -> CniError {
    let mut told = error.told(&about("give the addresses of the IPAM plugin to", target));
    if error.is_not_found() {
        told.code = Code::TryAgainLater.number();
        told.details = format!(
            "{error}: it was taken back meanwhile, by a daemon that was started anew or by a DEL; the runtime may try again"
        );
    }
    told
}

/// All of it; while the interface is there, if the IPAM plugin needs that.
fn take_back(context: &Context, target: &Target) {
    let addresses = || {
        let delegate = context.delegate.as_ref();
        delegate.map(|delegate| take_back_addresses(context, delegate))
    };
    if context.needs_interface() {
        addresses();
        detach(context, target);
    } else {
        detach(context, target);
        addresses();
    }
}

fn attach(context: &Context, target: &Target, wanted: &Attach) -> Result<Attachment, CniError> {
    context.daemon.attach(&target.id, wanted).map_err(|error| {
        if error.is_unclear() {
            // It may be there, or still come: the runtime's DEL would find it, and no runtime should have to.
            detach(context, target);
        }
        error.told(&about("attach", target))
    })
}

fn detach(context: &Context, target: &Target) {
    if let Err(error) = context.daemon.detach(&target.id) {
        context
            .log
            .warning(&format!("the attachment is not taken back: {error}"));
    }
}

fn take_back_addresses(context: &Context, delegate: &Delegate) {
    if let Err(error) = delegate.ask(Verb::Del) {
        context
            .log
            .warning(&format!("the addresses are not taken back: {error}"));
    }
}

/// A container that shares the host's network has nothing to be attached to: the interface would be the host's.
fn refuse_own_namespace(target: &Target) -> Result<(), CniError> {
    let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    match (identity(&target.netns), identity(Path::new("/proc/self/ns/net"))) {
        (Some(theirs), Some(ours)) if theirs == ours => Err(CniError::new(
            Code::Environment,
            format!(
                "CNI_NETNS is {:?}, the namespace that clearway-cni itself runs in",
                target.netns
            ),
            "the runtime must give the container's own network namespace",
        )),
        // Whether it is there is the daemon's to find out.
        _ => Ok(()),
    }
}

/// A second ADD must not reach the IPAM plugin: it would fail there, and the DEL that follows would free the addresses
/// of the interface that is there.
fn refuse_existing(context: &Context, target: &Target) -> Result<(), CniError> {
    match context.daemon.attachment(&target.id) {
        Ok(_) => Err(exists(target, "the daemon has this attachment")),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.told(&about("attach", target))),
    }
}

fn exists(target: &Target, reason: &str) -> CniError {
    CniError::new(
        Code::Conflict,
        about("clearway-cni could not attach", target),
        format!("{reason}; remove it first (DEL), or choose another CNI_IFNAME"),
    )
}

/// Tells the pod's application of its vhost-user socket, or of its VF.
fn inform(conf: &Conf, attachment: &Attachment) -> Result<(), CniError> {
    let Some(path) = conf.device_info_file() else {
        return Ok(());
    };
    let info = match (&attachment.socket, &attachment.vf) {
        (Some(socket), _) => {
            let client = attachment.wanted.vhost.as_ref().is_some_and(|vhost| vhost.client);
            devinfo::vhost_user(socket, client)
        }
        // The file of a device plugin, which Multus has copied there, says the same and more.
        (None, Some(vf)) if devinfo::is_of_pci(&path, &vf.pci) => return Ok(()),
        (None, Some(vf)) => devinfo::pci(vf),
        (None, None) => return Ok(()),
    };
    devinfo::write(&path, &info).map_err(|error| {
        CniError::new(
            Code::Io,
            error.to_string(),
            "nothing is attached; make its folder writable, or take CNIDeviceInfoFile out of the network's capabilities",
        )
    })
}

/// The daemon's end, if the host sees it, and the container's. Of a VF without an interface MTU and, where a program chooses
/// it, MAC address are not known.
fn interfaces(attachment: &Attachment, netns: &str) -> Vec<Interface> {
    let host = attachment.host_interface.as_ref().map(|name| Interface {
        name: name.clone(),
        mtu: Some(attachment.mtu.into()),
        ..Interface::default()
    });
    let known = |mac: MacAddr| {
        if mac.is_zero() {
            String::new()
        } else {
            mac.to_string()
        }
    };
    let container = Interface {
        name: attachment.id.interface.clone(),
        mac: known(attachment.mac),
        mtu: Some(attachment.mtu.into()).filter(|mtu| *mtu != 0),
        sandbox: netns.into(),
        socket_path: attachment
            .socket
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        pci_id: attachment
            .vf
            .as_ref()
            .map(|vf| vf.pci.clone())
            .unwrap_or_default(),
    };
    host.into_iter().chain([container]).collect()
}
