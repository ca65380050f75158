use super::*;
use crate::hardware::Hardware;
use crate::hardware::double::{Double, PfModel};
use crate::inventory::{Holders, device_path};

fn desired(json: &str) -> Sriov {
    serde_json::from_str(&format!("{{\"pfs\": {json}}}")).unwrap()
}

fn double(vfs: u16) -> Double {
    let mut double = Double::new(vec![PfModel::igb("eth1", 3)]).unwrap();
    let path = device_path(PfModel::igb("", 3).pci).join("sriov_numvfs");
    double.write(&path, &vfs.to_string()).unwrap();
    double
}

fn lease(pod: &str) -> Holder {
    Holder::Lease {
        holder: format!("pod {pod}"),
        generation: 1,
    }
}

fn planned(vfs: u16, json: &str, holders: &Holders) -> Plan {
    let inventory = Inventory::read(&double(vfs), holders).unwrap();
    plan(&desired(json), &inventory)
}

fn steps(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(ToString::to_string).collect()
}

#[test]
fn vfs_are_made_and_set_up() {
    let json = r#"{"eth1": {"vfs": 3, "mtu": 9000, "ranges": [
        {"vfs": 0, "mac": "02:00:00:00:00:01", "vlan": 100, "qos": 3},
        {"vfs": "1-2", "driver": "vfio-pci", "trust": true, "spoofchk": false, "max-tx-rate": 500}]}}"#;
    let plan = planned(0, json, &Holders::new());
    assert_eq!(
        steps(&plan),
        [
            "eth1: MTU 9000 (now: 1500)",
            "eth1: create 3 VFs",
            "eth1: VF 0: MAC 02:00:00:00:00:01",
            "eth1: VF 0: VLAN 100 qos 3",
            "eth1: VF 0: bind its driver anew, for the MAC",
            "eth1: VF 1: trust on",
            "eth1: VF 1: spoofchk off",
            "eth1: VF 1: min-tx-rate 0 max-tx-rate 500 Mbit/s",
            "eth1: VF 1: driver vfio-pci",
            "eth1: VF 2: trust on",
            "eth1: VF 2: spoofchk off",
            "eth1: VF 2: min-tx-rate 0 max-tx-rate 500 Mbit/s",
            "eth1: VF 2: driver vfio-pci",
        ]
    );
    assert!(plan.refused.is_empty() && plan.waiting.is_empty());
}

#[test]
fn vfs_that_are_there_are_taken_as_they_are() {
    let same = r#"{"eth1": {"vfs": 3, "ranges": [
        {"vfs": "0-2", "driver": "kernel", "vlan": 0, "spoofchk": true, "trust": false, "min-tx-rate": 0, "link-state": "auto"}]}}"#;
    assert_eq!(planned(3, same, &Holders::new()), Plan::default());
    let other = r#"{"0000:03:00.0": {"ranges": [{"vfs": 1, "spoofchk": false, "vlan": 7, "vlan-proto": "802.1ad"}]}}"#;
    let plan = planned(3, other, &Holders::new());
    assert_eq!(
        steps(&plan),
        [
            "eth1: VF 1: VLAN 7 proto 802.1ad (now: no VLAN)",
            "eth1: VF 1: spoofchk off (now: spoofchk on)",
        ]
    );
    assert_eq!(planned(3, r#"{"eth1": {}}"#, &Holders::new()), Plan::default());
}

#[test]
fn another_number_goes_by_way_of_none() {
    let plan = planned(
        2,
        r#"{"eth1": {"vfs": 4, "ranges": [{"vfs": 3, "spoofchk": true}]}}"#,
        &Holders::new(),
    );
    assert_eq!(
        steps(&plan),
        [
            "eth1: remove 2 VFs",
            "eth1: create 4 VFs",
            "eth1: VF 3: spoofchk on"
        ]
    );
    let plan = planned(2, r#"{"eth1": {"vfs": 0}}"#, &Holders::new());
    assert_eq!(steps(&plan), ["eth1: remove 2 VFs"]);
}

#[test]
fn no_vf_that_is_held_goes() {
    let vf = |index| Double::vf(PfModel::igb("", 3).pci, index);
    let holders = Holders::from([(vf(0), lease("default/web-0")), (vf(2), lease("default/db-0"))]);
    for (to, json) in [(1, r#"{"eth1": {"vfs": 1}}"#), (5, r#"{"eth1": {"vfs": 5}}"#)] {
        let plan = planned(3, json, &holders);
        assert_eq!(steps(&plan), [""; 0]);
        assert_eq!(
            plan.refused[0].to_string(),
            format!(
                "eth1 has 3 VFs and gets {to} only by way of none, which 2 held forbid: VF 0 by pod default/web-0, \
                 VF 2 by pod default/db-0; delete these pods or end these programs first"
            )
        );
    }
}

#[test]
fn what_is_wanted_of_a_held_vf_waits() {
    let vf = |index| Double::vf(PfModel::igb("", 3).pci, index);
    let holders = Holders::from([(vf(1), lease("default/web-0"))]);
    let json = r#"{"eth1": {"mtu": 9000, "ranges": [{"vfs": "0-1", "vlan": 5, "driver": "vfio-pci"}]}}"#;
    let plan = planned(2, json, &holders);
    assert_eq!(
        steps(&plan),
        [
            "eth1: MTU 9000 (now: 1500); affects VF 1 by pod default/web-0",
            "eth1: VF 0: VLAN 5 (now: no VLAN)",
            "eth1: VF 0: driver vfio-pci (now: driver igbvf)",
        ]
    );
    assert_eq!(
        plan.waiting[0].to_string(),
        "eth1: VF 1 waits for pod default/web-0: VLAN 5, driver vfio-pci"
    );
}

#[test]
fn what_cannot_be_is_refused() {
    let inventory = Inventory::read(&double(2), &Holders::new()).unwrap();
    for (json, reason) in [
        (r#"{"eth9": {"vfs": 1}}"#, "eth9 is no physical function"),
        (r#"{"eth1v0": {"vfs": 1}}"#, "eth1v0 is no physical function"),
        (r#"{"eth1": {"vfs": 8}}"#, "eth1 has 7 VFs at most, not 8"),
        (
            r#"{"eth1": {"ranges": [{"vfs": "1-2", "trust": true}]}}"#,
            "eth1 has 2 VFs, so there is no VF 2",
        ),
        (
            r#"{"eth1": {}, "0000:03:00.0": {"vfs": 1}}"#,
            "eth1 is the physical function 0000:03:00.0, which 0000:03:00.0 is too",
        ),
    ] {
        let plan = plan(&desired(json), &inventory);
        let told = plan.refused[0].to_string();
        assert!(told.starts_with(reason), "{told}");
    }
    let mut away = double(2);
    away.send_away("eth1");
    let inventory = Inventory::read(&away, &Holders::new()).unwrap();
    let json = r#"{"0000:03:00.0": {"mtu": 9000, "ranges": [{"vfs": 0, "trust": true}]}}"#;
    let plan = plan(&desired(json), &inventory);
    let what: Vec<_> = plan
        .refused
        .iter()
        .filter_map(|refusal| match refusal {
            PlanRefusal::NoInterface { what, .. } => Some(*what),
            _ => None,
        })
        .collect();
    assert_eq!(what, ["its MTU", "the settings of its VFs"]);
}
