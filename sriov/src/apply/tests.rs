use clearway_config::Sriov;
use nix::errno::Errno;

use super::*;
use crate::hardware::LinkChange;
use crate::hardware::double::{Change, Double, PfModel};
use crate::inventory::{Holders, Inventory, Netdev, device_path};
use crate::plan::plan;

const FULL: &str = r#"{"eth1": {"vfs": 3, "mtu": 9000, "ranges": [
    {"vfs": 0, "mac": "02:00:00:00:00:01", "vlan": 100, "qos": 3, "min-tx-rate": 10, "max-tx-rate": 100, "link-state": "enable"},
    {"vfs": "1-2", "driver": "vfio-pci", "trust": true, "spoofchk": false}]}}"#;

fn desired(json: &str) -> Sriov {
    serde_json::from_str(&format!("{{\"pfs\": {json}}}")).unwrap()
}

fn inventory(double: &Double) -> Inventory {
    Inventory::read(double, &Holders::new()).unwrap()
}

/// All that can be seen, but for the kernel's numbers of interfaces that were made anew.
fn seen(double: &Double) -> Inventory {
    let mut inventory = inventory(double);
    for pf in &mut inventory.pfs {
        for vf in &mut pf.vfs {
            if let Some(netdev) = &mut vf.state.netdev {
                netdev.ifindex = 0;
            }
        }
    }
    inventory
}

fn run(double: &mut Double, json: &str) -> Result<usize, ApplyError> {
    let plan = plan(&desired(json), &inventory(double));
    apply(double, &plan)
}

fn double(vfs: u16) -> Double {
    let mut double = Double::new(vec![PfModel::igb("eth1", 3)]).unwrap();
    let path = device_path(PfModel::igb("", 3).pci).join("sriov_numvfs");
    double.write(&path, &vfs.to_string()).unwrap();
    double
}

#[test]
fn a_plan_is_carried_out_once() {
    let mut double = double(0);
    assert_eq!(run(&mut double, FULL).unwrap(), 13);
    let inventory = inventory(&double);
    let vfs = &inventory.pfs[0].vfs;
    assert_eq!(vfs.len(), 3);
    let admin = vfs[0].state.admin.unwrap();
    assert_eq!(
        (admin.vlan, admin.qos, admin.min_tx_rate, admin.max_tx_rate),
        (100, 3, 10, 100)
    );
    let netdev = vfs[0].state.netdev.as_ref().unwrap();
    assert_eq!(
        netdev.mac.unwrap().to_string(),
        "02:00:00:00:00:01",
        "it has seen its MAC"
    );
    assert_eq!(vfs[2].state.driver.as_deref(), Some("vfio-pci"));
    assert_eq!(vfs[2].state.admin.unwrap().trust, Some(true));
    assert_eq!(run(&mut double, FULL).unwrap(), 0, "nothing is left to be done");
}

#[test]
fn a_plan_that_is_refused_changes_nothing() {
    let mut double = double(0);
    let error = run(&mut double, r#"{"eth1": {"vfs": 9}}"#).unwrap_err();
    assert_eq!(error.to_string(), "eth1 has 7 VFs at most, not 9");
    assert_eq!(double.log.len(), 1, "{:?}", double.log);
}

/// Each step in turn is refused.
#[test]
fn whatever_is_refused_all_is_as_before() {
    // With VFs of before that have settings, drivers and names.
    let mut before = double(2);
    run(
        &mut before,
        r#"{"eth1": {"ranges": [{"vfs": 0, "vlan": 5, "trust": true}, {"vfs": 1, "driver": "vfio-pci"}]}}"#,
    )
    .unwrap();
    let link = before.link_mut("eth1v0").unwrap();
    (link.name, link.altnames) = ("net0".into(), vec!["enp3s0f0v0".into()]);
    let wanted = plan(&desired(FULL), &inventory(&before));
    assert_eq!(wanted.steps.len(), 14);
    for refused in &wanted.steps {
        let mut double = double(2);
        run(&mut double, r#"{"eth1": {"ranges": [{"vfs": 0, "vlan": 5, "trust": true}, {"vfs": 1, "driver": "vfio-pci"}]}}"#).unwrap();
        let link = double.link_mut("eth1v0").unwrap();
        (link.name, link.altnames) = ("net0".into(), vec!["enp3s0f0v0".into()]);
        let original = seen(&double);
        let step = refused.step.clone();
        double.refuse(
            move |change| match (&step, change) {
                (Step::NumVfs { to, .. }, Change::Write(path, value)) => {
                    path.ends_with("sriov_numvfs") && *value == to.to_string() && *to != 2
                }
                (Step::Pf { change: wanted, .. }, Change::Link(_, change)) => wanted == *change,
                (Step::Vf { index, change, .. }, Change::Vf(vf, setting)) => {
                    index == vf && *change == VfChange::Set(**setting)
                }
                (
                    Step::Vf {
                        index,
                        change: VfChange::Driver(_),
                        ..
                    },
                    Change::Write(path, value),
                ) => {
                    path.ends_with("driver_override")
                        && path.to_string_lossy().contains(&format!("10.{index}"))
                        && *value == "vfio-pci"
                        && *index == 2
                }
                (
                    Step::Vf {
                        change: VfChange::Rebind,
                        ..
                    },
                    Change::Write(path, value),
                ) => path.ends_with("driver_override") && *value == "igbvf",
                _ => false,
            },
            Errno::EOPNOTSUPP,
        );
        let result = apply(&mut double, &wanted);
        match (result, &refused.step) {
            // Of the two, the first is bound by vfio-pci before and after: refusing that would also refuse the way back.
            (
                Ok(_),
                Step::Vf {
                    index: 1,
                    change: VfChange::Driver(_),
                    ..
                },
            ) => continue,
            (Err(ApplyError::Step { left, .. }), step) => assert_eq!(left, [], "{step}"),
            (result, step) => panic!("{step}: {result:?}"),
        }
        assert_eq!(seen(&double), original, "{}", refused.step);
    }
}

#[test]
fn a_refusal_tells_its_errno_and_meaning() {
    for (setting, errno, told) in [
        (
            r#""vlan": 5, "vlan-proto": "802.1ad""#,
            Errno::EPROTONOSUPPORT,
            "0000:03:00.0: VF 0: VLAN 5 proto 802.1ad failed: Protocol not supported (EPROTONOSUPPORT): this NIC has no 802.1ad \
             for VFs: leave out `vlan-proto`; nothing was changed",
        ),
        (
            r#""min-tx-rate": 5"#,
            Errno::EINVAL,
            "0000:03:00.0: VF 0: min-tx-rate 5 max-tx-rate 0 Mbit/s failed: Invalid argument (EINVAL): this NIC guarantees no rate, \
             or not so much: leave out `min-tx-rate`; it can't be more than `max-tx-rate` or than the link's rate; nothing was changed",
        ),
        (
            r#""link-state": "disable""#,
            Errno::EOPNOTSUPP,
            "0000:03:00.0: VF 0: link-state disable failed: Operation not supported on transport endpoint (EOPNOTSUPP): this NIC can't \
             give its VFs a link of their own: leave out `link-state`; nothing was changed",
        ),
    ] {
        let mut double = double(1);
        double.refuse(|change| matches!(change, Change::Vf(..)), errno);
        let json = format!(r#"{{"eth1": {{"ranges": [{{"vfs": 0, {setting}}}]}}}}"#);
        assert_eq!(run(&mut double, &json).unwrap_err().to_string(), told);
    }
}

#[test]
fn what_cannot_be_undone_is_named() {
    let mut double = double(1);
    double.refuse(
        |change| match change {
            Change::Vf(_, VfSetting::Spoofchk(_)) => true,
            Change::Vf(_, VfSetting::Vlan { vlan, .. }) => *vlan == 0,
            _ => false,
        },
        Errno::EIO,
    );
    let json = r#"{"eth1": {"ranges": [{"vfs": 0, "vlan": 9, "trust": true, "spoofchk": false}]}}"#;
    let Err(ApplyError::Step { undone, left, .. }) = run(&mut double, json) else {
        panic!("it is refused");
    };
    assert_eq!(undone, 2);
    assert!(
        left.iter()
            .any(|error| error.to_string().contains("VF 0: no VLAN failed")),
        "{left:?}"
    );
    assert_eq!(
        inventory(&double).pfs[0].vfs[0].state.admin.unwrap().trust,
        Some(false)
    );
}

#[test]
fn a_driver_that_is_not_loaded_is_told() {
    let mut double = double(1);
    std::fs::remove_dir(double.root().join("bus/pci/drivers/vfio-pci")).unwrap();
    let original = seen(&double);
    let error = run(
        &mut double,
        r#"{"eth1": {"ranges": [{"vfs": 0, "driver": "vfio-pci"}]}}"#,
    )
    .unwrap_err();
    let told = error.to_string();
    assert!(
        told.contains("afterwards 0000:03:10.0 has no driver; `modprobe vfio-pci`"),
        "{told}"
    );
    assert_eq!(seen(&double), original);
}

#[test]
fn without_autoprobe_drivers_are_bound_too() {
    let mut double = double(0);
    let pf = device_path(PfModel::igb("", 3).pci);
    double.write(&pf.join("sriov_drivers_autoprobe"), "0").unwrap();
    let json =
        |driver: &str| format!(r#"{{"eth1": {{"vfs": 1, "ranges": [{{"vfs": 0, "driver": "{driver}"}}]}}}}"#);
    for (driver, bound) in [("kernel", "igbvf"), ("vfio-pci", "vfio-pci"), ("kernel", "igbvf")] {
        run(&mut double, &json(driver)).unwrap();
        let state = inventory(&double).pfs[0].vfs[0].state.clone();
        assert_eq!(state.driver.as_deref(), Some(bound));
        assert_eq!(double.read(&pf.join("sriov_drivers_autoprobe")).unwrap(), "0");
    }
}

#[test]
fn a_vf_that_is_being_reset_is_waited_for() {
    let mut double = double(1);
    let times = std::sync::atomic::AtomicU32::new(0);
    double.refuse(
        move |_| times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3,
        Errno::EAGAIN,
    );
    run(
        &mut double,
        r#"{"eth1": {"ranges": [{"vfs": 0, "trust": true}]}}"#,
    )
    .unwrap();
    assert_eq!(
        inventory(&double).pfs[0].vfs[0].state.admin.unwrap().trust,
        Some(true)
    );
}

#[test]
fn an_interface_is_brought_back_in_an_order_that_works() {
    let saved = Netdev {
        name: "a".into(),
        altnames: vec!["x".into()],
        ifindex: 1,
        mac: None,
        mtu: 1500,
        up: true,
        carrier: false,
    };
    let now = Netdev {
        name: "x".into(),
        altnames: vec!["a".into()],
        mtu: 9000,
        ..saved.clone()
    };
    assert_eq!(
        session::netdev_changes(&saved, &now),
        [
            LinkChange::Up(false),
            LinkChange::RemoveAltname("a".into()),
            LinkChange::Name("a".into()),
            LinkChange::AddAltname("x".into()),
            LinkChange::Mtu(1500),
            LinkChange::Up(true)
        ]
    );
    assert_eq!(session::netdev_changes(&saved, &saved), []);
}
