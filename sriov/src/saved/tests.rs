use clearway_config::TagProtocol;
use clearway_wire::MacAddr;
use nix::errno::Errno;

use super::*;
use crate::apply::apply_steps;
use crate::hardware::double::{Change, Double, PfModel};
use crate::hardware::{LinkChange, VfSetting};
use crate::inventory::device_path;
use crate::plan::{Driver, VfTargetSetting};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 9]);

/// A host with a VF that somebody has set up and named.
fn double() -> Double {
    let pf = PfModel::igb("eth1", 3);
    let path = device_path(pf.pci);
    let mut double = Double::new(vec![pf]).unwrap();
    double.write(&path.join("sriov_numvfs"), "2").unwrap();
    let link = double.link_mut("eth1v0").unwrap();
    (link.name, link.altnames, link.up) = ("net0".into(), vec!["enp3s0f0v0".into()], true);
    let setting = VfSetting::Vlan {
        vlan: 7,
        qos: 1,
        proto: TagProtocol::Dot1q,
    };
    double.set_vf(2, 0, &setting).unwrap();
    double
}

fn vf(index: u16) -> PciAddress {
    Double::vf(PfModel::igb("", 3).pci, index)
}

fn state(double: &Double, index: u16) -> VfState {
    let inventory = Inventory::read(double, &Holders::new()).unwrap();
    let mut state = inventory.vf(vf(index)).unwrap().1.state.clone();
    if let Some(netdev) = &mut state.netdev {
        netdev.ifindex = 0;
    }
    state
}

/// What a pod wants: everything at once.
fn wanted() -> VfTarget {
    let settings = [
        VfSetting::Mac(MAC),
        VfSetting::Vlan {
            vlan: 100,
            qos: 0,
            proto: TagProtocol::Dot1q,
        },
        VfSetting::Trust(true),
        VfSetting::Spoofchk(false),
        VfSetting::Rate { min: 0, max: 500 },
    ];
    VfTarget {
        settings: settings.map(VfTargetSetting::Whole).into(),
        driver: None,
        netdev: vec![
            LinkChange::Up(false),
            LinkChange::Name("pod0".into()),
            LinkChange::Mtu(1400),
        ],
    }
}

fn on_vfio() -> VfTarget {
    VfTarget {
        driver: Some(Driver::VfioPci),
        netdev: Vec::new(),
        ..wanted()
    }
}

/// As the daemon's store keeps them.
fn stored(leases: &Leases) -> Leases {
    serde_json::from_str(&serde_json::to_string(leases).unwrap()).unwrap()
}

#[test]
fn a_vf_comes_back_as_it_was() {
    for target in [wanted(), on_vfio()] {
        let mut double = double();
        let original = state(&double, 0);
        let mut leases = Leases::default();
        let lease = leases.take(&double, vf(0), "pod default/web-0").unwrap().clone();
        assert_eq!(state(&double, 0), original, "taking changes nothing");
        let steps = lease.steps(&mut double, &target).unwrap();
        apply_steps(&mut double, &steps).unwrap();
        let now = state(&double, 0);
        assert_eq!(now.admin.unwrap().mac, MAC);
        match &now.netdev {
            Some(netdev) => assert_eq!((&*netdev.name, netdev.mtu, netdev.mac), ("pod0", 1400, Some(MAC))),
            None => assert_eq!(now.driver.as_deref(), Some("vfio-pci")),
        }
        let returned = leases.give_back(&mut double, vf(0), lease.generation).unwrap();
        assert_eq!(returned, Returned::Restored);
        assert_eq!(state(&double, 0), original);
        assert_eq!(leases.iter().count(), 0);
        assert_eq!(lease.steps_back(&mut double).unwrap(), []);
    }
}

#[test]
fn it_comes_back_from_a_namespace_that_went() {
    let mut double = double();
    let original = state(&double, 0);
    let mut leases = Leases::default();
    let lease = leases.take(&double, vf(0), "pod default/web-0").unwrap().clone();
    let steps = lease.steps(&mut double, &wanted()).unwrap();
    apply_steps(&mut double, &steps).unwrap();
    double.send_away("pod0");
    let error = leases
        .give_back(&mut double, vf(0), lease.generation)
        .unwrap_err();
    assert!(matches!(error, LeaseError::Away { .. }), "{error}");
    assert!(leases.get(vf(0)).unwrap().returning);
    // Its name was taken meanwhile, and what the pod did with it is undone too.
    double.add_link("pod0");
    double.come_back(vf(0), |link| link.altnames.push("mine".into()));
    let returned = stored(&leases)
        .give_back(&mut double, vf(0), lease.generation)
        .unwrap();
    assert_eq!((returned, state(&double, 0)), (Returned::Restored, original));
}

#[test]
fn who_is_late_touches_nothing() {
    let mut double = double();
    let mut leases = Leases::default();
    let first = leases.take(&double, vf(0), "pod default/old").unwrap().generation;
    assert_eq!(
        leases.give_back(&mut double, vf(0), first).unwrap(),
        Returned::Restored
    );
    let second = leases.take(&double, vf(0), "pod default/new").unwrap().clone();
    let steps = second.steps(&mut double, &wanted()).unwrap();
    apply_steps(&mut double, &steps).unwrap();
    let (before, changes) = (state(&double, 0), double.log.len());
    for (pci, generation) in [(vf(0), first), (vf(1), second.generation), (vf(0), 99)] {
        assert_eq!(
            leases.give_back(&mut double, pci, generation).unwrap(),
            Returned::Late
        );
    }
    assert_eq!((state(&double, 0), double.log.len()), (before, changes));
    assert_eq!(leases.get(vf(0)), Some(&second));
    assert_eq!(stored(&leases), leases);
    assert!(second.generation > first);
}

#[test]
fn of_two_leases_on_disk_the_later_counts() {
    let mut double = double();
    let mut leases = Leases::default();
    let old = leases.take(&double, vf(0), "pod default/old").unwrap().clone();
    leases.give_back(&mut double, vf(0), old.generation).unwrap();
    let new = leases.take(&double, vf(0), "pod default/new").unwrap().clone();
    for order in [[&old, &new], [&new, &old]] {
        let mut leases = Leases::default();
        for lease in order {
            leases.hold(lease.clone());
        }
        assert_eq!(leases.iter().collect::<Vec<_>>(), [&new]);
        let late = leases.give_back(&mut double, vf(0), old.generation).unwrap();
        assert_eq!(late, Returned::Late);
        let next = leases.take(&double, vf(1), "pod default/next").unwrap();
        assert!(next.generation > new.generation);
    }
}

#[test]
fn what_is_held_is_not_handed_out() {
    let mut double = double();
    let mut leases = Leases::default();
    leases.take(&double, vf(0), "pod default/web-0").unwrap();
    let error = leases.take(&double, vf(0), "pod default/web-1").unwrap_err();
    assert_eq!(
        error.to_string(),
        "VF 0000:03:10.0 is held: pod default/web-0; it is free when that gives it back"
    );
    double.send_away("eth1v1");
    let error = leases.take(&double, vf(1), "pod default/web-1").unwrap_err();
    assert!(error.to_string().contains("another network namespace"), "{error}");
    let error = leases.take(&double, vf(5), "pod default/web-1").unwrap_err();
    assert!(matches!(error, LeaseError::NoSuchVf(_)), "{error}");
}

#[test]
fn a_vf_that_is_no_more_is_given_back_too() {
    let mut double = double();
    let mut leases = Leases::default();
    let generation = leases
        .take(&double, vf(0), "pod default/web-0")
        .unwrap()
        .generation;
    let path = device_path(PfModel::igb("", 3).pci).join("sriov_numvfs");
    double.write(&path, "0").unwrap();
    let returned = leases.give_back(&mut double, vf(0), generation).unwrap();
    assert_eq!((returned, leases.iter().count()), (Returned::NoSuchVf, 0));
}

#[test]
fn what_cannot_be_restored_is_told_and_kept() {
    let mut double = double();
    let mut leases = Leases::default();
    let lease = leases.take(&double, vf(0), "pod default/web-0").unwrap().clone();
    let steps = lease.steps(&mut double, &wanted()).unwrap();
    apply_steps(&mut double, &steps).unwrap();
    double.refuse(
        |change| matches!(change, Change::Vf(_, VfSetting::Trust(false))),
        Errno::EBUSY,
    );
    let error = leases
        .give_back(&mut double, vf(0), lease.generation)
        .unwrap_err();
    let told = error.to_string();
    assert!(
        told.contains("VF 0: trust off failed") && told.contains("EBUSY"),
        "{told}"
    );
    let steps = leases.get(vf(0)).unwrap().steps_back(&mut double).unwrap();
    assert_eq!(steps.len(), 1, "all else is restored: {steps:?}");
    assert!(leases.forget(vf(0), lease.generation).is_some());
}

/// Killed after each change in turn, on the way there and on the way back.
#[test]
fn whenever_it_is_killed_the_vf_comes_back() {
    for target in [wanted(), on_vfio()] {
        let mut deaths = 0;
        for life in 0.. {
            let mut double = double();
            let original = state(&double, 0);
            let mut leases = Leases::default();
            let lease = leases.take(&double, vf(0), "pod default/web-0").unwrap().clone();
            let journal = stored(&leases);
            double.die_after(life);
            let there =
                lease
                    .steps(&mut double, &target)
                    .and_then(|steps| match apply_steps(&mut double, &steps) {
                        Err(crate::apply::ApplyError::Step { error, .. }) => Err(*error),
                        _ => Ok(()),
                    });
            let back = there.is_ok() && leases.give_back(&mut double, vf(0), lease.generation).is_ok();
            if back {
                break;
            }
            deaths += 1;
            double.relent();
            // A new process: it knows what was on disk.
            let mut leases = journal;
            let returned = leases.give_back(&mut double, vf(0), lease.generation).unwrap();
            assert_eq!(returned, Returned::Restored, "killed after {life} changes");
            assert_eq!(state(&double, 0), original, "killed after {life} changes");
        }
        assert!(deaths > 15, "{deaths} changes");
    }
}
