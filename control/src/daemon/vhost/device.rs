//! What a front-end's messages make of the rings: a network device as vhost-user describes it.
//!
//! ```text
//!   SET_MEM_TABLE, SET_VRING_NUM, _ADDR, _BASE, _KICK ──► ring started ──► pair built ──► polled by a worker
//!   any change ──► the pair is taken from its worker ──► changed ──► built again ──► reply
//!   GET_VRING_BASE ──► ring stopped
//! ```
//!
//! Rings come in pairs: the even one receives (virtio 1.2 §5.1.2), the odd one transmits. A pair is built when at
//! least one of its rings has started. A ring that is started and whose memory is not there is an error, but for memory
//! slots, which come and go one by one: then it waits for its memory.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use clearway_config::GuestMemoryLimit;
use clearway_io::{
    DirtyLog, GuestMemory, Inflight, InflightRegion, Umem, VhostConfig, VhostPort, VringConfig, VringError,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::files::{event, shared, spec};
use super::guest::Shared;
use super::link::{Refusal, reason};
use super::vring::{Addresses, Ring};
use super::{Answer, Ask};

/// Virtio features of which the rings know nothing, as the front-end deals with them by other messages: the largest
/// packet (virtio 1.2 §5.1.3: bit 3), link state (16), a control queue (17) of receive filters (18), announcing
/// after a migration (21), several queues (22).
const NET_FEATURES: u64 = 1 << 3 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 21 | 1 << 22;

/// VIRTIO_F_RING_PACKED (virtio 1.2 §6).
const RING_PACKED: u64 = 1 << 34;
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// All that is offered.
pub(super) const FEATURES: u64 = VhostPort::FEATURES | NET_FEATURES | PROTOCOL_FEATURES;

fn protocol() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::RARP
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::MTU
        | VhostUserProtocolFeatures::BACKEND_REQ
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::STATUS
}

/// Most entries of a ring (virtio 1.2 §2.7, §2.8).
const MAX_RING: u32 = 32768;
/// The least that every IPv4 host takes (RFC 791), as virtio requires (§5.1.4.1 says 68; nobody offers that).
const MIN_MTU: u64 = 68;

/// How a question reaches the control thread.
pub(super) type AskControl = Box<dyn Fn(Ask) -> std::result::Result<Answer, String> + Send>;

/// The device of one connection.
pub(super) struct Device {
    control: AskControl,
    shared: Arc<Shared>,
    umem: Umem,
    features: Option<u64>,
    protocol: u64,
    /// As it was when the connection was made: a guest that runs is not ended by a change of the configuration.
    memory_limit: Option<GuestMemoryLimit>,
    memory: Option<Arc<GuestMemory>>,
    /// SET_LOG_BASE.
    log: Option<Arc<DirtyLog>>,
    /// SET_INFLIGHT_FD.
    inflight: Option<Arc<Inflight>>,
    /// SEND_RARP, for the first pair that runs.
    announcement: Option<[u8; 6]>,
    /// Memory comes in slots, so it may be there in part.
    slots: bool,
    rings: Vec<Ring>,
    /// By pair: whether a worker may have it.
    running: Vec<bool>,
    status: u64,
    /// The channel for requests of ours, kept open.
    _requests: Option<Backend>,
}

/// Our own words in the crate's error.
pub(super) fn wrong(reason: impl Display) -> Error {
    Error::ReqHandlerError(io::Error::other(reason.to_string()))
}

impl Device {
    pub(super) fn new(control: AskControl, shared: Arc<Shared>, umem: Umem, pairs: u16) -> Self {
        let pairs = usize::from(pairs);
        Self {
            control,
            memory_limit: shared.memory_limit(),
            shared,
            umem,
            features: None,
            protocol: 0,
            memory: None,
            log: None,
            inflight: None,
            announcement: None,
            slots: false,
            rings: (0..2 * pairs).map(|_| Ring::default()).collect(),
            running: vec![false; pairs],
            status: 0,
            _requests: None,
        }
    }

    /// Whether a protocol feature was negotiated.
    pub(super) fn has_protocol(&self, feature: VhostUserProtocolFeatures) -> bool {
        self.protocol & feature.bits() != 0
    }

    /// The connection has ended: takes all from the workers.
    pub(super) fn release(&mut self) {
        for pair in 0..self.running.len() {
            // It is on its way out if that fails.
            let _ = self.take(pair);
        }
        self.memory = None;
        self.log = None;
        self.inflight = None;
        // Tables are made anew for nobody.
        self.shared.update(|status| status.mtu = None);
        let _ = (self.control)(Ask::Gone);
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        let pairs = self.running.len();
        let ring = usize::try_from(index)
            .ok()
            .and_then(|index| self.rings.get_mut(index));
        ring.ok_or_else(|| {
            wrong(format_args!(
                "there is no ring {index}: the port has {pairs} queue pairs, that is {} rings; raise its `queue-pairs`",
                2 * pairs
            ))
        })
    }

    /// Takes a pair from its worker, if one has it, and notes where its rings are.
    fn take(&mut self, pair: usize) -> Result<()> {
        if !std::mem::take(&mut self.running[pair]) {
            return Ok(());
        }
        let answer = (self.control)(Ask::Take(pair as u16)).map_err(wrong)?;
        let Answer::Taken(Some(port)) = answer else {
            return Ok(());
        };
        let config = port.into_config();
        for (ring, config) in self.rings[2 * pair..]
            .iter_mut()
            .zip([config.receive, config.transmit])
        {
            if let Some(config) = config {
                ring.base = config.base;
            }
        }
        Ok(())
    }

    fn take_all(&mut self) -> Result<()> {
        (0..self.running.len()).try_for_each(|pair| self.take(pair))
    }

    /// Gives a pair to a worker, if one of its rings has started.
    fn build(&mut self, pair: usize) -> Result<()> {
        let (Some(memory), Some(features)) = (self.memory.clone(), self.features) else {
            return Ok(());
        };
        let by_itself = features & PROTOCOL_FEATURES == 0;
        let rings = &self.rings[2 * pair..];
        let duplicating = |error| {
            wrong(format_args!(
                "duplicating an event descriptor failed: {error}; raise `ulimit -n`"
            ))
        };
        let region = |ring: usize| {
            let buffer = self.inflight.clone()?;
            let index = (2 * pair + ring) as u16;
            Some(InflightRegion { buffer, index })
        };
        let mut receive = rings[0].config(by_itself, region(0)).map_err(duplicating)?;
        let mut transmit = rings[1].config(by_itself, region(1)).map_err(duplicating)?;
        if features & RING_PACKED != 0 {
            self.resume(2 * pair, receive.as_mut(), &memory)?;
            self.resume(2 * pair + 1, transmit.as_mut(), &memory)?;
        }
        if receive.is_none() && transmit.is_none() {
            return Ok(());
        }
        let config = VhostConfig {
            memory,
            features: features & !PROTOCOL_FEATURES,
            log: self.log.clone(),
            transmit,
            receive,
        };
        let transmits = config.transmit.is_some();
        let mut port = match VhostPort::new(config, &self.umem) {
            Ok(port) => port,
            Err(error) if self.awaits_memory(&error) => {
                tracing::debug!(pair, %error, "waiting for its memory");
                return Ok(());
            }
            Err(error) => return Err(wrong(error)),
        };
        if transmits && let Some(mac) = self.announcement.take() {
            port.announce(mac);
        }
        self.running[pair] = true;
        (self.control)(Ask::Add(pair as u16, Box::new(port))).map_err(wrong)?;
        for ring in &mut self.rings[2 * pair..2 * pair + 2] {
            if ring.started && std::mem::take(&mut ring.told) {
                ring.call_once();
            }
        }
        Ok(())
    }

    /// Has a packed ring go on where it was, if this is the first that is heard of it since a crash.
    fn resume(&mut self, index: usize, config: Option<&mut VringConfig>, memory: &GuestMemory) -> Result<()> {
        let (Some(config), Some(record)) = (config, self.shared.records.ring(index)) else {
            return Ok(());
        };
        let ring = &mut self.rings[index];
        if ring.told {
            // Memory that comes in slots may not be all there yet.
            match record.resume(config, memory) {
                Ok(base) => {
                    if base != config.base {
                        tracing::info!(
                            ring = index,
                            from = config.base,
                            to = base,
                            "a packed ring goes on where it was"
                        );
                    }
                    (ring.base, config.base) = (base, base);
                }
                Err(error) if self.awaits_memory(&error) => {
                    tracing::debug!(ring = index, %error, "waiting for its memory");
                }
                Err(error) => return Err(wrong(error)),
            }
        }
        config.record = Some(record);
        Ok(())
    }

    /// Whether a ring may be right as soon as more memory is there.
    fn awaits_memory(&self, error: &VringError) -> bool {
        self.slots && matches!(error, VringError::Address { .. })
    }

    fn build_all(&mut self) -> Result<()> {
        (0..self.running.len()).try_for_each(|pair| self.build(pair))
    }

    /// Changes a ring while no worker has it.
    fn change(&mut self, index: u32, change: impl FnOnce(&mut Ring)) -> Result<()> {
        self.ring(index)?;
        let pair = index as usize / 2;
        self.take(pair)?;
        change(self.ring(index)?);
        self.build(pair)
    }

    /// Changes all while no worker has any of it.
    fn change_all(&mut self, change: impl FnOnce(&mut Self)) -> Result<()> {
        self.take_all()?;
        change(self);
        self.build_all()
    }

    fn check_inflight(&self, queues: u16, size: u16) -> Result<()> {
        let most = self.rings.len();
        if usize::from(queues) > most || u32::from(size) > MAX_RING {
            return Err(wrong(format_args!(
                "{queues} rings of {size} entries in flight; the port has {most} of up to {MAX_RING}"
            )));
        }
        Ok(())
    }

    /// Refuses a guest that would share more than it may. What of it is holes is paid for by us, page by page, as it
    /// has us touch them.
    fn check_memory(&self, sizes: impl IntoIterator<Item = u64>) -> Result<()> {
        let sum = sizes.into_iter().fold(0, u64::saturating_add);
        match self.memory_limit {
            Some(limit) if sum > limit.bytes() => Err(wrong(format_args!(
                "its memory regions have {sum} bytes in all, more than the {} ({} MiB) of {}; give the guest less memory or raise that",
                limit.bytes(),
                limit.mib,
                limit.key
            ))),
            _ => Ok(()),
        }
    }

    fn slots_so_far(&self) -> GuestMemory {
        let none = || GuestMemory::new(&self.shared.share);
        self.memory.as_deref().cloned().unwrap_or_else(none)
    }

    fn use_memory(&mut self, memory: GuestMemory, slots: bool) -> Result<()> {
        self.change_all(|device| {
            device.memory = Some(Arc::new(memory));
            device.slots = slots;
        })
    }

    /// SEND_RARP: says where the guest is after a migration.
    pub(super) fn send_rarp(&mut self, mac: u64) -> std::result::Result<Option<u64>, Refusal> {
        // The first six bytes of the message's body.
        let [a, b, c, d, e, f, ..] = mac.to_ne_bytes();
        let mac = [a, b, c, d, e, f];
        // From a group's address nobody sends.
        if a & 1 != 0 || mac == [0; 6] {
            return Err(Refusal::Told(format!("{mac:x?} is no address of a guest")));
        }
        self.announcement = Some(mac);
        let rebuilt = self.take(0).and_then(|()| self.build(0));
        rebuilt
            .map(|()| None)
            .map_err(|error| Refusal::Fatal(reason(error)))
    }

    /// NET_SET_MTU.
    pub(super) fn set_mtu(&mut self, mtu: u64) -> std::result::Result<Option<u64>, Refusal> {
        let most = self.shared.mtu_limit().unwrap_or(u16::MAX);
        match u16::try_from(mtu) {
            Ok(value) if mtu >= MIN_MTU && value <= most => {
                self.shared.update(|status| status.mtu = Some(value));
                (self.control)(Ask::Changed).map_err(Refusal::Fatal)?;
                Ok(None)
            }
            _ => Err(Refusal::Told(format!(
                "an MTU of {mtu} bytes; the port's `mtu` is {most}"
            ))),
        }
    }

    /// SET_STATUS: the device status of virtio 1.2 §2.1; 0 resets the device.
    pub(super) fn set_status(&mut self, status: u64) -> std::result::Result<Option<u64>, Refusal> {
        self.status = status;
        if status == 0 {
            self.stop_all().map_err(|error| Refusal::Fatal(reason(error)))?;
        }
        Ok(None)
    }

    /// GET_STATUS.
    pub(super) fn status(&self) -> std::result::Result<u64, Refusal> {
        Ok(self.status)
    }

    fn stop_all(&mut self) -> Result<()> {
        self.take_all()?;
        for ring in &mut self.rings {
            ring.stop();
            ring.enabled = None;
        }
        Ok(())
    }
}

fn not_offered<T>(what: &'static str) -> Result<T> {
    Err(Error::InvalidOperation(what))
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.stop_all()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop_all()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !FEATURES;
        if unknown != 0 {
            return Err(wrong(format_args!(
                "it takes features {unknown:#x}, which were not offered"
            )));
        }
        self.shared.update(|status| status.features = Some(features));
        if self.features == Some(features) {
            return Ok(());
        }
        self.change_all(|device| device.features = Some(features))
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<vhost::VhostUserMemoryRegionBase>>> {
        self.check_memory(regions.iter().map(|region| spec(region).size))?;
        let files: Vec<OwnedFd> = files.into_iter().map(shared).collect::<Result<_>>()?;
        let regions = regions.iter().map(spec).zip(files);
        // What was before goes first: the port's share need not have room for both.
        self.take_all()?;
        self.memory = None;
        let memory = GuestMemory::map(&self.shared.share, regions).map_err(wrong)?;
        self.use_memory(memory, false)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).ok().filter(|_| (1..=MAX_RING).contains(&num));
        let Some(size) = size else {
            return Err(wrong(format_args!(
                "a ring of {num} entries; 1 to {MAX_RING} are possible"
            )));
        };
        self.change(index, |ring| ring.size = Some(size))
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let addresses = Addresses {
            descriptors: descriptor,
            driver: available,
            device: used,
            log: flags
                .contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG)
                .then_some(log),
        };
        self.change(index, |ring| ring.addresses = Some(addresses))
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.change(index, |ring| (ring.base, ring.told) = (base, true))
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.change(index, Ring::stop)?;
        let base = self.ring(index)?.base;
        if let Some(record) = self.shared.records.ring(index as usize) {
            record.agree(base);
        }
        Ok(VhostUserVringState::new(index, base))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let kick = event(fd)?;
        self.change(index.into(), |ring| {
            ring.kick = kick;
            ring.started = true;
        })
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let call = event(fd)?;
        self.change(index.into(), |ring| ring.call = call)?;
        let ring = self.ring(index.into())?;
        if ring.started {
            ring.call_once();
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        // A ring in which we find an error ends the connection, which says more.
        event(fd)?;
        self.ring(index.into()).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(protocol())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !protocol().bits();
        if unknown != 0 {
            return Err(wrong(format_args!(
                "it takes protocol features {unknown:#x}, which were not offered"
            )));
        }
        self.protocol = features;
        self.shared.update(|status| status.protocol = features);
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.running.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        if self.ring(index)?.enabled == Some(enable) {
            return Ok(());
        }
        self.change(index, |ring| ring.enabled = Some(enable))
    }

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        not_offered("the configuration space is the front-end's")
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        not_offered("the configuration space is the front-end's")
    }

    fn set_backend_req_fd(&mut self, backend: Backend) {
        self._requests = Some(backend);
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        not_offered("this is a network device")
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        not_offered("shared objects are not offered")
    }

    fn get_inflight_fd(&mut self, asked: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let (queues, size) = (asked.num_queues, asked.queue_size);
        self.check_inflight(queues, size)?;
        let bytes = Inflight::bytes(queues, size);
        let making =
            |error: io::Error| wrong(format_args!("making a memfd of {bytes} bytes failed: {error}"));
        let file = memfd_create(c"inflight", MFdFlags::MFD_CLOEXEC).map_err(|error| making(error.into()))?;
        let file = File::from(file);
        file.set_len(bytes).map_err(making)?;
        Ok((VhostUserInflight::new(bytes, 0, queues, size), file))
    }

    fn set_inflight_fd(&mut self, given: &VhostUserInflight, file: File) -> Result<()> {
        let (queues, size) = (given.num_queues, given.queue_size);
        self.check_inflight(queues, size)?;
        let (bytes, offset) = (given.mmap_size, given.mmap_offset);
        let buffer =
            Inflight::map(&self.shared.share, bytes, offset, queues, size, shared(file)?).map_err(wrong)?;
        self.change_all(|device| device.inflight = Some(Arc::new(buffer)))
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(clearway_io::MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<vhost::VhostUserMemoryRegionBase>> {
        let before = self.slots_so_far();
        self.check_memory([before.bytes(), spec(region).size])?;
        let memory = before.with(spec(region), shared(fd)?).map_err(wrong)?;
        self.use_memory(memory, true)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let before = self.slots_so_far();
        let memory = before.without(spec(region)).ok_or_else(|| {
            wrong(format_args!(
                "there is no memory region {:?} to remove",
                spec(region)
            ))
        })?;
        self.use_memory(memory, true)
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        not_offered("this device has no state of its own")
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered("this device has no state of its own")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered("shared memory regions are not offered")
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let (bytes, offset) = (log.mmap_size, log.mmap_offset);
        let log = DirtyLog::map(&self.shared.share, bytes, offset, shared(file)?).map_err(wrong)?;
        self.change_all(|device| device.log = Some(Arc::new(log)))
    }
}
