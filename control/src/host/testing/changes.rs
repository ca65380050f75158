//! What is changed on interfaces and their peers, and given back.

use std::fs;
use std::path::Path;
use std::time::Instant;

use clearway_wire::MacAddr;

use super::{Far, SOON, ethtool, isolate, sh};
use crate::host::links::{IfIndex, Link};
use crate::host::napi::NapiKnobs;
use crate::host::offload::{self, Warning};
use crate::host::promisc::Promiscuous;
use crate::host::restore::{Changes, Leftover, restore_leftovers};
use crate::host::{Host, HostError};

/// A folder for journals, the host, and one of its interfaces.
fn looking_at(interface: &str) -> (tempfile::TempDir, Host, Link) {
    let state = tempfile::tempdir().expect("a directory can be made");
    let mut host = Host::open().expect("root can open a host");
    let link = host.link(interface).expect("it was made above");
    (state, host, link)
}

#[test]
fn namespaces_of_peers_are_remembered_and_made_sure_of() {
    isolate();
    let mut pods: Vec<Far> = (0..3).map(|_| Far::new()).collect();
    let wire = |near: &str, far: &Far, mac: u8| {
        let name = &far.0;
        sh(&format!(
            "ip link add {near} type veth peer name far address 02:00:00:00:00:0{mac} netns {name}"
        ));
    };
    for (n, pod) in pods.iter().enumerate() {
        wire(&format!("near{n}"), pod, 1);
    }
    let mut host = Host::open().expect("root can open a host");
    let mut peer = |near: &str| {
        let link = host.link(near).expect("it was made above");
        let mut peer = host.veth_peer(&link).expect("it can be looked for")?;
        peer.features().expect("the peer is there");
        Some(host.namespaces.learnt())
    };
    let learnt = peer("near0").expect("it is found");
    assert!(learnt >= 3, "one search learns them all: {learnt}");
    for near in ["near1", "near2", "near0"] {
        assert_eq!(peer(near), Some(learnt), "{near} is known already");
    }

    // Numbers and names go to other namespaces.
    let (first, last) = (pods.remove(0).replaced(), pods.remove(1).replaced());
    wire("other2", &last, 2);
    wire("other0", &first, 2);
    for near in ["other0", "other2", "near1"] {
        assert!(peer(near).is_some(), "{near} is found");
    }
    drop((first, last, pods));
}

#[test]
fn offloads_go_off_on_both_ends_of_a_veth_and_come_back() {
    isolate();
    let far = Far::new();
    far.attach();
    let (state, mut host, near) = looking_at("near");
    let run = format!("ip netns exec {}", far.0);
    let (before, before_far) = (ethtool("", "near"), ethtool(&run, "far"));
    assert_eq!(
        (
            before["rx-vlan-offload"].as_str(),
            before_far["tx-checksumming"].as_str()
        ),
        ("on", "on")
    );

    let mut changes = Changes::begin(state.path(), &host, &near).expect("nobody else has it");
    assert_eq!(
        offload::prepare(&mut host, &mut changes, &near).expect("a veth lets go of them"),
        []
    );
    let (during, during_far) = (ethtool("", "near"), ethtool(&run, "far"));
    for feature in [
        "rx-vlan-offload",
        "tx-vlan-offload",
        "rx-vlan-stag-hw-parse",
        "tx-vlan-stag-hw-insert",
    ] {
        assert_eq!(during[feature], "off", "{feature}");
    }
    assert_eq!(
        during["tx-checksumming"], "on",
        "our own checksums are not in the way"
    );
    for feature in [
        "tx-checksumming",
        "tx-checksum-ip-generic",
        "tx-vlan-offload",
        "tx-vlan-stag-hw-insert",
    ] {
        assert_eq!(during_far[feature], "off", "{feature} of the peer");
    }
    assert_eq!(during_far["rx-vlan-offload"], "on");
    assert!(matches!(
        changes.set_feature(&mut host, "no-such-feature", true),
        Err(HostError::Feature { feature, .. }) if feature == "no-such-feature"
    ));

    assert!(changes.restore(&mut host).is_empty());
    assert_eq!((ethtool("", "near"), ethtool(&run, "far")), (before, before_far));
    assert_eq!(
        fs::read_dir(state.path()).expect("it exists").count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn a_peer_in_our_own_namespace_is_prepared_too() {
    isolate();
    sh("ip link add w0 type veth peer name w1");
    let (state, mut host, a) = looking_at("w0");
    let mut changes = Changes::begin(state.path(), &host, &a).expect("nobody else has it");
    assert_eq!(
        offload::prepare(&mut host, &mut changes, &a).expect("a veth lets go of them"),
        []
    );
    assert_eq!(
        (
            ethtool("", "w1")["tx-checksumming"].as_str(),
            ethtool("", "w0")["tx-checksumming"].as_str()
        ),
        ("off", "on")
    );
}

#[test]
fn a_peer_that_cannot_be_found_is_a_warning() {
    isolate();
    let far = Far::new();
    far.attach();
    let (state, mut host, near) = looking_at("near");
    // An open descriptor keeps the namespace alive after its name is gone, and no search can see it.
    let held = fs::File::open(Path::new("/run/netns").join(&far.0)).expect("it was made above");
    drop(far);
    let mut changes = Changes::begin(state.path(), &host, &near).expect("nobody else has it");
    let warnings = offload::prepare(&mut host, &mut changes, &near).expect("our own end can be prepared");
    assert_eq!(
        warnings,
        [Warning::PeerNotFound {
            interface: "near".into()
        }]
    );
    drop(held);
}

#[test]
fn napi_knobs_are_those_of_this_namespace_and_come_back() {
    isolate();
    // The same name in the namespace that /sys shows and in ours: only ours may change.
    sh("ip link add w0 type veth peer name w1");
    assert!(
        !Path::new("/sys/class/net/w0").exists(),
        "/sys shows another namespace, as after nsenter --net"
    );
    let (state, mut host, a) = looking_at("w0");
    let before = host.napi_knobs(&a).expect("they can be read");
    assert_eq!(
        before,
        NapiKnobs {
            defer_hard_irqs: 0,
            gro_flush_timeout: 0
        }
    );
    let mut changes = Changes::begin(state.path(), &host, &a).expect("nobody else has it");
    changes
        .set_napi_knobs(&mut host, NapiKnobs::BUSY_POLL)
        .expect("root can set them");
    let seen = || {
        sh(
            "ip netns attach host-self-$$ $$ && ip netns exec host-self-$$ cat /sys/class/net/w0/napi_defer_hard_irqs /sys/class/net/w0/gro_flush_timeout; ip netns delete host-self-$$",
        )
    };
    assert_eq!(seen(), "2\n200000\n");

    // A NAPI that is started later inherits them, and netlink shows the same.
    sh("ethtool -K w0 gro on && ip link set w0 up && ip link set w1 up");
    let napis = host.napis(&a).expect("they can be listed");
    assert_eq!(napis.len(), 1);
    assert_eq!(
        (napis[0].defer_hard_irqs, napis[0].gro_flush_timeout),
        (2, 200_000)
    );

    // Without a sysfs of our own, netlink has to do.
    host.sysfs = None;
    assert_eq!(host.napi_knobs(&a).expect("netlink tells"), NapiKnobs::BUSY_POLL);
    let other = NapiKnobs {
        defer_hard_irqs: 5,
        gro_flush_timeout: 7_000,
    };
    changes
        .set_napi_knobs(&mut host, other)
        .expect("netlink can set them");
    assert_eq!(host.napi_knobs(&a).expect("netlink tells"), other);

    let mut host = Host::open().expect("root can open a host");
    assert!(changes.restore(&mut host).is_empty());
    assert_eq!(seen(), "0\n0\n");
    assert_eq!(host.napis(&a).expect("they can be listed")[0].defer_hard_irqs, 0);
}

#[test]
fn originals_survive_kill_9() {
    isolate();
    sh("ip link add w0 address 02:00:00:00:00:01 type veth peer name w1 && ip link set w1 up");
    let (state, mut host, a) = looking_at("w0");
    let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
    let mut changes = Changes::begin(state.path(), &host, &a).expect("nobody else has it");
    let refused = changes
        .set_napi_threaded(&mut host, true)
        .expect_err("a veth without GRO has no NAPI");
    assert!(
        refused.to_string().contains("threaded of interface w0"),
        "{refused}"
    );
    assert!(
        changes.restore(&mut host).is_empty(),
        "what could not be changed needs no restoring"
    );
    sh("ethtool -K w0 gro on && ip link set w0 up");
    for daemon in [7, 8, 9] {
        // A daemon that is killed runs no destructor of ours: the kernel drops its locks, nothing else happens.
        let mut changes = Changes::begin(state.path(), &host, &a).expect("the dead one's lock is gone");
        changes.set_mac(&mut host, mac(daemon)).expect("root can set it");
        changes
            .set_mtu(&mut host, 1200 + u32::from(daemon))
            .expect("root can set it");
        changes
            .set_feature(&mut host, "rx-vlan-hw-parse", false)
            .expect("a veth lets go of it");
        changes
            .set_napi_knobs(&mut host, NapiKnobs::BUSY_POLL)
            .expect("root can set them");
        changes
            .set_napi_threaded(&mut host, true)
            .expect("root can set it");
        let second = Changes::begin(state.path(), &host, &a);
        let said = second.err().expect("the first one holds it").to_string();
        assert!(
            said.contains("w0") && said.contains(&format!("pid {})", std::process::id())),
            "{said}"
        );
        assert!(
            restore_leftovers(state.path(), &mut host, |_| false)
                .expect("it can be read")
                .is_empty()
        );
        drop(changes);
    }
    let changed = host.link("w0").expect("it exists");
    assert_eq!((changed.mac, changed.mtu), (Some(mac(9)), 1209));
    let last = Changes::begin(state.path(), &host, &a).expect("the dead one's lock is gone");
    assert!(last.restore(&mut host).is_empty());
    let restored = host.link("w0").expect("it exists");
    assert_eq!((restored.mac, restored.mtu), (Some(mac(1)), a.mtu));
    assert_eq!(ethtool("", "w0")["rx-vlan-offload"], "on");
    assert_eq!(host.napi_knobs(&a).expect("it exists").defer_hard_irqs, 0);
    assert_eq!(host.napi_threaded(&a).expect("it exists"), 0);
}

#[test]
fn leftovers_are_kept_restored_or_dropped() {
    isolate();
    for name in ["kept", "ended", "remade"] {
        sh(&format!("ip link add {name} type veth peer name {name}-p"));
    }
    let state = tempfile::tempdir().expect("a directory can be made");
    let mut host = Host::open().expect("root can open a host");
    for name in ["kept", "ended", "remade"] {
        let link = host.link(name).expect("it was made above");
        let mut changes = Changes::begin(state.path(), &host, &link).expect("nobody else has it");
        changes.set_mtu(&mut host, 1300).expect("root can set it");
    }
    fs::write(state.path().join("1-elsewhere.json"), "not ours to read").expect("it can be written");
    sh("ip link delete remade && ip link add remade mtu 1350 type veth peer name remade-p");
    let outcomes =
        restore_leftovers(state.path(), &mut host, |name| name != "ended").expect("it can be read");
    let [
        Leftover::Restored(ended),
        Leftover::Kept(kept),
        Leftover::Dropped(remade),
    ] = &outcomes[..]
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(
        (ended.as_str(), kept.as_str(), remade.as_str()),
        ("ended", "kept", "remade")
    );
    let mut mtu = |name| host.link(name).expect("it exists").mtu;
    assert_eq!((mtu("ended"), mtu("kept"), mtu("remade")), (1500, 1300, 1350));
    let mut files: Vec<_> = fs::read_dir(state.path())
        .expect("it exists")
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".json"))
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "1-elsewhere.json".to_owned(),
            format!("{}-kept.json", host.netns().0)
        ]
    );
}

#[test]
fn an_interface_that_vanished_needs_no_restoring() {
    isolate();
    sh("ip link add w0 type veth peer name w1");
    let (state, mut host, a) = looking_at("w0");
    let mut changes = Changes::begin(state.path(), &host, &a).expect("nobody else has it");
    changes.set_mtu(&mut host, 1300).expect("root can set it");
    sh("ip link delete w0");
    assert!(changes.restore(&mut host).is_empty());
    assert_eq!(fs::read_dir(state.path()).expect("it exists").count(), 0);
}

#[test]
fn promiscuous_mode_ends_with_its_holder() {
    isolate();
    sh("ip link add w0 type veth peer name w1");
    let mut host = Host::open().expect("root can open a host");
    let a: Link = host.link("w0").expect("it was made above");
    let mut count = || host.link("w0").expect("it exists").promiscuity;
    assert_eq!(count(), 0);
    let held = Promiscuous::hold(a.ifindex).expect("root can hold it");
    assert_eq!(count(), 1);
    let twice = Promiscuous::hold(a.ifindex).expect("root can hold it");
    assert_eq!(count(), 2);
    drop((held, twice));
    // A test beside this one may just be between fork and exec, and hold copies of our descriptors.
    let end = Instant::now() + SOON;
    while count() != 0 {
        assert!(Instant::now() < end, "it is still promiscuous");
    }
    let error = Promiscuous::hold(IfIndex(9999)).expect_err("there is no such interface");
    assert!(error.to_string().contains("9999"), "{error}");
}
