//! A daemon that only remembers, and a runtime that runs the plugin as the specification says.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
pub(crate) const CONTAINER: &str = "0123456789abcdef";
pub(crate) const NETNS: &str = "/run/netns/clearway-cni-no-such";

/// What a fake daemon knows and does.
#[derive(Default)]
pub(crate) struct State {
    /// `METHOD path` of each request, in order.
    pub(crate) requests: Vec<String>,
    /// The body of the last request that had one.
    pub(crate) body: Value,
    /// Attachments by `container/interface`.
    pub(crate) attachments: BTreeMap<String, Value>,
    /// What `METHOD` is answered with in place of the usual: a status and a body; 0 closes the connection.
    pub(crate) refuse: BTreeMap<&'static str, (u16, Value)>,
    /// An attachment that awaits addresses is gone when they come.
    pub(crate) forget: bool,
    /// At which request the daemon stops until this is none, and whether it has done by then what it was asked.
    pub(crate) hold: Option<(&'static str, Held)>,
    /// It has stopped there.
    pub(crate) held: bool,
}

/// When a daemon stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Held {
    Before,
    After,
}

/// An HTTP server on a unix socket, with the paths of the daemon.
pub(crate) struct FakeDaemon {
    pub(crate) folder: tempfile::TempDir,
    state: Arc<Mutex<State>>,
}

impl FakeDaemon {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("clearway.sock")).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // Ends with the test's process: it holds nothing that outlives that.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &shared);
            }
        });
        Self { folder, state }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("clearway.sock")
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn refuse(&self, method: &'static str, status: u16, code: &str) {
        let error = json!({"code": code, "message": format!("{code}, it is so"), "details": []});
        self.state().refuse.insert(method, (status, error));
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    /// A network of this daemon.
    pub(crate) fn network(&self, version: &str, fields: Value) -> Value {
        let mut conf = json!({
            "cniVersion": version, "name": "blue", "type": "clearway-cni", "daemonSocket": self.socket(), "vlan": 100
        });
        for (key, value) in fields.as_object().unwrap() {
            conf[key] = value.clone();
        }
        conf
    }
}

fn serve(stream: UnixStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    wait_if_held(state, &method, &path, Held::Before);
    let (status, answer) = answer(&mut state.lock().unwrap(), &method, &path, &body);
    wait_if_held(state, &method, &path, Held::After);
    if status != 0 {
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        let _ = reader.get_mut().write_all(format!("{head}{answer}").as_bytes());
    }
}

/// `PUT` is that of an attachment, `addresses` that of its addresses.
fn wait_if_held(state: &Mutex<State>, method: &str, path: &str, when: Held) {
    let what = if path.ends_with("/addresses") {
        "addresses"
    } else {
        method
    };
    loop {
        let mut state = state.lock().unwrap();
        if state.hold.is_none_or(|(at, held)| at != what || held != when) {
            return;
        }
        state.held = true;
        drop(state);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn answer(state: &mut State, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    state.requests.push(format!("{method} {path}"));
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    if !body.is_null() {
        state.body = body.clone();
    }
    if let Some(refusal) = state.refuse.get(method) {
        return refusal.clone();
    }
    let missing = || {
        (
            404,
            json!({"code": "not_found", "message": "there is no such attachment"}),
        )
    };
    let parts: Vec<_> = path
        .strip_prefix("/v1/attachments")
        .unwrap()
        .split('/')
        .skip(1)
        .collect();
    match (method, &parts[..]) {
        ("GET", []) => (200, state.attachments.values().cloned().collect()),
        ("POST", ["status"]) => (200, json!({})),
        ("POST", ["gc"]) => {
            let valid = |id: &Value| body["valid"].as_array().unwrap().contains(id);
            let stale: Vec<_> = state
                .attachments
                .values()
                .map(|found| found["id"].clone())
                .filter(|id| !valid(id))
                .collect();
            state.attachments.retain(|_, found| valid(&found["id"]));
            (200, json!({"removed": stale}))
        }
        ("PUT", [container, interface]) => {
            let key = format!("{container}/{interface}");
            if state.attachments.contains_key(&key) {
                return (409, json!({"code": "conflict", "message": "it is there already"}));
            }
            let made = attachment(container, interface, &body);
            state.attachments.insert(key, made.clone());
            (200, made)
        }
        ("PUT", [container, interface, "addresses"]) => {
            if state.forget {
                state.attachments.clear();
            }
            match state.attachments.get_mut(&format!("{container}/{interface}")) {
                None => missing(),
                Some(found) => {
                    found["addresses"] = body;
                    (200, found.clone())
                }
            }
        }
        ("GET", [container, interface]) => {
            let found = state.attachments.get(&format!("{container}/{interface}"));
            found.map_or_else(missing, |found| (200, found.clone()))
        }
        ("DELETE", [container, interface]) => {
            let found = state.attachments.remove(&format!("{container}/{interface}"));
            let removed: Vec<_> = found.iter().map(|found| found["id"].clone()).collect();
            (200, json!({"removed": removed}))
        }
        _ => panic!("{method} {path}"),
    }
}

/// What the daemon makes of what is wanted.
fn attachment(container: &str, interface: &str, wanted: &Value) -> Value {
    // The words are the daemon's own: a wrong one is the plugin's fault.
    let attach: clearway_config::attach::Attach = serde_json::from_value(wanted.clone()).unwrap();
    let or = |key: &str, other: Value| wanted.get(key).cloned().unwrap_or(other);
    let addresses = match &attach.ipam {
        clearway_config::attach::Ipam::None => json!({}),
        clearway_config::attach::Ipam::Given(given) => json!(given),
        clearway_config::attach::Ipam::Pool { .. } => json!({
            "ips": [{"address": "10.7.0.5/24", "gateway": "10.7.0.1"}, {"address": "2001:db8::5/64"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.7.0.1", "mtu": 1400, "priority": 5}]
        }),
        _ => json!({}),
    };
    let mut made = json!({
        "id": {"container": container, "interface": interface},
        "wanted": wanted, "state": "ready", "port": "pod1", "domain": "blue",
        "mac": or("mac", json!("02:00:00:00:00:07")), "mtu": or("mtu", json!(1500)),
        "addresses": addresses, "problems": [], "generation": 1
    });
    match attach.kind {
        clearway_config::attach::AttachKind::Veth => made["host-interface"] = "cw0001".into(),
        clearway_config::attach::AttachKind::Tap => {}
        clearway_config::attach::AttachKind::Vf => {
            let pci = &attach.vf.unwrap().device;
            made["vf"] =
                json!({"pci": pci, "pf": "0000:03:00.0", "index": 0, "driver": "igbvf", "generation": 1});
            // 0000:03:02.7 is a program's.
            if pci.ends_with('7') {
                (made["mac"], made["mtu"]) = ("00:00:00:00:00:00".into(), 0.into());
            } else {
                made["vf"]["interface"] = "eth1v0".into();
            }
        }
        clearway_config::attach::AttachKind::VhostUser => {
            let socket = attach.vhost.unwrap();
            let folder = socket.folder.unwrap_or_else(|| "/run/clearway/vhost/x".into());
            made["socket"] = json!(folder.join(socket.file.unwrap_or_else(|| "vhost.sock".into())));
        }
    }
    made
}

/// What a run of the plugin came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) success: bool,
    /// What stdout has, `null` when nothing.
    pub(crate) out: Value,
    pub(crate) stderr: String,
}

impl Ran {
    /// It worked.
    #[track_caller]
    pub(crate) fn good(self) -> Value {
        assert!(self.success, "{self:?}");
        self.out
    }

    /// It failed with this code, in the form of the protocol.
    #[track_caller]
    pub(crate) fn failed(self, code: u64) -> String {
        assert!(!self.success, "{self:?}");
        assert_eq!(self.out["code"], code, "{self:?}");
        assert!(
            self.out["cniVersion"].is_string() && self.out["msg"].is_string(),
            "{self:?}"
        );
        format!(
            "{} {}",
            self.out["msg"].as_str().unwrap(),
            self.out["details"].as_str().unwrap()
        )
    }
}

/// Runs the plugin with these variables and nothing else.
pub(crate) fn plugin(variables: &[(&str, &str)], stdin: &[u8]) -> Ran {
    let output = started(variables, stdin).wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let out = match text.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")),
    };
    Ran {
        success: output.status.success(),
        out,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The same, without waiting for its end.
pub(crate) fn started(variables: &[(&str, &str)], stdin: &[u8]) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_clearway-cni"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child
}

/// A call of a verb for [`CONTAINER`]'s `net1`.
pub(crate) fn call(verb: &str, conf: &Value) -> Ran {
    call_with(verb, conf, &[])
}

/// The same with more variables, or others.
pub(crate) fn call_with(verb: &str, conf: &Value, more: &[(&str, &str)]) -> Ran {
    let mut variables = vec![("CNI_COMMAND", verb)];
    if !matches!(verb, "GC" | "STATUS" | "VERSION") {
        variables.extend([
            ("CNI_CONTAINERID", CONTAINER),
            ("CNI_NETNS", NETNS),
            ("CNI_IFNAME", "net1"),
        ]);
    }
    variables.extend(more);
    plugin(&variables, conf.to_string().as_bytes())
}

/// The configuration of the same network with what the runtime remembers.
pub(crate) fn remembering(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}

/// A program `name` in `folder`, of this text.
pub(crate) fn script(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}
