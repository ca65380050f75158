//! Address pools: the addresses that the daemon gives to pods.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::addresses::{AddressRange, Subnet, Text, subnet};

/// Addresses for pods, with what else their interfaces need to know of layer 3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    default,
    expecting = "the keys of an address pool"
)]
pub struct AddressPool {
    /// A subnet of IPv4, one of IPv6, or one of each: then a pod gets an address of each.
    pub subnets: Vec<PoolSubnet>,
    /// The routes that a pod gets besides those to its own subnets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<PoolRoute>,
    /// Addresses that are kept for single pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<Reservation>,
}

/// A subnet of a pool, and which of its addresses may be given to pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a subnet of a pool such as {subnet: 192.0.2.0/24, gateway: 192.0.2.1}"
)]
pub struct PoolSubnet {
    /// The subnet, such as `192.0.2.0/24`. Its length is that of the pods' addresses.
    #[serde(deserialize_with = "subnet")]
    #[schemars(with = "Subnet")]
    pub subnet: IpNet,
    /// The addresses that pods may get, such as `192.0.2.10-192.0.2.99`. Absent: every host address of the subnet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<AddressRange>,
    /// Addresses that they do not get: single ones, ranges, or subnets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<AddressRange>,
    /// The router's address, which no pod gets; of IPv6 it may be a link-local one. Absent: there is no router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route that pods get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a route such as {to: 0.0.0.0/0, via: 192.0.2.1}"
)]
pub struct PoolRoute {
    /// Where to: a subnet; `0.0.0.0/0` and `::/0` are the default routes.
    #[serde(deserialize_with = "subnet")]
    #[schemars(with = "Subnet")]
    pub to: IpNet,
    /// The next hop. Absent: the gateway of the pool's subnet of that family, unless `scope` says that there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The MTU along it, in bytes. Absent: the interface's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 576, max = 9216))]
    pub mtu: Option<u32>,
    /// The TCP maximal segment size to advertise, in bytes. Absent: as the MTU has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 88, max = 9176))]
    pub advmss: Option<u32>,
    /// The metric: of several routes to one destination in a table, that with the least is used. Absent: the kernel's, 0 of IPv4 and 1024 of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub priority: Option<u32>,
    /// The number of the routing table; 254 is `main`. Absent: `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub table: Option<u32>,
    /// How far its destinations are. Absent: `global`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<RouteScope>,
}

/// How far the destinations of a route are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RouteScope {
    /// Behind the next hop.
    Global,
    /// On the interface's link: without a next hop.
    Link,
}

impl RouteScope {
    /// As the kernel and CNI have it, in `RTN(7)`.
    pub fn number(self) -> u8 {
        match self {
            RouteScope::Global => 0,
            RouteScope::Link => 253,
        }
    }
}

/// Addresses for one pod, and for no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a reservation such as {pod: default/web-0, addresses: [192.0.2.50]}"
)]
pub struct Reservation {
    /// The pod, as `NAMESPACE/NAME`.
    pub pod: PodName,
    /// The interface in the pod. Absent: whichever asks first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// At most one address of each family, of the pool's subnets; they need not be in `ranges`. Of a family that is not here it gets any.
    pub addresses: Vec<IpAddr>,
}

impl PoolRoute {
    /// The least and the greatest `mtu`: those of an interface.
    pub const MTU: std::ops::RangeInclusive<u32> = 576..=9216;
    /// The least and the greatest `advmss`: what Linux takes (`TCP_MIN_MSS`), and the greatest MTU without the headers of IPv4 and TCP.
    pub const ADVMSS: std::ops::RangeInclusive<u32> = 88..=9176;
    /// The least and the greatest `priority` and `table`: 0 is as if it were absent.
    pub const NUMBERS: std::ops::RangeInclusive<u32> = 1..=u32::MAX;
    /// The table that is meant when none is named: `RT_TABLE_MAIN`.
    const MAIN: u32 = 254;

    /// Whether it has no next hop.
    pub fn ends_on_the_link(&self) -> bool {
        self.scope == Some(RouteScope::Link)
    }

    /// Destination, metric and table: the kernel takes one route of each.
    pub fn place(&self) -> (IpNet, u32, u32) {
        // `IP6_RT_PRIO_USER`
        let usual = if self.to.network().is_ipv4() { 0 } else { 1024 };
        let table = self.table.unwrap_or(Self::MAIN);
        (self.to.trunc(), self.priority.unwrap_or(usual), table)
    }
}

impl AddressPool {
    /// Whether a pod may have this address from this pool.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.reserved(ip).is_some() || self.subnets.iter().any(|subnet| subnet.gives(ip))
    }

    /// For whom the address is kept.
    pub fn reserved(&self, ip: IpAddr) -> Option<&Reservation> {
        self.reservations
            .iter()
            .find(|reservation| reservation.addresses.contains(&ip))
    }

    /// The subnet with the address, whether pods may have it or not.
    pub fn subnet_of(&self, ip: IpAddr) -> Option<&PoolSubnet> {
        self.subnets.iter().find(|subnet| subnet.subnet.contains(&ip))
    }

    /// The gateway of a family.
    pub fn gateway(&self, ipv4: bool) -> Option<IpAddr> {
        let mut subnets = self.subnets.iter().filter(|subnet| subnet.is_ipv4() == ipv4);
        subnets.find_map(|subnet| subnet.gateway)
    }
}

impl PoolSubnet {
    /// The lengths that the subnet of a pool may have: from the largest assignments that networks have up to one address.
    pub fn lengths(net: IpNet) -> std::ops::RangeInclusive<u8> {
        if net.network().is_ipv4() { 8..=32 } else { 16..=128 }
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.subnet.network().is_ipv4()
    }

    /// The addresses that any pod may get, in order and without overlaps; those that are reserved are among them.
    pub fn available(&self) -> Vec<AddressRange> {
        let hosts = [AddressRange::hosts(self.subnet)];
        let ranges = if self.ranges.is_empty() {
            &hosts[..]
        } else {
            &self.ranges
        };
        let mut without = self.exclude.clone();
        without.extend(self.gateway.map(AddressRange::one));
        AddressRange::difference(ranges, &without)
    }

    fn gives(&self, ip: IpAddr) -> bool {
        let ranges = &self.ranges;
        AddressRange::hosts(self.subnet).contains(ip)
            && (ranges.is_empty() || ranges.iter().any(|range| range.contains(ip)))
            && !self.exclude.iter().any(|range| range.contains(ip))
            && self.gateway != Some(ip)
    }
}

impl Reservation {
    /// Whether it is for this interface of this pod.
    pub fn is_for(&self, namespace: &str, name: &str, interface: &str) -> bool {
        self.pod.namespace == namespace
            && self.pod.name == name
            && self.interface.as_deref().is_none_or(|own| own == interface)
    }
}

/// A pod, by its namespace and name in Kubernetes: `default/web-0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    namespace: String,
    name: String,
}

impl PodName {
    /// The pod of this name in this namespace.
    pub fn new(namespace: &str, name: &str) -> Result<PodName, String> {
        format!("{namespace}/{name}").parse()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name there.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for PodName {
    type Err = String;
    fn from_str(text: &str) -> Result<PodName, String> {
        // Namespaces are labels of RFC 1123, names of pods are such labels joined by dots.
        let legal = |part: &str, most: usize, dots: bool| {
            let inside =
                |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || (dots && c == b'.');
            let end = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            let bytes = part.as_bytes();
            bytes.len() <= most && end(bytes.first()) && end(bytes.last()) && bytes.iter().all(|c| inside(*c))
        };
        match text.split_once('/') {
            Some((namespace, name)) if legal(namespace, 63, false) && legal(name, 253, true) => Ok(PodName {
                namespace: namespace.into(),
                name: name.into(),
            }),
            _ => Err(format!(
                "{text:?} is no pod; write NAMESPACE/NAME as Kubernetes has them, such as default/web-0"
            )),
        }
    }
}

impl Serialize for PodName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PodName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PodName, D::Error> {
        deserializer.deserialize_str(Text("a pod such as default/web-0", str::parse))
    }
}

impl JsonSchema for PodName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PodName".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A pod as `NAMESPACE/NAME`.",
            "type": "string",
            "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$"
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pool(yaml: &str) -> AddressPool {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn what_a_pool_contains() {
        let pool = pool(
            "subnets:\n\
             - {subnet: 10.9.0.0/24, ranges: [10.9.0.1-10.9.0.20], exclude: [10.9.0.8/30, 10.9.0.3], gateway: 10.9.0.1}\n\
             - {subnet: 'fd00::/64', gateway: 'fd00::1'}\n\
             reservations: [{pod: default/web-0, addresses: [10.9.0.3, 10.9.0.99]}]\n",
        );
        let has = |ip: &str| pool.contains(ip.parse().unwrap());
        for ip in [
            "10.9.0.2",
            "10.9.0.3",
            "10.9.0.7",
            "10.9.0.12",
            "10.9.0.20",
            "10.9.0.99",
            "fd00::2",
            "fd00::ffff",
        ] {
            assert!(has(ip), "{ip}");
        }
        for ip in [
            "10.9.0.1",
            "10.9.0.8",
            "10.9.0.11",
            "10.9.0.21",
            "10.9.0.0",
            "10.9.1.2",
            "fd00::",
            "fd00::1",
            "fd00:0:0:1::2",
        ] {
            assert!(!has(ip), "{ip}");
        }
        let available: Vec<_> = pool.subnets[0]
            .available()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(available, ["10.9.0.2", "10.9.0.4/30", "10.9.0.12-10.9.0.20"]);
        assert_eq!(pool.subnets[1].available().len(), 1);
    }

    #[test]
    fn names_of_pods() {
        for right in ["default/web-0", "a/b", "kube-system/a.b.c"] {
            assert_eq!(right.parse::<PodName>().unwrap().to_string(), right);
        }
        for wrong in [
            "",
            "web-0",
            "/web-0",
            "default/",
            "a/b/c",
            "Default/web",
            "-a/b",
            "a.b/c",
            "a/b.",
        ] {
            assert!(wrong.parse::<PodName>().is_err(), "{wrong}");
        }
    }
}
