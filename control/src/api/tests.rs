//! The API over a real socket, with a control thread that answers from fixed tables.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use clearway_config::Spec;
use clearway_engine::{DropReason, Ledger};
use serde_json::{Value, json};

use super::server::Running;
use super::types::*;
use super::{Attachments, Server};
use crate::attach::{HostGround, Manager};
use crate::handle::{ApiError, Applied, ErrorCode, FdbFilter, Handle, Request};
use crate::objects::{Objects, Version};
use crate::store::{Fault, MemoryStore, ObjectKind, Owner, Record, Store};

/// A server, and what its control thread was asked.
struct Fixture {
    store: MemoryStore,
    running: Option<Running>,
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    /// The control thread answers nobody while this is locked.
    slow: Arc<Mutex<()>>,
}

impl Fixture {
    /// Without a store.
    fn new() -> Self {
        Self::with(|_, _| none())
    }

    /// With a store that is of the configuration in `clearway.yaml` of its folder, generation 1.
    fn kept() -> Self {
        Self::with(|store, handle| {
            let ground = Box::new(HostGround::new(handle, PathBuf::from("/nowhere")));
            let manager = Manager::open(Box::new(store), ground).unwrap();
            manager.resume(&Spec::default(), |_| Ok(()));
            Ok(Arc::new(manager))
        })
    }

    fn with(attachments: impl FnOnce(MemoryStore, Handle) -> Attachments) -> Self {
        let (send, requests) = mpsc::channel();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let slow = Arc::new(Mutex::new(()));
        let wait = slow.clone();
        std::thread::spawn(move || {
            for request in requests {
                log.lock().unwrap().push(format!("{request:?}"));
                drop(wait.lock());
                answer(request);
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let server = Server::bind(&dir.path().join("api.sock")).unwrap();
        let handle = Handle::new(move |request| send.send(request).is_ok());
        let store = MemoryStore::default();
        let attachments = attachments(store.clone(), handle.clone());
        let file = dir.path().join("clearway.yaml");
        let running = server.start(handle, attachments, Some(file)).unwrap();
        Self {
            store,
            running: Some(running),
            dir,
            asked,
            slow,
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        http(&self.socket(), method, path, body)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn none() -> Attachments {
    Err("a test has no store".to_owned())
}

fn http(socket: &Path, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, _, body) = exchange(socket, method, path, "", body);
    (status, body)
}

/// Sends a request with more headers, each with a line end, and does not wait.
fn request(socket: &Path, method: &str, path: &str, headers: &str, body: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    stream
}

/// The same, and the answer: its status, its entity tag and its body.
fn exchange(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, Option<String>, Value) {
    let mut stream = request(socket, method, path, headers, body);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    (status, tag.map(str::to_owned), body)
}

fn port(name: &str) -> PortView {
    PortView {
        name: name.into(),
        owner: Owner::File,
        generation: 3,
        kind: "memory".into(),
        guest: None,
        interface: None,
        state: State::Up,
        reason: None,
        mode: None,
        backing: None,
        umem_group: None,
        queues: vec![QueueView { queue: 0, worker: 0 }],
        mac: None,
        mtu: None,
        service: "access red".into(),
        rx_packets: 1,
        rx_bytes: 2,
        tx_packets: 3,
        tx_bytes: 4,
        drops: 5,
        learned_macs: 6,
        warnings: Vec::new(),
    }
}

fn station(mac: &str) -> FdbView {
    FdbView {
        bridge_domain: "red".into(),
        mac: mac.parse().unwrap(),
        port: Some("a".into()),
        vlan: None,
        remote: None,
        origin: FdbOrigin::Manual,
        age_s: None,
    }
}

fn answer(request: Request) {
    match request {
        Request::Ports(reply) => reply.send(Ok(vec![port("a"), port("b")])),
        Request::Workers(reply) => reply.send(Ok(vec![WorkerView {
            id: 0,
            core: Some(1),
            idle: "adaptive".into(),
            load_percent: 12.5,
            turns: 1,
            sleeps: 2,
            sleeping: true,
            queues: [("a".to_owned(), vec![0])].into(),
            received: 3,
            handed_out: 0,
            epoch: 4,
        }])),
        Request::BridgeDomains(reply) => reply.send(Ok(vec![BridgeDomainView {
            name: "red".into(),
            owner: Owner::Apply,
            generation: 1,
            vlan: Some(10),
            vni: Some(42),
            vtep: Some("v0".into()),
            members: vec!["a".into()],
            remotes: vec!["10.0.0.2".parse().unwrap()],
            learning: true,
            aging_s: 300,
            macs: 1,
            learn_limit: None,
        }])),
        Request::Fdb(_, reply) => reply.send(Ok(vec![station("02:00:00:00:00:01")])),
        Request::Tunnels(reply) => reply.send(Ok(vec![TunnelView {
            name: "v0/2001:db8::2".into(),
            owner: Owner::File,
            generation: 2,
            vtep: "v0".into(),
            local: "2001:db8::1".parse().unwrap(),
            remote: "2001:db8::2".parse().unwrap(),
            state: State::Down,
            reason: Some("no route".into()),
            port: None,
            next_hop: None,
            next_hop_mac: None,
            mtu: None,
            bridge_domains: [("red".to_owned(), 42)].into(),
        }])),
        Request::Drops(reply) => reply.send(Ok(drops())),
        Request::Counters(reply) => reply.send(Ok(vec![CounterView::of("a", std::iter::empty())])),
        Request::Config(reply) => reply.send(Ok((Spec::default(), VERSION))),
        Request::Objects(reply) => reply.send(Ok(vec![ObjectView {
            kind: ObjectKind::Port,
            name: "a".into(),
            owner: Owner::File,
            generation: 3,
            changed_s: Some(1_700_000_000),
            spec: json!({"kind": "memory"}),
        }])),
        Request::Apply {
            only_if: Some(generations),
            reply,
            ..
        } if !generations.contains(&VERSION.generation) => {
            reply.send(Err(ApiError::new(ErrorCode::PreconditionFailed, "it is another")));
        }
        Request::Apply {
            spec,
            dry_run,
            by,
            reply,
            ..
        } => {
            let objects = Objects::of(VERSION, BTreeMap::new());
            let objects = objects.next(&Spec::default(), &spec, by, 9);
            let report = ApplyReport {
                actions: vec![ActionView {
                    verb: Verb::Add,
                    kind: "bridge-domain".into(),
                    name: "red".into(),
                    detail: String::new(),
                }],
                changed: true,
                dry_run,
                epoch: 5,
                generation: objects.configuration.generation,
                warnings: Vec::new(),
            };
            reply.send(Ok(Applied {
                report,
                objects: Arc::new(objects),
            }));
        }
        Request::FdbAdd { mac, reply, .. } => reply.send(Ok(station(&mac.to_string()))),
        Request::FdbDel { reply, .. } => reply.send(Err(ApiError::conflict("it is in the configuration"))),
        Request::FdbFlush(_, reply) => reply.send(Ok(FlushReport { removed: 7 })),
        // Attachments ask for these, and there are none.
        Request::Standing { .. }
        | Request::Attach { .. }
        | Request::Detach { .. }
        | Request::WhyDown { .. } => {}
        Request::Health(reply) => reply.send(Ok(HealthView {
            version: "1".into(),
            pid: 1,
            uptime_s: 2,
            ready: true,
            ports_up: 2,
            ports: 2,
            epoch: 5,
        })),
    }
}

const VERSION: Version = Version {
    owner: Owner::File,
    generation: 7,
    changed_s: 1_700_000_000,
};

fn drops() -> DropsView {
    let mut ledger = Ledger {
        received: 10,
        sent: 7,
        ..Ledger::default()
    };
    ledger.drops[DropReason::TxFull as usize] = 3;
    DropsView {
        drops: vec![DropView {
            reason: DropReason::TxFull.name().into(),
            packets: 3,
            text: DropReason::TxFull.text().into(),
            advice: DropReason::TxFull.advice().into(),
            ports: [("a".to_owned(), 3)].into(),
        }],
        ledger: LedgerView::new(None, &ledger),
        workers: vec![LedgerView::new(Some(0), &ledger)],
    }
}

/// What stands for a parameter of a path in these tests.
fn example(path: &str) -> String {
    [
        (
            "{name}",
            if path.contains("bridge-domains") {
                "red"
            } else {
                "a"
            },
        ),
        ("{kind}", "port"),
        ("{id}", "0"),
        ("{vtep}", "v0"),
        ("{remote}", "2001:db8::2"),
        ("{reason}", "tx_full"),
        ("{port}", "a"),
        ("{bridge_domain}", "red"),
        ("{mac}", "02:00:00:00:00:01"),
    ]
    .iter()
    .fold(path.to_owned(), |path, (parameter, value)| {
        path.replace(parameter, value)
    })
}

/// Whether a value is what a schema of the description says: types, required fields, words, references.
fn conforms(value: &Value, schema: &Value, all: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let found = all.pointer(reference.trim_start_matches('#'));
        return conforms(value, found.ok_or(format!("{reference} leads nowhere"))?, all);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = choices
            .iter()
            .filter(|choice| conforms(value, choice, all).is_ok())
            .count();
        return (fits == 1)
            .then_some(())
            .ok_or(format!("{value} fits {fits} of {schema}"));
    }
    let types: Vec<_> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => vec![one.as_str()],
        _ => return Err(format!("no type in {schema}")),
    };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.contains(&found) {
        return Err(format!("{value} is not {types:?}"));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Err(format!("{value} is not one of {words:?}"));
    }
    for item in value.as_array().into_iter().flatten() {
        conforms(item, &schema["items"], all)?;
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        if value.get(required.as_str().unwrap_or_default()).is_none() {
            return Err(format!("no {required} in {value}"));
        }
    }
    for (key, field) in value.as_object().into_iter().flatten() {
        match (&schema["properties"][key], &schema["additionalProperties"]) {
            (Value::Null, Value::Null) if schema["properties"].is_null() => {}
            (Value::Null, Value::Null) => return Err(format!("{key} is not described")),
            (Value::Null, other) => conforms(field, other, all)?,
            (property, _) => conforms(field, property, all).map_err(|e| format!("{key}: {e}"))?,
        }
    }
    Ok(())
}

/// The table at the top of docs/api.md has each path with each of its methods, and nothing else.
#[test]
fn the_page_has_every_path() {
    let page = include_str!("../../../docs/api.md");
    let mut written = std::collections::BTreeSet::new();
    let mut paths = Vec::new();
    for row in page
        .lines()
        .skip_while(|line| *line != "| --- | --- | --- |")
        .skip(1)
    {
        let [path, methods, _] = row.trim_matches('|').splitn(3, " | ").collect::<Vec<_>>()[..] else {
            break;
        };
        // A row without a path goes on with the one above.
        if path.contains('`') {
            paths = path.split('`').skip(1).step_by(2).collect();
        }
        for path in &paths {
            let path = path.split('?').next().unwrap();
            written.extend(methods.split(", ").map(|m| format!("{} {path}", m.trim())));
        }
    }
    let (_, description) = Fixture::new().ask("GET", "/openapi.json", "");
    let described = description["paths"].as_object().unwrap().iter();
    let described: std::collections::BTreeSet<_> = described
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    assert_eq!(written, described);
}

#[test]
fn every_route_answers_as_described() {
    let fixture = Fixture::new();
    let (status, description) = fixture.ask("GET", "/openapi.json", "");
    assert_eq!(status, 200);
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut tried = 0;
    let mut ids = std::collections::BTreeSet::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(
                ids.insert(operation["operationId"].to_string()),
                "{what}: id twice"
            );
            assert!(operation["summary"].is_string(), "{what}: no summary");
            // Every parameter in the path is described (OpenAPI 3.1 §4.8.10).
            for name in path
                .split('{')
                .skip(1)
                .map(|rest| rest.split('}').next().unwrap())
            {
                let described = operation["parameters"].as_array().into_iter().flatten();
                assert!(
                    described
                        .clone()
                        .any(|p| p["name"] == name && p["in"] == "path" && p["required"] == true),
                    "{what}: {name}"
                );
            }
            let body = match (method.as_str(), path.as_str()) {
                ("put", "/v1/config") => "bridge-domains: {red: {}}",
                ("put", _) => r#"{"port": "a"}"#,
                _ => "",
            };
            let (status, answer) = fixture.ask(&method.to_uppercase(), &example(path), body);
            let response = &operation["responses"][status.to_string()];
            assert!(
                response["description"].is_string(),
                "{what}: {status} is not described: {answer}"
            );
            let schema = &response["content"]["application/json"]["schema"];
            conforms(&answer, schema, &description).unwrap_or_else(|e| panic!("{what}: {e}"));
            tried += 1;
        }
    }
    assert_eq!(tried, 30);
}

#[test]
fn single_things_and_what_is_not_there() {
    let fixture = Fixture::new();
    let (status, answer) = fixture.ask("GET", "/v1/ports/b", "");
    assert_eq!((status, &answer["name"]), (200, &json!("b")));
    for (path, message) in [
        ("/v1/ports/nobody", "no port is named \"nobody\"; there are: a, b"),
        (
            "/v1/drops/nonsense",
            "no drop reason is named \"nonsense\"; docs/counters.md has all of them",
        ),
        ("/v1/workers/7", "no worker is named \"7\"; there are: 0"),
        (
            "/v1/nonsense?x=y",
            "there is no path /v1/nonsense; /openapi.json describes those that there are",
        ),
    ] {
        let (status, answer) = fixture.ask("GET", path, "");
        assert_eq!(
            (status, answer),
            (
                404,
                json!({"code": "not_found", "message": message, "details": []})
            )
        );
    }
    let (status, answer) = fixture.ask("GET", "/v1/drops/truncated", "");
    assert_eq!((status, &answer["packets"]), (200, &json!(0)));
    let (status, answer) = fixture.ask("POST", "/v1/ports", "");
    assert_eq!((status, &answer["code"]), (405, &json!("method_not_allowed")));
}

#[test]
fn a_configuration_goes_through_the_same_reader_as_a_file() {
    let fixture = Fixture::new();
    let (status, answer) = fixture.ask("PUT", "/v1/config?dry-run=true", "bridge-domains: {red: {}}");
    assert_eq!((status, &answer["dry_run"]), (200, &json!(true)));
    let (status, answer) = fixture.ask("PUT", "/v1/config", r#"{"bridge-domains": {"red": {}}}"#);
    assert_eq!((status, &answer["dry_run"]), (200, &json!(false)));
    assert_eq!(fixture.asked().len(), 2);

    // An empty body must not take every port away.
    for empty in ["", "# ports:\n"] {
        let (status, answer) = fixture.ask("PUT", "/v1/config", empty);
        assert_eq!((status, fixture.asked().len()), (422, 0), "{answer}");
        let message = answer["details"][0]["message"].as_str().unwrap();
        assert!(message.starts_with("the configuration is empty"), "{answer}");
    }
    let (status, answer) = fixture.ask("PUT", "/v1/config", "ports:\n  a: {kind: af-xpd, interfase: x}\n");
    assert_eq!((status, &answer["code"]), (422, &json!("invalid_config")));
    let details = answer["details"].as_array().unwrap();
    assert!(details.len() >= 2, "{answer}");
    assert_eq!(
        (&details[0]["line"], &details[0]["path"]),
        (&json!(2), &json!("ports.a.kind"))
    );
    let (status, answer) = fixture.ask("PUT", "/v1/config?dry_run=true", "{}");
    assert_eq!((status, &answer["code"]), (400, &json!("bad_request")));
    // A wrong one does not reach the control thread.
    assert_eq!(fixture.asked(), Vec::<String>::new());
}

#[test]
fn a_change_can_be_made_for_one_generation_alone() {
    let fixture = Fixture::new();
    let put = |headers: &str| {
        let body = "bridge-domains: {red: {}}";
        exchange(&fixture.socket(), "PUT", "/v1/config", headers, body)
    };
    let (_, tag, _) = exchange(&fixture.socket(), "GET", "/v1/config", "", "");
    assert_eq!(tag.as_deref(), Some("\"7\""));
    for headers in [
        "",
        "If-Match: \"7\"\r\n",
        "If-Match: *\r\n",
        "If-Match: \"6\", \"7\"\r\n",
        "If-Match: \"6\"\r\nIf-Match: \"7\"\r\n",
    ] {
        let (status, tag, answer) = put(headers);
        assert_eq!(
            (status, tag.as_deref()),
            (200, Some("\"8\"")),
            "{headers}: {answer}"
        );
        assert_eq!(answer["generation"], 8);
    }
    // Strong tags alone (RFC 9110 §13.1.1), and none of somebody else's.
    for headers in [
        "If-Match: \"6\"\r\n",
        "If-Match: W/\"7\"\r\n",
        "If-Match: \"sometext\"\r\n",
    ] {
        let (status, _, answer) = put(headers);
        assert_eq!(
            (status, &answer["code"]),
            (412, &json!("precondition_failed")),
            "{headers}"
        );
    }
    fixture.asked();
    for headers in ["If-Match: 7\r\n", "If-Match: \r\n", "If-Match: \"7\", 8\r\n"] {
        let (status, _, answer) = put(headers);
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("bad_request")),
            "{headers}"
        );
    }
    assert_eq!(fixture.asked(), Vec::<String>::new());
}

/// The records of a configuration's objects: `owner kind name generation`.
fn kept(store: &MemoryStore) -> Vec<String> {
    let say = |r: Record| format!("{} {} {} {}", r.owner, r.kind, r.key, r.generation);
    let all = store.clone().load().unwrap().into_iter();
    all.filter(|r| r.kind != ObjectKind::Setting).map(say).collect()
}

#[test]
fn what_is_applied_is_kept_and_the_file_is_known_again() {
    let fixture = Fixture::kept();
    let put = |path: &str, body: &str| {
        let (status, answer) = fixture.ask("PUT", path, body);
        assert_eq!(status, 200, "{answer}");
        answer["warnings"].clone()
    };
    let before = kept(&fixture.store);
    assert_eq!(before, ["file config configuration 1", "file config file 1"]);
    put("/v1/config?dry-run=true", "bridge-domains: {red: {}}");
    assert_eq!(kept(&fixture.store), before);
    fixture.store.fail(Fault::At(2));
    let warnings = put("/v1/config", "bridge-domains: {red: {}}");
    assert!(warnings[0].as_str().unwrap().contains("goes back"), "{warnings}");
    assert_eq!(kept(&fixture.store), before);
    // Once more is enough, though the control thread has it already.
    assert_eq!(put("/v1/config", "bridge-domains: {red: {}}"), json!([]));
    assert_eq!(
        kept(&fixture.store),
        [
            "apply config configuration 8",
            "file config file 1",
            "apply bridge-domain red 1"
        ]
    );

    // What the file says now, in whichever words.
    let fixture = Fixture::kept();
    let file = fixture.dir.path().join("clearway.yaml");
    std::fs::write(file, "# mine\nbridge-domains:\n  red: {learning: true}\n").unwrap();
    let (status, answer) = fixture.ask("PUT", "/v1/config", r#"{"bridge-domains": {"red": {}}}"#);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        kept(&fixture.store),
        [
            "file config configuration 8",
            "file config file 8",
            "file bridge-domain red 1"
        ]
    );
    let records = fixture.store.clone().load().unwrap();
    let file = records.iter().find(|record| record.key == "file").unwrap();
    assert!(file.value["bridge-domains"]["red"].is_object(), "{}", file.value);
}

/// A client that is interrupted while the engine changes: the store is of what the engine has.
#[test]
fn nobody_who_hangs_up_parts_engine_and_store() {
    let fixture = Fixture::kept();
    let (path, body) = ("/v1/config", "bridge-domains: {red: {}}");
    let slow = fixture.slow.lock().unwrap();
    let client = request(&fixture.socket(), "PUT", path, "", body);
    let patience = std::time::Duration::from_secs(10);
    let begun = std::time::Instant::now();
    while fixture.asked().is_empty() {
        assert!(begun.elapsed() < patience, "the control thread was not asked");
    }
    drop(client);
    // The server sees the end of the connection meanwhile.
    assert_eq!(http(&fixture.socket(), "GET", "/openapi.json", "").0, 200);
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop(slow);
    while kept(&fixture.store).len() < 3 {
        assert!(begun.elapsed() < patience, "the store has not heard of it");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn objects_are_of_the_control_thread_and_of_the_store() {
    let fixture = Fixture::kept();
    let (status, answer) = fixture.ask("GET", "/v1/objects/port/a", "");
    assert_eq!((status, &answer["owner"]), (200, &json!("file")));
    let (status, answer) = fixture.ask("GET", "/v1/objects/port/b", "");
    let message = "no port is named \"b\"; there are: a";
    assert_eq!((status, &answer["message"]), (404, &json!(message)));
    let (status, answer) = fixture.ask("GET", "/v1/objects/attachment/c%2Fnet1", "");
    let message = "no attachment is named \"c/net1\"; there is no attachment at all";
    assert_eq!((status, &answer["message"]), (404, &json!(message)));
}

#[test]
fn a_body_that_is_too_long_is_refused_and_garbage_is_not_sent_back() {
    let fixture = Fixture::new();
    let (status, answer) = fixture.ask("PUT", "/v1/config", &"x".repeat((32 << 20) + 1));
    assert_eq!((status, &answer["code"]), (413, &json!("too_large")), "{answer}");
    let (status, answer) = fixture.ask("PUT", "/v1/config", &"x".repeat(30 << 20));
    assert_eq!(status, 422);
    assert!(
        answer.to_string().len() < 1000,
        "{} bytes",
        answer.to_string().len()
    );
    let station = format!("{{\"{}\": 1}}", "x".repeat(100_000));
    let (status, answer) = fixture.ask("PUT", "/v1/fdb/red/02:00:00:00:00:09", &station);
    assert_eq!((status, &answer["code"]), (413, &json!("too_large")), "{answer}");
    assert_eq!(fixture.asked(), Vec::<String>::new());
}

#[test]
fn stations() {
    let fixture = Fixture::new();
    let path = "/v1/fdb/red/02:00:00:00:00:09";
    let (status, answer) = fixture.ask("PUT", path, r#"{"remote": "10.0.0.2"}"#);
    assert_eq!((status, &answer["mac"]), (200, &json!("02:00:00:00:00:09")));
    for (path, body) in [
        (path, ""),
        (path, "{}"),
        (path, r#"{"port": "a", "remote": "10.0.0.2"}"#),
        (path, r#"{"prot": "a"}"#),
        ("/v1/fdb/red/01:00:00:00:00:09", r#"{"port": "a"}"#),
        ("/v1/fdb/red/02-no-mac", r#"{"port": "a"}"#),
    ] {
        let (status, answer) = fixture.ask("PUT", path, body);
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("bad_request")),
            "{path} {body}"
        );
    }
    let (status, answer) = fixture.ask("DELETE", path, "");
    assert_eq!(
        (status, &answer["message"]),
        (409, &json!("it is in the configuration"))
    );
    fixture.asked();
    let (status, answer) = fixture.ask("DELETE", "/v1/fdb?bridge-domain=red&port=a", "");
    assert_eq!((status, answer), (200, json!({"removed": 7})));
    let filter = FdbFilter {
        bridge_domain: Some(clearway_config::Name::new("red").unwrap()),
        port: Some(clearway_config::Name::new("a").unwrap()),
    };
    assert_eq!(fixture.asked(), [format!("FdbFlush({filter:?}, Reply)")]);
    let (status, _) = fixture.ask("GET", "/v1/fdb?bridge_domain=red", "");
    assert_eq!(status, 400);
}

#[test]
fn a_control_thread_that_ended_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let running = Server::bind(&path)
        .unwrap()
        .start(Handle::new(|_| false), none(), None)
        .unwrap();
    let (status, answer) = http(&path, "GET", "/v1/ports", "");
    assert_eq!((status, &answer["code"]), (503, &json!("shutting_down")));
    running.stop();
    // It dropped the request, as one does that ends in the middle of things.
    let running = Server::bind(&path)
        .unwrap()
        .start(Handle::new(|_| true), none(), None)
        .unwrap();
    assert_eq!(http(&path, "GET", "/v1/ports", "").0, 503);
    running.stop();
}

#[test]
fn stopping_closes_idle_connections_and_removes_the_socket() {
    let mut fixture = Fixture::new();
    let mut idle = UnixStream::connect(fixture.socket()).unwrap();
    fixture.ask("GET", "/healthz", "");
    let begun = std::time::Instant::now();
    fixture.running.take().unwrap().stop();
    assert!(begun.elapsed() < std::time::Duration::from_secs(3));
    assert!(!fixture.socket().exists());
    assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0);
}
