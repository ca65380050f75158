//! The objects of the configuration: who has said each, and how often it has changed. Pure.
//!
//! ```text
//!   file, apply ──► Spec ──► parts: port a, bridge domain red, …     Objects: owner and generation of each
//!                                          └────────── next ──────────────┘
//! ```
//!
//! Rules, which `docs/attachments.md` tells users: an `apply` owns what it changes and leaves the rest to its owner; the
//! file, whenever it is read, owns all that it says. An object that is as it was keeps its generation.

use std::collections::BTreeMap;

use clearway_config::{AddressPool, Api, BridgeDomain, CrossConnect, Engine, Name, Port, Spec, Sriov, Vtep};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::store::{ObjectKind, Owner};

/// Which object: its kind, and its name among these.
pub(crate) type Key = (ObjectKind, String);

/// Who has said it, and how often it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Who has said it as it is.
    pub(crate) owner: Owner,
    /// Times that it was changed, from 1.
    pub(crate) generation: u64,
    /// When that was last, in seconds since 1970-01-01 UTC; 0: not known.
    pub(crate) changed_s: u64,
}

impl Version {
    /// That of what a container runtime asked for: it never changes, it goes.
    pub(crate) const CNI: Self = Self {
        owner: Owner::Cni,
        generation: 1,
        changed_s: 0,
    };
}

/// The versions of a configuration and of each of its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Objects {
    /// That of the whole: it goes up whenever one of its objects is added, changed or removed, or gets another owner.
    pub(crate) configuration: Version,
    all: BTreeMap<Key, Version>,
}

impl Objects {
    /// Those of a configuration that nothing was before.
    pub(crate) fn first(spec: &Spec, by: Owner, now_s: u64) -> Self {
        let nothing = Self::of(
            Version {
                owner: by,
                generation: 0,
                changed_s: 0,
            },
            BTreeMap::new(),
        );
        nothing.next(&Spec::default(), spec, by, now_s)
    }

    /// Those that were known before.
    pub(crate) fn of(configuration: Version, all: BTreeMap<Key, Version>) -> Self {
        Self { configuration, all }
    }

    /// What they become when `by` replaces the configuration `old`, which they are of, with `new`.
    pub(crate) fn next(&self, old: &Spec, new: &Spec, by: Owner, now_s: u64) -> Self {
        let (old, new) = (parts(old), parts(new));
        let version = |key: &Key, part: &Part<'_>| match self.all.get(key) {
            Some(version) if old.get(key) == Some(part) => match by {
                Owner::File => Version {
                    owner: by,
                    ..*version
                },
                _ => *version,
            },
            before => Version {
                owner: by,
                generation: before.map_or(0, |before| before.generation) + 1,
                changed_s: now_s,
            },
        };
        let all: BTreeMap<_, _> = new
            .iter()
            .map(|(key, part)| (key.clone(), version(key, part)))
            .collect();
        let before = self.configuration;
        let same = before.generation > 0 && all == self.all && (by != Owner::File || before.owner == by);
        let configuration = match same {
            true => before,
            false => Version {
                owner: by,
                generation: before.generation + 1,
                changed_s: now_s,
            },
        };
        Self { configuration, all }
    }

    /// That of one object.
    pub(crate) fn get(&self, kind: ObjectKind, name: &str) -> Option<Version> {
        self.all.get(&(kind, name.to_owned())).copied()
    }

    /// All, in the order of kind and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Version)> {
        self.all.iter()
    }
}

/// One object's part of a configuration.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Part<'a> {
    Engine(&'a Engine),
    Api(&'a Api),
    Sriov(&'a Sriov),
    Port(&'a Port),
    BridgeDomain(&'a BridgeDomain),
    Vtep(&'a Vtep),
    AddressPool(&'a AddressPool),
    /// In the order of their names: which is written first says nothing.
    CrossConnect(&'a Name, &'a Name),
}

/// The objects of a configuration.
pub(crate) fn parts(spec: &Spec) -> BTreeMap<Key, Part<'_>> {
    fn named<'a, T, P>(
        kind: ObjectKind,
        section: &'a BTreeMap<Name, T>,
        part: P,
    ) -> impl Iterator<Item = (Key, Part<'a>)>
    where
        P: Fn(&'a T) -> Part<'a>,
    {
        section
            .iter()
            .map(move |(name, item)| ((kind, name.to_string()), part(item)))
    }
    fn pair(CrossConnect(a, b): &CrossConnect) -> (Key, Part<'_>) {
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        let key = (ObjectKind::CrossConnect, format!("{a}/{b}"));
        (key, Part::CrossConnect(a, b))
    }
    let setting = |name: &str, part| ((ObjectKind::Setting, name.to_owned()), part);
    let settings = [
        setting("engine", Part::Engine(&spec.engine)),
        setting("api", Part::Api(&spec.api)),
    ];
    // Without SR-IOV there is nothing to be said of it.
    let sriov = (!spec.sriov.is_empty()).then(|| setting("sriov", Part::Sriov(&spec.sriov)));
    settings
        .into_iter()
        .chain(sriov)
        .chain(named(ObjectKind::Port, &spec.ports, Part::Port))
        .chain(named(
            ObjectKind::BridgeDomain,
            &spec.bridge_domains,
            Part::BridgeDomain,
        ))
        .chain(named(ObjectKind::Vtep, &spec.vteps, Part::Vtep))
        .chain(named(
            ObjectKind::AddressPool,
            &spec.address_pools,
            Part::AddressPool,
        ))
        .chain(spec.cross_connects.iter().map(pair))
        .collect()
}

/// The configuration of these objects, each with its value as JSON.
pub(crate) fn whole(objects: impl IntoIterator<Item = (Key, Value)>) -> Result<Spec, serde_json::Error> {
    let mut spec = Map::from_iter([("version".to_owned(), json!(Spec::VERSION))]);
    for ((kind, name), value) in objects {
        let section = match kind {
            ObjectKind::Setting => {
                spec.insert(name, value);
                continue;
            }
            ObjectKind::CrossConnect => {
                let pairs = spec.entry("cross-connects").or_insert_with(|| json!([]));
                if let Some(pairs) = pairs.as_array_mut() {
                    pairs.push(value);
                }
                continue;
            }
            ObjectKind::Port => "ports",
            ObjectKind::BridgeDomain => "bridge-domains",
            ObjectKind::Vtep => "vteps",
            ObjectKind::AddressPool => "address-pools",
            ObjectKind::Config | ObjectKind::Attachment | ObjectKind::Lease | ObjectKind::Sticky => continue,
        };
        spec.entry(section).or_insert_with(|| json!({}))[name] = value;
    }
    serde_json::from_value(Value::Object(spec))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "ports:
  a: {kind: memory, access: red}
  b: {kind: memory, trunk: [20]}
  c: {kind: memory}
  d: {kind: memory}
bridge-domains: {red: {vlan: 10, vni: 7}, green: {vlan: 20}}
vteps: {v: {local: 192.0.2.1}}
address-pools: {p: {subnets: [{subnet: 10.8.0.0/24}]}}
cross-connects: [[d, c]]
sriov: {pfs: {eth1: {vfs: 4}}}
";

    fn spec(text: &str) -> Spec {
        Spec::from_yaml(text, "test").unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// `owner generation changed` of the whole and of what is not as at first.
    fn said(objects: &Objects) -> Vec<String> {
        let say = |what: &str, v: &Version| format!("{what} {} {} {}", v.owner, v.generation, v.changed_s);
        let others = objects
            .iter()
            .filter(|(_, v)| (v.owner, v.generation) != (Owner::File, 1));
        let others = others.map(|((kind, name), version)| say(&format!("{kind} {name}"), version));
        let whole = say("all", &objects.configuration);
        std::iter::once(whole).chain(others).collect()
    }

    #[test]
    fn each_change_is_its_owner_s_and_counts_alone() {
        let file = spec(FILE);
        let first = Objects::first(&file, Owner::File, 1);
        assert_eq!(
            (said(&first), first.iter().count()),
            (vec!["all file 1 1".to_owned()], 12)
        );
        assert_eq!(
            first.next(&file, &file, Owner::Apply, 2),
            first,
            "nothing has changed"
        );

        let text = FILE.replace("[20]", "[10]").replace("10.8.0", "10.9.0");
        let text = text.replace("[[d, c]]", "[[c, d]]").replace(", vni: 7", "");
        let used = spec(&text.replace("vteps: {v: {local: 192.0.2.1}}", "vteps: {w: {local: 192.0.2.1}}"));
        let second = first.next(&file, &used, Owner::Apply, 2);
        let wanted = [
            "all apply 2 2",
            "port b apply 2 2",
            "bridge-domain red apply 2 2",
            "vtep w apply 1 2",
            "address-pool p apply 2 2",
        ];
        assert_eq!(said(&second), wanted);
        // Back again: what is as it was before is a change, too.
        let third = second.next(&used, &spec(&text), Owner::Apply, 3);
        assert_eq!(
            (said(&third)[0].as_str(), said(&third).len()),
            ("all apply 3 3", 5)
        );
        assert_eq!(
            third
                .get(ObjectKind::Vtep, "v")
                .map(|v| (v.generation, v.changed_s)),
            Some((1, 3))
        );
        assert_eq!(third.get(ObjectKind::Vtep, "w"), None);
    }

    #[test]
    fn the_file_owns_what_it_says() {
        let file = spec(FILE);
        let used = spec(&FILE.replace("[20]", "[10]"));
        let first = Objects::first(&file, Owner::File, 1);
        let second = first.next(&file, &used, Owner::Apply, 2);
        assert_eq!(said(&second), ["all apply 2 2", "port b apply 2 2"]);
        // The file says the same now: nothing changes but the owner.
        let third = second.next(&used, &used, Owner::File, 3);
        assert_eq!(said(&third), ["all file 3 3", "port b file 2 2"]);
        assert_eq!(third.next(&used, &used, Owner::File, 4), third);
        // What an `apply` took away, the file takes away as well: it owns that change.
        let less = spec(&FILE.replace("cross-connects: [[d, c]]\n", ""));
        let applied = first.next(&file, &less, Owner::Apply, 5);
        assert_eq!(said(&applied), ["all apply 2 5"]);
        assert_eq!(
            said(&applied.next(&less, &less, Owner::File, 6)),
            ["all file 3 6"]
        );
    }

    #[test]
    fn a_configuration_is_made_of_its_parts() {
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/examples");
        let examples = std::fs::read_dir(examples).expect("there are some").flatten();
        let texts = examples.map(|file| std::fs::read_to_string(file.path()).expect("a file"));
        let mut specs: Vec<_> = texts.map(|text| spec(&text)).collect();
        assert!(specs.len() > 5, "{}", specs.len());
        specs.extend([Spec::default(), spec(FILE)]);
        for spec in specs {
            let values = parts(&spec).into_iter();
            let values = values.map(|(key, part)| (key, serde_json::to_value(part).expect("JSON")));
            let again = whole(values).expect("it was one");
            assert_eq!(parts(&again), parts(&spec));
            assert_eq!(
                (again.version, &again.engine, &again.ports),
                (spec.version, &spec.engine, &spec.ports)
            );
        }
    }
}
