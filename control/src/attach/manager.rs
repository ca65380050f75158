//! The steps of an attachment's life, in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clearway_config::attach::{
    Addresses, Attach, AttachKind, Attachment, AttachmentId, AttachmentState, Collect, Ipam, Need, Segment,
};
use clearway_config::{AddressPool, Name};
use clearway_sriov::saved::VfLease;

use super::ground::{Fault, Ground};
use super::ipam::{Holder, IpamError, LeaseRecord, Leases, StickyRecord};
use super::kept::Kept;
use super::known::{self, Known};
use crate::daemon::{AttachedPort, Standing};
use crate::host::pod::PodNetns;
use crate::store::{Change, ObjectKind, Owner, Record, Store, StoreError};

/// The longest that one awaits its addresses. Whoever was to bring them is done or dead by then: the `dhcp` plugin gives up
/// after five tries of ten seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// Why an attachment was not added, looked at or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It is there already.
    #[error(
        "attachment {0} is there already: a container's interface is added once; remove it first (CNI DEL)"
    )]
    Exists(AttachmentId),
    /// Another container's is in its place.
    #[error(
        "attachment {id}: the interface {} in network namespace {} is attachment {by}'s already; remove that one first (CNI DEL), or choose another \
         name", .id.interface, .netns.display()
    )]
    Taken {
        /// Which.
        id: AttachmentId,
        /// Whose the interface is.
        by: AttachmentId,
        /// The namespace of both.
        netns: PathBuf,
    },
    /// It is not.
    #[error("there is no attachment {0}")]
    None(AttachmentId),
    /// It was attached with its addresses.
    #[error(
        "attachment {0} awaits no addresses: they are given once, to one that was attached with `ipam: awaited` or \
         `delegated`; remove it and attach it with others"
    )]
    NotAwaited(AttachmentId),
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
    /// What an attachment would need is not there.
    #[error(transparent)]
    Need(Box<Fault>),
    /// A step on the host.
    #[error("attachment {id}: {fault}{}", if *.left { "; what is left of it is removed by and by" } else { "; nothing is left of it" })]
    Step {
        /// Which.
        id: AttachmentId,
        /// What failed.
        fault: Box<Fault>,
        /// Something could not be taken back yet.
        left: bool,
    },
}

impl AttachError {
    fn step(id: &AttachmentId, fault: Fault, left: bool) -> Self {
        Self::Step {
            id: id.clone(),
            fault: Box::new(fault),
            left,
        }
    }
}

/// All attachments.
pub(crate) struct Manager {
    state: Mutex<State>,
    /// Somebody is done with an attachment.
    done: Condvar,
    ground: Box<dyn Ground>,
}

pub(super) struct State {
    pub(super) store: Box<dyn Store>,
    /// What the store has of the configuration.
    pub(super) kept: Kept,
    all: BTreeMap<AttachmentId, Known>,
    /// Those that a thread works on.
    busy: BTreeSet<AttachmentId>,
    /// Those whose addresses are being found out, and since when. Their records say `adding`: the next daemon takes them back,
    /// since whoever was to bring the addresses cannot know what became of the interface.
    awaiting: BTreeMap<AttachmentId, Instant>,
    leases: Leases,
}

impl State {
    /// Whether it was begun or half removed, and is not on its way: neither complete nor waiting for its addresses.
    fn is_left(&self, known: &Known) -> bool {
        !known.is_ready() && !self.awaits(&known.attachment.id)
    }

    /// Whether it waits for its addresses, and they may still come.
    fn awaits(&self, id: &AttachmentId) -> bool {
        let since = self.awaiting.get(id);
        since.is_some_and(|since| since.elapsed() < PATIENCE)
    }

    /// Whose this interface of a pod is, also where it is not made yet, or on its way out: taking back the one would take the
    /// other's.
    fn same_interface(&self, interface: &str, netns: &PodNetns) -> Option<&AttachmentId> {
        let same = |known: &&Known| {
            known.attachment.wanted.kind != AttachKind::VhostUser
                && known.attachment.id.interface == interface
                && known.netns.is_same(netns)
        };
        let found = self.all.values().find(same);
        found.map(|known| &known.attachment.id)
    }

    fn commit(&mut self, id: &AttachmentId, changes: &[Change]) -> Result<(), AttachError> {
        self.store.commit(changes).map_err(|source| AttachError::Store {
            id: id.clone(),
            source,
        })
    }

    /// Writes one down, then takes it for true.
    fn put(&mut self, known: Known) -> Result<(), AttachError> {
        let id = known.attachment.id.clone();
        self.commit(&id, &[record(&known)])?;
        self.all.insert(id, known);
        Ok(())
    }
}

impl Manager {
    /// The attachments of a store. Nothing is done to the host yet.
    pub(crate) fn open(mut store: Box<dyn Store>, ground: Box<dyn Ground>) -> Result<Self, StoreError> {
        let mut all = BTreeMap::<AttachmentId, Known>::new();
        let mut kept = Vec::new();
        let (mut leases, mut sticky) = (Vec::<LeaseRecord>::new(), Vec::<StickyRecord>::new());
        for record in store.load()? {
            match record.kind {
                ObjectKind::Attachment => {
                    let known: Known = record.read()?;
                    all.insert(known.attachment.id.clone(), known);
                }
                ObjectKind::Lease => leases.push(record.read()?),
                ObjectKind::Sticky => sticky.push(record.read()?),
                _ => kept.push(record),
            }
        }
        for lease in all.values().filter_map(|known| known.vf.as_ref()) {
            ground.hold_vf(lease);
        }
        let state = State {
            store,
            kept: Kept::found(kept),
            all,
            busy: BTreeSet::new(),
            awaiting: BTreeMap::new(),
            leases: Leases::restore(leases, sticky),
        };
        Ok(Self {
            state: Mutex::new(state),
            done: Condvar::new(),
            ground,
        })
    }

    /// The ports of those that are complete, for a daemon that starts.
    pub(crate) fn ports(&self) -> BTreeMap<Name, AttachedPort> {
        let state = self.lock();
        let ready = state.all.values().filter(|known| known.is_ready());
        ready.filter_map(Known::port).collect()
    }

    /// Takes away what was not completed, or not removed to the end: what a crash or a failure left.
    pub(super) fn finish(&self) {
        for id in self.ids(|known| !known.is_ready()) {
            // Its runtime may have added it anew while another one was removed.
            let waited = self.lock().awaiting.contains_key(&id);
            match self.remove_if(&id, State::is_left) {
                Ok(Some(_)) if waited => tracing::warn!(
                    attachment = %id, seconds = PATIENCE.as_secs(),
                    "nobody brought the addresses that it awaited: it was taken back; its CNI plugin was killed, or waits for longer than that"
                ),
                Ok(Some(_)) => tracing::info!(attachment = %id, "was not complete: removed"),
                Ok(None) => {}
                Err(error) => {
                    if self.note(&id, &[format!("it was not removed: {error}")]) {
                        tracing::warn!(attachment = %id, %error, "was not removed; it is tried again");
                    }
                }
            }
        }
    }

    /// Which there are that nobody works on.
    pub(super) fn ids(&self, wanted: impl Fn(&Known) -> bool) -> Vec<AttachmentId> {
        let state = self.lock();
        let wanted = state
            .all
            .iter()
            .filter(|(id, known)| !state.busy.contains(*id) && !state.awaits(id) && wanted(known));
        wanted.map(|(id, _)| id.clone()).collect()
    }

    /// All attachments, as they were seen last.
    pub(crate) fn list(&self) -> Vec<Attachment> {
        let state = self.lock();
        state.all.values().map(|known| known.attachment.clone()).collect()
    }

    /// Makes one.
    pub(crate) fn add(&self, id: &AttachmentId, wanted: Attach) -> Result<Attachment, AttachError> {
        known::check(id, &wanted).map_err(AttachError::Invalid)?;
        let failed = |fault| AttachError::step(id, fault, false);
        let mut netns = self.ground.netns(&wanted.netns).map_err(failed)?;
        let standing = self.ground.standing(&wanted.segment).map_err(failed)?;
        drop(self.vacant(id)?);
        // Before anything is written down: what a record has is taken away again, whoever made it.
        if wanted.kind != AttachKind::VhostUser {
            netns = self.ground.name_is_free(&netns, &id.interface).map_err(failed)?;
        }
        if wanted.kind == AttachKind::Tap {
            self.supersede(id, &netns)?;
        }
        let awaits = wanted.ipam.comes_later();
        let vf = self.take_vf(id, &wanted)?;
        let entered = self.enter(id, wanted, netns, standing, vf.clone());
        let known = entered.inspect_err(|_| vf.iter().for_each(|lease| self.ground.forget_vf(lease)))?;
        if let Err(fault) = self.build(&known) {
            return Err(self.take_back(&known, failed(fault)));
        }
        if awaits {
            self.lock().awaiting.insert(id.clone(), Instant::now());
            self.release(id);
            tracing::info!(attachment = %id, kind = %known.attachment.wanted.kind, "its addresses are awaited");
            return Ok(known.attachment);
        }
        let ready = known.at(AttachmentState::Ready);
        // A statement of its own: with the lock held nothing can be taken back.
        let written = self.lock().put(ready.clone());
        if let Err(error) = written {
            return Err(self.take_back(&known, error));
        }
        self.release(id);
        Ok(added(ready))
    }

    /// Waits until nobody works on this one, and takes away what was not completed; one that is complete is an error.
    fn vacant(&self, id: &AttachmentId) -> Result<MutexGuard<'_, State>, AttachError> {
        loop {
            let state = self.idle(id);
            match state.all.get(id) {
                None => return Ok(state),
                Some(there) if there.is_ready() || state.awaits(id) => {
                    return Err(AttachError::Exists(id.clone()));
                }
                Some(_) => drop(state),
            }
            // Whoever else waited for this may be quicker, and have added it by now.
            self.remove_if(id, State::is_left)?;
        }
    }

    /// Takes away the TAP of a pod that has ended, and whose namespace had this one's path: two ports can't have the same
    /// interface there. Its DEL finds nothing then.
    fn supersede(&self, id: &AttachmentId, netns: &PodNetns) -> Result<(), AttachError> {
        let ended = |known: &Known| {
            known.attachment.wanted.kind == AttachKind::Tap
                && known.attachment.id.interface == id.interface
                && known.netns.was_before(netns)
        };
        for old in self.ids(ended) {
            if self.remove_if(&old, |_, known| ended(known))?.is_some() {
                tracing::info!(attachment = %old, by = %id, "its pod has ended, and another one has its namespace's path");
            }
        }
        Ok(())
    }

    /// A lease of the VF that is wanted, if one is. From a pod that has ended it is taken: its DEL finds nothing then, and may
    /// come late, as the runtime gives out devices anew before it.
    fn take_vf(&self, id: &AttachmentId, wanted: &Attach) -> Result<Option<VfLease>, AttachError> {
        let Some(vf) = &wanted.vf else { return Ok(None) };
        let of_ended = |known: &Known| {
            let has = known.attachment.vf.as_ref();
            has.is_some_and(|has| has.pci.eq_ignore_ascii_case(&vf.device))
                && known.netns.still_there().is_err()
        };
        for old in self.ids(of_ended) {
            if self.remove_if(&old, |_, known| of_ended(known))?.is_some() {
                tracing::info!(attachment = %old, by = %id, vf = vf.device, "its pod has ended, and another one was given its VF");
            }
        }
        let holder = match &wanted.pod {
            Some(pod) => format!("pod {pod} ({})", id.interface),
            None => format!("container {id}"),
        };
        let taken = self.ground.take_vf(&vf.device, &holder);
        let lease = taken.map_err(|fault| AttachError::step(id, fault, false))?;
        if let Err(reason) = known::check_interface(wanted, &lease) {
            self.ground.forget_vf(&lease);
            return Err(AttachError::Invalid(reason));
        }
        Ok(Some(lease))
    }

    /// Writes down that it is being made, with its addresses; from here on it is busy.
    fn enter(
        &self,
        id: &AttachmentId,
        wanted: Attach,
        netns: PodNetns,
        standing: Standing,
        vf: Option<VfLease>,
    ) -> Result<Known, AttachError> {
        let mut state = self.vacant(id)?;
        if wanted.kind != AttachKind::VhostUser
            && let Some(by) = state.same_interface(&id.interface, &netns)
        {
            return Err(AttachError::Taken {
                id: id.clone(),
                by: by.clone(),
                netns: wanted.netns,
            });
        }
        let holder = Holder {
            id: id.clone(),
            pod: wanted.pod.clone(),
        };
        let mut changes = Vec::new();
        let addresses = match &wanted.ipam {
            Ipam::None | Ipam::Awaited | Ipam::Delegated => Addresses::default(),
            Ipam::Given(addresses) => addresses.clone(),
            Ipam::Pool { pool, wanted } => {
                let (addresses, leased) =
                    state
                        .leases
                        .allocate(&standing.pools, pool.as_ref(), &holder, wanted)?;
                changes = leased;
                addresses
            }
        };
        let folder = |port: &Name| self.ground.vhost_folder(port);
        let known = Known::new(id, wanted, netns, standing.domain, addresses, vf, folder);
        changes.push(record(&known));
        if let Err(error) = state.commit(id, &changes) {
            // As if it had never been.
            state.leases.undo();
            return Err(error);
        }
        state.busy.insert(id.clone());
        state.all.insert(id.clone(), known.clone());
        Ok(known)
    }

    /// All steps on the host.
    fn build(&self, known: &Known) -> Result<(), Fault> {
        let ground = &self.ground;
        match known.attachment.wanted.kind {
            AttachKind::Veth => {
                ground.make_veth(known)?;
                ground.set_up(known)?;
                ground.open_port(known)?;
            }
            // The port makes the TAP, or the socket.
            AttachKind::Tap => {
                ground.open_port(known)?;
                ground.set_up(known)?;
            }
            AttachKind::VhostUser => {
                ground.make_folder(known)?;
                ground.open_port(known)?;
            }
            AttachKind::Vf => {
                ground.set_vf(known)?;
                ground.move_vf(known)?;
                ground.set_up(known)?;
            }
        }
        ground.announce(known);
        Ok(())
    }

    /// Gives one that awaits them its addresses and routes: those of a DHCP server, which is asked through its interface, or
    /// those that another IPAM plugin chose meanwhile. The same once more is fine.
    pub(crate) fn give_addresses(
        &self,
        id: &AttachmentId,
        addresses: Addresses,
    ) -> Result<Attachment, AttachError> {
        let mut state = self.idle(id);
        let known = state.all.get(id).cloned();
        let known = known.ok_or_else(|| AttachError::None(id.clone()))?;
        if !state.awaiting.contains_key(id) {
            let same = known.is_ready() && known.attachment.wanted.ipam == Ipam::Given(addresses);
            return match (same, known.is_ready()) {
                (true, _) => Ok(known.attachment),
                (false, true) => Err(AttachError::NotAwaited(id.clone())),
                (false, false) => Err(AttachError::None(id.clone())),
            };
        }
        state.busy.insert(id.clone());
        drop(state);
        let ready = self.address(&known, addresses);
        self.release(id);
        ready.map(added)
    }

    /// In the pod first: while they are not all there, the record is that of one which is taken back.
    fn address(&self, known: &Known, addresses: Addresses) -> Result<Known, AttachError> {
        let id = &known.attachment.id;
        let mut ready = known.at(AttachmentState::Ready);
        ready.attachment.wanted.ipam = Ipam::Given(addresses.clone());
        ready.attachment.addresses = addresses;
        let yields = known.attachment.wanted.ipam == Ipam::Awaited;
        let taken = if yields {
            self.ground.taken_routes(&ready)
        } else {
            Ok(Vec::new())
        };
        let set = taken.and_then(|taken| {
            for route in &taken {
                tracing::info!(attachment = %id, to = %route.dst, "the pod has this route through another interface: it keeps that");
            }
            let routes = &mut ready.attachment.addresses.routes;
            routes.retain(|route| !taken.contains(route));
            self.ground.set_up(&ready)
        });
        set.map_err(|fault| AttachError::step(id, fault, true))?;
        let mut state = self.lock();
        state.put(ready.clone())?;
        state.awaiting.remove(id);
        drop(state);
        self.ground.announce(&ready);
        Ok(ready)
    }

    /// Takes one away; none: there was none.
    pub(crate) fn remove(&self, id: &AttachmentId) -> Result<Option<Attachment>, AttachError> {
        self.remove_if(id, |_, _| true)
    }

    /// The same, if it is `wanted` to go when nobody works on it.
    fn remove_if(
        &self,
        id: &AttachmentId,
        wanted: impl FnOnce(&State, &Known) -> bool,
    ) -> Result<Option<Attachment>, AttachError> {
        let mut state = self.idle(id);
        let found = state.all.get(id).filter(|known| wanted(&state, known));
        let Some(mut known) = found.cloned() else {
            return Ok(None);
        };
        if known.is_ready() {
            known = known.at(AttachmentState::Removing);
            state.put(known.clone())?;
        }
        state.awaiting.remove(id);
        state.busy.insert(id.clone());
        drop(state);
        let result = self.dismantle(&known);
        let result = result.map_err(|fault| AttachError::step(id, fault, true));
        let result = result.and_then(|()| self.forget(id));
        self.release(id);
        result?;
        tracing::info!(attachment = %id, kind = %known.attachment.wanted.kind, "removed");
        Ok(Some(known.attachment))
    }

    /// What could not be added goes again, as far as it got.
    fn take_back(&self, known: &Known, error: AttachError) -> AttachError {
        let id = &known.attachment.id;
        let undone = self.dismantle(known).map_err(|fault| fault.to_string());
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
    fn dismantle(&self, known: &Known) -> Result<(), Fault> {
        let ground = &self.ground;
        if known.attachment.port.is_some() {
            ground.close_port(known)?;
        }
        match known.attachment.wanted.kind {
            AttachKind::Veth => ground.remove_veth(known),
            AttachKind::Tap => ground.remove_tap(known),
            AttachKind::VhostUser => ground.remove_folder(known),
            AttachKind::Vf => {
                ground.fetch_vf(known)?;
                ground.give_back_vf(known)
            }
        }
    }

    /// Its record and its addresses go; a pod's addresses are remembered for when it comes back.
    fn forget(&self, id: &AttachmentId) -> Result<(), AttachError> {
        let mut state = self.lock();
        let mut changes = state.leases.release(id);
        changes.push(Change::Delete {
            kind: ObjectKind::Attachment,
            key: id.to_string(),
        });
        if let Err(error) = state.commit(id, &changes) {
            state.leases.undo();
            return Err(error);
        }
        state.all.remove(id);
        Ok(())
    }

    /// One, looked at now.
    pub(crate) fn look(&self, id: &AttachmentId) -> Result<Attachment, AttachError> {
        let known = self.lock().all.get(id).cloned();
        let mut attachment = known.as_ref().map(|known| known.attachment.clone());
        if let (Some(known), Some(attachment)) = (known, &mut attachment) {
            attachment.problems = self.ground.look(&known);
            attachment.domain = self.follow(&known);
            self.note(id, &attachment.problems);
        }
        attachment.ok_or_else(|| AttachError::None(id.clone()))
    }

    /// Puts right what is not as it should be; gives what was found that was not known.
    pub(super) fn repair(&self, id: &AttachmentId) -> Vec<String> {
        let mut state = self.idle(id);
        let Some(known) = state.all.get(id).filter(|known| known.is_ready()).cloned() else {
            return Vec::new();
        };
        // Nobody may remove it meanwhile.
        state.busy.insert(id.clone());
        drop(state);
        let found = self.ground.look(&known);
        let mut problems = Vec::new();
        if !found.is_empty() {
            let failed = self.ground.repair(&known).err();
            problems = self.ground.look(&known);
            problems.extend(failed.map(|fault| format!("it was not put right: {fault}; it is tried again")));
        }
        self.follow(&known);
        self.note(id, &problems);
        self.release(id);
        // What is known already, and could not be helped, is no news.
        if known.attachment.problems.starts_with(&found) {
            return Vec::new();
        }
        found
    }

    /// The bridge domain that one is in: an `apply` may have moved its VLAN or its VNI to another one.
    fn follow(&self, known: &Known) -> Option<Name> {
        let Attachment {
            id, wanted, domain, ..
        } = &known.attachment;
        if !matches!(wanted.segment, Segment::Vlan(_) | Segment::Vni(_)) {
            return domain.clone();
        }
        // Where there is none just now, its port says so.
        let Ok(standing) = self.ground.standing(&wanted.segment) else {
            return domain.clone();
        };
        if let Some(known) = self.lock().all.get_mut(id) {
            known.attachment.domain.clone_from(&standing.domain);
        }
        standing.domain
    }

    /// Takes down what is wrong with one, and says whether that is news.
    fn note(&self, id: &AttachmentId, problems: &[String]) -> bool {
        let mut state = self.lock();
        let Some(known) = state.all.get_mut(id) else {
            return false;
        };
        let news = known.attachment.problems != problems;
        known.attachment.problems = problems.to_vec();
        news
    }

    /// Removes all of a network that are not named. Gives those that were.
    pub(crate) fn collect(&self, valid: &Collect) -> Result<Vec<AttachmentId>, AttachError> {
        let stale = self
            .list()
            .into_iter()
            .filter(|a| a.wanted.network == valid.network);
        let stale: Vec<_> = stale
            .map(|a| a.id)
            .filter(|id| !valid.valid.contains(id))
            .collect();
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
        let standing = self
            .ground
            .standing(&need.segment)
            .map_err(|fault| AttachError::Need(Box::new(fault)))?;
        if let Ipam::Pool { pool, .. } = &need.ipam {
            self.lock().leases.has_room(&standing.pools, pool.as_ref())?;
        }
        Ok(())
    }

    /// Whether a configuration with these pools has a place for every address that is leased.
    pub(crate) fn check_pools(&self, pools: &BTreeMap<Name, AddressPool>) -> Result<(), IpamError> {
        self.lock().leases.check(pools)
    }

    /// Brings to the disk what waits for it.
    pub(super) fn flush(&self) {
        if let Err(error) = self.lock().store.flush() {
            tracing::warn!(%error, "addresses that pods are to have again may be forgotten at a power cut");
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody works on this one.
    fn idle(&self, id: &AttachmentId) -> MutexGuard<'_, State> {
        let busy = |state: &mut State| state.busy.contains(id);
        self.done
            .wait_while(self.lock(), busy)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// As if one had awaited its addresses for so much longer.
    #[cfg(test)]
    pub(super) fn let_pass(&self, id: &AttachmentId, time: Duration) {
        let mut state = self.lock();
        let since = state.awaiting.get_mut(id).expect("it awaits addresses");
        *since = since.checked_sub(time).expect("this host runs long enough");
    }

    fn release(&self, id: &AttachmentId) {
        self.lock().busy.remove(id);
        self.done.notify_all();
    }
}

/// It is complete.
fn added(ready: Known) -> Attachment {
    let attachment = ready.attachment;
    tracing::info!(attachment = %attachment.id, kind = %attachment.wanted.kind, mac = %attachment.mac, "added");
    attachment
}

fn record(known: &Known) -> Change {
    let attachment = &known.attachment;
    Change::Put(Record::new(
        ObjectKind::Attachment,
        attachment.id.to_string(),
        Owner::Cni,
        attachment.generation,
        known,
    ))
}
