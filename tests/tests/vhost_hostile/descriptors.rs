//! A daemon that has no descriptors left.

use crate::scene::{PATIENCE, PROTOCOL, Scene, options};
use clearway_tests::{Daemon, command, wait_for};
use clearway_virtio_mock::{FrontEnd, Guest};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Processor time of the daemon's threads with this name so far, in ticks of 10 ms.
fn ticks(pid: u32, name: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let named = stats.filter_map(|stat| {
        let (head, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<_> = rest.split(' ').collect();
        // utime and stime, proc_pid_stat(5).
        let sum = fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?;
        head.ends_with(&format!("({name}")).then_some(sum)
    });
    named.sum()
}

/// The first number that no descriptor has: with this as its limit, a process gets no more.
fn first_free(pid: u32) -> u64 {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let taken: BTreeSet<u64> = open
        .filter_map(|fd| fd.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    (0..).find(|number| !taken.contains(number)).unwrap_or_default()
}

/// The soft limit alone.
fn limit(pid: u32, files: u64) {
    command(&format!("prlimit --pid {pid} --nofile={files}:")).ok();
}

fn soft_limit(pid: u32) -> u64 {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    soft.expect("a limit of open files")
}

/// One port without a guest, one with, and the API: what connects waits, costs nothing, is told of once, and is served
/// when there are descriptors again.
pub fn are_waited_for(scene: &Scene, daemon: &mut Daemon<'_>) {
    let pid = daemon.proc().pid();
    let there = scene.start_guest("w0", 2);
    let before = soft_limit(pid);
    limit(pid, first_free(pid));
    let mut first = FrontEnd::connect(&scene.path("h0")).expect("a place in the queue");
    let second = FrontEnd::connect(&scene.path("w0")).expect("a place in the queue");
    let api = UnixStream::connect(daemon.socket()).expect("a place in the queue");
    let refused = |daemon: &mut Daemon<'_>| {
        let log = daemon.proc().log().join("\n");
        log.matches("accepting a connection on").count()
    };
    wait_for("three sockets say that they can't", PATIENCE, || {
        (refused(daemon) == 3).then_some(())
    });
    let (guests, others) = (ticks(pid, "vhost-user"), ticks(pid, "api"));
    std::thread::sleep(Duration::from_secs(3));
    let spent = (ticks(pid, "vhost-user") - guests, ticks(pid, "api") - others);
    assert!(spent.0 < 20 && spent.1 < 20, "{spent:?} ticks of nothing to do");
    assert_eq!(refused(daemon), 3, "each says it once");
    let log = daemon.proc().log().join("\n");
    assert!(
        log.contains("--nofile=NUMBER") && log.contains("LimitNOFILE="),
        "{log}"
    );
    limit(pid, before);
    let guest = Guest::new(&options(false));
    first.start(&guest, PROTOCOL).expect("it is served");
    assert!(second.closes(), "the other port has its guest");
    drop((there, api));
    assert_eq!(daemon.api("GET", "/v1/ports", "").0, 200);
}
