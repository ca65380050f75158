//! What ends a daemon, or damages its files, and what is there afterwards.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::backend::Durability;
use super::schema::{self, Step};
use super::table::{Row, Table, Tables};
use super::*;

mod migration;

const BOOT: &str = "11111111-2222-4333-8444-555555555555";
const NEXT_BOOT: &str = "99999999-2222-4333-8444-555555555555";

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lib/store.redb");
    (folder, path)
}

fn record(kind: ObjectKind, key: &str, value: u64) -> Record {
    Record {
        kind,
        key: key.into(),
        owner: Owner::Cni,
        generation: value,
        changed_s: 7,
        value: json!({ "value": value, "padding": "x".repeat(300) }),
    }
}

fn put(kind: ObjectKind, key: &str, value: u64) -> Change {
    Change::Put(record(kind, key, value))
}

fn delete(kind: ObjectKind, key: &str) -> Change {
    Change::Delete {
        kind,
        key: key.into(),
    }
}

/// `kind key value`, one for each record.
fn said(store: &mut dyn Store) -> Vec<String> {
    let say = |record: Record| format!("{} {} {}", record.kind, record.key, record.value["value"]);
    store.load().unwrap().into_iter().map(say).collect()
}

fn boot_file(path: &Path) -> PathBuf {
    path.with_file_name(format!("store.boot-{BOOT}.redb"))
}

/// What a machine that lost its power now would find, and one whose daemon was killed.
fn copied(path: &Path) -> (TempDir, PathBuf) {
    let (folder, copy) = folder();
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    fs::copy(path, &copy).unwrap();
    fs::copy(boot_file(path), boot_file(&copy)).unwrap();
    (folder, copy)
}

use ObjectKind::{Attachment, Config, Lease, Port, Sticky};

#[test]
fn what_was_committed_is_there_again() {
    let (_folder, path) = folder();
    let mut store = FileStore::open_at(&path, BOOT).unwrap();
    assert_eq!(said(&mut store), Vec::<String>::new());
    store
        .commit(&[
            put(Sticky, "s", 1),
            put(Attachment, "b", 2),
            put(Attachment, "a", 3),
            put(Config, "c", 4),
        ])
        .unwrap();
    store
        .commit(&[
            put(Attachment, "a", 5),
            put(Lease, "l", 6),
            put(Lease, "m", 7),
            delete(Lease, "m"),
        ])
        .unwrap();
    store
        .commit(&[delete(Lease, "nobody"), delete(Sticky, "nobody")])
        .unwrap();
    store.commit(&[]).unwrap();
    let wanted = [
        "config c 4",
        "attachment a 5",
        "attachment b 2",
        "lease l 6",
        "sticky s 1",
    ];
    assert_eq!(said(&mut store), wanted);
    drop(store);
    let mut store = FileStore::open_at(&path, BOOT).unwrap();
    assert_eq!(said(&mut store), wanted);
    assert_eq!(store.load().unwrap()[1], record(Attachment, "a", 5));
    store
        .commit(&[delete(Sticky, "s"), delete(Attachment, "a")])
        .unwrap();
    assert_eq!(said(&mut store), ["config c 4", "attachment b 2", "lease l 6"]);
    drop(store);
    let mut store = FileStore::open_at(&path, BOOT).unwrap();
    assert_eq!(said(&mut store), ["config c 4", "attachment b 2", "lease l 6"]);
}

#[test]
fn the_files_are_for_root_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = folder();
    let _store = FileStore::open_at(&path, BOOT).unwrap();
    for file in [path.clone(), boot_file(&path)] {
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

#[test]
fn nobody_else_can_take_the_lock() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = folder();
    let lock = path.with_extension("redb.lock");
    // As older releases made it.
    fs::create_dir_all(path.parent().expect("it has one")).expect("a folder can be made");
    fs::write(&lock, "").expect("a file can be made");
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let _store = FileStore::open(&path).expect("there is none yet");
    let mode = fs::metadata(&lock).expect("it is locked").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_reboot_ends_attachments_and_leases() {
    let (_folder, path) = folder();
    let mut store = FileStore::open_at(&path, BOOT).unwrap();
    let all = [
        put(Config, "c", 1),
        put(Attachment, "a", 2),
        put(Lease, "l", 3),
        put(Sticky, "s", 4),
    ];
    store.commit(&all).unwrap();
    drop(store);
    let mut store = FileStore::open_at(&path, NEXT_BOOT).unwrap();
    assert_eq!(said(&mut store), ["config c 1", "sticky s 4"]);
    drop(store);
    assert!(!boot_file(&path).exists());
    let mut store = FileStore::open_at(&path, BOOT).unwrap();
    assert_eq!(said(&mut store), ["config c 1", "sticky s 4"]);
}

/// The file of a boot is never synced: after a power cut it may hold anything, and is not looked at.
#[test]
fn a_power_cut_takes_what_was_not_flushed() {
    let (_folder, path) = folder();
    let mut store = FileStore::open_at(&path, BOOT).unwrap();
    store.commit(&[put(Sticky, "s", 1)]).unwrap();
    store.flush().unwrap();
    store.commit(&[put(Sticky, "s", 2), put(Sticky, "t", 3)]).unwrap();
    let (_cut, after) = copied(&path);
    fs::write(boot_file(&after), "anything").unwrap();
    assert_eq!(
        said(&mut FileStore::open_at(&after, NEXT_BOOT).unwrap()),
        ["sticky s 1"]
    );
    // A configuration does not wait, and takes along what did.
    store.commit(&[put(Config, "c", 4)]).unwrap();
    let (_cut, after) = copied(&path);
    let wanted = ["config c 4", "sticky s 2", "sticky t 3"];
    assert_eq!(said(&mut FileStore::open_at(&after, NEXT_BOOT).unwrap()), wanted);
}

/// kill -9 between the two files: what is noted in the one is brought to the other by the next opening.
#[test]
fn what_waits_is_written_by_the_next_opening() {
    let (_folder, path) = folder();
    let mut store = FileStore::open_at(&path, BOOT).unwrap();
    store.commit(&[put(Sticky, "s", 1), put(Sticky, "t", 2)]).unwrap();
    store.flush().unwrap();
    store.commit(&[put(Sticky, "s", 3), delete(Sticky, "t")]).unwrap();
    let (_killed, after) = copied(&path);
    assert_eq!(
        said(&mut FileStore::open_at(&after, BOOT).unwrap()),
        ["sticky s 3"]
    );
    assert_eq!(
        said(&mut FileStore::open_at(&after, NEXT_BOOT).unwrap()),
        ["sticky s 3"]
    );
}

#[test]
fn a_commit_that_fails_changes_neither_file() {
    let (_folder, path) = folder();
    let mut store = FileStore::open_at(&path, BOOT).unwrap();
    store
        .commit(&[put(Config, "c", 1), put(Attachment, "a", 1), put(Sticky, "s", 1)])
        .unwrap();
    let before = said(&mut store);
    let change = [
        put(Attachment, "a", 2),
        put(Attachment, "b", 2),
        put(Attachment, "a", 3),
        put(Sticky, "s", 2),
        put(Config, "c", 2),
    ];
    store.lasting.broken = true;
    let error = store.commit(&change).unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    store.lasting.broken = false;
    assert_eq!(said(&mut store), before);
    store.passing.broken = true;
    store.commit(&change).unwrap_err();
    store.passing.broken = false;
    assert_eq!(said(&mut store), before);
    store.commit(&change).unwrap();
    assert_eq!(
        said(&mut store),
        ["config c 2", "attachment a 3", "attachment b 2", "sticky s 2"]
    );
}

#[test]
fn a_second_daemon_is_told_who_has_the_store() {
    let (_folder, path) = folder();
    let first = FileStore::open_at(&path, BOOT).unwrap();
    let Err(StoreError::InUse {
        holder: Some(holder), ..
    }) = FileStore::open_at(&path, BOOT)
    else {
        panic!("two daemons have one store");
    };
    assert_eq!(holder, Holder::new(std::process::id()));
    drop(first);
    FileStore::open_at(&path, BOOT).unwrap();
}

#[test]
fn a_newer_version_is_refused_and_left_alone() {
    let (_folder, path) = folder();
    for which in [path.clone(), boot_file(&path)] {
        let mut store = FileStore::open_at(&path, BOOT).unwrap();
        store
            .commit(&[put(Sticky, "s", 1), put(Attachment, "a", 2)])
            .unwrap();
        drop(store);
        let mut tables = Tables::open(&which, Durability::Kernel).unwrap();
        let rows = tables.rows().unwrap();
        tables.put(schema::VERSION + 1, &rows).unwrap();
        drop(tables);
        let bytes = (fs::read(&path).unwrap(), fs::read(boot_file(&path)).unwrap());
        let Err(error) = FileStore::open_at(&path, BOOT) else {
            panic!("a newer version was opened");
        };
        let StoreError::Newer {
            path: file,
            found,
            known,
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(
            (file, *found, *known),
            (&which, schema::VERSION + 1, schema::VERSION)
        );
        assert!(error.to_string().contains("move the file away"), "{error}");
        let after = (fs::read(&path).unwrap(), fs::read(boot_file(&path)).unwrap());
        assert!(bytes == after, "{} was changed", which.display());
        fs::remove_file(&which).unwrap();
    }
}

/// What comes after this version is made up.
#[test]
fn an_older_version_is_migrated_whole_or_not_at_all() {
    fn renamed(rows: Vec<Row>) -> Result<Vec<Row>, String> {
        let rename = |mut row: Row| {
            let mut value: serde_json::Value =
                serde_json::from_slice(row.value.as_deref().unwrap_or_default())
                    .map_err(|e| e.to_string())?;
            let old = value["value"]["value"].take();
            value["value"] = json!({ "number": old });
            row.value = Some(value.to_string().into_bytes());
            Ok(row)
        };
        rows.into_iter().map(rename).collect()
    }
    fn refused(rows: Vec<Row>) -> Result<Vec<Row>, String> {
        Err(format!("{} rows are strange", rows.len()))
    }
    let (_folder, path) = folder();
    let mut store = FileStore::open_at(&path, BOOT).unwrap();
    store
        .commit(&[put(Attachment, "a", 1), put(Lease, "l", 2)])
        .unwrap();
    drop(store);
    let file = boot_file(&path);
    let mut tables = Tables::open(&file, Durability::Kernel).unwrap();
    let before = tables.rows().unwrap();
    let steps = [schema::STEPS, &[renamed as Step, refused]].concat();
    let (here, next) = (schema::VERSION, schema::VERSION + 1);
    let error = tables.migrate_by(&steps).unwrap_err().to_string();
    assert!(
        error.contains(&format!(
            "format {next} cannot be brought to {}: 2 rows are strange",
            next + 1
        )),
        "{error}"
    );
    assert_eq!(tables.rows().unwrap(), before);
    let steps = &steps[..steps.len() - 1];
    tables.migrate_by(steps).unwrap();
    let after = tables.rows().unwrap();
    let numbers: Vec<_> = after
        .iter()
        .map(|row| serde_json::from_slice::<serde_json::Value>(row.value.as_deref().unwrap()).unwrap())
        .map(|value| value["value"]["number"].clone())
        .collect();
    assert_eq!(numbers, [json!(1), json!(2)]);
    // Once: a step that was made is not made again.
    tables.migrate_by(steps).unwrap();
    assert_eq!(tables.rows().unwrap(), after);
    drop(tables);
    // And what came of it is a newer version to those who do not know the step.
    assert!(matches!(
        FileStore::open_at(&path, BOOT),
        Err(StoreError::Newer { found, known, .. }) if (found, known) == (next, here)
    ));
}

/// Cut off, overwritten, foreign: an error that says what to do and leaves the file as it is; or all that was there,
/// up to the last commit or the one before it, which is what redb makes of a last commit that is not whole.
#[test]
fn a_damaged_file_is_an_error() {
    let (_folder, path) = folder();
    let mut store = FileStore::open_at(&path, BOOT).unwrap();
    let mut wanted = Vec::new();
    for n in 0..40 {
        store
            .commit(&[
                put(Sticky, &format!("s{n:02}"), n),
                put(Attachment, &format!("a{n:02}"), n),
            ])
            .unwrap();
        store.flush().unwrap();
        let said = said(&mut store);
        let (attachments, sticky) = said.split_at(said.len() / 2);
        wanted.push((attachments.to_vec(), sticky.to_vec()));
    }
    drop(store);
    let last = wanted.split_off(wanted.len() - 2);
    let mut refused = 0;
    for victim in [path.clone(), boot_file(&path)] {
        let whole = fs::read(&victim).unwrap();
        for damaged in damages(&whole) {
            let (_copy, at) = copied(&path);
            let file = at.with_file_name(victim.file_name().unwrap());
            fs::write(&file, &damaged).unwrap();
            match FileStore::open_at(&at, BOOT) {
                Ok(mut store) => {
                    let said = said(&mut store);
                    let sticky = said.iter().position(|line| line.starts_with("sticky")).unwrap();
                    let (attachments, sticky) = said.split_at(sticky);
                    assert!(last.iter().any(|one| one.0 == attachments), "{attachments:?}");
                    assert!(last.iter().any(|one| one.1 == sticky), "{sticky:?}");
                }
                Err(error) => {
                    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
                    assert!(error.to_string().contains("move it away"), "{error}");
                    assert!(fs::read(&file).unwrap() == damaged, "{error}, but it was changed");
                    refused += 1;
                    fs::remove_file(&file).unwrap();
                    FileStore::open_at(&at, BOOT).unwrap();
                }
            }
        }
    }
    assert!(refused > 200, "only {refused} were found");
}

fn damages(whole: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![
        Vec::new(),
        b"ports: {}\n".to_vec(),
        vec![0; whole.len()],
        vec![0xff; whole.len()],
    ];
    all.extend(
        (1..whole.len())
            .step_by(whole.len() / 40)
            .map(|at| whole[..at].to_vec()),
    );
    // Random, but the same every time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..150 {
        let mut flipped = whole.to_vec();
        for _ in 0..=random(8) {
            flipped[random(whole.len())] ^= 1 << random(8);
        }
        all.push(flipped);
        let mut zeroed = whole.to_vec();
        let at = random(whole.len() / 512) * 512;
        let end = whole.len().min(at + 4096);
        zeroed[at..end].fill(0);
        all.push(zeroed);
    }
    all
}

#[test]
fn a_row_that_is_no_record_is_an_error() {
    let (_folder, path) = folder();
    drop(FileStore::open_at(&path, BOOT).unwrap());
    let good = serde_json::to_vec(&record(Attachment, "a", 1)).unwrap();
    for (kind, key, value) in [
        ("attachment", "a", b"{".to_vec()),
        ("attachment", "b", good.clone()),
        ("pod", "a", good.clone()),
        ("attachment", "a", Vec::new()),
    ] {
        let mut tables = Tables::open(&boot_file(&path), Durability::Kernel).unwrap();
        let row = Row {
            table: Table::Records,
            kind: kind.into(),
            key: key.into(),
            value: Some(value),
        };
        tables.put(schema::VERSION, &[row]).unwrap();
        drop(tables);
        let error = FileStore::open_at(&path, BOOT).err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
}

/// The name under which a child finds the store that it is to write until it is killed.
const CHILD: &str = "CLEARWAY_TEST_STORE";

/// No test by itself: the child of the next one.
#[test]
#[ignore = "run by a_killed_daemon_leaves_whole_commits, which kills it"]
fn a_daemon_that_commits_for_ever() {
    let path = PathBuf::from(std::env::var_os(CHILD).unwrap());
    let mut store = FileStore::open_at(&path, BOOT).unwrap();
    let first = store
        .load()
        .unwrap()
        .first()
        .map_or(0, |record| record.generation);
    for n in first + 1.. {
        let config = if n % 16 == 0 { Config } else { Sticky };
        let before = format!("a{}", n - 1);
        // An object comes, another one goes, with the configuration alone.
        let mut objects = Vec::new();
        if n % 16 == 0 {
            objects.push(put(Port, &format!("p{n}"), n));
            objects.push(put(Port, "p", n));
            objects.push(delete(Port, &format!("p{}", n - 16)));
        }
        let rest = [
            put(Attachment, "a", n),
            put(Lease, "l", n),
            put(Attachment, &format!("a{n}"), n),
            put(Sticky, "s", n),
            put(config, "c", n),
            delete(Attachment, &before),
        ];
        store.commit(&[&rest[..], &objects].concat()).unwrap();
        println!("committed {n}");
        if n % 7 == 0 {
            store.flush().unwrap();
        }
    }
}

#[test]
fn a_killed_daemon_leaves_whole_commits() {
    let (_folder, path) = folder();
    let mut last = 0;
    for round in 0..24 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::tests::a_daemon_that_commits_for_ever",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said_last = 0;
        let mut seen = 0;
        while seen <= round * 3 {
            let Some(line) = lines.next() else { break };
            // The test harness writes the test's name into the same line.
            if let Some((_, n)) = line.unwrap().split_once("committed ") {
                said_last = n.parse().unwrap();
                seen += 1;
            }
        }
        child.kill().unwrap();
        // What it said before it was killed.
        for line in lines.map_while(Result::ok) {
            if let Some((_, n)) = line.split_once("committed ") {
                said_last = n.parse().unwrap_or(said_last);
            }
        }
        child.wait().unwrap();
        assert!(
            said_last > last,
            "round {round}: the child committed nothing after {last}"
        );

        let mut store = FileStore::open_at(&path, BOOT).unwrap();
        let all = store.load().unwrap();
        let of = |kind, key: &str| {
            let found = all.iter().find(|record| record.kind == kind && record.key == key);
            found.map(|record| record.generation)
        };
        let n = of(Attachment, "a").unwrap();
        assert!(
            n == said_last || n == said_last + 1,
            "round {round}: said {said_last}, found {n}"
        );
        assert_eq!(of(Lease, "l"), Some(n), "round {round}");
        assert_eq!(of(Sticky, "s"), Some(n), "round {round}");
        assert_eq!(of(Attachment, &format!("a{n}")), Some(n), "round {round}");
        let config = (n >= 16).then_some(n - n % 16);
        assert_eq!(of(Config, "c"), config, "round {round}");
        assert_eq!(of(Port, "p"), config, "round {round}");
        if let Some(config) = config {
            assert_eq!(of(Port, &format!("p{config}")), Some(config), "round {round}");
        }
        let other = if n % 16 == 0 { n - 1 } else { n };
        assert_eq!(of(Sticky, "c"), (other > 0).then_some(other), "round {round}");
        assert_eq!(all.len(), 5 + 3 * usize::from(config.is_some()), "round {round}");
        last = n;
    }
}

#[test]
fn the_store_of_tests_fails_when_it_is_told_to() {
    let store = MemoryStore::default();
    let mut daemon = store.clone();
    daemon.commit(&[put(Attachment, "a", 1)]).unwrap();
    store.fail(Fault::At(2));
    let failed = daemon.commit(&[put(Attachment, "a", 2), put(Lease, "l", 2)]);
    assert!(matches!(failed, Err(StoreError::Injected(2))));
    assert_eq!(said(&mut daemon), ["attachment a 1"]);
    daemon.commit(&[put(Lease, "l", 3), put(Sticky, "s", 3)]).unwrap();
    store.fail(Fault::From(5));
    daemon.commit(&[delete(Attachment, "a")]).unwrap();
    for n in 5..8 {
        assert!(matches!(daemon.commit(&[put(Lease, "l", n)]), Err(StoreError::Injected(m)) if m == n));
    }
    assert_eq!(store.commits(), 7);
    assert_eq!(said(&mut store.clone()), ["lease l 3", "sticky s 3"]);
    store.reboot();
    assert_eq!(said(&mut store.clone()), ["sticky s 3"]);
}
