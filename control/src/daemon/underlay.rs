//! VTEPs and tunnels: which port carries a VTEP, and which way the kernel would go to each remote. Of a VTEP whose next
//! hop is configured the kernel is asked nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use clearway_config::{Name, PortKind, Spec, Vtep};
use clearway_io::VtepFilter;

use super::control::Control;
use crate::compile::{Facts, Path, VtepFacts};
use crate::host::HostError;
use crate::host::links::Link;
use crate::host::routes::{NextHop, Resolution, Wanted};
use crate::host::watch::{NextHopWatch, Timing};

/// A VTEP and a remote.
type End = (Name, IpAddr);

/// What is known of the underlay.
pub(super) struct Underlay {
    hops: NextHopWatch,
    ends: BTreeMap<End, (Wanted, Resolution)>,
    /// Each VTEP's port, or why it has none.
    vteps: BTreeMap<Name, Result<VtepFacts, String>>,
    /// Why a tunnel with a next hop can't use it.
    detours: BTreeMap<End, String>,
    /// The way to all remotes of the VTEPs whose next hop is configured.
    configured: BTreeMap<Name, Path>,
}

/// What is known of the way to a remote.
#[derive(Default)]
pub(super) struct Way<'a> {
    /// The port that leads there.
    pub(super) port: Option<&'a Name>,
    /// The next hop's address; none: it is configured, or not known.
    pub(super) next_hop: Option<IpAddr>,
    /// The way beyond the port.
    pub(super) path: Option<Path>,
    /// Why it can't be used.
    pub(super) reason: Option<String>,
}

/// Bytes of the largest IP packet of an underlay of which nobody says it: Ethernet's (RFC 894 §2).
const MTU: u32 = 1500;

impl Underlay {
    pub(super) fn open() -> Result<Self, HostError> {
        Ok(Self {
            hops: NextHopWatch::open(Timing::default())?,
            ends: BTreeMap::new(),
            vteps: BTreeMap::new(),
            detours: BTreeMap::new(),
            configured: BTreeMap::new(),
        })
    }

    /// When there is something to do though nothing was heard.
    pub(super) fn deadline(&self) -> Instant {
        self.hops.deadline()
    }

    /// What is steered to a port for the VTEPs that it carries.
    pub(super) fn filters(&self, spec: &Spec, port: &Name) -> Vec<VtepFilter> {
        let carried = self.vteps.iter().filter_map(|(name, vtep)| {
            let vtep = vtep.as_ref().ok()?;
            (vtep.port == *port).then(|| spec.vteps.get(name))?
        });
        carried
            .map(|vtep| VtepFilter {
                address: vtep.local,
                port: vtep.udp_port,
                vid: vtep.vlan.map(|vid| vid.get()),
            })
            .collect()
    }

    /// The VTEPs that a port carries.
    pub(super) fn carried_by(&self, port: &Name) -> Vec<Name> {
        let carried = |vtep: &Result<VtepFacts, String>| vtep.as_ref().is_ok_and(|vtep| vtep.port == *port);
        self.vteps
            .iter()
            .filter(|(_, vtep)| carried(vtep))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The way of a tunnel, or why it has none.
    pub(super) fn tunnel(&self, vtep: &Name, remote: IpAddr) -> Way<'_> {
        let because = |reason: String| Way {
            reason: Some(reason),
            ..Way::default()
        };
        let port = match self.vteps.get(vtep) {
            Some(Ok(found)) => Some(&found.port),
            Some(Err(reason)) => return because(reason.clone()),
            None => return because("its VTEP is not known".to_owned()),
        };
        if let Some(path) = self.configured.get(vtep) {
            let path = Some(*path);
            return Way {
                port,
                path,
                ..Way::default()
            };
        }
        let end = (vtep.clone(), remote);
        match self.ends.get(&end) {
            Some((_, Ok(hop))) => Way {
                port,
                next_hop: Some(hop.gateway.unwrap_or(remote)),
                path: Some(path(hop)),
                reason: self.detours.get(&end).cloned(),
            },
            Some((_, Err(reason))) => Way {
                port,
                ..because(reason.to_string())
            },
            None => Way {
                port,
                ..because("its next hop is not known".to_owned())
            },
        }
    }

    /// Follows the next hops of these tunnels, and of no others.
    fn follow(&mut self, wanted: BTreeMap<End, Wanted>) {
        let stale: Vec<_> = self
            .ends
            .iter()
            .filter(|(end, (old, _))| wanted.get(*end) != Some(old))
            .map(|(end, _)| end.clone())
            .collect();
        for end in stale {
            if let Some((old, _)) = self.ends.remove(&end)
                && !wanted.values().any(|other| *other == old)
            {
                self.hops.unwant(old);
            }
        }
        for (end, wanted) in wanted {
            if self.ends.contains_key(&end) {
                continue;
            }
            match self.hops.want(wanted) {
                Ok(resolution) => {
                    self.ends.insert(end, (wanted, resolution));
                }
                Err(error) => tracing::error!(vtep = %end.0, remote = %end.1, %error, "its next hop"),
            }
        }
    }
}

impl AsFd for Underlay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.hops.as_fd()
    }
}

impl Control {
    /// The host's next hops may have changed: tables follow.
    pub(super) fn underlay_news(&mut self) {
        match self.underlay.hops.process() {
            Ok(changes) => {
                let mut news = false;
                for (wanted, resolution) in changes {
                    for ((vtep, remote), (of, known)) in &mut self.underlay.ends {
                        if *of == wanted {
                            match &resolution {
                                Ok(hop) => {
                                    tracing::info!(%vtep, %remote, interface = hop.interface, mac = %hop.dst_mac, "next hop");
                                }
                                Err(reason) => tracing::warn!(%vtep, %remote, %reason, "no next hop"),
                            }
                            known.clone_from(&resolution);
                            news = true;
                        }
                    }
                }
                // An address that came may be a VTEP's.
                if news || self.underlay.vteps.values().any(Result::is_err) {
                    self.republish();
                }
            }
            Err(error) => tracing::error!(%error, "following the next hops failed"),
        }
    }

    /// Fills in what the host says of the VTEPs and tunnels of a spec.
    pub(super) fn underlay_facts(&mut self, spec: &Spec, facts: &mut Facts) {
        let vteps: BTreeMap<_, _> = spec
            .vteps
            .iter()
            .map(|(name, vtep)| (name.clone(), self.locate(spec, vtep)))
            .collect();
        self.underlay.vteps = vteps;
        let configured = spec.vteps.iter();
        self.underlay.configured = configured
            .filter_map(|(name, vtep)| Some((name.clone(), configured_path(spec, facts, vtep)?)))
            .collect();
        let mut wanted = BTreeMap::new();
        for (name, remote) in ends(spec, facts) {
            let Some(vtep) = spec.vteps.get(&name) else {
                continue;
            };
            if let Some(path) = self.underlay.configured.get(&name) {
                facts.paths.insert((name, remote), *path);
                continue;
            }
            let want = Wanted {
                remote,
                local: Some(vtep.local),
                udp_port: vtep.udp_port,
            };
            wanted.insert((name, remote), want);
        }
        self.underlay.follow(wanted);
        let mut detours = BTreeMap::new();
        for (end, (_, resolution)) in &self.underlay.ends {
            let (Some(Ok(vtep)), Ok(hop)) = (self.underlay.vteps.get(&end.0), resolution) else {
                continue;
            };
            let Some(interface) = spec
                .ports
                .get(&vtep.port)
                .and_then(|port| port.interface.as_deref())
            else {
                continue;
            };
            if leads_through(&mut self.host, hop, interface) {
                facts.paths.insert(end.clone(), path(hop));
            } else {
                detours.insert(
                    end.clone(),
                    format!(
                        "the kernel's route leads out of {}, not of {interface}, the interface of port {}: change the route or the VTEP's `port`",
                        hop.interface, vtep.port
                    ),
                );
            }
        }
        self.underlay.detours = detours;
        let located = self.underlay.vteps.iter();
        facts.vteps = located
            .filter_map(|(name, vtep)| Some((name.clone(), vtep.as_ref().ok()?.clone())))
            .collect();
    }

    /// The port that carries a VTEP, and its MAC address.
    fn locate(&mut self, spec: &Spec, vtep: &Vtep) -> Result<VtepFacts, String> {
        if let (Some(port), Some(mac)) = (&vtep.port, vtep.mac) {
            let kind = spec.ports.get(port).map(|port| port.kind);
            return Ok(VtepFacts {
                port: port.clone(),
                mac,
                answers: kind != Some(PortKind::AfXdp),
            });
        }
        let owner = self
            .host
            .local_address_owner(vtep.local)
            .map_err(|error| error.to_string())?
            .and_then(|name| self.host.link(&name).ok());
        let port = match (&vtep.port, &owner) {
            (Some(port), _) => port.clone(),
            (None, None) => {
                return Err(format!(
                    "no interface has the local address {0}: add it with `ip address add`",
                    vtep.local
                ));
            }
            (None, Some(owner)) => self.port_of(spec, owner).ok_or_else(|| {
                format!(
                    "interface {} has the local address {}, but is no port: add it as a port, or name the VTEP's `port`",
                    owner.name, vtep.local
                )
            })?,
        };
        // Frames come for the address of whoever asked for them on this wire: the port's interface, or what stands
        // upon it. An address that is kept elsewhere (on a dummy or an empty bridge, routed to us) is reached through the
        // port's interface, and has no MAC address of its own here.
        let interface = spec.ports.get(&port).and_then(|port| port.interface.as_deref());
        let below = interface.and_then(|name| self.host.link(name).ok());
        let own = owner
            .as_ref()
            .filter(|owner| below.as_ref().is_some_and(|below| stands_on(owner, below)))
            .and_then(|owner| owner.mac)
            .filter(|mac| !mac.is_zero());
        let entry = self.ports.get(&port);
        let state = entry.and_then(|entry| entry.link());
        let mac = own.or_else(|| state.and_then(|link| link.mac));
        match (mac, entry.and_then(|entry| entry.why_down())) {
            (Some(mac), _) => Ok(VtepFacts {
                port,
                mac,
                answers: false,
            }),
            (None, Some(reason)) => Err(format!("port {port} is down: {reason}")),
            (None, None) => Err(format!("the interface of port {port} has no MAC address")),
        }
    }

    /// The port of an interface, or of the one that it stands upon (a VLAN's parent).
    fn port_of(&mut self, spec: &Spec, link: &Link) -> Option<Name> {
        let has = |name: &str| {
            let port = spec
                .ports
                .iter()
                .find(|(_, port)| port.interface.as_deref() == Some(name));
            port.map(|(name, _)| name.clone())
        };
        has(&link.name).or_else(|| {
            let lower = link.lower.filter(|_| link.lower_netnsid.is_none())?;
            let lower = self
                .host
                .links()
                .ok()?
                .into_iter()
                .find(|other| other.ifindex == lower)?;
            has(&lower.name)
        })
    }
}

/// The way that the kernel goes.
fn path(hop: &NextHop) -> Path {
    Path {
        src_mac: hop.src_mac,
        dst_mac: hop.dst_mac,
        mtu: hop.mtu,
    }
}

/// The way to all remotes of a VTEP whose next hop is configured.
fn configured_path(spec: &Spec, facts: &Facts, vtep: &Vtep) -> Option<Path> {
    let (name, src_mac, dst_mac) = (vtep.port.as_ref()?, vtep.mac?, vtep.next_hop?);
    let configured = spec.ports.get(name)?.mtu.map(u32::from);
    let mtu = configured.or_else(|| facts.ports.get(name)?.mtu);
    Some(Path {
        src_mac,
        dst_mac,
        mtu: mtu.unwrap_or(MTU),
    })
}

/// Whether what the kernel sends by this next hop leaves through an interface.
fn leads_through(host: &mut crate::host::Host, hop: &NextHop, interface: &str) -> bool {
    if hop.interface == interface {
        return true;
    }
    let (Ok(out), Ok(port)) = (host.link(&hop.interface), host.link(interface)) else {
        return false;
    };
    stands_on(&out, &port)
}

/// Whether an interface's frames are those of a port's interface: itself, a VLAN above it, or a bridge or bond that it
/// belongs to.
fn stands_on(upper: &Link, port: &Link) -> bool {
    upper.ifindex == port.ifindex
        || upper.lower == Some(port.ifindex) && upper.lower_netnsid.is_none()
        || port.master == Some(upper.ifindex)
}

/// All tunnels that a spec and the stations added by hand ask for.
fn ends(spec: &Spec, facts: &Facts) -> BTreeSet<End> {
    let mut ends = BTreeSet::new();
    for domain in spec.bridge_domains.values() {
        let Some((vtep, _)) = spec.vtep_of(domain) else {
            continue;
        };
        let stations = domain.statics.iter().filter_map(|station| station.remote);
        for remote in domain.remotes.iter().copied().chain(stations) {
            ends.insert((vtep.clone(), remote));
        }
    }
    for ((domain, _), station) in &facts.manual {
        let vtep = spec
            .bridge_domains
            .get(domain)
            .and_then(|domain| spec.vtep_of(domain));
        if let (Some((vtep, _)), Some(remote)) = (vtep, station.remote) {
            ends.insert((vtep.clone(), remote));
        }
    }
    ends
}
