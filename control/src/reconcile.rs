//! What has to be done to get from one configuration to another: a pure function.
//!
//! ```text
//!   plan(what is in use, what is wanted) ──► Refused (nothing is done)
//!                                        └─► [Action]: apply · dry run · start
//! ```
//!
//! Guarantees: a port that no [`Action::ReopenPort`] or [`Action::RemovePort`] names is not touched: it loses no packet.
//! What the workers' threads or the API socket were started with can't change live and is refused as a whole.

use std::collections::{BTreeMap, BTreeSet};

use clearway_config::{Name, Port, Queues, Spec};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// A port that was not there.
    AddPort(Name),
    /// A port that can only change by being closed and opened anew: its own traffic is interrupted.
    ReopenPort(Name, Vec<String>),
    /// A port whose queues go to other workers, without being closed.
    MovePort(Name, String),
    /// A port that changes in the tables, or in its XDP program's maps, only.
    ChangePort(Name, Vec<String>),
    /// A port that goes.
    RemovePort(Name),
    /// Anything that lives in the tables alone.
    Table {
        /// What becomes of it.
        change: Fate,
        /// `engine`, `bridge-domain`, `vtep`, `address-pool`, `cross-connect`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is different.
        detail: String,
    },
}

/// What becomes of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is new.
    Add,
    /// It changes.
    Change,
    /// It goes.
    Remove,
}

/// A change that is not possible while the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path} can't change while the daemon runs (from {from} to {to}): restart it with the new configuration; nothing was changed"
)]
pub(crate) struct Refused {
    /// The key.
    pub(crate) path: &'static str,
    from: String,
    to: String,
}

/// The steps from `now` to `wanted`, in the order in which they are done.
pub(crate) fn plan(now: &Spec, wanted: &Spec) -> Result<Vec<Action>, Refused> {
    refuse(now, wanted)?;
    let mut actions = Vec::from_iter(engine(now, wanted));
    actions.extend(ports(now, wanted));
    actions.extend(section(
        "bridge-domain",
        &now.bridge_domains,
        &wanted.bridge_domains,
    ));
    actions.extend(section("vtep", &now.vteps, &wanted.vteps));
    actions.extend(section("address-pool", &now.address_pools, &wanted.address_pools));
    actions.extend(cross_connects(now, wanted));
    // What goes, goes last: its place in the tables is gone by then.
    actions.extend(
        now.ports
            .keys()
            .filter(|name| !wanted.ports.contains_key(*name))
            .map(|name| Action::RemovePort(name.clone())),
    );
    Ok(actions)
}

fn refuse(now: &Spec, wanted: &Spec) -> Result<(), Refused> {
    let (a, b) = (&now.engine, &wanted.engine);
    let cores = |spec: &Spec| {
        let cores: Vec<_> = spec
            .engine
            .workers
            .iter()
            .map(|worker| worker.core.to_string())
            .collect();
        if cores.is_empty() {
            "chosen by the daemon".to_owned()
        } else {
            format!("cores {}", cores.join(", "))
        }
    };
    let checks = [
        ("engine.workers", cores(now), cores(wanted)),
        ("engine.idle", word(&a.idle), word(&b.idle)),
        (
            "engine.fdb-capacity",
            a.fdb_capacity.to_string(),
            b.fdb_capacity.to_string(),
        ),
        ("engine.hugepages", word(&a.hugepages), word(&b.hugepages)),
        (
            "api.socket",
            now.api.socket.display().to_string(),
            wanted.api.socket.display().to_string(),
        ),
    ];
    match checks.into_iter().find(|(_, from, to)| from != to) {
        Some((path, from, to)) => Err(Refused { path, from, to }),
        None => Ok(()),
    }
}

/// What of `engine` can change live.
fn engine(now: &Spec, wanted: &Spec) -> Option<Action> {
    let (old, new) = (now.engine.max_guest_memory, wanted.engine.max_guest_memory);
    let text = |limit: Option<u32>| limit.map_or("absent".to_owned(), |mib| mib.to_string());
    (old != new).then(|| Action::Table {
        change: Fate::Change,
        kind: "engine",
        name: "max-guest-memory".to_owned(),
        detail: format!("{} to {}", text(old), text(new)),
    })
}

/// A value as the configuration writes it.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => "?".to_owned(),
    }
}

fn ports(now: &Spec, wanted: &Spec) -> Vec<Action> {
    let mut actions = Vec::new();
    for (name, port) in &wanted.ports {
        let Some(old) = now.ports.get(name) else {
            actions.push(Action::AddPort(name.clone()));
            continue;
        };
        if old == port {
            continue;
        }
        let reasons = reopen_reasons(old, port);
        if !reasons.is_empty() {
            actions.push(Action::ReopenPort(name.clone(), reasons));
            continue;
        }
        if old.workers != port.workers {
            let detail = format!("workers: {} to {}", word(&old.workers), word(&port.workers));
            actions.push(Action::MovePort(name.clone(), detail));
        }
        let changes = keys_changed(old, port);
        if changes.iter().any(|change| !change.starts_with("workers:")) {
            actions.push(Action::ChangePort(name.clone(), changes));
        }
    }
    actions
}

/// Why a port has to be closed and opened anew; nothing: it can stay.
fn reopen_reasons(old: &Port, new: &Port) -> Vec<String> {
    // All that the sockets, the UMEM and the files of a port are made of. `replace` matters only when a program is
    // attached; `steering` changes live in the program's settings.
    let built = |port: &Port| {
        let mut keys = keys_of(port);
        keys.retain(|key, _| {
            matches!(
                key.as_str(),
                "kind"
                    | "interface"
                    | "netns"
                    | "persistent"
                    | "mode"
                    | "queues"
                    | "busy-poll"
                    | "busy-poll-budget"
                    | "ring-size"
                    | "frames"
                    | "read"
                    | "write"
                    | "loop"
                    | "rate"
                    | "socket"
                    | "client"
                    | "queue-pairs"
                    | "owner"
                    | "group"
                    | "permissions"
                    | "selinux-label"
            )
        });
        keys
    };
    let (mut a, mut b) = (built(old), built(new));
    if let (Queues::List(x), Queues::List(y)) = (&old.queues, &new.queues) {
        let set = |list: &[u16]| list.iter().copied().collect::<BTreeSet<_>>();
        if set(x) == set(y) {
            a.remove("queues");
            b.remove("queues");
        }
    }
    differences(&a, &b)
}

type Keys = serde_json::Map<String, serde_json::Value>;

fn keys_of(value: &impl serde::Serialize) -> Keys {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => Keys::new(),
    }
}

/// The keys that differ, with both values.
fn keys_changed<T: serde::Serialize>(old: &T, new: &T) -> Vec<String> {
    differences(&keys_of(old), &keys_of(new))
}

fn differences(old: &Keys, new: &Keys) -> Vec<String> {
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let text = |value: Option<&serde_json::Value>| match value {
        None => "absent".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| format!("{name}: {} to {}", text(old.get(name)), text(new.get(name))))
        .collect()
}

fn section<T: PartialEq + serde::Serialize>(
    kind: &'static str,
    now: &BTreeMap<Name, T>,
    wanted: &BTreeMap<Name, T>,
) -> Vec<Action> {
    let table = |change, name: &Name, detail| Action::Table {
        change,
        kind,
        name: name.to_string(),
        detail,
    };
    let mut actions = Vec::new();
    for (name, item) in wanted {
        match now.get(name) {
            None => actions.push(table(Fate::Add, name, String::new())),
            Some(old) if old != item => {
                actions.push(table(Fate::Change, name, keys_changed(old, item).join("; ")));
            }
            Some(_) => {}
        }
    }
    let gone = now.keys().filter(|name| !wanted.contains_key(*name));
    actions.extend(gone.map(|name| table(Fate::Remove, name, String::new())));
    actions
}

fn cross_connects(now: &Spec, wanted: &Spec) -> Vec<Action> {
    let pairs = |spec: &Spec| -> BTreeSet<(Name, Name)> {
        let pairs = spec.cross_connects.iter();
        pairs
            .map(|pair| {
                let (a, b) = (pair.0.clone(), pair.1.clone());
                if a <= b { (a, b) } else { (b, a) }
            })
            .collect()
    };
    let (a, b) = (pairs(now), pairs(wanted));
    let table = |change, (left, right): &(Name, Name)| Action::Table {
        change,
        kind: "cross-connect",
        name: format!("{left}-{right}"),
        detail: String::new(),
    };
    let added = b.difference(&a).map(|pair| table(Fate::Add, pair));
    let removed = a.difference(&b).map(|pair| table(Fate::Remove, pair));
    added.chain(removed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "ports:
  a: {kind: af-xdp, interface: e0, access: red}
  b: {kind: af-xdp, interface: e1, trunk: [10]}
  c: {kind: memory}
  d: {kind: memory}
  g: {kind: vhost-user, socket: /run/g.sock, access: red}
bridge-domains: {red: {vlan: 10, vni: 7}}
vteps: {v: {local: 192.0.2.1}}
address-pools: {p: {subnets: [{subnet: 10.9.0.0/24}]}}
cross-connects: [[c, d]]
";

    fn spec(text: &str) -> Spec {
        Spec::from_yaml(text, "test").unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The plan from the base to the base with one text replaced, as text.
    fn planned(from: &str, to: &str) -> Vec<String> {
        assert!(BASE.contains(from), "{from}");
        let steps = plan(&spec(BASE), &spec(&BASE.replace(from, to))).expect("possible");
        steps.iter().map(text).collect()
    }

    fn text(action: &Action) -> String {
        match action {
            Action::AddPort(name) => format!("add {name}"),
            Action::ReopenPort(name, why) => format!("reopen {name} ({})", why.join(", ")),
            Action::MovePort(name, detail) => format!("move {name} ({detail})"),
            Action::ChangePort(name, what) => format!("change {name} ({})", what.join(", ")),
            Action::RemovePort(name) => format!("remove {name}"),
            Action::Table {
                change,
                kind,
                name,
                detail,
            } => format!("{change:?} {kind} {name} ({detail})").to_lowercase(),
        }
    }

    #[test]
    fn nothing_is_done_for_nothing() {
        assert_eq!(plan(&spec(BASE), &spec(BASE)), Ok(Vec::new()));
    }

    #[test]
    fn a_start_adds_all() {
        let steps = plan(&Spec::default(), &spec(BASE)).expect("possible");
        assert_eq!(
            steps.iter().map(text).collect::<Vec<_>>(),
            [
                "add a",
                "add b",
                "add c",
                "add d",
                "add g",
                "add bridge-domain red ()",
                "add vtep v ()",
                "add address-pool p ()",
                "add cross-connect c-d ()"
            ]
        );
    }

    #[test]
    fn only_what_is_named_blinks() {
        for (from, to, steps) in [
            (
                "interface: e0",
                "interface: e9",
                &["reopen a (interface: e0 to e9)"] as &[&str],
            ),
            (
                "interface: e0",
                "interface: e0, mode: copy",
                &["reopen a (mode: auto to copy)"],
            ),
            (
                "interface: e0",
                "interface: e0, queues: [0]",
                &["reopen a (queues: all to [0])"],
            ),
            (
                "interface: e0",
                "interface: e0, ring-size: 128",
                &["reopen a (ring-size: absent to 128)"],
            ),
            (
                "interface: e0",
                "interface: e0, mode: copy, mtu: 1400",
                &["reopen a (mode: auto to copy)"],
            ),
            (
                "trunk: [10]",
                "trunk: [10], steering: shared",
                &["change b (steering: exclusive to shared)"],
            ),
            (
                "interface: e0",
                "interface: e0, replace: true",
                &["change a (replace: false to true)"],
            ),
            (
                "trunk: [10]",
                "trunk: [all]",
                &["change b (trunk: [10] to [\"all\"])"],
            ),
            (
                "interface: e0",
                "interface: e0, workers: {0: 1}",
                &["move a (workers: {} to {\"0\":1})"],
            ),
            (
                "g.sock",
                "g.sock, max-guest-memory: 64",
                &["change g (max-guest-memory: absent to 64)"],
            ),
            (
                "ports:",
                "engine: {max-guest-memory: 64}\nports:",
                &["change engine max-guest-memory (absent to 64)"],
            ),
            (
                "vlan: 10, vni: 7",
                "vlan: 10, vni: 8",
                &["change bridge-domain red (vni: 7 to 8)"],
            ),
            (
                "192.0.2.1",
                "192.0.2.2",
                &["change vtep v (local: 192.0.2.1 to 192.0.2.2)"],
            ),
            (
                "{subnet: 10.9.0.0/24}]",
                "{subnet: 10.9.0.0/24}], routes: [{to: 10.0.0.0/8, via: 10.9.0.1}]",
                &[r#"change address-pool p (routes: absent to [{"to":"10.0.0.0/8","via":"10.9.0.1"}])"#],
            ),
            (
                "address-pools: {p:",
                "address-pools: {q:",
                &["add address-pool q ()", "remove address-pool p ()"],
            ),
            ("[[c, d]]", "[[d, c]]", &[]),
        ] {
            // A worker that is named has to be there.
            let steps_found = if to.contains("workers") {
                let mut wanted = spec(BASE);
                let port = wanted.ports.get_mut("a").expect("a is there");
                port.workers.insert(0, 1);
                plan(&spec(BASE), &wanted)
                    .expect("possible")
                    .iter()
                    .map(text)
                    .collect()
            } else {
                planned(from, to)
            };
            assert_eq!(steps_found, steps, "{from} → {to}");
        }
    }

    #[test]
    fn what_goes_goes_last() {
        let steps = planned(
            "  b: {kind: af-xdp, interface: e1, trunk: [10]}\n",
            "  e: {kind: af-xdp, interface: e1, trunk: [10]}\n",
        );
        assert_eq!(steps, ["add e", "remove b"]);
    }

    #[test]
    fn what_was_started_with_is_refused() {
        for (text, path) in [
            ("engine: {workers: [{core: 1}]}\n", "engine.workers"),
            ("engine: {idle: spin}\n", "engine.idle"),
            ("engine: {fdb-capacity: 2048}\n", "engine.fdb-capacity"),
            ("engine: {hugepages: require}\n", "engine.hugepages"),
            ("api: {socket: /tmp/x}\n", "api.socket"),
        ] {
            let refused = plan(&spec(BASE), &spec(&format!("{text}{BASE}"))).expect_err(path);
            assert_eq!(refused.path, path);
            assert!(refused.to_string().contains("restart"), "{refused}");
        }
    }
}
