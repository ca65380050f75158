//! The manifests of config/deploy/kubernetes: they are YAML, their names and paths agree with each other and with what the
//! programs take when nobody says otherwise, and what is in them for the daemon and the plugin passes their own checks.
#![allow(clippy::unwrap_used)] // A failed test is what a failed unwrap is for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clearway_cni::CniVersion;
use clearway_cni::conf::{DAEMON_SOCKET, IpamConf, Network};
use clearway_config::Spec;
use clearway_config::attach::Segment;
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/deploy/kubernetes")
}

fn read(file: &str) -> Value {
    let text = fs::read_to_string(folder().join(file)).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Texts of a list.
fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap_or_else(|| panic!("{list} is no list"));
    list.iter().map(|item| item.as_str().unwrap()).collect()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|item| item["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

/// What `clearway run` takes for this option when nobody says otherwise.
fn default_of(option: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_clearway"))
        .args(["run", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, after) = help.split_once(&format!("{option} <")).unwrap();
    let (_, after) = after.split_once("[default: ").unwrap();
    after.split_once(']').unwrap().0.to_owned()
}

/// The configurations of all nodes.
fn specs() -> Vec<(String, Spec)> {
    let config = read("config.yaml");
    let nodes = config["data"].as_object().unwrap();
    let spec = |(file, text): (&String, &Value)| {
        let spec = Spec::from_yaml(text.as_str().unwrap(), file);
        (file.clone(), spec.unwrap_or_else(|errors| panic!("{errors}")))
    };
    nodes.iter().map(spec).collect()
}

#[test]
fn kustomizations_name_every_manifest_and_no_other() {
    for place in [".", "networks", "proc-netns"] {
        let here = folder().join(place);
        let files = fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|ext| ext == "yaml"));
        let mut files: BTreeSet<_> = files
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert!(files.remove("kustomization.yaml"), "{place}");
        let kustomization = read(&format!("{place}/kustomization.yaml"));
        let resources = kustomization.get("resources").map(texts).unwrap_or_default();
        assert_eq!(
            resources,
            files.iter().collect::<Vec<_>>(),
            "{place}, in order of names"
        );
        for file in &files {
            assert!(
                read(&format!("{place}/{file}"))["kind"].is_string(),
                "{place}/{file}"
            );
        }
    }
}

#[test]
fn names_agree() {
    let (set, kustomization) = (read("daemonset.yaml"), read("kustomization.yaml"));
    let spec = &set["spec"]["template"]["spec"];
    assert_eq!(
        set["spec"]["selector"]["matchLabels"],
        set["spec"]["template"]["metadata"]["labels"]
    );
    assert_eq!(
        spec["serviceAccountName"],
        read("serviceaccount.yaml")["metadata"]["name"]
    );
    assert_eq!(
        kustomization["namespace"],
        read("namespace.yaml")["metadata"]["name"]
    );
    let config = named(&spec["volumes"], "config");
    assert_eq!(
        config["configMap"]["name"],
        read("config.yaml")["metadata"]["name"]
    );
    let image = &kustomization["images"][0]["name"];
    for containers in ["initContainers", "containers"] {
        assert_eq!(spec[containers][0]["image"], *image);
    }
    // Every volume is mounted somewhere, every mount has a volume.
    let mounts = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|containers| spec[containers][0]["volumeMounts"].as_array().unwrap());
    let mounted: BTreeSet<_> = mounts.map(|mount| mount["name"].as_str().unwrap()).collect();
    let volumes = spec["volumes"].as_array().unwrap();
    let volumes: BTreeSet<_> = volumes
        .iter()
        .map(|volume| volume["name"].as_str().unwrap())
        .collect();
    assert_eq!(mounted, volumes);
}

#[test]
fn paths_are_those_of_the_programs() {
    let set = read("daemonset.yaml");
    let spec = &set["spec"]["template"]["spec"];
    let daemon = &spec["containers"][0];
    let mut mounts = BTreeMap::new();
    for mount in daemon["volumeMounts"].as_array().unwrap() {
        let volume = named(&spec["volumes"], mount["name"].as_str().unwrap());
        let path = mount["mountPath"].as_str().unwrap();
        if let Some(host) = volume.get("hostPath") {
            // The plugin and other pods are told paths as the daemon sees them: they are the host's, too.
            assert_eq!(host["path"], *path);
            assert_eq!(mount.get("readOnly"), None, "{path}");
        }
        mounts.insert(path, mount);
    }
    let is_mounted = |path: &str| mounts.keys().any(|mount| Path::new(path).starts_with(mount));
    for path in [DAEMON_SOCKET, &default_of("--state-dir"), &default_of("--store")] {
        assert!(is_mounted(path), "{path}");
    }
    assert_eq!(mounts["/run/netns"]["mountPropagation"], "HostToContainer");
    let file = texts(&daemon["args"])[2];
    assert_eq!(texts(&daemon["args"]), ["run", "--config", file]);
    let node = named(&daemon["env"], "NODE_NAME");
    assert_eq!(node["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
    assert_eq!(
        file,
        format!(
            "{}/$(NODE_NAME).yaml",
            mounts["/etc/clearway"]["mountPath"].as_str().unwrap()
        )
    );
    // No option of another name, no other socket: probes and plugin ask at the usual one.
    for (name, spec) in specs() {
        assert_eq!(spec.api.socket, Path::new(DAEMON_SOCKET), "{name}");
        assert!(name.ends_with(".yaml"), "{name}");
    }
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert_eq!(
            texts(&daemon[probe]["exec"]["command"]),
            ["/usr/bin/clearway", "get", "workers"]
        );
    }
}

/// The init container as it is, with a folder of ours for the host's.
#[test]
fn the_plugin_is_installed_whole() {
    let set = read("daemonset.yaml");
    let init = &set["spec"]["template"]["spec"]["initContainers"][0];
    let place = init["volumeMounts"][0]["mountPath"].as_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("clearway-cni.image"), dir.path().join("bin"));
    fs::create_dir(&to).unwrap();
    fs::write(&from, "new").unwrap();
    fs::write(to.join("clearway-cni"), "old").unwrap();
    let old = fs::File::open(to.join("clearway-cni")).unwrap();
    let script = texts(&init["args"])[0]
        .replace("/usr/bin/clearway-cni", from.to_str().unwrap())
        .replace(place, to.to_str().unwrap());
    assert_eq!(texts(&init["command"]), ["/bin/sh", "-ec"]);
    let status = Command::new("/bin/sh").args(["-ec", &script]).status().unwrap();
    assert!(status.success());
    let names = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["clearway-cni"]);
    assert_eq!(fs::read_to_string(to.join("clearway-cni")).unwrap(), "new");
    // Whoever runs the old one still has all of it: it was not written over.
    assert_eq!(std::io::read_to_string(old).unwrap(), "old");
}

#[test]
fn the_rights_are_those_that_the_readme_explains() {
    let readme = fs::read_to_string(folder().join("README.md")).unwrap();
    let explained = readme.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let is_capability =
            name.chars().all(|c| c.is_ascii_uppercase() || c == '_') && rest.matches(" | ").count() == 1;
        is_capability.then_some(name)
    });
    let set = read("daemonset.yaml");
    let spec = &set["spec"]["template"]["spec"];
    let rights = &spec["containers"][0]["securityContext"];
    assert_eq!(
        texts(&rights["capabilities"]["add"]),
        explained.collect::<Vec<_>>()
    );
    for containers in ["initContainers", "containers"] {
        let rights = &spec[containers][0]["securityContext"];
        assert_eq!(texts(&rights["capabilities"]["drop"]), ["ALL"]);
        assert_eq!(rights["readOnlyRootFilesystem"], true);
        assert_eq!(rights.get("privileged"), None);
    }
    assert_eq!(spec["automountServiceAccountToken"], false);
}

/// Every network passes the plugin's checks, and stands on bridge domains and pools that every node has.
#[test]
fn networks_are_right_and_stand_on_the_configuration() {
    let specs = specs();
    assert!(specs.len() >= 2, "only {} nodes", specs.len());
    let set = read("daemonset.yaml");
    let mounts = &set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"];
    let resources = read("networks/kustomization.yaml");
    let mut kinds = BTreeSet::new();
    for file in texts(&resources["resources"]) {
        let network = read(&format!("networks/{file}"));
        assert_eq!(network["kind"], "NetworkAttachmentDefinition", "{file}");
        let list: Value = serde_json::from_str(network["spec"]["config"].as_str().unwrap()).unwrap();
        assert_eq!(list["name"], network["metadata"]["name"], "{file}");
        let mut plugin = list["plugins"][0].clone();
        assert_eq!(plugin["type"], "clearway-cni", "{file}");
        plugin["name"] = list["name"].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        let conf =
            Network::read(plugin.as_object().unwrap()).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(
            CniVersion::parse(list["cniVersion"].as_str().unwrap()).is_some(),
            "{file}"
        );
        kinds.insert(conf.mode.as_str());
        if let Some(folder) = plugin["socket"]["folder"].as_str() {
            let mounts = mounts.as_array().unwrap().iter();
            let mut mounts = mounts.map(|mount| mount["mountPath"].as_str().unwrap());
            assert!(
                mounts.any(|mount| Path::new(folder).starts_with(mount)),
                "{file}: {folder} is not the host's"
            );
        }
        for (node, spec) in &specs {
            let domains = &spec.bridge_domains;
            let there = match &conf.segment {
                Segment::Domain(name) => domains.contains_key(name),
                Segment::Vlan(vlan) => domains.values().any(|domain| domain.vlan == Some(*vlan)),
                Segment::Vni(vni) => domains.values().any(|domain| domain.vni == Some(*vni)),
                Segment::Trunk { native, .. } => native.iter().all(|name| domains.contains_key(name)),
                Segment::Pf => true,
            };
            assert!(there, "{file}: {:?} on {node}", conf.segment);
            if let IpamConf::Own { pool, .. } = &conf.ipam {
                assert!(
                    pool.iter().all(|pool| spec.address_pools.contains_key(pool)),
                    "{file} on {node}"
                );
            }
        }
    }
    assert_eq!(kinds, BTreeSet::from(["tap", "veth", "vhost-user"]));
}
