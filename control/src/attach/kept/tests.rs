//! A configuration's life, with a store that fails and a daemon that ends at every step of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::*;
use crate::attach::HostGround;
use crate::handle::Handle;
use crate::store::{Fault, MemoryStore, Store};

const FILE: &str = "ports: {a: {kind: memory, access: red}, b: {kind: memory, access: red}}\nbridge-domains: {red: {vlan: 10}}\n";

fn spec(text: &str) -> Spec {
    Spec::from_yaml(text, "test").unwrap_or_else(|errors| panic!("{errors}"))
}

/// A store that notes which records are written: `put KIND KEY`, `delete KIND KEY`.
#[derive(Clone, Default)]
struct Noted {
    store: MemoryStore,
    changes: Arc<Mutex<Vec<String>>>,
}

impl Noted {
    fn changes(&self) -> Vec<String> {
        std::mem::take(&mut *self.changes.lock().expect("no panic"))
    }

    /// A daemon that begins.
    fn manager(&self) -> Manager {
        let ground = HostGround::new(Handle::new(|_| false), PathBuf::from("/nowhere"));
        Manager::open(Box::new(self.clone()), Box::new(ground)).expect("what was written can be read")
    }
}

impl Store for Noted {
    fn load(&mut self) -> Result<Vec<Record>, StoreError> {
        self.store.load()
    }
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let say = |change: &Change| match change {
            Change::Put(record) => format!("put {} {}", record.kind, record.key),
            Change::Delete { kind, key } => format!("delete {kind} {key}"),
        };
        let mut noted = self.changes.lock().expect("no panic");
        noted.extend(changes.iter().map(say));
        self.store.commit(changes)
    }
    fn flush(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A daemon: what its file says, what it uses, and the store.
struct Daemon {
    manager: Manager,
    used: Spec,
    objects: Objects,
}

impl Daemon {
    fn start(store: &Noted, file: &Spec) -> Self {
        let manager = store.manager();
        let (used, objects) = manager.resume(file, |_| Ok(()));
        Self {
            manager,
            used,
            objects,
        }
    }

    /// What control thread and API do: first the engine, then the store.
    fn apply(&mut self, spec: &Spec, by: Owner) -> bool {
        self.objects = self.objects.next(&self.used, spec, by, now_s());
        self.used = spec.clone();
        self.manager.applied(&self.used, &self.objects, by).is_ok()
    }
}

fn owners(daemon: &Daemon) -> String {
    let say =
        |(key, version): (&Key, &Version)| format!("{} {} {}", key.1, version.owner, version.generation);
    let all: Vec<_> = daemon
        .objects
        .iter()
        .filter(|(key, _)| key.0 != ObjectKind::Setting)
        .map(say)
        .collect();
    format!("{} | {}", daemon.objects.configuration.generation, all.join(", "))
}

#[test]
fn only_what_changes_is_written() {
    let store = Noted::default();
    let file = spec(FILE);
    let mut daemon = Daemon::start(&store, &file);
    assert_eq!(owners(&daemon), "1 | a file 1, b file 1, red file 1");
    assert_eq!(
        store.changes().len(),
        7,
        "three objects, two settings, the file, the whole"
    );
    assert!(daemon.apply(&file, Owner::Apply));
    assert_eq!(store.changes(), [""; 0], "nothing has changed");
    let used = spec(&FILE.replace(
        "b: {kind: memory, access: red}",
        "b: {kind: memory, access: red, mtu: 9000}",
    ));
    assert!(daemon.apply(&used, Owner::Apply));
    assert_eq!(store.changes(), ["put port b", "put config configuration"]);
    let less = spec("ports: {a: {kind: memory, access: red}}\nbridge-domains: {red: {vlan: 10}, new: {}}\n");
    assert!(daemon.apply(&less, Owner::Apply));
    let written = [
        "put bridge-domain new",
        "delete port b",
        "put config configuration",
    ];
    assert_eq!(store.changes(), written);
    assert!(daemon.apply(&less, Owner::File));
    let written = [
        "put bridge-domain new",
        "put config file",
        "put config configuration",
    ];
    assert_eq!(store.changes(), written);
    let before = owners(&daemon);
    let daemon = Daemon::start(&store, &less);
    assert_eq!((owners(&daemon), daemon.used), (before, less));
    assert_eq!(store.changes(), [""; 0], "a start that changes nothing");
}

#[test]
fn a_file_that_has_changed_counts() {
    let store = Noted::default();
    let (file, applied) = (spec(FILE), spec(&FILE.replace("vlan: 10", "vlan: 11")));
    Daemon::start(&store, &file).apply(&applied, Owner::Apply);
    let daemon = Daemon::start(&store, &file);
    assert_eq!(
        (owners(&daemon).as_str(), &daemon.used),
        ("2 | a file 1, b file 1, red apply 2", &applied)
    );
    // It says what was applied, and something more.
    let changed = spec(&FILE.replace("vlan: 10}", "vlan: 11}, blue: {}"));
    let daemon = Daemon::start(&store, &changed);
    let wanted = "3 | a file 1, b file 1, blue file 1, red file 2";
    assert_eq!((owners(&daemon).as_str(), &daemon.used), (wanted, &changed));
    assert_eq!(owners(&Daemon::start(&store, &changed)), wanted);
}

#[test]
fn what_this_host_cannot_do_is_kept_for_one_that_can() {
    let store = Noted::default();
    let (file, applied) = (spec(FILE), spec(&FILE.replace("vlan: 10", "vlan: 11")));
    Daemon::start(&store, &file).apply(&applied, Owner::Apply);
    let (used, objects) = store.manager().resume(&file, |_| Err("no such core".to_owned()));
    assert_eq!((used, objects.configuration.generation), (file.clone(), 3));
    assert_eq!(Daemon::start(&store, &file).used, applied);
}

#[test]
fn a_daemon_without_a_file_keeps_nothing() {
    let store = Noted::default();
    Daemon::start(&store, &spec(FILE));
    store.changes();
    let (manager, used) = (store.manager(), spec("bridge-domains: {red: {}}"));
    let objects = Objects::first(&used, Owner::File, now_s());
    let next = objects.next(&used, &spec(FILE), Owner::Apply, now_s());
    assert!(manager.applied(&spec(FILE), &next, Owner::Apply).is_ok());
    assert_eq!(store.changes(), [""; 0]);
}

/// What is applied, by whom: the file says it from then on, where it is the file's.
fn life() -> Vec<(Spec, Owner)> {
    [
        (FILE.to_owned(), Owner::File),
        (FILE.replace("vlan: 10", "vlan: 11"), Owner::Apply),
        (FILE.replace("vlan: 10}", "vlan: 11}, blue: {}"), Owner::Apply),
        (FILE.replace("vlan: 10}", "vlan: 12}, blue: {}"), Owner::File),
        (
            FILE.replace("b: {kind: memory, access: red}", "c: {kind: memory, access: red}"),
            Owner::Apply,
        ),
        (
            FILE.replace("b: {kind: memory, access: red}", "c: {kind: memory}"),
            Owner::File,
        ),
        (FILE.to_owned(), Owner::Apply),
    ]
    .map(|(text, by)| (spec(&text), by))
    .into()
}

/// Lives a life until the store fails; gives what the file says then.
fn live(store: &Noted, life: &[(Spec, Owner)], mut each: impl FnMut(&Daemon, bool)) -> (Daemon, Spec) {
    let mut file = life[0].0.clone();
    let mut daemon = Daemon::start(store, &file);
    each(&daemon, true);
    for (spec, by) in &life[1..] {
        if *by == Owner::File {
            file = spec.clone();
        }
        let kept = daemon.apply(spec, *by);
        each(&daemon, kept);
    }
    (daemon, file)
}

/// From some commit on nothing is written any more: the next daemon has what the last one that was written left, or the
/// file, where that was changed since.
#[test]
fn a_daemon_that_ends_at_any_step_leaves_a_whole_configuration() {
    let life = life();
    for end in 1..=life.len() + 1 {
        let store = Noted::default();
        store.store.fail(Fault::From(end as u64));
        let mut last = None;
        let (mut file, mut step) = (life[0].0.clone(), 0);
        live(&store, &life[..end.min(life.len())], |daemon, kept| {
            let (spec, by) = &life[step];
            if *by == Owner::File {
                file = spec.clone();
            }
            step += 1;
            if kept && step < end {
                last = Some((daemon.used.clone(), daemon.objects.clone(), file.clone()));
            }
        });
        store.store.fail(Fault::None);
        let next = Daemon::start(&store, &file);
        let wanted = match &last {
            Some((used, objects, said)) if *said == file => {
                assert_eq!(next.objects, *objects, "commit {end}");
                used
            }
            _ => &file,
        };
        assert_eq!(next.used, *wanted, "commit {end}");
        // And that is what the store has.
        let again = Daemon::start(&store, &file);
        assert_eq!(
            (&again.used, &again.objects),
            (&next.used, &next.objects),
            "commit {end}"
        );
    }
}

/// One commit fails, whichever: the next one brings what it did not.
#[test]
fn a_commit_that_fails_is_made_up_for_by_the_next() {
    let life = life();
    for fails in 1..life.len() {
        let store = Noted::default();
        store.store.fail(Fault::At(fails as u64));
        let (daemon, file) = live(&store, &life, |_, _| {});
        let next = Daemon::start(&store, &file);
        assert_eq!(
            (&next.used, &next.objects),
            (&daemon.used, &daemon.objects),
            "commit {fails}"
        );
    }
}
