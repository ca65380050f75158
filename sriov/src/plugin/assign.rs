//! Which device is in which pool.
//!
//! The first pool that selects a device has it, with one exception: what a pod holds stays where the pod has it from, whatever the
//! configuration or the device's own properties have become, as long as the device is there.

use std::collections::{BTreeMap, BTreeSet};

use super::candidate::Candidate;
use super::pool::{Kind, Pool};

/// Which devices pods hold, by resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held(BTreeMap<String, BTreeSet<String>>);

impl Held {
    /// A pod holds this device of this resource.
    pub fn add(&mut self, resource: &str, id: &str) {
        self.0.entry(resource.into()).or_default().insert(id.into());
    }

    /// Whether one does.
    pub fn has(&self, resource: &str, id: &str) -> bool {
        self.0.get(resource).is_some_and(|ids| ids.contains(id))
    }

    fn of(&self, resource: &str) -> impl Iterator<Item = &String> {
        self.0.get(resource).into_iter().flatten()
    }
}

/// A device of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A network function.
    Function {
        /// What is known of it.
        function: Box<Candidate>,
        /// The pod gets its RDMA files.
        rdma: bool,
        /// The pod gets /dev/vhost-net and /dev/net/tun.
        vhost_net: bool,
    },
    /// A place for a vhost-user port.
    Place,
}

/// The devices of one pool, by ID.
pub type Devices = BTreeMap<String, Device>;

impl Device {
    /// Whether pods may be given it.
    pub fn healthy(&self) -> bool {
        match self {
            Self::Function { function, .. } => function.healthy,
            Self::Place => true,
        }
    }

    /// Its NUMA node.
    pub fn numa(&self) -> Option<u32> {
        match self {
            Self::Function { function, .. } => function.numa,
            Self::Place => None,
        }
    }

    /// What it shares with others: its PF.
    pub(super) fn root(&self) -> Option<&str> {
        match self {
            Self::Function { function, .. } => function.root_device.as_deref(),
            Self::Place => None,
        }
    }
}

/// The devices of each pool, in the order of the pools. `held` is `None` while that is not known: then what was in a pool `before` stays in it.
pub fn assign(
    pools: &[Pool],
    candidates: &[Candidate],
    held: Option<&Held>,
    before: &[Devices],
) -> Vec<Devices> {
    let mut all: Vec<Devices> = pools.iter().map(|pool| places(pool, held)).collect();
    let functions = |pool: &Pool| !matches!(pool.kind, Kind::VhostUser { .. });
    for function in candidates {
        let keeps = |(index, pool): &(usize, &Pool)| {
            functions(pool)
                && match held {
                    Some(held) => held.has(&pool.resource(), &function.pci),
                    None => before
                        .get(*index)
                        .is_some_and(|devices| devices.contains_key(&function.pci)),
                }
        };
        let kept = pools.iter().enumerate().find(keeps);
        let selected = || {
            pools
                .iter()
                .enumerate()
                .find_map(|found| Some((found, selector(found.1, function)?)))
        };
        let ((index, pool), flags) = match (kept, selected()) {
            (Some(kept), _) => (kept, selector(kept.1, function)),
            (None, Some((found, flags))) => (found, Some(flags)),
            (None, None) => continue,
        };
        // Of one that no selector selects any more: what it was given with.
        let was = before.get(index).and_then(|devices| devices.get(&function.pci));
        let (rdma, vhost_net) = match (flags, was) {
            (Some(flags), _) => flags,
            (None, Some(Device::Function { rdma, vhost_net, .. })) => (*rdma, *vhost_net),
            (None, _) => (false, pool.selectors().iter().any(|selector| selector.vhost_net)),
        };
        let device = Device::Function {
            function: Box::new(function.clone()),
            rdma,
            vhost_net,
        };
        if let Some(devices) = all.get_mut(index) {
            devices.insert(function.pci.clone(), device);
        }
    }
    all
}

/// What the first selector that selects it asks for.
fn selector(pool: &Pool, function: &Candidate) -> Option<(bool, bool)> {
    let kernel = matches!(pool.kind, Kind::Net(_)) || is_kernel(function.driver.as_deref());
    let selector = pool
        .selectors()
        .iter()
        .find(|selector| selector.selects(function));
    selector
        .filter(|_| kernel)
        .map(|selector| (selector.rdma, selector.vhost_net))
}

fn is_kernel(driver: Option<&str>) -> bool {
    driver.is_some_and(|driver| driver != "vfio-pci" && !super::candidate::is_uio(Some(driver)))
}

fn places(pool: &Pool, held: Option<&Held>) -> Devices {
    let Kind::VhostUser { count, .. } = pool.kind else {
        return Devices::new();
    };
    let numbered = (0..count).map(|number| pool.place(number));
    // More than there are now, if there were more once and pods still hold them.
    let resource = pool.resource();
    let more = held
        .into_iter()
        .flat_map(|held| held.of(&resource))
        .filter(|id| pool.is_place(id))
        .cloned();
    numbered.chain(more).map(|id| (id, Device::Place)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::pools::{self, DEFAULT_PREFIX};

    fn pools(text: &str) -> Vec<Pool> {
        pools::read(text, DEFAULT_PREFIX).unwrap()
    }

    fn vf(index: u32) -> Candidate {
        Candidate {
            pci: format!("0000:3b:02.{index}"),
            driver: Some("iavf".into()),
            pf_names: vec!["pf0".into()],
            root_device: Some("0000:3b:00.0".into()),
            vf_index: Some(index),
            link_type: Some("ether".into()),
            healthy: true,
            ..Candidate::default()
        }
    }

    fn ids(devices: &Devices) -> Vec<&str> {
        devices
            .keys()
            .map(|id| id.trim_start_matches("0000:3b:02."))
            .collect()
    }

    #[test]
    fn the_first_pool_and_its_first_selector_win() {
        let pools = pools(
            r#"{"resourceList": [
                {"resourceName": "a", "selectors": [{"pfNames": ["pf0#0-1"], "needVhostNet": true}, {"pfNames": ["pf0#1-2"]}]},
                {"resourceName": "b", "selectors": {"pfNames": ["pf0#2-3"]}}]}"#,
        );
        let all = assign(
            &pools,
            &[vf(0), vf(1), vf(2), vf(3), vf(4)],
            Some(&Held::default()),
            &[],
        );
        assert_eq!(ids(&all[0]), ["0", "1", "2"]);
        assert_eq!(ids(&all[1]), ["3"]);
        let with_vhost = all[0]
            .values()
            .map(|device| matches!(device, Device::Function { vhost_net: true, .. }));
        assert_eq!(with_vhost.collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn what_a_pod_holds_stays_in_its_pool() {
        let pools = pools(
            r#"{"resourceList": [
                {"resourceName": "a", "selectors": {"pfNames": ["pf0#0"]}},
                {"resourceName": "b", "selectors": {"pfNames": ["pf0"], "linkTypes": ["ether"], "needVhostNet": true}}]}"#,
        );
        let mut held = Held::default();
        held.add("intel.com/b", "0000:3b:02.0");
        held.add("intel.com/b", "0000:3b:02.1");
        held.add("intel.com/b", "0000:3b:02.9");
        held.add("intel.com/gone", "0000:3b:02.2");
        let away = Candidate {
            link_type: None,
            ..vf(1)
        };
        let all = assign(&pools, &[vf(0), away.clone(), vf(2)], Some(&held), &[]);
        assert_eq!(
            ids(&all[0]),
            [""; 0],
            "pool a selects VF 0, but a pod has it from b"
        );
        assert_eq!(ids(&all[1]), ["0", "1", "2"], "VF 9 vanished and is not made up");
        let Device::Function { vhost_net, .. } = &all[1]["0000:3b:02.1"] else {
            panic!("a function")
        };
        assert!(vhost_net);
        let freed = assign(&pools, &[vf(0), away], Some(&Held::default()), &all);
        assert_eq!(ids(&freed[0]), ["0"]);
        assert_eq!(ids(&freed[1]), [""; 0], "nobody holds it and nothing selects it");
    }

    #[test]
    fn nothing_moves_while_it_is_unknown_what_is_held() {
        let pools = pools(
            r#"{"resourceList": [{"resourceName": "a", "selectors": {"linkTypes": ["ether"]}}, {"resourceName": "b"}]}"#,
        );
        let before = assign(&pools, &[vf(0), vf(1)], Some(&Held::default()), &[]);
        let away = Candidate {
            link_type: None,
            healthy: false,
            ..vf(0)
        };
        let all = assign(&pools, &[away], None, &before);
        assert_eq!(
            (ids(&all[0]), ids(&all[1])),
            (vec!["0"], vec![]),
            "kept; VF 1 vanished"
        );
        assert!(!all[0]["0000:3b:02.0"].healthy());
    }

    #[test]
    fn af_xdp_needs_a_kernel_driver() {
        let pools = pools(
            r#"{"resourceList": [{"resourceName": "x", "deviceType": "afXdp"}, {"resourceName": "b"}]}"#,
        );
        let vfio = Candidate {
            driver: Some("vfio-pci".into()),
            ..vf(0)
        };
        let none = Candidate {
            driver: None,
            ..vf(2)
        };
        let all = assign(&pools, &[vfio, vf(1), none], None, &[]);
        assert_eq!((ids(&all[0]), ids(&all[1])), (vec!["1"], vec!["0", "2"]));
    }

    #[test]
    fn fewer_places_than_pods_hold() {
        let pools =
            pools(r#"{"resourceList": [{"resourceName": "p", "deviceType": "vhostUser", "count": 2}]}"#);
        let mut held = Held::default();
        held.add("intel.com/p", "p-7");
        held.add("intel.com/p", "q-8");
        let all = assign(&pools, &[vf(0)], Some(&held), &[]);
        assert_eq!(all[0].keys().collect::<Vec<_>>(), ["p-0", "p-1", "p-7"]);
    }
}
