//! The compiled object, of which one program and its maps are loaded at a time.

use super::program::{XdpError, bpf};
use libbpf_rs::{MapCore, MapHandle, Object, ObjectBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Compiled from `xdp/clearway.bpf.c` by `xdp/build.sh`.
static OBJECT: &[u8] = include_bytes!("../../xdp/clearway.bpf.o");

/// A program that the kernel has taken, with its maps. Dropped, what was not asked for goes.
pub(super) struct Loaded {
    object: Object,
    name: &'static str,
}

/// Loads a program and makes these maps, which must be all that it uses.
pub(super) fn load(name: &'static str, maps: &[&str]) -> Result<Loaded, XdpError> {
    let load = || {
        let mut open = ObjectBuilder::default().open_memory(OBJECT)?;
        for mut program in open.progs_mut() {
            let wanted = program.name() == name;
            program.set_autoload(wanted);
        }
        for mut map in open.maps_mut() {
            let wanted = maps.iter().any(|name| map.name() == *name);
            map.set_autocreate(wanted)?;
        }
        open.load()
    };
    let object = load().map_err(bpf(LOAD))?;
    Ok(Loaded { object, name })
}

const LOAD: &str = "load the XDP program";

fn missing() -> XdpError {
    bpf(LOAD)(io::Error::from(io::ErrorKind::NotFound).into())
}

impl Loaded {
    /// The program's descriptor.
    pub(super) fn program(&self) -> Result<OwnedFd, XdpError> {
        let program = self.object.progs().find(|program| program.name() == self.name);
        let program = program.ok_or_else(missing)?;
        let owned = program.as_fd().try_clone_to_owned();
        owned.map_err(|error| bpf(LOAD)(error.into()))
    }

    /// A map of its.
    pub(super) fn map(&self, name: &str) -> Result<MapHandle, XdpError> {
        let map = self.object.maps().find(|map| map.name() == name);
        MapHandle::try_from(&map.ok_or_else(missing)?).map_err(bpf(LOAD))
    }
}
