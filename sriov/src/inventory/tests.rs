use std::time::Instant;

use super::*;
use crate::hardware::double::{Double, PfModel};

fn vfs(double: &mut Double, bus: u8, count: u16) {
    let path = format!("{DEVICES}/0000:{bus:02x}:00.0/sriov_numvfs");
    double.write(Path::new(&path), &count.to_string()).unwrap();
}

fn read(double: &Double) -> Inventory {
    Inventory::read(double, &Holders::new()).unwrap()
}

#[test]
fn a_host_without_vfs_has_its_physical_functions() {
    let double = Double::new(vec![PfModel::igb("eth2", 4), PfModel::igb("eth1", 3)]).unwrap();
    let inventory = read(&double);
    let names: Vec<_> = inventory.pfs.iter().map(Pf::name).collect();
    assert_eq!(names, ["eth1", "eth2"]);
    let pf = &inventory.pfs[0];
    assert_eq!(
        (&*pf.vendor, &*pf.device, pf.driver.as_deref()),
        ("8086", "10c9", Some("igb"))
    );
    assert_eq!((pf.numa_node, pf.total_vfs, pf.vfs.len()), (Some(0), 7, 0));
    assert!(pf.autoprobe && !pf.switchdev);
    assert!(
        pf.netdev
            .as_ref()
            .is_some_and(|netdev| netdev.carrier && netdev.mtu == 1500)
    );
}

#[test]
fn vfs_have_their_settings_and_interfaces() {
    let mut double = Double::new(vec![PfModel::igb("eth1", 3)]).unwrap();
    vfs(&mut double, 3, 2);
    let inventory = read(&double);
    let vf = &inventory.pfs[0].vfs[1];
    assert_eq!((vf.index, &*vf.device), (1, "10ca"));
    assert_eq!(vf.state.pci.to_string(), "0000:03:10.1");
    assert_eq!(vf.state.driver.as_deref(), Some("igbvf"));
    assert_eq!(
        (vf.state.driver_override.as_deref(), vf.state.iommu_group),
        (None, Some(0x381))
    );
    assert_eq!(vf.state.netdev.as_ref().unwrap().name, "eth1v1");
    assert_eq!(vf.state.admin.unwrap().spoofchk, Some(true));
    assert_eq!((&vf.holder, &vf.representor), (&None, &None));
    assert_eq!(inventory.vf(vf.state.pci).unwrap().1, vf);
    for name in ["eth1", "0000:03:00.0"] {
        assert_eq!(inventory.pf(name), Some(&inventory.pfs[0]));
    }
    assert_eq!(inventory.pf("eth1v1"), None);
}

#[test]
fn who_has_a_vf_is_known() {
    let mut double = Double::new(vec![PfModel::igb("eth1", 3)]).unwrap();
    vfs(&mut double, 3, 5);
    double.send_away("eth1v0");
    let bridge = double.add_link("br0");
    double.link_mut("eth1v1").unwrap().master = Some(bridge);
    let vf = |index| Double::vf(PfModel::igb("", 3).pci, index);
    for index in [2, 3] {
        let path = device_path(vf(index));
        double.write(&path.join("driver_override"), "vfio-pci").unwrap();
        let address = vf(index).to_string();
        double.write(&path.join("driver/unbind"), &address).unwrap();
        double
            .write(Path::new("bus/pci/drivers_probe"), &address)
            .unwrap();
    }
    let process = Process {
        pid: 7,
        name: "testpmd".into(),
    };
    double.open_vfio(&0x382.to_string(), process);
    let lease = Holder::Lease {
        holder: "pod default/web-0".into(),
        generation: 3,
    };
    let holders = Holders::from([(vf(4), lease)]);
    let inventory = Inventory::read(&double, &holders).unwrap();
    let told: Vec<_> = inventory.pfs[0]
        .vfs
        .iter()
        .map(|vf| vf.holder.as_ref().map(ToString::to_string))
        .collect();
    let told: Vec<_> = told.iter().map(Option::as_deref).collect();
    assert_eq!(
        told,
        [
            Some("another network namespace"),
            Some("member of br0"),
            Some("testpmd (pid 7)"),
            None,
            Some("pod default/web-0"),
        ]
    );
}

#[test]
fn a_vf_without_any_driver_is_free() {
    let mut double = Double::new(vec![PfModel::igb("eth1", 3)]).unwrap();
    double
        .write(
            &device_path(PfModel::igb("", 3).pci).join("sriov_drivers_autoprobe"),
            "0",
        )
        .unwrap();
    vfs(&mut double, 3, 1);
    let inventory = read(&double);
    let vf = &inventory.pfs[0].vfs[0];
    assert!(!inventory.pfs[0].autoprobe);
    assert_eq!(
        (&vf.state.driver, &vf.state.netdev, &vf.holder),
        (&None, &None, &None)
    );
}

#[test]
fn representors_are_not_taken_for_the_interface() {
    let mut pf = PfModel::igb("ens1", 3);
    pf.switchdev = true;
    let mut double = Double::new(vec![pf]).unwrap();
    vfs(&mut double, 3, 2);
    let inventory = read(&double);
    let pf = &inventory.pfs[0];
    assert!(pf.switchdev);
    assert_eq!(pf.name(), "ens1");
    let names: Vec<_> = pf
        .vfs
        .iter()
        .map(|vf| vf.representor.as_ref().unwrap().name.as_str())
        .collect();
    assert_eq!(names, ["ens1_0", "ens1_1"]);
}

#[test]
fn a_function_whose_interface_is_away_has_an_address() {
    let mut double = Double::new(vec![PfModel::igb("eth1", 3)]).unwrap();
    vfs(&mut double, 3, 1);
    double.send_away("eth1");
    let inventory = read(&double);
    assert_eq!(inventory.pfs[0].name(), "0000:03:00.0");
    assert_eq!(inventory.pfs[0].vfs[0].state.admin, None);
}

#[test]
fn a_large_node_is_read_at_once() {
    let models = (0..8).map(|i| {
        let mut pf = PfModel::igb(&format!("eth{i}"), 0x10 + i);
        pf.total_vfs = 128;
        pf
    });
    let mut double = Double::new(models.collect()).unwrap();
    for i in 0..8 {
        vfs(&mut double, 0x10 + i, 128);
    }
    let start = Instant::now();
    let inventory = read(&double);
    let took = start.elapsed();
    println!("inventory of 8 physical functions with 128 VFs each: {took:?}");
    assert_eq!(inventory.pfs.iter().map(|pf| pf.vfs.len()).sum::<usize>(), 1024);
    // The bound of the measurement, 200 ms, is that of a quiet host; here others run too.
    assert!(took.as_secs() < 5, "{took:?}");
}
