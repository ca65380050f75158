#![allow(clippy::unwrap_used)]

mod model;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::*;

fn pools(yaml: &str) -> BTreeMap<Name, AddressPool> {
    let spec = clearway_config::Spec::from_yaml(&format!("address-pools:\n{yaml}"), "test.yaml");
    spec.unwrap_or_else(|errors| panic!("{errors}")).address_pools
}

fn holder(container: &str, interface: &str, pod: Option<&str>) -> Holder {
    Holder {
        id: AttachmentId {
            container: container.into(),
            interface: interface.into(),
        },
        pod: pod.map(|name| Pod {
            namespace: "default".into(),
            name: name.into(),
            uid: Some(container.into()),
        }),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The addresses that somebody gets, in words.
fn given(leases: &mut Leases, pools: &BTreeMap<Name, AddressPool>, holder: &Holder) -> String {
    match leases.allocate(pools, None, holder, &[]) {
        Ok((addresses, _)) => ips(&addresses)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
        Err(error) => error.to_string(),
    }
}

fn ips(addresses: &Addresses) -> Vec<IpAddr> {
    addresses.ips.iter().map(|one| one.address.addr()).collect()
}

/// What a daemon that starts again makes of the records.
fn restarted(leases: &Leases) -> Leases {
    fn read<T: Serialize + serde::de::DeserializeOwned>(records: impl Iterator<Item = T>) -> Vec<T> {
        let text = records.map(|record| serde_json::to_string(&record).unwrap());
        text.map(|text| serde_json::from_str(&text).unwrap()).collect()
    }
    let again = Leases::restore(
        read(leases.leases.values().cloned()),
        read(leases.sticky.values().cloned()),
    );
    assert_same(&again, leases);
    again
}

fn assert_same(a: &Leases, b: &Leases) {
    assert_eq!(a.leases, b.leases);
    assert_eq!(a.sticky, b.sticky);
    assert_eq!(a.taken, b.taken);
    assert_eq!(a.remembered, b.remembered);
    let away = |leases: &Leases| -> Vec<_> { leases.away.values().flat_map(|away| away.clone()).collect() };
    assert_eq!(away(a), away(b));
}

const BOTH: &str = "  pods:
    subnets:
      - {subnet: 10.9.0.0/28, gateway: 10.9.0.1, exclude: [10.9.0.3]}
      - {subnet: 'fd00::/64', gateway: 'fe80::1'}
    routes: [{to: 0.0.0.0/0}, {to: '::/0', via: 'fd00::9'}]
    reservations:
      - {pod: default/web-0, addresses: [10.9.0.5, 'fd00::50']}
      - {pod: default/web-1, interface: net1, addresses: [10.9.0.6]}
";

#[test]
fn an_interface_is_told_all_that_the_pool_knows() {
    let (pools, mut leases) = (pools(BOTH), Leases::default());
    let (addresses, changes) = leases
        .allocate(&pools, None, &holder("a", "eth0", None), &[])
        .unwrap();
    assert_eq!(
        serde_json::to_value(&addresses).unwrap(),
        serde_json::json!({
            "ips": [
                {"address": "10.9.0.2/28", "gateway": "10.9.0.1"},
                {"address": "fd00::1/64", "gateway": "fe80::1"},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}, {"dst": "::/0", "gw": "fd00::9"}],
        })
    );
    let [Change::Put(record)] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(
        (record.kind, record.key.as_str(), record.owner),
        (ObjectKind::Lease, "a/eth0", Owner::Cni)
    );
    // Of one family alone: no routes of the other.
    let wanted = [ip("fd00::7")];
    let (addresses, _) = leases
        .allocate(&pools, None, &holder("b", "eth0", None), &wanted)
        .unwrap();
    assert_eq!(ips(&addresses), wanted);
    assert_eq!(addresses.routes.len(), 1);
}

#[test]
fn routes_have_all_that_the_pool_says_of_them() {
    let pools = pools(
        "  p:
    subnets: [{subnet: 10.9.0.0/24, gateway: 10.9.0.1}, {subnet: 'fd00::/64', gateway: 'fd00::9'}]
    routes:
    - {to: 0.0.0.0/0, mtu: 1400, advmss: 1360}
    - {to: 0.0.0.0/0, via: 10.9.0.2, priority: 200, table: 7}
    - {to: 10.77.0.0/16, scope: link}
    - {to: '::/0', scope: global}
",
    );
    let (addresses, _) = Leases::default()
        .allocate(&pools, None, &holder("a", "eth0", None), &[])
        .unwrap();
    assert_eq!(
        serde_json::to_value(&addresses).unwrap()["routes"],
        serde_json::json!([
            {"dst": "0.0.0.0/0", "gw": "10.9.0.1", "mtu": 1400, "advmss": 1360},
            {"dst": "0.0.0.0/0", "gw": "10.9.0.2", "priority": 200, "table": 7},
            {"dst": "10.77.0.0/16", "scope": 253},
            {"dst": "::/0", "gw": "fd00::9", "scope": 0},
        ])
    );
}

#[test]
fn addresses_are_given_in_turn_and_remembered() {
    let (pools, mut leases) = (pools(BOTH), Leases::default());
    let a = holder("a", "eth0", Some("a"));
    assert_eq!(given(&mut leases, &pools, &a), "10.9.0.2 fd00::1");
    assert_eq!(
        given(&mut leases, &pools, &holder("b", "eth0", None)),
        "10.9.0.4 fd00::2"
    );
    leases.release(&a.id);
    leases.release(&holder("b", "eth0", None).id);
    // Not what was just given back, and not what is reserved.
    assert_eq!(
        given(&mut leases, &pools, &holder("c", "eth0", None)),
        "10.9.0.7 fd00::3"
    );
    // The same pod in another container.
    assert_eq!(
        given(&mut leases, &pools, &holder("d", "eth0", Some("a"))),
        "10.9.0.2 fd00::1"
    );
    // Its other interface is another.
    assert_eq!(
        given(&mut leases, &pools, &holder("d", "eth1", Some("a"))),
        "10.9.0.8 fd00::4"
    );
}

#[test]
fn reservations_are_kept() {
    let (pools, mut leases) = (pools(BOTH), Leases::default());
    let web0 = holder("a", "eth0", Some("web-0"));
    assert_eq!(given(&mut leases, &pools, &web0), "10.9.0.5 fd00::50");
    // Whichever interface asks first: the other gets any.
    assert_eq!(
        given(&mut leases, &pools, &holder("a", "eth1", Some("web-0"))),
        "10.9.0.2 fd00::1"
    );
    // The pod's next container, while the one before has the addresses still.
    let error = given(&mut leases, &pools, &holder("b", "eth0", Some("web-0")));
    assert!(
        error.starts_with("10.9.0.5 of the pool `pods` is taken by attachment a/eth0 (pod default/web-0)"),
        "{error}"
    );
    leases.release(&web0.id);
    assert_eq!(
        given(&mut leases, &pools, &holder("b", "eth0", Some("web-0"))),
        "10.9.0.5 fd00::50"
    );
    // For one interface of a pod, and of one family.
    assert_eq!(
        given(&mut leases, &pools, &holder("c", "eth0", Some("web-1"))),
        "10.9.0.4 fd00::2"
    );
    assert_eq!(
        given(&mut leases, &pools, &holder("c", "net1", Some("web-1"))),
        "10.9.0.6 fd00::3"
    );
}

#[test]
fn what_is_wanted_is_given_or_refused() {
    let (pools, mut leases) = (pools(BOTH), Leases::default());
    let mut ask = |container: &str, pod: Option<&str>, wanted: &[&str]| {
        let wanted: Vec<_> = wanted.iter().map(|text| ip(text)).collect();
        match leases.allocate(&pools, None, &holder(container, "eth0", pod), &wanted) {
            Ok((addresses, _)) => assert_eq!(ips(&addresses), wanted),
            Err(error) => return error.to_string(),
        }
        "given".to_owned()
    };
    assert_eq!(ask("a", Some("x"), &["fd00::8", "10.9.0.14"]), "given");
    for (wanted, error) in [
        (
            &["10.9.0.14"][..],
            "10.9.0.14 of the pool `pods` is taken by attachment a/eth0 (pod default/x); it is",
        ),
        (
            &["10.9.0.1"],
            "10.9.0.1 is no address that the pool `pods` gives out: it has 10.9.0.2, 10.9.0.4-10.9.0.14, fd00::1-",
        ),
        (&["10.9.0.3"], "10.9.0.3 is no address"),
        (&["10.9.0.15"], "10.9.0.15 is no address"),
        (&["10.9.1.2"], "10.9.1.2 is no address"),
        (
            &["10.9.0.9", "10.9.0.10"],
            "10.9.0.10 and 10.9.0.9 are of one family",
        ),
        (
            &["10.9.0.5"],
            "10.9.0.5 is reserved in the pool `pods` for the pod default/web-0",
        ),
        (&["10.9.0.9", "fd00::8"], "fd00::8 of the pool `pods` is taken"),
    ] {
        let said = ask("b", Some("web-1"), wanted);
        assert!(said.starts_with(error), "{said}");
    }
    assert_eq!(ask("b", Some("web-0"), &["10.9.0.5"]), "given");
    assert_eq!(
        ask("a", Some("x"), &["10.9.0.9"]),
        "attachment a/eth0 already has addresses of the pool `pods`; remove it first (CNI DEL)"
    );
}

#[test]
fn pools_are_named_or_the_only_one() {
    let two = pools("  a: {subnets: [{subnet: 10.1.0.0/24}]}\n  b: {subnets: [{subnet: 10.2.0.0/24}]}\n");
    let leases = Leases::default();
    let (b, c) = (Name::new("b").unwrap(), Name::new("c").unwrap());
    assert_eq!(leases.has_room(&two, Some(&b)), Ok(()));
    let missing = [
        leases.has_room(&two, Some(&c)).unwrap_err(),
        leases.has_room(&two, None).unwrap_err(),
        leases.has_room(&BTreeMap::new(), None).unwrap_err(),
        leases.has_room(&BTreeMap::new(), Some(&c)).unwrap_err(),
    ];
    assert!(missing.iter().all(IpamError::is_missing));
    let said = missing.map(|error| error.to_string());
    assert!(
        said[0].starts_with("there is no address pool `c`; there are `a`, `b`:"),
        "{said:?}"
    );
    assert!(said[1].ends_with("configuration: `a`, `b`"), "{said:?}");
    assert!(
        said[2].starts_with("there is no address pool; add one"),
        "{said:?}"
    );
}

#[test]
fn a_pool_that_is_full_says_so_and_gives_nothing() {
    let yaml = "  p: {subnets: [{subnet: 'fd00::/64'}, {subnet: 10.9.0.0/29, gateway: 10.9.0.1}], \
                reservations: [{pod: default/web-0, addresses: [10.9.0.6]}]}\n";
    let (pools, mut leases) = (pools(yaml), Leases::default());
    for n in 0..4 {
        assert_eq!(leases.has_room(&pools, None), Ok(()));
        leases
            .allocate(&pools, None, &holder(&format!("c{n}"), "eth0", None), &[])
            .unwrap();
    }
    let before = leases.clone();
    let error = leases
        .allocate(&pools, None, &holder("c5", "eth0", None), &[])
        .unwrap_err();
    assert_eq!(leases.has_room(&pools, None), Err(error));
    assert_eq!(
        given(&mut leases, &pools, &holder("c5", "eth0", None)),
        "the pool `p` is exhausted: of the 5 addresses of 10.9.0.0/29 that it gives out, 4 are leased and 1 are reserved for pods \
         that have others or are not here; make its `ranges` or the subnet larger, or remove attachments (`clearway get \
         attachments`)"
    );
    assert_same(&leases, &before);
    assert_eq!(
        given(&mut leases, &pools, &holder("w", "eth0", Some("web-0"))),
        "fd00::5 10.9.0.6"
    );
}

#[test]
fn a_remembered_address_is_given_to_others_last_and_the_oldest_first() {
    let (pools, mut leases) = (
        pools("  p: {subnets: [{subnet: 10.9.0.0/29}]}\n"),
        Leases::default(),
    );
    let all: Vec<_> = (1..=6)
        .map(|n| holder(&format!("c{n}"), "eth0", Some(&format!("pod{n}"))))
        .collect();
    for (n, holder) in (1..).zip(&all) {
        assert_eq!(given(&mut leases, &pools, holder), format!("10.9.0.{n}"));
    }
    for n in [3, 1, 5] {
        leases.release(&all[n - 1].id);
    }
    leases = restarted(&leases);
    assert_eq!(given(&mut leases, &pools, &holder("x", "eth0", None)), "10.9.0.3");
    assert_eq!(
        given(&mut leases, &pools, &holder("y", "eth0", Some("pod5"))),
        "10.9.0.5"
    );
    // Its address is gone, and so is the memory of it.
    assert_eq!(
        given(&mut leases, &pools, &holder("z", "eth0", Some("pod3"))),
        "10.9.0.1"
    );
    assert!(
        given(&mut leases, &pools, &holder("w", "eth0", Some("pod1")))
            .starts_with("the pool `p` is exhausted")
    );
}

#[test]
fn pods_that_a_reboot_ended_are_remembered() {
    let (pools, mut leases) = (
        pools("  p: {subnets: [{subnet: 10.9.0.0/24}]}\n"),
        Leases::default(),
    );
    for n in 1..4 {
        given(
            &mut leases,
            &pools,
            &holder(&format!("c{n}"), "eth0", Some(&format!("pod{n}"))),
        );
    }
    let mut leases = Leases::restore(Vec::new(), leases.sticky.values().cloned().collect());
    assert_eq!(
        given(&mut leases, &pools, &holder("d", "eth0", Some("new"))),
        "10.9.0.4"
    );
    assert_eq!(
        given(&mut leases, &pools, &holder("e", "eth0", Some("pod2"))),
        "10.9.0.2"
    );
}

#[test]
fn a_pods_next_container_may_come_before_the_last_one_went() {
    let (pools, mut leases) = (
        pools("  p: {subnets: [{subnet: 10.9.0.0/24}]}\n"),
        Leases::default(),
    );
    let (old, new) = (holder("old", "eth0", Some("a")), holder("new", "eth0", Some("a")));
    assert_eq!(given(&mut leases, &pools, &old), "10.9.0.1");
    assert_eq!(given(&mut leases, &pools, &new), "10.9.0.2");
    leases.release(&old.id);
    assert_eq!(given(&mut leases, &pools, &holder("b", "eth0", None)), "10.9.0.3");
    leases.release(&new.id);
    assert_eq!(
        given(&mut leases, &pools, &holder("later", "eth0", Some("a"))),
        "10.9.0.2"
    );
}

#[test]
fn a_pool_in_use_can_not_shrink() {
    let (before, mut leases) = (pools(BOTH), Leases::default());
    given(&mut leases, &before, &holder("a", "eth0", Some("a")));
    assert_eq!(leases.check(&before), Ok(()));
    for yaml in [
        "  other: {subnets: [{subnet: 10.9.0.0/28}]}\n",
        "  pods: {subnets: [{subnet: 10.9.0.0/28}]}\n",
        "  pods: {subnets: [{subnet: 10.9.0.0/28, gateway: 10.9.0.2}, {subnet: 'fd00::/64'}]}\n",
        "  pods: {subnets: [{subnet: 10.9.0.0/28, ranges: [10.9.0.4-10.9.0.9]}, {subnet: 'fd00::/64'}]}\n",
    ] {
        let error = leases.check(&pools(yaml)).unwrap_err().to_string();
        assert!(
            error.contains("of the pool `pods` is taken by attachment a/eth0 (pod default/a), and the new"),
            "{error}"
        );
    }
    let wider = "  pods: {subnets: [{subnet: 10.9.0.0/24}, {subnet: 'fd00::/48'}]}\n";
    assert_eq!(leases.check(&pools(wider)), Ok(()));
    leases.release(&holder("a", "eth0", None).id);
    assert_eq!(leases.check(&BTreeMap::new()), Ok(()));
}

#[test]
fn large_pools_are_as_quick_as_small_ones() {
    let pools = pools("  p: {subnets: [{subnet: 10.0.0.0/8}, {subnet: 'fd00::/64'}]}\n");
    let mut leases = Leases::default();
    let start = Instant::now();
    let all: Vec<_> = (0..10_000)
        .map(|n| holder(&format!("c{n}"), "eth0", Some(&format!("pod{n}"))))
        .collect();
    for holder in &all {
        leases.allocate(&pools, None, holder, &[]).unwrap();
    }
    assert_eq!(leases.taken.len(), 20_000);
    for holder in &all {
        leases.release(&holder.id);
    }
    assert!(leases.taken.is_empty());
    // No more is remembered than is to be.
    assert_eq!(
        (leases.sticky.len(), leases.remembered.len()),
        (REMEMBERED, 2 * REMEMBERED)
    );
    // Less than a second even so; going through a /8 once takes longer.
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn keys_of_the_store_are_unique() {
    let key = |namespace: &str, name: &str| Key {
        pool: Name::new("p").unwrap(),
        namespace: namespace.into(),
        name: name.into(),
        interface: "eth0".into(),
    };
    assert_eq!(key("default", "web-0").to_string(), "p/default/web-0/eth0");
    assert_ne!(key("a/b", "c").to_string(), key("a", "b/c").to_string());
    assert_ne!(key("a%2fb", "c").to_string(), key("a/b", "c").to_string());
}
