//! CHECK: what the daemon finds, what the runtime remembers, and what the network says, compared with each other.

use clearway_config::RateLimit;
use clearway_config::attach::{Attachment, AttachmentState, Route, VfSettings};

use super::{Context, about};
use crate::conf::{ConfError, Network};
use crate::environment::{Target, Verb};
use crate::error::{CniError, Code};
use crate::result::CniResult;

pub(super) fn check(context: &Context, target: &Target) -> Result<(), CniError> {
    let Context { conf, .. } = context;
    let network = conf.network()?;
    let remembered = conf.prev_result()?.ok_or(ConfError::Missing {
        field: "prevResult",
        advice: "CHECK compares with the result of ADD, which the runtime must hand over",
    })?;
    let attachment = context.daemon.attachment(&target.id).map_err(|error| {
        if !error.is_not_found() {
            return error.told(&about("check", target));
        }
        // "Unknown container" means that no DEL is needed; an IPAM plugin may still hold an address.
        let code = match context.delegate {
            None => Code::UnknownContainer,
            Some(_) => Code::NotAttached,
        };
        CniError::new(
            code,
            about("the daemon has no attachment of", target),
            "it was removed, or never made: the container is without this network until it is made anew",
        )
    })?;
    let mut findings = attachment.problems.clone();
    if attachment.state != AttachmentState::Ready {
        findings.push(format!("it is not complete: {}", attachment.state));
    }
    findings.extend(same_network(&network, target, &attachment));
    findings.extend(compare(&attachment, &remembered, target));
    if !findings.is_empty() {
        return Err(CniError::new(
            Code::Drifted,
            about("not as it should be:", target),
            findings.join("; "),
        ));
    }
    context.ask_delegate(Verb::Check)
}

/// What of the attachment is another network's: this one has been changed since ADD. What a network leaves to the daemon
/// may be anything.
fn same_network(network: &Network, target: &Target, attachment: &Attachment) -> Vec<String> {
    let mut findings = Vec::new();
    let wanted = &attachment.wanted;
    if network.mode.kind() != wanted.kind {
        findings.push(format!(
            "it is of kind {}, the network's mode is {}",
            wanted.kind, network.mode
        ));
    }
    if network.segment != wanted.segment {
        findings.push(format!(
            "it is in the segment {:?}, the network's is {:?}",
            wanted.segment, network.segment
        ));
    }
    let mut differ = |what: &str, found: String, wanted: String| {
        if found != wanted {
            findings.push(format!("{what} is {found}, the network's is {wanted}"));
        }
    };
    differ("its VF", settings(&wanted.vf), settings(&network.vf));
    if let Some(mtu) = network.mtu {
        differ("its MTU", attachment.mtu.to_string(), mtu.to_string());
    }
    if let Some(mac) = network.mac(target) {
        differ("its MAC address", attachment.mac.to_string(), mac.to_string());
    }
    differ(
        "its rate limit",
        limits(&wanted.rate_limit),
        limits(&network.rate_limit),
    );
    differ(
        "its `antiSpoof`",
        wanted.anti_spoof.to_string(),
        network.anti_spoof.to_string(),
    );
    findings
}

/// In the words between plugin and daemon.
fn settings(vf: &Option<VfSettings>) -> String {
    match serde_json::to_string(vf) {
        Ok(text) if vf.is_some() => text,
        _ => "none".to_owned(),
    }
}

/// In the words of the configuration, which are those between plugin and daemon.
fn limits(limit: &RateLimit) -> String {
    match serde_json::to_string(limit) {
        Ok(text) if !limit.is_empty() => text,
        _ => "none".to_owned(),
    }
}

/// What the daemon has against what the runtime remembers.
fn compare(attachment: &Attachment, remembered: &CniResult, target: &Target) -> Vec<String> {
    let netns = target.netns.display().to_string();
    let name = &target.id.interface;
    let ours = |i: &usize| {
        let interface = &remembered.interfaces[*i];
        interface.name == *name && interface.sandbox == netns
    };
    let Some(place) = (0..remembered.interfaces.len()).find(ours) else {
        return vec![format!("prevResult has no interface {name} in {netns}")];
    };
    let interface = &remembered.interfaces[place];
    let mut findings = Vec::new();
    let mut differ = |what: &str, remembered: &str, found: String| {
        // Older versions of the protocol do not tell everything.
        if !remembered.is_empty() && !remembered.eq_ignore_ascii_case(&found) {
            findings.push(format!("its {what} is {found:?}, prevResult has {remembered:?}"));
        }
    };
    differ("MAC address", &interface.mac, attachment.mac.to_string());
    let mtu = interface.mtu.map(|mtu| mtu.to_string()).unwrap_or_default();
    differ("MTU", &mtu, attachment.mtu.to_string());
    let socket = attachment.socket.as_ref().map(|path| path.display().to_string());
    differ("socket", &interface.socket_path, socket.unwrap_or_default());
    let vf = attachment.vf.as_ref().map(|vf| vf.pci.clone());
    differ("PCI device", &interface.pci_id, vf.unwrap_or_default());
    findings.extend(compare_addresses(attachment, remembered, place));
    findings
}

/// The same of addresses and routes; `place` is the interface's in `remembered`. A later plugin of the chain may have
/// changed routes, so one more is no finding, and neither is one that has another next hop now.
fn compare_addresses(attachment: &Attachment, remembered: &CniResult, place: usize) -> Vec<String> {
    let mut findings = Vec::new();
    let listed: Vec<_> = remembered
        .ips
        .iter()
        .filter(|ip| ip.interface == Some(place))
        .collect();
    for ip in &listed {
        if !attachment
            .addresses
            .ips
            .iter()
            .any(|found| found.address == ip.address)
        {
            findings.push(format!("it has not the address {} of prevResult", ip.address));
        }
    }
    for found in &attachment.addresses.ips {
        match listed.iter().find(|ip| ip.address == found.address) {
            None => findings.push(format!("its address {} is not in prevResult", found.address)),
            Some(ip) if ip.gateway != found.gateway => findings.push(format!(
                "the gateway of its address {} is {}, prevResult has {}",
                found.address,
                gateway(found.gateway),
                gateway(ip.gateway)
            )),
            Some(_) => {}
        }
    }
    for found in &attachment.addresses.routes {
        let listed = |route: &&Route| route.dst == found.dst;
        if remembered.routes.iter().find(listed).is_none() {
            findings.push(format!("its route to {} is not in prevResult", found.dst));
        }
    }
    findings
}

fn gateway(address: Option<std::net::IpAddr>) -> String {
    address.map_or_else(|| "none".into(), |address| address.to_string())
}
