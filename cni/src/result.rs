//! The result of an ADD: read in any version, told in the network's (SPEC.md, "ADD Success").
//!
//! | | 0.3.0, 0.3.1, 0.4.0 | 1.0.0 | 1.1.0 |
//! | --- | --- | --- | --- |
//! | `ips[].version` | `"4"`, `"6"` | — | — |
//! | `interfaces[].mtu`, `.socketPath`, `.pciID` | — | — | yes |
//! | `routes[].mtu`, `.advmss`, `.priority`, `.table`, `.scope` | — | — | yes |

use std::net::IpAddr;

use clearway_config::attach::{Addresses, InterfaceAddress, Route};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::version::CniVersion;

/// A result, with all that the newest version can say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CniResult {
    /// All interfaces of the attachment, on the host and in the container.
    #[serde(deserialize_with = "or_default")]
    pub interfaces: Vec<Interface>,
    /// All addresses.
    #[serde(deserialize_with = "or_default")]
    pub ips: Vec<Ip>,
    /// All routes.
    #[serde(deserialize_with = "routes")]
    pub routes: Vec<Route>,
    /// Settings of name resolution.
    #[serde(deserialize_with = "or_default")]
    pub dns: Dns,
    /// The address of 0.1.0 and 0.2.0.
    #[serde(skip_serializing)]
    ip4: Option<OldIp>,
    /// The same for IPv6.
    #[serde(skip_serializing)]
    ip6: Option<OldIp>,
}

/// An interface of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address, as text: a foreign one may have any length.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace that it is in; empty on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Its vhost-user socket.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// Its PCI device.
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

impl Interface {
    /// What of it versions before 1.1.0 know.
    fn old(&self) -> Self {
        Self {
            name: self.name.clone(),
            mac: self.mac.clone(),
            sandbox: self.sandbox.clone(),
            ..Self::default()
        }
    }
}

/// An address of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// The address and the length of its subnet's prefix.
    pub address: IpNet,
    /// The gateway of the subnet.
    #[serde(
        default,
        deserialize_with = "address_or_empty",
        skip_serializing_if = "Option::is_none"
    )]
    pub gateway: Option<IpAddr>,
    /// The place of its interface in the list of them, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// `dns` of a network and of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "resolv.conf(5) and the specification name them alike")]
pub struct Dns {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub domain: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `ip4` and `ip6` of 0.1.0 and 0.2.0.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct OldIp {
    ip: IpNet,
    #[serde(default, deserialize_with = "address_or_empty")]
    gateway: Option<IpAddr>,
    #[serde(default, deserialize_with = "routes")]
    routes: Vec<Route>,
}

/// A [`Route`] as plugins write them: with fields that are no route's, and empty texts.
#[derive(Deserialize)]
struct ForeignRoute {
    dst: IpNet,
    #[serde(default, deserialize_with = "address_or_empty")]
    gw: Option<IpAddr>,
    mtu: Option<u32>,
    advmss: Option<u32>,
    priority: Option<u32>,
    table: Option<u32>,
    scope: Option<u8>,
}

impl From<ForeignRoute> for Route {
    fn from(route: ForeignRoute) -> Self {
        Self {
            dst: route.dst,
            gw: route.gw,
            mtu: route.mtu,
            advmss: route.advmss,
            priority: route.priority,
            table: route.table,
            scope: route.scope,
        }
    }
}

fn routes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Route>, D::Error> {
    or_default::<D, Vec<ForeignRoute>>(from).map(|routes| routes.into_iter().map(Route::from).collect())
}

/// `null` is what it would be if it were absent: programs in Go write that for empty lists.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// An address; `null` and the empty text are none.
fn address_or_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    let text = Option::<String>::deserialize(from)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(serde::de::Error::custom))
        .transpose()
}

impl CniResult {
    /// Reads a result of any version; the error says what is wrong.
    pub fn read(value: &Value) -> Result<Self, String> {
        let mut result = Self::deserialize(value).map_err(|error| error.to_string())?;
        for old in [result.ip4.take(), result.ip6.take()].into_iter().flatten() {
            result.ips.push(Ip {
                address: old.ip,
                gateway: old.gateway,
                interface: None,
            });
            result.routes.extend(old.routes);
        }
        match result
            .ips
            .iter()
            .find(|ip| ip.interface.is_some_and(|i| i >= result.interfaces.len()))
        {
            // IPAM plugins name no interfaces, and some count them all the same.
            Some(_) if result.interfaces.is_empty() => {
                result.ips.iter_mut().for_each(|ip| ip.interface = None);
                Ok(result)
            }
            Some(ip) => Err(format!(
                "the address {} is on interface {}, of which there are {} (counted from 0)",
                ip.address,
                ip.interface.unwrap_or_default(),
                result.interfaces.len()
            )),
            None => Ok(result),
        }
    }

    /// As it is told in this version.
    pub fn in_version(&self, version: CniVersion) -> Value {
        let newest = version >= CniVersion::V1_1_0;
        let mut out = json!({ "cniVersion": version.as_str() });
        if !self.interfaces.is_empty() {
            let told = |interface: &Interface| {
                if newest {
                    json!(interface)
                } else {
                    json!(interface.old())
                }
            };
            out["interfaces"] = self.interfaces.iter().map(told).collect();
        }
        if !self.ips.is_empty() {
            let told = |ip: &Ip| {
                let mut told = json!(ip);
                if version < CniVersion::V1_0_0 {
                    told["version"] = if ip.address.addr().is_ipv4() { "4" } else { "6" }.into();
                }
                told
            };
            out["ips"] = self.ips.iter().map(told).collect();
        }
        if !self.routes.is_empty() {
            let told = |route: &Route| {
                if newest {
                    json!(route)
                } else {
                    json!(old_route(route))
                }
            };
            out["routes"] = self.routes.iter().map(told).collect();
        }
        if !self.dns.is_empty() {
            out["dns"] = json!(self.dns);
        }
        out
    }

    /// The settings that an IPAM plugin has chosen.
    pub fn addresses(&self) -> Addresses {
        let ip = |ip: &Ip| InterfaceAddress {
            address: ip.address,
            gateway: ip.gateway,
        };
        Addresses {
            ips: self.ips.iter().map(ip).collect(),
            routes: self.routes.clone(),
        }
    }

    /// Adds an attachment to what earlier plugins of the chain made: `interfaces`, of which the container's is the last,
    /// and what it was given.
    pub fn extend(&mut self, interfaces: Vec<Interface>, addresses: &Addresses, dns: &Dns) {
        self.interfaces.extend(interfaces);
        let ours = self.interfaces.len().checked_sub(1);
        self.ips.extend(addresses.ips.iter().map(|ip| Ip {
            address: ip.address,
            gateway: ip.gateway,
            interface: ours,
        }));
        self.routes.extend_from_slice(&addresses.routes);
        if !dns.is_empty() {
            self.dns = dns.clone();
        }
    }
}

/// What of a route versions before 1.1.0 know.
fn old_route(route: &Route) -> Route {
    Route {
        mtu: None,
        advmss: None,
        priority: None,
        table: None,
        scope: None,
        ..*route
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Value {
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "cw1"},
                {"name": "net1", "mac": "02:00:00:00:00:01", "mtu": 1450, "sandbox": "/run/netns/a",
                 "socketPath": "/run/s", "pciID": "0000:03:02.0"}
            ],
            "ips": [
                {"address": "10.9.0.5/24", "gateway": "10.9.0.1", "interface": 1},
                {"address": "2001:db8::5/64", "interface": 1}
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1", "mtu": 1400, "advmss": 1360, "priority": 5,
                        "table": 100, "scope": 0}],
            "dns": {"nameservers": ["10.9.0.1"]}
        })
    }

    #[test]
    fn the_newest_version_loses_nothing() {
        let read = CniResult::read(&full()).unwrap();
        assert_eq!(read.in_version(CniVersion::V1_1_0), full());
    }

    #[test]
    fn older_versions_are_told_what_they_know() {
        let read = CniResult::read(&full()).unwrap();
        let mut wanted = full();
        wanted["interfaces"][1] =
            json!({"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/a"});
        wanted["routes"][0] = json!({"dst": "0.0.0.0/0", "gw": "10.9.0.1"});
        wanted["cniVersion"] = "1.0.0".into();
        assert_eq!(read.in_version(CniVersion::V1_0_0), wanted);
        wanted["ips"][0]["version"] = "4".into();
        wanted["ips"][1]["version"] = "6".into();
        for version in [CniVersion::V0_3_0, CniVersion::V0_3_1, CniVersion::V0_4_0] {
            wanted["cniVersion"] = version.as_str().into();
            assert_eq!(read.in_version(version), wanted);
        }
    }

    #[test]
    fn every_version_is_read() {
        let new = CniResult::read(&full()).unwrap();
        for version in CniVersion::ALL {
            let told = new.in_version(version);
            let read = CniResult::read(&told).unwrap();
            assert_eq!(read.ips, new.ips, "{version}");
            assert_eq!(read.in_version(version), told);
        }
        let old = json!({"cniVersion": "0.2.0",
            "ip4": {"ip": "10.9.0.5/24", "gateway": "10.9.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
            "ip6": {"ip": "2001:db8::5/64"}, "dns": {}});
        let read = CniResult::read(&old).unwrap();
        assert_eq!(read.ips.len(), 2);
        assert_eq!(read.addresses().routes.len(), 1);
    }

    #[test]
    fn nulls_are_nothing() {
        let read = json!({"interfaces": null, "ips": [{"address": "10.0.0.1/8", "gateway": ""}], "routes": null,
                          "dns": null});
        assert_eq!(CniResult::read(&read).unwrap().ips[0].gateway, None);
    }

    #[test]
    fn an_address_is_on_an_interface_that_is_there() {
        let at = |interfaces: Value| json!({"interfaces": interfaces, "ips": [{"address": "10.0.0.1/8", "interface": 1}]});
        assert!(
            CniResult::read(&at(json!([{"name": "a"}])))
                .unwrap_err()
                .contains("10.0.0.1/8")
        );
        assert_eq!(CniResult::read(&at(json!([]))).unwrap().ips[0].interface, None);
        assert!(CniResult::read(&json!({"ips": [{"address": "10.0.0.1"}]})).is_err());
    }

    #[test]
    fn a_chain_keeps_what_it_had() {
        let mut chain = CniResult::read(&full()).unwrap();
        let ours = [Interface::default(), Interface::default()].to_vec();
        let addresses = Addresses {
            ips: vec![InterfaceAddress {
                address: "10.8.0.2/24".parse().unwrap(),
                gateway: None,
            }],
            routes: vec![],
        };
        chain.extend(ours, &addresses, &Dns::default());
        assert_eq!(chain.interfaces.len(), 4);
        let places: Vec<_> = chain.ips.iter().map(|ip| ip.interface).collect();
        assert_eq!(places, [Some(1), Some(1), Some(3)]);
        assert_eq!(chain.dns.nameservers, ["10.9.0.1"]);
    }
}
