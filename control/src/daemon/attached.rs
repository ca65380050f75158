//! Ports of attachments beside those of the configuration.
//!
//! ```text
//!   configuration (file, `apply`) ──┐
//!                                   ├─► spec in use ─► plan, compile
//!   attachments (CNI) ── resolve ───┘
//! ```
//!
//! Each has its owner: `apply` replaces the configuration and never takes a pod's port away; one that would leave a pod
//! without its bridge domain is refused. At the start, where nobody can be told, such a pod's port waits instead.

use std::collections::BTreeMap;
use std::path::Path;

use clearway_config::attach::{AttachmentId, Segment};
use clearway_config::{AddressPool, Name, Port, PortKind, Spec, TrunkItem};

use super::control::Control;
use super::open::OpenError;
use super::ports::PortState;
use super::vhost;
use crate::handle::{ApiError, ErrorCode};
use crate::host::pod::PodNetns;
use crate::reconcile::Action;

/// A port that an attachment asks for.
#[derive(Debug, Clone)]
pub(crate) struct AttachedPort {
    /// Whose it is.
    pub(crate) id: AttachmentId,
    /// The port, without its layer 2 service.
    pub(crate) port: Port,
    /// The service.
    pub(crate) segment: Segment,
    /// Where the pod is: the offloads of a veth's far end are turned off there.
    pub(crate) netns: PodNetns,
}

/// What the configuration has for an attachment to stand on.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// The bridge domain of its untagged frames.
    pub(crate) domain: Option<Name>,
    /// All address pools.
    pub(crate) pools: BTreeMap<Name, AddressPool>,
}

impl AttachedPort {
    /// The port as this configuration makes it; none: its segment does not exist.
    fn resolve(&self, spec: &Spec) -> Result<Port, NoSegment> {
        let mut port = self.port.clone();
        match &self.segment {
            Segment::Trunk { items, native } => {
                let mapped = items.iter().filter_map(|item| match item {
                    TrunkItem::Map(map) => Some(&map.bridge_domain),
                    _ => None,
                });
                for domain in mapped.chain(native) {
                    domain_of(&Segment::Domain(domain.clone()), spec)?;
                }
                port.trunk.clone_from(items);
                port.native.clone_from(native);
            }
            segment => port.access = Some(domain_of(segment, spec)?),
        }
        Ok(port)
    }
}

/// There is no such segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} does not exist in the configuration: {advice}")]
pub(crate) struct NoSegment {
    what: String,
    advice: String,
}

/// The domain of untagged frames, where there has to be one.
fn domain_of(segment: &Segment, spec: &Spec) -> Result<Name, NoSegment> {
    let domains = &spec.bridge_domains;
    let (found, what, key) = match segment {
        Segment::Domain(name) => {
            let found = domains.contains_key(name).then(|| name.clone());
            (found, format!("bridge domain {name}"), String::new())
        }
        Segment::Vlan(vid) => {
            let found = domains.iter().find(|(_, domain)| domain.vlan == Some(*vid));
            let key = format!(" with `vlan: {vid}`");
            (
                found.map(|(name, _)| name.clone()),
                format!("a bridge domain of VLAN {vid}"),
                key,
            )
        }
        Segment::Vni(vni) => {
            let found = domains.iter().find(|(_, domain)| domain.vni == Some(*vni));
            let key = format!(" with `vni: {vni}`");
            (
                found.map(|(name, _)| name.clone()),
                format!("a bridge domain of VNI {vni}"),
                key,
            )
        }
        Segment::Trunk { native, .. } => (
            native.clone(),
            "the native bridge domain".to_owned(),
            String::new(),
        ),
        // No port is in it.
        Segment::Pf => (
            None,
            "a bridge domain of a physical function".to_owned(),
            String::new(),
        ),
    };
    found.ok_or_else(|| {
        let there: Vec<_> = domains.keys().map(Name::as_str).collect();
        let there = match there.len() {
            0 => "it has none".to_owned(),
            1..=20 => format!("it has {}", there.join(", ")),
            n => format!("it has {n} others"),
        };
        NoSegment {
            what,
            advice: format!(
                "{there}; add one{key} with `clearway apply`, or correct the network's configuration"
            ),
        }
    })
}

impl Control {
    /// What an attachment is to stand on.
    pub(super) fn standing(&self, segment: &Segment) -> Result<Standing, ApiError> {
        let domain = match segment {
            Segment::Trunk { native, .. } => native.clone(),
            Segment::Pf => None,
            segment => {
                Some(domain_of(segment, &self.spec).map_err(|error| ApiError::not_found(error.to_string()))?)
            }
        };
        Ok(Standing {
            domain,
            pools: self.spec.address_pools.clone(),
        })
    }

    /// Opens the port of an attachment. It forwards when this returns, or nothing was changed.
    pub(super) fn attach(&mut self, name: Name, wanted: AttachedPort) -> Result<(), ApiError> {
        if self.spec.ports.contains_key(&name) || self.attached.contains_key(&name) {
            return Err(ApiError::conflict(format!("there is a port {name} already")));
        }
        let port = wanted
            .resolve(&self.spec)
            .map_err(|error| ApiError::not_found(error.to_string()))?;
        let mut spec = self.spec.clone();
        spec.ports.insert(name.clone(), port);
        spec.validate_on(&self.host_facts)
            .map_err(ApiError::invalid_on_host)?;
        self.know(&wanted);
        self.attached.insert(name.clone(), wanted);
        let opened = self.carry_out(spec, &[Action::AddPort(name.clone())]);
        let opened = opened.map_err(ApiError::failed).and_then(|()| {
            match self.ports.get(&name).map(|entry| &entry.state) {
                Some(PortState::Down { reason, .. }) => {
                    Err(ApiError::failed(format!("port {name} did not open: {reason}")))
                }
                _ => Ok(()),
            }
        });
        if opened.is_err() {
            // It may have been entered, to be tried again later.
            self.detach(&name, None)?;
        }
        opened
    }

    /// Spares looking for the pod's namespace among those of all processes.
    fn know(&mut self, attached: &AttachedPort) {
        if attached.port.kind == PortKind::AfXdp
            && let Err(error) = self.host.remember_netns(&attached.netns)
        {
            tracing::debug!(attachment = %attached.id, %error, "its namespace has to be looked for");
        }
    }

    /// Closes the port of an attachment, if it is there, and forgets the positions of its rings; `socket` is where an earlier
    /// daemon may have served one that this daemon never had.
    pub(super) fn detach(&mut self, name: &Name, socket: Option<&Path>) -> Result<(), ApiError> {
        if !self.attached.contains_key(name) {
            if let Some(socket) = socket.filter(|socket| !self.serves(socket)) {
                vhost::remove_record(socket, &self.state_dir);
            }
            return Ok(());
        }
        if self.spec.ports.contains_key(name) {
            let mut spec = self.spec.clone();
            spec.ports.remove(name);
            // An interface of ours is deleted next. That of a socket or a TAP's is closed here.
            let of_veth = self
                .attached
                .get(name)
                .is_some_and(|of| of.port.kind == PortKind::AfXdp);
            let actions = (!of_veth).then(|| Action::RemovePort(name.clone()));
            // What could not be closed stays known: it is tried again, and is nobody else's.
            self.carry_out(spec, actions.as_slice())
                .map_err(ApiError::failed)?;
        }
        let Some(attached) = self.attached.remove(name) else {
            return Ok(());
        };
        // What the action has closed is not there any more.
        self.let_go(name);
        if let Some(socket) = &attached.port.socket {
            vhost::remove_record(socket, &self.state_dir);
        }
        Ok(())
    }

    /// Whether this socket is a port's, or one's that waits.
    fn serves(&self, socket: &Path) -> bool {
        let configured = self.spec.ports.values();
        let mut ports = configured.chain(self.attached.values().map(|attached| &attached.port));
        ports.any(|port| port.socket.as_deref() == Some(socket))
    }

    /// Why the port of an attachment does not forward; none: it does.
    pub(super) fn why_down(&self, name: &Name) -> Option<String> {
        if let Some(entry) = self.ports.get(name) {
            return entry.why_down();
        }
        let attached = self.attached.get(name);
        let missing = attached.and_then(|attached| attached.resolve(&self.spec).err());
        Some(missing.map_or_else(
            || "it is not in the engine: restart the daemon".to_owned(),
            |missing| missing.to_string(),
        ))
    }

    /// Whether a TAP's pod is still there: whoever opens a TAP makes it, and must not in the namespace of another pod that
    /// has the path of this one now.
    pub(super) fn pod_is_there(&self, name: &Name) -> Result<(), OpenError> {
        match self.attached.get(name) {
            Some(attached) if attached.port.kind == PortKind::Tap => {
                let there = attached.netns.enter().map(drop);
                there.map_err(|error| OpenError::Wait(error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// At the start a pod's port that can't be opened must not keep all others from forwarding.
    pub(super) fn tolerates(&self, name: &Name) -> bool {
        self.starting && self.attached.contains_key(name)
    }

    /// The configuration without what attachments have brought.
    pub(super) fn configured(&self) -> Spec {
        let mut spec = self.spec.clone();
        spec.ports.retain(|name, _| !self.attached.contains_key(name));
        spec
    }

    /// A configuration with the ports of all attachments.
    pub(super) fn with_attached(&self, mut spec: Spec) -> Result<Spec, ApiError> {
        for (name, attached) in &self.attached {
            if spec.ports.contains_key(name) {
                return Err(ApiError::conflict(format!(
                    "port {name} belongs to attachment {}: give that of the configuration another name; nothing was changed",
                    attached.id
                )));
            }
            match attached.resolve(&spec) {
                Ok(port) => drop(spec.ports.insert(name.clone(), port)),
                // It was missing before.
                Err(_) if !self.spec.ports.contains_key(name) => {}
                Err(error) => {
                    return Err(ApiError::new(
                        ErrorCode::Conflict,
                        format!(
                            "attachment {} needs what the configuration no longer has: {error}; nothing was changed",
                            attached.id
                        ),
                    ));
                }
            }
        }
        Ok(spec)
    }

    /// For the start: those whose segment is missing wait for an `apply` that brings it.
    pub(super) fn with_attached_or_waiting(&mut self, mut spec: Spec) -> Spec {
        for attached in self.attached.clone().values() {
            self.know(attached);
        }
        for (name, attached) in &self.attached {
            if spec.ports.remove(name).is_some() {
                tracing::error!(
                    port = %name, attachment = %attached.id,
                    "the configuration has a port of this name, which is the attachment's: it is left out; give it another name"
                );
                spec.cross_connects
                    .retain(|pair| pair.0 != *name && pair.1 != *name);
            }
            match attached.resolve(&spec) {
                Ok(port) => drop(spec.ports.insert(name.clone(), port)),
                Err(error) => {
                    tracing::error!(attachment = %attached.id, %error, "its port waits");
                }
            }
        }
        spec
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clearway_config::HostFacts;
    use clearway_engine::{Engine, EngineConfig, Idle};

    use super::*;
    use crate::objects::Objects;
    use crate::store::Owner;

    /// An ADD whose daemon was killed is taken back by one that never had the port.
    #[test]
    fn what_is_known_of_a_sockets_rings_goes_with_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let engine = Engine::manual(&EngineConfig {
            cores: vec![None],
            idle: Idle::Adaptive,
            fdb_capacity: 1024,
            fdb_seed: 1,
        });
        let spec = Spec::default();
        let mut control = Control::new(
            &spec,
            engine.expect("an engine").0,
            dir.path().to_owned(),
            HostFacts::default(),
            Objects::first(&spec, Owner::File, 1),
        )
        .expect("it can be made");
        let (name, socket) = (Name::new("cw1").expect("a name"), Path::new("/run/vm/a.sock"));
        // As `records` calls it.
        let record = dir.path().join("rings-8f59b193524cfb59-%run%vm%a.sock");
        fs::write(&record, "").expect("a file");
        // A port of the configuration may have it by now.
        let mut port = Port::new(PortKind::VhostUser);
        port.socket = Some(socket.to_owned());
        control.spec.ports.insert(Name::new("vm").expect("a name"), port);
        control.detach(&name, Some(socket)).expect("it is fine");
        assert!(record.exists());
        control.spec.ports.clear();
        control.detach(&name, Some(socket)).expect("it is fine");
        assert!(!record.exists());
        control.detach(&name, Some(socket)).expect("it is fine");
    }
}
