//! Container runtimes that we did not write: podman, and containerd with ctr. Each has its storage, state and networks in a
//! folder of its own, and runs in a node's namespace; what it started ends with it.

use crate::cmd::{self, Output};
use crate::{Netns, Proc, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);
/// In seconds; a container that nobody could stop ends by itself.
const LIFE: u32 = 90;
/// The image of `runtimes/image.sh`.
const IMAGE: &str = "localhost/pod:latest";

/// What both have: a folder with the image, the networks and the plugins.
#[derive(Debug)]
struct Folder(tempfile::TempDir);

impl Folder {
    #[track_caller]
    fn new(network: &Value, plugins: &[PathBuf]) -> Folder {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("cannot make a folder for a runtime: {e}"));
        let folder = Folder(dir);
        for name in ["net.d", "bin", "storage"] {
            let path = folder.path(name);
            std::fs::create_dir(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
        folder.write("net.d/10-clearway.conflist", &network.to_string());
        for plugin in plugins {
            let name = plugin.file_name().unwrap_or_default().to_string_lossy();
            let link = folder.path(&format!("bin/{name}"));
            std::os::unix::fs::symlink(plugin, &link).unwrap_or_else(|e| panic!("{link}: {e}"));
        }
        cmd::run(&[script("image.sh").as_str(), &folder.path("image.tar")]).ok();
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    #[track_caller]
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{path}: {e}"));
        path
    }
}

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("runtimes")
        .join(name)
        .display()
        .to_string()
}

/// podman, which asks CNI plugins for networks (`network_backend = "cni"`).
#[derive(Debug)]
pub struct Podman {
    words: Vec<String>,
    // Goes last.
    folder: Folder,
}

impl Podman {
    /// podman in a namespace, with this network.
    ///
    /// # Panics
    /// If it is not there, or does not take the image.
    #[track_caller]
    pub fn new(ns: &Netns, network: &Value, plugins: &[PathBuf]) -> Podman {
        let folder = Folder::new(network, plugins);
        let conf = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{}\"]\nnetwork_config_dir = \"{}\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nlock_type = \"file\"\n",
            folder.path("bin"),
            folder.path("net.d")
        );
        let conf = folder.write("containers.conf", &conf);
        // Not `ip netns exec`: the daemon has to see the namespaces that podman mounts for its containers.
        let enter = format!(
            "nsenter --net={} env CONTAINERS_CONF={conf} podman",
            ns.path().display()
        );
        let options = format!(
            "--root {} --runroot {} --tmpdir {} --runtime runc --storage-driver vfs --cgroup-manager cgroupfs",
            folder.path("storage"),
            folder.path("run"),
            folder.path("tmp")
        );
        let words = enter
            .split(' ')
            .chain(options.split(' '))
            .map(str::to_owned)
            .collect();
        let podman = Podman { words, folder };
        podman
            .podman(&format!("load -q -i {}", podman.folder.path("image.tar")))
            .ok();
        podman
    }

    /// `podman ARGUMENTS`, whatever comes of it.
    #[track_caller]
    pub fn podman(&self, arguments: &str) -> Output {
        let more = arguments.split_whitespace().map(str::to_owned);
        cmd::run(&self.words.iter().cloned().chain(more).collect::<Vec<_>>())
    }

    /// Starts a container that sleeps, in this network.
    #[track_caller]
    pub fn start(&self, name: &str, network: &str) {
        let limits = "--ulimit nofile=1024:1024 --ulimit nproc=4096:4096";
        let line = format!(
            "run -d --name {name} --network {network} {limits} --cap-add NET_RAW {IMAGE} sleep {LIFE}"
        );
        self.podman(&line).ok();
    }

    /// Runs a command in a container.
    #[track_caller]
    pub fn exec(&self, name: &str, command: &str) -> Output {
        self.podman(&format!("exec {name} {command}"))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let out = self.podman("rm -f -a -t 0");
        if out.code != 0 {
            eprintln!("podman's containers are not removed: {}", out.text());
        }
    }
}

/// containerd, and ctr, which asks CNI plugins for the first network it finds.
#[derive(Debug)]
pub struct Containerd {
    proc: Proc,
    containers: Vec<(String, Proc)>,
    // Goes last.
    folder: Folder,
}

impl Containerd {
    /// containerd in a namespace, with this network.
    ///
    /// # Panics
    /// If it is not there, or does not take the image.
    #[track_caller]
    pub fn start(ns: &Netns, network: &Value, plugins: &[PathBuf]) -> Containerd {
        let folder = Folder::new(network, plugins);
        let dir = folder.0.path().display().to_string();
        // From this process's own mounts: `ip netns exec` hides those of cgroups.
        let mounts = format!("--mount=/proc/{}/ns/mnt", std::process::id());
        let proc = Proc::start(
            ns,
            &[
                "nsenter",
                &mounts,
                "unshare",
                "-m",
                &script("containerd.sh"),
                &dir,
            ],
        );
        let mut containerd = Containerd {
            proc,
            containers: Vec::new(),
            folder,
        };
        let what = "containerd serves";
        containerd
            .proc
            .wait_line(what, SOON, |line| line.contains("containerd successfully booted"));
        let image = containerd.folder.path("image.tar");
        containerd
            .ctr(&format!("images import --snapshotter native {image}"))
            .ok();
        containerd
    }

    /// The words of `ctr ARGUMENTS`, where containerd sees the same files.
    fn words(&self, arguments: &str) -> Vec<String> {
        let line = format!(
            "nsenter -t {} -m -n ctr -a {} {arguments}",
            self.proc.pid(),
            self.folder.path("containerd.sock")
        );
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// `ctr ARGUMENTS`, whatever comes of it.
    #[track_caller]
    pub fn ctr(&self, arguments: &str) -> Output {
        cmd::run(&self.words(arguments))
    }

    /// Starts a container that sleeps, in the network; ctr stays until it ends, and then has it detached.
    #[track_caller]
    pub fn run(&mut self, ns: &Netns, name: &str) {
        let line = format!("run --rm --cni --snapshotter native {IMAGE} {name} sleep {LIFE}");
        let proc = Proc::start(ns, &self.words(&line));
        self.containers.push((name.to_owned(), proc));
        wait_for(&format!("container {name} runs"), SOON, || {
            let (_, proc) = self.containers.last_mut()?;
            assert!(proc.ended().is_none(), "ctr ended:\n{}", proc.tail());
            let out = self.ctr("tasks ls");
            let line = out.stdout.lines().find(|line| line.starts_with(name))?;
            line.contains("RUNNING").then_some(())
        });
    }

    /// Runs a command in a container.
    #[track_caller]
    pub fn exec(&self, name: &str, command: &str) -> Output {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.ctr(&format!("tasks exec --exec-id e{id} {name} {command}"))
    }

    /// Ends a container, and waits for ctr to have it detached.
    #[track_caller]
    pub fn stop(&mut self, name: &str) {
        self.ctr(&format!("tasks kill -s SIGKILL {name}")).ok();
        let place = self.containers.iter().position(|(other, _)| other == name);
        let (_, mut proc) = self
            .containers
            .remove(place.unwrap_or_else(|| panic!("no container {name}")));
        proc.wait(SOON);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for (name, mut proc) in std::mem::take(&mut self.containers) {
            self.ctr(&format!("tasks kill -s SIGKILL {name}"));
            // ctr has it detached, and removes it.
            let end = Instant::now() + SOON;
            while proc.ended().is_none() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
