//! Against the kernel, with `ip` as the witness.

mod ends;
mod settings;

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clearway_config::attach::{Addresses, InterfaceAddress, Route};
use clearway_wire::MacAddr;
use ipnet::IpNet;
use serde_json::json;

use super::testbed::{Container, ip};
use super::*;
use crate::host::Host;
use crate::host::netlink::Netlink;
use crate::host::restore::Changes;
use crate::host::testing::{isolate, sh};
use crate::host::{links, offload};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 5]);
const ALIAS: &str = "clearway default/0123456789abcdef/eth0";

fn net(text: &str) -> IpNet {
    text.parse().expect("a literal network")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn host() -> Host {
    Host::open().expect("root can open a host")
}

fn veth(host_name: &'static str) -> Veth<'static> {
    Veth {
        host_name,
        host_mac: None,
        pod_name: "eth0",
        mac: MAC,
        mtu: 1450,
        alias: ALIAS,
    }
}

fn with(ips: &[(&str, Option<&str>)], routes: Vec<Route>) -> Addresses {
    let ips = ips.iter().map(|(ip, gateway)| InterfaceAddress {
        address: net(ip),
        gateway: gateway.map(address),
    });
    Addresses {
        ips: ips.collect(),
        routes,
    }
}

fn to(dst: &str) -> Route {
    Route {
        dst: net(dst),
        gw: None,
        mtu: None,
        advmss: None,
        priority: None,
        table: None,
        scope: None,
    }
}

/// Two families, with a default route in each.
fn usual() -> Addresses {
    with(
        &[("10.9.0.5/24", Some("10.9.0.1")), ("fd09::5/64", Some("fd09::1"))],
        vec![to("0.0.0.0/0"), to("::/0")],
    )
}

/// A pod with its interface; the host's end is up too.
fn attached(host: &mut Host) -> Container {
    let container = Container::start();
    let link = host
        .create_veth(&container.netns(), &veth("cw0"))
        .expect("it can be made");
    host.set_link_up(link.ifindex).expect("it can be set up");
    container
}

fn enter(container: &Container) -> Pod {
    container.netns().enter().expect("root can enter it")
}

/// Waits until something holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}: it did not come to that");
        sleep(Duration::from_millis(10));
    }
}
