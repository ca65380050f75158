//! Stores of older versions. What version 1 wrote is here as it wrote it.

use serde_json::Value;

use super::*;
use crate::objects;

/// The rows of one of the files of a store of version 1.
fn version_1(file: &str) -> Vec<Row> {
    let lines = include_str!("version1.txt").lines();
    let rows = lines.filter_map(|line| line.strip_prefix(&format!("{file}\t")));
    rows.map(|line| {
        let [table, kind, key, value] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        Row {
            table: match table {
                "Records" => Table::Records,
                "Waiting" => Table::Waiting,
                other => panic!("{other}"),
            },
            kind: kind.into(),
            key: key.into(),
            value: Some(value.into()),
        }
    })
    .collect()
}

/// A store of version 1 with these rows.
fn old_store(path: &Path, lasting: &[Row], passing: &[Row]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for (file, rows) in [(path.to_owned(), lasting), (boot_file(path), passing)] {
        let mut tables = Tables::open(&file, Durability::Kernel).unwrap();
        tables.put(1, rows).unwrap();
    }
}

fn versions(path: &Path) -> [u64; 2] {
    [path.to_owned(), boot_file(path)].map(|file| {
        Tables::open(&file, Durability::Kernel)
            .unwrap()
            .version()
            .unwrap()
    })
}

/// `owner kind key generation`, one for each record.
fn versioned(records: &[Record]) -> Vec<String> {
    let say = |r: &Record| format!("{} {} {} {}", r.owner, r.kind, r.key, r.generation);
    records.iter().map(say).collect()
}

const MIGRATED: [&str; 17] = [
    "apply config configuration 2",
    "file config file 2",
    "file setting api 1",
    "file setting engine 1",
    "file port a 1",
    "apply port b 1",
    "file port c 1",
    "file port d 1",
    "apply bridge-domain blue 1",
    "apply bridge-domain green 1",
    "file bridge-domain red 1",
    "file vtep v 1",
    "apply address-pool p 1",
    "file cross-connect c/d 1",
    "cni attachment 3f2a7c91d0b4/net1 2",
    "cni lease 3f2a7c91d0b4/net1 1",
    "cni sticky p/default/web-0/net1 1",
];

#[test]
fn the_configuration_of_version_1_becomes_objects() {
    let (_folder, path) = folder();
    let (lasting, passing) = (version_1("lasting"), version_1("passing"));
    old_store(&path, &lasting, &passing);
    let old: Value = serde_json::from_slice(lasting[0].value.as_deref().unwrap()).unwrap();
    for _ in 0..2 {
        let mut store = FileStore::open_at(&path, BOOT).unwrap();
        let records = store.load().unwrap();
        assert_eq!(versioned(&records), MIGRATED);
        let values = records.iter().filter(|record| record.kind != Config);
        let values = values.map(|record| ((record.kind, record.key.clone()), record.value.clone()));
        let used = serde_json::to_value(objects::whole(values).unwrap()).unwrap();
        let mut wanted = old["value"]["used"].clone();
        // Which end is written first says nothing.
        wanted["cross-connects"] = json!([["c", "d"]]);
        assert_eq!(used, wanted);
        assert_eq!(records[1].value, old["value"]["file"]);
        assert!(records[0].value.is_null());
        // The others as they were.
        for row in &passing {
            let found = records
                .iter()
                .find(|r| (r.kind.as_str(), &*r.key) == (&*row.kind, &*row.key));
            let row: Value = serde_json::from_slice(row.value.as_deref().unwrap()).unwrap();
            assert_eq!(found.unwrap().value, row["value"]);
        }
        assert!(records.iter().all(|record| record.changed_s == 0));
        drop(store);
        assert_eq!(versions(&path), [schema::VERSION; 2]);
    }
}

/// kill -9 of the old daemon between its files, and of the new one between any two of its steps.
#[test]
fn what_waited_replaces_what_was_there() {
    let (lasting, passing) = (version_1("lasting"), version_1("passing"));
    // In the lasting file is the configuration before, which had a domain that is gone.
    let mut before: Value = serde_json::from_slice(lasting[0].value.as_deref().unwrap()).unwrap();
    before["value"]["used"]["bridge-domains"]["gone"] = json!({"vlan": 99});
    before["generation"] = json!(1);
    let before = [Row {
        value: Some(before.to_string().into_bytes()),
        ..lasting[0].clone()
    }];
    let mut waiting = passing.clone();
    waiting.extend(lasting.iter().map(|row| Row {
        table: Table::Waiting,
        ..row.clone()
    }));
    let done: Vec<_> = waiting
        .iter()
        .filter(|row| row.table == Table::Records)
        .cloned()
        .collect();
    let sticky = passing.iter().filter(|row| row.table == Table::Waiting);
    let brought: Vec<_> = lasting
        .iter()
        .chain(sticky)
        .map(|row| Row {
            table: Table::Records,
            ..row.clone()
        })
        .collect();
    for (step, lasting, passing, migrated) in [
        ("nothing is done", &before[..], &waiting, 0),
        ("the lasting file is written", &brought, &waiting, 0),
        ("nothing waits any more", &brought, &done, 0),
        ("the lasting file is migrated", &brought, &done, 1),
        ("both are", &brought, &done, 2),
    ] {
        let (_folder, path) = folder();
        old_store(&path, lasting, passing);
        for file in [path.clone(), boot_file(&path)].iter().take(migrated) {
            Tables::open(file, Durability::Kernel).unwrap().migrate().unwrap();
        }
        let records = FileStore::open_at(&path, BOOT).unwrap().load().unwrap();
        assert_eq!(versioned(&records), MIGRATED, "{step}");
    }
}

#[test]
fn a_reboot_in_between_is_none_of_the_configuration_s_business() {
    let (_folder, path) = folder();
    old_store(&path, &version_1("lasting"), &version_1("passing"));
    let records = FileStore::open_at(&path, NEXT_BOOT).unwrap().load().unwrap();
    assert_eq!(versioned(&records), MIGRATED[..14]);
}

#[test]
fn a_configuration_that_no_release_wrote_is_damage() {
    let strange = |change: fn(&mut Value)| {
        let mut row = version_1("lasting").remove(0);
        let mut record: Value = serde_json::from_slice(row.value.as_deref().unwrap()).unwrap();
        change(&mut record);
        row.value = Some(record.to_string().into_bytes());
        row
    };
    for (row, told) in [
        (strange(|record| record["value"] = json!({})), "as a whole"),
        (
            strange(|record| record["value"]["used"]["cross-connects"] = json!(["c"])),
            "is no pair of ports",
        ),
        (
            Row {
                value: Some(b"{".to_vec()),
                ..version_1("lasting").remove(0)
            },
            "the configuration: EOF",
        ),
    ] {
        let (_folder, path) = folder();
        old_store(&path, &[row], &[]);
        let error = FileStore::open_at(&path, BOOT).err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("its format 1 cannot be brought to 2") && text.contains(told),
            "{text}"
        );
        assert_eq!(versions(&path), [1, 1]);
    }
}
