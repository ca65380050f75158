//! Interfaces, and the watch that follows them.

use std::time::{Duration, Instant};

use clearway_wire::MacAddr;
use serde_json::Value;

use super::{Far, SOON, isolate, sh};
use crate::host::links::{LinkEvent, LinkState, LinkWatch};
use crate::host::{Host, HostError};

#[test]
fn the_inventory_is_what_ip_lists() {
    isolate();
    let far = Far::new();
    far.attach();
    sh("ip link add br0 type bridge && ip link add v0 numrxqueues 3 numtxqueues 2 type veth peer name v1");
    sh("ip link set v0 master br0 && ip link set v1 mtu 9000 up");
    let mut host = Host::open().expect("root can open a host");
    let links = host.links().expect("interfaces can be listed");
    let listed: Vec<Value> = serde_json::from_str(&sh("ip -j -d link")).expect("ip prints JSON");
    assert_eq!(links.len(), listed.len());
    for (link, listed) in links.iter().zip(&listed) {
        let flags = listed["flags"].as_array().expect("flags are a list");
        assert_eq!(link.name, listed["ifname"].as_str().unwrap_or_default());
        assert_eq!(u64::from(link.ifindex.0), listed["ifindex"]);
        assert_eq!(u64::from(link.mtu), listed["mtu"]);
        assert_eq!(link.up, flags.iter().any(|flag| flag == "UP"), "{}", link.name);
        assert_eq!(
            link.carrier,
            flags.iter().any(|flag| flag == "LOWER_UP"),
            "{}",
            link.name
        );
        assert_eq!(link.kind.as_deref(), listed["linkinfo"]["info_kind"].as_str());
        assert_eq!(link.ethernet, listed["link_type"] == "ether");
        if link.ethernet {
            assert_eq!(
                link.mac.map(|mac| mac.to_string()).as_deref(),
                listed["address"].as_str()
            );
        }
        assert_eq!(u64::from(link.allocated.rx), listed["num_rx_queues"]);
        assert_eq!(u64::from(link.allocated.tx), listed["num_tx_queues"]);
        assert_eq!(link.lower_netnsid.map(i64::from), listed["link_netnsid"].as_i64());
        assert_eq!(host.link(&link.name).expect("it exists"), *link);
    }
    let named = |name: &str| {
        links
            .iter()
            .find(|link| link.name == name)
            .expect("it was made above")
    };
    assert_eq!(named("v0").master, Some(named("br0").ifindex));
    assert_eq!(
        named("v0").veth_peer().map(|peer| (peer.ifindex, peer.netnsid)),
        Some((named("v1").ifindex, None))
    );
    assert!(
        named("near")
            .veth_peer()
            .is_some_and(|peer| peer.netnsid.is_some())
    );
    let hardware = host.hardware(named("v0")).expect("its hardware can be read");
    assert_eq!(hardware.driver.as_deref(), Some("veth"));
    assert_eq!((hardware.queues.rx, hardware.queues.tx), (3, 2));
    assert!(matches!(host.link("nothing"), Err(HostError::NoInterface(name)) if name == "nothing"));
    assert!(matches!(
        host.link("a name that is far too long"),
        Err(HostError::NoInterface(_))
    ));
}

/// Gathers events until one fulfils the condition.
fn until(watch: &mut LinkWatch, done: impl Fn(&LinkEvent) -> bool) -> Vec<LinkEvent> {
    let end = Instant::now() + SOON;
    let mut seen = Vec::new();
    while Instant::now() < end {
        let events = watch
            .wait(Duration::from_millis(100))
            .expect("events can be read");
        let found = events.iter().any(&done);
        seen.extend(events);
        if found {
            return seen;
        }
    }
    panic!("the event did not come; these did: {seen:?}");
}

fn changed(event: &LinkEvent, name: &str, what: impl Fn(&LinkState) -> bool) -> bool {
    matches!(event, LinkEvent::Changed(state) if state.name == name && what(state))
}

fn gone(event: &LinkEvent, expected: &str) -> bool {
    matches!(event, LinkEvent::Gone { name, .. } if name == expected)
}

#[test]
fn the_watch_tells_the_life_of_an_interface() {
    isolate();
    sh("ip link add w0 type veth peer name w1 && ip link set w0 up && ip link set w1 up");
    let (mut watch, states) = LinkWatch::open().expect("root can watch");
    let first = states
        .iter()
        .find(|state| state.name == "w0")
        .expect("it was made above")
        .clone();
    assert!(first.up && first.carrier);
    sh("ip link set w0 down");
    until(&mut watch, |e| changed(e, "w0", |s| !s.up && !s.carrier));
    sh("ip link set w0 up");
    until(&mut watch, |e| changed(e, "w0", |s| s.up && s.carrier));
    sh("ip link set w1 down");
    until(&mut watch, |e| changed(e, "w0", |s| s.up && !s.carrier));
    sh("ip link set w0 mtu 1400 && ip link set w0 address 02:00:00:00:00:77");
    let mac = MacAddr([2, 0, 0, 0, 0, 0x77]);
    until(&mut watch, |e| {
        changed(e, "w0", |s| s.mtu == 1400 && s.mac == Some(mac))
    });
    sh("ip link set w0 down && ip link set w0 name w2");
    let events = until(&mut watch, |e| changed(e, "w2", |s| s.ifindex == first.ifindex));
    assert!(events.iter().any(|e| gone(e, "w0")), "{events:?}");
    sh("ip link add br0 type bridge && ip link set w2 master br0 && ip link set w2 nomaster");
    let events = until(&mut watch, |e| changed(e, "br0", |_| true));
    assert!(
        !events.iter().any(|e| gone(e, "w2")),
        "leaving a bridge is not a deletion: {events:?}"
    );
    sh("ip link delete w2");
    let events = until(&mut watch, |e| gone(e, "w2"));
    assert!(!events.iter().any(|e| changed(e, "w0", |_| true)), "{events:?}");
    sh("ip link add w0 type veth peer name w1");
    until(&mut watch, |e| changed(e, "w0", |s| s.ifindex != first.ifindex));
}

#[test]
fn a_flood_of_events_loses_no_outcome() {
    isolate();
    sh("ip link add w0 type veth peer name w1 && ip link add w2 type veth peer name w3");
    let (mut watch, _) = LinkWatch::open().expect("root can watch");
    watch.shrink();
    sh(
        "for i in 1 2 3 4 5 6 7 8; do ip link set w0 up; ip link set w0 down; done; ip link set w0 mtu 1300; ip link delete w2",
    );
    let events = watch.wait(SOON).expect("events can be read");
    assert!(
        events.iter().any(|e| changed(e, "w0", |s| s.mtu == 1300)),
        "{events:?}"
    );
    assert!(
        events.iter().any(|e| gone(e, "w2")) && events.iter().any(|e| gone(e, "w3")),
        "{events:?}"
    );
    assert_eq!(watch.wait(Duration::ZERO).expect("events can be read"), []);
}
