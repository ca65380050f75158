//! The AF_XDP application on xsk-rs (`tests/xsk-peer`): the counterpart whose rings we did not write.

use crate::{Netns, Proc};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// A running `xsk-peer`.
#[derive(Debug)]
pub struct XskPeer(Proc);

impl XskPeer {
    /// Starts it on queue 0 of `dev` in `ns` with a mode and its arguments (`echo`, `count 1000`,
    /// `send 1000 --size 64`), and waits until it is ready.
    ///
    /// # Panics
    /// If it does not say so within five seconds.
    #[track_caller]
    pub fn start(ns: &Netns, dev: &str, args: &str) -> XskPeer {
        let program = program().display().to_string();
        let mut words = vec![program.as_str(), dev, "0"];
        words.extend(args.split_whitespace());
        let mut proc = Proc::start(ns, &words);
        proc.wait_line("ready", Duration::from_secs(5), |l| l == "ready");
        XskPeer(proc)
    }

    /// Waits until it has done its work, and returns its report.
    ///
    /// # Panics
    /// If it has not within `limit`, or failed.
    #[track_caller]
    pub fn report(mut self, limit: Duration) -> Value {
        let status = self.0.wait(limit);
        assert!(
            status.success(),
            "xsk-peer ended with {status}:\n{}",
            self.0.tail()
        );
        self.last()
    }

    /// Ends an `echo`, and returns its report.
    #[track_caller]
    pub fn stop(self) -> Value {
        self.0.signal(nix::sys::signal::Signal::SIGTERM);
        self.report(Duration::from_secs(3))
    }

    #[track_caller]
    fn last(&self) -> Value {
        let log = self.0.log();
        let line = log.iter().rev().find(|l| l.starts_with('{'));
        line.and_then(|l| serde_json::from_str(l).ok())
            .unwrap_or_else(|| panic!("no report:\n{}", self.0.tail()))
    }
}

/// `XSK_PEER_BIN`, or where `scripts/test.sh` builds it: beside this test's own build.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("XSK_PEER_BIN") {
        return path.into();
    }
    let path = crate::daemon::target_dir().join("xsk-peer/debug/xsk-peer");
    assert!(
        path.exists(),
        "{} is not built; `make test` does it: cargo build --manifest-path tests/xsk-peer/Cargo.toml --target-dir {}",
        path.display(),
        crate::daemon::target_dir().join("xsk-peer").display()
    );
    path
}
