//! The life of interfaces and daemons: what is missing, goes away, comes back, belongs to somebody else or is not
//! permitted is said clearly, and does not disturb the rest.

use clearway_tests::{
    Daemon, DaemonBuilder, Flow, Netns, Ping, Pods, Proc, Veth, foreign_xdp, ready, tcp_echo, wait_for,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Pods 0 to n-1 as access ports of one domain; `extra` is added to every port.
fn lan(ports: usize, extra: &str) -> String {
    let ports: String = (0..ports)
        .map(|n| format!("  pod{n}: {{kind: af-xdp, interface: p{n}, access: lan{extra}}}\n"))
        .collect();
    format!("ports:\n{ports}bridge-domains:\n  lan: {{}}\n")
}

fn port(daemon: &Daemon<'_>, name: &str) -> Value {
    let ports = daemon.get("ports");
    let list = ports.as_array().unwrap_or_else(|| panic!("not a list: {ports}"));
    list.iter()
        .find(|p| p["name"] == name)
        .cloned()
        .unwrap_or_else(|| panic!("no port {name}: {ports}"))
}

#[track_caller]
fn wait_state(daemon: &Daemon<'_>, name: &str, state: &str) -> Value {
    wait_for(&format!("port {name} is {state}"), SOON, || {
        let port = port(daemon, name);
        (port["state"] == state).then_some(port)
    })
}

/// Starts a daemon in which `name` cannot work, and returns what is said about it: by a daemon that gives up, or by
/// the port of one that goes on.
#[track_caller]
fn refusal(builder: DaemonBuilder<'_>, name: &str) -> String {
    let mut daemon = builder.spawn();
    wait_for("a refusal", SOON, || {
        if let Some(status) = daemon.proc().ended() {
            assert!(!status.success(), "ended well: {}", daemon.proc().tail());
            let log = daemon.proc().log().join("\n");
            assert!(!log.contains("panicked"), "{log}");
            return Some(log);
        }
        let out = daemon.try_cli(&format!("get ports {name} -o json"));
        let text = out.stdout.contains("\"down\"").then_some(out.stdout)?;
        Some(text)
    })
}

#[test]
fn a_missing_interface_is_waited_for() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    let late = Netns::new("late");
    let mut daemon = DaemonBuilder::config(&pods.fwd, &lan(3, "")).spawn();
    wait_for("the daemon answers", SOON, || {
        (daemon.try_cli("get ports").code == 0).then_some(())
    });
    Ping::new(&Pods::ip4(1)).until(pods.pod(0), SOON);
    let down = wait_state(&daemon, "pod2", "down");
    assert!(
        down["reason"].to_string().contains("p2"),
        "the reason names the interface: {down}"
    );
    assert!(down["mtu"].is_null(), "there is nothing to have one: {down}");

    let flow = Flow::start(pods.pod(0), pods.pod(1), &Pods::ip4(1), 1000, 100);
    Veth::new((&late, "eth0"), (&pods.fwd, "p2")).up();
    late.addr("eth0", "10.0.0.3/24");
    let up = wait_state(&daemon, "pod2", "up");
    assert_eq!(up["mtu"], 1500, "{up}");
    daemon.wait_ready();
    Ping::new("10.0.0.1").until(&late, SOON);
    Ping::new("10.0.0.1").all(&late);
    flow.run(Duration::from_millis(200)).assert_whole();
    daemon.assert_ledger();
}

#[test]
fn an_interface_that_goes_down_comes_back() {
    if !ready() {
        return;
    }
    let pods = Pods::new(3);
    let daemon = Daemon::start(&pods.fwd, &lan(3, ""));
    let flow = Flow::start(pods.pod(0), pods.pod(1), &Pods::ip4(1), 1000, 100);
    for _ in 0..3 {
        Ping::new(&Pods::ip4(2)).until(pods.pod(0), SOON);
        pods.fwd.run("ip link set p2 down");
        let down = wait_state(&daemon, "pod2", "down");
        assert!(down["reason"].is_string(), "{down}");
        Ping::new(&Pods::ip4(2)).args("-c 1 -W 0.2").none(pods.pod(0));
        pods.fwd.run("ip link set p2 up");
        wait_state(&daemon, "pod2", "up");
    }
    // The other end going down is a lost carrier.
    pods.pod(2).run("ip link set eth0 down");
    wait_state(&daemon, "pod2", "down");
    pods.pod(2).run("ip link set eth0 up");
    wait_state(&daemon, "pod2", "up");
    Ping::new(&Pods::ip4(2)).until(pods.pod(0), SOON);
    flow.run(Duration::from_millis(100)).assert_whole();
    daemon.assert_ledger();
}

#[test]
fn an_interface_that_is_deleted_comes_back() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    // The third interface is not there yet: no line `ready`.
    let daemon = DaemonBuilder::config(&pods.fwd, &lan(3, "")).spawn();
    Ping::new(&Pods::ip4(1)).until(pods.pod(0), SOON);
    let flow = Flow::start(pods.pod(0), pods.pod(1), &Pods::ip4(1), 1000, 100);
    for round in 0..5 {
        let pod = Netns::new("again");
        Veth::new((&pod, "eth0"), (&pods.fwd, "p2")).up();
        pod.addr("eth0", "10.0.0.3/24");
        wait_state(&daemon, "pod2", "up");
        Ping::new("10.0.0.1").until(&pod, SOON);
        tcp_echo(&pod, pods.pod(0), &Pods::ip4(0), 200_000);
        if round % 2 == 0 {
            pods.fwd.run("ip link del p2");
        }
        // Else it goes with its pod's namespace.
        drop(pod);
        let down = wait_state(&daemon, "pod2", "down");
        assert!(down["reason"].to_string().contains("p2"), "{down}");
    }
    flow.run(Duration::from_millis(100)).assert_whole();
    daemon.assert_ledger();
    daemon.stop();
}

#[test]
fn two_daemons_do_not_share_an_interface() {
    if !ready() {
        return;
    }
    let pods = Pods::new(3);
    let mut daemon = Daemon::start(&pods.fwd, &lan(2, ""));
    let pid = daemon.proc().pid();
    let flow = Flow::start(pods.pod(0), pods.pod(1), &Pods::ip4(1), 1000, 100);
    // A program that comes or goes, an offload that changes: each is told to whoever listens.
    let monitor = Proc::start(&pods.fwd, &["ip", "monitor", "link"]);
    wait_for("the monitor listens", SOON, || {
        pods.fwd.run("ip link set p2 alias new");
        (!monitor.log().is_empty()).then_some(())
    });
    // The rest of what it says of that.
    std::thread::sleep(Duration::from_millis(200));
    let before = monitor.log();
    // Comes before the port that is refused, so it would be opened first.
    let other = "ports:\n  a: {kind: af-xdp, interface: p2, access: lan}\n";
    let second = lan(1, "").replace("ports:\n", other);
    let elsewhere = tempfile::tempdir().expect("a folder");
    let locks = pods.fwd.state_dir().join("restore");
    for (state_dir, held) in [
        (locks.as_path(), "p0.json.lock"),
        (elsewhere.path(), "XDP program (id "),
    ] {
        let second = DaemonBuilder::config(&pods.fwd, &second).state_dir(state_dir);
        let said = second.refused();
        assert!(said.contains("interface p0"), "the interface is named: {said}");
        assert!(
            said.contains(&format!("clearway, pid {pid})")),
            "who has it: {said}"
        );
        assert!(said.contains(held), "what is held: {said}");
    }
    // Nor a socket of the API.
    let out = daemon.try_cli("run --port af-xdp:p2");
    let said = format!(
        "another daemon (pid {pid}) listens on {}",
        daemon.socket().display()
    );
    assert!(out.code != 0 && out.text().contains(&said), "{}", out.text());
    flow.run(Duration::from_millis(200)).assert_whole();
    assert_eq!(monitor.log(), before, "they touched nothing");
    assert_eq!(
        std::fs::read_dir(&elsewhere).expect("it is there").count(),
        0,
        "and left nothing"
    );
    Ping::new(&Pods::ip4(1)).all(pods.pod(0));
    daemon.stop();
}

#[test]
fn a_foreign_program_is_named_and_left_alone() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    let id = foreign_xdp(&pods.fwd, "p0", "somebody_else");
    let said = refusal(DaemonBuilder::config(&pods.fwd, &lan(2, "")), "pod0");
    assert!(
        said.contains("somebody_else") && said.contains(&id.to_string()),
        "name and id {id}: {said}"
    );
    assert!(said.contains("replace"), "what to do about it: {said}");
    let link = pods.fwd.link("p0").expect("p0 is there");
    assert_eq!(link["xdp"]["prog"]["id"], id, "it is still attached: {link}");

    let daemon = Daemon::start(&pods.fwd, &lan(2, ", replace: true"));
    Ping::new(&Pods::ip4(1)).all(pods.pod(0));
    daemon.stop();
    let link = pods.fwd.link("p0").expect("p0 is there");
    assert_eq!(link["xdp"]["prog"]["id"], id, "it is given back: {link}");
}

#[test]
fn a_crash_leaves_nothing_in_the_way() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    for _ in 0..5 {
        let mut daemon = Daemon::start(&pods.fwd, &lan(2, ""));
        Ping::new(&Pods::ip4(1)).until(pods.pod(0), SOON);
        let flow = Flow::start(pods.pod(0), pods.pod(1), &Pods::ip4(1), 1000, 100);
        std::thread::sleep(Duration::from_millis(50));
        daemon.kill();
        flow.stop();
    }
    let daemon = Daemon::start(&pods.fwd, &lan(2, ""));
    Ping::new(&Pods::ip4(1)).all(pods.pod(0));
    daemon.assert_ledger();
    daemon.stop();
}

/// The XDP links that a process holds: the program and the interface of each.
fn xdp_links(pid: u32) -> Vec<(u32, u32)> {
    let infos = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("it runs");
    let links = infos.flatten().filter_map(|file| {
        let info = std::fs::read_to_string(file.path()).ok()?;
        let value = |key: &str| {
            let mut lines = info.lines().filter_map(|line| line.split_once(":\t"));
            lines.find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        let number = |key| value(key).and_then(|text| text.parse().ok());
        (value("link_type")? == "xdp").then_some((number("prog_id")?, number("ifindex")?))
    });
    links.collect()
}

#[test]
fn the_program_of_pods_is_kept_in_use_and_goes_with_its_daemon() {
    if !ready() {
        return;
    }
    let pods = Pods::new(3);
    let mut daemon = Daemon::start(&pods.fwd, &lan(3, ""));
    let pid = daemon.proc().pid();
    let id = pods.fwd.link("p0").expect("p0 is there")["xdp"]["prog"]["id"].clone();
    // The fourth is the one that nobody sees.
    wait_for("it is kept in use", SOON, || {
        (xdp_links(pid).len() == 4).then_some(())
    });
    let programs: Vec<_> = xdp_links(pid).into_iter().map(|(program, _)| program).collect();
    assert!(programs.iter().all(|program| id == *program), "{programs:?} {id}");
    let bpf = format!("bpftool prog show id {id}");
    for _ in 0..3 {
        daemon.apply(&lan(0, ""));
        assert_eq!(xdp_links(pid).len(), 1);
        assert!(pods.fwd.run(&bpf).contains("clearway_pod"));
        daemon.apply(&lan(3, ""));
        assert_eq!(pods.fwd.link("p0").expect("p0 is there")["xdp"]["prog"]["id"], id);
        Ping::new(&Pods::ip4(1)).all(pods.pod(0));
    }
    // Its namespace, by an interface of ours whose other end is there: that goes when the namespace does.
    let own = std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs");
    let folder = format!("/proc/{pid}/fd");
    let namespaces = std::fs::read_dir(&folder)
        .expect("it runs")
        .flatten()
        .filter(|fd| {
            let target = std::fs::read_link(fd.path()).unwrap_or_default();
            target.to_string_lossy().starts_with("net:") && target != own
        });
    let [namespace] = &namespaces.collect::<Vec<_>>()[..] else {
        panic!("one namespace is held");
    };
    let path = namespace.path();
    pods.fwd.run(&format!(
        "ip link add probe type veth peer name x netns {}",
        path.display()
    ));
    assert!(pods.fwd.link("probe").is_some());
    daemon.kill();
    wait_for("the namespace has gone", SOON, || {
        pods.fwd.link("probe").is_none().then_some(())
    });
    wait_for("the program has gone", SOON, || {
        (pods.fwd.try_run(&bpf).code != 0).then_some(())
    });
    let link = pods.fwd.link("p0").expect("p0 is there");
    assert!(link["xdp"].is_null(), "{link}");
}

#[test]
fn a_stale_socket_is_replaced() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("clearway.sock");
    let config = format!("api: {{socket: '{}'}}\n{}", socket.display(), lan(2, ""));
    for _ in 0..2 {
        let mut daemon = DaemonBuilder::config(&pods.fwd, &config)
            .socket_of_config(&socket)
            .start();
        assert!(socket.exists());
        daemon.kill();
        assert!(socket.exists(), "a crash leaves the socket");
    }
}

#[test]
fn signals_end_it_cleanly() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(&pods.fwd, &lan(2, ""));
        daemon.proc().signal(signal);
        let status = daemon.proc().wait(SOON);
        assert_eq!(status.code(), Some(0), "{signal}: {}", daemon.proc().tail());
        assert!(pods.fwd.link("p0").expect("p0 is there")["xdp"].is_null());
    }
    // In the middle of its start.
    for delay in [0, 20, 60, 150] {
        let mut daemon = DaemonBuilder::config(&pods.fwd, &lan(2, "")).spawn();
        std::thread::sleep(Duration::from_millis(delay));
        daemon.terminate();
        assert!(
            pods.fwd.link("p0").expect("p0 is there")["xdp"].is_null(),
            "after {delay} ms"
        );
    }
    Daemon::start(&pods.fwd, &lan(2, "")).stop();
}

#[test]
fn without_privileges_it_says_so() {
    if !ready() {
        return;
    }
    let pods = Pods::new(1);
    let nothing = "setpriv --bounding-set=-all --inh-caps=-all --";
    let said = refusal(
        DaemonBuilder::config(&pods.fwd, &lan(1, "")).through(nothing),
        "pod0",
    );
    assert!(said.contains("CAP_"), "which capability is missing: {said}");
}

#[test]
fn a_memory_limit_is_named() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    // root may pass over the limit.
    let daemon = DaemonBuilder::config(&pods.fwd, &lan(2, ""))
        .through("prlimit --memlock=65536:65536")
        .start();
    Ping::new(&Pods::ip4(1)).all(pods.pod(0));
    daemon.stop();
    // Without these two capabilities it may not.
    let limited = "prlimit --memlock=65536:65536 setpriv --bounding-set=-ipc_lock,-sys_resource --";
    let said = refusal(
        DaemonBuilder::config(&pods.fwd, &lan(1, "")).through(limited),
        "pod0",
    );
    let lower = said.to_lowercase();
    assert!(
        lower.contains("memlock") || lower.contains("locked memory"),
        "the limit is named: {said}"
    );
}

#[test]
fn hugepages_are_used_or_done_without() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    let config = |choice: &str| format!("engine: {{hugepages: '{choice}'}}\n{}", lan(2, ""));
    let runs_on = |choice: &str| {
        let daemon = Daemon::start(&pods.fwd, &config(choice));
        Ping::new(&Pods::ip4(1)).until(pods.pod(0), SOON);
        let backing = daemon.get("ports")[0]["backing"].as_str().map(str::to_owned);
        daemon.stop();
        backing.expect("a port with frame memory")
    };
    assert_eq!(runs_on("off"), "pages");
    let free = || {
        let text = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        text.ok().and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    if free() >= 64 {
        assert_eq!(
            (runs_on("auto"), runs_on("require")),
            ("hugepages".into(), "hugepages".into())
        );
    }
    // Somebody else takes all that the host has.
    let hog = "
import os, time
fd, pages, told = os.memfd_create('hog', os.MFD_HUGETLB), 0, False
while True:
    try:
        os.posix_fallocate(fd, pages << 21, 1 << 21)
        pages += 1
    except OSError:
        if not told: print('all held', flush=True)
        told = True
        time.sleep(0.005)
";
    let mut hog = Proc::start(&pods.fwd, &["python3", "-c", hog]);
    hog.wait_line("all huge pages held", SOON, |line| line == "all held");
    assert_eq!(runs_on("auto"), "pages");
    let said = refusal(DaemonBuilder::config(&pods.fwd, &config("require")), "pod0");
    assert!(said.to_lowercase().contains("hugepage"), "{said}");
}

#[test]
fn a_wrong_config_is_refused_with_its_place() {
    if !ready() {
        return;
    }
    let ns = Netns::quiet("fwd");
    let said = DaemonBuilder::config(&ns, "ports:\n  a: {kind: af-xdp, interfase: p0}\n").refused();
    assert!(said.contains("clearway.yaml:2"), "file and line: {said}");
    assert!(
        said.contains("interfase") && said.contains("interface"),
        "the nearest key: {said}"
    );
    let said = DaemonBuilder::args(&ns, "--port af-xpd:p0").refused();
    assert!(said.contains("af-xdp"), "{said}");
}
