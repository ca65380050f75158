//! A TAP with its queues, before workers have them.

use super::{TapPort, sys};
use crate::vnet::VnetHeader;
use crate::{Offloads, Umem};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

const CLONE_DEVICE: &str = "/dev/net/tun";

/// Why there is no TAP.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel has no TAPs, or this process may not.
    #[error(
        "cannot open {CLONE_DEVICE}: {0}; load the kernel's module (`modprobe tun`), and let the container have the device"
    )]
    Unavailable(#[source] io::Error),
    /// The kernel refuses a queue.
    #[error("cannot open queue {queue} of the TAP {interface}: {source}{}", advice(.source))]
    Attach {
        /// The interface.
        interface: String,
        /// The queue, from 0.
        queue: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refuses a setting.
    #[error("cannot {what} of the TAP {interface}: {source}")]
    Setting {
        /// What was tried.
        what: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; run clearway as root, or give it CAP_NET_ADMIN",
        Some(libc::EBUSY) => "; another program has it: `ip -d link` shows its queues",
        Some(libc::EINVAL) => {
            "; an interface of that name is there and is no TAP, or one with a single queue (made without `multi_queue`): choose another name or delete it"
        }
        Some(libc::E2BIG) => "; the kernel takes no more queues for one TAP",
        _ => "",
    }
}

/// A TAP and our queues of it. Without [`TapDevice::keep`] a device that this made goes with its last queue.
#[derive(Debug)]
pub struct TapDevice {
    name: String,
    queues: Vec<OwnedFd>,
    takes: Offloads,
}

impl TapDevice {
    /// Opens `queues` queues of the TAP of this name in the calling thread's network namespace; makes it if there is
    /// none. It stays in that namespace whoever has the queues; as long as they are open, so does the namespace.
    ///
    /// # Errors
    /// [`TapError`]; what was made is gone again then.
    pub fn open(name: &str, queues: u16) -> Result<Self, TapError> {
        let several = queue(name, 0, queues > 1);
        // A device of one queue costs less; but one that is there may have been made for more.
        let first = match several {
            Err(TapError::Attach { source, .. })
                if queues == 1 && source.raw_os_error() == Some(libc::EINVAL) =>
            {
                queue(name, 0, true)
            }
            other => other,
        };
        let mut all = vec![first?];
        for number in 1..queues {
            all.push(queue(name, number, true)?);
        }
        let setting = |what| {
            move |source| TapError::Setting {
                what,
                interface: name.to_owned(),
                source,
            }
        };
        let mut takes = Offloads::empty();
        for fd in &all {
            let fd = fd.as_fd();
            sys::set_by_pointer(fd, libc::TUNSETVNETLE, 1).map_err(setting("set the byte order"))?;
            sys::set_by_pointer(fd, libc::TUNSETVNETHDRSZ, size_of::<VnetHeader>() as libc::c_int)
                .map_err(setting("set the header's size"))?;
            takes = set_offloads(fd).map_err(setting("set the offloads"))?;
        }
        Ok(Self {
            name: name.to_owned(),
            queues: all,
            takes,
        })
    }

    /// Has the device outlive its queues.
    ///
    /// # Errors
    /// [`TapError::Setting`].
    pub fn keep(&self) -> Result<(), TapError> {
        let Some(fd) = self.queues.first() else {
            return Ok(());
        };
        sys::set(fd.as_fd(), libc::TUNSETPERSIST, 1).map_err(|source| TapError::Setting {
            what: "make a persistent one",
            interface: self.name.clone(),
            source,
        })
    }

    /// What the kernel takes from us as it is.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.takes
    }

    /// A port for each queue. Their frames are made of chunks of `umem`.
    #[must_use]
    pub fn ports(self, umem: &Umem) -> Vec<TapPort> {
        let Self { name, queues, takes } = self;
        queues
            .into_iter()
            .map(|fd| TapPort::new(fd, &name, takes, umem))
            .collect()
    }
}

fn queue(name: &str, number: u16, several: bool) -> Result<OwnedFd, TapError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(CLONE_DEVICE)
        .map_err(TapError::Unavailable)?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if several {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    sys::attach(file.as_fd(), name, flags).map_err(|source| TapError::Attach {
        interface: name.to_owned(),
        queue: number,
        source,
    })?;
    Ok(file.into())
}

/// Asks for as much work left undone as this kernel can leave; gives what it takes undone from us, which it does not
/// negotiate: all that it knows.
fn set_offloads(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<Offloads> {
    const TSO: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    const USO: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let tcp = Offloads::CHECKSUM | Offloads::TSO4 | Offloads::TSO6 | Offloads::ECN | Offloads::UFO;
    // Each is refused as a whole if it has a flag that the kernel does not know: USO came with Linux 6.2.
    let choices = [
        (
            TSO | libc::TUN_F_TSO_ECN | libc::TUN_F_UFO | USO,
            tcp | Offloads::USO4 | Offloads::USO6,
        ),
        (TSO | libc::TUN_F_TSO_ECN | libc::TUN_F_UFO, tcp),
        (TSO | libc::TUN_F_TSO_ECN, tcp),
        (TSO, tcp),
    ];
    let mut result = Ok(Offloads::empty());
    for (flags, takes) in choices {
        result = sys::set(fd, libc::TUNSETOFFLOAD, flags).map(|()| takes);
        if result.is_ok() {
            break;
        }
    }
    result
}
