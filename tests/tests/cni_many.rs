//! Many pods at once: 200 attachments made and removed in parallel, while two others talk.

use clearway_tests::{CniNetwork, Container, Node, PingProbe, ready};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PODS: usize = 20;
const INTERFACES: usize = 10;

/// Has all plugins run at the same time.
#[track_caller]
fn at_once<T: Send>(
    jobs: &[(&CniNetwork<'_>, Container)],
    verb: impl Fn(&CniNetwork<'_>, &Container) -> T + Sync,
) -> Vec<T> {
    let started = Instant::now();
    let verb = &verb;
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = jobs
            .iter()
            .map(|(network, container)| scope.spawn(move || verb(network, container)))
            .collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    eprintln!("{} at once: {:?}", jobs.len(), started.elapsed());
    results
}

fn addresses(result: &Value) -> impl Iterator<Item = String> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str().map(str::to_owned))
}

#[test]
fn two_hundred_at_once() {
    if !ready() {
        return;
    }
    let node = Node::new(PODS + 2);
    let daemon = node.daemon_of(&node.config_with_pool_of(200));
    let mut theirs = node.host_local();
    theirs["routes"] = json!([]);
    let pool = json!({"type": "clearway", "pool": "pods"});
    let network = |mode: &str, ipam: &Value| node.network("1.0.0", json!({"mode": mode, "ipam": ipam}));
    // Two that talk through it all.
    let talkers = network("veth", &theirs);
    let (a, b) = (node.container(PODS), node.container(PODS + 1));
    let mut seen: BTreeSet<String> = addresses(&talkers.add(&a).expect("attached")).collect();
    let to: Vec<_> = addresses(&talkers.add(&b).expect("attached")).collect();
    let probe_to = to[0].split('/').next().unwrap_or_default().to_owned();
    seen.extend(to);
    let probe = PingProbe::start(node.pod(PODS), &probe_to, Duration::from_millis(20));

    let networks: Vec<_> = ["veth", "tap", "vhost-user"]
        .iter()
        .flat_map(|mode| [network(mode, &theirs), network(mode, &pool)])
        .collect();
    let jobs: Vec<_> = (0..PODS * INTERFACES)
        .map(|n| {
            let container = node.container(n % PODS).interface(&format!("net{}", n / PODS));
            (&networks[n % networks.len()], container)
        })
        .collect();
    for result in at_once(&jobs, |network, container| network.add(container)) {
        let result = result.unwrap_or_else(|failure| panic!("{failure:#?}"));
        let mut count = 0;
        for address in addresses(&result) {
            assert!(seen.insert(address.clone()), "{address} was given away twice");
            count += 1;
        }
        assert_eq!(count, 2, "{result}");
    }
    assert_eq!(
        daemon.get("attachments").as_array().map(Vec::len),
        Some(jobs.len() + 2)
    );
    for result in at_once(&jobs, |network, container| network.check(container)) {
        result.unwrap_or_else(|failure| panic!("{failure:#?}"));
    }
    for result in at_once(&jobs, |network, container| network.del(container)) {
        result.unwrap_or_else(|failure| panic!("{failure:#?}"));
    }
    let report = probe.stop();
    assert!(
        report.sent > 50 && report.lost() <= 1 && report.duplicates == 0,
        "they talked all the time: {report:?}"
    );
    talkers.del(&a).expect("removed");
    talkers.del(&b).expect("removed");
    node.assert_clean(&daemon);
    daemon.stop();
}

/// What a DEL leaves to be closed behind its answer is closed: descriptors and threads of the daemon are as many as before.
#[test]
fn nothing_of_a_pod_stays_in_the_daemon() {
    if !ready() {
        return;
    }
    let node = Node::new(1);
    let mut daemon = node.daemon();
    let pid = daemon.proc().pid();
    let entries =
        |folder: &str| std::fs::read_dir(format!("/proc/{pid}/{folder}")).map_or(0, Iterator::count);
    let held = || (entries("fd"), entries("task"));
    let settled = |wanted: Option<(usize, usize)>| {
        let end = Instant::now() + Duration::from_secs(20);
        let (mut before, mut now) = ((0, 0), held());
        while Instant::now() < end && (wanted.map_or(before != now, |wanted| now != wanted)) {
            std::thread::sleep(Duration::from_millis(500));
            (before, now) = (now, held());
        }
        now
    };
    for mode in ["veth", "tap"] {
        let network = node.network("1.0.0", json!({"mode": mode}));
        let live_and_die = |times: usize| {
            for _ in 0..times {
                network.add(&node.container(0)).expect("attached");
                network.del(&node.container(0)).expect("removed");
            }
        };
        // What is kept for the next pod is there then.
        live_and_die(3);
        let kept = settled(None);
        live_and_die(20);
        let after = settled(Some(kept));
        assert_eq!(after, kept, "{mode}: descriptors and threads of the daemon");
    }
    node.assert_clean(&daemon);
    daemon.stop();
}

/// The same attachment asked for by many at once: one gets it, and one DEL is enough.
#[test]
fn the_same_one_many_times() {
    if !ready() {
        return;
    }
    let node = Node::new(1);
    let daemon = node.daemon();
    for mode in ["veth", "tap", "vhost-user"] {
        // Without an IPAM plugin: host-local's own answer to a second ADD is not ours to judge.
        let network = node.network("1.0.0", json!({"mode": mode}));
        let jobs: Vec<_> = (0..12).map(|_| (&network, node.container(0))).collect();
        let results = at_once(&jobs, |network, container| network.add(container));
        let mut codes: Vec<_> = results
            .iter()
            .map(|result| result.as_ref().map_or_else(|f| f.code, |_| 0))
            .collect();
        codes.sort_unstable();
        assert_eq!(codes, [&[0][..], &[102; 11]].concat(), "{results:#?}");
        network.check(&node.container(0)).expect("whole");
        for result in at_once(&jobs, |network, container| network.del(container)) {
            result.unwrap_or_else(|failure| panic!("{failure:#?}"));
        }
        node.assert_clean(&daemon);
    }
    daemon.stop();
}
