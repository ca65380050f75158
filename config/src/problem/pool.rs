//! The table of all that can be wrong with an address pool.

use std::net::IpAddr;

use ipnet::IpNet;

use super::family;
use crate::path::Path;
use crate::{AddressRange, Name, PodName};

/// One thing that is wrong with an address pool.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolProblem {
    /// A pool without addresses.
    #[error("an address pool needs a subnet; add one, such as {{subnet: 192.0.2.0/24}}")]
    Empty,
    /// Two subnets of one family in a pool.
    #[error("{subnet} is the second {} subnet of this pool, after {other}; a pool has one of each family: make another pool of it", family(&.subnet.network()))]
    FamilyTwice {
        /// The subnet.
        subnet: IpNet,
        /// The one before it.
        other: IpNet,
    },
    /// An address with a length where a subnet belongs.
    #[error("{net} is an address in a subnet; for the subnet write {}", .net.trunc())]
    SubnetBits {
        /// What is written.
        net: IpNet,
    },
    /// A subnet that is larger than any network.
    #[error("{net} is too large for a pool; write a length of {min} to {max}")]
    SubnetLength {
        /// The subnet.
        net: IpNet,
        /// The shortest length.
        min: u8,
        /// The longest one.
        max: u8,
    },
    /// An address that is not in the subnet.
    #[error("{ip} is not in the subnet {net}; write an address of it")]
    AddressOutside {
        /// The address.
        ip: IpAddr,
        /// The subnet.
        net: IpNet,
    },
    /// A range that is not in the subnet.
    #[error("{range} is not in the subnet {net}, or not all of it; write addresses of it")]
    RangeOutside {
        /// The range.
        range: AddressRange,
        /// The subnet.
        net: IpNet,
    },
    /// An address of the subnet that no host can have.
    #[error("{ip} is {what} of the subnet {net}, which no host can have; leave it out")]
    NoHost {
        /// The address.
        ip: IpAddr,
        /// The subnet.
        net: IpNet,
        /// Which of its addresses that is.
        what: &'static str,
    },
    /// Two ranges with the same addresses.
    #[error("{range} overlaps `{other}`; write each address once")]
    RangeOverlap {
        /// The range.
        range: AddressRange,
        /// The other one.
        other: Path,
    },
    /// A subnet of which nothing can be given out.
    #[error(
        "no address of {net} is left to give out: all are excluded or the gateway's; exclude less, or make `ranges` or the subnet larger"
    )]
    NothingLeft {
        /// The subnet.
        net: IpNet,
    },
    /// Two pools with the same addresses.
    #[error("{range} would be given out by the pool `{pool}` as well; give each pool `ranges` of its own")]
    Overlap {
        /// What both have.
        range: AddressRange,
        /// The other pool.
        pool: Name,
    },
    /// A gateway that another pool gives to pods.
    #[error("{gateway} would be given to pods by the pool `{pool}`; exclude it there")]
    GatewayGiven {
        /// The gateway.
        gateway: IpAddr,
        /// The other pool.
        pool: Name,
    },
    /// Two routes to one destination, of one metric and table.
    #[error(
        "there are two routes to {to}, the first at `{other}`; remove one, or give it another `priority` or `table`"
    )]
    RouteTwice {
        /// The destination.
        to: IpNet,
        /// Where it is first.
        other: Path,
    },
    /// A route of a family of which pods have no address.
    #[error("the pool has no {} subnet, so its pods could not use a route to {to}; add a subnet or remove the route", family(&.to.network()))]
    RouteNoSubnet {
        /// The destination.
        to: IpNet,
    },
    /// A route without a next hop.
    #[error(
        "the route has no `via`, and the subnet {net} has no `gateway`; add one of them, or `scope: link` if its destinations are on the link"
    )]
    RouteNoGateway {
        /// The subnet.
        net: IpNet,
    },
    /// A next hop where there is none.
    #[error("the route to {to} has the scope `link`, so it has no next hop; remove `via`, or `scope`")]
    RouteOnLink {
        /// The destination.
        to: IpNet,
    },
    /// A next hop of another family.
    #[error("{via} is {}, the route to {to} needs an {} next hop", family(.via), family(&.to.network()))]
    RouteFamily {
        /// The destination.
        to: IpNet,
        /// The next hop.
        via: IpAddr,
    },
    /// Two reservations for one pod.
    #[error(
        "{pod} already has the reservation `{other}`; put all of its addresses there, or say with `interface` which is whose"
    )]
    ReservationTwice {
        /// The pod.
        pod: PodName,
        /// The other one.
        other: Path,
    },
    /// A reservation without addresses.
    #[error("this reserves nothing; add an address, or remove it")]
    ReservesNothing,
    /// An address that two pods would have.
    #[error("{ip} is already reserved by `{other}`; an address belongs to one pod")]
    ReservedTwice {
        /// The address.
        ip: IpAddr,
        /// The other reservation.
        other: Path,
    },
    /// Two addresses of one family in a reservation.
    #[error("{ip} is the second {} address of this reservation, after {other}; a pod gets one of each family", family(.ip))]
    ReservedFamilyTwice {
        /// The address.
        ip: IpAddr,
        /// The one before it.
        other: IpAddr,
    },
    /// The gateway's address for a pod.
    #[error("{ip} is the gateway of its subnet; reserve another address")]
    ReservedGateway {
        /// The address.
        ip: IpAddr,
    },
    /// An address of a family that the pool has not.
    #[error("the pool has no {} subnet; add the one with {ip}, or remove the address", family(.ip))]
    ReservedNoSubnet {
        /// The address.
        ip: IpAddr,
    },
}

impl PoolProblem {
    /// As of [`Problem`](super::Problem).
    pub(super) fn stands_alone(&self) -> bool {
        matches!(
            self,
            PoolProblem::FamilyTwice { .. }
                | PoolProblem::SubnetBits { .. }
                | PoolProblem::SubnetLength { .. }
                | PoolProblem::AddressOutside { .. }
                | PoolProblem::RangeOutside { .. }
                | PoolProblem::NoHost { .. }
                | PoolProblem::RangeOverlap { .. }
                | PoolProblem::RouteTwice { .. }
                | PoolProblem::RouteOnLink { .. }
                | PoolProblem::RouteFamily { .. }
                | PoolProblem::ReservationTwice { .. }
                | PoolProblem::ReservedTwice { .. }
                | PoolProblem::ReservedFamilyTwice { .. }
                | PoolProblem::ReservedGateway { .. }
        )
    }
}
