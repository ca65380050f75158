//! Why there are no addresses for an attachment.

use std::net::IpAddr;

use clearway_config::attach::AttachmentId;
use clearway_config::{Name, PodName};
use ipnet::IpNet;

/// Why there are no addresses for an attachment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IpamError {
    /// No such pool.
    #[error("there is no address pool `{pool}`; there {}: add it under `address-pools` or correct the name", listed(.there))]
    NoSuchPool {
        /// Its name.
        pool: Name,
        /// Those that there are.
        there: Vec<Name>,
    },
    /// No pool at all.
    #[error(
        "there is no address pool; add one under `address-pools`, or name another IPAM plugin in the network's configuration"
    )]
    NoPool,
    /// Several pools, and none is named.
    #[error("there are several address pools; name one in the network's configuration: {}", names(.there))]
    WhichPool {
        /// Those that there are.
        there: Vec<Name>,
    },
    /// It has addresses.
    #[error("attachment {id} already has addresses of the pool `{pool}`; remove it first (CNI DEL)")]
    Leased {
        /// The attachment.
        id: AttachmentId,
        /// The pool.
        pool: Name,
    },
    /// An address that is not the pool's.
    #[error(
        "{ip} is no address that the pool `{pool}` gives out: it has {has}; ask for one of these, or change the pool's `ranges`"
    )]
    NotInPool {
        /// The address.
        ip: IpAddr,
        /// The pool.
        pool: Name,
        /// What it gives out.
        has: String,
    },
    /// Two addresses of one family for one interface.
    #[error("{ip} and {other} are of one family; ask for at most one IPv4 and one IPv6 address")]
    FamilyTwice {
        /// The second.
        ip: IpAddr,
        /// The first.
        other: IpAddr,
    },
    /// An address that is kept for another pod.
    #[error(
        "{ip} is reserved in the pool `{pool}` for the pod {pod}; ask for another one, or remove the reservation"
    )]
    Reserved {
        /// The address.
        ip: IpAddr,
        /// The pool.
        pool: Name,
        /// For whom.
        pod: PodName,
    },
    /// An address that somebody has.
    #[error("{ip} of the pool `{pool}` is taken by {by}; it is free again when that is removed")]
    Taken {
        /// The address.
        ip: IpAddr,
        /// The pool.
        pool: Name,
        /// Who has it.
        by: String,
    },
    /// All addresses are taken.
    #[error(
        "the pool `{pool}` is exhausted: of the {count} addresses of {net} that it gives out, {leased} are leased and {reserved} are \
         reserved for pods that have others or are not here; make its `ranges` or the subnet larger, or remove attachments \
         (`clearway get attachments`)"
    )]
    Exhausted {
        /// The pool.
        pool: Name,
        /// The subnet of which none is left.
        net: IpNet,
        /// How many addresses it gives out.
        count: u128,
        /// How many of them are leased.
        leased: usize,
        /// How many of the others are reserved.
        reserved: usize,
    },
    /// A configuration that takes a leased address away.
    #[error(
        "{ip} of the pool `{pool}` is taken by {by}, and the new configuration has no such address there; remove that first, or keep the address"
    )]
    InUse {
        /// The address.
        ip: IpAddr,
        /// The pool.
        pool: Name,
        /// Who has it.
        by: String,
    },
}

impl IpamError {
    /// Whether what was asked for does not exist, rather than being in use.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::NoSuchPool { .. } | Self::NoPool | Self::WhichPool { .. } | Self::NotInPool { .. }
        )
    }
}

fn names(names: &[Name]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn listed(there: &[Name]) -> String {
    match there {
        [] => "is none".to_owned(),
        [one] => format!("is `{one}`"),
        all => format!("are {}", names(all)),
    }
}
