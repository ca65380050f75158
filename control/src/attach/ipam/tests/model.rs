//! The allocator against a model of it that is slow and plain, in any order of steps.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// This pod's container of this number asks, maybe for an address that ends so.
    Allocate(u8, Option<u8>, Option<u8>),
    Release(u8),
    /// It is not written down.
    Fails(Box<Step>),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let step = prop_oneof![
        5 => (0..14u8, option::of(0..8u8), option::weighted(0.15, 0..18u8)).prop_map(|(c, p, w)| Step::Allocate(c, p, w)),
        4 => (0..14u8).prop_map(Step::Release),
    ];
    prop_oneof![
        12 => step.clone(),
        2 => step.prop_map(|step| Step::Fails(Box::new(step))),
        1 => Just(Step::Restart),
    ]
}

/// Everything by lists and by going through all addresses.
#[derive(Clone, Debug, Default)]
struct Model {
    /// Container, pod, addresses.
    held: Vec<(u8, Option<u8>, Vec<IpAddr>)>,
    /// Who left when, with what; the last one is the one that left last.
    away: Vec<(u8, Vec<IpAddr>)>,
    /// When it was given what it is remembered with, by pod.
    newest: Vec<(u8, u32)>,
    /// When those that are held were given, in the same order.
    when: Vec<(u8, u32)>,
    given: u32,
}

const POOL: &str = "  p:
    subnets:
      - {subnet: 10.9.0.0/28, ranges: [10.9.0.1-10.9.0.6, 10.9.0.9-10.9.0.12], exclude: [10.9.0.5], gateway: 10.9.0.2}
      - {subnet: 'fd00::/124', gateway: 'fd00::1'}
    reservations: [{pod: default/pod0, addresses: [10.9.0.4]}, {pod: default/pod1, addresses: [10.9.0.14, 'fd00::8']}]
";

impl Model {
    /// The addresses that are reserved.
    const KEPT: [&str; 3] = ["10.9.0.4", "10.9.0.14", "fd00::8"];

    fn has(&self, ip: IpAddr) -> bool {
        self.held.iter().any(|held| held.2.contains(&ip))
    }

    /// Whom an address is kept for.
    fn kept(ip: IpAddr) -> Option<u8> {
        match ip.to_string().as_str() {
            "10.9.0.4" => Some(0),
            "10.9.0.14" | "fd00::8" => Some(1),
            _ => None,
        }
    }

    /// Those that anybody may get, of a family.
    fn all(ipv4: bool) -> Vec<IpAddr> {
        let v4 = [1, 3, 4, 6, 9, 10, 11, 12].map(|n| IpAddr::from([10, 9, 0, n]));
        let v6 = (2..16).map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]));
        let all: Vec<_> = if ipv4 { v4.into() } else { v6.collect() };
        all.into_iter().filter(|ip| Self::kept(*ip).is_none()).collect()
    }

    fn memory(&self, pod: Option<u8>, ipv4: bool) -> Option<IpAddr> {
        let (_, ips) = self.away.iter().find(|(other, _)| Some(*other) == pod)?;
        ips.iter().copied().find(|ip| ip.is_ipv4() == ipv4)
    }

    /// Whether this is an address that the pod may be given now.
    fn may(&self, pod: Option<u8>, ip: IpAddr) -> bool {
        let ipv4 = ip.is_ipv4();
        if self.has(ip) {
            return false;
        }
        let kept = Self::KEPT.map(super::ip);
        let kept = kept
            .into_iter()
            .find(|kept| kept.is_ipv4() == ipv4 && Self::kept(*kept) == pod);
        if pod.is_some()
            && let Some(kept) = kept
        {
            return ip == kept;
        }
        if let Some(had) = self
            .memory(pod, ipv4)
            .filter(|had| !self.has(*had) && Self::kept(*had).is_none())
        {
            return ip == had;
        }
        let free = |ip: &IpAddr| !self.has(*ip);
        let remembered = |ip: &IpAddr| self.away.iter().any(|(_, ips)| ips.contains(ip));
        let fresh: Vec<_> = Self::all(ipv4)
            .into_iter()
            .filter(|ip| free(ip) && !remembered(ip))
            .collect();
        if !fresh.is_empty() {
            return fresh.contains(&ip);
        }
        let oldest = self
            .away
            .iter()
            .flat_map(|(_, ips)| ips)
            .find(|ip| ip.is_ipv4() == ipv4 && free(ip) && Self::kept(**ip).is_none());
        oldest == Some(&ip)
    }

    fn give(&mut self, container: u8, pod: Option<u8>, ips: &[IpAddr]) {
        self.away
            .retain(|(other, had)| Some(*other) != pod && !had.iter().any(|ip| ips.contains(ip)));
        self.given += 1;
        self.newest.retain(|(other, _)| Some(*other) != pod);
        self.newest.extend(pod.map(|pod| (pod, self.given)));
        self.held.push((container, pod, ips.to_vec()));
        self.when.push((container, self.given));
    }

    fn release(&mut self, container: u8) {
        let Some(at) = self.held.iter().position(|held| held.0 == container) else {
            return;
        };
        let (_, pod, ips) = self.held.remove(at);
        let (_, when) = self.when.remove(at);
        let Some(pod) = pod else { return };
        // A container of the same pod that came later has its memory, also when it went before, until that is lost.
        let newest = self
            .newest
            .iter()
            .find(|(other, _)| *other == pod)
            .map(|newest| newest.1);
        let there = self.when.iter().any(|when| Some(when.1) == newest);
        let away = self.away.iter().any(|(other, _)| *other == pod);
        if newest <= Some(when) || !(there || away) {
            self.away.retain(|(other, _)| *other != pod);
            self.newest.retain(|(other, _)| *other != pod);
            self.newest.push((pod, when));
            self.away.push((pod, ips));
        }
    }
}

fn who(container: u8, pod: Option<u8>) -> Holder {
    holder(
        &format!("c{container}"),
        "eth0",
        pod.map(|n| format!("pod{n}")).as_deref(),
    )
}

/// Asks both, with a certain address or without.
fn allocate(
    step: &Step,
    (container, pod, wanted): (u8, Option<u8>, Option<u8>),
    leases: &mut Leases,
    model: &mut Model,
    pools: &BTreeMap<Name, AddressPool>,
) {
    let ask: Vec<_> = wanted.iter().map(|n| IpAddr::from([10, 9, 0, *n])).collect();
    let there = model.held.iter().any(|held| held.0 == container);
    match leases.allocate(pools, None, &who(container, pod), &ask) {
        Ok((addresses, _)) => {
            let ips = ips(&addresses);
            assert!(!there);
            if ask.is_empty() {
                assert_eq!(ips.len(), 2);
                for ip in &ips {
                    assert!(model.may(pod, *ip), "{step:?} got {ip} of {model:?}");
                }
            } else {
                assert_eq!(ips, ask);
                for ip in &ips {
                    assert!(!model.has(*ip));
                    let kept = Model::kept(*ip);
                    assert!(kept.is_some_and(|kept| Some(kept) == pod) || Model::all(true).contains(ip));
                }
            }
            model.give(container, pod, &ips);
        }
        Err(error) if there => assert!(matches!(error, IpamError::Leased { .. }), "{error}"),
        Err(error) if ask.is_empty() => {
            let none = |ipv4: bool| {
                let kept = Model::KEPT.map(ip).into_iter().filter(|ip| ip.is_ipv4() == ipv4);
                let mut all = Model::all(ipv4).into_iter().chain(kept);
                !all.any(|ip| model.may(pod, ip))
            };
            assert!(none(true) || none(false), "{step:?} got {error} of {model:?}");
        }
        Err(error) => {
            let ip = ask[0];
            let right = model.has(ip)
                || !Model::all(true).contains(&ip) && Model::kept(ip) != pod
                || Model::kept(ip).is_none() && !Model::all(true).contains(&ip);
            assert!(right, "{step:?} got {error} of {model:?}");
        }
    }
}

fn run(step: &Step, leases: &mut Leases, model: &mut Model, pools: &BTreeMap<Name, AddressPool>) {
    match step {
        Step::Allocate(container, pod, wanted) => {
            allocate(step, (*container, *pod, *wanted), leases, model, pools);
        }
        Step::Release(container) => {
            leases.release(&who(*container, None).id);
            model.release(*container);
        }
        Step::Fails(step) => {
            let before = leases.clone();
            run(step, leases, &mut model.clone(), pools);
            leases.undo();
            assert_same(leases, &before);
            assert_eq!(leases.last, before.last);
        }
        Step::Restart => *leases = restarted(leases),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_allocator_does_what_the_model_says(steps in vec(step(), 1..80)) {
        let pools = pools(POOL);
        let (mut leases, mut model) = (Leases::default(), Model::default());
        for step in &steps {
            run(step, &mut leases, &mut model, &pools);
            let held: BTreeSet<_> = model.held.iter().flat_map(|held| held.2.clone()).collect();
            prop_assert_eq!(&leases.taken.keys().copied().collect::<BTreeSet<_>>(), &held);
            prop_assert_eq!(held.len(), model.held.iter().map(|held| held.2.len()).sum::<usize>());
            prop_assert!(held.iter().all(|ip| pools[&Name::new("p").unwrap()].contains(*ip)));
            prop_assert!(leases.check(&pools).is_ok());
        }
        for container in 0..14 {
            leases.release(&who(container, None).id);
        }
        prop_assert!(leases.taken.is_empty() && leases.leases.is_empty());
        // Nobody's memory keeps anybody out.
        for n in 0..7 {
            let new = holder(&format!("new{n}"), "eth0", None);
            let given = leases.allocate(&pools, None, &new, &[]);
            prop_assert!(given.is_ok(), "{:?}", given);
        }
        prop_assert!(leases.has_room(&pools, None).is_err());
    }
}
