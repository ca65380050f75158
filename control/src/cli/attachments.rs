//! `clearway get attachments` and `clearway why`: what pods were given, and why one does not get its packets.

use std::collections::BTreeMap;

use clearway_config::attach::{AttachedVf, Attachment, AttachmentId, AttachmentState, Ipam, Segment};
use serde::Serialize;

use super::args::Why;
use super::client::Client;
use super::error::CliError;
use super::output::{self, Show, grouped, or_dash, owned, table_of};
use crate::api::types::{
    BridgeDomainView, CounterView, DropView, DropsView, FdbView, PortView, State, TunnelView,
};
use crate::handle::{ApiError, ErrorCode};
use crate::store::Owner;

/// All attachments of this name: a container ID or its beginning, `NAMESPACE/POD` or `POD`, each also with `/INTERFACE`
/// behind it, or the name of the port.
pub(crate) fn named(client: &Client, name: &str) -> Result<Vec<Attachment>, CliError> {
    of_name(client.get("/v1/attachments")?, name)
}

fn of_name(all: Vec<Attachment>, name: &str) -> Result<Vec<Attachment>, CliError> {
    let count = all.len();
    let found: Vec<_> = all.into_iter().filter(|a| is_named(a, name)).collect();
    if found.is_empty() {
        let message = format!(
            "no attachment is {name:?}; there are {count}: `clearway get attachments` lists them (CONTAINER, POD or NAMESPACE/POD, each with /INTERFACE or without, or a port's name)"
        );
        return Err(CliError::Api {
            error: ApiError::not_found(message),
        });
    }
    Ok(found)
}

fn is_named(attachment: &Attachment, name: &str) -> bool {
    let interface = &attachment.id.interface;
    let whose = name.strip_suffix(&format!("/{interface}")).unwrap_or(name);
    let pod = attachment.wanted.pod.as_ref();
    attachment.port.as_ref().is_some_and(|port| port.as_str() == name)
        || !whose.is_empty() && attachment.id.container.starts_with(whose)
        || pod.is_some_and(|pod| pod.name == whose || pod.to_string() == whose)
}

/// `clearway why`: from the pod to the last drop.
pub(crate) fn why(client: &Client, args: &Why) -> Result<(), CliError> {
    let known = the_one(named(client, &args.attachment)?, &args.attachment)?;
    // Looked at now; the list is of when each was looked at last.
    let attachment = client.get(&known.api_path())?;
    let story = Story::tell(attachment, Seen::ask(client)?);
    output::print(&output::render(&story, args.output.format)?)
}

/// Of those of a name the only one.
fn the_one(found: Vec<Attachment>, name: &str) -> Result<AttachmentId, CliError> {
    match &found[..] {
        [one] => Ok(one.id.clone()),
        several => {
            let names: Vec<_> = several.iter().map(|a| a.id.to_string()).collect();
            let message = format!("{name:?} may be any of {}: say which", names.join(", "));
            Err(CliError::Api {
                error: ApiError::new(ErrorCode::BadRequest, message),
            })
        }
    }
}

/// What the daemon says of everything, in which that of one attachment is found.
#[derive(Default)]
struct Seen {
    ports: Vec<PortView>,
    domains: Vec<BridgeDomainView>,
    tunnels: Vec<TunnelView>,
    stations: Vec<FdbView>,
    counters: Vec<CounterView>,
    drops: Vec<DropView>,
}

impl Seen {
    fn ask(client: &Client) -> Result<Self, CliError> {
        let drops: DropsView = client.get("/v1/drops")?;
        Ok(Self {
            ports: client.get("/v1/ports")?,
            domains: client.get("/v1/bridge-domains")?,
            tunnels: client.get("/v1/tunnels")?,
            stations: client.get("/v1/fdb")?,
            counters: client.get("/v1/counters")?,
            drops: drops.drops,
        })
    }
}

/// Everything that a frame of an attachment depends on.
#[derive(Debug, Serialize)]
struct Story {
    attachment: Attachment,
    /// None: the engine has no such port.
    port: Option<PortView>,
    domains: Vec<BridgeDomainView>,
    tunnels: Vec<TunnelView>,
    /// Where its MAC address was seen.
    stations: Vec<FdbView>,
    /// What was dropped that it sent or should have got, most frequent first.
    drops: Vec<DropView>,
    /// What keeps its packets from flowing, the nearest to the pod first; empty: nothing that can be seen from here.
    causes: Vec<String>,
}

impl Story {
    fn tell(attachment: Attachment, seen: Seen) -> Self {
        // A VF has no port; nothing of the engine is about it.
        let name = attachment
            .port
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let port = seen.ports.into_iter().find(|port| port.name == name);
        let mut domains = seen.domains;
        let member = |member: &String| {
            !name.is_empty() && (*member == name || member.starts_with(&format!("{name}:")))
        };
        domains.retain(|domain| domain.members.iter().any(member));
        let mut tunnels = seen.tunnels;
        // Those to which floods are copied, and those to single stations.
        tunnels.retain(|tunnel| {
            domains
                .iter()
                .any(|domain| tunnel.bridge_domains.contains_key(&domain.name))
        });
        let mut stations = seen.stations;
        stations.retain(|station| station.mac == attachment.mac);
        let counters = seen.counters.into_iter().find(|counters| counters.port == name);
        let counters = counters.map(|c| c.counters).unwrap_or_default();
        let drops = drops_of(&name, &counters, seen.drops);
        let mut story = Self {
            attachment,
            port,
            domains,
            tunnels,
            stations,
            drops,
            causes: Vec::new(),
        };
        story.causes = story.judge();
        story
    }

    fn judge(&self) -> Vec<String> {
        let mut causes = self.attachment.problems.clone();
        if self.attachment.state != AttachmentState::Ready {
            causes.push(format!("it is {}", self.attachment.state));
        }
        let of_program = |vf: &AttachedVf| vf.interface.is_none();
        let has_interface =
            self.attachment.socket.is_none() && !self.attachment.vf.as_ref().is_some_and(of_program);
        if self.attachment.addresses.ips.is_empty() && has_interface {
            let reason = match self.attachment.wanted.ipam {
                Ipam::None => "its network has no `ipam`",
                _ => "the IPAM plugin of its network has not given it one",
            };
            causes.push(format!("it has no IP address: {reason}"));
        }
        match (&self.port, &self.attachment.port) {
            (None, None) => {}
            (None, Some(name)) => causes.push(format!("the engine has no port {name}")),
            (Some(port), _) => {
                let reason = port
                    .reason
                    .iter()
                    .map(|reason| format!("port {}: {reason}", port.name));
                // Whoever has looked at the attachment has most likely found the same.
                let news: Vec<_> = reason.filter(|reason| !causes.contains(reason)).collect();
                causes.extend(news);
                causes.extend(
                    port.warnings
                        .iter()
                        .map(|warning| format!("port {}: {warning}", port.name)),
                );
                if port.state == State::Up && port.rx_packets == 0 {
                    causes.push(format!(
                        "port {} has never received a frame from the pod",
                        port.name
                    ));
                }
            }
        }
        for domain in &self.domains {
            let mut tunnels = self.tunnels.iter();
            let elsewhere = tunnels.any(|tunnel| tunnel.bridge_domains.contains_key(&domain.name));
            if domain.members.len() < 2 && !elsewhere {
                causes.push(format!("bridge domain {} has no other member", domain.name));
            }
        }
        for tunnel in self.tunnels.iter().filter(|tunnel| tunnel.state == State::Down) {
            let reason = tunnel.reason.as_deref().unwrap_or("no reason is known");
            causes.push(format!("tunnel {} is down: {reason}", tunnel.name));
        }
        causes
    }
}

/// The drops of one port, with what is known of their reasons.
fn drops_of(port: &str, counters: &BTreeMap<String, u64>, known: Vec<DropView>) -> Vec<DropView> {
    let mut drops: Vec<_> = known
        .into_iter()
        .filter_map(|drop| {
            let packets = counters.get(&format!("drop_{}", drop.reason)).copied();
            let packets = packets
                .or_else(|| drop.ports.get(port).copied())
                .filter(|packets| *packets > 0)?;
            Some(DropView { packets, ..drop })
        })
        .collect();
    drops.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
    drops
}

/// Lists are tables; the lines below say what is wrong.
impl Show for Vec<Attachment> {
    fn show(&self) -> String {
        listed(self, false)
    }

    fn wide(&self) -> String {
        listed(self, true)
    }
}

fn listed(all: &[Attachment], wide: bool) -> String {
    if all.is_empty() {
        return "no attachments: no pod was attached through clearway-cni\n".into();
    }
    let mut text = table_of(
        wide,
        &[
            "CONTAINER",
            "INTERFACE",
            "POD",
            "STATE",
            "KIND",
            "SEGMENT",
            "PORT",
            "MAC",
            "ADDRESSES",
        ],
        all.iter().map(|a| {
            let row = vec![
                a.id.container.chars().take(12).collect(),
                a.id.interface.clone(),
                or_dash(a.wanted.pod.as_ref()),
                if a.problems.is_empty() {
                    a.state.to_string()
                } else {
                    "degraded".to_owned()
                },
                a.wanted.kind.to_string(),
                segment_of(a),
                or_dash(a.port.as_ref().map(ToString::to_string).or(vf_of(a))),
                or_dash((!a.mac.is_zero()).then_some(a.mac)),
                addresses(a),
            ];
            (row, owned(Owner::Cni, a.generation))
        }),
    );
    for attachment in all {
        for problem in &attachment.problems {
            text.push_str(&format!("{}: {problem}\n", attachment.id));
        }
    }
    text
}

/// The PCI address of its VF.
fn vf_of(attachment: &Attachment) -> Option<String> {
    attachment.vf.as_ref().map(|vf| vf.pci.clone())
}

fn addresses(attachment: &Attachment) -> String {
    let ips = attachment.addresses.ips.iter();
    let ips: Vec<_> = ips.map(|ip| ip.address.to_string()).collect();
    or_dash((!ips.is_empty()).then(|| ips.join(" ")))
}

fn segment_of(attachment: &Attachment) -> String {
    match &attachment.wanted.segment {
        Segment::Domain(name) => name.to_string(),
        Segment::Vlan(vid) => format!("vlan {vid}"),
        Segment::Vni(vni) => format!("vni {vni}"),
        // The VLAN that its NIC puts it into.
        Segment::Pf => {
            let vlan = attachment.wanted.vf.as_ref().and_then(|vf| vf.vlan);
            or_dash(vlan.filter(|vlan| *vlan != 0).map(|vlan| format!("vlan {vlan}")))
        }
        Segment::Trunk { items, native } => {
            let items: Vec<_> = items.iter().map(ToString::to_string).collect();
            let native = native.as_ref().map(|native| format!(" native {native}"));
            format!("trunk {}{}", items.join(","), native.unwrap_or_default())
        }
    }
}

impl Show for Story {
    fn show(&self) -> String {
        let a = &self.attachment;
        let mut text = format!("attachment  {} ({})\n", a.id, a.state);
        let mut line = |key: &str, value: String| text.push_str(&format!("{key:<10}  {value}\n"));
        if let Some(pod) = &a.wanted.pod {
            line("pod", pod.to_string());
        }
        line("network", a.wanted.network.clone());
        line("netns", a.wanted.netns.display().to_string());
        match (&a.socket, &a.vf) {
            (Some(socket), _) => line("socket", socket.display().to_string()),
            (None, Some(AttachedVf { interface: None, .. })) => {
                line("interface", "none: a program drives the VF".to_owned());
            }
            _ => line(
                "interface",
                format!("{} ({}, {}, MTU {})", a.id.interface, a.wanted.kind, a.mac, a.mtu),
            ),
        }
        line("addresses", addresses(a));
        if let Some(vf) = &a.vf {
            line("vf", vf_line(vf));
        }
        match (&self.port, &a.port) {
            (Some(port), _) => line("port", port_line(port)),
            (None, Some(name)) => line("port", format!("{name} (not in the engine)")),
            (None, None) => {}
        }
        for domain in &self.domains {
            let members = domain.members.join(", ");
            line(
                "domain",
                format!("{} (members {members}; {} MACs)", domain.name, domain.macs),
            );
        }
        for tunnel in &self.tunnels {
            line("tunnel", format!("{} ({})", tunnel.name, tunnel.state));
        }
        for station in &self.stations {
            line("seen", station_line(station));
        }
        for drop in &self.drops {
            line("dropped", drop_line(drop));
        }
        text.push('\n');
        if self.causes.is_empty() {
            text.push_str("Nothing is wrong that can be seen from here.\n");
        }
        for cause in &self.causes {
            text.push_str(&format!("- {cause}\n"));
        }
        text
    }
}

fn vf_line(vf: &AttachedVf) -> String {
    let AttachedVf {
        pci,
        pf,
        index,
        driver,
        interface,
        generation,
    } = vf;
    let name = interface.as_ref().map(|name| format!(", {name} on the host"));
    format!(
        "{pci} (VF {index} of {pf}, {driver}{}, lease {generation})",
        name.unwrap_or_default()
    )
}

fn station_line(station: &FdbView) -> String {
    let remote = station.remote.map(|remote| remote.to_string());
    let place = or_dash(station.port.clone().or(remote));
    format!("{} in {} behind {place}", station.mac, station.bridge_domain)
}

fn drop_line(drop: &DropView) -> String {
    let packets = grouped(drop.packets);
    format!("{packets} {}: {} {}", drop.reason, drop.text, drop.advice)
}

fn port_line(port: &PortView) -> String {
    let reason = port
        .reason
        .as_ref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    format!(
        "{} ({}{reason}), {} frames from the pod, {} to it",
        port.name,
        port.state,
        grouped(port.rx_packets),
        grouped(port.tx_packets)
    )
}

#[cfg(test)]
mod tests;
