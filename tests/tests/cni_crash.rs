//! Plugins and daemons killed at any moment of ADD and DEL: when all is deleted in the end, nothing is left.

use clearway_tests::{Container, Daemon, Node, ready, wait_for};
use serde_json::{Value, json};
use std::process::Child;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// Longer than an ADD takes here.
const SPAN_MS: u64 = 160;
/// As many as there are pods with addresses of the pool, so that one that is lost is missed.
const ADDRESSES: u8 = 3;

#[track_caller]
fn start(node: &Node) -> Daemon<'_> {
    node.daemon_of(&node.config_with_pool_of(ADDRESSES))
}

/// A sequence that looks random and is the same in every run (xorshift64, Marsaglia 2003).
struct Moments(u64);

impl Moments {
    fn next(&mut self) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // Squared: most of an ADD happens early.
        let part = (self.0 % 1000) * (self.0 % 1000);
        Duration::from_micros(part * SPAN_MS / 1000)
    }
}

/// The kinds of attachments, with addresses from host-local and from the daemon's pool.
fn fields(node: &Node, n: usize) -> Value {
    let mode = ["veth", "tap", "vhost-user"][n % 3];
    let ipam = match n % 2 {
        0 => node.host_local(),
        _ => json!({"type": "clearway", "pool": "pods"}),
    };
    let mut fields = json!({"mode": mode, "ipam": ipam});
    // One with its socket where the network wants it, as userspace-cni's are.
    if n == 5 {
        let shared = node.folder().join("shared");
        std::fs::create_dir_all(&shared).expect("a folder");
        fields["sharedDir"] = json!(shared);
    }
    fields
}

/// Deletes until all are gone, as a runtime does.
#[track_caller]
fn delete_all(node: &Node, containers: &[Container]) {
    for (n, container) in containers.iter().enumerate() {
        let network = node.network("1.0.0", fields(node, n));
        let end = Instant::now() + SOON;
        while let Err(failure) = network.del(container) {
            assert!(
                Instant::now() < end,
                "{container:?} cannot be deleted: {failure:?}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Nothing is left, neither with this daemon nor with the next one.
#[track_caller]
fn assert_gone(node: &Node, mut daemon: Daemon<'_>) {
    wait_for("all to be gone", SOON, || {
        let left = node.left(&daemon);
        if !left.is_empty() {
            eprintln!("still there: {left:?}");
            std::thread::sleep(Duration::from_millis(500));
        }
        left.is_empty().then_some(())
    });
    assert!(daemon.terminate().success());
    let daemon = start(node);
    node.assert_clean(&daemon);
    // Every address of the pool is there to be had.
    let network = node.network(
        "1.0.0",
        json!({"mode": "vhost-user", "ipam": {"type": "clearway", "pool": "pods"}}),
    );
    let jobs: Vec<_> = (0..ADDRESSES)
        .map(|n| node.container(0).interface(&format!("net{n}")))
        .collect();
    for container in &jobs {
        network.add(container).expect("no address is lost");
    }
    for container in &jobs {
        network.del(container).expect("removed");
    }
    node.assert_clean(&daemon);
    daemon.stop();
}

/// ADDs of all containers, then DELs of all, and again: the one of this round, and what it is.
fn start_one(node: &Node, containers: &[Container], round: usize) -> (&'static str, Child) {
    let n = round % containers.len();
    let verb = ["ADD", "DEL"][round / containers.len() % 2];
    let network = node.network("1.0.0", fields(node, n));
    (verb, network.start(verb, &containers[n]))
}

#[test]
fn plugins_are_killed() {
    if !ready() {
        return;
    }
    let node = Node::new(6);
    let daemon = start(&node);
    let containers: Vec<_> = (0..6).map(|n| node.container(n)).collect();
    let mut moments = Moments(0x1234_5678_9abc_def1);
    let mut unfinished = 0;
    for round in 0..60 {
        let (_, mut plugin) = start_one(&node, &containers, round);
        std::thread::sleep(moments.next());
        unfinished += u32::from(matches!(plugin.try_wait(), Ok(None)));
        let _ = plugin.kill();
        let _ = plugin.wait();
    }
    assert!(
        unfinished > 10,
        "more must be killed in the middle: {unfinished} of 60"
    );
    delete_all(&node, &containers);
    assert_gone(&node, daemon);
}

#[test]
fn daemons_are_killed() {
    if !ready() {
        return;
    }
    let node = Node::new(6);
    let mut daemon = start(&node);
    let containers: Vec<_> = (0..6).map(|n| node.container(n)).collect();
    let mut moments = Moments(0x0fed_cba9_8765_4321);
    let mut unfinished = 0;
    for round in 0..60 {
        let (verb, mut plugin) = start_one(&node, &containers, round);
        std::thread::sleep(moments.next());
        unfinished += u32::from(matches!(plugin.try_wait(), Ok(None)));
        daemon.kill();
        let status = wait_for("the plugin to end without its daemon", SOON, || {
            plugin.try_wait().ok().flatten()
        });
        eprintln!("{round} {verb}: {status}");
        daemon = start(&node);
    }
    assert!(
        unfinished > 10,
        "more must be killed in the middle: {unfinished} of 60"
    );
    delete_all(&node, &containers);
    assert_gone(&node, daemon);
}
