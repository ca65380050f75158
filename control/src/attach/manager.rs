//! The steps of an attachment's life, in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use clearway_config::attach::{
    Addresses, Attach, AttachKind, Attachment, AttachmentId, AttachmentState, Collect, Ipam, Need,
};
use clearway_config::{AddressPool, Name, Port, PortKind};
use clearway_wire::MacAddr;
use serde::{Deserialize, Serialize};

use super::ground::{Fault, Ground};
use super::ipam::{Holder, IpamError, LeaseRecord, Leases, StickyRecord};
use crate::daemon::AttachedPort;
use crate::store::{Change, ObjectKind, Owner, Record, Store, StoreError};

/// The MTU of a pod's interface when nobody says another.
const MTU: u16 = 1500;
/// The file name of a vhost-user socket when nobody says another.
const SOCKET: &str = "vhost.sock";

/// Why an attachment was not added, looked at or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It is there already.
    #[error("attachment {0} is there already: a container's interface is added once; remove it first (CNI DEL)")]
    Exists(AttachmentId),
    /// It is not.
    #[error("there is no attachment {0}")]
    None(AttachmentId),
    /// Addresses.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The store.
    #[error("attachment {id}: {source}")]
    Store {
        /// Which.
        id: AttachmentId,
        /// Why.
        source: StoreError,
    },
    /// A step on the host.
    #[error("attachment {id}: {fault}{}", if *.left { "; what is left of it is removed by and by" } else { "; nothing is left of it" })]
    Step {
        /// Which.
        id: AttachmentId,
        /// What failed.
        fault: Fault,
        /// Something could not be taken back yet.
        left: bool,
    },
}

/// A record's value in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Stored {
    attachment: Attachment,
    /// The boot that its namespace belongs to.
    boot: String,
}

/// All attachments.
pub(crate) struct Manager {
    state: Mutex<State>,
    /// Somebody is done with an attachment.
    done: Condvar,
    ground: Box<dyn Ground>,
    boot: String,
}

struct State {
    store: Box<dyn Store>,
    all: BTreeMap<AttachmentId, Attachment>,
    /// Those that a thread works on.
    busy: BTreeSet<AttachmentId>,
    leases: Leases,
}

impl Manager {
    /// The attachments of a store. Nothing is done to the host yet.
    pub(crate) fn open(store: Box<dyn Store>, ground: Box<dyn Ground>, boot: String) -> Result<Self, StoreError> {
        let mut all = BTreeMap::new();
        let (mut leases, mut sticky) = (Vec::<LeaseRecord>::new(), Vec::<StickyRecord>::new());
        let mut old = Vec::new();
        for record in store.load()? {
            match record.kind {
                ObjectKind::Attachment => {
                    let mut stored: Stored = record.read()?;
                    if stored.boot != boot {
                        // Its namespace and its interface went with that boot.
                        stored.attachment.state = AttachmentState::Removing;
                        old.push(stored.attachment.id.clone());
                    }
                    all.insert(stored.attachment.id.clone(), stored.attachment);
                }
                ObjectKind::Lease => leases.push(record.read()?),
                ObjectKind::Sticky => sticky.push(record.read()?),
                ObjectKind::Config => {}
            }
        }
        if !old.is_empty() {
            tracing::info!(attachments = old.len(), "of an earlier boot: they are removed");
        }
        let state = State {
            store,
            all,
            busy: BTreeSet::new(),
            leases: Leases::restore(leases, sticky),
        };
        Ok(Self {
            state: Mutex::new(state),
            done: Condvar::new(),
            ground,
            boot,
        })
    }

    /// The ports of those that are complete, for a daemon that starts.
    pub(crate) fn ports(&self) -> BTreeMap<Name, AttachedPort> {
        let state = self.lock();
        let ready = |a: &&Attachment| a.state == AttachmentState::Ready;
        state.all.values().filter(ready).map(|a| (a.port.clone(), attached(a))).collect()
    }

    /// Takes away what was not completed, or not removed to the end: what a crash or a failure left.
    pub(super) fn finish(&self) {
        for id in self.unfinished() {
            match self.remove(&id) {
                Ok(_) => tracing::info!(attachment = %id, "was not complete: removed"),
                Err(error) => tracing::warn!(attachment = %id, %error, "was not removed; it is tried again"),
            }
        }
    }

    /// Those that are not ready and that nobody works on.
    fn unfinished(&self) -> Vec<AttachmentId> {
        let state = self.lock();
        let unfinished = |a: &&Attachment| a.state != AttachmentState::Ready && !state.busy.contains(&a.id);
        state.all.values().filter(unfinished).map(|a| a.id.clone()).collect()
    }

    /// Which there are.
    pub(super) fn ids(&self) -> Vec<AttachmentId> {
        self.lock().all.keys().cloned().collect()
    }

    /// All attachments, as they were seen last.
    pub(crate) fn list(&self) -> Vec<Attachment> {
        self.lock().all.values().cloned().collect()
    }

    /// Makes one.
    pub(crate) fn add(&self, id: &AttachmentId, wanted: Attach) -> Result<Attachment, AttachError> {
        check(id, &wanted)?;
        let failed = |fault| AttachError::Step {
            id: id.clone(),
            fault,
            left: false,
        };
        self.ground.netns(&wanted.netns).map_err(failed)?;
        let standing = self.ground.standing(&wanted.segment).map_err(failed)?;
        let attachment = self.enter(id, wanted, standing.domain, &standing.pools)?;
        let result = self.build(&attachment).map_err(failed).and_then(|()| {
            let ready = Attachment {
                state: AttachmentState::Ready,
                generation: attachment.generation + 1,
                ..attachment.clone()
            };
            self.write(&ready).map(|()| ready)
        });
        match result {
            Ok(ready) => {
                self.release(id);
                tracing::info!(attachment = %id, port = %ready.port, kind = %ready.wanted.kind, mac = %ready.mac, "added");
                Ok(ready)
            }
            Err(error) => Err(self.take_back(&attachment, error)),
        }
    }

    /// Writes down that it is being made, with its addresses; from here on it is busy.
    fn enter(
        &self,
        id: &AttachmentId,
        wanted: Attach,
        domain: Option<Name>,
        pools: &BTreeMap<Name, AddressPool>,
    ) -> Result<Attachment, AttachError> {
        let mut state = self.idle(id);
        if let Some(there) = state.all.get(id) {
            if there.state == AttachmentState::Ready {
                return Err(AttachError::Exists(id.clone()));
            }
            drop(state);
            self.remove(id)?;
            state = self.idle(id);
        }
        let holder = Holder {
            id: id.clone(),
            pod: wanted.pod.clone(),
        };
        let (addresses, lease) = match &wanted.ipam {
            Ipam::None => (Addresses::default(), None),
            Ipam::Given(addresses) => (addresses.clone(), None),
            Ipam::Pool { pool, wanted } => {
                let lease = state.leases.allocate(pools, pool.as_ref(), &holder, wanted)?;
                (lease.addresses.clone(), Some(lease))
            }
        };
        let attachment = self.describe(id, wanted, domain, addresses);
        let mut changes = vec![self.put(&attachment)];
        if lease.is_some() {
            changes.extend(state.leases.records(id));
        }
        if let Err(source) = state.store.commit(&changes) {
            state.leases.forget(id);
            return Err(AttachError::Store {
                id: id.clone(),
                source,
            });
        }
        state.busy.insert(id.clone());
        state.all.insert(id.clone(), attachment.clone());
        Ok(attachment)
    }

    fn describe(
        &self,
        id: &AttachmentId,
        wanted: Attach,
        domain: Option<Name>,
        addresses: Addresses,
    ) -> Attachment {
        let port = port_name(id);
        let socket = (wanted.kind == AttachKind::VhostUser).then(|| {
            let socket = wanted.vhost.clone().unwrap_or_default();
            let folder = socket.folder.unwrap_or_else(|| self.ground.vhost_folder(&port));
            folder.join(socket.file.as_deref().unwrap_or(SOCKET))
        });
        Attachment {
            id: id.clone(),
            state: AttachmentState::Adding,
            domain,
            host_interface: (wanted.kind == AttachKind::Veth).then(|| port.to_string()),
            mac: wanted.mac.unwrap_or_else(|| mac_of(&wanted, id)),
            mtu: wanted.mtu.unwrap_or(MTU),
            addresses,
            socket,
            problems: Vec::new(),
            generation: 1,
            port,
            wanted,
        }
    }

    /// All steps on the host.
    fn build(&self, attachment: &Attachment) -> Result<(), Fault> {
        let ground = &self.ground;
        let open = || ground.open_port(attachment);
        match attachment.wanted.kind {
            AttachKind::Veth => {
                ground.make_veth(attachment)?;
                ground.set_up(attachment)?;
                open()?;
            }
            // The port makes the TAP, or the socket.
            AttachKind::Tap => {
                open()?;
                ground.set_up(attachment)?;
            }
            AttachKind::VhostUser => {
                ground.make_folder(attachment)?;
                open()?;
            }
        }
        ground.announce(attachment);
        Ok(())
    }

    /// Takes one away; none: there was none.
    pub(crate) fn remove(&self, id: &AttachmentId) -> Result<Option<Attachment>, AttachError> {
        let mut state = self.idle(id);
        let Some(mut attachment) = state.all.get(id).cloned() else {
            return Ok(None);
        };
        if attachment.state == AttachmentState::Ready {
            attachment.state = AttachmentState::Removing;
            attachment.generation += 1;
            let change = self.put(&attachment);
            state.store.commit(&[change]).map_err(|source| AttachError::Store {
                id: id.clone(),
                source,
            })?;
            state.all.insert(id.clone(), attachment.clone());
        }
        state.busy.insert(id.clone());
        drop(state);
        let result = self.dismantle(&attachment);
        let result = result.map_err(|fault| AttachError::Step {
            id: id.clone(),
            fault,
            left: true,
        });
        let result = result.and_then(|()| self.forget(id));
        self.release(id);
        result?;
        tracing::info!(attachment = %id, port = %attachment.port, "removed");
        Ok(Some(attachment))
    }

    /// What could not be added goes again, as far as it got.
    fn take_back(&self, attachment: &Attachment, error: AttachError) -> AttachError {
        let id = &attachment.id;
        let undone = self.dismantle(attachment).map_err(|fault| fault.to_string());
        let undone = undone.and_then(|()| self.forget(id).map_err(|error| error.to_string()));
        self.release(id);
        let Err(why) = undone else { return error };
        tracing::error!(attachment = %id, why, "could not be taken back yet");
        match error {
            AttachError::Step { id, fault, .. } => AttachError::Step {
                id,
                fault,
                left: true,
            },
            error => error,
        }
    }

    /// All steps back; each is fine with nothing being there.
    fn dismantle(&self, attachment: &Attachment) -> Result<(), Fault> {
        let ground = &self.ground;
        ground.close_port(&attachment.port)?;
        match attachment.wanted.kind {
            AttachKind::Veth => ground.remove_veth(attachment),
            AttachKind::Tap => ground.remove_tap(attachment),
            AttachKind::VhostUser => ground.remove_folder(attachment),
        }
    }

    /// Its record and its addresses go; a pod's addresses are remembered for when it comes back.
    fn forget(&self, id: &AttachmentId) -> Result<(), AttachError> {
        let mut state = self.lock();
        let mut changes = vec![Change::Delete {
            kind: ObjectKind::Attachment,
            key: id.to_string(),
        }];
        changes.extend(state.leases.release_changes(id));
        state.store.commit(&changes).map_err(|source| AttachError::Store {
            id: id.clone(),
            source,
        })?;
        state.leases.release(id);
        state.all.remove(id);
        Ok(())
    }

    /// One, looked at now.
    pub(crate) fn look(&self, id: &AttachmentId) -> Result<Attachment, AttachError> {
        let attachment = self.lock().all.get(id).cloned();
        let mut attachment = attachment.ok_or_else(|| AttachError::None(id.clone()))?;
        attachment.problems = self.ground.look(&attachment);
        self.note(&attachment);
        Ok(attachment)
    }

    /// Puts right what is not as it should be; gives what was found.
    pub(super) fn repair(&self, id: &AttachmentId) -> Vec<String> {
        let state = self.idle(id);
        let Some(attachment) = state.all.get(id).cloned() else {
            return Vec::new();
        };
        drop(state);
        let found = self.ground.look(&attachment);
        if attachment.state != AttachmentState::Ready || found.is_empty() {
            self.note(&Attachment {
                problems: found,
                ..attachment
            });
            return Vec::new();
        }
        // Nobody may remove it meanwhile.
        let mut state = self.idle(id);
        if !state.all.contains_key(id) {
            return Vec::new();
        }
        state.busy.insert(id.clone());
        drop(state);
        let result = self.ground.repair(&attachment);
        let mut problems = self.ground.look(&attachment);
        if let Err(fault) = result {
            problems.push(format!("it was not put right: {fault}; it is tried again"));
        }
        self.note(&Attachment {
            problems,
            ..attachment
        });
        self.release(id);
        found
    }

    fn note(&self, seen: &Attachment) {
        if let Some(attachment) = self.lock().all.get_mut(&seen.id) {
            attachment.problems.clone_from(&seen.problems);
        }
    }

    /// Removes all of a network that are not named. Gives those that were.
    pub(crate) fn collect(&self, valid: &Collect) -> Result<Vec<AttachmentId>, AttachError> {
        let stale = |a: &&Attachment| a.wanted.network == valid.network && !valid.valid.contains(&a.id);
        let stale: Vec<_> = self.lock().all.values().filter(stale).map(|a| a.id.clone()).collect();
        let mut removed = Vec::new();
        let mut first = None;
        for id in stale {
            match self.remove(&id) {
                Ok(Some(_)) => removed.push(id),
                Ok(None) => {}
                // The others all the same.
                Err(error) => first = first.or(Some(error)),
            }
        }
        first.map_or(Ok(removed), Err)
    }

    /// Whether an attachment could be added.
    pub(crate) fn status(&self, need: &Need) -> Result<(), AttachError> {
        let id = AttachmentId {
            container: "any".to_owned(),
            interface: "any".to_owned(),
        };
        let standing = self.ground.standing(&need.segment).map_err(|fault| AttachError::Step {
            id,
            fault,
            left: false,
        })?;
        if let Ipam::Pool { pool, .. } = &need.ipam {
            self.lock().leases.has_room(&standing.pools, pool.as_ref())?;
        }
        Ok(())
    }

    /// Whether a configuration with these pools has a place for every address that is leased.
    pub(crate) fn check_pools(&self, pools: &BTreeMap<Name, AddressPool>) -> Result<(), IpamError> {
        self.lock().leases.check(pools)
    }

    fn put(&self, attachment: &Attachment) -> Change {
        let stored = Stored {
            attachment: attachment.clone(),
            boot: self.boot.clone(),
        };
        let owner = Owner::Attachment(attachment.id.to_string());
        let key = attachment.id.to_string();
        Change::Put(Record::new(ObjectKind::Attachment, key, owner, attachment.generation, &stored))
    }

    fn write(&self, attachment: &Attachment) -> Result<(), AttachError> {
        let mut state = self.lock();
        let change = self.put(attachment);
        state.store.commit(&[change]).map_err(|source| AttachError::Store {
            id: attachment.id.clone(),
            source,
        })?;
        state.all.insert(attachment.id.clone(), attachment.clone());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody works on this one.
    fn idle(&self, id: &AttachmentId) -> MutexGuard<'_, State> {
        let busy = |state: &mut State| state.busy.contains(id);
        self.done
            .wait_while(self.lock(), busy)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, id: &AttachmentId) {
        self.lock().busy.remove(id);
        self.done.notify_all();
    }
}

/// What can be known to be wrong without asking anybody.
fn check(id: &AttachmentId, wanted: &Attach) -> Result<(), AttachError> {
    let invalid = |text: String| Err(AttachError::Invalid(text));
    let name = &id.interface;
    let printable = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':');
    if name.is_empty() || name.len() > 15 || matches!(name.as_str(), "." | "..") || !name.chars().all(printable) {
        return invalid(format!(
            "{name:?} is no interface name: 1 to 15 bytes without white space, `/` and `:`"
        ));
    }
    let mut container = id.container.chars();
    let first = container.next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !first || !container.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
        return invalid(format!(
            "{:?} is no container ID: a letter or a digit, then these, `_`, `.` and `-`",
            id.container
        ));
    }
    if let Some(mtu) = wanted.mtu
        && !Port::MTU.contains(&mtu)
    {
        let (min, max) = (Port::MTU.start(), Port::MTU.end());
        return invalid(format!("an MTU of {mtu} bytes is not between {min} and {max}"));
    }
    if let Some(mac) = wanted.mac
        && !mac.is_unicast()
    {
        return invalid(format!("{mac} is no station's MAC address"));
    }
    if wanted.vhost.is_some() && wanted.kind != AttachKind::VhostUser {
        return invalid(format!("a socket has no meaning for an attachment of kind {}", wanted.kind));
    }
    if wanted.vhost.iter().flat_map(|socket| &socket.file).any(|file| file.contains('/')) {
        return invalid("the file of a vhost-user socket is a name without `/`".to_owned());
    }
    if !wanted.netns.is_absolute() {
        return invalid(format!("{} is no absolute path of a network namespace", wanted.netns.display()));
    }
    Ok(())
}

/// The port of an attachment, and our end of its veth pair: 14 characters that only this one has.
fn port_name(id: &AttachmentId) -> Name {
    let hash = rapidhash::v3::rapidhash_v3(id.to_string().as_bytes());
    let text = format!("cw{:012x}", hash >> 16);
    Name::new(text).expect("letters and digits")
}

/// A locally administered address, the same whenever the same pod comes back.
fn mac_of(wanted: &Attach, id: &AttachmentId) -> MacAddr {
    let whose = match &wanted.pod {
        Some(pod) => format!("{pod} {} {}", wanted.network, id.interface),
        None => id.to_string(),
    };
    let [a, b, c, d, e, f, ..] = rapidhash::v3::rapidhash_v3(whose.as_bytes()).to_be_bytes();
    MacAddr([(a & 0xfc) | 0x02, b, c, d, e, f])
}

/// What the control thread is to know of it.
pub(super) fn attached(attachment: &Attachment) -> AttachedPort {
    AttachedPort {
        id: attachment.id.clone(),
        port: port_of(attachment),
        segment: attachment.wanted.segment.clone(),
    }
}

/// What the engine is to have.
fn port_of(attachment: &Attachment) -> Port {
    let wanted = &attachment.wanted;
    let kind = match wanted.kind {
        AttachKind::Veth => PortKind::AfXdp,
        AttachKind::Tap => PortKind::Tap,
        AttachKind::VhostUser => PortKind::VhostUser,
    };
    let mut port = Port::new(kind);
    port.mtu = Some(attachment.mtu);
    port.rate_limit = wanted.rate_limit.clone();
    if wanted.anti_spoof {
        port.allowed_macs = vec![attachment.mac];
    }
    match wanted.kind {
        AttachKind::Veth => port.interface = attachment.host_interface.clone(),
        AttachKind::Tap => {
            port.interface = Some(attachment.id.interface.clone());
            port.netns = Some(wanted.netns.display().to_string());
            port.mac = Some(attachment.mac);
            port.persistent = true;
        }
        AttachKind::VhostUser => {
            let socket = wanted.vhost.clone().unwrap_or_default();
            port.socket.clone_from(&attachment.socket);
            port.client = socket.client;
            port.queue_pairs = socket.queue_pairs;
            if !socket.client {
                port.owner = socket.owner;
                port.group = socket.group;
                port.permissions = socket.permissions;
            }
        }
    }
    port
}
