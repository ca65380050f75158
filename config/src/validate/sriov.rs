//! SR-IOV functions.

use std::collections::BTreeMap;

use clearway_wire::MacAddr;

use super::Findings;
use crate::Spec;
use crate::path::Path;
use crate::problem::{Problem, SriovProblem};
use crate::sriov::{Pf, VfRange};

pub(super) fn check(spec: &Spec, findings: &mut Findings) {
    let pfs = Path::root("sriov").at("pfs");
    for (name, pf) in &spec.sriov.pfs {
        self::pf(pf, &pfs.at(name.as_str()), findings);
    }
}

fn pf(pf: &Pf, path: &Path, findings: &mut Findings) {
    if let Some(mtu) = pf.mtu {
        findings.range(path.at("mtu"), &mtu, &Pf::MTU);
    }
    let ranges = path.at("ranges");
    let mut vfs: BTreeMap<u16, usize> = BTreeMap::new();
    let mut macs: BTreeMap<MacAddr, usize> = BTreeMap::new();
    for (i, range) in pf.ranges.iter().enumerate() {
        let path = ranges.at(i);
        let (count, at) = (range.vfs.count(), path.at("vfs"));
        if count == 0 {
            findings.add(at.clone(), SriovProblem::NoVfs);
        }
        let mut told = false;
        for vf in range.vfs.iter() {
            if let Some(other) = vfs.insert(vf, i)
                && !told
            {
                told = true;
                let other = ranges.at(other);
                findings.add(at.clone(), SriovProblem::VfTwice { vf, other });
            }
        }
        if let (Some(vf), Some(count)) = (range.vfs.last(), pf.vfs)
            && vf >= count
        {
            findings.add(at, SriovProblem::NoSuchVf { vf, count });
        }
        if let Some(mac) = range.mac {
            let at = path.at("mac");
            findings.unicast_mac(at.clone(), mac);
            if count > 1 {
                findings.add(at.clone(), SriovProblem::MacOfSeveral { count });
            }
            let other = *macs.entry(mac).or_insert(i);
            if other != i {
                let other = ranges.at(other);
                findings.add(at, Problem::MacTwice { mac, other });
            }
        }
        settings(range, &path, findings);
    }
}

fn settings(range: &VfRange, path: &Path, findings: &mut Findings) {
    if let Some(vlan) = range.vlan {
        findings.range(path.at("vlan"), &vlan, &(0..=VfRange::MAX_VLAN));
    }
    if let Some(qos) = range.qos {
        findings.range(path.at("qos"), &qos, &(0..=VfRange::MAX_QOS));
    }
    let of_vlan = [
        ("qos", range.qos.is_some()),
        ("vlan-proto", range.vlan_proto.is_some()),
    ];
    for (key, _) in of_vlan.iter().filter(|(_, is)| *is && range.vlan.is_none()) {
        findings.add(path.at(*key), Problem::Without { other: "vlan" });
    }
    if let (Some(min), Some(max @ 1..)) = (range.min_tx_rate, range.max_tx_rate)
        && min > max
    {
        findings.add(path.at("min-tx-rate"), SriovProblem::Rates { min, max });
    }
}
