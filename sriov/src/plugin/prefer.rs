//! Which of the free devices a container should get.
//!
//! The kubelet has the last word, and asks only after its topology manager has left what it lets be chosen from.

use std::collections::{BTreeMap, BTreeSet};

use super::assign::Devices;
use super::pool::Policy;

/// `size` of the `available` devices, `must` among them: on one NUMA node if one has enough, and there packed or spread over PFs.
/// Fewer, if there are no more.
pub fn prefer(
    devices: &Devices,
    available: &[String],
    must: &[String],
    size: usize,
    policy: Policy,
) -> Vec<String> {
    let mut chosen: Vec<&String> = Vec::new();
    let mut taken: BTreeSet<&String> = BTreeSet::new();
    for id in must {
        if taken.insert(id) {
            chosen.push(id);
        }
    }
    // Free ones by node, and there by PF.
    let mut nodes: BTreeMap<Option<u32>, Free<'_>> = BTreeMap::new();
    for id in available {
        if taken.insert(id) {
            let device = devices.get(id);
            let node = device.and_then(|device| device.numa());
            let root = device.and_then(|device| device.root());
            nodes.entry(node).or_default().entry(root).or_default().push(id);
        }
    }
    let must_nodes: BTreeSet<_> = chosen
        .iter()
        .filter_map(|id| devices.get(*id))
        .map(|device| device.numa())
        .collect();
    while chosen.len() < size && !nodes.is_empty() {
        let need = size - chosen.len();
        let free = |node: &Option<u32>| {
            nodes
                .get(node)
                .map_or(0, |free| free.values().map(Vec::len).sum())
        };
        let near = nodes
            .keys()
            .filter(|node| must_nodes.contains(node))
            .map(|node| (*node, free(node)));
        let far = nodes.keys().map(|node| (*node, free(node)));
        let Some(node) = fitting(near, need, policy).or_else(|| fitting(far, need, policy)) else {
            break;
        };
        let mut free = nodes.remove(&node).unwrap_or_default();
        match policy {
            Policy::Packed => pack(&mut free, need, devices, &mut chosen),
            Policy::Spread => spread(&mut free, need, devices, &mut chosen),
        }
    }
    chosen.into_iter().cloned().collect()
}

/// Free devices by PF.
type Free<'a> = BTreeMap<Option<&'a str>, Vec<&'a String>>;

/// Packed: the smallest that has enough. Spread, or if none has: the largest.
fn fitting<K: Copy>(groups: impl Iterator<Item = (K, usize)>, need: usize, policy: Policy) -> Option<K> {
    let groups: Vec<_> = groups.collect();
    let enough = groups
        .iter()
        .filter(|(_, free)| *free >= need)
        .min_by_key(|(_, free)| *free);
    // The first of those that are equal: `max_by_key` would take the last.
    let largest = groups.iter().rev().max_by_key(|(_, free)| *free);
    let packed = enough.filter(|_| policy == Policy::Packed);
    packed.or(largest).map(|(key, _)| *key)
}

fn pack<'a>(free: &mut Free<'a>, mut need: usize, devices: &Devices, chosen: &mut Vec<&'a String>) {
    let used: BTreeSet<_> = chosen.iter().filter_map(|id| devices.get(*id)?.root()).collect();
    while need > 0 && !free.is_empty() {
        let size = |(root, ids): (&Option<&'a str>, &Vec<&'a String>)| (*root, ids.len());
        let near = free
            .iter()
            .filter(|(root, _)| root.is_some_and(|root| used.contains(root)))
            .map(size);
        let near = fitting(near, need, Policy::Packed);
        let Some(root) = near.or_else(|| fitting(free.iter().map(size), need, Policy::Packed)) else {
            return;
        };
        let ids = free.remove(&root).unwrap_or_default();
        let take = need.min(ids.len());
        chosen.extend(&ids[..take]);
        need -= take;
    }
}

fn spread<'a>(free: &mut Free<'a>, mut need: usize, devices: &Devices, chosen: &mut Vec<&'a String>) {
    let mut given: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for id in chosen.iter() {
        let root = devices
            .get(*id)
            .and_then(|device| device.root())
            .map(str::to_owned);
        *given.entry(root).or_default() += 1;
    }
    while need > 0 {
        let rank = |root: &Option<&str>, ids: &Vec<&String>| {
            let of = given.get(&root.map(str::to_owned)).copied().unwrap_or_default();
            (of, std::cmp::Reverse(ids.len()))
        };
        let next = free
            .iter()
            .filter(|(_, ids)| !ids.is_empty())
            .min_by_key(|(root, ids)| rank(root, ids));
        let Some(root) = next.map(|(root, _)| *root) else {
            return;
        };
        if let Some(ids) = free.get_mut(&root) {
            chosen.push(ids.remove(0));
        }
        *given.entry(root.map(str::to_owned)).or_default() += 1;
        need -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{Candidate, Device};

    /// `pf` has `vfs`, on `numa`: a0, a1, …
    fn add(devices: &mut Devices, pf: &str, numa: Option<u32>, vfs: u32) {
        for index in 0..vfs {
            let function = Candidate {
                pci: format!("{pf}{index}"),
                root_device: Some(pf.into()),
                vf_index: Some(index),
                numa,
                healthy: true,
                ..Candidate::default()
            };
            let device = Device::Function {
                function: Box::new(function),
                rdma: false,
                vhost_net: false,
            };
            devices.insert(format!("{pf}{index}"), device);
        }
    }

    fn host() -> Devices {
        let mut devices = Devices::new();
        add(&mut devices, "a", Some(0), 4);
        add(&mut devices, "b", Some(0), 4);
        add(&mut devices, "c", Some(1), 3);
        devices
    }

    fn asked(available: &str, must: &str, size: usize, policy: Policy) -> String {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        prefer(&host(), &list(available), &list(must), size, policy).join(" ")
    }

    #[test]
    fn packed_takes_the_smallest_that_has_enough() {
        let all = "a0 a1 a2 a3 b2 b3 c0 c1 c2";
        assert_eq!(asked(all, "", 1, Policy::Packed), "c0", "the smaller node");
        assert_eq!(asked(all, "", 3, Policy::Packed), "c0 c1 c2");
        assert_eq!(asked(all, "", 4, Policy::Packed), "a0 a1 a2 a3", "one PF");
        assert_eq!(
            asked("a0 a1 a2 a3 b2 b3", "", 2, Policy::Packed),
            "b2 b3",
            "the fuller PF"
        );
        assert_eq!(asked("a0 a1 a2 b0 b1", "", 4, Policy::Packed), "a0 a1 a2 b0");
    }

    #[test]
    fn spread_takes_the_largest_and_turns() {
        let all = "a0 a1 a2 a3 b2 b3 c0 c1 c2";
        assert_eq!(asked(all, "", 1, Policy::Spread), "a0");
        assert_eq!(asked(all, "", 4, Policy::Spread), "a0 b2 a1 b3");
        assert_eq!(asked(all, "a3", 2, Policy::Spread), "a3 b2");
    }

    #[test]
    fn one_node_before_anything_else() {
        for policy in [Policy::Packed, Policy::Spread] {
            assert_eq!(asked("a0 c0 c1 c2", "", 3, policy), "c0 c1 c2", "{policy:?}");
            assert_eq!(asked("a0 b0 c0 c1 c2", "a1", 2, policy).split(' ').count(), 2);
            assert!(
                !asked("a0 b0 c0 c1 c2", "a1", 3, policy).contains('c'),
                "{policy:?}: the node of a1"
            );
            assert_eq!(
                asked("a0 a1 c0", "", 3, policy),
                "a0 a1 c0",
                "{policy:?}: no node has enough"
            );
        }
    }

    #[test]
    fn what_must_be_is_first_and_once() {
        for policy in [Policy::Packed, Policy::Spread] {
            assert_eq!(asked("a0 a1", "a1 a1", 1, policy), "a1");
            assert_eq!(asked("a0 a1", "a1", 2, policy), "a1 a0");
            assert_eq!(asked("a0", "", 3, policy), "a0", "there are no more");
            assert_eq!(
                asked("x y", "z", 2, policy),
                "z x",
                "unknown ones are devices all the same"
            );
            assert_eq!(asked("a0 a1", "", 0, policy), "");
        }
        assert_eq!(asked("a2 b0", "b3", 2, Policy::Packed), "b3 b0", "the PF of b3");
    }
}
