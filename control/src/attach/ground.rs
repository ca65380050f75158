//! What each step of an attachment does on this host. Every step can be repeated; every step back is fine with nothing
//! being there.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clearway_config::Name;
use clearway_config::attach::{Addresses, Route, Segment, VhostSocket};
use clearway_sriov::saved::VfLease;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::fchownat;

use super::known::Known;
use super::vf::{self, VfError, Vfs};
use crate::daemon::{Standing, remove_stale_socket};
use crate::handle::{ApiError, Detail, ErrorCode, Handle, Request};
use crate::host::Host;
use crate::host::links::IfIndex;
use crate::host::pod::{PodError, PodNetns, Veth, Wanted, differences};
use crate::host::{accounts, label};

/// The longest alias of an interface, in bytes: `IFALIASZ` of the kernel without the zero byte.
const MAX_ALIAS: usize = 255;

/// The rights of a socket's folder that is made for it.
const FOLDER_MODE: u32 = 0o750;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// In the pod's namespace, or with its interface.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// With a VF.
    #[error(transparent)]
    Vf(#[from] VfError),
    /// The control thread says no.
    #[error(transparent)]
    Control(#[from] ApiError),
    /// The folder of a vhost-user socket, or the socket in it.
    #[error("{attempt} {} failed: {source}", .path.display())]
    Folder {
        /// "making", "opening", "labelling", "looking at", "giving rights to", "giving away", "removing".
        attempt: &'static str,
        /// The folder, or the socket.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// A test wants to see what happens then.
    #[cfg(test)]
    #[error("{0}")]
    Injected(String),
}

impl Fault {
    /// What kind of failure it is.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Control(error) => error.code,
            Self::Vf(error) => error.code(),
            Self::Pod(error) if error.is_of_netns() => ErrorCode::BadRequest,
            Self::Pod(error) if error.is_in_the_way() => ErrorCode::Conflict,
            _ => ErrorCode::Failed,
        }
    }

    /// Its single faults.
    pub(crate) fn details(&self) -> Vec<Detail> {
        match self {
            Self::Control(error) => error.details.clone(),
            Self::Pod(error) if error.is_of_netns() => vec![Detail {
                path: "netns".to_owned(),
                line: None,
                column: None,
                message: "it must lead to the network namespace of a pod that is there".to_owned(),
            }],
            _ => Vec::new(),
        }
    }
}

/// The host, as attachments see it.
pub(crate) trait Ground: Send + Sync {
    /// Which network namespace this is; the daemon's own is refused.
    fn netns(&self, path: &Path) -> Result<PodNetns, Fault>;
    /// Whether the pod has no interface of this name: one that is there is not ours, and stays what it is. Returns the
    /// namespace as it can be told from any later one.
    fn name_is_free(&self, netns: &PodNetns, interface: &str) -> Result<PodNetns, Fault>;
    /// The segment's bridge domain, and the address pools.
    fn standing(&self, segment: &Segment) -> Result<Standing, Fault>;
    /// Where the folder of a vhost-user socket is made.
    fn vhost_folder(&self, port: &Name) -> PathBuf;
    /// A veth pair with one end in the pod.
    fn make_veth(&self, known: &Known) -> Result<(), Fault>;
    /// Addresses and routes in the pod; its interface and ours are up.
    fn set_up(&self, known: &Known) -> Result<(), Fault>;
    /// Those of its routes whose place is another interface's in the pod.
    fn taken_routes(&self, known: &Known) -> Result<Vec<Route>, Fault>;
    /// The folder of a socket.
    fn make_folder(&self, known: &Known) -> Result<(), Fault>;
    /// A lease of a VF that is free, with how it is. Nothing is changed.
    fn take_vf(&self, device: &str, holder: &str) -> Result<VfLease, Fault>;
    /// A lease that a record has.
    fn hold_vf(&self, lease: &VfLease);
    /// A lease that no record has got.
    fn forget_vf(&self, lease: &VfLease);
    /// The VF's settings.
    fn set_vf(&self, known: &Known) -> Result<(), Fault>;
    /// Its interface, if it has one, goes to the pod.
    fn move_vf(&self, known: &Known) -> Result<(), Fault>;
    /// Has the engine forward; when this returns it does.
    fn open_port(&self, known: &Known) -> Result<(), Fault>;
    /// Tells its neighbours where it is now. They learn it anyway, later.
    fn announce(&self, known: &Known);
    /// The engine lets go of it.
    fn close_port(&self, known: &Known) -> Result<(), Fault>;
    /// Both ends go.
    fn remove_veth(&self, known: &Known) -> Result<(), Fault>;
    /// The TAP goes.
    fn remove_tap(&self, known: &Known) -> Result<(), Fault>;
    /// The folder goes, if it is one of ours; in another one, the socket that a killed daemon has left.
    fn remove_folder(&self, known: &Known) -> Result<(), Fault>;
    /// The VF's interface comes back from the pod.
    fn fetch_vf(&self, known: &Known) -> Result<(), Fault>;
    /// The VF is as it was before; its lease ends.
    fn give_back_vf(&self, known: &Known) -> Result<(), Fault>;
    /// What is not as it should be, in words; nothing: all is.
    fn look(&self, known: &Known) -> Vec<String>;
    /// Makes it as it should be.
    fn repair(&self, known: &Known) -> Result<(), Fault>;
}

/// A VF has its link so much later than its interface is up.
const LINK_PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
/// How many sockets to the kernel are kept for the next pod; opening them takes half a millisecond.
const SPARE_HOSTS: usize = 4;

/// This host.
pub(crate) struct HostGround {
    handle: Handle,
    vhost: PathBuf,
    /// Sockets to the kernel that nobody uses just now.
    hosts: Mutex<Vec<Host>>,
    vfs: Vfs,
}

impl HostGround {
    /// With the daemon's control thread behind `handle`, and sockets in folders below `vhost`.
    pub(crate) fn new(handle: Handle, vhost: PathBuf) -> Self {
        Self {
            handle,
            vhost,
            hosts: Mutex::default(),
            vfs: Vfs::new(None),
        }
    }

    /// With other VFs than this host's.
    #[cfg(test)]
    pub(super) fn with_vfs(self, hardware: Box<dyn clearway_sriov::hardware::Hardware + Send>) -> Self {
        let vfs = Vfs::new(Some(hardware));
        Self { vfs, ..self }
    }

    /// Does something with sockets to the kernel; those of a failure are not used again.
    fn on_host<T>(&self, work: impl FnOnce(&mut Host) -> Result<T, PodError>) -> Result<T, PodError> {
        let spare = || self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = spare().pop();
        let mut host = idle.map_or_else(Host::open, Ok)?;
        let done = work(&mut host)?;
        let mut spare = spare();
        if spare.len() < SPARE_HOSTS {
            spare.push(host);
        }
        Ok(done)
    }

    /// Whether a folder was made for this socket alone. One that the user names may be anywhere, also beside these.
    fn is_ours(&self, folder: &Path, known: &Known) -> bool {
        let own = known.attachment.port.as_ref().map(|port| self.vhost_folder(port));
        own.as_deref() == Some(folder)
    }
}

impl Ground for HostGround {
    fn netns(&self, path: &Path) -> Result<PodNetns, Fault> {
        Ok(PodNetns::open(path)?)
    }

    fn name_is_free(&self, netns: &PodNetns, interface: &str) -> Result<PodNetns, Fault> {
        let mut pod = netns.enter()?;
        pod.name_is_free(interface)?;
        Ok(pod.netns().clone())
    }

    fn standing(&self, segment: &Segment) -> Result<Standing, Fault> {
        let segment = segment.clone();
        Ok(self
            .handle
            .ask_blocking(|reply| Request::Standing { segment, reply })?)
    }

    fn vhost_folder(&self, port: &Name) -> PathBuf {
        self.vhost.join(port.as_str())
    }

    fn make_veth(&self, known: &Known) -> Result<(), Fault> {
        let attachment = &known.attachment;
        let alias = format!("clearway {}", attachment.id);
        let veth = Veth {
            host_name: attachment.host_interface.as_deref().unwrap_or_default(),
            host_mac: None,
            pod_name: &attachment.id.interface,
            mac: attachment.mac,
            mtu: u32::from(attachment.mtu),
            alias: beginning(&alias, MAX_ALIAS),
        };
        self.on_host(|host| host.create_veth(&known.netns, &veth))?;
        Ok(())
    }

    fn set_up(&self, known: &Known) -> Result<(), Fault> {
        let attachment = &known.attachment;
        let Some(wanted) = known.interface() else {
            return Ok(());
        };
        let mut pod = known.netns.enter()?;
        if known.vf.is_some() {
            // It was not made as it should be, but as it is.
            let addresses = &Addresses::default();
            pod.repair(&attachment.id.interface, &Wanted { addresses, ..wanted })?;
        }
        pod.set_up(&attachment.id.interface, &attachment.addresses)?;
        if let Some(host_interface) = &attachment.host_interface {
            self.on_host(|host| {
                let link = host.link(host_interface)?;
                Ok(host.set_link_up(link.ifindex)?)
            })?;
        }
        Ok(())
    }

    fn taken_routes(&self, known: &Known) -> Result<Vec<Route>, Fault> {
        let attachment = &known.attachment;
        let mut pod = known.netns.enter()?;
        Ok(pod.taken_routes(&attachment.id.interface, &attachment.addresses)?)
    }

    fn make_folder(&self, known: &Known) -> Result<(), Fault> {
        let Some(folder) = known.attachment.socket.as_deref().and_then(Path::parent) else {
            return Ok(());
        };
        make_folder(
            folder,
            self.is_ours(folder, known),
            known.attachment.wanted.vhost.as_ref(),
        )
    }

    fn take_vf(&self, device: &str, holder: &str) -> Result<VfLease, Fault> {
        Ok(self.vfs.take(device, holder)?)
    }

    fn hold_vf(&self, lease: &VfLease) {
        self.vfs.hold(lease);
    }

    fn forget_vf(&self, lease: &VfLease) {
        self.vfs.forget(lease);
    }

    fn set_vf(&self, known: &Known) -> Result<(), Fault> {
        if let Some(lease) = &known.vf {
            self.vfs.set(lease, &vf::target(&known.attachment.wanted))?;
        }
        Ok(())
    }

    fn move_vf(&self, known: &Known) -> Result<(), Fault> {
        let Some(lease) = known.vf_with_interface() else {
            return Ok(());
        };
        let found = self.vfs.interface(lease)?;
        let ifindex = IfIndex(found.ok_or(VfError::NoInterface(lease.saved.pci))?.ifindex);
        let name = &known.attachment.id.interface;
        self.on_host(|host| host.move_to_pod(ifindex, &known.netns, name))?;
        Ok(())
    }

    fn open_port(&self, known: &Known) -> Result<(), Fault> {
        let Some((name, wanted)) = known.port() else {
            return Ok(());
        };
        let wanted = Box::new(wanted);
        let request = |reply| Request::Attach { name, wanted, reply };
        Ok(self.handle.ask_blocking(request)?)
    }

    fn announce(&self, known: &Known) {
        let attachment = &known.attachment;
        // Who is behind a socket speaks for itself.
        if known.interface().is_none() || attachment.addresses.ips.is_empty() {
            return;
        }
        let addresses: Vec<_> = attachment
            .addresses
            .ips
            .iter()
            .map(|ip| ip.address.addr())
            .collect();
        let (id, mac, netns) = (attachment.id.clone(), attachment.mac, known.netns.clone());
        let end = Instant::now() + LINK_PATIENCE;
        let announce = move || {
            let try_it = || -> Result<bool, PodError> {
                let mut pod = netns.enter()?;
                let now = pod.has_link(&id.interface)? || Instant::now() >= end;
                if now {
                    pod.announce(&id.interface, mac, &addresses)?;
                }
                Ok(now)
            };
            let mut announced = try_it();
            while matches!(announced, Ok(false)) {
                thread::sleep(PAUSE);
                announced = try_it();
            }
            if let Err(error) = announced {
                tracing::warn!(attachment = %id, %error, "its neighbours were not told where it is; they learn it from its packets");
            }
        };
        // Whoever waits for the attachment need not wait for this.
        let thread = thread::Builder::new().name("announce".to_owned());
        if let Err(error) = thread.spawn(announce) {
            tracing::warn!(attachment = %attachment.id, %error, "its neighbours were not told where it is; they learn it from its packets");
        }
    }

    fn close_port(&self, known: &Known) -> Result<(), Fault> {
        let Some(name) = known.attachment.port.clone() else {
            return Ok(());
        };
        let socket = known.attachment.socket.clone();
        Ok(self
            .handle
            .ask_blocking(|reply| Request::Detach { name, socket, reply })?)
    }

    fn remove_veth(&self, known: &Known) -> Result<(), Fault> {
        if let Some(host_interface) = &known.attachment.host_interface {
            self.on_host(|host| host.delete_veth(host_interface))?;
        }
        Ok(())
    }

    fn remove_tap(&self, known: &Known) -> Result<(), Fault> {
        // With the namespace the TAP is gone.
        if known.netns.still_there().is_err() {
            return Ok(());
        }
        match known.netns.enter() {
            Ok(mut pod) => pod.delete_tap(&known.attachment.id.interface)?,
            // Another pod's has its path and its inode now, and maybe a TAP of this name.
            Err(PodError::Gone(_) | PodError::Replaced(_)) => false,
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }

    fn remove_folder(&self, known: &Known) -> Result<(), Fault> {
        let Some(socket) = known.attachment.socket.as_deref() else {
            return Ok(());
        };
        let Some(folder) = socket.parent() else {
            return Ok(());
        };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Fault::Folder {
                attempt: "removing",
                path,
                source,
            }
        };
        let vhost = known.attachment.wanted.vhost.as_ref();
        // Of one that the pod has made, nothing is ours.
        if !self.is_ours(folder, known) && !vhost.is_some_and(|vhost| vhost.client) {
            remove_stale_socket(socket).map_err(failed(socket))?;
        }
        let removed = if self.is_ours(folder, known) {
            fs::remove_dir_all(folder)
        } else if vhost.is_some_and(|vhost| vhost.own_folder) {
            // What else is in it is another interface's, or the pod's.
            match fs::remove_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                removed => removed,
            }
        } else {
            Ok(())
        };
        match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed(folder)(source)),
            _ => Ok(()),
        }
    }

    fn fetch_vf(&self, known: &Known) -> Result<(), Fault> {
        // Where it has ended, the VF in the pod is another attachment's.
        let lease = known.vf_with_interface().filter(|lease| self.vfs.is_held(lease));
        let Some(lease) = lease else { return Ok(()) };
        match known.netns.enter() {
            Ok(mut pod) => {
                pod.give_device(&lease.saved.pci.to_string(), &known.attachment.id.interface)?;
                Ok(())
            }
            // With the namespace it comes back by itself.
            Err(PodError::Gone(_) | PodError::Replaced(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn give_back_vf(&self, known: &Known) -> Result<(), Fault> {
        known
            .vf
            .as_ref()
            .map_or(Ok(()), |lease| Ok(self.vfs.give_back(lease)?))
    }

    fn look(&self, known: &Known) -> Vec<String> {
        let attachment = &known.attachment;
        let mut problems = Vec::new();
        if let Some(wanted) = known.interface() {
            match known
                .netns
                .enter()
                .and_then(|mut pod| pod.look(&attachment.id.interface))
            {
                Ok(found) => problems.extend(
                    differences(&wanted, found.as_ref())
                        .iter()
                        .map(ToString::to_string),
                ),
                Err(error) => problems.push(error.to_string()),
            }
        }
        if let Some(lease) = &known.vf {
            match self.vfs.missing(lease, &vf::target(&attachment.wanted)) {
                Ok(steps) => problems.extend(steps.iter().map(|step| format!("its NIC has not: {step}"))),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let Some(name) = attachment.port.clone() else {
            return problems;
        };
        let told = format!("port {name}");
        match self.handle.ask_blocking(|reply| Request::WhyDown { name, reply }) {
            Ok(reason) => problems.extend(reason.map(|reason| format!("{told}: {reason}"))),
            Err(error) => problems.push(error.to_string()),
        }
        problems
    }

    fn repair(&self, known: &Known) -> Result<(), Fault> {
        let attachment = &known.attachment;
        self.set_vf(known)?;
        // Folder and socket are the port's.
        let Some(wanted) = known.interface() else {
            return self.make_folder(known);
        };
        let mut pod = known.netns.enter()?;
        if pod.look(&attachment.id.interface)?.is_none() {
            if attachment.host_interface.is_some() {
                self.remove_veth(known)?;
                self.make_veth(known)?;
            }
            self.move_vf(known)?;
        }
        let found = pod.repair(&attachment.id.interface, &wanted)?;
        self.set_up(known)?;
        if !found.is_empty() {
            self.announce(known);
        }
        Ok(())
    }
}

/// As many characters of a text as fit into `most` bytes.
fn beginning(text: &str, most: usize) -> &str {
    let mut most = most.min(text.len());
    while !text.is_char_boundary(most) {
        most -= 1;
    }
    &text[..most]
}

/// The folder of a vhost-user socket. One that is the user's is left as it is, but for its label.
fn make_folder(folder: &Path, ours: bool, socket: Option<&VhostSocket>) -> Result<(), Fault> {
    let failed = |attempt: &'static str| {
        move |source| Fault::Folder {
            attempt,
            path: folder.to_owned(),
            source,
        }
    };
    fs::create_dir_all(folder).map_err(failed("making"))?;
    let socket = socket.cloned().unwrap_or_default();
    if !ours && socket.selinux_label.is_none() {
        return Ok(());
    }
    let there = open_folder(folder).map_err(failed("opening"))?;
    // What is another's already can be changed by nobody without CAP_FOWNER, so that comes last.
    if let Some(wanted) = &socket.selinux_label {
        label::give(&there, wanted).map_err(failed("labelling"))?;
    }
    if ours {
        let none = |what: &str, name: &str| {
            let text = format!("this host has no {what} `{name}`; create it, or name another one");
            failed("giving away")(io::Error::other(text))
        };
        let owner = socket.owner.as_deref();
        let owner = owner.map(|name| accounts::user(name).ok_or_else(|| none("user", name)));
        let group = socket.group.as_deref();
        let group = group.map(|name| accounts::group(name).ok_or_else(|| none("group", name)));
        let is = fs::metadata(folder).map_err(failed("looking at"))?;
        if is.mode() & 0o7777 != FOLDER_MODE {
            // Whoever may use the socket has to reach it.
            let mode = fs::Permissions::from_mode(FOLDER_MODE);
            fs::set_permissions(folder, mode).map_err(failed("giving rights to"))?;
        }
        fchownat(
            &there,
            "",
            owner.transpose()?,
            group.transpose()?,
            AtFlags::AT_EMPTY_PATH,
        )
        .map_err(|errno| failed("giving away")(errno.into()))?;
    }
    Ok(())
}

/// As a path alone, and not what a symbolic link of its name leads to: whoever may write in the folder above would choose
/// what is given away.
fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(folder, flags, Mode::empty()).map_err(|errno| {
        let is_link = fs::symlink_metadata(folder).is_ok_and(|found| found.is_symlink());
        match is_link {
            true => io::Error::other(
                "it is a symbolic link, which is not followed; name the folder that it leads to",
            ),
            false => errno.into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        for (most, cut) in [(0, ""), (1, "a"), (2, "a"), (3, "aé"), (4, "aéb"), (9, "aéb")] {
            assert_eq!(beginning("aéb", most), cut, "{most}");
        }
    }
}
