//! What each step of an attachment does on this host. Every step can be repeated; every step back is fine with nothing
//! being there.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clearway_config::attach::{Attachment, Segment};
use clearway_config::Name;

use crate::daemon::Standing;
use crate::handle::{ApiError, Detail, ErrorCode, Handle, Request};
use crate::host::accounts;
use crate::host::pod::{self, PodError, PodNetns};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// In the pod's namespace, or with its interface.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The control thread says no.
    #[error(transparent)]
    Control(#[from] ApiError),
    /// The folder of a vhost-user socket.
    #[error("{attempt} {} failed: {source}", .path.display())]
    Folder {
        /// "making", "giving away", "labelling", "removing".
        attempt: &'static str,
        /// The folder.
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
            Self::Pod(error) if error.is_wrong_request() => ErrorCode::BadRequest,
            _ => ErrorCode::Failed,
        }
    }

    /// Its single faults.
    pub(crate) fn details(&self) -> Vec<Detail> {
        match self {
            Self::Control(error) => error.details.clone(),
            _ => Vec::new(),
        }
    }
}

/// The host, as attachments see it.
pub(crate) trait Ground: Send + Sync {
    /// Makes sure that this is a network namespace of somebody else.
    fn netns(&self, path: &Path) -> Result<(), Fault>;
    /// The segment's bridge domain, and the address pools.
    fn standing(&self, segment: &Segment) -> Result<Standing, Fault>;
    /// Where the folders of vhost-user sockets are made.
    fn vhost_folder(&self, port: &Name) -> PathBuf;
    /// A veth pair with one end in the pod.
    fn make_veth(&self, attachment: &Attachment) -> Result<(), Fault>;
    /// Addresses and routes in the pod; its interface and ours are up.
    fn set_up(&self, attachment: &Attachment) -> Result<(), Fault>;
    /// The folder of a socket.
    fn make_folder(&self, attachment: &Attachment) -> Result<(), Fault>;
    /// Has the engine forward; when this returns it does.
    fn open_port(&self, attachment: &Attachment) -> Result<(), Fault>;
    /// Tells its neighbours where it is now. They learn it anyway, later.
    fn announce(&self, attachment: &Attachment);
    /// The engine lets go of it.
    fn close_port(&self, port: &Name) -> Result<(), Fault>;
    /// Both ends go.
    fn remove_veth(&self, attachment: &Attachment) -> Result<(), Fault>;
    /// The TAP goes.
    fn remove_tap(&self, attachment: &Attachment) -> Result<(), Fault>;
    /// The folder goes, if it is one of ours.
    fn remove_folder(&self, attachment: &Attachment) -> Result<(), Fault>;
    /// What is not as it should be, in words; nothing: all is.
    fn look(&self, attachment: &Attachment) -> Vec<String>;
    /// Makes it as it should be.
    fn repair(&self, attachment: &Attachment) -> Result<(), Fault>;
}

/// This host.
pub(crate) struct HostGround {
    handle: Handle,
    vhost: PathBuf,
}

impl HostGround {
    /// With the daemon's control thread behind `handle`, and sockets in folders below `vhost`.
    pub(crate) fn new(handle: Handle, vhost: PathBuf) -> Self {
        Self { handle, vhost }
    }

    fn is_ours(&self, folder: &Path) -> bool {
        folder.parent() == Some(&self.vhost)
    }

    fn pod(&self, attachment: &Attachment) -> Result<PodNetns, PodError> {
        PodNetns::open(&attachment.wanted.netns)
    }
}

impl Ground for HostGround {
    fn netns(&self, path: &Path) -> Result<(), Fault> {
        PodNetns::open(path)?;
        Ok(())
    }

    fn standing(&self, segment: &Segment) -> Result<Standing, Fault> {
        let segment = segment.clone();
        Ok(self.handle.ask_blocking(|reply| Request::Standing { segment, reply })?)
    }

    fn vhost_folder(&self, port: &Name) -> PathBuf {
        self.vhost.join(port.as_str())
    }

    fn make_veth(&self, attachment: &Attachment) -> Result<(), Fault> {
        let pod = self.pod(attachment)?;
        let host = attachment.host_interface.as_deref().unwrap_or_default();
        pod::create_veth(&pod::Veth {
            host,
            pod: &pod,
            interface: &attachment.id.interface,
            mac: attachment.mac,
            mtu: u32::from(attachment.mtu),
            alias: &attachment.id.to_string(),
        })?;
        Ok(())
    }

    fn set_up(&self, attachment: &Attachment) -> Result<(), Fault> {
        let pod = self.pod(attachment)?;
        pod::set_up(&pod, &attachment.id.interface, &attachment.addresses)?;
        if let Some(host) = &attachment.host_interface {
            pod::set_host_end_up(host)?;
        }
        Ok(())
    }

    fn make_folder(&self, attachment: &Attachment) -> Result<(), Fault> {
        let Some(folder) = attachment.socket.as_deref().and_then(Path::parent) else {
            return Ok(());
        };
        let failed = |attempt| {
            move |source| Fault::Folder {
                attempt,
                path: folder.to_owned(),
                source,
            }
        };
        fs::create_dir_all(folder).map_err(failed("making"))?;
        let socket = attachment.wanted.vhost.clone().unwrap_or_default();
        if self.is_ours(folder) {
            // Whoever may use the socket has to reach it.
            let mode = fs::Permissions::from_mode(0o750);
            fs::set_permissions(folder, mode).map_err(failed("giving rights to"))?;
            let none = |what: &str, name: &str| {
                let text = format!("this host has no {what} `{name}`; create it, or name another one");
                failed("giving away")(io::Error::other(text))
            };
            let owner = socket.owner.as_deref();
            let owner = owner.map(|name| accounts::user(name).ok_or_else(|| none("user", name)));
            let group = socket.group.as_deref();
            let group = group.map(|name| accounts::group(name).ok_or_else(|| none("group", name)));
            nix::unistd::chown(folder, owner.transpose()?, group.transpose()?)
                .map_err(|errno| failed("giving away")(errno.into()))?;
        }
        if let Some(label) = &socket.selinux_label {
            rustix::fs::setxattr(folder, "security.selinux", label.as_bytes(), rustix::fs::XattrFlags::empty())
                .map_err(|errno| failed("labelling")(errno.into()))?;
        }
        Ok(())
    }

    fn open_port(&self, attachment: &Attachment) -> Result<(), Fault> {
        let wanted = Box::new(super::manager::attached(attachment));
        let name = attachment.port.clone();
        let request = |reply| Request::Attach { name, wanted, reply };
        Ok(self.handle.ask_blocking(request)?)
    }

    fn announce(&self, attachment: &Attachment) {
        let addresses: Vec<_> = attachment.addresses.ips.iter().map(|ip| ip.address.addr()).collect();
        if addresses.is_empty() {
            return;
        }
        let announced = self
            .pod(attachment)
            .and_then(|pod| pod::announce(&pod, &attachment.id.interface, attachment.mac, &addresses));
        if let Err(error) = announced {
            tracing::warn!(attachment = %attachment.id, %error, "its neighbours were not told where it is; they learn it from its packets");
        }
    }

    fn close_port(&self, port: &Name) -> Result<(), Fault> {
        let name = port.clone();
        Ok(self.handle.ask_blocking(|reply| Request::Detach { name, reply })?)
    }

    fn remove_veth(&self, attachment: &Attachment) -> Result<(), Fault> {
        if let Some(host) = &attachment.host_interface {
            pod::delete_link(host)?;
        }
        Ok(())
    }

    fn remove_tap(&self, attachment: &Attachment) -> Result<(), Fault> {
        // With the namespace the TAP is gone.
        if let Ok(pod) = self.pod(attachment) {
            pod::delete_tap(&pod, &attachment.id.interface, attachment.mac)?;
        }
        Ok(())
    }

    fn remove_folder(&self, attachment: &Attachment) -> Result<(), Fault> {
        let folder = attachment.socket.as_deref().and_then(Path::parent);
        let Some(folder) = folder.filter(|folder| self.is_ours(folder)) else {
            return Ok(());
        };
        match fs::remove_dir_all(folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Fault::Folder {
                attempt: "removing",
                path: folder.to_owned(),
                source,
            }),
            _ => Ok(()),
        }
    }

    fn look(&self, attachment: &Attachment) -> Vec<String> {
        let mut problems = Vec::new();
        if attachment.socket.is_none() {
            match self.pod(attachment).and_then(|pod| pod::look(&pod, &attachment.id.interface)) {
                Ok(found) => problems.extend(pod::differences(attachment, found.as_ref())),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let name = attachment.port.clone();
        match self.handle.ask_blocking(|reply| Request::WhyDown { name, reply }) {
            Ok(reason) => problems.extend(reason.map(|reason| format!("port {}: {reason}", attachment.port))),
            Err(error) => problems.push(error.to_string()),
        }
        problems
    }

    fn repair(&self, attachment: &Attachment) -> Result<(), Fault> {
        let pod = match attachment.socket {
            None => self.pod(attachment)?,
            // Folder and socket are the port's.
            Some(_) => return Ok(()),
        };
        let there = pod::look(&pod, &attachment.id.interface)?.is_some();
        if !there && attachment.host_interface.is_some() {
            self.remove_veth(attachment)?;
            self.make_veth(attachment)?;
        }
        pod::repair(&pod, attachment)?;
        self.set_up(attachment)?;
        self.announce(attachment);
        Ok(())
    }
}

