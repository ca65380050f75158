//! IPAM plugins: one of ours that does what a test says, and Debian's.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{CONTAINER, FakeDaemon, Held, NETNS, Ran, VERSIONS, call_with, remembering, script, started};
use serde_json::{Value, json};

/// Debian's package containernetworking-plugins (`scripts/setup.sh`).
const DEBIAN: &str = "/usr/lib/cni";

/// An IPAM plugin that writes down what it is asked, and answers with the file `VERB.out` and the code in `VERB.code`.
struct FakeIpam {
    folder: PathBuf,
    name: &'static str,
}

impl FakeIpam {
    fn new(daemon: &FakeDaemon, name: &'static str) -> Self {
        let folder = daemon.folder.path().join("ipam");
        fs::create_dir(&folder).unwrap();
        let text = r#"#!/bin/sh
cd "$(dirname "$0")"
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS $CNI_ARGS" >>asked
cat >stdin
while [ -e "$CNI_COMMAND.wait" ]; do sleep 0.02; done
case $CNI_COMMAND in ADD) : >lease ;; DEL) rm -f lease ;; esac
echo "$CNI_COMMAND" >>done
echo "a word on stderr" >&2
cat "$CNI_COMMAND.out" 2>/dev/null
exit "$(cat "$CNI_COMMAND.code" 2>/dev/null || echo 0)"
"#;
        script(&folder, name, text);
        let ipam = Self { folder, name };
        ipam.says("ADD", &result("1.0.0"), 0);
        ipam
    }

    fn says(&self, verb: &str, out: &Value, code: u8) {
        fs::write(self.folder.join(format!("{verb}.out")), out.to_string()).unwrap();
        fs::write(self.folder.join(format!("{verb}.code")), code.to_string()).unwrap();
    }

    /// The verbs it was asked since the last time.
    fn asked(&self) -> Vec<String> {
        let path = self.folder.join("asked");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    }

    fn network(&self, daemon: &FakeDaemon, version: &str) -> Value {
        daemon.network(
            version,
            json!({"mode": "veth", "ipam": {"type": self.name, "anything": [1, 2]}}),
        )
    }

    fn call(&self, verb: &str, conf: &Value) -> Ran {
        let path = format!("/no/such:{}", self.folder.display());
        call_with(verb, conf, &[("CNI_PATH", &path)])
    }
}

fn result(version: &str) -> Value {
    let mut result = json!({
        "cniVersion": version,
        "ips": [{"address": "10.8.0.5/24", "gateway": "10.8.0.1"}, {"address": "2001:db8:8::5/64"}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["10.8.0.1"]}
    });
    if version < "1.0.0" {
        result["ips"][0]["version"] = "4".into();
        result["ips"][1]["version"] = "6".into();
    }
    result
}

#[test]
fn an_ipam_plugins_addresses_reach_the_daemon_and_the_result() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "fake");
    for version in VERSIONS {
        ipam.says("ADD", &result(version), 0);
        let conf = ipam.network(&daemon, version);
        let ran = ipam.call("ADD", &conf);
        assert!(ran.stderr.contains("a word on stderr"), "{ran:?}");
        let told = ran.good();
        assert_eq!(
            daemon.state().body,
            json!({
                "ips": [{"address": "10.8.0.5/24", "gateway": "10.8.0.1"}, {"address": "2001:db8:8::5/64"}],
                "routes": [{"dst": "0.0.0.0/0"}]
            })
        );
        assert_eq!(told["ips"][1]["address"], "2001:db8:8::5/64");
        assert_eq!(told["ips"][1]["interface"], 1);
        assert_eq!(told["dns"]["nameservers"][0], "10.8.0.1");
        let stdin: Value = serde_json::from_slice(&fs::read(ipam.folder.join("stdin")).unwrap()).unwrap();
        assert_eq!(stdin, conf, "the whole configuration is handed on");
        ipam.call("DEL", &remembering(&conf, &told)).good();
        assert_eq!(ipam.asked(), ["ADD", "DEL"]);
    }
    // The result of the oldest plugins.
    ipam.says(
        "ADD",
        &json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.8.0.6/24"}}),
        0,
    );
    let told = ipam.call("ADD", &ipam.network(&daemon, "0.3.1")).good();
    assert_eq!(told["ips"][0]["address"], "10.8.0.6/24");
}

#[test]
fn it_has_the_environment_of_the_call() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "fake");
    ipam.call("ADD", &ipam.network(&daemon, "1.0.0")).good();
    let asked = fs::read_to_string(ipam.folder.join("asked")).unwrap();
    assert_eq!(asked, format!("ADD {CONTAINER} net1 {NETNS} \n"));
}

#[test]
fn a_failed_attachment_gives_the_addresses_back() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "fake");
    let conf = ipam.network(&daemon, "1.0.0");
    daemon.refuse("PUT", 500, "failed");
    ipam.call("ADD", &conf).failed(100);
    assert_eq!(ipam.asked(), ["ADD", "DEL"]);
    daemon.state().refuse.clear();
    // Its own failure is passed on, word for word.
    let object =
        json!({"cniVersion": "1.0.0", "code": 142, "msg": "no address left", "details": "in 10.8.0.0/24"});
    ipam.says("ADD", &object, 1);
    daemon.requests();
    let ran = ipam.call("ADD", &conf);
    assert_eq!(ran.out["msg"], "no address left");
    let error = ran.failed(142);
    assert!(
        error.contains("in 10.8.0.0/24") && error.contains("fake"),
        "{error}"
    );
    assert_eq!(ipam.asked(), ["ADD", "DEL"], "the specification asks for a DEL");
    assert!(
        daemon.state().attachments.is_empty(),
        "made meanwhile, and taken back"
    );
    // Both have failed: the daemon's is told, which is nearer to what the user wrote.
    daemon.refuse("PUT", 409, "conflict");
    ipam.call("ADD", &conf).failed(102);
    assert_eq!(ipam.asked(), ["ADD", "DEL"]);
}

/// Neither waits for the other; the addresses are the daemon's when both are done.
#[test]
fn the_interface_is_made_meanwhile() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "fake");
    let conf = ipam.network(&daemon, "1.0.0");
    let path = format!("/v1/attachments/{CONTAINER}/net1");
    let before = [format!("GET {path}"), format!("PUT {path}")];
    let wait = ipam.folder.join("ADD.wait");
    fs::write(&wait, "").unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| ipam.call("ADD", &conf));
        let end = Instant::now() + Duration::from_secs(60);
        while daemon.state().requests.len() < 2 || !ipam.folder.join("asked").exists() {
            assert!(Instant::now() < end, "one waits for the other");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        let requests = daemon.requests();
        fs::remove_file(&wait).unwrap();
        assert_eq!(requests, before, "no addresses yet");
        call.join().unwrap().good();
    });
    assert_eq!(daemon.requests(), [format!("PUT {path}/addresses")]);
    let wanted = daemon.state().attachments.values().next().unwrap()["wanted"].clone();
    assert_eq!(wanted["ipam"], "delegated");
    ipam.call("DEL", &conf).good();
    // The daemon does not take the addresses.
    ipam.asked();
    daemon.state().forget = true;
    ipam.call("ADD", &conf).failed(11);
    assert_eq!(ipam.asked(), ["ADD", "DEL"]);
    // One that cannot be run is found out before anything is made.
    daemon.requests();
    call_with("ADD", &conf, &[]).failed(4);
    assert_eq!(daemon.requests(), [format!("GET {path}")]);
    // A socket has no interface: its addresses come with the request.
    let mut socket = conf.clone();
    socket["mode"] = "vhost-user".into();
    ipam.call("ADD", &socket).good();
    assert_eq!(
        daemon.state().body["ipam"]["given"]["ips"][0]["address"],
        "10.8.0.5/24"
    );
}

/// Its ADD would fail, and the DEL after that would free the addresses of the interface that is there.
#[test]
fn a_second_add_does_not_reach_it() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "fake");
    let conf = ipam.network(&daemon, "1.0.0");
    ipam.call("ADD", &conf).good();
    ipam.asked();
    ipam.call("ADD", &conf).failed(102);
    assert_eq!(ipam.asked(), Vec::<String>::new());
    assert_eq!(daemon.state().attachments.len(), 1);
}

#[test]
fn answers_that_are_none_are_named() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "fake");
    let conf = ipam.network(&daemon, "1.0.0");
    for (out, code) in [
        (json!({"cniVersion": "1.0.0", "ips": []}), 0),
        (
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.8.0.5"}]}),
            0,
        ),
        (json!("what?"), 0),
        (json!("what?"), 3),
        (json!({"code": 7}), 1),
    ] {
        ipam.says("ADD", &out, code);
        let error = ipam.call("ADD", &conf).failed(104);
        assert!(error.contains("ipam/fake"), "{error}");
    }
    assert!(daemon.state().attachments.is_empty());
    let mut none = conf.clone();
    none["ipam"]["type"] = "no-such".into();
    let error = ipam.call("ADD", &none).failed(7);
    assert!(error.contains("no-such") && error.contains("CNI_PATH"), "{error}");
    let error = call_with("ADD", &conf, &[]).failed(4);
    assert!(error.contains("CNI_PATH"), "{error}");
    none["ipam"]["type"] = "../fake".into();
    ipam.call("ADD", &none).failed(7);
}

#[test]
fn check_gc_and_status_are_handed_on() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "fake");
    let mut conf = ipam.network(&daemon, "1.1.0");
    conf["cni.dev/valid-attachments"] = json!([{"containerID": CONTAINER, "ifname": "net1"}]);
    let told = ipam.call("ADD", &conf).good();
    let conf = remembering(&conf, &told);
    for verb in ["CHECK", "GC", "STATUS"] {
        assert_eq!(ipam.call(verb, &conf).good(), Value::Null);
    }
    assert_eq!(ipam.asked(), ["ADD", "CHECK", "GC", "STATUS"]);
    for verb in ["CHECK", "GC", "STATUS", "DEL"] {
        ipam.says(verb, &json!({"code": 50, "msg": format!("no {verb}")}), 1);
        let error = ipam.call(verb, &conf).failed(50);
        assert!(error.contains(&format!("no {verb}")), "{error}");
    }
    assert!(daemon.state().attachments.is_empty(), "DEL did its own part");
    // Unknown to the daemon, but the IPAM plugin may still hold an address: not "no DEL needed".
    ipam.call("CHECK", &conf).failed(101);
}

/// Addresses are given to others only when nobody can have them any more.
#[test]
fn gc_frees_no_address_of_what_may_still_be_attached() {
    let daemon = FakeDaemon::start();
    let collect = |ipam: &FakeIpam| {
        let mut conf = ipam.network(&daemon, "1.1.0");
        conf["cni.dev/valid-attachments"] = json!([]);
        conf
    };
    let ipam = FakeIpam::new(&daemon, "fake");
    let conf = collect(&ipam);
    let mut lost = conf.clone();
    lost["daemonSocket"] = "/run/clearway-no-such.sock".into();
    ipam.call("ADD", &conf).good();
    ipam.asked();
    let error = ipam.call("GC", &lost).failed(11);
    assert!(error.contains("keeps its addresses"), "{error}");
    daemon.refuse("POST", 500, "failed");
    let error = ipam.call("GC", &conf).failed(100);
    assert!(
        error.contains("it is so") && error.contains("keeps its addresses"),
        "{error}"
    );
    assert_eq!(ipam.asked(), Vec::<String>::new());
    daemon.state().refuse.clear();
    ipam.call("GC", &conf).good();
    assert_eq!(ipam.asked(), ["GC"]);
    // Through the interface: its part is first, and not begun where the daemon is not there.
    fs::remove_dir_all(&ipam.folder).unwrap();
    let ipam = FakeIpam::new(&daemon, "dhcp");
    let conf = collect(&ipam);
    lost["ipam"]["type"] = "dhcp".into();
    ipam.call("ADD", &conf).good();
    ipam.asked();
    let error = ipam.call("GC", &lost).failed(11);
    assert!(error.contains("keeps its addresses"), "{error}");
    assert_eq!(ipam.asked(), Vec::<String>::new());
    daemon.requests();
    ipam.says("GC", &json!({"code": 999, "msg": "no daemon of dhcp's"}), 1);
    let error = ipam.call("GC", &conf).failed(999);
    assert!(error.contains("no daemon of dhcp's"), "{error}");
    assert_eq!(ipam.asked(), ["GC"]);
    assert_eq!(
        daemon.requests(),
        ["GET /v1/attachments", "POST /v1/attachments/gc"]
    );
    assert!(daemon.state().attachments.is_empty(), "they go all the same");
    // Both failures are told.
    daemon.refuse("POST", 500, "failed");
    let error = ipam.call("GC", &conf).failed(100);
    assert!(
        error.contains("it is so") && error.contains("no daemon of dhcp's"),
        "{error}"
    );
}

/// A runtime that has lost patience asks again, or takes back, while the first call is still at the IPAM plugin.
#[test]
fn calls_for_one_interface_take_turns() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "fake");
    let conf = ipam.network(&daemon, "1.0.0");
    let wait = ipam.folder.join("ADD.wait");
    fs::write(&wait, "").unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ipam.call("ADD", &conf));
        let asked = || fs::read_to_string(ipam.folder.join("asked")).unwrap_or_default();
        let until = |what: &dyn Fn() -> bool| {
            let end = Instant::now() + Duration::from_secs(60);
            while !what() {
                assert!(Instant::now() < end, "it does not come");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        until(&|| asked().contains("ADD"));
        let (again, other) = (scope.spawn(|| ipam.call("ADD", &conf)), {
            let variables = [
                ("CNI_PATH", ipam.folder.to_str().unwrap()),
                ("CNI_IFNAME", "net2"),
            ];
            call_with("DEL", &conf, &variables)
        });
        other.good();
        // It would be through by then.
        std::thread::sleep(Duration::from_millis(300));
        let meanwhile = asked();
        fs::remove_file(&wait).unwrap();
        assert_eq!(meanwhile.matches("ADD").count(), 1, "{meanwhile}");
        first.join().unwrap().good();
        let error = again.join().unwrap().failed(102);
        assert!(error.contains("remove it first"), "{error}");
    });
    assert_eq!(ipam.asked(), ["ADD", "DEL"], "the DEL is net2's");
    // And so does a DEL.
    ipam.call("DEL", &conf).good();
    fs::write(&wait, "").unwrap();
    ipam.asked();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ipam.call("ADD", &conf));
        while !ipam.folder.join("asked").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let removal = scope.spawn(|| ipam.call("DEL", &conf));
        std::thread::sleep(Duration::from_millis(300));
        fs::remove_file(&wait).unwrap();
        first.join().unwrap().good();
        removal.join().unwrap().good();
    });
    assert_eq!(ipam.asked(), ["ADD", "DEL"]);
    assert!(daemon.state().attachments.is_empty(), "the ADD was before");
}

/// The attachment is still there without the daemon: its address must not go to another.
#[test]
fn without_the_daemon_addresses_stay() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "fake");
    let mut conf = ipam.network(&daemon, "1.0.0");
    conf["daemonSocket"] = "/run/clearway-no-such.sock".into();
    ipam.call("ADD", &conf).failed(11);
    ipam.call("DEL", &conf).failed(11);
    assert_eq!(ipam.asked(), Vec::<String>::new());
    // Without a namespace they are given back.
    let conf = ipam.network(&daemon, "1.0.0");
    let path = ipam.folder.display().to_string();
    call_with("DEL", &conf, &[("CNI_PATH", &path), ("CNI_NETNS", "")]).good();
    assert_eq!(ipam.asked(), ["DEL"]);
}

/// More than a pipe holds, to a plugin that reads all of it and to one that reads nothing.
#[test]
fn large_configurations_get_through() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "fake");
    let mut conf = ipam.network(&daemon, "1.0.0");
    conf["ipam"]["anything"] = "x".repeat(300_000).into();
    let mut large = result("1.0.0");
    large["comment"] = "y".repeat(300_000).into();
    ipam.says("ADD", &large, 0);
    ipam.call("ADD", &conf).good();
    ipam.call("DEL", &conf).good();
    let text = format!(
        "#!/bin/sh\n[ $CNI_COMMAND = DEL ] || echo '{}'\n",
        result("1.0.0")
    );
    script(&ipam.folder, "fake", &text);
    ipam.call("ADD", &conf).good();
    ipam.call("DEL", &conf).good();
}

/// The dhcp plugin speaks through the interface: it comes first there, and its addresses later.
#[test]
fn dhcp_finds_the_interface() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "dhcp");
    let conf = ipam.network(&daemon, "1.0.0");
    let told = ipam.call("ADD", &conf).good();
    let path = format!("/v1/attachments/{CONTAINER}/net1");
    assert_eq!(
        daemon.requests(),
        [
            format!("GET {path}"),
            format!("PUT {path}"),
            format!("PUT {path}/addresses")
        ]
    );
    let wanted = daemon.state().attachments.values().next().unwrap()["wanted"].clone();
    assert_eq!(wanted["ipam"], "awaited");
    assert_eq!(told["ips"][0]["address"], "10.8.0.5/24");
    ipam.call("CHECK", &remembering(&conf, &told)).good();
    ipam.asked();
    daemon.requests();
    ipam.call("DEL", &conf).good();
    assert_eq!(
        daemon.requests(),
        [format!("GET {path}"), format!("DELETE {path}")]
    );
    assert_eq!(ipam.asked(), ["DEL"]);
    ipam.says("ADD", &json!({"code": 11, "msg": "no server"}), 1);
    daemon.requests();
    ipam.asked();
    ipam.call("ADD", &conf).failed(11);
    assert_eq!(daemon.requests().last().unwrap(), &format!("DELETE {path}"));
    assert_eq!(ipam.asked(), ["ADD", "DEL"]);
    assert!(daemon.state().attachments.is_empty());
}

/// It gives a lease back through the interface, which goes after that; whatever comes of it.
#[test]
fn dhcp_gives_back_through_the_interface() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "dhcp");
    let conf = ipam.network(&daemon, "1.0.0");
    let path = format!("/v1/attachments/{CONTAINER}/net1");
    ipam.call("ADD", &conf).good();
    ipam.says("DEL", &json!({"code": 999, "msg": "no daemon of dhcp's"}), 1);
    let error = ipam.call("DEL", &conf).failed(999);
    assert!(error.contains("no daemon of dhcp's"), "{error}");
    assert!(daemon.state().attachments.is_empty(), "it goes all the same");
    ipam.says("DEL", &json!({}), 0);
    ipam.call("DEL", &conf).good();
    // The daemon does not detach: both failures are told, and nothing is asked of a daemon that is not there.
    ipam.call("ADD", &conf).good();
    ipam.says("DEL", &json!({"code": 999, "msg": "no daemon of dhcp's"}), 1);
    daemon.refuse("DELETE", 500, "failed");
    let error = ipam.call("DEL", &conf).failed(100);
    assert!(
        error.contains("it is so") && error.contains("no daemon of dhcp's"),
        "{error}"
    );
    daemon.state().refuse.clear();
    ipam.asked();
    let mut lost = conf.clone();
    lost["daemonSocket"] = "/run/clearway-no-such.sock".into();
    ipam.call("DEL", &lost).failed(11);
    assert_eq!(ipam.asked(), Vec::<String>::new());
    // Taken back by another daemon while the server was asked.
    ipam.says("DEL", &json!({}), 0);
    ipam.call("DEL", &conf).good();
    daemon.refuse("PUT", 409, "conflict");
    ipam.asked();
    ipam.call("ADD", &conf).failed(102);
    assert_eq!(ipam.asked(), Vec::<String>::new(), "nobody asked for a lease");
    daemon.state().refuse.clear();
    daemon.state().forget = true;
    let error = ipam.call("ADD", &conf).failed(11);
    assert!(error.contains("taken back"), "{error}");
    assert_eq!(ipam.asked(), ["ADD", "DEL"]);
    assert_eq!(daemon.requests().last().unwrap(), &format!("DELETE {path}"));
}

fn debian(verb: &str, conf: &Value) -> Ran {
    assert!(
        Path::new(DEBIAN).join("host-local").exists(),
        "no {DEBIAN}/host-local: run scripts/setup.sh"
    );
    call_with(verb, conf, &[("CNI_PATH", DEBIAN)])
}

#[test]
fn debians_host_local_gives_addresses() {
    let daemon = FakeDaemon::start();
    let data = daemon.folder.path().join("host-local");
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        let conf = daemon.network(version, json!({"mode": "tap", "ipam": {
            "type": "host-local", "subnet": "10.6.0.0/24", "routes": [{"dst": "0.0.0.0/0"}], "dataDir": data
        }}));
        let told = debian("ADD", &conf).good();
        let address = told["ips"][0]["address"].as_str().unwrap();
        assert!(address.starts_with("10.6.0."), "{told}");
        assert_eq!(told["ips"][0]["gateway"], "10.6.0.1");
        assert_eq!(told["routes"][0]["dst"], "0.0.0.0/0");
        let held = || {
            fs::read_dir(data.join("blue"))
                .unwrap()
                .filter(|entry| {
                    entry
                        .as_ref()
                        .unwrap()
                        .file_name()
                        .to_string_lossy()
                        .starts_with("10.")
                })
                .count()
        };
        assert_eq!(held(), 1);
        if version >= "0.4.0" {
            debian("CHECK", &remembering(&conf, &told)).good();
        }
        daemon.refuse("PUT", 500, "failed");
        call_with("ADD", &conf, &[("CNI_PATH", DEBIAN), ("CNI_IFNAME", "net2")]).failed(100);
        daemon.state().refuse.clear();
        assert_eq!(held(), 1, "a failed ADD holds nothing");
        debian("DEL", &conf).good();
        debian("DEL", &conf).good();
        assert_eq!(held(), 0);
    }
}

#[test]
fn debians_static_gives_addresses() {
    let daemon = FakeDaemon::start();
    let conf = daemon.network(
        "1.0.0",
        json!({
            "mode": "veth",
            "ipam": {"type": "static", "addresses": [{"address": "10.5.0.9/24", "gateway": "10.5.0.1"}]}
        }),
    );
    let told = debian("ADD", &conf).good();
    assert_eq!(
        told["ips"],
        json!([{"address": "10.5.0.9/24", "gateway": "10.5.0.1", "interface": 1}])
    );
    debian("CHECK", &remembering(&conf, &told)).good();
    debian("DEL", &conf).good();
}

/// Debian's plugins speak CNI up to 1.0.0.
#[test]
fn a_delegate_that_is_too_old_has_advice() {
    let daemon = FakeDaemon::start();
    let conf = daemon.network(
        "1.1.0",
        json!({"ipam": {"type": "static", "addresses": [{"address": "10.5.0.9/24"}]}}),
    );
    let error = debian("ADD", &conf).failed(1);
    assert!(
        error.contains("\"1.0.0\"") && error.contains("clearway"),
        "{error}"
    );
    assert!(daemon.state().attachments.is_empty());
}

/// Where a plugin is killed.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// At this request, before the daemon has done it or after, with no answer yet.
    Daemon(&'static str, Held),
    /// While the IPAM plugin is at it.
    Ipam(&'static str),
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl FakeIpam {
    /// Starts a verb, kills the plugin at this step, and lets daemon and IPAM plugin end what they were asked for.
    #[track_caller]
    fn kill_at(&self, daemon: &FakeDaemon, verb: &str, conf: &Value, step: Step) {
        let at = |name: &str| self.folder.join(name);
        let _ = fs::remove_file(at("done"));
        self.asked();
        let hold = match step {
            Step::Daemon(request, when) => Some((request, when)),
            Step::Ipam(verb) => {
                fs::write(at(&format!("{verb}.wait")), "").unwrap();
                None
            }
        };
        (daemon.state().hold, daemon.state().held) = (hold, false);
        let path = self.folder.display().to_string();
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", CONTAINER),
            ("CNI_NETNS", NETNS),
            ("CNI_IFNAME", "net1"),
            ("CNI_PATH", &path),
        ];
        let mut plugin = started(&variables, conf.to_string().as_bytes());
        let asked = || fs::read_to_string(at("asked")).unwrap_or_default();
        wait_until(&format!("{verb} to reach {step:?}"), || match step {
            Step::Daemon(..) => daemon.state().held,
            Step::Ipam(verb) => asked().lines().any(|line| line.starts_with(verb)),
        });
        assert!(
            plugin.try_wait().unwrap().is_none(),
            "{verb} {step:?}: it has not ended"
        );
        plugin.kill().unwrap();
        plugin.wait().unwrap();
        daemon.state().hold = None;
        if let Step::Ipam(verb) = step {
            fs::remove_file(at(&format!("{verb}.wait"))).unwrap();
        }
        let done = || fs::read_to_string(at("done")).unwrap_or_default();
        wait_until("the IPAM plugin to end", || {
            done().lines().count() == asked().lines().count()
        });
    }
}

/// SIGKILL of the plugin at each request to the daemon and at each call of the IPAM plugin: a DEL leaves nothing, and the
/// container can be attached anew.
#[test]
fn a_plugin_that_is_killed_at_any_step_leaves_nothing_that_a_del_does_not_find() {
    use Held::{After, Before};
    let at = |request: &'static str| [Step::Daemon(request, Before), Step::Daemon(request, After)];
    let whole = |requests: &[&'static str], ipam: Option<&'static str>| {
        let requests = requests.iter().flat_map(|request| at(request));
        requests.chain(ipam.map(Step::Ipam)).collect::<Vec<_>>()
    };
    for (name, add, del) in [
        ("clearway", whole(&["PUT"], None), whole(&["DELETE"], None)),
        (
            "fake",
            whole(&["GET", "PUT", "addresses"], Some("ADD")),
            whole(&["DELETE"], Some("DEL")),
        ),
        (
            "dhcp",
            whole(&["GET", "PUT", "addresses"], Some("ADD")),
            whole(&["GET", "DELETE"], Some("DEL")),
        ),
    ] {
        let daemon = FakeDaemon::start();
        let ipam = FakeIpam::new(&daemon, name);
        let conf = ipam.network(&daemon, "1.0.0");
        let conf = match name {
            "clearway" => daemon.network("1.0.0", json!({"mode": "veth", "ipam": {"type": "clearway"}})),
            _ => conf,
        };
        let nothing_is_left = |what: &str| {
            assert!(daemon.state().attachments.is_empty(), "{what}: an attachment");
            assert!(!ipam.folder.join("lease").exists(), "{what}: a lease");
        };
        let verbs = add
            .iter()
            .map(|step| ("ADD", step))
            .chain(del.iter().map(|step| ("DEL", step)));
        for (verb, step) in verbs {
            let what = format!("{name} {verb} {step:?}");
            println!("{what}");
            if verb == "DEL" {
                ipam.call("ADD", &conf).good();
            }
            ipam.kill_at(&daemon, verb, &conf, *step);
            ipam.call("DEL", &conf).good();
            nothing_is_left(&what);
            ipam.call("DEL", &conf).good();
            ipam.call("ADD", &conf).good();
            assert_eq!(daemon.state().attachments.len(), 1, "{what}");
            assert_eq!(ipam.folder.join("lease").exists(), name != "clearway", "{what}");
            ipam.call("DEL", &conf).good();
            nothing_is_left(&what);
        }
    }
}

/// What the IPAM plugin hands out after its caller was killed, it has handed out before the DEL asks for it.
#[test]
fn a_del_waits_for_the_ipam_plugin_of_an_add_that_was_killed() {
    let daemon = FakeDaemon::start();
    let ipam = FakeIpam::new(&daemon, "fake");
    let conf = ipam.network(&daemon, "1.0.0");
    let wait = ipam.folder.join("ADD.wait");
    fs::write(&wait, "").unwrap();
    let path = ipam.folder.display().to_string();
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", CONTAINER),
        ("CNI_NETNS", NETNS),
        ("CNI_IFNAME", "net1"),
        ("CNI_PATH", &path),
    ];
    let mut plugin = started(&variables, conf.to_string().as_bytes());
    wait_until("the IPAM plugin to be asked", || {
        ipam.folder.join("asked").exists()
    });
    plugin.kill().unwrap();
    plugin.wait().unwrap();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| ipam.call("DEL", &conf));
        // It would be through by then.
        std::thread::sleep(Duration::from_millis(300));
        let meanwhile = fs::read_to_string(ipam.folder.join("asked")).unwrap();
        fs::remove_file(&wait).unwrap();
        removal.join().unwrap().good();
        assert_eq!(meanwhile.lines().count(), 1, "{meanwhile}");
    });
    assert_eq!(ipam.asked(), ["ADD", "DEL"]);
    assert!(!ipam.folder.join("lease").exists());
}

/// The device information file that was being written; its name is not that of the process.
#[test]
fn a_half_written_device_information_file_goes_with_a_del() {
    let daemon = FakeDaemon::start();
    let folder = daemon.folder.path().join("devinfo");
    let info = folder.join("x.json");
    let fields = json!({"mode": "vhost-user", "runtimeConfig": {"CNIDeviceInfoFile": info}});
    let conf = daemon.network("1.1.0", fields);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(".x.json.part"), "{").unwrap();
    call_with("DEL", &conf, &[]).good();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    fs::write(folder.join(".x.json.part"), "{").unwrap();
    call_with("ADD", &conf, &[]).good();
    assert!(info.exists() && fs::read_dir(&folder).unwrap().count() == 1);
    call_with("DEL", &conf, &[]).good();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}
