//! Pods for tests: network namespaces that have no name, only processes, as `ctr` and `podman` hand them over.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PodNetns;
use crate::host::testing::sh;

/// A process in a network namespace of its own; ended with the test, also by a panic.
pub(crate) struct Container(Child);

impl Container {
    pub(crate) fn start() -> Self {
        let namespace = |path: &str| fs::read_link(path).ok();
        // It ends also with a test that is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "600"])
            .spawn()
            .expect("util-linux is installed");
        let container = Self(child);
        let (ours, end) = (
            namespace("/proc/thread-self/ns/net"),
            Instant::now() + Duration::from_secs(60),
        );
        let path = container.path().display().to_string();
        // Until unshare(1) has done its work, it is in our namespace.
        while namespace(&path).is_none_or(|found| Some(found) == ours) {
            assert!(
                Instant::now() < end,
                "unshare needs root: run these tests as `make test` does"
            );
            sleep(Duration::from_millis(2));
        }
        container.sh("ip link set lo up");
        container
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    pub(crate) fn netns(&self) -> PodNetns {
        PodNetns::open(&self.path()).expect("it is a network namespace")
    }

    /// Runs a command in it.
    pub(crate) fn sh(&self, command: &str) -> String {
        sh(&format!("nsenter --net={} {command}", self.path().display()))
    }

    /// What `ip` prints there as JSON.
    pub(crate) fn ip(&self, arguments: &str) -> Vec<Value> {
        json(&self.sh(&format!("ip -j {arguments}")))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `ip` prints in the test's own namespace as JSON.
pub(crate) fn ip(arguments: &str) -> Vec<Value> {
    json(&sh(&format!("ip -j {arguments}")))
}

fn json(text: &str) -> Vec<Value> {
    serde_json::from_str(text).expect("ip prints JSON")
}
