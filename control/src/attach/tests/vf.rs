//! VFs: into the pod and back, held and late, refused and killed.

use clearway_config::attach::{AttachKind, AttachmentState, Ipam, VfSettings};
use clearway_sriov::hardware::double::Change;
use clearway_sriov::hardware::{Hardware, VfSetting};
use clearway_wire::MacAddr;
use nix::errno::Errno;

use super::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 9]);

/// The settings that its physical function has of it.
fn admin(scene: &Scene, index: u16) -> clearway_sriov::hardware::VfAdmin {
    scene.nic.state(index).admin.expect("it tells")
}

fn add(scene: &Scene, container: &str, wanted: Attach) -> Result<Attachment, AttachError> {
    scene.daemon.add(&id(container), wanted)
}

fn problems(scene: &Scene) -> String {
    let found = scene.daemon.look(&id("c")).expect("it is there");
    found.problems.join("; ")
}

#[test]
fn a_vf_goes_to_the_pod_and_comes_back_as_it_was() {
    let mut scene = Scene::new();
    let mut wanted = scene.wanted(AttachKind::Vf);
    (wanted.mac, wanted.mtu) = (Some(MAC), Some(1400));
    let added = add(&scene, "c", wanted).expect("added");
    let vf = added.vf.clone().expect("it is one");
    assert_eq!(
        (&*vf.pci, &*vf.pf, vf.index, &*vf.driver, vf.interface.as_deref()),
        ("0000:03:10.0", "0000:03:00.0", 0, "igbvf", Some("eth1v0"))
    );
    assert_eq!(
        (added.port, added.domain),
        (None, None),
        "the engine has no part in it"
    );
    let there = &scene.pod.ip("address show dev net1")[0];
    assert_eq!(
        (&there["address"], &there["mtu"]),
        (&MAC.to_string().into(), &1400.into())
    );
    let address = added.addresses.ips[0].address.addr().to_string();
    assert_eq!(there["addr_info"][0]["local"], address);
    let admin = admin(&scene, 0);
    assert_eq!(
        (admin.mac, admin.vlan, admin.trust, admin.max_tx_rate),
        (MAC, 100, Some(true), 700),
        "what nobody asks for is as before"
    );
    assert_eq!(scene.nic.state(0).netdev, None);
    assert_eq!(problems(&scene), "");
    // Daemons come and go.
    scene.restart(Plan::Nothing);
    assert_eq!(problems(&scene), "");
    assert_eq!(scene.traces(AttachKind::Vf), WHOLE);
    scene.daemon.remove(&id("c")).expect("removed");
    assert_eq!(scene.traces(AttachKind::Vf), NOTHING);
    assert_eq!(scene.daemon.remove(&id("c")).expect("again"), None);
}

#[test]
fn without_a_wish_it_keeps_its_mac_and_mtu() {
    let scene = Scene::new();
    let mut wanted = scene.wanted(AttachKind::Vf);
    wanted.vf = Some(VfSettings {
        device: Nic::pci(0),
        ..VfSettings::default()
    });
    let added = add(&scene, "c", wanted).expect("added");
    let own = scene.vf.netdev.clone().expect("it has one");
    assert_eq!((Some(added.mac), u32::from(added.mtu)), (own.mac, own.mtu));
    let there = &scene.pod.ip("link show dev net1")[0];
    assert_eq!(there["address"], added.mac.to_string());
    assert_eq!(
        scene.nic.state(0).admin,
        scene.vf.admin,
        "nothing was changed on the NIC"
    );
}

#[test]
fn a_vf_that_a_program_drives_stays_where_it_is() {
    let scene = Scene::new();
    let before = scene.nic.state(2);
    let mut wanted = scene.wanted(AttachKind::Vf);
    wanted.vf.as_mut().expect("it is one").device = Nic::pci(2);
    for more in [
        Attach {
            mtu: Some(1400),
            ..wanted.clone()
        },
        Attach {
            ipam: Ipam::Awaited,
            ..wanted.clone()
        },
    ] {
        let refused = add(&scene, "c", more);
        assert!(
            matches!(&refused, Err(AttachError::Invalid(why)) if why.contains("vfio-pci")),
            "{refused:?}"
        );
    }
    wanted.mac = Some(MAC);
    let added = add(&scene, "c", wanted).expect("added");
    assert_eq!((added.addresses.ips.len(), added.mac, added.mtu), (1, MAC, 0));
    let vf = added.vf.expect("it is one");
    assert_eq!((&*vf.driver, vf.interface), ("vfio-pci", None));
    assert!(scene.pod.ip(&format!("link show type {DEVICE}")).is_empty());
    let now = admin(&scene, 2);
    assert_eq!((now.mac, now.vlan, now.trust), (MAC, 100, Some(true)));
    assert_eq!(scene.nic.state(2).driver.as_deref(), Some("vfio-pci"));
    assert_eq!(problems(&scene), "");
    scene.daemon.remove(&id("c")).expect("removed");
    assert_eq!(scene.nic.state(2), before);
    // Addresses that another IPAM plugin chooses meanwhile are for the program, too.
    let mut wanted = scene.wanted(AttachKind::Vf);
    wanted.vf.as_mut().expect("it is one").device = Nic::pci(2);
    wanted.ipam = Ipam::Delegated;
    add(&scene, "c", wanted).expect("added");
    let given = scene
        .daemon
        .give_addresses(&id("c"), lease())
        .expect("it has them");
    assert_eq!((given.state, given.addresses), (AttachmentState::Ready, lease()));
}

#[test]
fn a_vf_has_one_pod() {
    let scene = Scene::new();
    add(&scene, "c", scene.wanted(AttachKind::Vf)).expect("added");
    let other = Container::start();
    let second = Attach {
        netns: other.path(),
        ..scene.wanted(AttachKind::Vf)
    };
    let refused = add(&scene, "d", second.clone()).expect_err("it is held");
    assert!(
        refused.to_string().contains("is held: container c/net1"),
        "{refused}"
    );
    assert_eq!(ApiError::from(refused).code, ErrorCode::Conflict);
    for (device, code) in [
        ("0000:03:10.5", ErrorCode::NotFound),
        ("eth1v1", ErrorCode::BadRequest),
    ] {
        let mut wanted = second.clone();
        wanted.vf.as_mut().expect("it is one").device = device.to_owned();
        let refused = ApiError::from(add(&scene, "d", wanted).expect_err("there is none"));
        assert_eq!(refused.code, code, "{}", refused.message);
    }
    scene.daemon.remove(&id("c")).expect("removed");
    add(&scene, "d", second).expect("it is free");
    // Whoever could not be written down has nothing.
    scene.daemon.remove(&id("d")).expect("removed");
    scene.script.play(Plan::Fails(1));
    add(&scene, "c", scene.wanted(AttachKind::Vf)).expect_err("no record");
    scene.script.play(Plan::Nothing);
    add(&scene, "c", scene.wanted(AttachKind::Vf)).expect("it is free");
}

#[test]
fn what_others_changed_of_a_vf_is_found_and_put_right() {
    let scene = Scene::new();
    add(&scene, "c", scene.wanted(AttachKind::Vf)).expect("added");
    let host = format!(
        "/proc/{}/task/{}/ns/net",
        std::process::id(),
        nix::unistd::gettid()
    );
    for (change, told) in [
        ("ip link set net1 down", "down".to_owned()),
        ("ip link set net1 mtu 1300", "MTU is 1300".to_owned()),
        ("ip address flush dev net1", "address".to_owned()),
        (
            &*format!("ip link set net1 netns {host}"),
            "not in the pod".to_owned(),
        ),
    ] {
        scene.pod.sh(change);
        assert!(problems(&scene).contains(&told), "{change}: {}", problems(&scene));
        scene.daemon.repair(&id("c"));
        assert_eq!(problems(&scene), "", "{change}");
    }
    let trust = VfSetting::Trust(false);
    scene.nic.lock().set_vf(2, 0, &trust).expect("it is there");
    assert_eq!(problems(&scene), "its NIC has not: VF 0: trust on");
    scene.daemon.repair(&id("c"));
    assert_eq!(
        (problems(&scene), admin(&scene, 0).trust),
        (String::new(), Some(true))
    );
}

#[test]
fn a_vf_comes_back_although_its_pod_is_gone() {
    let mut scene = Scene::new();
    add(&scene, "c", scene.wanted(AttachKind::Vf)).expect("added");
    scene.pod = Container::start();
    // The kernel is not there yet.
    let away = scene.daemon.remove(&id("c")).expect_err("it is away");
    assert!(
        away.to_string().contains("still in another network namespace"),
        "{away}"
    );
    scene.daemon.finish();
    assert_eq!(scene.daemon.list()[0].state, AttachmentState::Removing);
    // Under the name that it had in the pod.
    scene.nic.comes_back(0, "net1");
    scene.daemon.remove(&id("c")).expect("removed");
    assert_eq!(scene.traces(AttachKind::Vf), NOTHING);
}

#[test]
fn a_late_removal_does_not_touch_the_next_pods_vf() {
    for finds_record in [false, true] {
        let mut scene = Scene::new();
        let old = add(&scene, "old", scene.wanted(AttachKind::Vf)).expect("added");
        if finds_record {
            // All is given back, but that can't be written down, and the runtime is slow to ask again.
            scene.script.play(Plan::Ends(3));
            scene.daemon.remove(&id("old")).expect_err("no commit");
            scene.script.play(Plan::Nothing);
            assert_eq!(scene.nic.state(0), scene.vf);
        } else {
            // The pod ends, and nobody says so: its VF is given out anew before its DEL.
            scene.pod = Container::start();
            scene.nic.comes_back(0, "net1");
        }
        let next = scene.wanted(AttachKind::Vf);
        let other = AttachmentId {
            container: "new".to_owned(),
            interface: "net2".to_owned(),
        };
        let new = scene.daemon.add(&other, next).expect("added");
        assert!(new.vf.expect("it is one").generation > old.vf.expect("it is one").generation);
        let before = admin(&scene, 0);
        let look = |scene: &Scene| scene.daemon.look(&other).expect("it is there").problems;
        assert_eq!(look(&scene), [""; 0]);
        // At once, or only after the next start.
        if finds_record {
            scene.restart(Plan::Nothing);
        }
        scene.daemon.remove(&id("old")).expect("nothing is left of it");
        assert_eq!((admin(&scene, 0), look(&scene)), (before, vec![]));
        let left: Vec<_> = scene.daemon.list().into_iter().map(|one| one.id).collect();
        assert_eq!(left, std::slice::from_ref(&other));
        scene.daemon.remove(&other).expect("removed");
        assert_eq!(scene.nic.state(0), scene.vf);
    }
}

#[test]
fn what_the_nic_refuses_is_told_and_undone() {
    let mut scene = Scene::new();
    scene.nic.lock().refuse(
        |change| matches!(change, Change::Vf(_, VfSetting::Trust(true))),
        Errno::EPERM,
    );
    let refused = add(&scene, "c", scene.wanted(AttachKind::Vf)).expect_err("refused");
    let told = refused.to_string();
    assert!(
        told.contains("VF 0: trust on failed") && told.contains("EPERM") && told.contains("nothing is left"),
        "{told}"
    );
    assert_eq!(scene.traces(AttachKind::Vf), NOTHING);
    // On the way back it stays, and is tried again.
    scene.nic.lock().relent();
    add(&scene, "c", scene.wanted(AttachKind::Vf)).expect("added");
    scene.nic.lock().refuse(
        |change| matches!(change, Change::Vf(_, VfSetting::Trust(false))),
        Errno::EBUSY,
    );
    scene.daemon.remove(&id("c")).expect_err("refused");
    scene.daemon.finish();
    let problems = scene.daemon.list()[0].problems.join("; ");
    assert!(problems.contains("trust off failed"), "{problems}");
    scene.nic.lock().relent();
    scene.daemon.finish();
    assert_eq!(scene.traces(AttachKind::Vf), NOTHING);
}

/// Killed after each change of the NIC in turn, on the way there and on the way back.
#[test]
fn whenever_it_is_killed_the_vf_is_the_pods_or_as_it_was() {
    let mut scene = Scene::new();
    let mut deaths = 0;
    for life in 0.. {
        let mut wanted = scene.wanted(AttachKind::Vf);
        wanted.mac = Some(MAC);
        scene.nic.lock().die_after(life);
        let added = add(&scene, "c", wanted).is_ok();
        let removed = added && scene.daemon.remove(&id("c")).is_ok();
        if removed {
            break;
        }
        deaths += 1;
        // Nothing was noticed of it by the daemon that is dead.
        scene.nic.lock().relent();
        scene.restart(Plan::Nothing);
        assert_eq!(
            scene.traces(AttachKind::Vf),
            NOTHING,
            "killed after {life} changes"
        );
        assert_eq!(scene.daemon.list(), []);
    }
    scene.nic.lock().relent();
    assert!(deaths > 12, "{deaths}");
}

#[test]
fn what_no_vf_can_have_is_refused() {
    let scene = Scene::new();
    let vf = || scene.wanted(AttachKind::Vf);
    let of = |change: fn(&mut VfSettings)| {
        let mut wanted = vf();
        change(wanted.vf.as_mut().expect("it is one"));
        wanted
    };
    let red = Segment::Domain(name("red"));
    for wrong in [
        Attach { vf: None, ..vf() },
        Attach { segment: red, ..vf() },
        Attach {
            kind: AttachKind::Veth,
            ..vf()
        },
        Attach {
            anti_spoof: true,
            ..vf()
        },
        of(|vf| vf.vlan = Some(4095)),
        of(|vf| vf.qos = Some(8)),
        of(|vf| (vf.vlan, vf.qos) = (None, Some(1))),
    ] {
        let refused = add(&scene, "c", wrong);
        assert!(matches!(refused, Err(AttachError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(scene.daemon.list(), []);
}

#[test]
fn neighbours_are_told_when_there_is_a_link() {
    isolate();
    let pod = Container::start();
    pod.sh("ip link add net1 type veth peer name far");
    pod.sh("ip link set net1 up");
    let has_link = || {
        let mut inside = pod.netns().enter().expect("it is there");
        inside.has_link("net1").expect("it is there")
    };
    assert!(!has_link());
    pod.sh("ip link set far up");
    let end = Instant::now() + Duration::from_secs(20);
    while !has_link() {
        assert!(Instant::now() < end);
        sleep(Duration::from_millis(5));
    }
}
