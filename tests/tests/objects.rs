//! Whose each object is and how often it has changed: through applies, reloads, pods that come and go, restarts and kills.

use clearway_tests::{Daemon, Node, binary, ready, wait_for};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// A node's configuration with two ports.
fn config(node: &Node) -> String {
    let ports = "ports:\n  a: {kind: memory, access: red}\n  b: {kind: memory, access: green}\n";
    format!("{}{ports}", node.config())
}

/// `KIND NAME OWNER GENERATION` of all objects but settings.
#[track_caller]
fn objects(daemon: &Daemon<'_>) -> Vec<String> {
    let all = daemon.get("objects");
    let all = all.as_array().unwrap_or_else(|| panic!("not a list: {all}"));
    let word = |object: &Value, key: &str| object[key].as_str().unwrap_or("?").to_owned();
    let say = |o: &Value| {
        format!(
            "{} {} {} {}",
            word(o, "kind"),
            word(o, "name"),
            word(o, "owner"),
            o["generation"]
        )
    };
    all.iter().filter(|o| o["kind"] != "setting").map(say).collect()
}

/// The generation of the configuration, as an apply of what is in use tells it.
#[track_caller]
fn generation(daemon: &Daemon<'_>) -> u64 {
    let (status, config) = daemon.api("GET", "/v1/config", "");
    assert_eq!(status, 200, "{config}");
    let (status, report) = daemon.api("PUT", "/v1/config?dry-run=true", &config);
    let report: Value = serde_json::from_str(&report).unwrap_or_default();
    assert_eq!((status, &report["changed"]), (200, &json!(false)), "{report}");
    report["generation"]
        .as_u64()
        .unwrap_or_else(|| panic!("{report}"))
}

/// Ends a daemon, by SIGTERM and by SIGKILL in turn, and starts the next one with this file.
#[track_caller]
fn restart<'a>(node: &'a Node, mut daemon: Daemon<'a>, kill: bool, file: &str) -> Daemon<'a> {
    match kill {
        true => daemon.kill(),
        false => assert!(daemon.terminate().success()),
    }
    drop(daemon);
    node.daemon_of(file)
}

#[test]
fn each_object_has_its_owner_and_counts_its_changes() {
    if !ready() {
        return;
    }
    let node = Node::new(1);
    let file = config(&node);
    let mut daemon = node.daemon_of(&file);
    let first = [
        "port a file 1",
        "port b file 1",
        "bridge-domain green file 1",
        "bridge-domain red file 1",
        "address-pool pods file 1",
    ];
    assert_eq!(
        (objects(&daemon), generation(&daemon)),
        (first.map(String::from).into(), 1)
    );

    // A pod comes; an apply changes three things, one of which is a pool.
    let network = node.network(
        "1.0.0",
        json!({"mode": "tap", "ipam": {"type": "clearway", "pool": "pods"}}),
    );
    let container = node.container(0);
    network.add(&container).expect("attached");
    let pods = daemon.get("attachments");
    let port = pods[0]["port"].as_str().expect("a port").to_owned();
    assert_eq!(generation(&daemon), 1, "a pod is none of the configuration");
    let applied = file
        .replace("vlan: 20", "vlan: 21")
        .replace("10.7.0.1}", "10.7.0.99}");
    let applied = applied.replace(
        "b: {kind: memory, access: green}",
        "c: {kind: memory, access: green}",
    );
    daemon.apply(&applied);
    let second = [
        "port a file 1".to_owned(),
        "port c apply 1".to_owned(),
        format!("port {port} cni 1"),
        "bridge-domain green apply 2".to_owned(),
        "bridge-domain red file 1".to_owned(),
        "address-pool pods apply 2".to_owned(),
        "attachment container0/net1 cni 2".to_owned(),
    ];
    assert_eq!(
        (objects(&daemon).as_slice(), generation(&daemon)),
        (&second[..], 2)
    );
    let again = daemon.apply(&applied);
    assert!(again.starts_with("no change"), "{again}");
    let wide = daemon.cli("get ports -o wide");
    let row = wide
        .lines()
        .find(|line| line.starts_with(&port))
        .unwrap_or_default();
    assert!(
        wide.contains("OWNER  GENERATION") && row.contains(" cni "),
        "{wide}"
    );

    // A restart changes nothing, however the daemon ended.
    let before = daemon.get("objects");
    for kill in [false, true] {
        daemon = restart(&node, daemon, kill, &file);
        assert_eq!(
            (daemon.get("objects"), generation(&daemon)),
            (before.clone(), 2),
            "{kill}"
        );
        network.check(&container).expect("as it was");
    }

    // A reload: the file owns what it says, pods stay.
    let file = applied.replace("vlan: 21", "vlan: 22");
    daemon.reload(&file);
    let third: Vec<_> = second
        .iter()
        .map(|line| {
            line.replace("green apply 2", "green apply 3")
                .replace("apply", "file")
        })
        .collect();
    assert_eq!((objects(&daemon), generation(&daemon)), (third.clone(), 3));
    daemon.apply(&file.replace("vlan: 10", "vlan: 11"));
    daemon = restart(&node, daemon, true, &file);
    let fourth: Vec<_> = third
        .iter()
        .map(|line| line.replace("red file 1", "red apply 2"))
        .collect();
    assert_eq!(
        objects(&daemon),
        fourth,
        "what was applied since the reload counts"
    );
    network.check(&container).expect("as it was");

    // Another file counts itself.
    let file = file.replace("a: {kind: memory", "z: {kind: memory");
    daemon = restart(&node, daemon, true, &file);
    let mut fifth: Vec<_> = third
        .iter()
        .map(|line| line.replace("red file 1", "red file 3"))
        .collect();
    fifth.remove(0);
    fifth.insert(2, "port z file 1".to_owned());
    assert_eq!((objects(&daemon), generation(&daemon)), (fifth, 5));
    network.check(&container).expect("as it was");
    network.del(&container).expect("removed");
    assert!(!objects(&daemon).iter().any(|line| line.contains("cni")));
    daemon.stop();
}

#[test]
fn nobody_takes_a_pod_s_port() {
    if !ready() {
        return;
    }
    let node = Node::new(1);
    let file = config(&node);
    let mut daemon = node.daemon_of(&file);
    let network = node.network(
        "1.0.0",
        json!({"mode": "tap", "ipam": {"type": "clearway", "pool": "pods"}}),
    );
    let container = node.container(0);
    network.add(&container).expect("attached");
    let port = daemon.get("attachments")[0]["port"]
        .as_str()
        .expect("a port")
        .to_owned();
    let before = daemon.get("objects");
    let taking = file.replace("  a: {", &format!("  {port}: {{"));
    for (text, told) in [
        (&taking, "belongs to attachment container0/net1"),
        (&file.replace("red", "blue"), "attachment container0/net1 needs"),
    ] {
        let refused = daemon.try_apply(text, "");
        assert!(
            refused.code == 1 && refused.stderr.contains(told),
            "{}",
            refused.text()
        );
        assert_eq!(daemon.get("objects"), before);
    }
    // At a start nobody can be told but by the log.
    for kill in [false, true] {
        daemon = restart(&node, daemon, kill, &taking);
        let log = daemon.proc().log().join("\n");
        assert!(log.contains("which is the attachment's: it is left out"), "{log}");
        network.check(&container).expect("as it was");
        let object = daemon.get(&format!("objects port/{port}"));
        assert_eq!(
            (&object["owner"], &object["spec"]["kind"]),
            (&json!("cni"), &json!("tap")),
            "{object}"
        );
    }
    network.del(&container).expect("removed");
    daemon.stop();
}

#[test]
fn a_change_is_made_for_one_generation() {
    if !ready() {
        return;
    }
    let node = Node::new(0);
    let file = config(&node);
    let daemon = node.daemon_of(&file);
    let mine = file.replace("vlan: 20", "vlan: 21");
    let plan = daemon.try_apply(&mine, "--dry-run");
    assert!(plan.stdout.contains("Plan for generation 1 "), "{}", plan.text());
    // Somebody else is quicker.
    daemon.apply(&file.replace("vlan: 20", "vlan: 22"));
    let before = daemon.get("objects");
    let refused = daemon.try_apply(&mine, "--if-generation 1");
    assert!(
        refused.code == 1
            && refused.stderr.contains("is of generation 2 by now")
            && !refused.stderr.contains("  "),
        "{}",
        refused.text()
    );
    assert_eq!(daemon.get("objects"), before);
    let applied = daemon.try_apply(&mine, "--if-generation 2");
    assert!(
        applied.code == 0 && applied.stdout.contains("generation 3"),
        "{}",
        applied.text()
    );
    daemon.stop();
}

/// kill -9 at any moment of an apply: the next daemon has the one configuration or the other, all of it; that which the
/// caller was told of, if he was.
#[test]
fn a_daemon_that_is_killed_in_an_apply_has_one_or_the_other() {
    if !ready() {
        return;
    }
    let node = Node::new(0);
    let file = config(&node);
    let mut daemon = node.daemon_of(&file);
    let path = node.folder().join("next.yaml");
    let (mut unfinished, mut made) = (0, 0);
    let mut used = 0_u64;
    // How long one takes here.
    let begun = Instant::now();
    daemon.try_apply(&file, "--dry-run");
    let span = begun.elapsed().as_micros() as u64 * 5 / 4;
    for round in 1..=40_u64 {
        // Everything of one is different in the other.
        let vlan = 100 + round;
        let next = file
            .replace("vlan: 20", &format!("vlan: {vlan}"))
            .replace("b: {kind: memory", &format!("b{vlan}: {{kind: memory"))
            .replace("gateway: 10.7.0.1", &format!("gateway: 10.7.0.{vlan}"));
        std::fs::write(&path, &next).expect("written");
        let before = generation(&daemon);
        let mut apply = Command::new(binary());
        apply
            .arg("--socket")
            .arg(daemon.socket())
            .args(["apply", "-f"])
            .arg(&path);
        let mut apply = apply
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command line");
        std::thread::sleep(Duration::from_micros(round * 7919 % 40 * span / 40));
        unfinished += u32::from(matches!(apply.try_wait(), Ok(None)));
        daemon.kill();
        let told = wait_for("the end of the apply", SOON, || apply.try_wait().ok().flatten()).success();
        daemon = node.daemon_of(&file);
        let green = daemon.get("bridge-domains green")["vlan"]
            .as_u64()
            .expect("a VLAN");
        let is_made = green == vlan;
        assert!(is_made || !told, "{round}: it was said to be made");
        let expected = if is_made { vlan } else { used };
        let named = |kind: &str, name: &str| daemon.get(&format!("objects {kind}/{name}"));
        if expected > 0 {
            assert_eq!(green, expected, "{round}");
            assert_eq!(
                named("port", &format!("b{expected}"))["owner"],
                "apply",
                "{round}"
            );
            let pool = named("address-pool", "pods");
            let gateway = &pool["spec"]["subnets"][0]["gateway"];
            assert_eq!(*gateway, format!("10.7.0.{expected}"), "{round}");
        }
        assert_eq!(daemon.get("ports").as_array().map(Vec::len), Some(2), "{round}");
        assert_eq!(generation(&daemon), before + u64::from(is_made), "{round}");
        made += u32::from(is_made);
        used = expected;
    }
    eprintln!("{unfinished} of 40 were killed before the answer, {made} were made");
    assert!(
        unfinished > 10 && made > 0,
        "{unfinished} of 40 unfinished, {made} made"
    );
    daemon.stop();
}
