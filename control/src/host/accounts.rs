//! Users and groups by name or number.

use nix::unistd::{Gid, Group, Uid, User};

/// The user of this name or number; none: this host has no such user.
pub(crate) fn user(name: &str) -> Option<Uid> {
    match name.parse() {
        Ok(number) => Some(Uid::from_raw(number)),
        Err(_) => User::from_name(name).ok().flatten().map(|user| user.uid),
    }
}

/// The group of this name or number; none: this host has no such group.
pub(crate) fn group(name: &str) -> Option<Gid> {
    match name.parse() {
        Ok(number) => Some(Gid::from_raw(number)),
        Err(_) => Group::from_name(name).ok().flatten().map(|group| group.gid),
    }
}
