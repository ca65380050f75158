//! Hosts and wires: network namespaces and veth pairs.

use crate::cmd::{self, Output};
use crate::frame::Mac;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// All namespaces of the test bed start like this; the process id of their owner follows.
const PREFIX: &str = "cwt";

/// A network namespace, deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace with loopback up. `label` is for people who look at `ip netns` meanwhile.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn new(label: &str) -> Netns {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{n}-{label}", std::process::id());
        cmd::run(&["ip", "netns", "add", &name]).ok();
        let ns = Netns { name };
        // An address that is still being probed for duplicates (RFC 4862 §5.4) cannot be used for a second or two.
        for knob in ["all", "default"] {
            ns.sysctl(&format!("net/ipv6/conf/{knob}/accept_dad"), "0");
        }
        ns.run("ip link set lo up");
        ns
    }

    /// A namespace whose kernel sends nothing by itself: no IPv6, so no router solicitations and no MLD reports.
    /// For tests that name every frame on the wire.
    #[track_caller]
    pub fn quiet(label: &str) -> Netns {
        let ns = Netns::new(label);
        for knob in ["all", "default"] {
            ns.sysctl(&format!("net/ipv6/conf/{knob}/disable_ipv6"), "1");
        }
        ns
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where `setns` finds it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A folder for what daemons in this namespace leave to their successors; it goes with the namespace.
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.name)
    }

    /// Runs a command line inside and returns its standard output.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        self.try_run(line).ok()
    }

    /// Runs a command line inside, whatever comes of it.
    #[track_caller]
    pub fn try_run(&self, line: &str) -> Output {
        let mut words = self.prefix();
        words.extend(line.split_whitespace().map(str::to_owned));
        cmd::run(&words)
    }

    /// The words that put a command inside. `ip netns exec` and not nsenter: it mounts a /sys that shows the
    /// namespace's own devices.
    pub(crate) fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).to_vec()
    }

    /// Runs `f` on a thread inside the namespace. Sockets that it opens stay inside.
    ///
    /// # Panics
    /// If the namespace is gone, or `f` panics.
    #[track_caller]
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        let result = std::thread::scope(|s| {
            s.spawn(move || {
                enter_thread(&path);
                f()
            })
            .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Writes one kernel setting, named as under /proc/sys.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        self.enter(|| {
            std::fs::write(format!("/proc/sys/{name}"), value)
                .unwrap_or_else(|e| panic!("cannot write {value} to /proc/sys/{name}: {e}"));
        });
    }

    /// Gives an interface an address (`10.0.0.1/24`, `fd00::1/64`), usable at once.
    #[track_caller]
    pub fn addr(&self, dev: &str, addr: &str) {
        let nodad = if addr.contains(':') { " nodad" } else { "" };
        self.run(&format!("ip addr add {addr} dev {dev}{nodad}"));
    }

    /// The MAC address of an interface.
    #[track_caller]
    pub fn mac(&self, dev: &str) -> Mac {
        let link = self
            .link(dev)
            .unwrap_or_else(|| panic!("no {dev} in {}", self.name));
        link["address"]
            .as_str()
            .unwrap_or_default()
            .parse()
            .unwrap_or_else(|e| panic!("{dev}: {e}"))
    }

    /// What `ip -d link` knows about an interface, statistics included; `None` when there is none of that name.
    #[track_caller]
    pub fn link(&self, dev: &str) -> Option<serde_json::Value> {
        let out = self.try_run(&format!("ip -d -s -j link show {dev}"));
        if out.code != 0 {
            return None;
        }
        let links: serde_json::Value =
            serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("ip -j link show {dev}: {e}"));
        Some(links[0].clone())
    }

    /// Makes `dev` hand out frames with finished checksums, and none larger than its MTU: what a wire carries.
    /// XDP sees frames as the sender's stack left them.
    #[track_caller]
    pub fn offloads_off(&self, dev: &str) {
        self.run(&format!("ethtool -K {dev} tx off tso off gso off gro off"));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Processes still inside would keep it alive, nameless.
        kill_inside(&self.name);
        let _ = std::fs::remove_dir_all(self.state_dir());
        let out = cmd::run(&["ip", "netns", "del", &self.name]);
        if out.code != 0 && !std::thread::panicking() {
            panic!("cannot delete namespace {}: {}", self.name, out.text());
        }
    }
}

/// Moves the calling thread into the namespace at `path`, for good.
pub(crate) fn enter_thread(path: &std::path::Path) {
    let file = File::open(path).unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()));
    setns(file, CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|e| panic!("cannot enter {}: {e}; root is needed", path.display()));
}

fn state_dir(namespace: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{namespace}.state"))
}

fn kill_inside(name: &str) {
    for pid in cmd::run(&["ip", "netns", "pids", name]).stdout.split_whitespace() {
        if let Ok(pid) = pid.parse() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
    }
}

/// Deletes the namespaces of test runs that are dead.
fn sweep() {
    let Ok(dir) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in dir.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        if parts.next() != Some(PREFIX) {
            continue;
        }
        let Some(pid) = parts.next().and_then(|p| p.parse::<u32>().ok()) else {
            continue;
        };
        if !PathBuf::from(format!("/proc/{pid}")).exists() {
            kill_inside(&name);
            let _ = std::fs::remove_dir_all(state_dir(&name));
            cmd::run(&["ip", "netns", "del", &name]);
        }
    }
}

/// A pair of veth interfaces, each in its namespace, both up.
///
/// Offloads that live beside the frame are off on both ends, so that frames look as on a wire; `with_offloads`
/// leaves them as the kernel has them.
#[derive(Debug, Clone)]
pub struct Veth<'a> {
    a: (&'a Netns, String),
    b: (&'a Netns, String),
    queues: u32,
    mtu: u32,
    macs: Option<(Mac, Mac)>,
    offloads: bool,
}

impl<'a> Veth<'a> {
    /// Describes the pair `a.0:a.1` — `b.0:b.1`: one queue, MTU 1500.
    pub fn new(a: (&'a Netns, &str), b: (&'a Netns, &str)) -> Veth<'a> {
        Veth {
            a: (a.0, a.1.to_owned()),
            b: (b.0, b.1.to_owned()),
            queues: 1,
            mtu: 1500,
            macs: None,
            offloads: false,
        }
    }

    /// Queues in each direction.
    pub fn queues(mut self, n: u32) -> Self {
        self.queues = n;
        self
    }

    /// MTU of both ends.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Chosen MAC addresses of the two ends.
    pub fn macs(mut self, a: Mac, b: Mac) -> Self {
        self.macs = Some((a, b));
        self
    }

    /// Leaves checksum and segmentation offloads on.
    pub fn with_offloads(mut self) -> Self {
        self.offloads = true;
        self
    }

    /// Makes it.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[track_caller]
    pub fn up(self) {
        let (q, mtu) = (self.queues, self.mtu);
        let mac = |m: Option<Mac>| m.map(|m| format!(" address {m}")).unwrap_or_default();
        let end = |(ns, dev): &(&Netns, String), m: Option<Mac>| {
            format!(
                "{dev} netns {} numtxqueues {q} numrxqueues {q} mtu {mtu}{}",
                ns.name(),
                mac(m)
            )
        };
        let (ma, mb) = (self.macs.map(|m| m.0), self.macs.map(|m| m.1));
        cmd::command(&format!(
            "ip link add {} type veth peer name {}",
            end(&self.a, ma),
            end(&self.b, mb)
        ))
        .ok();
        for (ns, dev) in [&self.a, &self.b] {
            if !self.offloads {
                ns.offloads_off(dev);
            }
            ns.run(&format!("ip link set dev {dev} up"));
        }
    }
}
