//! BPF links: what keeps a program on an interface, for as long as their last descriptor is open.

use super::program::{AttachMode, XdpError, bpf};
use super::socket::{Interface, ModeRequest};
use libbpf_rs::XdpFlags;
use libbpf_rs::libbpf_sys;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A program on an interface.
pub(super) struct Link {
    pub(super) fd: OwnedFd,
    pub(super) mode: AttachMode,
}

impl Link {
    /// Attaches a program. `Auto` and `AnyCopy` take the driver, else the network stack.
    pub(super) fn attach(
        program: BorrowedFd<'_>,
        interface: &Interface,
        mode: ModeRequest,
    ) -> Result<Self, XdpError> {
        let native = || create(program, interface, AttachMode::Native);
        let generic = || create(program, interface, AttachMode::Generic);
        match mode {
            ModeRequest::Auto | ModeRequest::AnyCopy => native().or_else(|error| match error {
                XdpError::Attach { source, .. } if cannot(&source) => generic(),
                other => Err(other),
            }),
            ModeRequest::ZeroCopy | ModeRequest::Native => native(),
            ModeRequest::Generic => generic(),
        }
    }

    /// Puts another program in the place of the one that is attached, between two frames.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> Result<(), XdpError> {
        // SAFETY: both are open descriptors; no options.
        let result = unsafe {
            libbpf_sys::bpf_link_update(self.fd.as_raw_fd(), program.as_raw_fd(), std::ptr::null())
        };
        if result == 0 {
            return Ok(());
        }
        let source = io::Error::from_raw_os_error(-result);
        Err(bpf("put another XDP program in the place of the attached one")(
            source.into(),
        ))
    }
}

fn create(program: BorrowedFd<'_>, interface: &Interface, mode: AttachMode) -> Result<Link, XdpError> {
    let (flags, name) = match mode {
        AttachMode::Native => (XdpFlags::DRV_MODE, "native"),
        AttachMode::Generic => (XdpFlags::SKB_MODE, "generic"),
    };
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
        flags: flags.bits(),
        ..Default::default()
    };
    // SAFETY: options lives through the call and says its own size.
    let fd = unsafe {
        libbpf_sys::bpf_link_create(
            program.as_raw_fd(),
            interface.index as i32,
            libbpf_sys::BPF_XDP,
            &raw const options,
        )
    };
    if fd < 0 {
        let source = io::Error::from_raw_os_error(-fd);
        let advice = match source.raw_os_error() {
            Some(libc::EPERM) => "root or CAP_BPF and CAP_NET_ADMIN are needed",
            Some(libc::EBUSY) => "another program was attached just now",
            Some(libc::ENODEV) => "the interface is gone",
            _ => {
                "the driver may not do XDP, or not at this MTU or with this number of queues: try `mode: generic`"
            }
        };
        let interface = interface.name.clone();
        return Err(XdpError::Attach {
            interface,
            mode: name,
            source,
            advice,
        });
    }
    // SAFETY: bpf_link_create returned a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Link { fd, mode })
}

/// Whether a driver says that it can't, rather than that we may not.
fn cannot(error: &io::Error) -> bool {
    !is_taken(error) && !matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENODEV))
}

/// Whether there is a program already: in this mode or in the other (net/core/dev.c, dev_xdp_attach).
pub(super) fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}
